//! A node's part in its mesh, from the moment that it belongs to one until it leaves or stops.
//!
//! ```text
//! swarm ──Met, Lost──▶ neighbours ──adopt, lose──▶ loop
//!   ├────Recorded──▶ replica ─▶ rights, letterhead, who is admitted; then the ledger
//!   └────Arrival──▶┐
//! plane ───────────┴▶ guests
//! ```

use super::dials::Dials;
use super::neighbours::{Neighbour, Neighbours};
use super::{Admits, MeshHome, serve_guests, welcome};
use crate::config::Settings;
use crate::driver::Node;
use crate::error::{Failure, Kind, Outcome};
use crate::expert::ExpertFacts;
use crate::identity;
use crate::ledger::Ledger;
use crate::net::frame::PATIENCE;
use crate::net::plane::{Arrival, Plane};
use crate::net::serve::Terms;
use crate::net::swarm::{self, Event, PeerView, Roll, Seed, unix_s};
use crate::node::Library;
use crate::wire::plane::{Letterhead, Purpose};
use libp2p_identity::Keypair;
use quorate_core::governance::{Record, Replica, Rights, Standing};
use quorate_core::ids::{NetworkId, PeerKey};
use quorate_core::limits::GUESTS_MAX;
use quorate_core::mesh::{Address, Bound, ExpertRow, Host, Place, is_announced};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Models come and go, and the settings' prefixes are files.
const OFFERS_EVERY: Duration = Duration::from_secs(15);
/// The swarm says goodbye, and sessions end.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// What a member is made of.
#[derive(Clone)]
pub struct Founding {
    pub keypair: Keypair,
    pub settings: Arc<Settings>,
    pub home: MeshHome,
    pub node: Node,
    pub library: Library,
}

