//! Models on this machine: named, fetched, checked, found again.
//!
//! ```text
//! <root>/models/<slug>/<file>.gguf     a model that we own
//!                      manifest.json   name, source, hash, stamp; written last, so it means "installed"
//! <root>/partial/<slug>.<sha256>.part  a download under way, named by the hash it is to have
//!                <slug>.lock           held while somebody pulls or removes that model
//! <root>/adapters/<name>/              an adapter, converted for one base (see [`adapter`])
//! ```
//!
//! Nothing reaches the engine unless its hash is the one that was pinned when it was installed and
//! its header passes [`gguf::check`]; [`Store::resolve`] is the only way to a path.

pub mod adapter;
pub mod catalogue;
pub mod gguf;
pub mod name;
pub mod pull;

pub mod progress;

mod cache;
mod choose;
mod download;
mod hash;
mod hub;
mod install;
mod manifest;
mod wheel;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use gguf::{GgufError, GgufFacts};
pub use hub::HubConfig;
pub use manifest::{FileRef, Manifest, Stamp};
use name::ModelName;

/// The models under one home directory. Cheap to make: it holds only the path.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A model that may be given to the engine.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Canonical name.
    pub name: String,
    pub path: PathBuf,
    /// The verified hash of the file, in hex.
    pub sha256: String,
    pub bytes: u64,
    pub facts: GgufFacts,
    /// As stored by an earlier load, if there was one.
    pub vocab_fingerprint: Option<String>,
}

/// Everything `show` prints.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub manifest: Manifest,
    pub path: PathBuf,
    pub facts: GgufFacts,
    /// f16 KV cache for one token of context.
    pub kv_bytes_per_token: u64,
}

/// What is installed, and what lies in the store but cannot be used.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted by name.
    pub models: Vec<Manifest>,
    /// One damaged entry must not hide the others.
    pub broken: Vec<StoreError>,
}

/// What `rm` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub name: String,
    /// Bytes freed on disk: zero where the file was not ours.
    pub freed_bytes: u64,
    /// The file that was left alone because others use it.
    pub kept: Option<PathBuf>,
}

