//! The one spelling of a recording, for a file. Fixed-width little-endian numbers, lengths before
//! lists, and a BLAKE3 hash over all of it at the end: a flipped bit is found before anything is
//! replayed. The hash is no signature: who changes a recording can make a new one, and then it is
//! the replay that must fail.

use super::Recording;
use crate::generate::{Decided, Evidence, Weighed};
use crate::governance::codec::{Malformed, Reader, Writer, hash};
use crate::ids::{ExpertId, Token};
use crate::law::{Law, ListLaw, Sampler, Transforms};
use crate::limits::{
    BIAS_ENTRIES_MAX, CANDIDATES_MAX, LIST_ENTRIES_MAX, PIECE_BYTES_MAX, PLANE_TOKENS_MAX,
    RECORDING_BYTES_MAX, SCORES_MAX, SECOND_QUESTIONS_MAX, SET_CHANGES_MAX, STOP_STRING_BYTES_MAX,
    STOP_STRINGS_MAX, TEAM_MAX, VOCABULARY_MAX,
};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::{Entry, List, Said};
use crate::team::{Change, Schedule};
use crate::vocab::Piece;
use crate::weights::{Following, Strategy, Weighing};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The name of the format, and its version.
const TAG: &[u8] = b"quorate recording 2\n";
const TRAILER: &str = "quorate 2026 recording";
const HASH_BYTES: usize = 32;
/// Experts that ever decided, as a replay takes them.
const EXPERTS_MAX: usize = CANDIDATES_MAX * 4;
/// Every question to every member of the team.
const ANSWERS_MAX: usize = TEAM_MAX * (SECOND_QUESTIONS_MAX as usize + 1);
/// Contenders of a position: every token that somebody listed.
const SCALARS_MAX: usize = TEAM_MAX * LIST_ENTRIES_MAX as usize;

/// Why bytes are no recording, or a recording has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is no recording, or one of another version")]
    Kind,
    #[error("its hash does not fit: it was damaged or changed")]
    Hash,
    #[error("it has {got} bytes, more than {RECORDING_BYTES_MAX}")]
    TooLarge { got: usize },
    #[error("it is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// The bytes of a recording, if it keeps the bounds that [`decode`] asks for.
pub fn encode(recording: &Recording) -> Result<Vec<u8>, Unreadable> {
    let bytes = spell(recording);
    // Lengths that do not fit their bytes come back as something else.
    if decode(&bytes)? == *recording {
        Ok(bytes)
    } else {
        Err(Malformed::NotCanonical.into())
    }
}

/// Total and strict: every recording has one spelling, and nothing else is taken.
pub fn decode(bytes: &[u8]) -> Result<Recording, Unreadable> {
    let got = bytes.len();
    if got > RECORDING_BYTES_MAX {
        return Err(Unreadable::TooLarge { got });
    }
    if !bytes.starts_with(TAG) {
        return Err(Unreadable::Kind);
    }
    let end = got.saturating_sub(HASH_BYTES);
    let (body, trailer) = bytes.split_at(end);
    if hash(TRAILER, body) != trailer {
        return Err(Unreadable::Hash);
    }
    let mut reader = Reader::open(body, RECORDING_BYTES_MAX, TAG)?;
    let recording = read(&mut reader)?;
    reader.end()?;
    // Numbers that could be written otherwise, such as a temperature of 0, are caught here.
    if spell(&recording) == bytes {
        Ok(recording)
    } else {
        Err(Malformed::NotCanonical.into())
    }
}

// --- writing ------------------------------------------------------------------------------------

pub(super) fn spell(recording: &Recording) -> Vec<u8> {
    let experts = experts(recording);
    let mut out = Writer::default();
    out.raw(TAG);
    write_law(&mut out, &recording.law);
    out.raw(&recording.secret);
    out.u32(recording.max_tokens).u32(recording.context);
    out.u8(u8::from(recording.grammar) | u8::from(recording.logprobs) << 1);
    out.u8(recording.stop.len() as u8);
    for stop in &recording.stop {
        out.text(stop);
    }
    write_tokens(&mut out, &recording.prompt);
    out.list(experts.iter().map(|expert| &expert.0));
    match &recording.local {
        Some(local) => out.u8(1).raw(&local.0),
        None => out.u8(0),
    };
    let index = |expert: &ExpertId| experts.binary_search(expert).unwrap_or(experts.len()) as u8;
    out.u16(recording.schedule.len() as u16);
    for change in &recording.schedule {
        out.u32(change.position).u8(change.set.len() as u8);
        for (expert, weight) in &change.set {
            out.u8(index(expert)).u64(bits(*weight));
        }
    }
    out.u32(recording.vocabulary);
    out.u32(recording.pieces.len() as u32);
    for (token, piece) in &recording.pieces {
        out.u32(*token);
        out.u8(u8::from(piece.control) | u8::from(piece.ends) << 1);
        out.u16(piece.bytes.len() as u16).raw(&piece.bytes);
    }
    out.u32(recording.decided.len() as u32);
    for decided in &recording.decided {
        write_decided(&mut out, decided, index);
    }
    out.text(&recording.text);
    let trailer = hash(TRAILER, &out.0);
    out.raw(&trailer);
    out.0
}

