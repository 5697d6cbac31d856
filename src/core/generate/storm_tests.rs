//! Guessing ahead under every law and in every trouble that we could think of, and against experts that lie.

use super::net_tests::*;
use super::record_tests::recording;
use super::tests::{law, vocab};
use super::*;
use crate::law::{ListLaw, Sampler};
use crate::opinion::{Entry, List, Said};
use crate::record;
use crate::team::Sets;
use crate::weights::{Following, Strategy, Weighing};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use std::collections::{BTreeMap, VecDeque};

fn guessing(seed: u64, max_tokens: u32, law: Law) -> Spec {
    Spec {
        law,
        max_tokens,
        guessing: Guessing::Stream,
        ..long(seed)
    }
}

/// What one expert goes through.
fn trouble(kind: usize, from: u64, length: u64) -> Ways {
    match kind {
        0 => Ways {
            silent_from: from,
            silent_until: from + length,
            ..FAR
        },
        1 => Ways {
            gone_at: from,
            ..FAR
        },
        2 => Ways {
            delay_us: (1_000, 160_000),
            ..FAR
        },
        3 => Ways {
            step_us: 30_000,
            ..FAR
        },
        4 => Ways {
            read_us: 1_500_000,
            step_us: 3_000,
            ..FAR
        },
        5 => Ways {
            bundles: true,
            ..FAR
        },
        6 => Ways {
            delay_us: (500, 1_500),
            step_us: 4_000,
            ..FAR
        },
        7 => Ways {
            keeps: 1,
            batches: true,
            step_us: 20_000,
            ..FAR
        },
        _ => FAR,
    }
}

fn laws(which: usize) -> Law {
    let rough = |tau, mass, max_entries| ListLaw {
        tau,
        mass,
        max_entries,
    };
    match which {
        0 => law(1.0),
        1 => law(1.0).sampled(Sampler::SeededPlain),
        2 => law(0.0).sampled(Sampler::Greedy),
        3 => law(1.0).robust(1),
        4 => Law {
            lists: rough(0.7, 0.9, 8),
            ..law(1.0)
        },
        5 => Law {
            lists: rough(0.02, 0.9, 4),
            ..law(1.5)
        },
        _ => law(1.0).sampled(Sampler::Rejection),
    }
}

fn sets(which: usize, law: &Law) -> Sets {
    match which {
        0 => Sets::B,
        1 if law.sampler == Sampler::Seeded => Sets::Turns { sigma_ppm: 200_000 },
        _ => Sets::A,
    }
}

/// Learned and not.
fn strategies() -> impl proptest::strategy::Strategy<Value = Strategy> {
    prop::sample::select(vec![Strategy::Uniform, Strategy::Bayes, Strategy::Meta])
}

/// Frozen and following.
fn weighings() -> impl proptest::strategy::Strategy<Value = Weighing> {
    let follow = prop_oneof![
        2 => Just(None),
        3 => (0.01f64..0.3, prop_oneof![Just(0u32), Just(4), Just(8)]).prop_map(Some),
    ];
    (strategies(), follow).prop_map(|(strategy, follow)| Weighing {
        strategy,
        following: follow.map_or(Following::Frozen, |(share, lag)| Following::Follow {
            share,
            lag,
        }),
    })
}

/// Weights do not follow where they do not count, nor where one speaks at a time or whoever is first.
fn weighed(law: Law, sets: Sets, weighing: Weighing) -> Law {
    let may_follow = sets == Sets::A && law.robust.is_none();
    let following = match may_follow {
        true => weighing.following,
        false => Following::Frozen,
    };
    law.weighed(Weighing {
        following,
        ..weighing
    })
}

fn modes() -> impl proptest::strategy::Strategy<Value = Guessing> {
    prop::sample::select(vec![
        Guessing::Blocks,
        Guessing::Stream,
        Guessing::Branches,
        Guessing::Branches,
    ])
}

type Troubles = Vec<(u64, u64, usize)>;

fn troubles() -> impl proptest::strategy::Strategy<Value = Troubles> {
    prop::collection::vec((0u64..2_500_000, 0u64..900_000, 0usize..10), 5)
}

