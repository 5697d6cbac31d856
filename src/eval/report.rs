//! What comes out, as it is printed.

use super::apart::Apart;
use super::documents::{Folder, Skipped};
use super::figures::{DEFAULT, Figures};
use super::verdict::Verdict;
use super::{Options, Panel};
use serde::Serialize;

/// A loss, in nats a token, of one way to predict one group of documents.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub set: &'static str,
    /// "mixed" and "pure" are all documents of that set.
    pub domain: String,
    pub strategy: &'static str,
    pub k: usize,
    pub nats: f64,
    pub ci: [f64; 2],
    pub vs_oracle: Gain,
    /// Against the candidate for the default, document by document.
    pub vs_default: Gain,
}

#[derive(Clone, Debug, Serialize)]
pub struct LagRow {
    pub lag: u32,
    #[serde(flatten)]
    pub row: Row,
}

/// What a newcomer's answers gain if it starts from what a mesh of so many nodes saw, in nats a token.
#[derive(Clone, Debug, Serialize)]
pub struct JoiningRow {
    pub nodes: usize,
    pub requests_a_day: usize,
    /// Different ones, of which requests are drawn.
    pub texts_seen: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    pub documents: usize,
    /// By weights that set out from the mesh's gate instead of from equal ones.
    pub saved: f64,
    pub ci: [f64; 2],
    /// Behind the best expert of each answer: the one that the mesh would ask first, and the mean of all.
    pub first: f64,
    pub anybody: f64,
}

/// Perplexity over another's; below 1 is better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    pub ppl_ratio: f64,
    pub ci: [f64; 2],
}

#[derive(Clone, Debug, Serialize)]
pub struct Gains {
    pub mixed: Option<Gain>,
    pub pure: Option<Gain>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Variation {
    pub mean: f64,
    /// Of pairs of experts.
    pub min: f64,
    pub max: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Alpha {
    /// The base drafts...
    pub mean: f64,
    /// ...or whoever weighs most.
    pub heaviest: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Documents {
    pub mixed: usize,
    pub pure: usize,
    pub tokens: usize,
    pub skipped: Vec<Skipped>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    /// Of the default strategy, against the best single expert of each document.
    pub gain_vs_best_single: Gains,
    pub tv: Variation,
    pub alpha: Alpha,
    pub guarantee_violations: usize,
    /// What the decision rule of the protocol makes of it.
    pub verdict: Verdict,

    pub strategy: &'static str,
    pub k: usize,
    /// ...against the expert that was best on the prompt, on mixed documents.
    pub gain_vs_prompt_single: Option<Gain>,
    /// ...against the expert outside of the mixture.
    pub gain_vs_against: Option<Gain>,
    /// Of the gain of the largest K on mixed documents.
    pub gain_kept: Option<f64>,
    pub lags: Vec<LagRow>,
    /// Of answers on pure documents; empty where there are too few.
    pub joining: Vec<JoiningRow>,
    /// Where whole distributions were compared.
    pub positions: usize,
    pub experts: Vec<String>,
    pub documents: Documents,
    pub seed: u64,
    pub quick: bool,
}

pub(super) fn report(
    panel: &Panel,
    folder: Folder,
    options: &Options,
    figures: Figures,
    joining: Vec<JoiningRow>,
    apart: Apart,
) -> Report {
    let mixed = panel
        .documents
        .iter()
        .filter(|d| d.domain.is_none())
        .count();
    Report {
        verdict: figures.verdict(),
        rows: figures.rows,
        gain_vs_best_single: Gains {
            mixed: figures.mixed,
            pure: figures.pure,
        },
        tv: Variation {
            mean: apart.mean,
            min: apart.min,
            max: apart.max,
        },
        alpha: Alpha {
            mean: apart.alpha,
            heaviest: apart.alpha_heaviest,
        },
        guarantee_violations: figures.violations,
        strategy: DEFAULT.0.name(),
        k: figures.k,
        gain_vs_prompt_single: figures.mixed_by_prompt,
        gain_vs_against: figures.mixed_against,
        gain_kept: figures.kept,
        lags: figures.lags,
        joining,
        positions: apart.positions,
        experts: panel.names.clone(),
        documents: Documents {
            mixed,
            pure: panel.documents.len() - mixed,
            tokens: panel.documents.iter().map(|d| d.tokens.len()).sum(),
            skipped: folder.skipped,
        },
        seed: options.seed,
        quick: options.quick,
    }
}