/// Everybody who is named, once, in order.
fn experts(recording: &Recording) -> Vec<ExpertId> {
    let scheduled = recording.schedule.iter().flat_map(|change| &change.set);
    let answered = recording.decided.iter().flat_map(|d| &d.answers);
    let weighed = recording.decided.iter().flat_map(|d| &d.weighed);
    let said = weighed
        .clone()
        .flat_map(|w| w.caught_up.iter().chain(&w.told));
    let start = weighed.flat_map(|w| &w.start);
    let all: BTreeSet<ExpertId> = scheduled
        .map(|(expert, _)| *expert)
        .chain(answered.map(|(_, expert, _)| *expert))
        .chain(said.map(|evidence| evidence.expert))
        .chain(start.map(|(expert, _)| *expert))
        .collect();
    all.into_iter().collect()
}

fn write_law(out: &mut Writer, law: &Law) {
    out.u8(match law.sampler {
        Sampler::Seeded => 0,
        Sampler::SeededPlain => 1,
        Sampler::Greedy => 2,
        Sampler::Rejection => 3,
    });
    match law.robust {
        Some(liars) => out.u8(1).u8(liars),
        None => out.u8(0),
    };
    let strategy = Strategy::ALL
        .iter()
        .position(|s| *s == law.weights.strategy);
    out.u8(strategy.unwrap_or(Strategy::ALL.len()) as u8);
    match law.weights.following {
        Following::Frozen => out.u8(0),
        Following::Follow { share, lag } => out.u8(1).u64(bits(share)).u32(lag),
    };
    let t = &law.transforms;
    let float = |out: &mut Writer, value: f32| {
        out.u32((value + 0.0).to_bits());
    };
    float(out, t.repeat_penalty);
    out.u32(t.repeat_last_n);
    float(out, t.frequency_penalty);
    float(out, t.presence_penalty);
    float(out, t.temperature);
    out.u32(t.top_k);
    float(out, t.top_p);
    float(out, t.min_p);
    out.u16(t.bias.len() as u16);
    for (token, bias) in &t.bias {
        out.u32(*token).u32((bias + 0.0).to_bits());
    }
    let lists = &law.lists;
    out.u64(bits(lists.tau)).u64(bits(lists.mass));
    out.u16(lists.max_entries);
}

fn write_tokens(out: &mut Writer, tokens: &[Token]) {
    out.u32(tokens.len() as u32);
    for token in tokens {
        out.u32(*token);
    }
}

fn write_decided(out: &mut Writer, decided: &Decided, index: impl Fn(&ExpertId) -> u8) {
    out.u32(decided.position).u32(decided.token);
    match decided.mask.as_deref() {
        None => {
            out.u8(0);
        }
        Some(mask) if is_short(mask) => {
            out.u8(1);
            write_tokens(out, &mask.tokens().collect::<Vec<_>>());
        }
        Some(mask) => {
            out.u8(2);
            write_tokens(out, mask.words());
        }
    }
    match &decided.weighed {
        Some(weighed) => write_weighed(out.u8(1), weighed, &index),
        None => {
            out.u8(0);
        }
    }
    out.u16(decided.answers.len() as u16);
    for (question, expert, said) in &decided.answers {
        out.u8(*question as u8).u8(index(expert));
        match said {
            Said::List(list) => {
                out.u8(0).u64(bits(list.bound));
                out.u16(list.entries.len() as u16);
                for entry in &list.entries {
                    out.u32(entry.token).u16(entry.ln_p.to_wire());
                }
            }
            Said::Scalars(values) => {
                out.u8(1).u16(values.len() as u16);
                for value in values {
                    out.u16(value.to_wire());
                }
            }
        }
    }
}

/// Zero has one spelling.
fn bits(value: f64) -> u64 {
    (value + 0.0).to_bits()
}

