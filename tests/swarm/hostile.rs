//! What strangers are told, and how far a lie of a member goes.

use crate::nodes::{Node, genesis, key, row, settings, sign, soon};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::gossipsub::{self, IdentTopic};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, noise, yamux};
use libp2p_identity::Keypair;
use libp2p_stream::{Control, OpenStreamError};
use quorate::identity::peer_of;
use quorate::net::swarm::{Event, unix_s};
use quorate_core::governance::{Admission, Replica};
use quorate_core::ids::NetworkId;
use quorate_core::mesh::sync::{Answer, Ask, Page, Question};
use quorate_core::mesh::{Address, Advert, Gone, Host, Transport};
use std::time::Duration;
use tokio::sync::mpsc;

const SYNC: StreamProtocol = StreamProtocol::new("/quorate/sync/1");
const JOIN: StreamProtocol = StreamProtocol::new("/quorate/join/1");

#[derive(NetworkBehaviour)]
struct Crafted {
    gossip: gossipsub::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A program of somebody else, that speaks our protocols as it likes.
struct Raw {
    control: Control,
    publish: mpsc::Sender<Vec<u8>>,
    heard: mpsc::Receiver<Vec<u8>>,
    closed: mpsc::Receiver<PeerId>,
}

impl Raw {
    /// Connected to `node`.
    async fn connect(keypair: &Keypair, node: &Node) -> Raw {
        let topic = IdentTopic::new(format!("adverts/{:.8}", node.network.to_string()));
        let config = gossipsub::ConfigBuilder::default()
            .validation_mode(gossipsub::ValidationMode::Anonymous)
            .max_transmit_size(1 << 20)
            .message_id_fn(|m| blake3::hash(&m.data).as_bytes().to_vec().into())
            .build()
            .unwrap();
        let author = gossipsub::MessageAuthenticity::Anonymous;
        let mut gossip = gossipsub::Behaviour::new(author, config).unwrap();
        gossip.subscribe(&topic).unwrap();
        let streams = libp2p_stream::Behaviour::new();
        let control = streams.new_control();
        let mut swarm = SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(
                libp2p::tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_behaviour(|_| Crafted { gossip, streams })
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(3600))
            })
            .build();
        let addresses = node.addresses().await;
        swarm.dial(multiaddr(&addresses[0])).unwrap();
        let (publish, mut to_publish) = mpsc::channel::<Vec<u8>>(16);
        let (heard_tx, heard) = mpsc::channel(64);
        let (closed_tx, closed) = mpsc::channel(4);
        let (connected_tx, mut connected) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = to_publish.recv() => match message {
                        Some(bytes) => {
                            swarm.behaviour_mut().gossip.publish(topic.clone(), bytes).ok();
                        }
                        None => return,
                    },
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { .. } => {
                            connected_tx.try_send(()).ok();
                        }
                        SwarmEvent::ConnectionClosed { peer_id, .. } => {
                            closed_tx.try_send(peer_id).ok();
                        }
                        SwarmEvent::Behaviour(CraftedEvent::Gossip(
                            gossipsub::Event::Message { message, .. },
                        )) => {
                            heard_tx.try_send(message.data).ok();
                        }
                        _ => {}
                    },
                }
            }
        });
        soon("a connection", connected.recv()).await.unwrap();
        Raw {
            control,
            publish,
            heard,
            closed,
        }
    }

    async fn ask(&mut self, node: &Node, protocol: StreamProtocol, bytes: &[u8]) -> Vec<u8> {
        let opening = self.control.open_stream(peer_of(&node.key), protocol);
        let mut stream = soon("a stream", opening).await.unwrap();
        // The other side may have read enough.
        stream.write_all(bytes).await.ok();
        stream.close().await.ok();
        let mut answer = Vec::new();
        soon("an answer", stream.read_to_end(&mut answer))
            .await
            .ok();
        answer
    }

    async fn ask_sync(&mut self, node: &Node, network: NetworkId, question: Question) -> Answer {
        let bytes = Ask { network, question }.encode();
        Answer::decode(&self.ask(node, SYNC, &bytes).await).unwrap()
    }
}

