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
pub mod alarm;
pub mod audit;
pub mod law;
pub mod lead;
pub mod plain;

// One request, many requests, other people's requests, many models.
pub mod chat;
pub mod donor;
pub mod generate;
pub mod host;
pub mod mixture;
pub mod node;
pub mod pace;
pub mod plan;
pub mod record;
pub mod residency;
pub mod roster;
pub mod select;
pub mod team;
pub mod tempo;
pub mod text;
pub mod texts;
mod turns;
pub mod weights;

// What lies between machines, where it is made up.
pub mod link;

// Who may do what.
pub mod config;
pub mod governance;

// Who is there, who belongs, where they are.
pub mod mesh;

// All of it at once, in made-up time.
#[cfg(any(test, feature = "sim"))]
pub mod sim;
