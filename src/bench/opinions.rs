//! From a row of logits to an opinion, on made-up logits of two vocabularies' sizes.

use super::SoloReport;
use quorate_core::distribution::{Distribution, History};
use quorate_core::law::{ListLaw, Transforms};
use quorate_core::opinion::{Query, Want};
use quorate_core::seeded::Secret;
use std::hint::black_box;
use std::time::Instant;

const SMOLLM: usize = 49_152;
const LLAMA_3: usize = 128_256;
const ROUNDS: usize = 400;

pub(super) fn measure(report: &mut SoloReport) {
    report.opinion_us = plain_us(SMOLLM);
    report.opinion_us_128k = plain_us(LLAMA_3);
    report.perturbed_us = perturbed_us(SMOLLM);
    report.perturbed_us_128k = perturbed_us(LLAMA_3);
}

/// Top 256 and ten exact scalars.
fn plain_us(vocab: usize) -> f64 {
    let scalars = Query {
        want: Want::Scalars((0..10).map(|i| i * 997).collect()),
        ..Query::plain(0.0, 0)
    };
    let queries = [Query::plain(0.999, 256), scalars];
    median_us(vocab, |_| queries.clone().into())
}

fn perturbed_us(vocab: usize) -> f64 {
    let secret = Secret::from_seed(1, 0);
    let tau = ListLaw::default().tau;
    median_us(vocab, |round| {
        vec![Query::perturbed(secret.key(round as u32), tau)]
    })
}

fn median_us(vocab: usize, queries: impl Fn(usize) -> Vec<Query>) -> f64 {
    let history = History {
        tokens: &[],
        prompt: 0,
    };
    let rows: Vec<Vec<f32>> = (0..8).map(|seed| logits(seed, vocab)).collect();
    let mut distribution = Distribution::new();
    let mut times: Vec<f64> = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let (row, queries) = (&rows[round % rows.len()], queries(round));
        let begun = Instant::now();
        let measured = distribution.measure(row, &Transforms::NEUTRAL, history, false);
        black_box(measured.is_ok());
        for query in &queries {
            black_box(distribution.answer(query));
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// Normal logits with a standard deviation of 2.5 and a few favourites: a flat, long-tailed
/// distribution, in which the list is as long as it may be.
fn logits(seed: u32, vocab: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32
    };
    let normal = |_| 2.5 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0);
    let mut row: Vec<f32> = (0..vocab).map(normal).collect();
    for favourite in 0..20 {
        row[favourite * 1_777] += 8.0;
    }
    row
}
