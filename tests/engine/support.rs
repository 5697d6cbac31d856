//! A loaded expert, its events, and the questions a router asks.

use quorate::expert::llama::{LoadRequest, load};
use quorate::expert::{EventSender, Expert};
use quorate_core::chat::{Family, Segment};
use quorate_core::config::{Key, MeshConfig};
use quorate_core::ids::{ExpertId, Position, SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, FromExpert, List, Open, Opinion, Query, Said, Scope,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Long enough for any step on any machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The model file, or a failure that says how to get one.
pub(crate) fn model_path() -> PathBuf {
    if let Ok(path) = std::env::var("QUORATE_TEST_MODEL") {
        return path.into();
    }
    let home = std::env::var("QUORATE_TEST_HOME").map(PathBuf::from);
    let found = home.ok().and_then(|home| find_gguf(home.join("models")));
    found.expect(
        "no model to test with: run `sh tests/run`, which fetches it, or set QUORATE_TEST_MODEL",
    )
}

fn find_gguf(folder: PathBuf) -> Option<PathBuf> {
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "gguf")
            {
                return Some(path);
            }
        }
    }
    None
}

pub(crate) fn request(events: EventSender) -> LoadRequest {
    let config = MeshConfig::default();
    LoadRequest {
        name: "test".into(),
        path: model_path(),
        sha256: String::new(),
        adapter: None,
        family: Family::ChatMl,
        id: ExpertId([7; 32]),
        prefix: String::new(),
        context: 2048,
        cells: 8192,
        threads: 2,
        threads_batch: 2,
        gpu_layers: 0,
        prefill_ms_shared: config.get(Key::ServingPrefillSharedMs),
        prefill_ms_alone: config.get(Key::ServingPrefillAloneMs),
        gather_us: config.get(Key::ServingGatherUs),
        events,
    }
}

