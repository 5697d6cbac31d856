//! `quorate bench`: this program beside a bare llama.cpp loop.
//!
//! Both sides have the same file, context, batch, cache and threads, and take turns, so that noise
//! hits both alike; each number is a median. The bare loop has a process of its own (`child`). Ours goes through the real driver and router, and
//! where the name says so through the real HTTP listener. The bare loop picks by argmax and knows
//! nothing of sessions.

mod child;
mod heard;
mod hostile;
mod http;
mod machines;
mod mesh;
mod opinions;
mod ours;
mod panel;
mod real;
mod swap;
mod wan;
mod weights;

pub use child::{Child, child};
pub use hostile::{HostileRow, hostile};
pub use mesh::{MeshOptions, MeshReport, mesh};
pub use swap::{Detection, SwapOptions, SwapReport, swap};
pub use wan::{Batches, Request, WanOptions, WanReport, WanRow, Whose, wan};
pub use weights::{WeightsReport, weights};

use crate::driver::Node;
use crate::expert::EventSender;
use crate::expert::llama::{LoadError, LoadRequest, load, with_bare};
use child::BareChild;
use ours::Ours;
use quorate_core::ids::{SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::opinion::{ExpertEvent, ExpertOp, Open, Scope};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Turns that each side takes.
const TURNS: usize = 5;
const DECODE_TOKENS: usize = 128;
const PREFILL_TOKENS: usize = 1024;
const SCORED_TOKENS: usize = 512;
const STREAMS: usize = 8;
const STREAM_TOKENS: usize = 64;
const TTFT_PROMPT_TOKENS: usize = 64;
/// The issue's: this much prompt must not hold another stream up.
const STALL_PROMPT_TOKENS: usize = 6_000;
/// Opens a text that goes on for long.
const PROMPT: &str = "Once upon a time, in a village by the sea, there lived an old fisherman who";

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{what}: {why}")]
    Failed { what: &'static str, why: String },
}

impl BenchError {
    fn new(what: &'static str, why: impl ToString) -> BenchError {
        BenchError::Failed {
            what,
            why: why.to_string(),
        }
    }
}

pub type Result<T> = std::result::Result<T, BenchError>;

/// What to measure, and how loudly.
pub struct SoloOptions {
    /// A node in this process that serves `model`...
    pub node: Node,
    pub model: String,
    /// ...over HTTP here.
    pub api: SocketAddr,
    /// The same model and plan, for the bare loop and for scoring; its events are not used.
    pub request: Box<dyn Fn(EventSender) -> std::result::Result<LoadRequest, String>>,
    /// This program and the arguments that lead to [`child`] with the same model, for memory.
    pub program: PathBuf,
    pub child_args: Vec<String>,
    /// Arguments that make this program answer one question and end, for the cold start.
    pub run_args: Vec<String>,
    /// Hears what is being measured.
    pub progress: Box<dyn Fn(&str)>,
}

impl SoloOptions {
    fn request(&self, events: EventSender) -> Result<LoadRequest> {
        (self.request)(events).map_err(|why| BenchError::new("the model", why))
    }
}

/// The keys of the issue. Rates in tokens per second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SoloReport {
    pub decode_tps: f64,
    pub raw_decode_tps: f64,
    pub prefill_tps: f64,
    pub raw_prefill_tps: f64,
    pub scored_prefill_tps: f64,
    pub raw_scored_prefill_tps: f64,
    pub streams8_tps: f64,
    pub raw_streams8_tps: f64,
    pub ttft_ms: f64,
    pub raw_ttft_ms: f64,
    pub opinion_us: f64,
    pub opinion_us_128k: f64,
    pub perturbed_us: f64,
    pub perturbed_us_128k: f64,
    pub http_decode_ratio: f64,
    pub prefill_stall_ms: f64,
    pub rss_overhead_mb: f64,
    pub cold_first_token_ms: f64,
}

/// Measures everything. Takes some minutes; blocks, so give it a thread that may.
pub fn solo(options: &SoloOptions, runtime: &tokio::runtime::Handle) -> Result<SoloReport> {
    let mut report = SoloReport::default();
    let say = &options.progress;
    say("opinions");
    opinions::measure(&mut report);
    say("cold start");
    report.cold_first_token_ms = child::cold_first_token_ms(options)?;
    say("memory");
    report.rss_overhead_mb = child::rss_overhead_mb(options)?;
    let mut bare = BareChild::start(options)?;
    say("scored prefill");
    scored(options, &mut bare, &mut report)?;
    let ours = runtime.block_on(Ours::new(options))?;
    side_by_side(options, runtime, &ours, &mut bare, &mut report)?;
    drop(bare);
    say("a long prompt beside a stream");
    report.prefill_stall_ms = runtime.block_on(ours.stall_ms(STALL_PROMPT_TOKENS))?;
    Ok(report)
}

