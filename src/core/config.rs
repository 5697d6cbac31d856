//! What a mesh shares and people vote on: one content-addressed document with a schema.
//!
//! Every value is a whole number with its unit in its name, so that a hash means the same
//! everywhere. A key that nothing reads does not exist. Settings of one machine are not here: they
//! live in that machine's TOML file.

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
];

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
    fn the_default_document_is_the_default_law() {
        assert_eq!(
            MeshConfig::default().lists(),
            crate::law::ListLaw::default()
        );
    }
}
