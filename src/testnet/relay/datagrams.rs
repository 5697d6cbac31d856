//! UDP. The target sees each client as a port of ours, as behind a home router.

use super::{Direction, Shared, note_panic};
use quorate_core::limits::{RELAY_FLOW_IDLE_S, RELAY_FLOW_INBOX_MAX, RELAY_FLOWS_MAX};
use quorate_core::link::DelayLine;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// No datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
const IDLE: Duration = Duration::from_secs(RELAY_FLOW_IDLE_S);

/// Sorts datagrams by client until `stop`, or until the socket fails.
pub(super) async fn run(shared: Arc<Shared>, socket: UdpSocket, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let mut flows = Flows {
        shared,
        socket: socket.clone(),
        inboxes: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = flows.tasks.join_next() => flows.on_ended(note_panic(ended)),
            received = socket.recv_from(&mut buffer) => match received {
                Ok((bytes, client)) => flows.on_datagram(client, &buffer[..bytes]).await,
                // What a client's unreachable port made of our last answer.
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::error!(target: "quorate::testnet", %error, "the relay's UDP socket failed");
                    break;
                }
            },
        }
    }
    flows.tasks.shutdown().await;
}

/// Errors that are about one datagram and not about the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
        PermissionDenied,
    };
    matches!(
        error.kind(),
        ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | PermissionDenied
    )
}

struct Flows {
    shared: Arc<Shared>,
    /// The listening one: answers leave through it.
    socket: Arc<UdpSocket>,
    inboxes: BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>>,
    /// Each ends with its client's address.
    tasks: JoinSet<SocketAddr>,
}

impl Flows {
    async fn on_datagram(&mut self, client: SocketAddr, datagram: &[u8]) {
        let known = self.inboxes.get(&client).filter(|tx| !tx.is_closed());
        let inbox = match known {
            Some(inbox) => Some(inbox.clone()),
            None => self.open(client).await,
        };
        let taken = inbox.is_some_and(|inbox| inbox.try_send(datagram.to_vec()).is_ok());
        if !taken {
            self.shared.no_room(Direction::Forth);
        }
    }

    async fn open(&mut self, client: SocketAddr) -> Option<mpsc::Sender<Vec<u8>>> {
        if self.tasks.len() >= RELAY_FLOWS_MAX {
            return None;
        }
        let upstream = match connect(self.shared.target).await {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::warn!(target: "quorate::testnet", %error, "no socket towards the target");
                return None;
            }
        };
        let (inbox_tx, inbox) = mpsc::channel(RELAY_FLOW_INBOX_MAX);
        let flow = Flow {
            shared: self.shared.clone(),
            client,
            socket: self.socket.clone(),
            upstream,
            idle: IDLE,
            lines: [DelayLine::default(), DelayLine::default()],
        };
        self.tasks.spawn(flow.run(inbox));
        self.inboxes.insert(client, inbox_tx.clone());
        Some(inbox_tx)
    }

    fn on_ended(&mut self, client: Option<SocketAddr>) {
        match client {
            // Its client may have come back and have a new flow by now.
            Some(client) => {
                if self.inboxes.get(&client).is_some_and(|tx| tx.is_closed()) {
                    self.inboxes.remove(&client);
                }
            }
            None => self.inboxes.retain(|_, tx| !tx.is_closed()),
        }
    }
}

async fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// One client's conversation with the target.
struct Flow {
    shared: Arc<Shared>,
    client: SocketAddr,
    socket: Arc<UdpSocket>,
    upstream: UdpSocket,
    /// It ends after this long without a word.
    idle: Duration,
    /// What is under way, by direction.
    lines: [DelayLine<Vec<u8>>; 2],
}

impl Flow {
    /// Until nothing was said for a while, or the listening task goes away. Ends with its name.
    async fn run(mut self, mut inbox: mpsc::Receiver<Vec<u8>>) -> SocketAddr {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut idle_at = Instant::now() + self.idle;
        loop {
            let next = self.lines.iter().filter_map(DelayLine::next_at).min();
            tokio::select! {
                biased;
                () = self.shared.wait_until(next.unwrap_or_default()), if next.is_some() => {
                    self.deliver().await;
                    continue;
                }
                datagram = inbox.recv() => match datagram {
                    Some(datagram) => self.put(Direction::Forth, datagram),
                    None => break,
                },
                received = self.upstream.recv(&mut buffer) => match received {
                    Ok(bytes) => self.put(Direction::Back, buffer[..bytes].to_vec()),
                    // The target is not there, yet or any more.
                    Err(error) if is_passing(&error) => continue,
                    Err(_) => break,
                },
                () = tokio::time::sleep_until(idle_at), if next.is_none() => break,
            }
            idle_at = Instant::now() + self.idle;
        }
        self.client
    }

    fn put(&mut self, direction: Direction, datagram: Vec<u8>) {
        let bytes = datagram.len();
        let arrivals = self.shared.offer(direction, bytes).arrivals();
        for at in arrivals {
            let line = &mut self.lines[direction as usize];
            if line.push(at, bytes, datagram.clone()).is_err() {
                self.shared.no_room(direction);
            }
        }
    }

    /// Hands over what has arrived.
    async fn deliver(&mut self) {
        for direction in [Direction::Forth, Direction::Back] {
            while let Some(datagram) = self.lines[direction as usize].pop(self.shared.now()) {
                let sent = match direction {
                    Direction::Forth => self.upstream.send(&datagram).await,
                    Direction::Back => self.socket.send_to(&datagram, self.client).await,
                };
                match sent {
                    Ok(_) => self.shared.handed_over(direction, datagram.len()),
                    Err(_) => self.shared.no_room(direction),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::relay::Lane;
    use quorate_core::link::Link;
    use std::sync::Mutex;

    #[tokio::test]
    async fn a_silent_conversation_ends_and_not_before_its_last_word_has_arrived() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let target = UdpSocket::bind(any).await.unwrap();
        let link = Link {
            delay_us: 200_000,
            ..Link::PERFECT
        };
        let lane = || Mutex::new(Lane::new(link, 1).unwrap());
        let shared = Arc::new(Shared {
            target: target.local_addr().unwrap(),
            started: Instant::now(),
            lanes: [lane(), lane()],
        });
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let flow = Flow {
            upstream: connect(shared.target).await.unwrap(),
            shared,
            client,
            socket: Arc::new(UdpSocket::bind(any).await.unwrap()),
            idle: Duration::from_millis(20),
            lines: [DelayLine::default(), DelayLine::default()],
        };
        let (inbox_tx, inbox) = mpsc::channel(1);
        inbox_tx.try_send(b"the last word".to_vec()).unwrap();
        assert_eq!(flow.run(inbox).await, client);
        let mut buffer = [0; 32];
        let bytes = target.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..bytes], b"the last word");
        assert!(inbox_tx.is_closed());
    }
}
