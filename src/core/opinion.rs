//! The conversation between a router and an expert: what is asked, what is said.
//!
//! The same enums cross a channel to the expert thread of this process and, as protobuf, a network.
//! An expert never learns which token was drawn from its opinion until the next draft carries it.

use crate::ids::{ExpertId, PeerKey, Position, SessionId, Token};
use crate::law::Transforms;
use crate::limits::{LIST_ENTRIES_MAX, TAU_MIN};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::seeded::PositionKey;
use std::sync::Arc;

/// What the router wants to know about one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub want: Want,
    /// Allowed tokens; the expert lists nothing else.
    pub mask: Option<Arc<Mask>>,
    /// The law's way out when no allowed token has mass: top_k, top_p and min_p are off here.
    pub untruncated: bool,
    /// Also say untransformed log-probabilities of what is listed, and of this many top tokens.
    pub raw_top: Option<u8>,
    /// Also say the untransformed ln p of so many tokens before the position: evidence, where weights
    /// follow the text. An expert that cannot says nothing.
    pub scores: u16,
}

impl Query {
    /// Nothing but what is thought of the last so many tokens.
    pub fn catch_up(scores: u16) -> Query {
        Query {
            want: Want::Scalars(Vec::new()),
            scores,
            ..Query::plain(1.0, 1)
        }
    }

    pub fn plain(mass: f64, max: u16) -> Query {
        Query {
            want: Want::Plain { mass, max },
            mask: None,
            untruncated: false,
            raw_top: None,
            scores: 0,
        }
    }

    pub fn perturbed(key: PositionKey, tau: f64) -> Query {
        Query {
            want: Want::Perturbed { key, tau },
            mask: None,
            untruncated: false,
            raw_top: None,
            scores: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// Every v with p(v)/E_v >= tau. The expert lowers tau (or raises it at the entry cap) until
    /// the list says something, and answers with the bound it used.
    Perturbed { key: PositionKey, tau: f64 },
    /// Top tokens until `mass` is covered, at most `max`.
    Plain { mass: f64, max: u16 },
    /// Exact values of these tokens, in this order.
    Scalars(Vec<Token>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub token: Token,
    pub ln_p: LnP,
}

/// A sparse distribution, sorted by token id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    pub entries: Vec<Entry>,
    /// Perturbed: p(v)/E_v of everything unlisted is below this; 0 says that nothing else has mass.
    /// Plain: p(v) of everything unlisted is at most this.
    pub bound: f64,
}

/// What a list may not be, whoever sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    #[error("more than {LIST_ENTRIES_MAX} entries")]
    TooLong,
    #[error("a token outside the vocabulary")]
    OutsideVocabulary,
    #[error("tokens out of order or twice")]
    Unsorted,
    #[error("a bound that is negative or not finite")]
    Bound,
    #[error("probabilities that sum to more than one")]
    SumAboveOne,
    #[error("no token, and no word that there is none")]
    Empty,
    #[error("a bound above that of the question")]
    BoundAboveQuestion,
    #[error("a token that does not reach its bound")]
    BelowBound,
    #[error("a bound that it did not need")]
    BoundTooLow,
}

/// Rounding may lift a sum this far above one; more is a lie.
const SUM_SLACK: f64 = 1e-3;
/// Scores are computed the same way at both ends; so far they may still differ.
const SCORE_SLACK: f64 = 1e-9;
/// By how much an expert lowers tau when it finds nothing.
pub(crate) const TAU_STEP: f64 = 16.0;

impl List {
    /// Refuses what no honest expert says.
    pub fn check(&self, vocab: u32) -> Result<(), BadList> {
        if self.entries.len() > usize::from(LIST_ENTRIES_MAX) {
            return Err(BadList::TooLong);
        }
        if self.entries.windows(2).any(|w| w[0].token >= w[1].token) {
            return Err(BadList::Unsorted);
        }
        if self.entries.last().is_some_and(|e| e.token >= vocab) {
            return Err(BadList::OutsideVocabulary);
        }
        if !self.bound.is_finite() || self.bound < 0.0 {
            return Err(BadList::Bound);
        }
        let sum: f64 = self.entries.iter().map(|e| e.ln_p.p()).sum();
        if sum > 1.0 + SUM_SLACK {
            Err(BadList::SumAboveOne)
        } else {
            Ok(())
        }
    }

