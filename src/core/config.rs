//! What a mesh shares and people vote on: one content-addressed document with a schema.
//!
//! Every value is a whole number with its unit in its name, so that a hash means the same
//! everywhere. A key that nothing reads does not exist. Settings of one machine are not here: they
//! live in that machine's TOML file.

use crate::weights::{Strategy, Weighing};
use Class::{Major, Minor};
use Domain::{Routing, Serving};

/// A setting, and its row in [`SCHEMA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    ListTauInverse,
    ListMassPpm,
    ListEntriesMax,
    ServingSessionsMax,
    ServingQueueMax,
    ServingPrefillSharedMs,
    ServingPrefillAloneMs,
    ServingGatherUs,
    RouterK,
    RouterSpares,
    RouterDeadlinePercent,
    RouterDeadlineFloorMs,
    RouterLearnedWeights,
}

/// How much consent a change needs at least. The tier of a whole patch is computed from this, the
/// size of the step, and what changed lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Minor,
    Major,
}

/// Which stream of self-improvement may propose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    Routing,
    Serving,
}

/// One row of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub key: Key,
    pub name: &'static str,
    pub default: u32,
    pub min: u32,
    pub max: u32,
    /// The largest change at once, as a share of the old value.
    pub step_max_percent: u32,
    pub class: Class,
    pub domain: Domain,
    /// Is going back to the old value always safe?
    pub reversible: bool,
    pub meaning: &'static str,
}

#[rustfmt::skip]
pub const SCHEMA: &[Setting] = &[
    Setting { key: Key::ListTauInverse, name: "list.tau_inverse", default: 16, min: 2, max: 256, step_max_percent: 100,
        class: Minor, domain: Routing, reversible: true,
        meaning: "perturbed lists say v with p(v)/E_v >= 1 / this: at most about this many entries" },
    Setting { key: Key::ListMassPpm, name: "list.mass_ppm", default: 999_000, min: 500_000, max: 1_000_000, step_max_percent: 20,
        class: Major, domain: Routing, reversible: true,
        meaning: "plain lists say top tokens until this mass, in parts per million" },
    Setting { key: Key::ListEntriesMax, name: "list.entries_max", default: 256, min: 8, max: 256, step_max_percent: 50,
        class: Major, domain: Routing, reversible: true,
        meaning: "entries of a plain list at most" },
    Setting { key: Key::ServingSessionsMax, name: "serving.sessions_max", default: 16, min: 1, max: 16, step_max_percent: 100,
        class: Minor, domain: Serving, reversible: true,
        meaning: "sessions an expert decodes at once" },
    Setting { key: Key::ServingQueueMax, name: "serving.queue_max", default: 128, min: 0, max: 128, step_max_percent: 100,
        class: Minor, domain: Serving, reversible: true,
        meaning: "requests of a node that wait for a session" },
    Setting { key: Key::ServingPrefillSharedMs, name: "serving.prefill_shared_ms", default: 60, min: 5, max: 100, step_max_percent: 50,
        class: Minor, domain: Serving, reversible: true,
        meaning: "predicted time of one prefill chunk while others decode" },
    Setting { key: Key::ServingPrefillAloneMs, name: "serving.prefill_alone_ms", default: 100, min: 5, max: 100, step_max_percent: 50,
        class: Major, domain: Serving, reversible: true,
        meaning: "predicted time of one prefill chunk with nobody else; bounds the time to a halt" },
    Setting { key: Key::ServingGatherUs, name: "serving.gather_us", default: 500, min: 0, max: 5_000, step_max_percent: 100,
        class: Minor, domain: Serving, reversible: true,
        meaning: "how long a decode waits for sessions that were just answered" },
    Setting { key: Key::RouterK, name: "router.k", default: 4, min: 1, max: 12, step_max_percent: 100,
        class: Major, domain: Routing, reversible: true,
        meaning: "experts that decide a token, at most" },
    Setting { key: Key::RouterSpares, name: "router.spares", default: 1, min: 0, max: 4, step_max_percent: 100,
        class: Minor, domain: Routing, reversible: true,
        meaning: "experts that are kept warm to take the place of one that is lost" },
    Setting { key: Key::RouterDeadlinePercent, name: "router.deadline_percent", default: 200, min: 110, max: 1_000, step_max_percent: 50,
        class: Minor, domain: Routing, reversible: true,
        meaning: "share of its own 95th percentile that an expert may take before it is replaced" },
    Setting { key: Key::RouterDeadlineFloorMs, name: "router.deadline_floor_ms", default: 100, min: 5, max: 5_000, step_max_percent: 100,
        class: Minor, domain: Routing, reversible: true,
        meaning: "no deadline is shorter than this: machines pause for longer than networks vary" },
    Setting { key: Key::RouterLearnedWeights, name: "router.learned_weights", default: 0, min: 0, max: 1, step_max_percent: 100,
        class: Major, domain: Routing, reversible: true,
        meaning: "where a request does not say: 1, experts count by what they say of the prompt (meta); 0, all the same, whatever they claim" },
];

