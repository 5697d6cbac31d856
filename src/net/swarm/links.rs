//! Who is connected, by which connections, and how far away.

use super::handle::Link;
use super::reach::ip_of;
use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use quorate_core::ids::PeerKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

/// Of two connections that do the same, the younger goes after this: by then it is known whether the
/// older one lives, which that of a crashed process does not.
const SURPLUS_AFTER: Duration = Duration::from_secs(6);

/// By then AutoNAT has found out whether the router lets others in: it looks every five seconds.
const SHUT_AFTER: Duration = Duration::from_secs(8);

/// An interval of pings, and the time that an answer may take.
const SILENT_AFTER: Duration = Duration::from_millis(1_500 + 3_000);

/// Connected members, and whether only through a relay. For handles.
#[derive(Clone, Default)]
pub(super) struct Relayed(Arc<RwLock<BTreeMap<PeerKey, bool>>>);

impl Relayed {
    /// None: not connected.
    pub(super) fn of(&self, peer: &PeerKey) -> Option<bool> {
        let all = self.0.read().expect("nobody panics with it");
        all.get(peer).copied()
    }

    fn set(&self, peer: PeerKey, relayed: Option<bool>) {
        let mut all = self.0.write().expect("nobody panics with it");
        match relayed {
            Some(relayed) => all.insert(peer, relayed),
            None => all.remove(&peer),
        };
    }
}

pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) address: Multiaddr,
    pub(super) we_dialled: bool,
    /// Through another node. The address of one that came in does not say so.
    pub(super) is_relayed: bool,
    /// It began when the peer was a member: all protocols are spoken on it.
    pub(super) is_open: bool,
    /// It does not answer, and is being closed.
    is_dead: bool,
    since: Instant,
    /// The last answer to a ping, and how long it took.
    answered: Option<(Instant, Duration)>,
    /// Where its other side sees this node, if that is not where it is: a router lies between.
    translated: Option<IpAddr>,
}

pub(super) struct Peer {
    pub(super) connections: Vec<Connection>,
    pub(super) since: Instant,
    pub(super) heard: Instant,
    /// Questions under way.
    pub(super) flights: usize,
    /// It has answered that this node is known there.
    pub(super) knows_us: bool,
    /// Its records are being read.
    pub(super) is_pulling: bool,
    /// It has told who is there.
    pub(super) knows_adverts: bool,
    pub(super) next_greeting: Option<Instant>,
    pub(super) next_sync: Instant,
    /// Two connections stood at once.
    pub(super) overlapped: bool,
    /// A member, on a connection that began as a stranger's, since then.
    pub(super) stale_since: Option<Instant>,
    /// Everything to it is closed then, and made anew.
    pub(super) renew_at: Option<Instant>,
    /// It carries connections to others.
    pub(super) is_relay: bool,
}

impl Peer {
    fn live(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|c| !c.is_dead)
    }

    pub(super) fn is_open(&self) -> bool {
        self.live().any(|connection| connection.is_open)
    }

    pub(super) fn best(&self) -> Option<(Link, &Connection)> {
        self.live()
            .map(|connection| (link_of(connection), connection))
            .min_by_key(|(link, connection)| (*link, connection.since))
    }

    /// Does it see this node through a router that lets nobody in? `open`: addresses at which others
    /// were seen to come in.
    pub(super) fn sees_a_shut_door(&self, now: Instant, open: &BTreeSet<IpAddr>) -> bool {
        self.live().any(|connection| {
            let shut = connection.translated.filter(|ip| !open.contains(ip));
            shut.is_some() && now.duration_since(connection.since) >= SHUT_AFTER
        })
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        Some(self.best()?.1.answered?.1)
    }
}

fn link_of(connection: &Connection) -> Link {
    if connection.is_relayed {
        Link::Relayed
    } else if connection
        .address
        .iter()
        .any(|part| part == Protocol::QuicV1)
    {
        Link::Quic
    } else {
        Link::Tcp
    }
}

#[derive(Default)]
pub(super) struct Links {
    pub(super) peers: BTreeMap<PeerKey, Peer>,
    pub(super) relayed: Relayed,
}

