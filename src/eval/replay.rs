//! A document once more, token by token: K experts are awake, the others are heard of later.

use super::documents::Document;
use quorate_core::ids::Position;
use quorate_core::lnp::LnP;
use quorate_core::weights::{
    BadRule, Following, GUARD_NATS, Gate, Rule, Situation, Strategy, Tally, Weights,
};

/// Tokens between two choices of whom to ask; sleepers' words arrive at these moments.
const CHOOSE_EVERY: usize = 16;
/// Room for rounding in a promise, in nats of a whole document.
const SLACK: f64 = 1e-6;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) strategy: Strategy,
    pub(super) k: usize,
    pub(super) lag: u32,
}

/// Weights of the experts at one position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moment {
    pub(super) position: usize,
    /// (expert, weight), in order of experts.
    pub(super) weights: Vec<(usize, f64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Replayed {
    /// Of the tokens behind the prompt.
    pub(super) nats: f64,
    pub(super) tokens: usize,
    pub(super) tally: Tally,
    /// At the positions that were asked for.
    pub(super) moments: Vec<Moment>,
}

/// ln p of one document's tokens 1.., by expert.
pub(super) type Said<'a> = &'a [Vec<LnP>];

fn said(scores: Said<'_>, expert: usize, position: usize) -> LnP {
    scores[expert][position - 1]
}

pub(super) fn replay(
    document: &Document,
    scores: Said<'_>,
    gate: Option<&Gate>,
    setting: Setting,
    watch: &[usize],
) -> Result<Replayed, BadRule> {
    let (experts, prompt) = (scores.len(), document.prompt());
    let rule = Rule {
        strategy: setting.strategy,
        lag: setting.lag,
        ..Rule::default()
    };
    let mut weights = Weights::new(rule, experts, gate.cloned())?;
    let hear = |weights: &mut Weights, position: usize, expert: usize| {
        weights.heard(position as Position, expert, said(scores, expert, position));
    };
    let sleepers =
        |set: &[usize]| -> Vec<usize> { (0..experts).filter(|k| !set.contains(k)).collect() };
    for position in 1..prompt {
        (0..experts).for_each(|k| hear(&mut weights, position, k));
    }
    weights.read(&document.tokens[..prompt]);
    let mut set: Vec<usize> = (0..experts).collect();
    let (mut nats, mut moments, mut chosen) = (0.0, Vec::new(), prompt);
    for position in prompt..document.tokens.len() {
        if (position - prompt).is_multiple_of(CHOOSE_EVERY) {
            for missed in chosen..position {
                for k in sleepers(&set) {
                    hear(&mut weights, missed, k);
                }
            }
            set = weights.best(position as Position, setting.k);
            set.sort_unstable();
            chosen = position;
        }
        let of_set = weights.at(position as Position, &set);
        let r = set.iter().zip(&of_set);
        let r: f64 = r.map(|(&k, w)| w * p(said(scores, k, position))).sum();
        nats -= r.ln();
        if watch.contains(&position) {
            let weights = set.iter().copied().zip(of_set).collect();
            moments.push(Moment { position, weights });
        }
        set.iter().for_each(|&k| hear(&mut weights, position, k));
        weights.read(&document.tokens[position..=position]);
    }
    weights.at(
        (document.tokens.len() + setting.lag as usize) as Position,
        &set,
    );
    Ok(Replayed {
        nats,
        tokens: document.tokens.len() - prompt,
        tally: weights.tally().clone(),
        moments,
    })
}

/// "No mass" counts as the smallest probability that evidence knows: 64 nats.
fn p(ln_p: LnP) -> f64 {
    ln_p.ln().max(-64.0).exp()
}

/// What one expert loses on the counted tokens, and on the prompt.
pub(super) fn alone(document: &Document, scores: &[LnP]) -> (f64, f64) {
    let loss = |scores: &[LnP]| scores.iter().map(|ln_p| -p(*ln_p).ln()).sum();
    let (prompt, counted) = scores.split_at(document.prompt() - 1);
    (loss(counted), loss(prompt))
}

/// Promises of decision 0013 that this document breaks.
pub(super) fn broken(
    document: &Document,
    scores: Said<'_>,
    setting: Setting,
    replayed: &Replayed,
) -> Result<usize, BadRule> {
    let tally = &replayed.tally;
    let parts = tally.parts.iter().map(|(_, lost)| *lost);
    let best_part = parts.fold(f64::INFINITY, f64::min);
    let copies = f64::from(setting.lag + 1);
    let meta = best_part + copies * (tally.parts.len() as f64).ln();
    let mut broken = usize::from(tally.mixture > meta + SLACK);
    if setting.k < scores.len() || setting.lag > 0 {
        return Ok(broken);
    }
    let whole = scores.iter().map(|s| {
        let (counted, prompt) = alone(document, s);
        counted + prompt
    });
    let best = whole.fold(f64::INFINITY, f64::min);
    match setting.strategy {
        Strategy::Bayes => {
            let most = best + (scores.len() as f64).ln() + SLACK;
            broken += usize::from(tally.mixture > most);
        }
        Strategy::Convex => broken += usize::from(!convex_keeps_its_promise(document, scores)?),
        _ => {}
    }
    Ok(broken)
}

/// Fitted on the prompt, EM loses at most the guard there against the best single expert.
fn convex_keeps_its_promise(document: &Document, scores: Said<'_>) -> Result<bool, BadRule> {
    let rule = Rule {
        strategy: Strategy::Convex,
        ..Rule::default()
    };
    let (experts, prompt) = (scores.len(), document.prompt());
    let mut weights = Weights::new(rule, experts, None)?;
    for position in 1..prompt {
        for k in 0..experts {
            weights.heard(position as Position, k, said(scores, k, position));
        }
    }
    weights.begin(prompt as Position, Situation::Greedy(Following::Frozen))?;
    let loss: f64 = (1..prompt)
        .map(|position| {
            let all = weights.convex().iter().enumerate();
            let r: f64 = all.map(|(k, w)| w * p(said(scores, k, position))).sum();
            -r.ln()
        })
        .sum();
    let best = scores.iter().map(|s| alone(document, s).1);
    Ok(loss <= best.fold(f64::INFINITY, f64::min) + GUARD_NATS + SLACK)
}
