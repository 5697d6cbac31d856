//! A made-up distance in front of one address: UDP and TCP go through a `core::link`, both ways.
//!
//! - `datagrams::run`: owns the listening UDP socket, sorts what comes by client
//!   - a flow task for each client: its socket towards the target, and what is under way both ways
//! - `streams::run`: accepts TCP connections up to a cap
//!   - a task for each connection, which moves segments both ways
//!
//! All of them share the two directions of one link, so they compete for its rate. What a datagram
//! suffers is the whole model. A stream knows delay and rate alone: the kernels at both ends see a
//! perfect local connection, so a loss becomes the silence after which TCP would have sent the
//! segment again, and neither reordering nor copies exist. Timers are tokio's, with their grain of
//! a millisecond: a relay is never early, and up to that much late.

mod datagrams;
mod streams;

use quorate_core::ids::Micros;
use quorate_core::link::{BadLink, Fate, Link, Lost, Segment, Wire};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Free TCP ports whose UDP twin is taken, in a row, before we give up.
const PORT_TRIES: u32 = 16;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is no link: {0}")]
    Link(#[from] BadLink),
    #[error("the relay cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
}

/// A relay at work. Dropping it ends it at once; `stopped` waits until it has ended.
pub struct Relay {
    /// Where it listens, UDP and TCP.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// Starts to carry what arrives at `listen` to `target` and back, until `stop`.
pub async fn start(
    listen: SocketAddr,
    target: SocketAddr,
    link: Link,
    seed: u64,
    stop: CancellationToken,
) -> Result<Relay, Error> {
    let shared = Arc::new(Shared {
        target,
        started: Instant::now(),
        lanes: [
            Mutex::new(Lane::new(link, seed)?),
            Mutex::new(Lane::new(link, !seed)?),
        ],
    });
    let (tcp, udp) = bind(listen).await.map_err(|source| Error::Bind {
        address: listen,
        source,
    })?;
    let addr = tcp.local_addr().map_err(|source| Error::Bind {
        address: listen,
        source,
    })?;
    let mut tasks = JoinSet::new();
    tasks.spawn(datagrams::run(shared.clone(), udp, stop.clone()));
    tasks.spawn(streams::run(shared.clone(), tcp, stop));
    Ok(Relay {
        addr,
        shared,
        tasks,
    })
}

/// Both sockets on one port; with port 0, on any port that is free for both.
async fn bind(listen: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = 0;
    loop {
        let tcp = TcpListener::bind(listen).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(_) if listen.port() == 0 && tries < PORT_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Relay {
    pub fn stats(&self) -> Stats {
        Stats {
            forth: self.shared.lane(Direction::Forth).traffic,
            back: self.shared.lane(Direction::Back).traffic,
        }
    }

    /// Both directions, from the next packet on: `link.cut()` pulls the cable, the old link heals it.
    pub fn set_link(&self, link: Link) -> Result<(), BadLink> {
        self.shared.lane(Direction::Forth).wire.set_link(link)?;
        self.shared.lane(Direction::Back).wire.set_link(link)
    }

    /// Waits for the end of all that `stop` ends: afterwards its port is free.
    pub async fn stopped(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            note_panic(ended);
        }
    }
}

/// What a relay has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// From clients to the target.
    pub forth: Traffic,
    pub back: Traffic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams and segments handed over at the far end, copies included.
    pub packets: u64,
    pub bytes: u64,
    /// Lost by the link: datagrams for ever, segments until TCP's next try.
    pub lost_on_line: u64,
    /// Datagrams that the link's queue had no room for.
    pub lost_in_queue: u64,
    /// Datagrams that our own bounds or the kernel's buffers had no room for.
    pub lost_here: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

struct Lane {
    wire: Wire,
    traffic: Traffic,
}

impl Lane {
    fn new(link: Link, seed: u64) -> Result<Lane, BadLink> {
        Ok(Lane {
            wire: Wire::new(link, seed)?,
            traffic: Traffic::default(),
        })
    }
}

/// What all tasks of one relay share. The locks are held for one decision, never across a wait.
struct Shared {
    target: SocketAddr,
    started: Instant,
    lanes: [Mutex<Lane>; 2],
}

impl Shared {
    fn lane(&self, direction: Direction) -> MutexGuard<'_, Lane> {
        let lane = self.lanes[direction as usize].lock();
        lane.unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Micros {
        Micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn wait_until(&self, at: Micros) {
        tokio::time::sleep_until(self.started + Duration::from_micros(at.0)).await;
    }

    fn offer(&self, direction: Direction, bytes: usize) -> Fate {
        let mut lane = self.lane(direction);
        let fate = lane.wire.offer(self.now(), bytes);
        match fate {
            Fate::Deliver { .. } => {}
            Fate::Drop(Lost::Line) => lane.traffic.lost_on_line += 1,
            Fate::Drop(Lost::Queue) => lane.traffic.lost_in_queue += 1,
        }
        fate
    }

    /// When this piece of a stream arrives. Waits for as long as tries fail: for ever on a cut link.
    async fn offer_segment(&self, direction: Direction, bytes: usize) -> Micros {
        let mut attempt = 0;
        loop {
            let (now, fate) = {
                let mut lane = self.lane(direction);
                let now = self.now();
                let fate = lane.wire.offer_segment(now, bytes, attempt);
                lane.traffic.lost_on_line += u64::from(matches!(fate, Segment::Lost { .. }));
                (now, fate)
            };
            match fate {
                Segment::Arrives { at } => return at.max(now),
                Segment::Wait { until } => self.wait_until(until).await,
                Segment::Lost { again_at } => {
                    attempt += 1;
                    self.wait_until(again_at).await;
                }
            }
        }
    }

    fn handed_over(&self, direction: Direction, bytes: usize) {
        let traffic = &mut self.lane(direction).traffic;
        traffic.packets += 1;
        traffic.bytes += bytes as u64;
    }

    fn no_room(&self, direction: Direction) {
        self.lane(direction).traffic.lost_here += 1;
    }
}

fn note_panic<T>(ended: Result<T, tokio::task::JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) => {
            if error.is_panic() {
                tracing::error!(target: "quorate::testnet", %error, "a task of the relay panicked");
            }
            None
        }
    }
}
