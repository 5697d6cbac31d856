//! Nodes with a runtime each, so that one can die without a word.

use libp2p_identity::Keypair;
use quorate::identity::key_of;
use quorate::net::swarm::{Event, Handle, Joined, Seed, Settings, join, start, unix_s};
use quorate_core::config::MeshConfig;
use quorate_core::governance::{Genesis, Preset, Replica, Terms};
use quorate_core::ids::{ExpertId, Fingerprint, NetworkId, PeerKey};
use quorate_core::mesh::{Address, Advert, ExpertRow, Gone, Invite, Nonce};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// On a machine that does much else at the same time; alone, no test takes half of it.
pub(crate) const SOON: Duration = Duration::from_secs(40);
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(crate) fn key(keypair: &Keypair) -> PeerKey {
    key_of(&keypair.public().to_peer_id()).unwrap()
}

pub(crate) fn sign(keypair: &Keypair, body: &[u8]) -> [u8; 64] {
    keypair.sign(body).unwrap().try_into().unwrap()
}

/// A mesh whose first nodes are these, and the key of the person that decides.
pub(crate) fn genesis(nodes: &[&Keypair]) -> (Genesis, Keypair) {
    let person = Keypair::generate_ed25519();
    let mut terms = Terms::of(Preset::Lab, vec![key(&person)], MeshConfig::default());
    terms.nodes = nodes.iter().map(|node| key(node)).collect();
    terms.nodes.sort_unstable();
    (terms.found().unwrap(), person)
}

pub(crate) fn row(n: u8) -> ExpertRow {
    ExpertRow {
        expert: ExpertId([n; 32]),
        model: "smollm2:135m".into(),
        file: [1; 32],
        vocabulary: Fingerprint([2; 32]),
        family: "chatml".into(),
        context: 8192,
        slots: 16,
        needs_allow_list: false,
    }
}

pub(crate) fn settings(keypair: &Keypair, bootstrap: &[Address]) -> Settings {
    let seed = |address: &Address| Seed {
        node: None,
        address: address.clone(),
    };
    Settings {
        mdns: false,
        bootstrap: bootstrap.iter().map(seed).collect(),
        ..Settings::new(keypair.clone(), LOOPBACK)
    }
}

pub(crate) struct Node {
    pub(crate) keypair: Keypair,
    pub(crate) key: PeerKey,
    pub(crate) network: NetworkId,
    /// What it started with.
    pub(crate) replica: Replica,
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) serves: watch::Sender<Vec<ExpertRow>>,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

