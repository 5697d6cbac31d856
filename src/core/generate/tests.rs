//! One request against table experts: real lists from fixed logits, no threads, no network.

use super::*;
use crate::law::{ListLaw, Transforms};
use crate::limits::SECOND_QUESTIONS_MAX;
use crate::mask::Mask;
use crate::opinion::{Entry, ExpertFailure, List, Said, Want};
pub(super) use crate::sim::table::{END, Table, VOCAB, vocab};
use proptest::prelude::*;
use std::collections::VecDeque;

/// Cases of a long test: few by default, `QUORATE_CASES=1000` for the long run. Read at build time, since the core
/// has no environment.
pub(super) fn cases(default: u64) -> u64 {
    let asked = option_env!("QUORATE_CASES").and_then(|n| n.parse().ok());
    asked.unwrap_or(default)
}

pub(super) fn table(name: u8) -> Table {
    Table::new(ExpertId([name; 32]))
}

pub(super) fn spec(law: Law) -> Spec {
    Spec {
        session: SessionId(1),
        scope: Scope::OWNER,
        prompt: vec![5, 6, 7],
        law,
        secret: Secret::from_seed(11, 0),
        max_tokens: 20,
        stop: vec![],
        logprobs: None,
        grammar: false,
        context: 1000,
        guessing: Guessing::Never,
        paced: false,
        notes: Notes::default(),
    }
}

pub(super) fn law(temperature: f32) -> Law {
    Law::new(
        Transforms {
            temperature,
            ..Transforms::NEUTRAL
        },
        ListLaw::default(),
    )
    .unwrap()
}

type Grammar<'a> = &'a mut dyn FnMut(&[Token]) -> MaskAnswer;

/// Runs a request to its end. `pick` chooses which pending expert answer arrives next.
fn run(
    spec: Spec,
    weights: &[(u8, f64)],
    grammar: Grammar<'_>,
    mut pick: impl FnMut(usize) -> usize,
) -> (Vec<TokenEvent>, Finish, String, Vec<ExpertOp>) {
    let mut experts: Vec<Table> = weights.iter().map(|(name, _)| table(*name)).collect();
    let mixture: Vec<(ExpertId, f64)> = weights
        .iter()
        .map(|(n, w)| (ExpertId([*n; 32]), *w))
        .collect();
    let mut machine = Generate::new(spec, vocab(), Plan::fixed(&mixture), 0, Micros(0)).unwrap();
    let mut pending: VecDeque<FromExpert> = VecDeque::new();
    let (mut tokens, mut text, mut ops) = (Vec::new(), String::new(), Vec::new());
    let mut said: Vec<Token> = Vec::new();
    let mut out = Vec::new();
    machine.start(Micros(0), &mut out);
    for _ in 0..100_000 {
        for output in std::mem::take(&mut out) {
            match output {
                Output::ToExpert(id, op) => {
                    ops.push(op.clone());
                    let expert = experts.iter_mut().find(|e| e.id == id).unwrap();
                    pending.extend(
                        expert
                            .handle(op)
                            .unwrap()
                            .into_iter()
                            .map(|event| FromExpert { expert: id, event }),
                    );
                }
                Output::NeedMask { committed } => {
                    said.extend(committed);
                    machine.handle(Micros(1), Input::Mask(grammar(&said)), &mut out);
                }
                Output::Event(Event::Token(token)) => {
                    text += &token.text;
                    tokens.push(token);
                }
                Output::Event(Event::Finished {
                    why,
                    text: rest,
                    generated,
                    ..
                }) => {
                    assert_eq!(generated as usize, tokens.len());
                    assert!(machine.is_done());
                    return (tokens, why, text + &rest, ops);
                }
                Output::Event(Event::Ready { prompt_tokens, .. }) => assert_eq!(prompt_tokens, 3),
                Output::Event(Event::Decided(_)) => panic!("nobody asked for a recording"),
                Output::Heard { .. }
                | Output::Weighed { .. }
                | Output::Said(_)
                | Output::Failed { .. } => {}
            }
        }
        if out.is_empty() {
            assert!(!pending.is_empty(), "the machine waits for nothing");
            let next = pending.remove(pick(pending.len())).unwrap();
            machine.handle(Micros(1), Input::FromExpert(next), &mut out);
        }
    }
    panic!("no end")
}

