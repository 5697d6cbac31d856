//! Tiers come from content: an oracle, and monotony.

use super::people::*;
use crate::config::{Class, SCHEMA};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn patch(ops: &[(Key, u32)]) -> Patch {
    let config = MeshConfig::default();
    let set = |(key, value): &(Key, u32)| Set {
        key: *key,
        value: *value,
        expect_old: config.get(*key),
    };
    Patch::new(ops.iter().map(set).collect()).unwrap()
}

fn tier_of(ops: &[(Key, u32)], lately: &[(Key, u32)]) -> Tier {
    let mut past = Lately::new();
    for (key, value) in lately {
        past.entry(*key).or_default().insert(*value);
    }
    patch_tier(&patch(ops), &MeshConfig::default(), &past).unwrap()
}

/// What a model writes is a patch of these keys or nothing: none of them says who may halt, how many
/// votes a change needs, which tier it has or what may be read back.
#[test]
fn model_output_that_names_a_halt_key_a_threshold_or_a_tier_has_no_key_to_set() {
    let words = [
        "halt",
        "resume",
        "vote",
        "key",
        "threshold",
        "quorum",
        "tier",
        "phase",
        "lease",
        "witness",
        "member",
        "policy",
        "audit",
        "permit",
    ];
    for row in SCHEMA {
        let named = row.name.split(['.', '_']);
        let named: Vec<&str> = named.filter(|part| words.contains(part)).collect();
        assert!(named.is_empty(), "{}", row.name);
    }
    // And an action of a stream has no words in it: the tier comes from keys and numbers alone.
    let config = MeshConfig::default();
    let patch = patch(&[(Key::ListEntriesMax, 64)]);
    let tier = tier(&Action::ConfigPatch(patch), &config, &Lately::new());
    assert_eq!(tier, Ok(Tier::DeployMajor));
}

#[test]
fn class_step_batch_and_the_last_day_decide() {
    use Tier::{DeployMajor, DeployMinor};
    assert_eq!(tier_of(&[(Key::ServingGatherUs, 400)], &[]), DeployMinor);
    assert_eq!(
        tier_of(&[(Key::ListEntriesMax, 255)], &[]),
        DeployMajor,
        "a major key"
    );
    assert_eq!(
        tier_of(&[(Key::ServingGatherUs, 1000)], &[]),
        DeployMinor,
        "the largest step"
    );
    // 300 -> 500 -> 601 in a day is more than one largest step from 300.
    assert_eq!(
        tier_of(
            &[(Key::ServingGatherUs, 601)],
            &[(Key::ServingGatherUs, 300)]
        ),
        DeployMajor
    );
    assert_eq!(
        tier_of(
            &[(Key::ServingGatherUs, 600)],
            &[(Key::ServingGatherUs, 300)]
        ),
        DeployMinor
    );
    assert_eq!(
        tier_of(&[(Key::ServingGatherUs, 600)], &[(Key::ListTauInverse, 2)]),
        DeployMinor
    );
    // Two largest steps at once are minor, and a little more is not.
    let two = [(Key::ServingGatherUs, 1000), (Key::ListTauInverse, 32)];
    assert_eq!(tier_of(&two, &[]), DeployMinor);
    assert_eq!(
        tier_of(&[two[0], two[1], (Key::ServingSessionsMax, 15)], &[]),
        DeployMajor
    );
    let far = patch_tier(
        &patch(&[(Key::ServingGatherUs, 1001)]),
        &MeshConfig::default(),
        &Lately::new(),
    );
    assert!(
        far.is_err(),
        "over the largest step is refused, not highest"
    );
}

#[test]
fn actions_have_their_tiers() {
    let of = |action: Action| tier(&action, &MeshConfig::default(), &Lately::new());
    let (small, major) = (
        patch(&[(Key::ServingGatherUs, 400)]),
        patch(&[(Key::ListEntriesMax, 255)]),
    );
    let experiment = |patch: &Patch, share_ppm| {
        of(Action::Experiment {
            patch: patch.clone(),
            share_ppm,
        })
    };
    assert_eq!(of(Action::Report), Ok(Tier::ReadOnly));
    assert_eq!(of(Action::Suggest(Key::ListEntriesMax)), Ok(Tier::Suggest));
    assert_eq!(
        of(Action::ConfigPatch(small.clone())),
        Ok(Tier::DeployMinor)
    );
    assert_eq!(
        of(Action::ConfigPatch(major.clone())),
        Ok(Tier::DeployMajor)
    );
    assert_eq!(experiment(&small, 10_000), Ok(Tier::SandboxTest));
    assert_eq!(experiment(&major, 1), Ok(Tier::DeployMajor));
    assert_eq!(experiment(&small, 10_001), Err(Unfit::Share));
    assert_eq!(experiment(&small, 0), Err(Unfit::Share));
    let needs = [
        Phase::ReadOnly,
        Phase::Suggest,
        Phase::Minor,
        Phase::Minor,
        Phase::Major,
    ];
    let tiers = [
        Tier::ReadOnly,
        Tier::Suggest,
        Tier::SandboxTest,
        Tier::DeployMinor,
        Tier::DeployMajor,
    ];
    assert_eq!(tiers.map(Phase::needed_for), needs);
}

