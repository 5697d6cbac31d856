//! The hostile cases of the threat model, by name.

use super::people::*;
use crate::limits::{HALTS_PER_AUTHOR_MAX, RECORD_BYTES_MAX};

const SLOW: Key = Key::ServingGatherUs;

#[test]
fn one_key_counts_once_toward_a_threshold() {
    let mut world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(SLOW, 400));
    world.vote(&proposal, &[0]);
    // The same word again, and once more on a second branch of the same feed.
    let again = world.people[0].vote(&proposal);
    world.say(again);
    let mut twin = Person::new(1, world.genesis.network_id());
    twin.time_s += 9;
    let other = twin.vote(&proposal);
    world.say(other);
    assert_eq!(
        world.standing().tip().height,
        0,
        "three yes of one key are one yes"
    );
    let second = world.people[1].vote(&proposal);
    world.say(second);
    assert!(world.is_tip(&proposal));
    let twice = Members {
        participants: vec![public(1), public(1)],
        ..members(&[], 0)
    };
    assert_eq!(twice.check(Preset::Lab, &[]), Err(BadMembers::Twice));
}

#[test]
fn a_vote_is_not_replayed_across_network_epoch_content_or_time() {
    let mut world = World::new(3, 3);
    let proposal = world.proposal(Consent::Minor, world.set(SLOW, 400));
    world.vote(&proposal, &[0]);
    // Network: the same people found a second mesh, and person 2 votes there.
    let mut elsewhere = Person::new(2, NetworkId([7; 32]));
    world.say(elsewhere.vote(&proposal));
    // Content: a yes to another value in the same place.
    let other = Proposal {
        act: world.set(SLOW, 300),
        ..proposal.clone()
    };
    let vote = world.people[1].vote(&other);
    world.say(vote);
    // Content: the ballot of one with the name of the other.
    let mut ballot = Ballot::of(&proposal, world.genesis.network_id());
    ballot.round = 5;
    let entry = world.people[2].sign(
        0,
        Body::Vote {
            choice: Choice::Yes,
            ballot,
        },
    );
    world.say(entry);
    world.look(60);
    assert_eq!(world.standing().tip().height, 0);

    // Epoch: a vote that says epoch 1.
    let mut world = World::new(3, 3);
    let proposal = world.proposal(Consent::Minor, world.set(SLOW, 400));
    world.vote(&proposal, &[0]);
    let ballot = Ballot::of(&proposal, world.genesis.network_id());
    let vote = world.people[1].sign(
        1,
        Body::Vote {
            choice: Choice::Yes,
            ballot,
        },
    );
    world.say(vote);
    world.look(60);
    assert_eq!(world.standing().tip().height, 0);

    // Time: the witnesses first see the second vote after the expiry.
    let mut world = World::new(3, 3);
    let proposal = world.proposal(Consent::Minor, world.set(SLOW, 400));
    world.vote(&proposal, &[0]);
    world.look(2 * DAY_S + 1);
    let vote = world.people[1].vote(&proposal);
    world.say(vote);
    world.look(60);
    assert_eq!(world.standing().tip().height, 0, "too late");
    let proposal = world.proposal(Consent::Minor, world.set(SLOW, 400));
    let proposal = Proposal {
        round: 1,
        ..proposal
    };
    assert!(
        world.passes(&proposal, &[0, 1]),
        "in time, in the next round"
    );
}

#[test]
fn a_proposal_that_expires_in_more_than_a_week_is_no_entry() {
    let world = World::new(3, 0);
    let mut proposal = world.proposal(Consent::Minor, world.set(SLOW, 400));
    let decode = |proposal: &Proposal| {
        let draft = world.people[0].draft(0, Body::Propose(proposal.clone()));
        draft
            .signed(secret(1).sign(&draft.bytes()).to_bytes())
            .map(|_| ())
    };
    proposal.expiry = START_S + 7 * DAY_S;
    assert_eq!(decode(&proposal), Ok(()));
    proposal.expiry += 1;
    assert_eq!(decode(&proposal), Err(Malformed::Range("the expiry")));
}

