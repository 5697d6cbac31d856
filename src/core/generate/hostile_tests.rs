//! One liar among four: what it gets into a text.

use super::net_tests::*;
use super::tests::{law, table};
use super::*;
use crate::law::Sampler;
use crate::opinion::{Query, Said, Want};
use proptest::prelude::*;

/// Experts that believe much of what the others do, the last of them a sleeper that wakes at a position.
fn panel(common: f32, wakes: Position) -> Vec<(u8, Ways)> {
    let mut ways: Vec<(u8, Ways)> = [1, 2, 3, 4]
        .map(|name| (name, Ways { common, ..CALM }))
        .to_vec();
    ways[3].1.mischief.injects_from = Some(wakes);
    ways
}

/// Tokens that every honest expert believes with less than a ten-thousandth.
fn injected(spec: &Spec, tokens: &[Token], common: f32) -> usize {
    let honest = |name: u8, at: usize| {
        let mut table = table(name);
        table.common = common;
        table.texts.own.tokens = [&spec.prompt[..], &tokens[..at]].concat();
        let query = Query {
            want: Want::Scalars(vec![tokens[at]]),
            ..Query::plain(1.0, 1)
        };
        match table
            .opinion(table.texts.own.tokens.len() as Position, &query)
            .said
        {
            Said::Scalars(values) => values[0].p(),
            Said::List(_) => panic!("asked for a value"),
        }
    };
    let is_injected = |at: &usize| [1, 2, 3].iter().all(|name| honest(*name, *at) < 1e-4);
    (0..tokens.len()).filter(is_injected).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The law that withstands one liar lets none of its tokens in, however alike the honest are.
    #[test]
    fn one_liar_of_four_injects_nothing_where_one_may_lie(
        seed: u64, net: u64, common in 0.6f32..1.0, wakes in 3u32..20, greedy: bool, ahead: bool,
    ) {
        let law = law(if greedy { 0.0 } else { 1.0 });
        let guessing = if ahead { Guessing::Stream } else { Guessing::Never };
        let spec = Spec { law: law.robust(1), guessing, max_tokens: 40, ..long(seed) };
        let story = live(spec.clone(), plan(&[1, 2, 3, 4], 4, 0), &panel(common, wakes), net);
        prop_assert_eq!(injected(&spec, &story.tokens, common), 0);
        if let Finish::Failed(why) = &story.why {
            prop_assert!(common < 0.7, "honest experts that are alike support something: {why}");
        }
    }
}

/// What that law is for: the mean takes nearly every token that it is offered at a quarter of the weight.
#[test]
fn the_mean_lets_in_as_much_as_the_liar_weighs() {
    let mut got = 0;
    for seed in 0..10 {
        let spec = Spec {
            law: law(1.0).sampled(Sampler::SeededPlain),
            max_tokens: 40,
            ..long(seed)
        };
        let story = live(
            spec.clone(),
            plan(&[1, 2, 3, 4], 4, 0),
            &panel(0.9, 3),
            seed,
        );
        got += injected(&spec, &story.tokens, 0.9);
    }
    assert!((60..150).contains(&got), "{got} of 400");
}
