//! Whole nodes with a distance between them: one asks, the others are reached through relays.

use super::record::Played;
use super::replay::{Clock, Part, ReplayExpert};
use super::{Mode, Request};
use crate::bench::heard::{Heard, listen};
use crate::bench::machines::{Machine, found, offered};
use crate::bench::real::in_short;
use crate::bench::{BenchError, Result};
use crate::driver::{Asked, Models};
use crate::expert::llama::load;
use crate::expert::{EventSender, Expert};
use crate::net::remote::RemoteExpert;
use crate::testnet::relay::Relay;
use quorate_core::config::{Key, MeshConfig};
use quorate_core::ids::ExpertId;
use quorate_core::link::Link;
use quorate_core::vocab::Vocab;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nobody is replaced here, however long this machine pauses: the set is part of the law.
const DEADLINE_MS: u32 = 5_000;
/// A node's memory: a replay needs none, and an expert of the default model fits.
const MEMORY_BYTES: u64 = 2 << 30;

pub(super) struct Far {
    asker: Machine,
    others: Vec<Other>,
}

struct Other {
    expert: Arc<RemoteExpert>,
    // Both end with this.
    _machine: Machine,
    _relay: Relay,
}

/// One text, as it was heard.
pub(super) struct Run {
    pub(super) heard: Heard,
    /// Of all other nodes, what they sent.
    pub(super) bytes: u64,
    /// Round trip of the path, as QUIC measures it: the mean of all.
    pub(super) rtt: Duration,
    /// Time of this process on all cores from the question to the end, where the system says it.
    pub(super) cpu: Option<Duration>,
}

/// The experts of a text, each on a node of its own, that say again what they said. The router's own
/// drafts at another pace than the others check.
pub(super) async fn replayed(
    played: &Played,
    vocab: &Arc<Vocab>,
    drafts: Clock,
    checks: Clock,
    link: Link,
) -> Result<Far> {
    let models = |expert| {
        let is_local = expert == played.drafter;
        let part = Part {
            recording: played.recording.clone(),
            expert,
            vocab: vocab.clone(),
            clock: if is_local { drafts } else { checks },
        };
        named(move |events| {
            ReplayExpert::spawn(part.clone(), events).map_err(|error| error.to_string())
        })
    };
    Far::start(played, models, link).await
}

/// The same experts for real.
pub(super) async fn real(played: &Played, request: &Arc<Request>, link: Link) -> Result<Far> {
    let models = |expert| {
        let (request, cast) = (request.clone(), played.cast);
        let at = played.place(expert).unwrap_or(0);
        named(move |events| {
            let wanted = cast.expert(at, &*request, events)?;
            load(in_short(wanted, expert)).map_err(|error| error.to_string())
        })
    };
    Far::start(played, models, link).await
}

/// A node's only model.
fn named<F>(load: F) -> Models
where
    F: Fn(EventSender) -> std::result::Result<Arc<dyn Expert>, String> + Send + Sync + 'static,
{
    Models {
        find: found("expert"),
        load: Arc::new(move |_, events| load(events)),
        offer: offered("expert"),
    }
}

impl Far {
    async fn start(
        played: &Played,
        models: impl Fn(ExpertId) -> Models,
        link: Link,
    ) -> Result<Far> {
        let config = MeshConfig::default().with(Key::RouterDeadlineFloorMs, DEADLINE_MS);
        let config = config.map_err(|error| BenchError::new("the config", error))?;
        let start = |expert| {
            let (config, models) = (config.clone(), models(expert));
            async move { Machine::start_under(config, "expert", models, MEMORY_BYTES).await }
        };
        let asker = start(played.drafter).await?;
        let mut others = Vec::new();
        for (seed, &expert) in (1u64..).zip(&played.experts) {
            if expert == played.drafter {
                continue;
            }
            let machine = start(expert).await?;
            let relay = machine.far(link, seed).await?;
            let expert = asker.meet(&machine, relay.addr).await?;
            others.push(Other {
                expert,
                _machine: machine,
                _relay: relay,
            });
        }
        Ok(Far { asker, others })
    }

    /// Writes the beginning of the text.
    pub(super) async fn run(&self, played: &Played, mode: Mode, tokens: u32) -> Result<Run> {
        let asked = Asked::Mesh {
            sets: played.cast.by.sets(),
            k_max: None,
            guessing: mode.guessing(),
        };
        let (before, begun) = (self.bytes(), cpu_time());
        let client = &self.asker.client;
        let (cast, prompt) = (&played.cast, &played.recording.prompt);
        let law = cast.by.law(client.law(cast.temperature)?);
        let asking = client.ask_under(law, prompt, asked, played.seed, tokens);
        let (mut stream, _) = asking.await?;
        let heard = listen(&mut stream, |_| ()).await?;
        let cpu = begun.and_then(|begun| cpu_time()?.checked_sub(begun));
        if let Some(at) = played.departs(&heard.schedule, heard.tokens.len()) {
            let why = format!("one was lost on the way: others decided from position {at} on");
            return Err(BenchError::new("a text", why));
        }
        let rtts = self.others.iter().filter_map(|o| o.expert.status().rtt);
        let rtt = rtts.sum::<Duration>() / self.others.len().max(1) as u32;
        Ok(Run {
            heard,
            bytes: self.bytes() - before,
            rtt,
            cpu,
        })
    }

    fn bytes(&self) -> u64 {
        let others = self.others.iter();
        others.map(|other| other.expert.status().bytes_in).sum()
    }

    /// Until the sessions of the last text are gone: the next one begins in silence.
    pub(super) async fn settle(&self) {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && self.others.iter().any(|o| o.expert.status().sessions > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Of this process, on all cores. Linux counts it in hundredths of a second.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process may hold anything but ends with the last bracket.
    let after = stat.rsplit_once(')')?.1;
    let mut numbers = after.split_whitespace().skip(11);
    let mut ticks = || numbers.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}
