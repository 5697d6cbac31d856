//! One host, fed by hand. Whole meshes in virtual time: `fairness`.

mod fairness;

use super::*;
use crate::donor::Window;
use crate::law::Transforms;
use crate::limits::{BUSY_RETRY_MS_MAX, GUESSES_MAX, SESSIONS_MAX};
use crate::opinion::{Opinion, Query, Said};
use proptest::prelude::*;

const E: ExpertId = ExpertId([1; 32]);
const SECOND: u64 = 1_000_000;

fn open(session: u128) -> Open {
    Open {
        session: SessionId(session),
        scope: Scope::OWNER,
        prompt: vec![1, 2],
        answered: vec![],
        transforms: Transforms::NEUTRAL,
        score: false,
        path: vec![],
    }
}

fn visit(guest: u128, peer: u8) -> Input {
    Input::Open(Box::new(Visit {
        guest: GuestId(guest),
        peer: [peer; 32],
        expert: E,
        open: open(1000 + guest),
        whole: None,
        refused: None,
    }))
}

fn question(position: u32) -> ExpertOp {
    ExpertOp::Draft {
        session: SessionId(0),
        epoch: 0,
        position,
        tokens: vec![7],
        queries: vec![Query::plain(0.999, 256)],
    }
}

fn op(guest: u128, op: ExpertOp) -> Input {
    Input::Op {
        guest: GuestId(guest),
        op,
    }
}

fn gone(guest: u128) -> Input {
    Input::Gone {
        guest: GuestId(guest),
    }
}

fn said(guest: u128, expert: ExpertId) -> Input {
    let opinion = Opinion {
        position: 3,
        said: Said::Scalars(vec![]),
        raw: None,
        scored: Vec::new(),
    };
    Input::FromExpert(FromExpert {
        expert,
        event: ExpertEvent::Opinions {
            session: SessionId(guest),
            epoch: 0,
            opinions: vec![opinion],
            compute_us: 0,
            bytes: 0,
        },
    })
}

fn owner(wants: usize) -> Input {
    Input::Owner(Owner {
        busy: wants > 0,
        wants: BTreeMap::from([(E, wants)]),
    })
}

/// What a host did to its guests.
#[derive(Debug, PartialEq)]
enum Did {
    Opened(u128),
    Closed(u128),
    Passed(u128),
    Told(u128),
    Busy(u128),
    Refused(u128),
    Gone(u128),
}

struct Rig {
    host: Host,
    now: Micros,
}

impl Rig {
    fn new(slots: usize) -> Rig {
        Rig {
            host: Host::new(slots),
            now: Micros(0),
        }
    }

    fn raw(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.host.handle(self.now, input, &mut out);
        out
    }

    fn does(&mut self, input: Input) -> Vec<Did> {
        self.raw(input).iter().map(did).collect()
    }

    fn opens(&mut self, guest: u128, peer: u8) -> Vec<Did> {
        self.does(visit(guest, peer))
    }

    fn tick(&mut self, after_us: u64, minute: u16) -> Vec<Did> {
        self.now.0 += after_us;
        self.does(Input::Tick { minute })
    }

    fn policy(&mut self, donor: Donor) -> Vec<Did> {
        self.does(Input::Policy(donor))
    }
}

fn did(output: &Output) -> Did {
    match output {
        Output::ToExpert(expert, op) => {
            assert_eq!(*expert, E);
            let session = op.session().0;
            match op {
                ExpertOp::Open(_) => Did::Opened(session),
                ExpertOp::Close { .. } => Did::Closed(session),
                _ => Did::Passed(session),
            }
        }
        Output::ToGuest { guest, event } => {
            assert_eq!(event.session().0, 1000 + guest.0, "by the peer's own name");
            match event {
                ExpertEvent::Failed { why, .. } => match why {
                    ExpertFailure::Busy { retry_ms } => {
                        assert!((100..=BUSY_RETRY_MS_MAX).contains(retry_ms));
                        Did::Busy(guest.0)
                    }
                    ExpertFailure::Refused(_) => Did::Refused(guest.0),
                    ExpertFailure::Gone => Did::Gone(guest.0),
                    other => panic!("{other}"),
                },
                _ => Did::Told(guest.0),
            }
        }
    }
}

fn retry_ms(out: &[Output]) -> u32 {
    let busy = out.iter().find_map(|output| match output {
        Output::ToGuest {
            event:
                ExpertEvent::Failed {
                    why: ExpertFailure::Busy { retry_ms },
                    ..
                },
            ..
        } => Some(*retry_ms),
        _ => None,
    });
    busy.expect("somebody was told to come back")
}

