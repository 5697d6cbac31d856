//! What the store remembers about one installed model: `models/<slug>/manifest.json`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::StoreError;

/// The manifest's own format; a newer one than ours is refused, not guessed at.
const VERSION: u32 = 1;
/// Far above any real manifest, so that a damaged one cannot fill memory.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;
pub(super) const MANIFEST_FILE: &str = "manifest.json";

/// One installed model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// Canonical name: what `list` prints and `run` takes.
    pub name: String,
    /// Where it came from, for people.
    pub source: String,
    /// Commit or version that was pinned; `None` for a local file.
    pub revision: Option<String>,
    pub file: FileRef,
    /// Hash of the whole file, in hex.
    pub sha256: String,
    pub bytes: u64,
    /// Seconds since 1970.
    pub installed_at_s: u64,
    /// What the file looked like when its hash was last verified.
    pub stamp: Stamp,
    /// BLAKE3 over the decoded vocabulary; filled in when the engine first loads the model.
    #[serde(default)]
    pub vocab_fingerprint: Option<String>,
}

/// Where the model's bytes lie, and so who may delete them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRef {
    /// Beside the manifest: ours.
    Owned(String),
    /// In the hub cache that other programs share: never written, never deleted.
    HubCache(PathBuf),
    /// A file of the user's.
    Local(PathBuf),
}

/// Size and time of last change: when both are as they were, the content is taken to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub bytes: u64,
    pub modified_ns: u64,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Stamp> {
        let meta = fs::metadata(path)?;
        let since = meta
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Ok(Stamp {
            bytes: meta.len(),
            modified_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

pub(super) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Manifest {
    /// The manifest in `dir`, or `None` when there is none.
    pub(super) fn load(dir: &Path) -> Result<Option<Manifest>, StoreError> {
        let path = dir.join(MANIFEST_FILE);
        let bad = |why: String| StoreError::BadManifest {
            path: path.clone(),
            why,
        };
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StoreError::Io {
                    doing: "read",
                    path,
                    source,
                });
            }
        };
        if meta.len() > MAX_MANIFEST_BYTES {
            return Err(bad(format!(
                "it is {} bytes long, the limit is {MAX_MANIFEST_BYTES}",
                meta.len()
            )));
        }
        let text = fs::read(&path).map_err(|source| StoreError::Io {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(bad(format!(
                "it has version {}, this program reads {VERSION}",
                manifest.version
            )));
        }
        if !is_sha256(&manifest.sha256) {
            return Err(bad("its sha256 is not 64 hex digits".into()));
        }
        if let FileRef::Owned(file) = &manifest.file
            && !is_plain_file_name(file)
        {
            return Err(bad(format!("its file {file:?} is not a plain file name")));
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest in `dir` in one step that survives a power cut.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(format!("{MANIFEST_FILE}.new"));
        let mut file = fs::File::create(&temporary)?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(MANIFEST_FILE))?;
        sync_dir(dir)
    }

    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        match &self.file {
            FileRef::Owned(file) => dir.join(file),
            FileRef::HubCache(path) | FileRef::Local(path) => path.clone(),
        }
    }

    /// A manifest of this format's current version.
    pub(super) const fn current_version() -> u32 {
        VERSION
    }
}

/// Makes renames and unlinks in `dir` durable. Only Unix needs it and can do it.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

/// 64 lower-case hex digits.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A name that stays in its directory on every platform and hides nothing.
pub(super) fn is_plain_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+ ".contains(c);
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with(['.', ' '])
        && name.chars().all(plain)
}
