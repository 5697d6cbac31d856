//! `doctor`: everything that a node needs, one by one, each fault with its remedy.

use super::args::ReadVerb;
use super::context::{Context, Voice};
use super::term;
use crate::config::Overrides;
use crate::error::{Failure, Kind, Outcome};
use serde::Serialize;
use std::path::Path;

mod machine;
mod mesh;
mod models;
mod place;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, but not as well as it could.
    Warn,
    Fail,
}

#[derive(Clone, Debug, Serialize)]
struct Check {
    name: String,
    level: Level,
    says: String,
    fix: Option<String>,
}

impl Check {
    fn ok(name: &str, says: impl Into<String>) -> Check {
        Check {
            name: name.to_owned(),
            level: Level::Ok,
            says: says.into(),
            fix: None,
        }
    }

    fn warn(name: &str, says: impl Into<String>, fix: impl Into<String>) -> Check {
        Check {
            level: Level::Warn,
            fix: Some(fix.into()),
            ..Check::ok(name, says)
        }
    }

    fn fail(name: &str, says: impl Into<String>, fix: impl Into<String>) -> Check {
        Check {
            level: Level::Fail,
            ..Check::warn(name, says, fix)
        }
    }

    fn failed(name: &str, failure: Failure) -> Check {
        let fix = failure.hint.unwrap_or_else(|| "see the message".to_owned());
        Check::fail(name, failure.message, fix)
    }
}

pub(super) fn doctor(config: Option<&Path>, args: &ReadVerb) -> Outcome {
    let checks = match Context::new(config, None, Overrides::default(), Voice::Command) {
        Ok(context) => examine(&context),
        // Nothing else can be looked at: every path and port comes from there.
        Err(failure) => vec![Check::failed("settings", failure)],
    };
    let worst = checks
        .iter()
        .map(|check| check.level)
        .max()
        .unwrap_or(Level::Ok);
    if args.json {
        term::json(&serde_json::json!({ "level": worst, "checks": checks }))?;
    } else {
        checks.iter().try_for_each(print)?;
    }
    let failed = checks
        .iter()
        .filter(|check| check.level == Level::Fail)
        .count();
    match failed {
        0 => Ok(()),
        1 => Err(Failure::new(Kind::Failed, "one check failed")),
        n => Err(Failure::new(Kind::Failed, format!("{n} checks failed"))),
    }
}

fn examine(context: &Context) -> Vec<Check> {
    let mut checks = vec![
        place::settings(context),
        place::home(context),
        place::lock(context),
    ];
    checks.push(place::key(context));
    checks.push(place::disk(context));
    let hardware = crate::expert::hardware::probe();
    checks.extend(machine::checks(&hardware, &context.settings));
    checks.extend(models::checks(context, hardware));
    checks.extend(place::api(context));
    checks.push(place::network(context));
    checks.extend(mesh::checks(context));
    checks.push(place::clock());
    checks
}

fn print(check: &Check) -> Outcome {
    let colour = term::stdout_colour();
    let (word, code) = match check.level {
        Level::Ok => ("ok", "32"),
        Level::Warn => ("warn", "33"),
        Level::Fail => ("FAIL", "31"),
    };
    let word = match colour {
        true => format!("\x1b[{code}m{word:<4}\x1b[0m"),
        false => format!("{word:<4}"),
    };
    term::line(format!("{word}  {:<10}{}", check.name, check.says))?;
    match &check.fix {
        Some(fix) => term::line(format!("{:<16}-> {fix}", "")),
        None => Ok(()),
    }
}
