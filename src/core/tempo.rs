//! Who guesses ahead, when it pays, and how far: from what one request has measured, without a knob.
//!
//! With guesses a token costs t_d + (1 - alpha) (T + R_d), without them T: t_d is the time of the drafter's choice,
//! R_d how far away it is, T from a question to the decision, alpha the share of its guesses that come true. Whether
//! the prediction held is measured too: experts that share a processor with the drafter are slowed down by it.
//! All but alpha, t_d and R_d is measured for whoever is asked: where experts take turns, a near speaker's token is
//! quicker than any stream of a far one, and says nothing of it.

mod beside;

use crate::ids::Micros;
use crate::limits::GUESSES_MAX;
use beside::Beside;

/// Belief before the first guess, and what it weighs, in guesses.
const ALPHA_FIRST: f64 = 0.7;
const ALPHA_WEIGHT: f64 = 4.0;
/// Older guesses count less by this for every new one: the last hundred matter.
const ALPHA_MEMORY: f64 = 0.99;
/// A guess that comes true less often than this is not worth its checks.
const TRUE_ENOUGH: f64 = 0.01;
/// The gain must be larger than what measuring gets wrong.
const MARGIN: f64 = 0.95;
/// Who leads from elsewhere takes so much longer than its own measures say: its choices and its checks wait for one
/// another.
const ELSEWHERE: f64 = 1.1;
/// New times count by one eighth.
const SMOOTH: f64 = 0.125;
/// Tokens after which streaming is compared with what it replaced.
const TRIAL: u32 = 32;
/// Tokens without guesses after a failed trial; after another one twice as many.
const PAUSE: u32 = 8;
const PAUSE_MAX: u32 = 512;

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Nothing is guessed for so many tokens yet.
    Plain { left: u32 },
    /// So many tokens took so long.
    Stream { us: u64, tokens: u32 },
}

/// What is known of somebody who may guess.
#[derive(Clone, Debug)]
struct Drafter {
    right: f64,
    guesses: f64,
    /// From one choice to the next.
    step_us: Option<f64>,
    /// A round trip to it.
    away_us: Option<f64>,
}

impl Drafter {
    fn alpha(&self) -> f64 {
        self.right / self.guesses
    }
}

/// What guessing brings with those who are asked.
#[derive(Clone, Debug)]
struct Asked {
    /// From a question with nothing ahead of it to the decision.
    trip_us: Option<f64>,
    mode: Mode,
    pause: u32,
}

#[derive(Debug)]
pub struct Tempo {
    /// One for each member of the team, and one who repeats what the text said before.
    drafters: Vec<Drafter>,
    /// One for each member that is asked alone, and one for any several.
    asked: Vec<Asked>,
    /// Which of them it is now.
    at: usize,
    /// When the last position was decided.
    last: Option<Micros>,
    beside: Beside,
}

impl Tempo {
    pub fn new(members: usize) -> Tempo {
        let drafter = Drafter {
            right: ALPHA_FIRST * ALPHA_WEIGHT,
            guesses: ALPHA_WEIGHT,
            step_us: None,
            away_us: None,
        };
        let asked = Asked {
            trip_us: None,
            mode: Mode::Plain { left: 1 },
            pause: PAUSE,
        };
        Tempo {
            drafters: vec![drafter; members + 1],
            asked: vec![asked; members + 1],
            at: members,
            last: None,
            beside: Beside::new(),
        }
    }

    /// These members are asked from here on.
    pub fn asks(&mut self, group: &[usize]) {
        self.at = match group {
            [alone] => *alone,
            _ => self.asked.len() - 1,
        };
    }

    fn asked(&self) -> &Asked {
        &self.asked[self.at]
    }

    /// Stands for what the text said before.
    pub fn repeats(&self) -> usize {
        self.drafters.len() - 1
    }

    /// What somebody would have guessed was compared with the token.
    pub fn compared(&mut self, drafter: usize, is_right: bool) {
        let drafter = &mut self.drafters[drafter];
        drafter.right = drafter.right * ALPHA_MEMORY + f64::from(u8::from(is_right));
        drafter.guesses = drafter.guesses * ALPHA_MEMORY + 1.0;
    }

    /// Its choice took so long, and so much of that was on the way.
    pub fn chose(&mut self, drafter: usize, step_us: u64, away_us: u64) {
        let drafter = &mut self.drafters[drafter];
        smooth(&mut drafter.step_us, step_us);
        smooth(&mut drafter.away_us, away_us);
    }

    /// One that leads made its next choice so long after the last one.
    pub fn went_on(&mut self, drafter: usize, step_us: u64) {
        smooth(&mut self.drafters[drafter].step_us, step_us);
    }

