use super::near::middle;
use super::noise::{NOISE, SIGMA, variance};
use super::topic::UNIT;
use super::voice::Row;
use super::*;
use crate::ids::Token;
use crate::limits::*;
use crate::lnp::LnP;
use crate::weights::table::nats;
use crate::weights::{Rule, Strategy, Weights};
use ed25519_dalek::{Signer, SigningKey};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use std::collections::BTreeSet;

const NET: NetworkId = NetworkId([7; 32]);
const VOCAB: Fingerprint = Fingerprint([1; 32]);
const TODAY: u32 = 20_000;

fn key(name: u8) -> SigningKey {
    SigningKey::from_bytes(&[name; 32])
}

fn expert(name: u8) -> ExpertId {
    ExpertId([name; 32])
}

fn signed(voice: Voice, name: u8) -> Voice {
    let signature = key(name).sign(&voice.body()).to_bytes();
    Voice { signature, ..voice }
}

fn gates(own: Own) -> Gates {
    Gates::new(NET, key(0).verifying_key().to_bytes(), own)
}

/// A history of so many experts, closed each day with noise of its own.
fn own(experts: u8, days: &[Vec<Observation>], noise: u8) -> Own {
    let listed: Vec<_> = (0..experts).map(|name| (VOCAB, expert(name))).collect();
    let mut own = Own::default();
    own.list(TODAY, &listed);
    for (day, seen) in days.iter().enumerate() {
        seen.iter().for_each(|seen| own.observe(VOCAB, seen));
        let mut secret = [noise; 32];
        secret[0] = day as u8;
        assert!(own.close(
            TODAY - (days.len() - day) as u32 + 1,
            &mut Noise::new(&secret)
        ));
    }
    own
}

fn voice(own: &Own, name: u8) -> Voice {
    let node = key(name).verifying_key().to_bytes();
    signed(own.voice(NET, node).expect("it was closed"), name)
}

// --- a made-up world ------------------------------------------------------------------------------

/// A counter's hash: numbers that look drawn.
fn draw(seed: u64, n: u64) -> f64 {
    let bytes = blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat());
    let n = u64::from_le_bytes(*bytes.as_bytes().first_chunk().expect("32 bytes"));
    (n >> 11) as f64 / (1u64 << 53) as f64
}

/// Words of a domain among words that all use, both after Zipf: three in five are everybody's.
fn text(domain: u64, seed: u64, tokens: usize) -> Vec<Token> {
    let word = |n: u64| {
        let rank = |most: f64, u: f64| libm::pow(most, u) as u64;
        let (whose, u) = (draw(seed, 2 * n), draw(seed, 2 * n + 1));
        match whose < 0.6 {
            true => 256 + rank(2_000.0, u) as Token,
            false => 2_000 + (draw(domain + 9_000, rank(400.0, u)) * 47_000.0) as Token,
        }
    };
    (0..tokens as u64).map(word).collect()
}

/// Expert k knows domain k: it is three quarters of a nat better there at every token, give or take.
fn said(domain: u64, experts: u8, seed: u64, tokens: usize) -> Vec<Vec<LnP>> {
    let of = |k: u8| {
        let says = |n: usize| {
            let noise = (draw(seed ^ 77, (n * 16 + usize::from(k)) as u64) - 0.5) * 4.0;
            let knows = if u64::from(k) == domain { 0.75 } else { 0.0 };
            LnP::floor((-4.0 + knows + noise).min(0.0))
        };
        (1..tokens).map(says).collect()
    };
    (0..experts).map(of).collect()
}

fn observation(domain: u64, experts: u8, seed: u64) -> Observation {
    let said = said(domain, experts, seed, 60);
    let said: Vec<(ExpertId, &[LnP])> = (0..experts)
        .zip(&said)
        .map(|(k, ln_p)| (expert(k), ln_p.as_slice()))
        .collect();
    Observation::of(&text(domain, seed, 60), &said).expect("they can be compared")
}

