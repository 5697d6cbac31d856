//! What simulated nodes send each other. Values, not bytes: codecs have tests of their own; but
//! everything has its size.

use super::network::At;
use crate::governance::Record;
use crate::ids::ExpertId;
use crate::mesh::Advert;
use crate::mesh::sync::{Answer, Ask};
use crate::opinion::{ExpertEvent, ExpertOp, Said};
use std::sync::Arc;

/// Headers and seals of a packet.
const PACKET_BYTES: usize = 48;
/// What names the session in a frame.
const FRAME_BYTES: usize = 24;

/// Something that everybody should hear.
#[derive(Clone, Debug)]
pub(super) struct News {
    /// In the order in which things were said for the first time.
    pub(super) number: u32,
    pub(super) bytes: usize,
    pub(super) what: Tidings,
}

#[derive(Clone, Debug)]
pub(super) enum Tidings {
    Advert(Arc<Advert>),
    Record(Arc<Record>),
}

#[derive(Clone, Debug)]
pub(super) enum Letter {
    /// To a session of the reader's expert.
    Op(ExpertId, ExpertOp),
    /// From a session of the writer's expert.
    Said(ExpertId, ExpertEvent),
    /// Gossip; empty it says that the writer lives.
    News(Arc<[News]>),
    Ask(Ask),
    /// And whether adverts were asked for.
    Answer(Answer, bool),
}

impl Letter {
    pub(super) fn bytes(&self) -> usize {
        PACKET_BYTES
            + match self {
                Letter::Op(_, op) => op_bytes(op),
                Letter::Said(_, event) => said_bytes(event),
                Letter::News(news) => news.iter().map(|n| n.bytes).sum(),
                Letter::Ask(ask) => ask.encode().len(),
                Letter::Answer(answer, _) => answer.encode().len(),
            }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Letter::Op(_, ExpertOp::Open(_)) => "open",
            Letter::Op(_, ExpertOp::Close { .. }) => "close",
            Letter::Op(..) => "ask",
            Letter::Said(_, ExpertEvent::Failed { .. }) => "failed",
            Letter::Said(..) => "said",
            Letter::News(_) => "news",
            Letter::Ask(_) => "sync ask",
            Letter::Answer(..) => "sync answer",
        }
    }
}

fn op_bytes(op: &ExpertOp) -> usize {
    let tokens = match op {
        ExpertOp::Open(open) => 64 + 3 * (open.prompt.len() + open.answered.len()),
        ExpertOp::Draft {
            tokens, queries, ..
        } => 3 * tokens.len() + 24 * queries.len(),
        ExpertOp::Lead { queries, .. } => 24 * queries.len(),
        ExpertOp::Ask { .. } => 24 + 32,
        ExpertOp::Branch { .. } => 3 + 24,
        ExpertOp::Settle { .. }
        | ExpertOp::Forget { .. }
        | ExpertOp::Truncate { .. }
        | ExpertOp::Close { .. } => 0,
    };
    FRAME_BYTES + tokens
}

/// As `wire` packs them: a step of at most three bytes and a probability of two.
pub(super) fn said_bytes(event: &ExpertEvent) -> usize {
    let said = match event {
        ExpertEvent::Opinions { opinions, .. } => opinions
            .iter()
            .map(|opinion| match &opinion.said {
                Said::List(list) => 9 + 4 * list.entries.len(),
                Said::Scalars(values) => 2 * values.len(),
            })
            .sum(),
        ExpertEvent::Ready { .. } | ExpertEvent::Scored { .. } => 8,
        ExpertEvent::Failed { .. } => 32,
    };
    FRAME_BYTES + said
}

/// What happens next, and to whom.
#[derive(Debug)]
pub(super) enum Happening {
    Act(super::plan::Act),
    /// A second has passed for the node.
    Beat(At, u32),
    Wake(At, u32),
    Arrive {
        from: At,
        to: At,
        epoch: u32,
        letter: Box<Letter>,
    },
    /// The node's own expert has computed something.
    Computed(At, u32, ExpertEvent),
    /// The node hears that its connection to another is over.
    Broken {
        at: At,
        peer: At,
        epoch: u32,
    },
    /// A client wants its text.
    Client(usize),
}
