//! A network link as a state machine: what becomes of every packet that is put on it.
//!
//! The simulator, the relays of `quorate testnet` and the switch of the lab all obey this one
//! model; they differ only in where packets come from. A packet waits in a bounded queue, leaves at
//! the link's rate, and travels. The fate of the n-th packet is a function of (seed, n, link, what
//! is queued), so the same seed and the same offers give the same fates on every machine.

use crate::ids::Micros;
use crate::limits::{
    LINE_BYTES_MAX, LINK_DELAY_US_MAX, LINK_DRAIN_US_MAX, LINK_QUEUE_BYTES_MAX,
    LINK_QUEUE_BYTES_MIN,
};
use std::collections::BTreeMap;

const MILLION: u32 = 1_000_000;
const PS_IN_US: u128 = 1_000_000;

/// One direction of a link. Both directions of a cable are two links with two seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The least that a packet travels: distance and the speed of light.
    pub delay_us: u32,
    /// Up to this much more, drawn evenly for each packet. Order is kept: a packet that would
    /// overtake another arrives with it.
    pub jitter_us: u32,
    /// Packets that are lost on the way, each for itself.
    pub loss_ppm: u32,
    /// Packets that take a detour (`detour_us`) and let later ones pass.
    pub reorder_ppm: u32,
    /// Packets that arrive twice.
    pub duplicate_ppm: u32,
    /// Bits that leave the queue in a second.
    pub rate_bps: u64,
    /// Bytes that wait in front of the line; what does not fit is dropped.
    pub queue_bytes: u32,
}

/// The named links, from the next room to what nobody should have to use.
///
/// Delays are one way, light in fibre (5 us a kilometre) along real cable routes; losses are what
/// good and bad days of such paths show; queues hold what routers of that speed buffer.
pub const RUNGS: [(&str, Link); 6] = [
    // A switch and two network stacks; gigabit Ethernet.
    ("lan", rung(200, 50, 0, 1_000_000_000, 512 << 10)),
    // One town: some 50 km of fibre and the access network, where a good home line ends.
    ("metro", rung(3_000, 500, 100, 500_000_000, 1 << 20)),
    // Lisbon to Warsaw, New York to Denver: 3,000 km of cable; round trip 30 ms.
    ("continent", rung(15_000, 2_000, 500, 100_000_000, 1 << 20)),
    // Frankfurt to San Francisco: 15,000 km of cable, a crowded exchange; round trip 150 ms.
    (
        "intercontinental",
        Link {
            reorder_ppm: 500,
            ..rung(75_000, 5_000, 2_000, 50_000_000, 1 << 20)
        },
    ),
    // Up and down 36,000 km twice and a slot to wait for; round trip above 600 ms, a deep queue.
    (
        "satellite",
        rung(300_000, 20_000, 10_000, 20_000_000, 1 << 20),
    ),
    // A modem behind a ditch: all that can be wrong at once, and yet not nothing.
    (
        "absurd",
        Link {
            reorder_ppm: 50_000,
            duplicate_ppm: 10_000,
            ..rung(1_000_000, 300_000, 100_000, 256_000, 64 << 10)
        },
    ),
];

const fn rung(
    delay_us: u32,
    jitter_us: u32,
    loss_ppm: u32,
    rate_bps: u64,
    queue_bytes: u32,
) -> Link {
    Link {
        delay_us,
        jitter_us,
        loss_ppm,
        reorder_ppm: 0,
        duplicate_ppm: 0,
        rate_bps,
        queue_bytes,
    }
}

impl Link {
    /// No distance, no loss, no wait: what others are described as a change of.
    pub const PERFECT: Link = rung(0, 0, 0, u64::MAX, LINK_QUEUE_BYTES_MAX);

    pub fn named(name: &str) -> Option<Link> {
        let found = RUNGS.iter().find(|(rung, _)| *rung == name);
        found.map(|(_, link)| *link)
    }

    /// The same link with the cable cut: what is under way arrives, nothing else does.
    pub fn cut(self) -> Link {
        Link {
            loss_ppm: MILLION,
            ..self
        }
    }

    /// What a packet that takes a detour travels in addition.
    pub fn detour_us(&self) -> u32 {
        1_000 + self.delay_us / 8
    }

    /// The longest time between offer and arrival: a full queue, and every piece of bad luck.
    pub fn transit_us_max(&self) -> u64 {
        let detour = if self.reorder_ppm > 0 {
            self.detour_us()
        } else {
            0
        };
        let travel = u64::from(self.delay_us) + u64::from(self.jitter_us) + u64::from(detour);
        self.drain_us() + travel
    }

