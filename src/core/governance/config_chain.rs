//! The chain of certified acts: which exist, which one counts, and the config at each of its links.

use super::act::{Act, LinkId, Origin, Proposal};
use super::checkpoint::{Checkpoint, CheckpointId};
use super::codec::Author;
use super::entry::{Ballot, Body, Entry, EntryId};
use super::feed::{Feeds, yes};
use super::genesis::Genesis;
use super::membership::Electorate;
use super::phase::Phase;
use super::tier::{Lately, Tier, patch_tier};
use super::votes::{Certificate, Consent, Evidence, Said};
use crate::config::MeshConfig;
use crate::ids::NetworkId;
use crate::limits::SALAMI_WINDOW_S;
use std::collections::{BTreeMap, BTreeSet};

/// What the acts up to a link amount to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) electorate: Electorate,
    pub(super) config: MeshConfig,
    /// Counts changes of the config.
    pub(super) version: u64,
    pub(super) min_safe: u64,
    pub(super) phase: Phase,
    /// For each author, up to which entry his lowerings of the phase were lifted.
    pub(super) lowered: BTreeMap<Author, u64>,
}

/// A certified act, in the tree of all that are certified.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) height: u64,
    pub(super) round: u32,
    pub(super) parent: Option<usize>,
    pub(super) act: Option<Act>,
    /// Under what consent it was accepted, and whose idea it was.
    pub(super) by: Option<(Consent, Origin)>,
    pub(super) state: State,
    /// `None` for the genesis.
    pub(super) certificate: Option<Certificate>,
}

#[derive(Debug)]
pub(super) struct Tree<'a> {
    genesis: &'a Genesis,
    feeds: &'a Feeds<'a>,
    /// In an order in which parents come first.
    pub(super) links: Vec<Link>,
}

/// Proposals by parent, with what was said about each.
type Proposals<'a> = BTreeMap<LinkId, BTreeMap<LinkId, (&'a Proposal, Said<'a>)>>;

fn proposals<'a>(feeds: &Feeds<'a>, network: NetworkId) -> Proposals<'a> {
    let mut all: Proposals<'a> = BTreeMap::new();
    for entry in feeds.rooted() {
        if let Body::Propose(proposal) = &entry.draft().body {
            let same_parent = all.entry(proposal.parent).or_default();
            let new = || (proposal, Said::default());
            let (_, said) = same_parent.entry(proposal.id(network)).or_insert_with(new);
            said.proposing.push(entry);
        }
    }
    for entry in feeds.rooted() {
        let Some(ballot) = yes(entry) else { continue };
        let proposed = all
            .get_mut(&ballot.parent)
            .and_then(|p| p.get_mut(&ballot.proposal));
        if let Some((proposal, said)) = proposed
            && entry.draft().epoch == proposal.epoch
            && *ballot == Ballot::of(proposal, network)
        {
            said.yes
                .entry(entry.draft().author)
                .or_default()
                .push(entry);
        }
    }
    all
}

