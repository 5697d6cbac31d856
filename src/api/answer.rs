//! From a wish to a stream of events: acquire the model, render, tokenise, generate. HTTP chat, HTTP
//! completions and gRPC all come through here.

use super::error::{ApiError, Kind};
use super::metrics::{Outcome, Running};
use super::{ApiState, mesh};
use crate::driver::{Asked, Generation, GenerationStream, Lease, Node, RefusedError, Tape};
use crate::expert::ExpertFacts;
use crate::grammar::tools::ToolChoice;
use crate::grammar::{GrammarError, Matcher};
use crate::wish::{self, Prompt, Shape, Wish};
use quorate_core::chat::{self, Segment};
use quorate_core::generate::{Event, Finish, Notes};
use quorate_core::ids::Token;
use quorate_core::limits::RECORDINGS_MAX;
use quorate_core::record::{self, Unreadable};
use quorate_core::team::{Schedule, Sets};
use quorate_core::weights::Reasons;
use serde_json::{Value, json};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

/// A response under way. Dropping it cancels what is left of the work.
pub(crate) struct Answer {
    pub seed: u64,
    /// The law, declared in one line.
    pub law: String,
    pub facts: Arc<ExpertFacts>,
    /// The name under which it was asked, if that is not the model's own.
    pub name: Option<&'static str>,
    pub usage: Usage,
    pub timings: Timings,
    /// Who is asked; a mesh answer also says what that took.
    asked: Asked,
    /// The client wants to see who said what.
    pub tells: bool,
    costs: mesh::Costs,
    choices: Vec<Choice>,
    /// Where its one choice is recorded, and its place among those that are.
    tape: Option<(Tape, OwnedSemaphorePermit)>,
    /// Where the next look for an event starts, so that no choice starves another.
    turn: usize,
    /// Choices per prompt.
    per_prompt: usize,
    running: Running,
    _lease: Lease,
}

struct Choice {
    stream: GenerationStream,
    finished: bool,
    /// When its last token came.
    last: Option<Instant>,
    /// Who decided it, and why they weigh what they weigh; known at its end.
    schedule: Schedule,
    reasons: Option<Box<Reasons>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

/// Of the slowest choice, where there are several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timings {
    pub queued_us: u64,
    pub prefill_us: u64,
    pub decode_us: u64,
}

/// Starts a response. Every refusal happens here, before anything was said.
pub(crate) async fn start(state: &ApiState, wish: Wish) -> Result<Answer, ApiError> {
    let running = state.metrics.begin();
    match start_running(state, wish, running.clone()).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            running.end(Outcome::of(&error));
            Err(error)
        }
    }
}

async fn start_running(state: &ApiState, wish: Wish, running: Running) -> Result<Answer, ApiError> {
    let name = mesh::model(state, &wish.model);
    let lease = state.node.acquire(name).await?;
    let facts = lease.facts().clone();
    let asked = mesh::asked(state, &wish.model, wish.together, &lease).await?;
    let notes = Notes {
        record: false,
        provenance: wish.model == mesh::MODEL,
    };
    check_tokens(&wish, &facts)?;
    let prompts = tokenize(&lease, &wish.prompt).await?;
    let (node, tape) = recorder(state, wish.together.record)?;
    let seed = match wish.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let per_prompt = wish.choices as usize;
    let mut matchers = matchers(&wish, &facts, prompts.len() * per_prompt)
        .await?
        .into_iter();
    let mut choices = Vec::with_capacity(prompts.len() * per_prompt);
    for prompt in prompts {
        for _ in 0..per_prompt {
            let generation = Generation {
                prompt: prompt.clone(),
                law: wish.law.clone(),
                seed,
                choice: choices.len() as u32,
                max_tokens: wish.max_tokens,
                stop: wish.stop.clone(),
                logprobs: wish.logprobs,
                grammar: matchers.next(),
                asked,
                notes,
            };
            let stream = node
                .generate(&lease, generation)
                .await
                .map_err(|error| refused(error, &wish.prompt))?;
            choices.push(Choice {
                stream,
                finished: false,
                last: None,
                schedule: Schedule::new(),
                reasons: None,
            });
        }
    }
    Ok(Answer {
        seed,
        law: wish.law.to_string(),
        facts,
        name: (wish.model == mesh::MODEL).then_some(mesh::MODEL),
        usage: Usage::default(),
        timings: Timings::default(),
        asked,
        tells: notes.provenance && wish.together.provenance,
        costs: mesh::Costs::default(),
        choices,
        tape,
        turn: 0,
        per_prompt,
        running,
        _lease: lease,
    })
}

