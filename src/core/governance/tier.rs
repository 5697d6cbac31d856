//! How much consent an action needs, computed from what it does: the keys it touches, the size of
//! its steps, and what happened to the same keys lately. Words play no part.

use crate::config::{BadPatch, Class, Key, MeshConfig, Patch};
use crate::limits::{BATCH_STEPS_MAX, EXPERIMENT_SHARE_PPM_MAX};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    ReadOnly,
    Suggest,
    SandboxTest,
    DeployMinor,
    DeployMajor,
}

/// What a stream of self-improvement may wish for. There is nothing else to wish for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Report,
    Suggest(Key),
    /// A patch on a small share of sessions, for a while.
    Experiment {
        patch: Patch,
        share_ppm: u32,
    },
    ConfigPatch(Patch),
}

/// Values that keys had within the window: small steps add up.
pub type Lately = BTreeMap<Key, BTreeSet<u32>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(transparent)]
    Patch(#[from] BadPatch),
    #[error("an experiment touches at most {EXPERIMENT_SHARE_PPM_MAX} ppm of sessions")]
    Share,
}

/// The tier of an action under this document. What does not fit the schema is refused, not "highest".
pub fn tier(action: &Action, config: &MeshConfig, lately: &Lately) -> Result<Tier, Unfit> {
    match action {
        Action::Report => Ok(Tier::ReadOnly),
        Action::Suggest(_) => Ok(Tier::Suggest),
        Action::ConfigPatch(patch) => Ok(patch_tier(patch, config, lately)?),
        Action::Experiment { patch, share_ppm } => {
            if *share_ppm == 0 || *share_ppm > EXPERIMENT_SHARE_PPM_MAX {
                return Err(Unfit::Share);
            }
            // A small share of a major change is still a major change for those it meets.
            match patch_tier(patch, config, lately)? {
                Tier::DeployMajor => Ok(Tier::DeployMajor),
                _ => Ok(Tier::SandboxTest),
            }
        }
    }
}

/// Minor or major. Adding an operation, or a value to `lately`, never lowers it.
pub fn patch_tier(patch: &Patch, config: &MeshConfig, lately: &Lately) -> Result<Tier, BadPatch> {
    config.apply(patch)?;
    // In thousandths of the largest step of each key.
    let mut steps = 0;
    for op in patch.ops() {
        let row = op.key.row();
        let earlier = lately.get(&op.key).into_iter().flatten().copied();
        let step = earlier
            .chain([op.expect_old])
            .map(|from| op.step_permille(from))
            .max()
            .unwrap_or(0);
        let largest = u64::from(row.step_max_percent) * 10;
        if row.class == Class::Major || !row.reversible || step > largest {
            return Ok(Tier::DeployMajor);
        }
        steps += step * 1000 / largest;
    }
    if steps > BATCH_STEPS_MAX * 1000 {
        Ok(Tier::DeployMajor)
    } else {
        Ok(Tier::DeployMinor)
    }
}
