//! What sparse opinions cost and what they keep: bytes on the wire, second questions, choices
//! against the whole vocabulary, and the mass that plain lists leave out.

use super::super::panel::{Ask, Text, Watch, beside};
use super::super::{BenchError, Result};
use crate::wire::plane::event_frame;
use quorate_core::aggregate::{Verdict, seeded_exact};
use quorate_core::ids::{ExpertId, Position, SessionId, Token};
use quorate_core::law::ListLaw;
use quorate_core::lnp::LnP;
use quorate_core::opinion::{ExpertEvent, Opinion, Query, Said, Want};
use quorate_core::seeded::Secret;
use std::collections::BTreeMap;

/// Lengths of plain lists, for the mass that they leave out.
const LENGTHS: [usize; 5] = [32, 64, 128, 256, 512];

/// What one position is compared with.
pub(super) struct Lists {
    session: SessionId,
    secret: Secret,
    experts: Vec<ExpertId>,
    whole: Vec<Token>,
    /// Also measure plain lists and how much the experts differ.
    plain: bool,
    expected: Option<Token>,
    answers_here: usize,
    pub(super) tally: Tally,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) positions: u64,
    pub(super) wrong: u64,
    pub(super) asked_again: u64,
    /// Positions of the plain measurements.
    plain_positions: u64,
    /// Of all questions of a position together, for one expert.
    bytes: Vec<u32>,
    bytes_plain: Vec<u32>,
    tail: BTreeMap<usize, f64>,
    divergence: BTreeMap<usize, f64>,
    variation: f64,
}

impl Lists {
    pub(super) fn new(text: &Text, plain: bool, tally: Tally) -> Lists {
        Lists {
            session: text.session,
            secret: text.secret(),
            experts: text.experts.clone(),
            whole: (0..text.vocab.len()).collect(),
            plain,
            expected: None,
            answers_here: 0,
            tally,
        }
    }

    fn ask_all(
        &self,
        position: Position,
        query: &Query,
        ask: &mut Ask<'_>,
    ) -> Result<Vec<Opinion>> {
        let mut all = Vec::new();
        for expert in &self.experts {
            let event = ask(*expert, beside(self.session, position, query.clone()))?;
            let Some(ExpertEvent::Opinions { mut opinions, .. }) = event else {
                return Err(BenchError::new("lists", "an expert did not answer"));
            };
            all.extend(opinions.pop());
        }
        Ok(all)
    }
}

impl Watch for Lists {
    fn asked(&mut self, position: Position, ask: &mut Ask<'_>) -> Result<()> {
        self.answers_here = 0;
        let everything = Query {
            want: Want::Scalars(self.whole.clone()),
            ..Query::plain(0.0, 0)
        };
        let said = self.ask_all(position, &everything, ask)?;
        let rows: Vec<&[LnP]> = said
            .iter()
            .filter_map(|opinion| match &opinion.said {
                Said::Scalars(values) => Some(values.as_slice()),
                Said::List(_) => None,
            })
            .collect();
        let weight = 1.0 / rows.len() as f64;
        let voices: Vec<(f64, &[LnP])> = rows.iter().map(|row| (weight, *row)).collect();
        let key = self.secret.key(position);
        self.expected = match seeded_exact(key, &self.whole, &voices) {
            Verdict::Token(token) => Some(token),
            _ => None,
        };
        if self.plain {
            let rows: Vec<Vec<f64>> = rows
                .iter()
                .map(|row| row.iter().map(|ln_p| ln_p.p()).collect())
                .collect();
            self.tally.compare(&rows);
            let law = ListLaw::default();
            let query = Query::plain(law.mass, law.max_entries);
            for opinion in self.ask_all(position, &query, ask)? {
                let bytes = size(&opinions(self.session, opinion))?;
                self.tally.bytes_plain.push(bytes);
            }
        }
        Ok(())
    }

    fn answer(&mut self, event: &ExpertEvent) -> Result<()> {
        let bytes = size(event)?;
        let count = self.experts.len();
        if self.answers_here < count {
            self.tally.bytes.push(bytes);
        } else {
            if self.answers_here == count {
                self.tally.asked_again += 1;
            }
            // The experts answer in one order, every time.
            let at = self.tally.bytes.len() - count + self.answers_here % count;
            self.tally.bytes[at] += bytes;
        }
        self.answers_here += 1;
        Ok(())
    }

    fn decided(&mut self, token: Token) {
        self.tally.positions += 1;
        self.tally.wrong += u64::from(self.expected.take() != Some(token));
    }
}

