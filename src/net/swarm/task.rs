//! The one task: what arrives is handled to its end before the next thing is looked at. Nothing here
//! waits for the node or for a peer.

use super::behaviour::{
    Behaviour, BehaviourEvent, FAMILY, InsideEvent, PLANE, Wishes, swarm as build,
};
use super::carry::Carriers;
use super::dials::{Dials, dial};
use super::gate::Roll;
use super::handle::{Command, Handle, PeerView};
use super::links::Links;
use super::pipe::Pipe;
use super::reach::{announced, free_port, is_relayed, listen_addresses, multiaddr_of};
use super::records::Flight;
use super::{Event, Settings, StartError};
use crate::identity::{key_of, peer_of};
use crate::net::plane::{Arrival, Stream};
use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, autonat, identify, kad, mdns, ping, relay};
use libp2p_stream::IncomingStreams;
use quorate_core::governance::{Author, Replica};
use quorate_core::ids::{Micros, NetworkId, PeerKey};
use quorate_core::limits::{
    LEAVE_MS_MAX, PLANE_ARRIVALS_MAX, STRANGERS_MAX, SYNC_ADVERTS_EVERY_US,
};
use quorate_core::mesh::{Address, Advert, Book, ExpertRow, Input, Moment, canonical};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

const TICK: Duration = Duration::from_millis(250);

pub(super) struct Task {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) settings: Settings,
    pub(super) own: PeerKey,
    pub(super) network: NetworkId,
    /// Drawn now: twins differ in it.
    pub(super) instance: u64,
    pub(super) started: Instant,
    pub(super) replica: Replica,
    pub(super) book: Book,
    pub(super) roll: Roll,
    pub(super) links: Links,
    pub(super) dials: Dials,
    pub(super) flights: BTreeMap<OutboundRequestId, (PeerKey, Flight)>,
    /// Our last word.
    pub(super) advert: Option<Advert>,
    pub(super) serves: Vec<ExpertRow>,
    pub(super) advertise_at: Instant,
    /// The next one answers words of this node's key that are not of this life.
    pub(super) is_echo: bool,
    pub(super) echoed: Option<Instant>,
    /// When a neighbour is asked again who is there.
    pub(super) compare_at: Instant,
    /// When something was last heard of a node that is not connected.
    pub(super) heard: BTreeMap<Author, Instant>,
    /// When connections to a node that had begun a new life were made anew.
    pub(super) renewed: BTreeMap<Author, Instant>,
    pub(super) events: mpsc::Sender<Event>,
    /// What the node has not taken yet: of every node the last.
    pub(super) owed: BTreeMap<(bool, Author), Event>,
    pub(super) listens: BTreeSet<Multiaddr>,
    /// Since then others have tried to reach us, and could not.
    pub(super) hidden_since: Option<Instant>,
    /// Reservations, asked for or held.
    pub(super) relays: Vec<(ListenerId, PeerKey)>,
    /// Members, in the order in which this node dials them.
    pub(super) order: Vec<PeerKey>,
    pub(super) dialling: usize,
    pub(super) carriers: Carriers,
    pub(super) ticked: Instant,
}

impl Task {
    pub(super) fn new(
        settings: Settings,
        own: PeerKey,
        replica: Replica,
        events: mpsc::Sender<Event>,
    ) -> Result<Task, StartError> {
        let network = replica.genesis().network_id();
        let roll = Roll::default();
        let mut swarm = build(
            &settings.keypair,
            &Wishes {
                network,
                roll: roll.clone(),
                mdns: settings.mdns,
                relay: settings.relay,
                allow: &settings.allow,
                block: &settings.block,
                memory: settings.memory.as_ref(),
            },
        )?;
        let mut at = settings.listen;
        let refused = |error: String| StartError::Listen {
            address: settings.listen,
            error,
        };
        if at.port() == 0 {
            let port = free_port(at.ip()).map_err(|error| refused(error.to_string()))?;
            at.set_port(port);
        }
        for address in listen_addresses(at) {
            let listening = swarm.listen_on(address);
            listening.map_err(|error| refused(error.to_string()))?;
        }
        let now = Instant::now();
        let instance = getrandom::u64().map_err(StartError::build)?;
        let mut task = Task {
            swarm,
            own,
            network,
            instance,
            started: now,
            book: Book::new(network, own, instance),
            replica,
            roll,
            links: Links::default(),
            dials: Dials::new(now, settings.bootstrap.clone()),
            settings,
            flights: BTreeMap::new(),
            advert: None,
            serves: vec![],
            advertise_at: now,
            is_echo: false,
            echoed: None,
            compare_at: now + Duration::from_micros(SYNC_ADVERTS_EVERY_US),
            heard: BTreeMap::new(),
            renewed: BTreeMap::new(),
            events,
            owed: BTreeMap::new(),
            listens: BTreeSet::new(),
            hidden_since: None,
            relays: vec![],
            order: vec![],
            dialling: 0,
            carriers: Carriers::new(now),
            ticked: now,
        };
        task.recount();
        Ok(task)
    }