fn no_grammar() -> impl FnMut(&[Token]) -> MaskAnswer {
    |_: &[Token]| panic!("no grammar in this request")
}

fn ids(tokens: &[TokenEvent]) -> Vec<Token> {
    tokens.iter().map(|t| t.token).collect()
}

#[test]
fn text_is_a_function_of_the_seed() {
    let text = |seed: u64, temperature: f32| {
        let spec = Spec {
            secret: Secret::from_seed(seed, 0),
            ..spec(law(temperature))
        };
        run(spec, &[(1, 1.0)], &mut no_grammar(), |_| 0).2
    };
    assert_eq!(text(1, 0.8), text(1, 0.8));
    assert_ne!(text(1, 0.8), text(2, 0.8));
    assert_eq!(text(1, 0.0), text(2, 0.0), "greedy draws nothing");
}

#[test]
fn every_decided_token_reaches_the_expert_once_and_sessions_close() {
    let (tokens, why, _, ops) = run(spec(law(1.0)), &[(1, 1.0)], &mut no_grammar(), |_| 0);
    assert_eq!((tokens.len(), why), (20, Finish::Length));
    let sent: Vec<Token> = ops
        .iter()
        .filter_map(|op| {
            if let ExpertOp::Draft { tokens, .. } = op {
                Some(tokens.clone())
            } else {
                None
            }
        })
        .flatten()
        .collect();
    assert_eq!(sent, ids(&tokens)[..19]);
    assert!(matches!(ops.last(), Some(ExpertOp::Close { .. })));
}

#[test]
fn the_end_token_stops_and_is_not_text() {
    let bias = Transforms {
        bias: vec![(END, 40.0)],
        ..Transforms::NEUTRAL
    };
    let law = Law::new(bias, ListLaw::default()).unwrap();
    let (tokens, why, text, _) = run(spec(law), &[(1, 1.0)], &mut no_grammar(), |_| 0);
    assert_eq!((tokens.len(), why, text.as_str()), (0, Finish::Stop, ""));
}

#[test]
fn lengths_are_kept() {
    let count = |max_tokens, context| {
        let spec = Spec {
            max_tokens,
            context,
            ..spec(law(1.0))
        };
        let (tokens, why, _, _) = run(spec, &[(1, 1.0)], &mut no_grammar(), |_| 0);
        assert_eq!(why, Finish::Length);
        tokens.len()
    };
    assert_eq!(count(0, 1000), 0);
    assert_eq!(count(1, 1000), 1);
    assert_eq!(
        count(50, 10),
        7,
        "the context holds 3 tokens of prompt and 7 of answer"
    );
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let whole = run(spec(law(1.0)), &[(1, 1.0)], &mut no_grammar(), |_| 0).2;
    let stop: String = whole.chars().skip(12).take(5).collect();
    let spec = Spec {
        stop: vec![stop.clone()],
        ..spec(law(1.0))
    };
    let (_, why, text, _) = run(spec, &[(1, 1.0)], &mut no_grammar(), |_| 0);
    assert_eq!(why, Finish::Stop);
    assert_eq!(text, whole.split(&stop).next().unwrap());
}

#[test]
fn forced_tokens_are_not_asked_about() {
    let one = |said: &[Token]| match said.len() {
        3 => MaskAnswer::Done,
        n => {
            let mut words = vec![0; 10];
            words[0] = 1 << (n + 8);
            MaskAnswer::Allowed(Mask::new(words, VOCAB))
        }
    };
    let spec = Spec {
        grammar: true,
        ..spec(law(1.0))
    };
    let (tokens, why, text, ops) = run(spec, &[(1, 1.0)], &mut { one }, |_| 0);
    assert_eq!(
        (ids(&tokens), why, text.as_str()),
        (vec![8, 9, 10], Finish::Stop, "8 9 10 ")
    );
    assert!(!ops.iter().any(|op| matches!(op, ExpertOp::Draft { .. })));
}

