//! The promises of decision 0013, on streams that nobody would call text.

use super::table::nats;
use super::*;
use proptest::collection::vec;
use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Drawn;

/// Room for rounding in sums of some hundred terms.
const SLACK: f64 = 1e-7;

/// What every expert says of every token, as wire values: wild, agreeing or certain.
#[derive(Clone, Debug)]
struct Stream {
    experts: usize,
    rows: Vec<Vec<u16>>,
}

impl Stream {
    fn ln_p(&self, position: usize, expert: usize) -> LnP {
        LnP::from_wire(self.rows[position][expert])
    }

    fn nats(&self, position: usize, expert: usize) -> f64 {
        nats(self.ln_p(position, expert))
    }

    fn loss(&self, expert: usize, among: impl Iterator<Item = usize>) -> f64 {
        among.map(|t| -self.nats(t, expert)).sum()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn all(&self) -> Vec<usize> {
        (0..self.experts).collect()
    }
}

fn wire() -> impl Drawn<Value = u16> {
    prop_oneof![
        4 => 0u16..6_000,
        1 => any::<u16>(),
        1 => Just(u16::MAX),
        1 => Just(0),
    ]
}

fn stream(tokens: usize) -> impl Drawn<Value = Stream> {
    (1usize..6).prop_flat_map(move |experts| {
        vec(vec(wire(), experts), 1..tokens).prop_map(move |rows| Stream { experts, rows })
    })
}

/// A non-empty set at each position, from bits.
fn set_of(bits: u8, experts: usize) -> Vec<usize> {
    let set: Vec<usize> = (0..experts).filter(|k| bits >> k & 1 == 1).collect();
    match set.is_empty() {
        true => vec![bits as usize % experts],
        false => set,
    }
}

fn rule(strategy: Strategy, lag: u32) -> Rule {
    Rule {
        strategy,
        lag,
        floor: 0.0,
    }
}

/// Everybody is asked and heard at every position.
fn run(stream: &Stream, rule: Rule) -> Weights {
    let mut weights = Weights::new(rule, stream.experts, None).unwrap();
    for t in 0..stream.len() {
        weights.at(t as Position, &stream.all());
        for k in stream.all() {
            weights.heard(t as Position, k, stream.ln_p(t, k));
        }
    }
    weights.arrive((stream.len() as u32) + rule.lag);
    weights
}

fn best_part(tally: &Tally) -> f64 {
    let lost = tally.parts.iter().map(|(_, lost)| *lost);
    lost.fold(f64::INFINITY, f64::min)
}

proptest! {
    #[test]
    fn meta_is_never_far_behind_its_best_strategy(
        stream in stream(90),
        sets in vec(any::<u8>(), 90),
        late in 1usize..20,
        lag in 0u32..4,
    ) {
        // Any sets; sleepers' evidence comes in heaps, also after their positions were passed.
        let mut weights = Weights::new(rule(Strategy::Meta, lag), stream.experts, None).unwrap();
        let mut owed: Vec<(usize, usize)> = Vec::new();
        for (t, &drawn) in sets.iter().enumerate().take(stream.len()) {
            let set = set_of(drawn, stream.experts);
            let given = weights.at(t as Position, &set);
            prop_assert!((given.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(given.iter().all(|w| *w >= 0.0));
            for k in stream.all() {
                match set.contains(&k) {
                    true => prop_assert!(weights.heard(t as u32, k, stream.ln_p(t, k))),
                    false => owed.push((t, k)),
                }
            }
            if t % late == 0 {
                for (t, k) in owed.drain(..).rev() {
                    weights.heard(t as u32, k, stream.ln_p(t, k));
                }
            }
        }
        weights.arrive(stream.len() as u32 + lag);
        let tally = weights.tally();
        prop_assert_eq!(tally.positions as usize, stream.len());
        let m = tally.parts.len() as f64;
        let most = best_part(tally) + f64::from(lag + 1) * libm::log(m) + SLACK;
        prop_assert!(tally.mixture <= most, "{} > {most}", tally.mixture);
    }

    #[test]
    fn bayes_is_never_far_behind_the_best_expert(stream in stream(200)) {
        let tally = run(&stream, rule(Strategy::Bayes, 0)).tally().clone();
        for k in stream.all() {
            let most = stream.loss(k, 0..stream.len()) + libm::log(stream.experts as f64) + SLACK;
            prop_assert!(tally.mixture <= most, "{} > {most}", tally.mixture);
        }
    }

    #[test]
    fn share_is_never_far_behind_experts_that_take_turns(
        stream in stream(120),
        turns in vec(0usize..6, 1..6),
    ) {
        let tally = run(&stream, rule(Strategy::Share, 0)).tally().clone();
        let (t, n) = (stream.len(), stream.experts as f64);
        let span = t.div_ceil(turns.len());
        let who = |at: usize| turns[at / span] % stream.experts;
        let loss: f64 = (0..t).map(|at| -stream.nats(at, who(at))).sum();
        let switches = (1..t).filter(|&at| who(at) != who(at - 1)).count() as f64;
        for rate in track::SHARES {
            let stays = (t as f64 - 1.0 - switches) * -libm::log(1.0 - rate);
            let prior = libm::log(track::SHARES.len() as f64)
                + libm::log(n)
                + switches * libm::log(n / rate);
            prop_assert!(tally.mixture <= loss + prior + stays + SLACK);
        }
    }

    #[test]
    fn em_is_never_far_behind_the_best_single_expert_where_it_was_fitted(stream in stream(400)) {
        let mut weights = Weights::new(rule(Strategy::Convex, 0), stream.experts, None).unwrap();
        for t in 0..stream.len() {
            for k in stream.all() {
                weights.heard(t as Position, k, stream.ln_p(t, k));
            }
        }
        weights.begin(stream.len() as u32, Situation::Sampled(Following::Frozen)).unwrap();
        let loss: f64 = (0..stream.len())
            .map(|t| {
                let said = (0..stream.experts).map(|k| Some(stream.ln_p(t, k)));
                -Heard::of(said).ln_of(weights.convex())
            })
            .sum();
        for k in stream.all() {
            let most = stream.loss(k, 0..stream.len()) + GUARD_NATS + SLACK;
            prop_assert!(loss <= most, "{loss} > {most}");
        }
    }

    #[test]
    fn whoever_is_asked_now_and_then_loses_nothing_by_sleeping(
        stream in stream(120),
        sets in vec(any::<u8>(), 120),
    ) {
        let mut weights = Weights::new(rule(Strategy::Bayes, 0), stream.experts, None).unwrap();
        let mut behind = vec![0.0; stream.experts];
        for (t, &drawn) in sets.iter().enumerate().take(stream.len()) {
            let set = set_of(drawn, stream.experts);
            let given = weights.at(t as Position, &set);
            let ln_r = Heard::of(set.iter().map(|&k| Some(stream.ln_p(t, k)))).ln_of(&given);
            for &k in &set {
                behind[k] += stream.nats(t, k) - ln_r;
                weights.heard(t as Position, k, stream.ln_p(t, k));
            }
        }
        for regret in behind {
            prop_assert!(regret <= libm::log(stream.experts as f64) + SLACK, "{regret}");
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_move_a_bit(
        stream in stream(100),
        shuffled in any::<u64>(),
        lag in 0u32..3,
    ) {
        let at = stream.len() as Position;
        let mut words: Vec<(usize, usize)> = (0..stream.len())
            .flat_map(|t| stream.all().into_iter().map(move |k| (t, k)))
            .collect();
        let weigh = |words: &[(usize, usize)]| {
            let mut weights = Weights::new(rule(Strategy::Meta, lag), stream.experts, None).unwrap();
            for &(t, k) in words {
                weights.heard(t as Position, k, stream.ln_p(t, k));
            }
            weights.at(at, &stream.all())
        };
        let in_order = weigh(&words);
        let mut state = shuffled | 1;
        words.sort_by_cached_key(|_| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            state >> 20
        });
        prop_assert_eq!(bits(&in_order), bits(&weigh(&words)));
    }

    #[test]
    fn evidence_that_comes_late_ends_as_evidence_that_came_in_time(
        stream in stream(150),
        strategy in prop_oneof![Just(Strategy::Bayes), Just(Strategy::Share)],
        sleeper in 0usize..5,
        questions in 1usize..40,
    ) {
        let sleeper = sleeper % stream.experts;
        let mut weights = Weights::new(rule(strategy, 0), stream.experts, None).unwrap();
        for t in 0..stream.len() {
            if t % questions == 0 {
                weights.at(t as Position, &stream.all());
            }
            for k in stream.all().into_iter().filter(|k| *k != sleeper) {
                weights.heard(t as Position, k, stream.ln_p(t, k));
            }
        }
        for t in (0..stream.len()).rev() {
            weights.heard(t as Position, sleeper, stream.ln_p(t, sleeper));
            prop_assert!(!weights.heard(t as Position, sleeper, LnP::CERTAIN), "said before");
        }
        let end = stream.len() as Position;
        let in_time = run(&stream, rule(strategy, 0)).at(end, &stream.all());
        prop_assert_eq!(bits(&weights.at(end, &stream.all())), bits(&in_time));
    }

    #[test]
    fn names_of_experts_do_not_matter(stream in stream(60), turn in 0usize..6) {
        let n = stream.experts;
        let turned = Stream {
            experts: n,
            rows: stream.rows.iter().map(|row| {
                let mut row = row.clone();
                row.rotate_left(turn % n);
                row
            }).collect(),
        };
        // The leader breaks ties by its number, so it has no part here.
        for strategy in [Strategy::Uniform, Strategy::Bayes, Strategy::Share, Strategy::Convex] {
            let end = stream.len() as Position;
            let mut plain = run(&stream, rule(strategy, 0)).at(end, &stream.all());
            plain.rotate_left(turn % n);
            let other = run(&turned, rule(strategy, 0)).at(end, &stream.all());
            for (a, b) in plain.iter().zip(&other) {
                prop_assert!((a - b).abs() < 1e-6, "{strategy:?}: {a} {b}");
            }
        }
    }

    /// The router's way: K of N chosen anew every so many tokens by what was heard, sleepers' words in heaps.
    /// No text makes that a bad bet against the best strategy, over the very same sets.
    #[test]
    fn chosen_sets_keep_the_promise_too(
        stream in stream(120),
        k in 1usize..4,
        every in 1usize..20,
        lag in 0u32..3,
    ) {
        let mut weights = Weights::new(rule(Strategy::Meta, lag), stream.experts, None).unwrap();
        let mut set = weights.best(0, k);
        let mut missed: Vec<(usize, usize)> = Vec::new();
        for t in 0..stream.len() {
            let position = t as Position;
            if t % every == 0 {
                for (t, k) in missed.drain(..) {
                    weights.heard(t as Position, k, stream.ln_p(t, k));
                }
                set = weights.best(position, k);
                set.sort_unstable();
                prop_assert_eq!(set.len(), k.min(stream.experts));
            }
            weights.at(position, &set);
            for k in stream.all() {
                match set.contains(&k) {
                    true => prop_assert!(weights.heard(position, k, stream.ln_p(t, k))),
                    false => missed.push((t, k)),
                }
            }
        }
        weights.arrive(stream.len() as u32 + lag);
        let tally = weights.tally();
        let m = tally.parts.len() as f64;
        let most = best_part(tally) + f64::from(lag + 1) * libm::log(m) + SLACK;
        prop_assert!(tally.mixture <= most, "{} > {most}", tally.mixture);
    }

    /// Weights that follow are a function of what was heard and not taken back, whatever came when.
    #[test]
    fn what_was_taken_back_was_never_said(
        stream in stream(40),
        order in vec(any::<u16>(), 200),
        taken_back in vec(any::<bool>(), 200),
        asked in vec(0usize..40, 0..10),
        lag in 0u32..9,
    ) {
        let start: Vec<f64> = stream.all().iter().map(|k| (k + 1) as f64).collect();
        let start = track::restricted(&start, &stream.all());
        let follow = Following::Follow { share: 0.1, lag };
        let fresh = Follower::new(7, follow, &start).unwrap().unwrap();
        let (mut clean, mut troubled) = (fresh.clone(), fresh);
        let mut words: Vec<(usize, usize, bool)> = (0..stream.len())
            .flat_map(|t| stream.all().into_iter().map(move |k| (t, k)))
            .zip(taken_back)
            .map(|((t, k), back)| (t, k, back))
            .collect();
        for &(t, k, back) in &words {
            if !back {
                clean.heard(7 + t as Position, k, stream.ln_p(t, k));
            }
        }
        words.sort_by_key(|(t, k, _)| order[(t * stream.experts + k) % order.len()]);
        let mut asked = asked.into_iter();
        for (t, k, back) in words {
            let position = 7 + t as Position;
            prop_assert!(troubled.heard(position, k, stream.ln_p(t, k)));
            if let Some(at) = asked.next() {
                troubled.at(7 + at as Position, &stream.all());
            }
            if back {
                troubled.forget(position, k);
            }
        }
        for t in 0..=stream.len() + 1 {
            let position = 7 + t as Position;
            let given = clean.at(position, &stream.all());
            prop_assert!((given.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert_eq!(bits(&given), bits(&troubled.at(position, &stream.all())));
            if t as u32 <= lag {
                prop_assert_eq!(bits(&given), bits(&Follower::new(7, follow, &start).unwrap().unwrap().at(position, &stream.all())));
            }
        }
        prop_assert!(!clean.heard(6, 0, LnP::CERTAIN), "the prompt is no generated text");
    }

    /// Drawing from the mixture while following one's own draws is a hidden expert that speaks alone
    /// and is drawn anew with chance `share`: summed over every text that can be.
    #[test]
    fn following_ones_own_words_is_a_hidden_expert(
        tables in vec(vec(0u16..4_000, 3), 3),
        prompt in vec(vec(0u16..3_000, 3), 0..4),
        share in 0.01f64..1.0,
    ) {
        const TOKENS: usize = 4;
        let begin = prompt.len() as Position;
        let mut fresh = Weights::new(rule(Strategy::Bayes, 0), 3, None).unwrap();
        for (t, row) in prompt.iter().enumerate() {
            for (k, steps) in row.iter().enumerate() {
                fresh.heard(t as Position, k, LnP::from_wire(*steps));
            }
        }
        fresh.begin(begin, Situation::Sampled(Following::Follow { share, lag: 0 })).unwrap();
        let start = fresh.at(begin, &[0, 1, 2]);
        let p = |k: usize, v: usize| LnP::from_wire(tables[k][v]).p();
        for text in 0..3usize.pow(TOKENS as u32) {
            let token = |t: usize| text / 3usize.pow(t as u32) % 3;
            let mut weights = fresh.clone();
            let (mut mixture, mut hidden) = (1.0, start.clone());
            let mut chain = 1.0;
            for t in 0..TOKENS {
                let position = begin + t as Position;
                let given = weights.at(position, &[0, 1, 2]);
                mixture *= (0..3).map(|k| given[k] * p(k, token(t))).sum::<f64>();
                for (k, table) in tables.iter().enumerate().take(3) {
                    weights.heard(position, k, LnP::from_wire(table[token(t)]));
                }
                // The chain: it speaks, then it may be drawn anew.
                let spoken: Vec<f64> = (0..3).map(|k| hidden[k] * p(k, token(t))).collect();
                chain = spoken.iter().sum();
                hidden = (0..3)
                    .map(|k| (1.0 - share) * spoken[k] + share * chain * start[k])
                    .collect();
            }
            prop_assert!((mixture - chain).abs() <= 1e-9 * chain, "{mixture} {chain}");
        }
    }
}

fn bits(weights: &[f64]) -> Vec<u64> {
    weights.iter().map(|w| w.to_bits()).collect()
}
