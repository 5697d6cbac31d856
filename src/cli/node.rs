//! Verbs about the node that is up: `ps`, `stop`, `status`.

use super::args;
use super::client::Client;
use super::context::Context;
use super::{models, term};
use crate::error::{Failure, Kind, Outcome};
use quorate_core::plan::Size;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn ps(context: &Context, args: &args::ReadVerb) -> Outcome {
    // No node is an answer, not a failure: nothing is in memory.
    let page = match Client::of_running_node(context)? {
        Some(client) => client.get("/api/ps")?,
        None => json!({"models": []}),
    };
    if args.json {
        return term::json(&page);
    }
    let loaded = page["models"].as_array().cloned().unwrap_or_default();
    let rows: Vec<[String; 6]> = loaded.iter().map(|model| row(context, model)).collect();
    term::table(
        ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"],
        &rows,
    )
}

fn row(context: &Context, model: &Value) -> [String; 6] {
    let name = model["name"].as_str().unwrap_or("?").to_owned();
    let id = context
        .model_name(&name)
        .ok()
        .and_then(|name| context.store().installed(&name).ok()?)
        .map_or_else(
            || "-".to_owned(),
            |manifest| models::short(&manifest.sha256),
        );
    let until = match (model["state"].as_str(), model["expires_in_ms"].as_u64()) {
        (Some("loading"), _) => "loading".to_owned(),
        (Some("leaving"), _) => "leaving".to_owned(),
        (_, Some(ms)) => format!(
            "{} from now",
            term::span(Duration::from_millis(ms).as_secs())
        ),
        (_, None) if model["running"].as_u64().unwrap_or(0) > 0 => "in use".to_owned(),
        (_, None) => "forever".to_owned(),
    };
    [
        name,
        id,
        Size(model["bytes"].as_u64().unwrap_or(0)).to_string(),
        model["processor"].as_str().unwrap_or_default().to_owned(),
        model["context"].as_u64().unwrap_or(0).to_string(),
        until,
    ]
}

pub(super) fn stop(context: &Context, args: &args::Stop) -> Outcome {
    let client = Client::needed(context)?;
    let name = context.model_name(&args.model)?.to_string();
    let page = client.post("/api/unload", &json!({ "model": name }))?;
    if page["unloaded"].as_bool() == Some(true) {
        return term::line(format!("{name} leaves memory as soon as nobody uses it"));
    }
    Err(
        Failure::new(Kind::NotFound, format!("{name} is not in memory"))
            .hint("`quorate ps` shows what is"),
    )
}

pub(super) fn status(context: &Context, args: &args::ReadVerb) -> Outcome {
    let Some(client) = Client::of_running_node(context)? else {
        if args.json {
            term::json(&json!({"up": false, "home": context.home.data}))?;
        }
        return Client::needed(context).map(drop);
    };
    let mut page = client.get("/api/status")?;
    page["up"] = json!(true);
    page["api"] = json!(client.base());
    page["home"] = json!(context.home.data);
    page["privacy"] = json!(if page["mesh"].is_null() {
        "local"
    } else {
        "mesh"
    });
    if args.json {
        return term::json(&page);
    }
    let number = |name: &str| page[name].as_u64().unwrap_or(0);
    let loaded = page["models"].as_array().map_or(0, Vec::len);
    for (name, value) in [
        ("api", format!("{}/v1", client.base())),
        (
            "node",
            page["node_id"].as_str().unwrap_or_default().to_owned(),
        ),
        (
            "version",
            page["version"].as_str().unwrap_or_default().to_owned(),
        ),
        ("home", context.home.data.display().to_string()),
        ("up for", term::span(number("uptime_ms") / 1000)),
        (
            "requests",
            format!(
                "{} running, {} waiting",
                number("running"),
                number("waiting")
            ),
        ),
        ("answered", format!("{} tokens", number("generated_tokens"))),
        (
            "memory",
            format!(
                "{} of {} by {loaded} model(s)",
                Size(number("memory_used_bytes")),
                Size(number("memory_budget_bytes"))
            ),
        ),
    ] {
        term::line(format!("{name:<10}{value}"))?;
    }
    for (name, value) in mesh_rows(&page["mesh"]) {
        term::line(format!("{name:<10}{value}"))?;
    }
    Ok(())
}

/// What the node gives and takes, and who can read what.
fn mesh_rows(mesh: &Value) -> Vec<(&'static str, String)> {
    if mesh.is_null() {
        return vec![("privacy", privacy(false).to_owned())];
    }
    let number = |name: &str| mesh[name].as_u64().unwrap_or(0);
    let network = mesh["network"].as_str().unwrap_or_default();
    let gives = match mesh["closed"].as_str() {
        Some(why) => format!("nothing now: {why}"),
        None => format!(
            "{} opinions to {} nodes so far, {} sessions now",
            number("opinions_given"),
            number("guests"),
            number("guest_sessions")
        ),
    };
    let mut rows = vec![
        (
            "mesh",
            format!(
                "{}, {} of {} other members here",
                network.get(..16).unwrap_or(network),
                number("here"),
                number("members").saturating_sub(1)
            ),
        ),
        ("gives", gives),
    ];
    for reason in mesh["halted"].as_array().into_iter().flatten() {
        rows.push(("halted", reason.as_str().unwrap_or_default().to_owned()));
    }
    rows.push(("privacy", privacy(true).to_owned()));
    rows
}

/// Who can read what a node is asked.
pub(super) fn privacy(in_mesh: bool) -> &'static str {
    match in_mesh {
        true => "mesh for the model `mesh` (the experts asked can read the prompt), else local",
        false => "local: prompts stay on this machine",
    }
}
