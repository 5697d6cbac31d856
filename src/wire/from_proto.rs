//! Protobuf to checked types.

use super::v1;
use crate::wish::{Asked, Invalid, Prompt, Shape, Together};
use quorate_core::chat::{Message, Role};
use quorate_core::generate::Guessing;
use quorate_core::law::Sampler;
use quorate_core::limits;
use quorate_core::team::Sets;

/// One request as typed; `Asked::check` does the rest.
pub fn asked(request: v1::GenerateRequest) -> Result<Asked, Invalid> {
    let sampling = request.sampling.unwrap_or_default();
    Ok(Asked {
        model: Some(request.model),
        prompt: request.prompt.map(prompt).transpose()?,
        choices: None,
        max_tokens: request.max_tokens,
        stop: request.stop,
        seed: request.seed,
        logprobs: request.logprobs,
        shape: request.shape.map_or(Ok(Shape::Free), shape)?,
        temperature: sampling.temperature.map(f64::from),
        top_k: sampling.top_k,
        top_p: sampling.top_p.map(f64::from),
        min_p: sampling.min_p.map(f64::from),
        repeat_penalty: sampling.repeat_penalty.map(f64::from),
        repeat_last_n: sampling.repeat_last_n,
        frequency_penalty: sampling.frequency_penalty.map(f64::from),
        presence_penalty: sampling.presence_penalty.map(f64::from),
        bias: sampling.logit_bias.into_iter().collect(),
        together: together(request.mesh)?,
    })
}

fn together(mesh: Option<v1::MeshOptions>) -> Result<Together, Invalid> {
    let Some(mesh) = mesh else {
        return Ok(Together::default());
    };
    let sets = match mesh.semantics.as_str() {
        "" => None,
        "A" => Some(Sets::A),
        "B" => Some(Sets::B),
        other => {
            let message = format!("mesh.semantics must be A or B, not {other}");
            return Err(Invalid::value("mesh.semantics", message));
        }
    };
    let together = Together {
        provenance: mesh.provenance,
        k: mesh.k,
        sets,
        guessing: match (mesh.plodding, mesh.branches) {
            (false, false) => Guessing::Stream,
            (false, true) => Guessing::Branches,
            (true, false) => Guessing::Never,
            (true, true) => {
                let message =
                    "who guesses nothing has no branches: leave mesh.plodding or mesh.branches out";
                return Err(Invalid::value("mesh.branches", message));
            }
        },
        sampler: Sampler::Seeded,
        weights: None,
        robust: mesh.robust,
        record: false, // recordings are files, and gRPC messages are small
    };
    let together = match mesh.weights.as_str() {
        "" => together,
        name => together.weighed(name)?,
    };
    let together = match mesh.sampler.as_str() {
        "" => together,
        name => together.drawn_by(name)?,
    };
    match mesh.mode.as_str() {
        "" => Ok(together),
        mode => together.in_mode(mode),
    }
}

fn prompt(prompt: v1::generate_request::Prompt) -> Result<Prompt, Invalid> {
    use v1::generate_request::Prompt as Proto;
    match prompt {
        Proto::Text(text) => Ok(Prompt::Texts(vec![text])),
        Proto::Tokens(tokens) => Ok(Prompt::Tokens(vec![tokens.ids])),
        Proto::Chat(chat) => {
            let messages = (0..).zip(chat.messages).map(|(i, m)| message(i, m));
            Ok(Prompt::Chat {
                messages: messages.collect::<Result<_, _>>()?,
                tools: Vec::new(),
            })
        }
    }
}

fn message(index: usize, message: v1::Message) -> Result<Message, Invalid> {
    use v1::message::Role as Proto;
    let role = match message.role() {
        Proto::System => Role::System,
        Proto::User => Role::User,
        Proto::Assistant => Role::Assistant,
        Proto::Tool => Role::Tool,
        Proto::Unspecified => {
            let param = format!("chat.messages[{index}].role");
            let text = format!("{param} must be system, user, assistant or tool");
            return Err(Invalid::value(&param, text));
        }
    };
    Ok(Message {
        role,
        content: message.content,
        tool_calls: Vec::new(),
    })
}

fn shape(shape: v1::generate_request::Shape) -> Result<Shape, Invalid> {
    use v1::generate_request::Shape as Proto;
    match shape {
        Proto::Grammar(text) => Ok(Shape::Grammar(text)),
        Proto::JsonObject(true) => Ok(Shape::Json),
        Proto::JsonObject(false) => Ok(Shape::Free),
        Proto::JsonSchema(text) if text.len() > limits::GRAMMAR_BYTES_MAX => {
            let message = format!("a schema has at most {} bytes", limits::GRAMMAR_BYTES_MAX);
            Err(Invalid::value("json_schema", message))
        }
        Proto::JsonSchema(text) => {
            serde_json::from_str(&text)
                .map(Shape::Schema)
                .map_err(|error| {
                    Invalid::malformed("json_schema", format!("json_schema is not JSON: {error}"))
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_mesh_draws_and_guesses_is_read() {
        let read = |plodding, branches, sampler: &str| {
            let options = v1::MeshOptions {
                plodding,
                branches,
                sampler: sampler.into(),
                ..Default::default()
            };
            together(Some(options)).map(|read| (read.guessing, read.sampler))
        };
        let seeded = |guessing| Ok((guessing, Sampler::Seeded));
        assert_eq!(read(false, false, ""), seeded(Guessing::Stream));
        assert_eq!(read(true, false, "seeded"), seeded(Guessing::Never));
        let both = (Guessing::Branches, Sampler::Rejection);
        assert_eq!(read(false, true, "rejection"), Ok(both));
        assert_eq!(read(true, true, "").unwrap_err().param, "mesh.branches");
        assert_eq!(
            read(false, false, "dice").unwrap_err().param,
            "quorate.sampler"
        );
    }

    #[test]
    fn a_role_from_the_future_and_a_schema_of_rubbish_are_named() {
        let chat = v1::Chat {
            messages: vec![v1::Message {
                role: 77,
                content: "x".into(),
            }],
        };
        let request = v1::GenerateRequest {
            prompt: Some(v1::generate_request::Prompt::Chat(chat)),
            ..Default::default()
        };
        assert_eq!(asked(request).unwrap_err().param, "chat.messages[0].role");
        let request = v1::GenerateRequest {
            shape: Some(v1::generate_request::Shape::JsonSchema("{".into())),
            ..Default::default()
        };
        assert_eq!(asked(request).unwrap_err().param, "json_schema");
    }
}
