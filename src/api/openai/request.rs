//! The bodies of `/v1/chat/completions` and `/v1/completions`, from JSON to a checked wish.

use super::fields::{self, Fields};
use super::messages;
use super::unsupported;
use crate::wish::{Asked, Choice, Defaults, Invalid, Prompt, Shape, Together, Wish};
use quorate_core::chat::Tool;
use quorate_core::generate::Guessing;
use quorate_core::ids::Token;
use quorate_core::law::Sampler;
use quorate_core::team::Sets;
use serde_json::Value;

/// Tokens of a completion whose client did not say: OpenAI's number. A plain text has no natural end,
/// as a chat's answer has.
pub(super) const COMPLETION_TOKENS_DEFAULT: u32 = 16;

/// A wish and how its answer is to be delivered.
#[derive(Debug)]
pub(super) struct Request {
    pub wish: Wish,
    pub stream: bool,
    pub include_usage: bool,
}

pub(super) fn chat(body: &[u8], defaults: &Defaults) -> Result<Request, Invalid> {
    let body = parse(body)?;
    let fields = Fields::of(&body, "")?;
    unsupported::refuse(&fields)?;
    let messages = messages::messages(&fields)?;
    let (tools, choice) = tools(&fields)?;
    let mut asked = common(&fields)?;
    asked.shape = shape(&fields, choice)?;
    asked.prompt = Some(Prompt::Chat { messages, tools });
    asked.logprobs = match (
        fields.flag("logprobs")?.unwrap_or(false),
        fields.count("top_logprobs")?,
    ) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(Invalid::value(
                "top_logprobs",
                "top_logprobs needs logprobs to be true",
            ));
        }
    };
    deliver(&fields, asked, defaults)
}

pub(super) fn completion(body: &[u8], defaults: &Defaults) -> Result<Request, Invalid> {
    let body = parse(body)?;
    let fields = Fields::of(&body, "")?;
    unsupported::refuse(&fields)?;
    let mut asked = common(&fields)?;
    asked.shape = shape(&fields, None)?;
    asked.prompt = Some(prompt(fields.required("prompt")?)?);
    // What the owner of the node set counts more than OpenAI's default.
    let silent = asked.max_tokens.is_none() && defaults.max_tokens.is_none();
    if silent {
        asked.max_tokens = Some(COMPLETION_TOKENS_DEFAULT);
    }
    asked.logprobs = match fields.get("logprobs") {
        None | Some(Value::Bool(false)) => None,
        Some(value) => Some(fields::count("logprobs", value)?),
    };
    deliver(&fields, asked, defaults)
}

fn parse(body: &[u8]) -> Result<Value, Invalid> {
    serde_json::from_slice(body).map_err(|error| {
        let text = if body.is_empty() {
            "it is empty".to_string()
        } else {
            error.to_string()
        };
        Invalid::malformed("", format!("the body is not JSON: {text}"))
    })
}

fn deliver(fields: &Fields<'_>, asked: Asked, defaults: &Defaults) -> Result<Request, Invalid> {
    let options = fields.get("stream_options");
    let options = options
        .map(|options| Fields::of(options, "stream_options"))
        .transpose()?;
    let include_usage = options
        .map(|options| options.flag("include_usage"))
        .transpose()?
        .flatten();
    Ok(Request {
        wish: asked.check(defaults)?,
        stream: fields.flag("stream")?.unwrap_or(false),
        include_usage: include_usage.unwrap_or(false),
    })
}

fn common(fields: &Fields<'_>) -> Result<Asked, Invalid> {
    Ok(Asked {
        model: fields.text("model")?.map(String::from),
        prompt: None,
        choices: fields.count("n")?,
        max_tokens: same(
            fields,
            ["max_completion_tokens", "max_tokens"],
            Fields::count,
        )?,
        stop: stop(fields)?,
        seed: seed(fields)?,
        logprobs: None,
        shape: Shape::Free,
        temperature: fields.number("temperature")?,
        top_k: top_k(fields)?,
        top_p: fields.number("top_p")?,
        min_p: fields.number("min_p")?,
        repeat_penalty: same(
            fields,
            ["repeat_penalty", "repetition_penalty"],
            Fields::number,
        )?,
        repeat_last_n: fields.count("repeat_last_n")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        presence_penalty: fields.number("presence_penalty")?,
        bias: bias(fields)?,
        together: together(fields)?,
    })
}

