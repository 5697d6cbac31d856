//! Adapters on this machine: a LoRA with a name, converted for one base and bound to it.
//!
//! ```text
//! <root>/adapters/<name>/adapter.gguf   what llama.cpp loads
//!                        adapter.json   name, source, base, hash, stamp
//! <root>/adapters/.<name>.<pid>         one in the making; renamed into place when it is whole
//! ```
//!
//! [`Adapters::resolve`] is the only way to a path: hash and base as when it was added, header and
//! shapes held against the base once more.

mod convert;
mod half;
mod manifest;
mod peft;
mod ready;
mod safetensors;
mod targets;

use super::gguf::{self, GgufError};
use super::manifest::{Stamp, now_s, sync_dir};
use super::{Resolved, StoreError, hash};
pub use manifest::AdapterManifest;
use quorate_core::limits::{ADAPTER_BYTES_MAX, ADAPTERS_MAX, EXPERT_NAME_BYTES_MAX};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use targets::Base;

/// The adapters under one home directory.
#[derive(Clone, Debug)]
pub struct Adapters {
    root: PathBuf,
}

/// An adapter that may be given to the engine, together with its base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedAdapter {
    pub name: String,
    pub path: PathBuf,
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub struct AdapterListing {
    /// Sorted by name.
    pub adapters: Vec<AdapterManifest>,
    /// One damaged entry must not hide the others.
    pub broken: Vec<AdapterError>,
}

#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("there is no adapter `{name}`; `quorate adapter list` shows what is installed")]
    NotInstalled { name: String },
    #[error("there is an adapter `{name}` already; `quorate adapter rm {name}` removes it")]
    Taken { name: String },
    #[error(
        "an adapter's name is 1 to {EXPERT_NAME_BYTES_MAX} small letters, digits, '-', '_' and '.', and begins with no '.'"
    )]
    Name,
    #[error("{ADAPTERS_MAX} adapters are installed, which is as many as there may be")]
    Full,
    #[error("{} {why}", path.display())]
    Source { path: PathBuf, why: String },
    #[error("{} has {bytes} bytes; an adapter has at most {ADAPTER_BYTES_MAX}", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{} is not usable: {source}", path.display())]
    Header { path: PathBuf, source: GgufError },
    #[error(
        "the base is of architecture `{architecture}`, for which the order of an adapter's rows is not known here"
    )]
    Architecture { architecture: String },
    #[error("the adapter is for architecture `{adapter}`, the base is `{base}`")]
    OtherArchitecture { adapter: String, base: String },
    #[error(
        "the adapter was made for another base: its SHA-256 is {adapter}, this one's is {base}; `quorate adapter add` makes one for this base"
    )]
    OtherBase { adapter: String, base: String },
    #[error(
        "the adapter is for another base: this one has no matrix `{tensor}` that an adapter may change"
    )]
    NotInBase { tensor: String },
    #[error("the adapter is for another base: `{tensor}` takes {} and gives {} there, {} and {} here", adapter.0, adapter.1, base.0, base.1)]
    Shape {
        tensor: String,
        adapter: (u64, u64),
        base: (u64, u64),
    },
    #[error("`{tensor}` has ranks {} and {}, where {said} is said", found.0, found.1)]
    Rank {
        tensor: String,
        found: (u64, u64),
        said: u64,
    },
    #[error("`{tensor}` is changed by {a:?} and {b:?}, which are no two matrices")]
    NoMatrix {
        tensor: String,
        a: Vec<u64>,
        b: Vec<u64>,
    },
    #[error("the adapter has only one of the two halves for {tensor}")]
    Half { tensor: String },
    #[error("`{tensor}` has {rows} rows, which are not {heads} heads of an even width")]
    Heads {
        tensor: String,
        rows: usize,
        heads: u64,
    },
    #[error(
        "`{tensor}` holds {value}, which is no number of 16 bits; the adapter is damaged, or its training went astray"
    )]
    NotFinite { tensor: String, value: f32 },
    #[error("{} does not hold the adapter `{name}` that was added: its SHA-256 is {found}, expected {expected}; nothing was loaded; remove it and add it again", path.display())]
    WrongHash {
        name: String,
        path: PathBuf,
        expected: String,
        found: String,
    },
    #[error("{} is damaged: {why}; remove the adapter and add it again", path.display())]
    Manifest { path: PathBuf, why: String },
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Base(#[from] StoreError),
}

