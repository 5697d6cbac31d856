//! Every installed model: is it the file that was installed, and would it fit?

use super::Check;
use crate::cli::context::Context;
use crate::expert::hardware::Hardware;
use crate::node::{Audience, Library, NodeKeys};
use crate::store::{Depth, Manifest};
use quorate_core::plan::{Plan, Size};
use std::sync::Arc;

/// Larger files are trusted while size and time are as they were: hashing takes seconds a gigabyte.
const HASHED_BYTES_MAX: u64 = 1_500_000_000;

pub(super) fn checks(context: &Context, hardware: Hardware) -> Vec<Check> {
    let listing = match context.store().list() {
        Ok(listing) => listing,
        Err(error) => return vec![Check::failed("models", error.into())],
    };
    let mut checks: Vec<Check> = listing
        .broken
        .into_iter()
        .map(|error| Check::failed("models", error.into()))
        .collect();
    let default = &context.settings.default_model;
    let library = Library::new(
        context.store(),
        Arc::new(context.settings.clone()),
        Arc::new(hardware),
        Audience::Node,
        NodeKeys {
            key: [0; 32], // nothing is loaded here
            prefix_secret: [0; 32],
        },
    );
    if listing.models.is_empty() {
        checks.push(Check::warn(
            "models",
            "none installed",
            format!("quorate pull {default}"),
        ));
    }
    for model in &listing.models {
        checks.push(file(context, model));
        checks.push(plan(context, &library, model));
    }
    checks
}

fn file(context: &Context, model: &Manifest) -> Check {
    let depth = if model.bytes <= HASHED_BYTES_MAX {
        Depth::Full
    } else {
        Depth::Stamp
    };
    let verified = context
        .model_name(&model.name)
        .and_then(|name| Ok(context.store().verify(&name, depth)?));
    match verified {
        Ok(_) if depth == Depth::Full => Check::ok(
            "model",
            format!("{} ({}): hash verified", model.name, Size(model.bytes)),
        ),
        Ok(_) => Check::ok(
            "model",
            format!(
                "{} ({}): unchanged since its hash was verified",
                model.name,
                Size(model.bytes)
            ),
        ),
        Err(failure) => {
            let fix = format!("quorate rm {0} && quorate pull {0}", model.name);
            Check::fail("model", failure.message, fix)
        }
    }
}

fn plan(context: &Context, library: &Library, model: &Manifest) -> Check {
    let shown = context
        .model_name(&model.name)
        .and_then(|name| Ok(context.store().show(&name)?));
    let facts = match shown {
        Ok(shown) => shown.facts,
        Err(failure) => return Check::failed("plan", failure),
    };
    match library.plan(&facts, model.bytes) {
        Ok(plan) => Check::ok("plan", sentence(&model.name, &plan)),
        Err(error) => Check::warn(
            "plan",
            format!(
                "{} does not fit: {}",
                model.name,
                crate::node::advice(&error)
            ),
            "close other programs, raise --max-memory, or choose a smaller model",
        ),
    }
}

fn sentence(name: &str, plan: &Plan) -> String {
    format!(
        "{name}: {} threads, {}/{} layers on a GPU, context {}, {}",
        plan.threads, plan.gpu_layers, plan.layers_total, plan.context, plan.arithmetic
    )
}