#[test]
fn a_guest_has_a_name_and_a_scope_of_its_own() {
    let mut rig = Rig::new(16);
    let out = rig.raw(visit(5, 1));
    let [Output::ToExpert(_, ExpertOp::Open(opened))] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(opened.session, GuestId(5).session());
    assert_ne!(opened.scope, Scope::OWNER);
    assert_eq!(opened.scope, scope_of(&[1; 32]));
    assert_ne!(opened.scope, scope_of(&[2; 32]));
    // The stream is the session: what the peer writes there does not matter.
    assert_eq!(rig.does(op(5, question(2))), [Did::Passed(5)]);
    assert_eq!(rig.does(said(5, E)), [Did::Told(5)]);
    assert_eq!(rig.does(said(5, ExpertId([2; 32]))), [], "not its expert");
    assert_eq!(rig.does(said(6, E)), [], "nobody's");
    assert_eq!(rig.does(gone(5)), [Did::Closed(5)]);
    assert_eq!(rig.does(gone(5)), []);
    assert!(rig.host.is_empty() && rig.host.loads().next().is_none());
}

#[test]
fn who_is_not_admitted_hears_why_and_costs_nothing() {
    let mut rig = Rig::new(16);
    let Input::Open(mut visit) = visit(1, 1) else {
        unreachable!()
    };
    visit.refused = Some("no admission".into());
    assert_eq!(rig.does(Input::Open(visit)), [Did::Refused(1)]);
    assert!(rig.host.is_empty());
    rig.opens(2, 2);
    rig.opens(3, 3);
    let why = "revoked".to_owned();
    let expelled = rig.does(Input::Expel { peer: [2; 32], why });
    assert_eq!(expelled, [Did::Closed(2), Did::Refused(2)]);
    let why = "halted".to_owned();
    let halted = rig.does(Input::Halt { why });
    assert_eq!(halted, [Did::Closed(3), Did::Refused(3)]);
}

#[test]
fn the_owner_comes_first_and_takes_slots_back() {
    let mut rig = Rig::new(16);
    for guest in 0..16 {
        rig.opens(guest, (guest % 2) as u8);
    }
    // An eighth stays free for the owner's next request.
    assert_eq!(rig.host.running_on(E), 14);
    assert_eq!(rig.does(owner(2)), [], "room was kept");
    let did = rig.does(owner(3));
    assert_eq!(did, [Did::Closed(13), Did::Busy(13)], "the last that came");
    assert_eq!(rig.host.running_on(E), 13);
    // More of the owner's than there are slots: every guest goes, those that wait as well.
    let did = rig.does(owner(40));
    let told = did.iter().filter(|d| matches!(d, Did::Busy(_))).count();
    assert!(told == 15 && rig.host.is_empty(), "{did:?}");
    assert_eq!(rig.opens(50, 1), [Did::Busy(50)]);
    assert_eq!(rig.does(owner(0)), []);
    assert_eq!(rig.opens(51, 1), [Did::Opened(51)]);
}

#[test]
fn the_number_in_busy_follows_how_long_sessions_take() {
    let busy_after = |session_us: u64| {
        let mut rig = Rig::new(4);
        for guest in 0..40 {
            rig.opens(guest, 1);
            rig.now.0 += session_us;
            rig.does(gone(guest));
        }
        let out: Vec<Output> = (100..140).flat_map(|g| rig.raw(visit(g, 1))).collect();
        retry_ms(&out)
    };
    let (short, long) = (busy_after(SECOND), busy_after(60 * SECOND));
    // Four run; the first that would wait for more than 2 s is told how long.
    assert!((2_000..=3_000).contains(&short), "{short}");
    assert!((14_000..=31_000).contains(&long), "{long}");
}

#[test]
fn nobody_waits_for_long() {
    let mut rig = Rig::new(2);
    // Sessions of 1.9 s: the first in line waits for 0.95 s, the second for 1.9 s.
    for guest in 0..40 {
        rig.opens(guest, 1);
        rig.now.0 += 19 * SECOND / 10;
        rig.does(gone(guest));
    }
    let did: Vec<Did> = (50..56).flat_map(|guest| rig.opens(guest, 1)).collect();
    use Did::{Busy, Opened};
    assert_eq!(did, [Opened(50), Opened(51), Busy(54), Busy(55)]);
    // What is asked meanwhile is kept, up to a limit.
    let kept: Vec<Did> = (1..GUEST_OPS_WAITING_MAX as u32)
        .flat_map(|position| rig.does(op(52, question(position))))
        .collect();
    assert_eq!(kept, []);
    assert_eq!(rig.does(op(53, question(2))), []);
    assert_eq!(rig.does(op(52, question(99))), [Did::Refused(52)]);
    let begun = rig.does(gone(50));
    assert_eq!(begun, [Did::Closed(50), Opened(53), Did::Passed(53)]);
    rig.opens(57, 1);
    assert_eq!(rig.tick(GUEST_WAIT_US_MAX, 0), []);
    assert_eq!(rig.tick(1, 0), [Busy(57)]);
}

