//! The thread between all hosts: reads what each sends, and hands it over when its link says so.

use quorate_core::ids::Micros;
use quorate_core::link::{DelayLine, Fate, Link, Lost, Wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// Packets that are read from one device before the others get their turn.
const BURST: usize = 64;
const PACKET_BYTES_MAX: usize = 2048;

/// A host's place at the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(usize);

/// What one direction between two ports has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) offered: u64,
    pub(crate) delivered: u64,
    pub(crate) lost_on_line: u64,
    pub(crate) lost_in_queue: u64,
    /// By our own bounds, or by the receiving kernel.
    pub(crate) lost_here: u64,
}

struct Cable {
    link: Link,
    wire: Wire,
    traffic: Traffic,
}

#[derive(Clone)]
struct Socket {
    address: Ipv4Addr,
    device: Arc<File>,
}

struct Board {
    sockets: Vec<Socket>,
    cables: BTreeMap<(Port, Port), Cable>,
    under_way: DelayLine<(Port, Port, Vec<u8>)>,
    stopping: bool,
}

pub(crate) struct Switch {
    board: Arc<Mutex<Board>>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    pub(crate) fn start() -> Switch {
        let board = Arc::new(Mutex::new(Board {
            sockets: Vec::new(),
            cables: BTreeMap::new(),
            under_way: DelayLine::default(),
            stopping: false,
        }));
        let (woken, wake) = std::io::pipe().unwrap();
        let thread = std::thread::spawn({
            let board = board.clone();
            move || run(&board, woken)
        });
        Switch {
            board,
            wake,
            thread: Some(thread),
        }
    }

    /// A new port, joined with all others by `link`.
    pub(crate) fn plug(&mut self, address: Ipv4Addr, device: File, link: Link) -> Port {
        let mut board = lock(&self.board);
        let port = Port(board.sockets.len());
        for other in (0..port.0).map(Port) {
            board.join(port, other, link);
            board.join(other, port, link);
        }
        let device = Arc::new(device);
        board.sockets.push(Socket { address, device });
        drop(board);
        self.wake.write_all(&[0]).unwrap();
        port
    }

    /// Another link between two ports, both ways, from the next packet on.
    pub(crate) fn set_link(&self, a: Port, b: Port, link: Link) {
        let mut board = lock(&self.board);
        for ends in [(a, b), (b, a)] {
            let cable = board.cables.get_mut(&ends).expect("all ports are joined");
            cable.wire.set_link(link).expect("a link that can be");
            cable.link = link;
        }
    }

    /// The cable between two ports is cut, or whole again.
    pub(crate) fn set_cut(&self, a: Port, b: Port, is_cut: bool) {
        let mut board = lock(&self.board);
        for ends in [(a, b), (b, a)] {
            let cable = board.cables.get_mut(&ends).expect("all ports are joined");
            let link = cable.link;
            let now = if is_cut { link.cut() } else { link };
            cable.wire.set_link(now).expect("it was checked uncut");
        }
    }

    pub(crate) fn traffic(&self, from: Port, to: Port) -> Traffic {
        lock(&self.board).cables[&(from, to)].traffic
    }

    /// One line for each direction that carried something.
    pub(crate) fn report(&self) -> String {
        let board = lock(&self.board);
        let used = board
            .cables
            .iter()
            .filter(|(_, cable)| cable.traffic.offered > 0);
        used.map(|((from, to), cable)| {
            let address = |port: &Port| board.sockets[port.0].address;
            format!(
                "{} -> {}: {:?}\n",
                address(from),
                address(to),
                cable.traffic
            )
        })
        .collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        lock(&self.board).stopping = true;
        // The thread is gone already if it panicked, and the pipe with it.
        let woken = self.wake.write_all(&[0]);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            woken.expect("the switch runs until it is stopped");
            ended.expect("it was started").expect("the switch panicked");
        }
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().expect("the switch runs")
}

