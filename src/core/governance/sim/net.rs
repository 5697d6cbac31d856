//! What lies between the nodes of the simulator: who is connected, and how letters travel.

use super::super::*;
use super::{Plan, SECOND, silent};
use crate::ids::Micros;
use crate::link::{Link, Segment, Wire};
use crate::sim::people::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Connections that a node opens; about as many others open one to it. With four, and a fifth of the
/// nodes silent, one honest node in five thousand had only silent peers, and heard nothing.
const DIALS: usize = 8;
/// One way, drawn for each pair.
const DELAY_US: (u64, u64) = (20_000, 300_000);
const EVERY_US: u64 = 5 * SECOND;
/// Peers that a node compares with, each time.
const COMPARED: usize = 2;
/// Bytes of "this is what I have".
const HAS_BYTES: usize = 512;

/// What a node has, and what it amounts to.
#[derive(Debug)]
pub(super) struct Knows {
    pub(super) replica: Replica,
    /// Hash of the names of its records.
    pub(super) set: [u8; 32],
    /// Does it give permits under a halt that it knows?
    pub(super) runs_under_halt: bool,
}

impl Knows {
    pub(super) fn of(replica: Replica) -> Knows {
        let mut hasher = blake3::Hasher::new();
        replica.records().ids().for_each(|id| {
            hasher.update(&id);
        });
        let standing = replica.standing();
        let unresolved = replica.records().iter().any(|record| match record {
            Record::Halt(halt) => standing.stops(halt.id(), &halt.author),
            _ => false,
        });
        let runs = Rights::booting().under(standing.clone()).mesh().is_ok();
        Knows {
            set: *hasher.finalize().as_bytes(),
            runs_under_halt: unresolved && runs,
            replica,
        }
    }

