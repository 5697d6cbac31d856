//! `run --record FILE`: where the recording of an answer goes.

use crate::cli::context::expand_home;
use crate::error::{Failure, Kind, Outcome};
use quorate_core::record::{self, Recording};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) struct Target {
    path: PathBuf,
}

impl Target {
    /// Before anything is asked: an answer should not be lost because of a name.
    pub(super) fn checked(path: &Path) -> Outcome<Target> {
        let path = expand_home(path);
        if path.symlink_metadata().is_ok() {
            return Err(
                Failure::new(Kind::Usage, format!("{} is there already", path.display()))
                    .hint("give --record a name that is free: nothing is written over"),
            );
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if !dir.unwrap_or(Path::new(".")).is_dir() || path.file_name().is_none() {
            return Err(Failure::new(
                Kind::Usage,
                format!("{} is no place for a file", path.display()),
            )
            .hint("give --record the name of a file in a directory that exists"));
        }
        Ok(Target { path })
    }

    /// Writes it, for this user alone, and says whether it stands. The file appears whole or not at
    /// all.
    pub(super) fn write(&self, recording: &Recording) -> Outcome {
        let bytes = record::encode(recording).map_err(|why| {
            Failure::new(
                Kind::TooLarge,
                format!("the answer cannot be recorded: {why}"),
            )
            .hint("ask for a shorter answer: --max-tokens")
        })?;
        self.write_bytes(&bytes)
            .map_err(|error| Failure::file("write", &self.path, &error))?;
        let path = self.path.display();
        if let Err(why) = record::replay(recording) {
            return Err(Failure::new(
                Kind::Failed,
                format!("the recording {path} does not replay: {why}"),
            )
            .hint("this is a fault of quorate: please report it, without the file if your prompt is private"));
        }
        let mut err = std::io::stderr().lock();
        writeln!(
            err,
            "recorded in {path}; check it with: quorate replay {path}"
        )?;
        Ok(())
    }

    fn write_bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(name);
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &self.path)
        })();
        if written.is_err() {
            // What is left of it may be private, and is of no use.
            fs::remove_file(&draft).ok();
        }
        written
    }
}
