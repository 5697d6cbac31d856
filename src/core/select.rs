//! Which experts a request turns to, in which order and at which weights: those that a learned law sets out from.
//! Without a gate everybody weighs the same.

use crate::audit::Verdict;
use crate::ids::{ExpertId, Fingerprint, Micros, SessionId};
use crate::limits::CANDIDATES_MAX;
use crate::roster::{Known, Roster};
use crate::team::Candidate;
use crate::weights::{Gates, Topic};

/// An expert whose pace is unknown is tried as if it were this quick: else nobody new is ever asked.
const UNKNOWN_US: u64 = 100_000;

/// What a request needs of an expert.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub session: SessionId,
    pub vocabulary: Fingerprint,
    /// Tokens that a session must be able to hold.
    pub context: u32,
    /// The expert of this process, if it has part.
    pub local: Option<ExpertId>,
    /// The law hands out keys, which only admitted experts may have.
    pub keys: bool,
}

/// Best first: the local one, then by how much they are expected to know of the topic, then by how quick they are, both
/// in classes a factor of two wide; within a class by a hash of session and expert, so that routers spread over equals.
pub fn candidates(
    roster: &Roster,
    now: Micros,
    wanted: &Wanted,
    gate: Option<(&Gates, &Topic)>,
) -> Vec<Candidate> {
    let fits = |known: &&Known| {
        let facts = &known.facts;
        let asked = facts.peer.is_some() || Some(facts.expert) == wanted.local;
        let trusted = facts.admitted || !wanted.keys;
        asked
            && trusted
            && known.is_itself()
            && facts.vocabulary == wanted.vocabulary
            && facts.context >= wanted.context
    };
    let fit: Vec<&Known> = roster
        .iter()
        .filter(fits)
        .filter(|known| known.busy_until <= now)
        .collect();
    let priors = |fit: &[&Known]| match gate {
        None => vec![1.0; fit.len()],
        Some((gates, topic)) => {
            let experts: Vec<ExpertId> = fit.iter().map(|known| known.facts.expert).collect();
            gates.prior(wanted.vocabulary, topic, &experts)
        }
    };
    let mut ranked: Vec<(&Known, i32)> = fit
        .iter()
        .copied()
        .zip(priors(&fit))
        .map(|(known, prior)| (known, -libm::floor(libm::log2(prior)) as i32))
        .collect();
    ranked.sort_by_cached_key(|(known, doubt)| {
        let remote = known.facts.peer.is_some();
        let suspect = known.suspect_until > now || known.audit.verdict() == Verdict::Suspect;
        let pace_us = known.pace.p50_us().unwrap_or(UNKNOWN_US);
        let class = (pace_us | 1).ilog2();
        let lot = lot(wanted.session, known.facts.expert);
        (remote, suspect, *doubt, class, lot)
    });
    ranked.truncate(CANDIDATES_MAX);
    let best: Vec<&Known> = ranked.into_iter().map(|(known, _)| known).collect();
    let weights = priors(&best);
    let candidate = |(known, weight): (&Known, f64)| Candidate {
        expert: known.facts.expert,
        weight,
        local: known.facts.peer.is_none(),
        pace: known.pace.clone(),
    };
    best.into_iter().zip(weights).map(candidate).collect()
}

