//! `quorate eval`: does mixing experts token by token predict text better than the best one?
//!
//! `documents` draws texts from a folder, `scores` asks every expert for ln p of their tokens (once:
//! it is kept on disk), `replay` predicts them again token by token with every strategy, `figures`
//! makes intervals of it, `joining` asks what a newcomer gains from what others saw, `apart` looks at
//! whole distributions at a few positions. The protocol is `research/mixing.md`; decisions about
//! weights are all in `quorate_core::weights`.

mod apart;
mod documents;
mod draws;
mod figures;
mod joining;
mod plot;
mod replay;
mod report;
mod scores;
mod text;
mod verdict;

pub use documents::{Amounts, Skipped, Why};
pub use plot::svg;
pub use report::{Gain, JoiningRow, Report, Row};
pub use text::{TextOptions, TextReport, eval_text};
pub use verdict::Verdict;

use crate::expert::{EventSender, Expert, TokenizeError};
use documents::{Document, Folder};
use quorate_core::chat::Segment;
use quorate_core::ids::{ExpertId, Fingerprint, Token};
use quorate_core::limits::TEAM_MAX;
use quorate_core::weights::{Gate, Profile};
use scores::Shelf;
use std::path::PathBuf;
use std::sync::Arc;

/// The seed of the protocol.
pub const SEED: u64 = 6;

/// An expert that can be loaded.
pub struct Source {
    pub name: String,
    /// Scores are kept under it.
    pub id: ExpertId,
    pub load: Box<Load>,
    /// What it publishes of its text, if anything.
    pub profile: Option<String>,
}

type Load = dyn Fn(EventSender) -> std::result::Result<Arc<dyn Expert>, String>;

pub struct Options {
    pub docs: PathBuf,
    /// Sub-folders of it; none: all of it.
    pub domains: Vec<String>,
    pub amounts: Amounts,
    /// The first one is the base.
    pub experts: Vec<Source>,
    /// Stands outside of the mixture.
    pub against: Option<Source>,
    pub seed: u64,
    /// Whole distributions are compared at fewer positions.
    pub quick: bool,
    /// Where scores are kept.
    pub shelf: PathBuf,
    /// Hears what is being done: how much of how much.
    pub progress: Box<Progress>,
}

/// What is being done, how much of it, of how much.
pub type Progress = dyn Fn(&str, usize, usize);

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("cannot read {}: {why}", path.display())]
    Read { path: PathBuf, why: String },
    #[error("cannot keep scores in {}: {why}", path.display())]
    Keep { path: PathBuf, why: String },
    #[error("{} holds no text that can be evaluated ({skipped} files left out)", path.display())]
    NoDocuments { path: PathBuf, skipped: usize },
    #[error("{} has no sub-folder '{domain}'", path.display())]
    NoDomain { path: PathBuf, domain: String },
    #[error("the tasks name programs that look at answers")]
    Programs,
    #[error("{0}")]
    Panel(String),
    #[error("expert '{name}': {why}")]
    Expert { name: String, why: String },
}

pub type Result<T> = std::result::Result<T, EvalError>;

/// What is compared: texts, and what everybody said of them.
struct Panel {
    names: Vec<String>,
    documents: Vec<Document>,
    /// By document, then by expert.
    scores: Vec<scores::Scores>,
    /// By document.
    against: Option<scores::Scores>,
    gate: Option<Gate>,
}

/// Evaluates. Takes minutes to hours, once; blocks.
pub fn eval(options: &Options) -> Result<Report> {
    check(&options.experts)?;
    let shelf = Shelf::new(&options.shelf);
    let texts = read(options)?;
    let (folder, documents, gate) = (texts.folder, texts.documents, texts.gate);
    let mut by_expert = Vec::new();
    for (nth, source) in options.experts.iter().enumerate() {
        let done = (
            nth * documents.len(),
            options.experts.len() * documents.len(),
        );
        by_expert.push(shelf.scores(
            source,
            texts.vocabulary,
            &documents,
            &*options.progress,
            done,
        )?);
    }
    let against = match &options.against {
        Some(source) => {
            let done = (0, documents.len());
            Some(shelf.scores(
                source,
                texts.vocabulary,
                &documents,
                &*options.progress,
                done,
            )?)
        }
        None => None,
    };
    let panel = Panel {
        names: options.experts.iter().map(|s| s.name.clone()).collect(),
        scores: scores::by_document(&by_expert),
        documents,
        against,
        gate,
    };
    let figures = figures::figures(&panel, &folder.domains, options)?;
    let joining = joining::joining(&panel, options.seed)
        .map_err(|error| EvalError::Panel(error.to_string()))?;
    let apart = apart::apart(&panel, options, &shelf)?;
    Ok(report::report(
        &panel, folder, options, figures, joining, apart,
    ))
}

fn check(experts: &[Source]) -> Result<()> {
    let count = experts.len();
    if count == 0 || count > TEAM_MAX {
        let why = format!("a panel has 1 to {TEAM_MAX} experts, not {count}");
        return Err(EvalError::Panel(why));
    }
    Ok(())
}

/// In tokens of the first expert.
struct Texts {
    folder: Folder,
    documents: Vec<Document>,
    gate: Option<Gate>,
    vocabulary: Fingerprint,
}

fn read(options: &Options) -> Result<Texts> {
    let (events, _unheard) = tokio::sync::mpsc::channel(1);
    let base = &options.experts[0];
    let expert = loaded(base, events)?;
    let tokens = |text: &str| tokenize(&*expert, text);
    let mut folder = Folder::read(&options.docs, &options.domains, &tokens)?;
    let documents = folder.draw(options.seed, &options.amounts, expert.facts().bos);
    if documents.is_empty() {
        return Err(EvalError::NoDocuments {
            path: options.docs.clone(),
            skipped: folder.skipped.len(),
        });
    }
    folder
        .domains
        .iter_mut()
        .for_each(documents::Domain::forget);
    let profile = |source: &Source| match &source.profile {
        Some(text) => tokens(text).map(Profile::of),
        None => Ok(Profile::default()),
    };
    let profiles = options.experts.iter().map(profile);
    let profiles: std::result::Result<Vec<Profile>, _> = profiles.collect();
    let profiles = profiles.map_err(|error| EvalError::Panel(error.to_string()))?;
    let gate = match profiles.iter().all(Profile::is_empty) {
        true => None,
        false => Some(Gate::new(&profiles).map_err(|e| EvalError::Panel(e.to_string()))?),
    };
    Ok(Texts {
        folder,
        documents,
        gate,
        vocabulary: expert.facts().vocab.fingerprint(),
    })
}

fn loaded(source: &Source, events: EventSender) -> Result<Arc<dyn Expert>> {
    (source.load)(events).map_err(|why| EvalError::Expert {
        name: source.name.clone(),
        why,
    })
}

fn tokenize(expert: &dyn Expert, text: &str) -> std::result::Result<Vec<Token>, TokenizeError> {
    expert.tokenize(&[Segment::Text(text.into())], false)
}

#[cfg(test)]
mod tests;
