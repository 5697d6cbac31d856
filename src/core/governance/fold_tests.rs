//! The fold: order leaves no trace, and each kind of act needs what the table says.

use super::config_chain::Tree;
use super::feed::Feeds;
use super::people::*;
use proptest::prelude::*;

const FINE: Key = Key::ServingGatherUs;
const MAJOR: Key = Key::ListEntriesMax;

/// A day of a lively mesh, forks, floods and lies included, drawn from a seed.
fn lively(seed: u64) -> World {
    let mut dice = Dice(seed);
    let mut world = World::with(3 + dice.below(3) as u8, 3, |terms| {
        terms.phase = Phase::Suggest
    });
    for step in 0..12 {
        let n = world.people.len() as u64;
        let by = dice.below(n) as usize;
        let voters: Vec<usize> = (0..n as usize).filter(|_| dice.percent(70)).collect();
        match dice.below(9) {
            0..4 if !voters.is_empty() => {
                let value = 400 + dice.below(200) as u32;
                let act = match dice.below(4) {
                    0 => world.set(MAJOR, 200 + dice.below(50) as u32),
                    _ if value == world.standing().snapshot().config.get(FINE) => continue,
                    _ => world.set(FINE, value),
                };
                let consent = if dice.percent(50) {
                    Consent::Minor
                } else {
                    Consent::Major
                };
                let round = dice.below(2) as u32;
                let proposal = Proposal {
                    round,
                    ..world.proposal(consent, act)
                };
                world.vote(&proposal, &voters);
            }
            4 => {
                world.halt(by, step);
            }
            5 => {
                let entry = world.people[by].sign(0, Body::Lower(Phase::ReadOnly));
                world.say(entry);
            }
            6 if !voters.is_empty() => {
                let ids: Vec<HaltId> = world.records.halts.keys().copied().collect();
                let suspends = if dice.percent(30) {
                    vec![1 + by as u8]
                } else {
                    vec![]
                };
                let resume = world.resume(&ids, &suspends);
                world.vote(&resume, &voters);
            }
            7 if dice.percent(40) => {
                let mut twin = Person::new(1 + by as u8, world.genesis.network_id());
                twin.time_s += step as u64;
                world.say(twin.sign(0, Body::Lower(Phase::Suggest)));
            }
            _ => world.look([60, 3600, DAY_S][dice.below(3) as usize]),
        }
    }
    world.look(60);
    world
}

proptest! {
    #![proptest_config(cases(64))]

    /// I4, and that a certificate once made stays made.
    #[test]
    fn the_same_set_gives_one_hash_in_any_order(seed in any::<u64>(), turn in any::<u64>(), cut in 0usize..100) {
        let world = lively(seed);
        let whole = world.standing();
        let mut records = world.shuffled(turn);
        let part: Records = records[..records.len() * cut / 100].iter().cloned().collect();
        // Again, over the wire, and half of it twice.
        records.extend(world.shuffled(turn ^ 1).into_iter().take(records.len() / 2));
        let bytes: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        let again: Records = bytes.iter().map(|b| Record::decode(b).unwrap()).collect();
        let other = fold(&world.genesis, &again);
        prop_assert_eq!(other.hash(), whole.hash());
        prop_assert_eq!(other, whole);

        let network = world.genesis.network_id();
        let links = |records: &Records| -> Vec<LinkId> {
            let feeds = Feeds::new(network, &records.entries);
            let tree = Tree::grow(&world.genesis, &feeds, &records.checkpoints);
            tree.links.iter().map(|link| link.id).collect()
        };
        let all = links(&world.records);
        prop_assert!(links(&part).iter().all(|id| all.contains(id)));
    }

    /// I5: with any pile of certified acts, each place of the path has one, or the mesh stands still.
    #[test]
    fn rivals_halt(seed in any::<u64>()) {
        let world = lively(seed);
        let feeds = Feeds::new(world.genesis.network_id(), &world.records.entries);
        let tree = Tree::grow(&world.genesis, &feeds, &world.records.checkpoints);
        let path = tree.path();
        let standing = world.standing();
        for (at, link) in tree.links.iter().enumerate() {
            let voters = link.certificate.as_ref().map_or(0, |c| {
                c.voters.iter().filter(|a| standing.electorate().is_active(a)).count()
            });
            let is_rival = link.parent.is_some_and(|p| path.contains(&p))
                && !path.contains(&at)
                && link.certificate.as_ref().is_some_and(|c| voters >= c.needed);
            prop_assert!(!is_rival || standing.is_halted());
        }
    }
}

