//! From a standing to what a node may do, and what it runs under a halt.

use super::people::*;
use proptest::prelude::*;

const NOW: Now = Now {
    unix_s: START_S,
    highest_s: START_S,
};
const STREAM: Purpose = Purpose::Stream {
    does: Tier::Suggest,
    experts: Experts::One,
};
const APPLY: Purpose = Purpose::Apply {
    tier: Tier::DeployMinor,
    origin: Origin::People,
};

fn at(unix_s: u64) -> Now {
    Now {
        unix_s,
        highest_s: START_S,
    }
}

#[test]
fn one_participant_halts_and_nobody_else_does() {
    let world = World::new(3, 0);
    let genesis = &world.genesis;
    let halted = |halt: Halt| fold(genesis, &Records::from_iter([halt])).is_halted();
    let mine = world.people[1].halt(0, "smoke");
    assert!(!fold(genesis, &Records::default()).is_halted());
    assert!(halted(mine.clone()));
    assert!(
        !halted(Person::new(9, genesis.network_id()).halt(0, "x")),
        "a stranger"
    );
    assert!(
        !halted(Person::new(1, NetworkId([7; 32])).halt(0, "x")),
        "another mesh"
    );
    assert!(
        !halted(Halt {
            reason: "other".into(),
            ..mine.clone()
        }),
        "a changed body"
    );
    assert!(
        !halted(Halt {
            signature: [0; 64],
            ..mine
        }),
        "unsigned"
    );
}

#[test]
fn a_halt_takes_back_mesh_permits_and_leaves_the_owner_alone() {
    let mut world = World::new(1, 0);
    let alone = Rights::alone();
    assert_eq!(alone.mesh(), Err(Halted::NoMesh));
    let running = alone.under(world.standing());
    let permit = running.mesh().unwrap();
    assert_eq!(running.check(permit), Ok(()));
    assert_eq!(
        running.under(world.standing()).check(permit),
        Ok(()),
        "news that stop nothing"
    );
    let halt = world.halt(0, 1);
    let halted = running.under(world.standing());
    assert_eq!(halted.check(permit), Err(Halted::ByPeople("smoke".into())));
    assert_eq!(halted.check(halted.local()), Ok(()));
    let resume = world.resume(&[halt], &[]);
    assert!(world.passes(&resume, &[0]));
    let later = halted.under(world.standing());
    assert_eq!(
        later.check(permit),
        Err(Halted::Stale),
        "a permit never survives a halt"
    );
    assert!(later.mesh().is_ok());
}

#[test]
fn boot_is_halted_and_the_owner_only_tightens() {
    let world = World::with(3, 3, |terms| terms.phase = Phase::Major);
    let boot = Rights::booting();
    assert_eq!(boot.mesh(), Err(Halted::Booting));
    assert_eq!(boot.check(boot.local()), Ok(()));
    let running = boot.under(world.standing());
    let permit = running.mesh().unwrap();
    let here = running.tightened(Tighten {
        halted: true,
        phase_max: Phase::Major,
    });
    assert_eq!(here.check(permit), Err(Halted::Here));
    assert_eq!(here.check(here.local()), Ok(()));
    let again = here.tightened(Tighten {
        halted: false,
        phase_max: Phase::Major,
    });
    assert_eq!(again.check(permit), Err(Halted::Stale));
    assert!(again.mesh().is_ok());
    let phase_max = Phase::ReadOnly;
    let lower = running.at(NOW).tightened(Tighten {
        halted: false,
        phase_max,
    });
    let refused = Halted::Phase {
        is: Phase::ReadOnly,
        needs: Phase::Suggest,
    };
    assert_eq!(lower.permit(STREAM), Err(refused));
}

