//! What a node knows of every expert that it may ask: facts from whoever introduced it, pace and
//! failures from asking. Speed is never self-declared.

use crate::alarm::{Alarm, Sign, Suspicion};
use crate::audit::{Audit, Gap, Verdict};
use crate::generate::Trouble;
use crate::ids::{ExpertId, Fingerprint, Micros, PeerKey};
use crate::limits::ROSTER_MAX;
use crate::pace::{Pace, after};
use crate::team::Answered;
use std::collections::BTreeMap;

/// An expert that failed is asked last for this long, doubled with every failure in a row.
const SUSPECT_US: u64 = 5_000_000;
const SUSPECT_DOUBLINGS_MAX: u32 = 6;

/// What never changes about an expert while it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduced {
    pub expert: ExpertId,
    /// None: it is in this process.
    pub peer: Option<PeerKey>,
    pub vocabulary: Fingerprint,
    pub context: u32,
    /// Admitted to the mesh: it may know a window's keys.
    pub admitted: bool,
    /// SHA-256 of its model file, if that is all that its opinions come from: then whoever has the file can compute
    /// them again.
    pub file: Option<[u8; 32]>,
}

#[derive(Clone, Debug)]
pub struct Known {
    pub facts: Introduced,
    pub pace: Pace,
    pub answers: u64,
    pub bytes: u64,
    pub compute_us: u64,
    pub failures: u64,
    /// Failures since its last answer.
    pub in_a_row: u32,
    pub last_failure: Option<String>,
    /// It said that it has no room before this.
    pub busy_until: Micros,
    pub suspect_until: Micros,
    /// Whether its lists follow the keys.
    pub alarm: Alarm,
    /// Whether what its node says is what the models say that it names.
    pub audit: Audit,
}

impl Known {
    /// Nothing proves that it computes with another model file than it names.
    pub fn is_itself(&self) -> bool {
        self.audit.verdict() != Verdict::Swapped
    }

    /// Why it should be looked at.
    pub fn suspicion(&self) -> Option<Suspicion> {
        let (nats, positions) = (self.audit.nats(), self.audit.positions());
        match self.audit.verdict() {
            Verdict::Honest => self.alarm.suspicion(),
            Verdict::Suspect => Some(Suspicion::Computed { nats, positions }),
            Verdict::Swapped => Some(Suspicion::Swapped { positions }),
        }
    }
}

#[derive(Debug, Default)]
pub struct Roster {
    known: BTreeMap<ExpertId, Known>,
    /// By node, also while none of its experts is known: under another context, or after a farewell, it would be an
    /// unknown expert. At most ROSTER_MAX, of which one that nothing speaks against makes room.
    audits: BTreeMap<PeerKey, Audit>,
}

impl Roster {
    /// False if there is no room for another one.
    pub fn meet(&mut self, facts: Introduced) -> bool {
        if let Some(known) = self.known.get_mut(&facts.expert) {
            known.facts = facts;
            return true;
        }
        if self.known.len() >= ROSTER_MAX {
            return false;
        }
        let audited = facts.peer.and_then(|peer| self.audits.get(&peer));
        let known = Known {
            facts,
            pace: Pace::default(),
            answers: 0,
            bytes: 0,
            compute_us: 0,
            failures: 0,
            in_a_row: 0,
            last_failure: None,
            busy_until: Micros(0),
            suspect_until: Micros(0),
            alarm: Alarm::default(),
            audit: audited.cloned().unwrap_or_default(),
        };
        self.known.insert(known.facts.expert, known);
        true
    }

    pub fn forget(&mut self, expert: ExpertId) {
        self.known.remove(&expert);
    }

