//! Who gets a slot, who makes way, and how long the others would wait.

use super::{Guest, GuestId, Host, Output, Place};
use crate::donor::Closed;
use crate::ids::{ExpertId, Micros, PeerKey};
use crate::limits::{BUSY_RETRY_MS_MAX, GUEST_OPS_BURST};
use crate::opinion::ExpertFailure;

/// One in so many slots stays free for the owner's next request, which then disturbs nobody.
const SLOTS_PER_RESERVED: usize = 8;
/// When to come back to a node that is paused by hand: nobody knows better.
const PAUSED_RETRY_MS: u64 = 60_000;
/// Nobody comes back sooner: asking costs as well.
const RETRY_MS_MIN: u64 = 100;

impl Host {
    /// Sessions of guests that the expert may run now, if so many slots stay free for the owner.
    pub(super) fn room(&self, now: Micros, expert: ExpertId, reserved: usize) -> usize {
        if self.closed(now).is_some() {
            return 0;
        }
        let wants = self.owner.wants.get(&expert).copied().unwrap_or(0);
        let left = self.slots.saturating_sub(wants.max(reserved));
        self.donor.slots_of(self.slots).min(left)
    }

    /// After the room may have changed: guests beyond it end, and whoever fits now begins.
    pub(super) fn settle(&mut self, now: Micros, out: &mut Vec<Output>) {
        let mut experts: Vec<ExpertId> = self.guests.values().map(|g| g.expert).collect();
        experts.sort_unstable();
        experts.dedup();
        for expert in experts {
            let room = self.room(now, expert, 0);
            while self.running_on(expert) > room {
                let Some(id) = self.last_of_the_most(expert) else {
                    break;
                };
                let why = self.busy(now, expert, self.waiting_on(expert));
                self.end_quietly(now, id, Some(why), out);
            }
            if room == 0 {
                let why = self.busy(now, expert, 0);
                for (id, _) in self.chosen(|g| g.expert == expert) {
                    self.end_quietly(now, id, Some(why.clone()), out);
                }
            }
            self.fill(now, expert, out);
        }
    }

    /// Who makes way: of the peer that has the most, the session that began last.
    fn last_of_the_most(&self, expert: ExpertId) -> Option<GuestId> {
        let running = self.guests.iter().filter(|(_, g)| g.expert == expert);
        let running = running.filter_map(|(id, g)| Some((*id, g.peer, g.running_since()?)));
        let last = running.max_by_key(|&(id, peer, since)| (self.level(peer, expert), since, id));
        last.map(|(id, ..)| id)
    }

    /// A peer that holds at least two slots more than the guest's gives one up for it: nobody keeps
    /// others out with sessions that never end.
    pub(super) fn make_way(&mut self, now: Micros, guest: GuestId, out: &mut Vec<Output>) -> bool {
        let Some((peer, expert)) = self.guests.get(&guest).map(|g| (g.peer, g.expert)) else {
            return false;
        };
        let most = self.last_of_the_most(expert);
        let holder = most.and_then(|id| Some((id, self.guests.get(&id)?.peer)));
        let Some((id, holder)) = holder else {
            return false;
        };
        if self.level(holder, expert) < self.level(peer, expert) + 2 {
            return false;
        }
        self.end(
            now,
            id,
            Some(self.busy(now, expert, self.waiting_on(expert))),
            out,
        );
        true
    }

    /// Gives free slots away: to the peer with the fewest, of equals to the one served least.
    pub(super) fn fill(&mut self, now: Micros, expert: ExpertId, out: &mut Vec<Output>) {
        while self.running_on(expert) < self.room(now, expert, self.reserved()) {
            let waiting = self
                .guests
                .iter()
                .filter(|(_, g)| g.expert == expert && g.is_waiting());
            let next = waiting.min_by_key(|(id, g)| {
                let served = self.served_us(now, g.peer);
                (self.level(g.peer, expert), served, g.opened, **id)
            });
            let Some(id) = next.map(|(id, _)| *id) else {
                return;
            };
            self.begin(now, id, out);
        }
    }

    fn begin(&mut self, now: Micros, id: GuestId, out: &mut Vec<Output>) {
        let Some(guest) = self.guests.get_mut(&id) else {
            return;
        };
        let running = Place::Running {
            since: now,
            may_send: GUEST_OPS_BURST,
            refilled: now,
        };
        if let Place::Waiting { ops } = std::mem::replace(&mut guest.place, running) {
            let expert = guest.expert;
            out.extend(ops.into_iter().map(|op| Output::ToExpert(expert, op)));
        }
    }

    /// Sessions of the peer that run on the expert.
    pub(super) fn level(&self, peer: PeerKey, expert: ExpertId) -> usize {
        self.count(|g| g.peer == peer && g.expert == expert && !g.is_waiting())
    }

    pub(super) fn waiting_on(&self, expert: ExpertId) -> usize {
        self.count(|g| g.expert == expert && g.is_waiting())
    }

    pub(super) fn count(&self, which: impl Fn(&Guest) -> bool) -> usize {
        self.guests.values().filter(|g| which(g)).count()
    }

    fn reserved(&self) -> usize {
        self.slots / SLOTS_PER_RESERVED
    }

    /// Slot time that the peer has had, sessions under way included.
    pub(super) fn served_us(&self, now: Micros, peer: PeerKey) -> u64 {
        let mine = self.guests.values().filter(|g| g.peer == peer);
        let running = mine.filter_map(Guest::running_since);
        let running: u64 = running.map(|since| now.since(since)).sum();
        self.peers.get(&peer).map_or(0, |p| p.served_us) + running
    }

    pub(super) fn least_served(&self, now: Micros) -> u64 {
        let served = self.peers.keys().map(|peer| self.served_us(now, *peer));
        served.min().unwrap_or(0)
    }

    // --- how long -------------------------------------------------------------------------------

    /// Guests that get a slot before this one, by the rule of `fill`: its own that came earlier,
    /// and of every other peer those that bring it up to the same number of slots.
    pub(super) fn ahead_of(&self, guest: &Guest) -> usize {
        let expert = guest.expert;
        let waiting = |peer| self.count(|g| g.peer == peer && g.expert == expert && g.is_waiting());
        let own = waiting(guest.peer) - 1;
        let level = self.level(guest.peer, expert) + own;
        let others = self.peers.keys().filter(|peer| **peer != guest.peer);
        let others = others.map(|&peer| {
            let until_level = (level + 1).saturating_sub(self.level(peer, expert));
            until_level.min(waiting(peer))
        });
        own + others.sum::<usize>()
    }

    /// Time until a slot is free for whoever has so many before: sessions end one after another,
    /// each slot one in the mean time of a session.
    pub(super) fn wait_us(&self, now: Micros, expert: ExpertId, ahead: usize) -> u64 {
        let slots = self.room(now, expert, self.reserved()).max(1) as u64;
        self.mean_session_us * (ahead as u64 + 1) / slots
    }

    pub(super) fn busy(&self, now: Micros, expert: ExpertId, ahead: usize) -> ExpertFailure {
        let ms = match self.closed(now) {
            Some(Closed::Paused) => PAUSED_RETRY_MS,
            Some(Closed::OutsideHours { opens_in_min }) => u64::from(opens_in_min) * 60_000,
            Some(Closed::OwnerBusy) => self.owner_quiet.since(now).max(self.mean_session_us) / 1000,
            None => self.wait_us(now, expert, ahead) / 1000,
        };
        ExpertFailure::Busy {
            retry_ms: ms.clamp(RETRY_MS_MIN, BUSY_RETRY_MS_MAX.into()) as u32,
        }
    }
}
