//! The table of who is there: members, their last adverts, and whose experts can be asked now.
//!
//! An advert counts for a minute after it was heard, by the reader's own clock; the clocks of two
//! nodes may be a day apart. What a node says of itself over its own connection is fresh whatever
//! its numbers; what others pass on must be newer than what is known.

use super::advert::{Advert, ExpertRow};
use crate::governance::{Admissions, Author};
use crate::ids::{Micros, NetworkId};
use crate::limits::{ADVERT_LIFE_US, BOOK_NODES_MAX, SKEW_S_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Membership is looked at again this often: admissions run out by the second, adverts do not wait.
const MEMBERS_EVERY_US: u64 = 10_000_000;

/// Now, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The caller's monotonic clock.
    pub up: Micros,
    /// Seconds since 1970.
    pub unix_s: u64,
}

/// Whence an advert came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Over a connection that proved this key.
    Peer(Author),
    /// By gossip: nobody knows how old it is.
    Gossip,
}

#[derive(Clone, Debug)]
pub enum Input {
    Advert {
        from: Source,
        advert: Box<Advert>,
    },
    /// A connection to this node stands.
    Linked(Author),
    /// It does not answer any more, or its connections broke.
    Silent(Author),
    /// The records say this now.
    Members(Admissions),
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It is news, and may be passed on.
    Passed,
    Refused(Refusal),
    /// Its experts can be asked; again whenever what it serves or where it is has changed.
    Met(Box<Advert>),
    /// They cannot any more.
    Lost {
        node: Author,
        why: Gone,
    },
    /// Two processes live under one key. If it is ours, one of the two must stop.
    Twins(Author),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("it belongs to another mesh")]
    OtherMesh,
    #[error("its author is no member")]
    Stranger,
    #[error("its author's clock is more than a day off")]
    Clock,
    #[error("something newer is known")]
    Stale,
    #[error("it is our own")]
    Own,
    #[error("the book is full")]
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Gone {
    #[error("it said that it leaves")]
    Left,
    #[error("it does not answer")]
    Silent,
    #[error("nothing was heard of it for a minute")]
    Expired,
    #[error("it is no longer a member")]
    Removed,
    #[error("two processes use its key")]
    Twins,
}

#[derive(Clone, Debug)]
struct Entry {
    advert: Advert,
    heard: Micros,
    /// Met and not lost since.
    is_here: bool,
    /// The instance before this one, and the last number heard of it. If it speaks again, both live.
    before: Option<(u64, u64)>,
    /// Two instances spoke; until only one has for an advert's life, nobody is asked.
    twins_until: Option<Micros>,
}

#[derive(Clone, Debug)]
pub struct Book {
    network: NetworkId,
    own: Author,
    own_instance: u64,
    admissions: Admissions,
    members: BTreeSet<Author>,
    members_at: Micros,
    entries: BTreeMap<Author, Entry>,
}

impl Book {
    pub fn new(network: NetworkId, own: Author, own_instance: u64) -> Book {
        Book {
            network,
            own,
            own_instance,
            admissions: Admissions::default(),
            members: BTreeSet::new(),
            members_at: Micros(0),
            entries: BTreeMap::new(),
        }
    }

    pub fn is_member(&self, node: &Author) -> bool {
        self.members.contains(node)
    }

    pub fn members(&self) -> impl Iterator<Item = &Author> {
        self.members.iter()
    }

    /// The last advert of every node that is here.
    pub fn here(&self) -> impl Iterator<Item = &Advert> {
        let here = self.entries.values().filter(|entry| entry.is_here);
        here.map(|entry| &entry.advert)
    }

    /// Every advert that is not over, here or silent: also the way to where a node was.
    pub fn adverts(&self, now: Micros) -> impl Iterator<Item = &Advert> {
        let fresh = move |entry: &&Entry| now.since(entry.heard) <= ADVERT_LIFE_US;
        let all = self.entries.values().filter(fresh);
        all.map(|entry| &entry.advert).filter(|a| !a.leaves)
    }

    pub fn advert_of(&self, node: &Author) -> Option<&Advert> {
        self.entries.get(node).map(|entry| &entry.advert)
    }

    /// The experts that can be asked now, and where they live.
    pub fn experts(&self) -> impl Iterator<Item = (&Advert, &ExpertRow)> {
        self.here()
            .flat_map(|advert| advert.experts.iter().map(move |row| (advert, row)))
    }

