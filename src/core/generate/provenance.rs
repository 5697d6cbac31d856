//! What is told beside the text: log-probabilities, who said what of a token, and what a replay needs.

use super::{Event, Generate, Notes, Output};
use crate::ids::{ExpertId, Fingerprint, Position, Token};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::{List, Opinion, Query, Raw, Said};
use crate::weights::Observation;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Who decided one token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// Everybody who was asked, in expert-id order.
    pub asked: Vec<Voted>,
    /// Second questions that it took.
    pub asked_again: u32,
}

/// One expert's part in a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Voted {
    pub expert: ExpertId,
    /// Its weight in the mixture; zero if it was asked and did not count.
    pub weight: f64,
    /// Its ln p of the token that was chosen. None: it did not list it, or did not answer in time.
    pub ln_p: Option<f64>,
    pub arrived: bool,
    /// From the question to its answer, and how much of that it says it computed.
    pub answer_us: u64,
    pub compute_us: u64,
    pub bytes: u32,
}

/// What decided a position: the answers that were used, question by question, as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    pub position: Position,
    pub token: Token,
    pub mask: Option<Arc<Mask>>,
    pub answers: Vec<(u32, ExpertId, Said)>,
    /// Where weights follow the text.
    pub weighed: Option<Box<Weighed>>,
}

/// How the weights of a position came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weighed {
    /// What the text sets out from, of everybody; at its first position only.
    pub start: Vec<(ExpertId, f64)>,
    /// Those of the set, in expert-id order.
    pub weights: Vec<f64>,
    /// What others said late of tokens before; it counts from here on.
    pub caught_up: Vec<Evidence>,
    /// What the set said of them with its answers.
    pub told: Vec<Evidence>,
}

/// An expert's ln p of tokens that were decided, from a position on.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    pub expert: ExpertId,
    pub position: Position,
    pub ln_p: Vec<LnP>,
}

/// The first list of an expert elsewhere about a position that may be computed again.
#[derive(Clone, Debug)]
pub struct Listed {
    pub expert: ExpertId,
    pub position: Position,
    pub query: Query,
    pub list: List,
}

/// Collects what a recording of the undecided position needs, if anybody wants one.
#[derive(Debug)]
pub(super) struct Log {
    on: bool,
    mask: Option<Arc<Mask>>,
    answers: Vec<(u32, ExpertId, Said)>,
    /// Positions that may be computed again.
    window: Range<Position>,
}

impl Log {
    pub(super) fn new(notes: Notes) -> Log {
        Log {
            on: notes.record,
            mask: None,
            answers: Vec::new(),
            window: 0..0,
        }
    }

    pub(super) fn mask(&mut self, mask: Option<Arc<Mask>>) {
        if self.on {
            self.mask = mask;
        }
    }

    pub(super) fn heard(&mut self, question: u32, expert: ExpertId, said: &Said) {
        if self.on {
            self.answers.push((question, expert, said.clone()));
        }
    }

    /// It left before the position was decided: what it said had no part in it.
    pub(super) fn forget(&mut self, expert: ExpertId) {
        self.answers.retain(|(_, of, _)| *of != expert);
    }

    /// The position begins anew, with the first question.
    pub(super) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// Keeps the answers of those that decided: who answered and then left, or was one too many, had
    /// no part in it.
    pub(super) fn decided(
        &mut self,
        position: Position,
        token: Token,
        weighed: Option<Weighed>,
        counts: impl Fn(&ExpertId) -> bool,
    ) -> Option<Output> {
        let mut answers = std::mem::take(&mut self.answers);
        answers.retain(|(_, expert, _)| counts(expert));
        let decided = Decided {
            position,
            token,
            mask: self.mask.take(),
            answers,
            weighed: weighed.map(Box::new),
        };
        self.on
            .then(|| Output::Event(Event::Decided(Box::new(decided))))
    }
}

impl Generate {
    /// Who knew its prompt, and in which vocabulary: for whoever counts.
    pub(crate) fn seen(&self) -> Option<(Fingerprint, Observation)> {
        let seen = self.team.seen(&self.spec.prompt)?;
        Some((self.vocab.fingerprint(), seen))
    }

    /// From now on what experts elsewhere say of these positions is told.
    pub(crate) fn listen(&mut self, window: Range<Position>) {
        self.log.window = window;
    }

    /// What an expert said in answer to the first question about the undecided position, if somebody listens.
    pub(super) fn listed(&self, i: usize, query: &Query, list: &List) -> Option<Output> {
        let (member, position) = (&self.team.members[i], self.position());
        let listens = self.log.window.contains(&position) && self.asked_again == 0 && !member.local;
        let listed = || Listed {
            expert: member.expert,
            position,
            query: query.clone(),
            list: list.clone(),
        };
        listens.then(|| Output::Said(Box::new(listed())))
    }

    pub(super) fn provenance(&self, token: Token) -> Option<Box<Provenance>> {
        if !self.spec.notes.provenance || self.first_question.is_none() {
            return None;
        }
        let weights = self.team.weights(&self.set);
        let asked = self.team.group().iter().map(|&i| {
            let weight = self.set.iter().position(|&j| j == i).map(|at| weights[at]);
            let (part, list) = (&self.parts[i], self.list_of(i));
            let costs = if list.is_some() {
                part.costs
            } else {
                super::Costs::default()
            };
            Voted {
                expert: self.team.members[i].expert,
                weight: weight.unwrap_or(0.0),
                ln_p: list.and_then(|list| list.ln_p(token)).map(|ln_p| ln_p.ln()),
                arrived: list.is_some(),
                answer_us: costs.us,
                compute_us: costs.compute_us,
                bytes: costs.bytes,
            }
        });
        Some(Box::new(Provenance {
            asked: asked.collect(),
            asked_again: self.asked_again,
        }))
    }

    /// The mixture's untransformed ln p of the chosen token, and its top tokens.
    pub(super) fn raw_of(&self, token: Token) -> (Option<f64>, Vec<(Token, f64)>) {
        let Some(wanted) = self.spec.logprobs else {
            return (None, Vec::new());
        };
        let weights = self.team.weights(&self.set);
        let mut chosen = 0.0;
        let mut top: BTreeMap<Token, f64> = BTreeMap::new();
        for (&i, weight) in self.set.iter().zip(weights) {
            let Some(Opinion {
                said: Said::List(list),
                raw: Some(raw),
                ..
            }) = &self.parts[i].opinion
            else {
                continue;
            };
            chosen += weight * raw_value(list, raw, token);
            for entry in &raw.top {
                *top.entry(entry.token).or_default() += weight * entry.ln_p.p();
            }
        }
        let mut top: Vec<(Token, f64)> = top.into_iter().map(|(v, p)| (v, libm::log(p))).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(usize::from(wanted));
        (Some(libm::log(chosen)), top)
    }
}

fn raw_value(list: &List, raw: &Raw, token: Token) -> f64 {
    let at = list.entries.binary_search_by_key(&token, |e| e.token).ok();
    at.and_then(|at| raw.of_said.get(at))
        .map_or(0.0, |ln_p| ln_p.p())
}