fn places(troubles: &Troubles, common: f32) -> Vec<(u8, Ways)> {
    let place = |(name, (from, length, kind)): (&u8, &(u64, u64, usize))| {
        let ways = trouble(*kind, *from, *length);
        (*name, Ways { common, ..ways })
    };
    NAMES.iter().zip(troubles).map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The schedule that was written down gives the same text, and the same log-probabilities, without a
    /// guess; and as long as somebody is there the text comes to its end. Not by rejection, nor where
    /// weights follow: there the text depends on who is quick, or on when a sleeper has caught up, and what
    /// stands is its recording (below).
    #[test]
    fn no_law_and_no_trouble_moves_a_byte(
        seed: u64, net: u64, k in 1usize..5, spares in 0usize..2, common in 0.5f32..1.0, own: bool,
        which in 0usize..6, by in 0usize..4, logprobs: bool, weighing in strategies(), guessing in modes(),
        troubles in troubles(),
    ) {
        let ways = places(&troubles, common);
        let law = laws(which);
        let k = if law.robust.is_some() { k.max(3) } else { k };
        let mut plan = far(&NAMES, k, spares);
        plan.candidates[0].local = own;
        plan.sets = sets(by, &law);
        let law = law.weighed(Weighing { strategy: weighing, following: Following::Frozen });
        let spec = Spec {
            logprobs: logprobs.then_some(2),
            guessing,
            ..self::guessing(seed, 60, law)
        };
        let story = live(spec.clone(), plan.clone(), &ways, net);
        if let Finish::Failed(why) = &story.why {
            // Without 2f + 1 lists no token may have f + 1 supporters.
            let is_robust = spec.law.robust.is_some();
            prop_assert!(is_robust || troubles.iter().all(|(_, _, kind)| *kind < 2), "{why}");
        } else {
            prop_assert!(story.tokens.len() == 60 || story.why == Finish::Stop, "{:?}", story.why);
        }
        let again = told_again(spec, plan, &ways, &story.schedule);
        let n = story.tokens.len();
        prop_assert!(again.tokens.len() >= n, "{:?}", again.why);
        prop_assert_eq!(&again.tokens[..n], &story.tokens[..]);
        prop_assert_eq!(&again.ln_p[..n], &story.ln_p[..]);
    }

    /// Whatever experts say, and however often: the response ends, and what was recorded stands.
    #[test]
    fn liars_cost_time_and_no_recording_falls(
        seed: u64, net: u64, k in 1usize..5, spares in 0usize..2, own: bool, which in 0usize..7, by in 0usize..4,
        logprobs: bool, weighing in weighings(), guessing in prop_oneof![Just(Guessing::Never), modes()], troubles in troubles(),
        mischief in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 5),
    ) {
        let mut ways = places(&troubles, 0.9);
        for ((_, ways), (twice, false_lists, unasked, boasts)) in ways.iter_mut().zip(mischief).skip(1) {
            ways.mischief = Mischief { twice, false_lists, unasked, boasts, ..Mischief::default() };
        }
        let law = laws(which);
        let k = if law.robust.is_some() { k.max(3) } else { k };
        let mut plan = far(&NAMES, k, spares);
        plan.candidates[0].local = own;
        plan.sets = sets(by, &law);
        let law = weighed(law, plan.sets, weighing);
        let spec = Spec {
            logprobs: logprobs.then_some(1),
            guessing,
            ..self::guessing(seed, 40, law)
        };
        let story = live(spec.clone(), plan, &ways, net);
        prop_assume!(!story.decided.is_empty());
        let mut recording = recording(&spec, &story, own.then(|| ExpertId([NAMES[0]; 32])));
        recording.logprobs = logprobs;
        prop_assert_eq!(record::replay(&recording), Ok(recording.text.clone()));
    }
}

/// Whoever joins while guesses are under way reads the text first: the questions about them wait for that,
/// and are not late because of it.
#[test]
fn a_newcomer_is_not_late_with_guesses_that_it_could_not_answer_before() {
    let near = Ways {
        delay_us: (2_000, 3_000),
        ..FAR
    };
    let gone = Ways {
        gone_at: 2_000_000,
        ..FAR
    };
    let newcomer = Ways {
        read_us: 1_500_000,
        step_us: 60_000,
        ..FAR
    };
    let ways = [(1, near), (2, gone), (3, FAR), (4, newcomer)];
    let mut plan = far(&[1, 2, 3, 4], 3, 0);
    plan.candidates[0].local = true;
    let story = live(guessing(7, 150, law(1.0)), plan, &ways, 1);
    assert_eq!(story.tokens.len(), 150);
    assert!(story.guesses.right > 60, "{:?}", story.guesses);
    assert_eq!(story.failed.len(), 1, "{:?}", story.failed);
    assert_eq!(story.schedule.len(), 2, "{:?}", story.schedule);
}

