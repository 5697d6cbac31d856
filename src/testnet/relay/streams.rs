//! TCP. Each connection of a client is one of ours to the target; bytes travel in segments.

use super::{Direction, Shared, note_panic};
use quorate_core::ids::Micros;
use quorate_core::limits::{RELAY_SEGMENT_BYTES, RELAY_SEGMENTS_MAX, RELAY_STREAMS_MAX};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// After an accept that failed (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A packet that only opens or closes: headers.
const BARE_BYTES: usize = 60;

/// Carries connections until `stop`. Beyond the cap, clients wait in the kernel's backlog.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < RELAY_STREAMS_MAX;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                note_panic(ended);
            }
            accepted = listener.accept(), if has_room => match accepted {
                Ok((client, _)) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        // An end that broke breaks the other one: both are dropped here.
                        if let Err(error) = carry(shared, client).await {
                            tracing::debug!(target: "quorate::testnet", %error, "a relayed stream broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(target: "quorate::testnet", %error, "the relay cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

async fn carry(shared: Arc<Shared>, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    // The kernel has shaken hands already; the first packet travels nevertheless.
    let at = shared.offer_segment(Direction::Forth, BARE_BYTES).await;
    shared.wait_until(at).await;
    let target = TcpStream::connect(shared.target).await?;
    target.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_target, to_target) = target.into_split();
    tokio::try_join!(
        pump(&shared, Direction::Forth, from_client, to_target),
        pump(&shared, Direction::Back, from_target, to_client),
    )?;
    Ok(())
}

/// A segment and its arrival; an empty one is the end of the stream.
type Travelling = (Micros, Vec<u8>);

async fn pump(
    shared: &Shared,
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
) -> io::Result<()> {
    let (segments_tx, segments) = mpsc::channel(RELAY_SEGMENTS_MAX);
    tokio::try_join!(
        take_in(shared, direction, from, segments_tx),
        hand_over(shared, direction, segments, to),
    )?;
    Ok(())
}

/// Reads no faster than the link takes it: a full link is the sender's full window.
async fn take_in(
    shared: &Shared,
    direction: Direction,
    mut from: OwnedReadHalf,
    segments_tx: mpsc::Sender<Travelling>,
) -> io::Result<()> {
    let mut buffer = vec![0; RELAY_SEGMENT_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await?;
        let at = shared.offer_segment(direction, bytes + BARE_BYTES).await;
        let sent = segments_tx.send((at, buffer[..bytes].to_vec())).await;
        if sent.is_err() || bytes == 0 {
            return Ok(());
        }
    }
}

async fn hand_over(
    shared: &Shared,
    direction: Direction,
    mut segments: mpsc::Receiver<Travelling>,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    while let Some((at, segment)) = segments.recv().await {
        shared.wait_until(at).await;
        if segment.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&segment).await?;
        shared.handed_over(direction, segment.len());
    }
    Ok(())
}
