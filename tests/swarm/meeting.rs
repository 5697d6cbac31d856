//! Members find each other, notice who goes, and hear what is new.

use crate::nodes::{Node, SOON, all_meet, genesis, row, settings, sign, soon};
use libp2p_identity::Keypair;
use quorate::net::plane::Path;
use quorate::net::swarm::{Event, Link, unix_s};
use quorate_core::governance::{Admission, Record, Replica, Revocation, Taken, Target};
use quorate_core::limits::SWARM_EVENTS_MAX;
use quorate_core::mesh::Gone;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Ping, and what a busy machine takes to hear of it.
const CRASH_NOTICED: Duration = Duration::from_secs(7);

#[tokio::test]
async fn a_crash_is_noticed_within_seconds_and_a_clean_leave_at_once() {
    let mut nodes = Node::genesis_mesh(3).await;
    let mut cyd = nodes.pop().unwrap();
    let mut bob = nodes.pop().unwrap();
    let mut ada = nodes.pop().unwrap();
    let at = Instant::now();
    cyd.crash();
    let why = ada.until_lost(&cyd.key).await;
    assert_eq!(why, Gone::Silent);
    assert!(at.elapsed() < CRASH_NOTICED, "{:?}", at.elapsed());
    let at = Instant::now();
    bob.leave();
    assert_eq!(ada.until_lost(&bob.key).await, Gone::Left);
    assert!(at.elapsed() < Duration::from_secs(1), "{:?}", at.elapsed());
    bob.has_ended().await;
    assert!(ada.handle.stream(bob.key).await.is_err());
}

#[tokio::test]
async fn what_a_node_serves_is_told_when_it_changes() {
    let mut nodes = Node::genesis_mesh(2).await;
    let mut bob = nodes.pop().unwrap();
    let ada = nodes.pop().unwrap();
    ada.serves.send(vec![row(9), row(8)]).unwrap();
    let advert = bob.until_met(&ada.key).await;
    assert_eq!(advert.experts, [row(8), row(9)]);
}

