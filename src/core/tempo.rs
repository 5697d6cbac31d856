//! When guessing ahead pays, and how far: from what one request has measured, without a knob.
//!
//! With guesses a token costs t_d + (1 - alpha) T, without them T: t_d is the time of the drafter's choice, T
//! from a question to the decision, alpha the share of guesses that come true. Whether the prediction held is
//! measured too: experts that share a processor with the drafter are slowed down by it.

use crate::ids::Micros;
use crate::limits::GUESSES_MAX;

/// Belief before the first guess, and what it weighs, in guesses.
const ALPHA_FIRST: f64 = 0.7;
const ALPHA_WEIGHT: f64 = 4.0;
/// Older guesses count less by this for every new one: the last hundred matter.
const ALPHA_MEMORY: f64 = 0.99;
/// A guess that comes true less often than this is not worth its checks.
const TRUE_ENOUGH: f64 = 0.01;
/// The gain must be larger than what measuring gets wrong.
const MARGIN: f64 = 0.95;
/// New times count by one eighth.
const SMOOTH: f64 = 0.125;
/// Tokens after which streaming is compared with what it replaced.
const TRIAL: u32 = 32;
/// Tokens without guesses until they are considered again; after a failed trial more, and then more.
const PAUSE: u32 = 8;
const PAUSE_MAX: u32 = 512;

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Nothing is guessed for so many tokens yet.
    Plain { left: u32 },
    /// Since a moment, for so many tokens.
    Stream { since: Micros, tokens: u32 },
}

#[derive(Debug)]
pub struct Tempo {
    right: f64,
    guesses: f64,
    draft_us: Option<f64>,
    /// From a question with nothing ahead of it to the decision.
    trip_us: Option<f64>,
    mode: Mode,
    pause: u32,
}

impl Default for Tempo {
    fn default() -> Tempo {
        Tempo {
            right: ALPHA_FIRST * ALPHA_WEIGHT,
            guesses: ALPHA_WEIGHT,
            draft_us: None,
            trip_us: None,
            mode: Mode::Plain { left: 1 },
            pause: PAUSE,
        }
    }
}

impl Tempo {
    /// Guesses that may be under way.
    pub fn window(&self) -> usize {
        let alpha = self.alpha();
        match self.mode {
            Mode::Plain { .. } => 0,
            Mode::Stream { .. } if alpha <= TRUE_ENOUGH => 1,
            Mode::Stream { .. } => {
                let far = libm::ceil(libm::log(TRUE_ENOUGH) / libm::log(alpha.min(0.999)));
                (far as usize).clamp(1, GUESSES_MAX)
            }
        }
    }

    /// Guesses of a block that is waited for as a whole: the g that brings most tokens for its time,
    /// g = ln(1 + |ln a| (g + T / t_d)) / |ln a| - 1.
    pub fn block(&self) -> usize {
        let (Mode::Stream { .. }, Some(trip)) = (self.mode, self.trip_us) else {
            return 0;
        };
        let slope = -libm::log(self.alpha().clamp(TRUE_ENOUGH, 0.999));
        let ratio = trip / self.draft_us.unwrap_or(0.0).max(1.0);
        let better = |g: f64| libm::log1p(slope * (g + ratio)) / slope - 1.0;
        let g = (0..16).fold(1.0, |g, _| better(g).max(1.0));
        (libm::round(g) as usize).clamp(1, GUESSES_MAX)
    }

    pub fn alpha(&self) -> f64 {
        self.right / self.guesses
    }

    /// A guess was compared with the token; it need not have been sent.
    pub fn compared(&mut self, is_right: bool) {
        self.right = self.right * ALPHA_MEMORY + f64::from(u8::from(is_right));
        self.guesses = self.guesses * ALPHA_MEMORY + 1.0;
    }

    /// The drafter answered in this time.
    pub fn drafted(&mut self, us: u64) {
        smooth(&mut self.draft_us, us);
    }

