//! Witnesses of a mesh in made-up time: each looks every five seconds and hears what the others said.

use super::people::*;
use crate::limits::{CHECKPOINT_EVERY_S, CLOCK_SKEW_S_MAX};

const LOOK_S: u64 = 5;

struct Witnesses {
    world: World,
    /// One for each witness.
    nodes: Vec<Replica>,
    /// How far each clock is off, and whether its node is up.
    clocks: Vec<(i64, bool)>,
    now_s: u64,
}

impl Witnesses {
    fn new(n: u8) -> Witnesses {
        let world = World::new(3, n);
        let node = Replica::new(world.genesis.clone());
        Witnesses {
            nodes: vec![node; usize::from(n)],
            clocks: vec![(0, true); usize::from(n)],
            now_s: world.now_s,
            world,
        }
    }

    fn hear(&mut self, record: &Record) {
        for (node, (_, is_up)) in self.nodes.iter_mut().zip(&self.clocks) {
            if *is_up {
                node.insert(record.clone());
                node.refold();
            }
        }
    }

    /// Lets time go by; gives back how many checkpoints were said.
    fn pass(&mut self, seconds: u64) -> usize {
        let mut said = 0;
        let until = self.now_s + seconds;
        while self.now_s < until {
            self.now_s += LOOK_S;
            for n in 0..self.nodes.len() {
                let (off, is_up) = self.clocks[n];
                let key = WITNESS + n as u8;
                let now_s = self.now_s.saturating_add_signed(off);
                let due = witness::due(&self.nodes[n], &public(key), now_s);
                let Some(due) = due.filter(|_| is_up) else {
                    continue;
                };
                let signature = secret(key)
                    .sign(&due.seen.attested(&public(key), now_s))
                    .to_bytes();
                let mine = Cosignature {
                    witness: public(key),
                    time_s: now_s,
                    signature,
                };
                let all = [due.with, vec![mine]].concat();
                let checkpoint = due.seen.cosigned(all).unwrap();
                said += 1;
                self.hear(&Record::Checkpoint(checkpoint));
            }
        }
        said
    }

    fn lease_age_s(&self) -> Option<u64> {
        let lease = self.nodes[0].standing().lease()?;
        Some(self.now_s.saturating_sub(lease.time.low_s))
    }
}

#[test]
fn two_of_three_witnesses_keep_the_lease_fresh_and_one_does_not() {
    let mut mesh = Witnesses::new(3);
    assert_eq!(mesh.lease_age_s(), None);
    for is_up in [true, false] {
        mesh.clocks[2].1 = is_up;
        for _ in 0..20 {
            let said = mesh.pass(CHECKPOINT_EVERY_S);
            assert!(said <= 4, "they say no more than they must: {said}");
            assert!(mesh.lease_age_s().unwrap() <= CHECKPOINT_EVERY_S + 2 * LOOK_S);
        }
    }
    mesh.clocks[1].1 = false;
    let last = mesh.nodes[0].standing().lease();
    mesh.pass(900);
    assert_eq!(
        mesh.nodes[0].standing().lease(),
        last,
        "one alone proves nothing"
    );
    mesh.clocks[1].1 = true;
    mesh.pass(CHECKPOINT_EVERY_S + LOOK_S);
    assert!(mesh.lease_age_s().unwrap() <= CHECKPOINT_EVERY_S + 2 * LOOK_S);
}

#[test]
fn witnesses_whose_clocks_are_ten_minutes_apart_agree_and_one_that_is_days_off_is_left_out() {
    let mut mesh = Witnesses::new(3);
    mesh.clocks[1].0 = CLOCK_SKEW_S_MAX as i64 / 2;
    mesh.clocks[0].0 = -(CLOCK_SKEW_S_MAX as i64) / 2;
    mesh.clocks[2].0 = 48 * 3_600;
    mesh.pass(5 * CHECKPOINT_EVERY_S);
    let lease = mesh.nodes[0].standing().lease().unwrap();
    assert!(lease.time.low_s.abs_diff(mesh.now_s) <= CLOCK_SKEW_S_MAX);
    assert!(lease.time.high_s < mesh.now_s + 3_600, "{lease:?}");
}

#[test]
fn what_they_see_of_a_vote_or_a_halt_is_said_within_a_minute() {
    let mut mesh = Witnesses::new(3);
    mesh.pass(2 * CHECKPOINT_EVERY_S);
    let change = Proposal {
        expiry: mesh.now_s + DAY_S,
        ..mesh
            .world
            .proposal(Consent::Minor, mesh.world.set(Key::ServingGatherUs, 510))
    };
    for n in [0, 1] {
        mesh.world.people[n].time_s = mesh.now_s;
        if n == 0 {
            let proposed = mesh.world.people[0].propose(&change);
            mesh.hear(&Record::Entry(proposed));
        }
        let vote = mesh.world.people[n].vote(&change);
        mesh.hear(&Record::Entry(vote));
    }
    assert_eq!(
        mesh.nodes[0].standing().snapshot().version,
        0,
        "no witness has seen the votes"
    );
    mesh.pass(CHECKPOINT_EVERY_S + LOOK_S);
    assert_eq!(mesh.nodes[0].standing().snapshot().version, 1);
    let halt = mesh.world.people[2].halt(1, "smoke");
    mesh.hear(&Record::Halt(halt));
    mesh.pass(CHECKPOINT_EVERY_S + LOOK_S);
    assert!(mesh.nodes[0].standing().lease().unwrap().halted);
}

#[test]
fn a_day_of_witnesses_leaves_a_handful_of_checkpoints() {
    let mut mesh = Witnesses::new(3);
    let said = mesh.pass(DAY_S / 4);
    assert!(said > 360, "{said}");
    for node in &mesh.nodes {
        let kept = node
            .records()
            .iter()
            .filter(|r| matches!(r, Record::Checkpoint(_)))
            .count();
        assert!(kept <= 12, "{kept} of {said}");
    }
}

#[test]
fn only_a_witness_of_today_speaks_and_one_of_one_is_enough() {
    let mesh = Witnesses::new(3);
    for stranger in [public(1), public(9)] {
        assert_eq!(witness::due(&mesh.nodes[0], &stranger, mesh.now_s), None);
    }
    let mut alone = Witnesses::new(1);
    alone.pass(LOOK_S);
    assert_eq!(alone.lease_age_s(), Some(0));
    assert_eq!(alone.pass(CHECKPOINT_EVERY_S - 2 * LOOK_S), 0);
    assert_eq!(alone.pass(4 * LOOK_S), 1);
}

/// A node that knows a newer word of the same witness has no use for an older one, in any order.
#[test]
fn of_unfinished_checkpoints_the_newest_of_each_set_of_witnesses_is_kept() {
    let world = World::new(3, 3);
    let partial = |time_s| Record::Checkpoint(cosign(world.seen(), &[(WITNESS, time_s)]));
    let (old, new) = (partial(world.now_s), partial(world.now_s + 60));
    for order in [[&old, &new], [&new, &old]] {
        let mut node = Replica::new(world.genesis.clone());
        for record in order {
            node.insert(record.clone());
        }
        let kept: Vec<Record> = node.records().iter().collect();
        assert_eq!(kept, std::slice::from_ref(&new));
    }
}
