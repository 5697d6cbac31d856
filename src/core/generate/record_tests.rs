//! Recordings of troubled requests: they stand, and fall with any of their parts.

use super::net_tests::*;
use super::tests::{law, vocab};
use super::*;
use crate::law::Sampler;
use crate::opinion::Said;
use crate::record::{self, Recording};
use crate::team::Sets;
use proptest::prelude::*;

pub(super) fn recording(spec: &Spec, story: &Story, local: Option<ExpertId>) -> Recording {
    let text: String = story.tokens.iter().map(|t| format!("{t} ")).collect();
    Recording {
        prompt: spec.prompt.clone(),
        law: spec.law.clone(),
        secret: spec.secret.to_bytes(),
        max_tokens: spec.max_tokens,
        stop: spec.stop.clone(),
        context: spec.context,
        grammar: spec.grammar,
        logprobs: false,
        local,
        schedule: story.schedule.clone(),
        decided: story.decided.clone(),
        vocabulary: vocab().len(),
        pieces: record::pieces(&vocab(), &story.decided),
        text,
    }
}

/// A recording of a troubled request stands, and falls with any of its parts.
#[test]
fn a_recording_stands_and_falls_with_every_part() {
    let death = Ways {
        silent_from: 100_000,
        ..CALM
    };
    let ways = [(1, CALM), (2, death), (3, CALM), (4, CALM)];
    for sampler in [Sampler::Seeded, Sampler::SeededPlain, Sampler::Rejection] {
        let spec = Spec {
            law: law(1.0).sampled(sampler),
            ..long(21)
        };
        let story = live(spec.clone(), plan(&[1, 2, 3, 4], 3, 1), &ways, 5);
        assert_eq!(story.tokens.len(), 30);
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
            // As a file with a hash that fits: what no file can hold is refused as well.
            let read = record::encode(&other).map(|bytes| record::decode(&bytes).unwrap());
            assert!(read.is_err() || read.as_ref() == Ok(&other));
            record::replay(&other).unwrap_err()
        };
        broken(&|r| r.secret[0] ^= 1);
        broken(&|r| r.prompt.push(5));
        broken(&|r| r.text.push('x'));
        broken(&|r| r.schedule[0].set[0].1 *= 3.0);
        broken(&|r| r.schedule[0].set[0].1 = f64::NAN);
        broken(&|r| drop(r.schedule.remove(0)));
        broken(&|r| drop(r.decided[7].answers.pop()));
        broken(&|r| drop(r.decided.pop()));
        broken(&|r| {
            let extra = r.decided[7].answers[0].clone();
            r.decided[7].answers.push(extra);
        });
        broken(&|r| r.decided[3].token += 1);
        // The winning token's own probability, in every list that has it: somebody else wins.
        let winner = whole.decided[9].token;
        broken(&|r| {
            for (_, _, said) in &mut r.decided[9].answers {
                match said {
                    Said::List(list) => list.entries.retain(|e| e.token != winner),
                    Said::Scalars(values) => values.fill(LnP::ZERO_MASS),
                }
            }
        });
    }
}

#[test]
fn a_recording_that_was_cut_short_stands_as_far_as_it_goes() {
    let gone = Ways {
        gone_at: 100_000,
        ..CALM
    };
    let spec = long(21);
    let story = live(spec.clone(), plan(&[1], 1, 0), &[(1, gone)], 5);
    assert!(matches!(story.why, Finish::Failed(_)) && story.tokens.len() < 30);
    let cut = recording(&spec, &story, None);
    assert_eq!(record::replay(&cut).as_ref(), Ok(&cut.text));
}

/// Seven equal weights do not sum to one; dividing them once more would be another law.
#[test]
fn weights_that_do_not_sum_to_one_exactly_are_those_of_the_schedule() {
    let names: Vec<u8> = (1..=7).collect();
    let ways: Vec<(u8, Ways)> = names.iter().map(|n| (*n, CALM)).collect();
    let spec = long(23);
    let story = live(spec.clone(), plan(&names, 7, 0), &ways, 5);
    let sum: f64 = story.schedule[0].set.iter().map(|(_, w)| w).sum();
    assert!(sum != 1.0 && (sum - 1.0).abs() < 1e-14, "{sum}");
    let whole = recording(&spec, &story, None);
    assert_eq!(record::replay(&whole).as_ref(), Ok(&whole.text));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Experts that answer and then leave, that are one too many, or that hold up a decision: what
    /// was recorded is what decided, so every recording stands.
    #[test]
    fn every_recording_stands(
        seed: u64, net: u64, k in 1usize..4, spares in 0usize..3, first_k: bool,
        troubles in prop::collection::vec((0u64..400_000, 0u64..300_000, 0usize..4), 5),
        sampler in prop_oneof![Just(Sampler::Seeded), Just(Sampler::Greedy), Just(Sampler::Rejection)],
        own in prop::option::of(0usize..5), ahead: bool,
    ) {
        let ways: Vec<(u8, Ways)> = NAMES.iter().zip(&troubles).map(|(name, (from, length, kind))| {
            let ways = match kind {
                0 => Ways { silent_from: *from, silent_until: from + length, ..CALM },
                1 => Ways { gone_at: *from, ..CALM },
                2 => Ways { delay_us: (1_000, 60_000), ..CALM },
                _ => CALM,
            };
            (*name, Ways { common: if ahead { 0.9 } else { 0.0 }, ..ways })
        }).collect();
        let law = law(if sampler == Sampler::Greedy { 0.0 } else { 1.0 }).sampled(sampler);
        let spec = Spec { law, guessing: if ahead { Guessing::Stream } else { Guessing::Never }, ..long(seed) };
        let mut plan = plan(&NAMES, k, spares);
        if first_k {
            plan.sets = Sets::B;
        }
        if let Some(own) = own {
            plan.candidates[own].local = true;
        }
        let story = live(spec.clone(), plan, &ways, net);
        let recording = recording(&spec, &story, own.map(|i| ExpertId([NAMES[i]; 32])));
        let read = record::decode(&record::encode(&recording).unwrap());
        prop_assert_eq!(read.as_ref(), Ok(&recording));
        prop_assert_eq!(record::replay(&recording), Ok(recording.text.clone()));
    }
}