#[test]
fn a_mask_of_what_no_expert_believes_is_still_obeyed() {
    // Far outside top_k, then without any mass at all: each has its own way out, none breaks the mask.
    for bias in [0.0, -100.0] {
        let allowed: Vec<(Token, f32)> = (10..300).map(|v| (v, bias)).collect();
        let transforms = Transforms {
            top_k: 2,
            bias: allowed,
            ..Transforms::NEUTRAL
        };
        let mut mask = Mask::new(vec![u32::MAX; 10], VOCAB);
        mask = Mask::new(
            (0..10)
                .map(|i| if i == 0 { 0 } else { mask.word(i) })
                .collect(),
            VOCAB,
        );
        let mut grammar = |_: &[Token]| MaskAnswer::Allowed(mask.clone());
        for temperature in [0.0, 1.0] {
            let law = Law::new(
                Transforms {
                    temperature,
                    ..transforms.clone()
                },
                ListLaw::default(),
            )
            .unwrap();
            let spec = Spec {
                grammar: true,
                ..spec(law)
            };
            let (tokens, why, _, _) = run(spec, &[(1, 1.0)], &mut grammar, |_| 0);
            assert_eq!(why, Finish::Length);
            assert!(tokens.iter().all(|t| t.token >= 32));
        }
    }
}

#[test]
fn log_probabilities_are_untransformed_and_sorted() {
    let hot = Law::new(
        Transforms {
            temperature: 2.0,
            top_k: 50,
            ..Transforms::NEUTRAL
        },
        ListLaw::default(),
    );
    let spec = Spec {
        logprobs: Some(4),
        ..spec(hot.unwrap())
    };
    let (tokens, _, _, _) = run(spec, &[(1, 1.0)], &mut no_grammar(), |_| 0);
    let mut prompt = vec![5, 6, 7];
    for event in tokens {
        let mut table = table(1);
        table.texts.own.tokens = prompt.clone();
        let all: Vec<Token> = (0..VOCAB).collect();
        let query = Query {
            want: Want::Scalars(all),
            ..Query::plain(1.0, 1)
        };
        let Said::Scalars(raw) = table.opinion(prompt.len() as u32, &query).said else {
            panic!()
        };
        assert!((event.ln_p.unwrap() - raw[event.token as usize].ln()).abs() < 2e-3);
        assert_eq!(event.top.len(), 4);
        assert!(event.top.windows(2).all(|w| w[0].1 >= w[1].1));
        prompt.push(event.token);
    }
}

#[test]
fn a_failing_or_lying_expert_ends_the_response_with_a_reason() {
    let bad_list = List {
        entries: vec![
            Entry {
                token: 1,
                ln_p: LnP::CERTAIN
            };
            2
        ],
        bound: 0.0,
    };
    for (event, reason) in [
        (
            ExpertEvent::Failed {
                session: SessionId(1),
                why: ExpertFailure::Gone,
            },
            "gone",
        ),
        (
            ExpertEvent::Opinions {
                session: SessionId(1),
                epoch: 0,
                opinions: vec![Opinion {
                    position: 3,
                    said: Said::List(bad_list),
                    raw: None,
                    scored: Vec::new(),
                }],
                compute_us: 0,
                bytes: 0,
            },
            "out of order",
        ),
    ] {
        let mut machine = Generate::new(
            spec(law(1.0)),
            vocab(),
            Plan::fixed(&[(ExpertId([1; 32]), 1.0)]),
            0,
            Micros(0),
        )
        .unwrap();
        let mut out = Vec::new();
        machine.start(Micros(0), &mut out);
        machine.handle(
            Micros(0),
            Input::FromExpert(FromExpert {
                expert: ExpertId([1; 32]),
                event,
            }),
            &mut out,
        );
        let Some(Output::Event(Event::Finished {
            why: Finish::Failed(why),
            ..
        })) = out.last()
        else {
            panic!()
        };
        assert!(why.contains(reason), "{why}");
    }
}