#[test]
fn streams_and_applies_need_a_fresh_word_of_the_witnesses() {
    let mut world = World::with(3, 3, |terms| terms.phase = Phase::Suggest);
    let blind = Rights::booting().under(world.standing()).at(NOW);
    assert_eq!(blind.permit(STREAM), Err(Halted::Lease(NoLease::None)));
    assert_eq!(blind.permit(APPLY), Err(Halted::Lease(NoLease::None)));
    assert!(blind.mesh().is_ok(), "users need no lease");
    world.look(0);
    let rights = Rights::booting().under(world.standing());
    assert_eq!(rights.permit(STREAM), Err(Halted::NoTime));
    // Eclipse: the same standing for ever, while time goes on.
    for (later_s, apply, stream) in [
        (0, true, true),
        (300, true, true),
        (301, false, true),
        (900, false, true),
        (901, false, false),
        (2 * DAY_S, false, false),
    ] {
        let rights = rights.at(at(START_S + later_s));
        assert_eq!(rights.permit(APPLY).is_ok(), apply, "{later_s}");
        assert_eq!(rights.permit(STREAM).is_ok(), stream, "{later_s}");
        assert!(rights.mesh().is_ok());
    }
    let permit = rights.at(NOW).permit(STREAM).unwrap();
    let old = rights.at(at(START_S + 901)).check(permit);
    assert_eq!(
        old,
        Err(Halted::Lease(NoLease::Old {
            age_s: 901,
            max_s: 900
        }))
    );
    // A clock that is behind, or was set back, may not stretch a lease.
    let clock = Err(Halted::Lease(NoLease::Clock));
    let slow = |unix_s| {
        rights
            .at(Now {
                unix_s,
                highest_s: 0,
            })
            .check(permit)
    };
    assert_eq!(slow(START_S - 600), Ok(()));
    assert_eq!(slow(START_S - 601), clock);
    let back = Now {
        unix_s: START_S,
        highest_s: START_S + 1,
    };
    assert_eq!(rights.at(back).check(permit), clock);
}

#[test]
fn a_halt_that_was_kept_from_this_node_still_ends_its_lease() {
    let mut world = World::with(3, 3, |terms| terms.phase = Phase::Suggest);
    world.look(0);
    let halt = world.halt(0, 1);
    world.look(10);
    world.records.halts.remove(&halt);
    let rights = Rights::booting()
        .under(world.standing())
        .at(at(START_S + 10));
    assert!(rights.mesh().is_ok());
    assert_eq!(
        rights.permit(STREAM),
        Err(Halted::Lease(NoLease::HaltElsewhere))
    );
    assert_eq!(
        rights.permit(APPLY),
        Err(Halted::Lease(NoLease::HaltElsewhere))
    );
}

#[test]
fn phases_gate_streams_and_not_people() {
    let stream = |does, experts| Purpose::Stream { does, experts };
    for (phase, may) in [
        (Phase::ReadOnly, [true, false, false, false, false]),
        (Phase::Suggest, [true, true, false, false, false]),
        (Phase::Minor, [true, true, true, true, false]),
        (Phase::Major, [true, true, true, true, true]),
    ] {
        let mut world = World::with(3, 3, |terms| terms.phase = phase);
        world.look(0);
        let rights = Rights::booting().under(world.standing()).at(NOW);
        let tiers = [
            Tier::ReadOnly,
            Tier::Suggest,
            Tier::SandboxTest,
            Tier::DeployMinor,
            Tier::DeployMajor,
        ];
        let can = tiers.map(|does| rights.permit(stream(does, Experts::One)).is_ok());
        assert_eq!(can, may, "{phase:?}");
        let several = rights
            .permit(stream(Tier::ReadOnly, Experts::Several))
            .is_ok();
        assert_eq!(several, phase >= Phase::Minor);
        for (tier, needs) in [
            (Tier::DeployMinor, Phase::Minor),
            (Tier::DeployMajor, Phase::Major),
        ] {
            let apply = |origin| rights.permit(Purpose::Apply { tier, origin }).is_ok();
            assert!(apply(Origin::People));
            assert_eq!(apply(Origin::Stream), phase >= needs);
        }
    }
}

/// A mesh with as many config changes.
fn changed(n: u32) -> World {
    let mut world = World::new(3, 0);
    for step in 0..n {
        let proposal = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 400 + step));
        assert!(world.passes(&proposal, &[0, 1]));
    }
    world
}

