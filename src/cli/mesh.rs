//! Verbs about belonging: `mesh new`, `invite`, `join`, `leave`, `peers`. They change files of the
//! home; a node that is up sees that within a second.

use super::args::{Invite as InviteArgs, Join, MeshNew, ReadVerb};
use super::client::Client;
use super::context::Context;
use super::term;
use crate::error::{Failure, Kind, Outcome};
use crate::identity::{self, Identity};
use crate::mesh::MeshHome;
use crate::net::swarm::{self, unix_s};
use libp2p_identity::Keypair;
use quorate_core::config::{Key, MeshConfig};
use quorate_core::governance::{Preset, Record, Terms};
use quorate_core::ids::PeerKey;
use quorate_core::limits::INVITE_S_MAX;
use quorate_core::mesh::{Address, BadInvite, Invite, Nonce, Place, Transport, canonical};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// `invite` waits so long for an address of its node, and looks again so often.
const ADDRESS_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Founds a mesh for friends and first steps, with this node as its first.
pub(super) fn new(context: &Context, args: &MeshNew) -> Outcome {
    let home = MeshHome::of(&context.home);
    let identity = identity(context)?;
    // Its one voter is a key that is thrown away, so nobody can halt it: who wants that founds with
    // `gov init`.
    let voter = Keypair::generate_ed25519();
    let voter_key = public(&voter);
    let config = MeshConfig::default().with(Key::RouterLearnedWeights, 1);
    let config = config.map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
    let mut terms = Terms::of(Preset::Lab, vec![voter_key], config);
    terms.nodes = vec![identity.key()];
    let genesis = terms
        .found()
        .map_err(|error| Failure::new(Kind::Failed, error.to_string()))?;
    home.enter(&genesis, &[], None)?;
    let network = genesis.network_id().to_string();
    if args.json {
        return term::json(&json!({"network": network, "preset": "lab", "unsafe": true}));
    }
    for line in [
        format!("mesh      {network}"),
        "preset    lab: for tests and friends; its keys are unsafe for anything that matters"
            .into(),
        "next      quorate up, then quorate invite".to_owned(),
    ] {
        term::line(line)?;
    }
    Ok(())
}

