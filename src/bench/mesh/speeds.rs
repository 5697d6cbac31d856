//! Rates and gaps of whole nodes: drivers, the token plane over QUIC on loopback, made-up distances
//! where the name says so.

use super::super::heard::{distance, listen, tps};
use super::super::machines::{Client, Machine, offered, paced};
use super::super::{BenchError, Result, Turns, rate};
use crate::driver::{Asked, Models};
use quorate_core::chat::Segment;
use quorate_core::generate::Guessing;
use quorate_core::ids::Token;
use quorate_core::team::Sets;
use std::time::{Duration, Instant};

/// One token at a time, four experts of whom three are this far away, and what a token takes each.
const NAIVE_ONE_WAY_US: u32 = 100_000;
const NAIVE_STEP: Duration = Duration::from_millis(114);
const NAIVE_TOKENS: u32 = 25;

/// A stub's token, where throughput is measured: slow enough for two cores to serve all of them.
const SHARED_STEP: Duration = Duration::from_millis(10);
const EXPERTS: usize = 4;
const ROUTERS: usize = 8;
const SESSIONS_EACH: usize = 8;
/// Tokens of one answer, and how soon a session that found no room asks again.
const SHARED_TOKENS: u32 = 12;
const AGAIN: Duration = Duration::from_millis(100);
/// Until everybody runs, and then how long tokens are counted.
const SETTLE: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(10);

const LOOPBACK_TOKENS: u32 = 96;
const LOOPBACK_TURNS: usize = 5;
const SEEDS: u64 = 64;

pub(super) const MESH: Asked = Asked::Mesh {
    sets: Sets::A,
    k_max: None,
    guessing: Guessing::Never,
};
/// To a stub, any prompt is a prompt.
pub(super) const PROMPT: [Token; 3] = [104, 105, 33];

/// The origin's loop: no speculation, a round trip for every token.
pub(super) async fn naive_tps() -> Result<f64> {
    let asker = Machine::start("ada", paced("ada", NAIVE_STEP), 1 << 30).await?;
    let mut others = Vec::new();
    for (seed, name) in (1u64..).zip(["ben", "cai", "dot"]) {
        let other = Machine::start(name, paced(name, NAIVE_STEP), 1 << 30).await?;
        let relay = other.far(distance(NAIVE_ONE_WAY_US), seed).await?;
        asker.meet(&other, relay.addr).await?;
        others.push((other, relay));
    }
    let (mut stream, _) = asker.client.ask(&PROMPT, MESH, 1, NAIVE_TOKENS).await?;
    let heard = listen(&mut stream, |_| ()).await?;
    let all = heard
        .provenance
        .iter()
        .all(|p| p.asked.iter().filter(|v| v.arrived).count() == 4);
    if all {
        Ok(tps(&heard))
    } else {
        Err(BenchError::new("naive", "not all four decided every token"))
    }
}

/// One real expert, asked over the plane on loopback, against the same expert asked here.
pub(super) async fn loopback_ratio(models: Models, model: &str, memory: u64) -> Result<f64> {
    let models = Models {
        offer: offered(model),
        ..models
    };
    let here = Machine::start(model, models, memory).await?;
    let there = Machine::without_expert(&here).await?;
    let text = vec![Segment::Text(super::super::PROMPT.into())];
    let prompt = here.client.lease.tokenize(text, true).await;
    let prompt = prompt.map_err(|error| BenchError::new("tokenising", error))?;
    let decode = async |machine: &Machine, seed| {
        let asked = machine
            .client
            .ask(&prompt, Asked::Own, seed, LOOPBACK_TOKENS);
        let (mut stream, _) = asked.await?;
        listen(&mut stream, |_| ()).await
    };
    let mut seed = 0;
    for tried in 1..=SEEDS {
        if decode(&here, tried).await?.at.len() == LOOPBACK_TOKENS as usize {
            seed = tried;
            break;
        }
    }
    if seed == 0 {
        return Err(BenchError::new("loopback", "every text ends early"));
    }
    decode(&there, seed).await?;
    let (mut near, mut far) = (Turns::new(), Turns::new());
    for _ in 0..LOOPBACK_TURNS {
        near.add(tps(&decode(&here, seed).await?));
        far.add(tps(&decode(&there, seed).await?));
    }
    Ok(far.median() / near.median())
}

