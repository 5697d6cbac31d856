//! What people of a mesh have signed, on this machine's disk. Nothing is acknowledged before a crash
//! could not take it back, and a node whose ledger cannot be read stays halted.
//!
//! ```text
//! genesis            the root of the mesh, written once
//! records.log        signed records in the order in which they came: `core::governance::journal`
//! latch.0, latch.1   two copies of one block: what the log held, the halts that stand, the clock
//! audit.00 .. 15     what this node allowed and refused: `core::governance::Trail`
//! ```
//!
//! An append writes and syncs the log, then seals it: the latch, written in place into the older
//! copy, says how far the log goes. So whatever a crash tears is behind the seal and was never
//! acknowledged, and whatever is missing or changed before the seal is noticed. A halt goes to the
//! latch first, into both copies, and needs no room on the disk.
//!
//! The core decides what the bytes mean; this module moves them.

mod audit;
#[cfg(test)]
mod audit_tests;
mod disk;
#[cfg(test)]
mod made;
#[cfg(test)]
mod tests;

pub use audit::{Audit, Unread, look as look_audit};
pub use disk::DiskError;

use crate::error::{Failure, Kind};
use disk::Disk;
use quorate_core::governance::{
    End, Genesis, Halt, JournalPurpose, Latch, Lost as LostRecords, Malformed, Record, Replica,
    Standing, Stored,
};
use quorate_core::ids::NetworkId;
use quorate_core::limits::{
    LATCH_BYTES, LEDGER_BYTES_MAX, LEDGER_HALT_BYTES_MAX, LEDGER_SPARSE_BYTES, RECORD_BYTES_MAX,
};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const GENESIS: &str = "genesis";
const LATCHES: [&str; 2] = ["latch.0", "latch.1"];
/// A clock that went on by less is not worth a write.
const CLOCK_STEP_S: u64 = 60;
/// A reader without the node's lock may meet a write in the middle; the next look finds it done.
const LOOKS: u32 = 3;

/// Why there is no ledger to go on with. A node that meets this stays halted.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("this node belongs to no mesh")]
    NoMesh,
    #[error("a mesh is here already")]
    Exists,
    #[error("the genesis of the mesh is damaged: {0}")]
    Genesis(Malformed),
    #[error("the log is longer than a log can be")]
    TooLong,
    #[error(transparent)]
    Records(#[from] LostRecords),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why something was not written down. Whoever hears this acknowledges nothing and stays halted.
#[derive(Debug, thiserror::Error)]
pub enum Unkept {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "an earlier write to the ledger failed: what the disk holds is only known after a restart"
    )]
    Broken,
    #[error("the ledger is full: only halts are written down")]
    Full,
}

/// The open ledger of one mesh. The home's lock makes it the only one.
#[derive(Debug)]
pub struct Ledger {
    disk: Disk,
    latch: Latch,
    /// The copy that was written last.
    newest: usize,
    /// Where the log ends.
    end: End,
    /// After a failed write nobody knows what the disk holds: a second sync that succeeds proves
    /// nothing about what the first one lost.
    is_broken: bool,
}

/// What the files hold, before anything is mended.
struct Found {
    stored: Stored,
    newest: usize,
    /// Do both copies of the latch say the same?
    are_equal: bool,
    log_len: u64,
}

impl Ledger {
    /// The ledger of a new mesh. What an earlier attempt left behind is no mesh yet.
    pub fn create(dir: &Path, genesis: &Genesis) -> Result<Ledger, Lost> {
        Ledger::create_on(Disk::Files(dir.to_owned()), genesis)
    }

    fn create_on(disk: Disk, genesis: &Genesis) -> Result<Ledger, Lost> {
        disk.create()?;
        let network = genesis.network_id();
        for copy in LATCHES {
            let bytes = disk.read(copy, LATCH_BYTES as u64 + 1)?.unwrap_or_default();
            if Latch::decode(&bytes).is_ok() {
                return Err(Lost::Exists);
            }
        }
        let name = log_name(0);
        if disk.read(&name, 1)?.is_some_and(|log| !log.is_empty()) {
            return Err(Lost::Exists);
        }
        disk.replace(GENESIS, &genesis.encode())?;
        disk.put(&name, 0, &[])?;
        let end = End::empty(JournalPurpose::Log, network);
        let latch = Latch::new(network, 0, end);
        for copy in LATCHES {
            disk.put(copy, 0, &latch.encode())?;
        }
        disk.sync_names()?;
        Ok(Ledger {
            disk,
            latch,
            newest: 1,
            end,
            is_broken: false,
        })
    }

