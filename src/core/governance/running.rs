//! Which config of its mesh a node runs. What people accepted takes effect under a permit, so not
//! where nobody has heard from the witnesses lately; a halt takes it back, and a resume names it.

use super::act::Origin;
use super::audit::{About, Decision};
use super::fold::{Snapshot, Standing};
use super::permit::{Purpose, Rights};
use super::revert::Interval;
use super::tier::Tier;
use crate::config::MeshConfig;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The version of the last config that took effect; under a halt an older one runs.
    version: u64,
    config: MeshConfig,
    interval: Option<Interval>,
    /// The version that was refused last, so that it is said once.
    refused: Option<u64>,
}

/// Whether the phase allows a change was decided when it was certified; what is left is whether the
/// witnesses still speak.
const APPLY: Purpose = Purpose::Apply {
    tier: Tier::DeployMinor,
    origin: Origin::People,
};

impl Running {
    /// What a node begins with: all that it knows to be accepted, and its owner does not refuse. That
    /// changes nothing, so it needs no permit.
    pub fn begin(rights: &Rights, standing: &Standing) -> Running {
        let wanted = wanted(rights, standing, standing.restart());
        let mut running = Running {
            version: wanted.version,
            config: wanted.config.clone(),
            interval: None,
            refused: None,
        };
        running.revert(standing);
        running
    }

    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// Under a halt that of the latch: an older one.
    pub fn version(&self) -> u64 {
        let target = self.interval.as_ref().map(Interval::target);
        target.map_or(self.version, |target| target.version)
    }

    /// The last version that took effect, whatever runs under a halt.
    pub fn applied(&self) -> u64 {
        self.version
    }

    /// To be called with all new rights, and with the time. Says what was decided, if it is news, and
    /// is called again then: what comes after it may be news, too.
    pub fn under(&mut self, rights: &Rights) -> Option<Decision> {
        let standing = rights.standing()?;
        if standing.is_halted() {
            self.revert(standing);
            return None;
        }
        self.interval = None;
        // People have named this one, and they must be able to go on with no witness left.
        let named = self.version.max(standing.restart());
        let wanted = wanted(rights, standing, named);
        let known = standing.snapshots().iter().find(|s| s.version == named);
        self.run(known.unwrap_or(wanted));
        if wanted.version != self.version {
            return match rights.permit(APPLY) {
                Ok(_) => {
                    self.run(wanted);
                    self.refused = None;
                    Some(Decision::granted(About::Config(wanted.version)))
                }
                Err(why) => self.refuse(wanted.version, &why.to_string()),
            };
        }
        match rights.refused() {
            Some((first, why)) if standing.snapshot().version > self.version => {
                self.refuse(first.max(self.version + 1), why)
            }
            _ => {
                self.refused = None;
                None
            }
        }
    }

    /// It is said once.
    fn refuse(&mut self, version: u64, why: &str) -> Option<Decision> {
        let is_news = self.refused.replace(version) != Some(version);
        is_news.then(|| Decision::refused(About::Config(version), why))
    }

    fn run(&mut self, snapshot: &Snapshot) {
        self.version = snapshot.version;
        self.config = snapshot.config.clone();
    }

    fn revert(&mut self, standing: &Standing) {
        self.interval = Interval::next(self.interval.take(), self.version, standing);
        if let Some(interval) = &self.interval {
            self.config = interval.target().config.clone();
        }
    }
}

/// The newest config before the first one that the owner refuses: a config builds on those before it.
/// What runs already, and what people named when they let the mesh go on, is not asked about again.
fn wanted<'a>(rights: &Rights, standing: &'a Standing, runs: u64) -> &'a Snapshot {
    let first = rights.refused().map(|(version, _)| version.max(runs + 1));
    let is_free = |s: &&Snapshot| first.is_none_or(|first| s.version < first);
    let free = standing.snapshots().iter().rev().find(is_free);
    free.unwrap_or(standing.snapshot())
}
