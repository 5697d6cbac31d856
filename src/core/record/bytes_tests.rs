//! A recording's one spelling: it comes back, and nothing else is taken.

use super::*;
use crate::generate::{Evidence, Weighed};
use crate::governance::codec::Malformed;
use crate::law::{Law, ListLaw, Sampler, Transforms};
use crate::limits::{PIECE_BYTES_MAX, RECORDING_BYTES_MAX, TEAM_MAX, VOCABULARY_MAX};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::{Entry, List};
use crate::team::Change;
use crate::weights::{self, Following, Weighing};
use proptest::prelude::*;

const VOCAB: u32 = 90;

fn said() -> impl Strategy<Value = Said> {
    let entries = prop::collection::btree_map(0..VOCAB, 6_000u16.., 0..12);
    let list = (entries, 0.0f64..1.0).prop_map(|(entries, bound)| {
        let entries = entries.into_iter().map(|(token, steps)| Entry {
            token,
            ln_p: LnP::from_wire(steps),
        });
        Said::List(List {
            entries: entries.collect(),
            bound,
        })
    });
    let values = prop::collection::vec(any::<u16>().prop_map(LnP::from_wire), 0..6);
    prop_oneof![list, values.prop_map(Said::Scalars)]
}

fn evidence() -> impl Strategy<Value = Vec<Evidence>> {
    let ln_p = prop::collection::vec(any::<u16>().prop_map(LnP::from_wire), 0..5);
    let one = (0u8..20, any::<u32>(), ln_p).prop_map(|(name, position, ln_p)| Evidence {
        expert: ExpertId([name; 32]),
        position,
        ln_p,
    });
    prop::collection::vec(one, 0..4)
}

fn weighed() -> impl Strategy<Value = Weighed> {
    let start = prop::collection::btree_map(0u8..20, 0.0f64..=1.0, 0..5);
    let weights = prop::collection::vec(0.0f64..=1.0, 0..5);
    (start, weights, evidence(), evidence()).prop_map(|(start, weights, caught_up, told)| Weighed {
        start: start
            .into_iter()
            .map(|(n, w)| (ExpertId([n; 32]), w))
            .collect(),
        weights,
        caught_up,
        told,
    })
}

fn weighing() -> impl Strategy<Value = Weighing> {
    let follow = (0.001f64..=1.0, 0u32..=256);
    let strategy = prop::sample::select(&weights::Strategy::ALL[..]);
    (strategy, prop::option::of(follow)).prop_map(|(strategy, follow)| Weighing {
        strategy,
        following: follow.map_or(Following::Frozen, |(share, lag)| Following::Follow {
            share,
            lag,
        }),
    })
}

fn decided() -> impl Strategy<Value = Decided> {
    let mask = prop::option::of(prop::collection::vec(any::<u32>(), 3));
    let answers = prop::collection::vec((0u32..4, 0u8..5, said()), 0..6);
    let weighed = prop::option::of(weighed());
    let rest = (answers, weighed);
    (any::<u32>(), 0..VOCAB, mask, rest).prop_map(|(position, token, mask, (answers, weighed))| {
        let answers = answers.into_iter();
        let answers = answers.map(|(question, name, said)| (question, ExpertId([name; 32]), said));
        Decided {
            position,
            token,
            mask: mask.map(|words| Arc::new(Mask::new(words, VOCAB))),
            answers: answers.collect(),
            weighed: weighed.map(Box::new),
        }
    })
}

