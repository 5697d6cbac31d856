//! The node's side of the comparison: through handle, driver, router and engine.

use super::{BenchError, Result, SoloOptions, noise};
use crate::driver::{Asked, Generation, GenerationStream, Lease, Node};
use quorate_core::chat::Segment;
use quorate_core::generate::{Event, Notes};
use quorate_core::ids::Token;
use quorate_core::law::{Law, Transforms};
use std::time::{Duration, Instant};

/// Seeds tried for a text that does not end early.
const SEEDS: u64 = 64;

pub(super) struct Ours {
    node: Node,
    lease: Lease,
    law: Law,
}

impl Ours {
    pub(super) async fn new(options: &SoloOptions) -> Result<Ours> {
        let lease = options.node.acquire(&options.model).await;
        let lease = lease.map_err(|error| BenchError::new("loading", error))?;
        let law = Law::new(Transforms::NEUTRAL, options.node.config().lists());
        let law = law.map_err(|error| BenchError::new("the law", error))?;
        Ok(Ours {
            node: options.node.clone(),
            lease,
            law,
        })
    }

    pub(super) fn vocab(&self) -> u32 {
        self.lease.facts().vocab.len()
    }

    pub(super) async fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        let tokens = self
            .lease
            .tokenize(vec![Segment::Text(text.into())], true)
            .await;
        tokens.map_err(|error| BenchError::new("tokenising", error))
    }

    async fn start(&self, prompt: &[Token], seed: u64, count: usize) -> Result<GenerationStream> {
        let generation = Generation {
            prompt: prompt.to_vec(),
            law: self.law.clone(),
            seed,
            choice: 0,
            max_tokens: Some(count as u32),
            stop: Vec::new(),
            logprobs: None,
            grammar: None,
            asked: Asked::Own,
            notes: Notes::default(),
        };
        let stream = self.node.generate(&self.lease, generation).await;
        stream.map_err(|error| BenchError::new("generating", error))
    }

    /// A seed whose text has `count` tokens and more.
    pub(super) async fn long_winded_seed(&self, prompt: &[Token], count: usize) -> Result<u64> {
        for seed in 1..=SEEDS {
            let mut stream = self.start(prompt, seed, count).await?;
            if times(&mut stream).await?.len() == count {
                return Ok(seed);
            }
        }
        Err(BenchError::new(
            "decoding",
            "this model always ends its text early",
        ))
    }

    /// Tokens per second after the first.
    pub(super) async fn decode_tps(&self, prompt: &[Token], seed: u64, n: usize) -> Result<f64> {
        let mut stream = self.start(prompt, seed, n).await?;
        Ok(tps(&[times(&mut stream).await?]))
    }

    pub(super) async fn first_token(&self, prompt: &[Token]) -> Result<Duration> {
        let begun = Instant::now();
        let mut stream = self.start(prompt, 1, 1).await?;
        let times = times(&mut stream).await?;
        let first = times
            .first()
            .ok_or_else(|| BenchError::new("prefill", "no token came"))?;
        Ok(first.duration_since(begun))
    }

    /// All streams together, from when the last has its first token to when the first ends.
    pub(super) async fn streams_tps(
        &self,
        prompt: &[Token],
        streams: usize,
        count: usize,
    ) -> Result<f64> {
        let mut tasks = Vec::new();
        for seed in 0..streams as u64 {
            let mut stream = self.start(prompt, 100 + seed, count).await?;
            tasks.push(tokio::spawn(async move { times(&mut stream).await }));
        }
        let mut all = Vec::new();
        for task in tasks {
            all.push(
                task.await
                    .map_err(|error| BenchError::new("streams", error))??,
            );
        }
        Ok(tps(&all))
    }

    /// The longest that a running stream waits for a token while a long prompt comes in.
    pub(super) async fn stall_ms(&self, prompt_tokens: usize) -> Result<f64> {
        let room = self.lease.facts().context as usize;
        let prompt = self.tokens(super::PROMPT).await?;
        let count = room - prompt.len() - 1;
        let mut worst = Duration::ZERO;
        let mut seed = 1;
        let mut stream = self.start(&prompt, seed, count).await?;
        next_token(&mut stream).await?;
        let book = noise(7, prompt_tokens.min(room - 2), self.vocab());
        let mut book = self.start(&book, 1, 1).await?;
        let mut last = Some(Instant::now());
        let mut came = std::pin::pin!(next_token(&mut book));
        loop {
            tokio::select! {
                biased;
                came = &mut came => {
                    came?;
                    return Ok(super::millis(worst));
                }
                token = next_token(&mut stream) => if token? {
                    let now = Instant::now();
                    if let Some(last) = last.replace(now) {
                        worst = worst.max(now.duration_since(last));
                    }
                } else {
                    // The text ended: another one begins, and its prompt is no stall.
                    seed += 1;
                    stream = self.start(&prompt, seed, count).await?;
                    last = None;
                },
            }
        }
    }
}

/// False if the text ended instead.
async fn next_token(stream: &mut GenerationStream) -> Result<bool> {
    loop {
        match stream.next().await {
            Some(Event::Token(_)) => return Ok(true),
            Some(Event::Ready { .. } | Event::Decided(_)) => {}
            Some(Event::Finished {
                why: quorate_core::generate::Finish::Failed(why),
                ..
            }) => {
                return Err(BenchError::new("generating", why));
            }
            Some(Event::Finished { .. }) | None => return Ok(false),
        }
    }
}

/// When each token came.
async fn times(stream: &mut GenerationStream) -> Result<Vec<Instant>> {
    let mut times = Vec::new();
    while next_token(stream).await? {
        times.push(Instant::now());
    }
    Ok(times)
}

/// Rate over the span in which every stream runs.
fn tps(streams: &[Vec<Instant>]) -> f64 {
    let begun = streams.iter().filter_map(|times| times.first()).max();
    let ended = streams.iter().filter_map(|times| times.last()).min();
    let (Some(&begun), Some(&ended)) = (begun, ended) else {
        return f64::NAN;
    };
    let within = |time: &&Instant| **time > begun && **time <= ended;
    let tokens: usize = streams
        .iter()
        .map(|times| times.iter().filter(within).count())
        .sum();
    super::rate(tokens, ended.duration_since(begun))
}
