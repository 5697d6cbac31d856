//! Text to tokens, from any thread, whatever the text.
//!
//! llama.cpp splits text with `std::regex` for some vocabularies, which recurses once per
//! character, and merges within a word in time that grows faster than the word. So long text is cut
//! into pieces, at a border where the tokeniser would cut anyway where there is one, and is
//! tokenised on a thread with a stack that holds the deepest recursion a piece can cause.

use crate::expert::TokenizeError;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use quorate_core::chat::Segment;
use quorate_core::ids::Token;
use std::sync::Arc;

/// Bytes handed to llama.cpp at once.
const PIECE_BYTES_MAX: usize = 8 << 10;
/// A border is looked for in the last quarter of a piece.
const BORDER_BYTES: usize = PIECE_BYTES_MAX / 4;
/// libstdc++'s regex takes under 1 KiB a character and level of nesting.
const STACK_BYTES: usize = 64 << 20;

#[derive(Clone, Debug)]
pub(super) struct Tokenizer {
    /// Shared with the engine's thread. llama.cpp's tokeniser only reads the vocabulary, which
    /// never changes after loading (`llama_vocab::tokenize` is const; each call has its own
    /// session object), and llama-cpp-2 says so by making `LlamaVocab` Sync.
    model: Arc<LlamaModel>,
    bos: Option<Token>,
    /// Bytes of the longest token.
    longest: usize,
    bytes_max: usize,
    /// SentencePiece vocabularies put a space before every text; before a second piece it is wrong.
    adds_space: bool,
}

impl Tokenizer {
    /// For texts of any length. Asks for every token once, which takes milliseconds.
    pub(super) fn new(model: Arc<LlamaModel>, bos: Option<Token>) -> Tokenizer {
        let vocab = model.vocab();
        let longest = vocab
            .tokens()
            .map(|token| vocab.token_to_piece(token, true, None).len());
        let longest = longest.max().unwrap_or(1).max(1);
        let probe = vocab.tokenize(b"a", false, false);
        let adds_space = probe
            .first()
            .is_some_and(|&token| vocab.token_to_piece(token, false, None).starts_with(b" "));
        Tokenizer {
            model,
            bos,
            longest,
            bytes_max: usize::MAX,
            adds_space,
        }
    }

    /// A text of more tokens than `context` is of no use to anybody.
    pub(super) fn for_context(&self, context: u32) -> Tokenizer {
        Tokenizer {
            bytes_max: self.longest * context as usize,
            ..self.clone()
        }
    }

    pub(super) fn tokenize(
        &self,
        segments: &[Segment],
        bos: bool,
    ) -> Result<Vec<Token>, TokenizeError> {
        let bytes = segments.iter().map(|segment| text_of(segment).len()).sum();
        if bytes > self.bytes_max {
            return Err(TokenizeError::TooLong {
                bytes,
                limit: self.bytes_max,
            });
        }
        let bos = if bos { self.bos } else { None };
        if bytes <= BORDER_BYTES {
            return Ok(self.all(segments, bos));
        }
        // A thread costs 20 us, the text at least fifty times that.
        std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("tokenise".into());
            let thread = builder
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.all(segments, bos))
                .map_err(|error| TokenizeError::Failed(error.to_string()))?;
            thread
                .join()
                .map_err(|_| TokenizeError::Failed("it panicked".into()))
        })
    }

    fn all(&self, segments: &[Segment], bos: Option<Token>) -> Vec<Token> {
        let vocab = self.model.vocab();
        let mut tokens = Vec::new();
        for segment in segments {
            let special = matches!(segment, Segment::Marker(_));
            let text = text_of(segment);
            let mut rest = text;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(border(rest));
                let follows = self.adds_space && rest.len() < text.len();
                let piece = if follows {
                    piece.strip_prefix(' ').unwrap_or(piece)
                } else {
                    piece
                };
                vocab.tokenize_into(piece.as_bytes(), &mut tokens, false, special);
                rest = after;
            }
        }
        let bos = bos.into_iter();
        bos.chain(tokens.into_iter().map(|LlamaToken(id)| id as Token))
            .collect()
    }
}

fn text_of(segment: &Segment) -> &str {
    match segment {
        Segment::Marker(text) => text,
        Segment::Text(text) => text,
    }
}

/// Where the next piece ends: before the last word that follows a space and begins late enough,
/// else at the last whole character.
fn border(text: &str) -> usize {
    if text.len() <= PIECE_BYTES_MAX {
        return text.len();
    }
    let end = text.floor_char_boundary(PIECE_BYTES_MAX);
    let window = &text.as_bytes()[end - BORDER_BYTES..=end];
    let word = window
        .windows(3)
        .rposition(|w| w[0].is_ascii_alphabetic() && w[1] == b' ' && w[2].is_ascii_alphabetic());
    word.map_or(end, |at| end - BORDER_BYTES + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_cut_between_words() {
        let text = "lorem ipsum dolor, ".repeat(10_000);
        let mut rest = &text[..];
        while rest.len() > PIECE_BYTES_MAX {
            let (piece, after) = rest.split_at(border(rest));
            assert!(piece.len() <= PIECE_BYTES_MAX && after.starts_with(" "));
            rest = after;
        }
    }

    #[test]
    fn a_text_without_borders_is_cut_between_characters() {
        for text in [
            "a".repeat(100_000),
            "\u{1f980}".repeat(50_000),
            " ".repeat(100_000),
        ] {
            let mut rest = &text[..];
            while !rest.is_empty() {
                rest = rest.split_at(border(rest)).1;
            }
        }
    }
}