#[test]
fn a_resume_signed_before_a_halt_does_not_lift_it() {
    let mut world = World::new(3, 0);
    let first = world.halt(0, 1);
    let resume = world.resume(&[first], &[]);
    world.vote(&resume, &[0, 1]);
    assert!(world.is_tip(&resume) && !world.standing().is_halted());
    // A halt that was in nobody's view; and the old one again.
    let second = world.halt(2, 2);
    let standing = world.standing();
    assert!(standing.is_halted() && !standing.is_lifted(second) && standing.is_lifted(first));
}

#[test]
fn a_concurrent_halt_survives_the_resume_and_voids_its_effect() {
    let mut world = World::new(3, 0);
    let known = world.halt(0, 1);
    let resume = world.resume(&[known], &[]);
    world.vote(&resume, &[0]);
    let unseen = world.halt(2, 2);
    let vote = world.people[1].vote(&resume);
    world.say(vote);
    let standing = world.standing();
    assert!(world.is_tip(&resume) && standing.is_lifted(known) && standing.is_halted());
    assert!(Rights::alone().under(standing).mesh().is_err());
    let all = world.resume(&[unseen], &[]);
    assert!(world.passes(&all, &[0, 1]) && !world.standing().is_halted());
}

#[test]
fn an_old_halt_replayed_after_its_resume_is_over() {
    let mut world = World::new(3, 0);
    let halt = world.people[0].halt(1, "smoke");
    let mut replica = Replica::new(world.genesis.clone());
    assert_eq!(replica.insert(Record::Halt(halt.clone())), Taken::New);
    assert!(replica.refold() && replica.standing().is_halted());
    world.records.insert(Record::Halt(halt.clone()));
    let resume = world.resume(&[halt.id()], &[]);
    world.vote(&resume, &[0, 1]);
    for record in world.records.iter() {
        replica.insert(record);
    }
    replica.refold();
    assert!(!replica.standing().is_halted());
    assert_eq!(
        replica.insert(Record::Halt(halt)),
        Taken::Known,
        "kept for people alone"
    );
    replica.refold();
    assert!(!replica.standing().is_halted());
}

#[test]
fn one_voter_halts_twice_with_the_same_reason() {
    let mut world = World::new(3, 0);
    let first = world.halt(0, 1);
    let second = world.halt(0, 2);
    assert_ne!(first, second);
    let resume = world.resume(&[first], &[]);
    assert!(world.passes(&resume, &[1, 2]));
    assert!(world.standing().is_halted(), "the second stands");
}

fn remove_third(world: &mut World) {
    let proposal = world.proposal(Consent::Membership, Act::Membership(members(&[1, 2, 4], 0)));
    let network = world.genesis.network_id();
    world.people.push(Person::new(4, network));
    world.vote(&proposal, &[0, 1]);
    assert!(world.is_tip(&proposal));
    assert_eq!(world.standing().electorate().epoch, 1);
}

#[test]
fn a_halt_of_a_removed_member_does_not_count_even_back_dated() {
    let mut world = World::new(3, 0);
    world.halt(2, 1);
    assert!(world.standing().is_halted());
    remove_third(&mut world);
    assert!(
        !world.standing().is_halted(),
        "removing an author voids his halts"
    );
    let mut back_dated = world.people[2].halt(7, "revenge");
    back_dated.advisory_time = 0;
    back_dated.signature = secret(3).sign(&back_dated.body()).to_bytes();
    assert!(world.records.insert(Record::Halt(back_dated)));
    assert!(!world.standing().is_halted());
    world.halt(3, 8);
    assert!(world.standing().is_halted(), "the new member may");
}

#[test]
fn a_halt_of_a_forked_author_is_kept_and_the_fork_halts_too() {
    let mut world = World::new(3, 0);
    let mut twin = world.people[0].clone();
    twin.time_s += 1;
    let a = world.people[0].sign(0, Body::Lower(Phase::ReadOnly));
    world.say(a.clone());
    let halt = world.halt(0, 1);
    let b = twin.sign(0, Body::Lower(Phase::ReadOnly));
    world.say(b.clone());
    let standing = world.standing();
    let mut pair = [a.id(), b.id()];
    pair.sort();
    let fork = Fault::Fork {
        seq: 0,
        a: pair[0],
        b: pair[1],
    };
    assert_eq!(standing.faults().get(&public(1)), Some(&fork));
    let causes: Vec<&Cause> = standing.causes().collect();
    assert_eq!(causes.len(), 2);
    assert!(matches!(causes[0], Cause::Halt { id, .. } if *id == halt));
    assert_eq!(*causes[1], Cause::Fault(public(1)));
    // Lifting the halt alone is not enough; the key has to go.
    let resume = world.resume(&[halt], &[]);
    assert!(world.passes(&resume, &[1, 2]) && world.standing().is_halted());
    let resume = world.resume(&[], &[1]);
    assert!(world.passes(&resume, &[1, 2]) && !world.standing().is_halted());
}

