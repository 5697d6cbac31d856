//! What only QUIC can get wrong: who is at the other end, and how long a connection stands.

use crate::pair::{LOOPBACK, Pair, key_of, letterhead, open, plane, soon};
use crate::served::{Door, Served};
use libp2p_identity::{Keypair, PeerId};
use quinn::crypto::rustls::QuicClientConfig;
use quorate::expert::Expert;
use quorate::net::frame::PATIENCE;
use quorate::net::plane::{BindError, DialError, Path, Plane};
use quorate::net::remote::{Dial, Remote, RemoteExpert};
use quorate_core::ids::SessionId;
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

#[tokio::test]
async fn both_ends_know_each_other_and_share_one_connection() {
    let ((near, near_id), (far, far_id)) = (plane(), plane());
    let address = far.local_addr().unwrap();
    let addresses = [address];
    let (one, two) = tokio::join!(near.dial(far_id, &addresses), near.dial(far_id, &addresses));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.address() == address && one.rtt() < Duration::from_secs(1));
    for connection in [&one, &two] {
        let mut stream = connection.open().await.unwrap();
        assert_eq!(stream.route.path, Path::Direct(address));
        stream.writer.write_all(b"x").await.unwrap();
        let arrival = soon("a stream", far.accept()).await.unwrap();
        assert_eq!(arrival.peer, near_id);
        assert_eq!(arrival.path, Path::Direct(near.local_addr().unwrap()));
    }
    let again = near
        .dial(far_id, &[])
        .await
        .expect("it stands, so no address is needed");
    drop((one, two, again));
    let error = near.dial(far_id, &[]).await.err().unwrap();
    assert!(
        matches!(error, DialError::NoAddress),
        "nobody held it, so it was closed: {error}"
    );
}

#[tokio::test]
async fn another_peer_at_the_address_is_refused() {
    let ((near, _), (far, far_id)) = (plane(), plane());
    let address = far.local_addr().unwrap();
    let stranger = Keypair::generate_ed25519().public().to_peer_id();
    let error = near.dial(stranger, &[address]).await.err().unwrap();
    assert!(matches!(error, DialError::Failed(_)), "{error}");
    // An address that is nobody's, one that is somebody else's, and the right one.
    let (other, _) = plane();
    let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let addresses = [nobody, other.local_addr().unwrap(), address];
    let connection = near.dial(far_id, &addresses).await.unwrap();
    assert_eq!(connection.address(), address);
}

