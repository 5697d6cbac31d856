//! Two homes behind routers, and one node in the open: they see each other, and answer together.

use crate::host::Host;
use crate::lab::{self, Lab, PATIENCE};
use crate::nat::Ports;
use crate::ocean::{Node, experts};
use crate::relaunch::Needs;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIXES: [&str; 3] = [
    "You are a lighthouse keeper. You answer in short, patient sentences.",
    "You are a strict judge. You weigh both sides and speak in formal, careful sentences.",
    "Du bist ein freundlicher Koch aus Wien. Du antwortest auf Deutsch und denkst ans Essen.",
];
/// For homes to see each other, from the moment that the last one is up.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn models() -> Option<PathBuf> {
    let Some(home) = std::env::var_os("QUORATE_TEST_HOME") else {
        println!("SKIPPED: QUORATE_TEST_HOME is not set; `sh tests/run` sets it");
        return None;
    };
    Some(Path::new(&home).join("models"))
}

/// One in the open, and two behind routers.
fn hosts(lab: &mut Lab, ports: Ports) -> [Host; 3] {
    [lab.host(), lab.host_behind(ports), lab.host_behind(ports)]
}

/// The one in the open founds a mesh, the others join by its invite. All see all in time.
fn meet<'a>(hosts: &'a [Host; 3], models: &Path) -> [Node<'a>; 3] {
    let [founder, one, other] = hosts;
    let mut nodes = [
        Node::new(founder, models, PREFIXES[0]),
        Node::new(one, models, PREFIXES[1]),
        Node::new(other, models, PREFIXES[2]),
    ];
    nodes[0].run(&["mesh", "new"]);
    nodes[0].up();
    nodes[0].wait_to_see(0);
    let invite: Value = serde_json::from_str(&nodes[0].run(&["invite", "--json"])).unwrap();
    for node in &mut nodes[1..] {
        node.run(&["join", invite["invite"].as_str().unwrap()]);
        node.up();
    }
    let begun = Instant::now();
    for node in &nodes {
        node.wait_to_see(2);
    }
    println!("homes saw each other after {:?}", begun.elapsed());
    assert!(begun.elapsed() <= SEEN_WITHIN);
    nodes
}

/// How the one is connected to the other, as `quorate peers` says.
fn path(from: &Node<'_>, to: &Node<'_>) -> String {
    let page = peers(from);
    let name = id(to);
    let peer = page.iter().find(|peer| peer["node"] == name.as_str());
    let path = peer.and_then(|peer| peer["path"].as_str());
    path.unwrap_or("none").to_owned()
}

fn peers(of: &Node<'_>) -> Vec<Value> {
    let page: Value = serde_json::from_str(&of.run(&["peers", "--json"])).unwrap();
    page["peers"].as_array().unwrap().clone()
}

pub(crate) fn id(of: &Node<'_>) -> String {
    let page: Value = serde_json::from_str(&of.run(&["status", "--json"])).unwrap();
    page["node_id"].as_str().unwrap().to_owned()
}

fn wait_for_path(from: &Node<'_>, to: &Node<'_>, wanted: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + 2 * PATIENCE;
    loop {
        let path = path(from, to);
        if wanted(&path) {
            return path;
        }
        assert!(Instant::now() < until, "still {path}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Every expert elsewhere has been asked and has answered.
fn assert_all_have_answered(asker: &Node<'_>) {
    for peer in peers(asker) {
        for expert in peer["experts"].as_array().unwrap() {
            assert!(expert["bytes_in"].as_u64().is_some_and(|n| n > 0), "{peer}");
        }
    }
}

/// The first question may have to find its way; a machine that is busy may miss a deadline.
fn answers_of_three(asker: &Node<'_>) {
    let three = (0..3).any(|_| experts(&asker.ask("What is a home?")) > 2.0);
    assert!(three, "never all three experts");
    assert_all_have_answered(asker);
}

#[test]
fn lab_nat_homes_behind_routers_answer_together() {
    lab::run(Needs::Nat, |lab| {
        let Some(models) = models() else { return };
        let hosts = hosts(lab, Ports::Kept);
        let nodes = meet(&hosts, &models);
        answers_of_three(&nodes[1]);
        // Both knock at once, and the relay is not needed any more.
        let path = wait_for_path(&nodes[1], &nodes[2], |path| path.starts_with("direct"));
        println!("through both routers: {path}");
        answers_of_three(&nodes[2]);
    });
}

#[test]
fn lab_nat_homes_that_cannot_be_reached_answer_through_the_relay_and_lose_it() {
    lab::run(Needs::Nat, |lab| {
        let Some(models) = models() else { return };
        let hosts = hosts(lab, Ports::Drawn);
        let mut nodes = meet(&hosts, &models);
        assert_eq!(path(&nodes[1], &nodes[2]), "relayed");
        answers_of_three(&nodes[1]);
        assert_eq!(path(&nodes[1], &nodes[2]), "relayed");
        // Without it nobody is there, and that is said; with it, all are again.
        nodes[0].kill();
        nodes[1].wait_to_see(0);
        nodes[2].wait_to_see(0);
        nodes[0].up();
        for node in &nodes {
            node.wait_to_see(2);
        }
        answers_of_three(&nodes[2]);
    });
}