fn multiaddr(address: &Address) -> Multiaddr {
    let Host::Ip(ip) = address.place.host else {
        panic!("a name");
    };
    let port = address.place.port;
    let text = match address.transport {
        Transport::Quic => format!("/ip4/{ip}/udp/{port}/quic-v1"),
        Transport::Tcp => format!("/ip4/{ip}/tcp/{port}"),
    };
    text.parse().unwrap()
}

fn everything() -> [Question; 3] {
    [
        Question::Same([0; 32]),
        Question::Page(Page {
            first: [0; 32],
            last: [255; 32],
            have: vec![],
        }),
        Question::Adverts(vec![]),
    ]
}

#[tokio::test]
async fn a_stranger_gets_no_adverts_no_records_and_no_stream() {
    let ada = Node::founder(1);
    let mut bob = Node::join(2, &ada).await;
    bob.until_met(&ada.key).await;
    let stranger = Keypair::generate_ed25519();
    let mut raw = Raw::connect(&stranger, &ada).await;
    for question in everything() {
        let answer = raw.ask_sync(&ada, ada.network, question).await;
        assert_eq!(answer, Answer::Refused);
    }
    // Words in its own favour: an admission that it has signed itself, another mesh.
    let mut admission = Admission {
        network: ada.network,
        issuer: key(&stranger),
        subject: key(&stranger),
        issued_s: unix_s() - 60,
        expires_s: unix_s() + 3600,
        signature: [0; 64],
    };
    admission.signature = sign(&stranger, &admission.body());
    let take = Question::Take(vec![admission.encode(), vec![1; 100]]);
    assert_eq!(raw.ask_sync(&ada, ada.network, take).await, Answer::Refused);
    let [same, ..] = everything();
    let other = raw.ask_sync(&ada, NetworkId([9; 32]), same).await;
    assert_eq!(other, Answer::Refused);
    // Bytes that are no question are answered the same way; too many are not answered at all.
    let noise = raw.ask(&ada, SYNC, &[7; 1000]).await;
    assert_eq!(Answer::decode(&noise), Ok(Answer::Refused));
    assert!(raw.ask(&ada, SYNC, &[7; 200_000]).await.is_empty());
    assert!(raw.ask(&ada, JOIN, &[7; 5_000]).await.is_empty());
    for protocol in ["/quorate/plane/1", "/quorate/kad/1", "/meshsub/1.1.0"] {
        let protocol = StreamProtocol::new(protocol);
        let opened = raw.control.open_stream(peer_of(&ada.key), protocol).await;
        assert!(matches!(
            opened,
            Err(OpenStreamError::UnsupportedProtocol(_))
        ));
    }
    // An advert is told when it changes: to Bob, and not to the stranger.
    ada.serves.send(vec![row(8)]).unwrap();
    let advert = bob.until_met(&ada.key).await;
    assert_eq!(advert.experts, [row(8)]);
    assert!(raw.heard.try_recv().is_err());
    // It is shown out.
    soon("the door", raw.closed.recv()).await.unwrap();
    assert!(!ada.handle.roll().contains(&key(&stranger)));
}