const EXPERTS: u8 = 8;

/// A node that saw so many requests a day for five days, of every domain in turn.
fn honest(name: u8, a_day: u64) -> Voice {
    let day = |day: u64| {
        let seeds = (0..a_day).map(|n| u64::from(name) << 32 | day << 16 | n);
        seeds
            .map(|seed| observation(seed % u64::from(EXPERTS), EXPERTS, seed))
            .collect()
    };
    let days: Vec<Vec<Observation>> = (0..5).map(day).collect();
    voice(&own(EXPERTS, &days, name), name)
}

/// What a newcomer loses on the first tokens of texts that it was given, in nats a text: beside the expert that knows
/// them best. And how often it would ask that one first.
fn first_tokens(gates: &Gates, tokens: usize) -> (f64, f64) {
    let (mut lost, mut right, texts) = (0.0, 0.0, 200);
    let experts: Vec<ExpertId> = (0..EXPERTS).map(expert).collect();
    for n in 0..texts {
        let (domain, seed) = (n % u64::from(EXPERTS), 1 << 48 | n);
        let topic = Topic::of(&text(domain, seed, 60)).expect("long enough");
        let prior = gates.prior(VOCAB, &topic, &experts);
        let rule = Rule {
            strategy: Strategy::Bayes,
            ..Rule::default()
        };
        let mut weights = Weights::from_prior(rule, &prior, None).expect("a prior");
        right += f64::from(u8::from(weights.best(0, 1) == [domain as usize]));
        let said = said(domain, EXPERTS, seed, tokens + 1);
        for (t, _) in said[0].iter().enumerate() {
            let now = weights.at(t as u32, &(0..usize::from(EXPERTS)).collect::<Vec<_>>());
            let p = |k: usize| libm::exp(nats(said[k][t]));
            let mixture: f64 = (0..said.len()).map(|k| now[k] * p(k)).sum();
            lost += nats(said[domain as usize][t]) - libm::log(mixture);
            for (k, said) in said.iter().enumerate() {
                weights.heard(t as u32, k, said[t]);
            }
        }
    }
    (lost / texts as f64, right / texts as f64)
}

/// Says of every topic that the odd experts know it, and has seen more than anybody.
fn liar(name: u8) -> Voice {
    let mut voice = voice(&own(EXPERTS, &[vec![]], name), name);
    voice.closes = 0;
    for said in voice.said.values_mut() {
        let all = |scale: i64| {
            Row::of(&std::array::from_fn(|at| {
                scale * if at % 2 == 0 { 1 } else { -1 }
            }))
        };
        said.topics = all(UNIT << 20);
        for (id, row) in &mut said.experts {
            *row = all((UNIT << 20) * (1 - 2 * i64::from(id.0[0] % 2)));
        }
    }
    signed(voice, name)
}

#[test]
fn a_newcomer_starts_from_what_the_mesh_knows() {
    let mut newcomer = gates(Own::default());
    let (alone, _) = first_tokens(&newcomer, 8);
    for name in 1..=9 {
        newcomer.hear(honest(name, 150), TODAY).unwrap();
    }
    let (known, right_known) = first_tokens(&newcomer, 8);
    for name in 101..=104 {
        newcomer.hear(liar(name), TODAY).unwrap();
    }
    let (lied_to, right_lied_to) = first_tokens(&newcomer, 8);
    assert!(
        known < alone - 0.4 && right_known > 0.6,
        "{known} {alone} {right_known}"
    );
    assert!(
        lied_to < alone - 0.1 && right_lied_to > 0.3,
        "{lied_to} {right_lied_to}"
    );
}

/// What is known lies beneath its noise: that helps nobody, and misleads nobody either.
#[test]
fn a_mesh_that_has_seen_little_does_no_harm() {
    let mut newcomer = gates(Own::default());
    let (alone, _) = first_tokens(&newcomer, 8);
    for name in 1..=9 {
        newcomer.hear(honest(name, 5), TODAY).unwrap();
    }
    let (known, _) = first_tokens(&newcomer, 8);
    assert!(known < alone + 0.1, "{known} {alone}");
}

