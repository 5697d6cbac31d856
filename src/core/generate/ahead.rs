//! Guesses sent ahead of the decision: a round trip is paid for every wrong guess, not for every token.
//!
//! ```text
//!   decided | undecided
//!   a b c d |   ?    g1    g2    g3 ...        guesses of the router: its own expert's choice, or a repeat
//!               ▲     ▲     ▲     ▲
//!            opinions come in for all of them; a position is decided when it is its turn
//!     ? = g1: the question about the next position is under way already
//!     ? ≠ g1: every guess is taken back (Truncate, the next epoch), and with it what was said about them
//! ```
//!
//! A guess decides nothing. A token is what the set's opinions about the decided text make it, so the text is
//! the same with guesses and without: an opinion about a position behind wrong guesses is never used.

use super::{Costs, Generate, Output, State};
use crate::aggregate::{Verdict, Voice};
use crate::ids::{Micros, Position, Token};
use crate::limits::REPEAT_TOKENS_MIN;
use crate::opinion::{ExpertOp, List, Opinion, Said};
use crate::team::Standing;
use crate::tempo::Tempo;
use std::collections::VecDeque;

/// How a router guesses ahead of its decisions: it moves the speed of a text and never the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guessing {
    /// Never: a round trip for every token.
    #[default]
    Never,
    /// As many at once as pay, and the next when all of them are decided: to be compared with.
    Blocks,
    /// One after another while opinions come in, as far as it pays.
    Stream,
}

/// What guessing has cost and brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guesses {
    pub right: u32,
    pub wrong: u32,
    /// Questions about positions behind a wrong guess, over all experts.
    pub wasted: u32,
}

#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The first one guesses the undecided token.
    pub(super) guesses: VecDeque<Token>,
    /// Guesses since there were none.
    made: usize,
    /// What was said about positions behind guesses, as it came: at most one of each member and position.
    early: Vec<Early>,
    pub(super) tempo: Tempo,
    pub(super) counts: Guesses,
}

#[derive(Debug)]
pub(super) struct Early {
    pub(super) member: usize,
    pub(super) opinion: Opinion,
    pub(super) costs: Costs,
}

impl Ahead {
    pub(super) fn keep(&mut self, member: usize, opinion: Opinion, costs: Costs) {
        self.early.push(Early {
            member,
            opinion,
            costs,
        });
    }

    /// The first that came of what is there about `here`.
    pub(super) fn take(&mut self, here: Position) -> Option<Early> {
        self.early.retain(|early| early.opinion.position >= here);
        let at = |early: &Early| early.opinion.position == here;
        let first = self.early.iter().position(at)?;
        Some(self.early.remove(first))
    }

    fn list(&self, member: usize, position: Position) -> Option<&List> {
        let mut early = self.early.iter();
        let found = early.find(|e| e.member == member && e.opinion.position == position)?;
        match &found.opinion.said {
            Said::List(list) => Some(list),
            Said::Scalars(_) => None,
        }
    }
}

impl Generate {
    /// Guesses as far as it pays, and asks the set about what would follow.
    pub(super) fn guess_on(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.ahead.guesses.is_empty() {
            self.ahead.made = 0;
        }
        while self.may_guess()
            && let Some(guess) = self.next_guess()
            && !self.vocab.ends_turn(guess)
        {
            self.ahead.guesses.push_back(guess);
            self.ahead.made += 1;
            for i in self.team.group().to_vec() {
                self.put_guesses(i, now, out);
            }
        }
    }

    fn may_guess(&self) -> bool {
        let behind = self.answer.len() + self.ahead.guesses.len() + 1;
        let warm = |i: &usize| self.team.members[*i].standing == Standing::Warm;
        let (tempo, guesses) = (&self.ahead.tempo, self.ahead.guesses.len());
        let has_room = match self.spec.guessing {
            Guessing::Never => false,
            Guessing::Blocks => self.ahead.made < tempo.block(),
            Guessing::Stream => guesses < tempo.window(),
        };
        has_room
            && matches!(self.state, State::Asking(_))
            && self.asked_again == 0
            && behind < self.spec.max_tokens as usize
            && self.spec.prompt.len() + behind < self.spec.context as usize
            && self.team.group().iter().all(warm)
    }

