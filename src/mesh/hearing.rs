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
use quorate_core::governance::{Record, RecordId, Refusal, Replica, Rights, Standing};
use quorate_core::limits::GUESTS_MAX;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Records that somebody carried here.
pub(super) struct Delivery {
    pub(super) records: Vec<Record>,
    pub(super) reply: oneshot::Sender<Result<Brought, String>>,
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
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(Delivery { records, reply }) = parcels.recv() => {
                    let brought = self.bring(records).await;
                    reply.send(brought).ok(); // whoever brought it may have left
                }
                event = events.recv() => match event {
                    Some(event) => self.hear(event, &sessions, &room).await,
                    None => break,
                },
            }
        }
        sessions.close();
        sessions.wait().await;
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
        if taken.new.is_empty() {
            return Ok(brought);
        }
        let kept = self.keep(taken.new.clone()).await;
        for record in taken.new {
            self.swarm.insert(record).await;
        }
        kept.map(|()| brought)
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
            self.rights = self.rights.under(standing);
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