impl Links {
    /// Is it the peer's first?
    pub(super) fn add(
        &mut self,
        now: Instant,
        key: PeerKey,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        is_open: bool,
    ) -> bool {
        let peer = self.peers.entry(key).or_insert_with(|| Peer {
            connections: vec![],
            since: now,
            heard: now,
            flights: 0,
            knows_us: false,
            is_pulling: false,
            knows_adverts: false,
            next_greeting: None,
            next_sync: now,
            overlapped: false,
            stale_since: None,
            renew_at: None,
            is_relay: false,
        });
        peer.overlapped |= !peer.connections.is_empty();
        peer.connections.push(Connection {
            id,
            address: endpoint.get_remote_address().clone(),
            we_dialled: endpoint.is_dialer(),
            is_relayed: endpoint.is_relayed(),
            is_open,
            is_dead: false,
            since: now,
            answered: None,
            translated: None,
        });
        let is_first = peer.connections.len() == 1;
        self.tell(&key);
        is_first
    }

    /// The connection that is gone; the peer is forgotten with its last one.
    pub(super) fn remove(&mut self, key: &PeerKey, id: ConnectionId) -> Option<Connection> {
        let peer = self.peers.get_mut(key)?;
        let at = peer.connections.iter().position(|c| c.id == id)?;
        let connection = peer.connections.swap_remove(at);
        if peer.connections.is_empty() {
            self.peers.remove(key);
        }
        self.tell(key);
        Some(connection)
    }

    pub(super) fn answered(
        &mut self,
        now: Instant,
        key: &PeerKey,
        id: ConnectionId,
        rtt: Duration,
    ) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.heard = now;
            for connection in peer.connections.iter_mut().filter(|c| c.id == id) {
                connection.answered = Some((now, rtt));
            }
        }
    }

    /// Its other side has said at which address it sees us. Is it a member that came in by itself?
    pub(super) fn seen(
        &mut self,
        key: &PeerKey,
        id: ConnectionId,
        at: &Multiaddr,
        own: &BTreeSet<Multiaddr>,
    ) -> bool {
        let peer = self.peers.get_mut(key);
        let connection = peer.and_then(|peer| peer.connections.iter_mut().find(|c| c.id == id));
        let Some(connection) = connection.filter(|c| !c.is_relayed) else {
            return false;
        };
        let is_ours = own.iter().filter_map(ip_of).any(|ip| Some(ip) == ip_of(at));
        connection.translated = ip_of(at).filter(|_| !is_ours);
        connection.is_open && !connection.we_dialled
    }

    /// A connection that does not answer. Is there still one that does?
    pub(super) fn died(&mut self, key: &PeerKey, id: ConnectionId) -> bool {
        let Some(peer) = self.peers.get_mut(key) else {
            return false;
        };
        for connection in peer.connections.iter_mut().filter(|c| c.id == id) {
            connection.is_dead = true;
        }
        let lives = peer.is_open();
        self.tell(key);
        lives
    }

    /// Connections that have answered pings and do not any more. libp2p itself says so only at the
    /// second one in a row.
    pub(super) fn silent(&self, now: Instant) -> Vec<(PeerKey, ConnectionId)> {
        let is_silent = |connection: &&Connection| {
            let answered = connection.answered.map(|(at, _)| at);
            answered.is_some_and(|at| now.duration_since(at) > SILENT_AFTER)
        };
        let all = self.peers.iter().flat_map(|(key, peer)| {
            let silent = peer.live().filter(is_silent);
            silent.map(|connection| (*key, connection.id))
        });
        all.collect()
    }

    fn tell(&self, key: &PeerKey) {
        let open = self.peers.get(key).filter(|peer| peer.is_open());
        let direct = |peer: &Peer| {
            let mut open = peer.live().filter(|c| c.is_open);
            open.any(|c| !c.is_relayed)
        };
        self.relayed.set(*key, open.map(|peer| !direct(peer)));
    }

    /// Connections that do what another one does. Only one side of a pair decides, so that the two do
    /// not close one each: that with the smaller key.
    pub(super) fn surplus(&self, now: Instant, own: &PeerKey) -> Vec<ConnectionId> {
        let pairs = self.peers.iter().filter(|(key, _)| own < *key);
        let mut surplus = Vec::new();
        for (_, peer) in pairs {
            let mut open: Vec<&Connection> = peer.live().filter(|c| c.is_open).collect();
            open.sort_by_key(|c| (c.is_relayed, c.since));
            let late = open.iter().skip(1);
            let old = late.filter(|c| now.duration_since(c.since) >= SURPLUS_AFTER);
            surplus.extend(old.map(|c| c.id));
        }
        surplus
    }
}
