//! The randomness of the seeded law: E_v ~ Exp(1) as a function of (secret, position, v).
//!
//! A position's key is a one-way function of the session's secret, so an expert that is given one
//! window of keys learns nothing about the next. Within a position a short integer hash is enough:
//! whoever has the key may compute every E anyway, whoever has not cannot.

use crate::ids::{Position, Token};

/// The root of one response's randomness. Never leaves the router.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret of choice number `choice` of a request with this seed.
    pub fn from_seed(seed: u64, choice: u32) -> Secret {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 session secret from seed");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&choice.to_le_bytes());
        Secret(*hasher.finalize().as_bytes())
    }

    /// For a recording, and for nobody else: who has it knows every key.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    pub fn key(&self, position: Position) -> PositionKey {
        let hash = blake3::keyed_hash(&self.0, &position.to_le_bytes());
        let word = |i: usize| {
            let b = &hash.as_bytes()[4 * i..4 * i + 4];
            u32::from_le_bytes([b[0], b[1], b[2], b[3]])
        };
        PositionKey([word(0), word(1), word(2), word(3)])
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Key of one position: all that an expert needs to compute E_v there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionKey(pub [u32; 4]);

impl PositionKey {
    /// The *complement* of the high 32 bits of n: small where E_v is small, which is what a filter
    /// looks for. Written for 32-bit lanes: it runs over the whole vocabulary at every position.
    #[inline(always)]
    pub(crate) fn high(self, token: Token) -> u32 {
        mix(token, self.0[0], self.0[1])
    }

    /// E_v = -ln((n + 1/2) 2^-53), n = 53 bits of hash(key, v).
    pub fn exponential(self, token: Token) -> f64 {
        let high = u64::from(!self.high(token));
        let low = u64::from(mix(token, self.0[2], self.0[3]) >> 11);
        let n = high << 21 | low;
        const HALF: u64 = 1 << 52;
        const ULP: f64 = 1.0 / (1u64 << 53) as f64;
        if n < HALF {
            -libm::log((n as f64 + 0.5) * ULP)
        } else {
            // n + 1/2 needs 54 bits here; its complement does not.
            let complement = (1u64 << 53) - 1 - n;
            -libm::log1p(-((complement as f64 + 0.5) * ULP))
        }
    }
}

/// Two keyed rounds of the usual multiply-and-shift finaliser: full avalanche, no 64-bit products.
#[inline(always)]
fn mix(token: u32, k0: u32, k1: u32) -> u32 {
    let mut h = token.wrapping_mul(0x9E37_79B1).wrapping_add(k0);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85EB_CA6B);
    h ^= h >> 13;
    h = h.wrapping_mul(0xC2B2_AE35);
    h ^= h >> 16;
    h = h.wrapping_add(k1);
    h = h.wrapping_mul(0x7FEB_352D);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846C_A68B);
    h ^ h >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values_never_move() {
        let key = Secret::from_seed(7, 0).key(3);
        let e: Vec<u64> = (0..3).map(|v| key.exponential(v).to_bits()).collect();
        let again = Secret::from_seed(7, 0).key(3);
        assert_eq!(
            e,
            (0..3)
                .map(|v| again.exponential(v).to_bits())
                .collect::<Vec<_>>()
        );
        assert_ne!(key, Secret::from_seed(7, 1).key(3));
        assert_ne!(key, Secret::from_seed(8, 0).key(3));
        assert_ne!(key, Secret::from_seed(7, 0).key(4));
    }

    /// Mean, variance and tail of Exp(1), over tokens, over positions, and for pairs of neighbours.
    #[test]
    fn it_is_exponential() {
        let n = 200_000u32;
        for pick in [(|i| (0, i)) as fn(u32) -> (u32, u32), |i| (i, 17)] {
            let secret = Secret::from_seed(1, 0);
            let mut keys = (u32::MAX, secret.key(0));
            let (mut sum, mut square, mut tail, mut product, mut last) = (0.0, 0.0, 0, 0.0, 1.0);
            for i in 0..n {
                let (position, token) = pick(i);
                if keys.0 != position {
                    keys = (position, secret.key(position));
                }
                let e = keys.1.exponential(token);
                assert!(e > 0.0 && e.is_finite());
                sum += e;
                square += e * e;
                tail += u32::from(e > 3.0);
                product += (e - 1.0) * (last - 1.0);
                last = e;
            }
            let n = f64::from(n);
            assert!((sum / n - 1.0).abs() < 0.01, "mean {}", sum / n);
            assert!(
                (square / n - 2.0).abs() < 0.05,
                "second moment {}",
                square / n
            );
            assert!((f64::from(tail) / n - libm::exp(-3.0)).abs() < 0.002);
            assert!(
                (product / n).abs() < 0.01,
                "neighbours correlate: {}",
                product / n
            );
        }
    }
}
