//! Side branches: what they save, what bounds them, and that they move no byte.

use super::net_tests::*;
use super::tests::law;
use super::*;
use crate::law::Sampler;
use crate::limits::{BRANCH_TOKENS_MAX, BRANCHES_MAX};
use crate::weights::Weighing;

/// A drafter of 10 ms a batch here, experts of 30 ms a batch a tenth of a second away.
const HERE: Ways = Ways {
    delay_us: (0, 1),
    step_us: 10_000,
    batches: true,
    common: 0.85,
    ..CALM
};
const THERE: Ways = Ways {
    delay_us: (100_000, 100_001),
    step_us: 30_000,
    ..HERE
};

fn team() -> Plan {
    let mut plan = far(&[1, 2, 3, 4], 4, 0);
    plan.candidates[0].local = true;
    for candidate in &mut plan.candidates {
        (0..64).for_each(|_| candidate.pace.answered(1_000_000));
    }
    plan
}

fn panel() -> Vec<(u8, Ways)> {
    vec![(1, HERE), (2, THERE), (3, THERE), (4, THERE)]
}

fn spec(seed: u64, law: Law, guessing: Guessing) -> Spec {
    Spec {
        law,
        max_tokens: 240,
        guessing,
        ..long(seed)
    }
}

/// One text as a stream and with branches: the same, and both stories.
fn both(seed: u64, law: &Law, panel: &[(u8, Ways)]) -> (Story, Story) {
    let told = |guessing| live(spec(seed, law.clone(), guessing), team(), panel, seed);
    let (stream, branches) = (told(Guessing::Stream), told(Guessing::Branches));
    assert_eq!(stream.tokens, branches.tokens, "seed {seed}");
    assert_eq!(stream.schedule, branches.schedule, "seed {seed}");
    assert_eq!(stream.tokens.len(), 240);
    (stream, branches)
}

#[test]
fn a_wrong_guess_that_a_branch_was_right_about_costs_no_round_trip() {
    for sampler in [Sampler::Seeded, Sampler::SeededPlain, Sampler::Greedy] {
        let law = law(1.0).sampled(sampler);
        let (mut stream_us, mut branches_us, mut hits, mut wrong) = (0, 0, 0, 0);
        for seed in 0..4 {
            let (stream, branches) = both(seed, &law, &panel());
            stream_us += stream.ended_us;
            branches_us += branches.ended_us;
            hits += branches.guesses.hits;
            wrong += branches.guesses.wrong;
            assert_eq!((stream.guesses.branches, stream.guesses.hits), (0, 0));
        }
        let said = format!("{sampler:?}: {stream_us} us, {branches_us} us, {hits} of {wrong}");
        assert!(hits * 10 > wrong, "{said}");
        assert!(branches_us * 20 < stream_us * 19, "{said}");
    }
}

/// Experts of which each branch takes the time of a token: after a trial there are hardly any.
#[test]
fn branches_that_do_not_pay_end() {
    let one_by_one = |ways: Ways| Ways {
        batches: false,
        ..ways
    };
    let here = one_by_one(HERE);
    // As quick as the drafter, so that a stream of it pays.
    let there = Ways {
        step_us: 8_000,
        ..one_by_one(THERE)
    };
    let panel = [
        (1, here),
        (2, there.clone()),
        (3, there.clone()),
        (4, there),
    ];
    let (mut stream_us, mut branches_us, mut made) = (0, 0, 0);
    for seed in 0..4 {
        let (stream, branches) = both(seed, &law(1.0), &panel);
        stream_us += stream.ended_us;
        branches_us += branches.ended_us;
        made += branches.guesses.branches;
    }
    assert!(made > 0, "they were tried");
    let said = format!("{stream_us} us, {branches_us} us, {made} branches");
    assert!(branches_us * 10 < stream_us * 12, "{said}");
}

