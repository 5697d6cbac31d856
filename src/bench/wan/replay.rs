//! An expert that says again what a real one said, and takes the time that it is told to take.
//!
//! It is a single server: whatever waits is one batch, which occupies it for c(m); what it really
//! computes (looking up a list) is within that time and never added to it. On the recorded path it says
//! what was recorded. Behind a wrong guess nobody's opinion can count: there every expert says what
//! the first of them said on the path, so that a router that counted it would write another text.

use crate::expert::{EventSender, Expert, ExpertFacts, SubmitError, TokenizeError};
use quorate_core::chat::{Family, Segment};
use quorate_core::ids::{ExpertId, Position, SessionId, Token};
use quorate_core::lead;
use quorate_core::limits::{BRANCHES_MAX, DRAFT_TOKENS_MAX, EXPERT_OPS_MAX, SESSIONS_MAX};
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Opinion, Query, Said, Want,
};
use quorate_core::record::Recording;
use quorate_core::texts::{OutOfOrder, Texts};
use quorate_core::vocab::Vocab;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// How long a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batches {
    /// The same for any number of positions: reading the weights is what takes the time, as on a
    /// graphics card.
    Flat,
    /// As measured for the default model on two cores, in proportion.
    Table,
}

/// Positions of a batch, and the milliseconds that it took.
const TABLE: [(f64, f64); 6] = [
    (1.0, 8.0),
    (2.0, 14.0),
    (4.0, 23.0),
    (8.0, 41.0),
    (16.0, 78.0),
    (32.0, 159.0),
];

/// What an expert takes for a batch: `one` for a single position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) one: Duration,
    pub(super) batches: Batches,
}

impl Clock {
    fn of(self, positions: usize) -> Duration {
        match self.batches {
            Batches::Flat => self.one,
            Batches::Table => self.one.mul_f64(table(positions as f64) / TABLE[0].1),
        }
    }
}

/// Between two measured sizes a straight line; beyond the last, its slope.
fn table(positions: f64) -> f64 {
    let last = TABLE.len() - 2;
    let at = TABLE.iter().skip(1).position(|(m, _)| positions <= *m);
    let at = at.unwrap_or(last);
    let ((m, ms), (more, later)) = (TABLE[at], TABLE[at + 1]);
    ms + (positions - m) * (later - ms) / (more - m)
}

/// What one expert said in a recording.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) recording: Arc<Recording>,
    pub(super) expert: ExpertId,
    pub(super) vocab: Arc<Vocab>,
    pub(super) clock: Clock,
}

impl Part {
    /// The answer to this question about a position, which is the n-th one in a row. Where guesses were taken
    /// back, a second question comes as a first one: what it wants tells them apart.
    fn said(
        &self,
        position: Position,
        query: &Query,
        question: u32,
        on_path: bool,
    ) -> Option<&Said> {
        let at = (position as usize).checked_sub(self.recording.prompt.len())?;
        let answers = &self.recording.decided.get(at)?.answers;
        let whose = |expert: ExpertId| !on_path || expert == self.expert;
        let wanted = |n: u32, said: &Said| match query.want {
            Want::Scalars(ref tokens) if !tokens.is_empty() => matches!(said, Said::Scalars(_)),
            _ => n == question,
        };
        let mut fit = answers.iter();
        fit.find(|(n, expert, said)| wanted(*n, said) && whose(*expert))
            .map(|(_, _, said)| said)
    }

    /// Is this the beginning of the recorded text?
    fn is_path(&self, text: &[Token]) -> bool {
        let prompt = self.recording.prompt.iter().copied();
        let answer = self.recording.decided.iter().map(|d| d.token);
        prompt
            .chain(answer)
            .take(text.len())
            .eq(text.iter().copied())
    }
}

pub(super) struct ReplayExpert {
    facts: Arc<ExpertFacts>,
    ops: SyncSender<(Instant, ExpertOp)>,
}

impl ReplayExpert {
    pub(super) fn spawn(part: Part, events: EventSender) -> std::io::Result<Arc<dyn Expert>> {
        let facts = Arc::new(ExpertFacts {
            id: part.expert,
            peer: None,
            model: "replay".into(),
            sha256: String::new(),
            file: None,
            family: Family::ChatMl,
            vocab: part.vocab.clone(),
            bos: None,
            context: (part.recording.prompt.len() + part.recording.decided.len()) as u32,
            model_bytes: 0,
            cache_bytes: 0,
            processor: "recorded".into(),
        });
        let (ops, inbox) = sync_channel(EXPERT_OPS_MAX);
        let server = Server {
            part,
            events,
            inbox,
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            free: Instant::now(),
        };
        std::thread::Builder::new()
            .name("replay expert".into())
            .spawn(move || server.run())?;
        Ok(Arc::new(ReplayExpert { facts, ops }))
    }
}

impl Expert for ReplayExpert {
    fn facts(&self) -> &Arc<ExpertFacts> {
        &self.facts
    }

