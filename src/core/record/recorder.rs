//! Gathers a recording from what a request's owner hears anyway.

use super::{Recording, pieces};
use crate::generate::{Event, Spec};
use crate::ids::ExpertId;
use crate::vocab::Vocab;
use std::sync::Arc;

#[derive(Debug)]
pub struct Recorder {
    recording: Recording,
    vocab: Arc<Vocab>,
    ended: bool,
}

impl Recorder {
    /// `local` is the router's own expert. The request must have [`crate::generate::Notes::record`].
    pub fn new(spec: &Spec, local: Option<ExpertId>, vocab: Arc<Vocab>) -> Recorder {
        let recording = Recording {
            prompt: spec.prompt.clone(),
            law: spec.law.clone(),
            secret: spec.secret.to_bytes(),
            max_tokens: spec.max_tokens,
            stop: spec.stop.clone(),
            context: spec.context,
            grammar: spec.grammar,
            logprobs: spec.logprobs.is_some(),
            local,
            schedule: Vec::new(),
            decided: Vec::new(),
            vocabulary: vocab.len(),
            pieces: Vec::new(),
            text: String::new(),
        };
        Recorder {
            recording,
            vocab,
            ended: false,
        }
    }

    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Ready { .. } => {}
            Event::Decided(decided) => self.recording.decided.push((**decided).clone()),
            Event::Token(token) => self.recording.text += &token.text,
            Event::Finished { text, schedule, .. } => {
                self.recording.text += text;
                self.recording.schedule.clone_from(schedule);
                self.ended = true;
            }
        }
    }

    /// None while the response has not ended: its schedule comes with its end.
    pub fn finish(mut self) -> Option<Recording> {
        self.recording.pieces = pieces(&self.vocab, &self.recording.decided);
        self.ended.then_some(self.recording)
    }
}
