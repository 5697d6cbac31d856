//! `/quorate/join/1`: an invite is shown, an admission comes back. The connection has proved both
//! keys before a word is said.

use super::invite::Invite;
use crate::governance::codec::{Author, Malformed, Reader, Writer};
use crate::governance::{Admission, Admissions, Genesis, Record, Replica};
use crate::ids::NetworkId;
use crate::limits::{ADMISSION_CHAIN_MAX, ADMISSION_S, SKEW_S_MAX, WELCOME_BYTES_MAX};

const TAG: &[u8] = b"quorate welcome v1\0";

/// What the issuer of an invite answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Bytes of the genesis, and of the admissions that lead from it to the guest, in this order.
    Welcome {
        genesis: Vec<u8>,
        chain: Vec<Vec<u8>>,
    },
    Refused(Refusal),
}

/// Why nobody is let in on this invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("what was shown is no invite")]
    Malformed,
    #[error("the invite is for another mesh")]
    OtherMesh,
    #[error("another node signed the invite")]
    OtherIssuer,
    #[error("the invite has expired")]
    Expired,
    #[error("the invite was revoked")]
    Revoked,
    #[error("the node that signed the invite may not let others in: it is the last of a chain")]
    ChainEnds,
    #[error("this node was taken out of the mesh")]
    TakenOut,
    #[error("the mesh keeps no more admissions")]
    Full,
}

const REFUSALS: [Refusal; 8] = [
    Refusal::Malformed,
    Refusal::OtherMesh,
    Refusal::OtherIssuer,
    Refusal::Expired,
    Refusal::Revoked,
    Refusal::ChainEnds,
    Refusal::TakenOut,
    Refusal::Full,
];

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG);
        match self {
            Answer::Welcome { genesis, chain } => {
                out.u8(1).u32(genesis.len() as u32).raw(genesis);
                out.u8(chain.len() as u8);
                for link in chain {
                    out.u32(link.len() as u32).raw(link);
                }
            }
            Answer::Refused(why) => {
                out.u8(0).u8(*why as u8);
            }
        }
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut read = Reader::open(bytes, WELCOME_BYTES_MAX, TAG)?;
        let answer = match read.u8()? {
            1 => {
                let genesis = read.bytes(WELCOME_BYTES_MAX, "the genesis")?.to_vec();
                let n = usize::from(read.u8()?);
                if n > ADMISSION_CHAIN_MAX {
                    return Err(Malformed::Range("the chain of admissions"));
                }
                let link = |_| Ok(read.bytes(WELCOME_BYTES_MAX, "an admission")?.to_vec());
                let chain = (0..n).map(link).collect::<Result<Vec<_>, Malformed>>()?;
                Answer::Welcome { genesis, chain }
            }
            0 => {
                let why = REFUSALS.get(usize::from(read.u8()?));
                Answer::Refused(*why.ok_or(Malformed::Range("the refusal"))?)
            }
            _ => return Err(Malformed::Range("the answer")),
        };
        read.end()?;
        Ok(answer)
    }
}

/// The issuer's decision: an admission that only lacks its signature. `guest` is the key that the
/// connection proved.
pub fn judge(
    invite: &Invite,
    is_revoked: bool,
    guest: Author,
    own: Author,
    network: NetworkId,
    now_s: u64,
) -> Result<Admission, Refusal> {
    if invite.network != network {
        return Err(Refusal::OtherMesh);
    }
    if invite.issuer != own {
        return Err(Refusal::OtherIssuer);
    }
    if is_revoked {
        return Err(Refusal::Revoked);
    }
    if now_s >= invite.expires_s {
        return Err(Refusal::Expired);
    }
    Ok(Admission {
        network,
        issuer: own,
        subject: guest,
        // From a day ago: clocks that are behind ours find it valid at once.
        issued_s: now_s.saturating_sub(SKEW_S_MAX),
        expires_s: now_s + ADMISSION_S,
        signature: [0; 64],
    })
}

/// The links that lead from a node of the genesis to `node`, the first one first. None if there is no
/// such chain now; empty for a node of the genesis.
pub fn chain_to(admissions: &Admissions, node: &Author, now_s: u64) -> Option<Vec<Admission>> {
    if !admissions.admits(node, now_s) {
        return None;
    }
    let mut chain = Vec::new();
    let mut at = *node;
    while !admissions.is_of_genesis(&at) {
        if chain.len() == ADMISSION_CHAIN_MAX {
            return None;
        }
        let link = admissions.nearest_link(&at, now_s)?;
        at = link.issuer;
        chain.push(link.clone());
    }
    chain.reverse();
    Some(chain)
}

/// Why a welcome is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWelcome {
    #[error("its genesis is damaged: {0}")]
    Genesis(Malformed),
    #[error("its genesis is that of another mesh than the invite names")]
    OtherMesh,
    #[error("its chain of admissions is damaged: {0}")]
    Chain(Malformed),
    #[error("its admissions do not lead to this node")]
    NotAdmitted,
}

/// The guest's check: the genesis is the one that the invite pins, and the chain leads to `own`.
pub fn check_welcome(
    invite: &Invite,
    own: &Author,
    genesis: &[u8],
    chain: &[Vec<u8>],
    now_s: u64,
) -> Result<Replica, BadWelcome> {
    let genesis = Genesis::decode(genesis).map_err(BadWelcome::Genesis)?;
    if genesis.network_id() != invite.network {
        return Err(BadWelcome::OtherMesh);
    }
    let mut replica = Replica::new(genesis);
    for link in chain {
        let link = Admission::decode(link).map_err(BadWelcome::Chain)?;
        replica.insert(Record::Admission(link));
        replica.refold();
    }
    // The issuer vouched for the chain just now, over its own connection; a clock that is a day off
    // is this machine's trouble, not the chain's.
    let is_in = |now_s| replica.standing().admissions().admits(own, now_s);
    let near = [now_s, now_s + SKEW_S_MAX, now_s.saturating_sub(SKEW_S_MAX)];
    if near.into_iter().any(is_in) {
        Ok(replica)
    } else {
        Err(BadWelcome::NotAdmitted)
    }
}
