//! Whom to dial next, and when: members that are not connected, and seeds while nobody is.

use super::Seed;
use super::reach::multiaddr_of;
use crate::identity::peer_of;
use libp2p::Multiaddr;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use quorate_core::ids::PeerKey;
use quorate_core::limits::{
    ADDRESSES_MAX, MDNS_STRANGERS_MAX, REDIAL_MS_MAX, SWARM_WANTED_MAX, SWARM_WANTED_MS,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(1_000);
const LAST_PAUSE: Duration = Duration::from_millis(REDIAL_MS_MAX);
/// By then the first neighbours have told who is there.
const FIRST_LOOKUP: Duration = Duration::from_secs(10);
const WANTED_FOR: Duration = Duration::from_millis(SWARM_WANTED_MS);

struct Pace {
    next: Instant,
    pause: Duration,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace {
            next: now,
            pause: FIRST_PAUSE,
        }
    }

    /// True, and later again: each time after a longer pause.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next <= now;
        if is_due {
            self.next = now + self.pause;
            self.pause = LAST_PAUSE.min(2 * self.pause);
        }
        is_due
    }

    /// Nothing was tried: now is as good a time as it was.
    fn take_back(&mut self, now: Instant) {
        self.next = now;
        self.pause = FIRST_PAUSE.max(self.pause / 2);
    }
}

pub(super) struct Dials {
    seeds: Vec<(Seed, Pace)>,
    members: BTreeMap<PeerKey, Pace>,
    /// Where a node was found that no advert tells of: by us, on the LAN, by Kademlia.
    hints: BTreeMap<PeerKey, Vec<Multiaddr>>,
    /// Members that were asked to carry connections to us.
    relays: BTreeMap<PeerKey, Pace>,
    /// Nodes of the LAN that were no members when they were tried.
    strangers: BTreeMap<PeerKey, Instant>,
    /// Members that the node needs to be connected to, until then.
    wanted: BTreeMap<PeerKey, Instant>,
    next_lookup: Instant,
}

impl Dials {
    pub(super) fn new(now: Instant, seeds: Vec<Seed>) -> Dials {
        Dials {
            seeds: seeds.into_iter().map(|s| (s, Pace::new(now))).collect(),
            members: BTreeMap::new(),
            hints: BTreeMap::new(),
            relays: BTreeMap::new(),
            strangers: BTreeMap::new(),
            wanted: BTreeMap::new(),
            next_lookup: now + FIRST_LOOKUP,
        }
    }

    pub(super) fn seeds_due(&mut self, now: Instant, own: &PeerKey) -> Vec<DialOpts> {
        let others = self
            .seeds
            .iter_mut()
            .filter(|(seed, _)| seed.node.as_ref() != Some(own));
        let due = others.filter_map(|(seed, pace)| pace.is_due(now).then_some(&*seed));
        due.filter_map(|Seed { node, address }| {
            let address = multiaddr_of(address, node.as_ref())?;
            Some(match node {
                Some(node) => dial(node, vec![address]),
                None => DialOpts::unknown_peer_id().address(address).build(),
            })
        })
        .collect()
    }

    /// `told`: where its advert says that it is. None: it is not time, or no way is known.
    pub(super) fn member_due(
        &mut self,
        now: Instant,
        member: &PeerKey,
        told: Vec<Multiaddr>,
    ) -> Option<DialOpts> {
        let mut ways = told;
        ways.extend(self.hints.get(member).into_iter().flatten().cloned());
        ways.dedup();
        if ways.is_empty() {
            return None;
        }
        let pace = self.members.entry(*member).or_insert(Pace::new(now));
        pace.is_due(now).then(|| dial(member, ways))
    }

    /// It is dialled soon, whoever else is connected.
    pub(super) fn want(&mut self, now: Instant, member: PeerKey) {
        self.wanted.retain(|_, until| *until > now);
        if self.wanted.len() < SWARM_WANTED_MAX || self.wanted.contains_key(&member) {
            self.wanted.insert(member, now + WANTED_FOR);
            self.members.remove(&member);
        }
    }

    pub(super) fn is_wanted(&self, now: Instant, member: &PeerKey) -> bool {
        self.wanted.get(member).is_some_and(|until| *until > now)
    }

    /// It was due, but libp2p is at it already, perhaps by worse ways.
    pub(super) fn not_dialled(&mut self, now: Instant, member: &PeerKey) {
        if let Some(pace) = self.members.get_mut(member) {
            pace.take_back(now);
        }
    }

    /// May this member be asked for a place, or did it refuse a moment ago?
    pub(super) fn may_ask_relay(&mut self, now: Instant, member: PeerKey) -> bool {
        let pace = self.relays.entry(member).or_insert(Pace::new(now));
        pace.is_due(now)
    }

