//! Decisions from plain lists, the declared truncation: a token that an expert does not list has no
//! mass there. Some of them hold before every list is in. Pure functions; voices come in expert-id
//! order, `missing` is the weight of those that have not spoken.

use crate::aggregate::{Verdict, Voice, leader};
use crate::ids::Token;
use crate::opinion::List;
use crate::seeded::{PositionKey, Secret};
use std::collections::BTreeMap;

/// sum_k w_k a_k(v) of every listed token.
fn mixture(voices: &[Voice<'_>]) -> BTreeMap<Token, f64> {
    let mut sums: BTreeMap<Token, f64> = BTreeMap::new();
    for voice in voices {
        for entry in &voice.list.entries {
            *sums.entry(entry.token).or_default() += voice.weight * entry.ln_p.p();
        }
    }
    sums
}

/// What a list covers: at most one, whatever the rounding.
fn mass(list: &List) -> f64 {
    list.entries
        .iter()
        .map(|e| e.ln_p.p())
        .sum::<f64>()
        .min(1.0)
}

/// argmax_v r(v); final as soon as nobody can be overtaken. Ties go to the lower id, so they wait.
pub fn greedy(voices: &[Voice<'_>], missing: f64) -> Verdict {
    let sums = mixture(voices);
    let Some((best, top)) = leader(sums.iter().map(|(&v, &s)| (v, s))) else {
        return if missing > 0.0 {
            Verdict::Wait
        } else {
            Verdict::NoMass
        };
    };
    let rival = |(&v, &s): (&Token, &f64)| v != best && top <= s + missing;
    // A token on no list yet may still get everything that is missing.
    if missing > 0.0 && (top <= missing || sums.iter().any(rival)) {
        return Verdict::Wait;
    }
    Verdict::Token(best)
}

/// argmax_v r(v)/E_v by a key that no expert has; needs every list.
pub fn seeded(key: PositionKey, voices: &[Voice<'_>]) -> Verdict {
    by_key(key, mixture(voices).into_iter())
}

fn by_key(key: PositionKey, r: impl Iterator<Item = (Token, f64)>) -> Verdict {
    leader(r.map(|(v, r)| (v, r / key.exponential(v))))
        .filter(|(_, score)| *score > 0.0)
        .map_or(Verdict::NoMass, |(v, _)| Verdict::Token(v))
}

/// Whoever believes a token less than this does not support it, so no token comes that every honest expert
/// believes less.
pub const SUPPORT_MIN: f64 = 1e-4;

/// The mixture that `f` liars cannot move far: a token needs f + 1 supporters, and its value is the
/// mean without the f highest and the f lowest. Weights do not count: a liar's may be large.
pub fn robust(voices: &[Voice<'_>], f: usize) -> Vec<(Token, f64)> {
    let mut said: BTreeMap<Token, Vec<f64>> = BTreeMap::new();
    for voice in voices {
        for entry in &voice.list.entries {
            said.entry(entry.token).or_default().push(entry.ln_p.p());
        }
    }
    let kept = voices.len().saturating_sub(2 * f);
    let supported = |values: &[f64]| values.iter().filter(|p| **p >= SUPPORT_MIN).count() > f;
    let trimmed = said.into_iter().filter(|(_, values)| supported(values));
    trimmed
        .filter_map(|(token, mut values)| {
            values.resize(voices.len(), 0.0);
            values.sort_by(f64::total_cmp);
            let middle = values.get(f..f + kept)?;
            let mean = middle.iter().sum::<f64>() / kept.max(1) as f64;
            (mean > 0.0).then_some((token, mean))
        })
        .collect()
}

/// The choice under the robust mixture: by a key that no expert has, or the highest.
pub fn robust_choice(key: Option<PositionKey>, voices: &[Voice<'_>], f: usize) -> Verdict {
    let r = robust(voices, f);
    match key {
        Some(key) => by_key(key, r.into_iter()),
        None => leader(r.into_iter()).map_or(Verdict::NoMass, |(v, _)| Verdict::Token(v)),
    }
}

/// The randomness of rejection sampling at one position. It never leaves the router.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    draft: PositionKey,
    residual: PositionKey,
}

/// Positions are below this, so the residual's keys are those of no position.
const RESIDUAL: u32 = 1 << 31;
/// Stands for u in the draft's key: no vocabulary reaches it.
const COIN: Token = Token::MAX;

impl Draw {
    pub fn new(secret: &Secret, position: u32) -> Draw {
        Draw {
            draft: secret.key(position),
            residual: secret.key(position | RESIDUAL),
        }
    }

    /// Rejection sampling (accept x ~ q with probability r(x)/q(x), else draw from max(r - q, 0)),
    /// decided as soon as the lists that are missing cannot change it. `draft` is the list that q
    /// is; it must be among the voices.
    pub fn choose(&self, draft: &List, voices: &[Voice<'_>], missing: f64) -> Verdict {
        let covered = mass(draft);
        let q = |v: Token| draft.ln_p(v).map_or(0.0, |p| p.p() / covered);
        let drafted = draft.entries.iter().map(|e| (e.token, q(e.token)));
        let Verdict::Token(x) = by_key(self.draft, drafted) else {
            // Nothing to draft from: whatever the others say is the residual.
            return self.residual(|_| 0.0, voices, missing);
        };
        let s: f64 = voices
            .iter()
            .map(|v| v.weight * v.list.ln_p(x).map_or(0.0, |p| p.p()))
            .sum();
        let z: f64 = voices.iter().map(|v| v.weight * mass(v.list)).sum();
        // exp(-E) is uniform, and independent of the E of every token.
        let u = libm::exp(-self.draft.exponential(COIN));
        let bar = u * q(x) * (z + missing);
        if bar <= s {
            Verdict::Token(x)
        } else if bar > s + missing {
            self.residual(q, voices, missing)
        } else {
            Verdict::Wait
        }
    }

    fn residual(&self, q: impl Fn(Token) -> f64, voices: &[Voice<'_>], missing: f64) -> Verdict {
        if missing > 0.0 {
            return Verdict::Wait;
        }
        let z: f64 = voices.iter().map(|v| v.weight * mass(v.list)).sum();
        let r = mixture(voices).into_iter();
        by_key(self.residual, r.map(|(v, s)| (v, (s / z - q(v)).max(0.0))))
    }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
