//! One signed step of a person, brought by anybody who says what it is: whether it is that, and what
//! came of it. The step itself decides; whoever carries it needs no right.

use super::act::{Act, LinkId, Proposal};
use super::codec::Author;
use super::entry::{Ballot, Body, Choice, Entry, EntryId};
use super::records::{Record, Records};
use super::replica::{Refusal, Replica, Taken};
use std::collections::BTreeSet;

/// What whoever brings an entry says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A proposal of anything but a resume, or a lowering of the phase.
    Proposal,
    /// A yes or a no to anything.
    Vote,
    /// A proposal to go on after a halt.
    Resume,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// On what is accepted; waits for votes, or for witnesses to have seen them.
    Open,
    Accepted,
    /// Something else was accepted in its place.
    PassedOver,
    /// Builds on something that is not accepted here, or not yet.
    Ahead,
}

/// What came of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    pub entry: EntryId,
    pub is_new: bool,
    /// `None` for a lowering, which asks nobody.
    pub about: Option<Tally>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    pub proposal: LinkId,
    pub stage: Stage,
    /// Of today's active participants.
    pub yes: usize,
    pub needed: usize,
}

/// Why an entry does nothing that its bringer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miscast {
    #[error("this entry is no {}", match .0 {
        Meant::Proposal => "proposal of a change",
        Meant::Vote => "vote",
        Meant::Resume => "proposal to resume",
    })]
    Other(Meant),
    #[error(transparent)]
    Refused(Refusal),
    #[error(
        "its author has said something before it that is not known here, and it counts only with all of that"
    )]
    Gap,
    #[error("the proposal that it votes on is not known here")]
    Unknown,
    // What follows was taken: a feed has no holes, and a proof must spread.
    #[error("taken, and it stops the mesh: this key has signed two histories")]
    Fault,
    #[error("taken, and it counts nowhere: its author does not decide here")]
    NoVoice,
    #[error("taken, and it counts nowhere: it was signed for another epoch, config or phase")]
    Elsewhere,
}

impl Meant {
    fn is(self, body: &Body) -> bool {
        match body {
            Body::Propose(proposal) => match proposal.act {
                Act::Resume { .. } => self == Meant::Resume,
                Act::Patch(_) | Act::Raise { .. } | Act::Membership(_) | Act::MinSafe(_) => {
                    self == Meant::Proposal
                }
            },
            Body::Vote { .. } => self == Meant::Vote,
            Body::Lower(_) => self == Meant::Proposal,
        }
    }
}

impl Replica {
    /// Takes one entry, and the standing with it. Twice is once. The first word says whether the
    /// entry is new here: then it is for the disk and for everybody else, whatever the second says.
    pub fn cast(&mut self, meant: Meant, entry: &Entry) -> (bool, Result<Cast, Miscast>) {
        if !meant.is(&entry.draft().body) {
            return (false, Err(Miscast::Other(meant)));
        }
        let is_new = match self.admit(entry) {
            Ok(is_new) => is_new,
            Err(why) => return (false, Err(why)),
        };
        self.refold();
        let came = self.came_of(entry).map(|about| Cast {
            entry: entry.id(),
            is_new,
            about,
        });
        (is_new, came)
    }

    fn admit(&mut self, entry: &Entry) -> Result<bool, Miscast> {
        let draft = entry.draft();
        let is_known = self.records().contains(&entry.id().0);
        if !is_known && self.may_be_kept(entry) {
            if !stands_on_all(self.records(), entry) {
                return Err(Miscast::Gap);
            }
            if let Body::Vote { ballot, .. } = &draft.body
                && self.proposed(ballot).is_none()
            {
                return Err(Miscast::Unknown);
            }
        }
        match self.insert(Record::Entry(entry.clone())) {
            Taken::New => Ok(true),
            Taken::Known => Ok(false),
            Taken::Refused(why) => Err(Miscast::Refused(why)),
        }
    }

    /// Of this mesh, and of somebody who belongs to it: else it is refused for that, first of all.
    fn may_be_kept(&self, entry: &Entry) -> bool {
        let draft = entry.draft();
        let is_ours = draft.network == self.genesis().network_id();
        is_ours && self.standing().authors.contains(&draft.author)
    }

