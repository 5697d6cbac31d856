//! The root of a mesh. Its hash is the mesh's name, pinned in settings and invites.

use super::codec::{Author, Malformed, Reader, Writer, hash, is_good_key, is_set};
use super::membership::{BadMembers, Members};
use super::phase::Phase;
use crate::config::{MeshConfig, SCHEMA};
use crate::ids::NetworkId;
use crate::limits::{
    CRITERIA_BYTES_MAX, GENESIS_NODES_MAX, PARTICIPANTS_MAX, RECORD_BYTES_MAX, REVERT_MAX,
};

const TAG: &[u8] = b"quorate genesis v1\0";
const CONTEXT: &str = "quorate 2026 genesis";

/// Three sizes of mesh, as tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// One person, no witnesses.
    Solo,
    /// Throw-away keys, for tests: shown as unsafe everywhere.
    Lab,
    /// At least three people, and witnesses.
    Community,
}

#[derive(Clone, Copy, Debug)]
pub struct PresetRow {
    pub participants_min: usize,
    pub participants_max: usize,
    pub witnesses_min: usize,
    pub phase_max: Phase,
    pub leases: Leases,
    /// Keys are not fit for anything that matters.
    pub is_unsafe: bool,
}

/// How old the last checkpoint may be. Asked for only where there are witnesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leases {
    pub apply_s: u32,
    pub stream_s: u32,
}

const LEASES: Leases = Leases {
    apply_s: 300,
    stream_s: 900,
};

#[rustfmt::skip]
const PRESETS: [PresetRow; 3] = [
    PresetRow { participants_min: 1, participants_max: 1, witnesses_min: 0, phase_max: Phase::Suggest, leases: LEASES, is_unsafe: false },
    PresetRow { participants_min: 1, participants_max: PARTICIPANTS_MAX, witnesses_min: 0, phase_max: Phase::Major, leases: LEASES, is_unsafe: true },
    PresetRow { participants_min: 3, participants_max: PARTICIPANTS_MAX, witnesses_min: 3, phase_max: Phase::Major, leases: LEASES, is_unsafe: false },
];

impl Preset {
    pub fn row(self) -> &'static PresetRow {
        &PRESETS[self as usize]
    }

    fn from_code(code: u8) -> Result<Preset, Malformed> {
        let all = [Preset::Solo, Preset::Lab, Preset::Community];
        let found = all.get(usize::from(code));
        found.copied().ok_or(Malformed::Range("the preset"))
    }
}