fn write_weighed(out: &mut Writer, weighed: &Weighed, index: impl Fn(&ExpertId) -> u8) {
    out.u8(weighed.start.len() as u8);
    for (expert, weight) in &weighed.start {
        out.u8(index(expert)).u64(bits(*weight));
    }
    out.u8(weighed.weights.len() as u8);
    for weight in &weighed.weights {
        out.u64(bits(*weight));
    }
    for all in [&weighed.caught_up, &weighed.told] {
        out.u8(all.len() as u8);
        for evidence in all {
            out.u8(index(&evidence.expert)).u32(evidence.position);
            out.u8(evidence.ln_p.len() as u8);
            for ln_p in &evidence.ln_p {
                out.u16(ln_p.to_wire());
            }
        }
    }
}

/// A mask is written as its tokens where that is shorter than its words.
fn is_short(mask: &Mask) -> bool {
    (mask.allowed() as usize) < mask.words().len()
}

// --- reading ------------------------------------------------------------------------------------

fn read(reader: &mut Reader<'_>) -> Result<Recording, Malformed> {
    let law = read_law(reader)?;
    let secret = reader.array()?;
    let (max_tokens, context) = (reader.u32()?, reader.u32()?);
    let [grammar, logprobs] = read_flags(reader)?;
    let stops = count(reader.u8()?.into(), STOP_STRINGS_MAX, "the stop strings")?;
    let stop = (0..stops).map(|_| reader.text(STOP_STRING_BYTES_MAX, "a stop string"));
    let stop = stop.collect::<Result<Vec<_>, _>>()?;
    let prompt = read_tokens(reader, PLANE_TOKENS_MAX, "the prompt")?;
    let experts = reader.list(EXPERTS_MAX, "the experts")?;
    let experts: Vec<ExpertId> = experts.into_iter().map(ExpertId).collect();
    let local = read_flag(reader)?.then(|| reader.array()).transpose()?;
    let schedule = read_schedule(reader, &experts)?;
    let vocabulary = reader.u32()?;
    if vocabulary > VOCABULARY_MAX {
        return Err(Malformed::Range("the size of the vocabulary"));
    }
    let pieces = read_pieces(reader, vocabulary)?;
    let positions = count(reader.u32()? as usize, PLANE_TOKENS_MAX, "the positions")?;
    let mut room = RECORDING_BYTES_MAX;
    let decided = (0..positions).map(|_| read_decided(reader, &experts, vocabulary, &mut room));
    let decided = decided.collect::<Result<Vec<_>, _>>()?;
    let text = reader.text(RECORDING_BYTES_MAX, "the text")?;
    Ok(Recording {
        prompt,
        law,
        secret,
        max_tokens,
        stop,
        context,
        grammar,
        logprobs,
        local: local.map(ExpertId),
        schedule,
        decided,
        vocabulary,
        pieces,
        text,
    })
}

fn count(n: usize, max: usize, what: &'static str) -> Result<usize, Malformed> {
    if n > max {
        return Err(Malformed::Range(what));
    }
    Ok(n)
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Range("a flag")),
    }
}

fn read_flags(reader: &mut Reader<'_>) -> Result<[bool; 2], Malformed> {
    let flags = reader.u8()?;
    if flags > 3 {
        return Err(Malformed::Range("a flag"));
    }
    Ok([flags & 1 != 0, flags & 2 != 0])
}

fn read_law(reader: &mut Reader<'_>) -> Result<Law, Malformed> {
    let sampler = match reader.u8()? {
        0 => Sampler::Seeded,
        1 => Sampler::SeededPlain,
        2 => Sampler::Greedy,
        3 => Sampler::Rejection,
        _ => return Err(Malformed::Range("the sampler")),
    };
    let robust = read_flag(reader)?.then(|| reader.u8()).transpose()?;
    let weights = read_weighing(reader)?;
    let float = |reader: &mut Reader<'_>| reader.u32().map(f32::from_bits);
    let mut transforms = Transforms {
        repeat_penalty: float(reader)?,
        repeat_last_n: reader.u32()?,
        frequency_penalty: float(reader)?,
        presence_penalty: float(reader)?,
        temperature: float(reader)?,
        top_k: reader.u32()?,
        top_p: float(reader)?,
        min_p: float(reader)?,
        bias: Vec::new(),
    };
    for _ in 0..count(reader.u16()?.into(), BIAS_ENTRIES_MAX, "the biases")? {
        transforms.bias.push((reader.u32()?, float(reader)?));
    }
    let lists = ListLaw {
        tau: f64::from_bits(reader.u64()?),
        mass: f64::from_bits(reader.u64()?),
        max_entries: reader.u16()?,
    };
    let shares = [lists.tau, lists.mass];
    if !shares.iter().all(|share| *share > 0.0 && *share <= 1.0)
        || lists.max_entries > LIST_ENTRIES_MAX
    {
        return Err(Malformed::Range("the law of lists"));
    }
    let law = Law::new(transforms, lists).map_err(|bad| Malformed::Range(bad.name))?;
    Ok(Law {
        sampler,
        robust,
        weights,
        ..law
    })
}

