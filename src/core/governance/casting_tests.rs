//! What becomes of single entries that anybody brings.

use super::people::*;

const FINE: Key = Key::ServingGatherUs;

/// A node that knows the world so far.
fn node(world: &World) -> Replica {
    let (replica, unused) = Replica::gather(world.genesis.clone(), world.records.iter().collect());
    assert!(unused.is_empty());
    replica
}

fn came(replica: &mut Replica, meant: Meant, entry: &Entry) -> Result<Tally, Miscast> {
    let (is_new, cast) = replica.cast(meant, entry);
    if let Ok(cast) = &cast {
        assert_eq!((cast.entry, cast.is_new), (entry.id(), is_new));
    }
    cast.map(|cast| cast.about.expect("it is about a proposal"))
}

#[test]
fn a_change_goes_from_its_proposal_to_its_last_vote_and_twice_is_once() {
    let mut world = World::new(3, 0);
    let mut node = node(&world);
    let change = world.proposal(Consent::Minor, world.set(FINE, 510));
    let proposed = world.people[0].propose(&change);
    let votes: Vec<Entry> = (0..3).map(|n| world.people[n].vote(&change)).collect();
    let at = |stage, yes| {
        Ok(Tally {
            proposal: change.id(world.genesis.network_id()),
            stage,
            yes,
            needed: 2,
        })
    };
    assert_eq!(
        came(&mut node, Meant::Proposal, &proposed),
        at(Stage::Open, 0)
    );
    assert_eq!(came(&mut node, Meant::Vote, &votes[0]), at(Stage::Open, 1));
    let known = |node: &mut Replica, meant, entry| {
        let (is_new, cast) = node.cast(meant, entry);
        assert!(!is_new);
        cast.map(|cast| cast.about.unwrap())
    };
    assert_eq!(known(&mut node, Meant::Vote, &votes[0]), at(Stage::Open, 1));
    assert_eq!(
        came(&mut node, Meant::Vote, &votes[1]),
        at(Stage::Accepted, 2)
    );
    // A vote that comes too late is part of its author's feed all the same.
    assert_eq!(
        came(&mut node, Meant::Vote, &votes[2]),
        at(Stage::Accepted, 3)
    );
    assert_eq!(
        known(&mut node, Meant::Proposal, &proposed),
        at(Stage::Accepted, 3)
    );
    assert_eq!(node.standing().snapshot().config.get(FINE), 510);
}

#[test]
fn an_entry_is_what_its_bringer_says_or_nothing_is_taken() {
    let mut world = World::new(3, 0);
    let id = world.halt(2, 1);
    let mut node = node(&world);
    let resume = world.resume(&[id], &[]);
    let entries = [
        (Meant::Resume, world.people[0].propose(&resume)),
        (Meant::Vote, world.people[0].vote(&resume)),
        (
            Meant::Proposal,
            world.people[0].sign(0, Body::Lower(Phase::ReadOnly)),
        ),
    ];
    for (meant, entry) in &entries {
        for other in [Meant::Proposal, Meant::Vote, Meant::Resume] {
            if other != *meant {
                let (is_new, cast) = node.cast(other, entry);
                assert_eq!((is_new, cast), (false, Err(Miscast::Other(other))));
            }
        }
        assert!(node.cast(*meant, entry).1.is_ok(), "{meant:?}");
    }
    assert!(node.standing().is_halted());
    let second = world.people[1].vote(&resume);
    assert_eq!(
        came(&mut node, Meant::Vote, &second).unwrap().stage,
        Stage::Accepted
    );
    assert!(!node.standing().is_halted());
}

#[test]
fn what_cannot_count_is_refused_by_name_and_leaves_no_trace() {
    let mut world = World::new(3, 0);
    let network = world.genesis.network_id();
    let mut node = node(&world);
    let change = world.proposal(Consent::Minor, world.set(FINE, 510));
    let mut stranger = Person::new(9, network);
    let mut elsewhere = Person::new(1, NetworkId([7; 32]));
    let first = world.people[0].propose(&change);
    let second = world.people[0].vote(&change);
    let early = world.people[1].vote(&change);
    for (meant, entry, why) in [
        (
            Meant::Proposal,
            stranger.propose(&change),
            Miscast::Refused(Refusal::Stranger),
        ),
        (
            Meant::Vote,
            stranger.vote(&change),
            Miscast::Refused(Refusal::Stranger),
        ),
        (
            Meant::Proposal,
            elsewhere.propose(&change),
            Miscast::Refused(Refusal::OtherMesh),
        ),
        (Meant::Vote, second.clone(), Miscast::Gap),
        (Meant::Vote, early.clone(), Miscast::Unknown),
    ] {
        assert_eq!(node.cast(meant, &entry), (false, Err(why)));
    }
    assert_eq!(node.records().iter().count(), 0);
    for (meant, entry) in [
        (Meant::Proposal, first),
        (Meant::Vote, second),
        (Meant::Vote, early),
    ] {
        assert!(
            came(&mut node, meant, &entry).is_ok(),
            "in their order all are welcome"
        );
    }
    assert_eq!(node.standing().snapshot().version, 1);
}

