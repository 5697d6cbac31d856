//! What a node runs while changes, halts and silent witnesses come and go, in made-up time.

use super::people::*;

const FINE: Key = Key::ServingGatherUs;

/// A node of the world whose clock is right.
struct Node {
    rights: Rights,
    running: Running,
}

impl Node {
    fn of(world: &World) -> Node {
        Node::refusing(world, None)
    }

    /// A node whose owner refuses what is accepted from a version on.
    fn refusing(world: &World, first: Option<u64>) -> Node {
        let rights = Rights::booting().under(world.standing());
        let rights = refusing(rights, first);
        let running = Running::begin(&rights, &world.standing());
        Node { rights, running }
    }

    /// Hears all, `later_s` after the witnesses last spoke.
    fn hears(&mut self, world: &World, later_s: u64) -> Option<Decision> {
        self.hears_refusing(world, later_s, None)
    }

    fn hears_refusing(
        &mut self,
        world: &World,
        later_s: u64,
        first: Option<u64>,
    ) -> Option<Decision> {
        let now = Now {
            unix_s: world.now_s + later_s,
            highest_s: 0,
        };
        let rights = self.rights.under(world.standing()).at(now);
        self.rights = refusing(rights, first);
        self.running.under(&self.rights)
    }

    fn runs(&self) -> (u64, u32) {
        (self.running.version(), self.running.config().get(FINE))
    }
}

fn refusing(rights: Rights, first: Option<u64>) -> Rights {
    first.map_or(rights.clone(), |first| {
        rights.refusing_from(first, "the owner's rule")
    })
}

fn refused(version: u64) -> Option<Decision> {
    Some(Decision::refused(
        About::Config(version),
        "the owner's rule",
    ))
}

/// One more change, which the witnesses have seen.
fn change(world: &mut World, value: u32) {
    let proposal = world.proposal(Consent::Minor, world.set(FINE, value));
    assert!(world.passes(&proposal, &[0, 1]));
}

#[test]
fn eclipse_no_change_takes_effect_five_minutes_after_the_last_word_of_the_witnesses() {
    let mut world = World::new(3, 3);
    world.look(60);
    let mut node = Node::of(&world);
    change(&mut world, 510);
    let max_s = u64::from(world.genesis.terms().leases.apply_s);
    assert_eq!(max_s, 300);
    let Some(Decision {
        about: About::Config(1),
        ruling: Ruling::Refused(why),
    }) = node.hears(&world, max_s + 1)
    else {
        panic!("an old word applies nothing")
    };
    assert!(why.contains("301 s old"), "{why}");
    assert_eq!(node.runs(), (0, 500));
    assert_eq!(node.hears(&world, max_s + 2), None, "it is said once");
    assert_eq!(
        node.hears(&world, max_s),
        Some(Decision::granted(About::Config(1))),
        "and a word just young enough does"
    );
    assert_eq!(node.runs(), (1, 510));
    assert_eq!(
        node.hears(&world, max_s + 1),
        None,
        "what has taken effect stays"
    );
    assert_eq!(node.runs(), (1, 510));
}

#[test]
fn eclipse_users_go_on_and_streams_end_fifteen_minutes_after_the_last_word() {
    let mut world = World::new(3, 3);
    world.look(60);
    let mut node = Node::of(&world);
    let stream = Purpose::Stream {
        does: Tier::ReadOnly,
        experts: Experts::One,
    };
    let max_s = u64::from(world.genesis.terms().leases.stream_s);
    assert_eq!(max_s, 900);
    node.hears(&world, max_s);
    let permit = node.rights.permit(stream).unwrap();
    node.hears(&world, max_s + 1);
    assert!(matches!(
        node.rights.check(permit),
        Err(Halted::Lease(NoLease::Old { .. }))
    ));
    assert!(
        node.rights.mesh().is_ok(),
        "a person's session needs no lease"
    );
    world.look(max_s);
    node.hears(&world, 0);
    assert_eq!(node.rights.check(permit), Ok(()));
}

#[test]
fn a_halt_takes_three_changes_back_on_a_node_and_the_resume_names_what_runs_without_a_witness() {
    let mut world = World::new(3, 3);
    world.look(60);
    let mut node = Node::of(&world);
    for value in [510, 520, 530, 540] {
        change(&mut world, value);
        assert!(node.hears(&world, 0).is_some());
    }
    assert_eq!(node.runs(), (4, 540));
    let halts = [world.halt(0, 1)];
    for _ in 0..2 {
        assert_eq!(node.hears(&world, 0), None);
        assert_eq!(node.runs(), (1, 510), "once, however often it is heard");
    }
    let resume = world.resume(&halts, &[]);
    world.vote(&resume, &[0, 1]);
    assert_eq!(
        node.hears(&world, 10_000),
        None,
        "no witness is left, and people go on"
    );
    assert_eq!(node.runs(), (5, 540));
    change(&mut world, 550);
    assert!(matches!(
        node.hears(&world, 301),
        Some(Decision {
            ruling: Ruling::Refused(_),
            ..
        })
    ));
    assert_eq!(node.runs(), (5, 540), "and a change after it waits for one");
}