#[test]
fn a_halt_takes_back_three_versions_once() {
    let mut world = changed(5);
    assert_eq!(Interval::next(None, 5, &world.standing()), None);
    let first = world.halt(0, 1);
    let interval = Interval::next(None, 5, &world.standing()).unwrap();
    assert_eq!((interval.base(), interval.target().version), (5, 2));
    assert_eq!(interval.target(), &world.standing().snapshots()[2]);
    let second = world.halt(1, 2);
    let again = Interval::next(Some(interval.clone()), 2, &world.standing());
    assert_eq!(
        again,
        Some(interval.clone()),
        "two halts take back three, not six"
    );
    let resume = world.resume(&[first], &[]);
    assert!(world.passes(&resume, &[0, 1]));
    let again = Interval::next(again, 2, &world.standing());
    assert_eq!(again, Some(interval), "until the last halt is lifted");
    let resume = world.resume(&[second], &[]);
    assert!(world.passes(&resume, &[0, 1]));
    assert_eq!(Interval::next(again, 2, &world.standing()), None);
    assert_eq!(
        world.standing().snapshot().version,
        7,
        "a resume is a version of its own"
    );
}

#[test]
fn a_resume_names_the_config_and_the_floor_holds() {
    let mut world = changed(2);
    world.witnesses = 0;
    let halt = world.halt(0, 1);
    let old = world.standing().snapshots()[1].clone();
    let mut resume = world.resume(&[halt], &[]);
    if let Act::Resume { restart, .. } = &mut resume.act {
        *restart = old.config.hash();
    }
    assert!(world.passes(&resume, &[0, 1]));
    assert_eq!(world.standing().snapshot().config, old.config);

    // A floor needs a major vote; then neither halt nor resume goes below it.
    let mut world = World::new(3, 3);
    for value in [400, 401, 402] {
        let change = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, value));
        assert!(world.passes(&change, &[0, 1]));
    }
    let floor = world.proposal(Consent::Major, Act::MinSafe(2));
    assert!(!world.passes(&floor, &[0, 1]));
    world.look(crate::limits::REVIEW_S);
    assert!(world.is_tip(&floor) && world.standing().min_safe() == 2);
    let lower = world.proposal(Consent::Major, Act::MinSafe(1));
    world.vote(&lower, &[0, 1]);
    world.look(60);
    world.look(crate::limits::REVIEW_S);
    assert!(!world.is_tip(&lower), "a floor never sinks");
    let halt = world.halt(0, 1);
    let interval = Interval::next(None, 3, &world.standing()).unwrap();
    assert_eq!(interval.target().version, 2);
    let mut resume = Proposal {
        round: 1,
        ..world.resume(&[halt], &[])
    };
    if let Act::Resume { restart, .. } = &mut resume.act {
        *restart = world.genesis.config().hash();
    }
    assert!(!world.passes(&resume, &[0, 1]));
    let resume = Proposal {
        round: 2,
        ..world.resume(&[halt], &[])
    };
    assert!(world.passes(&resume, &[0, 1]) && !world.standing().is_halted());
}

proptest! {
    #![proptest_config(cases(16))]

    /// I8: what runs after a revert is byte for byte what ran before.
    #[test]
    fn a_revert_is_byte_equal(values in prop::collection::vec(300u32..700, 1..8), halts in 1u128..5, applied in 0u64..9) {
        let mut world = World::new(1, 0);
        let mut ran = vec![world.genesis.config().clone()];
        for value in values {
            let config = &ran[ran.len() - 1];
            if config.get(Key::ServingGatherUs) != value {
                let proposal = world.proposal(Consent::Minor, set(config, Key::ServingGatherUs, value));
                if world.passes(&proposal, &[0]) {
                    ran.push(config.with(Key::ServingGatherUs, value).unwrap());
                }
            }
            world.people[0].time_s += 1;
            if world.standing().snapshots().len() < ran.len() { break; }
        }
        let applied = applied.min(ran.len() as u64 - 1);
        let mut interval = None;
        for nonce in 0..halts {
            world.halt(0, nonce);
            interval = Interval::next(interval, applied, &world.standing());
        }
        let target = interval.unwrap().target().clone();
        prop_assert_eq!(target.version, applied.saturating_sub(3));
        let then = &ran[target.version as usize];
        prop_assert_eq!(target.config.values(), then.values());
        prop_assert_eq!(target.config.hash(), then.hash());
    }
}