    pub fn get(&self, expert: ExpertId) -> Option<&Known> {
        self.known.get(&expert)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    pub fn heard(&mut self, expert: ExpertId, answered: Answered, compute_us: u64, bytes: u32) {
        let Some(known) = self.known.get_mut(&expert) else {
            return;
        };
        answered.measure(&mut known.pace);
        known.answers += 1;
        known.bytes += u64::from(bytes);
        known.compute_us += compute_us.min(answered.us);
        known.in_a_row = 0;
        known.suspect_until = Micros(0);
    }

    /// The suspicion, when it arises.
    pub fn weighed(&mut self, expert: ExpertId, sign: &Sign) -> Option<Suspicion> {
        let alarm = &mut self.known.get_mut(&expert)?.alarm;
        let before = alarm.suspicion();
        alarm.see(sign);
        alarm.suspicion().filter(|_| before.is_none())
    }

    /// One position of an expert's was computed again. The suspicion, when it arises or grows.
    pub fn audited(&mut self, expert: ExpertId, gap: Gap) -> Option<Suspicion> {
        let peer = self.known.get(&expert)?.facts.peer?;
        if !self.audits.contains_key(&peer) && !self.has_room_for_audits() {
            return None;
        }
        let audit = self.audits.entry(peer).or_default();
        let before = audit.worst();
        audit.see(gap);
        let of_node = |known: &&mut Known| known.facts.peer == Some(peer);
        for known in self.known.values_mut().filter(of_node) {
            known.audit = audit.clone();
        }
        let has_grown = audit.worst() > before;
        self.known.get(&expert)?.suspicion().filter(|_| has_grown)
    }

    fn has_room_for_audits(&mut self) -> bool {
        if self.audits.len() >= ROSTER_MAX {
            let mut audits = self.audits.iter();
            let honest = audits.find(|(_, audit)| audit.worst() == Verdict::Honest);
            let Some(peer) = honest.map(|(peer, _)| *peer) else {
                return false;
            };
            self.audits.remove(&peer);
        }
        true
    }

    /// Is it in this process?
    pub fn is_here(&self, expert: ExpertId) -> bool {
        self.known
            .get(&expert)
            .is_some_and(|known| known.facts.peer.is_none())
    }

    pub fn failed(&mut self, now: Micros, expert: ExpertId, why: &Trouble) {
        let Some(known) = self.known.get_mut(&expert) else {
            return;
        };
        if let Trouble::Busy { retry_ms } = why {
            known.busy_until = after(now, u64::from(*retry_ms) * 1000);
            return; // a full house is no fault
        }
        known.failures += 1;
        known.last_failure = Some(why.to_string());
        let doubled = SUSPECT_US << known.in_a_row.min(SUSPECT_DOUBLINGS_MAX);
        known.suspect_until = after(now, doubled);
        known.in_a_row += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: u8) -> Introduced {
        Introduced {
            expert: ExpertId([name; 32]),
            peer: Some([name; 32]),
            vocabulary: Fingerprint([0; 32]),
            context: 100,
            admitted: true,
            file: None,
        }
    }

    #[test]
    fn busy_is_no_fault_and_faults_in_a_row_double() {
        let mut roster = Roster::default();
        assert!(roster.meet(facts(1)));
        let expert = ExpertId([1; 32]);
        roster.failed(Micros(0), expert, &Trouble::Busy { retry_ms: 30 });
        let known = roster.get(expert).unwrap();
        assert_eq!((known.failures, known.busy_until), (0, Micros(30_000)));
        for (nth, doubled) in [(0u64, 1), (1, 2), (2, 4)] {
            roster.failed(Micros(nth), expert, &Trouble::Late);
            let until = roster.get(expert).unwrap().suspect_until;
            assert_eq!(until, Micros(nth + doubled * SUSPECT_US));
        }
        let quick = Answered {
            us: 10,
            read: None,
            follows: false,
        };
        roster.heard(expert, quick, 99, 40);
        let known = roster.get(expert).unwrap();
        assert_eq!((known.in_a_row, known.suspect_until), (0, Micros(0)));
        assert_eq!(known.compute_us, 10, "nobody computes longer than he takes");
    }

    #[test]
    fn a_full_roster_keeps_whom_it_knows() {
        let mut roster = Roster::default();
        for i in 0..ROSTER_MAX as u32 {
            let mut one = facts(0);
            one.expert.0[..4].copy_from_slice(&i.to_le_bytes());
            assert!(roster.meet(one));
        }
        assert!(!roster.meet(facts(9)));
        let mut known = facts(0);
        known.context = 7;
        assert!(roster.meet(known), "the first is known already");
        assert_eq!(roster.get(ExpertId([0; 32])).unwrap().facts.context, 7);
    }

    /// A lie about any position.
    const GROSS: Gap = Gap {
        distance: 1.0,
        spread: 0.5,
    };

    fn judge(roster: &mut Roster, expert: ExpertId) -> Vec<Suspicion> {
        (0..8)
            .filter_map(|_| roster.audited(expert, GROSS))
            .collect()
    }

    #[test]
    fn what_an_audit_found_is_of_the_node_and_outlives_its_experts() {
        let mut roster = Roster::default();
        let mut other = facts(1);
        other.expert = ExpertId([2; 32]);
        assert!(roster.meet(facts(1)) && roster.meet(other.clone()) && roster.meet(facts(3)));
        let said = judge(&mut roster, ExpertId([1; 32]));
        let last = said.last().expect("it is said");
        assert!(matches!(last, Suspicion::Swapped { .. }), "{said:?}");
        assert!(
            said.len() <= 2,
            "once when it arises and once when it grows: {said:?}"
        );
        let verdict =
            |roster: &Roster, name| roster.get(ExpertId([name; 32])).unwrap().audit.verdict();
        assert_eq!(verdict(&roster, 2), Verdict::Swapped);
        assert_eq!(verdict(&roster, 3), Verdict::Honest);
        roster.forget(ExpertId([1; 32]));
        roster.forget(ExpertId([2; 32]));
        roster.meet(other);
        assert_eq!(verdict(&roster, 2), Verdict::Swapped);
    }

    #[test]
    fn a_full_desk_forgets_the_honest_and_keeps_whom_it_found() {
        let mut roster = Roster::default();
        let audited = |roster: &mut Roster, node: u32, lies: bool| {
            let mut one = facts(0);
            one.expert.0[..4].copy_from_slice(&node.to_le_bytes());
            let mut peer = [0; 32];
            peer[..4].copy_from_slice(&node.to_le_bytes());
            one.peer = Some(peer);
            assert!(roster.meet(one.clone()));
            match lies {
                true => drop(judge(roster, one.expert)),
                false => drop(roster.audited(
                    one.expert,
                    Gap {
                        distance: 0.0,
                        ..GROSS
                    },
                )),
            }
            let verdict = roster.get(one.expert).unwrap().audit.verdict();
            roster.forget(one.expert);
            verdict
        };
        audited(&mut roster, 0, false);
        for node in 1..ROSTER_MAX as u32 + 1 {
            assert_eq!(audited(&mut roster, node, true), Verdict::Swapped);
        }
        assert_eq!(roster.audits.len(), ROSTER_MAX);
        let one_more = audited(&mut roster, ROSTER_MAX as u32 + 1, true);
        assert_eq!(one_more, Verdict::Honest, "nobody makes room for it");
        assert_eq!(roster.audits.len(), ROSTER_MAX);
    }
}