impl Key {
    /// The number by which patches name the key: its place in the schema.
    pub fn code(self) -> u16 {
        self as u16
    }

    pub fn from_code(code: u16) -> Option<Key> {
        SCHEMA.get(usize::from(code)).map(|row| row.key)
    }

    pub fn row(self) -> &'static Setting {
        &SCHEMA[self as usize]
    }
}

/// One typed operation. There is no other: no paths, no deletion, no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    pub key: Key,
    pub value: u32,
    /// What the proposer saw: a patch never changes a value that it did not know.
    pub expect_old: u32,
}

impl Set {
    /// How far the new value is from `from`, in thousandths of it.
    pub fn step_permille(&self, from: u32) -> u64 {
        u64::from(self.value.abs_diff(from)) * 1000 / u64::from(from.max(1))
    }
}

/// Operations on different keys, in the order of the keys: one spelling for one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    ops: Vec<Set>,
}

impl Patch {
    pub fn new(mut ops: Vec<Set>) -> Result<Patch, BadPatch> {
        ops.sort_by_key(|op| op.key);
        if ops.is_empty() || ops.windows(2).any(|w| w[0].key == w[1].key) {
            return Err(BadPatch::Shape);
        }
        match ops.iter().find(|op| op.value == op.expect_old) {
            Some(op) => Err(BadPatch::Nothing {
                name: op.key.row().name,
            }),
            None => Ok(Patch { ops }),
        }
    }

    pub fn ops(&self) -> &[Set] {
        &self.ops
    }

