//! The mesh's side of the handle: experts of other nodes come and go, routers of other nodes are
//! guests here, and the owner says what is given.

use super::handle::random;
use super::{AcquireError, Command, Gate, Node, Note, Notice};
use crate::expert::{EventSender, Expert};
use crate::policy::Policy;
use crate::wire::plane::Purpose;
use quorate_core::donor::Donor;
use quorate_core::governance::Rights;
use quorate_core::host::{Allow, GuestId, Leaf};
use quorate_core::ids::{ExpertId, PeerKey};
use quorate_core::limits::GUEST_EVENTS_MAX;
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, Open};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// An expert that this node gives to others, in memory or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub id: ExpertId,
    /// As `acquire` knows it.
    pub name: String,
    pub allow: Allow,
    pub answers: Answers,
}

/// Who answers for an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The model of its name, here.
    Model,
    /// The mesh of this node, of which that model is a part. Its list may name nodes of other meshes.
    Mesh,
    /// Another mesh, which was adopted; the model here has its vocabulary.
    AnotherMesh,
}

/// One session of another node's router on an expert here. Admission to the mesh was checked by
/// whoever made it. Dropping `ops`, or sending `Close`, ends the session.
#[derive(Debug)]
pub struct Guest {
    pub ops: GuestOps,
    /// Ends with `Failed`, or without a word if the session was closed. A reader that falls
    /// behind by `GUEST_EVENTS_MAX` is cut off.
    pub events: mpsc::Receiver<ExpertEvent>,
}

#[derive(Debug)]
pub struct GuestOps {
    guest: GuestId,
    commands: mpsc::Sender<Command>,
    notices: mpsc::UnboundedSender<Notice>,
}

impl GuestOps {
    /// Waits for room at the node, which is the back-pressure. Whatever session the operation
    /// names, it is about this one.
    pub async fn send(&self, op: ExpertOp) -> Result<(), ExpertFailure> {
        let command = Command::GuestOp {
            guest: self.guest,
            op,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| ExpertFailure::Gone)
    }
}

impl Drop for GuestOps {
    fn drop(&mut self) {
        // A node that is gone has nothing left to end.
        self.notices.send(Notice::Guest(self.guest)).ok();
    }
}

impl Node {
    /// Where experts of other nodes send what they say.
    pub fn expert_events(&self) -> EventSender {
        self.events.clone()
    }

