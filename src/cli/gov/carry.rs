//! `quorate gov halt --to`: a voter without a node hands his halt to nodes of the mesh.

use super::args::Halt as Args;
use super::hand;
use super::mesh::Mesh;
use crate::cli::context::Context;
use crate::cli::term;
use crate::config::SWARM_PORT_DEFAULT;
use crate::error::{Failure, Kind, Outcome};
use crate::net::swarm;
use quorate_core::governance::{Halt, Record, Request};
use quorate_core::ids::{NetworkId, PeerKey};
use quorate_core::mesh::{Address, Invite, Place, Transport};

/// A node that was busy is asked so often.
const TRIES: usize = 3;
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Where a node is, as typed.
pub(super) struct Goal {
    typed: String,
    /// Only an invite says whose the address is, and of which mesh.
    invite: Option<(PeerKey, NetworkId)>,
    addresses: Vec<Address>,
}

pub(super) fn goals(typed: &[String]) -> Outcome<Vec<Goal>> {
    typed.iter().map(|text| goal(text)).collect()
}

fn goal(text: &str) -> Outcome<Goal> {
    if let Ok(invite) = Invite::parse(text) {
        return Ok(Goal {
            typed: format!(
                "the node of the invite ({})",
                crate::identity::peer_id(&invite.issuer)
            ),
            invite: Some((invite.issuer, invite.network)),
            addresses: invite.addresses,
        });
    }
    let place = Place::parse(text, SWARM_PORT_DEFAULT).ok_or_else(|| {
        let message = format!("'{text}' is neither an invite nor an address");
        Failure::new(Kind::Usage, message).hint(format!(
            "write host:port, or a host alone for port {SWARM_PORT_DEFAULT}; `quorate invite` on a node prints an invite"
        ))
    })?;
    let both = [Transport::Quic, Transport::Tcp].map(|transport| Address {
        place: place.clone(),
        transport,
        relay: None,
    });
    Ok(Goal {
        typed: text.to_owned(),
        invite: None,
        addresses: both.to_vec(),
    })
}

/// The mesh that the invites are for.
pub(super) fn network(goals: &[Goal]) -> Option<NetworkId> {
    goals.iter().find_map(|goal| Some(goal.invite?.1))
}

/// Signs, and hands it to all of them; what is signed is kept in a file, too.
pub(super) fn halt(
    context: &Context,
    mesh: Option<&Mesh>,
    request: &Request,
    args: &Args,
    goals: &[Goal],
) -> Outcome {
    let other = |goal: &&Goal| goal.invite.is_some_and(|(_, of)| of != request.network);
    if let Some(goal) = goals.iter().find(other) {
        let message = format!("{} is of another mesh", goal.typed);
        return Err(Failure::new(Kind::Usage, message));
    }
    let Some(key) = &args.signing.key else {
        return Err(Failure::new(Kind::Usage, "which key signs this?").hint("add --key FILE"));
    };
    let parcel = hand::signed(context, mesh, request, &args.signing, key)?;
    let path = hand::save(&parcel, args.signing.out.clone(), "halt")?;
    let halts: Vec<Halt> = parcel
        .records
        .into_iter()
        .filter_map(|record| match record {
            Record::Halt(halt) => Some(halt),
            _ => None,
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    let mut confirmed = 0;
    for goal in goals {
        match runtime.block_on(hand_over(goal, &halts)) {
            Ok(()) => {
                confirmed += 1;
                term::line(format!("confirmed  {}", goal.typed))?;
            }
            Err(error) => term::line(format!("NOT        {}: {error}", goal.typed))?,
        }
    }
    let summary = format!(
        "{confirmed} of {} nodes hold the halt and pass it on",
        goals.len()
    );
    if confirmed == 0 {
        return Err(Failure::new(Kind::Network, summary).hint(format!(
            "it is signed, and kept in {}: try another node, or have it imported there",
            path.display()
        )));
    }
    term::line(summary)
}

async fn hand_over(goal: &Goal, halts: &[Halt]) -> Result<(), swarm::CarryError> {
    let node = goal.invite.map(|(node, _)| node);
    for halt in halts {
        let mut tries = 1;
        while let Err(error) = swarm::carry(node, &goal.addresses, halt).await {
            if tries == TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(())
}
