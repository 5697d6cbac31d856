//! A client that reads slowly costs no memory, no guesses and no byte of its text.

use super::net_tests::*;
use super::tests::law;
use super::*;
use crate::law::Sampler;
use crate::limits::{READ_TOKENS, UNREAD_TOKENS_MAX, UNREAD_US_MAX};
use proptest::prelude::*;

const HERE: Ways = Ways {
    delay_us: (2_000, 3_000),
    common: 0.95,
    ..CALM
};
const THERE: Ways = Ways {
    common: 0.95,
    ..FAR
};

fn team() -> (Plan, [(u8, Ways); 3]) {
    let mut plan = far(&[1, 2, 3], 3, 0);
    plan.candidates[0].local = true;
    (plan, [(1, HERE), (2, THERE), (3, THERE)])
}

fn paced(seed: u64, max_tokens: u32, guessing: Guessing) -> Spec {
    Spec {
        max_tokens,
        guessing,
        paced: true,
        ..long(seed)
    }
}

/// Half a second for every token: the guesses keep pace with the client, and the pause is no lateness.
#[test]
fn who_reads_slowly_is_waited_for() {
    let (plan, ways) = team();
    let quick = live(
        Spec {
            paced: false,
            ..paced(7, 600, Guessing::Stream)
        },
        plan.clone(),
        &ways,
        1,
    );
    let slow = live_read(paced(7, 600, Guessing::Stream), plan, &ways, 1, 500_000);
    assert_eq!((quick.tokens.len(), slow.why), (600, Finish::Length));
    assert_eq!(slow.tokens, quick.tokens);
    assert_eq!(slow.schedule, quick.schedule);
    assert!(slow.failed.is_empty(), "{:?}", slow.failed);
    // The last unread tokens are decided before they are read.
    let read = (600 - UNREAD_TOKENS_MAX - READ_TOKENS) as u64;
    assert!(slow.ended_us > read * 500_000, "{} us", slow.ended_us);
    // And none before there was room for it.
    for (told, at) in slow.at_us.iter().enumerate() {
        let read = at / 500_000;
        assert!(
            (told as u64) <= read + u64::from(UNREAD_TOKENS_MAX),
            "{told} at {at}"
        );
    }
    assert!(slow.guesses.right > 200, "{:?}", slow.guesses);
}

/// Nobody is asked about what there is no room for, guessed or not; after its time such a client is cut off.
#[test]
fn who_reads_nothing_is_cut_off() {
    for guessing in [Guessing::Never, Guessing::Blocks, Guessing::Stream] {
        let (plan, ways) = team();
        let story = live_read(paced(7, 10_000, guessing), plan, &ways, 1, u64::MAX);
        assert_eq!(story.tokens.len(), UNREAD_TOKENS_MAX as usize);
        assert!(
            matches!(&story.why, Finish::Failed(why) if why.contains("read nothing")),
            "{:?}",
            story.why
        );
        let last = story.at_us.last().unwrap();
        assert_eq!(story.ended_us, last + UNREAD_US_MAX);
        let wasted = story.guesses.wasted as usize;
        // A few positions are asked about twice.
        let most = 3 * (UNREAD_TOKENS_MAX + READ_TOKENS) as usize;
        assert!(
            story.asked <= most + wasted,
            "{} questions, {wasted} of them wasted",
            story.asked
        );
        assert!(story.failed.is_empty(), "{:?}", story.failed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However slowly and under which law: the text is that of a client that reads at once.
    #[test]
    fn reading_slowly_moves_no_byte(
        seed: u64, net: u64, read_us in 1_000u64..700_000, own: bool, blocks: bool, learns in 0usize..3,
        sampler in prop_oneof![
            Just(Sampler::Seeded), Just(Sampler::SeededPlain), Just(Sampler::Greedy), Just(Sampler::Rejection)
        ],
    ) {
        let (mut plan, ways) = team();
        plan.candidates[0].local = own;
        plan.k = 1 + learns;
        let law = law(if sampler == Sampler::Greedy { 0.0 } else { 1.0 }).sampled(sampler);
        let guessing = if blocks { Guessing::Blocks } else { Guessing::Branches };
        // Without an own expert the draft of the rejection sampler is whose list comes first.
        prop_assume!(own || sampler != Sampler::Rejection);
        let slow = Spec { law, ..paced(seed, 400, guessing) };
        let quick = Spec { paced: false, guessing: Guessing::Never, ..slow.clone() };
        let quick = live(quick, plan.clone(), &ways, net);
        let slow = live_read(slow, plan, &ways, net, read_us);
        prop_assert_eq!(&slow.failed, &vec![]);
        prop_assert_eq!(slow.tokens, quick.tokens);
        prop_assert_eq!(slow.why, quick.why);
    }
}
