//! What all records together amount to: a pure function of their set.

use super::act::{Act, LinkId, Origin, Proposal};
use super::admission::{Admissions, Target};
use super::checkpoint::Lease;
use super::codec::{Author, Writer, hash};
use super::config_chain::{Link, State, Tree};
use super::entry::{Body, EntryId};
use super::feed::{Fault, Feeds};
use super::genesis::{Genesis, Leases};
use super::halt::HaltId;
use super::membership::Electorate;
use super::phase::Phase;
use super::records::Records;
use super::tier::{Lately, Tier, patch_tier};
use super::votes::Consent;
use crate::config::{BadPatch, MeshConfig, Patch};
use crate::ids::NetworkId;
use crate::limits::{HALTS_PER_AUTHOR_MAX, PROPOSALS_SHOWN_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why the mesh stands still.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Halt {
        id: HaltId,
        author: Author,
        reason: String,
    },
    /// More halts of one author than are kept one by one. Ends with his suspension.
    Flood(Author),
    /// A participant signed two histories. Ends with his suspension.
    Fault(Author),
    /// Two certified acts in one place. Ends with a resume that lists it.
    Conflict([u8; 32]),
}

impl Cause {
    /// For people.
    pub fn reason(&self) -> &str {
        match self {
            Cause::Halt { reason, .. } => reason,
            Cause::Flood(_) => "one participant has sent more halts than can be listed",
            Cause::Fault(_) => "one participant's key has signed two histories",
            Cause::Conflict(_) => "two changes were accepted in one place",
        }
    }
}

/// The config at one link of the chain, as a value: a revert copies it and computes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub link: LinkId,
    pub version: u64,
    pub config: MeshConfig,
}

/// A change of the config that people accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub version: u64,
    pub tier: Tier,
    pub origin: Origin,
}

/// The last link of the chain: what the next proposal has to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    pub link: LinkId,
    pub height: u64,
    pub round: u32,
}

/// What the records of a mesh amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub(super) network: NetworkId,
    pub(super) tip: Tip,
    /// The links from the genesis to the tip, by height.
    path: Arc<[LinkId]>,
    pub(super) electorate: Electorate,
    pub(super) phase: Phase,
    /// Lowerings that a raise to come has to name: the last of each author.
    pub(super) lowered: BTreeMap<Author, EntryId>,
    pub(super) causes: BTreeSet<Cause>,
    /// What resumes have ended: at which height, and by which link.
    pub(super) lifted: BTreeMap<[u8; 32], (u64, LinkId)>,
    pub(super) faults: BTreeMap<Author, Fault>,
    /// One for each version, from 0.
    pub(super) snapshots: Vec<Snapshot>,
    changes: Vec<Accepted>,
    pub(super) min_safe: u64,
    /// The version that the last resume of the path made; 0 without one.
    restart: u64,
    pub(super) revert: u8,
    /// Values of the last 24 hours, by the newest checkpoint.
    lately: Lately,
    pub(super) lease: Option<Lease>,
    pub(super) leases: Leases,
    pub(super) admissions: Admissions,
    pub(super) taken_out: BTreeSet<Target>,
    /// Proposals on the tip, for people to vote on.
    pub(super) open: Vec<(LinkId, Proposal)>,
    /// All whose entries may matter: participants of any epoch, and those whom people may take in.
    pub(super) authors: BTreeSet<Author>,
    /// Witnesses of any epoch.
    pub(super) witnesses: BTreeSet<Author>,
    hash: [u8; 32],
}

