//! Posteriors over experts, by the specialists' rule: who said nothing keeps its weight.

use super::softmax;
use super::table::nats;
use crate::lnp::LnP;

/// How often experts take turns, as chances at each token: every 4 tokens to every 256.
pub(super) const SHARES: [f64; 4] = [1.0 / 256.0, 1.0 / 64.0, 1.0 / 16.0, 1.0 / 4.0];

/// What was said of one token: probabilities relative to the best, which is `ln_top`.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    ln_top: f64,
    p: Vec<Option<f64>>,
}

impl Heard {
    pub(super) fn of(said: impl Iterator<Item = Option<LnP>> + Clone) -> Heard {
        let ln = said.map(|ln_p| ln_p.map(nats));
        let ln_top = ln.clone().flatten().fold(f64::NEG_INFINITY, f64::max);
        let p = ln.map(|ln_p| Some(libm::exp(ln_p? - ln_top)));
        Heard {
            ln_top,
            p: p.collect(),
        }
    }

    pub(super) fn is_silence(&self) -> bool {
        self.p.iter().all(Option::is_none)
    }

    /// ln of what these weights give the token, among those that said something; uniform if nobody
    /// of them weighs anything. There must be somebody.
    pub(super) fn ln_of(&self, weights: &[f64]) -> f64 {
        let known = weights.iter().zip(&self.p);
        let known = known.filter_map(|(weight, p)| Some((*weight, (*p)?)));
        let sum = |term: &dyn Fn(f64, f64) -> f64| known.clone().map(|(w, p)| term(w, p)).sum();
        let (given, mass): (f64, f64) = (sum(&|w, p| w * p), sum(&|w, _| w));
        if given > 0.0 && mass > 0.0 {
            return self.ln_top + libm::log(given / mass);
        }
        let (flat, count): (f64, f64) = (sum(&|_, p| p), sum(&|_, _| 1.0));
        self.ln_top + libm::log(flat / count)
    }
}

/// Bayes: weights are logarithms, so nobody is ever out for good.
#[derive(Clone, Debug)]
pub(super) struct Posterior {
    ln_w: Vec<f64>,
}

impl Posterior {
    fn learn(&mut self, row: &[Option<LnP>]) {
        let known = row.iter().enumerate();
        let known = known.filter_map(|(k, said)| Some((k, nats((*said)?))));
        let before = ln_sum(known.clone().map(|(k, _)| self.ln_w[k]));
        let after = ln_sum(known.clone().map(|(k, ln_p)| self.ln_w[k] + ln_p));
        for (k, ln_p) in known {
            self.ln_w[k] += ln_p - (after - before);
        }
    }

    fn of(&self, set: &[usize]) -> Vec<f64> {
        let of_set: Vec<f64> = set.iter().map(|&k| self.ln_w[k]).collect();
        softmax(&of_set)
    }
}

/// Fixed share: at every token this part of all weight goes to `target`, so nothing underflows.
#[derive(Clone, Debug)]
pub(super) struct Share {
    rate: f64,
    target: Vec<f64>,
    weights: Vec<f64>,
}

impl Share {
    pub(super) fn new(rate: f64, target: &[f64]) -> Share {
        Share {
            rate,
            target: target.to_vec(),
            weights: target.to_vec(),
        }
    }

    pub(super) fn target(&self) -> &[f64] {
        &self.target
    }

    /// Returns ln of what those who said something gave the token together.
    pub(super) fn learn(&mut self, heard: &Heard) -> f64 {
        let mut ln_r = 0.0;
        if !heard.is_silence() {
            ln_r = heard.ln_of(&self.weights);
            let r = libm::exp(ln_r - heard.ln_top);
            for (weight, p) in self.weights.iter_mut().zip(&heard.p) {
                *weight *= p.map_or(1.0, |p| p / r);
            }
        }
        self.shift(1);
        ln_r
    }

    /// Turns are taken at so many tokens about which nothing is known.
    fn shift(&mut self, tokens: u32) {
        let stays = match tokens {
            1 => 1.0 - self.rate,
            more => libm::pow(1.0 - self.rate, f64::from(more)),
        };
        for (weight, target) in self.weights.iter_mut().zip(&self.target) {
            *weight = stays * *weight + (1.0 - stays) * target;
        }
    }

    /// Weights of a set after so many tokens more about which nothing is known.
    pub(super) fn of(&self, set: &[usize], blank: u32) -> Vec<f64> {
        if blank == 0 {
            return restricted(&self.weights, set);
        }
        let mut later = self.clone();
        later.shift(blank);
        restricted(&later.weights, set)
    }
}

/// All that is learned token by token.
#[derive(Clone, Debug)]
pub(super) struct Base {
    bayes: Posterior,
    shares: Vec<Share>,
    /// ln posterior over the rates.
    ln_rates: Vec<f64>,
    /// ln of what each strategy would have given the text with everybody awake: who is asked next
    /// goes by this, since a strategy is not judged by those who sleep.
    pub(super) hindsight: Vec<f64>,
}

impl Base {
    pub(super) fn new(prior: &[f64], strategies: usize) -> Base {
        Base {
            bayes: Posterior {
                ln_w: prior.iter().map(|w| libm::log(*w)).collect(),
            },
            shares: SHARES.map(|rate| Share::new(rate, prior)).to_vec(),
            ln_rates: vec![0.0; SHARES.len()],
            hindsight: vec![0.0; strategies],
        }
    }

    pub(super) fn learn(&mut self, row: &[Option<LnP>]) {
        if row.iter().any(Option::is_some) {
            self.bayes.learn(row);
        }
        let heard = Heard::of(row.iter().copied());
        for (share, ln_rate) in self.shares.iter_mut().zip(&mut self.ln_rates) {
            *ln_rate += share.learn(&heard);
        }
    }

    pub(super) fn bayes(&self, set: &[usize]) -> Vec<f64> {
        self.bayes.of(set)
    }

    /// All on whoever is ahead; ties go to the first.
    pub(super) fn leader(&self, set: &[usize]) -> Vec<f64> {
        let ln_w = |at: usize| self.bayes.ln_w[set[at]];
        let ahead = (0..set.len()).reduce(|a, b| if ln_w(b) > ln_w(a) { b } else { a });
        (0..set.len())
            .map(|at| f64::from(u8::from(Some(at) == ahead)))
            .collect()
    }

    pub(super) fn share(&self, set: &[usize], blank: u32) -> Vec<f64> {
        let mut mixed = vec![0.0; set.len()];
        for (belief, share) in softmax(&self.ln_rates).iter().zip(&self.shares) {
            for (sum, weight) in mixed.iter_mut().zip(share.of(set, blank)) {
                *sum += belief * weight;
            }
        }
        mixed
    }
}

/// Restricted to a set and renormalised; uniform if nobody in it has any.
pub(crate) fn restricted(weights: &[f64], set: &[usize]) -> Vec<f64> {
    let total: f64 = set.iter().map(|&k| weights[k]).sum();
    let share = |&k: &usize| match total > 0.0 {
        true => weights[k] / total,
        false => 1.0 / set.len() as f64,
    };
    set.iter().map(share).collect()
}

/// There is a term, and all are finite.
fn ln_sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    top + libm::log(terms.map(|ln| libm::exp(ln - top)).sum())
}
