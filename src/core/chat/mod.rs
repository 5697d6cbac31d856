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

/// What is wrong with a conversation; `index` is the message's place, from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    #[error("a conversation needs at least one message of role user")]
    NoUser,
    #[error("{count} messages are more than the {max} that one request may have")]
    TooMany { count: usize, max: usize },
    #[error("messages[{index}] has role system, which must come first")]
    SystemNotFirst { index: usize },
    #[error("messages[{index}] has role tool, but no call of an assistant message awaits a result")]
    ToolWithoutCall { index: usize },
    #[error("messages[{index}] has tool calls, which only an assistant message may have")]
    CallsNotByAssistant { index: usize },
    #[error("messages[{index}] has a tool call whose arguments are not a JSON object")]
    BadArguments { index: usize },
    #[error("tools[{index}] has parameters that are not a JSON object")]
    BadParameters { index: usize },
}

/// The prompt of a conversation, ending where the assistant begins to speak. A last message of the
/// assistant's is left open, to be continued.
pub fn render(
    _family: Family,
    _messages: &[Message],
    _tools: &[Tool],
) -> Result<Vec<Segment>, ChatError> {
    Err(ChatError::NoUser)
}

/// Was the family trained with a token that starts the text?
pub fn wants_bos(family: Family) -> bool {
    match family {
        Family::ChatMl | Family::Qwen => false,
        Family::Llama3 | Family::Gemma | Family::Mistral => true,
    }
}

/// Not the name of a family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no chat family '{0}' (chatml, llama3, qwen, gemma, mistral)")]
pub struct UnknownFamily(pub String);

impl Family {
    pub const ALL: [Family; 5] = [
        Family::ChatMl,
        Family::Llama3,
        Family::Qwen,
        Family::Gemma,
        Family::Mistral,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Family::ChatMl => "chatml",
            Family::Llama3 => "llama3",
            Family::Qwen => "qwen",
            Family::Gemma => "gemma",
            Family::Mistral => "mistral",
        }
    }

    /// For a model outside the catalogue. `has_token` says whether the vocabulary has this control
    /// token; the embedded template is only a hint between families that share their tokens.
    pub fn detect(
        _architecture: &str,
        _name: &str,
        _template_hint: Option<&str>,
        has_token: impl Fn(&str) -> bool,
    ) -> Option<Family> {
        has_token("<|im_start|>").then_some(Family::ChatMl)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(text: &str) -> Result<Family, UnknownFamily> {
        Family::ALL
            .into_iter()
            .find(|f| f.name() == text)
            .ok_or_else(|| UnknownFamily(text.into()))
    }
}