impl AdapterError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AdapterError {
        let path = path.to_owned();
        move |source| AdapterError::Io {
            doing,
            path,
            source,
        }
    }

    fn source(path: &Path, why: impl Into<String>) -> AdapterError {
        AdapterError::Source {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    fn too_large(path: &Path, bytes: u64) -> AdapterError {
        let path = path.to_owned();
        AdapterError::TooLarge { path, bytes }
    }
}

const FILE: &str = "adapter.gguf";

impl Adapters {
    /// The adapters under `root`, which need not exist yet.
    pub fn new(root: &Path) -> Adapters {
        Adapters {
            root: root.join("adapters"),
        }
    }

    /// Converts a PEFT folder, or takes a converted file, for this base, and gives it a name.
    pub fn add(
        &self,
        name: &str,
        source: &Path,
        base: &Resolved,
    ) -> Result<AdapterManifest, AdapterError> {
        check_name(name)?;
        let place = self.root.join(name);
        if place.exists() {
            return Err(AdapterError::Taken { name: name.into() });
        }
        if self.list()?.adapters.len() >= ADAPTERS_MAX {
            return Err(AdapterError::Full);
        }
        let weights = base_of(base)?;
        // What a killed process left under this name and number is nobody's.
        let making = self.root.join(format!(".{name}.{}", std::process::id()));
        let _nothing_there = fs::remove_dir_all(&making);
        fs::create_dir_all(&making).map_err(AdapterError::io("create", &making))?;
        let made = make(name, source, base, &weights, &making).and_then(|manifest| {
            fs::rename(&making, &place)
                .and_then(|()| sync_dir(&self.root))
                .map_err(AdapterError::io("create", &place))?;
            Ok(manifest)
        });
        if made.is_err() {
            // The error that is told is the first one.
            let _best_effort = fs::remove_dir_all(&making);
        }
        made
    }

    pub fn list(&self) -> Result<AdapterListing, AdapterError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(AdapterListing::default());
            }
            Err(source) => return Err(AdapterError::io("list", &self.root)(source)),
        };
        let mut listing = AdapterListing::default();
        for entry in entries {
            let entry = entry.map_err(AdapterError::io("list", &self.root))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue; // in the making
            }
            match AdapterManifest::load(&entry.path()) {
                Ok(Some(manifest)) => listing.adapters.push(manifest),
                Ok(None) => {}
                Err(error) => listing.broken.push(error),
            }
        }
        listing.adapters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    pub fn installed(&self, name: &str) -> Result<AdapterManifest, AdapterError> {
        let not_installed = || AdapterError::NotInstalled {
            name: name.chars().take(EXPERT_NAME_BYTES_MAX).collect(),
        };
        check_name(name).map_err(|_| not_installed())?;
        AdapterManifest::load(&self.root.join(name))?.ok_or_else(not_installed)
    }

    /// The file as it was added, for the base that it was added for. Size and time stand for the
    /// content until they change; then it is hashed again.
    pub fn verify(&self, name: &str, base: &Resolved) -> Result<ResolvedAdapter, AdapterError> {
        let mut manifest = self.installed(name)?;
        let path = self.root.join(name).join(FILE);
        if manifest.base_sha256 != base.sha256 {
            return Err(AdapterError::OtherBase {
                adapter: manifest.base_sha256,
                base: base.sha256.clone(),
            });
        }
        let stamp = Stamp::of(&path).map_err(AdapterError::io("read", &path))?;
        if stamp != manifest.stamp {
            let found = hash::of_file(&path).map_err(AdapterError::io("read", &path))?;
            if found != manifest.sha256 {
                return Err(AdapterError::WrongHash {
                    name: name.into(),
                    path,
                    expected: manifest.sha256,
                    found,
                });
            }
            manifest.stamp = stamp;
            manifest.save(&self.root.join(name))?;
        }
        Ok(ResolvedAdapter {
            name: manifest.name,
            path,
            sha256: manifest.sha256,
            bytes: manifest.bytes,
        })
    }

    /// A path that may be loaded.
    pub fn resolve(&self, name: &str, base: &Resolved) -> Result<ResolvedAdapter, AdapterError> {
        let resolved = self.verify(name, base)?;
        ready::check(&resolved.path, &base_of(base)?)?;
        Ok(resolved)
    }

    /// Forgets an adapter and deletes its file; says how many bytes that frees.
    pub fn rm(&self, name: &str) -> Result<u64, AdapterError> {
        let bytes = match self.installed(name) {
            Ok(manifest) => manifest.bytes,
            Err(error @ AdapterError::NotInstalled { .. }) => return Err(error),
            Err(_) => 0, // what is damaged can go, too
        };
        // Under a name that no listing shows, so that a half-deleted one is not seen.
        let place = self.root.join(name);
        let going = self.root.join(format!(".{name}.{}", std::process::id()));
        fs::rename(&place, &going).map_err(AdapterError::io("delete", &place))?;
        fs::remove_dir_all(&going).map_err(AdapterError::io("delete", &going))?;
        Ok(bytes)
    }
}

