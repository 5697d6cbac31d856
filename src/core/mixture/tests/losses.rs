//! Order, losses and limits: what a mixture does when not everything goes well.

use super::*;
use crate::limits::{DRAFT_TOKENS_MAX, SCALARS_MAX};

/// Guesses go ahead of the answers, and are taken back: what was asked about them is not answered any more.
#[test]
fn a_draft_waits_for_the_question_before_it_and_a_truncation_forgets_what_is_open() {
    let mut world = World::open(&[(1, 0.5), (2, 0.5)], &[1, 2]);
    world.silent = vec![2];
    let query = |n| Query::perturbed(key(n), 0.05);
    assert_eq!(world.op(draft(2, &[], vec![query(0)])), []);
    let asked = world.questions;
    assert_eq!(world.op(draft(2, &[8], vec![query(1)])), []);
    assert_eq!(
        world.questions, asked,
        "second questions are about the last draft only"
    );
    assert_eq!(world.op(draft(3, &[9], vec![])), []);
    assert_eq!(world.tables[&id(1)].texts.own.tokens, [1, 2]);
    world.silent.clear();
    let truncate = ExpertOp::Truncate {
        session: SESSION,
        epoch: 1,
        position: 3,
    };
    assert_eq!(world.op(truncate), []);
    assert_eq!(world.tables[&id(1)].texts.own.tokens, [1, 2, 8]);
    let go_on = ExpertOp::Draft {
        session: SESSION,
        epoch: 1,
        position: 3,
        tokens: vec![7],
        queries: vec![query(2)],
    };
    let said = world.op(go_on);
    let [
        ExpertEvent::Opinions {
            epoch: 1, opinions, ..
        },
    ] = &said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!(opinions.iter().map(|o| o.position).collect::<Vec<_>>(), [4]);
}

#[test]
fn who_leaves_before_the_answer_has_no_part_in_it() {
    let weights = [(1, 0.5), (2, 0.3), (3, 0.2)];
    let mut world = World::open(&weights, &[1, 2]);
    world.silent = vec![2];
    assert_eq!(
        world.op(draft(2, &[], vec![Query::perturbed(key(5), 0.05)])),
        []
    );
    let deadline = world.mixture.wake_at().unwrap();
    assert_eq!(world.at(deadline.0 - 1, Input::Tick), []);
    let got = list(world.at(deadline.0, Input::Tick));
    assert_eq!(world.failed, [(id(2), Trouble::Late)]);
    let whole = world.whole(&[(1, 0.5), (3, 0.2)], 2, false);
    assert!(!got.is_empty() && got.iter().all(|e| e.ln_p == whole[e.token as usize]));
    // The next position is theirs alone, too, and what the late one says now is nothing.
    let got = list(world.op(draft(2, &[9], vec![Query::perturbed(key(6), 0.05)])));
    for table in world.tables.values_mut() {
        table.texts.own.tokens = vec![1, 2, 9];
    }
    let whole = world.whole(&[(1, 0.5), (3, 0.2)], 3, false);
    assert!(!got.is_empty() && got.iter().all(|e| e.ln_p == whole[e.token as usize]));
}

/// A list and the values that are asked for after it are of one set, or there are none.
#[test]
fn two_answers_about_a_position_are_of_one_set() {
    let mut world = World::open(&[(1, 0.5), (2, 0.5)], &[1, 2]);
    list(world.op(draft(2, &[], vec![Query::perturbed(key(5), 0.05)])));
    let lost = Input::Lost {
        expert: id(2),
        why: "a cable".into(),
    };
    assert_eq!(world.at(1, lost), []);
    let scalars = Query {
        want: Want::Scalars(vec![1, 2, 3]),
        ..Query::plain(1.0, 1)
    };
    let said = world.op(ask(2, scalars));
    let [ExpertEvent::Failed { why, .. }] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*why, ExpertFailure::Gone);
    assert!(world.mixture.is_over() && world.mixture.wake_at().is_none());
}

#[test]
fn a_liar_behind_it_costs_its_part_and_the_last_one_costs_the_session() {
    let mut world = World::open(&[(1, 0.5), (2, 0.5)], &[1, 2]);
    world.silent = vec![1, 2];
    assert_eq!(
        world.op(draft(2, &[], vec![Query::perturbed(key(5), 0.05)])),
        []
    );
    let lie = |expert, ln_p| {
        let entries = vec![Entry { token: 4, ln_p }, Entry { token: 3, ln_p }];
        let said = Said::List(crate::opinion::List {
            entries,
            bound: 0.05,
        });
        let opinions = vec![Opinion {
            position: 2,
            said,
            raw: None,
            scored: Vec::new(),
        }];
        Input::FromExpert(FromExpert {
            expert,
            event: ExpertEvent::Opinions {
                session: SESSION,
                epoch: 0,
                opinions,
                compute_us: 1,
                bytes: 1,
            },
        })
    };
    assert_eq!(world.at(1, lie(id(1), LnP::CERTAIN)), []);
    assert!(matches!(world.failed[..], [(_, Trouble::Lied(_))]));
    let said = world.at(2, lie(id(2), LnP::CERTAIN));
    assert!(matches!(said[..], [ExpertEvent::Failed { .. }]), "{said:?}");
    assert_eq!(world.at(3, Input::Tick), [], "it is over");
}

