//! A client that reads more slowly than its experts decide is waited for: nothing is decided or guessed that it
//! has no room for, and one that reads nothing at all is cut off.

use super::{Finish, Generate, Output, State};
use crate::ids::Micros;
use crate::limits::{UNREAD_TOKENS_MAX, UNREAD_US_MAX};

pub(super) fn gives_up_at(since: Micros) -> Micros {
    Micros(since.0.saturating_add(UNREAD_US_MAX))
}

impl Generate {
    /// Has it all the unread tokens that it may have?
    pub(super) fn is_ahead_of_client(&self) -> bool {
        !self.has_room_for(self.answer.len())
    }

    /// May the token at place `at` of the answer be decided, as far as the client has read?
    pub(super) fn has_room_for(&self, at: usize) -> bool {
        !self.spec.paced || at < (self.read + UNREAD_TOKENS_MAX) as usize
    }

    pub(super) fn on_read(&mut self, tokens: u32, now: Micros, out: &mut Vec<Output>) {
        self.read = self.read.saturating_add(tokens).min(self.generated());
        if let State::Unread(committed, since) = self.state
            && !self.is_ahead_of_client()
        {
            self.ahead.tempo.waited(now.since(since));
            self.take_position(committed, now, out);
        }
    }

    /// The client had its time.
    pub(super) fn give_up_client(&mut self, now: Micros, out: &mut Vec<Output>) {
        let seconds = UNREAD_US_MAX / 1_000_000;
        let why = format!("the client has read nothing for {seconds} s");
        self.finish(Finish::Failed(why), now, out);
    }
}
