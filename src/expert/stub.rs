//! An expert made of hashes: the same trait, no model. For tests and simulation; the text it writes
//! is printable nonsense that depends on every token before it.

use crate::expert::{EventSender, Expert, ExpertFacts, SubmitError, TokenizeError};
use quorate_core::chat::{Family, Segment};
use quorate_core::distribution::{Distribution, History, score};
use quorate_core::ids::{ExpertId, Position, SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::lead;
use quorate_core::limits::{BRANCHES_MAX, EXPERT_OPS_MAX, SESSIONS_MAX};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Opinion, Query};
use quorate_core::texts::{OutOfOrder, Texts};
use quorate_core::vocab::{Piece, Vocab};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// 256 bytes, then the control tokens of ChatML.
const CONTROLS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];
const VOCAB: u32 = 256 + CONTROLS.len() as u32;
const END: Token = 257;

/// How a stub behaves.
#[derive(Clone, Debug)]
pub struct StubOptions {
    pub model: String,
    /// Stands before every session and is nobody's business, as in the real engine.
    pub prefix: String,
    /// Tokens of a session, the prefix included.
    pub context: u32,
    /// How long it thinks about each position.
    pub step: Duration,
    /// Logit of the end token where printable characters have 0 to 8: how long answers get.
    pub end_logit: f32,
}

impl Default for StubOptions {
    fn default() -> Self {
        StubOptions {
            model: "stub".into(),
            prefix: String::new(),
            context: 4096,
            step: Duration::ZERO,
            end_logit: 4.0,
        }
    }
}

pub struct StubExpert {
    facts: Arc<ExpertFacts>,
    ops: SyncSender<ExpertOp>,
}

impl StubExpert {
    pub fn spawn(options: StubOptions, events: EventSender) -> std::io::Result<Arc<dyn Expert>> {
        let key = *blake3::hash(options.model.as_bytes()).as_bytes();
        let id = match options.prefix.as_bytes() {
            [] => ExpertId(key),
            prefix => ExpertId(*blake3::keyed_hash(&key, prefix).as_bytes()),
        };
        let facts = Arc::new(ExpertFacts {
            id,
            peer: None,
            model: options.model.clone(),
            sha256: String::new(),
            file: None,
            family: Family::ChatMl,
            vocab: Arc::new(Vocab::new((0..VOCAB).map(piece))),
            bos: None,
            context: options.context.saturating_sub(options.prefix.len() as u32),
            model_bytes: 1 << 20,
            cache_bytes: 0,
            processor: "stub".into(),
        });
        let (ops, inbox) = sync_channel(EXPERT_OPS_MAX);
        let thread = StubThread {
            id,
            key,
            context: facts.context,
            options,
            events,
            sessions: BTreeMap::new(),
        };
        std::thread::Builder::new()
            .name("stub expert".into())
            .spawn(move || thread.run(&inbox))?;
        Ok(Arc::new(StubExpert { facts, ops }))
    }
}

impl Expert for StubExpert {
    fn facts(&self) -> &Arc<ExpertFacts> {
        &self.facts
    }

    fn submit(&self, op: ExpertOp) -> Result<(), SubmitError> {
        self.ops.try_send(op).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Full,
            TrySendError::Disconnected(_) => SubmitError::Gone,
        })
    }

    fn tokenize(&self, segments: &[Segment], _bos: bool) -> Result<Vec<Token>, TokenizeError> {
        let mut tokens = Vec::new();
        for segment in segments {
            match segment {
                Segment::Text(text) => tokens.extend(text.bytes().map(Token::from)),
                Segment::Marker(marker) => mark(marker, &mut tokens),
            }
        }
        Ok(tokens)
    }
}

fn piece(token: Token) -> Piece {
    match u8::try_from(token) {
        Ok(byte) => Piece {
            bytes: vec![byte],
            control: false,
            ends: false,
        },
        Err(_) => {
            let name = CONTROLS[token as usize - 256];
            Piece {
                bytes: name.as_bytes().to_vec(),
                control: true,
                ends: token == END,
            }
        }
    }
}

