//! Programs on hosts, and that nothing is left of them.

use crate::lab::{self, PATIENCE, eventually};
use crate::relaunch::{Needs, flags_or_skip};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set for a run whose end is the subject: `panic` or `hang`.
const FATE: &str = "QUORATE_LAB_FATE";
/// All processes of that run have this in their environment.
const MARK: &str = "QUORATE_LAB_MARK";

/// The kernel's letter for what a process does.
fn state(id: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest[..1].to_owned()
}

#[test]
fn lab_programs_are_started_paused_and_killed() {
    lab::run(Needs::Nothing, |lab| {
        let (a, b) = (lab.host(), lab.host());
        assert!(a.exec("ip", &["address"]).contains(&a.address.to_string()));
        assert!(!a.exec("ip", &["address"]).contains(&b.address.to_string()));
        let script = "echo ready; echo trouble >&2; exec sleep 1000";
        let mut program = a.spawn(a.command("sh", &["-c", script]));
        program.wait_for("ready", PATIENCE);
        assert_eq!(program.wait_for("trou", PATIENCE), "trouble");
        program.pause();
        eventually("it stands still", || state(program.id()) == "T");
        program.resume();
        eventually("it goes on", || state(program.id()) == "S");
        match std::env::var(FATE).as_deref() {
            Ok("panic") => panic!("as asked"),
            Ok("hang") => {
                println!("hanging");
                std::thread::sleep(Duration::from_secs(3600));
            }
            _ => {}
        }
        assert_eq!(program.kill().signal(), Some(9));
        let ended = b.spawn(b.command("sh", &["-c", "echo only this"]));
        ended.wait_for("only this", PATIENCE);
    });
}

/// Processes of a marked run, seen from outside.
fn marked(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap();
    let is_marked = |entry: &std::fs::DirEntry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let wanted = format!("{MARK}={mark}");
        environment
            .split(|byte| *byte == 0)
            .any(|word| word == wanted.as_bytes())
    };
    processes.filter_map(Result::ok).filter(is_marked).count()
}

fn interfaces() -> BTreeSet<OsString> {
    let devices = std::fs::read_dir("/sys/class/net").unwrap();
    devices.map(|device| device.unwrap().file_name()).collect()
}

/// Starts the test above with another end.
fn victim(fate: &str, mark: &str, temp: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "programs::lab_programs_are_started_paused_and_killed";
    command
        .args(["--exact", name, "--nocapture"])
        .env(FATE, fate)
        .env(MARK, mark)
        .env("TMPDIR", temp)
        .stdin(Stdio::null());
    command
}

fn assert_nothing_is_left(mark: &str, temp: &Path, interfaces_before: &BTreeSet<OsString>) {
    eventually("all its processes are gone", || marked(mark) == 0);
    eventually("its files are gone", || {
        std::fs::read_dir(temp).unwrap().count() == 0
    });
    assert_eq!(interfaces(), *interfaces_before);
}

#[test]
fn lab_a_panic_shows_the_logs_and_leaves_nothing() {
    if flags_or_skip("a panic in the lab", Needs::Nothing).is_none() {
        return;
    }
    let (before, temp) = (interfaces(), tempfile::tempdir().unwrap());
    let mark = format!("panic-{}", std::process::id());
    let output = victim("panic", &mark, temp.path()).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("as asked"), "{text}");
    assert!(text.contains("trouble"), "no log: {text}");
    assert_nothing_is_left(&mark, temp.path(), &before);
}

#[test]
fn lab_a_killed_test_leaves_nothing() {
    if flags_or_skip("a killed test in the lab", Needs::Nothing).is_none() {
        return;
    }
    let (before, temp) = (interfaces(), tempfile::tempdir().unwrap());
    let mark = format!("hang-{}", std::process::id());
    let mut command = victim("hang", &mark, temp.path());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let printed = BufReader::new(child.stdout.take().unwrap());
    let mut lines = printed.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("hanging")));
    // The test outside, unshare, the test inside and its program.
    assert!(marked(&mark) >= 4, "{}", marked(&mark));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_nothing_is_left(&mark, temp.path(), &before);
}
