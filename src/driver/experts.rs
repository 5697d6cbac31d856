//! Every expert that ops can be sent to: loaded here, by name, and those of other nodes; all by id.

use crate::expert::Expert;
use quorate_core::ids::ExpertId;
use quorate_core::limits::REMOTE_EXPERTS_MAX;
use quorate_core::opinion::ExpertFailure;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Experts {
    loaded: BTreeMap<String, Arc<dyn Expert>>,
    by_id: BTreeMap<ExpertId, Arc<dyn Expert>>,
}

impl Experts {
    pub(super) fn named(&self, name: &str) -> Option<&Arc<dyn Expert>> {
        self.loaded.get(name)
    }

    pub(super) fn by_id(&self, id: ExpertId) -> Option<&Arc<dyn Expert>> {
        self.by_id.get(&id)
    }

    pub(super) fn remote(&self) -> usize {
        self.by_id.keys().filter(|id| !self.is_loaded(**id)).count()
    }

    fn is_loaded(&self, id: ExpertId) -> bool {
        self.loaded.values().any(|expert| expert.facts().id == id)
    }

    pub(super) fn loaded(&mut self, name: String, expert: Arc<dyn Expert>) {
        // One model under two names is one expert: whoever came first answers for both.
        let id = expert.facts().id;
        if !self.is_loaded(id) {
            self.by_id.insert(id, expert.clone());
        }
        self.loaded.insert(name, expert);
    }

    /// The expert of this name, and whether nobody answers under its id any more.
    pub(super) fn unloaded(&mut self, name: &str) -> Option<(Arc<dyn Expert>, Gone)> {
        let expert = self.loaded.remove(name)?;
        let id = expert.facts().id;
        let answers = self.by_id.get(&id).is_some_and(|e| Arc::ptr_eq(e, &expert));
        if !answers {
            return Some((expert, Gone::No));
        }
        self.by_id.remove(&id);
        // Its twin takes over for sessions to come; those under way end.
        let twin = self.loaded.values().find(|e| e.facts().id == id).cloned();
        if let Some(twin) = twin {
            self.by_id.insert(id, twin);
        }
        Some((expert, Gone::Yes))
    }

    /// An expert of another node. One known already is replaced: its connection is new.
    pub(super) fn adopt(&mut self, expert: Arc<dyn Expert>) -> Result<(), ExpertFailure> {
        let id = expert.facts().id;
        if self.is_loaded(id) {
            let why = "it has the id of an expert of this node";
            return Err(ExpertFailure::Refused(why.into()));
        }
        if !self.by_id.contains_key(&id) && self.remote() >= REMOTE_EXPERTS_MAX {
            let why = format!("{REMOTE_EXPERTS_MAX} experts of other nodes are known already");
            return Err(ExpertFailure::Refused(why));
        }
        self.by_id.insert(id, expert);
        Ok(())
    }

    /// False if no other node's expert is known by this id.
    pub(super) fn lose(&mut self, id: ExpertId) -> bool {
        !self.is_loaded(id) && self.by_id.remove(&id).is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Yes,
    No,
}
