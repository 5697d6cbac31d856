//! From a row of logits to an opinion: the hot path of every expert.
//!
//! One pass finds the top, one exponentiates and sums, and a list costs one more. Nothing is sorted
//! but the few entries that are said. The row is retained (as masses relative to the top), so a
//! second question about the same position is answered from the very same numbers.

use crate::ids::Token;
use crate::lanes;
use crate::law::Transforms;
use crate::limits::{LIST_ENTRIES_MAX, RAW_TOP_MAX, TAU_MIN};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::{Entry, List, Query, Raw, Said, TAU_STEP, Want};
use crate::seeded::PositionKey;

/// The logits had a NaN, a plus infinity, or nothing finite at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model gave numbers that are not finite")]
pub struct NotFinite;

/// What the tokens before a position are, for penalties.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// The session's tokens, prompt and answer.
    pub tokens: &'a [Token],
    /// Length of the prompt: what follows was generated.
    pub prompt: usize,
}

/// Untransformed numbers beside transformed ones.
#[derive(Debug, Default)]
struct RawRow {
    logits: Vec<f32>,
    top: f32,
    ln_total: f64,
}

impl RawRow {
    fn ln_p(&self, token: Token) -> LnP {
        let logit = self.logits.get(token as usize).copied();
        let logit = logit.unwrap_or(f32::NEG_INFINITY);
        LnP::floor(f64::from(logit - self.top) - self.ln_total)
    }
}

/// One position's distribution. Buffers are kept from one `measure` to the next.
#[derive(Debug, Default)]
pub struct Distribution {
    /// exp(transformed logit - top); the most likely token has 1.
    masses: Vec<f32>,
    total: f64,
    /// top_k, top_p and min_p keep the tokens of at least this mass, which sum to `kept`.
    cut: f32,
    kept: f64,
    /// The kept tokens in id order; empty if nothing is truncated.
    support: Vec<Token>,
    adjusted: Vec<f32>,
    /// Present if untransformed values were asked for and differ.
    raw: Option<RawRow>,
    /// They do not differ.
    is_neutral: bool,
}