    fn came_of(&self, entry: &Entry) -> Result<Option<Tally>, Miscast> {
        let (standing, draft) = (self.standing(), entry.draft());
        let is_active = standing.electorate().is_active(&draft.author);
        if is_active && standing.faults().contains_key(&draft.author) {
            return Err(Miscast::Fault);
        }
        let proposal = match &draft.body {
            Body::Lower(_) if self.decides(&draft.author, None) => return Ok(None),
            Body::Lower(_) => return Err(Miscast::NoVoice),
            Body::Propose(proposal) => proposal,
            Body::Vote { ballot, .. } => self.proposed(ballot).ok_or(Miscast::Unknown)?,
        };
        let tally = self.tally(proposal);
        if tally.stage != Stage::Open {
            return Ok(Some(tally));
        }
        if !self.decides(&draft.author, Some(proposal)) {
            return Err(Miscast::NoVoice);
        }
        let fits = proposal.epoch == standing.electorate().epoch
            && draft.epoch == proposal.epoch
            && proposal.config == standing.snapshot().config.hash()
            && proposal.phase <= standing.phase();
        fits.then_some(Some(tally)).ok_or(Miscast::Elsewhere)
    }

    /// May this key propose, and vote on this proposal? Those whom it would take in may vote on it.
    fn decides(&self, author: &Author, on: Option<&Proposal>) -> bool {
        let electorate = self.standing().electorate();
        let invited = on.is_some_and(|proposal| match &proposal.act {
            Act::Membership(new) => new.participants.binary_search(author).is_ok(),
            _ => false,
        });
        let burnt = electorate.suspended.contains(author);
        electorate.is_active(author) || (invited && !burnt)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.records().entries.values()
    }

    /// The proposal that a ballot names.
    pub fn proposed(&self, ballot: &Ballot) -> Option<&Proposal> {
        let network = self.genesis().network_id();
        self.entries().find_map(|entry| match &entry.draft().body {
            // Hashing comes last: it is what costs.
            Body::Propose(p) if (p.height, p.round, p.parent) == ballot.place() => {
                (p.id(network) == ballot.proposal).then_some(p)
            }
            Body::Propose(_) | Body::Vote { .. } | Body::Lower(_) => None,
        })
    }

    /// Active participants whose yes counts for a proposal.
    pub fn voters(&self, proposal: &Proposal) -> BTreeSet<Author> {
        let ballot = Ballot::of(proposal, self.genesis().network_id());
        let yes = Body::Vote {
            choice: Choice::Yes,
            ballot,
        };
        let electorate = self.standing().electorate();
        let drafts = self.entries().map(Entry::draft);
        let counted = drafts.filter(|draft| {
            draft.body == yes
                && draft.epoch == proposal.epoch
                && electorate.is_active(&draft.author)
        });
        counted.map(|draft| draft.author).collect()
    }

    pub fn tally(&self, proposal: &Proposal) -> Tally {
        let (standing, id) = (self.standing(), proposal.id(self.genesis().network_id()));
        let stage = match standing.accepted_at(proposal.height) {
            Some(link) if link == id => Stage::Accepted,
            Some(_) => Stage::PassedOver,
            None if standing.tip().link == proposal.parent => Stage::Open,
            None => Stage::Ahead,
        };
        Tally {
            proposal: id,
            stage,
            yes: self.voters(proposal).len(),
            needed: proposal.consent.threshold(standing.electorate().size()),
        }
    }
}

/// Is everything there that the entry builds on, back to the beginning of its feed?
fn stands_on_all(records: &Records, entry: &Entry) -> bool {
    let refs = |entry: &Entry| {
        let known = |id: &EntryId| records.entries.contains_key(id);
        entry.draft().refs.iter().all(known)
    };
    let mut at = entry;
    while at.draft().seq > 0 {
        if !refs(at) {
            return false;
        }
        match records.entries.get(&at.draft().prev) {
            Some(before) => at = before,
            None => return false,
        }
    }
    refs(at)
}
