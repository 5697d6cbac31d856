//! What a session over the plane is, whatever carries it.

use crate::pair::{Kind, Pair, draft, letterhead, open, soon};
use crate::served::{Door, Served};
use quorate::expert::Expert;
use quorate::expert::stub::{StubExpert, StubOptions};
use quorate::net::frame::PATIENCE;
use quorate::net::plane::Path;
use quorate::net::serve::Ended;
use quorate::wire::plane as wire;
use quorate_core::ids::SessionId;
use quorate_core::limits::SESSIONS_MAX;
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Opinion, Query, Said, Want,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

const SESSION: SessionId = SessionId(1);

/// Every kind of question, and then a text of a few tokens.
fn questions(session: SessionId) -> Vec<ExpertOp> {
    let mut ops = vec![ExpertOp::Open(Box::new(open(session, "hello")))];
    ops.push(draft(session, 5, None));
    ops.push(ExpertOp::Ask {
        session,
        epoch: 0,
        position: 5,
        query: Query {
            want: Want::Scalars(vec![65, 66, 70]),
            raw_top: Some(3),
            ..Query::plain(1.0, 1)
        },
    });
    ops.extend((5..30).map(|at| draft(session, at, Some(64 + at))));
    let branch = |epoch, position| ExpertOp::Branch {
        session,
        epoch,
        position,
        token: 90,
        query: Query::plain(0.9, 20),
    };
    // Two texts beside it, of which one is forgotten and the other one goes on as the text.
    ops.extend([branch(1, 20), branch(2, 25)]);
    ops.push(ExpertOp::Draft {
        session,
        epoch: 1,
        position: 21,
        tokens: vec![91],
        queries: vec![Query::plain(0.9, 20)],
    });
    ops.push(ExpertOp::Forget { session, epoch: 2 });
    ops.push(ExpertOp::Settle { session, epoch: 1 });
    ops.push(ExpertOp::Draft {
        session,
        epoch: 1,
        position: 22,
        tokens: vec![92],
        queries: vec![Query::plain(0.9, 20)],
    });
    ops.push(ExpertOp::Truncate {
        session,
        epoch: 3,
        position: 10,
    });
    ops.push(ExpertOp::Draft {
        session,
        epoch: 3,
        position: 10,
        tokens: vec![70, 71],
        queries: vec![Query::plain(0.9, 20), Query::plain(0.9, 20)],
    });
    ops
}

async fn next(events: &mut mpsc::Receiver<FromExpert>) -> ExpertEvent {
    soon("an event", events.recv())
        .await
        .expect("the expert is there")
        .event
}

/// Asks everything, one question at a time, and drops the sizes.
async fn conversation(
    expert: &dyn Expert,
    events: &mut mpsc::Receiver<FromExpert>,
) -> (Vec<ExpertEvent>, Vec<u32>) {
    let (mut heard, mut sizes) = (Vec::new(), Vec::new());
    for op in questions(SESSION) {
        let answered = !matches!(
            op,
            ExpertOp::Truncate { .. } | ExpertOp::Settle { .. } | ExpertOp::Forget { .. }
        );
        expert.submit(op).unwrap();
        if answered {
            let mut event = next(events).await;
            if let ExpertEvent::Opinions { bytes, .. } = &mut event {
                sizes.push(std::mem::take(bytes));
            }
            heard.push(event);
        }
    }
    (heard, sizes)
}

