//! Halts that are over: people still read who stopped the mesh, and why.

use super::people::*;
use crate::limits::{HALTS_PER_AUTHOR_MAX, LIFTED_HALTS_MAX};

fn names(replica: &Replica) -> Vec<HaltId> {
    replica.over().map(Halt::id).collect()
}

/// All that the world has said, and these halts.
fn gathered(world: &World, halts: &[Halt]) -> Replica {
    let halts = halts.iter().cloned().map(Record::Halt);
    let all = world.records.iter().chain(halts).collect();
    Replica::gather(world.genesis.clone(), all).0
}

#[test]
fn a_halt_that_is_over_says_who_why_and_what_lifted_it_also_after_a_restart() {
    let mut world = World::new(3, 0);
    let halt = world.halt(0, 1);
    let resume = world.resume(&[halt], &[]);
    assert!(world.passes(&resume, &[0, 1]));
    let replica = gathered(&world, &[]);
    let lifted = Some((1, resume.id(world.genesis.network_id())));
    assert_eq!(replica.standing().lifted_by(halt), lifted);
    assert!(!replica.standing().is_halted() && !replica.records().contains(&halt.0));
    assert_eq!(names(&replica), [halt]);
    // What is written down, and what a stranger is given.
    let (again, unused) = Replica::gather(world.genesis.clone(), replica.history().collect());
    assert!(unused.is_empty());
    assert_eq!(names(&again), [halt]);
    let parcel = Parcel::from(&replica).encode();
    let verified = Parcel::decode(&parcel).unwrap().verify().unwrap();
    assert_eq!(names(&verified.replica), [halt]);
    assert_eq!(verified.standing().hash(), replica.standing().hash());
    // One that heard of the resume first keeps it too, and does not stop.
    let mut late = Replica::gather(
        world.genesis.clone(),
        world.records.iter().filter(|r| r.id() != halt.0).collect(),
    )
    .0;
    assert!(names(&late).is_empty());
    let record = world.records.get(&halt.0).unwrap();
    assert_eq!(late.insert(record), Taken::Known);
    assert!(!late.refold() && names(&late) == [halt]);
}

#[test]
fn of_more_halts_than_are_kept_those_that_were_lifted_first_go() {
    let mut world = World::new(1, 0);
    let person = &world.people[0];
    let n = LIFTED_HALTS_MAX as u128;
    let halts: Vec<Halt> = (0..=n).map(|nonce| person.halt(nonce, "x")).collect();
    let ids: Vec<HaltId> = halts.iter().map(Halt::id).collect();
    let first = world.resume(&ids[..1], &[]);
    assert!(world.passes(&first, &[0]));
    let rest = world.resume(&ids[1..], &[]);
    assert!(world.passes(&rest, &[0]));
    let mut kept = ids[1..].to_vec();
    kept.sort_unstable();
    for order in [halts.clone(), halts.iter().rev().cloned().collect()] {
        assert_eq!(names(&gathered(&world, &order)), kept);
    }
    assert_eq!(names(&gathered(&world, &halts[..5])).len(), 5);
}

#[test]
fn halts_that_are_over_take_no_room_from_one_that_stands() {
    let mut world = World::new(1, 0);
    let person = &world.people[0];
    let n = 2 * HALTS_PER_AUTHOR_MAX as u128;
    let mut halts: Vec<Halt> = (0..n).map(|nonce| person.halt(nonce, "x")).collect();
    // The one whose id would be dropped first.
    halts.sort_by_key(Halt::id);
    let ids: Vec<HaltId> = halts.iter().map(Halt::id).collect();
    let (last, lifted) = ids.split_last().unwrap();
    let resume = world.resume(lifted, &[]);
    assert!(world.passes(&resume, &[0]));
    let booted = gathered(&world, &halts);
    assert!(booted.standing().is_halted() && booted.records().contains(&last.0));
    assert_eq!(names(&booted), lifted);
}

#[test]
fn a_halt_stops_again_when_another_resume_leads_that_does_not_list_it() {
    let mut world = World::new(3, 0);
    let halt = world.halt(0, 1);
    let lifts = world.resume(&[halt], &[]);
    let lifts_nothing = Proposal {
        round: 1,
        ..world.resume(&[], &[])
    };
    world.vote(&lifts, &[0, 1]);
    let mut replica = gathered(&world, &[]);
    assert!(!replica.standing().is_halted());
    world.vote(&lifts_nothing, &[1, 2]);
    for record in world.records.iter() {
        replica.insert(record);
    }
    replica.refold();
    assert!(world.is_tip(&lifts_nothing));
    assert_eq!(replica.standing().hash(), world.standing().hash());
    assert!(replica.records().contains(&halt.0) && names(&replica).is_empty());
}
