//! What of this node's traffic is computed again, and when: windows of answers, drawn so that nobody can know them,
//! computed by a twin while the node has nothing else to do, within a budget.

use super::{Gap, WINDOW, is_calm, kept, question};
use crate::generate::{Listed, Spec};
use crate::ids::{ExpertId, Position, SessionId, Token};
use crate::law::Transforms;
use crate::limits::{AUDIT_SHARE, AUDITS_WAITING_MAX, AUDITS_WATCHED_MAX};
use crate::opinion::{ExpertEvent, ExpertOp, List, Open, Opinion, Query, Said, Scope};
use crate::seeded::Secret;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// A window begins below 16 tokens, 32, ... or 2,048.
const REACHES: u32 = 8;
const REACH_LEAST: u32 = 16;

/// A window of one answer: what experts said, and what their twin must know to say the same.
#[derive(Clone, Debug)]
struct Sample {
    session: SessionId,
    prompt: Vec<Token>,
    transforms: Transforms,
    window: Range<Position>,
    /// Up to the end of the window.
    answer: Vec<Token>,
    /// The expert of this process that is asked the same.
    twin: ExpertId,
    /// Experts elsewhere on the same file.
    judged: Vec<ExpertId>,
    /// The first question about a position, and the first list of each that answered it.
    said: BTreeMap<Position, (Query, BTreeMap<ExpertId, List>)>,
}

impl Sample {
    /// From the first position about which anybody said anything to the last.
    fn range(&self) -> Option<Range<Position>> {
        let (first, last) = (*self.said.keys().next()?, *self.said.keys().next_back()?);
        Some(first..last + 1)
    }

    /// Tokens that the twin reads for it.
    fn tokens(&self) -> u64 {
        self.range().map_or(0, |range| u64::from(range.end))
    }

    /// Open, ask, and nothing more.
    fn ops(&self, session: SessionId, range: &Range<Position>) -> Vec<ExpertOp> {
        let ask = |position: Position| match self.said.get(&position) {
            Some((asked, _)) => question(asked),
            None => Query::catch_up(0),
        };
        let place = |position: Position| position as usize - self.prompt.len();
        let (first, last) = (place(range.start), place(range.end - 1));
        let open = Open {
            session,
            scope: Scope::OWNER,
            prompt: self.prompt.clone(),
            answered: self.answer[..first].to_vec(),
            transforms: self.transforms.clone(),
            score: false,
            path: Vec::new(),
        };
        let draft = |tokens: &[Token], queries: Vec<Query>| ExpertOp::Draft {
            session,
            epoch: 0,
            position: range.start,
            tokens: tokens.to_vec(),
            queries,
        };
        let mut ops = vec![
            ExpertOp::Open(Box::new(open)),
            draft(&[], vec![ask(range.start)]),
        ];
        if last > first {
            let queries = (range.start + 1..range.end).map(ask).collect();
            ops.push(draft(&self.answer[first..last], queries));
        }
        ops
    }
}

/// An audit under way.
#[derive(Debug)]
struct UnderWay {
    sample: Sample,
    session: SessionId,
    range: Range<Position>,
    own: BTreeMap<Position, List>,
    spent_us: u64,
    /// What it was thought to take.
    estimate_us: u64,
}

/// Microseconds of this process's own experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// For requests.
    pub computed_us: u64,
    pub computed_tokens: u64,
    /// For audits.
    pub spent_us: u64,
    pub spent_tokens: u64,
}

impl Budget {
    /// By the audits so far, else by what a decoded token takes, which is more.
    fn estimate_us(&self, tokens: u64) -> u64 {
        let (us, of) = match self.spent_tokens {
            0 => (self.computed_us, self.computed_tokens),
            of => (self.spent_us, of),
        };
        (us / of.max(1) + 1).saturating_mul(tokens)
    }

    fn allows(&self, us: u64) -> bool {
        self.spent_us.saturating_add(us) <= self.computed_us / AUDIT_SHARE
    }
}

