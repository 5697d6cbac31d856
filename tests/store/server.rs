//! A server in the shape of a hub: a listing, a redirect, bytes with ranges, and faults on demand.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// No request of ours comes near.
const MAX_REQUEST_BYTES: u64 = 16 * 1024;

/// One request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

/// What the server does; tests change it between requests.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) file_name: String,
    pub(crate) content: Arc<Vec<u8>>,
    /// What the listing claims; normally the truth.
    pub sha256: String,
    /// Other files in the listing.
    pub(crate) also: Vec<String>,
    /// Answer every listing with this status.
    pub(crate) listing_status: Option<u16>,
    /// Answer the next exchanges with 503.
    pub(crate) unavailable: u32,
    /// Close the connection after so many body bytes, once for each entry.
    pub(crate) cuts: VecDeque<usize>,
    pub(crate) ignore_ranges: bool,
    /// Pause between pieces of 64 KiB.
    pub(crate) pause: Duration,
}

pub(crate) struct HubServer {
    port: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

struct State {
    script: Script,
    seen: Vec<Seen>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl HubServer {
    pub(crate) fn start(file_name: &str, content: Vec<u8>) -> HubServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let script = Script {
            file_name: file_name.into(),
            sha256: sha256(&content),
            content: Arc::new(content),
            also: vec!["README.md".into()],
            listing_status: None,
            unavailable: 0,
            cuts: VecDeque::new(),
            ignore_ranges: false,
            pause: Duration::ZERO,
        };
        let state = Arc::new(Mutex::new(State {
            script,
            seen: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (for_loop, stopped) = (state.clone(), stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let state = for_loop.clone();
                // A client that dies mid-answer ends its own thread only.
                thread::spawn(move || serve(&stream, port, &state));
            }
        });
        HubServer { port, state, stop }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.lock().script);
    }

    /// Serves other bytes from now on, and says so in the listing.
    pub(crate) fn replace(&self, content: Vec<u8>) {
        self.script(|script| {
            script.sha256 = sha256(&content);
            script.content = Arc::new(content);
        });
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Requests for the file's bytes, after the redirect.
    pub(crate) fn fetches(&self) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.path.starts_with("/cdn/"))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the server's state")
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop; if that fails the thread ends with the process.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn serve(stream: &TcpStream, port: u16, state: &Mutex<State>) {
    let Some(seen) = read_request(stream) else {
        return;
    };
    let path = seen.path.clone();
    let range = seen.range.clone();
    let script = {
        let mut state = state.lock().expect("the server's state");
        state.seen.push(seen);
        let script = state.script.clone();
        if script.unavailable > 0 {
            state.script.unavailable -= 1;
        } else if path.starts_with("/cdn/") {
            state.script.cuts.pop_front();
        }
        script
    };
    let _gone_client = respond(stream, port, &path, range.as_deref(), &script);
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream.take(MAX_REQUEST_BYTES)).lines();
    let path = lines.next()?.ok()?.split_whitespace().nth(1)?.to_owned();
    let mut seen = Seen {
        path,
        range: None,
        token: None,
    };
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.trim().to_owned()),
            "authorization" => seen.token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    Some(seen)
}

fn respond(
    mut to: &TcpStream,
    port: u16,
    path: &str,
    range: Option<&str>,
    script: &Script,
) -> std::io::Result<()> {
    if script.unavailable > 0 {
        return to.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if path.starts_with("/api/models/") {
        if let Some(status) = script.listing_status {
            return write!(
                to,
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        let body = listing(script);
        return write!(
            to,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    if path.contains("/resolve/") {
        // Another host name: the token must not follow.
        return write!(
            to,
            "HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}/cdn/file\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let content = &script.content;
    let from = range.filter(|_| !script.ignore_ranges).and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    match from {
        Some(from) if from >= content.len() => {
            return to.write_all(
                b"HTTP/1.1 416 Range\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
        Some(from) => write!(
            to,
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {}-{}/{}\r\n",
            from,
            content.len() - 1,
            content.len()
        )?,
        None => to.write_all(b"HTTP/1.1 200 OK\r\n")?,
    }
    let body = &content[from.unwrap_or(0)..];
    write!(
        to,
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    let sent = script
        .cuts
        .front()
        .map_or(body.len(), |&cut| cut.min(body.len()));
    for piece in body[..sent].chunks(64 * 1024) {
        to.write_all(piece)?;
        if !script.pause.is_zero() {
            thread::sleep(script.pause);
        }
    }
    Ok(())
}

fn listing(script: &Script) -> String {
    let mut siblings: Vec<serde_json::Value> = script
        .also
        .iter()
        .map(|name| serde_json::json!({"rfilename": name, "size": 1}))
        .collect();
    siblings.push(serde_json::json!({
        "rfilename": script.file_name,
        "size": script.content.len(),
        "lfs": {"sha256": script.sha256, "size": script.content.len(), "pointerSize": 135},
    }));
    serde_json::json!({"id": "org/repo", "sha": COMMIT, "private": false, "siblings": siblings})
        .to_string()
}
