//! From opinions to the next token: take what counts, ask `aggregate` or `plain`, ask again.

use super::{Costs, Finish, Generate, Output, State, Trouble};
use crate::aggregate::{self, Verdict, Voice};
use crate::alarm::{self, Sign};
use crate::ids::{Micros, Position};
use crate::law::Sampler;
use crate::limits::SECOND_QUESTIONS_MAX;
use crate::lnp::LnP;
use crate::opinion::{BadList, List, Opinion, Query, Said, Want};
use crate::plain::{self, Draw};
use crate::team::Sets;

impl Generate {
    pub(super) fn on_opinions(
        &mut self,
        i: usize,
        opinions: Vec<Opinion>,
        costs: Costs,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let (epoch, costs) = (self.parts[i].epoch, costs.shared(opinions.len()));
        for opinion in opinions {
            // A decision may end the response, or take back what the rest is about.
            if self.is_done() || self.parts[i].epoch != epoch {
                return;
            }
            self.take_early(now, out);
            let (position, here) = (opinion.position, self.position());
            let is_early = position == here && matches!(self.state, State::Unread(..));
            if opinion.said == Said::Scalars(Vec::new()) {
                self.caught_up(i, opinion);
            } else if position > here || is_early {
                if let Some(costs) = self.answered(i, position, costs, now, out) {
                    self.ahead.keep(i, opinion, costs);
                }
            } else if position == here {
                self.on_opinion(i, opinion, costs, now, out);
            } // else nobody waits for it any more
        }
    }

    /// What somebody outside the set thinks of the text that it has read.
    fn caught_up(&mut self, i: usize, opinion: Opinion) {
        let was_asked = std::mem::take(&mut self.parts[i].catches_up) || self.team.is_scripted();
        if was_asked && opinion.position <= self.position() {
            self.team.caught_up(i, opinion.position, opinion.scored);
        }
    }

    /// Takes what was said about the undecided position before it was its turn, as it came.
    pub(super) fn take_early(&mut self, now: Micros, out: &mut Vec<Output>) {
        while matches!(self.state, State::Asking(_))
            && let Some(early) = self.ahead.take(self.position())
        {
            self.parts[early.member].costs = early.costs;
            if let Err(why) = self.take(early.member, early.opinion, out) {
                self.lose(early.member, Trouble::Lied(why), now, out);
            } else {
                self.decide(now, out);
            }
        }
    }

    fn on_opinion(
        &mut self,
        i: usize,
        opinion: Opinion,
        costs: Costs,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let here = self.position();
        if let Err(why) = self.take(i, opinion, out) {
            return self.lose(i, Trouble::Lied(why), now, out);
        }
        if self.parts[i].owed > 0 {
            return; // it has more to say before it is up to date
        }
        if let Some(costs) = self.answered(i, here, costs, now, out) {
            self.parts[i].costs = costs;
        }
        self.decide(now, out);
    }

    /// It answered a question about a position; None if it was not asked.
    fn answered(
        &mut self,
        i: usize,
        position: Position,
        said: Costs,
        now: Micros,
        out: &mut Vec<Output>,
    ) -> Option<Costs> {
        let member = &mut self.team.members[i];
        let answered = member.answered(position, now)?;
        let Costs {
            compute_us, bytes, ..
        } = said;
        let tempo = &mut self.ahead.tempo;
        let us = answered.us;
        if answered.follows {
            tempo.went_on(i, us);
        } else if let Some(step_us) = said.step_us(us, member.local) {
            tempo.chose(i, step_us, us - step_us);
        }
        out.push(Output::Heard {
            expert: member.expert,
            answered,
            compute_us,
            bytes,
        });
        Some(said.took(answered.us))
    }

    /// Files one expert's opinion about the undecided position; anything else is late and dropped.
    fn take(&mut self, i: usize, opinion: Opinion, out: &mut Vec<Output>) -> Result<(), String> {
        let part = &mut self.parts[i];
        part.owed = part.owed.saturating_sub(1);
        let is_said = match self.state {
            State::Contending(..) => part.exact.is_some(),
            _ => part.opinion.is_some(),
        };
        if part.owed > 0 || is_said || !self.team.group().contains(&i) {
            return Ok(());
        }
        match (&self.state, &opinion.said) {
            // Asked at first and not among those that decide: its list comes too late.
            (State::Asking(_) | State::Contending(..), Said::List(_)) if self.is_too_late(i) => {
                return Ok(());
            }
            (State::Asking(query), Said::List(list)) => {
                self.check(query, list)
                    .map_err(|bad| format!("an expert sent a list with {bad}"))?;
                out.extend(self.sign_of(i, query, list));
                out.extend(self.listed(i, query, list));
            }
            (State::Contending(_, contenders), Said::Scalars(values))
                if values.len() != contenders.len() =>
            {
                return Err("an expert left questions unanswered".into());
            }
            (State::Contending(..), Said::Scalars(_)) => {}
            (State::Asking(_) | State::Contending(..), _) => {
                return Err("an expert answered another question".into());
            }
            (State::Masking | State::Unread(..) | State::Done, _) => return Ok(()),
        }
        self.log
            .heard(self.asked_again, self.team.members[i].expert, &opinion.said);
        self.arrivals += 1;
        let position = self.position();
        let part = &mut self.parts[i];
        part.weighed = Some(position);
        part.arrival = self.arrivals;
        match opinion.said {
            Said::Scalars(values) => part.exact = Some(values),
            Said::List(_) => part.opinion = Some(opinion),
        }
        Ok(())
    }

