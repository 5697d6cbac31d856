//! Direct QUIC between two nodes, on a port of its own.
//!
//! ```text
//! Plane ── endpoint task ── one task for each accepted connection ──Arrival──▶ accept()
//!   └──── dial() ──▶ PlaneConnection, one for each peer while somebody holds it ──▶ open()
//! ```
//!
//! A connection stands while it has a session: keep-alives would tell a quiet network who talks to
//! whom. Streams are opened by the side that dialled, and only by that one.

mod stream;
mod tls;

pub use stream::{Path, Route, Stream};
pub use tls::NoTls;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p_identity::{KeyType, Keypair, PeerId};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, TransportConfig, VarInt};
use quorate_core::limits::{
    PLANE_ADDRESSES_MAX, PLANE_ARRIVALS_MAX, PLANE_CONNECTIONS_MAX, PLANE_CONNECTIONS_PER_PEER_MAX,
    PLANE_DIAL_MS_MAX, PLANE_STREAMS_MAX, PLANE_UNUSED_MS,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// A peer that died is noticed within `IDLE_MAX`, so a quiet connection speaks up three times in it.
const KEEP_ALIVE: Duration = Duration::from_millis(1_500);
const IDLE_MAX: Duration = Duration::from_secs(5);
const DIAL_MAX: Duration = Duration::from_millis(PLANE_DIAL_MS_MAX);
/// Unread bytes that we keep for one stream, and for all of one connection. The longest prompt takes
/// a few round trips; 256 connections of strangers take 256 MiB at most.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Unacknowledged bytes that we keep for one connection.
const SEND_WINDOW: u64 = 2 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "SSLKEYLOGFILE is set: keys of every connection would be written to a file; unset it and start again"
    )]
    KeyLog,
    #[error("the node's key is not ed25519")]
    KeyType,
    #[error(transparent)]
    Tls(#[from] NoTls),
    #[error("cannot bind UDP {address}: {error}")]
    Socket {
        address: SocketAddr,
        error: std::io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no address of the peer is known")]
    NoAddress,
    #[error("{PLANE_CONNECTIONS_MAX} direct connections stand already")]
    TooMany,
    #[error("no address answered within {DIAL_MAX:?}")]
    Timeout,
    #[error("no address leads to the peer; the last one: {0}")]
    Failed(String),
    #[error(transparent)]
    Tls(#[from] NoTls),
    #[error("the connection is gone: {0}")]
    Lost(#[from] ConnectionError),
}

/// Somebody opened a stream.
pub struct Arrival {
    pub peer: PeerId,
    pub path: Path,
    pub stream: Stream,
}

/// A place for a connection to one peer; its lock is held while it is dialled.
type Slot = Arc<tokio::sync::Mutex<Weak<Standing>>>;

pub struct Plane {
    endpoint: Endpoint,
    keypair: Keypair,
    dialled: Mutex<BTreeMap<PeerId, Slot>>,
    arrivals: tokio::sync::Mutex<mpsc::Receiver<Arrival>>,
    _listener: AbortOnDropHandle<()>,
}

impl Plane {
    /// Needs a tokio runtime.
    pub fn bind(keypair: Keypair, address: SocketAddr) -> Result<Plane, BindError> {
        if std::env::var_os("SSLKEYLOGFILE").is_some() {
            return Err(BindError::KeyLog);
        }
        if keypair.key_type() != KeyType::Ed25519 {
            return Err(BindError::KeyType);
        }
        crate::tls::install_provider();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls::server(&keypair)?));
        config.transport_config(Arc::new(transport(PLANE_STREAMS_MAX)));
        // A path is shown to people: a connection that moves is made anew.
        config.migration(false);
        config.max_incoming(PLANE_CONNECTIONS_MAX);
        let bound = Endpoint::server(config, address);
        let endpoint = bound.map_err(|error| BindError::Socket { address, error })?;
        let (arrivals_tx, arrivals) = mpsc::channel(PLANE_ARRIVALS_MAX);
        let listener = tokio::spawn(listen(endpoint.clone(), arrivals_tx));
        Ok(Plane {
            endpoint,
            keypair,
            dialled: Mutex::default(),
            arrivals: tokio::sync::Mutex::new(arrivals),
            _listener: AbortOnDropHandle::new(listener),
        })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next stream that a peer opened; None when the endpoint is gone.
    pub async fn accept(&self) -> Option<Arrival> {
        self.arrivals.lock().await.recv().await
    }

    /// The connection to this peer, whose key is checked. Dialled once however many ask.
    pub async fn dial(
        &self,
        peer: PeerId,
        addresses: &[SocketAddr],
    ) -> Result<PlaneConnection, DialError> {
        let slot = self.slot(peer)?;
        let mut known = slot.lock().await;
        if let Some(standing) = known.upgrade()
            && standing.quic.close_reason().is_none()
        {
            return Ok(PlaneConnection(standing));
        }
        let dialled = timeout(DIAL_MAX, self.race(peer, addresses)).await;
        let connection = dialled.map_err(|_| DialError::Timeout)??;
        *known = Arc::downgrade(&connection.0);
        Ok(connection)
    }

    fn slot(&self, peer: PeerId) -> Result<Slot, DialError> {
        let mut dialled = self.dialled.lock().expect("nobody panics with it");
        if !dialled.contains_key(&peer) && dialled.len() >= PLANE_CONNECTIONS_MAX {
            // Somebody else's clone is somebody who dials.
            dialled.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot.try_lock().is_ok_and(|known| known.strong_count() > 0)
            });
            if dialled.len() >= PLANE_CONNECTIONS_MAX {
                return Err(DialError::TooMany);
            }
        }
        Ok(dialled.entry(peer).or_default().clone())
    }

    /// All addresses at once: the first that leads to the peer wins.
    async fn race(
        &self,
        peer: PeerId,
        addresses: &[SocketAddr],
    ) -> Result<PlaneConnection, DialError> {
        let mut config = quinn::ClientConfig::new(Arc::new(tls::client(&self.keypair, peer)?));
        config.transport_config(Arc::new(transport(0)));
        let mut tries = FuturesUnordered::new();
        let mut failed = DialError::NoAddress;
        for address in addresses.iter().take(PLANE_ADDRESSES_MAX) {
            let name = tls::SERVER_NAME;
            match self.endpoint.connect_with(config.clone(), *address, name) {
                Ok(connecting) => tries.push(connecting),
                Err(error) => failed = DialError::Failed(format!("{address}: {error}")),
            }
        }
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(quic) => return Ok(PlaneConnection::new(quic)),
                Err(error) => failed = DialError::Failed(error.to_string()),
            }
        }
        Err(failed)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.endpoint
            .close(VarInt::from_u32(0), b"the node is gone");
    }
}

