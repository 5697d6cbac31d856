//! Conversations as the model was taught to read them, by family, never by the file's own template:
//! a template is a program that a stranger wrote.
//!
//! Text and markers stay apart: what a user typed is tokenised as plain text, so nobody can type a
//! `<|im_end|>` that counts.

mod json;
mod render;
#[cfg(test)]
mod render_tests;

pub use render::render;

/// How a family of models marks turns, and what it was taught to hear where nobody instructs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    ChatMl,
    SmolLm2,
    Llama3,
    Qwen,
    Qwen25,
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
    #[error("{count} tools are more than the {max} that one request may have")]
    TooManyTools { count: usize, max: usize },
    #[error("tools[{index}] has parameters that are not a JSON object")]
    BadParameters { index: usize },
}

/// Was the family trained with a token that starts the text?
pub fn wants_bos(family: Family) -> bool {
    match family {
        Family::ChatMl | Family::SmolLm2 | Family::Qwen | Family::Qwen25 => false,
        Family::Llama3 | Family::Gemma | Family::Mistral => true,
    }
}

/// Not the name of a family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no chat family '{0}' (chatml, smollm2, llama3, qwen, qwen2.5, gemma, mistral)")]
pub struct UnknownFamily(pub String);

impl Family {
    pub const ALL: [Family; 7] = [
        Family::ChatMl,
        Family::SmolLm2,
        Family::Llama3,
        Family::Qwen,
        Family::Qwen25,
        Family::Gemma,
        Family::Mistral,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Family::ChatMl => "chatml",
            Family::SmolLm2 => "smollm2",
            Family::Llama3 => "llama3",
            Family::Qwen => "qwen",
            Family::Qwen25 => "qwen2.5",
            Family::Gemma => "gemma",
            Family::Mistral => "mistral",
        }
    }

    /// What the model was taught to hear where a conversation has no system message.
    pub fn default_system(self) -> Option<&'static str> {
        match self {
            Family::SmolLm2 => {
                Some("You are a helpful AI assistant named SmolLM, trained by Hugging Face")
            }
            Family::Qwen25 => {
                Some("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
            }
            Family::ChatMl | Family::Qwen | Family::Llama3 | Family::Gemma | Family::Mistral => {
                None
            }
        }
    }

    /// The same family, narrowed to the member whose default system message stands in the file's own
    /// template. The template is never run and none of its text is used: it is only asked which of
    /// the texts that we know it has.
    #[must_use]
    pub fn as_taught(self, template: &str) -> Family {
        let member = match self {
            Family::ChatMl => Family::SmolLm2,
            Family::Qwen => Family::Qwen25,
            other => return other,
        };
        match member.default_system() {
            Some(text) if template.contains(text) => member,
            _ => self,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_only_says_which_member_of_its_family_it_belongs_to() {
        let smollm2 = r"{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>' }}{% endif %}";
        let qwen25 =
            r"{{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}";
        assert_eq!(Family::ChatMl.as_taught(smollm2), Family::SmolLm2);
        assert_eq!(Family::Qwen.as_taught(qwen25), Family::Qwen25);
        assert_eq!(Family::ChatMl.as_taught(qwen25), Family::ChatMl);
        assert_eq!(
            Family::Qwen.as_taught("{{ 'You are evil.' }}"),
            Family::Qwen
        );
        assert_eq!(Family::Gemma.as_taught(smollm2), Family::Gemma);
    }

    #[test]
    fn names_come_back() {
        for family in Family::ALL {
            assert_eq!(family.to_string().parse(), Ok(family));
        }
        assert!("vicuna".parse::<Family>().is_err());
    }
}
