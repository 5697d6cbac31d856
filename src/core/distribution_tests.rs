use super::*;
use crate::seeded::Secret;
use proptest::prelude::*;
use std::sync::Arc;

const NO_HISTORY: History<'_> = History {
    tokens: &[],
    prompt: 0,
};

fn measured(logits: &[f32], transforms: &Transforms) -> Distribution {
    let mut d = Distribution::new();
    d.measure(logits, transforms, NO_HISTORY, true).unwrap();
    d
}

fn list(said: Said) -> List {
    match said {
        Said::List(list) => list,
        Said::Scalars(_) => panic!("asked for a list"),
    }
}

/// p by definition: everything in f64, then rounded once.
fn reference(logits: &[f32], t: &Transforms) -> Vec<f64> {
    let scaled: Vec<f64> = logits
        .iter()
        .map(|&l| f64::from(l) / f64::from(t.temperature))
        .collect();
    let top = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut p: Vec<f64> = scaled.iter().map(|&l| libm::exp(l - top)).collect();
    let keep_from = |p: &[f64], cut: f64| {
        p.iter()
            .map(|&x| if x >= cut { x } else { 0.0 })
            .collect::<Vec<_>>()
    };
    let sorted = |p: &[f64]| {
        let mut s = p.to_vec();
        s.sort_by(|a, b| b.total_cmp(a));
        s
    };
    if t.top_k > 0 && (t.top_k as usize) < p.len() {
        p = keep_from(&p, sorted(&p)[t.top_k as usize - 1]);
    }
    if t.top_p < 1.0 {
        let goal = f64::from(t.top_p) * p.iter().sum::<f64>();
        let mut sum = 0.0;
        let cut = sorted(&p).into_iter().find(|x| {
            sum += x;
            sum >= goal
        });
        p = keep_from(&p, cut.unwrap_or(0.0));
    }
    p = keep_from(&p, f64::from(t.min_p));
    let total: f64 = p.iter().sum();
    p.iter().map(|x| x / total).collect()
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-12f32..12.0, 2..700)
}

fn transforms() -> impl Strategy<Value = Transforms> {
    (0.2f32..3.0, 0u32..30, 0.1f32..=1.0, 0f32..0.3).prop_map(
        |(temperature, top_k, top_p, min_p)| Transforms {
            temperature,
            top_k,
            top_p: if top_p > 0.9 { 1.0 } else { top_p },
            min_p: if min_p > 0.2 { 0.0 } else { min_p },
            ..Transforms::NEUTRAL
        },
    )
}

