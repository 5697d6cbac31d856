//! What a response may look like: JSON, a JSON schema, a grammar, a choice of function calls.
//! Compiled with `llguidance` against the model's vocabulary; applied as a mask by the router.
//!
//! Constructors take milliseconds, some hundred for the first of a vocabulary, up to two seconds for
//! a text made to hurt: call them on a thread that may block. Masks take 10-50 microseconds on
//! average (`tests/grammar/bench.rs` prints them), 1-2 ms for recursive GBNF.
//!
//! Tokens are never forced ahead of the model: that is exact only where the text is tokenised as the
//! model would, and a vocabulary alone cannot tell.

use crate::grammar::env::Env;
use crate::grammar::tools::ToolChoice;
use llguidance::api::TopLevelGrammar;
use quorate_core::chat::{Family, Tool};
use quorate_core::ids::Token;
use quorate_core::limits;
use quorate_core::mask::Mask;
use quorate_core::vocab::Vocab;
use serde_json::{Value, json};
use std::fmt::Display;
use std::sync::Arc;

mod env;
mod gbnf;
pub mod tools;

/// Compilers of schemas and regular expressions recurse; within the nesting that is allowed here,
/// this is several times what they were seen to need.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// White space between JSON's parts. Bounded: a model that does not know how to go on would emit it
/// for ever.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// Follows one response through its grammar.
pub struct Matcher {
    inner: llguidance::Matcher,
    env: Arc<Env>,
    /// The control token that opens this family's calls, if it is one.
    opener: Option<Token>,
    done: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
    /// The client's fault: the text says what is wrong with the schema or grammar.
    #[error("the grammar does not compile: {0}")]
    Compile(String),
    #[error("the grammar failed at a token: {0}")]
    Step(String),
}