/// What a leader takes for one step is no pace: it would be late in the next request, or come first for
/// what it claims.
#[test]
fn a_leaders_steps_are_not_its_pace() {
    for boasts in [false, true] {
        let leader = Ways {
            step_us: 5_000,
            mischief: Mischief {
                boasts,
                ..Mischief::default()
            },
            ..FAR
        };
        let story = live(
            guessing(9, 150, law(1.0)),
            far(&[2], 1, 0),
            &[(2, leader)],
            1,
        );
        assert_eq!((story.tokens.len(), story.guesses.wrong), (150, 0));
        let mut pace = crate::pace::Pace::default();
        for (_, answered) in &story.heard {
            answered.measure(&mut pace);
        }
        assert!(pace.samples() > 0 && pace.samples() < 20);
        let (p50, p95) = (pace.p50_us().unwrap(), pace.p95_us().unwrap());
        assert!((140_000..200_000).contains(&p50), "{p50}");
        assert!((140_000..200_000).contains(&p95), "{p95}");
    }
}

/// A leader that claims to be slow, says much and then nothing: it is late after its time like anybody else.
#[test]
fn a_leader_that_falls_silent_is_replaced_in_its_time() {
    let leader = Ways {
        step_us: 1_000,
        silent_from: 1_200_000,
        mischief: Mischief {
            boasts: true,
            ..Mischief::default()
        },
        ..FAR
    };
    let story = live(
        guessing(9, 400, law(1.0)),
        far(&[2, 3], 1, 0),
        &[(2, leader), (3, FAR)],
        1,
    );
    assert_eq!(story.tokens.len(), 400);
    assert_eq!(story.schedule.len(), 2);
    let gap = story.at_us.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    assert!(gap < 900_000, "{gap} us of silence");
}

/// Experts that all say the same song, a tenth of a second away or one after another on one processor.
/// Returns the most operations that one expert was sent at once, and what guessing brought.
fn sung(spec: Spec, plan: Plan, shared: bool) -> (usize, Guesses) {
    let mut busy = 0u64;
    let mut machine = Generate::new(spec, vocab(), plan, 0, Micros(0)).unwrap();
    let mut queue: VecDeque<(u64, FromExpert)> = VecDeque::new();
    let (mut now, mut most, mut out) = (0, 0, vec![]);
    let note = |position: Position| Opinion {
        position,
        said: Said::List(List {
            entries: vec![Entry {
                token: if position % 97 == 50 {
                    99
                } else {
                    10 + position % 6
                },
                ln_p: LnP::CERTAIN,
            }],
            bound: 0.0,
        }),
        raw: None,
        scored: Vec::new(),
    };
    machine.start(Micros(0), &mut out);
    loop {
        let mut ops: BTreeMap<ExpertId, usize> = BTreeMap::new();
        for output in std::mem::take(&mut out) {
            let (expert, op) = match output {
                Output::ToExpert(expert, op) => (expert, op),
                Output::Event(Event::Finished { guesses, .. }) => return (most, guesses),
                _ => continue,
            };
            *ops.entry(expert).or_default() += 1;
            let session = op.session();
            let event = match op {
                ExpertOp::Open(_) => ExpertEvent::Ready {
                    session,
                    reused: 0,
                    prefill_us: 1,
                    branches: 0,
                },
                ExpertOp::Draft {
                    epoch,
                    position,
                    tokens,
                    queries,
                    ..
                } => {
                    let end = position + tokens.len() as Position;
                    let first = end + 1 - queries.len() as Position;
                    ExpertEvent::Opinions {
                        session,
                        epoch,
                        opinions: (first..=end).map(note).collect(),
                        compute_us: 1_000,
                        bytes: 10,
                    }
                }
                _ => continue,
            };
            busy = match shared {
                true if busy > now => busy + 120_000,
                _ => now + 100_000,
            };
            queue.push_back((busy, FromExpert { expert, event }));
        }
        most = most.max(ops.into_values().max().unwrap_or(0));
        let (at, from) = queue.pop_front().expect("somebody is asked");
        now = at;
        machine.handle(Micros(now), Input::FromExpert(from), &mut out);
    }
}

/// A text that repeats itself is guessed far ahead at once: as one operation, or its experts, which count
/// them, take the router for a flood and close the session.
#[test]
fn many_guesses_at_once_are_one_operation() {
    let law = law(1.0).sampled(Sampler::SeededPlain);
    for k in [1, 2] {
        let names = &[2, 3][..k];
        let (most, guesses) = sung(guessing(3, 600, law.clone()), far(names, k, 0), false);
        assert!(guesses.right > 300, "{guesses:?}");
        assert!(most <= 4, "{most} operations at once");
    }
}

/// Guesses that are always right are no reason to go on with a stream that is slower than none: experts that
/// share a processor with their drafter.
#[test]
fn a_stream_that_does_not_pay_ends_also_when_it_is_never_wrong() {
    let mut plan = far(&[1, 2], 2, 0);
    plan.candidates[0].local = true;
    let law = law(1.0).sampled(Sampler::SeededPlain);
    let (_, guesses) = sung(guessing(3, 600, law), plan, true);
    assert!(guesses.right > 30 && guesses.right < 400, "{guesses:?}");
}
