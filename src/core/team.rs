//! Who is asked about the next token: one request's experts, their standing, and the set schedule.
//!
//! ```text
//!            asked                Ready                     answers late
//!  asleep ──────────▶ opening ──────────▶ warm ◀──────────────────────────▶ late
//!                        └────── Failed, lost, bad frame: gone (from anywhere, for good)
//! ```
//!
//! The set at a position, with its weights, is part of the law: every change is written down with the
//! first position that it decides. Decision 0006 has the rules; nothing here knows what a list is.

mod follow;
mod turn;
mod weigh;

use crate::ids::{ExpertId, Micros, Position};
use crate::limits::{CANDIDATES_MAX, GIVE_UP_US, SET_CHANGES_MAX, TEAM_MAX};
use crate::pace::{Pace, Patience, after};
use crate::seeded::Secret;
use crate::turns::Chain;
use crate::weights::{Screen, Weighing, Weights, restricted};
use follow::Follow;

/// One expert that a request may turn to.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub expert: ExpertId,
    /// The rule's weight over all candidates.
    pub weight: f64,
    /// In this process: nobody waits for a network, so it has no deadline.
    pub local: bool,
    pub pace: Pace,
}

/// Which answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// A set is fixed until somebody in it fails; its schedule makes the text reproducible.
    A,
    /// The first K answers count, whoever they are from.
    B,
    /// One of K speaks at a time: hand-over, a law of its own. With this chance, in millionths, the word
    /// goes round at a position.
    Turns { sigma_ppm: u32 },
}

impl Sets {
    fn asked_at_once(self, k: usize, spares: usize) -> usize {
        match self {
            Sets::A => k,
            Sets::B => k + spares,
            Sets::Turns { .. } => 1,
        }
    }
}

/// The mixture from a position on, in expert-id order. Weights sum to one.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub position: Position,
    pub set: Vec<(ExpertId, f64)>,
}

pub type Schedule = Vec<Change>;

/// What a request is told of its experts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Best first.
    pub candidates: Vec<Candidate>,
    pub k: usize,
    pub spares: usize,
    pub sets: Sets,
    pub patience: Patience,
    /// A schedule to follow instead of making one: a replay. Weights that follow the text set out from those
    /// of the candidates then.
    pub script: Option<Schedule>,
}

impl Plan {
    /// These experts with these weights, and nobody else: the local assistant, or a fixed mixture.
    pub fn fixed(weights: &[(ExpertId, f64)]) -> Plan {
        let candidates = weights.iter().map(|&(expert, weight)| Candidate {
            expert,
            weight,
            local: true,
            pace: Pace::default(),
        });
        Plan {
            candidates: candidates.collect(),
            k: weights.len(),
            spares: 0,
            sets: Sets::A,
            patience: Patience {
                percent: 200,
                floor_us: 0,
            },
            script: None,
        }
    }
}

/// How far from one the sum of sixteen weights may be that were divided by their sum.
const ROUNDING: f64 = 1e-14;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlan {
    #[error("there is no expert to ask")]
    Nobody,
    #[error("more than {CANDIDATES_MAX} candidates, or more than {TEAM_MAX} asked at once")]
    TooMany,
    #[error("an expert is named twice")]
    Twice,
    #[error("a weight is negative or not finite")]
    Weight,
    #[error("weights cannot be learned by this rule")]
    Rule,
    #[error(
        "experts take turns only where a seed draws, without a grammar and without robust mode"
    )]
    Turns,
    #[error(
        "weights follow the text where a set of experts speaks together, without a grammar and without robust mode"
    )]
    Follow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Asleep,
    /// It was sent the text; no word yet.
    Opening,
    Warm,
    Late,
    Gone(String),
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) expert: ExpertId,
    pub(crate) local: bool,
    weight: f64,
    /// It has said what it thinks of the prompt.
    has_scored: bool,
    /// What it said of the prompt leaves it no weight: it is not asked while the others are there.
    is_outweighed: bool,
    pace: Pace,
    pub(crate) standing: Standing,
    /// What it was asked and has not answered, by rising position. Behind the undecided one these are
    /// guesses: at most as many as are sent ahead.
    asked: Vec<Asked>,
    /// When it was asked what it let its time pass for: what it takes is known when it speaks again.
    overdue: Option<Micros>,
    /// Tokens that it reads before its next answer.
    pub(crate) reads: Option<usize>,
}

/// A question that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) position: Position,
    pub(crate) at: Micros,
    /// From here on its time passes: when it was asked or, if that came later, when it answered the
    /// question before. Who answers one after another is not late.
    since: Micros,
    /// It could not begin before the one before it was answered.
    follows: bool,
}

