//! Eight routers with eight sessions each on four nodes, in virtual time: who gets how many tokens.

use super::*;
use std::collections::BTreeSet;

const ROUTERS: usize = 8;
const NODES: usize = 4;
/// A step of the table expert: a base, and a little for every session in it.
const STEP_US: u64 = 8_000;
const ROW_US: u64 = 500;
const WAY_US: u64 = 5_000;

/// What is on its way, in order of arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Opens { router: usize, node: usize },
    Asks { guest: u128, node: usize },
    Steps { node: usize },
}

/// How a router behaves.
#[derive(Clone, Copy)]
struct Router {
    sessions: usize,
    /// Tokens of one of its sessions.
    tokens: u32,
}

struct Mesh {
    now: Micros,
    hosts: Vec<Host>,
    routers: Vec<Router>,
    agenda: BTreeSet<(Micros, u64, Next)>,
    events: u64,
    guests: BTreeMap<u128, (usize, u32)>,
    /// Sessions with a question at the expert, by node.
    asked: Vec<Vec<u128>>,
    stepping: Vec<bool>,
    tokens: Vec<u64>,
    told_busy: u64,
}

impl Mesh {
    fn new(routers: &[Router]) -> Mesh {
        let mut mesh = Mesh {
            now: Micros(0),
            hosts: (0..NODES).map(|_| Host::new(SESSIONS_MAX)).collect(),
            routers: routers.to_vec(),
            agenda: BTreeSet::new(),
            events: 0,
            guests: BTreeMap::new(),
            asked: vec![Vec::new(); NODES],
            stepping: vec![false; NODES],
            tokens: vec![0; routers.len()],
            told_busy: 0,
        };
        for (router, what) in routers.iter().enumerate() {
            for session in 0..what.sessions {
                let node = (router + session) % NODES;
                // The first comes first with all it has.
                mesh.later(router as u64, Next::Opens { router, node });
            }
        }
        mesh
    }

    fn later(&mut self, after_us: u64, next: Next) {
        self.events += 1;
        let at = Micros(self.now.0 + after_us);
        self.agenda.insert((at, self.events, next));
    }

    fn run(&mut self, until: Micros) {
        let mut tick = 0;
        while let Some((at, _, next)) = self.agenda.pop_first() {
            self.now = at;
            if at > until {
                return;
            }
            while tick < at.0 / 500_000 {
                tick += 1;
                (0..NODES).for_each(|node| self.feed(node, Input::Tick { minute: 0 }));
            }
            match next {
                Next::Opens { router, node } => {
                    let guest = u128::from(self.events) * 10;
                    self.guests.insert(guest, (router, 0));
                    let Input::Open(mut visit) = visit(guest, router as u8) else {
                        unreachable!()
                    };
                    visit.open.session = SessionId(guest);
                    self.feed(node, Input::Open(visit));
                    if self.guests.contains_key(&guest) {
                        self.feed(node, op(guest, question(2)));
                    }
                    self.events += 1;
                }
                Next::Asks { guest, node } if self.guests.contains_key(&guest) => {
                    self.feed(node, op(guest, question(2)));
                }
                Next::Asks { .. } => {}
                Next::Steps { node } => self.step(node),
            }
        }
    }

    fn feed(&mut self, node: usize, input: Input) {
        let mut out = Vec::new();
        self.hosts[node].handle(self.now, input, &mut out);
        for output in out {
            match output {
                Output::ToExpert(_, ExpertOp::Draft { session, .. }) => {
                    self.asked[node].push(session.0);
                    self.wake(node);
                }
                Output::ToExpert(_, ExpertOp::Close { session }) => {
                    self.asked[node].retain(|id| *id != session.0);
                }
                Output::ToExpert(..) => {}
                Output::ToGuest { guest, event } => self.hears(node, guest.0, &event),
            }
        }
    }

