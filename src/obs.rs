//! Tracing: to standard error, so that answers on standard output stay clean.

use crate::error::{Failure, Kind, Outcome};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("'{text}' is neither text nor json")),
        }
    }
}

/// `filter` in tracing's grammar: `info`, `quorate=debug,llama-cpp-2=warn`.
pub fn init(filter: &str, format: LogFormat) -> Outcome {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(
            Kind::Config,
            format!("the log filter '{filter}' is not understood: {error}"),
        )
        .hint("try QUORATE_LOG=info or QUORATE_LOG=quorate=debug")
    })?;
    let colour = std::io::stderr().is_terminal() && no_colour_unset();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    let set = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|error| Failure::new(Kind::Failed, format!("cannot set up logging: {error}")))
}

/// https://no-color.org: present and not empty means no colour.
pub fn no_colour_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
