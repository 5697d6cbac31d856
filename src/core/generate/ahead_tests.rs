//! Guessing ahead moves the speed and not one byte of the text.

use super::team_tests::*;
use super::tests::law;
use super::*;
use crate::law::Sampler;
use crate::limits::GUESSES_MAX;
use crate::team::Sets;
use proptest::prelude::*;

const HERE: Ways = Ways {
    delay_us: (2_000, 3_000),
    common: 0.9,
    ..CALM
};
const FAR: Ways = Ways {
    delay_us: (70_000, 80_000),
    common: 0.9,
    ..CALM
};

/// Experts known to be far.
fn far(names: &[u8], k: usize, spares: usize) -> Plan {
    let mut plan = plan(names, k, spares);
    for candidate in &mut plan.candidates {
        (0..64).for_each(|_| candidate.pace.answered(150_000));
    }
    plan
}

/// The first of these is this node's own.
fn team(names: &[u8], k: usize, spares: usize) -> Plan {
    let mut plan = far(names, k, spares);
    plan.candidates[0].local = true;
    plan
}

fn guessing(spec: Spec) -> Spec {
    Spec {
        guessing: Guessing::Stream,
        ..spec
    }
}

fn many(seed: u64, law: Law) -> Spec {
    Spec {
        law,
        max_tokens: 150,
        ..long(seed)
    }
}

#[test]
fn a_round_trip_is_paid_for_wrong_guesses_only() {
    let ways = [(1, HERE), (2, FAR), (3, FAR)];
    for sampler in [
        Sampler::Seeded,
        Sampler::SeededPlain,
        Sampler::Greedy,
        Sampler::Rejection,
    ] {
        let law = law(1.0).sampled(sampler);
        let plain = live(many(7, law.clone()), team(&[1, 2, 3], 3, 0), &ways, 1);
        let ahead = live(guessing(many(7, law)), team(&[1, 2, 3], 3, 0), &ways, 1);
        assert_eq!(ahead.tokens, plain.tokens, "{sampler:?}");
        assert_eq!(ahead.tokens.len(), 150);
        let guesses = ahead.guesses;
        assert!(
            guesses.right > 60 && guesses.wrong > 3,
            "{sampler:?} {guesses:?}"
        );
        assert_eq!(plain.guesses, Guesses::default());
        let alpha = f64::from(guesses.right) / f64::from(guesses.right + guesses.wrong);
        let formula = 150.0 * (5_000.0 + (1.0 - alpha) * 150_000.0);
        let took = ahead.ended_us as f64;
        assert!(
            took < 1.15 * formula,
            "{sampler:?}: {took} us, predicted {formula}"
        );
        assert!(took < 0.8 * plain.ended_us as f64, "{sampler:?}");
    }
}

#[test]
fn near_experts_are_asked_as_before() {
    let ways = [(1, HERE), (2, HERE), (3, HERE)];
    let ahead = live(
        guessing(many(7, law(1.0))),
        team(&[1, 2, 3], 3, 0),
        &ways,
        1,
    );
    assert_eq!(
        ahead.guesses,
        Guesses::default(),
        "there is nothing to gain"
    );
}

/// Without an expert of its own a router guesses that a text goes on as it did before.
#[test]
fn a_text_that_repeats_itself_needs_no_drafter() {
    let ways = [(2, FAR), (3, FAR)];
    let spec = many(3, law(0.0).sampled(Sampler::Greedy));
    let cycle = Spec {
        prompt: (0..60).map(|i| 10 + i % 6).collect(),
        ..spec
    };
    let plain = live(cycle.clone(), far(&[2, 3], 2, 0), &ways, 1);
    let ahead = live(guessing(cycle), far(&[2, 3], 2, 0), &ways, 1);
    assert_eq!(ahead.tokens, plain.tokens);
}

#[test]
fn what_is_under_way_is_bounded_and_ends_with_the_text() {
    let ways = [
        (
            1,
            Ways {
                delay_us: (10, 20),
                common: 1.0,
                ..CALM
            },
        ),
        (
            2,
            Ways {
                delay_us: (900_000, 900_000),
                common: 1.0,
                ..CALM
            },
        ),
    ];
    let spec = guessing(many(5, law(1.0)));
    let notes = Notes::default();
    let mut machine = Generate::new(
        Spec { notes, ..spec },
        super::tests::vocab(),
        team(&[1, 2], 2, 0),
        0,
        Micros(0),
    )
    .unwrap();
    assert!(machine.ahead.guesses.is_empty());
    let story = live(guessing(many(5, law(1.0))), team(&[1, 2], 2, 0), &ways, 1);
    assert_eq!((story.tokens.len(), story.guesses.wrong), (150, 0));
    let mut out = vec![];
    machine.start(Micros(0), &mut out);
    assert!(machine.ahead.guesses.len() <= GUESSES_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Whatever the delays, silences and crashes: the schedule that was written down gives the same
    /// text without a single guess.
    #[test]
    fn the_text_is_that_of_a_router_that_never_guesses(
        seed: u64, net: u64, k in 1usize..5, spares in 0usize..2, common in 0.5f32..1.0, own: bool,
        troubles in prop::collection::vec((0u64..2_000_000, 0u64..600_000, 0usize..6), 5),
        sampler in prop_oneof![Just(Sampler::Seeded), Just(Sampler::SeededPlain), Just(Sampler::Greedy)],
        sets in prop_oneof![Just(Sets::A), Just(Sets::B)],
    ) {
        let place = |(i, (from, length, kind)): (usize, &(u64, u64, usize))| {
            let ways = match kind {
                0 => Ways { silent_from: *from, silent_until: from + length, ..FAR },
                1 => Ways { gone_at: *from, ..FAR },
                2 => Ways { delay_us: (1_000, 160_000), ..FAR },
                _ if i == 0 => HERE,
                _ => FAR,
            };
            (NAMES[i], Ways { common, ..ways })
        };
        let ways: Vec<(u8, Ways)> = troubles.iter().enumerate().map(place).collect();
        let law = law(if sampler == Sampler::Greedy { 0.0 } else { 1.0 }).sampled(sampler);
        let spec = Spec { max_tokens: 60, ..guessing(many(seed, law)) };
        let mut plan = far(&NAMES, k, spares);
        plan.candidates[0].local = own;
        plan.sets = sets;
        let story = live(spec.clone(), plan.clone(), &ways, net);
        let again = replayed(spec, plan, &ways, &story.schedule);
        prop_assert!(again.len() >= story.tokens.len());
        prop_assert_eq!(&again[..story.tokens.len()], &story.tokens[..]);
    }
}
