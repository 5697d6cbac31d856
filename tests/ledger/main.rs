//! A process that writes its ledger is killed at any moment, again and again: what it acknowledged
//! is there when the next one opens it, and what it halted stays halted.
//!
//! `QUORATE_KILLS=1000` is the long form.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use ed25519_dalek::{Signer, SigningKey};
use quorate::ledger::Ledger;
use quorate_core::config::MeshConfig;
use quorate_core::governance::{Body, Draft, EntryId, Genesis, Halt, Phase, Record, Rights};
use quorate_core::limits::HALTS_PER_AUTHOR_MAX;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DIR: &str = "QUORATE_TEST_LEDGER";
const NOW_S: u64 = 1_800_000_000;
/// Lives of one ledger: reading all of it takes longer in each.
const LIVES: u64 = 20;
/// A kill may come this long after the writer has said that it is ready.
const LIFE_US: u64 = 40_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn genesis() -> Genesis {
    let public = (1..=3).map(|n| key(n).verifying_key().to_bytes());
    Genesis::new(public.collect(), MeshConfig::default()).unwrap()
}

fn lower(seq: u64, prev: EntryId) -> Record {
    let draft = Draft {
        network: genesis().network_id(),
        epoch: 0,
        author: key(1).verifying_key().to_bytes(),
        seq,
        prev,
        refs: vec![],
        advisory_time: NOW_S,
        body: Body::Lower(Phase::ReadOnly),
    };
    let signature = key(1).sign(&draft.bytes()).to_bytes();
    Record::Entry(draft.signed(signature).unwrap())
}

fn halt(nonce: u128) -> Halt {
    let mut halt = Halt {
        network: genesis().network_id(),
        author: key(2).verifying_key().to_bytes(),
        nonce,
        reason: "smoke".into(),
        advisory_time: NOW_S,
        signature: [0; 64],
    };
    halt.signature = key(2).sign(&halt.body()).to_bytes();
    halt
}

fn hex(id: &[u8; 32]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

/// Goes on where the last life ended, and says what it has acknowledged, until it is killed.
fn write_on(dir: &Path) {
    let (mut ledger, stored) = Ledger::open(dir).unwrap();
    let mine = key(1).verifying_key().to_bytes();
    let said = stored.replica.records().iter().filter_map(|r| match r {
        Record::Entry(entry) if entry.draft().author == mine => {
            Some((entry.draft().seq, entry.id()))
        }
        _ => None,
    });
    let (mut seq, mut prev) = said
        .max()
        .map_or((0, EntryId::NONE), |(seq, id)| (seq + 1, id));
    let mut out = std::io::stdout();
    writeln!(out, "\nready").unwrap();
    loop {
        let record = lower(seq, prev);
        ledger.append(std::slice::from_ref(&record)).unwrap();
        writeln!(out, "kept {}", hex(&record.id())).unwrap();
        (seq, prev) = (seq + 1, EntryId(record.id()));
        if seq % 29 == 3 {
            let halt = halt(u128::from(seq));
            ledger.hold(&halt).unwrap();
            writeln!(out, "held {}", hex(&halt.id().0)).unwrap();
            ledger.append(&[Record::Halt(halt)]).unwrap();
        }
        ledger
            .settle(stored.replica.standing(), 0, NOW_S + seq * 60)
            .unwrap();
    }
}

/// Not a test of its own: the body of the process that is killed.
#[test]
fn the_writer() {
    if let Some(dir) = std::env::var_os(DIR) {
        write_on(Path::new(&dir));
    }
}

fn writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["the_writer", "--exact", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the writer says until it is killed, `life_us` after it was ready, or after its first word.
fn killed(dir: &Path, life_us: u64, speaks_first: bool) -> Vec<String> {
    let mut child = writer(dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while lines.next().unwrap().unwrap() != "ready" {}
    let first = speaks_first.then(|| lines.next().unwrap());
    std::thread::sleep(Duration::from_micros(life_us));
    child.kill().unwrap();
    child.wait().unwrap();
    let said = first.into_iter().chain(lines);
    said.map_while(Result::ok).collect()
}

#[test]
fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    let kills: u64 = std::env::var("QUORATE_KILLS").map_or(40, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (mut written, mut dice) = (0, 1_u64);
    let (mut kept, mut held) = (BTreeSet::new(), BTreeSet::new());
    for kill in 0..kills {
        let home = dir.path().join((kill / LIVES).to_string());
        if kill.is_multiple_of(LIVES) {
            drop(Ledger::create(&home, &genesis()).unwrap());
            (kept, held) = Default::default();
        }
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // On a busy machine a short life may be over before it has begun: every second one is not.
        for line in killed(&home, (dice >> 33) % LIFE_US, kill % 2 == 1) {
            // The last line may be cut, too.
            match line.split_once(' ') {
                Some(("kept", id)) if id.len() == 64 => kept.insert(id.to_owned()),
                Some(("held", id)) if id.len() == 64 => held.insert(id.to_owned()),
                _ => false,
            };
            written += 1;
        }
        let (_, stored) = Ledger::open(&home).unwrap_or_else(|lost| panic!("kill {kill}: {lost}"));
        let found: BTreeSet<String> = stored.replica.records().ids().map(|id| hex(&id)).collect();
        assert!(
            kept.is_subset(&found),
            "kill {kill}: an acknowledged record is gone"
        );
        // A flood keeps the smallest ids of one author; that he floods is as good as all of them. What is
        // there counts: each life may have written one halt more than it could say.
        let halts = stored.replica.records().iter();
        let halts = halts.filter(|r| matches!(r, Record::Halt(_))).count();
        let is_flood = halts > HALTS_PER_AUTHOR_MAX;
        assert!(
            is_flood || held.is_subset(&found),
            "kill {kill}: an acknowledged halt is gone; {} were, {halts} are there",
            held.len()
        );
        let runs = Rights::booting()
            .under(stored.replica.standing().clone())
            .mesh()
            .is_ok();
        assert!(
            held.is_empty() || !runs,
            "kill {kill}: it runs under a halt"
        );
    }
    assert!(written >= kills / 2, "nothing was written: {written}");
}
