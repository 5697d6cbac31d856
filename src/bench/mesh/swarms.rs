//! Real swarms of libp2p in this process, joined by memory: what they say when nothing happens, and
//! how far a look-up has to go. No sockets and no models; all else is what every node runs.

use super::super::{BenchError, Result};
use crate::identity::peer_of;
use crate::net::swarm::{Event, Handle, Meter, Seed, Settings, start, unix_s};
use libp2p_identity::Keypair;
use quorate_core::config::MeshConfig;
use quorate_core::governance::{Admission, Genesis, Preset, Record, Replica, Terms};
use quorate_core::ids::{ExpertId, Fingerprint, PeerKey};
use quorate_core::limits::{ADVERT_EVERY_US, GENESIS_NODES_MAX};
use quorate_core::mesh::{Address, ExpertRow, Host, Place, Transport};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// They are started one after the other: each costs dozens of key exchanges.
const BETWEEN_STARTS: Duration = Duration::from_millis(400);
/// All know all within this.
const MEETING_MAX: Duration = Duration::from_secs(300);
/// Meshes of gossip are trimmed, and what the start has moved is at rest.
const SETTLING: Duration = Duration::from_secs(30);
/// Where everybody begins.
const SEEDS: usize = 3;
/// Look-ups of each node, for nodes drawn from all.
const LOOKUPS: usize = 20;
/// Neighbours that are asked at once, and that each names: Kademlia's own numbers.
const ALPHA: usize = 3;
const BUCKET: usize = 20;

/// An idle mesh, for each node.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle {
    pub(super) nodes: usize,
    /// Until all knew all, after the last one had started.
    pub(super) met_s: f64,
    pub(super) links: f64,
    pub(super) window_s: f64,
    /// Adverts that nodes said in the window, and how many it should be: their turns are drawn.
    pub(super) adverts: u64,
    pub(super) adverts_expected: f64,
    pub(super) bytes_per_s: BTreeMap<&'static str, f64>,
    /// With all that is around them.
    pub(super) all_bytes_per_s: f64,
    /// Rounds of questions until the node that is looked for is named; 0: the own table has it.
    pub(super) hops_mean: f64,
    pub(super) hops_max: u32,
}

struct Swarm {
    key: PeerKey,
    handle: Handle,
    met: watch::Receiver<usize>,
}

struct Swarms {
    all: Vec<Swarm>,
    meter: Arc<Meter>,
    stop: CancellationToken,
}

pub(super) async fn idle(nodes: u16, window: Duration) -> Result<Idle> {
    let mut swarms = Swarms::start(nodes).await?;
    let idle = swarms.idle(window).await;
    swarms.stop.cancel();
    idle
}

impl Swarms {
    async fn start(nodes: u16) -> Result<Swarms> {
        let keypairs: Vec<Keypair> = (0..nodes).map(|_| Keypair::generate_ed25519()).collect();
        let replica = found(&keypairs)?;
        let mut swarms = Swarms {
            all: Vec::new(),
            meter: Arc::new(Meter::default()),
            stop: CancellationToken::new(),
        };
        for (n, keypair) in keypairs.into_iter().enumerate() {
            // The latest three, and so all hang together.
            let begin = n.saturating_sub(SEEDS)..n;
            let settings = Settings {
                bootstrap: begin.map(seed).collect(),
                mdns: false,
                memory: Some(swarms.meter.clone()),
                ..Settings::new(keypair.clone(), at(n))
            };
            let (offer, serves) = watch::channel(vec![row(n)]);
            let started = start(settings, replica.clone(), serves, swarms.stop.clone());
            let (handle, events) = started.map_err(|e| BenchError::new("a swarm", e))?;
            let (tell, met) = watch::channel(0);
            tokio::spawn(count(events, tell, offer));
            let key = public(&keypair);
            swarms.all.push(Swarm { key, handle, met });
            sleep(BETWEEN_STARTS).await;
        }
        Ok(swarms)
    }

