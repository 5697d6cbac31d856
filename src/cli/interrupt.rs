//! Ctrl-C, for verbs that survive it: it stops the answer, not the program.

use crate::error::{Failure, Kind, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

#[derive(Clone)]
pub(super) struct Interrupt(Arc<Inner>);

struct Inner {
    set: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    /// Takes Ctrl-C over. Pressed twice before the first was heard, it ends the program after all.
    pub(super) fn install() -> Outcome<Interrupt> {
        let inner = Arc::new(Inner {
            set: AtomicBool::new(false),
            notify: Notify::new(),
        });
        let heard = inner.clone();
        ctrlc::set_handler(move || {
            if heard.set.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(Kind::Interrupted.exit_code()));
            }
            heard.notify.notify_waiters();
        })
        .map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot listen for Ctrl-C: {error}"))
        })?;
        Ok(Interrupt(inner))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// A new answer begins.
    pub(super) fn clear(&self) {
        self.0.set.store(false, Ordering::SeqCst);
    }

    /// Until Ctrl-C is pressed.
    pub(super) async fn wait(&self) {
        let notified = self.0.notify.notified();
        tokio::pin!(notified);
        // Registered before the look, so that none falls between.
        notified.as_mut().enable();
        if !self.is_set() {
            notified.await;
        }
    }
}