    fn submit(&self, op: ExpertOp) -> Result<(), SubmitError> {
        let sent = self.ops.try_send((Instant::now(), op));
        sent.map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Full,
            TrySendError::Disconnected(_) => SubmitError::Gone,
        })
    }

    fn tokenize(&self, _: &[Segment], _: bool) -> Result<Vec<Token>, TokenizeError> {
        Err(TokenizeError::Failed("it only knows one text".into()))
    }
}

type Session = Texts<Notes>;

#[derive(Default)]
struct Notes {
    /// Second questions about the last position.
    again: u32,
    /// Questions that are neither answered nor taken back.
    owed: usize,
    /// What it goes on to say alone, one after another, and what it would go on with.
    lead: VecDeque<Query>,
    choice: Option<Token>,
}

/// A position that somebody asked about and that is not computed yet.
#[derive(Debug)]
struct Waiting {
    session: SessionId,
    epoch: u32,
    position: Position,
    query: Query,
    since: Instant,
}

struct Server {
    part: Part,
    events: EventSender,
    inbox: Receiver<(Instant, ExpertOp)>,
    sessions: BTreeMap<SessionId, Session>,
    waiting: VecDeque<Waiting>,
    /// When the last batch was over, by the clock that it was given: waking up late is nobody's work.
    free: Instant,
}

impl Server {
    fn run(mut self) {
        while self.hear() {
            let batch: Vec<Waiting> = {
                let count = self.waiting.len().min(DRAFT_TOKENS_MAX);
                self.waiting.drain(..count).collect()
            };
            let Some(first) = batch.first() else { continue };
            let begun = first.since.max(self.free);
            let took = self.part.clock.of(batch.len());
            self.free = begun + took;
            std::thread::sleep(self.free.saturating_duration_since(Instant::now()));
            // Whoever took it back meanwhile does not want it.
            while let Ok((since, op)) = self.inbox.try_recv() {
                self.take(since, op);
            }
            if !self.answer(&batch, took) {
                return;
            }
        }
    }

    /// Takes what is there, and waits while there is nothing to do. False if the node is gone.
    fn hear(&mut self) -> bool {
        loop {
            let next = if self.waiting.is_empty() {
                match self.inbox.recv() {
                    Ok(next) => next,
                    Err(_) => return false,
                }
            } else {
                match self.inbox.try_recv() {
                    Ok(next) => next,
                    Err(_) => return true,
                }
            };
            self.take(next.0, next.1);
        }
    }

    fn take(&mut self, since: Instant, op: ExpertOp) {
        let session = op.session();
        let events = self.carry_out(since, op).unwrap_or_else(|why| {
            self.forget(session);
            Some(ExpertEvent::Failed { session, why })
        });
        if let Some(event) = events {
            self.tell(event);
        }
    }

    fn carry_out(
        &mut self,
        since: Instant,
        op: ExpertOp,
    ) -> Result<Option<ExpertEvent>, ExpertFailure> {
        let session = op.session();
        match op {
            ExpertOp::Open(open) => {
                if self.sessions.len() >= SESSIONS_MAX {
                    return Err(ExpertFailure::Busy { retry_ms: 100 });
                }
                let text = [open.prompt, open.answered].concat();
                self.sessions.insert(session, Session::new(text));
                Ok(Some(ExpertEvent::Ready {
                    session,
                    reused: 0,
                    prefill_us: 0,
                    branches: BRANCHES_MAX as u8,
                }))
            }
            ExpertOp::Draft {
                epoch,
                position,
                tokens,
                queries,
                ..
            } => {
                let known = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                let first = known.draft(epoch, position, &tokens, queries.len());
                let first = first.map_err(out_of_order)?;
                let notes = &mut known.of(epoch).map_err(out_of_order)?.notes;
                (notes.again, notes.choice) = (0, None);
                notes.owed += queries.len();
                let asked = (first..).zip(queries);
                self.waiting.extend(asked.map(|(position, query)| Waiting {
                    session,
                    epoch,
                    position,
                    query,
                    since,
                }));
                Ok(None)
            }
            ExpertOp::Lead {
                epoch,
                position,
                queries,
                ..
            } => {
                let known = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                let end = known.own.tokens.len() + known.own.notes.lead.len();
                if (position as usize) < end || epoch != known.epoch() {
                    return Err(refused("nothing to go on from"));
                }
                if position as usize == end {
                    known.own.notes.lead.extend(queries);
                    self.go_on(session, since);
                } // else it stopped before
                Ok(None)
            }
            ExpertOp::Branch { .. } | ExpertOp::Settle { .. } | ExpertOp::Forget { .. } => {
                self.branches(since, op).map(|()| None)
            }
            ExpertOp::Ask {
                epoch,
                position,
                query,
                ..
            } => {
                let known = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                let known = known.of(epoch).map_err(out_of_order)?;
                known.notes.again += 1;
                let again = known.notes.again;
                let opinion = opinion(&self.part, &known.tokens, position, &query, again)?;
                Ok(Some(said(session, epoch, vec![opinion], Duration::ZERO)))
            }
            ExpertOp::Truncate {
                epoch, position, ..
            } => {
                let known = self.sessions.get_mut(&session).ok_or_else(unknown)?;
                known.truncate(epoch, position).map_err(out_of_order)?;
                known.own.notes = Notes {
                    again: known.own.notes.again,
                    ..Notes::default()
                };
                self.waiting.retain(|waiting| waiting.session != session);
                Ok(None)
            }
            ExpertOp::Close { .. } => {
                self.forget(session);
                Ok(None)
            }
        }
    }

