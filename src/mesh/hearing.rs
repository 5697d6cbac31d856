//! What a member hears, from the swarm and from people who bring signed records, and what it does
//! about it: one task, in the order of arrival.

use super::member::letterhead;
use super::neighbours::Neighbours;
use super::{Admits, welcome};
use crate::driver::Node;
use crate::identity;
use crate::ledger::Ledger;
use crate::net::plane::Arrival;
use crate::net::serve::Terms;
use crate::net::swarm::{self, Event, unix_s};
use crate::node::Library;
use crate::wire::plane::Letterhead;
use libp2p_identity::Keypair;
use quorate_core::governance::witness::{self, Due};
use quorate_core::governance::{
    Cast, Checkpoint, Cosignature, Entry, Meant, Miscast, Now, Record, RecordId, Refusal, Replica,
    Rights, Standing,
};
use quorate_core::limits::GUESTS_MAX;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a witness looks whether it should speak, and a node whether its lease has run out.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What somebody carried here.
pub(super) enum Delivery {
    Records {
        records: Vec<Record>,
        reply: oneshot::Sender<Result<Brought, String>>,
    },
    /// One entry after the other, of which the bringer says what it is.
    Entries {
        entries: Vec<(Meant, Entry)>,
        reply: oneshot::Sender<Result<Result<Vec<Cast>, Miscast>, String>>,
    },
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Brought {
    pub new: usize,
    pub known: usize,
    pub refused: Vec<(RecordId, Refusal)>,
}

/// What a watcher is told: first what records come to, then the records.
#[derive(Clone, Debug)]
pub enum News {
    Standing(Arc<Standing>),
    Record(Arc<Record>),
}

/// The one task that hears the swarm.
pub(super) struct Hearing {
    pub(super) node: Node,
    pub(super) swarm: swarm::Handle,
    pub(super) neighbours: Arc<Neighbours>,
    pub(super) replica: Replica,
    pub(super) rights: Rights,
    /// Another member's records were seen: until then nobody here knows whether the mesh is halted.
    pub(super) has_heard: watch::Sender<bool>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) letterhead: watch::Sender<Letterhead>,
    pub(super) standing: watch::Sender<Arc<Standing>>,
    /// Room for `NEWS_MAX`; who reads too slowly misses some, and hears of that.
    pub(super) news: broadcast::Sender<News>,
    pub(super) terms: Terms,
    pub(super) admits: Admits,
    /// Whom the owner lets in from other meshes.
    pub(super) library: Library,
    /// Of this node: it signs as a witness, if people have made it one.
    pub(super) keypair: Keypair,
    /// The highest time that this node's clock ever showed.
    pub(super) highest_s: u64,
    pub(super) stop: CancellationToken,
}

