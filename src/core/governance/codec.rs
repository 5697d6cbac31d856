//! Bytes of signed records. Fixed-width little-endian numbers, lengths before lists, lists in
//! order: there is one spelling for each record, and every decoder refuses the others.

use ed25519_dalek::{Signature, VerifyingKey};

/// An ed25519 public key: the name of a participant, a witness or a node.
pub type Author = [u8; 32];

/// Why bytes are no record. Nothing a peer sends does more than this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the record ends too early")]
    Short,
    #[error("the record goes on after its end")]
    Trailing,
    #[error("the record has {got} bytes, more than {max}")]
    TooLong { got: usize, max: usize },
    #[error("not a record of this kind")]
    Tag,
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("{0} are not in order, or one is named twice")]
    Order(&'static str),
    #[error("not the one spelling of what it says")]
    NotCanonical,
    #[error("the signature does not fit")]
    Signature,
}

/// Is this the one spelling of a key for which not everybody can sign?
pub(crate) fn is_good_key(key: &Author) -> bool {
    is_canonical(key) && VerifyingKey::from_bytes(key).is_ok_and(|k| !k.is_weak())
}

/// Is the y coordinate below the field's prime 2^255 - 19, as its one canonical spelling is?
fn is_canonical(key: &Author) -> bool {
    let high = key[31] & 0x7f == 0x7f && key[1..31].iter().all(|b| *b == 0xff);
    !(high && key[0] >= 0xed)
}

pub(crate) fn is_signed(author: &Author, body: &[u8], signature: &[u8; 64]) -> bool {
    is_canonical(author)
        && VerifyingKey::from_bytes(author).is_ok_and(|key| {
            key.verify_strict(body, &Signature::from_bytes(signature))
                .is_ok()
        })
}

/// Strictly ascending: sorted, and each once.
pub(crate) fn is_set(list: &[[u8; 32]]) -> bool {
    list.windows(2).all(|w| w[0] < w[1])
}

pub(crate) fn hash(context: &'static str, bytes: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(context)
        .update(bytes)
        .finalize()
        .as_bytes()
}

#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, n: u8) -> &mut Writer {
        self.raw(&[n])
    }

    pub(crate) fn u16(&mut self, n: u16) -> &mut Writer {
        self.raw(&n.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, n: u32) -> &mut Writer {
        self.raw(&n.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, n: u64) -> &mut Writer {
        self.raw(&n.to_le_bytes())
    }

    /// A list of ids or keys, its length in two bytes.
    pub(crate) fn list<'a>(
        &mut self,
        ids: impl ExactSizeIterator<Item = &'a [u8; 32]>,
    ) -> &mut Writer {
        self.u16(ids.len() as u16);
        for id in ids {
            self.raw(id);
        }
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Writer {
        self.u32(text.len() as u32).raw(text.as_bytes())
    }
}

#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// After the check of length and tag that every record begins with.
    pub(crate) fn open(bytes: &'a [u8], max: usize, tag: &[u8]) -> Result<Reader<'a>, Malformed> {
        if bytes.len() > max {
            let got = bytes.len();
            return Err(Malformed::TooLong { got, max });
        }
        let rest = bytes.strip_prefix(tag).ok_or(Malformed::Tag)?;
        Ok(Reader(rest))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A sorted list of at most `max` ids or keys, each once.
    pub(crate) fn list(
        &mut self,
        max: usize,
        what: &'static str,
    ) -> Result<Vec<[u8; 32]>, Malformed> {
        let n = usize::from(self.u16()?);
        if n > max {
            return Err(Malformed::Range(what));
        }
        let list = (0..n)
            .map(|_| self.array())
            .collect::<Result<Vec<_>, _>>()?;
        if is_set(&list) {
            Ok(list)
        } else {
            Err(Malformed::Order(what))
        }
    }

    /// As many bytes as the four before them say.
    pub(crate) fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let n = self.u32()? as usize;
        if n > max {
            return Err(Malformed::Range(what));
        }
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn text(&mut self, max: usize, what: &'static str) -> Result<String, Malformed> {
        let text = std::str::from_utf8(self.bytes(max, what)?);
        Ok(text.map_err(|_| Malformed::Range(what))?.to_owned())
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }
}
