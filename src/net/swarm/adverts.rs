//! What this node serves, in its own signed words; what others say of themselves; and what the node
//! is told of it.

use super::Event;
use super::records::Flight;
use super::task::Task;
use crate::identity::key_of;
use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use quorate_core::ids::PeerKey;
use quorate_core::limits::{
    ADDRESSES_MAX, ADVERT_BYTES_MAX, ADVERT_EVERY_US, ADVERT_EXPERTS_MAX, ECHO_EVERY_US,
};
use quorate_core::mesh::sync::Question;
use quorate_core::mesh::{Advert, ExpertRow, Gone, Input, Output, Refusal};
use std::time::{Duration, Instant};

/// News that is on its way to a peer gets there before its connections are made anew.
const RENEW_AFTER: Duration = Duration::from_millis(500);
const RENEW_EVERY: Duration = Duration::from_secs(60);

impl Task {
    /// Signs a new advert and tells it; one that says something new also to each member by itself.
    pub(super) fn advertise(&mut self, leaves: bool) {
        let pause_us = until_own_turn(self.moment().up.0, self.instance);
        self.advertise_at = Instant::now() + Duration::from_micros(pause_us);
        let Some(advert) = self.write_advert(leaves) else {
            return;
        };
        let bytes = advert.encode();
        let last = self.advert.as_ref();
        let is_echo = std::mem::take(&mut self.is_echo);
        let is_news = is_echo || last.is_none_or(|last| !says_the_same(last, &advert));
        self.advert = Some(advert);
        self.publish(bytes.clone());
        if is_news {
            self.spread(vec![bytes], None);
        }
    }

    fn publish(&mut self, advert: Vec<u8>) {
        let topic = self.topic();
        let gossip = &mut self.swarm.behaviour_mut().members.inner().gossip;
        match gossip.publish(topic, advert) {
            // Who connects later reads it with the first sync; what was heard is not said again.
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => {}
            Err(error) => {
                tracing::debug!(target: "quorate::swarm", %error, "an advert was not published");
            }
        }
    }

    /// None if there is nothing that others would take.
    fn write_advert(&mut self, leaves: bool) -> Option<Advert> {
        let seq = self.book.number(self.unix_s());
        let mut plane = self.settings.plane.clone();
        plane.sort();
        plane.dedup();
        plane.truncate(ADDRESSES_MAX);
        let mut advert = Advert {
            network: self.network,
            node: self.own,
            instance: self.instance,
            seq,
            issued_s: self.unix_s(),
            leaves,
            addresses: self.addresses(),
            plane,
            experts: rows(self.serves.clone()),
            signature: [0; 64],
        };
        while advert.encode().len() > ADVERT_BYTES_MAX && advert.experts.pop().is_some() {
            tracing::warn!(target: "quorate::swarm", "an expert is not told to others: the advert is full");
        }
        advert.signature = self.sign(&advert.body())?;
        // What others would refuse is our mistake, and better seen here.
        let checked = Advert::decode(&advert.encode());
        checked
            .inspect_err(|error| {
                tracing::error!(target: "quorate::swarm", %error, "this node's advert is not well-formed: its experts are not told to others");
            })
            .ok()
    }

    pub(super) fn sign(&self, body: &[u8]) -> Option<[u8; 64]> {
        let signature = self.settings.keypair.sign(body).ok()?;
        signature.try_into().ok()
    }

    /// An advert that `teller` passed on over its own connection. Is it news?
    pub(super) fn hear_of(&mut self, teller: &PeerKey, age_us: u64, bytes: &[u8]) -> bool {
        let advert = Advert::decode(bytes);
        advert.is_ok_and(|advert| self.hear(Some(teller), age_us, advert).is_ok())
    }

