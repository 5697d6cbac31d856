//! Grammars against synthetic vocabularies: every walk over allowed tokens must end in a text that
//! obeys its grammar.

mod bench;
mod vocabulary;
