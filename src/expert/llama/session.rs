//! One session at the expert: its text, what is asked about it, and what of it must be computed.
//!
//! Pure bookkeeping. The engine moves tokens into the cache and hands rows of logits back.

use super::cache::Sequence;
use super::rows::{Pool, Rows};
use quorate_core::distribution::{History, NotFinite, score};
use quorate_core::ids::{Position, SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::lead;
use quorate_core::limits::{DRAFT_TOKENS_MAX, GUEST_OPS_BURST, SCORES_MAX};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, Open, Opinion, Query, Scope, Want,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Operations of one session that wait behind a draft: what a guest may send at once, and during a step of 100 ms.
const INBOX_MAX: usize = 2 * GUEST_OPS_BURST as usize;
/// A session that nobody has asked anything for this long is no running stream, and is the first to
/// give its cells up.
const IDLE: Duration = Duration::from_secs(2);

/// What the model bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) context: usize,
    pub(super) vocab: u32,
    /// Branches of a session.
    pub(super) branches: usize,
}

/// What stands before every session of an expert and is nobody's business: the token that begins a
/// text, if the model has one, and the prefix. Positions outside count public tokens only.
#[derive(Debug, Default)]
pub(super) struct Private {
    pub(super) tokens: Vec<Token>,
    bos: Option<Token>,
}

impl Private {
    /// `tokens` begin with `bos`, if there is one.
    pub(super) fn new(tokens: Vec<Token>, bos: Option<Token>) -> Private {
        Private { tokens, bos }
    }

    /// Does the public text bring the token that we begin with?
    fn is_begun_by(&self, public: &[Token]) -> bool {
        self.bos.is_some() && !self.tokens.is_empty() && public.first() == self.bos.as_ref()
    }

    /// The whole text of a session, and how many of its tokens are not public.
    fn before(&self, public: Vec<Token>) -> (Vec<Token>, usize) {
        if self.tokens.is_empty() {
            return (public, 0);
        }
        let shared = usize::from(self.is_begun_by(&public));
        let text = [&self.tokens[..], &public[shared..]].concat();
        (text, self.tokens.len() - shared)
    }
}

/// Questions that are not answered yet.
#[derive(Debug)]
struct Pending {
    queries: VecDeque<Query>,
    /// Position of the first of them; the others follow.
    first: Position,
    /// The step before which it was asked.
    since: u64,
    compute: Duration,
}

impl Pending {
    /// Does one of them ask what is thought of the token at this position?
    fn wants_judged(&self, position: Position) -> bool {
        let asks = |(at, query): (Position, &Query)| {
            position < at && position + Position::from(query.scores) >= at
        };
        (self.first..).zip(&self.queries).any(asks)
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// Another text beside that of the session with this id.
    pub(super) is_branch: bool,
    pub(super) scope: Scope,
    /// Prompt and everything appended to it.
    pub(super) text: Vec<Token>,
    /// Tokens at the beginning of `text` that are in the cache and right. The sequence may hold
    /// more for a moment: what was truncated, or must be computed again for its logits.
    pub(super) cached: usize,
    /// None: not begun, or preempted.
    pub(super) sequence: Option<Sequence>,
    /// When it last heard from us, for who is waited for and who is idle.
    pub(super) answered: Instant,
    /// The next step waits a moment for what it says to the last opinions.
    pub(super) awaited: bool,
    /// It took longer than the moment last time.
    pub(super) tardy: bool,
    /// Tokens of `text` that the router does not know of, at its beginning.
    private: usize,
    /// The first token of `text` is public and stands before the private ones.
    shares_first: bool,
    /// Length of `text` as it was given.
    prompt: usize,
    transforms: Transforms,
    epoch: u32,
    /// Of the text and its branches so far.
    newest: u32,
    inbox: VecDeque<ExpertOp>,
    pending: Option<Pending>,
    /// What is asked about the positions behind the end of the text, which goes on by our choices.
    lead: VecDeque<Query>,
    /// Our choice at the end of the text, once that was asked about.
    choice: Option<(Position, Token)>,
    bounds: Bounds,
    rows: Rows,
    scores: Option<Vec<LnP>>,
    /// What is thought of tokens of the text by their positions, as far as it may still be asked.
    judged: BTreeMap<Position, LnP>,
    reused: Option<u32>,
    begun: Option<Instant>,
    ready: bool,
}

impl Session {
    pub(super) fn new(
        open: Open,
        private: &Private,
        bounds: Bounds,
    ) -> Result<Session, ExpertFailure> {
        if open.prompt.is_empty() {
            return refused("the prompt is empty");
        }
        let prompt = open.prompt.len();
        let public = [open.prompt, open.answered].concat();
        check_tokens(&public, public.len(), bounds)?;
        let shares_first = private.is_begun_by(&public);
        let (text, private) = private.before(public);
        let prompt = prompt + private;
        Ok(Session {
            id: open.session,
            is_branch: false,
            scope: open.scope,
            prompt,
            text,
            cached: 0,
            sequence: None,
            answered: Instant::now(),
            awaited: false,
            tardy: false,
            private,
            shares_first,
            transforms: open.transforms,
            epoch: 0,
            newest: 0,
            inbox: VecDeque::new(),
            pending: None,
            lead: VecDeque::new(),
            choice: None,
            bounds,
            rows: Rows::default(),
            scores: open.score.then(Vec::new),
            judged: BTreeMap::new(),
            reused: None,
            begun: None,
            ready: false,
        })
    }

