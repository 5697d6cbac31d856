//! Who answers: a node in this process, or one that is up already.

use super::ask::Ask;
use super::here::Here;
use super::there::There;
use crate::cli::interrupt::Interrupt;
use crate::error::Outcome;
use quorate_core::record::Recording;
use std::time::{Duration, Instant};

pub(super) enum Speaker {
    Here(Box<Here>),
    There(There),
}

/// What was said, and what it cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) text: String,
    pub(super) interrupted: bool,
    /// The context or max_tokens ended it, not the model.
    pub(super) cut: bool,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) prefill_us: u64,
    pub(super) decode_us: u64,
    pub(super) seed: u64,
    pub(super) law: String,
    pub(super) first_token_at: Option<Instant>,
    /// What a mesh answer says of itself.
    pub(super) mesh: Option<serde_json::Value>,
    /// Time until the model was in memory, where this process put it there.
    pub(super) load: Option<Duration>,
}

impl Told {
    /// Takes the next text and hands it on.
    pub(super) fn hear(&mut self, text: &str, on_text: &mut OnText<'_>) -> Outcome {
        if text.is_empty() {
            return Ok(());
        }
        self.first_token_at.get_or_insert_with(Instant::now);
        self.text.push_str(text);
        on_text(text)
    }
}

pub(super) type OnText<'a> = dyn FnMut(&str) -> Outcome + 'a;

impl Speaker {
    /// Returns when the answer is complete, or early when the person interrupts.
    pub(super) fn ask(
        &mut self,
        ask: &Ask,
        interrupt: &Interrupt,
        on_text: &mut OnText<'_>,
    ) -> Outcome<Told> {
        interrupt.clear();
        match self {
            Speaker::Here(here) => here.ask(ask, interrupt, on_text),
            Speaker::There(there) => there.ask(ask, interrupt, on_text),
        }
    }

    /// Of the last answer, if it is recorded and has ended.
    pub(super) fn recording(&mut self) -> Option<Outcome<Recording>> {
        match self {
            Speaker::Here(here) => here.recording().map(Ok),
            Speaker::There(there) => there.recording(),
        }
    }

    pub(super) fn place(&self) -> &'static str {
        match self {
            Speaker::Here(_) => "a node in this process",
            Speaker::There(_) => "the node that is up on this home",
        }
    }
}
