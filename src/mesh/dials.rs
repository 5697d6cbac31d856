//! How an expert's node is reached: directly by QUIC, else by a stream of the swarm.

use super::neighbours::Places;
use crate::identity;
use crate::net::plane::{Plane, Stream};
use crate::net::remote::Dial;
use crate::net::swarm;
use libp2p_identity::PeerId;
use quorate_core::ids::PeerKey;
use quorate_core::limits::PLANE_ADDRESSES_MAX;
use quorate_core::mesh::{Host, Place};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A name is looked up while somebody waits for its expert.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// A direct path that was not there is tried again after this.
const DIRECTLY_AGAIN: Duration = Duration::from_secs(60);

/// All ways out of this node.
#[derive(Clone)]
pub(super) struct Dials {
    pub(super) plane: Arc<Plane>,
    pub(super) swarm: swarm::Handle,
}

impl Dials {
    pub(super) fn to(&self, peer: PeerKey, places: Places) -> Dial {
        let dials = self.clone();
        let shut = Arc::new(Mutex::new(None));
        Arc::new(move || {
            let (dials, places, shut) = (dials.clone(), places.clone(), shut.clone());
            Box::pin(async move {
                let places = places.lock().expect("nobody panics with it").clone();
                dials.dial(peer, &places, &shut).await
            })
        })
    }

    /// `shut`: nobody was there directly, until then. Who lives behind a router is not waited for anew
    /// by every request.
    async fn dial(
        &self,
        peer: PeerKey,
        places: &[Place],
        shut: &Mutex<Option<Instant>>,
    ) -> Result<Stream, String> {
        let until = *shut.lock().expect("nobody panics with it");
        if until.is_some_and(|until| Instant::now() < until)
            && let Ok(stream) = self.swarm.stream(peer).await
        {
            return Ok(stream);
        }
        let addresses = addresses(places).await;
        let direct = by_plane(&self.plane, identity::peer_of(&peer), &addresses).await;
        let why = match direct {
            Ok(stream) => return Ok(stream),
            Err(why) => why,
        };
        *shut.lock().expect("nobody panics with it") = Some(Instant::now() + DIRECTLY_AGAIN);
        let by_swarm = self.swarm.stream(peer).await;
        by_swarm.map_err(|error| format!("directly: {why}; by the swarm: {error}"))
    }
}

/// Only by the token plane's own connection, to places that are known.
pub fn directly(plane: &Arc<Plane>, peer: PeerId, addresses: Vec<SocketAddr>) -> Dial {
    let plane = plane.clone();
    Arc::new(move || {
        let (plane, addresses) = (plane.clone(), addresses.clone());
        Box::pin(async move { by_plane(&plane, peer, &addresses).await })
    })
}

async fn by_plane(plane: &Plane, peer: PeerId, addresses: &[SocketAddr]) -> Result<Stream, String> {
    let connection = plane.dial(peer, addresses).await;
    let connection = connection.map_err(|error| error.to_string())?;
    connection.open().await.map_err(|error| error.to_string())
}

pub(super) async fn addresses(places: &[Place]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for Place { host, port } in places {
        match host {
            Host::Ip(ip) => addresses.push(SocketAddr::new(*ip, *port)),
            Host::Name(name) => {
                let found = timeout(LOOKUP_MAX, tokio::net::lookup_host((name.as_str(), *port)));
                // A name that leads nowhere is one address less.
                addresses.extend(found.await.ok().and_then(Result::ok).into_iter().flatten());
            }
        }
    }
    addresses.truncate(PLANE_ADDRESSES_MAX);
    addresses
}
