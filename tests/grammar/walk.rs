//! Random walks over allowed tokens.

use crate::vocabulary::END;
use quorate::grammar::{Matcher, Next};
use quorate_core::ids::Token;
use quorate_core::vocab::Vocab;

/// Steps after which the walk looks for the end, and after which it gives up.
const WANDER_STEPS: usize = 40;
const GIVE_UP_STEPS: usize = 2_000;

pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// The text of one walk, and its tokens. Checks the rules of masks on the way.
pub(crate) fn walk(mut matcher: Matcher, vocab: &Vocab, seed: u64) -> (String, Vec<Token>) {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::new();
    let mut tokens = Vec::new();
    for step in 0..GIVE_UP_STEPS {
        let mask = match matcher.next().expect("a mask") {
            Next::Done => {
                assert!(
                    matcher.commit(END).is_err(),
                    "a finished matcher takes nothing"
                );
                return (String::from_utf8(bytes).expect("whole characters"), tokens);
            }
            Next::Allowed(mask) => mask,
        };
        assert!(mask.allowed() > 0);
        let ends = [mask.allows(END), mask.allows(crate::vocabulary::OTHER_END)];
        assert_eq!(ends[0], ends[1], "all ends are alike");
        let allowed: Vec<Token> = mask.tokens().collect();
        let token = if ends[0] && (step > WANDER_STEPS || rng.below(8) == 0) {
            END
        } else {
            choose(&allowed, vocab, step, &mut rng)
        };
        matcher.commit(token).expect("an allowed token");
        bytes.extend_from_slice(vocab.text(token));
        tokens.push(token);
    }
    panic!(
        "no end after {GIVE_UP_STEPS} tokens: {}",
        String::from_utf8_lossy(&bytes)
    );
}

fn choose(allowed: &[Token], vocab: &Vocab, step: usize, rng: &mut Rng) -> Token {
    if step > WANDER_STEPS {
        let closing: Vec<Token> = allowed
            .iter()
            .copied()
            .filter(|&token| matches!(vocab.text(token), b"\"" | b"}" | b"]" | b"\"}" | b"\n"))
            .collect();
        if !closing.is_empty() && rng.below(3) > 0 {
            return closing[rng.below(closing.len())];
        }
    }
    allowed[rng.below(allowed.len())]
}