#[test]
fn a_hole_far_back_in_a_feed_is_a_gap_too() {
    let mut world = World::new(3, 0);
    let change = world.proposal(Consent::Minor, world.set(FINE, 510));
    let first = world.people[0].propose(&change);
    let lower = world.people[0].sign(0, Body::Lower(Phase::ReadOnly));
    let again = world.people[0].sign(0, Body::Lower(Phase::ReadOnly));
    // Somebody brought the middle in a parcel.
    let mut node = node(&world);
    assert_eq!(node.insert(Record::Entry(lower)), Taken::New);
    assert_eq!(
        node.cast(Meant::Proposal, &again),
        (false, Err(Miscast::Gap))
    );
    assert!(node.cast(Meant::Proposal, &first).1.is_ok());
    assert!(node.cast(Meant::Proposal, &again).1.is_ok());
    // And so is another's word that it builds on.
    let missing = world.people[2].sign(0, Body::Lower(Phase::ReadOnly));
    let mut draft = world.people[1].draft(0, Body::Lower(Phase::ReadOnly));
    draft.refs = vec![missing.id()];
    let leaning = world.people[1].sign_draft(&draft);
    assert_eq!(
        node.cast(Meant::Proposal, &leaning),
        (false, Err(Miscast::Gap))
    );
    assert!(node.cast(Meant::Proposal, &missing).1.is_ok());
    assert!(node.cast(Meant::Proposal, &leaning).1.is_ok());
}

#[test]
fn a_second_history_is_taken_as_the_proof_that_it_is() {
    let mut world = World::new(3, 0);
    let mut node = node(&world);
    let one = world.proposal(Consent::Minor, world.set(FINE, 510));
    let mut twin = world.people[0].clone();
    let first = world.people[0].propose(&one);
    let second = twin.propose(&Proposal { round: 1, ..one });
    assert!(came(&mut node, Meant::Proposal, &first).is_ok());
    assert_eq!(
        node.cast(Meant::Proposal, &second),
        (true, Err(Miscast::Fault))
    );
    assert!(node.standing().is_halted());
    assert_eq!(
        node.cast(Meant::Proposal, &second),
        (false, Err(Miscast::Fault))
    );
}

#[test]
fn what_was_signed_for_another_state_or_by_a_burnt_key_says_so() {
    let mut world = World::new(4, 0);
    let id = world.halt(3, 1);
    let resume = world.resume(&[id], &[4]);
    assert!(world.passes(&resume, &[0, 1, 2]));
    let mut node = node(&world);
    let change = world.proposal(Consent::Minor, world.set(FINE, 510));
    let burnt = world.people[3].propose(&change);
    assert_eq!(
        node.cast(Meant::Proposal, &burnt),
        (true, Err(Miscast::NoVoice))
    );
    let lower = world.people[3].sign(1, Body::Lower(Phase::ReadOnly));
    assert_eq!(
        node.cast(Meant::Proposal, &lower),
        (true, Err(Miscast::NoVoice))
    );
    let of_old_config = world.people[0].propose(&Proposal {
        config: [1; 32],
        ..change.clone()
    });
    assert_eq!(
        node.cast(Meant::Proposal, &of_old_config),
        (true, Err(Miscast::Elsewhere))
    );
    // The epoch of the vote's own entry is not that of the proposal.
    let good = world.people[0].propose(&change);
    assert!(came(&mut node, Meant::Proposal, &good).is_ok());
    let ballot = Ballot::of(&change, world.genesis.network_id());
    let choice = Choice::Yes;
    let of_old_epoch = world.people[1].sign(0, Body::Vote { choice, ballot });
    assert_eq!(
        node.cast(Meant::Vote, &of_old_epoch),
        (true, Err(Miscast::Elsewhere))
    );
    let kept = node.records().contains(&of_old_epoch.id().0);
    assert!(kept, "a feed has no holes");
}

#[test]
fn what_lost_its_place_and_what_is_ahead_are_told_apart() {
    let mut world = World::new(3, 0);
    let mut node = node(&world);
    let one = world.proposal(Consent::Minor, world.set(FINE, 510));
    let other = Proposal {
        round: 1,
        ..world.proposal(Consent::Minor, world.set(FINE, 520))
    };
    let next = Proposal {
        height: 2,
        parent: one.id(world.genesis.network_id()),
        ..world.proposal(Consent::Minor, world.set(FINE, 530))
    };
    let mut say = |meant, entry: &Entry| came(&mut node, meant, entry).map(|tally| tally.stage);
    assert_eq!(
        say(Meant::Proposal, &world.people[2].propose(&next)),
        Ok(Stage::Ahead)
    );
    assert_eq!(
        say(Meant::Proposal, &world.people[2].propose(&other)),
        Ok(Stage::Open)
    );
    assert_eq!(
        say(Meant::Proposal, &world.people[0].propose(&one)),
        Ok(Stage::Open)
    );
    assert_eq!(
        say(Meant::Vote, &world.people[0].vote(&one)),
        Ok(Stage::Open)
    );
    assert_eq!(
        say(Meant::Vote, &world.people[1].vote(&one)),
        Ok(Stage::Accepted)
    );
    assert_eq!(
        say(Meant::Vote, &world.people[2].vote(&other)),
        Ok(Stage::PassedOver)
    );
}

#[test]
fn those_whom_a_proposal_would_take_in_vote_on_it() {
    let mut world = World::new(3, 0);
    let mut node = node(&world);
    let change = world.proposal(
        Consent::Membership,
        Act::Membership(members(&[1, 2, 3, 5], 0)),
    );
    let mut new = Person::new(5, world.genesis.network_id());
    let proposed = world.people[0].propose(&change);
    assert!(came(&mut node, Meant::Proposal, &proposed).is_ok());
    let vote = new.vote(&change);
    let tally = came(&mut node, Meant::Vote, &vote).unwrap();
    assert_eq!(
        (tally.stage, tally.yes),
        (Stage::Open, 0),
        "of today's members nobody yet"
    );
    let own = world.proposal(Consent::Minor, world.set(FINE, 510));
    let own = new.propose(&own);
    assert_eq!(
        node.cast(Meant::Proposal, &own),
        (true, Err(Miscast::NoVoice))
    );
}