/// What many routers get of a few experts.
pub(super) struct Shared {
    /// Tokens of the luckiest router against those of the unluckiest: experts are fair to peers.
    pub(super) fairness: f64,
    /// The same of sessions.
    pub(super) fairness_sessions: f64,
    /// All tokens, against what as many experts do for as many sessions of their own.
    pub(super) aggregate_ratio: f64,
    /// Tokens per second of one expert with a full house of its own, and of all routers together.
    pub(super) alone_tps: f64,
    pub(super) together_tps: f64,
    /// Answers that an expert had no room for; they were asked for again.
    pub(super) refused: u64,
}

pub(super) async fn shared() -> Result<Shared> {
    let mut experts = Vec::new();
    for n in 0..EXPERTS {
        let name = format!("expert {n}");
        experts.push(Machine::start(&name, paced(&name, SHARED_STEP), 1 << 30).await?);
    }
    let each = ROUTERS * SESSIONS_EACH / EXPERTS;
    let alone = count(&experts[..1], each).await?;
    let mut routers = Vec::new();
    for n in 0..ROUTERS {
        routers.push(Machine::without_expert(&experts[n % EXPERTS]).await?);
    }
    let shared = count(&routers, SESSIONS_EACH).await?;
    let per_router = shared.tokens.chunks(SESSIONS_EACH);
    let per_router: Vec<u64> = per_router.map(|tokens| tokens.iter().sum()).collect();
    let (all, one) = (
        shared.tokens.iter().sum::<u64>(),
        alone.tokens.iter().sum::<u64>(),
    );
    Ok(Shared {
        fairness: spread(&per_router),
        fairness_sessions: spread(&shared.tokens),
        aggregate_ratio: all as f64 / (one * EXPERTS as u64) as f64,
        alone_tps: rate(one as usize, WINDOW),
        together_tps: rate(all as usize, WINDOW),
        refused: shared.refused,
    })
}

fn spread(tokens: &[u64]) -> f64 {
    let (most, least) = (tokens.iter().max(), tokens.iter().min());
    most.copied().unwrap_or(0) as f64 / least.copied().unwrap_or(0) as f64
}

#[derive(Default)]
struct Counts {
    /// Tokens of each session within the window.
    tokens: Vec<u64>,
    refused: u64,
}

/// Sessions that ask one thing after another, each for itself, until the window is over.
async fn count(machines: &[Machine], sessions: usize) -> Result<Counts> {
    let from = Instant::now() + SETTLE;
    let until = from + WINDOW;
    let mut tasks = Vec::new();
    for machine in machines {
        for seed in 0..sessions as u64 {
            tasks.push(tokio::spawn(session(
                machine.client.clone(),
                seed,
                from,
                until,
            )));
        }
    }
    let mut counts = Counts::default();
    for task in tasks {
        let session = task.await;
        let (tokens, refused) = session.map_err(|error| BenchError::new("fairness", error))??;
        counts.tokens.push(tokens);
        counts.refused += refused;
    }
    Ok(counts)
}

async fn session(client: Client, seed: u64, from: Instant, until: Instant) -> Result<(u64, u64)> {
    let (mut tokens, mut refused) = (0, 0);
    while Instant::now() < until {
        let (mut stream, _) = client.ask(&PROMPT, Asked::Own, seed, SHARED_TOKENS).await?;
        let answer = listen(&mut stream, |_| {
            let now = Instant::now();
            tokens += u64::from(now >= from && now < until);
        });
        if tokio::time::timeout_at(until.into(), answer)
            .await
            .is_ok_and(|told| told.is_err())
        {
            refused += 1;
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok((tokens, refused))
}
