//! From the name that somebody typed to a model in memory: aliases, the store's verified path, the
//! plan for this machine, the engine. The driver calls it through two closures.

mod offers;

pub use offers::{Offered, Unregistrable};

use crate::config::{ExpertSettings, Settings};
use crate::driver::{AcquireError, Found, Models};
use crate::expert::hardware::Hardware;
use crate::expert::{EventSender, Expert};
use crate::store::adapter::Adapters;
use crate::store::catalogue;
use crate::store::gguf::GgufFacts;
use crate::store::name::{ModelName, NameError};
use crate::store::{Depth, Manifest, Resolved, Store, StoreError};
use offers::Wanted;
use quorate_core::chat::Family;
use quorate_core::ids::{ExpertId, PeerKey};
use quorate_core::plan::{self, Machine, Needs, Plan, PlanError, Wishes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Full contexts that a node's cache holds when memory allows: two long conversations, or many
/// short ones, without one waiting for another's cells.
const CONTEXTS_NODE: u32 = 2;
/// A `run` in its own process has one conversation.
const CONTEXTS_ALONE: u32 = 1;
/// The engine's batch on a processor: as many rows of activations are kept at once.
const BATCH_ROWS: u64 = 128;
/// Rows with logits in one batch, at most.
const LOGIT_ROWS: u64 = 64;
/// Activations of one row, in embedding widths: a transformer block's widest point (the
/// feed-forward's two halves) and its attention, in f32.
const ROW_WIDTHS: u64 = 16;

/// How many conversations share the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Node,
    Alone,
}

/// Headers kept parsed. A node that serves more models than this reads some again.
const HEADERS_KEPT_MAX: usize = 64;

/// This node, as ids of its experts know it.
#[derive(Clone)]
pub struct NodeKeys {
    pub key: PeerKey,
    /// Commits to private prefixes without giving guesses away.
    pub prefix_secret: [u8; 32],
}

/// Everything that finding and loading a model takes. Clones share what they have read.
#[derive(Clone)]
pub struct Library {
    store: Store,
    adapters: Adapters,
    settings: Arc<Settings>,
    hardware: Arc<Hardware>,
    audience: Audience,
    node: NodeKeys,
    /// By the store's name, with the manifest that they belong to. Reading a header takes
    /// milliseconds, which every request would pay.
    headers: Arc<Mutex<BTreeMap<String, (Manifest, Resolved)>>>,
    /// Those of the settings, and what was registered since.
    experts: Arc<watch::Sender<Vec<ExpertSettings>>>,
}

/// The model behind a typed name: an alias from the settings first, then the store's grammar.
pub fn parse_name(settings: &Settings, typed: &str) -> Result<ModelName, NameError> {
    let name: ModelName = settings.real_name(typed.trim()).parse()?;
    // `~` is the shell's business, but not inside quotes or a settings file.
    if let ModelName::Path(path) = &name
        && let (Ok(rest), Some(home)) = (path.strip_prefix("~"), std::env::var_os("HOME"))
    {
        return Ok(ModelName::Path(PathBuf::from(home).join(rest)));
    }
    Ok(name)
}

impl Library {
    pub fn new(
        store: Store,
        settings: Arc<Settings>,
        hardware: Arc<Hardware>,
        audience: Audience,
        node: NodeKeys,
    ) -> Library {
        let experts = watch::Sender::new(settings.experts.clone());
        Library {
            adapters: store.adapters(),
            store,
            settings,
            hardware,
            audience,
            node,
            headers: Arc::default(),
            experts: Arc::new(experts),
        }
    }

    /// For the driver.
    pub fn models(&self) -> Models {
        let (finder, loader, offerer) = (self.clone(), self.clone(), self.clone());
        Models {
            find: Arc::new(move |name| finder.find(name)),
            load: Arc::new(move |name, events| loader.load(name, events)),
            offer: Arc::new(move |id| offerer.offer(id)),
        }
    }

    /// Checks that the model is here, sound, and fits; says what it will take.
    pub fn find(&self, typed: &str) -> Result<Found, AcquireError> {
        let wanted = self.wanted(typed)?;
        let bytes = wanted.adapter.as_ref().map_or(0, |adapter| adapter.bytes);
        match self.plan_of(&wanted) {
            Ok(plan) => Ok(Found {
                bytes: plan.total_bytes().saturating_add(bytes),
                shared: wanted.shared(),
                name: wanted.name,
            }),
            Err(error) => Err(AcquireError::TooLarge {
                name: wanted.name,
                arithmetic: advice(&error),
            }),
        }
    }

    fn resolve(&self, typed: &str) -> Result<Resolved, AcquireError> {
        // Over the API a path would open any file of this user. The owner's own words may: aliases,
        // the default model, and `run PATH`, which registers the file before it asks the node.
        let owners =
            self.settings.aliases.contains_key(typed) || self.settings.default_model == typed;
        if self.audience == Audience::Node
            && !owners
            && let Ok(name) = parse_name(&self.settings, typed)
            && matches!(name, ModelName::Path(_))
            && !matches!(self.store.installed(&name), Ok(Some(_)))
        {
            let name = typed.to_owned();
            return Err(AcquireError::Unknown {
                name,
                near: Vec::new(),
            });
        }
        self.resolve_owners(typed)
    }

