//! Who is sent what: questions to the set, decided tokens to the spares, the whole text to whoever
//! is woken, and what follows when somebody is lost.

use super::{Finish, Generate, Output, Part, State, Trouble};
use crate::ids::{Micros, Position, Token};
use crate::law::Sampler;
use crate::limits::{CATCH_UP_TOKENS, DRAFT_TOKENS_MAX};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::{ExpertFailure, ExpertOp, Open, Query};
use crate::team::Standing;
use std::fmt;
use std::sync::Arc;

impl Trouble {
    pub(super) fn of(why: ExpertFailure) -> Trouble {
        match why {
            ExpertFailure::Busy { retry_ms } => Trouble::Busy { retry_ms },
            other => Trouble::Gone(other.to_string()),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Late => f.write_str("it did not answer in time"),
            Trouble::Busy { retry_ms } => ExpertFailure::Busy {
                retry_ms: *retry_ms,
            }
            .fmt(f),
            Trouble::Gone(why) | Trouble::Lied(why) => f.write_str(why),
        }
    }
}

impl Generate {
    /// The first question about a position.
    pub(super) fn question(&self, position: Position) -> Query {
        let lists = self.spec.law.lists;
        let mut query = match self.spec.law.sampler {
            Sampler::Seeded => Query::perturbed(self.spec.secret.key(position), lists.tau),
            Sampler::SeededPlain | Sampler::Greedy | Sampler::Rejection => {
                Query::plain(lists.mass, lists.max_entries)
            }
        };
        query.raw_top = self.spec.logprobs;
        let is_first = position as usize == self.spec.prompt.len();
        query.scores = u16::from(self.team.follows() && !is_first);
        query
    }

    /// Asks the set about the undecided position, unless a right guess has done so.
    pub(super) fn ask(&mut self, mask: Option<Arc<Mask>>, now: Micros, out: &mut Vec<Output>) {
        let mut query = self.question(self.position());
        self.log.mask(mask.clone());
        query.mask = mask;
        self.team.begin(self.position());
        self.first_question = Some(query.clone());
        self.team.choose(self.position());
        if self.team.is_choosing() {
            for i in self.team.group().to_vec() {
                self.team.asked_for_scores(i, self.position(), now);
            }
            self.state = State::Asking(query);
            return;
        }
        let group = self.team.group().to_vec();
        self.ahead.tempo.asks(&group);
        self.check_branches(out);
        for i in 0..self.parts.len() {
            if !group.contains(&i) {
                self.take_back_from(i, self.answer.len(), out);
            }
        }
        let warm = |i: &usize| self.team.members[*i].standing == Standing::Warm;
        let is_calm = self.ahead.guesses.is_empty() && group.iter().all(warm);
        self.calmly_asked = None;
        for i in group {
            if self.parts[i].asked > self.answer.len() {
                self.parts[i].owed = 1;
            } else {
                self.put(i, &query, now, out);
                self.calmly_asked = is_calm.then_some(now);
            }
            self.put_guesses(i, now, out);
        }
        self.state = State::Asking(query);
        self.keep_spares_warm(out);
    }

    /// Asks one member about the undecided position, with everything that it must know first.
    fn put(&mut self, i: usize, query: &Query, now: Micros, out: &mut Vec<Output>) {
        if self.team.members[i].standing == Standing::Asleep {
            self.open(i, out);
        }
        let (here, position) = (self.answer.len(), self.position());
        let mut query = query.clone();
        query.scores = self.team.scores_owed(i, position);
        let behind = here - self.parts[i].sent.min(here);
        if behind > 1 {
            self.team.members[i].reads.get_or_insert(behind);
        }
        if self.parts[i].asked > here {
            let ask = ExpertOp::Ask {
                session: self.spec.session,
                epoch: self.parts[i].epoch,
                position,
                query,
            };
            out.push(Output::ToExpert(self.team.members[i].expert, ask));
        } else {
            self.draft(i, here, vec![query], out);
            self.parts[i].asked = here + 1;
        }
        let part = &mut self.parts[i];
        (part.opinion, part.exact) = (None, None);
        part.owed += 1;
        self.team.members[i].ask(position, now);
    }

