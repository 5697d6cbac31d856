//! Full disks, killed processes, two at once. Faults that need a process of their own re-run this
//! test binary with one test's name and a word in the environment.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use quorate::store::Store;
use quorate::store::pull::{PullError, PullEvent};

use crate::pulls::{Bench, model, options, resumed_from};

const CHILD: &str = "QUORATE_STORE_TEST";
const HOME: &str = "QUORATE_STORE_TEST_HOME";
const ENDPOINT: &str = "QUORATE_STORE_TEST_ENDPOINT";

/// In the child of the test called `test`: what it was told to do.
pub(crate) fn child_mode(test: &str) -> Option<String> {
    let value = std::env::var(CHILD).ok()?;
    value
        .strip_prefix(test)?
        .strip_prefix('=')
        .map(str::to_owned)
}

/// The command line that runs only `test`, as a child that is told `mode`.
fn child(test: &str, mode: &str, wrapper: &[&str]) -> Command {
    let exe = std::env::current_exe().expect("own path");
    let mut command = match wrapper {
        [] => Command::new(&exe),
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest).arg(&exe);
            command
        }
    };
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{test}={mode}"));
    command
}

pub(crate) fn run_child(test: &str, mode: &str, wrapper: &[&str]) -> Output {
    child(test, mode, wrapper)
        .output()
        .expect("run the test binary")
}

fn child_paths() -> (String, String) {
    (
        std::env::var(HOME).expect("home"),
        std::env::var(ENDPOINT).expect("endpoint"),
    )
}

#[test]
fn killed_in_the_middle() {
    const NAME: &str = "faults::killed_in_the_middle";
    if child_mode(NAME).is_some() {
        let (home, endpoint) = child_paths();
        let pulled =
            Store::new(Path::new(&home)).pull(&model(), &options(&endpoint), &mut |event| {
                if let PullEvent::Progress { done } = event {
                    println!("progress {done}");
                    std::io::stdout().flush().expect("flush");
                }
            });
        panic!("meant to be killed, but: {pulled:?}");
    }
    let bench = Bench::new(8);
    bench
        .hub
        .script(|script| script.pause = Duration::from_millis(20));
    let mut victim = child(NAME, "pull", &[])
        .env(HOME, bench.home.path())
        .env(ENDPOINT, bench.hub.endpoint())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let lines = BufReader::new(victim.stdout.take().expect("stdout")).lines();
    let progress = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("progress"))
        .nth(2);
    // `kill` is SIGKILL: nothing in the victim gets to tidy up.
    victim.kill().expect("kill");
    victim.wait().expect("wait");
    assert!(progress.is_some(), "it ended before it could be killed");
    bench.assert_nothing_installed();

    bench.hub.script(|script| script.pause = Duration::ZERO);
    let (result, events) = bench.pull();
    let pulled = result.expect("the lock died with its holder");
    assert_eq!(fs::read(pulled.path).expect("read"), bench.content);
    let resumed = resumed_from(&events);
    assert!(resumed.len() == 1 && resumed[0] >= 1 << 20, "{resumed:?}");
    let range = bench
        .hub
        .fetches()
        .last()
        .and_then(|seen| seen.range.clone());
    assert_eq!(range, Some(format!("bytes={}-", resumed[0])));
}

#[test]
fn two_at_once_fetch_once() {
    let bench = Bench::new(4);
    bench
        .hub
        .script(|script| script.pause = Duration::from_millis(5));
    let barrier = Barrier::new(2);
    let pull = || {
        barrier.wait();
        bench.pull()
    };
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(pull);
        (pull(), other.join().expect("no panic"))
    });
    one.0.expect("pulled");
    two.0.expect("pulled");
    assert_eq!(bench.hub.fetches().len(), 1);
    let waited = [one.1, two.1]
        .iter()
        .filter(|events| events.contains(&PullEvent::Waiting))
        .count();
    assert_eq!(waited, 1);
}

