//! `POST /v1/chat/completions`.

use super::envelope::{Envelope, chat_logprob, provenance, put_json, reason, told};
use super::sse::{self, Writer};
use super::{accept, request};
use crate::api::ApiState;
use crate::api::answer::{self, Answer};
use crate::api::error::ApiError;
use crate::grammar::tools::{CallParser, Delta};
use crate::wish::Shape;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};
use quorate_core::chat::{Family, ToolCall};
use quorate_core::generate::{Event, Finish};
use serde_json::{Value, json};

pub(super) async fn create(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = accept(&state, &headers, body, request::chat).await?;
    let with_tools = matches!(request.wish.shape, Shape::Tools(_));
    let answer = answer::start(&state, request.wish).await?;
    let envelope_of = |object| Envelope::new("chatcmpl-", object, &answer);
    let family = answer.facts.family;
    let speakers = (0..answer.choices())
        .map(|_| Speaker::new(with_tools.then_some(family)))
        .collect();
    if request.stream {
        let envelope = envelope_of("chat.completion.chunk");
        let writer = ChatWriter {
            envelope,
            speakers,
            include_usage: request.include_usage,
        };
        return sse::respond(answer, writer).await;
    }
    let envelope = envelope_of("chat.completion");
    whole(answer, envelope, speakers).await
}

async fn whole(
    mut answer: Answer,
    envelope: Envelope,
    mut speakers: Vec<Speaker>,
) -> Result<Response, ApiError> {
    let mut messages: Vec<Message> = speakers.iter().map(|_| Message::default()).collect();
    while let Some((index, event)) = answer.next().await? {
        let (speaker, message) = (&mut speakers[index], &mut messages[index]);
        if let Event::Token(token) = &event
            && let Some(entry) = chat_logprob(&answer.facts.vocab, token)
        {
            message.logprobs.get_or_insert_default().push(entry);
        }
        if let Event::Token(token) = &event {
            message.told.extend(told(token, &answer));
        }
        if let Event::Finished { why, .. } = &event {
            message.finish = Some(why.clone());
        }
        for delta in speaker.hear(event) {
            match delta {
                Delta::Content(text) => message.content.push_str(&text),
                Delta::Call(call) => message.calls.push(call),
            }
        }
    }
    let told = messages.iter_mut().map(|m| std::mem::take(&mut m.told));
    let told = told.collect();
    let choices = (0..)
        .zip(messages)
        .map(|(index, message)| message.choice(index))
        .collect();
    Ok(Json(envelope.whole(choices, told, &mut answer)).into_response())
}

/// One choice of a whole answer.
#[derive(Default)]
struct Message {
    content: String,
    calls: Vec<ToolCall>,
    logprobs: Option<Vec<Value>>,
    told: Vec<Value>,
    finish: Option<Finish>,
}

impl Message {
    fn choice(self, index: usize) -> Value {
        let mut message = json!({"role": "assistant", "content": self.content, "refusal": null});
        if !self.calls.is_empty() {
            if self.content.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = self.calls.iter().map(call_object).collect();
        }
        let finish = self
            .finish
            .as_ref()
            .map(|why| finish_reason(why, !self.calls.is_empty()));
        let logprobs = self
            .logprobs
            .map(|content| json!({"content": content, "refusal": null}));
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
    }
}

/// Splits what one choice says into text and calls.
struct Speaker {
    /// Only where tools were offered: elsewhere nothing is a call, whatever it looks like.
    parser: Option<CallParser>,
    calls: usize,
}

impl Speaker {
    fn new(family: Option<Family>) -> Speaker {
        Speaker {
            parser: family.map(CallParser::new),
            calls: 0,
        }
    }

    fn hear(&mut self, event: Event) -> Vec<Delta> {
        let (text, last) = match event {
            Event::Ready { .. } | Event::Decided(_) => return Vec::new(),
            Event::Token(token) => (token.text, false),
            Event::Finished { text, .. } => (text, true),
        };
        let mut deltas = match &mut self.parser {
            None if text.is_empty() => Vec::new(),
            None => vec![Delta::Content(text)],
            Some(parser) => parser.push(&text),
        };
        if last && let Some(parser) = &mut self.parser {
            deltas.extend(parser.finish());
        }
        deltas.retain(|delta| !matches!(delta, Delta::Content(text) if text.is_empty()));
        deltas
    }
}

