#[path = "node_guests_tests.rs"]
mod guests;

use super::*;
use crate::generate::{Finish, Guessing};
use crate::governance::{Genesis, Halt, Records, fold};
use crate::law::{Law, ListLaw, Transforms};
use crate::limits::{QUEUE_MAX, SESSIONS_MAX};
use crate::lnp::LnP;
use crate::opinion::{Entry, ExpertEvent, List, Opinion, Said, Scope};
use crate::seeded::Secret;
use crate::vocab::Piece;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use std::collections::BTreeMap;

const E: ExpertId = ExpertId([1; 32]);

fn request(session: u128, permit: Permit) -> Request {
    let law = Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap();
    let spec = Spec {
        session: SessionId(session),
        scope: Scope::OWNER,
        prompt: vec![1, 2],
        law,
        secret: Secret::from_seed(0, 0),
        max_tokens: 2,
        stop: vec![],
        logprobs: None,
        grammar: false,
        guessing: Guessing::Never,
        paced: false,
        notes: Default::default(),
        context: 16,
    };
    let piece = |v: u8| Piece {
        bytes: vec![b'a' + v],
        control: false,
        ends: false,
    };
    Request {
        spec,
        vocab: Arc::new(Vocab::new((0..8).map(piece))),
        experts: Experts::These(vec![(E, 1.0)]),
        permit,
    }
}

fn node() -> Node {
    Node::new(MeshConfig::default(), Rights::alone())
}

fn answer(session: u128, position: u32) -> Input {
    let list = List {
        entries: vec![Entry {
            token: 3,
            ln_p: LnP::CERTAIN,
        }],
        bound: 0.0,
    };
    let opinions = vec![Opinion {
        position,
        said: Said::List(list),
        raw: None,
        scored: Vec::new(),
    }];
    let session = SessionId(session);
    Input::FromExpert(FromExpert {
        expert: E,
        event: ExpertEvent::Opinions {
            session,
            epoch: 0,
            opinions,
            compute_us: 0,
            bytes: 0,
        },
    })
}

