//! Distributions of undecided positions, retained for second questions; their buffers go round.

use quorate_core::distribution::Distribution;
use quorate_core::ids::Position;
use quorate_core::limits::SESSIONS_MAX;

/// Retained distributions of one session, in order of position.
#[derive(Debug, Default)]
pub(super) struct Rows(Vec<(Position, Distribution)>);

impl Rows {
    pub(super) fn at(&self, position: Position) -> Option<&Distribution> {
        let found = self.0.iter().find(|(at, _)| *at == position);
        found.map(|(_, row)| row)
    }

    pub(super) fn put(&mut self, position: Position, row: Distribution, pool: &mut Pool) {
        self.keep(|at| at != position, pool);
        self.0.push((position, row));
    }

    pub(super) fn keep(&mut self, wanted: impl Fn(Position) -> bool, pool: &mut Pool) {
        let mut index = 0;
        while index < self.0.len() {
            if wanted(self.0[index].0) {
                index += 1;
            } else {
                pool.give(self.0.swap_remove(index).1);
            }
        }
    }
}

/// Unused distributions: each has buffers for a whole vocabulary, so they are not made per token.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Distribution>);

impl Pool {
    pub(super) fn take(&mut self) -> Distribution {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, row: Distribution) {
        if self.0.len() < SESSIONS_MAX {
            self.0.push(row);
        }
    }
}