impl Node {
    /// Serves one expert, which is named after `n`.
    pub(crate) fn start(n: u8, settings: Settings, replica: Replica) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (serves, served) = watch::channel(vec![row(n)]);
        let stop = CancellationToken::new();
        let keypair = settings.keypair.clone();
        let network = replica.genesis().network_id();
        let entered = runtime.enter();
        let started = start(settings, replica.clone(), served, stop.clone());
        drop(entered);
        let (handle, events) = started.unwrap();
        Node {
            key: key(&keypair),
            keypair,
            network,
            replica,
            handle,
            events,
            serves,
            stop,
            runtime: Some(runtime),
        }
    }

    /// A node that founds a mesh alone.
    pub(crate) fn founder(n: u8) -> Node {
        let keypair = Keypair::generate_ed25519();
        let (genesis, _) = genesis(&[&keypair]);
        Node::start(n, settings(&keypair, &[]), Replica::new(genesis))
    }

    /// As many nodes of one genesis, each of which begins with the address of the first.
    pub(crate) async fn genesis_mesh(n: u8) -> Vec<Node> {
        let keypairs: Vec<Keypair> = (0..n).map(|_| Keypair::generate_ed25519()).collect();
        let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
        let replica = Replica::new(genesis);
        let mut nodes: Vec<Node> = Vec::new();
        for (n, keypair) in keypairs.iter().enumerate() {
            let begin = match nodes.first() {
                Some(first) => first.addresses().await,
                None => vec![],
            };
            let settings = settings(keypair, &begin);
            nodes.push(Node::start(n as u8 + 1, settings, replica.clone()));
        }
        all_meet(&mut nodes).await;
        all_linked(&nodes).await;
        nodes
    }

    pub(crate) async fn addresses(&self) -> Vec<Address> {
        let listening = async {
            loop {
                let addresses = self.handle.addresses().await;
                if addresses.len() >= 2 {
                    return addresses;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon("listening", listening).await
    }

    pub(crate) async fn invite(&self) -> Invite {
        self.invite_but(|_| ()).await
    }

    /// An invite of an hour; `change` may alter it before it is signed.
    pub(crate) async fn invite_but(&self, change: impl FnOnce(&mut Invite)) -> Invite {
        let mut invite = Invite {
            network: self.network,
            issuer: self.key,
            addresses: self.addresses().await,
            issued_s: unix_s(),
            expires_s: unix_s() + 3600,
            nonce: Nonce([7; 16]),
            signature: [0; 64],
        };
        change(&mut invite);
        invite.signature = sign(&self.keypair, &invite.body());
        invite
    }

    /// Joins by an invite of `host`, and starts.
    pub(crate) async fn join(n: u8, host: &Node) -> Node {
        let keypair = Keypair::generate_ed25519();
        let invite = host.invite().await;
        let Joined { replica, .. } = join(&keypair, &invite, unix_s()).await.unwrap();
        Node::start(n, settings(&keypair, &invite.addresses), replica)
    }

    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(Event) -> Option<T>,
    ) -> T {
        let look = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        soon(what, look).await
    }

    pub(crate) async fn until_met(&mut self, other: &PeerKey) -> Advert {
        self.until("a meeting", |event| match event {
            Event::Met(advert) if advert.node == *other => Some(*advert),
            _ => None,
        })
        .await
    }

    /// In whatever order.
    pub(crate) async fn until_all_met(&mut self, others: &[PeerKey]) {
        let mut missing = others.to_vec();
        self.until("all meetings", |event| {
            if let Event::Met(advert) = event {
                missing.retain(|key| *key != advert.node);
            }
            missing.is_empty().then_some(())
        })
        .await;
    }

    pub(crate) async fn until_lost(&mut self, other: &PeerKey) -> Gone {
        self.until("a loss", |event| match event {
            Event::Lost { node, why } if node == *other => Some(why),
            _ => None,
        })
        .await
    }

    /// What the node is told within this time.
    pub(crate) async fn events_within(&mut self, time: Duration) -> Vec<Event> {
        let until = Instant::now() + time;
        let mut events = Vec::new();
        while let Ok(Some(event)) = timeout(until - Instant::now(), self.events.recv()).await {
            events.push(event);
        }
        events
    }

    /// The end of the process, without a word.
    pub(crate) fn crash(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Leaves as it should.
    pub(crate) fn leave(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn has_ended(&mut self) {
        let ended = async { while self.events.recv().await.is_some() {} };
        soon("the end", ended).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Every node has met every other one.
pub(crate) async fn all_meet(nodes: &mut [Node]) {
    let keys: Vec<PeerKey> = nodes.iter().map(|node| node.key).collect();
    for node in nodes {
        let own = node.key;
        let others: Vec<PeerKey> = keys.iter().copied().filter(|key| *key != own).collect();
        node.until_all_met(&others).await;
    }
}

/// Every node is connected to every other one, and has measured how far it is.
pub(crate) async fn all_linked(nodes: &[Node]) {
    for node in nodes {
        let linked = async {
            loop {
                let peers = node.handle.peers().await;
                let near = peers.iter().filter(|view| view.rtt.is_some());
                if near.count() + 1 == nodes.len() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        soon("all are connected", linked).await;
    }
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = timeout(SOON, future).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}