    pub(super) fn handle(&self, commands: mpsc::Sender<Command>) -> Handle {
        let inside = self.swarm.behaviour();
        Handle {
            commands,
            control: inside.members.control(),
            roll: self.roll.clone(),
            relayed: self.links.relayed.clone(),
        }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment {
            up: Micros(self.started.elapsed().as_micros() as u64),
            unix_s: self.unix_s(),
        }
    }

    pub(super) fn unix_s(&self) -> u64 {
        (self.settings.clock)()
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut serves: watch::Receiver<Vec<ExpertRow>>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arrivals = self.arrivals();
        self.serves = serves.borrow_and_update().clone();
        let mut is_served = true;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.tick(),
                Some(command) = commands.recv() => self.command(command),
                changed = serves.changed(), if is_served => {
                    is_served = changed.is_ok();
                    self.serves = serves.borrow_and_update().clone();
                    self.advertise_at = Instant::now();
                }
                Some((peer, stream)) = arrivals.recv() => self.arrival(peer, stream),
                event = self.swarm.select_next_some() => self.event(event),
            }
            self.settle_events();
        }
        Box::pin(self.leave()).await;
    }

    /// Streams are taken from libp2p at once, which keeps room for one.
    fn arrivals(&mut self) -> mpsc::Receiver<(PeerId, libp2p::Stream)> {
        let (arrivals_tx, arrivals) = mpsc::channel(PLANE_ARRIVALS_MAX);
        let mut control = self.swarm.behaviour().members.control();
        let incoming: IncomingStreams = control
            .accept(PLANE)
            .expect("nobody else accepts this protocol");
        tokio::spawn(async move {
            let mut incoming = incoming;
            while let Some(arrival) = incoming.next().await {
                if arrivals_tx.send(arrival).await.is_err() {
                    return;
                }
            }
        });
        arrivals
    }

    fn arrival(&mut self, peer: PeerId, stream: libp2p::Stream) {
        // Dropping the stream says no.
        let Some(key) = key_of(&peer).filter(|key| self.book.is_member(key)) else {
            return;
        };
        let relayed = self.links.relayed.of(&key).unwrap_or(true);
        let stream = Stream::over(Pipe(stream), relayed);
        let path = stream.route.path;
        let arrival = Arrival { peer, path, stream };
        if self.events.try_send(Event::Arrival(arrival)).is_err() {
            tracing::debug!(target: "quorate::swarm", %peer, "a stream is refused: the node is busy");
        }
    }

    fn command(&mut self, command: Command) {
        // Who does not wait for the answer any more needs none.
        match command {
            Command::Insert(record, answer) => {
                let taken = self.insert(*record);
                answer.send(taken).ok();
            }
            Command::Peers(answer) => {
                answer.send(self.peers()).ok();
            }
            Command::Addresses(answer) => {
                answer.send(self.addresses()).ok();
            }
            Command::Routes(answer) => {
                answer.send(self.routes()).ok();
            }
            Command::Want(member) if self.book.is_member(&member) => {
                self.dials.want(Instant::now(), member);
            }
            Command::Want(_) => {}
        }
    }

    fn peers(&self) -> Vec<PeerView> {
        let adverts: BTreeMap<PeerKey, &Advert> = self
            .book
            .adverts(self.moment().up)
            .map(|(advert, _)| (advert.node, advert))
            .collect();
        let here: BTreeSet<&PeerKey> = self.book.here().map(|advert| &advert.node).collect();
        let connected = self.links.peers.keys();
        let all: BTreeSet<&PeerKey> = connected.chain(adverts.keys()).collect();
        let view = |key: &PeerKey| {
            let peer = self.links.peers.get(key);
            let best = peer.and_then(|peer| peer.best());
            let heard = [peer.map(|peer| peer.heard), self.heard.get(key).copied()];
            PeerView {
                key: *key,
                is_member: self.book.is_member(key),
                is_here: here.contains(key),
                link: best.map(|(link, _)| link),
                address: best.map(|(_, connection)| connection.address.to_string()),
                rtt: peer.and_then(|peer| peer.rtt()),
                advert: adverts.get(key).map(|advert| (*advert).clone()),
                heard: heard.into_iter().flatten().max().map(|at| at.elapsed()),
            }
        };
        all.into_iter().map(view).collect()
    }

    pub(super) fn addresses(&self) -> Vec<Address> {
        if !self.settings.announce.is_empty() {
            return canonical(self.settings.announce.clone());
        }
        announced(self.listens.iter(), self.swarm.external_addresses())
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.dialling -= usize::from(endpoint.is_dialer()).min(self.dialling);
                self.connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => self.disconnected(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                self.dialling = self.dialling.saturating_sub(1);
                tracing::debug!(target: "quorate::swarm", ?peer_id, %error, "no way to a node");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::debug!(target: "quorate::swarm", %address, "listening");
                self.listens.insert(address);
                self.advertise_soon();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.not_at(&[address]),
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                ..
            } => {
                self.relays.retain(|(id, _)| *id != listener_id);
                self.not_at(&addresses);
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                tracing::debug!(target: "quorate::swarm", %address, "others reach this node here");
                if !is_relayed(&address) {
                    self.hidden_since = None;
                }
                self.advertise_soon();
            }
            SwarmEvent::ExternalAddrExpired { .. } => self.advertise_soon(),
            _ => {}
        }
    }

    fn not_at(&mut self, addresses: &[Multiaddr]) {
        for address in addresses {
            self.listens.remove(address);
        }
        self.advertise_soon();
    }

    fn advertise_soon(&mut self) {
        let soon = Instant::now() + TICK;
        self.advertise_at = self.advertise_at.min(soon);
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }) => self.identified(peer_id, connection_id, &info),
            BehaviourEvent::Ping(event) => self.pinged(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.found(found),
            BehaviourEvent::Join(event) => self.at_the_door(event),
            BehaviourEvent::Sync(event) => self.synced(event),
            BehaviourEvent::Members(InsideEvent::Gossip(event)) => self.gossip(event),
            BehaviourEvent::Members(InsideEvent::Kad(event)) => self.looked_up(event),
            BehaviourEvent::Members(InsideEvent::Autonat(event)) => self.tested(&event),
            _ => {}
        }
    }

    fn connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(key) = key_of(&peer) else {
            self.swarm.close_connection(id); // a key of another kind is no node of ours
            return;
        };
        let now = Instant::now();
        let is_open = self.swarm.behaviour().members.is_open(id);
        let is_member = self.book.is_member(&key);
        if !is_member && self.strangers() >= STRANGERS_MAX {
            self.swarm.close_connection(id);
            return;
        }
        self.links.add(now, key, id, endpoint, is_open);
        if is_open {
            self.input(Input::Linked(key));
        }
        // Who dials shows who he is; a stranger at the door is told nothing.
        let knows_us = self.links.peers.get(&key).is_some_and(|peer| peer.knows_us);
        if !knows_us && (is_open || endpoint.is_dialer()) {
            self.greet(&key);
        }
    }

    fn strangers(&self) -> usize {
        let peers = self.links.peers.keys();
        peers.filter(|key| !self.book.is_member(key)).count()
    }

    fn disconnected(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(key) = key_of(&peer) else {
            return;
        };
        let Some(connection) = self.links.remove(&key, id) else {
            return;
        };
        let stays = self
            .links
            .peers
            .get(&key)
            .is_some_and(|peer| peer.is_open());
        if connection.is_open && !stays {
            self.input(Input::Silent(key));
        }
        if self.book.is_member(&key) && connection.we_dialled && !connection.is_relayed {
            self.dials.hint(key, connection.address);
        }
        if !self.links.peers.values().any(|peer| peer.is_open()) {
            self.dials.forgive_seeds(Instant::now());
        }
    }

    fn identified(&mut self, peer: PeerId, id: ConnectionId, info: &identify::Info) {
        if info.protocol_version != FAMILY {
            // It may be gone already.
            self.swarm.disconnect_peer_id(peer).ok();
            return;
        }
        let Some(key) = key_of(&peer) else {
            return;
        };
        if let Some(peer) = self.links.peers.get_mut(&key) {
            peer.is_relay = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        }
        let at = &info.observed_addr;
        if self.links.seen(&key, id, at, &self.listens) {
            self.came_in(at);
        }
    }

    /// A member has found the way to this node by itself. AutoNAT asks only those that we have dialled,
    /// and nobody can dial members that are all behind routers: to them this node would be no relay.
    fn came_in(&mut self, at: &Multiaddr) {
        let announced = self.settings.announce.iter().filter(|a| a.relay.is_none());
        let mut doors: Vec<Multiaddr> = announced.filter_map(|a| multiaddr_of(a, None)).collect();
        // On its word alone only where we know ourselves to be.
        if self.settings.announce.is_empty() && self.listens.contains(at) {
            doors.push(at.clone());
        }
        for door in doors {
            if !self.swarm.external_addresses().any(|known| *known == door) {
                tracing::debug!(target: "quorate::swarm", address = %door, "a member came in here");
                self.swarm.add_external_address(door);
                self.hidden_since = None;
                self.advertise_soon();
            }
        }
    }

    fn pinged(&mut self, event: ping::Event) {
        let ping::Event {
            peer,
            connection,
            result,
        } = event;
        let Some(key) = key_of(&peer) else {
            return;
        };
        match result {
            Ok(rtt) => self.links.answered(Instant::now(), &key, connection, rtt),
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                tracing::debug!(target: "quorate::swarm", %peer, %error, "no answer to a ping");
                self.lose(key, connection);
            }
        }
    }

    /// To close takes as long as the other side likes; it is lost now.
    pub(super) fn lose(&mut self, key: PeerKey, connection: ConnectionId) {
        if !self.links.died(&key, connection) {
            self.input(Input::Silent(key));
        }
        self.swarm.close_connection(connection);
    }

    fn found(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let now = Instant::now();
        let mut ways: BTreeMap<PeerKey, Vec<Multiaddr>> = BTreeMap::new();
        for (peer, address) in found {
            if let Some(key) = key_of(&peer).filter(|key| *key != self.own) {
                ways.entry(key).or_default().push(address);
            }
        }
        for (key, ways) in ways {
            tracing::debug!(target: "quorate::swarm", peer = %peer_of(&key), "found on this network");
            if self.book.is_member(&key) {
                ways.iter()
                    .for_each(|way| self.dials.hint(key, way.clone()));
            }
            let is_new = !self.links.peers.contains_key(&key);
            if is_new && self.dials.may_try_stranger(now, key) {
                self.dial(dial(&key, ways));
            }
        }
    }

    fn looked_up(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            result: kad::QueryResult::GetClosestPeers(Ok(closest)),
            ..
        } = event
        else {
            return;
        };
        for kad::PeerInfo { peer_id, addrs } in closest.peers {
            if let Some(key) = key_of(&peer_id).filter(|key| self.book.is_member(key)) {
                addrs.into_iter().for_each(|way| self.dials.hint(key, way));
            }
        }
    }

    fn tested(&mut self, event: &autonat::v2::client::Event) {
        if event.result.is_err() && self.swarm.external_addresses().next().is_none() {
            self.hidden_since.get_or_insert_with(Instant::now);
        }
    }

    /// Does it dial? Not who is connected already, or is being dialled.
    pub(super) fn dial(&mut self, opts: libp2p::swarm::dial_opts::DialOpts) -> bool {
        let begun = self.swarm.dial(opts).is_ok();
        self.dialling += usize::from(begun);
        begun
    }

    /// The last word, to everybody that is connected; then connections are closed, not broken.
    async fn leave(mut self) {
        self.advertise(true);
        let until = Instant::now() + Duration::from_millis(LEAVE_MS_MAX);
        let end = sleep_until(until.into());
        tokio::pin!(end);
        while !self.flights.is_empty() {
            tokio::select! {
                () = &mut end => break,
                event = self.swarm.select_next_some() => self.event(event),
            }
        }
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            self.swarm.disconnect_peer_id(peer).ok();
        }
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                () = &mut end => break,
                event = self.swarm.select_next_some() => self.event(event),
            }
        }
    }
}