pub(crate) struct Rig {
    pub(crate) expert: Arc<dyn Expert>,
    events: mpsc::Receiver<FromExpert>,
    runtime: tokio::runtime::Runtime,
    next: u128,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut LoadRequest)) -> Rig {
        let (events_tx, events) = mpsc::channel(4096);
        let mut request = request(events_tx);
        change(&mut request);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        Rig {
            expert: load(request).expect("the model loads"),
            events,
            runtime,
            next: 0,
        }
    }

    pub(crate) fn tokens(&self, text: &str) -> Vec<Token> {
        self.expert
            .tokenize(&[Segment::Text(text.into())], false)
            .unwrap()
    }

    pub(crate) fn submit(&self, op: ExpertOp) {
        self.expert.submit(op).unwrap();
    }

    pub(crate) fn open(&mut self, prompt: Vec<Token>) -> SessionId {
        self.open_with(|open| open.prompt = prompt)
    }

    pub(crate) fn open_with(&mut self, change: impl FnOnce(&mut Open)) -> SessionId {
        self.next += 1;
        let session = SessionId(self.next);
        let mut open = Open {
            session,
            scope: Scope::OWNER,
            prompt: Vec::new(),
            transforms: Transforms::NEUTRAL,
            answered: Vec::new(),
            score: false,
            path: vec![],
        };
        change(&mut open);
        self.submit(ExpertOp::Open(Box::new(open)));
        session
    }

    pub(crate) fn draft(
        &self,
        session: SessionId,
        position: usize,
        tokens: &[Token],
        queries: usize,
    ) {
        self.draft_in(session, 0, position, tokens, queries);
    }

    pub(crate) fn draft_in(
        &self,
        session: SessionId,
        epoch: u32,
        position: usize,
        tokens: &[Token],
        queries: usize,
    ) {
        self.submit(ExpertOp::Draft {
            session,
            epoch,
            position: position as Position,
            tokens: tokens.to_vec(),
            queries: vec![greedy(); queries],
        });
    }

    pub(crate) fn truncate(&self, session: SessionId, epoch: u32, position: usize) {
        self.submit(ExpertOp::Truncate {
            session,
            epoch,
            position: position as Position,
        });
    }

    pub(crate) fn branch(&self, session: SessionId, epoch: u32, position: usize, token: Token) {
        self.submit(ExpertOp::Branch {
            session,
            epoch,
            position: position as Position,
            token,
            query: greedy(),
        });
    }

    pub(crate) fn settle(&self, session: SessionId, epoch: u32) {
        self.submit(ExpertOp::Settle { session, epoch });
    }

    pub(crate) fn forget(&self, session: SessionId, epoch: u32) {
        self.submit(ExpertOp::Forget { session, epoch });
    }

    pub(crate) fn close(&self, session: SessionId) {
        self.submit(ExpertOp::Close { session });
    }

    pub(crate) fn event(&mut self) -> ExpertEvent {
        let next = async { tokio::time::timeout(PATIENCE, self.events.recv()).await };
        let event = self.runtime.block_on(next).expect("the engine hangs");
        event.expect("the engine is gone").event
    }

    /// Whatever has been said and not been heard.
    pub(crate) fn said(&mut self) -> Vec<ExpertEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|from| from.event)
            .collect()
    }

    /// The next opinions about this session; events of others are dropped.
    pub(crate) fn opinions(&mut self, session: SessionId) -> Vec<Opinion> {
        loop {
            match self.event() {
                ExpertEvent::Opinions {
                    session: of,
                    opinions,
                    ..
                } if of == session => {
                    return opinions;
                }
                ExpertEvent::Failed { session: of, why } if of == session => panic!("{why}"),
                _ => {}
            }
        }
    }

    /// The next so many opinions about this session, by the epoch that each is said in and its position.
    pub(crate) fn by_epoch(
        &mut self,
        session: SessionId,
        count: usize,
    ) -> BTreeMap<(u32, usize), Opinion> {
        let mut said = BTreeMap::new();
        while said.len() < count {
            match self.event() {
                ExpertEvent::Opinions {
                    session: of,
                    epoch,
                    opinions,
                    ..
                } if of == session => {
                    for opinion in opinions {
                        let at = (epoch, opinion.position as usize);
                        assert_eq!(said.insert(at, opinion), None, "said twice");
                    }
                }
                ExpertEvent::Failed { session: of, why } if of == session => panic!("{why}"),
                _ => {}
            }
        }
        said
    }

    pub(crate) fn reused(&mut self, session: SessionId) -> u32 {
        loop {
            match self.event() {
                ExpertEvent::Ready {
                    session: of,
                    reused,
                    ..
                } if of == session => return reused,
                ExpertEvent::Failed { session: of, why } if of == session => panic!("{why}"),
                _ => {}
            }
        }
    }

    pub(crate) fn failure(&mut self, session: SessionId) -> ExpertFailure {
        loop {
            if let ExpertEvent::Failed { session: of, why } = self.event()
                && of == session
            {
                return why;
            }
        }
    }

    /// Greedy text, one token at a time.
    pub(crate) fn greedy(&mut self, prompt: &[Token], count: usize) -> Vec<Token> {
        let session = self.open(prompt.to_vec());
        self.draft(session, prompt.len(), &[], 1);
        let mut said = Vec::new();
        while said.len() < count {
            let token = best(&self.opinions(session)[0]);
            self.draft(session, prompt.len() + said.len(), &[token], 1);
            said.push(token);
        }
        self.close(session);
        said
    }
}

pub(crate) fn greedy() -> Query {
    Query::plain(0.999, 256)
}

pub(crate) fn list(opinion: &Opinion) -> &List {
    match &opinion.said {
        Said::List(list) => list,
        Said::Scalars(_) => panic!("asked for a list"),
    }
}

pub(crate) fn best(opinion: &Opinion) -> Token {
    let list = list(opinion);
    let better = list.entries.iter().copied().reduce(|best, entry| {
        if entry.ln_p.ln() > best.ln_p.ln() {
            entry
        } else {
            best
        }
    });
    better.expect("a list has entries").token
}
