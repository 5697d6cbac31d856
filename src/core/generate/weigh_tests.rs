//! Weights learned from the prompt: whoever knows it counts more, and what that made stands.

use super::net_tests::*;
use super::tests::{law, table};
use super::*;
use crate::opinion::{Query, Said};
use crate::record;
use crate::weights::{Claim, Strategy, Weighing};
use proptest::prelude::*;

/// What expert `name` alone would write, greedily.
pub(super) fn written_by(name: u8, tokens: usize) -> Vec<Token> {
    let mut table = table(name);
    table.texts.own.tokens = vec![5, 6, 7];
    for _ in 0..tokens {
        let position = table.texts.own.tokens.len() as Position;
        let opinion = table.opinion(position, &Query::plain(0.9, 8));
        let Said::List(list) = opinion.said else {
            panic!("asked for a list");
        };
        let best = list
            .entries
            .iter()
            .max_by(|a, b| a.ln_p.ln().total_cmp(&b.ln_p.ln()));
        table.texts.own.tokens.push(best.unwrap().token);
    }
    table.texts.own.tokens
}

fn learning(spec: Spec, strategy: Strategy) -> Spec {
    let weights = Weighing {
        strategy,
        ..Weighing::default()
    };
    Spec {
        law: spec.law.clone().weighed(weights),
        ..spec
    }
}

pub(super) fn knowing(prompt: Vec<Token>, seed: u64) -> Spec {
    Spec {
        prompt,
        ..long(seed)
    }
}

#[test]
fn who_wrote_the_prompt_counts_most() {
    let ways = [(1, CALM), (2, CALM), (3, CALM)];
    for strategy in [
        Strategy::Bayes,
        Strategy::Share,
        Strategy::Convex,
        Strategy::Meta,
    ] {
        let spec = knowing(written_by(2, 12), 4);
        let story = live(learning(spec, strategy), plan(&[1, 2, 3], 3, 0), &ways, 1);
        assert_eq!(story.tokens.len(), 30);
        let set = &story.schedule[0].set;
        let of = |name: u8| {
            set.iter()
                .find(|(e, _)| e.0[0] == name)
                .map_or(0.0, |(_, w)| *w)
        };
        assert!(of(2) > 0.6, "{strategy:?}: {set:?}");
        let sum: f64 = set.iter().map(|(_, w)| w).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(story.schedule.len(), 1, "frozen after the prompt");
        // And why: it was surprised least.
        let reasons = story.reasons.expect("they were asked");
        let nats = |name: u8| match reasons.claims[usize::from(name) - 1] {
            (expert, Claim::Nats(nats)) if expert.0[0] == name => nats,
            ref other => panic!("{other:?}"),
        };
        assert!(nats(2) < nats(1) && nats(2) < nats(3), "{reasons:?}");
        let believed: f64 = reasons.strategies.iter().map(|(_, share)| share).sum();
        assert!((believed - 1.0).abs() < 1e-9, "{reasons:?}");
        // Whatever would have said the prompt better is followed, in whatever order experts spoke.
        let of = |strategy| {
            let found = reasons.strategies.iter().find(|(s, _)| *s == strategy);
            found.map_or(0.0, |(_, share)| *share)
        };
        if strategy == Strategy::Meta {
            assert!(
                of(Strategy::Share) > 2.0 * of(Strategy::Uniform),
                "{reasons:?}"
            );
        }
    }
    let equal = live(
        knowing(written_by(2, 12), 4),
        plan(&[1, 2, 3], 3, 0),
        &ways,
        1,
    );
    assert_eq!(equal.reasons, None, "nobody was asked what it thinks");
}

/// A mixture that has collapsed to one expert asks nobody else.
#[test]
fn who_weighs_nothing_is_not_asked() {
    let ways = [(1, CALM), (2, CALM), (3, CALM)];
    let spec = knowing(written_by(2, 40), 4);
    let story = live(
        learning(spec, Strategy::Bayes),
        plan(&[1, 2, 3], 3, 0),
        &ways,
        1,
    );
    assert_eq!(story.schedule[0].set, [(ExpertId([2; 32]), 1.0)]);
    assert!(story.provenance.iter().skip(1).all(|p| p.asked.len() == 1));
    // When it leaves, the others have their say again.
    let gone = Ways {
        gone_at: 100_000,
        ..CALM
    };
    let ways = [(1, CALM), (2, gone), (3, CALM)];
    let spec = knowing(written_by(2, 40), 4);
    let story = live(
        learning(spec, Strategy::Bayes),
        plan(&[1, 2, 3], 3, 0),
        &ways,
        1,
    );
    assert_eq!(story.tokens.len(), 30);
    let last = &story.schedule.last().unwrap().set;
    assert!(
        last.iter().all(|(e, _)| e.0[0] != 2) && !last.is_empty(),
        "{last:?}"
    );
}

