//! From a verified file in `partial/` to an installed model, and what lies in `partial/` until then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Store;
use super::gguf;
use super::manifest::{self, FileRef, Manifest, Stamp};
use super::name::ModelName;
use super::pull::{How, PullError, Pulled};

/// Left free beside the model itself, for manifests and directories.
const DISK_MARGIN_BYTES: u64 = 1024 * 1024;

/// A verified file in `partial/`, ready to be installed.
pub(super) struct Fetched<'a> {
    pub(super) part: &'a Path,
    pub(super) file_name: &'a str,
    pub(super) source: String,
    pub(super) revision: String,
    pub(super) sha256: &'a str,
    pub(super) bytes: u64,
}

impl Store {
    /// Moves a verified file into place. The old manifest goes first and the new one comes last, so
    /// that at every instant the manifest that exists describes the file that exists.
    pub(super) fn install(
        &self,
        name: &ModelName,
        fetched: &Fetched<'_>,
    ) -> Result<Pulled, PullError> {
        if let Err(source) = gguf::check(fetched.part) {
            // The right bytes with a bad header stay bad: keeping them would only waste the disk.
            fs::remove_file(fetched.part)
                .map_err(|error| PullError::io("delete", fetched.part, error))?;
            return Err(PullError::Header {
                source_name: fetched.source.clone(),
                source,
            });
        }
        let dir = self.model_dir(name);
        let path = dir.join(fetched.file_name);
        let io = |doing| {
            let path = path.clone();
            move |source| PullError::Io {
                doing,
                path,
                source,
            }
        };
        fs::create_dir_all(&dir).map_err(io("create the directory of"))?;
        remove_if_there(&dir.join(manifest::MANIFEST_FILE)).map_err(io("replace"))?;
        manifest::sync_dir(&dir).map_err(io("install"))?;
        fs::rename(fetched.part, &path).map_err(io("install"))?;
        manifest::sync_dir(&dir).map_err(io("install"))?;
        let manifest = Manifest {
            version: Manifest::current_version(),
            name: name.to_string(),
            source: fetched.source.clone(),
            revision: Some(fetched.revision.clone()),
            file: FileRef::Owned(fetched.file_name.to_owned()),
            sha256: fetched.sha256.to_owned(),
            bytes: fetched.bytes,
            installed_at_s: manifest::now_s(),
            stamp: Stamp::of(&path).map_err(io("read"))?,
            vocab_fingerprint: None,
        };
        self.commit(name, &manifest)?;
        remove_other_models(&dir, fetched.file_name);
        Ok(Pulled {
            manifest,
            path,
            how: How::Downloaded,
        })
    }

    /// A partial file is named by the hash that it is to have, so what changes upstream is never
    /// continued with other bytes.
    pub(super) fn part_path(&self, name: &ModelName, sha256: &str) -> PathBuf {
        self.partial_dir()
            .join(format!("{}.{sha256}.part", name.slug()))
    }

    /// Partial files of this model, for whatever hash.
    pub(super) fn parts(&self, name: &ModelName) -> Vec<PathBuf> {
        let slug = name.slug();
        let is_part = |file: &str| {
            let middle = file
                .strip_prefix(&slug)
                .and_then(|rest| rest.strip_prefix('.'));
            middle
                .and_then(|rest| rest.strip_suffix(".part"))
                .is_some_and(manifest::is_sha256)
        };
        let Ok(entries) = fs::read_dir(self.partial_dir()) else {
            return Vec::new();
        };
        let named = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(is_part));
        named.map(|entry| entry.path()).collect()
    }

    /// Deletes partial files except `keep`, which a hash that nobody offers any more would leave for
    /// ever. Returns the bytes freed; what cannot be deleted only costs space and is tried again.
    pub(super) fn drop_parts(&self, name: &ModelName, keep: Option<&Path>) -> u64 {
        let stale = self
            .parts(name)
            .into_iter()
            .filter(|path| Some(path.as_path()) != keep);
        stale
            .map(|path| {
                let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
                if fs::remove_file(&path).is_ok() {
                    bytes
                } else {
                    0
                }
            })
            .sum()
    }

    /// An installation cut off between rename and manifest left a whole file without a manifest: use it again.
    pub(super) fn adopt_leftover(
        &self,
        name: &ModelName,
        file_name: &str,
        bytes: u64,
        part: &Path,
    ) -> Result<(), PullError> {
        let dir = self.model_dir(name);
        let leftover = dir.join(file_name);
        let whole = fs::metadata(&leftover).is_ok_and(|meta| meta.is_file() && meta.len() == bytes);
        let unclaimed = !dir.join(manifest::MANIFEST_FILE).exists();
        if whole && unclaimed && !part.exists() {
            fs::rename(&leftover, part)
                .map_err(|source| PullError::io("move", &leftover, source))?;
        }
        Ok(())
    }

    pub(super) fn check_room(&self, bytes: u64, have: u64) -> Result<(), PullError> {
        let dir = self.partial_dir();
        fs::create_dir_all(&dir).map_err(|source| PullError::io("create", &dir, source))?;
        let free = fs4::available_space(&dir)
            .map_err(|source| PullError::io("ask for free space in", &dir, source))?;
        let need = bytes.saturating_sub(have).saturating_add(DISK_MARGIN_BYTES);
        if need > free {
            Err(PullError::NoRoom {
                dir,
                bytes,
                have,
                need,
                free,
            })
        } else {
            Ok(())
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// After an update under another file name: the model that the manifest no longer names.
fn remove_other_models(dir: &Path, keep: &str) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let other = path.file_name().is_some_and(|name| name != keep);
        if other
            && path
                .extension()
                .is_some_and(|ext| ext.eq_ignore_ascii_case("gguf"))
        {
            // Only disk space is at stake: no manifest points at it.
            let _best_effort = fs::remove_file(&path);
        }
    }
}
