//! A whole node, an expert of its own and one elsewhere that names the same file.

use super::*;
use crate::alarm::Suspicion;
use crate::audit::{Verdict, WINDOW};
use crate::generate::{Guessing, Listed};
use crate::governance::{Genesis, Records, fold};
use crate::law::{Law, ListLaw, Transforms};
use crate::limits::{AUDIT_SHARE, AUDITS_WAITING_MAX, AUDITS_WATCHED_MAX};
use crate::opinion::{ExpertEvent, List, Query, Scope};
use crate::sim::table::{Table, vocab};
use ed25519_dalek::SigningKey;
use std::collections::BTreeMap;

const HERE: ExpertId = ExpertId([1; 32]);
const THERE: ExpertId = ExpertId([2; 32]);
const PEER: [u8; 32] = [9; 32];
const FILE: [u8; 32] = [7; 32];
/// What a position takes in an audit; 8,000 in an answer.
const AUDITED_US: u64 = 2_000;

struct Rig {
    node: Node,
    rights: Rights,
    tables: BTreeMap<(ExpertId, SessionId), Table>,
    /// How much of what the expert elsewhere believes is the model's.
    common: f32,
    now: u64,
    suspicions: Vec<Suspicion>,
    /// Sessions that no request has.
    audits: Vec<SessionId>,
    next: u128,
    /// The twin says nothing about audits.
    holds_audits: bool,
}

impl Rig {
    fn new(common: f32) -> Rig {
        let person = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
        let genesis = Genesis::new(vec![person], MeshConfig::default()).unwrap();
        let rights = Rights::alone().under(fold(&genesis, &Records::default()));
        let mut rig = Rig {
            node: Node::new(MeshConfig::default(), Rights::alone()),
            rights: rights.clone(),
            tables: BTreeMap::new(),
            common,
            now: 0,
            suspicions: Vec::new(),
            audits: Vec::new(),
            next: 0,
            holds_audits: false,
        };
        rig.tell(Input::Rights(rights));
        rig.meet(HERE, None, Some(FILE));
        rig.meet(THERE, Some(PEER), Some(FILE));
        rig
    }

    fn meet(&mut self, expert: ExpertId, peer: Option<[u8; 32]>, file: Option<[u8; 32]>) {
        self.tell(Input::Met(Introduced {
            expert,
            peer,
            vocabulary: vocab().fingerprint(),
            context: 4096,
            admitted: true,
            file,
        }));
    }

    fn request(&mut self, change: impl FnOnce(&mut Spec)) -> Request {
        self.next += 1;
        let law = Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap();
        let mut spec = Spec {
            session: SessionId(self.next),
            scope: Scope::OWNER,
            prompt: vec![1, 2, 3],
            law,
            secret: Secret::from_seed(self.next as u64, 0),
            max_tokens: 100,
            stop: vec![],
            logprobs: None,
            grammar: false,
            guessing: Guessing::Never,
            paced: false,
            notes: Default::default(),
            context: 4096,
        };
        change(&mut spec);
        Request {
            spec,
            vocab: vocab(),
            experts: Experts::Mesh {
                local: Some(HERE),
                sets: Sets::A,
                k_max: None,
            },
            permit: self.rights.mesh().unwrap(),
        }
    }

    fn submit(&mut self, request: Request) -> Vec<Output> {
        let mut out = Vec::new();
        self.node
            .submit(Micros(self.now), request, &mut out)
            .unwrap();
        out
    }

    fn tell(&mut self, input: Input) {
        let mut out = Vec::new();
        self.node.handle(Micros(self.now), input, &mut out);
        self.carry(out);
    }

    /// Until nobody says anything any more.
    fn carry(&mut self, first: Vec<Output>) {
        let mut outputs = VecDeque::from(first);
        while let Some(output) = outputs.pop_front() {
            let (expert, op) = match output {
                Output::ToExpert(expert, op) => (expert, op),
                Output::Suspect { suspicion, .. } => {
                    self.suspicions.push(suspicion);
                    continue;
                }
                _ => continue,
            };
            for event in self.answer(expert, op) {
                self.now += 10_000;
                let from = Input::FromExpert(FromExpert { expert, event });
                let mut more = Vec::new();
                self.node.handle(Micros(self.now), from, &mut more);
                outputs.extend(more);
            }
        }
    }

