//! Weights learned from what everybody thinks of the prompt, who is chosen by them, and who is not asked
//! because it weighs nothing.

use super::{BadPlan, Plan, Sets, Standing, Team};
use crate::ids::{ExpertId, Micros, Position, Token};
use crate::lnp::LnP;
use crate::weights::{
    Claim, Following, Observation, Reasons, Rule, Situation, Strategy, Weighing, Weights,
};

/// The candidates' weights are the prior. Equal weights need no scores, nor does one expert; and who speaks when is
/// drawn before all of them could be in.
pub(super) fn blank(plan: &Plan, weighing: Weighing) -> Result<Option<Weights>, BadPlan> {
    let takes_turns = matches!(plan.sets, Sets::Turns { .. });
    let is_equal = weighing.strategy == Strategy::Uniform || plan.candidates.len() < 2;
    if is_equal || takes_turns || plan.script.is_some() {
        return Ok(None);
    }
    let rule = Rule {
        strategy: weighing.strategy,
        ..Rule::default()
    };
    let mut prior: Vec<(ExpertId, f64)> = plan
        .candidates
        .iter()
        .map(|c| (c.expert, c.weight))
        .collect();
    prior.sort_by_key(|(expert, _)| *expert);
    let prior: Vec<f64> = prior.into_iter().map(|(_, weight)| weight).collect();
    let blank = Weights::from_prior(rule, &prior, None);
    blank.map(Some).map_err(|_| BadPlan::Rule)
}

/// What is said of given text goes into weights that do not change after it.
const FROZEN: Situation = Situation::Sampled(Following::Frozen);

impl Team {
    /// Whoever opens a session says what it thinks of the prompt.
    pub(crate) fn learns(&self) -> bool {
        self.blank.is_some()
    }

    /// Everybody is asked what it thinks of the prompt, and nobody about the first position yet.
    pub(crate) fn is_choosing(&self) -> bool {
        self.choosing
    }

    /// It has been sent the prompt, and has its time to say what it thinks of it.
    pub(crate) fn asked_for_scores(&mut self, i: usize, position: Position, now: Micros) {
        let member = &mut self.members[i];
        if self.choosing && !member.has_scored && !member.owes(position) {
            member.ask(position, now);
        }
    }

    /// ln p of the prompt's tokens but the first, by one member. Returns whether that changed the set or
    /// its weights at the undecided position.
    pub(crate) fn scored(&mut self, i: usize, ln_p: &[LnP], position: Position) -> bool {
        if !self.learns() {
            return false;
        }
        let is_other = self.screen.heard(i, ln_p);
        self.members[i].has_scored = true;
        self.has_news = true;
        if !is_other && !self.group.contains(&i) {
            return false; // what others weigh was declared without it
        }
        self.weigh();
        self.write_down(position);
        true
    }

    /// All that was said of the prompt so far is heard at once, when the set is weighed. Strategies are judged by
    /// what each would have said of the prompt with everybody's word; judged as words come in, they would be judged
    /// with the first to speak alone, and one expert leaves nothing to differ about.
    fn hear_out(&mut self) -> Option<&Weights> {
        if std::mem::take(&mut self.has_news) {
            let mut weights = self.blank.clone()?;
            let mut tokens = 0;
            for (k, ln_p) in self.screen.credible() {
                for (at, ln_p) in (1..).zip(ln_p) {
                    weights.heard(at, k, *ln_p);
                }
                tokens = tokens.max(ln_p.len());
            }
            let begun = weights.begin(tokens as Position + 1, FROZEN);
            begun.expect("frozen weights need no rule");
            self.learned = Some(weights);
        }
        self.learned.as_ref()
    }

    /// Once everybody who can has said what it thinks of the prompt: those that weigh most.
    pub(crate) fn choose(&mut self, position: Position) {
        let has_all = self.group.iter().all(|&i| self.members[i].has_scored);
        if !self.choosing || !has_all {
            return;
        }
        self.choosing = false;
        let weights = self.start();
        self.order
            .sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
        self.group.clear();
        self.fill(|standing| *standing == Standing::Warm);
        self.weigh();
        self.write_down(position);
    }

    /// Weighs the set by what its members said of the prompt; those that have not spoken count as all did
    /// before the first word. Once all have, whoever weighs nothing is not asked: where weights follow it
    /// may weigh more later.
    pub(super) fn weigh(&mut self) {
        let has_set_out = self.follow.as_ref().is_some_and(|f| f.start().is_some());
        if self.choosing || has_set_out || self.hear_out().is_none() {
            return;
        }
        let all = self.group.iter().all(|&i| self.members[i].has_scored);
        if !all || self.sets != Sets::A || self.follow.is_some() {
            return;
        }
        let has_said = |i: &usize| {
            let member = &self.members[*i];
            member.has_scored && member.standing == Standing::Warm
        };
        let pool = 0..self.members.len();
        let pool: Vec<usize> = pool
            .filter(|i| self.group.contains(i) || has_said(i))
            .collect();
        for (&i, weight) in pool.iter().zip(self.declared(&pool)) {
            self.members[i].is_outweighed = weight == 0.0;
        }
        let counts = |i: &usize| !self.members[*i].is_outweighed;
        if self.group.iter().any(counts) {
            self.group.retain(|i| !self.members[*i].is_outweighed);
        } else if pool.iter().any(counts) {
            for i in std::mem::take(&mut self.group) {
                self.members[i].forget_questions();
            }
            self.fill(|standing| *standing == Standing::Warm);
        }
    }

    /// Who knew the prompt, as far as this request asked.
    pub(crate) fn seen(&self, prompt: &[Token]) -> Option<Observation> {
        if !self.learns() {
            return None;
        }
        let said = self.screen.credible();
        let said: Vec<(ExpertId, &[LnP])> = said
            .map(|(k, ln_p)| (self.members[k].expert, ln_p))
            .collect();
        Observation::of(prompt, &said)
    }

    /// Why the answer sets out from the weights that it has. None: nobody has said anything of the prompt, or
    /// everybody weighs the same whatever is said.
    pub(crate) fn reasons(&self, first: Position) -> Option<Reasons> {
        let learned = self.learned.as_ref()?;
        let members = self.members.iter().enumerate();
        Some(Reasons {
            claims: members
                .map(|(i, m)| (m.expert, Claim::said(&self.screen, i)))
                .collect(),
            strategies: learned.beliefs(first),
        })
    }

    /// What the answer sets out from, of everybody.
    pub(super) fn start(&mut self) -> Vec<f64> {
        match self.hear_out() {
            Some(learned) => learned.start(),
            None => {
                let all: Vec<usize> = (0..self.members.len()).collect();
                self.declared(&all)
            }
        }
    }
}