#[tokio::test]
async fn nobody_at_the_address_is_noticed_in_time() {
    let ((near, _), silent) = (plane(), UdpSocket::bind(LOOPBACK).await.unwrap());
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let began = Instant::now();
    let error = near
        .dial(peer, &[silent.local_addr().unwrap()])
        .await
        .err()
        .unwrap();
    assert!(matches!(error, DialError::Timeout), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[derive(Debug)]
struct Nameless;

impl rustls::client::ResolvesClientCert for Nameless {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A client that is not ours, to the plane of a peer.
async fn foreign(tls: rustls::ClientConfig, far: &Plane) -> Result<quinn::Connection, String> {
    let endpoint = quinn::Endpoint::client(LOOPBACK).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let address = far.local_addr().unwrap();
    let connecting = endpoint.connect_with(config, address, "l").unwrap();
    let connection = connecting.await.map_err(|error| error.to_string())?;
    // A server that refuses a certificate says so after the client's handshake is over.
    match tokio::time::timeout(Duration::from_secs(3), connection.closed()).await {
        Ok(error) => Err(error.to_string()),
        Err(_) => Ok(connection),
    }
}

fn libp2p_client(peer: PeerId) -> rustls::ClientConfig {
    let keypair = Keypair::generate_ed25519();
    libp2p_tls::make_client_config(&keypair, Some(peer)).unwrap()
}

#[tokio::test]
async fn another_protocol_and_a_client_without_a_key_are_refused() {
    let (far, far_id) = plane();
    let error = foreign(libp2p_client(far_id), &far).await.unwrap_err();
    assert!(error.contains("protocol"), "ALPN libp2p: {error}");

    let mut nameless = libp2p_client(far_id);
    nameless.alpn_protocols = vec![b"quorate/1".to_vec()];
    nameless.client_auth_cert_resolver = Arc::new(Nameless);
    let error = foreign(nameless, &far).await.unwrap_err();
    assert!(error.contains("ertificate"), "no certificate: {error}");

    let mut good = libp2p_client(far_id);
    good.alpn_protocols = vec![b"quorate/1".to_vec()];
    assert!(
        foreign(good, &far).await.is_ok(),
        "or the two above prove nothing"
    );
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_and_a_key_log_too() {
    // In a child, whose environment is its own.
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "endpoints::child_binds_under_a_key_log",
        ])
        .env("SSLKEYLOGFILE", "keys.log")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "run by the test above, with SSLKEYLOGFILE set"]
async fn child_binds_under_a_key_log() {
    let bound = Plane::bind(Keypair::generate_ed25519(), LOOPBACK);
    assert!(matches!(bound.err(), Some(BindError::KeyLog)));
    assert!(!std::path::Path::new("keys.log").exists());
}

#[tokio::test]
async fn a_third_connection_of_one_peer_is_refused() {
    let (far, far_id) = plane();
    let keypair = Keypair::generate_ed25519();
    let address = far.local_addr().unwrap();
    let mut standing = Vec::new();
    for number in 0..3 {
        let near = Plane::bind(keypair.clone(), LOOPBACK).unwrap();
        let connection = near.dial(far_id, &[address]).await.unwrap();
        let mut stream = connection.open().await.unwrap();
        stream.writer.write_all(b"x").await.unwrap();
        let arrived = tokio::time::timeout(Duration::from_secs(2), far.accept()).await;
        assert_eq!(arrived.is_ok(), number < 2, "connection {number}");
        standing.push((near, stream, arrived));
    }
}

/// Passes datagrams on both ways until it is told not to: a cable that is cut, not a process that
/// says goodbye.
async fn cable(far: SocketAddr, mut cut: watch::Receiver<bool>) -> SocketAddr {
    let (outer, inner) = (
        UdpSocket::bind(LOOPBACK).await.unwrap(),
        UdpSocket::bind(LOOPBACK).await.unwrap(),
    );
    let address = outer.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 2048], vec![0; 2048]);
        let mut near = None;
        loop {
            tokio::select! {
                _ = cut.changed() => std::future::pending().await,
                got = outer.recv_from(&mut up) => {
                    let (size, from) = got.unwrap();
                    near = Some(from);
                    inner.send_to(&up[..size], far).await.unwrap();
                }
                got = inner.recv_from(&mut down) => {
                    let (size, _) = got.unwrap();
                    outer.send_to(&down[..size], near.unwrap()).await.unwrap();
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_cable_is_noticed_within_six_seconds_and_a_silence_is_none() {
    let (served, _ended) = Served::spawn(Door::Open, PATIENCE);
    let ((near, _), (far, far_id)) = (plane(), plane());
    let (cut_tx, cut) = watch::channel(false);
    let address = cable(far.local_addr().unwrap(), cut).await;
    let server = served.server();
    tokio::spawn(async move {
        while let Some(arrival) = far.accept().await {
            tokio::spawn(server(key_of(&arrival.peer), arrival.stream));
        }
    });
    let near = Arc::new(near);
    let dial: Dial = Arc::new(move || {
        let near = near.clone();
        Box::pin(async move {
            let connection = near.dial(far_id, &[address]).await;
            let connection = connection.map_err(|error| error.to_string())?;
            connection.open().await.map_err(|error| error.to_string())
        })
    });
    let (events_tx, mut events) = mpsc::channel(8);
    let remote = Remote {
        facts: served.facts(),
        letterhead: watch::channel(letterhead()).1,
        dial,
        patience: PATIENCE,
    };
    let remote = RemoteExpert::new(remote, events_tx);
    let session = SessionId(3);
    remote
        .submit(ExpertOp::Open(Box::new(open(session, "x"))))
        .unwrap();
    let ready = soon("an event", events.recv()).await.unwrap().event;
    assert!(matches!(ready, ExpertEvent::Ready { .. }));
    // Longer than the idle limit: keep-alives hold it.
    let silence = tokio::time::timeout(Duration::from_millis(5_500), events.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
    let began = Instant::now();
    cut_tx.send(true).unwrap();
    let event = soon("an event", events.recv()).await.unwrap().event;
    let why = ExpertFailure::Gone;
    assert_eq!(event, ExpertEvent::Failed { session, why });
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expert_that_cannot_be_reached_is_gone() {
    let (served, _ended) = Served::spawn(Door::Open, PATIENCE);
    let pair = Pair::new(crate::pair::Kind::Quic, served.server());
    pair.kill_server();
    let (remote, mut events) = pair.expert(served.facts());
    let session = SessionId(3);
    remote
        .submit(ExpertOp::Open(Box::new(open(session, "x"))))
        .unwrap();
    let event = soon("an event", events.recv()).await.unwrap().event;
    let why = ExpertFailure::Gone;
    assert_eq!(event, ExpertEvent::Failed { session, why });
}
