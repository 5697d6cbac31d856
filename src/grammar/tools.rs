//! Function calls: the grammar that a family's calls obey, and reading them back.
//!
//! - ChatML and Qwen: `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`, as many as wanted,
//!   after any text
//! - Llama 3 and Gemma: the text is `{"name": …, "parameters": {…}}`
//! - Mistral: `[TOOL_CALLS]`, then an array of `{"name": …, "arguments": {…}}`

use super::{GrammarError, check_nesting, refuse};
use quorate_core::chat::{Family, Tool, ToolCall};
use quorate_core::ids::Token;
use quorate_core::limits;
use quorate_core::vocab::Vocab;
use serde_json::{Value, json};
use std::fmt::Write;

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

// --- the grammar ----------------------------------------------------------------------------------

const CALLS: &str = "[TOOL_CALLS]";
const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// The control token that opens the family's calls, where there is one: its name is not text.
pub(super) fn opener(family: Family, vocab: &Vocab) -> Option<Token> {
    if family != Family::Mistral {
        return None;
    }
    (0..vocab.len())
        .find(|&token| vocab.is_control(token) && vocab.piece(token) == CALLS.as_bytes())
}

/// Literals that tell calls from text are one lexeme each, and no text may begin (or, where text may
/// come first, go on) like one: the lexer takes the longest match and never looks back.
pub(super) fn lark(
    tools: &[Tool],
    choice: &ToolChoice,
    family: Family,
    opener: Option<Token>,
) -> Result<String, GrammarError> {
    let named = |tool: &&Tool| !matches!(choice, ToolChoice::Named(name) if *name != tool.name);
    let offered: Vec<&Tool> = tools.iter().filter(named).collect();
    if offered.is_empty() {
        return refuse(match choice {
            ToolChoice::Named(name) => {
                format!("tool_choice names '{name}', which is not among the tools")
            }
            _ => "there are no tools to call".into(),
        });
    }
    if offered.len() > limits::TOOLS_MAX {
        return refuse(format!(
            "{} tools are more than {}",
            offered.len(),
            limits::TOOLS_MAX
        ));
    }
    let mut out = String::from(match (Form::of(family), choice) {
        (Form::Tagged, ToolChoice::Auto) => {
            "start: \"\" | TEXT | first (\"\\n<tool_call>\\n\" call \"\\n</tool_call>\")*\n\
             first: open call \"\\n</tool_call>\"\n\
             open[lazy]: /(?s:.*)<tool_call>\\n/\n\
             TEXT: /(?s:.+)/ & ~/(?s:.*)<tool_call>(?s:.*)/\n"
        }
        (Form::Tagged, ToolChoice::Required) => {
            "start: tagged (\"\\n\" tagged)*\ntagged: \"<tool_call>\\n\" call \"\\n</tool_call>\"\n"
        }
        (Form::Tagged, ToolChoice::Named(_)) => {
            "start: \"<tool_call>\\n\" call \"\\n</tool_call>\"\n"
        }
        (Form::Object, ToolChoice::Auto) => {
            "start: \"\" | TEXT | call\nTEXT: /(?s:.+)/ & ~/\\{\"name\": \"(?s:.*)/\n"
        }
        (Form::Object, _) => "start: call\n",
        (Form::Array, ToolChoice::Auto) => {
            "start: \"\" | TEXT | calls\nTEXT: /(?s:.+)/ & ~/\\[TOOL_CALLS\\](?s:.*)/\n\
             calls: opener call (\", \" call)* \"]\"\n"
        }
        (Form::Array, ToolChoice::Required) => "start: opener call (\", \" call)* \"]\"\n",
        (Form::Array, ToolChoice::Named(_)) => "start: opener call \"]\"\n",
    });
    if family == Family::Mistral {
        // The space is what SentencePiece puts after a marker.
        out.push_str(&match opener {
            Some(token) => format!("opener: <[{token}]> /[ ]?\\[/\n"),
            None => "opener: /\\[TOOL_CALLS\\][ ]?\\[/\n".into(),
        });
    }
    push_calls(&mut out, &offered, arguments_key(family))?;
    Ok(out)
}

fn arguments_key(family: Family) -> &'static str {
    match Form::of(family) {
        Form::Object => "parameters",
        Form::Tagged | Form::Array => "arguments",
    }
}

