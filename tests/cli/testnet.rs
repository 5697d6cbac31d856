//! A testnet of real processes with the real model, each behind a made-up distance.

use crate::harness::{Home, Ran, bare};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

struct Testnet {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    nodes: Vec<Value>,
    home: Home,
}

impl Testnet {
    fn up(args: &[&str]) -> Option<Testnet> {
        let home = Home::with_model()?;
        // One block of ports for each test process.
        let port = (20_000 + std::process::id() % 30_000).to_string();
        let args = [&["testnet", "up", "--json", "--base-port", &port], args].concat();
        let mut child = home
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let up = lines.next().expect("it says that it is up").unwrap();
        let up: Value = serde_json::from_str(&up).unwrap();
        let nodes = up["nodes"].as_array().unwrap().clone();
        let all = nodes.len() - 1;
        assert!(nodes.iter().all(|node| node["sees"] == all), "{nodes:?}");
        Some(Testnet {
            child,
            lines,
            nodes,
            home,
        })
    }

    /// `quorate run mesh` on its first node.
    fn ask(&self, args: &[&str]) -> Command {
        let mut command = bare(&[&["run", "mesh"], args].concat());
        command.env("QUORATE_HOME", self.nodes[0]["home"].as_str().unwrap());
        command
    }

    fn kill_9(&self, node: usize) {
        let pid = self.nodes[node]["pid"].as_u64().unwrap().to_string();
        let killed = Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Testnet {
    fn drop(&mut self) {
        let down = self.home.run(&["testnet", "down"]);
        let ended = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert!(down.code == 0 && ended.success(), "{down:?}, {ended}");
        }
    }
}

#[test]
fn real_nodes_answer_together_and_one_may_die_mid_sentence() {
    let question = "Tell me about the sea.";
    let options = ["--verbose", "--seed", "7", "-n", "24"];
    let Some(mut testnet) = Testnet::up(&["4", "--rtt", "20ms"]) else {
        return;
    };
    let told = Ran::of(
        testnet
            .ask(&[&options[..], &[question]].concat())
            .output()
            .unwrap(),
    );
    assert!(told.works().len() > 20, "{told:?}");
    for words in [
        "ms network",
        "by 4.0 experts",
        "would have been",
        "one set of experts throughout (semantics A)",
        "mesh (the experts that were asked can read the prompt)",
    ] {
        assert!(told.err.contains(words), "no {words:?} in {told:?}");
    }

    let long = ["--verbose", "--seed", "8", "-n", "120", question];
    let mut answering = testnet
        .ask(&long)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = answering.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    testnet.kill_9(3);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let ended = Ran::of(answering.wait_with_output().unwrap());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(rest.len() > 50, "{rest:?}");
    let ended_line = testnet.lines.next().unwrap().unwrap();
    assert!(ended_line.contains("\"n4\""), "{ended_line}");
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let Some(home) = Home::with_model() else {
        return;
    };
    home.run(&["testnet", "up", "0"])
        .fails(2, &["1 to 32 nodes"]);
    home.run(&["testnet", "up", "2", "--rtt", "9s"])
        .fails(2, &["no time up to four seconds"]);
    home.run(&["testnet", "up", "2", "--link", "moon"])
        .fails(2, &["no link 'moon'", "satellite"]);
    home.run(&["testnet", "up", "2", "--k", "0"])
        .fails(2, &["--k"]);
    home.run(&["testnet", "down"])
        .fails(4, &["no testnet", "quorate testnet up"]);
}
