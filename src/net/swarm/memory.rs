//! Swarms of one process, joined by memory instead of sockets, and every byte between them counted:
//! by protocol as it leaves a stream, and in all as it would leave the machine. For measurements.
//!
//! Addresses stay those of TCP and QUIC on loopback, so that all code above is that of every node; the
//! port is what counts.

use super::StartError;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::Transport;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};
use libp2p::core::transport::memory::MemoryTransportError;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, MemoryTransport, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol as Part;
use libp2p::{Multiaddr, PeerId, noise, yamux};
use libp2p_identity::Keypair;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

/// What a stream may speak, as its first bytes say.
const SPOKEN: [(&str, &str); 9] = [
    ("gossip", "/meshsub/"),
    ("ping", "/ipfs/ping/"),
    ("identify", "/ipfs/id/"),
    ("sync", "/quorate/sync/"),
    ("join", "/quorate/join/"),
    ("kademlia", "/quorate/kad/"),
    ("autonat", "/libp2p/autonat/"),
    ("relay", "/libp2p/circuit/"),
    ("plane", "/quorate/plane/"),
];
/// Where the name of a protocol must have been written: behind that of the negotiation.
const NAME_WITHIN: usize = 128;
/// A frame of yamux, and one of noise around it.
const FRAME_BYTES: u64 = 12 + 18;

/// Counts what all swarms that were given it have sent.
#[derive(Default)]
pub struct Meter {
    /// Bytes on the wires.
    all: AtomicU64,
    spoken: [Count; SPOKEN.len()],
    /// Streams that said nothing that is known.
    other: Count,
}

#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    /// Each is at most one frame.
    writes: AtomicU64,
}

impl Meter {
    /// Bytes that have left so far, encrypted and with everything around them.
    pub fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// Of each protocol; the frames that its messages came in are counted with it.
    pub fn spoken(&self) -> Vec<(&'static str, u64)> {
        let names = SPOKEN.iter().map(|(name, _)| *name);
        let known = names.zip(self.spoken.iter().map(Count::all));
        known.chain([("other", self.other.all())]).collect()
    }
}

impl Count {
    fn add(&self, bytes: u64, writes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.writes.fetch_add(writes, Ordering::Relaxed);
    }

    fn all(&self) -> u64 {
        let frames = FRAME_BYTES * self.writes.load(Ordering::Relaxed);
        self.bytes.load(Ordering::Relaxed) + frames
    }
}

