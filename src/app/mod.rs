//! Where everything is put together, and the only place where it is: store, models, driver, API,
//! signals. Everything that runs hangs on one token; when it fires, all of it ends within
//! [`SHUTDOWN_MAX`].

use crate::api::{self, ApiState, Catalogue, InstalledModel};
use crate::config::{KeepAlive, Settings};
use crate::driver::{self, Node};
use crate::error::{Failure, Kind, Outcome};
use crate::expert::hardware;
use crate::home::{Home, NodeLock};
use crate::identity::Identity;
use crate::mesh::{Founding, Membership, MeshHome};
use crate::node::{self, Audience, Library, NodeKeys};
use crate::store::Store;
use quorate_core::config::MeshConfig;
use quorate_core::limits::RECORDINGS_MAX;
use quorate_core::plan;
use quorate_core::residency;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod failures;
pub(crate) mod ports;

/// Responses under way get this long to end; then the process ends without them.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// A key file holds one line.
const KEY_FILE_BYTES_MAX: u64 = 4096;
/// Shorter keys can be guessed over a network.
const KEY_BYTES_MIN: usize = 16;

/// A node in this process.
pub struct App {
    pub node: Node,
    pub library: Library,
    pub state: ApiState,
    /// What a membership is made of, when the home belongs to a mesh.
    founding: Founding,
    stop: CancellationToken,
    driver: JoinHandle<()>,
}

impl App {
    /// Starts the loop on the current runtime. Nothing listens yet, and no model is loaded.
    pub fn start(home: &Home, settings: &Arc<Settings>, audience: Audience) -> Outcome<App> {
        home.create()?;
        let identity = Identity::load_or_create(&home.identity_key())?;
        let node_id = identity.node_id().to_string();
        let keys = NodeKeys {
            key: identity.key(),
            prefix_secret: identity.secret_for("quorate 2026 private prefixes"),
        };
        let hardware = Arc::new(hardware::probe());
        let store = Store::new(&home.data);
        let stop = CancellationToken::new();
        let driver_settings = driver::Settings {
            node_id,
            memory_budget_bytes: plan::budget_bytes(&hardware.machine, settings.max_memory_bytes),
            keep_alive: keep_alive(settings.keep_alive),
            config: MeshConfig::default(),
        };
        let library = Library::new(store.clone(), settings.clone(), hardware, audience, keys);
        let (node, driver) = driver::start(driver_settings, library.models(), stop.clone());
        let state = api_state(node.clone(), settings, &store, &library)?;
        let founding = Founding {
            keypair: identity.keypair,
            settings: settings.clone(),
            home: MeshHome::of(home),
            policy: home.policy(),
            node: node.clone(),
            library: library.clone(),
        };
        Ok(App {
            founding,
            node,
            library,
            state,
            stop,
            driver,
        })
    }

    /// Ends the loop; every model leaves memory.
    pub async fn shut_down(self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_MAX, self.driver)
            .await
            .is_err()
        {
            tracing::warn!(target: "quorate::app", "the node did not end in time");
        }
    }
}

/// What a node says when it is up.
#[derive(Clone, Debug)]
pub struct Ready {
    pub api: String,
    pub node_id: String,
    pub installed: Vec<String>,
    /// Whom it asks about the model `mesh` can read that prompt.
    pub in_mesh: bool,
}

/// Runs a node with its API until a signal comes. `on_ready` hears where it listens.
pub async fn serve(
    home: &Home,
    settings: &Arc<Settings>,
    preload: Option<&str>,
    on_ready: impl FnOnce(&Ready) -> Outcome,
) -> Outcome {
    let mut lock = home.lock()?;
    let signals = Signals::listen()?;
    let listener = bind(settings).await?;
    let app = App::start(home, settings, Audience::Node)?;
    let mut ready = ready(&app, &listener).await?;
    lock.publish(&ready.api, &ready.node_id)?;
    let membership = app.state.mesh.clone();
    let mesh = tokio::spawn(
        membership
            .clone()
            .run(app.founding.clone(), app.stop.clone()),
    );
    let serving = tokio::spawn(api::serve(app.state.clone(), listener, app.stop.clone()));
    // Whoever reads that the node is ready may ask for the mesh at once.
    ready.in_mesh = membership.is_there().await;
    on_ready(&ready)?;
    let ended = run(&app, preload, serving, signals).await;
    app.stop.cancel();
    // It says goodbye to the others; whoever does not hear it notices within seconds.
    tokio::time::timeout(SHUTDOWN_MAX, mesh).await.ok();
    app.shut_down().await;
    drop::<NodeLock>(lock);
    ended
}

/// Until a signal, a listener that died, or a preload that failed.
async fn run(
    app: &App,
    preload: Option<&str>,
    mut serving: JoinHandle<std::io::Result<()>>,
    mut signals: Signals,
) -> Outcome {
    let load = async {
        match preload {
            // The lease is let go at once: from here on keep-alive decides.
            Some(model) => app.node.acquire(model).await.map(drop),
            None => Ok(()),
        }
    };
    tokio::pin!(load);
    let mut loaded = false;
    let ended = loop {
        tokio::select! {
            biased;
            name = signals.next() => {
                tracing::info!(target: "quorate::app", signal = name, "stopping");
                break Ok(());
            }
            ended = &mut serving => return Err(listener_died(ended)),
            result = &mut load, if !loaded => match result {
                Ok(()) => loaded = true,
                Err(error) => break Err(error.into()),
            },
        }
    };
    app.stop.cancel();
    tokio::select! {
        _ = tokio::time::timeout(SHUTDOWN_MAX, serving) => {}
        _ = signals.next() => tracing::warn!(target: "quorate::app", "stopping at once"),
    }
    ended
}

