//! `gov policy`: whether the operator's rules can be used, before a node goes by them.

use super::args::{Policy, PolicyCheck};
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::policy::{EXAMPLE, Rules};
use serde_json::json;

pub(super) fn policy(context: &Context, verb: &Policy) -> Outcome {
    match verb {
        Policy::Check(args) => check(context, args),
        Policy::Example => term::line(EXAMPLE.trim_end()),
    }
}

fn check(context: &Context, args: &PolicyCheck) -> Outcome {
    let path = args.file.clone().unwrap_or_else(|| context.home.policy());
    let rules = Rules::read(&path)?;
    let place = path.display().to_string();
    if rules.is_none() && args.file.is_some() {
        return Err(Failure::new(Kind::NotFound, format!("there is no {place}")));
    }
    let names: Vec<&str> = rules.iter().flat_map(Rules::names).collect();
    if args.json {
        return term::json(&json!({"file": place, "there": rules.is_some(), "rules": names}));
    }
    if rules.is_none() {
        term::line(format!(
            "none      {place} is not there: this node refuses nothing more than its mesh does"
        ))?;
        return term::line("          quorate gov policy example  prints rules to begin with");
    }
    term::line(format!(
        "good      {place}: {} rules, all of which only refuse",
        names.len()
    ))?;
    names
        .iter()
        .try_for_each(|name| term::line(format!("rule      {name}")))?;
    match args.file {
        None => term::line("          a node reads it when it begins to take part in its mesh"),
        Some(_) => Ok(()),
    }
}