#[test]
fn thresholds_are_the_table_and_always_more_than_half() {
    let row = |n| {
        [
            Consent::Minor,
            Consent::Major,
            Consent::Membership,
            Consent::Resume,
        ]
        .map(|c| c.threshold(n))
    };
    assert_eq!(row(1), [1, 1, 1, 1]);
    assert_eq!(row(2), [2, 2, 2, 2]);
    assert_eq!(row(3), [2, 2, 2, 2]);
    assert_eq!(row(4), [3, 3, 3, 3]);
    assert_eq!(row(5), [3, 4, 4, 3]);
    assert_eq!(row(7), [4, 5, 5, 4]);
    assert_eq!(row(64), [33, 43, 43, 33]);
    for n in 1..=64 {
        assert!(row(n).iter().all(|t| 2 * t > n && *t <= n));
        assert!(row(n)[1] >= row(n)[0]);
    }
}

/// (key, new value) pairs that fit the schema, by key.
fn ops() -> impl Strategy<Value = BTreeMap<Key, u32>> {
    let op = (0..SCHEMA.len(), any::<u32>()).prop_map(|(at, dice)| {
        let row = &SCHEMA[at];
        let reach = row.default * row.step_max_percent / 100;
        let low = row.default.saturating_sub(reach).max(row.min);
        let high = (row.default + reach).min(row.max);
        (row.key, low + dice % (high - low + 1))
    });
    let ops = prop::collection::btree_map(op.clone().prop_map(|op| op.0), any::<u32>(), 0..8);
    (ops, prop::collection::vec(op, 1..8)).prop_map(|(_, pairs)| {
        pairs
            .into_iter()
            .filter(|(key, value)| key.row().default != *value)
            .collect()
    })
}

fn past() -> impl Strategy<Value = BTreeMap<Key, BTreeSet<u32>>> {
    let value = (0..SCHEMA.len(), any::<u32>()).prop_map(|(at, dice)| {
        let row = &SCHEMA[at];
        (row.key, row.min + dice % (row.max - row.min + 1))
    });
    prop::collection::vec(value, 0..6).prop_map(|pairs| {
        let mut past = Lately::new();
        for (key, value) in pairs {
            past.entry(key).or_default().insert(value);
        }
        past
    })
}

/// The rule once more, written another way.
fn oracle(ops: &BTreeMap<Key, u32>, past: &Lately) -> Tier {
    let worst = |key: &Key, value: u32| {
        let row = key.row();
        let mut froms: Vec<u32> = past.get(key).into_iter().flatten().copied().collect();
        froms.push(row.default);
        let steps = froms
            .iter()
            .map(|f| u64::from(f.abs_diff(value)) * 1000 / u64::from(*f.max(&1)));
        (steps.max().unwrap(), u64::from(row.step_max_percent) * 10)
    };
    let all: Vec<(u64, u64)> = ops.iter().map(|(key, value)| worst(key, *value)).collect();
    let is_major = ops.keys().any(|key| key.row().class == Class::Major)
        || all.iter().any(|(step, largest)| step > largest)
        || all
            .iter()
            .map(|(step, largest)| step * 1000 / largest)
            .sum::<u64>()
            > 2000;
    if is_major {
        Tier::DeployMajor
    } else {
        Tier::DeployMinor
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_tier_never_falls_when_operations_or_history_are_added(ops in ops(), past in past(), more in past()) {
        prop_assume!(!ops.is_empty());
        let list: Vec<(Key, u32)> = ops.clone().into_iter().collect();
        let whole = patch_tier(&patch(&list), &MeshConfig::default(), &past).unwrap();
        prop_assert_eq!(whole, oracle(&ops, &past));
        for n in 1..list.len() {
            let part = patch_tier(&patch(&list[..n]), &MeshConfig::default(), &past).unwrap();
            prop_assert!(part <= whole);
        }
        let mut longer = past;
        for (key, values) in more {
            longer.entry(key).or_default().extend(values);
        }
        prop_assert!(patch_tier(&patch(&list), &MeshConfig::default(), &longer).unwrap() >= whole);
    }

    #[test]
    fn a_patch_and_its_inverse_leave_no_trace(ops in ops()) {
        prop_assume!(!ops.is_empty());
        let list: Vec<(Key, u32)> = ops.into_iter().collect();
        let (config, patch) = (MeshConfig::default(), patch(&list));
        let there = config.apply(&patch).unwrap();
        let back = patch.inverse().ops().iter().fold(there, |c, op| c.with(op.key, op.value).unwrap());
        prop_assert_eq!((back.hash(), back), (config.hash(), config));
    }
}

#[test]
fn a_standing_says_what_a_patch_needs_now() {
    let mut world = World::new(3, 3);
    let first = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 600));
    assert!(world.passes(&first, &[0, 1]));
    let Act::Patch(second) = world.set(Key::ServingGatherUs, 1_100) else {
        panic!("a patch")
    };
    let tier = |world: &World| world.standing().tier_of(&second);
    assert_eq!(tier(&world), Ok(Tier::DeployMajor), "120 % of what it was");
    // The fold says the same: as a minor change it does not pass today.
    let minor = world.proposal(Consent::Minor, Act::Patch(second.clone()));
    let early = world.records.clone();
    assert!(!world.passes(&minor, &[0, 1]));
    world.records = early;
    world.look(2 * DAY_S);
    assert_eq!(tier(&world), Ok(Tier::DeployMinor));
}