    /// Refuses perturbed lists that no honest expert sends in answer to `asked`. One that always said
    /// "there may be more" would be asked for ever.
    pub fn check_keyed(&self, key: PositionKey, asked: f64) -> Result<(), BadList> {
        let is_full = self.entries.len() == usize::from(LIST_ENTRIES_MAX);
        if self.entries.is_empty() && self.bound > 0.0 {
            return Err(BadList::Empty);
        }
        if self.bound > asked.clamp(TAU_MIN, 1.0) && !is_full {
            return Err(BadList::BoundAboveQuestion);
        }
        let before = self.tau_before(asked).map(|tau| tau * (1.0 + SCORE_SLACK));
        for entry in &self.entries {
            let score = entry.ln_p.p() / key.exponential(entry.token);
            if score < self.bound * (1.0 - SCORE_SLACK) {
                return Err(BadList::BelowBound);
            }
            if before.is_some_and(|tau| score >= tau) {
                return Err(BadList::BoundTooLow);
            }
        }
        Ok(())
    }

    /// The tau at which the expert had found nothing, if it had to go below the question's.
    pub(crate) fn tau_before(&self, asked: f64) -> Option<f64> {
        let asked = asked.clamp(TAU_MIN, 1.0);
        let is_lower = self.bound > 0.0 && self.bound < asked;
        is_lower.then(|| asked.min(self.bound * TAU_STEP))
    }

    pub fn ln_p(&self, token: Token) -> Option<LnP> {
        let at = self
            .entries
            .binary_search_by_key(&token, |e| e.token)
            .ok()?;
        Some(self.entries[at].ln_p)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    List(List),
    Scalars(Vec<LnP>),
}

/// What an expert says about one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    pub position: Position,
    pub said: Said,
    pub raw: Option<Raw>,
    /// What it thinks of the tokens right before the position, if it was asked.
    pub scored: Vec<LnP>,
}

/// Untransformed log-probabilities at temperature 1, for `logprobs` and for evidence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Raw {
    /// One for each listed entry (or asked scalar), in the same order.
    pub of_said: Vec<LnP>,
    /// The most likely tokens, best first.
    pub top: Vec<Entry>,
}

/// Whose prompts may share cached prefixes: timing across scopes would leak them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(pub u64);

impl Scope {
    /// The owner of this machine.
    pub const OWNER: Scope = Scope(0);
}

#[derive(Clone, Debug)]
pub struct Open {
    pub session: SessionId,
    pub scope: Scope,
    pub prompt: Vec<Token>,
    /// Tokens of the answer that are decided already: an expert that joins late reads them in the
    /// same prefill, and its positions go on behind them.
    pub answered: Vec<Token>,
    /// The expert applies these to its own logits, at every position.
    pub transforms: Transforms,
    /// Say ln p of every given token (one scoring prefill). Solo never asks.
    pub score: bool,
    /// Nodes that the question came through before this one, the first asker first: a mesh may be an
    /// expert of another.
    pub path: Vec<PeerKey>,
}

/// Router to expert. Operations of one session are carried out in order.
#[derive(Clone, Debug)]
pub enum ExpertOp {
    Open(Box<Open>),
    /// Append `tokens` at `position`; answer one query for each of the last `queries.len()`
    /// positions after them, in order, in one message or several. No tokens and one query asks about the end of the text as it stands;
    /// tokens and no query keep a spare warm, and are answered by nothing.
    Draft {
        session: SessionId,
        epoch: u32,
        position: Position,
        tokens: Vec<Token>,
        queries: Vec<Query>,
    },
    /// Go on alone: append at `position`, the end of the text (with what is led to already), the own
    /// choice ([`crate::lead::choice`]) of what was last said about it, answer the first query about
    /// the position after it, and so on until the queries are used up. Who hears the answers knows
    /// the choices. Stops where a list chooses nothing.
    Lead {
        session: SessionId,
        epoch: u32,
        position: Position,
        queries: Vec<Query>,
    },
    /// Another text beside the session's, under an epoch of its own: the session's up to `position`, then `token`.
    /// Answers the query about the position after it; drafts in its epoch go on with it. Only to who said in
    /// [`ExpertEvent::Ready`] how many it keeps, and no more than that at once.
    Branch {
        session: SessionId,
        epoch: u32,
        position: Position,
        token: Token,
        query: Query,
    },
    /// The branch of this epoch is the session's text from now on, with what is still asked about it; all others
    /// are forgotten, and so is the text that was the session's.
    Settle {
        session: SessionId,
        epoch: u32,
    },
    /// The branch of this epoch is not wanted any more.
    Forget {
        session: SessionId,
        epoch: u32,
    },
    /// A second question about a position answered before and not yet drafted past.
    Ask {
        session: SessionId,
        epoch: u32,
        position: Position,
        query: Query,
    },
    /// Forget every branch, everything from `position` on, and every question that is not answered yet; later
    /// answers carry the new epoch.
    Truncate {
        session: SessionId,
        epoch: u32,
        position: Position,
    },
    Close {
        session: SessionId,
    },
}