    /// Sends a member the whole text so far.
    pub(super) fn open(&mut self, i: usize, out: &mut Vec<Output>) {
        let open = Open {
            session: self.spec.session,
            scope: self.spec.scope,
            prompt: self.spec.prompt.clone(),
            answered: self.answer.clone(),
            transforms: self.spec.law.transforms.clone(),
            score: self.team.learns(),
            path: Vec::new(),
        };
        let member = &mut self.team.members[i];
        member.standing = Standing::Opening;
        member.reads = Some(self.spec.prompt.len() + self.answer.len());
        let part = &mut self.parts[i];
        (part.sent, part.asked) = (self.answer.len(), 0);
        (part.epoch, part.newest) = (0, 0);
        let expert = member.expert;
        out.push(Output::ToExpert(expert, ExpertOp::Open(Box::new(open))));
    }

    /// Tokens up to place `end` of the answer and its guesses that it has not got, in as many messages as
    /// it takes; the last one asks.
    pub(super) fn draft(
        &mut self,
        i: usize,
        end: usize,
        queries: Vec<Query>,
        out: &mut Vec<Output>,
    ) {
        let (session, expert) = (self.spec.session, self.team.members[i].expert);
        let Part { sent, epoch, .. } = &mut self.parts[i];
        let text = self.answer.iter().chain(&self.ahead.guesses).copied();
        let mut tokens: Vec<Token> = text.take(end).skip(*sent).collect();
        let mut send = |tokens: Vec<Token>, queries: Vec<Query>| {
            let position = (self.spec.prompt.len() + *sent) as u32;
            *sent += tokens.len();
            let draft = ExpertOp::Draft {
                session,
                epoch: *epoch,
                position,
                tokens,
                queries,
            };
            out.push(Output::ToExpert(expert, draft));
        };
        while tokens.len() > DRAFT_TOKENS_MAX {
            let rest = tokens.split_off(DRAFT_TOKENS_MAX);
            send(std::mem::replace(&mut tokens, rest), Vec::new());
        }
        send(tokens, queries);
    }

    fn keep_spares_warm(&mut self, out: &mut Vec<Output>) {
        for i in self.team.sleeping_spares() {
            self.open(i, out);
        }
        for i in self.team.warm_spares() {
            if self.team.follows() {
                self.catch_up(i, out);
            } else if self.parts[i].sent < self.answer.len() {
                self.draft(i, self.answer.len(), Vec::new(), out);
            }
        }
    }

    /// Whoever is outside a set whose weights follow the text reads it in pieces, and says what it thinks of
    /// each.
    fn catch_up(&mut self, i: usize, out: &mut Vec<Output>) {
        let part = &mut self.parts[i];
        if part.catches_up || part.sent + CATCH_UP_TOKENS > self.answer.len() {
            return;
        }
        part.catches_up = true;
        let end = part.sent + CATCH_UP_TOKENS;
        let position = (self.spec.prompt.len() + end) as Position;
        let query = Query::catch_up(self.team.scores_owed(i, position));
        self.draft(i, end, vec![query], out);
    }

    /// A second question, to those whose answers decide.
    pub(super) fn ask_again_all(&mut self, query: &Query, now: Micros, out: &mut Vec<Output>) {
        let asked = if self.set.is_empty() {
            self.team.group().to_vec()
        } else {
            self.set.clone()
        };
        for i in asked {
            let opinion = self.parts[i].opinion.take();
            self.put(i, query, now, out);
            // Exact values come beside the list, not instead of it.
            if matches!(self.state, State::Contending(..)) {
                self.parts[i].opinion = opinion;
            }
        }
    }

