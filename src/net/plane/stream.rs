//! A stream of the token plane, by whatever path.

use super::PlaneConnection;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How two nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// QUIC to the plane's own port.
    Direct(SocketAddr),
    /// A stream of the swarm's connection.
    Libp2p { relayed: bool },
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Direct(address) => write!(f, "direct, {address}"),
            Path::Libp2p { relayed: false } => f.write_str("libp2p"),
            Path::Libp2p { relayed: true } => f.write_str("libp2p, relayed"),
        }
    }
}

/// The path of one stream. A direct connection lives as long as any route over it.
#[derive(Clone)]
pub struct Route {
    pub path: Path,
    connection: Option<PlaneConnection>,
}

impl Route {
    /// The last measured round trip; None where the swarm measures it.
    pub fn rtt(&self) -> Option<Duration> {
        self.connection.as_ref().map(PlaneConnection::rtt)
    }
}

pub struct Stream {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub route: Route,
}

impl Stream {
    /// A stream of the swarm.
    pub fn over(io: impl AsyncRead + AsyncWrite + Send + 'static, relayed: bool) -> Stream {
        let (reader, writer) = tokio::io::split(io);
        Stream {
            reader: Box::new(reader),
            writer: Box::new(writer),
            route: Route {
                path: Path::Libp2p { relayed },
                connection: None,
            },
        }
    }

    pub(super) fn direct(
        connection: PlaneConnection,
        writer: quinn::SendStream,
        reader: quinn::RecvStream,
    ) -> Stream {
        Stream {
            reader: Box::new(reader),
            writer: Box::new(writer),
            route: Route {
                path: Path::Direct(connection.address()),
                connection: Some(connection),
            },
        }
    }
}
