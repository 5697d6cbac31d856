//! What every verb starts from: the home, the settings, the store.

use super::args::MachineFlags;
use crate::config::{Overrides, Required, Settings};
use crate::error::{Failure, Kind, Outcome};
use crate::home::Home;
use crate::obs::{self, LogFormat};
use crate::store::name::ModelName;
use crate::store::pull::{Network, PullEvent, PullOptions};
use crate::store::{HubConfig, Store};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

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
        add_environment(&mut overrides)?;
        let (path, required) = match config {
            Some(path) => (path, Required::Yes),
            None => (home.config_file.as_path(), Required::No),
        };
        let settings = Settings::load(path, required, &overrides)?;
        let default = match voice {
            // llama.cpp tells a hundred lines about every model, and warns of a cache for two contexts.
            Voice::Server => "info,llama-cpp-2=error",
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

/// What no flag says, from the environment.
fn add_environment(flags: &mut Overrides) -> Outcome {
    fill(&mut flags.listen, "QUORATE_LISTEN")?;
    fill(&mut flags.api_key_file, "QUORATE_API_KEY_FILE")?;
    fill(&mut flags.keep_alive, "QUORATE_KEEP_ALIVE")?;
    fill(&mut flags.threads, "QUORATE_THREADS")?;
    fill(&mut flags.max_memory, "QUORATE_MAX_MEMORY")?;
    fill(&mut flags.context, "QUORATE_CTX")?;
    fill(&mut flags.gpu_layers, "QUORATE_GPU_LAYERS")?;
    fill(&mut flags.log_format, "QUORATE_LOG_FORMAT")?;
    fill(&mut flags.log_filter, "QUORATE_LOG")?;
    fill(&mut flags.log_filter, "RUST_LOG")?;
    flags.offline = match text_from_env("QUORATE_OFFLINE").as_deref() {
        None => flags.offline,
        Some("1" | "true" | "yes" | "on") => Some(true),
        Some("0" | "false" | "no" | "off") => Some(false),
        Some(other) => {
            return Err(refused(
                "QUORATE_OFFLINE",
                &format!("'{other}' is neither 1 nor 0"),
            ));
        }
    };
    Ok(())
}

fn fill<T: FromStr<Err: Display>>(setting: &mut Option<T>, name: &str) -> Outcome {
    if setting.is_none()
        && let Some(text) = text_from_env(name)
    {
        *setting = Some(
            text.parse()
                .map_err(|error: T::Err| refused(name, &error.to_string()))?,
        );
    }
    Ok(())
}

fn refused(name: &str, why: &str) -> Failure {
    Failure::new(
        Kind::Config,
        format!("the environment's {name} is refused: {why}"),
    )
    .hint(format!("unset {name}, or correct it"))
}

/// `~/x` is the shell's business, but not inside quotes or a settings file.
pub(super) fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}
