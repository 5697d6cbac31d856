//! What each token id stands for. Two converters of one vocabulary agree on its fingerprint.

use crate::ids::{Fingerprint, Token};

/// One entry, as an expert engine reads it from a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes the token adds to the text; control tokens add none but keep their name here.
    pub bytes: Vec<u8>,
    pub control: bool,
    /// The model ends its turn with this token.
    pub ends: bool,
}

#[derive(Debug)]
pub struct Vocab {
    bytes: Vec<u8>,
    /// End offset of each piece in `bytes`.
    ends_at: Vec<u32>,
    flags: Vec<u8>,
    fingerprint: Fingerprint,
}

const CONTROL: u8 = 1;
const ENDS: u8 = 2;

impl Vocab {
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Vocab {
        let mut vocab = Vocab {
            bytes: Vec::new(),
            ends_at: Vec::new(),
            flags: Vec::new(),
            fingerprint: Fingerprint([0; 32]),
        };
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 vocabulary fingerprint");
        for (id, piece) in (0u32..).zip(pieces) {
            hasher.update(&id.to_le_bytes());
            hasher.update(&(piece.bytes.len() as u32).to_le_bytes());
            hasher.update(&piece.bytes);
            hasher.update(&[u8::from(piece.control)]);
            vocab.bytes.extend_from_slice(&piece.bytes);
            vocab.ends_at.push(vocab.bytes.len() as u32);
            vocab
                .flags
                .push(if piece.control { CONTROL } else { 0 } | if piece.ends { ENDS } else { 0 });
        }
        vocab.fingerprint = Fingerprint(*hasher.finalize().as_bytes());
        vocab
    }

    pub fn len(&self) -> u32 {
        self.ends_at.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.ends_at.is_empty()
    }

    /// The piece's bytes, or its name if it is a control token; empty for an id out of range.
    pub fn piece(&self, token: Token) -> &[u8] {
        let Some(&end) = self.ends_at.get(token as usize) else {
            return &[];
        };
        let start = if token == 0 {
            0
        } else {
            self.ends_at[token as usize - 1]
        };
        &self.bytes[start as usize..end as usize]
    }

    /// The bytes the token adds to the text a user sees.
    pub fn text(&self, token: Token) -> &[u8] {
        if self.is_control(token) {
            &[]
        } else {
            self.piece(token)
        }
    }

    pub fn is_control(&self, token: Token) -> bool {
        self.flag(token, CONTROL)
    }

    /// Does the model end its turn with this token?
    pub fn ends_turn(&self, token: Token) -> bool {
        self.flag(token, ENDS)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn flag(&self, token: Token, flag: u8) -> bool {
        self.flags
            .get(token as usize)
            .is_some_and(|f| f & flag != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &str, control: bool) -> Piece {
        Piece {
            bytes: bytes.into(),
            control,
            ends: control,
        }
    }

    #[test]
    fn pieces_come_back_and_ids_out_of_range_are_empty() {
        let vocab = Vocab::new([piece("<end>", true), piece("", false), piece("ab", false)]);
        assert_eq!((vocab.piece(0), vocab.text(0)), (&b"<end>"[..], &b""[..]));
        assert_eq!(
            (vocab.piece(1), vocab.piece(2), vocab.piece(3)),
            (&b""[..], &b"ab"[..], &b""[..])
        );
        assert!(vocab.ends_turn(0) && !vocab.ends_turn(2) && !vocab.ends_turn(77));
    }

    #[test]
    fn the_fingerprint_sees_borders_and_kinds() {
        let of = |pieces: Vec<Piece>| Vocab::new(pieces).fingerprint();
        assert_ne!(
            of(vec![piece("ab", false), piece("c", false)]),
            of(vec![piece("a", false), piece("bc", false)])
        );
        assert_ne!(of(vec![piece("a", false)]), of(vec![piece("a", true)]));
        assert_eq!(of(vec![piece("a", false)]), of(vec![piece("a", false)]));
    }
}
