//! One request's token loop.

use crate::ids::{Position, Token};

/// Why a response ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, a stop string came, or the grammar was complete.
    Stop,
    /// max_tokens, or the context is full.
    Length,
    /// The client went away or asked for it.
    Cancelled,
    Failed(String),
}

/// One token, decided.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    pub token: Token,
    pub position: Position,
    /// New text for the client: whole characters only, so sometimes empty and sometimes several
    /// tokens' worth.
    pub text: String,
    /// Untransformed ln p, if log-probabilities were asked for.
    pub ln_p: Option<f64>,
    pub top: Vec<(Token, f64)>,
}

/// What a request's owner hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is in; `reused` tokens of it were cached.
    Ready {
        prompt_tokens: u32,
        reused: u32,
        queued_ms: u64,
        prefill_us: u64,
    },
    Token(TokenEvent),
    /// Always last, exactly once. `text` is what was held back for a stop string that never came.
    Finished {
        why: Finish,
        text: String,
        generated: u32,
        decode_us: u64,
    },
}
