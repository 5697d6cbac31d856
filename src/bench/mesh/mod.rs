//! `quorate bench mesh`: what it costs to decide every token together.
//!
//! - `lists` over `bench::panel`: the router's state machine over four real experts that differ (private
//!   prefixes of one model), and over tables for the numbers that need many positions
//! - `swarms`: a hundred swarms of libp2p that have nothing to do
//! - `speeds` and `loss` over `bench::machines`: whole nodes of this process over QUIC on loopback, with
//!   stubs that take a fixed time for a token; a real expert where two rates are compared
//!
//! Nothing here decides a token: the core does, and so does its check over the whole vocabulary.

mod lists;
mod loss;
mod speeds;
mod swarms;
mod tables;

use super::panel::{Ask, Text, Watch, decide};
use super::real::{PREFIXES, PROMPTS, Real, prefixed};
use super::{BenchError, Result, Turns};
use crate::driver::Models;
use crate::expert::EventSender;
use crate::expert::llama::LoadRequest;
use lists::{Lists, Tally};
use loss::Way;
use quorate_core::ids::{Position, SessionId, Token};
use quorate_core::opinion::ExpertEvent;
use quorate_core::sim::{Options, run};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use swarms::Idle;
use tables::Tables;
use tokio::runtime::Handle;

/// Texts of the real experts.
const REAL_TOKENS: u32 = 96;
/// Positions over tables: the number. The vocabulary is small, since every choice is checked
/// against all of it.
const TABLE_POSITIONS: u64 = 100_000;
const TABLE_VOCABULARY: u32 = 4_096;
const TABLE_TOKENS: u32 = 1_000;
/// The router's own work, with the vocabulary of the default model.
const CROWD: u8 = 16;
const CROWD_VOCABULARY: u32 = 49_152;
const CROWD_TOKENS: u32 = 128;
const CROWD_TURNS: u64 = 5;
/// Swarms of one process: with two hundred, two cores are so busy that answers to pings come too late,
/// connections are given up and made anew, and that keeps them busy.
const SWARM_NODES: u16 = 100;
/// Half of the time between two adverts of a node.
const SWARM_WINDOW: Duration = Duration::from_secs(150);
/// Experts that are closer than this do not differ, and what they decide together shows nothing.
const VARIATION_MIN: f64 = 0.1;

/// What to measure.
pub struct MeshOptions {
    /// Finds and loads...
    pub models: Models,
    /// ...this model, by its one name.
    pub model: String,
    pub memory_bytes: u64,
    /// The same model and plan, for the experts with private prefixes.
    pub request: Box<dyn Fn(EventSender) -> std::result::Result<LoadRequest, String> + Send>,
    /// How long the real experts may speak.
    pub speak: Duration,
    pub progress: Box<dyn Fn(&str) + Send>,
}

/// The keys of the issue. `experts` says for each what stood behind it; `missing` why one is null.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MeshReport {
    pub naive_tps: f64,
    pub bytes_max: u32,
    pub bytes_mean: f64,
    pub bytes_mean_plain: f64,
    /// Mass outside lists of so many tokens.
    pub tail_mass: BTreeMap<usize, f64>,
    /// Of the mixture of such lists from the whole mixture, in nats.
    pub divergence: BTreeMap<usize, f64>,
    pub second_ask_pct: f64,
    pub second_ask_pct_tables: f64,
    pub wrong_choices: u64,
    pub wrong_choices_tables: u64,
    pub positions: u64,
    pub positions_tables: u64,
    pub expert_tv: f64,
    pub router_us_k16: f64,
    pub loopback_ratio: f64,
    pub kill_gap_ms: f64,
    pub kill_deadline_ms: f64,
    /// A question to an expert that stayed, and its answer.
    pub kill_answer_ms: f64,
    /// The same where the lost one's connection closes.
    pub kill_gap_closed_ms: f64,
    /// Between routers, and between all their sessions.
    pub fairness: f64,
    pub fairness_sessions: f64,
    pub shared_refused: u64,
    pub shared_alone_tps: f64,
    pub shared_together_tps: f64,
    pub aggregate_ratio: f64,
    /// Simulated meshes of 1 to 1,000 nodes kept every promise.
    pub sim_sizes_ok: bool,
    /// What a node of an idle mesh sends of adverts.
    pub gossip_bytes_per_s: f64,
    /// And of everything, by protocol.
    pub idle_bytes_per_s: BTreeMap<&'static str, f64>,
    pub idle_all_bytes_per_s: f64,
    pub idle_nodes: usize,
    pub idle_met_s: f64,
    pub idle_links: f64,
    pub idle_window_s: f64,
    pub idle_adverts: u64,
    pub idle_adverts_expected: f64,
    pub lookup_hops_mean: f64,
    pub lookup_hops_max: u32,
    /// Not measured: what follows for so many nodes from what was.
    pub extrapolated: BTreeMap<&'static str, f64>,
    pub experts: BTreeMap<&'static str, &'static str>,
    pub missing: BTreeMap<&'static str, String>,
}

