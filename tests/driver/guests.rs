//! Sessions of other people's routers on the experts of a node.

use super::{Setup, forever, generation, setup, text_of, until};
use quorate::driver::{Answers, Guest, Offer};
use quorate::expert::Expert;
use quorate::expert::stub::{StubExpert, StubOptions};
use quorate::wire::plane::Purpose;
use quorate_core::config::MeshConfig;
use quorate_core::donor::{Closed, Donor};
use quorate_core::generate::Finish;
use quorate_core::governance::{About, Decision, Genesis, Halted, Noted, Records, Rights, fold};
use quorate_core::host::Allow;
use quorate_core::ids::{ExpertId, PeerKey, SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::limits::{GUEST_EVENTS_MAX, SESSIONS_MAX};
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Open, Opinion, Query, Said, Scope,
};
use quorate_core::residency::KeepAlive;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(super) const ADA: PeerKey = [1; 32];
pub(super) const BEN: PeerKey = [2; 32];

pub(super) fn id(name: &str) -> ExpertId {
    ExpertId(*blake3::hash(name.as_bytes()).as_bytes())
}

/// "a" is for everybody, "b" for Ada, "c" for its owner alone.
pub(super) fn offer(expert: ExpertId) -> Option<Offer> {
    let allow = match expert {
        _ if expert == id("a") => ("a", Allow::Mesh),
        _ if expert == id("b") => ("b", Allow::Listed(BTreeSet::from([ADA]))),
        _ => return None,
    };
    Some(Offer {
        id: expert,
        name: allow.0.to_owned(),
        allow: allow.1,
        answers: Answers::Model,
    })
}

fn rights() -> Rights {
    let key = libp2p_identity::Keypair::generate_ed25519();
    let key = key.public().try_into_ed25519().unwrap().to_bytes();
    let genesis = Genesis::new(vec![key], MeshConfig::default()).unwrap();
    Rights::alone().under(fold(&genesis, &Records::default()))
}

async fn in_a_mesh(setup: Setup) -> Setup {
    setup.node.set_rights(rights()).await;
    setup
}

/// Never ends by itself.
pub(super) fn endless() -> StubOptions {
    StubOptions {
        end_logit: -30.0,
        ..StubOptions::default()
    }
}

const PROMPT: [Token; 5] = [104, 101, 108, 108, 111];

pub(super) fn open() -> Open {
    Open {
        session: SessionId(77),
        scope: Scope::OWNER,
        prompt: PROMPT.to_vec(),
        answered: vec![],
        transforms: Transforms::NEUTRAL,
        score: false,
        path: vec![],
    }
}

fn draft(position: usize, tokens: &[Token]) -> ExpertOp {
    ExpertOp::Draft {
        session: SessionId(77),
        epoch: 0,
        position: position as u32,
        tokens: tokens.to_vec(),
        queries: vec![Query::plain(0.999, 256)],
    }
}

async fn visit(setup: &Setup, peer: PeerKey) -> Result<Guest, ExpertFailure> {
    setup.node.guest(peer, id("a"), Purpose::User, open()).await
}

async fn opinion(guest: &mut Guest) -> Opinion {
    loop {
        match guest.events.recv().await.expect("an answer") {
            ExpertEvent::Opinions {
                session,
                mut opinions,
                ..
            } => {
                assert_eq!(session, SessionId(77), "by the peer's own name");
                return opinions.remove(0);
            }
            ExpertEvent::Failed { why, .. } => panic!("{why}"),
            _ => {}
        }
    }
}

fn best(opinion: &Opinion) -> Token {
    let Said::List(list) = &opinion.said else {
        panic!("asked for a list")
    };
    let best = list.entries.iter().max_by_key(|e| (e.ln_p, e.token));
    best.expect("a list says something").token
}

#[tokio::test]
async fn a_guest_hears_what_the_expert_says_to_anybody() {
    let setup = in_a_mesh(forever(endless())).await;
    let mut guest = visit(&setup, ADA).await.unwrap();
    let status = setup.node.status().await.unwrap();
    assert_eq!((status.models[0].hosted, status.models[0].running), (1, 0));
    assert_eq!((status.guests[0].peer, status.guests[0].running), (ADA, 1));
    guest.ops.send(draft(5, &[])).await.unwrap();
    let mut said = Vec::new();
    for position in 5..25 {
        let heard = opinion(&mut guest).await;
        assert_eq!(heard.position as usize, position);
        said.push(best(&heard));
        let next = draft(position, &said[said.len() - 1..]);
        guest.ops.send(next).await.unwrap();
    }
    // The same from an expert of the same name that has nobody between.
    let (events_tx, mut events) = mpsc::channel(64);
    let options = StubOptions {
        model: "a".into(),
        ..endless()
    };
    let direct = StubExpert::spawn(options, events_tx).unwrap();
    direct.submit(ExpertOp::Open(Box::new(open()))).unwrap();
    direct.submit(draft(5, &[])).unwrap();
    for (position, token) in (5..25).zip(&said) {
        let opinions = loop {
            let FromExpert { event, .. } = events.recv().await.unwrap();
            if let ExpertEvent::Opinions { opinions, .. } = event {
                break opinions;
            }
        };
        assert_eq!(best(&opinions[0]), *token, "at {position}");
        direct.submit(draft(position, &[*token])).unwrap();
    }
    let status = setup.node.status().await.unwrap();
    assert!(status.guests[0].opinions >= 20);
    guest
        .ops
        .send(ExpertOp::Close {
            session: SessionId(1),
        })
        .await
        .unwrap();
    let rest = async { while guest.events.recv().await.is_some() {} };
    rest.await; // the channel ends
    until(&setup.node, |s| s.guests.is_empty()).await;
}

