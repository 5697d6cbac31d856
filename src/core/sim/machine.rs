//! One simulated node: the real machines, and as much of a shell as they need.

use super::liar::Liar;
use super::network::At;
use super::people::START_S;
use super::table::{self, Table};
use crate::config::MeshConfig;
use crate::governance::{Author, Genesis, Replica, Rights, Standing};
use crate::host::GuestId;
use crate::ids::{ExpertId, ExpertParts, Micros, SessionId};
use crate::mesh::sync::Pull;
use crate::mesh::{Advert, Book, ExpertRow, Input as BookInput, Moment};
use crate::node::{Input, Node};
use crate::opinion::{ExpertEvent, ExpertFailure, ExpertOp};
use crate::roster::Introduced;
use std::collections::{BTreeMap, BTreeSet};

/// Tokens that a session of a table expert may hold.
pub(super) const CONTEXT: u32 = 4096;
/// An expert's time to begin a step, and for each token that it reads.
const STEP_US: u64 = 8_000;
const READ_US: u64 = 200;

/// A session of this node's router on another node's expert.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talk {
    pub(super) host: At,
    pub(super) epoch: u32,
}

/// A session of another node's router here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visitor {
    pub(super) router: At,
    pub(super) epoch: u32,
    pub(super) session: SessionId,
    pub(super) expert: ExpertId,
}

pub(super) struct Machine {
    pub(super) at: At,
    pub(super) key: Author,
    pub(super) expert: ExpertId,
    pub(super) is_up: bool,
    /// How often it was started: what an earlier life began is nothing to a later one.
    pub(super) life: u32,
    pub(super) paused_until: u64,
    pub(super) skew_s: i64,
    /// Its expert is so many times slower than others.
    pub(super) slowness: u64,
    pub(super) lies: Option<Liar>,
    pub(super) neighbours: Vec<At>,

    // What a crash takes away.
    pub(super) node: Node,
    pub(super) book: Book,
    pub(super) rights: Rights,
    pub(super) is_booted: bool,
    /// Members that answered a sync since the start.
    pub(super) synced: BTreeSet<At>,
    pub(super) started: u64,
    pub(super) advertised: u64,
    /// Others remember higher numbers of its own.
    pub(super) echoed: bool,
    pub(super) met: BTreeMap<Author, Vec<ExpertId>>,
    pub(super) talks: BTreeMap<(SessionId, ExpertId), Talk>,
    pub(super) visits: BTreeMap<(At, SessionId), GuestId>,
    pub(super) guests: BTreeMap<GuestId, Visitor>,
    /// When a node that this one is connected to was last heard.
    pub(super) heard: BTreeMap<At, u64>,
    pub(super) pulls: BTreeMap<At, Pull>,
    pub(super) wakes: Option<u64>,
    /// Sessions at its own expert, and the time at which the expert is free.
    tables: BTreeMap<SessionId, Table>,
    free_at: u64,
    /// Answers of its own expert that are on their way to the loop.
    pub(super) pending: usize,
    /// One bit for each piece of news: as many as the simulation is long.
    seen: Vec<u64>,

    // What stays on disk.
    pub(super) replica: Replica,
}

pub(super) fn expert_of(key: &Author) -> ExpertId {
    ExpertId::of(&ExpertParts {
        peer: key,
        model_sha256: "table",
        adapter: "",
        context: CONTEXT,
        prefix: None,
    })
}

impl Machine {
    pub(super) fn new(at: At, key: Author, replica: Replica) -> Machine {
        let network = replica.genesis().network_id();
        Machine {
            at,
            key,
            expert: expert_of(&key),
            is_up: false,
            life: 0,
            paused_until: 0,
            skew_s: 0,
            slowness: 1,
            lies: None,
            neighbours: Vec::new(),
            node: Node::new(MeshConfig::default(), Rights::booting()),
            book: Book::new(network, key, 0),
            rights: Rights::booting(),
            is_booted: false,
            synced: BTreeSet::new(),
            started: 0,
            advertised: 0,
            echoed: false,
            met: BTreeMap::new(),
            talks: BTreeMap::new(),
            visits: BTreeMap::new(),
            guests: BTreeMap::new(),
            heard: BTreeMap::new(),
            pulls: BTreeMap::new(),
            wakes: None,
            tables: BTreeMap::new(),
            free_at: 0,
            pending: 0,
            seen: Vec::new(),
            replica,
        }
    }

    pub(super) fn genesis(&self) -> &Genesis {
        self.replica.genesis()
    }