#[test]
fn entries_without_their_past_do_not_count() {
    let mut world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(FINE, 400));
    world.vote(&proposal, &[0]);
    let first = world.people[1].sign(0, Body::Lower(Phase::ReadOnly));
    let second = world.people[1].vote(&proposal);
    world.say(second.clone());
    assert_eq!(
        world.standing().tip().height,
        0,
        "the first of the feed is missing"
    );
    world.say(first);
    assert!(world.is_tip(&proposal));

    let mut world = World::new(3, 0);
    world.vote(&proposal, &[0]);
    let missing = world.people[2].sign(0, Body::Lower(Phase::ReadOnly));
    let ballot = Ballot::of(&proposal, world.genesis.network_id());
    let mut draft = world.people[1].draft(
        0,
        Body::Vote {
            choice: Choice::Yes,
            ballot,
        },
    );
    draft.refs = vec![missing.id()];
    let vote = world.people[1].sign_draft(&draft);
    world.say(vote);
    assert_eq!(
        world.standing().tip().height,
        0,
        "what it builds on is missing"
    );
    world.say(missing);
    assert!(world.is_tip(&proposal));

    // A feed that claims to go on from another author's entry, or from a wrong number.
    let mut world = World::new(3, 0);
    world.vote(&proposal, &[0]);
    let mut draft = world.people[1].draft(
        0,
        Body::Vote {
            choice: Choice::Yes,
            ballot,
        },
    );
    (draft.seq, draft.prev) = (world.people[0].seq, world.people[0].prev);
    let vote = world.people[1].sign_draft(&draft);
    world.say(vote);
    assert_eq!(world.standing().tip().height, 0);
}

#[test]
fn a_no_is_for_people_and_a_stranger_is_nobody() {
    let mut world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(FINE, 400));
    let mut stranger = Person::new(9, world.genesis.network_id());
    world.say(stranger.propose(&proposal));
    let votes = [
        world.people[0].vote(&proposal),
        world.people[1].vote(&proposal),
    ];
    votes.into_iter().for_each(|vote| world.say(vote));
    assert_eq!(
        world.standing().tip().height,
        0,
        "a stranger proposes nothing"
    );
    let mine = world.people[0].propose(&proposal);
    world.say(mine);
    assert!(world.is_tip(&proposal));
    let ballot = |p: &Proposal, w: &World| Ballot::of(p, w.genesis.network_id());
    let next = world.proposal(Consent::Minor, world.set(FINE, 300));
    world.vote(&next, &[0]);
    let (choice, at) = (Choice::No, ballot(&next, &world));
    let no = world.people[1].sign(0, Body::Vote { choice, ballot: at });
    world.say(no);
    world.say(stranger.vote(&next));
    assert!(!world.is_tip(&next));
    let yes = world.people[1].vote(&next);
    world.say(yes);
    assert!(world.is_tip(&next), "people may come round");
}

#[test]
fn a_proposal_fits_one_place_only() {
    let world = World::new(3, 0);
    let good = world.proposal(Consent::Minor, world.set(FINE, 400));
    let passes = |change: fn(&mut Proposal)| {
        let mut world = World::new(3, 0);
        let mut proposal = good.clone();
        change(&mut proposal);
        world.passes(&proposal, &[0, 1, 2])
    };
    assert!(passes(|_| {}));
    assert!(passes(|p| p.round = 3));
    assert!(!passes(|p| p.height = 2));
    assert!(!passes(|p| p.parent = LinkId([0; 32])));
    assert!(!passes(|p| p.epoch = 1));
    assert!(
        !passes(|p| p.phase = Phase::Suggest),
        "a phase that the mesh is not in"
    );
    assert!(!passes(|p| p.config = [0; 32]));
    assert!(!passes(|p| p.consent = Consent::Membership));
    assert!(
        !passes(|p| p.consent = Consent::Major),
        "no witnesses, no day passes"
    );
    assert!(!passes(|p| p.origin = Origin::Stream), "phase 0");
    assert!(!passes(|p| p.act = Act::MinSafe(1)));
    assert!(!passes(|p| {
        p.act = Act::Resume {
            restart: [9; 32],
            lifts: vec![],
            suspends: vec![],
        };
        p.consent = Consent::Resume;
    }));
}

#[test]
fn a_major_change_waits_a_day_and_five_minutes_by_the_witnesses() {
    let mut world = World::new(3, 3);
    let minor = world.proposal(Consent::Minor, world.set(MAJOR, 250));
    assert!(
        !world.passes(&minor, &[0, 1, 2]),
        "the claimed consent is too little"
    );
    let change = Proposal {
        round: 1,
        ..world.proposal(Consent::Major, world.set(MAJOR, 250))
    };
    // Nobody's clock matters but the witnesses': the author says it was long ago.
    world.people.iter_mut().for_each(|p| p.time_s = START_S);
    assert!(!world.passes(&change, &[0, 1]));
    world.look(DAY_S);
    assert!(!world.is_tip(&change), "a day is not enough");
    world.look(299);
    assert!(!world.is_tip(&change));
    world.look(1);
    assert!(world.is_tip(&change));
}

