//! Grammars against synthetic vocabularies: every walk over allowed tokens must end in a text that
//! obeys its grammar.

mod bench;
mod calls;
mod gbnf;
mod hostile;
mod schemas;
mod vocabulary;
mod walk;
