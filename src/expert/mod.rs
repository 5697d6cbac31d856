//! The one seam of the program: something that has opinions about the next token.

use quorate_core::chat::{Family, Segment};
use quorate_core::ids::{ExpertId, PeerKey, Token};
use quorate_core::opinion::{ExpertOp, FromExpert};
use quorate_core::vocab::Vocab;
use std::sync::Arc;

pub mod hardware;
#[cfg(feature = "llama")]
pub mod llama;
pub mod stub;

/// What never changes about a loaded expert.
#[derive(Debug)]
pub struct ExpertFacts {
    pub id: ExpertId,
    /// The node that serves it, if that is not this one.
    pub peer: Option<PeerKey>,
    /// The name a client asks for, as the store spells it.
    pub model: String,
    /// SHA-256 of the model file, in hex; empty for a stub.
    pub sha256: String,
    /// The same, if the file is all that its opinions come from: no adapter, no private prefix.
    pub file: Option<[u8; 32]>,
    pub family: Family,
    pub vocab: Arc<Vocab>,
    /// Put before every prompt, where the model was trained so.
    pub bos: Option<Token>,
    /// Tokens that one session may hold, prompt and answer together.
    pub context: u32,
    /// Memory: the model's weights, and the cache for all sessions together.
    pub model_bytes: u64,
    pub cache_bytes: u64,
    /// Where it runs, for people: "cpu, 2 threads", "cuda, 33/33 layers".
    pub processor: String,
}

/// A loaded model behind a bounded mailbox. Events go to the channel given when it was made.
pub trait Expert: Send + Sync + 'static {
    fn facts(&self) -> &Arc<ExpertFacts>;

    /// Never blocks: a full mailbox is an answer.
    fn submit(&self, op: ExpertOp) -> Result<(), SubmitError>;

    /// May take milliseconds for a long text: call it off the driver's loop. `bos` asks for the
    /// token that starts a text, where the model has one.
    fn tokenize(&self, segments: &[Segment], bos: bool) -> Result<Vec<Token>, TokenizeError>;
}

/// Where experts send what they say. Expert threads may wait on it: that is the back-pressure.
pub type EventSender = tokio::sync::mpsc::Sender<FromExpert>;

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("the expert's mailbox is full")]
    Full,
    #[error("the expert is gone")]
    Gone,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    #[error("the text of {bytes} bytes is too long to be tokenised at once (limit {limit})")]
    TooLong { bytes: usize, limit: usize },
    #[error("the tokeniser failed: {0}")]
    Failed(String),
}