    /// In the owner's own words: of the settings, or checked above.
    fn resolve_owners(&self, typed: &str) -> Result<Resolved, AcquireError> {
        let name = parse_name(&self.settings, typed).map_err(|error| match error {
            NameError::Unknown { name, near } => {
                let mut near: Vec<String> = near.into_iter().map(str::to_owned).collect();
                near.extend(near_installed(&self.store, &name));
                near.sort();
                near.dedup();
                AcquireError::Unknown { name, near }
            }
            other => AcquireError::Load {
                name: typed.to_owned(),
                why: other.to_string(),
            },
        })?;
        self.verified(&name).map_err(|error| match error {
            StoreError::NotInstalled { name } => AcquireError::NotInstalled { name },
            other => AcquireError::Load {
                name: name.to_string(),
                why: other.to_string(),
            },
        })
    }

    /// The store's answer, with the header as read before if the file is still the same.
    fn verified(&self, name: &ModelName) -> Result<Resolved, StoreError> {
        // Nothing is left half-done under this lock, so a panic elsewhere did not spoil the map.
        let headers = || self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(manifest) = self.store.verify(name, Depth::Stamp)
            && let Some((known, resolved)) = headers().get(&manifest.name)
            && *known == manifest
        {
            return Ok(resolved.clone());
        }
        let resolved = self.store.resolve(name)?;
        let manifest = self.store.verify(name, Depth::Stamp)?;
        let mut headers = headers();
        if headers.len() >= HEADERS_KEPT_MAX {
            headers.clear();
        }
        headers.insert(resolved.name.clone(), (manifest, resolved.clone()));
        Ok(resolved)
    }

    /// Where the model would go on this machine.
    pub fn plan(&self, facts: &GgufFacts, file_bytes: u64) -> Result<Plan, PlanError> {
        plan::plan(
            &needs(facts, file_bytes),
            &self.hardware.machine,
            &self.wishes(),
        )
    }

    /// The same for what a name leads to. A specialist is one of many on its base: it gets room for one
    /// conversation, and loads the sooner for it.
    fn plan_of(&self, wanted: &Wanted) -> Result<Plan, PlanError> {
        let Resolved { facts, bytes, .. } = &wanted.resolved;
        if wanted.adapter.is_none() {
            return self.plan(facts, *bytes);
        }
        let wishes = Wishes {
            contexts: CONTEXTS_ALONE,
            ..self.wishes()
        };
        plan::plan(&needs(facts, *bytes), &self.hardware.machine, &wishes)
    }

    /// Tokens that one session with this installed model may hold.
    pub fn context_of(&self, name: &str) -> Option<u32> {
        let wanted = self.wanted(name).ok()?;
        Some(self.plan_of(&wanted).ok()?.context)
    }

    pub fn machine(&self) -> &Machine {
        &self.hardware.machine
    }

    fn wishes(&self) -> Wishes {
        Wishes {
            max_memory_bytes: self.settings.max_memory_bytes,
            context: self.settings.context,
            threads: self.settings.threads,
            gpu_layers: self.settings.gpu_layers,
            contexts: match self.audience {
                Audience::Node => CONTEXTS_NODE,
                Audience::Alone => CONTEXTS_ALONE,
            },
        }
    }

    /// Loads by the store's name. The file is verified again: it may have changed since `find`.
    fn load(&self, name: &str, events: EventSender) -> Result<Arc<dyn Expert>, String> {
        let wanted = self.wanted(name).map_err(|error| error.to_string())?;
        if let Some(adapter) = &wanted.adapter {
            let sound = self.adapters.resolve(&adapter.name, &wanted.resolved);
            sound.map_err(|error| error.to_string())?;
        }
        let plan = self.plan_of(&wanted).map_err(|error| error.to_string())?;
        tracing::info!(target: "quorate::models", model = name, plan = plan.arithmetic, "loading");
        let expert = load_engine(EngineJob {
            id: self.expert_id(&wanted, plan.context),
            wanted: &wanted,
            plan: &plan,
            events,
        })?;
        self.remember_vocabulary(&wanted.resolved, &expert);
        Ok(expert)
    }

    /// What the engine would be told of this model on this machine: `bench` loads it bare.
    #[cfg(feature = "llama")]
    pub fn load_request(
        &self,
        typed: &str,
        events: EventSender,
    ) -> Result<crate::expert::llama::LoadRequest, String> {
        let wanted = self.wanted(typed).map_err(|error| error.to_string())?;
        let plan = self.plan_of(&wanted).map_err(|error| advice(&error))?;
        Ok(load_request(EngineJob {
            id: self.expert_id(&wanted, plan.context),
            wanted: &wanted,
            plan: &plan,
            events,
        }))
    }

