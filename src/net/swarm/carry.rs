//! Halts that come with strangers. Whoever carries a halt needs no right of his own: the signature
//! counts. A voter without a node hands it in under a key that is forgotten afterwards.

use super::behaviour::{sync as protocol, transports};
use super::codec::Bytes;
use super::reach::multiaddr_of;
use super::task::Task;
use super::{StartError, checked_key};
use crate::identity::peer_of;
use futures::StreamExt;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, relay, request_response, tcp, yamux};
use libp2p_identity::Keypair;
use quorate_core::governance::{Halt, Record};
use quorate_core::ids::PeerKey;
use quorate_core::limits::{CARRIED_HALTS_MAX, CARRIED_HALTS_PER_S_MAX, JOIN_MS_MAX};
use quorate_core::mesh::Address;
use quorate_core::mesh::sync::{Answer, Ask, Question};
use std::time::{Duration, Instant};
use tokio::time::timeout;

impl Task {
    /// `Same`: every one of these halts is held here now, and was passed on.
    pub(super) fn carried(&mut self, from: &PeerKey, items: &[Vec<u8>]) -> Answer {
        if items.is_empty() || items.len() > CARRIED_HALTS_MAX {
            return Answer::Refused;
        }
        for item in items {
            if !self.carriers.may_ask(Instant::now()) {
                return Answer::Refused;
            }
            let Ok(halt) = Halt::decode(item) else {
                return Answer::Refused;
            };
            let id = halt.id();
            self.take(vec![Record::Halt(halt)], Some(from));
            if !self.replica.records().contains(&id.0) {
                return Answer::Refused;
            }
        }
        tracing::warn!(target: "quorate::swarm", halts = items.len(), "a halt was brought by somebody who is no member");
        Answer::Same
    }
}

/// How many signatures strangers may have verified, by the second: keys cost nothing, so it is one
/// account for all of them.
#[derive(Debug)]
pub(super) struct Carriers {
    second: Instant,
    left: usize,
}

impl Carriers {
    pub(super) fn new(now: Instant) -> Carriers {
        Carriers {
            second: now,
            left: CARRIED_HALTS_PER_S_MAX,
        }
    }

    fn may_ask(&mut self, now: Instant) -> bool {
        if now >= self.second + Duration::from_secs(1) {
            *self = Carriers::new(now);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[derive(NetworkBehaviour)]
struct Carrier {
    relay_client: relay::client::Behaviour,
    sync: request_response::Behaviour<Bytes>,
}

#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("it names no address")]
    NoAddress,
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    #[error("the node is there, but does not answer")]
    Silent,
    #[error(
        "the node does not take it: it is of another mesh, does not know the key, or is too busy"
    )]
    Refused,
}

/// Hands a halt to a node. When this is `Ok`, the node holds it and has passed it on. Without its key
/// whoever answers at the address is believed.
pub async fn carry(
    node: Option<PeerKey>,
    addresses: &[Address],
    halt: &Halt,
) -> Result<(), CarryError> {
    let keypair = Keypair::generate_ed25519();
    checked_key(&keypair)?;
    crate::tls::install_provider();
    let ways = addresses.iter();
    let ways: Vec<Multiaddr> = ways
        .filter_map(|address| multiaddr_of(address, node.as_ref()))
        .collect();
    let node = node.as_ref().map(peer_of);
    let mut swarm = carrier(&keypair)?;
    let dials = match node {
        Some(_) if ways.is_empty() => vec![],
        Some(node) => vec![DialOpts::peer_id(node).addresses(ways).build()],
        None => {
            let each = ways.into_iter();
            each.map(|way| DialOpts::unknown_peer_id().address(way).build())
                .collect()
        }
    };
    let mut left = 0;
    for dial in dials {
        let unreachable = |error: DialError| CarryError::Unreachable(error.to_string());
        swarm.dial(dial).map_err(unreachable)?;
        left += 1;
    }
    if left == 0 {
        return Err(CarryError::NoAddress);
    }
    let ask = Ask {
        network: halt.network,
        question: Question::Take(vec![halt.encode()]),
    };
    let visit = visit(&mut swarm, node, ask.encode(), left);
    let answer = timeout(Duration::from_millis(JOIN_MS_MAX), visit).await;
    match Answer::decode(&answer.map_err(|_| CarryError::Silent)??) {
        Ok(Answer::Same) => Ok(()),
        _ => Err(CarryError::Refused),
    }
}

fn carrier(keypair: &Keypair) -> Result<Swarm<Carrier>, StartError> {
    let transports = transports!(keypair);
    let built = transports.with_behaviour(|_, relay_client| Carrier {
        relay_client,
        sync: protocol(),
    });
    let swarm = built.map_err(StartError::build)?;
    let stay = Duration::from_millis(JOIN_MS_MAX);
    let swarm = swarm.with_swarm_config(|config| config.with_idle_connection_timeout(stay));
    Ok(swarm.build())
}

/// The bytes of the first answer. `left`: dials under way.
async fn visit(
    swarm: &mut Swarm<Carrier>,
    node: Option<PeerId>,
    ask: Vec<u8>,
    mut left: usize,
) -> Result<Vec<u8>, CarryError> {
    use request_response::{Event, Message};
    let mut is_asked = false;
    let is_it = |peer: &PeerId| node.is_none_or(|node| node == *peer);
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if is_it(&peer_id) && !is_asked => {
                is_asked = true;
                let sync = &mut swarm.behaviour_mut().sync;
                sync.send_request(&peer_id, ask.clone());
            }
            // A relay on the way is not the goal.
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. }
                if !is_asked && peer_id.as_ref().is_none_or(is_it) =>
            {
                left = left.saturating_sub(1);
                if left == 0 {
                    return Err(CarryError::Unreachable(error.to_string()));
                }
            }
            SwarmEvent::Behaviour(CarrierEvent::Sync(Event::Message {
                message: Message::Response { response, .. },
                ..
            })) => return Ok(response),
            SwarmEvent::Behaviour(CarrierEvent::Sync(Event::OutboundFailure { error, .. })) => {
                tracing::debug!(target: "quorate::swarm", %error, "a halt was not answered");
                return Err(CarryError::Silent);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_so_many_signatures_verified_in_a_second() {
        let start = Instant::now();
        let mut carriers = Carriers::new(start);
        for _ in 0..CARRIED_HALTS_PER_S_MAX {
            assert!(carriers.may_ask(start));
        }
        let soon = start + Duration::from_millis(999);
        assert!(!carriers.may_ask(start) && !carriers.may_ask(soon));
        assert!(carriers.may_ask(start + Duration::from_secs(1)));
    }
}
