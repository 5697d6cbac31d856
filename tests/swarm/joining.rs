//! Invites: who is let in, and who is not.

use crate::nodes::{Node, all_linked, all_meet, key, settings, soon};
use libp2p_identity::Keypair;
use quorate::net::swarm::{Event, JoinError, Link, join, unix_s};
use quorate_core::governance::Record;
use quorate_core::ids::NetworkId;
use quorate_core::mesh::join::Refusal;
use quorate_core::mesh::{Address, Nonce, Place, Transport};
use std::sync::Arc;

#[tokio::test]
async fn three_meet_through_invites_in_a_chain() {
    let ada = Node::founder(1);
    let bob = Node::join(2, &ada).await;
    let cyd = Node::join(3, &bob).await;
    let mut nodes = [ada, bob, cyd];
    all_meet(&mut nodes).await;
    all_linked(&nodes).await;
    let [ada, _, cyd] = &nodes;
    let peers = ada.handle.peers().await;
    assert_eq!(peers.len(), 2);
    assert!(
        peers
            .iter()
            .all(|view| view.is_member && view.link.is_some())
    );
    assert!(peers.iter().all(|view| view.link != Some(Link::Relayed)));
    assert!(ada.handle.roll().contains(&cyd.key));
}

#[tokio::test]
async fn an_admission_is_told_so_that_it_can_be_written_down() {
    let mut ada = Node::founder(1);
    let bob = Node::join(2, &ada).await;
    let record = ada
        .until("the admission", |event| match event {
            Event::Recorded(record) => Some(*record),
            _ => None,
        })
        .await;
    let Record::Admission(admission) = record else {
        panic!("something else");
    };
    assert_eq!((admission.issuer, admission.subject), (ada.key, bob.key));
    // Who is in and shows an invite again is given what he has.
    let again = join(&bob.keypair, &ada.invite().await, unix_s()).await;
    assert_eq!(again.unwrap().chain, [admission.encode()]);
    let told = ada
        .events_within(std::time::Duration::from_millis(300))
        .await;
    assert!(!told.iter().any(|event| matches!(event, Event::Recorded(_))));
}

#[tokio::test]
async fn invites_that_do_not_hold_are_refused_with_the_reason() {
    let keypair = Keypair::generate_ed25519();
    let (genesis, _) = crate::nodes::genesis(&[&keypair]);
    let mut options = settings(&keypair, &[]);
    options.revoked = Arc::new(|nonce| *nonce == Nonce([13; 16]));
    let replica = quorate_core::governance::Replica::new(genesis);
    let mut ada = Node::start(1, options, replica);
    let guest = Keypair::generate_ed25519();
    let expired = ada
        .invite_but(|invite| {
            (invite.issued_s, invite.expires_s) = (unix_s() - 7200, unix_s() - 3600);
        })
        .await;
    let revoked = ada
        .invite_but(|invite| invite.nonce = Nonce([13; 16]))
        .await;
    let other_mesh = ada
        .invite_but(|invite| invite.network = NetworkId([5; 32]))
        .await;
    for (invite, why) in [
        (&expired, Refusal::Expired),
        (&revoked, Refusal::Revoked),
        (&other_mesh, Refusal::OtherMesh),
    ] {
        match join(&guest, invite, unix_s()).await {
            Err(JoinError::Refused(said)) => assert_eq!(said, why),
            other => panic!("{why:?}: {:?}", other.map(|_| ())),
        }
    }
    // Signed by somebody who is nobody here, at the address of a member: another key answers there.
    let stranger = Node::founder(9);
    let addresses = ada.addresses().await;
    let other_issuer = stranger
        .invite_but(|invite| {
            invite.addresses = addresses;
            invite.network = ada.network;
        })
        .await;
    let refused = join(&guest, &other_issuer, unix_s()).await;
    assert!(matches!(refused, Err(JoinError::Unreachable(_))));
    let told = ada
        .events_within(std::time::Duration::from_millis(300))
        .await;
    assert!(told.is_empty(), "nobody was let in");
    assert!(!ada.handle.roll().contains(&key(&guest)));
}

#[tokio::test]
async fn the_last_of_a_chain_lets_nobody_in() {
    let a = Node::founder(1);
    let b = Node::join(2, &a).await;
    let c = Node::join(3, &b).await;
    let d = Node::join(4, &c).await;
    let guest = Keypair::generate_ed25519();
    let refused = join(&guest, &d.invite().await, unix_s()).await;
    assert!(matches!(
        refused,
        Err(JoinError::Refused(Refusal::ChainEnds))
    ));
}

#[tokio::test]
async fn an_invite_to_nowhere_says_so() {
    let ada = Node::founder(1);
    let nowhere = ada
        .invite_but(|invite| {
            invite.addresses = vec![Address {
                place: Place::parse("127.0.0.1", 9).unwrap(),
                transport: Transport::Tcp,
                relay: None,
            }];
        })
        .await;
    let guest = Keypair::generate_ed25519();
    let failed = join(&guest, &nowhere, unix_s()).await;
    assert!(matches!(failed, Err(JoinError::Unreachable(_))));
    let own = join(&ada.keypair, &ada.invite().await, unix_s()).await;
    assert!(matches!(own, Err(JoinError::Own)));
}

/// Each was let in while the other was away, and whoever let them in is gone: they show their papers.
#[tokio::test]
async fn two_that_never_heard_of_each_other_meet() {
    let mut ada = Node::founder(1);
    let bob = Node::join(2, &ada).await;
    let (keypair, replica) = (bob.keypair.clone(), bob.replica.clone());
    drop(bob);
    let invite = ada.invite().await;
    let guest = Keypair::generate_ed25519();
    let joined = join(&guest, &invite, unix_s()).await.unwrap();
    ada.crash();
    let bob = Node::start(2, settings(&keypair, &[]), replica);
    let begin = bob.addresses().await;
    assert!(!bob.handle.roll().contains(&key(&guest)));
    let cyd = Node::start(3, settings(&guest, &begin), joined.replica);
    assert!(!cyd.handle.roll().contains(&bob.key));
    let mut nodes = [bob, cyd];
    all_meet(&mut nodes).await;
    all_linked(&nodes).await;
}

/// Bob can be reached through Ada only, as his invite says.
#[tokio::test]
async fn a_guest_comes_in_through_a_relay() {
    // Somebody has to tell Ada that she can be reached.
    let mut nodes = Node::genesis_mesh(3).await;
    let bob = nodes.pop().unwrap();
    let ada = nodes.pop().unwrap();
    let through_ada = |address: &Address| Address {
        relay: Some(ada.key),
        ..address.clone()
    };
    let announce: Vec<Address> = ada.addresses().await.iter().map(through_ada).collect();
    let keypair = bob.keypair.clone();
    let replica = bob.replica.clone();
    drop(bob);
    let mut options = settings(&keypair, &ada.addresses().await);
    options.announce = announce.clone();
    let bob = Node::start(3, options, replica);
    assert_eq!(bob.handle.addresses().await, announce);
    let guest = Keypair::generate_ed25519();
    let come_in = async {
        loop {
            // Until Ada knows that she can be reached, and Bob has his place.
            match join(&guest, &bob.invite().await, unix_s()).await {
                Ok(joined) => return joined,
                Err(JoinError::Unreachable(_)) => {
                    // A relay counts the attempts of a guest, and has enough of thirty.
                    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    let joined = soon("a way through the relay", come_in).await;
    let cyd = Node::start(4, settings(&guest, &ada.addresses().await), joined.replica);
    all_meet(&mut [ada, bob, cyd]).await;
}
