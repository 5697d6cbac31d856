//! Where the loop and the token plane meet: routers of other nodes become guests here, experts of
//! other nodes are adopted. Who belongs to the mesh is decided by whoever calls.

use crate::driver::{self, Node};
use crate::expert::{EventSender, Expert, ExpertFacts};
use crate::net::plane::{Arrival, Plane};
use crate::net::remote::{Dial, Remote, RemoteExpert};
use crate::net::serve::{self, Terms};
use crate::wire::plane::{Letterhead, Opening};
use libp2p_identity::PeerId;
use quorate_core::ids::PeerKey;
use quorate_core::limits::{GUEST_OPS_WAITING_MAX, GUESTS_MAX};
use quorate_core::opinion::ExpertFailure;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Is this key's node a member of the mesh?
pub type Admits = Arc<dyn Fn(&PeerKey) -> bool + Send + Sync>;

/// The key that a peer's name is made of; None for a name that hides its key.
pub fn key_of(peer: &PeerId) -> Option<PeerKey> {
    let multihash = peer.to_bytes();
    // An identity multihash of a protobuf: code 0, length 36, then type ed25519 and its 32 bytes.
    let key = multihash.strip_prefix(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20])?;
    key.try_into().ok()
}

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
        let (Some(key), Ok(place)) = (key_of(&peer), room.clone().try_acquire_owned()) else {
            continue; // dropping the stream says no
        };
        let (node, terms, admits, stop) =
            (node.clone(), terms.clone(), admits.clone(), stop.clone());
        sessions.spawn(async move {
            let open = |key, opening| guest(node, key, opening, admits);
            let session = serve::serve(stream, key, &terms, open);
            if let Some(ended) = stop.run_until_cancelled(session).await {
                tracing::debug!(target: "quorate::mesh", %peer, ?ended, "a guest's session ended");
            }
            drop(place);
        });
    }
    sessions.close();
    sessions.wait().await;
}

/// A session of the node, as the plane's frames want it.
async fn guest(
    node: Node,
    key: PeerKey,
    opening: Opening,
    admits: Admits,
) -> Result<serve::Guest, ExpertFailure> {
    if !admits(&key) {
        let why = "your node is not admitted to this mesh";
        return Err(ExpertFailure::Refused(why.into()));
    }
    let driver::Guest { ops, events } = node.guest(key, opening.expert, opening.open).await?;
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

/// An expert of another node, and how to reach it.
pub struct Neighbour {
    pub peer: PeerId,
    pub addresses: Vec<SocketAddr>,
    pub facts: Arc<ExpertFacts>,
    /// An expert here with the same vocabulary.
    pub tokenizer: Option<Arc<dyn Expert>>,
}

/// Lets this node's requests use the neighbour's expert.
pub async fn adopt(
    plane: &Arc<Plane>,
    node: &Node,
    neighbour: Neighbour,
    letterhead: watch::Receiver<Letterhead>,
    patience: Duration,
) -> Result<Arc<RemoteExpert>, ExpertFailure> {
    let events = node.expert_events();
    let expert = Arc::new(reach(plane, neighbour, letterhead, patience, events));
    node.adopt(expert.clone()).await?;
    Ok(expert)
}

/// The neighbour's expert, as something to ask. Needs a tokio runtime.
pub fn reach(
    plane: &Arc<Plane>,
    neighbour: Neighbour,
    letterhead: watch::Receiver<Letterhead>,
    patience: Duration,
    events: EventSender,
) -> RemoteExpert {
    let Neighbour {
        peer,
        addresses,
        facts,
        tokenizer,
    } = neighbour;
    let plane = plane.clone();
    let dial: Dial = Arc::new(move || {
        let (plane, addresses) = (plane.clone(), addresses.clone());
        Box::pin(async move {
            let connection = plane.dial(peer, &addresses).await;
            let connection = connection.map_err(|error| error.to_string())?;
            connection.open().await.map_err(|error| error.to_string())
        })
    });
    let remote = Remote {
        facts,
        tokenizer,
        letterhead,
        dial,
        patience,
    };
    RemoteExpert::new(remote, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_key_back() {
        let pair = libp2p_identity::Keypair::generate_ed25519();
        let key = pair.public().try_into_ed25519().expect("it is one");
        assert_eq!(key_of(&pair.public().to_peer_id()), Some(key.to_bytes()));
        assert_eq!(key_of(&PeerId::random()), None);
    }
}
