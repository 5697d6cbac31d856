//! The relay between real sockets. Times are lower bounds, which a busy machine cannot break.

use quorate::testnet::relay::{self, Error, Relay};
use quorate_core::limits::{
    RELAY_FLOWS_MAX, RELAY_SEGMENT_BYTES, RELAY_SEGMENTS_MAX, RELAY_STREAMS_MAX,
};
use quorate_core::link::{BadLink, Link};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// For what must come: a machine that is busy may take long, one that waits longer is broken.
const PATIENCE: Duration = Duration::from_secs(20);

fn delay(ms: u32) -> Link {
    Link {
        delay_us: ms * 1_000,
        ..Link::PERFECT
    }
}

async fn start(target: SocketAddr, link: Link) -> (Relay, CancellationToken) {
    let stop = CancellationToken::new();
    let relay = relay::start(ANY, target, link, 1, stop.clone())
        .await
        .unwrap();
    (relay, stop)
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it comes")
}

/// Sends back what it gets, UDP and TCP, on one port.
async fn echo() -> (SocketAddr, [JoinHandle<()>; 2]) {
    let tcp = TcpListener::bind(ANY).await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(addr).await.unwrap();
    let datagrams = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((bytes, from)) = udp.recv_from(&mut buffer).await {
            udp.send_to(&buffer[..bytes], from).await.unwrap();
        }
    });
    let streams = tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                // A client that goes away in the middle is what some tests are about.
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    (addr, [datagrams, streams])
}

async fn client(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(ANY).await.unwrap();
    socket.connect(addr).await.unwrap();
    socket
}

