//! From what the disk gives back to a replica: all that was acknowledged, or the reason why this
//! node stays halted.

use super::genesis::Genesis;
use super::journal::{End, Purpose, Scan};
use super::latch::Latch;
use super::records::{Record, RecordId};
use super::replica::{Refusal, Replica};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("neither copy of the latch can be read")]
    Latch,
    #[error(
        "the log lacks something that it held before, or was changed within its first {sealed} bytes"
    )]
    Log { sealed: u64 },
    #[error("the log holds something that is no signed record")]
    NoRecord,
}

/// All that a node wrote down.
#[derive(Debug)]
pub struct Stored {
    pub replica: Replica,
    pub latch: Latch,
    /// Where the log's whole frames end: what is behind was never acknowledged.
    pub end: End,
    /// Records in the log that say nothing any more.
    pub idle: Vec<(RecordId, Refusal)>,
}

impl Stored {
    /// `log` holds the file that the latch names.
    pub fn read(genesis: Genesis, latch: Latch, log: &[u8]) -> Result<Stored, Lost> {
        let scan = Scan::of(log, End::empty(Purpose::Log, genesis.network_id()));
        if !scan.passes(latch.sealed) {
            let sealed = latch.sealed.len;
            return Err(Lost::Log { sealed });
        }
        let decoded = scan.frames.iter().map(|frame| Record::decode(frame));
        let mut records: Vec<Record> = decoded
            .collect::<Result<_, _>>()
            .map_err(|_| Lost::NoRecord)?;
        // A halt that the log could not take is as good as one that it could.
        records.extend(latch.halts.iter().cloned().map(Record::Halt));
        let (replica, idle) = Replica::gather(genesis, records);
        Ok(Stored {
            replica,
            latch,
            end: scan.end(),
            idle: idle.into_iter().map(|(r, why)| (r.id(), why)).collect(),
        })
    }
}
