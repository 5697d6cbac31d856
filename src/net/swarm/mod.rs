//! The swarm of libp2p: who is there, who belongs, where they are.
//!
//! ```text
//! Handle ──Command──▶ task (owns libp2p's Swarm, the Replica, the Book) ──Event──▶ the node
//!                       ├─ gate       protocols that only members speak
//!                       ├─ links      who is connected, how, and how far away
//!                       ├─ dials      whom to dial next, and when
//!                       ├─ records    signed records: taken, told, passed on
//!                       ├─ adverts    who serves what: ours, and what is heard
//!                       ├─ voices     what nodes say of each other's experts
//!                       ├─ door       invites that are shown here
//!                       ├─ tend       what time brings
//!                       └─ memory     swarms of one process, counted
//! join()                a guest's short visit, before there is a task
//! carry()               a stranger's, who brings a halt
//! ```
//!
//! Decisions are the core's ([`quorate_core::mesh`], [`quorate_core::governance`]); here are sockets,
//! clocks and the node's signature. research/decisions/0008-swarm.md has the protocol.

mod adverts;
mod behaviour;
mod carry;
mod codec;
mod dials;
mod door;
mod gate;
mod handle;
mod join;
mod links;
mod memory;
mod pipe;
mod quiet;
mod reach;
mod records;
mod task;
mod tend;
mod voices;

pub use carry::{CarryError, carry};
pub use gate::Roll;
pub use handle::{Handle, Link, PeerView};
pub use join::{JoinError, Joined, join};
pub use memory::Meter;

use super::plane::Arrival;
use crate::identity::key_of;
use libp2p_identity::{KeyType, Keypair};
use quorate_core::governance::{Author, Record, Replica};
use quorate_core::ids::PeerKey;
use quorate_core::limits::{SWARM_COMMANDS_MAX, SWARM_EVENTS_MAX};
use quorate_core::mesh::{Address, Advert, ExpertRow, Gone, Nonce, Place};
use quorate_core::weights::Gates;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Somewhere to begin. Without the node's key anybody may answer there; he learns which mesh this node
/// belongs to and who admitted it, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub node: Option<PeerKey>,
    pub address: Address,
}

#[derive(Clone)]
pub struct Settings {
    /// Of ed25519: the node's name everywhere.
    pub keypair: Keypair,
    /// QUIC and TCP on one port. Port 0: any; an unspecified ip: every interface.
    pub listen: SocketAddr,
    /// If there are any, only these are told to others. A relay among them is asked for a place.
    pub announce: Vec<Address>,
    /// Where this node's token plane listens, as told to others.
    pub plane: Vec<Place>,
    /// Dialled at the start, and again while nobody is connected.
    pub bootstrap: Vec<Seed>,
    pub mdns: bool,
    /// Carry connections to members that cannot be reached, once this node knows that it can be.
    pub relay: bool,
    /// If there are any, nobody else may connect.
    pub allow: Vec<PeerKey>,
    pub block: Vec<PeerKey>,
    /// Not sockets: the memory of this process, and a count of what passes.
    pub memory: Option<Arc<Meter>>,
    /// Invites that the owner took back: asked at every join.
    pub revoked: Arc<dyn Fn(&Nonce) -> bool + Send + Sync>,
    /// What nodes say of experts. None: this one neither asks nor tells.
    pub gates: Option<Arc<Mutex<Gates>>>,
    /// Seconds since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Settings {
    /// No announced addresses, nobody to begin with, everything that finds others switched on.
    pub fn new(keypair: Keypair, listen: SocketAddr) -> Settings {
        Settings {
            keypair,
            listen,
            announce: vec![],
            plane: vec![],
            bootstrap: vec![],
            mdns: true,
            relay: true,
            allow: vec![],
            block: vec![],
            memory: None,
            revoked: Arc::new(|_| false),
            gates: None,
            clock: Arc::new(unix_s),
        }
    }
}

/// What the machine's clock says.
pub fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What the node should know. When it does not listen for a while, nothing that counts is lost: of
/// every other node the last `Met` or `Lost` waits, no record is taken before there is room to tell
/// of it (the next sync brings it), and streams are refused.
pub enum Event {
    /// Its experts can be asked; again when what it serves, or where, has changed.
    Met(Box<Advert>),
    Lost {
        node: Author,
        why: Gone,
    },
    /// A member opened a stream of the token plane.
    Arrival(Arrival),
    /// News, taken into the replica: to be written down. Not told of what [`Handle::insert`] brought.
    Recorded(Box<Record>),
    /// Two processes live under this key. If it is ours, one of them must stop.
    Twins(Author),
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "SSLKEYLOGFILE is set: keys of every connection would be written to a file; unset it and start again"
    )]
    KeyLog,
    #[error("the node's key is not ed25519")]
    KeyType,
    #[error("cannot listen on {address}: {error}; is another node running? See [mesh] listen")]
    Listen { address: SocketAddr, error: String },
    #[error("the system's resolver cannot be asked: {0}; see /etc/resolv.conf")]
    Dns(std::io::Error),
    #[error("the swarm cannot be built: {0}")]
    Build(String),
}

impl StartError {
    fn build(error: impl std::fmt::Display) -> StartError {
        StartError::Build(error.to_string())
    }
}

/// The key as peers know it. Refuses what would give keys away.
fn checked_key(keypair: &Keypair) -> Result<PeerKey, StartError> {
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        return Err(StartError::KeyLog);
    }
    if keypair.key_type() != KeyType::Ed25519 {
        return Err(StartError::KeyType);
    }
    key_of(&keypair.public().to_peer_id()).ok_or(StartError::KeyType)
}

/// Needs a tokio runtime. `serves`: what this node tells others of its experts. Ends with `stop`,
/// after the node's last word.
pub fn start(
    settings: Settings,
    replica: Replica,
    serves: watch::Receiver<Vec<ExpertRow>>,
    stop: CancellationToken,
) -> Result<(Handle, mpsc::Receiver<Event>), StartError> {
    let own = checked_key(&settings.keypair)?;
    crate::tls::install_provider();
    let (commands_tx, commands) = mpsc::channel(SWARM_COMMANDS_MAX);
    let (events_tx, events) = mpsc::channel(SWARM_EVENTS_MAX);
    let task = task::Task::new(settings, own, replica, events_tx)?;
    let handle = task.handle(commands_tx);
    tokio::spawn(Box::pin(task.run(commands, serves, stop)));
    Ok((handle, events))
}
