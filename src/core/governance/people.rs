//! For tests: people who sign, witnesses who look at their clocks, and a mesh of them. The only
//! place in the core with private keys.

pub(super) use super::codec::Author;
pub(super) use super::*;
pub(super) use crate::config::{Key, MeshConfig, Patch, Set};
pub(super) use crate::ids::NetworkId;
pub(super) use ed25519_dalek::{Signer, SigningKey};

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
            .unwrap();
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
    seen.clone().cosigned(cosignatures).unwrap()
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
        .unwrap(),
    )
}

/// People, witnesses and everything that they have said.
pub(super) struct World {
    pub(super) genesis: Genesis,
    pub(super) people: Vec<Person>,
    pub(super) witnesses: u8,
    pub(super) records: Records,
    pub(super) now_s: u64,
}

impl World {
    /// Persons 1 to n, and witnesses.
    pub(super) fn new(n: u8, witnesses: u8) -> World {
        World::with(n, witnesses, |_| {})
    }

    pub(super) fn with(n: u8, witnesses: u8, change: impl FnOnce(&mut Terms)) -> World {
        let mut terms = Terms::of(Preset::Lab, vec![], MeshConfig::default());
        terms.members = members(&(1..=n).collect::<Vec<_>>(), witnesses);
        change(&mut terms);
        let genesis = terms.found().unwrap();
        let network = genesis.network_id();
        World {
            people: (1..=n).map(|n| Person::new(n, network)).collect(),
            genesis,
            witnesses,
            records: Records::default(),
            now_s: START_S,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        fold(&self.genesis, &self.records)
    }

    pub(super) fn say(&mut self, entry: Entry) {
        assert!(self.records.insert(Record::Entry(entry)));
    }

    pub(super) fn halt(&mut self, by: usize, nonce: u128) -> HaltId {
        let halt = self.people[by].halt(nonce, "smoke");
        let id = halt.id();
        assert!(self.records.insert(Record::Halt(halt)));
        id
    }

    pub(super) fn seen(&self) -> Seen {
        let standing = self.standing();
        let mut heads: Vec<Head> = self.people.iter().filter_map(Person::head).collect();
        heads.sort();
        Seen {
            network: self.genesis.network_id(),
            epoch: standing.electorate().epoch,
            halted: standing.is_halted(),
            heads,
        }
    }

    /// All witnesses look at all feeds, `later_s` after the last time.
    pub(super) fn look(&mut self, later_s: u64) {
        self.now_s += later_s;
        let times: Vec<(u8, u64)> = (0..self.witnesses)
            .map(|n| (WITNESS + n, self.now_s))
            .collect();
        let checkpoint = cosign(self.seen(), &times);
        self.records.insert(Record::Checkpoint(checkpoint));
    }

    pub(super) fn proposal(&self, consent: Consent, act: Act) -> Proposal {
        let expiry = self.now_s + 2 * DAY_S;
        Proposal {
            expiry,
            ..on_tip(&self.standing(), consent, act)
        }
    }

    pub(super) fn set(&self, key: Key, value: u32) -> Act {
        set(&self.standing().snapshot().config, key, value)
    }

    /// Proposed by the first voter.
    pub(super) fn vote(&mut self, proposal: &Proposal, voters: &[usize]) {
        let now_s = self.now_s;
        self.people.iter_mut().for_each(|p| p.time_s = now_s);
        let proposed = self.people[voters[0]].propose(proposal);
        self.say(proposed);
        for voter in voters {
            let vote = self.people[*voter].vote(proposal);
            self.say(vote);
        }
    }

    /// Is it the tip after these votes, and a look of the witnesses a minute later?
    pub(super) fn passes(&mut self, proposal: &Proposal, voters: &[usize]) -> bool {
        self.vote(proposal, voters);
        if self.witnesses > 0 {
            self.look(60);
        }
        self.is_tip(proposal)
    }

    pub(super) fn is_tip(&self, proposal: &Proposal) -> bool {
        self.standing().tip().link == proposal.id(self.genesis.network_id())
    }

    pub(super) fn resume(&self, lifts: &[HaltId], suspends: &[u8]) -> Proposal {
        let mut lifts: Vec<[u8; 32]> = lifts.iter().map(|id| id.0).collect();
        lifts.sort_unstable();
        let restart = self.standing().snapshot().config.hash();
        let suspends = sorted(suspends.iter().copied());
        self.proposal(
            Consent::Resume,
            Act::Resume {
                restart,
                lifts,
                suspends,
            },
        )
    }

    pub(super) fn shuffled(&self, seed: u64) -> Vec<Record> {
        let mut all: Vec<Record> = self.records.iter().collect();
        let mut dice = Dice(seed);
        for at in (1..all.len()).rev() {
            all.swap(at, dice.below(at as u64 + 1) as usize);
        }
        all
    }
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

/// Property cases: few by default, `QUORATE_CASES=10000` for the long run. Read at build time, since
/// the core has no environment.
pub(super) fn cases(default: u32) -> proptest::prelude::ProptestConfig {
    let asked = option_env!("QUORATE_CASES").and_then(|n| n.parse().ok());
    proptest::prelude::ProptestConfig::with_cases(asked.unwrap_or(default))
}
