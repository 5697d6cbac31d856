//! What people vote on: one change of the governed state, bound to the place where it applies.

use super::codec::{Author, Malformed, Reader, Writer, hash};
use super::entry::EntryId;
use super::membership::Members;
use super::phase::Phase;
use super::votes::Consent;
use crate::config::{Key, Patch, SCHEMA, Set};
use crate::ids::NetworkId;
use crate::limits::{LIFTS_MAX, PARTICIPANTS_MAX};
use std::fmt;

/// Hash of a proposal; once certified, the name of a link of the chain. The first link is the genesis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub [u8; 32]);

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Who had the idea. Phases gate what streams may bring; people may bring anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    People,
    Stream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Patch(Patch),
    /// One phase up. Names the exit criteria of the genesis and the evidence, and the last entry of
    /// each participant that lowered the phase.
    Raise {
        to: Phase,
        criteria: [u8; 32],
        evidence: [u8; 32],
        lifts: Vec<EntryId>,
    },
    Membership(Members),
    /// Ends exactly these halts and conflicts, and says with which config the mesh runs again.
    Resume {
        restart: [u8; 32],
        lifts: Vec<[u8; 32]>,
        suspends: Vec<Author>,
    },
    /// No revert goes below this version.
    MinSafe(u64),
}

/// Everything that a vote binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub height: u64,
    pub parent: LinkId,
    /// A second try at the same height has a higher one.
    pub round: u32,
    pub epoch: u32,
    /// The phase that the proposer sees.
    pub phase: Phase,
    pub consent: Consent,
    /// Seconds since 1970 by the witnesses.
    pub expiry: u64,
    pub origin: Origin,
    /// Hash of the parent's config.
    pub config: [u8; 32],
    pub act: Act,
}

impl Proposal {
    pub fn id(&self, network: NetworkId) -> LinkId {
        let mut out = Writer::default();
        out.raw(&network.0);
        self.write(&mut out);
        LinkId(hash("quorate 2026 proposal", &out.0))
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u64(self.height)
            .raw(&self.parent.0)
            .u32(self.round)
            .u32(self.epoch)
            .u8(self.phase.code())
            .u8(self.consent.code())
            .u64(self.expiry)
            .u8(self.origin as u8)
            .raw(&self.config);
        match &self.act {
            Act::Patch(patch) => {
                out.u8(1).u8(patch.ops().len() as u8);
                for op in patch.ops() {
                    out.u16(op.key.code()).u32(op.value).u32(op.expect_old);
                }
            }
            Act::Raise {
                to,
                criteria,
                evidence,
                lifts,
            } => {
                out.u8(2).u8(to.code()).raw(criteria).raw(evidence);
                out.list(lifts.iter().map(|id| &id.0));
            }
            Act::Membership(members) => members.write(out.u8(3)),
            Act::Resume {
                restart,
                lifts,
                suspends,
            } => {
                out.u8(4)
                    .raw(restart)
                    .list(lifts.iter())
                    .list(suspends.iter());
            }
            Act::MinSafe(version) => {
                out.u8(5).u64(*version);
            }
        }
    }

    pub(super) fn read(read: &mut Reader) -> Result<Proposal, Malformed> {
        let proposal = Proposal {
            height: read.u64()?,
            parent: LinkId(read.array()?),
            round: read.u32()?,
            epoch: read.u32()?,
            phase: Phase::from_code(read.u8()?)?,
            consent: Consent::from_code(read.u8()?)?,
            expiry: read.u64()?,
            origin: match read.u8()? {
                0 => Origin::People,
                1 => Origin::Stream,
                _ => return Err(Malformed::Range("the origin")),
            },
            config: read.array()?,
            act: read_act(read)?,
        };
        if proposal.height == 0 {
            return Err(Malformed::Range("the height"));
        }
        Ok(proposal)
    }
}

fn read_act(read: &mut Reader) -> Result<Act, Malformed> {
    match read.u8()? {
        1 => read_patch(read).map(Act::Patch),
        2 => Ok(Act::Raise {
            to: Phase::from_code(read.u8()?)?,
            criteria: read.array()?,
            evidence: read.array()?,
            lifts: read
                .list(PARTICIPANTS_MAX, "the lifts")?
                .into_iter()
                .map(EntryId)
                .collect(),
        }),
        3 => Members::read(read).map(Act::Membership),
        4 => Ok(Act::Resume {
            restart: read.array()?,
            lifts: read.list(LIFTS_MAX, "the lifts")?,
            suspends: read.list(PARTICIPANTS_MAX, "the suspended keys")?,
        }),
        5 => read.u64().map(Act::MinSafe),
        _ => Err(Malformed::Range("the act")),
    }
}

fn read_patch(read: &mut Reader) -> Result<Patch, Malformed> {
    let n = usize::from(read.u8()?);
    if n > SCHEMA.len() {
        return Err(Malformed::Range("the operations"));
    }
    let mut ops = Vec::with_capacity(n);
    for _ in 0..n {
        ops.push(Set {
            key: Key::from_code(read.u16()?).ok_or(Malformed::Range("a key"))?,
            value: read.u32()?,
            expect_old: read.u32()?,
        });
    }
    // An order that is not the keys' is caught when the entry is spelt again.
    Patch::new(ops).map_err(|_| Malformed::Range("the patch"))
}
