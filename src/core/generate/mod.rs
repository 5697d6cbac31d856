//! One request's token loop: ask, decide, commit, until the text ends.
//!
//! The loop holds a team of experts. With one it is a local assistant, with K it is the mesh: there
//! is no other path. Everything it does is a function of its inputs; what it wants done goes to the
//! outbox.
//!
//! ```text
//!            Open, Draft                 Opinions (enough)         undecided: Ask
//!  start ────────────────▶ Asking ───────────────────▶ decide ──────────────────▶ Asking again
//!     │ grammar               ▲ ▲ late or gone: another  │
//!     └──▶ Masking ───────────┘ └─ expert, same position │
//!            (one token allowed:  ◀──── next position ───┤ token
//!             no question)          ▲                    └──▶ Done (Close, Finished)
//!                                   └─ Unread, while the client has too much left to read
//! ```

mod ahead;
mod ask;
mod branch;
mod claims;
mod decide;
mod provenance;
mod reader;
mod repeats;
mod talk;

pub use ahead::{Guesses, Guessing};
pub(crate) use claims::lower;
pub use provenance::{Decided, Evidence, Listed, Provenance, Voted, Weighed};
pub use talk::{Event, Finish, Input, MaskAnswer, Notes, Output, TokenEvent, Trouble};

use crate::ids::{ExpertId, Micros, Position, SessionId, Token};
use crate::law::{Law, Sampler};
use crate::limits::{STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX};
use crate::lnp::LnP;
use crate::opinion::{ExpertEvent, ExpertOp, FromExpert, Opinion, Query, Scope};
use crate::seeded::Secret;
use crate::team::{BadPlan, Plan, Schedule, Sets, Standing, Team};
use crate::text::Text;
use crate::vocab::Vocab;
use std::sync::Arc;

/// Everything a response is a function of, but the experts' opinions.
#[derive(Clone, Debug)]
pub struct Spec {
    pub session: SessionId,
    pub scope: Scope,
    pub prompt: Vec<Token>,
    pub law: Law,
    pub secret: Secret,
    pub max_tokens: u32,
    pub stop: Vec<String>,
    /// Log-probabilities wanted, with this many alternatives.
    pub logprobs: Option<u8>,
    /// A grammar outside answers `NeedMask` at every position.
    pub grammar: bool,
    /// Tokens that the smallest context among the experts holds.
    pub context: u32,
    pub guessing: Guessing,
    /// Its client says what it has read ([`Input::Read`]), and is waited for.
    pub paced: bool,
    pub notes: Notes,
}

/// What is held of one member of the team.
#[derive(Debug, Default)]
struct Part {
    /// Tokens that it was sent of the answer and of what is guessed to follow.
    sent: usize,
    /// It was asked about everything before this place of the answer.
    asked: usize,
    /// What it says in any other is about a branch, or guesses that were taken back.
    epoch: u32,
    /// The last one that it was told of.
    newest: u32,
    /// Branches that it keeps.
    branches: u8,
    /// Questions about this position that it has not answered: answers come in the order of the
    /// questions, and only the last one's counts.
    owed: u32,
    /// Its list at the undecided position.
    opinion: Option<Opinion>,
    /// Its exact values of the contenders.
    exact: Option<Vec<LnP>>,
    /// Its place among the answers about the undecided position.
    arrival: u32,
    /// It is asked what it thinks of tokens that it read outside the set.
    catches_up: bool,
    /// The most that it can say of the token before the undecided position.
    ceiling: Option<LnP>,
    /// The position about which it was heard last: a second list about it is no second sign.
    weighed: Option<Position>,
    costs: Costs,
}

impl Part {
    fn next_epoch(&mut self) -> u32 {
        self.newest += 1;
        self.newest
    }
}

/// What its last answer took.
#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    us: u64,
    compute_us: u64,
    bytes: u32,
    /// Opinions that came with it.
    together: usize,
}

