//! `quorate gov drill`: real processes of one machine stream under mesh permits, one person halts, and
//! every process says when it knew and when its last token came. The keys are thrown away.

mod node;

pub(super) use node::node;

use super::args::Drill;
use super::names::hex;
use crate::cli::context::Context;
use crate::cli::models;
use crate::cli::sim::at;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::testnet::nodes::{self, Plan, Role, Testnet};
use libp2p_identity::Keypair;
use quorate_core::governance::Halt;
use quorate_core::link::Link;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// All stream within this: a busy machine starts 32 processes slowly.
const STREAMING_MAX: Duration = Duration::from_secs(180);
/// Everybody finds everybody, and streams for a while, before the halt.
const SETTLE: Duration = Duration::from_secs(5);
/// A node that has not said within this that it stands still does not.
const HALTED_MAX: Duration = Duration::from_secs(30);
/// A node whose last token is older than this when it hears of the halt was not streaming.
const QUIET_US_MAX: u64 = 2_000_000;

/// What a process says at its end, of everything that it streamed. All clocks are this machine's.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Said {
    halted_us: u64,
    first_token_us: u64,
    last_token_us: u64,
    tokens: u64,
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

pub(super) fn drill(context: &Context, args: &Drill) -> Outcome {
    let person = Keypair::generate_ed25519();
    let public = person.public().try_into_ed25519();
    let public = public.expect("it was made so").to_bytes();
    let model = args.model.as_deref();
    let model = model.map(|typed| models::at_hand(context, typed));
    let model = model.transpose()?.map(|name| name.to_string());
    let plan = Plan {
        role: Role::Drill {
            real: model.is_some(),
        },
        nodes: args.nodes.into(),
        link: Link::PERFECT,
        k: Some(1),
        base_port: args.base_port,
        dir: nodes::dir(&context.home.data).with_file_name("drill"),
        binary: std::env::current_exe()
            .map_err(|error| Failure::new(Kind::Failed, format!("cannot find myself: {error}")))?,
        models: std::path::absolute(context.home.models())?,
        model: model.unwrap_or_default(),
        participants: vec![public],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    let page = runtime.block_on(async {
        let mut testnet = nodes::up(&plan).await?;
        let page = halt(&mut testnet, &person, public).await;
        testnet.down().await;
        page
    })?;
    std::fs::remove_dir_all(&plan.dir).ok(); // nothing in it is needed again
    if args.json {
        term::json(&page)?;
    } else {
        for (name, value) in page.as_object().into_iter().flatten() {
            term::line(format!("{name:<16}{value}"))?;
        }
    }
    match page["unhalted"].as_u64() {
        Some(0) => Ok(()),
        _ => Err(Failure::new(Kind::Failed, "not every node stood still")),
    }
}

async fn halt(testnet: &mut Testnet, person: &Keypair, public: [u8; 32]) -> Outcome<Value> {
    let all = testnet.nodes.len();
    let mut lines = hear(testnet);
    let mut streaming = 0;
    let until = Instant::now() + STREAMING_MAX;
    while streaming < all {
        match timeout_at(until, lines.recv()).await {
            Ok(Some(line)) => streaming += usize::from(line["streaming"] == true),
            Ok(None) | Err(_) => {
                let message = format!("only {streaming} of {all} nodes stream");
                return Err(Failure::new(Kind::Failed, message)
                    .hint("this machine may be too busy: try fewer, with --nodes"));
            }
        }
    }
    tokio::time::sleep(SETTLE).await;
    let halt = signed(testnet, person, public)?;
    let first = testnet.nodes[0].told.as_mut();
    let told = first.expect("nodes of a drill are told");
    let fired_us = now_us();
    writeln!(told, "{}", hex(&halt.encode()))?;
    let mut said: Vec<Said> = Vec::new();
    let until = Instant::now() + HALTED_MAX;
    while said.len() < all
        && let Ok(Some(line)) = timeout_at(until, lines.recv()).await
    {
        said.extend(serde_json::from_value(line).ok());
    }
    report(all, fired_us, &said)
}

/// Lines of all, as they come.
fn hear(testnet: &mut Testnet) -> mpsc::Receiver<Value> {
    // Two lines of each.
    let (tell, lines) = mpsc::channel(2 * testnet.nodes.len());
    for says in testnet.nodes.iter_mut().filter_map(|node| node.says.take()) {
        let tell = tell.clone();
        std::thread::spawn(move || {
            for line in says.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::Null);
                if tell.blocking_send(line).is_err() {
                    return;
                }
            }
        });
    }
    lines
}

fn signed(testnet: &Testnet, person: &Keypair, author: [u8; 32]) -> Outcome<Halt> {
    let mut halt = Halt {
        network: testnet.network,
        author,
        nonce: 1,
        reason: "drill".into(),
        advisory_time: term::now_unix_s(),
        signature: [0; 64],
    };
    let signature = person.sign(&halt.body()).ok();
    let signature = signature.and_then(|bytes| bytes.try_into().ok());
    halt.signature =
        signature.ok_or_else(|| Failure::new(Kind::Failed, "the key does not sign"))?;
    Ok(halt)
}

fn report(all: usize, fired_us: u64, said: &[Said]) -> Outcome<Value> {
    let quiet = |one: &&Said| one.last_token_us + QUIET_US_MAX < one.halted_us;
    if let Some(one) = said.iter().find(quiet) {
        let ms = (one.halted_us - one.last_token_us) / 1000;
        let message = format!("a node had no token for {ms} ms before the halt reached it");
        return Err(Failure::new(Kind::Failed, message)
            .hint("this machine may be too busy: try fewer, with --nodes"));
    }
    let sorted = |of: fn(&Said, u64) -> u64| {
        let mut all: Vec<u64> = said.iter().map(|one| of(one, fired_us)).collect();
        all.sort_unstable();
        all
    };
    let halts = sorted(|one, fired_us| one.halted_us.saturating_sub(fired_us));
    let steps = sorted(|one, _| {
        let steps = one.tokens.saturating_sub(1).max(1);
        one.last_token_us.saturating_sub(one.first_token_us) / steps
    });
    let lasts = sorted(|one, _| one.last_token_us.saturating_sub(one.halted_us));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    Ok(json!({
        "nodes": all,
        "halt_ms": spread(&halts),
        "last_token_ms": spread(&lasts),
        "token_ms": spread(&steps),
        "unhalted": all - said.len(),
        "tokens": said.iter().map(|one| one.tokens).sum::<u64>(),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "load": load,
    }))
}

/// In milliseconds, to a tenth.
fn spread(sorted_us: &[u64]) -> Value {
    let ms = |permille| at(sorted_us, permille).map(|us| (us / 100) as f64 / 10.0);
    json!({"p50": ms(500), "p99": ms(990), "max": ms(1000)})
}
