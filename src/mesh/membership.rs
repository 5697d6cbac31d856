//! The mesh as the rest of the node sees it: it may begin, and end, while the node runs.

use super::MeshHome;
use super::hearing::{Brought, News};
use super::member::{Founding, Member};
use super::neighbours::Neighbour;
use crate::driver::Lease;
use crate::net::swarm::{PeerView, unix_s};
use quorate_core::governance::{Cast, Entry, Meant, Miscast, Record, Standing};
use quorate_core::ids::NetworkId;
use quorate_core::mesh::{Address, ExpertRow, Pass, Place};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// `join` and `leave` change files: they are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    /// What reads the prompts of `mesh` requests.
    model: Arc<str>,
    now: Arc<RwLock<Option<Arc<Member>>>>,
}

/// Who would answer a `mesh` request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    NoMesh,
    /// Nothing forbids it, and nobody else is there: the expert here is the whole mesh.
    Alone,
    Together,
}

/// The mesh for people.
pub struct Page {
    pub network: NetworkId,
    pub is_unsafe: bool,
    pub phase: String,
    pub halted: Vec<String>,
    pub members: usize,
    pub peers: Vec<PeerView>,
    pub neighbours: Vec<Neighbour>,
    pub addresses: Vec<Address>,
    /// Where others reach the token plane.
    pub plane: Vec<Place>,
    /// Another member's records were seen since this node began: until then it asks and serves nobody.
    pub has_heard: bool,
}

impl Membership {
    pub fn new(model: &str) -> Membership {
        Membership {
            model: model.into(),
            now: Arc::default(),
        }
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.now.read().expect("nobody panics with it").clone()
    }

    pub fn is_there(&self) -> bool {
        self.member().is_some()
    }

    /// Adopts whoever a request on this expert can ask.
    pub async fn ready_for(&self, lease: &Lease) -> Reach {
        let Some(member) = self.member() else {
            return Reach::NoMesh;
        };
        let others = member.ready_for(lease.facts()).await;
        // A halt is the loop's to say, with its reason.
        match others == 0 && !member.standing().is_halted() {
            true => Reach::Alone,
            false => Reach::Together,
        }
    }

    /// The way to the mesh as an expert of others; None without a mesh.
    pub fn pass(&self, row: ExpertRow) -> Option<Pass> {
        Some(self.member()?.pass(row))
    }

    /// What the records come to; None without a mesh.
    pub fn standing(&self) -> Option<Arc<Standing>> {
        self.member().map(|member| member.standing())
    }

    /// How the mesh stands, and what changes from here on. None without a mesh.
    pub fn watch(&self) -> Option<(Arc<Standing>, broadcast::Receiver<News>)> {
        self.member().map(|member| member.watch())
    }

    /// Takes signed records, whoever brings them. None without a mesh.
    pub async fn bring(&self, records: Vec<Record>) -> Option<Result<Brought, String>> {
        self.member()?.bring(records).await
    }

    /// Takes signed entries that are meant as something. None without a mesh; Err: not on the disk.
    pub async fn cast(
        &self,
        entries: Vec<(Meant, Entry)>,
    ) -> Option<Result<Result<Vec<Cast>, Miscast>, String>> {
        self.member()?.cast(entries).await
    }

    /// Why the mesh stands still.
    pub fn halted(&self) -> Vec<String> {
        self.standing()
            .map_or_else(Vec::new, |s| s.reasons().map(str::to_owned).collect())
    }

    pub async fn page(&self) -> Option<Page> {
        let member = self.member()?;
        let standing = member.standing();
        Some(Page {
            network: member.network,
            is_unsafe: member.is_unsafe(),
            phase: format!("{:?}", standing.phase()),
            halted: standing.reasons().map(str::to_owned).collect(),
            members: standing.admissions().admitted(unix_s()).len(),
            peers: member.peers().await,
            neighbours: member.neighbours().await,
            addresses: member.addresses().await,
            plane: member.places().to_vec(),
            has_heard: member.has_heard(),
        })
    }

    /// Until `stop`: takes part as long as the home belongs to a mesh.
    pub async fn run(self, founding: Founding, stop: CancellationToken) {
        let mut failed: Option<String> = None;
        loop {
            match Member::start(&founding).await {
                Ok(None) => failed = None,
                Ok(Some(member)) => {
                    failed = None;
                    tracing::info!(target: "quorate::mesh", network = %member.network, "the mesh begins");
                    self.take_part(Arc::new(member), &founding, &stop).await;
                }
                // Once, not every second.
                Err(failure) if failed.as_deref() != Some(failure.message.as_str()) => {
                    tracing::error!(target: "quorate::mesh", %failure, "the mesh cannot begin");
                    failed = Some(failure.message);
                }
                Err(_) => {}
            }
            let pause = tokio::time::sleep(LOOK_EVERY);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn take_part(&self, member: Arc<Member>, founding: &Founding, stop: &CancellationToken) {
        self.set(Some(member.clone()));
        let over = is_over(&founding.home, member.network);
        if stop.run_until_cancelled(over).await.is_some() {
            tracing::info!(target: "quorate::mesh", network = %member.network, "the mesh is left");
        }
        self.set(None);
        member.leave(&founding.node).await;
    }

    fn set(&self, member: Option<Arc<Member>>) {
        *self.now.write().expect("nobody panics with it") = member;
    }
}

/// Until the home belongs to no mesh, or to another.
async fn is_over(home: &MeshHome, network: NetworkId) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let home = home.clone();
        let now = tokio::task::spawn_blocking(move || home.network()).await;
        if now.ok().flatten() != Some(network) {
            return;
        }
    }
}