#[test]
fn a_double_vote_is_a_proof_and_both_certificates_stop_the_mesh() {
    let mut world = World::new(3, 0);
    let a = world.proposal(Consent::Minor, world.set(SLOW, 400));
    let b = Proposal {
        act: world.set(SLOW, 300),
        ..a.clone()
    };
    let mut twin = world.people[0].clone();
    world.vote(&a, &[1]);
    world.vote(&b, &[2]);
    let first = world.people[0].vote(&a);
    world.say(first);
    assert!(world.is_tip(&a) && !world.standing().is_halted());
    world.say(twin.vote(&b));
    let standing = world.standing();
    assert!(standing.faults().contains_key(&public(1)));
    let conflicts = standing
        .causes()
        .filter(|c| matches!(c, Cause::Conflict(_)))
        .count();
    assert_eq!((conflicts, standing.causes().count()), (1, 2));
    assert!(
        Rights::alone().under(standing.clone()).mesh().is_err(),
        "neither runs"
    );
    // People choose: the config of the genesis, without the liar's key.
    let conflict = standing.causes().find_map(|c| match c {
        Cause::Conflict(id) => Some(*id),
        _ => None,
    });
    let mut resume = world.resume(&[HaltId(conflict.unwrap())], &[1]);
    if let Act::Resume { restart, .. } = &mut resume.act {
        *restart = world.genesis.config().hash();
    }
    assert!(world.passes(&resume, &[1, 2]));
    let standing = world.standing();
    assert!(!standing.is_halted());
    assert_eq!(standing.snapshot().config, *world.genesis.config());
}

#[test]
fn votes_in_one_feed_that_go_back_are_a_proof() {
    let vote = |world: &mut World, by: usize, proposal: &Proposal| {
        let entry = world.people[by].vote(proposal);
        world.say(entry);
    };
    let mut world = World::new(5, 0);
    let a = world.proposal(Consent::Minor, world.set(SLOW, 400));
    let b = Proposal {
        act: world.set(SLOW, 300),
        ..a.clone()
    };
    let later = Proposal {
        round: 1,
        ..b.clone()
    };
    vote(&mut world, 0, &a);
    vote(&mut world, 0, &later);
    assert!(
        world.standing().faults().is_empty(),
        "a next round is no lie"
    );
    vote(&mut world, 0, &later);
    assert!(
        world.standing().faults().is_empty(),
        "nor is the same word again"
    );
    vote(&mut world, 1, &a);
    vote(&mut world, 1, &b);
    vote(&mut world, 2, &later);
    vote(&mut world, 2, &a);
    // Others were faster in an earlier round: to build on that is no lie.
    vote(&mut world, 3, &later);
    let parent = a.id(world.genesis.network_id());
    let child = Proposal {
        height: 2,
        parent,
        ..a.clone()
    };
    vote(&mut world, 3, &child);
    vote(&mut world, 4, &child);
    vote(&mut world, 4, &later);
    let faults: Vec<Author> = world.standing().faults().keys().copied().collect();
    assert_eq!(faults, sorted([2, 3, 5]));
}

#[test]
fn two_certificates_without_a_liar_stop_the_mesh_and_the_later_round_leads() {
    let mut world = World::new(3, 0);
    let a = world.proposal(Consent::Minor, world.set(SLOW, 400));
    let b = Proposal {
        act: world.set(SLOW, 300),
        round: 1,
        ..a.clone()
    };
    world.vote(&a, &[0]);
    world.vote(&b, &[0, 2]);
    assert!(world.is_tip(&b) && !world.standing().is_halted());
    let late = world.people[1].vote(&a);
    world.say(late);
    let standing = world.standing();
    assert!(world.is_tip(&b) && standing.faults().is_empty());
    assert!(matches!(standing.causes().next(), Some(Cause::Conflict(_))));
}

