//! Where the owner's sessions and other people's meet: who is told of what, and who makes way.

use super::{Input, Node, Output};
use crate::governance::{About, Decision};
use crate::host::{self, GuestId, Host, Owner};
use crate::ids::Micros;
use std::collections::{BTreeMap, VecDeque};

impl Node {
    /// Guests and the policy for them.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Takes what concerns guests; gives back what does not.
    pub(super) fn for_guests(
        &mut self,
        now: Micros,
        input: Input,
        out: &mut Vec<Output>,
    ) -> Option<Input> {
        let input = match input {
            Input::Host(host::Input::Open(visit)) => self.on_visit(now, visit, out),
            Input::Host(input) => input,
            Input::FromExpert(from) if self.host.has(GuestId(from.event.session().0)) => {
                host::Input::FromExpert(from)
            }
            Input::SendFailed { session, .. } if self.host.has(GuestId(session.0)) => {
                let guest = GuestId(session.0);
                host::Input::SendFailed { guest }
            }
            other => return Some(other),
        };
        self.guest(now, input, out);
        None
    }

    /// No permit for the mesh: no visit, whoever it is.
    fn on_visit(
        &mut self,
        now: Micros,
        mut visit: Box<host::Visit>,
        out: &mut Vec<Output>,
    ) -> host::Input {
        match self.rights.mesh() {
            Ok(permit) => {
                self.host_permit = Some(permit);
                out.push(Output::Decided(Decision::granted(About::Guest(visit.peer))));
            }
            Err(halted) => {
                let why = halted.to_string();
                let refused = Decision::refused(About::Guest(visit.peer), &why);
                out.push(Output::Decided(refused));
                visit.refused = Some(why);
            }
        }
        // While there are no guests the host hears only whether the owner is busy.
        let owner = host::Input::Owner(self.owner_wants());
        self.guest_only(now, owner, out);
        self.expects(&visit);
        host::Input::Open(visit)
    }

    /// One step of the host; slots that it gave back go to the owner's requests.
    pub(super) fn guest(&mut self, now: Micros, input: host::Input, out: &mut Vec<Output>) {
        self.guest_only(now, input, out);
        self.start_waiting(now, out);
    }

    fn guest_only(&mut self, now: Micros, input: host::Input, out: &mut Vec<Output>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut outputs = Vec::new();
            self.host.handle(now, input, &mut outputs);
            for output in outputs {
                match output {
                    host::Output::ToExpert(expert, op) => {
                        self.for_expert(now, expert, op, out, &mut inputs);
                    }
                    host::Output::ToGuest { guest, event } => {
                        out.push(Output::ToGuest { guest, event });
                    }
                }
            }
            self.forget_mixtures();
        }
    }

    /// After anything that may have changed what the owner's sessions need.
    pub(super) fn owner_first(&mut self, now: Micros, out: &mut Vec<Output>) {
        let busy = !self.running.is_empty() || !self.waiting.is_empty();
        if self.host.is_empty() && self.host.owner().busy == busy {
            return;
        }
        let owner = self.owner_wants();
        if *self.host.owner() != owner {
            self.guest(now, host::Input::Owner(owner), out);
        }
    }

    fn owner_wants(&self) -> Owner {
        let mut wants = BTreeMap::new();
        let waiting = self.waiting.iter();
        let waiting = waiting.flat_map(|w| w.request.experts.local());
        let running = self
            .running
            .values()
            .flat_map(|r| r.experts.iter().copied());
        for expert in running.chain(waiting) {
            *wants.entry(expert).or_insert(0) += 1;
        }
        let busy = !self.running.is_empty() || !self.waiting.is_empty();
        Owner { busy, wants }
    }

    /// A halt ends every guest's session, even one that was lifted before anybody looked.
    pub(super) fn guests_under_rights(&mut self, now: Micros, out: &mut Vec<Output>) {
        if let Some(permit) = self.host_permit
            && let Err(halted) = self.rights.check(permit)
        {
            self.host_permit = None;
            let why = halted.to_string();
            let here = self.host.loads().map(|load| About::Guest(load.peer));
            out.extend(here.map(|peer| Output::Decided(Decision::taken_back(peer, &why))));
            self.guest_only(now, host::Input::Halt { why }, out);
        }
    }
}
