//! One session of another node's router on an expert here: frames in, frames out, one task.
//!
//! ```text
//! stream ─frames─▶ Guest.ops (waits: the back-pressure) ─▶ the node
//!    ▲                                                       │
//!    └──── cut off if it does not read ◀──── Guest.events ◀──┘
//! ```

use super::frame::{FrameError, FrameReader, FrameWriter};
use super::plane::Stream;
use crate::wire::plane as wire;
use quorate_core::ids::{NetworkId, PeerKey, SessionId};
use quorate_core::limits::{OPEN_BYTES_MAX, QUESTION_BYTES_MAX};
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Where the operations of a session go, and where its events come from. Dropping both ends it;
/// the end of `events` ends the stream.
#[derive(Debug)]
pub struct Guest {
    pub ops: mpsc::Sender<ExpertOp>,
    pub events: mpsc::Receiver<ExpertEvent>,
}

/// What holds for every session served.
#[derive(Clone, Debug)]
pub struct Terms {
    pub network: NetworkId,
    pub me: PeerKey,
    /// How long a frame may take; `frame::PATIENCE` outside tests.
    pub patience: Duration,
}

/// How a served session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the router: it closed the session, or went away.
    Closed,
    /// By the node: the expert failed, refused, or had nothing more to say.
    Over,
    /// The router broke the rules, and was told how.
    Broken(ExpertFailure),
    /// It did not read what it had asked for.
    Deaf,
}

/// Serves the session that this stream is. `open` admits or refuses; the key is the peer's.
pub async fn serve<F>(
    stream: Stream,
    peer: PeerKey,
    terms: &Terms,
    open: impl FnOnce(PeerKey, wire::Opening) -> F,
) -> Ended
where
    F: Future<Output = Result<Guest, ExpertFailure>>,
{
    let mut reader = FrameReader::new(stream.reader, terms.patience);
    let mut writer = FrameWriter::new(stream.writer, terms.patience);
    let session = SessionId(u128::from_ne_bytes(random()));
    let ended = async {
        let opening = match first(&mut reader, session, &peer, terms).await {
            Ok(Some(opening)) => opening,
            Ok(None) => return Ended::Closed,
            Err(why) => return tell(&mut writer, session, why).await,
        };
        // Loading a model takes a while, and a router that left needs none.
        let guest = tokio::select! {
            guest = open(peer, opening) => guest,
            () = reader.ended(QUESTION_BYTES_MAX) => return Ended::Closed,
        };
        match guest {
            Ok(guest) => converse(&mut reader, &mut writer, session, guest).await,
            Err(why) => match tell(&mut writer, session, why).await {
                Ended::Broken(_) => Ended::Over, // it is not to blame
                ended => ended,
            },
        }
    };
    let ended = ended.await;
    // What was said last is still delivered; a router that is deaf is not waited for again.
    if ended != Ended::Deaf {
        writer.finish().await;
    }
    ended
}

async fn first<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    session: SessionId,
    peer: &PeerKey,
    terms: &Terms,
) -> Result<Option<wire::Opening>, ExpertFailure> {
    let frame = timeout(terms.patience, reader.next(OPEN_BYTES_MAX)).await;
    let frame = match frame.unwrap_or(Err(FrameError::Slow(terms.patience))) {
        Ok(Some(frame)) => frame,
        Ok(None) | Err(FrameError::Io(_) | FrameError::Cut) => return Ok(None),
        Err(error) => return Err(refused(&error)),
    };
    let opening = wire::opening(&frame, session).map_err(|bad| refused(&bad))?;
    let letterhead = &opening.letterhead;
    if letterhead.network != terms.network {
        return Err(refused(&"this node belongs to another mesh"));
    }
    let path = &opening.open.path;
    if path.iter().any(|on| *on == terms.me || on == peer) {
        return Err(refused(&"the question went round in a circle"));
    }
    Ok(Some(opening))
}

