//! Weights before anybody has said anything: how near a text is to what each expert publishes of
//! the text it was made from (after c-BTM). Only counts of its most telling tokens are published.

use super::{BadRule, softmax};
use crate::ids::Token;
use crate::limits::{PROFILE_TOKENS_MAX, TEAM_MAX};
use std::collections::BTreeMap;

/// Squared distances are divided by this before they are exponents (c-BTM's own).
const TEMPERATURE: f64 = 0.1;

/// How often tokens occur in an expert's text: the most frequent ones. Empty says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile(BTreeMap<Token, u32>);

impl Profile {
    /// Keeps the most frequent tokens; ties go to the lower id.
    pub fn of(tokens: impl IntoIterator<Item = Token>) -> Profile {
        let mut counted: Vec<(Token, u32)> = counts(tokens).into_iter().collect();
        counted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counted.truncate(PROFILE_TOKENS_MAX);
        Profile(counted.into_iter().collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Everybody's centroid: tf-idf of unit length, with idf over the experts' own profiles, since a
/// router has no other text that all agree on.
#[derive(Clone, Debug)]
pub struct Gate {
    idf: BTreeMap<Token, f64>,
    centroids: Vec<BTreeMap<Token, f64>>,
}

impl Gate {
    pub fn new(profiles: &[Profile]) -> Result<Gate, BadRule> {
        if profiles.is_empty() || profiles.len() > TEAM_MAX {
            return Err(BadRule::Profiles);
        }
        let mut listed: BTreeMap<Token, u32> = BTreeMap::new();
        for token in profiles.iter().flat_map(|profile| profile.0.keys()) {
            *listed.entry(*token).or_default() += 1;
        }
        let experts = profiles.len() as f64;
        let idf = |by: u32| libm::log((1.0 + experts) / (f64::from(by)));
        let idf = listed.into_iter().map(|(v, by)| (v, idf(by))).collect();
        let centroids = profiles.iter().map(|p| direction(&p.0, &idf)).collect();
        Ok(Gate { idf, centroids })
    }

    pub(super) fn experts(&self) -> usize {
        self.centroids.len()
    }

    /// exp(-d²/T), normalised. A text that shares no token with anybody is as far from all.
    pub(super) fn weights(&self, text: impl IntoIterator<Item = Token>) -> Vec<f64> {
        let text = direction(&counts(text), &self.idf);
        let near = |centroid: &BTreeMap<Token, f64>| {
            let shared = text.iter().filter_map(|(v, x)| Some(x * centroid.get(v)?));
            let cosine: f64 = shared.sum();
            -(2.0 - 2.0 * cosine) / TEMPERATURE
        };
        softmax(&self.centroids.iter().map(near).collect::<Vec<_>>())
    }
}

fn counts(tokens: impl IntoIterator<Item = Token>) -> BTreeMap<Token, u32> {
    let mut counts = BTreeMap::new();
    for token in tokens {
        let count: &mut u32 = counts.entry(token).or_default();
        *count = count.saturating_add(1);
    }
    counts
}

/// tf-idf of unit length; empty if nothing counts.
fn direction(counts: &BTreeMap<Token, u32>, idf: &BTreeMap<Token, f64>) -> BTreeMap<Token, f64> {
    let term = |(v, n): (&Token, &u32)| Some((*v, libm::log1p(f64::from(*n)) * idf.get(v)?));
    let terms: BTreeMap<Token, f64> = counts.iter().filter_map(term).collect();
    let length = libm::sqrt(terms.values().map(|x| x * x).sum());
    match length > 0.0 {
        true => terms.into_iter().map(|(v, x)| (v, x / length)).collect(),
        false => BTreeMap::new(),
    }
}
