//! The release binary on hosts of the lab.

use crate::host::{Host, Process};
use crate::lab::{self, PATIENCE, eventually};
use crate::relaunch::Needs;
use quorate_core::link::Link;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PORT: u16 = 7867;

/// A node with a home of its own, its API open to the other hosts.
fn node(host: &Host) -> Process {
    let listen = format!("{}:{PORT}", host.address);
    let args = ["up", "--json", "--listen", &listen];
    let mut command = host.command(env!("CARGO_BIN_EXE_quorate"), &args);
    command
        .env("QUORATE_HOME", host.folder())
        .env("QUORATE_API_KEY", "a-key-for-the-lab-alone");
    let node = host.spawn(command);
    node.wait_for("\"api\"", PATIENCE);
    node
}

/// Asks whether a node is well; the head of its answer.
fn health(from: &Host, at: &Host) -> String {
    let mut stream = from.enter(|| TcpStream::connect((at.address, PORT)).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = at.address;
    write!(
        stream,
        "GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn lab_a_node_is_asked_through_a_satellite_stands_still_and_dies() {
    lab::run(Needs::Nothing, |lab| {
        let (near, far) = (lab.host(), lab.host());
        let mut node = node(&far);
        assert_eq!(health(&near, &far), "HTTP/1.1 200 OK");

        let satellite = Link::named("satellite").unwrap();
        lab.link(&near, &far, satellite);
        let started = Instant::now();
        assert_eq!(health(&near, &far), "HTTP/1.1 200 OK");
        let took = started.elapsed();
        println!("a node's health through a satellite: {took:?}");
        // TCP's greeting and the question: two round trips.
        assert!(took >= Duration::from_micros(4 * u64::from(satellite.delay_us)));

        lab.link(&near, &far, Link::PERFECT);
        node.pause();
        let before = lab.traffic(&near, &far).delivered;
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| health(&near, &far));
            // Its kernel shakes hands and takes the question; it says nothing itself.
            eventually("the question is there", || {
                lab.traffic(&near, &far).delivered >= before + 3
            });
            assert!(!asked.is_finished());
            node.resume();
            assert_eq!(asked.join().unwrap(), "HTTP/1.1 200 OK");
        });
        node.kill();
        near.enter(|| {
            let refused = TcpStream::connect((far.address, PORT));
            assert!(refused.is_err(), "nobody is there");
        });
    });
}