// --- privacy ----------------------------------------------------------------------------------------

/// The least delta for which a mechanism of zero-concentrated privacy `rho` is (epsilon, delta)-private (Canonne,
/// Kamath and Steinke 2020).
fn delta(rho: f64, epsilon: f64) -> f64 {
    let of = |n: i32| {
        let a = 1.0 + libm::pow(1.01, f64::from(n)) * 0.01;
        (a - 1.0) * (a * rho - epsilon) - libm::log(a - 1.0) + a * libm::log1p(-1.0 / a)
    };
    libm::exp((0..1_200).map(of).fold(0.0, f64::min))
}

#[test]
fn noise_is_what_the_page_says() {
    let rho = 1.0 / (2.0 * NOISE * NOISE);
    assert!(delta(rho, 1.0) < 1e-6, "one request, for ever");
    assert!(delta(4.0 * rho, 2.2) < 1e-6, "two of one day");
    assert!(delta(100.0 * rho, 13.0) < 1e-6, "ten of one day");
    assert!(delta(30.0 * rho, 6.6) < 1e-6, "one on each of thirty days");
    let mut noise = Noise::new(&[3; 32]);
    let draws: Vec<f64> = (0..40_000)
        .map(|_| noise.draw() as f64 / UNIT as f64)
        .collect();
    let mean = draws.iter().sum::<f64>() / 40_000.0;
    let square = draws.iter().map(|x| x * x).sum::<f64>() / 40_000.0;
    assert!(mean.abs() < 4.0 * SIGMA / 200.0, "{mean}");
    assert!((square / (SIGMA * SIGMA) - 1.0).abs() < 0.03, "{square}");
    let beyond = |k: f64| draws.iter().filter(|x| x.abs() > k * SIGMA).count();
    assert!(
        (1_650..2_000).contains(&beyond(2.0)) && beyond(5.0) == 0,
        "{}",
        beyond(2.0)
    );
}

