//! Doors that are shut: what one more gets when all places are taken.

use crate::nodes::{Node, all_meet, genesis, key, settings, soon};
use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{Multiaddr, SwarmBuilder, noise, relay, yamux};
use libp2p_identity::Keypair;
use quorate::identity::peer_of;
use quorate_core::governance::Replica;
use quorate_core::limits::{
    STRANGER_MS_MAX, STRANGERS_MAX, SWARM_CONNECTIONS_MAX, SWARM_CONNECTIONS_PER_PEER_MAX,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A program of somebody else that connects and says nothing.
struct Caller {
    dial: mpsc::Sender<Multiaddr>,
    /// Connections that stand, as it sees them.
    standing: Arc<AtomicI64>,
    done: mpsc::Receiver<bool>,
}

impl Caller {
    fn new(keypair: &Keypair, node: &Node) -> Caller {
        let mut swarm = SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(
                libp2p::tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| dummy::Behaviour)
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(3600))
            })
            .build();
        let (dial, mut to_dial) = mpsc::channel::<Multiaddr>(1);
        let (told, done) = mpsc::channel(16);
        let standing = Arc::new(AtomicI64::new(0));
        let (count, node) = (standing.clone(), peer_of(&node.key));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    address = to_dial.recv() => {
                        let Some(address) = address else { return };
                        let opts = DialOpts::peer_id(node).condition(PeerCondition::Always);
                        swarm.dial(opts.addresses(vec![address]).build()).unwrap();
                    }
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { .. } => {
                            count.fetch_add(1, Ordering::Relaxed);
                            told.try_send(true).ok();
                        }
                        SwarmEvent::ConnectionClosed { .. } => {
                            count.fetch_sub(1, Ordering::Relaxed);
                        }
                        SwarmEvent::OutgoingConnectionError { .. } => {
                            told.try_send(false).ok();
                        }
                        _ => {}
                    },
                }
            }
        });
        Caller {
            dial,
            standing,
            done,
        }
    }

    /// One more connection. It may be shut again as soon as it stands.
    async fn call(&mut self, at: &Multiaddr) {
        self.dial.send(at.clone()).await.unwrap();
        soon("an answer", self.done.recv()).await;
    }

    fn standing(&self) -> i64 {
        self.standing.load(Ordering::Relaxed)
    }
}

async fn tcp(node: &Node) -> Multiaddr {
    let addresses = node.addresses().await;
    let port = addresses[0].place.port;
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, wait).await;
}

#[tokio::test]
async fn one_stranger_too_many_is_shown_out_at_once() {
    let ada = Node::founder(1);
    let at = tcp(&ada).await;
    let all = (0..=STRANGERS_MAX).map(|_| Caller::new(&Keypair::generate_ed25519(), &ada));
    let mut all: Vec<Caller> = all.collect();
    let begun = Instant::now();
    for caller in &mut all {
        caller.call(&at).await;
    }
    let standing = || all.iter().map(Caller::standing).sum::<i64>();
    until("one of them is out", || standing() <= STRANGERS_MAX as i64).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let took = begun.elapsed();
    assert!(
        took < Duration::from_millis(STRANGER_MS_MAX),
        "this machine is too slow: {took:?}"
    );
    assert_eq!(standing(), STRANGERS_MAX as i64);
    assert_eq!(all.last().unwrap().standing(), 0, "it was the last one");
    // The others have had their time, too; then there is room.
    until("all of them are out", || standing() == 0).await;
    let mut next = Caller::new(&Keypair::generate_ed25519(), &ada);
    next.call(&at).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(next.standing(), 1);
}

#[tokio::test]
async fn members_have_so_many_connections_each_and_all_together() {
    let each = SWARM_CONNECTIONS_PER_PEER_MAX as usize;
    let members = SWARM_CONNECTIONS_MAX as usize / each;
    let mut keypairs: Vec<Keypair> = (0..members).map(|_| Keypair::generate_ed25519()).collect();
    // The one with the smaller key closes what is too much of a pair: that is not this node.
    keypairs.sort_by_key(key);
    let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let own = keypairs.pop().unwrap();
    let ada = Node::start(1, settings(&own, &[]), Replica::new(genesis));
    let at = tcp(&ada).await;
    let callers = keypairs.iter().map(|keypair| Caller::new(keypair, &ada));
    let mut callers: Vec<Caller> = callers.collect();
    for caller in &mut callers {
        // The last of these is one too many for one peer.
        for _ in 0..=each {
            caller.call(&at).await;
        }
    }
    let standing = |callers: &[Caller]| callers.iter().map(Caller::standing).sum::<i64>();
    let theirs = (each * callers.len()) as i64;
    until("each has its share", || standing(&callers) == theirs).await;
    assert!(
        callers
            .iter()
            .all(|caller| caller.standing() == each as i64)
    );
    // One peer's share is left: strangers take it, and one of them finds no place.
    let mut strangers: Vec<Caller> = Vec::new();
    for _ in 0..=each {
        let mut stranger = Caller::new(&Keypair::generate_ed25519(), &ada);
        stranger.call(&at).await;
        strangers.push(stranger);
    }
    let full = SWARM_CONNECTIONS_MAX as i64 - theirs;
    until("one is out", || standing(&strangers) <= full).await;
    assert_eq!(standing(&strangers), full);
    assert_eq!(strangers.last().unwrap().standing(), 0);
    assert_eq!(standing(&callers), theirs, "nobody lost his place to them");
}

/// Does the node carry connections to whoever has this key?
async fn gives_a_place(node: &Node, keypair: &Keypair) -> bool {
    let transports = SwarmBuilder::with_existing_identity(keypair.clone())
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap();
    let relayed = transports.with_relay_client(noise::Config::new, yamux::Config::default);
    let built = relayed.unwrap().with_behaviour(|_, client| client).unwrap();
    let stay = Duration::from_secs(3600);
    let mut swarm = built
        .with_swarm_config(|config| config.with_idle_connection_timeout(stay))
        .build();
    let way = tcp(node).await.with(Protocol::P2p(peer_of(&node.key)));
    swarm.listen_on(way.with(Protocol::P2pCircuit)).unwrap();
    let answer = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(relay::client::Event::ReservationReqAccepted { .. }) => {
                    return true;
                }
                SwarmEvent::ListenerClosed { .. } => return false,
                _ => {}
            }
        }
    };
    soon("a yes or no", answer).await
}

/// In the open, and all others are behind routers: it dials nobody, so that AutoNAT asks nobody.
#[tokio::test]
async fn a_node_that_only_others_can_dial_is_a_relay_and_for_members_alone() {
    let keypairs: Vec<Keypair> = (0..3).map(|_| Keypair::generate_ed25519()).collect();
    let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let replica = Replica::new(genesis);
    let ada = Node::start(1, settings(&keypairs[0], &[]), replica.clone());
    let begin = ada.addresses().await;
    let bob = Node::start(2, settings(&keypairs[1], &begin), replica);
    let mut nodes = [ada, bob];
    all_meet(&mut nodes).await;
    let ada = &nodes[0];
    let cyd = async {
        // Until she has heard at which address Bob came in.
        while !gives_a_place(ada, &keypairs[2]).await {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    soon("a place for a member", cyd).await;
    assert!(!gives_a_place(ada, &Keypair::generate_ed25519()).await);
}
