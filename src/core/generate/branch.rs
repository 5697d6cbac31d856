//! Side branches: where the drafter's first and second choice are close, the second is sent as well, and continued.
//! Where the decision takes it, what follows has been asked about already: that wrong guess costs no round trip.
//!
//! ```text
//!   decided | undecided
//!   a b c d |   g1    g2    g3    g4 ...       the guesses, as ever
//!           |    └──▶ h2    h3 ...             a branch: g2 and h2 were close
//!      g2: the branch is forgotten     h2: the branch is the text (Settle), its tokens are the guesses
//! ```
//!
//! A branch decides nothing either: what was said about it is used once it is the text, like any early opinion.

use super::ahead::{Early, Guessing};
use super::{Costs, Generate, Output};
use crate::ids::{Micros, Position, Token};
use crate::law::Sampler;
use crate::lead;
use crate::limits::{BRANCH_TOKENS_MAX, BRANCHES_MAX};
use crate::opinion::{ExpertOp, Opinion, Said};
use crate::team::{Asked, Standing};

/// Choices are close if one is less than e^.5 times as likely to win as the other: with these a branch is right
/// about four of ten wrong guesses, and beyond them checks double for one more in fifty.
const CLOSE_NATS: f64 = 0.5;

/// What a place farther ahead counts as less close: of ten guesses before it one is wrong, and then it never comes to it.
const FARTHER_NATS: f64 = 1.0 / 32.0;

/// What the drafter would have chosen at a place of the answer, but for little.
#[derive(Clone, Copy, Debug)]
struct Second {
    at: usize,
    token: Token,
    /// By how much less, in nats.
    margin: f64,
}

#[derive(Debug)]
pub(super) struct Branch {
    /// Where it leaves the guesses, and how close that was.
    at: usize,
    margin: f64,
    /// What it holds from there on. The set was asked what follows each of them.
    tokens: Vec<Token>,
    /// One for each member of the set.
    known: Vec<Known>,
    /// What was said about it, as it came: at most one of each member and position.
    early: Vec<Early>,
}

/// A branch as one member knows it.
#[derive(Debug)]
struct Known {
    member: usize,
    epoch: u32,
    /// What it has not answered.
    owes: Vec<Asked>,
}

impl Branch {
    fn end(&self) -> usize {
        self.at + self.tokens.len()
    }

    fn is_unlikely(&self) -> f64 {
        unlikely(self.at, self.margin)
    }

    fn said(&self, member: usize, position: Position) -> Option<&Said> {
        let mut early = self.early.iter();
        let found = early.find(|e| e.member == member && e.opinion.position == position)?;
        Some(&found.opinion.said)
    }

    #[cfg(test)]
    pub(super) fn early(&self) -> usize {
        self.early.len()
    }

    #[cfg(test)]
    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// How far a branch is from becoming the text, in nats beside those of others.
fn unlikely(at: usize, margin: f64) -> f64 {
    margin + FARTHER_NATS * at as f64
}

impl Known {
    fn asked(&mut self, position: Position, now: Micros) {
        self.owes.push(Asked::now(position, now));
    }

    /// When it was asked about a position, if it has not answered yet.
    fn answers(&mut self, position: Position) -> Option<Asked> {
        let at = self.owes.iter().position(|a| a.position == position)?;
        Some(self.owes.remove(at))
    }
}

impl Generate {
    /// Sends the second choices beside guesses that were not looked at yet.
    pub(super) fn branch_off(&mut self, own: usize, now: Micros, out: &mut Vec<Output>) {
        let first = self.answer.len();
        for at in self.ahead.branched.max(first)..first + self.ahead.guesses.len() {
            let guess = self.ahead.guesses[at - first];
            if let Some(second) = self.second(own, at, guess) {
                self.branch(second, now, out);
            }
            self.ahead.branched = at + 1;
        }
    }

