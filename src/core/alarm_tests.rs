use super::*;
use crate::distribution::{Distribution, History};
use crate::ids::Token;
use crate::law::Transforms;
use crate::limits::LIST_ENTRIES_MAX;
use crate::opinion::{Entry, Query, Said};
use crate::seeded::Secret;

const TAU: f64 = 1.0 / 16.0;
const VOCAB: u32 = 300;

/// Fifty positions of an expert, from sharp to flat.
fn rows() -> Vec<Distribution> {
    let rows = (0..50u32).map(|n| {
        let source = Secret::from_seed(77, n).key(0);
        let spread = 0.5 + 0.15 * n as f32;
        let logits: Vec<f32> = (0..VOCAB)
            .map(|v| source.exponential(v) as f32 * spread)
            .collect();
        let mut row = Distribution::new();
        let history = History {
            tokens: &[],
            prompt: 0,
        };
        row.measure(&logits, &Transforms::NEUTRAL, history, false)
            .unwrap();
        row
    });
    rows.collect()
}

fn said(row: &Distribution, query: &Query) -> List {
    match row.answer(query).0 {
        Said::List(list) => list,
        Said::Scalars(_) => panic!("asked for a list"),
    }
}

/// How many of `experts` alarmed, and at how many the bettors were ever twenty times as rich.
fn alarms(
    experts: u32,
    positions: u32,
    tau: f64,
    say: impl Fn(&Distribution, PositionKey) -> List,
) -> (u32, u32, Vec<u32>) {
    let rows = rows();
    let (mut alarms, mut rich, mut when) = (0, 0, Vec::new());
    for expert in 0..experts {
        let secret = Secret::from_seed(u64::from(expert), 5);
        let mut alarm = Alarm::default();
        for position in 0..positions {
            let key = secret.key(position);
            let list = say(&rows[(position % 50) as usize], key);
            assert_eq!(list.check(VOCAB), Ok(()));
            assert_eq!(list.check_keyed(key, tau), Ok(()), "{list:?}");
            alarm.see(&keyed(key, tau, &list));
            if alarm.suspicion().is_some() {
                when.push(position + 1);
                break;
            }
        }
        alarms += u32::from(alarm.suspicion().is_some());
        rich += u32::from(alarm.peak_nats >= libm::log(20.0));
    }
    when.sort_unstable();
    (alarms, rich, when)
}

/// 10^5 honest positions, at the usual tau, at one so high that lists come from a lower one, and at
/// one so low that they are cut: no alarm, and a fortune of twenty as rarely as it must be.
#[test]
fn an_honest_expert_is_not_suspected() {
    for (tau, experts, positions) in [(TAU, 100, 1000), (0.9, 40, 500), (1e-4, 10, 200)] {
        let honest = |row: &Distribution, key| said(row, &Query::perturbed(key, tau));
        let (alarms, rich, _) = alarms(experts, positions, tau, honest);
        assert_eq!(alarms, 0, "tau {tau}");
        // One in twenty at most, and three standard deviations.
        let most = f64::from(experts) * 0.05 + 3.0 * (f64::from(experts) * 0.05).sqrt();
        assert!(f64::from(rich) <= most, "tau {tau}: {rich} of {experts}");
    }
    // Whom it believes is its own affair, as long as the key has no part in it.
    let stubborn = |_: &Distribution, key| listed(&[(17, 0.9), (18, 0.1)], key, TAU);
    assert_eq!(alarms(20, 1000, TAU, stubborn).0, 0);
}

/// The list that an expert with this distribution would send.
fn listed(p: &[(Token, f64)], key: PositionKey, tau: f64) -> List {
    let mut sorted = p.to_vec();
    sorted.sort_unstable_by_key(|(token, _)| *token);
    let mut bound = tau;
    loop {
        let entries: Vec<Entry> = sorted
            .iter()
            .map(|&(token, p)| Entry {
                token,
                ln_p: LnP::floor(libm::log(p)),
            })
            .filter(|e| e.ln_p.p() / key.exponential(e.token) >= bound)
            .take(usize::from(LIST_ENTRIES_MAX))
            .collect();
        if !entries.is_empty() {
            return List { entries, bound };
        }
        bound /= 16.0;
    }
}

