//! What travels with every token, in as few bytes as it takes: lists, scalars and masks.

use super::{BadFrame, CannotSay};
use prost::encoding::{decode_varint, encode_varint};
use quorate_core::ids::Token;
use quorate_core::limits::{LIST_ENTRIES_MAX, RAW_TOP_MAX};
use quorate_core::lnp::LnP;
use quorate_core::mask::Mask;
use quorate_core::opinion::{BadList, Entry, List};

/// The bound's bytes are reversed, so that a power of two takes three bytes, and 0 one.
pub(super) fn list(list: &List) -> Result<Vec<u8>, CannotSay> {
    let mut out = Vec::with_capacity(10 + 5 * list.entries.len());
    encode_varint(list.bound.to_bits().swap_bytes(), &mut out);
    let mut before = None;
    for entry in &list.entries {
        let step = match before {
            None => Some(entry.token),
            Some(before) => entry.token.checked_sub(before).filter(|step| *step > 0),
        };
        encode_varint(u64::from(step.ok_or(CannotSay::Unsorted)?), &mut out);
        out.extend(entry.ln_p.to_wire().to_le_bytes());
        before = Some(entry.token);
    }
    Ok(out)
}

pub(super) fn unpack_list(bytes: &[u8], vocab: u32) -> Result<List, BadFrame> {
    let mut left = bytes;
    let bound = f64::from_bits(decode_varint(&mut left)?.swap_bytes());
    let mut entries: Vec<Entry> = Vec::new();
    while !left.is_empty() {
        if entries.len() == usize::from(LIST_ENTRIES_MAX) {
            return Err(BadList::TooLong.into());
        }
        let step = decode_varint(&mut left)?;
        let token = match entries.last() {
            None => Some(step),
            Some(_) if step == 0 => return Err(BadList::Unsorted.into()),
            Some(before) => step.checked_add(u64::from(before.token)),
        };
        let token = token.and_then(|token| Token::try_from(token).ok());
        entries.push(Entry {
            token: token.ok_or(BadList::OutsideVocabulary)?,
            ln_p: unpack_value(&mut left)?,
        });
    }
    let list = List { entries, bound };
    list.check(vocab)?;
    Ok(list)
}

pub(super) fn values(values: &[LnP]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|v| v.to_wire().to_le_bytes());
    bytes.collect()
}

/// Bytes of the field bound the allocation.
pub(super) fn unpack_values(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<Vec<LnP>, BadFrame> {
    if bytes.len() > 2 * max {
        return Err(BadFrame::TooMany { what, max });
    }
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(BadFrame::Range(what));
    }
    let value = |&pair| LnP::from_wire(u16::from_le_bytes(pair));
    Ok(pairs.iter().map(value).collect())
}

/// In any order.
pub(super) fn entries(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 * entries.len());
    for entry in entries {
        encode_varint(u64::from(entry.token), &mut out);
        out.extend(entry.ln_p.to_wire().to_le_bytes());
    }
    out
}

pub(super) fn unpack_top(bytes: &[u8], vocab: u32) -> Result<Vec<Entry>, BadFrame> {
    let mut left = bytes;
    let mut entries = Vec::new();
    while !left.is_empty() {
        if entries.len() == usize::from(RAW_TOP_MAX) {
            let max = entries.len();
            let what = "untransformed top tokens";
            return Err(BadFrame::TooMany { what, max });
        }
        let token = u32::try_from(decode_varint(&mut left)?).ok();
        let token = token.filter(|token| *token < vocab);
        entries.push(Entry {
            token: token.ok_or(BadList::OutsideVocabulary)?,
            ln_p: unpack_value(&mut left)?,
        });
    }
    Ok(entries)
}

fn unpack_value(left: &mut &[u8]) -> Result<LnP, BadFrame> {
    let (pair, rest) = left
        .split_first_chunk()
        .ok_or(BadFrame::Range("a probability"))?;
    *left = rest;
    Ok(LnP::from_wire(u16::from_le_bytes(*pair)))
}

/// How a mask is written: a string's mask has few holes, a number's few tokens, and in between the
/// bits themselves are shortest.
const RUNS: u8 = 0;
const BITS: u8 = 1;

/// A byte for the form and the number of 32-bit words; then as many tokens as are skipped, as many
/// as are allowed, and so on; or the words.
pub(super) fn mask(mask: &Mask) -> Vec<u8> {
    let words = mask.words();
    let mut out = vec![RUNS];
    encode_varint(words.len() as u64, &mut out);
    let head = out.len();
    let (mut end, mut run) = (0, 0..0);
    for token in mask.tokens() {
        if token == run.end {
            run.end += 1;
            continue;
        }
        run_of(&mut out, &mut end, &run);
        run = token..token + 1;
        if out.len() - head > 4 * words.len() {
            break;
        }
    }
    run_of(&mut out, &mut end, &run);
    if out.len() - head > 4 * words.len() {
        out.truncate(head);
        out[0] = BITS;
        out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    out
}

fn run_of(out: &mut Vec<u8>, end: &mut Token, run: &std::ops::Range<Token>) {
    if !run.is_empty() {
        encode_varint(u64::from(run.start - *end), out);
        encode_varint(u64::from(run.end - run.start), out);
        *end = run.end;
    }
}

/// `room` is how many words all masks of this message may still take.
pub(super) fn unpack_mask(bytes: &[u8], room: &mut usize) -> Result<Mask, BadFrame> {
    const BAD: BadFrame = BadFrame::Range("a mask");
    let (form, mut left) = bytes.split_first().ok_or(BAD)?;
    let count = usize::try_from(decode_varint(&mut left)?).map_err(|_| BAD)?;
    *room = room.checked_sub(count).ok_or(BadFrame::TooMany {
        what: "words of masks",
        max: super::from_proto::MASK_WORDS_MAX,
    })?;
    let words = match *form {
        BITS => {
            let (chunks, rest) = left.as_chunks::<4>();
            if chunks.len() != count || !rest.is_empty() {
                return Err(BAD);
            }
            chunks.iter().map(|c| u32::from_le_bytes(*c)).collect()
        }
        RUNS => {
            let mut words = vec![0u32; count];
            let mut at = 0u64;
            while !left.is_empty() {
                let start = at.checked_add(decode_varint(&mut left)?).ok_or(BAD)?;
                let end = start.checked_add(decode_varint(&mut left)?).ok_or(BAD)?;
                if end > 32 * count as u64 {
                    return Err(BAD);
                }
                allow(&mut words, start as usize, end as usize);
                at = end;
            }
            words
        }
        _ => return Err(BAD),
    };
    Ok(Mask::new(words, 32 * count as u32))
}

fn allow(words: &mut [u32], start: usize, end: usize) {
    let mut at = start;
    while at < end {
        let bits = (32 - at % 32).min(end - at);
        words[at / 32] |= (u32::MAX >> (32 - bits)) << (at % 32);
        at += bits;
    }
}
