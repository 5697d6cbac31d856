//! The links are as bad as they say, and no worse.

use crate::host::Host;
use crate::lab::{self, Lab, PATIENCE, eventually};
use crate::relaunch::Needs;
use quorate_core::link::Link;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// What two switches of threads may add to the best of many round trips.
const SLACK: Duration = Duration::from_millis(20);

pub(crate) fn bind(host: &Host) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((host.address, 0)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn recv(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    match socket.recv_from(&mut buffer) {
        Ok((bytes, from)) => Some((buffer[..bytes].to_vec(), from)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("recv: {error}"),
    }
}

fn two(lab: &mut Lab, link: Link) -> (Host, Host) {
    let (a, b) = (lab.host(), lab.host());
    lab.link(&a, &b, link);
    (a, b)
}

#[test]
fn lab_a_round_trip_over_an_ocean_takes_what_it_takes() {
    lab::run(Needs::Nothing, |lab| {
        let link = Link::named("intercontinental").unwrap();
        let (a, b) = two(lab, link);
        let (here, there) = (bind(&a), bind(&b));
        there.connect(here.local_addr().unwrap()).unwrap();
        here.connect(there.local_addr().unwrap()).unwrap();
        const N: usize = 100;
        let mut round_trips = Vec::new();
        let silence = Some(Duration::from_secs(2));
        there.set_read_timeout(silence).unwrap();
        here.set_read_timeout(silence).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while let Some((ping, _)) = recv(&there) {
                    there.send(&ping).unwrap();
                }
            });
            let sent = scope.spawn(|| {
                // Apart from each other: within a burst all would wait for the slowest.
                let ping = |n: usize| {
                    std::thread::sleep(Duration::from_millis(6));
                    let now = Instant::now();
                    here.send(&[n as u8]).unwrap();
                    now
                };
                (0..N).map(ping).collect::<Vec<_>>()
            });
            let mut pongs = Vec::new();
            while let Some((pong, _)) = recv(&here) {
                pongs.push((usize::from(pong[0]), Instant::now()));
            }
            let sent = sent.join().unwrap();
            round_trips.extend(pongs.into_iter().map(|(n, at)| at - sent[n]));
        });
        round_trips.sort();
        let (least, most) = (round_trips[0], round_trips[round_trips.len() - 1]);
        println!(
            "intercontinental, {} of {N} answered: {least:?} to {most:?}",
            round_trips.len()
        );
        let floor = Duration::from_micros(2 * u64::from(link.delay_us));
        let jitter = Duration::from_micros(2 * u64::from(link.jitter_us));
        // 1 in 250 is lost either way.
        assert!(round_trips.len() > N - 10);
        assert!(least >= floor);
        assert!(least <= floor + jitter + SLACK);
        assert!(most - least >= jitter / 4, "no jitter");
    });
}

#[test]
fn lab_losses_are_as_many_as_the_link_says() {
    lab::run(Needs::Nothing, |lab| {
        const N: u64 = 10_000;
        let link = Link {
            loss_ppm: 50_000,
            delay_us: 500,
            ..Link::PERFECT
        };
        let (a, b) = two(lab, link);
        let (here, there) = (bind(&a), bind(&b));
        let target = there.local_addr().unwrap();
        there.set_nonblocking(true).unwrap();
        let mut got = 0;
        for n in 0..N {
            here.send_to(&n.to_le_bytes(), target).unwrap();
            // In small groups, so that no kernel buffer overflows.
            if n % 32 == 31 || n == N - 1 {
                eventually("a group's fates", || {
                    let traffic = lab.traffic(&a, &b);
                    traffic.delivered + traffic.lost_on_line == n + 1
                });
                while recv(&there).is_some() {
                    got += 1;
                }
            }
        }
        let traffic = lab.traffic(&a, &b);
        println!("5 % loss, {N} packets: {traffic:?}");
        assert_eq!(got, traffic.delivered, "what the switch delivers arrives");
        assert_eq!(traffic.offered, N);
        // Six standard deviations of a binomial.
        assert!(traffic.lost_on_line.abs_diff(500) < 131);
    });
}

