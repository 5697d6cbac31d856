//! Machines with keys, for the tests of this module.

use super::{Address, Advert, ExpertRow, Host, Invite, Nonce, Place, Transport};
use crate::config::MeshConfig;
use crate::governance::{Admission, Author, Genesis, Preset, Terms};
use crate::ids::{ExpertId, Fingerprint, NetworkId};
use core::net::Ipv4Addr;
use ed25519_dalek::{Signer, SigningKey};

pub(super) const NOW_S: u64 = 1_800_000_000;

pub(super) struct Machine(SigningKey);

pub(super) fn machine(n: u16) -> Machine {
    let mut seed = [9; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    Machine(SigningKey::from_bytes(&seed))
}

pub(super) fn genesis(nodes: &[&Machine]) -> Genesis {
    let person = machine(200).key();
    let mut terms = Terms::of(Preset::Lab, vec![person], MeshConfig::default());
    terms.nodes = nodes.iter().map(|node| node.key()).collect();
    terms.nodes.sort_unstable();
    terms.found().unwrap()
}

pub(super) fn address(n: u8) -> Address {
    Address {
        place: place(n),
        transport: Transport::Quic,
        relay: None,
    }
}

pub(super) fn place(n: u8) -> Place {
    Place {
        host: Host::Ip(Ipv4Addr::new(10, 0, 0, n).into()),
        port: 7868,
    }
}

impl Machine {
    pub(super) fn key(&self) -> Author {
        self.0.verifying_key().to_bytes()
    }

    fn sign(&self, body: &[u8]) -> [u8; 64] {
        self.0.sign(body).to_bytes()
    }

    pub(super) fn invite(&self, network: NetworkId) -> Invite {
        let mut invite = Invite {
            network,
            issuer: self.key(),
            addresses: vec![address(1), address(2)],
            issued_s: NOW_S,
            expires_s: NOW_S + 86_400,
            nonce: Nonce([7; 16]),
            signature: [0; 64],
        };
        invite.signature = self.sign(&invite.body());
        invite
    }

    pub(super) fn signed(&self, mut admission: Admission) -> Admission {
        admission.signature = self.sign(&admission.body());
        admission
    }

    pub(super) fn admit(&self, network: NetworkId, subject: Author) -> Admission {
        self.signed(Admission {
            network,
            issuer: self.key(),
            subject,
            issued_s: NOW_S - 1000,
            expires_s: NOW_S + 1000,
            signature: [0; 64],
        })
    }

    /// A first advert; `change` may alter it before it is signed.
    pub(super) fn advert(&self, network: NetworkId, change: impl FnOnce(&mut Advert)) -> Advert {
        let mut advert = Advert {
            network,
            node: self.key(),
            instance: 1,
            seq: 1,
            issued_s: NOW_S,
            leaves: false,
            addresses: vec![address(1)],
            plane: vec![place(1)],
            experts: vec![row(1)],
            signature: [0; 64],
        };
        change(&mut advert);
        advert.signature = self.sign(&advert.body());
        advert
    }
}

pub(super) fn row(n: u8) -> ExpertRow {
    ExpertRow {
        expert: ExpertId([n; 32]),
        model: "smollm2:135m".into(),
        file: [1; 32],
        vocabulary: Fingerprint([2; 32]),
        family: "chatml".into(),
        context: 8192,
        slots: 16,
        needs_allow_list: false,
    }
}
