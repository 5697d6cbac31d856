//! How far experts are from each other, over the whole vocabulary, at a few positions; and how
//! often a draft of one of them would be accepted by the mixture.

use super::draws::Draws;
use super::figures::{DEFAULT, default_k};
use super::replay::{Moment, Setting, replay};
use super::scores::{Asked, Shelf};
use super::{EvalError, Options, Panel, Result};
use quorate_core::ids::{Position, SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::limits::DRAFT_TOKENS_MAX;
use quorate_core::opinion::{ExpertEvent, ExpertOp, Open, Query, Said, Scope, Want};
use serde::{Deserialize, Serialize};

/// Documents of each set, and positions of each.
const AMOUNTS: (usize, usize) = (24, 4);
const AMOUNTS_QUICK: (usize, usize) = (4, 2);

/// At one position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// Total variation of each pair of experts: (0, 1), (0, 2), ... (1, 2), ...
    pairs: Vec<Exact>,
    /// 1 - TV(q, r), if the base drafts, and if the heaviest expert does.
    base: Exact,
    heaviest: Exact,
}

/// A number that is kept as its bits: decimals that are read back may differ in the last one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
struct Exact(f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Exact {
        Exact(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(exact: Exact) -> u64 {
        exact.0.to_bits()
    }
}

/// Means over positions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Apart {
    pub(super) positions: usize,
    pub(super) mean: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) alpha: f64,
    pub(super) alpha_heaviest: f64,
}

pub(super) fn apart(panel: &Panel, options: &Options, shelf: &Shelf) -> Result<Apart> {
    let picked = picked(panel, options);
    let mut asked: Option<Vec<Asked>> = None;
    let mut seen = Vec::new();
    for (nth, document) in picked.iter().enumerate() {
        (options.progress)("distributions", nth, picked.len());
        let moments = moments(panel, options, *document)?;
        let place = shelf.place(&format!(
            "apart/{}",
            key(panel, options, *document, &moments)
        ));
        let kept = std::fs::read(&place).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Vec<Seen>>(&bytes).ok());
        let experts = options.experts.len();
        let is_whole = |seen: &Seen| seen.pairs.len() == experts * experts.saturating_sub(1) / 2;
        let here = match kept.filter(|kept| kept.iter().all(is_whole)) {
            Some(here) => here,
            None => {
                let asked = match &mut asked {
                    Some(asked) => asked,
                    empty => {
                        let all: Result<Vec<Asked>> =
                            options.experts.iter().map(Asked::new).collect();
                        empty.insert(all?)
                    }
                };
                let tokens = &panel.documents[*document].tokens;
                let here = look(asked, nth, tokens, &moments)?;
                let bytes = serde_json::to_vec(&here);
                let bytes = bytes.map_err(|error| EvalError::Panel(error.to_string()))?;
                shelf.keep(&place, &bytes)?;
                here
            }
        };
        seen.extend(here);
    }
    (options.progress)("distributions", picked.len(), picked.len());
    Ok(means(&seen))
}

/// The first documents of each set: pure ones of every domain in turn.
fn picked(panel: &Panel, options: &Options) -> Vec<usize> {
    let (count, _) = amounts(options);
    let all = 0..panel.documents.len();
    let mixed = |d: &usize| panel.documents[*d].domain.is_none();
    let mut pure: Vec<usize> = all.clone().filter(|d| !mixed(d)).collect();
    // How many of its domain stand before it: first ones first.
    let domain = |d: usize| panel.documents[d].domain;
    let turn = |d: &usize| pure_before(*d, &domain);
    pure.sort_by_key(turn);
    pure.truncate(count);
    pure.extend(all.filter(mixed).take(count));
    pure
}

fn pure_before(document: usize, domain: &dyn Fn(usize) -> Option<usize>) -> usize {
    (0..document)
        .filter(|&d| domain(d) == domain(document))
        .count()
}

fn amounts(options: &Options) -> (usize, usize) {
    match options.quick {
        true => AMOUNTS_QUICK,
        false => AMOUNTS,
    }
}

/// Weights of the default strategy at some positions of a document.
fn moments(panel: &Panel, options: &Options, nth: usize) -> Result<Vec<Moment>> {
    let (document, (_, count)) = (&panel.documents[nth], amounts(options));
    let mut draws = Draws::new(options.seed, "positions", nth);
    let last = document.tokens.len() - 1;
    let mut watch: Vec<usize> = (0..count)
        .map(|_| draws.within(document.prompt(), last))
        .collect();
    watch.sort_unstable();
    watch.dedup();
    let setting = Setting {
        strategy: DEFAULT.0,
        k: default_k(panel.names.len()),
        lag: 0,
    };
    let replayed = replay(
        document,
        &panel.scores[nth],
        panel.gate.as_ref(),
        setting,
        &watch,
    );
    let replayed = replayed.map_err(|error| EvalError::Panel(error.to_string()))?;
    Ok(replayed.moments)
}

