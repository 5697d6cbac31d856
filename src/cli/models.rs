//! `pull`, `list`, `show`, `rm`.

use super::args;
use super::context::Context;
use super::term;
use crate::error::{Failure, Kind, Outcome};
use crate::store::name::ModelName;
use crate::store::progress::{self, Renderer};
use crate::store::{Listing, Manifest, Shown};
use quorate_core::plan::Size;
use std::io::Write;

/// Letters of a hash that tell models apart, as Ollama shows them.
const ID_LETTERS: usize = 12;

pub(super) fn pull(context: &Context, args: &args::Pull) -> Outcome {
    let name = context.model_name(&args.model)?;
    if args.json {
        // Lines for programs belong on standard output; the renderer writes beside it.
        let mut gone = None;
        context.pull_with(&name, &mut |event| {
            if gone.is_none() {
                let mut out = std::io::stdout().lock();
                gone = progress::write_line(&mut out, &event)
                    .and_then(|()| out.flush())
                    .err();
            }
        })?;
        return gone.map_or(Ok(()), |error| Err(error.into()));
    }
    pull_with_bar(context, &name)
}

/// Also what `run` does with a model that is missing.
pub(super) fn pull_with_bar(context: &Context, name: &ModelName) -> Outcome {
    let mut renderer = Renderer::for_stderr();
    context.pull_with(name, &mut |event| renderer.show(&event))
}

/// The name that is meant, of a model that is there: it is fetched if it was not.
pub(super) fn at_hand(context: &Context, typed: &str) -> Outcome<ModelName> {
    let name = context.model_name(typed)?;
    if context.store().installed(&name)?.is_none() {
        pull_with_bar(context, &name)?;
    }
    Ok(name)
}

pub(super) fn list(context: &Context, args: &args::ReadVerb) -> Outcome {
    let Listing { models, broken } = context.store().list()?;
    if args.json {
        let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
        return term::json(&serde_json::json!({ "models": models, "broken": broken }));
    }
    for error in &broken {
        eprintln!("warning: {error}");
    }
    if models.is_empty() && term::stdout_is_tty() {
        eprintln!(
            "no models yet; get one with: quorate pull {}",
            context.settings.default_model
        );
    }
    let now = term::now_unix_s();
    let rows: Vec<[String; 4]> = models.iter().map(|model| row(model, now)).collect();
    term::table(["NAME", "ID", "SIZE", "MODIFIED"], &rows)
}

fn row(model: &Manifest, now_unix_s: u64) -> [String; 4] {
    [
        model.name.clone(),
        short(&model.sha256),
        Size(model.bytes).to_string(),
        term::ago(model.installed_at_s, now_unix_s),
    ]
}

pub(super) fn short(sha256: &str) -> String {
    sha256.chars().take(ID_LETTERS).collect()
}

pub(super) fn show(context: &Context, args: &args::Show) -> Outcome {
    let shown = context.store().show(&context.model_name(&args.model)?)?;
    if args.json {
        return term::json(&shown);
    }
    let Shown {
        manifest,
        path,
        facts,
        kv_bytes_per_token,
    } = shown;
    let family = facts.family.map_or("unknown", |family| family.name());
    let fingerprint = manifest
        .vocab_fingerprint
        .as_deref()
        .unwrap_or("known after the first load");
    let billions = facts.parameters as f64 / 1e9;
    for (heading, fields) in [
        (
            "Model",
            vec![
                ("name", manifest.name.clone()),
                ("architecture", facts.architecture.clone()),
                ("parameters", format!("{billions:.2}B")),
                ("quantization", facts.quant.unwrap_or("mixed").to_owned()),
                ("context", format!("{} tokens", facts.context_length)),
                ("layers", facts.block_count.to_string()),
                ("chat format", family.to_owned()),
            ],
        ),
        (
            "Vocabulary",
            vec![
                ("tokens", facts.vocab_size.to_string()),
                ("fingerprint", fingerprint.to_owned()),
            ],
        ),
        (
            "Memory",
            vec![
                ("weights", Size(manifest.bytes).to_string()),
                ("cache", format!("{} a token", Size(kv_bytes_per_token))),
            ],
        ),
        (
            "File",
            vec![
                ("sha256", manifest.sha256.clone()),
                ("source", manifest.source.clone()),
                ("path", path.display().to_string()),
            ],
        ),
    ] {
        term::line(heading)?;
        for (name, value) in fields {
            term::line(format!("  {name:<14}{value}"))?;
        }
    }
    Ok(())
}

pub(super) fn rm(context: &Context, args: &args::Rm) -> Outcome {
    let names: Vec<ModelName> = args
        .models
        .iter()
        .map(|typed| context.model_name(typed))
        .collect::<Outcome<_>>()?;
    // All or nothing: a slip in the third name must not cost the first two.
    for name in &names {
        if context.store().installed(name)?.is_none() {
            return Err(
                Failure::new(Kind::NotFound, format!("`{name}` is not installed"))
                    .hint("`quorate list` shows what is"),
            );
        }
    }
    let list: Vec<String> = names.iter().map(ToString::to_string).collect();
    if !args.yes && !term::confirm(&format!("Remove {}?", list.join(", ")), "--yes")? {
        return Err(Failure::new(Kind::Interrupted, "nothing was removed"));
    }
    for name in &names {
        let removed = context.store().rm(name)?;
        match removed.kept {
            None => term::line(format!(
                "removed {}, {} free",
                removed.name,
                Size(removed.freed_bytes)
            ))?,
            Some(kept) => term::line(format!(
                "forgot {}; its file stays: {}",
                removed.name,
                kept.display()
            ))?,
        }
    }
    Ok(())
}
