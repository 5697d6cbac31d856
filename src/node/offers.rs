//! Experts of the settings: a model with an adapter or a private prefix, a name of its own, and who
//! may ask it.

use super::Library;
use crate::config::{ExpertSettings, Source};
use crate::driver::{AcquireError, Answers, Offer};
use crate::store::Resolved;
use crate::store::adapter::ResolvedAdapter;
use quorate_core::chat::Family;
use quorate_core::host::Allow;
use quorate_core::ids::{ExpertId, ExpertParts, Fingerprint, PeerKey};
use quorate_core::limits::{ADVERT_EXPERTS_MAX, ADVERT_NAME_BYTES_MAX, EXPERTS_MAX, SESSIONS_MAX};
use quorate_core::mesh::{ExpertRow, Pass};
use quorate_core::residency::Shared;
use tokio::sync::watch;

/// Why an expert is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unregistrable {
    #[error("'{0}' is an alias in the settings already")]
    Alias(String),
    #[error("this node serves {EXPERTS_MAX} experts, which is as many as it takes")]
    Full,
}

/// What a name leads to.
pub(super) struct Wanted {
    /// As the driver knows it: an expert's own name, or the model's.
    pub(super) name: String,
    pub(super) resolved: Resolved,
    pub(super) adapter: Option<ResolvedAdapter>,
    /// Empty: none.
    pub(super) prefix: String,
}

impl Wanted {
    /// What the engine keeps once for all experts on one file. One with a private prefix and no
    /// adapter is loaded apart from the others, whatever pages the system lets them share.
    pub(super) fn shared(&self) -> Option<Shared> {
        let apart = self.adapter.is_none() && !self.prefix.is_empty();
        (!apart).then(|| Shared {
            key: self.resolved.path.display().to_string(),
            bytes: self.resolved.facts.tensor_bytes.max(self.resolved.bytes),
        })
    }
}

/// An expert on offer, with what an advert says of it.
#[derive(Clone, Debug)]
pub struct Offered {
    pub offer: Offer,
    /// The store's name of the model, and the hash of its file.
    pub model: String,
    pub sha256: String,
    pub family: Family,
    /// In hex; None until the model was loaded once on this machine.
    pub vocab_fingerprint: Option<String>,
    /// Tokens that one session may hold, before a private prefix takes its part.
    pub context: u32,
    pub private: bool,
    /// The way there, where another mesh answers.
    pub pass: Option<Pass>,
}

impl Library {
    /// Hears when what this node serves has changed.
    pub fn changes(&self) -> watch::Receiver<Vec<ExpertSettings>> {
        self.experts.subscribe()
    }

    /// One more expert, or another one under a name that is known, until the node stops.
    pub fn register(&self, expert: ExpertSettings) -> Result<(), Unregistrable> {
        if self.settings.aliases.contains_key(&expert.name) {
            return Err(Unregistrable::Alias(expert.name));
        }
        let mut full = false;
        self.experts.send_if_modified(|experts| {
            let known = experts.iter().position(|e| e.name == expert.name);
            full = known.is_none() && experts.len() >= EXPERTS_MAX;
            match known {
                _ if full => return false,
                Some(at) if experts[at] == expert => return false,
                Some(at) => experts[at] = expert.clone(),
                None => experts.push(expert.clone()),
            }
            true
        });
        match full {
            true => Err(Unregistrable::Full),
            false => Ok(()),
        }
    }

    /// False if there is none of this name.
    pub fn unregister(&self, name: &str) -> bool {
        self.experts.send_if_modified(|experts| {
            let before = experts.len();
            experts.retain(|expert| expert.name != name);
            experts.len() < before
        })
    }

    fn expert_named(&self, name: &str) -> Option<ExpertSettings> {
        let experts = self.experts.borrow();
        experts.iter().find(|e| e.name == name).cloned()
    }

    /// An expert of the settings, else a model.
    pub(super) fn wanted(&self, typed: &str) -> Result<Wanted, AcquireError> {
        let Some(expert) = self.expert_named(typed) else {
            let resolved = self.resolve(typed)?;
            return Ok(Wanted {
                name: resolved.name.clone(),
                resolved,
                adapter: None,
                prefix: String::new(),
            });
        };
        self.wanted_expert(&expert)
    }

    fn wanted_expert(&self, expert: &ExpertSettings) -> Result<Wanted, AcquireError> {
        let cannot = |why| AcquireError::Load {
            name: expert.name.clone(),
            why,
        };
        if expert.source() != Source::Model {
            return self.wanted_part(cannot);
        }
        let prefix = expert
            .prefix
            .as_ref()
            .map_or(Ok(String::new()), |p| p.text());
        let prefix = prefix.map_err(cannot)?;
        let resolved = self.resolve_owners(&expert.model)?;
        let adapter = expert.adapter.as_ref();
        let adapter = adapter.map(|name| self.adapters.verify(name, &resolved));
        Ok(Wanted {
            name: expert.name.clone(),
            resolved,
            adapter: adapter
                .transpose()
                .map_err(|error| cannot(error.to_string()))?,
            prefix,
        })
    }

    /// The model here that has part where a mesh answers, or that has the vocabulary of another one.
    fn wanted_part(&self, cannot: impl Fn(String) -> AcquireError) -> Result<Wanted, AcquireError> {
        let mesh = self.settings.mesh.model.as_deref();
        let name = mesh.unwrap_or(&self.settings.default_model);
        match self.expert_named(name) {
            Some(part) if part.source() != Source::Model => {
                let why = format!("`mesh.model` is '{name}', which is no model of this node");
                Err(cannot(why))
            }
            _ => self.wanted(name),
        }
    }

