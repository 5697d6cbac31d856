//! From losses of documents to rows with intervals.

use super::documents::{Document, Domain};
use super::draws::Draws;
use super::replay::{Setting, alone, broken, replay};
use super::report::{Gain, LagRow, Row};
use super::verdict::{Facts, Verdict};
use super::{EvalError, Options, Panel, Result};
use quorate_core::weights::Strategy;

/// Numbers of awake experts that are compared.
const KS: [usize; 4] = [1, 2, 4, 8];
const LAGS: [u32; 3] = [8, 16, 32];
/// The candidate for the default.
pub(super) const DEFAULT: (Strategy, usize) = (Strategy::Meta, 4);
const RESAMPLES: usize = 2_000;

/// What one way of predicting lost on each document.
struct Column {
    strategy: &'static str,
    k: usize,
    lag: u32,
    nats: Vec<f64>,
}

pub(super) struct Figures {
    pub(super) rows: Vec<Row>,
    pub(super) lags: Vec<LagRow>,
    pub(super) mixed: Option<Gain>,
    pub(super) pure: Option<Gain>,
    pub(super) mixed_by_prompt: Option<Gain>,
    pub(super) mixed_against: Option<Gain>,
    /// Of the gain of the largest K, in nats, on mixed documents.
    pub(super) kept: Option<f64>,
    pub(super) k: usize,
    pub(super) violations: usize,
}

impl Figures {
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::of(&Facts {
            rows: &self.rows,
            k: self.k,
            mixed: self.mixed,
            mixed_by_prompt: self.mixed_by_prompt,
            pure: self.pure,
            kept: self.kept,
            violations: self.violations,
        })
    }
}

pub(super) fn ks(experts: usize) -> Vec<usize> {
    let mut ks: Vec<usize> = KS.iter().map(|k| (*k).min(experts)).collect();
    ks.dedup();
    ks
}

/// As many as the default asks, of so many.
pub(super) fn default_k(experts: usize) -> usize {
    DEFAULT.1.min(experts)
}

pub(super) fn figures(panel: &Panel, domains: &[Domain], options: &Options) -> Result<Figures> {
    let experts = panel.names.len();
    let (mut columns, violations) = columns(panel, options)?;
    columns.extend(references(panel));
    let groups = groups(&panel.documents, domains);
    let counted: Vec<f64> = panel.documents.iter().map(counted).collect();
    let mut rows = Vec::new();
    let mut lags = Vec::new();
    for group in &groups {
        let resamples = group.resamples(options.seed);
        let sample = Sample {
            counted: &counted,
            documents: &group.documents,
            resamples: &resamples,
        };
        let oracle = column(&columns, "oracle", 1);
        let default = column(&columns, DEFAULT.0.name(), default_k(experts));
        for column in &columns {
            let (nats, ci) = sample.loss(&column.nats);
            let row = Row {
                set: group.set,
                domain: group.domain.clone(),
                strategy: column.strategy,
                k: column.k,
                nats,
                ci,
                vs_oracle: sample.ratio(&column.nats, &oracle.nats),
                vs_default: sample.ratio(&column.nats, &default.nats),
            };
            match column.lag {
                0 => rows.push(row),
                lag if group.domain == group.set => lags.push(LagRow { lag, row }),
                _ => {}
            }
        }
    }
    let k = default_k(experts);
    let gain = |set: &str, over: &str| {
        let group = groups.iter().find(|g| g.set == set && g.domain == set)?;
        let over = columns.iter().find(|c| c.strategy == over)?;
        let ours = column(&columns, DEFAULT.0.name(), k);
        let resamples = group.resamples(options.seed);
        let sample = Sample {
            counted: &counted,
            documents: &group.documents,
            resamples: &resamples,
        };
        Some(sample.ratio(&ours.nats, &over.nats))
    };
    Ok(Figures {
        mixed: gain("mixed", "oracle"),
        pure: gain("pure", "oracle"),
        mixed_by_prompt: gain("mixed", "prompt"),
        mixed_against: gain("mixed", "against"),
        kept: kept(&rows, k, ks(experts).last().copied().unwrap_or(1)),
        k,
        rows,
        lags,
        violations,
    })
}

