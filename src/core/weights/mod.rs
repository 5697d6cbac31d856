//! How much each expert's opinion counts: weights learned from what experts said of given text.
//!
//! ```text
//!  heard(position, expert, ln p)          at(position, set)
//!  any order, also late                       │
//!        │                                    ▼
//!        ▼            each strategy: its weights, restricted to the set, renormalised
//!     table ──▶ tracks, fits ──▶ ...          │
//!                                mixed by the posterior over strategies ──▶ weights of the set
//!                                             ▲
//!              what each strategy gave the token that came (judged as it was said, once)
//! ```
//!
//! Everything is a function of what was heard before each question and of the questions, never of
//! the order within. The promises (decision 0013 has them with their proofs, `laws` tests them): on
//! any text, with any sets, the mixture loses at most (lag + 1) ln M nats against the best of its M
//! strategies.

mod convex;
mod follow;
mod gate;
mod rule;
mod screen;
mod shared;
mod table;
mod track;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

pub use convex::GUARD_NATS;
pub use follow::Follower;
pub use gate::{Gate, Profile};
pub use rule::{BadRule, FLOOR_DEFAULT, Following, Rule, Situation, Strategy, Weighing};
pub use screen::Screen;
pub use shared::{Gates, Noise, Observation, Own, Topic, Unheard, Voice, day};

use crate::ids::{ExpertId, Position, Token};
use crate::limits::{PLANE_TOKENS_MAX, TEAM_MAX, WEIGHT_LAG_MAX};
use crate::lnp::LnP;
use std::collections::BTreeMap;
use table::Table;
pub(crate) use track::restricted;
use track::{Base, Heard};

/// What is known of a text before the first of it is fitted: fits of less say nothing.
const FIRST_FIT: u32 = 8;
/// Positions between two states that late evidence may go back to.
const SAVED_EVERY: Position = 32;
/// What the mixture and its parts lost on given text so far, in nats, each as it was said before
/// the token came.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    pub positions: u32,
    pub mixture: f64,
    pub parts: Vec<(Strategy, f64)>,
}

/// Why experts weigh what they weigh: what came of the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Reasons {
    /// Everybody who was asked, in expert-id order.
    pub claims: Vec<(ExpertId, Claim)>,
    /// How likely it is by now that each strategy is the one to follow.
    pub strategies: Vec<(Strategy, f64)>,
}

/// How much a prompt surprised an expert, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    Silent,
    /// Nats a token, the first one left out.
    Nats(f64),
    /// So little, where everybody else was surprised, that it does not count.
    Incredible(f64),
}

impl Claim {
    /// As it was said; None: nothing was.
    pub fn nats(self) -> Option<f64> {
        match self {
            Claim::Silent => None,
            Claim::Nats(nats) | Claim::Incredible(nats) => Some(nats),
        }
    }

    pub fn counts(self) -> bool {
        matches!(self, Claim::Nats(_))
    }

    fn of(ln_p: &[LnP]) -> Option<f64> {
        let total: f64 = ln_p.iter().map(|ln_p| -table::nats(*ln_p)).sum();
        (!ln_p.is_empty()).then(|| total / ln_p.len() as f64)
    }

    /// Of one expert among all that were asked.
    pub fn said(screen: &Screen, expert: usize) -> Claim {
        let said = screen.claim(expert).and_then(Claim::of);
        match (said, screen.is_credible(expert)) {
            (None, _) => Claim::Silent,
            (Some(nats), true) => Claim::Nats(nats),
            (Some(nats), false) => Claim::Incredible(nats),
        }
    }
}

/// What was said about one position before its token was known.
#[derive(Clone, Debug)]
struct Declared {
    set: Vec<usize>,
    parts: Vec<Vec<f64>>,
    mixed: Vec<f64>,
}

/// Fits to the given text so far.
#[derive(Clone, Debug)]
struct Fits {
    convex: Vec<f64>,
    gate: Vec<f64>,
}

/// The weights of one session's experts, which are numbered in expert-id order.
#[derive(Clone, Debug)]
pub struct Weights {
    rule: Rule,
    experts: usize,
    parts: Vec<Strategy>,
    table: Table,
    tokens: Vec<Token>,
    /// From which position on the text is whose, in order.
    spans: Vec<(Position, Situation)>,
    gate: Option<Gate>,

    /// Evidence before this position is in `base`.
    cursor: Position,
    /// Given positions among them.
    given: u32,
    base: Base,
    /// Earlier states, every `SAVED_EVERY` positions, the first one included.
    saved: Vec<Base>,
    /// Something was heard about this position after it was passed.
    dirty: Option<Position>,
    fits: Fits,

