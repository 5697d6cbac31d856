//! What a witness says, and when: every minute what it has seen. It decides nothing and makes no
//! signature here. The first to speak begins a checkpoint alone; others who have seen the same add
//! their word, until there are enough.

use super::checkpoint::{Checkpoint, Cosignature, Head, SEEN_HEADS_MAX, Seen};
use super::codec::Author;
use super::entry::EntryId;
use super::feed::Feeds;
use super::replica::Replica;
use crate::limits::{CHECKPOINT_EVERY_S, CLOCK_SKEW_S_MAX};
use std::collections::BTreeMap;

/// What a witness should sign now, with the time on its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub seen: Seen,
    /// What others have said to the same.
    pub with: Vec<Cosignature>,
}

/// `None`: this key is no witness, or has nothing to say yet.
pub fn due(replica: &Replica, me: &Author, now_s: u64) -> Option<Due> {
    let electorate = replica.standing().electorate();
    electorate.members.witnesses.binary_search(me).ok()?;
    let seen = seen(replica);
    let is_fresh = |time_s: u64| time_s.abs_diff(now_s) < CHECKPOINT_EVERY_S;
    let alike = || replica.checkpoints().filter(|c| *c.seen() == seen);
    let complete = || alike().filter_map(|c| c.time(electorate));
    if complete().any(|time| is_fresh(time.low_s)) {
        return None;
    }
    let of_me = |c: &Checkpoint| c.cosignatures().iter().find(|c| c.witness == *me).copied();
    let is_young = |c: &Cosignature| c.time_s.abs_diff(now_s) <= CLOCK_SKEW_S_MAX;
    // Some word after the last complete one: what is older was finished by others.
    let last_s = complete().map(|time| time.high_s).max().unwrap_or(0);
    let is_open = |c: &&Checkpoint| {
        let said = c.cosignatures();
        c.time(electorate).is_none()
            && said.iter().all(is_young)
            && said.iter().any(|c| c.time_s > last_s)
    };
    let open = || alike().filter(is_open);
    let of_others = open().filter(|c| of_me(c).is_none());
    let fullest = of_others.max_by_key(|c| (c.cosignatures().len(), c.id()));
    if let Some(begun) = fullest {
        let with = begun.cosignatures().to_vec();
        let is_said = |c: &Checkpoint| with.iter().all(|word| c.cosignatures().contains(word));
        // Once is enough: this one may have been extended by this witness already.
        if !alike().any(|c| of_me(c).is_some() && is_said(c)) {
            return Some(Due { seen, with });
        }
    }
    let waits = open().filter_map(of_me).any(|mine| is_fresh(mine.time_s));
    let with = Vec::new();
    (!waits).then_some(Due { seen, with })
}

/// The last entry of every feed that counts, and whether the mesh stands still.
fn seen(replica: &Replica) -> Seen {
    let standing = replica.standing();
    let network = replica.genesis().network_id();
    let feeds = Feeds::new(network, &replica.records().entries);
    let mut last: BTreeMap<Author, (u64, EntryId)> = BTreeMap::new();
    for entry in feeds.rooted() {
        let draft = entry.draft();
        if standing.authors.contains(&draft.author) {
            let head = last.entry(draft.author).or_insert((draft.seq, entry.id()));
            *head = (*head).max((draft.seq, entry.id()));
        }
    }
    let head = |(author, (seq, entry))| Head { author, seq, entry };
    Seen {
        network,
        epoch: standing.electorate().epoch,
        halted: standing.is_halted(),
        heads: last.into_iter().map(head).take(SEEN_HEADS_MAX).collect(),
    }
}
