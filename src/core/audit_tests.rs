use super::*;
use crate::distribution::{Distribution, History};
use crate::law::Transforms;
use crate::opinion::{Entry, Said};
use crate::seeded::Secret;
use proptest::prelude::*;

fn list_of(logits: &[f32], query: &Query) -> List {
    cut_list_of(logits, query, 1.0)
}

fn cut_list_of(logits: &[f32], query: &Query, top_p: f32) -> List {
    let transforms = Transforms {
        top_p,
        ..Transforms::NEUTRAL
    };
    let history = History {
        tokens: &[],
        prompt: 0,
    };
    let mut row = Distribution::new();
    row.measure(logits, &transforms, history, false).unwrap();
    match row.answer(query).0 {
        Said::List(list) => list,
        Said::Scalars(_) => panic!("asked for a list"),
    }
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let raw: Vec<f64> = logits.iter().map(|l| libm::exp(f64::from(*l))).collect();
    let total: f64 = raw.iter().sum();
    raw.into_iter().map(|p| p / total).collect()
}

fn tv(a: &[f32], b: &[f32]) -> f64 {
    let both = probabilities(a).into_iter().zip(probabilities(b));
    both.map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

proptest! {
    /// Whatever two experts believe, and whatever of it they list.
    #[test]
    fn no_gap_is_wider_than_the_distance(
        said in prop::collection::vec(-8.0f32..4.0, 64),
        own in prop::collection::vec(-8.0f32..4.0, 64),
        seed: u64,
        is_plain: bool,
    ) {
        let asked = match is_plain {
            true => Query::plain(0.9, 16),
            false => Query::perturbed(Secret::from_seed(seed, 0).key(3), 1.0 / 16.0),
        };
        let gap = Gap::between(&asked, 1.0, &list_of(&said, &asked), &list_of(&own, &question(&asked)));
        // Every p travels rounded down, by a thousandth at most.
        prop_assert!(gap.distance <= tv(&said, &own) + 2e-3, "{gap:?} {}", tv(&said, &own));
        prop_assert!(gap.score().is_finite() && (0.0..=1.0).contains(&gap.spread));
        let same = Gap::between(&asked, 1.0, &list_of(&own, &asked), &list_of(&own, &question(&asked)));
        prop_assert_eq!(same.distance, 0.0);
    }
}

proptest! {
    /// Whatever is cut off, and wherever two copies cut.
    #[test]
    fn where_something_is_cut_off_no_gap_is_wider_than_the_distance(
        said in prop::collection::vec(-8.0f32..4.0, 64),
        own in prop::collection::vec(-8.0f32..4.0, 64),
        seed: u64,
        top_p in 0.5f32..1.0,
        is_plain: bool,
    ) {
        let asked = match is_plain {
            true => Query::plain(0.9, 16),
            false => Query::perturbed(Secret::from_seed(seed, 0).key(3), 1.0 / 16.0),
        };
        let list = list_of(&own, &question(&asked));
        let gap = Gap::between(&asked, top_p.into(), &cut_list_of(&said, &asked, top_p), &list);
        prop_assert!(gap.distance <= tv(&said, &own) + 2e-3, "{gap:?} {}", tv(&said, &own));
        let same = Gap::between(&asked, top_p.into(), &cut_list_of(&own, &asked, top_p), &list);
        prop_assert!(same.distance < 1e-3, "{same:?}");
    }
}

/// Who cuts off what it likes, speaks quietly or keeps the best to itself is compared all the same.
#[test]
fn a_cheat_cannot_hide_behind_what_may_be_cut_off() {
    let asked = Query::plain(0.999, 256);
    let own: Vec<f32> = (0..8).map(|v| -0.5 * v as f32).collect();
    let list = list_of(&own, &question(&asked));
    let honest = cut_list_of(&own, &asked, 0.95);
    let gap = |said: &List| Gap::between(&asked, 0.95, said, &list).distance;
    assert!(gap(&honest) < 1e-3);
    let mut sure = vec![-30.0; 8];
    sure[2] = 0.0;
    assert!(gap(&cut_list_of(&sure, &asked, 0.95)) > 0.7, "all on one");
    let mut quiet = honest.clone();
    for entry in &mut quiet.entries {
        entry.ln_p = LnP::floor(entry.ln_p.ln() + libm::log(0.8));
    }
    assert!(gap(&quiet) > 0.1, "{}", gap(&quiet));
    let mut silent = honest.clone();
    silent.entries.retain(|entry| entry.token != 0);
    silent.bound = 0.0;
    assert!(gap(&silent) > 0.3, "{}", gap(&silent));
}

#[test]
fn how_much_was_kept_is_known_of_top_p_alone() {
    let of = |change: &dyn Fn(&mut Transforms)| {
        let mut transforms = Transforms::NEUTRAL;
        change(&mut transforms);
        kept(&transforms)
    };
    assert_eq!(of(&|_| {}), Some(1.0));
    assert_eq!(of(&|t| t.top_p = 0.95), Some(f64::from(0.95f32)));
    assert_eq!(of(&|t| t.top_k = 4), None);
    assert_eq!(of(&|t| t.min_p = 0.1), None);
}

#[test]
fn a_token_that_only_one_lists_counts_as_far_as_the_bound_allows() {
    let entry = |token, p: f64| Entry {
        token,
        ln_p: LnP::floor(libm::log(p)),
    };
    let list = |entries: Vec<Entry>, bound| List { entries, bound };
    let asked = Query::plain(0.999, 256);
    let said = list(vec![entry(1, 0.5), entry(2, 0.5)], 0.5);
    let own = list(vec![entry(1, 0.5)], 0.1);
    let gap = Gap::between(&asked, 1.0, &said, &own);
    assert!((gap.distance - 0.4).abs() < 2e-3, "{gap:?}");
    let denied = list(vec![entry(1, 0.5)], 0.0);
    let gap = Gap::between(&asked, 1.0, &said, &denied);
    assert!((gap.distance - 0.5).abs() < 2e-3, "{gap:?}");
}

/// A gap whose score lies right above this level of the noise.
fn at_level(level: usize) -> Gap {
    let score = match level {
        0 => 0.0,
        level => NOISE[level - 1] * 1.001,
    };
    Gap {
        distance: score * (0.5 + SPREAD_LEAST),
        spread: 0.5,
    }
}

/// Levels as rare as the table says, and so many levels more.
fn positions(secret: &Secret, more: usize) -> impl Iterator<Item = Gap> {
    let secret = secret.clone();
    (0..).map(move |position| {
        let rare = secret.key(position).0[0].leading_zeros() as usize;
        at_level((rare + more).min(NOISE.len()))
    })
}

fn audited(seed: u64, before: usize, more: usize, count: usize) -> (Verdict, Option<usize>) {
    let (mut audit, secret) = (Audit::default(), Secret::from_seed(seed, 0));
    positions(&secret, 0)
        .take(before)
        .for_each(|gap| audit.see(gap));
    let other = Secret::from_seed(seed, 1);
    let found = positions(&other, more).take(count).position(|gap| {
        audit.see(gap);
        audit.verdict() == Verdict::Swapped
    });
    (audit.worst(), found.map(|at| at + 1))
}

#[test]
fn the_table_rises() {
    assert!(NOISE.windows(2).all(|pair| pair[0] < pair[1]), "{NOISE:?}");
}

/// At noise as large as the table takes it for, exactly: nobody of 400 is found guilty in 10,000 positions, and
/// no more than one in a hundred is ever suspected.
#[test]
fn an_honest_expert_is_rarely_suspected_and_never_condemned() {
    let worst = (0..400).map(|seed| audited(seed, 0, 0, 10_000).0);
    let worst: Vec<Verdict> = worst.collect();
    let of = |verdict| worst.iter().filter(|w| **w >= verdict).count();
    assert_eq!(of(Verdict::Swapped), 0);
    assert!(of(Verdict::Suspect) <= 4, "{}", of(Verdict::Suspect));
}

/// Twice the noise (a level more) is found; so is what begins after a long honest life, later.
#[test]
fn a_swap_is_found_also_after_a_long_honest_life() {
    for (before, more, most) in [(0, 1, 1_300), (0, 3, 30), (3_000, 1, 2_000), (3_000, 3, 60)] {
        let mut took: Vec<usize> = (0..100)
            .map(|seed| audited(seed, before, more, 3_000).1.expect("it is found"))
            .collect();
        took.sort_unstable();
        assert!(took[94] <= most, "{before} {more}: {took:?}");
    }
}

#[test]
fn one_gross_lie_is_no_rounding() {
    let mut audit = Audit::default();
    let lie = Gap {
        distance: 0.9,
        spread: 0.5,
    };
    audit.see(lie);
    assert_eq!(audit.verdict(), Verdict::Honest, "once may be anything");
    (0..5).for_each(|_| audit.see(lie));
    assert_eq!(audit.verdict(), Verdict::Swapped);
    for _ in 0..100_000 {
        audit.see(at_level(0));
    }
    assert_eq!(audit.verdict(), Verdict::Swapped, "it is never taken back");
    assert!(audit.nats().is_finite());
}
