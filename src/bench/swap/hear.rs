//! What one real expert says of given texts, asked in a given shape: one position a step or many, beside others or
//! alone, from the beginning or joining late. On quantised models the shape moves the last digits.

use super::Load;
use crate::bench::{BenchError, Result};
use crate::expert::Expert;
use crate::expert::llama::{LoadRequest, Quantisation, load};
use quorate_core::ids::{Position, SessionId, Token};
use quorate_core::law::{ListLaw, Transforms};
use quorate_core::lead;
use quorate_core::opinion::{
    ExpertEvent, ExpertOp, FromExpert, List, Open, Opinion, Query, Said, Scope,
};
use quorate_core::seeded::Secret;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A text, and the secret that its questions come from.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) secret: Secret,
    pub(super) prompt: Vec<Token>,
    pub(super) answer: Vec<Token>,
}

/// In which shape an expert is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// Tokens in one draft.
    pub(super) piece: usize,
    /// Texts at once.
    pub(super) together: usize,
    /// Tokens of the answer that it reads at once, before the first question.
    pub(super) joins: usize,
    pub(super) threads: u32,
    /// What is asked.
    pub(super) kind: Kind,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    pub(super) repeat_penalty: f32,
    /// In which numbers it computes; None: the file's own.
    pub(super) file: Option<Quantisation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lists under the position's key, as a seeded request asks for.
    Perturbed,
    /// Most probable tokens, as a greedy one does.
    Plain,
}

/// What of a shape is what is asked: with temperature, top_p and repeat penalty.
pub(super) type Asked = (Kind, f32, f32, f32);

impl Shape {
    /// A router's first question about a position.
    pub(super) fn asks(self, secret: &Secret, position: Position) -> Query {
        let lists = ListLaw::default();
        match self.kind {
            Kind::Perturbed => Query::perturbed(secret.key(position), lists.tau),
            Kind::Plain => Query::plain(lists.mass, lists.max_entries),
        }
    }

    pub(super) fn asked(self) -> Asked {
        (self.kind, self.temperature, self.top_p, self.repeat_penalty)
    }

    pub(super) fn transforms(self) -> Transforms {
        Transforms {
            temperature: self.temperature,
            top_p: self.top_p,
            repeat_penalty: self.repeat_penalty,
            ..Transforms::NEUTRAL
        }
    }
}

/// By text and place of its answer; None where it was not asked.
pub(super) type Lists = Vec<Vec<Option<List>>>;

/// A loaded expert that is asked without a router.
pub(super) struct Ear {
    expert: Arc<dyn Expert>,
    events: mpsc::Receiver<FromExpert>,
    next: u128,
    pub(super) spent: Spent,
}

/// Microseconds that it says it computed, for prompts and for opinions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub(super) prefill_us: u64,
    pub(super) opinions_us: u64,
}

/// What is asked of a position of a text.
type Asks<'a> = dyn Fn(&Secret, Position) -> Query + 'a;

fn failed(why: impl ToString) -> BenchError {
    BenchError::new("asking an expert", why)
}

impl Ear {
    pub(super) fn load(
        request: &Load,
        change: impl FnOnce(LoadRequest) -> LoadRequest,
    ) -> Result<Ear> {
        let (events_tx, events) = mpsc::channel(4096);
        let plain = request(events_tx).map_err(|why| BenchError::new("the model", why))?;
        let plain = LoadRequest {
            context: plain.context.min(1024),
            cells: 8192,
            ..plain
        };
        Ok(Ear {
            expert: load(change(plain))?,
            events,
            next: 0,
            spent: Spent::default(),
        })
    }

