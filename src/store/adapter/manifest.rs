//! What is remembered of an installed adapter.

use super::AdapterError;
use crate::store::manifest::{Stamp, is_sha256, sync_dir};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// A newer one than ours is refused, not guessed at.
pub(super) const VERSION: u32 = 1;
/// Far above any real manifest.
const BYTES_MAX: u64 = 64 * 1024;
const MANIFEST_FILE: &str = "adapter.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterManifest {
    pub version: u32,
    pub name: String,
    /// Where it came from, for people.
    pub source: String,
    /// The base that it was added for, and the hash of its file: it goes with no other.
    pub base: String,
    pub base_sha256: String,
    pub rank: u64,
    /// The scale is `alpha / rank`.
    pub alpha: f32,
    /// How many matrices of the base it changes.
    pub matrices: u64,
    /// Hash of the converted file, in hex.
    pub sha256: String,
    pub bytes: u64,
    /// Seconds since 1970.
    pub installed_at_s: u64,
    /// What the file looked like when its hash was last verified.
    pub stamp: Stamp,
}

impl AdapterManifest {
    /// The manifest in `dir`, or `None` when there is none.
    pub(super) fn load(dir: &Path) -> Result<Option<AdapterManifest>, AdapterError> {
        let path = dir.join(MANIFEST_FILE);
        let bad = |why: String| AdapterError::Manifest {
            path: path.clone(),
            why,
        };
        let text = match fs::metadata(&path) {
            Ok(meta) if meta.len() > BYTES_MAX => {
                return Err(bad(format!("it is longer than {BYTES_MAX} bytes")));
            }
            Ok(_) => fs::read(&path).map_err(AdapterError::io("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AdapterError::io("read", &path)(source)),
        };
        let manifest: AdapterManifest =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if manifest.version != VERSION {
            let found = manifest.version;
            return Err(bad(format!(
                "it has version {found}, this program reads {VERSION}"
            )));
        }
        if !is_sha256(&manifest.sha256) || !is_sha256(&manifest.base_sha256) {
            return Err(bad("its hashes are not 64 hex digits".into()));
        }
        if dir.file_name().is_none_or(|name| name != &*manifest.name) {
            return Err(bad("it is that of another adapter".into()));
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest in `dir` in one step that survives a power cut.
    pub(super) fn save(&self, dir: &Path) -> Result<(), AdapterError> {
        let write = || -> io::Result<()> {
            let draft = dir.join(format!("{MANIFEST_FILE}.new"));
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            let mut file = File::create(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, dir.join(MANIFEST_FILE))?;
            sync_dir(dir)
        };
        write().map_err(AdapterError::io("write the manifest in", dir))
    }
}
