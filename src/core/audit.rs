//! Does an expert compute with the file that it names? Whoever has the same file computes again what was
//! said, and bets on the difference. Decision 0018 has the rules; `core/node_audits.rs` says when.
//!
//! Equal numbers are not to be had: llama.cpp's logits move with the shape of the batch. So the measure is the
//! noise of honest experts. A difference becomes a value u that an honest expert's exceeds as rarely as u says
//! ([`NOISE`]), and a bettor as in [`crate::alarm`] bets on small ones: by Ville's inequality it is rich by an
//! honest expert as rarely as its wealth says, over all of that expert's life.

use crate::alarm::{BETS_COUNT, Bettor};
use crate::law::Transforms;
use crate::limits::DRAFT_TOKENS_MAX;
use crate::lnp::LnP;
use crate::opinion::{List, Query, Want};
use std::collections::BTreeSet;

mod desk;

pub use desk::{Budget, Desk, Progress};

/// Positions that one audit compares: one draft.
pub const WINDOW: u32 = DRAFT_TOKENS_MAX as u32;
/// ln of a hundred: worth a look, and to be asked last. An honest expert comes here with a chance of one in a hundred, ever.
pub const SUSPECT_NATS: f64 = 4.605_170_185_988_091;
/// ln of ten thousand: it does not compute with that file.
pub const SWAPPED_NATS: f64 = 9.210_340_371_976_182;
/// The auditor's own list goes so far below the one that it compares: what is missing in it is another belief, not
/// another rounding.
const WIDER: f64 = 4.0;
/// Where the model is sure, nothing is left to differ: this much of spread is always reckoned with.
const SPREAD_LEAST: f64 = 0.02;
/// Differences (see [`Gap::score`]) that an honest expert's exceed at half of all positions, a quarter, an eighth, ...:
/// measured by `quorate bench hostile --swap --json` (`noise`, the worst of all shapes and of two runs), times
/// [`MARGIN`]; research/measurements/hostile.md has the rows.
pub const NOISE: Noise = [0.080, 0.130, 0.175, 0.220, 0.269, 0.344, 0.431, 0.542];
/// Measured noise is taken for so many times as much: other machines, other texts.
pub const MARGIN: f64 = 1.25;
/// Scores that are exceeded at a half of all positions, a quarter, ...
pub type Noise = [f64; 8];
/// With this share of the coins, on u having density a u^(a-1): all of them win by small u.
const BETS: [(f64, f64); BETS_COUNT] = [
    (1.0, 0.25),
    (1.0, 0.5),
    (0.5, 0.5),
    (0.3, 0.25),
    (0.1, 0.25),
    (0.03, 0.25),
];

/// At least this part of its belief an expert kept under a law that keeps the most likely tokens, before it said them as
/// a whole. None: how much other truncations keep is anybody's guess, so they are not audited.
pub fn kept(transforms: &Transforms) -> Option<f64> {
    let is_known = transforms.top_k == 0 && transforms.min_p == 0.0;
    (is_known && transforms.top_p >= TOP_P_MIN).then(|| f64::from(transforms.top_p).min(1.0))
}

/// Is a rounding of logits no larger in what is said than where the noise was measured? A penalty for repeating
/// multiplies logits.
pub fn is_calm(transforms: &Transforms) -> bool {
    let penalty = transforms.repeat_penalty;
    transforms.temperature / penalty.max(1.0 / penalty) >= TEMPERATURE_MIN
}

/// What an auditor asks its own copy about a position, to judge what another was asked. The copy tells all that it
/// believes: two copies cut in different places, and what is cut is not compared.
pub fn question(asked: &Query) -> Query {
    let want = match &asked.want {
        Want::Perturbed { key, tau } => Want::Perturbed {
            key: *key,
            tau: tau / WIDER,
        },
        Want::Plain { mass, max } => Want::Plain {
            mass: 1.0 - (1.0 - mass) / WIDER,
            max: *max,
        },
        Want::Scalars(tokens) => Want::Scalars(tokens.clone()),
    };
    Query {
        want,
        mask: asked.mask.clone(),
        untruncated: true,
        raw_top: None,
        scores: 0,
    }
}

