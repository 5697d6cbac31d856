//! Against the complete mixture: early decisions must be the late ones, draws must follow the law.

use super::*;
use crate::lnp::LnP;
use crate::opinion::Entry;
use proptest::prelude::*;

fn list(p: &[f64]) -> List {
    let entries = (0..).zip(p).filter(|(_, p)| **p > 0.0);
    List {
        entries: entries
            .map(|(token, p)| Entry {
                token,
                ln_p: LnP::floor(libm::log(*p)),
            })
            .collect(),
        bound: 0.0,
    }
}

fn normal(mut p: Vec<f64>) -> Vec<f64> {
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum.max(1e-9));
    p
}

fn experts() -> impl Strategy<Value = Vec<(f64, Vec<f64>)>> {
    let p = prop::collection::vec(prop_oneof![Just(0.0), 0.01f64..1.0], 6).prop_map(normal);
    prop::collection::vec((0.05f64..1.0, p), 1..5).prop_map(|experts| {
        let total: f64 = experts.iter().map(|(w, _)| w).sum();
        experts.into_iter().map(|(w, p)| (w / total, p)).collect()
    })
}

/// Decides with the first 0, 1, 2... of `order` arrived; returns the first verdict that is final,
/// and how many lists it took.
fn anytime(
    experts: &[(f64, List)],
    order: &[usize],
    decide: impl Fn(&[Voice<'_>], f64) -> Verdict,
) -> (Verdict, usize) {
    for arrived in 1..=order.len() {
        let mut here: Vec<usize> = order[..arrived].to_vec();
        here.sort_unstable();
        let voices: Vec<Voice<'_>> = here
            .iter()
            .map(|&i| Voice {
                weight: experts[i].0,
                list: &experts[i].1,
            })
            .collect();
        let missing: f64 = order[arrived..].iter().map(|&i| experts[i].0).sum();
        let missing = if arrived == order.len() { 0.0 } else { missing };
        match decide(&voices, missing) {
            Verdict::Wait => assert!(arrived < order.len(), "complete lists decide"),
            verdict => return (verdict, arrived),
        }
    }
    unreachable!("the last list decides")
}

proptest! {
    #[test]
    fn greedy_never_takes_back_what_it_said_early(experts in experts(), rotate in 0usize..5) {
        let said: Vec<(f64, List)> = experts.iter().map(|(w, p)| (*w, list(p))).collect();
        let mut order: Vec<usize> = (0..said.len()).collect();
        order.rotate_left(rotate % said.len());
        let all: Vec<Voice<'_>> = said.iter().map(|(weight, list)| Voice { weight: *weight, list }).collect();
        let (early, _) = anytime(&said, &order, greedy);
        prop_assert_eq!(early, greedy(&all, 0.0));
    }

    #[test]
    fn rejection_is_one_choice_whatever_arrives_first(experts in experts(), seed: u64, rotate in 0usize..5) {
        let said: Vec<(f64, List)> = experts.iter().map(|(w, p)| (*w, list(p))).collect();
        let draw = Draw::new(&Secret::from_seed(seed, 0), 3);
        // The drafter's own list is always there first.
        let mut order: Vec<usize> = (1..said.len()).collect();
        let by = rotate.checked_rem(order.len()).unwrap_or(0);
        order.rotate_left(by);
        order.insert(0, 0);
        let (early, _) = anytime(&said, &order, |voices, missing| draw.choose(&said[0].1, voices, missing));
        let mut rising: Vec<usize> = (0..said.len()).collect();
        rising.sort_unstable();
        let all: Vec<Voice<'_>> = said.iter().map(|(weight, list)| Voice { weight: *weight, list }).collect();
        prop_assert_eq!(early, draw.choose(&said[0].1, &all, 0.0));
    }

    /// Each token's robust value lies between the honest ones', whatever one liar of four says.
    #[test]
    fn one_liar_of_four_stays_within_what_honest_experts_say(
        honest in prop::collection::vec(prop::collection::vec(0.0f64..1.0, 6).prop_map(normal), 3),
        liar in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0f64..1.0], 6).prop_map(normal),
    ) {
        let lists: Vec<List> = honest.iter().chain([&liar]).map(|p| list(p)).collect();
        let voices: Vec<Voice<'_>> = lists.iter().map(|list| Voice { weight: 0.25, list }).collect();
        for (token, value) in robust(&voices, 1) {
            let said = lists[..3].iter().map(|l| l.ln_p(token).map_or(0.0, |p| p.p()));
            let (low, high) = said.fold((1.0f64, 0.0f64), |(l, h), p| (l.min(p), h.max(p)));
            prop_assert!(low - 1e-12 <= value && value <= high + 1e-12, "{token}: {low} {value} {high}");
        }
    }
}

#[test]
fn a_liar_alone_injects_nothing() {
    let honest = list(&[0.5, 0.5, 0.0]);
    let liar = list(&[0.0, 0.0, 1.0]);
    let voices: Vec<Voice<'_>> = [&honest, &honest, &honest, &liar]
        .map(|list| Voice { weight: 0.25, list })
        .to_vec();
    let secret = Secret::from_seed(3, 0);
    for position in 0..10_000 {
        let Verdict::Token(token) = robust_choice(Some(secret.key(position)), &voices, 1) else {
            panic!("honest experts agree");
        };
        assert_ne!(token, 2);
    }
    assert_eq!(robust_choice(None, &voices, 1), Verdict::Token(0));
    assert_eq!(robust_choice(None, &voices[2..], 1), Verdict::NoMass);
}

/// 10^5 draws of each plain law against the mixture that it declares; lists arrive in orders that
/// depend on what they say, which is what an adversary would choose.
#[test]
fn draws_follow_the_declared_mixture() {
    let lists = [
        list(&[0.6, 0.2, 0.1, 0.0, 0.05]),
        list(&[0.05, 0.2, 0.05, 0.6, 0.1]),
        list(&[0.0, 0.1, 0.8, 0.05, 0.05]),
    ];
    let weights = [0.5, 0.3, 0.2];
    let said: Vec<(f64, List)> = weights.iter().copied().zip(lists).collect();
    let voices: Vec<Voice<'_>> = said
        .iter()
        .map(|(weight, list)| Voice {
            weight: *weight,
            list,
        })
        .collect();
    let total: f64 = mixture(&voices).values().sum();
    let r: Vec<f64> = mixture(&voices).values().map(|s| s / total).collect();
    let draws = 100_000u64;
    let mut waited = 0;
    let mut count = [[0u32; 5]; 2];
    for seed in 0..draws {
        let secret = Secret::from_seed(seed, 0);
        let draw = Draw::new(&secret, 7);
        let order = if seed % 2 == 0 { [0, 1, 2] } else { [0, 2, 1] };
        let (verdict, lists) = anytime(&said, &order, |voices, missing| {
            draw.choose(&said[0].1, voices, missing)
        });
        waited += lists;
        for (law, verdict) in [verdict, seeded(secret.key(9), &voices)]
            .into_iter()
            .enumerate()
        {
            let Verdict::Token(token) = verdict else {
                panic!("{verdict:?}")
            };
            count[law][token as usize] += 1;
        }
    }
    for count in count {
        let chi: f64 = count
            .iter()
            .zip(&r)
            .map(|(seen, p)| {
                let want = p * draws as f64;
                let off = f64::from(*seen) - want;
                off * off / want
            })
            .sum();
        assert!(chi < 18.5, "chi-square {chi} with 4 degrees of freedom"); // p = 0.001
    }
    assert!(
        waited < 3 * draws as usize,
        "some tokens needed no more lists"
    );
}
