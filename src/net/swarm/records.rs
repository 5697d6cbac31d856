//! Signed records between members. Who connects shows the admissions that lead to him; then each
//! reads what the other has, and again every half minute. News is pushed to everybody at once.

use super::Event;
use super::behaviour::topic;
use super::task::Task;
use crate::identity::{key_of, peer_of};
use libp2p::PeerId;
use libp2p::request_response::{self, Message, OutboundRequestId};
use libp2p::swarm::ConnectionId;
use quorate_core::governance::{Admission, Author, Record, Refusal, Taken};
use quorate_core::ids::PeerKey;
use quorate_core::limits::{ADMISSION_CHAIN_MAX, SYNC_EVERY_MS, SYNC_FLIGHTS_MAX, SYNC_PAGES_MAX};
use quorate_core::mesh::sync::{self, Answer, Ask, Pull, Question};
use quorate_core::mesh::{Advert, Input, join};
use std::time::{Duration, Instant};

const GREET_AGAIN: Duration = Duration::from_secs(2);
/// After a sync that may have left something.
const SYNC_AGAIN: Duration = Duration::from_secs(1);

/// A question under way.
pub(super) enum Flight {
    Greeting,
    Push,
    Records(Pull),
    Adverts { pages: u32 },
    Voices { pages: u32 },
}

/// What became of some records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Haul {
    Nothing,
    News,
    /// Some were not looked at: the node has to listen first.
    NoRoom,
}

type SyncEvent = request_response::Event<Vec<u8>, Vec<u8>>;

impl Task {
    /// The admissions that lead to this node; none for a node of the genesis.
    pub(super) fn chain_to(&self, node: &Author) -> Option<Vec<Admission>> {
        let admissions = self.replica.standing().admissions();
        join::chain_to(admissions, node, self.unix_s())
    }

    pub(super) fn greet(&mut self, key: &PeerKey) {
        let chain = self.chain_to(&self.own).unwrap_or_default();
        let mut items: Vec<Vec<u8>> = chain.iter().map(Admission::encode).collect();
        if self.book.is_member(key) {
            items.extend(self.advert.as_ref().map(Advert::encode));
        }
        if !self.ask(key, Question::Take(items), Flight::Greeting) {
            self.greet_later(key);
        }
    }

    fn greet_later(&mut self, key: &PeerKey) {
        if let Some(peer) = self.links.peers.get_mut(key) {
            peer.next_greeting = Some(Instant::now() + GREET_AGAIN);
        }
    }

    /// False: it has enough to answer, or is not connected.
    pub(super) fn ask(&mut self, key: &PeerKey, question: Question, flight: Flight) -> bool {
        let Some(peer) = self.links.peers.get_mut(key) else {
            return false;
        };
        if peer.flights >= SYNC_FLIGHTS_MAX {
            return false;
        }
        peer.flights += 1;
        let network = self.network;
        let bytes = Ask { network, question }.encode();
        let sync = &mut self.swarm.behaviour_mut().sync;
        let id = sync.send_request(&peer_of(key), bytes);
        self.flights.insert(id, (*key, flight));
        true
    }

    /// Begins to read what the other has that we lack.
    pub(super) fn pull(&mut self, key: &PeerKey) {
        let (pull, ask) = Pull::start(self.network, self.replica.records());
        let asked = self.ask(key, ask.question, Flight::Records(pull));
        if let Some(peer) = self.links.peers.get_mut(key) {
            peer.is_pulling = asked;
            peer.next_sync = Instant::now() + Duration::from_millis(SYNC_EVERY_MS);
        }
    }

    /// To every member that is connected, but the one that it came from. What does not go now comes
    /// with the next sync.
    pub(super) fn spread(&mut self, items: Vec<Vec<u8>>, from: Option<&PeerKey>) {
        let open = self.links.peers.iter().filter(|(_, peer)| peer.is_open());
        let to: Vec<PeerKey> = open.map(|(key, _)| *key).collect();
        for question in sync::parcels(items) {
            for key in to.iter().filter(|key| Some(*key) != from) {
                self.ask(key, question.clone(), Flight::Push);
            }
        }
    }

