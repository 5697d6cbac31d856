//! Conversations as the model was taught to read them, by family, never by the file's own template:
//! a template is a program that a stranger wrote.
//!
//! Text and markers stay apart: what a user typed is tokenised as plain text, so nobody can type a
//! `<|im_end|>` that counts.

/// How a family of models marks turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    ChatMl,
    Llama3,
    Qwen,
    Gemma,
    Mistral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// Calls the assistant made in this turn.
    pub tool_calls: Vec<ToolCall>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// JSON schema of its arguments, as text.
    pub parameters: String,
}

/// A stretch of prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A marker of the family: special tokens are recognised in it.
    Marker(&'static str),
    /// Somebody's words: no special token is recognised in it.
    Text(String),
}
