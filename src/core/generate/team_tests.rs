//! K experts over a network in virtual time: delays, losses, crashes. What must hold: the text is a
//! function of the seed, the law and the set schedule, whatever else happens.

use super::net_tests::*;
use super::tests::{law, vocab};
use super::*;
use crate::law::{ListLaw, Sampler, Transforms};
use crate::opinion::{ExpertFailure, Query, Said, Want};
use crate::team::{Change, Sets};
use proptest::prelude::*;

#[test]
fn a_dead_expert_is_replaced_at_the_first_undecided_position() {
    for (death, trouble) in [
        (
            Ways {
                gone_at: 100_000,
                ..CALM
            },
            "the connection is gone",
        ),
        (
            Ways {
                silent_from: 100_000,
                ..CALM
            },
            "it did not answer in time",
        ),
    ] {
        let ways: Vec<(u8, Ways)> = NAMES
            .iter()
            .map(|n| (*n, if *n == 2 { death.clone() } else { CALM }))
            .collect();
        let story = live(long(3), plan(&NAMES, 3, 1), &ways, 7);
        assert_eq!(
            (story.tokens.len(), &story.why),
            (30, &Finish::Length),
            "the text goes on"
        );
        assert_eq!(story.failed.len(), 1);
        assert_eq!(story.failed[0].1.to_string(), trouble);
        assert_eq!(
            (story.names(0), story.names(1)),
            (vec![1, 2, 3], vec![1, 3, 4])
        );
        assert_eq!(story.schedule.len(), 2);
        assert_eq!(
            replayed(long(3), plan(&NAMES, 3, 1), &ways, &story.schedule),
            story.tokens
        );
        let gap = story.at_us.windows(2).map(|w| w[1] - w[0]).max().unwrap();
        let deadline = 50_000; // the floor: its own p95 is about 10 ms
        assert!(
            gap <= deadline + 3 * 10_000,
            "a warm spare costs one question: {gap}"
        );
    }
}

#[test]
fn one_that_was_late_is_a_spare_again_and_hears_everything() {
    let hiccup = Ways {
        silent_from: 60_000,
        silent_until: 200_000,
        ..CALM
    };
    let death = Ways {
        gone_at: 215_000,
        ..CALM
    };
    let ways = [(1, CALM), (2, hiccup), (3, death)];
    let story = live(long(4), plan(&[1, 2, 3], 2, 0), &ways, 1);
    assert_eq!(story.tokens.len(), 30);
    let sets: Vec<Vec<u8>> = (0..story.schedule.len()).map(|i| story.names(i)).collect();
    assert_eq!(sets, [vec![1, 2], vec![1, 3], vec![1, 2]]);
    assert_eq!(
        replayed(long(4), plan(&[1, 2, 3], 2, 0), &ways, &story.schedule),
        story.tokens
    );
}

#[test]
fn with_fewer_experts_than_k_the_rest_goes_on_and_the_last_one_is_waited_for() {
    let gone = |at| Ways {
        gone_at: at,
        ..CALM
    };
    let ways = [(1, gone(80_000)), (2, gone(120_000)), (3, CALM)];
    let story = live(long(5), plan(&[1, 2, 3], 3, 1), &ways, 2);
    assert_eq!((story.tokens.len(), story.why), (30, Finish::Length));
    assert_eq!(
        story.schedule.last().unwrap().set,
        [(ExpertId([3; 32]), 1.0)]
    );

    let pause = Ways {
        silent_from: 80_000,
        silent_until: 10_000_000,
        ..CALM
    };
    let story = live(long(5), plan(&[1], 1, 1), &[(1, pause)], 2);
    assert_eq!(
        story.tokens.len(),
        30,
        "nobody else is there, so it is waited for"
    );
    assert!(story.failed.is_empty());

    let silent = Ways {
        silent_from: 80_000,
        ..CALM
    };
    let story = live(long(5), plan(&[1], 1, 1), &[(1, silent)], 2);
    assert_eq!(story.why, Finish::Failed("it never answered".into()));
    let gave_up = 80_000 + crate::limits::GIVE_UP_US;
    assert!(
        (gave_up..gave_up + 200_000).contains(&story.ended_us),
        "{}",
        story.ended_us
    );
}

#[test]
fn busy_and_lying_experts_cost_a_question_and_not_the_text() {
    let session = SessionId(1);
    let busy = ExpertEvent::Failed {
        session,
        why: ExpertFailure::Busy { retry_ms: 700 },
    };
    let twice = crate::opinion::Entry {
        token: 1,
        ln_p: LnP::CERTAIN,
    };
    let lie = |position| ExpertEvent::Opinions {
        session,
        epoch: 0,
        opinions: vec![Opinion {
            position,
            said: Said::List(crate::opinion::List {
                entries: vec![twice; 2],
                bound: 0.0,
            }),
            raw: None,
            scored: Vec::new(),
        }],
        compute_us: 0,
        bytes: 0,
    };
    for (instead, want) in [
        (busy, Trouble::Busy { retry_ms: 700 }),
        (
            lie(3),
            Trouble::Lied("an expert sent a list with tokens out of order or twice".into()),
        ),
    ] {
        let bad = Ways {
            instead: Some(instead),
            ..CALM
        };
        let ways = [(1, CALM), (2, bad), (3, CALM)];
        let story = live(long(6), plan(&[1, 2, 3], 2, 1), &ways, 2);
        assert_eq!(story.failed, [(ExpertId([2; 32]), want)]);
        assert_eq!((story.tokens.len(), story.names(0)), (30, vec![1, 3]));
    }
}

