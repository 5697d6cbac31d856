//! A whole mesh as one expert of another: one session of somebody's router, answered by a set of experts.
//!
//! What it says of a token is p(v) = sum_k w_k p_k(v), rounded once like the word of any expert, so the router that
//! asks cannot tell it from one model (decision 0012).
//!
//! ```text
//!  router ──Open, Draft, Ask──▶ Mixture ──the same, to everybody──▶ k experts
//!     ▲                           │  ▲                                 │
//!     └──── one opinion ◀─────────┘  └── lists, then values that lists left open
//! ```
//!
//! A position is answered by one set. The set only shrinks, and only between two answers that must agree.

mod asked;
mod blend;
#[cfg(test)]
mod tests;

use crate::generate::Trouble;
use crate::ids::{ExpertId, Micros, Position, SessionId, Token};
use crate::lead;
use crate::limits::{GIVE_UP_US, MIXTURE_OPS_MAX, PATH_MAX, SECOND_QUESTIONS_MAX};
use crate::lnp::LnP;
use crate::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Open, Opinion, Query, Said, Want,
};
use crate::pace::{Pace, Patience, after};
use crate::team::{Answered, Candidate};
use blend::{Heard, Next, Voice};
use std::collections::VecDeque;

/// Whom a mixture asks, and within which bounds.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All of them are asked, in expert-id order; weights are restricted to them and renormalised.
    pub set: Vec<Candidate>,
    pub patience: Patience,
    /// Entries of the vocabulary that all of them share.
    pub vocab: u32,
    /// Tokens that a session may hold.
    pub context: u32,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// From the router, in its order.
    Op(ExpertOp),
    FromExpert(FromExpert),
    Lost {
        expert: ExpertId,
        why: String,
    },
    Tick,
}

#[derive(Clone, Debug)]
pub enum Output {
    ToExpert(ExpertId, ExpertOp),
    /// To the router. Nothing follows a `Failed`.
    Say(ExpertEvent),
    Heard {
        expert: ExpertId,
        answered: Answered,
        compute_us: u64,
        bytes: u32,
    },
    Failed {
        expert: ExpertId,
        why: Trouble,
    },
}

#[derive(Debug)]
struct Member {
    expert: ExpertId,
    weight: f64,
    local: bool,
    pace: Pace,
    /// It left, for the rest of this session.
    is_gone: bool,
    /// Since when it owes an answer, and what it must read for it.
    asked: Option<Micros>,
    reads: Option<usize>,
    scores: Option<Vec<LnP>>,
}

/// A position that the router has asked about, and has not drafted past.
#[derive(Debug)]
struct Point {
    position: Position,
    /// What the router wants to know.
    query: Query,
    /// When it asked; None once it was told.
    since: Option<Micros>,
    /// How many members had left when it was told first: what it is told later must be of the same set.
    told_without: Option<usize>,
    /// One for each member, in their order: what it said, and what it was asked and has not answered.
    heard: Vec<Heard>,
    asked: Vec<Option<Want>>,
    asked_again: u32,
}

#[derive(Debug)]
pub struct Mixture {
    session: SessionId,
    members: Vec<Member>,
    patience: Patience,
    vocab: u32,
    context: u32,
    epoch: u32,
    /// Public tokens of the text, drafts included.
    length: u32,
    /// In the order of positions; those that are not told yet are at most `DRAFT_TOKENS_MAX`.
    points: Vec<Point>,
    /// Operations behind them. Bounded: `MIXTURE_OPS_MAX`.
    waiting: VecDeque<ExpertOp>,
    /// What is asked behind the end of the text, which goes on by our choices: at most `DRAFT_TOKENS_MAX`.
    lead: VecDeque<Query>,
    /// Our choice at the position that was told last.
    choice: Option<(Position, Token)>,
    opened: Micros,
    is_ready: bool,
    wants_scores: bool,
    /// Of the last one that left.
    last_words: Option<ExpertFailure>,
    is_over: bool,
}

