//! The one loop: the next event in time, what the machines make of it, and what they want done.

use super::judge::{Ended, Judge};
use super::machine::{CONTEXT, Machine};
use super::mesh::Mesh;
use super::network::{At, Network};
use super::plan::{self, CALM_US};
use super::table;
use super::traffic::{Happening, Letter};
use super::{Dice, Faults, Options, Report};
use crate::generate::{Finish, Guessing, Notes, Spec};
use crate::ids::{ExpertId, Micros, SessionId};
use crate::law::{Law, ListLaw, Transforms};
use crate::limits::{
    ADVERT_EVERY_US, ECHO_EVERY_US, SIM_EVENTS_MAX, SIM_TAIL_MAX, SYNC_ADVERTS_EVERY_US, TWINS_US,
};
use crate::node::{Event, Experts, Input, Request};
use crate::opinion::{FromExpert, Scope};
use crate::seeded::Secret;
use crate::team::Sets;
use std::collections::{BTreeMap, VecDeque};

/// After this long without a sign of life a connection is over.
pub(super) const IDLE_US: u64 = 5_000_000;
pub(super) const BEAT_US: u64 = 1_000_000;
/// A client asks again after this.
pub(super) const RETRY_US: u64 = 2_000_000;
/// From the healing until every request must have its text: an expert that never answers is given
/// up after half a minute, twice in the worst case, and halts take a vote.
const PROGRESS_US: u64 = 400_000_000;
/// Then nobody asks anything, and everything that was held for anybody must be let go: guests whose
/// router is gone are kept for two minutes, and a node that had a twin hears of it, answers, and
/// is believed again, within the turn of its adverts.
const QUIET_US: u64 = ADVERT_EVERY_US + SYNC_ADVERTS_EVERY_US + ECHO_EVERY_US + TWINS_US;
/// The same where nothing ever went wrong: what gossip lost is asked for once a minute, and what
/// the neighbour who is asked lacks as well, the next one knows.
const CALM_QUIET_US: u64 = 2 * SYNC_ADVERTS_EVERY_US + BEAT_US;

struct Client {
    node: At,
    secret: Secret,
    attempts: u32,
    text: Option<String>,
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    events: u64,
    attempts: u32,
    pub(super) dice: Dice,
    pub(super) machines: Vec<Machine>,
    pub(super) network: Network<(u32, Letter)>,
    pub(super) mesh: Mesh,
    pub(super) homes: BTreeMap<ExpertId, At>,
    clients: Vec<Client>,
    pub(super) judge: Judge,
    trace: blake3::Hasher,
    tail: VecDeque<(u64, At, &'static str, u64)>,
    seen: BTreeMap<&'static str, u64>,
    pub(super) healed: Option<u64>,
    quiet_from: Option<u64>,
}

impl World {
    pub(super) fn new(options: Options) -> World {
        let mut dice = Dice(options.seed);
        let (mesh, machines) = Mesh::found(&options, &mut dice);
        let homes = machines.iter().take(usize::from(options.nodes));
        let homes = homes.map(|m| (m.expert, m.at)).collect();
        let mut world = World {
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            events: 0,
            attempts: 0,
            network: Network::new(options.link, options.seed),
            mesh,
            machines,
            homes,
            clients: Vec::new(),
            judge: Judge::default(),
            trace: blake3::Hasher::new(),
            tail: VecDeque::new(),
            seen: BTreeMap::new(),
            healed: None,
            quiet_from: None,
            dice,
            options,
        };
        for (at, act) in plan::schedule(&world.options, &mut world.dice) {
            world.push(at, Happening::Act(act));
        }
        for client in 0..world.options.requests {
            let seed = world.options.seed;
            let node = world.dice.below(u64::from(world.options.nodes)) as At;
            let due = CALM_US + world.dice.below(world.options.trouble_us.max(1));
            world.clients.push(Client {
                node,
                secret: Secret::from_seed(seed, client),
                attempts: 0,
                text: None,
            });
            world.push(due, Happening::Client(client as usize));
        }
        world
    }

