//! Where this node can be reached, as others are told; and addresses as libp2p spells them.

use crate::identity::{key_of, peer_of};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use quorate_core::ids::PeerKey;
use quorate_core::mesh::{Address, Bound, Host, Place, Transport, canonical, is_announced};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `node` is who is expected there; a relay has to be told.
pub(super) fn multiaddr_of(address: &Address, node: Option<&PeerKey>) -> Option<Multiaddr> {
    let Place { host, port } = &address.place;
    let mut out = Multiaddr::empty();
    out.push(match host {
        Host::Ip(IpAddr::V4(ip)) => Protocol::Ip4(*ip),
        Host::Ip(IpAddr::V6(ip)) => Protocol::Ip6(*ip),
        Host::Name(name) => Protocol::Dns(name.as_str().into()),
    });
    transport_of(address.transport, *port, &mut out);
    if let Some(relay) = &address.relay {
        out.push(Protocol::P2p(peer_of(relay)));
        out.push(Protocol::P2pCircuit);
        node?;
    }
    if let Some(node) = node {
        out.push(Protocol::P2p(peer_of(node)));
    }
    Some(out)
}

fn transport_of(transport: Transport, port: u16, out: &mut Multiaddr) {
    match transport {
        Transport::Quic => {
            out.push(Protocol::Udp(port));
            out.push(Protocol::QuicV1);
        }
        Transport::Tcp => out.push(Protocol::Tcp(port)),
    }
}

pub(super) fn listen_addresses(at: SocketAddr) -> [Multiaddr; 2] {
    [Transport::Quic, Transport::Tcp].map(|transport| {
        let mut out = Multiaddr::from(at.ip());
        transport_of(transport, at.port(), &mut out);
        out
    })
}

/// None for what this program neither speaks nor tells.
pub(super) fn address_of(multiaddr: &Multiaddr) -> Option<Address> {
    let mut parts = multiaddr.iter().peekable();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => Host::Ip(ip.into()),
        Protocol::Ip6(ip) => Host::Ip(ip.into()),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            Host::Name(name.to_ascii_lowercase())
        }
        _ => return None,
    };
    let (transport, port) = match parts.next()? {
        Protocol::Udp(port) if parts.next() == Some(Protocol::QuicV1) => (Transport::Quic, port),
        Protocol::Tcp(port) => (Transport::Tcp, port),
        _ => return None,
    };
    let near = match parts.next() {
        Some(Protocol::P2p(peer)) => Some(peer),
        None => None,
        Some(_) => return None,
    };
    let relay = match parts.next() {
        Some(Protocol::P2pCircuit) => Some(key_of(&near?)?),
        None => None,
        Some(_) => return None,
    };
    let place = Place { host, port };
    place.is_sensible().then_some(Address {
        place,
        transport,
        relay,
    })
}

/// What others are told: of the addresses at which this node listens, and those that were seen to
/// work, the ones that lead somewhere.
pub(super) fn announced<'a>(
    listens: impl Iterator<Item = &'a Multiaddr>,
    confirmed: impl Iterator<Item = &'a Multiaddr>,
) -> Vec<Address> {
    let all: Vec<Address> = listens.chain(confirmed).filter_map(address_of).collect();
    let interfaces = Interfaces::read();
    let bound = |address: &Address| match address {
        Address {
            place: Place {
                host: Host::Ip(ip), ..
            },
            relay: None,
            ..
        } => Some(*ip),
        _ => None,
    };
    let bounds: Vec<Bound> = all
        .iter()
        .filter_map(bound)
        .map(|ip| interfaces.bound(ip))
        .collect();
    let told = all.iter().filter(|address| {
        bound(address).is_none_or(|ip| is_announced(interfaces.bound(ip), &bounds))
    });
    canonical(told.cloned().collect())
}

/// Names of this machine's interfaces, by what Linux says of them. Elsewhere nothing is known, and
/// only Docker's first bridge is recognised.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// Networks that begin at this machine: address, mask, name; the narrowest first.
    routes: Vec<(u32, u32, String)>,
    v6: BTreeMap<Ipv6Addr, String>,
}

impl Interfaces {
    fn read() -> Interfaces {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        Interfaces::parse(&text("/proc/net/route"), &text("/proc/net/if_inet6"))
    }

