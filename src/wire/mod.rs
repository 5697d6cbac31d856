//! The protobuf forms of things, and the only code that sees them. Conversions are total: whatever a
//! peer sends becomes a checked type or a named fault, never a panic.

mod from_proto;
pub mod plane;
mod to_proto;

pub use from_proto::asked;
pub use to_proto::{change, finished, guesses, known_expert, ready, reasons, token};

/// Generated from proto/quorate/v1.
#[allow(unreachable_pub, clippy::large_futures, clippy::needless_pass_by_value)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");

    /// The schema itself, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/quorate.v1.fds"));
}
