//! A voter without a node hands his halt to a mesh: the signature counts, not who carries it.

use crate::nodes::{Node, all_meet, genesis, key, settings, sign};
use libp2p_identity::Keypair;
use quorate::net::swarm::{CarryError, Event, carry};
use quorate_core::governance::{Halt, HaltId, Replica};
use quorate_core::ids::NetworkId;
use std::time::Duration;

fn halt(network: NetworkId, person: &Keypair, nonce: u128) -> Halt {
    let mut halt = Halt {
        network,
        author: key(person),
        nonce,
        reason: "smoke".into(),
        advisory_time: 1,
        signature: [0; 64],
    };
    halt.signature = sign(person, &halt.body());
    halt
}

async fn until_recorded(node: &mut Node, id: HaltId) {
    node.until("the halt", |event| match event {
        Event::Recorded(record) => (record.id() == id.0).then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_that_a_stranger_carries_reaches_a_whole_mesh() {
    let keypairs = [Keypair::generate_ed25519(), Keypair::generate_ed25519()];
    let (genesis, person) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let network = genesis.network_id();
    let replica = Replica::new(genesis);
    let first = Node::start(1, settings(&keypairs[0], &[]), replica.clone());
    let addresses = first.addresses().await;
    let second = Node::start(2, settings(&keypairs[1], &addresses), replica);
    let mut nodes = [first, second];
    all_meet(&mut nodes).await;

    // Nobody's word stops it, whoever brings it.
    let nobody = Keypair::generate_ed25519();
    let mut unsigned = halt(network, &person, 1);
    unsigned.signature = [0; 64];
    for bad in [
        unsigned,
        halt(network, &nobody, 2),
        halt(NetworkId([9; 32]), &person, 3),
    ] {
        let carried = carry(None, &addresses, &bad).await;
        assert!(matches!(carried, Err(CarryError::Refused)), "{carried:?}");
    }
    let heard = nodes[1].events_within(Duration::from_millis(300)).await;
    let is_record = |event: &Event| matches!(event, Event::Recorded(_));
    assert!(!heard.iter().any(is_record));

    // To an address, and to a node whose key is known; twice is as good as once.
    let (one, two) = (halt(network, &person, 4), halt(network, &person, 5));
    let known = Some(nodes[0].key);
    for (node, halt) in [(None, &one), (known, &two), (known, &two)] {
        carry(node, &addresses, halt).await.unwrap();
    }
    for node in &mut nodes {
        until_recorded(node, one.id()).await;
        until_recorded(node, two.id()).await;
    }
    let other = Some(key(&nobody));
    let carried = carry(other, &addresses, &two).await;
    assert!(
        matches!(carried, Err(CarryError::Unreachable(_))),
        "the key of another: {carried:?}"
    );
}