    fn parse(route: &str, inet6: &str) -> Interfaces {
        // Columns of hexadecimal, in the byte order of the machine: name, destination, gateway...
        let hex = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.swap_bytes());
        let mut routes: Vec<(u32, u32, String)> = route
            .lines()
            .filter_map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                let (name, to, via, mask) = (
                    columns.first()?,
                    columns.get(1)?,
                    columns.get(2)?,
                    columns.get(7)?,
                );
                let (to, via, mask) = (hex(to)?, hex(via)?, hex(mask)?);
                (via == 0 && mask != 0).then(|| (to, mask, (*name).to_owned()))
            })
            .collect();
        routes.sort_by_key(|(_, mask, _)| std::cmp::Reverse(*mask));
        let v6 = inet6.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let ip = u128::from_str_radix(columns.first()?, 16).ok()?;
            Some((Ipv6Addr::from(ip), (*columns.get(5)?).to_owned()))
        });
        Interfaces {
            routes,
            v6: v6.collect(),
        }
    }

    fn name(&self, ip: IpAddr) -> Option<&str> {
        match ip {
            IpAddr::V4(ip) => {
                let ip = u32::from(ip);
                let on = |(to, mask, _): &&(u32, u32, String)| ip & mask == *to;
                self.routes
                    .iter()
                    .find(on)
                    .map(|(_, _, name)| name.as_str())
            }
            IpAddr::V6(ip) => self.v6.get(&ip).map(String::as_str),
        }
    }

    fn bound(&self, ip: IpAddr) -> Bound<'_> {
        let interface = self.name(ip);
        Bound { ip, interface }
    }
}

/// A port that is free for UDP and for TCP, if the system may choose.
pub(super) fn free_port(ip: IpAddr) -> std::io::Result<u16> {
    let mut last = None;
    for _ in 0..16 {
        let tcp = std::net::TcpListener::bind(SocketAddr::new(ip, 0))?;
        let at = tcp.local_addr()?;
        match std::net::UdpSocket::bind(at) {
            Ok(_) => return Ok(at.port()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

pub(super) fn is_relayed(multiaddr: &Multiaddr) -> bool {
    multiaddr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Where it begins; None for a name, and for the place of a relay.
pub(super) fn ip_of(multiaddr: &Multiaddr) -> Option<IpAddr> {
    match multiaddr.iter().next()? {
        _ if is_relayed(multiaddr) => None,
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
br-0123456789ab\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
    const INET6: &str = "20010db8000000000000000000000005 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
";

    #[test]
    fn interfaces_are_known_by_the_networks_that_begin_there() {
        let known = Interfaces::parse(ROUTE, INET6);
        let name = |ip: &str| known.name(ip.parse().unwrap());
        assert_eq!(name("172.17.0.1"), Some("docker0"));
        assert_eq!(name("172.18.0.1"), Some("br-0123456789ab"));
        assert_eq!(name("192.168.2.7"), Some("eth0"));
        assert_eq!(name("10.1.2.3"), None);
        assert_eq!(name("2001:db8::5"), Some("eth0"));
        assert_eq!(name("2001:db8::6"), None);
        let nothing = Interfaces::parse("x\ny z\n", "zz\n");
        assert_eq!(nothing.name("172.17.0.1".parse().unwrap()), None);
    }

    #[test]
    fn addresses_return_as_they_went() {
        let (relay, node) = ([7; 32], [8; 32]);
        for (host, relay) in [
            ("203.0.113.7", None),
            ("2001:db8::1", None),
            ("ada.example", None),
            ("203.0.113.7", Some(relay)),
        ] {
            for transport in [Transport::Quic, Transport::Tcp] {
                let place = Place::parse(host, 9000).unwrap();
                let address = Address {
                    place,
                    transport,
                    relay,
                };
                let spelt = multiaddr_of(&address, Some(&node)).unwrap();
                assert_eq!(address_of(&spelt), Some(address.clone()), "{spelt}");
                // A relay is of no use without the name of who is behind it.
                assert_eq!(multiaddr_of(&address, None).is_none(), relay.is_some());
            }
        }
        for odd in [
            "/ip4/1.2.3.4/udp/5",
            "/ip4/1.2.3.4/tcp/5/ws",
            "/ip4/0.0.0.0/tcp/5",
            "/memory/5",
        ] {
            assert_eq!(address_of(&odd.parse().unwrap()), None, "{odd}");
        }
    }
}
