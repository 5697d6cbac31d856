//! A network of table experts in virtual time: how they answer, are late, lie and leave.

use super::tests::{Table, VOCAB, law, spec, table, vocab};
pub(super) use super::ways_tests::{CALM, FAR, Mischief, Ways};
use super::*;
use crate::limits::{BRANCH_TOKENS_MAX, BRANCHES_MAX, GUESSES_MAX, READ_TOKENS, UNREAD_TOKENS_MAX};
use crate::opinion::{Entry, ExpertFailure, List, Query, Said, Want};
use crate::pace::{Pace, Patience};
use crate::team::{Answered, Candidate, Sets};
use crate::weights::Reasons;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Story {
    pub(super) tokens: Vec<Token>,
    pub(super) why: Finish,
    pub(super) schedule: Schedule,
    pub(super) decided: Vec<Decided>,
    pub(super) failed: Vec<(ExpertId, Trouble)>,
    pub(super) provenance: Vec<Provenance>,
    pub(super) ended_us: u64,
    /// When each token came.
    pub(super) at_us: Vec<u64>,
    pub(super) guesses: Guesses,
    pub(super) reasons: Option<Box<Reasons>>,
    pub(super) ln_p: Vec<Option<f64>>,
    /// What every answer took, as the roster hears it.
    pub(super) heard: Vec<(ExpertId, Answered)>,
    /// The most operations of one expert that were under way at once.
    pub(super) ops_under_way: usize,
    /// Questions, over all experts.
    pub(super) asked: usize,
    /// The most branches that there were at once, and the most tokens of one.
    pub(super) branches: (usize, usize),
}

impl Story {
    pub(super) fn names(&self, at: usize) -> Vec<u8> {
        self.schedule[at].set.iter().map(|(e, _)| e.0[0]).collect()
    }
}

pub(super) fn plan(names: &[u8], k: usize, spares: usize) -> Plan {
    let mut quick = Pace::default();
    (0..64).for_each(|_| quick.answered(10_000));
    (0..64).for_each(|_| quick.read(1, 10_000));
    let candidates = names.iter().map(|&name| Candidate {
        expert: ExpertId([name; 32]),
        weight: 1.0,
        local: false,
        pace: quick.clone(),
    });
    Plan {
        candidates: candidates.collect(),
        k,
        spares,
        sets: Sets::A,
        patience: Patience {
            percent: 200,
            floor_us: 50_000,
        },
        script: None,
    }
}

/// Experts known to be far.
pub(super) fn far(names: &[u8], k: usize, spares: usize) -> Plan {
    let mut plan = plan(names, k, spares);
    for candidate in &mut plan.candidates {
        (0..64).for_each(|_| candidate.pace.answered(150_000));
    }
    plan
}

struct World {
    tables: BTreeMap<ExpertId, (Table, Ways)>,
    /// (time, sequence) of what arrives, so that equal times keep their order.
    /// With the time at which each was said.
    queue: BTreeMap<(u64, u64), (u64, FromExpert)>,
    /// Messages of one stream arrive in order, there and back.
    arrived: BTreeMap<ExpertId, u64>,
    last: BTreeMap<ExpertId, u64>,
    sent: u64,
    seed: u64,
    /// When each began what it computes last, and when that ends.
    busy: BTreeMap<ExpertId, (u64, u64)>,
    opened: BTreeMap<ExpertId, ExpertOp>,
    /// Branches that are not answered, by their epochs.
    lost: BTreeSet<(ExpertId, u32)>,
    /// When the operations under way are there.
    arriving: BTreeMap<ExpertId, Vec<u64>>,
    ops_under_way: usize,
}

impl World {
    fn new(ways: &[(u8, Ways)], seed: u64) -> World {
        let place = |(name, ways): &(u8, Ways)| {
            let mut table = table(ways.believes.unwrap_or(*name));
            table.common = ways.common;
            (table.remembers, table.words) = (ways.remembers, ways.words);
            table.keeps = ways.keeps;
            (ExpertId([*name; 32]), (table, ways.clone()))
        };
        World {
            tables: ways.iter().map(place).collect(),
            queue: BTreeMap::new(),
            arrived: BTreeMap::new(),
            last: BTreeMap::new(),
            sent: 0,
            seed,
            busy: BTreeMap::new(),
            opened: BTreeMap::new(),
            lost: BTreeSet::new(),
            arriving: BTreeMap::new(),
            ops_under_way: 0,
        }
    }

