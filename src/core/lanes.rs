//! The loops that touch a whole vocabulary at every position, written for vector lanes.
//!
//! Each is plain Rust over chunks of 16 that the compiler turns into vector code, compiled twice on
//! x86-64: for every machine (SSE2) and for those with AVX2. Both run the same IEEE operations in
//! the same order, with no fused multiply-add, so they give the same bits.

use crate::ids::Token;
use crate::seeded::PositionKey;

const LANES: usize = 16;
/// Chunks summed in f32 before the sums move to f64: keeps the error of a sum near that of one term.
const CHUNKS_PER_BLOCK: usize = 64;

/// `fast!(fn name(args) -> ret = generic)`: the public entry that picks the widest version.
macro_rules! fast {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $generic:ident) => {
        $(#[$doc])*
        #[allow(unsafe_code)]
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    $generic($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: `wide` is safe code whose only demand is a processor with AVX2, which
                    // the line above has just found.
                    return unsafe { wide($($arg),*) };
                }
            }
            $generic($($arg),*)
        }
    };
}

fast! {
    /// The largest value; NaN never wins, nothing gives -inf.
    fn max(values: &[f32]) -> f32 = max_generic
}

fast! {
    /// Fills `masses` with exp((logit - top) * scale) and returns their sum; NaN if any logit was.
    fn exp_sum(logits: &[f32], top: f32, scale: f32, masses: &mut [f32]) -> f64 = exp_sum_generic
}

fast! {
    /// The sum of [`exp_sum`] alone, for scoring given text.
    fn exp_total(logits: &[f32], top: f32, scale: f32) -> f64 = exp_total_generic
}

fast! {
    /// Appends every token whose mass is at least `cut`.
    fn at_least(masses: &[f32], cut: f32, found: &mut Vec<Token>) = at_least_generic
}

fast! {
    /// Appends every token v for which mass * factor >= E_v is possible: one integer hash against a
    /// bound, since 1 - U <= x is necessary for -ln U <= x. The caller checks exactly.
    fn may_pass(masses: &[f32], key: PositionKey, factor: f32, found: &mut Vec<Token>) = may_pass_generic
}

#[inline(always)]
fn max_generic(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (b, &v) in best.iter_mut().zip(chunk) {
            *b = if v > *b { v } else { *b };
        }
    }
    best.iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, &v| if v > a { v } else { a })
}

/// exp for x <= 0, about 2 ulp; below -87 it is zero. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    if x < -87.0 { 0.0 } else { e * two_to_n }
}

#[inline(always)]
fn exp_sum_generic(logits: &[f32], top: f32, scale: f32, masses: &mut [f32]) -> f64 {
    let mut total = 0.0;
    let block = LANES * CHUNKS_PER_BLOCK;
    for (logits, masses) in logits.chunks(block).zip(masses.chunks_mut(block)) {
        let mut sums = [0.0f32; LANES];
        let (l, l_rest) = logits.as_chunks::<LANES>();
        let (m, m_rest) = masses.as_chunks_mut::<LANES>();
        for (l, m) in l.iter().zip(m) {
            for i in 0..LANES {
                m[i] = exp((l[i] - top) * scale);
                sums[i] += m[i];
            }
        }
        for (l, m) in l_rest.iter().zip(m_rest) {
            *m = exp((l - top) * scale);
            total += f64::from(*m);
        }
        total += sums.iter().map(|&s| f64::from(s)).sum::<f64>();
    }
    total
}

#[inline(always)]
fn exp_total_generic(logits: &[f32], top: f32, scale: f32) -> f64 {
    let mut total = 0.0;
    for logits in logits.chunks(LANES * CHUNKS_PER_BLOCK) {
        let mut sums = [0.0f32; LANES];
        let (chunks, rest) = logits.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                sums[i] += exp((chunk[i] - top) * scale);
            }
        }
        for l in rest {
            total += f64::from(exp((l - top) * scale));
        }
        total += sums.iter().map(|&s| f64::from(s)).sum::<f64>();
    }
    total
}

#[inline(always)]
fn at_least_generic(masses: &[f32], cut: f32, found: &mut Vec<Token>) {
    for (start, chunk) in (0u32..).step_by(LANES).zip(masses.chunks(LANES)) {
        if chunk.iter().fold(false, |any, &m| any | (m >= cut)) {
            found.extend(
                (start..)
                    .zip(chunk)
                    .filter(|(_, m)| **m >= cut)
                    .map(|(v, _)| v),
            );
        }
    }
}

#[inline(always)]
fn may_pass_generic(masses: &[f32], key: PositionKey, factor: f32, found: &mut Vec<Token>) {
    const ULP: f32 = 1.0 / (1 << 24) as f32;
    // The high 24 bits of 1 - U, rounded down: an exact f32.
    let passes = |v: Token, mass: f32| ((key.high(v) >> 8) as i32 as f32) * ULP <= mass * factor;
    let (chunks, rest) = masses.as_chunks::<LANES>();
    let mut start = 0;
    for chunk in chunks {
        let mut any = false;
        for (i, &mass) in chunk.iter().enumerate() {
            any |= passes(start + i as u32, mass);
        }
        if any {
            found.extend(
                (start..)
                    .zip(chunk)
                    .filter(|&(v, &m)| passes(v, m))
                    .map(|(v, _)| v),
            );
        }
        start += LANES as u32;
    }
    found.extend(
        (start..)
            .zip(rest)
            .filter(|&(v, &m)| passes(v, m))
            .map(|(v, _)| v),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Secret;
    use proptest::prelude::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let want = libm::exp(f64::from(x));
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 3e-7, "exp({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-90.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    proptest! {
        /// Whichever version the machine picks, the bits are those of the portable one.
        #[test]
        fn wide_and_portable_agree(logits in prop::collection::vec(-40f32..40.0, 0..3000), seed: u64) {
            let top = max(&logits);
            prop_assert_eq!(top, max_generic(&logits));
            let (mut a, mut b) = (vec![0.0; logits.len()], vec![0.0; logits.len()]);
            let total = exp_sum(&logits, top, 0.7, &mut a);
            prop_assert_eq!(total.to_bits(), exp_sum_generic(&logits, top, 0.7, &mut b).to_bits());
            prop_assert_eq!(&a, &b);
            prop_assert_eq!(exp_total(&logits, top, 0.7).to_bits(), total.to_bits());
            let key = Secret::from_seed(seed, 0).key(0);
            let (mut x, mut y) = (Vec::new(), Vec::new());
            may_pass(&a, key, 16.0, &mut x);
            may_pass_generic(&a, key, 16.0, &mut y);
            prop_assert_eq!(&x, &y);
            x.clear();
            at_least(&a, 0.01, &mut x);
            let want: Vec<Token> = (0..).zip(&a).filter(|(_, m)| **m >= 0.01).map(|(v, _)| v).collect();
            prop_assert_eq!(x, want);
        }

        /// The filter may let through too much, never too little.
        #[test]
        fn the_filter_misses_nothing(masses in prop::collection::vec(0f32..1.0, 1..500), seed: u64, x in 1e-3f32..32.0) {
            let key = Secret::from_seed(seed, 0).key(1);
            let mut found = Vec::new();
            may_pass(&masses, key, x, &mut found);
            for (v, &mass) in (0u32..).zip(&masses) {
                if key.exponential(v) <= f64::from(mass * x) {
                    prop_assert!(found.contains(&v));
                }
            }
        }
    }
}
