//! Noise of whole numbers: the discrete Gaussian, of which P(x) is as exp(-x²/2σ²). Real-valued noise would leak by
//! how it is rounded.

use super::own::FORGETS;
use super::topic::UNIT;

/// What one request moves of all sums, as a length: its gains by 1 and its topic by 1, in requests.
pub(super) const MOVES: f64 = std::f64::consts::SQRT_2;
/// Standard deviations for each of those: 1/(2 · 4.6²) of zero-concentrated privacy, which is (1, 10^-6) for one
/// request (`noise_is_what_the_page_says` computes it).
pub(super) const NOISE: f64 = 4.6;
/// In requests.
pub(super) const SIGMA: f64 = NOISE * MOVES;
/// Beyond so many standard deviations there is nothing: e^-72.
const REACH: f64 = 12.0;

/// Of sums to which noise was added so often, in requests: what is forgotten takes its noise along.
pub(super) fn variance(closes: u16) -> f64 {
    let stays = 1.0 - 1.0 / FORGETS as f64;
    let part = 1.0 - libm::pow(stays * stays, f64::from(closes));
    SIGMA * SIGMA * part / (1.0 - stays * stays)
}

/// A sequence of draws from 32 bytes that nobody else knows.
pub struct Noise {
    stream: blake3::OutputReader,
    /// P(|x| <= index), in 2^-63.
    below: Vec<u64>,
}

impl Noise {
    pub fn new(secret: &[u8; 32]) -> Noise {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 noise of the gate");
        hasher.update(secret);
        let sigma = SIGMA * UNIT as f64;
        let mass = |x: usize| {
            let x = x as f64 / sigma;
            libm::exp(-x * x / 2.0)
        };
        let both = |x: usize| if x == 0 { 1.0 } else { 2.0 * mass(x) };
        let reach = (sigma * REACH) as usize;
        // The small ones first.
        let total: f64 = (0..=reach).rev().map(both).sum();
        let mut sum = 0.0;
        let mut below: Vec<u64> = (0..=reach)
            .map(|x| {
                sum += both(x) / total;
                (sum.min(1.0) * (1u64 << 63) as f64) as u64
            })
            .collect();
        if let Some(last) = below.last_mut() {
            *last = 1 << 63;
        }
        let stream = hasher.finalize_xof();
        Noise { stream, below }
    }

    pub(super) fn draw(&mut self) -> i64 {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        let drawn = u64::from_le_bytes(bytes);
        let size = self.below.partition_point(|below| *below <= drawn >> 1) as i64;
        if drawn & 1 == 0 { size } else { -size }
    }
}
