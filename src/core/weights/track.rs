//! Posteriors over experts, by the specialists' rule: who said nothing keeps its weight.

use super::softmax;
use super::table::nats;
use crate::lnp::LnP;

/// How often experts take turns, as chances at each token: every 4 tokens to every 256.
pub(super) const SHARES: [f64; 4] = [1.0 / 256.0, 1.0 / 64.0, 1.0 / 16.0, 1.0 / 4.0];

/// Fixed share with one rate; rate 0 is Bayes. Weights are logarithms, so nothing underflows.
#[derive(Clone, Debug)]
pub(super) struct Track {
    rate: f64,
    /// Where a share goes.
    target: Vec<f64>,
    ln_w: Vec<f64>,
}

impl Track {
    pub(super) fn new(rate: f64, target: &[f64]) -> Track {
        Track {
            rate,
            target: target.to_vec(),
            ln_w: target.iter().map(|w| libm::log(*w)).collect(),
        }
    }

    /// Returns ln of what those who said something gave the token together.
    pub(super) fn learn(&mut self, row: &[Option<LnP>]) -> f64 {
        let known = row.iter().enumerate();
        let known = known.filter_map(|(k, said)| Some((k, nats((*said)?))));
        let before = ln_sum(known.clone().map(|(k, _)| self.ln_w[k]));
        let after = ln_sum(known.clone().map(|(k, ln_p)| self.ln_w[k] + ln_p));
        let ln_r = after - before;
        if !ln_r.is_finite() {
            self.shift(1);
            return 0.0; // nobody said anything, or nobody who weighs anything
        }
        for (k, ln_p) in known {
            self.ln_w[k] += ln_p - ln_r;
        }
        self.shift(1);
        ln_r
    }

    /// Turns are taken at so many tokens about which nothing is known.
    fn shift(&mut self, tokens: u32) {
        if self.rate > 0.0 && tokens > 0 {
            let stays = libm::pow(1.0 - self.rate, f64::from(tokens));
            for (ln_w, target) in self.ln_w.iter_mut().zip(&self.target) {
                *ln_w = libm::log(stays * libm::exp(*ln_w) + (1.0 - stays) * target);
            }
        }
    }

    /// Weights of a set after so many tokens more about which nothing is known.
    pub(super) fn of(&self, set: &[usize], blank: u32) -> Vec<f64> {
        if self.rate == 0.0 || blank == 0 {
            return ln_restricted(&self.ln_w, set);
        }
        let mut later = self.clone();
        later.shift(blank);
        ln_restricted(&later.ln_w, set)
    }
}

/// All that is learned token by token.
#[derive(Clone, Debug)]
pub(super) struct Base {
    bayes: Track,
    shares: Vec<Track>,
    /// ln posterior over the rates.
    ln_rates: Vec<f64>,
    /// ln of what each strategy would have given the text with everybody awake: who is asked next
    /// goes by this, since a strategy is not judged by those who sleep.
    pub(super) hindsight: Vec<f64>,
}

impl Base {
    pub(super) fn new(uniform: &[f64], strategies: usize) -> Base {
        Base {
            bayes: Track::new(0.0, uniform),
            shares: SHARES.map(|rate| Track::new(rate, uniform)).to_vec(),
            ln_rates: vec![0.0; SHARES.len()],
            hindsight: vec![0.0; strategies],
        }
    }

    pub(super) fn learn(&mut self, row: &[Option<LnP>]) {
        self.bayes.learn(row);
        for (share, ln_rate) in self.shares.iter_mut().zip(&mut self.ln_rates) {
            *ln_rate += share.learn(row);
        }
    }

    pub(super) fn bayes(&self, set: &[usize]) -> Vec<f64> {
        self.bayes.of(set, 0)
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
pub(super) fn restricted(weights: &[f64], set: &[usize]) -> Vec<f64> {
    let total: f64 = set.iter().map(|&k| weights[k]).sum();
    let share = |&k: &usize| match total > 0.0 {
        true => weights[k] / total,
        false => 1.0 / set.len() as f64,
    };
    set.iter().map(share).collect()
}

fn ln_restricted(ln_w: &[f64], set: &[usize]) -> Vec<f64> {
    let of_set: Vec<f64> = set.iter().map(|&k| ln_w[k]).collect();
    match of_set.iter().any(|ln| ln.is_finite()) {
        true => softmax(&of_set),
        false => vec![1.0 / set.len() as f64; set.len()],
    }
}

fn ln_sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + libm::log(terms.map(|ln| libm::exp(ln - top)).sum())
}
