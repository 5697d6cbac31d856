//! `testnet`: several real nodes on this machine, with made-up distances between them.

use super::args::{TestnetDown, TestnetUp};
use super::context::Context;
use super::{models, term};
use crate::error::{Failure, Kind, Outcome};
use crate::testnet::nodes::{self, Plan, Role, Testnet};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quorate_core::link::{Link, RUNGS};
use quorate_core::record::{self, Recording, VARIATION_MIN};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often nodes, and the wish to stop, are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// All see all within this, or the table says who does not.
const MEET_MAX: Duration = Duration::from_secs(30);
/// Tokens of the answer by which it is seen that the experts differ: it is about themselves.
const VARIATION_TOKENS: u32 = 16;
/// Lists of all nodes for so few tokens are some hundred kilobytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// `down` waits so long.
const DOWN_MAX: Duration = Duration::from_secs(15);

/// "100ms", "0.2s".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Millis(f64);

impl FromStr for Millis {
    type Err = String;

    fn from_str(text: &str) -> Result<Millis, String> {
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1.0),
            None => (text.strip_suffix('s').unwrap_or(text), 1000.0),
        };
        let millis = number.trim().parse::<f64>().map(|n| n * unit);
        match millis {
            Ok(ms) if (0.0..=4_000.0).contains(&ms) => Ok(Millis(ms)),
            _ => Err(format!(
                "'{text}' is no time up to four seconds; write 100ms or 0.2s"
            )),
        }
    }
}

/// "1%", "0.5%".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Percent(f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Percent, String> {
        match text.strip_suffix('%').unwrap_or(text).trim().parse() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Percent(percent)),
            _ => Err(format!("'{text}' is no share; write 1%")),
        }
    }
}

pub(super) fn up(context: &Context, args: &TestnetUp) -> Outcome {
    let place = Place::of(context);
    let _lock = place.lock()?;
    let typed = args.model.as_deref();
    let name = models::at_hand(context, typed.unwrap_or(&context.settings.default_model))?;
    let link = link(args)?;
    let plan = Plan {
        role: Role::Node,
        nodes: args.nodes,
        link,
        k: args.k,
        base_port: args.base_port,
        dir: place.dir.clone(),
        binary: std::env::current_exe()
            .map_err(|error| Failure::new(Kind::Failed, format!("cannot find myself: {error}")))?,
        models: fs::canonicalize(context.home.models())
            .map_err(|error| Failure::file("find", &context.home.models(), &error))?,
        model: name.to_string(),
        participants: super::gov::people(&args.participant)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut stopped = std::pin::pin!(place.stopped());
        let mut testnet = tokio::select! {
            testnet = nodes::up(&plan) => testnet?,
            () = &mut stopped => return Ok(()),
        };
        let ended = tokio::select! {
            ended = watch(&mut testnet, &plan, args) => ended,
            () = &mut stopped => Ok(()),
        };
        testnet.down().await;
        if !args.json {
            term::line("stopped")?;
        }
        ended
    })
}

/// Where the one testnet of a home is, and how it is told to stop.
struct Place {
    dir: PathBuf,
    lock: PathBuf,
    stop: PathBuf,
}

impl Place {
    fn of(context: &Context) -> Place {
        let dir = nodes::dir(&context.home.data);
        Place {
            lock: dir.with_extension("lock"),
            stop: dir.with_extension("stop"),
            dir,
        }
    }

    fn lock(&self) -> Outcome<File> {
        if let Some(home) = self.dir.parent() {
            crate::home::create_private_dir(home)?;
        }
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.lock);
        let file = opened.map_err(|error| Failure::file("open", &self.lock, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(Kind::Taken, "a testnet of this home is up")
                    .hint("stop it: quorate testnet down"));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Failure::file("lock", &self.lock, &error));
            }
        }
        // A wish from before is void.
        match fs::remove_file(&self.stop) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::file("remove", &self.stop, &error))
            }
            _ => Ok(file),
        }
    }

    fn is_up(&self) -> bool {
        let file = File::open(&self.lock);
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Ctrl-C, SIGTERM, or `testnet down`.
    async fn stopped(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).ok();
        let mut interrupt = signal(SignalKind::interrupt()).ok();
        loop {
            let heard = async {
                match (&mut terminate, &mut interrupt) {
                    (Some(terminate), Some(interrupt)) => tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    },
                    _ => std::future::pending().await,
                }
            };
            if tokio::time::timeout(LOOK, heard).await.is_ok() || self.stop.exists() {
                return;
            }
        }
    }
}

