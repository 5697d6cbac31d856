//! Who is chosen by what it thinks of the prompt, and weights that follow the answer.

use super::net_tests::*;
use super::record_tests::recording;
use super::tests::law;
use super::weigh_tests::{knowing, written_by};
use super::*;
use crate::law::Sampler;
use crate::record::{self, Mismatch, Recording};
use crate::weights::{Following, Weighing};
use proptest::prelude::*;

fn weighed(spec: Spec, weights: &str) -> Spec {
    let weights = Weighing::named(weights).expect("a name");
    Spec {
        law: spec.law.clone().weighed(weights),
        ..spec
    }
}

fn calm(names: &[u8]) -> Vec<(u8, Ways)> {
    names.iter().map(|name| (*name, CALM)).collect()
}

/// Whoever knows the prompt is chosen, however slow it is: pace comes second.
#[test]
fn the_set_is_chosen_by_what_everybody_thinks_of_the_prompt() {
    for (known, k) in [(3, 1), (5, 1), (4, 2), (5, 4)] {
        let spec = weighed(knowing(written_by(known, 20), 4), "bayes");
        let story = live(spec, plan(&NAMES, k, 1), &calm(&NAMES), 1);
        assert_eq!(story.tokens.len(), 30);
        assert!(story.failed.is_empty());
        assert!(story.names(0).contains(&known), "{:?}", story.schedule);
        assert_eq!(story.schedule.len(), 1, "frozen after the prompt");
    }
}

/// Somebody who does not say what it thinks of the prompt is late, like anybody else, and others are asked.
#[test]
fn nobody_waits_for_ever_for_what_somebody_thinks_of_the_prompt() {
    let silent = Ways {
        silent_from: 0,
        ..CALM
    };
    let gone = Ways {
        gone_at: 2_000,
        silent_from: 0,
        ..CALM
    };
    for trouble in [silent, gone] {
        let mut ways = calm(&NAMES);
        ways[1].1 = trouble;
        let spec = weighed(knowing(written_by(3, 20), 4), "meta");
        let story = live(spec.clone(), plan(&NAMES, 2, 0), &ways, 1);
        assert_eq!(story.tokens.len(), 30);
        assert!(story.names(0).contains(&3), "{:?}", story.schedule);
        assert_eq!(story.failed.len(), 1, "{:?}", story.failed);
        let alone = live(spec, plan(&NAMES, 2, 0), &[(2, ways[1].1.clone())], 1);
        assert!(matches!(alone.why, Finish::Failed(_)), "{:?}", alone.why);
    }
}

/// Where the first answers count, those that came have the weights that all strategies give them, each
/// restricted by itself.
#[test]
fn the_first_to_answer_weigh_what_each_strategy_gives_them() {
    let spec = weighed(knowing(written_by(2, 9), 4), "meta");
    let mut plan = plan(&NAMES, 2, 2);
    plan.sets = Sets::B;
    let story = live(spec.clone(), plan, &calm(&NAMES), 3);
    let prompt = spec.prompt.clone();
    let mut weights = crate::weights::Weights::new(
        crate::weights::Rule {
            strategy: crate::weights::Strategy::Meta,
            ..Default::default()
        },
        NAMES.len(),
        None,
    )
    .unwrap();
    for (k, name) in NAMES.iter().enumerate() {
        let mut table = super::tests::table(*name);
        table.texts.own.tokens = prompt.clone();
        let at = prompt.len() as Position;
        let query = Query {
            scores: prompt.len() as u16 - 1,
            ..Query::plain(0.9, 1)
        };
        for (t, ln_p) in (1..).zip(table.opinion(at, &query).scored) {
            assert!(weights.heard(t, k, ln_p));
        }
    }
    let frozen = crate::weights::Situation::Sampled(Following::Frozen);
    weights.begin(prompt.len() as Position, frozen).unwrap();
    assert!(story.schedule.len() > 3, "{:?}", story.schedule);
    for change in &story.schedule {
        let set: Vec<usize> = change
            .set
            .iter()
            .map(|(e, _)| e.0[0] as usize - 1)
            .collect();
        let said: Vec<f64> = change.set.iter().map(|(_, w)| *w).collect();
        assert_eq!(said, weights.frozen(&set));
    }
}

/// The weights of every token, from what is recorded of the story alone.
fn shown(story: &Story) -> Vec<Vec<f64>> {
    let weights = story.provenance.iter();
    weights
        .map(|p| p.asked.iter().map(|v| v.weight).collect())
        .collect()
}