impl Asked {
    pub(crate) fn now(position: Position, now: Micros) -> Asked {
        Asked {
            position,
            at: now,
            since: now,
            follows: false,
        }
    }
}

impl Member {
    /// The moment after which it is late about `here`; never for one in this process.
    fn deadline(&self, patience: Patience, here: Position) -> Option<Micros> {
        let first = self.asked.first().filter(|_| !self.local);
        let first = first.filter(|asked| asked.position <= here)?;
        Some(after(
            first.since,
            self.pace.deadline_us(patience, self.reads),
        ))
    }

    /// It is asked about a position, perhaps again.
    pub(crate) fn ask(&mut self, position: Position, now: Micros) {
        self.is_asked(Asked::now(position, now));
    }

    /// It is led to a position: it begins with it once it has answered about the one before.
    pub(crate) fn lead(&mut self, position: Position, now: Micros) {
        self.is_asked(Asked {
            follows: true,
            ..Asked::now(position, now)
        });
    }

    fn is_asked(&mut self, asked: Asked) {
        let at = self.asked.partition_point(|a| a.position < asked.position);
        match self.asked.get_mut(at) {
            Some(known) if known.position == asked.position => *known = asked,
            _ => self.asked.insert(at, asked),
        }
    }

    pub(crate) fn owes(&self, position: Position) -> bool {
        self.asked.iter().any(|a| a.position == position)
    }

    /// Nothing before `position` is waited for any more.
    pub(crate) fn decided_before(&mut self, position: Position) {
        self.asked.retain(|a| a.position >= position);
    }

    /// What it was asked was taken back but for this, which nobody waited for so far.
    pub(crate) fn goes_on_with(&mut self, mut owes: Vec<Asked>, now: Micros) {
        for asked in &mut owes {
            asked.since = now;
        }
        self.asked = owes;
    }

    /// What it was asked was taken back.
    pub(crate) fn forget_questions(&mut self) {
        self.asked.clear();
    }

    /// It answered what it was asked about a position.
    pub(crate) fn answered(&mut self, position: Position, now: Micros) -> Option<Answered> {
        let at = self.asked.iter().position(|a| a.position == position)?;
        let asked = self.asked.remove(at);
        let read = self.reads.take();
        for later in &mut self.asked[at..] {
            later.follows |= read.is_some();
            later.since = later.since.max(now);
        }
        let began = if asked.follows { asked.since } else { asked.at };
        let answered = Answered {
            us: now.since(began),
            read,
            follows: asked.follows,
        };
        answered.measure(&mut self.pace);
        Some(answered)
    }
}

/// How long an answer took, and how many tokens were read for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub us: u64,
    pub read: Option<usize>,
    /// It began when the answer before it came, and nothing of its time is the way there and back.
    pub follows: bool,
}

