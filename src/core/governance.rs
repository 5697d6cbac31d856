//! Who may do what. People sign halts; a pure fold says whether the mesh may run; only the fold
//! mints permits. The model side has no path to signing: nothing here makes a signature.
//!
//! This is the seed that feeds, votes, phases and tiers grow from; what is here is final in kind: a
//! halt is a free-standing signed record, valid if its author is a participant, and it stays.

use crate::config::MeshConfig;
use crate::ids::NetworkId;
use crate::limits::{HALT_REASON_BYTES_MAX, HALTS_PER_AUTHOR_MAX, PARTICIPANTS_MAX};
use ed25519_dalek::{Signature, VerifyingKey};
use std::collections::{BTreeMap, BTreeSet};

/// What is signed begins with these words: a signature for one purpose never serves another.
const HALT_TAG: &[u8] = b"quorate halt v1\0";
const GENESIS_CONTEXT: &str = "quorate 2026 genesis";

/// The root of a mesh: its name is the hash of this.
#[derive(Clone, Debug, PartialEq)]
pub struct Genesis {
    /// ed25519 public keys of the people who decide, sorted, each once.
    participants: Vec<[u8; 32]>,
    config: MeshConfig,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGenesis {
    #[error("a genesis names 1 to {PARTICIPANTS_MAX} participants")]
    Participants,
    #[error("a participant is named twice")]
    Twice,
    #[error("a participant's key is not an ed25519 public key")]
    Key,
}

impl Genesis {
    pub fn new(mut participants: Vec<[u8; 32]>, config: MeshConfig) -> Result<Genesis, BadGenesis> {
        if participants.is_empty() || participants.len() > PARTICIPANTS_MAX {
            return Err(BadGenesis::Participants);
        }
        participants.sort_unstable();
        if participants.windows(2).any(|w| w[0] == w[1]) {
            return Err(BadGenesis::Twice);
        }
        // A weak key would let anybody sign for it; a second spelling would count one person twice.
        let good = |key: &[u8; 32]| {
            is_canonical(key) && VerifyingKey::from_bytes(key).is_ok_and(|k| !k.is_weak())
        };
        if !participants.iter().all(good) {
            return Err(BadGenesis::Key);
        }
        Ok(Genesis {
            participants,
            config,
        })
    }

    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    pub fn network_id(&self) -> NetworkId {
        let mut hasher = blake3::Hasher::new_derive_key(GENESIS_CONTEXT);
        hasher.update(&(self.participants.len() as u32).to_le_bytes());
        self.participants.iter().for_each(|key| {
            hasher.update(key);
        });
        hasher.update(&self.config.hash());
        NetworkId(*hasher.finalize().as_bytes())
    }
}

/// Is the y coordinate below the field's prime 2^255 - 19, as its one canonical spelling is?
fn is_canonical(key: &[u8; 32]) -> bool {
    let high = key[31] & 0x7f == 0x7f && key[1..31].iter().all(|b| *b == 0xff);
    !(high && key[0] >= 0xed)
}

/// "Stop, all of you": one participant's word, which anyone may carry. Never part of a chain, so it
/// can never be a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    pub network: NetworkId,
    pub author: [u8; 32],
    /// Tells two halts of one author apart.
    pub nonce: u128,
    pub reason: String,
    /// Seconds since 1970 by the author's clock: for people, never for decisions.
    pub advisory_time: u64,
    pub signature: [u8; 64],
}

/// Hash of a halt's body: what a resume will have to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HaltId(pub [u8; 32]);

impl Halt {
    /// The bytes that are signed, and hashed for the id.
    pub fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.reason.len());
        bytes.extend_from_slice(HALT_TAG);
        bytes.extend_from_slice(&self.network.0);
        bytes.extend_from_slice(&self.author);
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        bytes.extend_from_slice(&self.advisory_time.to_le_bytes());
        bytes.extend_from_slice(&(self.reason.len() as u32).to_le_bytes());
        bytes.extend_from_slice(self.reason.as_bytes());
        bytes
    }

    pub fn id(&self) -> HaltId {
        HaltId(*blake3::hash(&self.body()).as_bytes())
    }

    fn is_signed(&self) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.author) else {
            return false;
        };
        self.reason.len() <= HALT_REASON_BYTES_MAX
            && key
                .verify_strict(&self.body(), &Signature::from_bytes(&self.signature))
                .is_ok()
    }
}

