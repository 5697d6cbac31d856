//! Where this node keeps its things, and the lock that makes it the only node there.
//!
//! `QUORATE_HOME` holds everything in one directory; without it the XDG directories are used.
//! `node.lock` is locked by the running node for its whole life. The kernel drops the lock when
//! the process ends, however it ends, so what the file says counts only while it is locked: a
//! stale address can never be believed.

use crate::error::{Failure, Kind, Outcome};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of node.lock that are read: pid, address and id take about a hundred.
const LOCK_FILE_BYTES_MAX: u64 = 4096;
/// A command that asks who holds the lock takes it for a moment; a starting node tries again.
const LOCK_TRIES: u32 = 5;
const LOCK_RETRY_MS: u64 = 40;

/// Paths, not yet created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub config_file: PathBuf,
    /// Identity, lock, models.
    pub data: PathBuf,
    /// What may be lost: the line history.
    pub state: PathBuf,
}

impl Home {
    /// From the environment, read through `var` so that tests need not change the process.
    pub fn find(var: impl Fn(&str) -> Option<PathBuf>) -> Outcome<Home> {
        let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
        if let Some(home) = var("QUORATE_HOME").filter(|path| !path.as_os_str().is_empty()) {
            let home = std::path::absolute(&home)
                .map_err(|error| Failure::file("find QUORATE_HOME", &home, &error))?;
            return Ok(Home {
                config_file: home.join("config.toml"),
                state: home.clone(),
                data: home,
            });
        }
        // XDG says: relative paths in these variables are to be ignored.
        let place = |xdg: &str, under_home: &str| {
            absolute(xdg).or_else(|| absolute("HOME").map(|home| home.join(under_home)))
        };
        let (Some(config), Some(data), Some(state)) = (
            place("XDG_CONFIG_HOME", ".config"),
            place("XDG_DATA_HOME", ".local/share"),
            place("XDG_STATE_HOME", ".local/state"),
        ) else {
            return Err(Failure::new(
                Kind::Config,
                "there is no home directory: neither QUORATE_HOME nor HOME is set",
            )
            .hint("export QUORATE_HOME=/some/writable/directory"));
        };
        Ok(Home {
            config_file: config.join("quorate/config.toml"),
            data: data.join("quorate"),
            state: state.join("quorate"),
        })
    }

    pub fn from_env() -> Outcome<Home> {
        Home::find(|name| std::env::var_os(name).map(PathBuf::from))
    }

    pub fn models(&self) -> PathBuf {
        self.data.join("models")
    }

    pub fn identity_key(&self) -> PathBuf {
        self.data.join("identity.key")
    }

    /// What the operator refuses; it need not be there.
    pub fn policy(&self) -> PathBuf {
        self.config_file.with_file_name("policy.cedar")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.data.join("node.lock")
    }

    pub fn history(&self) -> PathBuf {
        self.state.join("history")
    }

    /// Makes the data directory, for this user alone.
    pub fn create(&self) -> Outcome {
        create_private_dir(&self.data)
    }

    /// Takes the home for this process, or says who has it.
    pub fn lock(&self) -> Outcome<NodeLock> {
        self.create()?;
        let path = self.lock_file();
        let mut file = open_lock(&path).map_err(|error| Failure::file("open", &path, &error))?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => {
                    std::thread::sleep(std::time::Duration::from_millis(LOCK_RETRY_MS));
                }
                Err(TryLockError::WouldBlock) => return Err(taken(&self.data, &read_note(&file))),
                Err(TryLockError::Error(error)) => {
                    return Err(Failure::file("lock", &path, &error));
                }
            }
        }
        // The last owner's words are void from here on.
        file.set_len(0)
            .map_err(|error| Failure::file("write", &path, &error))?;
        file.rewind()
            .map_err(|error| Failure::file("write", &path, &error))?;
        Ok(NodeLock { file, path })
    }

    /// The node that runs on this home now, if one does.
    pub fn running_node(&self) -> Option<RunningNode> {
        let file = File::open(self.lock_file()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_note(&file)),
            // Got it: nobody runs here. It is let go when `file` is dropped.
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// What a running node says about itself in its lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningNode {
    pub pid: Option<u32>,
    /// None while it starts, or if it serves no API.
    pub api: Option<String>,
    pub node_id: Option<String>,
}

