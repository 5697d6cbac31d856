//! What must never happen, looked for at every event.

use super::machine::Machine;
use super::network::At;
use super::table::{self, Table};
use crate::alarm::Suspicion;
use crate::generate::{Decided, Event, Finish, Spec};
use crate::ids::{ExpertId, Micros, SessionId};
use crate::limits::{
    EXPERT_OPS_MAX, GUESTS_MAX, OPINION_BYTES_MAX, QUEUE_MAX, REMOTE_SESSIONS_MAX, ROSTER_MAX,
    SESSIONS_MAX, SIM_VIOLATIONS_MAX,
};
use crate::opinion::{Query, Said};
use crate::record::{self, Recording};
use crate::team::Schedule;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub at_us: u64,
    pub node: u16,
    pub what: String,
}

/// The fullest that anything was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Highest {
    /// Sessions at one expert.
    pub sessions: usize,
    /// Requests that waited at one node.
    pub waiting: usize,
    /// Guests of one node.
    pub guests: usize,
    /// Sessions of one router elsewhere.
    pub talks: usize,
    /// Answers on their way from an expert to its loop.
    pub pending: usize,
    /// Bytes of one opinion.
    pub opinion_bytes: usize,
}

/// A request under way.
pub(super) struct Attempt {
    pub(super) client: usize,
    pub(super) node: At,
    pub(super) is_local: bool,
    pub(super) spec: Spec,
    decided: Vec<Decided>,
    text: String,
}

/// How a request ended.
pub(super) struct Ended {
    pub(super) client: usize,
    pub(super) text: Option<String>,
}

#[derive(Default)]
pub(super) struct Judge {
    pub(super) violations: Vec<Violation>,
    pub(super) highest: Highest,
    pub(super) replayed: u32,
    pub(super) tokens: u64,
    open: BTreeMap<SessionId, Attempt>,
    /// Experts whose words are not those that they compute.
    pub(super) liars: BTreeSet<ExpertId>,
}

impl Judge {
    pub(super) fn accuse(&mut self, now: u64, node: At, what: String) {
        if self.violations.len() < SIM_VIOLATIONS_MAX {
            let at_us = now;
            self.violations.push(Violation { at_us, node, what });
        }
    }

    pub(super) fn begin(&mut self, client: usize, node: At, is_local: bool, spec: Spec) {
        let attempt = Attempt {
            client,
            node,
            is_local,
            spec,
            decided: Vec::new(),
            text: String::new(),
        };
        self.open.insert(attempt.spec.session, attempt);
    }