    /// Lets requests use an expert of another node.
    pub async fn adopt(&self, expert: Arc<dyn Expert>) -> Result<(), ExpertFailure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Adopt { expert, reply }).await?;
        answer.await.map_err(|_| ExpertFailure::Gone)?
    }

    /// An adopted expert is gone: its sessions end or go on without it. False if it was not known.
    pub async fn lose(&self, expert: ExpertId, why: &str) -> bool {
        let (reply, answer) = oneshot::channel();
        let why = why.to_owned();
        let lost = Command::Lose { expert, why, reply };
        self.command(lost).await.is_ok() && answer.await.unwrap_or(false)
    }

    /// Opens a session for another node's router. The expert is loaded if it is not in memory, and
    /// stays there while the guest does. An error is for the peer to read.
    pub async fn guest(
        &self,
        peer: PeerKey,
        expert: ExpertId,
        purpose: Purpose,
        open: Open,
    ) -> Result<Guest, ExpertFailure> {
        let find = self.models.offer.clone();
        let offer = tokio::task::spawn_blocking(move || find(expert)).await;
        let offer = offer.map_err(|error| ExpertFailure::Engine(error.to_string()))?;
        let offer = offer.ok_or_else(|| refused("this node offers no such expert"))?;
        if !offer.allow.admits(&peer) {
            return Err(refused(
                "this expert answers only peers that its owner named",
            ));
        }
        self.knock(peer, &offer.name, purpose).await?; // a closed node loads nothing for others
        let lease = self.acquire(&offer.name).await.map_err(for_a_peer)?;
        let facts = lease.facts();
        if offer.answers == Answers::Model && facts.id != expert {
            return Err(ExpertFailure::Gone); // the owner changed it meanwhile
        }
        let whole = (offer.answers == Answers::Mesh).then(|| Leaf {
            expert: facts.id,
            vocabulary: facts.vocab.fingerprint(),
            vocab: facts.vocab.len(),
            context: facts.context,
        });
        let guest = GuestId(u128::from_ne_bytes(random()));
        let (events_tx, mut events) = mpsc::channel(GUEST_EVENTS_MAX);
        let (reply, answer) = oneshot::channel();
        let ops = GuestOps {
            guest,
            commands: self.commands.clone(),
            notices: self.notices.clone(),
        };
        let visit = quorate_core::host::Visit {
            guest,
            peer,
            expert,
            open,
            whole,
            refused: None,
        };
        let command = Command::Visit {
            visit: Box::new(visit),
            events: events_tx,
            lease,
            reply,
        };
        self.command(command).await?;
        answer.await.map_err(|_| ExpertFailure::Gone)?;
        // The host's refusal is there already, if it refused.
        match events.try_recv() {
            Ok(ExpertEvent::Failed { why, .. }) => Err(why),
            _ => Ok(Guest { ops, events }),
        }
    }

    /// Does the owner let this node, whatever mesh it is of, ask this expert?
    pub async fn invites(&self, peer: PeerKey, expert: ExpertId) -> bool {
        let find = self.models.offer.clone();
        let offer = tokio::task::spawn_blocking(move || find(expert)).await;
        let listed = |allow: &Allow| *allow != Allow::Mesh && allow.admits(&peer);
        let offer = offer.ok().flatten();
        offer.is_some_and(|o| o.answers == Answers::Mesh && listed(&o.allow))
    }

    /// The peer lost its admission: its sessions here end.
    pub async fn expel(&self, peer: PeerKey, why: &str) {
        let why = why.to_owned();
        self.tell(Command::Expel { peer, why }).await;
    }

    /// What governance lets this node do now.
    pub async fn set_rights(&self, rights: Rights) {
        self.tell(Command::Rights(rights)).await;
    }

    /// Where decisions about permits are written down; None: nowhere, since there is no mesh.
    pub async fn set_audit(&self, notes: Option<mpsc::Sender<Note>>) {
        self.tell(Command::Audit(notes)).await;
    }

    /// What requests set out from, from now on, and who counts what they saw.
    pub async fn set_gate(&self, gate: Option<Gate>) {
        self.tell(Command::Gate(gate)).await;
    }

    /// What the operator refuses, from now on: it is asked about new permits.
    pub async fn set_policy(&self, policy: Policy) {
        self.tell(Command::Policy(policy)).await;
    }

    /// What the owner gives, from the settings.
    pub async fn donate(&self, donor: Donor) {
        self.tell(Command::Donate(donor)).await;
    }

    /// Serves nobody but the owner until told otherwise; false if the node is gone.
    pub async fn pause(&self, paused: bool) -> bool {
        self.command(Command::Pause(paused)).await.is_ok()
    }

    async fn knock(
        &self,
        peer: PeerKey,
        model: &str,
        purpose: Purpose,
    ) -> Result<(), ExpertFailure> {
        let (reply, answer) = oneshot::channel();
        let knock = Command::Knock {
            peer,
            model: model.to_owned(),
            purpose,
            reply,
        };
        self.command(knock).await?;
        answer.await.map_err(|_| ExpertFailure::Gone)?
    }

    async fn command(&self, command: Command) -> Result<(), ExpertFailure> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| ExpertFailure::Gone)
    }

    /// News that a node which is gone has no use for.
    async fn tell(&self, command: Command) {
        self.command(command).await.ok();
    }
}

fn refused(why: &str) -> ExpertFailure {
    ExpertFailure::Refused(why.to_owned())
}

/// Names of files and sums of memory are the owner's business.
fn for_a_peer(error: AcquireError) -> ExpertFailure {
    match error {
        AcquireError::Busy { retry_after_s, .. } => ExpertFailure::Busy {
            retry_ms: retry_after_s.saturating_mul(1000),
        },
        AcquireError::ShuttingDown => ExpertFailure::Gone,
        error => {
            tracing::warn!(target: "quorate::driver", %error, "an expert on offer cannot be had");
            ExpertFailure::Engine("this expert cannot be loaded now".into())
        }
    }
}
