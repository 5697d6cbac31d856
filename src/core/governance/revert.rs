//! Which config a node runs under a halt: the one from before the last few changes.

use super::fold::{Snapshot, Standing};

/// One stretch of time in which the mesh stands still, as one node saw it begin. The node keeps it
/// with its latch; a second halt within it takes nothing more back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The version that ran when the first halt came.
    base: u64,
    target: Snapshot,
}

impl Interval {
    /// To be called with every new standing. `applied` is the version that this node runs.
    pub fn next(before: Option<Interval>, applied: u64, standing: &Standing) -> Option<Interval> {
        if !standing.is_halted() {
            // A resume has named the config in which the mesh runs again.
            return None;
        }
        before.or_else(|| {
            let base = applied.min(standing.snapshot().version);
            let wanted = base
                .saturating_sub(u64::from(standing.revert))
                .max(standing.min_safe);
            let found = standing.snapshots().iter().find(|s| s.version >= wanted);
            let target = found.unwrap_or(standing.snapshot()).clone();
            Some(Interval { base, target })
        })
    }

    /// As it was kept with the latch.
    pub(super) fn restored(base: u64, target: Snapshot) -> Interval {
        Interval { base, target }
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    /// What to run until people resume: a copy of a config that ran before. Provisional.
    pub fn target(&self) -> &Snapshot {
        &self.target
    }
}
