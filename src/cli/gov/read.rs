//! Verbs that change nothing.

use super::acts::file_named;
use super::args::{Log, Show, Status, Verify};
use super::mesh::{self, Mesh};
use super::names::{begins, hex, network, short};
use super::{audit, follow, render};
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::mesh::MeshHome;
use quorate_core::governance::{Entry, Record, Request};
use quorate_core::limits::{LEDGER_BYTES_MAX, RECORD_BYTES_MAX};
use serde_json::json;
use std::path::Path;

/// For strangers: nothing of this home is asked.
pub(super) fn verify(args: &Verify) -> Outcome {
    if audit::is_one(&args.file)? {
        return audit::verify(args);
    }
    let mesh = Mesh::in_file(&args.file)?;
    if let Some(typed) = &args.network {
        let wanted = network(typed)?;
        if wanted != mesh.network() {
            let message = format!(
                "{} is of another mesh: {}",
                args.file.display(),
                hex(&mesh.network().0)
            );
            return Err(
                Failure::new(Kind::Failed, message).hint("ask people of the mesh for its id")
            );
        }
    }
    let Mesh {
        unused, missing, ..
    } = &mesh;
    if args.json {
        let unused = unused
            .iter()
            .map(|(id, why)| json!({"id": hex(id), "why": why.to_string()}));
        let mut page = render::standing_json(&mesh);
        page["verified"] = json!(true);
        page["missing"] = json!(missing);
        page["unused"] = unused.collect();
        term::json(&page)?;
    } else {
        let records = mesh.replica.history().count();
        term::line(format!(
            "verified  {}: every signature of {records} records fits",
            args.file.display()
        ))?;
        for (id, why) in unused {
            term::line(format!("unused    {} {why}", short(id)))?;
        }
        render::print_standing(&mesh)?;
    }
    if *missing > 0 {
        let message =
            format!("the log has holes: {missing} entries that others build on are not in it");
        return Err(Failure::new(Kind::Failed, message)
            .hint("have it exported again by a node that has them all"));
    }
    Ok(())
}

pub(super) fn status(context: &Context, args: &Status) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.mesh)?;
    // A file is of a mesh; the audit log is of this node.
    let audit = match mesh.place {
        mesh::Place::Home => Some(audit::kept(&MeshHome::of(&context.home), mesh.network())),
        mesh::Place::File => None,
    };
    if args.json {
        let mut page = render::standing_json(&mesh);
        if let Some(audit) = &audit {
            page["audit"] = audit::page(audit);
        }
        return term::json(&page);
    }
    render::print_standing(&mesh)?;
    audit.iter().try_for_each(audit::print)
}

pub(super) fn log(context: &Context, args: &Log) -> Outcome {
    if args.follow {
        return follow::follow(context, args);
    }
    let mesh = Mesh::find(&context.home, &args.mesh)?;
    let said = in_order(&mesh);
    if args.json {
        let rows = said.iter().map(|record| render::record_json(&mesh, record));
        return term::json(&rows.collect::<Vec<_>>());
    }
    said.iter()
        .try_for_each(|record| render::print_record(Some(&mesh), record))
}

/// All that was signed, as people's clocks say, and each feed in its own order.
pub(super) fn in_order(mesh: &Mesh) -> Vec<Record> {
    let mut records: Vec<Record> = mesh.replica.history().collect();
    records.sort_by_cached_key(|record| {
        let (_, author, time_s, _) = render::record(record);
        let seq = match record {
            Record::Entry(entry) => entry.draft().seq,
            _ => 0,
        };
        (time_s.unwrap_or(u64::MAX), author, seq, record.id())
    });
    records
}

pub(super) fn show(context: &Context, args: &Show) -> Outcome {
    if let Some(path) = file_named(&args.what) {
        return show_file(path, args.json);
    }
    let mesh = Mesh::find(&context.home, &args.mesh)?;
    let records: Vec<Record> = mesh.replica.history().collect();
    let ids: Vec<[u8; 32]> = records.iter().map(Record::id).collect();
    let named = ids.iter().zip(&records);
    let proposals: Vec<(Entry, [u8; 32])> = mesh
        .entries()
        .filter_map(|entry| proposed(&entry))
        .collect();
    let record = match begins(&args.what, "record", named) {
        Ok(record) => record.clone(),
        // A proposal is known by its own id, too.
        Err(failure) if failure.kind == Kind::NotFound => {
            let named = proposals.iter().map(|(entry, id)| (id, entry));
            Record::Entry(begins(&args.what, "record or proposal", named)?.clone())
        }
        Err(failure) => return Err(failure),
    };
    if args.json {
        return term::json(&render::record_json(&mesh, &record));
    }
    for (name, value) in render::record_lines(&mesh, &record) {
        term::line(format!("{name:<10}{value}"))?;
    }
    Ok(())
}

fn proposed(entry: &Entry) -> Option<(Entry, [u8; 32])> {
    let draft = entry.draft();
    match &draft.body {
        quorate_core::governance::Body::Propose(p) => Some((entry.clone(), p.id(draft.network).0)),
        _ => None,
    }
}

fn show_file(path: &Path, as_json: bool) -> Outcome {
    let bytes = mesh::read(path, LEDGER_BYTES_MAX)?;
    let request = Some(&bytes).filter(|bytes| bytes.len() <= RECORD_BYTES_MAX);
    if let Some(request) = request.and_then(|bytes| Request::decode(bytes).ok()) {
        if as_json {
            return term::json(&render::request_json(&request));
        }
        for (name, value) in render::request(&request) {
            term::line(format!("{name:<10}{value}"))?;
        }
        return term::line("signed    by nobody: this is a request");
    }
    let parcel = mesh::parcel(path)?;
    if as_json {
        return term::json(&render::parcel_json(&parcel));
    }
    term::line(format!("mesh      {}", hex(&parcel.network.0)))?;
    let genesis = if parcel.genesis.is_some() {
        "with its genesis: `quorate gov verify` says how it stands"
    } else {
        "not in this file"
    };
    term::line(format!("genesis   {genesis}"))?;
    parcel
        .records
        .iter()
        .try_for_each(|record| render::print_record(None, record))
}
