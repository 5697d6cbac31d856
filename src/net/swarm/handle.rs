//! What the node may ask of its swarm.

use super::behaviour::PLANE;
use super::gate::Roll;
use super::links::Relayed;
use super::pipe::Pipe;
use crate::identity::peer_of;
use crate::net::plane::Stream;
use libp2p_stream::Control;
use quorate_core::governance::{Record, Taken};
use quorate_core::ids::PeerKey;
use quorate_core::limits::REMOTE_DIAL_MS_MAX;
use quorate_core::mesh::{Address, Advert};
use std::fmt;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Whether somebody who is being dialled is there; the swarm itself looks as often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) enum Command {
    Insert(Box<Record>, oneshot::Sender<Taken>),
    Peers(oneshot::Sender<Vec<PeerView>>),
    Addresses(oneshot::Sender<Vec<Address>>),
    Routes(oneshot::Sender<Vec<PeerKey>>),
    /// To be connected to it.
    Want(PeerKey),
}

/// How two swarms are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    Quic,
    Tcp,
    Relayed,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Link::Quic => "direct, quic",
            Link::Tcp => "direct, tcp",
            Link::Relayed => "relayed",
        })
    }
}

/// What is known of another node.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub key: PeerKey,
    pub is_member: bool,
    /// Its experts can be asked, as far as is known.
    pub is_here: bool,
    /// None: not connected.
    pub link: Option<Link>,
    /// Its end of the connection.
    pub address: Option<String>,
    pub rtt: Option<Duration>,
    /// The last one that is not over.
    pub advert: Option<Advert>,
    /// Since it, or an advert of it, was heard.
    pub heard: Option<Duration>,
}

/// Commands wait for the task; if it has ended, the answers are empty.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) control: Control,
    pub(super) roll: Roll,
    pub(super) relayed: Relayed,
}

impl Handle {
    /// A record that was made here, and is written down already: kept, and pushed to every member
    /// that is connected. None: the swarm has ended.
    pub async fn insert(&self, record: Record) -> Option<Taken> {
        let record = Box::new(record);
        self.ask(|answer| Command::Insert(record, answer)).await
    }

    /// All that are connected, and all members that were heard of.
    pub async fn peers(&self) -> Vec<PeerView> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// What an invite of this node should name.
    pub async fn addresses(&self) -> Vec<Address> {
        self.ask(Command::Addresses).await.unwrap_or_default()
    }

    /// Whom Kademlia would ask for the way: its table.
    pub async fn routes(&self) -> Vec<PeerKey> {
        self.ask(Command::Routes).await.unwrap_or_default()
    }

    /// Who is a member now: may be asked at any time, from any thread.
    pub fn roll(&self) -> &Roll {
        &self.roll
    }

    /// A stream of the token plane over the swarm's own connection: the way that is left where no
    /// direct one is.
    pub async fn stream(&self, peer: PeerKey) -> Result<Stream, String> {
        let mut control = self.control.clone();
        let opening = async {
            let relayed = self.connected(peer).await?;
            let stream = control.open_stream(peer_of(&peer), PLANE).await;
            let stream = stream.map_err(|error| error.to_string())?;
            Ok(Stream::over(Pipe(stream), relayed))
        };
        let opened = timeout(Duration::from_millis(REMOTE_DIAL_MS_MAX), opening).await;
        opened.map_err(|_| "the node does not answer".to_owned())?
    }

    /// Through a relay? In a large mesh most are not connected until they are needed.
    async fn connected(&self, peer: PeerKey) -> Result<bool, String> {
        if !self.roll.contains(&peer) {
            return Err("it is no member".into());
        }
        let mut is_asked_for = false;
        loop {
            if let Some(relayed) = self.relayed.of(&peer) {
                return Ok(relayed);
            }
            if !std::mem::replace(&mut is_asked_for, true) {
                let sent = self.commands.send(Command::Want(peer)).await;
                sent.map_err(|_| "the swarm has ended".to_owned())?;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}
