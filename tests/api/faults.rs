//! Bad input and bad clients.

use crate::server::{endless, first_event, read_reply, start};
use quorate::expert::stub::StubOptions;
use quorate_core::limits::BODY_BYTES_MAX;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn bad_requests_get_400_and_the_parameter() {
    let server = start(StubOptions::default()).await;
    let good = r#""model":"stub","messages":[{"role":"user","content":"x"}]"#;
    let cases = [
        ("{".to_string(), "null", "malformed_request"),
        (String::new(), "null", "malformed_request"),
        ("[1]".to_string(), "null", "malformed_request"),
        (
            format!("{{{good},\"temperature\":NaN}}"),
            "null",
            "malformed_request",
        ),
        (
            format!("{{{good},\"temperature\":\"hot\"}}"),
            "\"temperature\"",
            "malformed_request",
        ),
        (
            format!("{{{good},\"temperature\":-1}}"),
            "\"temperature\"",
            "invalid_value",
        ),
        (format!("{{{good},\"n\":0}}"), "\"n\"", "invalid_value"),
        (
            format!("{{{good},\"suffix\":\"x\"}}"),
            "\"suffix\"",
            "unsupported_parameter",
        ),
        (
            format!("{{{good},\"logit_bias\":{{\"999999\":1}}}}"),
            "\"logit_bias\"",
            "invalid_value",
        ),
        (
            format!("{{{good},\"grammar\":\"root ::= (\"}}"),
            "\"grammar\"",
            "invalid_grammar",
        ),
        (
            r#"{"model":"stub"}"#.to_string(),
            "\"messages\"",
            "missing_required_parameter",
        ),
        (
            r#"{"model":"stub","messages":[{"role":"system","content":"x"}]}"#.to_string(),
            "\"messages\"",
            "invalid_value",
        ),
    ];
    for (body, param, code) in cases {
        let reply = server.post(CHAT, &body).await;
        let error = reply.error();
        assert_eq!(
            (reply.status, error["code"].as_str()),
            (400, Some(code)),
            "{body}"
        );
        assert_eq!(error["param"].to_string(), param, "{body}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let tokens = server
        .post("/v1/completions", r#"{"model":"stub","prompt":[1,258]}"#)
        .await;
    assert_eq!(
        (tokens.status, tokens.error()["param"].as_str()),
        (400, Some("prompt"))
    );
}

#[tokio::test]
async fn a_prompt_too_long_says_both_numbers() {
    let server = start(StubOptions::default()).await;
    let body = serde_json::json!({"model": "stub", "prompt": "x".repeat(5000)});
    let reply = server.post("/v1/completions", &body.to_string()).await;
    let error = reply.error();
    assert_eq!(
        (reply.status, error["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("5000") && message.contains("4096"),
        "{message}"
    );
}

#[tokio::test]
async fn models_that_cannot_answer_say_why() {
    let server = start(StubOptions::default()).await;
    for (model, status, code, hint) in [
        ("stob", 404, "model_not_found", "did you mean stub?"),
        (
            "remote",
            404,
            "model_not_installed",
            "`quorate pull remote`",
        ),
        ("huge", 507, "model_too_large", "--max-memory"),
        ("torn", 500, "model_load_failed", "half of it is missing"),
    ] {
        let body = format!("{{\"model\":\"{model}\",\"prompt\":\"x\"}}");
        let reply = server.post("/v1/completions", &body).await;
        let error = reply.error();
        assert_eq!(
            (reply.status, error["code"].as_str()),
            (status, Some(code)),
            "{model}"
        );
        assert!(error["message"].as_str().unwrap().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_answer_in_the_same_shape() {
    let server = start(StubOptions::default()).await;
    let reply = server.get("/v1/embeddings").await;
    assert_eq!(
        (reply.status, reply.error()["code"].as_str()),
        (404, Some("unknown_url"))
    );
    let reply = server.get(CHAT).await;
    assert_eq!(
        (reply.status, reply.error()["code"].as_str()),
        (405, Some("method_not_allowed"))
    );
    assert!(reply.head.contains("allow: post"));
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_unread() {
    let server = start(StubOptions::default()).await;
    for more in [
        "content-length: 104857600\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let socket = server.connect().await;
        let (mut reading, mut writing) = socket.into_split();
        let head = server.head("POST", CHAT, more);
        let chunked = more.contains("chunked");
        let sender = tokio::spawn(async move {
            writing.write_all(head.as_bytes()).await.unwrap();
            let mut sent = 0;
            let block = if chunked {
                format!("10000\r\n{}\r\n", "x".repeat(1 << 16))
            } else {
                "x".repeat(1 << 16)
            };
            // Until the server has had enough.
            while sent < 100 << 20 && writing.write_all(block.as_bytes()).await.is_ok() {
                sent += 1 << 16;
            }
            sent
        });
        let mut answer = Vec::new();
        // A reset may follow the answer.
        let _ended = reading.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("body_too_large") && answer.contains(&BODY_BYTES_MAX.to_string()));
        let sent = sender.await.unwrap();
        assert!(sent < 50 << 20, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_frees_its_place() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let mut socket = server.ask(4000, true).await;
    first_event(&mut socket).await;
    assert_eq!(server.node.status().await.unwrap().running, 1);
    drop(socket);
    server.until(|status| status.running == 0).await;
    assert!(server.node.status().await.unwrap().generated_tokens < 2000);
    server
        .until_counted("quorate_requests_total{outcome=\"cancelled\"} 1")
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_frees_its_place() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let socket = server.ask(4000, false).await;
    server.until(|status| status.running == 1).await;
    drop(socket);
    server.until(|status| status.running == 0).await;
    assert!(server.node.status().await.unwrap().generated_tokens < 2000);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let server = start(endless()).await;
    let mut silent = server.ask(4000, true).await;
    server.until(|status| status.running == 1).await;
    let short = r#"{"model":"stub","prompt":"x","max_tokens":50}"#;
    let reply = server.post("/v1/completions", short).await;
    assert_eq!(reply.json()["usage"]["completion_tokens"], 50);
    let late = read_reply(&mut silent, Vec::new()).await;
    assert_eq!(
        late.events().last(),
        Some(&"[DONE]"),
        "what it missed was kept for it"
    );
    assert_eq!(late.events().len(), 4002);
}

#[tokio::test]
async fn half_a_request_gets_nothing_and_costs_nothing() {
    let server = start(StubOptions::default()).await;
    let head = server.head("POST", CHAT, "content-length: 50\r\n");
    let mut socket = server.connect().await;
    socket
        .write_all(format!("{head}{{\"model\"").as_bytes())
        .await
        .unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ended = socket.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_stream_that_dies_ends_with_an_error_event() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let mut socket = server.ask(4000, true).await;
    let seen = first_event(&mut socket).await;
    server.stop_node.cancel();
    let reply = read_reply(&mut socket, seen).await;
    let events = reply.events();
    let last: serde_json::Value = serde_json::from_str(events.last().unwrap()).unwrap();
    let message = last["error"]["message"].as_str().unwrap();
    assert!(message.contains("shutting down"), "{message}");
    assert_eq!(last["error"]["code"], "shutting_down");
}

#[tokio::test]
async fn an_answer_cut_by_the_end_of_the_node_is_503_and_not_a_failure() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let mut socket = server.ask(4000, false).await;
    server.until(|status| status.running == 1).await;
    server.stop_node.cancel();
    let reply = read_reply(&mut socket, Vec::new()).await;
    assert_eq!(
        (reply.status, reply.error()["code"].as_str()),
        (503, Some("shutting_down"))
    );
    let later = server.post(
        CHAT,
        r#"{"model":"stub","messages":[{"role":"user","content":"x"}]}"#,
    );
    assert_eq!(later.await.status, 503);
}

#[tokio::test]
async fn the_api_stops_when_told_and_lets_answers_end() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let mut socket = server.ask(300, false).await;
    server.until(|status| status.running == 1).await;
    server.stop_api.cancel();
    assert_eq!(
        read_reply(&mut socket, Vec::new()).await.json()["usage"]["completion_tokens"],
        300
    );
    server.serving.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(server.addr).await.is_err());
}
