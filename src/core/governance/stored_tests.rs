//! What a disk may give back: cut anywhere, with any bit changed, one copy gone. A node boots right or
//! stays halted; it never runs.

use super::people::*;
use crate::limits::{LATCH_BYTES, LATCHED_HALTS_MAX};

/// Votes, a change, a halt: a log in which the last records decide.
struct Disk {
    world: World,
    log: Vec<u8>,
    /// The journal's ends, after each record.
    ends: Vec<End>,
    latch: Latch,
}

fn disk() -> Disk {
    let mut world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 600));
    world.vote(&proposal, &[0, 1]);
    world.halt(2, 7);
    let network = world.genesis.network_id();
    let mut records: Vec<Record> = world.records.iter().collect();
    // The halt last, as it came.
    records.sort_by_key(|record| matches!(record, Record::Halt(_)));
    let mut log = Vec::new();
    let mut ends = vec![End::empty(JournalPurpose::Log, network)];
    for record in &records {
        let end = ends[ends.len() - 1].push(&record.encode(), &mut log);
        ends.push(end);
    }
    let mut latch = Latch::new(network, 0, ends[ends.len() - 1]);
    for record in &records {
        if let Record::Halt(halt) = record {
            latch.hold(halt);
        }
    }
    latch.settle(&world.standing(), 1);
    Disk {
        world,
        log,
        ends,
        latch,
    }
}

impl Disk {
    fn read(&self, latch: &Latch, log: &[u8]) -> Result<Stored, Lost> {
        Stored::read(self.world.genesis.clone(), latch.clone(), log)
    }
}

#[test]
fn a_log_cut_at_any_byte_boots_right_or_halted() {
    let disk = disk();
    let whole = disk.world.standing().hash();
    for cut in 0..=disk.log.len() {
        let read = disk.read(&disk.latch, &disk.log[..cut]);
        // All of it was sealed, so nothing less will do.
        assert_eq!(read.is_ok(), cut == disk.log.len(), "cut at {cut}");
        // As a crash leaves it that came before the seal: what is not whole was never acknowledged.
        for (n, sealed) in disk.ends.iter().enumerate() {
            let mut latch = disk.latch.clone();
            latch.sealed = *sealed;
            let read = disk.read(&latch, &disk.log[..cut]);
            assert_eq!(read.is_ok(), sealed.len <= cut as u64);
            if let Ok(stored) = read {
                assert!(
                    stored.end.len >= sealed.len && stored.replica.records().iter().count() >= n
                );
                assert!(
                    stored.replica.standing().is_halted(),
                    "the latch holds the halt"
                );
                assert!(
                    stored.end.len < disk.log.len() as u64
                        || stored.replica.standing().hash() == whole
                );
            }
        }
    }
}

#[test]
fn a_log_with_any_bit_changed_is_noticed() {
    let disk = disk();
    for at in 0..disk.log.len() * 8 {
        let mut changed = disk.log.clone();
        changed[at / 8] ^= 1 << (at % 8);
        let read = disk.read(&disk.latch, &changed);
        assert!(matches!(read, Err(Lost::Log { .. })), "bit {at}");
    }
}

#[test]
fn a_latch_with_any_bit_changed_leaves_the_other_copy() {
    let disk = disk();
    let network = disk.world.genesis.network_id();
    let good = disk.latch.encode();
    assert_eq!(good.len(), LATCH_BYTES);
    assert_eq!(Latch::decode(&good).as_ref(), Ok(&disk.latch));
    // A later copy, of which one bit is wrong, is not believed.
    let mut later = disk.latch.clone();
    later.turn += 1;
    let later = later.encode();
    for at in 0..later.len() * 8 {
        let mut changed = later.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(Latch::decode(&changed).is_err(), "bit {at}");
        if at % 97 == 0 {
            let picked = Latch::pick(network, [&changed, &good]);
            assert_eq!(picked.as_ref(), Some(&disk.latch));
            assert_eq!(Latch::pick(network, [&changed, &changed]), None);
        }
    }
}

