//! A client of the HTTP listener with nothing in it that could cost time: one socket, one request.

use super::{BenchError, Result, SoloOptions};
use serde_json::json;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Tokens per second after the first, over a streamed completion.
pub(super) async fn decode_tps(
    options: &SoloOptions,
    prompt: &str,
    seed: u64,
    count: usize,
) -> Result<f64> {
    let failed = |error: std::io::Error| BenchError::new("HTTP", error);
    let body = json!({
        "model": options.model, "prompt": prompt, "seed": seed, "max_tokens": count,
        "stream": true, "stream_options": {"include_usage": true},
    })
    .to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        options.api,
        body.len()
    );
    let mut socket = TcpStream::connect(options.api).await.map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    socket.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut lines = BufReader::new(socket).lines();
    let (mut first, mut last, mut tokens, mut seen) = (None, None, 0, String::new());
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        let Some(data) = line.strip_prefix("data: ") else {
            seen = line;
            continue;
        };
        if data == "[DONE]" {
            break;
        }
        let chunk: serde_json::Value =
            serde_json::from_str(data).map_err(|error| BenchError::new("HTTP", error))?;
        if let Some(count) = chunk["usage"]["completion_tokens"].as_u64() {
            tokens = count;
        }
        if chunk["choices"]
            .as_array()
            .is_some_and(|choices| !choices.is_empty())
        {
            let now = Instant::now();
            first.get_or_insert(now);
            last = Some(now);
        }
    }
    match (first, last) {
        (Some(first), Some(last)) if tokens > 1 => {
            Ok(super::rate(tokens as usize - 1, last.duration_since(first)))
        }
        _ => Err(BenchError::new("HTTP", format!("no stream came: {seen}"))),
    }
}