#[test]
fn a_newcomer_gets_a_slot_from_whoever_keeps_too_many() {
    let mut rig = Rig::new(4);
    for guest in 0..4 {
        rig.opens(guest, 1);
    }
    // Sessions that never end, so far: the estimate alone would send everybody away.
    rig.host.mean_session_us = 600 * SECOND;
    let did = rig.opens(10, 2);
    assert_eq!(did, [Did::Closed(3), Did::Busy(3), Did::Opened(10)]);
    assert_eq!(
        rig.opens(11, 2),
        [Did::Closed(2), Did::Busy(2), Did::Opened(11)]
    );
    assert_eq!(rig.opens(12, 2), [Did::Busy(12)], "two and two is fair");
    assert_eq!(rig.opens(13, 1), [Did::Busy(13)]);
}

#[test]
fn the_waiting_room_is_bounded_and_a_crowd_makes_way_for_a_visitor() {
    let mut rig = Rig::new(8);
    rig.host.mean_session_us = 1;
    for guest in 0..(GUESTS_PER_PEER_MAX as u128) {
        rig.opens(guest, 1);
    }
    assert_eq!(rig.opens(64, 1), [Did::Busy(64)], "one peer has its limit");
    let waiting = rig.host.count(Guest::is_waiting);
    let free = (GUESTS_WAITING_MAX - waiting) as u128;
    for guest in 100..100 + free {
        assert_eq!(rig.opens(guest, 2), []);
    }
    assert_eq!(rig.opens(200, 3), [Did::Busy(63)], "the crowd's last");
    assert_eq!(rig.host.count(Guest::is_waiting), GUESTS_WAITING_MAX);
    assert!(rig.host.has(GuestId(200)));
}

#[test]
fn a_flood_of_one_guest_never_reaches_the_expert() {
    let mut rig = Rig::new(16);
    rig.opens(1, 1);
    let quiet = |position| ExpertOp::Draft {
        session: SessionId(0),
        epoch: 0,
        position,
        tokens: vec![7],
        queries: vec![],
    };
    for position in 0..GUEST_OPS_BURST {
        assert_eq!(rig.does(op(1, quiet(position))), [Did::Passed(1)]);
    }
    // Time gives some back, answers give theirs back.
    rig.now.0 += GUEST_OP_REFILL_US;
    assert_eq!(rig.does(op(1, quiet(0))), [Did::Passed(1)]);
    for _ in 0..100 {
        rig.does(said(1, E));
        assert_eq!(rig.does(op(1, question(0))), [Did::Passed(1)]);
    }
    assert_eq!(rig.does(op(1, quiet(0))), [Did::Closed(1), Did::Refused(1)]);
    rig.opens(2, 1);
    let again = ExpertOp::Open(Box::new(open(7)));
    assert_eq!(rig.does(op(2, again)), [Did::Closed(2), Did::Refused(2)]);
    assert_eq!(rig.does(op(2, quiet(0))), [], "it has been told");
}

/// A packet is lost on a long way, and what was sent after it comes at once.
#[test]
fn a_window_of_guesses_that_arrives_together_is_no_flood() {
    let mut rig = Rig::new(16);
    rig.opens(1, 1);
    for position in 0..GUESSES_MAX as u32 {
        assert_eq!(rig.does(op(1, question(position))), [Did::Passed(1)]);
    }
    let taken_back = ExpertOp::Truncate {
        session: SessionId(0),
        epoch: 1,
        position: 0,
    };
    assert_eq!(rig.does(op(1, taken_back)), [Did::Passed(1)]);
    assert_eq!(rig.does(op(1, question(0))), [Did::Passed(1)]);
}

#[test]
fn the_idle_the_failed_and_the_lost_leave_nothing() {
    let mut rig = Rig::new(16);
    rig.opens(1, 1);
    rig.opens(2, 2);
    rig.tick(GUEST_IDLE_US_MAX, 0);
    rig.does(op(2, question(2)));
    assert_eq!(rig.tick(1, 0), [Did::Closed(1), Did::Refused(1)]);
    let failed = Input::FromExpert(FromExpert {
        expert: E,
        event: ExpertEvent::Failed {
            session: SessionId(2),
            why: ExpertFailure::Refused("x".into()),
        },
    });
    assert_eq!(rig.does(failed), [Did::Refused(2)], "no goodbye");
    rig.opens(3, 3);
    let full = Input::SendFailed { guest: GuestId(3) };
    assert_eq!(rig.does(full), [Did::Closed(3), Did::Busy(3)]);
    rig.opens(4, 4);
    assert_eq!(
        rig.does(Input::ExpertGone { expert: E }),
        [Did::Closed(4), Did::Gone(4)]
    );
    assert!(rig.host.is_empty() && rig.host.peers.is_empty());
}