impl Costs {
    fn said(compute_us: u64, bytes: u32) -> Costs {
        Costs {
            us: 0,
            compute_us,
            bytes,
            together: 1,
        }
    }

    /// How long its expert takes for one position after another. Several at once take less than that,
    /// so they do not say.
    fn step_us(self, answered_us: u64, local: bool) -> Option<u64> {
        match (local, self.together) {
            (true, _) => Some(answered_us),
            (false, 1) => Some(self.compute_us.min(answered_us)),
            (false, _) => None,
        }
    }

    /// It came so long after the question.
    fn took(self, us: u64) -> Costs {
        Costs {
            us,
            compute_us: self.compute_us.min(us),
            ..self
        }
    }

    /// One of `count` opinions in a message.
    fn shared(self, count: usize) -> Costs {
        let count = count.max(1);
        Costs {
            us: self.us,
            compute_us: self.compute_us / count as u64,
            bytes: self.bytes / count as u32,
            together: count,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Waiting for the grammar.
    Masking,
    /// Waiting for lists.
    Asking(Query),
    /// Waiting for exact values of these tokens.
    Contending(Query, Vec<Token>),
    /// Waiting for the client, since then; the token was decided last.
    Unread(Option<Token>, Micros),
    Done,
}

#[derive(Debug)]
pub struct Generate {
    spec: Spec,
    vocab: Arc<Vocab>,
    team: Team,
    /// One for each member of the team, in the same order.
    parts: Vec<Part>,
    state: State,
    text: Text,
    /// What was decided.
    answer: Vec<Token>,
    /// Tokens of it that the client has read.
    read: u32,
    /// The first question about the undecided position: whoever joins is asked the same.
    first_question: Option<Query>,
    /// Second questions at this position so far.
    asked_again: u32,
    /// When the undecided position was asked about, if nothing was under way then.
    calmly_asked: Option<Micros>,
    ahead: ahead::Ahead,
    /// Answers about this position so far.
    arrivals: u32,
    /// Those whose answers decide it, once that is known.
    set: Vec<usize>,
    log: provenance::Log,
    started: Micros,
    first_ready: bool,
    queued_us: u64,
    decoding_since: Micros,
}

impl Generate {
    pub fn new(
        spec: Spec,
        vocab: Arc<Vocab>,
        plan: Plan,
        queued_us: u64,
        now: Micros,
    ) -> Result<Generate, BadPlan> {
        let takes_turns = matches!(plan.sets, Sets::Turns { .. });
        let draws = spec.law.sampler == Sampler::Seeded && spec.law.robust.is_none();
        if takes_turns && (!draws || spec.grammar) {
            return Err(BadPlan::Turns);
        }
        let weighing = spec.law.weights;
        let together = plan.sets == Sets::A && spec.law.robust.is_none();
        if weighing.follows() && (!together || spec.grammar) {
            return Err(BadPlan::Follow);
        }
        let from = spec.prompt.len() as Position;
        let mut team = Team::new(plan, weighing, from, &spec.secret)?;
        team.least = spec.law.voices_needed();
        let ahead = ahead::Ahead::new(team.members.len());
        let stops = spec
            .stop
            .iter()
            .take(STOP_STRINGS_MAX)
            .filter(|s| s.len() <= STOP_STRING_BYTES_MAX);
        Ok(Generate {
            text: Text::new(&stops.cloned().collect::<Vec<_>>()),
            vocab,
            parts: team.members.iter().map(|_| Part::default()).collect(),
            team,
            state: State::Masking,
            answer: Vec::new(),
            read: 0,
            first_question: None,
            asked_again: 0,
            calmly_asked: None,
            ahead,
            arrivals: 0,
            set: Vec::new(),
            log: provenance::Log::new(spec.notes),
            started: now,
            first_ready: false,
            queued_us,
            decoding_since: now,
            spec,
        })
    }

    pub fn session(&self) -> SessionId {
        self.spec.session
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub fn generated(&self) -> u32 {
        self.answer.len() as u32
    }

    /// Who decides, so far.
    pub fn schedule(&self) -> &Schedule {
        self.team.schedule()
    }

    /// When to say [`Input::Tick`], if nothing else comes before.
    pub fn wake_at(&self) -> Option<Micros> {
        match self.state {
            State::Asking(_) | State::Contending(..) => self.team.wake_at(self.position()),
            State::Unread(_, since) => Some(reader::gives_up_at(since)),
            State::Masking | State::Done => None,
        }
    }

    /// Opens the sessions; prefill runs while the grammar is still thinking.
    pub fn start(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.team.begin(self.position());
        for i in self.team.group().to_vec() {
            self.open(i, out);
            self.team.asked_for_scores(i, self.position(), now);
        }
        if self.spec.max_tokens == 0 {
            return self.finish(Finish::Length, now, out);
        }
        self.next_position(None, now, out);
    }

    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        if self.is_done() {
            return; // late opinions of a finished response
        }
        match input {
            Input::FromExpert(from) => self.on_expert(now, from, out),
            Input::Lost { expert, why } => {
                if let Some(i) = self.team.at(expert) {
                    self.lose(i, Trouble::Gone(why), now, out);
                }
            }
            Input::Mask(answer) => self.on_mask(now, answer, out),
            Input::Read(tokens) => self.on_read(tokens, now, out),
            Input::Tick => self.on_tick(now, out),
            Input::Cancel => self.finish(Finish::Cancelled, now, out),
            Input::Abort(why) => self.finish(Finish::Failed(why), now, out),
        }
        self.take_early(now, out);
        self.guess_on(now, out);
    }

    fn on_expert(&mut self, now: Micros, from: FromExpert, out: &mut Vec<Output>) {
        let Some(i) = self.team.at(from.expert) else {
            return;
        };
        if matches!(self.team.members[i].standing, Standing::Gone(_)) {
            return; // gone is for good: what it still says decides nothing
        }
        self.team.heard(i, now);
        match from.event {
            ExpertEvent::Ready {
                reused,
                prefill_us,
                branches,
                ..
            } => {
                self.team.read(i);
                self.parts[i].branches = branches;
                self.on_ready(now, reused, prefill_us, out);
            }
            ExpertEvent::Scored { ln_p, .. } => self.on_scores(i, &ln_p, now, out),
            ExpertEvent::Opinions {
                epoch,
                opinions,
                compute_us,
                bytes,
                ..
            } => {
                let costs = Costs::said(compute_us, bytes);
                match epoch == self.parts[i].epoch {
                    true => self.on_opinions(i, opinions, costs, now, out),
                    false => self.on_branch(i, epoch, opinions, costs, now),
                }
            }
            ExpertEvent::Failed { why, .. } => self.lose(i, Trouble::of(why), now, out),
        }
    }

    fn on_ready(&mut self, now: Micros, reused: u32, prefill_us: u64, out: &mut Vec<Output>) {
        if self.first_ready {
            return;
        }
        self.first_ready = true;
        self.decoding_since = now;
        let prompt_tokens = self.spec.prompt.len() as u32;
        out.push(Output::Event(Event::Ready {
            prompt_tokens,
            reused,
            queued_us: self.queued_us,
            prefill_us,
        }));
    }

    fn on_mask(&mut self, now: Micros, answer: MaskAnswer, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Masking) {
            return;
        }
        match answer {
            MaskAnswer::Done => self.finish(Finish::Stop, now, out),
            MaskAnswer::Failed(why) => self.finish(Finish::Failed(why), now, out),
            MaskAnswer::Allowed(mask) => match mask.allowed() {
                0 => self.finish(
                    Finish::Failed("the grammar allows nothing here".into()),
                    now,
                    out,
                ),
                // Nothing to decide, so nothing to ask; log-probabilities still need an opinion.
                1 if self.spec.logprobs.is_none() => {
                    let only = mask.tokens().next();
                    if let Some(token) = only {
                        self.log.mask(Some(Arc::new(mask)));
                        self.commit(now, token, out);
                    }
                }
                _ => self.ask(Some(Arc::new(mask)), now, out),
            },
        }
    }

    fn commit(&mut self, now: Micros, token: Token, out: &mut Vec<Output>) {
        let (ln_p, top) = self.raw_of(token);
        let position = self.position();
        self.hold_to_lists(token);
        self.measure_tempo(now, token);
        self.team.decided(position, &self.set);
        let weighed = self.team.weighed();
        let (team, set) = (&self.team, &self.set);
        let counts = |expert: &ExpertId| team.at(*expert).is_some_and(|i| set.contains(&i));
        let decided = self.log.decided(position, token, weighed, counts);
        out.extend(decided);
        if self.vocab.ends_turn(token) {
            return self.finish(Finish::Stop, now, out);
        }
        let provenance = self.provenance(token);
        let (text, stopped) = self.text.push(self.vocab.text(token));
        self.answer.push(token);
        out.push(Output::Event(Event::Token(TokenEvent {
            token,
            position,
            text,
            ln_p,
            top,
            provenance,
        })));
        if stopped.is_some() {
            self.finish(Finish::Stop, now, out);
        } else if self.generated() >= self.spec.max_tokens || self.position() >= self.spec.context {
            self.finish(Finish::Length, now, out);
        } else {
            self.next_position(Some(token), now, out);
        }
    }

    fn next_position(&mut self, committed: Option<Token>, now: Micros, out: &mut Vec<Output>) {
        self.asked_again = 0;
        self.arrivals = 0;
        self.first_question = None;
        self.set.clear();
        if let Some(token) = committed {
            self.settle_guesses(token, now, out);
        }
        let here = self.position();
        for (part, member) in self.parts.iter_mut().zip(&mut self.team.members) {
            (part.opinion, part.exact) = (None, None);
            part.owed = 0;
            member.decided_before(here);
        }
        if self.is_ahead_of_client() {
            self.state = State::Unread(committed, now);
        } else {
            self.take_position(committed, now, out);
        }
    }

    fn take_position(&mut self, committed: Option<Token>, now: Micros, out: &mut Vec<Output>) {
        if self.spec.grammar {
            self.state = State::Masking;
            out.push(Output::NeedMask { committed });
        } else {
            self.ask(None, now, out);
        }
    }

    /// The position under decision.
    fn position(&self) -> Position {
        self.spec.prompt.len() as u32 + self.generated()
    }

    fn finish(&mut self, why: Finish, now: Micros, out: &mut Vec<Output>) {
        self.state = State::Done;
        self.ahead.end();
        let open = |standing: &Standing| !matches!(standing, Standing::Asleep | Standing::Gone(_));
        for member in self.team.members.iter().filter(|m| open(&m.standing)) {
            let session = self.spec.session;
            out.push(Output::ToExpert(member.expert, ExpertOp::Close { session }));
        }
        let decode_us = if self.first_ready {
            now.since(self.decoding_since)
        } else {
            now.since(self.started)
        };
        let text = self.text.flush();
        let first = self.spec.prompt.len() as Position;
        out.push(Output::Event(Event::Finished {
            why,
            text,
            generated: self.generated(),
            decode_us,
            schedule: self.team.schedule().clone(),
            guesses: self.ahead.counts,
            reasons: self.team.reasons(first).map(Box::new),
        }));
    }
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod branch_tests;
#[cfg(test)]
mod draw_tests;
#[cfg(test)]
mod equal_tests;
#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod net_tests;
#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod storm_tests;
#[cfg(test)]
mod team_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod ways_tests;
#[cfg(test)]
mod weigh_tests;