    /// A stream was slower than what it replaced: nobody guesses for a while.
    pub fn rests(&self) -> bool {
        matches!(self.asked().mode, Mode::Plain { left } if left > 0)
    }

    /// Of these, with whether each decides alone: who guesses from now on, if that pays.
    pub fn pick(&mut self, fit: impl Iterator<Item = (usize, bool)>) -> Option<usize> {
        let trip = self.asked().trip_us?;
        if self.rests() {
            return None;
        }
        let cost = |(drafter, alone): (usize, bool)| {
            let known = &self.drafters[drafter];
            let alpha = if alone { 1.0 } else { known.alpha() };
            let away = known.away_us.unwrap_or(0.0);
            let each = known.step_us.unwrap_or(0.0) + (1.0 - alpha) * (trip + away);
            let is_here = alone || away <= 0.0;
            (drafter, if is_here { each } else { each * ELSEWHERE })
        };
        let best = fit.map(cost).min_by(|a, b| a.1.total_cmp(&b.1));
        let (drafter, _) = best.filter(|(_, cost)| *cost < trip * MARGIN)?;
        let mode = &mut self.asked[self.at].mode;
        if let Mode::Plain { .. } = mode {
            *mode = Mode::Stream { us: 0, tokens: 0 };
        }
        Some(drafter)
    }

    /// Guesses of this drafter that may be under way.
    pub fn window(&self, drafter: usize) -> usize {
        let alpha = self.drafters[drafter].alpha();
        if alpha <= TRUE_ENOUGH {
            return 1;
        }
        let far = libm::ceil(libm::log(TRUE_ENOUGH) / libm::log(alpha.min(0.999)));
        (far as usize).clamp(1, GUESSES_MAX)
    }

    /// Guesses of a block that is waited for as a whole: the g that brings most tokens for its time,
    /// g = ln(1 + |ln a| (g + T / t_d)) / |ln a| - 1.
    pub fn block(&self, drafter: usize) -> usize {
        let known = &self.drafters[drafter];
        let slope = -libm::log(known.alpha().clamp(TRUE_ENOUGH, 0.999));
        let ratio = self.asked().trip_us.unwrap_or(0.0) / known.step_us.unwrap_or(0.0).max(1.0);
        let better = |g: f64| libm::log1p(slope * (g + ratio)) / slope - 1.0;
        let g = (0..16).fold(1.0, |g, _| better(g).max(1.0));
        (libm::round(g) as usize).clamp(1, GUESSES_MAX)
    }

    /// Are side branches worth what they cost?
    pub fn branches(&self) -> bool {
        self.beside.is_on()
    }

    /// Tokens of a branch that are guessed before it is known whether it is right.
    pub fn depth(&self) -> usize {
        self.beside.depth()
    }

    /// A guess was wrong, and a branch was right about it or not.
    pub fn was_wrong(&mut self, is_branch: bool) {
        self.beside.was_wrong(is_branch);
    }

    /// A token that this drafter had guessed was decided, after its own answer and everybody else's.
    pub fn streamed(&mut self, drafter: usize, step_us: u64, trip_us: u64) {
        let alpha = self.drafters[drafter].alpha();
        self.beside.decided(alpha, step_us, trip_us);
    }

    /// Nobody was asked for so long: that is no part of what a stream takes.
    pub fn waited(&mut self, us: u64) {
        if let Some(last) = &mut self.last {
            *last = Micros(last.0.saturating_add(us));
        }
    }

