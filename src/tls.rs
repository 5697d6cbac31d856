//! One TLS provider for the process. rustls panics at the first handshake where there is none, or
//! where two are compiled in and nobody has chosen; libp2p-tls decides that ours is aws-lc-rs.

/// First in `main`; again, for tests, where a client or an endpoint is made. Costs nothing twice.
pub fn install_provider() {
    // It is an error to be second, and then the first one, which is this one, stays.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}
