//! A model's vocabulary as `llguidance` wants it: a trie over the bytes of every token that is text.
//!
//! Built once per vocabulary and kept as long as the vocabulary lives: 0.15 s and 19 MB for SmolLM2's
//! 49,152 entries, 0.7 s and 37 MB more for 128,256 made-up ones. Most of it are the slices (the same
//! trie, filtered five ways), which make masks a hundred times faster.

use super::GrammarError;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};
use quorate_core::ids::Token;
use quorate_core::limits;
use quorate_core::vocab::Vocab;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Longest token that the trie can hold is 1,024 bytes; a longer one is never allowed.
const TOKEN_BYTES_MAX: usize = 1000;

pub(super) struct Env {
    pub(super) factory: ParserFactory,
    /// Every token that ends the model's turn.
    pub(super) ends: Vec<Token>,
    /// One bit per token that is no text: control tokens, and bytes that no UTF-8 has.
    pub(super) barred: Vec<u32>,
}

/// The one static of this module: constructors of matchers are given a vocabulary and nothing else,
/// and building takes long. Weak, so that it keeps no vocabulary of an unloaded model alive.
static ENVS: Mutex<Vec<(Weak<Vocab>, Arc<Env>)>> = Mutex::new(Vec::new());

/// The lock is held while building: two requests to a fresh model shall not build it twice.
pub(super) fn of(vocab: &Arc<Vocab>) -> Result<Arc<Env>, GrammarError> {
    let mut envs = ENVS.lock().unwrap_or_else(PoisonError::into_inner);
    envs.retain(|(known, _)| known.strong_count() > 0);
    if let Some((_, env)) = envs
        .iter()
        .find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(vocab)))
    {
        return Ok(env.clone());
    }
    // The trie asserts what it expects of a vocabulary, and vocabularies come from files.
    let env = catch_unwind(AssertUnwindSafe(|| build(vocab)))
        .unwrap_or_else(|_| Err("the model's vocabulary does not fit a trie".into()))
        .map_err(GrammarError::Compile)?;
    let env = Arc::new(env);
    if envs.len() >= limits::MODELS_LOADED_MAX {
        envs.remove(0);
    }
    envs.push((Arc::downgrade(vocab), env.clone()));
    Ok(env)
}

fn build(vocab: &Vocab) -> Result<Env, String> {
    let mut ends = Vec::new();
    let mut barred = vec![0u32; vocab.len().div_ceil(32) as usize];
    let mut words = Vec::with_capacity(vocab.len() as usize);
    for token in 0..vocab.len() {
        let text = vocab.text(token);
        // 0xff is in no UTF-8, and marks special tokens inside the trie.
        let usable = !text.is_empty()
            && text.len() <= TOKEN_BYTES_MAX
            && !text.contains(&TokTrie::SPECIAL_TOKEN_MARKER)
            && !vocab.ends_turn(token);
        if vocab.ends_turn(token) {
            ends.push(token);
        }
        if !usable {
            barred[(token / 32) as usize] |= 1 << (token % 32);
        }
        words.push(if usable { text.to_vec() } else { Vec::new() });
    }
    if words.iter().all(Vec::is_empty) {
        return Err("the model's vocabulary has no text".into());
    }
    let info = TokRxInfo::new(vocab.len(), ends.first().copied().unwrap_or(INVALID_TOKEN));
    // Approximate: it cannot tokenise as the model does, so nothing is ever forced by tokens.
    let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
        .map_err(|error| format!("the model's vocabulary: {error}"))?;
    factory.quiet();
    *factory.limits_mut() = bounds();
    Ok(Env {
        factory,
        ends,
        barred,
    })
}

/// What one grammar may cost. Fuel is counted, not timed, so that a text is refused everywhere or
/// nowhere; the comments give this machine's speed.
fn bounds() -> ParserLimits {
    ParserLimits {
        // 50,000 a millisecond.
        initial_lexer_fuel: 1_000_000,
        // 14,000 a millisecond.
        step_lexer_fuel: 200_000,
        // 20,000 a millisecond.
        step_max_items: 400_000,
        // An object of some hundred optional members has thousands.
        max_items_in_row: 16_000,
        // 1-2 kB each.
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}
