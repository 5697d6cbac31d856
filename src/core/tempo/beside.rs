//! Whether side branches pay: they save round trips, and slow down everybody who computes them.
//!
//! With branches a token costs t_d' + (1 - alpha)(1 - h) T', without them t_d + (1 - alpha) T. Both pairs of times are
//! measured within the request, one while there are branches and one while there are none; h is the share of wrong
//! guesses that a branch was right about. Times of a token would say the same, and take hundreds of tokens for it:
//! wrong guesses come in runs.

use super::smooth;

/// Belief before the first wrong guess, and what it weighs, in wrong guesses.
const HIT_FIRST: f64 = 0.35;
const HIT_WEIGHT: f64 = 4.0;
/// Older ones count less by this for every new one.
const HIT_MEMORY: f64 = 0.97;
/// Tokens of a stream before the first branch: what it takes without them.
const ALONE: u32 = 8;
/// Tokens after which branches are compared with that.
const TRIAL: u32 = 32;
/// Fewer wrong guesses than this are no evidence against the belief: they come in runs.
const ENOUGH: u32 = 6;
/// Tokens without branches after a failed trial; after another one twice as many.
const PAUSE: u32 = 64;
const PAUSE_MAX: u32 = 512;

/// What a token of a stream takes.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// The drafter, from a question to its answer.
    step_us: Option<f64>,
    /// Everybody else.
    trip_us: Option<f64>,
}

impl Times {
    fn token_us(self, wrong: f64) -> Option<f64> {
        Some(self.step_us? + wrong * self.trip_us?)
    }
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Alone { left: u32 },
    Branches { tokens: u32, wrong: u32 },
}

#[derive(Clone, Debug)]
pub(super) struct Beside {
    alone: Times,
    with: Times,
    hits: f64,
    wrong: f64,
    mode: Mode,
    pause: u32,
}

impl Beside {
    pub(super) fn new() -> Beside {
        Beside {
            alone: Times::default(),
            with: Times::default(),
            hits: HIT_FIRST * HIT_WEIGHT,
            wrong: HIT_WEIGHT,
            mode: Mode::Alone { left: ALONE },
            pause: PAUSE,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        matches!(self.mode, Mode::Branches { .. })
    }

    /// Guesses of a drafter while an answer is on its way.
    pub(super) fn depth(&self) -> usize {
        let steps = match (self.alone.step_us, self.alone.trip_us) {
            (Some(step_us), Some(trip_us)) => libm::ceil(trip_us / step_us.max(1.0)),
            _ => 1.0,
        };
        (steps as usize).max(1)
    }

    pub(super) fn was_wrong(&mut self, is_branch: bool) {
        if let Mode::Branches { wrong, .. } = &mut self.mode {
            *wrong += 1;
            self.hits = self.hits * HIT_MEMORY + f64::from(u8::from(is_branch));
            self.wrong = self.wrong * HIT_MEMORY + 1.0;
        }
    }

    /// A guessed token was decided, by a drafter that is right in this share of cases.
    pub(super) fn decided(&mut self, alpha: f64, step_us: u64, trip_us: u64) {
        let times = match self.mode {
            Mode::Alone { .. } => &mut self.alone,
            Mode::Branches { .. } => &mut self.with,
        };
        smooth(&mut times.step_us, step_us);
        smooth(&mut times.trip_us, trip_us);
        match &mut self.mode {
            Mode::Alone { left: 1 } => {
                self.mode = Mode::Branches {
                    tokens: 0,
                    wrong: 0,
                }
            }
            Mode::Alone { left } => *left -= 1,
            Mode::Branches { tokens, wrong } => {
                *tokens += 1;
                if tokens.is_multiple_of(TRIAL) {
                    let is_known = *wrong >= ENOUGH;
                    self.compare(alpha, is_known);
                }
            }
        }
    }

    fn compare(&mut self, alpha: f64, is_known: bool) {
        let seen = self.hits / self.wrong;
        let hit = if is_known { seen } else { seen.max(HIT_FIRST) };
        let alone = self.alone.token_us(1.0 - alpha);
        let with = self.with.token_us((1.0 - alpha) * (1.0 - hit));
        if alone.zip(with).is_some_and(|(alone, with)| with >= alone) {
            let left = self.pause;
            self.pause = (left * 2).min(PAUSE_MAX);
            self.mode = Mode::Alone { left };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of so many microseconds each, with one wrong guess in ten, until the mode is another one.
    fn until(beside: &mut Beside, on: bool, step_us: u64, hit_in_ten: u32) -> u32 {
        let mut tokens = 0;
        while beside.is_on() != on && tokens < 5_000 {
            tokens += 1;
            if tokens % 10 == 0 {
                beside.was_wrong(tokens / 10 % 10 < hit_in_ten);
            }
            beside.decided(0.9, step_us, 230_000);
        }
        tokens
    }

    /// A tenth of 230 ms is 23 ms a token, of which branches save what they hit.
    #[test]
    fn branches_that_slow_the_drafter_down_by_more_than_they_save_end() {
        let mut cheap = Beside::new();
        assert_eq!(until(&mut cheap, true, 10_000, 4), ALONE);
        assert_eq!(until(&mut cheap, false, 12_000, 4), 5_000, "they go on");
        let mut dear = Beside::new();
        until(&mut dear, true, 10_000, 4);
        let mut pauses = vec![];
        for _ in 0..5 {
            assert!(until(&mut dear, false, 25_000, 4) <= 2 * TRIAL);
            pauses.push(until(&mut dear, true, 10_000, 4));
        }
        assert_eq!(pauses, [64, 128, 256, 512, 512]);
    }

    #[test]
    fn branches_that_are_never_right_end() {
        let mut beside = Beside::new();
        until(&mut beside, true, 10_000, 0);
        let tokens = until(&mut beside, false, 11_000, 0);
        assert!((TRIAL..20 * TRIAL).contains(&tokens), "{tokens}");
    }

    /// Three wrong guesses in a row that no branch was right about say nothing; six do.
    #[test]
    fn a_run_of_misses_ends_no_trial() {
        for (misses, ends) in [(ENOUGH - 1, false), (ENOUGH, true)] {
            let mut beside = Beside::new();
            // The same time for everything: branches pay if one wrong guess is saved, and cost a little.
            until(&mut beside, true, 10_000, 0);
            for token in 0..TRIAL {
                if token < misses {
                    beside.was_wrong(false);
                }
                beside.decided(0.9, 15_000, 230_000);
            }
            assert_eq!(!beside.is_on(), ends, "{misses}");
        }
    }

    #[test]
    fn a_branch_is_as_long_as_an_answer_takes() {
        let mut beside = Beside::new();
        assert_eq!(beside.depth(), 1);
        beside.decided(0.9, 10_000, 230_000);
        assert_eq!(beside.depth(), 23);
    }
}