    /// A position was decided; `trip_us` if nothing was under way when it was asked about.
    pub fn decided(&mut self, now: Micros, trip_us: Option<u64>) {
        let took_us = self.last.replace(now).map_or(0, |last| now.since(last));
        let asked = &mut self.asked[self.at];
        match &mut asked.mode {
            Mode::Plain { left } => {
                if let Some(us) = trip_us {
                    smooth(&mut asked.trip_us, us);
                    *left = left.saturating_sub(1);
                }
            }
            Mode::Stream { us, tokens } => {
                (*us, *tokens) = (*us + took_us, *tokens + 1);
                if *tokens < TRIAL {
                    return;
                }
                let each_us = *us as f64 / f64::from(*tokens);
                if asked.trip_us.is_some_and(|plain| each_us > plain) {
                    asked.mode = Mode::Plain { left: asked.pause };
                    asked.pause = (asked.pause * 2).min(PAUSE_MAX);
                } else {
                    (*us, *tokens) = (0, 0);
                }
            }
        }
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

    fn pick(tempo: &mut Tempo) -> Option<usize> {
        tempo.pick([(0, false), (1, false)].into_iter())
    }

    #[test]
    fn far_experts_are_drafted_for_and_near_ones_are_not() {
        let mut now = 0;
        let mut far = Tempo::new(2);
        far.chose(0, 10_000, 0);
        far.chose(1, 10_000, 200_000);
        assert_eq!(pick(&mut far), None, "nothing is known yet");
        plain(&mut far, &mut now, 1, 230_000);
        assert_eq!(pick(&mut far), Some(0), "the own expert is nearer");
        assert_eq!(far.window(0), 13, "ln .01 / ln .7");
        assert_eq!(far.block(0), 6, "as in the literature");
        let mut near = Tempo::new(2);
        near.chose(0, 10_000, 0);
        near.chose(1, 10_000, 1_000);
        plain(&mut near, &mut now, 50, 12_000);
        assert_eq!(pick(&mut near), None);
    }

    /// The best drafter is who is right most often, wherever it is; who decides alone is always right.
    #[test]
    fn who_is_right_guesses() {
        let mut now = 0;
        let mut tempo = Tempo::new(2);
        tempo.chose(0, 10_000, 0);
        tempo.chose(1, 10_000, 200_000);
        plain(&mut tempo, &mut now, 1, 230_000);
        for i in 0..300 {
            tempo.compared(0, i % 3 != 0);
            tempo.compared(1, i % 20 != 0);
        }
        assert_eq!(pick(&mut tempo), Some(1));
        let alone = tempo.pick([(0, true)].into_iter());
        assert_eq!(alone, Some(0));
        assert_eq!(tempo.repeats(), 2);
    }

    #[test]
    fn the_window_follows_how_often_guesses_are_right() {
        let mut tempo = Tempo::new(1);
        (0..300).for_each(|i| tempo.compared(0, i % 10 != 0));
        assert!((38..=48).contains(&tempo.window(0)), "{}", tempo.window(0));
        (0..2000).for_each(|_| tempo.compared(0, true));
        assert_eq!(tempo.window(0), GUESSES_MAX);
        (0..2000).for_each(|_| tempo.compared(0, false));
        assert_eq!(tempo.window(0), 1);
    }

    #[test]
    fn a_stream_that_is_slower_than_what_it_replaced_pauses_longer_each_time() {
        let mut now = 0;
        let mut tempo = Tempo::new(1);
        tempo.chose(0, 10_000, 0);
        let mut pauses = vec![];
        let one = |tempo: &mut Tempo| tempo.pick([(0, false)].into_iter());
        for _ in 0..3 {
            let mut pause = 0;
            while one(&mut tempo).is_none() {
                plain(&mut tempo, &mut now, 1, 100_000);
                pause += 1;
            }
            pauses.push(pause);
            for _ in 0..TRIAL {
                assert!(one(&mut tempo).is_some());
                now += 120_000;
                tempo.decided(Micros(now), None);
            }
        }
        assert_eq!(pauses, [1, PAUSE, 2 * PAUSE]);
        while one(&mut tempo).is_none() {
            plain(&mut tempo, &mut now, 1, 100_000);
        }
        for _ in 0..10 * TRIAL {
            now += 40_000;
            tempo.decided(Micros(now), None);
            assert!(one(&mut tempo).is_some(), "a stream that pays goes on");
        }
    }

    /// Experts that take turns are near and far: each has its own measure, and its own trial.
    #[test]
    fn who_speaks_alone_is_compared_with_nobody_else() {
        let mut now = 0;
        let mut tempo = Tempo::new(2);
        tempo.chose(0, 10_000, 0);
        tempo.chose(1, 30_000, 200_000);
        for round in 0..20 {
            tempo.asks(&[0]);
            plain(&mut tempo, &mut now, 9, 10_000);
            assert_eq!(tempo.pick([(0, true)].into_iter()), None, "nobody is far");
            tempo.asks(&[1]);
            // The first token of a turn is asked for across the distance.
            plain(&mut tempo, &mut now, 1, 230_000);
            for _ in 0..8 {
                let far = tempo.pick([(1, true)].into_iter());
                assert_eq!(far, Some(1), "in round {round}");
                now += 30_000;
                tempo.decided(Micros(now), None);
            }
        }
        // A far one whose stream is slower than its own plain tokens rests, and nobody else does.
        tempo.asks(&[0, 1]);
        plain(&mut tempo, &mut now, 1, 230_000);
        tempo.asks(&[1]);
        for _ in 0..2 * TRIAL {
            now += 300_000;
            tempo.decided(Micros(now), None);
        }
        assert!(tempo.rests());
        tempo.asks(&[0, 1]);
        assert!(!tempo.rests());
    }
}
