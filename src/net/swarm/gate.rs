//! Protocols among members. On a connection that began as a stranger's they do not exist: no gossip,
//! no addresses, no streams. Who becomes a member connects anew.

use super::reach::is_relayed;
use crate::identity::key_of;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::derive_prelude::{AddressChange, ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use quorate_core::ids::PeerKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};

/// Who is a member now. The swarm's task writes it, whoever asks reads it.
#[derive(Clone, Default)]
pub struct Roll(Arc<RwLock<BTreeSet<PeerKey>>>);

impl Roll {
    pub fn contains(&self, key: &PeerKey) -> bool {
        let members = self.0.read().expect("nobody panics with it");
        members.contains(key)
    }

    /// Has it changed?
    pub(super) fn set<'a, I>(&self, members: impl Fn() -> I) -> bool
    where
        I: Iterator<Item = &'a PeerKey>,
    {
        let mut known = self.0.write().expect("nobody panics with it");
        let changed = !known.iter().eq(members());
        if changed {
            *known = members().copied().collect();
        }
        changed
    }
}

/// Which connections a behaviour knows.
pub(super) enum Opens {
    /// Those that begin when the peer is a member.
    ToMembers(Roll),
    /// Those that are not relayed. The relay of libp2p 0.57 would send a word to the handler of a relayed
    /// connection that panics there.
    Directly,
}

pub(super) struct Gate<B> {
    inner: Toggle<B>,
    /// Gives the handlers that do nothing.
    shut: Toggle<B>,
    opens: Opens,
    /// The connections that the inner behaviour knows.
    open: BTreeMap<ConnectionId, PeerId>,
}

impl<B: NetworkBehaviour> Gate<B> {
    pub(super) fn new(inner: B, opens: Opens) -> Gate<B> {
        Gate {
            inner: Toggle::from(Some(inner)),
            shut: Toggle::from(None),
            opens,
            open: BTreeMap::new(),
        }
    }

    pub(super) fn is_open(&self, connection: ConnectionId) -> bool {
        self.open.contains_key(&connection)
    }

    pub(super) fn look(&self) -> &B {
        self.inner.as_ref().expect("it is made with one")
    }

    pub(super) fn inner(&mut self) -> &mut B {
        self.inner.as_mut().expect("it is made with one")
    }

    fn opens(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        match &self.opens {
            Opens::ToMembers(roll) => key_of(peer).is_some_and(|key| roll.contains(&key)),
            Opens::Directly => !is_relayed(address),
        }
    }

    fn others(&self, peer: &PeerId) -> usize {
        self.open.values().filter(|p| *p == peer).count()
    }

    fn door(&mut self, connection: ConnectionId, peer: PeerId, at: &Multiaddr) -> &mut Toggle<B> {
        if self.opens(&peer, at) {
            self.open.insert(connection, peer);
            &mut self.inner
        } else {
            &mut self.shut
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = THandler<Toggle<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let door = self.door(id, peer, local);
        door.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let door = self.door(id, peer, address);
        door.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                if self.is_open(event.connection_id) {
                    let other_established = self.others(&event.peer_id) - 1;
                    let event = ConnectionEstablished {
                        other_established,
                        ..event
                    };
                    self.inner
                        .on_swarm_event(FromSwarm::ConnectionEstablished(event));
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                if self.open.remove(&event.connection_id).is_some() {
                    let remaining_established = self.others(&event.peer_id);
                    let event = ConnectionClosed {
                        remaining_established,
                        ..event
                    };
                    self.inner
                        .on_swarm_event(FromSwarm::ConnectionClosed(event));
                }
            }
            FromSwarm::AddressChange(AddressChange { connection_id, .. })
                if !self.is_open(connection_id) => {}
            FromSwarm::DialFailure(event) => {
                // Another behaviour refused what this one had let in.
                self.open.remove(&event.connection_id);
                self.inner.on_swarm_event(FromSwarm::DialFailure(event));
            }
            FromSwarm::ListenFailure(event) => {
                self.open.remove(&event.connection_id);
                self.inner.on_swarm_event(FromSwarm::ListenFailure(event));
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let event = std::task::ready!(self.inner.poll(cx));
            let ToSwarm::NotifyHandler {
                peer_id,
                handler,
                event,
            } = event
            else {
                return Poll::Ready(event);
            };
            // "Any" connection of the peer must be one that has the protocols.
            let open = match handler {
                NotifyHandler::One(id) => self.is_open(id).then_some(id),
                NotifyHandler::Any => {
                    let found = self.open.iter().find(|(_, peer)| **peer == peer_id);
                    found.map(|(id, _)| *id)
                }
            };
            if let Some(id) = open {
                return Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::One(id),
                    event,
                });
            }
        }
    }
}
