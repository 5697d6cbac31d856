//! A node's part in its mesh, from the moment that it belongs to one until it leaves or stops.
//!
//! ```text
//! swarm ──Met, Lost──▶ neighbours ──adopt, lose──▶ loop
//!   ├────Recorded──▶ hearing: replica ─▶ rights, letterhead, who is admitted; then the ledger
//!   └────Arrival──▶┐
//! plane ───────────┴▶ guests
//! ```

use super::afar::Afar;
use super::dials::Dials;
use super::hearing::{Brought, Delivery, Hearing, News};
use super::neighbours::{Neighbour, Neighbours};
use super::{Admits, MeshHome, audit, gate, serve_guests};
use crate::config::Settings;
use crate::driver::{Answers, Node};
use crate::error::{Failure, Kind, Outcome};
use crate::expert::ExpertFacts;
use crate::ledger::{Audit, DiskError, Ledger};
use crate::net::frame::PATIENCE;
use crate::net::plane::Plane;
use crate::net::serve::Terms;
use crate::net::swarm::{self, PeerView, Roll, Seed};
use crate::node::{Library, Offered};
use crate::policy::Policy;
use crate::wire::plane::{Letterhead, Purpose};
use libp2p_identity::Keypair;
use quorate_core::governance::{Cast, Entry, Meant, Miscast, Record, Replica, Rights, Standing};
use quorate_core::ids::{NetworkId, PeerKey};
use quorate_core::limits::{AUDIT_WAITING_MAX, DELIVERIES_MAX, NEWS_MAX};
use quorate_core::mesh::{Address, Bound, ExpertRow, Host, Pass, Place, is_announced};
use quorate_core::weights::Gates;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
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
    /// The operator's policy, if there is such a file. It is read when the member begins.
    pub policy: PathBuf,
    pub node: Node,
    pub library: Library,
}

