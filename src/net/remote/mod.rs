//! An expert on another machine, as the driver sees every expert: operations in, events out.
//!
//! ```text
//! driver ─submit─▶ one mailbox for each session ─▶ its task ══stream══▶ the other node
//!    ▲                                                │
//!    └──────────────EventSender (waits)───────────────┘
//! ```
//!
//! Whatever goes wrong with a stream is that session's end, said once as `Failed`.

mod owed;
mod session;

use super::plane::{Path, Stream};
use crate::expert::{EventSender, Expert, ExpertFacts, SubmitError, TokenizeError};
use crate::wire::plane::Letterhead;
use futures::future::BoxFuture;
use quorate_core::chat::Segment;
use quorate_core::ids::{SessionId, Token};
use quorate_core::limits::{REMOTE_OPS_MAX, REMOTE_SESSIONS_MAX};
use quorate_core::opinion::ExpertOp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Opens one stream to the expert's node, by the best path there is now; the error is for logs.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, Result<Stream, String>> + Send + Sync>;

/// All that has to be known of an expert elsewhere.
pub struct Remote {
    pub facts: Arc<ExpertFacts>,
    /// Read at every `Open`: the config and the state of governance move.
    pub letterhead: watch::Receiver<Letterhead>,
    pub dial: Dial,
    /// How long a frame may take; `frame::PATIENCE` outside tests.
    pub patience: Duration,
}

pub struct RemoteExpert {
    remote: Arc<Remote>,
    shared: Arc<Shared>,
    events: EventSender,
    runtime: Handle,
}

#[derive(Default)]
struct Shared {
    /// Sessions that were opened and have not ended; at most `REMOTE_SESSIONS_MAX`.
    sessions: Mutex<BTreeMap<SessionId, mpsc::Sender<ExpertOp>>>,
    path: Mutex<Option<Path>>,
    rtt_us: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// What people see of a remote expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteStatus {
    /// Of the last stream that stood.
    pub path: Option<Path>,
    /// None where the path does not measure it.
    pub rtt: Option<Duration>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub sessions: usize,
}

impl RemoteExpert {
    /// Needs a tokio runtime; `submit` may then be called from any thread.
    pub fn new(remote: Remote, events: EventSender) -> RemoteExpert {
        RemoteExpert {
            remote: Arc::new(remote),
            shared: Arc::default(),
            events,
            runtime: Handle::current(),
        }
    }

    pub fn status(&self) -> RemoteStatus {
        let rtt_us = self.shared.rtt_us.load(Ordering::Relaxed);
        RemoteStatus {
            path: *self.shared.path.lock().expect("nobody panics with it"),
            rtt: (rtt_us > 0).then(|| Duration::from_micros(rtt_us)),
            bytes_in: self.shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.shared.bytes_out.load(Ordering::Relaxed),
            sessions: self.shared.lock().len(),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, mpsc::Sender<ExpertOp>>> {
        self.sessions.lock().expect("nobody panics with it")
    }
}

impl Expert for RemoteExpert {
    fn facts(&self) -> &Arc<ExpertFacts> {
        &self.remote.facts
    }

    fn submit(&self, op: ExpertOp) -> Result<(), SubmitError> {
        let mut sessions = self.shared.lock();
        let id = op.session();
        match op {
            ExpertOp::Open(open) => {
                if sessions.len() >= REMOTE_SESSIONS_MAX {
                    return Err(SubmitError::Full);
                }
                let (ops_tx, ops) = mpsc::channel(REMOTE_OPS_MAX);
                sessions.insert(id, ops_tx);
                let session = session::Session {
                    open: *open,
                    ops,
                    remote: self.remote.clone(),
                    shared: self.shared.clone(),
                    events: self.events.clone(),
                };
                self.runtime.spawn(session.run());
                Ok(())
            }
            // Dropping the mailbox closes the session, be it as full as it may.
            ExpertOp::Close { .. } => {
                sessions.remove(&id);
                Ok(())
            }
            op => match sessions.get(&id).map(|ops| ops.try_send(op)) {
                // It has failed, and the event that says so is on its way.
                None | Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) => Ok(()),
                Some(Err(mpsc::error::TrySendError::Full(_))) => Err(SubmitError::Full),
            },
        }
    }

    /// Text becomes tokens where it is typed: by the expert here that the request was leased.
    fn tokenize(&self, _: &[Segment], _: bool) -> Result<Vec<Token>, TokenizeError> {
        Err(TokenizeError::Failed(
            "the model is on another machine".into(),
        ))
    }
}

impl Drop for RemoteExpert {
    fn drop(&mut self) {
        self.shared.lock().clear(); // its streams close
    }
}
