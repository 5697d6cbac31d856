//! An expert without a model: its logits are a hash of its name and the whole text before a
//! position. Its lists are real ones, and so is its sense of order.

use crate::distribution::{Distribution, History, score};
use crate::ids::{ExpertId, Position, SessionId, Token};
use crate::law::Transforms;
use crate::lead;
use crate::limits::BRANCHES_MAX;
use crate::lnp::LnP;
use crate::opinion::{ExpertEvent, ExpertOp, Opinion, Query, Said};
use crate::texts::{OutOfOrder, Texts};
use crate::vocab::{Piece, Vocab};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const VOCAB: u32 = 300;
/// Of what it does not know: less than the smallest probability that travels.
const NEVER: f32 = -1000.0;
/// Ends a turn; hardly ever believed.
pub(crate) const END: Token = 0;

pub(crate) fn vocab() -> Arc<Vocab> {
    Arc::new(Vocab::new((0..VOCAB).map(|v| Piece {
        bytes: if v == END {
            b"<end>".to_vec()
        } else {
            format!("{v} ").into_bytes()
        },
        control: v == END,
        ends: v == END,
    })))
}

/// One session of such an expert.
pub(crate) struct Table {
    pub(crate) id: ExpertId,
    pub(crate) texts: Texts<Notes>,
    /// Share of what it believes that everybody believes: how alike experts are.
    pub(crate) common: f32,
    /// Tokens before a position that it remembers, and words that it knows. With few of each a text repeats
    /// itself, and its law can be written down.
    pub(crate) remembers: usize,
    pub(crate) words: u32,
    /// Branches that it says it keeps.
    pub(crate) keeps: u8,
    prompt: usize,
    transforms: Transforms,
}

/// What it notes about a text.
#[derive(Default)]
pub(crate) struct Notes {
    /// Second questions are about this position or a later one.
    kept: Position,
    /// What it said last, and to what.
    said: Option<(Query, Said)>,
    rows: BTreeMap<Position, Distribution>,
}