#[tokio::test]
async fn a_guest_that_is_dropped_ends_and_lets_the_model_go() {
    let setup = in_a_mesh(setup(endless(), KeepAlive::For(0))).await;
    let guest = visit(&setup, ADA).await.unwrap();
    // The model is kept for the guest, whatever keep-alive says.
    setup.node.unload("a").await;
    assert_eq!(setup.node.status().await.unwrap().models[0].hosted, 1);
    drop(guest);
    until(&setup.node, |s| s.models.is_empty() && s.guests.is_empty()).await;
}

#[tokio::test]
async fn a_guest_that_does_not_listen_is_cut_off() {
    let setup = in_a_mesh(forever(endless())).await;
    let mut guest = visit(&setup, ADA).await.unwrap();
    // Questions that cost nothing, and answers that nobody takes.
    guest.ops.send(draft(5, &[])).await.unwrap();
    opinion(&mut guest).await;
    let ask = || ExpertOp::Ask {
        session: SessionId(0),
        epoch: 0,
        position: 5,
        query: Query::plain(0.999, 256),
    };
    for _ in 0..GUEST_EVENTS_MAX + 1 {
        let heard = setup.node.status().await.unwrap();
        let heard = heard.guests.first().map_or(0, |g| g.opinions);
        guest.ops.send(ask()).await.unwrap();
        // One at a time, so that it is not the flood that ends it.
        until(&setup.node, |s| {
            s.guests.first().is_none_or(|g| g.opinions > heard)
        })
        .await;
    }
    until(&setup.node, |s| s.guests.is_empty()).await;
    let mut left = 0;
    while let Some(event) = guest.events.recv().await {
        assert!(matches!(event, ExpertEvent::Opinions { .. }), "{event:?}");
        left += 1;
    }
    assert_eq!(left, GUEST_EVENTS_MAX);
}