/// `call: call0 | call1 …`, each with its function's own schema.
fn push_calls(out: &mut String, tools: &[&Tool], key: &str) -> Result<(), GrammarError> {
    let bytes: usize = tools
        .iter()
        .map(|tool| tool.parameters.len() + tool.name.len())
        .sum();
    if bytes > limits::GRAMMAR_BYTES_MAX {
        return refuse(format!(
            "tools of {bytes} bytes are more than {}",
            limits::GRAMMAR_BYTES_MAX
        ));
    }
    let alternatives: Vec<String> = (0..tools.len()).map(|nth| format!("call{nth}")).collect();
    let mut rules = format!("call: {}\n", alternatives.join(" | "));
    for (nth, tool) in tools.iter().enumerate() {
        let before = format!(
            "{{\"name\": {}, \"{key}\": ",
            Value::from(tool.name.as_str())
        );
        let schema = arguments_schema(tool)?;
        // Writing to a string cannot fail.
        let _ok = writeln!(
            rules,
            "call{nth}: {} %json {schema} \"}}\"",
            lark_literal(&before)
        );
    }
    out.push_str(&rules);
    Ok(())
}

/// One lexeme for any text: Lark's own strings have fewer escapes.
fn lark_literal(text: &str) -> String {
    let mut out = String::from("/");
    for letter in text.chars() {
        let _ok = write!(out, "\\x{{{:x}}}", u32::from(letter));
    }
    out.push('/');
    out
}

/// Laid out as the prompt lays calls out. What cannot be enforced is let pass: a tool's schema is
/// written for its function, not for us, and the function checks again.
fn arguments_schema(tool: &Tool) -> Result<Value, GrammarError> {
    let parsed = serde_json::from_str(&tool.parameters).map_err(|error| {
        GrammarError::Compile(format!("parameters of tool '{}': {error}", tool.name))
    })?;
    check_nesting(&parsed)?;
    let Value::Object(mut schema) = parsed else {
        return refuse(format!(
            "parameters of tool '{}' are not an object",
            tool.name
        ));
    };
    schema.insert("type".into(), "object".into());
    if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        // Models invent arguments where they may.
        schema.insert("additionalProperties".into(), false.into());
    }
    let options = json!({"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false,
        "lenient": true});
    schema.insert("x-guidance".into(), options);
    Ok(Value::Object(schema))
}

// --- reading calls back ---------------------------------------------------------------------------

/// How a family's calls stand in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Between tags, anywhere.
    Tagged,
    /// The whole text, one object or several.
    Object,
    /// The whole text, an array.
    Array,
}

