//! One question with everything that shapes its answer, for both ways to ask it.

use crate::cli::args::{AnswerFlags, Draw};
use crate::error::{Failure, Kind, Outcome};
use crate::wish::{Asked, Prompt, Shape, Together};
use quorate_core::chat::{Message, Role};
use quorate_core::law::Sampler;
use serde_json::{Map, Value, json};

/// For a person who talks to a small model: a little colder than the model itself, no endless
/// repetition. Programs that use the API get the model as it is.
const TEMPERATURE: f64 = 0.7;
const TOP_P: f64 = 0.95;
const REPEAT_PENALTY: f64 = 1.1;
/// A JSON schema is written by hand.
const SCHEMA_BYTES_MAX: u64 = 256 << 10;

/// Answer settings, checked as far as that can be done without the model.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) flags: AnswerFlags,
    pub(super) shape: Shape,
}

impl Options {
    pub(super) fn checked(flags: &AnswerFlags) -> Outcome<Options> {
        let shape = match flags.format.as_deref() {
            None => Shape::Free,
            Some("json") => Shape::Json,
            Some(path) => Shape::Schema(read_schema(path)?),
        };
        Ok(Options {
            flags: flags.clone(),
            shape,
        })
    }
}

fn read_schema(path: &str) -> Outcome<Value> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SCHEMA_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| {
            Failure::new(
                Kind::Usage,
                format!("cannot read the JSON schema {path}: {error}"),
            )
            .hint("--format takes `json`, or the path of a file with a JSON schema")
        })?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(Kind::Usage, format!("{path} is not JSON: {error}")))
}

#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
    pub(super) options: Options,
    /// The node that answers tells all that decided the answer.
    pub(super) record: bool,
}

impl Ask {
    pub(super) fn once(model: String, options: &Options, prompt: String) -> Ask {
        let mut messages = Vec::new();
        if let Some(system) = &options.flags.system {
            messages.push(message(Role::System, system.clone()));
        }
        messages.push(message(Role::User, prompt));
        Ask {
            model,
            messages,
            options: options.clone(),
            record: false,
        }
    }

    /// For a node in this process.
    pub(super) fn asked(&self) -> Asked {
        let flags = &self.options.flags;
        Asked {
            model: Some(self.model.clone()),
            prompt: Some(Prompt::Chat {
                messages: self.messages.clone(),
                tools: Vec::new(),
            }),
            max_tokens: flags.max_tokens,
            stop: flags.stop.clone(),
            seed: flags.seed,
            shape: self.options.shape.clone(),
            temperature: Some(flags.temperature.unwrap_or(TEMPERATURE)),
            top_k: flags.top_k,
            top_p: Some(flags.top_p.unwrap_or(TOP_P)),
            min_p: flags.min_p,
            repeat_penalty: Some(flags.repeat_penalty.unwrap_or(REPEAT_PENALTY)),
            together: Together {
                robust: flags.robust,
                sampler: match flags.sampler {
                    Some(Draw::Rejection) => Sampler::Rejection,
                    Some(Draw::Seeded) | None => Sampler::Seeded,
                },
                ..Together::default()
            },
            ..Asked::default()
        }
    }

    /// How a mesh is to answer; null where that is as usual.
    fn together(&self) -> Value {
        let flags = &self.options.flags;
        let mut options = Map::new();
        if flags.handover {
            options.insert("mode".into(), json!("handover"));
        }
        if let Some(weights) = &flags.weights {
            options.insert("weights".into(), json!(weights));
        }
        if flags.plodding {
            options.insert("ahead".into(), json!(false));
        }
        if flags.branches {
            options.insert("ahead".into(), json!("branches"));
        }
        if flags.sampler == Some(Draw::Rejection) {
            options.insert("sampler".into(), json!("rejection"));
        }
        if let Some(liars) = flags.robust {
            options.insert("robust".into(), json!(liars));
        }
        if self.record {
            options.insert("record".into(), json!(true));
        }
        if options.is_empty() {
            Value::Null
        } else {
            Value::Object(options)
        }
    }

    /// For a node's HTTP API: the same, said in OpenAI's words.
    pub(super) fn body(&self) -> Value {
        let asked = self.asked();
        let messages: Vec<Value> = self
            .messages
            .iter()
            .map(|message| json!({"role": role(message.role), "content": message.content}))
            .collect();
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                body.insert(name.to_owned(), value);
            }
        };
        put("model", json!(asked.model));
        put("messages", json!(messages));
        put("stream", json!(true));
        put("stream_options", json!({"include_usage": true}));
        put("max_tokens", json!(asked.max_tokens));
        put("seed", json!(asked.seed));
        put("temperature", json!(asked.temperature));
        put("top_k", json!(asked.top_k));
        put("top_p", json!(asked.top_p));
        put("min_p", json!(asked.min_p));
        put("repeat_penalty", json!(asked.repeat_penalty));
        put("quorate", self.together());
        if !asked.stop.is_empty() {
            put("stop", json!(asked.stop));
        }
        match asked.shape {
            Shape::Json => put("response_format", json!({"type": "json_object"})),
            Shape::Schema(schema) => put(
                "response_format",
                json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}),
            ),
            Shape::Free | Shape::Grammar(_) | Shape::Tools(_) => {}
        }
        Value::Object(body)
    }
}

pub(super) fn message(role: Role, content: String) -> Message {
    Message {
        role,
        content,
        tool_calls: Vec::new(),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_say_the_same() {
        let flags = AnswerFlags {
            seed: Some(7),
            min_p: Some(0.1),
            ..AnswerFlags::default()
        };
        let options = Options {
            flags,
            shape: Shape::Json,
        };
        let ask = Ask::once("m".into(), &options, "hi".into());
        let (asked, body) = (ask.asked(), ask.body());
        assert_eq!(body["temperature"].as_f64(), asked.temperature);
        assert_eq!(body["seed"].as_u64(), asked.seed);
        assert_eq!(body["min_p"].as_f64(), asked.min_p);
        assert_eq!(body["response_format"]["type"], "json_object");
        assert!(body.get("max_tokens").is_none(), "silence stays silence");
    }
}