    fn answer(&mut self, expert: ExpertId, op: ExpertOp) -> Vec<ExpertEvent> {
        let session = op.session();
        if matches!(op, ExpertOp::Close { .. }) {
            self.tables.remove(&(expert, session));
            return vec![];
        }
        let is_audit = session.0 > self.next;
        if is_audit && matches!(op, ExpertOp::Open(_)) {
            assert_eq!(expert, HERE);
            self.audits.push(session);
        }
        if is_audit && self.holds_audits {
            return vec![];
        }
        let common = if expert == HERE { 1.0 } else { self.common };
        let fresh = || {
            let mut table = Table::new(expert);
            table.common = common;
            table
        };
        let table = self.tables.entry((expert, session)).or_insert_with(fresh);
        let mut events = table.handle(op).unwrap();
        for event in &mut events {
            if let ExpertEvent::Opinions { compute_us, .. } = event {
                // Tokens in a batch are cheaper.
                *compute_us = if is_audit { AUDITED_US } else { 8_000 };
            }
        }
        events
    }

    fn speak(&mut self, requests: usize) {
        for _ in 0..requests {
            let request = self.request(|_| {});
            let out = self.submit(request);
            self.carry(out);
        }
    }

    fn verdict(&self) -> Verdict {
        self.node.roster().get(THERE).unwrap().audit.verdict()
    }

    /// An audit that took longer than it was thought to is paid for before the next one begins: no more than one
    /// window is ever owed.
    fn is_within_budget(&self) -> bool {
        let budget = self.node.audits();
        budget.spent_us <= budget.computed_us / AUDIT_SHARE + u64::from(WINDOW) * AUDITED_US
    }
}

#[test]
fn another_model_is_found_and_its_node_is_asked_no_more() {
    let mut rig = Rig::new(0.5);
    while rig.verdict() != Verdict::Swapped {
        rig.speak(10);
        assert!(rig.is_within_budget(), "{:?}", rig.node.audits());
        assert!(rig.next < 2_000, "it is never found");
    }
    assert!(
        rig.suspicions
            .iter()
            .any(|s| matches!(s, Suspicion::Swapped { .. }))
    );
    let asked = |out: &[Output]| {
        let asks = |o: &&Output| matches!(o, Output::ToExpert(e, ExpertOp::Open(_)) if *e != HERE);
        out.iter().filter(asks).count()
    };
    // Nor under another context, nor when it has come back.
    rig.tell(Input::Left {
        expert: THERE,
        why: "it began anew".into(),
    });
    rig.meet(THERE, Some(PEER), Some(FILE));
    rig.meet(ExpertId([3; 32]), Some(PEER), None);
    let request = rig.request(|_| {});
    let out = rig.submit(request);
    assert_eq!(asked(&out), 0);
    rig.carry(out);
    rig.meet(ExpertId([4; 32]), Some([8; 32]), None);
    let request = rig.request(|_| {});
    let out = rig.submit(request);
    assert_eq!(asked(&out), 1, "others are");
}

#[test]
fn an_honest_expert_is_audited_within_the_budget_and_stays() {
    let mut rig = Rig::new(1.0);
    for _ in 0..60 {
        rig.speak(10);
        assert!(rig.is_within_budget(), "{:?}", rig.node.audits());
    }
    assert!(rig.audits.len() > 3, "{}", rig.audits.len());
    let known = rig.node.roster().get(THERE).unwrap();
    assert!(known.audit.positions() > 100);
    assert_eq!((rig.verdict(), rig.suspicions.len()), (Verdict::Honest, 0));
    let budget = rig.node.audits();
    let share = budget.spent_us as f64 / budget.computed_us as f64;
    assert!(share > 0.005, "nor is it left unused: {share}");
}

#[test]
fn whoever_names_another_file_or_hides_something_behind_it_is_not_judged() {
    for file in [Some([8; 32]), None] {
        let mut rig = Rig::new(0.9);
        rig.meet(THERE, Some(PEER), file);
        rig.speak(300);
        assert!(rig.audits.is_empty());
        assert_eq!(rig.verdict(), Verdict::Honest);
    }
}

/// A node whose audit is under way, the twin having said nothing yet.
fn auditing() -> Rig {
    let mut rig = Rig::new(1.0);
    rig.holds_audits = true;
    while !rig.node.desk.is_busy() {
        rig.speak(1);
        assert!(rig.next < 2_000, "no audit begins");
    }
    rig
}

fn closes_an_audit(rig: &Rig, out: &[Output]) -> bool {
    let closes = |o: &Output| matches!(o, Output::ToExpert(HERE, ExpertOp::Close { session }) if session.0 > rig.next);
    out.iter().any(closes) && !rig.node.desk.is_busy()
}

#[test]
fn whoever_needs_the_experts_ends_an_audit_and_what_it_may_have_taken_counts() {
    let mut rig = auditing();
    let before = rig.node.audits().spent_us;
    let request = rig.request(|_| {});
    let out = rig.submit(request);
    assert!(closes_an_audit(&rig, &out));
    assert!(rig.node.audits().spent_us > before && rig.is_within_budget());
    rig.carry(out);
}

