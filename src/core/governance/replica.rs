//! One node's copy of the records, within bounds, and its standing.

use super::admission::Admissions;
use super::checkpoint::{Checkpoint, CheckpointId, Time};
use super::codec::Author;
use super::fold::{Standing, fold};
use super::genesis::Genesis;
use super::halt::{Halt, HaltId};
use super::records::{Record, RecordId, Records};
use crate::limits::{
    ADMISSIONS_MAX, CHECKPOINTS_MAX, FEED_BYTES_MAX, FEED_ENTRIES_MAX, HALTS_PER_AUTHOR_MAX,
    LIFTED_HALTS_MAX, REVOCATIONS_PER_AUTHOR_MAX,
};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Replica {
    genesis: Genesis,
    records: Records,
    /// Halts that a resume has ended, for people to read: no standing rests on them.
    over: BTreeMap<HaltId, Halt>,
    standing: Standing,
    /// Entries kept of each author, and their bytes.
    feeds: BTreeMap<Author, (u64, usize)>,
    is_dirty: bool,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Pass it on.
    New,
    /// Known, or over: a lifted halt is kept for people to read, and stops nothing.
    Known,
    Refused(Refusal),
}

/// What became of a batch of them.
#[derive(Debug, Default)]
pub struct TakenAll {
    /// In the order in which they were taken: each after those that it rests on.
    pub new: Vec<Record>,
    pub known: usize,
    pub refused: Vec<(Record, Refusal)>,
    /// The standing is another one.
    pub changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the record belongs to another mesh")]
    OtherMesh,
    /// It may be welcome later, when the author's membership is known.
    #[error("the author is nobody here")]
    Stranger,
    #[error("the author has said more than is kept")]
    Full,
}

impl Replica {
    pub fn new(genesis: Genesis) -> Replica {
        let records = Records::default();
        let standing = fold(&genesis, &records);
        Replica {
            genesis,
            records,
            over: BTreeMap::new(),
            standing,
            feeds: BTreeMap::new(),
            is_dirty: false,
        }
    }

    /// The replica of all these, in whatever order they come, and what it had no use for. Halts come
    /// last: by then it is known which are over, and those take no room from one that stands.
    pub fn gather(genesis: Genesis, records: Vec<Record>) -> (Replica, Vec<(Record, Refusal)>) {
        let mut replica = Replica::new(genesis);
        let is_halt = |record: &Record| matches!(record, Record::Halt(_));
        let (halts, others): (Vec<_>, _) = records.into_iter().partition(is_halt);
        let mut unused = replica.take_all(others).refused;
        unused.extend(replica.take_all(halts).refused);
        (replica, unused)
    }

    /// Takes records that may rest on each other, in whatever order they come: who was a stranger may be a member once
    /// the rest is there. The standing is that of all of them.
    pub fn take_all(&mut self, records: Vec<Record>) -> TakenAll {
        let mut all = TakenAll::default();
        let mut next = records;
        loop {
            let new_before = all.new.len();
            for record in next {
                match self.insert(record.clone()) {
                    Taken::New => all.new.push(record),
                    Taken::Known => all.known += 1,
                    Taken::Refused(why) => all.refused.push((record, why)),
                }
            }
            all.changed |= self.refold();
            let again = |(_, why): &(Record, Refusal)| *why == Refusal::Stranger;
            if all.new.len() == new_before || !all.refused.iter().any(again) {
                return all;
            }
            next = all.refused.drain(..).map(|(record, _)| record).collect();
        }
    }

    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    pub fn records(&self) -> &Records {
        &self.records
    }