fn read_weighing(reader: &mut Reader<'_>) -> Result<Weighing, Malformed> {
    let strategy = Strategy::ALL.get(usize::from(reader.u8()?)).copied();
    let strategy = strategy.ok_or(Malformed::Range("how weights are learned"))?;
    let following = match read_flag(reader)? {
        false => Following::Frozen,
        true => Following::Follow {
            share: f64::from_bits(reader.u64()?),
            lag: reader.u32()?,
        },
    };
    let good = following.check();
    good.map_err(|_| Malformed::Range("how weights follow"))?;
    Ok(Weighing {
        strategy,
        following,
    })
}

fn read_tokens(
    reader: &mut Reader<'_>,
    max: usize,
    what: &'static str,
) -> Result<Vec<Token>, Malformed> {
    let n = count(reader.u32()? as usize, max, what)?;
    (0..n).map(|_| reader.u32()).collect()
}

fn read_schedule(reader: &mut Reader<'_>, experts: &[ExpertId]) -> Result<Schedule, Malformed> {
    let changes = count(reader.u16()?.into(), SET_CHANGES_MAX, "the schedule")?;
    let mut schedule = Schedule::new();
    for _ in 0..changes {
        let position = reader.u32()?;
        if schedule
            .last()
            .is_some_and(|last| last.position >= position)
        {
            return Err(Malformed::Order("the changes of the schedule"));
        }
        let mut set: Vec<(ExpertId, f64)> = Vec::new();
        for _ in 0..count(reader.u8()?.into(), TEAM_MAX, "a set of experts")? {
            let expert = read_expert(reader, experts)?;
            if set.last().is_some_and(|(last, _)| *last >= expert) {
                return Err(Malformed::Order("the experts of a set"));
            }
            set.push((expert, read_weight(reader)?));
        }
        schedule.push(Change { position, set });
    }
    Ok(schedule)
}

fn read_weight(reader: &mut Reader<'_>) -> Result<f64, Malformed> {
    let weight = f64::from_bits(reader.u64()?);
    match (0.0..=1.0).contains(&weight) {
        true => Ok(weight),
        false => Err(Malformed::Range("a weight")),
    }
}

fn read_expert(reader: &mut Reader<'_>, experts: &[ExpertId]) -> Result<ExpertId, Malformed> {
    let expert = experts.get(usize::from(reader.u8()?));
    expert.copied().ok_or(Malformed::Range("an expert"))
}

fn read_pieces(reader: &mut Reader<'_>, vocabulary: u32) -> Result<Vec<(Token, Piece)>, Malformed> {
    let mut pieces: Vec<(Token, Piece)> = Vec::new();
    for _ in 0..count(
        reader.u32()? as usize,
        VOCABULARY_MAX as usize,
        "the pieces",
    )? {
        let token = read_token(reader, vocabulary)?;
        if pieces.last().is_some_and(|(last, _)| *last >= token) {
            return Err(Malformed::Order("the pieces"));
        }
        let [control, ends] = read_flags(reader)?;
        let length = count(reader.u16()?.into(), PIECE_BYTES_MAX, "a piece")?;
        let (bytes, rest) = reader.0.split_at_checked(length).ok_or(Malformed::Short)?;
        reader.0 = rest;
        let bytes = bytes.to_vec();
        let piece = Piece {
            bytes,
            control,
            ends,
        };
        pieces.push((token, piece));
    }
    Ok(pieces)
}

fn read_token(reader: &mut Reader<'_>, vocabulary: u32) -> Result<Token, Malformed> {
    let token = reader.u32()?;
    if token < vocabulary {
        Ok(token)
    } else {
        Err(Malformed::Range("a token"))
    }
}

