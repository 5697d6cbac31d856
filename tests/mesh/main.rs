//! Several nodes of one process, each with its own key, port and expert, over real QUIC on loopback:
//! a request on one of them is answered by all, and goes on when one is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use libp2p_identity::{Keypair, PeerId};
use quorate::driver::{
    self, Answers, Asked, Found, Generation, Lease, Models, Node, Offer, RefusedError,
};
use quorate::expert::stub::{StubExpert, StubOptions};
use quorate::mesh;
use quorate::net::plane::Plane;
use quorate::net::serve::Terms;
use quorate::wire::plane::{Letterhead, Purpose};
use quorate_core::chat::Segment;
use quorate_core::config::{Key, MeshConfig};
use quorate_core::generate::{Event, Finish, Guesses, Guessing, Notes, Provenance};
use quorate_core::governance::{Genesis, Records, Rights, fold};
use quorate_core::host::Allow;
use quorate_core::ids::{ExpertId, NetworkId, PeerKey};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::record;
use quorate_core::residency::KeepAlive;
use quorate_core::team::{Schedule, Sets};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod ahead;
mod gate;

const NETWORK: NetworkId = NetworkId([7; 32]);
const PATIENCE: Duration = Duration::from_secs(10);

struct Machine {
    name: &'static str,
    peer: PeerId,
    node: Node,
    lease: Lease,
    plane: Arc<Plane>,
    /// Ends the node and everything that it serves.
    stop: CancellationToken,
}

/// Nobody is late because this machine is busy.
fn config() -> MeshConfig {
    MeshConfig::default()
        .with(Key::RouterDeadlineFloorMs, 5_000)
        .unwrap()
}

fn rights() -> Rights {
    let key = Keypair::generate_ed25519().public();
    let key = key.try_into_ed25519().unwrap().to_bytes();
    let genesis = Genesis::new(vec![key], config()).unwrap();
    Rights::alone().under(fold(&genesis, &Records::default()))
}

/// The mesh of the node of this name, as others call it.
fn whole(name: &str) -> ExpertId {
    ExpertId(*blake3::hash(format!("the mesh of {name}").as_bytes()).as_bytes())
}

/// One expert of its own name, whose text never ends by itself, and the mesh of its node for whoever is named: a node
/// of another mesh that passes it on.
fn models(name: &'static str) -> Models {
    let options = StubOptions {
        model: name.into(),
        end_logit: -30.0,
        ..StubOptions::default()
    };
    let id = ExpertId(*blake3::hash(name.as_bytes()).as_bytes());
    Models {
        find: Arc::new(move |_| {
            Ok(Found {
                name: name.into(),
                bytes: 1,
                shared: None,
            })
        }),
        load: Arc::new(move |_, events| {
            StubExpert::spawn(options.clone(), events).map_err(|e| e.to_string())
        }),
        offer: Arc::new(move |wanted| {
            let answers = match wanted {
                wanted if wanted == id => Answers::Model,
                wanted if wanted == whole(name) => Answers::Mesh,
                wanted if wanted == whole("ada") => Answers::AnotherMesh,
                _ => return None,
            };
            let outside = Keypair::ed25519_from_bytes([9; 32]).unwrap().public();
            let outside = quorate::identity::key_of(&outside.to_peer_id()).unwrap();
            let allow = match answers {
                Answers::Mesh => Allow::Listed(BTreeSet::from([outside])),
                Answers::Model | Answers::AnotherMesh => Allow::Mesh,
            };
            Some(Offer {
                id: wanted,
                name: name.into(),
                allow,
                answers,
            })
        }),
    }
}

async fn machine(name: &'static str, admits: mesh::Admits) -> Machine {
    machine_of(Keypair::generate_ed25519(), name, admits).await
}

