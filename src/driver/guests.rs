//! The loop's side of guests and of experts of other nodes.

use super::audit::Audit;
use super::{Command, Driver, Lease};
use crate::driver::experts::Gone;
use crate::expert::ExpertFacts;
use quorate_core::alarm::Suspicion;
use quorate_core::donor::Donor;
use quorate_core::host::{self, GuestId, Visit};
use quorate_core::ids::{ExpertId, Fingerprint};
use quorate_core::node;
use quorate_core::opinion::{ExpertEvent, ExpertOp};
use quorate_core::roster::Introduced;
use quorate_core::weights::{Gates, Observation};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A guest as the loop knows it. At most `GUESTS_MAX` of them: core refuses more at once.
struct Listener {
    events: mpsc::Sender<ExpertEvent>,
    /// The expert stays in memory.
    _lease: Lease,
}

/// A request that has ended: its vocabulary, and which experts knew its prompt.
pub type Seen = (Fingerprint, Observation);

/// What requests set out from, and where to tell what they saw.
#[derive(Debug)]
pub struct Gate {
    pub gates: Arc<Gates>,
    pub seen: mpsc::Sender<Seen>,
}

#[derive(Default)]
pub(super) struct Guests {
    listeners: BTreeMap<GuestId, Listener>,
    donor: Donor,
    paused: bool,
}

impl Driver {
    pub(super) fn on_mesh_command(&mut self, command: Command) {
        match command {
            Command::Visit {
                visit,
                events,
                lease,
                reply,
            } => {
                self.on_visit(visit, events, lease);
                reply.send(()).ok(); // the caller may have left, and dropped its guest
            }
            Command::GuestOp { guest, op } => self.on_guest_op(guest, op),
            Command::Expel { peer, why } => self.host(host::Input::Expel { peer, why }),
            Command::Knock {
                peer,
                model,
                purpose,
                reply,
            } => {
                let answer = self.knock(peer, &model, purpose);
                reply.send(answer).ok(); // the caller may have left
            }
            Command::Adopt { expert, reply } => {
                let facts = expert.facts().clone();
                let answer = self.experts.adopt(expert);
                if answer.is_ok() {
                    self.meet(&facts);
                }
                reply.send(answer).ok(); // the caller may have left
            }
            Command::Lose { expert, why, reply } => {
                let known = self.experts.lose(expert);
                if known {
                    self.expert_gone(expert, &why);
                }
                reply.send(known).ok(); // the caller may have left
            }
            Command::Rights(rights) => {
                let rights = self.tightened(rights);
                self.rights = rights.clone();
                self.step(node::Input::Rights(rights));
                self.config_tx.send_replace(self.node.config().clone());
            }
            Command::Audit(notes) => self.audit = Audit::to(notes),
            Command::Gate(gate) => {
                let (gates, seen) = gate.map(|Gate { gates, seen }| (gates, seen)).unzip();
                self.seen = seen;
                self.step(node::Input::Gates(gates));
            }
            Command::Policy(policy) => self.policy = policy,
            Command::Donate(donor) => {
                self.guests.donor = donor;
                self.on_donor();
            }
            Command::Pause(paused) => {
                self.guests.paused = paused;
                self.on_donor();
            }
            // `on_command` takes the others.
            Command::Acquire { .. }
            | Command::Submit(_)
            | Command::Dismiss { .. }
            | Command::Status { .. } => {}
        }
    }

    /// Who knew a request that has ended. One that finds no room is not counted.
    pub(super) fn count(&mut self, of: Fingerprint, seen: Observation) -> Option<node::Input> {
        if let Some(counts) = &self.seen {
            counts.try_send((of, seen)).ok();
        }
        None
    }

    fn on_donor(&mut self) {
        let donor = self.guests.donor.clone().paused(self.guests.paused);
        self.host(host::Input::Policy(donor));
    }

    pub(super) fn is_paused(&self) -> bool {
        self.guests.paused
    }

    fn on_visit(&mut self, visit: Box<Visit>, events: mpsc::Sender<ExpertEvent>, lease: Lease) {
        // Before the first output, which may be for it.
        let listener = Listener {
            events,
            _lease: lease,
        };
        self.guests.listeners.insert(visit.guest, listener);
        self.host(host::Input::Open(visit));
    }

    fn on_guest_op(&mut self, guest: GuestId, op: ExpertOp) {
        if matches!(op, ExpertOp::Close { .. }) {
            return self.guest_left(guest);
        }
        self.host(host::Input::Op { guest, op });
    }

    pub(super) fn guest_left(&mut self, guest: GuestId) {
        self.guests.listeners.remove(&guest);
        self.host(host::Input::Gone { guest });
    }

    pub(super) fn tell_guest(&mut self, guest: GuestId, event: ExpertEvent) -> Option<node::Input> {
        let last = matches!(event, ExpertEvent::Failed { .. });
        let heard = self.guests.listeners.get(&guest)?.events.try_send(event);
        if last || heard.is_err() {
            self.guests.listeners.remove(&guest);
        }
        // Slower than its own expert, or gone: cut off.
        let cut = !last && heard.is_err();
        cut.then_some(node::Input::Host(host::Input::Gone { guest }))
    }

    pub(super) fn tick_guests(&mut self) {
        let minute = minute_of_the_day();
        self.host(host::Input::Tick { minute });
    }

    fn host(&mut self, input: host::Input) {
        self.step(node::Input::Host(input));
    }

    pub(super) fn meet(&mut self, facts: &ExpertFacts) {
        self.step(node::Input::Met(Introduced {
            expert: facts.id,
            peer: facts.peer,
            vocabulary: facts.vocab.fingerprint(),
            context: facts.context,
            admitted: true, // nobody else's experts are adopted
        }));
    }

    /// Sessions under way on it end; a goodbye that waited for room is not needed any more.
    pub(super) fn expert_gone(&mut self, expert: ExpertId, why: &str) {
        self.unsent_closes.retain(|(id, _)| *id != expert);
        let why = why.to_owned();
        self.step(node::Input::Left { expert, why });
    }

    pub(super) fn unload(&mut self, name: String) {
        let Some((expert, gone)) = self.experts.unloaded(&name) else {
            return;
        };
        if gone == Gone::Yes {
            self.expert_gone(expert.facts().id, "the model was unloaded");
        }
        let done = self.done_tx.clone();
        tokio::task::spawn_blocking(move || {
            drop(expert); // joins its thread, frees its memory
            done.blocking_send(super::Done::Unloaded { name }).ok(); // the loop may be gone
        });
    }
}

/// It goes on being asked: an alarm is no proof, and who acts on it is the owner.
pub(super) fn warn(expert: ExpertId, suspicion: Suspicion) -> Option<node::Input> {
    tracing::warn!(target: "quorate::driver", %expert, %suspicion, "an expert is suspected");
    None
}

/// On the clock at the wall: hours of a donor are its owner's.
fn minute_of_the_day() -> u16 {
    let now = jiff::Zoned::now();
    now.hour().unsigned_abs() as u16 * 60 + now.minute().unsigned_abs() as u16
}
