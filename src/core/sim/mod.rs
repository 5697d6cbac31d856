//! A whole mesh in one thread, in made-up time: the real state machines of every node, over links
//! that delay and lose, under faults and liars. A function of its options: the same seed gives the
//! same trace to the bit.
//!
//! ```text
//!  Options ─▶ World: one queue of events, in time order ─▶ Report
//!               │  machine: node::Node, host, Book, Replica, Rights, a table expert
//!               │  network: link::Wire between each two, connections that break
//!               │  plan:    what goes wrong, and when all of it is over
//!               └▶ judge:   safety at every event; progress after the healing
//! ```
//!
//! Nothing here decides what a node does: `machine` stands where the shells stand in the program.
//! Decision 0009 says what is checked and what is left out.

mod carry;
mod judge;
mod liar;
mod machine;
mod mesh;
mod network;
pub(crate) mod people;
mod plan;
pub(crate) mod table;
mod traffic;
mod trouble;
mod world;

pub use judge::{Highest, Violation};
pub use plan::Faults;

use crate::limits::SIM_NODES_MAX;
use crate::link::{BadLink, Link};
pub(crate) use people::Dice;
use std::collections::BTreeMap;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub nodes: u16,
    /// Each is asked at a node drawn by the seed, and asked again until it has its text.
    pub requests: u32,
    /// Tokens of each answer.
    pub tokens: u32,
    /// Between every two nodes, each way.
    pub link: Link,
    pub faults: Faults,
    /// Things go wrong for so long; then everything is healed.
    pub trouble_us: u64,
    /// The requests ask this node's own expert and nobody else, under a local permit.
    pub alone: bool,
}

impl Options {
    /// A calm mesh.
    pub fn new(seed: u64, nodes: u16) -> Options {
        Options {
            seed,
            nodes,
            requests: 4,
            tokens: 12,
            link: Link::named("metro").expect("it is one of the rungs"),
            faults: Faults::default(),
            trouble_us: 20_000_000,
            alone: false,
        }
    }

    /// A mesh in which the seed decides what goes wrong.
    pub fn troubled(seed: u64, nodes: u16) -> Options {
        Options {
            requests: 12,
            tokens: 20,
            faults: Faults::drawn(seed, nodes),
            trouble_us: 60_000_000,
            ..Options::new(seed, nodes)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOptions {
    #[error("a simulation has 1 to {SIM_NODES_MAX} nodes")]
    Nodes,
    #[error("the link cannot be: {0}")]
    Link(#[from] BadLink),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub seed: u64,
    /// Of everything that happened, in order.
    pub trace_hash: [u8; 32],
    /// The last of it, for people.
    pub tail: Vec<String>,
    /// What must never happen and did.
    pub safety: Vec<Violation>,
    /// What had not come about when time was up.
    pub stuck: Vec<String>,
    pub asked: u32,
    pub finished: u32,
    /// Requests handed to nodes: a failed one is asked again.
    pub attempts: u32,
    /// Recordings that were computed again, and stood.
    pub replayed: u32,
    pub tokens: u64,
    pub virtual_us: u64,
    pub events: u64,
    /// Put on links.
    pub bytes: u64,
    pub highest: Highest,
    /// How often each thing happened: a simulation in which nothing does proves nothing.
    pub seen: BTreeMap<&'static str, u64>,
    /// Of every request, in order.
    pub texts: Vec<Option<String>>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.safety.is_empty() && self.stuck.is_empty() && self.finished == self.asked
    }
}

pub fn run(options: &Options) -> Result<Report, BadOptions> {
    if options.nodes == 0 || usize::from(options.nodes) > SIM_NODES_MAX {
        return Err(BadOptions::Nodes);
    }
    options.link.check()?;
    Ok(world::World::new(options.clone()).run())
}

#[cfg(test)]
mod tests;