    fn delay(&mut self, range: (u64, u64)) -> u64 {
        self.sent += 1;
        let hash = blake3::hash(&[self.seed.to_le_bytes(), self.sent.to_le_bytes()].concat());
        let random = u64::from(hash.as_bytes()[0]) << 8 | u64::from(hash.as_bytes()[1]);
        range.0 + (range.1 - range.0) * random / 65_536
    }

    /// How long a message is under way.
    fn flies(&mut self, ways: &Ways) -> u64 {
        let us = self.delay(ways.delay_us);
        let is_lost = ways.loss > 0 && self.delay((0, 100)) < ways.loss;
        us + if is_lost { 3 * ways.delay_us.1 } else { 0 }
    }

    fn send(&mut self, now: u64, expert: ExpertId, op: ExpertOp) {
        let Some((table, ways)) = self.tables.get_mut(&expert) else {
            return;
        };
        let (ways, session) = (ways.clone(), op.session());
        let asks = matches!(
            op,
            ExpertOp::Draft { .. } | ExpertOp::Branch { .. } | ExpertOp::Ask { .. }
        );
        let reads = matches!(op, ExpertOp::Open(_));
        let said = op.clone();
        if reads {
            self.opened.insert(expert, op.clone());
        }
        let queries = match &op {
            ExpertOp::Draft { queries, .. } | ExpertOp::Lead { queries, .. } => queries.clone(),
            ExpertOp::Branch { query, .. } | ExpertOp::Ask { query, .. } => vec![query.clone()],
            _ => vec![],
        };
        let mut events = table.handle(op).unwrap();
        if asks
            && !events.is_empty()
            && let Some(instead) = &ways.instead
        {
            events = vec![instead.clone()];
        } else if ways.mischief != Mischief::default() && !reads {
            let other = Table::new(ExpertId([99; 32]));
            let opened = self.opened[&expert].clone();
            events = misbehave(ways.mischief, events, &queries, table, other, opened);
        }
        if let (true, ExpertOp::Branch { epoch, .. }) = (ways.mischief.loses_branches, &said) {
            self.lost.insert((expert, *epoch));
        }
        let is_lost = |event: &ExpertEvent| matches!(event, ExpertEvent::Opinions { epoch, .. } if self.lost.contains(&(expert, *epoch)));
        events.retain(|event| !is_lost(event));
        if ways.bundles {
            events = bundled(events);
        }
        let arrived = self.arrived.get(&expert).copied().unwrap_or(0);
        let there = arrived.max(now + self.flies(&ways));
        self.arrived.insert(expert, there);
        let under_way = self.arriving.entry(expert).or_default();
        under_way.retain(|at| *at > now);
        under_way.push(there);
        self.ops_under_way = self.ops_under_way.max(under_way.len());
        self.forget(expert, there, ways.batches, &said);
        if there >= ways.restarts_at {
            let why = ExpertFailure::Refused("no such session".into());
            events = vec![ExpertEvent::Failed { session, why }];
        }
        for event in events {
            let takes = if reads { ways.read_us } else { ways.step_us };
            let (began, ends) = self.busy.entry(expert).or_default();
            if !ways.batches || there > *began {
                *began = there.max(*ends);
                *ends = *began + takes;
            }
            let done = *ends;
            let mut back = done + self.flies(&ways);
            if back >= ways.silent_from && back < ways.silent_until {
                if ways.silent_until == u64::MAX {
                    continue;
                }
                back = ways.silent_until;
            }
            if back >= ways.gone_at {
                continue;
            }
            let last = self.last.get(&expert).filter(|_| !ways.overtakes);
            let at = back.max(last.copied().unwrap_or(0));
            self.last.insert(expert, at);
            self.queue
                .insert((at, self.sent), (done, FromExpert { expert, event }));
        }
    }

