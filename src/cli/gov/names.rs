//! Names that people type: keys, ids, phases, settings.

use crate::error::{Failure, Kind, Outcome, nearest};
use crate::identity::peer_key;
use quorate_core::config::{Key, SCHEMA};
use quorate_core::governance::{Author, Phase};
use quorate_core::ids::NetworkId;
use std::path::Path;

/// A public key with a line break fits; nothing longer is one.
const KEY_FILE_BYTES_MAX: usize = 256;
/// Fewer letters of an id name too many things.
const PREFIX_MIN: usize = 4;

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// As much of an id as people can tell apart.
pub(super) fn short(bytes: &[u8; 32]) -> String {
    hex(&bytes[..4])
}

pub(super) fn id(text: &str) -> Option<[u8; 32]> {
    bytes(text)?.try_into().ok()
}

/// What [`hex`] wrote.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let pair = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    text.chunks(2).map(pair).collect()
}

/// The key of a person: in hex, or in a file.
pub(super) fn person(text: &str) -> Outcome<Author> {
    if let Some(key) = id(text) {
        return Ok(key);
    }
    if peer_key(text).is_some() {
        let message = format!("{text} is the id of a node, and nodes decide nothing");
        return Err(Failure::new(Kind::Usage, message)
            .hint("a person's key is made by: quorate gov keygen --out FILE"));
    }
    let path = Path::new(text);
    let found = std::fs::read(path).map_err(|error| {
        let message =
            format!("'{text}' is neither a public key (64 hex digits) nor a file: {error}");
        Failure::new(Kind::Usage, message).hint("`quorate gov keygen` writes it into FILE.pub")
    })?;
    let short = Some(&found).filter(|found| found.len() <= KEY_FILE_BYTES_MAX);
    let key = short.and_then(|found| id(str::from_utf8(found).ok()?));
    key.ok_or_else(|| {
        let message = format!("{} holds no public key", path.display());
        Failure::new(Kind::Usage, message).hint("the public key of FILE is in FILE.pub")
    })
}

/// The key of a node: its id, or in hex.
pub(super) fn node(text: &str) -> Outcome<Author> {
    peer_key(text).or_else(|| id(text)).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("'{text}' is not the id of a node"))
            .hint("`quorate status` shows the id of a running node")
    })
}

pub(super) fn network(text: &str) -> Outcome<NetworkId> {
    id(text).map(NetworkId).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("'{text}' is not the id of a mesh (64 hex digits)"),
        )
        .hint("`quorate gov status` shows it")
    })
}

pub(super) fn phase(n: u8) -> Outcome<Phase> {
    let found = Phase::ALL.get(usize::from(n)).copied();
    found.ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("there is no phase {n}: they are 0 to 3"),
        )
    })
}

pub(super) fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::ReadOnly => "0 (reads only)",
        Phase::Suggest => "1 (suggests)",
        Phase::Minor => "2 (minor changes by itself)",
        Phase::Major => "3 (major changes by itself)",
    }
}

pub(super) fn setting(name: &str) -> Outcome<Key> {
    if let Some(row) = SCHEMA.iter().find(|row| row.name == name) {
        return Ok(row.key);
    }
    let failure = Failure::new(Kind::Usage, format!("the mesh has no setting '{name}'"));
    Err(match nearest(name, SCHEMA.iter().map(|row| row.name)) {
        Some(near) => failure.hint(format!("did you mean {near}?")),
        None => failure.hint("`quorate gov status` shows all of them"),
    })
}

/// The one thing of a list that begins so.
pub(super) fn begins<'a, T>(
    typed: &str,
    what: &str,
    list: impl Iterator<Item = (&'a [u8; 32], T)>,
) -> Outcome<T> {
    let typed = typed.trim().to_ascii_lowercase();
    let matches = |id: &[u8; 32]| typed.len() >= PREFIX_MIN && hex(id).starts_with(&typed);
    let mut found: Vec<T> = list.filter(|(id, _)| matches(id)).map(|(_, t)| t).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(
            Failure::new(Kind::NotFound, format!("there is no {what} '{typed}'")).hint(format!(
                "`quorate gov status` shows them; {PREFIX_MIN} letters or more name one"
            )),
        ),
        n => Err(
            Failure::new(Kind::Usage, format!("'{typed}' begins the name of {n}"))
                .hint("type more letters"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_digits_and_beginnings_name_one() {
        let text = "0f".repeat(32);
        assert_eq!(id(&format!(" {text}\n")), Some([15; 32]));
        assert_eq!(id(&text[1..]), None);
        assert_eq!(id(&"g".repeat(64)), None);
        assert_eq!(id(&"é".repeat(32)), None, "bytes, not letters");
        let list = [[15; 32], [16; 32], [16; 32]];
        let of = |typed| begins(typed, "key", list.iter().map(|id| (id, id[0])));
        assert_eq!(of("0F0f").unwrap(), 15);
        assert_eq!(of("0f0").unwrap_err().kind, Kind::NotFound);
        assert_eq!(of("1010").unwrap_err().kind, Kind::Usage);
    }
}
