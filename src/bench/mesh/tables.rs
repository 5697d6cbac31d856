//! Experts that are tables: Zipf's law over a vocabulary, each with favourites of its own, so that
//! they half agree. Their rows depend on the position alone.

use super::super::panel::Ask;
use quorate_core::distribution::{Distribution, History};
use quorate_core::ids::{ExpertId, Position};
use quorate_core::law::Transforms;
use quorate_core::opinion::{ExpertEvent, ExpertOp, Opinion, Query};
use quorate_core::vocab::{Piece, Vocab};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Tables {
    /// ln of a rank, computed once.
    logs: Vec<f32>,
    rows: BTreeMap<ExpertId, Row>,
}

struct Row {
    /// Positions that it has read.
    length: u32,
    /// The position whose row it has.
    at: Option<Position>,
    distribution: Distribution,
}

impl Tables {
    pub(super) fn new(vocab: u32) -> Tables {
        Tables {
            logs: (1..=vocab).map(|rank| (rank as f32).ln()).collect(),
            rows: BTreeMap::new(),
        }
    }

    /// Pieces that no text needs to show.
    pub(super) fn vocab(&self) -> Arc<Vocab> {
        let piece = |_| Piece {
            bytes: vec![b'.'],
            control: false,
            ends: false,
        };
        Arc::new(Vocab::new(self.logs.iter().map(piece)))
    }

    pub(super) fn experts(count: u8) -> Vec<ExpertId> {
        (1..=count).map(|name| ExpertId([name; 32])).collect()
    }

    pub(super) fn asker(&mut self) -> Box<Ask<'_>> {
        Box::new(|expert, op| Ok(self.carry_out(expert, op)))
    }

    fn carry_out(&mut self, expert: ExpertId, op: ExpertOp) -> Option<ExpertEvent> {
        let (session, position, query) = match op {
            ExpertOp::Open(open) => {
                let row = Row {
                    length: open.prompt.len() as u32,
                    at: None,
                    distribution: Distribution::new(),
                };
                self.rows.insert(expert, row);
                return None;
            }
            ExpertOp::Draft {
                session,
                tokens,
                queries,
                ..
            } => {
                let row = self.rows.get_mut(&expert)?;
                row.length += tokens.len() as u32;
                (session, row.length, queries.into_iter().next()?)
            }
            ExpertOp::Ask {
                session,
                position,
                query,
                ..
            } => (session, position, query),
            // Nobody guesses ahead of tables.
            ExpertOp::Lead { .. }
            | ExpertOp::Branch { .. }
            | ExpertOp::Settle { .. }
            | ExpertOp::Forget { .. }
            | ExpertOp::Truncate { .. }
            | ExpertOp::Close { .. } => {
                return None;
            }
        };
        Some(ExpertEvent::Opinions {
            session,
            epoch: 0,
            opinions: vec![self.opinion(expert, position, &query)?],
            // What a real one says of its time: a number of the usual length.
            compute_us: 12_000,
            bytes: 0,
        })
    }

    fn opinion(&mut self, expert: ExpertId, position: Position, query: &Query) -> Option<Opinion> {
        let row = self.rows.get_mut(&expert)?;
        if row.at != Some(position) {
            let history = History {
                tokens: &[],
                prompt: 0,
            };
            let logits = logits(&self.logs, expert.0[0], position);
            let measured = row
                .distribution
                .measure(&logits, &Transforms::NEUTRAL, history, false);
            measured.ok()?;
            row.at = Some(position);
        }
        let (said, raw) = row.distribution.answer(query);
        Some(Opinion {
            position,
            said,
            raw,
            scored: Vec::new(),
        })
    }
}

/// A slope between sharp and flat for each position; ranks that all share, moved by each expert.
fn logits(logs: &[f32], name: u8, position: Position) -> Vec<f32> {
    let slope = 1.0 + (position % 12) as f32 / 4.0;
    let vocab = logs.len() as u32;
    let shift = mix(position, 0);
    let own = u32::from(name);
    (0..vocab)
        .map(|v| {
            let rank = v.wrapping_mul(0x9E37_79B1).wrapping_add(shift) % vocab;
            // Up to e^2 more or less likely than the others think.
            let opinion = (mix(v ^ shift, own) >> 16) as f32 / 16_384.0 - 2.0;
            opinion - slope * logs[rank as usize]
        })
        .collect()
}

fn mix(a: u32, b: u32) -> u32 {
    let mut h = a.wrapping_mul(0x85EB_CA6B) ^ b.wrapping_mul(0xC2B2_AE35);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2C1B_3C6D);
    h ^ h >> 13
}
