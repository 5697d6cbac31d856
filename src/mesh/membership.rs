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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

/// `join` and `leave` change files: they are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look reads a few files and opens two sockets; whoever waits for one on a machine that is
/// busier than this hears what was known before.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    /// What reads the prompts of `mesh` requests.
    model: Arc<str>,
    seen: Arc<watch::Sender<Seen>>,
    /// The look at the home's files that began last; 0 before the first.
    look: Arc<AtomicU64>,
    /// Somebody will not wait for the next look.
    wanted: Arc<Notify>,
}

/// What the look at the home's files that ended last saw.
#[derive(Default)]
struct Seen {
    look: u64,
    member: Option<Arc<Member>>,
    /// The home belongs to a mesh, and this keeps the node from taking part.
    hindered: Option<String>,
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
    /// Nodes whose word about experts is known here.
    pub voices: usize,
}

impl Membership {
    pub fn new(model: &str) -> Membership {
        Membership {
            model: model.into(),
            seen: Arc::new(watch::Sender::default()),
            look: Arc::default(),
            wanted: Arc::default(),
        }
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.seen.borrow().member.clone()
    }

    /// The membership as of now: before None is said, the files are looked at once more, so that
    /// whoever has just joined or started this node is not told that it belongs to no mesh.
    async fn found(&self) -> Option<Arc<Member>> {
        if self.member().is_none() {
            self.looked().await;
        }
        self.member()
    }

    /// Until a look that began after this call has ended, or one found a mesh.
    async fn looked(&self) {
        let before = self.look.load(Ordering::Acquire);
        if before == 0 {
            return; // a process without an API: nobody looks
        }
        let mut seen = self.seen.subscribe();
        self.wanted.notify_one();
        let later = seen.wait_for(|seen| seen.member.is_some() || seen.look > before);
        tokio::time::timeout(LOOK_MAX, later).await.ok();
    }

    /// Why this node takes no part in the mesh that it belongs to.
    pub fn hindered(&self) -> Option<String> {
        self.seen.borrow().hindered.clone()
    }

    pub async fn is_there(&self) -> bool {
        self.found().await.is_some()
    }

    /// Adopts whoever a request on this expert can ask.
    pub async fn ready_for(&self, lease: &Lease) -> Reach {
        let Some(member) = self.found().await else {
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
    pub async fn watch(&self) -> Option<(Arc<Standing>, broadcast::Receiver<News>)> {
        self.found().await.map(|member| member.watch())
    }

    /// Takes signed records, whoever brings them. None without a mesh.
    pub async fn bring(&self, records: Vec<Record>) -> Option<Result<Brought, String>> {
        self.found().await?.bring(records).await
    }

    /// Takes signed entries that are meant as something. None without a mesh; Err: not on the disk.
    pub async fn cast(
        &self,
        entries: Vec<(Meant, Entry)>,
    ) -> Option<Result<Result<Vec<Cast>, Miscast>, String>> {
        self.found().await?.cast(entries).await
    }

    /// Why the mesh stands still.
    pub fn halted(&self) -> Vec<String> {
        self.standing()
            .map_or_else(Vec::new, |s| s.reasons().map(str::to_owned).collect())
    }

    pub async fn page(&self) -> Option<Page> {
        let member = self.found().await?;
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
            voices: member.voices(),
        })
    }

    /// Until `stop`: takes part as long as the home belongs to a mesh.
    /// The first look counts as begun before this is polled, so that whoever asks can wait for it.
    pub fn run(
        self,
        founding: Founding,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        let first = self.begin_look();
        async move { self.keep_looking(first, &founding, &stop).await }
    }

    fn begin_look(&self) -> u64 {
        self.look.fetch_add(1, Ordering::AcqRel) + 1
    }

    async fn keep_looking(&self, first: u64, founding: &Founding, stop: &CancellationToken) {
        let mut look = first;
        loop {
            match Member::start(founding).await {
                Ok(None) => self.see(look, None, None),
                Ok(Some(member)) => {
                    tracing::info!(target: "quorate::mesh", network = %member.network, "the mesh begins");
                    self.take_part(look, Arc::new(member), founding, stop).await;
                }
                Err(failure) => {
                    let why = Some(failure.message.clone());
                    // Once, not every second.
                    if self.hindered() != why {
                        tracing::error!(target: "quorate::mesh", %failure, "the mesh cannot begin");
                    }
                    self.see(look, None, why);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            look = self.begin_look();
        }
    }

    async fn take_part(
        &self,
        look: u64,
        member: Arc<Member>,
        founding: &Founding,
        stop: &CancellationToken,
    ) {
        self.see(look, Some(member.clone()), None);
        let over = is_over(&founding.home, member.network);
        if stop.run_until_cancelled(over).await.is_some() {
            tracing::info!(target: "quorate::mesh", network = %member.network, "the mesh is left");
        }
        self.see(look, None, None);
        member.leave(&founding.node).await;
    }

    fn see(&self, look: u64, member: Option<Arc<Member>>, hindered: Option<String>) {
        self.seen.send_replace(Seen {
            look,
            member,
            hindered,
        });
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