#[test]
fn one_wrong_witness_shortens_no_review() {
    for lie in [0, START_S - 10 * DAY_S, u64::MAX] {
        let mut world = World::new(3, 3);
        let change = world.proposal(Consent::Major, world.set(MAJOR, 250));
        world.vote(&change, &[0, 1]);
        let look = |world: &mut World, times: &[(u8, u64)]| {
            let checkpoint = cosign(world.seen(), times);
            world.records.insert(Record::Checkpoint(checkpoint));
        };
        look(&mut world, &[(WITNESS, START_S), (WITNESS + 1, lie)]);
        look(
            &mut world,
            &[(WITNESS, START_S + 60), (WITNESS + 2, START_S + 60)],
        );
        look(&mut world, &[(WITNESS, START_S + 90), (WITNESS + 1, lie)]);
        look(&mut world, &[(WITNESS + 1, u64::MAX)]);
        // Not witnesses of this mesh at all.
        look(&mut world, &[(7, u64::MAX), (8, u64::MAX), (9, u64::MAX)]);
        assert!(!world.is_tip(&change), "I6 with a witness who says {lie}");
        let day = START_S + 60 + crate::limits::REVIEW_S;
        look(&mut world, &[(WITNESS, day), (WITNESS + 2, day)]);
        assert!(world.is_tip(&change));
    }
}

#[test]
fn thin_slices_add_up_over_a_day() {
    let mut world = World::new(3, 3);
    let first = world.proposal(Consent::Minor, world.set(FINE, 1000));
    assert!(world.passes(&first, &[0, 1]));
    let second = world.proposal(Consent::Minor, world.set(FINE, 1001));
    assert!(
        !world.passes(&second, &[0, 1]),
        "together more than the largest step"
    );
    world.look(DAY_S - 120);
    assert!(!world.is_tip(&second));
    world.look(60);
    assert!(world.is_tip(&second), "a day after the first");
}

#[test]
fn without_witnesses_every_change_is_recent() {
    let mut world = World::new(1, 0);
    let first = world.proposal(Consent::Minor, world.set(FINE, 1000));
    assert!(world.passes(&first, &[0]));
    let second = world.proposal(Consent::Minor, world.set(FINE, 1001));
    assert!(!world.passes(&second, &[0]));
    let other = Proposal {
        round: 1,
        ..world.proposal(Consent::Minor, world.set(FINE, 600))
    };
    assert!(world.passes(&other, &[0]));
}

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

#[test]
fn phases_rise_one_by_one_and_fall_by_one_word() {
    let mut world = World::with(3, 3, |terms| {
        terms.criteria[1] = "a month of suggestions".into()
    });
    let phase = |world: &World| world.standing().phase();
    let mut round = 0;
    let mut try_raise = |world: &mut World, mut proposal: Proposal| {
        round += 1;
        proposal.round = round;
        world.passes(&proposal, &[0, 1])
    };
    let up = raise(&world, Phase::ReadOnly, vec![]);
    assert!(try_raise(&mut world, up));
    let mut wrong = raise(&world, Phase::Suggest, vec![]);
    if let Act::Raise { criteria, .. } = &mut wrong.act {
        *criteria = world.genesis.criteria_hash(Phase::Major).unwrap();
    }
    assert!(
        !try_raise(&mut world, wrong),
        "other criteria than the genesis'"
    );
    let mut skip = raise(&world, Phase::Suggest, vec![]);
    if let Act::Raise { to, criteria, .. } = &mut skip.act {
        *to = Phase::Major;
        *criteria = world.genesis.criteria_hash(Phase::Major).unwrap();
    }
    assert!(!try_raise(&mut world, skip), "no phase is skipped");
    let mut cheap = raise(&world, Phase::Suggest, vec![]);
    cheap.consent = Consent::Minor;
    assert!(!try_raise(&mut world, cheap));
    let up = raise(&world, Phase::Suggest, vec![]);
    assert!(try_raise(&mut world, up));
    assert_eq!(phase(&world), Phase::Minor);

    let lower = |world: &mut World, by: usize, to: Phase| {
        let entry = world.people[by].sign(0, Body::Lower(to));
        world.say(entry.clone());
        entry.id()
    };
    let one = lower(&mut world, 2, Phase::ReadOnly);
    assert_eq!(phase(&world), Phase::ReadOnly, "one participant is enough");
    let up = raise(&world, Phase::Minor, vec![one]);
    assert!(
        !try_raise(&mut world, up),
        "a raise starts where the lowering left the mesh"
    );
    let up = raise(&world, Phase::ReadOnly, vec![]);
    assert!(try_raise(&mut world, up));
    assert_eq!(
        phase(&world),
        Phase::ReadOnly,
        "it did not name the lowering, which stays"
    );
    let up = raise(&world, Phase::ReadOnly, vec![one]);
    assert!(try_raise(&mut world, up));
    assert_eq!(phase(&world), Phase::Suggest);
    let two = lower(&mut world, 2, Phase::ReadOnly);
    assert_eq!(phase(&world), Phase::ReadOnly, "a new word counts anew");
    assert_eq!(world.standing().lowered().get(&public(3)), Some(&two));
    let unknown = raise(&world, Phase::ReadOnly, vec![EntryId([1; 32])]);
    assert!(!try_raise(&mut world, unknown));
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