/// It answers, and is asked again each time, until that is enough.
#[test]
fn an_expert_that_never_decides_is_given_up() {
    let (mut machine, mut out) = asked();
    let (mut answered, mut asks) = (0, 0);
    while !machine.is_done() {
        let tau = out.drain(..).find_map(|o| match o {
            Output::ToExpert(_, ExpertOp::Draft { queries, .. }) => tau_of(&queries[0]),
            Output::ToExpert(_, ExpertOp::Ask { query, .. }) => tau_of(&query),
            _ => None,
        });
        let Some((key, tau)) = tau else { break };
        asks += 1;
        // The leader is just what any other token may be.
        let ln_p = LnP::floor(libm::log(tau * key.exponential(9)));
        let bound = ln_p.p() / key.exponential(9);
        let entries = vec![Entry { token: 9, ln_p }];
        machine.handle(Micros(0), says(List { entries, bound }), &mut out);
        answered += 1;
        assert!(answered < 200);
    }
    assert!(asks > 8 && asks <= SECOND_QUESTIONS_MAX + 1, "{asks}");
}

fn tau_of(query: &Query) -> Option<(crate::seeded::PositionKey, f64)> {
    match query.want {
        Want::Perturbed { key, tau } => Some((key, tau)),
        _ => None,
    }
}

#[test]
fn a_list_that_says_nothing_is_refused_at_once() {
    let (mut machine, mut out) = asked();
    let nothing = List {
        entries: vec![],
        bound: 1.0 / 16.0,
    };
    machine.handle(Micros(0), says(nothing), &mut out);
    let ended = out.iter().find_map(|o| match o {
        Output::Event(Event::Finished { why, .. }) => Some(why.clone()),
        _ => None,
    });
    let why = "an expert sent a list with no token, and no word that there is none";
    assert_eq!(ended, Some(Finish::Failed(why.into())));
}

/// A request that has asked its only expert.
fn asked() -> (Generate, Vec<Output>) {
    let mut machine = Generate::new(
        spec(law(1.0)),
        vocab(),
        Plan::fixed(&[(ExpertId([1; 32]), 1.0)]),
        0,
        Micros(0),
    )
    .unwrap();
    let mut out = Vec::new();
    machine.start(Micros(0), &mut out);
    (machine, out)
}

fn says(list: List) -> Input {
    Input::FromExpert(FromExpert {
        expert: ExpertId([1; 32]),
        event: ExpertEvent::Opinions {
            session: SessionId(1),
            epoch: 0,
            opinions: vec![Opinion {
                position: 3,
                said: Said::List(list),
                raw: None,
                scored: Vec::new(),
            }],
            compute_us: 0,
            bytes: 0,
        },
    })
}

proptest! {
    /// The text of a mixture does not depend on which expert's answer comes first.
    #[test]
    fn arrival_order_does_not_move_a_token(seed: u64, order in prop::collection::vec(any::<prop::sample::Index>(), 64)) {
        let weights = [(3u8, 0.5), (1, 0.3), (2, 0.2)];
        let spec = Spec { secret: Secret::from_seed(seed, 0), max_tokens: 8, ..spec(law(1.0)) };
        let straight = run(spec.clone(), &weights, &mut no_grammar(), |_| 0).0;
        let mut turn = 0;
        let mixed = run(spec.clone(), &weights, &mut no_grammar(), |n| {
            turn += 1;
            order[turn % order.len()].index(n)
        }).0;
        prop_assert_eq!(&straight, &mixed);
        let mut turned = weights;
        turned.rotate_left(1);
        prop_assert_eq!(&straight, &run(spec, &turned, &mut no_grammar(), |_| 0).0);
    }

    /// tau is a matter of bytes, never of text.
    #[test]
    fn tau_does_not_move_a_token(seed: u64, tau in 0.01f64..0.9) {
        let text = |tau| {
            let mut law = law(0.9);
            law.lists.tau = tau;
            let spec = Spec { secret: Secret::from_seed(seed, 0), max_tokens: 6, ..spec(law) };
            ids(&run(spec, &[(1, 0.6), (2, 0.4)], &mut no_grammar(), |_| 0).0)
        };
        prop_assert_eq!(text(tau), text(1.0 / 16.0));
    }
}