impl Answer {
    pub(crate) fn choices(&self) -> usize {
        self.choices.len()
    }

    pub(crate) fn is_of_mesh(&self) -> bool {
        self.asked != Asked::Own
    }

    /// What a mesh answer says of itself, once it is whole.
    pub(crate) fn mesh(&self) -> Option<Value> {
        let costs = self.costs.page()?;
        let semantics = match self.asked {
            Asked::Mesh { sets: Sets::B, .. } => "B",
            Asked::Mesh {
                sets: Sets::Turns { .. },
                ..
            } => "handover",
            Asked::Own | Asked::Mesh { sets: Sets::A, .. } => "A",
        };
        let schedules = self.choices.iter().map(|c| mesh::schedule(&c.schedule));
        let schedules: Vec<Value> = schedules.collect();
        let reasons = self.choices.iter().map(|c| c.reasons.as_deref());
        let reasons: Vec<Option<Value>> = reasons.map(|r| r.map(mesh::reasons)).collect();
        Some(json!({
            "semantics": semantics,
            "schedules": schedules,
            "reasons": reasons,
            "per_token": costs,
            "guesses": self.costs.guesses(),
        }))
    }

    /// All that decided it, once it has ended, as a file holds it; None if nobody asked for that.
    pub(crate) fn recording(&mut self) -> Option<Result<Vec<u8>, Unreadable>> {
        let (tape, _place) = self.tape.take()?;
        tape.take().map(|recording| record::encode(&recording))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.choices.iter().all(|choice| choice.finished)
    }

