//! Weights that follow generated text: fixed share towards the weights that they set out from, by what
//! was said of tokens up to so many positions ago.

use super::rule::{BadRule, Following};
use super::table::Table;
use super::track::{Heard, Share};
use crate::ids::Position;
use crate::lnp::LnP;

/// The weights of experts, numbered as in their set, at every position of a generated text. A function of
/// what was heard, in whatever order.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The first generated position.
    from: Position,
    lag: u32,
    start: Share,
    track: Share,
    /// Evidence before this position is in `track`.
    cursor: Position,
    /// From `from` on.
    table: Table,
}

impl Follower {
    /// None: this law does not follow.
    pub fn new(
        from: Position,
        following: Following,
        start: &[f64],
    ) -> Result<Option<Follower>, BadRule> {
        following.check()?;
        let Following::Follow { share, lag } = following else {
            return Ok(None);
        };
        let track = Share::new(share, start);
        Ok(Some(Follower {
            from,
            lag,
            start: track.clone(),
            track,
            cursor: from,
            table: Table::new(start.len()),
        }))
    }

    /// What they set out from.
    pub fn start(&self) -> &[f64] {
        self.start.target()
    }

    /// An expert's exact ln p of the token at a position; the first word counts. False: it is of no use.
    pub fn heard(&mut self, position: Position, expert: usize, ln_p: LnP) -> bool {
        let Some(at) = position.checked_sub(self.from) else {
            return false;
        };
        let is_new = self.table.put(at, expert, ln_p);
        if is_new {
            self.look_back(position);
        }
        is_new
    }

    /// The best that anybody else said of the token at a position.
    pub fn best_but(&self, position: Position, expert: usize) -> Option<LnP> {
        let row = self.table.row(position.checked_sub(self.from)?);
        let others = row.iter().enumerate().filter(|(k, _)| *k != expert);
        others.filter_map(|(_, said)| *said).min() // in steps below certain
    }

    /// What this expert said of a position had no part in it.
    pub fn forget(&mut self, position: Position, expert: usize) {
        if let Some(at) = position.checked_sub(self.from)
            && self.table.take(at, expert)
        {
            self.look_back(position);
        }
    }

    fn look_back(&mut self, position: Position) {
        if position < self.cursor {
            (self.track, self.cursor) = (self.start.clone(), self.from);
        }
    }

    /// Weights of a set (numbers in order) at a position, from what was said of positions before it, the
    /// last `lag` left out. They sum to one.
    pub fn at(&mut self, position: Position, set: &[usize]) -> Vec<f64> {
        let until = position.saturating_sub(self.lag);
        // Of an earlier position than the last time: what was said since is not known there.
        self.look_back(until);
        while self.cursor < until {
            let row = self.table.row(self.cursor - self.from).iter().copied();
            self.track.learn(&Heard::of(row));
            self.cursor += 1;
        }
        let blank = position.saturating_sub(self.cursor);
        self.track.of(set, blank)
    }
}
