//! Real nodes on this machine, far apart: every one has a home of its own and is reached by the
//! others only through a relay that injects the link.
//!
//! ```text
//! n1 ──▶ relay of n2 (delay, loss, rate) ──▶ n2        swarm: UDP and TCP; token plane: UDP
//! ```
//!
//! Nothing in a node knows of it: its settings name the relays as its public addresses.

use super::relay::{self, Relay};
use crate::error::{Failure, Kind, Outcome};
use crate::home::Home;
use crate::identity::{self, Identity};
use crate::mesh::MeshHome;
use libp2p_identity::Keypair;
use quorate_core::config::{Key, MeshConfig};
use quorate_core::governance::{Genesis, Preset, Terms};
use quorate_core::ids::{NetworkId, PeerKey};
use quorate_core::limits::TESTNET_NODES_MAX;
use quorate_core::link::Link;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Each node takes this many ports from the base on: API, swarm, token plane.
const PORTS_PER_NODE: u16 = 10;
/// A node says that it is up within this, on a machine that is busy with the others.
const UP_MAX: Duration = Duration::from_secs(90);
/// Nodes say goodbye within this, or are killed.
const DOWN_MAX: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(50);

/// Experts that differ: a mesh of equals would prove nothing.
const PREFIXES: [&str; 8] = [
    "You are a ship's captain. You answer in the short, salty words of the sea.",
    "You are a patient teacher of mathematics. You explain everything step by step, with numbers.",
    "Du bist ein freundlicher Koch aus Wien. Du antwortest auf Deutsch und denkst ans Essen.",
    "You are a strict judge. You weigh both sides and speak in formal, careful sentences.",
    "You are a poet. Everything you say rhymes, and every image is of the night sky.",
    "You are a programmer. You answer with code in Python and a one-line comment.",
    "Vous êtes une historienne. Vous répondez en français, avec des dates et des noms.",
    "You are a child of six years. You use very simple words and ask many questions.",
];

/// What each process of a testnet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `quorate up`, with a model.
    Node,
    /// `quorate gov drill-node`: no API; it is told what to do, and tells what happened. Its expert is
    /// made up, or a model.
    Drill { real: bool },
}

/// What to set up.
#[derive(Clone, Debug)]
pub struct Plan {
    pub role: Role,
    pub nodes: usize,
    pub link: Link,
    /// Experts asked for every token; None: as the mesh config says by default.
    pub k: Option<u32>,
    pub base_port: u16,
    /// Made anew; holds the homes.
    pub dir: PathBuf,
    /// The program itself.
    pub binary: PathBuf,
    /// Models that are there already: the nodes share them.
    pub models: PathBuf,
    pub model: String,
    /// Who governs it; nobody: a key that is thrown away.
    pub participants: Vec<[u8; 32]>,
}

/// A testnet that runs. Dropping it kills every node.
pub struct Testnet {
    pub network: NetworkId,
    pub nodes: Vec<Node>,
    relays: Vec<Relay>,
    stop: CancellationToken,
}

pub struct Node {
    pub name: String,
    pub id: String,
    pub api: String,
    pub home: PathBuf,
    pub pid: Option<u32>,
    child: Child,
    /// What it says after its first line.
    pub says: Option<BufReader<ChildStdout>>,
    /// Where a node of a drill is told what to do.
    pub told: Option<ChildStdin>,
    /// What became of it, once it ended.
    pub ended: Option<String>,
}

/// Starts everything; returns when every node answers.
pub async fn up(plan: &Plan) -> Outcome<Testnet> {
    check(plan)?;
    match fs::remove_dir_all(&plan.dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::file("remove", &plan.dir, &error));
        }
        _ => {}
    }
    let homes: Vec<Home> = (1..=plan.nodes).map(|n| home(plan, n)).collect();
    let keys = identities(&homes)?;
    let genesis = genesis(plan, &keys)?;
    let stop = CancellationToken::new();
    let mut relays = Vec::new();
    for n in 1..=plan.nodes {
        for port in [port(plan, n, 1), port(plan, n, 2)] {
            let anywhere = local(0);
            let seed = u64::from(port);
            let relay = relay::start(anywhere, local(port), plan.link, seed, stop.clone()).await;
            relays.push(relay.map_err(|e| Failure::new(Kind::Failed, e.to_string()))?);
        }
    }
    let mut testnet = Testnet {
        network: genesis.network_id(),
        nodes: Vec::new(),
        relays,
        stop,
    };
    for (n, home) in (1..).zip(&homes) {
        settle(plan, &testnet.relays, n, home, &genesis)?;
        testnet.nodes.push(start(plan, n, home, &keys[n - 1])?);
    }
    for node in &mut testnet.nodes {
        node.wait_until_up().await?;
    }
    Ok(testnet)
}

