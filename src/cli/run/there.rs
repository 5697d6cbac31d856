//! Answers from the node that is up, over its HTTP API. The request runs on a thread of its own, so
//! that Ctrl-C is heard while the node is silent; dropping the connection is what stops the node.

use super::ask::Ask;
use super::speaker::{OnText, Told};
use crate::cli::client::{Client, refusal};
use crate::cli::interrupt::Interrupt;
use crate::error::{Failure, Kind, Outcome};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quorate_core::limits::RECORDING_BYTES_MAX;
use quorate_core::record::{self, Recording};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Events between the reader and the printer. A reader that waits here is fine: the node buffers.
const EVENTS_MAX: usize = 256;
/// How soon Ctrl-C is heard.
const LOOK: Duration = Duration::from_millis(30);
/// One event; a token with twenty alternatives is a few kilobytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

pub(super) struct There {
    client: Client,
    /// Of the last answer: what it was decided by, as far as it has come.
    recorded: Recorded,
}

#[derive(Default)]
struct Recorded {
    bytes: Vec<u8>,
    /// Why there is none.
    failed: Option<String>,
}

impl There {
    pub(super) fn new(client: Client) -> There {
        There {
            client,
            recorded: Recorded::default(),
        }
    }

    /// Of the last answer, if the node was asked for it and the answer has ended.
    pub(super) fn recording(&mut self) -> Option<Outcome<Recording>> {
        let Recorded { bytes, failed } = std::mem::take(&mut self.recorded);
        let cannot = |why: String| {
            Failure::new(
                Kind::Failed,
                format!("the node's recording is of no use: {why}"),
            )
        };
        match failed {
            Some(why) => Some(Err(cannot(why))),
            None if bytes.is_empty() => None,
            None => Some(record::decode(&bytes).map_err(|why| cannot(why.to_string()))),
        }
    }

    pub(super) fn ask(
        &mut self,
        ask: &Ask,
        interrupt: &Interrupt,
        on_text: &mut OnText<'_>,
    ) -> Outcome<Told> {
        let (events_tx, events) = sync_channel(EVENTS_MAX);
        let (client, body) = (self.client.clone(), ask.body());
        std::thread::spawn(move || {
            if let Err(failure) = read_events(&client, &body, &events_tx) {
                // Nobody listens any more: interrupted.
                events_tx.send(Err(failure)).ok();
            }
        });
        let mut told = Told::default();
        self.recorded = Recorded::default();
        while let Some(event) = next(&events, interrupt, &mut told)? {
            if !self.recorded.hear(&event["quorate"]) {
                hear(&event, &mut told, on_text)?;
            }
        }
        Ok(told)
    }
}

impl Recorded {
    /// Takes what is part of a recording, and says whether it was.
    fn hear(&mut self, page: &Value) -> bool {
        if let Some(why) = page["not_recorded"].as_str() {
            self.failed = Some(why.to_owned());
            return true;
        }
        let Some(text) = page["recording"].as_str() else {
            return false;
        };
        match BASE64.decode(text) {
            Ok(part) if self.bytes.len() + part.len() <= RECORDING_BYTES_MAX => {
                self.bytes.extend(part);
            }
            Ok(_) => self.failed = Some("it is too large".into()),
            Err(error) => self.failed = Some(error.to_string()),
        }
        true
    }
}

/// The next event; None at the end, and when the person has had enough.
fn next(
    events: &Receiver<Outcome<Value>>,
    interrupt: &Interrupt,
    told: &mut Told,
) -> Outcome<Option<Value>> {
    loop {
        if interrupt.is_set() {
            told.interrupted = true;
            return Ok(None);
        }
        match events.recv_timeout(LOOK) {
            Ok(event) => return event.map(Some),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

fn hear(event: &Value, told: &mut Told, on_text: &mut OnText<'_>) -> Outcome {
    if let Some(error) = event.get("error") {
        return Err(refusal(error));
    }
    if let Some(text) = event["choices"][0]["delta"]["content"].as_str() {
        told.hear(text, on_text)?;
    }
    told.cut |= event["choices"][0]["finish_reason"] == "length";
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
        told.prompt_tokens = number(&usage["prompt_tokens"]);
        told.cached_tokens = number(&usage["prompt_tokens_details"]["cached_tokens"]);
        told.completion_tokens = number(&usage["completion_tokens"]);
    }
    if let Some(provenance) = event.get("quorate") {
        told.seed = number(&provenance["seed"]);
        told.law = provenance["law"].as_str().unwrap_or_default().to_owned();
        told.prefill_us = number(&provenance["timings"]["prefill_us"]);
        told.decode_us = number(&provenance["timings"]["decode_us"]);
        told.mesh = provenance.get("mesh").cloned();
    }
    Ok(())
}

/// Sends each event of the stream; an end without `[DONE]` is a failure.
fn read_events(client: &Client, body: &Value, events: &SyncSender<Outcome<Value>>) -> Outcome {
    let response = client.stream("/v1/chat/completions", body)?;
    let mut lines = BufReader::new(response);
    loop {
        let mut line = String::new();
        let cut = |error: std::io::Error| ended_early(&error.to_string());
        let read = lines
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .map_err(cut)?;
        if read == 0 {
            return Err(ended_early("the connection closed"));
        }
        let Some(data) = line.trim_end().strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            return Ok(());
        }
        let event: Value = serde_json::from_str(data)
            .map_err(|error| ended_early(&format!("an event is not JSON: {error}")))?;
        let failed = event.get("error").is_some();
        if events.send(Ok(event)).is_err() || failed {
            return Ok(()); // interrupted, or said all there is to say
        }
    }
}

fn ended_early(why: &str) -> Failure {
    Failure::new(Kind::Failed, format!("the node stopped answering: {why}"))
        .hint("`quorate status` shows how it is")
}
