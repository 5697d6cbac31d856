//! What a response may look like: JSON, a JSON schema, a grammar, a choice of function calls.
//! Compiled with `llguidance` against the model's vocabulary; applied as a mask by the router.

use quorate_core::mask::Mask;
use quorate_core::ids::Token;

/// Follows one response through its grammar.
#[derive(Debug)]
pub struct Matcher {}

#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
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
    pub fn next(&mut self) -> Result<Next, GrammarError> {
        Ok(Next::Done)
    }

    pub fn commit(&mut self, _token: Token) -> Result<(), GrammarError> {
        Ok(())
    }
}
