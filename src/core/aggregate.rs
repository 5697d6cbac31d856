//! From opinions to a token: the mixture r(v) = sum_k w_k p_k(v), decided without ever seeing a whole
//! distribution. Pure functions; voices come in expert-id order, so that arrival order cannot move
//! a bit of any sum.

use crate::ids::Token;
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::List;
use crate::seeded::PositionKey;
use std::collections::BTreeMap;

/// One expert's list at a position, with its weight in the mixture.
#[derive(Clone, Copy, Debug)]
pub struct Voice<'a> {
    pub weight: f64,
    pub list: &'a List,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Token(Token),
    /// The lists do not decide: the exact values of these tokens do.
    Contenders(Vec<Token>),
    /// The lists do not decide, and the winner may be on none of them: ask again with this tau.
    Lower(f64),
    /// Nobody gives any (allowed) token any mass.
    NoMass,
    /// What is still to come may change the choice.
    Wait,
}

/// A lead over an upper bound smaller than this, relatively, is asked and not decided.
const LEAD: f64 = 1e-9;

/// What is known of one token's score: it lies in [partial, partial + slack].
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Sum of w_k p_k over the experts that list the token.
    partial: f64,
    /// Sum of w_k bound_k over those that do not: in units of p/E, so independent of E.
    slack: f64,
}