/// ln p of a given token, untransformed: evidence. Costs two passes and keeps nothing.
pub fn score(logits: &[f32], token: Token) -> Result<LnP, NotFinite> {
    let top = lanes::max(logits);
    let total = lanes::exp_total(logits, top, 1.0);
    if !top.is_finite() || !total.is_finite() {
        return Err(NotFinite);
    }
    let logit = logits
        .get(token as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    Ok(LnP::floor(f64::from(logit - top) - libm::log(total)))
}

impl Distribution {
    pub fn new() -> Distribution {
        Distribution::default()
    }

    /// Takes in a row of logits. With `keep_raw`, untransformed values can be said as well.
    pub fn measure(
        &mut self,
        logits: &[f32],
        transforms: &Transforms,
        history: History<'_>,
        keep_raw: bool,
    ) -> Result<(), NotFinite> {
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let row = adjust(logits, transforms, history, &mut adjusted);
        let scale = 1.0 / transforms.temperature;
        let top = lanes::max(row);
        self.masses.resize(row.len(), 0.0);
        self.total = lanes::exp_sum(row, top, scale, &mut self.masses);
        self.adjusted = adjusted;
        if !top.is_finite() || !self.total.is_finite() {
            return Err(NotFinite);
        }
        self.truncate(transforms);
        self.is_neutral = transforms.is_neutral();
        self.raw = if keep_raw && !self.is_neutral {
            Some(self.raw_row(logits)?)
        } else {
            None
        };
        Ok(())
    }

    /// Answers a question about this position.
    pub fn answer(&self, query: &Query) -> (Said, Option<Raw>) {
        let view = if query.untruncated {
            self.whole()
        } else {
            self.truncated()
        };
        let said = match &query.want {
            Want::Perturbed { key, tau } => {
                Said::List(view.perturbed(*key, *tau, query.mask.as_deref()))
            }
            Want::Plain { mass, max } => Said::List(view.plain(*mass, *max, query.mask.as_deref())),
            Want::Scalars(tokens) => Said::Scalars(tokens.iter().map(|&v| view.ln_p(v)).collect()),
        };
        let raw = query
            .raw_top
            .map(|top| self.raw_of(&said, &query.want, top));
        (said, raw)
    }

    /// The untransformed ln p of a token, if it was kept.
    pub fn untransformed(&self, token: Token) -> Option<LnP> {
        match &self.raw {
            Some(row) => Some(row.ln_p(token)),
            None => self.is_neutral.then(|| self.whole().ln_p(token)),
        }
    }

    fn truncated(&self) -> View<'_> {
        let support = (!self.support.is_empty()).then_some(&self.support[..]);
        View {
            masses: &self.masses,
            support,
            cut: self.cut,
            ln_kept: libm::log(self.kept),
            kept: self.kept,
        }
    }

    fn whole(&self) -> View<'_> {
        View {
            masses: &self.masses,
            support: None,
            cut: 0.0,
            ln_kept: libm::log(self.total),
            kept: self.total,
        }
    }

    fn raw_row(&mut self, logits: &[f32]) -> Result<RawRow, NotFinite> {
        let mut row = self.raw.take().unwrap_or_default();
        row.logits.clear();
        row.logits.extend_from_slice(logits);
        row.top = lanes::max(logits);
        row.ln_total = libm::log(lanes::exp_total(logits, row.top, 1.0));
        if row.top.is_finite() && row.ln_total.is_finite() {
            Ok(row)
        } else {
            Err(NotFinite)
        }
    }

    /// Applies top_k, then top_p, then min_p. Ties at a cut are kept, so that the set never depends
    /// on the order of equal tokens.
    fn truncate(&mut self, t: &Transforms) {
        (self.cut, self.kept) = (0.0, self.total);
        self.support.clear();
        if !t.truncates() {
            return;
        }
        let masses = &self.masses;
        let mass_of = |v: Option<&Token>| v.map_or(0.0, |&v| masses[v as usize]);
        let sum_of = |tokens: &[Token]| {
            tokens
                .iter()
                .map(|&v| f64::from(masses[v as usize]))
                .sum::<f64>()
        };
        let by_k = t.top_k > 0 && (t.top_k as usize) < masses.len();
        if by_k {
            self.cut = mass_of(top_by(masses, t.top_k as usize, f64::INFINITY).last());
            lanes::at_least(masses, self.cut, &mut self.support);
            self.kept = sum_of(&self.support);
        }
        if t.top_p < 1.0 {
            let goal = f64::from(t.top_p) * self.kept;
            let mut best = self.support.clone();
            if by_k {
                best_first(masses, &mut best, usize::MAX, goal);
            } else {
                best = top_by(masses, masses.len(), goal);
            }
            self.cut = self.cut.max(mass_of(best.last()));
        }
        self.cut = self.cut.max(t.min_p); // the top token has mass 1
        if by_k {
            let cut = self.cut;
            self.support.retain(|&v| masses[v as usize] >= cut);
        } else {
            lanes::at_least(masses, self.cut, &mut self.support);
        }
        self.kept = sum_of(&self.support);
    }

    fn raw_of(&self, said: &Said, want: &Want, top: u8) -> Raw {
        let top = usize::from(top.min(RAW_TOP_MAX));
        let of = |v: Token| match &self.raw {
            Some(row) => row.ln_p(v),
            None => self.whole().ln_p(v),
        };
        let best = match &self.raw {
            // Logits are not masses, but rank like them once shifted above zero.
            Some(row) => {
                let mut masses = vec![0.0; row.logits.len()];
                lanes::exp_sum(&row.logits, row.top, 1.0, &mut masses);
                top_by(&masses, top, f64::INFINITY)
            }
            None => top_by(&self.masses, top, f64::INFINITY),
        };
        let of_said = match (said, want) {
            (Said::List(list), _) => list.entries.iter().map(|e| of(e.token)).collect(),
            (Said::Scalars(_), Want::Scalars(tokens)) => tokens.iter().map(|&v| of(v)).collect(),
            (Said::Scalars(_), _) => Vec::new(),
        };
        Raw {
            of_said,
            top: best
                .into_iter()
                .map(|token| Entry {
                    token,
                    ln_p: of(token),
                })
                .collect(),
        }
    }
}