/// Wants one of the first 75 tokens (a quarter of the vocabulary) said: wherever the key makes one
/// of them cheap it claims to believe in it with `weight`, and is honest about the rest.
fn grasping(row: &Distribution, key: PositionKey, weight: f64) -> List {
    let honest: Vec<(Token, f64)> = said(row, &Query::plain(1.0, LIST_ENTRIES_MAX))
        .entries
        .iter()
        .map(|e| (e.token, e.ln_p.p()))
        .collect();
    let cheapest = (0..75).min_by(|a, b| key.exponential(*a).total_cmp(&key.exponential(*b)));
    let wanted = cheapest.unwrap();
    // At a fourth of all weights it wins against most leaders.
    if weight / 4.0 / key.exponential(wanted) < 1.5 {
        return listed(&honest, key, TAU);
    }
    let mut p: BTreeMap<Token, f64> = honest
        .into_iter()
        .map(|(token, p)| (token, p * (1.0 - weight) * 0.99))
        .collect();
    *p.entry(wanted).or_default() += weight * 0.99;
    let p: Vec<(Token, f64)> = p.into_iter().collect();
    listed(&p, key, TAU)
}

#[test]
fn an_expert_that_picks_tokens_by_their_keys_is_found() {
    let (found, _, when) = alarms(40, 2000, TAU, |row, key| grasping(row, key, 0.9));
    assert_eq!(found, 40);
    assert!(when[20] < 40 && when[39] < 100, "{when:?}");
    // One that lies at one position in ten.
    let seldom = |row: &Distribution, key: PositionKey| match key.0[3] % 10 {
        0 => grasping(row, key, 0.9),
        _ => said(row, &Query::perturbed(key, TAU)),
    };
    let (found, _, when) = alarms(40, 10_000, TAU, seldom);
    assert_eq!(found, 40);
    assert!(when[20] < 1000 && when[39] < 3000, "{when:?}");
}

/// It adds entries with large u, which cost it nearly no mass: the heaviest entry still tells.
#[test]
fn entries_for_show_do_not_hide_it() {
    let padded = |row: &Distribution, key: PositionKey| {
        let mut list = grasping(row, key, 0.8);
        let mut left = 1.0 - list.entries.iter().map(|e| e.ln_p.p()).sum::<f64>();
        for token in 75..VOCAB {
            let p = TAU * key.exponential(token) * 1.02;
            if list.ln_p(token).is_none() && p < left.min(0.02) {
                left -= p;
                let at = list.entries.partition_point(|e| e.token < token);
                let ln_p = LnP::floor(libm::log(p));
                list.entries.insert(at, Entry { token, ln_p });
            }
        }
        list
    };
    let (found, _, when) = alarms(20, 2000, TAU, padded);
    assert_eq!(found, 20, "{when:?}");
}

#[test]
fn who_stands_apart_is_shown_after_a_while_and_not_before() {
    let plain = |tokens: &[Token]| List {
        entries: tokens
            .iter()
            .map(|&token| Entry {
                token,
                ln_p: LnP::floor(libm::log(0.5)),
            })
            .collect(),
        bound: 0.0,
    };
    let lists = [
        plain(&[1, 2]),
        plain(&[1, 2]),
        plain(&[1, 2]),
        plain(&[8, 9]),
    ];
    let voices: Vec<Voice<'_>> = lists
        .iter()
        .map(|list| Voice { weight: 0.25, list })
        .collect();
    assert_eq!(apart(&voices[..2]), None);
    let excess = apart(&voices).unwrap();
    let mut all: Vec<Alarm> = vec![Alarm::default(); 4];
    for n in 0..APART_SPAN {
        assert!(all.iter().all(|alarm| alarm.suspicion().is_none()), "{n}");
        for (alarm, excess) in all.iter_mut().zip(&excess) {
            alarm.see(&Sign::Apart(*excess));
        }
    }
    let suspects: Vec<bool> = all
        .iter()
        .map(|alarm| alarm.suspicion().is_some())
        .collect();
    assert_eq!(suspects, [false, false, false, true], "{excess:?}");
}

#[test]
fn extreme_values_keep_the_numbers_finite() {
    let mut alarm = Alarm::default();
    for u in [LEAST_U, 1.0, 0.5] {
        (0..10_000).for_each(|_| alarm.see(&Sign::Keyed(vec![u])));
        assert!(alarm.nats().is_finite(), "{alarm:?}");
    }
    assert!(alarm.suspicion().is_some());
    // Far from honest values, yet nothing that an entry can be leaves [0, 1].
    let key = Secret::from_seed(1, 0).key(0);
    let entry = |token, steps| Entry {
        token,
        ln_p: LnP::from_wire(steps),
    };
    for bound in [0.0, 1e-300, 1e300] {
        let list = List {
            entries: vec![entry(0, 0), entry(1, 60_000), entry(2, u16::MAX)],
            bound,
        };
        let Sign::Keyed(values) = keyed(key, TAU, &list) else {
            panic!()
        };
        assert!(values.iter().all(|u| (0.0..=1.0).contains(u)), "{values:?}");
    }
}
