//! The socket: accepts connections up to a cap, tells gRPC from HTTP, and lets nobody hold a place
//! without asking for anything.
//!
//! - `serve`: one task; accepts, spawns a task for each connection, folds metrics
//!   - connection tasks: HTTP/1 or HTTP/2, until the client leaves or the node stops

use super::{ApiState, grpc, guard, openai};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// Time for responses under way once the node stops.
const GRACE: Duration = Duration::from_secs(5);
/// Requests at once on one HTTP/2 connection; the node's queue is what really bounds work.
const STREAMS_MAX: u32 = 256;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const UPKEEP: Duration = Duration::from_secs(5);
/// After an accept that failed (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then gives responses under way a moment to end.
pub async fn serve(
    state: ApiState,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    guard::check_bind(local, state.api_key_hash.is_some())
        .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
    let service = Front {
        http: openai::router(state.clone()),
        grpc: grpc::router(&state).await,
    };
    let places = Arc::new(Semaphore::new(state.limits.connections));
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP);
    tracing::info!(target: "quorate::api", %local, "listening");
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = upkeep.tick() => state.metrics.upkeep(),
            Some(ended) = connections.join_next() => note_panic(ended),
            // A place first: beyond the cap, clients wait in the kernel's backlog.
            (place, accepted) = accept(&places, &listener) => match accepted {
                Ok(stream) => {
                    let (service, shutdown) = (service.clone(), shutdown.clone());
                    let head = state.limits.head;
                    connections.spawn(async move {
                        connection(stream, service, head, shutdown).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(target: "quorate::api", %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    while let Some(ended) = connections.join_next().await {
        note_panic(ended);
    }
    Ok(())
}

async fn accept(
    places: &Arc<Semaphore>,
    listener: &TcpListener,
) -> (
    Option<tokio::sync::OwnedSemaphorePermit>,
    io::Result<TcpStream>,
) {
    // The semaphore is never closed.
    let place = places.clone().acquire_owned().await.ok();
    (place, listener.accept().await.map(|(stream, _)| stream))
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(target: "quorate::api", %error, "a connection's task died");
    }
}

async fn connection(stream: TcpStream, front: Front, head: Duration, shutdown: CancellationToken) {
    // A token is a small write that must not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(target: "quorate::api", %error, "no TCP_NODELAY");
    }
    let Ok(local) = stream.local_addr() else {
        return; // gone already
    };
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = asked.clone();
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(guard::Local(local));
            front.clone().call(request.map(Body::new))
        })
    };
    let builder = builder(head);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // Covers what comes before hyper's own timeouts start, e.g. half of an HTTP/2 preface.
    let idle = async {
        tokio::time::sleep(head).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = idle => return,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(target: "quorate::api", %error, "a connection ended early");
    }
}

fn builder(head: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// Two routers behind one socket.
#[derive(Clone)]
struct Front {
    http: Router,
    grpc: Router,
}

impl Front {
    async fn call(mut self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            self.grpc.call(request).await
        } else {
            self.http.call(request).await
        }
    }
}
