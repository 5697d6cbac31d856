//! What nodes say of experts (decision 0017), between members: asked for after each question who is there, once for
//! every connection and then of one neighbour a minute. It changes once a day, so nobody pushes it.

use super::records::Flight;
use super::task::Task;
use quorate_core::ids::PeerKey;
use quorate_core::limits::SYNC_PAGES_MAX;
use quorate_core::mesh::sync::{self, Answer, Heard, Question};
use quorate_core::weights::{Gates, Voice, day};
use std::sync::MutexGuard;

impl Task {
    fn gates(&self) -> Option<MutexGuard<'_, Gates>> {
        let gates = self.settings.gates.as_ref()?;
        Some(gates.lock().expect("nobody panics with it"))
    }

    pub(super) fn told_of_experts(&self, heard: &[Heard]) -> Answer {
        match self.gates() {
            Some(gates) => sync::voices(gates.telling(), heard),
            None => Answer::Refused,
        }
    }

    pub(super) fn ask_of_experts(&mut self, key: &PeerKey, pages: u32) {
        let heard = self.gates().map(|gates| gates.heard());
        let asked = heard
            .is_some_and(|heard| self.ask(key, Question::Voices(heard), Flight::Voices { pages }));
        self.goes_on(key, asked);
    }

    pub(super) fn hear_of_experts(&mut self, key: &PeerKey, pages: u32, answer: &Answer) {
        let Answer::Some { items, more } = answer else {
            return self.goes_on(key, false);
        };
        let today = day(self.unix_s());
        let mut is_news = false;
        for voice in items.iter().filter_map(|item| Voice::decode(item).ok()) {
            let is_member = self.book.is_member(&voice.node);
            let gates = self.gates().filter(|_| is_member);
            is_news |= gates.is_some_and(|mut gates| gates.hear(voice, today).is_ok());
        }
        // What is no news to us would come again.
        match *more && is_news && pages < SYNC_PAGES_MAX {
            true => self.ask_of_experts(key, pages + 1),
            false => self.goes_on(key, false),
        }
    }
}
