//! The feeds of all authors: which entries stand on a complete past, and who signed two pasts.

use super::checkpoint::Checkpoint;
use super::codec::Author;
use super::entry::{Ballot, Body, Choice, Entry, EntryId};
use crate::ids::NetworkId;
use std::collections::{BTreeMap, BTreeSet};

/// What proves that a key has two hands on it. Both entries are signed, so anyone can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two entries with one number; this is the earliest of the author's fork points that are known.
    Fork { seq: u64, a: EntryId, b: EntryId },
    /// Two yes votes for one place, or one that goes back.
    DoubleVote { a: EntryId, b: EntryId },
}

#[derive(Debug)]
pub(super) struct Feeds<'a> {
    entries: &'a BTreeMap<EntryId, Entry>,
    rooted: BTreeSet<EntryId>,
    pub(super) faults: BTreeMap<Author, Fault>,
}

impl<'a> Feeds<'a> {
    pub(super) fn new(network: NetworkId, entries: &'a BTreeMap<EntryId, Entry>) -> Feeds<'a> {
        let ours = || entries.values().filter(|e| e.draft().network == network);
        Feeds {
            entries,
            rooted: rooted(entries, ours()),
            faults: faults(ours()),
        }
    }

    /// Entries that count: their feed is known from its beginning, and so is all they build on.
    pub(super) fn rooted(&self) -> impl Iterator<Item = &'a Entry> + '_ {
        self.rooted.iter().filter_map(|id| self.entries.get(id))
    }

    pub(super) fn get_rooted(&self, id: &EntryId) -> Option<&'a Entry> {
        self.entries.get(id).filter(|_| self.rooted.contains(id))
    }

    /// Is `entry` in the past of one of the checkpoint's heads?
    pub(super) fn covers(&self, checkpoint: &Checkpoint, entry: &Entry) -> bool {
        let heads = &checkpoint.seen().heads;
        let author = entry.draft().author;
        let Ok(at) = heads.binary_search_by_key(&author, |head| head.author) else {
            return false;
        };
        let head = self.get_rooted(&heads[at].entry);
        head.is_some_and(|head| head.draft().author == author && self.is_past(entry, head))
    }

    /// Is `entry` the same as `head` or before it in the same feed?
    pub(super) fn is_past(&self, entry: &Entry, head: &Entry) -> bool {
        let forked = matches!(
            self.faults.get(&head.draft().author),
            Some(Fault::Fork { .. })
        );
        if !forked {
            // A feed without forks is a line: numbers alone tell.
            return entry.draft().author == head.draft().author
                && entry.draft().seq <= head.draft().seq;
        }
        let mut at = head;
        while at.draft().seq > entry.draft().seq {
            match self.entries.get(&at.draft().prev) {
                Some(before) => at = before,
                None => return false,
            }
        }
        at.id() == entry.id()
    }
}

/// Kahn's order over feeds and refs: hashes make cycles impossible.
fn rooted<'a>(
    entries: &BTreeMap<EntryId, Entry>,
    ours: impl Iterator<Item = &'a Entry>,
) -> BTreeSet<EntryId> {
    let mut waits_for: BTreeMap<EntryId, usize> = BTreeMap::new();
    let mut awaited_by: BTreeMap<EntryId, Vec<EntryId>> = BTreeMap::new();
    let mut ready = Vec::new();
    for entry in ours {
        let draft = entry.draft();
        let mut needs = draft.refs.clone();
        if draft.seq > 0 {
            let follows = entries.get(&draft.prev).is_some_and(|before| {
                let before = before.draft();
                before.author == draft.author && before.seq + 1 == draft.seq
            });
            if !follows {
                continue;
            }
            needs.push(draft.prev);
        }
        if needs.is_empty() {
            ready.push(entry.id());
        } else {
            waits_for.insert(entry.id(), needs.len());
            for need in needs {
                awaited_by.entry(need).or_default().push(entry.id());
            }
        }
    }
    let mut rooted = BTreeSet::new();
    while let Some(id) = ready.pop() {
        rooted.insert(id);
        for next in awaited_by.remove(&id).unwrap_or_default() {
            if let Some(left) = waits_for.get_mut(&next) {
                *left -= 1;
                if *left == 0 {
                    ready.push(next);
                }
            }
        }
    }
    rooted
}

/// By author, the earliest fork, else the first double vote. A proof needs no complete past.
fn faults<'a>(ours: impl Iterator<Item = &'a Entry>) -> BTreeMap<Author, Fault> {
    let mut by_place: BTreeMap<(Author, u64), Vec<&Entry>> = BTreeMap::new();
    for entry in ours {
        let place = (entry.draft().author, entry.draft().seq);
        by_place.entry(place).or_default().push(entry);
    }
    let mut faults = BTreeMap::new();
    // In order of author and number: the first fork met is the earliest.
    for ((author, seq), same) in &by_place {
        if let [a, b, ..] = &same[..] {
            let fork = Fault::Fork {
                seq: *seq,
                a: a.id(),
                b: b.id(),
            };
            faults.entry(*author).or_insert(fork);
        }
    }
    let mut votes: BTreeMap<Author, Votes> = BTreeMap::new();
    for ((author, _), same) in &by_place {
        if faults.contains_key(author) {
            continue;
        }
        let Some((entry, ballot)) = same.first().and_then(|e| Some((*e, yes(e)?))) else {
            continue;
        };
        if let Some(a) = votes
            .entry(*author)
            .or_default()
            .contradicted_by(entry.id(), ballot)
        {
            faults.insert(*author, Fault::DoubleVote { a, b: entry.id() });
        }
    }
    faults
}

pub(super) fn yes(entry: &Entry) -> Option<&Ballot> {
    match &entry.draft().body {
        Body::Vote {
            choice: Choice::Yes,
            ballot,
        } => Some(ballot),
        _ => None,
    }
}

/// The last yes of one feed.
#[derive(Default)]
struct Votes(Option<(Ballot, EntryId)>);

impl Votes {
    /// Votes only go on: to a later round of the same height, or to a greater height. The tip that
    /// an honest voter sees never sinks, so this asks nothing impossible of him.
    fn contradicted_by(&mut self, id: EntryId, new: &Ballot) -> Option<EntryId> {
        if let Some((last, entry)) = &self.0
            && last != new
            && (new.height, new.round) <= (last.height, last.round)
        {
            return Some(*entry);
        }
        self.0 = Some((*new, id));
        None
    }
}
