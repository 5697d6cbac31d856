//! `quorate testnet`: the made-up distances between its nodes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod relay;
