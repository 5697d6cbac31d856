//! Where the loop and the token plane meet: routers of other nodes become guests here, experts of
//! other nodes are adopted. Who belongs to the mesh is decided by whoever calls.

mod afar;
mod audit;
mod dials;
mod gate;
mod hearing;
mod home;
mod member;
mod membership;
mod neighbours;

pub use crate::net::swarm::{Link, PeerView, unix_s};
pub use dials::directly;
pub use hearing::{Brought, News};
pub use home::MeshHome;
pub use member::{Founding, Member};
pub use membership::{Membership, Page, Reach};
pub use neighbours::Neighbour;

use crate::driver::{self, Node};
use crate::expert::{EventSender, ExpertFacts};
use crate::identity;
use crate::net::frame::PATIENCE;
use crate::net::plane::{Arrival, Plane, Stream};
use crate::net::remote::{Dial, Remote, RemoteExpert};
use crate::net::serve::{self, Terms};
use crate::wire::plane::{Letterhead, Opening};
use quorate_core::ids::PeerKey;
use quorate_core::limits::{GUEST_OPS_WAITING_MAX, GUESTS_MAX};
use quorate_core::opinion::ExpertFailure;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Is this key's node a member of the mesh?
pub type Admits = Arc<dyn Fn(&PeerKey) -> bool + Send + Sync>;

/// Serves whoever opens a stream, until `stop`. Sessions under way end with their streams.
pub async fn serve_guests(
    plane: Arc<Plane>,
    node: Node,
    terms: Terms,
    admits: Admits,
    stop: CancellationToken,
) {
    let sessions = TaskTracker::new();
    // The host refuses beyond this; here it only keeps strangers from piling up tasks.
    let room = Arc::new(Semaphore::new(GUESTS_MAX));
    while let Some(Some(Arrival { peer, stream, .. })) =
        stop.run_until_cancelled(plane.accept()).await
    {
        let (Some(key), Ok(place)) = (identity::key_of(&peer), room.clone().try_acquire_owned())
        else {
            continue; // dropping the stream says no
        };
        let (node, terms, admits, stop) =
            (node.clone(), terms.clone(), admits.clone(), stop.clone());
        sessions.spawn(async move {
            welcome(node, key, stream, &terms, admits, stop).await;
            drop(place);
        });
    }
    sessions.close();
    sessions.wait().await;
}

/// One stream, from its first frame to its last.
async fn welcome(
    node: Node,
    peer: PeerKey,
    stream: Stream,
    terms: &Terms,
    admits: Admits,
    stop: CancellationToken,
) {
    let open = |key, opening| guest(node, key, opening, admits);
    let session = serve::serve(stream, peer, terms, open);
    if let Some(ended) = stop.run_until_cancelled(session).await {
        let peer = identity::peer_id(&peer);
        tracing::debug!(target: "quorate::mesh", peer, ?ended, "a guest's session ended");
    }
}

/// A session of the node, as the plane's frames want it.
async fn guest(
    node: Node,
    key: PeerKey,
    opening: Opening,
    admits: Admits,
) -> Result<serve::Guest, ExpertFailure> {
    if !admits(&key) && !node.invites(key, opening.expert).await {
        let why = "your node is not admitted to this mesh";
        return Err(ExpertFailure::Refused(why.into()));
    }
    let purpose = opening.letterhead.purpose;
    let session = node.guest(key, opening.expert, purpose, opening.open);
    let driver::Guest { ops, events } = session.await?;
    let (ops_tx, mut inbox) = mpsc::channel(GUEST_OPS_WAITING_MAX);
    // Ends with the sender, which the frame loop holds; then the node hears that the guest left.
    tokio::spawn(async move {
        while let Some(op) = inbox.recv().await {
            if ops.send(op).await.is_err() {
                return;
            }
        }
    });
    Ok(serve::Guest {
        ops: ops_tx,
        events,
    })
}

/// Lets this node's requests use an expert of another node.
pub async fn adopt(
    node: &Node,
    facts: Arc<ExpertFacts>,
    dial: Dial,
    letterhead: watch::Receiver<Letterhead>,
) -> Result<Arc<RemoteExpert>, ExpertFailure> {
    let expert = Arc::new(reach(facts, dial, letterhead, node.expert_events()));
    node.adopt(expert.clone()).await?;
    Ok(expert)
}

/// An expert of another node, as something to ask. Needs a tokio runtime.
pub fn reach(
    facts: Arc<ExpertFacts>,
    dial: Dial,
    letterhead: watch::Receiver<Letterhead>,
    events: EventSender,
) -> RemoteExpert {
    let remote = Remote {
        facts,
        letterhead,
        dial,
        patience: PATIENCE,
    };
    RemoteExpert::new(remote, events)
}
