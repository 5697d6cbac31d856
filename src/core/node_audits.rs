//! Audits of experts elsewhere, by this node's own experts, while nobody else wants them.

use super::{Input, Node, Output};
use crate::audit::{Budget, Progress};
use crate::generate::Spec;
use crate::governance::Permit;
use crate::ids::{ExpertId, Position};
use crate::opinion::{ExpertEvent, FromExpert};
use crate::team::Plan;
use std::ops::Range;

impl Node {
    /// What audits may take and took.
    pub fn audits(&self) -> Budget {
        self.desk.budget()
    }

    /// Is something of this request's answer to be computed again?
    pub(super) fn watch(&mut self, spec: &Spec, plan: &Plan) -> Option<Range<Position>> {
        let here = |file: &[u8; 32]| {
            let mut known = self.roster.iter();
            let twin =
                known.find(|k| k.facts.peer.is_none() && k.facts.file.as_ref() == Some(file));
            twin.map(|twin| twin.facts.expert)
        };
        let twin = |expert: ExpertId| {
            let facts = &self.roster.get(expert)?.facts;
            facts.peer?;
            Some((expert, here(facts.file.as_ref()?)?))
        };
        let asked = plan.candidates.iter().map(|candidate| candidate.expert);
        let twins: Vec<(ExpertId, ExpertId)> = asked.filter_map(twin).collect();
        self.desk.begins(spec, &twins)
    }

    /// Takes what concerns the audit under way; gives back what does not.
    pub(super) fn for_audits(&mut self, input: Input, out: &mut Vec<Output>) -> Option<Input> {
        match input {
            Input::FromExpert(FromExpert { event, .. })
                if self.desk.is_under_way(event.session()) =>
            {
                self.on_twin(event, out);
                None
            }
            Input::SendFailed { session, .. } if self.desk.is_under_way(session) => {
                self.stop_audit(out);
                None
            }
            other => Some(other),
        }
    }

    fn on_twin(&mut self, event: ExpertEvent, out: &mut Vec<Output>) {
        let Progress::Done { close, gaps } = self.desk.heard(event) else {
            return;
        };
        out.push(Output::ToExpert(close.0, close.1));
        for (expert, gap) in gaps {
            let suspicion = self.roster.audited(expert, gap);
            out.extend(suspicion.map(|suspicion| Output::Suspect { expert, suspicion }));
        }
    }

    /// After anything that may have made the node idle or busy.
    pub(super) fn audit_when_idle(&mut self, out: &mut Vec<Output>) {
        let is_busy = !self.running.is_empty() || !self.waiting.is_empty() || !self.host.is_empty();
        let permit = self.audit_permit();
        if is_busy || permit.is_none() {
            return self.stop_audit(out);
        }
        let Some((twin, ops)) = self.desk.start() else {
            return;
        };
        self.audit_permit = permit;
        out.extend(ops.into_iter().map(|op| Output::ToExpert(twin, op)));
    }

    /// The twin is told in any case: it may have opened the session before its mailbox was full.
    fn stop_audit(&mut self, out: &mut Vec<Output>) {
        let close = self.desk.stop();
        out.extend(close.map(|(twin, op)| Output::ToExpert(twin, op)));
    }

    /// Nothing is computed about a mesh that was halted, also not again: an audit goes on under the permit that it
    /// began with.
    fn audit_permit(&self) -> Option<Permit> {
        let now = self.rights.mesh().ok()?;
        let began = self.audit_permit.filter(|_| self.desk.is_busy());
        began.map_or(Some(now), |began| {
            self.rights.check(began).is_ok().then_some(began)
        })
    }
}