impl Hearing {
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut parcels: mpsc::Receiver<Delivery>,
    ) {
        let sessions = TaskTracker::new();
        let room = Arc::new(Semaphore::new(GUESTS_MAX));
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = looks.tick() => self.look().await,
                Some(delivery) = parcels.recv() => self.take(delivery).await,
                event = events.recv() => match event {
                    Some(event) => self.hear(event, &sessions, &room).await,
                    None => break,
                },
            }
        }
        sessions.close();
        sessions.wait().await;
    }

    /// A witness says what it sees, and leases run out.
    async fn look(&mut self) {
        let now_s = unix_s();
        self.highest_s = self.highest_s.max(now_s);
        if let Some(checkpoint) = self.witness(now_s)
            && let Err(why) = self.bring(vec![Record::Checkpoint(checkpoint)]).await
        {
            tracing::error!(target: "quorate::mesh", why, "what this witness said is not on the disk");
        }
        let has_witnesses = self.replica.standing().electorate().has_witnesses();
        if has_witnesses && *self.has_heard.borrow() {
            self.rights = self.rights.at(self.now());
            self.node.set_rights(self.rights.clone()).await;
        }
    }

    fn now(&self) -> Now {
        Now {
            unix_s: unix_s(),
            highest_s: self.highest_s,
        }
    }

    /// Signed with the node's own key, which decides nothing.
    fn witness(&self, now_s: u64) -> Option<Checkpoint> {
        let witness = identity::key_of(&self.keypair.public().to_peer_id())?;
        // Who has just begun may have slept through a halt, and says nothing before it has heard.
        let admitted = self.replica.standing().admissions().admitted(now_s);
        if !*self.has_heard.borrow() && admitted.iter().any(|node| *node != witness) {
            return None;
        }
        let Due { seen, with } = witness::due(&self.replica, &witness, now_s)?;
        let signature = self.keypair.sign(&seen.attested(&witness, now_s)).ok()?;
        let mine = Cosignature {
            witness,
            time_s: now_s,
            signature: signature.try_into().ok()?,
        };
        seen.cosigned([with, vec![mine]].concat()).ok()
    }

    async fn take(&mut self, delivery: Delivery) {
        // Whoever brought it may have left.
        match delivery {
            Delivery::Records { records, reply } => {
                reply.send(self.bring(records).await).ok();
            }
            Delivery::Entries { entries, reply } => {
                reply.send(self.cast(entries).await).ok();
            }
        }
    }

    async fn hear(&mut self, event: Event, sessions: &TaskTracker, room: &Arc<Semaphore>) {
        match event {
            Event::Met(advert) => {
                let node = identity::peer_id(&advert.node);
                tracing::info!(target: "quorate::mesh", node, experts = advert.experts.len(), "a node is here");
                self.heard().await;
                self.neighbours.met(advert).await;
            }
            Event::Lost { node, why } => {
                let name = identity::peer_id(&node);
                tracing::info!(target: "quorate::mesh", node = name, %why, "a node is gone");
                self.neighbours.lost(node, &why.to_string()).await;
            }
            Event::Recorded(record) => {
                self.recorded(*record).await;
                self.heard().await;
            }
            Event::Arrival(Arrival { peer, stream, .. }) => {
                // Dropping the stream says no.
                let place = room.clone().try_acquire_owned();
                if let (Some(peer), Ok(place)) = (identity::key_of(&peer), place) {
                    let (node, terms) = (self.node.clone(), self.terms.clone());
                    let (admits, stop) = (self.admits.clone(), self.stop.clone());
                    sessions.spawn(async move {
                        welcome(node, peer, stream, &terms, admits, stop).await;
                        drop(place);
                    });
                }
            }
            Event::Twins(node) => {
                let node = identity::peer_id(&node);
                tracing::error!(target: "quorate::mesh", node, "two processes use this node's key; stop one of them");
            }
        }
    }

    async fn heard(&mut self) {
        if !self.has_heard.send_replace(true) {
            self.stands().await;
        }
    }

    /// News of the swarm. In memory first: a halt must not wait for a disk.
    async fn recorded(&mut self, record: Record) {
        self.replica.insert(record.clone());
        if self.replica.refold() {
            self.stands().await;
        }
        if let Err(why) = self.keep(vec![record]).await {
            tracing::error!(target: "quorate::mesh", why, "a record is not on the disk");
        }
    }

    /// Records that somebody brought here by hand: in memory, on the disk, and to everybody else. A
    /// full disk keeps no halt from spreading.
    async fn bring(&mut self, records: Vec<Record>) -> Result<Brought, String> {
        let taken = self.replica.take_all(records);
        if taken.changed {
            self.stands().await;
        }
        let refused = taken.refused.into_iter();
        let brought = Brought {
            new: taken.new.len(),
            known: taken.known,
            refused: refused.map(|(record, why)| (record.id(), why)).collect(),
        };
        self.pass_on(taken.new).await.map(|()| brought)
    }

    /// Ends at the first that does nothing.
    async fn cast(
        &mut self,
        entries: Vec<(Meant, Entry)>,
    ) -> Result<Result<Vec<Cast>, Miscast>, String> {
        let before = self.replica.standing().hash();
        let (mut new, mut came) = (Vec::new(), Ok(Vec::new()));
        for (meant, entry) in entries {
            let (is_new, cast) = self.replica.cast(meant, &entry);
            new.extend(is_new.then_some(Record::Entry(entry)));
            came = came.and_then(|all: Vec<Cast>| Ok([all, vec![cast?]].concat()));
            if came.is_err() {
                break;
            }
        }
        if self.replica.standing().hash() != before {
            self.stands().await;
        }
        self.pass_on(new).await.map(|()| came)
    }

    /// On the disk, and to everybody else.
    async fn pass_on(&mut self, new: Vec<Record>) -> Result<(), String> {
        if new.is_empty() {
            return Ok(());
        }
        let kept = self.keep(new.clone()).await;
        for record in new {
            self.swarm.insert(record).await;
        }
        kept
    }

    /// Halts are held before anything else is written.
    async fn keep(&self, records: Vec<Record>) -> Result<(), String> {
        for record in &records {
            // Nobody may be watching.
            self.news.send(News::Record(Arc::new(record.clone()))).ok();
        }
        let (ledger, standing) = (self.ledger.clone(), self.replica.standing().clone());
        let kept = tokio::task::spawn_blocking(move || {
            let mut ledger = ledger.lock().expect("nobody panics with it");
            for record in &records {
                if let Record::Halt(halt) = record {
                    ledger.hold(halt)?;
                }
            }
            ledger.append(&records)?;
            ledger.settle(&standing, standing.snapshot().version, unix_s())
        });
        match kept.await {
            Ok(kept) => kept.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn stands(&mut self) {
        let standing = self.replica.standing().clone();
        let shared = Arc::new(standing.clone());
        self.standing.send_replace(shared.clone());
        self.news.send(News::Standing(shared)).ok(); // nobody may be watching
        self.letterhead.send_replace(letterhead(&self.replica));
        if *self.has_heard.borrow() {
            self.rights = self.rights.under(standing).at(self.now());
            self.node.set_rights(self.rights.clone()).await;
        }
        let guests = self.node.status().await.unwrap_or_default().guests;
        let may_stay = |peer| (self.admits)(peer) || self.library.invites(peer);
        for guest in guests.iter().filter(|guest| !may_stay(&guest.peer)) {
            let why = "your node is no longer admitted to this mesh";
            self.node.expel(guest.peer, why).await;
        }
    }
}
