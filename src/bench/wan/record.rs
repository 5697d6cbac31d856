//! Texts that real experts decide together in this process, with everything that each of them says.

use super::{Mode, Request, Whose};
use crate::bench::panel::{Ask, Text, Watch, decide_as};
use crate::bench::real::{Real, named, prefixed};
use crate::bench::{BenchError, Result};
use crate::expert::EventSender;
use crate::expert::llama::LoadRequest;
use quorate_core::aggregate::{self, Verdict, Voice};
use quorate_core::generate::{Decided, Event};
use quorate_core::ids::{ExpertId, Position, SessionId, Token};
use quorate_core::law::{Law, Sampler};
use quorate_core::opinion::{ExpertEvent, List, Said};
use quorate_core::plain::{self, Draw};
use quorate_core::record::{Recorder, Recording, decode, encode, replay};
use quorate_core::seeded::Secret;
use quorate_core::team::{Plan, Schedule, Sets};
use std::path::Path;
use std::sync::Arc;

/// Seeds tried for a text that does not end early.
const SEEDS: u64 = 16;

/// How often the word goes round, in millionths, where experts take turns.
const SIGMA_PPM: u32 = 100_000;

/// How the experts of a text decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// One draw from what all of them say, or the greedy choice.
    Mixing,
    /// The router's own draft, if the others accept it.
    Rejection,
    /// One after another.
    Turns,
}

impl By {
    pub(super) fn sets(self) -> Sets {
        match self {
            By::Mixing | By::Rejection => Sets::A,
            By::Turns => Sets::Turns {
                sigma_ppm: SIGMA_PPM,
            },
        }
    }

    pub(super) fn law(self, law: Law) -> Law {
        match self {
            By::Rejection => law.sampled(Sampler::Rejection),
            By::Mixing | By::Turns => law,
        }
    }

    pub(super) fn modes(self) -> &'static [Mode] {
        match self {
            By::Mixing => &[Mode::Naive, Mode::Block, Mode::Stream, Mode::Branches],
            By::Rejection => &[Mode::Naive, Mode::Block, Mode::Stream],
            By::Turns => &[Mode::Naive, Mode::Handover],
        }
    }
}

/// Why experts think differently.
#[derive(Clone, Copy)]
pub(super) enum Minds {
    /// The private prefix of each, and how often it is said: more often, and they differ more. With one
    /// prefix they think the same: that is how one opinion gets more weight among equals.
    Told([usize; 4], usize),
    /// They are those of the list at these places.
    Listed([usize; 4]),
}

/// Who decides together, and what about.
#[derive(Clone, Copy)]
pub(super) struct Cast {
    pub(super) name: &'static str,
    pub(super) minds: Minds,
    pub(super) prompt: &'static str,
    /// 0 is the greedy law.
    pub(super) temperature: f32,
    pub(super) by: By,
}

/// A recorded text, and the expert whose guesses it is replayed with.
#[derive(Clone)]
pub(super) struct Played {
    pub(super) cast: Cast,
    pub(super) recording: Arc<Recording>,
    pub(super) seed: u64,
    /// Who decides, in the order of their ids.
    pub(super) experts: Vec<ExpertId>,
    pub(super) drafter: ExpertId,
    /// Where the drafter's choice is what all decide, and how often that is.
    pub(super) right: Vec<bool>,
    pub(super) alpha: f64,
}

impl Cast {
    /// The expert at this place.
    pub(super) fn expert(
        &self,
        at: usize,
        request: &Request,
        events: EventSender,
    ) -> std::result::Result<LoadRequest, String> {
        match self.minds {
            Minds::Told(prefixes, times) => {
                let plain = request(Whose::Default, events)?;
                Ok(prefixed(plain, prefixes[at % prefixes.len()], times))
            }
            Minds::Listed(places) => request(Whose::Listed(places[at % places.len()]), events),
        }
    }
}

impl Played {
    pub(super) fn name(&self) -> String {
        let place = self.place(self.drafter).unwrap_or(0) + 1;
        format!("{}, {place} guesses", self.cast.name)
    }

