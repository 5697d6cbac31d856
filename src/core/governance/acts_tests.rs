//! Members, phases, streams and machines: what each change needs.

use super::people::*;

const FINE: Key = Key::ServingGatherUs;
const MAJOR: Key = Key::ListEntriesMax;

#[test]
fn members_change_by_the_old_and_the_new_together() {
    let mut world = World::new(4, 0);
    let network = world.genesis.network_id();
    let change = world.proposal(Consent::Membership, Act::Membership(members(&[1, 5, 6], 0)));
    world
        .people
        .extend([Person::new(5, network), Person::new(6, network)]);
    assert!(
        !world.passes(&change, &[0, 1, 2]),
        "three of four old, one of three new"
    );
    let vote = world.people[4].vote(&change);
    world.say(vote);
    assert!(world.is_tip(&change), "and a second of the new");
    assert_eq!(world.standing().electorate().epoch, 1);
    assert!(world.standing().faults().is_empty());

    let mut world = World::new(4, 0);
    let change = world.proposal(Consent::Membership, Act::Membership(members(&[1, 5, 6], 0)));
    world
        .people
        .extend([Person::new(5, network), Person::new(6, network)]);
    assert!(
        !world.passes(&change, &[0, 4, 5]),
        "one of four old is not enough"
    );
    let minor = Proposal {
        consent: Consent::Minor,
        round: 1,
        ..change
    };
    assert!(
        !world.passes(&minor, &[0, 1, 2, 4]),
        "nor is another consent"
    );
}

fn raise(world: &World, from: Phase, lifts: Vec<EntryId>) -> Proposal {
    let to = from.next().unwrap();
    let criteria = world.genesis.criteria_hash(to).unwrap();
    let act = Act::Raise {
        to,
        criteria,
        evidence: [1; 32],
        lifts,
    };
    Proposal {
        phase: from,
        ..world.proposal(Consent::Membership, act)
    }
}

/// Each try in a round of its own.
fn rises(world: &mut World, round: u32, proposal: Proposal) -> bool {
    world.passes(&Proposal { round, ..proposal }, &[0, 1])
}

#[test]
fn phases_rise_one_by_one() {
    let mut world = World::with(3, 3, |terms| {
        terms.criteria[1] = "a month of suggestions".into();
    });
    let up = raise(&world, Phase::ReadOnly, vec![]);
    assert!(rises(&mut world, 0, up));
    let mut wrong = raise(&world, Phase::Suggest, vec![]);
    let other = world.genesis.criteria_hash(Phase::Major).unwrap();
    if let Act::Raise { criteria, .. } = &mut wrong.act {
        *criteria = other;
    }
    assert!(
        !rises(&mut world, 1, wrong.clone()),
        "other criteria than the genesis'"
    );
    if let Act::Raise { to, .. } = &mut wrong.act {
        *to = Phase::Major;
    }
    assert!(!rises(&mut world, 2, wrong), "no phase is skipped");
    let mut cheap = raise(&world, Phase::Suggest, vec![]);
    cheap.consent = Consent::Minor;
    assert!(!rises(&mut world, 3, cheap));
    let up = raise(&world, Phase::Suggest, vec![]);
    assert!(rises(&mut world, 4, up));
    assert_eq!(world.standing().phase(), Phase::Minor);
}

#[test]
fn phases_fall_by_one_word_and_rise_from_there() {
    let mut world = World::with(3, 3, |terms| terms.phase = Phase::Minor);
    let phase = |world: &World| world.standing().phase();
    let lower = |world: &mut World, by: usize, to: Phase| {
        let entry = world.people[by].sign(0, Body::Lower(to));
        world.say(entry.clone());
        entry.id()
    };
    let one = lower(&mut world, 2, Phase::ReadOnly);
    assert_eq!(phase(&world), Phase::ReadOnly, "one participant is enough");
    let up = raise(&world, Phase::Minor, vec![one]);
    assert!(
        !rises(&mut world, 0, up),
        "a raise starts where the lowering left the mesh"
    );
    let up = raise(&world, Phase::ReadOnly, vec![]);
    assert!(rises(&mut world, 1, up));
    assert_eq!(
        phase(&world),
        Phase::ReadOnly,
        "it did not name the lowering, which stays"
    );
    let up = raise(&world, Phase::ReadOnly, vec![one]);
    assert!(rises(&mut world, 2, up));
    assert_eq!(phase(&world), Phase::Suggest);
    let two = lower(&mut world, 2, Phase::ReadOnly);
    assert_eq!(phase(&world), Phase::ReadOnly, "a new word counts anew");
    assert_eq!(world.standing().lowered().get(&public(3)), Some(&two));
    let unknown = raise(&world, Phase::ReadOnly, vec![EntryId([1; 32])]);
    assert!(!rises(&mut world, 3, unknown));
}