    /// A second question went to those whose lists had decided that it is needed, and to nobody else.
    fn is_too_late(&self, i: usize) -> bool {
        self.asked_again > 0 && !self.set.is_empty() && !self.set.contains(&i)
    }

    fn check(&self, query: &Query, list: &List) -> Result<(), BadList> {
        list.check(self.vocab.len())?;
        match query.want {
            Want::Perturbed { key, tau } => list.check_keyed(key, tau),
            _ => Ok(()),
        }
    }

    /// What the first list about a position says of another node's expert.
    fn sign_of(&self, i: usize, query: &Query, list: &List) -> Option<Output> {
        let member = &self.team.members[i];
        let is_first = self.asked_again == 0 && self.parts[i].weighed != Some(self.position());
        let Want::Perturbed { key, tau } = query.want else {
            return None;
        };
        (is_first && !member.local).then(|| Output::Weighed {
            expert: member.expert,
            sign: alarm::keyed(key, tau, list),
        })
    }

    /// Where all lists are plain, each is compared with the others.
    fn compare(&self, out: &mut Vec<Output>) {
        if self.spec.law.sampler == Sampler::Seeded {
            return;
        }
        let lists = self.set.iter().filter_map(|&i| Some((i, self.list_of(i)?)));
        let (who, voices): (Vec<usize>, Vec<Voice<'_>>) = lists
            .map(|(i, list)| (i, Voice { weight: 1.0, list }))
            .unzip();
        let signs = alarm::apart(&voices).into_iter().flatten();
        for (&i, excess) in who.iter().zip(signs) {
            let member = &self.team.members[i];
            if !member.local {
                let (expert, sign) = (member.expert, Sign::Apart(excess));
                out.push(Output::Weighed { expert, sign });
            }
        }
    }

    /// Decides, if what is there decides.
    pub(super) fn decide(&mut self, now: Micros, out: &mut Vec<Output>) {
        let verdict = match &self.state {
            State::Asking(_) => match self.deciding_set() {
                Some(set) => {
                    self.follow(&set);
                    let verdict = self.verdict(&set);
                    self.set = set;
                    verdict
                }
                None => return,
            },
            State::Contending(query, contenders) => {
                let Want::Perturbed { key, .. } = query.want else {
                    return;
                };
                let weights = self.team.weights(&self.set);
                let exact = self.set.iter().map(|&i| self.parts[i].exact.as_deref());
                let said: Option<Vec<(f64, &[LnP])>> = weights
                    .into_iter()
                    .zip(exact)
                    .map(|(w, e)| Some((w, e?)))
                    .collect();
                let Some(said) = said else { return };
                aggregate::seeded_exact(key, contenders, &said)
            }
            State::Masking | State::Unread(..) | State::Done => return,
        };
        match verdict {
            Verdict::Wait => self.set.clear(),
            Verdict::Token(token) => {
                self.compare(out);
                self.commit(now, token, out);
            }
            undecided => self.ask_again(now, undecided, out),
        }
    }

    /// Where weights follow the text: what the set thinks of the token before came with its answers.
    fn follow(&mut self, set: &[usize]) {
        if !self.team.follows() {
            return;
        }
        let told = |&i: &usize| {
            let opinion = self.parts[i].opinion.as_ref();
            let scored = opinion.map_or_else(Vec::new, |o| o.scored.clone());
            (i, self.borne_out(i, scored))
        };
        let told: Vec<(usize, Vec<LnP>)> = set.iter().map(told).collect();
        self.team.follow(self.position(), &told);
    }

    /// Those whose lists count, in expert-id order; None while more are needed.
    fn deciding_set(&self) -> Option<Vec<usize>> {
        let group = self.team.group();
        let here = |i: &usize| self.parts[*i].opinion.is_some();
        match self.team.sets {
            Sets::A | Sets::Turns { .. } => {
                // Log-probabilities are those of the whole mixture.
                let may_be_early = self.spec.law.decides_early() && self.spec.logprobs.is_none();
                let enough = !group.is_empty() && (may_be_early || group.iter().all(here));
                enough.then(|| group.to_vec())
            }
            Sets::B => {
                let mut here: Vec<usize> = group.iter().copied().filter(here).collect();
                let needed = self.team.needed();
                if needed == 0 || here.len() < needed {
                    return None;
                }
                here.sort_by_key(|&i| self.parts[i].arrival);
                here.truncate(needed);
                here.sort_unstable();
                Some(here)
            }
        }
    }

    fn verdict(&self, set: &[usize]) -> Verdict {
        let weights = self.team.weights(set);
        let mut missing = 0.0;
        let mut voices = Vec::with_capacity(set.len());
        for (&i, weight) in set.iter().zip(weights) {
            match self.list_of(i) {
                Some(list) => voices.push(Voice { weight, list }),
                None => missing += weight,
            }
        }
        self.choose(self.position(), &voices, missing, self.draft_list(set))
    }

    /// What these voices decide at a position; `draft` is among them where the law needs one.
    pub(super) fn choose(
        &self,
        position: Position,
        voices: &[Voice<'_>],
        missing: f64,
        draft: Option<&List>,
    ) -> Verdict {
        let (law, secret) = (&self.spec.law, &self.spec.secret);
        let key = || secret.key(position);
        if let Some(f) = law.robust {
            let key = (law.sampler != Sampler::Greedy).then(key);
            return plain::robust_choice(key, voices, usize::from(f));
        }
        match (law.sampler, draft) {
            (Sampler::Seeded, _) => aggregate::seeded(key(), voices),
            (Sampler::SeededPlain, _) => plain::seeded(key(), voices),
            (Sampler::Greedy, _) => plain::greedy(voices, missing),
            (Sampler::Rejection, Some(draft)) => {
                Draw::new(secret, position).choose(draft, voices, missing)
            }
            (Sampler::Rejection, None) => Verdict::Wait,
        }
    }

    /// What the router drafts from: the list of its own expert, else the first that came. Nobody
    /// else may choose the draft.
    fn draft_list(&self, set: &[usize]) -> Option<&List> {
        match set.iter().find(|&&i| self.team.members[i].local) {
            Some(&own) => self.list_of(own),
            None => {
                let here = set.iter().filter(|&&i| self.parts[i].opinion.is_some());
                self.list_of(*here.min_by_key(|&&i| self.parts[i].arrival)?)
            }
        }
    }

    pub(super) fn list_of(&self, i: usize) -> Option<&List> {
        match &self.parts[i].opinion.as_ref()?.said {
            Said::List(list) => Some(list),
            Said::Scalars(_) => None,
        }
    }

    fn ask_again(&mut self, now: Micros, verdict: Verdict, out: &mut Vec<Output>) {
        // An expert keeps what second questions are about only for the end of its text.
        self.take_back(self.answer.len(), out);
        self.asked_again += 1;
        let (State::Asking(query) | State::Contending(query, _)) =
            std::mem::replace(&mut self.state, State::Masking)
        else {
            return;
        };
        if self.asked_again > SECOND_QUESTIONS_MAX {
            let why = "the experts' opinions never decided a token";
            return self.finish(Finish::Failed(why.into()), now, out);
        }
        let mut next = query.clone();
        match verdict {
            Verdict::Contenders(tokens) => {
                next.want = Want::Scalars(tokens.clone());
                self.state = State::Contending(query, tokens);
                self.ask_again_all(&next, now, out);
            }
            Verdict::Lower(tau) => {
                if let Want::Perturbed { tau: old, .. } = &mut next.want {
                    *old = tau;
                }
                self.state = State::Asking(next.clone());
                self.ask_again_all(&next, now, out);
            }
            Verdict::NoMass if !query.untruncated => {
                next.untruncated = true;
                self.state = State::Asking(next.clone());
                self.ask_again_all(&next, now, out);
            }
            Verdict::NoMass | Verdict::Token(_) | Verdict::Wait => {
                self.decide_without_mass(now, query, out);
            }
        }
    }

    /// Even without truncation no allowed token reaches the smallest probability that travels.
    fn decide_without_mass(&mut self, now: Micros, query: Query, out: &mut Vec<Output>) {
        let drawn = self.spec.law.sampler != Sampler::Greedy;
        let key = drawn.then(|| self.spec.secret.key(self.position()));
        let mask = query.mask.clone();
        self.state = State::Asking(query);
        match mask.as_deref().and_then(|mask| aggregate::among(mask, key)) {
            Some(token) => self.commit(now, token, out),
            None => {
                let why = "no token has any probability";
                self.finish(Finish::Failed(why.into()), now, out);
            }
        }
    }
}
