//! What is known of experts: counted after a request whose law learns, and what the next one sets out from.

use crate::{MESH, Machine, Told, ask_under, mesh_of};
use quorate::driver::{Gate, Seen};
use quorate_core::ids::{ExpertId, NetworkId};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::limits::GATE_SEEN_MAX;
use quorate_core::weights::{Gates, Own, Weighing};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// As short as counts: a longer one leaves nothing to a prior.
const TEXT: &str = "to the harbour!!";

async fn under(weights: &str, machine: &Machine) -> Told {
    let law = Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap();
    let law = law.weighed(Weighing::named(weights).unwrap());
    ask_under(law, TEXT, machine, MESH, 20, |_| ()).await
}

async fn set(machine: &Machine, own: &Own, seen: &mpsc::Sender<Seen>) {
    let gates = Arc::new(Gates::new(NetworkId([7; 32]), [1; 32], own.clone()));
    let seen = seen.clone();
    machine.node.set_gate(Some(Gate { gates, seen })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_saw_is_where_the_next_one_sets_out() {
    let machines = mesh_of(&["ada", "ben", "cai"]).await;
    let ada = &machines[0];
    let experts: Vec<ExpertId> = machines.iter().map(|m| m.lease.facts().id).collect();
    let (uniform, before) = (under("uniform", ada).await, under("share", ada).await);
    let (seen_tx, mut seen) = mpsc::channel(GATE_SEEN_MAX);
    let vocabulary = ada.lease.facts().vocab.fingerprint();
    let mut own = Own::default();
    own.list(
        1,
        &experts
            .iter()
            .map(|id| (vocabulary, *id))
            .collect::<Vec<_>>(),
    );
    set(ada, &own, &seen_tx).await;
    let first = under("share", ada).await;
    assert_eq!(first.text, before.text, "nothing is known yet");
    let patience = Duration::from_secs(60);
    let (of, saw) = timeout(patience, seen.recv()).await.unwrap().unwrap();
    assert_eq!(of, vocabulary);
    (0..200).for_each(|_| own.observe(of, &saw));
    set(ada, &own, &seen_tx).await;
    let after = under("share", ada).await;
    // Who knew it weighs more now, and that stands in the schedule.
    let best = |told: &Told| {
        let weights = told.schedule[0].set.iter().map(|(_, weight)| *weight);
        weights.fold(0.0, f64::max)
    };
    assert!(
        best(&after) > best(&before) + 0.1,
        "{} {}",
        best(&before),
        best(&after)
    );
    // A law that learns nothing neither tells nor listens.
    timeout(patience, seen.recv()).await.unwrap().unwrap();
    assert_eq!(under("uniform", ada).await.text, uniform.text);
    ada.node.set_gate(None).await;
    assert_eq!(under("share", ada).await.text, before.text);
    drop(seen_tx);
    assert_eq!(seen.recv().await, None, "nobody else was counted");
}
