//! Other meshes that this node serves as experts of its own: each is asked through the one node of it that a pass
//! names, directly.

use super::dials::{addresses, directly};
use super::{adopt, identity};
use crate::driver::{Answers, Node};
use crate::expert::ExpertFacts;
use crate::net::plane::Plane;
use crate::node::Offered;
use crate::wire::plane::{Letterhead, Purpose};
use quorate_core::ids::ExpertId;
use quorate_core::mesh::Pass;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) struct Afar {
    node: Node,
    plane: Arc<Plane>,
    /// At most `EXPERTS_MAX`, as the settings.
    adopted: BTreeMap<ExpertId, Pass>,
}

impl Afar {
    pub(super) fn new(node: Node, plane: Arc<Plane>) -> Afar {
        Afar {
            node,
            plane,
            adopted: BTreeMap::new(),
        }
    }

    /// Those on offer, and no others.
    pub(super) async fn keep(&mut self, offers: &[Offered]) {
        let afar = offers.iter().filter_map(|o| Some((o, o.pass.clone()?)));
        let afar: Vec<(&Offered, Pass)> = afar
            .filter(|(o, _)| o.offer.answers == Answers::AnotherMesh)
            .collect();
        let is_offered = |id: &ExpertId, pass: &Pass| {
            let same = |(o, other): &(&Offered, Pass)| o.offer.id == *id && other == pass;
            afar.iter().any(same)
        };
        let over: Vec<ExpertId> = self
            .adopted
            .iter()
            .filter(|(id, pass)| !is_offered(id, pass))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.adopted.remove(&id);
            self.node.lose(id, "it is no longer served here").await;
        }
        for (offered, pass) in afar {
            if !self.adopted.contains_key(&offered.offer.id)
                && let Err(why) = self.reach(offered, &pass).await
            {
                let expert = &offered.model;
                tracing::warn!(target: "quorate::mesh", expert, why, "another mesh cannot be asked");
            }
        }
    }

    async fn reach(&mut self, offered: &Offered, pass: &Pass) -> Result<(), String> {
        let lease = self.node.acquire(&offered.offer.name).await;
        let lease = lease.map_err(|error| error.to_string())?;
        let here = lease.facts();
        if here.vocab.fingerprint() != pass.row.vocabulary {
            return Err("the model here has another vocabulary".into());
        }
        let facts = ExpertFacts {
            id: pass.row.expert,
            peer: Some(pass.node),
            model: offered.model.clone(),
            sha256: offered.sha256.clone(),
            file: None,
            family: here.family,
            vocab: here.vocab.clone(),
            bos: here.bos,
            context: pass.row.context,
            model_bytes: 0,
            cache_bytes: 0,
            processor: "another mesh".into(),
        };
        let letterhead = Letterhead {
            network: pass.network,
            config: [0; 32], // that mesh reads its own
            governance_head: vec![],
            halted: false,
            purpose: Purpose::User,
        };
        let places = addresses(&pass.plane).await;
        let dial = directly(&self.plane, identity::peer_of(&pass.node), places);
        let letterhead = watch::channel(letterhead).1;
        adopt(&self.node, Arc::new(facts), dial, letterhead)
            .await
            .map_err(|error| error.to_string())?;
        self.adopted.insert(pass.row.expert, pass.clone());
        Ok(())
    }
}
