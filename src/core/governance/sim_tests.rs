//! Several replicas, and a network that loses, repeats, reorders and splits. People sign what their
//! own node shows them; one key may be stolen, one witness may lie about the time.

use super::people::*;
use crate::limits::REVIEW_S;
use std::collections::{BTreeMap, BTreeSet};

const NODES: usize = 5;
const STEPS: u64 = 160;

/// What a careful signer keeps beside the key: the last place that he voted for.
struct Voter {
    person: Person,
    last: (u64, u32),
    said_yes: BTreeSet<LinkId>,
}

struct Sim {
    dice: Dice,
    genesis: Genesis,
    replicas: Vec<Replica>,
    voters: Vec<Voter>,
    /// By step and number, so that equal times keep an order.
    wire: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    sent: u64,
    step: u64,
    now_s: u64,
    /// Nodes of the one side, as bits.
    split: Option<u64>,
    loss: u64,
    has_thief: bool,
    liar: Option<u8>,
    all: Records,
    majors: BTreeMap<LinkId, u64>,
    trace: blake3::Hasher,
    /// Things that happened, so that a dull simulation is noticed.
    seen: BTreeMap<&'static str, u64>,
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut dice = Dice(seed);
        let n = 3 + dice.below(3) as u8;
        let mut terms = Terms::of(Preset::Lab, vec![], MeshConfig::default());
        terms.members = members(&(1..=n).collect::<Vec<_>>(), 3);
        terms.phase = Phase::Minor;
        let genesis = terms.found().unwrap();
        let voter = |n| Voter {
            person: Person::new(n, genesis.network_id()),
            last: (0, 0),
            said_yes: BTreeSet::new(),
        };
        Sim {
            replicas: vec![Replica::new(genesis.clone()); NODES],
            voters: (1..=n).map(voter).collect(),
            wire: BTreeMap::new(),
            sent: 0,
            step: 0,
            now_s: START_S,
            split: None,
            loss: dice.below(40),
            has_thief: dice.percent(30),
            liar: dice.percent(50).then_some(WITNESS),
            all: Records::default(),
            majors: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            seen: BTreeMap::new(),
            genesis,
            dice,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.split
            .is_some_and(|side| (side >> a) & 1 != (side >> b) & 1)
    }

    fn send(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if from == to || self.is_cut(from, to) || self.dice.percent(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.dice.percent(10));
        for _ in 0..copies {
            let at = self.step + 1 + self.dice.below(6);
            self.sent += 1;
            self.wire.insert((at, self.sent), (to, bytes.to_vec()));
        }
    }

    fn deliver(&mut self, node: usize, bytes: &[u8]) {
        let record = Record::decode(bytes).unwrap();
        let id = record.id();
        if self.replicas[node].insert(record) != Taken::New {
            return;
        }
        self.replicas[node].refold();
        self.trace
            .update(&self.step.to_le_bytes())
            .update(&[node as u8])
            .update(&id);
        self.trace.update(&self.replicas[node].standing().hash());
        self.check(node);
        for peer in 0..NODES {
            self.send(node, peer, bytes);
        }
    }

    fn say(&mut self, node: usize, record: Record) {
        self.all.insert(record.clone());
        self.deliver(node, &record.encode());
    }

    /// I1, I2, I6 and I9 at one node, after everything that it hears.
    fn check(&self, node: usize) {
        let replica = &self.replicas[node];
        let standing = replica.standing();
        let unresolved = replica.records().iter().any(|record| match record {
            Record::Halt(halt) => {
                let members = standing.electorate();
                members.is_active(&halt.author) && !standing.is_lifted(halt.id())
            }
            _ => false,
        });
        let rights = Rights::booting().under(standing.clone());
        assert!(
            !unresolved || rights.mesh().is_err(),
            "a known halt, and a permit"
        );
        assert_eq!(rights.mesh().is_ok(), !standing.is_halted());
        for snapshot in standing.snapshots() {
            if let Some(proposed_s) = self.majors.get(&snapshot.link) {
                assert!(self.now_s - proposed_s >= REVIEW_S, "an early major");
            }
        }
    }

