//! Other people's sessions on this node's experts: who may, who waits, who is told to come back.
//!
//! A guest is one session of one peer on one expert. Slots are given to the peer with the fewest of
//! them; the owner's own sessions are not guests, come first, and take slots back. Nothing waits
//! for long: who would is told when to come back, from how long sessions take here.
//!
//! Whatever closes the door (the owner, hours, a halt) shrinks the room to nothing, and guests
//! beyond the room end at once: their routers put another expert in their place within a token.

mod slots;

use crate::donor::{Closed, Donor};
use crate::ids::{ExpertId, Fingerprint, Micros, PeerKey, SessionId};
use crate::limits::{
    GUEST_IDLE_US_MAX, GUEST_OP_REFILL_US, GUEST_OPS_BURST, GUEST_OPS_WAITING_MAX,
    GUEST_WAIT_US_MAX, GUESTS_MAX, GUESTS_PER_PEER_MAX, GUESTS_WAITING_MAX,
};
use crate::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Open, Scope};
use std::collections::{BTreeMap, BTreeSet};

/// The owner counts as busy for this long after the last request: between two turns of a chat.
const OWNER_QUIET_US: u64 = 30_000_000;
/// Until sessions have been measured.
const SESSION_US_GUESS: u64 = 5_000_000;

/// Names a guest; random, chosen by the shell. It is the guest's session id at the expert, so peers
/// can neither collide with nor guess each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestId(pub u128);

impl GuestId {
    pub fn session(self) -> SessionId {
        SessionId(self.0)
    }
}

/// Who may ask an expert, besides its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Every member of the mesh.
    Mesh,
    Listed(BTreeSet<PeerKey>),
}

impl Allow {
    pub fn admits(&self, peer: &PeerKey) -> bool {
        match self {
            Allow::Mesh => true,
            Allow::Listed(peers) => peers.contains(peer),
        }
    }
}

/// Somebody wants a session.
#[derive(Debug)]
pub struct Visit {
    pub guest: GuestId,
    pub peer: PeerKey,
    pub expert: ExpertId,
    pub open: Open,
    /// The expert is the mesh of this node, and this is the node's own part in it. None: it is one model.
    pub whole: Option<Leaf>,
    /// Why this peer may not ask this expert, in the words of whoever knows.
    pub refused: Option<String>,
}

/// An expert of this process that has part in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub expert: ExpertId,
    pub vocabulary: Fingerprint,
    /// Entries of the vocabulary.
    pub vocab: u32,
    pub context: u32,
}

/// What the owner's own sessions need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Any of them runs or waits.
    pub busy: bool,
    /// How many run on, or wait for, each expert.
    pub wants: BTreeMap<ExpertId, usize>,
}

#[derive(Debug)]
pub enum Input {
    Open(Box<Visit>),
    Op {
        guest: GuestId,
        op: ExpertOp,
    },
    /// The guest closed its session, left, or does not read what it is told.
    Gone {
        guest: GuestId,
    },
    /// The peer may not be here any more.
    Expel {
        peer: PeerKey,
        why: String,
    },
    FromExpert(FromExpert),
    /// The expert's mailbox took no more.
    SendFailed {
        guest: GuestId,
    },
    ExpertGone {
        expert: ExpertId,
    },
    Owner(Owner),
    Policy(Donor),
    /// The mesh may do nothing now.
    Halt {
        why: String,
    },
    /// `minute` of the local day.
    Tick {
        minute: u16,
    },
}

#[derive(Debug)]
pub enum Output {
    ToExpert(ExpertId, ExpertOp),
    /// A `Failed` is the last that a guest hears.
    ToGuest {
        guest: GuestId,
        event: ExpertEvent,
    },
}

#[derive(Debug)]
enum Place {
    Waiting {
        ops: Vec<ExpertOp>,
    },
    Running {
        since: Micros,
        /// Operations that it may send now; answers and time give them back.
        may_send: u32,
        refilled: Micros,
    },
}

#[derive(Debug)]
struct Guest {
    peer: PeerKey,
    expert: ExpertId,
    /// The session by the peer's own name.
    session: SessionId,
    opened: Micros,
    heard: Micros,
    place: Place,
}

impl Guest {
    fn is_waiting(&self) -> bool {
        matches!(self.place, Place::Waiting { .. })
    }

