//! Turning guessing off changes the speed and not one byte: naive = block = stream = branches, whatever the network
//! does.

use super::net_tests::*;
use super::tests::cases;
use super::*;

const MODES: [Guessing; 4] = [
    Guessing::Never,
    Guessing::Blocks,
    Guessing::Stream,
    Guessing::Branches,
];

/// A network as these numbers say: latencies, jitter and losses, answers that overtake each other; if experts may
/// fail, also answers that come twice, and of all but the first pauses, restarts and broken connections.
fn network(dice: &[u8; 32], fails: bool) -> Vec<(u8, Ways)> {
    let place = |(&name, dice): (&u8, &[u8])| {
        let [near, jitter, path, fate, at, ..] = *dice else {
            panic!("six numbers for everybody");
        };
        let ms = |n: u8, times: u64| u64::from(n) * times * 1_000 / 256;
        let near_us = ms(near, 100);
        let mut ways = Ways {
            delay_us: (near_us, near_us + 1 + ms(jitter, 60)),
            common: 0.88,
            loss: u64::from(path % 4),
            overtakes: path & 4 > 0,
            bundles: path & 24 == 0,
            step_us: ms(fate, 8),
            ..CALM
        };
        // At a second question whoever says everything twice is taken for a liar, and leaves the set.
        ways.mischief.twice = fails && path & 96 == 0;
        let at_us = ms(at, 3_000);
        match fate % 6 {
            0 if fails && name > 1 => ways.restarts_at = at_us,
            1 if fails && name > 1 => ways.gone_at = at_us,
            2 if fails && name > 1 => {
                (ways.silent_from, ways.silent_until) = (at_us, at_us + ms(jitter, 900));
            }
            _ => {}
        }
        (name, ways)
    };
    NAMES.iter().zip(dice.chunks(6)).map(place).collect()
}

/// What one seed stands for.
fn dice(seed: u64, network: u64) -> [u8; 32] {
    *blake3::hash(&[seed.to_le_bytes(), network.to_le_bytes()].concat()).as_bytes()
}

fn count(all: &mut Guesses, of: Guesses) {
    all.right += of.right;
    all.wrong += of.wrong;
    all.branches += of.branches;
    all.hits += of.hits;
}

/// Each text is written in one of the modes over a network in which experts restart and are replaced; its
/// schedule is followed in the others over networks of their own.
#[test]
fn naive_block_stream_and_branches_are_one_text() {
    let seeds = cases(40);
    let (mut changes, mut restarts, mut guesses) = (0, 0, Guesses::default());
    for seed in 0..seeds {
        let numbers = dice(seed, 0);
        let mut plan = far(&NAMES, 1 + usize::from(numbers[30] % 4), 1);
        plan.candidates[0].local = !numbers[31].is_multiple_of(4);
        let spec = |guessing| Spec {
            guessing,
            max_tokens: 60,
            ..long(seed)
        };
        let written = MODES[(seed % 4) as usize];
        let ways = network(&numbers, true);
        let story = live(spec(written), plan.clone(), &ways, seed);
        assert_eq!(story.tokens.len(), 60, "seed {seed}: {:?}", story.why);
        restarts += usize::from(ways.iter().any(|(_, w)| w.restarts_at < story.ended_us));
        changes += story.schedule.len() - 1;
        for (other, mode) in (1..).zip(MODES).filter(|(_, mode)| *mode != written) {
            let followed = Plan {
                script: Some(story.schedule.clone()),
                ..plan.clone()
            };
            let ways = network(&dice(seed, other), false);
            let again = live(spec(mode), followed, &ways, seed + other);
            assert_eq!(
                again.tokens, story.tokens,
                "seed {seed}: {written:?}, {mode:?}"
            );
            assert_eq!(again.schedule, story.schedule);
            count(&mut guesses, again.guesses);
        }
        count(&mut guesses, story.guesses);
    }
    let said = format!(
        "{seeds} seeds: {changes} set changes, {restarts} texts with restarts, {guesses:?}"
    );
    let few = (seeds / 2) as usize;
    assert!(changes > few && restarts > few / 3, "{said}");
    let few = (seeds / 2) as u32;
    assert!(
        guesses.right > 40 * few && guesses.wrong > 8 * few,
        "{said}"
    );
}