#[test]
fn weights_follow_the_answer_only_where_the_law_says_so_and_with_its_lag() {
    let spec = knowing(written_by(2, 3), 4);
    let tell = |weights: &str| {
        let spec = weighed(spec.clone(), weights);
        live(spec, plan(&NAMES[..3], 3, 0), &calm(&NAMES[..3]), 1)
    };
    let frozen = tell("meta");
    assert!(frozen.decided.iter().all(|d| d.weighed.is_none()));
    for (lag, name) in [(0, "meta:follow(0.1,0)"), (6, "meta:follow(0.1,6)")] {
        let story = tell(name);
        let shown = shown(&story);
        let start = &shown[0];
        let far = |a: &[f64], b: &[f64]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-9);
        let moved = shown.iter().position(|weights| far(weights, start));
        assert_eq!(
            moved,
            Some(lag + 1),
            "what was said of the first token counts at once"
        );
        assert_eq!(story.schedule.len(), 1, "the law is in the schedule once");
        let told = story
            .decided
            .iter()
            .flat_map(|d| &d.weighed)
            .map(|w| w.told.len());
        assert_eq!(told.sum::<usize>(), 3 * 29, "every token, of everybody");
    }
}

/// A set of one among five: whoever is outside reads along, says what it thinks every so often, and takes
/// over where it knows better.
#[test]
fn sleepers_return_what_they_missed_and_take_over() {
    let mut changes = 0;
    for seed in 0..10 {
        let spec = Spec {
            max_tokens: 120,
            ..weighed(knowing(written_by(2, 6), seed), "meta:follow(0.02,0)")
        };
        let story = live(spec.clone(), plan(&NAMES, 2, 0), &calm(&NAMES), seed);
        assert_eq!((story.tokens.len(), story.failed.len()), (120, 0));
        let weighed: Vec<&Weighed> = story
            .decided
            .iter()
            .flat_map(|d| d.weighed.as_deref())
            .collect();
        assert_eq!(weighed.len(), 120);
        assert_eq!(weighed[0].start.len(), NAMES.len());
        // Every token is judged by everybody, but for the last few.
        for name in NAMES {
            let said = weighed
                .iter()
                .flat_map(|w| w.caught_up.iter().chain(&w.told));
            let said = said.filter(|e| e.expert.0[0] == name);
            let mut at: Vec<Position> = said
                .flat_map(|e| e.position..e.position + e.ln_p.len() as Position)
                .collect();
            at.sort_unstable();
            assert!(
                at.windows(2).all(|two| two[1] == two[0] + 1),
                "{name}: {at:?}"
            );
            assert!(at.len() >= 90, "{name} said {}", at.len());
        }
        changes += story.schedule.len() - 1;
    }
    assert!(changes > 10, "{changes}");
}

#[test]
fn where_weights_cannot_follow_is_refused() {
    let refused = |change: &dyn Fn(&mut Spec, &mut Plan)| {
        let mut spec = weighed(long(1), "follow");
        let mut plan = plan(&[1, 2, 3], 3, 0);
        change(&mut spec, &mut plan);
        Generate::new(spec, super::tests::vocab(), plan, 0, Micros(0)).err()
    };
    assert_eq!(refused(&|_, _| {}), None);
    let sets = [Sets::B, Sets::Turns { sigma_ppm: 100_000 }];
    for sets in sets {
        assert_eq!(refused(&|_, plan| plan.sets = sets), Some(BadPlan::Follow));
    }
    assert_eq!(
        refused(&|spec, _| spec.grammar = true),
        Some(BadPlan::Follow)
    );
    let robust = |spec: &mut Spec| spec.law = spec.law.clone().robust(1);
    assert_eq!(refused(&|spec, _| robust(spec)), Some(BadPlan::Follow));
    let share = |spec: &mut Spec| {
        spec.law.weights.following = Following::Follow { share: 2.0, lag: 0 };
    };
    assert_eq!(refused(&|spec, _| share(spec)), Some(BadPlan::Follow));
}

