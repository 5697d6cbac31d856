//! Guessing ahead moves the speed and not one byte of the text.

use super::net_tests::*;
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

/// A router without an expert of its own lets one elsewhere lead: what it would choose comes with what it says.
#[test]
fn an_expert_elsewhere_leads_where_there_is_none_here() {
    let alike = Ways {
        common: 0.98,
        ..FAR
    };
    let ways = [(2, alike.clone()), (3, alike)];
    for sampler in [Sampler::Seeded, Sampler::Greedy] {
        let law = law(1.0).sampled(sampler);
        let plain = live(many(9, law.clone()), far(&[2, 3], 2, 0), &ways, 1);
        let ahead = live(guessing(many(9, law)), far(&[2, 3], 2, 0), &ways, 1);
        assert_eq!(ahead.tokens, plain.tokens, "{sampler:?}");
        let Guesses { right, wrong, .. } = ahead.guesses;
        assert!(right > 60 && wrong > 3, "{:?}", ahead.guesses);
        assert!(
            ahead.ended_us < plain.ended_us * 4 / 5,
            "{} {}",
            ahead.ended_us,
            plain.ended_us
        );
    }
}

/// Who decides alone is never wrong: a distant expert writes as fast as it thinks.
#[test]
fn one_expert_far_away_streams() {
    let ways = [(2, FAR)];
    let plain = live(many(9, law(1.0)), far(&[2], 1, 0), &ways, 1);
    let ahead = live(guessing(many(9, law(1.0))), far(&[2], 1, 0), &ways, 1);
    assert_eq!(ahead.tokens, plain.tokens);
    assert_eq!(ahead.guesses.wrong, 0);
    assert!(ahead.guesses.right > 140);
    assert!(
        ahead.ended_us < plain.ended_us / 8,
        "{} {}",
        ahead.ended_us,
        plain.ended_us
    );
}

#[test]
fn near_experts_are_not_slowed_down() {
    let ways = [(1, HERE), (2, HERE), (3, HERE)];
    let plain = live(many(7, law(1.0)), team(&[1, 2, 3], 3, 0), &ways, 1);
    let ahead = live(
        guessing(many(7, law(1.0))),
        team(&[1, 2, 3], 3, 0),
        &ways,
        1,
    );
    assert_eq!(ahead.tokens, plain.tokens);
    assert!(
        ahead.ended_us < plain.ended_us * 21 / 20,
        "{} {}",
        ahead.ended_us,
        plain.ended_us
    );
}

