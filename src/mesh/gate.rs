//! A member's part in the federated gate (decision 0017): counts which experts knew what was asked here, keeps that on
//! the disk, closes each day with noise, and lets requests set out from what is known.

use super::MeshHome;
use super::neighbours::Neighbours;
use crate::driver::{Gate, Node, Seen};
use crate::identity;
use crate::net::swarm::{Roll, unix_s};
use libp2p_identity::Keypair;
use quorate_core::ids::{ExpertId, Fingerprint, NetworkId, PeerKey};
use quorate_core::limits::GATE_SEEN_MAX;
use quorate_core::mesh::ExpertRow;
use quorate_core::weights::{Gates, Noise, Own, Voice, day};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Between two looks at what has come; a crash loses so much of what was counted.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What this node knows, for the swarm as well. A file that cannot be read is as none: it held counts, and no more.
pub(super) fn open(home: &MeshHome, network: NetworkId, me: PeerKey) -> Arc<Mutex<Gates>> {
    let kept = home.gate().and_then(|kept| match kept {
        Some(bytes) => Own::decode(&bytes).map_err(|why| {
            let message = format!("what experts knew was lost: {why}");
            crate::error::Failure::new(crate::error::Kind::Config, message)
        }),
        None => Ok(Own::default()),
    });
    let own = kept.unwrap_or_else(|failure| {
        tracing::warn!(target: "quorate::mesh", why = failure.message, "counting begins anew");
        Own::default()
    });
    Arc::new(Mutex::new(Gates::new(network, me, own)))
}

pub(super) struct Keeper {
    pub(super) gates: Arc<Mutex<Gates>>,
    pub(super) home: MeshHome,
    pub(super) keypair: Keypair,
    /// Others are told.
    pub(super) shares: bool,
    pub(super) node: Node,
    pub(super) neighbours: Arc<Neighbours>,
    /// What this node serves.
    pub(super) rows: watch::Receiver<Vec<ExpertRow>>,
    pub(super) roll: Roll,
}

impl Keeper {
    pub(super) async fn run(self, stop: CancellationToken) {
        let (seen_tx, mut seen) = mpsc::channel(GATE_SEEN_MAX);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let (mut is_new, mut changes) = (false, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some((vocabulary, seen)) = seen.recv() => {
                    self.lock().own.observe(vocabulary, &seen);
                    is_new = true;
                }
                _ = looks.tick() => {
                    is_new |= self.close().await;
                    if is_new && !self.keep().await {
                        continue; // what is not on the disk is told to nobody
                    }
                    self.speak();
                    let known = self.lock().changes();
                    if std::mem::take(&mut is_new) || changes != Some(known) {
                        changes = Some(known);
                        self.tell_node(&seen_tx).await;
                    }
                }
            }
        }
        if is_new {
            self.keep().await;
        }
        self.node.set_gate(None).await;
    }

    fn lock(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().expect("nobody panics with it")
    }

    /// Who is there, and whether a day has ended. True: this must be written down.
    async fn close(&self) -> bool {
        let today = day(unix_s());
        let elsewhere = self.neighbours.list().await.into_iter().map(|n| n.row);
        let here = self.rows.borrow().clone();
        let of = |row: ExpertRow| (row.vocabulary, row.expert);
        let experts: Vec<(Fingerprint, ExpertId)> =
            here.into_iter().chain(elsewhere).map(of).collect();
        let mut gates = self.lock();
        gates.keep(today, |node| self.roll.contains(node));
        gates.own.list(today, &experts);
        if !gates.own.is_due(today) {
            return false;
        }
        let mut secret = [0; 32];
        // Without noise no day is closed.
        match getrandom::fill(&mut secret) {
            Ok(()) => {
                gates.told = None;
                gates.own.close(today, &mut Noise::new(&secret))
            }
            Err(_) => false,
        }
    }

    async fn keep(&self) -> bool {
        let (home, bytes) = (self.home.clone(), self.lock().own.encode());
        let kept = tokio::task::spawn_blocking(move || home.keep_gate(&bytes)).await;
        match kept {
            Ok(Ok(())) => true,
            Ok(Err(failure)) => {
                tracing::warn!(target: "quorate::mesh", why = failure.message, "which experts knew what is not on the disk");
                false
            }
            Err(_) => false,
        }
    }

    /// What the swarm tells others from now on: as it is on the disk.
    fn speak(&self) {
        let mut gates = self.lock();
        if !self.shares || gates.told.is_some() {
            return;
        }
        let Some(me) = identity::key_of(&self.keypair.public().to_peer_id()) else {
            return;
        };
        let signed = |mut voice: Voice| {
            voice.signature = self.keypair.sign(&voice.body()).ok()?.try_into().ok()?;
            Some(voice)
        };
        let voice = gates.own.voice(gates.network(), me);
        gates.told = voice.and_then(signed);
    }

    async fn tell_node(&self, seen: &mpsc::Sender<Seen>) {
        let gates = Arc::new(self.lock().clone());
        let (own, others) = (gates.told.is_some(), gates.voices().count());
        tracing::debug!(target: "quorate::mesh", own, others, "requests set out from what so many nodes say of experts");
        let seen = seen.clone();
        self.node.set_gate(Some(Gate { gates, seen })).await;
    }
}
