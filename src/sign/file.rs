//! Files on a stick: for their owner alone, whole or not there.

use crate::error::{Failure, Kind, Outcome};
use quorate_core::limits::SIGNER_FILE_BYTES_MAX;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Bits that let anybody but the owner in.
const OTHERS: u32 = 0o077;

/// A file that was not there before.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Outcome {
    let written = options().create_new(true).open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written
        .and_then(|()| sync_dir(path))
        .map_err(|error| Failure::file("write", path, &error))
}

/// In place of what was there: the old file or the new one survives a crash, and nothing between.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Outcome {
    let draft = super::beside(path, ".draft");
    let written = options()
        .create(true)
        .truncate(true)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            sync_dir(path)
        });
    written.map_err(|error| Failure::file("write", path, &error))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

/// `None` where there is no such file.
pub(super) fn read(path: &Path, max: u64) -> Outcome<Option<Vec<u8>>> {
    match File::open(path) {
        Ok(file) => read_all(&file, path, max).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("read", path, &error)),
    }
}

fn read_all(file: &File, path: &Path, max: u64) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() as u64 > max {
        let message = format!("{} is longer than such a file can be", path.display());
        return Err(Failure::new(Kind::Config, message));
    }
    Ok(bytes)
}

/// The key, locked for this command, if nobody else can read it.
pub(super) fn open_secret(path: &Path) -> Outcome<(File, Vec<u8>)> {
    let file = File::open(path).map_err(|error| {
        let failure = Failure::file("read", path, &error);
        if error.kind() == ErrorKind::NotFound {
            failure
                .hint("name the file of your vote key, or make one: quorate gov keygen --out FILE")
        } else {
            failure
        }
    })?;
    let metadata = file
        .metadata()
        .map_err(|error| Failure::file("read", path, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        let place = path.display();
        let message = format!("others can read the vote key {place} (mode {mode:03o})");
        return Err(Failure::new(Kind::Config, message).hint(format!(
            "chmod 600 '{place}'; on a stick that knows no modes, mount it with umask=077"
        )));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("another command signs with {} now", path.display());
            return Err(Failure::new(Kind::Taken, message).hint("wait until it is done"));
        }
        Err(TryLockError::Error(error)) => return Err(Failure::file("lock", path, &error)),
    }
    let bytes = read_all(&file, path, SIGNER_FILE_BYTES_MAX)?;
    Ok((file, bytes))
}