/// Penalties and biases touch a few tokens: patch a copy, or use the row as it is.
fn adjust<'a>(
    logits: &'a [f32],
    t: &Transforms,
    history: History<'_>,
    copy: &'a mut Vec<f32>,
) -> &'a [f32] {
    if !t.touches_history() && t.bias.is_empty() {
        return logits;
    }
    copy.clear();
    copy.extend_from_slice(logits);
    if t.repeat_penalty != 1.0 {
        let window = history
            .tokens
            .len()
            .saturating_sub(t.repeat_last_n as usize);
        for token in distinct(&history.tokens[window..])
            .into_iter()
            .map(|(token, _)| token)
        {
            if let Some(logit) = copy.get_mut(token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / t.repeat_penalty
                } else {
                    *logit * t.repeat_penalty
                };
            }
        }
    }
    if t.frequency_penalty != 0.0 || t.presence_penalty != 0.0 {
        let generated = history.tokens.get(history.prompt..).unwrap_or(&[]);
        for (token, count) in distinct(generated) {
            if let Some(logit) = copy.get_mut(token as usize) {
                *logit -= t.frequency_penalty * count as f32 + t.presence_penalty;
            }
        }
    }
    for &(token, bias) in &t.bias {
        if let Some(logit) = copy.get_mut(token as usize) {
            *logit += bias;
        }
    }
    copy
}

/// Each token once, with its count, in id order.
fn distinct(tokens: &[Token]) -> Vec<(Token, u32)> {
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    let mut counted: Vec<(Token, u32)> = Vec::new();
    for token in sorted {
        match counted.last_mut() {
            Some((last, count)) if *last == token => *count += 1,
            _ => counted.push((token, 1)),
        }
    }
    counted
}

/// The most likely tokens, best first (ties: lower id first), until `goal` mass is reached, at most
/// `max`. Looks at ever more of the top instead of sorting the vocabulary.
fn top_by(masses: &[f32], max: usize, goal: f64) -> Vec<Token> {
    let max = max.min(masses.len());
    let mut wanted = max.min(usize::from(LIST_ENTRIES_MAX));
    loop {
        let mut found = Vec::with_capacity(2 * wanted);
        let mut cut = cut_for(masses, wanted);
        lanes::at_least(masses, cut, &mut found);
        while found.len() < wanted {
            cut = if cut < 1e-30 { 0.0 } else { cut * 0.05 };
            found.clear();
            lanes::at_least(masses, cut, &mut found);
        }
        if best_first(masses, &mut found, wanted, goal) || wanted == max {
            return found;
        }
        wanted = max.min(wanted * 8);
    }
}

/// A mass that about `wanted` tokens, or some more, reach: judged by a sample of the row.
fn cut_for(masses: &[f32], wanted: usize) -> f32 {
    const SAMPLE: usize = 2048;
    let stride = masses.len().div_ceil(SAMPLE).max(1);
    let mut sample: Vec<f32> = masses.iter().step_by(stride).copied().collect();
    let rank = wanted * 3 / (stride * 2) + 4;
    if rank >= sample.len() {
        return 0.0;
    }
    *sample.select_nth_unstable_by(rank, |a, b| b.total_cmp(a)).1
}

/// Sorts and cuts to the best `max` of `found`, or to fewer that reach `goal`. True if they do.
fn best_first(masses: &[f32], found: &mut Vec<Token>, max: usize, goal: f64) -> bool {
    let better = |a: &Token, b: &Token| {
        masses[*b as usize]
            .total_cmp(&masses[*a as usize])
            .then(a.cmp(b))
    };
    if found.len() > max {
        if max > 0 {
            found.select_nth_unstable_by(max - 1, better);
        }
        found.truncate(max);
    }
    found.sort_unstable_by(better);
    let mut sum = 0.0;
    let enough = found.iter().position(|&v| {
        sum += f64::from(masses[v as usize]);
        sum >= goal
    });
    found.truncate(enough.map_or(found.len(), |i| i + 1));
    enough.is_some()
}