/// What became of what the twin said.
#[derive(Debug)]
pub enum Progress {
    /// It has more to say.
    Goes,
    /// Everything was computed again; the twin is told to close.
    Done {
        close: (ExpertId, ExpertOp),
        gaps: Vec<(ExpertId, Gap)>,
    },
}

#[derive(Debug, Default)]
pub struct Desk {
    /// Of requests that run, at most `AUDITS_WATCHED_MAX`.
    open: BTreeMap<SessionId, Sample>,
    /// At most `AUDITS_WAITING_MAX`.
    waiting: VecDeque<Sample>,
    under_way: Option<UnderWay>,
    budget: Budget,
}

impl Desk {
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Windows of ended requests that wait for an audit.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A request begins. `twins`: an expert elsewhere that it may ask, and one here on the same file.
    pub fn begins(
        &mut self,
        spec: &Spec,
        twins: &[(ExpertId, ExpertId)],
    ) -> Option<Range<Position>> {
        let (_, twin) = *twins.first()?;
        let transforms = &spec.law.transforms;
        let is_fit = !spec.grammar && kept(transforms).is_some() && is_calm(transforms);
        if !is_fit || self.open.len() >= AUDITS_WATCHED_MAX {
            return None;
        }
        let window = window(&spec.secret, spec.prompt.len() as Position);
        let sample = Sample {
            session: spec.session,
            prompt: spec.prompt.clone(),
            transforms: transforms.clone(),
            window: window.clone(),
            answer: Vec::new(),
            twin,
            judged: twins
                .iter()
                .filter(|(_, of)| *of == twin)
                .map(|(expert, _)| *expert)
                .collect(),
            said: BTreeMap::new(),
        };
        self.open.insert(spec.session, sample);
        Some(window)
    }

    /// The first list of an expert elsewhere about a position in the window.
    pub fn said(&mut self, session: SessionId, said: Listed) {
        let Listed {
            expert,
            position,
            query,
            list,
        } = said;
        let Some(sample) = self.open.get_mut(&session) else {
            return;
        };
        if !sample.judged.contains(&expert) || !sample.window.contains(&position) {
            return;
        }
        let (_, lists) = sample
            .said
            .entry(position)
            .or_insert_with(|| (query, BTreeMap::new()));
        lists.entry(expert).or_insert(list);
    }

    pub fn decided(&mut self, session: SessionId, token: Token) {
        if let Some(sample) = self.open.get_mut(&session)
            && sample.prompt.len() + sample.answer.len() < sample.window.end as usize
        {
            sample.answer.push(token);
        }
    }

    /// A request has ended: what is worth an audit waits for one. Where there is no room the oldest goes.
    pub fn ended(&mut self, session: SessionId) {
        let Some(mut sample) = self.open.remove(&session) else {
            return;
        };
        // A position whose tokens before are not all known was never decided.
        let known = (sample.prompt.len() + sample.answer.len()) as Position;
        sample.said.retain(|position, _| *position <= known);
        if sample.said.is_empty() {
            return;
        }
        if self.waiting.len() >= AUDITS_WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(sample);
    }

    /// An expert of this process computed something for a request.
    pub fn computed(&mut self, us: u64) {
        self.budget.computed_us = self.budget.computed_us.saturating_add(us);
        self.budget.computed_tokens += 1;
    }

    /// Begins the next audit, if the budget allows. Call it while nobody else wants the experts.
    pub fn start(&mut self) -> Option<(ExpertId, Vec<ExpertOp>)> {
        let sample = self.waiting.front().filter(|_| self.under_way.is_none())?;
        let estimate_us = self.budget.estimate_us(sample.tokens());
        if !self.budget.allows(estimate_us) {
            return None;
        }
        let sample = self.waiting.pop_front()?;
        let range = sample.range()?;
        let session = renamed(sample.session);
        let (twin, ops) = (sample.twin, sample.ops(session, &range));
        self.under_way = Some(UnderWay {
            sample,
            session,
            range,
            own: BTreeMap::new(),
            spent_us: 0,
            estimate_us,
        });
        Some((twin, ops))
    }

    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    pub fn is_under_way(&self, session: SessionId) -> bool {
        self.under_way
            .as_ref()
            .is_some_and(|audit| audit.session == session)
    }

