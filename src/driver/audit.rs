//! Decisions about permits, on their way from the loop to whoever writes them down. The loop never
//! waits for a disk.

use super::Driver;
use quorate_core::governance::{About, Decision, Halted, Noted, Permit, Standing};
use quorate_core::ids::SessionId;
use quorate_core::node;
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

    /// For a request of this node.
    pub(super) fn permit(
        &mut self,
        session: SessionId,
        experts: &node::Experts,
    ) -> Result<Permit, Halted> {
        let node::Experts::Mesh { .. } = experts else {
            return Ok(self.rights.local());
        };
        let about = About::Session(session.0 as u64);
        let permit = self.rights.mesh();
        self.note(match &permit {
            Ok(_) => Decision::granted(about),
            Err(why) => Decision::refused(about, &why.to_string()),
        });
        permit
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