    /// After how long TCP sends a lost segment again: the round trip and the 200 ms that Linux waits
    /// at least, doubled with each try, a minute at most.
    pub fn retransmission_us(&self, attempt: u32) -> u64 {
        let first = 200_000 + 2 * (u64::from(self.delay_us) + u64::from(self.jitter_us));
        (first << attempt.min(16)).min(60_000_000)
    }

    fn drain_us(&self) -> u64 {
        let us = line_ps(u64::from(self.queue_bytes), self.rate_bps).div_ceil(PS_IN_US);
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    pub fn check(&self) -> Result<(), BadLink> {
        if self.delay_us.max(self.jitter_us) > LINK_DELAY_US_MAX {
            return Err(BadLink::Delay);
        }
        let shares = [self.loss_ppm, self.reorder_ppm, self.duplicate_ppm];
        if shares.iter().any(|ppm| *ppm > MILLION) {
            return Err(BadLink::Share);
        }
        if !(LINK_QUEUE_BYTES_MIN..=LINK_QUEUE_BYTES_MAX).contains(&self.queue_bytes) {
            return Err(BadLink::Queue);
        }
        if self.rate_bps == 0 || self.drain_us() > LINK_DRAIN_US_MAX {
            return Err(BadLink::Rate);
        }
        Ok(())
    }
}

/// Why a description is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    #[error("delay and jitter are at most {} s each", LINK_DELAY_US_MAX / 1_000_000)]
    Delay,
    #[error("loss, reordering and duplication are at most 100 % each")]
    Share,
    #[error(
        "the queue holds {} KiB to {} MiB",
        LINK_QUEUE_BYTES_MIN >> 10,
        LINK_QUEUE_BYTES_MAX >> 20
    )]
    Queue,
    #[error("the rate drains a full queue within {} s", LINK_DRAIN_US_MAX / 1_000_000)]
    Rate,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Deliver { at: Micros, copy_at: Option<Micros> },
    Drop(Lost),
}

impl Fate {
    /// When it arrives: never, once or twice.
    pub fn arrivals(self) -> impl Iterator<Item = Micros> {
        let (first, second) = match self {
            Fate::Deliver { at, copy_at } => (Some(at), copy_at),
            Fate::Drop(_) => (None, None),
        };
        first.into_iter().chain(second)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The queue in front of the line was full.
    Queue,
    /// On the way.
    Line,
}

/// What becomes of one try to send a piece of a byte stream, which cannot lose anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// It arrives then, or when all before it have arrived.
    Arrives { at: Micros },
    /// It was lost: TCP notices by silence and sends it again then.
    Lost { again_at: Micros },
    /// The queue is full until then: the sender is told to wait, nothing is lost.
    Wait { until: Micros },
}

/// One direction of a link at work.
#[derive(Clone, Debug)]
pub struct Wire {
    link: Link,
    seed: u64,
    offered: u64,
    /// When the last bit of all that was accepted has left. Picoseconds: a bit of a fast line takes
    /// less than a nanosecond, and rounding adds up.
    line_free_ps: u128,
    /// The latest arrival so far of those that keep the order.
    latest: Micros,
}

impl Wire {
    pub fn new(link: Link, seed: u64) -> Result<Wire, BadLink> {
        link.check()?;
        Ok(Wire {
            link,
            seed,
            offered: 0,
            line_free_ps: 0,
            latest: Micros(0),
        })
    }

    pub fn link(&self) -> Link {
        self.link
    }

    /// From the next packet on. What is queued leaves as it was going to.
    pub fn set_link(&mut self, link: Link) -> Result<(), BadLink> {
        link.check()?;
        self.link = link;
        Ok(())
    }

    pub fn offer(&mut self, now: Micros, bytes: usize) -> Fate {
        let luck = self.next_luck();
        let Some(sent) = self.serialise(now, bytes) else {
            return Fate::Drop(Lost::Queue);
        };
        if luck.hits(0, self.link.loss_ppm) {
            return Fate::Drop(Lost::Line);
        }
        let jitter_us = luck.up_to(1, self.link.jitter_us);
        let at = if luck.hits(2, self.link.reorder_ppm) {
            self.travel(sent, jitter_us + u64::from(self.link.detour_us()))
        } else {
            self.in_order(self.travel(sent, jitter_us))
        };
        let copy_at = luck.hits(3, self.link.duplicate_ppm).then(|| {
            let jitter_us = luck.up_to(4, self.link.jitter_us);
            self.in_order(self.travel(sent, jitter_us))
        });
        Fate::Deliver { at, copy_at }
    }