impl Form {
    fn of(family: Family) -> Form {
        match family {
            Family::ChatMl | Family::SmolLm2 | Family::Qwen | Family::Qwen25 => Form::Tagged,
            Family::Llama3 | Family::Gemma => Form::Object,
            Family::Mistral => Form::Array,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting for a call: the next tag, or whether the text begins with one.
    Before,
    /// Inside a call's JSON.
    Inside,
    /// Past a tagged call's JSON, before its closing tag.
    Closing,
    /// Only text from here on.
    Plain,
}

/// Reads calls out of a response while it is being written. Holds text back only while it may be
/// the beginning of a call.
#[derive(Debug)]
pub struct CallParser {
    form: Form,
    state: State,
    held: String,
    scan: Scan,
    called: bool,
}

impl CallParser {
    pub fn new(family: Family) -> CallParser {
        CallParser {
            form: Form::of(family),
            state: State::Before,
            held: String::new(),
            scan: Scan::default(),
            called: false,
        }
    }

    /// Takes the next text of the response.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// The response is over: what was held back is content after all, or a call.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        let held = std::mem::take(&mut self.held);
        let blank = held.trim().is_empty();
        match self.state {
            State::Inside if self.form == Form::Tagged => {
                content(&mut out, &format!("{OPEN}{held}"))
            }
            State::Before | State::Closing if self.called && blank => {}
            State::Closing => {}
            State::Before | State::Inside | State::Plain => content(&mut out, &held),
        }
        out
    }

    /// False when more text is needed.
    fn step(&mut self, out: &mut Vec<Delta>) -> bool {
        match (self.state, self.form) {
            (State::Plain, _) => {
                content(out, &self.held);
                self.held.clear();
                false
            }
            (State::Before, Form::Tagged) => self.seek_tag(out),
            (State::Before, Form::Object | Form::Array) => self.seek_start(),
            (State::Inside, _) => self.read_call(out),
            (State::Closing, _) => {
                let rest = self.held.trim_start();
                if let Some(rest) = rest.strip_prefix(CLOSE) {
                    self.held = rest.to_string();
                } else if CLOSE.starts_with(rest) {
                    return false;
                }
                self.state = State::Before;
                true
            }
        }
    }

    fn seek_tag(&mut self, out: &mut Vec<Delta>) -> bool {
        if let Some(at) = self.held.find(OPEN) {
            content(out, self.held[..at].trim_end());
            self.held.drain(..at + OPEN.len());
            self.enter();
            return true;
        }
        // The white space before a tag belongs to the tag.
        let partial = (1..OPEN.len())
            .rev()
            .find(|&len| self.held.ends_with(&OPEN[..len]))
            .unwrap_or(0);
        let said = self.held[..self.held.len() - partial].trim_end().len();
        content(out, &self.held[..said]);
        self.held.drain(..said);
        false
    }

    fn seek_start(&mut self) -> bool {
        let mut rest = self
            .held
            .trim_start_matches(|c: char| c.is_whitespace() || self.called && ";,".contains(c));
        let (mark, opening): (&str, &[&str]) = match self.form {
            Form::Array => (CALLS, &["[", "{", "\"name\"", ":"]),
            Form::Object | Form::Tagged => ("<|python_tag|>", &["{", "\"name\"", ":"]),
        };
        if !rest.is_empty() && rest.len() < mark.len() && mark.starts_with(rest) {
            return false;
        }
        rest = rest.strip_prefix(mark).unwrap_or(rest).trim_start();
        match begins(rest, opening) {
            Begins::Maybe => false,
            Begins::No => {
                self.state = State::Plain;
                true
            }
            Begins::Yes => {
                self.held = rest.to_string();
                self.enter();
                true
            }
        }
    }

    fn enter(&mut self) {
        self.state = State::Inside;
        self.scan = Scan::default();
    }

    fn read_call(&mut self, out: &mut Vec<Delta>) -> bool {
        let end = match self.scan.end(self.held.as_bytes()) {
            End::Unknown => return false,
            End::At(end) => Some(end),
            End::Never => None,
        };
        match end.and_then(|end| Some((end, calls(&self.held[..end])?))) {
            Some((end, calls)) => {
                out.extend(calls.into_iter().map(Delta::Call));
                self.held.drain(..end);
                self.called = true;
                self.state = match self.form {
                    Form::Tagged => State::Closing,
                    Form::Object | Form::Array => State::Before,
                };
            }
            None => {
                if self.form == Form::Tagged {
                    self.held.insert_str(0, OPEN);
                }
                self.state = State::Plain;
            }
        }
        true
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

fn content(out: &mut Vec<Delta>, text: &str) {
    if !text.is_empty() {
        out.push(Delta::Content(text.into()));
    }
}

/// The calls in one JSON text, all of them or none.
fn calls(text: &str) -> Option<Vec<ToolCall>> {
    let value: Value = serde_json::from_str(text).ok()?;
    match &value {
        Value::Array(items) if !items.is_empty() => items.iter().map(call).collect(),
        value => Some(vec![call(value)?]),
    }
}

fn call(value: &Value) -> Option<ToolCall> {
    let name = value.get("name")?.as_str()?.to_string();
    let arguments = value.get("arguments").or_else(|| value.get("parameters"))?;
    Some(ToolCall {
        name,
        arguments: arguments.as_object().map(|_| arguments.to_string())?,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Begins {
    Yes,
    No,
    /// The text is too short to tell.
    Maybe,
}

/// Does the text begin with these parts, white space between them?
fn begins(text: &str, parts: &[&str]) -> Begins {
    let mut rest = text;
    for part in parts {
        rest = rest.trim_start();
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None if part.starts_with(rest) => return Begins::Maybe,
            None => return Begins::No,
        }
    }
    Begins::Yes
}

/// Finds where a JSON value ends, without reading anything twice.
#[derive(Debug, Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

enum End {
    Unknown,
    At(usize),
    /// It does not begin as an object or array.
    Never,
}

impl Scan {
    fn end(&mut self, bytes: &[u8]) -> End {
        while let Some(&byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string && self.depth > 0,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth <= 1 => {
                    return if self.depth == 1 {
                        End::At(self.at)
                    } else {
                        End::Never
                    };
                }
                b'}' | b']' => self.depth -= 1,
                byte if self.depth == 0 && !byte.is_ascii_whitespace() => return End::Never,
                _ => {}
            }
        }
        End::Unknown
    }
}