#[test]
fn a_secret_is_one_sequence_of_noise() {
    let drawn = |secret: u8| -> Vec<i64> {
        let mut noise = Noise::new(&[secret; 32]);
        (0..8).map(|_| noise.draw()).collect()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert!(drawn(1).iter().collect::<BTreeSet<_>>().len() > 6);
}

/// What is exact stays here until it has its noise, and has it once.
#[test]
fn nothing_leaves_without_its_noise_and_nothing_twice() {
    let mut own = own(2, &[vec![]], 5);
    let before = own.voice(NET, [1; 32]).unwrap();
    let seen = observation(0, 2, 9);
    (0..50).for_each(|_| own.observe(VOCAB, &seen));
    assert_eq!(own.voice(NET, [1; 32]).unwrap(), before);
    assert!(
        !own.close(TODAY, &mut Noise::new(&[1; 32])),
        "that day is told"
    );
    let kept = Own::decode(&own.encode()).unwrap();
    assert_eq!(kept, own);
    let [mut a, mut b] = [kept.clone(), kept];
    assert!(
        a.close(TODAY + 1, &mut Noise::new(&[1; 32]))
            && b.close(TODAY + 1, &mut Noise::new(&[2; 32]))
    );
    assert_ne!(a, b, "the noise decides");
    // Nothing exact is left: another day of other noise, and what was is a part of what was told.
    let told = |own: &Own| {
        own.voice(NET, [1; 32])
            .unwrap()
            .near(&VOCAB, &seen.topic, &expert(0))
    };
    let near = told(&a).unwrap();
    assert!((near.requests - 50.0).abs() < 5.0 * SIGMA, "{near:?}");
    a.close(TODAY + 31, &mut Noise::new(&[3; 32]));
    assert!(
        told(&a).unwrap().requests < 25.0 + 6.0 * SIGMA,
        "half is forgotten in three weeks"
    );
    assert!(Own::default().voice(NET, [1; 32]).is_none());
}

proptest! {
    /// Whatever a prompt is and whatever was said of it, it moves all sums together by at most so much.
    #[test]
    fn a_request_moves_no_more_than_its_noise_hides(
        text in vec(any::<u32>(), 16..80),
        said in vec(any::<u16>(), 2..17),
    ) {
        let said: Vec<(ExpertId, Vec<LnP>)> = (0..).zip(said)
            .map(|(k, steps)| (expert(k), vec![LnP::from_wire(steps); text.len() - 1])).collect();
        let said: Vec<_> = said.iter().map(|(id, ln_p)| (*id, ln_p.as_slice())).collect();
        let seen = Observation::of(&text, &said).unwrap();
        let square = |x: &i64| x * x;
        prop_assert!(seen.topic.0.iter().map(square).sum::<i64>() <= UNIT * UNIT);
        prop_assert!(seen.gains.iter().map(|(_, gain)| square(gain)).sum::<i64>() <= UNIT * UNIT);
        let moved = seen.gains.iter().flat_map(|(_, gain)| seen.topic.0.map(|x| x * gain / UNIT));
        prop_assert!(moved.map(|x| x * x).sum::<i64>() <= UNIT * UNIT);
    }

    // --- bytes --------------------------------------------------------------------------------------

    #[test]
    fn no_bytes_are_a_panic_and_no_changed_byte_is_believed(
        bytes in vec(any::<u8>(), 0..200),
        at in any::<u16>(),
        bit in 0u8..8,
    ) {
        prop_assert!(Voice::decode(&bytes).is_err() && Own::decode(&bytes).is_err());
        let own = own(3, &[vec![]], 1);
        let told = voice(&own, 4).encode();
        let kept = own.encode();
        prop_assert_eq!(Voice::decode(&told).unwrap().encode(), told.clone());
        for (mut good, is_voice) in [(told, true), (kept, false)] {
            let at = usize::from(at) % good.len();
            good[at] ^= 1 << bit;
            let is_refused = if is_voice { Voice::decode(&good).is_err() } else { Own::decode(&good).is_err() };
            prop_assert!(is_refused, "byte {}", at);
            good.truncate(at);
            prop_assert!(Voice::decode(&good).is_err() && Own::decode(&good).is_err());
            good.extend_from_slice(&bytes);
            prop_assert!(Voice::decode(&good).is_err() && Own::decode(&good).is_err());
        }
    }

    // --- many voices --------------------------------------------------------------------------------

    /// As many liars as honest ones, or fewer, move nothing beyond what an honest one said, or nothing at all.
    #[test]
    fn a_minority_moves_nothing_beyond_the_honest(
        honest in vec(-1e6f64..1e6, 0..9),
        lies in vec(-1e12f64..1e12, 0..9),
    ) {
        let said: Vec<f64> = honest.iter().chain(lies.iter().take(honest.len())).copied().collect();
        let low = honest.iter().copied().fold(0.0, f64::min);
        let high = honest.iter().copied().fold(0.0, f64::max);
        let now = middle(said);
        prop_assert!(low <= now && now <= high, "{} {} {}", low, now, high);
    }

    /// Sums and topics of any size and sign: weights are weights, none is small, whoever spoke first.
    #[test]
    fn a_prior_is_a_prior_whatever_is_said(
        rows in vec((vec(any::<i64>(), 3), any::<u16>()), 0..6),
        text in vec(0u32..50_000, 16..40),
        turn in 0usize..6,
    ) {
        let say = |nth: usize| {
            let (scales, closes) = &rows[nth];
            let mut voice = voice(&own(2, &[vec![]], 1), 1);
            voice.node = [nth as u8 + 1; 32];
            voice.closes = *closes;
            let row = |k: usize| Row::of(&std::array::from_fn(|at| scales[k].wrapping_mul(at as i64 + 1) >> 16));
            let said = voice.said.get_mut(&VOCAB).unwrap();
            said.topics = row(0);
            (1..).zip(said.experts.values_mut()).for_each(|(k, said)| *said = row(k));
            voice
        };
        let topic = Topic::of(&text);
        let prior = |turn: usize| {
            let mut gates = gates(Own::default());
            for nth in 0..rows.len() {
                gates.hear(say((nth + turn) % rows.len()), TODAY).unwrap();
            }
            let experts = [expert(0), expert(1), expert(2)];
            topic.as_ref().map(|topic| gates.prior(VOCAB, topic, &experts))
        };
        if let Some(given) = prior(0) {
            prop_assert!((given.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(given.iter().all(|w| *w >= EVEN / 3.0));
            prop_assert_eq!(prior(turn), Some(given));
        }
    }

    /// The old promise, with the prior instead of 1/N.
    #[test]
    fn bayes_is_never_further_behind_than_its_prior(
        rows in vec(vec(any::<u16>(), 3), 1..60),
        prior in vec(0.05f64..1.0, 3),
    ) {
        let rule = Rule { strategy: Strategy::Bayes, floor: 0.0, ..Rule::default() };
        let mut weights = Weights::from_prior(rule, &prior, None).unwrap();
        let total: f64 = prior.iter().sum();
        let mut lost = [0.0; 3];
        for (t, row) in rows.iter().enumerate() {
            weights.at(t as u32, &[0, 1, 2]);
            for (k, steps) in row.iter().enumerate() {
                weights.heard(t as u32, k, LnP::from_wire(*steps));
                lost[k] -= nats(LnP::from_wire(*steps));
            }
        }
        weights.at(rows.len() as u32, &[0, 1, 2]);
        for (k, lost) in lost.iter().enumerate() {
            let most = lost - libm::log(prior[k] / total) + 1e-7;
            prop_assert!(weights.tally().mixture <= most, "{} > {}", weights.tally().mixture, most);
        }
    }
}

/// The first weights are the mesh's, for whoever knows nothing; a history of one's own takes over.
#[test]
fn the_first_weights_are_the_meshs_until_there_is_a_history() {
    let experts: Vec<ExpertId> = (0..2).map(expert).collect();
    let seen = observation(0, 2, 9);
    let said = |k: u8| Observation {
        topic: seen.topic.clone(),
        gains: vec![(expert(k), UNIT), (expert(1 - k), -UNIT)],
    };
    let days: Vec<Vec<Observation>> = vec![(0..400).map(|_| said(0)).collect()];
    let mut newcomer = gates(Own::default());
    let equal = newcomer.prior(VOCAB, &seen.topic, &experts);
    assert_eq!(equal[0], equal[1]);
    for name in 1..=3 {
        newcomer
            .hear(voice(&own(2, &days, name), name), TODAY)
            .unwrap();
    }
    let mesh = newcomer.prior(VOCAB, &seen.topic, &experts);
    assert!(mesh[0] > 0.8, "{mesh:?}");
    for strategy in [Strategy::Bayes, Strategy::Share, Strategy::Convex] {
        let rule = Rule {
            strategy,
            ..Rule::default()
        };
        let mut weights = Weights::from_prior(rule, &mesh, None).unwrap();
        let first = weights.at(0, &[0, 1]);
        let is_same = first.iter().zip(&mesh).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(is_same, "{strategy:?} {first:?} {mesh:?}");
    }
    let mut settled = newcomer.clone();
    settled.own = own(2, &[vec![]], 8);
    (0..2_000).for_each(|_| settled.own.observe(VOCAB, &said(1)));
    let own = settled.prior(VOCAB, &seen.topic, &experts);
    assert!(own[1] > 0.8, "its own requests said otherwise: {own:?}");
    for prior in [
        &[0.0, 1.0],
        &[f64::NAN, 1.0],
        &[-1.0, 2.0],
        &[f64::INFINITY, 1.0],
    ] {
        let bad = Weights::from_prior(Rule::default(), prior, None).err();
        assert_eq!(bad, Some(crate::weights::BadRule::Prior));
    }
}

#[test]
fn what_cannot_be_heard_is_refused() {
    let today = voice(&own(2, &[vec![]], 1), 1);
    let mut gates = gates(Own::default());
    let at = |day: u32| Voice {
        day,
        ..today.clone()
    };
    let other = Voice {
        network: NetworkId([0; 32]),
        ..today.clone()
    };
    assert_eq!(gates.hear(other, TODAY), Err(Unheard::OtherMesh));
    let node = key(0).verifying_key().to_bytes();
    assert_eq!(
        gates.hear(
            Voice {
                node,
                ..today.clone()
            },
            TODAY
        ),
        Err(Unheard::Own)
    );
    for day in [TODAY + 2, TODAY - GATE_DAYS_MAX - 1] {
        assert_eq!(gates.hear(at(day), TODAY), Err(Unheard::Day));
    }
    assert_eq!(gates.hear(at(TODAY - GATE_DAYS_MAX), TODAY), Ok(()));
    assert_eq!(gates.hear(at(TODAY), TODAY), Ok(()));
    assert_eq!(gates.hear(at(TODAY), TODAY), Err(Unheard::Stale));
    for n in 1..GATE_VOICES_MAX as u16 {
        let mut node = [0xff; 32];
        node[..2].copy_from_slice(&n.to_le_bytes());
        assert_eq!(
            gates.hear(
                Voice {
                    node,
                    ..today.clone()
                },
                TODAY
            ),
            Ok(())
        );
    }
    assert_eq!(
        gates.hear(
            Voice {
                node: [0xfe; 32],
                ..today.clone()
            },
            TODAY
        ),
        Err(Unheard::Full)
    );
    assert_eq!(
        gates.hear(at(TODAY + 1), TODAY),
        Ok(()),
        "whom it knows it still hears"
    );
    gates.keep(TODAY + 20, |node| *node == today.node);
    assert_eq!(
        gates.voices().count(),
        1,
        "the others are no members any more"
    );
    gates.keep(TODAY + 40, |_| true);
    assert_eq!(gates.voices().count(), 0);
}

#[test]
fn everything_fits_at_its_bound_and_nothing_beyond() {
    let mut own = Own::default();
    let all: Vec<(Fingerprint, ExpertId)> = (0..=GATE_VOCABULARIES_MAX as u8)
        .flat_map(|v| (0..=GATE_EXPERTS_MAX as u8).map(move |k| (Fingerprint([v; 32]), expert(k))))
        .collect();
    own.list(TODAY, &all);
    own.close(TODAY, &mut Noise::new(&[1; 32]));
    let full = voice(&own, 1);
    assert_eq!(full.said.len(), GATE_VOCABULARIES_MAX);
    assert!(
        full.said
            .values()
            .all(|said| said.experts.len() == GATE_EXPERTS_MAX)
    );
    let bytes = full.encode();
    assert!(bytes.len() <= GATE_VOICE_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Voice::decode(&bytes), Ok(full));
    let kept = own.encode();
    assert!(kept.len() <= GATE_FILE_BYTES_MAX, "{}", kept.len());
    assert_eq!(Own::decode(&kept).as_ref(), Ok(&own));
    // A month later the places are free.
    let late = (Fingerprint([99; 32]), expert(99));
    own.list(TODAY + GATE_DAYS_MAX, &[late]);
    assert_eq!(own.encode().len(), kept.len(), "all are taken");
    own.list(TODAY + GATE_DAYS_MAX + 1, &[]);
    assert_eq!(own.voice(NET, [1; 32]), None, "nobody is left");
    own.list(TODAY + GATE_DAYS_MAX + 1, &[late]);
    assert_eq!(voice(&own, 1).said.len(), 1);
    assert!(
        (variance(u16::MAX) / (SIGMA * SIGMA) - 16.25).abs() < 0.01,
        "noise does not grow for ever"
    );
    assert_eq!(variance(0), 0.0);
}
