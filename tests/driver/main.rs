//! The real loop over stub experts: handles, leases, queues, grammars' way through it, shutdown;
//! guests of other nodes in `guests`, what the operator refuses in `policy`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;
mod policy;

use quorate::driver::{
    self, AcquireError, Found, Generation, GenerationStream, Lease, Models, Node, RefusedError,
    Residence,
};
use quorate::expert::stub::{StubExpert, StubOptions};
use quorate_core::chat::Segment;
use quorate_core::config::MeshConfig;
use quorate_core::generate::{Event, Finish};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::limits::{QUEUE_MAX, SESSIONS_MAX, UNREAD_TOKENS_MAX};
use quorate_core::record;
use quorate_core::residency::KeepAlive;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const MB: u64 = 1 << 20;

struct Setup {
    node: Node,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<()>,
}

/// Models "a", "b", "c" take one megabyte each, "big" takes five, "torn" does not load.
fn setup(options: StubOptions, keep_alive: KeepAlive) -> Setup {
    let find = |name: &str| match name {
        "a" | "b" | "c" | "torn" => Ok(Found {
            name: name.into(),
            bytes: MB,
            shared: None,
        }),
        "alias" => Ok(Found {
            name: "a".into(),
            bytes: MB,
            shared: None,
        }),
        "big" => Ok(Found {
            name: "big".into(),
            bytes: 5 * MB,
            shared: None,
        }),
        _ => Err(AcquireError::Unknown {
            name: name.into(),
            near: vec!["a".into()],
        }),
    };
    let load = move |name: &str, events| {
        if name == "torn" {
            return Err("half of it is missing".to_owned());
        }
        let options = StubOptions {
            model: name.into(),
            ..options.clone()
        };
        StubExpert::spawn(options, events).map_err(|e| e.to_string())
    };
    let stop = CancellationToken::new();
    let settings = driver::Settings {
        node_id: "test".into(),
        memory_budget_bytes: 2 * MB,
        keep_alive,
        config: MeshConfig::default(),
    };
    let models = Models {
        find: Arc::new(find),
        load: Arc::new(load),
        offer: Arc::new(guests::offer),
    };
    let (node, done) = driver::start(settings, models, stop.clone());
    Setup { node, stop, done }
}

fn forever(options: StubOptions) -> Setup {
    setup(options, KeepAlive::Forever)
}

async fn generation(lease: &Lease, seed: u64, max_tokens: u32) -> Generation {
    let prompt = lease
        .tokenize(vec![Segment::Text("hello".into())], true)
        .await
        .unwrap();
    let law = Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap();
    Generation {
        prompt,
        law,
        seed,
        choice: 0,
        max_tokens: Some(max_tokens),
        stop: vec![],
        logprobs: None,
        grammar: None,
        asked: quorate::driver::Asked::Own,
        notes: quorate_core::generate::Notes::default(),
    }
}

async fn text_of(mut stream: GenerationStream) -> (String, Finish) {
    let mut text = String::new();
    while let Some(event) = stream.next().await {
        match event {
            Event::Ready { prompt_tokens, .. } => assert_eq!(prompt_tokens, 5),
            Event::Decided(_) => panic!("nobody asked for a recording"),
            Event::Token(token) => text += &token.text,
            Event::Finished {
                why, text: rest, ..
            } => return (text + &rest, why),
        }
    }
    panic!("a stream without an end")
}

async fn say(setup: &Setup, lease: &Lease, seed: u64, max_tokens: u32) -> String {
    let stream = setup
        .node
        .generate(lease, generation(lease, seed, max_tokens).await)
        .await
        .unwrap();
    text_of(stream).await.0
}

