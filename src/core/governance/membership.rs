//! Who decides, in which epoch. Changed only by the old and the new set together.

use super::codec::{Author, Malformed, Reader, Writer, is_good_key, is_set};
use super::genesis::Preset;
use crate::limits::{PARTICIPANTS_MAX, WITNESSES_MAX};
use std::collections::BTreeSet;

/// The keys of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Sorted, each once.
    pub participants: Vec<Author>,
    /// Online keys that say what time it is and what they have seen; they never vote.
    pub witnesses: Vec<Author>,
    /// How many witnesses make a checkpoint.
    pub witness_threshold: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMembers {
    #[error("a mesh has 1 to {PARTICIPANTS_MAX} participants")]
    Participants,
    #[error("a key is named twice")]
    Twice,
    #[error("a key is not an ed25519 public key")]
    Key,
    #[error("a key of a participant is also that of a witness or a node")]
    TwoDuties,
    #[error(
        "more than half of the witnesses make a checkpoint, and there are at most {WITNESSES_MAX}"
    )]
    Witnesses,
    #[error("the preset asks for more people or witnesses")]
    Preset,
}

impl Members {
    /// `nodes`: keys of machines, which never decide.
    pub fn check(&self, preset: Preset, nodes: &[Author]) -> Result<(), BadMembers> {
        let Members {
            participants,
            witnesses,
            witness_threshold,
        } = self;
        if participants.is_empty() || participants.len() > PARTICIPANTS_MAX {
            return Err(BadMembers::Participants);
        }
        if !is_set(participants) || !is_set(witnesses) {
            return Err(BadMembers::Twice);
        }
        // A weak key would let anybody sign for it; a second spelling would count one person twice.
        if !participants.iter().chain(witnesses).all(is_good_key) {
            return Err(BadMembers::Key);
        }
        let machine = |key: &Author| witnesses.contains(key) || nodes.contains(key);
        if participants.iter().any(machine) {
            return Err(BadMembers::TwoDuties);
        }
        let (w, t) = (witnesses.len(), usize::from(*witness_threshold));
        // Any two checkpoints share a witness.
        if w > WITNESSES_MAX || t > w || (w > 0 && 2 * t <= w) {
            return Err(BadMembers::Witnesses);
        }
        let row = preset.row();
        if participants.len() < row.participants_min
            || participants.len() > row.participants_max
            || w < row.witnesses_min
        {
            return Err(BadMembers::Preset);
        }
        Ok(())
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.list(self.participants.iter())
            .list(self.witnesses.iter())
            .u8(self.witness_threshold);
    }

    pub(super) fn read(read: &mut Reader) -> Result<Members, Malformed> {
        Ok(Members {
            participants: read.list(PARTICIPANTS_MAX, "the participants")?,
            witnesses: read.list(WITNESSES_MAX, "the witnesses")?,
            witness_threshold: read.u8()?,
        })
    }
}

/// The members as they stand: an epoch, and the keys that were found to lie or to be stolen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    pub epoch: u32,
    pub members: Members,
    /// Never shrinks: a burnt key does not come back.
    pub suspended: BTreeSet<Author>,
}

impl Electorate {
    /// Suspended participants still count here: a suspension never lowers a threshold.
    pub fn size(&self) -> usize {
        self.members.participants.len()
    }

    pub fn is_active(&self, author: &Author) -> bool {
        self.members.participants.binary_search(author).is_ok() && !self.suspended.contains(author)
    }

    pub fn active(&self) -> usize {
        let keys = self.members.participants.iter();
        keys.filter(|key| !self.suspended.contains(*key)).count()
    }

    pub fn has_witnesses(&self) -> bool {
        !self.members.witnesses.is_empty()
    }
}
