//! How long an expert takes to answer, as measured by who asks; never as it says of itself.

use crate::ids::Micros;
use crate::limits::{DEADLINE_READ_MAX_US, DEADLINE_TOKEN_MAX_US, RESPONSE_SAMPLES};

/// Below this many answers nothing is known, and the expert gets the longest deadline.
const SAMPLES_MIN: usize = 8;
/// A prompt is read in no less than this, however short: one step may be under way.
const READ_MIN_US: u64 = 2_000_000;

/// The last answers' times, oldest overwritten first.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    times: Vec<u32>,
    next: usize,
}

impl Samples {
    pub fn add(&mut self, us: u64) {
        let us = us.min(u64::from(u32::MAX)) as u32;
        if self.times.len() < RESPONSE_SAMPLES {
            self.times.push(us);
        } else {
            self.times[self.next] = us;
        }
        self.next = (self.next + 1) % RESPONSE_SAMPLES;
    }

    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The time that `permille` of the answers kept.
    pub fn quantile(&self, permille: usize) -> Option<u64> {
        let mut times = self.times.clone();
        let at = (times.len() * permille / 1000).min(times.len().checked_sub(1)?);
        Some(u64::from(*times.select_nth_unstable(at).1))
    }
}

/// What has been measured of one expert.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Question to answer, one token further.
    token: Samples,
    /// First question to first answer, per token that had to be read.
    read: Samples,
}

/// How deadlines follow from measured times.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Share of its own 95th percentile that an expert is given, in percent.
    pub percent: u32,
    pub floor_us: u64,
}

impl Pace {
    pub fn answered(&mut self, us: u64) {
        self.token.add(us);
    }

    /// It read `tokens` and answered `us` after it was asked.
    pub fn read(&mut self, tokens: usize, us: u64) {
        self.read.add(us / tokens.max(1) as u64);
    }

    pub fn p50_us(&self) -> Option<u64> {
        self.token.quantile(500)
    }

    pub fn p95_us(&self) -> Option<u64> {
        self.token.quantile(950)
    }

    pub fn samples(&self) -> usize {
        self.token.len()
    }

    /// Time that the next answer may take: a step, or reading so many tokens first.
    pub fn deadline_us(&self, patience: Patience, to_read: Option<usize>) -> u64 {
        let share = |us: u64| us.saturating_mul(u64::from(patience.percent)) / 100;
        let step = match self.p95_us() {
            Some(p95) if self.token.len() >= SAMPLES_MIN => {
                share(p95).clamp(patience.floor_us, DEADLINE_TOKEN_MAX_US)
            }
            _ => DEADLINE_TOKEN_MAX_US,
        };
        let Some(tokens) = to_read else { return step };
        match self.read.quantile(950) {
            Some(each) if self.read.len() >= SAMPLES_MIN => {
                (share(each.saturating_mul(tokens as u64)).max(READ_MIN_US) + step)
                    .min(DEADLINE_READ_MAX_US)
            }
            _ => DEADLINE_READ_MAX_US,
        }
    }
}

/// The moment `us` after `since`.
pub fn after(since: Micros, us: u64) -> Micros {
    Micros(since.0.saturating_add(us))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        percent: 200,
        floor_us: 50_000,
    };

    #[test]
    fn quantiles_are_of_the_last_answers_only() {
        let mut samples = Samples::default();
        assert_eq!(samples.quantile(950), None);
        (0..1000).for_each(|us| samples.add(us));
        assert_eq!(samples.len(), RESPONSE_SAMPLES);
        let oldest = 1000 - RESPONSE_SAMPLES as u64;
        assert_eq!(samples.quantile(0), Some(oldest));
        assert_eq!(samples.quantile(1000), Some(999));
        samples.add(u64::MAX);
        assert_eq!(samples.quantile(1000), Some(u64::from(u32::MAX)));
    }

    #[test]
    fn nothing_known_is_the_longest_deadline_and_then_twice_the_own_p95() {
        let mut pace = Pace::default();
        (0..7).for_each(|_| pace.answered(100_000));
        assert_eq!(pace.deadline_us(PATIENCE, None), DEADLINE_TOKEN_MAX_US);
        pace.answered(100_000);
        assert_eq!(pace.deadline_us(PATIENCE, None), 200_000);
        (0..RESPONSE_SAMPLES).for_each(|_| pace.answered(10));
        assert_eq!(pace.deadline_us(PATIENCE, None), PATIENCE.floor_us);
        assert_eq!(pace.deadline_us(PATIENCE, Some(100)), DEADLINE_READ_MAX_US);
        (0..8).for_each(|_| pace.read(100, 4_000_000));
        assert_eq!(pace.deadline_us(PATIENCE, Some(100)), 8_000_000 + 50_000);
        assert_eq!(
            pace.deadline_us(PATIENCE, Some(1_000_000)),
            DEADLINE_READ_MAX_US
        );
    }
}
