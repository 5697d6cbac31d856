//! What learned weights cost the router: no model, made-up evidence, the largest panel.

use quorate_core::ids::Position;
use quorate_core::limits::TEAM_MAX;
use quorate_core::lnp::LnP;
use quorate_core::weights::{Rule, Weights};
use serde::Serialize;
use std::time::{Duration, Instant};

const AWAKE: usize = 4;
const TOKENS: u32 = 2_048;
const PROMPT_TOKENS: u32 = 8_000;
/// Sleepers are heard, and the set is chosen anew, this often: as in `quorate eval`.
const CHOOSE_EVERY: u32 = 16;
const TURNS: usize = 5;

#[derive(Clone, Debug, Serialize)]
pub struct WeightsReport {
    pub experts: usize,
    pub awake: usize,
    /// Choosing, weighing, hearing and catching up, for each token of given text.
    pub token_us: f64,
    pub prompt_tokens: u32,
    /// Reading a scored prompt at once, for each token of it.
    pub prompt_us: f64,
}

/// Medians of a few turns.
pub fn weights() -> WeightsReport {
    let per_token = |turn: fn() -> Duration, tokens: u32| {
        let mut us: Vec<f64> = (0..TURNS)
            .map(|_| turn().as_secs_f64() * 1e6 / f64::from(tokens))
            .collect();
        us.sort_by(f64::total_cmp);
        us[TURNS / 2]
    };
    WeightsReport {
        experts: TEAM_MAX,
        awake: AWAKE,
        token_us: per_token(text, TOKENS),
        prompt_tokens: PROMPT_TOKENS,
        prompt_us: per_token(prompt, PROMPT_TOKENS),
    }
}

/// Experts take turns at being right, about every hundred tokens.
fn said(position: Position, expert: usize) -> LnP {
    let right = (position / 100) as usize * 7 % TEAM_MAX == expert;
    let noise = position
        .wrapping_mul(0x9E37_79B1)
        .rotate_left(expert as u32 * 2)
        >> 20;
    let steps = noise + if right { 500 } else { 2_500 };
    LnP::from_wire(u16::try_from(steps).unwrap_or(u16::MAX))
}

fn fresh() -> Weights {
    Weights::new(Rule::default(), TEAM_MAX, None).expect("the default rule is allowed")
}

fn text() -> Duration {
    let mut weights = fresh();
    let mut set: Vec<usize> = Vec::new();
    let begun = Instant::now();
    for position in 0..TOKENS {
        if position % CHOOSE_EVERY == 0 {
            for missed in position.saturating_sub(CHOOSE_EVERY)..position {
                for k in (0..TEAM_MAX).filter(|k| !set.contains(k)) {
                    weights.heard(missed, k, said(missed, k));
                }
            }
            set = weights.best(position, AWAKE);
            set.sort_unstable();
        }
        std::hint::black_box(weights.at(position, &set));
        for &k in &set {
            weights.heard(position, k, said(position, k));
        }
    }
    begun.elapsed()
}

fn prompt() -> Duration {
    let mut weights = fresh();
    let everybody: Vec<usize> = (0..TEAM_MAX).collect();
    let begun = Instant::now();
    for position in 0..PROMPT_TOKENS {
        for &k in &everybody {
            weights.heard(position, k, said(position, k));
        }
    }
    std::hint::black_box(weights.at(PROMPT_TOKENS, &everybody));
    begun.elapsed()
}