#[test]
fn lab_the_rate_holds_and_tcp_fills_it() {
    lab::run(Needs::Nothing, |lab| {
        const BYTES: usize = 2_000_000;
        let link = Link {
            rate_bps: 16_000_000,
            queue_bytes: 128 << 10,
            delay_us: 5_000,
            ..Link::PERFECT
        };
        let (a, b) = two(lab, link);
        let listener = b.enter(|| TcpListener::bind((b.address, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        let mut from = a.enter(|| TcpStream::connect(target).unwrap());
        let (mut to, _) = listener.accept().unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let started = Instant::now();
        let took = std::thread::scope(|scope| {
            scope.spawn(move || from.write_all(&vec![7; BYTES]).unwrap());
            let mut got = Vec::new();
            to.read_to_end(&mut got).unwrap();
            assert!(got.len() == BYTES && got.iter().all(|byte| *byte == 7));
            started.elapsed()
        });
        println!("2 MB at 16 Mbit/s: {took:?}, {:?}", lab.traffic(&a, &b));
        assert!(took >= Duration::from_millis(1_000), "faster than the link");
        assert!(took <= Duration::from_secs(10), "the link is not used");
    });
}

#[test]
fn lab_reordering_and_copies_happen_where_asked() {
    lab::run(Needs::Nothing, |lab| {
        const N: u64 = 200;
        let link = Link {
            delay_us: 20_000,
            reorder_ppm: 200_000,
            duplicate_ppm: 200_000,
            ..Link::PERFECT
        };
        let (a, b) = two(lab, link);
        let (here, there) = (bind(&a), bind(&b));
        let target = there.local_addr().unwrap();
        for n in 0..N {
            here.send_to(&n.to_le_bytes(), target).unwrap();
        }
        let mut seen = Vec::new();
        while seen.iter().collect::<BTreeSet<_>>().len() < N as usize {
            let (packet, _) = recv(&there).expect("nothing is lost");
            seen.push(u64::from_le_bytes(packet.try_into().unwrap()));
        }
        assert!(seen.len() > N as usize, "no copies");
        assert!(!seen.is_sorted(), "no reordering");

        let link = Link {
            delay_us: 100_000,
            jitter_us: 20_000,
            ..Link::PERFECT
        };
        lab.link(&a, &b, link);
        let later = bind(&b);
        let target = later.local_addr().unwrap();
        for n in 0..N {
            here.send_to(&n.to_le_bytes(), target).unwrap();
        }
        let seen: Vec<u64> = (0..N)
            .map(|_| u64::from_le_bytes(recv(&later).unwrap().0.try_into().unwrap()))
            .collect();
        assert!(seen.is_sorted(), "jitter alone keeps the order");
    });
}

#[test]
fn lab_a_partition_stops_everything_and_heals() {
    lab::run(Needs::Nothing, |lab| {
        let (a, b, c) = (lab.host(), lab.host(), lab.host());
        let listener = b.enter(|| TcpListener::bind((b.address, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        let mut from = a.enter(|| TcpStream::connect(target).unwrap());
        let (mut to, _) = listener.accept().unwrap();
        let (at_a, at_b, at_c) = (bind(&a), bind(&b), bind(&c));
        let say = |to: &UdpSocket, text: &[u8]| {
            at_a.send_to(text, to.local_addr().unwrap()).unwrap();
        };
        say(&at_b, b"before");
        assert_eq!(recv(&at_b).unwrap().0, b"before");

        lab.partition(&[&a], &[&b]);
        let lost = || lab.traffic(&a, &b).lost_on_line;
        let lost_before = lost();
        say(&at_b, b"nobody hears this");
        from.write_all(b"over a partition").unwrap();
        eventually("both are lost", || lost() >= lost_before + 2);
        say(&at_c, b"still here");
        assert_eq!(recv(&at_c).unwrap().0, b"still here");

        lab.heal();
        say(&at_b, b"after");
        assert_eq!(recv(&at_b).unwrap().0, b"after", "and nothing before it");
        // TCP tries again by itself.
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = [0; 16];
        to.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"over a partition");
    });
}

#[test]
fn lab_multicast_reaches_everybody_on_the_net() {
    lab::run(Needs::Nothing, |lab| {
        let hosts = [lab.host(), lab.host(), lab.host()];
        let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
        let sockets: Vec<UdpSocket> = hosts
            .iter()
            .map(|host| {
                let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", 5353)).unwrap());
                socket.join_multicast_v4(&group, &host.address).unwrap();
                socket.set_multicast_loop_v4(false).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
            .collect();
        sockets[0].send_to(b"who is there", (group, 5353)).unwrap();
        for socket in &sockets[1..] {
            let (text, from) = recv(socket).expect("all others hear it");
            assert_eq!(
                (&text[..], from.ip()),
                (&b"who is there"[..], hosts[0].address.into())
            );
        }
    });
}
