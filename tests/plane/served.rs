//! A node that serves: a stub expert, guests on it, and what became of every session.

use futures::future::BoxFuture;
use quorate::expert::stub::{StubExpert, StubOptions};
use quorate::expert::{Expert, ExpertFacts};
use quorate::net::plane::Stream;
use quorate::net::serve::{Ended, Guest, Terms, serve};
use quorate::wire::plane::Opening;
use quorate_core::ids::{NetworkId, PeerKey, SessionId};
use quorate_core::limits::GUEST_EVENTS_MAX;
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

pub(crate) const NETWORK: NetworkId = NetworkId([42; 32]);
pub(crate) const SERVER_KEY: PeerKey = [7; 32];

/// What a node does with a stream that was opened to it.
pub(crate) type Server = Arc<dyn Fn(PeerKey, Stream) -> BoxFuture<'static, ()> + Send + Sync>;

/// What the node says to an `Open`.
#[derive(Clone)]
pub(crate) enum Door {
    Open,
    Refuse(ExpertFailure),
    /// Never answers, as if it were loading a model.
    Wait,
}

type Guests = Arc<Mutex<BTreeMap<SessionId, mpsc::Sender<ExpertEvent>>>>;

pub(crate) struct Served {
    expert: Arc<dyn Expert>,
    guests: Guests,
    door: Door,
    patience: Duration,
    ended: mpsc::Sender<Ended>,
    /// One for every `Open` that has been read.
    visits: Semaphore,
}

impl Served {
    /// The node, and the ends of its sessions in order.
    pub(crate) fn spawn(door: Door, patience: Duration) -> (Arc<Served>, mpsc::Receiver<Ended>) {
        let (events_tx, mut events) = mpsc::channel::<FromExpert>(1024);
        let expert = StubExpert::spawn(StubOptions::default(), events_tx).unwrap();
        let guests = Guests::default();
        let listeners = guests.clone();
        tokio::spawn(async move {
            while let Some(FromExpert { event, .. }) = events.recv().await {
                let mut listeners = listeners.lock().unwrap();
                let session = event.session();
                // As the driver does: who does not keep up is cut off.
                let told = listeners.get(&session).map(|guest| guest.try_send(event));
                if matches!(told, Some(Err(_))) {
                    listeners.remove(&session);
                }
            }
        });
        let (ended_tx, ended) = mpsc::channel(200_000);
        let served = Served {
            expert,
            guests,
            door,
            patience,
            ended: ended_tx,
            visits: Semaphore::new(0),
        };
        (Arc::new(served), ended)
    }

    pub(crate) fn facts(&self) -> Arc<ExpertFacts> {
        self.expert.facts().clone()
    }

    /// Waits until one more `Open` has been read.
    pub(crate) async fn visited(&self) {
        self.visits.acquire().await.unwrap().forget();
    }

    /// Guests that the node still hears.
    pub(crate) fn guests(&self) -> usize {
        self.guests.lock().unwrap().len()
    }

    pub(crate) fn server(self: &Arc<Served>) -> Server {
        let served = self.clone();
        Arc::new(move |peer, stream| {
            let served = served.clone();
            Box::pin(async move {
                let terms = Terms {
                    network: NETWORK,
                    me: SERVER_KEY,
                    patience: served.patience,
                };
                let open = |_, opening| served.clone().visit(opening);
                let ended = serve(stream, peer, &terms, open).await;
                served.ended.try_send(ended).unwrap();
            })
        })
    }

    async fn visit(self: Arc<Served>, opening: Opening) -> Result<Guest, ExpertFailure> {
        self.visits.add_permits(1);
        match &self.door {
            Door::Refuse(why) => return Err(why.clone()),
            Door::Wait => std::future::pending().await,
            Door::Open => {}
        }
        if opening.expert != self.facts().id {
            return Err(ExpertFailure::Refused("no such expert".into()));
        }
        let session = opening.open.session;
        let (events_tx, events) = mpsc::channel(GUEST_EVENTS_MAX);
        let (ops, mut inbox) = mpsc::channel::<ExpertOp>(64);
        self.guests.lock().unwrap().insert(session, events_tx);
        let open = ExpertOp::Open(Box::new(opening.open));
        self.expert.submit(open).unwrap();
        tokio::spawn(async move {
            while let Some(op) = inbox.recv().await {
                // A mailbox of 2,048 that is full is waited for: this is not what is tested.
                while self.expert.submit(op.clone()).is_err() {
                    tokio::task::yield_now().await;
                }
            }
            // However the router left: the expert's place is free again.
            while self.expert.submit(ExpertOp::Close { session }).is_err() {
                tokio::task::yield_now().await;
            }
            self.guests.lock().unwrap().remove(&session);
        });
        Ok(Guest { ops, events })
    }
}
