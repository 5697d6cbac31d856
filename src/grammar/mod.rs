//! What a response may look like: JSON, a JSON schema, a grammar, a choice of function calls.
//! Compiled with `llguidance` against the model's vocabulary; applied as a mask by the router.
//!
//! Constructors may take tens of milliseconds (the first one of a vocabulary, more): call them on a
//! thread that may block.

use crate::grammar::tools::ToolChoice;
use quorate_core::chat::{Family, Tool};
use quorate_core::ids::Token;
use quorate_core::mask::Mask;
use quorate_core::vocab::Vocab;
use std::sync::Arc;

pub mod tools;

/// Follows one response through its grammar.
#[derive(Debug)]
pub struct Matcher {}

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

impl Matcher {
    /// Any JSON object.
    pub fn json_object(_vocab: &Arc<Vocab>) -> Result<Matcher, GrammarError> {
        Err(GrammarError::Compile("not built yet".into()))
    }

    pub fn json_schema(
        _schema: &serde_json::Value,
        _vocab: &Arc<Vocab>,
    ) -> Result<Matcher, GrammarError> {
        Err(GrammarError::Compile("not built yet".into()))
    }

    /// A grammar in llguidance's Lark, or in llama.cpp's GBNF.
    pub fn grammar(_text: &str, _vocab: &Arc<Vocab>) -> Result<Matcher, GrammarError> {
        Err(GrammarError::Compile("not built yet".into()))
    }

    /// Function calls in the family's own syntax.
    pub fn tools(
        _tools: &[Tool],
        _choice: &ToolChoice,
        _family: Family,
        _vocab: &Arc<Vocab>,
    ) -> Result<Matcher, GrammarError> {
        Err(GrammarError::Compile("not built yet".into()))
    }

    pub fn next(&mut self) -> Result<Next, GrammarError> {
        Ok(Next::Done)
    }

    pub fn commit(&mut self, _token: Token) -> Result<(), GrammarError> {
        Ok(())
    }
}
