//! Between the machines: what a node wants done is done, and letters arrive. What the driver, the
//! token plane and its connections are in the program.

use super::machine::{Talk, Visitor};
use super::network::{At, Sent};
use super::traffic::{Happening, Letter, said_bytes};
use super::world::World;
use crate::host::{self, GuestId, Visit};
use crate::ids::{ExpertId, Micros, SessionId};
use crate::limits::{EXPERT_OPS_MAX, REMOTE_SESSIONS_MAX};
use crate::node::{Input, Output};
use crate::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert};
use std::collections::VecDeque;

impl World {
    pub(super) fn step(&mut self, at: At, input: Input) {
        let mut out = Vec::new();
        let now = Micros(self.now);
        self.machines[usize::from(at)]
            .node
            .handle(now, input, &mut out);
        self.carry_out(at, out);
    }

    /// Does what the node wants; what fails on the way becomes an input again, as in the driver.
    pub(super) fn carry_out(&mut self, at: At, first: Vec<Output>) {
        let mut wanted = VecDeque::from(first);
        while let Some(output) = wanted.pop_front() {
            let failed = match output {
                Output::ToExpert(expert, op) => self.hand_to_expert(at, expert, op),
                Output::Event { session, event } => {
                    self.tell(at, session, event);
                    None
                }
                Output::ToGuest { guest, event } => {
                    self.hand_to_guest(at, guest, event);
                    None
                }
                Output::Suspect { expert, suspicion } => {
                    self.judge.suspect(self.now, at, expert, suspicion);
                    None
                }
                // Nobody reads the audit logs of made-up nodes, nor counts for their gates.
                Output::Decided(_) | Output::Seen { .. } => None,
                Output::NeedMask { .. } => {
                    self.judge
                        .accuse(self.now, at, "a grammar nobody asked for".into());
                    None
                }
            };
            if let Some(input) = failed {
                let mut more = Vec::new();
                let now = Micros(self.now);
                self.machines[usize::from(at)]
                    .node
                    .handle(now, input, &mut more);
                wanted.extend(more);
            }
        }
        let machine = &mut self.machines[usize::from(at)];
        self.judge.measure(self.now, machine);
        if let Some(wake) = machine.node.wake_at()
            && machine.wakes.is_none_or(|set| wake.0 < set)
        {
            machine.wakes = Some(wake.0);
            let life = machine.life;
            self.push(wake.0, Happening::Wake(at, life));
        }
    }

    fn hand_to_expert(&mut self, at: At, expert: ExpertId, op: ExpertOp) -> Option<Input> {
        let machine = &mut self.machines[usize::from(at)];
        if expert != machine.expert {
            return self.talk(at, expert, op);
        }
        let session = op.session();
        let is_goodbye = matches!(op, ExpertOp::Close { .. });
        if machine.pending >= EXPERT_OPS_MAX && !is_goodbye {
            let why = "the mailbox is full".into();
            return Some(Input::SendFailed {
                session,
                expert,
                why,
            });
        }
        match machine.compute(self.now, op) {
            Ok((when, events)) => {
                let life = machine.life;
                machine.pending += events.len();
                for event in events {
                    self.push(when, Happening::Computed(at, life, event));
                }
                None
            }
            Err(lost) => {
                // What a vanishing router does is no router's fault.
                self.judge.accuse(self.now, at, lost);
                None
            }
        }
    }

    /// To an expert of another node: a session there, as `net::remote` holds it.
    fn talk(&mut self, at: At, expert: ExpertId, op: ExpertOp) -> Option<Input> {
        let session = op.session();
        let host = *self.homes.get(&expert)?;
        let epoch = self.network.epoch(at, host);
        let machine = &mut self.machines[usize::from(at)];
        let talks = &mut machine.talks;
        let is_goodbye = matches!(op, ExpertOp::Close { .. });
        if matches!(op, ExpertOp::Open(_)) {
            let there = talks.keys().filter(|(_, e)| *e == expert).count();
            if there >= REMOTE_SESSIONS_MAX {
                let why = "too many sessions on this expert".into();
                return Some(Input::SendFailed {
                    session,
                    expert,
                    why,
                });
            }
            talks.insert((session, expert), Talk { host, epoch });
            machine.heard.insert(host, self.now);
        }
        let Some(talk) = machine.talks.get(&(session, expert)).copied() else {
            let why = "the stream is closed".into();
            return (!is_goodbye).then_some(Input::SendFailed {
                session,
                expert,
                why,
            });
        };
        if is_goodbye {
            machine.talks.remove(&(session, expert));
        }
        self.send_under(at, host, talk.epoch, Letter::Op(expert, op));
        None
    }

    fn hand_to_guest(&mut self, at: At, guest: GuestId, event: ExpertEvent) {
        let machine = &mut self.machines[usize::from(at)];
        let Some(visitor) = machine.guests.get(&guest).copied() else {
            return;
        };
        let is_opinion = matches!(event, ExpertEvent::Opinions { .. });
        if is_opinion && machine.is_halted() {
            self.judge
                .accuse(self.now, at, "an opinion after a verified halt".into());
        }
        if matches!(event, ExpertEvent::Failed { .. }) {
            machine.guests.remove(&guest);
            machine.visits.remove(&(visitor.router, visitor.session));
        }
        if is_opinion && machine.lies.is_none() {
            self.judge.weigh(self.now, at, said_bytes(&event));
        }
        let letter = Letter::Said(visitor.expert, event);
        self.send_under(at, visitor.router, visitor.epoch, letter);
    }

