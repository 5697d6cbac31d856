//! What a text is about, in 64 numbers: its tokens by hash, with signs, so that what two texts do not share cancels
//! out and their product is what they share.

use crate::ids::{ExpertId, Token};
use crate::limits::{GATE_TOPIC_BUCKETS, GATE_TOPIC_TOKENS_MAX};
use crate::lnp::LnP;
use crate::weights::table::nats;
use std::collections::BTreeMap;

/// All numbers here are multiples of 1/1024: sums of them are exact, and so is the noise.
pub(super) const UNIT: i64 = 1024;
/// A shorter text says neither what it is about nor who knows it.
const TOKENS_MIN: usize = 16;
/// Ids are given in the order of merging, so low ones are common. The first are single bytes.
const COMMON_BELOW: f64 = 256.0;
/// What a request may say of an expert, in nats a token beside the middle one.
const GAIN_NATS_MAX: f64 = 1.0;

/// A direction: the squares sum to at most `UNIT`².
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic(pub(super) [i64; GATE_TOPIC_BUCKETS]);

impl Topic {
    /// None: the text is too short.
    pub fn of(text: &[Token]) -> Option<Topic> {
        if text.len() < TOKENS_MIN {
            return None;
        }
        let mut counts: BTreeMap<Token, u32> = BTreeMap::new();
        for token in text.iter().take(GATE_TOPIC_TOKENS_MAX) {
            *counts.entry(*token).or_default() += 1;
        }
        let mut sums = [0.0; GATE_TOPIC_BUCKETS];
        for (token, count) in counts {
            let telling = libm::log1p(f64::from(token) / COMMON_BELOW);
            let (bucket, sign) = place(token);
            sums[bucket] += sign * telling * libm::log1p(f64::from(count));
        }
        let length = libm::sqrt(sums.iter().map(|x| x * x).sum());
        // Towards zero, so that nothing is longer than it may be.
        let cell = |x: f64| (x / length * UNIT as f64) as i64;
        (length > 0.0).then(|| Topic(sums.map(cell)))
    }

    /// Of the sums of a track: in requests that were near this topic.
    pub(super) fn dot(&self, row: &[i64; GATE_TOPIC_BUCKETS]) -> f64 {
        let terms = self.0.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64);
        terms.sum::<f64>() / (UNIT * UNIT) as f64
    }
}

/// Every node hashes alike.
fn place(token: Token) -> (usize, f64) {
    let mut hash = u64::from(token).wrapping_add(1);
    for _ in 0..2 {
        hash = (hash ^ hash >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    let bucket = (hash >> 32) as usize % GATE_TOPIC_BUCKETS;
    let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
    (bucket, sign)
}

/// All that is kept of a request: what it was about, and how well each expert knew it. Whatever it was, it moves the
/// sums by at most `UNIT` for its gains and by `UNIT` for its topic, as lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub(super) topic: Topic,
    /// The squares sum to at most `UNIT`².
    pub(super) gains: Vec<(ExpertId, i64)>,
}

impl Observation {
    /// What experts said of a text's tokens but the first. None: nothing that compares them.
    pub fn of(text: &[Token], said: &[(ExpertId, &[LnP])]) -> Option<Observation> {
        let topic = Topic::of(text)?;
        let whole = said.iter().filter(|(_, ln_p)| ln_p.len() + 1 == text.len());
        let mean = |ln_p: &[LnP]| ln_p.iter().copied().map(nats).sum::<f64>() / ln_p.len() as f64;
        let means: Vec<(ExpertId, f64)> = whole.map(|(id, ln_p)| (*id, mean(ln_p))).collect();
        if means.len() < 2 {
            return None;
        }
        let mut sorted: Vec<f64> = means.iter().map(|(_, mean)| *mean).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let gain = |mean: f64| (mean - middle).clamp(-GAIN_NATS_MAX, GAIN_NATS_MAX);
        let length = libm::sqrt(means.iter().map(|(_, m)| gain(*m) * gain(*m)).sum());
        let unit = UNIT as f64 / length.max(1.0);
        let gains = means.iter().map(|(id, m)| (*id, (gain(*m) * unit) as i64));
        Some(Observation {
            topic,
            gains: gains.collect(),
        })
    }
}
