//! What a node tells the mesh of its history: bytes with one spelling, signed by the node.

use super::near::Near;
use super::noise::variance;
use super::topic::Topic;
use crate::governance::codec::{Author, Malformed, Reader, Writer, is_signed};
use crate::ids::{ExpertId, Fingerprint, NetworkId};
use crate::limits::{
    GATE_EXPERTS_MAX, GATE_TOPIC_BUCKETS, GATE_VOCABULARIES_MAX, GATE_VOICE_BYTES_MAX,
};
use std::collections::BTreeMap;

const TAG: &[u8] = b"quorate gate voice v1\0";
/// A sum of 2^48 has its first seven bits here.
const SHIFT_MAX: u8 = 42;
/// Sums to seven bits: one scale for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    shift: u8,
    cells: [i8; GATE_TOPIC_BUCKETS],
}

impl Row {
    pub(super) fn of(sums: &[i64; GATE_TOPIC_BUCKETS]) -> Row {
        let most = sums.iter().map(|sum| sum.unsigned_abs()).max().unwrap_or(0);
        let bits = 64 - most.leading_zeros() as u8;
        let shift = bits.saturating_sub(7).min(SHIFT_MAX);
        let cell = |sum: &i64| {
            let small = (sum.unsigned_abs() >> shift).min(i8::MAX as u64) as i8;
            if *sum < 0 { -small } else { small }
        };
        Row {
            shift,
            cells: std::array::from_fn(|at| cell(&sums[at])),
        }
    }

    fn sums(&self) -> [i64; GATE_TOPIC_BUCKETS] {
        self.cells.map(|cell| i64::from(cell) << self.shift)
    }

    fn write(&self, out: &mut Writer) {
        out.u8(self.shift).raw(&self.cells.map(|cell| cell as u8));
    }

    fn read(read: &mut Reader) -> Result<Row, Malformed> {
        let shift = read.u8()?;
        let cells: [u8; GATE_TOPIC_BUCKETS] = read.array()?;
        match shift <= SHIFT_MAX {
            true => Ok(Row {
                shift,
                cells: cells.map(|cell| cell as i8),
            }),
            false => Err(Malformed::Range("the scale of a row")),
        }
    }
}

/// Of one vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) topics: Row,
    pub(super) experts: BTreeMap<ExpertId, Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    pub network: NetworkId,
    pub node: Author,
    /// Days since 1970, by the node's clock.
    pub day: u32,
    /// How often noise was added, as the node says.
    pub(super) closes: u16,
    pub(super) said: BTreeMap<Fingerprint, Said>,
    pub signature: [u8; 64],
}

impl Voice {
    /// What the node signs.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).raw(&self.network.0).raw(&self.node);
        out.u32(self.day).u16(self.closes);
        out.u8(self.said.len() as u8);
        for (vocabulary, said) in &self.said {
            out.raw(&vocabulary.0);
            said.topics.write(&mut out);
            out.u8(said.experts.len() as u8);
            for (expert, row) in &said.experts {
                out.raw(&expert.0);
                row.write(&mut out);
            }
        }
        out.0
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Total and strict; the signature is the node's.
    pub fn decode(bytes: &[u8]) -> Result<Voice, Malformed> {
        let mut read = Reader::open(bytes, GATE_VOICE_BYTES_MAX, TAG)?;
        let voice = Voice {
            network: NetworkId(read.array()?),
            node: read.array()?,
            day: read.u32()?,
            closes: read.u16()?,
            said: in_order(&mut read, GATE_VOCABULARIES_MAX, "vocabularies", |read| {
                let vocabulary = Fingerprint(read.array()?);
                let topics = Row::read(read)?;
                let experts = in_order(read, GATE_EXPERTS_MAX, "experts", |read| {
                    Ok((ExpertId(read.array()?), Row::read(read)?))
                })?;
                Ok((vocabulary, Said { topics, experts }))
            })?,
            signature: read.array()?,
        };
        read.end()?;
        match is_signed(&voice.node, &voice.body(), &voice.signature) {
            true => Ok(voice),
            false => Err(Malformed::Signature),
        }
    }

    pub(super) fn near(
        &self,
        vocabulary: &Fingerprint,
        topic: &Topic,
        expert: &ExpertId,
    ) -> Option<Near> {
        let said = self.said.get(vocabulary)?;
        Some(Near {
            requests: topic.dot(&said.topics.sums()),
            gained: topic.dot(&said.experts.get(expert)?.sums()),
            variance: variance(self.closes),
        })
    }
}

/// A map whose keys are told in rising order, each once.
fn in_order<K: Ord, V>(
    read: &mut Reader,
    max: usize,
    what: &'static str,
    one: impl Fn(&mut Reader) -> Result<(K, V), Malformed>,
) -> Result<BTreeMap<K, V>, Malformed> {
    let count = usize::from(read.u8()?);
    if count > max {
        return Err(Malformed::Range(what));
    }
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let (key, value) = one(read)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(Malformed::Order(what));
        }
        map.insert(key, value);
    }
    Ok(map)
}
