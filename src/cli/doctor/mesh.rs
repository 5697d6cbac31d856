//! The mesh: which one, how this node is reached, who is there, whether it stands still. Of a node that is up what it
//! says itself; else what its files say, and whether its ports are free.

use super::Check;
use crate::app::ports;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::gov::audit;
use crate::cli::mesh::suspects;
use crate::ledger;
use crate::mesh::MeshHome;
use crate::policy::Rules;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener, UdpSocket};

const LETTERS: usize = 16;

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let home = MeshHome::of(&context.home);
    let network = match home.genesis() {
        Ok(Some(genesis)) => genesis.network_id(),
        Ok(None) => {
            let says = "none: every answer stays on this machine";
            return vec![Check::ok("mesh", says)];
        }
        Err(failure) => return vec![Check::failed("mesh", failure)],
    };
    let mut checks = match Client::of_running_node(context) {
        Ok(Some(client)) => match client.get("/api/mesh") {
            Ok(page) => of_page(&page),
            Err(failure) => vec![Check::failed("mesh", failure)],
        },
        Ok(None) => of_files(context, &home, &network.to_string()),
        Err(_) => vec![], // said under "node"
    };
    checks.push(match audit::kept(&home, network) {
        Ok(Some(trail)) => Check::ok("audit", audit::gist(&trail)),
        Ok(None) => Check::ok("audit", "nothing yet: it begins when the node runs"),
        Err(failure) => Check::failed("audit", failure),
    });
    checks.push(Check::ok(
        "gate",
        match context.settings.mesh.share_gate {
            true => "the mesh is told once a day, with noise, which experts knew what was asked here ([mesh] share_gate = false keeps it here)",
            false => "what was asked here is told to nobody; what others say of experts is used",
        },
    ));
    checks.push(match Rules::read(&context.home.policy()) {
        Ok(Some(rules)) => Check::ok(
            "policy",
            format!("{} rules of your own refuse more", rules.len()),
        ),
        Ok(None) => Check::ok(
            "policy",
            "none: this node refuses nothing more than its mesh does",
        ),
        Err(failure) => Check::failed("policy", failure),
    });
    checks
}

fn short(network: &str) -> &str {
    network.get(..LETTERS).unwrap_or(network)
}

fn of_files(context: &Context, home: &MeshHome, network: &str) -> Vec<Check> {
    let mesh = &context.settings.mesh;
    let says = format!(
        "member of {}; takes part while the node is up",
        short(network)
    );
    let mut checks = vec![Check::ok("mesh", says)];
    let standing = ledger::look(home.dir());
    checks.push(match standing {
        Ok(stored) => halted(
            stored
                .replica
                .standing()
                .reasons()
                .map(str::to_owned)
                .collect(),
        ),
        Err(lost) => Check::failed("mesh", lost.at(home.dir().to_owned())),
    });
    checks.push(port("swarm", mesh.listen, true, "mesh.listen"));
    checks.push(port("plane", mesh.plane_listen, false, "mesh.plane_listen"));
    checks
}

/// Free for a node that is about to start. The swarm listens on both transports.
fn port(name: &str, at: SocketAddr, with_tcp: bool, key: &str) -> Check {
    let udp = UdpSocket::bind(at).map(drop);
    let tcp = match with_tcp {
        true => TcpListener::bind(at).map(drop),
        false => Ok(()),
    };
    match udp.and(tcp) {
        Ok(()) => Check::ok(name, format!("{at} is free")),
        Err(error) => {
            let who = ports::listener_of(at)
                .map_or_else(|| error.to_string(), |who| format!("{who} listens there"));
            let fix = format!("stop it, or set {key} to another address");
            Check::fail(name, format!("{at} cannot be used: {who}"), fix)
        }
    }
}