    async fn idle(&mut self, window: Duration) -> Result<Idle> {
        let others = self.all.len() - 1;
        let begun = Instant::now();
        let meeting = async {
            for swarm in &mut self.all {
                // It ends with the swarm only.
                swarm.met.wait_for(|met| *met >= others).await.ok();
            }
        };
        if timeout(MEETING_MAX, meeting).await.is_err() {
            let know = self.all.iter().filter(|one| *one.met.borrow() >= others);
            let why = format!(
                "{} of {} know all after {} s",
                know.count(),
                self.all.len(),
                MEETING_MAX.as_secs()
            );
            return Err(BenchError::new("the swarms", why));
        }
        let met_s = begun.elapsed().as_secs_f64();
        sleep(SETTLING).await;
        let (said, bytes, all) = (self.said().await, self.meter.spoken(), self.meter.all());
        let begun = Instant::now();
        sleep(window).await;
        let (later, passed) = (self.meter.spoken(), self.meter.all() - all);
        let (nodes, window_s) = (self.all.len() as f64, begun.elapsed().as_secs_f64());
        let each = |bytes: u64| bytes as f64 / nodes / window_s;
        let spoken = bytes.into_iter().zip(later);
        let spoken = spoken.map(|((name, before), (_, after))| (name, each(after - before)));
        let (hops_mean, hops_max) = self.hops().await;
        Ok(Idle {
            nodes: self.all.len(),
            met_s,
            links: self.links().await,
            window_s,
            adverts: self.said().await - said,
            adverts_expected: nodes * window_s / (ADVERT_EVERY_US as f64 / 1e6),
            bytes_per_s: spoken.collect(),
            all_bytes_per_s: each(passed),
            hops_mean,
            hops_max,
        })
    }

    /// The numbers of all adverts, as one of the nodes knows them: each advert adds one.
    async fn said(&self) -> u64 {
        let Some(first) = self.all.first() else {
            return 0;
        };
        let views = first.handle.peers().await;
        let adverts = views.iter().filter_map(|view| view.advert.as_ref());
        adverts.fold(0, |sum, advert| sum.wrapping_add(advert.seq))
    }

    async fn links(&self) -> f64 {
        let mut links = 0;
        for swarm in &self.all {
            let views = swarm.handle.peers().await;
            links += views.iter().filter(|view| view.link.is_some()).count();
        }
        links as f64 / self.all.len() as f64
    }

    /// Over the tables that Kademlia has filled: the look-up itself is gone through here, since libp2p
    /// does not tell how far it went.
    async fn hops(&self) -> (f64, u32) {
        let mut tables = BTreeMap::new();
        for swarm in &self.all {
            tables.insert(swarm.key, swarm.handle.routes().await);
        }
        let places = self.all.iter().map(|one| (one.key, place(&one.key)));
        let places: BTreeMap<PeerKey, [u8; 32]> = places.collect();
        let (mut sum, mut most, mut lookups) = (0, 0, 0);
        for (n, from) in self.all.iter().enumerate() {
            for turn in 1..=LOOKUPS.min(self.all.len() - 1) {
                let to = (n + turn * (self.all.len() / LOOKUPS).max(1)) % self.all.len();
                if to == n {
                    continue;
                }
                let rounds = rounds(&tables, &places, from.key, self.all[to].key);
                (sum, most, lookups) = (sum + rounds, most.max(rounds), lookups + 1);
            }
        }
        (f64::from(sum) / f64::from(lookups.max(1)), most)
    }
}

/// Asks the nearest that are known for nearer ones, until one of them names the one.
fn rounds(
    tables: &BTreeMap<PeerKey, Vec<PeerKey>>,
    places: &BTreeMap<PeerKey, [u8; 32]>,
    from: PeerKey,
    to: PeerKey,
) -> u32 {
    let far = |key: &PeerKey| distance(&places[key], &places[&to]);
    let nearest = |of: &PeerKey| {
        let mut known = tables[of].clone();
        known.sort_by_key(far);
        known.truncate(BUCKET);
        known
    };
    let mut known: BTreeSet<([u8; 32], PeerKey)> = BTreeSet::new();
    known.extend(tables[&from].iter().map(|key| (far(key), *key)));
    let mut asked = BTreeSet::from([from]);
    let mut rounds = 0;
    while !known.contains(&([0; 32], to)) {
        let open = known.iter().map(|(_, key)| *key);
        let next: Vec<PeerKey> = open
            .filter(|key| !asked.contains(key))
            .take(ALPHA)
            .collect();
        if next.is_empty() {
            break; // nobody knows it
        }
        for one in next {
            asked.insert(one);
            known.extend(nearest(&one).iter().map(|key| (far(key), *key)));
        }
        rounds += 1;
    }
    rounds
}

/// Where Kademlia sees a node.
fn place(key: &PeerKey) -> [u8; 32] {
    Sha256::digest(peer_of(key).to_bytes()).into()
}

fn distance(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|n| a[n] ^ b[n])
}

/// Reads what the swarm tells; the offer lives as long.
async fn count(
    mut events: mpsc::Receiver<Event>,
    tell: watch::Sender<usize>,
    _offer: watch::Sender<Vec<ExpertRow>>,
) {
    let mut here = BTreeSet::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Met(advert) => here.insert(advert.node),
            Event::Lost { node, .. } => here.remove(&node),
            _ => continue,
        };
        tell.send_replace(here.len());
    }
}

