//! A conversation across an ocean: real nodes with the real model on hosts of their own, who join by
//! invite, answer together, die in the middle of a sentence and return.

use crate::host::{Host, Process};
use crate::lab::{self, PATIENCE};
use crate::relaunch::Needs;
use quorate_core::link::Link;
use quorate_core::record;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");
/// Experts that differ.
const PREFIXES: [&str; 4] = [
    "You are a ship's captain. You answer in the short, salty words of the sea.",
    "You are a strict judge. You weigh both sides and speak in formal, careful sentences.",
    "You are a programmer. You answer with code in Python and a one-line comment.",
    "Du bist ein freundlicher Koch aus Wien. Du antwortest auf Deutsch und denkst ans Essen.",
];

pub(crate) struct Node<'a> {
    host: &'a Host,
    process: Option<Process>,
}

impl<'a> Node<'a> {
    /// A home with the model, and an expert of its own for every member.
    pub(crate) fn new(host: &'a Host, models: &Path, prefix: &str) -> Node<'a> {
        let home = host.folder();
        std::os::unix::fs::symlink(models, home.join("models")).unwrap();
        let settings = format!(
            "version = 1\n[models]\nkeep_alive = 'forever'\n[machine]\nthreads = 1\nctx = 1024\n\
             [mesh]\nmdns = false\nmodel = 'own'\n\
             [[expert]]\nname = 'own'\nmodel = 'smollm2:135m'\nprefix = {prefix:?}\nallow = ['mesh']\n"
        );
        std::fs::write(home.join("config.toml"), settings).unwrap();
        Node {
            host,
            process: None,
        }
    }

    /// Looks for others on its own network.
    pub(crate) fn looking(self) -> Node<'a> {
        let path = self.host.folder().join("config.toml");
        let settings = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, settings.replace("mdns = false", "mdns = true")).unwrap();
        self
    }

    /// Until its log has this.
    pub(crate) fn wait_to_say(&self, text: &str) {
        self.process.as_ref().unwrap().wait_for(text, PATIENCE);
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(QUORATE, args);
        command
            .env("QUORATE_HOME", self.host.folder())
            .env("QUORATE_LOG", "info,quorate=debug,llama-cpp-2=error")
            .env("OMP_WAIT_POLICY", "passive");
        command
    }

    pub(crate) fn up(&mut self) {
        let process = self.host.spawn(self.command(&["up", "--json"]));
        process.wait_for("\"api\"", PATIENCE);
        self.process = Some(process);
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    pub(crate) fn run(&self, args: &[&str]) -> String {
        let ran = self.command(args).stdin(Stdio::null()).output().unwrap();
        let told = format!("{}{}", text(&ran.stdout), text(&ran.stderr));
        assert!(ran.status.success(), "{args:?}: {told}");
        told
    }

    /// Other nodes whose experts can be asked.
    pub(crate) fn sees(&self) -> usize {
        let told = self.run(&["peers", "--json"]);
        let page: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}"));
        let peers = &page["peers"];
        let serves = |peer: &&Value| {
            peer["state"] == "here" && peer["experts"].as_array().is_some_and(|e| !e.is_empty())
        };
        peers
            .as_array()
            .map_or(0, |p| p.iter().filter(serves).count())
    }

    pub(crate) fn wait_to_see(&self, others: usize) {
        let until = Instant::now() + 3 * PATIENCE;
        while self.sees() != others {
            assert!(Instant::now() < until, "{} of {others}", self.sees());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    pub(crate) fn ask(&self, question: &str) -> String {
        self.run(&[
            "run",
            "mesh",
            "--verbose",
            "--weights",
            "uniform", // all of them count, whatever they know
            "--seed",
            "3",
            "-n",
            "20",
            question,
        ])
    }
}

/// Tokens of an answer. It may end by itself: after a death another set decides, and where depends on when it died.
fn answered(told: &str) -> u32 {
    let row = told.lines().find(|line| line.starts_with("answer"));
    let count = row.and_then(|row| row.split_whitespace().nth(1));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// How many experts decided a token, on average: a machine that is busy may miss a deadline.
pub(crate) fn experts(told: &str) -> f64 {
    let by = told
        .split(" by ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    by.and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number of experts in {told}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn lab_a_conversation_across_an_ocean_while_experts_die_and_return() {
    lab::run(Needs::Nothing, |lab| {
        let Some(home) = std::env::var_os("QUORATE_TEST_HOME") else {
            println!("SKIPPED: QUORATE_TEST_HOME is not set; `sh tests/run` sets it");
            return;
        };
        let models = Path::new(&home).join("models");
        let hosts: Vec<Host> = (0..4).map(|_| lab.host()).collect();
        let ocean = Link::named("intercontinental").unwrap();
        for (n, a) in hosts.iter().enumerate() {
            for b in &hosts[n + 1..] {
                lab.link(a, b, ocean);
            }
        }
        let made = hosts.iter().zip(PREFIXES);
        let mut nodes: Vec<Node> = made.map(|(host, p)| Node::new(host, &models, p)).collect();
        nodes[0].run(&["mesh", "new"]);
        nodes[0].up();
        nodes[0].wait_to_see(0);
        let invite = nodes[0].run(&["invite", "--json"]);
        let invite: Value = serde_json::from_str(&invite).unwrap();
        for node in &mut nodes[1..] {
            node.run(&["join", invite["invite"].as_str().unwrap()]);
            node.up();
        }
        nodes[0].wait_to_see(3);

        let told = nodes[0].ask("What is the sea?");
        assert!(experts(&told) > 3.0, "{told}");
        println!(
            "across an ocean: {}",
            told.lines().rev().take(12).collect::<Vec<_>>().join(" | ")
        );

        // A mesh of friends weighs them by what they knew of the question, and says so.
        let why = nodes[0].run(&["run", "mesh", "--verbose", "-n", "4", "What is the sea?"]);
        assert!(why.contains("weights=meta"), "{why}");
        assert!(why.contains("nats a token of the prompt"), "{why}");

        // What equals decide together would show nothing.
        let path = hosts[0].folder().join("differ.rec");
        let file = path.to_str().unwrap();
        let greedy = [
            "--weights",
            "uniform",
            "--temperature",
            "0",
            "-n",
            "12",
            "--record",
            file,
        ];
        nodes[0].run(&[&["run", "mesh"][..], &greedy, &["Who are you?"]].concat());
        let recording = record::decode(&std::fs::read(&path).unwrap()).unwrap();
        let differ = recording.variation().unwrap();
        println!("the experts differ by {differ:.3} in total variation");
        assert!(differ >= record::VARIATION_MIN, "{differ}");

        // In the middle of the second answer one of them dies.
        let mut answering = nodes[0]
            .command(&[
                "run",
                "mesh",
                "--verbose",
                "--seed",
                "4",
                "-n",
                "40",
                "And the wind?",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        let out = answering.stdout.as_mut().unwrap();
        std::io::Read::read_exact(out, &mut first).unwrap();
        nodes[3].kill();
        let ended = answering.wait_with_output().unwrap();
        let told = format!("{}{}", text(&ended.stdout), text(&ended.stderr));
        assert!(ended.status.success() && answered(&told) > 10, "{told}");

        // Without it the others are the mesh; with it, they are four again.
        nodes[0].wait_to_see(2);
        let told = nodes[0].ask("And the rain?");
        let three = experts(&told);
        assert!(three > 2.0 && three < 3.1, "{told}");
        nodes[3].up();
        nodes[0].wait_to_see(3);
        // The first question may meet the change from one life to the next.
        let four = (0..3).any(|_| experts(&nodes[0].ask("And the night?")) > 3.0);
        assert!(four, "it is there, and not asked");
    });
}