#[test]
fn the_owner_decides_when_and_how_much() {
    let mut rig = Rig::new(16);
    for guest in 0..10 {
        rig.opens(guest, 1);
    }
    let half = Donor::new(false, 50, vec![]).unwrap();
    assert_eq!(
        rig.policy(half.clone()),
        [Did::Closed(9), Did::Busy(9), Did::Closed(8), Did::Busy(8)]
    );
    assert_eq!(
        rig.policy(half.paused(true)).len(),
        16,
        "eight closed, eight told"
    );
    assert_eq!(retry_ms(&rig.raw(visit(20, 1))), 60_000);
    let night = Window::new(22 * 60, 7 * 60).unwrap();
    rig.policy(Donor::new(false, 100, vec![night]).unwrap());
    rig.tick(0, 23 * 60);
    assert_eq!(rig.opens(21, 1), [Did::Opened(21)]);
    assert_eq!(rig.tick(0, 7 * 60), [Did::Closed(21), Did::Busy(21)]);
    rig.tick(0, 21 * 60 + 30);
    assert_eq!(retry_ms(&rig.raw(visit(22, 1))), 30 * 60_000);
}

#[test]
fn a_shy_node_serves_nobody_while_its_owner_asks_nor_for_a_while_after() {
    let mut rig = Rig::new(16);
    rig.policy(Donor::new(true, 100, vec![]).unwrap());
    rig.opens(1, 1);
    assert_eq!(rig.does(owner(1)), [Did::Closed(1), Did::Busy(1)]);
    assert_eq!(rig.opens(2, 1), [Did::Busy(2)]);
    rig.does(owner(0));
    rig.now.0 += 10 * SECOND;
    let told = retry_ms(&rig.raw(visit(3, 1)));
    assert_eq!(told, 20_000, "what is left of the while");
    rig.now.0 += 20 * SECOND;
    assert_eq!(rig.opens(4, 1), [Did::Opened(4)]);
}

/// Any input, in any order, from few guests and peers.
fn inputs() -> impl Strategy<Value = Vec<(u64, Input)>> {
    let guest = 0..40u128;
    let input = prop_oneof![
        6 => (guest.clone(), 0..4u8).prop_map(|(g, p)| visit(g + u128::from(p) * 100, p)),
        4 => (guest.clone(), 0..4u128).prop_map(|(g, p)| op(g + p * 100, question(2))),
        4 => (guest.clone(), 0..4u128).prop_map(|(g, p)| said(g + p * 100, E)),
        3 => (guest, 0..4u128).prop_map(|(g, p)| gone(g + p * 100)),
        1 => (0..20usize).prop_map(owner),
        1 => (0..3u16).prop_map(|hour| Input::Tick { minute: hour * 480 }),
        1 => (0..3u8).prop_map(|share| Input::Policy(Donor::new(share == 1, 50 * share, vec![]).unwrap())),
    ];
    proptest::collection::vec((0..3 * SECOND, input), 1..300)
}

proptest! {
    #[test]
    fn never_too_many_never_unclosed_never_told_twice(inputs in inputs()) {
        let mut rig = Rig::new(SESSIONS_MAX);
        let (mut opened, mut told) = (Vec::new(), Vec::new());
        let mut wants = 0;
        for (after, input) in inputs {
            rig.now.0 += after;
            if let Input::Owner(owner) = &input {
                wants = owner.wants[&E];
            }
            if let Input::Open(visit) = &input {
                if rig.host.has(visit.guest) {
                    continue; // the shell draws names at random
                }
                told.retain(|id| *id != visit.guest.0);
            }
            for did in rig.does(input) {
                match did {
                    Did::Opened(id) => { prop_assert!(!opened.contains(&id)); opened.push(id) }
                    Did::Closed(id) => { prop_assert!(opened.contains(&id)); opened.retain(|o| *o != id) }
                    Did::Passed(id) => prop_assert!(opened.contains(&id)),
                    Did::Told(id) => prop_assert!(!told.contains(&id)),
                    Did::Busy(id) | Did::Refused(id) | Did::Gone(id) => {
                        prop_assert!(!told.contains(&id) && !rig.host.has(GuestId(id)));
                        told.push(id);
                    }
                }
            }
            prop_assert_eq!(rig.host.running_on(E), opened.len());
            prop_assert!(opened.len() + wants <= SESSIONS_MAX || opened.is_empty());
            prop_assert!(rig.host.count(Guest::is_waiting) <= GUESTS_WAITING_MAX);
            let counted: usize = rig.host.loads().map(|l| l.running + l.waiting).sum();
            prop_assert_eq!(counted, rig.host.guests.len());
        }
        rig.does(Input::Halt { why: "over".into() });
        prop_assert!(rig.host.is_empty() && rig.host.peers.is_empty());
    }
}