    // --- what is to be computed -----------------------------------------------------------------

    /// Tokens that should be in the cache. The last one waits until somebody asks what follows it.
    fn goal(&self) -> usize {
        if self.pending.is_some() {
            self.text.len()
        } else {
            self.text.len().saturating_sub(1)
        }
    }

    pub(super) fn missing(&self) -> usize {
        self.goal().saturating_sub(self.cached)
    }

    /// Is this a stream between two tokens, rather than a prompt on its way in?
    pub(super) fn is_draft(&self) -> bool {
        self.ready && self.pending.is_some() && self.missing() <= DRAFT_TOKENS_MAX
    }

    pub(super) fn is_scored(&self) -> bool {
        self.scores
            .as_ref()
            .is_some_and(|scores| self.private + scores.len() + 1 < self.prompt)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.missing() == 0 && self.answered.elapsed() > IDLE
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn waits_since(&self) -> u64 {
        self.pending.as_ref().map_or(0, |pending| pending.since)
    }

    /// How much of the beginning another sequence may provide: never a token whose logits are wanted, and nothing of
    /// a prompt whose every logit is wanted.
    pub(super) fn reusable(&self) -> usize {
        if self.is_scored() {
            return self.private;
        }
        let end = self.text.len().saturating_sub(1);
        let Some(pending) = &self.pending else {
            return end;
        };
        let first = self.private + pending.first as usize;
        let from = first.saturating_sub(1 + usize::from(SCORES_MAX));
        (from..end)
            .find(|&index| self.wants_row(index))
            .unwrap_or(end)
    }

    /// The position after token `index`, as the router counts; None before its first token.
    fn position_after(&self, index: usize) -> Option<Position> {
        let position = (index + 1).checked_sub(self.private)?;
        (position > 0).then_some(position as Position)
    }

    /// Are the logits after token `index` wanted?
    pub(super) fn wants_row(&self, index: usize) -> bool {
        let asked = |pending: &Pending| {
            let Some(position) = self.position_after(index) else {
                return false;
            };
            position >= pending.first && self.rows.at(position).is_none()
                || self.is_unjudged(index) && pending.wants_judged(position)
        };
        self.wants_score(index) || self.pending.as_ref().is_some_and(asked)
    }

    /// The token after this one is known, and what is thought of it is not.
    fn is_unjudged(&self, index: usize) -> bool {
        let position = self.position_after(index);
        let is_new = position.is_some_and(|position| !self.judged.contains_key(&position));
        is_new && index + 1 < self.text.len()
    }

    fn wants_score(&self, index: usize) -> bool {
        // The first public token is not scored: outside, it has no context.
        let missing =
            |scores: &Vec<LnP>| index >= self.private + scores.len() && index + 1 < self.prompt;
        self.scores.as_ref().is_some_and(missing)
    }

    // --- what comes from the engine -------------------------------------------------------------

    /// A sequence with `reused` tokens of the text is there.
    pub(super) fn begin(&mut self, sequence: Sequence) {
        self.cached = sequence.len();
        let reused = sequence.len().saturating_sub(self.private);
        self.reused.get_or_insert(reused as u32);
        self.begun.get_or_insert_with(Instant::now);
        self.sequence = Some(sequence);
    }

    /// The sequence is taken away; the text stays, and so does everything that was said of it.
    pub(super) fn preempt(&mut self) -> Option<Sequence> {
        self.cached = 0;
        self.sequence.take()
    }

    /// The logits after token `index`.
    pub(super) fn row(
        &mut self,
        index: usize,
        logits: &[f32],
        pool: &mut Pool,
    ) -> Result<(), NotFinite> {
        if self.wants_score(index)
            && let Some(scores) = &mut self.scores
        {
            scores.push(score(logits, self.text[index + 1])?);
        }
        let Some(position) = self.position_after(index) else {
            return Ok(());
        };
        let pending = self.pending.as_ref();
        if self.is_unjudged(index) && pending.is_some_and(|p| p.wants_judged(position)) {
            let judged = score(logits, self.text[index + 1])?;
            self.judged.insert(position, judged);
        }
        let asked = self.pending.as_ref().and_then(|pending| {
            let nth = position.checked_sub(pending.first)?;
            Some((pending.first, pending.queries.get(nth as usize)?))
        });
        let Some((first, query)) = asked else {
            return Ok(());
        };
        // Second questions are about the end of the text: who leads leaves no row behind at every step.
        self.rows.keep(|at| at + 1 >= first, pool);
        let public = self.public(index + 1);
        let history = History {
            tokens: &public,
            prompt: self.prompt - self.private,
        };
        let mut row = pool.take();
        let keep_raw = query.raw_top.is_some() || query.scores > 0;
        row.measure(logits, &self.transforms, history, keep_raw)?;
        self.rows.put(position, row, pool);
        Ok(())
    }

    /// The first `end` tokens of the text without what is private: penalties look at nothing else.
    fn public(&self, end: usize) -> Cow<'_, [Token]> {
        if self.private == 0 {
            return Cow::Borrowed(&self.text[..end]);
        }
        let first = usize::from(self.shares_first);
        let rest = &self.text[first + self.private..end];
        Cow::Owned([&self.text[..first], rest].concat())
    }

