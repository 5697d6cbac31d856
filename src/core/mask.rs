//! Which tokens a grammar allows at one position. Applied by the router, so that an expert, however
//! hostile, cannot break the grammar.

use crate::ids::Token;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
    allowed: u32,
}

impl Mask {
    /// `words` holds one bit per token, lowest first; bits at or above `vocab` are dropped.
    pub fn new(mut words: Vec<u32>, vocab: u32) -> Mask {
        words.resize(vocab.div_ceil(32) as usize, 0);
        if !vocab.is_multiple_of(32)
            && let Some(last) = words.last_mut()
        {
            *last &= (1 << (vocab % 32)) - 1;
        }
        let allowed = words.iter().map(|w| w.count_ones()).sum();
        Mask { words, allowed }
    }

    pub fn allows(&self, token: Token) -> bool {
        self.words
            .get((token / 32) as usize)
            .is_some_and(|w| w >> (token % 32) & 1 == 1)
    }

    pub fn allowed(&self) -> u32 {
        self.allowed
    }

    /// One word of 32 allowed-bits; zero past the end.
    pub fn word(&self, index: usize) -> u32 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// All words, as `new` takes them.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    pub fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        (0u32..).zip(&self.words).flat_map(|(i, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(i * 32 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_past_the_vocabulary_do_not_count() {
        let mask = Mask::new(vec![u32::MAX, u32::MAX], 33);
        assert_eq!(mask.allowed(), 33);
        assert!(mask.allows(32) && !mask.allows(33) && !mask.allows(9_999));
    }

    #[test]
    fn tokens_come_in_order() {
        let mask = Mask::new(vec![0b1001, 0, 1], 96);
        assert_eq!(mask.tokens().collect::<Vec<_>>(), [0, 3, 64]);
    }
}
