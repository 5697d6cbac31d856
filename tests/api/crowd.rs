//! More clients than places.

use crate::server::{endless, start};
use quorate::expert::stub::StubOptions;
use quorate_core::limits::{QUEUE_MAX, SESSIONS_MAX};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_are_answered_or_told_when_to_come_back() {
    let server = Arc::new(
        start(StubOptions {
            step: Duration::from_micros(200),
            ..endless()
        })
        .await,
    );
    // All requests arrive while the first ones are far from done.
    let clients: Vec<_> = (0..200)
        .map(|seed| {
            let server = server.clone();
            let body = format!(
                "{{\"model\":\"stub\",\"prompt\":\"x\",\"max_tokens\":100,\"seed\":{seed}}}"
            );
            tokio::spawn(async move { server.post("/v1/completions", &body).await })
        })
        .collect();
    let (mut answered, mut refused) = (0, 0);
    for client in clients {
        let reply = client.await.unwrap();
        if reply.status == 200 {
            assert_eq!(
                reply.json()["choices"][0]["text"].as_str().unwrap().len(),
                100
            );
            answered += 1;
        } else {
            assert_eq!(
                (reply.status, reply.error()["code"].as_str()),
                (429, Some("busy"))
            );
            let after = reply
                .head
                .lines()
                .find_map(|l| l.strip_prefix("retry-after: "))
                .unwrap();
            assert!(after.trim().parse::<u32>().unwrap() >= 1);
            refused += 1;
        }
    }
    assert!(
        answered >= SESSIONS_MAX + QUEUE_MAX,
        "{answered} answered, {refused} refused"
    );
    server
        .until(|status| status.running + status.waiting == 0)
        .await;
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_request_with_many_choices_is_taken_whole_or_not_at_all() {
    let server = Arc::new(
        start(StubOptions {
            step: Duration::from_millis(1),
            ..endless()
        })
        .await,
    );
    let prompts = vec!["x"; 16];
    let many =
        serde_json::json!({"model": "stub", "prompt": prompts, "max_tokens": 4000}).to_string();
    let full: Vec<_> = (0..(SESSIONS_MAX + QUEUE_MAX) / 16)
        .map(|_| {
            let (server, many) = (server.clone(), many.clone());
            tokio::spawn(async move { server.post("/v1/completions", &many).await })
        })
        .collect();
    server
        .until(|status| status.running + status.waiting == SESSIONS_MAX + QUEUE_MAX)
        .await;
    assert_eq!(server.post("/v1/completions", &many).await.status, 429);
    full.iter().for_each(tokio::task::JoinHandle::abort);
    server
        .until(|status| status.running + status.waiting == 0)
        .await;
}
