//! What the router wants: its operations, one after the other, and what of them is passed on.

use super::{Mixture, Output, Point, blend, refused};
use crate::ids::{Micros, Position, Token};
use crate::limits::{DRAFT_TOKENS_MAX, SCALARS_MAX};
use crate::opinion::{ExpertFailure, ExpertOp, Query, Want};
use blend::Heard;

impl Mixture {
    /// One question after the other, also a draft that goes on where the one before it ends: experts keep what
    /// second questions are about for their last draft only, and a mixture asks many.
    pub(super) fn take_next(&mut self, now: Micros, out: &mut Vec<Output>) {
        while !self.is_over
            && let Some(op) = self.waiting.front()
            && self.may_begin(op)
            && let Some(op) = self.waiting.pop_front()
        {
            if let Err(why) = self.take(now, op, out) {
                return self.fail(why, out);
            }
            self.go_on(now, out);
        }
    }

    fn may_begin(&self, op: &ExpertOp) -> bool {
        let is_open = self.points.iter().any(|point| point.since.is_some());
        !is_open || matches!(op, ExpertOp::Lead { .. })
    }

    /// Guesses were wrong: nothing that was asked about them is answered. Their tokens stay until the truncation says
    /// which of them do.
    pub(super) fn forget_questions(&mut self) {
        self.waiting
            .retain(|op| !matches!(op, ExpertOp::Ask { .. }));
        for op in &mut self.waiting {
            if let ExpertOp::Draft { queries, .. } | ExpertOp::Lead { queries, .. } = op {
                queries.clear();
            }
        }
        self.lead.clear();
        for point in &mut self.points {
            point.since = None;
        }
    }

    fn take(
        &mut self,
        now: Micros,
        op: ExpertOp,
        out: &mut Vec<Output>,
    ) -> Result<(), ExpertFailure> {
        match op {
            ExpertOp::Draft {
                epoch,
                position,
                tokens,
                queries,
                ..
            } => {
                self.check_epoch(epoch)?;
                self.draft(now, position, tokens, queries, out)
            }
            ExpertOp::Lead {
                epoch,
                position,
                queries,
                ..
            } => {
                self.check_epoch(epoch)?;
                self.lead(now, position, queries, out)
            }
            ExpertOp::Ask {
                epoch,
                position,
                query,
                ..
            } => {
                self.check_epoch(epoch)?;
                self.ask_again(now, position, query)
            }
            ExpertOp::Truncate {
                epoch, position, ..
            } => self.truncate(epoch, position, out),
            ExpertOp::Branch { .. } | ExpertOp::Settle { .. } | ExpertOp::Forget { .. } => {
                Err(refused("a mesh keeps no branches"))
            }
            ExpertOp::Open(_) | ExpertOp::Close { .. } => {
                Err(refused("the session is open already"))
            }
        }
    }

    fn draft(
        &mut self,
        now: Micros,
        position: Position,
        tokens: Vec<Token>,
        queries: Vec<Query>,
        out: &mut Vec<Output>,
    ) -> Result<(), ExpertFailure> {
        if position != self.length {
            return Err(refused("a draft that does not continue the text"));
        }
        if queries.len() > tokens.len() + 1 || tokens.len().max(queries.len()) > DRAFT_TOKENS_MAX {
            return Err(refused("more questions than a draft has places"));
        }
        let length = self.length + tokens.len() as u32;
        self.check_tokens(tokens.iter().copied(), length)?;
        queries.iter().try_for_each(|query| self.check(query))?;
        let first = (length + 1).saturating_sub(queries.len() as u32);
        let is_past = |at: Position| {
            if tokens.is_empty() {
                at < position
            } else {
                at <= position
            }
        };
        self.points
            .retain(|p| p.since.is_some() || !is_past(p.position) && p.position < first);
        self.length = length;
        let wants: Vec<Want> = queries.iter().map(|q| blend::first(&q.want)).collect();
        let inner = queries.iter().zip(&wants).map(|(query, want)| Query {
            want: want.clone(),
            scores: 0, // it says nothing of tokens before
            ..query.clone()
        });
        let inner: Vec<Query> = inner.collect();
        let known = self.points.len();
        let points = (first..).zip(queries).map(|(position, query)| Point {
            position,
            query,
            since: Some(now),
            told_without: None,
            heard: self.members.iter().map(|_| Heard::default()).collect(),
            asked: self.members.iter().map(|_| None).collect(),
            asked_again: 0,
        });
        self.points.extend(points);
        let (session, epoch) = (self.session, self.epoch);
        for (i, member) in self.members.iter_mut().enumerate().filter(|m| !m.1.is_gone) {
            if !inner.is_empty() {
                member.asked.get_or_insert(now);
            }
            for (point, want) in self.points[known..].iter_mut().zip(&wants) {
                point.heard[i].asked(want);
                point.asked[i] = Some(want.clone());
            }
            let draft = ExpertOp::Draft {
                session,
                epoch,
                position,
                tokens: tokens.clone(),
                queries: inner.clone(),
            };
            out.push(Output::ToExpert(member.expert, draft));
        }
        Ok(())
    }