fn halted(reasons: Vec<String>) -> Check {
    match reasons.is_empty() {
        true => Check::ok("halt", "none known: the mesh runs"),
        false => Check::warn(
            "halt",
            format!("the mesh stands still: {}", reasons.join("; ")),
            "`quorate gov status` shows who halted; enough participants let it go on with `quorate gov resume`",
        ),
    }
}

/// What the node that is up says of its part.
fn of_page(page: &Value) -> Vec<Check> {
    let network = page["network"].as_str().unwrap_or_default();
    let says = format!(
        "member of {}, {} nodes admitted",
        short(network),
        page["members"]
    );
    let mut checks = vec![Check::ok("mesh", says)];
    let reasons = list(page, "halted");
    let reasons = reasons.iter().filter_map(Value::as_str).map(str::to_owned);
    checks.push(halted(reasons.collect()));
    checks.push(reached(page));
    checks.push(neighbours(page));
    for why in suspects(page) {
        let fix = "ask its owner: an alarm excludes nobody; what an audit found keeps its node out until this one is started anew";
        checks.push(Check::warn("expert", why, fix));
    }
    checks
}

fn list(page: &Value, name: &str) -> Vec<Value> {
    page[name].as_array().cloned().unwrap_or_default()
}

fn reached(page: &Value) -> Check {
    let addresses = list(page, "addresses");
    let places = |relayed: bool| -> Vec<String> {
        let these = addresses
            .iter()
            .filter(|a| a["relay"].is_string() == relayed);
        these
            .filter_map(|a| Some(a["place"].as_str()?.to_owned()))
            .collect()
    };
    let (direct, relayed) = (places(false), places(true));
    let plane = list(page, "plane");
    let plane: Vec<&str> = plane.iter().filter_map(Value::as_str).collect();
    let plane = match plane.is_empty() {
        true => "token plane nowhere".to_owned(),
        false => format!("token plane at {}", plane.join(", ")),
    };
    match (direct.is_empty(), relayed.is_empty()) {
        (false, _) => Check::ok(
            "reached",
            format!("directly at {}; {plane}", direct.join(", ")),
        ),
        (true, false) => Check::warn(
            "reached",
            format!("through {} only; {plane}", relayed.join(", ")),
            "slower, and good enough; a port that your router passes on makes it direct: announce = [\"host:7868\"] under [mesh]",
        ),
        (true, true) => Check::warn(
            "reached",
            format!("nowhere that others know of; {plane}"),
            "wait a few seconds; else say where: announce = [\"host:7868\"] under [mesh] in the settings",
        ),
    }
}

fn neighbours(page: &Value) -> Check {
    let peers = list(page, "peers");
    let here = peers.iter().filter(|p| p["state"] == "here");
    let paths = |word: &str| {
        let of = |p: &&Value| {
            p["path"]
                .as_str()
                .is_some_and(|path| path.starts_with(word))
        };
        here.clone().filter(of).count()
    };
    let count = |state: &str| peers.iter().filter(|p| p["state"] == state).count();
    let (heard, silent) = (count("heard of"), count("silent"));
    let experts = here.clone().flat_map(|p| list(p, "experts")).count();
    let says = format!(
        "{} here ({} direct, {} relayed), {heard} heard of, {silent} silent; {experts} experts on offer",
        here.clone().count(),
        paths("direct"),
        paths("relayed"),
    );
    let alone = "nobody answers: is another member up? `quorate invite` there leads here";
    match (here.count(), experts, page["has_heard"] == true) {
        (0, ..) if page["members"] == 1 => {
            Check::ok("peers", "this node is the only member; quorate invite")
        }
        (0, ..) => Check::warn("peers", says, alone),
        (_, _, false) => Check::warn(
            "peers",
            format!("{says}; no records of another member yet, so nobody is asked or served"),
            "wait a few seconds",
        ),
        (_, 0, true) => Check::warn(
            "peers",
            says,
            "none of them serves a model: `quorate doctor` there says why",
        ),
        _ => Check::ok("peers", says),
    }
}