#[test]
fn a_late_vote_never_rewrites_what_others_have_built_on() {
    let mut world = World::new(3, 0);
    let a = world.proposal(Consent::Minor, world.set(SLOW, 400));
    let b = Proposal {
        act: world.set(SLOW, 300),
        ..a.clone()
    };
    world.vote(&b, &[2]);
    world.vote(&a, &[0, 1]);
    let next = world.proposal(Consent::Minor, world.set(SLOW, 350));
    assert!(world.passes(&next, &[0, 1]));
    // Person 1's stolen key forks at the very beginning, to make the loser win.
    let mut thief = Person::new(1, world.genesis.network_id());
    world.say(thief.vote(&Proposal {
        round: 0,
        ..b.clone()
    }));
    assert!(world.is_tip(&next), "history stays");
    assert!(world.standing().is_halted(), "and the theft is seen");
}

#[test]
fn a_genesis_with_one_participant_stays_in_phase_one() {
    for preset in [Preset::Solo, Preset::Lab] {
        let mut terms = Terms::of(preset, vec![public(1)], MeshConfig::default());
        terms.phase = Phase::Minor;
        assert_eq!(terms.clone().found(), Err(BadGenesis::Phase));
        terms.phase = Phase::Suggest;
        assert!(terms.found().is_ok());
    }
    let mut world = World::with(1, 3, |terms| terms.phase = Phase::Suggest);
    let criteria = world.genesis.criteria_hash(Phase::Minor).unwrap();
    let raise = Act::Raise {
        to: Phase::Minor,
        criteria,
        evidence: [0; 32],
        lifts: vec![],
    };
    let proposal = world.proposal(Consent::Membership, raise);
    assert!(!world.passes(&proposal, &[0]));
    let few = Terms::of(Preset::Community, vec![public(1)], MeshConfig::default());
    assert_eq!(few.found(), Err(BadGenesis::Members(BadMembers::Preset)));
}

#[test]
fn two_people_need_each_other_for_everything_but_a_halt() {
    let mut world = World::new(2, 0);
    let change = world.proposal(Consent::Minor, world.set(SLOW, 400));
    assert!(!world.passes(&change, &[0]));
    let vote = world.people[1].vote(&change);
    world.say(vote);
    assert!(world.is_tip(&change));
    let halt = world.halt(1, 1);
    // A stolen key at n = 2 cannot be outvoted: not even to suspend it.
    let alone = world.resume(&[halt], &[2]);
    assert!(!world.passes(&alone, &[0]));
    let together = Proposal {
        round: 1,
        ..world.resume(&[halt], &[])
    };
    assert!(world.passes(&together, &[0, 1]) && !world.standing().is_halted());
}

#[test]
fn one_person_halts_and_resumes_alone() {
    let mut world = World::new(1, 0);
    let halt = world.halt(0, 1);
    assert!(world.standing().is_halted());
    let resume = world.resume(&[halt], &[]);
    assert!(world.passes(&resume, &[0]) && !world.standing().is_halted());
    let change = world.proposal(Consent::Minor, world.set(SLOW, 400));
    assert!(world.passes(&change, &[0]));
}

#[test]
fn a_stolen_key_that_halts_for_ever_is_suspended_by_the_resume() {
    let mut world = World::new(3, 0);
    let halt = world.halt(2, 1);
    // The thief votes for himself: his own word does not count on what suspends him.
    let mut resume = world.resume(&[halt], &[3]);
    assert!(!world.passes(&resume, &[0, 2]));
    let vote = world.people[1].vote(&resume);
    world.say(vote);
    assert!(world.is_tip(&resume) && !world.standing().is_halted());
    world.halt(2, 2);
    assert!(
        !world.standing().is_halted(),
        "later halts of the key are void"
    );
    let change = world.proposal(Consent::Minor, world.set(SLOW, 400));
    assert!(!world.passes(&change, &[0, 2]), "and so are its votes");
    // Suspending one more would leave too few to change the members.
    let halt = world.halt(1, 3);
    resume = Proposal {
        round: 1,
        ..world.resume(&[halt], &[2])
    };
    assert!(!world.passes(&resume, &[0, 1]));
    let back = Act::Membership(members(&[1, 2, 3], 0));
    let back = Proposal {
        round: 2,
        ..world.proposal(Consent::Membership, back)
    };
    assert!(
        !world.passes(&back, &[0, 1]),
        "a burnt key does not come back"
    );
}

