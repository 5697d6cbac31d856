//! The loop that everybody writes first: llama.cpp, argmax, nothing else. `quorate bench` runs it
//! beside the real engine, with the same context, batch, cache and threads, to see what we cost.

use super::{LoadError, LoadRequest, backend, load_model, new_context};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::Token;
use std::time::{Duration, Instant};

/// Loads the model a second time and hands the loop to `work`, which runs on this thread.
pub fn with_bare<R>(
    request: &LoadRequest,
    work: impl FnOnce(&mut Bare<'_>) -> R,
) -> Result<R, LoadError> {
    backend()?;
    let model = load_model(request)?;
    let context = new_context(&model, request)?;
    let rows = context.n_batch() as usize;
    Ok(work(&mut Bare {
        context,
        batch: LlamaBatch::new(rows, 1),
        rows,
    }))
}

pub struct Bare<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    rows: usize,
}

impl Bare<'_> {
    /// Time for a prompt into sequence 0 of an empty cache, with the logits of its last token.
    pub fn prefill(&mut self, prompt: &[Token]) -> Result<Duration, LoadError> {
        self.context.clear_kv_cache();
        let begun = Instant::now();
        self.feed(prompt, 0, false)?;
        std::hint::black_box(self.pick(self.batch.n_tokens() - 1));
        Ok(begun.elapsed())
    }

    /// The same with ln p of every given token, in the plain way: a maximum, a sum, a logarithm.
    pub fn scored_prefill(&mut self, prompt: &[Token]) -> Result<Duration, LoadError> {
        self.context.clear_kv_cache();
        let begun = Instant::now();
        self.feed(prompt, 0, true)?;
        Ok(begun.elapsed())
    }

    /// Time of the first `count` tokens after `prompt` in each of `streams` sequences, counted from
    /// the first token; all streams in one batch.
    pub fn decode(
        &mut self,
        prompt: &[Token],
        streams: usize,
        count: usize,
    ) -> Result<Duration, LoadError> {
        self.context.clear_kv_cache();
        let mut next = Vec::with_capacity(streams);
        for stream in 0..streams {
            self.feed(prompt, stream as i32, false)?;
            next.push(self.pick(self.batch.n_tokens() - 1));
        }
        let begun = Instant::now();
        for step in 0..count.saturating_sub(1) {
            self.batch.clear();
            for (stream, &token) in next.iter().enumerate() {
                self.add(token, prompt.len() + step, stream as i32, true)?;
            }
            self.run()?;
            for (stream, token) in next.iter_mut().enumerate() {
                *token = pick(self.context.get_logits_ith(stream as i32));
            }
        }
        Ok(begun.elapsed())
    }

    fn feed(&mut self, prompt: &[Token], sequence: i32, scored: bool) -> Result<(), LoadError> {
        for (nth, chunk) in prompt.chunks(self.rows).enumerate() {
            let start = nth * self.rows;
            self.batch.clear();
            for (index, &token) in (start..).zip(chunk) {
                self.add(token, index, sequence, scored || index + 1 == prompt.len())?;
            }
            self.run()?;
            for row in 0..if scored { chunk.len() } else { 0 } {
                let logits = self.context.get_logits_ith(row as i32);
                let given = prompt.get(start + row + 1).copied().unwrap_or(0);
                std::hint::black_box(naive_score(logits, given));
            }
        }
        Ok(())
    }

    fn add(&mut self, token: Token, at: usize, seq: i32, logits: bool) -> Result<(), LoadError> {
        let added = self
            .batch
            .add(LlamaToken::new(token as i32), at as i32, &[seq], logits);
        added.map_err(|error| LoadError::Engine {
            why: error.to_string(),
        })
    }

    fn run(&mut self) -> Result<(), LoadError> {
        let decoded = self.context.decode(&mut self.batch);
        self.context.synchronize();
        decoded.map_err(|error| LoadError::Engine {
            why: error.to_string(),
        })
    }

    fn pick(&self, row: i32) -> Token {
        pick(self.context.get_logits_ith(row))
    }
}

fn pick(logits: &[f32]) -> Token {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best as Token
}

fn naive_score(logits: &[f32], token: Token) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
    logits[token as usize] - top - total.ln()
}