    /// Begins at the end of the text, and of what is led to already; what is beyond was led to before we stopped.
    fn lead(
        &mut self,
        now: Micros,
        position: Position,
        queries: Vec<Query>,
        out: &mut Vec<Output>,
    ) -> Result<(), ExpertFailure> {
        let end = self.length + self.lead.len() as u32;
        if queries.is_empty() || position > end {
            return Ok(());
        }
        if position < end || self.lead.len() + queries.len() > DRAFT_TOKENS_MAX {
            return Err(refused("a lead that does not begin at the end of the text"));
        }
        queries.iter().try_for_each(|query| self.check(query))?;
        self.lead.extend(queries);
        if self.points.iter().all(|point| point.since.is_none()) {
            self.lead_on(now, out);
        }
        Ok(())
    }

    /// The next step of a lead: everybody behind us is told what the mixture chose.
    pub(super) fn lead_on(&mut self, now: Micros, out: &mut Vec<Output>) {
        let chosen = self.choice.filter(|(at, _)| *at == self.length);
        let Some(query) = self.lead.pop_front() else {
            return;
        };
        let led = chosen.map(|(at, token)| self.draft(now, at, vec![token], vec![query], out));
        if !matches!(led, Some(Ok(()))) {
            self.lead.clear(); // nothing is chosen, or the text is full: the router knows
        }
    }

    fn ask_again(
        &mut self,
        now: Micros,
        position: Position,
        query: Query,
    ) -> Result<(), ExpertFailure> {
        self.check(&query)?;
        let gone = self.gone();
        let Some(point) = self.points.iter_mut().find(|p| p.position == position) else {
            return Err(refused("nothing was said about this position"));
        };
        if point.told_without != Some(gone) {
            return Err(ExpertFailure::Gone); // what it said before was of another set
        }
        for heard in &mut point.heard {
            heard.turn(&point.query, &query);
        }
        (point.query, point.asked_again, point.since) = (query, 0, Some(now));
        Ok(())
    }

    fn truncate(
        &mut self,
        epoch: u32,
        position: Position,
        out: &mut Vec<Output>,
    ) -> Result<(), ExpertFailure> {
        if position > self.length || epoch < self.epoch {
            return Err(refused("a text that was not, or an epoch that is over"));
        }
        (self.length, self.epoch) = (position, epoch);
        self.choice = None;
        self.points.retain(|point| point.position <= position);
        for point in &mut self.points {
            point.asked.fill(None);
        }
        for member in &mut self.members {
            member.asked = None;
        }
        let session = self.session;
        let to_all = self.alive().map(|(_, member)| {
            let truncate = ExpertOp::Truncate {
                session,
                epoch,
                position,
            };
            Output::ToExpert(member.expert, truncate)
        });
        out.extend(to_all);
        Ok(())
    }

    fn check_epoch(&self, epoch: u32) -> Result<(), ExpertFailure> {
        match epoch == self.epoch {
            true => Ok(()),
            false => Err(refused("a question of another epoch")),
        }
    }

    /// Here already: nobody behind us is to be blamed for what a router sent.
    fn check(&self, query: &Query) -> Result<(), ExpertFailure> {
        match &query.want {
            Want::Perturbed { tau, .. } if !(*tau > 0.0 && tau.is_finite()) => {
                Err(refused("tau is not a positive number"))
            }
            Want::Plain { mass, .. } if !mass.is_finite() => Err(refused("mass is not a number")),
            Want::Scalars(tokens) if tokens.len() > SCALARS_MAX => {
                Err(refused("values of too many tokens"))
            }
            Want::Scalars(tokens) => self.check_tokens(tokens.iter().copied(), 0),
            Want::Perturbed { .. } | Want::Plain { .. } => Ok(()),
        }
    }

    pub(super) fn check_tokens(
        &self,
        mut tokens: impl Iterator<Item = Token>,
        length: u32,
    ) -> Result<(), ExpertFailure> {
        let context = self.context;
        match tokens.all(|token| token < self.vocab) {
            _ if length > context => Err(ExpertFailure::ContextFull {
                tokens: length,
                context,
            }),
            true => Ok(()),
            false => Err(refused("a token outside the vocabulary")),
        }
    }
}