/// A file system of 12 MiB in a mount namespace of the child; the model has 8.
#[test]
fn a_disk_that_fills_up() {
    const NAME: &str = "faults::a_disk_that_fills_up";
    if child_mode(NAME).is_some() {
        let (home, endpoint) = child_paths();
        return fill_the_disk(Path::new(&home), &endpoint);
    }
    let namespaces: [&[&str]; 2] = [
        &["unshare", "--mount"],
        &["unshare", "--user", "--map-root-user", "--mount"],
    ];
    let Some(unshare) = namespaces.iter().find(|unshare| {
        let mut probe = Command::new(unshare[0]);
        probe
            .args(&unshare[1..])
            .args(["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]);
        probe
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }) else {
        println!(
            "skipped: this machine allows no mount namespace; a_file_size_limit covers part of it"
        );
        return;
    };
    let bench = Bench::new(8);
    let home = tempfile::tempdir().expect("tempdir");
    let script = format!(
        "mount -t tmpfs -o size=12m tmpfs {} && exec \"$@\"",
        home.path().display()
    );
    let wrapper = [unshare, &["sh", "-c", &script, "sh"][..]].concat();
    let output = child(NAME, "fill", &wrapper)
        .env(HOME, home.path())
        .env(ENDPOINT, bench.hub.endpoint())
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    let ranges: Vec<_> = bench
        .hub
        .fetches()
        .into_iter()
        .map(|seen| seen.range)
        .collect();
    assert!(
        ranges.len() == 2 && ranges[0].is_none() && ranges[1].is_some(),
        "{ranges:?}"
    );
}

fn fill_the_disk(home: &Path, endpoint: &str) {
    let (store, options) = (Store::new(home), options(endpoint));
    let filler = home.join("filler");

    // Too full from the start: refused before a byte is fetched, with the arithmetic.
    fs::write(&filler, vec![1; 6 << 20]).expect("write");
    let error = store
        .pull(&model(), &options, &mut |_| {})
        .expect_err("no room");
    let PullError::NoRoom { need, free, .. } = &error else {
        panic!("{error}")
    };
    let (short, text) = (format!("{} short", need - free), error.to_string());
    assert!(
        text.contains(&short) && text.contains("QUORATE_HOME"),
        "{text}"
    );

    // Filled by somebody else on the way.
    fs::remove_file(&filler).expect("remove");
    let error = store
        .pull(&model(), &options, &mut |event| {
            if matches!(event, PullEvent::Started { .. }) {
                fs::write(&filler, vec![1; 8 << 20]).expect("write");
            }
        })
        .expect_err("full");
    let PullError::DiskFull { path, done, .. } = &error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("it resumes"), "{error}");
    assert_eq!(
        fs::metadata(path).expect("the partial file is kept").len(),
        *done
    );
    assert!(*done > 1 << 20 && store.list().expect("listed").models.is_empty());

    fs::remove_file(&filler).expect("remove");
    let mut events = Vec::new();
    store
        .pull(&model(), &options, &mut |event| events.push(event))
        .expect("pulled");
    assert_eq!(resumed_from(&events), [*done]);
    store.resolve(&model()).expect("resolved");
}

/// The same path of code without any privilege: the kernel refuses to let a file grow further.
#[cfg(unix)]
#[test]
fn a_file_size_limit() {
    const NAME: &str = "faults::a_file_size_limit";
    if child_mode(NAME).is_some() {
        let (home, endpoint) = child_paths();
        let error = Store::new(Path::new(&home))
            .pull(&model(), &options(&endpoint), &mut |_| {})
            .expect_err("too large");
        assert!(
            matches!(error, PullError::DiskFull { done: 1.., .. }),
            "{error}"
        );
        return;
    }
    let bench = Bench::new(8);
    // 4096 blocks are 2 or 4 MiB, depending on the shell. The signal must be ignored for the write to return.
    let output = child(
        NAME,
        "limit",
        &[
            "sh",
            "-c",
            "trap '' XFSZ; ulimit -f 4096; exec \"$@\"",
            "sh",
        ],
    )
    .env(HOME, bench.home.path())
    .env(ENDPOINT, bench.hub.endpoint())
    .output()
    .expect("run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    bench.assert_nothing_installed();
    let (result, events) = bench.pull();
    result.expect("pulled without the limit");
    assert!(resumed_from(&events)[0] > 1 << 20, "{events:?}");
}
