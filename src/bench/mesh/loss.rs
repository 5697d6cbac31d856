//! An expert that is lost in the middle of a sentence: how long the text stands still.

use super::super::heard::{Heard, distance, listen};
use super::super::machines::{Machine, paced};
use super::super::{BenchError, Result, millis};
use super::speeds::{MESH, PROMPT};
use crate::testnet::relay::Relay;
use quorate_core::config::{Key, MeshConfig};
use quorate_core::ids::ExpertId;
use quorate_core::pace::{Pace, Patience};
use quorate_core::record;
use std::time::Duration;

const ONE_WAY_US: u32 = 10_000;
const STEP: Duration = Duration::from_millis(60);
/// Enough answers for a pace, and then the text in which somebody is lost, at this token.
const WARM_TOKENS: u32 = 72;
const TOKENS: u32 = 60;
const LOST_AT: usize = 20;

/// How an expert goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The cable is cut: nothing comes, and nobody says so.
    Silence,
    /// The process ends: its connection closes.
    Ends,
}

pub(super) struct Gap {
    /// The longest time between two tokens from the loss on.
    pub(super) gap_ms: f64,
    /// What the lost expert was given: twice its own 95th percentile, the floor at least.
    pub(super) deadline_ms: f64,
    /// A question to an expert that stayed, and its answer: the median.
    pub(super) answer_ms: f64,
}

struct Other {
    machine: Machine,
    relay: Relay,
}

/// Four decide, one is a spare; one of the four is lost.
pub(super) async fn gap(way: Way) -> Result<Gap> {
    let asker = Machine::start("ada", paced("ada", STEP), 1 << 30).await?;
    let mut others = Vec::new();
    for (seed, name) in (1u64..).zip(["ben", "cai", "dot", "eve"]) {
        let machine = Machine::start(name, paced(name, STEP), 1 << 30).await?;
        let relay = machine.far(distance(ONE_WAY_US), seed).await?;
        asker.meet(&machine, relay.addr).await?;
        others.push(Other { machine, relay });
    }
    let (mut stream, _) = asker.client.ask(&PROMPT, MESH, 1, WARM_TOKENS).await?;
    let warm = listen(&mut stream, |_| ()).await?;
    let (mut stream, tape) = asker.client.ask(&PROMPT, MESH, 2, TOKENS).await?;
    let mut victim = None;
    let heard = listen(&mut stream, |heard| {
        if heard.at.len() == LOST_AT {
            victim = lose(&others, heard, way);
        }
    })
    .await?;
    let victim = victim.ok_or_else(|| BenchError::new("a loss", "nobody could be lost"))?;
    let recording = tape.take();
    let recording = recording.ok_or_else(|| BenchError::new("a loss", "no recording"))?;
    let text = record::replay(&recording).map_err(|why| BenchError::new("the replay", why))?;
    if text != heard.text || recording.schedule.len() < 2 {
        return Err(BenchError::new(
            "the replay",
            "it is not the text that was heard",
        ));
    }
    let gaps = heard.at[LOST_AT - 1..].windows(2);
    let gaps = gaps.map(|two| two[1].duration_since(two[0])).max();
    let mut answers: Vec<u64> = answers_of(&heard, |expert| expert != victim);
    answers.sort_unstable();
    let answer = answers.get(answers.len() / 2).copied().unwrap_or(0);
    Ok(Gap {
        gap_ms: millis(gaps.unwrap_or_default()),
        deadline_ms: deadline_us(&warm, &heard, victim) as f64 / 1e3,
        answer_ms: answer as f64 / 1e3,
    })
}

/// Somebody who decides, and is not the router itself.
fn lose(others: &[Other], heard: &Heard, way: Way) -> Option<ExpertId> {
    let last = heard.provenance.last()?;
    let decides = |other: &&Other| {
        let expert = other.machine.expert();
        let asked = last.asked.iter();
        asked.filter(|v| v.weight > 0.0).any(|v| v.expert == expert)
    };
    let other = others.iter().find(decides)?;
    match way {
        Way::Silence => other.relay.set_link(distance(ONE_WAY_US).cut()).ok()?,
        Way::Ends => other.machine.stop.cancel(),
    }
    Some(other.machine.expert())
}

/// How long these experts took to answer, after the first token of a text.
fn answers_of(heard: &Heard, of: impl Fn(ExpertId) -> bool) -> Vec<u64> {
    let votes = heard.provenance.iter().skip(1).flat_map(|p| &p.asked);
    let remote = votes.filter(|v| v.arrived && v.bytes > 0 && of(v.expert));
    remote.map(|v| v.answer_us).collect()
}

/// What the core allows an expert with these answers.
fn deadline_us(warm: &Heard, heard: &Heard, victim: ExpertId) -> u64 {
    let mut pace = Pace::default();
    for text in [warm, heard] {
        for us in answers_of(text, |expert| expert == victim) {
            pace.answered(us);
        }
    }
    let config = MeshConfig::default();
    let patience = Patience {
        percent: config.get(Key::RouterDeadlinePercent),
        floor_us: u64::from(config.get(Key::RouterDeadlineFloorMs)) * 1000,
    };
    pace.deadline_us(patience, None)
}