    /// What it was asked, has not said by then and is not wanted any more is not computed.
    fn forget(&mut self, expert: ExpertId, there: u64, is_batched: bool, op: &ExpertOp) {
        let is_over = |of: u32| match op {
            ExpertOp::Truncate { .. } => true,
            ExpertOp::Settle { epoch, .. } => of != *epoch,
            ExpertOp::Forget { epoch, .. } => of == *epoch,
            _ => false,
        };
        let is_opinion = |event: &ExpertEvent| matches!(event, ExpertEvent::Opinions { epoch, .. } if is_over(*epoch));
        let before = self.queue.len();
        self.queue.retain(|_, (done, from)| {
            from.expert != expert || *done <= there || !is_opinion(&from.event)
        });
        if self.queue.len() == before {
            return;
        }
        let left = self.queue.iter().filter(|(_, (_, f))| f.expert == expert);
        let last = left.map(|((at, _), _)| *at).max().unwrap_or(0);
        self.last.insert(expert, last);
        let reading = self.queue.values().filter(|(_, f)| f.expert == expert);
        let until = reading.map(|(done, _)| *done).max().unwrap_or(0);
        let (began, ends) = self.busy.entry(expert).or_default();
        if !is_batched {
            *ends = (*ends).min(there.max(until));
        } else if *began > there && until < *ends {
            (*began, *ends) = (0, *began); // nobody is left whom it would be for
        }
    }
}

/// Lists about the whole text, but not this expert's; words that nobody asked for; everything twice.
fn misbehave(
    mischief: Mischief,
    mut events: Vec<ExpertEvent>,
    queries: &[Query],
    table: &mut Table,
    mut other: Table,
    opened: ExpertOp,
) -> Vec<ExpertEvent> {
    other.handle(opened).unwrap();
    let mut extra = vec![];
    for (event, query) in events.iter_mut().zip(queries) {
        let ExpertEvent::Opinions {
            epoch,
            opinions,
            compute_us,
            ..
        } = event
        else {
            continue;
        };
        other.texts.own.tokens = table.texts.of(*epoch).unwrap().tokens.clone();
        let position = opinions[0].position;
        if mischief.false_lists && position % 3 == 0 {
            opinions[0] = other.opinion(position, query);
        }
        if mischief.injects_from.is_some_and(|from| position >= from) {
            opinions[0].said = sure_of_the_least(table, *epoch, position, query);
        }
        if mischief.knew_it_all {
            opinions[0].scored.fill(LnP::CERTAIN);
        }
        if mischief.boasts {
            *compute_us = 100_000;
        }
        if mischief.unasked {
            let mut far = event.clone();
            if let ExpertEvent::Opinions { opinions, .. } = &mut far {
                opinions[0].position += 1 + position % 60;
            }
            extra.push(far);
        }
    }
    let times = if mischief.twice { 2 } else { 1 };
    let every = events.iter().flat_map(|e| std::iter::repeat_n(e, times));
    extra.into_iter().chain(every.cloned()).collect()
}

/// A list of one token, which an honest expert that believes what others do would never draw.
fn sure_of_the_least(table: &mut Table, epoch: u32, position: Position, query: &Query) -> Said {
    let all = Query {
        want: Want::Scalars((1..VOCAB).collect()),
        ..query.clone()
    };
    let Said::Scalars(believed) = table.opinion_in(epoch, position, &all).unwrap().said else {
        panic!("asked for values");
    };
    let least = (1..VOCAB)
        .zip(believed)
        .max_by_key(|(_, ln_p)| ln_p.to_wire());
    let entry = Entry {
        token: least.expect("there are tokens").0,
        ln_p: LnP::CERTAIN,
    };
    Said::List(List {
        entries: vec![entry],
        bound: 0.0,
    })
}

/// All opinions in one message.
fn bundled(events: Vec<ExpertEvent>) -> Vec<ExpertEvent> {
    let mut out: Vec<ExpertEvent> = vec![];
    for event in events {
        match (out.last_mut(), event) {
            (
                Some(ExpertEvent::Opinions {
                    opinions: before, ..
                }),
                ExpertEvent::Opinions { opinions, .. },
            ) => before.extend(opinions),
            (_, event) => out.push(event),
        }
    }
    out
}

