//! Whatever a crash, a failing disk or a flipped bit leaves: the node boots with all that was
//! acknowledged, or it stays halted. It never runs.
//!
//! `QUORATE_LONG=1` tries every byte of what only fills a block, too.

use super::made::{Image, Made, Step, Torn, acknowledged, arrived, only_synced};
use super::*;
use ed25519_dalek::{Signer, SigningKey};
use quorate_core::config::{Key, MeshConfig, Patch, Set};
use quorate_core::governance::{
    Act, Author, Ballot, Body, Choice, Consent, Draft, EntryId, Origin, Phase, Preset, Proposal,
    Records, Terms, fold,
};
use quorate_core::limits::HALTS_PER_AUTHOR_MAX;
use std::io::ErrorKind;

const NOW_S: u64 = 1_800_000_000;

struct Person {
    key: SigningKey,
    seq: u64,
    prev: EntryId,
}

struct Mesh {
    genesis: Genesis,
    people: Vec<Person>,
}

impl Mesh {
    fn new() -> Mesh {
        let keys = (1..=3).map(|n| SigningKey::from_bytes(&[n; 32]));
        let people: Vec<Person> = keys
            .map(|key| Person {
                key,
                seq: 0,
                prev: EntryId::NONE,
            })
            .collect();
        let public = people.iter().map(|p| p.key.verifying_key().to_bytes());
        let terms = Terms::of(Preset::Lab, public.collect(), MeshConfig::default());
        let genesis = terms.found().unwrap();
        Mesh { genesis, people }
    }

    fn author(&self, who: usize) -> Author {
        self.people[who].key.verifying_key().to_bytes()
    }

    fn say(&mut self, who: usize, body: Body) -> Record {
        self.say_after(who, body, vec![])
    }

    fn say_after(&mut self, who: usize, body: Body, refs: Vec<EntryId>) -> Record {
        let (author, network) = (self.author(who), self.genesis.network_id());
        let Person { key, seq, prev } = &mut self.people[who];
        let draft = Draft {
            network,
            epoch: 0,
            author,
            seq: *seq,
            prev: *prev,
            refs,
            advisory_time: NOW_S,
            body,
        };
        let entry = draft.signed(key.sign(&draft.bytes()).to_bytes()).unwrap();
        (*seq, *prev) = (*seq + 1, entry.id());
        Record::Entry(entry)
    }

    fn halt(&self, who: usize, nonce: u128) -> Halt {
        let mut halt = Halt {
            network: self.genesis.network_id(),
            author: self.author(who),
            nonce,
            reason: "smoke".into(),
            advisory_time: NOW_S,
            signature: [0; 64],
        };
        halt.signature = self.people[who].key.sign(&halt.body()).to_bytes();
        halt
    }

    fn proposal(&self, records: &[Record], consent: Consent, act: Act) -> Proposal {
        let standing = fold(&self.genesis, &records.iter().cloned().collect());
        Proposal {
            height: standing.tip().height + 1,
            parent: standing.tip().link,
            round: 0,
            epoch: 0,
            phase: standing.phase(),
            consent,
            expiry: NOW_S,
            origin: Origin::People,
            config: standing.snapshot().config.hash(),
            act,
        }
    }

    fn pass(&mut self, proposal: &Proposal) -> Vec<Record> {
        let ballot = Ballot::of(proposal, self.genesis.network_id());
        let yes = Body::Vote {
            choice: Choice::Yes,
            ballot,
        };
        vec![
            self.say(0, Body::Propose(proposal.clone())),
            self.say(0, yes.clone()),
            self.say(1, yes),
        ]
    }
}

/// What a node does in its life, one call of the ledger each.
enum Deed {
    Append(Vec<Record>),
    Hold(Halt),
    Settle,
}

/// A change, a halt, the halt's record, its end, another halt: the last records decide.
fn life() -> (Genesis, Vec<Deed>) {
    let mut mesh = Mesh::new();
    let op = Set {
        key: Key::ServingGatherUs,
        value: 600,
        expect_old: 500,
    };
    let patch = Act::Patch(Patch::new(vec![op]).unwrap());
    let change = mesh.proposal(&[], Consent::Minor, patch);
    let mut said = mesh.pass(&change);
    let mut deeds = vec![
        Deed::Append(said[..1].to_vec()),
        Deed::Append(said[1..].to_vec()),
    ];
    let (first, second) = (mesh.halt(2, 7), mesh.halt(1, 8));
    said.push(Record::Halt(first.clone()));
    let lifts = vec![first.id().0];
    let restart = fold(&mesh.genesis, &said.iter().cloned().collect())
        .snapshot()
        .config
        .hash();
    let act = Act::Resume {
        restart,
        lifts,
        suspends: vec![],
    };
    let resume = mesh.proposal(&said, Consent::Resume, act);
    let resume = mesh.pass(&resume);
    deeds.extend([
        Deed::Hold(first.clone()),
        Deed::Append(vec![Record::Halt(first)]),
        Deed::Settle,
    ]);
    deeds.extend([
        Deed::Append(resume),
        Deed::Settle,
        Deed::Hold(second.clone()),
    ]);
    deeds.push(Deed::Append(vec![Record::Halt(second)]));
    deeds.push(Deed::Append(vec![
        mesh.say(2, Body::Lower(Phase::ReadOnly)),
    ]));
    (mesh.genesis, deeds)
}

