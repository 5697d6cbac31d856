//! What witnesses have seen, and when. The only clock that decisions know.

use super::codec::{Author, Malformed, Reader, Writer, hash, is_set, is_signed};
use super::entry::EntryId;
use super::membership::Electorate;
use crate::ids::NetworkId;
use crate::limits::{CLOCK_SKEW_S_MAX, RECORD_BYTES_MAX, WITNESSES_MAX};

pub(super) const TAG: &[u8] = b"quorate checkpoint v1\0";
/// Authors of every epoch whose feeds a checkpoint may name.
pub(super) const SEEN_HEADS_MAX: usize = 512;

/// The last entry of one feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Head {
    pub author: Author,
    pub seq: u64,
    pub entry: EntryId,
}

/// What all witnesses of a checkpoint sign, each with the time on its own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub network: NetworkId,
    pub epoch: u32,
    /// Does a halt stand that the witnesses know? Then this gives nobody a lease, whoever may have
    /// been kept from hearing of the halt itself.
    pub halted: bool,
    /// Sorted by author, each once.
    pub heads: Vec<Head>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosignature {
    pub witness: Author,
    /// Seconds since 1970.
    pub time_s: u64,
    pub signature: [u8; 64],
}

/// Every cosignature was checked; whether they are enough depends on the epoch's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    id: CheckpointId,
    seen: Seen,
    cosignatures: Vec<Cosignature>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId(pub [u8; 32]);

/// Two readings of one checkpoint, so that a wrong clock among its witnesses never shortens a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// The lower median: when something ends, at the earliest.
    pub low_s: u64,
    /// The upper median: when something begins, at the latest.
    pub high_s: u64,
}

impl Seen {
    fn write(&self, out: &mut Writer) {
        out.raw(TAG)
            .raw(&self.network.0)
            .u32(self.epoch)
            .u8(u8::from(self.halted));
        out.u16(self.heads.len() as u16);
        for head in &self.heads {
            out.raw(&head.author).u64(head.seq).raw(&head.entry.0);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.0
    }

    /// What one witness signs.
    pub fn attested(&self, witness: &Author, time_s: u64) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(b"quorate cosignature v1\0")
            .raw(&hash("quorate 2026 checkpoint", &self.bytes()));
        out.raw(witness).u64(time_s);
        out.0
    }

    pub fn cosigned(self, mut cosignatures: Vec<Cosignature>) -> Result<Checkpoint, Malformed> {
        cosignatures.sort_by_key(|c| c.witness);
        let mut out = Writer::default();
        self.write(&mut out);
        write_cosignatures(&mut out, &cosignatures);
        Checkpoint::decode(&out.0)
    }
}

fn write_cosignatures(out: &mut Writer, cosignatures: &[Cosignature]) {
    out.u8(cosignatures.len() as u8);
    for c in cosignatures {
        out.raw(&c.witness).u64(c.time_s).raw(&c.signature);
    }
}

impl Checkpoint {
    pub fn id(&self) -> CheckpointId {
        self.id
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(super) fn cosignatures(&self) -> &[Cosignature] {
        &self.cosignatures
    }

    pub fn witnesses(&self) -> impl Iterator<Item = &Author> {
        self.cosignatures.iter().map(|c| &c.witness)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.seen.write(&mut out);
        write_cosignatures(&mut out, &self.cosignatures);
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, Malformed> {
        let mut read = Reader::open(bytes, RECORD_BYTES_MAX, TAG)?;
        let network = NetworkId(read.array()?);
        let epoch = read.u32()?;
        let halted = match read.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Range("the halted flag")),
        };
        let heads = read_heads(&mut read)?;
        let seen = Seen {
            network,
            epoch,
            halted,
            heads,
        };
        let n = usize::from(read.u8()?);
        if n == 0 || n > WITNESSES_MAX {
            return Err(Malformed::Range("the cosignatures"));
        }
        let mut cosignatures = Vec::with_capacity(n);
        for _ in 0..n {
            let (witness, time_s, signature) = (read.array()?, read.u64()?, read.array()?);
            cosignatures.push(Cosignature {
                witness,
                time_s,
                signature,
            });
        }
        read.end()?;
        let witnesses: Vec<Author> = cosignatures.iter().map(|c| c.witness).collect();
        if !is_set(&witnesses) {
            return Err(Malformed::Order("the witnesses"));
        }
        let fits = |c: &Cosignature| {
            is_signed(
                &c.witness,
                &seen.attested(&c.witness, c.time_s),
                &c.signature,
            )
        };
        if !cosignatures.iter().all(fits) {
            return Err(Malformed::Signature);
        }
        let mut named = Writer(seen.bytes());
        for c in &cosignatures {
            named.raw(&c.witness).u64(c.time_s);
        }
        let id = CheckpointId(hash("quorate 2026 cosigned", &named.0));
        Ok(Checkpoint {
            id,
            seen,
            cosignatures,
        })
    }

    /// When it was, if enough witnesses of these members say so.
    pub fn time(&self, electorate: &Electorate) -> Option<Time> {
        let members = &electorate.members;
        if self.seen.epoch != electorate.epoch {
            return None;
        }
        let counted = |c: &&Cosignature| members.witnesses.binary_search(&c.witness).is_ok();
        let mut times: Vec<u64> = self
            .cosignatures
            .iter()
            .filter(counted)
            .map(|c| c.time_s)
            .collect();
        let enough = usize::from(members.witness_threshold).max(1);
        if times.len() < enough {
            return None;
        }
        times.sort_unstable();
        let n = times.len();
        Some(Time {
            low_s: times[(n - 1) / 2],
            high_s: times[n / 2],
        })
    }
}

fn read_heads(read: &mut Reader) -> Result<Vec<Head>, Malformed> {
    let n = usize::from(read.u16()?);
    if n > SEEN_HEADS_MAX {
        return Err(Malformed::Range("the heads"));
    }
    let mut heads = Vec::with_capacity(n);
    for _ in 0..n {
        let (author, seq, entry) = (read.array()?, read.u64()?, EntryId(read.array()?));
        heads.push(Head { author, seq, entry });
    }
    if heads.windows(2).any(|w| w[0].author >= w[1].author) {
        return Err(Malformed::Order("the heads"));
    }
    Ok(heads)
}

/// The newest word of the witnesses that this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub time: Time,
    pub halted: bool,
}

/// The node's own clock, which can forbid and never allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970.
    pub unix_s: u64,
    /// The highest that this node ever saw, kept over restarts.
    pub highest_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLease {
    #[error("no checkpoint of enough witnesses is known")]
    None,
    #[error("the last checkpoint is {age_s} s old, more than {max_s}")]
    Old { age_s: u64, max_s: u64 },
    #[error("the witnesses know of a halt that this node has not seen")]
    HaltElsewhere,
    #[error("this machine's clock is behind")]
    Clock,
}

impl Lease {
    pub fn check(&self, now: Now, max_s: u32) -> Result<(), NoLease> {
        if self.halted {
            return Err(NoLease::HaltElsewhere);
        }
        let behind = now.unix_s.saturating_add(CLOCK_SKEW_S_MAX) < self.time.low_s;
        if behind || now.unix_s < now.highest_s {
            return Err(NoLease::Clock);
        }
        let (age_s, max_s) = (now.unix_s.saturating_sub(self.time.low_s), u64::from(max_s));
        if age_s > max_s {
            return Err(NoLease::Old { age_s, max_s });
        }
        Ok(())
    }
}
