//! One session with a remote expert: its stream, from dialling to the last word.

use super::owed::Owed;
use super::{Remote, Shared};
use crate::expert::EventSender;
use crate::net::frame::{FrameReader, FrameWriter};
use crate::net::plane::{Route, Stream};
use crate::wire::plane as wire;
use quorate_core::ids::SessionId;
use quorate_core::limits::{ANSWER_BYTES_MAX, REMOTE_DIAL_MS_MAX};
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert, Open};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Whoever stops reading has said why, and it is on its way; longer than a round trip.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

pub(super) struct Session {
    pub(super) open: Open,
    pub(super) ops: mpsc::Receiver<ExpertOp>,
    pub(super) remote: Arc<Remote>,
    pub(super) shared: Arc<Shared>,
    pub(super) events: EventSender,
}

/// Why nothing more is written.
enum Silent {
    Closed,
    /// The stream takes nothing more.
    Deaf,
    Failed(ExpertFailure),
}

impl Session {
    pub(super) async fn run(mut self) {
        let session = self.open.session;
        let ended = self.talk().await;
        self.shared.lock().remove(&session);
        if let Err(why) = ended {
            let event = ExpertEvent::Failed { session, why };
            let expert = self.remote.facts.id;
            // A driver that is gone needs no news.
            self.events.send(FromExpert { expert, event }).await.ok();
        }
    }

    /// Ok: the router closed the session.
    async fn talk(&mut self) -> Result<(), ExpertFailure> {
        let letterhead = self.remote.letterhead.borrow().clone();
        let id = self.remote.facts.id;
        let open = wire::open_frame(&letterhead, &id, &self.open);
        let open = open.map_err(|cannot| ExpertFailure::Refused(cannot.to_string()))?;
        let Stream {
            reader,
            writer,
            route,
        } = self.dial().await?;
        if self.ops.is_closed() {
            return Ok(()); // meanwhile nobody wants it
        }
        *self.shared.path.lock().expect("nobody panics with it") = Some(route.path);
        let owed = Mutex::new(Owed::at(&self.open));
        let hearing = Hearing {
            frames: FrameReader::new(reader, self.remote.patience),
            session: self.open.session,
            remote: &self.remote,
            shared: &self.shared,
            owed: &owed,
            events: &self.events,
            route: &route,
        };
        let mut hearing = std::pin::pin!(hearing.run());
        let asking = Asking {
            frames: FrameWriter::new(writer, self.remote.patience),
            ops: &mut self.ops,
            shared: &self.shared,
            owed: &owed,
        };
        let silent = tokio::select! {
            why = &mut hearing => return Err(why),
            silent = asking.run(open) => silent,
        };
        match silent {
            Silent::Closed => Ok(()),
            Silent::Failed(why) => Err(why),
            Silent::Deaf => {
                let last = timeout(LAST_WORD_MAX, hearing).await;
                Err(last.unwrap_or(ExpertFailure::Gone))
            }
        }
    }

    async fn dial(&self) -> Result<Stream, ExpertFailure> {
        let patience = Duration::from_millis(REMOTE_DIAL_MS_MAX);
        let error = match timeout(patience, (self.remote.dial)()).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => format!("no path within {patience:?}"),
        };
        let expert = self.remote.facts.id;
        tracing::info!(target: "quorate::plane", %expert, error, "an expert cannot be reached");
        Err(ExpertFailure::Gone)
    }
}

struct Asking<'a, W> {
    frames: FrameWriter<W>,
    ops: &'a mut mpsc::Receiver<ExpertOp>,
    shared: &'a Shared,
    owed: &'a Mutex<Owed>,
}

impl<W: AsyncWrite + Unpin> Asking<'_, W> {
    async fn run(mut self, open: Vec<u8>) -> Silent {
        if !self.write(&open).await {
            return Silent::Deaf;
        }
        drop(open); // a long prompt
        while let Some(op) = self.ops.recv().await {
            let frame = match wire::op_frame(&op) {
                None => continue, // `submit` makes a session of every Open
                Some(Ok(frame)) => frame,
                Some(Err(cannot)) => {
                    return Silent::Failed(ExpertFailure::Refused(cannot.to_string()));
                }
            };
            self.owed.lock().expect("nobody panics with it").asked(&op);
            if !self.write(&frame).await {
                return Silent::Deaf;
            }
        }
        // The end of the stream says the same; this says that it was meant.
        let session = SessionId(0);
        if let Some(Ok(close)) = wire::op_frame(&ExpertOp::Close { session })
            && self.write(&close).await
        {
            self.frames.finish().await;
        }
        Silent::Closed
    }

    async fn write(&mut self, frame: &[u8]) -> bool {
        let bytes = frame.len() as u64;
        self.shared.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.frames.write(frame).await.is_ok()
    }
}

struct Hearing<'a, R> {
    frames: FrameReader<R>,
    session: SessionId,
    remote: &'a Remote,
    shared: &'a Shared,
    owed: &'a Mutex<Owed>,
    events: &'a EventSender,
    route: &'a Route,
}

impl<R: AsyncRead + Unpin> Hearing<'_, R> {
    /// Until there is nothing more to hear: why.
    async fn run(mut self) -> ExpertFailure {
        let vocab = self.remote.facts.vocab.len();
        loop {
            let frame = match self.frames.next(ANSWER_BYTES_MAX).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return ExpertFailure::Gone,
                Err(error) => {
                    let expert = self.remote.facts.id;
                    tracing::info!(target: "quorate::plane", %expert, %error, "a session is lost");
                    return ExpertFailure::Gone;
                }
            };
            self.note(wire::LENGTH_BYTES + frame.len());
            let event = match wire::answer(&frame, self.session, vocab) {
                Ok(ExpertEvent::Failed { why, .. }) => return why,
                Ok(event) => event,
                Err(bad) => return ExpertFailure::Engine(format!("it sent {bad}")),
            };
            let said = self
                .owed
                .lock()
                .expect("nobody panics with it")
                .said(&event);
            if let Err(unasked) = said {
                return ExpertFailure::Engine(unasked.into());
            }
            let expert = self.remote.facts.id;
            if self
                .events
                .send(FromExpert { expert, event })
                .await
                .is_err()
            {
                return ExpertFailure::Gone; // the driver is
            }
        }
    }

    fn note(&self, bytes: usize) {
        self.shared
            .bytes_in
            .fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(rtt) = self.route.rtt() {
            let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            self.shared.rtt_us.store(rtt_us, Ordering::Relaxed);
        }
    }
}