#[test]
fn a_node_without_a_mesh_computes_nothing_about_it() {
    let mut rig = auditing();
    let mut out = Vec::new();
    rig.node
        .handle(Micros(rig.now), Input::Rights(Rights::alone()), &mut out);
    assert!(closes_an_audit(&rig, &out));
    let begun = rig.audits.len();
    rig.tell(Input::Tick);
    assert_eq!(rig.audits.len(), begun);
}

#[test]
fn a_twin_that_leaves_or_hears_nothing_takes_its_audit_along() {
    let mut rig = auditing();
    rig.tell(Input::Left {
        expert: HERE,
        why: "it was unloaded".into(),
    });
    assert!(!rig.node.desk.is_busy());
    let mut rig = auditing();
    let session = rig.audits[0];
    let full = Input::SendFailed {
        session,
        expert: HERE,
        why: "its mailbox is full".into(),
    };
    let mut out = Vec::new();
    rig.node.handle(Micros(rig.now), full, &mut out);
    assert!(closes_an_audit(&rig, &out), "it may have opened it before");
    assert!(rig.node.audits().spent_tokens > 0);
}

#[test]
fn no_more_is_kept_than_the_limits_say() {
    let mut desk = Desk::default();
    let mut rig = Rig::new(1.0);
    for _ in 0..AUDITS_WATCHED_MAX {
        let request = rig.request(|_| {});
        assert!(desk.begins(&request.spec, &[(THERE, HERE)]).is_some());
    }
    let request = rig.request(|_| {});
    assert_eq!(desk.begins(&request.spec, &[(THERE, HERE)]), None);
    let mut desk = Desk::default();
    for _ in 0..AUDITS_WAITING_MAX + 2 {
        let spec = rig.request(|_| {}).spec;
        let window = desk.begins(&spec, &[(THERE, HERE)]).unwrap();
        let before = spec.prompt.len() as u32..window.start;
        before.for_each(|_| desk.decided(spec.session, 1));
        let listed = Listed {
            expert: THERE,
            position: window.start,
            query: Query::plain(0.9, 8),
            list: List::default(),
        };
        desk.said(spec.session, listed);
        desk.ended(spec.session);
    }
    assert_eq!(desk.waiting(), AUDITS_WAITING_MAX);
}

#[test]
fn what_the_transforms_would_blur_is_not_watched() {
    let mut rig = Rig::new(1.0);
    let mut watched = |change: &dyn Fn(&mut Spec)| {
        let request = rig.request(change);
        Desk::default()
            .begins(&request.spec, &[(THERE, HERE)])
            .is_some()
    };
    assert!(watched(&|_| {}));
    assert!(!watched(&|spec| spec.grammar = true));
    assert!(!watched(&|spec| spec.law.transforms.top_k = 40));
    assert!(watched(&|spec| spec.law.transforms.top_p = 0.95));
    assert!(!watched(&|spec| spec.law.transforms.top_p = 0.8));
    assert!(!watched(&|spec| spec.law.transforms.min_p = 0.1));
    assert!(!watched(&|spec| spec.law.transforms.temperature = 0.2));
    let run = |penalty: f32| {
        move |spec: &mut Spec| {
            let transforms = &mut spec.law.transforms;
            (transforms.temperature, transforms.repeat_penalty) = (0.7, penalty);
        }
    };
    assert!(watched(&run(1.1)));
    assert!(!watched(&run(2.0)) && !watched(&run(0.5)));
    let request = rig.request(|_| {});
    assert_eq!(
        Desk::default().begins(&request.spec, &[]),
        None,
        "nobody has a twin"
    );
}

/// Windows lie everywhere, and early ones are not rare.
#[test]
fn windows_are_drawn_by_the_secret_alone() {
    let mut rig = Rig::new(1.0);
    let mut begins = Vec::new();
    for _ in 0..400 {
        let request = rig.request(|_| {});
        let again = Desk::default().begins(&request.spec, &[(THERE, HERE)]);
        let window = Desk::default()
            .begins(&request.spec, &[(THERE, HERE)])
            .unwrap();
        assert_eq!(again, Some(window.clone()));
        begins.push(window.start - 3);
    }
    let below = |end: u32| begins.iter().filter(|begin| **begin < end).count();
    assert!((70..130).contains(&below(16)), "{}", below(16));
    assert!(
        below(64) > 160 && below(1024) < 395,
        "{} {}",
        below(64),
        below(1024)
    );
    assert!(begins.iter().all(|begin| *begin < 2048));
}
