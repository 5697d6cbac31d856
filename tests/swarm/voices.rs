//! What nodes say of experts reaches members that never met who said it.

use crate::nodes::{Node, genesis, key, settings, sign, soon};
use libp2p_identity::Keypair;
use quorate::net::swarm::{Joined, Settings, join, unix_s};
use quorate_core::governance::Replica;
use quorate_core::ids::{ExpertId, Fingerprint, NetworkId, PeerKey};
use quorate_core::lnp::LnP;
use quorate_core::weights::{Gates, Noise, Observation, Own, Topic, Voice};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VOCABULARY: Fingerprint = Fingerprint([2; 32]);
const EXPERTS: [ExpertId; 2] = [ExpertId([1; 32]), ExpertId([2; 32])];

fn text() -> Vec<u32> {
    (0..40).map(|n| 1_000 + 37 * n).collect()
}

fn today() -> u32 {
    (unix_s() / 86_400) as u32
}

/// What a node says that saw the first expert know this topic five hundred times.
fn voice(keypair: &Keypair, network: NetworkId) -> Voice {
    let (good, bad) = (vec![LnP::floor(-1.0); 39], vec![LnP::floor(-2.0); 39]);
    let said = [(EXPERTS[0], &good[..]), (EXPERTS[1], &bad[..])];
    let seen = Observation::of(&text(), &said).unwrap();
    let mut own = Own::default();
    own.list(today(), &EXPERTS.map(|expert| (VOCABULARY, expert)));
    (0..500).for_each(|_| own.observe(VOCABULARY, &seen));
    own.close(today(), &mut Noise::new(&[5; 32]));
    let mut voice = own.voice(network, key(keypair)).unwrap();
    voice.signature = sign(keypair, &voice.body());
    voice
}

fn gates(of: &Keypair, network: NetworkId) -> Arc<Mutex<Gates>> {
    Arc::new(Mutex::new(Gates::new(network, key(of), Own::default())))
}

async fn until_heard(gates: &Mutex<Gates>, all: &[PeerKey]) {
    let heard = async {
        loop {
            let nodes: Vec<PeerKey> = gates.lock().unwrap().voices().map(|v| v.node).collect();
            if nodes == all {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the voices", heard).await;
}

#[tokio::test]
async fn a_newcomer_hears_what_a_node_said_that_is_gone() {
    let (ada, bob, cyd) = (
        Keypair::generate_ed25519(),
        Keypair::generate_ed25519(),
        Keypair::generate_ed25519(),
    );
    let (genesis, _) = genesis(&[&ada, &bob]);
    let replica = Replica::new(genesis);
    let network = replica.genesis().network_id();
    let (adas, bobs, cyds) = (
        gates(&ada, network),
        gates(&bob, network),
        gates(&cyd, network),
    );
    for (of, gates) in [(&ada, &adas), (&bob, &bobs)] {
        gates.lock().unwrap().told = Some(voice(of, network));
    }
    // Ada passes on a stranger's word as well, which nobody may believe.
    let stranger = voice(&Keypair::generate_ed25519(), network);
    adas.lock().unwrap().hear(stranger, today()).unwrap();
    let with = |settings: Settings, gates: &Arc<Mutex<Gates>>| Settings {
        gates: Some(gates.clone()),
        ..settings
    };
    let mut first = Node::start(1, with(settings(&ada, &[]), &adas), replica.clone());
    let begin = first.addresses().await;
    let second = Node::start(2, with(settings(&bob, &begin), &bobs), replica);
    until_heard(&bobs, &[key(&ada)]).await;
    first.crash();
    let invite = second.invite().await;
    let Joined { replica, .. } = join(&cyd, &invite, unix_s()).await.unwrap();
    let third = settings(&cyd, &invite.addresses);
    let _third = Node::start(3, with(third, &cyds), replica);
    let mut both = [key(&ada), key(&bob)];
    both.sort_unstable();
    until_heard(&cyds, &both).await;
    let topic = Topic::of(&text()).unwrap();
    let prior = |gates: &Mutex<Gates>| gates.lock().unwrap().prior(VOCABULARY, &topic, &EXPERTS);
    assert!(prior(&cyds)[0] > 0.7, "{:?}", prior(&cyds));
    assert_eq!(prior(&bobs), [0.5, 0.5], "one voice alone moves nobody");
}