    /// A position was decided; `trip_us` if nothing was under way when it was asked about.
    pub fn decided(&mut self, now: Micros, trip_us: Option<u64>) {
        match &mut self.mode {
            Mode::Plain { left } => {
                let Some(us) = trip_us else { return };
                smooth(&mut self.trip_us, us);
                *left = left.saturating_sub(1);
                if *left > 0 {
                    return;
                }
                self.mode = if self.pays() {
                    Mode::Stream {
                        since: now,
                        tokens: 0,
                    }
                } else {
                    Mode::Plain { left: PAUSE }
                };
            }
            Mode::Stream { since, tokens } => {
                *tokens += 1;
                if *tokens < TRIAL {
                    return;
                }
                let each_us = now.since(*since) as f64 / f64::from(*tokens);
                if self.trip_us.is_some_and(|plain| each_us > plain) {
                    self.mode = Mode::Plain { left: self.pause };
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                } else {
                    (*since, *tokens) = (now, 0);
                }
            }
        }
    }

    fn pays(&self) -> bool {
        let Some(trip) = self.trip_us else {
            return false;
        };
        let draft = self.draft_us.unwrap_or(0.0);
        draft + (1.0 - self.alpha()) * trip < trip * MARGIN
    }
}

fn smooth(mean: &mut Option<f64>, us: u64) {
    let us = us as f64;
    *mean = Some(mean.map_or(us, |mean| mean + SMOOTH * (us - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decides `tokens` positions that take `trip_us` each without guesses.
    fn plain(tempo: &mut Tempo, now: &mut u64, tokens: u32, trip_us: u64) {
        for _ in 0..tokens {
            *now += trip_us;
            tempo.decided(Micros(*now), Some(trip_us));
        }
    }

    #[test]
    fn far_experts_are_drafted_for_and_near_ones_are_not() {
        let mut now = 0;
        let mut far = Tempo::default();
        assert_eq!(far.window(), 0, "nothing is known yet");
        far.drafted(10_000);
        plain(&mut far, &mut now, 1, 230_000);
        assert_eq!(far.window(), 13, "ln .01 / ln .7");
        assert_eq!(far.block(), 6, "as in the literature");
        let mut near = Tempo::default();
        near.drafted(10_000);
        plain(&mut near, &mut now, 50, 12_000);
        assert_eq!(near.window(), 0);
    }

    #[test]
    fn the_window_follows_how_often_guesses_are_right() {
        let mut now = 0;
        let mut tempo = Tempo::default();
        plain(&mut tempo, &mut now, 1, 200_000);
        (0..300).for_each(|i| tempo.compared(i % 10 != 0));
        assert!((38..=48).contains(&tempo.window()), "{}", tempo.window());
        (0..2000).for_each(|_| tempo.compared(true));
        assert_eq!(tempo.window(), GUESSES_MAX);
        (0..2000).for_each(|_| tempo.compared(false));
        assert_eq!(tempo.window(), 1);
    }

    #[test]
    fn a_stream_that_is_slower_than_what_it_replaced_pauses_longer_each_time() {
        let mut now = 0;
        let mut tempo = Tempo::default();
        tempo.drafted(10_000);
        let mut pauses = vec![];
        for _ in 0..3 {
            let mut pause = 0;
            while tempo.window() == 0 {
                plain(&mut tempo, &mut now, 1, 100_000);
                pause += 1;
            }
            pauses.push(pause);
            for _ in 0..TRIAL {
                assert!(tempo.window() > 0);
                now += 120_000;
                tempo.decided(Micros(now), None);
            }
        }
        assert_eq!(pauses, [1, PAUSE, 2 * PAUSE]);
        while tempo.window() == 0 {
            plain(&mut tempo, &mut now, 1, 100_000);
        }
        for _ in 0..10 * TRIAL {
            now += 40_000;
            tempo.decided(Micros(now), None);
            assert!(tempo.window() > 0, "a stream that pays goes on");
        }
    }
}
