//! The experts that members say they serve, and which of them requests here may use.
//!
//! An expert is adopted when a request needs it: only a model that is in memory here has the
//! vocabulary that its answers are checked against. It is let go when its node says, or shows, that
//! it is gone.

use super::adopt;
use super::dials::Dials;
use crate::driver::Node;
use crate::expert::ExpertFacts;
use crate::identity;
use crate::net::remote::{RemoteExpert, RemoteStatus};
use crate::wire::plane::Letterhead;
use quorate_core::chat::Family;
use quorate_core::ids::{ExpertId, ExpertParts, PeerKey};
use quorate_core::limits::BOOK_NODES_MAX;
use quorate_core::mesh::{Advert, ExpertRow, Place};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Where a node's token plane is now: dials to come read it.
pub(super) type Places = Arc<Mutex<Vec<Place>>>;

pub(super) struct Neighbours {
    node: Node,
    dials: Dials,
    letterhead: watch::Receiver<Letterhead>,
    /// Held across adoption: two requests at once adopt an expert once.
    known: tokio::sync::Mutex<Known>,
    /// The expert here, while this mesh is asked by others as one.
    whole: Mutex<Option<Arc<ExpertFacts>>>,
}

#[derive(Default)]
struct Known {
    /// At most `BOOK_NODES_MAX`, as the book of the swarm holds.
    nodes: BTreeMap<PeerKey, (Box<Advert>, Places)>,
    /// At most `REMOTE_EXPERTS_MAX`: the loop refuses more.
    adopted: BTreeMap<ExpertId, (PeerKey, Arc<RemoteExpert>)>,
}

/// One expert elsewhere, for people.
#[derive(Clone, Debug)]
pub struct Neighbour {
    pub peer: PeerKey,
    pub row: ExpertRow,
    /// None: no request has needed it yet.
    pub status: Option<RemoteStatus>,
}

impl Neighbours {
    pub(super) fn new(
        node: Node,
        dials: Dials,
        letterhead: watch::Receiver<Letterhead>,
    ) -> Neighbours {
        Neighbours {
            node,
            dials,
            letterhead,
            known: tokio::sync::Mutex::default(),
            whole: Mutex::default(),
        }
    }

    /// Adopts whoever is here and whoever comes, until it is told None.
    pub(super) async fn keep_ready_for(&self, here: Option<Arc<ExpertFacts>>) {
        self.whole
            .lock()
            .expect("nobody panics with it")
            .clone_from(&here);
        if let Some(here) = here {
            self.ready_for(&here).await;
        }
    }

    /// A node's advert is new, or has changed.
    pub(super) async fn met(&self, advert: Box<Advert>) {
        let mut known = self.known.lock().await;
        let peer = advert.node;
        // Another process under the key: whatever failed with the last one is over.
        let began_anew = known
            .nodes
            .get(&peer)
            .is_some_and(|(old, _)| old.instance != advert.instance);
        let serves = |id: &ExpertId| advert.experts.iter().any(|row| row.expert == *id);
        let of_peer = known.adopted.iter().filter(|(_, (of, _))| *of == peer);
        let dropped: Vec<ExpertId> = of_peer
            .map(|(id, _)| *id)
            .filter(|id| began_anew || !serves(id))
            .collect();
        for id in dropped {
            self.lose(
                &mut known,
                id,
                "its node began anew, or serves it no longer",
            )
            .await;
        }
        if let Some((old, places)) = known.nodes.get_mut(&peer) {
            places
                .lock()
                .expect("nobody panics with it")
                .clone_from(&advert.plane);
            *old = advert;
        } else if known.nodes.len() < BOOK_NODES_MAX {
            let places = Places::new(Mutex::new(advert.plane.clone()));
            known.nodes.insert(peer, (advert, places));
        }
        drop(known);
        let whole = self.whole.lock().expect("nobody panics with it").clone();
        if let Some(here) = whole {
            self.ready_for(&here).await;
        }
    }