    fn running_since(&self) -> Option<Micros> {
        match self.place {
            Place::Running { since, .. } => Some(since),
            Place::Waiting { .. } => None,
        }
    }
}

/// What a peer has had.
#[derive(Debug, Default)]
struct Peer {
    guests: usize,
    /// Slot time of sessions that ended. Who comes anew begins with the least of those present.
    served_us: u64,
    opinions: u64,
}

/// A peer's part, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLoad {
    pub peer: PeerKey,
    pub running: usize,
    pub waiting: usize,
    /// Opinions said to it since it came.
    pub opinions: u64,
}

#[derive(Debug)]
pub struct Host {
    /// Sessions of an expert, the owner's included.
    slots: usize,
    donor: Donor,
    minute: u16,
    owner: Owner,
    /// Until when the owner counts as busy, once the last request has ended.
    owner_quiet: Micros,
    guests: BTreeMap<GuestId, Guest>,
    peers: BTreeMap<PeerKey, Peer>,
    /// Running mean of sessions that ended by themselves.
    mean_session_us: u64,
}

impl Host {
    pub fn new(slots: usize) -> Host {
        Host {
            slots,
            donor: Donor::default(),
            minute: 0,
            owner: Owner::default(),
            owner_quiet: Micros(0),
            guests: BTreeMap::new(),
            peers: BTreeMap::new(),
            mean_session_us: SESSION_US_GUESS,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    pub fn has(&self, guest: GuestId) -> bool {
        self.guests.contains_key(&guest)
    }

    pub fn running_on(&self, expert: ExpertId) -> usize {
        self.count(|g| g.expert == expert && !g.is_waiting())
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Why guests are not taken now.
    pub fn closed(&self, now: Micros) -> Option<Closed> {
        let busy = self.owner.busy || now < self.owner_quiet;
        self.donor.closed(self.minute, busy)
    }

    /// What every visitor would be told now, whatever it asks for.
    pub fn turned_away(&self, now: Micros) -> Option<ExpertFailure> {
        self.closed(now)?;
        Some(self.busy(now, ExpertId([0; 32]), 0))
    }

    pub fn loads(&self) -> impl Iterator<Item = PeerLoad> {
        self.peers.iter().map(|(key, peer)| {
            let running = self.count(|g| g.peer == *key && !g.is_waiting());
            PeerLoad {
                peer: *key,
                running,
                waiting: peer.guests - running,
                opinions: peer.opinions,
            }
        })
    }

    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Open(visit) => self.on_open(now, *visit, out),
            Input::Op { guest, op } => self.on_op(now, guest, op, out),
            Input::FromExpert(from) => self.on_event(now, from, out),
            Input::Gone { guest } => self.end(now, guest, None, out),
            Input::SendFailed { guest } => {
                let Some(expert) = self.guests.get(&guest).map(|g| g.expert) else {
                    return;
                };
                self.end(now, guest, Some(self.busy(now, expert, 0)), out);
            }
            Input::Expel { peer, why } => {
                self.end_all(now, |g| g.peer == peer, &ExpertFailure::Refused(why), out);
            }
            Input::ExpertGone { expert } => {
                self.end_all(now, |g| g.expert == expert, &ExpertFailure::Gone, out);
            }
            Input::Halt { why } => {
                self.end_all(now, |_| true, &ExpertFailure::Refused(why), out);
            }
            Input::Owner(owner) => {
                if self.owner.busy {
                    self.owner_quiet = Micros(now.0 + OWNER_QUIET_US);
                }
                self.owner = owner;
                self.settle(now, out);
            }
            Input::Policy(donor) => {
                self.donor = donor;
                self.settle(now, out);
            }
            Input::Tick { minute } => {
                self.minute = minute;
                self.forget_idle(now, out);
                self.settle(now, out);
            }
        }
    }

    // --- coming and going -----------------------------------------------------------------------

    fn on_open(&mut self, now: Micros, visit: Visit, out: &mut Vec<Output>) {
        let Visit {
            guest,
            peer,
            expert,
            mut open,
            whole: _, // the node's to know
            refused,
        } = visit;
        let session = open.session;
        if let Err(why) = self.may_come(now, guest, peer, expert, refused) {
            let event = ExpertEvent::Failed { session, why };
            return out.push(Output::ToGuest { guest, event });
        }
        open.scope = scope_of(&peer);
        open.path.push(peer);
        let newcomer = Peer {
            served_us: self.least_served(now),
            ..Peer::default()
        };
        self.peers.entry(peer).or_insert(newcomer).guests += 1;
        let ops = vec![ExpertOp::Open(Box::new(open)).renamed(guest.session())];
        let place = Place::Waiting { ops };
        let (opened, heard) = (now, now);
        self.guests.insert(
            guest,
            Guest {
                peer,
                expert,
                session,
                opened,
                heard,
                place,
            },
        );
        self.fill(now, expert, out);
        self.keep_the_wait_short(now, guest, out);
    }

    fn may_come(
        &self,
        now: Micros,
        guest: GuestId,
        peer: PeerKey,
        expert: ExpertId,
        refused: Option<String>,
    ) -> Result<(), ExpertFailure> {
        if let Some(why) = refused {
            return Err(ExpertFailure::Refused(why));
        }
        if self.has(guest) {
            return Err(ExpertFailure::Refused("the session is open already".into()));
        }
        let of_peer = self.peers.get(&peer).map_or(0, |p| p.guests);
        let full = self.guests.len() >= GUESTS_MAX || of_peer >= GUESTS_PER_PEER_MAX;
        if full || self.room(now, expert, 0) == 0 {
            return Err(self.busy(now, expert, self.waiting_on(expert)));
        }
        Ok(())
    }

    /// A guest that would wait too long goes at once, unless another peer has more than its part. In
    /// a full waiting room the peer with the most in it makes way, not whoever comes last.
    fn keep_the_wait_short(&mut self, now: Micros, guest: GuestId, out: &mut Vec<Output>) {
        let Some(visitor) = self.guests.get(&guest).filter(|g| g.is_waiting()) else {
            return;
        };
        let (expert, ahead) = (visitor.expert, self.ahead_of(visitor));
        if self.wait_us(now, expert, ahead) > GUEST_WAIT_US_MAX {
            if self.make_way(now, guest, out) {
                return;
            }
            return self.end(now, guest, Some(self.busy(now, expert, ahead)), out);
        }
        let waiting = || self.guests.iter().filter(|(_, g)| g.is_waiting());
        if waiting().count() <= GUESTS_WAITING_MAX {
            return;
        }
        let of = |peer: PeerKey| waiting().filter(|(_, g)| g.peer == peer).count();
        let last = waiting().max_by_key(|(id, g)| (of(g.peer), g.opened, **id));
        if let Some((id, expert)) = last.map(|(id, g)| (*id, g.expert)) {
            let why = self.busy(now, expert, self.waiting_on(expert));
            self.end(now, id, Some(why), out);
        }
    }

    fn on_op(&mut self, now: Micros, id: GuestId, op: ExpertOp, out: &mut Vec<Output>) {
        let Some(guest) = self.guests.get_mut(&id) else {
            return; // it ended, and has been told
        };
        guest.heard = now;
        let why = match op {
            ExpertOp::Close { .. } => return self.end(now, id, None, out),
            ExpertOp::Open(_) => "the session is open already",
            op => {
                let op = op.renamed(id.session());
                match &mut guest.place {
                    Place::Waiting { ops } if ops.len() < GUEST_OPS_WAITING_MAX => {
                        return ops.push(op);
                    }
                    Place::Running {
                        may_send, refilled, ..
                    } => {
                        refill(now, may_send, refilled);
                        if *may_send > 0 {
                            *may_send -= 1;
                            return out.push(Output::ToExpert(guest.expert, op));
                        }
                    }
                    Place::Waiting { .. } => {}
                }
                "too many operations at once"
            }
        };
        let why = ExpertFailure::Refused(why.into());
        self.end(now, id, Some(why), out);
    }

    fn on_event(&mut self, now: Micros, from: FromExpert, out: &mut Vec<Output>) {
        let id = GuestId(from.event.session().0);
        let Some(guest) = self.guests.get_mut(&id) else {
            return; // said before it heard that the session is closed
        };
        if guest.expert != from.expert {
            return;
        }
        let event = from.event.renamed(guest.session);
        match &event {
            ExpertEvent::Failed { .. } => {
                // The expert has forgotten it already: no goodbye.
                self.forget(now, id);
                out.push(Output::ToGuest { guest: id, event });
                return self.settle(now, out);
            }
            ExpertEvent::Opinions { opinions, .. } => {
                if let Place::Running { may_send, .. } = &mut guest.place {
                    let answered = opinions.len() as u32;
                    *may_send = may_send.saturating_add(answered).min(GUEST_OPS_BURST);
                }
                if let Some(peer) = self.peers.get_mut(&guest.peer) {
                    peer.opinions += opinions.len() as u64;
                }
            }
            ExpertEvent::Ready { .. } | ExpertEvent::Scored { .. } => {}
        }
        out.push(Output::ToGuest { guest: id, event });
    }

    /// The guest's session is over; without a reason it knows.
    fn end(&mut self, now: Micros, id: GuestId, why: Option<ExpertFailure>, out: &mut Vec<Output>) {
        if let Some(expert) = self.end_quietly(now, id, why, out) {
            self.fill(now, expert, out);
        }
    }

    fn end_quietly(
        &mut self,
        now: Micros,
        id: GuestId,
        why: Option<ExpertFailure>,
        out: &mut Vec<Output>,
    ) -> Option<ExpertId> {
        let guest = self.forget(now, id)?;
        if let Some(since) = guest.running_since() {
            if why.is_none() {
                self.mean_session_us = (self.mean_session_us * 7 + now.since(since)) / 8;
            }
            let session = id.session();
            out.push(Output::ToExpert(guest.expert, ExpertOp::Close { session }));
        }
        if let Some(why) = why {
            let session = guest.session;
            let event = ExpertEvent::Failed { session, why };
            out.push(Output::ToGuest { guest: id, event });
        }
        Some(guest.expert)
    }

    fn end_all(
        &mut self,
        now: Micros,
        of: impl Fn(&Guest) -> bool,
        why: &ExpertFailure,
        out: &mut Vec<Output>,
    ) {
        for (id, _) in self.chosen(of) {
            self.end_quietly(now, id, Some(why.clone()), out);
        }
        self.settle(now, out);
    }

    fn forget(&mut self, now: Micros, id: GuestId) -> Option<Guest> {
        let guest = self.guests.remove(&id)?;
        if let Some(peer) = self.peers.get_mut(&guest.peer) {
            peer.served_us += guest.running_since().map_or(0, |since| now.since(since));
            peer.guests -= 1;
            if peer.guests == 0 {
                self.peers.remove(&guest.peer);
            }
        }
        Some(guest)
    }

    fn forget_idle(&mut self, now: Micros, out: &mut Vec<Output>) {
        let seconds = GUEST_IDLE_US_MAX / 1_000_000;
        let why = ExpertFailure::Refused(format!("nothing was asked for {seconds} s"));
        self.end_all(now, |g| now.since(g.heard) > GUEST_IDLE_US_MAX, &why, out);
        let tired = |g: &Guest| g.is_waiting() && now.since(g.opened) > GUEST_WAIT_US_MAX;
        for (id, expert) in self.chosen(tired) {
            if !self.make_way(now, id, out) {
                let why = self.busy(now, expert, self.waiting_on(expert));
                self.end(now, id, Some(why), out);
            }
        }
    }

    fn chosen(&self, which: impl Fn(&Guest) -> bool) -> Vec<(GuestId, ExpertId)> {
        let chosen = self.guests.iter().filter(|(_, g)| which(g));
        chosen.map(|(id, g)| (*id, g.expert)).collect()
    }
}

fn refill(now: Micros, may_send: &mut u32, refilled: &mut Micros) {
    let earned = now.since(*refilled) / GUEST_OP_REFILL_US;
    refilled.0 += earned * GUEST_OP_REFILL_US;
    *may_send = (u64::from(*may_send) + earned).min(GUEST_OPS_BURST.into()) as u32;
}

/// Cached prefixes are shared within one peer's sessions only, and never with the owner's.
fn scope_of(peer: &PeerKey) -> Scope {
    let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 guest scope");
    hasher.update(peer);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    match Scope(u64::from_le_bytes(first)) {
        Scope::OWNER => Scope(1),
        scope => scope,
    }
}

#[cfg(test)]
mod tests;
