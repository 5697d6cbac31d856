//! What people can still read of a mesh's past, and while it happens.

use crate::gov::Table;
use crate::harness::Home;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

fn kinds<'a>(log: &'a Value, kind: &str) -> Vec<&'a Value> {
    let rows = log.as_array().unwrap().iter();
    rows.filter(|row| row["kind"] == kind).collect()
}

#[test]
fn a_halt_that_is_over_still_says_who_why_and_what_lifted_it() {
    let table = Table::new();
    table.found("solo", &["ada"], &[]);
    table
        .signed("ada", &["halt", "--reason", "it smokes"])
        .works();
    let before = table.gov(&["log", "--json"]).json();
    assert!(kinds(&before, "halt")[0]["lifted_by"].is_null());
    table.signed("ada", &["resume"]).works();
    assert_eq!(table.status()["halted"], false);
    table.export("log.parcel");
    for from in [&[][..], &["--log", "log.parcel"]] {
        let log = table.gov(&[&["log", "--json"], from].concat()).json();
        let halts = kinds(&log, "halt");
        assert_eq!(halts.len(), 1, "{log}");
        assert_eq!(
            (&halts[0]["text"], halts[0]["author"].is_string()),
            (&"it smokes".into(), true)
        );
        let resume = halts[0]["lifted_by"].as_str().unwrap();
        let proposals = kinds(&log, "propose");
        let shown = table.gov(&[&["show", &resume[..8]], from].concat());
        assert!(
            shown.works().contains(proposals[0]["id"].as_str().unwrap()),
            "{shown:?}"
        );
        let id = halts[0]["id"].as_str().unwrap();
        let shown = table.gov(&[&["show", id], from].concat());
        assert!(
            shown.works().contains(&format!("lifted by {resume}")),
            "{shown:?}"
        );
        let lines = table.gov(&[&["log"], from].concat());
        let line = format!("it smokes  (lifted by {})", &resume[..8]);
        assert!(lines.works().contains(&line), "{lines:?}");
    }
}

#[test]
fn the_log_is_followed_while_people_sign() {
    let table = Table::new();
    table.found("solo", &["ada"], &[]);
    let args = ["gov", "log", "--follow", "--json"];
    let mut command = table.node.command(&args);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, hear) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let row: Value = serde_json::from_str(&line).unwrap();
            tell.send(row).unwrap();
        }
    });
    let next = || hear.recv_timeout(Duration::from_secs(20)).unwrap();
    table.signed("ada", &["halt", "--reason", "smoke"]).works();
    assert_eq!(next()["text"], "smoke");
    let stands = next();
    assert_eq!(
        (&stands["kind"], &stands["halted"][0]),
        (&"standing".into(), &"smoke".into())
    );
    table.signed("ada", &["resume"]).works();
    assert_eq!(next()["kind"], "propose");
    assert_eq!(next()["kind"], "vote");
    assert_eq!(next()["halted"].as_array().unwrap().len(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
    table.export("log.parcel");
    table
        .gov(&["log", "--follow", "--log", "log.parcel"])
        .fails(2, &["does not go on", "--log"]);
}

#[test]
fn a_voter_without_a_node_stops_a_running_one_from_afar() {
    let table = Table::new();
    let mesh = table.found("solo", &["ada"], &[]);
    // One port for each test process, below those that the kernel hands out.
    let port = 8_000 + std::process::id() % 8_000;
    let settings = format!(
        "version = 1\n[mesh]\nlisten = '127.0.0.1:{port}'\nplane_listen = '127.0.0.1:0'\nmdns = false\n"
    );
    std::fs::write(table.node.path().join("config.toml"), settings).unwrap();
    let _node = table.node.up(&[]);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while table.node.run(&["peers"]).code != 0 {
        assert!(std::time::Instant::now() < until, "the mesh does not begin");
    }
    let away = Home::new();
    let halt = |to: &[&str]| {
        let signing = ["--key", "ada.key", "--passphrase-file", "words", "--yes"];
        table.at(
            &away,
            &[&["halt", "--reason", "smoke"], to, &signing].concat(),
        )
    };
    let here = format!("127.0.0.1:{port}");
    halt(&["--to", &here]).fails(4, &["which mesh", "--network"]);
    let halted = halt(&["--to", &here, "--network", &mesh]);
    assert!(
        halted.works().contains("1 of 1 nodes hold the halt"),
        "{halted:?}"
    );
    // It is in memory there; the disk follows.
    while table.status()["halted"] == false {
        assert!(std::time::Instant::now() < until, "it is not written down");
    }
    let peers = table.node.run(&["peers"]);
    assert!(peers.works().contains("HALTED: smoke"), "{peers:?}");
    // Nobody is there: nothing is lost.
    halt(&["--to", "127.0.0.1:1", "--network", &mesh]).fails(7, &["0 of 1 nodes", "kept in"]);
    halt(&["--to", "a b", "--network", &mesh]).fails(2, &["neither an invite nor an address"]);
}