async fn converse<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
    session: SessionId,
    guest: Guest,
) -> Ended {
    let Guest { ops, events } = guest;
    let (broken_tx, broken) = oneshot::channel();
    let mut telling = std::pin::pin!(tell_all(writer, session, events, broken));
    let heard = tokio::select! {
        ended = &mut telling => return ended,
        heard = hear(reader, session, ops) => heard,
    };
    match heard {
        Heard::Left => Ended::Closed,
        Heard::GuestGone => telling.await,
        Heard::Broken(why) => {
            // Between two frames, or before it if the router is deaf.
            broken_tx.send(why).ok();
            telling.await
        }
    }
}

/// Why nothing more is heard.
enum Heard {
    Left,
    GuestGone,
    Broken(ExpertFailure),
}

async fn hear<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    session: SessionId,
    ops: mpsc::Sender<ExpertOp>,
) -> Heard {
    let mut epochs = Epochs::default();
    loop {
        let frame = match reader.next(QUESTION_BYTES_MAX).await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(FrameError::Io(_) | FrameError::Cut) => return Heard::Left,
            Err(error) => return Heard::Broken(refused(&error)),
        };
        let op = match wire::question(&frame, session) {
            Ok(op) => op,
            Err(bad) => return Heard::Broken(refused(&bad)),
        };
        let closes = matches!(op, ExpertOp::Close { .. });
        if !epochs.take(&op) {
            return Heard::Broken(refused(&"an epoch that is over"));
        }
        if ops.send(op).await.is_err() {
            return Heard::GuestGone;
        }
        if closes {
            return Heard::Left;
        }
    }
}

/// Epochs of a session: that of its text, and the newest, which may be a branch's.
#[derive(Default)]
struct Epochs {
    text: u32,
    newest: u32,
}

impl Epochs {
    /// Whatever makes a text begins an epoch, and none before that of the text is asked in. Which of those between
    /// are branches is the expert's to know.
    fn take(&mut self, op: &ExpertOp) -> bool {
        match op {
            ExpertOp::Draft { epoch, .. }
            | ExpertOp::Lead { epoch, .. }
            | ExpertOp::Ask { epoch, .. } => *epoch >= self.text,
            ExpertOp::Settle { epoch, .. } | ExpertOp::Forget { epoch, .. } => {
                let is_branch = *epoch > self.text && *epoch <= self.newest;
                if matches!(op, ExpertOp::Settle { .. }) {
                    self.text = *epoch;
                }
                is_branch
            }
            ExpertOp::Branch { epoch, .. } | ExpertOp::Truncate { epoch, .. } => {
                let is_new = *epoch > self.newest;
                self.newest = *epoch;
                if matches!(op, ExpertOp::Truncate { .. }) {
                    self.text = *epoch;
                }
                is_new
            }
            ExpertOp::Open(_) | ExpertOp::Close { .. } => true,
        }
    }
}

async fn tell_all<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    session: SessionId,
    mut events: mpsc::Receiver<ExpertEvent>,
    mut broken: oneshot::Receiver<ExpertFailure>,
) -> Ended {
    loop {
        let event = tokio::select! {
            biased;
            Ok(why) = &mut broken => return tell(writer, session, why).await,
            event = events.recv() => event,
        };
        let Some(event) = event else {
            return Ended::Over;
        };
        let (frame, last) = worded(&event, session);
        if writer.write(&frame).await.is_err() {
            return Ended::Deaf;
        }
        if last {
            return Ended::Over;
        }
    }
}

async fn tell<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    session: SessionId,
    why: ExpertFailure,
) -> Ended {
    let failed = ExpertEvent::Failed {
        session,
        why: why.clone(),
    };
    let (frame, _) = worded(&failed, session);
    let said = writer.write(&frame).await;
    said.map_or(Ended::Deaf, |()| Ended::Broken(why))
}

/// The frame of an event, and whether it is the last one: what is too large to be said ends the
/// session.
fn worded(event: &ExpertEvent, session: SessionId) -> (Vec<u8>, bool) {
    match wire::event_frame(event) {
        Ok(frame) => (frame, matches!(event, ExpertEvent::Failed { .. })),
        Err(cannot) => {
            let why = ExpertFailure::Engine(cannot.to_string());
            let frame = wire::event_frame(&ExpertEvent::Failed { session, why });
            (frame.expect("a failure is short"), true)
        }
    }
}

fn refused(why: &dyn std::fmt::Display) -> ExpertFailure {
    ExpertFailure::Refused(why.to_string())
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}