#[tokio::test]
async fn peers_show_the_way_and_the_round_trip() {
    let nodes = Node::genesis_mesh(2).await;
    let (ada, bob) = (&nodes[0], &nodes[1]);
    let seen = async {
        loop {
            let peers = ada.handle.peers().await;
            let view = peers.into_iter().find(|view| view.key == bob.key);
            if let Some(view) = view.filter(|view| view.rtt.is_some()) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let view = soon("a round trip", seen).await;
    assert!(view.is_member && matches!(view.link, Some(Link::Quic | Link::Tcp)));
    assert!(view.address.unwrap().starts_with("/ip4/127.0.0.1/"));
    assert!(view.rtt.unwrap() < Duration::from_secs(1));
    assert!(view.heard.unwrap() < Duration::from_secs(20));
    assert_eq!(view.advert.unwrap().experts, [row(2)]);
}

#[tokio::test]
async fn a_record_made_at_one_node_arrives_at_all() {
    let mut nodes = Node::genesis_mesh(4).await;
    let ada = &nodes[0];
    let guest = Keypair::generate_ed25519();
    let mut admission = Admission {
        network: ada.network,
        issuer: ada.key,
        subject: crate::nodes::key(&guest),
        issued_s: unix_s() - 60,
        expires_s: unix_s() + 3600,
        signature: [0; 64],
    };
    admission.signature = sign(&ada.keypair, &admission.body());
    let record = Record::Admission(admission.clone());
    assert_eq!(ada.handle.insert(record.clone()).await, Some(Taken::New));
    assert_eq!(ada.handle.insert(record.clone()).await, Some(Taken::Known));
    let at = Instant::now();
    for node in &mut nodes[1..] {
        let heard = node
            .until("the record", |event| match event {
                Event::Recorded(record) => Some(*record),
                _ => None,
            })
            .await;
        assert_eq!(heard, record);
        assert!(node.handle.roll().contains(&admission.subject));
    }
    assert!(at.elapsed() < Duration::from_secs(5), "{:?}", at.elapsed());
}

#[tokio::test]
async fn a_machine_that_was_taken_out_is_shown_out() {
    let (ada, bob) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (genesis, person) = genesis(&[&ada, &bob]);
    let replica = Replica::new(genesis);
    let first = Node::start(1, settings(&ada, &[]), replica.clone());
    let begin = first.addresses().await;
    let second = Node::start(2, settings(&bob, &begin), replica);
    let mut nodes = [first, second];
    all_meet(&mut nodes).await;
    let [mut first, second] = nodes;
    let mut revocation = Revocation {
        network: first.network,
        author: crate::nodes::key(&person),
        target: Target::Node(second.key),
        signature: [0; 64],
    };
    revocation.signature = sign(&person, &revocation.body());
    let taken = first.handle.insert(Record::Revocation(revocation)).await;
    assert_eq!(taken, Some(Taken::New));
    assert_eq!(first.until_lost(&second.key).await, Gone::Removed);
    assert!(!first.handle.roll().contains(&second.key));
    let gone = async {
        while !first.handle.peers().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the connection is closed", gone).await;
    assert!(first.handle.stream(second.key).await.is_err());
}

#[tokio::test]
async fn a_plane_stream_carries_bytes_both_ways() {
    let mut nodes = Node::genesis_mesh(2).await;
    let mut bob = nodes.pop().unwrap();
    let ada = nodes.pop().unwrap();
    let mut near = ada.handle.stream(bob.key).await.unwrap();
    let there: Vec<u8> = (0..200_000_u32).map(|n| (n * 7) as u8).collect();
    let (sent, back) = (
        there.clone(),
        there.iter().rev().copied().collect::<Vec<u8>>(),
    );
    let ada_key = ada.key;
    let answer = back.clone();
    let far = tokio::spawn(async move {
        let arrival = bob
            .until("a stream", |event| match event {
                Event::Arrival(arrival) => Some(arrival),
                _ => None,
            })
            .await;
        assert_eq!(quorate::identity::key_of(&arrival.peer), Some(ada_key));
        assert_eq!(arrival.path, Path::Libp2p { relayed: false });
        let mut stream = arrival.stream;
        let mut heard = vec![0; there.len()];
        stream.reader.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, there);
        stream.writer.write_all(&answer).await.unwrap();
        stream.writer.shutdown().await.unwrap();
        bob
    });
    near.writer.write_all(&sent).await.unwrap();
    near.writer.flush().await.unwrap();
    let mut heard = Vec::new();
    let read = near.reader.read_to_end(&mut heard);
    soon("the answer", read).await.unwrap();
    assert_eq!(heard, back);
    assert_eq!(near.route.path, Path::Libp2p { relayed: false });
    far.await.unwrap();
}

#[tokio::test]
async fn clocks_that_are_a_day_off_keep_nobody_out() {
    let ada = Keypair::generate_ed25519();
    let (genesis, _) = genesis(&[&ada]);
    let clock = |offset: i64| -> Arc<dyn Fn() -> u64 + Send + Sync> {
        Arc::new(move || unix_s().saturating_add_signed(offset))
    };
    for offset in [-86_400, 86_400] {
        let mut first = settings(&ada, &[]);
        first.clock = clock(offset);
        let first = Node::start(1, first, Replica::new(genesis.clone()));
        let invite = first
            .invite_but(|invite| {
                let now_s = unix_s().saturating_add_signed(offset);
                (invite.issued_s, invite.expires_s) = (now_s, now_s + 3600);
            })
            .await;
        let keypair = Keypair::generate_ed25519();
        let joined = quorate::net::swarm::join(&keypair, &invite, unix_s()).await;
        let begin = settings(&keypair, &invite.addresses);
        let second = Node::start(2, begin, joined.unwrap().replica);
        all_meet(&mut [first, second]).await;
    }
}

#[tokio::test]
async fn a_node_that_returns_is_met_again() {
    let mut nodes = Node::genesis_mesh(3).await;
    let mut cyd = nodes.pop().unwrap();
    cyd.crash();
    for node in &mut nodes {
        assert_eq!(node.until_lost(&cyd.key).await, Gone::Silent);
    }
    // At another port, and with the address of one of them.
    let begin = nodes[0].addresses().await;
    let mut cyd = Node::start(7, settings(&cyd.keypair, &begin), cyd.replica.clone());
    for node in &mut nodes {
        // First by what is still known of it, then by what it says.
        while node.until_met(&cyd.key).await.experts != [row(7)] {}
    }
    for node in &nodes {
        cyd.until_met(&node.key).await;
    }
}

#[tokio::test]
async fn halves_that_were_apart_meet_again() {
    let keypairs: Vec<Keypair> = (0..4).map(|_| Keypair::generate_ed25519()).collect();
    let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let replica = Replica::new(genesis);
    let node = |n: usize, begin: &[_]| {
        Node::start(n as u8, settings(&keypairs[n], begin), replica.clone())
    };
    let first = node(0, &[]);
    let other = node(2, &[]);
    let (begin, there) = (first.addresses().await, other.addresses().await);
    let second = node(1, &begin);
    let fourth = node(3, &there);
    let (mut here, mut there) = ([first, second], [other, fourth]);
    all_meet(&mut here).await;
    all_meet(&mut there).await;
    // One of them starts anew and knows somebody of the other half.
    let [first, mut second] = here;
    second.crash();
    drop(second);
    let bridge: Vec<_> = [begin, there[0].addresses().await].concat();
    let second = node(1, &bridge);
    let [third, fourth] = there;
    let at = Instant::now();
    let mut all = [first, third, fourth];
    let (third, fourth) = (all[1].key, all[2].key);
    all[0].until_all_met(&[second.key, third, fourth]).await;
    all[1].until_all_met(&[second.key]).await;
    all[2].until_all_met(&[second.key]).await;
    assert!(at.elapsed() < SOON, "{:?}", at.elapsed());
}

#[tokio::test]
async fn two_processes_with_one_key_are_told() {
    let keypair = Keypair::generate_ed25519();
    let other = Keypair::generate_ed25519();
    let (genesis, _) = genesis(&[&keypair, &other]);
    let replica = Replica::new(genesis);
    let mut ada = Node::start(1, settings(&other, &[]), replica.clone());
    let begin = ada.addresses().await;
    let mut one = Node::start(2, settings(&keypair, &begin), replica.clone());
    ada.until_met(&one.key).await;
    // Its first words must be younger than the other one, or they could be of an earlier life.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _two = Node::start(3, settings(&keypair, &begin), replica);
    let told = one
        .until("the twin", |event| match event {
            Event::Twins(node) => Some(node),
            _ => None,
        })
        .await;
    assert_eq!(told, one.key);
}

/// More records than the node has room for: none is taken that it could not be told of, none is lost.
#[tokio::test]
async fn a_node_that_does_not_listen_for_a_while_loses_nothing() {
    const RECORDS: usize = SWARM_EVENTS_MAX + 100;
    let (ada, bob) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (genesis, _) = genesis(&[&ada, &bob]);
    let mut full = Replica::new(genesis.clone());
    for n in 0..RECORDS as u64 {
        let mut admission = Admission {
            network: genesis.network_id(),
            issuer: crate::nodes::key(&ada),
            subject: crate::nodes::key(&bob),
            issued_s: unix_s() - n,
            expires_s: unix_s() + 3600,
            signature: [0; 64],
        };
        admission.signature = sign(&ada, &admission.body());
        assert_eq!(full.insert(Record::Admission(admission)), Taken::New);
    }
    full.refold();
    let ada = Node::start(1, settings(&ada, &[]), full);
    let begin = ada.addresses().await;
    let mut bob = Node::start(2, settings(&bob, &begin), Replica::new(genesis));
    let full = async {
        while bob.events.len() < SWARM_EVENTS_MAX {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the sync has begun", full).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut told = std::collections::BTreeSet::new();
    bob.until("all records", |event| {
        if let Event::Recorded(record) = event {
            assert!(told.insert(record.id()), "told twice");
        }
        (told.len() == RECORDS).then_some(())
    })
    .await;
}
