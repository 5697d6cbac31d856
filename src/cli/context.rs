//! What every verb starts from: the home, the settings, the store.

use super::args::MachineFlags;
use crate::config::{Overrides, Required, Settings};
use crate::error::{Failure, Kind, Outcome};
use crate::home::Home;
use crate::obs::{self, LogFormat};
use crate::store::name::ModelName;
use crate::store::pull::{Network, PullEvent, PullOptions};
use crate::store::{HubConfig, Store};
use std::path::{Path, PathBuf};

pub(super) struct Context {
    pub(super) home: Home,
    pub(super) settings: Settings,
}

/// How much a verb says of itself unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) enum Voice {
    /// A server: what happens is news.
    Server,
    /// A command: only what is wrong.
    Command,
}

impl Context {
    pub(super) fn new(
        config: Option<&Path>,
        log_format: Option<LogFormat>,
        mut overrides: Overrides,
        voice: Voice,
    ) -> Outcome<Context> {
        let home = Home::from_env()?;
        overrides.log_format = overrides.log_format.or(log_format);
        overrides.offline = offline_from_env()?;
        overrides.log_filter = text_from_env("QUORATE_LOG").or_else(|| text_from_env("RUST_LOG"));
        let (path, required) = match config {
            Some(path) => (path, Required::Yes),
            None => (home.config_file.as_path(), Required::No),
        };
        let settings = Settings::load(path, required, &overrides)?;
        let default = match voice {
            Voice::Server => "info",
            Voice::Command => "error",
        };
        obs::init(
            settings.log_filter.as_deref().unwrap_or(default),
            settings.log_format,
        )?;
        Ok(Context { home, settings })
    }

    pub(super) fn store(&self) -> Store {
        Store::new(&self.home.data)
    }

    /// The model behind what was typed: aliases, short names, `~/`.
    pub(super) fn model_name(&self, typed: &str) -> Outcome<ModelName> {
        Ok(crate::node::parse_name(&self.settings, typed)?)
    }

    /// Fetches the model; refused without a connection when the network is off.
    pub(super) fn pull_with(
        &self,
        name: &ModelName,
        on_event: &mut dyn FnMut(PullEvent),
    ) -> Outcome {
        self.home.create()?;
        let network = if self.settings.offline {
            Network::Forbidden
        } else {
            Network::Allowed
        };
        let options = PullOptions {
            network,
            hub: HubConfig::from_env(text_from_env),
            python: std::env::var_os("QUORATE_PYTHON").unwrap_or_else(|| "python3".into()),
        };
        self.store().pull(name, &options, on_event)?;
        Ok(())
    }
}

impl From<&MachineFlags> for Overrides {
    fn from(flags: &MachineFlags) -> Overrides {
        Overrides {
            threads: flags.threads,
            max_memory: flags.max_memory,
            context: flags.ctx,
            gpu_layers: flags.gpu_layers,
            ..Overrides::default()
        }
    }
}

pub(super) fn text_from_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn offline_from_env() -> Outcome<Option<bool>> {
    match text_from_env("QUORATE_OFFLINE").as_deref() {
        None => Ok(None),
        Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
        Some("0" | "false" | "no" | "off") => Ok(Some(false)),
        Some(other) => Err(Failure::new(
            Kind::Config,
            format!("QUORATE_OFFLINE is '{other}'; write 1 or 0"),
        )),
    }
}

/// `~/x` is the shell's business, but not inside quotes or a settings file.
pub(super) fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}
