//! `mesh/` in the home: the mesh that this node belongs to. The files are the truth: a running node
//! looks at them, so `join` and `leave` work whether it runs or not.
//!
//! ```text
//! mesh/genesis     the root of the mesh; its hash is the name of the mesh
//! mesh/records.log what people and nodes have signed since (`crate::ledger`)
//! mesh/invite      the invite that let this node in: whom to ask for the way
//! mesh/revoked     invites of this node that its owner took back
//! mesh/gate        which experts knew what was asked here (`quorate_core::weights::Own`)
//! ```

use crate::error::{Failure, Kind, Outcome};
use crate::home::{Home, create_private_dir};
use crate::ledger::Ledger;
use crate::net::swarm::Seed;
use quorate_core::governance::{Genesis, Record};
use quorate_core::ids::NetworkId;
use quorate_core::limits::{GATE_FILE_BYTES_MAX, INVITES_REVOKED_MAX, RECORD_BYTES_MAX};
use quorate_core::mesh::{Invite, Nonce};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// One line of `revoked`.
const NONCE_LINE_BYTES: usize = 33;

#[derive(Clone, Debug)]
pub struct MeshHome {
    dir: PathBuf,
}

impl MeshHome {
    pub fn of(home: &Home) -> MeshHome {
        let dir = home.data.join("mesh");
        MeshHome { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// None: this node belongs to no mesh.
    pub fn genesis(&self) -> Outcome<Option<Genesis>> {
        let path = self.dir.join("genesis");
        let Some(bytes) = read_bounded(&path, RECORD_BYTES_MAX)? else {
            return Ok(None);
        };
        let damaged = |why| {
            Failure::new(
                Kind::Config,
                format!("the mesh's genesis {} is damaged: {why}", path.display()),
            )
            .hint("leave the mesh and join it again: quorate leave")
        };
        Genesis::decode(&bytes).map(Some).map_err(damaged)
    }

    /// The name of the mesh, without reading more of it.
    pub fn network(&self) -> Option<NetworkId> {
        let genesis = self.genesis().ok().flatten()?;
        Some(genesis.network_id())
    }

    /// Makes this node a member. The directory appears whole or not at all.
    pub fn enter(&self, genesis: &Genesis, records: &[Record], way: Option<&Invite>) -> Outcome {
        if self.dir.exists() {
            let name = self.network().map_or_else(String::new, |n| format!(" {n}"));
            return Err(Failure::new(
                Kind::Taken,
                format!("this node belongs to a mesh already{name}"),
            )
            .hint("a node belongs to one mesh: leave that one first with `quorate leave`"));
        }
        let draft = self
            .dir
            .with_extension(format!("draft.{}", std::process::id()));
        remove_dir(&draft)?;
        create_private_dir(&draft)?;
        let filled = self.fill(&draft, genesis, records, way);
        let entered = filled.and_then(|()| {
            fs::rename(&draft, &self.dir).map_err(|e| Failure::file("write", &self.dir, &e))?;
            sync_dir(&self.dir)
        });
        if entered.is_err() {
            remove_dir(&draft)?;
        }
        entered
    }

    fn fill(
        &self,
        draft: &Path,
        genesis: &Genesis,
        records: &[Record],
        way: Option<&Invite>,
    ) -> Outcome {
        let mut ledger =
            Ledger::create(draft, genesis).map_err(|lost| lost.at(draft.to_owned()))?;
        ledger.append(records)?;
        match way {
            Some(invite) => write_new(&draft.join("invite"), invite.to_string().as_bytes()),
            None => Ok(()),
        }
    }

    /// False if there was nothing to leave.
    pub fn leave(&self) -> Outcome<bool> {
        if !self.dir.exists() {
            return Ok(false);
        }
        // Out of sight in one step; a node that runs sees it at once.
        let old = self
            .dir
            .with_extension(format!("left.{}", std::process::id()));
        fs::rename(&self.dir, &old).map_err(|error| Failure::file("leave", &self.dir, &error))?;
        remove_dir(&old)?;
        Ok(true)
    }

    /// Where the node that let us in was.
    pub fn way(&self) -> Vec<Seed> {
        let path = self.dir.join("invite");
        let text = read_bounded(&path, RECORD_BYTES_MAX).ok().flatten();
        let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
        let invite = text.and_then(|text| Invite::parse(&text).ok());
        let seeds = invite.map(|invite| {
            let seed = |address| Seed {
                node: Some(invite.issuer),
                address,
            };
            invite.addresses.into_iter().map(seed).collect()
        });
        seeds.unwrap_or_default()
    }

    /// Takes an invite of this node back; a running node reads it at the next one who shows it.
    pub fn revoke(&self, nonce: Nonce) -> Outcome {
        if self.revoked()?.contains(&nonce) {
            return Ok(());
        }
        let path = self.dir.join("revoked");
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(format!("{nonce}\n").as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Failure::file("write", &path, &error))
    }

    /// A list that cannot be read takes everything back.
    pub fn is_revoked(&self, nonce: &Nonce) -> bool {
        self.revoked().map_or(true, |all| all.contains(nonce))
    }

    /// None: nothing was counted yet.
    pub fn gate(&self) -> Outcome<Option<Vec<u8>>> {
        read_bounded(&self.dir.join("gate"), GATE_FILE_BYTES_MAX)
    }

    /// The old file or the new one, whatever happens. A mesh that was left has none.
    pub fn keep_gate(&self, bytes: &[u8]) -> Outcome {
        let (path, draft) = (self.dir.join("gate"), self.dir.join("gate.draft"));
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Failure::file("write", &draft, &error));
            }
            _ => write_new(&draft, bytes)?,
        }
        fs::rename(&draft, &path).map_err(|error| Failure::file("write", &path, &error))?;
        sync_dir(&path)
    }

    fn revoked(&self) -> Outcome<Vec<Nonce>> {
        let path = self.dir.join("revoked");
        let full = INVITES_REVOKED_MAX * NONCE_LINE_BYTES;
        let bytes = read_bounded(&path, full)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let nonces: Vec<Nonce> = text.lines().filter_map(Nonce::parse).collect();
        if nonces.len() >= INVITES_REVOKED_MAX {
            return Err(Failure::new(
                Kind::TooLarge,
                format!(
                    "{INVITES_REVOKED_MAX} invites were taken back, which is as many as are kept"
                ),
            )
            .hint(format!(
                "invites expire by themselves: move {} away and take back those that still count",
                path.display()
            )));
        }
        Ok(nonces)
    }
}

