//! An expert without a model: its logits are a hash of its name and the whole text before a
//! position. Its lists are real ones, and so is its sense of order.

use crate::distribution::{Distribution, History, score};
use crate::ids::{ExpertId, Position, SessionId, Token};
use crate::law::Transforms;
use crate::lead;
use crate::limits::BRANCHES_MAX;
use crate::opinion::{ExpertEvent, ExpertOp, Opinion, Query, Said};
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
    pub(crate) tokens: Vec<Token>,
    epoch: u32,
    /// Second questions are about this position or a later one.
    kept: Position,
    /// What it said last, and to what.
    said: Option<(Query, Said)>,
    /// Share of what it believes that everybody believes: how alike experts are.
    pub(crate) common: f32,
    /// Tokens before a position that it remembers, and words that it knows. With few of each a text repeats
    /// itself, and its law can be written down.
    pub(crate) remembers: usize,
    pub(crate) words: u32,
    /// Branches that it keeps, and those that there are.
    pub(crate) keeps: u8,
    branches: Vec<Table>,
    newest: u32,
    prompt: usize,
    transforms: Transforms,
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

/// A router sent something twice, or left something out: no router of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is {has} tokens long, and {position} was said about it")]
pub(crate) struct OutOfOrder {
    has: usize,
    position: Position,
}

impl Table {
    pub(crate) fn new(id: ExpertId) -> Table {
        Table {
            id,
            tokens: vec![],
            epoch: 0,
            kept: 0,
            said: None,
            common: 0.0,
            remembers: usize::MAX,
            words: VOCAB,
            keeps: BRANCHES_MAX as u8,
            branches: Vec::new(),
            newest: 0,
            prompt: 0,
            transforms: Transforms::NEUTRAL,
            rows: BTreeMap::new(),
        }
    }

    fn logits(&self, position: usize) -> Vec<f32> {
        let known = &self.tokens[position.saturating_sub(self.remembers)..position];
        let (own, all) = (beliefs(&self.id.0, known), beliefs(&[0; 32], known));
        let mix = |(own, all): (u8, u8)| {
            f32::from(own) * (1.0 - self.common) + f32::from(all) * self.common
        };
        let mut logits: Vec<f32> = own.into_iter().zip(all).map(|b| mix(b) / 20.0).collect();
        logits[END as usize] = -5.0;
        logits[self.words as usize..].fill(NEVER);
        logits
    }

    fn row(&mut self, position: Position) -> &Distribution {
        if !self.rows.contains_key(&position) {
            let mut row = Distribution::new();
            let history = History {
                tokens: &self.tokens[..position as usize],
                prompt: self.prompt,
            };
            let logits = self.logits(position as usize);
            row.measure(&logits, &self.transforms, history, true)
                .expect("a byte is finite");
            self.rows.insert(position, row);
        }
        &self.rows[&position]
    }

    pub(crate) fn opinion(&mut self, position: Position, query: &Query) -> Opinion {
        let (said, raw) = self.row(position).answer(query);
        let first = (position as usize)
            .saturating_sub(query.scores.into())
            .max(1);
        let of = |at: usize| score(&self.logits(at), self.tokens[at]).expect("a byte is finite");
        Opinion {
            position,
            said,
            raw,
            scored: (first..position as usize).map(of).collect(),
        }
    }

