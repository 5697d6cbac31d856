//! Nodes of one process that meet over real QUIC on loopback, some of them through a made-up
//! distance.

use super::{BenchError, Result};
use crate::driver::{
    self, Answers, Asked, Found, Generation, GenerationStream, Lease, Models, Node, Offer, Tape,
};
use crate::expert::stub::{StubExpert, StubOptions};
use crate::expert::{Expert, ExpertFacts};
use crate::identity;
use crate::mesh;
use crate::net::plane::Plane;
use crate::net::remote::RemoteExpert;
use crate::net::serve::Terms;
use crate::testnet::relay::{self, Relay};
use crate::wire::plane::{Letterhead, Purpose};
use libp2p_identity::{Keypair, PeerId};
use quorate_core::config::MeshConfig;
use quorate_core::generate::Notes;
use quorate_core::governance::{Genesis, Records, Rights, fold};
use quorate_core::host::Allow;
use quorate_core::ids::{ExpertId, NetworkId, PeerKey, Token};
use quorate_core::law::{Law, Transforms};
use quorate_core::link::Link;
use quorate_core::residency::KeepAlive;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NETWORK: NetworkId = NetworkId([7; 32]);
const PATIENCE: Duration = Duration::from_secs(10);
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A node that has its expert in memory and serves it to everybody. Ends with its owner.
pub(super) struct Machine {
    peer: PeerId,
    pub(super) client: Client,
    plane: Arc<Plane>,
    /// Ends the node and everything that it serves.
    pub(super) stop: CancellationToken,
}

/// Asks a machine's router.
#[derive(Clone)]
pub(super) struct Client {
    node: Node,
    pub(super) lease: Lease,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A stub of this name that takes `step` for a token, and whose text never ends by itself.
pub(super) fn paced(name: &str, step: Duration) -> Models {
    let options = StubOptions {
        model: name.into(),
        step,
        end_logit: -30.0,
        ..StubOptions::default()
    };
    Models {
        find: found(name),
        load: Arc::new(move |_, events| {
            StubExpert::spawn(options.clone(), events).map_err(|e| e.to_string())
        }),
        offer: offered(name),
    }
}

pub(super) fn found(name: &str) -> Arc<driver::Find> {
    let name = name.to_owned();
    Arc::new(move |_| {
        Ok(Found {
            name: name.clone(),
            bytes: 1,
            shared: None,
        })
    })
}

/// To everybody, by whatever id it has.
pub(super) fn offered(name: &str) -> Arc<driver::Offers> {
    let name = name.to_owned();
    Arc::new(move |id| {
        Some(Offer {
            id,
            name: name.clone(),
            allow: Allow::Mesh,
            answers: Answers::Model,
        })
    })
}

/// The expert of `other`, as if it were this machine's own: for a router that has none.
fn elsewhere(name: &str, other: &Machine) -> Result<Models> {
    let plane = Arc::new(bind(Keypair::generate_ed25519())?);
    let (facts, peer, address) = (other.facts(), other.peer, other.address()?);
    let runtime = tokio::runtime::Handle::current();
    let load = move |_: &str, events| {
        let _in_runtime = runtime.enter();
        let dial = mesh::directly(&plane, peer, vec![address]);
        let expert = mesh::reach(facts.clone(), dial, letterhead(), events);
        Ok(Arc::new(expert) as Arc<dyn Expert>)
    };
    Ok(Models {
        find: found(name),
        load: Arc::new(load),
        offer: Arc::new(|_| None),
    })
}

fn bind(keypair: Keypair) -> Result<Plane> {
    Plane::bind(keypair, LOOPBACK).map_err(|error| BenchError::new("the token plane", error))
}

/// A mesh of one throw-away key, under this config.
fn rights(config: MeshConfig) -> Result<Rights> {
    let key = Keypair::generate_ed25519().public();
    let key = key.try_into_ed25519();
    let key = key.map_err(|error| BenchError::new("a key", error))?;
    let genesis = Genesis::new(vec![key.to_bytes()], config);
    let genesis = genesis.map_err(|error| BenchError::new("a genesis", error))?;
    Ok(Rights::alone().under(fold(&genesis, &Records::default())))
}

fn letterhead() -> watch::Receiver<Letterhead> {
    watch::channel(Letterhead {
        network: NETWORK,
        config: MeshConfig::default().hash(),
        governance_head: vec![],
        halted: false,
        purpose: Purpose::User,
    })
    .1
}

impl Machine {
    pub(super) async fn start(name: &str, models: Models, memory_bytes: u64) -> Result<Machine> {
        Machine::start_under(MeshConfig::default(), name, models, memory_bytes).await
    }

