//! What a careful signer keeps beside a vote key. It makes no signature: it says what may be signed,
//! so that no file that somebody hands over ever makes its owner a liar.

use super::act::LinkId;
use super::codec::{Author, Malformed, Reader, Writer, hash};
use super::entry::{Ballot, Body, Choice, Draft, Entry, EntryId};
use super::request::{Request, Wish};
use crate::ids::NetworkId;
use crate::limits::{FEED_ENTRIES_MAX, SIGNER_MESHES_MAX};

const TAG: &[u8] = b"quorate signer v1\0";
const MESH_BYTES: usize = 32 + 8 + 32 + 1 + 8 + 4 + 32 + 32;

/// One mesh, as this key has spoken in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub network: NetworkId,
    /// The number of the next entry.
    pub seq: u64,
    /// The last entry.
    pub head: EntryId,
    /// The last yes.
    pub yes: Option<Ballot>,
}

/// All that one key has said, in every mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    meshes: Vec<Spoken>,
}

/// Why something is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WontSign {
    #[error(
        "this key has voted for another proposal at height {height}, round {round}: a second yes there would prove it a liar"
    )]
    Forks { height: u64, round: u32 },
    #[error("this key has said all that a feed may hold")]
    Full,
    #[error("this key has spoken in {SIGNER_MESHES_MAX} meshes, and remembers no more")]
    Meshes,
    #[error("the entry does not follow the last one that this key signed")]
    NotNext,
}

impl Memory {
    pub fn of(&self, network: NetworkId) -> Spoken {
        let found = self.meshes.iter().find(|m| m.network == network);
        found.cloned().unwrap_or(Spoken {
            network,
            seq: 0,
            head: EntryId::NONE,
            yes: None,
        })
    }

    /// The bodies that answer a request: two where somebody proposes.
    pub fn bodies(&self, request: &Request) -> Result<Vec<Body>, WontSign> {
        let network = request.network;
        let vote = |choice, proposal| Body::Vote {
            choice,
            ballot: Ballot::of(proposal, network),
        };
        let bodies = match &request.wish {
            Wish::Halt { .. } | Wish::Revoke(_) => vec![],
            Wish::Propose(proposal) => {
                vec![Body::Propose(proposal.clone()), vote(Choice::Yes, proposal)]
            }
            Wish::Vote { choice, proposal } => vec![vote(*choice, proposal)],
            Wish::Lower(to) => vec![Body::Lower(*to)],
        };
        // All or nothing: a proposal whose author then must not vote for it helps nobody.
        let spoken = self.of(network);
        bodies.iter().try_for_each(|body| spoken.allows(body))?;
        if spoken.seq + bodies.len() as u64 > FEED_ENTRIES_MAX {
            return Err(WontSign::Full);
        }
        let knows = self.meshes.iter().any(|m| m.network == network);
        if !bodies.is_empty() && !knows && self.meshes.len() >= SIGNER_MESHES_MAX {
            return Err(WontSign::Meshes);
        }
        Ok(bodies)
    }

    /// The next entry of this key.
    pub fn draft(&self, author: Author, request: &Request, body: Body, now_s: u64) -> Draft {
        let Spoken { seq, head, .. } = self.of(request.network);
        Draft {
            network: request.network,
            epoch: request.epoch,
            author,
            seq,
            prev: head,
            refs: request.refs.clone(),
            advisory_time: now_s,
            body,
        }
    }

    /// The memory after an entry. It must be on disk before the entry leaves.
    pub fn after(&self, entry: &Entry) -> Result<Memory, WontSign> {
        let draft = entry.draft();
        let before = self.of(draft.network);
        if (draft.seq, draft.prev) != (before.seq, before.head) {
            return Err(WontSign::NotNext);
        }
        before.allows(&draft.body)?;
        let yes = match &draft.body {
            Body::Vote {
                choice: Choice::Yes,
                ballot,
            } => Some(*ballot),
            _ => before.yes,
        };
        let spoken = Spoken {
            network: draft.network,
            seq: draft.seq + 1,
            head: entry.id(),
            yes,
        };
        let others = self.meshes.iter().filter(|m| m.network != draft.network);
        let mut meshes: Vec<Spoken> = others.cloned().chain([spoken]).collect();
        if meshes.len() > SIGNER_MESHES_MAX {
            return Err(WontSign::Meshes);
        }
        meshes.sort_by_key(|m| m.network);
        Ok(Memory { meshes })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(64 + self.meshes.len() * MESH_BYTES));
        out.raw(TAG).u8(self.meshes.len() as u8);
        for mesh in &self.meshes {
            out.raw(&mesh.network.0).u64(mesh.seq).raw(&mesh.head.0);
            out.u8(u8::from(mesh.yes.is_some()));
            if let Some(yes) = &mesh.yes {
                out.u64(yes.height).u32(yes.round);
                out.raw(&yes.parent.0).raw(&yes.proposal.0);
            }
        }
        let sum = hash("quorate 2026 signer", &out.0);
        out.raw(&sum);
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Memory, Malformed> {
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(Malformed::Short)?;
        if hash("quorate 2026 signer", body) != *sum {
            return Err(Malformed::NotCanonical);
        }
        let max = TAG.len() + 1 + SIGNER_MESHES_MAX * MESH_BYTES;
        let mut read = Reader::open(body, max, TAG)?;
        let n = usize::from(read.u8()?);
        if n > SIGNER_MESHES_MAX {
            return Err(Malformed::Range("the meshes"));
        }
        let mut meshes = Vec::with_capacity(n);
        for _ in 0..n {
            meshes.push(Spoken {
                network: NetworkId(read.array()?),
                seq: read.u64()?,
                head: EntryId(read.array()?),
                yes: match read.u8()? {
                    0 => None,
                    1 => Some(Ballot {
                        height: read.u64()?,
                        round: read.u32()?,
                        parent: LinkId(read.array()?),
                        proposal: LinkId(read.array()?),
                    }),
                    _ => return Err(Malformed::Range("the last vote")),
                },
            });
        }
        read.end()?;
        Ok(Memory { meshes })
    }
}

impl Spoken {
    /// The same rule by which others find a liar: a yes goes on, or repeats itself.
    fn allows(&self, body: &Body) -> Result<(), WontSign> {
        let Body::Vote {
            choice: Choice::Yes,
            ballot,
        } = body
        else {
            return Ok(());
        };
        match &self.yes {
            Some(last)
                if last != ballot && (ballot.height, ballot.round) <= (last.height, last.round) =>
            {
                Err(WontSign::Forks {
                    height: last.height,
                    round: last.round,
                })
            }
            _ => Ok(()),
        }
    }
}