impl Board {
    fn join(&mut self, from: Port, to: Port, link: Link) {
        let seed = (from.0 as u64) << 32 | to.0 as u64;
        let cable = Cable {
            link,
            wire: Wire::new(link, seed).expect("a link that can be"),
            traffic: Traffic::default(),
        };
        self.cables.insert((from, to), cable);
    }

    /// What is for one host goes there, what is for many to all; what is for nobody is nobody's.
    fn forward(&mut self, now: Micros, from: Port, packet: &[u8]) {
        let Some(target) = target_of(packet) else {
            return;
        };
        let for_many = target.is_multicast() || target.is_broadcast();
        for to in (0..self.sockets.len()).map(Port) {
            let is_meant = for_many || self.sockets[to.0].address == target;
            if to != from && is_meant {
                self.offer(now, from, to, packet);
            }
        }
    }

    fn offer(&mut self, now: Micros, from: Port, to: Port, packet: &[u8]) {
        let cable = self
            .cables
            .get_mut(&(from, to))
            .expect("all ports are joined");
        let fate = cable.wire.offer(now, packet.len());
        let traffic = &mut cable.traffic;
        traffic.offered += 1;
        match fate {
            Fate::Deliver { .. } => {}
            Fate::Drop(Lost::Line) => traffic.lost_on_line += 1,
            Fate::Drop(Lost::Queue) => traffic.lost_in_queue += 1,
        }
        for at in fate.arrivals() {
            let parcel = (from, to, packet.to_vec());
            if self.under_way.push(at, packet.len(), parcel).is_err() {
                traffic.lost_here += 1;
            }
        }
    }

    fn deliver(&mut self, now: Micros) {
        while let Some((from, to, packet)) = self.under_way.pop(now) {
            let mut device: &File = &self.sockets[to.0].device;
            let written = device.write(&packet);
            let cable = self.cables.get_mut(&(from, to));
            let traffic = &mut cable.expect("all ports are joined").traffic;
            // A device that is down takes nothing: its host is going away.
            match written {
                Ok(_) => traffic.delivered += 1,
                Err(_) => traffic.lost_here += 1,
            }
        }
    }
}

fn target_of(packet: &[u8]) -> Option<Ipv4Addr> {
    let is_ip4 = packet.first()? >> 4 == 4;
    let target: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    is_ip4.then(|| target.into())
}

fn run(board: &Mutex<Board>, mut woken: PipeReader) {
    let started = Instant::now();
    let now = || Micros(started.elapsed().as_micros() as u64);
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        let (sockets, next_at) = {
            let board = lock(board);
            if board.stopping {
                return;
            }
            (board.sockets.clone(), board.under_way.next_at())
        };
        let readable = wait(&woken, &sockets, next_at.map(|at| at.since(now())));
        if readable[0] {
            let read = woken.read(&mut buffer);
            assert!(read.is_ok_and(|bytes| bytes > 0), "we hold the other end");
        }
        let mut board = lock(board);
        for (n, socket) in sockets.iter().enumerate() {
            let mut device: &File = &socket.device;
            for _ in 0..if readable[n + 1] { BURST } else { 0 } {
                // Nothing left, as a rule; else its namespace is going away.
                let Ok(bytes) = device.read(&mut buffer) else {
                    break;
                };
                board.forward(now(), Port(n), &buffer[..bytes]);
            }
        }
        board.deliver(now());
    }
}

/// Waits for packets or for time to pass; says whether we were woken, and which devices have some.
fn wait(woken: &PipeReader, sockets: &[Socket], wait_us: Option<u64>) -> Vec<bool> {
    let timeout = wait_us.map(|us| Timespec {
        tv_sec: (us / 1_000_000) as i64,
        tv_nsec: (us % 1_000_000 * 1_000) as _,
    });
    let mut fds = vec![PollFd::new(woken, PollFlags::IN)];
    let devices = sockets.iter().map(|socket| &*socket.device);
    fds.extend(devices.map(|device| PollFd::new(device, PollFlags::IN)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("poll: {error}"),
    }
    let is_readable = |fd: &PollFd| fd.revents().contains(PollFlags::IN);
    fds.iter().map(is_readable).collect()
}