    pub(super) fn expert_id(&self, wanted: &Wanted, context: u32) -> ExpertId {
        let prefix = (!wanted.prefix.is_empty()).then(|| {
            let commitment = blake3::keyed_hash(&self.node.prefix_secret, wanted.prefix.as_bytes());
            *commitment.as_bytes()
        });
        ExpertId::of(&ExpertParts {
            peer: &self.node.key,
            model_sha256: &wanted.resolved.sha256,
            adapter: wanted.adapter.as_ref().map_or("", |a| &a.sha256),
            context,
            prefix,
        })
    }

    /// Everything on offer that can be served now. What cannot is left out and logged.
    pub fn offers(&self) -> Vec<Offered> {
        // Who says nothing about experts gives the model that the node has anyway.
        let experts = self.experts.borrow().clone();
        if experts.is_empty() {
            let wanted = self.wanted(&self.settings.default_model);
            return self.offered(wanted, Allow::Mesh).into_iter().collect();
        }
        let shared = experts.iter();
        let shared = shared.filter_map(|expert| Some((expert, expert.share.clone()?)));
        let offered = shared.filter_map(|(expert, allow)| self.offered_expert(expert, allow));
        offered.collect()
    }

    fn offered_expert(&self, expert: &ExpertSettings, allow: Allow) -> Option<Offered> {
        let here = self.offered(self.wanted_expert(expert), allow)?;
        let whole = |answers, id| Offer {
            id,
            answers,
            ..here.offer.clone()
        };
        match expert.source() {
            Source::Model => Some(here),
            Source::Mesh => {
                let id = ExpertId::of(&ExpertParts {
                    peer: &self.node.key,
                    model_sha256: &here.sha256,
                    adapter: "the whole mesh",
                    context: here.context,
                    prefix: None,
                });
                Some(Offered {
                    offer: whole(Answers::Mesh, id),
                    model: expert.name.clone(),
                    private: false,
                    ..here
                })
            }
            Source::AnotherMesh(pass) => Some(Offered {
                offer: whole(Answers::AnotherMesh, pass.row.expert),
                model: expert.name.clone(),
                sha256: hex_of(&pass.row.file),
                vocab_fingerprint: Some(pass.row.vocabulary.to_string()),
                context: pass.row.context,
                private: false,
                pass: Some(*pass),
                ..here
            }),
        }
    }

    /// This node's mesh, as an expert of that name for others; None if it is none.
    pub fn mesh_row(&self, name: &str) -> Option<ExpertRow> {
        let whole = |o: &&Offered| o.offer.answers == Answers::Mesh && o.model == name;
        self.offers().iter().find(whole).and_then(row)
    }

    /// Does the owner let this node, of another mesh, ask this one?
    pub fn invites(&self, peer: &PeerKey) -> bool {
        let named = |allow: &Allow| *allow != Allow::Mesh && allow.admits(peer);
        let experts = self.experts.borrow();
        let mut meshes = experts.iter().filter(|e| e.source() == Source::Mesh);
        meshes.any(|e| e.share.as_ref().is_some_and(named))
    }

    /// What an advert says of them. Those whose vocabulary nobody has seen yet are not in it.
    pub fn rows(&self) -> Vec<ExpertRow> {
        // Nobody of a mesh asks it as one expert: the question would come round to him.
        let offers = self.offers();
        let experts = offers.iter().filter(|o| o.offer.answers != Answers::Mesh);
        let mut rows: Vec<ExpertRow> = experts.filter_map(row).collect();
        rows.sort_by_key(|row| row.expert);
        rows.dedup_by_key(|row| row.expert);
        rows.truncate(ADVERT_EXPERTS_MAX);
        rows
    }

    fn offered(&self, wanted: Result<Wanted, AcquireError>, allow: Allow) -> Option<Offered> {
        let wanted = wanted.inspect_err(|error| {
            tracing::debug!(target: "quorate::models", %error, "not on offer");
        });
        let wanted = wanted.ok()?;
        let plan = self.plan_of(&wanted).ok()?;
        Some(Offered {
            offer: Offer {
                id: self.expert_id(&wanted, plan.context),
                name: wanted.name,
                allow,
                answers: Answers::Model,
            },
            model: wanted.resolved.name.clone(),
            sha256: wanted.resolved.sha256.clone(),
            family: super::family(&wanted.resolved),
            vocab_fingerprint: wanted.resolved.vocab_fingerprint.clone(),
            context: plan.context,
            private: !wanted.prefix.is_empty(),
            pass: None,
        })
    }

    /// At most EXPERTS_MAX, whose headers are read already.
    pub(super) fn offer(&self, id: ExpertId) -> Option<Offer> {
        self.offers()
            .into_iter()
            .map(|o| o.offer)
            .find(|o| o.id == id)
    }
}

fn row(offered: &Offered) -> Option<ExpertRow> {
    // The name is the owner's, unless the prefix is private: then it would tell what it is about.
    let model = match offered.private || offered.offer.answers != Answers::Model {
        true => &offered.model,
        false => &offered.offer.name,
    };
    let printable = |c: char| c.is_ascii_graphic();
    let model = model.chars().filter(|c| printable(*c));
    Some(ExpertRow {
        expert: offered.offer.id,
        model: model.take(ADVERT_NAME_BYTES_MAX).collect(),
        file: bytes_of(&offered.sha256)?,
        vocabulary: Fingerprint(bytes_of(offered.vocab_fingerprint.as_deref()?)?),
        family: offered.family.name().into(),
        context: offered.context,
        slots: SESSIONS_MAX as u16,
        needs_allow_list: offered.offer.allow != Allow::Mesh,
    })
}

fn hex_of(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    let hash = blake3::Hash::from_hex(hex).ok()?;
    Some(*hash.as_bytes())
}
