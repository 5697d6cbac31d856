//! `up`: a node with its API, until a signal comes.

use super::args::Up;
use super::context::Context;
use super::{node, term};
use crate::app::{self, Ready};
use crate::config::Overrides;
use crate::error::{Failure, Kind, Outcome};
use serde_json::json;
use std::sync::Arc;

impl From<&Up> for Overrides {
    fn from(up: &Up) -> Overrides {
        Overrides {
            listen: up.listen,
            api_key_file: up.api_key_file.clone(),
            keep_alive: up.keep_alive,
            ..Overrides::from(&up.machine)
        }
    }
}

pub(super) fn up(context: Context, args: &Up) -> Outcome {
    let Context { home, mut settings } = context;
    if let Some(model) = &args.model {
        settings.default_model.clone_from(model);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // the loop and the sockets; computing has threads of its own
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    let settings = Arc::new(settings);
    let greet = |ready: &Ready| match args.json {
        true => term::ndjson(&json!({
            "event": "ready",
            "api": ready.api,
            "node_id": ready.node_id,
            "pid": std::process::id(),
            "models": ready.installed,
        })),
        false => greet(ready, &settings.default_model),
    };
    let ended = runtime.block_on(app::serve(&home, &settings, args.model.as_deref(), greet));
    // A thread that loads a model cannot be cancelled; it must not keep the process.
    runtime.shutdown_timeout(app::SHUTDOWN_MAX);
    ended
}

fn greet(ready: &Ready, default_model: &str) -> Outcome {
    let api = &ready.api;
    let model = ready
        .installed
        .first()
        .map_or(default_model, String::as_str);
    let model = if ready.installed.iter().any(|name| name == default_model) {
        default_model
    } else {
        model
    };
    let next = match ready.installed.is_empty() {
        true => format!("quorate pull {default_model}"),
        false => format!("quorate run {model} \"Why is the sky blue?\""),
    };
    let installed = match ready.installed.as_slice() {
        [] => "none yet".to_owned(),
        names => names.join(", "),
    };
    for (name, value) in [
        ("API", format!("{api}/v1 (OpenAI's HTTP API, and gRPC)")),
        ("node", ready.node_id.clone()),
        ("models", installed),
        ("privacy", node::privacy(ready.in_mesh).to_owned()),
        ("next", next),
        ("stop", "Ctrl-C".to_owned()),
    ] {
        term::line(format!("{name:<9}{value}"))?;
    }
    Ok(())
}
