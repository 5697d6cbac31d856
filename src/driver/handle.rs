//! What the rest of the program holds of the loop: a cloneable handle, leases on models, and
//! streams of events. Dropping a stream cancels its generation; dropping a lease lets its model go.

pub use tape::Tape;

use crate::driver::{Command, NodeStatus, Notice, Offer, Submission};
use crate::expert::{EventSender, Expert, ExpertFacts, TokenizeError};
use crate::grammar::Matcher;
use quorate_core::chat::Segment;
use quorate_core::config::MeshConfig;
use quorate_core::generate::{Event, Guessing, Notes, Spec};
use quorate_core::ids::{ExpertId, SessionId, Token};
use quorate_core::law::Law;
use quorate_core::limits::{READ_TOKENS, UNREAD_TOKENS_MAX};
use quorate_core::node;
use quorate_core::node::Experts;
use quorate_core::opinion::Scope;
use quorate_core::residency;
use quorate_core::seeded::Secret;
use quorate_core::team::Sets;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

mod tape;

/// One response to make.
#[derive(Debug)]
pub struct Generation {
    pub prompt: Vec<Token>,
    pub law: Law,
    pub seed: u64,
    /// Which of the request's choices this is; each draws from its own secret.
    pub choice: u32,
    /// None: until the model stops or the context is full.
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    /// Log-probabilities wanted, with this many alternatives.
    pub logprobs: Option<u8>,
    pub grammar: Option<Matcher>,
    pub asked: Asked,
    pub notes: Notes,
}

/// Whom a generation asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// The leased model alone.
    #[default]
    Own,
    /// The leased model and those of the mesh that fit.
    Mesh {
        sets: Sets,
        /// Fewer than the mesh config allows, if the client wants that.
        k_max: Option<u32>,
        guessing: Guessing,
    },
}

/// Holds a model in memory. Clones hold the same lease.
#[derive(Clone)]
pub struct Lease(Arc<Held>);

struct Held {
    name: String,
    expert: Arc<dyn Expert>,
    notices: mpsc::UnboundedSender<Notice>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // A node that is gone needs no goodbye.
        self.notices
            .send(Notice::Lease {
                name: std::mem::take(&mut self.name),
            })
            .ok();
    }
}

impl Lease {
    pub(super) fn new(
        name: String,
        expert: Arc<dyn Expert>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Lease {
        Lease(Arc::new(Held {
            name,
            expert,
            notices,
        }))
    }

    pub fn facts(&self) -> &Arc<ExpertFacts> {
        self.0.expert.facts()
    }

    /// Tokenises off the loop, on a thread that may block.
    pub async fn tokenize(
        &self,
        segments: Vec<Segment>,
        bos: bool,
    ) -> Result<Vec<Token>, TokenizeError> {
        let lease = self.clone();
        tokio::task::spawn_blocking(move || lease.0.expert.tokenize(&segments, bos))
            .await
            .map_err(|error| TokenizeError::Failed(error.to_string()))?
    }
}

/// Events of one generation, ending with `Event::Finished`.
pub struct GenerationStream {
    session: SessionId,
    events: mpsc::Receiver<Event>,
    /// Tokens read that the loop has not heard of.
    read: u32,
    notices: mpsc::UnboundedSender<Notice>,
    tape: Option<Tape>,
    /// The model stays while anybody listens.
    _lease: Lease,
}

impl GenerationStream {
    /// None after `Event::Finished`, or if the node went away.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await?;
        if let Some(tape) = &self.tape {
            tape.hear(&event);
        }
        self.read += u32::from(matches!(event, Event::Token(_)));
        if self.read == READ_TOKENS {
            let (session, tokens) = (self.session, std::mem::take(&mut self.read));
            // A node that is gone says nothing more.
            self.notices.send(Notice::Read { session, tokens }).ok();
        }
        Some(event)
    }
}

