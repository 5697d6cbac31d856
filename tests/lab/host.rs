//! One machine of the lab: what runs on it, and how that is stopped.

use crate::relaunch::{command, run_with_input};
use crate::switch::Port;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Lines of a program that `wait_for` looks through; the log file has them all.
const LINES_KEPT_MAX: usize = 100_000;

pub(crate) struct Host {
    name: String,
    /// Its own; private where it is behind a router.
    pub(crate) address: Ipv4Addr,
    /// Under which others see it.
    pub(crate) public: Ipv4Addr,
    port: Port,
    dir: PathBuf,
    started: AtomicUsize,
}

impl Host {
    pub(crate) fn new(name: &str, dir: &Path, address: Ipv4Addr, port: Port) -> Host {
        Host {
            name: name.to_owned(),
            address,
            public: address,
            port,
            dir: dir.to_owned(),
            started: AtomicUsize::new(0),
        }
    }

    pub(crate) fn behind(self, public: Ipv4Addr) -> Host {
        Host { public, ..self }
    }

    pub(crate) fn port(&self) -> Port {
        self.port
    }

    /// A folder of its own, gone with the lab.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = self.dir.join(&self.name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A program on this host, not yet started.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = command("nsenter");
        let net = format!("--net={}", self.net().display());
        command.args([&net, "--", program]).args(args);
        command
    }

    /// Runs a program to its end; what it printed.
    pub(crate) fn exec(&self, program: &str, args: &[&str]) -> String {
        match run_with_input(self.command(program, args), "") {
            Ok(printed) => printed,
            Err(why) => panic!("{}: {program} {}: {why}", self.name, args.join(" ")),
        }
    }

    /// Starts a program that was made by `command`; what it prints goes into a log of its own.
    pub(crate) fn spawn(&self, mut command: Command) -> Process {
        let n = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.join(format!("{}-{n}.log", self.name));
        let mut file = File::create(log).unwrap();
        writeln!(file, "{command:?}").unwrap();
        let (printed, out) = std::io::pipe().unwrap();
        let err = out.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        // It holds our ends of the pipe.
        drop(command);
        let lines = Arc::new(Lines::default());
        std::thread::spawn({
            let lines = lines.clone();
            move || lines.follow(printed, file)
        });
        Process {
            child: child.unwrap(),
            lines,
        }
    }

    /// Runs `what` in a thread on this host: sockets that it makes belong here for ever.
    pub(crate) fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let net = File::open(self.net()).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(net.as_fd(), kind).unwrap();
                what()
            });
            inside.join().expect("what runs on a host does not panic")
        })
    }

    fn net(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

/// A program on a host. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Lines>,
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line so far, or from now on, with this text in it.
    pub(crate) fn wait_for(&self, text: &str, patience: Duration) -> String {
        let found = self.lines.wait_for(text, patience);
        found.unwrap_or_else(|why| panic!("waiting for {text:?}: {why}"))
    }

    /// SIGSTOP: the machine is up and silent.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        // Its threads may answer something yet: it stands still when the last of them does.
        let child = WaitId::Pid(Pid::from_child(&self.child));
        let status = waitid(child, WaitIdOptions::STOPPED).unwrap();
        assert!(status.is_some_and(|status| status.stopped()));
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and it is gone.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, as a rule; else the end of the namespace does it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a program has printed so far.
#[derive(Default)]
struct Lines {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    is_over: bool,
}

impl Lines {
    fn follow(&self, printed: PipeReader, mut log: File) {
        let mut printed = BufReader::new(printed);
        let mut line = Vec::new();
        while printed.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            // The folder may be gone in the end; the lines are here.
            drop(log.write_all(&line));
            let mut seen = self.seen.lock().unwrap();
            if seen.lines.len() < LINES_KEPT_MAX {
                let text = String::from_utf8_lossy(&line);
                seen.lines.push(text.trim_end().to_owned());
            }
            self.changed.notify_all();
            line.clear();
        }
        self.seen.lock().unwrap().is_over = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, text: &str, patience: Duration) -> Result<String, &'static str> {
        let find = |seen: &Seen| seen.lines.iter().find(|line| line.contains(text)).cloned();
        let seen = self.seen.lock().unwrap();
        let waits = |seen: &mut Seen| find(seen).is_none() && !seen.is_over;
        let (seen, timeout) = self
            .changed
            .wait_timeout_while(seen, patience, waits)
            .unwrap();
        let why = if timeout.timed_out() {
            "not in time"
        } else {
            "the program has ended"
        };
        find(&seen).ok_or(why)
    }
}
