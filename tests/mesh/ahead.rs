//! Guessing ahead, through whole nodes and over a distance: quicker, and the same to the byte.

use super::*;
use quorate::testnet::relay;

use quorate_core::link::Link;

const AHEAD: Asked = Asked::Mesh {
    sets: Sets::A,
    k_max: None,
    guessing: Guessing::Stream,
};

/// Everybody but the first is this far away.
async fn far_mesh_of(names: &[&'static str], one_way_us: u32) -> (Vec<Machine>, Vec<relay::Relay>) {
    let mut machines = Vec::new();
    for name in names {
        machines.push(machine(name, Arc::new(|_: &PeerKey| true)).await);
    }
    let link = Link {
        delay_us: one_way_us,
        jitter_us: 3_000,
        reorder_ppm: 20_000,
        ..Link::named("lan").unwrap()
    };
    let mut relays = Vec::new();
    for (seed, other) in (1..).zip(&machines[1..]) {
        let here = "127.0.0.1:0".parse().unwrap();
        let there = other.plane.local_addr().unwrap();
        let relay = relay::start(here, there, link, seed, other.stop.clone())
            .await
            .unwrap();
        meet_at(&machines[0], other, relay.addr).await;
        relays.push(relay);
    }
    (machines, relays)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_ahead_moves_no_byte() {
    let (machines, _relays) = far_mesh_of(&["ada", "ben", "cai", "dot"], 30_000).await;
    let plain = ask(&machines[0], MESH, 50, |_| ()).await;
    assert_eq!(plain.guesses, Guesses::default());
    let ahead = ask(&machines[0], AHEAD, 50, |_| ()).await;
    assert!(
        ahead.guesses.right > 0 && ahead.guesses.wrong > 0,
        "{:?}",
        ahead.guesses
    );
    assert_eq!(ahead.schedule, plain.schedule, "nobody failed");
    assert_eq!(ahead.text, plain.text);
    let beside = Asked::Mesh {
        sets: Sets::A,
        k_max: None,
        guessing: Guessing::Branches,
    };
    let beside = ask(&machines[0], beside, 50, |_| ()).await;
    assert_eq!(beside.text, plain.text, "{:?}", beside.guesses);
    assert!(
        ahead
            .provenance
            .iter()
            .all(|p| p.asked.iter().all(|v| v.arrived))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expert_that_dies_with_guesses_under_way_costs_no_text() {
    let (machines, _relays) = far_mesh_of(&["ada", "ben", "cai", "dot", "eve"], 20_000).await;
    let stops: Vec<CancellationToken> = machines.iter().map(|m| m.stop.clone()).collect();
    let told = ask(&machines[0], AHEAD, 60, move |tokens| {
        if tokens == 20 {
            stops[1].cancel();
        }
    })
    .await;
    // That the recording stands is checked by `ask`.
    assert_eq!((&told.why, told.text.len()), (&Finish::Length, 60));
    let last = set(&told, told.schedule.len() - 1);
    assert!(!last.contains(&machines[1].lease.facts().id));
}

/// A router whose own expert has no part lets another one lead; a single one writes alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn experts_that_take_turns_are_led_over_the_plane() {
    let (machines, _relays) = far_mesh_of(&["ada", "ben", "cai", "dot"], 30_000).await;
    let turns = |guessing| Asked::Mesh {
        sets: Sets::Turns { sigma_ppm: 100_000 },
        k_max: None,
        guessing,
    };
    let plain = ask(&machines[0], turns(Guessing::Never), 60, |_| ()).await;
    let ahead = ask(&machines[0], turns(Guessing::Stream), 60, |_| ()).await;
    assert_eq!(ahead.text, plain.text);
    assert_eq!(ahead.schedule, plain.schedule);
    assert_eq!(ahead.guesses.wrong, 0, "a speaker decides alone");
    assert!(ahead.guesses.right > 20, "{:?}", ahead.guesses);
    let speakers: BTreeSet<ExpertId> = (0..ahead.schedule.len())
        .flat_map(|at| set(&ahead, at))
        .collect();
    assert!(speakers.len() > 1, "the word goes round");
    assert!(ahead.provenance.iter().all(|p| p.asked.len() == 1));
}