async fn machine_of(keypair: Keypair, name: &'static str, admits: mesh::Admits) -> Machine {
    let peer = keypair.public().to_peer_id();
    let settings = driver::Settings {
        node_id: peer.to_string(),
        memory_budget_bytes: 1 << 30,
        keep_alive: KeepAlive::Forever,
        config: config(),
    };
    let stop = CancellationToken::new();
    let (node, _) = driver::start(settings, models(name), stop.clone());
    node.set_rights(rights()).await;
    let lease = node.acquire(name).await.unwrap();
    let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let plane = Arc::new(Plane::bind(keypair, here).unwrap());
    let terms = Terms {
        network: NETWORK,
        me: quorate::identity::key_of(&peer).unwrap(),
        patience: PATIENCE,
    };
    let serving = mesh::serve_guests(plane.clone(), node.clone(), terms, admits, stop.clone());
    tokio::spawn(serving);
    Machine {
        name,
        peer,
        node,
        lease,
        plane,
        stop,
    }
}

fn letterhead() -> watch::Receiver<Letterhead> {
    watch::channel(Letterhead {
        network: NETWORK,
        config: MeshConfig::default().hash(),
        governance_head: vec![],
        halted: false,
        purpose: Purpose::User,
    })
    .1
}

/// Everybody may ask everybody, and the first one does.
async fn mesh_of(names: &[&'static str]) -> Vec<Machine> {
    let mut machines = Vec::new();
    for name in names {
        machines.push(machine(name, Arc::new(|_: &PeerKey| true)).await);
    }
    for other in &machines[1..] {
        meet(&machines[0], other).await;
    }
    machines
}

async fn meet(asker: &Machine, other: &Machine) {
    meet_at(asker, other, other.plane.local_addr().unwrap()).await;
}

async fn meet_at(asker: &Machine, other: &Machine, address: SocketAddr) {
    introduce(asker, other, other.lease.facts().id, address).await;
}

/// One of the experts that the other serves.
async fn meet_as(asker: &Machine, other: &Machine, id: ExpertId) {
    introduce(asker, other, id, other.plane.local_addr().unwrap()).await;
}

async fn introduce(asker: &Machine, other: &Machine, id: ExpertId, address: SocketAddr) {
    let facts = quorate::expert::ExpertFacts {
        id,
        peer: quorate::identity::key_of(&other.peer),
        model: other.name.into(),
        sha256: String::new(),
        file: None,
        family: asker.lease.facts().family,
        vocab: asker.lease.facts().vocab.clone(),
        bos: None,
        context: other.lease.facts().context,
        model_bytes: 0,
        cache_bytes: 0,
        processor: "elsewhere".into(),
    };
    let dial = mesh::directly(&asker.plane, other.peer, vec![address]);
    mesh::adopt(&asker.node, Arc::new(facts), dial, letterhead())
        .await
        .unwrap();
}

struct Told {
    text: String,
    why: Finish,
    schedule: Schedule,
    provenance: Vec<Provenance>,
    guesses: Guesses,
}

async fn ask(machine: &Machine, asked: Asked, tokens: u32, at: impl Fn(usize)) -> Told {
    let law = Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap();
    ask_under(law, "hello", machine, asked, tokens, at).await
}

async fn ask_under(
    law: Law,
    text: &str,
    machine: &Machine,
    asked: Asked,
    tokens: u32,
    at: impl Fn(usize),
) -> Told {
    let prompt = machine
        .lease
        .tokenize(vec![Segment::Text(text.into())], true)
        .await
        .unwrap();
    let generation = Generation {
        prompt,
        law,
        seed: 11,
        choice: 0,
        max_tokens: Some(tokens),
        stop: vec![],
        logprobs: None,
        grammar: None,
        asked,
        notes: Notes {
            provenance: true,
            record: false,
        },
    };
    let (node, tape) = machine.node.recorded();
    let mut stream = node.generate(&machine.lease, generation).await.unwrap();
    let (mut text, mut provenance) = (String::new(), Vec::new());
    while let Some(event) = stream.next().await {
        match event {
            Event::Token(token) => {
                text += &token.text;
                provenance.extend(token.provenance.map(|p| *p));
                at(provenance.len());
            }
            Event::Finished {
                why,
                text: rest,
                schedule,
                guesses,
                ..
            } => {
                text += &rest;
                // Whatever happened to whom: what was recorded is what decided.
                let bytes = record::encode(&tape.take().unwrap()).unwrap();
                let recording = record::decode(&bytes).unwrap();
                assert_eq!(record::replay(&recording), Ok(text.clone()));
                return Told {
                    text,
                    why,
                    schedule,
                    provenance,
                    guesses,
                };
            }
            Event::Ready { .. } | Event::Decided(_) => {}
        }
    }
    panic!("a stream without an end")
}

const MESH: Asked = Asked::Mesh {
    sets: Sets::A,
    k_max: None,
    guessing: Guessing::Never,
};

fn set(told: &Told, at: usize) -> BTreeSet<ExpertId> {
    told.schedule[at].set.iter().map(|(e, _)| *e).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_decide_every_token_together() {
    let machines = mesh_of(&["ada", "ben", "cai", "dot"]).await;
    let told = ask(&machines[0], MESH, 40, |_| ()).await;
    assert_eq!((&told.why, told.text.len()), (&Finish::Length, 40));
    assert_eq!(told.schedule.len(), 1, "nobody failed: {:?}", told.schedule);
    let everybody: BTreeSet<ExpertId> = machines.iter().map(|m| m.lease.facts().id).collect();
    assert_eq!(set(&told, 0), everybody);
    for provenance in &told.provenance {
        assert!(provenance.asked.iter().all(|v| v.arrived));
        let remote = provenance.asked.iter().filter(|v| v.bytes > 0);
        assert_eq!(remote.count(), 3, "three opinions crossed the network");
        assert!(provenance.asked.iter().all(|v| v.bytes <= 2048));
    }
    let again = ask(&machines[0], MESH, 40, |_| ()).await;
    assert_eq!(again.text, told.text, "the seed and the set are the text");
    let alone = ask(&machines[0], Asked::Own, 40, |_| ()).await;
    assert_ne!(alone.text, told.text, "the others had their say");
    let two = Asked::Mesh {
        sets: Sets::A,
        k_max: Some(2),
        guessing: Guessing::Never,
    };
    let two = ask(&machines[0], two, 10, |_| ()).await;
    assert_eq!(set(&two, 0).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_mid_sentence_costs_no_text() {
    let machines = mesh_of(&["ada", "ben", "cai", "dot", "eve"]).await;
    let stops: Vec<CancellationToken> = machines.iter().map(|m| m.stop.clone()).collect();
    // K is 4 of 5. Of those that were asked first, one that is not the router ends at token 10.
    let first = ask(&machines[0], MESH, 1, |_| ()).await;
    let told = ask(&machines[0], MESH, 60, move |tokens| {
        if tokens == 10 {
            stops[1].cancel();
        }
    })
    .await;
    assert_eq!((&told.why, told.text.len()), (&Finish::Length, 60));
    assert_eq!(set(&first, 0).len(), 4);
    let dead = machines[1].lease.facts().id;
    let last = set(&told, told.schedule.len() - 1);
    assert!(!last.contains(&dead));
    if set(&told, 0).contains(&dead) {
        assert!(told.schedule.len() >= 2);
        assert!(
            told.schedule[1].position >= 15,
            "from the first undecided position on"
        );
    }
    assert_eq!(last.len(), 4, "a spare took its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_admitted_has_no_say() {
    let ada = machine("ada", Arc::new(|_: &PeerKey| true)).await;
    let strict = machine("ben", Arc::new(|_: &PeerKey| false)).await;
    meet(&ada, &strict).await;
    let told = ask(&ada, MESH, 20, |_| ()).await;
    assert_eq!(told.text.len(), 20);
    let last = set(&told, told.schedule.len() - 1);
    assert_eq!(last, BTreeSet::from([ada.lease.facts().id]));
}

#[tokio::test]
async fn without_a_mesh_there_is_no_mesh_request() {
    let ada = machine("ada", Arc::new(|_: &PeerKey| true)).await;
    ada.node.set_rights(Rights::alone()).await;
    let prompt = vec![104, 105];
    let generation = Generation {
        prompt,
        law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
        seed: 1,
        choice: 0,
        max_tokens: Some(1),
        stop: vec![],
        logprobs: None,
        grammar: None,
        asked: MESH,
        notes: Notes::default(),
    };
    let refused = ada.node.generate(&ada.lease, generation).await;
    assert!(matches!(refused.map(drop), Err(RefusedError::Halted(_))));
}

/// Two meshes: ada, ben and cai; and uma with gus, to whom ada answers in the name of her mesh. For uma it is one expert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_is_one_expert_of_another() {
    let inner = mesh_of(&["ada", "ben", "cai"]).await;
    let members: Vec<PeerKey> = inner
        .iter()
        .map(|m| quorate::identity::key_of(&m.peer).unwrap())
        .collect();
    let stranger = Arc::new(move |peer: &PeerKey| members.contains(peer));
    let ada = machine("ada", stranger).await;
    for other in &inner[1..] {
        meet(&ada, other).await;
    }
    let gus = Keypair::ed25519_from_bytes([9; 32]).unwrap();
    let gus = machine_of(gus, "gus", Arc::new(|_: &PeerKey| true)).await;
    meet_as(&gus, &ada, whole("ada")).await;
    let uma = machine("uma", Arc::new(|_: &PeerKey| true)).await;
    meet_as(&uma, &gus, whole("ada")).await;
    let own = ask(&uma, Asked::Own, 20, |_| ()).await;
    let told = ask(&uma, MESH, 20, |_| ()).await;
    assert_eq!((&told.why, told.schedule.len()), (&Finish::Length, 1));
    let both = BTreeSet::from([uma.lease.facts().id, whole("ada")]);
    assert_eq!(set(&told, 0), both);
    assert_ne!(told.text, own.text, "the mesh had its say");
    for provenance in &told.provenance {
        assert!(provenance.asked.iter().all(|v| v.arrived), "{provenance:?}");
    }
    assert_eq!(ask(&uma, MESH, 20, |_| ()).await.text, told.text);
    // All of them computed for it, and ada's node counts gus alone as its guest.
    for machine in [&ada, &inner[1], &inner[2]] {
        let status = machine.node.status().await.unwrap();
        let given: u64 = status.guests.iter().map(|g| g.opinions).sum();
        assert!(status.guests.len() <= 1, "{:?}", status.guests);
        let heard: u64 = status.roster.iter().map(|k| k.answers).sum();
        assert!(
            given + heard >= 40 || machine.name != "ada",
            "{given} {heard}"
        );
    }
    // Nobody whom her owner has not named: not for the mesh, and gus not for her own model.
    let eve = machine("eve", Arc::new(|_: &PeerKey| true)).await;
    meet_as(&eve, &ada, whole("ada")).await;
    let alone = ask(&eve, MESH, 10, |_| ()).await;
    assert_eq!(set(&alone, alone.schedule.len() - 1).len(), 1);
    meet(&gus, &ada).await;
    let told = ask(&gus, MESH, 10, |_| ()).await;
    let last = set(&told, told.schedule.len() - 1);
    assert_eq!(last, BTreeSet::from([gus.lease.facts().id, whole("ada")]));
    // Without ben and cai it goes on, and without ada so does uma.
    for gone in &inner[1..] {
        assert!(ada.node.lose(gone.lease.facts().id, "it went away").await);
    }
    let told = ask(&uma, MESH, 10, |_| ()).await;
    assert_eq!((&told.why, set(&told, 0)), (&Finish::Length, both));
    assert!(gus.node.lose(whole("ada"), "it went away").await);
    let told = ask(&uma, MESH, 10, |_| ()).await;
    assert_eq!(told.why, Finish::Length);
    assert!(!set(&told, told.schedule.len() - 1).contains(&whole("ada")));
}