/// A mesh to which all belong: those of the genesis, and those that they admit.
fn found(keypairs: &[Keypair]) -> Result<Replica> {
    let founders = &keypairs[..keypairs.len().min(GENESIS_NODES_MAX)];
    let person = Keypair::generate_ed25519();
    let mut terms = Terms::of(Preset::Lab, vec![public(&person)], MeshConfig::default());
    terms.nodes = founders.iter().map(public).collect();
    terms.nodes.sort_unstable();
    let genesis: Genesis = terms.found().map_err(|e| BenchError::new("a genesis", e))?;
    let admit = |(n, keypair): (usize, &Keypair)| {
        let issuer = &founders[n % founders.len()];
        let mut admission = Admission {
            network: genesis.network_id(),
            issuer: public(issuer),
            subject: public(keypair),
            issued_s: unix_s(),
            expires_s: unix_s() + 86_400,
            signature: [0; 64],
        };
        let signature = issuer.sign(&admission.body()).ok();
        admission.signature = signature.and_then(|s| s.try_into().ok())?;
        Some(Record::Admission(admission))
    };
    let admissions = keypairs.iter().enumerate().skip(founders.len());
    let records = admissions.filter_map(admit).collect();
    Ok(Replica::gather(genesis.clone(), records).0)
}

fn public(keypair: &Keypair) -> PeerKey {
    let public = keypair.public().try_into_ed25519();
    public.expect("it was made as one").to_bytes()
}

fn at(n: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), n as u16 + 1)
}

fn seed(n: usize) -> Seed {
    let (host, port) = (Host::Ip(at(n).ip()), at(n).port());
    let address = Address {
        place: Place { host, port },
        transport: Transport::Tcp,
        relay: None,
    };
    Seed {
        node: None,
        address,
    }
}

/// As long as that of the default model.
fn row(n: usize) -> ExpertRow {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(n as u64).to_le_bytes());
    ExpertRow {
        expert: ExpertId(id),
        model: "smollm2:135m".into(),
        file: [1; 32],
        vocabulary: Fingerprint([2; 32]),
        family: "chatml".into(),
        context: 8192,
        slots: 16,
        needs_allow_list: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_ends_where_somebody_names_the_node() {
        let keys: Vec<PeerKey> = (0..4).map(|n| [n; 32]).collect();
        let places = keys.iter().map(|key| (*key, place(key))).collect();
        let knows = |n: usize, whom: &[usize]| (keys[n], whom.iter().map(|w| keys[*w]).collect());
        let tables = BTreeMap::from([
            knows(0, &[1]),
            knows(1, &[0, 2]),
            knows(2, &[1, 3]),
            knows(3, &[2]),
        ]);
        let hops = |from: usize, to: usize| rounds(&tables, &places, keys[from], keys[to]);
        assert_eq!((hops(0, 1), hops(0, 2), hops(0, 3)), (0, 1, 2));
    }

    /// The measurement of `quorate bench mesh` by itself: cargo test --lib -- --ignored a_hundred_swarms
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "takes five minutes of two cores"]
    async fn a_hundred_swarms_say_little_when_nothing_happens() {
        let nodes = std::env::var("QUORATE_SWARMS").map_or(100, |n| n.parse().unwrap());
        let idle = super::idle(nodes, Duration::from_secs(150)).await.unwrap();
        println!("{idle:#?}");
        assert!(idle.bytes_per_s["gossip"] <= 1_000.0);
    }

    /// The whole measurement, with few and for a moment.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_few_swarms_meet_in_memory_and_are_counted() {
        let mut swarms = Swarms::start(6).await.unwrap();
        let others = swarms.all.len() - 1;
        for swarm in &mut swarms.all {
            let met = swarm.met.wait_for(|met| *met >= others);
            timeout(Duration::from_secs(60), met)
                .await
                .unwrap()
                .unwrap();
        }
        let spoken: BTreeMap<_, _> = swarms.meter.spoken().into_iter().collect();
        assert!(
            spoken["gossip"] > 0 && spoken["ping"] > 0 && spoken["sync"] > 0,
            "{spoken:?}"
        );
        let sum: u64 = spoken.values().sum();
        assert!(
            swarms.meter.all() > sum / 2,
            "{sum} of {}",
            swarms.meter.all()
        );
        let (mean, most) = swarms.hops().await;
        assert!(
            mean <= 1.0 && most <= 2,
            "six know each other: {mean}, {most}"
        );
        swarms.stop.cancel();
    }
}