    pub(super) async fn start_under(
        config: MeshConfig,
        name: &str,
        models: Models,
        memory_bytes: u64,
    ) -> Result<Machine> {
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let plane = Arc::new(bind(keypair)?);
        let settings = driver::Settings {
            node_id: peer.to_string(),
            memory_budget_bytes: memory_bytes,
            keep_alive: KeepAlive::Forever,
            config: config.clone(),
        };
        let stop = CancellationToken::new();
        let (node, _) = driver::start(settings, models, stop.clone());
        node.set_rights(rights(config)?).await;
        let lease = node.acquire(name).await;
        let lease = lease.map_err(|error| BenchError::new("loading", error))?;
        let me = identity::key_of(&peer).ok_or_else(|| BenchError::new("a key", "it is hidden"))?;
        let terms = Terms {
            network: NETWORK,
            me,
            patience: PATIENCE,
        };
        let everybody: mesh::Admits = Arc::new(|_: &PeerKey| true);
        let serving =
            mesh::serve_guests(plane.clone(), node.clone(), terms, everybody, stop.clone());
        tokio::spawn(serving);
        Ok(Machine {
            peer,
            client: Client { node, lease },
            plane,
            stop,
        })
    }

    /// A router whose only expert is that of `other`.
    pub(super) async fn without_expert(other: &Machine) -> Result<Machine> {
        let models = elsewhere("elsewhere", other)?;
        Machine::start("elsewhere", models, 1 << 30).await
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        let address = self.plane.local_addr();
        address.map_err(|error| BenchError::new("the token plane", error))
    }

    pub(super) fn expert(&self) -> ExpertId {
        self.client.lease.facts().id
    }

    /// Its expert, as others know it.
    fn facts(&self) -> Arc<ExpertFacts> {
        let facts = self.client.lease.facts();
        Arc::new(ExpertFacts {
            id: facts.id,
            peer: identity::key_of(&self.peer),
            model: facts.model.clone(),
            sha256: facts.sha256.clone(),
            family: facts.family,
            vocab: facts.vocab.clone(),
            bos: facts.bos,
            context: facts.context,
            model_bytes: 0,
            cache_bytes: 0,
            processor: "elsewhere".into(),
        })
    }

    /// Lets this router ask the expert of `other`, who is reached at `address`.
    pub(super) async fn meet(
        &self,
        other: &Machine,
        address: SocketAddr,
    ) -> Result<Arc<RemoteExpert>> {
        let dial = mesh::directly(&self.plane, other.peer, vec![address]);
        mesh::adopt(&self.client.node, other.facts(), dial, letterhead())
            .await
            .map_err(|error| BenchError::new("meeting", error))
    }

    /// A distance in front of this machine.
    pub(super) async fn far(&self, link: Link, seed: u64) -> Result<Relay> {
        relay::start(LOOPBACK, self.address()?, link, seed, self.stop.clone())
            .await
            .map_err(|error| BenchError::new("a relay", error))
    }
}

impl Client {
    pub(super) async fn ask(
        &self,
        prompt: &[Token],
        asked: Asked,
        seed: u64,
        tokens: u32,
    ) -> Result<(GenerationStream, Tape)> {
        let law = self.law(1.0)?;
        self.ask_under(law, prompt, asked, seed, tokens).await
    }

    /// The law of this mesh at a temperature; 0 is the greedy one.
    pub(super) fn law(&self, temperature: f32) -> Result<Law> {
        let transforms = Transforms {
            temperature,
            ..Transforms::NEUTRAL
        };
        let law = Law::new(transforms, self.node.config().lists());
        law.map_err(|error| BenchError::new("the law", error))
    }

    pub(super) async fn ask_under(
        &self,
        law: Law,
        prompt: &[Token],
        asked: Asked,
        seed: u64,
        tokens: u32,
    ) -> Result<(GenerationStream, Tape)> {
        let generation = Generation {
            prompt: prompt.to_vec(),
            law,
            seed,
            choice: 0,
            max_tokens: Some(tokens),
            stop: Vec::new(),
            logprobs: None,
            grammar: None,
            asked,
            notes: Notes {
                provenance: true,
                record: false,
            },
        };
        let (node, tape) = self.node.recorded();
        let stream = node.generate(&self.lease, generation).await;
        let stream = stream.map_err(|error| BenchError::new("generating", error))?;
        Ok((stream, tape))
    }
}