fn finished(out: &[Output]) -> Vec<(u128, Finish)> {
    out.iter()
        .filter_map(|o| match o {
            Output::Event {
                session,
                event: Event::Finished { why, .. },
            } => Some((session.0, why.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn slots_then_queue_then_refusal_and_everyone_accepted_finishes() {
    let mut node = node();
    let permit = Rights::alone().local();
    let mut out = Vec::new();
    let accepted = (SESSIONS_MAX + QUEUE_MAX) as u128;
    for n in 0..accepted {
        node.submit(Micros(n as u64), request(n, permit), &mut out)
            .unwrap();
    }
    assert_eq!((node.running(), node.waiting()), (SESSIONS_MAX, QUEUE_MAX));
    let refused = node
        .submit(Micros(0), request(accepted, permit), &mut out)
        .unwrap_err();
    let Refusal::Busy {
        running,
        waiting,
        retry_after_s,
    } = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((running, waiting), (SESSIONS_MAX, QUEUE_MAX));
    assert!((1..=120).contains(&retry_after_s));
    for n in 0..accepted {
        for position in 2..4 {
            node.handle(Micros(1000), answer(n, position), &mut out);
        }
    }
    assert_eq!(finished(&out).len() as u128, accepted);
    assert_eq!(
        (
            node.running(),
            node.waiting(),
            node.generated_tokens() as u128
        ),
        (0, 0, 2 * accepted)
    );
}

#[test]
fn a_cancelled_request_frees_its_place_at_once() {
    let mut node = node();
    let permit = Rights::alone().local();
    let mut out = Vec::new();
    for n in 0..=SESSIONS_MAX as u128 + 1 {
        node.submit(Micros(0), request(n, permit), &mut out)
            .unwrap();
    }
    let last = SessionId(SESSIONS_MAX as u128 + 1);
    node.handle(Micros(1), Input::Cancel { session: last }, &mut out);
    assert_eq!(node.waiting(), 1);
    node.handle(
        Micros(1),
        Input::Cancel {
            session: SessionId(0),
        },
        &mut out,
    );
    assert_eq!((node.running(), node.waiting()), (SESSIONS_MAX, 0));
    assert_eq!(finished(&out), [(0, Finish::Cancelled)]);
}

#[test]
fn what_cannot_run_is_refused_with_its_numbers() {
    let mut node = node();
    let permit = Rights::alone().local();
    let mut out = Vec::new();
    let mut long = request(1, permit);
    long.spec.prompt = vec![1; 16];
    assert_eq!(
        node.submit(Micros(0), long, &mut out),
        Err(Refusal::PromptTooLong {
            prompt: 16,
            context: 16
        })
    );
    let mut empty = request(1, permit);
    empty.spec.prompt.clear();
    assert_eq!(
        node.submit(Micros(0), empty, &mut out),
        Err(Refusal::PromptEmpty)
    );
    node.submit(Micros(0), request(1, permit), &mut out)
        .unwrap();
    assert_eq!(
        node.submit(Micros(0), request(1, permit), &mut out),
        Err(Refusal::Duplicate)
    );
}

#[test]
fn no_token_follows_a_halt_and_local_sessions_go_on() {
    let key = SigningKey::from_bytes(&[1; 32]);
    let genesis =
        Genesis::new(vec![key.verifying_key().to_bytes()], MeshConfig::default()).unwrap();
    let running = Rights::alone().under(fold(&genesis, &Records::default()));
    let mut node = Node::new(MeshConfig::default(), running.clone());
    let mut out = Vec::new();
    node.submit(Micros(0), request(1, running.mesh().unwrap()), &mut out)
        .unwrap();
    node.submit(Micros(0), request(2, running.local()), &mut out)
        .unwrap();
    let mut halt = Halt {
        network: genesis.network_id(),
        author: key.verifying_key().to_bytes(),
        nonce: 1,
        reason: "smoke".into(),
        advisory_time: 0,
        signature: [0; 64],
    };
    halt.signature = key.sign(&halt.body()).to_bytes();
    out.clear();
    let halted = running.under(fold(&genesis, &Records::from_iter([halt])));
    let stale = running.mesh().unwrap();
    node.handle(Micros(1), Input::Rights(halted), &mut out);
    let [(1, Finish::Failed(why))] = &finished(&out)[..] else {
        panic!("{out:?}")
    };
    assert!(why.contains("smoke"));
    out.clear();
    node.handle(Micros(2), answer(1, 2), &mut out);
    assert!(out.is_empty(), "an opinion after the halt draws no token");
    node.handle(Micros(2), answer(2, 2), &mut out);
    assert!(out.iter().any(|o| matches!(
        o,
        Output::Event {
            event: Event::Token(_),
            ..
        }
    )));
    let refused = node.submit(Micros(3), request(9, stale), &mut out);
    assert!(matches!(refused, Err(Refusal::NoPermit(why)) if why.contains("smoke")));
}

#[test]
fn a_lost_expert_ends_its_sessions_with_the_reason() {
    let mut node = node();
    let mut out = Vec::new();
    node.submit(Micros(0), request(1, Rights::alone().local()), &mut out)
        .unwrap();
    node.handle(
        Micros(1),
        Input::Left {
            expert: E,
            why: "the model was unloaded".into(),
        },
        &mut out,
    );
    assert_eq!(
        finished(&out),
        [(1, Finish::Failed("the model was unloaded".into()))]
    );
}

/// Anything an expert, a grammar or a client may do to a node, well-formed or not.
#[derive(Clone, Debug)]
enum Act {
    Submit {
        session: u8,
        grammar: bool,
        mesh: bool,
    },
    Opinion {
        session: u8,
        position: u32,
        entries: Vec<(Token, u16)>,
        bound: f64,
    },
    Scalars {
        session: u8,
        position: u32,
        values: Vec<u16>,
    },
    Failed {
        session: u8,
    },
    Mask {
        session: u8,
        words: Vec<u32>,
    },
    MaskDone {
        session: u8,
    },
    Cancel {
        session: u8,
    },
    SendFailed {
        session: u8,
    },
    Halt,
    ExpertGone,
}

fn acts() -> impl Strategy<Value = Act> {
    let session = 0u8..40;
    prop_oneof![
        6 => (session.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(session, grammar, mesh)| Act::Submit { session, grammar, mesh }),
        9 => (session.clone(), 2u32..5, prop::collection::vec((0u32..10, any::<u16>()), 0..4), prop_oneof![Just(0.0), 0.0..1.0, Just(f64::NAN)])
            .prop_map(|(session, position, mut entries, bound)| {
                if position != 4 {
                    entries.sort_unstable();
                }
                Act::Opinion { session, position, entries, bound }
            }),
        2 => (session.clone(), 2u32..5, prop::collection::vec(any::<u16>(), 0..4))
            .prop_map(|(session, position, values)| Act::Scalars { session, position, values }),
        1 => session.clone().prop_map(|session| Act::Failed { session }),
        3 => (session.clone(), prop::collection::vec(any::<u32>(), 0..2))
            .prop_map(|(session, words)| Act::Mask { session, words }),
        1 => session.clone().prop_map(|session| Act::MaskDone { session }),
        1 => session.clone().prop_map(|session| Act::Cancel { session }),
        1 => session.prop_map(|session| Act::SendFailed { session }),
        1 => Just(Act::ExpertGone),
        1 => Just(Act::Halt),
    ]
}

fn opinion_of(session: u8, position: u32, said: Said) -> Input {
    let session = SessionId(u128::from(session));
    let opinions = vec![Opinion {
        position,
        said,
        raw: None,
        scored: Vec::new(),
    }];
    let event = ExpertEvent::Opinions {
        session,
        epoch: 0,
        opinions,
        compute_us: 0,
        bytes: 0,
    };
    Input::FromExpert(FromExpert { expert: E, event })
}

/// The input an act stands for; `None` for acts that are calls of their own.
fn input_of(act: &Act, halted: &Rights) -> Option<Input> {
    let id = |session: u8| SessionId(u128::from(session));
    Some(match act {
        Act::Opinion {
            session,
            position,
            entries,
            bound,
        } => {
            let entry = |(token, steps): &(Token, u16)| Entry {
                token: *token,
                ln_p: LnP::from_wire(*steps),
            };
            let list = List {
                entries: entries.iter().map(entry).collect(),
                bound: *bound,
            };
            opinion_of(*session, *position, Said::List(list))
        }
        Act::Scalars {
            session,
            position,
            values,
        } => {
            let values = values.iter().map(|v| LnP::from_wire(*v)).collect();
            opinion_of(*session, *position, Said::Scalars(values))
        }
        Act::Failed { session } => Input::FromExpert(FromExpert {
            expert: E,
            event: ExpertEvent::Failed {
                session: id(*session),
                why: crate::opinion::ExpertFailure::Gone,
            },
        }),
        Act::Mask { session, words } => Input::Mask {
            session: id(*session),
            answer: MaskAnswer::Allowed(crate::mask::Mask::new(words.clone(), 8)),
        },
        Act::MaskDone { session } => Input::Mask {
            session: id(*session),
            answer: MaskAnswer::Done,
        },
        Act::Cancel { session } => Input::Cancel {
            session: id(*session),
        },
        Act::SendFailed { session } => Input::SendFailed {
            expert: E,
            session: id(*session),
            why: "full".into(),
        },
        Act::Halt => Input::Rights(halted.clone()),
        Act::Submit { .. } | Act::ExpertGone => return None,
    })
}

/// A mesh of one participant: its rights while it runs, and after that participant's halt.
fn running_and_halted() -> (Rights, Rights) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let author = key.verifying_key().to_bytes();
    let genesis = Genesis::new(vec![author], MeshConfig::default()).unwrap();
    let running = Rights::alone().under(fold(&genesis, &Records::default()));
    let network = genesis.network_id();
    let mut halt = Halt {
        network,
        author,
        nonce: 1,
        reason: "smoke".into(),
        advisory_time: 0,
        signature: [0; 64],
    };
    halt.signature = key.sign(&halt.body()).to_bytes();
    let halted = running.under(fold(&genesis, &Records::from_iter([halt])));
    (running, halted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Whatever comes, in whatever order: no panic, one end for each accepted request and nothing
    /// after it, and when everybody has left nothing is left behind.
    #[test]
    fn any_sequence_of_inputs_keeps_the_books(sequence in prop::collection::vec(acts(), 0..250)) {
        let (running, halted) = running_and_halted();
        let mut node = Node::new(MeshConfig::default(), running.clone());
        let mut out = Vec::new();
        let mut open: BTreeMap<SessionId, bool> = BTreeMap::new();
        for (time, act) in (0u64..).zip(&sequence) {
            let now = Micros(time * 1000);
            match act {
                Act::Submit { session, grammar, mesh } => {
                    let permit = if *mesh { running.mesh().unwrap() } else { running.local() };
                    let mut request = request(u128::from(*session), permit);
                    request.spec.grammar = *grammar;
                    if node.submit(now, request, &mut out).is_ok() {
                        open.insert(SessionId(u128::from(*session)), true);
                    }
                }
                Act::ExpertGone => node.handle(now, Input::Left { expert: E, why: "gone".into() }, &mut out),
                other => node.handle(now, input_of(other, &halted).unwrap(), &mut out),
            }
            for output in out.drain(..) {
                let Output::Event { session, event } = output else { continue };
                let alive = open.get_mut(&session).unwrap();
                prop_assert!(*alive, "an event after the end");
                *alive = !matches!(event, Event::Finished { .. });
            }
            let alive = open.values().filter(|alive| **alive).count();
            // A waiting request that its client cancelled ends in silence: nobody listens.
            prop_assert!(alive >= node.running() + node.waiting());
        }
        for session in 0..40 {
            node.handle(Micros(1 << 40), Input::Cancel { session: SessionId(session) }, &mut out);
        }
        prop_assert_eq!((node.running(), node.waiting()), (0, 0));
    }
}

#[test]
fn k_is_what_the_mesh_has_voted_for() {
    let mut node = node();
    let person = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    let config = MeshConfig::default().with(Key::RouterK, 2).unwrap();
    let config = config.with(Key::RouterSpares, 0).unwrap();
    let genesis = Genesis::new(vec![person], config).unwrap();
    let rights = Rights::alone().under(fold(&genesis, &Records::default()));
    let mut out = Vec::new();
    node.handle(Micros(0), Input::Rights(rights.clone()), &mut out);
    let mesh = |session| Request {
        experts: Experts::Mesh {
            local: None,
            sets: Sets::A,
            k_max: None,
        },
        ..request(session, rights.mesh().unwrap())
    };
    for n in 1..=5 {
        let introduced = Introduced {
            expert: ExpertId([n; 32]),
            peer: Some([n; 32]),
            vocabulary: mesh(0).vocab.fingerprint(),
            context: 16,
            admitted: true,
            file: None,
        };
        node.handle(Micros(0), Input::Met(introduced), &mut out);
    }
    let opened = |out: &[Output]| {
        let opens = |o: &&Output| matches!(o, Output::ToExpert(_, ExpertOp::Open(_)));
        out.iter().filter(opens).count()
    };
    node.submit(Micros(1), mesh(1), &mut out).unwrap();
    assert_eq!(opened(&out), 2);
    // Out of the mesh, the node's own settings hold again.
    node.handle(Micros(2), Input::Rights(Rights::alone()), &mut out);
    assert_eq!(node.config, node.config_alone);
}
