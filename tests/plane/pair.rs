//! Two nodes, and the ways to put a stream between them.

use crate::served::{NETWORK, Server};
use libp2p_identity::Keypair;
use quorate::expert::ExpertFacts;
use quorate::net::plane::{Plane, Stream};
use quorate::net::remote::{Dial, Remote, RemoteExpert};
use quorate::wire::plane::{Letterhead, Purpose};
use quorate_core::ids::{PeerKey, SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::opinion::{ExpertOp, FromExpert, Open, Query, Scope};
use quorate_core::seeded::Secret;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const ROUTER_KEY: PeerKey = [9; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Quic,
    Memory,
}

pub(crate) struct Pair {
    pub(crate) dial: Dial,
    serving: Mutex<Option<JoinHandle<()>>>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Pair {
    pub(crate) fn new(kind: Kind, server: Server) -> Pair {
        match kind {
            Kind::Quic => Pair::quic(server),
            Kind::Memory => Pair::memory(server),
        }
    }

    fn quic(server: Server) -> Pair {
        let (near, far) = (plane(), plane());
        let peer = far.1;
        let addresses = [far.0.local_addr().unwrap()];
        let serving = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Some(arrival) = far.0.accept().await {
                sessions.spawn(server(key_of(&arrival.peer), arrival.stream));
                while sessions.try_join_next().is_some() {}
            }
        });
        let near = Arc::new(near.0);
        let dial: Dial = Arc::new(move || {
            let near = near.clone();
            Box::pin(async move {
                let connection = near.dial(peer, &addresses).await;
                let connection = connection.map_err(|error| error.to_string())?;
                connection.open().await.map_err(|error| error.to_string())
            })
        });
        Pair {
            dial,
            serving: Mutex::new(Some(serving)),
            tasks: Arc::default(),
        }
    }

    fn memory(server: Server) -> Pair {
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let sessions = tasks.clone();
        let dial: Dial = Arc::new(move || {
            let (near, far) = tokio::io::duplex(64 << 10);
            let mut sessions = sessions.lock().unwrap();
            sessions.spawn(server(ROUTER_KEY, Stream::over(far, false)));
            while sessions.try_join_next().is_some() {}
            Box::pin(std::future::ready(Ok(Stream::over(near, false))))
        });
        Pair {
            dial,
            serving: Mutex::default(),
            tasks,
        }
    }

    /// The serving node dies, with all its connections.
    pub(crate) fn kill_server(&self) {
        if let Some(serving) = self.serving.lock().unwrap().take() {
            serving.abort();
        }
        self.tasks.lock().unwrap().abort_all();
    }

    pub(crate) async fn raw(&self) -> Stream {
        (self.dial)().await.unwrap()
    }

    /// The expert of the other node, as a driver would have it.
    pub(crate) fn expert(
        &self,
        facts: Arc<ExpertFacts>,
    ) -> (Arc<RemoteExpert>, mpsc::Receiver<FromExpert>) {
        let (events_tx, events) = mpsc::channel(64);
        let remote = Remote {
            facts,
            letterhead: watch::channel(letterhead()).1,
            dial: self.dial.clone(),
            patience: Duration::from_secs(10),
        };
        (Arc::new(RemoteExpert::new(remote, events_tx)), events)
    }
}

pub(crate) fn plane() -> (Plane, libp2p_identity::PeerId) {
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    (Plane::bind(keypair, LOOPBACK).unwrap(), peer)
}

/// The raw key in the id of a node.
pub(crate) fn key_of(peer: &libp2p_identity::PeerId) -> PeerKey {
    peer.to_bytes()[6..].try_into().unwrap()
}

pub(crate) fn letterhead() -> Letterhead {
    Letterhead {
        network: NETWORK,
        config: [2; 32],
        governance_head: vec![3; 40],
        halted: false,
        purpose: Purpose::User,
    }
}

pub(crate) fn open(session: SessionId, prompt: &str) -> Open {
    Open {
        session,
        scope: Scope::OWNER,
        prompt: prompt.bytes().map(Token::from).collect(),
        answered: vec![],
        transforms: Transforms::NEUTRAL,
        score: false,
        path: vec![],
    }
}

/// Appends one token at `position`, and asks about the one after it.
pub(crate) fn draft(session: SessionId, position: u32, token: Option<Token>) -> ExpertOp {
    let after = position + u32::from(token.is_some());
    ExpertOp::Draft {
        session,
        epoch: 0,
        position,
        tokens: token.into_iter().collect(),
        queries: vec![Query::perturbed(
            Secret::from_seed(5, 0).key(after),
            1.0 / 16.0,
        )],
    }
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(SOON, future).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}
