//! What an expert may say in a session: what it was asked, and once.

use quorate_core::opinion::{ExpertEvent, ExpertOp, Open};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owed {
    ready: bool,
    scores: bool,
    /// Opinions. Those that were taken back may still come.
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
            ExpertOp::Draft { epoch, queries, .. } | ExpertOp::Lead { epoch, queries, .. } => {
                self.answers = self.answers.saturating_add(queries.len() as u32);
                self.epoch = self.epoch.max(*epoch);
            }
            ExpertOp::Ask { epoch, .. } | ExpertOp::Branch { epoch, .. } => {
                self.answers = self.answers.saturating_add(1);
                self.epoch = self.epoch.max(*epoch);
            }
            ExpertOp::Truncate { epoch, .. } => self.epoch = self.epoch.max(*epoch),
            ExpertOp::Settle { .. }
            | ExpertOp::Forget { .. }
            | ExpertOp::Open(_)
            | ExpertOp::Close { .. } => {}
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
            ExpertEvent::Opinions { opinions, .. } => {
                match self.answers.checked_sub(opinions.len() as u32) {
                    Some(left) => self.answers = left,
                    None => return Err("it sent opinions that nobody asked for"),
                }
            }
            ExpertEvent::Failed { .. } => {}
        }
        Ok(())
    }
}