    fn wake(&mut self, node: usize) {
        if !self.stepping[node] && !self.asked[node].is_empty() {
            self.stepping[node] = true;
            let rows = self.asked[node].len() as u64;
            self.later(STEP_US + ROW_US * rows, Next::Steps { node });
        }
    }

    /// One batch: everybody who asked is answered.
    fn step(&mut self, node: usize) {
        self.stepping[node] = false;
        for guest in std::mem::take(&mut self.asked[node]) {
            self.feed(node, said(guest, E));
        }
        self.wake(node);
    }

    fn hears(&mut self, node: usize, guest: u128, event: &ExpertEvent) {
        let Some((router, said)) = self.guests.get_mut(&guest) else {
            return;
        };
        let router = *router;
        match event {
            ExpertEvent::Failed { why, .. } => {
                let ExpertFailure::Busy { retry_ms } = why else {
                    panic!("{why}")
                };
                self.told_busy += 1;
                self.guests.remove(&guest);
                self.later(u64::from(*retry_ms) * 1000, Next::Opens { router, node });
            }
            _ => {
                *said += 1;
                let last = *said >= self.routers[router].tokens;
                self.tokens[router] += 1;
                if last {
                    self.guests.remove(&guest);
                    self.feed(node, gone(guest));
                    self.later(WAY_US, Next::Opens { router, node });
                } else {
                    self.later(WAY_US, Next::Asks { guest, node });
                }
            }
        }
    }

    fn spread(&self) -> f64 {
        let (most, least) = (self.tokens.iter().max(), self.tokens.iter().min());
        *most.unwrap() as f64 / *least.unwrap() as f64
    }
}

/// Two minutes of the mesh.
fn after_two_minutes(routers: &[Router]) -> Mesh {
    let mut mesh = Mesh::new(routers);
    mesh.run(Micros(120 * SECOND));
    mesh
}

/// What one expert says in two minutes if nothing but its batches takes time.
fn batch_tokens() -> f64 {
    let rows = SESSIONS_MAX as u64;
    let step_us = STEP_US + ROW_US * rows;
    (120 * SECOND / step_us * rows) as f64
}

#[test]
fn eight_routers_with_eight_sessions_get_alike() {
    let alike = [Router {
        sessions: 8,
        tokens: 100,
    }; ROUTERS];
    let mesh = after_two_minutes(&alike);
    let (spread, all) = (mesh.spread(), mesh.tokens.iter().sum::<u64>() as f64);
    let ratio = all / (batch_tokens() * NODES as f64);
    assert!(spread <= 1.5, "{:?}", mesh.tokens);
    assert!(ratio >= 0.9, "{ratio}");
}

#[test]
fn long_sessions_do_not_get_more_than_short_ones() {
    let mut routers = [Router {
        sessions: 32,
        tokens: 0,
    }; ROUTERS];
    for (router, tokens) in routers
        .iter_mut()
        .zip([20, 40, 80, 160, 320, 640, 1280, 2560])
    {
        router.tokens = tokens;
    }
    let mesh = after_two_minutes(&routers);
    assert!(mesh.told_busy > 0, "there is not room for all");
    assert!(mesh.spread() <= 1.5, "{:?}", mesh.tokens);
}

#[test]
fn a_greedy_router_takes_what_is_left_and_nothing_else() {
    let modest = Router {
        sessions: 4,
        tokens: 200,
    };
    let mut routers = [modest; ROUTERS];
    let alone = after_two_minutes(&routers[1..]);
    routers[0] = Router {
        sessions: 4 * GUESTS_PER_PEER_MAX,
        tokens: u32::MAX,
    };
    let mesh = after_two_minutes(&routers);
    for (router, without) in alone.tokens.iter().enumerate() {
        // Bigger batches take longer: 15 rows for 8 of before.
        let with = mesh.tokens[router + 1] as f64;
        assert!(
            with >= 0.7 * *without as f64,
            "{:?} {:?}",
            mesh.tokens,
            alone.tokens
        );
    }
}