/// Closed when the last holder lets go.
struct Standing {
    quic: Connection,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.quic.close(VarInt::from_u32(0), b"no session");
    }
}

/// A direct connection. It stands while anybody holds it, or a stream or route of it.
#[derive(Clone)]
pub struct PlaneConnection(Arc<Standing>);

impl PlaneConnection {
    fn new(quic: Connection) -> PlaneConnection {
        PlaneConnection(Arc::new(Standing { quic }))
    }

    pub async fn open(&self) -> Result<Stream, DialError> {
        let (writer, reader) = self.0.quic.open_bi().await?;
        Ok(Stream::direct(self.clone(), writer, reader))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.quic.remote_address()
    }

    pub fn rtt(&self) -> Duration {
        self.0.quic.rtt()
    }
}

fn transport(streams: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_MAX.try_into().expect("5 s are a varint")))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .allow_spin(false);
    transport
}

/// How many connections each peer has; a peer with none is not in it.
type Counts = Arc<Mutex<BTreeMap<PeerId, usize>>>;

async fn listen(endpoint: Endpoint, arrivals: mpsc::Sender<Arrival>) {
    let counts = Counts::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                None => return,
                Some(incoming) if endpoint.open_connections() >= PLANE_CONNECTIONS_MAX => {
                    incoming.refuse();
                }
                // Half full: whoever comes now must show that it is where it says it is.
                Some(incoming)
                    if endpoint.open_connections() >= PLANE_CONNECTIONS_MAX / 2
                        && incoming.may_retry()
                        && !incoming.remote_address_validated() =>
                {
                    // A retry that cannot be sent is a connection that is not made.
                    incoming.retry().ok();
                }
                Some(incoming) => {
                    connections.spawn(welcome(incoming, counts.clone(), arrivals.clone()));
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn welcome(incoming: Incoming, counts: Counts, arrivals: mpsc::Sender<Arrival>) {
    let address = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else {
        return; // it left
    };
    let quic = match timeout(DIAL_MAX, connecting).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            tracing::debug!(target: "quorate::plane", %address, %error, "no handshake");
            return;
        }
        Err(_) => return,
    };
    let Some(peer) = tls::peer_of(&quic) else {
        return; // the handshake has checked it, so this is our own fault; dropping closes
    };
    let Some(_counted) = Counted::one_more(&counts, peer) else {
        quic.close(VarInt::from_u32(1), b"too many connections");
        return;
    };
    take_streams(peer, &PlaneConnection::new(quic), &arrivals).await;
}

async fn take_streams(
    peer: PeerId,
    connection: &PlaneConnection,
    arrivals: &mpsc::Sender<Arrival>,
) {
    loop {
        tokio::select! {
            opened = connection.0.quic.accept_bi() => {
                let Ok((writer, reader)) = opened else {
                    return; // closed or lost
                };
                let stream = Stream::direct(connection.clone(), writer, reader);
                let path = stream.route.path;
                if arrivals.send(Arrival { peer, path, stream }).await.is_err() {
                    return; // nobody serves here any more
                }
            }
            () = sleep(Duration::from_millis(PLANE_UNUSED_MS)) => {
                if Arc::strong_count(&connection.0) == 1 {
                    return; // no session: closed
                }
            }
        }
    }
}

struct Counted {
    counts: Counts,
    peer: PeerId,
}

impl Counted {
    /// None if the peer has enough of them.
    fn one_more(counts: &Counts, peer: PeerId) -> Option<Counted> {
        let mut all = counts.lock().expect("nobody panics with it");
        let count = all.entry(peer).or_default();
        (*count < PLANE_CONNECTIONS_PER_PEER_MAX).then(|| {
            *count += 1;
            Counted {
                counts: counts.clone(),
                peer,
            }
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.counts.lock().expect("nobody panics with it");
        if let Some(count) = all.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.peer);
            }
        }
    }
}
