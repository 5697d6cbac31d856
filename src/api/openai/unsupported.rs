//! Parameters of OpenAI and of other servers that change what an answer means and are not obeyed
//! here. A value that asks for nothing is fine; any other is refused by name, never ignored.
//! Everything that is neither here nor read elsewhere is harmless (`user`, `metadata`, `store`,
//! `service_tier`, ...) and ignored.

use super::fields::Fields;
use crate::wish::Invalid;
use serde_json::Value;

/// When a parameter asks for nothing.
enum Neutral {
    /// Only when absent or null.
    Never,
    /// At this number, too.
    Number(f64),
    False,
    /// An empty list or object.
    Empty,
    /// `["text"]`.
    TextOnly,
    Text(&'static str),
}

const UNSUPPORTED: [(&str, Neutral, &str); 27] = [
    ("audio", Neutral::Never, "this node speaks text only"),
    (
        "modalities",
        Neutral::TextOnly,
        "this node speaks text only",
    ),
    ("functions", Neutral::Empty, "use `tools`"),
    ("function_call", Neutral::Text("none"), "use `tool_choice`"),
    ("prediction", Neutral::Never, "leave it out"),
    (
        "web_search_options",
        Neutral::Never,
        "this node does not search the web",
    ),
    ("suffix", Neutral::Text(""), "leave it out"),
    ("echo", Neutral::False, "leave it out"),
    (
        "best_of",
        Neutral::Number(1.0),
        "use `n` and choose yourself",
    ),
    ("use_beam_search", Neutral::False, "leave it out"),
    ("length_penalty", Neutral::Number(1.0), "leave it out"),
    ("min_tokens", Neutral::Number(0.0), "leave it out"),
    ("ignore_eos", Neutral::False, "leave it out"),
    ("stop_token_ids", Neutral::Empty, "use `stop`"),
    ("prompt_logprobs", Neutral::Never, "leave it out"),
    ("guided_json", Neutral::Never, "use `response_format`"),
    ("guided_regex", Neutral::Never, "use `grammar`"),
    ("guided_choice", Neutral::Never, "use `grammar`"),
    ("guided_grammar", Neutral::Never, "use `grammar`"),
    (
        "structured_outputs",
        Neutral::Never,
        "use `response_format`",
    ),
    ("json_schema", Neutral::Never, "use `response_format`"),
    ("typical_p", Neutral::Number(1.0), "leave it out"),
    ("tfs_z", Neutral::Number(1.0), "leave it out"),
    ("mirostat", Neutral::Number(0.0), "leave it out"),
    ("dry_multiplier", Neutral::Number(0.0), "leave it out"),
    ("xtc_probability", Neutral::Number(0.0), "leave it out"),
    ("dynatemp_range", Neutral::Number(0.0), "leave it out"),
];

pub(super) fn refuse(fields: &Fields<'_>) -> Result<(), Invalid> {
    for (name, neutral, hint) in &UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !neutral.is(value)) {
            let message =
                format!("{name} would change the answer and is not supported here; {hint}");
            return Err(Invalid::unsupported(name, message));
        }
    }
    Ok(())
}

impl Neutral {
    fn is(&self, value: &Value) -> bool {
        match self {
            Neutral::Never => false,
            Neutral::Number(off) => value.as_f64() == Some(*off),
            Neutral::False => *value == Value::Bool(false),
            Neutral::Empty => {
                value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(|o| o.is_empty())
            }
            Neutral::TextOnly => value
                .as_array()
                .is_some_and(|list| list.iter().all(|item| item == "text")),
            Neutral::Text(off) => value.as_str() == Some(off),
        }
    }
}