    /// A step that took `took` is over: says what can be said now.
    pub(super) fn stepped(&mut self, took: Duration, out: &mut Vec<ExpertEvent>) {
        if let Some(pending) = &mut self.pending {
            pending.compute += took;
        }
        self.announce(out);
        self.answer(out);
    }

    /// Says once that the prompt is in.
    pub(super) fn announce(&mut self, out: &mut Vec<ExpertEvent>) {
        if self.ready || self.cached + 1 < self.prompt {
            return;
        }
        self.ready = true;
        let session = self.id;
        let prefill = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        let reused = self.reused.unwrap_or(0);
        out.push(ExpertEvent::Ready {
            session,
            reused,
            prefill_us: prefill.as_micros() as u64,
            branches: self.bounds.branches as u8,
        });
        if let Some(ln_p) = self.scores.take() {
            out.push(ExpertEvent::Scored { session, ln_p });
        }
    }

    /// Answers as many questions as can be: a router that guesses ahead decides with the first.
    fn answer(&mut self, out: &mut Vec<ExpertEvent>) {
        let mut opinions = Vec::new();
        while self.ready
            && let Some(pending) = &self.pending
            && let Some(query) = pending.queries.front()
            && let Some(opinion) = self.opinion(pending.first, query)
        {
            self.choice = lead::choice(query, &opinion.said).map(|token| (opinion.position, token));
            opinions.push(opinion);
            if let Some(pending) = &mut self.pending {
                pending.queries.pop_front();
                pending.first += 1;
            }
        }
        if opinions.is_empty() {
            return;
        }
        let compute = match &mut self.pending {
            Some(pending) => std::mem::take(&mut pending.compute),
            None => Duration::ZERO,
        };
        let since = self.pending.as_ref().map_or(0, |pending| pending.since);
        self.pending.take_if(|pending| pending.queries.is_empty());
        if self.pending.is_none() {
            self.go_on(since);
        }
        out.push(ExpertEvent::Opinions {
            session: self.id,
            epoch: self.epoch,
            opinions,
            compute_us: compute.as_micros() as u64,
            bytes: 0,
        });
        self.answered = Instant::now();
    }

