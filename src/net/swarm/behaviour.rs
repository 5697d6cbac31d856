//! Which protocols of libp2p are spoken, with whom, and how much of each.

use super::StartError;
use super::codec::Bytes;
use super::gate::{Gate, Opens, Roll};
use super::memory::{self, Meter};
use super::quiet::Quiet;
use crate::identity::{key_of, peer_of};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, allow_block_list, autonat,
    connection_limits, dcutr, gossipsub, identify, kad, mdns, memory_connection_limits, noise,
    ping, quic, relay, request_response, tcp, yamux,
};
use libp2p_identity::Keypair;
use quorate_core::ids::{NetworkId, PeerKey};
use quorate_core::limits::{
    GOSSIP_BYTES_MAX, INVITE_BYTES_MAX, JOIN_MS_MAX, RELAY_CIRCUIT_BYTES_MAX, RELAY_CIRCUITS_MAX,
    RELAY_CIRCUITS_PER_PEER_MAX, SWARM_CONNECTIONS_MAX, SWARM_CONNECTIONS_PER_PEER_MAX,
    SWARM_DIALS_MAX, SWARM_PENDING_MAX, SYNC_BYTES_MAX, SYNC_FLIGHTS_MAX, SYNC_MS_MAX,
    WELCOME_BYTES_MAX,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const JOIN: StreamProtocol = StreamProtocol::new("/quorate/join/1");
const SYNC: StreamProtocol = StreamProtocol::new("/quorate/sync/1");
const KAD: StreamProtocol = StreamProtocol::new("/quorate/kad/1");
pub(super) const PLANE: StreamProtocol = StreamProtocol::new("/quorate/plane/1");
/// What identify says: other programs leave at once.
pub(super) const FAMILY: &str = "quorate/1";

/// A crash is noticed within their sum.
const PING_EVERY: Duration = Duration::from_millis(1_500);
const PING_MAX: Duration = Duration::from_secs(3);
/// Of the hash of an advert, as neighbours name it to each other.
const NAME_BYTES: usize = 16;
/// Share of the machine's memory beyond which no connection is taken: models need the rest.
const MEMORY_SHARE_MAX: f64 = 0.9;

pub(super) type Gossip =
    gossipsub::Behaviour<gossipsub::IdentityTransform, gossipsub::WhitelistSubscriptionFilter>;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // These come first: they refuse.
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    allowed: Toggle<allow_block_list::Behaviour<allow_block_list::AllowedPeers>>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    relay: Toggle<Gate<relay::Behaviour>>,
    relay_client: relay::client::Behaviour,
    pub(super) join: request_response::Behaviour<Bytes>,
    pub(super) sync: request_response::Behaviour<Bytes>,
    pub(super) members: Gate<Inside>,
}

/// What members alone speak.
#[derive(NetworkBehaviour)]
pub(super) struct Inside {
    pub(super) gossip: Gossip,
    pub(super) kad: Quiet,
    pub(super) streams: libp2p_stream::Behaviour,
    dcutr: dcutr::Behaviour,
    autonat: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
}

pub(super) struct Wishes<'a> {
    pub(super) network: NetworkId,
    pub(super) roll: Roll,
    pub(super) mdns: bool,
    pub(super) relay: bool,
    pub(super) allow: &'a [PeerKey],
    pub(super) block: &'a [PeerKey],
    /// Not sockets.
    pub(super) memory: Option<&'a Arc<Meter>>,
}

/// It is in every message, and need not tell all meshes apart: only members of one hear each other.
pub(super) fn topic(network: NetworkId) -> gossipsub::IdentTopic {
    let name = network.to_string();
    gossipsub::IdentTopic::new(format!("adverts/{name:.8}"))
}

/// The whole stack of transports has no name that can be written.
macro_rules! transports {
    ($keypair:expr) => {{
        let tcp = tcp::Config::default().nodelay(true);
        SwarmBuilder::with_existing_identity($keypair.clone())
            .with_tokio()
            .with_tcp(tcp, noise::Config::new, yamux::Config::default)
            .map_err(StartError::build)?
            .with_quic_config(crate::net::swarm::behaviour::quic_config)
            .with_dns()
            .map_err(StartError::Dns)?
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .map_err(StartError::build)?
    }};
}
pub(super) use transports;