/// One that reads a token after another, if its request is paced.
struct Client {
    is_paced: bool,
    every_us: u64,
    next_us: u64,
    read: usize,
}

impl Client {
    /// When it reads what it was told.
    fn next(&self, told: usize) -> Option<u64> {
        (self.is_paced && self.read < told && self.next_us < u64::MAX).then_some(self.next_us)
    }

    /// What its router hears of that.
    fn reads(&mut self) -> Option<Input> {
        self.read += 1;
        self.next_us = self.next_us.saturating_add(self.every_us);
        let is_told = self.read.is_multiple_of(READ_TOKENS as usize);
        is_told.then_some(Input::Read(READ_TOKENS))
    }

    /// Is what waits for it, or is guessed, within the bounds?
    fn check(&self, machine: &Generate, told: usize) {
        let members = machine.parts.len();
        assert!(machine.ahead.guesses.len() <= GUESSES_MAX);
        let branches = &machine.ahead.branches;
        assert!(branches.len() <= BRANCHES_MAX);
        assert!(branches.iter().all(|b| b.tokens() <= BRANCH_TOKENS_MAX));
        assert!(branches.is_empty() || !machine.ahead.guesses.is_empty());
        let positions = GUESSES_MAX + 1 + BRANCHES_MAX * BRANCH_TOKENS_MAX;
        assert!(machine.ahead.early() <= members * positions);
        let room = (UNREAD_TOKENS_MAX + READ_TOKENS) as usize;
        assert!(!self.is_paced || told + machine.ahead.guesses.len() <= self.read + room);
    }
}

/// Runs a request to its end in virtual time.
pub(super) fn live(spec: Spec, plan: Plan, ways: &[(u8, Ways)], seed: u64) -> Story {
    live_read(spec, plan, ways, seed, 0)
}