    /// May Kademlia be asked for a member that nobody told of?
    pub(super) fn may_look_up(&mut self, now: Instant) -> bool {
        let may = self.next_lookup <= now;
        if may {
            self.next_lookup = now + Duration::from_secs(10);
        }
        may
    }

    pub(super) fn hint(&mut self, member: PeerKey, address: Multiaddr) {
        let known = self.hints.entry(member).or_default();
        if !known.contains(&address) {
            known.insert(0, address);
            known.truncate(ADDRESSES_MAX);
        }
    }

    /// It is connected, or has just said where it is.
    pub(super) fn forgive(&mut self, member: &PeerKey) {
        self.members.remove(member);
        self.relays.remove(member);
    }

    /// Nobody is connected any more: seeds are tried at once.
    pub(super) fn forgive_seeds(&mut self, now: Instant) {
        for (_, pace) in &mut self.seeds {
            *pace = Pace::new(now);
        }
    }

    /// A node of the LAN that may be a member that is not known yet. Once a minute.
    pub(super) fn may_try_stranger(&mut self, now: Instant, key: PeerKey) -> bool {
        self.strangers
            .retain(|_, tried| now.duration_since(*tried) < LAST_PAUSE);
        let may = self.strangers.len() < MDNS_STRANGERS_MAX && !self.strangers.contains_key(&key);
        if may {
            self.strangers.insert(key, now);
        }
        may
    }

    pub(super) fn keep_members(&mut self, is_member: impl Fn(&PeerKey) -> bool) {
        self.members.retain(|key, _| is_member(key));
        self.hints.retain(|key, _| is_member(key));
        self.relays.retain(|key, _| is_member(key));
        self.wanted.retain(|key, _| is_member(key));
    }
}

pub(super) fn dial(node: &PeerKey, ways: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer_of(node))
        .addresses(ways)
        .condition(PeerCondition::DisconnectedAndNotDialing)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_a_sign_of_life_ends_them() {
        let start = Instant::now();
        let (mut dials, node) = (Dials::new(start, vec![]), [3; 32]);
        let way: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
        let due = |dials: &mut Dials, s: u64| {
            let now = start + Duration::from_secs(s);
            dials.member_due(now, &node, vec![way.clone()]).is_some()
        };
        let tried: Vec<u64> = (0..200).filter(|s| due(&mut dials, *s)).collect();
        assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        assert!(!due(&mut dials, 200));
        dials.forgive(&node);
        assert!(due(&mut dials, 200));
        assert!(dials.member_due(start, &[4; 32], vec![]).is_none());
    }

    #[test]
    fn a_try_that_was_none_costs_no_pause() {
        let start = Instant::now();
        let (mut dials, node) = (Dials::new(start, vec![]), [3; 32]);
        let way: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
        let tried = (0..20).filter(|s| {
            let now = start + Duration::from_secs(*s);
            let due = dials.member_due(now, &node, vec![way.clone()]).is_some();
            // Somebody else is dialling it until then.
            if due && *s < 10 {
                dials.not_dialled(now, &node);
            }
            due && *s >= 10
        });
        assert_eq!(tried.collect::<Vec<u64>>(), [10, 11, 13, 17]);
    }

    #[test]
    fn so_many_are_wanted_and_no_more() {
        let now = Instant::now();
        let mut dials = Dials::new(now, vec![]);
        let key = |n: usize| [n as u8; 32];
        for n in 0..=SWARM_WANTED_MAX {
            dials.want(now, key(n));
        }
        assert!(dials.is_wanted(now, &key(SWARM_WANTED_MAX - 1)));
        assert!(!dials.is_wanted(now, &key(SWARM_WANTED_MAX)));
        let later = now + WANTED_FOR;
        assert!(!dials.is_wanted(later, &key(0)), "for a minute");
        dials.want(later, key(SWARM_WANTED_MAX));
        assert!(dials.is_wanted(later, &key(SWARM_WANTED_MAX)));
    }

    #[test]
    fn the_lan_cannot_make_us_dial_without_end() {
        let now = Instant::now();
        let mut dials = Dials::new(now, vec![]);
        let key = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            key
        };
        let tried = (0..2 * MDNS_STRANGERS_MAX).filter(|n| dials.may_try_stranger(now, key(*n)));
        assert_eq!(tried.count(), MDNS_STRANGERS_MAX);
        assert!(
            !dials.may_try_stranger(now, key(0)),
            "not twice in a minute"
        );
        assert!(dials.may_try_stranger(now + LAST_PAUSE, key(0)));
    }
}
