//! Peers that break the rules, on either end.

use crate::pair::{Kind, Pair, draft, letterhead, open, soon};
use crate::served::{Door, NETWORK, SERVER_KEY, Served, Server};
use quorate::expert::Expert;
use quorate::net::frame::{FrameReader, PATIENCE};
use quorate::net::plane::Stream;
use quorate::net::serve::Ended;
use quorate::wire::plane::{self as wire, LENGTH_BYTES, Letterhead};
use quorate_core::ids::{NetworkId, SessionId};
use quorate_core::limits::{ANSWER_BYTES_MAX, OPEN_BYTES_MAX, QUESTION_BYTES_MAX};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{
    Entry, ExpertEvent, ExpertFailure, ExpertOp, List, Open, Opinion, Query, Said,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const SESSION: SessionId = SessionId(1);

fn open_frame(served: &Served, letterhead: &Letterhead) -> Vec<u8> {
    wire::open_frame(letterhead, &served.facts().id, &open(SESSION, "x")).unwrap()
}

fn op_frame(op: &ExpertOp) -> Vec<u8> {
    wire::op_frame(op).unwrap().unwrap()
}

/// Sends these bytes and reads events until the stream ends.
async fn told(pair: &Pair, bytes: &[u8]) -> Vec<ExpertEvent> {
    let Stream {
        reader,
        mut writer,
        route: _route,
    } = pair.raw().await;
    writer.write_all(bytes).await.unwrap();
    writer.flush().await.unwrap();
    let mut reader = FrameReader::new(reader, PATIENCE);
    let mut events = Vec::new();
    while let Some(frame) = soon("an answer", reader.next(ANSWER_BYTES_MAX))
        .await
        .unwrap()
    {
        events.push(wire::answer(&frame, SESSION, 258).unwrap());
    }
    events
}

fn reason(events: &[ExpertEvent]) -> &str {
    match events.last() {
        Some(ExpertEvent::Failed {
            why: ExpertFailure::Refused(text) | ExpertFailure::Engine(text),
            ..
        }) => text,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn another_mesh_another_version_and_a_circle_are_refused(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let elsewhere = Letterhead {
        network: NetworkId([0; 32]),
        ..letterhead()
    };
    assert_ne!(elsewhere.network, NETWORK);
    let events = told(&pair, &open_frame(&served, &elsewhere)).await;
    assert_eq!(reason(&events), "this node belongs to another mesh");

    let circle = Open {
        path: vec![[1; 32], SERVER_KEY],
        ..open(SESSION, "x")
    };
    let circle = wire::open_frame(&letterhead(), &served.facts().id, &circle).unwrap();
    let events = told(&pair, &circle).await;
    assert_eq!(reason(&events), "the question went round in a circle");

    let mut newer = open_frame(&served, &letterhead());
    let at = newer.windows(2).position(|pair| pair == [8, 1]).unwrap();
    newer[at + 1] = 2; // the first field: the version
    let events = told(&pair, &newer).await;
    assert!(reason(&events).starts_with("version 2 of the token plane"));
    for _ in 0..3 {
        let end = soon("the end", ended.recv()).await;
        assert!(matches!(end, Some(Ended::Broken(_))), "{end:?}");
    }
    assert_eq!(served.guests(), 0);
}

pub(crate) async fn an_oversize_frame_is_refused(kind: Kind) {
    let (served, _ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let too_long = |max: usize| (max as u32 + 1).to_be_bytes();
    let events = told(&pair, &too_long(OPEN_BYTES_MAX)).await;
    assert!(
        reason(&events).contains("1048577 bytes"),
        "{}",
        reason(&events)
    );
    let opened = open_frame(&served, &letterhead());
    let events = told(
        &pair,
        &[&opened[..], &too_long(QUESTION_BYTES_MAX)].concat(),
    )
    .await;
    assert!(
        reason(&events).contains("131073 bytes"),
        "{}",
        reason(&events)
    );
}

pub(crate) async fn an_epoch_that_is_over_is_refused(kind: Kind) {
    let (served, _ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let truncate = ExpertOp::Truncate {
        session: SESSION,
        epoch: 1,
        position: 1,
    };
    let (session, epoch) = (SESSION, 1);
    let late = [
        draft(SESSION, 1, None),
        truncate.clone(),
        // No branch was ever begun.
        ExpertOp::Settle { session, epoch },
        ExpertOp::Forget { session, epoch },
        ExpertOp::Branch {
            session,
            epoch,
            position: 1,
            token: 65,
            query: Query::plain(0.9, 8),
        },
    ];
    for late in late {
        let bytes = [
            open_frame(&served, &letterhead()),
            op_frame(&truncate),
            op_frame(&late),
        ];
        let events = told(&pair, &bytes.concat()).await;
        assert_eq!(reason(&events), "an epoch that is over");
    }
}

pub(crate) async fn a_writer_of_single_bytes_is_served_and_one_that_stalls_is_not(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Open, Duration::from_millis(500));
    let pair = Pair::new(kind, served.server());
    let mut stream = pair.raw().await;
    let question = op_frame(&draft(SESSION, 1, None));
    for byte in [open_frame(&served, &letterhead()), question.clone()].concat() {
        stream.writer.write_all(&[byte]).await.unwrap();
        stream.writer.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut reader = FrameReader::new(stream.reader, PATIENCE);
    let mut next = async || {
        soon("an answer", reader.next(ANSWER_BYTES_MAX))
            .await
            .unwrap()
    };
    let mut event = async || wire::answer(&next().await.unwrap(), SESSION, 258).unwrap();
    assert!(matches!(event().await, ExpertEvent::Ready { .. }));
    assert!(matches!(event().await, ExpertEvent::Opinions { .. }));
    // A silence between two frames is nobody's fault; one within a frame is.
    stream.writer.write_all(&question[..7]).await.unwrap();
    stream.writer.flush().await.unwrap();
    assert!(reason(&[event().await]).contains("took longer"));
    assert!(matches!(
        soon("the end", ended.recv()).await,
        Some(Ended::Broken(_))
    ));
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

pub(crate) async fn a_reader_that_never_reads_is_cut_off(kind: Kind) {
    let (served, mut ended) = Served::spawn(Door::Open, Duration::from_millis(500));
    let pair = Pair::new(kind, served.server());
    let mut stream = pair.raw().await;
    let opened = open_frame(&served, &letterhead());
    stream.writer.write_all(&opened).await.unwrap();
    let ask = op_frame(&ExpertOp::Ask {
        session: SESSION,
        epoch: 0,
        position: 1,
        query: Query {
            raw_top: Some(20),
            ..Query::plain(1.0, 256)
        },
    });
    let before = resident();
    let flood = async {
        loop {
            if stream.writer.write_all(&ask).await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let end = tokio::select! {
        () = flood => None,
        end = soon("to be cut off", ended.recv()) => end,
    };
    assert!(matches!(end, Some(Ended::Deaf | Ended::Over)), "{end:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(stream);
    // And everybody else is served.
    let bytes = [opened, op_frame(&ExpertOp::Close { session: SESSION })].concat();
    told(&pair, &bytes).await;
}

/// 10^5 frames of rubbish, half of them good ones with a few bytes changed, on many streams; then the
/// next router is served as if nothing had been, and nothing is kept of the others.
pub(crate) async fn rubbish_leaves_the_server_working(kind: Kind) {
    const FRAMES: usize = 100_000;
    const FRAMES_PER_STREAM: usize = 100;
    let (served, mut ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(kind, served.server());
    let good = [
        open_frame(&served, &letterhead()),
        op_frame(&draft(SESSION, 1, Some(65))),
        op_frame(&ExpertOp::Close { session: SESSION }),
    ];
    let mut chance = Chance(7);
    let mut before = 0;
    for stream_no in 0..FRAMES / FRAMES_PER_STREAM {
        if stream_no == 100 {
            before = resident(); // buffers have their size
        }
        let mut bytes = Vec::new();
        // Half of the streams open a real session first: its later frames are what is wrong.
        if chance.below(2) == 0 {
            bytes.extend_from_slice(&good[0]);
        }
        for _ in 0..FRAMES_PER_STREAM {
            bytes.extend(rubbish(&mut chance, &good));
        }
        let mut stream = pair.raw().await;
        // The server may have said no, and hung up, after any frame.
        stream.writer.write_all(&bytes).await.ok();
        stream.writer.shutdown().await.ok();
        let mut reader = FrameReader::new(stream.reader, PATIENCE);
        while let Ok(Some(_)) = soon("an answer", reader.next(ANSWER_BYTES_MAX)).await {}
        soon("the end", ended.recv()).await.unwrap();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    let mut stream = pair.raw().await;
    stream.writer.write_all(&good[0]).await.unwrap();
    stream.writer.flush().await.unwrap();
    let mut reader = FrameReader::new(stream.reader, PATIENCE);
    let frame = soon("an answer", reader.next(ANSWER_BYTES_MAX)).await;
    let event = wire::answer(&frame.unwrap().unwrap(), SESSION, 258).unwrap();
    assert!(matches!(event, ExpertEvent::Ready { .. }), "{event:?}");
}

fn rubbish(chance: &mut Chance, good: &[Vec<u8>]) -> Vec<u8> {
    if chance.below(2) == 0 {
        let body: Vec<u8> = (0..chance.below(40))
            .map(|_| chance.below(256) as u8)
            .collect();
        return [&(body.len() as u32).to_be_bytes()[..], &body].concat();
    }
    let mut frame = good[chance.below(good.len())].clone();
    for _ in 0..=chance.below(3) {
        let at = LENGTH_BYTES + chance.below(frame.len() - LENGTH_BYTES);
        frame[at] ^= 1 << chance.below(8);
    }
    frame
}

/// Numbers that are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((self.0 >> 33) % n as u64) as usize
    }
}

fn opinions(epoch: u32, list: List) -> Vec<u8> {
    let opinion = Opinion {
        position: 1,
        said: Said::List(list),
        raw: None,
        scored: Vec::new(),
    };
    let event = ExpertEvent::Opinions {
        session: SESSION,
        epoch,
        opinions: vec![opinion],
        compute_us: 1,
        bytes: 0,
    };
    wire::event_frame(&event).unwrap()
}

fn list(tokens: &[u32], bound: f64) -> List {
    let entry = |&token| Entry {
        token,
        ln_p: LnP::from_wire(9000),
    };
    List {
        entries: tokens.iter().map(entry).collect(),
        bound,
    }
}

pub(crate) async fn an_expert_that_lies_is_ended_with_the_reason(kind: Kind) {
    let ready = wire::event_frame(&ExpertEvent::Ready {
        session: SESSION,
        reused: 0,
        prefill_us: 0,
        branches: 0,
    })
    .unwrap();
    let scored = wire::event_frame(&ExpertEvent::Scored {
        session: SESSION,
        ln_p: vec![],
    })
    .unwrap();
    let fine = opinions(0, list(&[5, 6], 0.0));
    let mut twice = fine.clone();
    let at = twice
        .windows(4)
        .position(|w| w == [5, 0x28, 0x23, 1])
        .unwrap();
    twice[at + 3] = 0; // the step from token 5 to token 6
    let lies: [(Vec<u8>, &str); 9] = [
        (opinions(0, list(&[], f64::NAN)), "not finite"),
        (opinions(0, list(&[258], 0.0)), "outside the vocabulary"),
        (twice, "out of order or twice"),
        (opinions(1, list(&[], 0.0)), "an epoch that has not begun"),
        (
            [&fine[..], &fine].concat(),
            "opinions that nobody asked for",
        ),
        (ready.clone(), "ready twice"),
        (scored, "scores that nobody asked for"),
        (vec![0, 0, 0, 2, 0xff, 0xff], "not a message"),
        (vec![0, 0, 0, 0], "an answer is missing"),
    ];
    let facts = Served::spawn(Door::Open, PATIENCE).0.facts();
    for (lie, why) in lies {
        let answer = Arc::new([ready.clone(), lie].concat());
        let liar: Server = Arc::new(move |_, stream| {
            let answer = answer.clone();
            Box::pin(async move {
                let mut reader = FrameReader::new(stream.reader, PATIENCE);
                let mut writer = stream.writer;
                // After the open and the question: an answer before it would be another lie.
                for _ in 0..2 {
                    reader.next(OPEN_BYTES_MAX).await.unwrap().unwrap();
                }
                writer.write_all(&answer).await.unwrap();
                writer.flush().await.unwrap();
                reader.ended(1 << 20).await;
                drop(stream.route);
            })
        });
        let pair = Pair::new(kind, liar);
        let (remote, mut events) = pair.expert(facts.clone());
        remote
            .submit(ExpertOp::Open(Box::new(open(SESSION, "x"))))
            .unwrap();
        remote.submit(draft(SESSION, 1, None)).unwrap();
        let mut heard = Vec::new();
        while !matches!(heard.last(), Some(ExpertEvent::Failed { .. })) {
            heard.push(soon("an event", events.recv()).await.unwrap().event);
        }
        assert!(
            reason(&heard).contains(why),
            "{} and not {why}",
            reason(&heard)
        );
        assert_eq!(remote.status().sessions, 0);
    }
}
