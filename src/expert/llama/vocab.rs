//! The model's vocabulary in core's words.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_2::vocab::LlamaVocab;
use quorate_core::ids::Token;
use quorate_core::vocab::{Piece, Vocab};

pub(super) fn read(model: &LlamaModel) -> Vocab {
    let vocab = model.vocab();
    Vocab::new(vocab.tokens().map(|token| piece(&vocab, token)))
}

fn piece(vocab: &LlamaVocab<'_>, token: LlamaToken) -> Piece {
    // Unknown and unused entries stand for no text either.
    let silent = LlamaTokenAttr::Control | LlamaTokenAttr::Unknown | LlamaTokenAttr::Unused;
    let control = vocab.attr(token).intersects(silent);
    let bytes = if control {
        vocab
            .text(token)
            .map(|name| name.to_bytes().to_vec())
            .unwrap_or_default()
    } else {
        vocab.token_to_piece(token, false, None)
    };
    Piece {
        bytes,
        control,
        ends: vocab.is_eog(token),
    }
}

/// The token that starts a text, where the model was trained with one.
pub(super) fn bos(model: &LlamaModel) -> Option<Token> {
    let vocab = model.vocab();
    let bos = vocab.bos().0;
    (vocab.should_add_bos() && (0..vocab.n_tokens()).contains(&bos)).then_some(bos as Token)
}