    /// A guess at a place of the answer, by what the drafter said of it: is another one close?
    fn second(&self, own: usize, at: usize, guess: Token) -> Option<Second> {
        if !self.may_branch() || !self.is_inside(at) {
            return None;
        }
        let position = (self.spec.prompt.len() + at) as Position;
        let Some(Said::List(list)) = self.said_ahead(own, position) else {
            return None;
        };
        let key = match self.spec.law.sampler {
            Sampler::Seeded | Sampler::SeededPlain => Some(self.spec.secret.key(position)),
            Sampler::Greedy => None,
            Sampler::Rejection => return None, // what is drawn then is what its drafter believes less
        };
        let (token, margin) = lead::second(list, key, guess)?;
        let is_close = margin < CLOSE_NATS && !self.vocab.ends_turn(token);
        is_close.then_some(Second { at, token, margin })
    }

    /// Everybody in the set must take part: a branch that one of them has not read saves no round trip. Where weights
    /// follow the text, an expert that begins in the middle of it would owe a score.
    fn may_branch(&self) -> bool {
        let group = self.team.group();
        self.spec.guessing == Guessing::Branches
            && group.len() > 1
            && !self.team.follows()
            && group.iter().all(|&i| self.parts[i].branches > 0)
            && self.ahead.tempo.branches()
    }

    /// Sends everybody the second choice, if there is room, or one that is less likely to be the text makes it.
    fn branch(&mut self, second: Second, now: Micros, out: &mut Vec<Output>) {
        let Second { at, token, margin } = second;
        let group = self.team.group().to_vec();
        // Who is not asked about the undecided position yet has not got the guesses.
        if group.iter().any(|&i| self.parts[i].sent <= at) {
            return;
        }
        let kept = group.iter().map(|&i| usize::from(self.parts[i].branches));
        let most = kept.min().unwrap_or(0).min(BRANCHES_MAX);
        let branches = self.ahead.branches.iter().enumerate();
        let worst = branches.max_by(|a, b| a.1.is_unlikely().total_cmp(&b.1.is_unlikely()));
        if self.ahead.branches.len() >= most {
            match worst {
                Some((index, branch)) if branch.is_unlikely() > unlikely(at, margin) => {
                    self.forget(index, out);
                }
                _ => return,
            }
        }
        let (session, position) = (self.spec.session, (self.spec.prompt.len() + at) as Position);
        let known = group.into_iter().map(|member| {
            let mut known = Known {
                member,
                epoch: self.parts[member].next_epoch(),
                owes: Vec::new(),
            };
            known.asked(position + 1, now);
            let branch = ExpertOp::Branch {
                session,
                epoch: known.epoch,
                position,
                token,
                query: self.question(position + 1),
            };
            out.push(Output::ToExpert(self.team.members[member].expert, branch));
            known
        });
        let known = known.collect();
        self.ahead.counts.branches += 1;
        self.ahead.branches.push(Branch {
            at,
            margin,
            tokens: vec![token],
            known,
            early: Vec::new(),
        });
    }

    /// Every branch about whose end the drafter has spoken is one token longer.
    pub(super) fn grow_branches(&mut self, own: usize, now: Micros, out: &mut Vec<Output>) {
        let deepest = self.ahead.tempo.depth().min(BRANCH_TOKENS_MAX);
        for index in 0..self.ahead.branches.len() {
            let branch = &self.ahead.branches[index];
            let end = branch.end();
            let position = (self.spec.prompt.len() + end) as Position;
            if branch.tokens.len() >= deepest || !self.is_inside(end) {
                continue;
            }
            let said = branch.said(own, position);
            let next = said.and_then(|said| self.chosen_alone(position, said));
            let Some(token) = next.filter(|token| !self.vocab.ends_turn(*token)) else {
                continue;
            };
            let query = self.question(position + 1);
            let branch = &mut self.ahead.branches[index];
            branch.tokens.push(token);
            for known in &mut branch.known {
                known.asked(position + 1, now);
                let draft = ExpertOp::Draft {
                    session: self.spec.session,
                    epoch: known.epoch,
                    position,
                    tokens: vec![token],
                    queries: vec![query.clone()],
                };
                let expert = self.team.members[known.member].expert;
                out.push(Output::ToExpert(expert, draft));
            }
        }
    }