pub(crate) async fn a_whole_session_is_the_same_as_here(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let (remote, mut events) = pair.expert(served.facts());
    let (there, sizes) = conversation(&*remote, &mut events).await;

    let (events_tx, mut events) = mpsc::channel(64);
    let local = StubExpert::spawn(StubOptions::default(), events_tx).unwrap();
    let (here, none) = conversation(&*local, &mut events).await;
    assert_eq!(there, here);
    assert!(none.iter().all(|size| *size == 0) && sizes.iter().all(|size| *size > 10));

    let status = remote.status();
    assert!(status.bytes_in > sizes.iter().map(|size| u64::from(*size)).sum());
    assert!(status.bytes_out > 1000 && status.sessions == 1);
    assert_eq!(status.rtt.is_some(), kind == Kind::Quic);
    match status.path.expect("a stream stands") {
        Path::Direct(address) => assert!(kind == Kind::Quic && address.ip().is_loopback()),
        Path::Libp2p { relayed } => assert!(kind == Kind::Memory && !relayed),
    }
    remote.submit(ExpertOp::Close { session: SESSION }).unwrap();
    assert_eq!(soon("the end", ended.recv()).await, Some(Ended::Closed));
    gone(&served).await;
}

/// Waits until the node has forgotten all its guests.
async fn gone(served: &Served) {
    let forgotten = async {
        while served.guests() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("guests to be forgotten", forgotten).await;
}

/// As many as the expert takes, all at once: each hears what it would hear alone.
pub(crate) async fn sessions_do_not_hear_each_other(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let (remote, mut events) = pair.expert(served.facts());
    let there = side_by_side(&*remote, &mut events).await;
    let (events_tx, mut events) = mpsc::channel(64);
    let local = StubExpert::spawn(StubOptions::default(), events_tx).unwrap();
    let here = side_by_side(&*local, &mut events).await;
    assert_eq!(there, here);
    let texts: BTreeSet<String> = there.values().map(|said| format!("{said:?}")).collect();
    assert_eq!(texts.len(), SESSIONS_MAX, "no two have the same to say");
    drop(remote);
    for _ in 0..SESSIONS_MAX {
        assert_eq!(soon("the end", ended.recv()).await, Some(Ended::Closed));
    }
}

async fn side_by_side(
    expert: &dyn Expert,
    events: &mut mpsc::Receiver<FromExpert>,
) -> BTreeMap<SessionId, Vec<Opinion>> {
    let sessions: Vec<SessionId> = (1..=SESSIONS_MAX as u128).map(SessionId).collect();
    for session in &sessions {
        let open = open(*session, &format!("{}", session.0));
        expert.submit(ExpertOp::Open(Box::new(open))).unwrap();
    }
    for _ in &sessions {
        assert!(matches!(next(events).await, ExpertEvent::Ready { .. }));
    }
    let mut heard = BTreeMap::<SessionId, Vec<Opinion>>::new();
    for round in 0..25 {
        for session in &sessions {
            let prompt = format!("{}", session.0).len() as u32;
            let token = Some(64 + session.0 as u32);
            expert
                .submit(draft(*session, prompt + round, token))
                .unwrap();
        }
        for _ in &sessions {
            match next(events).await {
                ExpertEvent::Opinions {
                    session, opinions, ..
                } => heard.entry(session).or_default().extend(opinions),
                other => panic!("{other:?}"),
            }
        }
    }
    heard
}

pub(crate) async fn a_refusal_arrives_as_it_was_said(kind: Kind) {
    for why in [
        ExpertFailure::Busy { retry_ms: 1234 },
        ExpertFailure::Refused("not for you".into()),
        ExpertFailure::Gone,
    ] {
        let (served, mut ended) = Served::spawn(Door::Refuse(why.clone()), PATIENCE);
        let pair = Pair::new(kind, served.server());
        let (remote, mut events) = pair.expert(served.facts());
        remote
            .submit(ExpertOp::Open(Box::new(open(SESSION, "x"))))
            .unwrap();
        remote.submit(draft(SESSION, 1, None)).unwrap();
        let session = SESSION;
        assert_eq!(
            next(&mut events).await,
            ExpertEvent::Failed { session, why }
        );
        assert_eq!(soon("the end", ended.recv()).await, Some(Ended::Over));
        assert_eq!(remote.status().sessions, 0);
        remote
            .submit(draft(SESSION, 1, None))
            .expect("it has failed, which was said");
        assert!(events.try_recv().is_err(), "said once");
    }
}

pub(crate) async fn an_expert_that_ends_mid_sentence_is_gone_at_once(kind: Kind) {
    let (served, _ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let (remote, mut events) = pair.expert(served.facts());
    remote
        .submit(ExpertOp::Open(Box::new(open(SESSION, "x"))))
        .unwrap();
    for at in 1..10 {
        remote.submit(draft(SESSION, at, Some(65))).unwrap();
        next(&mut events).await;
    }
    let killed = Instant::now();
    pair.kill_server();
    let mut event = next(&mut events).await;
    while let ExpertEvent::Opinions { .. } = event {
        event = next(&mut events).await;
    }
    let why = ExpertFailure::Gone;
    assert_eq!(
        event,
        ExpertEvent::Failed {
            session: SESSION,
            why
        }
    );
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "{:?}",
        killed.elapsed()
    );
}

pub(crate) async fn dropping_the_expert_closes_its_sessions(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let (remote, mut events) = pair.expert(served.facts());
    remote
        .submit(ExpertOp::Open(Box::new(open(SESSION, "x"))))
        .unwrap();
    next(&mut events).await;
    drop(remote);
    assert_eq!(soon("the end", ended.recv()).await, Some(Ended::Closed));
    gone(&served).await;
    assert_eq!(soon("the last sender", events.recv()).await, None);
}

pub(crate) async fn a_router_that_vanishes_after_open_is_not_waited_for(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Wait, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let mut stream = pair.raw().await;
    let frame = wire::open_frame(&letterhead(), &served.facts().id, &open(SESSION, "x"));
    stream.writer.write_all(&frame.unwrap()).await.unwrap();
    stream.writer.flush().await.unwrap();
    // A connection that closes takes what was not read yet with it: then there is nobody to wait for.
    soon("the visit", served.visited()).await;
    assert!(ended.try_recv().is_err(), "it waits for the model");
    drop(stream);
    assert_eq!(soon("the end", ended.recv()).await, Some(Ended::Closed));
}

/// What the plane adds to one question and its answer, and what they weigh.
pub(crate) async fn bench_round_trip(kind: Kind) {
    const ROUNDS: u32 = 2000;
    let (served, _ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let (remote, mut events) = pair.expert(served.facts());
    let (there, sizes, entries) = paced(remote, &mut events, ROUNDS).await;
    let (events_tx, mut events) = mpsc::channel(64);
    let local = StubExpert::spawn(StubOptions::default(), events_tx).unwrap();
    let (here, ..) = paced(local, &mut events, ROUNDS).await;
    let mean = f64::from(sizes.iter().sum::<u32>()) / f64::from(ROUNDS);
    let most = sizes.iter().max().unwrap();
    println!(
        "{kind:?}: round trip {there:?}, in this process {here:?} (medians); an opinion of {:.1} entries: \
         {mean:.1} B, at most {most} B",
        f64::from(entries) / f64::from(ROUNDS)
    );
    assert!(mean <= 64.0 && *most <= 2048);
}

async fn paced(
    expert: Arc<dyn Expert>,
    events: &mut mpsc::Receiver<FromExpert>,
    rounds: u32,
) -> (Duration, Vec<u32>, u32) {
    expert
        .submit(ExpertOp::Open(Box::new(open(SESSION, "x"))))
        .unwrap();
    next(events).await;
    let (mut took, mut sizes, mut entries) = (Vec::new(), Vec::new(), 0);
    for at in 1..=rounds {
        let began = Instant::now();
        expert.submit(draft(SESSION, at, Some(65))).unwrap();
        let event = next(events).await;
        took.push(began.elapsed());
        let ExpertEvent::Opinions {
            opinions, bytes, ..
        } = event
        else {
            panic!("opinions")
        };
        let Said::List(list) = &opinions[0].said else {
            panic!("a list")
        };
        entries += list.entries.len() as u32;
        sizes.push(bytes);
    }
    took.sort();
    (took[took.len() / 2], sizes, entries)
}