    /// The next step of a lead: the text is our choice longer, and asked about.
    fn go_on(&mut self, since: u64) {
        let end = self.text.len() - self.private;
        let chosen = self.choice.filter(|(at, _)| *at as usize == end);
        let (Some((at, token)), true) = (chosen, end < self.bounds.context) else {
            self.lead.clear();
            return;
        };
        let Some(query) = self.lead.pop_front() else {
            return;
        };
        self.text.push(token);
        self.judge(at);
        self.pending = Some(Pending {
            queries: VecDeque::from([query]),
            first: at + 1,
            since,
            compute: Duration::ZERO,
        });
    }

    fn opinion(&self, position: Position, query: &Query) -> Option<Opinion> {
        let (said, raw) = self.rows.at(position)?.answer(query);
        let wanted = position.saturating_sub(query.scores.into())..position;
        let known = wanted.rev().map_while(|at| self.judged.get(&at).copied());
        let mut scored: Vec<LnP> = known.collect();
        scored.reverse();
        Some(Opinion {
            position,
            said,
            raw,
            scored,
        })
    }

    /// What is thought of the token at this position, if the row before it is retained. What nobody can ask
    /// about any more is forgotten.
    fn judge(&mut self, position: Position) {
        let token = self.text.get(self.private + position as usize).copied();
        let row = self.rows.at(position);
        if let (Some(token), Some(row)) = (token, row)
            && let Some(judged) = row.untransformed(token)
        {
            self.judged.insert(position, judged);
        }
        let oldest = position.saturating_sub(SCORES_MAX.into());
        self.judged.retain(|at, _| *at >= oldest);
    }

    // --- what comes from the router -------------------------------------------------------------

    pub(super) fn receive(&mut self, op: ExpertOp) -> Result<(), ExpertFailure> {
        if let ExpertOp::Truncate { position, .. } = op {
            self.forget_from(position);
        }
        if self.inbox.len() >= INBOX_MAX {
            return refused("too many operations at once");
        }
        self.inbox.push_back(op);
        Ok(())
    }

    /// Guesses were wrong: what is still asked is not worth a step, and what waits to be appended or taken
    /// back behind `end` is forgotten. So an expert that lags behind does not fill its inbox with guesses.
    fn forget_from(&mut self, end: Position) {
        self.pending = None;
        self.lead.clear();
        self.inbox.retain(|op| match op {
            ExpertOp::Draft { position, .. } | ExpertOp::Truncate { position, .. } => {
                *position < end
            }
            _ => false,
        });
        for op in &mut self.inbox {
            if let ExpertOp::Draft {
                position,
                tokens,
                queries,
                ..
            } = op
            {
                tokens.truncate((end - *position) as usize);
                queries.clear();
            }
        }
    }