/// What the records of a mesh amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    network: NetworkId,
    halts: BTreeMap<HaltId, ([u8; 32], String)>,
    /// Authors with more halts than are kept one by one.
    floods: BTreeSet<[u8; 32]>,
}

/// Pure: the same records give the same standing in any order, any number of times.
pub fn fold<'a>(genesis: &Genesis, halts: impl IntoIterator<Item = &'a Halt>) -> Standing {
    let network = genesis.network_id();
    let mut standing = Standing {
        network,
        halts: BTreeMap::new(),
        floods: BTreeSet::new(),
    };
    for halt in halts {
        let counts =
            halt.network == network && genesis.participants.binary_search(&halt.author).is_ok();
        if counts && halt.is_signed() {
            standing
                .halts
                .insert(halt.id(), (halt.author, halt.reason.clone()));
        }
    }
    let mut by_author: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    standing
        .halts
        .values()
        .for_each(|(author, _)| *by_author.entry(*author).or_default() += 1);
    standing.floods = by_author
        .into_iter()
        .filter(|(_, n)| *n > HALTS_PER_AUTHOR_MAX)
        .map(|(author, _)| author)
        .collect();
    let floods = standing.floods.clone();
    standing
        .halts
        .retain(|_, (author, _)| !floods.contains(author));
    standing
}

impl Standing {
    pub fn is_halted(&self) -> bool {
        !self.halts.is_empty() || !self.floods.is_empty()
    }

    /// The reasons of all standing halts, for people.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        self.halts.values().map(|(_, reason)| reason.as_str())
    }
}

/// Why a permit is not, or no longer, worth anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halted {
    #[error("this node belongs to no mesh")]
    NoMesh,
    #[error("the mesh is halted: {0}")]
    ByPeople(String),
    #[error("the permit is older than the last halt")]
    Stale,
}

/// Leave to have an effect. Made here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Mesh { generation: u64 },
}

/// What this node may do now. A change of standing takes back every mesh permit given before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    generation: u64,
    standing: Option<Standing>,
}

impl Rights {
    /// A node on its own: the owner's model on the owner's machine.
    pub fn alone() -> Rights {
        Rights {
            generation: 0,
            standing: None,
        }
    }

    /// The rights under a new standing.
    #[must_use]
    pub fn under(&self, standing: Standing) -> Rights {
        Rights {
            generation: self.generation + 1,
            standing: Some(standing),
        }
    }

    /// Always granted: no vote of others stops the owner's model on the owner's machine.
    pub fn local(&self) -> Permit {
        Permit(Kind::Local)
    }

    pub fn mesh(&self) -> Result<Permit, Halted> {
        let permit = Permit(Kind::Mesh {
            generation: self.generation,
        });
        self.check(permit).map(|()| permit)
    }