#[tokio::test]
async fn a_lie_of_a_member_goes_no_further() {
    let keypairs: Vec<Keypair> = (0..4).map(|_| Keypair::generate_ed25519()).collect();
    let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let [ada, bob, liar, spy] = &keypairs[..] else {
        panic!("four")
    };
    let replica = Replica::new(genesis);
    let ada = Node::start(1, settings(ada, &[]), replica.clone());
    let begin = ada.addresses().await;
    let mut bob = Node::start(2, settings(bob, &begin), replica);
    bob.until_met(&ada.key).await;
    let mut spy = Raw::connect(spy, &ada).await;
    let raw = Raw::connect(liar, &ada).await;
    // Both have joined the gossip when the spy hears of Ada.
    ada.serves.send(vec![row(5)]).unwrap();
    let of_ada = soon("Ada's advert", spy.heard.recv()).await.unwrap();
    let of_ada = Advert::decode(&of_ada).unwrap();
    assert_eq!(of_ada.node, ada.key);
    let truth = advert_of(liar, ada.network, 0);
    let mut forged = of_ada.clone();
    (forged.seq, forged.leaves) = (forged.seq + 1, true);
    let mut other_mesh = truth.clone();
    other_mesh.network = NetworkId([1; 32]);
    other_mesh.signature = sign(liar, &other_mesh.body());
    // One more and it would not be listened to: the next test. The last is too long to be read at all.
    for lie in [forged.encode(), other_mesh.encode(), vec![2; 100_000]] {
        raw.publish.send(lie).await.unwrap();
    }
    // With it the stream is gone; what is written next finds that out, what comes then arrives.
    for seq in [1, 2] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let truth = advert_of(liar, ada.network, seq);
        raw.publish.send(truth.encode()).await.unwrap();
    }
    let heard = soon("the truth", async {
        loop {
            let heard = spy.heard.recv().await.unwrap();
            if Advert::decode(&heard).is_ok_and(|advert| advert.node != ada.key) {
                return heard;
            }
        }
    });
    let of_others = |heard: &[u8]| Advert::decode(heard).map(|advert| advert.node);
    let first = heard.await;
    let told = of_others(&first);
    assert!(told == Ok(key(liar)) || told == Ok(bob.key), "{told:?}");
    let met = bob.until_met(&key(liar)).await;
    assert_eq!(met.experts, truth.experts);
    let told = bob.events_within(Duration::from_secs(1)).await;
    let lost = told
        .iter()
        .any(|event| matches!(event, Event::Lost { node, why: Gone::Left } if *node == ada.key));
    assert!(!lost, "a forged farewell was believed");
    while let Ok(heard) = spy.heard.try_recv() {
        let advert = Advert::decode(&heard).expect("lies are passed on");
        assert_ne!(advert, forged);
        assert_eq!(advert.network, ada.network);
    }
    assert!(ada.handle.peers().await.len() >= 2, "and the node lives");
}

fn advert_of(keypair: &Keypair, network: NetworkId, seq: u64) -> Advert {
    let mut advert = Advert {
        network,
        node: key(keypair),
        instance: 5,
        seq,
        issued_s: unix_s(),
        leaves: false,
        addresses: vec![],
        plane: vec![],
        experts: vec![row(3)],
        signature: [0; 64],
    };
    advert.signature = sign(keypair, &advert.body());
    advert
}

#[tokio::test]
async fn a_member_that_floods_its_own_lies_is_not_listened_to() {
    let (ada, liar) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (genesis, _) = genesis(&[&ada, &liar]);
    let mut ada = Node::start(1, settings(&ada, &[]), Replica::new(genesis));
    let raw = Raw::connect(&liar, &ada).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for n in 0..60_u8 {
        raw.publish.send(vec![n; 300]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let truth = advert_of(&liar, ada.network, 0);
    raw.publish.send(truth.encode()).await.unwrap();
    let told = ada.events_within(Duration::from_secs(2)).await;
    let met = told.iter().any(|event| matches!(event, Event::Met(_)));
    assert!(!met, "whoever shouts nonsense is not heard for a while");
}

#[tokio::test]
async fn a_blocked_key_is_kept_out_and_an_allow_list_keeps_out_all_others() {
    let keypairs: Vec<Keypair> = (0..3).map(|_| Keypair::generate_ed25519()).collect();
    let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let replica = Replica::new(genesis);
    for by_block in [true, false] {
        let mut options = settings(&keypairs[0], &[]);
        match by_block {
            true => options.block = vec![key(&keypairs[1])],
            false => options.allow = vec![key(&keypairs[2])],
        }
        let mut ada = Node::start(1, options, replica.clone());
        let begin = ada.addresses().await;
        let bob = Node::start(2, settings(&keypairs[1], &begin), replica.clone());
        let cyd = Node::start(3, settings(&keypairs[2], &begin), replica.clone());
        ada.until_met(&cyd.key).await;
        let peers = ada.handle.peers().await;
        let bob = peers.iter().find(|view| view.key == bob.key);
        assert!(bob.is_none_or(|view| view.link.is_none()), "{bob:?}");
    }
}
