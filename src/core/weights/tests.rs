use super::*;
use crate::limits::PROFILE_TOKENS_MAX;

const ALL: [usize; 3] = [0, 1, 2];

fn ln(nats: f64) -> LnP {
    LnP::floor(-nats)
}

fn weights(strategy: Strategy) -> Weights {
    let rule = Rule {
        strategy,
        ..Rule::default()
    };
    Weights::new(rule, 3, None).unwrap()
}

/// Expert `good` finds these positions likely, the others do not.
fn hear(weights: &mut Weights, positions: std::ops::Range<Position>, good: usize) {
    for t in positions {
        for k in 0..3 {
            weights.heard(t, k, ln(if k == good { 1.0 } else { 4.0 }));
        }
    }
}

#[test]
fn nothing_underflows_in_a_long_prompt_and_everybody_may_come_back() {
    for strategy in Strategy::ALL.into_iter().filter(|s| *s != Strategy::Gate) {
        let mut weights = weights(strategy);
        for t in 0..8_000 {
            for k in 0..3 {
                let dead = if k == 0 { LnP::CERTAIN } else { LnP::ZERO_MASS };
                weights.heard(t, k, dead);
            }
        }
        let given = weights.at(8_000, &ALL);
        assert!(
            given.iter().all(|w| w.is_finite()),
            "{strategy:?} {given:?}"
        );
        assert!((given.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        if strategy != Strategy::Uniform {
            assert!(given[0] > 0.9, "{strategy:?} {given:?}");
        }
        // Those who were out by half a million nats weigh something against each other.
        let pair = weights.at(8_000, &[1, 2]);
        let picks_one = matches!(strategy, Strategy::Single | Strategy::Meta);
        assert!(
            (pair[0] - 0.5).abs() < 1e-9 || picks_one,
            "{strategy:?} {pair:?}"
        );
        for t in 8_000..16_100 {
            for k in 0..3 {
                let turned = if k == 1 { LnP::CERTAIN } else { LnP::ZERO_MASS };
                weights.heard(t, k, turned);
            }
        }
        let turned = weights.at(16_100, &ALL);
        if matches!(
            strategy,
            Strategy::Bayes | Strategy::Single | Strategy::Share
        ) {
            assert!(turned[1] > 0.9, "{strategy:?} {turned:?}");
        }
    }
}

#[test]
fn share_follows_a_text_that_changes_and_bayes_does_not() {
    let follow = |strategy| {
        let mut weights = weights(strategy);
        hear(&mut weights, 0..100, 0);
        hear(&mut weights, 100..110, 1);
        weights.at(110, &ALL)[1]
    };
    assert!(follow(Strategy::Share) > 0.9);
    assert!(follow(Strategy::Bayes) < 1e-6);
    assert!(
        follow(Strategy::Meta) > 0.9,
        "meta knows by then that turns are taken"
    );
}

#[test]
fn convex_finds_the_mixture_that_the_text_was_drawn_from() {
    let mut weights = weights(Strategy::Convex);
    // Tokens that only one expert explains: 0 has three in four of them, 1 the rest.
    for t in 0..400 {
        let right = usize::from(t % 4 == 3);
        for k in 0..3 {
            weights.heard(t, k, ln(if k == right { 0.1 } else { 9.0 }));
        }
    }
    let given = weights.at(400, &ALL);
    assert!(
        (given[0] - 0.75).abs() < 0.01 && given[2] < 0.01,
        "{given:?}"
    );
}

#[test]
fn generated_words_are_no_evidence() {
    for situation in [
        Situation::Sampled(Following::Frozen),
        Situation::Greedy(Following::Frozen),
    ] {
        let mut weights = weights(Strategy::Meta);
        hear(&mut weights, 0..20, 0);
        weights.begin(20, situation).unwrap();
        let frozen = weights.at(20, &ALL);
        hear(&mut weights, 20..60, 1);
        assert_eq!(weights.at(60, &ALL), frozen, "{situation}");
        assert_eq!(weights.tally().positions, 20);
        // The user speaks again, and that counts.
        weights.begin(60, Situation::Given).unwrap();
        hear(&mut weights, 60..80, 1);
        assert!(weights.at(80, &ALL)[1] > 0.9);
    }
}

#[test]
fn following_is_asked_for_and_looks_back_so_far() {
    let follow = |lag| {
        let mut weights = weights(Strategy::Bayes);
        hear(&mut weights, 0..2, 0);
        let follow = Following::Follow { share: 0.05, lag };
        weights.begin(2, Situation::Sampled(follow)).unwrap();
        hear(&mut weights, 2..12, 1);
        weights.at(12, &ALL)[1]
    };
    assert!(follow(0) > 0.9 && follow(5) > 0.6);
    assert!(follow(10) < 0.1, "nothing of it may be seen yet");
}

#[test]
fn evidence_about_generated_words_may_come_late_too() {
    let follow = Situation::Sampled(Following::Follow { share: 0.1, lag: 0 });
    let mut in_time = weights(Strategy::Bayes);
    in_time.begin(0, follow).unwrap();
    let mut late = in_time.clone();
    hear(&mut in_time, 0..30, 1);
    for t in 0..30 {
        for k in [0, 2] {
            late.heard(t, k, ln(4.0));
        }
        late.at(t, &[0, 2]);
    }
    for t in (0..30).rev() {
        late.heard(t, 1, ln(1.0));
    }
    assert_eq!(late.at(30, &ALL), in_time.at(30, &ALL));
}

#[test]
fn a_mixture_may_collapse_to_one_expert() {
    let mut weights = weights(Strategy::Bayes);
    hear(&mut weights, 0..10, 2);
    assert!(
        weights.at(10, &ALL)[0] > 0.0,
        "given text hears the smallest voice"
    );
    weights
        .begin(10, Situation::Greedy(Following::Frozen))
        .unwrap();
    assert_eq!(weights.at(10, &ALL), [0.0, 0.0, 1.0]);
    assert_eq!(
        weights.at(11, &[0, 1]),
        [0.5, 0.5],
        "without it the others are alike"
    );
    assert_eq!(weights.best(11, 2), [2, 0]);
}

#[test]
fn whom_to_ask_follows_the_text_and_hears_of_sleepers_late() {
    let mut weights = weights(Strategy::Meta);
    hear(&mut weights, 0..64, 0);
    assert_eq!(weights.best(64, 1), [0]);
    for t in 64..80 {
        weights.at(t, &[0]);
        weights.heard(t, 0, ln(6.0));
    }
    for t in 64..80 {
        weights.heard(t, 1, ln(1.0));
        weights.heard(t, 2, ln(6.0));
    }
    assert_eq!(weights.best(80, 1), [1]);
}

#[test]
fn the_gate_knows_domains_before_anybody_has_spoken() {
    let profiles = [
        Profile::of([1, 1, 2, 9]),
        Profile::of([5, 5, 6, 9]),
        Profile::default(),
    ];
    let gate = Gate::new(&profiles).unwrap();
    let rule = Rule {
        strategy: Strategy::Gate,
        ..Rule::default()
    };
    let mut weights = Weights::new(rule, 3, Some(gate)).unwrap();
    weights.read(&[5, 6, 5, 9, 5, 6, 5, 6]);
    weights
        .begin(8, Situation::Sampled(Following::Frozen))
        .unwrap();
    assert_eq!(weights.best(8, 1), [1]);
    let nobody = Gate::new(&profiles).unwrap().weights([100, 101]);
    assert!(nobody.iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-12));
    let long = Profile::of(0..2 * PROFILE_TOKENS_MAX as Token);
    assert_eq!(long.len(), PROFILE_TOKENS_MAX);
}

#[test]
fn what_cannot_be_is_refused() {
    let rule = Rule::default();
    assert_eq!(Weights::new(rule, 0, None).err(), Some(BadRule::Experts));
    assert!(Weights::new(rule, TEAM_MAX, None).is_ok());
    assert_eq!(
        Weights::new(rule, TEAM_MAX + 1, None).err(),
        Some(BadRule::Experts)
    );
    let lag = |lag| Weights::new(Rule { lag, ..rule }, 2, None).err();
    assert_eq!(
        (lag(WEIGHT_LAG_MAX), lag(WEIGHT_LAG_MAX + 1)),
        (None, Some(BadRule::Lag))
    );
    for floor in [-0.1, 0.6, f64::NAN] {
        let bad = Weights::new(Rule { floor, ..rule }, 2, None).err();
        assert_eq!(bad, Some(BadRule::Floor));
    }
    let gate = Gate::new(&[Profile::of([1])]).unwrap();
    assert_eq!(
        Weights::new(rule, 2, Some(gate)).err(),
        Some(BadRule::Profiles)
    );
    let mut weights = weights(Strategy::Meta);
    for share in [0.0, 1.5, f64::NAN] {
        let follow = Situation::Greedy(Following::Follow { share, lag: 0 });
        assert_eq!(weights.begin(1, follow), Err(BadRule::Share));
    }
    let end = PLANE_TOKENS_MAX as Position;
    assert!(weights.heard(end - 1, 0, LnP::CERTAIN));
    assert!(!weights.heard(end, 0, LnP::CERTAIN), "no text is so long");
    assert!(
        !weights.heard(0, 3, LnP::CERTAIN),
        "there is no such expert"
    );
}
