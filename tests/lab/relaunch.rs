//! The same test once more, in namespaces of its own.
//!
//! The test process starts `unshare`, which starts this program again as process 1 of a new process
//! namespace. When that ends, in whatever way, the kernel kills all that is in the namespace, and
//! with the last process the networks and mounts go. It ends when its test is over, and when its
//! standard input does, which is held by the test process outside.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set inside: where logs go, and the word that the test ran to its end.
const INSIDE: &str = "QUORATE_LAB_INSIDE";
const DONE: &str = "done";

/// What a test needs besides namespaces and TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Nat,
}

/// `body` gets the lab's folder, in the namespaces. `name` is the test's path, as its runner says it.
pub(crate) fn in_namespaces(name: &str, needs: Needs, body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let dir = PathBuf::from(dir);
        end_with_parent(dir.clone());
        body(&dir);
        std::fs::write(dir.join(DONE), "").unwrap();
        return;
    }
    if let Some(flags) = flags_or_skip(name, needs) {
        relaunch(name, &flags);
    }
}

/// How to make namespaces here; where that cannot be done, says that the test is skipped, and why.
pub(crate) fn flags_or_skip(name: &str, needs: Needs) -> Option<Vec<&'static str>> {
    match find_flags(needs) {
        Ok(flags) => Some(flags),
        Err(why) if std::env::var_os("QUORATE_LAB").is_some_and(|v| v == "required") => {
            panic!("QUORATE_LAB=required, and {name} cannot run here: {why}")
        }
        Err(why) => {
            eprintln!("SKIPPED {name}: {why}");
            None
        }
    }
}

fn relaunch(name: &str, flags: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command("unshare")
        .args(flags)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, dir.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // `wait` would close it, and with it the lab.
    let lifeline = child.stdin.take();
    let status = child.wait().unwrap();
    drop(lifeline);
    assert!(
        status.success(),
        "in its namespaces the test failed: {status}"
    );
    // A name that no test has would succeed, too.
    assert!(dir.path().join(DONE).exists(), "no test is called {name}");
}

fn end_with_parent(dir: PathBuf) {
    std::thread::spawn(move || {
        let ended = std::io::stdin().read(&mut [0]);
        eprintln!("lab: whoever started this is gone ({ended:?}): ending");
        // Nobody else is left to do it, or to be told that it failed.
        drop(std::fs::remove_dir_all(dir));
        std::process::exit(1);
    });
}

fn find_flags(needs: Needs) -> Result<Vec<&'static str>, String> {
    let tun = std::fs::File::options()
        .read(true)
        .write(true)
        .open(crate::tun::DEVICE);
    tun.map_err(|error| format!("cannot open {}: {error}", crate::tun::DEVICE))?;
    let mut flags = vec![
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    if !rustix::process::geteuid().is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    probe(&flags, &["ip", "link"], "")?;
    if needs == Needs::Nat {
        probe(
            &flags,
            &["nft", "-f", "-"],
            &crate::nat::rules("tun", "veth", crate::nat::Ports::Drawn),
        )?;
    }
    Ok(flags)
}

fn probe(flags: &[&str], program: &[&str], input: &str) -> Result<(), String> {
    let what = format!("unshare {} -- {}", flags.join(" "), program.join(" "));
    let mut command = command("unshare");
    command.args(flags).arg("--").args(program);
    run_with_input(command, input).map_err(|why| format!("{what}: {why}"))?;
    Ok(())
}

/// What it printed, or what it complained of.
pub(crate) fn run_with_input(mut command: Command, input: &str) -> Result<String, String> {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = command
        .stdin(file)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ({})", complaint.trim(), output.status))
}

/// A program of the system: `ip` and `nft` lie where only root looks.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
