//! Quorate: a peer-to-peer language model. Start with `ARCHITECTURE.md` beside this file.
//! Modules in reading order.

// The parts.
pub mod driver;
pub mod expert;
pub mod grammar;
pub mod ledger;
pub mod mesh;
pub mod net;
pub mod node;
pub mod policy;
pub mod store;

// What people speak with.
pub mod sign;

// What clients speak to.
pub mod api;
pub mod wire;
pub mod wish;

// The ground that all stand on.
pub mod config;
pub mod error;
pub mod home;
pub mod identity;
pub mod obs;
pub mod openmp;
pub mod tls;

// Where everything is put together.
pub mod app;
#[cfg(feature = "llama")]
pub mod bench;
pub mod cli;
pub mod eval;
pub mod testnet;