    /// The text up to a place, with what still waits to be appended; then one token, and a question about what follows.
    /// It is not begun: what it has in common with this one is shared when it is.
    pub(super) fn branch(
        &self,
        epoch: u32,
        position: Position,
        token: Token,
        query: Query,
        step: u64,
        pool: &mut Pool,
    ) -> Result<Session, ExpertFailure> {
        let waiting = self.inbox.iter().filter_map(|op| match op {
            ExpertOp::Draft { tokens, .. } => Some(tokens),
            _ => None,
        });
        let said = self.text.iter().chain(waiting.flatten()).copied();
        let end = self.private + position as usize;
        let text: Vec<Token> = said.take(end).collect();
        if text.len() < end || end < self.prompt || !self.ready || self.newest >= epoch {
            return refused(format!(
                "a branch at {position} in epoch {epoch} leaves no text"
            ));
        }
        let mut branch = Session {
            id: self.id,
            is_branch: true,
            scope: self.scope,
            text,
            cached: 0,
            sequence: None,
            answered: Instant::now(),
            awaited: false,
            tardy: false,
            private: self.private,
            shares_first: self.shares_first,
            prompt: self.prompt,
            transforms: self.transforms.clone(),
            epoch,
            newest: epoch,
            inbox: VecDeque::new(),
            pending: None,
            lead: VecDeque::new(),
            choice: None,
            bounds: self.bounds,
            rows: Rows::default(),
            scores: None,
            judged: BTreeMap::new(),
            reused: None,
            begun: None,
            ready: true,
        };
        branch.draft(position, &[token], vec![query], self.bounds, step, pool)?;
        Ok(branch)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// A branch began in this epoch.
    pub(super) fn branched(&mut self, epoch: u32) {
        self.newest = epoch;
    }

    /// Carries out what can be carried out without the model. `step` counts the engine's steps.
    pub(super) fn advance(
        &mut self,
        bounds: Bounds,
        step: u64,
        pool: &mut Pool,
        out: &mut Vec<ExpertEvent>,
    ) -> Result<(), ExpertFailure> {
        self.announce(out);
        while self.inbox.front().is_some_and(|op| self.may_begin(op)) {
            match self.inbox.pop_front() {
                Some(ExpertOp::Draft {
                    epoch,
                    position,
                    tokens,
                    queries,
                    ..
                }) => {
                    self.check_epoch(epoch)?;
                    self.draft(position, &tokens, queries, bounds, step, pool)?;
                    self.answer(out);
                }
                Some(ExpertOp::Lead {
                    epoch,
                    position,
                    queries,
                    ..
                }) => {
                    self.check_epoch(epoch)?;
                    self.lead(position, queries, bounds, step)?;
                }
                Some(ExpertOp::Ask {
                    epoch,
                    position,
                    query,
                    ..
                }) => {
                    self.check_epoch(epoch)?;
                    self.ask(position, &query, bounds, out)?;
                }
                Some(ExpertOp::Truncate {
                    epoch, position, ..
                }) => {
                    self.truncate(epoch, position, pool)?;
                }
                // The engine's: they are about other texts than this one.
                Some(
                    ExpertOp::Open(_)
                    | ExpertOp::Branch { .. }
                    | ExpertOp::Settle { .. }
                    | ExpertOp::Forget { .. }
                    | ExpertOp::Close { .. },
                )
                | None => {}
            }
        }
        Ok(())
    }

    /// Everything waits for the questions before it, but a draft that goes on where they end: it is
    /// computed in the same batch.
    fn may_begin(&self, op: &ExpertOp) -> bool {
        let Some(pending) = &self.pending else {
            return true;
        };
        let goes_on = |tokens: &[Token], queries: &[Query]| {
            let asked = pending.queries.len() + queries.len();
            tokens.len() == queries.len() && asked <= DRAFT_TOKENS_MAX && self.lead.is_empty()
        };
        match op {
            ExpertOp::Draft {
                tokens, queries, ..
            } => goes_on(tokens, queries),
            ExpertOp::Lead { .. } => true,
            _ => false,
        }
    }

    fn check_epoch(&self, epoch: u32) -> Result<(), ExpertFailure> {
        if epoch == self.epoch {
            return Ok(());
        }
        refused(format!("epoch {epoch} is asked in, this is {}", self.epoch))
    }

    fn draft(
        &mut self,
        position: Position,
        tokens: &[Token],
        queries: Vec<Query>,
        bounds: Bounds,
        step: u64,
        pool: &mut Pool,
    ) -> Result<(), ExpertFailure> {
        let len = self.text.len() - self.private;
        if position as usize != len {
            return refused(format!(
                "a draft at {position}, but the text has {len} tokens"
            ));
        }
        if queries.len() > tokens.len() + 1 || queries.len() > DRAFT_TOKENS_MAX {
            let (asked, given) = (queries.len(), tokens.len());
            return refused(format!("{asked} questions about a draft of {given} tokens"));
        }
        check_tokens(tokens, len + tokens.len(), bounds)?;
        queries
            .iter()
            .try_for_each(|query| check_query(query, bounds))?;
        self.text.extend_from_slice(tokens);
        if !tokens.is_empty() && queries.iter().any(|query| query.scores > 0) {
            self.judge(position);
        }
        let len = len + tokens.len();
        let first = (len + 1 - queries.len()) as Position;
        if first == 0 {
            return refused("nothing comes before position 0");
        }
        let past = if tokens.is_empty() {
            position
        } else {
            position + 1
        };
        let oldest = first.min(past);
        let oldest = match &self.pending {
            Some(pending) => oldest.min(pending.first),
            None => oldest,
        };
        self.rows.keep(|at| at >= oldest, pool);
        if let Some(pending) = &mut self.pending {
            pending.queries.extend(queries);
            return Ok(());
        }
        if queries.is_empty() {
            return Ok(());
        }
        let pending = Pending {
            queries: queries.into(),
            first,
            since: step,
            compute: Duration::ZERO,
        };
        // A row asked about that is neither retained nor still to come is computed again, and so is one
        // before a token of which it is asked what is thought.
        let cached = self.cached.saturating_sub(self.private);
        let is_missing = |at: &usize| {
            let position = *at as Position;
            let is_unjudged = self.is_unjudged(self.private + at - 1);
            position >= first && self.rows.at(position).is_none()
                || is_unjudged && pending.wants_judged(position)
        };
        let oldest = (first as usize).saturating_sub(SCORES_MAX.into()).max(1);
        if let Some(at) = (oldest..=cached).find(is_missing) {
            self.cached = self.private + at - 1;
        }
        self.pending = Some(pending);
        Ok(())
    }

    /// Begins at the end of the text, and of what is led to already.
    fn lead(
        &mut self,
        position: Position,
        queries: Vec<Query>,
        bounds: Bounds,
        step: u64,
    ) -> Result<(), ExpertFailure> {
        let end = self.text.len() - self.private + self.lead.len();
        // It may have stopped where the router, which knows that by now, thought it would go on.
        if queries.is_empty() || position as usize > end {
            return Ok(());
        }
        if (position as usize) < end || self.lead.len() + queries.len() > DRAFT_TOKENS_MAX {
            let asked = queries.len();
            return refused(format!(
                "a lead of {asked} from {position}, but the text has {end} tokens"
            ));
        }
        queries
            .iter()
            .try_for_each(|query| check_query(query, bounds))?;
        self.lead.extend(queries);
        if self.pending.is_none() {
            self.go_on(step);
        }
        Ok(())
    }

    fn ask(
        &mut self,
        position: Position,
        query: &Query,
        bounds: Bounds,
        out: &mut Vec<ExpertEvent>,
    ) -> Result<(), ExpertFailure> {
        check_query(query, bounds)?;
        let asked = Instant::now();
        let Some(opinion) = self.opinion(position, query) else {
            return refused(format!("nothing was said about position {position}"));
        };
        out.push(ExpertEvent::Opinions {
            session: self.id,
            epoch: self.epoch,
            opinions: vec![opinion],
            compute_us: asked.elapsed().as_micros() as u64,
            bytes: 0,
        });
        self.answered = Instant::now();
        Ok(())
    }

    fn truncate(
        &mut self,
        epoch: u32,
        position: Position,
        pool: &mut Pool,
    ) -> Result<(), ExpertFailure> {
        let (at, len) = (position as usize, self.text.len() - self.private);
        if at > len {
            return refused(format!("truncated at {at}, but the text has {len}"));
        }
        if at == 0 && self.private > 0 {
            return refused("the first token stays");
        }
        let at = self.private + at;
        if epoch < self.newest {
            return refused(format!("epoch {epoch} comes after {}", self.newest));
        }
        (self.epoch, self.newest) = (epoch, epoch);
        self.text.truncate(at);
        self.prompt = self.prompt.min(at);
        self.cached = self.cached.min(at);
        self.judged.retain(|at, _| *at < position);
        self.rows.keep(|row| row <= position, pool);
        Ok(())
    }

    pub(super) fn close(&mut self, pool: &mut Pool) {
        self.rows.keep(|_| false, pool);
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, ExpertFailure> {
    Err(ExpertFailure::Refused(why.into()))
}

fn check_tokens(tokens: &[Token], len: usize, bounds: Bounds) -> Result<(), ExpertFailure> {
    if len > bounds.context {
        let (tokens, context) = (len as u32, bounds.context as u32);
        return Err(ExpertFailure::ContextFull { tokens, context });
    }
    match tokens.iter().find(|&&token| token >= bounds.vocab) {
        None => Ok(()),
        Some(token) => refused(format!("there is no token {token}")),
    }
}

/// Numbers that would make the list functions spin or say nothing.
fn check_query(query: &Query, bounds: Bounds) -> Result<(), ExpertFailure> {
    if query.scores > SCORES_MAX {
        return refused(format!("{} tokens are to be scored at once", query.scores));
    }
    match &query.want {
        Want::Perturbed { tau, .. } if !(*tau > 0.0 && tau.is_finite()) => {
            refused(format!("tau {tau} is not a positive number"))
        }
        Want::Plain { mass, .. } if !mass.is_finite() => refused(format!("mass {mass}")),
        Want::Scalars(tokens) if tokens.len() > bounds.vocab as usize => {
            refused("more tokens are asked about than there are")
        }
        _ => Ok(()),
    }
}
