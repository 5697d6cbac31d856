//! `adapter`: what models are taught on top.

use super::args::{AdapterAdd, AdapterRm, ReadVerb};
use super::context::{Context, expand_home};
use super::models::short;
use super::term;
use crate::error::{Failure, Kind, Outcome};
use crate::store::adapter::{AdapterListing, AdapterManifest};
use quorate_core::plan::Size;
use serde_json::json;

pub(super) fn add(context: &Context, args: &AdapterAdd) -> Outcome {
    let base = args.base.as_ref();
    let base = base.unwrap_or(&context.settings.default_model);
    let base = context.store().resolve(&context.model_name(base)?)?;
    let adapters = context.store().adapters();
    let added = adapters.add(&args.name, &expand_home(&args.source), &base)?;
    if args.json {
        return term::json(&added);
    }
    let AdapterManifest {
        name,
        base,
        rank,
        matrices,
        bytes,
        ..
    } = added;
    term::line(format!(
        "{name}: rank {rank} on {matrices} matrices of {base}, {}",
        Size(bytes)
    ))?;
    term::line(format!(
        "serve it with: quorate expert add {name} --model {base} --adapter {name}"
    ))
}

pub(super) fn list(context: &Context, args: &ReadVerb) -> Outcome {
    let AdapterListing { adapters, broken } = context.store().adapters().list()?;
    if args.json {
        let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
        return term::json(&json!({ "adapters": adapters, "broken": broken }));
    }
    for error in &broken {
        eprintln!("warning: {error}");
    }
    let now = term::now_unix_s();
    let row = |adapter: &AdapterManifest| {
        [
            adapter.name.clone(),
            short(&adapter.sha256),
            adapter.base.clone(),
            adapter.rank.to_string(),
            Size(adapter.bytes).to_string(),
            term::ago(adapter.installed_at_s, now),
        ]
    };
    let rows: Vec<[String; 6]> = adapters.iter().map(row).collect();
    term::table(["NAME", "ID", "BASE", "RANK", "SIZE", "ADDED"], &rows)
}

pub(super) fn rm(context: &Context, args: &AdapterRm) -> Outcome {
    let name = &args.name;
    let experts = &context.settings.experts;
    if let Some(expert) = experts.iter().find(|e| e.adapter.as_ref() == Some(name)) {
        let message = format!("the expert '{}' uses the adapter `{name}`", expert.name);
        let first = format!("quorate expert rm {}", expert.name);
        return Err(Failure::new(Kind::Taken, message).hint(first));
    }
    let freed = context.store().adapters().rm(name)?;
    term::line(format!("removed {name}, {} free", Size(freed)))
}