fn check(plan: &Plan) -> Outcome {
    if !(1..=TESTNET_NODES_MAX).contains(&plan.nodes) {
        let message = format!(
            "a testnet has 1 to {TESTNET_NODES_MAX} nodes, not {}",
            plan.nodes
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    let last = plan.nodes as u32 * u32::from(PORTS_PER_NODE) + u32::from(plan.base_port);
    if last > u32::from(u16::MAX) {
        return Err(Failure::new(
            Kind::Usage,
            "there are not so many ports above the base port",
        ));
    }
    for n in 1..=plan.nodes {
        for offset in 0..3 {
            let address = local(port(plan, n, offset));
            if let Err(error) = std::net::TcpListener::bind(address) {
                return Err(Failure::new(
                    Kind::Taken,
                    format!("cannot listen on {address}: {error}"),
                )
                .hint("another testnet? stop it with `quorate testnet down`; or --base-port"));
            }
        }
    }
    plan.link
        .check()
        .map_err(|error| Failure::new(Kind::Usage, format!("this is no link: {error}")))
}

fn home(plan: &Plan, n: usize) -> Home {
    let dir = plan.dir.join(format!("n{n}"));
    Home {
        config_file: dir.join("config.toml"),
        state: dir.clone(),
        data: dir,
    }
}

fn identities(homes: &[Home]) -> Outcome<Vec<PeerKey>> {
    let key = |home: &Home| {
        home.create()?;
        Ok(Identity::load_or_create(&home.identity_key())?.key())
    };
    homes.iter().map(key).collect()
}

/// Throw-away keys: nobody votes here.
fn genesis(plan: &Plan, nodes: &[PeerKey]) -> Outcome<Genesis> {
    let failed = |why: String| Failure::new(Kind::Usage, why);
    let mut config = MeshConfig::default();
    if let Some(k) = plan.k {
        config = config
            .with(Key::RouterK, k)
            .map_err(|error| failed(format!("--k: {error}")))?;
    }
    let mut participants = plan.participants.clone();
    if participants.is_empty() {
        let voter = Keypair::generate_ed25519().public();
        let voter = voter.try_into_ed25519().expect("it was made so");
        participants.push(voter.to_bytes());
    }
    let mut terms = Terms::of(Preset::Lab, participants, config);
    terms.nodes = nodes.to_vec();
    terms.nodes.sort_unstable();
    terms.found().map_err(|error| failed(error.to_string()))
}

/// Everything that a node finds in its home.
fn settle(plan: &Plan, relays: &[Relay], n: usize, home: &Home, genesis: &Genesis) -> Outcome {
    let has_model = plan.role != (Role::Drill { real: false });
    if has_model {
        let models = home.models();
        std::os::unix::fs::symlink(&plan.models, &models)
            .map_err(|error| Failure::file("link", &models, &error))?;
    }
    MeshHome::of(home).enter(genesis, &[], None)?;
    let relay_of = |n: usize| (relays[2 * (n - 1)].addr, relays[2 * (n - 1) + 1].addr);
    let (swarm, plane) = relay_of(n);
    let others = (1..=plan.nodes).filter(|other| *other != n).take(3);
    let bootstrap: Vec<String> = others.map(|other| relay_of(other).0.to_string()).collect();
    let prefix = PREFIXES[(n - 1) % PREFIXES.len()];
    let prefix = match (n - 1) / PREFIXES.len() {
        0 => prefix.to_owned(),
        round => format!("This is conversation number {round}. {prefix}"),
    };
    let expert = if has_model {
        format!(
            "[[expert]]\nname = \"n{n}\"\nmodel = {:?}\nprefix = {prefix:?}\nallow = [\"mesh\"]\n",
            plan.model
        )
    } else {
        String::new()
    };
    let text = format!(
        "version = 1\n\
         [api]\nlisten = {:?}\n\
         [models]\ndefault = {:?}\nkeep_alive = \"forever\"\n\
         [machine]\nthreads = 1\nctx = 2048\n\
         [mesh]\nlisten = {:?}\nplane_listen = {:?}\nannounce = [{:?}]\nplane_announce = [{:?}]\n\
         bootstrap = {bootstrap:?}\nmdns = false\nmodel = \"n{n}\"\n\
         {expert}",
        local(port(plan, n, 0)).to_string(),
        plan.model,
        local(port(plan, n, 1)).to_string(),
        local(port(plan, n, 2)).to_string(),
        swarm.to_string(),
        plane.to_string(),
    );
    fs::write(&home.config_file, text).map_err(|e| Failure::file("write", &home.config_file, &e))
}

fn start(plan: &Plan, n: usize, home: &Home, key: &PeerKey) -> Outcome<Node> {
    let log_path = home.data.join("node.log");
    let log = fs::File::create(&log_path).map_err(|e| Failure::file("write", &log_path, &e))?;
    let (verb, told): (&[&str], _) = match plan.role {
        Role::Node => (&["up", "--json"], Stdio::null()),
        Role::Drill { .. } => (&["gov", "drill-node"], Stdio::piped()),
    };
    let mut child = Command::new(&plan.binary)
        .args(verb)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            // What the owner's own node uses must not leak in.
            !name.to_string_lossy().starts_with("QUORATE_")
        }))
        .env("QUORATE_HOME", &home.data)
        // Nodes that spin while they wait would slow each other on one machine.
        .env("OMP_WAIT_POLICY", "passive")
        .stdin(told)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Failure::file("start", &plan.binary, &error))?;
    Ok(Node {
        name: format!("n{n}"),
        id: identity::peer_id(key),
        api: format!("http://{}", local(port(plan, n, 0))),
        home: home.data.clone(),
        pid: Some(child.id()),
        says: child.stdout.take().map(BufReader::new),
        told: child.stdin.take(),
        child,
        ended: None,
    })
}