fn side_by_side(
    options: &SoloOptions,
    runtime: &tokio::runtime::Handle,
    ours: &Ours,
    bare: &mut BareChild,
    report: &mut SoloReport,
) -> Result<()> {
    let say = &options.progress;
    let vocab = ours.vocab();
    let prompt = runtime.block_on(ours.tokens(PROMPT))?;
    let seed = runtime.block_on(ours.long_winded_seed(&prompt, DECODE_TOKENS))?;

    say("decode, and decode over HTTP");
    let (mut driver, mut raw, mut web) = (Turns::new(), Turns::new(), Turns::new());
    for _ in 0..TURNS {
        raw.add(rate(
            DECODE_TOKENS - 1,
            bare.decode(&prompt, 1, DECODE_TOKENS)?,
        ));
        driver.add(runtime.block_on(ours.decode_tps(&prompt, seed, DECODE_TOKENS))?);
        let over_http = http::decode_tps(options, PROMPT, seed, DECODE_TOKENS);
        web.add(runtime.block_on(over_http)?);
    }
    (report.decode_tps, report.raw_decode_tps) = (driver.median(), raw.median());
    report.http_decode_ratio = web.median() / driver.median();

    say("prefill");
    let (mut driver, mut raw) = (Turns::new(), Turns::new());
    for turn in 0..TURNS {
        let prompt = noise(turn as u32, PREFILL_TOKENS, vocab);
        raw.add(rate(PREFILL_TOKENS, bare.prefill(&prompt)?));
        let took = runtime.block_on(ours.first_token(&prompt))?;
        driver.add(rate(PREFILL_TOKENS, took));
    }
    (report.prefill_tps, report.raw_prefill_tps) = (driver.median(), raw.median());

    say("eight streams");
    let (mut driver, mut raw) = (Turns::new(), Turns::new());
    for _ in 0..TURNS {
        let took = bare.decode(&prompt, STREAMS, STREAM_TOKENS)?;
        raw.add(rate(STREAMS * (STREAM_TOKENS - 1), took));
        driver.add(runtime.block_on(ours.streams_tps(&prompt, STREAMS, STREAM_TOKENS))?);
    }
    (report.streams8_tps, report.raw_streams8_tps) = (driver.median(), raw.median());

    say("time to first token");
    let (mut driver, mut raw) = (Turns::new(), Turns::new());
    for turn in 0..2 * TURNS {
        let prompt = noise(1_000 + turn as u32, TTFT_PROMPT_TOKENS, vocab);
        raw.add(millis(bare.prefill(&prompt)?));
        driver.add(millis(runtime.block_on(ours.first_token(&prompt))?));
    }
    (report.ttft_ms, report.raw_ttft_ms) = (driver.median(), raw.median());
    Ok(())
}

/// Solo never scores a prompt, so there is no way through the router: the engine is asked itself.
fn scored(options: &SoloOptions, bare: &mut BareChild, report: &mut SoloReport) -> Result<()> {
    let (events_tx, mut events) = tokio::sync::mpsc::channel(64);
    let expert = load(options.request(events_tx)?)?;
    let vocab = expert.facts().vocab.len();
    let (mut engine, mut raw) = (Turns::new(), Turns::new());
    for turn in 0..TURNS {
        let prompt = noise(2_000 + turn as u32, SCORED_TOKENS, vocab);
        raw.add(rate(SCORED_TOKENS, bare.scored_prefill(&prompt)?));
        let session = SessionId(turn as u128 + 1);
        let begun = Instant::now();
        let submit = |op| expert.submit(op).map_err(|e| BenchError::new("scoring", e));
        submit(ExpertOp::Open(Box::new(Open {
            session,
            scope: Scope::OWNER,
            prompt,
            transforms: Transforms::NEUTRAL,
            answered: Vec::new(),
            score: true,
            path: vec![],
        })))?;
        loop {
            match events.blocking_recv().map(|from| from.event) {
                Some(ExpertEvent::Scored { .. }) => break,
                Some(ExpertEvent::Failed { why, .. }) => {
                    return Err(BenchError::new("scoring", why));
                }
                Some(_) => {}
                None => return Err(BenchError::new("scoring", "the engine is gone")),
            }
        }
        engine.add(rate(SCORED_TOKENS, begun.elapsed()));
        submit(ExpertOp::Close { session })?;
    }
    (report.scored_prefill_tps, report.raw_scored_prefill_tps) = (engine.median(), raw.median());
    Ok(())
}

/// One side's turns.
struct Turns(Vec<f64>);

impl Turns {
    fn new() -> Turns {
        Turns(Vec::new())
    }

    fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn rate(tokens: usize, took: Duration) -> f64 {
    tokens as f64 / took.as_secs_f64()
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// Tokens that no cached prefix knows.
fn noise(seed: u32, count: usize, vocab: u32) -> Vec<Token> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // The first ids are control tokens in most vocabularies.
        1_000 % vocab + state % vocab.saturating_sub(1_000).max(1)
    };
    std::iter::repeat_with(next).take(count).collect()
}