pub(super) fn swarm(
    keypair: &Keypair,
    wishes: &Wishes<'_>,
) -> Result<Swarm<Behaviour>, StartError> {
    // Links of members stay; those of strangers are closed by hand.
    let stay = Duration::from_secs(u64::MAX);
    macro_rules! swarm_over {
        ($transports:expr) => {{
            let built = $transports.with_behaviour(|_, relay_client| {
                Behaviour::new(keypair, wishes, relay_client).map_err(Into::into)
            });
            let swarm = built.map_err(StartError::build)?;
            let swarm = swarm.with_swarm_config(|config| config.with_idle_connection_timeout(stay));
            Ok(swarm.build())
        }};
    }
    let Some(meter) = wishes.memory else {
        return swarm_over!(transports!(keypair));
    };
    let memory = memory::transport(keypair, meter)?;
    let builder = SwarmBuilder::with_existing_identity(keypair.clone()).with_tokio();
    let builder = builder.with_other_transport(|_| memory);
    let builder = builder.map_err(StartError::build)?;
    let relayed = builder.with_relay_client(noise::Config::new, yamux::Config::default);
    swarm_over!(relayed.map_err(StartError::build)?)
}

pub(super) fn quic_config(mut config: quic::Config) -> quic::Config {
    // Plane streams may pass here; a peer that does not read is no reason to keep more.
    config.max_stream_data = 256 << 10;
    config.max_connection_data = 2 << 20;
    config
}

impl Behaviour {
    fn new(
        keypair: &Keypair,
        wishes: &Wishes<'_>,
        relay_client: relay::client::Behaviour,
    ) -> Result<Behaviour, String> {
        let own = keypair.public().to_peer_id();
        let identify = identify::Config::new(FAMILY.into(), keypair.public())
            .with_agent_version(concat!("quorate/", env!("CARGO_PKG_VERSION")).into())
            // Adverts say where a node is, to members only.
            .with_hide_listen_addrs(true)
            .with_cache_size(0);
        let ping = ping::Config::new()
            .with_interval(PING_EVERY)
            .with_timeout(PING_MAX);
        let mut blocked = allow_block_list::Behaviour::default();
        for key in wishes.block {
            blocked.block_peer(peer_of(key));
        }
        let allowed = (!wishes.allow.is_empty()).then(|| {
            let mut allowed = allow_block_list::Behaviour::default();
            for key in wishes.allow {
                allowed.allow_peer(peer_of(key));
            }
            allowed
        });
        let mdns = wishes.mdns.then(|| mdns_of(own)).flatten();
        let relay = wishes.relay.then(|| relay_of(own, wishes.roll.clone()));
        Ok(Behaviour {
            limits: connection_limits::Behaviour::new(connection_limits()),
            memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE_MAX),
            blocked,
            allowed: allowed.into(),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            mdns: mdns.into(),
            relay: relay.into(),
            relay_client,
            join: join(true),
            sync: sync(),
            members: Gate::new(
                Inside::new(own, wishes.network)?,
                Opens::ToMembers(wishes.roll.clone()),
            ),
        })
    }
}

impl Gate<Inside> {
    pub(super) fn control(&self) -> libp2p_stream::Control {
        self.look().streams.new_control()
    }
}

impl Inside {
    fn new(own: PeerId, network: NetworkId) -> Result<Inside, String> {
        let mut kad_config = kad::Config::new(KAD);
        kad_config
            .set_kbucket_inserts(kad::BucketInserts::Manual)
            // The table is filled from adverts.
            .set_periodic_bootstrap_interval(None)
            // Addresses only: nobody stores anything here.
            .set_record_filtering(kad::StoreInserts::FilterBoth)
            .set_query_timeout(Duration::from_secs(10));
        let store = kad::store::MemoryStore::new(own);
        let mut kad = kad::Behaviour::with_config(own, store, kad_config);
        kad.set_mode(Some(kad::Mode::Server));
        Ok(Inside {
            gossip: gossip(network)?,
            kad: Quiet::new(kad),
            streams: libp2p_stream::Behaviour::new(),
            dcutr: dcutr::Behaviour::new(own),
            autonat: autonat::v2::client::Behaviour::default(),
            autonat_server: autonat::v2::server::Behaviour::default(),
        })
    }
}

