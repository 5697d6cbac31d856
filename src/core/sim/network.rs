//! What lies between simulated nodes: a [`Wire`] for each direction, and connections that die.
//!
//! All that one node sends to another shares one ordered stream, as on the TCP path: a lost piece
//! comes late and holds up the rest. A connection has a number; when it breaks, the next one has
//! another, and letters of the old one are not read.

use crate::ids::Micros;
use crate::link::{Link, Segment, Wire};
use std::collections::BTreeMap;

/// A letter is put on the line in pieces no larger than this: it must fit the smallest queue.
const PIECE_BYTES_MAX: usize = 32 << 10;
/// A segment that was lost so often is there by now.
const TRIES_MAX: u32 = 12;
/// Letters that wait for one direction of a cut cable. Beyond it the connection breaks.
const HELD_MAX: usize = 1024;

/// Index of a simulated node.
pub(super) type At = u16;

pub(super) struct Network<L> {
    link: Link,
    seed: u64,
    wires: BTreeMap<(At, At), Wire>,
    /// When the last letter of each direction arrives.
    last: BTreeMap<(At, At), u64>,
    epochs: BTreeMap<(At, At), u32>,
    /// On which side each node is, while the mesh is split.
    sides: Option<u64>,
    held: BTreeMap<(At, At), Vec<(usize, L)>>,
    pub(super) bytes: u64,
}

/// What becomes of a letter.
pub(super) enum Sent<L> {
    Arrives(u64, L),
    /// The cable is cut; it waits.
    Held,
}

impl<L> Network<L> {
    pub(super) fn new(link: Link, seed: u64) -> Network<L> {
        Network {
            link,
            seed,
            wires: BTreeMap::new(),
            last: BTreeMap::new(),
            epochs: BTreeMap::new(),
            sides: None,
            held: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub(super) fn epoch(&self, a: At, b: At) -> u32 {
        self.epochs.get(&pair(a, b)).copied().unwrap_or(0)
    }

    /// The connection is over, whoever knows it.
    pub(super) fn break_off(&mut self, a: At, b: At) {
        *self.epochs.entry(pair(a, b)).or_default() += 1;
    }

    pub(super) fn is_cut(&self, a: At, b: At) -> bool {
        self.sides
            .is_some_and(|seed| side(seed, a) != side(seed, b))
    }

    pub(super) fn split(&mut self, seed: u64) {
        self.sides = Some(seed);
    }

    /// The cables are whole again: what waited, in order.
    pub(super) fn mend(&mut self) -> Vec<(At, At, usize, L)> {
        self.sides = None;
        let held = std::mem::take(&mut self.held).into_iter();
        held.flat_map(|((from, to), letters)| {
            letters
                .into_iter()
                .map(move |(bytes, letter)| (from, to, bytes, letter))
        })
        .collect()
    }

    pub(super) fn set_link(&mut self, link: Link) {
        self.link = link;
        for wire in self.wires.values_mut() {
            wire.set_link(link).expect("the caller checked it");
        }
    }

    pub(super) fn send(&mut self, now: u64, from: At, to: At, bytes: usize, letter: L) -> Sent<L> {
        self.bytes += bytes as u64;
        if !self.is_cut(from, to) {
            return Sent::Arrives(self.arrival(now, from, to, bytes), letter);
        }
        let held = self.held.entry((from, to)).or_default();
        if held.len() < HELD_MAX {
            held.push((bytes, letter));
        } else {
            held.clear();
            self.break_off(from, to);
        }
        Sent::Held
    }

    /// A lost piece is sent again after a silence, until it is there.
    fn arrival(&mut self, now: u64, from: At, to: At, bytes: usize) -> u64 {
        let (link, seed) = (self.link, self.seed);
        let wire = self.wires.entry((from, to)).or_insert_with(|| {
            let seed = seed ^ (u64::from(from) << 32 | u64::from(to) << 1);
            Wire::new(link, seed).expect("the caller checked it")
        });
        let last = self.last.entry((from, to)).or_default();
        let (mut offered, mut silence_us) = (now, 0);
        for attempt in 0..TRIES_MAX {
            match wire.offer_segment(Micros(offered), bytes.min(PIECE_BYTES_MAX), attempt) {
                Segment::Arrives { at } => {
                    *last = (*last).max(at.0 + silence_us);
                    return *last;
                }
                Segment::Lost { again_at } => silence_us += again_at.0 - offered,
                Segment::Wait { until } => offered = until.0,
            }
        }
        *last = (*last).max(offered + silence_us);
        *last
    }
}

fn pair(a: At, b: At) -> (At, At) {
    (a.min(b), a.max(b))
}

fn side(seed: u64, node: At) -> bool {
    let mut dice = super::Dice(seed ^ u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    dice.percent(50)
}