    /// The voter's node shows something, and he acts on it.
    fn act(&mut self, who: usize) {
        let node = who % NODES;
        let standing = self.replicas[node].standing().clone();
        let skew = self.dice.below(1200);
        self.voters[who].person.time_s = self.now_s + skew - 600;
        match self.dice.below(20) {
            0 => {
                let nonce = u128::from(self.dice.next());
                let halt = self.voters[who].person.halt(nonce, "smoke");
                self.count("halts");
                self.say(node, Record::Halt(halt));
            }
            1 => {
                let epoch = standing.electorate().epoch;
                let to = [Phase::ReadOnly, Phase::Suggest][self.dice.below(2) as usize];
                let entry = self.voters[who].person.sign(epoch, Body::Lower(to));
                self.say(node, Record::Entry(entry));
            }
            2..8 => {
                let proposal = self.draw_proposal(who, &standing);
                let is_new_major = proposal.consent == Consent::Major;
                let id = proposal.id(self.genesis.network_id());
                if is_new_major {
                    self.majors.entry(id).or_insert(self.now_s);
                }
                let entry = self.voters[who].person.propose(&proposal);
                self.say(node, Record::Entry(entry));
                self.vote(who, &proposal);
            }
            _ => {
                // Under a halt people look at resumes first.
                let mut open: Vec<Proposal> = standing.open().iter().map(|o| o.1.clone()).collect();
                open.retain(|p| self.may_vote(who, p));
                open.sort_by_key(|p| (p.consent != Consent::Resume, p.round));
                if let Some(proposal) = open.first().cloned() {
                    self.vote(who, &proposal);
                }
            }
        }
    }

    fn draw_proposal(&mut self, who: usize, standing: &Standing) -> Proposal {
        let config = &standing.snapshot().config;
        let (consent, act) = if standing.is_halted() {
            let mut suspends: Vec<Author> = standing.faults().keys().copied().collect();
            suspends.retain(|key| standing.electorate().is_active(key));
            let lift = |cause: &Cause| match cause {
                Cause::Halt { id, .. } => Some(id.0),
                Cause::Conflict(id) => Some(*id),
                Cause::Flood(_) | Cause::Fault(_) => None,
            };
            let mut lifts: Vec<[u8; 32]> = standing.causes().filter_map(lift).collect();
            lifts.sort_unstable();
            let at = self.dice.below(standing.snapshots().len() as u64) as usize;
            let restart = standing.snapshots()[at].config.hash();
            (
                Consent::Resume,
                Act::Resume {
                    restart,
                    lifts,
                    suspends,
                },
            )
        } else if self.dice.percent(30) {
            let old = config.get(Key::ListEntriesMax);
            let value = if old == 256 { 250 } else { old + 1 };
            (Consent::Major, set(config, Key::ListEntriesMax, value))
        } else {
            let old = config.get(Key::ServingGatherUs);
            (
                Consent::Minor,
                set(config, Key::ServingGatherUs, old + 1 - 2 * (old % 2)),
            )
        };
        let mut proposal = on_tip(standing, consent, act);
        proposal.expiry = self.now_s + 3 * DAY_S;
        let last = self.voters[who].last;
        if last.0 == proposal.height {
            proposal.round = last.1 + 1;
        }
        proposal
    }

    fn may_vote(&self, who: usize, proposal: &Proposal) -> bool {
        let last = self.voters[who].last;
        (proposal.height, proposal.round) > last
            && proposal.height >= last.0
            && !self.voters[who]
                .said_yes
                .contains(&proposal.id(self.genesis.network_id()))
    }

    fn vote(&mut self, who: usize, proposal: &Proposal) {
        if !self.may_vote(who, proposal) {
            return;
        }
        let id = proposal.id(self.genesis.network_id());
        let voter = &mut self.voters[who];
        voter.last = (proposal.height, proposal.round);
        voter.said_yes.insert(id);
        let entry = voter.person.vote(proposal);
        self.say(who % NODES, Record::Entry(entry));
    }

    /// Two of three witnesses, at one node; the liar is ten days ahead or behind.
    fn look(&mut self) {
        let node = self.dice.below(NODES as u64) as usize;
        let mut heads: BTreeMap<Author, Head> = BTreeMap::new();
        for record in self.replicas[node].records().iter() {
            if let Record::Entry(entry) = record {
                let (author, seq) = (entry.draft().author, entry.draft().seq);
                let head = Head {
                    author,
                    seq,
                    entry: entry.id(),
                };
                let last = heads.entry(author).or_insert(head);
                *last = (*last).max(head);
            }
        }
        let standing = self.replicas[node].standing();
        let seen = Seen {
            network: self.genesis.network_id(),
            epoch: standing.electorate().epoch,
            halted: standing.is_halted(),
            heads: heads.into_values().collect(),
        };
        let first = self.dice.below(2) as u8;
        let mut times = Vec::new();
        for n in [first, first + 1] {
            let lies = self.liar == Some(WITNESS + n);
            let ahead = self.dice.percent(50);
            let offset = if !lies { 0 } else { 10 * DAY_S };
            let time = if ahead {
                self.now_s + offset
            } else {
                self.now_s - offset
            };
            times.push((WITNESS + n, time));
        }
        self.say(node, Record::Checkpoint(cosign(seen, &times)));
    }

