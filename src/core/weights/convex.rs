//! The convex mixture that explains a text best: EM with a Dirichlet guard.
//!
//! With guard a0 = N a, EM climbs F(w) = Σ_t ln r_t + a Σ_k ln w_k. Let pull_k = Σ_t p_k / r_t over T
//! positions. If every pull is at most T + a0, then for every expert Σ_t ln(p_k / r_t) <=
//! T ln((T + a0) / T) <= a0 by Jensen: the mixture loses at most a0 nats against the best single
//! expert. At the top of F that holds, so it is both the promise and the sign that it may stop.

use super::table::nats;
use crate::lnp::LnP;

/// a0: as much as one more token that everybody explains alike.
pub const GUARD_NATS: f64 = 1.0;
/// Steps of EM. Each reads the whole text; what has not come near by then keeps its promise another way.
const STEPS_MAX: usize = 64;
/// A step that gains less than this, in nats of the whole text, is the last.
const GAIN_MIN: f64 = 1e-3;

/// ln p of a text as probabilities relative to each position's best; None where nobody spoke.
struct Said {
    experts: usize,
    rows: Vec<Option<f64>>,
}

impl Said {
    fn new(experts: usize, rows: &[&[Option<LnP>]]) -> Said {
        let mut all = Vec::with_capacity(rows.len() * experts);
        for row in rows.iter().filter(|row| row.iter().any(Option::is_some)) {
            let ln = row.iter().map(|said| said.map(nats));
            let top = ln.clone().flatten().fold(f64::NEG_INFINITY, f64::max);
            all.extend(ln.map(|said| said.map(|ln_p| libm::exp(ln_p - top))));
        }
        Said { experts, rows: all }
    }

    fn len(&self) -> f64 {
        (self.rows.len() / self.experts) as f64
    }

    /// What these weights give each position, and each expert's pull. Who said nothing of a position
    /// is taken to have said what the others did.
    fn pulls(&self, weights: &[f64]) -> (f64, Vec<f64>) {
        let (mut ln_text, mut pulls) = (0.0, vec![0.0; self.experts]);
        for row in self.rows.chunks(self.experts) {
            let (mut given, mut mass) = (0.0, 0.0);
            for (weight, p) in weights.iter().zip(row) {
                if let Some(p) = p {
                    given += weight * p;
                    mass += weight;
                }
            }
            let r = given / mass;
            ln_text += libm::log(r);
            for (pull, p) in pulls.iter_mut().zip(row) {
                *pull += p.map_or(1.0, |p| p / r);
            }
        }
        (ln_text, pulls)
    }

    fn best(&self, weights: &[f64]) -> usize {
        let mut ln = vec![0.0; self.experts];
        for row in self.rows.chunks(self.experts) {
            let known = weights.iter().zip(row);
            let known = known.filter_map(|(w, p)| Some((w, (*p)?)));
            let (given, mass) = known.fold((0.0, 0.0), |(g, m), (w, p)| (g + w * p, m + w));
            for (ln, p) in ln.iter_mut().zip(row) {
                *ln += libm::log(p.unwrap_or(given / mass));
            }
        }
        (0..self.experts)
            .reduce(|a, b| if ln[b] > ln[a] { b } else { a })
            .unwrap_or(0)
    }
}

/// Weights whose loss on this text is at most [`GUARD_NATS`] above the best single expert's, where
/// everybody spoke of every position.
pub(super) fn fit(experts: usize, rows: &[&[Option<LnP>]]) -> Vec<f64> {
    let said = Said::new(experts, rows);
    let (tokens, guard) = (said.len(), GUARD_NATS / experts as f64);
    let mut weights = vec![1.0 / experts as f64; experts];
    let mut last = f64::NEG_INFINITY;
    for _ in 0..STEPS_MAX {
        let (ln_text, pulls) = said.pulls(&weights);
        let ln_weights: f64 = weights.iter().map(|w| libm::log(*w)).sum();
        let climbed = ln_text + guard * ln_weights;
        let keeps_promise = pulls.iter().all(|pull| *pull <= tokens + GUARD_NATS);
        if keeps_promise && climbed - last < GAIN_MIN {
            return weights;
        }
        last = climbed;
        for (weight, pull) in weights.iter_mut().zip(&pulls) {
            *weight = (guard + *weight * pull) / (GUARD_NATS + tokens);
        }
    }
    let (_, pulls) = said.pulls(&weights);
    match pulls.iter().all(|pull| *pull <= tokens + GUARD_NATS) {
        true => weights,
        false => guarded(said.best(&weights), experts, tokens),
    }
}

/// The best one, and the guard for the rest: T ln((T + a0) / T) <= a0 as well.
fn guarded(best: usize, experts: usize, tokens: f64) -> Vec<f64> {
    let guard = GUARD_NATS / experts as f64;
    let of = |k| guard + if k == best { tokens } else { 0.0 };
    (0..experts)
        .map(|k| of(k) / (GUARD_NATS + tokens))
        .collect()
}