/// Pure: the same set of records gives the same standing, whatever the order in which they came.
/// First the feeds, then the chain of acts, which fixes the members; then what single members say.
pub fn fold(genesis: &Genesis, records: &Records) -> Standing {
    let network = genesis.network_id();
    let terms = genesis.terms();
    let feeds = Feeds::new(network, &records.entries);
    let tree = Tree::grow(genesis, &feeds, &records.checkpoints);
    let path = tree.path();
    let links: Vec<&Link> = path.iter().map(|at| &tree.links[*at]).collect();
    let tip = links[links.len() - 1];
    let State {
        electorate,
        min_safe,
        ..
    } = &tip.state;
    let lifted = lifted(&links);
    let mut causes = halts(network, records, electorate, &lifted);
    let conflicts = tree.conflicts(&path).into_iter();
    causes.extend(
        conflicts
            .filter(|id| !lifted.contains_key(id))
            .map(Cause::Conflict),
    );
    let at_fault = feeds.faults.keys().filter(|a| electorate.is_active(a));
    causes.extend(at_fault.map(|author| Cause::Fault(*author)));
    let (phase, lowered) = phase(&feeds, &tip.state);
    let taken_out: BTreeSet<Target> = records
        .revocations
        .values()
        .filter(|r| r.network == network && electorate.is_active(&r.author))
        .map(|r| r.target)
        .collect();
    let ours = records.admissions.values().filter(|a| a.network == network);
    let open = open(&feeds, tip, network);
    let mut authors = participants(&tree);
    // Strangers' entries are not kept everywhere, so nothing that counts may rest on them.
    let ever = |(author, _): &(&Author, &Fault)| authors.contains(*author);
    let faults = feeds.faults.iter().filter(ever);
    let faults = faults.map(|(author, fault)| (*author, *fault)).collect();
    authors.extend(invited(&open));
    let lease = lease(network, records, electorate);
    let mut standing = Standing {
        network,
        tip: Tip {
            link: tip.id,
            height: tip.height,
            round: tip.round,
        },
        path: links.iter().map(|link| link.id).collect(),
        electorate: electorate.clone(),
        phase,
        lowered,
        causes,
        lifted,
        faults,
        snapshots: snapshots(&links),
        changes: changes(&links),
        min_safe: *min_safe,
        restart: restart(&links),
        revert: terms.revert,
        lately: tree.lately(path[path.len() - 1], lease.map(|l| l.time.low_s)),
        lease,
        leases: terms.leases,
        admissions: Admissions::new(&terms.nodes, ours, &taken_out),
        taken_out,
        open,
        authors,
        witnesses: witnesses(&tree),
        hash: [0; 32],
    };
    standing.hash = standing.digest();
    standing
}

/// The first resume that lists a thing ends it.
fn lifted(links: &[&Link]) -> BTreeMap<[u8; 32], (u64, LinkId)> {
    let mut lifted = BTreeMap::new();
    for link in links {
        if let Some(Act::Resume { lifts, .. }) = &link.act {
            for id in lifts {
                lifted.entry(*id).or_insert((link.height, link.id));
            }
        }
    }
    lifted
}

/// Halts of today's members that no resume lists. Add wins: what a resume did not know stays.
fn halts(
    network: NetworkId,
    records: &Records,
    electorate: &Electorate,
    lifted: &BTreeMap<[u8; 32], (u64, LinkId)>,
) -> BTreeSet<Cause> {
    let mut by_author: BTreeMap<Author, Vec<Cause>> = BTreeMap::new();
    for (id, halt) in &records.halts {
        let counts = halt.network == network
            && electorate.is_active(&halt.author)
            && !lifted.contains_key(&id.0);
        if counts {
            let (author, reason) = (halt.author, halt.reason.clone());
            let cause = Cause::Halt {
                id: *id,
                author,
                reason,
            };
            by_author.entry(author).or_default().push(cause);
        }
    }
    let mut causes = BTreeSet::new();
    for (author, halts) in by_author {
        if halts.len() > HALTS_PER_AUTHOR_MAX {
            causes.insert(Cause::Flood(author));
        } else {
            causes.extend(halts);
        }
    }
    causes
}

/// The chain's phase, lowered by every member's word that no raise has named.
fn phase(feeds: &Feeds, state: &State) -> (Phase, BTreeMap<Author, EntryId>) {
    let electorate = &state.electorate;
    let highest = Phase::highest(electorate.size(), electorate.members.witnesses.len());
    let mut phase = state.phase.min(highest);
    let mut last: BTreeMap<Author, (u64, EntryId)> = BTreeMap::new();
    for entry in feeds.rooted() {
        let (author, seq) = (entry.draft().author, entry.draft().seq);
        let is_lifted = state.lowered.get(&author).is_some_and(|mark| seq <= *mark);
        if let Body::Lower(to) = entry.draft().body
            && electorate.is_active(&author)
            && !is_lifted
        {
            phase = phase.min(to);
            let newest = last.entry(author).or_insert((seq, entry.id()));
            *newest = (*newest).max((seq, entry.id()));
        }
    }
    (
        phase,
        last.into_iter()
            .map(|(author, (_, id))| (author, id))
            .collect(),
    )
}

