//! Who is let in.

use crate::server::{Server, start, start_with};
use quorate::api;
use quorate::expert::stub::StubOptions;
use std::sync::Arc;
use tokio::net::TcpListener;

async fn status(server: &Server, host: &str, more: &str) -> u16 {
    let head =
        format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
    server.send(&head).await.status
}

#[tokio::test]
async fn a_rebound_name_is_refused() {
    let server = start_with(StubOptions::default(), |state| {
        state.allowed_hosts = Arc::from(["box.lan".to_string()]);
    });
    let server = server.await;
    for host in ["localhost:7867", "127.0.0.1", "[::1]:1", "box.lan:80"] {
        assert_eq!(status(&server, host, "").await, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:7867",
        "localhost.evil.example",
        "",
    ] {
        assert_eq!(status(&server, host, "").await, 403, "{host}");
    }
    let reply =
        server.send("GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
    assert_eq!(reply.await.error()["code"], "forbidden_host");
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_unless_named() {
    let server = start_with(StubOptions::default(), |state| {
        state.allowed_origins = Arc::from(["https://chat.example".to_string()]);
    });
    let server = server.await;
    let origin =
        async |origin: &str| status(&server, "localhost", &format!("origin: {origin}\r\n")).await;
    assert_eq!(origin("http://localhost:3000").await, 200);
    assert_eq!(origin("https://chat.example").await, 200);
    for other in [
        "https://evil.example",
        "null",
        "file://localhost",
        "https://chat.example.evil.example",
    ] {
        assert_eq!(origin(other).await, 403, "{other}");
    }
    let more = "origin: https://chat.example\r\naccess-control-request-method: POST\r\n";
    let preflight = server
        .send(&server.head("OPTIONS", "/v1/chat/completions", more))
        .await;
    assert_eq!(preflight.status, 204);
    assert!(
        preflight
            .head
            .contains("access-control-allow-origin: https://chat.example")
    );
    let local = server
        .send(&server.head("GET", "/v1/models", "origin: http://localhost:3000\r\n"))
        .await;
    assert!(
        !local.head.contains("access-control"),
        "no CORS unless configured"
    );
}

#[tokio::test]
async fn a_key_opens_everything_but_health() {
    let server = start_with(StubOptions::default(), |state| {
        state.api_key_hash = Some(*blake3::hash(b"sesame").as_bytes());
    });
    let server = server.await;
    for path in ["/v1/models", "/metrics", "/api/status", "/nothing"] {
        let reply = server.get(path).await;
        assert_eq!(
            (reply.status, reply.error()["code"].as_str()),
            (401, Some("invalid_api_key")),
            "{path}"
        );
    }
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(
        status(&server, "localhost", "authorization: Bearer sesame\r\n").await,
        200
    );
    assert_eq!(
        status(&server, "localhost", "authorization: Bearer sesam\r\n").await,
        401
    );
}

#[tokio::test]
async fn with_a_key_nobody_names_files() {
    let server = start_with(StubOptions::default(), |state| {
        state.api_key_hash = Some(*blake3::hash(b"sesame").as_bytes());
    });
    let server = server.await;
    for path in ["/etc/passwd", "../x.gguf", "~/x", "x.gguf"] {
        let body = format!("{{\"model\":\"{path}\",\"prompt\":\"x\"}}");
        let more = format!(
            "authorization: Bearer sesame\r\ncontent-length: {}\r\n",
            body.len()
        );
        let head = server.head("POST", "/v1/completions", &more);
        let error = server.send(&format!("{head}{body}")).await.error();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("[aliases]"), "{path}: {message}");
    }
}

#[tokio::test]
async fn beyond_loopback_nothing_is_served_without_a_key() {
    let server = start(StubOptions::default()).await;
    let state = server.state();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = api::serve(state, listener, server.stop_api.clone())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("without a key"), "{error}");
}
