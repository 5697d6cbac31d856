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

use super::branch::Branch;
use super::repeats::Repeats;
use super::{Costs, Generate, Output, State};
use crate::aggregate::{Verdict, Voice};
use crate::ids::{Micros, Position, Token};
use crate::law::Sampler;
use crate::lead;
use crate::limits::GUESSES_MAX;
use crate::opinion::{ExpertOp, Opinion, Said};
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
    /// The same, with the drafter's second choice beside its first where they are close, as far as that pays.
    Branches,
}

/// What guessing has cost and brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guesses {
    pub right: u32,
    pub wrong: u32,
    /// Questions about positions behind a wrong guess, over all experts.
    pub wasted: u32,
    /// Second choices that were sent beside a guess, and those of them that the text went on with: of the wrong
    /// guesses, so many cost no round trip.
    pub branches: u32,
    pub hits: u32,
    /// Of all guesses, those of experts elsewhere that led; and of the wrong ones.
    pub led: u32,
    pub led_wrong: u32,
}

#[derive(Debug)]
pub(super) struct Ahead {
    /// The first one guesses the undecided token.
    pub(super) guesses: VecDeque<Token>,
    /// Guesses since there were none.
    made: usize,
    /// Whose guesses these are.
    drafter: Option<Drafter>,
    /// What was said about positions behind guesses, as it came: at most one of each member and position.
    pub(super) early: Vec<Early>,
    /// They leave the guesses somewhere, so without guesses there are none.
    pub(super) branches: Vec<Branch>,
    /// Before this place of the answer they have left what they may leave.
    pub(super) branched: usize,
    /// Of the text, as far as it was needed.
    repeats: Repeats,
    pub(super) tempo: Tempo,
    pub(super) counts: Guesses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drafter {
    /// The expert of this process: it is asked like the others, one guess after another.
    Own(usize),
    /// An expert elsewhere, which goes on alone: its guesses are its own choices, so nothing but what it
    /// said may be guessed while it leads.
    Leader(usize),
    /// The text itself.
    Repeats,
}

#[derive(Debug)]
pub(super) struct Early {
    pub(super) member: usize,
    pub(super) opinion: Opinion,
    pub(super) costs: Costs,
}

impl Early {
    pub(super) fn new(member: usize, opinion: Opinion, costs: Costs) -> Early {
        Early {
            member,
            opinion,
            costs,
        }
    }
}

impl Ahead {
    pub(super) fn new(members: usize) -> Ahead {
        Ahead {
            guesses: VecDeque::new(),
            made: 0,
            drafter: None,
            early: Vec::new(),
            branches: Vec::new(),
            branched: 0,
            repeats: Repeats::default(),
            tempo: Tempo::new(members),
            counts: Guesses::default(),
        }
    }

    pub(super) fn keep(&mut self, member: usize, opinion: Opinion, costs: Costs) {
        self.early.push(Early::new(member, opinion, costs));
    }

    /// The first that came of what is there about `here`.
    pub(super) fn take(&mut self, here: Position) -> Option<Early> {
        self.early.retain(|early| early.opinion.position >= here);
        let at = |early: &Early| early.opinion.position == here;
        let first = self.early.iter().position(at)?;
        Some(self.early.remove(first))
    }

    /// How much of it is kept.
    #[cfg(test)]
    pub(super) fn early(&self) -> usize {
        self.early.len() + self.branches.iter().map(Branch::early).sum::<usize>()
    }

    /// The response has ended: nothing is guessed or kept any more.
    pub(super) fn end(&mut self) {
        self.guesses = VecDeque::new();
        self.early = Vec::new();
        self.branches = Vec::new();
        self.repeats = Repeats::default();
    }

    fn said(&self, member: usize, position: Position) -> Option<&Said> {
        let mut early = self.early.iter();
        let found = early.find(|e| e.member == member && e.opinion.position == position)?;
        Some(&found.opinion.said)
    }
}

impl Generate {
    /// Guesses as far as it pays, and asks the set about what would follow.
    pub(super) fn guess_on(&mut self, now: Micros, out: &mut Vec<Output>) {
        if !self.may_guess() {
            return;
        }
        if self.ahead.guesses.is_empty() {
            self.ahead.made = 0;
            self.ahead.drafter = self.ahead.drafter.or_else(|| self.pick_drafter());
        }
        let Some(drafter) = self.ahead.drafter else {
            return;
        };
        self.lead_on(drafter, now, out);
        let mut is_new = false;
        while self.has_room(drafter)
            && let Some(guess) = self.next_guess(drafter)
            && !self.vocab.ends_turn(guess)
        {
            self.ahead.guesses.push_back(guess);
            self.ahead.made += 1;
            is_new = true;
        }
        // All in one message: an expert elsewhere counts them.
        for i in self.team.group().to_vec() {
            if is_new {
                self.put_guesses(i, now, out);
            }
        }
        if let Drafter::Own(own) = drafter {
            self.branch_off(own, now, out);
            self.grow_branches(own, now, out);
        }
    }