fn listener_died(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> Failure {
    let why = match ended {
        Ok(Ok(())) => "it stopped".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::new(Kind::Failed, format!("the API ended: {why}"))
}

/// SIGINT and SIGTERM, heard from before the node is up.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Outcome<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let cannot =
            |error| Failure::new(Kind::Failed, format!("cannot listen for signals: {error}"));
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

async fn bind(settings: &Settings) -> Outcome<TcpListener> {
    let address = settings.listen;
    let has_key = api_key(settings)?.is_some();
    api::check_bind(address, has_key).map_err(|error| {
        Failure::new(Kind::Config, error.to_string()).hint(
            "make a key with `head -c 32 /dev/urandom | base64 > api.key` and add --api-key-file api.key",
        )
    })?;
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                let who =
                    ports::listener_of(address).unwrap_or_else(|| "another process".to_owned());
                // 7868 and 7869 are the swarm's.
                let next = address.port().checked_add(10).unwrap_or(0);
                Failure::new(Kind::Taken, format!("{who} already listens on {address}")).hint(
                    format!(
                        "stop it, or choose another port: quorate up --listen {}",
                        SocketAddr::new(address.ip(), next)
                    ),
                )
            }
            std::io::ErrorKind::PermissionDenied => {
                Failure::new(Kind::Config, format!("cannot listen on {address}: {error}"))
                    .hint("ports below 1024 belong to root: choose a higher one with --listen")
            }
            _ => Failure::new(Kind::Config, format!("cannot listen on {address}: {error}"))
                .hint("choose an address of this machine with --listen"),
        })
}

async fn ready(app: &App, listener: &TcpListener) -> Outcome<Ready> {
    let address = listener.local_addr().map_err(|error| {
        Failure::new(
            Kind::Failed,
            format!("the listener has no address: {error}"),
        )
    })?;
    let status = app.node.status().await.unwrap_or_default();
    let installed = (app.state.catalogue.installed)()
        .into_iter()
        .map(|model| model.name)
        .collect();
    Ok(Ready {
        api: api_url(address),
        node_id: status.node_id,
        installed,
        in_mesh: false,
    })
}

/// An address that a client on this machine can use: a wildcard listens on loopback too.
fn api_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    format!("http://{address}")
}

fn api_state(
    node: Node,
    settings: &Arc<Settings>,
    store: &Store,
    library: &Library,
) -> Outcome<ApiState> {
    let (list_store, near_store, listed) = (store.clone(), store.clone(), library.clone());
    Ok(ApiState {
        node,
        catalogue: Catalogue {
            installed: Arc::new(move || installed(&list_store, &listed)),
            aliases: settings.aliases.clone(),
            near: Arc::new(move |typed| node::near_names(&near_store, typed)),
        },
        library: Some(library.clone()),
        mesh: Membership::new(
            settings
                .mesh
                .model
                .as_deref()
                .unwrap_or(&settings.default_model),
        ),
        default_model: Some(settings.default_model.clone()),
        api_key_hash: api_key(settings)?.map(|key| *blake3::hash(key.as_bytes()).as_bytes()),
        allowed_hosts: settings.allowed_hosts.clone().into(),
        allowed_origins: settings.allowed_origins.clone().into(),
        metrics: api::metrics::Metrics::new(),
        recordings: Arc::new(Semaphore::new(RECORDINGS_MAX)),
        limits: api::Limits::default(),
    })
}

fn installed(store: &Store, library: &Library) -> Vec<InstalledModel> {
    let Ok(listing) = store.list() else {
        return Vec::new();
    };
    listing
        .models
        .into_iter()
        .map(|model| InstalledModel {
            context: library.context_of(&model.name).unwrap_or(0),
            installed_unix_s: model.installed_at_s,
            bytes: model.bytes,
            name: model.name,
        })
        .collect()
}

/// The key that clients must show: QUORATE_API_KEY, or the file from flag or settings.
pub fn api_key(settings: &Settings) -> Outcome<Option<String>> {
    let (key, from) = match (std::env::var("QUORATE_API_KEY"), &settings.api_key_file) {
        (Ok(key), _) if !key.trim().is_empty() => (key, "QUORATE_API_KEY".to_owned()),
        (_, Some(path)) => (read_key(path)?, path.display().to_string()),
        (_, None) => return Ok(None),
    };
    let key = key.trim().to_owned();
    if key.len() < KEY_BYTES_MIN || !key.chars().all(|c| c.is_ascii_graphic()) {
        let message = format!(
            "the key in {from} must be {KEY_BYTES_MIN} or more letters, digits and signs, without spaces"
        );
        return Err(
            Failure::new(Kind::Config, message).hint("head -c 32 /dev/urandom | base64 > api.key")
        );
    }
    Ok(Some(key))
}

fn read_key(path: &Path) -> Outcome<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| Failure::file("read the API key in", path, &error))?;
    Ok(text)
}

fn keep_alive(setting: KeepAlive) -> residency::KeepAlive {
    match setting.millis() {
        Some(millis) => residency::KeepAlive::For(millis.saturating_mul(1000)),
        None => residency::KeepAlive::Forever,
    }
}
