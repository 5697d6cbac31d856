//! For tests: a mesh of people and witnesses, and everything that they have said.

pub(super) use super::codec::Author;
pub(super) use super::*;
pub(super) use crate::config::{Key, MeshConfig, Patch, Set};
pub(super) use crate::ids::NetworkId;
pub(super) use crate::sim::people::*;
pub(super) use ed25519_dalek::Signer;

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

/// Property cases: few by default, `QUORATE_CASES=10000` for the long run. Read at build time, since
/// the core has no environment.
pub(super) fn cases(default: u32) -> proptest::prelude::ProptestConfig {
    let asked = option_env!("QUORATE_CASES").and_then(|n| n.parse().ok());
    proptest::prelude::ProptestConfig::with_cases(asked.unwrap_or(default))
}
