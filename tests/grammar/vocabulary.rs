//! Byte-level vocabularies, as models have them.

use quorate_core::ids::Token;
use quorate_core::vocab::{Piece, Vocab};
use std::sync::Arc;

pub(crate) const END: Token = 0;
pub(crate) const OTHER_END: Token = 1;
pub(crate) const TOOL_CALLS: Token = 3;

fn text(bytes: &[u8]) -> Piece {
    Piece {
        bytes: bytes.to_vec(),
        control: false,
        ends: false,
    }
}

fn control(name: &str, ends: bool) -> Piece {
    Piece {
        bytes: name.into(),
        control: true,
        ends,
    }
}

/// 256 bytes, two ends, some control tokens, and merges: some split or span characters and parts of
/// JSON.
pub(crate) fn small() -> Arc<Vocab> {
    let controls = [
        control("<|im_end|>", true),
        control("<|endoftext|>", true),
        control("<|im_start|>", false),
        control("[TOOL_CALLS]", false),
    ];
    let bytes = (0..=255u8).map(|byte| text(&[byte]));
    let merges: [&[u8]; 26] = [
        b"{\"",
        b"\":",
        b"\": ",
        b"\": \"",
        b"\",",
        b"\", \"",
        b"\"}",
        b"},",
        b"]}",
        b"}\n",
        b" true",
        b"null",
        b"tr",
        b"the",
        b" the",
        b"  ",
        b"    ",
        b"123",
        b"0.",
        b"<tool",
        b"_call>",
        b"\xc3\xa9t\xc3",
        b"\xf0\x9f",
        b"\xf0\x9f\x98\x80",
        b"\x98\x80x",
        b"name",
    ];
    Arc::new(Vocab::new(
        controls
            .into_iter()
            .chain(bytes)
            .chain(merges.iter().map(|merge| text(merge))),
    ))
}

/// Made up: words, numbers and punctuation, half of them after a space.
pub(crate) fn large(entries: usize) -> Arc<Vocab> {
    let mut pieces = vec![control("<|im_end|>", true), control("<|im_start|>", false)];
    pieces.extend((0..=255u8).map(|byte| text(&[byte])));
    let mut state = 1u64;
    let mut draw = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    while pieces.len() < entries {
        let mut word = Vec::new();
        if draw(2) == 0 {
            word.push(b' ');
        }
        let alphabet: &[u8] = match draw(12) {
            0 => b"0123456789",
            1 => b"{}[]\":,.;()<>/\\'",
            2 => b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            _ => b"etaoinshrdlucmfwypvbgkjqxzeeeettaaooiinn",
        };
        for _ in 0..2 + draw(7) {
            word.push(alphabet[draw(alphabet.len() as u64) as usize]);
        }
        pieces.push(text(&word));
    }
    Arc::new(Vocab::new(pieces))
}

/// One entry a line: C (control) or T (text), a space, the bytes in hex.
pub(crate) fn from_file(path: &std::path::Path) -> Option<Arc<Vocab>> {
    let lines = std::fs::read_to_string(path).ok()?;
    let piece = |line: &str| {
        let (kind, hex) = line.split_once(' ')?;
        let bytes =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok());
        let bytes = bytes.collect::<Option<Vec<u8>>>()?;
        let ends = kind == "C" && (bytes == b"<|im_end|>" || bytes == b"<|endoftext|>");
        Some(Piece {
            bytes,
            control: kind == "C",
            ends,
        })
    };
    Some(Arc::new(Vocab::new(
        lines.lines().map(piece).collect::<Option<Vec<_>>>()?,
    )))
}