fn lot(session: SessionId, expert: ExpertId) -> [u8; 32] {
    *blake3::keyed_hash(&expert.0, &session.0.to_le_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Trouble;
    use crate::ids::NetworkId;
    use crate::lnp::LnP;
    use crate::roster::Introduced;
    use crate::team::Answered;
    use crate::weights::{Observation, Own};
    use std::collections::BTreeMap;

    fn id(name: u8) -> ExpertId {
        ExpertId([name; 32])
    }

    fn roster(count: u8) -> Roster {
        let mut roster = Roster::default();
        for name in 0..count {
            roster.meet(Introduced {
                expert: id(name),
                peer: (name > 0).then_some([name; 32]),
                vocabulary: Fingerprint([0; 32]),
                context: 100,
                admitted: true,
                file: None,
            });
        }
        roster
    }

    fn wanted(session: u128) -> Wanted {
        Wanted {
            session: SessionId(session),
            vocabulary: Fingerprint([0; 32]),
            context: 100,
            local: Some(id(0)),
            keys: true,
        }
    }

    fn names(roster: &Roster, wanted: &Wanted) -> Vec<u8> {
        let picked = candidates(roster, Micros(10), wanted, None);
        assert!(picked.iter().all(|c| c.weight == 1.0));
        picked.iter().map(|c| c.expert.0[0]).collect()
    }

    /// Of more experts than a request may turn to, the one that has shown that it knows the topic is among them, ahead
    /// of quicker ones, and weighs more; of another topic nothing is known, and nothing changes.
    #[test]
    fn who_knows_the_topic_is_asked_first() {
        let roster = roster(16);
        let text: Vec<u32> = (0..40).map(|n| 1_000 + n * 37).collect();
        let (good, bad) = (vec![LnP::floor(-1.0); 39], vec![LnP::floor(-2.0); 39]);
        let said = [(id(7), &good[..]), (id(8), &bad), (id(9), &bad)];
        let seen = Observation::of(&text, &said).unwrap();
        let mut own = Own::default();
        own.list(1, &[7, 8, 9].map(|name| (Fingerprint([0; 32]), id(name))));
        (0..100).for_each(|_| own.observe(Fingerprint([0; 32]), &seen));
        let gates = Gates::new(NetworkId([0; 32]), [0; 32], own);
        let picked = |text: &[u32]| {
            let topic = Topic::of(text).unwrap();
            let gate = Some((&gates, &topic));
            candidates(&roster, Micros(10), &wanted(3), gate)
        };
        let known = picked(&text);
        let name = |c: &Candidate| c.expert.0[0];
        assert_eq!((name(&known[0]), name(&known[1])), (0, 7));
        assert!(known[1].weight > 0.5, "{}", known[1].weight);
        assert!((known.iter().map(|c| c.weight).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(known.len(), CANDIDATES_MAX);
        let unknown = picked(&(0..40).map(|n| 20_000 + n * n).collect::<Vec<_>>());
        let most = unknown.iter().map(|c| c.weight).fold(0.0, f64::max);
        assert!(most < 0.3, "{most}");
    }

    #[test]
    fn only_those_that_fit_and_the_local_one_first() {
        let roster = roster(5);
        assert_eq!(names(&roster, &wanted(1))[0], 0);
        assert_eq!(names(&roster, &wanted(1)).len(), 5);
        let other = Wanted {
            vocabulary: Fingerprint([1; 32]),
            ..wanted(1)
        };
        assert!(names(&roster, &other).is_empty());
        let mut open = Roster::default();
        for known in roster.iter() {
            open.meet(Introduced {
                admitted: known.facts.peer.is_none(),
                ..known.facts.clone()
            });
        }
        assert_eq!(names(&open, &wanted(1)), [0], "strangers get no keys");
        let plain = Wanted {
            keys: false,
            ..wanted(1)
        };
        assert_eq!(names(&open, &plain).len(), 5);
        let long = Wanted {
            context: 101,
            ..wanted(1)
        };
        assert!(names(&roster, &long).is_empty());
        let without = Wanted {
            local: None,
            ..wanted(1)
        };
        assert!(!names(&roster, &without).contains(&0));
    }

    #[test]
    fn quick_before_slow_before_suspect_and_never_the_busy() {
        let mut roster = roster(6);
        for (name, us) in [(1, 400_000), (2, 20_000), (3, 25_000), (4, 20_000)] {
            let answered = Answered {
                us,
                read: None,
                follows: false,
            };
            roster.heard(id(name), answered, 0, 0);
        }
        roster.failed(Micros(5), id(2), &Trouble::Late);
        roster.failed(Micros(5), id(4), &Trouble::Busy { retry_ms: 1 });
        assert_eq!(names(&roster, &wanted(3)), [0, 3, 5, 1, 2]);
    }

    #[test]
    fn sessions_spread_over_equals() {
        let roster = roster(5);
        let mut firsts: BTreeMap<u8, u32> = BTreeMap::new();
        for session in 0..1000 {
            *firsts
                .entry(names(&roster, &wanted(session))[1])
                .or_default() += 1;
        }
        assert_eq!(firsts.len(), 4);
        assert!(
            firsts.values().all(|n| (200..300).contains(n)),
            "{firsts:?}"
        );
    }
}