pub struct Member {
    pub network: NetworkId,
    is_unsafe: bool,
    swarm: swarm::Handle,
    neighbours: Arc<Neighbours>,
    standing: watch::Receiver<Arc<Standing>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Member {
    /// None: the home belongs to no mesh.
    pub async fn start(founding: &Founding) -> Outcome<Option<Member>> {
        let home = founding.home.clone();
        if home.network().is_none() {
            return Ok(None);
        }
        let (ledger, stored) =
            Ledger::open(home.dir()).map_err(|lost| lost.at(home.dir().to_owned()))?;
        let replica = stored.replica;
        let mesh = &founding.settings.mesh;
        let plane = Plane::bind(founding.keypair.clone(), mesh.plane_listen)
            .map_err(|error| cannot_listen(mesh.plane_listen, "mesh.plane_listen", &error))?;
        let plane = Arc::new(plane);
        let (rows_tx, rows) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let revoked = home.clone();
        let mut bootstrap = home.way();
        let anybody = |address: &Address| Seed {
            node: None,
            address: address.clone(),
        };
        bootstrap.extend(mesh.bootstrap.iter().map(anybody));
        let swarm_settings = swarm::Settings {
            announce: mesh.announce.clone(),
            plane: places(&plane, &mesh.plane_announce),
            bootstrap,
            mdns: mesh.mdns,
            allow: mesh.allow.clone(),
            block: mesh.block.clone(),
            revoked: Arc::new(move |nonce| revoked.is_revoked(nonce)),
            ..swarm::Settings::new(founding.keypair.clone(), mesh.listen)
        };
        let (swarm, events) = swarm::start(swarm_settings, replica.clone(), rows, stop.clone())
            .map_err(|error| cannot_listen(mesh.listen, "mesh.listen", &error))?;
        let network = replica.genesis().network_id();
        let (letterhead_tx, letterhead) = watch::channel(letterhead(&replica));
        let (standing_tx, standing) = watch::channel(Arc::new(replica.standing().clone()));
        let dials = Dials {
            plane: plane.clone(),
            swarm: swarm.clone(),
        };
        let neighbours = Neighbours::new(founding.node.clone(), dials, letterhead);
        let member = Member {
            network,
            is_unsafe: replica.genesis().terms().preset.row().is_unsafe,
            swarm: swarm.clone(),
            neighbours: Arc::new(neighbours),
            standing,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        };
        let terms = Terms {
            network,
            me: key(&founding.keypair),
            patience: PATIENCE,
        };
        let admits = admits(swarm.roll().clone(), mesh.allow.clone(), mesh.block.clone());
        let guests = serve_guests(
            plane,
            founding.node.clone(),
            terms.clone(),
            admits.clone(),
            stop.clone(),
        );
        member.tasks.spawn(guests);
        let offers = offer(founding.library.clone(), founding.node.clone(), rows_tx);
        member.tasks.spawn(async move {
            stop.run_until_cancelled(offers).await;
        });
        let hearing = Hearing {
            node: founding.node.clone(),
            neighbours: member.neighbours.clone(),
            replica,
            rights: Rights::booting(),
            has_heard: false,
            ledger: Arc::new(Mutex::new(ledger)),
            letterhead: letterhead_tx,
            standing: standing_tx,
            terms,
            admits,
            stop: member.stop.clone(),
        };
        founding.node.donate(founding.settings.donor.clone()).await;
        founding.node.set_rights(Rights::booting()).await;
        member.tasks.spawn(hearing.run(events));
        member.tasks.close();
        Ok(Some(member))
    }

    /// Says goodbye; requests here go on with what is here.
    pub async fn leave(&self, node: &Node) {
        node.set_rights(Rights::alone()).await;
        self.neighbours.lose_all("this node left the mesh").await;
        self.stop.cancel();
        if tokio::time::timeout(LEAVE_MAX, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(target: "quorate::mesh", "the swarm did not end in time");
        }
    }

    /// Experts elsewhere that a request on this expert can ask.
    pub async fn ready_for(&self, here: &Arc<ExpertFacts>) -> usize {
        self.neighbours.ready_for(here).await
    }

    /// Its keys are fit for tests only.
    pub fn is_unsafe(&self) -> bool {
        self.is_unsafe
    }

    pub fn standing(&self) -> Arc<Standing> {
        self.standing.borrow().clone()
    }

    pub async fn peers(&self) -> Vec<PeerView> {
        self.swarm.peers().await
    }

    pub async fn neighbours(&self) -> Vec<Neighbour> {
        self.neighbours.list().await
    }

    /// What an invite of this node should name.
    pub async fn addresses(&self) -> Vec<Address> {
        self.swarm.addresses().await
    }
}

/// The one task that hears the swarm.
struct Hearing {
    node: Node,
    neighbours: Arc<Neighbours>,
    replica: Replica,
    rights: Rights,
    /// Another member's records were seen: until then nobody here knows whether the mesh is halted.
    has_heard: bool,
    ledger: Arc<Mutex<Ledger>>,
    letterhead: watch::Sender<Letterhead>,
    standing: watch::Sender<Arc<Standing>>,
    terms: Terms,
    admits: Admits,
    stop: CancellationToken,
}

impl Hearing {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let sessions = TaskTracker::new();
        let room = Arc::new(Semaphore::new(GUESTS_MAX));
        while let Some(Some(event)) = self.stop.run_until_cancelled(events.recv()).await {
            match event {
                Event::Met(advert) => {
                    self.heard().await;
                    self.neighbours.met(advert).await;
                }
                Event::Lost { node, why } => self.neighbours.lost(node, &why.to_string()).await,
                Event::Recorded(record) => {
                    self.recorded(*record).await;
                    self.heard().await;
                }
                Event::Arrival(Arrival { peer, stream, .. }) => {
                    let Some(peer) = identity::key_of(&peer) else {
                        continue; // dropping the stream says no
                    };
                    let (node, terms) = (self.node.clone(), self.terms.clone());
                    let (admits, stop) = (self.admits.clone(), self.stop.clone());
                    let Ok(place) = room.clone().try_acquire_owned() else {
                        continue; // dropping the stream says no
                    };
                    sessions.spawn(async move {
                        welcome(node, peer, stream, &terms, admits, stop).await;
                        drop(place);
                    });
                }
                Event::Twins(node) => {
                    let node = identity::peer_id(&node);
                    tracing::error!(target: "quorate::mesh", node, "two processes use this node's key; stop one of them");
                }
            }
        }
        sessions.close();
        sessions.wait().await;
    }

    async fn heard(&mut self) {
        if !std::mem::replace(&mut self.has_heard, true) {
            self.stands().await;
        }
    }

    /// In memory first: a halt must not wait for a disk.
    async fn recorded(&mut self, record: Record) {
        self.replica.insert(record.clone());
        if self.replica.refold() {
            self.stands().await;
        }
        let (ledger, standing) = (self.ledger.clone(), self.replica.standing().clone());
        let kept = tokio::task::spawn_blocking(move || {
            let mut ledger = ledger.lock().expect("nobody panics with it");
            if let Record::Halt(halt) = &record {
                ledger.hold(halt)?;
            }
            ledger.append(&[record])?;
            ledger.settle(&standing, standing.snapshot().version, unix_s())
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(target: "quorate::mesh", %error, "a record is not on the disk");
            }
            Err(error) => {
                tracing::error!(target: "quorate::mesh", %error, "a record is not on the disk");
            }
        }
    }

