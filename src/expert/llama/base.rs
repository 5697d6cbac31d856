//! Experts on one model file share its weights: one base in memory, a context for each of them, all
//! on one thread, so that they take turns instead of the cores from each other.
//!
//! A plain model and its adapters are on one base. An expert without an adapter but with a private
//! prefix has a base of its own: it is the same model again, and nothing of it is shared.

use super::thread::{Loop, Mail};
use super::{LoadError, LoadRequest, load_model};
use quorate_core::limits::BASE_MAIL_MAX;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What experts on one base agree on.
#[derive(PartialEq, Eq)]
struct Key {
    path: PathBuf,
    sha256: String,
    gpu_layers: u32,
}

/// The way to a base's thread, which ends when the last of these is gone.
pub(super) struct Base {
    pub(super) mail: SyncSender<Mail>,
    /// Closed when the thread has freed everything.
    ended: Mutex<Receiver<()>>,
}

impl Base {
    /// The base in memory that this expert fits on, or a new one.
    pub(super) fn of(request: &LoadRequest) -> Result<Arc<Base>, LoadError> {
        /// Those alive: as many as models in memory.
        static BASES: Mutex<Vec<(Key, Weak<Base>)>> = Mutex::new(Vec::new());

        if request.adapter.is_none() && !request.prefix.is_empty() {
            return Base::start().map(Arc::new);
        }
        let key = Key {
            path: request.path.clone(),
            sha256: request.sha256.clone(),
            gpu_layers: request.gpu_layers,
        };
        let mut bases = BASES.lock().unwrap_or_else(PoisonError::into_inner);
        bases.retain(|(_, base)| base.strong_count() > 0);
        let known = bases.iter().find(|(known, _)| *known == key);
        if let Some(base) = known.and_then(|(_, base)| base.upgrade()) {
            return Ok(base);
        }
        let base = Arc::new(Base::start()?);
        bases.push((key, Arc::downgrade(&base)));
        Ok(base)
    }

    fn start() -> Result<Base, LoadError> {
        let (mail, mail_rx) = sync_channel(BASE_MAIL_MAX);
        let (ended_tx, ended) = sync_channel(0);
        std::thread::Builder::new()
            .name("expert".into())
            .spawn(move || {
                serve(mail_rx);
                drop(ended_tx); // everything is freed
            })
            .map_err(|error| LoadError::Engine {
                why: error.to_string(),
            })?;
        let ended = Mutex::new(ended);
        Ok(Base { mail, ended })
    }

    /// The last one gives this away: everything is freed when the channel is closed.
    pub(super) fn end(self) -> Receiver<()> {
        self.ended
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's whole life. Contexts before model: locals are dropped in reverse.
fn serve(mail: Receiver<Mail>) {
    // Who starts a base is the first to enter it.
    let Ok(Mail::Enter(first)) = mail.recv() else {
        return;
    };
    match load_model(&first.request) {
        Ok(model) => {
            let model = Arc::new(model);
            Loop::new(&model, mail).run(*first);
        }
        Err(error) => first.refuse(error),
    }
}
