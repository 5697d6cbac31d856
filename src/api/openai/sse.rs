//! Server-sent events: every token leaves at once, a failure is the last event, silence is filled.

use super::envelope::take;
use crate::api::answer::Answer;
use crate::api::error::ApiError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};
use quorate_core::generate::Event;
use std::time::Duration;

/// How a form of answer writes its events.
pub(super) trait Writer: Send + 'static {
    fn begin(&mut self, answer: &Answer, out: &mut BytesMut);
    fn event(&mut self, answer: &Answer, choice: usize, event: Event, out: &mut BytesMut);
    fn end(&mut self, answer: &mut Answer, out: &mut BytesMut);
}

/// What fails within this time fails with a status code instead of an event.
const HEAD_WAIT: Duration = Duration::from_secs(2);
/// Proxies close connections that are silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A chunk is about 250 bytes; many share one allocation.
const BUFFER_BYTES: usize = 16 << 10;

pub(super) async fn respond(mut answer: Answer, writer: impl Writer) -> Result<Response, ApiError> {
    let first = match tokio::time::timeout(HEAD_WAIT, answer.next()).await {
        Ok(first) => first?,
        Err(_) => None,
    };
    let mut response = Body::from_stream(events(answer, writer, first)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Tells nginx and its like not to gather events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn events(
    mut answer: Answer,
    mut writer: impl Writer,
    first: Option<(usize, Event)>,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    async_stream::stream! {
        let mut out = BytesMut::with_capacity(BUFFER_BYTES);
        writer.begin(&answer, &mut out);
        if let Some((choice, event)) = first {
            writer.event(&answer, choice, event, &mut out);
        }
        loop {
            if !out.is_empty() {
                yield Ok(take(&mut out));
            }
            match tokio::time::timeout(KEEP_ALIVE, answer.next()).await {
                Ok(Ok(Some((choice, event)))) => writer.event(&answer, choice, event, &mut out),
                Ok(Ok(None)) => {
                    writer.end(&mut answer, &mut out);
                    out.put_slice(b"data: [DONE]\n\n");
                    yield Ok(take(&mut out));
                    break;
                }
                Ok(Err(error)) => {
                    // No [DONE]: nobody should take this for an end.
                    yield Ok(Bytes::from(format!("data: {}\n\n", error.object())));
                    break;
                }
                Err(_) => out.put_slice(b": waiting\n\n"),
            }
        }
    }
}