/// `quorate`: what no other server knows.
fn together(fields: &Fields<'_>) -> Result<Together, Invalid> {
    let Some(value) = fields.get("quorate") else {
        return Ok(Together::default());
    };
    let fields = Fields::of(value, "quorate")?;
    let sets = match fields.text("semantics")? {
        None => None,
        Some("A") => Some(Sets::A),
        Some("B") => Some(Sets::B),
        Some(other) => {
            let message = format!("quorate.semantics must be \"A\" or \"B\", not \"{other}\"");
            return Err(Invalid::value("quorate.semantics", message));
        }
    };
    let together = Together {
        provenance: fields.flag("provenance")?.unwrap_or(false),
        k: fields.count("k")?,
        sets,
        guessing: ahead(&fields)?,
        sampler: Sampler::Seeded,
        weights: None,
        robust: fields.count("robust")?,
        record: fields.flag("record")?.unwrap_or(false),
    };
    let together = match fields.text("weights")? {
        Some(name) => together.weighed(name)?,
        None => together,
    };
    let together = together.drawn_by(fields.text("sampler")?.unwrap_or("seeded"))?;
    together.in_mode(fields.text("mode")?.unwrap_or("together"))
}

/// true, false, or "branches".
fn ahead(fields: &Fields<'_>) -> Result<Guessing, Invalid> {
    match fields.get("ahead") {
        None | Some(Value::Bool(true)) => Ok(Guessing::Stream),
        Some(Value::Bool(false)) => Ok(Guessing::Never),
        Some(Value::String(word)) if word == "branches" => Ok(Guessing::Branches),
        Some(Value::String(other)) => {
            let message =
                format!("quorate.ahead must be true, false or \"branches\", not \"{other}\"");
            Err(Invalid::value("quorate.ahead", message))
        }
        Some(other) => Err(fields::wrong(
            "quorate.ahead",
            "true, false or \"branches\"",
            other,
        )),
    }
}

