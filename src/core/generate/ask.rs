//! Who is sent what: questions to the set, decided tokens to the spares, the whole text to whoever
//! is woken, and what follows when somebody is lost.

use super::{Finish, Generate, Output, Part, State, Trouble};
use crate::ids::{Micros, Token};
use crate::law::Sampler;
use crate::limits::DRAFT_TOKENS_MAX;
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
    pub(super) fn ask(&mut self, mask: Option<Arc<Mask>>, now: Micros, out: &mut Vec<Output>) {
        let lists = self.spec.law.lists;
        let mut query = match self.spec.law.sampler {
            Sampler::Seeded => Query::perturbed(self.spec.secret.key(self.position()), lists.tau),
            Sampler::SeededPlain | Sampler::Greedy | Sampler::Rejection => {
                Query::plain(lists.mass, lists.max_entries)
            }
        };
        self.log.mask(mask.clone());
        query.mask = mask;
        query.raw_top = self.spec.logprobs;
        self.team.begin(self.position());
        self.first_question = Some(query.clone());
        for i in self.team.group().to_vec() {
            self.put(i, &query, now, out);
        }
        self.state = State::Asking(query);
        self.keep_spares_warm(out);
    }

    /// Asks one member, with everything that it must know first.
    fn put(&mut self, i: usize, query: &Query, now: Micros, out: &mut Vec<Output>) {
        if self.team.members[i].standing == Standing::Asleep {
            self.open(i, out);
        }
        let session = self.spec.session;
        if self.parts[i].drafted {
            let (position, query) = (self.position(), query.clone());
            let ask = ExpertOp::Ask {
                session,
                epoch: 0,
                position,
                query,
            };
            out.push(Output::ToExpert(self.team.members[i].expert, ask));
        } else {
            self.draft(i, vec![query.clone()], out);
            self.parts[i].drafted = true;
        }
        let part = &mut self.parts[i];
        (part.opinion, part.exact) = (None, None);
        part.owed += 1;
        self.team.members[i].asked = Some(now);
    }

    /// Sends a member the whole text so far.
    pub(super) fn open(&mut self, i: usize, out: &mut Vec<Output>) {
        let open = Open {
            session: self.spec.session,
            scope: self.spec.scope,
            prompt: self.spec.prompt.clone(),
            answered: self.answer.clone(),
            transforms: self.spec.law.transforms.clone(),
            score: false,
            path: Vec::new(),
        };
        let member = &mut self.team.members[i];
        member.standing = Standing::Opening;
        member.reads = Some(self.spec.prompt.len() + self.answer.len());
        self.parts[i].sent = self.answer.len();
        let expert = member.expert;
        out.push(Output::ToExpert(expert, ExpertOp::Open(Box::new(open))));
    }

    /// The decided tokens that it has not got, in as many messages as it takes; the last one asks.
    fn draft(&mut self, i: usize, queries: Vec<Query>, out: &mut Vec<Output>) {
        let (session, expert) = (self.spec.session, self.team.members[i].expert);
        let Part { sent, .. } = &mut self.parts[i];
        let send = |position: usize, tokens: &[Token], queries: Vec<Query>| {
            let draft = ExpertOp::Draft {
                session,
                epoch: 0,
                position: (self.spec.prompt.len() + position) as u32,
                tokens: tokens.to_vec(),
                queries,
            };
            Output::ToExpert(expert, draft)
        };
        while self.answer.len() - *sent > DRAFT_TOKENS_MAX {
            let end = *sent + DRAFT_TOKENS_MAX;
            out.push(send(*sent, &self.answer[*sent..end], Vec::new()));
            *sent = end;
        }
        out.push(send(*sent, &self.answer[*sent..], queries));
        *sent = self.answer.len();
    }

    fn keep_spares_warm(&mut self, out: &mut Vec<Output>) {
        for i in self.team.sleeping_spares() {
            self.open(i, out);
        }
        for i in self.team.warm_spares() {
            if self.parts[i].sent < self.answer.len() {
                self.draft(i, Vec::new(), out);
            }
        }
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

    // --- losses ---------------------------------------------------------------------------------

    pub(super) fn lose(&mut self, i: usize, why: Trouble, now: Micros, out: &mut Vec<Output>) {
        let expert = self.team.members[i].expert;
        let session = self.spec.session;
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
        let before = self.team.group().to_vec();
        if !self.team.expire(now, self.position()) {
            return;
        }
        for i in before
            .into_iter()
            .filter(|i| !self.team.group().contains(i))
        {
            let (expert, why) = (self.team.members[i].expert, Trouble::Late);
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
        let Some(query) = self.first_question.clone() else {
            return; // no question yet: the next one goes to the new set
        };
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
        for i in self.team.group().to_vec() {
            let waiting = self.team.members[i].asked.is_some() && self.parts[i].drafted;
            if anew || self.parts[i].opinion.is_none() && !waiting {
                self.put(i, &query, now, out);
            }
        }
        self.keep_spares_warm(out);
        self.decide(now, out);
    }
}
