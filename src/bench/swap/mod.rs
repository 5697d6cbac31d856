//! Another quantisation served in place of the declared one: what the audit by re-prefill sees of it, what it sees of
//! honest experts, and what it costs. Real models; the files are made with llama.cpp's quantiser.

mod hear;
mod streams;

use super::{BenchError, Result};
use crate::expert::EventSender;
use crate::expert::llama::{LoadRequest, Quantisation, requantise};
use crate::store::gguf;
use hear::{Asked, Ear, Kind, Lists, Shape, Spent, Text};
use quorate_core::audit::{self, Gap, MARGIN, Noise};
use quorate_core::ids::Position;
use quorate_core::limits::AUDIT_SHARE;
use quorate_core::seeded::Secret;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
pub use streams::Detection;
use streams::FalseAlarms;

/// How the declared model is loaded.
type Load = dyn Fn(EventSender) -> std::result::Result<LoadRequest, String>;

pub struct SwapOptions {
    pub request: Box<Load>,
    /// A folder that is not there yet, for the other files; it is taken away again.
    pub scratch: PathBuf,
    pub progress: Box<dyn Fn(&str)>,
}

/// Texts of this many tokens, as an audit compares in one prefill.
const ANSWER: usize = audit::WINDOW as usize;
/// One text for each prompt, beginning and seed.
const SEEDS: u64 = 1;
const PROMPTS: usize = 4;
/// So many are spoken at once.
const SPEAKERS: usize = 8;

/// How honest experts are asked: token by token, guesses ahead, beside others, from late on; about other things than
/// the default law asks; and on a machine that multiplies otherwise. llama.cpp's kernels for processors round what
/// they multiply with a quantised row to 8 bits, those of a graphics card may not: the same weights in 32 bits show
/// what that does.
const HONEST: [Shape; 12] = [
    shape("a token at a time", 1, 1, 0),
    TOGETHER,
    Shape {
        name: "two threads, 8 together",
        threads: 2,
        ..TOGETHER
    },
    shape("drafts of 5", 5, 1, 0),
    shape("drafts of 16, 4 together", 16, 4, 0),
    shape("joins after 24, 4 together", 1, 4, 24),
    Shape {
        temperature: 0.7,
        ..TOGETHER
    },
    Shape {
        temperature: audit::TEMPERATURE_MIN,
        ..TOGETHER
    },
    Shape {
        kind: Kind::Plain,
        ..TOGETHER
    },
    AS_RUN,
    Shape {
        name: "at the limits of an audit",
        temperature: audit::TEMPERATURE_MIN,
        top_p: audit::TOP_P_MIN,
        ..TOGETHER
    },
    Shape {
        name: "other kernels, 8 together",
        file: Some(Quantisation::F32),
        ..TOGETHER
    },
];
const TOGETHER: Shape = shape("8 texts together", 1, 8, 0);
/// As `quorate run` asks where nothing is set.
const AS_RUN: Shape = Shape {
    name: "as quorate run asks, 8 together",
    temperature: 0.7,
    top_p: 0.95,
    repeat_penalty: 1.1,
    ..TOGETHER
};
/// In place of the declared file.
const SWAPS: [Quantisation; 6] = [
    Quantisation::Q40,
    Quantisation::Iq4Nl,
    Quantisation::Q4KM,
    Quantisation::Q3KM,
    Quantisation::Q2K,
    Quantisation::Q80,
];

const fn shape(name: &'static str, piece: usize, together: usize, joins: usize) -> Shape {
    Shape {
        name,
        piece,
        together,
        joins,
        // Threads that wait for each other measure who else uses the machine.
        threads: 1,
        kind: Kind::Perturbed,
        temperature: 1.0,
        top_p: 1.0,
        repeat_penalty: 1.0,
        file: None,
    }
}

/// The auditor's: one prefill, one draft.
fn auditor_of(shape: Shape) -> Shape {
    Shape {
        name: "auditor",
        piece: ANSWER,
        together: 1,
        joins: 0,
        threads: 1,
        ..shape
    }
}

#[derive(Debug, Serialize)]
pub struct SwapReport {
    pub texts: usize,
    pub tokens_each: usize,
    /// Of the declared file.
    pub declared: Tensors,
    pub honest: Vec<HonestRow>,
    pub swaps: Vec<SwapRow>,
    /// Scores that honest experts exceed at a half, a quarter, ... of the positions, in the worst shape.
    pub noise: Noise,
    /// What a node takes them for. Here experts are judged by the measured ones, with the margin.
    pub noise_assumed: Noise,
    /// Every text judged by what was measured of others.
    pub false_alarms: FalseAlarms,
    pub costs: Costs,
}

#[derive(Debug, Serialize)]
pub struct HonestRow {
    pub shape: &'static str,
    pub asked: String,
    pub temperature: f32,
    pub top_p: f32,
    pub positions: usize,
    pub distance_mean: f64,
    /// Scores that it exceeds at a half of the positions, a quarter, ...
    pub exceeds: Noise,
    pub score_max: f64,
}