/// Also a directory's name: nothing hidden, nothing above.
fn check_name(name: &str) -> Result<(), AdapterError> {
    let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let sound = (1..=EXPERT_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(simple);
    if sound {
        Ok(())
    } else {
        Err(AdapterError::Name)
    }
}

fn base_of(base: &Resolved) -> Result<Base, AdapterError> {
    let read = gguf::check_tensors(&base.path);
    let (facts, tensors) = read.map_err(|source| StoreError::Header {
        path: base.path.clone(),
        source,
    })?;
    Ok(Base {
        facts,
        tensors,
        sha256: base.sha256.clone(),
    })
}

/// A whole adapter in a directory of its own.
fn make(
    name: &str,
    source: &Path,
    base: &Resolved,
    weights: &Base,
    dir: &Path,
) -> Result<AdapterManifest, AdapterError> {
    let path = dir.join(FILE);
    if source.is_dir() {
        let file = File::create(&path).map_err(AdapterError::io("write", &path))?;
        let mut out = BufWriter::new(file);
        convert::convert(source, weights, &mut out, &path)?;
        out.flush().map_err(AdapterError::io("write", &path))?;
    } else {
        // Sound by its header before a byte of it is copied.
        ready::check(source, weights)?;
        fs::copy(source, &path).map_err(AdapterError::io("copy", source))?;
    }
    // What we have written is read with the same care as what others have.
    let (header, ready) = ready::check(&path, weights)?;
    ready::check_numbers(&path, &header)?;
    File::open(&path)
        .and_then(|file| file.sync_all())
        .map_err(AdapterError::io("write", &path))?;
    let stamp = Stamp::of(&path).map_err(AdapterError::io("read", &path))?;
    let manifest = AdapterManifest {
        version: manifest::VERSION,
        name: name.to_owned(),
        source: source.display().to_string(),
        base: base.name.clone(),
        base_sha256: base.sha256.clone(),
        rank: ready.rank,
        alpha: ready.alpha,
        matrices: ready.matrices,
        sha256: hash::of_file(&path).map_err(AdapterError::io("read", &path))?,
        bytes: stamp.bytes,
        installed_at_s: now_s(),
        stamp,
    };
    manifest.save(dir)?;
    Ok(manifest)
}