    /// What probably comes at the first position that has no guess; None if nobody can say yet.
    pub(super) fn next_guess(&self) -> Option<Token> {
        let ahead = self.ahead.guesses.len();
        let position = self.position() + ahead as Position;
        let drafter = self.team.group().iter();
        let drafter = drafter.copied().find(|&i| self.team.members[i].local);
        let Some(drafter) = drafter else {
            return repeat(&self.text_ahead());
        };
        let list = match ahead {
            0 => self.list_of(drafter)?,
            _ => self.ahead.list(drafter, position)?,
        };
        let voice = Voice { weight: 1.0, list };
        match self.choose(position, &[voice], 0.0, Some(list)) {
            Verdict::Token(token) => Some(token),
            _ => None,
        }
    }

    fn text_ahead(&self) -> Vec<Token> {
        let guesses = self.ahead.guesses.iter().copied();
        let text = self.spec.prompt.iter().chain(&self.answer).copied();
        text.chain(guesses).collect()
    }

    /// Sends a member, which has been asked about the undecided position, the guesses that it has not got.
    pub(super) fn put_guesses(&mut self, i: usize, now: Micros, out: &mut Vec<Output>) {
        let end = self.answer.len() + self.ahead.guesses.len();
        let from = self.parts[i].asked;
        if from <= self.answer.len() || from > end {
            return;
        }
        let positions = (from..=end).map(|at| (self.spec.prompt.len() + at) as Position);
        let positions: Vec<Position> = positions.collect();
        let queries = positions.iter().map(|&at| self.question(at)).collect();
        self.draft(i, end, queries, out);
        self.parts[i].asked = end + 1;
        for position in positions {
            self.team.members[i].ask(position, now);
        }
    }

    /// A token was decided: the guesses behind it stand or fall with it.
    pub(super) fn settle_guesses(&mut self, token: Token, out: &mut Vec<Output>) {
        match self.ahead.guesses.pop_front() {
            Some(guess) if guess == token => self.ahead.counts.right += 1,
            Some(_) => {
                self.ahead.counts.wrong += 1;
                self.take_back(self.answer.len() - 1, out);
            }
            None => {}
        }
    }

    /// Forgets every guess; of the answer, `keep` tokens stand.
    pub(super) fn take_back(&mut self, keep: usize, out: &mut Vec<Output>) {
        self.ahead.guesses.clear();
        for i in 0..self.parts.len() {
            self.take_back_from(i, keep, out);
        }
    }

    /// One member forgets what it holds beyond `keep` tokens of the answer, and what it was asked.
    pub(super) fn take_back_from(&mut self, i: usize, keep: usize, out: &mut Vec<Output>) {
        let open = !matches!(
            self.team.members[i].standing,
            Standing::Asleep | Standing::Gone(_)
        );
        let part = &mut self.parts[i];
        if !open || part.sent <= keep {
            return;
        }
        self.ahead.counts.wasted += part.asked.saturating_sub(keep + 1) as u32;
        part.epoch += 1;
        part.sent = keep;
        part.asked = keep;
        part.owed = 0;
        let truncate = ExpertOp::Truncate {
            session: self.spec.session,
            epoch: part.epoch,
            position: (self.spec.prompt.len() + keep) as Position,
        };
        out.push(Output::ToExpert(self.team.members[i].expert, truncate));
        self.ahead.early.retain(|early| early.member != i);
        self.team.members[i].forget_questions();
    }
}

/// What followed when the last tokens stood here before: texts quote themselves.
fn repeat(text: &[Token]) -> Option<Token> {
    let start = text.len().checked_sub(REPEAT_TOKENS_MIN)?;
    let end = &text[start..];
    let before = text.get(..text.len() - 1)?;
    let at = before.windows(REPEAT_TOKENS_MIN).rposition(|w| w == end)?;
    text.get(at + REPEAT_TOKENS_MIN).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_itself_is_guessed() {
        assert_eq!(repeat(&[1, 2, 3, 4, 9, 1, 2, 3]), Some(4));
        assert_eq!(
            repeat(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]),
            Some(5),
            "the last time counts"
        );
        assert_eq!(repeat(&[7, 7, 7, 7]), Some(7), "the end may overlap");
        assert_eq!(repeat(&[1, 2, 3]), None);
        assert_eq!(repeat(&[]), None);
        assert_eq!(repeat(&[1, 2, 3, 4, 5, 6, 7]), None);
    }
}
