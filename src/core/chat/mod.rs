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
    #[error("{count} tools are more than the {max} that one request may have")]
    TooManyTools { count: usize, max: usize },
    #[error("tools[{index}] has parameters that are not a JSON object")]
    BadParameters { index: usize },
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

    /// For a model outside the catalogue, from the control tokens that its vocabulary has: a family
    /// whose markers are not control tokens could be faked by anyone's text. The embedded template is
    /// only asked which family it speaks where the vocabulary has the tokens of several.
    pub fn detect(
        architecture: &str,
        name: &str,
        template_hint: Option<&str>,
        has_token: impl Fn(&str) -> bool,
    ) -> Option<Family> {
        const MARKS: [(Family, [&str; 2]); 4] = [
            (Family::Llama3, ["<|start_header_id|>", "<|eot_id|>"]),
            (Family::ChatMl, ["<|im_start|>", "<|im_end|>"]),
            (Family::Gemma, ["<start_of_turn>", "<end_of_turn>"]),
            (Family::Mistral, ["[INST]", "[/INST]"]),
        ];
        let mut found = MARKS
            .iter()
            .filter(|(_, marks)| marks.iter().all(|mark| has_token(mark)));
        let first = found.next()?;
        let (family, _) = found
            .chain([first])
            .find(|(_, marks)| template_hint.is_some_and(|hint| hint.contains(marks[0])))
            .unwrap_or(first);
        let qwen =
            || architecture.starts_with("qwen") || name.to_ascii_lowercase().contains("qwen");
        Some(if *family == Family::ChatMl && qwen() {
            Family::Qwen
        } else {
            *family
        })
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

    fn detect(
        architecture: &str,
        name: &str,
        hint: Option<&str>,
        tokens: &[&str],
    ) -> Option<Family> {
        Family::detect(architecture, name, hint, |token| tokens.contains(&token))
    }

    #[test]
    fn families_are_known_by_their_control_tokens() {
        let chatml = ["<|im_start|>", "<|im_end|>"];
        assert_eq!(
            detect("llama", "SmolLM2 135M", None, &chatml),
            Some(Family::ChatMl)
        );
        assert_eq!(
            detect("qwen3", "some merge", None, &chatml),
            Some(Family::Qwen)
        );
        assert_eq!(
            detect("llama", "x", None, &["<|start_header_id|>", "<|eot_id|>"]),
            Some(Family::Llama3)
        );
        assert_eq!(
            detect("gemma3", "x", None, &["<start_of_turn>", "<end_of_turn>"]),
            Some(Family::Gemma)
        );
        assert_eq!(
            detect("llama", "Mistral 7B", None, &["[INST]", "[/INST]"]),
            Some(Family::Mistral)
        );
        assert_eq!(
            detect("llama", "Mistral 7B v0.1", Some("[INST]"), &[]),
            None
        );
    }

    #[test]
    fn the_template_only_decides_between_families_that_the_vocabulary_has() {
        let both = [
            "<|start_header_id|>",
            "<|eot_id|>",
            "<|im_start|>",
            "<|im_end|>",
        ];
        assert_eq!(
            detect("llama", "Hermes 3", Some("{{'<|im_start|>'}}"), &both),
            Some(Family::ChatMl)
        );
        assert_eq!(
            detect("llama", "x", Some("<start_of_turn>"), &both),
            Some(Family::Llama3)
        );
        assert_eq!(detect("llama", "x", None, &both), Some(Family::Llama3));
    }

    #[test]
    fn names_come_back() {
        for family in Family::ALL {
            assert_eq!(family.to_string().parse(), Ok(family));
        }
        assert!("vicuna".parse::<Family>().is_err());
    }
}
