//! What a person is asked to sign, in a file that may be carried to a machine without a network.
//! It holds everything that the vote binds, so the signer sees it, and nothing that only the keeper
//! of the key knows.

use super::act::Proposal;
use super::admission::{AdmissionId, Target};
use super::codec::{Malformed, Reader, Writer};
use super::entry::{Choice, EntryId};
use super::phase::Phase;
use crate::ids::NetworkId;
use crate::limits::{CAUSAL_REFS_MAX, HALT_REASON_BYTES_MAX, RECORD_BYTES_MAX};

const TAG: &[u8] = b"quorate request v1\0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub network: NetworkId,
    pub epoch: u32,
    /// Entries that this one builds on.
    pub refs: Vec<EntryId>,
    pub wish: Wish,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Halt {
        reason: String,
    },
    /// Who proposes says yes.
    Propose(Proposal),
    Vote {
        choice: Choice,
        proposal: Proposal,
    },
    Lower(Phase),
    Revoke(Target),
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).raw(&self.network.0).u32(self.epoch);
        out.list(self.refs.iter().map(|id| &id.0));
        match &self.wish {
            Wish::Halt { reason } => {
                out.u8(1).text(reason);
            }
            Wish::Propose(proposal) => proposal.write(out.u8(2)),
            Wish::Vote { choice, proposal } => proposal.write(out.u8(3).u8(*choice as u8)),
            Wish::Lower(to) => {
                out.u8(4).u8(to.code());
            }
            Wish::Revoke(Target::Link(id)) => {
                out.u8(5).raw(&id.0);
            }
            Wish::Revoke(Target::Node(key)) => {
                out.u8(6).raw(key);
            }
        }
        out.0
    }

    /// Total. Nobody has signed this: it is a wish, and the signer reads it.
    pub fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let mut read = Reader::open(bytes, RECORD_BYTES_MAX, TAG)?;
        let request = Request {
            network: NetworkId(read.array()?),
            epoch: read.u32()?,
            refs: read
                .list(CAUSAL_REFS_MAX, "the refs")?
                .into_iter()
                .map(EntryId)
                .collect(),
            wish: read_wish(&mut read)?,
        };
        read.end()?;
        if request.encode() == bytes {
            Ok(request)
        } else {
            Err(Malformed::NotCanonical)
        }
    }
}

fn read_wish(read: &mut Reader) -> Result<Wish, Malformed> {
    Ok(match read.u8()? {
        1 => Wish::Halt {
            reason: read.text(HALT_REASON_BYTES_MAX, "the reason")?,
        },
        2 => Wish::Propose(Proposal::read(read)?),
        3 => Wish::Vote {
            choice: match read.u8()? {
                0 => Choice::No,
                1 => Choice::Yes,
                _ => return Err(Malformed::Range("the choice")),
            },
            proposal: Proposal::read(read)?,
        },
        4 => Wish::Lower(Phase::from_code(read.u8()?)?),
        5 => Wish::Revoke(Target::Link(AdmissionId(read.array()?))),
        6 => Wish::Revoke(Target::Node(read.array()?)),
        _ => return Err(Malformed::Range("the kind")),
    })
}