    pub(super) fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.records.checkpoints.values()
    }

    /// Halts that a resume has ended.
    pub fn over(&self) -> impl Iterator<Item = &Halt> {
        self.over.values()
    }

    /// All that is worth writing down or showing: the records, and the halts that are over.
    pub fn history(&self) -> impl Iterator<Item = Record> + '_ {
        let over = self.over.values().cloned().map(Record::Halt);
        self.records.iter().chain(over)
    }

    /// Takes a verified record. The standing is that of [`Replica::refold`].
    pub fn insert(&mut self, record: Record) -> Taken {
        if record.network() != self.genesis.network_id() {
            return Taken::Refused(Refusal::OtherMesh);
        }
        if self.records.contains(&record.id()) {
            return Taken::Known;
        }
        let room = match &record {
            Record::Entry(entry) => {
                let author = entry.draft().author;
                let (n, bytes) = self.feeds.get(&author).copied().unwrap_or_default();
                self.room(&author, n < FEED_ENTRIES_MAX && bytes < FEED_BYTES_MAX)
            }
            Record::Halt(halt) => {
                if self.standing.is_lifted(halt.id()) {
                    self.lay_by(halt.clone());
                    return Taken::Known;
                }
                self.room(&halt.author, true)
            }
            Record::Checkpoint(checkpoint) => {
                if self.adds_nothing(checkpoint) {
                    return Taken::Known;
                }
                self.room_for_checkpoint(checkpoint)
            }
            Record::Admission(admission) => {
                // A chain is stored from its root on; the order of arrival heals by asking again.
                let Admissions { nodes, links } = self.standing.admissions();
                let known = nodes.contains(&admission.issuer)
                    || links.iter().any(|link| link.subject == admission.issuer);
                let kept = self.records.admissions.len();
                room(known, kept < ADMISSIONS_MAX)
            }
            Record::Revocation(revocation) => {
                let same = self.records.revocations.values();
                let n = same.filter(|r| r.author == revocation.author).count();
                self.room(&revocation.author, n < REVOCATIONS_PER_AUTHOR_MAX)
            }
        };
        if let Err(refusal) = room {
            return Taken::Refused(refusal);
        }
        self.put(record)
    }

    fn put(&mut self, record: Record) -> Taken {
        let (id, size) = (record.id(), record.encode().len());
        let (entry_of, halt_of, checkpoint) = match &record {
            Record::Entry(entry) => (Some(entry.draft().author), None, None),
            Record::Halt(halt) => (None, Some(halt.author), None),
            Record::Checkpoint(checkpoint) => (None, None, Some(checkpoint.clone())),
            Record::Admission(_) | Record::Revocation(_) => (None, None, None),
        };
        if !self.records.insert(record) {
            return Taken::Known;
        }
        self.is_dirty = true;
        if let Some(author) = entry_of {
            let (n, bytes) = self.feeds.entry(author).or_default();
            *n += 1;
            *bytes += size;
        }
        if let Some(checkpoint) = checkpoint {
            self.thin(&checkpoint);
        }
        match halt_of {
            Some(author) => self.keep_few_halts(&author, id),
            None => Taken::New,
        }
    }

    /// When it was, if all that signed it are witnesses of today: then nothing else can tell it from
    /// others of the same witnesses that saw the same.
    fn plain_time(&self, checkpoint: &Checkpoint) -> Option<Time> {
        let electorate = self.standing.electorate();
        let known = |w| electorate.members.witnesses.binary_search(w).is_ok();
        let plain = checkpoint.witnesses().all(known);
        plain.then(|| checkpoint.time(electorate)).flatten()
    }

    /// Others by the same witnesses who saw the same.
    fn alike<'a>(&'a self, new: &'a Checkpoint) -> impl Iterator<Item = (&'a Checkpoint, Time)> {
        let all = self.records.checkpoints.values();
        let alike = all.filter(|c| c.seen() == new.seen() && c.witnesses().eq(new.witnesses()));
        alike.filter_map(|c| Some((c, self.plain_time(c)?)))
    }

    /// An idle mesh says the same every minute. The fold asks only when something was seen first and
    /// when last, so of equal checkpoints the first and the last are kept.
    fn adds_nothing(&self, new: &Checkpoint) -> bool {
        let Some(time) = self.plain_time(new) else {
            let mut same = self.of_same_witnesses(new);
            return same.any(|other| newness(other) > newness(new));
        };
        let is_first = self.alike(new).all(|(_, other)| time.high_s < other.high_s);
        let is_last = self.alike(new).all(|(_, other)| time > other);
        !is_first && !is_last
    }

    /// Others to which the same witnesses have put their names, where those are too few to say what
    /// time it is: then nobody needs but the newest.
    fn of_same_witnesses<'a>(
        &'a self,
        new: &'a Checkpoint,
    ) -> impl Iterator<Item = &'a Checkpoint> {
        let is_unfinished = |c: &Checkpoint| self.is_unfinished(c);
        let all = self.checkpoints().filter(move |_| is_unfinished(new));
        all.filter(move |c| is_unfinished(c) && c.witnesses().eq(new.witnesses()))
    }

    fn is_unfinished(&self, checkpoint: &Checkpoint) -> bool {
        let electorate = self.standing.electorate();
        let known = |w| electorate.members.witnesses.binary_search(w).is_ok();
        checkpoint.seen().epoch == electorate.epoch
            && checkpoint.witnesses().all(known)
            && checkpoint.time(electorate).is_none()
    }

    fn thin(&mut self, new: &Checkpoint) {
        let newest = self.of_same_witnesses(new).max_by_key(|c| newness(c));
        if let Some(newest) = newest.map(Checkpoint::id) {
            let older = self.of_same_witnesses(new).map(Checkpoint::id);
            for id in older.filter(|id| *id != newest).collect::<Vec<_>>() {
                self.records.checkpoints.remove(&id);
            }
        }
        let first = self.alike(new).min_by_key(|(c, t)| (t.high_s, c.id()));
        let last = self.alike(new).max_by_key(|(c, t)| (*t, c.id()));
        let kept: Vec<CheckpointId> = first.into_iter().chain(last).map(|(c, _)| c.id()).collect();
        let alike: Vec<CheckpointId> = self.alike(new).map(|(c, _)| c.id()).collect();
        for id in alike.iter().filter(|id| !kept.contains(id)) {
            self.records.checkpoints.remove(id);
        }
    }

    /// One more than the cap proves the flood; the smallest ids stay, the same ones everywhere.
    fn keep_few_halts(&mut self, author: &Author, new: RecordId) -> Taken {
        let of_author = |(_, halt): &(&HaltId, &Halt)| halt.author == *author;
        let ids = self
            .records
            .halts
            .iter()
            .filter(of_author)
            .map(|(id, _)| *id);
        let surplus: Vec<HaltId> = ids.skip(HALTS_PER_AUTHOR_MAX + 1).collect();
        for id in &surplus {
            self.records.halts.remove(id);
        }
        if surplus.contains(&HaltId(new)) {
            Taken::Refused(Refusal::Full)
        } else {
            Taken::New
        }
    }

    /// Keeps a halt that is over. Where there are too many, those that were lifted first go.
    fn lay_by(&mut self, halt: Halt) {
        let Ok(halt) = halt.verified() else { return };
        self.over.insert(halt.id(), halt);
        if self.over.len() > LIFTED_HALTS_MAX {
            let lifted = |id: &HaltId| (self.standing.lifted_by(*id), *id);
            let oldest = self.over.keys().copied().min_by_key(lifted);
            oldest.map(|id| self.over.remove(&id));
        }
    }

    /// Of two rival resumes the other may lead by now: what only the first had lifted stops again.
    fn bring_back(&mut self) -> bool {
        let standing = &self.standing;
        let stops = |id: &HaltId| !standing.is_lifted(*id);
        let back: Vec<HaltId> = self.over.keys().copied().filter(stops).collect();
        for id in &back {
            if let Some(halt) = self.over.remove(id) {
                let author = halt.author;
                self.records.insert(Record::Halt(halt));
                self.keep_few_halts(&author, id.0);
            }
        }
        !back.is_empty()
    }

    fn room(&self, author: &Author, has_room: bool) -> Result<(), Refusal> {
        room(self.standing.authors.contains(author), has_room)
    }

    fn room_for_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Refusal> {
        let known = checkpoint
            .witnesses()
            .all(|w| self.standing.witnesses.contains(w));
        room(known, self.records.checkpoints.len() < CHECKPOINTS_MAX)
    }

    /// The standing of all that was taken. Did it change?
    pub fn refold(&mut self) -> bool {
        if !std::mem::take(&mut self.is_dirty) {
            return false;
        }
        let before = self.standing.hash();
        self.standing = fold(&self.genesis, &self.records);
        if self.bring_back() {
            self.standing = fold(&self.genesis, &self.records);
        }
        let lifted = |(id, _): &(HaltId, Halt)| self.standing.is_lifted(*id);
        let halts = std::mem::take(&mut self.records.halts);
        let (over, stand): (BTreeMap<_, _>, _) = halts.into_iter().partition(lifted);
        self.records.halts = stand;
        over.into_values().for_each(|halt| self.lay_by(halt));
        self.standing.hash() != before
    }
}

fn newness(checkpoint: &Checkpoint) -> (Option<u64>, CheckpointId) {
    let times = checkpoint.cosignatures().iter().map(|c| c.time_s);
    (times.max(), checkpoint.id())
}

fn room(known: bool, has_room: bool) -> Result<(), Refusal> {
    match (known, has_room) {
        (false, _) => Err(Refusal::Stranger),
        (true, false) => Err(Refusal::Full),
        (true, true) => Ok(()),
    }
}