/// One parameter under two names.
fn same<'a, T: PartialEq>(
    fields: &Fields<'a>,
    [one, other]: [&str; 2],
    read: impl Fn(&Fields<'a>, &str) -> Result<Option<T>, Invalid>,
) -> Result<Option<T>, Invalid> {
    match (read(fields, one)?, read(fields, other)?) {
        (Some(a), Some(b)) if a != b => Err(Invalid::value(
            other,
            format!("{one} and {other} mean the same here and differ; send one of them"),
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// Any 64 bits; -1 asks for a random one, as it does llama.cpp; other negatives count from the top.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, Invalid> {
    let Some(value) = fields.get("seed") else {
        return Ok(None);
    };
    match value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
    {
        Some(seed) => Ok((seed != u64::MAX || value.is_u64()).then_some(seed)),
        None if value.is_number() => Err(Invalid::value(
            "seed",
            "seed must be a whole number of 64 bits",
        )),
        None => Err(fields::wrong("seed", "a whole number", value)),
    }
}

/// -1 means off to some clients.
fn top_k(fields: &Fields<'_>) -> Result<Option<u32>, Invalid> {
    match fields.get("top_k") {
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(0)),
        _ => fields.count("top_k"),
    }
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, Invalid> {
    match fields.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            let text = |value: &Value| {
                value
                    .as_str()
                    .map(String::from)
                    .ok_or_else(|| fields::wrong("stop", "strings", value))
            };
            list.iter().map(text).collect()
        }
        Some(other) => Err(fields::wrong(
            "stop",
            "a string or an array of strings",
            other,
        )),
    }
}

fn bias(fields: &Fields<'_>) -> Result<Vec<(Token, f32)>, Invalid> {
    let Some(value) = fields.get("logit_bias") else {
        return Ok(Vec::new());
    };
    let map = value
        .as_object()
        .ok_or_else(|| fields::wrong("logit_bias", "an object", value))?;
    let entry = |(token, bias): (&String, &Value)| {
        let id = token.parse::<Token>().map_err(|_| {
            Invalid::value(
                "logit_bias",
                format!("logit_bias maps token ids to numbers; '{token}' is not a token id"),
            )
        })?;
        let bias = bias
            .as_f64()
            .ok_or_else(|| fields::wrong(&format!("logit_bias.{token}"), "a number", bias))?;
        Ok((id, bias as f32))
    };
    map.iter().map(entry).collect()
}

fn prompt(value: &Value) -> Result<Prompt, Invalid> {
    const EXPECTED: &str =
        "a string, an array of strings, an array of token ids or an array of those";
    let list = match value {
        Value::String(text) => return Ok(Prompt::Texts(vec![text.clone()])),
        Value::Array(list) => list,
        other => return Err(fields::wrong("prompt", EXPECTED, other)),
    };
    match list.first() {
        None => Ok(Prompt::Texts(Vec::new())),
        Some(Value::String(_)) => {
            let text = |v: &Value| {
                v.as_str()
                    .map(String::from)
                    .ok_or_else(|| fields::wrong("prompt", EXPECTED, v))
            };
            Ok(Prompt::Texts(
                list.iter().map(text).collect::<Result<_, _>>()?,
            ))
        }
        Some(Value::Number(_)) => Ok(Prompt::Tokens(vec![tokens(list)?])),
        Some(_) => {
            let inner = |v: &Value| {
                tokens(
                    v.as_array()
                        .ok_or_else(|| fields::wrong("prompt", EXPECTED, v))?,
                )
            };
            Ok(Prompt::Tokens(
                list.iter().map(inner).collect::<Result<_, _>>()?,
            ))
        }
    }
}

fn tokens(list: &[Value]) -> Result<Vec<Token>, Invalid> {
    list.iter().map(|id| fields::count("prompt", id)).collect()
}

/// The tools that the model may see, and what it has to do with them; none and None where a call is
/// not wanted, so that the model is not told of them at all.
fn tools(fields: &Fields<'_>) -> Result<(Vec<Tool>, Option<Choice>), Invalid> {
    let empty = Vec::new();
    let list = fields.array("tools")?.unwrap_or(&empty);
    let tools = list
        .iter()
        .enumerate()
        .map(|(i, tool)| self::tool(i, tool))
        .collect::<Result<Vec<_>, _>>()?;
    let choice = match fields.get("tool_choice") {
        None if tools.is_empty() => None,
        None => Some(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => None,
            "auto" if tools.is_empty() => None,
            "auto" => Some(Choice::Auto),
            "required" => Some(Choice::Required),
            other => {
                let message = format!(
                    "tool_choice must be none, auto, required or a function, not '{other}'"
                );
                return Err(Invalid::value("tool_choice", message));
            }
        },
        Some(value) => Some(named(value)?),
    };
    Ok(if choice.is_some() {
        (tools, choice)
    } else {
        (Vec::new(), None)
    })
}

fn named(value: &Value) -> Result<Choice, Invalid> {
    let choice = Fields::of(value, "tool_choice")?;
    match choice.required_text("type")? {
        "function" => {
            let function = Fields::of(choice.required("function")?, "tool_choice.function")?;
            Ok(Choice::Named(function.required_text("name")?.to_string()))
        }
        other => Err(Invalid::unsupported(
            "tool_choice",
            format!("tool_choice of type '{other}' is not supported here"),
        )),
    }
}

fn tool(index: usize, value: &Value) -> Result<Tool, Invalid> {
    let path = format!("tools[{index}]");
    let tool = Fields::of(value, &path)?;
    let kind = tool.required_text("type")?;
    if kind != "function" {
        let message = format!("{path} has the type '{kind}'; only functions are supported here");
        return Err(Invalid::unsupported(&tool.name("type"), message));
    }
    let path = tool.name("function");
    let function = Fields::of(tool.required("function")?, &path)?;
    let parameters = match function.get("parameters") {
        None => r#"{"type":"object","properties":{}}"#.to_string(),
        Some(schema) if schema.is_object() => schema.to_string(),
        Some(other) => {
            return Err(fields::wrong(
                &function.name("parameters"),
                "a JSON schema",
                other,
            ));
        }
    };
    Ok(Tool {
        name: function.required_text("name")?.to_string(),
        description: function.text("description")?.unwrap_or("").to_string(),
        parameters,
    })
}

fn shape(fields: &Fields<'_>, choice: Option<Choice>) -> Result<Shape, Invalid> {
    let format = match fields.get("response_format") {
        None => Shape::Free,
        Some(format) => response_format(format)?,
    };
    let grammar = match fields.text("grammar")? {
        None | Some("") => Shape::Free,
        Some(text) => Shape::Grammar(text.to_string()),
    };
    let calls = choice.map_or(Shape::Free, Shape::Tools);
    let mut asked = [
        ("response_format", format),
        ("grammar", grammar),
        ("tools", calls),
    ]
    .into_iter();
    let mut asked = asked.by_ref().filter(|(_, shape)| *shape != Shape::Free);
    match (asked.next(), asked.next()) {
        (Some((first, _)), Some((second, _))) => {
            let message = format!(
                "{first} and {second} both say what the answer looks like; send one of them"
            );
            Err(Invalid::unsupported(first, message))
        }
        (Some((_, shape)), None) => Ok(shape),
        (None, _) => Ok(Shape::Free),
    }
}

fn response_format(value: &Value) -> Result<Shape, Invalid> {
    let format = Fields::of(value, "response_format")?;
    match format.required_text("type")? {
        "text" => Ok(Shape::Free),
        "json_object" => Ok(Shape::Json),
        "json_schema" => {
            let wrapper = Fields::of(
                format.required("json_schema")?,
                "response_format.json_schema",
            )?;
            Ok(Shape::Schema(wrapper.required("schema")?.clone()))
        }
        other => {
            let message = format!(
                "response_format.type must be text, json_object or json_schema, not '{other}'"
            );
            Err(Invalid::value("response_format.type", message))
        }
    }
}