fn law() -> impl Strategy<Value = Law> {
    let samplers = prop_oneof![
        Just(Sampler::Seeded),
        Just(Sampler::SeededPlain),
        Just(Sampler::Greedy),
        Just(Sampler::Rejection)
    ];
    let numbers = (0.1f32..9.0, 0.01f32..1.0, 0.0f32..1.0, any::<u32>());
    let bias = prop::collection::vec((0..VOCAB, -100.0f32..100.0), 0..4);
    let rest = (samplers, prop::option::of(any::<u8>()), weighing());
    (rest, numbers, bias).prop_map(
        |((sampler, robust, weights), (temperature, top_p, min_p, n), bias)| {
            let transforms = Transforms {
                temperature,
                top_p,
                min_p,
                bias,
                repeat_last_n: n,
                ..Transforms::NEUTRAL
            };
            Law {
                sampler,
                robust,
                weights,
                ..Law::new(transforms, ListLaw::default()).unwrap()
            }
        },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let set = prop::collection::btree_map(0u8..20, 0.0f64..=1.0, 0..5);
    let changes = prop::collection::btree_map(any::<u32>(), set, 0..4);
    changes.prop_map(|changes| {
        let change = |(position, set): (u32, std::collections::BTreeMap<u8, f64>)| Change {
            position,
            set: set
                .into_iter()
                .map(|(n, w)| (ExpertId([n; 32]), w))
                .collect(),
        };
        changes.into_iter().map(change).collect()
    })
}

prop_compose! {
    fn recording()(
        law in law(),
        secret: [u8; 32],
        numbers: (u32, u32, bool, bool),
        stop in prop::collection::vec("[a-zé]{0,9}", 0..4),
        prompt in prop::collection::vec(any::<u32>(), 0..20),
        local in prop::option::of(any::<[u8; 32]>()),
        schedule in schedule(),
        decided in prop::collection::vec(decided(), 0..6),
        pieces in prop::collection::btree_map(0..VOCAB, (prop::collection::vec(any::<u8>(), 0..8), any::<(bool, bool)>()), 0..6),
        text in "[a-z🦀\n]{0,40}",
    ) -> Recording {
        let pieces = pieces.into_iter().map(|(token, (bytes, (control, ends)))| {
            (token, Piece { bytes, control, ends })
        });
        Recording {
            prompt, law, secret, stop, schedule, decided, text,
            max_tokens: numbers.0,
            context: numbers.1,
            grammar: numbers.2,
            logprobs: numbers.3,
            local: local.map(ExpertId),
            vocabulary: VOCAB,
            pieces: pieces.collect(),
        }
    }
}

fn plain() -> Recording {
    Recording {
        prompt: vec![1, 2, 3],
        law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
        secret: [7; 32],
        max_tokens: 5,
        stop: vec!["stop".into()],
        context: 100,
        grammar: false,
        logprobs: false,
        local: None,
        schedule: vec![Change {
            position: 3,
            set: vec![(ExpertId([1; 32]), 1.0)],
        }],
        decided: vec![],
        vocabulary: VOCAB,
        pieces: vec![],
        text: "words".into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(recording in recording()) {
        let bytes = encode(&recording).unwrap();
        prop_assert_eq!(decode(&bytes), Ok(recording.clone()));
        // Whatever it is, replaying it ends.
        drop(replay(&recording));
    }

    #[test]
    fn a_flipped_bit_and_a_cut_are_found(recording in recording(), at: prop::sample::Index, bit in 0u8..8) {
        let whole = encode(&recording).unwrap();
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err());
        prop_assert!(decode(&whole[..at]).is_err());
    }

    /// The same with a hash that fits: it is refused, or it is another recording in its one spelling.
    #[test]
    fn a_forged_hash_makes_no_second_spelling(recording in recording(), at: prop::sample::Index, bit in 0u8..8, cut: bool) {
        let mut bytes = encode(&recording).unwrap();
        bytes.truncate(bytes.len() - 32);
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        let trailer = crate::governance::codec::hash("quorate 2026 recording", &bytes);
        bytes.extend(trailer);
        if let Ok(other) = decode(&bytes) {
            prop_assert_ne!(&other, &recording);
            prop_assert_eq!(encode(&other), Ok(bytes));
            drop(replay(&other));
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&noise).is_err());
        let mut bytes = b"quorate recording 2\n".to_vec();
        bytes.extend(noise);
        let trailer = crate::governance::codec::hash("quorate 2026 recording", &bytes);
        bytes.extend(trailer);
        drop(decode(&bytes));
    }
}

#[test]
fn every_bit_of_a_small_recording_counts() {
    let bytes = encode(&plain()).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            assert!(decode(&other).is_err(), "byte {at}, bit {bit}");
        }
        assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn what_is_too_much_is_refused_and_what_just_fits_is_not() {
    let with = |change: &dyn Fn(&mut Recording)| {
        let mut recording = plain();
        change(&mut recording);
        encode(&recording).map(drop)
    };
    let range = |what| Err(Unreadable::Malformed(Malformed::Range(what)));
    let piece = |bytes: usize| Piece {
        bytes: vec![b' '; bytes],
        control: false,
        ends: false,
    };
    assert_eq!(
        with(&|r| r.pieces = vec![(1, piece(PIECE_BYTES_MAX))]),
        Ok(())
    );
    assert_eq!(
        with(&|r| r.pieces = vec![(1, piece(PIECE_BYTES_MAX + 1))]),
        range("a piece")
    );
    assert_eq!(with(&|r| r.vocabulary = VOCABULARY_MAX), Ok(()));
    assert_eq!(
        with(&|r| r.vocabulary = VOCABULARY_MAX + 1),
        range("the size of the vocabulary")
    );
    let set = |n: usize| {
        (0..n)
            .map(|i| (ExpertId([i as u8; 32]), 0.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(with(&|r| r.schedule[0].set = set(TEAM_MAX)), Ok(()));
    assert_eq!(
        with(&|r| r.schedule[0].set = set(TEAM_MAX + 1)),
        range("a set of experts")
    );
    assert_eq!(
        with(&|r| r.schedule[0].set.push((ExpertId([0; 32]), 0.5))),
        Err(Malformed::Order("the experts of a set").into())
    );
    assert_eq!(
        with(&|r| r.schedule[0].set[0].1 = f64::NAN),
        range("a weight")
    );
    assert_eq!(
        with(&|r| r.stop = vec![String::new(); 17]),
        range("the stop strings")
    );
    let wrapped = with(&|r| r.stop = vec![String::new(); 256]);
    assert!(wrapped.is_err(), "a length is not another length");
    let large = vec![0; RECORDING_BYTES_MAX + 1];
    let got = large.len();
    assert_eq!(decode(&large), Err(Unreadable::TooLarge { got }));
    assert_eq!(decode(&large[1..]), Err(Unreadable::Kind));
}

/// A mask of one token takes a few bytes in the file, and 128 KiB in memory.
#[test]
fn masks_cannot_fill_the_memory() {
    let masks = |n: usize| {
        let mask = Arc::new(Mask::new(vec![1], VOCABULARY_MAX));
        let decided = Decided {
            position: 3,
            token: 0,
            mask: Some(mask),
            answers: vec![],
            weighed: None,
        };
        let mut recording = plain();
        recording.vocabulary = VOCABULARY_MAX;
        recording.decided = vec![decided; n];
        super::bytes::spell(&recording)
    };
    let most = RECORDING_BYTES_MAX / (VOCABULARY_MAX as usize / 8);
    assert!(masks(most).len() < 1 << 20);
    assert!(decode(&masks(most)).is_ok());
    assert_eq!(
        decode(&masks(most + 1)),
        Err(Malformed::Range("the size of all masks").into())
    );
}