fn beliefs(key: &[u8; 32], text: &[Token]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    text.iter().for_each(|t| {
        hasher.update(&t.to_le_bytes());
    });
    let mut bytes = vec![0u8; VOCAB as usize];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

impl Table {
    pub(crate) fn new(id: ExpertId) -> Table {
        Table {
            id,
            texts: Texts::new(vec![]),
            common: 0.0,
            remembers: usize::MAX,
            words: VOCAB,
            keeps: BRANCHES_MAX as u8,
            prompt: 0,
            transforms: Transforms::NEUTRAL,
        }
    }

    /// About what follows a text.
    fn logits(&self, text: &[Token]) -> Vec<f32> {
        let known = &text[text.len().saturating_sub(self.remembers)..];
        let (own, all) = (beliefs(&self.id.0, known), beliefs(&[0; 32], known));
        let mix = |(own, all): (u8, u8)| {
            f32::from(own) * (1.0 - self.common) + f32::from(all) * self.common
        };
        let mut logits: Vec<f32> = own.into_iter().zip(all).map(|b| mix(b) / 20.0).collect();
        logits[END as usize] = -5.0;
        logits[self.words as usize..].fill(NEVER);
        logits
    }

    fn row(&self, text: &[Token]) -> Distribution {
        let mut row = Distribution::new();
        let history = History {
            tokens: text,
            prompt: self.prompt,
        };
        row.measure(&self.logits(text), &self.transforms, history, true)
            .expect("a byte is finite");
        row
    }

    fn scores(&self, text: &[Token], from: usize) -> Vec<LnP> {
        let of = |at: usize| score(&self.logits(&text[..at]), text[at]).expect("a byte is finite");
        (from..text.len()).map(of).collect()
    }

    /// About its own text.
    pub(crate) fn opinion(&mut self, position: Position, query: &Query) -> Opinion {
        let opinion = self.opinion_in(self.texts.epoch(), position, query);
        opinion.expect("it has a text")
    }

    pub(crate) fn opinion_in(
        &mut self,
        epoch: u32,
        position: Position,
        query: &Query,
    ) -> Result<Opinion, OutOfOrder> {
        let text = self.texts.of(epoch)?;
        let before = text.tokens[..position as usize].to_vec();
        let known = text.notes.rows.remove(&position);
        let row = known.unwrap_or_else(|| self.row(&before));
        let (said, raw) = row.answer(query);
        self.texts.of(epoch)?.notes.rows.insert(position, row);
        let first = before.len().saturating_sub(query.scores.into()).max(1);
        Ok(Opinion {
            position,
            said,
            raw,
            scored: self.scores(&before, first),
        })
    }

    pub(crate) fn handle(&mut self, op: ExpertOp) -> Result<Vec<ExpertEvent>, OutOfOrder> {
        match op {
            ExpertOp::Open(open) => {
                self.prompt = open.prompt.len();
                let scores = open.score.then(|| self.scores(&open.prompt, 1));
                self.texts = Texts::new([open.prompt, open.answered].concat());
                self.transforms = open.transforms;
                let session = open.session;
                let mut events = vec![ExpertEvent::Ready {
                    session,
                    reused: 0,
                    prefill_us: 1,
                    branches: self.keeps,
                }];
                events.extend(scores.map(|ln_p| ExpertEvent::Scored { session, ln_p }));
                Ok(events)
            }
            ExpertOp::Draft {
                session,
                epoch,
                position,
                tokens,
                queries,
            } => {
                let first = self.texts.draft(epoch, position, &tokens, queries.len())?;
                let notes = &mut self.texts.of(epoch)?.notes;
                notes.kept = first;
                notes.rows.retain(|at, _| *at >= first);
                let asked = (first..).zip(&queries);
                asked
                    .map(|(at, query)| self.answer(session, epoch, at, query))
                    .collect()
            }
            ExpertOp::Lead {
                session,
                epoch,
                position,
                queries,
            } => {
                let mut answers = Vec::new();
                for (at, query) in (position..).zip(queries) {
                    let text = self.texts.of(epoch)?;
                    if at as usize > text.tokens.len() {
                        break; // it stopped before
                    }
                    let said = text
                        .notes
                        .said
                        .as_ref()
                        .map(|(asked, said)| lead::choice(asked, said));
                    let Some(token) = said.ok_or(self.texts.out_of_order(epoch, at))? else {
                        break;
                    };
                    self.texts.draft(epoch, at, &[token], 1)?;
                    self.texts.own.notes.kept = at + 1;
                    answers.push(self.answer(session, epoch, at + 1, &query)?);
                }
                Ok(answers)
            }
            ExpertOp::Ask {
                session,
                epoch,
                position,
                query,
            } => {
                let text = self.texts.of(epoch)?;
                if position < text.notes.kept || position as usize > text.tokens.len() {
                    return Err(self.texts.out_of_order(epoch, position));
                }
                Ok(vec![self.answer(session, epoch, position, &query)?])
            }
            ExpertOp::Branch {
                session,
                epoch,
                position,
                token,
                query,
            } => {
                self.texts.branch(epoch, position, token)?;
                self.texts.of(epoch)?.notes.kept = position + 1;
                Ok(vec![self.answer(session, epoch, position + 1, &query)?])
            }
            ExpertOp::Settle { epoch, .. } => self.texts.settle(epoch).map(|()| vec![]),
            ExpertOp::Forget { epoch, .. } => self.texts.forget(epoch).map(|()| vec![]),
            ExpertOp::Truncate {
                epoch, position, ..
            } => {
                self.texts.truncate(epoch, position)?;
                let notes = &mut self.texts.own.notes;
                notes.said = None;
                notes.rows.retain(|at, _| *at <= position);
                Ok(vec![])
            }
            ExpertOp::Close { .. } => Ok(vec![]),
        }
    }

    fn answer(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        query: &Query,
    ) -> Result<ExpertEvent, OutOfOrder> {
        let opinion = self.opinion_in(epoch, position, query)?;
        self.texts.of(epoch)?.notes.said = Some((query.clone(), opinion.said.clone()));
        Ok(ExpertEvent::Opinions {
            session,
            epoch,
            opinions: vec![opinion],
            compute_us: 1,
            bytes: 0,
        })
    }
}