    /// The first position about which nothing was declared.
    next: Position,
    declared: BTreeMap<Position, Declared>,
    /// ln posterior over parts; one copy for each remainder of a position by lag + 1, so that each
    /// hears of its own predictions before it makes the next.
    posterior: Vec<Vec<f64>>,
    tally: Tally,
    follower: Option<Follower>,
}

impl Weights {
    /// Nobody is known to be better.
    pub fn new(rule: Rule, experts: usize, gate: Option<Gate>) -> Result<Weights, BadRule> {
        Weights::from_prior(rule, &vec![1.0; experts], gate)
    }

    /// Every strategy but `uniform` sets out from these weights, in whatever unit.
    pub fn from_prior(rule: Rule, prior: &[f64], gate: Option<Gate>) -> Result<Weights, BadRule> {
        let experts = prior.len();
        if experts == 0 || experts > TEAM_MAX {
            return Err(BadRule::Experts);
        }
        let total: f64 = prior.iter().sum();
        if !total.is_finite()
            || prior
                .iter()
                .any(|weight| !weight.is_normal() || *weight < 0.0)
        {
            return Err(BadRule::Prior);
        }
        if rule.lag > WEIGHT_LAG_MAX {
            return Err(BadRule::Lag);
        }
        if !(0.0..=0.5).contains(&rule.floor) {
            return Err(BadRule::Floor);
        }
        if gate.as_ref().is_some_and(|gate| gate.experts() != experts) {
            return Err(BadRule::Profiles);
        }
        let parts = rule.strategy.parts(gate.is_some());
        let prior: Vec<f64> = prior.iter().map(|weight| weight / total).collect();
        let base = Base::new(&prior, parts.len());
        Ok(Weights {
            rule,
            experts,
            table: Table::new(experts),
            tokens: Vec::new(),
            spans: vec![(0, Situation::Given)],
            gate,
            cursor: 0,
            given: 0,
            saved: vec![base.clone()],
            base,
            dirty: None,
            fits: Fits {
                convex: prior.clone(),
                gate: prior,
            },
            next: 0,
            declared: BTreeMap::new(),
            posterior: vec![vec![0.0; parts.len()]; rule.lag as usize + 1],
            tally: Tally {
                positions: 0,
                mixture: 0.0,
                parts: parts.iter().map(|s| (*s, 0.0)).collect(),
            },
            parts,
            follower: None,
        })
    }

    // --- what comes in ---------------------------------------------------------------------------

    /// The text so far grows by these tokens: what the gate looks at. Who has no gate need not tell.
    pub fn read(&mut self, tokens: &[Token]) {
        if self.gate.is_some() {
            let room = PLANE_TOKENS_MAX - self.tokens.len();
            self.tokens.extend(tokens.iter().take(room));
        }
    }

    /// An expert's exact ln p of the token at a position. Comes in any order, also long after the
    /// position was decided; the first word counts. False: it is of no use.
    pub fn heard(&mut self, position: Position, expert: usize, ln_p: LnP) -> bool {
        if !self.table.put(position, expert, ln_p) {
            return false;
        }
        if position < self.cursor && self.is_given(position) {
            self.dirty = Some(self.dirty.map_or(position, |earlier| earlier.min(position)));
        }
        if let Some(follower) = &mut self.follower {
            follower.heard(position, expert, ln_p);
        }
        true
    }

    /// From this position on the text is of this kind. Positions only grow.
    pub fn begin(&mut self, position: Position, situation: Situation) -> Result<(), BadRule> {
        if let Situation::Sampled(following) | Situation::Greedy(following) = situation {
            self.arrive(position);
            // Nothing is decided meanwhile, so all that was given is known: no lag.
            self.advance(position);
            self.fit();
            let all: Vec<usize> = (0..self.experts).collect();
            let start = self.mix(position, &self.of_parts(&all, 0));
            self.follower = Follower::new(position, following, &start)?;
        } else {
            self.follower = None;
        }
        self.spans.retain(|(from, _)| *from < position);
        self.spans.push((position, situation));
        Ok(())
    }

    // --- what goes out ---------------------------------------------------------------------------