#[test]
fn a_node_that_boots_runs_what_is_accepted_or_what_the_halt_took_it_back_to() {
    let mut world = World::new(3, 3);
    world.look(60);
    for value in [510, 520, 530, 540] {
        change(&mut world, value);
    }
    assert_eq!(Node::of(&world).runs(), (4, 540));
    world.halt(0, 1);
    assert_eq!(Node::of(&world).runs(), (1, 510));
}

#[test]
fn a_halt_whose_author_is_put_out_leaves_what_ran_before_it() {
    let mut world = World::new(4, 0);
    let mut node = Node::of(&world);
    for value in [510, 520] {
        let proposal = world.proposal(Consent::Minor, world.set(FINE, value));
        assert!(world.passes(&proposal, &[0, 1, 2]));
        node.hears(&world, 0);
    }
    world.halt(3, 1);
    node.hears(&world, 0);
    assert_eq!(node.runs(), (0, 500));
    let without = world.proposal(Consent::Membership, Act::Membership(members(&[1, 2, 3], 0)));
    assert!(world.passes(&without, &[0, 1, 2]));
    node.hears(&world, 0);
    assert_eq!(node.runs(), (2, 520));
}

#[test]
fn the_owner_who_halts_his_node_keeps_changes_from_it() {
    let mut world = World::new(3, 0);
    let mut node = Node::of(&world);
    node.rights = node.rights.tightened(Tighten {
        halted: true,
        phase_max: Phase::Major,
    });
    let proposal = world.proposal(Consent::Minor, world.set(FINE, 510));
    assert!(world.passes(&proposal, &[0, 1]));
    assert!(matches!(
        node.hears(&world, 0),
        Some(Decision {
            ruling: Ruling::Refused(_),
            ..
        })
    ));
    assert_eq!(node.runs(), (0, 500));
}

#[test]
fn what_the_owner_refuses_takes_no_effect_here_nor_what_builds_on_it() {
    let mut world = World::new(3, 3);
    world.look(60);
    let mut node = Node::of(&world);
    for value in [510, 520, 530] {
        change(&mut world, value);
    }
    let granted = Some(Decision::granted(About::Config(1)));
    assert_eq!(node.hears_refusing(&world, 0, Some(2)), granted);
    assert_eq!(node.runs(), (1, 510), "what comes before it does");
    assert_eq!(node.hears_refusing(&world, 0, Some(2)), refused(2));
    assert_eq!(
        node.hears_refusing(&world, 1, Some(2)),
        None,
        "it is said once"
    );
    assert_eq!((node.runs(), node.running.applied()), ((1, 510), 1));
    // His word is about what is to come: what runs goes on.
    assert_eq!(node.hears_refusing(&world, 0, Some(1)), None);
    assert_eq!(node.runs(), (1, 510));
    // And a node that starts anew begins before it, too.
    let mut anew = Node::refusing(&world, Some(2));
    assert_eq!(anew.runs(), (1, 510));
    assert_eq!(anew.hears_refusing(&world, 0, Some(2)), refused(2));
    assert_eq!(Node::refusing(&world, Some(1)).runs(), (0, 500));
    // He changes his mind.
    let granted = Some(Decision::granted(About::Config(3)));
    assert_eq!(node.hears(&world, 0), granted);
    assert_eq!(node.runs(), (3, 530));
}

#[test]
fn what_people_named_in_a_resume_runs_whatever_the_owner_refuses() {
    let mut world = World::new(3, 3);
    world.look(60);
    let mut node = Node::of(&world);
    change(&mut world, 510);
    assert_eq!(node.hears_refusing(&world, 0, Some(1)), refused(1));
    let halt = world.halt(0, 1);
    node.hears_refusing(&world, 0, Some(1));
    let resume = world.resume(&[halt], &[]);
    world.vote(&resume, &[0, 1]);
    assert_eq!(node.hears_refusing(&world, 0, Some(1)), None);
    assert_eq!(node.runs(), (2, 510));
    assert_eq!(Node::refusing(&world, Some(1)).runs(), (2, 510));
}

#[test]
fn what_was_accepted_is_listed_with_its_tier_and_whose_idea_it_was() {
    let mut world = World::with(3, 3, |terms| terms.phase = Phase::Minor);
    world.look(60);
    change(&mut world, 510);
    let mut from_stream = world.proposal(Consent::Minor, world.set(FINE, 520));
    from_stream.origin = Origin::Stream;
    assert!(world.passes(&from_stream, &[0, 1]));
    let halt = world.halt(0, 1);
    let resume = world.resume(&[halt], &[]);
    assert!(world.passes(&resume, &[0, 1]));
    let major = world.proposal(Consent::Major, world.set(FINE, 530));
    assert!(!world.passes(&major, &[0, 1]));
    world.look(crate::limits::REVIEW_S);
    assert!(world.is_tip(&major));
    let accepted = |version, tier, origin| Accepted {
        version,
        tier,
        origin,
    };
    let all = [
        accepted(1, Tier::DeployMinor, Origin::People),
        accepted(2, Tier::DeployMinor, Origin::Stream),
        accepted(4, Tier::DeployMajor, Origin::People),
    ];
    let standing = world.standing();
    assert_eq!(standing.accepted_after(0).collect::<Vec<_>>(), all);
    assert_eq!(standing.accepted_after(2).collect::<Vec<_>>(), all[2..]);
    assert_eq!(standing.accepted_after(4).count(), 0);
}