/// What the answer is a function of.
fn key(panel: &Panel, options: &Options, document: usize, moments: &[Moment]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(panel.documents[document].key().as_bytes());
    for source in &options.experts {
        hasher.update(&source.id.0);
    }
    for moment in moments {
        hasher.update(&(moment.position as u64).to_le_bytes());
        for (k, weight) in &moment.weights {
            hasher.update(&(*k as u64).to_le_bytes());
            hasher.update(&weight.to_bits().to_le_bytes());
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Everybody reads the document once and says everything at these positions.
fn look(
    asked: &mut [Asked],
    nth: usize,
    tokens: &[Token],
    moments: &[Moment],
) -> Result<Vec<Seen>> {
    let mut by_moment: Vec<Vec<Vec<f64>>> = vec![Vec::new(); moments.len()];
    let session = SessionId(nth as u128 + 1);
    for asked in asked {
        let Some(first) = moments.first() else {
            continue;
        };
        open(asked, session, &tokens[..first.position])?;
        let mut at = first.position;
        for (moment, rows) in moments.iter().zip(&mut by_moment) {
            rows.push(row(asked, session, tokens, at, moment.position)?);
            at = moment.position;
        }
        asked.tell(ExpertOp::Close { session })?;
    }
    let both = moments.iter().zip(&by_moment);
    Ok(both.map(|(moment, rows)| seen(moment, rows)).collect())
}

fn open(asked: &Asked, session: SessionId, prompt: &[Token]) -> Result<()> {
    asked.tell(ExpertOp::Open(Box::new(Open {
        session,
        scope: Scope::OWNER,
        prompt: prompt.to_vec(),
        transforms: Transforms::NEUTRAL,
        answered: Vec::new(),
        score: false,
        path: Vec::new(),
    })))
}

/// Goes on from one position to another and asks for the whole distribution there.
fn row(
    asked: &mut Asked,
    session: SessionId,
    tokens: &[Token],
    from: usize,
    to: usize,
) -> Result<Vec<f64>> {
    let vocab = asked.expert.facts().vocab.len();
    let everything = Query {
        want: Want::Scalars((0..vocab).collect()),
        ..Query::plain(0.0, 0)
    };
    let mut at = from;
    loop {
        let until = to.min(at + DRAFT_TOKENS_MAX);
        let is_last = until == to;
        asked.tell(ExpertOp::Draft {
            session,
            epoch: 0,
            position: at as Position,
            tokens: tokens[at..until].to_vec(),
            queries: if is_last {
                vec![everything.clone()]
            } else {
                Vec::new()
            },
        })?;
        at = until;
        if is_last {
            break;
        }
    }
    loop {
        if let ExpertEvent::Opinions { mut opinions, .. } = asked.hear()?
            && let Some(opinion) = opinions.pop()
        {
            return match opinion.said {
                Said::Scalars(all) => Ok(all.into_iter().map(|ln_p| ln_p.p()).collect()),
                Said::List(_) => Err(asked.wrong("it answered another question")),
            };
        }
    }
}

fn seen(moment: &Moment, rows: &[Vec<f64>]) -> Seen {
    let mut pairs = Vec::new();
    for (i, a) in rows.iter().enumerate() {
        pairs.extend(rows[i + 1..].iter().map(|b| Exact(variation(a, b))));
    }
    let mut mixture = vec![0.0; rows.first().map_or(0, Vec::len)];
    for (k, weight) in &moment.weights {
        for (sum, p) in mixture.iter_mut().zip(&rows[*k]) {
            *sum += weight * p;
        }
    }
    let heaviest = moment.weights.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let heaviest = heaviest.map_or(0, |(k, _)| *k);
    Seen {
        pairs,
        base: Exact(1.0 - variation(&rows[0], &mixture)),
        heaviest: Exact(1.0 - variation(&rows[heaviest], &mixture)),
    }
}

fn variation(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0
}

fn means(seen: &[Seen]) -> Apart {
    let count = seen.len().max(1) as f64;
    let pairs = seen.first().map_or(0, |s| s.pairs.len());
    let of_pair = |pair: usize| seen.iter().map(|s| s.pairs[pair].0).sum::<f64>() / count;
    let pairs: Vec<f64> = (0..pairs).map(of_pair).collect();
    let extreme = |by: fn(f64, f64) -> f64| pairs.iter().copied().reduce(by).unwrap_or(0.0);
    Apart {
        positions: seen.len(),
        mean: pairs.iter().sum::<f64>() / pairs.len().max(1) as f64,
        min: extreme(f64::min),
        max: extreme(f64::max),
        alpha: seen.iter().map(|s| s.base.0).sum::<f64>() / count,
        alpha_heaviest: seen.iter().map(|s| s.heaviest.0).sum::<f64>() / count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variation_and_acceptance_are_counted_by_hand() {
        let rows = vec![
            vec![1.0, 0.0, 0.0],
            vec![0.5, 0.5, 0.0],
            vec![0.0, 0.0, 1.0],
        ];
        let moment = Moment {
            position: 3,
            weights: vec![(0, 0.25), (1, 0.75)],
        };
        let here = seen(&moment, &rows);
        assert_eq!(here.pairs, [0.5, 1.0, 1.0].map(Exact));
        // The mixture is (.625, .375, 0).
        assert_eq!((here.base.0, here.heaviest.0), (0.625, 0.875));
        let all = means(&[here.clone(), here]);
        assert_eq!((all.min, all.max, all.positions), (0.5, 1.0, 2));
        assert!((all.mean - 2.5 / 3.0).abs() < 1e-12);
        assert_eq!(
            means(&[]),
            Apart {
                mean: 0.0,
                ..Apart::default()
            }
        );
    }
}