pub(super) fn invite(context: &Context, args: &InviteArgs) -> Outcome {
    let home = MeshHome::of(&context.home);
    let Some(network) = home.network() else {
        return Err(no_mesh());
    };
    if let Some(text) = &args.revoke {
        let nonce = Nonce::parse(text).ok_or_else(|| {
            Failure::new(
                Kind::Usage,
                format!("'{text}' is not the name of an invite"),
            )
            .hint("`quorate invite` printed it: 32 letters and digits after \"name\"")
        })?;
        home.revoke(nonce)?;
        return term::line(format!(
            "taken back: nobody comes in on invite {nonce} any more"
        ));
    }
    let lasts_s = args.expires.0.as_secs();
    if !(1..=INVITE_S_MAX).contains(&lasts_s) {
        let message = format!(
            "an invite lasts from 1 second to {} days",
            INVITE_S_MAX / 86_400
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    let addresses = addresses(context)?;
    let identity = identity(context)?;
    let issued_s = unix_s();
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)
        .map_err(|error| Failure::new(Kind::Failed, format!("no randomness: {error}")))?;
    let mut invite = Invite {
        network,
        issuer: identity.key(),
        addresses,
        issued_s,
        expires_s: issued_s + lasts_s,
        nonce: Nonce(nonce),
        signature: [0; 64],
    };
    let signed = identity.keypair.sign(&invite.body());
    let signed = signed.ok().and_then(|bytes| bytes.try_into().ok());
    invite.signature = signed.expect("ed25519 signs everything in 64 bytes");
    if args.json {
        return term::json(&json!({
            "invite": invite.to_string(),
            "name": invite.nonce.to_string(),
            "expires_unix_s": invite.expires_s,
            "addresses": invite.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    for line in [
        invite.to_string(),
        String::new(),
        format!("name      {}", invite.nonce),
        format!("lasts     {}", term::span(lasts_s)),
        format!("leads to  {}", list(&invite.addresses)),
        "next      on the other machine: quorate join <the line above>".to_owned(),
        format!("undo      quorate invite --revoke {}", invite.nonce),
    ] {
        term::line(line)?;
    }
    Ok(())
}

/// What the node that is up would tell others.
/// Where this node can be reached. One that has just begun listens within moments, and one behind a
/// router has asked a relay within seconds: that is waited for.
fn addresses(context: &Context) -> Outcome<Vec<Address>> {
    let client = Client::needed(context)?;
    let until = Instant::now() + ADDRESS_MAX;
    loop {
        let addresses = addresses_on(&client.get("/api/mesh")?);
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        if Instant::now() > until {
            return Err(Failure::new(
                Kind::Network,
                "the node has no address yet that others could reach",
            )
            .hint(
                "say how it is reached: announce = [\"host:7868\"] under [mesh] in its settings",
            ));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn addresses_on(page: &Value) -> Vec<Address> {
    let place = |one: &Value| {
        let place = Place::parse(one["place"].as_str()?, 0)?;
        let transport = match one["transport"].as_str()? {
            "tcp" => Transport::Tcp,
            _ => Transport::Quic,
        };
        let relay = one["relay"].as_str().and_then(identity::peer_key);
        Some(Address {
            place,
            transport,
            relay,
        })
    };
    let told = page["addresses"].as_array();
    canonical(told.into_iter().flatten().filter_map(place).collect())
}

pub(super) fn join(context: &Context, args: &Join) -> Outcome {
    let invite = Invite::parse(&args.invite.join("")).map_err(bad_invite)?;
    let home = MeshHome::of(&context.home);
    if home.dir().exists() {
        let message = match home.network() {
            Some(network) if network == invite.network => "this node belongs to that mesh already",
            _ => "this node belongs to another mesh",
        };
        return Err(Failure::new(Kind::Taken, message)
            .hint("`quorate peers` shows who is there; `quorate leave` leaves it"));
    }
    let identity = identity(context)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    let joined = runtime
        .block_on(swarm::join(&identity.keypair, &invite, unix_s()))
        .map_err(|error| Failure::new(Kind::Network, format!("not joined: {error}")))?;
    let genesis = joined.replica.genesis();
    let records: Vec<Record> = joined.replica.records().iter().collect();
    home.enter(genesis, &records, Some(&invite))?;
    let network = genesis.network_id();
    if args.json {
        return term::json(&json!({"network": network.to_string()}));
    }
    let next = match context.home.running_node() {
        Some(_) => "the node here takes part now: quorate peers",
        None => "quorate up",
    };
    term::line(format!("joined    {network}"))?;
    term::line(format!("next      {next}"))
}

fn bad_invite(error: BadInvite) -> Failure {
    Failure::new(Kind::Usage, format!("this is no invite: {error}"))
        .hint("copy the whole line that `quorate invite` printed, from \"quorate1\" on")
}

pub(super) fn leave(context: &Context) -> Outcome {
    if MeshHome::of(&context.home).leave()? {
        return term::line("this node belongs to no mesh any more; its identity and models stay");
    }
    Err(no_mesh())
}

pub(super) fn peers(context: &Context, args: &ReadVerb) -> Outcome {
    let page = Client::needed(context)?.get("/api/mesh")?;
    if args.json {
        return term::json(&page);
    }
    let rows: Vec<[String; 6]> = page["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(row)
        .collect();
    term::table(["NODE", "STATE", "PATH", "RTT", "EXPERTS", "ASKED"], &rows)?;
    let text = |name: &str| page[name].as_str().unwrap_or_default();
    term::line(format!(
        "mesh {} ({} admitted){}",
        text("network").get(..16).unwrap_or_default(),
        match page["members"].as_u64() {
            Some(1) => "1 node".to_owned(),
            _ => format!("{} nodes", page["members"]),
        },
        match page["unsafe"].as_bool() {
            Some(true) => ", lab keys: unsafe",
            _ => "",
        }
    ))?;
    term::line(format!(
        "{} of them say which experts know what",
        page["voices"].as_u64().unwrap_or_default()
    ))?;
    for reason in page["halted"].as_array().into_iter().flatten() {
        term::line(format!("HALTED: {}", reason.as_str().unwrap_or_default()))?;
    }
    for line in suspects(&page) {
        term::line(line)?;
    }
    Ok(())
}

/// Experts that should be looked at, and why.
pub(super) fn suspects(page: &Value) -> Vec<String> {
    let all = |page: &Value, name: &str| page[name].as_array().cloned().unwrap_or_default();
    let peers = all(page, "peers").into_iter();
    let of_peer = |peer: Value| {
        let node = peer["node"].as_str().unwrap_or_default().to_owned();
        let experts = all(&peer, "experts").into_iter();
        experts.filter_map(move |expert| {
            let why = expert["suspicion"].as_str()?;
            let model = expert["model"].as_str().unwrap_or_default();
            Some(format!("SUSPECT: {model} of {}: {why}", tail(&node)))
        })
    };
    peers.flat_map(of_peer).collect()
}

/// As people compare ids: the ends differ first.
fn tail(node: &str) -> &str {
    node.get(node.len().saturating_sub(12)..).unwrap_or(node)
}

fn row(peer: &Value) -> [String; 6] {
    let text = |name: &str| peer[name].as_str().unwrap_or("-").to_owned();
    let node = text("node");
    let rtt = peer["rtt_ms"]
        .as_f64()
        .map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
    let experts = peer["experts"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = experts.iter().filter_map(|e| e["model"].as_str()).collect();
    let asked = experts.iter().filter(|e| e["asked"] == true).count();
    [
        tail(&node).to_owned(),
        text("state"),
        text("path"),
        rtt,
        if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(", ")
        },
        format!("{asked} of {}", experts.len()),
    ]
}

fn list(addresses: &[Address]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn no_mesh() -> Failure {
    Failure::new(Kind::NotFound, "this node belongs to no mesh")
        .hint("found one: quorate mesh new; or enter one: quorate join <invite>")
}

fn identity(context: &Context) -> Outcome<Identity> {
    context.home.create()?;
    Identity::load_or_create(&context.home.identity_key())
}

fn public(keypair: &Keypair) -> PeerKey {
    let key = keypair.public().try_into_ed25519();
    key.expect("it was made so").to_bytes()
}
