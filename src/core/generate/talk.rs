//! What a request's loop is told, and what it says: to its owner, and to experts.

use super::{Decided, Guesses, Listed, Provenance};
use crate::alarm::Sign;
use crate::ids::{ExpertId, Position, Token};
use crate::mask::Mask;
use crate::opinion::{ExpertOp, FromExpert};
use crate::team::{Answered, Schedule};
use crate::weights::Reasons;

/// What is told beside the text. Who does not ask pays nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// With every token: who said what of it, when, at what weight.
    pub provenance: bool,
    /// Everything that a replay needs.
    pub record: bool,
}

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
    pub provenance: Option<Box<Provenance>>,
}

/// What a request's owner hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is in; `reused` tokens of it were cached.
    Ready {
        prompt_tokens: u32,
        reused: u32,
        queued_us: u64,
        prefill_us: u64,
    },
    /// What decided a position, for a recording; before its token, and before an end that a token
    /// made.
    Decided(Box<Decided>),
    Token(TokenEvent),
    /// Always last, exactly once. `text` is what was held back for a stop string that never came.
    Finished {
        why: Finish,
        text: String,
        generated: u32,
        decode_us: u64,
        /// Who decided, from which position on: with the law and the seed, all that the text is a
        /// function of. Empty if no position was decided.
        schedule: Schedule,
        guesses: Guesses,
        /// Where weights were learned from the prompt: why they are what they are.
        reasons: Option<Box<Reasons>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    FromExpert(FromExpert),
    /// The expert cannot be reached: its mailbox refused, or it left.
    Lost {
        expert: ExpertId,
        why: String,
    },
    /// The grammar's answer to `NeedMask`.
    Mask(MaskAnswer),
    /// The client has read so many more tokens.
    Read(u32),
    /// The moment of `wake_at` has come.
    Tick,
    Cancel,
    /// Permission is gone (a halt): the reason is shown.
    Abort(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum MaskAnswer {
    Allowed(Mask),
    /// The text is complete.
    Done,
    Failed(String),
}

#[derive(Clone, Debug)]
pub enum Output {
    ToExpert(ExpertId, ExpertOp),
    /// What may come next, after `committed` (None: at the beginning)?
    NeedMask {
        committed: Option<Token>,
    },
    Event(Event),
    /// An expert answered a question in this time: what its pace is measured by.
    Heard {
        expert: ExpertId,
        answered: Answered,
        compute_us: u64,
        bytes: u32,
    },
    /// What an expert said, as a sign of whether it is honest.
    Weighed {
        expert: ExpertId,
        sign: Sign,
    },
    /// For an audit.
    Said(Box<Listed>),
    /// An expert failed this request.
    Failed {
        expert: ExpertId,
        why: Trouble,
    },
}

/// How an expert failed, for whoever chooses the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Late,
    Busy {
        retry_ms: u32,
    },
    Gone(String),
    /// It said what no honest expert says.
    Lied(String),
}
