//! Measurements that need a process of their own: memory, and the cold start.

use super::{BenchError, Result, SoloOptions, with_bare};
use crate::driver::Node;
use crate::expert::llama::LoadRequest;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

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
    /// The bare loop's memory after some work, on standard output.
    pub fn run_bare(request: &LoadRequest) -> Result<()> {
        let prompt = super::noise(1, PROMPT_TOKENS, 10_000);
        with_bare(request, |bare| bare.decode(&prompt, 1, TOKENS))??;
        report()
    }

    /// The node's after the same.
    pub async fn run_node(node: Node, model: &str) -> Result<()> {
        let lease = node
            .acquire(model)
            .await
            .map_err(|e| BenchError::new("loading", e))?;
        let law = quorate_core::law::Law::new(quorate_core::law::Transforms::NEUTRAL, node.lists());
        let generation = crate::driver::Generation {
            prompt: super::noise(1, PROMPT_TOKENS, 10_000),
            law: law.map_err(|error| BenchError::new("the law", error))?,
            seed: 1,
            choice: 0,
            max_tokens: Some(TOKENS as u32),
            stop: Vec::new(),
            logprobs: None,
            grammar: None,
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

pub(super) fn rss_overhead_mb(options: &SoloOptions) -> Result<f64> {
    let of = |role: &str| -> Result<f64> {
        let output = Command::new(&options.program)
            .args(&options.child_args)
            .env(ROLE, role)
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| BenchError::new("memory", error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let kb = text.trim().parse::<f64>();
        Ok(
            kb.map_err(|_| BenchError::new("memory", format!("the {role} child said '{text}'")))?
                / 1024.0,
        )
    };
    Ok(of("node")? - of("bare")?)
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
