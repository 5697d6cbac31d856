//! Which machines belong to the mesh: those of the genesis, and short chains of signed, expiring
//! words from one of them. Any participant takes a link or a machine out.

use super::codec::{Author, Malformed, Reader, Writer, hash, is_good_key, is_signed};
use crate::ids::NetworkId;
use crate::limits::{ADMISSION_CHAIN_MAX, ADMISSION_S_MAX, RECORD_BYTES_MAX};
use std::collections::BTreeSet;

pub(super) const ADMISSION_TAG: &[u8] = b"quorate admission v1\0";
pub(super) const REVOCATION_TAG: &[u8] = b"quorate revocation v1\0";

/// One node's word that another belongs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub network: NetworkId,
    pub issuer: Author,
    pub subject: Author,
    /// Seconds since 1970.
    pub issued_s: u64,
    pub expires_s: u64,
    pub signature: [u8; 64],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdmissionId(pub [u8; 32]);

impl Admission {
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(ADMISSION_TAG)
            .raw(&self.network.0)
            .raw(&self.issuer)
            .raw(&self.subject);
        out.u64(self.issued_s).u64(self.expires_s);
        out.0
    }

    pub fn id(&self) -> AdmissionId {
        AdmissionId(hash("quorate 2026 admission", &self.body()))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Admission, Malformed> {
        let mut read = Reader::open(bytes, RECORD_BYTES_MAX, ADMISSION_TAG)?;
        let admission = Admission {
            network: NetworkId(read.array()?),
            issuer: read.array()?,
            subject: read.array()?,
            issued_s: read.u64()?,
            expires_s: read.u64()?,
            signature: read.array()?,
        };
        read.end()?;
        let Admission {
            issued_s,
            expires_s,
            ..
        } = admission;
        if expires_s <= issued_s || expires_s - issued_s > ADMISSION_S_MAX {
            return Err(Malformed::Range("the time of an admission"));
        }
        if !is_good_key(&admission.subject) {
            return Err(Malformed::Range("the admitted key"));
        }
        if !is_signed(&admission.issuer, &admission.body(), &admission.signature) {
            return Err(Malformed::Signature);
        }
        Ok(admission)
    }
}

/// What is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// One admission; its subject may hold another.
    Link(AdmissionId),
    /// A machine, for good: of the genesis or not, and all that it admitted.
    Node(Author),
}

/// One participant's word. Counts as long as he is a participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub network: NetworkId,
    pub author: Author,
    pub target: Target,
    pub signature: [u8; 64],
}

impl Revocation {
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(REVOCATION_TAG)
            .raw(&self.network.0)
            .raw(&self.author);
        match &self.target {
            Target::Link(id) => out.u8(1).raw(&id.0),
            Target::Node(key) => out.u8(2).raw(key),
        };
        out.0
    }

    pub fn id(&self) -> [u8; 32] {
        hash("quorate 2026 revocation", &self.body())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Revocation, Malformed> {
        let mut read = Reader::open(bytes, RECORD_BYTES_MAX, REVOCATION_TAG)?;
        let (network, author) = (NetworkId(read.array()?), read.array()?);
        let target = match (read.u8()?, read.array()?) {
            (1, id) => Target::Link(AdmissionId(id)),
            (2, key) => Target::Node(key),
            _ => return Err(Malformed::Range("the target")),
        };
        let signature = read.array()?;
        read.end()?;
        let revocation = Revocation {
            network,
            author,
            target,
            signature,
        };
        if !is_signed(&author, &revocation.body(), &signature) {
            return Err(Malformed::Signature);
        }
        Ok(revocation)
    }
}

/// Who is admitted, but for the time: nodes of the genesis and links, less what was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admissions {
    pub(super) nodes: BTreeSet<Author>,
    pub(super) links: Vec<Admission>,
}

impl Admissions {
    pub(super) fn new<'a>(
        nodes: &[Author],
        links: impl Iterator<Item = &'a Admission>,
        taken_out: &BTreeSet<Target>,
    ) -> Admissions {
        let stays = |key: &Author| !taken_out.contains(&Target::Node(*key));
        let kept = links.filter(|link| {
            !taken_out.contains(&Target::Link(link.id()))
                && stays(&link.issuer)
                && stays(&link.subject)
        });
        Admissions {
            nodes: nodes.iter().copied().filter(stays).collect(),
            links: kept.cloned().collect(),
        }
    }

    /// Is there a chain of at most three links that are all valid now?
    pub fn admits(&self, node: &Author, now_s: u64) -> bool {
        self.admitted(now_s).contains(node)
    }

    pub fn is_of_genesis(&self, node: &Author) -> bool {
        self.nodes.contains(node)
    }

    /// The valid admission of `node` whose issuer is nearest to the genesis, and lasts longest.
    pub fn nearest_link(&self, node: &Author, now_s: u64) -> Option<&Admission> {
        let valid = |l: &&Admission| l.issued_s <= now_s && now_s < l.expires_s;
        let mut reached = self.nodes.clone();
        for _ in 0..ADMISSION_CHAIN_MAX {
            let links = self.links.iter().filter(valid);
            let from_reached = links.filter(|l| reached.contains(&l.issuer));
            let of_node = from_reached.clone().filter(|l| l.subject == *node);
            if let Some(link) = of_node.max_by_key(|l| l.expires_s) {
                return Some(link);
            }
            let next: Vec<Author> = from_reached.map(|l| l.subject).collect();
            reached.extend(next);
        }
        None
    }

    /// Every node that such a chain leads to.
    pub fn admitted(&self, now_s: u64) -> BTreeSet<Author> {
        let is_valid = |l: &&Admission| l.issued_s <= now_s && now_s < l.expires_s;
        let mut reached = self.nodes.clone();
        for _ in 0..ADMISSION_CHAIN_MAX {
            let valid = self.links.iter().filter(is_valid);
            let next: Vec<Author> = valid
                .filter(|l| reached.contains(&l.issuer) && !reached.contains(&l.subject))
                .map(|l| l.subject)
                .collect();
            if next.is_empty() {
                break;
            }
            reached.extend(next);
        }
        reached
    }
}
