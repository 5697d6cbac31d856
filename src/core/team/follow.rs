//! Weights that follow the answer.
//!
//! What an expert thinks of the token before a position comes with its opinion about the position, so nobody
//! waits for evidence, and a guess that is taken back takes its evidence with it. Who is not in the set says
//! later what it missed. What counts, and from which position on, is written down with the position.

use super::{BadPlan, Member, Plan, Standing, Team};
use crate::generate::{Evidence, Weighed, lower};
use crate::ids::{ExpertId, Position};
use crate::limits::SCORES_MAX;
use crate::lnp::LnP;
use crate::weights::{FLOOR_DEFAULT, Follower, Following, Weighing, floored};

/// What somebody outside the set says of a token that it has read is borne out by nothing. It counts at most so much
/// more, in nats, than the best that others said: four nats for each catch-up, enough to come in from far behind.
const UNPROVEN_NATS: f64 = 0.25;
/// Whoever is outside must weigh so many times as much as somebody of the set to take its place: a newcomer
/// has the text to read.
const CHANGES_AT: f64 = 2.0;

#[derive(Debug)]
pub(super) struct Follow {
    following: Following,
    from: Position,
    experts: Vec<ExpertId>,
    /// None before the first decision.
    follower: Option<Follower>,
    /// The weights of a set at the undecided position.
    now: Option<(Vec<usize>, Vec<f64>)>,
    /// Up to here each has said what it thinks of the answer, as far as it was decided.
    heard_to: Vec<Position>,
    /// Came late, and counts from the next position on.
    late: Vec<(usize, Position, Vec<LnP>)>,
    has_news: bool,
    sets_out: bool,
    /// What counts for the undecided position: what came late, and what came with the answers.
    caught_up: Vec<Evidence>,
    told: Vec<(usize, Evidence)>,
}

impl Follow {
    pub(super) fn new(
        plan: &Plan,
        weighing: Weighing,
        from: Position,
        members: &[Member],
    ) -> Result<Option<Follow>, BadPlan> {
        weighing.following.check().map_err(|_| BadPlan::Follow)?;
        let total: f64 = members.iter().map(|m| m.weight).sum();
        let is_scripted = plan.script.is_some();
        // Alone it always weighs one; and of an answer without a token nobody knows what it set out from.
        if !weighing.follows() || members.len() < 2 || is_scripted && total == 0.0 {
            return Ok(None);
        }
        let mut follow = Follow {
            following: weighing.following,
            from,
            experts: members.iter().map(|m| m.expert).collect(),
            follower: None,
            now: None,
            heard_to: vec![from; members.len()],
            late: Vec::new(),
            has_news: false,
            sets_out: false,
            caught_up: Vec::new(),
            told: Vec::new(),
        };
        if is_scripted {
            follow.set_out(&members.iter().map(|m| m.weight).collect::<Vec<_>>())?;
        }
        Ok(Some(follow))
    }

    fn set_out(&mut self, start: &[f64]) -> Result<(), BadPlan> {
        let follower = Follower::new(self.from, self.following, start);
        self.follower = follower.map_err(|_| BadPlan::Follow)?;
        self.sets_out = true;
        Ok(())
    }

    pub(super) fn start(&self) -> Option<&[f64]> {
        self.follower.as_ref().map(Follower::start)
    }

    pub(super) fn now(&self, set: &[usize]) -> Option<&[f64]> {
        let (of, weights) = self.now.as_ref()?;
        (of == set).then_some(weights)
    }

    /// The last values of what somebody said up to a position, as far as they are not known and at most as
    /// many as anybody is asked for.
    fn new_of(&self, i: usize, position: Position, ln_p: &[LnP]) -> Option<Evidence> {
        let unknown = position.checked_sub(self.heard_to[i])? as usize;
        let count = ln_p.len().min(unknown).min(usize::from(SCORES_MAX));
        let evidence = || Evidence {
            expert: self.experts[i],
            position: position - count as Position,
            ln_p: ln_p[ln_p.len() - count..].to_vec(),
        };
        (count > 0).then(evidence)
    }

    fn hear(&mut self, i: usize, evidence: &Evidence) {
        if let Some(follower) = &mut self.follower {
            for (at, ln_p) in (evidence.position..).zip(&evidence.ln_p) {
                follower.heard(at, i, *ln_p);
            }
        }
    }

    /// What came late counts from this position on.
    pub(super) fn take_in(&mut self, position: Position) {
        self.now = None;
        for (i, until, ln_p) in std::mem::take(&mut self.late) {
            // Who has answered about this very position has said it there.
            let has_told = self.told.iter().any(|(j, _)| *j == i);
            if let Some(evidence) = self
                .new_of(i, until.min(position), &ln_p)
                .filter(|_| !has_told)
            {
                let evidence = self.believable(i, evidence);
                self.hear(i, &evidence);
                self.heard_to[i] = until.min(position);
                self.caught_up.push(evidence);
                self.has_news = true;
            }
        }
    }

    /// What counts of what somebody says who did not say so before.
    fn believable(&self, i: usize, evidence: Evidence) -> Evidence {
        let at_most = |(at, ln_p): (Position, &LnP)| {
            let best = self.follower.as_ref().and_then(|f| f.best_but(at, i));
            let ceiling = best.map(|best| LnP::floor((best.ln() + UNPROVEN_NATS).min(0.0)));
            ceiling.map_or(*ln_p, |ceiling| lower(*ln_p, ceiling))
        };
        let ln_p = (evidence.position..)
            .zip(&evidence.ln_p)
            .map(at_most)
            .collect();
        Evidence { ln_p, ..evidence }
    }

