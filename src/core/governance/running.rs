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
    /// What a node begins with: all that it knows to be accepted. That changes nothing, so it needs
    /// no permit.
    pub fn begin(standing: &Standing) -> Running {
        let newest = standing.snapshot();
        let mut running = Running {
            version: newest.version,
            config: newest.config.clone(),
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

    /// To be called with all new rights, and with the time. Says what was decided, if it is news.
    pub fn under(&mut self, rights: &Rights) -> Option<Decision> {
        let standing = rights.standing()?;
        if standing.is_halted() {
            self.revert(standing);
            return None;
        }
        self.interval = None;
        // People have named this one, and they must be able to go on with no witness left.
        let named = self.version.max(standing.restart());
        let newest = standing.snapshot();
        let known = standing.snapshots().iter().find(|s| s.version == named);
        self.run(known.unwrap_or(newest));
        if newest.version == self.version {
            self.refused = None;
            return None;
        }
        let about = About::Config(newest.version);
        match rights.permit(APPLY) {
            Ok(_) => {
                self.run(newest);
                self.refused = None;
                Some(Decision::granted(about))
            }
            Err(_) if self.refused == Some(newest.version) => None,
            Err(why) => {
                self.refused = Some(newest.version);
                Some(Decision::refused(about, &why.to_string()))
            }
        }
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