impl Node {
    async fn wait_until_up(&mut self) -> Outcome {
        let mut says = self.says.take().expect("it is piped, and waited for once");
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            says.read_line(&mut line).map(|_| (line, says))
        });
        if let Ok(Ok(Ok((line, says)))) = timeout(UP_MAX, first).await
            && line.contains("\"ready\"")
        {
            self.says = Some(says);
            return Ok(());
        }
        let log = self.home.join("node.log");
        let said = fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        let message = format!("{} did not come up: {last}", self.name);
        Err(Failure::new(Kind::Failed, message).hint(format!("see {}", log.display())))
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// True when it has just ended.
    pub fn has_ended(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        match self.child.try_wait() {
            Ok(Some(status)) => {
                self.ended = Some(status.to_string());
                true
            }
            _ => false,
        }
    }
}

impl Testnet {
    /// Every node says goodbye; who does not is killed.
    pub async fn down(mut self) {
        for node in &self.nodes {
            terminate(node.pid);
        }
        let begun = Instant::now();
        while begun.elapsed() < DOWN_MAX && self.nodes.iter_mut().any(Node::is_alive) {
            sleep(LOOK).await;
        }
        self.nodes.clear(); // whoever is left is killed
        self.stop.cancel();
        for relay in self.relays {
            relay.stopped().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok(); // it ended before
        self.child.wait().ok();
    }
}

/// SIGTERM, to a process that this one has started and not yet reaped.
fn terminate(pid: Option<u32>) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM).ok(); // it ended by itself
    }
}

fn port(plan: &Plan, n: usize, offset: u16) -> u16 {
    plan.base_port + PORTS_PER_NODE * (n as u16 - 1) + offset
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// Where testnets of this home live.
pub fn dir(home: &Path) -> PathBuf {
    home.join("testnet")
}
