//! Who may ask: checks on every request before anything is read of its body.
//!
//! A web page that the owner happens to visit can reach loopback too. It cannot forge `Host` (so a
//! name rebound to 127.0.0.1 is refused) nor `Origin` (so its scripts are).

use super::ApiState;
use super::error::{ApiError, Kind};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, header};
use std::net::{IpAddr, SocketAddr};

/// Where a connection arrived, for the guard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local(pub SocketAddr);

#[derive(Debug, thiserror::Error)]
#[error(
    "the API would listen on {0}, where other machines can reach it, without a key; \
     set one with --api-key-file (or QUORATE_API_KEY), or listen on 127.0.0.1"
)]
pub struct BindError(pub SocketAddr);

/// Beyond loopback the API needs a key.
pub fn check_bind(addr: SocketAddr, has_key: bool) -> Result<(), BindError> {
    if has_key || is_loopback(addr.ip()) {
        Ok(())
    } else {
        Err(BindError(addr))
    }
}

/// Paths that say no more than "alive", for supervisors without a key.
const OPEN: [&str; 3] = ["/health", "/readyz", "/grpc.health.v1.Health/Check"];

pub(super) fn check<B>(state: &ApiState, request: &Request<B>) -> Result<(), ApiError> {
    let local = request
        .extensions()
        .get::<Local>()
        .map(|local| local.0.ip());
    check_host(state, request, local)?;
    check_origin(state, request.headers(), local)?;
    if OPEN.contains(&request.uri().path()) {
        return Ok(());
    }
    check_key(state.api_key_hash.as_ref(), request.headers())
}

fn check_host<B>(
    state: &ApiState,
    request: &Request<B>,
    local: Option<IpAddr>,
) -> Result<(), ApiError> {
    let header = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    // HTTP/2 says it in the URI; a request that says it in both places must not contradict itself.
    let uri = request.uri().authority().map(Authority::as_str);
    let named: Vec<&str> = header.into_iter().chain(uri).collect();
    if !named.is_empty()
        && named
            .iter()
            .all(|name| is_ours(name, &state.allowed_hosts, local))
    {
        return Ok(());
    }
    let name = named.first().copied().unwrap_or("");
    let message = format!(
        "this node does not answer to the host name '{name}'; use localhost, or add the name to api.allowed_hosts"
    );
    Err(ApiError::new(Kind::ForbiddenHost, message))
}

fn check_origin(
    state: &ApiState,
    headers: &HeaderMap,
    local: Option<IpAddr>,
) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or("");
    let configured = state
        .allowed_origins
        .iter()
        .any(|allowed| allowed == origin);
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    if configured || host.is_some_and(|host| is_ours(host, &state.allowed_hosts, local)) {
        return Ok(());
    }
    let message = format!(
        "pages of the origin '{origin}' may not use this node; add it to api.allowed_origins"
    );
    Err(ApiError::new(Kind::ForbiddenOrigin, message))
}

/// Is this authority (`name`, `name:port`, `[v6]:port`) one of this machine's? A numeric address
/// cannot be rebound, so the one that the connection arrived at will do.
fn is_ours(authority: &str, allowed: &[String], local: Option<IpAddr>) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let number = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(ip) = number.parse::<IpAddr>() {
        return is_loopback(ip) || local.map(|ip| ip.to_canonical()) == Some(ip.to_canonical());
    }
    host.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn check_key(expected: Option<&[u8; 32]>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let value = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.as_bytes());
    let key = value.and_then(|v| {
        let (scheme, key) = v.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    // Comparing hashes in constant time (blake3's `==`) says nothing about the key.
    if key.is_some_and(|key| blake3::hash(key.trim_ascii()) == *expected) {
        return Ok(());
    }
    let message = match key {
        Some(_) => "the API key is not this node's; it was shown when the key was made",
        None => "this node wants an API key; send the header `Authorization: Bearer <key>`",
    };
    Err(ApiError::new(Kind::InvalidApiKey, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(authority: &str) -> bool {
        is_ours(
            authority,
            &["Box.lan".into()],
            Some([192, 168, 1, 5].into()),
        )
    }

    #[test]
    fn names_of_this_machine_and_no_others() {
        for name in [
            "localhost",
            "LocalHost:7867",
            "127.0.0.1:7867",
            "127.9.9.9",
            "[::1]:7867",
            "box.LAN:80",
            "192.168.1.5:7867",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(ours(name), "{name}");
        }
        for name in [
            "",
            "evil.example",
            "localhost.evil.example",
            "192.168.1.6",
            "evil@localhost",
            "localhost/x",
            "127.0.0.1.nip.io",
            "0.0.0.0",
        ] {
            assert!(!ours(name), "{name}");
        }
    }

    #[test]
    fn the_key_is_compared_as_a_hash() {
        let hash = *blake3::hash(b"sesame").as_bytes();
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            check_key(Some(&hash), &headers).map_err(|error| error.kind)
        };
        assert_eq!(check(Some("Bearer sesame")), Ok(()));
        assert_eq!(check(Some("bearer sesame")), Ok(()));
        for wrong in [
            None,
            Some("Bearer sesam"),
            Some("Bearer "),
            Some("sesame"),
            Some("Basic sesame"),
            Some("Bear"),
        ] {
            assert_eq!(check(wrong), Err(Kind::InvalidApiKey), "{wrong:?}");
        }
    }

    #[test]
    fn beyond_loopback_needs_a_key() {
        assert!(check_bind("127.0.0.1:7867".parse().unwrap(), false).is_ok());
        assert!(check_bind("[::1]:7867".parse().unwrap(), false).is_ok());
        assert!(check_bind("0.0.0.0:7867".parse().unwrap(), true).is_ok());
        let error = check_bind("0.0.0.0:7867".parse().unwrap(), false).unwrap_err();
        assert!(error.to_string().contains("--api-key-file"));
    }
}
