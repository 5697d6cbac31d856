//! What one liar among experts gets into a text under each way of mixing: no model, made-up experts that half
//! agree, everything drawn by committed seeds.

use quorate_core::aggregate::Voice;
use quorate_core::distribution::{Distribution, History};
use quorate_core::ids::{Position, Token};
use quorate_core::law::{ListLaw, Transforms};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{List, Query, Said};
use quorate_core::plain::{self, SUPPORT_MIN};
use quorate_core::seeded::Secret;
use quorate_core::weights::{Following, Rule, Situation, Weights};
use serde::Serialize;

const EXPERTS: usize = 4;
/// The one that lies, where somebody does.
const LIAR: usize = 3;
const VOCAB: usize = 4_096;
const TEXTS: u64 = 8;
const PROMPT: Position = 64;
const ANSWER: Position = 96;
/// How much of what an expert believes is its own: experts are then as far apart as real ones were in a pilot.
const OWN: f64 = 0.3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    Nobody,
    /// Believes something unrelated, always.
    Noise,
    /// Honest on the prompt, then sure of a token that nobody believes.
    Sleeper,
    /// The same, but it claims no more than three in ten.
    Quiet,
    /// A cheaper model in its place: flatter, and half of it something else.
    Swap,
}

const ATTACKS: [(Attack, &str); 5] = [
    (Attack::Nobody, "nobody lies"),
    (Attack::Noise, "noise"),
    (Attack::Sleeper, "sleeper"),
    (Attack::Quiet, "quiet sleeper"),
    (Attack::Swap, "cheaper model"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mixing {
    Mean,
    /// Weights learned from the prompt, which is the liar's own domain.
    Learned,
    /// Those, none above 1/K.
    Capped,
    /// The mean over what f + 1 support.
    Supported,
    /// The mean without the f highest and the f lowest.
    Trimmed,
    /// `--robust 1`: both, from plain lists.
    Robust,
}

const MIXINGS: [(Mixing, &str); 6] = [
    (Mixing::Mean, "mean"),
    (Mixing::Learned, "learned weights"),
    (Mixing::Capped, "learned, capped at 1/K"),
    (Mixing::Supported, "f+1 support"),
    (Mixing::Trimmed, "trimmed mean"),
    (Mixing::Robust, "robust (both, lists)"),
];

#[derive(Clone, Debug, Serialize)]
pub struct HostileRow {
    pub attack: &'static str,
    pub mixing: &'static str,
    pub tokens: u32,
    /// Tokens that every honest expert believes with less than [`SUPPORT_MIN`].
    pub injected: u32,
    /// Texts with at least one of them.
    pub texts_hit_pct: f64,
    /// Mean distance of what is drawn from and the honest experts' mean, in total variation.
    pub tv: f64,
    /// Of the expert that lies, where weights are learned.
    pub liar_weight: Option<f64>,
}

type Row = Vec<f64>;

pub fn hostile() -> Vec<HostileRow> {
    let zipf = zipf();
    let mut rows = Vec::new();
    for (attack, attack_name) in ATTACKS {
        let mut sums: Vec<Sum> = MIXINGS.map(|_| Sum::default()).to_vec();
        for text in 0..TEXTS {
            one_text(&zipf, attack, text, &mut sums);
        }
        let told = sums.iter().zip(MIXINGS);
        rows.extend(told.map(|(sum, (mixing, name))| sum.row(attack_name, mixing, name)));
    }
    rows
}

#[derive(Clone, Debug, Default)]
struct Sum {
    tokens: u32,
    injected: u32,
    texts_hit: u32,
    tv: f64,
    liar_weight: f64,
}

impl Sum {
    fn row(&self, attack: &'static str, mixing: Mixing, name: &'static str) -> HostileRow {
        let learns = matches!(mixing, Mixing::Learned | Mixing::Capped);
        HostileRow {
            attack,
            mixing: name,
            tokens: self.tokens,
            injected: self.injected,
            texts_hit_pct: 100.0 * f64::from(self.texts_hit) / TEXTS as f64,
            tv: self.tv / f64::from(self.tokens.max(1)),
            liar_weight: learns.then(|| self.liar_weight / TEXTS as f64),
        }
    }
}

fn one_text(zipf: &Row, attack: Attack, text: u64, sums: &mut [Sum]) {
    let secret = Secret::from_seed(text, 7);
    let learned = learned(zipf, attack, text, &secret);
    let capped = capped(&learned);
    let before: Vec<u32> = sums.iter().map(|sum| sum.injected).collect();
    for position in PROMPT..PROMPT + ANSWER {
        let honest: Vec<Row> = (0..EXPERTS)
            .map(|k| believed(zipf, text, k, position))
            .collect();
        let mut said = honest.clone();
        said[LIAR] = lie(zipf, attack, text, position, &honest[LIAR], true);
        let liars = usize::from(attack != Attack::Nobody);
        let judges = &honest[..EXPERTS - liars];
        let truth = mean(judges, &vec![1.0 / judges.len() as f64; judges.len()]);
        let key = secret.key(position);
        let noise: Row = (0..VOCAB).map(|v| key.exponential(v as Token)).collect();
        for ((mixing, _), sum) in MIXINGS.into_iter().zip(sums.iter_mut()) {
            let r = mix(mixing, &said, &learned, &capped);
            let score = |v: &usize| r[*v] / noise[*v];
            let drawn = (0..VOCAB).max_by(|a, b| score(a).total_cmp(&score(b)));
            let drawn = drawn.expect("there are tokens");
            sum.tokens += 1;
            sum.injected += u32::from(judges.iter().all(|p| p[drawn] < SUPPORT_MIN));
            sum.tv += r
                .iter()
                .zip(&truth)
                .map(|(a, b)| (a - b).abs())
                .sum::<f64>()
                / 2.0;
        }
    }
    for (sum, before) in sums.iter_mut().zip(before) {
        sum.texts_hit += u32::from(sum.injected > before);
        sum.liar_weight += learned[LIAR];
    }
}

// --- what experts believe and say --------------------------------------------------------------------

fn zipf() -> Row {
    let raw: Row = (1..=VOCAB).map(|rank| (rank as f64).powf(-1.5)).collect();
    let total: f64 = raw.iter().sum();
    raw.into_iter().map(|p| p / total).collect()
}

/// Zipf's law over the vocabulary in an order that the seed makes.
fn ordered(zipf: &Row, text: u64, of: u64, position: Position) -> Row {
    let seed = Secret::from_seed(text * 64 + of, 1).key(position).0;
    let (turn, step) = (seed[0] as usize, seed[1] as usize | 1);
    let mut row = vec![0.0; VOCAB];
    for (rank, p) in zipf.iter().enumerate() {
        row[(rank.wrapping_mul(step).wrapping_add(turn)) % VOCAB] = *p;
    }
    row
}

fn blended(a: &Row, b: &Row, share: f64) -> Row {
    let both = a.iter().zip(b);
    both.map(|(a, b)| (1.0 - share) * a + share * b).collect()
}

/// What an honest expert believes: mostly what all do.
fn believed(zipf: &Row, text: u64, expert: usize, position: Position) -> Row {
    let common = ordered(zipf, text, 0, position);
    let own = ordered(zipf, text, 1 + expert as u64, position);
    blended(&common, &own, OWN)
}

/// What the last expert says in its place.
fn lie(
    zipf: &Row,
    attack: Attack,
    text: u64,
    position: Position,
    honest: &Row,
    is_awake: bool,
) -> Row {
    let other = || ordered(zipf, text, 20, position);
    let sure = |share: f64| {
        let least = (0..VOCAB).min_by(|a, b| honest[*a].total_cmp(&honest[*b]));
        let mut one = vec![0.0; VOCAB];
        one[least.unwrap_or(0)] = 1.0;
        blended(honest, &one, share)
    };
    match attack {
        Attack::Nobody => honest.clone(),
        Attack::Noise => other(),
        Attack::Sleeper if is_awake => sure(0.999),
        Attack::Quiet if is_awake => sure(0.3),
        Attack::Sleeper | Attack::Quiet => honest.clone(),
        Attack::Swap => {
            let flat: Row = honest.iter().map(|p| p.powf(0.7)).collect();
            let total: f64 = flat.iter().sum();
            let flat = flat.into_iter().map(|p| p / total).collect();
            blended(&flat, &other(), 0.5)
        }
    }
}

// --- mixing --------------------------------------------------------------------------------------------

/// Weights from a prompt that the last expert would have written, as it says what it thinks of it.
fn learned(zipf: &Row, attack: Attack, text: u64, secret: &Secret) -> Row {
    let Ok(mut weights) = Weights::new(Rule::default(), EXPERTS, None) else {
        return vec![1.0 / EXPERTS as f64; EXPERTS];
    };
    for position in 0..PROMPT {
        let mut said: Vec<Row> = (0..EXPERTS)
            .map(|k| believed(zipf, text, k, position))
            .collect();
        let own = &said[LIAR];
        let key = secret.key(position);
        let score = |v: &usize| own[*v] / key.exponential(*v as Token);
        let token = (0..VOCAB).max_by(|a, b| score(a).total_cmp(&score(b)));
        let token = token.expect("there are tokens");
        said[LIAR] = lie(zipf, attack, text, position, own, false);
        for (k, p) in said.iter().enumerate() {
            weights.heard(position, k, LnP::floor(p[token].ln()));
        }
    }
    let answer = Situation::Sampled(Following::Frozen);
    match weights.begin(PROMPT, answer) {
        Ok(()) => weights.frozen(&(0..EXPERTS).collect::<Vec<_>>()),
        Err(_) => vec![1.0 / EXPERTS as f64; EXPERTS],
    }
}

fn capped(weights: &Row) -> Row {
    let cap = 1.0 / EXPERTS as f64;
    // What is above the cap goes to the others; with a cap of 1/K everybody ends at it.
    let room: f64 = weights.iter().map(|w| (cap - w).max(0.0)).sum();
    let over: f64 = weights.iter().map(|w| (w - cap).max(0.0)).sum();
    let share = |w: &f64| match room > 0.0 {
        true => w.min(cap) + (cap - w).max(0.0) / room * over,
        false => *w,
    };
    weights.iter().map(share).collect()
}

fn mean(said: &[Row], weights: &[f64]) -> Row {
    let mut r = vec![0.0; VOCAB];
    for (p, weight) in said.iter().zip(weights) {
        for (sum, p) in r.iter_mut().zip(p) {
            *sum += weight * p;
        }
    }
    r
}

fn normalised(r: Row) -> Row {
    let total: f64 = r.iter().sum();
    r.into_iter().map(|p| p / total).collect()
}

fn mix(mixing: Mixing, said: &[Row], learned: &Row, capped: &Row) -> Row {
    let equal = vec![1.0 / said.len() as f64; said.len()];
    match mixing {
        Mixing::Mean => mean(said, &equal),
        Mixing::Learned => mean(said, learned),
        Mixing::Capped => mean(said, capped),
        Mixing::Supported => {
            let supported = |v: usize| said.iter().filter(|p| p[v] >= SUPPORT_MIN).count() > 1;
            let r = mean(said, &equal).into_iter().enumerate();
            normalised(r.map(|(v, p)| if supported(v) { p } else { 0.0 }).collect())
        }
        Mixing::Trimmed => {
            let trimmed = |v: usize| {
                let mut values: Row = said.iter().map(|p| p[v]).collect();
                values.sort_by(f64::total_cmp);
                values[1..said.len() - 1].iter().sum::<f64>()
            };
            normalised((0..VOCAB).map(trimmed).collect())
        }
        Mixing::Robust => {
            let lists: Vec<List> = said.iter().map(list).collect();
            let voices = lists.iter().map(|list| Voice { weight: 1.0, list });
            let mut r = vec![0.0; VOCAB];
            for (token, p) in plain::robust(&voices.collect::<Vec<_>>(), 1) {
                r[token as usize] = p;
            }
            normalised(r)
        }
    }
}

/// As an expert would say it.
fn list(p: &Row) -> List {
    let logits: Vec<f32> = p.iter().map(|p| (p.max(1e-30)).ln() as f32).collect();
    let law = ListLaw::default();
    let history = History {
        tokens: &[],
        prompt: 0,
    };
    let mut row = Distribution::new();
    let measured = row.measure(&logits, &Transforms::NEUTRAL, history, false);
    let query = Query::plain(law.mass, law.max_entries);
    match (measured, row.answer(&query).0) {
        (Ok(()), Said::List(list)) => list,
        _ => List::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_liar_of_four_injects_nothing_under_the_robust_law_and_much_into_a_mean() {
        let rows = hostile();
        let of = |attack: &str, mixing: &str| {
            let mut found = rows.iter();
            found
                .find(|row| row.attack == attack && row.mixing == mixing)
                .expect("it was measured")
        };
        for (_, attack) in ATTACKS {
            assert_eq!(of(attack, "robust (both, lists)").injected, 0, "{attack}");
            assert_eq!(of(attack, "f+1 support").injected, 0, "{attack}");
        }
        let tokens = of("sleeper", "mean").tokens;
        assert!(of("sleeper", "mean").injected > tokens / 5);
        assert!(of("sleeper", "learned weights").injected > tokens / 2);
        assert!(of("noise", "learned weights").liar_weight < Some(0.05));
    }
}