    pub(super) fn push(&mut self, at: u64, what: Happening) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), what);
    }

    /// What happened, for the hash and for people.
    pub(super) fn note(&mut self, node: At, what: &'static str, detail: u64) {
        self.trace
            .update(&self.now.to_le_bytes())
            .update(&node.to_le_bytes())
            .update(what.as_bytes())
            .update(&detail.to_le_bytes());
        *self.seen.entry(what).or_default() += 1;
        if self.tail.len() >= SIM_TAIL_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back((self.now, node, what, detail));
    }

    pub(super) fn run(mut self) -> Report {
        let deadline = CALM_US + self.options.trouble_us + PROGRESS_US;
        let calm = Faults {
            halts: self.options.faults.halts,
            ..Faults::default()
        };
        let quiet_us = match self.options.faults == calm {
            true => CALM_QUIET_US,
            false => QUIET_US,
        };
        while let Some(((at, _), what)) = self.queue.pop_first() {
            let over = self.quiet_from.map_or(deadline, |from| from + quiet_us);
            if at > over || self.events >= SIM_EVENTS_MAX {
                break;
            }
            self.now = at;
            self.events += 1;
            self.happen(what);
        }
        self.report()
    }

    fn happen(&mut self, what: Happening) {
        let of = match &what {
            Happening::Act(act) => return self.act(*act),
            Happening::Client(client) => self.clients[*client].node,
            Happening::Beat(at, life) | Happening::Wake(at, life) => {
                match self.machines[usize::from(*at)].life == *life {
                    true => *at,
                    false => return,
                }
            }
            Happening::Computed(at, life, _) => {
                match self.machines[usize::from(*at)].life == *life {
                    true => *at,
                    false => return,
                }
            }
            Happening::Arrive { to, .. } => *to,
            Happening::Broken { at, .. } => *at,
        };
        let machine = &mut self.machines[usize::from(of)];
        if machine.is_up && machine.paused_until > self.now {
            let later = machine.paused_until;
            return self.push(later, what);
        }
        match what {
            Happening::Act(_) => {}
            Happening::Client(client) => self.ask(client),
            _ if !machine.is_up => {}
            Happening::Beat(at, _) => self.beat(at),
            Happening::Wake(at, _) => {
                machine.wakes = None;
                self.step(at, Input::Tick);
            }
            Happening::Computed(at, _, event) => {
                machine.pending -= 1;
                let expert = machine.expert;
                self.step(at, Input::FromExpert(FromExpert { expert, event }));
            }
            Happening::Broken { at, peer, epoch } => self.broken(at, peer, epoch),
            Happening::Arrive {
                from,
                to,
                epoch,
                letter,
            } => self.arrive(from, to, epoch, *letter),
        }
    }

    // --- clients --------------------------------------------------------------------------------

    fn ask(&mut self, client: usize) {
        let number = client;
        let client = &mut self.clients[number];
        let at = client.node;
        let machine = &self.machines[usize::from(at)];
        if client.text.is_some() {
            return;
        }
        let permit = match self.options.alone {
            true => Ok(machine.rights.local()),
            false => machine.rights.mesh(),
        };
        let (true, Ok(permit)) = (machine.is_up, permit) else {
            return self.push(self.now + RETRY_US, Happening::Client(number));
        };
        client.attempts += 1;
        let session = SessionId(1 << 120 | (number as u128) << 32 | u128::from(client.attempts));
        let spec = spec(session, client.secret.clone(), self.options.tokens);
        let experts = match self.options.alone {
            true => Experts::These(vec![(machine.expert, 1.0)]),
            false => Experts::Mesh {
                local: Some(machine.expert),
                sets: Sets::A,
                k_max: None,
            },
        };
        self.attempts += 1;
        self.note(at, "asked", number as u64);
        self.judge
            .begin(number, at, self.options.alone, spec.clone());
        let vocab = table::vocab();
        let request = Request {
            spec,
            vocab,
            experts,
            permit,
        };
        let mut out = Vec::new();
        let node = &mut self.machines[usize::from(at)].node;
        let taken = node.submit(Micros(self.now), request, &mut out);
        self.carry_out(at, out);
        if taken.is_err() {
            self.judge.forget(session);
            self.push(self.now + RETRY_US, Happening::Client(number));
        }
    }

    pub(super) fn tell(&mut self, at: At, session: SessionId, event: Event) {
        let what = match &event {
            Event::Token(token) => Some(("token", u64::from(token.token))),
            Event::Finished { why, .. } => Some(match why {
                Finish::Length | Finish::Stop => ("finished", 0),
                Finish::Cancelled | Finish::Failed(_) => ("failed", 0),
            }),
            _ => None,
        };
        if let Some((what, detail)) = what {
            self.note(at, what, detail);
        }
        let machine = &self.machines[usize::from(at)];
        let Some(Ended { client, text }) = self.judge.hear(self.now, machine, session, event)
        else {
            return;
        };
        match text {
            Some(text) => self.clients[client].text = Some(text),
            None => self.push(self.now + RETRY_US, Happening::Client(client)),
        }
        self.is_it_quiet();
    }

    pub(super) fn is_it_quiet(&mut self) {
        let all_done = self.clients.iter().all(|client| client.text.is_some());
        if all_done && self.healed.is_some() && self.quiet_from.is_none() {
            self.quiet_from = Some(self.now);
        }
    }

    // --- the end --------------------------------------------------------------------------------

    fn report(mut self) -> Report {
        let mut stuck = Vec::new();
        for (n, client) in self.clients.iter().enumerate() {
            if client.text.is_none() {
                let (node, attempts) = (client.node, client.attempts);
                stuck.push(format!("request {n} at node {node}: {attempts} attempts"));
            }
        }
        if self.events >= SIM_EVENTS_MAX {
            stuck.push(format!("more than {SIM_EVENTS_MAX} events"));
        }
        if self.judge.open() > 0 {
            stuck.push(format!("{} requests without an end", self.judge.open()));
        }
        let nodes = usize::from(self.options.nodes);
        let machines = &self.machines[..nodes];
        stuck.extend(
            machines
                .iter()
                .filter_map(|m| self.judge.leftovers(self.now, m)),
        );
        stuck.extend(self.disagreements());
        stuck.truncate(crate::limits::SIM_VIOLATIONS_MAX);
        let texts: Vec<Option<String>> = self.clients.into_iter().map(|c| c.text).collect();
        for text in texts.iter().flatten() {
            self.trace.update(text.as_bytes());
        }
        let line = |(us, node, what, detail): &(u64, At, &str, u64)| {
            format!("{us:>12} us  node {node:>4}  {what} {detail}")
        };
        Report {
            seed: self.options.seed,
            trace_hash: *self.trace.finalize().as_bytes(),
            tail: self.tail.iter().map(line).collect(),
            safety: self.judge.violations,
            stuck,
            asked: texts.len() as u32,
            finished: texts.iter().flatten().count() as u32,
            attempts: self.attempts,
            replayed: self.judge.replayed,
            tokens: self.judge.tokens,
            virtual_us: self.now,
            events: self.events,
            bytes: self.network.bytes,
            highest: self.judge.highest,
            seen: self.seen,
            texts,
        }
    }
}

/// The same request everywhere, but for its secret.
fn spec(session: SessionId, secret: Secret, max_tokens: u32) -> Spec {
    let law = Law::new(Transforms::NEUTRAL, ListLaw::default());
    Spec {
        session,
        scope: Scope::OWNER,
        prompt: vec![5, 6, 7],
        law: law.expect("neutral numbers are in range"),
        secret,
        max_tokens,
        stop: vec![],
        logprobs: None,
        grammar: false,
        context: CONTEXT,
        guessing: Guessing::Never,
        paced: false,
        notes: Notes {
            provenance: false,
            record: true,
        },
    }
}
