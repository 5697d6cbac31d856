//! `[mesh]`: how this node meets others. It says nothing as long as the node belongs to no mesh.

use super::{bad, checked};
use crate::error::Outcome;
use crate::identity;
use quorate_core::ids::PeerKey;
use quorate_core::limits::{ADDRESSES_MAX, MESH_LISTED_MAX};
use quorate_core::mesh::{Address, Place, Transport, canonical};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// The swarm: QUIC on UDP and TCP, on one port.
pub const SWARM_PORT_DEFAULT: u16 = 7868;
/// The token plane: QUIC on UDP.
const PLANE_PORT_DEFAULT: u16 = 7869;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    pub listen: SocketAddr,
    pub plane_listen: SocketAddr,
    /// Told to others in place of what this node listens on: a forwarded port, a name.
    pub announce: Vec<Address>,
    pub plane_announce: Vec<Place>,
    /// Asked for the way into the mesh, besides the addresses of the invite.
    pub bootstrap: Vec<Address>,
    /// Looks for members on the local network.
    pub mdns: bool,
    /// Tells the mesh once a day, with noise, which experts knew what was asked here.
    pub share_gate: bool,
    /// Empty: every member.
    pub allow: Vec<PeerKey>,
    pub block: Vec<PeerKey>,
    /// Reads the prompts of `mesh` requests here. None: the default model.
    pub model: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMesh {
    listen: Option<String>,
    plane_listen: Option<String>,
    announce: Vec<String>,
    plane_announce: Vec<String>,
    bootstrap: Vec<String>,
    mdns: Option<bool>,
    share_gate: Option<bool>,
    allow: Vec<String>,
    block: Vec<String>,
    model: Option<String>,
}

impl RawMesh {
    pub(super) fn resolve(self) -> Outcome<MeshSettings> {
        Ok(MeshSettings {
            listen: listen("mesh.listen", self.listen, SWARM_PORT_DEFAULT)?,
            plane_listen: listen("mesh.plane_listen", self.plane_listen, PLANE_PORT_DEFAULT)?,
            announce: addresses("mesh.announce", &self.announce)?,
            plane_announce: places(
                "mesh.plane_announce",
                &self.plane_announce,
                PLANE_PORT_DEFAULT,
            )?,
            bootstrap: addresses("mesh.bootstrap", &self.bootstrap)?,
            mdns: self.mdns.unwrap_or(true),
            share_gate: self.share_gate.unwrap_or(true),
            allow: keys("mesh.allow", &self.allow)?,
            block: keys("mesh.block", &self.block)?,
            model: self.model,
        })
    }
}

/// An address with a port, or one of the two.
struct Where(SocketAddr);

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Where, String> {
        let everywhere = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
        let place = port.map(|port| SocketAddr::new(everywhere, port));
        let place = place.or_else(|_| text.parse::<SocketAddr>());
        place.map(Where).map_err(|_| {
            format!("'{text}' is not an address to listen on; write 0.0.0.0:7868, or a port alone")
        })
    }
}

fn listen(key: &str, text: Option<String>, port: u16) -> Outcome<SocketAddr> {
    let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    text.map_or(Ok(everywhere), |text| {
        checked::<Where>(key, &text).map(|place| place.0)
    })
}

/// Both ways lead to the swarm's port.
fn addresses(key: &str, texts: &[String]) -> Outcome<Vec<Address>> {
    let places = places(key, texts, SWARM_PORT_DEFAULT)?;
    let both = places.into_iter().flat_map(|place| {
        [Transport::Quic, Transport::Tcp].map(|transport| Address {
            place: place.clone(),
            transport,
            relay: None,
        })
    });
    Ok(canonical(both.collect()))
}

fn places(key: &str, texts: &[String], port: u16) -> Outcome<Vec<Place>> {
    // An address takes two of an advert's rows: by QUIC and by TCP.
    let max = ADDRESSES_MAX / 2;
    if texts.len() > max {
        return Err(bad(format!("{key}: at most {max} addresses")));
    }
    let place = |text: &String| {
        Place::parse(text, port).ok_or_else(|| {
            bad(format!(
                "{key}: '{text}' is no address; write host:port, or a host alone for port {port}"
            ))
        })
    };
    let mut places = texts.iter().map(place).collect::<Outcome<Vec<_>>>()?;
    places.sort();
    places.dedup();
    Ok(places)
}

fn keys(key: &str, texts: &[String]) -> Outcome<Vec<PeerKey>> {
    if texts.len() > MESH_LISTED_MAX {
        return Err(bad(format!("{key}: at most {MESH_LISTED_MAX} nodes")));
    }
    let one = |text: &String| {
        identity::peer_key(text)
            .ok_or_else(|| bad(format!("{key}: '{text}' is not the id of a node")))
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Settings};

    fn parse(lines: &str) -> Result<MeshSettings, String> {
        let text = format!("version = 1\n[mesh]\n{lines}");
        let settings = Settings::parse(&text, &Overrides::default());
        settings.map(|s| s.mesh).map_err(|failure| failure.message)
    }

    #[test]
    fn a_node_listens_everywhere_and_looks_around_unless_told_otherwise() {
        let mesh = parse("").unwrap();
        assert_eq!(mesh.listen.to_string(), "0.0.0.0:7868");
        assert_eq!(mesh.plane_listen.to_string(), "0.0.0.0:7869");
        assert!(mesh.mdns && mesh.share_gate && mesh.announce.is_empty() && mesh.allow.is_empty());
        let mesh = parse(
            "listen = '127.0.0.1:0'\nplane_listen = '7000'\nmdns = false\nshare_gate = false",
        )
        .unwrap();
        assert_eq!(mesh.listen.to_string(), "127.0.0.1:0");
        assert_eq!(mesh.plane_listen.to_string(), "0.0.0.0:7000");
        assert!(!mesh.mdns && !mesh.share_gate);
    }

    #[test]
    fn an_announced_place_can_be_dialled_both_ways() {
        let mesh = parse("announce = ['ada.example']\nplane_announce = ['ada.example:9']").unwrap();
        let told: Vec<String> = mesh.announce.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["ada.example:7868 (quic)", "ada.example:7868 (tcp)"]);
        assert_eq!(mesh.plane_announce[0].to_string(), "ada.example:9");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (lines, word) in [
            ("listen = 'x'", "mesh.listen: 'x'"),
            ("announce = ['a b']", "mesh.announce: 'a b'"),
            ("bootstrap = ['1', '2', '3', '4', '5']", "at most"),
            ("block = ['ada']", "mesh.block: 'ada'"),
        ] {
            let message = parse(lines).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
        let many = format!("allow = [{}]", "'x',".repeat(MESH_LISTED_MAX + 1));
        assert!(parse(&many).unwrap_err().contains("at most"));
    }
}
