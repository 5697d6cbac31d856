//! Which experts a request turns to, in which order and at which weights. Learned weights come in
//! here; until then everybody weighs the same.

use crate::ids::{ExpertId, Fingerprint, Micros, SessionId};
use crate::limits::CANDIDATES_MAX;
use crate::roster::{Known, Roster};
use crate::team::Candidate;

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

/// Best first: the local one, then by how quick they are, in classes a factor of two wide; within a
/// class by a hash of session and expert, so that routers spread over equals.
pub fn candidates(roster: &Roster, now: Micros, wanted: &Wanted) -> Vec<Candidate> {
    let fits = |known: &&Known| {
        let facts = &known.facts;
        let asked = facts.peer.is_some() || Some(facts.expert) == wanted.local;
        let trusted = facts.admitted || !wanted.keys;
        asked && trusted && facts.vocabulary == wanted.vocabulary && facts.context >= wanted.context
    };
    let mut fit: Vec<&Known> = roster
        .iter()
        .filter(fits)
        .filter(|known| known.busy_until <= now)
        .collect();
    fit.sort_by_cached_key(|known| {
        let remote = known.facts.peer.is_some();
        let suspect = known.suspect_until > now;
        let pace_us = known.pace.p50_us().unwrap_or(UNKNOWN_US);
        let class = (pace_us | 1).ilog2();
        (
            remote,
            suspect,
            class,
            lot(wanted.session, known.facts.expert),
        )
    });
    fit.truncate(CANDIDATES_MAX);
    fit.into_iter()
        .map(|known| Candidate {
            expert: known.facts.expert,
            weight: 1.0,
            local: known.facts.peer.is_none(),
            pace: known.pace.clone(),
        })
        .collect()
}

fn lot(session: SessionId, expert: ExpertId) -> [u8; 32] {
    *blake3::keyed_hash(&expert.0, &session.0.to_le_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Trouble;
    use crate::roster::Introduced;
    use crate::team::Answered;
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
        let picked = candidates(roster, Micros(10), wanted);
        picked.iter().map(|c| c.expert.0[0]).collect()
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
