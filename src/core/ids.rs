//! Names of things. Newtypes, so that a session can never be taken for a request.

use std::fmt;

/// An entry of a vocabulary. Positions and ids on the wire are 32-bit.
pub type Token = u32;

/// Index of a token in a session's public text (the prompt counts, a private prefix does not).
pub type Position = u32;

/// Microseconds on the caller's monotonic clock. Core never reads a clock; it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl Micros {
    /// Time passed since `earlier`; zero if the clock went backwards.
    pub fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One request's life across router and experts. Random on the wire, so that peers cannot guess it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

/// One complete model a node serves: H(peer, model, adapter, context, prefix). Sums run in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpertId(pub [u8; 32]);

/// A node's public key: its name in the mesh.
pub type PeerKey = [u8; 32];

/// What the id of an expert is a function of.
#[derive(Clone, Copy, Debug)]
pub struct ExpertParts<'a> {
    pub peer: &'a PeerKey,
    /// SHA-256 of the model file, in hex.
    pub model_sha256: &'a str,
    /// Hash of the adapter; empty without one.
    pub adapter: &'a str,
    /// Tokens that one session may hold, as shown to others.
    pub context: u32,
    /// Commitment to a private prefix, under a secret of its node: a plain hash would let anybody
    /// check a guess.
    pub prefix: Option<[u8; 32]>,
}

impl ExpertId {
    /// The one place where ids of experts are made.
    pub fn of(parts: &ExpertParts<'_>) -> ExpertId {
        let mut hasher = blake3::Hasher::new_derive_key("quorate 2026 expert id");
        hasher.update(parts.peer);
        for part in [parts.model_sha256, parts.adapter] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&parts.context.to_le_bytes());
        if let Some(prefix) = &parts.prefix {
            hasher.update(prefix);
        }
        ExpertId(*hasher.finalize().as_bytes())
    }
}

/// Hash of a vocabulary; experts mix only when theirs are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// Hash of a genesis: the name of a mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub [u8; 32]);

macro_rules! hex_display {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
                write!(f, "..)")
            }
        }
    )*};
}
hex_display!(ExpertId, Fingerprint, NetworkId);