    /// One try of a byte stream; `attempt` counts those that were lost. The caller keeps the order
    /// within its stream: streams that share a line do not wait for each other's losses.
    pub fn offer_segment(&mut self, now: Micros, bytes: usize, attempt: u32) -> Segment {
        let luck = self.next_luck();
        let Some(sent) = self.serialise(now, bytes) else {
            // Half of what waits has left by then: one of these takes far less than that.
            let half_us = self.backlog_ps(now) / PS_IN_US / 2 + 1;
            let half_us = u64::try_from(half_us).unwrap_or(u64::MAX);
            return Segment::Wait {
                until: Micros(now.0.saturating_add(half_us)),
            };
        };
        if luck.hits(0, self.link.loss_ppm) {
            let silence_us = self.link.retransmission_us(attempt);
            return Segment::Lost {
                again_at: Micros(sent.0.saturating_add(silence_us)),
            };
        }
        let jitter_us = luck.up_to(1, self.link.jitter_us);
        Segment::Arrives {
            at: self.travel(sent, jitter_us),
        }
    }

    fn next_luck(&mut self) -> Luck {
        self.offered += 1;
        Luck {
            seed: self.seed,
            packet: self.offered,
        }
    }

    /// When its last bit has left; nothing if it does not fit into the queue. The queue is measured
    /// in time: what waits takes as long to leave as its bytes at the rate.
    fn serialise(&mut self, now: Micros, bytes: usize) -> Option<Micros> {
        let takes_ps = line_ps(bytes as u64, self.link.rate_bps);
        let waits_ps = self.backlog_ps(now) + takes_ps;
        if waits_ps > line_ps(u64::from(self.link.queue_bytes), self.link.rate_bps) {
            return None;
        }
        self.line_free_ps = u128::from(now.0) * PS_IN_US + waits_ps;
        let sent_us = self.line_free_ps.div_ceil(PS_IN_US);
        Some(Micros(u64::try_from(sent_us).unwrap_or(u64::MAX)))
    }

    fn backlog_ps(&self, now: Micros) -> u128 {
        self.line_free_ps
            .saturating_sub(u128::from(now.0) * PS_IN_US)
    }

    fn travel(&self, sent: Micros, extra_us: u64) -> Micros {
        Micros(
            sent.0
                .saturating_add(u64::from(self.link.delay_us))
                .saturating_add(extra_us),
        )
    }

    fn in_order(&mut self, at: Micros) -> Micros {
        self.latest = self.latest.max(at);
        self.latest
    }
}

fn line_ps(bytes: u64, rate_bps: u64) -> u128 {
    u128::from(bytes) * 8 * 1_000_000 * PS_IN_US / u128::from(rate_bps.max(1))
}

/// The random numbers of one packet. Each question has its own, so that a link with more loss still
/// has the same jitter.
struct Luck {
    seed: u64,
    packet: u64,
}

impl Luck {
    fn draw(&self, question: u64) -> u64 {
        let n = self.packet.wrapping_mul(8).wrapping_add(question);
        finalise(finalise(self.seed).wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn hits(&self, question: u64, ppm: u32) -> bool {
        scale(self.draw(question), u64::from(MILLION)) < u64::from(ppm)
    }

    fn up_to(&self, question: u64, max: u32) -> u64 {
        scale(self.draw(question), u64::from(max) + 1)
    }
}

/// SplitMix64's finaliser.
fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An even draw from 0..n.
fn scale(draw: u64, n: u64) -> u64 {
    ((u128::from(draw) * u128::from(n)) >> 64) as u64
}

/// What is under way, in order of arrival. Bounded by bytes: a long and fast link holds a lot.
#[derive(Clone, Debug)]
pub struct DelayLine<T> {
    due: BTreeMap<(Micros, u64), (usize, T)>,
    pushed: u64,
    bytes: usize,
}

impl<T> Default for DelayLine<T> {
    fn default() -> Self {
        DelayLine {
            due: BTreeMap::new(),
            pushed: 0,
            bytes: 0,
        }
    }
}

impl<T> DelayLine<T> {
    /// Gives the packet back if no more fits.
    pub fn push(&mut self, at: Micros, bytes: usize, packet: T) -> Result<(), T> {
        // An empty packet takes room, too.
        let bytes = bytes.max(1);
        if self.bytes.saturating_add(bytes) > LINE_BYTES_MAX {
            return Err(packet);
        }
        self.bytes += bytes;
        self.pushed += 1;
        self.due.insert((at, self.pushed), (bytes, packet));
        Ok(())
    }

    pub fn next_at(&self) -> Option<Micros> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next that has arrived by now; those of one moment in the order in which they were sent.
    pub fn pop(&mut self, now: Micros) -> Option<T> {
        if self.next_at()? > now {
            return None;
        }
        let (_, (bytes, packet)) = self.due.pop_first()?;
        self.bytes -= bytes;
        Some(packet)
    }

    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