/// All that the first deeds said.
fn said(deeds: &[Deed]) -> Vec<Record> {
    let of = |deed: &Deed| match deed {
        Deed::Append(records) => records.clone(),
        Deed::Hold(halt) => vec![Record::Halt(halt.clone())],
        Deed::Settle => vec![],
    };
    deeds.iter().flat_map(of).collect()
}

/// Does all of it, as far as the disk lets it. A deed that failed does not keep later ones from
/// being tried.
fn live(disk: &Made, genesis: &Genesis, deeds: &[Deed]) {
    let Ok(mut ledger) = Ledger::create_on(Disk::Made(disk.clone()), genesis) else {
        return;
    };
    disk.acknowledge(0);
    for (at, deed) in deeds.iter().enumerate() {
        let done = match deed {
            Deed::Append(records) => ledger.append(records),
            Deed::Hold(halt) => ledger.hold(halt),
            Deed::Settle => {
                let standing = fold(genesis, &said(&deeds[..at]).into_iter().collect());
                ledger.settle(&standing, 1, NOW_S)
            }
        };
        if done.is_ok() {
            disk.acknowledge(at + 1);
        }
    }
}

fn open(image: &Image) -> Result<(Ledger, Stored, Made), Lost> {
    let made = Made::holding(image.clone());
    let (ledger, stored) = Ledger::open_on(Disk::Made(made.clone()))?;
    Ok((ledger, stored, made))
}

/// Boots right: with all that was acknowledged, and with nothing that was never said.
#[track_caller]
fn is_right(image: &Image, genesis: &Genesis, deeds: &[Deed], acknowledged: &[usize], when: &str) {
    let (_, stored, mended) = open(image).unwrap_or_else(|lost| panic!("{when}: {lost}"));
    let all: Records = said(deeds).into_iter().collect();
    for at in acknowledged.iter().filter_map(|n| n.checked_sub(1)) {
        for record in said(&deeds[at..=at]) {
            let kept = stored.replica.records().contains(&record.id());
            let is_over =
                matches!(&record, Record::Halt(h) if stored.replica.standing().is_lifted(h.id()));
            assert!(
                kept || is_over,
                "{when}: deed {at} was acknowledged and is gone"
            );
        }
    }
    assert!(
        stored.replica.records().ids().all(|id| all.contains(&id)),
        "{when}"
    );
    // Opened once more, it says the same, and there is nothing left to mend.
    let before = mended.image();
    let (_, again, after) = open(&before).unwrap();
    assert_eq!(
        again.replica.standing().hash(),
        stored.replica.standing().hash(),
        "{when}"
    );
    assert_eq!(after.image(), before, "{when}");
    assert_eq!(stored.replica.genesis(), genesis);
}

fn is_long() -> bool {
    std::env::var_os("QUORATE_LONG").is_some()
}

/// Every byte that says something; of the zeros that only fill a block a few.
fn cuts(bytes: &[u8]) -> Vec<usize> {
    let says =
        |at: usize| bytes[at] != 0 || (at > 0 && bytes[at - 1] != 0) || at.is_multiple_of(256);
    let all = (0..bytes.len()).filter(|at| is_long() || says(*at));
    all.chain([bytes.len()]).collect()
}

#[test]
fn a_crash_at_any_byte_of_any_write_loses_nothing_that_was_acknowledged() {
    let (genesis, deeds) = life();
    let disk = Made::default();
    live(&disk, &genesis, &deeds);
    let steps = disk.steps();
    let created = steps
        .iter()
        .position(|s| matches!(s, Step::Acknowledged(0)))
        .unwrap();
    let start = Image::new();
    let mut tried = 0;
    for at in created..=steps.len() {
        let done: Vec<usize> = acknowledged(&steps[..at]).collect();
        let synced = only_synced(&start, &steps, at);
        is_right(
            &synced,
            &genesis,
            &deeds,
            &done,
            &format!("synced before step {at}"),
        );
        let cuts = match steps.get(at) {
            Some(Step::Write { bytes, .. }) => cuts(bytes),
            _ => vec![0],
        };
        for cut in cuts {
            tried += 1;
            let tail = (is_long() || cut.is_multiple_of(8)).then_some(Torn::Tail(cut));
            for torn in [Some(Torn::Head(cut)), tail].into_iter().flatten() {
                let image = arrived(&start, &steps, at, torn);
                is_right(
                    &image,
                    &genesis,
                    &deeds,
                    &done,
                    &format!("step {at}, {torn:?}"),
                );
            }
        }
    }
    assert!(tried > 3_000, "{tried}");
}

