//! What this node serves, in its own signed words; what others say of themselves; and what the node
//! is told of it.

use super::Event;
use super::records::Flight;
use super::task::Task;
use crate::identity::key_of;
use libp2p::gossipsub::{self, MessageAcceptance, PublishError};
use quorate_core::governance::Author;
use quorate_core::ids::PeerKey;
use quorate_core::limits::{ADDRESSES_MAX, ADVERT_BYTES_MAX, ADVERT_EVERY_US, ADVERT_EXPERTS_MAX};
use quorate_core::mesh::sync::Question;
use quorate_core::mesh::{Advert, ExpertRow, Gone, Input, Output, Refusal, Source};
use std::time::{Duration, Instant};

/// News that is on its way to a peer gets there before its connections are made anew.
const RENEW_AFTER: Duration = Duration::from_millis(500);
const RENEW_EVERY: Duration = Duration::from_secs(60);

impl Task {
    /// Signs a new advert and tells it; one that says something new also to each member by itself.
    pub(super) fn advertise(&mut self, leaves: bool) {
        self.advertise_at = Instant::now() + Duration::from_micros(ADVERT_EVERY_US);
        let Some(advert) = self.write_advert(leaves) else {
            return;
        };
        let bytes = advert.encode();
        let is_news = self
            .advert
            .as_ref()
            .is_none_or(|last| !says_the_same(last, &advert));
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
    fn write_advert(&self, leaves: bool) -> Option<Advert> {
        // Above what any earlier life of this node has said, if its clock did not go back.
        let first = self.unix_s() << 20;
        let seq = self.advert.as_ref().map_or(first, |last| last.seq + 1);
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

    /// An advert that `teller` passed on over its own connection. Whose is it?
    pub(super) fn hear_of(&mut self, teller: &PeerKey, bytes: &[u8]) -> Option<Author> {
        let advert = Advert::decode(bytes).ok()?;
        let node = advert.node;
        let from = match node == *teller {
            true => Source::Peer(node),
            false => Source::Gossip,
        };
        self.hear(from, advert).ok();
        Some(node)
    }

    fn hear(&mut self, from: Source, advert: Advert) -> Result<(), Refusal> {
        let (node, instance) = (advert.node, advert.instance);
        // The last words of an earlier life of this node are no twin's.
        if node == self.own && advert.issued_s <= self.started_s + 2 {
            return Err(Refusal::Own);
        }
        let bytes = advert.encode();
        let known = self.book.advert_of(&node).map(|known| known.instance);
        let advert = Box::new(advert);
        let verdict = self.input(Input::Advert { from, advert });
        if verdict == Some(Ok(())) {
            self.heard.insert(node, Instant::now());
            if known.is_some_and(|known| known != instance) {
                self.tell_twins(&node, bytes.clone());
            }
            // From its own mouth: two parts of a mesh that meet hear of each other at once.
            if from == Source::Peer(node) && known != Some(instance) {
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
        match self.hear(Source::Gossip, advert) {
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
        let (mut verdict, mut met, mut removed) = (None, None, vec![]);
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
                    removed.extend((why == Gone::Removed).then_some(node));
                    self.owed.insert((false, node), Event::Lost { node, why });
                }
                Output::Twins(node) => {
                    self.owed.insert((true, node), Event::Twins(node));
                }
            }
        }
        self.tell_kad(met, &removed);
        self.enrol();
        verdict
    }

    /// The gate and the handles know the members of the book.
    fn enrol(&mut self) {
        if !self.roll.set(|| self.book.members()) {
            return;
        }
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

    /// What the node has room for now.
    pub(super) fn settle_events(&mut self) {
        while let Some(first) = self.owed.first_entry() {
            let Ok(place) = self.events.try_reserve() else {
                return;
            };
            place.send(first.remove());
        }
    }
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