impl<'a> Tree<'a> {
    pub(super) fn grow(
        genesis: &'a Genesis,
        feeds: &'a Feeds<'a>,
        checkpoints: &'a BTreeMap<CheckpointId, Checkpoint>,
    ) -> Tree<'a> {
        let network = genesis.network_id();
        let mut tree = Tree {
            genesis,
            feeds,
            links: vec![root(genesis)],
        };
        let proposals = proposals(feeds, network);
        let ours = || checkpoints.values().filter(|c| c.seen().network == network);
        let mut at = 0;
        while at < tree.links.len() {
            let electorate = tree.links[at].state.electorate.clone();
            let timed = |c: &'a Checkpoint| Some((c, c.time(&electorate)?));
            let evidence = Evidence {
                feeds,
                checkpoints: ours().filter_map(timed).collect(),
            };
            for (id, (proposal, said)) in proposals.get(&tree.links[at].id).into_iter().flatten() {
                let by_member = |e: &&Entry| electorate.is_active(&e.draft().author);
                if !said.proposing.iter().any(by_member) {
                    continue;
                }
                let fits = || tree.step(at, proposal, evidence.latest_s(said));
                let certificate = evidence.certify(&electorate, proposal, said);
                if let Some(certificate) = certificate
                    && let Some(state) = fits()
                {
                    tree.links.push(Link {
                        id: *id,
                        height: proposal.height,
                        round: proposal.round,
                        parent: Some(at),
                        act: Some(proposal.act.clone()),
                        by: Some((proposal.consent, proposal.origin)),
                        state,
                        certificate: Some(certificate),
                    });
                }
            }
            at += 1;
        }
        tree
    }

    /// The links from the genesis to the tip. Of several certified children the one with the longest
    /// line of certified acts counts, so that a late vote never rewrites what others have built on;
    /// then the latest round, which its voters chose knowing of the others; then the smaller id.
    pub(super) fn path(&self) -> Vec<usize> {
        let mut depth = vec![0_u64; self.links.len()];
        for at in (1..self.links.len()).rev() {
            if let Some(parent) = self.links[at].parent {
                depth[parent] = depth[parent].max(depth[at] + 1);
            }
        }
        let mut best: Vec<Option<usize>> = vec![None; self.links.len()];
        let rank = |at: usize| {
            (
                depth[at],
                self.links[at].round,
                std::cmp::Reverse(self.links[at].id),
            )
        };
        for at in 1..self.links.len() {
            if let Some(parent) = self.links[at].parent
                && best[parent].is_none_or(|other| rank(other) < rank(at))
            {
                best[parent] = Some(at);
            }
        }
        let mut path = vec![0];
        let mut at = 0;
        while let Some(next) = best[at] {
            path.push(next);
            at = next;
        }
        path
    }

    /// Links from this one back to the genesis.
    fn back_from(&self, at: usize) -> impl Iterator<Item = &Link> {
        let first = Some(&self.links[at]);
        std::iter::successors(first, |link| link.parent.map(|parent| &self.links[parent]))
    }

    /// The state after a proposal on this link; `None` if it does not fit there.
    fn step(&self, at: usize, proposal: &Proposal, latest_s: Option<u64>) -> Option<State> {
        let link = &self.links[at];
        let state = &link.state;
        let in_place = proposal.height == link.height + 1
            && proposal.epoch == state.electorate.epoch
            && proposal.config == state.config.hash()
            && proposal.phase <= state.phase;
        if !in_place {
            return None;
        }
        let mut next = state.clone();
        let fits = match &proposal.act {
            Act::Patch(patch) => {
                let lately = self.lately(at, latest_s);
                let tier = patch_tier(patch, &state.config, &lately).ok()?;
                next.config = state.config.apply(patch).ok()?;
                next.version += 1;
                allows(proposal, tier)
            }
            Act::Raise {
                to,
                criteria,
                lifts,
                ..
            } => {
                next.lowered = self.lifted(state, proposal.phase, lifts)?;
                next.phase = *to;
                self.may_raise(state, *to)
                    && proposal.phase.next() == Some(*to)
                    && self.genesis.criteria_hash(*to) == Some(*criteria)
                    && proposal.consent == Consent::Membership
            }
            Act::Membership(members) => {
                let terms = self.genesis.terms();
                members.check(terms.preset, &terms.nodes).ok()?;
                next.electorate.members = members.clone();
                next.electorate.epoch += 1;
                let burnt = |key| state.electorate.suspended.contains(key);
                !members.participants.iter().any(burnt) && proposal.consent == Consent::Membership
            }
            Act::Resume {
                restart, suspends, ..
            } => {
                next.config = self.restart(at, restart)?;
                next.version += 1;
                suspend(&mut next.electorate, suspends) && proposal.consent == Consent::Resume
            }
            Act::MinSafe(version) => {
                next.min_safe = *version;
                (state.min_safe..=state.version).contains(version)
                    && proposal.consent == Consent::Major
            }
        };
        // Only patches come from streams: the mesh has no say in who decides.
        let from_people =
            proposal.origin == Origin::People || matches!(proposal.act, Act::Patch(_));
        (fits && from_people).then_some(next)
    }

    fn may_raise(&self, state: &State, to: Phase) -> bool {
        let electorate = &state.electorate;
        let highest = Phase::highest(electorate.size(), electorate.members.witnesses.len());
        to <= highest && to <= self.genesis.terms().preset.row().phase_max
    }

    /// The watermarks after a raise that knows of these lowerings, if it starts no higher than they
    /// allow.
    fn lifted(
        &self,
        state: &State,
        from: Phase,
        lifts: &[EntryId],
    ) -> Option<BTreeMap<Author, u64>> {
        let mut marks = state.lowered.clone();
        for id in lifts {
            let head = self.feeds.get_rooted(id)?;
            let author = head.draft().author;
            let before = state.lowered.get(&author).copied();
            let new = |seq: u64| before.is_none_or(|mark| seq > mark);
            for entry in self.feeds.rooted().filter(|e| e.draft().author == author) {
                if let Body::Lower(to) = entry.draft().body
                    && new(entry.draft().seq)
                    && self.feeds.is_past(entry, head)
                    && from > to
                {
                    return None;
                }
            }
            let mark = marks.entry(author).or_insert(0);
            *mark = (*mark).max(head.draft().seq);
        }
        Some(marks)
    }

    /// A config that this chain had, and that is not known to be unsafe.
    fn restart(&self, at: usize, hash: &[u8; 32]) -> Option<MeshConfig> {
        let floor = self.links[at].state.min_safe;
        let mut had = self.back_from(at).map(|link| &link.state);
        had.find(|s| s.version >= floor && s.config.hash() == *hash)
            .map(|s| s.config.clone())
    }

    /// Values that keys had in the last 24 hours before `latest_s`. What no witness can date counts
    /// as recent.
    pub(super) fn lately(&self, at: usize, latest_s: Option<u64>) -> Lately {
        let mut lately = Lately::new();
        for link in self.back_from(at) {
            let Some(parent) = link.parent.map(|parent| &self.links[parent]) else {
                break;
            };
            let sealed = link.certificate.as_ref().and_then(|c| c.sealed_s);
            let is_old = |sealed: u64, now: u64| now.saturating_sub(sealed) >= SALAMI_WINDOW_S;
            if sealed
                .zip(latest_s)
                .is_some_and(|(sealed, now)| is_old(sealed, now))
            {
                break;
            }
            for row in crate::config::SCHEMA {
                let old = parent.state.config.get(row.key);
                if old != link.state.config.get(row.key) {
                    lately.entry(row.key).or_default().insert(old);
                }
            }
        }
        lately
    }

    /// Certified acts beside the path that today's members still stand for, by parent: names of
    /// conflicts that stop the mesh until people have chosen.
    pub(super) fn conflicts(&self, path: &[usize]) -> BTreeSet<[u8; 32]> {
        let Some(tip) = path.last().map(|at| &self.links[*at].state.electorate) else {
            return BTreeSet::new();
        };
        let stands = |certificate: &Certificate| {
            certificate
                .voters
                .iter()
                .filter(|a| tip.is_active(a))
                .count()
                >= certificate.needed
        };
        let mut by_parent: BTreeMap<usize, BTreeSet<LinkId>> = BTreeMap::new();
        for (at, link) in self.links.iter().enumerate() {
            let (Some(parent), Some(certificate)) = (link.parent, &link.certificate) else {
                continue;
            };
            if path.contains(&parent) && (path.contains(&at) || stands(certificate)) {
                by_parent.entry(parent).or_default().insert(link.id);
            }
        }
        let rivals = by_parent
            .into_iter()
            .filter(|(_, children)| children.len() > 1);
        rivals
            .map(|(parent, children)| conflict_id(self.links[parent].id, &children))
            .collect()
    }
}