    pub fn handle(&mut self, now: Moment, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Advert { from, advert } => match self.hear(now, from, *advert, out) {
                Ok(()) => out.push(Output::Passed),
                Err(refusal) => out.push(Output::Refused(refusal)),
            },
            Input::Linked(node) => self.revive(now.up, &node, out),
            Input::Silent(node) => self.lose(&node, Gone::Silent, out),
            Input::Members(admissions) => {
                self.admissions = admissions;
                self.count_members(now, out);
            }
            Input::Tick => self.tick(now, out),
        }
    }

    fn hear(
        &mut self,
        now: Moment,
        from: Source,
        advert: Advert,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let node = advert.node;
        if advert.network != self.network {
            return Err(Refusal::OtherMesh);
        }
        if node == self.own {
            // Our own words come back through others; words that we never said are a twin's.
            if advert.instance != self.own_instance && is_timely(&advert, now) {
                out.push(Output::Twins(node));
            }
            return Err(Refusal::Own);
        }
        if !self.is_member(&node) {
            return Err(Refusal::Stranger);
        }
        if !is_timely(&advert, now) {
            return Err(Refusal::Clock);
        }
        match self.entries.remove(&node) {
            None => {
                self.make_room(now.up)?;
                let entry = Entry {
                    advert,
                    heard: now.up,
                    is_here: false,
                    before: None,
                    twins_until: None,
                };
                self.entries.insert(node, entry);
            }
            Some(old) => {
                let heard = renewed(&old, now.up, from, advert);
                let refused = heard.is_none();
                self.entries.insert(node, heard.unwrap_or(old));
                if refused {
                    return Err(Refusal::Stale);
                }
            }
        }
        self.settle(now.up, &node, out);
        Ok(())
    }

    /// After something was heard of a node: is it here, is it gone, are there two?
    fn settle(&mut self, now: Micros, node: &Author, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get(node) else {
            return;
        };
        let (leaves, is_twin) = (entry.advert.leaves, entry.twins_until.is_some());
        if leaves {
            self.lose(node, Gone::Left, out);
        } else if is_twin {
            out.push(Output::Twins(*node));
            self.lose(node, Gone::Twins, out);
        } else {
            self.revive(now, node, out);
        }
    }

    fn revive(&mut self, now: Micros, node: &Author, out: &mut Vec<Output>) {
        let is_member = self.members.contains(node);
        let Some(entry) = self.entries.get_mut(node) else {
            return;
        };
        let is_over = now.since(entry.heard) > ADVERT_LIFE_US || entry.advert.leaves;
        if !entry.is_here && is_member && !is_over && entry.twins_until.is_none() {
            entry.is_here = true;
            out.push(Output::Met(Box::new(entry.advert.clone())));
        }
    }

    fn lose(&mut self, node: &Author, why: Gone, out: &mut Vec<Output>) {
        if let Some(entry) = self.entries.get_mut(node)
            && std::mem::take(&mut entry.is_here)
        {
            out.push(Output::Lost { node: *node, why });
        }
    }

    /// What is over makes room, the longest first: only its numbers were still of use.
    fn make_room(&mut self, now: Micros) -> Result<(), Refusal> {
        if self.entries.len() < BOOK_NODES_MAX {
            return Ok(());
        }
        let over = self
            .entries
            .iter()
            .filter(|(_, e)| !e.is_here && now.since(e.heard) > ADVERT_LIFE_US);
        let oldest = over.min_by_key(|(_, e)| e.heard).map(|(node, _)| *node);
        let oldest = oldest.ok_or(Refusal::Full)?;
        self.entries.remove(&oldest);
        Ok(())
    }

    fn tick(&mut self, now: Moment, out: &mut Vec<Output>) {
        if now.up.since(self.members_at) >= MEMBERS_EVERY_US {
            self.count_members(now, out);
        }
        let mut over = Vec::new();
        let mut alone = Vec::new();
        for (node, entry) in &mut self.entries {
            if now.up.since(entry.heard) > ADVERT_LIFE_US {
                over.push(*node);
            }
            if entry.twins_until.is_some_and(|until| until < now.up) {
                entry.twins_until = None;
                alone.push(*node);
            }
        }
        for node in over {
            self.lose(&node, Gone::Expired, out);
        }
        for node in alone {
            self.revive(now.up, &node, out);
        }
    }

    fn count_members(&mut self, now: Moment, out: &mut Vec<Output>) {
        self.members = self.admissions.admitted(now.unix_s);
        self.members_at = now.up;
        let known = self.entries.keys().copied();
        let removed: Vec<Author> = known.filter(|node| !self.members.contains(node)).collect();
        for node in removed {
            self.lose(&node, Gone::Removed, out);
            self.entries.remove(&node);
        }
    }
}

fn is_timely(advert: &Advert, now: Moment) -> bool {
    advert.issued_s.abs_diff(now.unix_s) <= SKEW_S_MAX
}

/// The entry after a further advert of the same node; None if it says nothing new.
fn renewed(old: &Entry, now: Micros, from: Source, advert: Advert) -> Option<Entry> {
    let is_own_word = from == Source::Peer(advert.node);
    let same_instance = advert.instance == old.advert.instance;
    let is_newer = match same_instance {
        true => advert.seq > old.advert.seq,
        // A restarted node may have lost its count, if its clock went back; then it is believed when
        // it says so itself.
        false => advert.seq > old.advert.seq || is_own_word,
    };
    if !is_newer {
        return None;
    }
    let spoke_before = |(instance, seq)| instance == advert.instance && advert.seq > seq;
    let twins_until = match old.before.is_some_and(spoke_before) {
        true => Some(Micros(now.0 + ADVERT_LIFE_US)),
        false => old.twins_until,
    };
    let before = match same_instance {
        true => old.before,
        false => Some((old.advert.instance, old.advert.seq)),
    };
    let same_place = advert.addresses == old.advert.addresses && advert.plane == old.advert.plane;
    let same = same_place && same_instance && advert.experts == old.advert.experts;
    Some(Entry {
        heard: now,
        // What has changed is met again.
        is_here: old.is_here && (same || advert.leaves || twins_until.is_some()),
        before,
        twins_until,
        advert,
    })
}
