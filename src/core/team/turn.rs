//! Who speaks, where experts take turns.

use super::{Standing, Team};
use crate::ids::{ExpertId, Position};
use crate::limits::GUESSES_MAX;

impl Team {
    /// The first K of the order that can speak.
    fn speakers(&self) -> Vec<(ExpertId, f64)> {
        let can = |i: &&usize| {
            !matches!(
                self.members[**i].standing,
                Standing::Late | Standing::Gone(_)
            )
        };
        let first = self.order.iter().filter(can).take(self.k);
        first
            .map(|&i| (self.members[i].expert, self.members[i].weight))
            .collect()
    }

    /// The word goes round here, or the first speaker begins.
    pub(super) fn take_turns(&mut self, position: Position) {
        let Some(chain) = &self.chain else { return };
        let speakers = self.speakers();
        let now = self.group.first().map(|&i| self.members[i].expert);
        let next = match now {
            Some(_) if !chain.goes_round(position) => now,
            _ => chain.speaker(position, &speakers),
        };
        // As far as anybody is ever led.
        let ahead = position + 1..position + 2 + GUESSES_MAX as Position;
        let hands_over =
            |p: &Position| chain.goes_round(*p) && chain.speaker(*p, &speakers) != next;
        self.turn_at = ahead.into_iter().find(hands_over).unwrap_or(Position::MAX);
        if next != now {
            self.group.clear();
            self.group.extend(next.and_then(|expert| self.at(expert)));
        }
    }

    /// Nobody is asked about this position or a later one before it is decided who speaks there.
    pub(crate) fn turn_at(&self) -> Position {
        self.turn_at
    }
}