/// Waits for a state of the node without guessing at times.
async fn until(node: &Node, mut reached: impl FnMut(&driver::NodeStatus) -> bool) {
    for _ in 0..10_000 {
        if reached(&node.status().await.unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the node never got there: {:?}", node.status().await);
}

#[tokio::test]
async fn the_seed_and_the_text_make_the_answer_alone_or_in_company() {
    let setup = forever(StubOptions::default());
    let lease = setup.node.acquire("alias").await.unwrap();
    assert_eq!(lease.facts().model, "a");
    let alone = say(&setup, &lease, 7, 40).await;
    assert!(!alone.is_empty());
    assert_ne!(alone, say(&setup, &lease, 8, 40).await);
    let crowd: Vec<_> = (0..40u64)
        .map(|n| {
            let (node, lease) = (setup.node.clone(), lease.clone());
            tokio::spawn(async move {
                let seed = if n % 2 == 0 { 7 } else { n };
                text_of(
                    node.generate(&lease, generation(&lease, seed, 40).await)
                        .await
                        .unwrap(),
                )
                .await
                .0
            })
        })
        .collect();
    for (n, answer) in crowd.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        assert!(
            n % 2 == 1 || answer == alone,
            "answer {n} differs in company"
        );
    }
}

#[tokio::test]
async fn what_a_handle_records_is_what_was_said_and_other_handles_record_nothing() {
    let setup = forever(StubOptions::default());
    let lease = setup.node.acquire("a").await.unwrap();
    let (node, tape) = setup.node.recorded();
    for (seed, stop) in [(7, vec![]), (8, vec!["e".to_owned()])] {
        let mut generation = generation(&lease, seed, 40).await;
        generation.stop = stop;
        let mut stream = node.generate(&lease, generation).await.unwrap();
        assert_eq!(tape.take(), None, "it has not ended");
        assert!(stream.next().await.is_some());
        drop(stream);
        let again = self::generation(&lease, seed, 40).await;
        let mut stream = node.generate(&lease, again).await.unwrap();
        let mut text = String::new();
        while let Some(event) = stream.next().await {
            match event {
                Event::Token(token) => text += &token.text,
                Event::Finished { text: rest, .. } => text += &rest,
                Event::Ready { .. } | Event::Decided(_) => {}
            }
        }
        assert_eq!(text, say(&setup, &lease, seed, 40).await);
        let recording = tape.take().unwrap();
        assert_eq!(record::replay(&recording), Ok(text));
        assert_eq!(tape.take(), None);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_everyone_accepted_finishes() {
    let setup = forever(StubOptions {
        end_logit: -30.0,
        step: Duration::from_micros(50),
        ..Default::default()
    });
    let lease = setup.node.acquire("a").await.unwrap();
    let mut streams = Vec::new();
    let mut refused = 0;
    for seed in 0..200 {
        match setup
            .node
            .generate(&lease, generation(&lease, seed, 30).await)
            .await
        {
            Ok(stream) => streams.push(tokio::spawn(text_of(stream))),
            Err(RefusedError::Busy { retry_after_s, .. }) => {
                assert!(retry_after_s >= 1);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(streams.len() >= SESSIONS_MAX + QUEUE_MAX && streams.len() + refused == 200);
    for stream in streams {
        let (text, why) = stream.await.unwrap();
        assert_eq!((text.len(), why), (30, Finish::Length));
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot() {
    let setup = forever(StubOptions {
        end_logit: -30.0,
        step: Duration::from_millis(1),
        ..Default::default()
    });
    let lease = setup.node.acquire("a").await.unwrap();
    let mut stream = setup
        .node
        .generate(&lease, generation(&lease, 1, 4000).await)
        .await
        .unwrap();
    assert!(matches!(stream.next().await, Some(Event::Ready { .. })));
    assert!(matches!(stream.next().await, Some(Event::Token(_))));
    let before = setup.node.status().await.unwrap().running;
    drop(stream);
    until(&setup.node, |s| s.running == 0).await;
    assert_eq!(before, 1);
    // Far fewer than the 4,000 tokens were made.
    assert!(setup.node.status().await.unwrap().generated_tokens < 400);
}

/// Nothing is decided beyond what a client has room for; when it reads, its text goes on.
#[tokio::test]
async fn a_client_that_reads_late_is_waited_for() {
    let setup = forever(StubOptions {
        end_logit: -30.0,
        ..Default::default()
    });
    let lease = setup.node.acquire("a").await.unwrap();
    let tokens = 4 * UNREAD_TOKENS_MAX;
    let quick = say(&setup, &lease, 7, tokens).await;
    let late = setup
        .node
        .generate(&lease, generation(&lease, 7, tokens).await)
        .await
        .unwrap();
    // While others are served it would overrun its channel, and end, if it were not waited for.
    say(&setup, &lease, 8, tokens).await;
    assert_eq!(setup.node.status().await.unwrap().running, 1);
    assert_eq!(text_of(late).await, (quick, Finish::Length));
}

#[tokio::test]
async fn models_come_and_go_under_the_budget() {
    let setup = forever(StubOptions::default());
    let a = setup.node.acquire("a").await.unwrap();
    let b = setup.node.acquire("b").await.unwrap();
    let error = setup.node.acquire("c").await.err().unwrap();
    assert!(matches!(error, AcquireError::Busy { .. }), "{error}");
    drop(a);
    let c = setup.node.acquire("c").await.unwrap();
    let names =
        |s: &driver::NodeStatus| s.models.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&setup.node.status().await.unwrap()), ["b", "c"]);
    assert!(!say(&setup, &c, 1, 10).await.is_empty());
    assert!(setup.node.unload("b").await && !setup.node.unload("nobody").await);
    assert!(
        !say(&setup, &b, 1, 10).await.is_empty(),
        "a dismissed model stays while it is held"
    );
    drop(b);
    until(&setup.node, |s| names(s) == ["c"]).await;
}

#[tokio::test]
async fn idle_models_leave_by_themselves() {
    let setup = setup(StubOptions::default(), KeepAlive::For(0));
    let lease = setup.node.acquire("a").await.unwrap();
    assert_eq!(
        setup.node.status().await.unwrap().models[0].state,
        Residence::Ready
    );
    drop(lease);
    until(&setup.node, |s| s.models.is_empty()).await;
}

#[tokio::test]
async fn errors_say_which_model_and_why() {
    let setup = forever(StubOptions::default());
    let error = async |name: &'static str| setup.node.acquire(name).await.err().unwrap();
    assert!(matches!(error("nobody").await, AcquireError::Unknown { near, .. } if near == ["a"]));
    assert!(
        matches!(error("big").await, AcquireError::TooLarge { arithmetic, .. } if arithmetic.contains("6 MB"))
    );
    assert!(matches!(error("torn").await, AcquireError::Load { why, .. } if why.contains("half")));
    let lease = setup.node.acquire("a").await.unwrap();
    let mut long = generation(&lease, 1, 10).await;
    long.prompt = vec![65; 5000];
    let refused = setup.node.generate(&lease, long).await.err().unwrap();
    assert_eq!(
        refused,
        RefusedError::PromptTooLong {
            prompt: 5000,
            context: 4096
        }
    );
}

#[tokio::test]
async fn shutdown_ends_every_stream_with_a_reason() {
    let setup = forever(StubOptions {
        end_logit: -30.0,
        step: Duration::from_millis(1),
        ..Default::default()
    });
    let lease = setup.node.acquire("a").await.unwrap();
    let mut streams = Vec::new();
    for seed in 0..20 {
        streams.push(
            setup
                .node
                .generate(&lease, generation(&lease, seed, 4000).await)
                .await
                .unwrap(),
        );
    }
    setup.stop.cancel();
    setup.done.await.unwrap();
    for stream in streams {
        let (_, why) = text_of(stream).await;
        assert_eq!(why, Finish::Cancelled);
    }
    assert_eq!(
        setup.node.acquire("a").await.err(),
        Some(AcquireError::ShuttingDown)
    );
    assert!(setup.node.status().await.is_none());
}