/// Two are chosen without it; the one that knows the prompt speaks when they are at work, and takes their place.
#[test]
fn who_speaks_late_and_weighs_everything_comes_in() {
    let late = Ways {
        read_us: 1_500_000,
        ..CALM
    };
    let slow = Ways {
        step_us: 200_000,
        ..CALM
    };
    let ways = [(1, slow.clone()), (2, late), (3, slow)];
    let spec = learning(knowing(written_by(2, 40), 4), Strategy::Bayes);
    let story = live(spec, plan(&[1, 2, 3], 2, 0), &ways, 1);
    assert_eq!(story.tokens.len(), 30);
    let last = &story.schedule.last().expect("a set").set;
    assert_eq!(last, &[(ExpertId([2; 32]), 1.0)]);
}

#[test]
fn scores_of_another_prompt_are_a_lie() {
    let instead = ExpertEvent::Scored {
        session: SessionId(1),
        ln_p: vec![],
    };
    let mut machine = Generate::new(
        learning(knowing(vec![5, 6, 7], 1), Strategy::Bayes),
        super::tests::vocab(),
        plan(&[1, 2], 2, 0),
        0,
        Micros(0),
    )
    .unwrap();
    let mut out = vec![];
    machine.start(Micros(0), &mut out);
    let asked = out
        .iter()
        .filter(|o| matches!(o, Output::ToExpert(_, ExpertOp::Open(open)) if open.score));
    assert_eq!(
        asked.count(),
        2,
        "both are asked what they think of the prompt"
    );
    out.clear();
    let from = FromExpert {
        expert: ExpertId([1; 32]),
        event: instead,
    };
    machine.handle(Micros(1), Input::FromExpert(from), &mut out);
    assert!(out.iter().any(|o| matches!(
        o,
        Output::Failed {
            why: Trouble::Lied(_),
            ..
        }
    )));
}

/// Whoever speaks first, and whatever is made of what was said.
#[test]
fn whoever_claims_to_have_known_the_prompt_does_not_count() {
    for strategy in [Strategy::Bayes, Strategy::Convex, Strategy::Meta] {
        for order in [[1u8, 2, 3], [3, 1, 2], [2, 3, 1]] {
            let spec = learning(knowing((1..41).collect(), 1), strategy);
            let plan = plan(&[1, 2, 3], 3, 0);
            let mut machine =
                Generate::new(spec, super::tests::vocab(), plan, 0, Micros(0)).unwrap();
            let mut out = vec![];
            machine.start(Micros(0), &mut out);
            for name in order {
                let ln_p = match name {
                    3 => vec![LnP::CERTAIN; 39],
                    other => vec![LnP::floor(-2.0 - 0.01 * f64::from(other)); 39],
                };
                let session = SessionId(1);
                let from = FromExpert {
                    expert: ExpertId([name; 32]),
                    event: ExpertEvent::Scored { session, ln_p },
                };
                machine.handle(Micros(1), Input::FromExpert(from), &mut out);
            }
            let set = &machine.schedule().last().expect("a set").set;
            let boaster = set.iter().find(|(expert, _)| expert.0[0] == 3);
            let weight = boaster.map_or(0.0, |(_, weight)| *weight);
            assert!(weight < 0.5, "{strategy:?} {order:?}: {set:?}");
            let reasons = machine.team.reasons(39).expect("they were asked");
            let said: Vec<Claim> = reasons.claims.iter().map(|(_, claim)| *claim).collect();
            assert!(
                matches!(said[..], [Claim::Nats(a), Claim::Nats(b), Claim::Incredible(0.0)] if a < b),
                "{said:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever fails when, and whatever prior they set out from: the schedule with its weights gives the same text, and its recording stands.
    #[test]
    fn learned_weights_are_those_of_the_schedule(
        seed: u64, net: u64, k in 1usize..5, spares in 0usize..2, known in 1u8..6, tokens in 0usize..20, ahead: bool,
        troubles in prop::collection::vec((0u64..400_000, 0u64..300_000, 0usize..5), 5),
        prior in prop::collection::vec(0.05f64..1.0, 5),
        strategy in prop_oneof![Just(Strategy::Bayes), Just(Strategy::Convex), Just(Strategy::Meta), Just(Strategy::Single)],
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
        let guessing = if ahead { Guessing::Stream } else { Guessing::Never };
        let spec = Spec { law: law(1.0), guessing, ..knowing(written_by(known, tokens), seed) };
        let spec = learning(spec, strategy);
        let mut plan = plan(&NAMES, k, spares);
        for (candidate, weight) in plan.candidates.iter_mut().zip(&prior) {
            candidate.weight = *weight;
        }
        let story = live(spec.clone(), plan.clone(), &ways, net);
        let again = replayed(spec.clone(), plan, &ways, &story.schedule);
        prop_assert_eq!(&again[..story.tokens.len()], &story.tokens[..]);
        let recording = super::record_tests::recording(&spec, &story, None);
        prop_assert_eq!(record::replay(&recording), Ok(recording.text.clone()));
    }
}