fn link(args: &TestnetUp) -> Outcome<Link> {
    let mut link = match &args.link {
        None => Link::PERFECT,
        Some(name) => Link::named(name).ok_or_else(|| {
            let names: Vec<&str> = RUNGS.iter().map(|(name, _)| *name).collect();
            Failure::new(Kind::Usage, format!("there is no link '{name}'"))
                .hint(format!("choose one of {}", names.join(", ")))
        })?,
    };
    if let Some(Millis(rtt)) = args.rtt {
        link.delay_us = (rtt * 1000.0 / 2.0) as u32; // once there, once back
    }
    if let Some(Percent(loss)) = args.loss {
        link.loss_ppm = (loss * 10_000.0) as u32;
    }
    Ok(link)
}

/// Shows who is up, and then who goes away, for ever.
async fn watch(testnet: &mut Testnet, plan: &Plan, args: &TestnetUp) -> Outcome {
    let sees = meet(testnet).await;
    let differ = variation(testnet).await?;
    show(testnet, plan, &sees, differ, args.json)?;
    if let Some(differ) = differ.filter(|differ| *differ < VARIATION_MIN) {
        let message = format!(
            "the experts differ by {differ:.3} in total variation, less than {VARIATION_MIN}: what equals \
             decide together shows nothing"
        );
        return Err(Failure::new(Kind::Failed, message));
    }
    loop {
        tokio::time::sleep(LOOK).await;
        for node in &mut testnet.nodes {
            if !node.has_ended() {
                continue;
            }
            let why = node.ended.as_deref().unwrap_or_default();
            match args.json {
                true => term::ndjson(&json!({"event": "ended", "node": node.name, "why": why}))?,
                false => term::line(format!("{} ended ({why})", node.name))?,
            }
        }
        if testnet.nodes.iter().all(|node| node.ended.is_some()) {
            return Err(Failure::new(Kind::Failed, "no node is left")
                .hint(format!("their logs are in {}", plan.dir.display())));
        }
    }
}