#[test]
fn the_prompt_is_scored_by_all_of_them() {
    let mut out = Vec::new();
    let open = Open {
        score: true,
        ..open_at(&[1, 2, 3])
    };
    let mut mixture = Mixture::open(Micros(0), &open, plan(&[(1, 3.0), (2, 1.0)]), &mut out);
    let scored = |name, p: &[f64]| {
        let ln_p = p.iter().map(|p| LnP::floor(libm::log(*p))).collect();
        Input::FromExpert(FromExpert {
            expert: id(name),
            event: ExpertEvent::Scored {
                session: SESSION,
                ln_p,
            },
        })
    };
    out.clear();
    mixture.handle(Micros(1), scored(1, &[0.5, 0.1]), &mut out);
    assert!(out.is_empty(), "{out:?}");
    mixture.handle(Micros(2), scored(2, &[0.1, 0.9]), &mut out);
    let [Output::Say(ExpertEvent::Scored { ln_p, .. })] = &out[..] else {
        panic!("{out:?}")
    };
    let close = |got: LnP, want: f64| (got.p() / want - 1.0).abs() < 3.0 / 1024.0;
    assert!(close(ln_p[0], 0.4) && close(ln_p[1], 0.3), "{ln_p:?}");
}

/// What a router may send is bounded before anybody behind it hears of it.
#[test]
fn what_cannot_be_is_refused_here() {
    let refuse = |op: ExpertOp| {
        let mut world = World::open(&[(1, 1.0)], &[1, 2]);
        let said = world.op(op);
        assert!(matches!(said[..], [ExpertEvent::Failed { .. }]), "{said:?}");
        assert!(world.failed.is_empty(), "nobody behind it is to blame");
    };
    let query = || Query::plain(0.9, 10);
    refuse(draft(1, &[], vec![query()]));
    refuse(draft(2, &[VOCAB], vec![query()]));
    refuse(draft(2, &[], vec![query(), query()]));
    refuse(draft(2, &[1; DRAFT_TOKENS_MAX + 1], vec![query()]));
    refuse(draft(2, &[], vec![Query::perturbed(key(0), f64::NAN)]));
    refuse(draft(2, &[], vec![Query::plain(f64::INFINITY, 1)]));
    let many = |n: usize| Query {
        want: Want::Scalars(vec![1; n]),
        ..query()
    };
    refuse(draft(2, &[], vec![many(SCALARS_MAX + 1)]));
    one(World::open(&[(1, 1.0)], &[1, 2]).op(draft(2, &[], vec![many(SCALARS_MAX)])));
    refuse(ask(2, query()));
    let deep = |n: u8| {
        let mut out = Vec::new();
        let open = Open {
            path: (0..n).map(|node| [node; 32]).collect(),
            ..open_at(&[1])
        };
        Mixture::open(Micros(0), &open, plan(&[(1, 1.0)]), &mut out).is_over()
    };
    assert!(!deep(PATH_MAX as u8) && deep(PATH_MAX as u8 + 1));
    let mut out = Vec::new();
    let nobody = Mixture::open(Micros(0), &open_at(&[1]), plan(&[]), &mut out);
    assert!(
        nobody.is_over()
            && matches!(
                &out[..],
                [Output::Say(ExpertEvent::Failed {
                    why: ExpertFailure::Busy { .. },
                    ..
                })]
            )
    );
}

#[test]
fn operations_wait_their_turn_and_not_without_end() {
    let mut world = World::open(&[(1, 0.5), (2, 0.5)], &[1, 2]);
    world.silent = vec![2];
    assert_eq!(
        world.op(draft(2, &[], vec![Query::perturbed(key(5), 0.05)])),
        []
    );
    for n in 0..MIXTURE_OPS_MAX {
        assert_eq!(world.op(draft(2 + n, &[3], vec![])), []);
    }
    let said = world.op(draft(2 + MIXTURE_OPS_MAX, &[3], vec![]));
    assert!(matches!(said[..], [ExpertEvent::Failed { .. }]), "{said:?}");
}
