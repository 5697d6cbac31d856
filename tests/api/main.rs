//! The API as clients see it: the real listener and the real loop over stub experts, exercised by
//! async-openai (a client that we did not write), by tonic's generated client and by bare sockets.
#![allow(
    clippy::unwrap_used,
    reason = "what unwraps nothing here has failed its test"
)]

mod crowd;
mod faults;
mod govern;
mod grpc;
mod guard;
mod limits;
mod mesh;
mod openai;
mod pages;
mod server;
