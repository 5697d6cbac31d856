//! Governance in words and in JSON.

use super::mesh::Mesh;
use super::names::{hex, phase_text, short};
use crate::cli::term;
use crate::error::Outcome;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quorate_core::config::SCHEMA;
use quorate_core::governance::{
    Act, Author, Body, Cause, Choice, Consent, LinkId, Origin, Parcel, Preset, Proposal, Record,
    Request, Target, Wish,
};
use serde_json::{Value, json};

pub(super) fn preset(preset: Preset) -> &'static str {
    match preset {
        Preset::Solo => "solo",
        Preset::Lab => "lab",
        Preset::Community => "community",
    }
}

pub(super) fn consent(consent: Consent) -> &'static str {
    match consent {
        Consent::Minor => "minor",
        Consent::Major => "major",
        Consent::Membership => "membership",
        Consent::Resume => "resume",
    }
}

/// Words of others, which might steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn keys(list: &[Author]) -> String {
    let shorts: Vec<String> = list.iter().map(short).collect();
    shorts.join(" ")
}

/// What a proposal would do.
pub(super) fn act(act: &Act) -> String {
    match act {
        Act::Patch(patch) => {
            let set = |op: &quorate_core::config::Set| {
                format!("{} {} -> {}", op.key.row().name, op.expect_old, op.value)
            };
            let sets: Vec<String> = patch.ops().iter().map(set).collect();
            format!("set {}", sets.join(", "))
        }
        Act::Raise { to, evidence, .. } => {
            format!(
                "go to phase {}, evidence {}",
                phase_text(*to),
                hex(evidence)
            )
        }
        Act::Membership(members) => format!(
            "participants {}; witnesses {} ({} make a checkpoint)",
            keys(&members.participants),
            if members.witnesses.is_empty() {
                "none".to_owned()
            } else {
                keys(&members.witnesses)
            },
            members.witness_threshold
        ),
        Act::Resume {
            restart,
            lifts,
            suspends,
        } => {
            let suspended = match &suspends[..] {
                [] => String::new(),
                keys_out => format!(", suspend {}", keys(keys_out)),
            };
            format!(
                "resume: end {} stop(s), run config {}{suspended}",
                lifts.len(),
                short(restart)
            )
        }
        Act::MinSafe(version) => format!("take back nothing below version {version}"),
    }
}

fn proposal_json(id: &LinkId, p: &Proposal) -> Value {
    json!({
        "id": hex(&id.0),
        "height": p.height,
        "round": p.round,
        "epoch": p.epoch,
        "consent": consent(p.consent),
        "expiry": p.expiry,
        "from": match p.origin { Origin::People => "people", Origin::Stream => "stream" },
        "act": act(&p.act),
    })
}

/// All that a signature would bind, a line each.
pub(super) fn request(request: &Request) -> Vec<(&'static str, String)> {
    let mut lines = vec![("mesh", hex(&request.network.0)), ("wish", wish(request))];
    if let Wish::Propose(p) | Wish::Vote { proposal: p, .. } = &request.wish {
        lines.push(("proposal", hex(&p.id(request.network).0)));
        lines.push(("act", act(&p.act)));
        lines.push(("needs", format!("{} agreement", consent(p.consent))));
        lines.push((
            "place",
            format!(
                "height {}, round {}, after {}",
                p.height,
                p.round,
                hex(&p.parent.0)
            ),
        ));
        lines.push(("expires", time(p.expiry)));
    }
    lines
}

fn wish(request: &Request) -> String {
    match &request.wish {
        Wish::Halt { reason } => format!("halt everything: {}", plain(reason)),
        Wish::Propose(_) => "propose, and vote yes".to_owned(),
        Wish::Vote {
            choice: Choice::Yes,
            ..
        } => "vote yes".to_owned(),
        Wish::Vote {
            choice: Choice::No, ..
        } => "vote no".to_owned(),
        Wish::Lower(to) => format!("lower the phase to {}", phase_text(*to)),
        Wish::Revoke(target) => format!("take out {}", self::target(target)),
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Link(id) => format!("admission {}", hex(&id.0)),
        Target::Node(key) => format!("node {}", crate::identity::peer_id(key)),
    }
}

pub(super) fn request_json(asked: &Request) -> Value {
    let mut page = json!({"kind": "request", "mesh": hex(&asked.network.0), "wish": wish(asked)});
    if let Wish::Propose(p) | Wish::Vote { proposal: p, .. } = &asked.wish {
        page["proposal"] = proposal_json(&p.id(asked.network), p);
    }
    page
}

pub(super) fn time(unix_s: u64) -> String {
    let at = i64::try_from(unix_s)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map_or_else(|| format!("second {unix_s}"), |at| at.to_string())
}

