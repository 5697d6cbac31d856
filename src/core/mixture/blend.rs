//! What a mixture says about one position, and what it must know first. Pure functions over what each
//! expert has said; voices come in expert-id order, so every sum has one value.
//!
//! If p/E of the mixture reaches tau, p_k/E of some expert k does: the experts' own lists at tau name
//! every token of the mixture's. Which of them belong there, and at what value, exact scalars decide.

use crate::ids::Token;
use crate::limits::{LIST_ENTRIES_MAX, RAW_TOP_MAX, SCALARS_MAX, TAU_MIN};
use crate::lnp::LnP;
use crate::opinion::{Entry, List, Opinion, Query, Raw, Said, TAU_STEP, Want};
use crate::seeded::PositionKey;
use std::collections::{BTreeMap, BTreeSet};

/// What one expert has said of a position so far.
#[derive(Debug, Default)]
pub(super) struct Heard {
    values: BTreeMap<Token, LnP>,
    raw: BTreeMap<Token, LnP>,
    raw_top: Vec<Entry>,
    /// Of everything that has no value here: p/E is below this (perturbed), p at most this (plain). None: no list
    /// yet. Zero: nothing else has mass.
    bound: Option<f64>,
    /// The lowest tau that it was asked for.
    asked: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Voice<'a> {
    pub(super) weight: f64,
    pub(super) heard: &'a Heard,
}

#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Say(Said, Option<Raw>),
    /// These voices, by their places, have more to say first.
    Ask(Vec<(usize, Want)>),
    /// No question brings it out: some list is full where the mixture's is not.
    Cannot,
}

/// A sum that is one rounding away from a value on the scale is that value.
const ROUNDING: f64 = 1e-12;
/// Sums of bounds may be this much above the bound that each of them keeps.
const SLACK: f64 = 1e-12;

impl Heard {
    /// It is about to be asked this.
    pub(super) fn asked(&mut self, want: &Want) {
        if let Want::Perturbed { tau, .. } = want {
            self.asked = Some(self.asked.unwrap_or(f64::INFINITY).min(*tau));
        }
    }

    pub(super) fn hear(&mut self, opinion: Opinion, want: &Want) {
        let tokens: Vec<Token> = match (opinion.said, want) {
            (Said::List(list), _) => {
                let known = self.bound.unwrap_or(f64::INFINITY);
                self.bound = Some(list.bound.min(known));
                let values = list.entries.iter().map(|e| (e.token, e.ln_p));
                self.values.extend(values);
                list.entries.iter().map(|e| e.token).collect()
            }
            (Said::Scalars(values), Want::Scalars(tokens)) => {
                self.values.extend(tokens.iter().copied().zip(values));
                tokens.clone()
            }
            (Said::Scalars(_), _) => return,
        };
        if let Some(raw) = opinion.raw {
            self.raw.extend(tokens.into_iter().zip(raw.of_said));
            self.raw_top = raw.top;
        }
    }

    /// Another question about the same position: what still answers it stays. A plain list is all that counts
    /// there, so nothing that was known before may get into one.
    pub(super) fn turn(&mut self, from: &Query, to: &Query) {
        let key = |query: &Query| match query.want {
            Want::Perturbed { key, .. } => Some(key),
            Want::Plain { .. } | Want::Scalars(_) => None,
        };
        let tells_more = to.raw_top.is_some() && to.raw_top != from.raw_top;
        let is_plain = matches!(to.want, Want::Plain { .. });
        if from.untruncated != to.untruncated || is_plain || tells_more {
            *self = Heard::default();
        } else if key(from).is_none() || key(from) != key(to) || from.mask != to.mask {
            (self.bound, self.asked) = (None, None);
        }
    }

    fn value(&self, token: Token) -> Option<f64> {
        match self.values.get(&token) {
            Some(ln_p) => Some(ln_p.p()),
            None => (self.bound == Some(0.0)).then_some(0.0),
        }
    }
}

/// What an expert is asked first, for this question about the mixture.
pub(super) fn first(want: &Want) -> Want {
    match want {
        Want::Perturbed { key, tau } => Want::Perturbed {
            key: *key,
            tau: tau.clamp(TAU_MIN, 1.0),
        },
        same => same.clone(),
    }
}

