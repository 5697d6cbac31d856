//! Leave to have an effect. Made here and nowhere else.

use super::act::Origin;
use super::checkpoint::{NoLease, Now};
use super::fold::Standing;
use super::phase::Phase;
use super::tier::Tier;
use std::sync::Arc;

/// Why a permit is not, or no longer, worth anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halted {
    #[error("this node belongs to no mesh")]
    NoMesh,
    #[error("this node has not yet heard from its mesh")]
    Booting,
    #[error("the mesh is halted: {0}")]
    ByPeople(String),
    #[error("the owner of this node has halted it")]
    Here,
    #[error("the permit is older than the last halt")]
    Stale,
    #[error("the mesh is in phase {is:?}, and this needs {needs:?}")]
    Phase { is: Phase, needs: Phase },
    #[error("{0}")]
    Lease(#[from] NoLease),
    #[error("the time was not said")]
    NoTime,
}

/// How many experts a stream may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    One,
    Several,
}

/// What a mesh permit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A person asked. Needs no phase and no lease: only that nothing stops the mesh.
    User,
    /// The mesh asks itself.
    Stream { does: Tier, experts: Experts },
    /// An accepted change takes effect on this node.
    Apply { tier: Tier, origin: Origin },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Mesh { generation: u64, purpose: Purpose },
}

/// What the owner of this node forbids on it. There is nothing here that allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tighten {
    pub halted: bool,
    pub phase_max: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mesh {
    None,
    Booting,
    Stands(Arc<Standing>),
}

/// What this node may do now. A halt takes back every mesh permit given before it, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    generation: u64,
    mesh: Mesh,
    tighten: Tighten,
    /// From which accepted change on nothing takes effect here, and why: the word of the owner.
    refused: Option<(u64, Arc<str>)>,
    now: Option<Now>,
}

const NOTHING_TIGHTER: Tighten = Tighten {
    halted: false,
    phase_max: Phase::Major,
};

impl Rights {
    /// A node on its own: the owner's model on the owner's machine.
    pub fn alone() -> Rights {
        Rights {
            generation: 0,
            mesh: Mesh::None,
            tighten: NOTHING_TIGHTER,
            refused: None,
            now: None,
        }
    }

    /// A node of a mesh that has not yet verified the feeds: halted until [`Rights::under`].
    pub fn booting() -> Rights {
        Rights {
            mesh: Mesh::Booting,
            ..Rights::alone()
        }
    }

    /// The rights under a new standing. At boot, only after others were asked for their records.
    #[must_use]
    pub fn under(&self, standing: Standing) -> Rights {
        let goes_on = match &self.mesh {
            Mesh::Stands(old) => {
                old.network() == standing.network() && !old.is_halted() && !standing.is_halted()
            }
            Mesh::None | Mesh::Booting => false,
        };
        // News that stop nothing, such as a checkpoint a minute, end no session.
        let generation = self.generation + u64::from(!goes_on);
        Rights {
            generation,
            mesh: Mesh::Stands(Arc::new(standing)),
            refused: None,
            ..self.clone()
        }
    }

    /// The rights at a time: leases run out. Without it only users are served.
    #[must_use]
    pub fn at(&self, now: Now) -> Rights {
        Rights {
            now: Some(now),
            ..self.clone()
        }
    }

    #[must_use]
    pub fn tightened(&self, tighten: Tighten) -> Rights {
        let generation = self.generation + u64::from(tighten.halted);
        Rights {
            generation,
            tighten,
            ..self.clone()
        }
    }

    /// The owner lets no accepted change from this version on take effect here.
    #[must_use]
    pub fn refusing_from(&self, version: u64, why: &str) -> Rights {
        Rights {
            refused: Some((version, why.into())),
            ..self.clone()
        }
    }

    pub(super) fn refused(&self) -> Option<(u64, &str)> {
        let (version, why) = self.refused.as_ref()?;
        Some((*version, why))
    }

    pub fn standing(&self) -> Option<&Standing> {
        match &self.mesh {
            Mesh::Stands(standing) => Some(standing),
            Mesh::None | Mesh::Booting => None,
        }
    }

    /// Always granted: no vote of others stops the owner's model on the owner's machine.
    pub fn local(&self) -> Permit {
        Permit(Kind::Local)
    }

    /// For a person's session in the mesh.
    pub fn mesh(&self) -> Result<Permit, Halted> {
        self.permit(Purpose::User)
    }

    pub fn permit(&self, purpose: Purpose) -> Result<Permit, Halted> {
        let permit = Permit(Kind::Mesh {
            generation: self.generation,
            purpose,
        });
        self.check(permit).map(|()| permit)
    }

    /// Re-read before every effect.
    pub fn check(&self, permit: Permit) -> Result<(), Halted> {
        let Kind::Mesh {
            generation,
            purpose,
        } = permit.0
        else {
            return Ok(());
        };
        let standing = match &self.mesh {
            Mesh::None => return Err(Halted::NoMesh),
            Mesh::Booting => return Err(Halted::Booting),
            Mesh::Stands(standing) => standing,
        };
        if let Some(reason) = standing.reasons().next() {
            return Err(Halted::ByPeople(reason.to_owned()));
        }
        if self.tighten.halted {
            return Err(Halted::Here);
        }
        if generation != self.generation {
            return Err(Halted::Stale);
        }
        match purpose {
            Purpose::User => Ok(()),
            Purpose::Stream { does, experts } => {
                self.in_phase(standing, Phase::needed_for(does))?;
                if experts == Experts::Several {
                    self.in_phase(standing, Phase::Minor)?;
                }
                self.has_lease(standing, standing.leases.stream_s)
            }
            Purpose::Apply { tier, origin } => {
                if origin == Origin::Stream {
                    self.in_phase(standing, Phase::needed_for(tier))?;
                }
                self.has_lease(standing, standing.leases.apply_s)
            }
        }
    }

    fn in_phase(&self, standing: &Standing, needs: Phase) -> Result<(), Halted> {
        let is = standing.phase().min(self.tighten.phase_max);
        if is >= needs {
            Ok(())
        } else {
            Err(Halted::Phase { is, needs })
        }
    }

    fn has_lease(&self, standing: &Standing, max_s: u32) -> Result<(), Halted> {
        if !standing.electorate().has_witnesses() {
            // Nobody to ask: such a mesh stays in phase 1.
            return Ok(());
        }
        let now = self.now.ok_or(Halted::NoTime)?;
        let lease = standing.lease().ok_or(NoLease::None)?;
        Ok(lease.check(now, max_s)?)
    }
}
