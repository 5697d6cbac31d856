//! Who is on the other end: certificates of libp2p-tls, whose key is signed by the node's own, so
//! that a peer's id is its TLS identity.

use libp2p_identity::{Keypair, PeerId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use std::sync::Arc;

const ALPN: &[u8] = b"quorate/1";
/// A name that TLS asks for and nobody looks at: peers are known by their keys.
pub(super) const SERVER_NAME: &str = "l";

/// Cannot be told apart by a caller: the key does not sign, or the suites do not do for QUIC.
#[derive(Debug, thiserror::Error)]
#[error("no TLS for this key: {0}")]
pub struct NoTls(String);

impl NoTls {
    fn from(error: impl std::fmt::Display) -> NoTls {
        NoTls(error.to_string())
    }
}

pub(super) fn server(keypair: &Keypair) -> Result<QuicServerConfig, NoTls> {
    let mut tls = libp2p_tls::make_server_config(keypair).map_err(NoTls::from)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog);
    // A resumed session would skip the certificate of today.
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    QuicServerConfig::try_from(tls).map_err(NoTls::from)
}

/// Refuses everybody but `peer`.
pub(super) fn client(keypair: &Keypair, peer: PeerId) -> Result<QuicClientConfig, NoTls> {
    let mut tls = libp2p_tls::make_client_config(keypair, Some(peer)).map_err(NoTls::from)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(rustls::NoKeyLog);
    tls.resumption = rustls::client::Resumption::disabled();
    QuicClientConfig::try_from(tls).map_err(NoTls::from)
}

/// The id in the certificate that the handshake has checked.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let chain = identity
        .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
        .ok()?;
    let certificate = libp2p_tls::certificate::parse(chain.first()?).ok()?;
    Some(certificate.peer_id())
}
