//! Everything signed that a node has heard, keyed by content: order and repetition leave no trace.

use super::admission::{self, Admission, AdmissionId, Revocation};
use super::checkpoint::{self, Checkpoint, CheckpointId};
use super::codec::Malformed;
use super::entry::{self, Entry, EntryId};
use super::halt::{self, Halt, HaltId};
use crate::ids::NetworkId;
use std::collections::BTreeMap;

/// One signed thing, verified by its decoder.
#[expect(
    clippy::large_enum_variant,
    reason = "a record lives for one call, on its way into a set by kind"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Entry(Entry),
    Halt(Halt),
    Checkpoint(Checkpoint),
    Admission(Admission),
    Revocation(Revocation),
}

/// The name of a record of any kind.
pub type RecordId = [u8; 32];

impl Record {
    /// Total: any bytes give a verified record or a reason.
    pub fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
        if bytes.starts_with(halt::TAG) {
            Halt::decode(bytes).map(Record::Halt)
        } else if bytes.starts_with(entry::TAG) {
            Entry::decode(bytes).map(Record::Entry)
        } else if bytes.starts_with(checkpoint::TAG) {
            Checkpoint::decode(bytes).map(Record::Checkpoint)
        } else if bytes.starts_with(admission::ADMISSION_TAG) {
            Admission::decode(bytes).map(Record::Admission)
        } else if bytes.starts_with(admission::REVOCATION_TAG) {
            Revocation::decode(bytes).map(Record::Revocation)
        } else {
            Err(Malformed::Tag)
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Record::Entry(entry) => entry.encode(),
            Record::Halt(halt) => halt.encode(),
            Record::Checkpoint(checkpoint) => checkpoint.encode(),
            Record::Admission(admission) => admission.encode(),
            Record::Revocation(revocation) => revocation.encode(),
        }
    }

    pub fn id(&self) -> RecordId {
        match self {
            Record::Entry(entry) => entry.id().0,
            Record::Halt(halt) => halt.id().0,
            Record::Checkpoint(checkpoint) => checkpoint.id().0,
            Record::Admission(admission) => admission.id().0,
            Record::Revocation(revocation) => revocation.id(),
        }
    }

    pub fn network(&self) -> NetworkId {
        match self {
            Record::Entry(entry) => entry.draft().network,
            Record::Halt(halt) => halt.network,
            Record::Checkpoint(checkpoint) => checkpoint.seen().network,
            Record::Admission(admission) => admission.network,
            Record::Revocation(revocation) => revocation.network,
        }
    }
}

impl From<Entry> for Record {
    fn from(entry: Entry) -> Record {
        Record::Entry(entry)
    }
}

/// A set of records. The first of two signatures under one body stays; nothing depends on which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub(super) entries: BTreeMap<EntryId, Entry>,
    pub(super) halts: BTreeMap<HaltId, Halt>,
    pub(super) checkpoints: BTreeMap<CheckpointId, Checkpoint>,
    pub(super) admissions: BTreeMap<AdmissionId, Admission>,
    pub(super) revocations: BTreeMap<RecordId, Revocation>,
}

impl Records {
    /// Was it new? Halts, admissions and revocations are made of open fields, so what did not come
    /// from a decoder is verified here; what is not signed is left out.
    pub fn insert(&mut self, record: Record) -> bool {
        match record {
            Record::Entry(entry) => put(&mut self.entries, entry.id(), entry),
            Record::Checkpoint(c) => put(&mut self.checkpoints, c.id(), c),
            Record::Halt(halt) => halt
                .verified()
                .is_ok_and(|h| put(&mut self.halts, h.id(), h)),
            Record::Admission(a) => {
                Admission::decode(&a.encode()).is_ok_and(|a| put(&mut self.admissions, a.id(), a))
            }
            Record::Revocation(r) => {
                Revocation::decode(&r.encode()).is_ok_and(|r| put(&mut self.revocations, r.id(), r))
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Record> + '_ {
        let entries = self.entries.values().cloned().map(Record::Entry);
        entries
            .chain(self.halts.values().cloned().map(Record::Halt))
            .chain(self.checkpoints.values().cloned().map(Record::Checkpoint))
            .chain(self.admissions.values().cloned().map(Record::Admission))
            .chain(self.revocations.values().cloned().map(Record::Revocation))
    }

    /// Names of all, in order within each kind.
    pub fn ids(&self) -> impl Iterator<Item = RecordId> + '_ {
        let entries = self.entries.keys().map(|id| id.0);
        entries
            .chain(self.halts.keys().map(|id| id.0))
            .chain(self.checkpoints.keys().map(|id| id.0))
            .chain(self.admissions.keys().map(|id| id.0))
            .chain(self.revocations.keys().copied())
    }

    pub fn get(&self, id: &RecordId) -> Option<Record> {
        let entry = self.entries.get(&EntryId(*id)).cloned().map(Record::Entry);
        let halt = || self.halts.get(&HaltId(*id)).cloned().map(Record::Halt);
        let checkpoint = || {
            let found = self.checkpoints.get(&CheckpointId(*id)).cloned();
            found.map(Record::Checkpoint)
        };
        let admission = || {
            let found = self.admissions.get(&AdmissionId(*id)).cloned();
            found.map(Record::Admission)
        };
        let revocation = || self.revocations.get(id).cloned().map(Record::Revocation);
        entry
            .or_else(halt)
            .or_else(checkpoint)
            .or_else(admission)
            .or_else(revocation)
    }

    pub fn contains(&self, id: &RecordId) -> bool {
        self.entries.contains_key(&EntryId(*id))
            || self.halts.contains_key(&HaltId(*id))
            || self.checkpoints.contains_key(&CheckpointId(*id))
            || self.admissions.contains_key(&AdmissionId(*id))
            || self.revocations.contains_key(id)
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, id: K, value: V) -> bool {
    let mut new = false;
    map.entry(id).or_insert_with(|| {
        new = true;
        value
    });
    new
}

impl FromIterator<Record> for Records {
    fn from_iter<T: IntoIterator<Item = Record>>(records: T) -> Records {
        let mut all = Records::default();
        for record in records {
            all.insert(record);
        }
        all
    }
}

impl FromIterator<Halt> for Records {
    fn from_iter<T: IntoIterator<Item = Halt>>(halts: T) -> Records {
        halts.into_iter().map(Record::Halt).collect()
    }
}
