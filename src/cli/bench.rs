//! `bench solo`: hands the model's path and plan to the measurement.

use super::args::BenchSolo;
use super::context::Context;
use crate::error::{Failure, Kind, Outcome};

pub(super) fn solo(context: &Context, args: &BenchSolo) -> Outcome {
    let typed = args
        .model
        .as_deref()
        .unwrap_or(&context.settings.default_model);
    let _resolved = context.store().resolve(&context.model_name(typed)?)?;
    Err(Failure::new(
        Kind::Failed,
        "the measurement is not in this build",
    ))
}
