//! What a node serves and where, in its own signed words. Speed and latency are not in it: readers
//! measure.

use super::address::{Address, Place};
use crate::governance::codec::{Author, Malformed, Reader, Writer, is_signed};
use crate::ids::{ExpertId, Fingerprint, NetworkId};
use crate::limits::{
    ADVERT_BYTES_MAX, ADVERT_EXPERTS_MAX, ADVERT_NAME_BYTES_MAX, FAMILY_BYTES_MAX,
};

const TAG: &[u8] = b"quorate advert v1\0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertRow {
    pub expert: ExpertId,
    /// As clients ask for it.
    pub model: String,
    /// SHA-256 of the model file.
    pub file: [u8; 32],
    pub vocabulary: Fingerprint,
    /// How it marks the turns of a chat.
    pub family: String,
    /// Tokens that one session may hold.
    pub context: u32,
    /// Sessions that it decodes at once.
    pub slots: u16,
    /// It has a private prefix or private weights, and answers those on its owner's list only.
    pub needs_allow_list: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    pub network: NetworkId,
    pub node: Author,
    /// Random, drawn when the process starts: two that live at once under one key give themselves
    /// away.
    pub instance: u64,
    /// Rises with every advert of an instance.
    pub seq: u64,
    /// Seconds since 1970, by the node's clock. Others allow it a day.
    pub issued_s: u64,
    /// The node's last word: it leaves.
    pub leaves: bool,
    pub addresses: Vec<Address>,
    /// Where the token plane listens (UDP).
    pub plane: Vec<Place>,
    /// Strictly ascending by id.
    pub experts: Vec<ExpertRow>,
    pub signature: [u8; 64],
}

impl Advert {
    /// Do these bytes begin as an advert does?
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(TAG)
    }

    /// What the node signs.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).raw(&self.network.0).raw(&self.node);
        out.u64(self.instance).u64(self.seq).u64(self.issued_s);
        out.u8(u8::from(self.leaves));
        Address::write_all(&self.addresses, &mut out);
        Place::write_all(&self.plane, &mut out);
        out.u8(self.experts.len() as u8);
        for row in &self.experts {
            row.write(&mut out);
        }
        out.0
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Total and strict; the signature is the node's.
    pub fn decode(bytes: &[u8]) -> Result<Advert, Malformed> {
        let mut read = Reader::open(bytes, ADVERT_BYTES_MAX, TAG)?;
        let advert = Advert {
            network: NetworkId(read.array()?),
            node: read.array()?,
            instance: read.u64()?,
            seq: read.u64()?,
            issued_s: read.u64()?,
            leaves: flag(&mut read)?,
            addresses: Address::read_all(&mut read)?,
            plane: Place::read_all(&mut read)?,
            experts: rows(&mut read)?,
            signature: read.array()?,
        };
        read.end()?;
        if !is_signed(&advert.node, &advert.body(), &advert.signature) {
            return Err(Malformed::Signature);
        }
        Ok(advert)
    }
}

impl ExpertRow {
    pub(super) fn write(&self, out: &mut Writer) {
        out.raw(&self.expert.0).text(&self.model).raw(&self.file);
        out.raw(&self.vocabulary.0).text(&self.family);
        out.u32(self.context).u16(self.slots);
        out.u8(u8::from(self.needs_allow_list));
    }

    pub(super) fn read(read: &mut Reader) -> Result<ExpertRow, Malformed> {
        Ok(ExpertRow {
            expert: ExpertId(read.array()?),
            model: word(read, ADVERT_NAME_BYTES_MAX, "the model's name")?,
            file: read.array()?,
            vocabulary: Fingerprint(read.array()?),
            family: word(read, FAMILY_BYTES_MAX, "the family")?,
            context: read.u32()?,
            slots: read.u16()?,
            needs_allow_list: flag(read)?,
        })
    }
}

fn rows(read: &mut Reader) -> Result<Vec<ExpertRow>, Malformed> {
    let n = usize::from(read.u8()?);
    if n > ADVERT_EXPERTS_MAX {
        return Err(Malformed::Range("the number of experts"));
    }
    let rows = (0..n)
        .map(|_| ExpertRow::read(read))
        .collect::<Result<Vec<_>, _>>()?;
    if rows.windows(2).all(|pair| pair[0].expert < pair[1].expert) {
        Ok(rows)
    } else {
        Err(Malformed::Order("the experts"))
    }
}

/// It is shown on terminals: no control characters, nothing that turns the line around.
fn word(read: &mut Reader, max: usize, what: &'static str) -> Result<String, Malformed> {
    let text = read.text(max, what)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text)
    } else {
        Err(Malformed::Range(what))
    }
}

fn flag(read: &mut Reader) -> Result<bool, Malformed> {
    match read.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Range("a flag")),
    }
}
