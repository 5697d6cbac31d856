use super::*;
use crate::generate::Finish;
use crate::governance::{Genesis, Halt, fold};
use crate::law::{Law, ListLaw, Transforms};
use crate::limits::{QUEUE_MAX, SESSIONS_MAX};
use crate::lnp::LnP;
use crate::opinion::{Entry, ExpertEvent, List, Opinion, Said, Scope};
use crate::seeded::Secret;
use crate::vocab::Piece;
use ed25519_dalek::{Signer, SigningKey};

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
        weights: vec![(E, 1.0)],
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
    }];
    let session = SessionId(session);
    Input::FromExpert(FromExpert {
        expert: E,
        event: ExpertEvent::Opinions {
            session,
            epoch: 0,
            opinions,
            compute_us: 0,
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
    let running = Rights::alone().under(fold(&genesis, []));
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
    let halted = running.under(fold(&genesis, [&halt]));
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
    node.on_expert_gone(Micros(1), E, "the model was unloaded", &mut out);
    assert_eq!(
        finished(&out),
        [(1, Finish::Failed("the model was unloaded".into()))]
    );
}
