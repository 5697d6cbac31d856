//! `POST /v1/completions`.

use super::envelope::{Envelope, finite, provenance, put_json, reason, token_text, told};
use super::sse::{self, Writer};
use super::{accept, request};
use crate::api::ApiState;
use crate::api::answer::{self, Answer};
use crate::api::error::ApiError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};
use quorate_core::generate::{Event, Finish, TokenEvent};
use quorate_core::vocab::Vocab;
use serde_json::{Map, Value, json};

pub(super) async fn create(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = accept(&state, &headers, body, request::completion).await?;
    let answer = answer::start(&state, request.wish).await?;
    // Whole answers and pieces share one object name here.
    let envelope = Envelope::new("cmpl-", "text_completion", &answer);
    if request.stream {
        let offsets = vec![0; answer.choices()];
        let writer = TextWriter {
            envelope,
            offsets,
            include_usage: request.include_usage,
        };
        return sse::respond(answer, writer).await;
    }
    whole(answer, envelope).await
}

async fn whole(mut answer: Answer, envelope: Envelope) -> Result<Response, ApiError> {
    let mut texts: Vec<Text> = (0..answer.choices()).map(|_| Text::default()).collect();
    while let Some((index, event)) = answer.next().await? {
        let text = &mut texts[index];
        match event {
            Event::Ready { .. } | Event::Decided(_) => {}
            Event::Token(token) => {
                text.logprobs
                    .add(&answer.facts.vocab, &token, &mut text.offset);
                text.told.extend(told(&token, &answer));
                text.text.push_str(&token.text);
            }
            Event::Finished {
                why, text: rest, ..
            } => {
                text.text.push_str(&rest);
                text.finish = Some(why);
            }
        }
    }
    let told = texts.iter_mut().map(|t| std::mem::take(&mut t.told));
    let told = told.collect();
    let choices = (0..)
        .zip(texts)
        .map(|(index, text)| text.choice(index))
        .collect();
    Ok(Json(envelope.whole(choices, told, &mut answer)).into_response())
}

/// One choice of a whole answer.
#[derive(Default)]
struct Text {
    text: String,
    logprobs: Logprobs,
    /// Characters of the tokens so far.
    offset: usize,
    told: Vec<Value>,
    finish: Option<Finish>,
}

impl Text {
    fn choice(self, index: usize) -> Value {
        json!({
            "text": self.text,
            "index": index,
            "logprobs": self.logprobs.object(),
            "finish_reason": self.finish.as_ref().map(reason),
        })
    }
}

/// The older form of log-probabilities: parallel arrays.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<Value>,
    ln_p: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl Logprobs {
    fn add(&mut self, vocab: &Vocab, event: &TokenEvent, offset: &mut usize) {
        let Some(ln_p) = event.ln_p else {
            return;
        };
        let text = token_text(vocab, event.token);
        let alternative =
            |&(token, ln_p): &(u32, f64)| (token_text(vocab, token), finite(ln_p).into());
        let mut top: Map<String, Value> = event.top.iter().map(alternative).collect();
        // The drawn token is always among them, so there may be one more than was asked for.
        top.insert(text.clone(), finite(ln_p).into());
        self.offsets.push((*offset).into());
        *offset += text.chars().count();
        self.tokens.push(text.into());
        self.ln_p.push(finite(ln_p).into());
        self.top.push(top.into());
    }

    fn object(self) -> Option<Value> {
        (!self.tokens.is_empty()).then(|| {
            json!({
                "tokens": self.tokens,
                "token_logprobs": self.ln_p,
                "top_logprobs": self.top,
                "text_offset": self.offsets,
            })
        })
    }
}

struct TextWriter {
    envelope: Envelope,
    /// For each choice, characters of the tokens so far.
    offsets: Vec<usize>,
    include_usage: bool,
}

impl Writer for TextWriter {
    fn begin(&mut self, _answer: &Answer, _out: &mut BytesMut) {}

    fn event(&mut self, answer: &Answer, choice: usize, event: Event, out: &mut BytesMut) {
        match event {
            Event::Ready { .. } | Event::Decided(_) => {}
            Event::Token(token) => {
                self.envelope.told_chunk(out, choice, &token, answer);
                let mut logprobs = Logprobs::default();
                logprobs.add(&answer.facts.vocab, &token, &mut self.offsets[choice]);
                let logprobs = logprobs.object();
                if !token.text.is_empty() || logprobs.is_some() {
                    self.choice(out, choice, &token.text, logprobs.as_ref(), None, answer);
                }
            }
            Event::Finished { why, text, .. } => {
                self.choice(out, choice, &text, None, Some(reason(&why)), answer);
            }
        }
    }

    fn end(&mut self, answer: &mut Answer, out: &mut BytesMut) {
        self.envelope.recording_chunks(out, answer);
        if self.include_usage {
            self.envelope.usage_chunk(out, answer);
        }
    }
}

impl TextWriter {
    fn choice(
        &self,
        out: &mut BytesMut,
        choice: usize,
        text: &str,
        logprobs: Option<&Value>,
        finish: Option<&str>,
        answer: &Answer,
    ) {
        self.envelope.chunk(out, |out| {
            out.put_slice(b"\"choices\":[{\"index\":");
            put_json(out, &choice);
            out.put_slice(b",\"text\":");
            put_json(out, text);
            out.put_slice(b",\"logprobs\":");
            put_json(out, &logprobs);
            out.put_slice(b",\"finish_reason\":");
            put_json(out, &finish);
            out.put_slice(b"}]");
            if finish.is_some() && answer.is_finished() {
                out.put_slice(b",\"quorate\":");
                put_json(out, &provenance(answer));
            }
        });
    }
}