    pub(super) fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        let segments = [quorate_core::chat::Segment::Text(text.into())];
        self.expert.tokenize(&segments, true).map_err(failed)
    }

    fn submit(&self, op: ExpertOp) -> Result<()> {
        self.expert.submit(op).map_err(failed)
    }

    fn open(&mut self, text: &Text, joins: usize, transforms: Transforms) -> Result<SessionId> {
        self.next += 1;
        let session = SessionId(self.next);
        self.submit(ExpertOp::Open(Box::new(Open {
            session,
            // Nobody's cached rows: they were computed in another shape.
            scope: Scope(self.next as u64),
            prompt: text.prompt.clone(),
            answered: text.answer[..joins].to_vec(),
            transforms,
            score: false,
            path: vec![],
        })))?;
        Ok(session)
    }

    fn opinions(&mut self) -> Result<(SessionId, Vec<Opinion>)> {
        loop {
            let from = self.events.blocking_recv();
            match from.ok_or_else(|| failed("the engine is gone"))?.event {
                ExpertEvent::Opinions {
                    session,
                    opinions,
                    compute_us,
                    ..
                } => {
                    self.spent.opinions_us += compute_us;
                    return Ok((session, opinions));
                }
                ExpertEvent::Failed { why, .. } => return Err(failed(why)),
                ExpertEvent::Ready { prefill_us, .. } => self.spent.prefill_us += prefill_us,
                ExpertEvent::Scored { .. } => {}
            }
        }
    }

    /// Lets it write an answer of so many tokens to each prompt, drawn by the text's secret.
    pub(super) fn speak(&mut self, texts: &mut [Text], count: usize, shape: Shape) -> Result<()> {
        let mut open = BTreeMap::new();
        for (at, text) in texts.iter().enumerate() {
            let session = self.open(text, 0, shape.transforms())?;
            open.insert(session, at);
            self.draft(
                session,
                text.prompt.len(),
                vec![],
                vec![shape.asks(&text.secret, text.prompt.len() as Position)],
            )?;
        }
        let mut left = texts.len();
        while left > 0 {
            let (session, opinions) = self.opinions()?;
            let at = *open
                .get(&session)
                .ok_or_else(|| failed("an unknown session"))?;
            let text = &mut texts[at];
            for opinion in opinions {
                let here = text.prompt.len() + text.answer.len();
                let asked = shape.asks(&text.secret, here as Position);
                let token = lead::choice(&asked, &opinion.said);
                let token = token.ok_or_else(|| failed("its list chooses nothing"))?;
                text.answer.push(token);
                if text.answer.len() == count {
                    left -= 1;
                    self.submit(ExpertOp::Close { session })?;
                } else {
                    let next = shape.asks(&text.secret, here as Position + 1);
                    self.draft(session, here, vec![token], vec![next])?;
                }
            }
        }
        Ok(())
    }

    fn draft(
        &self,
        session: SessionId,
        position: usize,
        tokens: Vec<Token>,
        queries: Vec<Query>,
    ) -> Result<()> {
        self.submit(ExpertOp::Draft {
            session,
            epoch: 0,
            position: position as Position,
            tokens,
            queries,
        })
    }

    /// Its lists at every position of the answers from where it joins on.
    pub(super) fn hear(&mut self, texts: &[Text], shape: Shape, asks: &Asks<'_>) -> Result<Lists> {
        let mut heard: Lists = texts.iter().map(|t| vec![None; t.answer.len()]).collect();
        for (nth, group) in texts.chunks(shape.together).enumerate() {
            let first = nth * shape.together;
            let lists = &mut heard[first..first + group.len()];
            self.hear_group(group, shape, asks, lists)?;
        }
        Ok(heard)
    }

    fn hear_group(
        &mut self,
        group: &[Text],
        shape: Shape,
        asks: &Asks<'_>,
        heard: &mut [Vec<Option<List>>],
    ) -> Result<()> {
        let mut at = BTreeMap::new();
        for (i, text) in group.iter().enumerate() {
            let session = self.open(text, shape.joins, shape.transforms())?;
            at.insert(session, (i, shape.joins));
            let end = (text.prompt.len() + shape.joins) as Position;
            self.draft(session, end as usize, vec![], vec![asks(&text.secret, end)])?;
        }
        let mut owed: BTreeMap<SessionId, usize> = at.keys().map(|s| (*s, 1)).collect();
        while !owed.is_empty() {
            let (session, opinions) = self.opinions()?;
            let (i, read) = at
                .get_mut(&session)
                .ok_or_else(|| failed("an unknown session"))?;
            let text = &group[*i];
            for opinion in opinions {
                let place = opinion.position as usize - text.prompt.len();
                if let Said::List(list) = opinion.said {
                    heard[*i][place] = Some(list);
                }
                if let Some(left) = owed.get_mut(&session) {
                    *left -= 1;
                }
            }
            if owed.get(&session) != Some(&0) {
                continue;
            }
            // Nobody asks what follows the last token.
            let end = (*read + shape.piece).min(text.answer.len() - 1);
            if *read == end {
                owed.remove(&session);
                self.submit(ExpertOp::Close { session })?;
                continue;
            }
            let begin = text.prompt.len() + *read;
            let tokens = text.answer[*read..end].to_vec();
            let places = *read + 1..=end;
            let positions = places.map(|place| (text.prompt.len() + place) as Position);
            let queries: Vec<Query> = positions.map(|p| asks(&text.secret, p)).collect();
            *read = end;
            owed.insert(session, queries.len());
            self.draft(session, begin, tokens, queries)?;
        }
        Ok(())
    }
}