/// A marker is control tokens with text between them.
fn mark(marker: &str, tokens: &mut Vec<Token>) {
    let mut rest = marker;
    while !rest.is_empty() {
        let found = CONTROLS
            .iter()
            .zip(256..)
            .find(|(name, _)| rest.starts_with(**name));
        let length = match found {
            Some((name, token)) => {
                tokens.push(token);
                name.len()
            }
            None => {
                tokens.extend(rest.bytes().next().map(Token::from));
                1
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
}

struct Session {
    texts: Texts<Notes>,
    prompt: usize,
    transforms: Transforms,
}

#[derive(Default)]
struct Notes {
    /// The last position that was asked about, and its own choice there.
    row: (Position, Distribution),
    choice: Option<Token>,
}

struct StubThread {
    id: ExpertId,
    /// What its numbers are a function of, besides the text: its model.
    key: [u8; 32],
    context: u32,
    options: StubOptions,
    events: EventSender,
    sessions: BTreeMap<SessionId, Session>,
}

impl StubThread {
    fn run(mut self, inbox: &Receiver<ExpertOp>) {
        while let Ok(op) = inbox.recv() {
            let session = op.session();
            let events = self.handle(op).unwrap_or_else(|why| {
                self.sessions.remove(&session);
                vec![ExpertEvent::Failed { session, why }]
            });
            for event in events {
                if self
                    .events
                    .blocking_send(FromExpert {
                        expert: self.id,
                        event,
                    })
                    .is_err()
                {
                    return; // the node is gone
                }
            }
        }
    }

    fn handle(&mut self, op: ExpertOp) -> Result<Vec<ExpertEvent>, ExpertFailure> {
        match op {
            ExpertOp::Open(_) if self.sessions.len() >= SESSIONS_MAX => {
                Err(ExpertFailure::Busy { retry_ms: 100 })
            }
            ExpertOp::Open(open) => {
                let scores = open
                    .score
                    .then(|| self.scores(&open.prompt, 1))
                    .transpose()?;
                let (prompt, transforms) = (open.prompt.len(), open.transforms);
                let session = Session {
                    texts: Texts::new([open.prompt, open.answered].concat()),
                    prompt,
                    transforms,
                };
                let name = open.session;
                self.sessions.insert(name, session);
                let ready = ExpertEvent::Ready {
                    session: name,
                    reused: 0,
                    prefill_us: 0,
                    branches: BRANCHES_MAX as u8,
                };
                let scored = scores.map(|ln_p| ExpertEvent::Scored {
                    session: name,
                    ln_p,
                });
                Ok([Some(ready), scored].into_iter().flatten().collect())
            }
            ExpertOp::Draft {
                session,
                epoch,
                position,
                tokens,
                queries,
            } => {
                let texts = self.texts(session)?;
                let first = texts.draft(epoch, position, &tokens, queries.len());
                let first = first.map_err(refused)?;
                if queries.is_empty() {
                    return Ok(vec![]);
                }
                let asked = (first..).zip(&queries);
                let said = asked.map(|(at, query)| self.opinion(session, epoch, at, query));
                let opinions = said.collect::<Result<_, _>>()?;
                Ok(vec![opinions_event(session, epoch, opinions)])
            }
            ExpertOp::Lead {
                session,
                epoch,
                position,
                queries,
            } => self.lead(session, epoch, position, &queries),
            ExpertOp::Branch {
                session,
                epoch,
                position,
                token,
                query,
            } => {
                let texts = self.texts(session)?;
                texts.branch(epoch, position, token).map_err(refused)?;
                let opinions = vec![self.opinion(session, epoch, position + 1, &query)?];
                Ok(vec![opinions_event(session, epoch, opinions)])
            }
            ExpertOp::Settle { session, epoch } => {
                self.texts(session)?.settle(epoch).map_err(refused)?;
                Ok(vec![])
            }
            ExpertOp::Forget { session, epoch } => {
                self.texts(session)?.forget(epoch).map_err(refused)?;
                Ok(vec![])
            }
            ExpertOp::Ask {
                session,
                epoch,
                position,
                query,
            } => {
                let opinions = vec![self.opinion(session, epoch, position, &query)?];
                Ok(vec![opinions_event(session, epoch, opinions)])
            }
            ExpertOp::Truncate {
                session,
                epoch,
                position,
            } => {
                let texts = self.texts(session)?;
                texts.truncate(epoch, position).map_err(refused)?;
                let row = &mut texts.own.notes.row;
                if row.0 > position {
                    row.0 = 0; // nobody asks about the beginning
                }
                Ok(vec![])
            }
            ExpertOp::Close { session } => {
                self.sessions.remove(&session);
                Ok(vec![])
            }
        }
    }

    fn lead(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        queries: &[Query],
    ) -> Result<Vec<ExpertEvent>, ExpertFailure> {
        let mut events = Vec::new();
        for (at, query) in (position..).zip(queries) {
            let context = self.context as usize;
            let texts = self.texts(session)?;
            let text = texts.of(epoch).map_err(refused)?;
            let end = text.tokens.len();
            let has_stopped = at as usize > end || end >= context;
            let Some(token) = text.notes.choice.take().filter(|_| !has_stopped) else {
                break;
            };
            texts.draft(epoch, at, &[token], 1).map_err(refused)?;
            let opinions = vec![self.opinion(session, epoch, at + 1, query)?];
            events.push(opinions_event(session, epoch, opinions));
        }
        Ok(events)
    }

    /// What it thinks of a text from a token on.
    fn scores(&self, prompt: &[Token], first: usize) -> Result<Vec<LnP>, ExpertFailure> {
        let of = |at: usize| {
            let prefix = self.options.prefix.bytes().map(Token::from);
            let whole = prefix.chain(prompt[..at].iter().copied());
            let logits = logits(&self.key, whole, self.options.end_logit);
            score(&logits, prompt[at]).map_err(|_| ExpertFailure::NotFinite)
        };
        (first..prompt.len()).map(of).collect()
    }

    fn texts(&mut self, session: SessionId) -> Result<&mut Texts<Notes>, ExpertFailure> {
        let session = self.sessions.get_mut(&session);
        let unknown = || ExpertFailure::Refused("no such session".into());
        Ok(&mut session.ok_or_else(unknown)?.texts)
    }

    fn opinion(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        query: &Query,
    ) -> Result<Opinion, ExpertFailure> {
        let unknown = || ExpertFailure::Refused("no such session or position".into());
        let (tokens, context) = (position, self.context);
        if tokens > context {
            return Err(ExpertFailure::ContextFull { tokens, context });
        }
        let prefix: Vec<Token> = self.options.prefix.bytes().map(Token::from).collect();
        let state = self.sessions.get_mut(&session).ok_or_else(unknown)?;
        let text = state.texts.of(epoch).map_err(refused)?;
        let before = text.tokens.get(..position as usize).ok_or_else(unknown)?;
        let (at, row) = &mut text.notes.row;
        if *at != position {
            std::thread::sleep(self.options.step);
            let whole = prefix.into_iter().chain(before.iter().copied());
            let logits = logits(&self.key, whole, self.options.end_logit);
            let history = History {
                tokens: before,
                prompt: state.prompt,
            };
            let measured = row.measure(&logits, &state.transforms, history, true);
            measured.map_err(|_| ExpertFailure::NotFinite)?;
            *at = position;
        }
        let (said, raw) = row.answer(query);
        text.notes.choice = lead::choice(query, &said);
        let text = before.to_vec();
        let first = text.len().saturating_sub(query.scores.into()).max(1);
        Ok(Opinion {
            position,
            said,
            raw,
            scored: self.scores(&text, first)?,
        })
    }
}

fn opinions_event(session: SessionId, epoch: u32, opinions: Vec<Opinion>) -> ExpertEvent {
    ExpertEvent::Opinions {
        session,
        epoch,
        opinions,
        compute_us: 0,
        bytes: 0,
    }
}

fn refused(lost: OutOfOrder) -> ExpertFailure {
    ExpertFailure::Refused(lost.to_string())
}

/// Printable ASCII gets 0 to 8 by a hash of the whole text; everything else is as good as impossible.
fn logits(key: &[u8; 32], whole: impl Iterator<Item = Token>, end_logit: f32) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    whole.for_each(|token| {
        hasher.update(&token.to_le_bytes());
    });
    let mut bytes = [0; VOCAB as usize];
    hasher.finalize_xof().fill(&mut bytes);
    (0..VOCAB)
        .zip(bytes)
        .map(|(token, byte)| match token {
            END => end_logit,
            0x20..=0x7e => f32::from(byte) / 32.0,
            _ => -30.0,
        })
        .collect()
}
