//! Kademlia that dials nobody unless it was asked for somebody. Left to itself it looks around whenever
//! its table grows, and stays connected to all it meets: in a mesh of forty everybody to everybody. And
//! while it dials a node by ways that are shut, nobody else can by those that are not.

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::kad;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::behaviour::DialFailure;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::task::{Context, Poll, ready};

type Kad = kad::Behaviour<MemoryStore>;

pub(super) struct Quiet {
    kad: Kad,
    /// Asked for, and not answered. libp2p ends it after seconds.
    lookup: Option<kad::QueryId>,
}

impl Quiet {
    pub(super) fn new(kad: Kad) -> Quiet {
        Quiet { kad, lookup: None }
    }

    pub(super) fn table(&mut self) -> &mut Kad {
        &mut self.kad
    }

    /// Asks whoever is near for the way to this node, and dials them for it. One at a time.
    pub(super) fn look_up(&mut self, node: PeerId) {
        if self.lookup.is_none() {
            self.lookup = Some(self.kad.get_closest_peers(node));
        }
    }

    /// Told at once, so that a question to this node is given up.
    fn refuse(&mut self, opts: &DialOpts) {
        let failure = DialFailure {
            peer_id: opts.get_peer_id(),
            error: &DialError::Aborted,
            connection_id: opts.connection_id(),
        };
        self.kad.on_swarm_event(FromSwarm::DialFailure(failure));
    }
}

impl NetworkBehaviour for Quiet {
    type ConnectionHandler = THandler<Kad>;
    type ToSwarm = kad::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kad
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.kad
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
        self.kad
            .handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.kad
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let event = ready!(self.kad.poll(cx));
            match &event {
                ToSwarm::Dial { opts } if self.lookup.is_none() => self.refuse(opts),
                ToSwarm::GenerateEvent(kad::Event::OutboundQueryProgressed {
                    id, step, ..
                }) => {
                    self.lookup.take_if(|lookup| lookup == id && step.last);
                    return Poll::Ready(event);
                }
                _ => return Poll::Ready(event),
            }
        }
    }
}