/// Of what the default gains over the best single expert with the largest K, in nats, what it gains
/// with `k`.
fn kept(rows: &[Row], k: usize, largest: usize) -> Option<f64> {
    let of = |strategy: &str, k: usize| {
        let row = |r: &&Row| r.set == "mixed" && r.strategy == strategy && r.k == k;
        rows.iter().find(row).map(|r| r.nats)
    };
    let (oracle, meta) = (of("oracle", 1)?, DEFAULT.0.name());
    let (gain, most) = (oracle - of(meta, k)?, oracle - of(meta, largest)?);
    // Where nothing is gained nothing can be kept.
    (most > 0.0).then(|| gain / most)
}

fn counted(document: &Document) -> f64 {
    (document.tokens.len() - document.prompt()) as f64
}

/// There is one of every name and K that this file asks for.
fn column<'a>(columns: &'a [Column], strategy: &str, k: usize) -> &'a Column {
    let found = columns
        .iter()
        .find(|c| c.strategy == strategy && c.k == k && c.lag == 0);
    found.expect("every strategy was replayed at every K")
}

fn settings(panel: &Panel) -> Vec<Setting> {
    let ks = ks(panel.names.len());
    let has_gate = panel.gate.is_some();
    let strategies = Strategy::ALL.into_iter();
    let strategies = strategies.filter(|s| *s != Strategy::Gate || has_gate);
    let mut all: Vec<Setting> = strategies
        .flat_map(|strategy| {
            ks.iter().map(move |&k| Setting {
                strategy,
                k,
                lag: 0,
            })
        })
        .collect();
    all.extend(LAGS.map(|lag| Setting {
        strategy: DEFAULT.0,
        k: default_k(panel.names.len()),
        lag,
    }));
    all
}

fn columns(panel: &Panel, options: &Options) -> Result<(Vec<Column>, usize)> {
    let (mut columns, mut violations) = (Vec::new(), 0);
    let settings = settings(panel);
    for (nth, setting) in settings.iter().enumerate() {
        (options.progress)("weights", nth, settings.len());
        let mut nats = Vec::new();
        for (document, scores) in panel.documents.iter().zip(&panel.scores) {
            let rule = |error: quorate_core::weights::BadRule| EvalError::Panel(error.to_string());
            let replayed = replay(document, scores, panel.gate.as_ref(), *setting, &[]);
            let replayed = replayed.map_err(rule)?;
            violations += broken(document, scores, *setting, &replayed).map_err(rule)?;
            nats.push(replayed.nats);
        }
        columns.push(Column {
            strategy: setting.strategy.name(),
            k: setting.k,
            lag: setting.lag,
            nats,
        });
    }
    (options.progress)("weights", settings.len(), settings.len());
    Ok((columns, violations))
}

/// What single experts lose: the base, whoever is best in the end, whoever was best on the prompt,
/// and the one outside.
fn references(panel: &Panel) -> Vec<Column> {
    let both = panel.documents.iter().zip(&panel.scores);
    let alone: Vec<Vec<(f64, f64)>> = both
        .map(|(document, scores)| scores.iter().map(|s| alone(document, s)).collect())
        .collect();
    let single = |strategy, nats| Column {
        strategy,
        k: 1,
        lag: 0,
        nats,
    };
    let least = |all: &[(f64, f64)], by: fn(&(f64, f64)) -> f64| {
        let best = all.iter().min_by(|a, b| by(a).total_cmp(&by(b)));
        best.map_or(f64::NAN, |best| best.0)
    };
    let mut columns = vec![
        single("base", alone.iter().map(|all| all[0].0).collect()),
        single(
            "oracle",
            alone.iter().map(|all| least(all, |e| e.0)).collect(),
        ),
        single(
            "prompt",
            alone.iter().map(|all| least(all, |e| e.1)).collect(),
        ),
    ];
    if let Some(against) = &panel.against {
        let both = panel.documents.iter().zip(against);
        let nats = both.map(|(document, s)| self::alone(document, s).0);
        columns.push(single("against", nats.collect()));
    }
    columns
}

/// Documents that are looked at together.
struct Group {
    set: &'static str,
    domain: String,
    documents: Vec<usize>,
}

