//! Weights learned from what the members think of the prompt, frozen after it.

use super::{Sets, Team};
use crate::ids::Position;
use crate::lnp::LnP;
use crate::weights::{Following, Situation};

impl Team {
    /// Whoever opens a session says what it thinks of the prompt.
    pub(crate) fn learns(&self) -> bool {
        self.learned.is_some()
    }

    /// ln p of the prompt's tokens but the first, by one member. Returns whether that changed the set or
    /// its weights at the undecided position.
    pub(crate) fn scored(&mut self, i: usize, ln_p: &[LnP], position: Position) -> bool {
        let Some(learned) = &mut self.learned else {
            return false;
        };
        for (at, ln_p) in (1..).zip(ln_p) {
            learned.heard(at, i, *ln_p);
        }
        self.members[i].has_scored = true;
        if !self.group.contains(&i) {
            return false; // what others weigh was declared without it
        }
        self.weigh(position);
        self.write_down(position);
        true
    }

    /// Weighs the set by what its members said of the prompt; those that have not spoken count as all did
    /// before the first word. Once all have, whoever weighs nothing is not asked.
    pub(super) fn weigh(&mut self, position: Position) {
        let Some(learned) = &mut self.learned else {
            return;
        };
        let frozen = Situation::Sampled(Following::Frozen);
        if self.group.is_empty() || learned.begin(position, frozen).is_err() {
            return;
        }
        let weights = learned.at(position, &self.group);
        let all = self.group.iter().all(|&i| self.members[i].has_scored);
        for (&i, weight) in self.group.iter().zip(weights) {
            let member = &mut self.members[i];
            member.weight = weight;
            member.is_outweighed = all && weight == 0.0 && self.sets == Sets::A;
        }
        let members = &self.members;
        self.group.retain(|&i| !members[i].is_outweighed);
    }
}
