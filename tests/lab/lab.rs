//! Hosts and what lies between them.

use crate::host::Host;
use crate::nat::Ports;
use crate::relaunch::{self, Needs, command, run_with_input};
use crate::switch::{Port, Switch, Traffic};
use crate::{nat, tun};
use quorate_core::link::Link;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For what must come: a machine that is busy may take long, one that waits longer is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Lines that are shown of each log when a test fails.
const LOG_TAIL_LINES: usize = 60;

/// Runs a test in namespaces of its own. Call it with a closure in the test function itself: the
/// closure's type name is how the test is found again.
pub(crate) fn run<F: FnOnce(&mut Lab)>(needs: Needs, body: F) {
    let closure = std::any::type_name::<F>();
    let path = closure.strip_suffix("::{{closure}}");
    let path = path.expect("a closure, not a function");
    let (_, name) = path.split_once("::").expect("a path in this program");
    relaunch::in_namespaces(name, needs, |dir| {
        let mut lab = Lab::new(dir);
        body(&mut lab);
    });
}

/// Looks again and again at what no event tells of: the kernel's counters and tables.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) struct Lab {
    dir: PathBuf,
    switch: Switch,
    ports: Vec<Port>,
}

impl Lab {
    fn new(dir: &Path) -> Lab {
        ip(&["link", "set", "lo", "up"]);
        // `ip netns` keeps its names in /run: in a mount namespace of our own, ours may be another.
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "lab", "/run"]);
        run_with_input(mount, "").unwrap();
        Lab {
            dir: dir.to_owned(),
            switch: Switch::start(),
            ports: Vec::new(),
        }
    }

    /// A machine with one public address, in one room with all others until `link` says otherwise.
    pub(crate) fn host(&mut self) -> Host {
        let n = self.ports.len() + 1;
        assert!(n < 250, "one byte of the address");
        let address = Ipv4Addr::new(10, 99, 0, n as u8);
        let (name, device) = (format!("h{n}"), format!("tun{n}"));
        ip(&["netns", "add", &name]);
        let tun = tun::open(&device).unwrap();
        ip(&["link", "set", &device, "netns", &name]);
        let lan = Link::named("lan").expect("a rung");
        let port = self.switch.plug(address, tun, lan);
        self.ports.push(port);
        let host = Host::new(&name, &self.dir, address, port);
        host.exec("ip", &["link", "set", "lo", "up"]);
        host.exec(
            "ip",
            &["address", "add", &format!("{address}/16"), "dev", &device],
        );
        // No IPv6 chatter, and room for bursts: what is lost is for the link to decide.
        let up = [
            "link",
            "set",
            &device,
            "addrgenmode",
            "none",
            "txqueuelen",
            "10000",
            "up",
        ];
        host.exec("ip", &up);
        host.exec("ip", &["route", "add", "224.0.0.0/4", "dev", &device]);
        host
    }

    /// A machine with a private address behind a router of its own, as at home. Links to it are
    /// links to its router. Only for tests with `Needs::Nat`.
    pub(crate) fn host_behind_nat(&mut self) -> Host {
        self.host_behind(Ports::Kept)
    }

    pub(crate) fn host_behind(&mut self, ports: Ports) -> Host {
        let router = self.host();
        let n = self.ports.len();
        let name = format!("h{n}-home");
        ip(&["netns", "add", &name]);
        let gateway = format!("192.168.{n}.1");
        let address = Ipv4Addr::new(192, 168, n as u8, 2);
        let home = Host::new(&name, &self.dir, address, router.port());
        router.exec(
            "ip",
            &[
                "link", "add", "veth", "type", "veth", "peer", "name", "eth", "netns", &name,
            ],
        );
        router.exec(
            "ip",
            &["address", "add", &format!("{gateway}/24"), "dev", "veth"],
        );
        router.exec("ip", &["link", "set", "veth", "up"]);
        router.exec("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        let rules = nat::rules(&format!("tun{n}"), "veth", ports);
        run_with_input(router.command("nft", &["-f", "-"]), &rules).unwrap();
        home.exec("ip", &["link", "set", "lo", "up"]);
        home.exec(
            "ip",
            &["address", "add", &format!("{address}/24"), "dev", "eth"],
        );
        home.exec("ip", &["link", "set", "eth", "up"]);
        home.exec("ip", &["route", "add", "default", "via", &gateway]);
        home.behind(router.address)
    }

    /// Both directions, from the next packet on.
    pub(crate) fn link(&self, a: &Host, b: &Host, link: Link) {
        self.switch.set_link(a.port(), b.port(), link);
    }

    /// Nothing passes between the two sides any more.
    pub(crate) fn partition(&self, one: &[&Host], other: &[&Host]) {
        for a in one {
            for b in other {
                self.switch.set_cut(a.port(), b.port(), true);
            }
        }
    }

    /// All cables are whole again.
    pub(crate) fn heal(&self) {
        for (n, a) in self.ports.iter().enumerate() {
            for b in &self.ports[n + 1..] {
                self.switch.set_cut(*a, *b, false);
            }
        }
    }

    /// What went from one host towards the other so far.
    pub(crate) fn traffic(&self, from: &Host, to: &Host) -> Traffic {
        self.switch.traffic(from.port(), to.port())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- links ---\n{}", self.switch.report());
            print_logs(&self.dir);
        }
    }
}

fn print_logs(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    let is_log = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "log");
    let mut paths: Vec<_> = paths.filter(is_log).collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        eprintln!("--- {} ---\n{}", path.display(), tail.join("\n"));
    }
}

fn ip(args: &[&str]) {
    let mut ip = command("ip");
    ip.args(args);
    if let Err(why) = run_with_input(ip, "") {
        panic!("ip {}: {why}", args.join(" "));
    }
}
