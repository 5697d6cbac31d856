//! How the node is doing, for people and for metrics.

use super::Driver;
use quorate_core::donor::Closed;
use quorate_core::host::PeerLoad;
use quorate_core::residency;
use quorate_core::roster::Known;

/// A picture of the node for `status`, `ps`, `/readyz` and metrics.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    pub node_id: String,
    pub running: usize,
    pub waiting: usize,
    pub models: Vec<ModelStatus>,
    pub memory_budget_bytes: u64,
    pub memory_used_bytes: u64,
    pub generated_tokens: u64,
    pub uptime_ms: u64,
    /// Peers whose routers ask experts here.
    pub guests: Vec<PeerLoad>,
    /// Why no guests are taken now; None: they are.
    pub closed: Option<Closed>,
    pub paused: bool,
    /// Experts of other nodes that requests here may use.
    pub remote_experts: usize,
    /// Every expert that was met, with what was measured of it.
    pub roster: Vec<Known>,
}

#[derive(Clone, Debug)]
pub struct ModelStatus {
    pub name: String,
    pub state: Residence,
    pub bytes: u64,
    /// Zero until it is loaded.
    pub context: u32,
    pub processor: String,
    /// Sessions of the owner...
    pub running: usize,
    /// ...and of other nodes.
    pub hosted: usize,
    /// Milliseconds until it leaves memory if nobody asks; None while in use or kept for ever.
    pub expires_in_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    Loading,
    Ready,
    Leaving,
}

impl Driver {
    pub(super) fn status(&self) -> NodeStatus {
        let now = self.now();
        let models = self.residency.models().iter().map(|(name, model)| {
            let facts = self.experts.named(name).map(|e| e.facts());
            ModelStatus {
                name: name.clone(),
                state: match model.state {
                    residency::State::Pending | residency::State::Loading => Residence::Loading,
                    residency::State::Ready => Residence::Ready,
                    residency::State::Leaving => Residence::Leaving,
                },
                bytes: model.bytes,
                context: facts.map_or(0, |f| f.context),
                processor: facts.map(|f| f.processor.clone()).unwrap_or_default(),
                running: facts.map_or(0, |f| self.node.running_on(f.id)),
                hosted: facts.map_or(0, |f| self.node.host().running_on(f.id)),
                expires_in_ms: self.residency.expires_in_us(name, now).map(|us| us / 1000),
            }
        });
        NodeStatus {
            node_id: self.settings.node_id.clone(),
            running: self.node.running(),
            waiting: self.node.waiting(),
            models: models.collect(),
            memory_budget_bytes: self.residency.budget(),
            memory_used_bytes: self.residency.used(),
            generated_tokens: self.node.generated_tokens(),
            uptime_ms: now.0 / 1000,
            guests: self.node.host().loads().collect(),
            closed: self.node.host().closed(now),
            paused: self.is_paused(),
            remote_experts: self.experts.remote(),
            roster: self.node.roster().iter().cloned().collect(),
        }
    }
}
