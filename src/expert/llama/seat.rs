//! One expert on a base: its context with its adapter, its sessions, its events.
//!
//! After a step that answered several sessions it waits a moment for what they say next, so that
//! streams that run together stay in one batch. A session that let the moment pass is not waited for
//! again until it has been quick once.

use super::adapter::Adapter;
use super::cache::Cache;
use super::cost::CostModel;
use super::session::{Bounds, Private, Session};
use super::step::Engine;
use super::thread::{Door, Entered, SeatId};
use super::tokens::Tokenizer;
use super::{
    LoadError, LoadRequest, bos_of, facts, new_context, parked_bytes, private_text, sequences,
    settings, vocab,
};
use crate::expert::EventSender;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::{ExpertId, Token};
use quorate_core::limits::{BRANCHES_MAX, SEQUENCES_MAX, SESSIONS_MAX};
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Open};
use quorate_core::vocab::Vocab;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The moment starts anew with every session that speaks, but lasts at most this many moments.
const GATHER_MOMENTS_MAX: u32 = 4;
/// What waits and has no room is looked at again when something is said, and after so long: somebody may be idle by then.
const NO_ROOM: Duration = Duration::from_millis(50);
/// When to come back to an engine that is full: some session ends within about this time.
const BUSY_RETRY_MS: u32 = 500;

/// How long the context of an adapter that has left is kept for the next one. The driver lets one go
/// to make room for another, which follows at once; a second later the memory is somebody else's.
pub(super) const SPARE_KEPT: Duration = Duration::from_secs(1);

/// Nobody listens any more.
pub(super) struct Stop;

/// Contexts of the same size are as good as each other.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Size {
    cells: u32,
    threads: u32,
    threads_batch: u32,
}

/// An empty context that waits for an adapter. To make one takes several times as long as to load an
/// adapter, because llama.cpp clears all of its cells.
struct Spare<'model> {
    context: LlamaContext<'model>,
    size: Size,
    since: Instant,
}

/// What all experts on one base have together.
pub(super) struct Common<'model> {
    pub(super) model: &'model Arc<LlamaModel>,
    pub(super) vocab: Arc<Vocab>,
    pub(super) bos: Option<Token>,
    tokenizer: Tokenizer,
    /// Time of a step with one row on the weights, once it was taken.
    one_row: Option<Duration>,
    spare: Option<Spare<'model>>,
}

impl<'model> Common<'model> {
    pub(super) fn new(model: &'model Arc<LlamaModel>) -> Common<'model> {
        let bos = bos_of(model);
        Common {
            model,
            vocab: Arc::new(vocab::read(model)),
            bos,
            tokenizer: Tokenizer::new(model.clone(), bos),
            one_row: None,
            spare: None,
        }
    }

    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Lets the spare context go when its time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let over = |spare: &Spare<'_>| now.saturating_duration_since(spare.since) >= SPARE_KEPT;
        if self.spare.as_ref().is_some_and(over) {
            self.spare = None;
        }
    }

    fn context(
        &mut self,
        request: &LoadRequest,
        size: Size,
        adapter: Option<&mut Adapter<'model>>,
    ) -> Result<LlamaContext<'model>, LoadError> {
        // One that does not fit makes room first.
        let spare = self.spare.take();
        let spare = spare.filter(|spare| adapter.is_some() && spare.size == size);
        let mut context = match spare {
            Some(spare) => spare.context,
            None => new_context(self.model, request)?,
        };
        if let Some(adapter) = adapter {
            adapter.put_on(&mut context)?;
        }
        Ok(context)
    }
}

/// What other experts on the same base are about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Company {
    /// One of them has a stream that waits for its next token.
    pub(super) streaming: bool,
    /// So many have a prompt to compute.
    pub(super) prompts: usize,
}

pub(super) struct Seat<'model> {
    pub(super) id: SeatId,
    pub(super) door: Arc<Door>,
    engine: Engine<'model>,
    events: EventSender,
    expert: ExpertId,
    private: Private,
    /// Until when the next step waits for awaited sessions, and until when at most.
    gather_until: Instant,
    gather_at_most: Option<Instant>,
    /// Until then nothing that waits has room.
    no_room_until: Instant,
    size: Size,
    /// After the context, which uses it: fields are dropped in order.
    adapter: Option<Adapter<'model>>,
    /// Closed when all of the above is freed.
    _gone: SyncSender<()>,
}

impl<'model> Seat<'model> {
    pub(super) fn new(
        common: &mut Common<'model>,
        id: SeatId,
        request: &LoadRequest,
        door: Arc<Door>,
    ) -> Result<(Seat<'model>, Entered), LoadError> {
        let model: &'model LlamaModel = common.model;
        let tokenizer = common.tokenizer.for_context(request.context);
        let private = private_text(&tokenizer, common.bos, request)?;
        let facts = facts(common, request, &private);
        let adapter = request.adapter.as_ref();
        let mut adapter = adapter.map(|file| Adapter::load(model, file)).transpose()?;
        let size = Size {
            cells: request.cells,
            threads: request.threads,
            threads_batch: request.threads_batch,
        };
        let context = common.context(request, size, adapter.as_mut())?;
        let engine = engine(common, context, request, &private)?;
        let (gone_tx, gone) = sync_channel(0);
        let seat = Seat {
            id,
            door,
            engine,
            events: request.events.clone(),
            expert: request.id,
            private,
            gather_until: Instant::now(),
            gather_at_most: None,
            no_room_until: Instant::now(),
            size,
            adapter,
            _gone: gone_tx,
        };
        let entered = Entered {
            seat: id,
            facts,
            tokenizer,
            gone,
        };
        Ok((seat, entered))
    }