/// The seeded choice argmax_v r(v)/E_v from perturbed lists, exact over the full vocabulary.
pub fn seeded(key: PositionKey, voices: &[Voice<'_>]) -> Verdict {
    let mut known: BTreeMap<Token, Known> = BTreeMap::new();
    for entry in voices.iter().flat_map(|v| &v.list.entries) {
        known.entry(entry.token).or_default();
    }
    let mut unlisted = 0.0;
    for voice in voices {
        unlisted += voice.weight * voice.list.bound;
        for (&token, known) in &mut known {
            match voice.list.ln_p(token) {
                Some(ln_p) => known.partial += voice.weight * ln_p.p(),
                None => known.slack += voice.weight * voice.list.bound,
            }
        }
    }
    for (&token, known) in &mut known {
        known.partial /= key.exponential(token);
    }
    let Some((leader, best)) = leader(known.iter().map(|(&v, k)| (v, k.partial))) else {
        return if unlisted > 0.0 {
            Verdict::Lower(lower(voices))
        } else {
            Verdict::NoMass
        };
    };
    if unlisted > 0.0 && best <= unlisted * (1.0 + LEAD) {
        return Verdict::Lower(lower(voices));
    }
    // The leader's own slack only makes it lead more; a rival without slack is known exactly, and
    // `leader` has compared it already.
    let may_win = |k: &Known| k.slack > 0.0 && best <= (k.partial + k.slack) * (1.0 + LEAD);
    let rivals: Vec<Token> = known
        .iter()
        .filter(|(v, k)| **v != leader && may_win(k))
        .map(|(v, _)| *v)
        .collect();
    if rivals.is_empty() {
        return Verdict::Token(leader);
    }
    let mut contenders = rivals;
    let at = contenders.partition_point(|v| *v < leader);
    contenders.insert(at, leader);
    Verdict::Contenders(contenders)
}

/// The choice among contenders whose exact values every voice has said (in the contenders' order).
pub fn seeded_exact(key: PositionKey, contenders: &[Token], said: &[(f64, &[LnP])]) -> Verdict {
    let scores = contenders.iter().enumerate().map(|(i, &token)| {
        let r: f64 = said
            .iter()
            .map(|(w, values)| w * values.get(i).map_or(0.0, |l| l.p()))
            .sum();
        (token, r / key.exponential(token))
    });
    leader(scores)
        .filter(|(_, score)| *score > 0.0)
        .map_or(Verdict::NoMass, |(v, _)| Verdict::Token(v))
}

/// The last resort of a grammar: every allowed token has the same, vanishing mass.
pub fn among(mask: &Mask, key: Option<PositionKey>) -> Option<Token> {
    match key {
        Some(key) => leader(mask.tokens().map(|v| (v, 1.0 / key.exponential(v)))).map(|(v, _)| v),
        None => mask.tokens().next(),
    }
}

/// Highest score; ties go to the lower id (ids come in rising order).
pub(crate) fn leader(scores: impl Iterator<Item = (Token, f64)>) -> Option<(Token, f64)> {
    scores.fold(None, |best, (token, score)| match best {
        Some((_, top)) if score <= top => best,
        _ => Some((token, score)),
    })
}

fn lower(voices: &[Voice<'_>]) -> f64 {
    let least = voices
        .iter()
        .map(|v| v.list.bound)
        .filter(|b| *b > 0.0)
        .fold(1.0, f64::min);
    least / 16.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{Distribution, History};
    use crate::law::Transforms;
    use crate::opinion::{Query, Said, Want};
    use crate::plain::greedy;
    use crate::seeded::Secret;
    use proptest::prelude::*;

    fn measure(logits: &[f32]) -> Distribution {
        let mut d = Distribution::new();
        d.measure(
            logits,
            &Transforms::NEUTRAL,
            History {
                tokens: &[],
                prompt: 0,
            },
            false,
        )
        .unwrap();
        d
    }

    fn list(d: &Distribution, query: &Query) -> List {
        match d.answer(query).0 {
            Said::List(list) => list,
            Said::Scalars(_) => panic!("asked for a list"),
        }
    }

    fn scalars(d: &Distribution, tokens: Vec<Token>) -> Vec<LnP> {
        match d
            .answer(&Query {
                want: Want::Scalars(tokens),
                ..Query::plain(1.0, 1)
            })
            .0
        {
            Said::Scalars(values) => values,
            Said::List(_) => panic!("asked for scalars"),
        }
    }

    /// Runs the whole protocol at one position, as a router does.
    fn decide(key: PositionKey, experts: &[(f64, Distribution)], tau: f64) -> (Token, usize) {
        let mut tau = tau;
        for questions in 1..40 {
            let lists: Vec<List> = experts
                .iter()
                .map(|(_, d)| list(d, &Query::perturbed(key, tau)))
                .collect();
            let voices: Vec<Voice<'_>> = experts
                .iter()
                .zip(&lists)
                .map(|((weight, _), list)| Voice {
                    weight: *weight,
                    list,
                })
                .collect();
            match seeded(key, &voices) {
                Verdict::Token(token) => return (token, questions),
                Verdict::Lower(lower) => tau = lower,
                Verdict::NoMass => panic!("no mass"),
                Verdict::Contenders(contenders) => {
                    let said: Vec<Vec<LnP>> = experts
                        .iter()
                        .map(|(_, d)| scalars(d, contenders.clone()))
                        .collect();
                    let said: Vec<(f64, &[LnP])> = experts
                        .iter()
                        .zip(&said)
                        .map(|((w, _), s)| (*w, &s[..]))
                        .collect();
                    match seeded_exact(key, &contenders, &said) {
                        Verdict::Token(token) => return (token, questions + 1),
                        other => panic!("{other:?}"),
                    }
                }
                Verdict::Wait => panic!("every list is here"),
            }
        }
        panic!("undecided")
    }

    proptest! {
        /// Over the full vocabulary, in f64, in one sum: what the sparse protocol must reproduce.
        #[test]
        fn sparse_opinions_decide_exactly(
            seed: u64, tau in 0.02f64..0.4, size in 2usize..400,
            weights in prop::collection::vec(0.01f64..1.0, 1..6), spread in 0.5f32..8.0,
        ) {
            let key = Secret::from_seed(seed, 0).key(9);
            let total: f64 = weights.iter().sum();
            let experts: Vec<(f64, Distribution)> = weights.iter().enumerate().map(|(k, w)| {
                let source = Secret::from_seed(seed, 1).key(k as u32);
                let logits: Vec<f32> = (0..size as u32).map(|v| source.exponential(v) as f32 * spread).collect();
                (w / total, measure(&logits))
            }).collect();
            let all: Vec<Token> = (0..size as u32).collect();
            let said: Vec<Vec<LnP>> = experts.iter().map(|(_, d)| scalars(d, all.clone())).collect();
            let said: Vec<(f64, &[LnP])> = experts.iter().zip(&said).map(|((w, _), s)| (*w, &s[..])).collect();
            let Verdict::Token(want) = seeded_exact(key, &all, &said) else { panic!() };
            prop_assert_eq!(decide(key, &experts, tau).0, want);
        }

        #[test]
        fn greedy_is_the_top_of_the_sum(seed: u64, size in 2u32..200) {
            let source = Secret::from_seed(seed, 0);
            let experts: Vec<Distribution> = (0..3).map(|k| {
                measure(&(0..size).map(|v| source.key(k).exponential(v) as f32).collect::<Vec<_>>())
            }).collect();
            let lists: Vec<List> = experts.iter().map(|d| list(d, &Query::plain(1.0, 256))).collect();
            let voices: Vec<Voice<'_>> = lists.iter().map(|list| Voice { weight: 1.0 / 3.0, list }).collect();
            let Verdict::Token(got) = greedy(&voices, 0.0) else { panic!() };
            let r = |v: Token| lists.iter().map(|l| l.ln_p(v).map_or(0.0, |p| p.p()) / 3.0).sum::<f64>();
            prop_assert!((0..size).all(|v| r(v) <= r(got) + 1e-12));
        }
    }

    /// The share of each token over many seeds is its share in the mixture.
    #[test]
    fn the_seeded_law_samples_the_mixture() {
        let a = measure(&[3.0, 1.0, 0.0, -1.0, 0.5]);
        let b = measure(&[-1.0, 2.0, 0.0, 2.0, 0.5]);
        let experts = [(0.7, a), (0.3, b)];
        let draws = 40_000;
        let mut count = [0u32; 5];
        for seed in 0..draws {
            let key = Secret::from_seed(seed, 0).key(0);
            count[decide(key, &experts, 1.0 / 16.0).0 as usize] += 1;
        }
        let p = |d: &Distribution, v| scalars(d, vec![v])[0].p();
        let chi: f64 = (0..5u32)
            .map(|v| {
                let want = (0.7 * p(&experts[0].1, v) + 0.3 * p(&experts[1].1, v)) * draws as f64;
                let off = f64::from(count[v as usize]) - want;
                off * off / want
            })
            .sum();
        assert!(chi < 18.5, "chi-square {chi} with 4 degrees of freedom"); // p = 0.001
    }

    #[test]
    fn nothing_said_is_no_mass_and_ties_go_to_the_lower_id() {
        let key = Secret::from_seed(0, 0).key(0);
        let empty = List::default();
        assert_eq!(
            seeded(
                key,
                &[Voice {
                    weight: 1.0,
                    list: &empty
                }]
            ),
            Verdict::NoMass
        );
        assert_eq!(
            greedy(
                &[Voice {
                    weight: 1.0,
                    list: &empty
                }],
                0.0
            ),
            Verdict::NoMass
        );
        let flat = measure(&[1.0; 50]);
        let list = list(&flat, &Query::plain(1.0, 256));
        assert_eq!(
            greedy(
                &[Voice {
                    weight: 1.0,
                    list: &list
                }],
                0.0
            ),
            Verdict::Token(0)
        );
        let mask = Mask::new(vec![0b11_0000], 50);
        assert_eq!(among(&mask, None), Some(4));
        assert!(among(&mask, Some(key)).is_some_and(|v| mask.allows(v)));
    }
}
