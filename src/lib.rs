//! Quorate: a peer-to-peer language model. Start with `ARCHITECTURE.md` beside this file.
//! Modules in reading order.

// What clients speak to.
pub mod api;
pub mod wire;
pub mod wish;

pub mod driver;
pub mod expert;
pub mod grammar;
pub mod store;

pub mod config;
pub mod error;
pub mod home;
pub mod identity;
pub mod obs;
