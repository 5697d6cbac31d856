//! Where a node can be reached, in few bytes, and which of its own addresses it should tell others.

use crate::governance::codec::{Author, Malformed, Reader, Writer};
use crate::limits::{ADDRESSES_MAX, HOST_NAME_BYTES_MAX};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Ip(IpAddr),
    /// Lower-case letters, digits, hyphens and dots.
    Name(String),
}

/// A host and a port: what people write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// UDP.
    Quic,
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub place: Place,
    pub transport: Transport,
    /// The place is that of another node, which passes connections on.
    pub relay: Option<Author>,
}

impl Place {
    /// `host:port`, `[v6]:port`, or a host alone, for which `port` is meant.
    pub fn parse(text: &str, port: u16) -> Option<Place> {
        if let Ok(socket) = text.parse::<core::net::SocketAddr>() {
            return Place::at(Host::Ip(socket.ip()), socket.port());
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Place::at(Host::Ip(ip), port);
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, digits)) => (name, digits.parse().ok()?),
            None => (text, port),
        };
        let name = name.to_ascii_lowercase();
        is_name(&name)
            .then_some(Host::Name(name))
            .and_then(|host| Place::at(host, port))
    }

    fn at(host: Host, port: u16) -> Option<Place> {
        (port != 0).then_some(Place { host, port })
    }

    /// Could anybody be there at all? Checked on what others say of themselves.
    pub fn is_sensible(&self) -> bool {
        let is_somewhere = match &self.host {
            Host::Ip(ip) => !is_nowhere(ip),
            Host::Name(name) => is_name(name),
        };
        is_somewhere && self.port != 0
    }

    pub(super) fn write(&self, out: &mut Writer) {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => out.u8(4).raw(&ip.octets()),
            Host::Ip(IpAddr::V6(ip)) => out.u8(6).raw(&ip.octets()),
            Host::Name(name) => out.u8(1).text(name),
        };
        out.u16(self.port);
    }

    pub(super) fn read(read: &mut Reader) -> Result<Place, Malformed> {
        let host = match read.u8()? {
            4 => Host::Ip(Ipv4Addr::from(read.array::<4>()?).into()),
            6 => Host::Ip(Ipv6Addr::from(read.array::<16>()?).into()),
            1 => Host::Name(read.text(HOST_NAME_BYTES_MAX, "the host name")?),
            _ => return Err(Malformed::Range("the kind of host")),
        };
        let port = read.u16()?;
        let place = Place { host, port };
        if place.is_sensible() {
            Ok(place)
        } else {
            Err(Malformed::Range("an address"))
        }
    }

    /// At most [`ADDRESSES_MAX`] of them, strictly ascending.
    pub(super) fn write_all(places: &[Place], out: &mut Writer) {
        out.u8(places.len() as u8);
        places.iter().for_each(|place| place.write(out));
    }

    pub(super) fn read_all(read: &mut Reader) -> Result<Vec<Place>, Malformed> {
        list(read, Place::read)
    }
}

impl Address {
    pub(super) fn write_all(addresses: &[Address], out: &mut Writer) {
        out.u8(addresses.len() as u8);
        for Address {
            place,
            transport,
            relay,
        } in addresses
        {
            place.write(out);
            out.u8(*transport as u8).u8(u8::from(relay.is_some()));
            if let Some(relay) = relay {
                out.raw(relay);
            }
        }
    }

    pub(super) fn read_all(read: &mut Reader) -> Result<Vec<Address>, Malformed> {
        list(read, |read| {
            let place = Place::read(read)?;
            let transport = match read.u8()? {
                0 => Transport::Quic,
                1 => Transport::Tcp,
                _ => return Err(Malformed::Range("the transport")),
            };
            let relay = match read.u8()? {
                0 => None,
                1 => Some(read.array()?),
                _ => return Err(Malformed::Range("the relay")),
            };
            Ok(Address {
                place,
                transport,
                relay,
            })
        })
    }
}

fn list<T: Ord>(
    read: &mut Reader,
    one: impl Fn(&mut Reader) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let n = usize::from(read.u8()?);
    if n > ADDRESSES_MAX {
        return Err(Malformed::Range("the number of addresses"));
    }
    let all = (0..n).map(|_| one(read)).collect::<Result<Vec<_>, _>>()?;
    if all.windows(2).all(|pair| pair[0] < pair[1]) {
        Ok(all)
    } else {
        Err(Malformed::Order("the addresses"))
    }
}

/// Sorted, each once, and no more than fit into an invite or an advert. Direct ones go first, so
/// that a node with many relays does not hide its own door.
pub fn canonical(mut addresses: Vec<Address>) -> Vec<Address> {
    addresses.sort_by(|a, b| (a.relay, a).cmp(&(b.relay, b)));
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    addresses.sort();
    addresses
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inside)
    };
    name.len() <= HOST_NAME_BYTES_MAX && name.split('.').all(is_label)
}

