//! The few things that the ledger asks of a disk. The files of the home are one disk; tests have
//! another, which can be cut at every byte and fails when it is told to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A call of the system that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {error}", path.display())]
pub struct DiskError {
    pub doing: &'static str,
    pub path: PathBuf,
    pub error: io::Error,
}

#[derive(Debug)]
pub(super) enum Disk {
    /// Files of this directory.
    Files(PathBuf),
    #[cfg(test)]
    Made(super::made::Made),
}

type Done<T = ()> = Result<T, DiskError>;

impl Disk {
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Disk::Files(dir) => dir.join(name),
            #[cfg(test)]
            Disk::Made(_) => name.into(),
        }
    }

    fn failed(&self, doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> DiskError {
        let path = self.path(name);
        move |error| DiskError { doing, path, error }
    }

    /// The directory, for this user alone.
    pub(super) fn create(&self) -> Done {
        let made = match self {
            Disk::Files(dir) => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir),
            #[cfg(test)]
            Disk::Made(_) => Ok(()),
        };
        made.map_err(self.failed("create", ""))
    }

    /// The first `max` bytes; `None` where there is no such file.
    pub(super) fn read(&self, name: &str, max: u64) -> Done<Option<Vec<u8>>> {
        let read = match self {
            Disk::Files(dir) => read_file(&dir.join(name), max),
            #[cfg(test)]
            Disk::Made(made) => made.read(name),
        };
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name)(error)),
        }
    }

    /// Writes in place. When this returns, a crash does not take it back.
    pub(super) fn put(&self, name: &str, at: u64, bytes: &[u8]) -> Done {
        let put = match self {
            Disk::Files(dir) => open(&dir.join(name)).and_then(|file| {
                file.write_all_at(bytes, at)?;
                file.sync_all()
            }),
            #[cfg(test)]
            Disk::Made(made) => made.put(name, at, bytes),
        };
        put.map_err(self.failed("write", name))
    }

    /// Cuts what is behind `len`.
    pub(super) fn cut(&self, name: &str, len: u64) -> Done {
        let cut = match self {
            Disk::Files(dir) => open(&dir.join(name)).and_then(|file| {
                file.set_len(len)?;
                file.sync_all()
            }),
            #[cfg(test)]
            Disk::Made(made) => made.cut(name, len),
        };
        cut.map_err(self.failed("cut", name))
    }

    /// A whole new file at once, or none.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Done {
        let replaced = match self {
            Disk::Files(dir) => {
                let draft = dir.join(format!("{name}.draft"));
                fs::remove_file(&draft).or_else(absent).and_then(|()| {
                    let file = open(&draft)?;
                    file.write_all_at(bytes, 0)?;
                    file.sync_all()?;
                    fs::rename(&draft, dir.join(name))
                })
            }
            #[cfg(test)]
            Disk::Made(made) => made.replace(name, bytes),
        };
        replaced.map_err(self.failed("write", name))
    }

    pub(super) fn remove(&self, name: &str) -> Done {
        let removed = match self {
            Disk::Files(dir) => fs::remove_file(dir.join(name)).or_else(absent),
            #[cfg(test)]
            Disk::Made(made) => made.remove(name),
        };
        removed.map_err(self.failed("remove", name))
    }

    /// From here on the names of files survive a crash, not only their bytes.
    pub(super) fn sync_names(&self) -> Done {
        let synced = match self {
            Disk::Files(dir) => File::open(dir).and_then(|dir| dir.sync_all()),
            #[cfg(test)]
            Disk::Made(made) => made.sync_names(),
        };
        synced.map_err(self.failed("write", ""))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn read_file(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