/// How many others each node sees, once all see all.
async fn meet(testnet: &Testnet) -> Vec<usize> {
    let begun = Instant::now();
    let all = testnet.nodes.len() - 1;
    loop {
        let apis: Vec<String> = testnet.nodes.iter().map(|n| n.api.clone()).collect();
        let looked = tokio::task::spawn_blocking(move || {
            apis.iter().map(|api| peers_with_experts(api)).collect()
        });
        let sees: Vec<usize> = looked.await.unwrap_or_default();
        if sees.iter().all(|n| *n == all) || begun.elapsed() > MEET_MAX {
            return sees;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far the experts that the first node asks are from each other, over one short answer. None: it asks nobody.
async fn variation(testnet: &Testnet) -> Outcome<Option<f64>> {
    let [first, _, ..] = &testnet.nodes[..] else {
        return Ok(None);
    };
    let api = first.api.clone();
    let recorded = tokio::task::spawn_blocking(move || recorded(&api)).await;
    let failed = |why: String| {
        Failure::new(Kind::Failed, format!("the first answer failed: {why}"))
            .hint("the log of node n1 says more")
    };
    let recording = recorded.unwrap_or_else(|error| Err(error.to_string()));
    Ok(recording.map_err(failed)?.variation())
}

/// Every list of every expert: a greedy answer with log-probabilities waits for all of them.
fn recorded(api: &str) -> Result<Recording, String> {
    let body = json!({
        "model": "mesh",
        "messages": [{"role": "user", "content": "Who are you?"}],
        "max_tokens": VARIATION_TOKENS,
        "temperature": 0,
        "logprobs": true,
        "quorate": {"record": true},
    });
    let answered = ureq::post(format!("{api}/v1/chat/completions")).send_json(body);
    let mut answered = answered.map_err(|error| error.to_string())?;
    let read = answered.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let page: Value = read.read_json().map_err(|error| error.to_string())?;
    let text = page["quorate"]["recording"].as_str();
    let text = text.ok_or_else(|| page["quorate"]["not_recorded"].to_string())?;
    let bytes = BASE64.decode(text).map_err(|error| error.to_string())?;
    record::decode(&bytes).map_err(|error| error.to_string())
}

fn peers_with_experts(api: &str) -> usize {
    let page = ureq::get(format!("{api}/api/mesh")).call().ok();
    let page = page.and_then(|mut response| response.body_mut().read_json::<Value>().ok());
    let peers = page.and_then(|page| page["peers"].as_array().cloned());
    let serves = |peer: &&Value| peer["experts"].as_array().is_some_and(|e| !e.is_empty());
    peers.map_or(0, |peers| peers.iter().filter(serves).count())
}

fn show(
    testnet: &Testnet,
    plan: &Plan,
    sees: &[usize],
    differ: Option<f64>,
    as_json: bool,
) -> Outcome {
    if as_json {
        let nodes = testnet.nodes.iter().zip(sees).map(|(node, sees)| {
            json!({"node": node.name, "id": node.id, "pid": node.pid, "api": node.api,
                   "home": node.home, "sees": sees})
        });
        return term::ndjson(&json!({
            "event": "up",
            "nodes": nodes.collect::<Vec<_>>(),
            "expert_variation": differ,
        }));
    }
    let all = testnet.nodes.len() - 1;
    let rows: Vec<[String; 5]> = testnet
        .nodes
        .iter()
        .zip(sees)
        .map(|(node, sees)| {
            let pid = node.pid.map_or_else(String::new, |pid| pid.to_string());
            let id = node.id.get(node.id.len().saturating_sub(12)..);
            [
                node.name.clone(),
                id.unwrap_or_default().to_owned(),
                pid,
                node.api.clone(),
                format!("{sees} of {all}"),
            ]
        })
        .collect();
    term::table(["NODE", "ID", "PID", "API", "SEES"], &rows)?;
    let Link {
        delay_us, loss_ppm, ..
    } = plan.link;
    let first = &testnet.nodes[0];
    let last = testnet.nodes.last().and_then(|node| node.pid);
    for (name, value) in [
        (
            "link",
            format!(
                "{} ms round trip, {} % loss, to every node",
                f64::from(delay_us) * 2.0 / 1000.0,
                f64::from(loss_ppm) / 10_000.0
            ),
        ),
        (
            "differ",
            differ.map_or("-".to_owned(), |differ| {
                format!("{differ:.2} mean total variation between the experts")
            }),
        ),
        (
            "try",
            format!(
                "QUORATE_HOME={} quorate run mesh --verbose \"Why is the sky blue?\"",
                quoted(&first.home)
            ),
        ),
        ("break", format!("kill -9 {}", last.unwrap_or_default())),
        ("stop", "Ctrl-C, or quorate testnet down".to_owned()),
    ] {
        term::line(format!("{name:<7}{value}"))?;
    }
    Ok(())
}

fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    match text.contains(|c: char| c.is_whitespace() || c == '\'') {
        false => text,
        true => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

pub(super) fn down(context: &Context, _args: &TestnetDown) -> Outcome {
    let place = Place::of(context);
    if !place.is_up() {
        return Err(
            Failure::new(Kind::NotFound, "no testnet of this home is up")
                .hint("start one: quorate testnet up 4 --rtt 100ms"),
        );
    }
    fs::write(&place.stop, b"").map_err(|error| Failure::file("write", &place.stop, &error))?;
    let begun = Instant::now();
    while place.is_up() {
        if begun.elapsed() > DOWN_MAX {
            return Err(Failure::new(Kind::Failed, "the testnet does not stop")
                .hint("press Ctrl-C where it was started"));
        }
        std::thread::sleep(LOOK);
    }
    term::line("stopped")
}
