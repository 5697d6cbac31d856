//! ln p of every token, from every expert, asked for once.

use super::documents::Document;
use super::{EvalError, Result, Source, loaded};
use crate::expert::Expert;
use quorate_core::ids::{Fingerprint, SessionId};
use quorate_core::law::Transforms;
use quorate_core::lnp::LnP;
use quorate_core::opinion::{ExpertEvent, ExpertOp, FromExpert, Open, Scope};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// By expert (or by document), ln p of tokens 1...
pub(super) type Scores = Vec<Vec<LnP>>;

/// How much of how much.
pub(super) type Progress = dyn Fn(&str, usize, usize);

/// Turns lists by expert into lists by document.
pub(super) fn by_document(by_expert: &[Scores]) -> Vec<Scores> {
    let documents = by_expert.first().map_or(0, Vec::len);
    let of = |nth: usize| by_expert.iter().map(|scores| scores[nth].clone()).collect();
    (0..documents).map(of).collect()
}

/// Where what was asked for is kept: one file for each expert and document.
pub(super) struct Shelf {
    path: PathBuf,
}

impl Shelf {
    pub(super) fn new(path: &Path) -> Shelf {
        Shelf {
            path: path.to_owned(),
        }
    }

    /// The expert is loaded only if something is missing. `done`: documents before, and of all.
    pub(super) fn scores(
        &self,
        source: &Source,
        vocabulary: Fingerprint,
        documents: &[Document],
        progress: &Progress,
        done: (usize, usize),
    ) -> Result<Scores> {
        let mut asked: Option<Asked> = None;
        let mut all = Vec::new();
        for (nth, document) in documents.iter().enumerate() {
            progress(&source.name, done.0 + nth, done.1);
            let expert = source.id.to_string();
            let place = self.path.join(&expert[..32]);
            let place = place.join(&document.key().to_hex()[..32]);
            let scores = match kept(&place, document.tokens.len() - 1) {
                Some(scores) => scores,
                None => {
                    let asked = match &mut asked {
                        Some(asked) => asked,
                        empty => empty.insert(Asked::new(source)?),
                    };
                    if asked.expert.facts().vocab.fingerprint() != vocabulary {
                        return Err(asked.wrong("its vocabulary is not the base's"));
                    }
                    let scores = asked.score(document, nth)?;
                    self.keep(&place, &packed(&scores))?;
                    scores
                }
            };
            all.push(scores);
        }
        progress(&source.name, done.0 + documents.len(), done.1);
        Ok(all)
    }

    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whole or not at all: whoever is interrupted goes on from the last document.
    pub(super) fn keep(&self, place: &Path, bytes: &[u8]) -> Result<()> {
        let write = || -> std::io::Result<()> {
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            let draft = place.with_extension(format!("{}.part", std::process::id()));
            fs::write(&draft, bytes)?;
            fs::rename(&draft, place)
        };
        write().map_err(|error| EvalError::Keep {
            path: self.path.clone(),
            why: error.to_string(),
        })
    }
}

/// What a file says, if it is whole.
fn kept(place: &Path, tokens: usize) -> Option<Vec<LnP>> {
    let bytes = fs::read(place).ok()?;
    let body = bytes.get(..2 * tokens)?;
    let scores: Vec<LnP> = body
        .chunks_exact(2)
        .map(|two| LnP::from_wire(u16::from_le_bytes([two[0], two[1]])))
        .collect();
    (packed(&scores) == bytes).then_some(scores)
}

/// Two bytes for each token, and four that find damage.
fn packed(scores: &[LnP]) -> Vec<u8> {
    let steps = scores.iter().flat_map(|ln_p| ln_p.to_wire().to_le_bytes());
    let mut bytes: Vec<u8> = steps.collect();
    let hash = blake3::hash(&bytes);
    bytes.extend(&hash.as_bytes()[..4]);
    bytes
}

/// A loaded expert, asked from this thread.
pub(super) struct Asked {
    name: String,
    pub(super) expert: Arc<dyn Expert>,
    events: mpsc::Receiver<FromExpert>,
}

impl Asked {
    pub(super) fn new(source: &Source) -> Result<Asked> {
        let (events_tx, events) = mpsc::channel(64);
        Ok(Asked {
            name: source.name.clone(),
            expert: loaded(source, events_tx)?,
            events,
        })
    }

    fn score(&mut self, document: &Document, nth: usize) -> Result<Vec<LnP>> {
        let session = SessionId(nth as u128 + 1);
        self.tell(ExpertOp::Open(Box::new(Open {
            session,
            scope: Scope::OWNER,
            prompt: document.tokens.clone(),
            transforms: Transforms::NEUTRAL,
            answered: Vec::new(),
            score: true,
            path: Vec::new(),
        })))?;
        let scores = loop {
            if let ExpertEvent::Scored { ln_p, .. } = self.hear()? {
                break ln_p;
            }
        };
        self.tell(ExpertOp::Close { session })?;
        match scores.len() + 1 == document.tokens.len() {
            true => Ok(scores),
            false => Err(self.wrong("it scored another number of tokens")),
        }
    }

    pub(super) fn tell(&self, op: ExpertOp) -> Result<()> {
        let told = self.expert.submit(op);
        told.map_err(|error| self.wrong(error))
    }

    pub(super) fn hear(&mut self) -> Result<ExpertEvent> {
        match self.events.blocking_recv().map(|from| from.event) {
            Some(ExpertEvent::Failed { why, .. }) => Err(self.wrong(why)),
            Some(event) => Ok(event),
            None => Err(self.wrong("the engine is gone")),
        }
    }

    pub(super) fn wrong(&self, why: impl ToString) -> EvalError {
        EvalError::Expert {
            name: self.name.clone(),
            why: why.to_string(),
        }
    }
}