    fn tell(&mut self, i: usize, position: Position, ln_p: &[LnP]) {
        if self.told.iter().any(|(j, _)| *j == i) {
            return;
        }
        if let Some(evidence) = self.new_of(i, position, ln_p) {
            self.hear(i, &evidence);
            self.told.push((i, evidence));
        }
    }

    /// What those told that have left before the decision had no part in it.
    fn forget_others(&mut self, group: &[usize]) {
        self.now = None;
        for (i, evidence) in std::mem::take(&mut self.told) {
            if group.contains(&i) {
                self.told.push((i, evidence));
            } else if let Some(follower) = &mut self.follower {
                for at in 0..evidence.ln_p.len() as Position {
                    follower.forget(evidence.position + at, i);
                }
            }
        }
    }

    pub(super) fn decided(&mut self, position: Position) {
        for (i, _) in &self.told {
            self.heard_to[*i] = position;
        }
    }
}

impl Team {
    pub(crate) fn follows(&self) -> bool {
        self.follow.is_some()
    }

    pub(crate) fn is_scripted(&self) -> bool {
        self.script.is_some()
    }

    /// So many tokens before a position are those of which a member has not said what it thinks.
    pub(crate) fn scores_owed(&self, i: usize, position: Position) -> u16 {
        let Some(follow) = &self.follow else { return 0 };
        if follow.told.iter().any(|(j, _)| *j == i) {
            return 0; // with another answer about this position
        }
        let owed = position.saturating_sub(follow.heard_to[i]);
        owed.min(SCORES_MAX.into()) as u16
    }

    /// What a member outside the set thinks of the tokens before a position that was decided or is about to be.
    pub(crate) fn caught_up(&mut self, i: usize, position: Position, ln_p: Vec<LnP>) {
        if let Some(follow) = &mut self.follow {
            follow.late.push((i, position, ln_p));
        }
    }

    /// Everybody of the set has answered about a position, with what it thinks of the tokens before.
    pub(crate) fn follow(&mut self, position: Position, told: &[(usize, Vec<LnP>)]) {
        let sets_out = |follow: &Follow| follow.follower.is_none();
        if self.follow.as_ref().is_some_and(sets_out) {
            let start = self.start();
            if let Some(follow) = &mut self.follow
                && follow.set_out(&start).is_ok()
            {
                self.write_down(position);
            }
        }
        let Some(follow) = &mut self.follow else {
            return;
        };
        for (i, ln_p) in told {
            follow.tell(*i, position, ln_p);
        }
        let set: Vec<usize> = told.iter().map(|(i, _)| *i).collect();
        if let Some(follower) = &mut follow.follower {
            let weights = floored(follower.at(position, &set), FLOOR_DEFAULT);
            follow.now = Some((set, weights));
        }
    }

    /// The set at the undecided position has changed.
    pub(crate) fn forget_told(&mut self) {
        if let Some(follow) = &mut self.follow {
            follow.forget_others(&self.group);
        }
    }

    /// How the weights of the position that was decided came about.
    pub(crate) fn weighed(&mut self) -> Option<Weighed> {
        let follow = self.follow.as_mut()?;
        // Whoever stayed when another left has told first; a replay hears them in order.
        follow.told.sort_by_key(|(i, _)| *i);
        let (_, weights) = follow.now.as_ref()?;
        let everybody = follow.experts.iter().copied();
        let start = match std::mem::take(&mut follow.sets_out) {
            true => follow
                .start()
                .map(|start| everybody.zip(start.iter().copied())),
            false => None,
        };
        Some(Weighed {
            start: start.map_or_else(Vec::new, Iterator::collect),
            weights: weights.clone(),
            caught_up: std::mem::take(&mut follow.caught_up),
            told: follow.told.drain(..).map(|(_, told)| told).collect(),
        })
    }

    /// What those outside thought of the text was heard: whoever weighs much more takes the place of whoever
    /// weighs least.
    pub(super) fn choose_again(&mut self, position: Position) {
        let Some(follow) = self.follow.as_mut().filter(|f| f.has_news) else {
            return;
        };
        follow.has_news = false;
        let Some(follower) = &mut follow.follower else {
            return;
        };
        let all: Vec<usize> = (0..self.members.len()).collect();
        let weights = follower.at(position, &all);
        loop {
            let rank = |a: &&usize, b: &&usize| weights[**a].total_cmp(&weights[**b]);
            let warm = |i: &&usize| self.members[**i].standing == Standing::Warm;
            let outside = all.iter().filter(|i| !self.group.contains(i));
            // Of equals the first.
            let best = outside.filter(warm).rev().max_by(rank).copied();
            let worst = self.group.iter().min_by(rank).copied();
            let (Some(best), Some(worst)) = (best, worst) else {
                return;
            };
            if weights[best] <= CHANGES_AT * weights[worst] {
                return;
            }
            self.members[worst].forget_questions();
            self.group.retain(|i| *i != worst);
            let place = self.group.partition_point(|i| *i < best);
            self.group.insert(place, best);
        }
    }
}
