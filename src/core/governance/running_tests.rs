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
        Node {
            rights: Rights::booting().under(world.standing()),
            running: Running::begin(&world.standing()),
        }
    }

    /// Hears all, `later_s` after the witnesses last spoke.
    fn hears(&mut self, world: &World, later_s: u64) -> Option<Decision> {
        let now = Now {
            unix_s: world.now_s + later_s,
            highest_s: 0,
        };
        self.rights = self.rights.under(world.standing()).at(now);
        self.running.under(&self.rights)
    }

    fn runs(&self) -> (u64, u32) {
        (self.running.version(), self.running.config().get(FINE))
    }
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
