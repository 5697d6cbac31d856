//! `quorate gov log --follow`: what is signed, as this home hears it. The files are watched, so it works
//! whether a node is up or not.

use super::args::Log;
use super::mesh::{Mesh, mesh_dir};
use super::read::in_order;
use super::render;
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::ledger;
use quorate_core::governance::Standing;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Until somebody interrupts it, or nobody reads it.
pub(super) fn follow(context: &Context, args: &Log) -> Outcome {
    if args.mesh.log.is_some() {
        let message = "an exported file does not go on";
        return Err(Failure::new(Kind::Usage, message)
            .hint("leave out --log to follow the mesh of this home"));
    }
    let dir = mesh_dir(&context.home);
    let (mut shown, mut seen, mut was_halted) = (BTreeSet::new(), None, false);
    loop {
        // Taken before the look: what comes meanwhile is looked at next time.
        let stamp = ledger::stamp(&dir);
        if seen != Some(stamp) {
            let mesh = Mesh::in_home(&context.home)?;
            for record in in_order(&mesh) {
                if !shown.insert(record.id()) {
                    continue;
                }
                match args.json {
                    true => term::ndjson(&render::record_json(&mesh, &record))?,
                    false => render::print_record(Some(&mesh), &record)?,
                }
            }
            let standing = mesh.standing();
            if std::mem::replace(&mut was_halted, standing.is_halted()) != was_halted {
                say_how_it_stands(standing, args.json)?;
            }
            seen = Some(stamp);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn say_how_it_stands(standing: &Standing, as_json: bool) -> Outcome {
    if as_json {
        let halted: Vec<&str> = standing.reasons().collect();
        return term::ndjson(&json!({"kind": "standing", "halted": halted}));
    }
    match standing.is_halted() {
        true => term::line("-- the mesh stands still"),
        false => term::line("-- the mesh goes on"),
    }
}
