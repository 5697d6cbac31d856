//! `expert`: what this node serves besides plain models. The settings are the truth; a node that is
//! up takes the change over at once.

use super::args::{ExpertAdd, ExpertRm, ReadVerb};
use super::client::Client;
use super::context::Context;
use super::term;
use crate::config::{ExpertSettings, Overrides, RawExpert, Settings};
use crate::error::{Failure, Kind, Outcome};
use quorate_core::host::Allow;
use quorate_core::mesh::Pass;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// The model that is all of us.
const MESH: &str = "mesh";

pub(super) fn add(context: &Context, args: &ExpertAdd) -> Outcome {
    let raw = RawExpert {
        name: args.name.clone(),
        model: args.model.clone(),
        adapter: args.adapter.clone(),
        prefix: args.prefix.clone(),
        prefix_file: args.prefix_file.clone(),
        allow: (!args.allow.is_empty()).then(|| args.allow.clone()),
        share: args.keep.then_some(false),
    };
    raw.clone().checked()?;
    if args.model != MESH && !Pass::is_one(&args.model) {
        let model = context.model_name(&args.model)?;
        if let Some(adapter) = &args.adapter {
            let base = context.store().resolve(&model)?;
            context.store().adapters().resolve(adapter, &base)?;
        }
    }
    edit(context, |document| {
        let tables = tables(document)?;
        tables.retain(|table| name_of(table) != Some(args.name.as_str()));
        tables.push(table(&raw));
        Ok(())
    })?;
    let Some(client) = Client::of_running_node(context)? else {
        let told = "it is served when the node is up: quorate up";
        return term::line(format!("{}: {told}", args.name));
    };
    let page = client.post("/api/experts", &object(&raw)?)?;
    term::line(format!("{}: the node that is up serves it now", args.name))?;
    match page["pass"].as_str() {
        None => Ok(()),
        Some(pass) => {
            term::line(format!("pass      {pass}"))?;
            term::line(
                "next      on each node that may ask it: quorate expert add NAME --model <the pass>",
            )
        }
    }
}

pub(super) fn rm(context: &Context, args: &ExpertRm) -> Outcome {
    let mut was_there = false;
    edit(context, |document| {
        let tables = tables(document)?;
        let before = tables.len();
        tables.retain(|table| name_of(table) != Some(args.name.as_str()));
        was_there = tables.len() < before;
        Ok(())
    })?;
    if let Some(client) = Client::of_running_node(context)? {
        let page = client.post("/api/experts/remove", &json!({"name": args.name}))?;
        was_there |= page["removed"] == true;
    }
    match was_there {
        true => term::line(format!("{}: no longer served", args.name)),
        false => Err(Failure::new(
            Kind::NotFound,
            format!("there is no expert '{}'", args.name),
        )
        .hint("`quorate expert list` shows them")),
    }
}

pub(super) fn list(context: &Context, args: &ReadVerb) -> Outcome {
    let experts = &context.settings.experts;
    if args.json {
        let all: Vec<Value> = experts.iter().map(shown).collect();
        return term::json(&json!({"experts": all}));
    }
    let rows: Vec<[String; 5]> = experts
        .iter()
        .map(|expert| {
            [
                expert.name.clone(),
                expert.model.clone(),
                expert.adapter.clone().unwrap_or_else(|| "-".into()),
                if expert.prefix.is_some() {
                    "private"
                } else {
                    "-"
                }
                .to_owned(),
                who(expert),
            ]
        })
        .collect();
    if rows.is_empty() {
        return term::line(format!(
            "none of its own: a mesh is served {}",
            context.settings.default_model
        ));
    }
    term::table(["NAME", "MODEL", "ADAPTER", "PREFIX", "WHO MAY ASK"], &rows)
}

fn shown(expert: &ExpertSettings) -> Value {
    json!({
        "name": expert.name,
        "model": expert.model,
        "adapter": expert.adapter,
        "private": expert.prefix.is_some(),
        "who": who(expert),
    })
}

fn who(expert: &ExpertSettings) -> String {
    match &expert.share {
        None => "the owner".to_owned(),
        Some(Allow::Mesh) => "every member".to_owned(),
        Some(Allow::Listed(peers)) => format!("{} nodes", peers.len()),
    }
}

/// Changes the settings' file and nothing else of it: comments and order stay. What would not be
/// read again is not written.
fn edit(context: &Context, change: impl FnOnce(&mut DocumentMut) -> Outcome) -> Outcome {
    let path = &context.home.config_file;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "version = 1\n".to_owned(),
        Err(error) => return Err(Failure::file("read", path, &error)),
    };
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        Failure::new(Kind::Config, format!("{}: {error}", path.display()))
    })?;
    change(&mut document)?;
    let new = document.to_string();
    if new == text {
        return Ok(());
    }
    Settings::parse(&new, &Overrides::default())?;
    replace(path, &new)
}

fn replace(path: &Path, text: &str) -> Outcome {
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let draft = path.with_extension(format!("toml.{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| Failure::file("write", path, &error))
}

fn tables(document: &mut DocumentMut) -> Outcome<&mut ArrayOfTables> {
    let item = document
        .entry("expert")
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut().ok_or_else(|| {
        Failure::new(
            Kind::Config,
            "the settings' `expert` is not written as [[expert]] tables",
        )
    })
}

fn name_of(table: &Table) -> Option<&str> {
    table.get("name")?.as_str()
}

fn table(raw: &RawExpert) -> Table {
    let mut table = Table::new();
    table["name"] = value(&raw.name);
    table["model"] = value(&raw.model);
    if let Some(adapter) = &raw.adapter {
        table["adapter"] = value(adapter);
    }
    if let Some(prefix) = &raw.prefix {
        table["prefix"] = value(prefix);
    }
    if let Some(path) = &raw.prefix_file {
        table["prefix_file"] = value(path.display().to_string());
    }
    if let Some(allow) = &raw.allow {
        table["allow"] = value(allow.iter().collect::<Array>());
    }
    if let Some(share) = raw.share {
        table["share"] = value(share);
    }
    table
}

/// As the API takes it, which opens no files: the text of a prefix travels.
fn object(raw: &RawExpert) -> Outcome<Value> {
    let expert = raw.clone().checked()?;
    let prefix = expert.prefix.map(|prefix| prefix.text()).transpose();
    let prefix = prefix.map_err(|why| Failure::new(Kind::Config, why))?;
    Ok(json!({
        "name": raw.name,
        "model": raw.model,
        "adapter": raw.adapter,
        "prefix": prefix,
        "allow": raw.allow,
        "share": raw.share,
    }))
}

/// `pause` and `resume`: whether others are served, until the node stops.
pub(super) fn pause(context: &Context, paused: bool) -> Outcome {
    Client::needed(context)?.post("/api/pause", &json!({"paused": paused}))?;
    term::line(match paused {
        true => "paused: this node serves nobody but you, until `quorate resume` or a restart",
        false => "resumed: members of the mesh are served",
    })
}