    fn may_guess(&self) -> bool {
        let warm = |i: &usize| self.team.members[*i].standing == Standing::Warm;
        self.spec.guessing != Guessing::Never
            && !self.spec.grammar
            && !self.team.is_choosing()
            && matches!(self.state, State::Asking(_))
            && self.asked_again == 0
            && !self.ahead.tempo.rests()
            && self.team.group().iter().all(warm)
    }

    /// Is the place behind `at` of the answer one that will be asked about?
    pub(super) fn is_inside(&self, at: usize) -> bool {
        let position = self.spec.prompt.len() + at + 1;
        at + 1 < self.spec.max_tokens as usize
            && self.has_room_for(at + 1)
            && position < self.spec.context as usize
            && position < self.team.turn_at() as usize
    }

    fn has_room(&self, drafter: Drafter) -> bool {
        let (tempo, guesses) = (&self.ahead.tempo, self.ahead.guesses.len());
        let has_room = match self.spec.guessing {
            Guessing::Never => false,
            Guessing::Blocks => self.ahead.made < tempo.block(self.name(drafter)),
            Guessing::Stream | Guessing::Branches => guesses < self.window(drafter),
        };
        has_room && self.is_inside(self.answer.len() + guesses)
    }

    /// Who decides alone is always right; the text that repeats itself is not.
    fn window(&self, drafter: Drafter) -> usize {
        match (self.team.group().len(), drafter) {
            (1, Drafter::Own(_) | Drafter::Leader(_)) => GUESSES_MAX,
            _ => self.ahead.tempo.window(self.name(drafter)),
        }
    }

    fn name(&self, drafter: Drafter) -> usize {
        match drafter {
            Drafter::Own(i) | Drafter::Leader(i) => i,
            Drafter::Repeats => self.ahead.tempo.repeats(),
        }
    }

    /// Experts elsewhere may lead where they have the keys of the draw, or there is none.
    fn may_lead(&self) -> bool {
        let law = &self.spec.law;
        let open = matches!(law.sampler, Sampler::Seeded | Sampler::Greedy);
        let goes_on = matches!(self.spec.guessing, Guessing::Stream | Guessing::Branches);
        open && law.robust.is_none() && goes_on
    }

    /// Those of the set that may guess: where there are none, the text does.
    fn drafters(&self) -> impl Iterator<Item = usize> + '_ {
        let lead = self.may_lead();
        let group = self.team.group().iter().copied();
        group.filter(move |&i| lead || self.team.members[i].local)
    }

    /// With nothing under way: who guesses from here on.
    fn pick_drafter(&mut self) -> Option<Drafter> {
        let alone = self.team.group().len() == 1;
        let fit = self.drafters();
        let mut fit: Vec<(usize, bool)> = fit.map(|i| (i, alone)).collect();
        if fit.is_empty() {
            fit.push((self.ahead.tempo.repeats(), false));
        }
        let who = self.ahead.tempo.pick(fit.into_iter())?;
        Some(match self.team.members.get(who) {
            None => Drafter::Repeats,
            Some(member) if member.local => Drafter::Own(who),
            Some(_) => Drafter::Leader(who),
        })
    }

    /// Tells a leader to go on, long before it stands still.
    fn lead_on(&mut self, drafter: Drafter, now: Micros, out: &mut Vec<Output>) {
        let Drafter::Leader(i) = drafter else { return };
        let (here, from) = (self.answer.len(), self.parts[i].asked);
        let window = self.window(drafter);
        if from <= here || from - here > window / 2 + 1 {
            return;
        }
        let end = (from..=here + window)
            .take_while(|at| self.is_inside(at - 1))
            .count()
            + from;
        if end == from {
            return;
        }
        let positions = (from..end).map(|at| (self.spec.prompt.len() + at) as Position);
        let positions: Vec<Position> = positions.collect();
        let lead = ExpertOp::Lead {
            session: self.spec.session,
            epoch: self.parts[i].epoch,
            position: positions[0] - 1,
            queries: positions.iter().map(|&at| self.question(at)).collect(),
        };
        out.push(Output::ToExpert(self.team.members[i].expert, lead));
        (self.parts[i].asked, self.parts[i].sent) = (end, end - 1);
        for position in positions {
            self.team.members[i].lead(position, now);
        }
    }

    /// What probably comes at the first position that has no guess; None if the drafter has not said.
    fn next_guess(&self, drafter: Drafter) -> Option<Token> {
        let ahead = self.ahead.guesses.len();
        let position = self.position() + ahead as Position;
        let said = |i: usize| self.said_ahead(i, position);
        match drafter {
            Drafter::Repeats => self.ahead.repeats.guess(self.ahead.guesses.iter().copied()),
            Drafter::Leader(i) => lead::choice(&self.question(position), said(i)?),
            Drafter::Own(i) => self.chosen_alone(position, said(i)?),
        }
    }

    /// What a member said about the undecided position or one behind guesses.
    pub(super) fn said_ahead(&self, i: usize, position: Position) -> Option<&Said> {
        if position == self.position() {
            return self.parts[i].opinion.as_ref().map(|opinion| &opinion.said);
        }
        self.ahead.said(i, position)
    }