    /// Somebody needs the experts, or the twin failed: what it took is counted as if it had ended.
    pub fn stop(&mut self) -> Option<(ExpertId, ExpertOp)> {
        let audit = self.under_way.take()?;
        self.spend(&audit, audit.spent_us.max(audit.estimate_us));
        Some(audit.close())
    }

    /// An expert of this process is gone.
    pub fn forget(&mut self, twin: ExpertId) {
        self.waiting.retain(|sample| sample.twin != twin);
        self.open.retain(|_, sample| sample.twin != twin);
        if self
            .under_way
            .as_ref()
            .is_some_and(|audit| audit.sample.twin == twin)
        {
            self.stop(); // there is nobody to tell
        }
    }

    /// What the twin says of the audit under way.
    pub fn heard(&mut self, event: ExpertEvent) -> Progress {
        let Some(audit) = &mut self.under_way else {
            return Progress::Goes;
        };
        match event {
            ExpertEvent::Ready { prefill_us, .. } => audit.spent_us += prefill_us,
            ExpertEvent::Opinions {
                opinions,
                compute_us,
                ..
            } => {
                audit.spent_us += compute_us;
                opinions.into_iter().for_each(|opinion| audit.take(opinion));
            }
            ExpertEvent::Scored { .. } => {}
            ExpertEvent::Failed { .. } => audit.range.end = audit.range.start,
        }
        let is_last = |position: &Position| *position + 1 >= audit.range.end;
        if !audit.own.keys().next_back().is_some_and(is_last) && !audit.range.is_empty() {
            return Progress::Goes;
        }
        let Some(audit) = self.under_way.take() else {
            return Progress::Goes;
        };
        self.spend(&audit, audit.spent_us);
        Progress::Done {
            close: audit.close(),
            gaps: audit.gaps(),
        }
    }

    fn spend(&mut self, audit: &UnderWay, us: u64) {
        self.budget.spent_us = self.budget.spent_us.saturating_add(us);
        self.budget.spent_tokens += audit.sample.tokens();
    }
}

impl UnderWay {
    fn take(&mut self, opinion: Opinion) {
        if let Said::List(list) = opinion.said
            && self.range.contains(&opinion.position)
        {
            self.own.insert(opinion.position, list);
        }
    }

    fn close(&self) -> (ExpertId, ExpertOp) {
        let session = self.session;
        (self.sample.twin, ExpertOp::Close { session })
    }

    /// By position, and there by expert.
    fn gaps(&self) -> Vec<(ExpertId, Gap)> {
        let Some(kept) = kept(&self.sample.transforms) else {
            return Vec::new(); // such a request is not watched
        };
        let pairs = self.own.iter();
        let pairs =
            pairs.filter_map(|(position, own)| Some((self.sample.said.get(position)?, own)));
        let gaps = pairs.flat_map(|((asked, lists), own)| {
            let gap = move |(expert, said): (&ExpertId, &List)| {
                (*expert, Gap::between(asked, kept, said, own))
            };
            lists.iter().map(gap)
        });
        gaps.collect()
    }
}

/// By a key of a position that no text has: experts get keys of positions, and never this one.
fn window(secret: &Secret, prompt: Position) -> Range<Position> {
    let draws = secret.key(Position::MAX).0;
    let reach = REACH_LEAST << (draws[0] % REACHES);
    let begin = prompt + draws[1] % reach;
    begin..begin + WINDOW
}

/// The name of an audit's session, which no request has.
fn renamed(session: SessionId) -> SessionId {
    let hash = blake3::derive_key("quorate 2026 audit session", &session.0.to_le_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    SessionId(u128::from_le_bytes(half))
}