#[test]
fn the_first_k_answers_are_a_law_of_their_own() {
    let slow = Ways {
        delay_us: (30_000, 30_000),
        ..CALM
    };
    let ways = [(1, slow), (2, CALM), (3, CALM)];
    let plan = Plan {
        sets: Sets::B,
        ..plan(&[1, 2, 3], 2, 1)
    };
    let story = live(long(8), plan.clone(), &ways, 2);
    assert_eq!(story.tokens.len(), 30);
    let first = story.decided[0].answers.iter().map(|(_, e, _)| e.0[0]);
    assert_eq!(
        first.collect::<Vec<_>>().len() % 2,
        0,
        "two answer every question"
    );
    assert!(
        story.at_us[29] < 30 * 30_000,
        "the slow one never sets the pace"
    );
    assert_eq!(
        replayed(long(8), plan, &ways, &story.schedule),
        story.tokens
    );
}

/// Everybody is three times as slow as its deadline: the set must not change for ever.
#[test]
fn a_mesh_that_has_become_slow_is_given_more_time() {
    let slow = Ways {
        delay_us: (70_000, 80_000),
        ..CALM
    };
    let ways = [(2, slow.clone()), (3, slow)];
    let story = live(long(3), plan(&[2, 3], 2, 0), &ways, 1);
    assert_eq!(story.tokens.len(), 30);
    let last = story.schedule.last().map(|change| change.position);
    assert!(last < Some(3 + 20), "the set settles: {:?}", story.schedule);
    assert!(story.ended_us < 30 * 300_000, "{} us", story.ended_us);
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let new = |plan| Generate::new(long(1), vocab(), plan, 0, Micros(0)).map(drop);
    assert_eq!(new(plan(&[], 2, 0)).unwrap_err(), BadPlan::Nobody);
    assert_eq!(new(plan(&[1], 0, 0)).unwrap_err(), BadPlan::Nobody);
    assert_eq!(new(plan(&[1, 1], 2, 0)).unwrap_err(), BadPlan::Twice);
    let many: Vec<u8> = (0..13).collect();
    assert_eq!(new(plan(&many, 2, 0)).unwrap_err(), BadPlan::TooMany);
    assert_eq!(new(plan(&[1], 12, 5)).unwrap_err(), BadPlan::TooMany);
    for weight in [-1.0, f64::NAN, f64::INFINITY] {
        let mut bad = plan(&[1, 2], 2, 0);
        bad.candidates[1].weight = weight;
        assert_eq!(new(bad).unwrap_err(), BadPlan::Weight);
    }
}

#[test]
fn provenance_accounts_for_every_token() {
    let ways = [(1, CALM), (2, CALM)];
    let story = live(long(2), plan(&[1, 2], 2, 0), &ways, 2);
    assert_eq!(story.provenance.len(), 30);
    for provenance in &story.provenance {
        let weights: f64 = provenance.asked.iter().map(|v| v.weight).sum();
        assert!((weights - 1.0).abs() < 1e-12);
        assert!(
            provenance
                .asked
                .iter()
                .all(|v| v.arrived && v.answer_us >= 2_000)
        );
        assert!(
            provenance.asked.iter().any(|v| v.ln_p.is_some()),
            "somebody said it"
        );
    }
}

