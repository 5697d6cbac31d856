//! One step: who takes part, whose cells make room, one decode, and what it lets sessions say.

use super::EngineSettings;
use super::cache::{Cache, Source, common_prefix};
use super::cost::{CostModel, StepShape};
use super::plan::{Budget, Demand, Kind, Share, plan};
use super::rows::Pool;
use super::seat::Company;
use super::session::{Bounds, Session};
use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::SessionId;
use quorate_core::opinion::{ExpertEvent, ExpertFailure};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Free cells that a session wants beyond its text before it is (again) begun, so that it is not
/// preempted at its next token.
const HEADROOM_CELLS: usize = 64;

/// Sessions that failed lately: the router may not know yet, and hears nothing more of them.
const FAILED_KEPT: usize = 64;

/// Everything that steps work on. Lives on the engine's thread.
pub(super) struct Engine<'model> {
    pub(super) cache: Cache<'model>,
    /// Oldest first.
    pub(super) sessions: Vec<Session>,
    pub(super) cost: CostModel,
    pub(super) pool: Pool,
    pub(super) bounds: Bounds,
    pub(super) settings: EngineSettings,
    /// Said, not yet sent.
    pub(super) out: Vec<ExpertEvent>,
    pub(super) steps: u64,
    failed: VecDeque<SessionId>,
    batch: LlamaBatch<'static>,
    demands: Vec<Demand>,
    shares: Vec<Share>,
    /// (session, token index, batch row) of every output of the batch.
    outputs: Vec<(usize, usize, i32)>,
}

