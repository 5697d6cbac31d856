//! The table of who is there: members, their last adverts, and whose experts can be asked now.
//!
//! An advert counts for a quarter of an hour after its node said it, by the reader's own clock: who
//! passes it on says how old it is. The clocks of two nodes may be a day apart. Numbers only rise,
//! whoever speaks: a node whose clock was put back, and that counts from below now, hears its own old
//! words from whoever remembers them, and goes on from there.

use super::advert::{Advert, ExpertRow};
use super::sync::Heard;
use crate::governance::{Admissions, Author};
use crate::ids::{Micros, NetworkId};
use crate::limits::{ADVERT_LIFE_US, BOOK_NODES_MAX, SKEW_S_MAX, TWINS_US};
use std::collections::{BTreeMap, BTreeSet};

/// Membership is looked at again this often: admissions run out by the second, adverts do not wait.
const MEMBERS_EVERY_US: u64 = 10_000_000;

/// Adverts of one life: the numbers of a life begin at the second of its start, and so many lie
/// between two seconds.
const NUMBERS_OF_A_LIFE: u64 = 1 << 20;

/// Now, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The caller's monotonic clock.
    pub up: Micros,
    /// Seconds since 1970.
    pub unix_s: u64,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// `age_us`: since its node said it, as whoever passes it on says.
    Advert {
        age_us: u64,
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
    /// Somebody remembers words of ours with a higher number than any of this life. What is said from
    /// now on has a higher one: say it.
    Echo,
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
    #[error("nothing was heard of it for a quarter of an hour")]
    Expired,
    #[error("it is no longer a member")]
    Removed,
    #[error("two processes use its key")]
    Twins,
}

#[derive(Clone, Debug)]
struct Entry {
    advert: Advert,
    /// It counts until then.
    until: Micros,
    /// Met and not lost since.
    is_here: bool,
    /// The instance before this one, and the last number heard of it. If it speaks again, both live.
    before: Option<(u64, u64)>,
    /// Two instances spoke; until only one has for a while, nobody is asked.
    twins_until: Option<Micros>,
}

#[derive(Clone, Debug)]
pub struct Book {
    network: NetworkId,
    own: Author,
    own_instance: u64,
    /// The number of our last advert.
    own_seq: u64,
    /// The life of ours whose numbers were passed last.
    echoed: Option<u64>,
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
            own_seq: 0,
            echoed: None,
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

    /// Every advert that is not over, here or silent, and its age: also the way to where a node was.
    pub fn adverts(&self, now: Micros) -> impl Iterator<Item = (&Advert, u64)> {
        let fresh = self.entries.values().filter(move |e| !e.is_over(now));
        let told = fresh.filter(|entry| !entry.advert.leaves);
        told.map(move |e| (&e.advert, ADVERT_LIFE_US - e.until.since(now)))
    }

    /// Up to which number every node was heard, this one too: only what is newer is news.
    pub fn heard(&self) -> Vec<Heard> {
        let others = self
            .entries
            .values()
            .map(|e| Heard::of(&e.advert.node, e.advert.seq));
        let own = (self.own_seq > 0).then(|| Heard::of(&self.own, self.own_seq));
        others.chain(own).collect()
    }

    /// The number of this node's next advert: above what any earlier life of it has said, if its clock
    /// did not go back.
    pub fn number(&mut self, unix_s: u64) -> u64 {
        self.own_seq = match self.own_seq {
            0 => unix_s.saturating_mul(NUMBERS_OF_A_LIFE),
            last => last.saturating_add(1),
        };
        self.own_seq
    }

    pub fn advert_of(&self, node: &Author) -> Option<&Advert> {
        self.entries.get(node).map(|entry| &entry.advert)
    }

    /// It was here, and does not answer; what it said last is not over.
    pub fn is_silent(&self, node: &Author, now: Micros) -> bool {
        let entry = self.entries.get(node);
        entry.is_some_and(|e| !e.is_here && !e.is_over(now) && !e.advert.leaves)
    }

    /// The experts that can be asked now, and where they live.
    pub fn experts(&self) -> impl Iterator<Item = (&Advert, &ExpertRow)> {
        self.here()
            .flat_map(|advert| advert.experts.iter().map(move |row| (advert, row)))
    }

    pub fn handle(&mut self, now: Moment, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Advert { age_us, advert } => match self.hear(now, age_us, *advert, out) {
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
        age_us: u64,
        advert: Advert,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let node = advert.node;
        if advert.network != self.network {
            return Err(Refusal::OtherMesh);
        }
        if node == self.own {
            self.hear_own(now, &advert, out);
            return Err(Refusal::Own);
        }
        if !self.is_member(&node) {
            return Err(Refusal::Stranger);
        }
        if !is_timely(&advert, now) {
            return Err(Refusal::Clock);
        }
        let left_us = ADVERT_LIFE_US.saturating_sub(age_us);
        if left_us == 0 {
            return Err(Refusal::Stale);
        }
        let until = Micros(now.up.0.saturating_add(left_us));
        match self.entries.remove(&node) {
            None => {
                self.make_room(now.up)?;
                let entry = Entry {
                    advert,
                    until,
                    is_here: false,
                    before: None,
                    twins_until: None,
                };
                self.entries.insert(node, entry);
            }
            Some(old) => {
                let heard = renewed(&old, now.up, until, advert);
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

    /// Our own words come back through others. A number above ours is that of an earlier life, whose
    /// clock was ahead; if that life goes on above what was said since, it is a twin.
    fn hear_own(&mut self, now: Moment, advert: &Advert, out: &mut Vec<Output>) {
        let is_other = advert.instance != self.own_instance && is_timely(advert, now);
        if !is_other || advert.seq <= self.own_seq {
            return;
        }
        self.own_seq = advert.seq.saturating_add(NUMBERS_OF_A_LIFE);
        out.push(Output::Echo);
        if self.echoed.replace(advert.instance) == Some(advert.instance) {
            out.push(Output::Twins(advert.node));
        }
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
        let is_over = entry.is_over(now) || entry.advert.leaves;
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
            .filter(|(_, e)| !e.is_here && e.is_over(now));
        let oldest = over.min_by_key(|(_, e)| e.until).map(|(node, _)| *node);
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
            if entry.is_over(now.up) {
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

impl Entry {
    fn is_over(&self, now: Micros) -> bool {
        self.until < now
    }
}

fn is_timely(advert: &Advert, now: Moment) -> bool {
    advert.issued_s.abs_diff(now.unix_s) <= SKEW_S_MAX
}

/// The entry after a further advert of the same node; None if it says nothing new.
fn renewed(old: &Entry, now: Micros, until: Micros, advert: Advert) -> Option<Entry> {
    let same_instance = advert.instance == old.advert.instance;
    if advert.seq <= old.advert.seq {
        return None;
    }
    let spoke_before = |(instance, seq)| instance == advert.instance && advert.seq > seq;
    let twins_until = match old.before.is_some_and(spoke_before) {
        true => Some(Micros(now.0 + TWINS_US)),
        false => old.twins_until,
    };
    let before = match same_instance {
        true => old.before,
        false => Some((old.advert.instance, old.advert.seq)),
    };
    let same_place = advert.addresses == old.advert.addresses && advert.plane == old.advert.plane;
    let same = same_place && same_instance && advert.experts == old.advert.experts;
    Some(Entry {
        until,
        // What has changed is met again.
        is_here: old.is_here && (same || advert.leaves || twins_until.is_some()),
        before,
        twins_until,
        advert,
    })
}