/// Leaving one expert out, swapping it for another, or weighing it otherwise is another text.
#[test]
fn every_expert_and_every_weight_moves_the_text() {
    let text = |weights: &[(u8, f64)]| {
        let mut plan = plan(&weights.iter().map(|w| w.0).collect::<Vec<_>>(), 3, 0);
        for (candidate, (_, weight)) in plan.candidates.iter_mut().zip(weights) {
            candidate.weight = *weight;
        }
        let calm: Vec<(u8, Ways)> = weights.iter().map(|w| (w.0, CALM)).collect();
        live(long(12), plan, &calm, 1).tokens
    };
    let all = [(1, 0.4), (2, 0.35), (3, 0.25)];
    let whole = text(&all);
    for i in 0..3 {
        let mut dropped = all.to_vec();
        dropped.remove(i);
        assert_ne!(text(&dropped), whole, "without {i}");
        let mut swapped = all;
        swapped[i].0 = 9;
        assert_ne!(text(&swapped), whole, "another instead of {i}");
        let mut other = all;
        other[i].1 *= 3.0;
        assert_ne!(text(&other), whole, "another weight of {i}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any delays, silences and crashes: the schedule that was written down gives the same text to
    /// the byte on machines that never fail.
    #[test]
    fn the_schedule_and_the_seed_are_the_text(
        seed: u64, net: u64, k in 1usize..4, spares in 0usize..3,
        troubles in prop::collection::vec((0u64..400_000, 0u64..300_000, 0usize..4), 5),
        sampler in prop_oneof![Just(Sampler::Seeded), Just(Sampler::SeededPlain), Just(Sampler::Greedy)],
    ) {
        let ways: Vec<(u8, Ways)> = NAMES.iter().zip(&troubles).map(|(name, (from, length, kind))| {
            let ways = match kind {
                0 => Ways { silent_from: *from, silent_until: from + length, ..CALM },
                1 => Ways { gone_at: *from, ..CALM },
                2 => Ways { delay_us: (1_000, 60_000), ..CALM },
                _ => CALM,
            };
            (*name, ways)
        }).collect();
        let mut law = law(if sampler == Sampler::Greedy { 0.0 } else { 1.0 });
        law = law.sampled(sampler);
        let spec = Spec { law, ..long(seed) };
        let story = live(spec.clone(), plan(&NAMES, k, spares), &ways, net);
        if let Finish::Failed(why) = &story.why {
            prop_assert!(troubles.iter().all(|(_, _, kind)| *kind == 1), "{why}");
        } else {
            prop_assert_eq!(story.tokens.len(), 30);
        }
        let again = replayed(spec, plan(&NAMES, k, spares), &ways, &story.schedule);
        prop_assert_eq!(&again[..story.tokens.len()], &story.tokens[..]);
    }

    /// One local expert: no timers, no schedule but the first set, the text of old.
    #[test]
    fn solo_is_a_team_of_one(seed: u64) {
        let alone = Plan::fixed(&[(ExpertId([1; 32]), 0.3)]);
        let story = live(long(seed), alone, &[(1, CALM)], 1);
        let mesh = live(long(seed), plan(&[1], 4, 2), &[(1, Ways { delay_us: (0, 90_000), ..CALM })], seed);
        prop_assert_eq!(&story.tokens, &mesh.tokens);
        prop_assert_eq!(story.schedule, [Change { position: 3, set: vec![(ExpertId([1; 32]), 1.0)] }]);
    }
}

#[test]
fn rejection_needs_fewer_lists_and_survives_everything() {
    let slow = Ways {
        delay_us: (40_000, 45_000),
        ..CALM
    };
    let ways = [(1, CALM), (2, CALM), (3, slow)];
    let mut plan = plan(&[1, 2, 3], 3, 0);
    plan.candidates[0].weight = 6.0;
    plan.candidates[0].local = true;
    let spec = Spec {
        law: law(1.0).sampled(Sampler::Rejection),
        ..long(1)
    };
    let story = live(spec, plan, &ways, 3);
    assert_eq!(story.tokens.len(), 30);
    let lists: usize = story.decided.iter().map(|d| d.answers.len()).sum();
    assert!(lists < 3 * 30, "{lists} lists for 30 tokens");
}

#[test]
fn a_law_without_keys_gives_none_away() {
    let law = Law::new(Transforms::NEUTRAL, ListLaw::default())
        .unwrap()
        .robust(1);
    assert_eq!(law.sampler, Sampler::SeededPlain);
    let mut machine = Generate::new(
        Spec { law, ..long(1) },
        vocab(),
        plan(&NAMES, 4, 1),
        0,
        Micros(0),
    )
    .unwrap();
    let mut out = Vec::new();
    machine.start(Micros(0), &mut out);
    let asks = out.iter().filter_map(|o| match o {
        Output::ToExpert(_, ExpertOp::Draft { queries, .. }) => queries.first(),
        _ => None,
    });
    let asks: Vec<&Query> = asks.collect();
    assert_eq!(asks.len(), 4);
    assert!(asks.iter().all(|q| matches!(q.want, Want::Plain { .. })));
}

/// A trimmed mean of too few is none: one that is late is waited for, and one that is gone ends the response in words.
#[test]
fn a_robust_law_waits_for_its_voices_and_says_so_when_they_are_gone() {
    let law = law(1.0).robust(1);
    let spec = |seed| Spec {
        law: law.clone(),
        ..long(seed)
    };
    let late = Ways {
        silent_from: 30_000,
        silent_until: 600_000,
        ..CALM
    };
    let ways = [(1, CALM), (2, CALM), (3, late)];
    let story = live(spec(1), plan(&[1, 2, 3], 3, 0), &ways, 1);
    assert_eq!((&story.why, story.tokens.len()), (&Finish::Length, 30));
    assert_eq!(story.schedule.len(), 1, "{:?}", story.schedule);
    let gone = Ways {
        gone_at: 30_000,
        ..CALM
    };
    let ways = [(1, CALM), (2, CALM), (3, gone)];
    let story = live(spec(1), plan(&[1, 2, 3], 3, 0), &ways, 1);
    let Finish::Failed(why) = &story.why else {
        panic!("{:?}", story.why)
    };
    assert!(why.contains("withstands a liar needs 3"), "{why}");
}
