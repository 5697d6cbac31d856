//! One session between a router and an expert on another machine, as bytes: `core::opinion` to
//! frames and back. The stream is the session, so only its reader knows the session's name.

mod from_proto;
mod pack;
#[cfg(test)]
mod tests;
mod to_proto;

pub use from_proto::{answer, opening, question};
pub use to_proto::{event_frame, op_frame, open_frame};

use quorate_core::ids::{ExpertId, NetworkId};
use quorate_core::opinion::{BadList, Open};

/// Generated from proto/quorate/v1/plane.proto.
#[allow(unreachable_pub, clippy::large_futures)]
mod v1 {
    tonic::include_proto!("quorate.v1.plane");
}

/// What both sides must speak.
pub const VERSION: u32 = 1;
/// Bytes before a frame that say how long it is, big-endian.
pub const LENGTH_BYTES: usize = 4;

/// Who asks in whose name: the part of an `Open` that is the same for all sessions of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letterhead {
    pub network: NetworkId,
    /// Hash of the mesh config that the router reads.
    pub config: [u8; 32],
    /// What governance has come to at the router, opaque here.
    pub governance_head: Vec<u8>,
    /// The router knows of a halt.
    pub halted: bool,
    pub purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A person waits for it.
    User,
    /// The mesh works on itself.
    Autonomous,
}

/// A first frame.
#[derive(Clone, Debug)]
pub struct Opening {
    pub letterhead: Letterhead,
    pub expert: ExpertId,
    pub open: Open,
}

/// What another machine may not send.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadFrame {
    #[error("not a message of the token plane: {0}")]
    Garbled(String),
    #[error("version {0} of the token plane, and this node speaks {VERSION}")]
    Version(u32),
    #[error("{0} is missing or unknown")]
    Missing(&'static str),
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("{what}: more than {max}")]
    TooMany { what: &'static str, max: usize },
    #[error("a list with {0}")]
    List(#[from] BadList),
}

impl From<prost::DecodeError> for BadFrame {
    fn from(error: prost::DecodeError) -> BadFrame {
        BadFrame::Garbled(error.to_string())
    }
}

/// What this machine may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotSay {
    #[error("{what} of {bytes} bytes, and {max} may cross the network")]
    TooLarge {
        what: &'static str,
        bytes: usize,
        max: usize,
    },
    #[error("a list that is not sorted")]
    Unsorted,
}