    /// `show` prints it. A store that cannot be written costs only that.
    fn remember_vocabulary(&self, resolved: &Resolved, expert: &Arc<dyn Expert>) {
        let fingerprint = expert.facts().vocab.fingerprint().to_string();
        if resolved.vocab_fingerprint.as_ref() == Some(&fingerprint) {
            return;
        }
        let Ok(name) = resolved.name.parse::<ModelName>() else {
            return;
        };
        if let Err(error) = self.store.set_vocab_fingerprint(&name, &fingerprint) {
            tracing::warn!(target: "quorate::node", %error, "the vocabulary fingerprint is not kept");
        }
    }
}

/// One model on its way into the engine.
#[cfg_attr(not(feature = "llama"), allow(dead_code))]
struct EngineJob<'a> {
    wanted: &'a Wanted,
    plan: &'a Plan,
    id: ExpertId,
    events: EventSender,
}

/// How the model was taught to chat: the catalogue knows, else the header tells.
fn family(resolved: &Resolved) -> Family {
    if let Ok(ModelName::Alias(entry)) = resolved.name.parse() {
        return entry.family;
    }
    resolved.facts.family.unwrap_or_else(|| {
        tracing::warn!(target: "quorate::node", model = resolved.name, "unknown chat format; trying ChatML");
        Family::ChatMl
    })
}

/// What a header says about memory.
fn needs(facts: &GgufFacts, file_bytes: u64) -> Needs {
    let rows = BATCH_ROWS * facts.embedding_length * ROW_WIDTHS * 4;
    let logits = LOGIT_ROWS * facts.vocab_size * 4;
    // Without flash attention every row of a batch scores every cell, for each head, in f32.
    let heads = facts.head_count.iter().copied().max().unwrap_or(0);
    let scores = BATCH_ROWS * heads * 4;
    Needs {
        weights_bytes: facts.tensor_bytes.max(file_bytes),
        layers: u32::try_from(facts.block_count).unwrap_or(u32::MAX),
        // A quarter more for prefixes that are parked outside the cells.
        cache_bytes_per_token: (facts.kv_bytes_per_token() / 4 * 5).saturating_add(scores),
        trained_context: u32::try_from(facts.context_length).unwrap_or(u32::MAX),
        scratch_bytes: rows.saturating_add(logits),
    }
}

/// The sums, and the way out.
pub fn advice(error: &PlanError) -> String {
    match error {
        PlanError::TooLarge {
            arithmetic,
            context_that_fits: Some(context),
        } => {
            format!("{arithmetic}; it would fit with --ctx {context}")
        }
        PlanError::TooLarge {
            arithmetic,
            context_that_fits: None,
        } => {
            format!("{arithmetic}; choose a smaller model or a smaller quantisation")
        }
        PlanError::ContextTooShort { .. } => error.to_string(),
    }
}

/// Known names like this one: installed models and the catalogue's.
pub fn near_names(store: &Store, typed: &str) -> Vec<String> {
    let mut near = near_installed(store, typed);
    near.extend(catalogue::near(typed).into_iter().map(str::to_owned));
    near.sort();
    near.dedup();
    near
}

fn near_installed(store: &Store, typed: &str) -> Vec<String> {
    let Ok(listing) = store.list() else {
        return Vec::new();
    };
    let names: Vec<&str> = listing
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    crate::error::nearest(typed, names)
        .map(str::to_owned)
        .into_iter()
        .collect()
}

#[cfg(not(feature = "llama"))]
fn load_engine(_: EngineJob<'_>) -> Result<Arc<dyn Expert>, String> {
    Err("this quorate was built without llama.cpp; build it with default features".to_owned())
}

#[cfg(feature = "llama")]
fn load_engine(job: EngineJob<'_>) -> Result<Arc<dyn Expert>, String> {
    crate::expert::llama::load(load_request(job)).map_err(|error| error.to_string())
}

#[cfg(feature = "llama")]
fn load_request(job: EngineJob<'_>) -> crate::expert::llama::LoadRequest {
    use crate::expert::llama::{AdapterFile, LoadRequest};
    use quorate_core::config::{Key, MeshConfig};
    // A node that belongs to no mesh runs under the default document.
    let config = MeshConfig::default();
    let resolved = &job.wanted.resolved;
    LoadRequest {
        name: job.wanted.name.clone(),
        path: resolved.path.clone(),
        sha256: resolved.sha256.clone(),
        adapter: job.wanted.adapter.as_ref().map(|adapter| AdapterFile {
            path: adapter.path.clone(),
            bytes: adapter.bytes,
        }),
        family: family(resolved),
        prefix: job.wanted.prefix.clone(),
        id: job.id,
        context: job.plan.context,
        cells: job.plan.cells,
        threads: job.plan.threads,
        threads_batch: job.plan.threads,
        gpu_layers: job.plan.gpu_layers,
        prefill_ms_shared: config.get(Key::ServingPrefillSharedMs),
        prefill_ms_alone: config.get(Key::ServingPrefillAloneMs),
        gather_us: config.get(Key::ServingGatherUs),
        events: job.events,
    }
}
