//! What is looked at a few times a second: connections that are due for something, members that are
//! not connected, a way in from outside.

use super::handle::Link;
use super::links::Peer;
use super::reach::{ip_of, multiaddr_of};
use super::task::Task;
use crate::identity::{key_of, peer_of};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use quorate_core::ids::PeerKey;
use quorate_core::limits::{
    RELAYS_MAX, STRANGER_MS_MAX, SWARM_DIALS_MAX, SWARM_LINKS_MAX, SYNC_ADVERTS_EVERY_US,
};
use quorate_core::mesh::Input;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A member whose connection began as a stranger's and was not made anew by then.
const STALE_AFTER: Duration = Duration::from_secs(3);

/// Between two ticks; answers that came meanwhile are looked at before anybody is given up.
const AWAY_AFTER: Duration = Duration::from_secs(1);
/// Where there is room for more links.
const DIALS_OF_A_TICK: usize = 2;
/// A few tests of AutoNAT: the first one may have tried an address that nobody listens at.
const HIDDEN_FOR: Duration = Duration::from_secs(15);

impl Task {
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        self.input(Input::Tick);
        // Who was away himself, asleep or out of breath, has heard nobody.
        let was_here = now.duration_since(self.ticked) < AWAY_AFTER;
        self.ticked = now;
        if was_here {
            for (key, connection) in self.links.silent(now) {
                self.lose(key, connection);
            }
        }
        if self.advertise_at <= now {
            self.advertise(false);
        }
        self.compare(now);
        self.tend_links(now);
        self.dial_members(now);
        if !self.links.peers.values().any(|peer| peer.is_open()) {
            for seed in self.dials.seeds_due(now, &self.own) {
                self.dial(seed);
            }
        }
        self.seek_relay(now);
    }

    /// Asks one neighbour after the other who is there: gossip may have lost something.
    fn compare(&mut self, now: Instant) {
        if self.compare_at > now {
            return;
        }
        let every = Duration::from_micros(SYNC_ADVERTS_EVERY_US);
        self.compare_at = now + every;
        let turn = (now - self.started).as_secs() / every.as_secs();
        let open = self.links.peers.values_mut().filter(|peer| peer.is_open());
        let mut open: Vec<_> = open.collect();
        if !open.is_empty() {
            let peer = (self.instance.wrapping_add(turn) % open.len() as u64) as usize;
            open[peer].knows_adverts = false;
            open[peer].next_sync = now;
        }
    }

    /// Greets and syncs who is due, shows strangers out, closes what is not needed.
    fn tend_links(&mut self, now: Instant) {
        let (mut greet, mut sync, mut close) = (vec![], vec![], vec![]);
        for (key, peer) in &mut self.links.peers {
            let age = now.duration_since(peer.since);
            let is_member = self.book.is_member(key);
            // Not at once: the answer that says so is still on its way.
            peer.stale_since = match is_member && !peer.is_open() {
                true => peer.stale_since.or(Some(now)),
                false => None,
            };
            let stale_for = peer.stale_since.map(|since| now.duration_since(since));
            let is_stale = stale_for.is_some_and(|time| time >= STALE_AFTER);
            let is_over = peer.renew_at.is_some_and(|at| at <= now);
            if is_over || is_stale || (!is_member && age >= Duration::from_millis(STRANGER_MS_MAX))
            {
                close.extend(peer.connections.iter().map(|c| c.id));
            } else if peer.next_greeting.is_some_and(|at| at <= now) {
                peer.next_greeting = None;
                greet.push(*key);
            } else if peer.is_open() && peer.knows_us && !peer.is_pulling && peer.next_sync <= now {
                sync.push(*key);
            }
        }
        close.extend(self.links.surplus(now, &self.own));
        close.into_iter().for_each(|id| {
            self.swarm.close_connection(id);
        });
        greet.iter().for_each(|key| self.greet(key));
        sync.iter().for_each(|key| self.pull(key));
    }

    fn dial_members(&mut self, now: Instant) {
        let linked = self.links.peers.values().filter(|peer| peer.is_open());
        // What is dialled now counts when it stands: not all at once, or it would be too many.
        let room = SWARM_LINKS_MAX.saturating_sub(linked.count());
        let mut room = room.min(DIALS_OF_A_TICK);
        let mut dials = SWARM_DIALS_MAX.saturating_sub(self.dialling);
        let up = self.moment().up;
        let members = std::mem::take(&mut self.order);
        let mut is_missing = false;
        for &key in &members {
            // Who fell silent may have lost only its connection to us; nobody else would tell us so soon.
            let is_wanted =
                room > 0 || self.dials.is_wanted(now, &key) || self.book.is_silent(&key, up);
            let is_there = self.links.peers.contains_key(&key);
            if dials == 0 || is_there || !is_wanted {
                continue;
            }
            let advert = self.book.advert_of(&key);
            if advert.is_some_and(|advert| advert.leaves) {
                continue; // it comes back by itself
            }
            let told = advert.into_iter().flat_map(|advert| &advert.addresses);
            let told: Vec<Multiaddr> = told.filter_map(|a| multiaddr_of(a, Some(&key))).collect();
            is_missing |= told.is_empty();
            let Some(opts) = self.dials.member_due(now, &key, told) else {
                continue;
            };
            if self.dial(opts) {
                dials -= 1;
                room = room.saturating_sub(1);
            } else {
                self.dials.not_dialled(now, &key);
            }
        }
        self.order = members;
        if is_missing && self.dials.may_look_up(now) {
            self.look_up();
        }
    }

    /// Asks Kademlia where the first member is that no advert tells of.
    fn look_up(&mut self) {
        let is_lost = |key: &&PeerKey| {
            **key != self.own
                && !self.links.peers.contains_key(*key)
                && self.book.advert_of(key).is_none()
        };
        let missing: Vec<PeerKey> = self.book.members().filter(is_lost).copied().collect();
        let turn = self.started.elapsed().as_secs() as usize / 10;
        if let Some(key) = missing.get(turn % missing.len().max(1)) {
            let kad = &mut self.swarm.behaviour_mut().members.inner().kad;
            kad.look_up(peer_of(key));
        }
    }

    pub(super) fn routes(&mut self) -> Vec<PeerKey> {
        let kad = &mut self.swarm.behaviour_mut().members.inner().kad;
        let mut routes = Vec::new();
        for bucket in kad.table().kbuckets() {
            let known = bucket.iter().map(|entry| *entry.node.key.preimage());
            routes.extend(known.filter_map(|peer| key_of(&peer)));
        }
        routes
    }

    /// Others reach this node through members that can be reached: through those that it announces,
    /// or through those on the other side of a router that lets nobody in. Who is on our side of it is
    /// of no use to others; where no router is seen and nobody comes in all the same, any may be.
    fn seek_relay(&mut self, now: Instant) {
        if self.relays.len() >= RELAYS_MAX {
            return;
        }
        let hidden = self.hidden_since.map(|since| now - since);
        let is_hidden = hidden.is_some_and(|time| time >= HIDDEN_FOR);
        let open: BTreeSet<IpAddr> = self.swarm.external_addresses().filter_map(ip_of).collect();
        let announce = &self.settings.announce;
        let is_wanted = |key: &PeerKey, peer: &Peer| match announce.is_empty() {
            true => is_hidden || peer.sees_a_shut_door(now, &open),
            false => announce.iter().any(|one| one.relay.as_ref() == Some(key)),
        };
        let is_new = |key: &PeerKey| !self.relays.iter().any(|(_, relay)| relay == key);
        let candidate = self.links.peers.iter().find_map(|(key, peer)| {
            let (link, connection) = peer.best()?;
            let is_direct = peer.is_relay && peer.is_open() && link != Link::Relayed;
            (is_direct && is_wanted(key, peer) && is_new(key)).then_some(())?;
            self.dials.may_ask_relay(now, *key).then_some(())?;
            if connection.we_dialled {
                return Some((*key, connection.address.clone()));
            }
            let told = &self.book.advert_of(key)?.addresses;
            let direct = told.iter().find(|address| address.relay.is_none())?;
            Some((*key, multiaddr_of(direct, None)?))
        });
        let Some((key, mut address)) = candidate else {
            return;
        };
        if !address.ends_with(&Protocol::P2p(peer_of(&key)).into()) {
            address.push(Protocol::P2p(peer_of(&key)));
        }
        address.push(Protocol::P2pCircuit);
        match self.swarm.listen_on(address) {
            Ok(listener) => self.relays.push((listener, key)),
            Err(error) => {
                tracing::debug!(target: "quorate::swarm", %error, "no reservation at a relay");
            }
        }
    }

    /// Members ask each other where a member is.
    pub(super) fn tell_kad(&mut self, met: Option<PeerKey>, gone: &[PeerKey]) {
        let kad = &mut self.swarm.behaviour_mut().members.inner().kad;
        for node in gone {
            kad.table().remove_peer(&peer_of(node));
        }
        let Some(advert) = met.and_then(|node| self.book.advert_of(&node)) else {
            return;
        };
        let node = peer_of(&advert.node);
        let told = advert.addresses.iter();
        for address in told.filter_map(|a| multiaddr_of(a, Some(&advert.node))) {
            kad.table().add_address(&node, address);
        }
    }
}