#[test]
fn a_resume_leaves_enough_keys_to_change_the_members() {
    let mut world = World::new(5, 0);
    let halt = world.halt(4, 1);
    let two = world.resume(&[halt], &[4, 5]);
    assert!(!world.passes(&two, &[0, 1, 2]), "three of five could not");
    let one = world.resume(&[halt], &[5]);
    assert!(world.passes(&Proposal { round: 1, ..one }, &[0, 1, 2]));
    let halt = world.halt(3, 2);
    let again = world.resume(&[halt], &[5]);
    assert!(!world.passes(&again, &[0, 1, 2]), "a key is burnt once");
}

#[test]
fn a_flood_of_halts_is_one_fact_in_bounded_space() {
    let world = World::new(3, 0);
    // Every halt beyond the 65th takes the same path, so a few show it; the long run signs them all.
    let n = match option_env!("QUORATE_CASES") {
        Some(_) => 100_000,
        None => 200,
    };
    let halts: Vec<Halt> = (0..n).map(|n| world.people[0].halt(n, "x")).collect();
    let all: Records = halts.iter().cloned().collect();
    let standing = fold(&world.genesis, &all);
    assert_eq!(
        standing.causes().collect::<Vec<_>>(),
        [&Cause::Flood(public(1))]
    );
    let mut replica = Replica::new(world.genesis.clone());
    for halt in halts {
        replica.insert(Record::Halt(halt));
        assert!(replica.records().iter().count() <= HALTS_PER_AUTHOR_MAX + 1);
    }
    replica.refold();
    assert_eq!(
        replica.standing().hash(),
        standing.hash(),
        "what is dropped changes nothing"
    );
    let mut world = world;
    world.records = all;
    let some = world.resume(&[], &[1]);
    assert!(world.passes(&some, &[1, 2]) && !world.standing().is_halted());
}

#[test]
fn a_flood_of_proposals_hides_nothing_that_people_agree_on() {
    let mut world = World::new(3, 0);
    let wanted = world.proposal(Consent::Minor, world.set(SLOW, 400));
    for n in 0..100 {
        let noise = Proposal {
            act: world.set(SLOW, 300 + n),
            ..wanted.clone()
        };
        let entry = world.people[2].propose(&noise);
        world.say(entry);
    }
    assert_eq!(
        world.standing().open().len(),
        crate::limits::PROPOSALS_SHOWN_MAX
    );
    assert!(world.passes(&wanted, &[0, 1]));
}

#[test]
fn a_halt_that_nobody_signed_is_no_halt() {
    let world = World::new(3, 0);
    let signed = world.people[0].halt(1, "smoke");
    let mut unsigned = signed.clone();
    unsigned.signature = [0; 64];
    let mut by_another = signed.clone();
    by_another.author = public(2);
    for halt in [unsigned, by_another] {
        assert_eq!(Halt::decode(&halt.encode()), Err(Malformed::Signature));
        let mut records = Records::default();
        assert!(!records.insert(Record::Halt(halt)), "by no way into a set");
        assert!(!fold(&world.genesis, &records).is_halted());
    }
    let bare = signed.body();
    assert_eq!(Halt::decode(&bare), Err(Malformed::Short));
}

#[test]
fn an_entry_of_one_byte_too_many_is_refused() {
    let world = World::new(3, 0);
    let draft = world.people[0].draft(0, Body::Lower(Phase::ReadOnly));
    let mut bytes = draft.bytes();
    bytes.resize(RECORD_BYTES_MAX + 1, 0);
    let max = RECORD_BYTES_MAX;
    assert_eq!(
        Entry::decode(&bytes),
        Err(Malformed::TooLong { got: max + 1, max })
    );
    assert_eq!(Record::decode(&bytes[1..]), Err(Malformed::Tag));
}
