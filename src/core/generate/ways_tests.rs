//! How experts of a made-up network behave, and misbehave.

use super::tests::VOCAB;
use crate::ids::Position;
use crate::limits::BRANCHES_MAX;
use crate::opinion::ExpertEvent;

/// How one expert's machine and link behave.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    /// One way, drawn anew for every message from this range.
    pub(super) delay_us: (u64, u64),
    /// From this moment on nothing comes back, and nobody says so.
    pub(super) silent_from: u64,
    /// Until it answers again.
    pub(super) silent_until: u64,
    /// From this moment on its connection is known to be gone.
    pub(super) gone_at: u64,
    /// It answers every question with this instead.
    pub(super) instead: Option<ExpertEvent>,
    /// How much it believes what all the others do.
    pub(super) common: f32,
    /// Whose beliefs it has, if not its own.
    pub(super) believes: Option<u8>,
    /// Tokens before a position that it remembers, and words that it knows.
    pub(super) remembers: usize,
    pub(super) words: u32,
    /// Chance, in percent, that a message is lost: it comes a round trip and a half later, and what was said
    /// after it waits for it.
    pub(super) loss: u64,
    /// From this moment on it knows nothing of a session.
    pub(super) restarts_at: u64,
    /// What it takes to read the text, and for every answer, one after another.
    pub(super) read_us: u64,
    pub(super) step_us: u64,
    /// What waits takes no longer together than one answer does.
    pub(super) batches: bool,
    /// Branches that it keeps.
    pub(super) keeps: u8,
    /// What it says later may come earlier.
    pub(super) overtakes: bool,
    /// What it can say at once comes in one message.
    pub(super) bundles: bool,
    pub(super) mischief: Mischief,
}

/// What an expert does that no honest one does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mischief {
    /// Says everything twice.
    pub(super) twice: bool,
    /// About every third position it says what another expert would.
    pub(super) false_lists: bool,
    /// Also speaks of positions that nobody asked it about.
    pub(super) unasked: bool,
    /// Claims to compute longer than it does.
    pub(super) boasts: bool,
    /// Says that it was sure of every token, once it knows it.
    pub(super) knew_it_all: bool,
    /// From this position on it is sure of what it believes least.
    pub(super) injects_from: Option<Position>,
    /// Has lost every branch: says nothing about them, also not once one is the text.
    pub(super) loses_branches: bool,
}

pub(super) const CALM: Ways = Ways {
    delay_us: (1_000, 5_000),
    silent_from: u64::MAX,
    silent_until: u64::MAX,
    gone_at: u64::MAX,
    instead: None,
    common: 0.0,
    believes: None,
    remembers: usize::MAX,
    words: VOCAB,
    loss: 0,
    restarts_at: u64::MAX,
    read_us: 0,
    step_us: 0,
    batches: false,
    keeps: BRANCHES_MAX as u8,
    overtakes: false,
    bundles: false,
    mischief: Mischief {
        twice: false,
        false_lists: false,
        unasked: false,
        boasts: false,
        knew_it_all: false,
        injects_from: None,
        loses_branches: false,
    },
};

/// A round trip of 150 ms, to one who believes much of what all others do.
pub(super) const FAR: Ways = Ways {
    delay_us: (70_000, 80_000),
    common: 0.9,
    ..CALM
};