    // --- letters --------------------------------------------------------------------------------

    pub(super) fn send(&mut self, from: At, to: At, letter: Letter) {
        let epoch = self.network.epoch(from, to);
        self.send_under(from, to, epoch, letter);
    }

    pub(super) fn send_under(&mut self, from: At, to: At, epoch: u32, letter: Letter) {
        let bytes = letter.bytes();
        if let Sent::Arrives(at, (epoch, letter)) =
            self.network
                .send(self.now, from, to, bytes, (epoch, letter))
        {
            let arrive = Happening::Arrive {
                from,
                to,
                epoch,
                letter: Box::new(letter),
            };
            self.push(at, arrive);
        }
    }

    pub(super) fn arrive(&mut self, from: At, to: At, epoch: u32, letter: Letter) {
        if epoch != self.network.epoch(from, to) {
            // A connection that this node knows nothing of: it says so.
            if !self.network.is_cut(from, to) {
                let back = self.now + u64::from(self.options.link.delay_us);
                let (at, peer) = (from, to);
                self.push(back, Happening::Broken { at, peer, epoch });
            }
            return;
        }
        if !matches!(letter, Letter::News(_)) {
            self.note(to, letter.name(), u64::from(from));
        }
        let now = self.now;
        let machine = &mut self.machines[usize::from(to)];
        machine.heard.insert(from, now);
        match letter {
            Letter::Op(expert, op) => self.visit(from, to, epoch, expert, op),
            Letter::Said(expert, event) => {
                let talk = (event.session(), expert);
                if !machine.talks.contains_key(&talk) {
                    return; // said before it heard the goodbye
                }
                if matches!(event, ExpertEvent::Failed { .. }) {
                    machine.talks.remove(&talk);
                }
                self.step(to, Input::FromExpert(FromExpert { expert, event }));
            }
            Letter::News(news) => self.hear_news(to, from, &news),
            Letter::Ask(ask) => self.answer_sync(to, from, &ask),
            Letter::Answer(answer, are_adverts) => self.hear_sync(to, from, &answer, are_adverts),
        }
    }

    /// Somebody's session here, as `net::serve` holds it.
    fn visit(&mut self, router: At, at: At, epoch: u32, expert: ExpertId, op: ExpertOp) {
        let session = op.session();
        let peer = self.machines[usize::from(router)].key;
        let new = GuestId(u128::from(self.dice.next()) << 64 | u128::from(self.dice.next()));
        let machine = &mut self.machines[usize::from(at)];
        let guest = machine.visits.get(&(router, session)).copied();
        let input = match (guest, op) {
            (None, ExpertOp::Open(open)) => {
                machine.visits.insert((router, session), new);
                let visitor = Visitor {
                    router,
                    epoch,
                    session,
                    expert,
                };
                machine.guests.insert(new, visitor);
                let stranger = !machine.book.is_member(&peer);
                let refused = stranger.then(|| "not a member of this mesh".to_owned());
                host::Input::Open(Box::new(Visit {
                    guest: new,
                    peer,
                    expert,
                    open: *open,
                    whole: None,
                    refused,
                }))
            }
            (Some(guest), op) => {
                if matches!(op, ExpertOp::Close { .. }) {
                    machine.visits.remove(&(router, session));
                    machine.guests.remove(&guest);
                }
                host::Input::Op { guest, op }
            }
            (None, ExpertOp::Close { .. }) => return,
            (None, _) => {
                let why = ExpertFailure::Gone;
                let gone = ExpertEvent::Failed { session, why };
                return self.send_under(at, router, epoch, Letter::Said(expert, gone));
            }
        };
        self.step(at, Input::Host(input));
    }

    /// All sessions over a connection end with it.
    pub(super) fn broken(&mut self, at: At, peer: At, epoch: u32) {
        self.note(at, "broken", u64::from(peer));
        let machine = &mut self.machines[usize::from(at)];
        let over = |of: At, since: u32| of == peer && since <= epoch;
        let mut talks: Vec<(SessionId, ExpertId)> = Vec::new();
        machine.talks.retain(|name, talk| {
            let is_over = over(talk.host, talk.epoch);
            talks.extend(is_over.then_some(*name));
            !is_over
        });
        let mut gone: Vec<GuestId> = Vec::new();
        machine.guests.retain(|guest, visitor| {
            let is_over = over(visitor.router, visitor.epoch);
            gone.extend(is_over.then_some(*guest));
            !is_over
        });
        machine.visits.retain(|_, guest| !gone.contains(guest));
        for (session, expert) in talks {
            let why = ExpertFailure::Gone;
            let event = ExpertEvent::Failed { session, why };
            self.step(at, Input::FromExpert(FromExpert { expert, event }));
        }
        for guest in gone {
            self.step(at, Input::Host(host::Input::Gone { guest }));
        }
    }
}