fn read_bounded(path: &Path, max: usize) -> Outcome<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file("read", path, &error)),
    };
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() > max {
        let message = format!("{} is longer than {max} bytes", path.display());
        return Err(Failure::new(Kind::Config, message));
    }
    Ok(Some(bytes))
}

fn write_new(path: &Path, bytes: &[u8]) -> Outcome {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Failure::file("write", path, &error))
}

fn remove_dir(path: &Path) -> Outcome {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::file("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// The rename is on the disk, not only in memory.
fn sync_dir(dir: &Path) -> Outcome {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|file| file.sync_all())
        .map_err(|error| Failure::file("write", parent, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::config::MeshConfig;

    fn genesis() -> Genesis {
        let key = libp2p_identity::Keypair::generate_ed25519().public();
        let key = key.try_into_ed25519().unwrap().to_bytes();
        Genesis::new(vec![key], MeshConfig::default()).unwrap()
    }

    fn mesh(dir: &Path) -> MeshHome {
        MeshHome {
            dir: dir.join("mesh"),
        }
    }

    #[test]
    fn a_node_belongs_to_one_mesh_until_it_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = mesh(dir.path());
        assert!(mesh.genesis().unwrap().is_none() && !mesh.leave().unwrap());
        let (one, other) = (genesis(), genesis());
        mesh.enter(&one, &[], None).unwrap();
        assert_eq!(mesh.genesis().unwrap(), Some(one.clone()));
        assert_eq!(mesh.enter(&other, &[], None).unwrap_err().kind, Kind::Taken);
        assert_eq!(mesh.network(), Some(one.network_id()));
        assert!(mesh.leave().unwrap());
        mesh.enter(&other, &[], None).unwrap();
        assert_eq!(mesh.network(), Some(other.network_id()));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no drafts stay"
        );
    }

    #[test]
    fn what_was_taken_back_stays_so_and_a_list_that_cannot_be_read_takes_all_back() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = mesh(dir.path());
        mesh.enter(&genesis(), &[], None).unwrap();
        let (one, other) = (Nonce([1; 16]), Nonce([2; 16]));
        mesh.revoke(one).unwrap();
        mesh.revoke(one).unwrap();
        assert!(mesh.is_revoked(&one) && !mesh.is_revoked(&other));
        let path = mesh.dir().join("revoked");
        assert_eq!(
            fs::metadata(&path).unwrap().len() as usize,
            NONCE_LINE_BYTES
        );
        fs::write(&path, format!("{one}\n").repeat(INVITES_REVOKED_MAX)).unwrap();
        assert!(mesh.is_revoked(&other));
        assert_eq!(mesh.revoke(other).unwrap_err().kind, Kind::TooLarge);
    }

    #[test]
    fn the_gate_is_the_old_one_or_the_new_one_and_goes_with_the_mesh() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = mesh(dir.path());
        mesh.enter(&genesis(), &[], None).unwrap();
        assert_eq!(mesh.gate().unwrap(), None);
        mesh.keep_gate(b"one").unwrap();
        // A crash between two steps leaves a draft.
        fs::write(mesh.dir().join("gate.draft"), b"tw").unwrap();
        assert_eq!(mesh.gate().unwrap().as_deref(), Some(&b"one"[..]));
        mesh.keep_gate(b"two").unwrap();
        assert_eq!(mesh.gate().unwrap().as_deref(), Some(&b"two"[..]));
        let full = vec![0; GATE_FILE_BYTES_MAX];
        mesh.keep_gate(&full).unwrap();
        assert!(mesh.gate().is_ok());
        mesh.keep_gate(&[full, vec![0]].concat()).unwrap();
        assert!(mesh.gate().is_err());
        assert!(mesh.leave().unwrap() && mesh.keep_gate(b"late").is_err());
    }

    #[test]
    fn a_damaged_genesis_is_a_message_and_can_be_left() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = mesh(dir.path());
        mesh.enter(&genesis(), &[], None).unwrap();
        fs::write(mesh.dir().join("genesis"), b"rubbish").unwrap();
        let failure = mesh.genesis().unwrap_err();
        assert!(failure.hint.unwrap().contains("quorate leave"));
        assert!(mesh.leave().unwrap());
    }
}