fn restart(links: &[&Link]) -> u64 {
    let is_resume = |link: &&&Link| matches!(link.act, Some(Act::Resume { .. }));
    let last = links.iter().rev().find(is_resume);
    last.map_or(0, |link| link.state.version)
}

fn snapshots(links: &[&Link]) -> Vec<Snapshot> {
    let mut all: Vec<Snapshot> = Vec::new();
    for link in links {
        let State {
            version, config, ..
        } = &link.state;
        if all.last().is_none_or(|last| last.version < *version) {
            all.push(Snapshot {
                link: link.id,
                version: *version,
                config: config.clone(),
            });
        }
    }
    all
}

fn changes(links: &[&Link]) -> Vec<Accepted> {
    let patch = |link: &&Link| match (&link.act, link.by) {
        (Some(Act::Patch(_)), Some((consent, origin))) => Some(Accepted {
            version: link.state.version,
            tier: match consent {
                Consent::Minor => Tier::DeployMinor,
                _ => Tier::DeployMajor,
            },
            origin,
        }),
        _ => None,
    };
    links.iter().filter_map(patch).collect()
}

fn lease(network: NetworkId, records: &Records, electorate: &Electorate) -> Option<Lease> {
    let ours = records
        .checkpoints
        .values()
        .filter(|c| c.seen().network == network);
    let leases = ours.filter_map(|c| {
        let time = c.time(electorate)?;
        Some(Lease {
            time,
            halted: c.seen().halted,
        })
    });
    // At one time, "halted" wins.
    leases.max_by_key(|lease| (lease.time, lease.halted))
}

fn open(feeds: &Feeds, tip: &Link, network: NetworkId) -> Vec<(LinkId, Proposal)> {
    let mut shown: BTreeMap<Author, usize> = BTreeMap::new();
    let mut open = BTreeMap::new();
    for entry in feeds.rooted() {
        let author = entry.draft().author;
        let Body::Propose(proposal) = &entry.draft().body else {
            continue;
        };
        if proposal.parent != tip.id || !tip.state.electorate.is_active(&author) {
            continue;
        }
        let n = shown.entry(author).or_default();
        *n += 1;
        if *n <= PROPOSALS_SHOWN_MAX {
            open.insert(proposal.id(network), proposal.clone());
        }
    }
    open.into_iter().collect()
}

/// Participants of any epoch that was ever certified.
fn participants(tree: &Tree) -> BTreeSet<Author> {
    let of = |link: &Link| link.state.electorate.members.participants.clone();
    tree.links.iter().flat_map(of).collect()
}

/// Those whom an open proposal would take in: they vote on it, too.
fn invited(open: &[(LinkId, Proposal)]) -> impl Iterator<Item = Author> + '_ {
    let new = open.iter().filter_map(|(_, proposal)| match &proposal.act {
        Act::Membership(members) => Some(&members.participants),
        _ => None,
    });
    new.flatten().copied()
}

fn witnesses(tree: &Tree) -> BTreeSet<Author> {
    let of = |link: &Link| link.state.electorate.members.witnesses.clone();
    tree.links.iter().flat_map(of).collect()
}

impl Standing {
    pub fn network(&self) -> NetworkId {
        self.network
    }

    pub fn is_halted(&self) -> bool {
        !self.causes.is_empty()
    }

    pub fn causes(&self) -> impl Iterator<Item = &Cause> {
        self.causes.iter()
    }

