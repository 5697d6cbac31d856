//! A testnet of real processes with the real model, each behind a made-up distance.

use crate::harness::{Home, Ran, bare};
use quorate_core::lnp::LnP;
use quorate_core::opinion::Said;
use quorate_core::record::{self, Recording};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

struct Testnet {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    nodes: Vec<Value>,
    /// How far its experts are from each other.
    variation: f64,
    home: Home,
}

impl Testnet {
    fn up(args: &[&str]) -> Option<Testnet> {
        let home = Home::with_model()?;
        // One block of ports for each test process, below those that the kernel hands out.
        let port = (20_000 + std::process::id() % 12_000).to_string();
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
            variation: up["expert_variation"].as_f64().unwrap_or(0.0),
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
fn a_testnet_is_no_larger_than_one_machine() {
    for (nodes, code) in [("0", 2), ("33", 2)] {
        let ran = Home::new().run(&["testnet", "up", nodes]);
        ran.fails(code, &["1 to 32 nodes"]);
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
        "would have been",
        "(semantics A)",
        "mesh (the experts that were asked can read the prompt)",
    ] {
        assert!(told.err.contains(words), "no {words:?} in {told:?}");
    }

    assert!(experts(&told.err) > 3.0, "{told:?}");
    assert!(testnet.variation > 0.1, "{}", testnet.variation);

    a_mesh_answer_is_recorded_and_replayed_by_the_core_alone(&testnet, &options, question);
    a_client_chooses_robust(&testnet, &options, question);

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

/// The same question with `--record`: a file that replays anywhere, and falls with every part of it that decided.
fn a_mesh_answer_is_recorded_and_replayed_by_the_core_alone(
    testnet: &Testnet,
    options: &[&str],
    question: &str,
) {
    let elsewhere = Home::new();
    let path = elsewhere.path().join("together.rec");
    let file = path.to_str().unwrap();
    let record = [options, &["--record", file, question]].concat();
    let told = Ran::of(testnet.ask(&record).output().unwrap());
    assert!(told.err.contains("quorate replay"), "{told:?}");
    let replayed = elsewhere.run(&["replay", file]);
    assert_eq!(replayed.works().trim_end(), told.out.trim_end());
    let whole = record::decode(&std::fs::read(&path).unwrap()).unwrap();
    let experts = |r: &Recording| r.schedule[0].set.len();
    assert!(
        experts(&whole) >= 3 && whole.decided.len() == 24,
        "{:?}",
        whole.schedule
    );
    let refused = |change: &dyn Fn(&mut Recording)| {
        let mut other = whole.clone();
        change(&mut other);
        std::fs::write(&path, record::encode(&other).unwrap()).unwrap();
        elsewhere.run(&["replay", file]).fails(1, &["position"]);
    };
    for at in [0, 11, 23] {
        let winner = whole.decided[at].token;
        refused(&|r| {
            for (_, _, said) in &mut r.decided[at].answers {
                match said {
                    Said::List(list) => list.entries.retain(|e| e.token != winner),
                    Said::Scalars(values) => values.fill(LnP::ZERO_MASS),
                }
            }
        });
        refused(&|r| drop(r.decided[at].answers.remove(0)));
    }
    refused(&|r| r.schedule[0].set[0].1 /= 2.0);
    refused(&|r| r.schedule[0].set.truncate(2));
    refused(&|r| r.schedule[0].position += 1);
}

/// A trimmed mean of plain lists, declared in the law of the answer; more liars than the mesh can outvote are refused.
fn a_client_chooses_robust(testnet: &Testnet, options: &[&str], question: &str) {
    let robust = |liars: &str| {
        let args = [options, &["--robust", liars, question]].concat();
        Ran::of(testnet.ask(&args).output().unwrap())
    };
    let told = robust("1");
    assert!(told.works().len() > 10, "{told:?}");
    assert!(
        told.err.contains("seeded-plain") && told.err.contains("robust=1"),
        "{told:?}"
    );
    robust("2").fails(1, &["withstands 2 liars", "needs 5 experts"]);
}

#[test]
fn real_one_person_stops_all_nodes_and_they_go_on_when_it_is_lifted() {
    // A stick: a directory that is no node's home.
    let stick = tempfile::tempdir().unwrap();
    let at = |name: &str| stick.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("word"), "twelve throw-away words").unwrap();
    let keygen = Home::new();
    keygen
        .run(&[
            "gov",
            "keygen",
            "--out",
            &at("ada.key"),
            "--throw-away",
            "--passphrase-file",
            &at("word"),
        ])
        .works();
    let Some(testnet) = Testnet::up(&["3", "--rtt", "20ms", "--participant", &at("ada.key.pub")])
    else {
        return;
    };
    let on = |node: usize, args: &[&str]| {
        let mut command = bare(args);
        command.env(
            "QUORATE_HOME",
            testnet.nodes[node]["home"].as_str().unwrap(),
        );
        Ran::of(command.output().unwrap())
    };
    let ask = ["run", "mesh", "-n", "4", "--seed", "1", "hello"];
    for node in 0..3 {
        on(node, &ask).works();
    }
    let key = [
        &at("ada.key")[..],
        "--passphrase-file",
        &at("word"),
        "--yes",
    ]
    .map(str::to_owned);
    let sign = |verb: &[&str]| {
        let mut args = vec!["gov"];
        args.extend(verb);
        args.push("--key");
        args.extend(key.iter().map(String::as_str));
        on(0, &args)
    };
    let halted = sign(&["halt", "--reason", "a drill"]);
    assert!(halted.works().contains("1 new"), "{halted:?}");
    for node in 0..3 {
        // The node where it was brought has stopped; the others hear within a round trip or two.
        let stopped = soon("a halt to be heard", || {
            let ran = on(node, &ask);
            (ran.code != 0).then_some(ran)
        });
        stopped.fails(1, &["the mesh is halted", "a drill"]);
        // The owner's own model on the owner's own machine is nobody's to stop.
        let own = testnet.nodes[node]["node"].as_str().unwrap();
        on(node, &["run", own, "-n", "2", "hello"]).works();
    }
    assert!(on(1, &["peers"]).works().contains("HALTED: a drill"));
    let resumed = sign(&["resume"]);
    assert!(resumed.code == 0, "{resumed:?}");
    for node in 0..3 {
        soon("the mesh to go on", || {
            (on(node, &ask).code == 0).then_some(())
        });
    }
}

/// How many experts decided a token, on average: a machine that is busy may miss a deadline.
fn experts(told: &str) -> f64 {
    let by = told
        .split(" by ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    by.and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number of experts in {told}"))
}

/// Looks until it is so.
fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(30) {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{what}: not within 30 s");
}

/// A testnet asked as one expert by a mesh of two: three kinds of processes, and a halt of the inner one costs an expert.
#[test]
fn real_a_mesh_is_an_expert_of_another() {
    let Some(testnet) = Testnet::up(&["2", "--rtt", "10ms"]) else {
        return;
    };
    let outer = Home::with_model().unwrap();
    let settings = "version = 1\n[machine]\nthreads = 1\nctx = 2048\n[mesh]\nlisten = '127.0.0.1:0'\n\
                    plane_listen = '127.0.0.1:0'\nmdns = false\n";
    std::fs::write(outer.path().join("config.toml"), settings).unwrap();
    outer.run(&["mesh", "new"]).works();
    let _up = outer.up(&[]);
    let id = outer.run(&["status", "--json"]).json()["node_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let inner = |args: &[&str]| {
        let mut command = bare(args);
        command.env("QUORATE_HOME", testnet.nodes[0]["home"].as_str().unwrap());
        Ran::of(command.output().unwrap())
    };
    inner(&["expert", "add", "all", "--model", "mesh"]).fails(3, &["nodes of other meshes"]);
    let added = inner(&["expert", "add", "all", "--model", "mesh", "--allow", &id]);
    let pass = added
        .works()
        .lines()
        .find_map(|line| line.strip_prefix("pass"));
    let pass = pass
        .unwrap_or_else(|| panic!("no pass in {added:?}"))
        .trim();
    outer
        .run(&["expert", "add", "family", "--model", pass])
        .works();
    let friend = Home::with_model().unwrap();
    std::fs::write(friend.path().join("config.toml"), settings).unwrap();
    let invite = soon("an address to invite to", || {
        let ran = outer.run(&["invite", "--json"]);
        (ran.code == 0).then(|| ran.json()["invite"].as_str().unwrap().to_owned())
    });
    friend.run(&["join", &invite]).works();
    let _friend_up = friend.up(&[]);
    let path = friend.path().join("two.rec");
    let file = path.to_str().unwrap();
    let told = soon("the mesh to answer as one", || {
        std::fs::remove_file(&path).ok();
        let ran = friend.run(&[
            "run",
            "mesh",
            "--verbose",
            "--seed",
            "5",
            "-n",
            "12",
            "--record",
            file,
            "Tell me about the sea.",
        ]);
        (ran.code == 0 && ran.err.contains("by 2.0 experts")).then_some(ran)
    });
    assert_eq!(
        friend.run(&["replay", file]).works().trim_end(),
        told.out.trim_end()
    );
    let peers = friend.run(&["peers"]);
    assert!(peers.works().contains("family"), "{peers:?}");
    // The other node of the inner mesh computed for it.
    let mut other = bare(&["status", "--json"]);
    other.env("QUORATE_HOME", testnet.nodes[1]["home"].as_str().unwrap());
    let given = Ran::of(other.output().unwrap()).json()["mesh"]["opinions_given"].as_u64();
    let asked = inner(&["status", "--json"]).json();
    assert!(
        given > Some(0) || asked["mesh"]["experts_asked"] == 1,
        "{given:?} {asked}"
    );
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