#[tokio::test]
async fn a_datagram_takes_its_time_both_ways() {
    let (target, _echo) = echo().await;
    let (relay, _stop) = start(target, delay(60)).await;
    let socket = client(relay.addr).await;
    for n in 0..3u8 {
        let sent = Instant::now();
        socket.send(&[n]).await.unwrap();
        let mut buffer = [0; 8];
        let bytes = in_time(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!(buffer[..bytes], [n]);
        assert!(sent.elapsed() >= Duration::from_millis(120));
    }
    let stats = relay.stats();
    assert_eq!((stats.forth.packets, stats.back.packets), (3, 3));
    assert_eq!((stats.forth.bytes, stats.back.bytes), (3, 3));
}

#[tokio::test]
async fn clients_get_their_own_answers() {
    let (target, _echo) = echo().await;
    let (relay, _stop) = start(target, delay(5)).await;
    let clients = [client(relay.addr).await, client(relay.addr).await];
    for (n, socket) in clients.iter().enumerate() {
        socket.send(&[n as u8; 100]).await.unwrap();
    }
    for (n, socket) in clients.iter().enumerate() {
        let mut buffer = [9; 200];
        let bytes = in_time(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!(buffer[..bytes], [n as u8; 100]);
    }
}

#[tokio::test]
async fn a_lossy_link_loses_its_share_and_every_datagram_is_accounted_for() {
    const N: u64 = 4_000;
    let target = UdpSocket::bind(ANY).await.unwrap();
    let link = Link {
        loss_ppm: 300_000,
        ..delay(1)
    };
    let (relay, _stop) = start(target.local_addr().unwrap(), link).await;
    let socket = client(relay.addr).await;
    let (mut got, mut buffer) = (0, [0; 16]);
    for n in 0..N {
        socket.send(&n.to_le_bytes()).await.unwrap();
        // One at a time through the kernel's small buffers: wait until the relay has decided.
        in_time(async {
            loop {
                let forth = relay.stats().forth;
                if forth.packets + forth.lost_on_line > n {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        while target.try_recv(&mut buffer).is_ok() {
            got += 1;
        }
    }
    let forth = relay.stats().forth;
    while got < forth.packets {
        in_time(target.recv(&mut buffer)).await.unwrap();
        got += 1;
    }
    assert_eq!(forth.packets + forth.lost_on_line, N);
    assert_eq!((forth.lost_in_queue, forth.lost_here), (0, 0));
    // Six standard deviations of a binomial.
    assert!(forth.lost_on_line.abs_diff(1_200) < 174, "{forth:?}");
}

#[tokio::test]
async fn a_stream_arrives_whole_late_and_no_faster_than_the_rate() {
    let (target, _echo) = echo().await;
    let link = Link {
        rate_bps: 16_000_000,
        loss_ppm: 1_000,
        queue_bytes: 128 << 10,
        ..delay(20)
    };
    let (relay, _stop) = start(target, link).await;
    let sent: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    let started = Instant::now();
    let stream = TcpStream::connect(relay.addr).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let writer = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        }
    });
    let mut got = Vec::new();
    in_time(from.read_to_end(&mut got)).await.unwrap();
    writer.await.unwrap();
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    // 600 kB at 2 MB/s, and the way there and back.
    assert!(started.elapsed() >= Duration::from_millis(340));
    let stats = relay.stats();
    assert_eq!((stats.forth.bytes, stats.back.bytes), (600_000, 600_000));
}

#[tokio::test]
async fn an_end_that_breaks_breaks_the_other() {
    let target = TcpListener::bind(ANY).await.unwrap();
    let (relay, _stop) = start(target.local_addr().unwrap(), delay(1)).await;
    let mut client = TcpStream::connect(relay.addr).await.unwrap();
    let (server, _) = in_time(target.accept()).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let ended = in_time(client.read(&mut [0; 8])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_target_that_is_not_there_costs_one_connection_and_not_the_relay() {
    let gone = TcpListener::bind(ANY).await.unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    let (relay, _stop) = start(addr, delay(1)).await;
    let mut first = TcpStream::connect(relay.addr).await.unwrap();
    let ended = in_time(first.read(&mut [0; 8])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let socket = client(relay.addr).await;
    socket.send(b"nobody").await.unwrap();
    in_time(async {
        while relay.stats().forth.packets == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // It comes up, and both kinds arrive.
    let target = TcpListener::bind(addr).await.unwrap();
    let udp = UdpSocket::bind(addr).await.unwrap();
    let _second = TcpStream::connect(relay.addr).await.unwrap();
    in_time(target.accept()).await.unwrap();
    socket.send(b"somebody").await.unwrap();
    let mut buffer = [0; 16];
    let bytes = in_time(udp.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..bytes], b"somebody");
}

#[tokio::test]
async fn a_cut_link_is_silent_and_a_healed_one_goes_on() {
    let (target, _echo) = echo().await;
    let link = delay(1);
    let (relay, _stop) = start(target, link).await;
    let socket = client(relay.addr).await;
    let mut stream = TcpStream::connect(relay.addr).await.unwrap();
    let mut buffer = [0; 16];
    stream.write_all(b"one").await.unwrap();
    in_time(stream.read_exact(&mut buffer[..3])).await.unwrap();

    relay.set_link(link.cut()).unwrap();
    socket.send(b"lost").await.unwrap();
    stream.write_all(b"two").await.unwrap();
    in_time(async {
        // The datagram once, the segment at every try.
        while relay.stats().forth.lost_on_line < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(relay.stats().forth.bytes, 3);
    relay.set_link(link).unwrap();
    in_time(stream.read_exact(&mut buffer[..3])).await.unwrap();
    assert_eq!(&buffer[..3], b"two");
    socket.send(b"found").await.unwrap();
    let bytes = in_time(socket.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..bytes], b"found");
}

#[tokio::test]
async fn a_stopped_relay_has_ended_and_its_port_is_free() {
    let (target, _echo) = echo().await;
    let (relay, stop) = start(target, Link::PERFECT).await;
    let addr = relay.addr;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let socket = client(addr).await;
    socket.send(b"x").await.unwrap();
    let mut buffer = [0; 8];
    in_time(socket.recv(&mut buffer)).await.unwrap();
    stream.write_all(b"y").await.unwrap();
    in_time(stream.read_exact(&mut buffer[..1])).await.unwrap();
    stop.cancel();
    in_time(relay.stopped()).await;
    let ended = in_time(stream.read(&mut buffer)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let taken = UdpSocket::bind(addr).await.unwrap();
    let start = || relay::start(addr, target, Link::PERFECT, 1, CancellationToken::new());
    assert!(matches!(start().await, Err(Error::Bind { .. })));
    drop(taken);
    start().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let no_link = Link {
        rate_bps: 0,
        ..Link::PERFECT
    };
    let refused = relay::start(ANY, ANY, no_link, 1, CancellationToken::new()).await;
    assert!(matches!(refused, Err(Error::Link(BadLink::Rate))));
    let (relay, _stop) = start(ANY, Link::PERFECT).await;
    assert_eq!(relay.set_link(no_link), Err(BadLink::Rate));
}

#[tokio::test]
async fn conversations_are_bounded() {
    let target = UdpSocket::bind(ANY).await.unwrap();
    let (relay, _stop) = start(target.local_addr().unwrap(), Link::PERFECT).await;
    let mut clients = Vec::new();
    for n in 0..=RELAY_FLOWS_MAX as u64 {
        let socket = client(relay.addr).await;
        socket.send(b"hello").await.unwrap();
        clients.push(socket);
        in_time(async {
            loop {
                let forth = relay.stats().forth;
                if forth.packets + forth.lost_here > n {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let forth = relay.stats().forth;
    assert_eq!(forth.packets, RELAY_FLOWS_MAX as u64);
    assert_eq!(forth.lost_here, 1);
    // Who was in stays in.
    clients[0].send(b"again").await.unwrap();
    in_time(async {
        while relay.stats().forth.packets <= RELAY_FLOWS_MAX as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn streams_are_bounded_and_the_next_waits_for_a_place() {
    let target = TcpListener::bind(ANY).await.unwrap();
    let (relay, _stop) = start(target.local_addr().unwrap(), Link::PERFECT).await;
    let mut clients = Vec::new();
    for n in 0..=RELAY_STREAMS_MAX {
        let stream = TcpStream::connect(relay.addr).await.unwrap();
        let carried = if n < RELAY_STREAMS_MAX {
            Some(in_time(target.accept()).await.unwrap())
        } else {
            None
        };
        clients.push((stream, carried));
    }
    // The last one shook hands with the kernel and gets no further ...
    let (mut last, _) = clients.pop().unwrap();
    last.write_all(b"let me in").await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(100), target.accept()).await;
    assert!(waiting.is_err(), "one stream too many");
    // ... until another one leaves.
    clients.pop();
    let (mut server, _) = in_time(target.accept()).await.unwrap();
    let mut buffer = [0; 9];
    in_time(server.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"let me in");
}

#[tokio::test]
async fn a_target_that_reads_nothing_stops_the_sender() {
    let target = TcpListener::bind(ANY).await.unwrap();
    let (relay, _stop) = start(target.local_addr().unwrap(), Link::PERFECT).await;
    let mut client = TcpStream::connect(relay.addr).await.unwrap();
    let (_server, _) = in_time(target.accept()).await.unwrap();
    // Our segments, and two pairs of the kernel's largest buffers.
    let bound = RELAY_SEGMENTS_MAX * RELAY_SEGMENT_BYTES + (64 << 20);
    let (chunk, mut taken) = (vec![0; 64 << 10], 0);
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), client.write(&chunk)).await
    {
        taken += written.unwrap();
        assert!(taken <= bound, "it buffers without end");
    }
}