#[test]
fn a_latch_torn_at_any_byte_leaves_the_other_copy() {
    let disk = disk();
    let network = disk.world.genesis.network_id();
    let old = disk.latch.encode();
    let mut next = disk.latch.clone();
    next.turn += 1;
    next.halts.clear();
    let new = next.encode();
    for cut in 0..=LATCH_BYTES {
        let torn = [&new[..cut], &old[cut..]].concat();
        let one = Latch::pick(network, [&torn, &old]).unwrap();
        assert!(one == disk.latch || one == next);
        let two = Latch::pick(network, [&new, &torn]).unwrap();
        assert_eq!(two, next);
        assert!(cut == LATCH_BYTES || Latch::decode(&new[..cut]).is_err());
    }
    let elsewhere = NetworkId([9; 32]);
    assert_eq!(Latch::pick(elsewhere, [&old, &new]), None);
}

#[test]
fn a_latch_holds_a_halt_that_the_log_lost_until_people_resume() {
    let Disk {
        mut world,
        mut latch,
        ends,
        ..
    } = disk();
    latch.sealed = ends[0];
    let stored = Stored::read(world.genesis.clone(), latch.clone(), &[]).unwrap();
    assert!(stored.replica.standing().is_halted());
    let id = latch.halts[0].id();
    let resume = world.resume(&[id], &[]);
    assert!(world.passes(&resume, &[0, 1]));
    assert!(latch.interval.is_some());
    latch.settle(&world.standing(), 1);
    assert!(latch.halts.is_empty() && latch.interval.is_none());
}

#[test]
fn a_latch_holds_a_few_halts_and_stays_in_its_size() {
    let world = World::new(3, 0);
    let network = world.genesis.network_id();
    let mut latch = Latch::new(network, 0, End::empty(JournalPurpose::Log, network));
    let reason = "x".repeat(crate::limits::HALT_REASON_BYTES_MAX);
    for nonce in 0..LATCHED_HALTS_MAX as u128 + 3 {
        latch.hold(&world.people[0].halt(nonce, &reason));
    }
    assert_eq!(latch.halts.len(), LATCHED_HALTS_MAX);
    assert_eq!(latch.encode().len(), LATCH_BYTES);
    assert_eq!(Latch::decode(&latch.encode()), Ok(latch));
}

#[test]
fn a_parcel_is_verified_by_strangers_and_no_byte_of_it_is_free() {
    let disk = disk();
    let (replica, unused) = Replica::gather(disk.world.genesis.clone(), disk.world.shuffled(3));
    assert!(unused.is_empty());
    let bytes = Parcel::from(&replica).encode();
    let verified = Parcel::decode(&bytes).unwrap().verify().unwrap();
    assert_eq!(verified.standing().hash(), disk.world.standing().hash());
    assert!(verified.missing.is_empty() && verified.unused.is_empty());
    for at in 0..bytes.len() {
        for change in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            assert!(Parcel::decode(&changed).is_err(), "byte {at}");
        }
        assert!(Parcel::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(Parcel::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn a_parcel_says_what_it_lacks_and_whom_it_does_not_know() {
    let mut world = World::new(3, 0);
    let lower = |world: &mut World| world.people[0].sign(0, Body::Lower(Phase::ReadOnly));
    let first = lower(&mut world);
    let second = lower(&mut world);
    let stranger = Person::new(77, world.genesis.network_id()).halt(1, "smoke");
    let parcel = Parcel {
        network: world.genesis.network_id(),
        genesis: Some(world.genesis.clone()),
        records: vec![Record::Entry(second), Record::Halt(stranger.clone())],
    };
    let verified = Parcel::decode(&parcel.encode()).unwrap().verify().unwrap();
    assert!(verified.missing.contains(&first.id()));
    assert_eq!(verified.unused, [(stranger.id().0, Refusal::Stranger)]);
    assert!(!verified.standing().is_halted());

    let mut foreign = parcel;
    foreign.network = NetworkId([5; 32]);
    let refused = Parcel::decode(&foreign.encode());
    assert_eq!(refused.unwrap_err(), BadParcel::OtherMesh);
}