#[test]
fn a_recording_that_follows_stands_and_falls_with_every_part() {
    for sampler in [Sampler::Seeded, Sampler::Greedy, Sampler::Rejection] {
        let temperature = if sampler == Sampler::Greedy { 0.0 } else { 1.0 };
        let spec = Spec {
            law: law(temperature).sampled(sampler),
            max_tokens: 60,
            ..knowing(written_by(2, 6), 21)
        };
        let spec = weighed(spec, "meta:follow(0.1,1)");
        let story = live(spec.clone(), plan(&NAMES, 2, 1), &calm(&NAMES), 5);
        assert_eq!(story.tokens.len(), 60);
        let written = record::encode(&recording(&spec, &story, None)).unwrap();
        let whole = record::decode(&written).unwrap();
        assert_eq!(
            record::replay(&whole).as_ref(),
            Ok(&whole.text),
            "{sampler:?}"
        );
        let broken = |change: &dyn Fn(&mut Recording)| {
            let mut other = whole.clone();
            change(&mut other);
            let read = record::encode(&other).map(|bytes| record::decode(&bytes).unwrap());
            assert!(read.is_err() || read.as_ref() == Ok(&other));
            record::replay(&other).unwrap_err()
        };
        let at = |r: &Recording, has: &dyn Fn(&Weighed) -> bool| {
            let found = r
                .decided
                .iter()
                .position(|d| has(d.weighed.as_ref().unwrap()));
            found.expect("there is one")
        };
        let law = |share, lag| Following::Follow { share, lag };
        let fell = [
            broken(&|r| r.law.weights.following = law(0.1, 2)),
            broken(&|r| r.law.weights.following = law(0.11, 1)),
            broken(&|r| {
                let told = at(r, &|w| !w.told.is_empty());
                r.decided[told].weighed.as_mut().unwrap().told[0].ln_p[0] = LnP::ZERO_MASS;
            }),
            broken(&|r| {
                let late = at(r, &|w| !w.caught_up.is_empty());
                r.decided[late].weighed.as_mut().unwrap().caught_up[0].ln_p[3] = LnP::ZERO_MASS;
            }),
            broken(&|r| {
                let late = at(r, &|w| !w.caught_up.is_empty());
                r.decided[late].weighed.as_mut().unwrap().caught_up[0].position += 1;
            }),
            broken(&|r| {
                let late = at(r, &|w| !w.caught_up.is_empty());
                r.decided[late].weighed.as_mut().unwrap().caught_up.clear();
            }),
            broken(&|r| r.decided[40].weighed.as_mut().unwrap().weights[0] *= 0.5),
            broken(&|r| r.decided[40].weighed = None),
        ];
        for why in fell {
            let expected = matches!(why, Mismatch::Weights { .. } | Mismatch::Token { .. });
            assert!(expected, "{sampler:?}: {why}");
        }
        broken(&|r| r.law.weights.following = Following::Frozen);
        broken(&|r| r.decided[0].weighed.as_mut().unwrap().start[1].1 *= 0.9);
        broken(&|r| r.decided[0].weighed.as_mut().unwrap().start.truncate(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// K of N chosen anew, sleepers that catch up, guesses, and whatever can fail: what is recorded is what
    /// decided.
    #[test]
    fn every_recording_that_follows_stands(
        seed: u64, net: u64, k in 1usize..5, spares in 0usize..2, known in 1u8..6, tokens in 0usize..20, ahead: bool,
        troubles in prop::collection::vec((0u64..800_000, 0u64..300_000, 0usize..6), 5),
        weights in prop::sample::select(&["follow", "uniform:follow(0.2,0)", "bayes:follow(0.05,3)", "meta:follow(1,0)"][..]),
        sampler in prop_oneof![Just(Sampler::Seeded), Just(Sampler::SeededPlain), Just(Sampler::Greedy), Just(Sampler::Rejection)],
        own: bool,
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
        let temperature = if sampler == Sampler::Greedy { 0.0 } else { 1.0 };
        let guessing = if ahead { Guessing::Stream } else { Guessing::Never };
        let law = law(temperature).sampled(sampler);
        let spec = Spec { law, guessing, max_tokens: 70, ..knowing(written_by(known, tokens), seed) };
        let spec = weighed(spec, weights);
        let mut plan = plan(&NAMES, k, spares);
        plan.candidates[0].local = own;
        let story = live(spec.clone(), plan, &ways, net);
        let recording = recording(&spec, &story, own.then(|| ExpertId([NAMES[0]; 32])));
        let read = record::decode(&record::encode(&recording).unwrap());
        prop_assert_eq!(read.as_ref(), Ok(&recording));
        prop_assert_eq!(record::replay(&recording), Ok(recording.text.clone()));
    }
}
