//! Audits of one expert after another, put together from measured positions: whole windows, in a drawn order.

use super::Gaps;
use quorate_core::audit::{Audit, MARGIN, Noise, Verdict};
use quorate_core::seeded::Secret;
use serde::Serialize;

/// Experts that are audited, each by windows of one shape in an order of its own.
const STREAMS: usize = 400;
/// Audited tokens of a swapped expert before we give up, and of an honest one.
const SWAPPED_TOKENS: usize = 3_000;
const HONEST_TOKENS: usize = 10_000;
/// An honest life before the swap.
const BEFORE: usize = 3_000;

/// Audited tokens until an expert is found.
#[derive(Debug, Serialize)]
pub struct Detection {
    pub streams: usize,
    pub found: usize,
    pub within_300: usize,
    pub tokens_p50: Option<u64>,
    pub tokens_p95: Option<u64>,
    pub tokens_max: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct FalseAlarms {
    /// Of which the lives are put together.
    pub positions: usize,
    pub experts: usize,
    pub tokens_each: usize,
    /// Ever.
    pub suspect: usize,
    pub swapped: usize,
    pub nats_max: f64,
}

/// Draws without end: the same on every machine.
struct Draws {
    secret: Secret,
    next: u32,
}

impl Draws {
    fn new(stream: usize) -> Draws {
        Draws {
            secret: Secret::from_seed(stream as u64, 17),
            next: 0,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.next += 1;
        self.secret.key(self.next).0[0] as usize % end.max(1)
    }
}

/// An expert of one shape, whichever the number of the stream says: each lives in one only.
fn of_stream(of: &[Gaps], stream: usize) -> &Gaps {
    &of[stream % of.len().max(1)]
}

pub(super) fn detection(noise: Noise, swapped: &Gaps, before: Option<&[Gaps]>) -> Detection {
    let mut took: Vec<u64> = (0..STREAMS)
        .filter_map(|s| one(noise, swapped, before, s))
        .collect();
    took.sort_unstable();
    let at = |share: f64| {
        let rank = (share * STREAMS as f64).ceil() as usize;
        took.get(rank.saturating_sub(1)).copied()
    };
    Detection {
        streams: STREAMS,
        found: took.len(),
        within_300: took.iter().filter(|tokens| **tokens <= 300).count(),
        tokens_p50: at(0.5),
        tokens_p95: at(0.95),
        tokens_max: at(1.0),
    }
}

/// After how many tokens of the swapped file one expert is found.
fn one(noise: Noise, swapped: &Gaps, before: Option<&[Gaps]>, stream: usize) -> Option<u64> {
    let (mut audit, mut draws) = (Audit::under(noise), Draws::new(stream));
    let before = before.map(|honest| of_stream(honest, stream));
    while let Some(honest) = before.filter(|_| audit.positions() < BEFORE as u64) {
        let window = &honest[draws.below(honest.len())];
        window.iter().for_each(|gap| audit.see(*gap));
    }
    if audit.worst() == Verdict::Swapped {
        return None; // that was a false alarm, and no detection
    }
    let began = audit.positions();
    while audit.positions() - began < SWAPPED_TOKENS as u64 {
        for gap in &swapped[draws.below(swapped.len())] {
            audit.see(*gap);
            if audit.verdict() == Verdict::Swapped {
                return Some(audit.positions() - began);
            }
        }
    }
    None
}

/// Honest experts, by noise that was measured on other texts than they are judged on.
pub(super) fn false_alarms(honest: &[Gaps]) -> FalseAlarms {
    let (even, odd) = halves(honest);
    let mut alarms = FalseAlarms {
        positions: honest.iter().flatten().map(Vec::len).sum(),
        experts: STREAMS,
        tokens_each: HONEST_TOKENS,
        suspect: 0,
        swapped: 0,
        nats_max: f64::NEG_INFINITY,
    };
    for (measured, judged) in [(&even, &odd), (&odd, &even)] {
        let noise = noise(measured).map(|score| score * MARGIN);
        for stream in 0..STREAMS / 2 {
            alarms.live(noise, of_stream(judged, stream), stream);
        }
    }
    alarms
}

impl FalseAlarms {
    /// One honest life.
    fn live(&mut self, noise: Noise, texts: &Gaps, stream: usize) {
        let (mut audit, mut draws) = (Audit::under(noise), Draws::new(stream));
        while audit.positions() < HONEST_TOKENS as u64 {
            for gap in &texts[draws.below(texts.len())] {
                audit.see(*gap);
                self.nats_max = f64::max(self.nats_max, audit.nats());
            }
        }
        self.suspect += usize::from(audit.worst() >= Verdict::Suspect);
        self.swapped += usize::from(audit.worst() == Verdict::Swapped);
    }
}

/// Every other text, and the rest.
fn halves(honest: &[Gaps]) -> (Vec<Gaps>, Vec<Gaps>) {
    let half = |first: usize| {
        let of = |gaps: &Gaps| gaps.iter().skip(first).step_by(2).cloned().collect();
        honest.iter().map(of).collect()
    };
    (half(0), half(1))
}

/// Scores that are exceeded at a half, a quarter, ... of the positions, in whichever shape they are exceeded most.
pub(super) fn noise(honest: &[Gaps]) -> Noise {
    let mut most = Noise::default();
    for gaps in honest {
        let mut scores: Vec<f64> = gaps.iter().flatten().map(|gap| gap.score()).collect();
        scores.sort_by(f64::total_cmp);
        for (level, most) in (1..).zip(&mut most) {
            let exceeded = quantile(&scores, 1.0 - f64::exp2(-f64::from(level)));
            *most = exceeded.max(*most);
        }
    }
    most
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let found = sorted.get(rank.clamp(1, sorted.len().max(1)) - 1);
    found.copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::audit::{Gap, NOISE};

    fn texts(distance: f64) -> Gaps {
        let gap = Gap {
            distance,
            spread: 0.5,
        };
        vec![vec![gap; 64]; 4]
    }

    #[test]
    fn a_gross_swap_is_found_at_once_and_who_differs_in_nothing_never() {
        let found = detection(NOISE, &texts(1.0), Some(&[texts(0.0)]));
        assert_eq!((found.found, found.within_300), (STREAMS, STREAMS));
        assert!(found.tokens_max.is_some_and(|tokens| tokens < 64));
        let honest = false_alarms(&[texts(0.1), texts(0.0)]);
        assert_eq!((honest.suspect, honest.swapped), (0, 0));
        assert_eq!(honest.positions, 2 * 4 * 64);
        let none = detection(NOISE, &texts(0.0), None);
        assert_eq!((none.found, none.tokens_p50), (0, None));
    }

    /// One shape of many is not diluted by the others.
    #[test]
    fn noise_is_that_of_the_worst_shape() {
        let alone = noise(&[texts(0.4)]);
        assert_eq!(noise(&[texts(0.0), texts(0.4), texts(0.1)]), alone);
        assert!(alone.iter().all(|score| (0.7..0.8).contains(score)));
    }

    #[test]
    fn nobody_is_judged_by_his_own_texts() {
        let marked = |mark: f64| -> Gaps {
            (0..4)
                .map(|at| texts(mark * at as f64)[0].clone())
                .collect()
        };
        let (measured, judged) = halves(&[marked(0.1)]);
        assert_eq!((measured[0].len(), judged[0].len()), (2, 2));
        assert_eq!(judged[0][0][0].distance, 0.1);
        assert_eq!(measured[0][1][0].distance, 0.2);
    }
}
