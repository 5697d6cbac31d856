//! A way to a whole mesh as one expert: where one of its nodes answers in its name, and what it says of itself. No
//! secret, and no admission: that node's owner lists by their keys who may ask it.
//!
//! As text: `mesh1`, then as an invite.

use super::address::Place;
use super::advert::ExpertRow;
use super::invite::{bytes_of, check_of, code_of};
use crate::governance::codec::{Author, Malformed, Reader, Writer, is_good_key};
use crate::ids::NetworkId;
use crate::limits::{INVITE_BYTES_MAX, INVITE_TEXT_BYTES_MAX};
use std::fmt;

const HEAD: &str = "mesh1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub network: NetworkId,
    /// The node that answers, and whose key the connection must show.
    pub node: Author,
    /// Where its token plane listens (UDP).
    pub plane: Vec<Place>,
    /// The mesh as an expert.
    pub row: ExpertRow,
}

/// Why a text is no pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPass {
    #[error("it does not begin with \"{HEAD}\"")]
    NoPass,
    #[error("a letter is wrong or missing")]
    Damaged,
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

impl Pass {
    /// Does this begin as one does? No name of a model does.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(HEAD) && text.len() > 64
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.network.0).raw(&self.node);
        Place::write_all(&self.plane, &mut out);
        self.row.write(&mut out);
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Pass, Malformed> {
        let mut read = Reader::open(bytes, INVITE_BYTES_MAX, &[])?;
        let pass = Pass {
            network: NetworkId(read.array()?),
            node: read.array()?,
            plane: Place::read_all(&mut read)?,
            row: ExpertRow::read(&mut read)?,
        };
        read.end()?;
        match is_good_key(&pass.node) {
            true => Ok(pass),
            false => Err(Malformed::Range("the node's key")),
        }
    }

    pub fn parse(text: &str) -> Result<Pass, BadPass> {
        let code = text.strip_prefix(HEAD).ok_or(BadPass::NoPass)?;
        if text.len() > INVITE_TEXT_BYTES_MAX {
            return Err(BadPass::Damaged);
        }
        let bytes = bytes_of(code).map_err(|_| BadPass::Damaged)?;
        let (body, check) = bytes.split_last_chunk().ok_or(BadPass::Damaged)?;
        match check_of(body) == *check {
            true => Ok(Pass::decode(body)?),
            false => Err(BadPass::Damaged),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.encode();
        bytes.extend_from_slice(&check_of(&bytes));
        f.write_str(HEAD)?;
        f.write_str(&code_of(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ExpertId, Fingerprint};
    use ed25519_dalek::SigningKey;

    fn a_pass() -> Pass {
        Pass {
            network: NetworkId([3; 32]),
            node: SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes(),
            plane: vec![Place::parse("10.0.0.7:7869", 0).unwrap()],
            row: ExpertRow {
                expert: ExpertId([4; 32]),
                model: "family".into(),
                file: [5; 32],
                vocabulary: Fingerprint([6; 32]),
                family: "chatml".into(),
                context: 2048,
                slots: 16,
                needs_allow_list: true,
            },
        }
    }

    #[test]
    fn a_pass_survives_being_pasted_and_no_letter_of_it_is_free() {
        let text = a_pass().to_string();
        assert!(Pass::is_one(&text) && !Pass::is_one("mesh1") && !Pass::is_one("smollm2:135m"));
        assert_eq!(Pass::parse(&text), Ok(a_pass()));
        for at in 0..text.len() {
            let letter = if text.as_bytes()[at] == b'q' {
                "p"
            } else {
                "q"
            };
            let mut other = text.clone();
            other.replace_range(at..=at, letter);
            assert!(Pass::parse(&other).is_err(), "letter {at}");
        }
        assert_eq!(Pass::parse(&text[..40]), Err(BadPass::Damaged));
        assert_eq!(Pass::parse("quorate1"), Err(BadPass::NoPass));
        let long = format!("mesh1{}", "q".repeat(INVITE_TEXT_BYTES_MAX));
        assert_eq!(Pass::parse(&long), Err(BadPass::Damaged));
        let weak = Pass {
            node: [0; 32],
            ..a_pass()
        };
        assert!(matches!(
            Pass::parse(&weak.to_string()),
            Err(BadPass::Malformed(_))
        ));
    }
}
