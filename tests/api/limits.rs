//! Clients that hold a place without asking for anything, and more of them than there are places.

use crate::server::{Server, endless, first_event, read_reply, start_with};
use quorate::api::Limits;
use quorate::expert::stub::StubOptions;
use quorate_core::limits::API_CONNECTIONS_MAX;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PLACES: usize = 4;
/// Long enough for a loopback round trip on a busy machine.
const PATIENCE: Duration = Duration::from_millis(400);

async fn server(limits: Limits) -> Server {
    let options = StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    };
    start_with(options, |state| state.limits = limits).await
}

fn impatient() -> Limits {
    Limits {
        head: PATIENCE,
        body: PATIENCE,
        ..Limits::default()
    }
}

/// Waits until the server closes; says how long that took and what came before.
async fn closed(socket: &mut TcpStream) -> (Duration, String) {
    let began = Instant::now();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut bytes));
    // A reset is an end, too.
    let _ended = ended.await.expect("the server closes");
    (
        began.elapsed(),
        String::from_utf8_lossy(&bytes).into_owned(),
    )
}

#[test]
fn a_node_has_the_limits_that_are_written_down() {
    let limits = Limits::default();
    assert_eq!(limits.connections, API_CONNECTIONS_MAX);
    let half_a_minute = Duration::from_secs(30);
    assert_eq!((limits.head, limits.body), (half_a_minute, half_a_minute));
}

#[tokio::test]
async fn beyond_the_last_place_clients_wait_and_are_answered_when_one_is_free() {
    let server = server(Limits {
        connections: PLACES,
        ..Limits::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..PLACES - 1 {
        held.push(server.connect().await);
    }
    // The last place still answers.
    assert_eq!(server.get("/health").await.status, 200);
    let mut last = server.ask(4000, true).await;
    let seen = first_event(&mut last).await;
    let mut waiting = server.connect().await;
    let request = server.head("GET", "/health", "");
    waiting.write_all(request.as_bytes()).await.unwrap();
    let early = tokio::time::timeout(PATIENCE, waiting.readable()).await;
    assert!(early.is_err(), "there is no place, and yet an answer");
    held.pop();
    assert_eq!(read_reply(&mut waiting, Vec::new()).await.status, 200);
    let whole = read_reply(&mut last, seen).await;
    assert_eq!(
        whole.events().last(),
        Some(&"[DONE]"),
        "nobody was thrown out"
    );
}

#[tokio::test]
async fn who_asks_for_nothing_is_shown_out() {
    let server = server(impatient()).await;
    let host = server.addr;
    for said in [
        String::new(),
        "GET /health HT".to_owned(),
        format!("GET /health HTTP/1.1\r\nhost: {host}\r\n"),
        "PRI * HTTP/2.0\r\n".to_owned(),
    ] {
        let mut socket = server.connect().await;
        socket.write_all(said.as_bytes()).await.unwrap();
        let (took, answer) = closed(&mut socket).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{said:?}: {answer}");
        assert!(took >= PATIENCE / 2, "{said:?} had {took:?}");
    }
}

#[tokio::test]
async fn between_two_requests_the_same_patience_holds() {
    let server = server(impatient()).await;
    let request = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.addr);
    let mut socket = server.connect().await;
    for _ in 0..2 {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut byte = [0];
        socket.read_exact(&mut byte).await.unwrap();
    }
    let (took, rest) = closed(&mut socket).await;
    assert!(rest.contains("200 OK"), "the second answer came: {rest}");
    assert!(took >= PATIENCE / 2, "{took:?}");
}

#[tokio::test]
async fn a_long_answer_is_not_silence() {
    let server = server(impatient()).await;
    let began = Instant::now();
    let mut socket = server.ask(1500, false).await;
    let reply = read_reply(&mut socket, Vec::new()).await;
    assert!(began.elapsed() > 2 * PATIENCE, "it was long");
    assert_eq!(reply.json()["usage"]["completion_tokens"], 1500);
}

#[tokio::test]
async fn half_a_body_is_waited_for_and_then_refused() {
    let server = server(impatient()).await;
    let head = server.head("POST", "/v1/completions", "content-length: 50\r\n");
    let mut socket = server.connect().await;
    socket
        .write_all(format!("{head}{{\"model\"").as_bytes())
        .await
        .unwrap();
    let began = Instant::now();
    let reply = read_reply(&mut socket, Vec::new()).await;
    assert!(began.elapsed() >= PATIENCE / 2);
    assert_eq!(
        (reply.status, reply.error()["code"].as_str()),
        (408, Some("body_timeout"))
    );
    assert!(reply.head.contains("connection: close"));
    assert_eq!(server.get("/health").await.status, 200);
}