fn conflict_id(parent: LinkId, children: &BTreeSet<LinkId>) -> [u8; 32] {
    let mut out = super::codec::Writer::default();
    out.raw(&parent.0).list(children.iter().map(|id| &id.0));
    super::codec::hash("quorate 2026 conflict", &out.0)
}

fn root(genesis: &Genesis) -> Link {
    let terms = genesis.terms();
    let members = terms.members.clone();
    let electorate = Electorate {
        epoch: 0,
        members,
        suspended: BTreeSet::new(),
    };
    Link {
        id: LinkId(genesis.network_id().0),
        height: 0,
        round: 0,
        parent: None,
        act: None,
        by: None,
        state: State {
            electorate,
            config: terms.config.clone(),
            version: 0,
            min_safe: 0,
            phase: terms.phase,
            lowered: BTreeMap::new(),
        },
        certificate: None,
    }
}

/// Is the claimed consent at least what the patch needs, and may its origin bring it in this phase?
fn allows(proposal: &Proposal, tier: Tier) -> bool {
    let enough = match proposal.consent {
        Consent::Minor => tier <= Tier::DeployMinor,
        Consent::Major => true,
        Consent::Membership | Consent::Resume => false,
    };
    let tier = if proposal.consent == Consent::Major {
        Tier::DeployMajor
    } else {
        tier
    };
    enough && (proposal.origin == Origin::People || proposal.phase >= Phase::needed_for(tier))
}

/// Takes keys out. Refused when too few would be left to change the members.
fn suspend(electorate: &mut Electorate, keys: &[Author]) -> bool {
    if !keys.iter().all(|key| electorate.is_active(key)) {
        return false;
    }
    if !keys.is_empty() {
        electorate.suspended.extend(keys);
        electorate.epoch += 1;
    }
    electorate.active() >= Consent::Membership.threshold(electorate.size())
}
