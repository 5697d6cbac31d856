//! A node with its API on a free port, and a bare HTTP client that can misbehave.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use quorate::api::metrics::Metrics;
use quorate::api::{self, ApiState, Catalogue, InstalledModel, Limits};
use quorate::driver::{self, AcquireError, Found, Models, Node, NodeStatus};
use quorate::expert::stub::{StubExpert, StubOptions};
use quorate_core::config::MeshConfig;
use quorate_core::residency::KeepAlive;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) node: Node,
    state: ApiState,
    pub(crate) stop_node: CancellationToken,
    pub(crate) stop_api: CancellationToken,
    pub(crate) serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// "stub" is installed, "gpt-4o" stands for it, "remote" is known, "huge" does not fit, "torn" does
/// not load.
pub(crate) async fn start(options: StubOptions) -> Server {
    start_with(options, |_| {}).await
}

/// Answers are as long as max_tokens says.
pub(crate) fn endless() -> StubOptions {
    StubOptions {
        end_logit: -30.0,
        ..StubOptions::default()
    }
}

pub(crate) async fn start_with(options: StubOptions, change: impl FnOnce(&mut ApiState)) -> Server {
    let stop_node = CancellationToken::new();
    let settings = driver::Settings {
        node_id: "test".into(),
        memory_budget_bytes: 2 << 20,
        keep_alive: KeepAlive::Forever,
        config: MeshConfig::default(),
    };
    let (node, _loop) = driver::start(settings, models(options), stop_node.clone());
    let mut state = ApiState {
        node: node.clone(),
        mesh: quorate::mesh::Membership::new("stub"),
        library: None,
        catalogue: catalogue(),
        default_model: Some("stub".into()),
        api_key_hash: None,
        allowed_hosts: Arc::from([]),
        allowed_origins: Arc::from([]),
        metrics: Metrics::new(),
        recordings: Arc::new(tokio::sync::Semaphore::new(1)),
        limits: Limits::default(),
    };
    change(&mut state);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop_api = CancellationToken::new();
    let serving = tokio::spawn(api::serve(state.clone(), listener, stop_api.clone()));
    Server {
        addr,
        node,
        state,
        stop_node,
        stop_api,
        serving,
    }
}

fn models(options: StubOptions) -> Models {
    let find = |name: &str| {
        let found = |bytes| {
            let name = name.to_owned();
            Ok(Found {
                name,
                bytes,
                shared: None,
            })
        };
        match name {
            "stub" | "torn" => found(1 << 20),
            "huge" => found(1 << 40),
            "remote" => Err(AcquireError::NotInstalled { name: name.into() }),
            _ => Err(AcquireError::Unknown {
                name: name.into(),
                near: vec!["stub".into()],
            }),
        }
    };
    let load = move |name: &str, events| {
        if name == "torn" {
            return Err("half of it is missing".to_owned());
        }
        StubExpert::spawn(options.clone(), events).map_err(|error| error.to_string())
    };
    Models {
        find: Arc::new(find),
        load: Arc::new(load),
        offer: Arc::new(|_| None),
    }
}

fn catalogue() -> Catalogue {
    let stub = InstalledModel {
        name: "stub".into(),
        installed_unix_s: 1_790_000_000,
        bytes: 1 << 20,
        context: 4096,
    };
    Catalogue {
        installed: Arc::new(move || vec![stub.clone()]),
        aliases: BTreeMap::from([("gpt-4o".into(), "stub".into())]),
        near: Arc::new(|_| vec!["stub".into()]),
    }
}

impl Server {
    pub(crate) fn state(&self) -> ApiState {
        self.state.clone()
    }

    pub(crate) fn client(&self) -> Client<OpenAIConfig> {
        let base = format!("http://{}/v1", self.addr);
        Client::with_config(OpenAIConfig::new().with_api_base(base).with_api_key("any"))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&self.head("GET", path, "")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        let length = format!("content-length: {}\r\n", body.len());
        self.send(&format!("{}{body}", self.head("POST", path, &length)))
            .await
    }

    /// Sends a completion that asks for `max_tokens` and does not wait for anything.
    pub(crate) async fn ask(&self, max_tokens: u32, stream: bool) -> TcpStream {
        let body = format!(
            "{{\"model\":\"stub\",\"prompt\":\"x\",\"max_tokens\":{max_tokens},\"stream\":{stream}}}"
        );
        let length = format!("content-length: {}\r\n", body.len());
        let head = self.head("POST", "/v1/completions", &length);
        let mut socket = self.connect().await;
        let request = format!("{head}{body}");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    /// A request's head for one answer on one connection.
    pub(crate) fn head(&self, method: &str, path: &str, more: &str) -> String {
        let host = self.addr;
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n")
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) async fn send(&self, request: &str) -> Reply {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        read_reply(&mut socket, Vec::new()).await
    }

    /// Waits for a state of the node; each look is a round trip through its loop.
    pub(crate) async fn until(&self, reached: impl Fn(&NodeStatus) -> bool) {
        let started = Instant::now();
        while !reached(&self.node.status().await.unwrap()) {
            let status = self.node.status().await;
            assert!(started.elapsed() < PATIENCE, "never got there: {status:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Waits for a line of the metrics page.
    pub(crate) async fn until_counted(&self, line: &str) {
        let started = Instant::now();
        loop {
            let page = self.get("/metrics").await.body;
            if page.lines().any(|l| l == line) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "no {line} in\n{page}");
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Waits for the first event of a stream; returns what was read.
pub(crate) async fn first_event(socket: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: ") {
        let reading = tokio::time::timeout(PATIENCE, socket.read_buf(&mut seen));
        assert!(reading.await.expect("an event").unwrap() > 0);
    }
    seen
}

/// Reads until the server closes; `bytes` were read before.
pub(crate) async fn read_reply(socket: &mut TcpStream, mut bytes: Vec<u8>) -> Reply {
    let reading = socket.read_to_end(&mut bytes);
    // A server that has read enough may reset the connection behind its answer.
    let _ended = tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("an answer");
    let text = String::from_utf8(bytes).expect("an answer in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.get(9..12).and_then(|s| s.parse().ok());
    let head = head.to_ascii_lowercase();
    let chunked = head.contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.into() };
    Reply {
        status: status.expect("a status"),
        head,
        body,
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        let Some(chunk) = after.get(..size) else {
            break;
        };
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or("");
    }
    body
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a body of JSON")
    }

    /// The error object, checked for its shape.
    pub(crate) fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        let keys: Vec<&String> = error.as_object().expect("an error object").keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(!error["message"].as_str().unwrap().is_empty());
        error
    }

    /// The data of a stream's events, in order.
    pub(crate) fn events(&self) -> Vec<&str> {
        let lines = self.body.lines();
        lines.filter_map(|l| l.strip_prefix("data: ")).collect()
    }
}
