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
                    0 => {
                        let old = world.standing().snapshot().config.get(MAJOR);
                        world.set(MAJOR, if old == 256 { 250 } else { old + 1 })
                    }
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

    // One that leaves numbers out.
    let mut world = World::new(3, 0);
    world.vote(&proposal, &[0]);
    let first = world.people[1].sign(0, Body::Lower(Phase::ReadOnly));
    world.say(first);
    world.people[1].seq += 1;
    let vote = world.people[1].vote(&proposal);
    world.say(vote);
    assert_eq!(world.standing().tip().height, 0);
}

#[test]
fn a_checkpoint_of_one_branch_has_not_seen_the_other() {
    let mut world = World::new(3, 3);
    let proposal = world.proposal(Consent::Minor, world.set(FINE, 400));
    let mut twin = world.people[1].clone();
    twin.time_s += 1;
    let other = twin.sign(0, Body::Lower(Phase::ReadOnly));
    world.vote(&proposal, &[0, 1]);
    world.say(other);
    // The witnesses know the branch without the vote, as far as it goes.
    let theirs = std::mem::replace(&mut world.people[1], twin);
    world.look(60);
    assert_eq!(world.standing().tip().height, 0);
    world.people[1] = theirs;
    world.look(60);
    assert!(world.is_tip(&proposal))
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
fn of_equal_checkpoints_the_first_and_the_last_are_kept_and_nothing_changes() {
    let mut world = World::new(3, 3);
    let mut replica = Replica::new(world.genesis.clone());
    let change = world.proposal(Consent::Major, world.set(MAJOR, 250));
    world.vote(&change, &[0, 1]);
    let mut dice = Dice(1);
    for _ in 0..300 {
        let time = world.now_s + dice.below(2 * DAY_S);
        let times = [0, 1].map(|n| (WITNESS + n, time + dice.below(120)));
        let checkpoint = cosign(world.seen(), &times);
        world.records.insert(Record::Checkpoint(checkpoint));
    }
    for record in world.shuffled(2) {
        replica.insert(record);
        assert!(replica.records().checkpoints.len() <= 2);
    }
    replica.refold();
    assert!(world.is_tip(&change));
    assert_eq!(replica.standing(), &world.standing());
    let kept = replica.records().clone();
    for record in world.shuffled(3) {
        assert_eq!(
            replica.insert(record),
            Taken::Known,
            "nothing is passed on twice"
        );
    }
    assert_eq!(replica.records(), &kept);
}

#[test]
fn entries_of_strangers_are_kept_only_while_people_may_take_them_in() {
    let mut world = World::new(3, 0);
    let network = world.genesis.network_id();
    let mut replica = Replica::new(world.genesis.clone());
    let change = world.proposal(Consent::Membership, Act::Membership(members(&[1, 2, 4], 0)));
    let mut new = Person::new(4, network);
    let vote = new.vote(&change);
    let stranger = Taken::Refused(Refusal::Stranger);
    assert_eq!(replica.insert(vote.clone().into()), stranger);
    let proposed = world.people[0].propose(&change);
    assert_eq!(replica.insert(proposed.into()), Taken::New);
    replica.refold();
    assert_eq!(replica.insert(vote.clone().into()), Taken::New);
    assert_eq!(replica.insert(vote.into()), Taken::Known);
    let other = Person::new(1, NetworkId([7; 32])).sign(0, Body::Lower(Phase::ReadOnly));
    assert_eq!(
        replica.insert(other.into()),
        Taken::Refused(Refusal::OtherMesh)
    );
    let checkpoint = cosign(world.seen(), &[(WITNESS, START_S)]);
    assert_eq!(replica.insert(Record::Checkpoint(checkpoint)), stranger);
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