fn finish_reason(why: &Finish, called: bool) -> &'static str {
    if called && *why == Finish::Stop {
        "tool_calls"
    } else {
        reason(why)
    }
}

fn call_object(call: &ToolCall) -> Value {
    // Only tells the calls of one conversation apart.
    let id = format!("call_{:016x}", getrandom::u64().unwrap_or_default());
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

struct ChatWriter {
    envelope: Envelope,
    speakers: Vec<Speaker>,
    include_usage: bool,
}

impl Writer for ChatWriter {
    fn begin(&mut self, _answer: &Answer, out: &mut BytesMut) {
        for index in 0..self.speakers.len() {
            let delta = json!({"role": "assistant", "content": ""});
            self.delta(out, index, &delta, None);
        }
    }

    fn event(&mut self, answer: &Answer, choice: usize, event: Event, out: &mut BytesMut) {
        let logprob = match &event {
            Event::Token(token) => chat_logprob(&answer.facts.vocab, token),
            Event::Ready { .. } | Event::Decided(_) | Event::Finished { .. } => None,
        };
        let finish = match &event {
            Event::Finished { why, .. } => Some(why.clone()),
            Event::Ready { .. } | Event::Decided(_) | Event::Token(_) => None,
        };
        if let Event::Token(token) = &event {
            self.envelope.told_chunk(out, choice, token, answer);
        }
        let deltas = self.speakers[choice].hear(event);
        if deltas.is_empty() && logprob.is_some() {
            self.delta(out, choice, &json!({}), logprob.as_ref());
        }
        let mut logprob = logprob;
        for delta in deltas {
            let logprob = logprob.take();
            match delta {
                Delta::Content(text) => self.content(out, choice, &text, logprob.as_ref()),
                Delta::Call(call) => self.call(out, choice, &call, logprob.as_ref()),
            }
        }
        if let Some(why) = finish {
            let reason = finish_reason(&why, self.speakers[choice].calls > 0);
            self.finish(out, choice, reason, answer);
        }
    }

    fn end(&mut self, answer: &mut Answer, out: &mut BytesMut) {
        self.envelope.recording_chunks(out, answer);
        if self.include_usage {
            self.envelope.usage_chunk(out, answer);
        }
    }
}

impl ChatWriter {
    /// The hot one: no intermediate value.
    fn content(&self, out: &mut BytesMut, choice: usize, text: &str, logprob: Option<&Value>) {
        self.choice(out, choice, logprob, |out| {
            out.put_slice(b"{\"content\":");
            put_json(out, text);
            out.put_u8(b'}');
        });
    }

    fn call(
        &mut self,
        out: &mut BytesMut,
        choice: usize,
        call: &ToolCall,
        logprob: Option<&Value>,
    ) {
        let mut object = call_object(call);
        object["index"] = self.speakers[choice].calls.into();
        self.speakers[choice].calls += 1;
        self.delta(out, choice, &json!({"tool_calls": [object]}), logprob);
    }

    fn delta(&self, out: &mut BytesMut, choice: usize, delta: &Value, logprob: Option<&Value>) {
        self.choice(out, choice, logprob, |out| put_json(out, delta));
    }

    fn choice(
        &self,
        out: &mut BytesMut,
        choice: usize,
        logprob: Option<&Value>,
        delta: impl FnOnce(&mut BytesMut),
    ) {
        self.envelope.chunk(out, |out| {
            out.put_slice(b"\"choices\":[{\"index\":");
            put_json(out, &choice);
            out.put_slice(b",\"delta\":");
            delta(out);
            if let Some(logprob) = logprob {
                out.put_slice(b",\"logprobs\":");
                put_json(out, &json!({"content": [logprob]}));
            }
            out.put_slice(b",\"finish_reason\":null}]");
        });
    }

    /// The last chunk of the last choice also says what the text is a function of.
    fn finish(&self, out: &mut BytesMut, choice: usize, reason: &str, answer: &Answer) {
        self.envelope.chunk(out, |out| {
            out.put_slice(b"\"choices\":");
            put_json(
                out,
                &json!([{"index": choice, "delta": {}, "finish_reason": reason}]),
            );
            if answer.is_finished() {
                out.put_slice(b",\"quorate\":");
                put_json(out, &provenance(answer));
            }
        });
    }
}