    /// The reasons of all that stops the mesh, for people.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        self.causes.iter().map(Cause::reason)
    }

    /// Is this halt over? For ever then, however often it is sent again.
    pub fn is_lifted(&self, id: HaltId) -> bool {
        self.lifted.contains_key(&id.0)
    }

    /// The resume that ended it, by its height and id.
    pub fn lifted_by(&self, id: HaltId) -> Option<(u64, LinkId)> {
        self.lifted.get(&id.0).copied()
    }

    /// Does a halt with this id and author stop the mesh, whether or not its record is known?
    pub fn stops(&self, id: HaltId, author: &Author) -> bool {
        self.electorate.is_active(author) && !self.is_lifted(id)
    }

    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// What was accepted at a height; `None`: nothing yet.
    pub fn accepted_at(&self, height: u64) -> Option<LinkId> {
        let at = usize::try_from(height).ok()?;
        self.path.get(at).copied()
    }

    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// How far the mesh may go by itself, after everybody's lowering.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What a raise has to name, by author.
    pub fn lowered(&self) -> &BTreeMap<Author, EntryId> {
        &self.lowered
    }

    pub fn faults(&self) -> &BTreeMap<Author, Fault> {
        &self.faults
    }

    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// The newest accepted config. What a node runs under a halt is [`super::revert::Interval`]'s.
    pub fn snapshot(&self) -> &Snapshot {
        // The genesis is always there.
        &self.snapshots[self.snapshots.len() - 1]
    }

    /// Changes that were accepted after a version, in their order. What a resume named is none.
    pub fn accepted_after(&self, version: u64) -> impl Iterator<Item = Accepted> {
        let changes = self.changes.iter().copied();
        changes.filter(move |change| change.version > version)
    }

    /// The version in which people last let the mesh go on.
    pub fn restart(&self) -> u64 {
        self.restart
    }

    pub fn min_safe(&self) -> u64 {
        self.min_safe
    }

    pub fn lease(&self) -> Option<Lease> {
        self.lease
    }

    /// The tier of a patch of today's config, if witnesses saw it now.
    pub fn tier_of(&self, patch: &Patch) -> Result<Tier, BadPatch> {
        patch_tier(patch, &self.snapshot().config, &self.lately)
    }

    pub fn admissions(&self) -> &Admissions {
        &self.admissions
    }

    pub fn open(&self) -> &[(LinkId, Proposal)] {
        &self.open
    }

    /// Equal wherever the same records are known.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    fn digest(&self) -> [u8; 32] {
        let mut out = Writer::default();
        out.raw(&self.network.0)
            .raw(&self.tip.link.0)
            .u64(self.tip.height)
            .u32(self.tip.round);
        out.u32(self.electorate.epoch);
        self.electorate.members.write(&mut out);
        out.list(self.electorate.suspended.iter())
            .u8(self.phase.code());
        out.list(self.lowered.values().map(|id| &id.0))
            .u64(self.min_safe);
        out.u32(self.causes.len() as u32);
        for cause in &self.causes {
            match cause {
                Cause::Halt { id, .. } => out.u8(1).raw(&id.0),
                Cause::Flood(author) => out.u8(2).raw(author),
                Cause::Fault(author) => out.u8(3).raw(author),
                Cause::Conflict(id) => out.u8(4).raw(id),
            };
        }
        out.u32(self.lifted.len() as u32);
        self.lifted.keys().for_each(|id| {
            out.raw(id);
        });
        out.u32(self.faults.len() as u32);
        for (author, fault) in &self.faults {
            out.raw(author);
            match fault {
                Fault::Fork { seq, a, b } => out.u8(1).u64(*seq).raw(&a.0).raw(&b.0),
                Fault::DoubleVote { a, b } => out.u8(2).raw(&a.0).raw(&b.0),
            };
        }
        let snapshot = self.snapshot();
        out.u64(snapshot.version).raw(&snapshot.config.hash());
        out.u8(u8::from(self.lease.is_some()))
            .u32(self.taken_out.len() as u32);
        if let Some(Lease { time, halted }) = self.lease {
            out.u64(time.low_s).u64(time.high_s).u8(u8::from(halted));
        }
        for target in &self.taken_out {
            match target {
                Target::Link(id) => out.u8(1).raw(&id.0),
                Target::Node(key) => out.u8(2).raw(key),
            };
        }
        hash("quorate 2026 standing", &out.0)
    }
}