#[tokio::test]
async fn the_owner_comes_first_and_the_others_are_told_when_to_come_back() {
    let setup = in_a_mesh(forever(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    }))
    .await;
    let room = SESSIONS_MAX - SESSIONS_MAX / 8;
    let mut guests = Vec::new();
    for n in 0..room {
        let peer = if n % 2 == 0 { ADA } else { BEN };
        guests.push(visit(&setup, peer).await.unwrap());
    }
    // Nobody knows yet how long sessions take, so the guess of 5 s counts: five may wait.
    let mut waiting = Vec::new();
    let retry_ms = loop {
        match visit(&setup, ADA).await {
            Ok(guest) => waiting.push(guest),
            Err(ExpertFailure::Busy { retry_ms }) => break retry_ms,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(
        waiting.len() < 8 && (2_000..=4_000).contains(&retry_ms),
        "{} {retry_ms}",
        waiting.len()
    );
    let lease = setup.node.acquire("a").await.unwrap();
    let mut answers = Vec::new();
    for seed in 0..SESSIONS_MAX as u64 {
        let generation = generation(&lease, seed, 20).await;
        answers.push(setup.node.generate(&lease, generation).await.unwrap());
        let status = setup.node.status().await.unwrap();
        assert_eq!(
            status.waiting, 0,
            "no request of the owner waits for guests"
        );
        assert!(status.models[0].running + status.models[0].hosted <= SESSIONS_MAX);
    }
    for answer in answers {
        assert_eq!(text_of(answer).await.1, Finish::Length);
    }
    let mut told = 0;
    for mut guest in guests {
        while let Ok(event) = guest.events.try_recv() {
            told += usize::from(matches!(
                event,
                ExpertEvent::Failed {
                    why: ExpertFailure::Busy { .. },
                    ..
                }
            ));
        }
    }
    assert!(told > room / 2, "{told}");
}

#[tokio::test]
async fn who_may_not_ask_is_told_why() {
    let setup = forever(endless());
    let why = async |peer, expert| match setup.node.guest(peer, expert, Purpose::User, open()).await
    {
        Err(ExpertFailure::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(why(ADA, id("a")).await.contains("no mesh"));
    setup.node.set_rights(rights()).await;
    assert!(why(ADA, id("c")).await.contains("no such expert"));
    assert!(why(BEN, id("b")).await.contains("only peers"));
    let mut guest = setup
        .node
        .guest(ADA, id("b"), Purpose::User, open())
        .await
        .unwrap();
    // Its place in the mesh is gone: so is the session.
    setup.node.expel(ADA, "the admission was revoked").await;
    loop {
        match guest.events.recv().await.unwrap() {
            ExpertEvent::Failed { why, .. } => {
                assert!(why.to_string().contains("revoked"));
                break;
            }
            event => assert!(matches!(event, ExpertEvent::Ready { .. })),
        }
    }
    assert!(guest.events.recv().await.is_none());
}

#[tokio::test]
async fn a_paused_node_loads_nothing_for_others_and_goes_on_for_its_owner() {
    let setup = in_a_mesh(forever(endless())).await;
    let mut guest = visit(&setup, ADA).await.unwrap();
    setup.node.pause(true).await;
    let failed = loop {
        match guest.events.recv().await.unwrap() {
            ExpertEvent::Failed { why, .. } => break why,
            _ => continue,
        }
    };
    assert_eq!(failed, ExpertFailure::Busy { retry_ms: 60_000 });
    assert_eq!(visit(&setup, ADA).await.unwrap_err(), failed);
    assert_eq!(
        setup
            .node
            .guest(ADA, id("b"), Purpose::User, open())
            .await
            .unwrap_err(),
        failed
    );
    let status = setup.node.status().await.unwrap();
    assert_eq!((status.paused, status.closed), (true, Some(Closed::Paused)));
    assert_eq!(status.models.len(), 1, "b was not loaded");
    let lease = setup.node.acquire("a").await.unwrap();
    let generation = generation(&lease, 1, 5).await;
    let answer = setup.node.generate(&lease, generation).await.unwrap();
    assert_eq!(text_of(answer).await.1, Finish::Length);
    // Settings that come later do not end a pause.
    setup.node.donate(Donor::default()).await;
    assert!(visit(&setup, ADA).await.is_err());
    setup.node.pause(false).await;
    visit(&setup, ADA).await.unwrap();
}

#[tokio::test]
async fn experts_of_other_nodes_come_and_go() {
    let setup = in_a_mesh(forever(endless())).await;
    let lease = setup.node.acquire("a").await.unwrap();
    let remote = |model: &str| {
        let options = StubOptions {
            model: model.into(),
            ..endless()
        };
        StubExpert::spawn(options, setup.node.expert_events()).unwrap()
    };
    setup.node.adopt(remote("far")).await.unwrap();
    setup.node.adopt(remote("far")).await.unwrap(); // a new connection
    let clash: Arc<dyn Expert> = remote("a");
    let why = setup.node.adopt(clash).await.unwrap_err().to_string();
    assert!(why.contains("of this node"), "{why}");
    assert_eq!(setup.node.status().await.unwrap().remote_experts, 1);
    // What nobody asked for is nobody's.
    let stray = ExpertEvent::Failed {
        session: SessionId(5),
        why: ExpertFailure::Gone,
    };
    let from = |expert, event| FromExpert { expert, event };
    let events = setup.node.expert_events();
    events.send(from(id("far"), stray)).await.unwrap();
    assert!(
        !setup.node.lose(lease.facts().id, "x").await,
        "not a remote one"
    );
    assert!(setup.node.lose(id("far"), "its node left").await);
    assert!(!setup.node.lose(id("far"), "its node left").await);
    assert_eq!(setup.node.status().await.unwrap().remote_experts, 0);
}

#[tokio::test]
async fn nothing_is_left_after_a_thousand_guests() {
    let setup = in_a_mesh(forever(endless())).await;
    for n in 0..1_000_u32 {
        let mut peer = ADA;
        peer[..4].copy_from_slice(&n.to_le_bytes());
        let mut guest = visit(&setup, peer).await.unwrap();
        guest.ops.send(draft(5, &[])).await.unwrap();
        match n % 3 {
            // Left while a question is under way, after its answer, or with a goodbye. A session
            // that stayed at the expert would make it refuse the seventeenth.
            0 => {}
            1 => drop(opinion(&mut guest).await),
            _ => {
                let close = ExpertOp::Close {
                    session: SessionId(0),
                };
                guest.ops.send(close).await.unwrap();
            }
        }
    }
    until(&setup.node, |s| s.guests.is_empty()).await;
    setup.node.unload("a").await;
    until(&setup.node, |s| s.models.is_empty()).await;
}

#[tokio::test]
async fn every_decision_about_a_guest_is_noted_with_the_standing_that_decided() {
    let setup = forever(endless());
    let (notes, mut heard) = mpsc::channel(16);
    setup.node.set_audit(Some(notes)).await;
    let rights = rights();
    let state = rights.standing().unwrap().hash();
    setup.node.set_rights(rights).await;
    let guest = visit(&setup, ADA).await.unwrap();
    setup.node.set_rights(Rights::booting()).await;
    assert!(visit(&setup, BEN).await.is_err());
    setup.node.set_audit(None).await;
    let about = About::Guest;
    let why = Halted::Booting.to_string();
    for (decision, standing) in [
        (Decision::granted(about(ADA)), state),
        (Decision::taken_back(about(ADA), &why), [0; 32]),
        (Decision::refused(about(BEN), &why), [0; 32]),
    ] {
        let noted = heard.recv().await.unwrap();
        assert_eq!(noted, (Noted::Decided(decision), standing));
    }
    assert!(heard.recv().await.is_none());
    drop(guest);
}