#[test]
fn a_creation_that_was_cut_is_no_mesh_and_can_be_done_again() {
    let (genesis, _) = life();
    let disk = Made::default();
    drop(Ledger::create_on(Disk::Made(disk.clone()), &genesis).unwrap());
    let steps = disk.steps();
    for at in 0..steps.len() {
        for image in [
            only_synced(&Image::new(), &steps, at),
            arrived(&Image::new(), &steps, at, Torn::Head(40)),
        ] {
            let made = Made::holding(image.clone());
            let again = Ledger::create_on(Disk::Made(made.clone()), &genesis);
            // With one whole latch it is a mesh already, and opens.
            assert!(again.is_ok() || open(&image).is_ok(), "step {at}");
            if again.is_ok() {
                assert!(open(&made.image()).is_ok());
            }
        }
    }
    let twice = Ledger::create_on(Disk::Made(disk), &genesis);
    assert!(matches!(twice, Err(Lost::Exists)));
}

#[test]
fn a_disk_that_fails_at_any_call_is_never_believed_afterwards() {
    let (genesis, deeds) = life();
    let whole = Made::default();
    live(&whole, &genesis, &deeds);
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        for at in 1..=whole.calls() {
            let disk = Made::failing(at, kind);
            live(&disk, &genesis, &deeds);
            let steps = disk.steps();
            let done: Vec<usize> = acknowledged(&steps).collect();
            if done.is_empty() {
                continue; // it was never created, and said so
            }
            assert!(
                done.len() <= deeds.len(),
                "{at}: a failure that nobody was told"
            );
            let when = format!("call {at} failed");
            is_right(&disk.image(), &genesis, &deeds, &done, &when);
            // The failed sync may have lost what it was asked to save, and nothing else.
            is_right(
                &only_synced(&Image::new(), &steps, steps.len()),
                &genesis,
                &deeds,
                &done,
                &when,
            );
            // A halt is held although the ledger was broken before.
            let is_log = |deed: &Deed| !matches!(deed, Deed::Hold(_));
            let held = deeds.iter().enumerate().filter(|(_, d)| !is_log(d));
            assert!(held.clone().all(|(n, _)| done.contains(&(n + 1))), "{when}");
        }
    }
}

#[test]
fn reading_fails_and_the_node_stays_halted() {
    let (genesis, deeds) = life();
    let disk = Made::default();
    live(&disk, &genesis, &deeds);
    for at in 1..=4 {
        let made = Made::failing_with(at, disk.image());
        let lost = Ledger::open_on(Disk::Made(made)).unwrap_err();
        assert!(matches!(lost, Lost::Disk(_)), "{lost}");
    }
}

/// Right, or not at all.
fn right_or_halted(image: &Image, whole: [u8; 32], what: &str) -> bool {
    match open(image) {
        Ok((_, stored, _)) => {
            let standing = stored.replica.standing();
            assert!(standing.is_halted(), "{what}: it runs");
            assert_eq!(standing.hash(), whole, "{what}");
            true
        }
        Err(lost) => {
            assert!(!matches!(lost, Lost::NoMesh), "{what}: {lost}");
            false
        }
    }
}

#[test]
fn no_flipped_bit_makes_a_node_run() {
    let (genesis, deeds) = life();
    let disk = Made::default();
    live(&disk, &genesis, &deeds);
    let image = disk.image();
    let whole = fold(&genesis, &said(&deeds).into_iter().collect()).hash();
    for (name, bytes) in &image {
        let mut booted = 0;
        let places = cuts(bytes);
        let places: Vec<usize> = places.into_iter().filter(|at| *at < bytes.len()).collect();
        for at in &places {
            for bit in 0..8 {
                let mut changed = image.clone();
                changed.get_mut(name).unwrap()[*at] ^= 1 << bit;
                booted += usize::from(right_or_halted(
                    &changed,
                    whole,
                    &format!("{name}, bit {bit} of byte {at}"),
                ));
            }
        }
        // The other copy of the latch is as good; of the rest there is one.
        let expected = if name.starts_with("latch") {
            places.len() * 8
        } else {
            0
        };
        assert_eq!(booted, expected, "{name}");
    }
    for gone in image.keys() {
        let mut without = image.clone();
        without.remove(gone);
        assert_eq!(
            right_or_halted(&without, whole, gone),
            gone.starts_with("latch")
        );
    }
}