    /// From which of the first so many tokens on other experts decided than these.
    pub(super) fn departs(&self, schedule: &Schedule, tokens: usize) -> Option<Position> {
        let end = (self.recording.prompt.len() + tokens) as Position;
        let set_at = |schedule: &Schedule, position: Position| {
            let change = schedule.iter().rfind(|c| c.position <= position)?;
            let set: Vec<ExpertId> = change.set.iter().map(|(expert, _)| *expert).collect();
            Some(set)
        };
        (self.recording.prompt.len() as Position..end)
            .find(|at| set_at(&self.recording.schedule, *at) != set_at(schedule, *at))
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.recording.decided.iter().map(|decided| decided.token)
    }

    fn drafted_by(&self, drafter: ExpertId) -> Played {
        let right = right(&self.recording, drafter);
        let all = right.len().max(1) as f64;
        Played {
            drafter,
            alpha: right.iter().filter(|right| **right).count() as f64 / all,
            right,
            ..self.clone()
        }
    }

    /// Which of those that decide.
    pub(super) fn place(&self, expert: ExpertId) -> Option<usize> {
        self.experts.iter().position(|known| *known == expert)
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

/// The same text with each of its experts as the drafter, if it is the same text whoever drafts.
pub(super) fn drafters(played: &Played) -> Vec<Played> {
    let free = |drafter: &&ExpertId| match played.cast.by {
        By::Mixing | By::Turns => true,
        By::Rejection => **drafter == played.drafter,
    };
    let each = played.experts.iter().filter(free);
    each.map(|&drafter| played.drafted_by(drafter)).collect()
}

/// Where a drafter's choice is what all decide.
fn right(recording: &Recording, drafter: ExpertId) -> Vec<bool> {
    let secret = Secret::from_bytes(recording.secret);
    let is_right = |decided: &Decided| {
        let first = |said: &&(u32, ExpertId, Said)| said.0 == 0 && said.1 == drafter;
        let list = match decided.answers.iter().find(first) {
            Some((_, _, Said::List(list))) => list,
            _ => return false,
        };
        choice(recording.law.sampler, &secret, decided.position, list) == Some(decided.token)
    };
    recording.decided.iter().map(is_right).collect()
}

fn choice(sampler: Sampler, secret: &Secret, at: Position, list: &List) -> Option<Token> {
    let voices = [Voice { weight: 1.0, list }];
    let verdict = match sampler {
        Sampler::Greedy => plain::greedy(&voices, 0.0),
        Sampler::Rejection => Draw::new(secret, at).choose(list, &voices, 0.0),
        Sampler::Seeded | Sampler::SeededPlain => aggregate::seeded(secret.key(at), &voices),
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
    let name = format!("{} {k} {tokens}.recording", cast.name);
    let file = folder.map(|folder| folder.join(name));
    let kept = file.as_ref().and_then(|file| std::fs::read(file).ok());
    let recording = match kept {
        Some(bytes) => decode(&bytes).map_err(|why| BenchError::new("a recording", why))?,
        None => {
            let recording = play(cast, k, tokens, request)?;
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
    let experts: Vec<ExpertId> = names(k);
    let drafter = *experts
        .first()
        .ok_or_else(|| BenchError::new("a recording", "nobody decides"))?;
    let played = Played {
        cast,
        recording: Arc::new(recording),
        seed,
        experts,
        drafter,
        right: Vec::new(),
        alpha: 0.0,
    };
    Ok(played.drafted_by(drafter))
}

fn names(k: usize) -> Vec<ExpertId> {
    (1u8..).take(k).map(named).collect()
}

fn play(cast: Cast, k: usize, tokens: u32, request: &Request) -> Result<Recording> {
    let mut real = Real::load(k, &|at, events| cast.expert(at, request, events))?;
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
        let (mut spec, vocab) = (text.spec()?, text.vocab.clone());
        spec.law = cast.by.law(spec.law);
        let plan = match cast.by {
            By::Mixing | By::Rejection => text.plan(),
            By::Turns => Plan {
                sets: cast.by.sets(),
                script: None,
                ..text.plan()
            },
        };
        // Whoever is first drafts, where the text depends on that.
        let own = text.experts.first().copied();
        let own = own.filter(|_| cast.by == By::Rejection);
        let mut all = All(Recorder::new(&spec, own, vocab.clone()));
        decide_as(spec, plan, vocab, &mut *real.asker(), &mut all)?;
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