    /// It was never taken.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.open.remove(&session);
    }

    /// The node died, and its requests with it: whose?
    pub(super) fn died(&mut self, node: At) -> Vec<usize> {
        let of_node = |a: &Attempt| a.node == node;
        let lost = self
            .open
            .values()
            .filter(|a| of_node(a))
            .map(|a| a.client)
            .collect();
        self.open.retain(|_, attempt| !of_node(attempt));
        lost
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// One event of a request. Every request has one end, and nothing after it.
    pub(super) fn hear(
        &mut self,
        now: u64,
        machine: &Machine,
        session: SessionId,
        event: Event,
    ) -> Option<Ended> {
        let Some(attempt) = self.open.get_mut(&session) else {
            self.accuse(
                now,
                machine.at,
                format!("an event after the end: {event:?}"),
            );
            return None;
        };
        match event {
            Event::Ready { .. } => None,
            Event::Decided(decided) => {
                attempt.decided.push(*decided);
                None
            }
            Event::Token(token) => {
                attempt.text += &token.text;
                self.tokens += 1;
                if !attempt.is_local && machine.is_halted() {
                    self.accuse(now, machine.at, "a token after a verified halt".into());
                }
                None
            }
            Event::Finished {
                why,
                text,
                schedule,
                ..
            } => {
                let mut attempt = self.open.remove(&session)?;
                attempt.text += &text;
                self.look_back(now, machine, &attempt, schedule);
                let is_whole = matches!(why, Finish::Length | Finish::Stop);
                Some(Ended {
                    client: attempt.client,
                    text: is_whole.then_some(attempt.text),
                })
            }
        }
    }

    /// The text is what its recording says, and what honest experts say is what they compute: a
    /// session that heard another's answers would not stand.
    fn look_back(&mut self, now: u64, machine: &Machine, attempt: &Attempt, schedule: Schedule) {
        if attempt.decided.is_empty() {
            return;
        }
        let spec = &attempt.spec;
        let mut tokens = spec.prompt.clone();
        for decided in &attempt.decided {
            let query = Query::perturbed(spec.secret.key(decided.position), spec.law.lists.tau);
            for (question, expert, said) in &decided.answers {
                let is_known = *question == 0 && !self.liars.contains(expert);
                if is_known && !computes(*expert, &tokens, &query, said) {
                    let what = format!("an answer at {} was never given", decided.position);
                    self.accuse(now, machine.at, what);
                }
            }
            tokens.push(decided.token);
        }
        let vocab = table::vocab();
        let recording = Recording {
            prompt: spec.prompt.clone(),
            law: spec.law.clone(),
            secret: spec.secret.to_bytes(),
            logprobs: spec.logprobs.is_some(),
            max_tokens: spec.max_tokens,
            stop: spec.stop.clone(),
            context: spec.context,
            grammar: false,
            local: Some(machine.expert),
            schedule,
            pieces: record::pieces(&vocab, &attempt.decided),
            decided: attempt.decided.clone(),
            vocabulary: vocab.len(),
            text: attempt.text.clone(),
        };
        self.replayed += 1;
        if let Err(mismatch) = record::replay(&recording) {
            let what = format!("the recording does not stand: {mismatch}");
            self.accuse(now, machine.at, what);
        }
    }

    /// Honest experts are never suspected of following the keys.
    pub(super) fn suspect(&mut self, now: u64, node: At, expert: ExpertId, why: Suspicion) {
        if matches!(why, Suspicion::Keyed { .. }) && !self.liars.contains(&expert) {
            self.accuse(now, node, format!("an honest expert is suspected: {why}"));
        }
    }

    // --- bounds ---------------------------------------------------------------------------------

    pub(super) fn measure(&mut self, now: u64, machine: &Machine) {
        let node = &machine.node;
        let highest = &mut self.highest;
        let mut over: Option<&'static str> = None;
        let mut see = |highest: &mut usize, is: usize, most: usize, what: &'static str| {
            *highest = (*highest).max(is);
            if is > most {
                over = Some(what);
            }
        };
        see(
            &mut highest.sessions,
            machine.sessions(),
            SESSIONS_MAX,
            "sessions at an expert",
        );
        see(
            &mut highest.waiting,
            node.waiting(),
            QUEUE_MAX,
            "waiting requests",
        );
        see(
            &mut highest.guests,
            machine.visits.len(),
            GUESTS_MAX,
            "guests",
        );
        see(
            &mut highest.pending,
            machine.pending,
            EXPERT_OPS_MAX,
            "operations at an expert",
        );
        let talks = machine.talks.len();
        see(
            &mut highest.talks,
            talks,
            REMOTE_SESSIONS_MAX * ROSTER_MAX,
            "sessions elsewhere",
        );
        if let Some(what) = over {
            self.accuse(now, machine.at, format!("too many {what}"));
        }
    }

    pub(super) fn weigh(&mut self, now: u64, node: At, opinion_bytes: usize) {
        self.highest.opinion_bytes = self.highest.opinion_bytes.max(opinion_bytes);
        if opinion_bytes > OPINION_BYTES_MAX {
            self.accuse(now, node, format!("an opinion of {opinion_bytes} bytes"));
        }
    }

    // --- at the end -----------------------------------------------------------------------------

    /// When everything has been well for long enough nobody holds anything of anybody.
    pub(super) fn leftovers(&self, now: u64, machine: &Machine) -> Option<String> {
        let node = &machine.node;
        let own = node.running() + node.waiting();
        let held = machine.visits.len() + machine.talks.len() + machine.sessions();
        let wakes = node.wake_at().filter(|at| *at < Micros(now));
        (own + held > 0 || wakes.is_some()).then(|| {
            format!(
                "node {}: {own} requests, {} guests, {} sessions elsewhere, {} at its expert",
                machine.at,
                machine.visits.len(),
                machine.talks.len(),
                machine.sessions()
            )
        })
    }
}

fn computes(expert: ExpertId, tokens: &[u32], query: &Query, said: &Said) -> bool {
    let mut table = Table::new(expert);
    table.texts.own.tokens = tokens.to_vec();
    table.opinion(tokens.len() as u32, query).said == *said
}