/// Where nobody may guess, the text does: robust mode leaves the choice to no single expert. Experts that
/// remember one token fall into a song.
#[test]
fn a_text_that_repeats_itself_needs_no_drafter() {
    let forgets = Ways {
        remembers: 1,
        ..FAR
    };
    let ways = [(2, forgets.clone()), (3, forgets.clone()), (4, forgets)];
    let law = law(0.0).sampled(Sampler::Greedy).robust(1);
    let names = &[2, 3, 4];
    let plain = live(many(3, law.clone()), far(names, 3, 0), &ways, 1);
    let ahead = live(guessing(many(3, law)), far(names, 3, 0), &ways, 1);
    assert_eq!(ahead.tokens, plain.tokens);
    let song = ahead.tokens.len() - 40;
    let repeats = |n: &usize| ahead.tokens[song..] == ahead.tokens[song - n..][..40];
    assert!((1..60).any(|n| repeats(&n)), "no song: {:?}", ahead.tokens);
    assert!(ahead.guesses.right > 60, "{:?}", ahead.guesses);
    assert!(
        2 * ahead.ended_us < plain.ended_us,
        "{} {}",
        ahead.ended_us,
        plain.ended_us
    );
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

/// Else an expert that checks three guesses at once would seem to be three times as quick a leader.
#[test]
fn what_is_computed_together_does_not_say_how_long_one_step_takes() {
    let said = super::Costs::said(30_000, 60);
    assert_eq!(said.shared(1).step_us(230_000, false), Some(30_000));
    assert_eq!(said.shared(3).step_us(230_000, false), None);
    assert_eq!(said.shared(3).step_us(20_000, true), Some(20_000));
    assert_eq!(
        said.shared(1).step_us(20_000, false),
        Some(20_000),
        "at most all of it"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Whatever the delays, silences and crashes: the schedule that was written down gives the same
    /// text without a single guess.
    #[test]
    fn the_text_is_that_of_a_router_that_never_guesses(
        seed: u64, net: u64, k in 1usize..5, spares in 0usize..2, common in 0.5f32..1.0, own: bool, branches: bool,
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
        let guessing = if branches { Guessing::Branches } else { Guessing::Stream };
        let spec = Spec { max_tokens: 60, guessing, ..many(seed, law) };
        let mut plan = far(&NAMES, k, spares);
        plan.candidates[0].local = own;
        plan.sets = sets;
        let story = live(spec.clone(), plan.clone(), &ways, net);
        let again = replayed(spec, plan, &ways, &story.schedule);
        prop_assert!(again.len() >= story.tokens.len());
        prop_assert_eq!(&again[..story.tokens.len()], &story.tokens[..]);
    }
}

// --- hand-over -----------------------------------------------------------------------------------

fn turns(names: &[u8], sigma_ppm: u32) -> Plan {
    Plan {
        sets: Sets::Turns { sigma_ppm },
        ..team(names, names.len(), 0)
    }
}

/// One expert writes until the word goes round: no round trip but then, and the text is that of its schedule.
#[test]
fn experts_that_take_turns_write_as_fast_as_they_think() {
    let names = [1, 2, 3, 4];
    let ways = [(1, HERE), (2, FAR), (3, FAR), (4, FAR)];
    let plain = live(many(9, law(1.0)), turns(&names, 100_000), &ways, 1);
    let ahead = live(
        guessing(many(9, law(1.0))),
        turns(&names, 100_000),
        &ways,
        1,
    );
    assert_eq!(ahead.tokens.len(), 150);
    assert_eq!(ahead.tokens, plain.tokens);
    assert_eq!(ahead.schedule, plain.schedule);
    assert_eq!(ahead.guesses.wrong, 0);
    let spoke: std::collections::BTreeSet<ExpertId> = ahead
        .schedule
        .iter()
        .map(|change| change.set[0].0)
        .collect();
    assert!(
        ahead.schedule.len() > 5 && spoke.len() == 4,
        "{:?}",
        ahead.schedule
    );
    assert!(ahead.schedule.iter().all(|change| change.set.len() == 1));
    let together = live(guessing(many(9, law(1.0))), team(&names, 4, 0), &ways, 1);
    assert!(
        ahead.ended_us * 2 < together.ended_us,
        "{} {}",
        ahead.ended_us,
        together.ended_us
    );
    assert!(
        ahead.ended_us * 3 < plain.ended_us,
        "{} {}",
        ahead.ended_us,
        plain.ended_us
    );
    let again = replayed(many(9, law(1.0)), far(&names, 4, 0), &ways, &ahead.schedule);
    assert_eq!(again, ahead.tokens);
}

#[test]
fn nobody_takes_turns_where_nothing_is_drawn() {
    let new = |spec| {
        Generate::new(
            spec,
            super::tests::vocab(),
            turns(&[1, 2], 100_000),
            0,
            Micros(0),
        )
        .map(drop)
    };
    let greedy = law(1.0).sampled(Sampler::Greedy);
    assert!(new(long(1)).is_ok());
    assert_eq!(
        new(Spec {
            law: greedy,
            ..long(1)
        }),
        Err(BadPlan::Turns)
    );
    assert_eq!(
        new(Spec {
            law: law(1.0).robust(1),
            ..long(1)
        }),
        Err(BadPlan::Turns)
    );
    assert_eq!(
        new(Spec {
            grammar: true,
            ..long(1)
        }),
        Err(BadPlan::Turns)
    );
}

/// A near speaker's tokens are quicker than a far one's stream: that is no reason to pay a round trip for each of
/// the far one's.
#[test]
fn a_near_speaker_keeps_nobody_from_streaming() {
    let slow = Ways {
        step_us: 20_000,
        ..FAR
    };
    let ways = [(1, HERE), (2, slow.clone()), (3, slow.clone()), (4, slow)];
    let spec = Spec {
        max_tokens: 800,
        ..many(9, law(1.0))
    };
    let story = live(guessing(spec), turns(&[1, 2, 3, 4], 100_000), &ways, 1);
    let own = ExpertId([1; 32]);
    let speaks = |at: usize| {
        let changes = story.schedule.iter().rev();
        let mut before = changes.skip_while(|change| change.position > at as Position + 3);
        before.next().map(|change| change.set[0].0)
    };
    let is_far = |at: &usize| speaks(*at) != Some(own);
    let far = (0..story.tokens.len()).filter(is_far).count();
    let begins = story
        .schedule
        .iter()
        .filter(|change| change.set[0].0 != own)
        .count();
    // All of a far turn but its first token, and for everybody the one that shows how far it is.
    let guessed = far - begins - 3;
    let right = story.guesses.right as usize;
    assert!(
        far > 400 && right + 10 > guessed,
        "{right} of {guessed}, {far} far"
    );
    let formula = 5_000 * (800 - far) + 25_000 * (far - begins) + 180_000 * begins;
    assert!(
        story.ended_us < formula as u64 * 11 / 10,
        "{} {formula}",
        story.ended_us
    );
}