impl Mixture {
    /// Opens the session everywhere, or says why there is none.
    pub fn open(now: Micros, open: &Open, plan: Plan, out: &mut Vec<Output>) -> Mixture {
        let mut set = plan.set;
        set.sort_by_key(|c| c.expert);
        let reads = open.prompt.len() + open.answered.len();
        let members = set.into_iter().map(|c| Member {
            expert: c.expert,
            weight: c.weight,
            local: c.local,
            pace: c.pace,
            is_gone: false,
            asked: None,
            reads: Some(reads),
            scores: None,
        });
        let mut mixture = Mixture {
            session: open.session,
            members: members.collect(),
            patience: plan.patience,
            vocab: plan.vocab,
            context: plan.context,
            epoch: 0,
            length: reads as u32,
            points: Vec::new(),
            waiting: VecDeque::new(),
            lead: VecDeque::new(),
            choice: None,
            opened: now,
            is_ready: false,
            wants_scores: open.score,
            last_words: None,
            is_over: false,
        };
        match mixture.refuses(open) {
            Some(why) => {
                mixture.members.clear(); // nobody was told of it
                mixture.fail(why, out);
            }
            None => {
                for member in &mixture.members {
                    let open = ExpertOp::Open(Box::new(open.clone()));
                    out.push(Output::ToExpert(member.expert, open));
                }
            }
        }
        mixture
    }

    fn refuses(&self, open: &Open) -> Option<ExpertFailure> {
        if open.path.len() > PATH_MAX {
            return Some(refused("too many meshes, one behind the other"));
        }
        if self.members.is_empty() {
            return Some(ExpertFailure::Busy {
                retry_ms: NOBODY_RETRY_MS,
            });
        }
        let all = [&open.prompt, &open.answered];
        let all = all.into_iter().flatten().copied();
        self.check_tokens(all, self.length).err()
    }

    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Does it ask this expert?
    pub fn asks(&self, expert: ExpertId) -> bool {
        self.alive().any(|(_, m)| m.expert == expert)
    }

