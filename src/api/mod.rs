//! What clients speak to: OpenAI's HTTP API and gRPC on one listener.
//!
//! ```text
//! listener ── connection ── guard (host, origin, key) ─┬─ openai ─┐
//!                                                       ├─ grpc ───┴─ wish ── answer ── driver::Node
//!                                                       └─ health, metrics, status
//! ```
//!
//! Every request becomes the same checked `Wish` and runs through `answer::start`.

use crate::driver::Node;
use crate::mesh::Membership;
use crate::node::Library;
use crate::wish::Defaults;
use quorate_core::law::Transforms;
use quorate_core::limits::API_CONNECTIONS_MAX;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

pub(crate) mod answer;
mod body;
pub mod error;
mod governance;
mod grpc;
mod guard;
mod health;
mod listener;
mod mesh;
pub mod metrics;
mod openai;
mod router;

pub use guard::{BindError, check_bind};
pub use listener::serve;

/// Everything a request may need. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub node: Node,
    pub catalogue: Catalogue,
    /// What `mesh` as a model means.
    pub mesh: Membership,
    /// What this node serves; None where nothing can be registered.
    pub library: Option<Library>,
    /// Must be servable for `/readyz` to say yes.
    pub default_model: Option<String>,
    /// BLAKE3 of the key that clients must bring; None: no key is asked for.
    pub api_key_hash: Option<[u8; 32]>,
    /// Names besides localhost under which clients may address this node, without port.
    pub allowed_hosts: Arc<[String]>,
    /// Origins ("https://chat.example") of web pages that may read answers.
    pub allowed_origins: Arc<[String]>,
    pub metrics: metrics::Metrics,
    /// `RECORDINGS_MAX` places.
    pub recordings: Arc<Semaphore>,
    pub limits: Limits,
}

/// What nobody gets more of. Tests shorten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; further clients wait in the kernel's backlog.
    pub connections: usize,
    /// From accepting a connection to its first complete request head, and between two requests.
    pub head: Duration,
    /// For a request's body: one within its bound takes this long on the slowest link we serve.
    pub body: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: API_CONNECTIONS_MAX,
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
        }
    }
}

/// Which models there are, as far as the API needs to know.
#[derive(Clone)]
pub struct Catalogue {
    /// Reads the store's index; may block for some milliseconds.
    pub installed: Arc<dyn Fn() -> Vec<InstalledModel> + Send + Sync>,
    /// Foreign names to ours.
    pub aliases: BTreeMap<String, String>,
    /// Known names that look like this one, best first.
    pub near: Arc<NearNames>,
}

type NearNames = dyn Fn(&str) -> Vec<String> + Send + Sync;

#[derive(Clone, Debug)]
pub struct InstalledModel {
    /// The name that requests use.
    pub name: String,
    pub installed_unix_s: u64,
    pub bytes: u64,
    /// Tokens that one session may hold.
    pub context: u32,
}

impl ApiState {
    /// What holds where a client says nothing: now, since people may vote for something else any time.
    pub(crate) fn defaults(&self) -> Defaults {
        Defaults {
            transforms: Transforms::NEUTRAL,
            max_tokens: None,
            config: self.node.config(),
        }
    }

    /// A node with a key may have clients that are not its owner: they name models, not files.
    /// (Aliases and the default model may still lead to files: those the owner wrote.)
    fn check_name(&self, name: &str) -> Result<(), error::ApiError> {
        let owners = self.catalogue.aliases.contains_key(name)
            || self.default_model.as_deref() == Some(name);
        if self.api_key_hash.is_none() || owners || !is_path(name) {
            return Ok(());
        }
        let message = "a node with an API key serves no files by their path; \
                       give the file a name in [aliases] of its settings";
        let kind = error::Kind::ModelNotFound;
        Err(error::ApiError::about("model", kind, message))
    }
}

fn is_path(name: &str) -> bool {
    let file = name.ends_with(".gguf") && !name.contains(':');
    file || name.starts_with(['/', '.', '~']) || name.contains('\\')
}

impl Catalogue {
    /// Reads the index on a thread that may block; nothing if that fails.
    async fn list(&self) -> Vec<InstalledModel> {
        let installed = self.installed.clone();
        let listing = tokio::task::spawn_blocking(move || installed());
        listing.await.unwrap_or_default()
    }

    /// The name behind an alias; any other name stays itself.
    fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }
}