pub(super) fn transport(
    keypair: &Keypair,
    meter: &Arc<Meter>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, StartError> {
    let noise = noise::Config::new(keypair).map_err(StartError::build)?;
    let (wire, streams) = (meter.clone(), meter.clone());
    let room = Room(MemoryTransport::default()).map(move |io, _| Wire { io, meter: wire });
    let upgraded = room.upgrade(Version::V1Lazy).authenticate(noise);
    let all = upgraded.multiplex(yamux::Config::default());
    let counted = all.map(move |(peer, muxer), _| {
        let meter = streams;
        (peer, StreamMuxerBox::new(Lines { muxer, meter }))
    });
    Ok(counted.boxed())
}

/// Memory has ports of 64 bits: those of UDP lie behind those of TCP.
const UDP: u64 = 1 << 16;

fn to_memory(address: &Multiaddr) -> Option<Multiaddr> {
    let parts: Vec<Part<'_>> = address.iter().collect();
    let port = match &parts[..] {
        [Part::Ip4(_), Part::Tcp(port)] | [Part::Ip4(_), Part::Tcp(port), Part::P2p(_)] => {
            u64::from(*port)
        }
        [Part::Ip4(_), Part::Udp(port), Part::QuicV1]
        | [Part::Ip4(_), Part::Udp(port), Part::QuicV1, Part::P2p(_)] => UDP + u64::from(*port),
        _ => return None,
    };
    Some(Part::Memory(port).into())
}

fn from_memory(address: &Multiaddr) -> Multiaddr {
    let Some(Part::Memory(port)) = address.iter().next() else {
        return address.clone();
    };
    let mut out = Multiaddr::from(Ipv4Addr::LOCALHOST);
    match port {
        UDP..0x2_0000 => {
            out.push(Part::Udp((port - UDP) as u16));
            out.push(Part::QuicV1);
        }
        // Who dials has a port that was drawn from all.
        _ => out.push(Part::Tcp(port as u16)),
    }
    out
}

struct Room(MemoryTransport);

type Upgrade = <MemoryTransport as Transport>::ListenerUpgrade;

impl Transport for Room {
    type Output = <MemoryTransport as Transport>::Output;
    type Error = MemoryTransportError;
    type ListenerUpgrade = Upgrade;
    type Dial = <MemoryTransport as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        let at = to_memory(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        self.0.listen_on(id, at)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let at = to_memory(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        self.0.dial(at, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, Self::Error>> {
        let mut event = ready!(Transport::poll(Pin::new(&mut self.0), cx));
        match &mut event {
            TransportEvent::NewAddress { listen_addr, .. }
            | TransportEvent::AddressExpired { listen_addr, .. } => {
                *listen_addr = from_memory(listen_addr);
            }
            TransportEvent::Incoming {
                local_addr,
                send_back_addr,
                ..
            } => {
                *local_addr = from_memory(local_addr);
                *send_back_addr = from_memory(send_back_addr);
            }
            TransportEvent::ListenerClosed { .. } | TransportEvent::ListenerError { .. } => {}
        }
        Poll::Ready(event)
    }
}

/// One end of a connection.
struct Wire<T> {
    io: T,
    meter: Arc<Meter>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.meter.all.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// The streams of a connection.
struct Lines<M> {
    muxer: M,
    meter: Arc<Meter>,
}

impl<M: StreamMuxer + Unpin> Lines<M> {
    fn line(&self, io: M::Substream) -> Line<M::Substream> {
        let meter = self.meter.clone();
        Line {
            io,
            meter,
            begun: Vec::new(),
            writes: 0,
            spoken: None,
        }
    }
}

impl<M> StreamMuxer for Lines<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = Line<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let io = ready!(Pin::new(&mut self.muxer).poll_inbound(cx))?;
        Poll::Ready(Ok(self.line(io)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let io = ready!(Pin::new(&mut self.muxer).poll_outbound(cx))?;
        Poll::Ready(Ok(self.line(io)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.muxer).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

/// One end of a stream. Both ends write the name of what they speak before anything else.
struct Line<S> {
    io: S,
    meter: Arc<Meter>,
    begun: Vec<u8>,
    writes: u64,
    /// Which of `SPOKEN`, or none of them.
    spoken: Option<Option<usize>>,
}

impl<S> Line<S> {
    fn written(&mut self, bytes: &[u8]) {
        if let Some(spoken) = self.spoken {
            let count = spoken.map_or(&self.meter.other, |n| &self.meter.spoken[n]);
            return count.add(bytes.len() as u64, 1);
        }
        self.begun.extend_from_slice(bytes);
        self.writes += 1;
        let begin = &self.begun[..self.begun.len().min(NAME_WITHIN)];
        let says = |name: &str| begin.windows(name.len()).any(|w| w == name.as_bytes());
        let spoken = SPOKEN.iter().position(|(_, name)| says(name));
        if spoken.is_some() || self.begun.len() >= NAME_WITHIN {
            self.spoken = Some(spoken);
            self.settle();
        }
    }

    fn settle(&mut self) {
        let count = match self.spoken.flatten() {
            Some(n) => &self.meter.spoken[n],
            None => &self.meter.other,
        };
        count.add(self.begun.len() as u64, self.writes);
        (self.begun, self.writes) = (Vec::new(), 0);
    }
}

impl<S> Drop for Line<S> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.written(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_return_as_they_went() {
        for address in ["/ip4/127.0.0.1/tcp/7", "/ip4/127.0.0.1/udp/7/quic-v1"] {
            let address: Multiaddr = address.parse().unwrap();
            assert_eq!(from_memory(&to_memory(&address).unwrap()), address);
        }
        let relayed = "/ip4/127.0.0.1/tcp/7/p2p-circuit".parse().unwrap();
        assert_eq!(to_memory(&relayed), None);
    }

    #[test]
    fn bytes_belong_to_what_the_stream_said_first() {
        let meter = Arc::new(Meter::default());
        let line = || Line {
            io: (),
            meter: meter.clone(),
            begun: vec![],
            writes: 0,
            spoken: None,
        };
        let mut gossip = line();
        gossip.written(b"\x13/multistream/1.0.0\n");
        gossip.written(b"\x0f/meshsub/1.2.0\n");
        gossip.written(&[7; 100]);
        let mut unknown = line();
        unknown.written(&[0; 50]);
        drop(unknown);
        let counted = meter.spoken();
        let of = |name| counted.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(of("gossip"), 20 + 16 + 100 + 3 * FRAME_BYTES);
        assert_eq!(of("other"), 50 + FRAME_BYTES);
        assert_eq!(of("ping"), 0);
    }
}