    fn hear(
        &mut self,
        teller: Option<&PeerKey>,
        age_us: u64,
        advert: Advert,
    ) -> Result<(), Refusal> {
        let (node, instance) = (advert.node, advert.instance);
        let bytes = advert.encode();
        let known = self.book.advert_of(&node).map(|known| known.instance);
        let advert = Box::new(advert);
        let verdict = self.input(Input::Advert { age_us, advert });
        if verdict == Some(Ok(())) {
            self.heard.insert(node, Instant::now());
            if known.is_some_and(|known| known != instance) {
                self.tell_twins(&node, bytes.clone());
            }
            // From its own mouth: two parts of a mesh that meet hear of each other at once.
            if teller == Some(&node) && known != Some(instance) {
                self.publish(bytes);
            }
        }
        verdict.unwrap_or(Ok(()))
    }

    /// A new life of a node, or a second one: each process that is connected under this key hears of
    /// it. Questions go to the connections of a peer in turn.
    fn tell_twins(&mut self, node: &PeerKey, advert: Vec<u8>) {
        let Some(peer) = self.links.peers.get_mut(node) else {
            return;
        };
        // The new one knows others.
        peer.knows_adverts = false;
        // Gossipsub takes a connection beside one of the earlier life for a second one of the same,
        // and tells the new process nothing: both sides begin anew. Once: twins would go on so.
        let now = Instant::now();
        let last = self.renewed.get(node);
        let was_lately = last.is_some_and(|at| now.duration_since(*at) < RENEW_EVERY);
        if peer.overlapped && !was_lately {
            peer.renew_at = Some(now + RENEW_AFTER);
            self.renewed.insert(*node, now);
        }
        let processes = peer.connections.len();
        self.sync_soon(node);
        for _ in 0..processes {
            self.ask(node, Question::Take(vec![advert.clone()]), Flight::Push);
        }
    }

    pub(super) fn gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message {
            propagation_source: teller,
            message_id,
            message,
        } = event
        else {
            return;
        };
        let acceptance = self.judge(&message.data);
        if acceptance == MessageAcceptance::Reject {
            tracing::debug!(target: "quorate::swarm", %teller, "an advert that nobody honest passes on");
        }
        let gossip = &mut self.swarm.behaviour_mut().members.inner().gossip;
        gossip.report_message_validation_result(&message_id, &teller, acceptance);
        // It tells of nodes that we do not know: it knows records that we lack.
        if acceptance == MessageAcceptance::Ignore
            && let Some(peer) = key_of(&teller).and_then(|key| self.links.peers.get_mut(&key))
        {
            peer.next_sync = peer.next_sync.min(Instant::now() + Duration::from_secs(2));
        }
    }

    fn judge(&mut self, bytes: &[u8]) -> MessageAcceptance {
        let Ok(advert) = Advert::decode(bytes) else {
            return MessageAcceptance::Reject;
        };
        // Heard already, in a sync or from the node itself: still news to others.
        if self.book.advert_of(&advert.node) == Some(&advert) {
            return MessageAcceptance::Accept;
        }
        match self.hear(None, 0, advert) {
            Ok(()) => MessageAcceptance::Accept,
            Err(Refusal::OtherMesh) => MessageAcceptance::Reject,
            // Its author may be a member since a moment ago, and clocks differ.
            Err(_) => MessageAcceptance::Ignore,
        }
    }

    /// Tells the book something, and the node what follows.
    pub(super) fn input(&mut self, input: Input) -> Option<Result<(), Refusal>> {
        let mut outputs = Vec::new();
        self.book.handle(self.moment(), input, &mut outputs);
        let (mut verdict, mut met, mut gone) = (None, None, vec![]);
        for output in outputs {
            match output {
                Output::Passed => verdict = Some(Ok(())),
                Output::Refused(why) => verdict = Some(Err(why)),
                Output::Met(advert) => {
                    self.dials.forgive(&advert.node);
                    met = Some(advert.node);
                    self.owed.insert((false, advert.node), Event::Met(advert));
                }
                Output::Lost { node, why } => {
                    let is_over = matches!(why, Gone::Removed | Gone::Expired | Gone::Left);
                    gone.extend(is_over.then_some(node));
                    self.owed.insert((false, node), Event::Lost { node, why });
                }
                Output::Echo => self.echo(),
                Output::Twins(node) => {
                    self.owed.insert((true, node), Event::Twins(node));
                }
            }
        }
        self.tell_kad(met, &gone);
        self.enrol();
        verdict
    }

    /// Others remember more of this node than it has said in this life. Not at once every time: of two
    /// processes with one key each would answer the other without end.
    fn echo(&mut self) {
        let now = Instant::now();
        let again = self
            .echoed
            .map(|at| at + Duration::from_micros(ECHO_EVERY_US));
        let at = again.map_or(now, |again| again.max(now));
        self.is_echo = true;
        self.echoed = Some(at);
        self.advertise_at = self.advertise_at.min(at);
    }

    /// The gate and the handles know the members of the book.
    fn enrol(&mut self) {
        if !self.roll.set(|| self.book.members()) {
            return;
        }
        self.order = order(&self.own, self.book.members());
        self.dials.keep_members(|key| self.book.is_member(key));
        self.heard.retain(|key, _| self.book.is_member(key));
        self.renewed.retain(|key, _| self.book.is_member(key));
        let mut closed = Vec::new();
        for (key, peer) in &self.links.peers {
            if !self.book.is_member(key) {
                let open = peer.connections.iter().filter(|c| c.is_open);
                closed.extend(open.map(|c| c.id));
            }
        }
        for id in closed {
            self.swarm.close_connection(id);
        }
    }

    /// What the node has room for now: losses first, so that it never knows of more than the book.
    pub(super) fn settle_events(&mut self) {
        loop {
            let is_loss = |event: &Event| matches!(event, Event::Lost { .. });
            let loss = self.owed.iter().find(|(_, event)| is_loss(event));
            let next = loss.or(self.owed.first_key_value()).map(|(key, _)| *key);
            let (Some(next), Ok(place)) = (next, self.events.try_reserve()) else {
                return;
            };
            place.send(self.owed.remove(&next).expect("it was found"));
        }
    }
}

