//! Real experts on one model: each has a private prefix or an adapter, so each expects something else.

use super::panel::Ask;
use super::{BenchError, Result};
use crate::expert::llama::{LoadRequest, load};
use crate::expert::{EventSender, Expert};
use quorate_core::chat::Segment;
use quorate_core::ids::{ExpertId, Token};
use quorate_core::opinion::{ExpertEvent, ExpertOp, FromExpert};
use quorate_core::vocab::Vocab;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Who they are told to be.
pub(super) const PREFIXES: [&str; 4] = [
    "You are an old sea captain. You speak of storms, ships, ropes and tides, in short rough \
     sentences, and you trust nobody who was born far from the sea.\n\n",
    "You are a professor of mathematics. You define every word before you use it, and you prove \
     what you say: Theorem. Let n be a natural number. Proof. By induction on n.\n\n",
    "fn main() { let items: Vec<u32> = (0..10).collect(); for item in &items { \
     println!(\"{item}\"); } } // You are a compiler: you answer in source code only.\n\n",
    "Du bist ein deutscher Koch und sprichst von Butter, Mehl, Zwiebeln und langen Abenden in \
     einer warmen Küche. Rezept: Zuerst die Zwiebeln in Butter anbraten.\n\n",
];
/// Tokens of a session here: a prefix, a prompt and an answer.
pub(super) const CONTEXT: u32 = 1024;

/// What the texts begin with.
pub(super) const PROMPTS: [&str; 6] = [
    "Once upon a time, in a village by the sea, there lived an old fisherman who",
    "The capital of France is",
    "To sort a list of numbers, you first",
    "User: How do I make a good soup?\nAssistant:",
    "In the year 1905, Albert Einstein",
    "My favourite memory of my grandmother is",
];

pub(super) struct Real {
    experts: BTreeMap<ExpertId, Arc<dyn Expert>>,
    events: mpsc::Receiver<FromExpert>,
}

/// How the experts of a text are called: from 1 on.
pub(super) fn named(name: u8) -> ExpertId {
    ExpertId([name; 32])
}

/// The same expert under this name, with room for one text.
pub(super) fn in_short(known: LoadRequest, id: ExpertId) -> LoadRequest {
    LoadRequest {
        id,
        context: known.context.min(CONTEXT),
        cells: known.cells.min(CONTEXT),
        ..known
    }
}

/// The same model with a private prefix, said so many times.
pub(super) fn prefixed(plain: LoadRequest, prefix: usize, times: usize) -> LoadRequest {
    LoadRequest {
        prefix: PREFIXES[prefix].repeat(times),
        ..plain
    }
}

impl Real {
    /// So many experts, each as it is made.
    pub(super) fn load(
        count: usize,
        make: &dyn Fn(usize, EventSender) -> std::result::Result<LoadRequest, String>,
    ) -> Result<Real> {
        let (events_tx, events) = mpsc::channel(64);
        let mut experts = BTreeMap::new();
        for (at, name) in (0..count).zip(1u8..) {
            let made = make(at, events_tx.clone());
            let made = made.map_err(|why| BenchError::new("the model", why))?;
            let id = named(name);
            experts.insert(id, load(in_short(made, id))?);
        }
        Ok(Real { experts, events })
    }

    pub(super) fn ids(&self) -> Vec<ExpertId> {
        self.experts.keys().copied().collect()
    }

    fn any(&self) -> Result<&Arc<dyn Expert>> {
        let first = self.experts.values().next();
        first.ok_or_else(|| BenchError::new("the model", "no expert is loaded"))
    }

    pub(super) fn vocab(&self) -> Result<Arc<Vocab>> {
        Ok(self.any()?.facts().vocab.clone())
    }

    pub(super) fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        let tokens = self.any()?.tokenize(&[Segment::Text(text.into())], true);
        tokens.map_err(|error| BenchError::new("tokenising", error))
    }

    pub(super) fn asker(&mut self) -> Box<Ask<'_>> {
        Box::new(|expert, op| {
            let asks = match &op {
                ExpertOp::Draft { queries, .. } => !queries.is_empty(),
                ExpertOp::Ask { .. } => true,
                _ => false,
            };
            let known = self.experts.get(&expert);
            let known = known.ok_or_else(|| BenchError::new("deciding", "an unknown expert"))?;
            let sent = known.submit(op);
            sent.map_err(|error| BenchError::new("deciding", error))?;
            if !asks {
                return Ok(None);
            }
            loop {
                let from = self.events.blocking_recv();
                let from = from.ok_or_else(|| BenchError::new("deciding", "the engine is gone"))?;
                match from.event {
                    ExpertEvent::Failed { why, .. } => {
                        return Err(BenchError::new("deciding", why));
                    }
                    event @ ExpertEvent::Opinions { .. } if from.expert == expert => {
                        return Ok(Some(event));
                    }
                    _ => {}
                }
            }
        })
    }
}
