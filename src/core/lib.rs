//! The heart of Quorate: every decision the program makes, and nothing else.
//!
//! No sockets, no files, no clock, no OS randomness, no threads and no hash order: time and
//! randomness are arguments, state machines take a closed enum and fill an outbox. The whole crate
//! builds and tests in seconds, without llama.cpp. In reading order:

pub mod ids;
pub mod limits;

// What an expert says, and in which numbers.
pub mod distribution;
mod lanes;
pub mod lnp;
pub mod mask;
pub mod opinion;
pub mod seeded;
pub mod vocab;

// What the text obeys.
pub mod aggregate;
pub mod law;

// One request, many requests, many models.
pub mod chat;
pub mod generate;
pub mod node;
pub mod plan;
pub mod residency;
pub mod text;

// Who may do what.
pub mod config;
pub mod governance;

// Who is there, who belongs, where they are.
pub mod mesh;
