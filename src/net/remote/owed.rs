//! What an expert may say in a session: what it was asked, and once.

use quorate_core::opinion::{ExpertEvent, ExpertOp, Open};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owed {
    ready: bool,
    scores: bool,
    /// Messages with opinions.
    answers: u32,
    /// The newest that was asked under.
    epoch: u32,
}

impl Owed {
    pub(super) fn at(open: &Open) -> Owed {
        Owed {
            ready: true,
            scores: open.score,
            answers: 0,
            epoch: 0,
        }
    }

    pub(super) fn asked(&mut self, op: &ExpertOp) {
        match op {
            ExpertOp::Draft { epoch, queries, .. } => {
                self.answers += u32::from(!queries.is_empty());
                self.epoch = self.epoch.max(*epoch);
            }
            ExpertOp::Ask { epoch, .. } => {
                self.answers += 1;
                self.epoch = self.epoch.max(*epoch);
            }
            ExpertOp::Truncate { epoch, .. } => self.epoch = self.epoch.max(*epoch),
            ExpertOp::Open(_) | ExpertOp::Close { .. } => {}
        }
    }

    /// Err: what nobody asked for.
    pub(super) fn said(&mut self, event: &ExpertEvent) -> Result<(), &'static str> {
        match event {
            ExpertEvent::Ready { .. } if self.ready => self.ready = false,
            ExpertEvent::Ready { .. } => return Err("it was ready twice"),
            ExpertEvent::Scored { .. } if self.scores => self.scores = false,
            ExpertEvent::Scored { .. } => return Err("it sent scores that nobody asked for"),
            ExpertEvent::Opinions { epoch, .. } if *epoch > self.epoch => {
                return Err("it answered in an epoch that has not begun");
            }
            ExpertEvent::Opinions { .. } => match self.answers.checked_sub(1) {
                Some(left) => self.answers = left,
                None => return Err("it sent opinions that nobody asked for"),
            },
            ExpertEvent::Failed { .. } => {}
        }
        Ok(())
    }
}