/// Held for the life of the node.
#[derive(Debug)]
pub struct NodeLock {
    file: File,
    path: PathBuf,
}

impl NodeLock {
    /// Tells other commands on this home where the API is.
    pub fn publish(&mut self, api: &str, node_id: &str) -> Outcome {
        let note = format!("pid {}\napi {api}\nnode {node_id}\n", std::process::id());
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(note.as_bytes())?;
            file.sync_data()
        };
        write(&mut self.file).map_err(|error| Failure::file("write", &self.path, &error))
    }
}

impl Drop for NodeLock {
    fn drop(&mut self) {
        // Best effort: the note counts for nothing once the lock is gone.
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "the lock file keeps its last note");
        }
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn read_note(mut file: &File) -> RunningNode {
    let mut text = String::new();
    // A note that cannot be read is an empty one: the lock itself says that somebody is there.
    if file.rewind().is_err()
        || file
            .take(LOCK_FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .is_err()
    {
        return RunningNode::default();
    }
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(str::to_owned)
    };
    RunningNode {
        pid: field("pid").and_then(|pid| pid.parse().ok()),
        api: field("api"),
        node_id: field("node"),
    }
}

fn taken(data: &Path, node: &RunningNode) -> Failure {
    let who = node.pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    );
    let at = node
        .api
        .as_ref()
        .map_or_else(String::new, |api| format!(", serving {api}"));
    Failure::new(
        Kind::Taken,
        format!(
            "a node already runs on this home directory {} ({who}{at})",
            data.display()
        ),
    )
    .hint(
        "use it: `quorate run` and `quorate status` find it by themselves. \
         For a second node give it a home of its own: QUORATE_HOME=/other/directory quorate up",
    )
}

pub fn create_private_dir(path: &Path) -> Outcome {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::file("create", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &Path) -> Home {
        Home::find(|name| (name == "QUORATE_HOME").then(|| dir.to_owned())).unwrap()
    }

    #[test]
    fn quorate_home_holds_everything() {
        let home = at(Path::new("/srv/q"));
        assert_eq!(home.config_file, Path::new("/srv/q/config.toml"));
        assert_eq!(home.identity_key(), Path::new("/srv/q/identity.key"));
    }

    #[test]
    fn xdg_directories_are_used_and_relative_ones_ignored() {
        let home = Home::find(|name| match name {
            "HOME" => Some("/home/ada".into()),
            "XDG_DATA_HOME" => Some("relative".into()),
            "XDG_CONFIG_HOME" => Some("/etc/ada".into()),
            _ => None,
        })
        .unwrap();
        assert_eq!(home.data, Path::new("/home/ada/.local/share/quorate"));
        assert_eq!(home.config_file, Path::new("/etc/ada/quorate/config.toml"));
    }

    #[test]
    fn no_home_at_all_is_a_message() {
        let failure = Home::find(|_| None).unwrap_err();
        assert_eq!(failure.kind, Kind::Config);
        assert!(failure.hint.unwrap().contains("QUORATE_HOME"));
    }

    #[test]
    fn the_second_node_is_refused_by_name_and_a_stale_note_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let home = at(dir.path());
        assert_eq!(home.running_node(), None);
        let mut lock = home.lock().unwrap();
        lock.publish("http://127.0.0.1:7867", "12D3K").unwrap();
        let refused = home.lock().unwrap_err();
        assert_eq!(refused.kind, Kind::Taken);
        let pid = std::process::id();
        assert!(
            refused.message.contains(&format!("process {pid}")),
            "{refused}"
        );
        assert_eq!(
            home.running_node().unwrap().api.as_deref(),
            Some("http://127.0.0.1:7867")
        );
        drop(lock);
        assert_eq!(home.running_node(), None);
        // As kill -9 leaves it: the note is there, the lock is not.
        fs::write(home.lock_file(), "pid 1\napi http://127.0.0.1:1\n").unwrap();
        assert_eq!(home.running_node(), None);
        assert!(home.lock().is_ok());
    }
}
