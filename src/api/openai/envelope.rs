//! What every answer, whole or in pieces, says about itself.

use crate::api::answer::Answer;
use crate::api::mesh::voices;
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, BytesMut};
use quorate_core::generate::{Finish, TokenEvent};
use quorate_core::limits::RECORDING_PART_BYTES;
use quorate_core::vocab::Vocab;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) struct Envelope {
    fields: Map<String, Value>,
    /// The same fields as text, up to where the choices begin: chunks differ only after it.
    chunk_head: String,
}

impl Envelope {
    /// `object` is that of whole answers, `chunk` that of pieces.
    pub(super) fn new(id_prefix: &str, object: &str, answer: &Answer) -> Envelope {
        // An id only tells answers apart; without randomness the clock will do.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let random = getrandom::u64().unwrap_or(now.as_nanos() as u64);
        let mut fields = Map::new();
        fields.insert("id".into(), format!("{id_prefix}{random:016x}").into());
        fields.insert("object".into(), object.into());
        fields.insert("created".into(), now.as_secs().into());
        let model = answer.name.unwrap_or(&answer.facts.model);
        fields.insert("model".into(), model.into());
        fields.insert("system_fingerprint".into(), fingerprint(answer).into());
        let mut chunk_head = Value::Object(fields.clone()).to_string();
        chunk_head.pop(); // the closing brace
        Envelope { fields, chunk_head }
    }

    /// A whole answer. Who said what is asked for, and then with each choice.
    pub(super) fn whole(
        mut self,
        mut choices: Vec<Value>,
        told: Vec<Vec<Value>>,
        answer: &mut Answer,
    ) -> Value {
        if answer.tells {
            for (choice, tokens) in choices.iter_mut().zip(told) {
                choice["quorate"] = json!({"tokens": tokens});
            }
        }
        self.fields.insert("choices".into(), choices.into());
        self.fields.insert("usage".into(), usage(answer));
        let mut page = provenance(answer);
        match answer.recording() {
            None => {}
            Some(Ok(bytes)) => page["recording"] = BASE64.encode(bytes).into(),
            Some(Err(why)) => page["not_recorded"] = why.to_string().into(),
        }
        self.fields.insert("quorate".into(), page);
        Value::Object(self.fields)
    }

    /// One event of a stream; `rest` continues the object.
    pub(super) fn chunk(&self, out: &mut BytesMut, rest: impl FnOnce(&mut BytesMut)) {
        out.put_slice(b"data: ");
        out.put_slice(self.chunk_head.as_bytes());
        out.put_u8(b',');
        rest(out);
        out.put_slice(b"}\n\n");
    }

    /// Who said what of one token, in a chunk of its own.
    pub(super) fn told_chunk(
        &self,
        out: &mut BytesMut,
        choice: usize,
        token: &TokenEvent,
        answer: &Answer,
    ) {
        let Some(told) = told(token, answer) else {
            return;
        };
        self.chunk(out, |out| {
            out.put_slice(b"\"choices\":[],\"quorate\":");
            put_json(out, &json!({"index": choice, "token": told}));
        });
    }

    /// What decided the answer, in parts: a line of a stream should not be endless.
    pub(super) fn recording_chunks(&self, out: &mut BytesMut, answer: &mut Answer) {
        let mut part = |page: Value| {
            self.chunk(out, |out| {
                out.put_slice(b"\"choices\":[],\"quorate\":");
                put_json(out, &page);
            });
        };
        match answer.recording() {
            None => {}
            Some(Ok(bytes)) => bytes
                .chunks(RECORDING_PART_BYTES)
                .for_each(|bytes| part(json!({"recording": BASE64.encode(bytes)}))),
            Some(Err(why)) => part(json!({"not_recorded": why.to_string()})),
        }
    }

    /// The chunk after the last choice: no choices, only what they cost.
    pub(super) fn usage_chunk(&self, out: &mut BytesMut, answer: &Answer) {
        self.chunk(out, |out| {
            out.put_slice(b"\"choices\":[],\"usage\":");
            put_json(out, &usage(answer));
        });
    }
}

pub(super) fn put_json<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) {
    serde_json::to_writer(out.writer(), value)
        .expect("memory takes every write and our values are JSON");
}

pub(super) fn take(out: &mut BytesMut) -> Bytes {
    out.split().freeze()
}

/// What the answer is a function of: seed and law with prompt and model repeat it.
pub(super) fn provenance(answer: &Answer) -> Value {
    let timings = &answer.timings;
    let mut page = json!({
        "seed": answer.seed,
        "law": answer.law,
        "timings": {
            "queued_us": timings.queued_us,
            "prefill_us": timings.prefill_us,
            "decode_us": timings.decode_us,
        },
    });
    if let Some(mesh) = answer.mesh() {
        page["mesh"] = mesh;
    }
    page
}

/// None: nobody wants to know, or nobody was asked.
pub(super) fn told(token: &TokenEvent, answer: &Answer) -> Option<Value> {
    let provenance = token.provenance.as_ref().filter(|_| answer.tells)?;
    let mut told = voices(provenance);
    told["text"] = token_text(&answer.facts.vocab, token.token).into();
    Some(told)
}

fn usage(answer: &Answer) -> Value {
    let usage = &answer.usage;
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// Changes when model, vocabulary or program do.
fn fingerprint(answer: &Answer) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 system fingerprint");
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.update(answer.facts.sha256.as_bytes());
    hasher.update(&answer.facts.vocab.fingerprint().0);
    format!("fp_{}", &hasher.finalize().to_hex()[..12])
}

/// OpenAI's word for the end; a failure never gets here.
pub(super) fn reason(why: &Finish) -> &'static str {
    if *why == Finish::Length {
        "length"
    } else {
        "stop"
    }
}

/// A token as text; bytes that are no characters alone become replacement characters.
pub(super) fn token_text(vocab: &Vocab, token: u32) -> String {
    String::from_utf8_lossy(vocab.piece(token)).into_owned()
}

/// JSON knows no infinity; OpenAI says -9999 where a token had no probability.
pub(super) fn finite(ln_p: f64) -> f64 {
    if ln_p.is_finite() { ln_p } else { -9999.0 }
}

/// One token of a chat's `logprobs.content`.
pub(super) fn chat_logprob(vocab: &Vocab, event: &TokenEvent) -> Option<Value> {
    let one = |token, ln_p| {
        let bytes = vocab.piece(token);
        json!({"token": String::from_utf8_lossy(bytes), "logprob": finite(ln_p), "bytes": bytes})
    };
    let mut entry = one(event.token, event.ln_p?);
    entry["top_logprobs"] = event
        .top
        .iter()
        .map(|&(token, ln_p)| one(token, ln_p))
        .collect();
    Some(entry)
}