    /// The patch that takes this one back.
    #[must_use]
    pub fn inverse(&self) -> Patch {
        let swapped = |op: &Set| Set {
            key: op.key,
            value: op.expect_old,
            expect_old: op.value,
        };
        Patch {
            ops: self.ops.iter().map(swapped).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPatch {
    #[error("a patch sets at least one key, and each key once")]
    Shape,
    #[error("{name} is set to the value that it has")]
    Nothing { name: &'static str },
    #[error("{name} is no longer what the patch expects")]
    Stale { name: &'static str },
    #[error("{name} would change by more than its largest step")]
    Step { name: &'static str },
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be from {min} to {max}, not {got}")]
pub struct OutOfBounds {
    pub name: &'static str,
    pub min: u32,
    pub max: u32,
    pub got: u32,
}

/// The document: one value for each row of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    values: [u32; SCHEMA.len()],
}

impl Default for MeshConfig {
    fn default() -> Self {
        let mut values = [0; SCHEMA.len()];
        values
            .iter_mut()
            .zip(SCHEMA)
            .for_each(|(value, row)| *value = row.default);
        MeshConfig { values }
    }
}

impl MeshConfig {
    pub fn get(&self, key: Key) -> u32 {
        self.values[key as usize]
    }

    /// The document with one value changed.
    pub fn with(&self, key: Key, value: u32) -> Result<MeshConfig, OutOfBounds> {
        let Setting { name, min, max, .. } = SCHEMA[key as usize];
        if value < min || value > max {
            return Err(OutOfBounds {
                name,
                min,
                max,
                got: value,
            });
        }
        let mut changed = self.clone();
        changed.values[key as usize] = value;
        Ok(changed)
    }

    /// Every value, in the order of the schema.
    pub fn values(&self) -> &[u32; SCHEMA.len()] {
        &self.values
    }

    /// From every value in the order of the schema; each must be within its bounds.
    pub fn from_values(values: [u32; SCHEMA.len()]) -> Result<MeshConfig, OutOfBounds> {
        let start = MeshConfig::default();
        SCHEMA
            .iter()
            .zip(values)
            .try_fold(start, |config, (row, value)| config.with(row.key, value))
    }

    /// The document after a patch. All or nothing.
    pub fn apply(&self, patch: &Patch) -> Result<MeshConfig, BadPatch> {
        let mut changed = self.clone();
        for op in &patch.ops {
            let row = op.key.row();
            if self.get(op.key) != op.expect_old {
                return Err(BadPatch::Stale { name: row.name });
            }
            if op.step_permille(op.expect_old) > u64::from(row.step_max_percent) * 10 {
                return Err(BadPatch::Step { name: row.name });
            }
            changed = changed.with(op.key, op.value)?;
        }
        Ok(changed)
    }

    /// Names are part of the hash: a value never changes its meaning in silence.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 mesh config");
        for (row, value) in SCHEMA.iter().zip(self.values) {
            hasher.update(&(row.name.len() as u32).to_le_bytes());
            hasher.update(row.name.as_bytes());
            hasher.update(&value.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// How experts are weighed where a request does not say it.
    pub fn weighing(&self) -> Weighing {
        let strategy = match self.get(Key::RouterLearnedWeights) {
            0 => Strategy::Uniform,
            _ => Strategy::Meta,
        };
        Weighing {
            strategy,
            ..Weighing::default()
        }
    }

    /// How experts shorten what they say, under this document.
    pub fn lists(&self) -> crate::law::ListLaw {
        crate::law::ListLaw {
            tau: 1.0 / f64::from(self.get(Key::ListTauInverse)),
            mass: f64::from(self.get(Key::ListMassPpm)) / 1e6,
            max_entries: self.get(Key::ListEntriesMax) as u16,
        }
    }
}

const _: () = {
    let mut i = 0;
    while i < SCHEMA.len() {
        let row = &SCHEMA[i];
        assert!(
            row.key as usize == i,
            "rows stand in the order of their keys"
        );
        assert!(row.min <= row.default && row.default <= row.max);
        i += 1;
    }
    assert!(SCHEMA[Key::ListEntriesMax as usize].max == crate::limits::LIST_ENTRIES_MAX as u32);
    assert!(SCHEMA[Key::ServingSessionsMax as usize].max as usize == crate::limits::SESSIONS_MAX);
    assert!(SCHEMA[Key::RouterK as usize].max as usize <= crate::limits::CANDIDATES_MAX);
    assert!(
        SCHEMA[Key::RouterK as usize].max + SCHEMA[Key::RouterSpares as usize].max
            <= crate::limits::TEAM_MAX as u32
    );
    assert!(SCHEMA[Key::ServingQueueMax as usize].max as usize == crate::limits::QUEUE_MAX);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_every_change_changes_the_hash() {
        let config = MeshConfig::default();
        for row in SCHEMA {
            let other = if row.default == row.min {
                row.max
            } else {
                row.min
            };
            assert_ne!(
                config.with(row.key, other).unwrap().hash(),
                config.hash(),
                "{}",
                row.name
            );
            assert!(config.with(row.key, row.max + 1).is_err());
            assert_eq!(config.get(row.key), row.default);
        }
        let low = config.with(Key::ListTauInverse, 1).unwrap_err();
        assert_eq!(
            low.to_string(),
            "list.tau_inverse must be from 2 to 256, not 1"
        );
    }

    #[test]
    fn a_patch_is_typed_bounded_and_has_an_inverse() {
        let config = MeshConfig::default();
        let set = |key: Key, value, expect_old| Set {
            key,
            value,
            expect_old,
        };
        let patch = Patch::new(vec![
            set(Key::ServingGatherUs, 400, 500),
            set(Key::ListTauInverse, 20, 16),
        ])
        .unwrap();
        let changed = config.apply(&patch).unwrap();
        assert_eq!(changed.get(Key::ListTauInverse), 20);
        assert_eq!(changed.apply(&patch.inverse()).unwrap(), config);
        assert_eq!(MeshConfig::from_values(*changed.values()), Ok(changed));
        assert_eq!(Patch::new(vec![]), Err(BadPatch::Shape));
        let twice = vec![set(Key::ListTauInverse, 17, 16); 2];
        assert_eq!(Patch::new(twice), Err(BadPatch::Shape));
        let same = Patch::new(vec![set(Key::ListTauInverse, 16, 16)]);
        assert!(matches!(same, Err(BadPatch::Nothing { .. })));
        let apply = |op| config.apply(&Patch::new(vec![op]).unwrap());
        let stale = apply(set(Key::ListTauInverse, 18, 17));
        assert!(matches!(stale, Err(BadPatch::Stale { .. })));
        assert!(apply(set(Key::ListTauInverse, 32, 16)).is_ok());
        let far = apply(set(Key::ListTauInverse, 33, 16));
        assert!(matches!(far, Err(BadPatch::Step { .. })));
        let over = apply(set(Key::ServingSessionsMax, 17, 16));
        assert!(matches!(over, Err(BadPatch::Bounds(_))));
        for row in SCHEMA {
            assert_eq!(Key::from_code(row.key.code()), Some(row.key));
        }
        assert_eq!(Key::from_code(SCHEMA.len() as u16), None);
    }

    #[test]
    fn the_default_document_is_the_default_law() {
        assert_eq!(
            MeshConfig::default().lists(),
            crate::law::ListLaw::default()
        );
        assert_eq!(MeshConfig::default().weighing(), Weighing::default());
        let learned = MeshConfig::default().with(Key::RouterLearnedWeights, 1);
        assert_eq!(Some(learned.unwrap().weighing()), Weighing::named("meta"));
    }
}