pub(super) fn next(query: &Query, voices: &[Voice<'_>]) -> Next {
    let next = match &query.want {
        Want::Scalars(tokens) => scalars(tokens, voices),
        want => {
            let silent = |(_, voice): &(usize, &Voice<'_>)| voice.heard.bound.is_none();
            let silent = voices.iter().enumerate().filter(silent);
            let ask: Vec<(usize, Want)> = silent.map(|(i, _)| (i, first(want))).collect();
            match (ask.is_empty(), want) {
                (false, _) => Next::Ask(ask),
                (true, Want::Plain { max, .. }) => plain(*max, voices),
                (true, Want::Perturbed { key, tau }) => perturbed(*key, *tau, voices),
                (true, Want::Scalars(_)) => Next::Cannot, // taken above
            }
        }
    };
    match (next, query.raw_top) {
        (Next::Say(said, None), Some(top)) => {
            let raw = raw(&said, &query.want, top, voices);
            Next::Say(said, Some(raw))
        }
        (next, _) => next,
    }
}

/// The one rounding: every number that the mixture says comes from here.
fn round(p: f64) -> LnP {
    match p > 0.0 {
        true => LnP::floor(libm::log(p) + ROUNDING),
        false => LnP::ZERO_MASS,
    }
}

/// The mixture's p, once everybody's is known.
fn exact(token: Token, voices: &[Voice<'_>]) -> Option<LnP> {
    let parts = voices
        .iter()
        .map(|v| Some(v.weight * v.heard.value(token)?));
    Some(round(parts.sum::<Option<f64>>()?))
}

fn named(voices: &[Voice<'_>]) -> BTreeSet<Token> {
    let named = voices.iter().flat_map(|v| v.heard.values.keys());
    named.copied().collect()
}

fn scalars(tokens: &[Token], voices: &[Voice<'_>]) -> Next {
    let values: Option<Vec<LnP>> = tokens.iter().map(|&v| exact(v, voices)).collect();
    match values {
        Some(values) => Next::Say(Said::Scalars(values), None),
        None => ask_values(tokens, voices),
    }
}

/// Asks everybody for the values that they have not said.
fn ask_values(tokens: &[Token], voices: &[Voice<'_>]) -> Next {
    let lacks = |voice: &Voice<'_>| -> Vec<Token> {
        let unknown = tokens.iter().copied();
        let unknown = unknown.filter(|v| voice.heard.value(*v).is_none());
        unknown.take(SCALARS_MAX).collect()
    };
    let asks = voices.iter().map(lacks).enumerate();
    let asks = asks.filter(|(_, lacking)| !lacking.is_empty());
    Next::Ask(asks.map(|(i, v)| (i, Want::Scalars(v))).collect())
}

/// Plain lists say all that counts: a token has no mass where it is not listed.
fn plain(max: u16, voices: &[Voice<'_>]) -> Next {
    let p = |v: Token| -> f64 {
        let part = |voice: &Voice<'_>| {
            let listed = voice.heard.values.get(&v);
            listed.map_or(0.0, |ln_p| voice.weight * ln_p.p())
        };
        voices.iter().map(part).sum()
    };
    let mut all: Vec<(f64, Token)> = named(voices).into_iter().map(|v| (p(v), v)).collect();
    all.retain(|(p, _)| round(*p) != LnP::ZERO_MASS);
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let max = usize::from(max.clamp(1, LIST_ENTRIES_MAX));
    let cut = all.get(max).map_or(0.0, |(p, _)| *p);
    all.truncate(max);
    let mut entries: Vec<Entry> = all
        .into_iter()
        .map(|(p, token)| Entry {
            token,
            ln_p: round(p),
        })
        .collect();
    entries.sort_unstable_by_key(|e| e.token);
    let bound = (cut + unlisted(voices)).min(1.0);
    Next::Say(Said::List(List { entries, bound }), None)
}

/// What nobody names is at most this in the mixture.
fn unlisted(voices: &[Voice<'_>]) -> f64 {
    let bounds = voices
        .iter()
        .map(|v| v.weight * v.heard.bound.unwrap_or(f64::INFINITY));
    bounds.sum()
}

/// A perturbed list as any expert makes it: at the tau that was asked, or at the first of ever lower
/// ones where there is something to say.
fn perturbed(key: PositionKey, asked: f64, voices: &[Voice<'_>]) -> Next {
    if voices.iter().all(|v| v.heard.bound == Some(0.0)) {
        let all = named(voices).into_iter();
        let all = all.filter_map(|token| {
            let ln_p = exact(token, voices)?;
            let score = ln_p.p() / key.exponential(token);
            (ln_p != LnP::ZERO_MASS).then_some((score, Entry { token, ln_p }))
        });
        return Next::Say(Said::List(listed(all.collect(), 0.0)), None);
    }
    let mut tau = asked.clamp(TAU_MIN, 1.0);
    loop {
        match perturbed_at(key, tau, voices) {
            Next::Say(Said::List(list), _) if list.entries.is_empty() && tau > TAU_MIN => {
                tau = (tau / TAU_STEP).max(TAU_MIN);
            }
            Next::Say(Said::List(list), _) if list.entries.is_empty() => {
                return Next::Say(Said::List(List::default()), None);
            }
            next => return next,
        }
    }
}

fn perturbed_at(key: PositionKey, tau: f64, voices: &[Voice<'_>]) -> Next {
    let unlisted = unlisted(voices);
    let is_whole = unlisted <= tau * (1.0 + SLACK);
    if !is_whole {
        let may_say_more = |voice: &Voice<'_>| {
            let lower = |tau_k: Option<f64>| tau_k.is_none_or(|tau_k| tau_k > tau);
            lower(voice.heard.bound) && lower(voice.heard.asked)
        };
        let asks = voices.iter().enumerate().filter(|(_, v)| may_say_more(v));
        let asks: Vec<(usize, Want)> = asks
            .map(|(i, _)| (i, Want::Perturbed { key, tau }))
            .collect();
        if !asks.is_empty() {
            return Next::Ask(asks);
        }
    }
    let level = if is_whole { tau } else { unlisted };
    let (mut scored, mut undecided) = (Vec::new(), Vec::new());
    for token in named(voices) {
        let e = key.exponential(token);
        match exact(token, voices) {
            Some(ln_p) if ln_p.p() / e >= level => {
                scored.push((ln_p.p() / e, Entry { token, ln_p }));
            }
            None if may_reach(token, e, voices) >= level * (1.0 - SLACK) => undecided.push(token),
            Some(_) | None => {}
        }
    }
    if !undecided.is_empty() {
        return ask_values(&undecided, voices);
    }
    match is_whole || scored.len() >= usize::from(LIST_ENTRIES_MAX) {
        true => Next::Say(Said::List(listed(scored, level)), None),
        false => Next::Cannot,
    }
}

/// The highest p/E that the token can have in the mixture.
fn may_reach(token: Token, e: f64, voices: &[Voice<'_>]) -> f64 {
    let most = |voice: &Voice<'_>| match voice.heard.value(token) {
        Some(p) => voice.weight * p / e,
        None => voice.weight * voice.heard.bound.unwrap_or(f64::INFINITY),
    };
    voices.iter().map(most).sum()
}

/// The best that fit into a list; what does not raises its bound.
fn listed(mut scored: Vec<(f64, Entry)>, mut bound: f64) -> List {
    let max = usize::from(LIST_ENTRIES_MAX);
    if scored.len() > max {
        scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.token.cmp(&b.1.token)));
        bound = scored[max].0;
        scored.truncate(max);
        scored.sort_unstable_by_key(|(_, e)| e.token);
    }
    List {
        entries: scored.into_iter().map(|(_, e)| e).collect(),
        bound,
    }
}

/// Untransformed numbers, of what everybody said: as a router mixes them.
fn raw(said: &Said, want: &Want, top: u8, voices: &[Voice<'_>]) -> Raw {
    let of = |token: Token| {
        let part = |v: &Voice<'_>| {
            let known = v.heard.raw.get(&token);
            known.map_or(0.0, |ln_p| v.weight * ln_p.p())
        };
        round(voices.iter().map(part).sum())
    };
    let of_said = match (said, want) {
        (Said::List(list), _) => list.entries.iter().map(|e| of(e.token)).collect(),
        (Said::Scalars(_), Want::Scalars(tokens)) => tokens.iter().map(|&v| of(v)).collect(),
        (Said::Scalars(_), _) => Vec::new(),
    };
    let mut sums: BTreeMap<Token, f64> = BTreeMap::new();
    for voice in voices {
        for entry in &voice.heard.raw_top {
            *sums.entry(entry.token).or_default() += voice.weight * entry.ln_p.p();
        }
    }
    let mut best: Vec<(Token, f64)> = sums.into_iter().collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    best.truncate(usize::from(top.min(RAW_TOP_MAX)));
    let entry = |(token, p): (Token, f64)| Entry {
        token,
        ln_p: round(p),
    };
    Raw {
        of_said,
        top: best.into_iter().map(entry).collect(),
    }
}

/// ln p of given tokens in the mixture: `said` by everybody, with its weight. What only some have said is nothing.
pub(super) fn scored(said: &[(f64, &[LnP])]) -> Vec<LnP> {
    let total: f64 = said.iter().map(|(w, _)| w).sum();
    let count = said.len() as f64;
    let share = |w: f64| if total > 0.0 { w / total } else { 1.0 / count };
    let length = said.iter().map(|(_, values)| values.len()).min();
    let one = |at: usize| {
        let parts = said.iter();
        round(parts.map(|(w, values)| share(*w) * values[at].p()).sum())
    };
    (0..length.unwrap_or(0)).map(one).collect()
}