/// Below it a rounding of logits grows into mass (see [`is_calm`]).
pub const TEMPERATURE_MIN: f32 = 0.5;
/// Where more is cut off, less is left to compare than the noise hides.
pub const TOP_P_MIN: f32 = 0.9;

/// How far two lists about one position are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// At least so far in total variation, whatever stands behind what is not listed.
    pub distance: f64,
    /// How undecided the auditor's copy is: the sum of p (1 - p). Noise of logits moves probabilities in proportion.
    pub spread: f64,
}

impl Gap {
    /// Between what an expert said in answer to `asked` and what the auditor's copy says to [`question`] of it. Where
    /// something was cut off (see [`kept`]), p was said as p / Z with Z at least `kept`: so p is at least `kept` times
    /// what was said and at most that, and what was not said may have been cut. Nothing more follows, so an honest gap
    /// is no wider than the total variation.
    pub fn between(asked: &Query, kept: f64, said: &List, own: &List) -> Gap {
        let tokens = said.entries.iter().chain(&own.entries);
        let tokens: BTreeSet<u32> = tokens.map(|entry| entry.token).collect();
        let (mut over, mut under) = (0.0, 0.0);
        for token in tokens {
            let (least_said, mut most_said) = range(asked, said, token);
            let (least_own, most_own) = range(asked, own, token);
            if said.ln_p(token).is_none() {
                most_said = most_said.max(1.0 - kept);
            }
            over += (kept * least_said - most_own).max(0.0);
            under += (least_own - most_said).max(0.0);
        }
        let spread = own.entries.iter().map(|e| e.ln_p.p() * (1.0 - e.ln_p.p()));
        Gap {
            distance: f64::max(over, under).min(1.0),
            spread: spread.sum::<f64>().clamp(0.0, 1.0),
        }
    }

    /// What is compared with [`NOISE`].
    pub fn score(self) -> f64 {
        self.distance / (self.spread + SPREAD_LEAST)
    }

    /// So rare is a difference of this size at an honest expert, at most.
    fn rarity(self, noise: &Noise) -> f64 {
        let score = self.score();
        let level = noise.iter().take_while(|least| score > **least).count();
        libm::exp2(-(level as f64))
    }
}

/// Between what and what a list says that p(v) lies.
fn range(asked: &Query, list: &List, token: u32) -> (f64, f64) {
    if let Some(p) = list.ln_p(token).map(LnP::p) {
        return (p, p);
    }
    let most = match &asked.want {
        Want::Perturbed { key, .. } => list.bound * key.exponential(token),
        Want::Plain { .. } => list.bound,
        Want::Scalars(_) => 1.0,
    };
    (0.0, most.min(1.0))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing says that it is not.
    Honest,
    /// Unlikely for an honest expert; it may be one yet.
    Suspect,
    /// Said once and never taken back.
    Swapped,
}

/// What is remembered of one expert's audits, however many there were.
#[derive(Clone, Debug)]
pub struct Audit {
    bettor: Bettor,
    noise: Noise,
    /// The worst verdict ever.
    worst: Verdict,
}

impl Default for Audit {
    fn default() -> Audit {
        Audit::under(NOISE)
    }
}

impl Audit {
    /// Under noise that was measured elsewhere.
    pub fn under(noise: Noise) -> Audit {
        Audit {
            bettor: Bettor::on(&BETS),
            noise,
            worst: Verdict::Honest,
        }
    }

    pub fn see(&mut self, gap: Gap) {
        self.bettor.see(gap.rarity(&self.noise));
        self.worst = self.worst.max(self.verdict());
    }

    pub fn verdict(&self) -> Verdict {
        match self.nats() {
            _ if self.worst == Verdict::Swapped => Verdict::Swapped,
            nats if nats >= SWAPPED_NATS => Verdict::Swapped,
            nats if nats >= SUSPECT_NATS => Verdict::Suspect,
            _ => Verdict::Honest,
        }
    }

    /// The worst verdict that there ever was.
    pub fn worst(&self) -> Verdict {
        self.worst
    }

    /// ln of what the bettor owns.
    pub fn nats(&self) -> f64 {
        self.bettor.nats()
    }

    /// Positions that were computed again.
    pub fn positions(&self) -> u64 {
        self.bettor.values()
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