#[derive(Debug, Serialize)]
pub struct SwapRow {
    pub file: &'static str,
    pub tensors: Tensors,
    /// The shape in which it is asked.
    pub shape: &'static str,
    pub temperature: f32,
    pub top_p: f32,
    pub distance_mean: f64,
    pub exceeds: Noise,
    pub detection: Detection,
    /// After an honest life.
    pub late: Detection,
}

/// Microseconds of a token.
#[derive(Debug, Serialize)]
pub struct Costs {
    /// Of one that is spoken alone, its prompt not counted: as the budget of a node counts.
    pub spoken_us: f64,
    /// Of one that an audit reads, its prompt counted.
    pub audited_us: f64,
    /// Positions compared for each token that is read for it.
    pub compared_share: f64,
    /// Spoken tokens that pay for 300 audited ones, at the share that audits may take.
    pub spoken_for_300: f64,
}

/// Every position's gap, by text.
type Gaps = Vec<Vec<Gap>>;
/// Types of tensors, how many and how many bytes of each.
type Tensors = BTreeMap<&'static str, (usize, u64)>;

pub fn swap(options: &SwapOptions) -> Result<SwapReport> {
    let say = &options.progress;
    let bench = Bench::new(options)?;
    say("the texts");
    let texts = bench.texts()?;
    let honest = bench.honest(&texts, say)?;
    let noise = streams::noise(&honest.heard);
    let assumed = noise.map(|score| score * MARGIN);
    let mut swaps = Vec::new();
    for (kind, asked) in SWAPS
        .iter()
        .flat_map(|kind| [(*kind, TOGETHER), (*kind, AS_RUN)])
    {
        say(&format!("{}, {}", kind.name(), asked.name));
        let shape = Shape {
            file: Some(kind),
            ..asked
        };
        let heard = bench.said(&texts, shape)?;
        let gaps = gaps(&texts, shape, &heard.lists, honest.own_of(shape));
        let row = SwapRow {
            file: kind.name(),
            tensors: heard.tensors,
            shape: shape.name,
            temperature: shape.temperature,
            top_p: shape.top_p,
            distance_mean: distance_mean(&gaps),
            exceeds: streams::noise(std::slice::from_ref(&gaps)),
            detection: streams::detection(assumed, &gaps, None),
            late: streams::detection(assumed, &gaps, Some(&honest.heard)),
        };
        say(&format!("{row:?}"));
        swaps.push(row);
    }
    Ok(SwapReport {
        texts: texts.len(),
        tokens_each: ANSWER,
        declared: kinds(&bench.declared)?,
        honest: honest.rows,
        swaps,
        noise,
        noise_assumed: audit::NOISE,
        false_alarms: streams::false_alarms(&honest.heard),
        costs: honest.costs,
    })
}

/// The declared model, and a folder for what is made of it that goes when this goes.
struct Bench<'a> {
    request: &'a Load,
    declared: PathBuf,
    scratch: &'a Path,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.scratch).ok(); // nobody could be told
    }
}

/// What honest experts say, and their auditor.
struct Honest {
    /// The auditor's lists, by what is asked.
    own: Vec<(Asked, Lists)>,
    rows: Vec<HonestRow>,
    heard: Vec<Gaps>,
    costs: Costs,
}

impl Honest {
    /// Whoever is asked so was among the honest as well.
    fn own_of(&self, shape: Shape) -> &Lists {
        let (_, lists) = self
            .own
            .iter()
            .find(|(asked, _)| *asked == shape.asked())
            .expect("it was asked");
        lists
    }
}

/// What one expert says.
struct Heard {
    lists: Lists,
    spent: Spent,
    /// The types of its file's tensors.
    tensors: Tensors,
}