fn read_decided(
    reader: &mut Reader<'_>,
    experts: &[ExpertId],
    vocabulary: u32,
    room: &mut usize,
) -> Result<Decided, Malformed> {
    let position = reader.u32()?;
    let token = read_token(reader, vocabulary)?;
    let mask = read_mask(reader, vocabulary, room)?.map(Arc::new);
    let weighed = read_flag(reader)?
        .then(|| read_weighed(reader, experts))
        .transpose()?;
    let answers = count(reader.u16()?.into(), ANSWERS_MAX, "the answers")?;
    let answers = (0..answers).map(|_| {
        let question = u32::from(reader.u8()?);
        if question > SECOND_QUESTIONS_MAX {
            return Err(Malformed::Range("a question"));
        }
        let expert = read_expert(reader, experts)?;
        Ok((question, expert, read_said(reader, vocabulary)?))
    });
    Ok(Decided {
        position,
        token,
        mask,
        answers: answers.collect::<Result<_, Malformed>>()?,
        weighed: weighed.map(Box::new),
    })
}

fn read_weighed(reader: &mut Reader<'_>, experts: &[ExpertId]) -> Result<Weighed, Malformed> {
    let mut start: Vec<(ExpertId, f64)> = Vec::new();
    for _ in 0..count(reader.u8()?.into(), CANDIDATES_MAX, "the first weights")? {
        let expert = read_expert(reader, experts)?;
        if start.last().is_some_and(|(last, _)| *last >= expert) {
            return Err(Malformed::Order("the experts that have weights"));
        }
        start.push((expert, read_weight(reader)?));
    }
    let weights = count(reader.u8()?.into(), TEAM_MAX, "the weights of a set")?;
    let weights = (0..weights).map(|_| read_weight(reader));
    let weights = weights.collect::<Result<_, _>>()?;
    Ok(Weighed {
        start,
        weights,
        caught_up: read_evidence(reader, experts)?,
        told: read_evidence(reader, experts)?,
    })
}

fn read_evidence(
    reader: &mut Reader<'_>,
    experts: &[ExpertId],
) -> Result<Vec<Evidence>, Malformed> {
    let all = count(reader.u8()?.into(), CANDIDATES_MAX, "the evidence")?;
    let evidence = (0..all).map(|_| {
        let (expert, position) = (read_expert(reader, experts)?, reader.u32()?);
        let n = count(reader.u8()?.into(), SCORES_MAX.into(), "the evidence")?;
        let ln_p = (0..n).map(|_| reader.u16().map(LnP::from_wire));
        Ok(Evidence {
            expert,
            position,
            ln_p: ln_p.collect::<Result<_, Malformed>>()?,
        })
    });
    evidence.collect()
}

/// A few bytes may name a mask of 128 KiB: all masks together have the room of a recording.
fn read_mask(
    reader: &mut Reader<'_>,
    vocabulary: u32,
    room: &mut usize,
) -> Result<Option<Mask>, Malformed> {
    let kind = reader.u8()?;
    if kind == 0 {
        return Ok(None);
    }
    let words_max = vocabulary.div_ceil(32) as usize;
    let left = room.checked_sub(4 * words_max);
    *room = left.ok_or(Malformed::Range("the size of all masks"))?;
    let words = match kind {
        1 => {
            let mut words = vec![0; words_max];
            for token in read_tokens(reader, words_max, "a mask")? {
                let word = words.get_mut((token / 32) as usize);
                *word.ok_or(Malformed::Range("a mask"))? |= 1 << (token % 32);
            }
            words
        }
        2 => read_tokens(reader, words_max, "a mask")?,
        _ => return Err(Malformed::Range("a mask")),
    };
    Ok(Some(Mask::new(words, vocabulary)))
}

fn read_said(reader: &mut Reader<'_>, vocabulary: u32) -> Result<Said, Malformed> {
    match reader.u8()? {
        0 => {
            let bound = f64::from_bits(reader.u64()?);
            let n = count(reader.u16()?.into(), LIST_ENTRIES_MAX.into(), "a list")?;
            let entry = |_| {
                Ok(Entry {
                    token: reader.u32()?,
                    ln_p: LnP::from_wire(reader.u16()?),
                })
            };
            let entries = (0..n).map(entry).collect::<Result<_, Malformed>>()?;
            let list = List { entries, bound };
            let good = list.check(vocabulary);
            good.map_err(|_| Malformed::Range("a list"))?;
            Ok(Said::List(list))
        }
        1 => {
            let n = count(reader.u16()?.into(), SCALARS_MAX, "exact values")?;
            let values = (0..n).map(|_| reader.u16().map(LnP::from_wire));
            Ok(Said::Scalars(values.collect::<Result<_, _>>()?))
        }
        _ => Err(Malformed::Range("an answer")),
    }
}