    /// Frees everything; the context of an adapter waits a moment for the next one.
    pub(super) fn leave(self, common: &mut Common<'model>) {
        self.door.close();
        // Before the adapter, which drops after it.
        let (engine, mut adapter, size) = (self.engine, self.adapter, self.size);
        let context = adapter.as_ref().and_then(|_| engine.into_context());
        if let (Some(mut context), Some(adapter)) = (context, &mut adapter)
            && adapter.take_off(&mut context)
        {
            common.spare = Some(Spare {
                context,
                size,
                since: Instant::now(),
            });
        }
    }

    /// None: there is nothing to compute. Else how long to wait for sessions that are about to speak.
    pub(super) fn waits(&self, now: Instant) -> Option<Duration> {
        if !self.engine.has_work() {
            return None;
        }
        let awaiting = self.engine.sessions.iter().any(|session| session.awaited);
        let left = |until: Instant| until.saturating_duration_since(now);
        let gather = if awaiting {
            left(self.gather_until)
        } else {
            Duration::ZERO
        };
        Some(gather.max(left(self.no_room_until)))
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.engine.is_streaming()
    }

    pub(super) fn has_prompt(&self) -> bool {
        let prompt = |session: &Session| session.missing() > 0 && !session.is_draft();
        self.engine.sessions.iter().any(prompt)
    }

    pub(super) fn step(&mut self, company: Company) -> Result<(), Stop> {
        for session in &mut self.engine.sessions {
            session.tardy |= std::mem::take(&mut session.awaited);
        }
        let (events, expert) = (&self.events, self.expert);
        let mut heard = true;
        let mut say = |out: &mut Vec<ExpertEvent>| heard &= send(events, expert, out);
        let has_room = self.engine.step(company, &mut say);
        let now = Instant::now();
        self.gather_until = now + self.engine.settings.gather;
        self.gather_at_most = None;
        if !has_room {
            self.no_room_until = now + NO_ROOM;
        }
        if heard { Ok(()) } else { Err(Stop) }
    }

    pub(super) fn take(&mut self, submitted: Instant, op: ExpertOp) -> Result<(), Stop> {
        let gather = self.engine.settings.gather;
        let now = Instant::now();
        let at_most = *self
            .gather_at_most
            .get_or_insert(now + GATHER_MOMENTS_MAX * gather);
        self.gather_until = (now + gather).min(at_most);
        self.no_room_until = now;
        let id = op.session();
        let known = self.engine.text_for(&op);
        match (op, known) {
            (ExpertOp::Open(open), None) => self.open(*open),
            (ExpertOp::Open(_), Some(index)) => {
                let why = ExpertFailure::Refused("the session is open already".into());
                self.engine.fail(index, why);
            }
            (ExpertOp::Close { .. }, Some(index)) => self.engine.close(index),
            (ExpertOp::Close { .. }, None) => {}
            (
                op @ (ExpertOp::Branch { .. } | ExpertOp::Settle { .. } | ExpertOp::Forget { .. }),
                Some(index),
            ) => {
                if let Err(why) = self.on_branches(index, op) {
                    self.engine.fail(index, why);
                }
            }
            (op, Some(index)) => {
                if matches!(op, ExpertOp::Truncate { .. }) {
                    self.engine.drop_branches(id);
                }
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

    fn on_branches(&mut self, of: usize, op: ExpertOp) -> Result<(), ExpertFailure> {
        match op {
            ExpertOp::Branch {
                epoch,
                position,
                token,
                query,
                ..
            } => self.engine.branch(of, epoch, position, token, query),
            ExpertOp::Settle { epoch, .. } => self.engine.settle(of, epoch),
            ExpertOp::Forget { session, epoch } => self.engine.forget(session, epoch),
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) {
        let session = open.session;
        let texts = self.engine.sessions.iter();
        let busy = texts.filter(|text| !text.is_branch).count() >= SESSIONS_MAX;
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
        if send(&self.events, self.expert, &mut self.engine.out) {
            Ok(())
        } else {
            Err(Stop)
        }
    }
}

/// Warms the base up with one token, which proves that it computes and what that costs. Whoever comes
/// later learns its own costs with its first steps.
fn engine<'model>(
    common: &mut Common<'model>,
    mut context: LlamaContext<'model>,
    request: &LoadRequest,
    private: &Private,
) -> Result<Engine<'model>, LoadError> {
    let model = common.model;
    let one_row = match common.one_row {
        Some(one_row) => one_row,
        None => *common.one_row.insert(warm_up(&mut context)?),
    };
    // These share no part of a sequence.
    let whole_only = model.is_recurrent() || model.is_hybrid();
    let mut cache = Cache::new(
        context,
        sequences(request),
        whole_only,
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
        branches: if whole_only || sequences(request) < SEQUENCES_MAX {
            0
        } else {
            BRANCHES_MAX
        },
    };
    let settings = settings(request, model.n_vocab() as usize);
    let cost = CostModel::new(one_row.as_secs_f64() * 1e6);
    Ok(Engine::new(cache, cost, bounds, settings))
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
