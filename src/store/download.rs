//! Bytes of one pinned file into its partial file, resuming where an earlier attempt stopped.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ureq::Body;
use ureq::http::{Response, StatusCode, header};

use super::hash::{self, CHUNK_BYTES, Hasher};
use super::hub::{Failure, Hub, HubError, RemoteFile};
use super::name::HubName;
use super::pull::{OnEvent, PullError, PullEvent};

/// Progress is told at least this often.
const REPORT_BYTES: u64 = 512 * 1024;
/// An attempt that brought this much counts as success for the purpose of giving up.
const WORTHWHILE_BYTES: u64 = 1024 * 1024;

/// The partial file together with the hash of what it holds.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    hasher: Hasher,
    done: u64,
    bytes: u64,
}

/// Why one attempt ended early.
enum Stop {
    Attempt(Failure),
    Pull(PullError),
}

/// Fills `part` until it is the whole of `file`, verified and on disk.
pub(super) fn fetch(
    hub: &Hub<'_>,
    name: &HubName,
    file: &RemoteFile,
    part: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<(), PullError> {
    let mut partial = Partial::open(part, file.bytes)?;
    let resumed = partial.done > 0;
    let found = run(hub, name, file, &mut partial, on_event)?;
    if found == file.sha256 {
        return Ok(());
    }
    // Bytes from before a power cut may never have reached the disk: forget them and try once from zero.
    partial.restart()?;
    let found = if resumed {
        run(hub, name, file, &mut partial, on_event)?
    } else {
        found
    };
    if found == file.sha256 {
        return Ok(());
    }
    drop(partial);
    std::fs::remove_file(part).map_err(|source| PullError::io("delete", part, source))?;
    Err(PullError::WrongHash {
        source_name: format!("{} ({})", name.repository(), file.path),
        expected: file.sha256.clone(),
        found,
    })
}

/// All attempts until the file is complete; returns the hash of what arrived.
fn run(
    hub: &Hub<'_>,
    name: &HubName,
    file: &RemoteFile,
    partial: &mut Partial<'_>,
    on_event: &mut OnEvent<'_>,
) -> Result<String, PullError> {
    on_event(PullEvent::Started {
        bytes: file.bytes,
        resumed_from: partial.done,
    });
    let mut attempt = 1;
    while partial.done < file.bytes {
        let before = partial.done;
        match one_attempt(hub, name, file, partial, on_event) {
            Ok(()) => {}
            Err(Stop::Pull(error)) => return Err(error),
            Err(Stop::Attempt(failure)) => {
                if partial.done.saturating_sub(before) >= WORTHWHILE_BYTES {
                    attempt = 1;
                }
                hub.pause(failure, &mut attempt, on_event)?;
            }
        }
    }
    on_event(PullEvent::Verifying { bytes: file.bytes });
    partial
        .file
        .sync_all()
        .map_err(|source| PullError::write(partial.path, partial.done, file.bytes, source))?;
    Ok(partial.hasher.clone().hex())
}

/// One request, read to its end or to its failure. What has arrived stays.
fn one_attempt(
    hub: &Hub<'_>,
    name: &HubName,
    file: &RemoteFile,
    partial: &mut Partial<'_>,
    on_event: &mut OnEvent<'_>,
) -> Result<(), Stop> {
    let answer = hub.open(name, file, partial.done).map_err(Stop::Attempt)?;
    let bad = |why: String| {
        Stop::Pull(
            HubError::BadAnswer {
                repo: name.repository(),
                why,
            }
            .into(),
        )
    };
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            let expected = format!("bytes {}-{}/{}", partial.done, file.bytes - 1, file.bytes);
            let range = content_range(&answer);
            if range != Some(expected.as_str()) {
                return Err(bad(format!(
                    "asked for `{expected}` it sent `{}`",
                    range.unwrap_or("no range")
                )));
            }
        }
        // The server does not do ranges, or thinks that ours lies outside the file: all of it, then.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            partial.restart().map_err(Stop::Pull)?;
            let why = "it refused to resume".into();
            return Err(Stop::Attempt(Failure::Retry { why, after: None }));
        }
        _ if partial.done > 0 => partial.restart().map_err(Stop::Pull)?,
        _ => {}
    }
    copy(answer.into_body().into_reader(), partial, on_event)
}

fn content_range(answer: &Response<Body>) -> Option<&str> {
    answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()
}

fn copy(
    mut body: impl Read,
    partial: &mut Partial<'_>,
    on_event: &mut OnEvent<'_>,
) -> Result<(), Stop> {
    let mut buf = vec![0; CHUNK_BYTES.min(128 * 1024)];
    let mut reported = partial.done;
    while partial.done < partial.bytes {
        let retry = |why: String| Stop::Attempt(Failure::Retry { why, after: None });
        let n = match body.read(&mut buf) {
            Ok(0) => return Err(retry("the connection ended early".into())),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(retry(error.to_string())),
        };
        // A body longer than promised is cut at the promise; the hash tells whether that was right.
        let n = n.min(usize::try_from(partial.bytes - partial.done).unwrap_or(usize::MAX));
        partial.append(&buf[..n]).map_err(Stop::Pull)?;
        if partial.done - reported >= REPORT_BYTES || partial.done == partial.bytes {
            reported = partial.done;
            on_event(PullEvent::Progress { done: reported });
        }
    }
    Ok(())
}

impl<'a> Partial<'a> {
    /// Opens or creates the file and hashes what it holds already.
    fn open(path: &'a Path, bytes: u64) -> Result<Partial<'a>, PullError> {
        let io = |doing| move |source| PullError::io(doing, path, source);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(io("open"))?;
        if file.metadata().map_err(io("read"))?.len() > bytes {
            file.set_len(0).map_err(io("truncate"))?;
        }
        let mut hasher = Hasher::default();
        let done = hash::feed(&mut file, bytes, &mut hasher).map_err(io("read"))?;
        Ok(Partial {
            path,
            file,
            hasher,
            done,
            bytes,
        })
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), PullError> {
        if let Err(error) = self.file.write_all(chunk) {
            // Part of the chunk may have been written: cut back to what the hash covers.
            let _truncating_frees_space = self.file.set_len(self.done);
            return Err(PullError::write(self.path, self.done, self.bytes, error));
        }
        self.hasher.update(chunk);
        self.done += chunk.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), PullError> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| PullError::io("truncate", self.path, source))?;
        self.hasher = Hasher::default();
        self.done = 0;
        Ok(())
    }
}
