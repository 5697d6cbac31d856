//! Stop: a free-standing signed record, part of no chain, so it can never be a fork.

use super::codec::{Author, Malformed, Reader, Writer, is_signed};
use crate::ids::NetworkId;
use crate::limits::{HALT_BYTES_MAX, HALT_REASON_BYTES_MAX};

/// What is signed begins with these words: a signature for one purpose never serves another.
pub(super) const TAG: &[u8] = b"quorate halt v1\0";

/// "Stop, all of you": one participant's word, which anyone may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    pub network: NetworkId,
    pub author: Author,
    /// Tells two halts of one author apart, and keeps the id of a halt to come unknown.
    pub nonce: u128,
    pub reason: String,
    /// Seconds since 1970 by the author's clock: for people, never for decisions.
    pub advisory_time: u64,
    pub signature: [u8; 64],
}

/// Hash of a halt's body: what a resume has to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HaltId(pub [u8; 32]);

impl Halt {
    /// The bytes that are signed, and hashed for the id.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(128 + self.reason.len()));
        out.raw(TAG)
            .raw(&self.network.0)
            .raw(&self.author)
            .raw(&self.nonce.to_le_bytes())
            .u64(self.advisory_time)
            .text(&self.reason);
        out.0
    }

    pub fn id(&self) -> HaltId {
        HaltId(*blake3::hash(&self.body()).as_bytes())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Total: any bytes give a verified halt or a reason.
    pub fn decode(bytes: &[u8]) -> Result<Halt, Malformed> {
        let mut read = Reader::open(bytes, HALT_BYTES_MAX, TAG)?;
        let halt = Halt {
            network: NetworkId(read.array()?),
            author: read.array()?,
            nonce: read.u128()?,
            advisory_time: read.u64()?,
            reason: read.text(HALT_REASON_BYTES_MAX, "the reason")?,
            signature: read.array()?,
        };
        read.end()?;
        halt.verified()
    }

    pub(super) fn verified(self) -> Result<Halt, Malformed> {
        if self.reason.len() > HALT_REASON_BYTES_MAX {
            return Err(Malformed::Range("the reason"));
        }
        if is_signed(&self.author, &self.body(), &self.signature) {
            Ok(self)
        } else {
            Err(Malformed::Signature)
        }
    }
}
