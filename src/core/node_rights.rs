//! What a node does when its rights change: which config it runs, whose sessions end, and what it
//! writes down about that.

use super::{Node, Output, Running as Session, SessionInput, never_ran};
use crate::governance::{About, Decision, Permit, Rights, Running};
use crate::ids::{Micros, SessionId};
use std::collections::VecDeque;

impl Node {
    pub(super) fn on_rights(&mut self, now: Micros, rights: Rights, out: &mut Vec<Output>) {
        self.follow(&rights, out);
        self.rights = rights;
        self.guests_under_rights(now, out);
        let refused = |permit: Permit| {
            let halted = self.rights.check(permit).err();
            halted.map(|halted| halted.to_string())
        };
        let may_not = |(id, r): (&SessionId, &Session)| Some((*id, refused(r.permit)?));
        let stopped: Vec<(SessionId, String)> = self.running.iter().filter_map(may_not).collect();
        let mut kept = VecDeque::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let session = waiting.request.spec.session;
            match self.rights.check(waiting.request.permit) {
                Ok(()) => kept.push_back(waiting),
                Err(halted) => {
                    let why = halted.to_string();
                    out.push(taken_back(session, &why));
                    let event = never_ran(why);
                    out.push(Output::Event { session, event });
                }
            }
        }
        self.waiting = kept;
        for (session, why) in stopped {
            out.push(taken_back(session, &why));
            self.step(now, session, SessionInput::Abort(why), out);
        }
    }

    /// The mesh's config, as far as it takes effect here; without a mesh that of the start.
    fn follow(&mut self, rights: &Rights, out: &mut Vec<Output>) {
        let Some(standing) = rights.standing() else {
            self.of_mesh = None;
            self.config = self.config_alone.clone();
            return;
        };
        let is_same = self.rights.standing().map(|old| old.network()) == Some(standing.network());
        let known = self.of_mesh.take().filter(|_| is_same);
        let mut running = known.unwrap_or_else(|| Running::begin(rights, standing));
        // What takes effect, and what comes after it and does not.
        for _ in 0..2 {
            out.extend(running.under(rights).map(Output::Decided));
        }
        self.config = running.config().clone();
        self.of_mesh = Some(running);
    }
}

fn taken_back(session: SessionId, why: &str) -> Output {
    let about = About::Session(session.0 as u64);
    Output::Decided(Decision::taken_back(about, why))
}
