//! A way in: one node's signed word that who shows this may join, and where to show it.
//!
//! As text: `quorate1`, then the bytes and four bytes of their hash in the alphabet of bech32, which
//! has no two letters that look alike. Spaces and line breaks of a chat program do no harm.

use super::address::Address;
use crate::governance::codec::{Author, Malformed, Reader, Writer, hash, is_signed};
use crate::ids::NetworkId;
use crate::limits::{INVITE_BYTES_MAX, INVITE_S_MAX, INVITE_TEXT_BYTES_MAX};
use std::fmt;

const TAG: &[u8] = b"quorate invite v1\0";
/// What the text begins with, and the alphabet of the rest.
const HEAD: &str = "quorate1";
const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const CHECK_BYTES: usize = 4;

/// Names an invite, so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nonce(pub [u8; 16]);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Hash of the genesis: who joins accepts no other.
    pub network: NetworkId,
    /// The node that admits, and whose key the connection must show.
    pub issuer: Author,
    /// Of the issuer; at most [`crate::limits::ADDRESSES_MAX`], strictly ascending.
    pub addresses: Vec<Address>,
    /// Seconds since 1970, by the issuer's clock.
    pub issued_s: u64,
    pub expires_s: u64,
    pub nonce: Nonce,
    pub signature: [u8; 64],
}

/// Why a text is no invite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadInvite {
    #[error("it does not begin with \"{HEAD}\"")]
    NoInvite,
    #[error("it is longer than an invite can be")]
    TooLong,
    #[error("'{0}' is no letter of an invite")]
    Letter(char),
    #[error("a letter is wrong or missing")]
    Damaged,
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

impl Invite {
    /// What the issuer signs.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        // The tag is signed but not sent: it would be a tenth of the text.
        out.raw(TAG).raw(&self.fields());
        out.0
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.network.0).raw(&self.issuer);
        Address::write_all(&self.addresses, &mut out);
        out.u64(self.issued_s)
            .u64(self.expires_s)
            .raw(&self.nonce.0);
        out.0
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.fields();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Total and strict; the signature is the issuer's.
    pub fn decode(bytes: &[u8]) -> Result<Invite, Malformed> {
        let mut read = Reader::open(bytes, INVITE_BYTES_MAX, &[])?;
        let invite = Invite {
            network: NetworkId(read.array()?),
            issuer: read.array()?,
            addresses: Address::read_all(&mut read)?,
            issued_s: read.u64()?,
            expires_s: read.u64()?,
            nonce: Nonce(read.array()?),
            signature: read.array()?,
        };
        read.end()?;
        let Invite {
            issued_s,
            expires_s,
            ..
        } = invite;
        if expires_s <= issued_s || expires_s - issued_s > INVITE_S_MAX {
            return Err(Malformed::Range("the time of an invite"));
        }
        if !is_signed(&invite.issuer, &invite.body(), &invite.signature) {
            return Err(Malformed::Signature);
        }
        Ok(invite)
    }

    pub fn parse(text: &str) -> Result<Invite, BadInvite> {
        if text.len() > INVITE_TEXT_BYTES_MAX {
            return Err(BadInvite::TooLong);
        }
        let letters: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let letters = letters.to_ascii_lowercase();
        let code = letters.strip_prefix(HEAD).ok_or(BadInvite::NoInvite)?;
        let bytes = bytes_of(code)?;
        let (body, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(BadInvite::Damaged)?;
        if check_of(body) != *check {
            return Err(BadInvite::Damaged);
        }
        Ok(Invite::decode(body)?)
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.encode();
        bytes.extend_from_slice(&check_of(&bytes));
        f.write_str(HEAD)?;
        f.write_str(&code_of(&bytes))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Nonce {
    /// As it is shown.
    pub fn parse(hex: &str) -> Option<Nonce> {
        if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut nonce = [0; 16];
        for (at, byte) in nonce.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Nonce(nonce))
    }
}

pub(super) fn check_of(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let full = hash("quorate 2026 invite text", bytes);
    let (check, _) = full.split_first_chunk().expect("a hash is longer");
    *check
}

/// Five bits a letter, the first bits first; the last letter is filled with zeros.
pub(super) fn code_of(bytes: &[u8]) -> String {
    let mut code = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut n) = (0_u32, 0);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        n += 8;
        while n >= 5 {
            n -= 5;
            code.push(char::from(ALPHABET[(bits >> n) as usize & 31]));
        }
        bits &= (1 << n) - 1;
    }
    if n > 0 {
        code.push(char::from(ALPHABET[(bits << (5 - n)) as usize & 31]));
    }
    code
}

pub(super) fn bytes_of(code: &str) -> Result<Vec<u8>, BadInvite> {
    let mut bytes = Vec::with_capacity(code.len() * 5 / 8);
    let (mut bits, mut n) = (0_u32, 0);
    for letter in code.chars() {
        let at = ALPHABET
            .iter()
            .position(|known| char::from(*known) == letter);
        bits = (bits << 5) | at.ok_or(BadInvite::Letter(letter))? as u32;
        n += 5;
        if n >= 8 {
            n -= 8;
            bytes.push((bits >> n) as u8);
        }
        bits &= (1 << n) - 1;
    }
    // A whole letter too many, or bits that the writer did not set: another spelling.
    if n >= 5 || bits != 0 {
        return Err(BadInvite::Damaged);
    }
    Ok(bytes)
}