    /// Reads and verifies everything, cuts a torn end, and says what it all amounts to.
    pub fn open(dir: &Path) -> Result<(Ledger, Stored), Lost> {
        Ledger::open_on(Disk::Files(dir.to_owned()))
    }

    fn open_on(disk: Disk) -> Result<(Ledger, Stored), Lost> {
        let Found {
            stored,
            newest,
            are_equal,
            log_len,
        } = find(&disk)?;
        let mut ledger = Ledger {
            disk,
            latch: stored.latch.clone(),
            newest,
            end: stored.end,
            is_broken: false,
        };
        let name = log_name(ledger.latch.log);
        if log_len > stored.end.len {
            ledger.disk.cut(&name, stored.end.len)?;
        }
        if ledger.latch.sealed != stored.end {
            // Whole frames behind the seal count from here on, so they must stay.
            ledger.disk.put(&name, stored.end.len, &[])?;
            ledger.latch.sealed = stored.end;
            ledger.seal_twice()?;
        } else if !are_equal {
            ledger.seal_twice()?;
        }
        if stored.end.len > LEDGER_SPARSE_BYTES {
            ledger.thin(&stored.replica)?;
        }
        Ok((ledger, stored))
    }

    /// Writes records down. When this returns, they survive a crash.
    pub fn append(&mut self, records: &[Record]) -> Result<(), Unkept> {
        if self.is_broken {
            return Err(Unkept::Broken);
        }
        let mut bytes = Vec::new();
        let end = records.iter().fold(self.end, |end, record| {
            end.push(&record.encode(), &mut bytes)
        });
        let only_halts = records.iter().all(|r| matches!(r, Record::Halt(_)));
        let max = LEDGER_BYTES_MAX + if only_halts { LEDGER_HALT_BYTES_MAX } else { 0 };
        if end.len > max {
            return Err(Unkept::Full);
        }
        let name = log_name(self.latch.log);
        let put = self.disk.put(&name, self.end.len, &bytes);
        self.noted(put)?;
        self.end = end;
        self.latch.sealed = end;
        let sealed = self.seal();
        self.noted(sealed)
    }