impl Group {
    fn resamples(&self, seed: u64) -> Vec<Vec<usize>> {
        let count = self.documents.len();
        let mut draws = Draws::new(seed, &format!("bootstrap {} {}", self.set, self.domain), 0);
        let mut resample = || (0..count).map(|_| draws.below(count)).collect();
        (0..RESAMPLES).map(|_| resample()).collect()
    }
}

/// Each domain, all pure documents, all mixed ones; those that have any.
fn groups(documents: &[Document], domains: &[Domain]) -> Vec<Group> {
    let of = |set, domain: &str, fits: &dyn Fn(&Document) -> bool| Group {
        set,
        domain: domain.to_owned(),
        documents: (0..documents.len())
            .filter(|&d| fits(&documents[d]))
            .collect(),
    };
    let mut groups = vec![
        of("mixed", "mixed", &|d| d.domain.is_none()),
        of("pure", "pure", &|d| d.domain.is_some()),
    ];
    for (nth, domain) in domains.iter().enumerate() {
        groups.push(of("pure", &domain.name, &|d| d.domain == Some(nth)));
    }
    groups.retain(|group| !group.documents.is_empty());
    groups
}

struct Sample<'a> {
    counted: &'a [f64],
    documents: &'a [usize],
    /// Indices into `documents`.
    resamples: &'a [Vec<usize>],
}

/// Where the middle 95 % of these are.
fn middle(samples: &mut [f64]) -> [f64; 2] {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
    [at(0.025), at(0.975)]
}

/// The mean of some numbers, with its bootstrap interval.
pub(super) fn interval(all: &[f64], mut draws: Draws) -> (f64, [f64; 2]) {
    let count = all.len();
    let mean = |sum: f64| sum / count.max(1) as f64;
    let mut sample = || mean((0..count).map(|_| all[draws.below(count)]).sum());
    let mut samples: Vec<f64> = (0..RESAMPLES).map(|_| sample()).collect();
    (mean(all.iter().sum()), middle(&mut samples))
}

impl Sample<'_> {
    /// Nats a token over these documents, with its interval.
    fn loss(&self, nats: &[f64]) -> (f64, [f64; 2]) {
        let of = |picked: &mut dyn Iterator<Item = usize>| {
            let (mut lost, mut tokens) = (0.0, 0.0);
            for d in picked {
                lost += nats[d];
                tokens += self.counted[d];
            }
            lost / tokens
        };
        let all = of(&mut self.documents.iter().copied());
        let mut samples: Vec<f64> = self
            .resamples
            .iter()
            .map(|picks| of(&mut picks.iter().map(|&at| self.documents[at])))
            .collect();
        (all, middle(&mut samples))
    }

    fn ratio(&self, ours: &[f64], theirs: &[f64]) -> Gain {
        let apart: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
        let (nats, ci) = self.loss(&apart);
        Gain {
            ppl_ratio: nats.exp(),
            ci: ci.map(f64::exp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_documents() {
        let width = |count: usize| {
            let group = Group {
                set: "mixed",
                domain: "mixed".into(),
                documents: (0..count).collect(),
            };
            let resamples = group.resamples(6);
            let sample = Sample {
                counted: &vec![100.0; count],
                documents: &group.documents,
                resamples: &resamples,
            };
            let nats: Vec<f64> = (0..count).map(|d| 250.0 + (d % 5) as f64).collect();
            let (mean, ci) = sample.loss(&nats);
            assert!((mean - 2.52).abs() < 1e-9, "{mean}");
            assert!(ci[0] < mean && mean < ci[1]);
            let same = sample.ratio(&nats, &nats);
            assert_eq!((same.ppl_ratio, same.ci), (1.0, [1.0, 1.0]));
            ci[1] - ci[0]
        };
        assert!(width(500) < width(50) / 2.0);
    }

    #[test]
    fn no_more_are_awake_than_there_are() {
        assert_eq!(ks(8), [1, 2, 4, 8]);
        assert_eq!(ks(3), [1, 2, 3]);
        assert_eq!((ks(1), default_k(1), default_k(8)), (vec![1], 1, 4));
    }
}