/// The same for a client that reads a token in so many microseconds, if the request is paced.
pub(super) fn live_read(
    spec: Spec,
    plan: Plan,
    ways: &[(u8, Ways)],
    seed: u64,
    read_us: u64,
) -> Story {
    let mut client = Client {
        is_paced: spec.paced,
        every_us: read_us,
        next_us: read_us,
        read: 0,
    };
    let notes = Notes {
        provenance: true,
        record: true,
    };
    let mut machine = Generate::new(Spec { notes, ..spec }, vocab(), plan, 0, Micros(0)).unwrap();
    let mut world = World::new(ways, seed);
    let mut story = Story {
        tokens: vec![],
        why: Finish::Cancelled,
        schedule: vec![],
        decided: vec![],
        failed: vec![],
        provenance: vec![],
        ended_us: 0,
        at_us: vec![],
        guesses: Guesses::default(),
        reasons: None,
        ln_p: vec![],
        heard: vec![],
        ops_under_way: 0,
        asked: 0,
        branches: (0, 0),
    };
    let mut lost: Vec<(u64, ExpertId)> = ways
        .iter()
        .filter(|(_, w)| w.gone_at < u64::MAX)
        .map(|(name, w)| (w.gone_at, ExpertId([*name; 32])))
        .collect();
    lost.sort_unstable_by(|a, b| b.cmp(a));
    let (mut now, mut ends) = (0, 0);
    let mut closed = BTreeSet::new();
    let mut out = Vec::new();
    machine.start(Micros(0), &mut out);
    for _ in 0..200_000 {
        for output in std::mem::take(&mut out) {
            match output {
                Output::ToExpert(expert, op) => {
                    assert!(!closed.contains(&expert), "{op:?} after a goodbye");
                    if matches!(op, ExpertOp::Close { .. }) {
                        closed.insert(expert);
                    }
                    if let ExpertOp::Draft { queries, .. } | ExpertOp::Lead { queries, .. } = &op {
                        story.asked += queries.len();
                    }
                    story.asked += usize::from(matches!(op, ExpertOp::Branch { .. }));
                    world.send(now, expert, op);
                }
                Output::Event(Event::Token(token)) => {
                    story.tokens.push(token.token);
                    story.at_us.push(now);
                    story.ln_p.push(token.ln_p);
                    story.provenance.extend(token.provenance.map(|p| *p));
                }
                Output::Event(Event::Decided(decided)) => story.decided.push(*decided),
                Output::Event(Event::Finished {
                    why,
                    schedule,
                    guesses,
                    reasons,
                    ..
                }) => {
                    (story.why, story.schedule, story.ended_us) = (why, schedule, now);
                    (story.guesses, story.reasons) = (guesses, reasons);
                    story.ops_under_way = world.ops_under_way;
                    ends += 1;
                }
                Output::Failed { expert, why } => story.failed.push((expert, why)),
                Output::Heard {
                    expert, answered, ..
                } => story.heard.push((expert, answered)),
                Output::Event(Event::Ready { .. }) | Output::Weighed { .. } | Output::Said(_) => {}
                Output::NeedMask { .. } => panic!("no grammar in this request"),
            }
        }
        client.check(&machine, story.tokens.len());
        let branches = &machine.ahead.branches;
        let deepest = branches.iter().map(|b| b.tokens()).max();
        story.branches.0 = story.branches.0.max(branches.len());
        story.branches.1 = story.branches.1.max(deepest.unwrap_or(0));
        if machine.is_done() {
            assert_eq!(machine.ahead.early(), 0, "what was kept is returned");
            assert!(machine.ahead.branches.is_empty());
            assert_eq!(ends, 1, "a response ends once");
            let opened = world.opened.keys();
            assert!(opened.into_iter().all(|e| closed.contains(e)), "left open");
            return story;
        }
        let arrives = world.queue.keys().next().map(|(at, _)| *at);
        let breaks = lost.last().map(|(at, _)| *at);
        let wakes = machine.wake_at().map(|at| at.0);
        let reads = client.next(story.tokens.len());
        let next = [arrives, breaks, wakes, reads].into_iter().flatten().min();
        now = now.max(next.expect("somebody may still answer"));
        if breaks == next {
            let (_, expert) = lost.pop().unwrap();
            let why = "the connection is gone".into();
            machine.handle(Micros(now), Input::Lost { expert, why }, &mut out);
        } else if arrives == next {
            let (_, (_, from)) = world.queue.pop_first().unwrap();
            machine.handle(Micros(now), Input::FromExpert(from), &mut out);
        } else if reads == next {
            client.next_us = now;
            if let Some(input) = client.reads() {
                machine.handle(Micros(now), input, &mut out);
            }
        } else {
            machine.handle(Micros(now), Input::Tick, &mut out);
        }
    }
    panic!("no end")
}

/// The same request with fresh experts that answer at once, under a given schedule.
pub(super) fn replayed(
    spec: Spec,
    plan: Plan,
    ways: &[(u8, Ways)],
    schedule: &Schedule,
) -> Vec<Token> {
    told_again(spec, plan, ways, schedule).tokens
}

pub(super) fn told_again(
    spec: Spec,
    plan: Plan,
    ways: &[(u8, Ways)],
    schedule: &Schedule,
) -> Story {
    let plan = Plan {
        script: Some(schedule.clone()),
        ..plan
    };
    let calm = |(name, ways): &(u8, Ways)| {
        let Ways {
            common,
            believes,
            remembers,
            words,
            ..
        } = *ways;
        let calm = Ways {
            common,
            believes,
            remembers,
            words,
            ..CALM
        };
        (*name, calm)
    };
    let calm: Vec<(u8, Ways)> = ways.iter().map(calm).collect();
    let spec = Spec {
        guessing: Guessing::Never,
        ..spec
    };
    live(spec, plan, &calm, 99)
}

pub(super) fn long(seed: u64) -> Spec {
    Spec {
        secret: Secret::from_seed(seed, 0),
        max_tokens: 30,
        ..spec(law(1.0))
    }
}

pub(super) const NAMES: [u8; 5] = [1, 2, 3, 4, 5];