fn is_nowhere(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local()
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    }
}

/// An address that a listener of this node is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    pub ip: IpAddr,
    /// As the system names it; None where it does not say.
    pub interface: Option<&'a str>,
}

/// Should others be told of `one`? Bridges of containers exist on every second machine with the same
/// addresses: who dials them meets himself. Loopback is told of only where there is nothing else,
/// which is the case of several nodes on one machine.
pub fn is_announced(one: Bound, all: &[Bound]) -> bool {
    let only_loopback = all.iter().all(|bound| bound.ip.is_loopback());
    !is_nowhere(&one.ip) && !is_bridge(one) && (!one.ip.is_loopback() || only_loopback)
}

fn is_bridge(bound: Bound) -> bool {
    /// What Docker gives its first bridge.
    const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));
    const PREFIXES: [&str; 9] = [
        "docker", "veth", "virbr", "cni", "podman", "lxcbr", "lxdbr", "flannel", "cali",
    ];
    let Some(name) = bound.interface else {
        return bound.ip == DOCKER;
    };
    // Docker's own networks are "br-" and twelve digits; a router's "br-lan" is a real one.
    let network = name.strip_prefix("br-");
    let is_docker = network.is_some_and(|id| id.len() == 12 && id.bytes().all(is_hex));
    is_docker || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Quic => "quic",
            Transport::Tcp => "tcp",
        };
        match self.relay {
            None => write!(f, "{} ({transport})", self.place),
            Some(_) => write!(f, "relay at {} ({transport})", self.place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound<'a>(ip: &str, interface: &'a str) -> Bound<'a> {
        Bound {
            ip: ip.parse().unwrap(),
            interface: (!interface.is_empty()).then_some(interface),
        }
    }

    #[test]
    fn bridges_and_link_local_are_kept_quiet_and_loopback_unless_it_is_alone() {
        let all = [
            bound("127.0.0.1", "lo"),
            bound("192.168.1.5", "wlan0"),
            bound("192.168.2.1", "br-lan"),
            bound("172.17.0.1", "docker0"),
            bound("172.18.0.1", "br-0123456789ab"),
            bound("169.254.3.4", "eth1"),
            bound("fe80::1", "wlan0"),
            bound("2001:db8::5", "wlan0"),
            bound("192.168.122.1", "virbr0"),
        ];
        let told: Vec<String> = all
            .iter()
            .filter(|one| is_announced(**one, &all))
            .map(|one| one.ip.to_string())
            .collect();
        assert_eq!(told, ["192.168.1.5", "192.168.2.1", "2001:db8::5"]);
        let alone = [bound("127.0.0.1", "lo"), bound("::1", "lo")];
        assert!(alone.iter().all(|one| is_announced(*one, &alone)));
        // Where the system does not name its interfaces, and inside a container.
        assert!(!is_announced(bound("172.17.0.1", ""), &all));
        let inside = [bound("127.0.0.1", "lo"), bound("172.17.0.2", "eth0")];
        assert!(is_announced(inside[1], &inside) && !is_announced(inside[0], &inside));
    }

    #[test]
    fn places_are_read_as_people_write_them() {
        for (text, place) in [
            ("203.0.113.7:9000", "203.0.113.7:9000"),
            ("203.0.113.7", "203.0.113.7:7868"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
            ("2001:db8::1", "[2001:db8::1]:7868"),
            ("Ada.Example", "ada.example:7868"),
            ("ada.example:1", "ada.example:1"),
        ] {
            assert_eq!(
                Place::parse(text, 7868).unwrap().to_string(),
                place,
                "{text}"
            );
        }
        for text in [
            "",
            "a..b",
            "ada:0",
            "ada:99999",
            "-ö-",
            "a b",
            "ada:1:2",
            "/ip4/1.2.3.4",
        ] {
            assert_eq!(Place::parse(text, 7868), None, "{text}");
        }
    }

    #[test]
    fn a_node_with_many_addresses_tells_the_direct_ones() {
        let address = |n: u8, relay| Address {
            place: Place::parse(&format!("10.0.0.{n}"), 1).unwrap(),
            transport: Transport::Tcp,
            relay,
        };
        let mut many: Vec<Address> = (1..=ADDRESSES_MAX as u8)
            .map(|n| address(n, Some([n; 32])))
            .collect();
        many.extend([address(200, None), address(200, None)]);
        let told = canonical(many);
        assert_eq!(told.len(), ADDRESSES_MAX);
        assert_eq!(told.iter().filter(|a| a.relay.is_none()).count(), 1);
    }
}
