//! Homes behind routers.

use crate::lab::{self, eventually};
use crate::links::{bind, recv};
use crate::relaunch::Needs;
use std::net::UdpSocket;

/// How a router names those inside to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// By the port that they have inside, as most do: a hole can be punched.
    Kept,
    /// By another one for every conversation: nobody outside can know where to knock.
    Drawn,
}

/// A home router: whoever is inside may speak first, under the router's address; nobody outside may.
pub(crate) fn rules(outside: &str, inside: &str, ports: Ports) -> String {
    let drawn = match ports {
        Ports::Kept => "",
        Ports::Drawn => "fully-random",
    };
    format!(
        r#"table ip home {{
            chain forward {{
                type filter hook forward priority 0; policy drop;
                iifname "{inside}" accept
                ct state established,related accept
            }}
            # Dropped, not refused: a refused packet would leave a trace that spoils hole punching.
            chain arriving {{
                type filter hook input priority 0; policy accept;
                iifname "{outside}" ct state new,invalid drop
            }}
            chain leaving {{
                type nat hook postrouting priority 100;
                oifname "{outside}" masquerade {drawn}
            }}
        }}"#
    )
}

#[test]
fn lab_nat_lets_answers_in_and_nobody_else() {
    lab::run(Needs::Nat, |lab| {
        let (home, friend, stranger) = (lab.host_behind_nat(), lab.host(), lab.host());
        assert_ne!(home.address, home.public);
        let (inside, outside, third) = (bind(&home), bind(&friend), bind(&stranger));
        inside
            .send_to(b"hello", outside.local_addr().unwrap())
            .unwrap();
        let (text, seen) = recv(&outside).expect("outbound passes");
        assert_eq!(text, b"hello");
        assert_eq!(seen.ip(), home.public, "under the router's address");

        // A stranger who knows the open port, and one who knows the address inside.
        third.send_to(b"let me in", seen).unwrap();
        let direct = (home.address, inside.local_addr().unwrap().port());
        assert!(
            third.send_to(b"let me in", direct).is_err(),
            "no route to a private address"
        );
        // The friend from another port of his.
        bind(&friend).send_to(b"it is me", seen).unwrap();
        let reached = |from| lab.traffic(from, &home).delivered > 0;
        eventually("they reach the router", || {
            reached(&stranger) && reached(&friend)
        });
        // The answer comes behind them, and first.
        outside.send_to(b"hello yourself", seen).unwrap();
        let (text, from) = recv(&inside).expect("the answer passes");
        assert_eq!(
            (&text[..], from),
            (&b"hello yourself"[..], outside.local_addr().unwrap())
        );
        inside.set_nonblocking(true).unwrap();
        let more = inside.recv_from(&mut [0; 64]);
        assert!(more.is_err(), "unsolicited: {more:?}");
    });
}

#[test]
fn lab_nat_can_be_punched_from_both_sides() {
    lab::run(Needs::Nat, |lab| {
        let (one, other, meeting) = (lab.host_behind_nat(), lab.host_behind_nat(), lab.host());
        let (a, b, known) = (bind(&one), bind(&other), bind(&meeting));
        // Both tell a third, who sees where they come from.
        let seen = |from: &UdpSocket| {
            from.send_to(b"where am I", known.local_addr().unwrap())
                .unwrap();
            recv(&known).expect("outbound passes").1
        };
        let (at_a, at_b) = (seen(&a), seen(&b));
        // The first knock finds a closed door and opens the own one; the second passes.
        a.send_to(b"knock", at_b).unwrap();
        eventually("the knock is at the door", || {
            lab.traffic(&one, &other).delivered == 1
        });
        b.send_to(b"come in", at_a).unwrap();
        assert_eq!(
            recv(&a).expect("the way back is open"),
            (b"come in".to_vec(), at_b)
        );
        a.send_to(b"thank you", at_b).unwrap();
        assert_eq!(
            recv(&b).expect("and the way there"),
            (b"thank you".to_vec(), at_a)
        );
    });
}
