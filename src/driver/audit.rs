//! Where permits are given: by the rights of the mesh, and then by the operator's policy, which only
//! refuses. Decisions are on their way from the loop to whoever writes them down, and the loop never
//! waits for a disk.

use super::{Driver, RefusedError};
use crate::identity;
use crate::policy::{Action, Asked, Source};
use crate::wire::plane::Purpose;
use quorate_core::governance::{
    About, Accepted, Decision, Halted, Noted, Origin, Permit, Rights, Standing, Tier,
};
use quorate_core::ids::{PeerKey, SessionId};
use quorate_core::node;
use quorate_core::opinion::ExpertFailure;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// What was noted, and the hash of the standing that decided.
pub type Note = (Noted, [u8; 32]);

#[derive(Default)]
pub(super) struct Audit {
    /// None: this node belongs to no mesh, and every permit is a local one.
    notes: Option<mpsc::Sender<Note>>,
    missed: u32,
}

impl Audit {
    pub(super) fn to(notes: Option<mpsc::Sender<Note>>) -> Audit {
        let missed = 0;
        Audit { notes, missed }
    }

    fn note(&mut self, decision: Decision, state: [u8; 32]) {
        let Some(notes) = &self.notes else { return };
        if self.missed > 0 && notes.try_send((Noted::Missed(self.missed), state)).is_ok() {
            self.missed = 0;
        }
        // A count that found no room says that there is none for this one either.
        let sent = match self.missed {
            0 => notes.try_send((Noted::Decided(decision), state)),
            _ => Err(TrySendError::Full((Noted::Decided(decision), state))),
        };
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.missed = self.missed.saturating_add(1),
            Err(TrySendError::Closed(_)) => self.notes = None,
        }
    }
}

impl Driver {
    pub(super) fn note(&mut self, decision: Decision) -> Option<node::Input> {
        let state = self.rights.standing().map(Standing::hash);
        self.audit.note(decision, state.unwrap_or_default());
        None
    }

    /// For a request of this node, read by this model.
    pub(super) fn permit(
        &mut self,
        session: SessionId,
        model: &str,
        experts: &node::Experts,
    ) -> Result<Permit, RefusedError> {
        let node::Experts::Mesh { .. } = experts else {
            return Ok(self.rights.local());
        };
        let about = About::Session(session.0 as u64);
        let halted = |why: Halted| RefusedError::Halted(why.to_string());
        let permit = self.rights.mesh().map_err(halted).and_then(|permit| {
            let node = &self.settings.node_id;
            let refused = self.refusal(Action::Ask, Source::Own, node, model);
            refused.map_or(Ok(permit), |why| Err(RefusedError::Policy(why)))
        });
        self.note(match &permit {
            Ok(_) => Decision::granted(about),
            Err(why) => Decision::refused(about, &why.to_string()),
        });
        permit
    }

    /// Before anything is loaded for a guest. The rights of the mesh have their word when it opens.
    pub(super) fn knock(
        &mut self,
        peer: PeerKey,
        model: &str,
        purpose: Purpose,
    ) -> Result<(), ExpertFailure> {
        if let Some(closed) = self.node.host().turned_away(self.now()) {
            return Err(closed);
        }
        let source = match purpose {
            Purpose::User => Source::Guest,
            Purpose::Autonomous => Source::Autonomous,
        };
        let node = identity::peer_id(&peer);
        match self.refusal(Action::Serve, source, &node, model) {
            None => Ok(()),
            Some(why) => {
                self.note(Decision::refused(About::Guest(peer), &why));
                Err(ExpertFailure::Refused(why))
            }
        }
    }

    /// The rights without the accepted changes that the operator refuses. Only what has not taken
    /// effect here is asked about, and what a resume names never is.
    pub(super) fn tightened(&self, rights: Rights) -> Rights {
        let Some(standing) = rights.standing() else {
            return rights;
        };
        let since = self.node.applied().max(standing.restart());
        let refused = |change: Accepted| {
            let source = match change.origin {
                Origin::People => Source::People,
                Origin::Stream => Source::Autonomous,
            };
            let why = self.policy.refusal(&Asked {
                action: Action::Apply,
                source,
                node: &self.settings.node_id,
                model: None,
                tier: change.tier,
                phase: standing.phase(),
                is_halted: standing.is_halted(),
            });
            Some((change.version, why?))
        };
        let first = standing.accepted_after(since).find_map(refused);
        match first {
            None => rights,
            Some((version, why)) => rights.refusing_from(version, &why),
        }
    }

    /// Of a session. Without a standing the rights themselves refuse.
    fn refusal(&self, action: Action, source: Source, node: &str, model: &str) -> Option<String> {
        let standing = self.rights.standing()?;
        self.policy.refusal(&Asked {
            action,
            source,
            node,
            model: Some(model),
            tier: Tier::ReadOnly,
            phase: standing.phase(),
            is_halted: standing.is_halted(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_the_count_comes_before_the_next() {
        let (tx, mut rx) = mpsc::channel(2);
        let mut audit = Audit::to(Some(tx));
        let decision = |n| Decision::granted(About::Session(n));
        for n in 0..5 {
            audit.note(decision(n), [1; 32]);
        }
        let mut heard = || rx.try_recv().ok().map(|(noted, _)| noted);
        assert_eq!(heard(), Some(Noted::Decided(decision(0))));
        assert_eq!(heard(), Some(Noted::Decided(decision(1))));
        assert_eq!(heard(), None);
        audit.note(decision(5), [1; 32]);
        assert_eq!(heard(), Some(Noted::Missed(3)));
        assert_eq!(heard(), Some(Noted::Decided(decision(5))));
    }

    #[test]
    fn without_a_mesh_nothing_is_noted() {
        let mut audit = Audit::default();
        audit.note(Decision::granted(About::Session(1)), [0; 32]);
        assert_eq!(audit.missed, 0);
    }
}