proptest! {
    #[test]
    fn scalars_are_the_definition_rounded_down(logits in rows(), t in transforms()) {
        let d = measured(&logits, &t);
        let want = reference(&logits, &t);
        let all: Vec<Token> = (0..logits.len() as u32).collect();
        let query = Query { want: Want::Scalars(all), ..Query::plain(1.0, 1) };
        let (Said::Scalars(got), _) = d.answer(&query) else { panic!() };
        let mut sum = 0.0;
        for (got, want) in got.iter().zip(&want) {
            sum += got.p();
            // One step of rounding, the error of f32, and borderline tokens of a truncation.
            let close = (got.p() - want).abs() <= want * 2e-3 + 1e-9;
            let at_the_cut = (got.p() == 0.0) != (*want == 0.0);
            prop_assert!(close || at_the_cut, "{} is not {}", got.p(), want);
        }
        prop_assert!(sum <= 1.0 + 1e-6, "sums to {}", sum);
    }

    /// The list is exactly the set that the law names, with a bound that holds for all others.
    #[test]
    fn perturbed_lists_are_complete(logits in rows(), t in transforms(), seed: u64, tau in 0.01f64..0.5) {
        let d = measured(&logits, &t);
        let key = Secret::from_seed(seed, 0).key(5);
        let got = list(d.answer(&Query::perturbed(key, tau)).0);
        prop_assert!(!got.entries.is_empty());
        prop_assert!(got.entries.windows(2).all(|w| w[0].token < w[1].token));
        let query = Query { want: Want::Scalars((0..logits.len() as u32).collect()), ..Query::plain(1.0, 1) };
        let (Said::Scalars(all), _) = d.answer(&query) else { panic!() };
        for (v, p) in (0u32..).zip(all) {
            let score = p.p() / key.exponential(v);
            match got.entries.iter().find(|e| e.token == v) {
                Some(entry) => prop_assert!(entry.ln_p == p && score >= got.bound),
                None => prop_assert!(score <= got.bound, "{} unlisted at {} over {}", v, score, got.bound),
            }
        }
    }

    #[test]
    fn plain_lists_are_the_top(logits in rows(), max in 1u16..300, mass in 0.5f64..1.0) {
        let d = measured(&logits, &Transforms::NEUTRAL);
        let got = list(d.answer(&Query::plain(mass, max)).0);
        let mut order: Vec<Token> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        let mut want: Vec<Token> = order[..got.entries.len()].to_vec();
        want.sort_unstable();
        // Equal masses may come from unequal logits: compare by value.
        let sum = |tokens: &mut dyn Iterator<Item = Token>| tokens.map(|v| f64::from(logits[v as usize])).sum::<f64>();
        let (a, b) = (sum(&mut got.entries.iter().map(|e| e.token)), sum(&mut want.into_iter()));
        prop_assert!((a - b).abs() < 1e-3);
        prop_assert!(got.entries.len() <= usize::from(max.min(256)));
        let covered: f64 = got.entries.iter().map(|e| e.ln_p.p()).sum();
        prop_assert!(covered >= mass * 0.998 || got.entries.len() == usize::from(max.min(256)) || covered > 0.99 * mass);
    }

    #[test]
    fn masks_hold(logits in rows(), seed: u64, bits in prop::collection::vec(any::<u32>(), 22)) {
        let mask = Arc::new(Mask::new(bits, logits.len() as u32));
        let d = measured(&logits, &Transforms::NEUTRAL);
        let key = Secret::from_seed(seed, 0).key(0);
        for want in [Want::Perturbed { key, tau: 0.1 }, Want::Plain { mass: 0.9, max: 20 }] {
            let query = Query { want, mask: Some(mask.clone()), ..Query::plain(1.0, 1) };
            let got = list(d.answer(&query).0);
            prop_assert!(got.entries.iter().all(|e| mask.allows(e.token)));
            prop_assert_eq!(got.entries.is_empty(), mask.allowed() == 0);
        }
    }

    #[test]
    fn scoring_agrees_with_measuring(logits in rows(), pick: prop::sample::Index) {
        let token = pick.index(logits.len()) as u32;
        let d = measured(&logits, &Transforms::NEUTRAL);
        let query = Query { want: Want::Scalars(vec![token]), ..Query::plain(1.0, 1) };
        let (Said::Scalars(said), _) = d.answer(&query) else { panic!() };
        let scored = score(&logits, token).unwrap();
        prop_assert!((scored.ln() - said[0].ln()).abs() <= 1.0 / 1024.0);
    }
}

#[test]
fn bad_rows_are_refused() {
    let mut d = Distribution::new();
    for row in [
        &[f32::NAN, 1.0][..],
        &[f32::INFINITY, 0.0],
        &[f32::NEG_INFINITY; 3],
        &[],
    ] {
        assert_eq!(
            d.measure(row, &Transforms::NEUTRAL, NO_HISTORY, false),
            Err(NotFinite),
            "{row:?}"
        );
        assert_eq!(score(row, 0), Err(NotFinite));
    }
    assert!(
        d.measure(
            &[0.0, f32::NEG_INFINITY],
            &Transforms::NEUTRAL,
            NO_HISTORY,
            false
        )
        .is_ok()
    );
}

