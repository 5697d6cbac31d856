//! How far the mesh may go by itself. Phases gate autonomy, not users.

use super::codec::Malformed;
use super::tier::Tier;

/// 0: reads and reports. 1: suggests. 2: experiments and minor changes, several experts for
/// streams. 3: major changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    ReadOnly,
    Suggest,
    Minor,
    Major,
}

impl Phase {
    pub const ALL: [Phase; 4] = [Phase::ReadOnly, Phase::Suggest, Phase::Minor, Phase::Major];

    pub(super) fn code(self) -> u8 {
        self as u8
    }

    pub(super) fn from_code(code: u8) -> Result<Phase, Malformed> {
        let found = Phase::ALL.get(usize::from(code));
        found.copied().ok_or(Malformed::Range("the phase"))
    }

    /// The phase after this one: none is ever skipped.
    pub fn next(self) -> Option<Phase> {
        Phase::ALL.get(self as usize + 1).copied()
    }

    /// The first phase in which an autonomous stream may do this.
    pub fn needed_for(tier: Tier) -> Phase {
        match tier {
            Tier::ReadOnly => Phase::ReadOnly,
            Tier::Suggest => Phase::Suggest,
            Tier::SandboxTest | Tier::DeployMinor => Phase::Minor,
            Tier::DeployMajor => Phase::Major,
        }
    }

    /// The highest phase of a mesh of this size: two people cannot outvote a stolen key, and without
    /// witnesses no lease ever ends.
    pub fn highest(participants: usize, witnesses: usize) -> Phase {
        if participants < 3 || witnesses == 0 {
            Phase::Suggest
        } else {
            Phase::Major
        }
    }
}