    fn branches(&mut self, since: Instant, op: ExpertOp) -> Result<(), ExpertFailure> {
        let session = op.session();
        let known = self.sessions.get_mut(&session).ok_or_else(unknown)?;
        match op {
            ExpertOp::Branch {
                epoch,
                position,
                token,
                query,
                ..
            } => {
                known.branch(epoch, position, token).map_err(out_of_order)?;
                known.of(epoch).map_err(out_of_order)?.notes.owed = 1;
                self.waiting.push_back(Waiting {
                    session,
                    epoch,
                    position: position + 1,
                    query,
                    since,
                });
            }
            ExpertOp::Settle { epoch, .. } => {
                known.settle(epoch).map_err(out_of_order)?;
                let is_over = |w: &Waiting| w.session == session && w.epoch != epoch;
                self.waiting.retain(|waiting| !is_over(waiting));
            }
            ExpertOp::Forget { epoch, .. } => {
                known.forget(epoch).map_err(out_of_order)?;
                let is_over = |w: &Waiting| w.session == session && w.epoch == epoch;
                self.waiting.retain(|waiting| !is_over(waiting));
            }
            _ => {}
        }
        Ok(())
    }

    /// Appends what it would choose and waits for its turn, if it leads and has said what came before.
    fn go_on(&mut self, session: SessionId, since: Instant) {
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        let (epoch, own) = (known.epoch(), &mut known.own);
        let notes = &mut own.notes;
        if notes.lead.is_empty() || notes.owed > 0 {
            return;
        }
        let (Some(token), Some(query)) = (notes.choice.take(), notes.lead.pop_front()) else {
            return notes.lead.clear(); // it has nothing to go on with
        };
        own.tokens.push(token);
        notes.owed += 1;
        self.waiting.push_back(Waiting {
            session,
            epoch,
            position: own.tokens.len() as Position,
            query,
            since,
        });
    }

    fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.waiting.retain(|waiting| waiting.session != session);
    }

    /// Says what the batch has come to. False if the node is gone.
    fn answer(&mut self, batch: &[Waiting], took: Duration) -> bool {
        let mut by_text: BTreeMap<(SessionId, u32), Vec<&Waiting>> = BTreeMap::new();
        for waiting in batch {
            let text = (waiting.session, waiting.epoch);
            by_text.entry(text).or_default().push(waiting);
        }
        let mut is_heard = true;
        for ((session, epoch), asked) in by_text {
            let known = self.sessions.get_mut(&session);
            let Some(known) = known.and_then(|texts| texts.of(epoch).ok()) else {
                continue; // it was taken back
            };
            let opinions: Result<Vec<Opinion>, ExpertFailure> = asked
                .iter()
                .map(|waiting| {
                    let opinion = opinion(
                        &self.part,
                        &known.tokens,
                        waiting.position,
                        &waiting.query,
                        0,
                    )?;
                    known.notes.owed = known.notes.owed.saturating_sub(1);
                    known.notes.choice = lead::choice(&waiting.query, &opinion.said);
                    Ok(opinion)
                })
                .collect();
            let event = match opinions {
                Ok(opinions) => said(session, epoch, opinions, took),
                Err(why) => ExpertEvent::Failed { session, why },
            };
            is_heard &= self.tell(event);
            self.go_on(session, self.free);
        }
        is_heard
    }

    fn tell(&self, event: ExpertEvent) -> bool {
        let expert = self.part.expert;
        self.events
            .blocking_send(FromExpert { expert, event })
            .is_ok()
    }
}

fn opinion(
    part: &Part,
    text: &[Token],
    position: Position,
    query: &Query,
    question: u32,
) -> Result<Opinion, ExpertFailure> {
    let before = text.get(..position as usize).ok_or_else(unknown)?;
    let said = part.said(position, query, question, part.is_path(before));
    let said = said.ok_or_else(|| refused("nothing like that was recorded"))?;
    Ok(Opinion {
        position,
        said: said.clone(),
        raw: None,
        scored: Vec::new(),
    })
}

fn said(session: SessionId, epoch: u32, opinions: Vec<Opinion>, compute: Duration) -> ExpertEvent {
    ExpertEvent::Opinions {
        session,
        epoch,
        opinions,
        compute_us: compute.as_micros() as u64,
        bytes: 0,
    }
}

fn unknown() -> ExpertFailure {
    refused("no such session or position")
}

fn out_of_order(lost: OutOfOrder) -> ExpertFailure {
    refused(&lost.to_string())
}

fn refused(why: &str) -> ExpertFailure {
    ExpertFailure::Refused(why.into())
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