    /// When to say [`Input::Tick`], if nothing else comes before.
    pub fn wake_at(&self) -> Option<Micros> {
        let grace = self.grace();
        let deadlines = self.alive().filter_map(|(_, m)| self.deadline(m));
        deadlines.min().map(|at| after(at, grace))
    }

    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        if self.is_over {
            return;
        }
        match input {
            Input::Op(ExpertOp::Close { .. }) => self.close(out),
            Input::Op(op) if self.waiting.len() < MIXTURE_OPS_MAX => {
                if matches!(op, ExpertOp::Truncate { .. }) {
                    self.forget_questions();
                }
                self.waiting.push_back(op);
                self.take_next(now, out);
            }
            Input::Op(_) => self.fail(refused("too many operations at once"), out),
            Input::FromExpert(from) => self.on_expert(now, from, out),
            Input::Lost { expert, why } => {
                if let Some(i) = self.at(expert) {
                    self.last_words = Some(ExpertFailure::Gone);
                    self.lose(i, Trouble::Gone(why), now, out);
                }
            }
            Input::Tick => self.expire(now, out),
        }
    }

    fn alive(&self) -> impl Iterator<Item = (usize, &Member)> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, m)| !m.is_gone)
    }

    fn at(&self, expert: ExpertId) -> Option<usize> {
        let found = self.alive().find(|(_, m)| m.expert == expert);
        found.map(|(i, _)| i)
    }

    // --- what the experts say -------------------------------------------------------------------

    fn on_expert(&mut self, now: Micros, from: FromExpert, out: &mut Vec<Output>) {
        let Some(i) = self.at(from.expert) else {
            return; // it left, or was never asked
        };
        match from.event {
            ExpertEvent::Ready { reused, .. } => self.on_ready(now, reused, out),
            ExpertEvent::Scored { ln_p, .. } => {
                self.members[i].scores = Some(ln_p);
                self.say_scores(out);
            }
            ExpertEvent::Opinions { epoch, .. } if epoch != self.epoch => {}
            ExpertEvent::Opinions {
                opinions,
                compute_us,
                bytes,
                ..
            } => {
                for opinion in opinions {
                    if let Err(why) = self.hear(i, opinion) {
                        return self.lose(i, Trouble::Lied(why), now, out);
                    }
                }
                self.note_pace(i, now, compute_us, bytes, out);
                self.go_on(now, out);
                self.take_next(now, out);
            }
            ExpertEvent::Failed { why, .. } => {
                self.last_words = Some(why.clone());
                let why = match why {
                    ExpertFailure::Busy { retry_ms } => Trouble::Busy { retry_ms },
                    other => Trouble::Gone(other.to_string()),
                };
                self.lose(i, why, now, out);
            }
        }
    }

    fn on_ready(&mut self, now: Micros, reused: u32, out: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.is_ready, true) {
            out.push(Output::Say(ExpertEvent::Ready {
                session: self.session,
                reused,
                prefill_us: now.since(self.opened),
                branches: 0,
            }));
        }
    }

    fn hear(&mut self, i: usize, opinion: Opinion) -> Result<(), String> {
        let here = |point: &&mut Point| point.position == opinion.position;
        let Some(point) = self.points.iter_mut().find(here) else {
            return Ok(()); // it was truncated away
        };
        let Some(want) = point.asked[i].take() else {
            return Ok(());
        };
        match (&opinion.said, &want) {
            (Said::Scalars(values), Want::Scalars(tokens)) if values.len() == tokens.len() => {}
            (Said::List(list), Want::Perturbed { .. } | Want::Plain { .. }) => {
                let mut checked = list.check(self.vocab);
                if let Want::Perturbed { key, tau } = &want {
                    checked = checked.and_then(|()| list.check_keyed(*key, *tau));
                }
                checked.map_err(|bad| format!("an expert sent a list with {bad}"))?;
            }
            (Said::Scalars(_) | Said::List(_), _) => {
                return Err("an expert answered another question".into());
            }
        }
        point.heard[i].hear(opinion, &want);
        Ok(())
    }

    fn note_pace(
        &mut self,
        i: usize,
        now: Micros,
        compute_us: u64,
        bytes: u32,
        out: &mut Vec<Output>,
    ) {
        if self.points.iter().any(|point| point.asked[i].is_some()) {
            return; // it has more to say
        }
        let member = &mut self.members[i];
        let Some(asked) = member.asked.take() else {
            return;
        };
        let (us, read) = (now.since(asked), member.reads.take());
        match read {
            Some(tokens) => member.pace.read(tokens, us),
            None => member.pace.answered(us),
        }
        out.push(Output::Heard {
            expert: member.expert,
            answered: Answered {
                us,
                read,
                follows: false,
            },
            compute_us,
            bytes,
        });
    }

    /// Asks on, or answers, where what is there suffices: positions in their order.
    fn go_on(&mut self, now: Micros, out: &mut Vec<Output>) {
        let gone = self.gone();
        let (mut opinions, mut since, mut in_order) = (Vec::new(), now, true);
        for at in 0..self.points.len() {
            let point = &self.points[at];
            let Some(asked) = point.since else { continue };
            if point.told_without.is_some_and(|told| told != gone) {
                return self.fail(ExpertFailure::Gone, out); // a second answer would be of another set
            }
            match self.say(at) {
                Some(Next::Say(said, raw)) if in_order => {
                    let point = &mut self.points[at];
                    (point.since, point.told_without) = (None, Some(gone));
                    since = asked;
                    let position = point.position;
                    let choice = lead::choice(&point.query, &said);
                    self.choice = choice.map(|token| (position, token));
                    opinions.push(Opinion {
                        position,
                        said,
                        raw,
                        scored: Vec::new(),
                    });
                }
                Some(Next::Ask(wants)) => {
                    in_order = false;
                    self.ask(at, wants, now, out);
                }
                Some(Next::Cannot) => {
                    let why = "the lists of the experts behind it are full";
                    return self.fail(ExpertFailure::Engine(why.into()), out);
                }
                Some(Next::Say(..)) | None => in_order = false,
            }
        }
        if self.is_over || opinions.is_empty() {
            return;
        }
        out.push(Output::Say(ExpertEvent::Opinions {
            session: self.session,
            epoch: self.epoch,
            opinions,
            compute_us: now.since(since),
            bytes: 0,
        }));
        if self.points.iter().all(|point| point.since.is_none()) {
            self.lead_on(now, out);
        }
    }

    fn gone(&self) -> usize {
        self.members.iter().filter(|m| m.is_gone).count()
    }

    /// None while somebody owes an answer about it.
    fn say(&self, at: usize) -> Option<Next> {
        let point = &self.points[at];
        if self.alive().any(|(i, _)| point.asked[i].is_some()) {
            return None;
        }
        let total: f64 = self.alive().map(|(_, m)| m.weight).sum();
        let count = self.alive().count() as f64;
        let voices = self.alive().map(|(i, m)| Voice {
            weight: if total > 0.0 {
                m.weight / total
            } else {
                1.0 / count
            },
            heard: &point.heard[i],
        });
        Some(blend::next(&point.query, &voices.collect::<Vec<_>>()))
    }

    /// `wants` by the places of those that are here.
    fn ask(&mut self, at: usize, wants: Vec<(usize, Want)>, now: Micros, out: &mut Vec<Output>) {
        let here: Vec<usize> = self.alive().map(|(i, _)| i).collect();
        let point = &mut self.points[at];
        point.asked_again += 1;
        if point.asked_again > SECOND_QUESTIONS_MAX {
            let why = "the experts behind it never came to a value";
            return self.fail(ExpertFailure::Engine(why.into()), out);
        }
        for (place, want) in wants {
            let i = here[place];
            point.heard[i].asked(&want);
            point.asked[i] = Some(want.clone());
            self.members[i].asked.get_or_insert(now);
            let ask = ExpertOp::Ask {
                session: self.session,
                epoch: self.epoch,
                position: point.position,
                query: Query {
                    want,
                    scores: 0,
                    ..point.query.clone()
                },
            };
            out.push(Output::ToExpert(self.members[i].expert, ask));
        }
    }

    /// ln p of the prompt, once everybody has said it.
    fn say_scores(&mut self, out: &mut Vec<Output>) {
        if !self.wants_scores || self.is_over {
            return;
        }
        let all: Option<Vec<(f64, &[LnP])>> = self
            .alive()
            .map(|(_, m)| Some((m.weight, m.scores.as_deref()?)))
            .collect();
        let Some(all) = all else { return };
        let ln_p = blend::scored(&all);
        self.wants_scores = false;
        out.push(Output::Say(ExpertEvent::Scored {
            session: self.session,
            ln_p,
        }));
    }

    // --- losses and ends ------------------------------------------------------------------------

    fn deadline(&self, member: &Member) -> Option<Micros> {
        let asked = member.asked.filter(|_| !member.local)?;
        Some(after(
            asked,
            member.pace.deadline_us(self.patience, member.reads),
        ))
    }

    /// The last one is waited for a while longer.
    fn grace(&self) -> u64 {
        if self.alive().count() == 1 {
            GIVE_UP_US
        } else {
            0
        }
    }

    fn expire(&mut self, now: Micros, out: &mut Vec<Output>) {
        while !self.is_over {
            let grace = self.grace();
            let is_late = |m: &Member| self.deadline(m).is_some_and(|at| after(at, grace) <= now);
            let Some(i) = self.alive().find(|(_, m)| is_late(m)).map(|(i, _)| i) else {
                return;
            };
            self.last_words = Some(ExpertFailure::Gone);
            self.lose(i, Trouble::Late, now, out);
        }
    }

    /// It is out for the rest of the session: the others' weights are renormalised from the first position that is not
    /// answered.
    fn lose(&mut self, i: usize, why: Trouble, now: Micros, out: &mut Vec<Output>) {
        let (expert, session) = (self.members[i].expert, self.session);
        (self.members[i].is_gone, self.members[i].asked) = (true, None);
        out.push(Output::ToExpert(expert, ExpertOp::Close { session }));
        out.push(Output::Failed { expert, why });
        if self.alive().next().is_none() {
            let why = self.last_words.take().unwrap_or(ExpertFailure::Gone);
            return self.fail(why, out);
        }
        self.say_scores(out);
        self.go_on(now, out);
        self.take_next(now, out);
    }

    fn close(&mut self, out: &mut Vec<Output>) {
        let session = self.session;
        let goodbye = self
            .alive()
            .map(|(_, m)| Output::ToExpert(m.expert, ExpertOp::Close { session }));
        out.extend(goodbye);
        self.is_over = true;
    }

    fn fail(&mut self, why: ExpertFailure, out: &mut Vec<Output>) {
        self.close(out);
        let session = self.session;
        out.push(Output::Say(ExpertEvent::Failed { session, why }));
    }
}

/// When nobody is there who could be asked: a mesh fills within seconds.
const NOBODY_RETRY_MS: u32 = 1_000;

fn refused(why: &str) -> ExpertFailure {
    ExpertFailure::Refused(why.to_owned())
}