    /// Re-read before every effect.
    pub fn check(&self, permit: Permit) -> Result<(), Halted> {
        let Kind::Mesh { generation } = permit.0 else {
            return Ok(());
        };
        let standing = self.standing.as_ref().ok_or(Halted::NoMesh)?;
        if standing.is_halted() {
            let reason = standing
                .reasons()
                .next()
                .unwrap_or("more halts than can be listed");
            return Err(Halted::ByPeople(reason.to_owned()));
        }
        if generation == self.generation {
            Ok(())
        } else {
            Err(Halted::Stale)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn genesis(people: &[u8]) -> Genesis {
        let keys = people
            .iter()
            .map(|n| key(*n).verifying_key().to_bytes())
            .collect();
        Genesis::new(keys, MeshConfig::default()).unwrap()
    }

    fn halt(by: u8, nonce: u128, network: NetworkId) -> Halt {
        let author = key(by).verifying_key().to_bytes();
        let mut halt = Halt {
            network,
            author,
            nonce,
            reason: "smoke".into(),
            advisory_time: 0,
            signature: [0; 64],
        };
        halt.signature = key(by).sign(&halt.body()).to_bytes();
        halt
    }

    #[test]
    fn one_participant_halts_and_nobody_else_does() {
        let genesis = genesis(&[1, 2, 3]);
        let network = genesis.network_id();
        assert!(!fold(&genesis, []).is_halted());
        assert!(fold(&genesis, [&halt(2, 0, network)]).is_halted());
        assert!(
            !fold(&genesis, [&halt(9, 0, network)]).is_halted(),
            "a stranger"
        );
        assert!(
            !fold(&genesis, [&halt(2, 0, NetworkId([7; 32]))]).is_halted(),
            "another mesh"
        );
        let mut forged = halt(2, 0, network);
        forged.reason = "other".into();
        assert!(!fold(&genesis, [&forged]).is_halted(), "a changed body");
        let mut long = halt(2, 0, network);
        long.reason = "x".repeat(HALT_REASON_BYTES_MAX + 1);
        long.signature = key(2).sign(&long.body()).to_bytes();
        assert!(!fold(&genesis, [&long]).is_halted(), "over the cap");
    }

    #[test]
    fn a_flood_is_one_fact() {
        let genesis = genesis(&[1, 2, 3]);
        let many: Vec<Halt> = (0..=HALTS_PER_AUTHOR_MAX as u128)
            .map(|n| halt(1, n, genesis.network_id()))
            .collect();
        let standing = fold(&genesis, &many);
        assert!(standing.is_halted() && standing.halts.is_empty() && standing.floods.len() == 1);
    }

    #[test]
    fn a_halt_takes_back_mesh_permits_and_leaves_the_owner_alone() {
        let genesis = genesis(&[1]);
        let alone = Rights::alone();
        assert_eq!(alone.mesh(), Err(Halted::NoMesh));
        let running = alone.under(fold(&genesis, []));
        let permit = running.mesh().unwrap();
        assert_eq!(running.check(permit), Ok(()));
        let halted = running.under(fold(&genesis, [&halt(1, 0, genesis.network_id())]));
        assert_eq!(halted.check(permit), Err(Halted::ByPeople("smoke".into())));
        assert_eq!(halted.check(halted.local()), Ok(()));
        let later = halted.under(fold(&genesis, []));
        assert_eq!(
            later.check(permit),
            Err(Halted::Stale),
            "a permit never survives a halt"
        );
    }

    #[test]
    fn bad_genesis_is_refused() {
        let good = key(1).verifying_key().to_bytes();
        let make = |keys: Vec<[u8; 32]>| Genesis::new(keys, MeshConfig::default()).map(|_| ());
        assert_eq!(make(vec![]), Err(BadGenesis::Participants));
        assert_eq!(make(vec![good, good]), Err(BadGenesis::Twice));
        assert_eq!(make(vec![[0; 32]]), Err(BadGenesis::Key), "a weak key");
        assert_eq!(make(vec![[255; 32]]), Err(BadGenesis::Key));
        assert_ne!(genesis(&[1]).network_id(), genesis(&[2]).network_id());
        assert_eq!(genesis(&[1, 2]).network_id(), genesis(&[2, 1]).network_id());
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(picks in prop::collection::vec((0u8..5, 0u128..40), 0..40), turn in 0usize..40) {
            let genesis = genesis(&[1, 2, 3]);
            let halts: Vec<Halt> = picks.iter().map(|(by, n)| halt(*by, *n, genesis.network_id())).collect();
            let mut other: Vec<&Halt> = halts.iter().rev().chain(&halts).collect();
            if !other.is_empty() {
                let at = turn % other.len();
                other.rotate_left(at);
            }
            prop_assert_eq!(fold(&genesis, &halts), fold(&genesis, other));
        }
    }
}
