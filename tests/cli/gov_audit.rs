//! What a node allowed and refused: shown, exported, and checked by strangers.

use crate::gov::Table;
use crate::harness::Home;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Waits for a word of the node's audit log.
fn audited(table: &Table, ruling: &str) -> Value {
    let begun = Instant::now();
    loop {
        let ran = table.gov(&["audit", "--json"]);
        if ran.code == 0 {
            let page = ran.json();
            let lines = page["lines"].as_array().unwrap();
            if lines.iter().any(|line| line["ruling"] == ruling) {
                return page;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{ran:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What `gov status` and `doctor` say of it.
fn shown(table: &Table, is_whole: bool) {
    let page = table.status()["audit"].clone();
    let text = table.gov(&["status"]).works().to_owned();
    let doctor = table.node.run(&["doctor", "--json"]).out;
    let doctor: Value = serde_json::from_str(&doctor).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["name"] == "audit")
        .unwrap();
    assert_eq!(page["verified"], is_whole, "{page}");
    if is_whole {
        assert_eq!(
            (&page["written"], &page["last"]["ruling"]),
            (&1.into(), &"began".into())
        );
        assert!(
            text.contains("audit     1 lines, one chain; last 20"),
            "{text}"
        );
        assert_eq!(check["level"], "ok", "{check}");
    } else {
        assert!(
            page["hint"].as_str().unwrap().contains("keep a copy"),
            "{page}"
        );
        assert!(
            text.contains("AUDIT     the audit log is damaged"),
            "{text}"
        );
        assert_eq!(check["level"], "fail", "{check}");
        assert!(
            check["fix"].as_str().unwrap().contains("keep a copy"),
            "{check}"
        );
    }
}

#[test]
fn an_audit_log_is_exported_and_a_stranger_finds_any_byte_that_was_changed() {
    let table = Table::new();
    table
        .gov(&["audit"])
        .fails(4, &["no mesh", "quorate join INVITE", "quorate gov init"]);
    let mesh = table.found("solo", &["ada"], &[]);
    table
        .gov(&["audit"])
        .fails(4, &["not taken part", "quorate up"]);
    assert_eq!(table.status()["audit"], Value::Null);
    assert!(
        table
            .gov(&["status"])
            .works()
            .contains("audit     nothing yet")
    );
    let text =
        "version = 1\n[mesh]\nlisten = '127.0.0.1:0'\nplane_listen = '127.0.0.1:0'\nmdns = false\n";
    std::fs::write(table.node.path().join("config.toml"), text).unwrap();
    let up = table.node.up(&[]);
    let page = audited(&table, "began");
    assert_eq!(
        (&page["mesh"], &page["complete"]),
        (&mesh.clone().into(), &true.into())
    );
    drop(up);
    let lines = table.gov(&["audit", "--last", "1"]);
    assert!(lines.works().contains("began"), "{lines:?}");
    shown(&table, true);

    table.gov(&["audit", "--out", "audit.log"]).works();
    table
        .gov(&["audit", "--out", "audit.log"])
        .fails(5, &["is there already"]);
    let stranger = Home::new();
    let told = table
        .at(
            &stranger,
            &["verify", "audit.log", "--network", &mesh, "--json"],
        )
        .json();
    assert_eq!(
        (&told["verified"], &told["mesh"]),
        (&true.into(), &mesh.into())
    );
    assert!(told["node"].as_str().unwrap().starts_with("12D3"), "{told}");
    let other = "0".repeat(64);
    table
        .at(&stranger, &["verify", "audit.log", "--network", &other])
        .fails(1, &["another mesh"]);
    let bytes = std::fs::read(table.path("audit.log")).unwrap();
    // Every byte is tried in the core; here the parts of the file. The first says what the file is.
    for at in [
        0,
        30,
        60,
        100,
        140,
        bytes.len() / 2,
        bytes.len() - 80,
        bytes.len() - 1,
    ] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(table.path("changed"), changed).unwrap();
        table
            .at(&stranger, &["verify", "changed"])
            .fails(1, &["does not verify"]);
    }

    // And in the files of the node.
    let part = table.node.path().join("mesh/audit.00");
    let mut bytes = std::fs::read(&part).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    table
        .gov(&["audit"])
        .fails(1, &["damaged", "has changed the files", "move them away"]);
    shown(&table, false);
}
