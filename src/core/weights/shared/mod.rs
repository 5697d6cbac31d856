//! The federated gate: what nodes of a mesh tell each other of which expert knows what, and the prior that a request
//! sets out from because of it. Decision 0017 has the privacy and the robustness of it.
//!
//! ```text
//!  a request's prompt ── what each expert thought of it ──▶ Observation ──▶ Own (today, exact)
//!                                                                             │ once a day, + noise
//!  prior of a request ◀── Gate: each node one voice, the middle one ◀── Voice ◀┘ Own (told)
//! ```

mod near;
mod noise;
mod own;
mod topic;
mod voice;

#[cfg(test)]
mod tests;

pub use noise::Noise;
pub use own::Own;
pub use topic::{Observation, Topic};
pub use voice::Voice;

use super::softmax;
use crate::governance::codec::Author;
use crate::ids::{ExpertId, Fingerprint, NetworkId};
use crate::limits::{GATE_DAYS_MAX, GATE_VOICES_MAX};
use crate::mesh::sync::Heard;
use near::Near;
use std::collections::BTreeMap;

/// A gain counts as if it had been seen on so many tokens.
const TOKENS: f64 = 32.0;
/// This part of all weight is spread evenly, whatever anybody says: a prior costs at most ln 4 nats in an answer beside
/// equal weights.
const EVEN: f64 = 0.25;

/// Which day it is, of those that are closed with noise: the same for whoever tells and whoever hears.
pub fn day(unix_s: u64) -> u32 {
    (unix_s / 86_400) as u32
}

/// Why a voice does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    #[error("it belongs to another mesh")]
    OtherMesh,
    #[error("it is our own")]
    Own,
    #[error("something newer is known")]
    Stale,
    #[error("its day is over, or has not come")]
    Day,
    #[error("there are voices enough")]
    Full,
}

/// What a node knows of who knows what: its own history, and the last voice of every other node.
#[derive(Clone, Debug)]
pub struct Gates {
    network: NetworkId,
    node: Author,
    pub own: Own,
    /// What others are told of that. None: nothing yet, or the owner keeps it here.
    pub told: Option<Voice>,
    voices: BTreeMap<Author, Voice>,
    changes: u64,
}

impl Gates {
    pub fn new(network: NetworkId, node: Author, own: Own) -> Gates {
        Gates {
            network,
            node,
            own,
            told: None,
            voices: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Whoever calls knows that its author is a member.
    pub fn hear(&mut self, voice: Voice, today: u32) -> Result<(), Unheard> {
        if voice.network != self.network {
            return Err(Unheard::OtherMesh);
        }
        if voice.node == self.node {
            return Err(Unheard::Own);
        }
        if !is_of_now(&voice, today) {
            return Err(Unheard::Day);
        }
        let known = self.voices.get(&voice.node);
        if known.is_some_and(|known| known.day >= voice.day && is_of_now(known, today)) {
            return Err(Unheard::Stale);
        }
        if known.is_none() && self.voices.len() >= GATE_VOICES_MAX {
            return Err(Unheard::Full);
        }
        self.voices.insert(voice.node, voice);
        self.changes += 1;
        Ok(())
    }

    /// Whoever is no member any more, or said nothing for a month, has no voice.
    pub fn keep(&mut self, today: u32, is_member: impl Fn(&Author) -> bool) {
        let before = self.voices.len();
        self.voices
            .retain(|node, voice| is_member(node) && is_of_now(voice, today));
        self.changes += (before - self.voices.len()) as u64;
    }

    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Rises with every voice that comes or goes.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Which days are known, this node's too.
    pub fn heard(&self) -> Vec<Heard> {
        self.telling()
            .map(|voice| Heard::of(&voice.node, voice.day.into()))
            .collect()
    }

    /// What others are told: this node's word, and what it has heard.
    pub fn telling(&self) -> impl Iterator<Item = &Voice> {
        self.told.iter().chain(self.voices.values())
    }

    pub fn voices(&self) -> impl Iterator<Item = &Voice> {
        self.voices.values()
    }

    /// Weights of experts before any of them has said a word. They sum to one, and none is below `EVEN` / N. Without
    /// voices and history all are equal.
    pub fn prior(&self, vocabulary: Fingerprint, topic: &Topic, experts: &[ExpertId]) -> Vec<f64> {
        let gain = |expert: &ExpertId| {
            let said = self.voices.values();
            let said = said.filter_map(|voice| voice.near(&vocabulary, topic, expert));
            let mesh = Near::middle(&said.collect::<Vec<_>>());
            let own = self.own.near(&vocabulary, topic, expert);
            Near::gain(mesh.into_iter().chain(own))
        };
        let gains = experts.iter().map(gain);
        let ln: Vec<f64> = gains.map(|gain| gain * TOKENS).collect();
        let even = EVEN / experts.len() as f64;
        let prior = softmax(&ln).into_iter();
        prior.map(|share| (1.0 - EVEN) * share + even).collect()
    }
}

/// Clocks may be a day apart.
fn is_of_now(voice: &Voice, today: u32) -> bool {
    voice.day <= today.saturating_add(1) && today.saturating_sub(voice.day) <= GATE_DAYS_MAX
}