/// The guest's side only asks.
pub(super) fn join(is_host: bool) -> request_response::Behaviour<Bytes> {
    let codec = Bytes {
        question_max: INVITE_BYTES_MAX,
        answer_max: WELCOME_BYTES_MAX,
    };
    let config = request_response::Config::default()
        .with_request_timeout(Duration::from_millis(JOIN_MS_MAX))
        .with_max_concurrent_streams(1);
    let support = match is_host {
        true => request_response::ProtocolSupport::Inbound,
        false => request_response::ProtocolSupport::Outbound,
    };
    request_response::Behaviour::with_codec(codec, [(JOIN, support)], config)
}

pub(super) fn sync() -> request_response::Behaviour<Bytes> {
    let codec = Bytes {
        question_max: SYNC_BYTES_MAX,
        answer_max: SYNC_BYTES_MAX,
    };
    let config = request_response::Config::default()
        .with_request_timeout(Duration::from_millis(SYNC_MS_MAX))
        // Ours and theirs.
        .with_max_concurrent_streams(2 * SYNC_FLIGHTS_MAX);
    let support = request_response::ProtocolSupport::Full;
    request_response::Behaviour::with_codec(codec, [(SYNC, support)], config)
}

fn gossip(network: NetworkId) -> Result<Gossip, String> {
    let topic = topic(network);
    // An advert is signed by its node; who passes it on is nobody's business.
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|message| {
            blake3::hash(&message.data).as_bytes()[..NAME_BYTES]
                .to_vec()
                .into()
        })
        .validate_messages()
        // A few neighbours pass it on, the rest hear its name: adverts are most of what an idle mesh
        // says. What has changed goes to every member by itself, and what is lost comes with a sync.
        .flood_publish(false)
        .mesh_n(4)
        .mesh_n_low(3)
        .mesh_n_high(6)
        .gossip_lazy(3)
        .history_gossip(1)
        .gossip_factor(0.0)
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .build()
        .map_err(|error| error.to_string())?;
    let filter = gossipsub::WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let author = gossipsub::MessageAuthenticity::Anonymous;
    let mut gossip = Gossip::new_with_subscription_filter(author, config, filter)?;
    let score = gossipsub::PeerScoreParams {
        topics: HashMap::from([(topic.hash(), topic_score())]),
        // Nodes of one household, and of one testnet, share an address.
        ip_colocation_factor_weight: 0.0,
        ..Default::default()
    };
    gossip.with_peer_score(score, gossipsub::PeerScoreThresholds::default())?;
    gossip
        .subscribe(&topic)
        .map_err(|error| error.to_string())?;
    Ok(gossip)
}

/// Only what cannot be honest counts: words that no node signed, squared and twenty times. With the
/// third a peer is below -80 and not listened to for forty seconds, until it counts as two again.
fn topic_score() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: 0.99,
        ..Default::default()
    }
}

fn connection_limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(SWARM_PENDING_MAX))
        .with_max_pending_outgoing(Some(4 * SWARM_DIALS_MAX as u32))
        .with_max_established(Some(SWARM_CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(SWARM_CONNECTIONS_PER_PEER_MAX))
}

/// A LAN that knows no multicast is no reason not to start.
fn mdns_of(own: PeerId) -> Option<mdns::tokio::Behaviour> {
    let made = mdns::tokio::Behaviour::new(mdns::Config::default(), own);
    made.inspect_err(|error| {
        tracing::warn!(target: "quorate::swarm", %error, "mDNS does not work here: nodes on this network are not found by themselves");
    })
    .ok()
}

/// Members are reached through us; anybody may come to them that way, with an invite for example.
/// Serves only while this node knows that it can be reached itself.
fn relay_of(own: PeerId, roll: Roll) -> Gate<relay::Behaviour> {
    let mut config = relay::Config {
        max_reservations: RELAY_CIRCUITS_MAX,
        max_circuits: RELAY_CIRCUITS_MAX,
        // It lets one more in than it is told.
        max_circuits_per_peer: RELAY_CIRCUITS_PER_PEER_MAX - 1,
        max_circuit_duration: Duration::from_secs(24 * 3600),
        max_circuit_bytes: RELAY_CIRCUIT_BYTES_MAX,
        ..Default::default()
    };
    config.reservation_rate_limiters.push(Box::new(
        move |peer: PeerId, _: &Multiaddr, _: Instant| {
            key_of(&peer).is_some_and(|key| roll.contains(&key))
        },
    ));
    Gate::new(relay::Behaviour::new(own, config), Opens::Directly)
}