    pub(super) async fn lost(&self, peer: PeerKey, why: &str) {
        let mut known = self.known.lock().await;
        known.nodes.remove(&peer);
        let of_peer = known.adopted.iter().filter(|(_, (of, _))| *of == peer);
        let gone: Vec<ExpertId> = of_peer.map(|(id, _)| *id).collect();
        for id in gone {
            self.lose(&mut known, id, why).await;
        }
    }

    /// The mesh is left: nobody is asked any more.
    pub(super) async fn lose_all(&self, why: &str) {
        let mut known = self.known.lock().await;
        known.nodes.clear();
        let all: Vec<ExpertId> = known.adopted.keys().copied().collect();
        for id in all {
            self.lose(&mut known, id, why).await;
        }
    }

    async fn lose(&self, known: &mut Known, id: ExpertId, why: &str) {
        known.adopted.remove(&id);
        // False where it left by another way already.
        self.node.lose(id, why).await;
    }

    /// Adopts everybody who speaks the vocabulary of this expert here; says how many there are.
    pub(super) async fn ready_for(&self, here: &Arc<ExpertFacts>) -> usize {
        let mut known = self.known.lock().await;
        let fingerprint = here.vocab.fingerprint();
        let mut fresh = Vec::new();
        let mut fit = 0;
        for (peer, (advert, places)) in &known.nodes {
            for row in advert
                .experts
                .iter()
                .filter(|r| r.vocabulary == fingerprint)
            {
                fit += 1;
                if !known.adopted.contains_key(&row.expert) {
                    fresh.push((*peer, row.clone(), places.clone()));
                }
            }
        }
        for (peer, row, places) in fresh {
            let facts = Arc::new(facts_of(peer, &row, here));
            let dial = self.dials.to(peer, places);
            let adopted = adopt(&self.node, facts, dial, self.letterhead.clone()).await;
            match adopted {
                Ok(expert) => {
                    known.adopted.insert(row.expert, (peer, expert));
                }
                Err(error) => {
                    fit -= 1;
                    let node = identity::peer_id(&peer);
                    tracing::warn!(target: "quorate::mesh", node, expert = %row.expert, ?error, "an expert is not taken");
                }
            }
        }
        fit
    }

    pub(super) async fn list(&self) -> Vec<Neighbour> {
        let known = self.known.lock().await;
        let rows = known.nodes.iter().flat_map(|(peer, (advert, _))| {
            let rows = advert.experts.iter().cloned();
            rows.map(|row| (*peer, row))
        });
        let neighbour = |(peer, row): (PeerKey, ExpertRow)| {
            let status = known.adopted.get(&row.expert).map(|(_, e)| e.status());
            Neighbour { peer, row, status }
        };
        rows.map(neighbour).collect()
    }
}

/// An expert's id says whether there is anything behind it but the model file.
fn is_plain(peer: PeerKey, row: &ExpertRow, sha256: &str) -> bool {
    let plain = ExpertParts {
        peer: &peer,
        model_sha256: sha256,
        adapter: "",
        context: row.context,
        prefix: None,
    };
    ExpertId::of(&plain) == row.expert
}

/// What is believed of an expert elsewhere: its node's words, and the vocabulary from here.
fn facts_of(peer: PeerKey, row: &ExpertRow, here: &ExpertFacts) -> ExpertFacts {
    let family = Family::ALL.into_iter().find(|f| f.name() == row.family);
    let sha256: String = row.file.iter().map(|byte| format!("{byte:02x}")).collect();
    ExpertFacts {
        id: row.expert,
        peer: Some(peer),
        model: row.model.clone(),
        file: is_plain(peer, row, &sha256).then_some(row.file),
        sha256,
        family: family.unwrap_or(here.family),
        vocab: here.vocab.clone(),
        bos: here.bos,
        context: row.context,
        model_bytes: 0,
        cache_bytes: 0,
        processor: "elsewhere".into(),
    }
}