    pub(super) fn synced(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Message {
                peer,
                connection_id,
                message:
                    Message::Request {
                        request, channel, ..
                    },
            } => {
                let answer = self.answer(&peer, connection_id, &request);
                // Who asked may be gone.
                let sync = &mut self.swarm.behaviour_mut().sync;
                sync.send_response(channel, answer.encode()).ok();
            }
            SyncEvent::Message {
                message:
                    Message::Response {
                        request_id,
                        response,
                    },
                ..
            } => {
                if let Some((key, flight)) = self.landed(request_id) {
                    self.answered(&key, flight, &response);
                }
            }
            SyncEvent::OutboundFailure {
                request_id, error, ..
            } => {
                if let Some((key, flight)) = self.landed(request_id) {
                    self.unanswered(&key, &flight, &error);
                }
            }
            _ => {}
        }
    }

    fn landed(&mut self, id: OutboundRequestId) -> Option<(PeerKey, Flight)> {
        let (key, flight) = self.flights.remove(&id)?;
        if let Some(peer) = self.links.peers.get_mut(&key) {
            peer.flights = peer.flights.saturating_sub(1);
        }
        Some((key, flight))
    }

    fn answer(&mut self, peer: &PeerId, connection: ConnectionId, asked: &[u8]) -> Answer {
        let (Some(key), Ok(ask)) = (key_of(peer), Ask::decode(asked)) else {
            return Answer::Refused;
        };
        if ask.network != self.network {
            return Answer::Refused;
        }
        match ask.question {
            Question::Take(items) => self.take_from(&key, connection, items),
            _ if !self.book.is_member(&key) => Answer::Refused,
            Question::Voices(heard) => self.told_of_experts(&heard),
            question => {
                let adverts = self.book.adverts(self.moment().up);
                let records = self.replica.records();
                sync::answer(records, self.advert.as_ref(), adverts, &question)
            }
        }
    }

    fn take_from(
        &mut self,
        key: &PeerKey,
        connection: ConnectionId,
        items: Vec<Vec<u8>>,
    ) -> Answer {
        let was_member = self.book.is_member(key);
        let (adverts, records): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| Advert::is_one(item));
        let decoded = records.iter().filter_map(|item| Record::decode(item).ok());
        if was_member {
            self.take(decoded.collect(), Some(key));
        } else {
            // A stranger may show why he is none, or carry halts, and nothing else.
            let admissions = decoded.filter(|record| matches!(record, Record::Admission(_)));
            self.take(admissions.take(ADMISSION_CHAIN_MAX).collect(), Some(key));
        }
        if !self.book.is_member(key) {
            return self.carried(key, &records);
        }
        for advert in adverts {
            self.hear_of(key, 0, &advert);
        }
        if !was_member {
            self.greet(key);
        }
        if self.swarm.behaviour().members.is_open(connection) {
            Answer::Same
        } else {
            Answer::Differ
        }
    }

    /// Takes what is news, once the ones that they rest on are there. None is taken that the node
    /// cannot be told of now.
    pub(super) fn take(&mut self, records: Vec<Record>, from: Option<&PeerKey>) -> Haul {
        let (mut news, mut told, mut next) = (Vec::new(), Vec::new(), records);
        let mut has_room = true;
        loop {
            let mut waiting = Vec::new();
            let before = news.len();
            for record in next {
                if self.replica.records().contains(&record.id()) {
                    continue;
                }
                let Ok(place) = self.events.clone().try_reserve_owned() else {
                    tracing::debug!(target: "quorate::swarm", "records wait: the node is busy");
                    has_room = false;
                    break;
                };
                match self.replica.insert(record.clone()) {
                    Taken::New => {
                        news.push(record.encode());
                        told.push((place, record));
                    }
                    Taken::Refused(Refusal::Stranger) => waiting.push(record),
                    Taken::Known | Taken::Refused(_) => {}
                }
            }
            self.replica.refold();
            if !has_room || waiting.is_empty() || news.len() == before {
                break;
            }
            next = waiting;
        }
        let haul = match (has_room, news.is_empty()) {
            (false, _) => Haul::NoRoom,
            (true, true) => Haul::Nothing,
            (true, false) => Haul::News,
        };
        if !news.is_empty() {
            self.recount();
            self.spread(news, from);
        }
        // Whoever hears of a record finds that it counts already.
        for (place, record) in told {
            place.send(Event::Recorded(Box::new(record)));
        }
        haul
    }

    pub(super) fn sync_soon(&mut self, key: &PeerKey) {
        if let Some(peer) = self.links.peers.get_mut(key) {
            peer.next_sync = peer.next_sync.min(Instant::now() + SYNC_AGAIN);
        }
    }

    pub(super) fn insert(&mut self, record: Record) -> Taken {
        let bytes = record.encode();
        let taken = self.replica.insert(record);
        if taken == Taken::New {
            self.replica.refold();
            self.recount();
            self.spread(vec![bytes], None);
        }
        taken
    }

    /// The records may have changed who belongs.
    pub(super) fn recount(&mut self) {
        let admissions = self.replica.standing().admissions().clone();
        self.input(Input::Members(admissions));
    }

    fn answered(&mut self, key: &PeerKey, flight: Flight, answer: &[u8]) {
        let Ok(answer) = Answer::decode(answer) else {
            self.swarm.disconnect_peer_id(peer_of(key)).ok(); // it speaks something else
            return;
        };
        match flight {
            Flight::Push => {}
            Flight::Greeting => self.greeted(key, &answer),
            Flight::Records(pull) => self.pulled(key, pull, &answer),
            Flight::Adverts { pages } => {
                let Answer::Some { items, more } = answer else {
                    return self.ask_of_experts(key, 0);
                };
                let mut is_news = false;
                for (age_us, advert) in items.iter().filter_map(|item| sync::untold(item)) {
                    is_news |= self.hear_of(key, age_us, advert);
                }
                // What is no news to us would come again.
                match more && is_news && pages < SYNC_PAGES_MAX {
                    true => self.ask_who_is_there(key, pages + 1),
                    false => self.ask_of_experts(key, 0),
                }
            }
            Flight::Voices { pages } => self.hear_of_experts(key, pages, &answer),
        }
    }

    fn pulled(&mut self, key: &PeerKey, mut pull: Pull, answer: &Answer) {
        let mut haul = Haul::Nothing;
        if let Answer::Some { items, .. } = answer {
            let records = items.iter().filter_map(|item| Record::decode(item).ok());
            haul = self.take(records.collect(), Some(key));
        }
        // What came may have rested on what came after it; what had no room will have some.
        if haul != Haul::Nothing {
            self.sync_soon(key);
        }
        let next = pull.next(self.replica.records(), answer);
        match next.filter(|_| haul != Haul::NoRoom) {
            Some(ask) => {
                let asked = self.ask(key, ask.question, Flight::Records(pull));
                self.goes_on(key, asked);
            }
            None => self.ask_who_is_there(key, 0),
        }
    }

    /// Once for every connection, and now and then one of them again; page by page. Else gossip tells.
    fn ask_who_is_there(&mut self, key: &PeerKey, pages: u32) {
        let Some(peer) = self.links.peers.get_mut(key) else {
            return;
        };
        if pages == 0 && std::mem::replace(&mut peer.knows_adverts, true) {
            return self.goes_on(key, false);
        }
        let question = Question::Adverts(self.book.heard());
        let asked = self.ask(key, question, Flight::Adverts { pages });
        self.goes_on(key, asked);
    }

    pub(super) fn goes_on(&mut self, key: &PeerKey, is_pulling: bool) {
        if let Some(peer) = self.links.peers.get_mut(key) {
            peer.is_pulling = is_pulling;
        }
    }

    fn greeted(&mut self, key: &PeerKey, answer: &Answer) {
        let is_member = self.book.is_member(key);
        let Some(peer) = self.links.peers.get_mut(key) else {
            return;
        };
        match answer {
            Answer::Same => {
                peer.knows_us = true;
                if peer.is_open() {
                    self.dials.forgive(key);
                    self.pull(key);
                }
            }
            // It knows us since a moment ago: whoever dialled does it again.
            Answer::Differ if is_member => {
                self.swarm.disconnect_peer_id(peer_of(key)).ok();
            }
            Answer::Refused if is_member => self.greet_later(key),
            Answer::Refused => {
                self.swarm.disconnect_peer_id(peer_of(key)).ok();
            }
            // It will show who it is.
            _ => {}
        }
    }

    fn unanswered(
        &mut self,
        key: &PeerKey,
        flight: &Flight,
        error: &request_response::OutboundFailure,
    ) {
        use request_response::OutboundFailure::UnsupportedProtocols;
        tracing::debug!(target: "quorate::swarm", peer = %peer_of(key), %error, "not answered");
        match flight {
            Flight::Greeting if !matches!(error, UnsupportedProtocols) => self.greet_later(key),
            Flight::Greeting | Flight::Push => {}
            Flight::Records(_) | Flight::Adverts { .. } | Flight::Voices { .. } => {
                self.goes_on(key, false);
            }
        }
    }

    pub(super) fn topic(&self) -> libp2p::gossipsub::IdentTopic {
        topic(self.network)
    }
}
