//! The audit log of this node, and those that others exported.

use super::args::{Audit, Verify};
use super::mesh;
use super::names::{hex, network, short};
use super::render::{plain, time};
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::identity::{self, Identity};
use crate::ledger::{self, DiskError, Unread};
use crate::mesh::MeshHome;
use quorate_core::governance::{About, BadTrail, Line, Noted, Ruling, Trail};
use quorate_core::ids::NetworkId;
use quorate_core::limits::AUDIT_EXPORT_BYTES_MAX;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(super) fn audit(context: &Context, args: &Audit) -> Outcome {
    let home = MeshHome::of(&context.home);
    let network = home.network().ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            "this node belongs to no mesh, so it asked nobody for a permit",
        )
        .hint(
            "join one with an invite that a member made: quorate join INVITE; \
             or found one: quorate gov init --help",
        )
    })?;
    let trail = kept(&home, network)?.ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            "this node has not taken part in its mesh yet",
        )
        .hint("it begins to write when it runs: quorate up")
    })?;
    if let Some(out) = &args.out {
        return export(context, args, &trail, out);
    }
    let skip = trail.lines.len().saturating_sub(args.last);
    let shown = &trail.lines[skip..];
    if args.json {
        let mut page = summary(&trail);
        page["lines"] = shown.iter().map(line_json).collect();
        return term::json(&page);
    }
    shown.iter().try_for_each(|line| term::line(words(line)))
}

/// All that the node has written, if it is one chain; None: it has written nothing yet.
pub(in crate::cli) fn kept(home: &MeshHome, network: NetworkId) -> Outcome<Option<Trail>> {
    let dir = home.dir();
    match ledger::look_audit(dir, network) {
        Ok(trail) => Ok(Some(trail)),
        Err(Unread::Bad(BadTrail::Empty)) => Ok(None),
        Err(Unread::Disk(DiskError { doing, path, error })) => {
            Err(Failure::file(doing, &path, &error))
        }
        Err(Unread::Bad(bad)) => Err(Failure::new(Kind::Failed, bad.to_string()).hint(format!(
            "somebody or something has changed the files audit.* in {}: keep a copy, for it shows what \
             was done, and find out who could write there. Then stop the node, move them away, start it \
             again: it begins a new chain, and its halts and votes are not touched",
            dir.display()
        ))),
    }
}

/// On one line: how much there is, and what came last.
pub(in crate::cli) fn gist(trail: &Trail) -> String {
    let begin = match trail.is_complete() {
        true => "",
        false => ", older ones were let go",
    };
    let last = trail.lines.last().map_or_else(String::new, |line| {
        let (about, ruling, _) = decided(line);
        format!("; last {} {ruling}: {about}", time(line.at_s))
    });
    format!("{} lines, one chain{begin}{last}", trail.lines.len())
}

/// For `gov status`, where one that cannot be read is news, and no reason to say nothing else.
pub(super) fn page(kept: &Outcome<Option<Trail>>) -> Value {
    match kept {
        Ok(None) => Value::Null,
        Ok(Some(trail)) => {
            let mut page = summary(trail);
            page["verified"] = json!(true);
            page["last"] = trail.lines.last().map(line_json).into();
            page
        }
        Err(failure) => {
            json!({"verified": false, "why": failure.message, "hint": failure.hint})
        }
    }
}

pub(super) fn print(kept: &Outcome<Option<Trail>>) -> Outcome {
    match kept {
        Ok(None) => term::line("audit     nothing yet: the node begins to write when it runs"),
        Ok(Some(trail)) => term::line(format!("audit     {}", gist(trail))),
        Err(failure) => {
            term::line(format!("AUDIT     {}", failure.message))?;
            let mut hint = failure.hint.iter();
            hint.try_for_each(|hint| term::line(format!("          {hint}")))
        }
    }
}