    /// A new process: nothing is left of the one before but what is on disk.
    pub(super) fn start(&mut self, now: u64, instance: u64) {
        let (lies, neighbours) = (self.lies.take(), std::mem::take(&mut self.neighbours));
        let fresh = Machine::new(self.at, self.key, self.replica.clone());
        *self = Machine {
            is_up: true,
            life: self.life + 1,
            skew_s: self.skew_s,
            slowness: self.slowness,
            lies,
            neighbours,
            started: now,
            book: Book::new(self.genesis().network_id(), self.key, instance),
            ..fresh
        };
        let moment = self.moment(now);
        let members = self.replica.standing().admissions().clone();
        let mut out = Vec::new();
        self.book
            .handle(moment, BookInput::Members(members), &mut out);
        self.node
            .handle(Micros(now), Input::Met(self.own_expert()), &mut Vec::new());
    }

    pub(super) fn crash(&mut self) {
        self.is_up = false;
        // Nothing of it may be seen by accident.
        self.talks.clear();
        self.visits.clear();
        self.guests.clear();
        self.tables.clear();
        self.pending = 0;
    }

    fn own_expert(&self) -> Introduced {
        Introduced {
            expert: self.expert,
            peer: None,
            vocabulary: table::vocab().fingerprint(),
            context: CONTEXT,
            admitted: true,
            file: None,
        }
    }

    pub(super) fn moment(&self, now: u64) -> Moment {
        let unix_s = START_S + now / 1_000_000;
        Moment {
            up: Micros(now),
            unix_s: unix_s.saturating_add_signed(self.skew_s),
        }
    }

    pub(super) fn is_halted(&self) -> bool {
        self.is_booted && self.replica.standing().is_halted()
    }

    pub(super) fn standing(&self) -> Standing {
        self.replica.standing().clone()
    }

    /// What it says of itself. Nobody verifies a signature here: decoders do, and they have tests.
    pub(super) fn advert(&mut self, now: u64, instance: u64) -> Advert {
        let moment = self.moment(now);
        self.advertised = now;
        Advert {
            network: self.genesis().network_id(),
            node: self.key,
            instance,
            seq: self.book.number(moment.unix_s),
            issued_s: moment.unix_s,
            leaves: false,
            addresses: vec![],
            plane: vec![],
            experts: vec![ExpertRow {
                expert: self.expert,
                model: "table".into(),
                file: [0; 32],
                vocabulary: table::vocab().fingerprint(),
                family: "none".into(),
                context: CONTEXT,
                slots: 16,
                needs_allow_list: false,
            }],
            signature: [0; 64],
        }
    }

    /// Is this news?
    pub(super) fn is_news(&mut self, number: u32) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let before = self.seen[word];
        self.seen[word] |= bit;
        before & bit == 0
    }

    // --- the expert -----------------------------------------------------------------------------

    /// Sessions at the expert, the owner's and guests'.
    pub(super) fn sessions(&self) -> usize {
        self.tables.len()
    }

    /// What the expert says to it, and when. An error is a router that lost count.
    pub(super) fn compute(
        &mut self,
        now: u64,
        op: ExpertOp,
    ) -> Result<(u64, Vec<ExpertEvent>), String> {
        let session = op.session();
        let reads = match &op {
            ExpertOp::Open(open) => open.prompt.len() + open.answered.len(),
            ExpertOp::Draft { tokens, .. } => tokens.len(),
            ExpertOp::Lead { queries, .. } => queries.len(),
            ExpertOp::Branch { .. } => 1,
            ExpertOp::Ask { .. }
            | ExpertOp::Settle { .. }
            | ExpertOp::Forget { .. }
            | ExpertOp::Truncate { .. } => 0,
            ExpertOp::Close { .. } => {
                self.tables.remove(&session);
                return Ok((now, Vec::new()));
            }
        };
        let cost_us = (STEP_US + READ_US * reads as u64) * self.slowness;
        self.free_at = self.free_at.max(now) + cost_us;
        if matches!(op, ExpertOp::Open(_)) {
            self.tables.insert(session, Table::new(self.expert));
        }
        let Some(table) = self.tables.get_mut(&session) else {
            let why = ExpertFailure::Gone;
            return Ok((self.free_at, vec![ExpertEvent::Failed { session, why }]));
        };
        let events = table.handle(op.clone()).map_err(|lost| lost.to_string())?;
        // Nobody lies to himself.
        let is_guest = self.guests.contains_key(&GuestId(session.0));
        let events = match &mut self.lies {
            Some(liar) if is_guest => liar.instead(&op, events),
            _ => events,
        };
        let is_over = |event: &ExpertEvent| matches!(event, ExpertEvent::Failed { .. });
        if events.iter().any(is_over) {
            self.tables.remove(&session);
        }
        Ok((self.free_at, events))
    }
}