const REAL: &str = "real: one model, four private prefixes";
const TABLES: &str = "tables";
const STUBS: &str = "stubs that take a fixed time for a token";
const SWARMS: &str = "none: real swarms of libp2p, joined by memory";

/// What stood behind each key.
const EXPERTS: &[(&str, &str)] = &[
    ("naive_tps", STUBS),
    ("bytes_max", REAL),
    ("bytes_mean", REAL),
    ("bytes_mean_plain", REAL),
    ("tail_mass", REAL),
    ("divergence", REAL),
    ("second_ask_pct", REAL),
    ("second_ask_pct_tables", TABLES),
    ("wrong_choices", REAL),
    ("wrong_choices_tables", TABLES),
    ("expert_tv", REAL),
    ("router_us_k16", TABLES),
    ("loopback_ratio", "real: one expert"),
    ("kill_gap_ms", STUBS),
    ("kill_deadline_ms", STUBS),
    ("kill_answer_ms", STUBS),
    ("kill_gap_closed_ms", STUBS),
    ("fairness", STUBS),
    ("fairness_sessions", STUBS),
    ("aggregate_ratio", STUBS),
    ("gossip_bytes_per_s", SWARMS),
    ("idle_bytes_per_s", SWARMS),
    ("lookup_hops_mean", SWARMS),
    ("sim_sizes_ok", "tables, in the simulator"),
    ("extrapolated", "nothing: computed"),
];

/// Sizes that are simulated, and how many seeds of each go wrong in their own way.
const SIM_SIZES: [(u16, u64); 9] = [
    (1, 4),
    (2, 8),
    (3, 8),
    (5, 8),
    (8, 8),
    (20, 4),
    (100, 2),
    (280, 1),
    (1_000, 1),
];
/// Beyond this many nodes there is only calm: a mesh of a thousand in trouble takes many minutes.
const SIM_TROUBLED_MAX: u16 = 280;

/// Measures everything. Takes some minutes; blocks, so give it a thread that may.
pub fn mesh(options: &MeshOptions, runtime: &Handle) -> Result<MeshReport> {
    let mut report = MeshReport::default();
    report.experts.extend(EXPERTS.iter().copied());
    let say = &options.progress;
    say("four real experts");
    real_experts(options, &mut report)?;
    say("tables");
    many_positions(&mut report)?;
    say("the router's own work");
    report.router_us_k16 = router_us()?;
    say("one expert over loopback");
    let ratio =
        speeds::loopback_ratio(options.models.clone(), &options.model, options.memory_bytes);
    report.loopback_ratio = runtime.block_on(ratio)?;
    say("the naive loop");
    report.naive_tps = runtime.block_on(speeds::naive_tps())?;
    say("losses");
    let silence = runtime.block_on(loss::gap(Way::Silence))?;
    report.kill_gap_ms = silence.gap_ms;
    report.kill_deadline_ms = silence.deadline_ms;
    report.kill_answer_ms = silence.answer_ms;
    report.kill_gap_closed_ms = runtime.block_on(loss::gap(Way::Ends))?.gap_ms;
    say("eight routers and four experts");
    let shared = runtime.block_on(speeds::shared())?;
    (report.fairness, report.aggregate_ratio) = (shared.fairness, shared.aggregate_ratio);
    (report.fairness_sessions, report.shared_refused) = (shared.fairness_sessions, shared.refused);
    (report.shared_alone_tps, report.shared_together_tps) = (shared.alone_tps, shared.together_tps);
    say("simulated meshes");
    report.sim_sizes_ok = simulated()?;
    say("a hundred swarms");
    match runtime.block_on(swarms::idle(SWARM_NODES, SWARM_WINDOW)) {
        Ok(idle) => idle_mesh(idle, &mut report),
        // It says more of this machine than of the mesh, and nothing of all that was measured before.
        Err(error) => no_idle_mesh(&error, &mut report),
    }
    if !report.fairness_sessions.is_finite() {
        let why = "a session got no token within the window";
        report.missing.insert("fairness_sessions", why.into());
    }
    Ok(report)
}