/// Author, time by his clock, what he said.
pub(super) fn record(record: &Record) -> (&'static str, Option<Author>, Option<u64>, String) {
    match record {
        Record::Entry(entry) => {
            let draft = entry.draft();
            let (kind, text) = match &draft.body {
                Body::Propose(p) => {
                    let id = p.id(draft.network);
                    (
                        "propose",
                        format!("{} {}: {}", consent(p.consent), short(&id.0), act(&p.act)),
                    )
                }
                Body::Vote {
                    choice: Choice::Yes,
                    ballot,
                } => ("vote", format!("yes to {}", short(&ballot.proposal.0))),
                Body::Vote {
                    choice: Choice::No,
                    ballot,
                } => ("vote", format!("no to {}", short(&ballot.proposal.0))),
                Body::Lower(to) => ("lower", format!("to phase {}", phase_text(*to))),
            };
            (kind, Some(draft.author), Some(draft.advisory_time), text)
        }
        Record::Halt(halt) => (
            "halt",
            Some(halt.author),
            Some(halt.advisory_time),
            plain(&halt.reason),
        ),
        Record::Checkpoint(c) => {
            let seen = c.seen();
            let halted = if seen.halted { ", halted" } else { "" };
            let text = format!(
                "{} witnesses saw {} feeds{halted}",
                c.witnesses().count(),
                seen.heads.len()
            );
            ("checkpoint", None, None, text)
        }
        Record::Admission(a) => {
            let text = format!(
                "{} until {}",
                crate::identity::peer_id(&a.subject),
                time(a.expires_s)
            );
            ("admit", Some(a.issuer), Some(a.issued_s), text)
        }
        Record::Revocation(r) => ("revoke", Some(r.author), None, target(&r.target)),
    }
}

/// The resume that has ended a halt.
fn lifted_by(mesh: &Mesh, one: &Record) -> Option<LinkId> {
    match one {
        Record::Halt(halt) => mesh.standing().lifted_by(halt.id()).map(|(_, by)| by),
        _ => None,
    }
}

pub(super) fn record_json(mesh: &Mesh, one: &Record) -> Value {
    let mut page = alone_json(one);
    if let Some(by) = lifted_by(mesh, one) {
        page["lifted_by"] = json!(hex(&by.0));
    }
    page
}

/// A record of which nobody knows what became of it.
fn alone_json(one: &Record) -> Value {
    let (kind, author, time_s, text) = record(one);
    let mut page = json!({
        "id": hex(&one.id()),
        "kind": kind,
        "author": author.map(|a| hex(&a)),
        "time": time_s,
        "text": text,
    });
    match one {
        Record::Entry(entry) => {
            page["seq"] = json!(entry.draft().seq);
            page["epoch"] = json!(entry.draft().epoch);
        }
        Record::Checkpoint(c) => {
            page["witnesses"] = c.witnesses().map(|w| hex(w)).collect();
        }
        _ => {}
    }
    page
}

/// A record, a line for each thing that it says.
pub(super) fn record_lines(mesh: &Mesh, one: &Record) -> Vec<(&'static str, String)> {
    let (kind, author, time_s, text) = record(one);
    let mut lines = vec![
        ("id", hex(&one.id())),
        ("kind", kind.to_owned()),
        ("says", text),
    ];
    lines.extend(author.map(|author| ("author", hex(&author))));
    lines.extend(time_s.map(|at| ("time", time(at))));
    lines.extend(lifted_by(mesh, one).map(|by| ("lifted by", hex(&by.0))));
    if let Record::Entry(entry) = one {
        let draft = entry.draft();
        lines.push((
            "place",
            format!("entry {} of its author, epoch {}", draft.seq, draft.epoch),
        ));
        if let Body::Propose(p) = &draft.body {
            lines.push(("proposal", hex(&p.id(draft.network).0)));
            lines.push(("expires", self::time(p.expiry)));
        }
    }
    lines
}

fn cause_json(cause: &Cause) -> Value {
    let reason = cause.reason();
    match cause {
        Cause::Halt { id, author, .. } => {
            json!({"kind": "halt", "id": hex(&id.0), "author": hex(author), "reason": reason})
        }
        Cause::Flood(author) => json!({"kind": "flood", "author": hex(author), "reason": reason}),
        Cause::Fault(author) => json!({"kind": "fault", "author": hex(author), "reason": reason}),
        Cause::Conflict(id) => json!({"kind": "conflict", "id": hex(id), "reason": reason}),
    }
}

fn cause(cause: &Cause) -> String {
    match cause {
        Cause::Halt { author, reason, .. } => {
            format!("\"{}\" (halted by {})", plain(reason), short(author))
        }
        Cause::Flood(author) | Cause::Fault(author) => {
            format!(
                "{} ({}): resume with --suspend {}",
                cause.reason(),
                short(author),
                short(author)
            )
        }
        Cause::Conflict(_) => cause.reason().to_owned(),
    }
}

