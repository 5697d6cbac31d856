//! A mesh of several nodes on one machine, with made-up distances between them.

pub mod nodes;
pub mod relay;