/// No more of them than each keeps, no longer than the bound, and neither bound is never met.
#[test]
fn branches_are_few_and_short() {
    let slow = Ways {
        delay_us: (400_000, 400_001),
        ..THERE
    };
    let quick = Ways {
        step_us: 5_000,
        ..HERE
    };
    for keeps in 0..=BRANCHES_MAX + 1 {
        let mut panel = vec![
            (1, quick.clone()),
            (2, slow.clone()),
            (3, slow.clone()),
            (4, slow.clone()),
        ];
        for (_, ways) in &mut panel {
            ways.keeps = BRANCHES_MAX as u8 + 1;
        }
        panel[2].1.keeps = keeps as u8;
        let (_, branches) = both(3, &law(1.0), &panel);
        assert_eq!(branches.branches.0, keeps.min(BRANCHES_MAX));
        if keeps == 0 {
            assert_eq!(branches.guesses.branches, 0);
        } else {
            assert_eq!(branches.branches.1, BRANCH_TOKENS_MAX);
        }
        // Windows with as many branches: what one expert is sent while a packet is held up.
        assert!(branches.ops_under_way < crate::limits::GUEST_OPS_BURST as usize);
    }
}

/// It answers what it is asked about its text, and keeps no branch: it is late, and replaced, and says nothing that
/// moves a byte.
#[test]
fn an_expert_that_loses_its_branches_is_replaced() {
    let mut lossy = THERE;
    lossy.mischief.loses_branches = true;
    let mut panel = panel();
    panel[3].1 = lossy;
    panel.push((5, THERE));
    let mut plan = far(&NAMES, 4, 1);
    plan.candidates[0].local = true;
    for seed in 0..4 {
        let spec = spec(seed, law(1.0), Guessing::Branches);
        let story = live(spec.clone(), plan.clone(), &panel, seed);
        assert_eq!(story.tokens.len(), 240);
        assert!(story.guesses.hits > 0);
        assert!(
            story
                .failed
                .iter()
                .any(|(e, w)| (e.0[0], w) == (4, &Trouble::Late))
        );
        let again = replayed(spec, plan.clone(), &panel, &story.schedule);
        assert_eq!(again, story.tokens, "seed {seed}");
    }
}

/// An expert that restarts, one that is lost and one that falls silent, each while there are branches.
#[test]
fn whoever_leaves_takes_its_branches_along() {
    let troubles: [fn(u64, &mut Ways); 3] = [
        |at, ways| ways.restarts_at = at,
        |at, ways| ways.gone_at = at,
        |at, ways| (ways.silent_from, ways.silent_until) = (at, at + 3_000_000),
    ];
    let mut plan = far(&NAMES, 3, 1);
    plan.candidates[0].local = true;
    let mut hits = 0;
    for (seed, trouble) in (0..24).zip(troubles.iter().cycle()) {
        let mut panel = panel();
        panel.push((5, THERE));
        trouble(1_500_000 + 150_000 * seed, &mut panel[1].1);
        let spec = spec(seed, law(1.0), Guessing::Branches);
        let story = live(spec.clone(), plan.clone(), &panel, seed);
        assert_eq!(story.tokens.len(), 240, "seed {seed}: {:?}", story.why);
        assert!(story.schedule.len() > 1);
        hits += story.guesses.hits;
        let again = replayed(spec, plan.clone(), &panel, &story.schedule);
        assert_eq!(again, story.tokens, "seed {seed}");
    }
    assert!(hits > 24, "{hits}");
}

/// Rejection draws elsewhere, weights that follow want scores that a branch has not, and who leads has one text.
#[test]
fn where_branches_cannot_help_there_are_none() {
    let none = |law: Law, plan: Plan| {
        let story = live(spec(1, law, Guessing::Branches), plan, &panel(), 1);
        assert!(story.guesses.right > 50, "{:?}", story.guesses);
        assert_eq!(story.guesses.branches, 0);
    };
    none(law(1.0).sampled(Sampler::Rejection), team());
    let follows = Weighing::named("follow(0.1,0)").expect("a name");
    none(law(1.0).weighed(follows), team());
    none(law(1.0), far(&[1, 2, 3, 4], 4, 0));
}
