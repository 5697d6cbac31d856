//! The guest's side of an invite: a short visit, before this node belongs anywhere.

use super::behaviour::{join as protocol, transports};
use super::codec::Bytes;
use super::reach::multiaddr_of;
use super::{StartError, checked_key};
use crate::identity::peer_of;
use futures::StreamExt;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, SwarmBuilder, noise, relay, request_response, tcp, yamux};
use libp2p_identity::Keypair;
use quorate_core::governance::Replica;
use quorate_core::limits::JOIN_MS_MAX;
use quorate_core::mesh::Invite;
use quorate_core::mesh::join::{Answer, BadWelcome, Refusal, check_welcome};
use std::time::Duration;
use tokio::time::timeout;

#[derive(NetworkBehaviour)]
struct Guest {
    relay_client: relay::client::Behaviour,
    join: request_response::Behaviour<Bytes>,
}

/// To be kept: what makes this node a member.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Bytes of the genesis that the invite pins.
    pub genesis: Vec<u8>,
    /// Of the admissions that lead from it to this node.
    pub chain: Vec<Vec<u8>>,
    /// Both, checked.
    pub replica: Replica,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the invite is this node's own")]
    Own,
    #[error("the invite names no address; ask for another, made while that node is running")]
    NoAddress,
    #[error(
        "the node that made the invite cannot be reached: {0}; is it running, and on the same network? Try `quorate doctor`"
    )]
    Unreachable(String),
    #[error(
        "the node that made the invite is there, but does not answer; try again, or ask its owner"
    )]
    Silent,
    #[error("not let in: {0}; ask for another invite")]
    Refused(Refusal),
    #[error("what was answered is not believed: {0}")]
    BadWelcome(#[from] BadWelcome),
    #[error("what was answered is not understood: {0}")]
    Malformed(String),
}

/// Shows the invite to the node that made it, and checks what it answers.
pub async fn join(keypair: &Keypair, invite: &Invite, now_s: u64) -> Result<Joined, JoinError> {
    let own = checked_key(keypair)?;
    if invite.issuer == own {
        return Err(JoinError::Own);
    }
    crate::tls::install_provider();
    let issuer = peer_of(&invite.issuer);
    let ways: Vec<_> = invite
        .addresses
        .iter()
        .filter_map(|address| multiaddr_of(address, Some(&invite.issuer)))
        .collect();
    if ways.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let mut swarm = guest(keypair)?;
    let dialling = DialOpts::peer_id(issuer).addresses(ways).build();
    swarm
        .dial(dialling)
        .map_err(|error| JoinError::Unreachable(error.to_string()))?;
    let visit = timeout(
        Duration::from_millis(JOIN_MS_MAX),
        visit(&mut swarm, invite),
    );
    let answer = visit.await.map_err(|_| JoinError::Silent)??;
    match Answer::decode(&answer).map_err(|error| JoinError::Malformed(error.to_string()))? {
        Answer::Refused(why) => Err(JoinError::Refused(why)),
        Answer::Welcome { genesis, chain } => {
            let replica = check_welcome(invite, &own, &genesis, &chain, now_s)?;
            Ok(Joined {
                genesis,
                chain,
                replica,
            })
        }
    }
}

fn guest(keypair: &Keypair) -> Result<Swarm<Guest>, StartError> {
    let transports = transports!(keypair);
    let built = transports.with_behaviour(|_, relay_client| Guest {
        relay_client,
        join: protocol(false),
    });
    let swarm = built.map_err(StartError::build)?;
    let stay = Duration::from_millis(JOIN_MS_MAX);
    let swarm = swarm.with_swarm_config(|config| config.with_idle_connection_timeout(stay));
    Ok(swarm.build())
}

/// The bytes of the answer.
async fn visit(swarm: &mut Swarm<Guest>, invite: &Invite) -> Result<Vec<u8>, JoinError> {
    use request_response::{Event, Message};
    let issuer = peer_of(&invite.issuer);
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == issuer => {
                let join = &mut swarm.behaviour_mut().join;
                join.send_request(&issuer, invite.encode());
            }
            // A relay on the way is not the goal.
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } if peer == issuer => {
                return Err(JoinError::Unreachable(error.to_string()));
            }
            SwarmEvent::Behaviour(GuestEvent::Join(Event::Message {
                message: Message::Response { response, .. },
                ..
            })) => return Ok(response),
            SwarmEvent::Behaviour(GuestEvent::Join(Event::OutboundFailure { error, .. })) => {
                tracing::debug!(target: "quorate::swarm", %error, "the invite was not answered");
                return Err(JoinError::Silent);
            }
            _ => {}
        }
    }
}
