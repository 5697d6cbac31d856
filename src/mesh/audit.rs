//! Decisions about permits reach the disk here, a batch at a time.

use crate::driver::Note;
use crate::ledger::Audit;
use crate::net::swarm::unix_s;
use quorate_core::governance::{Line, Noted};
use quorate_core::limits::AUDIT_WAITING_MAX;
use tokio::sync::mpsc;

/// Until nobody can note anything any more. A disk that is full stops nobody: it is said once, and
/// the log goes on when the node has begun anew.
pub(super) async fn keep(mut audit: Audit, mut notes: mpsc::Receiver<Note>) {
    let mut has_warned = false;
    let mut batch = vec![(Noted::Began, [0; 32])];
    loop {
        let at_s = unix_s();
        let line = |(noted, state)| Line { at_s, state, noted };
        let lines: Vec<Line> = batch.drain(..).map(line).collect();
        let writing = tokio::task::spawn_blocking(move || {
            let written = audit.append(&lines).map_err(|error| error.to_string());
            (audit, written)
        });
        let Ok((back, written)) = writing.await else {
            return;
        };
        audit = back;
        if let Err(why) = written
            && !std::mem::replace(&mut has_warned, true)
        {
            tracing::error!(target: "quorate::mesh", why, "decisions about permits are not written down");
        }
        if notes.recv_many(&mut batch, AUDIT_WAITING_MAX).await == 0 {
            return;
        }
    }
}