    /// A stolen key signs a second history from the beginning.
    fn thieve(&mut self) {
        let mut thief = Person::new(1, self.genesis.network_id());
        thief.time_s += self.dice.below(DAY_S);
        let node = self.dice.below(NODES as u64) as usize;
        let open: Vec<Proposal> = self.replicas[node]
            .standing()
            .open()
            .iter()
            .map(|o| o.1.clone())
            .collect();
        for proposal in open.iter().take(2) {
            let entry = thief.vote(proposal);
            self.say(node, Record::Entry(entry));
            self.count("thefts");
        }
    }

    fn exchange(&mut self, a: usize, b: usize) -> bool {
        let mut news = false;
        for (from, to) in [(a, b), (b, a)] {
            let records: Vec<Record> = self.replicas[from].records().iter().collect();
            for record in records {
                if !self.replicas[to].records().contains(&record.id()) {
                    news |= self.replicas[to].insert(record) == Taken::New;
                }
            }
            self.replicas[to].refold();
            self.check(to);
        }
        news
    }

    fn run(&mut self) {
        for step in 0..STEPS {
            self.step = step;
            self.now_s += 60 + self.dice.below(5000);
            if self.dice.percent(5) {
                self.split = self.dice.percent(60).then(|| self.dice.next());
            }
            while let Some(first) = self.wire.first_entry()
                && first.key().0 <= step
            {
                let (to, bytes) = first.remove();
                self.deliver(to, &bytes);
            }
            if self.dice.percent(60) {
                let who = self.dice.below(self.voters.len() as u64) as usize;
                self.act(who);
            }
            if self.dice.percent(40) {
                self.look();
            }
            if self.has_thief && self.dice.percent(2) {
                self.thieve();
            }
            if step % 5 == 0 {
                let (a, b) = (self.dice.below(NODES as u64), self.dice.below(NODES as u64));
                if a != b && !self.is_cut(a as usize, b as usize) {
                    self.exchange(a as usize, b as usize);
                }
            }
        }
    }

    /// All partitions end; nodes ask each other in a ring. How many rounds until nothing is new?
    fn heal(&mut self) -> usize {
        (self.split, self.loss) = (None, 0);
        self.wire.clear();
        for round in 0..20 {
            let mut news = false;
            for node in 0..NODES {
                news |= self.exchange(node, (node + 1) % NODES);
            }
            if !news {
                return round;
            }
        }
        20
    }

    fn trace(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }
}

fn simulate(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.run();
    let rounds = sim.heal();
    assert!(rounds <= 3, "seed {seed}: {rounds} rounds");
    let whole = fold(&sim.genesis, &sim.all);
    for node in 0..NODES {
        let standing = sim.replicas[node].standing();
        assert_eq!(standing.hash(), whole.hash(), "seed {seed}, node {node}");
        sim.trace.update(&standing.hash());
    }
    if !sim.has_thief {
        assert!(
            whole.faults().is_empty(),
            "seed {seed}: an honest signer was called a liar"
        );
    }
    for _ in 0..whole.tip().height {
        sim.count("links");
    }
    for _ in 0..whole.lifted.len() {
        sim.count("lifted");
    }
    if whole
        .snapshots()
        .iter()
        .any(|s| sim.majors.contains_key(&s.link))
    {
        sim.count("majors");
    }
    for cause in whole.causes() {
        match cause {
            Cause::Fault(_) => sim.count("faults"),
            Cause::Conflict(_) => sim.count("conflicts"),
            Cause::Halt { .. } | Cause::Flood(_) => {}
        }
    }
    sim
}

#[test]
fn replicas_agree_after_any_weather_and_nobody_runs_under_a_known_halt() {
    let n = option_env!("QUORATE_SEEDS")
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..n {
        for (what, times) in simulate(seed).seen {
            *seen.entry(what).or_default() += times;
        }
    }
    // A simulation in which nothing happens proves nothing.
    for what in ["halts", "links", "lifted", "majors", "thefts"] {
        assert!(
            seen.get(what).is_some_and(|times| *times > 0),
            "no {what}: {seen:?}"
        );
    }
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for seed in 0..2 {
        assert_eq!(simulate(seed).trace(), simulate(seed).trace());
    }
    assert_ne!(simulate(0).trace(), simulate(1).trace());
}
