//! Belonging to a mesh, as its users type it. Nodes here have no model: they meet all the same.

use crate::harness::{Home, Up};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Ports of its own, mDNS off: nothing outside the test is met.
fn settings(home: &Home) {
    let text =
        "version = 1\n[mesh]\nlisten = '127.0.0.1:0'\nplane_listen = '127.0.0.1:0'\nmdns = false\n";
    std::fs::write(home.path().join("config.toml"), text).unwrap();
}

fn home() -> Home {
    let home = Home::new();
    settings(&home);
    home
}

/// Looks until it is so.
#[track_caller]
fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: not within 30 s");
}

fn peers(home: &Home) -> Option<Value> {
    let ran = home.run(&["peers", "--json"]);
    (ran.code == 0).then(|| ran.json())
}

fn states(home: &Home) -> Vec<String> {
    let page = peers(home).unwrap_or_default();
    let peers = page["peers"].as_array().cloned().unwrap_or_default();
    let state = |peer: &Value| peer["state"].as_str().unwrap().to_owned();
    peers.iter().map(state).collect()
}

/// A mesh of one, up.
fn founder() -> (Home, Up) {
    let founder = home();
    founder.run(&["mesh", "new"]).works();
    let up = founder.up(&[]);
    // Whoever is up takes part: a script may ask at once.
    peers(&founder).expect("the mesh has begun");
    (founder, up)
}

fn invite(of: &Home, more: &[&str]) -> Value {
    let args = [&["invite", "--json"], more].concat();
    of.run(&args).json()
}

#[test]
fn a_node_alone_says_how_to_belong() {
    let home = home();
    home.run(&["invite"]).fails(
        4,
        &["belongs to no mesh", "quorate mesh new", "quorate join"],
    );
    home.run(&["leave"]).fails(4, &["belongs to no mesh"]);
    let alone = home.run(&["doctor"]).out;
    assert!(
        alone.contains("every answer stays on this machine"),
        "{alone}"
    );
    home.run(&["peers"])
        .fails(4, &["no node is up", "quorate up"]);
    home.run(&["join", "hello"])
        .fails(2, &["this is no invite", "quorate1"]);
    home.run(&["run", "mesh", "hello"])
        .fails(4, &["no", "quorate up"]);
    let made = home.run(&["mesh", "new", "--json"]).json();
    assert_eq!(made["unsafe"], true);
    let member = home.run(&["doctor"]).out;
    assert!(
        member.contains("takes part while the node is up"),
        "{member}"
    );
    assert!(member.contains("127.0.0.1:0 is free"), "{member}");
    home.run(&["mesh", "new"])
        .fails(5, &["belongs to a mesh already", "quorate leave"]);
    home.run(&["invite"])
        .fails(4, &["no node is up", "quorate up"]);
    home.run(&["leave"]).works();
    home.run(&["mesh", "new"]).works();
}

#[test]
fn a_member_that_cannot_take_part_says_why() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let plane = taken.local_addr().unwrap();
    let home = Home::new();
    let text = format!(
        "version = 1\n[mesh]\nlisten = '127.0.0.1:0'\nplane_listen = '{plane}'\nmdns = false\n"
    );
    std::fs::write(home.path().join("config.toml"), text).unwrap();
    home.run(&["mesh", "new"]).works();
    let _up = home.up(&[]);
    home.run(&["peers"])
        .fails(4, &["cannot take part in its mesh", &plane.to_string()]);
}

#[test]
fn a_node_that_is_up_joins_meets_and_leaves() {
    let (ada, _up) = founder();
    let ben = home();
    let mut ben_up = ben.up(&[]);
    ben.run(&["peers"])
        .fails(4, &["belongs to no mesh", "quorate join"]);
    let invite = invite(&ada, &[]);
    let joined = ben.run(&["join", invite["invite"].as_str().unwrap()]);
    assert!(joined.works().contains("takes part now"), "{joined:?}");
    peers(&ben).expect("ben takes part now");
    soon("both to see each other", || {
        (states(&ada) == ["here"] && states(&ben) == ["here"]).then_some(())
    });
    let doctor = ada.run(&["doctor"]);
    for words in [
        "member of",
        "2 nodes admitted",
        "none known: the mesh runs",
        "1 here (1 direct, 0 relayed)",
        "token plane at 127.0.0.1:",
    ] {
        assert!(doctor.out.contains(words), "no {words:?} in {doctor:?}");
    }
    let table = ada.run(&["peers"]);
    assert!(table.works().contains("direct"), "{table:?}");
    ben.run(&["join", invite["invite"].as_str().unwrap()])
        .fails(5, &["belongs to that mesh already", "quorate leave"]);
    // The way back in is on the disk: after a sudden death it is there again.
    ben_up.kill_9();
    soon("a dead node to be silent", || {
        (states(&ada) != ["here"]).then_some(())
    });
    let _ben_up = ben.up(&[]);
    soon("it to be back", || (states(&ada) == ["here"]).then_some(()));
    ben.run(&["leave"]).works();
    soon("it to be gone", || (states(&ada) != ["here"]).then_some(()));
}

#[test]
fn who_was_not_invited_or_no_longer_stays_out() {
    let (ada, _up) = founder();
    let stranger = home();
    let revoked = invite(&ada, &[]);
    let name = revoked["name"].as_str().unwrap();
    ada.run(&["invite", "--revoke", name]).works();
    stranger
        .run(&["join", revoked["invite"].as_str().unwrap()])
        .fails(7, &["revoked"]);
    let short = invite(&ada, &["--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(2100));
    stranger
        .run(&["join", short["invite"].as_str().unwrap()])
        .fails(7, &["expired"]);
    ada.run(&["invite", "--expires", "0s"])
        .fails(2, &["lasts from"]);
    ada.run(&["invite", "--revoke", "x"])
        .fails(2, &["not the name of an invite"]);
    assert!(states(&ada).iter().all(|state| state != "here"));
    stranger.run(&["peers"]).fails(4, &["no node is up"]);
}
