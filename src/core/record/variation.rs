//! Do the experts of a response differ? What equals decide together shows nothing.

use super::Recording;
use crate::ids::Token;
use crate::opinion::{List, Said};
use std::collections::BTreeMap;

/// Experts that are closer than this do not differ.
pub const VARIATION_MIN: f64 = 0.1;

impl Recording {
    /// Mean total variation between each two experts that said a list about the same position. None if no two did, or
    /// if the lists are perturbed: those leave out what their key makes dear, whatever its probability.
    pub fn variation(&self) -> Option<f64> {
        if self.law.sampler == crate::law::Sampler::Seeded {
            return None;
        }
        let (mut sum, mut pairs) = (0.0, 0_u32);
        for decided in &self.decided {
            let lists = decided
                .answers
                .iter()
                .filter_map(|(_, _, said)| match said {
                    Said::List(list) => Some(list),
                    Said::Scalars(_) => None,
                });
            let lists: Vec<&List> = lists.collect();
            for (n, one) in lists.iter().enumerate() {
                for other in &lists[n + 1..] {
                    sum += apart(one, other);
                    pairs += 1;
                }
            }
        }
        (pairs > 0).then(|| sum / f64::from(pairs))
    }
}

/// Half of the sum of all differences; what is not listed has nothing.
fn apart(one: &List, other: &List) -> f64 {
    let mut differences: BTreeMap<Token, f64> = BTreeMap::new();
    for (list, sign) in [(one, 1.0), (other, -1.0)] {
        for entry in &list.entries {
            *differences.entry(entry.token).or_default() += sign * entry.ln_p.p();
        }
    }
    differences.values().map(|d| d.abs()).sum::<f64>() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Decided;
    use crate::ids::ExpertId;
    use crate::law::{Law, ListLaw, Transforms};
    use crate::lnp::LnP;
    use crate::opinion::Entry;

    fn recording(said: &[&[(Token, f64)]]) -> Recording {
        let list = |entries: &[(Token, f64)]| {
            let entries = entries.iter().map(|&(token, p)| Entry {
                token,
                ln_p: LnP::floor(libm::log(p)),
            });
            Said::List(List {
                entries: entries.collect(),
                bound: 0.0,
            })
        };
        let answers = (0..).zip(said);
        let answers = answers.map(|(n, entries)| (0, ExpertId([n; 32]), list(entries)));
        let greedy = Transforms {
            temperature: 0.0,
            ..Transforms::NEUTRAL
        };
        Recording {
            prompt: vec![1],
            law: Law::new(greedy, ListLaw::default()).unwrap(),
            secret: [0; 32],
            max_tokens: 1,
            stop: vec![],
            context: 8,
            grammar: false,
            logprobs: false,
            local: None,
            schedule: vec![],
            decided: vec![Decided {
                position: 1,
                token: 1,
                mask: None,
                answers: answers.collect(),
                weighed: None,
            }],
            vocabulary: 8,
            pieces: vec![],
            text: String::new(),
        }
    }

    #[test]
    fn equals_do_not_differ_and_strangers_do() {
        let near = |got: Option<f64>, want: f64| (got.unwrap() - want).abs() < 0.002;
        let one: &[(Token, f64)] = &[(1, 0.75), (2, 0.25)];
        assert_eq!(recording(&[one, one]).variation(), Some(0.0));
        assert!(near(
            recording(&[one, &[(3, 0.5), (4, 0.5)]]).variation(),
            1.0
        ));
        assert!(near(
            recording(&[one, &[(1, 0.5), (2, 0.5)]]).variation(),
            0.25
        ));
        assert_eq!(recording(&[one]).variation(), None);
        let mut keyed = recording(&[one, one]);
        keyed.law.sampler = crate::law::Sampler::Seeded;
        assert_eq!(keyed.variation(), None);
    }
}