    /// The weights of a set (numbers in order) at a position, from what was heard before it: they
    /// sum to one. On given text this is a prediction, and it will be judged; the last one about a
    /// position counts. A position that was passed is answered from what is known now.
    pub fn at(&mut self, position: Position, set: &[usize]) -> Vec<f64> {
        assert!(set.windows(2).all(|two| two[0] < two[1]), "a set in order");
        assert!(set.iter().all(|&k| k < self.experts), "experts that exist");
        self.arrive(position);
        if !self.is_given(position) {
            return self.of_generated(position, set);
        }
        let is_over = position + 1 < self.next || position as usize >= PLANE_TOKENS_MAX;
        match is_over {
            true => self.mix(position, &self.of_parts(set, self.rule.lag)),
            false => self.declare(position, set),
        }
    }

    /// The experts that would weigh most at a position if everybody were awake, best first: whom to
    /// ask. Strategies count here by what they would have given the text with everybody awake.
    pub fn best(&mut self, position: Position, k: usize) -> Vec<usize> {
        self.arrive(position);
        let all: Vec<usize> = (0..self.experts).collect();
        let weights = match self.is_given(position) {
            true => mixed(&self.base.hindsight, &self.of_parts(&all, self.rule.lag)),
            false => self.of_generated(position, &all),
        };
        let mut order = all;
        order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        order.truncate(k);
        order
    }

    /// What was lost so far, where the token is known.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How likely each strategy is by now, for whoever wants to know why weights are what they are.
    pub fn beliefs(&self, position: Position) -> Vec<(Strategy, f64)> {
        let posterior = softmax(&self.posterior[self.copy(position)]);
        self.parts.iter().copied().zip(posterior).collect()
    }

    /// What EM made of the given text when it was last fitted.
    pub fn convex(&self) -> &[f64] {
        &self.fits.convex
    }

    // --- time ------------------------------------------------------------------------------------

    /// Everything before a position is predicted (from what was known of it, if nobody asked) and,
    /// but for the lag, learned from.
    fn arrive(&mut self, position: Position) {
        let position = position.min(PLANE_TOKENS_MAX as Position);
        for passed in self.next..position {
            if !self.is_given(passed) {
                continue;
            }
            self.advance(passed.saturating_sub(self.rule.lag));
            let known = self.table.known(passed);
            if !known.is_empty() {
                self.declare(passed, &known);
            }
        }
        self.next = self.next.max(position);
        if self.is_given(position) {
            self.advance(position.saturating_sub(self.rule.lag));
        } else {
            self.advance(self.cursor); // late evidence only
        }
    }

    fn declare(&mut self, position: Position, set: &[usize]) -> Vec<f64> {
        let parts = self.of_parts(set, self.rule.lag);
        let mixed = self.mix(position, &parts);
        let declared = Declared {
            set: set.to_vec(),
            parts,
            mixed: mixed.clone(),
        };
        self.declared.insert(position, declared);
        self.next = self.next.max(position + 1);
        mixed
    }

    /// Takes in what was said of the positions before this one.
    fn advance(&mut self, to: Position) {
        let to = to.min(PLANE_TOKENS_MAX as Position);
        if let Some(dirty) = self.dirty.take() {
            self.rewind(dirty);
        }
        while self.cursor < to {
            if let Some(declared) = self.declared.remove(&self.cursor) {
                self.judge(self.cursor, &declared);
            }
            let is_given = self.is_given(self.cursor);
            self.step();
            if is_given {
                self.given += 1;
                if self.given >= FIRST_FIT && self.given.is_power_of_two() {
                    self.fit();
                }
            }
        }
    }

    /// Learns again from a position on. What was judged and fitted stays: it was said so.
    fn rewind(&mut self, dirty: Position) {
        let until = self.cursor;
        let at = (dirty / SAVED_EVERY) as usize;
        self.saved.truncate(at + 1);
        self.base = self.saved[at].clone();
        self.cursor = dirty / SAVED_EVERY * SAVED_EVERY;
        while self.cursor < until {
            self.step();
        }
    }

    fn step(&mut self) {
        let known = match self.is_given(self.cursor) {
            true => self.table.known(self.cursor),
            false => Vec::new(),
        };
        if !known.is_empty() {
            let row = self.table.row(self.cursor);
            let heard = Heard::of(known.iter().map(|&k| row[k]));
            let parts = self.of_parts(&known, 0);
            for (ln, weights) in self.base.hindsight.iter_mut().zip(&parts) {
                *ln += heard.ln_of(weights);
            }
        }
        if self.is_given(self.cursor) {
            self.base.learn(self.table.row(self.cursor));
        }
        self.cursor += 1;
        if self.cursor.is_multiple_of(SAVED_EVERY) {
            self.saved.push(self.base.clone());
        }
    }

