//! Texts that real experts decide together in this process, with everything that each of them says.

use super::Request;
use crate::bench::panel::{Ask, Text, Watch, decide};
use crate::bench::real::Real;
use crate::bench::{BenchError, Result};
use quorate_core::aggregate::{self, Verdict, Voice};
use quorate_core::generate::{Decided, Event};
use quorate_core::ids::{ExpertId, Position, SessionId, Token};
use quorate_core::law::Sampler;
use quorate_core::opinion::{ExpertEvent, List, Said};
use quorate_core::plain;
use quorate_core::record::{Recorder, Recording, decode, encode, replay};
use quorate_core::seeded::Secret;
use std::path::Path;
use std::sync::Arc;

/// Seeds tried for a text that does not end early.
const SEEDS: u64 = 16;

/// Who decides together, and what about. Experts with one prefix think the same: that is how one
/// opinion gets more weight among equals.
#[derive(Clone, Copy)]
pub(super) struct Cast {
    pub(super) name: &'static str,
    /// The private prefix of each, and how often it is said: more often, and they differ more.
    pub(super) prefixes: [usize; 4],
    pub(super) times: usize,
    pub(super) prompt: &'static str,
    /// 0 is the greedy law.
    pub(super) temperature: f32,
}

/// A recorded text, and the expert whose guesses it is replayed with.
#[derive(Clone)]
pub(super) struct Played {
    pub(super) cast: Cast,
    pub(super) recording: Arc<Recording>,
    pub(super) seed: u64,
    pub(super) drafter: ExpertId,
    /// Where the drafter's choice is what all decide, and how often that is.
    pub(super) right: Vec<bool>,
    pub(super) alpha: f64,
}

impl Played {
    /// Who decides, in the order of their ids.
    pub(super) fn experts(&self) -> Vec<ExpertId> {
        let first = self.recording.schedule.iter().take(1);
        first.flat_map(|change| &change.set).map(|e| e.0).collect()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.recording.decided.iter().map(|decided| decided.token)
    }

    /// The prefix of an expert.
    pub(super) fn prefix(&self, expert: ExpertId) -> Option<usize> {
        let at = self.experts().iter().position(|known| *known == expert)?;
        self.cast.prefixes.get(at).copied()
    }
}

/// Of these texts and their experts as drafters, for each share the one that comes nearest to it and was
/// not taken before.
pub(super) fn nearest(texts: &[Played], targets: &[f64]) -> Vec<Played> {
    let mut left: Vec<Played> = texts.iter().flat_map(drafters).collect();
    let mut taken = Vec::new();
    for &target in targets {
        let far = |at: &usize| (left[*at].alpha - target).abs();
        let nearer = |a: &usize, b: &usize| far(a).total_cmp(&far(b));
        let Some(best) = (0..left.len()).min_by(nearer) else {
            break;
        };
        taken.push(left.swap_remove(best));
    }
    taken
}

/// The same text with each of its experts as the drafter.
pub(super) fn drafters(played: &Played) -> Vec<Played> {
    let each = played.experts().into_iter();
    each.map(|drafter| guessed(played.cast, played.seed, &played.recording, drafter))
        .collect()
}

fn guessed(cast: Cast, seed: u64, recording: &Arc<Recording>, drafter: ExpertId) -> Played {
    let secret = Secret::from_bytes(recording.secret);
    let is_right = |decided: &Decided| {
        let first = |said: &&(u32, ExpertId, Said)| said.0 == 0 && said.1 == drafter;
        let list = match decided.answers.iter().find(first) {
            Some((_, _, Said::List(list))) => list,
            _ => return false,
        };
        choice(recording.law.sampler, &secret, decided.position, list) == Some(decided.token)
    };
    let right: Vec<bool> = recording.decided.iter().map(is_right).collect();
    let all = right.len().max(1) as f64;
    Played {
        cast,
        recording: recording.clone(),
        seed,
        drafter,
        alpha: right.iter().filter(|right| **right).count() as f64 / all,
        right,
    }
}

fn choice(sampler: Sampler, secret: &Secret, at: Position, list: &List) -> Option<Token> {
    let voices = [Voice { weight: 1.0, list }];
    let verdict = match sampler {
        Sampler::Greedy => plain::greedy(&voices, 0.0),
        _ => aggregate::seeded(secret.key(at), &voices),
    };
    match verdict {
        Verdict::Token(token) => Some(token),
        _ => None,
    }
}

/// From `folder` if it was recorded before, else now; then it is kept there.
pub(super) fn record(
    cast: Cast,
    k: usize,
    tokens: u32,
    request: &Request,
    folder: Option<&Path>,
) -> Result<Played> {
    let prefixes = &cast.prefixes[..k];
    let name = format!("{} {k} {tokens}.recording", cast.name);
    let file = folder.map(|folder| folder.join(name));
    let kept = file.as_ref().and_then(|file| std::fs::read(file).ok());
    let recording = match kept {
        Some(bytes) => decode(&bytes).map_err(|why| BenchError::new("a recording", why))?,
        None => {
            let recording = play(cast, prefixes, tokens, request)?;
            if let Some(file) = &file {
                let bytes = encode(&recording);
                let bytes = bytes.map_err(|why| BenchError::new("a recording", why))?;
                std::fs::write(file, bytes).map_err(|why| BenchError::new("a recording", why))?;
            }
            recording
        }
    };
    replay(&recording).map_err(|why| BenchError::new("a recording", why))?;
    let seed = (1..=SEEDS).find(|s| Secret::from_seed(*s, 0).to_bytes() == recording.secret);
    let seed = seed.ok_or_else(|| BenchError::new("a recording", "its seed is none of ours"))?;
    let first = recording.schedule.first().and_then(|c| c.set.first());
    let (drafter, _) = *first.ok_or_else(|| BenchError::new("a recording", "nobody decides"))?;
    Ok(guessed(cast, seed, &Arc::new(recording), drafter))
}

fn play(cast: Cast, prefixes: &[usize], tokens: u32, request: &Request) -> Result<Recording> {
    let mut real = Real::load(prefixes, cast.times, request)?;
    for seed in 1..=SEEDS {
        let text = Text {
            session: SessionId(u128::from(seed)),
            vocab: real.vocab()?,
            experts: real.ids(),
            prompt: real.tokens(cast.prompt)?,
            seed,
            tokens,
            temperature: cast.temperature,
            whole: true,
        };
        let mut all = All(Recorder::new(&text.spec()?, None, text.vocab.clone()));
        decide(&text, &mut *real.asker(), &mut all)?;
        let recording = all.0.finish();
        if let Some(recording) = recording.filter(|r| r.decided.len() == tokens as usize) {
            return Ok(recording);
        }
    }
    Err(BenchError::new("a recording", "every text ends early"))
}

struct All(Recorder);

impl Watch for All {
    fn asked(&mut self, _: Position, _: &mut Ask<'_>) -> Result<()> {
        Ok(())
    }

    fn answer(&mut self, _: &ExpertEvent) -> Result<()> {
        Ok(())
    }

    fn decided(&mut self, _: Token) {}

    fn heard(&mut self, event: &Event) {
        self.0.hear(event);
    }
}