    /// What a member said under an epoch that is not its own: about a branch, or about what was taken back.
    pub(super) fn on_branch(
        &mut self,
        i: usize,
        epoch: u32,
        opinions: Vec<Opinion>,
        costs: Costs,
        now: Micros,
    ) {
        let costs = costs.shared(opinions.len());
        for branch in &mut self.ahead.branches {
            let mut known = branch.known.iter_mut();
            let Some(known) = known.find(|k| k.member == i && k.epoch == epoch) else {
                continue;
            };
            for opinion in opinions {
                if let Some(asked) = known.answers(opinion.position) {
                    let costs = costs.took(now.since(asked.at));
                    branch.early.push(Early::new(i, opinion, costs));
                }
            }
            return;
        }
    }

    /// The guess at the last place of the answer was wrong: if a branch says so, it is the text now. `now`: from here
    /// on it is waited for what it owes.
    pub(super) fn settle(&mut self, now: Micros, out: &mut Vec<Output>) -> bool {
        let at = self.answer.len() - 1;
        let is_right = |b: &Branch| b.at == at && b.tokens.first() == self.answer.last();
        let Some(index) = self.ahead.branches.iter().position(is_right) else {
            return false;
        };
        let branch = self.ahead.branches.swap_remove(index);
        self.drop_branches();
        let (end, session) = (branch.end(), self.spec.session);
        for Known {
            member,
            epoch,
            owes,
        } in branch.known
        {
            let part = &mut self.parts[member];
            self.ahead.counts.wasted += part.asked.saturating_sub(at + 1) as u32;
            (part.epoch, part.sent, part.asked) = (epoch, end, end + 1);
            self.team.members[member].goes_on_with(owes, now);
            let settle = ExpertOp::Settle { session, epoch };
            out.push(Output::ToExpert(self.team.members[member].expert, settle));
        }
        self.ahead.early = branch.early;
        let group = self.team.group().to_vec();
        for i in (0..self.parts.len()).filter(|i| !group.contains(i)) {
            self.take_back_from(i, at, out);
        }
        self.ahead.guesses = branch.tokens.into_iter().skip(1).collect();
        // Nobody has looked at these yet.
        self.ahead.branched = at + 1;
        self.ahead.counts.hits += 1;
        true
    }

    /// The guess at the last place of the answer was right: no branch can be that leaves there.
    pub(super) fn forget_branches_here(&mut self, out: &mut Vec<Output>) {
        let at = self.answer.len() - 1;
        while let Some(index) = self.ahead.branches.iter().position(|b| b.at <= at) {
            self.forget(index, out);
        }
    }

    /// The set has changed: the text goes on as if there had been no branch.
    pub(super) fn forget_branches(&mut self, out: &mut Vec<Output>) {
        while !self.ahead.branches.is_empty() {
            self.forget(0, out);
        }
    }

    /// A set that has grown at this position: whoever is new knows of no branch.
    pub(super) fn check_branches(&mut self, out: &mut Vec<Output>) {
        let group = self.team.group();
        let knows = |b: &Branch| b.known.iter().map(|k| k.member).eq(group.iter().copied());
        if !self.ahead.branches.iter().all(knows) {
            self.forget_branches(out);
        }
    }

    fn forget(&mut self, index: usize, out: &mut Vec<Output>) {
        let branch = self.ahead.branches.swap_remove(index);
        self.ahead.counts.wasted += branch.wasted();
        let session = self.spec.session;
        for Known { member, epoch, .. } in branch.known {
            let member = &self.team.members[member];
            if !matches!(member.standing, Standing::Asleep | Standing::Gone(_)) {
                let forget = ExpertOp::Forget { session, epoch };
                out.push(Output::ToExpert(member.expert, forget));
            }
        }
    }

    /// Experts forget them by themselves: with a truncation, or because another one is the text.
    pub(super) fn drop_branches(&mut self) {
        let wasted: u32 = self.ahead.branches.iter().map(Branch::wasted).sum();
        self.ahead.counts.wasted += wasted;
        self.ahead.branches.clear();
    }
}

impl Branch {
    /// Questions about it, over all experts.
    fn wasted(&self) -> u32 {
        (self.tokens.len() * self.known.len()) as u32
    }
}