    /// Bayes over the parts, by what each had said of this position.
    fn judge(&mut self, position: Position, declared: &Declared) {
        let row = self.table.row(position);
        let said = declared.set.iter().map(|&k| row.get(k).copied().flatten());
        let heard = Heard::of(said);
        if heard.is_silence() {
            return;
        }
        let copy = self.copy(position);
        let ln_mixture = heard.ln_of(&declared.mixed);
        self.tally.positions += 1;
        self.tally.mixture -= ln_mixture;
        let parts = self.posterior[copy].iter_mut().zip(&mut self.tally.parts);
        for ((ln_belief, (_, lost)), weights) in parts.zip(&declared.parts) {
            let ln_part = heard.ln_of(weights);
            *lost -= ln_part;
            *ln_belief += ln_part - ln_mixture;
        }
    }

    fn fit(&mut self) {
        let given: Vec<Position> = (0..self.cursor).filter(|t| self.is_given(*t)).collect();
        if self.parts.contains(&Strategy::Convex) {
            let rows: Vec<_> = given.iter().map(|&t| self.table.row(t)).collect();
            self.fits.convex = convex::fit(self.experts, &rows);
        }
        if let Some(gate) = &self.gate {
            let tokens = given.iter().filter_map(|&t| self.tokens.get(t as usize));
            self.fits.gate = gate.weights(tokens.copied());
        }
    }

    // --- weights ---------------------------------------------------------------------------------

    /// Each part's weights of a set, `blank` positions after what was learned.
    fn of_parts(&self, set: &[usize], blank: u32) -> Vec<Vec<f64>> {
        let of = |strategy: &Strategy| match strategy {
            Strategy::Uniform => vec![1.0 / set.len() as f64; set.len()],
            Strategy::Single => self.base.leader(set),
            Strategy::Bayes => self.base.bayes(set),
            Strategy::Share => self.base.share(set, blank),
            Strategy::Convex => restricted(&self.fits.convex, set),
            Strategy::Gate => restricted(&self.fits.gate, set),
            Strategy::Meta => Vec::new(), // is never a part of itself
        };
        self.parts.iter().map(of).collect()
    }

    fn mix(&self, position: Position, parts: &[Vec<f64>]) -> Vec<f64> {
        mixed(&self.posterior[self.copy(position)], parts)
    }

    fn of_generated(&mut self, position: Position, set: &[usize]) -> Vec<f64> {
        match &mut self.follower {
            Some(follower) => floored(follower.at(position, set), self.rule.floor),
            None => self.frozen(set),
        }
    }

    /// Weights of a set as they stand since the last given token; whatever came since is not in them.
    pub fn frozen(&self, set: &[usize]) -> Vec<f64> {
        let (from, _) = self.spans[self.spans.len() - 1];
        let weights = self.mix(from, &self.of_parts(set, 0));
        floored(weights, self.rule.floor)
    }

    /// Those of everybody, the smallest as well: what a text sets out from.
    pub fn start(&self) -> Vec<f64> {
        let all: Vec<usize> = (0..self.experts).collect();
        let (from, _) = self.spans[self.spans.len() - 1];
        self.mix(from, &self.of_parts(&all, 0))
    }

    fn copy(&self, position: Position) -> usize {
        position as usize % self.posterior.len()
    }

    fn span(&self, position: Position) -> (Position, Situation) {
        let after = self.spans.partition_point(|(from, _)| *from <= position);
        self.spans[after.saturating_sub(1)]
    }

    fn is_given(&self, position: Position) -> bool {
        self.span(position).1 == Situation::Given
    }
}

fn mixed(ln_beliefs: &[f64], parts: &[Vec<f64>]) -> Vec<f64> {
    let mut mixed = vec![0.0; parts.first().map_or(0, Vec::len)];
    for (belief, weights) in softmax(ln_beliefs).iter().zip(parts) {
        for (sum, weight) in mixed.iter_mut().zip(weights) {
            *sum += belief * weight;
        }
    }
    mixed
}

/// Small weights become zero and the rest sums to one again. If all are small, all stay.
pub(crate) fn floored(mut weights: Vec<f64>, floor: f64) -> Vec<f64> {
    let kept: f64 = weights.iter().filter(|w| **w >= floor).sum();
    if kept > 0.0 {
        for weight in &mut weights {
            *weight = if *weight >= floor {
                *weight / kept
            } else {
                0.0
            };
        }
    }
    weights
}

fn softmax(ln: &[f64]) -> Vec<f64> {
    let top = ln.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let masses: Vec<f64> = ln.iter().map(|l| libm::exp(l - top)).collect();
    let total: f64 = masses.iter().sum();
    masses.into_iter().map(|mass| mass / total).collect()
}
