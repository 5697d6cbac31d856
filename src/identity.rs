//! Who this node is: an ed25519 key in a file that only its owner can read.

use crate::error::{Failure, Kind, Outcome};
use libp2p_identity::{KeyType, Keypair, PeerId};
use quorate_core::ids::PeerKey;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// How a peer id spells an ed25519 key: multihash "identity" of 36 bytes, protobuf of key type 1
/// and 32 bytes.
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The key behind the id of a node, as people copy it; None if it is no such id.
pub fn peer_key(id: &str) -> Option<PeerKey> {
    key_of(&id.parse::<PeerId>().ok()?)
}

/// The key in an id; None for an id that hides its key.
pub fn key_of(peer: &PeerId) -> Option<PeerKey> {
    let bytes = peer.to_bytes();
    bytes.strip_prefix(&PEER_ID_HEAD)?.try_into().ok()
}

/// The id of a node, from its key.
pub fn peer_id(key: &PeerKey) -> String {
    peer_of(key).to_string()
}

pub fn peer_of(key: &PeerKey) -> PeerId {
    let bytes = [&PEER_ID_HEAD[..], key].concat();
    PeerId::from_bytes(&bytes).expect("a multihash of 36 bytes is a peer id")
}

/// Bits that let anybody but the owner in.
const OTHERS: u32 = 0o077;

pub struct Identity {
    pub keypair: Keypair,
}

impl Identity {
    pub fn node_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The public key: what peers know this node by.
    pub fn key(&self) -> PeerKey {
        let public = self.keypair.public();
        let key = public.try_into_ed25519().map(|key| key.to_bytes());
        key.expect("`load` takes ed25519 keys only")
    }

    /// A secret for one purpose, the same in every life of this node.
    pub fn secret_for(&self, purpose: &str) -> [u8; 32] {
        let key = self.keypair.to_protobuf_encoding();
        let key = key.expect("an ed25519 key has an encoding");
        blake3::derive_key(purpose, &key)
    }

    /// Reads the key, or makes one where there is none.
    pub fn load_or_create(path: &Path) -> Outcome<Identity> {
        match Identity::load(path)? {
            Some(identity) => Ok(identity),
            None => Identity::create(path),
        }
    }

    /// None if there is no key yet.
    pub fn load(path: &Path) -> Outcome<Option<Identity>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::file("read", path, &error)),
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            let message = format!(
                "others can read this node's key {} (mode {mode:03o}): whoever has it can speak as you",
                path.display()
            );
            let hint = format!("chmod 600 {}", quoted(path));
            return Err(Failure::new(Kind::Config, message).hint(hint));
        }
        let bytes = fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
        let keypair = Keypair::from_protobuf_encoding(&bytes).map_err(|error| {
            Failure::new(
                Kind::Config,
                format!("{} is not a key of this program: {error}", path.display()),
            )
            .hint(format!(
                "restore it from a backup, or move it away and let a new identity be made: mv {0} {0}.bad",
                quoted(path)
            ))
        })?;
        if keypair.key_type() != KeyType::Ed25519 {
            let message = format!(
                "{} is a key of another kind than this program makes",
                path.display()
            );
            let hint = format!(
                "move it away and let a new identity be made: mv {0} {0}.bad",
                quoted(path)
            );
            return Err(Failure::new(Kind::Config, message).hint(hint));
        }
        Ok(Some(Identity { keypair }))
    }

    fn create(path: &Path) -> Outcome<Identity> {
        let keypair = Keypair::generate_ed25519();
        let bytes = keypair
            .to_protobuf_encoding()
            .map_err(|error| Failure::new(Kind::Failed, format!("cannot encode a key: {error}")))?;
        match write_new(path, &bytes) {
            Ok(()) => Ok(Identity { keypair }),
            // Two first commands at once: the one that was quicker decided.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Identity::load(path)?.ok_or_else(|| Failure::file("read", path, &error))
            }
            Err(error) => Err(Failure::file("write", path, &error)),
        }
    }
}

/// Appears whole or not at all, and never in place of another key.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let draft = path.with_extension(format!("key.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::hard_link(&draft, path)
    })();
    let removed = fs::remove_file(&draft);
    written.and(removed)
}

/// A path that can be pasted into a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let first = Identity::load_or_create(&path).unwrap().node_id();
        assert_eq!(Identity::load_or_create(&path).unwrap().node_id(), first);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn an_id_and_its_key_are_one() {
        let identity = Identity {
            keypair: Keypair::generate_ed25519(),
        };
        let id = identity.node_id().to_string();
        assert_eq!(peer_key(&id), Some(identity.key()));
        assert_eq!(peer_id(&identity.key()), id);
        assert_eq!(
            peer_key("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"),
            None
        );
        assert_eq!(peer_key("ada"), None);
        assert_ne!(identity.secret_for("a"), identity.secret_for("b"));
    }

    #[test]
    fn a_readable_key_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let Err(failure) = Identity::load(&path) else {
            panic!("accepted")
        };
        assert_eq!(
            failure.hint.unwrap(),
            format!("chmod 600 {}", path.display())
        );
    }

    #[test]
    fn a_broken_key_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        write_new(&path, b"not a key").unwrap();
        assert!(Identity::load_or_create(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}