/// How a mesh stands, for programs.
pub(super) fn standing_json(mesh: &Mesh) -> Value {
    let standing = mesh.standing();
    let terms = mesh.replica.genesis().terms();
    let electorate = standing.electorate();
    let people = electorate.members.participants.iter().map(|key| {
        json!({"key": hex(key), "active": electorate.is_active(key), "fault": standing.faults().contains_key(key)})
    });
    let open = mesh.open().iter().map(|(id, proposal)| {
        let mut page = proposal_json(id, proposal);
        page["yes"] = json!(mesh.replica.voters(proposal).len());
        page["needed"] = json!(proposal.consent.threshold(electorate.size()));
        page
    });
    let snapshot = standing.snapshot();
    let config: serde_json::Map<String, Value> = SCHEMA
        .iter()
        .map(|row| (row.name.to_owned(), json!(snapshot.config.get(row.key))))
        .collect();
    json!({
        "mesh": hex(&mesh.network().0),
        "preset": preset(terms.preset),
        "unsafe": terms.preset.row().is_unsafe,
        "halted": standing.is_halted(),
        "causes": standing.causes().map(cause_json).collect::<Vec<_>>(),
        "phase": standing.phase() as u8,
        "height": standing.tip().height,
        "epoch": electorate.epoch,
        "participants": people.collect::<Vec<_>>(),
        "witnesses": electorate.members.witnesses.iter().map(|key| hex(key)).collect::<Vec<_>>(),
        "witnesses_needed": electorate.members.witness_threshold,
        "open": open.collect::<Vec<_>>(),
        "version": snapshot.version,
        "min_safe": standing.min_safe(),
        "config_hash": hex(&snapshot.config.hash()),
        "config": config,
        "records": mesh.replica.history().count(),
        "state_hash": hex(&standing.hash()),
    })
}

/// How a mesh stands, for people.
pub(super) fn print_standing(mesh: &Mesh) -> Outcome {
    let standing = mesh.standing();
    let electorate = standing.electorate();
    let terms = mesh.replica.genesis().terms();
    let warning = if terms.preset.row().is_unsafe {
        " (unsafe: for tests)"
    } else {
        ""
    };
    let row = |name: &str, value: String| term::line(format!("{name:<10}{value}"));
    row("mesh", hex(&mesh.network().0))?;
    row("preset", format!("{}{warning}", preset(terms.preset)))?;
    if standing.is_halted() {
        for stop in standing.causes() {
            row("HALTED", cause(stop))?;
        }
        let needed = Consent::Resume.threshold(electorate.size());
        row(
            "",
            format!(
                "{needed} of {} people resume it: quorate gov resume --key FILE",
                electorate.size()
            ),
        )?;
    } else {
        row("halted", "no".to_owned())?;
    }
    row("phase", phase_text(standing.phase()).to_owned())?;
    for key in &electorate.members.participants {
        let note = match (
            electorate.is_active(key),
            standing.faults().contains_key(key),
        ) {
            (false, _) => "  suspended",
            (true, true) => "  has signed two histories",
            (true, false) => "",
        };
        row("person", format!("{}{note}", hex(key)))?;
    }
    for key in &electorate.members.witnesses {
        row("witness", crate::identity::peer_id(key))?;
    }
    let snapshot = standing.snapshot();
    row(
        "config",
        format!(
            "version {} ({})",
            snapshot.version,
            short(&snapshot.config.hash())
        ),
    )?;
    for setting in SCHEMA {
        let value = snapshot.config.get(setting.key);
        let changed = if value == setting.default {
            ""
        } else {
            "  changed"
        };
        term::line(format!("          {:<28}{value}{changed}", setting.name))?;
    }
    for (id, proposal) in mesh.open() {
        let (yes, needed) = (
            mesh.replica.voters(proposal).len(),
            proposal.consent.threshold(electorate.size()),
        );
        let waits = if yes < needed {
            ""
        } else {
            ", and waits for witnesses"
        };
        row("open", format!("{} {}", short(&id.0), act(&proposal.act)))?;
        row(
            "",
            format!(
                "{}: {yes} of {needed} votes{waits}, until {}",
                consent(proposal.consent),
                time(proposal.expiry)
            ),
        )?;
    }
    let records = mesh.replica.history().count();
    row(
        "records",
        format!("{records}, state {}", hex(&standing.hash())),
    )
}

pub(super) fn parcel_json(parcel: &Parcel) -> Value {
    json!({
        "kind": "parcel",
        "mesh": hex(&parcel.network.0),
        "genesis": parcel.genesis.is_some(),
        "records": parcel.records.iter().map(signed_json).collect::<Vec<_>>(),
    })
}

/// With its bytes, for programs that carry single records to a node.
fn signed_json(one: &Record) -> Value {
    let mut page = alone_json(one);
    page["bytes"] = json!(BASE64.encode(one.encode()));
    page
}

/// A record on one line.
pub(super) fn print_record(mesh: Option<&Mesh>, one: &Record) -> Outcome {
    let (kind, author, time_s, text) = record(one);
    let who = author.map_or_else(|| "-".to_owned(), |author| short(&author));
    let when = time_s.map_or_else(|| "-".to_owned(), time);
    let over = mesh.and_then(|mesh| lifted_by(mesh, one));
    let over = over.map_or_else(String::new, |by| format!("  (lifted by {})", short(&by.0)));
    term::line(format!(
        "{}  {when:<20}  {who:<8}  {kind:<10}  {text}{over}",
        short(&one.id())
    ))
}