impl Drop for GenerationStream {
    fn drop(&mut self) {
        // A node that is gone has nothing left to cancel.
        self.notices
            .send(Notice::Stream {
                session: self.session,
            })
            .ok();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    #[error("there is no model '{name}'")]
    Unknown { name: String, near: Vec<String> },
    #[error("the model '{name}' is known but not installed")]
    NotInstalled { name: String },
    /// The message shows the arithmetic.
    #[error("the model '{name}' does not fit: {arithmetic}")]
    TooLarge { name: String, arithmetic: String },
    #[error("every loaded model is in use and '{name}' does not fit beside them")]
    Busy { name: String, retry_after_s: u32 },
    #[error("the model '{name}' cannot be loaded: {why}")]
    Load { name: String, why: String },
    #[error("the node is shutting down")]
    ShuttingDown,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedError {
    #[error("{running} requests run and {waiting} wait, which is as many as this node takes")]
    Busy {
        running: usize,
        waiting: usize,
        retry_after_s: u32,
    },
    #[error("the prompt has {prompt} tokens and the context of this model holds {context}")]
    PromptTooLong { prompt: usize, context: u32 },
    #[error("the prompt is empty")]
    PromptEmpty,
    #[error("{0}")]
    Halted(String),
    /// The operator of this node forbids it.
    #[error("{0}")]
    Policy(String),
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl AcquireError {
    pub(super) fn of(name: String, why: residency::Refusal) -> AcquireError {
        match why {
            residency::Refusal::TooLarge(arithmetic) => AcquireError::TooLarge { name, arithmetic },
            residency::Refusal::Busy { .. } | residency::Refusal::QueueFull => AcquireError::Busy {
                name,
                retry_after_s: 10,
            },
            residency::Refusal::LoadFailed(why) => AcquireError::Load { name, why },
        }
    }
}

impl From<node::Refusal> for RefusedError {
    fn from(refusal: node::Refusal) -> RefusedError {
        match refusal {
            node::Refusal::Busy {
                running,
                waiting,
                retry_after_s,
            } => RefusedError::Busy {
                running,
                waiting,
                retry_after_s,
            },
            node::Refusal::PromptTooLong { prompt, context } => {
                RefusedError::PromptTooLong { prompt, context }
            }
            node::Refusal::PromptEmpty => RefusedError::PromptEmpty,
            node::Refusal::NoPermit(why) => RefusedError::Halted(why),
            node::Refusal::Duplicate => RefusedError::Busy {
                running: 0,
                waiting: 0,
                retry_after_s: 1,
            },
        }
    }
}

/// A model that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its one name: aliases and spellings lead here.
    pub name: String,
    /// Memory it will take, weights and cache together.
    pub bytes: u64,
    /// The part of it that others of the same weights may have brought already.
    pub shared: Option<residency::Shared>,
}

/// Name to model; errors say what is near.
pub type Find = dyn Fn(&str) -> Result<Found, AcquireError> + Send + Sync;
/// Loads a model by its one name; what it says goes to the channel.
pub type Load = dyn Fn(&str, EventSender) -> Result<Arc<dyn Expert>, String> + Send + Sync;

/// Experts that the owner gives to others.
pub type Offers = dyn Fn(ExpertId) -> Option<Offer> + Send + Sync;

/// How the node finds and loads models; all are called on threads that may block.
#[derive(Clone)]
pub struct Models {
    pub find: Arc<Find>,
    pub load: Arc<Load>,
    pub offer: Arc<Offers>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) models: Models,
    pub(super) events: EventSender,
    pub(super) config: watch::Receiver<MeshConfig>,
    /// Where what this handle generates is recorded.
    pub(super) tape: Option<Tape>,
}

impl Node {
    /// The document that holds now: what every law takes from it is part of that law.
    pub fn config(&self) -> MeshConfig {
        self.config.borrow().clone()
    }

    /// Waits until the model is in memory, loading it (and letting others leave) if need be.
    pub async fn acquire(&self, name: &str) -> Result<Lease, AcquireError> {
        let (find, wanted) = (self.models.find.clone(), name.to_owned());
        let found = tokio::task::spawn_blocking(move || find(&wanted))
            .await
            .map_err(|error| AcquireError::Load {
                name: name.to_owned(),
                why: error.to_string(),
            })??;
        let (reply, answer) = oneshot::channel();
        let command = Command::Acquire { found, reply };
        self.commands
            .send(command)
            .await
            .map_err(|_| AcquireError::ShuttingDown)?;
        answer.await.map_err(|_| AcquireError::ShuttingDown)?
    }

    /// Queues one generation. The answer comes at once: running, waiting, or refused.
    pub async fn generate(
        &self,
        lease: &Lease,
        generation: Generation,
    ) -> Result<GenerationStream, RefusedError> {
        let facts = lease.facts();
        let session = SessionId(u128::from_ne_bytes(random()));
        let mut notes = generation.notes;
        notes.record |= self.tape.is_some();
        let room = facts.context.saturating_sub(generation.prompt.len() as u32);
        let max_tokens = generation.max_tokens.unwrap_or(room).min(room);
        let spec = Spec {
            session,
            scope: Scope::OWNER,
            prompt: generation.prompt,
            law: generation.law,
            secret: Secret::from_seed(generation.seed, generation.choice),
            max_tokens,
            stop: generation.stop,
            logprobs: generation.logprobs,
            grammar: generation.grammar.is_some(),
            context: facts.context,
            guessing: match generation.asked {
                Asked::Own => Guessing::Never, // nobody is far away
                Asked::Mesh { guessing, .. } => guessing,
            },
            paced: true,
            notes,
        };
        if let Some(tape) = &self.tape {
            tape.begin(&spec, facts.id, &facts.vocab);
        }
        let experts = match generation.asked {
            Asked::Own => Experts::These(vec![(facts.id, 1.0)]),
            Asked::Mesh { sets, k_max, .. } => Experts::Mesh {
                local: Some(facts.id),
                sets,
                k_max,
            },
        };
        // Room for all that it is told before it reads: the loop never waits for a slow client.
        let each = 1 + usize::from(notes.record);
        let unread = max_tokens.min(UNREAD_TOKENS_MAX) as usize;
        let (events_tx, events) = mpsc::channel(each * (unread + 1) + 8);
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            spec,
            model: lease.0.name.clone(),
            vocab: facts.vocab.clone(),
            experts,
            matcher: generation.grammar,
            events: events_tx,
            reply,
        };
        let command = Command::Submit(Box::new(submission));
        self.commands
            .send(command)
            .await
            .map_err(|_| RefusedError::ShuttingDown)?;
        answer.await.map_err(|_| RefusedError::ShuttingDown)??;
        Ok(GenerationStream {
            session,
            events,
            read: 0,
            notices: self.notices.clone(),
            tape: self.tape.clone(),
            _lease: lease.clone(),
        })
    }

    /// Lets a model leave memory as soon as nobody uses it. False if it is not loaded.
    pub async fn unload(&self, name: &str) -> bool {
        let (reply, answer) = oneshot::channel();
        let command = Command::Dismiss {
            name: name.to_owned(),
            reply,
        };
        self.commands.send(command).await.is_ok() && answer.await.unwrap_or(false)
    }

    /// None if the loop is gone: a node that cannot say how it is, is not ready.
    pub async fn status(&self) -> Option<NodeStatus> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Status { reply }).await.ok()?;
        answer.await.ok()
    }
}

/// Randomness from the operating system. Without it nothing here is safe to run.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}
