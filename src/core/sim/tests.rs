//! Whole meshes. A seed that fails here is an argument of `run`: nothing else is needed.

use super::machine::Machine;
use super::mesh::Mesh;
use super::*;
use crate::generate::{Event, Guessing, Notes, Spec, TokenEvent};
use crate::ids::SessionId;
use crate::law::{Law, ListLaw, Transforms};
use crate::node::Input;
use crate::opinion::Scope;
use crate::seeded::Secret;
use judge::Judge;

/// Seeds of each kind: few by default, `QUORATE_SEEDS=1000` for the long run. Read at build time,
/// since the core has no environment.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let asked = option_env!("QUORATE_SEEDS").and_then(|n| n.parse().ok());
    0..asked.unwrap_or(default)
}

fn good(options: &Options) -> Report {
    let report = run(options).unwrap();
    assert!(
        report.is_good(),
        "{:#?} {:#?}, {} of {} finished\n{options:?}\n{}",
        report.safety,
        report.stuck,
        report.finished,
        report.asked,
        report.tail.join("\n")
    );
    report
}

/// The same request at every size, under the same law; with one node it is the local assistant's.
#[test]
fn a_request_succeeds_at_every_size() {
    let small = |nodes| Options {
        trouble_us: 4_000_000,
        ..Options::new(7, nodes)
    };
    for nodes in [280, 100, 20, 5, 2] {
        let report = good(&small(nodes));
        assert_eq!((report.finished, report.attempts), (4, 4), "{nodes} nodes");
        assert!(report.highest.talks > 0, "{nodes} nodes asked nobody");
    }
    let mesh = good(&small(1));
    let alone = Options {
        alone: true,
        ..small(1)
    };
    assert_eq!(mesh.texts, good(&alone).texts);
    assert_ne!(mesh.texts, good(&small(2)).texts);
}

#[test]
fn nothing_unsafe_happens_whatever_goes_wrong_and_then_every_request_is_answered() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut highest = Highest::default();
    for seed in seeds(8) {
        for nodes in [20, 9, 3, 1] {
            let report = good(&Options::troubled(seed, nodes));
            for (what, times) in report.seen {
                *seen.entry(what).or_default() += times;
            }
            highest.sessions = highest.sessions.max(report.highest.sessions);
            highest.guests = highest.guests.max(report.highest.guests);
        }
    }
    for what in [
        "crash", "pause", "split", "mend", "storm", "slow", "liar", "vanish", "skew", "halt",
        "resume", "broken", "failed", "token", "finished",
    ] {
        assert!(seen.contains_key(what), "no {what}: {seen:?}");
    }
    assert!(highest.sessions > 8 && highest.guests > 16, "{highest:?}");
}

/// The exactness test of the mesh: delay, loss, reordering between experts and restarts, and every text is recomputed
/// from its seed, its law, its schedule and opinions that the experts compute again.
#[test]
fn no_delay_loss_reordering_or_restart_moves_a_token() {
    let rough = Link {
        delay_us: 15_000,
        jitter_us: 40_000,
        loss_ppm: 20_000,
        reorder_ppm: 20_000,
        ..Link::PERFECT
    };
    let (mut tokens, mut crashes) = (0, 0);
    for seed in seeds(1_000) {
        let options = Options {
            link: rough,
            requests: 3,
            trouble_us: 6_000_000,
            faults: Faults {
                crashes: 2,
                pauses: 1,
                storms: 1,
                ..Faults::default()
            },
            ..Options::new(5_000 + seed, 4)
        };
        let report = good(&options);
        assert!(report.replayed >= report.finished, "seed {seed}");
        tokens += report.tokens;
        crashes += report.seen.get("crash").unwrap_or(&0);
    }
    assert!(tokens > 0 && crashes > 0);
}

#[test]
fn every_kind_of_link_carries_it() {
    for (name, link) in crate::link::RUNGS {
        for seed in seeds(2) {
            let options = Options {
                link,
                ..Options::troubled(1000 + seed, 12)
            };
            assert!(good(&options).tokens > 0, "{name}");
        }
    }
}

#[test]
fn the_same_seed_has_the_same_trace() {
    let options = Options::troubled(5, 12);
    let report = good(&options);
    assert_eq!(report, good(&options));
    let other = Options::troubled(6, 12);
    assert_ne!(report.trace_hash, good(&other).trace_hash);
}

