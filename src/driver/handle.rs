//! What the rest of the program holds of the loop: a cloneable handle, leases on models, and
//! streams of events. Dropping a stream cancels its generation; dropping a lease lets its model go.

use crate::expert::{Expert, ExpertFacts, TokenizeError};
use crate::grammar::Matcher;
use quorate_core::chat::Segment;
use quorate_core::generate::Event;
use quorate_core::ids::Token;
use quorate_core::law::Law;
use std::sync::Arc;

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
}

/// Holds a model in memory.
#[derive(Clone)]
pub struct Lease {
    expert: Arc<dyn Expert>,
}

impl Lease {
    pub fn facts(&self) -> &Arc<ExpertFacts> {
        self.expert.facts()
    }

    /// Tokenises off the loop, on a thread that may block.
    pub async fn tokenize(
        &self,
        segments: Vec<Segment>,
        bos: bool,
    ) -> Result<Vec<Token>, TokenizeError> {
        let expert = self.expert.clone();
        tokio::task::spawn_blocking(move || expert.tokenize(&segments, bos))
            .await
            .map_err(|error| TokenizeError::Failed(error.to_string()))?
    }
}

/// Events of one generation, ending with `Event::Finished`.
#[derive(Debug)]
pub struct GenerationStream {
    events: tokio::sync::mpsc::Receiver<Event>,
}

impl GenerationStream {
    /// None after `Event::Finished`, or if the node went away.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

#[derive(Debug, thiserror::Error)]
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

#[derive(Debug, thiserror::Error)]
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
    #[error("the mesh is halted: {0}")]
    Halted(String),
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// A picture of the node for `status`, `ps`, `/readyz` and metrics.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    pub node_id: String,
    pub running: usize,
    pub waiting: usize,
    pub models: Vec<ModelStatus>,
    pub memory_budget_bytes: u64,
    pub memory_used_bytes: u64,
    pub generated_tokens: u64,
    pub uptime_ms: u64,
}

#[derive(Clone, Debug)]
pub struct ModelStatus {
    pub name: String,
    pub state: Residence,
    pub bytes: u64,
    pub context: u32,
    pub processor: String,
    pub running: usize,
    /// Milliseconds until it leaves memory if nobody asks; None while in use or kept for ever.
    pub expires_in_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    Loading,
    Ready,
    Leaving,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Node {}

impl Node {
    /// Waits until the model is in memory, loading it (and letting others leave) if need be.
    pub async fn acquire(&self, _name: &str) -> Result<Lease, AcquireError> {
        Err(AcquireError::ShuttingDown)
    }

    /// Queues one generation. The answer comes at once: running, waiting, or refused.
    pub async fn generate(
        &self,
        _lease: &Lease,
        _generation: Generation,
    ) -> Result<GenerationStream, RefusedError> {
        Err(RefusedError::ShuttingDown)
    }

    /// Lets a model leave memory when its last lease is gone. False if it is not loaded.
    pub async fn unload(&self, _name: &str) -> bool {
        false
    }

    pub fn status(&self) -> NodeStatus {
        NodeStatus::default()
    }
}
