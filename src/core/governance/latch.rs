//! What a node must not forget over a restart, in one block of fixed size: the halts that stand, how
//! far its log goes, what it runs meanwhile. The node keeps two copies; one that reads is enough.

use super::act::LinkId;
use super::codec::{Malformed, Reader, Writer, hash};
use super::fold::{Snapshot, Standing};
use super::halt::Halt;
use super::journal::End;
use super::revert::Interval;
use crate::config::{MeshConfig, SCHEMA};
use crate::ids::NetworkId;
use crate::limits::{HALT_BYTES_MAX, LATCH_BYTES, LATCHED_HALTS_MAX};

const TAG: &[u8] = b"quorate latch v1\0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latch {
    pub network: NetworkId,
    /// Rises with every write: of two copies the later one counts.
    pub turn: u64,
    /// Which log file counts.
    pub log: u64,
    /// What the log held when this was written. It may hold more, and never less.
    pub sealed: End,
    /// Halts that were in force, first heard first: they hold even where the log cannot take them.
    pub halts: Vec<Halt>,
    pub interval: Option<Interval>,
    /// The highest time that this node's clock ever showed, in seconds since 1970.
    pub highest_s: u64,
}

impl Latch {
    pub fn new(network: NetworkId, log: u64, sealed: End) -> Latch {
        Latch {
            network,
            turn: 0,
            log,
            sealed,
            halts: Vec::new(),
            interval: None,
            highest_s: 0,
        }
    }

    /// The later of the copies that can be read. `None`: neither can, and the node stays halted.
    pub fn pick(network: NetworkId, copies: [&[u8]; 2]) -> Option<Latch> {
        let read = copies
            .into_iter()
            .filter_map(|bytes| Latch::decode(bytes).ok());
        read.filter(|latch| latch.network == network)
            .max_by_key(|latch| latch.turn)
    }

    /// Takes a halt, if there is room. One is enough to hold a node; more are in the log.
    pub fn hold(&mut self, halt: &Halt) {
        let is_known = self.halts.iter().any(|held| held.id() == halt.id());
        if !is_known && self.halts.len() < LATCHED_HALTS_MAX {
            self.halts.push(halt.clone());
        }
    }

    /// Lets go of the halts that are over, and notes how the stop began.
    pub fn settle(&mut self, standing: &Standing, applied: u64) {
        self.halts
            .retain(|halt| standing.stops(halt.id(), &halt.author));
        self.interval = Interval::next(self.interval.take(), applied, standing);
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(LATCH_BYTES));
        out.raw(TAG)
            .raw(&self.network.0)
            .u64(self.turn)
            .u64(self.log)
            .u64(self.sealed.len)
            .raw(&self.sealed.hash)
            .u64(self.highest_s);
        match &self.interval {
            None => out.u8(0),
            Some(interval) => {
                let Snapshot {
                    link,
                    version,
                    config,
                } = interval.target();
                out.u8(1).u64(interval.base()).raw(&link.0).u64(*version);
                out.raw(&config.hash());
                config.values().iter().fold(&mut out, |out, v| out.u32(*v))
            }
        };
        out.u8(self.halts.len() as u8);
        for halt in &self.halts {
            let bytes = halt.encode();
            out.u16(bytes.len() as u16).raw(&bytes);
        }
        let mut bytes = out.0;
        bytes.resize(LATCH_BYTES - 32, 0);
        let sum = hash("quorate 2026 latch", &bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Latch, Malformed> {
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(Malformed::Short)?;
        if bytes.len() != LATCH_BYTES || hash("quorate 2026 latch", body) != *sum {
            return Err(Malformed::NotCanonical);
        }
        let mut read = Reader::open(body, LATCH_BYTES, TAG)?;
        let mut latch = Latch {
            network: NetworkId(read.array()?),
            turn: read.u64()?,
            log: read.u64()?,
            sealed: End {
                len: read.u64()?,
                hash: read.array()?,
            },
            highest_s: read.u64()?,
            interval: match read.u8()? {
                0 => None,
                1 => Some(read_interval(&mut read)?),
                _ => return Err(Malformed::Range("the interval")),
            },
            halts: Vec::new(),
        };
        let n = usize::from(read.u8()?);
        if n > LATCHED_HALTS_MAX {
            return Err(Malformed::Range("the halts"));
        }
        for _ in 0..n {
            let len = usize::from(read.u16()?);
            if len > HALT_BYTES_MAX {
                return Err(Malformed::Range("a halt"));
            }
            let (halt, rest) = read.0.split_at_checked(len).ok_or(Malformed::Short)?;
            latch.halts.push(Halt::decode(halt)?);
            read.0 = rest;
        }
        Ok(latch)
    }
}

fn read_interval(read: &mut Reader) -> Result<Interval, Malformed> {
    let base = read.u64()?;
    let (link, version) = (LinkId(read.array()?), read.u64()?);
    let config_hash = read.array::<32>()?;
    let mut values = [0; SCHEMA.len()];
    for value in &mut values {
        *value = read.u32()?;
    }
    let config = MeshConfig::from_values(values).map_err(|_| Malformed::Range("the config"))?;
    if config.hash() != config_hash {
        return Err(Malformed::Range("the config's schema"));
    }
    let target = Snapshot {
        link,
        version,
        config,
    };
    Ok(Interval::restored(base, target))
}