/// What may come next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Allowed(Mask),
    /// The text is complete; nothing more may come.
    Done,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher")
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl Matcher {
    /// Any JSON object.
    pub fn json_object(vocab: &Arc<Vocab>) -> Result<Matcher, GrammarError> {
        Matcher::json_schema(&json!({"type": "object"}), vocab)
    }

    /// A keyword that cannot be enforced is an error that names it.
    pub fn json_schema(schema: &Value, vocab: &Arc<Vocab>) -> Result<Matcher, GrammarError> {
        let options = json!({"whitespace_flexible": true, "whitespace_pattern": JSON_SPACE});
        let schema = checked_schema(schema, options)?;
        Matcher::compile(TopLevelGrammar::from_json_schema(schema), None, vocab)
    }

    /// A grammar in llguidance's Lark, or in llama.cpp's GBNF.
    pub fn grammar(text: &str, vocab: &Arc<Vocab>) -> Result<Matcher, GrammarError> {
        if text.len() > limits::GRAMMAR_TEXT_BYTES_MAX {
            return refuse(format!(
                "{} bytes are more than {}",
                text.len(),
                limits::GRAMMAR_TEXT_BYTES_MAX
            ));
        }
        let lark = if gbnf::is_gbnf(text) {
            gbnf::to_lark(text)?
        } else {
            gbnf::checked_lark(text)?
        };
        Matcher::compile(TopLevelGrammar::from_lark(lark), None, vocab)
    }

    /// Function calls in the family's own syntax.
    pub fn tools(
        tools: &[Tool],
        choice: &ToolChoice,
        family: Family,
        vocab: &Arc<Vocab>,
    ) -> Result<Matcher, GrammarError> {
        let opener = tools::opener(family, vocab);
        let lark = tools::lark(tools, choice, family, opener)?;
        Matcher::compile(TopLevelGrammar::from_lark(lark), opener, vocab)
    }

    fn compile(
        grammar: TopLevelGrammar,
        opener: Option<Token>,
        vocab: &Arc<Vocab>,
    ) -> Result<Matcher, GrammarError> {
        let env = env::of(vocab)?;
        let factory = &env.factory;
        let compiled = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".into())
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(scope, || factory.create_parser(grammar))
                .map(|thread| thread.join())
        });
        let parser = match compiled {
            Ok(Ok(Ok(parser))) => parser,
            Ok(Ok(Err(error))) => return refuse(said(&error)),
            Ok(Err(_)) => return refuse("the compiler panicked".into()),
            Err(error) => return refuse(format!("no thread to compile on: {error}")),
        };
        let inner = llguidance::Matcher::new(Ok(parser));
        let mut matcher = Matcher {
            inner,
            env,
            opener,
            done: false,
        };
        // A grammar that no text fits, or that costs too much from the start, is the client's fault.
        match matcher.next() {
            Ok(_) => Ok(matcher),
            Err(GrammarError::Step(why) | GrammarError::Compile(why)) => refuse(why),
        }
    }

    /// The tokens that fit the next position. Tokens that end the turn are among them exactly where
    /// the text may end.
    #[expect(
        clippy::should_implement_trait,
        reason = "asking twice gives the same answer: no iterator"
    )]
    pub fn next(&mut self) -> Result<Next, GrammarError> {
        if self.done {
            return Ok(Next::Done);
        }
        let accepting = self.inner.is_accepting().map_err(failed)?;
        let fitting = self.inner.compute_mask().map_err(failed)?;
        let mut words: Vec<u32> = fitting
            .as_slice()
            .iter()
            .zip(&self.env.barred)
            .map(|(fits, barred)| fits & !barred)
            .collect();
        let mut allow = |token: Token| {
            if let Some(word) = words.get_mut((token / 32) as usize) {
                *word |= 1 << (token % 32);
            }
        };
        if let Some(opener) = self.opener
            && fitting.is_allowed(opener)
        {
            allow(opener);
        }
        if words.iter().all(|word| *word == 0) {
            self.done = accepting;
            return if accepting {
                Ok(Next::Done)
            } else {
                Err(GrammarError::Step("no token fits".into()))
            };
        }
        if accepting {
            for &end in &self.env.ends {
                if let Some(word) = words.get_mut((end / 32) as usize) {
                    *word |= 1 << (end % 32);
                }
            }
        }
        Ok(Next::Allowed(Mask::new(words, fitting.len() as u32)))
    }

    pub fn commit(&mut self, token: Token) -> Result<(), GrammarError> {
        if self.done {
            return Err(GrammarError::Step("the text was complete".into()));
        }
        if self.env.ends.contains(&token) {
            self.done = self.inner.is_accepting().map_err(failed)?;
            return if self.done {
                Ok(())
            } else {
                Err(GrammarError::Step("the text may not end here".into()))
            };
        }
        let word = self
            .env
            .barred
            .get((token / 32) as usize)
            .copied()
            .unwrap_or(u32::MAX);
        if word >> (token % 32) & 1 == 1 && self.opener != Some(token) {
            return Err(GrammarError::Step(format!("token {token} is not text")));
        }
        self.inner.consume_token(token).map_err(failed)?;
        self.done = self.inner.is_stopped();
        if self.done && !self.inner.stop_reason().is_ok() {
            return Err(GrammarError::Step(self.inner.stop_reason().to_string()));
        }
        Ok(())
    }
}

fn refuse<T>(why: String) -> Result<T, GrammarError> {
    Err(GrammarError::Compile(why))
}

/// Bounds the schema and sets how its JSON is laid out.
fn checked_schema(schema: &Value, options: Value) -> Result<Value, GrammarError> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Object(_) => {
            check_nesting(schema)?;
            schema.clone()
        }
        _ => return refuse("a JSON schema is an object".into()),
    };
    let bytes = schema.to_string().len();
    if bytes > limits::GRAMMAR_BYTES_MAX {
        return refuse(format!(
            "a schema of {bytes} bytes is more than {}",
            limits::GRAMMAR_BYTES_MAX
        ));
    }
    schema["x-guidance"] = options;
    Ok(schema)
}

/// Before anything that recurses sees the value, its clone and its text included.
fn check_nesting(value: &Value) -> Result<(), GrammarError> {
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > limits::GRAMMAR_NESTING_MAX {
            return refuse(format!(
                "a schema nested deeper than {}",
                limits::GRAMMAR_NESTING_MAX
            ));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => {
                open.extend(members.values().map(|member| (member, depth + 1)))
            }
            _ => {}
        }
    }
    Ok(())
}

fn failed(error: impl Display) -> GrammarError {
    GrammarError::Step(said(&error))
}

/// The error without llguidance's dumps.
fn said(error: &impl Display) -> String {
    let text = error.to_string();
    if text.starts_with("panic:") {
        return "the compiler gave up on it".into();
    }
    if text.starts_with("NoExtension") {
        return "no token fits".into();
    }
    let end = ["\n<backtrace>", "\n<state>", "\n<non-verbose/>"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    text[..end.unwrap_or(text.len())].trim().to_string()
}
