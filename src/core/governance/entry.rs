//! One signed step of a participant's feed: canonical bytes and their strict, total decoder.

use super::act::{LinkId, Proposal};
use super::codec::{Author, Malformed, Reader, Writer, hash, is_signed};
use super::phase::Phase;
use crate::ids::NetworkId;
use crate::limits::{CAUSAL_REFS_MAX, FEED_ENTRIES_MAX, PROPOSAL_S_MAX, RECORD_BYTES_MAX};
use std::fmt;

pub(super) const TAG: &[u8] = b"quorate entry v1\0";

/// Hash of an entry's signed bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId(pub [u8; 32]);

impl EntryId {
    /// What the first entry of a feed stands behind.
    pub const NONE: EntryId = EntryId([0; 32]);
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// For people: it stops nothing that a threshold of others says yes to.
    No,
    Yes,
}

/// A place in the chain, and one proposal for it. All of it is in the proposal's hash as well; it
/// stands here so that two votes alone prove that their author voted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    pub height: u64,
    pub round: u32,
    pub parent: LinkId,
    pub proposal: LinkId,
}

impl Ballot {
    pub fn of(proposal: &Proposal, network: NetworkId) -> Ballot {
        Ballot {
            height: proposal.height,
            round: proposal.round,
            parent: proposal.parent,
            proposal: proposal.id(network),
        }
    }

    pub(super) fn place(&self) -> (u64, u32, LinkId) {
        (self.height, self.round, self.parent)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Propose(Proposal),
    Vote {
        choice: Choice,
        ballot: Ballot,
    },
    /// Back to this phase at once: one participant's right.
    Lower(Phase),
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub network: NetworkId,
    pub epoch: u32,
    pub author: Author,
    pub seq: u64,
    pub prev: EntryId,
    /// Entries of others that this one builds on: it counts only where they are known. Sorted.
    pub refs: Vec<EntryId>,
    /// Seconds since 1970 by the author's clock. Only bounds the expiry of a proposal.
    pub advisory_time: u64,
    pub body: Body,
}

/// A draft with a signature that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    id: EntryId,
    draft: Draft,
    signature: [u8; 64],
}

impl Draft {
    /// What the author's key signs, wherever that key is.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG)
            .raw(&self.network.0)
            .u32(self.epoch)
            .raw(&self.author)
            .u64(self.seq)
            .raw(&self.prev.0)
            .list(self.refs.iter().map(|id| &id.0))
            .u64(self.advisory_time);
        match &self.body {
            Body::Propose(proposal) => proposal.write(out.u8(1)),
            Body::Vote { choice, ballot } => {
                out.u8(2)
                    .u8(*choice as u8)
                    .u64(ballot.height)
                    .u32(ballot.round)
                    .raw(&ballot.parent.0)
                    .raw(&ballot.proposal.0);
            }
            Body::Lower(to) => {
                out.u8(3).u8(to.code());
            }
        }
        out.0
    }

    /// The entry, if the signature and everything else hold.
    pub fn signed(&self, signature: [u8; 64]) -> Result<Entry, Malformed> {
        let mut bytes = self.bytes();
        bytes.extend_from_slice(&signature);
        Entry::decode(&bytes)
    }
}

impl Entry {
    pub fn id(&self) -> EntryId {
        self.id
    }

    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.draft.bytes();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Total: any bytes give a verified entry or a reason. The received bytes are what is hashed and
    /// verified; a second spelling of the same entry is refused.
    pub fn decode(bytes: &[u8]) -> Result<Entry, Malformed> {
        let mut read = Reader::open(bytes, RECORD_BYTES_MAX, TAG)?;
        let draft = Draft {
            network: NetworkId(read.array()?),
            epoch: read.u32()?,
            author: read.array()?,
            seq: read.u64()?,
            prev: EntryId(read.array()?),
            refs: read
                .list(CAUSAL_REFS_MAX, "the refs")?
                .into_iter()
                .map(EntryId)
                .collect(),
            advisory_time: read.u64()?,
            body: read_body(&mut read)?,
        };
        let signature = read.array()?;
        read.end()?;
        check(&draft)?;
        let signed = &bytes[..bytes.len() - 64];
        if draft.bytes() != signed {
            return Err(Malformed::NotCanonical);
        }
        if !is_signed(&draft.author, signed, &signature) {
            return Err(Malformed::Signature);
        }
        let id = EntryId(hash("quorate 2026 entry", signed));
        Ok(Entry {
            id,
            draft,
            signature,
        })
    }
}

fn read_body(read: &mut Reader) -> Result<Body, Malformed> {
    match read.u8()? {
        1 => Proposal::read(read).map(Body::Propose),
        2 => {
            let choice = match read.u8()? {
                0 => Choice::No,
                1 => Choice::Yes,
                _ => return Err(Malformed::Range("the choice")),
            };
            let ballot = Ballot {
                height: read.u64()?,
                round: read.u32()?,
                parent: LinkId(read.array()?),
                proposal: LinkId(read.array()?),
            };
            Ok(Body::Vote { choice, ballot })
        }
        3 => match Phase::from_code(read.u8()?)? {
            Phase::Major => Err(Malformed::Range("the phase")),
            to => Ok(Body::Lower(to)),
        },
        _ => Err(Malformed::Range("the kind")),
    }
}

/// What can be said about an entry by itself.
fn check(draft: &Draft) -> Result<(), Malformed> {
    if draft.seq >= FEED_ENTRIES_MAX || (draft.seq == 0) != (draft.prev == EntryId::NONE) {
        return Err(Malformed::Range("the place in the feed"));
    }
    if let Body::Propose(proposal) = &draft.body {
        if proposal.epoch != draft.epoch {
            return Err(Malformed::Range("the epoch"));
        }
        if proposal.expiry > draft.advisory_time.saturating_add(PROPOSAL_S_MAX) {
            return Err(Malformed::Range("the expiry"));
        }
    }
    Ok(())
}