    /// What this law makes of one expert's list.
    pub(super) fn chosen_alone(&self, position: Position, said: &Said) -> Option<Token> {
        let Said::List(list) = said else { return None };
        let voice = Voice { weight: 1.0, list };
        match self.choose(position, &[voice], 0.0, Some(list)) {
            Verdict::Token(token) => Some(token),
            _ => None,
        }
    }

    /// How often everybody would have guessed right, and how long a token takes without guesses.
    pub(super) fn measure_tempo(&mut self, now: Micros, token: Token) {
        if self.spec.guessing == Guessing::Never || self.first_question.is_none() {
            return;
        }
        let drafters: Vec<usize> = self.drafters().collect();
        if drafters.is_empty() {
            self.measure_repeats(token);
        }
        for i in drafters {
            let opinion = self.parts[i].opinion.as_ref();
            let choice = opinion.and_then(|o| self.chosen_alone(self.position(), &o.said));
            if let Some(choice) = choice {
                self.ahead.tempo.compared(i, choice == token);
            }
        }
        self.measure_stream();
        let trip_us = self.calmly_asked.map(|asked| now.since(asked));
        self.ahead.tempo.decided(now, trip_us);
    }

    /// What this process's own drafter took for the undecided position, and everybody else.
    fn measure_stream(&mut self) {
        let Some(Drafter::Own(own)) = self.ahead.drafter else {
            return;
        };
        let took = |i: usize| {
            let is_heard = self.parts[i].opinion.is_some();
            is_heard.then_some(self.parts[i].costs.us)
        };
        let others = self.set.iter().filter(|&&i| i != own);
        let trip_us = others.filter_map(|&i| took(i)).max();
        if let (Some(step_us), Some(trip_us)) = (took(own), trip_us) {
            self.ahead.tempo.streamed(own, step_us, trip_us);
        }
    }

    /// What the text would have guessed; then it is one token longer.
    fn measure_repeats(&mut self, token: Token) {
        let Ahead { repeats, tempo, .. } = &mut self.ahead;
        let text = self.spec.prompt.iter().chain(&self.answer).copied();
        repeats.read(text.skip(repeats.known()));
        if let Some(guess) = repeats.guess(std::iter::empty()) {
            tempo.compared(tempo.repeats(), guess == token);
        }
        repeats.read(std::iter::once(token));
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
    pub(super) fn settle_guesses(&mut self, token: Token, now: Micros, out: &mut Vec<Output>) {
        match self.ahead.guesses.pop_front() {
            Some(guess) if guess == token => {
                self.count(true);
                self.forget_branches_here(out);
            }
            Some(_) => {
                self.count(false);
                let is_branch = self.settle(now, out);
                self.ahead.tempo.was_wrong(is_branch);
                if !is_branch {
                    self.take_back(self.answer.len() - 1, out);
                }
            }
            None if self.was_led_to(token) && !self.ahead.tempo.rests() => {
                self.count(true);
            }
            // A leader whose choice is not known yet may have gone on from another token; and a stream ends here.
            None => self.take_back(self.answer.len() - 1, out),
        }
    }

    fn count(&mut self, is_right: bool) {
        let is_led = matches!(self.ahead.drafter, Some(Drafter::Leader(_)));
        let counts = &mut self.ahead.counts;
        counts.led += u32::from(is_led);
        if is_right {
            counts.right += 1;
        } else {
            counts.wrong += 1;
            counts.led_wrong += u32::from(is_led);
        }
    }

    /// The token that was decided last is the one that the leader went on from.
    fn was_led_to(&self, token: Token) -> bool {
        let Some(Drafter::Leader(i)) = self.ahead.drafter else {
            return false;
        };
        let said = self.parts[i].opinion.as_ref();
        let chosen = said.and_then(|o| lead::choice(&self.question(o.position), &o.said));
        chosen == Some(token)
    }

    /// Forgets every guess; of the answer, `keep` tokens stand.
    pub(super) fn take_back(&mut self, keep: usize, out: &mut Vec<Output>) {
        self.ahead.guesses.clear();
        self.ahead.drafter = None;
        self.ahead.branched = keep;
        self.drop_branches();
        for i in 0..self.parts.len() {
            self.take_back_from(i, keep, out);
        }
    }

    /// One member forgets what it holds beyond `keep` tokens of the answer, and what it was asked.
    pub(super) fn take_back_from(&mut self, i: usize, keep: usize, out: &mut Vec<Output>) {
        // Also one that is gone: nobody is led by it any more.
        if matches!(self.ahead.drafter, Some(Drafter::Own(at) | Drafter::Leader(at)) if at == i) {
            self.ahead.drafter = None;
        }
        let open = !matches!(
            self.team.members[i].standing,
            Standing::Asleep | Standing::Gone(_)
        );
        let part = &mut self.parts[i];
        if !open || part.sent <= keep {
            return;
        }
        self.ahead.counts.wasted += part.asked.saturating_sub(keep + 1) as u32;
        part.epoch = part.next_epoch();
        part.catches_up = false;
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
