//! Guests beside the owner's requests, through the whole node.

use super::*;
use crate::host::{self, GuestId, Visit};
use crate::opinion::{ExpertFailure, Open};

fn node_in_a_mesh() -> (Node, Rights) {
    let (running, halted) = running_and_halted();
    (Node::new(MeshConfig::default(), running), halted)
}

fn visit(guest: u128) -> Input {
    Input::Host(host::Input::Open(Box::new(Visit {
        guest: GuestId(guest),
        peer: [9; 32],
        expert: E,
        open: Open {
            session: SessionId(7),
            scope: Scope::OWNER,
            prompt: vec![1, 2],
            answered: vec![],
            transforms: Transforms::NEUTRAL,
            score: false,
            path: vec![],
        },
        whole: None,
        refused: None,
    })))
}

fn refusals(out: &[Output]) -> Vec<(u128, ExpertFailure)> {
    let told = out.iter().filter_map(|output| match output {
        Output::ToGuest {
            guest,
            event: ExpertEvent::Failed { why, .. },
        } => Some((guest.0, why.clone())),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_node_without_a_mesh_has_no_guests() {
    let mut node = Node::new(MeshConfig::default(), Rights::alone());
    let mut out = Vec::new();
    node.handle(Micros(0), visit(1), &mut out);
    let why = ExpertFailure::Refused("this node belongs to no mesh".into());
    assert_eq!(refusals(&out), [(1, why)]);
}

#[test]
fn the_owners_request_starts_at_once_although_guests_fill_the_expert() {
    let (mut node, _) = node_in_a_mesh();
    let mut out = Vec::new();
    let reserved = SESSIONS_MAX / 8;
    for guest in 0..(SESSIONS_MAX - reserved) as u128 {
        node.handle(Micros(0), visit(guest), &mut out);
    }
    assert_eq!(node.host().running_on(E), SESSIONS_MAX - reserved);
    out.clear();
    let local = Rights::alone().local();
    for n in 0..SESSIONS_MAX as u128 {
        node.submit(Micros(1), request(1000 + n, local), &mut out)
            .unwrap();
        let all = node.running_on(E) + node.host().running_on(E);
        assert!(all <= SESSIONS_MAX && node.waiting() == 0);
    }
    assert!(node.host().is_empty());
    let busy = refusals(&out);
    assert_eq!(busy.len(), SESSIONS_MAX - reserved);
    assert!(
        busy.iter()
            .all(|(_, why)| matches!(why, ExpertFailure::Busy { .. }))
    );
    // The expert hears goodbye before the session that takes the place.
    let mut open = SESSIONS_MAX - reserved;
    for output in &out {
        match output {
            Output::ToExpert(_, ExpertOp::Open(_)) => open += 1,
            Output::ToExpert(_, ExpertOp::Close { .. }) => open -= 1,
            _ => {}
        }
        assert!(open <= SESSIONS_MAX);
    }
    // And the owner's requests end as ever.
    out.clear();
    for position in 2..4 {
        node.handle(Micros(2), answer(1000, position), &mut out);
    }
    assert_eq!(finished(&out).len(), 1);
}

#[test]
fn events_go_to_whom_they_belong_and_a_halt_ends_every_guest() {
    let (mut node, halted) = node_in_a_mesh();
    let mut out = Vec::new();
    node.handle(Micros(0), visit(1), &mut out);
    node.handle(Micros(0), visit(2), &mut out);
    let local = Rights::alone().local();
    node.submit(Micros(0), request(3, local), &mut out).unwrap();
    out.clear();
    for session in [1, 3, 4] {
        let session = SessionId(session);
        let event = ExpertEvent::Ready {
            session,
            reused: 0,
            prefill_us: 1,
            branches: 0,
        };
        let from = FromExpert { expert: E, event };
        node.handle(Micros(1), Input::FromExpert(from), &mut out);
    }
    let to_guests = out.iter().filter(|o| matches!(o, Output::ToGuest { guest, event } if *guest == GuestId(1) && event.session() == SessionId(7)));
    assert_eq!(to_guests.count(), 1);
    assert!(matches!(&out[..], [_, Output::Event { session, .. }] if *session == SessionId(3)));
    out.clear();
    node.handle(Micros(2), Input::Rights(halted), &mut out);
    let told = refusals(&out);
    assert_eq!(told.len(), 2);
    assert!(
        matches!(&told[0].1, ExpertFailure::Refused(why) if why.contains("halted")),
        "{told:?}"
    );
    assert_eq!(finished(&out), [], "the owner goes on");
    out.clear();
    node.handle(Micros(3), visit(5), &mut out);
    assert_eq!(refusals(&out).len(), 1);
}

#[test]
fn an_expert_that_is_gone_or_full_ends_its_guests() {
    let (mut node, _) = node_in_a_mesh();
    let mut out = Vec::new();
    node.handle(Micros(0), visit(1), &mut out);
    node.handle(Micros(0), visit(2), &mut out);
    out.clear();
    let full = Input::SendFailed {
        expert: E,
        session: SessionId(1),
        why: "full".into(),
    };
    node.handle(Micros(1), full, &mut out);
    node.handle(
        Micros(2),
        Input::Left {
            expert: E,
            why: "unloaded".into(),
        },
        &mut out,
    );
    let told = refusals(&out);
    assert!(matches!(told[0], (1, ExpertFailure::Busy { .. })));
    assert_eq!(told[1], (2, ExpertFailure::Gone));
    assert!(node.host().is_empty());
}

const MESH: ExpertId = ExpertId([77; 32]);
const ELSEWHERE: ExpertId = ExpertId([2; 32]);

/// A node whose mesh has its own expert and one elsewhere, and a guest of another mesh that asks both as one.
fn node_asked_as_a_mesh() -> (Node, Rights, Vec<Output>) {
    let (mut node, halted) = node_in_a_mesh();
    let mut out = Vec::new();
    for (expert, peer) in [(E, None), (ELSEWHERE, Some([5; 32]))] {
        let facts = Introduced {
            expert,
            peer,
            vocabulary: crate::ids::Fingerprint([0; 32]),
            context: 100,
            admitted: true,
            file: None,
        };
        node.handle(Micros(0), Input::Met(facts), &mut out);
    }
    let Input::Host(host::Input::Open(mut visit)) = visit(1) else {
        panic!("a visit")
    };
    visit.expert = MESH;
    visit.whole = Some(host::Leaf {
        expert: E,
        vocabulary: crate::ids::Fingerprint([0; 32]),
        vocab: 8,
        context: 100,
    });
    node.handle(Micros(0), Input::Host(host::Input::Open(visit)), &mut out);
    (node, halted, out)
}

#[test]
fn a_guest_of_the_mesh_is_answered_by_its_experts_until_a_halt() {
    let (mut node, halted, mut out) = node_asked_as_a_mesh();
    let opened = out.iter().filter_map(|output| match output {
        Output::ToExpert(expert, ExpertOp::Open(open)) => Some((*expert, open.path.clone())),
        _ => None,
    });
    // Who asked is on the way that the question came; nobody is called by the name of the mesh.
    let opened: Vec<_> = opened.collect();
    assert_eq!(opened, [(E, vec![[9; 32]]), (ELSEWHERE, vec![[9; 32]])]);
    assert_eq!(node.mixed_on(E), 1);
    let session = SessionId(1);
    let query = crate::opinion::Query {
        want: crate::opinion::Want::Scalars(vec![3]),
        ..crate::opinion::Query::plain(1.0, 1)
    };
    let op = ExpertOp::Draft {
        session,
        epoch: 0,
        position: 2,
        tokens: vec![],
        queries: vec![query],
    };
    let guest = GuestId(1);
    node.handle(
        Micros(1),
        Input::Host(host::Input::Op { guest, op }),
        &mut out,
    );
    out.clear();
    for (expert, p) in [(E, 0.5), (ELSEWHERE, 1.0)] {
        let opinions = vec![Opinion {
            position: 2,
            said: Said::Scalars(vec![LnP::floor(libm::log(p))]),
            raw: None,
            scored: Vec::new(),
        }];
        let event = ExpertEvent::Opinions {
            session,
            epoch: 0,
            opinions,
            compute_us: 5,
            bytes: 9,
        };
        node.handle(
            Micros(1_000),
            Input::FromExpert(FromExpert { expert, event }),
            &mut out,
        );
    }
    let said = out.iter().find_map(|output| match output {
        Output::ToGuest {
            guest: GuestId(1),
            event: ExpertEvent::Opinions {
                session, opinions, ..
            },
        } => Some((*session, opinions[0].said.clone())),
        _ => None,
    });
    // By the router's own name of the session.
    let mean = (0.5f64 * LnP::floor(libm::log(0.5)).p() + 0.5) / 1.0;
    assert_eq!(
        said,
        Some((
            SessionId(7),
            Said::Scalars(vec![LnP::floor(libm::log(mean))])
        ))
    );
    assert_eq!(node.roster().get(ELSEWHERE).unwrap().answers, 1);
    out.clear();
    node.handle(Micros(2_000), Input::Rights(halted), &mut out);
    assert!(
        matches!(&refusals(&out)[..], [(1, ExpertFailure::Refused(why))] if why.contains("halted"))
    );
    let closed = out
        .iter()
        .filter(|o| matches!(o, Output::ToExpert(_, ExpertOp::Close { .. })));
    assert_eq!(closed.count(), 2);
    assert!(node.wholes.is_empty() && node.wake_at().is_none());
}

#[test]
fn a_guest_of_the_mesh_goes_on_without_an_expert_that_left_and_is_forgotten_when_it_leaves() {
    let (mut node, _, mut out) = node_asked_as_a_mesh();
    out.clear();
    let left = Input::Left {
        expert: ELSEWHERE,
        why: "its node is gone".into(),
    };
    node.handle(Micros(1), left, &mut out);
    assert!(refusals(&out).is_empty() && node.wholes.len() == 1);
    let full = Input::SendFailed {
        session: SessionId(1),
        expert: E,
        why: "its mailbox is full".into(),
    };
    node.handle(Micros(2), full, &mut out);
    assert_eq!(refusals(&out), [(1, ExpertFailure::Gone)]);
    assert!(node.wholes.is_empty());
    let (mut node, _, mut out) = node_asked_as_a_mesh();
    let gone = host::Input::Gone { guest: GuestId(1) };
    node.handle(Micros(1), Input::Host(gone), &mut out);
    assert!(node.wholes.is_empty());
}