impl Tally {
    /// Total variation between the experts, and what lists of each length would leave out.
    fn compare(&mut self, rows: &[Vec<f64>]) {
        self.plain_positions += 1;
        let mut pairs = Vec::new();
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[i + 1..] {
                let apart: f64 = a.iter().zip(b).map(|(p, q)| (p - q).abs()).sum();
                pairs.push(apart / 2.0);
            }
        }
        self.variation += pairs.iter().sum::<f64>() / pairs.len().max(1) as f64;
        let ranked: Vec<Vec<usize>> = rows.iter().map(|row| ranks(row)).collect();
        for length in LENGTHS {
            let mut mixture: BTreeMap<usize, f64> = BTreeMap::new();
            let (mut listed, mut whole) = (0.0, 0.0);
            for (row, ranks) in rows.iter().zip(&ranked) {
                whole += row.iter().sum::<f64>();
                for &token in &ranks[..length.min(ranks.len())] {
                    listed += row[token];
                    *mixture.entry(token).or_default() += row[token];
                }
            }
            *self.tail.entry(length).or_default() += 1.0 - listed / whole;
            let apart: f64 = mixture
                .iter()
                .filter(|(_, said)| **said > 0.0)
                .map(|(&token, said)| {
                    let full: f64 = rows.iter().map(|row| row[token]).sum();
                    let said = said / listed;
                    said * (said / (full / whole)).ln()
                })
                .sum();
            *self.divergence.entry(length).or_default() += apart;
        }
    }

    pub(super) fn bytes_max(&self) -> u32 {
        let all = self.bytes.iter().chain(&self.bytes_plain);
        all.copied().max().unwrap_or(0)
    }

    pub(super) fn bytes_mean(&self) -> f64 {
        mean(&self.bytes)
    }

    pub(super) fn bytes_mean_plain(&self) -> f64 {
        mean(&self.bytes_plain)
    }

    pub(super) fn second_ask_pct(&self) -> f64 {
        100.0 * self.asked_again as f64 / self.positions as f64
    }

    pub(super) fn tail_mass(&self) -> BTreeMap<usize, f64> {
        self.per_position(&self.tail)
    }

    pub(super) fn divergence(&self) -> BTreeMap<usize, f64> {
        self.per_position(&self.divergence)
    }

    pub(super) fn variation(&self) -> f64 {
        self.variation / self.plain_positions as f64
    }

    fn per_position(&self, sums: &BTreeMap<usize, f64>) -> BTreeMap<usize, f64> {
        let positions = self.plain_positions as f64;
        sums.iter().map(|(n, sum)| (*n, sum / positions)).collect()
    }
}

/// The most likely tokens, as many as the longest list holds, best first.
fn ranks(row: &[f64]) -> Vec<usize> {
    let most = LENGTHS[LENGTHS.len() - 1].min(row.len());
    let mut order: Vec<usize> = (0..row.len()).collect();
    let better = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]);
    if most < order.len() {
        order.select_nth_unstable_by(most, better);
        order.truncate(most);
    }
    order.sort_by(better);
    order
}

fn mean(bytes: &[u32]) -> f64 {
    bytes.iter().map(|b| f64::from(*b)).sum::<f64>() / bytes.len() as f64
}

fn opinions(session: SessionId, opinion: Opinion) -> ExpertEvent {
    ExpertEvent::Opinions {
        session,
        epoch: 0,
        opinions: vec![opinion],
        compute_us: 12_000,
        bytes: 0,
    }
}

/// Bytes of it as a frame of the token plane, its length counted.
fn size(event: &ExpertEvent) -> Result<u32> {
    let frame = event_frame(event).map_err(|error| BenchError::new("a frame", error))?;
    Ok(frame.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::super::super::panel::decide;
    use super::super::tables::Tables;
    use super::*;

    fn text(tables: &Tables) -> Text {
        Text {
            session: SessionId(1),
            vocab: tables.vocab(),
            experts: Tables::experts(4),
            prompt: vec![1; 5],
            seed: 3,
            tokens: 300,
            temperature: 1.0,
            whole: false,
        }
    }

    #[test]
    fn the_check_agrees_with_the_router_and_would_notice_another_choice() {
        let mut tables = Tables::new(2_000);
        let text = text(&tables);
        let mut lists = Lists::new(&text, true, Tally::default());
        decide(&text, &mut *tables.asker(), &mut lists).unwrap();
        let tally = lists.tally;
        assert_eq!((tally.positions, tally.wrong), (300, 0));
        assert!(tally.asked_again > 0 && tally.second_ask_pct() < 20.0);
        assert!(tally.bytes_max() as usize <= quorate_core::limits::OPINION_BYTES_MAX);
        assert!(tally.bytes_mean() < tally.bytes_mean_plain());
        assert!(
            (0.01..1.0).contains(&tally.variation()),
            "{}",
            tally.variation()
        );
        let tails: Vec<f64> = tally.tail_mass().into_values().collect();
        assert!(tails.windows(2).all(|two| two[0] > two[1]), "{tails:?}");

        let mut other = Lists::new(&text, false, Tally::default());
        other.secret = Secret::from_seed(4, 0);
        decide(&text, &mut *tables.asker(), &mut other).unwrap();
        assert!(other.tally.wrong > 30, "{}", other.tally.wrong);
    }

    #[test]
    fn what_lists_leave_out_is_counted_by_hand() {
        let mut tally = Tally::default();
        let flat = vec![1.0 / 64.0; 64];
        let mut half = vec![0.0; 64];
        half[..32].fill(1.0 / 32.0);
        tally.compare(&[flat, half]);
        assert!((tally.variation() - 0.5).abs() < 1e-12);
        // Half of the flat one is outside of its 32 tokens, and nothing of the other.
        assert!((tally.tail_mass()[&32] - 0.25).abs() < 1e-12);
        assert!(tally.divergence()[&32] > 0.0);
        assert!(tally.tail_mass()[&64].abs() < 1e-12 && tally.divergence()[&64].abs() < 1e-12);
    }
}
