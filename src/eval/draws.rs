//! Random numbers that are a function of a seed and a purpose.

pub(super) struct Draws {
    key: [u8; 32],
    drawn: u64,
}

impl Draws {
    pub(super) fn new(seed: u64, purpose: &str, nth: usize) -> Draws {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 evaluation draws");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(nth as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        Draws {
            key: *hasher.finalize().as_bytes(),
            drawn: 0,
        }
    }

    fn word(&mut self) -> u64 {
        self.drawn += 1;
        let hash = blake3::keyed_hash(&self.key, &self.drawn.to_le_bytes());
        let mut word = [0; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(word)
    }

    /// From 0 to `bound` - 1; 0 if there is no choice.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.word()) * bound as u128) >> 64) as usize
    }

    /// For whoever draws more from it.
    pub(super) fn secret(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.below(256) as u8)
    }

    pub(super) fn within(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to.saturating_sub(from) + 1)
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_of_their_seed_and_purpose_and_cover_their_range() {
        let draw = |seed, purpose| {
            let mut draws = Draws::new(seed, purpose, 0);
            (0..100).map(|_| draws.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(6, "a"), draw(6, "a"));
        assert_ne!(draw(6, "a"), draw(7, "a"));
        assert_ne!(draw(6, "a"), draw(6, "b"));
        assert!((0..7).all(|n| draw(6, "a").contains(&n)));
        let mut draws = Draws::new(1, "", 0);
        assert_eq!(draws.below(1), 0);
        assert!((0..50).all(|_| (3..=5).contains(&draws.within(3, 5))));
        let mut all: Vec<u32> = (0..50).collect();
        draws.shuffle(&mut all);
        assert!(!all.is_sorted());
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