pub struct Member {
    pub network: NetworkId,
    is_unsafe: bool,
    swarm: swarm::Handle,
    neighbours: Arc<Neighbours>,
    standing: watch::Receiver<Arc<Standing>>,
    news: broadcast::Sender<News>,
    deliveries: mpsc::Sender<Delivery>,
    /// This node, and where others reach its token plane.
    me: PeerKey,
    plane: Arc<Plane>,
    places: Vec<Place>,
    has_heard: watch::Receiver<bool>,
    gates: Arc<Mutex<Gates>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Member {
    /// None: the home belongs to no mesh.
    pub async fn start(founding: &Founding) -> Outcome<Option<Member>> {
        let home = founding.home.clone();
        if home.genesis()?.is_none() {
            return Ok(None);
        }
        let (ledger, stored) =
            Ledger::open(home.dir()).map_err(|lost| lost.at(home.dir().to_owned()))?;
        let replica = stored.replica;
        let decisions = Audit::open(home.dir(), replica.genesis().network_id())
            .map_err(|DiskError { doing, path, error }| Failure::file(doing, &path, &error))?;
        let mesh = &founding.settings.mesh;
        let plane = Plane::bind(founding.keypair.clone(), mesh.plane_listen)
            .map_err(|error| cannot_listen(mesh.plane_listen, "mesh.plane_listen", &error))?;
        let plane = Arc::new(plane);
        // In the first advert already: a node that serves nothing for a moment is let go.
        let library = founding.library.clone();
        let offered = tokio::task::spawn_blocking(move || library.rows()).await;
        let (rows_tx, rows) = watch::channel(offered.unwrap_or_default());
        let serves = rows.clone();
        let stop = CancellationToken::new();
        let revoked = home.clone();
        let mut bootstrap = home.way();
        let anybody = |address: &Address| Seed {
            node: None,
            address: address.clone(),
        };
        bootstrap.extend(mesh.bootstrap.iter().map(anybody));
        let network = replica.genesis().network_id();
        let gates = gate::open(&home, network, key(&founding.keypair));
        let swarm_settings = swarm::Settings {
            gates: Some(gates.clone()),
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
        let (letterhead_tx, letterhead) = watch::channel(letterhead(&replica));
        let (standing_tx, standing) = watch::channel(Arc::new(replica.standing().clone()));
        let (has_heard_tx, has_heard) = watch::channel(false);
        let (news, _) = broadcast::channel(NEWS_MAX);
        let (deliveries_tx, deliveries) = mpsc::channel(DELIVERIES_MAX);
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
            news: news.clone(),
            deliveries: deliveries_tx,
            me: key(&founding.keypair),
            plane: plane.clone(),
            places: places(&plane, &mesh.plane_announce),
            has_heard,
            gates: gates.clone(),
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
        let offers = Offers {
            library: founding.library.clone(),
            node: founding.node.clone(),
            neighbours: member.neighbours.clone(),
            afar: Afar::new(founding.node.clone(), member.plane.clone()),
            rows: rows_tx,
        };
        let offers = offers.keep();
        let keeper = gate::Keeper {
            gates,
            home,
            keypair: founding.keypair.clone(),
            shares: mesh.share_gate,
            node: founding.node.clone(),
            neighbours: member.neighbours.clone(),
            rows: serves,
            roll: swarm.roll().clone(),
        };
        member.tasks.spawn(keeper.run(stop.clone()));
        member.tasks.spawn(async move {
            stop.run_until_cancelled(offers).await;
        });
        let hearing = Hearing {
            node: founding.node.clone(),
            swarm,
            neighbours: member.neighbours.clone(),
            replica,
            rights: Rights::booting(),
            has_heard: has_heard_tx,
            letterhead: letterhead_tx,
            standing: standing_tx,
            news,
            terms,
            admits,
            library: founding.library.clone(),
            keypair: founding.keypair.clone(),
            highest_s: ledger.latch().highest_s,
            ledger: Arc::new(Mutex::new(ledger)),
            stop: member.stop.clone(),
        };
        let (notes_tx, notes) = mpsc::channel(AUDIT_WAITING_MAX);
        member.tasks.spawn(audit::keep(decisions, notes));
        founding.node.set_audit(Some(notes_tx)).await;
        founding.node.donate(founding.settings.donor.clone()).await;
        let path = founding.policy.clone();
        let policy = tokio::task::spawn_blocking(move || Policy::load(&path)).await;
        founding
            .node
            .set_policy(policy.unwrap_or(Policy::Unusable))
            .await;
        founding.node.set_rights(Rights::booting()).await;
        member.tasks.spawn(hearing.run(events, deliveries));
        member.tasks.close();
        Ok(Some(member))
    }

    /// Says goodbye; requests here go on with what is here.
    pub async fn leave(&self, node: &Node) {
        node.set_rights(Rights::alone()).await;
        node.set_audit(None).await;
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

    /// How it stands, and what changes from here on.
    pub fn watch(&self) -> (Arc<Standing>, broadcast::Receiver<News>) {
        let news = self.news.subscribe();
        (self.standing(), news)
    }

    /// Signed records that somebody brought; None if the member is leaving. Err: not on the disk.
    pub async fn bring(&self, records: Vec<Record>) -> Option<Result<Brought, String>> {
        let (reply, answer) = oneshot::channel();
        let delivery = Delivery::Records { records, reply };
        self.deliveries.send(delivery).await.ok()?;
        answer.await.ok()
    }

    /// Entries of which somebody says what they are, in their order; else as [`Member::bring`].
    pub async fn cast(
        &self,
        entries: Vec<(Meant, Entry)>,
    ) -> Option<Result<Result<Vec<Cast>, Miscast>, String>> {
        let (reply, answer) = oneshot::channel();
        let delivery = Delivery::Entries { entries, reply };
        self.deliveries.send(delivery).await.ok()?;
        answer.await.ok()
    }

    pub async fn peers(&self) -> Vec<PeerView> {
        self.swarm.peers().await
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    pub fn has_heard(&self) -> bool {
        *self.has_heard.borrow()
    }

    /// Nodes that say what experts know.
    pub fn voices(&self) -> usize {
        let gates = self.gates.lock().expect("nobody panics with it");
        gates.voices().count()
    }

    /// The way to this mesh as an expert of others.
    pub fn pass(&self, row: ExpertRow) -> Pass {
        Pass {
            network: self.network,
            node: self.me,
            plane: self.places.clone(),
            row,
        }
    }

    pub async fn neighbours(&self) -> Vec<Neighbour> {
        self.neighbours.list().await
    }

    /// What an invite of this node should name.
    pub async fn addresses(&self) -> Vec<Address> {
        self.swarm.addresses().await
    }
}

pub(super) fn letterhead(replica: &Replica) -> Letterhead {
    let standing = replica.standing();
    Letterhead {
        network: standing.network(),
        config: standing.snapshot().config.hash(),
        governance_head: standing.hash().to_vec(),
        halted: standing.is_halted(),
        purpose: Purpose::User,
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

/// What this node serves, for as long as it is a member.
struct Offers {
    library: Library,
    node: Node,
    neighbours: Arc<Neighbours>,
    afar: Afar,
    rows: watch::Sender<Vec<ExpertRow>>,
}

impl Offers {
    /// Keeps the swarm's advert true, and at hand whoever answers for others' questions; for ever.
    async fn keep(mut self) {
        let mut every = tokio::time::interval(OFFERS_EVERY);
        let mut has_warned = false;
        let mut changes = self.library.changes();
        loop {
            tokio::select! {
                _ = every.tick() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
            let looking = self.library.clone();
            let offers = tokio::task::spawn_blocking(move || looking.offers()).await;
            let offers = offers.unwrap_or_default();
            self.learn_vocabularies(&offers).await;
            self.answer_as_a_mesh(&offers).await;
            self.afar.keep(&offers).await;
            let library = self.library.clone();
            let offered = tokio::task::spawn_blocking(move || library.rows()).await;
            if let Ok(new) = offered {
                if new.is_empty() && !std::mem::replace(&mut has_warned, true) {
                    tracing::warn!(target: "quorate::mesh", "this node serves the mesh no expert: is its model installed? See `quorate doctor`");
                }
                self.rows.send_if_modified(|old| {
                    let changed = *old != new;
                    *old = new;
                    changed
                });
            }
        }
    }

    /// Nobody mixes with an expert of unknown vocabulary, and only a loaded model shows its own.
    async fn learn_vocabularies(&self, offers: &[Offered]) {
        for offered in offers.iter().filter(|o| o.vocab_fingerprint.is_none()) {
            if let Err(error) = self.node.acquire(&offered.offer.name).await {
                let expert = &offered.offer.name;
                tracing::warn!(target: "quorate::mesh", expert, %error, "not on offer");
            }
        }
    }

    /// Whoever asks the mesh as one expert waits for no introductions.
    async fn answer_as_a_mesh(&self, offers: &[Offered]) {
        let whole = offers.iter().find(|o| o.offer.answers == Answers::Mesh);
        let here = match whole {
            None => None,
            Some(offered) => self.node.acquire(&offered.offer.name).await.ok(),
        };
        let here = here.map(|lease| lease.facts().clone());
        self.neighbours.keep_ready_for(here).await;
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