/// What a mesh begins with. Fields are free; [`Terms::found`] checks them.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    pub preset: Preset,
    pub members: Members,
    /// Keys of the first nodes; all others are admitted by one of them.
    pub nodes: Vec<Author>,
    pub phase: Phase,
    /// What must be shown before the mesh enters phase 1, 2 and 3.
    pub criteria: [String; 3],
    pub leases: Leases,
    /// Config versions that a halt takes back.
    pub revert: u8,
    pub config: MeshConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGenesis {
    #[error(transparent)]
    Members(#[from] BadMembers),
    #[error("a genesis names at most {GENESIS_NODES_MAX} nodes, each once")]
    Nodes,
    #[error("a mesh of this size and preset does not begin in this phase")]
    Phase,
    #[error("exit criteria are at most {CRITERIA_BYTES_MAX} bytes")]
    Criteria,
    #[error("leases are from one second to those of the preset")]
    Leases,
    #[error("a halt takes back 1 to {REVERT_MAX} versions")]
    Revert,
}

impl Terms {
    /// What a preset says, for these people.
    pub fn of(preset: Preset, mut participants: Vec<Author>, config: MeshConfig) -> Terms {
        participants.sort_unstable();
        Terms {
            preset,
            members: Members {
                participants,
                witnesses: vec![],
                witness_threshold: 0,
            },
            nodes: vec![],
            phase: Phase::ReadOnly,
            criteria: [const { String::new() }; 3],
            leases: preset.row().leases,
            revert: 3,
            config,
        }
    }

    pub fn found(self) -> Result<Genesis, BadGenesis> {
        let row = self.preset.row();
        self.members.check(self.preset, &self.nodes)?;
        let nodes_fit = self.nodes.len() <= GENESIS_NODES_MAX && is_set(&self.nodes);
        if !nodes_fit || !self.nodes.iter().all(is_good_key) {
            return Err(BadGenesis::Nodes);
        }
        let Members {
            participants,
            witnesses,
            ..
        } = &self.members;
        let highest = Phase::highest(participants.len(), witnesses.len());
        if self.phase > row.phase_max || self.phase > highest {
            return Err(BadGenesis::Phase);
        }
        if self
            .criteria
            .iter()
            .any(|text| text.len() > CRITERIA_BYTES_MAX)
        {
            return Err(BadGenesis::Criteria);
        }
        let Leases { apply_s, stream_s } = self.leases;
        let fits = |s: u32, max: u32| (1..=max).contains(&s);
        if !fits(apply_s, row.leases.apply_s) || !fits(stream_s, row.leases.stream_s) {
            return Err(BadGenesis::Leases);
        }
        if !(1..=REVERT_MAX).contains(&self.revert) {
            return Err(BadGenesis::Revert);
        }
        let network = NetworkId(hash(CONTEXT, &self.bytes()));
        Ok(Genesis {
            terms: self,
            network,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).u8(self.preset as u8);
        self.members.write(&mut out);
        out.list(self.nodes.iter()).u8(self.phase.code());
        for text in &self.criteria {
            out.text(text);
        }
        out.u32(self.leases.apply_s)
            .u32(self.leases.stream_s)
            .u8(self.revert);
        // The hash carries the names: values of another schema are refused, not misread.
        out.raw(&self.config.hash());
        for value in self.config.values() {
            out.u32(*value);
        }
        out.0
    }
}

/// Checked terms, and their name.
#[derive(Clone, Debug, PartialEq)]
pub struct Genesis {
    terms: Terms,
    network: NetworkId,
}

impl Genesis {
    /// A mesh for tests and first steps: no witnesses, phase 0.
    pub fn new(participants: Vec<Author>, config: MeshConfig) -> Result<Genesis, BadGenesis> {
        Terms::of(Preset::Lab, participants, config).found()
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    pub fn config(&self) -> &MeshConfig {
        &self.terms.config
    }

    pub fn network_id(&self) -> NetworkId {
        self.network
    }

    /// What a vote to enter `phase` has to name. `None`: nobody votes to enter phase 0.
    pub fn criteria_hash(&self, phase: Phase) -> Option<[u8; 32]> {
        let at = (phase as usize).checked_sub(1)?;
        let text = self.terms.criteria.get(at)?;
        Some(hash("quorate 2026 exit criteria", text.as_bytes()))
    }

    pub fn encode(&self) -> Vec<u8> {
        self.terms.bytes()
    }

    /// Total and strict, as all decoders here.
    pub fn decode(bytes: &[u8]) -> Result<Genesis, Malformed> {
        let mut read = Reader::open(bytes, RECORD_BYTES_MAX, TAG)?;
        let preset = Preset::from_code(read.u8()?)?;
        let members = Members::read(&mut read)?;
        let nodes = read.list(GENESIS_NODES_MAX, "the nodes")?;
        let phase = Phase::from_code(read.u8()?)?;
        let mut criteria = [const { String::new() }; 3];
        for text in &mut criteria {
            *text = read.text(CRITERIA_BYTES_MAX, "the criteria")?;
        }
        let leases = Leases {
            apply_s: read.u32()?,
            stream_s: read.u32()?,
        };
        let revert = read.u8()?;
        let config_hash = read.array::<32>()?;
        let mut values = [0; SCHEMA.len()];
        for value in &mut values {
            *value = read.u32()?;
        }
        read.end()?;
        let config = MeshConfig::from_values(values).map_err(|_| Malformed::Range("the config"))?;
        if config.hash() != config_hash {
            return Err(Malformed::Range("the config's schema"));
        }
        let terms = Terms {
            preset,
            members,
            nodes,
            phase,
            criteria,
            leases,
            revert,
            config,
        };
        let genesis = terms.found().map_err(|_| Malformed::Range("the genesis"))?;
        if genesis.encode() == bytes {
            Ok(genesis)
        } else {
            Err(Malformed::NotCanonical)
        }
    }
}