/// How far [`Store::verify`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Size and time as they were at the last full check; hashes only when they are not.
    Stamp,
    /// Always hashes the whole file.
    Full,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("model `{name}` is not installed; get it with `quorate pull {name}`")]
    NotInstalled { name: String },
    #[error("the file of `{name}` is gone from {}; get it again with `quorate pull {name}`", path.display())]
    FileGone { name: String, path: PathBuf },
    #[error(
        "{} does not hold the model `{name}` that was installed: its SHA-256 is {found}, expected {expected}; \
         nothing was loaded; `quorate pull {name}` installs it anew", path.display()
    )]
    WrongHash {
        name: String,
        path: PathBuf,
        expected: String,
        found: String,
    },
    #[error("{} is not usable: {source}", path.display())]
    Header { path: PathBuf, source: GgufError },
    #[error("{} is damaged: {why}; pull the model again", path.display())]
    BadManifest { path: PathBuf, why: String },
    #[error("model `{name}` is being pulled or removed by another process; wait for it or stop it")]
    Busy { name: String },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Store {
    /// The store under `root`, which need not exist yet. Nothing is created until something is pulled.
    pub fn new(root: &Path) -> Store {
        Store {
            root: root.to_path_buf(),
        }
    }

    /// The adapters of the same home.
    pub fn adapters(&self) -> adapter::Adapters {
        adapter::Adapters::new(&self.root)
    }

    /// Every installed model.
    pub fn list(&self) -> Result<Listing, StoreError> {
        let models = self.root.join("models");
        let entries = match fs::read_dir(&models) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
            Err(source) => {
                return Err(StoreError::Io {
                    doing: "list",
                    path: models,
                    source,
                });
            }
        };
        let mut listing = Listing::default();
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::Io {
                doing: "list",
                path: models.clone(),
                source,
            })?;
            match Manifest::load(&entry.path()) {
                Ok(Some(manifest)) => listing.models.push(manifest),
                // A directory without a manifest is an installation that was cut off; `pull` finishes it.
                Ok(None) => {}
                Err(error) => listing.broken.push(error),
            }
        }
        listing.models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// The manifest of `name`, or `None` when it is not installed.
    pub fn installed(&self, name: &ModelName) -> Result<Option<Manifest>, StoreError> {
        let name = absolute(name)?;
        Manifest::load(&self.model_dir(&name))
    }

    /// The manifest, the path and what the header says.
    pub fn show(&self, name: &ModelName) -> Result<Shown, StoreError> {
        let (dir, manifest) = self.expect(name)?;
        let path = present(&manifest, &dir)?;
        let facts = check_header(&path)?;
        Ok(Shown {
            kv_bytes_per_token: facts.kv_bytes_per_token(),
            manifest,
            path,
            facts,
        })
    }

    /// A path that may be loaded: hash verified (see [`Depth::Stamp`]), header checked. A local file
    /// that was never seen is registered on the way, which hashes it once.
    pub fn resolve(&self, name: &ModelName) -> Result<Resolved, StoreError> {
        let name = absolute(name)?;
        if let ModelName::Path(path) = &name
            && Manifest::load(&self.model_dir(&name))?.is_none()
        {
            self.register(&name, path)?;
        }
        let manifest = self.verify(&name, Depth::Stamp)?;
        let path = manifest.path(&self.model_dir(&name));
        let facts = check_header(&path)?;
        Ok(Resolved {
            name: manifest.name,
            path,
            sha256: manifest.sha256,
            bytes: manifest.bytes,
            facts,
            vocab_fingerprint: manifest.vocab_fingerprint,
        })
    }

    /// Errs unless the file is the one that was installed.
    pub fn verify(&self, name: &ModelName, depth: Depth) -> Result<Manifest, StoreError> {
        let (dir, mut manifest) = self.expect(name)?;
        let path = present(&manifest, &dir)?;
        let io = |doing, source| StoreError::Io {
            doing,
            path: path.clone(),
            source,
        };
        // Taken before hashing: a change during the hash shows at the next check.
        let stamp = Stamp::of(&path).map_err(|source| io("read", source))?;
        if depth == Depth::Stamp && stamp == manifest.stamp {
            return Ok(manifest);
        }
        let found = hash::of_file(&path).map_err(|source| io("read", source))?;
        if found != manifest.sha256 {
            let (name, expected) = (manifest.name, manifest.sha256);
            return Err(StoreError::WrongHash {
                name,
                path,
                expected,
                found,
            });
        }
        if stamp != manifest.stamp {
            manifest.stamp = stamp;
            manifest.save(&dir).map_err(|source| StoreError::Io {
                doing: "write the manifest in",
                path: dir,
                source,
            })?;
        }
        Ok(manifest)
    }

    /// Forgets `name`, and deletes its file where it is ours, and what an unfinished pull has left.
    pub fn rm(&self, name: &ModelName) -> Result<Removed, StoreError> {
        let name = absolute(name)?;
        let dir = self.model_dir(&name);
        let installed = Manifest::load(&dir)?;
        if installed.is_none() && self.parts(&name).is_empty() {
            return Err(StoreError::NotInstalled {
                name: name.to_string(),
            });
        }
        let _lock = self.try_lock(&name)?.ok_or_else(|| StoreError::Busy {
            name: name.to_string(),
        })?;
        let part_bytes = self.drop_parts(&name, None);
        let Some(manifest) = installed else {
            return Ok(Removed {
                name: name.to_string(),
                freed_bytes: part_bytes,
                kept: None,
            });
        };
        // The manifest goes first: what remains after a crash is then "not installed", not "damaged".
        let path = manifest.path(&dir);
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
                doing: "delete",
                path: path.to_path_buf(),
                source,
            }),
            _ => Ok(()),
        };
        gone(&dir.join(manifest::MANIFEST_FILE))?;
        let owned = matches!(manifest.file, FileRef::Owned(_));
        if owned {
            gone(&path)?;
        }
        // Whatever an interrupted installation left beside it goes too.
        fs::remove_dir_all(&dir).map_err(|source| StoreError::Io {
            doing: "delete",
            path: dir,
            source,
        })?;
        Ok(Removed {
            name: manifest.name,
            freed_bytes: part_bytes + if owned { manifest.bytes } else { 0 },
            kept: (!owned).then_some(path),
        })
    }

    /// Remembers the vocabulary fingerprint that a load has computed.
    pub fn set_vocab_fingerprint(
        &self,
        name: &ModelName,
        fingerprint: &str,
    ) -> Result<(), StoreError> {
        let (dir, mut manifest) = self.expect(name)?;
        if manifest.vocab_fingerprint.as_deref() == Some(fingerprint) {
            return Ok(());
        }
        manifest.vocab_fingerprint = Some(fingerprint.to_owned());
        manifest.save(&dir).map_err(|source| StoreError::Io {
            doing: "write the manifest in",
            path: dir,
            source,
        })
    }

    fn model_dir(&self, name: &ModelName) -> PathBuf {
        self.root.join("models").join(name.slug())
    }

    fn partial_dir(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn expect(&self, name: &ModelName) -> Result<(PathBuf, Manifest), StoreError> {
        let name = absolute(name)?;
        let dir = self.model_dir(&name);
        match Manifest::load(&dir)? {
            Some(manifest) => Ok((dir, manifest)),
            None => Err(StoreError::NotInstalled {
                name: name.canonical().to_string(),
            }),
        }
    }

    /// The lock of one model, or `None` while another process or thread holds it. The lock lives as
    /// long as the file is open, so a killed process leaves nothing behind.
    fn try_lock(&self, name: &ModelName) -> Result<Option<File>, StoreError> {
        let file = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StoreError::Io {
                doing: "lock",
                path: self.lock_path(name),
                source,
            }),
        }
    }

    fn lock_path(&self, name: &ModelName) -> PathBuf {
        self.partial_dir().join(format!("{}.lock", name.slug()))
    }

    fn lock_file(&self, name: &ModelName) -> Result<File, StoreError> {
        let (dir, path) = (self.partial_dir(), self.lock_path(name));
        fs::create_dir_all(&dir).map_err(|source| StoreError::Io {
            doing: "create",
            path: dir,
            source,
        })?;
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| StoreError::Io {
                doing: "open",
                path,
                source,
            })
    }

    /// Takes note of a local file: header first (cheap, and what fails most), then its hash.
    fn register(&self, name: &ModelName, path: &Path) -> Result<Manifest, StoreError> {
        check_header(path)?;
        let io = |doing, source| StoreError::Io {
            doing,
            path: path.to_path_buf(),
            source,
        };
        let stamp = Stamp::of(path).map_err(|source| io("read", source))?;
        let sha256 = hash::of_file(path).map_err(|source| io("read", source))?;
        let manifest = Manifest {
            version: Manifest::current_version(),
            name: name.to_string(),
            source: "local file".into(),
            revision: None,
            file: FileRef::Local(path.to_path_buf()),
            sha256,
            bytes: stamp.bytes,
            installed_at_s: manifest::now_s(),
            stamp,
            vocab_fingerprint: None,
        };
        self.commit(name, &manifest)?;
        Ok(manifest)
    }

    /// Writes the manifest: from here on the model is installed.
    fn commit(&self, name: &ModelName, manifest: &Manifest) -> Result<(), StoreError> {
        let dir = self.model_dir(name);
        fs::create_dir_all(&dir)
            .and_then(|()| manifest.save(&dir))
            .and_then(|()| manifest::sync_dir(&self.root.join("models")))
            .map_err(|source| StoreError::Io {
                doing: "write the manifest in",
                path: dir,
                source,
            })
    }
}

/// A path is remembered absolute, so that it means the same from every directory.
fn absolute(name: &ModelName) -> Result<ModelName, StoreError> {
    match name {
        ModelName::Path(path) => std::path::absolute(path)
            .map(ModelName::Path)
            .map_err(|source| StoreError::Io {
                doing: "find",
                path: path.clone(),
                source,
            }),
        other => Ok(other.canonical()),
    }
}

fn present(manifest: &Manifest, dir: &Path) -> Result<PathBuf, StoreError> {
    let path = manifest.path(dir);
    if path.is_file() {
        Ok(path)
    } else {
        Err(StoreError::FileGone {
            name: manifest.name.clone(),
            path,
        })
    }
}

fn check_header(path: &Path) -> Result<GgufFacts, StoreError> {
    gguf::check(path).map_err(|source| StoreError::Header {
        path: path.to_path_buf(),
        source,
    })
}
