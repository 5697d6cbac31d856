//! The node's own pages.

use crate::server::{endless, start, start_with};
use quorate::expert::stub::StubOptions;

#[tokio::test]
async fn health_is_about_the_process_and_readiness_about_answers() {
    let server = start(StubOptions::default()).await;
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
    let missing = start_with(StubOptions::default(), |state| {
        state.default_model = Some("remote".into());
    });
    let missing = missing.await;
    assert_eq!(missing.get("/health").await.status, 200);
    let reply = missing.get("/readyz").await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("quorate pull remote"), "{}", reply.body);
    server.stop_node.cancel();
    while server.node.status().await.is_some() {}
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 503);
    let reply = server
        .post("/v1/completions", r#"{"model":"stub","prompt":"x"}"#)
        .await;
    assert_eq!(
        (reply.status, reply.error()["code"].as_str()),
        (503, Some("shutting_down"))
    );
}

#[tokio::test]
async fn status_ps_and_unload_show_and_change_what_is_in_memory() {
    let server = start(StubOptions::default()).await;
    assert_eq!(
        server.get("/api/ps").await.json()["models"],
        serde_json::json!([])
    );
    let body = r#"{"model":"stub","prompt":"x","max_tokens":2}"#;
    assert_eq!(server.post("/v1/completions", body).await.status, 200);
    let ps = server.get("/api/ps").await.json();
    assert_eq!(
        (&ps["models"][0]["name"], &ps["models"][0]["state"]),
        (&"stub".into(), &"ready".into())
    );
    let status = server.get("/api/status").await.json();
    assert_eq!(
        (&status["node_id"], &status["running"]),
        (&"test".into(), &0.into())
    );
    assert!(status["generated_tokens"].as_u64().unwrap() >= 1);
    let unloaded = server
        .post("/api/unload", r#"{"model":"gpt-4o"}"#)
        .await
        .json();
    assert_eq!(
        (&unloaded["model"], &unloaded["unloaded"]),
        (&"stub".into(), &true.into())
    );
    server.until(|status| status.models.is_empty()).await;
    assert_eq!(
        server.post("/api/unload", "{}").await.error()["param"],
        "model"
    );
}

#[tokio::test]
async fn metrics_count_requests_by_outcome_and_tokens() {
    let server = start(endless()).await;
    let good = r#"{"model":"stub","prompt":"hello","max_tokens":7}"#;
    assert_eq!(server.post("/v1/completions", good).await.status, 200);
    assert_eq!(server.post("/v1/completions", "{").await.status, 400);
    assert_eq!(
        server
            .post("/v1/completions", r#"{"model":"secret","prompt":"x"}"#)
            .await
            .status,
        404
    );
    let page = server.get("/metrics").await;
    assert!(page.head.contains("content-type: text/plain"));
    for line in [
        "quorate_requests_total{outcome=\"finished\"} 1",
        "quorate_requests_total{outcome=\"invalid\"} 2",
        "quorate_requests_inflight 0",
        "quorate_prompt_tokens_total 5",
        "quorate_generation_tokens_total 7",
        "quorate_time_to_first_token_seconds_count 1",
        "quorate_inter_token_latency_seconds_count 6",
        "quorate_num_requests_waiting 0",
        "quorate_models_loaded 1",
    ] {
        assert!(
            page.body.contains(line),
            "{line} is missing in\n{}",
            page.body
        );
    }
    assert!(!page.body.contains("secret") && !page.body.contains("hello"));
}
