//! The hub cache that other programs share: read, verified, never written.
//!
//! ```text
//! <root>/models--org--repo/blobs/<sha256>              the bytes
//!                          snapshots/<commit>/<file>   links to blobs
//!                          refs/<branch>               a commit
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::choose;
use super::hub::{self, RemoteFile};
use super::manifest;
use super::name::HubName;

/// A snapshot with more files is not one that we look through.
const MAX_FILES: usize = 4096;

fn repo_dir(root: &Path, name: &HubName) -> PathBuf {
    root.join(format!("models--{}--{}", name.org, name.repo))
}

/// Where the cache keeps the file with this hash. `sha256` has been checked to be hex.
pub(super) fn blob_path(root: &Path, name: &HubName, sha256: &str) -> PathBuf {
    repo_dir(root, name).join("blobs").join(sha256)
}

/// What the hub would answer, as far as the cache remembers: for pulls without a network.
pub(super) fn find_offline(root: &Path, name: &HubName) -> Option<RemoteFile> {
    let dir = repo_dir(root, name);
    let rev = name.rev.as_deref().unwrap_or("main");
    let commit = if hub::is_commit(rev) {
        rev.to_owned()
    } else {
        fs::read_to_string(dir.join("refs").join(rev))
            .ok()?
            .trim()
            .to_owned()
    };
    if !hub::is_commit(&commit) {
        return None;
    }
    let snapshot = dir.join("snapshots").join(&commit);
    let mut files = Vec::new();
    collect(&snapshot, "", 0, &mut files);
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let chosen = names[choose::choose(&names, name).ok()?];
    // A link's target carries the hash in its name; only files in git itself have shorter ones.
    let blob = fs::canonicalize(snapshot.join(chosen)).ok()?;
    let sha256 = blob
        .file_name()?
        .to_str()
        .filter(|hash| manifest::is_sha256(hash))?
        .to_owned();
    let bytes = fs::metadata(&blob).ok()?.len();
    Some(RemoteFile {
        commit,
        path: chosen.to_owned(),
        bytes,
        sha256,
    })
}

/// Relative names of the files under `dir`, one level of folders deep, as hubs group quantisations.
fn collect(dir: &Path, prefix: &str, depth: u32, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        if path.is_dir() {
            if depth == 0 {
                collect(&path, &format!("{name}/"), depth + 1, files);
            }
        } else if files.len() < MAX_FILES {
            files.push(format!("{prefix}{name}"));
        }
    }
}
