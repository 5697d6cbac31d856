//! Requests on experts of other nodes, which no lease names.

use super::*;
use crate::expert::stub::{StubExpert, StubOptions};
use quorate_core::generate::{Finish, Guessing};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::opinion::Scope;
use quorate_core::seeded::Secret;

fn start_alone() -> (Node, CancellationToken) {
    let settings = Settings {
        node_id: "test".into(),
        memory_budget_bytes: 0,
        keep_alive: KeepAlive::Forever,
        config: MeshConfig::default(),
    };
    let models = Models {
        find: Arc::new(|name| {
            let (name, near) = (name.to_owned(), Vec::new());
            Err(AcquireError::Unknown { name, near })
        }),
        load: Arc::new(|_, _| Err("nothing is loaded here".into())),
        offer: Arc::new(|_| None),
    };
    let stop = CancellationToken::new();
    (start(settings, models, stop.clone()).0, stop)
}

/// A request on this expert alone; its events.
async fn submit(node: &Node, expert: &Arc<dyn Expert>, session: u128) -> mpsc::Receiver<Event> {
    let facts = expert.facts();
    let (events_tx, events) = mpsc::channel(256);
    let (reply, answer) = oneshot::channel();
    let submission = Submission {
        model: "afar".into(),
        spec: Spec {
            session: SessionId(session),
            scope: Scope::OWNER,
            prompt: vec![65, 66],
            law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
            secret: Secret::from_seed(1, 0),
            max_tokens: 50,
            stop: vec![],
            logprobs: None,
            grammar: false,
            context: facts.context,
            guessing: Guessing::Never,
            paced: false,
            notes: quorate_core::generate::Notes::default(),
        },
        vocab: facts.vocab.clone(),
        experts: node::Experts::These(vec![(facts.id, 1.0)]),
        matcher: None,
        events: events_tx,
        reply,
    };
    let command = Command::Submit(Box::new(submission));
    node.commands.send(command).await.ok().unwrap();
    answer.await.unwrap().unwrap();
    events
}

async fn finish(mut events: mpsc::Receiver<Event>) -> (usize, Finish) {
    let mut tokens = 0;
    while let Some(event) = events.recv().await {
        match event {
            Event::Finished { why, .. } => return (tokens, why),
            Event::Token(_) => tokens += 1,
            Event::Ready { .. } | Event::Decided(_) => {}
        }
    }
    panic!("a stream without an end")
}

fn far(node: &Node, step: Duration) -> Arc<dyn Expert> {
    let options = StubOptions {
        model: "far".into(),
        step,
        end_logit: -30.0,
        ..StubOptions::default()
    };
    StubExpert::spawn(options, node.expert_events()).unwrap()
}

#[tokio::test]
async fn a_request_runs_on_an_adopted_expert_and_ends_when_it_is_lost() {
    let (node, _stop) = start_alone();
    let quick = far(&node, Duration::ZERO);
    let before = finish(submit(&node, &quick, 1).await).await;
    assert!(matches!(&before.1, Finish::Failed(why) if why.contains("gone")));
    node.adopt(quick.clone()).await.unwrap();
    let whole = finish(submit(&node, &quick, 2).await).await;
    assert_eq!(whole, (50, Finish::Length));
    // It comes back with a new connection, and is lost in the middle of an answer.
    let slow = far(&node, Duration::from_millis(20));
    node.adopt(slow.clone()).await.unwrap();
    let mut events = submit(&node, &slow, 3).await;
    while !matches!(events.recv().await, Some(Event::Token(_))) {}
    assert!(node.lose(slow.facts().id, "its node left").await);
    let (tokens, why) = finish(events).await;
    assert!(tokens < 49);
    assert_eq!(why, Finish::Failed("its node left".into()));
}