    /// The next event and the choice that it belongs to; None when every choice has finished. An
    /// error ends the whole response.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Event)>, ApiError> {
        if self.is_finished() {
            self.running.end(Outcome::Finished);
            return Ok(None);
        }
        let (index, event) = self.any_event().await;
        let result = event
            .ok_or_else(ApiError::gone)
            .and_then(|event| self.note(index, event));
        match result {
            Ok(event) => Ok(Some((index, event))),
            Err(error) => {
                self.running.end(Outcome::of(&error));
                Err(error)
            }
        }
    }

    async fn any_event(&mut self) -> (usize, Option<Event>) {
        let count = self.choices.len();
        std::future::poll_fn(|cx| {
            for step in 0..count {
                let index = (self.turn + step) % count;
                let choice = &mut self.choices[index];
                // The stream keeps the waker of a receive that is given up.
                if !choice.finished
                    && let Poll::Ready(event) = pin!(choice.stream.next()).poll(cx)
                {
                    self.turn = index + 1;
                    return Poll::Ready((index, event));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Keeps the accounts; failure and cancellation are errors to whoever waits for text.
    fn note(&mut self, index: usize, event: Event) -> Result<Event, ApiError> {
        let choice = &mut self.choices[index];
        match &event {
            Event::Ready {
                prompt_tokens,
                reused,
                queued_us,
                prefill_us,
            } => {
                self.timings.queued_us = self.timings.queued_us.max(*queued_us);
                self.timings.prefill_us = self.timings.prefill_us.max(*prefill_us);
                // A prompt counts once, however many choices read it.
                if index.is_multiple_of(self.per_prompt) {
                    self.usage.prompt_tokens += u64::from(*prompt_tokens);
                    self.usage.cached_tokens += u64::from(*reused);
                    self.running.prompt(*prompt_tokens);
                }
            }
            Event::Decided(_) => {}
            Event::Token(token) => {
                if let Some(told) = &token.provenance {
                    self.costs.add(told, self.facts.id);
                }
                let now = Instant::now();
                self.running.token(choice.last, now);
                choice.last = Some(now);
            }
            Event::Finished {
                why,
                generated,
                decode_us,
                schedule,
                guesses,
                reasons,
                ..
            } => {
                choice.finished = true;
                choice.schedule.clone_from(schedule);
                choice.reasons.clone_from(reasons);
                self.costs.guessed(*guesses);
                self.usage.completion_tokens += u64::from(*generated);
                self.timings.decode_us = self.timings.decode_us.max(*decode_us);
                match why {
                    Finish::Stop | Finish::Length => {}
                    // Who cancels does not listen; so the node itself has.
                    Finish::Cancelled => return Err(ApiError::gone()),
                    Finish::Failed(why) => {
                        let message = format!(
                            "the response failed: {why}; ask again, and see `quorate status` if it fails again"
                        );
                        return Err(ApiError::new(Kind::GenerationFailed, message));
                    }
                }
            }
        }
        Ok(event)
    }
}

/// The node, or one that records what it generates.
fn recorder(
    state: &ApiState,
    record: bool,
) -> Result<(Node, Option<(Tape, OwnedSemaphorePermit)>), ApiError> {
    if !record {
        return Ok((state.node.clone(), None));
    }
    let Ok(place) = state.recordings.clone().try_acquire_owned() else {
        let message = format!("{RECORDINGS_MAX} answers are recorded already; ask again later");
        return Err(ApiError {
            retry_after_s: Some(10),
            ..ApiError::about("quorate.record", Kind::Busy, message)
        });
    };
    let (node, tape) = state.node.recorded();
    Ok((node, Some((tape, place))))
}

fn refused(error: RefusedError, prompt: &Prompt) -> ApiError {
    let error = ApiError::from(error);
    match prompt {
        Prompt::Texts(_) | Prompt::Tokens(_) if error.param == "messages" => ApiError {
            param: "prompt".into(),
            ..error
        },
        _ => error,
    }
}

/// Ids that only the model can judge.
fn check_tokens(wish: &Wish, facts: &ExpertFacts) -> Result<(), ApiError> {
    let size = facts.vocab.len();
    let check = |param: &str, token: Token| {
        if token < size {
            return Ok(());
        }
        let message = format!(
            "{param} names token {token}; the vocabulary of {} ends at {}",
            facts.model,
            size.saturating_sub(1)
        );
        Err(ApiError::about(param, Kind::InvalidValue, message))
    };
    for &(token, _) in &wish.law.transforms.bias {
        check("logit_bias", token)?;
    }
    if let Prompt::Tokens(lists) = &wish.prompt {
        lists
            .iter()
            .flatten()
            .try_for_each(|&token| check("prompt", token))?;
    }
    Ok(())
}

async fn tokenize(lease: &Lease, prompt: &Prompt) -> Result<Vec<Vec<Token>>, ApiError> {
    match prompt {
        Prompt::Tokens(lists) => Ok(lists.clone()),
        Prompt::Texts(texts) => {
            let mut lists = Vec::with_capacity(texts.len());
            for text in texts {
                lists.push(
                    lease
                        .tokenize(vec![Segment::Text(text.clone())], true)
                        .await?,
                );
            }
            Ok(lists)
        }
        Prompt::Chat { messages, tools } => {
            let family = lease.facts().family;
            let segments = chat::render(family, messages, tools)?;
            Ok(vec![
                lease.tokenize(segments, chat::wants_bos(family)).await?,
            ])
        }
    }
}

/// One matcher for each generation, compiled on a thread that may block; none for free text.
async fn matchers(
    wish: &Wish,
    facts: &Arc<ExpertFacts>,
    count: usize,
) -> Result<Vec<Matcher>, ApiError> {
    if wish.shape == Shape::Free {
        return Ok(Vec::new());
    }
    let (shape, facts) = (wish.shape.clone(), facts.clone());
    let tools = match &wish.prompt {
        Prompt::Chat { tools, .. } => tools.clone(),
        Prompt::Texts(_) | Prompt::Tokens(_) => Vec::new(),
    };
    let choice = match &shape {
        Shape::Tools(wish::Choice::Required) => ToolChoice::Required,
        Shape::Tools(wish::Choice::Named(name)) => ToolChoice::Named(name.clone()),
        _ => ToolChoice::Auto,
    };
    let compile = move || -> Result<Vec<Matcher>, GrammarError> {
        let vocab = &facts.vocab;
        let one = || match &shape {
            Shape::Json | Shape::Free => Matcher::json_object(vocab),
            Shape::Schema(schema) => Matcher::json_schema(schema, vocab),
            Shape::Grammar(text) => Matcher::grammar(text, vocab),
            Shape::Tools(_) => Matcher::tools(&tools, &choice, facts.family, vocab),
        };
        (0..count).map(|_| one()).collect()
    };
    let compiled = tokio::task::spawn_blocking(compile).await;
    let result = compiled.map_err(|error| {
        ApiError::new(
            Kind::Internal,
            format!("compiling the grammar died: {error}"),
        )
    })?;
    result.map_err(|error| match wish.shape {
        Shape::Grammar(_) => ApiError {
            param: "grammar".into(),
            ..error.into()
        },
        Shape::Tools(_) => ApiError {
            param: "tools".into(),
            ..error.into()
        },
        Shape::Json | Shape::Schema(_) | Shape::Free => error.into(),
    })
}

/// 53 bits: a JSON number that every client reads back exactly.
fn random_seed() -> Result<u64, ApiError> {
    let random = getrandom::u64().map_err(|error| {
        ApiError::new(
            Kind::Internal,
            format!("the system gave no randomness for a seed: {error}; send one as `seed`"),
        )
    })?;
    Ok(random >> 11)
}