/// Each life of a node has turns of its own, whatever it said in between: a mesh whose power came back
/// together does not speak together for ever.
fn until_own_turn(up_us: u64, instance: u64) -> u64 {
    let since_turn = (up_us + ADVERT_EVERY_US - instance % ADVERT_EVERY_US) % ADVERT_EVERY_US;
    ADVERT_EVERY_US - since_turn
}

/// Each node begins with others, so that nobody is everybody's neighbour.
fn order<'a>(own: &PeerKey, members: impl Iterator<Item = &'a PeerKey>) -> Vec<PeerKey> {
    let mut order: Vec<PeerKey> = members.copied().filter(|member| member != own).collect();
    order.sort_by_cached_key(|member| *blake3::keyed_hash(own, member).as_bytes());
    order
}

/// But for the time.
fn says_the_same(last: &Advert, new: &Advert) -> bool {
    let Advert {
        leaves,
        addresses,
        plane,
        experts,
        ..
    } = last;
    (leaves, addresses, plane, experts) == (&new.leaves, &new.addresses, &new.plane, &new.experts)
}

/// As adverts want them: in order, each once, and no more than fit.
fn rows(mut rows: Vec<ExpertRow>) -> Vec<ExpertRow> {
    rows.sort_by_key(|row| row.expert);
    rows.dedup_by_key(|row| row.expert);
    rows.truncate(ADVERT_EXPERTS_MAX);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_between_turns_does_not_move_them() {
        for instance in [0, 1, ADVERT_EVERY_US - 1, u64::MAX] {
            let turn = until_own_turn(0, instance);
            assert!((1..=ADVERT_EVERY_US).contains(&turn));
            for up in [0, turn / 2, turn - 1] {
                assert_eq!(up + until_own_turn(up, instance), turn);
            }
            assert_eq!(until_own_turn(turn, instance), ADVERT_EVERY_US);
        }
    }
}
