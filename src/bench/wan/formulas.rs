//! What theory says of a token's time, from the share of right guesses, the time of a draft and the
//! time from a question to its answer.

use super::Mode;
use quorate_core::limits::GUESSES_MAX;

/// All times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) alpha: f64,
    pub(super) draft_ms: f64,
    /// From a question to the answer that decides: the path there and back, and the work.
    pub(super) trip_ms: f64,
}

impl Terms {
    pub(super) fn tps(self, mode: Mode) -> f64 {
        let Terms {
            alpha,
            draft_ms,
            trip_ms,
        } = self;
        let each_ms = match mode {
            Mode::Naive => trip_ms,
            Mode::Stream => draft_ms + (1.0 - alpha) * trip_ms,
            Mode::Block => {
                // Guesses leave as they are made, and a wrong one ends its block: of E tokens all but
                // the last cost a draft.
                let tokens = self.tokens(self.block());
                (trip_ms + (tokens - 1.0) * draft_ms) / tokens
            }
        };
        1e3 / each_ms
    }

    /// Tokens that a block of so many guesses brings: its right guesses, and the one that follows.
    fn tokens(self, guesses: usize) -> f64 {
        (0..=guesses).map(|n| self.alpha.powi(n as i32)).sum()
    }

    /// The block that brings most for its time: the router waits for all of it.
    fn block(self) -> usize {
        let better = |g: &usize, h: &usize| {
            let rate = |n: usize| self.tokens(n) / (n as f64 * self.draft_ms + self.trip_ms);
            rate(*g).total_cmp(&rate(*h))
        };
        (1..=GUESSES_MAX).max_by(better).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the literature's table: 200 ms there and back, 30 ms of work, 10 ms a draft.
    #[test]
    fn as_in_the_table() {
        for (alpha, block, stream) in [(0.7, 6, 12.7), (0.8, 8, 17.9), (0.9, 14, 30.3)] {
            let terms = Terms {
                alpha,
                draft_ms: 10.0,
                trip_ms: 230.0,
            };
            assert!((terms.tps(Mode::Naive) - 4.35).abs() < 0.01);
            assert!((terms.tps(Mode::Stream) - stream).abs() < 0.1);
            assert_eq!(terms.block(), block);
            let between = terms.tps(Mode::Naive)..terms.tps(Mode::Stream) * 1.05;
            assert!(between.contains(&terms.tps(Mode::Block)));
        }
    }
}