/// A distribution after truncation.
struct View<'a> {
    masses: &'a [f32],
    /// All tokens with mass, where they are few.
    support: Option<&'a [Token]>,
    cut: f32,
    ln_kept: f64,
    kept: f64,
}

impl View<'_> {
    /// The one rounding: every number an expert says comes from here.
    fn ln_p(&self, token: Token) -> LnP {
        match self.masses.get(token as usize) {
            Some(&mass) if mass >= self.cut && mass > 0.0 => {
                LnP::floor(libm::log(f64::from(mass)) - self.ln_kept)
            }
            _ => LnP::ZERO_MASS,
        }
    }

    fn entry(&self, token: Token) -> Option<Entry> {
        let ln_p = self.ln_p(token);
        (ln_p != LnP::ZERO_MASS).then_some(Entry { token, ln_p })
    }

    /// Every allowed token with mass, if there are few allowed ones: exact, whatever the question.
    fn all_of(&self, mask: &Mask) -> List {
        List {
            entries: mask.tokens().filter_map(|v| self.entry(v)).collect(),
            bound: 0.0,
        }
    }

    fn perturbed(&self, key: PositionKey, tau: f64, mask: Option<&Mask>) -> List {
        if let Some(mask) = mask.filter(|m| m.allowed() <= u32::from(LIST_ENTRIES_MAX)) {
            return self.all_of(mask);
        }
        // Nothing a peer sends as tau may make the loop long or the list huge.
        let mut tau = if tau.is_finite() {
            tau.clamp(TAU_MIN, 1.0)
        } else {
            1.0
        };
        loop {
            let list = self.perturbed_at(key, tau, mask);
            if !list.entries.is_empty() {
                return list;
            }
            if tau <= TAU_MIN {
                return List {
                    entries: Vec::new(),
                    bound: 0.0,
                };
            }
            tau = (tau / TAU_STEP).max(TAU_MIN);
        }
    }

    fn perturbed_at(&self, key: PositionKey, tau: f64, mask: Option<&Mask>) -> List {
        let factor = (1.0 / (self.kept * tau) * 1.002) as f32;
        let mut found = Vec::new();
        match self.support {
            Some(support) => found.extend_from_slice(support),
            None => lanes::may_pass(self.masses, key, factor, &mut found),
        }
        let mut scored: Vec<(f64, Entry)> = found
            .into_iter()
            .filter(|&v| mask.is_none_or(|m| m.allows(v)))
            .filter_map(|v| self.entry(v))
            .map(|e| (e.ln_p.p() / key.exponential(e.token), e))
            .filter(|(score, _)| *score >= tau)
            .collect();
        let max = usize::from(LIST_ENTRIES_MAX);
        let mut bound = tau;
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

    fn plain(&self, mass: f64, max: u16, mask: Option<&Mask>) -> List {
        let max = usize::from(max.clamp(1, LIST_ENTRIES_MAX));
        let goal = mass * self.kept;
        let best = match (mask, self.support) {
            (Some(mask), _) if mask.allowed() as usize <= max => return self.all_of(mask),
            (Some(mask), _) => {
                let has_mass =
                    |v: &Token| self.masses.get(*v as usize).is_some_and(|m| *m >= self.cut);
                let mut allowed: Vec<Token> = mask.tokens().filter(has_mass).collect();
                best_first(self.masses, &mut allowed, max, goal);
                allowed
            }
            (None, Some(support)) => {
                let mut best = support.to_vec();
                best_first(self.masses, &mut best, max, goal);
                best
            }
            (None, None) => top_by(self.masses, max, goal),
        };
        let mut entries: Vec<Entry> = best.into_iter().filter_map(|v| self.entry(v)).collect();
        let bound = entries.last().map_or(0.0, |e| e.ln_p.p());
        entries.sort_unstable_by_key(|e| e.token);
        List { entries, bound }
    }
}

#[cfg(test)]
#[path = "distribution_tests.rs"]
mod tests;
