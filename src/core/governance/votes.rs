//! Thresholds, and when votes make a certificate.

use super::act::{Act, Proposal};
use super::checkpoint::{Checkpoint, Time};
use super::codec::{Author, Malformed};
use super::entry::Entry;
use super::feed::Feeds;
use super::membership::Electorate;
use crate::limits::REVIEW_S;
use std::collections::{BTreeMap, BTreeSet};

/// How much agreement a change needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    Minor = 1,
    Major,
    Membership,
    Resume,
}

impl Consent {
    pub(super) fn code(self) -> u8 {
        self as u8
    }

    pub(super) fn from_code(code: u8) -> Result<Consent, Malformed> {
        match code {
            1 => Ok(Consent::Minor),
            2 => Ok(Consent::Major),
            3 => Ok(Consent::Membership),
            4 => Ok(Consent::Resume),
            _ => Err(Malformed::Range("the consent")),
        }
    }

    /// Of `n` participants. Always more than half: any two certificates share a voter.
    pub fn threshold(self, n: usize) -> usize {
        match self {
            Consent::Minor => n / 2 + 1,
            Consent::Major | Consent::Membership => (2 * n).div_ceil(3),
            Consent::Resume => n.min((n / 2 + 1).max(2)),
        }
    }
}

/// The votes that made a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) voters: BTreeSet<Author>,
    pub(super) needed: usize,
    /// When witnesses had first seen enough votes, at the latest.
    pub(super) sealed_s: Option<u64>,
}

/// What certificates are made of.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) feeds: &'a Feeds<'a>,
    /// Checkpoints of the electorate's epoch that enough of its witnesses signed.
    pub(super) checkpoints: Vec<(&'a Checkpoint, Time)>,
}

/// Everything said about one proposal.
#[derive(Debug, Default)]
pub(super) struct Said<'a> {
    /// Entries that propose it.
    pub(super) proposing: Vec<&'a Entry>,
    /// Yes votes with its exact ballot. One author may have several; he counts once.
    pub(super) yes: BTreeMap<Author, Vec<&'a Entry>>,
}

impl Evidence<'_> {
    /// Times of checkpoints that have seen one of these entries.
    fn times_of<'b>(&'b self, entries: &'b [&Entry]) -> impl Iterator<Item = Time> + 'b {
        let seen = |c: &Checkpoint| entries.iter().any(|e| self.feeds.covers(c, e));
        self.checkpoints
            .iter()
            .filter(move |(c, _)| seen(c))
            .map(|(_, time)| *time)
    }

    /// The latest time at which witnesses, who had seen the proposal, still spoke.
    pub(super) fn latest_s(&self, said: &Said) -> Option<u64> {
        self.times_of(&said.proposing).map(|time| time.low_s).max()
    }

    /// Seconds from the first checkpoint that saw the proposal to the last: neither the proposer's
    /// clock nor this node's is asked.
    fn reviewed_s(&self, said: &Said) -> u64 {
        let first = self.times_of(&said.proposing).map(|time| time.high_s).min();
        let (Some(first), Some(last)) = (first, self.latest_s(said)) else {
            return 0;
        };
        last.saturating_sub(first)
    }

    /// The first checkpoint that had seen `needed` of the votes.
    fn sealed_s(&self, said: &Said, voters: &BTreeSet<Author>, needed: usize) -> Option<u64> {
        let votes = |c: &Checkpoint| {
            let seen = |author: &&Author| {
                let entries = said.yes.get(*author).into_iter().flatten();
                entries.into_iter().any(|entry| self.feeds.covers(c, entry))
            };
            voters.iter().filter(seen).count()
        };
        let full = self.checkpoints.iter().filter(|(c, _)| votes(c) >= needed);
        full.map(|(_, time)| time.high_s).min()
    }

    /// More records never take a certificate back.
    pub(super) fn certify(
        &self,
        electorate: &Electorate,
        proposal: &Proposal,
        said: &Said,
    ) -> Option<Certificate> {
        let burnt: &[Author] = match &proposal.act {
            Act::Resume { suspends, .. } => suspends,
            _ => &[],
        };
        let yes = || said.yes.keys().copied();
        let voters: BTreeSet<Author> = yes()
            .filter(|a| electorate.is_active(a) && !burnt.contains(a))
            .collect();
        let needed = proposal.consent.threshold(electorate.size());
        if voters.len() < needed {
            return None;
        }
        if let Act::Membership(new) = &proposal.act {
            let among_new = yes().filter(|a| {
                new.participants.binary_search(a).is_ok() && !electorate.suspended.contains(a)
            });
            if among_new.count() < Consent::Membership.threshold(new.participants.len()) {
                return None;
            }
        }
        let sealed_s = self.sealed_s(said, &voters, needed);
        let is_change = matches!(
            proposal.act,
            Act::Patch(_) | Act::Raise { .. } | Act::MinSafe(_)
        );
        // Resume and Membership must work with no witness left: they are bound by their parent alone.
        if is_change && electorate.has_witnesses() && sealed_s.is_none_or(|s| s > proposal.expiry) {
            return None;
        }
        if proposal.consent == Consent::Major && self.reviewed_s(said) < REVIEW_S {
            return None;
        }
        Some(Certificate {
            voters,
            needed,
            sealed_s,
        })
    }
}
