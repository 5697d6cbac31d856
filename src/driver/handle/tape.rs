//! A recording of one generation, made where its events pass: whoever asks and whoever listens need
//! not know of it.

use super::Node;
use quorate_core::generate::{Event, Spec};
use quorate_core::ids::ExpertId;
use quorate_core::record::{Recorder, Recording};
use quorate_core::vocab::Vocab;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds what the last generation of its handle was a function of. Clones hold the same.
#[derive(Clone, Default)]
pub struct Tape(Arc<Mutex<Option<Recorder>>>);

impl Tape {
    pub(super) fn begin(&self, spec: &Spec, local: ExpertId, vocab: &Arc<Vocab>) {
        *self.recorder() = Some(Recorder::new(spec, Some(local), vocab.clone()));
    }

    pub(super) fn hear(&self, event: &Event) {
        if let Some(recorder) = self.recorder().as_mut() {
            recorder.hear(event);
        }
    }

    /// The recording, once; None until the generation has ended.
    pub fn take(&self) -> Option<Recording> {
        self.recorder().take().and_then(Recorder::finish)
    }

    fn recorder(&self) -> MutexGuard<'_, Option<Recorder>> {
        // A recorder has no state between two events that a panic could leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// The same node; what this handle generates is recorded, one generation at a time.
    #[must_use]
    pub fn recorded(&self) -> (Node, Tape) {
        let tape = Tape::default();
        let node = Node {
            tape: Some(tape.clone()),
            ..self.clone()
        };
        (node, tape)
    }
}