fn real_experts(options: &MeshOptions, report: &mut MeshReport) -> Result<()> {
    let mut real = Real::load(PREFIXES.len(), &|at, events| {
        Ok(prefixed((options.request)(events)?, at, 1))
    })?;
    let (vocab, experts) = (real.vocab()?, real.ids());
    let mut tally = Tally::default();
    let begun = Instant::now();
    let prompts = PROMPTS.iter().cycle();
    for (seed, prompt) in (1u64..).zip(prompts) {
        if begun.elapsed() >= options.speak {
            break;
        }
        let text = Text {
            session: SessionId(u128::from(seed)),
            vocab: vocab.clone(),
            experts: experts.clone(),
            prompt: real.tokens(prompt)?,
            seed,
            tokens: REAL_TOKENS,
            temperature: 1.0,
            whole: false,
        };
        let mut lists = Lists::new(&text, true, tally);
        decide(&text, &mut *real.asker(), &mut lists)?;
        tally = lists.tally;
    }
    report.bytes_max = tally.bytes_max();
    report.bytes_mean = tally.bytes_mean();
    report.bytes_mean_plain = tally.bytes_mean_plain();
    report.tail_mass = tally.tail_mass();
    report.divergence = tally.divergence();
    report.second_ask_pct = tally.second_ask_pct();
    report.wrong_choices = tally.wrong;
    report.positions = tally.positions;
    report.expert_tv = tally.variation();
    if report.expert_tv < VARIATION_MIN {
        let why = format!(
            "they differ by {}, less than {VARIATION_MIN}",
            report.expert_tv
        );
        return Err(BenchError::new("the experts", why));
    }
    Ok(())
}

fn simulated() -> Result<bool> {
    for (nodes, seeds) in SIM_SIZES {
        for seed in 1..=seeds {
            let options = match nodes <= SIM_TROUBLED_MAX {
                true => Options::troubled(seed, nodes),
                false => Options::new(seed, nodes),
            };
            let report = run(&options).map_err(|e| BenchError::new("a simulated mesh", e))?;
            if !report.is_good() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn idle_mesh(idle: Idle, report: &mut MeshReport) {
    let gossip = idle.bytes_per_s.get("gossip").copied().unwrap_or_default();
    report.gossip_bytes_per_s = gossip;
    // Every node says the same, and everybody passes it on to as many.
    let at = |nodes: f64| gossip * nodes / idle.nodes as f64;
    report.extrapolated = BTreeMap::from([
        ("gossip_bytes_per_s_at_200_nodes", at(200.0)),
        ("gossip_bytes_per_s_at_1000_nodes", at(1000.0)),
    ]);
    report.idle_bytes_per_s = idle.bytes_per_s;
    report.idle_all_bytes_per_s = idle.all_bytes_per_s;
    (report.idle_nodes, report.idle_links) = (idle.nodes, idle.links);
    (report.idle_met_s, report.idle_window_s) = (idle.met_s, idle.window_s);
    report.idle_adverts = idle.adverts;
    report.idle_adverts_expected = idle.adverts_expected;
    (report.lookup_hops_mean, report.lookup_hops_max) = (idle.hops_mean, idle.hops_max);
}

fn no_idle_mesh(error: &BenchError, report: &mut MeshReport) {
    report.gossip_bytes_per_s = f64::NAN;
    report.lookup_hops_mean = f64::NAN;
    for key in ["gossip_bytes_per_s", "idle_bytes_per_s", "lookup_hops_mean"] {
        report.missing.insert(key, error.to_string());
    }
}

fn many_positions(report: &mut MeshReport) -> Result<()> {
    let mut tables = Tables::new(TABLE_VOCABULARY);
    let (vocab, experts) = (tables.vocab(), Tables::experts(4));
    let mut tally = Tally::default();
    for seed in 1.. {
        if tally.positions >= TABLE_POSITIONS {
            break;
        }
        let text = Text {
            session: SessionId(u128::from(seed)),
            vocab: vocab.clone(),
            experts: experts.clone(),
            prompt: vec![1; 1 + (seed % 977) as usize],
            seed,
            tokens: TABLE_TOKENS,
            temperature: 1.0,
            whole: false,
        };
        let mut lists = Lists::new(&text, false, tally);
        decide(&text, &mut *tables.asker(), &mut lists)?;
        tally = lists.tally;
    }
    report.second_ask_pct_tables = tally.second_ask_pct();
    report.wrong_choices_tables = tally.wrong;
    report.positions_tables = tally.positions;
    Ok(())
}

/// Time of the core for a token of sixteen experts, from their answers to the next questions.
fn router_us() -> Result<f64> {
    /// Nothing is compared: only the router's time counts.
    struct Nothing;

    impl Watch for Nothing {
        fn asked(&mut self, _: Position, _: &mut Ask<'_>) -> Result<()> {
            Ok(())
        }
        fn answer(&mut self, _: &ExpertEvent) -> Result<()> {
            Ok(())
        }
        fn decided(&mut self, _: Token) {}
    }

    let mut tables = Tables::new(CROWD_VOCABULARY);
    let (vocab, experts) = (tables.vocab(), Tables::experts(CROWD));
    let mut turns = Turns::new();
    for seed in 1..=CROWD_TURNS {
        let text = Text {
            session: SessionId(u128::from(seed)),
            vocab: vocab.clone(),
            experts: experts.clone(),
            prompt: vec![1; 8],
            seed,
            tokens: CROWD_TOKENS,
            temperature: 1.0,
            whole: false,
        };
        let (router, tokens) = decide(&text, &mut *tables.asker(), &mut Nothing)?;
        turns.add(router.as_secs_f64() * 1e6 / f64::from(tokens.max(1)));
    }
    Ok(turns.median())
}