#[test]
fn penalties_look_where_they_say() {
    let logits = [2.0, 2.0, -2.0, 2.0];
    let tokens = [0, 2, 3, 3];
    let raw = |t: Transforms| {
        let mut d = Distribution::new();
        d.measure(
            &logits,
            &t,
            History {
                tokens: &tokens,
                prompt: 2,
            },
            false,
        )
        .unwrap();
        d.masses
            .iter()
            .map(|m| libm::log(f64::from(*m)))
            .collect::<Vec<_>>()
    };
    let close = |a: &[f64], b: [f64; 4]| {
        a.iter()
            .zip(b)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"))
    };
    // Repetition looks at prompt and answer: 0, 2, 3 are halved or doubled; 1 is on top.
    close(
        &raw(Transforms {
            repeat_penalty: 2.0,
            ..Transforms::NEUTRAL
        }),
        [-1.0, 0.0, -6.0, -1.0],
    );
    // A window of two sees only token 3.
    close(
        &raw(Transforms {
            repeat_penalty: 2.0,
            repeat_last_n: 2,
            ..Transforms::NEUTRAL
        }),
        [0.0, 0.0, -4.0, -1.0],
    );
    // Frequency and presence look at the answer alone: 3 was said twice.
    close(
        &raw(Transforms {
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..Transforms::NEUTRAL
        }),
        [0.0, 0.0, -4.0, -1.25],
    );
    close(
        &raw(Transforms {
            bias: vec![(2, 4.5), (99, 1.0)],
            ..Transforms::NEUTRAL
        }),
        [-0.5, -0.5, 0.0, -0.5],
    );
}

#[test]
fn flat_rows_and_tiny_tau_stay_bounded() {
    let d = measured(&[0.0; 5000], &Transforms::NEUTRAL);
    let key = Secret::from_seed(1, 0).key(0);
    for tau in [1e-9, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        let got = list(d.answer(&Query::perturbed(key, tau)).0);
        assert!(!got.entries.is_empty() && got.entries.len() <= 256);
    }
    assert_eq!(
        list(d.answer(&Query::plain(1.0, 9999)).0).entries.len(),
        256
    );
}

#[test]
fn a_mask_outside_the_truncation_has_no_mass_until_it_is_lifted() {
    let logits: Vec<f32> = (0..2000).map(|i| i as f32 * -0.01).collect();
    let t = Transforms {
        top_k: 10,
        ..Transforms::NEUTRAL
    };
    let mut words = vec![0u32; 63];
    words[40..60].fill(u32::MAX); // tokens 1280..1920
    let mut query = Query::perturbed(Secret::from_seed(3, 0).key(0), 1.0 / 16.0);
    query.mask = Some(Arc::new(Mask::new(words, 2000)));
    let d = measured(&logits, &t);
    assert_eq!(
        list(d.answer(&query).0),
        List {
            entries: vec![],
            bound: 0.0
        }
    );
    query.untruncated = true;
    assert!(!list(d.answer(&query).0).entries.is_empty());
}

#[test]
fn raw_values_ignore_the_transforms() {
    let logits = [3.0, 1.0, 0.0, -1.0];
    let hot = measured(
        &logits,
        &Transforms {
            temperature: 3.0,
            top_k: 2,
            ..Transforms::NEUTRAL
        },
    );
    let plain = measured(&logits, &Transforms::NEUTRAL);
    let query = Query {
        raw_top: Some(3),
        ..Query::plain(1.0, 4)
    };
    let (said, raw) = hot.answer(&query);
    let (all, _) = plain.answer(&query);
    let raw = raw.unwrap();
    assert_eq!(
        raw.top.iter().map(|e| e.token).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(list(said).entries.len(), 2);
    assert_eq!(
        raw.of_said,
        list(all).entries[..2]
            .iter()
            .map(|e| e.ln_p)
            .collect::<Vec<_>>()
    );
}
