//! `quorate testnet`: the made-up distances between its nodes.

mod relay;