#[test]
fn fewer_than_three_stop_at_phase_one() {
    let mut world = World::with(3, 3, |terms| terms.phase = Phase::Major);
    assert_eq!(world.standing().phase(), Phase::Major);
    let fewer = world.proposal(Consent::Membership, Act::Membership(members(&[1, 2], 3)));
    assert!(world.passes(&fewer, &[0, 1]));
    assert_eq!(world.standing().phase(), Phase::Suggest);
    let up = raise(&world, Phase::Suggest, vec![]);
    assert!(!world.passes(&up, &[0, 1]));
    let blind = world.proposal(Consent::Membership, Act::Membership(members(&[1, 2, 3], 0)));
    world.vote(&Proposal { round: 1, ..blind }, &[0, 1, 2]);
    assert_eq!(world.standing().electorate().epoch, 2);
    assert_eq!(
        world.standing().phase(),
        Phase::Suggest,
        "nor without witnesses"
    );
}

#[test]
fn what_streams_bring_needs_the_phase() {
    for (phase, minor, major) in [
        (Phase::Suggest, false, false),
        (Phase::Minor, true, false),
        (Phase::Major, true, true),
    ] {
        let passes = |key, value, consent| {
            let mut world = World::with(3, 3, |terms| terms.phase = phase);
            let proposal = world.proposal(consent, world.set(key, value));
            world.vote(
                &Proposal {
                    origin: Origin::Stream,
                    ..proposal.clone()
                },
                &[0, 1],
            );
            world.look(60);
            world.look(crate::limits::REVIEW_S);
            world.standing().tip().height == 1
        };
        assert_eq!(passes(FINE, 400, Consent::Minor), minor);
        assert_eq!(passes(MAJOR, 250, Consent::Major), major);
    }
    // The mesh has no say in who decides.
    let mut world = World::with(3, 3, |terms| terms.phase = Phase::Major);
    let act = Act::Membership(members(&[1, 2, 4], 3));
    let proposal = world.proposal(Consent::Membership, act);
    let proposal = Proposal {
        origin: Origin::Stream,
        ..proposal
    };
    assert!(!world.passes(&proposal, &[0, 1, 2]));
}

#[test]
fn machines_are_admitted_by_chains_and_taken_out_by_anyone() {
    let mut world = World::with(3, 0, |terms| terms.nodes = sorted([50]));
    let network = world.genesis.network_id();
    let admit = |issuer: u8, subject: u8, expires_s: u64| {
        let (issuer_key, subject) = (public(issuer), public(subject));
        let signature = [0; 64];
        let issued_s = START_S;
        let mut a = Admission {
            network,
            issuer: issuer_key,
            subject,
            issued_s,
            expires_s,
            signature,
        };
        a.signature = secret(issuer).sign(&a.body()).to_bytes();
        Record::Admission(a)
    };
    let end = START_S + DAY_S;
    // 50 -> 51 -> 52 -> 53 -> 54, and 60 by nobody who belongs here.
    for (issuer, subject) in [(50, 51), (51, 52), (52, 53), (53, 54), (59, 60)] {
        assert!(world.records.insert(admit(issuer, subject, end)));
    }
    let admitted = |world: &World, now_s| -> Vec<u8> {
        let standing = world.standing();
        let all = 50..=60;
        all.filter(|n| standing.admissions().admits(&public(*n), now_s))
            .collect()
    };
    assert_eq!(
        admitted(&world, START_S),
        [50, 51, 52, 53],
        "at most three links"
    );
    assert_eq!(admitted(&world, START_S - 1), [50]);
    assert_eq!(admitted(&world, end), [50], "all links have ended");
    let revoke = |by: u8, target| {
        let mut r = Revocation {
            network,
            author: public(by),
            target,
            signature: [0; 64],
        };
        r.signature = secret(by).sign(&r.body()).to_bytes();
        Record::Revocation(r)
    };
    assert!(
        world.records.insert(revoke(9, Target::Node(public(50)))),
        "signed, by a stranger"
    );
    assert_eq!(admitted(&world, START_S), [50, 51, 52, 53]);
    let before = world.standing().hash();
    let Record::Admission(link) = admit(51, 52, end) else {
        panic!()
    };
    world.records.insert(revoke(1, Target::Link(link.id())));
    assert_eq!(admitted(&world, START_S), [50, 51]);
    assert_ne!(world.standing().hash(), before);
    world.records.insert(admit(50, 52, end));
    assert_eq!(
        admitted(&world, START_S),
        [50, 51, 52, 53, 54],
        "by another link"
    );
    world.records.insert(revoke(2, Target::Node(public(52))));
    assert_eq!(admitted(&world, START_S), [50, 51]);
    world.records.insert(revoke(2, Target::Node(public(50))));
    assert_eq!(admitted(&world, START_S), [] as [u8; 0]);
    remove_second(&mut world);
    assert_eq!(
        admitted(&world, START_S),
        [50, 51, 52, 53, 54],
        "his words went with him"
    );
}

fn remove_second(world: &mut World) {
    let change = world.proposal(Consent::Membership, Act::Membership(members(&[1, 3, 4], 0)));
    assert!(world.passes(&change, &[0, 2]));
}
