//! The engine's thread: mailbox in, events out, a step whenever there is something to compute.
//!
//! - The mailbox is emptied before every step; `Close` counts at once, everything else in order.
//! - After a step that answered several sessions the loop waits a moment for what they say next,
//!   so that streams that run together stay in one batch. A session that let the moment pass is
//!   not waited for again until it has been quick once.
//! - Events wait for room in the router's channel: that is the back-pressure.

use super::cache::Cache;
use super::cost::CostModel;
use super::session::{Bounds, Private, Session};
use super::step::Engine;
use super::{EngineSettings, LoadError, LoadRequest, parked_bytes};
use crate::expert::EventSender;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::ExpertId;
use quorate_core::limits::SESSIONS_MAX;
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Open};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// An operation, with when it was submitted: a step may have kept it waiting.
pub(super) type Mail = (Instant, ExpertOp);

/// The moment starts anew with every session that speaks, but lasts at most this many moments.
const GATHER_MOMENTS_MAX: u32 = 4;
/// When to come back to an engine that is full: some session ends within about this time.
const BUSY_RETRY_MS: u32 = 500;

pub(super) struct Loop<'model> {
    engine: Engine<'model>,
    mail: Receiver<Mail>,
    events: EventSender,
    id: ExpertId,
    private: Private,
    /// Until when the next step waits for awaited sessions, and until when at most.
    gather_until: Instant,
    gather_at_most: Option<Instant>,
}

/// The handle is gone, or nobody listens any more.
struct Stop;

impl<'model> Loop<'model> {
    /// Warms the model up with one token, which proves that it computes and what that costs.
    pub(super) fn new(
        mut context: LlamaContext<'model>,
        model: &LlamaModel,
        request: &LoadRequest,
        private: Private,
        settings: EngineSettings,
        mail: Receiver<Mail>,
    ) -> Result<Loop<'model>, LoadError> {
        let one_row = warm_up(&mut context)?;
        let mut cache = Cache::new(
            context,
            model.is_recurrent() || model.is_hybrid(),
            parked_bytes(model, request.cells) as usize,
        );
        if !private.tokens.is_empty() {
            let pinned = cache.pin(private.tokens.clone());
            pinned.map_err(|error| LoadError::Prefix {
                why: error.to_string(),
            })?;
        }
        let bounds = Bounds {
            context: request.context as usize - private.tokens.len(),
            vocab: model.n_vocab() as u32,
        };
        let cost = CostModel::new(one_row.as_secs_f64() * 1e6);
        Ok(Loop {
            engine: Engine::new(cache, cost, bounds, settings),
            mail,
            events: request.events.clone(),
            id: request.id,
            private,
            gather_until: Instant::now(),
            gather_at_most: None,
        })
    }

    /// Returns when the last handle is gone or nobody listens any more.
    pub(super) fn run(mut self) {
        while self.turn().is_ok() {}
        tracing::debug!(target: "quorate::expert", "the expert thread ends");
    }

    fn turn(&mut self) -> Result<(), Stop> {
        self.collect()?;
        let (events, id) = (&self.events, self.id);
        let mut heard = true;
        self.engine.step(&mut |out| heard &= send(events, id, out));
        self.gather_until = Instant::now() + self.engine.settings.gather;
        self.gather_at_most = None;
        if heard { Ok(()) } else { Err(Stop) }
    }

    /// Takes mail until there is something to compute and nobody is waited for.
    fn collect(&mut self) -> Result<(), Stop> {
        loop {
            let awaiting = self.engine.sessions.iter().any(|session| session.awaited);
            let left = self.gather_until.saturating_duration_since(Instant::now());
            let mail = if !self.engine.has_work() {
                self.mail.recv().map_err(|_| Stop)?
            } else if awaiting && !left.is_zero() {
                match self.mail.recv_timeout(left) {
                    Ok(mail) => mail,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Err(Stop),
                }
            } else {
                match self.mail.try_recv() {
                    Ok(mail) => mail,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Err(Stop),
                }
            };
            self.take(mail)?;
        }
        for session in &mut self.engine.sessions {
            session.tardy |= std::mem::take(&mut session.awaited);
        }
        Ok(())
    }

    fn take(&mut self, (submitted, op): Mail) -> Result<(), Stop> {
        let gather = self.engine.settings.gather;
        let now = Instant::now();
        let at_most = *self
            .gather_at_most
            .get_or_insert(now + GATHER_MOMENTS_MAX * gather);
        self.gather_until = (now + gather).min(at_most);
        let id = op.session();
        let known = self.engine.find(id);
        match (op, known) {
            (ExpertOp::Open(open), None) => self.open(*open),
            (ExpertOp::Open(_), Some(index)) => {
                let why = ExpertFailure::Refused("the session is open already".into());
                self.engine.fail(index, why);
            }
            (ExpertOp::Close { .. }, Some(index)) => self.engine.close(index),
            (ExpertOp::Close { .. }, None) => {}
            (op, Some(index)) => {
                let session = &mut self.engine.sessions[index];
                session.tardy &= submitted.saturating_duration_since(session.answered) > gather;
                session.awaited = false;
                let (bounds, steps) = (self.engine.bounds, self.engine.steps);
                let (pool, out) = (&mut self.engine.pool, &mut self.engine.out);
                let done = session.receive(op);
                if let Err(why) = done.and_then(|()| session.advance(bounds, steps, pool, out)) {
                    self.engine.fail(index, why);
                }
            }
            (_, None) if self.engine.failed_lately(id) => {}
            (_, None) => {
                let why = ExpertFailure::Refused("there is no such session".into());
                self.engine
                    .out
                    .push(ExpertEvent::Failed { session: id, why });
            }
        }
        self.flush()
    }

    fn open(&mut self, open: Open) {
        let session = open.session;
        let busy = self.engine.sessions.len() >= SESSIONS_MAX;
        let opened = if busy {
            // The node above counts sessions and says better numbers: only a race gets here.
            Err(ExpertFailure::Busy {
                retry_ms: BUSY_RETRY_MS,
            })
        } else {
            Session::new(open, &self.private, self.engine.bounds)
        };
        match opened {
            Ok(mut session) => {
                // A prompt of one token waits for nothing but its first question.
                session.announce(&mut self.engine.out);
                self.engine.add(session);
            }
            Err(why) => self.engine.out.push(ExpertEvent::Failed { session, why }),
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if send(&self.events, self.id, &mut self.engine.out) {
            Ok(())
        } else {
            Err(Stop)
        }
    }
}

/// False if nobody listens any more.
fn send(events: &EventSender, expert: ExpertId, out: &mut Vec<ExpertEvent>) -> bool {
    out.drain(..)
        .all(|event| events.blocking_send(FromExpert { expert, event }).is_ok())
}

/// The first decode reads the weights from the disk and builds the graph, the second is typical.
fn warm_up(context: &mut LlamaContext<'_>) -> Result<Duration, LoadError> {
    let failed = |why: String| LoadError::Engine { why };
    let mut batch = LlamaBatch::new(1, 1);
    let mut took = Duration::MAX;
    for position in 0..2 {
        batch.clear();
        batch
            .add(LlamaToken::new(0), position, &[0], true)
            .map_err(|e| failed(e.to_string()))?;
        let begun = Instant::now();
        context
            .decode(&mut batch)
            .map_err(|error| failed(error.to_string()))?;
        context.synchronize();
        took = begun.elapsed();
    }
    if context.get_logits_ith(0).iter().any(|logit| logit.is_nan()) {
        return Err(failed(
            "its numbers are not finite: the file may be damaged".into(),
        ));
    }
    context.clear_kv_cache();
    Ok(took)
}