impl Answered {
    /// A pace is what a question takes that waits for nothing but its answer: one that follows another
    /// takes less, and an expert that led would be late in the next request.
    pub(crate) fn measure(self, pace: &mut Pace) {
        match self.read {
            Some(tokens) => pace.read(tokens, self.us),
            None if self.follows => {}
            None => pace.answered(self.us),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Team {
    /// In expert-id order: sums run in this order.
    pub(crate) members: Vec<Member>,
    /// Members, best first.
    order: Vec<usize>,
    /// Members asked about the undecided position, in expert-id order.
    group: Vec<usize>,
    k: usize,
    /// With fewer nothing can be decided: whoever is late is waited for.
    pub(crate) least: usize,
    spares: usize,
    pub(crate) sets: Sets,
    chain: Option<Chain>,
    /// Where the next speaker begins; nobody is led past it.
    turn_at: Position,
    patience: Patience,
    script: Option<Schedule>,
    /// Weights to learn, with nothing heard.
    blank: Option<Weights>,
    /// What came of it when it was last asked for; None: nobody has said anything.
    learned: Option<Weights>,
    /// Something was said of the prompt that is not in `learned`.
    has_news: bool,
    screen: Screen,
    /// Nobody is chosen yet: everybody is asked what it thinks of the prompt.
    choosing: bool,
    follow: Option<Follow>,
    schedule: Schedule,
}

impl Team {
    /// `secret` draws who speaks, where experts take turns. The answer begins at `from`.
    pub(crate) fn new(
        plan: Plan,
        weighing: Weighing,
        from: Position,
        secret: &Secret,
    ) -> Result<Team, BadPlan> {
        let count = plan.candidates.len();
        if count == 0 || plan.k == 0 {
            return Err(BadPlan::Nobody);
        }
        // A schedule names everybody who ever decided, one after another.
        let most = match plan.script {
            Some(_) => CANDIDATES_MAX * 4,
            None => CANDIDATES_MAX,
        };
        if count > most || plan.k.saturating_add(plan.spares) > TEAM_MAX {
            return Err(BadPlan::TooMany);
        }
        let good = |weight: f64| weight.is_finite() && weight >= 0.0;
        let mut scripted = plan.script.iter().flatten().flat_map(|change| &change.set);
        if !scripted.all(|(_, weight)| good(*weight)) {
            return Err(BadPlan::Weight);
        }
        if !plan.candidates.iter().all(|c| good(c.weight)) {
            return Err(BadPlan::Weight);
        }
        let blank = weigh::blank(&plan, weighing)?;
        let mut by_id: Vec<usize> = (0..count).collect();
        by_id.sort_by_key(|&i| plan.candidates[i].expert);
        let expert = |i: usize| plan.candidates[i].expert;
        if by_id.windows(2).any(|w| expert(w[0]) == expert(w[1])) {
            return Err(BadPlan::Twice);
        }
        let order = (0..count).map(|i| by_id.iter().position(|&j| j == i));
        let order = order.map(|at| at.expect("each is there once")).collect();
        let members = by_id.iter().map(|&i| Member {
            expert: plan.candidates[i].expert,
            local: plan.candidates[i].local,
            weight: plan.candidates[i].weight,
            has_scored: false,
            is_outweighed: false,
            pace: plan.candidates[i].pace.clone(),
            standing: Standing::Asleep,
            asked: Vec::new(),
            overdue: None,
            reads: None,
        });
        let members: Vec<Member> = members.collect();
        let follow = Follow::new(&plan, weighing, from, &members)?;
        let choosing = blank.is_some() && count > plan.sets.asked_at_once(plan.k, plan.spares);
        Ok(Team {
            members,
            order,
            group: Vec::new(),
            k: plan.k,
            least: 1,
            spares: plan.spares,
            sets: plan.sets,
            chain: match plan.sets {
                Sets::Turns { sigma_ppm } => Some(Chain::new(secret.clone(), sigma_ppm)),
                Sets::A | Sets::B => None,
            },
            turn_at: Position::MAX,
            patience: plan.patience,
            script: plan.script,
            blank,
            learned: None,
            has_news: false,
            screen: Screen::new(count),
            choosing,
            follow,
            schedule: Vec::new(),
        })
    }

    pub(crate) fn group(&self) -> &[usize] {
        &self.group
    }

    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub(crate) fn at(&self, expert: ExpertId) -> Option<usize> {
        self.members
            .binary_search_by_key(&expert, |m| m.expert)
            .ok()
    }

    /// Answers that decide a position.
    pub(crate) fn needed(&self) -> usize {
        match self.sets {
            Sets::A | Sets::Turns { .. } => self.group.len(),
            Sets::B => self.group.len().min(self.k),
        }
    }

    fn asked_at_once(&self) -> usize {
        self.sets.asked_at_once(self.k, self.spares)
    }

    /// The weights of these members at the undecided position.
    pub(crate) fn weights(&self, set: &[usize]) -> Vec<f64> {
        let followed = self.follow.as_ref().and_then(|follow| follow.now(set));
        followed.map_or_else(|| self.declared(set), <[f64]>::to_vec)
    }

    /// Those that a schedule says: restricted and renormalised; uniform if nobody has any. What was learned
    /// is restricted strategy by strategy, and those of a schedule are what this gave once: dividing again
    /// would move the last bit.
    fn declared(&self, set: &[usize]) -> Vec<f64> {
        if let Some(start) = self.follow.as_ref().and_then(Follow::start) {
            return restricted(start, set);
        }
        if let Some(learned) = &self.learned {
            return learned.frozen(set);
        }
        let total: f64 = set.iter().map(|&i| self.members[i].weight).sum();
        if self.script.is_some() && (total - 1.0).abs() <= ROUNDING {
            return set.iter().map(|&i| self.members[i].weight).collect();
        }
        let share = |&i: &usize| {
            if total > 0.0 {
                self.members[i].weight / total
            } else {
                1.0 / set.len() as f64
            }
        };
        set.iter().map(share).collect()
    }

    /// A new position is to be decided: places that are free go to whoever is warm.
    pub(crate) fn begin(&mut self, position: Position) {
        if let Some(follow) = &mut self.follow {
            follow.take_in(position);
        }
        if self.script.is_some() {
            return self.follow_script(position);
        }
        if self.choosing {
            if self.group.is_empty() {
                self.group = (0..self.members.len()).collect();
            }
            return;
        }
        self.choose_again(position);
        if self.chain.is_some() {
            self.take_turns(position);
        }
        let first = self.group.is_empty();
        if self.has_news {
            self.weigh(); // whoever comes in now may have spoken before
        }
        self.fill(|standing| *standing == Standing::Warm || first);
        self.write_down(position);
    }

    fn follow_script(&mut self, position: Position) {
        let script = self.script.iter().flatten();
        let Some(change) = script.take_while(|c| c.position <= position).last() else {
            return;
        };
        let change = change.clone();
        self.group.clear();
        for (expert, weight) in change.set {
            if let Some(i) = self.at(expert) {
                self.members[i].weight = weight;
                self.group.push(i);
            }
        }
        self.write_down(position);
    }

    /// Puts members into free places, best first, those that are warm before those that must read.
    fn fill(&mut self, may_join: impl Fn(&Standing) -> bool) {
        let rank = |standing: &Standing| match standing {
            Standing::Warm => Some(0),
            Standing::Opening => Some(1),
            Standing::Asleep => Some(2),
            Standing::Late | Standing::Gone(_) => None,
        };
        while self.group.len() < self.asked_at_once() {
            let outside = self.order.iter().filter(|i| !self.group.contains(i));
            let outside = outside.filter(|i| !self.members[**i].is_outweighed);
            let fit = outside.filter(|&&i| may_join(&self.members[i].standing));
            let best = fit
                .filter_map(|&i| Some((rank(&self.members[i].standing)?, i)))
                .min_by_key(|(rank, _)| *rank);
            let Some((_, i)) = best else { return };
            let place = self.group.partition_point(|&j| j < i);
            self.group.insert(place, i);
        }
    }

    /// Members that should be warm and are not asked yet: they get the text.
    pub(crate) fn sleeping_spares(&self) -> Vec<usize> {
        let spares = match self.sets {
            _ if self.script.is_some() || self.choosing => 0,
            // Whoever sleeps hears the text as well, and says what it thinks of it.
            Sets::A if self.follow.is_some() => self.members.len(),
            Sets::A => self.spares,
            Sets::B => 0,
            // Whoever may be given the word hears every token.
            Sets::Turns { .. } => self.spares + self.k - 1,
        };
        let outside = self.order.iter().filter(|i| !self.group.contains(i));
        let (mut awake, mut asleep) = (0, Vec::new());
        for &i in outside {
            match self.members[i].standing {
                Standing::Warm | Standing::Opening => awake += 1,
                Standing::Asleep => asleep.push(i),
                Standing::Late | Standing::Gone(_) => {}
            }
        }
        asleep.truncate(spares.saturating_sub(awake));
        asleep
    }

    /// Spares that can take what was decided.
    pub(crate) fn warm_spares(&self) -> Vec<usize> {
        let warm = |i: &&usize| self.members[**i].standing == Standing::Warm;
        let outside = self.order.iter().filter(|i| !self.group.contains(i));
        // Everybody who was asked what it thinks of the prompt is warm.
        let most = match (self.learns(), &self.follow) {
            (true, None) => self.spares,
            _ => self.members.len(),
        };
        let mut spares: Vec<usize> = outside.filter(warm).take(most).copied().collect();
        spares.sort_unstable();
        spares
    }

    // --- losses ---------------------------------------------------------------------------------

    /// Whoever has let its time pass leaves the set, unless nobody would be left: then it is waited
    /// for a while longer. Returns whether the set at `position` is another one now.
    pub(crate) fn expire(&mut self, now: Micros, position: Position) -> bool {
        let late = |m: &Member, grace: u64| {
            let deadline = m.deadline(self.patience, position);
            deadline.is_some_and(|at| after(at, grace) <= now)
        };
        let overdue: Vec<usize> = self.group.clone();
        let overdue: Vec<(usize, bool)> = overdue
            .into_iter()
            .filter(|&i| late(&self.members[i], 0))
            .map(|i| (i, late(&self.members[i], GIVE_UP_US)))
            .collect();
        let mut changed = false;
        for (i, hopeless) in overdue {
            if hopeless {
                self.members[i].standing = Standing::Gone("it never answered".into());
            } else if self.group.len() > self.least || self.has_replacement() {
                let member = &mut self.members[i];
                member.standing = Standing::Late;
                member.overdue = member.asked.first().map(|asked| asked.since);
            } else {
                continue;
            }
            self.leave(i, position);
            changed = true;
        }
        changed
    }

    /// Returns whether the set at `position` is another one now.
    pub(crate) fn lose(&mut self, i: usize, why: String, position: Position) -> bool {
        self.members[i].standing = Standing::Gone(why);
        let asked = self.group.contains(&i);
        if asked {
            self.leave(i, position);
        }
        asked
    }

    fn leave(&mut self, i: usize, position: Position) {
        self.members[i].forget_questions();
        self.group.retain(|&j| j != i);
        // Who had no weight beside it may have some without it.
        self.members
            .iter_mut()
            .for_each(|m| m.is_outweighed = false);
        if self.script.is_none() && !self.choosing {
            self.fill(|_| true);
        }
        if self.group.is_empty() {
            self.call_back();
        }
        self.weigh();
        self.write_down(position);
    }

    /// Nobody else is left: whoever is late may still answer, and is waited for.
    fn call_back(&mut self) {
        for i in 0..self.members.len() {
            if self.members[i].standing == Standing::Late && self.group.len() < self.k {
                self.members[i].standing = Standing::Warm;
                self.group.push(i);
            }
        }
    }

    fn has_replacement(&self) -> bool {
        let mut outside = (0..self.members.len()).filter(|i| !self.group.contains(i));
        outside.any(|i| !matches!(self.members[i].standing, Standing::Late | Standing::Gone(_)))
    }

    /// Why nobody is left, in the words of the last one that went.
    pub(crate) fn last_words(&self) -> Option<String> {
        if !self.group.is_empty() {
            return None;
        }
        let mut words = self.members.iter().filter_map(|m| match &m.standing {
            Standing::Gone(why) => Some(why.clone()),
            _ => None,
        });
        Some(
            words
                .next_back()
                .unwrap_or_else(|| "no expert answers".into()),
        )
    }

    /// A member said something: one that was late is a spare again, and has shown how long it takes. Else
    /// a mesh that has become slower than its deadlines would change its set for ever.
    pub(crate) fn heard(&mut self, i: usize, now: Micros) {
        let member = &mut self.members[i];
        if let Some(asked) = member.overdue.take() {
            let us = now.since(asked);
            match member.reads.take() {
                Some(tokens) => member.pace.read(tokens, us),
                None => member.pace.answered(us),
            }
        }
        if matches!(member.standing, Standing::Opening | Standing::Late) {
            member.standing = Standing::Warm;
        }
    }

    /// A member has read the text. Nobody who was not asked meanwhile will be late because of it.
    pub(crate) fn read(&mut self, i: usize) {
        let member = &mut self.members[i];
        if member.asked.is_empty() {
            member.reads = None;
        }
    }

    /// The next moment at which somebody becomes late about `here`, or hopeless.
    pub(crate) fn wake_at(&self, here: Position) -> Option<Micros> {
        if self.script.is_some() {
            return None;
        }
        let alone = self.group.len() <= self.least && !self.has_replacement();
        let grace = if alone { GIVE_UP_US } else { 0 };
        let deadlines = self.group.iter();
        let deadlines = deadlines.filter_map(|&i| self.members[i].deadline(self.patience, here));
        deadlines.min().map(|at| after(at, grace))
    }

    // --- the schedule ---------------------------------------------------------------------------

    fn write_down(&mut self, position: Position) {
        if self.sets != Sets::B && !self.choosing {
            let group = self.group.clone();
            self.write_set(position, &group);
        }
    }

    /// These decided the position. Where the first answers count, this is how the set is known.
    pub(crate) fn decided(&mut self, position: Position, set: &[usize]) {
        if let Some(follow) = &mut self.follow {
            follow.decided(position);
        }
        if self.sets == Sets::B && !set.is_empty() {
            self.write_set(position, set);
        }
    }

    fn write_set(&mut self, position: Position, set: &[usize]) {
        let weights = self.declared(set);
        let experts = set.iter().map(|&i| self.members[i].expert);
        let set: Vec<(ExpertId, f64)> = experts.zip(weights).collect();
        if self.schedule.last().is_some_and(|c| c.position == position) {
            self.schedule.pop();
        }
        if set.is_empty() || self.schedule.last().is_some_and(|c| c.set == set) {
            return;
        }
        // Beyond the bound the oldest are forgotten: such a text is no longer reproducible, and its
        // replay fails.
        self.schedule.push(Change { position, set });
        if self.schedule.len() > SET_CHANGES_MAX {
            self.schedule.remove(0);
        }
    }
}