    /// With one more record, from bytes.
    pub(super) fn and(&self, record: Record) -> Knows {
        let mut replica = self.replica.clone();
        let decoded = Record::decode(&record.encode());
        replica.insert(decoded.expect("what was signed can be read"));
        replica.refold();
        Knows::of(replica)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Letter {
    Record(Rc<Record>),
    Has { has: Rc<Knows>, is_answer: bool },
}

#[derive(Debug)]
pub(super) enum Delivery {
    Record {
        to: usize,
        from: usize,
        record: Rc<Record>,
    },
    Has {
        to: usize,
        from: usize,
        has: Rc<Knows>,
        is_answer: bool,
    },
    /// It is time for this node to compare with that one.
    Compare { node: usize, peer: usize },
}

#[derive(Debug)]
enum Event {
    Try {
        from: usize,
        to: usize,
        letter: Letter,
        attempt: u32,
    },
    Arrive {
        from: usize,
        to: usize,
        letter: Letter,
    },
    Tick(usize),
}

pub(super) struct Net {
    pub(super) now: Micros,
    /// Nodes of the one side, as bits by their number modulo 64.
    pub(super) split: Option<u64>,
    silent: BTreeSet<usize>,
    peers: Vec<Vec<usize>>,
    wires: BTreeMap<(usize, usize), Wire>,
    /// By time and number, so that equal times keep an order.
    queue: BTreeMap<(Micros, u64), Event>,
    queued: u64,
    due: Vec<Delivery>,
}

impl Net {
    pub(super) fn new(plan: &Plan, dice: &mut Dice) -> Net {
        let mut net = Net {
            now: Micros(0),
            split: None,
            silent: silent(plan, dice),
            peers: vec![vec![]; plan.nodes],
            wires: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            due: vec![],
        };
        for node in 0..plan.nodes {
            for _ in 0..DIALS {
                let other = dice.below(plan.nodes as u64) as usize;
                if other != node && !net.wires.contains_key(&(node, other)) {
                    net.connect(plan, dice, node, other);
                }
            }
            let first = Micros(dice.below(EVERY_US));
            net.push(first, Event::Tick(node));
        }
        net
    }

    fn connect(&mut self, plan: &Plan, dice: &mut Dice, a: usize, b: usize) {
        let delay_us = DELAY_US.0 + dice.below(DELAY_US.1 - DELAY_US.0 + 1);
        let link = Link {
            delay_us: delay_us as u32,
            jitter_us: delay_us as u32 / 10,
            loss_ppm: plan.loss_ppm,
            reorder_ppm: 0,
            duplicate_ppm: 0,
            rate_bps: 20_000_000,
            queue_bytes: 1 << 20,
        };
        for (from, to) in [(a, b), (b, a)] {
            let wire = Wire::new(link, dice.next()).expect("a plan's links are within bounds");
            self.wires.insert((from, to), wire);
            self.peers[from].push(to);
        }
    }

    pub(super) fn is_silent(&self, node: usize) -> bool {
        self.silent.contains(&node)
    }

    pub(super) fn peers(&self, node: usize) -> Vec<usize> {
        self.peers[node].clone()
    }

    fn push(&mut self, at: Micros, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        let side = |split: u64, node: usize| (split >> (node % 64)) & 1;
        self.split
            .is_some_and(|split| side(split, a) != side(split, b))
    }

    pub(super) fn send(&mut self, from: usize, to: usize, letter: Letter) {
        let attempt = 0;
        self.offer(from, to, letter, attempt);
    }

    fn offer(&mut self, from: usize, to: usize, letter: Letter, attempt: u32) {
        if self.is_cut(from, to) {
            // The connection breaks; what it carried is compared when there is one again.
            return;
        }
        let Some(wire) = self.wires.get_mut(&(from, to)) else {
            return;
        };
        let bytes = match &letter {
            Letter::Record(record) => record.encode().len(),
            Letter::Has { .. } => HAS_BYTES,
        };
        match wire.offer_segment(self.now, bytes, attempt) {
            Segment::Arrives { at } => self.push(at, Event::Arrive { from, to, letter }),
            Segment::Lost { again_at } => {
                let attempt = attempt + 1;
                self.push(
                    again_at,
                    Event::Try {
                        from,
                        to,
                        letter,
                        attempt,
                    },
                );
            }
            Segment::Wait { until } => self.push(
                until,
                Event::Try {
                    from,
                    to,
                    letter,
                    attempt,
                },
            ),
        }
    }

    /// What happens next, if anything does before then.
    pub(super) fn next(&mut self, until: Micros, dice: &mut Dice) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.due.pop() {
                return Some(delivery);
            }
            let first = self
                .queue
                .first_entry()
                .filter(|first| first.key().0 <= until)?;
            let ((at, _), event) = first.remove_entry();
            self.now = at.max(self.now);
            match event {
                Event::Try {
                    from,
                    to,
                    letter,
                    attempt,
                } => self.offer(from, to, letter, attempt),
                Event::Arrive { from, to, .. } if self.is_cut(from, to) => {}
                Event::Arrive {
                    from,
                    to,
                    letter: Letter::Record(record),
                } => {
                    return Some(Delivery::Record { to, from, record });
                }
                Event::Arrive {
                    from,
                    to,
                    letter: Letter::Has { has, is_answer },
                } => {
                    return Some(Delivery::Has {
                        to,
                        from,
                        has,
                        is_answer,
                    });
                }
                Event::Tick(node) => {
                    self.push(Micros(at.0 + EVERY_US), Event::Tick(node));
                    for _ in 0..COMPARED {
                        let n = self.peers[node].len() as u64;
                        if n > 0 && !self.is_silent(node) {
                            let peer = self.peers[node][dice.below(n) as usize];
                            self.due.push(Delivery::Compare { node, peer });
                        }
                    }
                }
            }
        }
    }

    /// Nothing happens until then that anybody would notice.
    pub(super) fn skip_to(&mut self, at: Micros) {
        let gone = at.0 - self.now.0;
        let queue = std::mem::take(&mut self.queue);
        for ((due, n), event) in queue {
            self.queue.insert((Micros(due.0 + gone), n), event);
        }
        self.now = at;
    }
}
