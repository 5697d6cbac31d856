//! Measurements that need a process of their own: memory, and the cold start.

use super::{BenchError, Result, SoloOptions, with_bare};
use crate::driver::Node;
use crate::expert::llama::LoadRequest;
use quorate_core::ids::Token;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the role to the child; its arguments are ours.
const ROLE: &str = "QUORATE_BENCH_CHILD";
const PROMPT_TOKENS: usize = 256;
const TOKENS: usize = 64;
const STARTS: usize = 5;

/// What this process is to measure instead of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    Bare,
    Node,
}

/// Is this process a child of a measurement?
pub fn child() -> Option<Child> {
    match std::env::var(ROLE).ok()?.as_str() {
        "bare" => Some(Child::Bare),
        "node" => Some(Child::Node),
        _ => None,
    }
}

impl Child {
    /// The bare loop: reads what to do from standard input, answers with microseconds.
    pub fn run_bare(request: &LoadRequest) -> Result<()> {
        with_bare(request, |bare| -> Result<()> {
            for line in std::io::stdin().lines() {
                let line = line.map_err(|error| BenchError::new("the bare loop", error))?;
                let numbers = line.split(' ').skip(1).map(str::parse);
                let numbers: std::result::Result<Vec<Token>, _> = numbers.collect();
                let numbers = numbers.map_err(|error| BenchError::new("the bare loop", error))?;
                let took = match (line.split(' ').next(), &numbers[..]) {
                    (Some("prefill"), prompt) => bare.prefill(prompt)?,
                    (Some("scored"), prompt) => bare.scored_prefill(prompt)?,
                    (Some("decode"), [streams, count, prompt @ ..]) => {
                        bare.decode(prompt, *streams as usize, *count as usize)?
                    }
                    _ => return report(),
                };
                println!("{}", took.as_micros());
            }
            Ok(())
        })?
    }

    /// The node's after the same.
    pub async fn run_node(node: Node, model: &str) -> Result<()> {
        let lease = node
            .acquire(model)
            .await
            .map_err(|e| BenchError::new("loading", e))?;
        let law = quorate_core::law::Law::new(
            quorate_core::law::Transforms::NEUTRAL,
            node.config().lists(),
        );
        let generation = crate::driver::Generation {
            prompt: super::noise(1, PROMPT_TOKENS, 10_000),
            law: law.map_err(|error| BenchError::new("the law", error))?,
            seed: 1,
            choice: 0,
            max_tokens: Some(TOKENS as u32),
            stop: Vec::new(),
            logprobs: None,
            grammar: None,
            asked: crate::driver::Asked::Own,
            notes: quorate_core::generate::Notes::default(),
        };
        let stream = node.generate(&lease, generation).await;
        let mut stream = stream.map_err(|error| BenchError::new("generating", error))?;
        while stream.next().await.is_some() {}
        report()
    }
}

/// Resident memory now, in kB: what the process touches, the mapped model included.
fn report() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| BenchError::new("memory is read from /proc, which failed", error))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    println!("{}", line.unwrap_or("0 kB").trim().trim_end_matches(" kB"));
    Ok(())
}

/// The bare loop in a process of its own. Not for isolation only: libgomp spins less at barriers
/// when a process has more teams' threads than cores, which would slow both (not measured).
pub(super) struct BareChild {
    process: std::process::Child,
    orders: std::process::ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl BareChild {
    pub(super) fn start(options: &SoloOptions) -> Result<BareChild> {
        let mut process = Command::new(&options.program)
            .args(&options.child_args)
            .env(ROLE, "bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| BenchError::new("the bare loop", error))?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(orders), Some(answers)) => Ok(BareChild {
                process,
                orders,
                answers: BufReader::new(answers),
            }),
            _ => Err(BenchError::new("the bare loop", "it has no pipes")),
        }
    }

    pub(super) fn prefill(&mut self, prompt: &[Token]) -> Result<Duration> {
        self.order("prefill", prompt)
    }

    pub(super) fn scored_prefill(&mut self, prompt: &[Token]) -> Result<Duration> {
        self.order("scored", prompt)
    }

    pub(super) fn decode(
        &mut self,
        prompt: &[Token],
        streams: usize,
        n: usize,
    ) -> Result<Duration> {
        self.order(
            "decode",
            &[&[streams as Token, n as Token], prompt].concat(),
        )
    }

    fn order(&mut self, what: &str, numbers: &[Token]) -> Result<Duration> {
        Ok(Duration::from_micros(self.ask(what, numbers)?))
    }

    fn memory_kb(&mut self) -> Result<u64> {
        self.ask("memory", &[])
    }

    fn ask(&mut self, what: &str, numbers: &[Token]) -> Result<u64> {
        let failed = |why: std::io::Error| BenchError::new("the bare loop", why);
        let numbers: String = numbers.iter().map(|number| format!(" {number}")).collect();
        writeln!(self.orders, "{what}{numbers}").map_err(failed)?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(failed)?;
        line.trim()
            .parse()
            .map_err(|_| BenchError::new("the bare loop said", &line))
    }
}

impl Drop for BareChild {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        self.process.kill().and_then(|()| self.process.wait()).ok();
    }
}

pub(super) fn rss_overhead_mb(options: &SoloOptions) -> Result<f64> {
    let mut bare = BareChild::start(options)?;
    bare.decode(&super::noise(1, PROMPT_TOKENS, 10_000), 1, TOKENS)?;
    let bare_kb = bare.memory_kb()?;
    let output = Command::new(&options.program)
        .args(&options.child_args)
        .env(ROLE, "node")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| BenchError::new("memory", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let node_kb = text.trim().parse::<f64>();
    let node_kb = node_kb.map_err(|_| BenchError::new("memory, the node said", &text))?;
    Ok((node_kb - bare_kb as f64) / 1024.0)
}

/// From starting the process to the first byte of its answer; a median of warm-disk starts.
pub(super) fn cold_first_token_ms(options: &SoloOptions) -> Result<f64> {
    let mut turns = super::Turns::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let mut child = Command::new(&options.program)
            .args(&options.run_args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| BenchError::new("the cold start", error))?;
        let mut byte = [0];
        let read = child.stdout.take().map(|mut out| out.read(&mut byte));
        turns.add(super::millis(begun.elapsed()));
        // It was only needed for its first word.
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(|e| BenchError::new("the cold start", e))?;
        if !matches!(read, Some(Ok(1))) {
            return Err(BenchError::new("the cold start", "no answer came"));
        }
    }
    Ok(turns.median())
}
