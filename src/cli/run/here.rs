//! Answers from a node in this process. It listens nowhere and takes no lock: it changes nothing
//! that another process could trip over.

use super::ask::Ask;
use super::speaker::{OnText, Told};
use crate::api::error::ApiError;
use crate::api::{ApiState, answer};
use crate::app::App;
use crate::cli::client::refused;
use crate::cli::context::Context;
use crate::cli::interrupt::Interrupt;
use crate::driver::{Lease, Tape};
use crate::error::{Failure, Kind, Outcome};
use crate::node::Audience;
use crate::wish::Wish;
use quorate_core::generate::{Event, Finish};
use quorate_core::record::Recording;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

pub(super) struct Here {
    runtime: Runtime,
    app: Option<App>,
    /// The model stays for the whole conversation.
    lease: Option<Lease>,
    /// Where answers are recorded, if they are.
    tape: Option<Tape>,
    load: Option<Duration>,
}

impl Here {
    pub(super) fn start(
        context: &Context,
        model: &str,
        interrupt: &Interrupt,
        record: bool,
    ) -> Outcome<Here> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
        let settings = Arc::new(context.settings.clone());
        let began = Instant::now();
        let loaded = runtime.block_on(async {
            let app = App::start(&context.home, &settings, Audience::Alone)?;
            let lease = tokio::select! {
                lease = app.node.acquire(model) => lease?,
                () = interrupt.wait() => {
                    return Err(Failure::new(Kind::Interrupted, "stopped while the model was loading"));
                }
            };
            Outcome::Ok((app, lease))
        });
        let (mut app, lease) = loaded?;
        let mut tape = None;
        if record {
            let (node, made) = app.state.node.recorded();
            (app.state.node, tape) = (node, Some(made));
        }
        Ok(Here {
            runtime,
            app: Some(app),
            lease: Some(lease),
            tape,
            load: Some(began.elapsed()),
        })
    }

    pub(super) fn ask(
        &mut self,
        ask: &Ask,
        interrupt: &Interrupt,
        on_text: &mut OnText<'_>,
    ) -> Outcome<Told> {
        let Some(app) = &self.app else {
            return Err(Failure::new(
                Kind::Failed,
                "the node in this process has stopped",
            ));
        };
        let state = &app.state;
        let wish = ask
            .asked()
            .check(&state.defaults())
            .map_err(|error| failure(&error.into()))?;
        let mut told = Told {
            load: self.load.take(),
            ..Told::default()
        };
        let telling = tell(state, wish, &mut told, on_text);
        let ended = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = interrupt.wait() => None,
                ended = telling => Some(ended),
            }
        });
        match ended {
            Some(ended) => ended?,
            None => told.interrupted = true,
        }
        Ok(told)
    }

    /// Of the last answer, if it is recorded and has ended.
    pub(super) fn recording(&self) -> Option<Recording> {
        self.tape.as_ref()?.take()
    }
}

/// Until the answer is complete. Dropping the future stops the work.
async fn tell(state: &ApiState, wish: Wish, told: &mut Told, on_text: &mut OnText<'_>) -> Outcome {
    let mut answer = answer::start(state, wish)
        .await
        .map_err(|error| failure(&error))?;
    (told.seed, told.law) = (answer.seed, answer.law.clone());
    while let Some((_, event)) = answer.next().await.map_err(|error| failure(&error))? {
        match event {
            Event::Ready { .. } | Event::Decided(_) => {}
            Event::Token(token) => told.hear(&token.text, on_text)?,
            Event::Finished { text, why, .. } => {
                told.cut = why == Finish::Length;
                told.hear(&text, on_text)?;
            }
        }
    }
    let (usage, timings) = (answer.usage, answer.timings);
    told.prompt_tokens = usage.prompt_tokens;
    told.cached_tokens = usage.cached_tokens;
    told.completion_tokens = usage.completion_tokens;
    (told.prefill_us, told.decode_us) = (timings.prefill_us, timings.decode_us);
    Ok(())
}

impl Drop for Here {
    fn drop(&mut self) {
        self.lease = None;
        if let Some(app) = self.app.take() {
            self.runtime.block_on(app.shut_down());
        }
    }
}

fn failure(error: &ApiError) -> Failure {
    refused(error.kind.code(), &error.message)
}
