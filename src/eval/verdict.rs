//! The decision rule of `research/mixing.md`, so that nobody applies it by hand.

use super::figures::DEFAULT;
use super::report::{Gain, Row};
use quorate_core::weights::Strategy;
use serde::Serialize;

/// Perplexity of the default on mixed documents, over that of the best single expert...
const MIXED_MOST: f64 = 0.80;
/// ...of the one that the prompt would choose...
const MIXED_BY_PROMPT_MOST: f64 = 0.70;
/// ...and on pure documents.
const PURE_MOST: f64 = 1.01;
/// Of the gain of the largest K.
const KEPT_LEAST: f64 = 0.90;
/// Another strategy has to be better by this much on mixed documents.
const BETTER: f64 = 0.99;

/// Hypotheses by their numbers in the protocol. Null: there was nothing to judge by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// 1: it pays as much as was hoped on text that changes domain.
    pub mixed_as_hoped: Option<bool>,
    /// ...or at all: the interval lies below 1.
    pub mixed_pays: Option<bool>,
    /// 2: it costs next to nothing on pure text.
    pub pure_free: Option<bool>,
    /// 3: few experts keep the gain of many.
    pub few_suffice: Option<bool>,
    /// 4: nothing that is promised was broken.
    pub promises_kept: bool,
    /// What the rule makes the default; null: it names none, so nothing changes.
    pub default: Option<&'static str>,
}

pub(super) struct Facts<'a> {
    pub(super) rows: &'a [Row],
    pub(super) k: usize,
    pub(super) mixed: Option<Gain>,
    pub(super) mixed_by_prompt: Option<Gain>,
    pub(super) pure: Option<Gain>,
    pub(super) kept: Option<f64>,
    pub(super) violations: usize,
}

impl Verdict {
    pub(super) fn of(facts: &Facts<'_>) -> Verdict {
        let pays = facts.mixed.map(|gain| gain.ci[1] < 1.0);
        let pure_free = facts.pure.map(|gain| gain.ppl_ratio <= PURE_MOST);
        let as_hoped = facts.mixed.zip(facts.mixed_by_prompt);
        let as_hoped = as_hoped.map(|(oracle, prompt)| {
            let is_enough = oracle.ppl_ratio <= MIXED_MOST && oracle.ci[1] < 1.0;
            is_enough && prompt.ppl_ratio <= MIXED_BY_PROMPT_MOST
        });
        let promises_kept = facts.violations == 0;
        let candidate = (pure_free == Some(true) && promises_kept && facts.mixed.is_some())
            .then_some(DEFAULT.0.name());
        Verdict {
            mixed_as_hoped: as_hoped,
            mixed_pays: pays,
            pure_free,
            few_suffice: facts.kept.map(|kept| kept >= KEPT_LEAST),
            promises_kept,
            default: better(facts.rows, facts.k).or(candidate),
        }
    }
}

/// The strategy with the least loss on mixed documents among those that are better than the
/// candidate there, beyond doubt and by more than a hundredth, and not worse on pure ones.
fn better(rows: &[Row], k: usize) -> Option<&'static str> {
    let find = |set: &str, strategy: &str| {
        let mut rows = rows.iter();
        rows.find(|r| r.set == set && r.domain == set && r.strategy == strategy && r.k == k)
    };
    let others = Strategy::ALL.into_iter().filter(|s| *s != DEFAULT.0);
    let rivals = others.filter_map(|strategy| {
        let (mixed, pure) = (
            find("mixed", strategy.name())?,
            find("pure", strategy.name())?,
        );
        let is_better = mixed.vs_default.ppl_ratio < BETTER && mixed.vs_default.ci[1] < 1.0;
        let is_worse = pure.vs_default.ppl_ratio > 1.0 && pure.vs_default.ci[0] > 1.0;
        (is_better && !is_worse).then_some(mixed)
    });
    let best = rivals.min_by(|a, b| a.nats.total_cmp(&b.nats));
    best.map(|row| row.strategy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gain(ppl_ratio: f64, low: f64, high: f64) -> Gain {
        Gain {
            ppl_ratio,
            ci: [low, high],
        }
    }

    fn row(set: &'static str, strategy: &'static str, nats: f64, vs_default: Gain) -> Row {
        Row {
            set,
            domain: set.into(),
            strategy,
            k: 4,
            nats,
            ci: [nats, nats],
            vs_oracle: gain(1.0, 1.0, 1.0),
            vs_default,
        }
    }

    fn of(rows: &[Row], mixed: Gain, pure: f64) -> Verdict {
        Verdict::of(&Facts {
            rows,
            k: 4,
            mixed: Some(mixed),
            mixed_by_prompt: Some(gain(0.69, 0.6, 0.8)),
            pure: Some(gain(pure, 0.9, 1.1)),
            kept: Some(0.95),
            violations: 0,
        })
    }

    #[test]
    fn the_rule_is_the_protocols() {
        let hoped = gain(0.79, 0.7, 0.9);
        let verdict = of(&[], hoped, 1.005);
        let every = [
            verdict.mixed_as_hoped,
            verdict.mixed_pays,
            verdict.pure_free,
        ];
        assert_eq!(every, [Some(true); 3]);
        assert_eq!(
            (verdict.few_suffice, verdict.default),
            (Some(true), Some("meta"))
        );
        // Less than hoped, but it pays.
        let verdict = of(&[], gain(0.85, 0.8, 0.99), 1.005);
        assert_eq!(
            (verdict.mixed_as_hoped, verdict.mixed_pays),
            (Some(false), Some(true))
        );
        assert_eq!(of(&[], gain(0.85, 0.8, 1.0), 1.005).mixed_pays, Some(false));
        // Too dear on pure text: nothing takes the candidate's place by itself.
        assert_eq!(of(&[], hoped, 1.02).default, None);
    }

    #[test]
    fn another_strategy_takes_the_place_only_beyond_doubt() {
        let hoped = gain(0.79, 0.7, 0.9);
        let default = |share_mixed: Gain, share_pure: Gain| {
            let rows = [
                row("mixed", "share", 2.5, share_mixed),
                row("pure", "share", 2.0, share_pure),
                row("mixed", "uniform", 2.4, gain(0.9, 0.8, 1.01)),
                row("pure", "uniform", 2.0, gain(1.0, 1.0, 1.0)),
            ];
            of(&rows, hoped, 1.0).default
        };
        let same = gain(1.0, 0.999, 1.001);
        assert_eq!(default(gain(0.98, 0.97, 0.99), same), Some("share"));
        assert_eq!(default(gain(0.995, 0.99, 0.999), same), Some("meta"));
        assert_eq!(default(gain(0.98, 0.95, 1.001), same), Some("meta"));
        assert_eq!(
            default(gain(0.98, 0.97, 0.99), gain(1.01, 1.002, 1.02)),
            Some("meta")
        );
    }
}