/// Our own protocols: everybody hears of everybody, of the halt, and of its end. The long run has a
/// thousand nodes, which takes twenty seconds.
#[test]
fn hundreds_of_nodes_hear_a_halt() {
    let nodes = if option_env!("QUORATE_SEEDS").is_some() {
        1000
    } else {
        200
    };
    let options = Options {
        requests: 1,
        trouble_us: 2_000_000,
        faults: Faults {
            halts: 1,
            ..Faults::default()
        },
        ..Options::new(1, nodes)
    };
    let report = good(&options);
    // The halt, and the proposal and two votes that end it.
    let heard = report.seen["record"];
    assert_eq!(heard, 4 * u64::from(nodes), "{:?}", report.seen);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let with = |nodes, link| {
        run(&Options {
            link,
            ..Options::new(1, nodes)
        })
    };
    assert_eq!(with(0, Link::PERFECT).unwrap_err(), BadOptions::Nodes);
    let most = SIM_NODES_MAX as u16;
    assert_eq!(
        with(most + 1, Link::PERFECT).unwrap_err(),
        BadOptions::Nodes
    );
    let bad = Link {
        loss_ppm: 1_000_001,
        ..Link::PERFECT
    };
    assert!(matches!(with(1, bad).unwrap_err(), BadOptions::Link(_)));
}

// --- the judge sees what it should ---------------------------------------------------------------

fn machine() -> Machine {
    let (_, mut machines) = Mesh::found(&Options::new(1, 1), &mut Dice(1));
    machines[0].start(0, 1);
    machines.swap_remove(0)
}

fn request(session: u128) -> Spec {
    Spec {
        session: SessionId(session),
        scope: Scope::OWNER,
        prompt: vec![5, 6, 7],
        law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
        secret: Secret::from_seed(1, 0),
        max_tokens: 4,
        stop: vec![],
        logprobs: None,
        grammar: false,
        context: machine::CONTEXT,
        guessing: Guessing::Never,
        paced: false,
        notes: Notes {
            provenance: false,
            record: true,
        },
    }
}

fn token() -> Event {
    Event::Token(TokenEvent {
        token: 9,
        position: 3,
        text: "9 ".into(),
        ln_p: None,
        top: vec![],
        provenance: None,
    })
}

#[test]
fn the_judge_sees_events_after_an_end_and_tokens_after_a_halt() {
    let mut machine = machine();
    let mut judge = Judge::default();
    judge.hear(1, &machine, SessionId(1), token());
    assert!(judge.violations[0].what.contains("after the end"));
    for (session, is_local) in [(2, false), (3, true)] {
        judge.begin(0, 0, is_local, request(session));
        judge.hear(2, &machine, SessionId(session), token());
    }
    assert_eq!(judge.violations.len(), 1);
    let network = machine.genesis().network_id();
    let halt = people::Person::new(1, network).halt(1, "smoke");
    machine
        .replica
        .insert(crate::governance::Record::Halt(halt));
    machine.replica.refold();
    machine.is_booted = true;
    judge.hear(3, &machine, SessionId(3), token());
    assert_eq!(judge.violations.len(), 1, "a local session goes on");
    judge.hear(4, &machine, SessionId(2), token());
    assert!(judge.violations[1].what.contains("halt"));
}

/// A true request passes; with one answer of another it does not, and neither with another text.
#[test]
fn the_judge_sees_answers_that_were_never_given_and_texts_that_do_not_follow() {
    let events = events_of_a_request();
    let judged = |change: &dyn Fn(&mut Event)| {
        let machine = machine();
        let mut judge = Judge::default();
        judge.begin(0, 0, true, request(1));
        for event in &events {
            let mut event = event.clone();
            change(&mut event);
            judge.hear(1, &machine, SessionId(1), event);
        }
        judge.violations
    };
    assert_eq!(judged(&|_| {}), []);
    let text = judged(&|event| {
        if let Event::Token(token) = event {
            token.text.push('!');
        }
    });
    assert!(text[0].what.contains("does not stand"), "{text:?}");
    let answer = judged(&|event| {
        if let Event::Decided(decided) = event
            && decided.position == 4
            && let crate::opinion::Said::List(list) = &mut decided.answers[0].2
        {
            list.entries.pop();
        }
    });
    assert!(answer[0].what.contains("never given"), "{answer:?}");
}

/// What a node says of a request that its own expert answers.
fn events_of_a_request() -> Vec<Event> {
    use crate::node::{Experts, Output, Request};
    let mut machine = machine();
    let now = crate::ids::Micros(1);
    let mut out = Vec::new();
    let asked = Request {
        spec: request(1),
        vocab: table::vocab(),
        experts: Experts::These(vec![(machine.expert, 1.0)]),
        permit: machine.rights.local(),
    };
    machine.node.submit(now, asked, &mut out).unwrap();
    let mut events = Vec::new();
    while !out.is_empty() {
        for output in std::mem::take(&mut out) {
            match output {
                Output::Event { event, .. } => events.push(event),
                Output::ToExpert(expert, op) => {
                    for event in machine.compute(1, op).unwrap().1 {
                        let from = crate::opinion::FromExpert { expert, event };
                        machine.node.handle(now, Input::FromExpert(from), &mut out);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    events
}