impl<'a> Bench<'a> {
    fn new(options: &'a SwapOptions) -> Result<Bench<'a>> {
        let request = options.request.as_ref();
        let (nowhere, _) = tokio::sync::mpsc::channel(1);
        let declared = request(nowhere).map_err(|why| BenchError::new("the model", why))?;
        std::fs::create_dir(&options.scratch)
            .map_err(|error| BenchError::new("the scratch folder", error))?;
        Ok(Bench {
            request,
            declared: declared.path,
            scratch: &options.scratch,
        })
    }

    /// Answers of the declared model itself, to every prompt under every beginning.
    fn texts(&self) -> Result<Vec<Text>> {
        let mut ear = Ear::load(self.request, |plain| plain)?;
        let mut texts = Vec::new();
        for seed in 0..SEEDS {
            for prefix in super::real::PREFIXES {
                for prompt in super::real::PROMPTS.iter().take(PROMPTS) {
                    texts.push(Text {
                        secret: Secret::from_seed(seed, texts.len() as u32),
                        prompt: ear.tokens(&format!("{prefix}{prompt}"))?,
                        answer: Vec::new(),
                    });
                }
            }
        }
        for group in texts.chunks_mut(SPEAKERS) {
            ear.speak(group, ANSWER, TOGETHER)?;
        }
        Ok(texts)
    }

    fn honest(&self, texts: &[Text], say: &dyn Fn(&str)) -> Result<Honest> {
        let mut auditor = Ear::load(self.request, |plain| plain)?;
        let mut own: Vec<(Asked, Lists)> = Vec::new();
        let (mut rows, mut heard) = (Vec::new(), Vec::new());
        let (mut spoken, mut audited) = (Spent::default(), Spent::default());
        for shape in HONEST {
            say(shape.name);
            let asked = shape.asked();
            let at = match own.iter().position(|(of, _)| *of == asked) {
                Some(at) => at,
                None => {
                    let wider = |secret: &Secret, at| audit::question(&shape.asks(secret, at));
                    own.push((asked, auditor.hear(texts, auditor_of(shape), &wider)?));
                    own.len() - 1
                }
            };
            let said = self.said(texts, shape)?;
            if heard.is_empty() {
                // A token at a time.
                (spoken, audited) = (said.spent, auditor.spent);
            }
            let gaps = gaps(texts, shape, &said.lists, &own[at].1);
            let row = honest_row(shape, &gaps);
            say(&format!("{row:?}"));
            rows.push(row);
            heard.push(gaps);
        }
        Ok(Honest {
            own,
            rows,
            heard,
            costs: Costs::of(texts, spoken, audited),
        })
    }

    /// What an expert says in a shape that computes with the declared file, or with one made of it.
    fn said(&self, texts: &[Text], shape: Shape) -> Result<Heard> {
        let made = |kind: Quantisation| self.scratch.join(format!("{}.gguf", kind.name()));
        let other = shape.file.map(made);
        if let (Some(kind), Some(file)) = (shape.file, &other) {
            requantise(&self.declared, file, kind, shape.threads)?;
        }
        let file = other.as_ref().unwrap_or(&self.declared);
        let mut ear = Ear::load(self.request, |plain| LoadRequest {
            path: file.clone(),
            threads: shape.threads,
            threads_batch: shape.threads,
            ..plain
        })?;
        let lists = ear.hear(texts, shape, &|secret, at| shape.asks(secret, at))?;
        let tensors = kinds(file)?;
        if let Some(made) = &other {
            std::fs::remove_file(made).ok(); // else it goes with its folder
        }
        Ok(Heard {
            lists,
            spent: ear.spent,
            tensors,
        })
    }
}

impl Costs {
    fn of(texts: &[Text], spoken: Spent, audited: Spent) -> Costs {
        let answers = (texts.len() * ANSWER) as f64;
        let read = texts.iter().map(|t| t.prompt.len() + ANSWER).sum::<usize>() as f64;
        let spoken_us = spoken.opinions_us as f64 / answers;
        let audited_us = (audited.prefill_us + audited.opinions_us) as f64 / read;
        Costs {
            spoken_us,
            audited_us,
            compared_share: answers / read,
            spoken_for_300: 300.0 * audited_us * (read / answers) * AUDIT_SHARE as f64 / spoken_us,
        }
    }
}

fn kinds(path: &Path) -> Result<Tensors> {
    gguf::kinds(path).map_err(|error| BenchError::new("a model's header", error))
}

fn gaps(texts: &[Text], shape: Shape, said: &Lists, own: &Lists) -> Gaps {
    let kept = audit::kept(&shape.transforms()).expect("what is asked here can be audited");
    let of_text = |(at, text): (usize, &Text)| {
        let pairs = said[at].iter().zip(&own[at]).enumerate();
        let gap = |(place, (said, own)): (usize, (&Option<_>, &Option<_>))| {
            let position = (text.prompt.len() + place) as Position;
            let asked = shape.asks(&text.secret, position);
            Some(Gap::between(&asked, kept, said.as_ref()?, own.as_ref()?))
        };
        pairs.filter_map(gap).collect()
    };
    texts.iter().enumerate().map(of_text).collect()
}

fn distance_mean(gaps: &Gaps) -> f64 {
    let all: Vec<f64> = gaps.iter().flatten().map(|gap| gap.distance).collect();
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

fn honest_row(shape: Shape, gaps: &Gaps) -> HonestRow {
    let scores = gaps.iter().flatten().map(|gap| gap.score());
    HonestRow {
        shape: shape.name,
        asked: format!("{:?}", shape.kind).to_lowercase(),
        temperature: shape.temperature,
        top_p: shape.top_p,
        positions: scores.clone().count(),
        distance_mean: distance_mean(gaps),
        exceeds: streams::noise(std::slice::from_ref(gaps)),
        score_max: scores.fold(0.0, f64::max),
    }
}
