//! Experts that do not say what they compute.

use super::Dice;
use super::table::VOCAB;
use crate::limits::LIST_ENTRIES_MAX;
use crate::lnp::LnP;
use crate::opinion::{Entry, ExpertEvent, ExpertFailure, ExpertOp, List, Opinion, Said};

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// Probabilities that sum to more than one.
    Mass,
    /// The same token twice.
    Twice,
    /// A token that no vocabulary has.
    Outside,
    /// More entries than a list may have.
    Long,
    /// A bound that is no number, or a negative one.
    Bound,
    /// A list without entries that excludes nothing: whoever believes it asks for ever.
    Empty,
    /// About another position.
    Elsewhere,
    /// Exact values where a list was asked for, and the other way round.
    Kind,
    /// All its mass on one token.
    Biased,
    /// Of another epoch.
    Epoch,
    /// That it computed in no time, or for ever.
    Speed,
    /// Nothing at all.
    Silent,
    /// That it has no room.
    Busy,
}

const LIES: [Lie; 13] = [
    Lie::Mass,
    Lie::Twice,
    Lie::Outside,
    Lie::Long,
    Lie::Bound,
    Lie::Empty,
    Lie::Elsewhere,
    Lie::Kind,
    Lie::Biased,
    Lie::Epoch,
    Lie::Speed,
    Lie::Silent,
    Lie::Busy,
];

/// It tells one lie, now and then.
pub(super) struct Liar {
    pub(super) lie: Lie,
    dice: Dice,
    percent: u64,
}

impl Liar {
    pub(super) fn new(seed: u64) -> Liar {
        let mut dice = Dice(seed);
        let lie = LIES[dice.below(LIES.len() as u64) as usize];
        Liar {
            lie,
            percent: [5, 30, 100][dice.below(3) as usize],
            dice,
        }
    }

    /// What it says instead of the truth.
    pub(super) fn instead(&mut self, op: &ExpertOp, events: Vec<ExpertEvent>) -> Vec<ExpertEvent> {
        let is_question = matches!(
            op,
            ExpertOp::Draft { .. }
                | ExpertOp::Lead { .. }
                | ExpertOp::Branch { .. }
                | ExpertOp::Ask { .. }
        );
        if !is_question || events.is_empty() || !self.dice.percent(self.percent) {
            return events;
        }
        match self.lie {
            Lie::Silent => Vec::new(),
            Lie::Busy => {
                let (session, retry_ms) = (op.session(), 1 + self.dice.below(5_000) as u32);
                let why = ExpertFailure::Busy { retry_ms };
                vec![ExpertEvent::Failed { session, why }]
            }
            _ => events.into_iter().map(|event| self.bent(event)).collect(),
        }
    }

    fn bent(&mut self, event: ExpertEvent) -> ExpertEvent {
        let ExpertEvent::Opinions {
            session,
            mut epoch,
            mut opinions,
            mut compute_us,
            bytes,
        } = event
        else {
            return event;
        };
        match self.lie {
            Lie::Epoch => epoch = 7,
            Lie::Speed => compute_us = if self.dice.percent(50) { 0 } else { u64::MAX },
            _ => opinions.iter_mut().for_each(|opinion| self.bend(opinion)),
        }
        ExpertEvent::Opinions {
            session,
            epoch,
            opinions,
            compute_us,
            bytes,
        }
    }

    fn bend(&mut self, opinion: &mut Opinion) {
        let certain = |token| Entry {
            token,
            ln_p: LnP::CERTAIN,
        };
        if self.lie == Lie::Elsewhere {
            opinion.position = opinion.position.wrapping_add(1 + self.dice.below(3) as u32);
            return;
        }
        if self.lie == Lie::Kind {
            opinion.said = match opinion.said {
                Said::List(_) => Said::Scalars(vec![LnP::CERTAIN; 3]),
                Said::Scalars(_) => Said::List(List::default()),
            };
            return;
        }
        let Said::List(list) = &mut opinion.said else {
            return;
        };
        match self.lie {
            Lie::Mass => list.entries = (1..4).map(certain).collect(),
            Lie::Twice => list.entries = vec![certain(1); 2],
            Lie::Outside => list.entries = vec![certain(VOCAB)],
            Lie::Long => {
                let tiny = LnP::floor(-20.0);
                let all = 0..=u32::from(LIST_ENTRIES_MAX);
                list.entries = all.map(|token| Entry { token, ln_p: tiny }).collect();
            }
            Lie::Bound => {
                list.bound = [f64::NAN, f64::INFINITY, -1.0][self.dice.below(3) as usize];
            }
            Lie::Empty => list.entries.clear(),
            _ => list.entries = vec![certain(17)],
        }
    }
}