#[test]
fn the_log_is_written_anew_when_most_of_it_is_over() {
    let mut mesh = Mesh::new();
    let disk = Made::default();
    let mut ledger = Ledger::create_on(Disk::Made(disk.clone()), &mesh.genesis).unwrap();
    // Said again and again: a log takes what it is given. Long, so that few are enough.
    let refs = (1..=64).map(|n| EntryId([n; 32])).collect();
    let same = mesh.say_after(0, Body::Lower(Phase::ReadOnly), refs);
    let batch = vec![same.clone(); 50];
    while ledger.end.len <= LEDGER_SPARSE_BYTES {
        ledger.append(&batch).unwrap();
    }
    let halt = mesh.halt(1, 3);
    ledger.hold(&halt).unwrap();
    let start = disk.image();
    assert!(start["records.log"].len() as u64 > LEDGER_SPARSE_BYTES);
    let made = Made::holding(start.clone());
    let (_, stored) = Ledger::open_on(Disk::Made(made.clone())).unwrap();
    let after = made.image();
    assert!(after["records.1.log"].len() < 4096 && !after.contains_key("records.log"));
    let whole = stored.replica.standing().hash();
    // A crash in between leaves one log that counts.
    let steps = made.steps();
    for at in 0..=steps.len() {
        for image in [
            only_synced(&start, &steps, at),
            arrived(&start, &steps, at, Torn::Head(100)),
        ] {
            assert!(
                right_or_halted(&image, whole, &format!("step {at}")),
                "step {at}"
            );
        }
    }
    // A disk on which there is no room goes on with the old one.
    for at in 1..=made.calls() {
        let failing = Made::failing_with(at, start.clone());
        let opened = Ledger::open_on(Disk::Made(failing.clone()));
        assert!(opened.is_ok() || matches!(opened, Err(Lost::Disk(_))));
        assert!(right_or_halted(
            &failing.image(),
            whole,
            &format!("call {at} failed")
        ));
    }
    let (mut ledger, ..) = open(&after).unwrap();
    ledger.append(&[Record::Halt(halt)]).unwrap();
    assert_eq!(ledger.latch().log, 1);
}

#[test]
fn a_full_ledger_takes_halts_alone_and_as_many_as_are_kept() {
    let mut mesh = Mesh::new();
    let disk = Made::default();
    let mut ledger = Ledger::create_on(Disk::Made(disk), &mesh.genesis).unwrap();
    let entry = mesh.say(0, Body::Lower(Phase::ReadOnly));
    let halt = Record::Halt(mesh.halt(1, 3));
    let frame = |record: &Record| record.encode().len() as u64 + 36;
    ledger.end.len = LEDGER_BYTES_MAX - frame(&entry);
    // The made disk would have to hold all of it: only the refusal is asked for.
    ledger.end.len += 1;
    assert!(matches!(ledger.append(&[entry]), Err(Unkept::Full)));
    ledger.end.len = LEDGER_BYTES_MAX + LEDGER_HALT_BYTES_MAX - frame(&halt) + 1;
    assert!(matches!(ledger.append(&[halt]), Err(Unkept::Full)));
    let kept = (HALTS_PER_AUTHOR_MAX + 1) as u64 * quorate_core::limits::PARTICIPANTS_MAX as u64;
    assert!(LEDGER_HALT_BYTES_MAX / kept >= 1024 + 36);
}

#[test]
fn files_are_private_and_a_look_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("mesh");
    assert!(matches!(look(&dir), Err(Lost::NoMesh)));
    let mut mesh = Mesh::new();
    let mut ledger = Ledger::create(&dir, &mesh.genesis).unwrap();
    let record = mesh.say(0, Body::Lower(Phase::ReadOnly));
    ledger.append(std::slice::from_ref(&record)).unwrap();
    ledger.hold(&mesh.halt(1, 3)).unwrap();
    // As a crash leaves it.
    let log = dir.join("records.log");
    let torn = [std::fs::read(&log).unwrap(), vec![1; 50]].concat();
    std::fs::write(&log, &torn).unwrap();
    let stored = look(&dir).unwrap();
    assert!(
        stored.replica.standing().is_halted() && stored.replica.records().contains(&record.id())
    );
    assert_eq!(std::fs::read(&log).unwrap(), torn);
    let (_, stored) = Ledger::open(&dir).unwrap();
    assert_eq!(std::fs::read(&log).unwrap().len() as u64, stored.end.len);
    assert!(matches!(
        Ledger::create(&dir, &mesh.genesis),
        Err(Lost::Exists)
    ));
    for entry in std::fs::read_dir(&dir).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