    /// Holds a halt, before anything else is done about it but to stop. It needs no room and no log:
    /// where one copy of the latch can be written, it is held, even if the ledger was broken before.
    /// A latch that is full of halts holds the node as it is: one more is then kept by `append` alone.
    pub fn hold(&mut self, halt: &Halt) -> Result<(), Unkept> {
        self.latch.hold(halt);
        let (first, second) = (self.seal(), self.seal());
        let is_held = first.is_ok() || second.is_ok();
        self.is_broken |= first.is_err() || second.is_err();
        match first {
            Err(error) if !is_held => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Lets go of halts that are over, notes how a stop began and how late it is. To be called with
    /// every new standing, at boot too; `applied` is the config version that this node runs.
    pub fn settle(&mut self, standing: &Standing, applied: u64, now_s: u64) -> Result<(), Unkept> {
        let mut next = self.latch.clone();
        next.settle(standing, applied);
        let is_later = now_s >= next.highest_s.saturating_add(CLOCK_STEP_S);
        if is_later {
            next.highest_s = now_s;
        }
        if next == self.latch {
            return Ok(());
        }
        if self.is_broken {
            return Err(Unkept::Broken);
        }
        let starts_or_ends = next.interval != self.latch.interval;
        self.latch = next;
        let sealed = if starts_or_ends {
            // One copy that forgets how the stop began would take back more than the stop allows.
            self.seal_twice()
        } else {
            self.seal()
        };
        self.noted(sealed)
    }

    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    fn noted(&mut self, done: Result<(), DiskError>) -> Result<(), Unkept> {
        self.is_broken |= done.is_err();
        Ok(done?)
    }

    /// Writes the latch over its older copy: the newer one stays whole meanwhile.
    fn seal(&mut self) -> Result<(), DiskError> {
        let older = 1 - self.newest;
        self.latch.turn += 1;
        self.newest = older;
        self.disk.put(LATCHES[older], 0, &self.latch.encode())
    }

    fn seal_twice(&mut self) -> Result<(), DiskError> {
        self.seal()?;
        self.seal()
    }

    /// Writes the log anew, if at least half of it is over. The latch decides which log counts.
    fn thin(&mut self, replica: &Replica) -> Result<(), Lost> {
        let mut bytes = Vec::new();
        let empty = End::empty(JournalPurpose::Log, self.latch.network);
        let end = replica
            .history()
            .fold(empty, |end, record| end.push(&record.encode(), &mut bytes));
        if end.len > self.end.len / 2 {
            return Ok(());
        }
        let old = log_name(self.latch.log);
        let new = log_name(self.latch.log + 1);
        let written = self.disk.remove(&new);
        let written = written.and_then(|()| self.disk.put(&new, 0, &bytes));
        if let Err(error) = written.and_then(|()| self.disk.sync_names()) {
            // A full disk, most of all. The old log is as good.
            tracing::warn!(%error, "the log of the mesh goes on as it is");
            return Ok(());
        }
        self.latch.log += 1;
        (self.end, self.latch.sealed) = (end, end);
        self.seal_twice()?;
        if let Err(error) = self.disk.remove(&old) {
            tracing::warn!(%error, "the old log of the mesh stays, and counts for nothing");
        }
        Ok(())
    }
}

/// What the files hold, for a command that changes nothing. A node may be writing meanwhile.
pub fn look(dir: &Path) -> Result<Stored, Lost> {
    let disk = Disk::Files(dir.to_owned());
    let mut found = find(&disk);
    for _ in 1..LOOKS {
        if !matches!(found, Err(Lost::Records(_))) {
            break;
        }
        found = find(&disk);
    }
    Ok(found?.stored)
}

/// Changes whenever something was written down: every write seals the latch.
pub fn stamp(dir: &Path) -> [Option<SystemTime>; 2] {
    LATCHES.map(|copy| {
        std::fs::metadata(dir.join(copy))
            .and_then(|m| m.modified())
            .ok()
    })
}

/// Logs of other numbers are what is left of an attempt to write the log anew.
fn log_name(number: u64) -> String {
    match number {
        0 => "records.log".to_owned(),
        n => format!("records.{n}.log"),
    }
}

fn find(disk: &Disk) -> Result<Found, Lost> {
    let genesis = disk.read(GENESIS, RECORD_BYTES_MAX as u64 + 1)?;
    let read = |copy| disk.read(copy, LATCH_BYTES as u64 + 1);
    let copies = [read(LATCHES[0])?, read(LATCHES[1])?];
    let genesis = match genesis {
        None if copies == [None, None] => return Err(Lost::NoMesh),
        None => return Err(Lost::Genesis(Malformed::Short)),
        Some(bytes) => Genesis::decode(&bytes).map_err(Lost::Genesis)?,
    };
    let copies = copies.map(Option::unwrap_or_default);
    let latch = pick(genesis.network_id(), &copies).ok_or(LostRecords::Latch)?;
    let newest = usize::from(copies[1] == latch.encode());
    let max = LEDGER_BYTES_MAX + LEDGER_HALT_BYTES_MAX;
    let log = disk
        .read(&log_name(latch.log), max + 1)?
        .unwrap_or_default();
    let log_len = log.len() as u64;
    if log_len > max {
        return Err(Lost::TooLong);
    }
    Ok(Found {
        are_equal: agree(&copies),
        stored: Stored::read(genesis, latch, &log)?,
        newest,
        log_len,
    })
}

fn pick(network: NetworkId, copies: &[Vec<u8>; 2]) -> Option<Latch> {
    Latch::pick(network, [&copies[0], &copies[1]])
}

/// Do the copies differ in nothing but their turn?
fn agree(copies: &[Vec<u8>; 2]) -> bool {
    let [Ok(a), Ok(b)] = [&copies[0], &copies[1]].map(|copy| Latch::decode(copy)) else {
        return false;
    };
    a == Latch { turn: a.turn, ..b }
}

impl Lost {
    /// For people: where it is, and what to do.
    pub fn at(self, dir: PathBuf) -> Failure {
        let place = dir.display();
        match self {
            Lost::NoMesh => Failure::new(Kind::NotFound, Lost::NoMesh.to_string()).hint(
                "found one: quorate gov init --help; or name a file: --log FILE (from `quorate gov export`)",
            ),
            Lost::Exists => Failure::new(
                Kind::Taken,
                format!("a mesh is in {place} already"),
            )
            .hint("see it: quorate gov status. For another mesh take another home: QUORATE_HOME=/other/directory"),
            Lost::Disk(DiskError { doing, path, error }) => Failure::file(doing, &path, &error),
            damaged => Failure::new(
                Kind::Config,
                format!("the records of the mesh in {place} cannot be trusted, so this node stays halted: {damaged}"),
            )
            .hint(format!(
                "other nodes have them all: keep the damaged ones (mv '{place}' '{place}.bad') and join the mesh again"
            )),
        }
    }
}

impl From<Unkept> for Failure {
    fn from(unkept: Unkept) -> Failure {
        match unkept {
            Unkept::Disk(DiskError { doing, path, error }) => Failure::file(doing, &path, &error),
            Unkept::Broken | Unkept::Full => Failure::new(Kind::Failed, unkept.to_string())
                .hint("see what is kept: quorate gov status"),
        }
    }
}
