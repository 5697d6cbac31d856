//! Side branches: other texts of a session, each a session to the plan and to the cache. What a branch has in common with
//! its text is a copy of that sequence, which costs no cell. It is the first to make way: without room it is not
//! computed, and says what it was asked once it is the text.

use super::cache::common_prefix;
use super::session::Session;
use super::step::Engine;
use quorate_core::ids::{Position, SessionId, Token};
use quorate_core::opinion::{ExpertFailure, ExpertOp, Query};

impl Engine<'_> {
    /// Which text of a session an operation is for.
    pub(super) fn text_for(&self, op: &ExpertOp) -> Option<usize> {
        let branch = match op {
            ExpertOp::Draft { session, epoch, .. } => self.find_branch(*session, *epoch),
            _ => None,
        };
        branch.or_else(|| self.find(op.session()))
    }

    fn find_branch(&self, id: SessionId, epoch: u32) -> Option<usize> {
        let is_it = |s: &Session| s.is_branch && s.id == id && s.epoch() == epoch;
        self.sessions.iter().position(is_it)
    }

    pub(super) fn branch(
        &mut self,
        of: usize,
        epoch: u32,
        position: Position,
        token: Token,
        query: Query,
    ) -> Result<(), ExpertFailure> {
        let id = self.sessions[of].id;
        let branches = self.sessions.iter().filter(|s| s.is_branch && s.id == id);
        if branches.count() >= self.bounds.branches {
            return Err(ExpertFailure::Refused("too many branches".into()));
        }
        let (step, pool) = (self.steps, &mut self.pool);
        let branch = self.sessions[of].branch(epoch, position, token, query, step, pool)?;
        self.sessions[of].branched(epoch);
        self.sessions.push(branch);
        Ok(())
    }

    /// The branch takes the place of the text, which is as old as the session.
    pub(super) fn settle(&mut self, of: usize, epoch: u32) -> Result<(), ExpertFailure> {
        let id = self.sessions[of].id;
        let newest = self.sessions[of].newest();
        let Some(branch) = self.find_branch(id, epoch) else {
            return Err(no_branch(epoch));
        };
        self.sessions.swap(of, branch);
        self.sessions[of].is_branch = false;
        self.sessions[of].branched(newest);
        self.sessions[branch].is_branch = true;
        self.inherit(of, branch);
        self.drop_branches(id);
        Ok(())
    }

    /// A branch that had no room goes on in the cells of the text that it leaves.
    fn inherit(&mut self, heir: usize, from: usize) {
        if self.sessions[heir].sequence.is_some() {
            return;
        }
        let text = &self.sessions[heir].text[..self.sessions[heir].reusable()];
        let old = &self.sessions[from];
        let common = common_prefix(&old.text, text).min(old.cached);
        let Some(mut sequence) = self.sessions[from].sequence.take() else {
            return;
        };
        if self.cache.shrink(&mut sequence, common) {
            self.sessions[heir].begin(sequence);
        } else {
            self.cache.release(sequence);
        }
    }

    pub(super) fn forget(&mut self, id: SessionId, epoch: u32) -> Result<(), ExpertFailure> {
        let branch = self
            .find_branch(id, epoch)
            .ok_or_else(|| no_branch(epoch))?;
        self.drop_text(branch);
        Ok(())
    }

    pub(super) fn drop_branches(&mut self, id: SessionId) {
        let is_one = |s: &Session| s.is_branch && s.id == id;
        while let Some(index) = self.sessions.iter().position(is_one) {
            self.drop_text(index);
        }
    }

    /// It is nobody's, and no beginning of anything.
    fn drop_text(&mut self, index: usize) {
        let mut text = self.sessions.remove(index);
        text.close(&mut self.pool);
        if let Some(sequence) = text.sequence.take() {
            self.cache.release(sequence);
        }
    }
}

fn no_branch(epoch: u32) -> ExpertFailure {
    ExpertFailure::Refused(format!("there is no branch of epoch {epoch}"))
}
