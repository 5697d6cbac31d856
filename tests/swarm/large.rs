//! More members than a node has links.

use crate::nodes::{Node, all_meet, genesis, settings, soon};
use libp2p_identity::Keypair;
use quorate_core::governance::Replica;
use quorate_core::ids::PeerKey;
use quorate_core::limits::SWARM_LINKS_MAX;
use std::time::Duration;

async fn links(node: &Node) -> Vec<PeerKey> {
    let views = node.handle.peers().await.into_iter();
    views.filter(|v| v.link.is_some()).map(|v| v.key).collect()
}

#[tokio::test]
async fn all_are_known_few_are_connected_and_any_can_be_reached() {
    let members = SWARM_LINKS_MAX + 8;
    let keypairs: Vec<Keypair> = (0..members).map(|_| Keypair::generate_ed25519()).collect();
    let (genesis, _) = genesis(&keypairs.iter().collect::<Vec<_>>());
    let replica = Replica::new(genesis);
    let mut nodes: Vec<Node> = Vec::new();
    for keypair in &keypairs {
        let begin = match nodes.first() {
            Some(first) => first.addresses().await,
            None => vec![],
        };
        let n = nodes.len() as u8 + 1;
        nodes.push(Node::start(n, settings(keypair, &begin), replica.clone()));
    }
    all_meet(&mut nodes).await;
    let enough = async {
        for node in &nodes {
            while links(node).await.len() < SWARM_LINKS_MAX {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    soon("every node has its links", enough).await;
    // The first is where all began. Of the others none needs everybody.
    let mut all = 0;
    for node in &nodes[1..] {
        all += links(node).await.len();
    }
    let most = (members - 1) * (members - 1);
    assert!(all < most * 19 / 20, "{all} of {most}");
    let mut strangers = None;
    for (n, node) in nodes.iter().enumerate() {
        let linked = links(node).await;
        let mut others = (0..members).filter(|other| *other != n);
        if let Some(other) = others.find(|other| !linked.contains(&nodes[*other].key)) {
            strangers = Some((n, other));
        }
    }
    let (n, other) = strangers.expect("two that are not connected");
    let view = nodes[n].handle.peers().await;
    let view = view.iter().find(|view| view.key == nodes[other].key);
    assert!(view.is_some_and(|view| view.is_here && view.is_member));
    let stream = nodes[n].handle.stream(nodes[other].key).await;
    assert!(stream.is_ok(), "{:?}", stream.err());
}