    /// What an expert thinks of the prompt: weights follow, as long as nothing was decided by them.
    pub(super) fn on_scores(&mut self, i: usize, ln_p: &[LnP], now: Micros, out: &mut Vec<Output>) {
        let expected = self.spec.prompt.len() - 1;
        if self.team.learns() && ln_p.len() != expected {
            let why = format!("it scored {} of {expected} tokens", ln_p.len());
            return self.lose(i, Trouble::Lied(why), now, out);
        }
        let position = self.position();
        if self.team.is_choosing()
            && let Some(answered) = self.team.members[i].answered(position, now)
        {
            out.push(Output::Heard {
                expert: self.team.members[i].expert,
                answered,
                compute_us: 0,
                bytes: 0,
            });
        }
        if self.team.scored(i, ln_p, position) {
            // Second questions followed from other weights.
            self.go_on(now, out);
        }
    }

    // --- losses ---------------------------------------------------------------------------------

    pub(super) fn lose(&mut self, i: usize, why: Trouble, now: Micros, out: &mut Vec<Output>) {
        let expert = self.team.members[i].expert;
        let session = self.spec.session;
        if matches!(self.team.members[i].standing, Standing::Gone(_)) {
            return; // given up before its connection broke: it has been told
        }
        if !matches!(self.team.members[i].standing, Standing::Asleep) {
            out.push(Output::ToExpert(expert, ExpertOp::Close { session }));
        }
        self.log.forget(expert);
        let changed = self.team.lose(i, why.to_string(), self.position());
        out.push(Output::Failed { expert, why });
        if changed {
            self.go_on(now, out);
        }
    }

    pub(super) fn on_tick(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.wake_at().is_none_or(|at| at > now) {
            return;
        }
        if matches!(self.state, State::Unread(..)) {
            return self.give_up_client(now, out);
        }
        let before = self.team.group().to_vec();
        if !self.team.expire(now, self.position()) {
            return;
        }
        for i in before
            .into_iter()
            .filter(|i| !self.team.group().contains(i))
        {
            let (expert, why) = (self.team.members[i].expert, Trouble::Late);
            if matches!(self.team.members[i].standing, Standing::Gone(_)) {
                let session = self.spec.session;
                out.push(Output::ToExpert(expert, ExpertOp::Close { session }));
            }
            out.push(Output::Failed { expert, why });
        }
        self.go_on(now, out);
    }

    /// The set at the undecided position is another one: newcomers are asked, and what the others
    /// said stays, unless it answered a question that only the old set had.
    fn go_on(&mut self, now: Micros, out: &mut Vec<Output>) {
        let outvoted = || self.spec.law.outvoted(self.team.group().len());
        if let Some(why) = self.team.last_words().or_else(outvoted) {
            return self.finish(Finish::Failed(why), now, out);
        }
        self.team.forget_told();
        self.forget_branches(out);
        let Some(query) = self.first_question.clone() else {
            return; // no question yet: the next one goes to the new set
        };
        if self.team.is_choosing() {
            return self.ask(query.mask, now, out);
        }
        // The old set's second questions are not the new one's: from the first one again.
        let anew = self.asked_again > 0;
        if anew {
            self.asked_again = 0;
            self.set.clear();
            self.log.forget_answers();
            // Nobody's, also not of one that is late and may be called back: it is asked again.
            for part in &mut self.parts {
                (part.opinion, part.exact) = (None, None);
            }
        }
        self.state = State::Asking(query.clone());
        self.calmly_asked = None;
        let group = self.team.group().to_vec();
        self.ahead.tempo.asks(&group);
        for i in 0..self.parts.len() {
            if !group.contains(&i) {
                // Who was late holds guesses, and questions that nobody waits for any more.
                self.take_back_from(i, self.answer.len(), out);
                continue;
            }
            let waiting = self.team.members[i].owes(self.position());
            if anew || self.parts[i].opinion.is_none() && !waiting {
                self.take_back_from(i, self.answer.len(), out);
                self.put(i, &query, now, out);
            }
            self.put_guesses(i, now, out);
        }
        self.keep_spares_warm(out);
        self.decide(now, out);
    }
}
