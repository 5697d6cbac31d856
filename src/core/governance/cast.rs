//! For tests and the simulator: people who sign, and witnesses who look at their clocks. The only
//! place in the core with private keys, and they are a number repeated 32 times.

use super::codec::Author;
use super::*;
use crate::config::{Key, MeshConfig, Patch, Set};
use crate::ids::NetworkId;
use ed25519_dalek::{Signer, SigningKey};

pub(super) const DAY_S: u64 = 86_400;
/// When the tests begin.
pub(super) const START_S: u64 = 1_800_000_000;

pub(super) fn secret(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(super) fn public(n: u8) -> Author {
    secret(n).verifying_key().to_bytes()
}

pub(super) fn sorted(list: impl IntoIterator<Item = u8>) -> Vec<Author> {
    let mut keys: Vec<Author> = list.into_iter().map(public).collect();
    keys.sort_unstable();
    keys
}

/// Witness `n` of a mesh has this key number.
pub(super) const WITNESS: u8 = 100;

pub(super) fn members(people: &[u8], witnesses: u8) -> Members {
    Members {
        participants: sorted(people.iter().copied()),
        witnesses: sorted((0..witnesses).map(|n| WITNESS + n)),
        witness_threshold: if witnesses == 0 { 0 } else { witnesses / 2 + 1 },
    }
}

/// A participant with a key on a stick: knows his feed's end.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) n: u8,
    pub(super) network: NetworkId,
    pub(super) seq: u64,
    pub(super) prev: EntryId,
    pub(super) time_s: u64,
}

impl Person {
    pub(super) fn new(n: u8, network: NetworkId) -> Person {
        Person {
            n,
            network,
            seq: 0,
            prev: EntryId::NONE,
            time_s: START_S,
        }
    }

    pub(super) fn draft(&self, epoch: u32, body: Body) -> Draft {
        Draft {
            network: self.network,
            epoch,
            author: public(self.n),
            seq: self.seq,
            prev: self.prev,
            refs: vec![],
            advisory_time: self.time_s,
            body,
        }
    }

    pub(super) fn sign_draft(&mut self, draft: &Draft) -> Entry {
        let entry = draft
            .signed(secret(self.n).sign(&draft.bytes()).to_bytes())
            .expect("made-up people say what can be said");
        (self.seq, self.prev) = (draft.seq + 1, entry.id());
        entry
    }

    pub(super) fn sign(&mut self, epoch: u32, body: Body) -> Entry {
        let draft = self.draft(epoch, body);
        self.sign_draft(&draft)
    }

    pub(super) fn propose(&mut self, proposal: &Proposal) -> Entry {
        self.sign(proposal.epoch, Body::Propose(proposal.clone()))
    }

    pub(super) fn vote(&mut self, proposal: &Proposal) -> Entry {
        let ballot = Ballot::of(proposal, self.network);
        self.sign(
            proposal.epoch,
            Body::Vote {
                choice: Choice::Yes,
                ballot,
            },
        )
    }

    pub(super) fn halt(&self, nonce: u128, reason: &str) -> Halt {
        let mut halt = Halt {
            network: self.network,
            author: public(self.n),
            nonce,
            reason: reason.into(),
            advisory_time: self.time_s,
            signature: [0; 64],
        };
        halt.signature = secret(self.n).sign(&halt.body()).to_bytes();
        halt
    }

    pub(super) fn head(&self) -> Option<Head> {
        let seq = self.seq.checked_sub(1)?;
        Some(Head {
            author: public(self.n),
            seq,
            entry: self.prev,
        })
    }
}

pub(super) fn cosign(seen: Seen, times: &[(u8, u64)]) -> Checkpoint {
    let sign = |&(n, time_s): &(u8, u64)| {
        let witness = public(n);
        let signature = secret(n).sign(&seen.attested(&witness, time_s)).to_bytes();
        Cosignature {
            witness,
            time_s,
            signature,
        }
    };
    let cosignatures = times.iter().map(sign).collect();
    let cosigned = seen.clone().cosigned(cosignatures);
    cosigned.expect("made-up witnesses see what can be seen")
}

/// The next proposal on the tip.
pub(super) fn on_tip(standing: &Standing, consent: Consent, act: Act) -> Proposal {
    let tip = standing.tip();
    Proposal {
        height: tip.height + 1,
        parent: tip.link,
        round: 0,
        epoch: standing.electorate().epoch,
        phase: standing.phase(),
        consent,
        expiry: START_S,
        origin: Origin::People,
        config: standing.snapshot().config.hash(),
        act,
    }
}

pub(super) fn set(config: &MeshConfig, key: Key, value: u32) -> Act {
    let expect_old = config.get(key);
    Act::Patch(
        Patch::new(vec![Set {
            key,
            value,
            expect_old,
        }])
        .expect("a made-up patch changes something"),
    )
}

/// SplitMix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}
