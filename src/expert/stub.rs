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
    /// Texts beside this one, by their epochs.
    branches: BTreeMap<u32, Session>,
    tokens: Vec<Token>,
    prompt: usize,
    transforms: Transforms,
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
        let unknown = || ExpertFailure::Refused("no such session".into());
        match op {
            ExpertOp::Open(_) if self.sessions.len() >= SESSIONS_MAX => {
                Err(ExpertFailure::Busy { retry_ms: 100 })
            }
            ExpertOp::Open(open) => {
                let row = (0, Distribution::new());
                let scores = open
                    .score
                    .then(|| self.scores(&open.prompt, 1))
                    .transpose()?;
                let (prompt, transforms) = (open.prompt.len(), open.transforms);
                let session = Session {
                    branches: BTreeMap::new(),
                    tokens: [open.prompt, open.answered].concat(),
                    prompt,
                    transforms,
                    row,
                    choice: None,
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
                let state = self.text(session, epoch).ok_or_else(unknown)?;
                if position as usize != state.tokens.len() || queries.len() > tokens.len() + 1 {
                    return Err(ExpertFailure::Refused(
                        "a draft that does not continue the text".into(),
                    ));
                }
                state.tokens.extend(tokens);
                let end = state.tokens.len() as u32;
                let context = self.context;
                if end > context {
                    return Err(ExpertFailure::ContextFull {
                        tokens: end,
                        context,
                    });
                }
                if queries.is_empty() {
                    return Ok(vec![]);
                }
                let first = end + 1 - queries.len() as u32;
                let opinions = (first..)
                    .zip(&queries)
                    .map(|(at, query)| self.opinion(session, epoch, at, query));
                let opinions = opinions.collect::<Result<_, _>>()?;
                Ok(vec![ExpertEvent::Opinions {
                    session,
                    epoch,
                    opinions,
                    compute_us: 0,
                    bytes: 0,
                }])
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
            } => self.branch(session, epoch, position, token, &query),
            ExpertOp::Settle { session, epoch } => {
                let state = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                *state = state.branches.remove(&epoch).ok_or_else(unknown)?;
                Ok(vec![])
            }
            ExpertOp::Forget { session, epoch } => {
                let state = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                state.branches.remove(&epoch).ok_or_else(unknown)?;
                Ok(vec![])
            }
            ExpertOp::Ask {
                session,
                epoch,
                position,
                query,
            } => {
                let opinions = vec![self.opinion(session, epoch, position, &query)?];
                Ok(vec![ExpertEvent::Opinions {
                    session,
                    epoch,
                    opinions,
                    compute_us: 0,
                    bytes: 0,
                }])
            }
            ExpertOp::Truncate {
                session, position, ..
            } => {
                let state = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                state.branches.clear();
                state.tokens.truncate(position as usize);
                if state.row.0 > position {
                    state.row.0 = 0; // nobody asks about the beginning
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
            let unknown = || ExpertFailure::Refused("nothing to go on from".into());
            let state = self.sessions.get_mut(&session).ok_or_else(unknown)?;
            let end = state.tokens.len();
            if (at as usize) < end {
                return Err(unknown());
            }
            let goes_on = at as usize == end && end < self.context as usize;
            let Some(token) = state.choice.take().filter(|_| goes_on) else {
                break;
            };
            state.tokens.push(token);
            events.push(ExpertEvent::Opinions {
                session,
                epoch,
                opinions: vec![self.opinion(session, epoch, at + 1, query)?],
                compute_us: 0,
                bytes: 0,
            });
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

    fn branch(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        token: Token,
        query: &Query,
    ) -> Result<Vec<ExpertEvent>, ExpertFailure> {
        let refused = || ExpertFailure::Refused("a branch that leaves no text".into());
        let state = self.sessions.get_mut(&session).ok_or_else(refused)?;
        let before = state.tokens.get(..position as usize).ok_or_else(refused)?;
        if state.branches.len() >= BRANCHES_MAX || position >= self.context {
            return Err(refused());
        }
        let branch = Session {
            branches: BTreeMap::new(),
            tokens: [before, &[token]].concat(),
            prompt: state.prompt,
            transforms: state.transforms.clone(),
            row: (0, Distribution::new()),
            choice: None,
        };
        state.branches.insert(epoch, branch);
        Ok(vec![ExpertEvent::Opinions {
            session,
            epoch,
            opinions: vec![self.opinion(session, epoch, position + 1, query)?],
            compute_us: 0,
            bytes: 0,
        }])
    }

    /// The text of a session in an epoch.
    fn text(&mut self, session: SessionId, epoch: u32) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&session)?;
        match session.branches.contains_key(&epoch) {
            true => session.branches.get_mut(&epoch),
            false => Some(session),
        }
    }

    fn opinion(
        &mut self,
        session: SessionId,
        epoch: u32,
        position: Position,
        query: &Query,
    ) -> Result<Opinion, ExpertFailure> {
        let unknown = || ExpertFailure::Refused("no such position".into());
        let step = self.options.step;
        let prefix: Vec<Token> = self.options.prefix.bytes().map(Token::from).collect();
        let (key, end_logit) = (self.key, self.options.end_logit);
        let state = self.text(session, epoch).ok_or_else(unknown)?;
        let before = state.tokens.get(..position as usize).ok_or_else(unknown)?;
        if state.row.0 != position {
            std::thread::sleep(step);
            let whole = prefix.into_iter().chain(before.iter().copied());
            let logits = logits(&key, whole, end_logit);
            let history = History {
                tokens: before,
                prompt: state.prompt,
            };
            let measured = state
                .row
                .1
                .measure(&logits, &state.transforms, history, true);
            measured.map_err(|_| ExpertFailure::NotFinite)?;
            state.row.0 = position;
        }
        let (said, raw) = state.row.1.answer(query);
        state.choice = lead::choice(query, &said);
        let text = state.tokens[..position as usize].to_vec();
        let first = text.len().saturating_sub(query.scores.into()).max(1);
        Ok(Opinion {
            position,
            said,
            raw,
            scored: self.scores(&text, first)?,
        })
    }
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