    async fn stands(&mut self) {
        let standing = self.replica.standing().clone();
        self.standing.send_replace(Arc::new(standing.clone()));
        self.letterhead.send_replace(letterhead(&self.replica));
        if self.has_heard {
            self.rights = self.rights.under(standing);
            self.node.set_rights(self.rights.clone()).await;
        }
        let guests = self.node.status().await.unwrap_or_default().guests;
        for guest in guests.iter().filter(|guest| !(self.admits)(&guest.peer)) {
            let why = "your node is no longer admitted to this mesh";
            self.node.expel(guest.peer, why).await;
        }
    }
}

fn letterhead(replica: &Replica) -> Letterhead {
    let standing = replica.standing();
    Letterhead {
        network: standing.network(),
        config: standing.snapshot().config.hash(),
        governance_head: standing.hash().to_vec(),
        halted: standing.is_halted(),
        purpose: Purpose::User,
        path: vec![],
    }
}

/// Admitted by the records, and not turned away by the owner of this node.
fn admits(roll: Roll, allow: Vec<PeerKey>, block: Vec<PeerKey>) -> Admits {
    let allow = BTreeSet::from_iter(allow);
    let block = BTreeSet::<PeerKey>::from_iter(block);
    Arc::new(move |peer| {
        roll.contains(peer) && !block.contains(peer) && (allow.is_empty() || allow.contains(peer))
    })
}

/// Keeps the swarm's advert true, for ever.
async fn offer(library: Library, node: Node, rows: watch::Sender<Vec<ExpertRow>>) {
    let mut every = tokio::time::interval(OFFERS_EVERY);
    let mut has_warned = false;
    let mut changes = library.changes();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
        learn_vocabularies(&library, &node).await;
        let library = library.clone();
        let offered = tokio::task::spawn_blocking(move || library.rows()).await;
        if let Ok(new) = offered {
            if new.is_empty() && !std::mem::replace(&mut has_warned, true) {
                tracing::warn!(target: "quorate::mesh", "this node serves the mesh no expert: is its model installed? See `quorate doctor`");
            }
            rows.send_if_modified(|old| {
                let changed = *old != new;
                *old = new;
                changed
            });
        }
    }
}

/// Nobody mixes with an expert of unknown vocabulary, and only a loaded model shows its own.
async fn learn_vocabularies(library: &Library, node: &Node) {
    let looking = library.clone();
    let offers = tokio::task::spawn_blocking(move || looking.offers()).await;
    for offered in offers.unwrap_or_default() {
        if offered.vocab_fingerprint.is_none()
            && let Err(error) = node.acquire(&offered.offer.name).await
        {
            let expert = offered.offer.name;
            tracing::warn!(target: "quorate::mesh", expert, %error, "not on offer");
        }
    }
}

/// Where others reach the token plane.
fn places(plane: &Plane, announce: &[Place]) -> Vec<Place> {
    if !announce.is_empty() {
        return announce.to_vec();
    }
    let Ok(local) = plane.local_addr() else {
        return Vec::new();
    };
    let port = local.port();
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let everywhere = interfaces.iter().map(|one| Bound {
        ip: one.ip(),
        interface: Some(&one.name),
    });
    let here = |one: &Bound| local.ip().is_unspecified() || one.ip == local.ip();
    let all: Vec<Bound> = everywhere.filter(here).collect();
    let mut places: Vec<Place> = all
        .iter()
        .filter(|one| is_announced(**one, &all))
        .map(|one| Place {
            host: Host::Ip(one.ip),
            port,
        })
        .collect();
    places.sort();
    places.dedup();
    places
}

fn cannot_listen(address: SocketAddr, key: &str, error: &dyn std::fmt::Display) -> Failure {
    let message = format!("the mesh cannot listen on {address}: {error}");
    Failure::new(Kind::Taken, message).hint(format!(
        "another node may run on this machine: give this one its own ports in its settings ({key})"
    ))
}

fn key(keypair: &Keypair) -> PeerKey {
    let public = keypair.public().try_into_ed25519();
    public.expect("identities are ed25519").to_bytes()
}