fn export(context: &Context, args: &Audit, trail: &Trail, out: &Path) -> Outcome {
    let path = context.home.identity_key();
    let identity = Identity::load(&path)?.ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            format!("there is no key of this node in {}", path.display()),
        )
    })?;
    let node = identity.key();
    let signature = identity.keypair.sign(&trail.body(&node)).ok();
    let signature = signature.and_then(|bytes| bytes.try_into().ok());
    let signature =
        signature.ok_or_else(|| Failure::new(Kind::Failed, "this node's key signs nothing"))?;
    mesh::write_new(out, &trail.exported(&node, signature))?;
    if args.json {
        return term::json(&summary(trail));
    }
    term::line(format!(
        "written   {} ({} lines)",
        out.display(),
        trail.lines.len()
    ))?;
    term::line(format!(
        "Anybody checks it: quorate gov verify '{}'",
        out.display()
    ))
}

/// Does the file say that it is an audit log?
pub(super) fn is_one(path: &Path) -> Outcome<bool> {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut begin));
    // Whoever reads all of it says what is wrong.
    Ok(read.is_ok() && Trail::is_export(&begin))
}

/// For strangers: nothing of this home is asked.
pub(super) fn verify(args: &Verify) -> Outcome {
    let bytes = mesh::read(&args.file, AUDIT_EXPORT_BYTES_MAX as u64)?;
    let (node, trail) = Trail::verify(&bytes).map_err(|error| {
        let message = format!("{} does not verify: {error}", args.file.display());
        Failure::new(Kind::Failed, message)
            .hint("have it sent again, and believe nothing that it says")
    })?;
    if let Some(typed) = &args.network
        && network(typed)? != trail.network
    {
        let message = format!(
            "{} is of another mesh: {}",
            args.file.display(),
            hex(&trail.network.0)
        );
        return Err(Failure::new(Kind::Failed, message).hint("ask people of the mesh for its id"));
    }
    let node = identity::peer_id(&node);
    if args.json {
        let mut page = summary(&trail);
        page["verified"] = json!(true);
        page["node"] = json!(node);
        page["lines"] = trail.lines.iter().map(line_json).collect();
        return term::json(&page);
    }
    term::line(format!(
        "verified  {}: one chain of {} lines, signed by the node",
        args.file.display(),
        trail.lines.len()
    ))?;
    term::line(format!("mesh      {}", hex(&trail.network.0)))?;
    term::line(format!("node      {node}"))?;
    let begin = match trail.is_complete() {
        true => "with the first line that the node wrote".to_owned(),
        false => format!("after {} bytes that the node has let go", trail.start.len),
    };
    term::line(format!("begins    {begin}"))?;
    trail
        .lines
        .iter()
        .try_for_each(|line| term::line(words(line)))
}

fn summary(trail: &Trail) -> Value {
    json!({
        "mesh": hex(&trail.network.0),
        "complete": trail.is_complete(),
        "written": trail.lines.len(),
        "head": hex(&trail.end.hash),
    })
}

/// What was wanted, what came of it, and why.
fn decided(line: &Line) -> (String, &'static str, &str) {
    let (about, ruling) = match &line.noted {
        Noted::Began => return ("the node takes part".into(), "began", ""),
        Noted::Missed(n) => {
            return (
                format!("{n} decisions"),
                "not written",
                "they came too quickly",
            );
        }
        Noted::Lost => return ("what was before".into(), "lost", "its files were damaged"),
        Noted::Decided(decision) => (&decision.about, &decision.ruling),
    };
    let about = match about {
        About::Session(id) => format!("session {id:016x}"),
        About::Guest(node) => format!("guest {}", identity::peer_id(node)),
        About::Config(version) => format!("config version {version}"),
    };
    match ruling {
        Ruling::Granted => (about, "granted", ""),
        Ruling::Refused(why) => (about, "refused", why),
        Ruling::TakenBack(why) => (about, "taken back", why),
    }
}

fn words(line: &Line) -> String {
    let (about, ruling, why) = decided(line);
    let why = plain(why);
    let text = format!(
        "{}  {}  {ruling:<11}  {about}  {why}",
        time(line.at_s),
        short(&line.state)
    );
    text.trim_end().to_owned()
}

fn line_json(line: &Line) -> Value {
    let (about, ruling, why) = decided(line);
    json!({"time": line.at_s, "state": hex(&line.state), "ruling": ruling, "about": about, "why": why})
}