impl<'model> Engine<'model> {
    pub(super) fn new(
        cache: Cache<'model>,
        cost: CostModel,
        bounds: Bounds,
        settings: EngineSettings,
    ) -> Engine<'model> {
        let batch = LlamaBatch::new(cache.rows_max(), 1);
        Engine {
            cache,
            sessions: Vec::new(),
            cost,
            pool: Pool::default(),
            bounds,
            settings,
            out: Vec::new(),
            steps: 0,
            failed: VecDeque::with_capacity(FAILED_KEPT),
            batch,
            demands: Vec::new(),
            shares: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Its context for another use, if no session ever failed in it: numbers that are not finite
    /// would come through the mask.
    pub(super) fn into_context(self) -> Option<LlamaContext<'model>> {
        match self.failed.is_empty() {
            true => self.cache.into_context(),
            false => None,
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.sessions.iter().any(|session| session.missing() > 0)
    }

    /// Does somebody wait for the next token of a text?
    pub(super) fn is_streaming(&self) -> bool {
        let streaming = |session: &Session| session.is_ready() && !session.is_idle();
        self.sessions.iter().any(streaming)
    }

    pub(super) fn find(&self, id: SessionId) -> Option<usize> {
        let is_it = |session: &Session| session.id == id && !session.is_branch;
        self.sessions.iter().position(is_it)
    }

    pub(super) fn failed_lately(&self, id: SessionId) -> bool {
        self.failed.contains(&id)
    }

    pub(super) fn add(&mut self, session: Session) {
        self.failed.retain(|&id| id != session.id);
        self.sessions.push(session);
    }

    /// Takes the session out. What is in the cache stays there as a prefix.
    pub(super) fn close(&mut self, index: usize) {
        let mut session = self.sessions.remove(index);
        self.drop_branches(session.id);
        session.close(&mut self.pool);
        if let Some(mut sequence) = session.sequence.take() {
            self.cache.shrink(&mut sequence, session.cached);
            self.cache.keep(session.scope, session.text, sequence);
        }
    }

    /// Takes the session out and says why. What is in the cache may be wrong: it goes.
    pub(super) fn fail(&mut self, index: usize, why: ExpertFailure) {
        let id = self.sessions[index].id;
        self.drop_branches(id);
        let Some(index) = self.find(id) else {
            return;
        };
        let mut session = self.sessions.remove(index);
        if self.failed.len() == FAILED_KEPT {
            self.failed.pop_front();
        }
        self.failed.push_back(session.id);
        session.close(&mut self.pool);
        if let Some(sequence) = session.sequence.take() {
            self.cache.release(sequence);
        }
        self.out.push(ExpertEvent::Failed {
            session: session.id,
            why,
        });
    }

    /// Computes something for somebody, if anybody wants it. `send` is called as soon as there is
    /// something in `out`: the router thinks about the first opinion while the second is made.
    /// `company`: others on the same weights, who wait for the end of this step. False if nothing that waits has room.
    pub(super) fn step(
        &mut self,
        company: Company,
        send: &mut impl FnMut(&mut Vec<ExpertEvent>),
    ) -> bool {
        self.steps += 1;
        self.reconcile();
        self.admit();
        if !self.settings.skips_masked && self.has_work() {
            self.cache.clear_cells();
        }
        let shape = loop {
            let shape = self.plan(company);
            if shape.rows == 0 {
                send(&mut self.out);
                return false;
            }
            if shape.rows <= self.cache.free() || !self.make_room() {
                break shape;
            }
        };
        if shape.rows > self.cache.free() {
            // One session alone, and the cache holds a whole context: cannot be.
            self.fail_planned("the cache is too small for one session");
            send(&mut self.out);
            return true;
        }
        self.fill();
        let begun = Instant::now();
        match self.cache.decode(&mut self.batch) {
            Ok(()) => self.decoded(shape, begun.elapsed(), send),
            Err(DecodeError::NoKvCacheSlot) => {
                tracing::warn!(target: "quorate::expert", rows = shape.rows, "no cache slot");
                if !self.make_room() {
                    self.fail_planned("no room in the cache");
                }
            }
            Err(error) => self.fail_planned(&error.to_string()),
        }
        send(&mut self.out);
        true
    }

    /// Sequences forget what their sessions no longer stand by.
    fn reconcile(&mut self) {
        for session in &mut self.sessions {
            if let Some(sequence) = &mut session.sequence
                && !self.cache.shrink(sequence, session.cached)
            {
                session.cached = 0;
            }
        }
    }

    // --- admission ------------------------------------------------------------------------------

    /// Gives sequences to sessions that have none, oldest first. Who does not fit waits, and so
    /// does everybody younger; the oldest of all always fits, because younger ones make way.
    fn admit(&mut self) {
        for index in 0..self.sessions.len() {
            let session = &self.sessions[index];
            if session.sequence.is_some() || session.missing() == 0 {
                continue;
            }
            let (source, len, to_come) = self.source_for(index);
            if to_come > len {
                continue;
            }
            let needed = self.sessions[index].text.len() - len + HEADROOM_CELLS;
            let holds = |older: &Session| older.sequence.is_some() && !older.is_idle();
            let first = !self.sessions[..index].iter().any(holds);
            let is_branch = self.sessions[index].is_branch;
            let fits = needed <= self.cache.free() || first || needed <= self.reclaimable();
            let has_begun = fits && self.begin(index, source, len);
            if !has_begun && !is_branch {
                break;
            }
        }
    }

    /// Cells that are free, or held by prefixes and idle sessions only.
    fn reclaimable(&self) -> usize {
        let busy = self.sessions.iter().filter(|session| !session.is_idle());
        self.cache
            .reclaimable(busy.filter_map(|session| session.sequence.as_ref()))
    }

    /// The best beginning there is for a session, its length, and how long one will be that an
    /// older session is computing now.
    fn source_for(&self, index: usize) -> (Option<Source>, usize, usize) {
        let session = &self.sessions[index];
        let wanted = &session.text[..session.reusable()];
        let (mut source, mut len) = match self.cache.longest(session.scope, wanted) {
            Some((source, len)) => (Some(source), len),
            None => (None, 0),
        };
        let pinned = self.cache.pinned(wanted);
        if pinned > len {
            (source, len) = (Some(Source::Pinned), pinned);
        }
        let mut to_come = 0;
        for (other, leader) in self.sessions.iter().enumerate() {
            if other == index || leader.scope != session.scope || leader.sequence.is_none() {
                continue;
            }
            let common = common_prefix(&leader.text, wanted);
            let have = self.cache.usable(common, leader.cached);
            if have > len {
                (source, len) = (Some(Source::Session(other)), have);
            }
            if other < index && leader.missing() > 0 {
                to_come = to_come.max(self.cache.usable(common, leader.cached + leader.missing()));
            }
        }
        (source, len, to_come)
    }

    fn begin(&mut self, index: usize, source: Option<Source>, len: usize) -> bool {
        let sequence = match source {
            None => self.cache.sequence(),
            Some(Source::Prefix(prefix)) => self.cache.take_prefix(prefix, len),
            Some(Source::Pinned) => self.cache.share_pinned(len),
            Some(Source::Session(leader)) => match &self.sessions[leader].sequence {
                Some(sequence) => self.cache.share(sequence.id(), sequence, len),
                None => None,
            },
        };
        let Some(sequence) = sequence else {
            return false;
        };
        self.sessions[index].begin(sequence);
        self.sessions[index].announce(&mut self.out);
        true
    }

    // --- room -----------------------------------------------------------------------------------

    /// Frees cells: prefixes first, then the sequence of a branch, of an idle session, of the youngest.
    /// False if only one session is left, which has a right to everything there is.
    fn make_room(&mut self) -> bool {
        if self.cache.evict() {
            return true;
        }
        let running = |session: &Session| session.sequence.is_some();
        if self
            .sessions
            .iter()
            .filter(|session| running(session))
            .count()
            < 2
        {
            return false;
        }
        let branch = |session: &Session| running(session) && session.is_branch;
        let idle = |session: &Session| running(session) && session.is_idle();
        let victim = self.sessions.iter().rposition(branch);
        let victim = victim.or_else(|| self.sessions.iter().rposition(idle));
        let victim = victim.or_else(|| self.sessions.iter().rposition(running));
        if let Some(index) = victim
            && let Some(sequence) = self.sessions[index].preempt()
        {
            tracing::debug!(target: "quorate::expert", tokens = sequence.len(), "preempted");
            self.cache.release(sequence);
        }
        true
    }

    // --- the batch ------------------------------------------------------------------------------

    fn plan(&mut self, company: Company) -> StepShape {
        self.demands.clear();
        for (index, session) in self.sessions.iter().enumerate() {
            if session.sequence.is_none() || session.missing() == 0 {
                continue;
            }
            let scored = session.is_scored();
            self.demands.push(Demand {
                session: index,
                rows: session.missing(),
                depth: session.cached,
                since: session.waits_since(),
                kind: if session.is_draft() {
                    Kind::Draft
                } else {
                    Kind::Prompt { scored }
                },
            });
        }
        let budget = Budget {
            step_us: self.settings.step_us,
            // A stream waits for one step of everybody who has a prompt.
            shared_us: self.settings.shared_us / (1 + company.prompts) as f64,
            rows: self.cache.rows_max(),
            outputs: self.settings.outputs_max,
            cells: self.cache.used(),
            skips_masked: self.settings.skips_masked,
            streaming: company.streaming || self.is_streaming(),
        };
        plan(&self.demands, budget, &mut self.cost, &mut self.shares)
    }

    fn fill(&mut self) {
        self.batch.clear();
        self.outputs.clear();
        for share in &self.shares {
            let session = &self.sessions[share.session];
            let Some(sequence) = &session.sequence else {
                continue;
            };
            for index in session.cached..session.cached + share.rows {
                let wanted = session.wants_row(index);
                if wanted {
                    self.outputs
                        .push((share.session, index, self.batch.n_tokens()));
                }
                let token = LlamaToken::new(session.text[index] as i32);
                // The plan keeps to the batch's size, and one sequence fits.
                let added = self
                    .batch
                    .add(token, index as i32, &[sequence.id()], wanted);
                debug_assert!(added.is_ok());
            }
        }
    }

    fn decoded(
        &mut self,
        shape: StepShape,
        took: Duration,
        send: &mut impl FnMut(&mut Vec<ExpertEvent>),
    ) {
        let shape = StepShape {
            outputs: self.outputs.len(),
            ..shape
        };
        self.cost.observe(shape, took.as_secs_f64() * 1e6);
        for share in &self.shares {
            let session = &mut self.sessions[share.session];
            if let Some(sequence) = &mut session.sequence {
                self.cache.grew(sequence, share.rows);
                session.cached += share.rows;
            }
        }
        let mut broken = Vec::new();
        let mut outputs = self.outputs.iter().peekable();
        for share in &self.shares {
            let session = &mut self.sessions[share.session];
            let (mut finite, pool) = (true, &mut self.pool);
            while let Some((_, index, row)) = outputs.next_if(|output| output.0 == share.session) {
                finite &= session.row(*index, self.cache.logits(*row), pool).is_ok();
            }
            if !finite {
                broken.push((session.id, ExpertFailure::NotFinite));
                continue;
            }
            let asked = session.has_pending();
            session.stepped(took, &mut self.out);
            // What waited behind the draft may be answerable already.
            if let Err(why) = session.advance(self.bounds, self.steps, pool, &mut self.out) {
                broken.push((session.id, why));
            }
            session.awaited = asked && !session.tardy && !session.has_pending();
            send(&mut self.out);
        }
        for (id, why) in broken {
            if let Some(index) = self.find(id) {
                self.fail(index, why);
            }
        }
    }

    fn fail_planned(&mut self, why: &str) {
        tracing::error!(target: "quorate::expert", why, "a step failed");
        let ids: Vec<SessionId> = self
            .shares
            .iter()
            .map(|share| self.sessions[share.session].id)
            .collect();
        for id in ids {
            if let Some(index) = self.find(id) {
                self.fail(index, ExpertFailure::Engine(why.to_owned()));
            }
        }
    }
}
