//! Invites that are shown at this node. The connection has proved the guest's key.

use super::Event;
use super::task::Task;
use crate::identity::key_of;
use libp2p::request_response::{self, Message};
use quorate_core::governance::{self, Admission, Author, Record, Taken};
use quorate_core::limits::ADMISSION_CHAIN_MAX;
use quorate_core::mesh::Invite;
use quorate_core::mesh::join::{Answer, Refusal, chain_to, judge};

/// A guest that has an admission for longer than this is given none anew.
const RENEW_S: u64 = 30 * 86_400;

type JoinEvent = request_response::Event<Vec<u8>, Vec<u8>>;

impl Task {
    pub(super) fn at_the_door(&mut self, event: JoinEvent) {
        let JoinEvent::Message {
            peer,
            message: Message::Request {
                request, channel, ..
            },
            ..
        } = event
        else {
            return;
        };
        let Some(guest) = key_of(&peer) else {
            return;
        };
        let answer = match self.admit(guest, &request) {
            Ok(chain) => {
                tracing::info!(target: "quorate::swarm", %peer, "joined by an invite of this node");
                Answer::Welcome {
                    genesis: self.replica.genesis().encode(),
                    chain: chain.iter().map(Admission::encode).collect(),
                }
            }
            Err(why) => {
                tracing::info!(target: "quorate::swarm", %peer, %why, "an invite was refused");
                Answer::Refused(why)
            }
        };
        // The guest may be gone.
        let join = &mut self.swarm.behaviour_mut().join;
        join.send_response(channel, answer.encode()).ok();
    }

    /// The admissions that lead to the guest.
    fn admit(&mut self, guest: Author, shown: &[u8]) -> Result<Vec<Admission>, Refusal> {
        let invite = Invite::decode(shown).map_err(|_| Refusal::Malformed)?;
        let is_revoked = (self.settings.revoked)(&invite.nonce);
        let now_s = self.unix_s();
        let admission = judge(&invite, is_revoked, guest, self.own, self.network, now_s)?;
        let lasts = |link: &Admission| link.expires_s > now_s + RENEW_S;
        if let Some(chain) = self.chain_to(&guest)
            && chain.iter().all(lasts)
        {
            return Ok(chain);
        }
        let our_chain = self.chain_to(&self.own).ok_or(Refusal::ChainEnds)?;
        if our_chain.len() >= ADMISSION_CHAIN_MAX {
            return Err(Refusal::ChainEnds);
        }
        let signature = self.sign(&admission.body()).ok_or(Refusal::ChainEnds)?;
        let record = Record::Admission(Admission {
            signature,
            ..admission
        });
        // What the node cannot write down now is not promised; the guest asks again.
        let place = self.events.clone().try_reserve_owned();
        let place = place.map_err(|_| Refusal::Full)?;
        // Tried on a copy: a machine that was taken out must not fill the set with words in vain.
        let mut replica = self.replica.clone();
        match replica.insert(record.clone()) {
            Taken::New | Taken::Known => {}
            Taken::Refused(governance::Refusal::Full) => return Err(Refusal::Full),
            Taken::Refused(_) => return Err(Refusal::ChainEnds),
        }
        replica.refold();
        let chain = chain_to(replica.standing().admissions(), &guest, now_s);
        let chain = chain.ok_or(Refusal::TakenOut)?;
        self.replica = replica;
        let bytes = record.encode();
        self.recount();
        self.spread(vec![bytes], None);
        place.send(Event::Recorded(Box::new(record)));
        Ok(chain)
    }
}