    pub(crate) fn handle(&mut self, op: ExpertOp) -> Result<Vec<ExpertEvent>, OutOfOrder> {
        let of_branch = |b: &Table| matches!(op, ExpertOp::Draft { epoch, .. } if epoch == b.epoch);
        if let Some(branch) = self.branches.iter().position(of_branch) {
            return self.branches[branch].handle(op);
        }
        match op {
            ExpertOp::Open(open) => {
                self.prompt = open.prompt.len();
                self.tokens = [open.prompt, open.answered].concat();
                self.transforms = open.transforms;
                let session = open.session;
                let mut events = vec![ExpertEvent::Ready {
                    session,
                    reused: 0,
                    prefill_us: 1,
                    branches: self.keeps,
                }];
                if open.score {
                    let of = |at: usize| {
                        score(&self.logits(at), self.tokens[at]).expect("a byte is finite")
                    };
                    let ln_p = (1..self.prompt).map(of).collect();
                    events.push(ExpertEvent::Scored { session, ln_p });
                }
                Ok(events)
            }
            ExpertOp::Draft {
                session,
                epoch,
                position,
                tokens,
                queries,
            } => {
                let has = self.tokens.len();
                if position as usize != has
                    || queries.len() > tokens.len() + 1
                    || epoch != self.epoch
                {
                    return Err(OutOfOrder { has, position });
                }
                self.tokens.extend(tokens);
                // Nothing is asked of a spare.
                let first = self.tokens.len() as u32 + 1 - queries.len() as u32;
                self.kept = first;
                self.rows.retain(|at, _| *at >= first);
                let answers = (first..)
                    .zip(&queries)
                    .map(|(at, q)| self.answer(session, epoch, at, q));
                Ok(answers.collect())
            }
            ExpertOp::Lead {
                session,
                epoch,
                position,
                queries,
            } => {
                let has = self.tokens.len();
                if (position as usize) < has || epoch != self.epoch {
                    return Err(OutOfOrder { has, position });
                }
                if position as usize > has {
                    return Ok(vec![]); // it stopped before
                }
                let mut answers = Vec::new();
                for query in queries {
                    let Some((asked, said)) = &self.said else {
                        return Err(OutOfOrder { has, position });
                    };
                    let Some(token) = lead::choice(asked, said) else {
                        break;
                    };
                    self.tokens.push(token);
                    self.kept = self.tokens.len() as u32;
                    answers.push(self.answer(session, epoch, self.tokens.len() as u32, &query));
                }
                Ok(answers)
            }
            ExpertOp::Ask {
                session,
                epoch,
                position,
                query,
            } => {
                let has = self.tokens.len();
                let is_kept = position >= self.kept && position as usize <= has;
                if !is_kept || epoch != self.epoch {
                    return Err(OutOfOrder { has, position });
                }
                Ok(vec![self.answer(session, epoch, position, &query)])
            }
            ExpertOp::Branch {
                session,
                epoch,
                position,
                token,
                query,
            } => self.branch(session, epoch, position, token, &query),
            ExpertOp::Settle { epoch, .. } => {
                let branch = self.taken(epoch)?;
                (self.tokens, self.epoch) = (branch.tokens, branch.epoch);
                (self.kept, self.said) = (branch.kept, branch.said);
                self.rows = branch.rows;
                self.branches.clear();
                Ok(vec![])
            }
            ExpertOp::Forget { epoch, .. } => self.taken(epoch).map(|_| vec![]),
            ExpertOp::Truncate {
                epoch, position, ..
            } => {
                let has = self.tokens.len();
                if position as usize > has || epoch <= self.newest {
                    return Err(OutOfOrder { has, position });
                }
                (self.epoch, self.newest) = (epoch, epoch);
                self.branches.clear();
                self.said = None;
                self.tokens.truncate(position as usize);
                self.rows.retain(|at, _| *at <= position);
                Ok(vec![])
            }
            ExpertOp::Close { .. } => Ok(vec![]),
        }
    }

    /// The same text up to a place, under an epoch of its own.
    fn branch(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        token: Token,
        query: &Query,
    ) -> Result<Vec<ExpertEvent>, OutOfOrder> {
        let has = self.tokens.len();
        let is_room = self.branches.len() < usize::from(self.keeps);
        if position as usize > has || epoch <= self.newest || !is_room {
            return Err(OutOfOrder { has, position });
        }
        self.newest = epoch;
        let mut branch = Table {
            tokens: self.tokens[..position as usize].to_vec(),
            epoch,
            common: self.common,
            remembers: self.remembers,
            words: self.words,
            prompt: self.prompt,
            transforms: self.transforms.clone(),
            ..Table::new(self.id)
        };
        branch.tokens.push(token);
        branch.kept = position + 1;
        let answer = branch.answer(session, epoch, position + 1, query);
        self.branches.push(branch);
        Ok(vec![answer])
    }

    fn taken(&mut self, epoch: u32) -> Result<Table, OutOfOrder> {
        let at = self.branches.iter().position(|b| b.epoch == epoch);
        let lost = OutOfOrder {
            has: self.tokens.len(),
            position: 0,
        };
        at.map(|at| self.branches.swap_remove(at)).ok_or(lost)
    }

    /// The text of an epoch.
    #[cfg(test)]
    pub(crate) fn of(&mut self, epoch: u32) -> &mut Table {
        match self.branches.iter().position(|b| b.epoch == epoch) {
            Some(at) => &mut self.branches[at],
            None => self,
        }
    }

    fn answer(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        query: &Query,
    ) -> ExpertEvent {
        let opinion = self.opinion(position, query);
        self.said = Some((query.clone(), opinion.said.clone()));
        ExpertEvent::Opinions {
            session,
            epoch,
            opinions: vec![opinion],
            compute_us: 1,
            bytes: 0,
        }
    }
}
