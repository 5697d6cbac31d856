//! What theory says of a token's time, from the share of right guesses, the time of a draft and the
//! time from a question to its answer.

use super::Mode;
use quorate_core::limits::GUESSES_MAX;

/// All times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) alpha: f64,
    /// Wrong guesses that a branch was right about.
    pub(super) hit: f64,
    pub(super) draft_ms: f64,
    /// From a question to the answer that decides: the path there and back, and the work.
    pub(super) trip_ms: f64,
    /// From one token to the next of an expert elsewhere that goes on alone.
    pub(super) step_ms: f64,
    /// Tokens for which nobody elsewhere is waited for, and those of somebody elsewhere that goes on alone.
    pub(super) skipped: f64,
    pub(super) followed: f64,
    /// Of all guesses, those of experts elsewhere that led, and those of them that were wrong; and how far away they are.
    pub(super) led: f64,
    pub(super) led_wrong: f64,
    pub(super) path_ms: f64,
}

impl Terms {
    /// `right` says of each position whether its guess comes true: right guesses come in runs, and how many
    /// tokens a block brings is not a function of their share.
    pub(super) fn tps(self, mode: Mode, right: &[bool]) -> f64 {
        let Terms {
            alpha,
            hit,
            draft_ms,
            trip_ms,
            step_ms,
            skipped,
            followed,
            led,
            led_wrong,
            path_ms,
        } = self;
        let guess_ms = (1.0 - led) * draft_ms + led * step_ms;
        // A leader hears of its wrong guess one way later, and is heard again one way later.
        let led_ms = led_wrong * (trip_ms + path_ms);
        let own_wrong = (1.0 - alpha - led_wrong).max(0.0);
        let each_ms = match mode {
            Mode::Naive => skipped * draft_ms + (1.0 - skipped) * trip_ms,
            // A round trip for the first token of whoever gets the word elsewhere.
            Mode::Handover => {
                let first = 1.0 - skipped - followed;
                skipped * draft_ms + followed * step_ms + first * trip_ms
            }
            Mode::Stream => guess_ms + own_wrong * trip_ms + led_ms,
            Mode::Branches => guess_ms + own_wrong * (1.0 - hit) * trip_ms + led_ms,
            // Guesses leave as they are made, and a wrong one ends its block: of its tokens all but the
            // last cost a draft.
            Mode::Block => {
                let tokens = right.len().max(1) as f64;
                let blocks = blocks(right, self.block()) as f64;
                (blocks * trip_ms + (tokens - blocks) * draft_ms) / tokens
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

/// Blocks of so many guesses that a text takes: each ends with a wrong guess, or with the token behind its
/// last one.
fn blocks(right: &[bool], guesses: usize) -> usize {
    let (mut blocks, mut made) = (0, 0);
    for &is_right in right {
        made += 1;
        if !is_right || made > guesses {
            (blocks, made) = (blocks + 1, 0);
        }
    }
    blocks + usize::from(made > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(alpha: f64, trip_ms: f64) -> Terms {
        Terms {
            alpha,
            hit: 0.0,
            draft_ms: 10.0,
            trip_ms,
            step_ms: 30.0,
            skipped: 0.0,
            followed: 0.0,
            led: 0.0,
            led_wrong: 0.0,
            path_ms: 200.0,
        }
    }

    /// Half of the guesses are somebody else's, who takes 30 ms for one and is wrong about each twentieth token of all.
    #[test]
    fn who_leads_from_elsewhere_takes_its_own_time() {
        let terms = Terms {
            led: 0.5,
            led_wrong: 0.05,
            ..far(0.85, 230.0)
        };
        let each_ms = 0.5 * 10.0 + 0.5 * 30.0 + 0.1 * 230.0 + 0.05 * 430.0;
        assert!((1e3 / terms.tps(Mode::Stream, &[]) - each_ms).abs() < 1e-9);
    }

    /// Of ten tokens three by the own expert, and seven in two turns of others.
    #[test]
    fn by_turns_a_round_trip_is_paid_for_the_first_token_of_one_elsewhere() {
        let terms = Terms {
            skipped: 0.3,
            followed: 0.5,
            ..far(1.0, 230.0)
        };
        let each_ms = |mode| 1e3 / terms.tps(mode, &[]);
        assert!(
            (10.0 * each_ms(Mode::Handover) - (3.0 * 10.0 + 5.0 * 30.0 + 2.0 * 230.0)).abs() < 1e-9
        );
        assert!((10.0 * each_ms(Mode::Naive) - (3.0 * 10.0 + 7.0 * 230.0)).abs() < 1e-9);
    }

    /// The numbers of the literature's table: 200 ms there and back, 30 ms of work, 10 ms a draft.
    #[test]
    fn as_in_the_table() {
        for (alpha, block, stream) in [(0.7, 6, 12.7), (0.8, 8, 17.9), (0.9, 14, 30.3)] {
            let terms = far(alpha, 230.0);
            assert!((terms.tps(Mode::Naive, &[]) - 4.35).abs() < 0.01);
            assert!((terms.tps(Mode::Stream, &[]) - stream).abs() < 0.1);
            assert_eq!(terms.block(), block);
        }
        for (alpha, branches) in [(0.7, 22.5), (0.8, 30.3), (0.9, 46.5)] {
            let terms = Terms {
                hit: 0.5,
                ..far(alpha, 230.0)
            };
            assert!((terms.tps(Mode::Branches, &[]) - branches).abs() < 0.1);
        }
    }

    #[test]
    fn a_block_ends_with_a_wrong_guess_or_behind_its_last() {
        assert_eq!(blocks(&[true; 12], 3), 3);
        assert_eq!(blocks(&[true, false, true, true, true, true, false], 3), 3);
        assert_eq!(blocks(&[false; 5], 3), 5);
        assert_eq!(blocks(&[true; 5], 3), 2, "the text ends within one");
        // Four tokens for each round trip of 100 ms and three drafts of 10.
        let terms = far(1.0, 100.0);
        let guesses = terms.block();
        let right = vec![true; 10 * (guesses + 1)];
        let block_ms = 100.0 + 10.0 * guesses as f64;
        let tps = 1e3 * (guesses + 1) as f64 / block_ms;
        assert!((terms.tps(Mode::Block, &right) - tps).abs() < 1e-9);
    }
}