impl ExpertOp {
    pub fn session(&self) -> SessionId {
        match self {
            ExpertOp::Open(open) => open.session,
            ExpertOp::Draft { session, .. }
            | ExpertOp::Lead { session, .. }
            | ExpertOp::Branch { session, .. }
            | ExpertOp::Settle { session, .. }
            | ExpertOp::Forget { session, .. }
            | ExpertOp::Ask { session, .. }
            | ExpertOp::Truncate { session, .. }
            | ExpertOp::Close { session } => *session,
        }
    }

    /// The same under another name: a node gives sessions of others names of its own.
    #[must_use]
    pub fn renamed(mut self, to: SessionId) -> ExpertOp {
        match &mut self {
            ExpertOp::Open(open) => open.session = to,
            ExpertOp::Draft { session, .. }
            | ExpertOp::Lead { session, .. }
            | ExpertOp::Branch { session, .. }
            | ExpertOp::Settle { session, .. }
            | ExpertOp::Forget { session, .. }
            | ExpertOp::Ask { session, .. }
            | ExpertOp::Truncate { session, .. }
            | ExpertOp::Close { session } => *session = to,
        }
        self
    }
}

/// Expert to router.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpertEvent {
    /// The prompt is in; `reused` tokens of it were cached. Comes before the first opinions.
    Ready {
        session: SessionId,
        reused: u32,
        prefill_us: u64,
        /// Branches of the session that it keeps beside its text.
        branches: u8,
    },
    /// ln p of prompt tokens 1.. (the first has no context), if `Open` asked for them.
    Scored { session: SessionId, ln_p: Vec<LnP> },
    Opinions {
        session: SessionId,
        epoch: u32,
        opinions: Vec<Opinion>,
        compute_us: u64,
        /// What this message took on the wire, framing included; 0 inside this process.
        bytes: u32,
    },
    /// The session is gone at the expert; nothing more will come of it.
    Failed {
        session: SessionId,
        why: ExpertFailure,
    },
}

impl ExpertEvent {
    pub fn session(&self) -> SessionId {
        match self {
            ExpertEvent::Ready { session, .. }
            | ExpertEvent::Scored { session, .. }
            | ExpertEvent::Opinions { session, .. }
            | ExpertEvent::Failed { session, .. } => *session,
        }
    }

    /// The same under another name.
    #[must_use]
    pub fn renamed(mut self, to: SessionId) -> ExpertEvent {
        match &mut self {
            ExpertEvent::Ready { session, .. }
            | ExpertEvent::Scored { session, .. }
            | ExpertEvent::Opinions { session, .. }
            | ExpertEvent::Failed { session, .. } => *session = to,
        }
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpertFailure {
    #[error("the expert is busy; ask again in {retry_ms} ms")]
    Busy { retry_ms: u32 },
    #[error("the text of {tokens} tokens does not fit the context of {context}")]
    ContextFull { tokens: u32, context: u32 },
    #[error("the expert refused the question: {0}")]
    Refused(String),
    #[error("the model gave numbers that are not finite")]
    NotFinite,
    #[error("the engine failed: {0}")]
    Engine(String),
    #[error("the expert is gone")]
    Gone,
}

/// An expert's event with the expert that said it.
#[derive(Clone, Debug, PartialEq)]
pub struct FromExpert {
    pub expert: ExpertId,
    pub event: ExpertEvent,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(Token, f64)], bound: f64) -> List {
        let entries = entries.iter().map(|&(token, p)| Entry {
            token,
            ln_p: LnP::floor(libm::log(p)),
        });
        List {
            entries: entries.collect(),
            bound,
        }
    }

    #[test]
    fn lists_that_no_honest_expert_sends_are_refused() {
        assert_eq!(list(&[(0, 0.5), (7, 0.5)], 0.1).check(8), Ok(()));
        assert_eq!(
            list(&[(0, 0.5), (8, 0.5)], 0.1).check(8),
            Err(BadList::OutsideVocabulary)
        );
        assert_eq!(
            list(&[(1, 0.5), (1, 0.1)], 0.1).check(8),
            Err(BadList::Unsorted)
        );
        assert_eq!(
            list(&[(2, 0.5), (1, 0.1)], 0.1).check(8),
            Err(BadList::Unsorted)
        );
        assert_eq!(
            list(&[(1, 0.9), (2, 0.2)], 0.1).check(8),
            Err(BadList::SumAboveOne)
        );
        assert_eq!(list(&[], f64::NAN).check(8), Err(BadList::Bound));
        assert_eq!(list(&[], -1.0).check(8), Err(BadList::Bound));
        let long: Vec<(Token, f64)> = (0..257).map(|v| (v, 1e-6)).collect();
        assert_eq!(list(&long, 0.0).check(1000), Err(BadList::TooLong));
    }
}
