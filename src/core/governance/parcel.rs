//! Signed things in one file: what a signer hands back, and what a stranger checks with no node.

use super::codec::{Malformed, Reader, Writer};
use super::fold::Standing;
use super::genesis::Genesis;
use super::journal::{End, Purpose, Scan};
use super::records::{Record, RecordId};
use super::replica::{Refusal, Replica};
use super::{Body, EntryId};
use crate::ids::NetworkId;
use crate::limits::LEDGER_BYTES_MAX;
use std::collections::BTreeSet;

const TAG: &[u8] = b"quorate parcel v1\0";
const END: u8 = 0;
const GENESIS: u8 = 1;
const RECORD: u8 = 2;

#[derive(Clone, Debug, PartialEq)]
pub struct Parcel {
    pub network: NetworkId,
    /// With it the parcel is a whole mesh; without, a few records for one.
    pub genesis: Option<Genesis>,
    pub records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParcel {
    #[error("this is not a file of signed records, or it is damaged: {0}")]
    Malformed(#[from] Malformed),
    #[error("the file is damaged after byte {0}")]
    Damaged(u64),
    #[error("the file ends too early")]
    Cut,
    #[error("the file holds something of another mesh")]
    OtherMesh,
}

/// What a whole mesh's records amount to, found out from them alone.
#[derive(Debug)]
pub struct Verified {
    pub replica: Replica,
    /// Verified, and of no use: of strangers, or over a limit.
    pub unused: Vec<(RecordId, Refusal)>,
    /// Entries that others build on or witnesses have seen, and that are not here.
    pub missing: BTreeSet<EntryId>,
}

impl Parcel {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).raw(&self.network.0);
        let mut bytes = out.0;
        let mut end = End::empty(Purpose::Parcel, self.network);
        let mut push = |kind: u8, payload: &[u8]| {
            end = end.push(&[&[kind], payload].concat(), &mut bytes);
        };
        if let Some(genesis) = &self.genesis {
            push(GENESIS, &genesis.encode());
        }
        for record in &self.records {
            push(RECORD, &record.encode());
        }
        push(END, &(self.records.len() as u32).to_le_bytes());
        bytes
    }

    /// Total. Every byte counts, and every signature was checked.
    pub fn decode(bytes: &[u8]) -> Result<Parcel, BadParcel> {
        let mut read = Reader::open(bytes, LEDGER_BYTES_MAX as usize, TAG)?;
        let network = NetworkId(read.array()?);
        let scan = Scan::of(read.0, End::empty(Purpose::Parcel, network));
        if scan.end().len != read.0.len() as u64 {
            let at = (bytes.len() - read.0.len()) as u64 + scan.end().len;
            return Err(BadParcel::Damaged(at));
        }
        let (last, frames) = scan.frames.split_last().ok_or(BadParcel::Cut)?;
        let mut parcel = Parcel {
            network,
            genesis: None,
            records: Vec::with_capacity(frames.len()),
        };
        for (at, frame) in frames.iter().enumerate() {
            let (kind, payload) = frame.split_first().ok_or(Malformed::Short)?;
            match *kind {
                GENESIS if at == 0 => parcel.genesis = Some(Genesis::decode(payload)?),
                RECORD => parcel.records.push(Record::decode(payload)?),
                _ => return Err(Malformed::Range("a part of the file").into()),
            }
        }
        let count = (parcel.records.len() as u32).to_le_bytes();
        if **last != *[&[END], &count[..]].concat() {
            return Err(BadParcel::Cut);
        }
        let named = |genesis: &Genesis| genesis.network_id() == network;
        let all_ours = parcel.records.iter().all(|r| r.network() == network);
        if !all_ours || !parcel.genesis.as_ref().is_none_or(named) {
            return Err(BadParcel::OtherMesh);
        }
        Ok(parcel)
    }

    /// `None` without a genesis.
    pub fn verify(self) -> Option<Verified> {
        let (replica, unused) = Replica::gather(self.genesis?, self.records);
        let missing = missing(&replica);
        Some(Verified {
            replica,
            unused: unused.into_iter().map(|(r, why)| (r.id(), why)).collect(),
            missing,
        })
    }
}

impl From<&Replica> for Parcel {
    fn from(replica: &Replica) -> Parcel {
        Parcel {
            network: replica.genesis().network_id(),
            genesis: Some(replica.genesis().clone()),
            records: replica.history().collect(),
        }
    }
}

impl Verified {
    pub fn standing(&self) -> &Standing {
        self.replica.standing()
    }
}

fn missing(replica: &Replica) -> BTreeSet<EntryId> {
    let records = replica.records();
    let mut named = BTreeSet::new();
    for record in records.iter() {
        match record {
            Record::Entry(entry) => {
                let draft = entry.draft();
                named.extend(draft.refs.iter().copied());
                named.extend((draft.seq > 0).then_some(draft.prev));
                if let Body::Propose(proposal) = &draft.body
                    && let super::Act::Raise { lifts, .. } = &proposal.act
                {
                    named.extend(lifts.iter().copied());
                }
            }
            Record::Checkpoint(c) => named.extend(c.seen().heads.iter().map(|head| head.entry)),
            Record::Halt(_) | Record::Admission(_) | Record::Revocation(_) => {}
        }
    }
    named.retain(|id| !records.contains(&id.0));
    named
}
