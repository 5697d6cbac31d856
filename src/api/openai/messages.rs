//! The `messages` of a chat.

use super::fields::{self, Fields};
use crate::wish::Invalid;
use quorate_core::chat::{Message, Role, ToolCall};
use serde_json::Value;

pub(super) fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, Invalid> {
    let value = fields.required("messages")?;
    let list = value
        .as_array()
        .ok_or_else(|| fields::wrong("messages", "an array", value))?;
    list.iter()
        .enumerate()
        .map(|(i, value)| message(i, value))
        .collect()
}

fn message(index: usize, value: &Value) -> Result<Message, Invalid> {
    let path = format!("messages[{index}]");
    let message = Fields::of(value, &path)?;
    let role = match message.required_text("role")? {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        "function" => {
            let text = format!("{path} has the role 'function', which `tool` replaced");
            return Err(Invalid::unsupported(&message.name("role"), text));
        }
        other => {
            let text = format!(
                "{path}.role must be system, developer, user, assistant or tool, not '{other}'"
            );
            return Err(Invalid::value(&message.name("role"), text));
        }
    };
    let tool_calls = match message.array("tool_calls")? {
        None => Vec::new(),
        Some(calls) => calls
            .iter()
            .enumerate()
            .map(|(i, call)| tool_call(&path, i, call))
            .collect::<Result<_, _>>()?,
    };
    let content = match message.get("content") {
        Some(content) => self::content(&message.name("content"), content)?,
        // An assistant who only called said nothing.
        None if !tool_calls.is_empty() => String::new(),
        None => {
            let name = message.name("content");
            return Err(Invalid::missing(&name, format!("{name} is missing")));
        }
    };
    Ok(Message {
        role,
        content,
        tool_calls,
    })
}

/// A string, or parts of text.
fn content(path: &str, value: &Value) -> Result<String, Invalid> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            return Err(fields::wrong(
                path,
                "a string or an array of text parts",
                other,
            ));
        }
    };
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let part = Fields::of(part, &path)?;
        match part.required_text("type")? {
            "text" => text.push_str(part.required_text("text")?),
            "refusal" => text.push_str(part.required_text("refusal")?),
            other => {
                let message = format!("{path} is of type '{other}'; this node reads text only");
                return Err(Invalid::unsupported(&path, message));
            }
        }
    }
    Ok(text)
}

fn tool_call(path: &str, index: usize, value: &Value) -> Result<ToolCall, Invalid> {
    let path = format!("{path}.tool_calls[{index}]");
    let call = Fields::of(value, &path)?;
    let path = call.name("function");
    let function = Fields::of(call.required("function")?, &path)?;
    Ok(ToolCall {
        name: function.required_text("name")?.to_string(),
        arguments: function.text("arguments")?.unwrap_or("{}").to_string(),
    })
}
