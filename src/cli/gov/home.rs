//! The mesh of this home: founded, fed, copied out. No node runs meanwhile.

use super::args::{Export, Import, Init, PresetName};
use super::mesh::{self, Mesh, mesh_dir};
use super::names::{hex, node, person, phase, short};
use super::render;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::mesh::MeshHome;
use quorate_core::config::MeshConfig;
use quorate_core::governance::{Author, Genesis, Parcel, Preset, Record, RecordId, Terms};
use quorate_core::limits::CRITERIA_BYTES_MAX;
use serde_json::json;
use std::path::Path;

/// What has to be shown before a phase, unless the founders say something else.
const CRITERIA: [&str; 3] = [
    "Every participant has halted and resumed this mesh once, and has verified its log.",
    "Two weeks in phase 1 without a fault or a conflict; every participant has read the suggestions.",
    "Two weeks in phase 2; every change was measured, and none was taken back by a halt.",
];

pub(super) fn init(context: &Context, args: &Init) -> Outcome {
    let preset = match args.preset {
        PresetName::Solo => Preset::Solo,
        PresetName::Lab => Preset::Lab,
        PresetName::Community => Preset::Community,
    };
    let _lock = context.home.lock()?;
    let own = Identity::load_or_create(&context.home.identity_key())?;
    let mut nodes = all(&args.node, node)?;
    if !nodes.contains(&own.key()) {
        nodes.push(own.key());
    }
    nodes.sort_unstable();
    let mut terms = Terms::of(
        preset,
        all(&args.participant, person)?,
        MeshConfig::default(),
    );
    terms.nodes = nodes;
    terms.phase = phase(args.phase)?;
    terms.criteria = match &args.criteria {
        Some(path) => criteria(path)?,
        None => CRITERIA.map(str::to_owned),
    };
    let mut witnesses = all(&args.witness, node)?;
    witnesses.sort_unstable();
    terms.members.witness_threshold = threshold(args.witnesses_needed, witnesses.len());
    terms.members.witnesses = witnesses;
    let row = preset.row();
    let genesis = terms.found().map_err(|error| {
        let name = render::preset(preset);
        Failure::new(Kind::Usage, format!("this is no {name} mesh: {error}")).hint(format!(
            "{name} has {} to {} participants and {} witnesses or more; each person, witness and node has a key of its own",
            row.participants_min, row.participants_max, row.witnesses_min
        ))
    })?;
    MeshHome::of(&context.home).enter(&genesis, &[], None)?;
    founded(&genesis, args.json)
}

fn founded(genesis: &Genesis, as_json: bool) -> Outcome {
    let terms = genesis.terms();
    let is_unsafe = terms.preset.row().is_unsafe;
    if as_json {
        return term::json(&json!({
            "mesh": hex(&genesis.network_id().0),
            "preset": render::preset(terms.preset),
            "unsafe": is_unsafe,
        }));
    }
    term::line(format!("mesh      {}", hex(&genesis.network_id().0)))?;
    if is_unsafe {
        term::line("UNSAFE    a lab mesh is for tests: nothing protects its keys")?;
    }
    let (people, witnesses) = (
        terms.members.participants.len(),
        terms.members.witnesses.len(),
    );
    term::line(format!(
        "decides   {people} participant(s), {witnesses} witness(es), {} node(s)",
        terms.nodes.len()
    ))?;
    if witnesses == 0 {
        term::line(
            "          without witnesses no time can be proved: no major changes, and phase 1 is the last",
        )?;
    }
    term::line("Next: quorate gov status")
}

/// Three lines, one for each phase.
fn criteria(path: &Path) -> Outcome<[String; 3]> {
    let bytes = mesh::read(path, 3 * (CRITERIA_BYTES_MAX as u64 + 2))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.try_into().map_err(|lines: Vec<String>| {
        let message = format!(
            "{} has {} lines, not one each for phases 1, 2 and 3",
            path.display(),
            lines.len()
        );
        Failure::new(Kind::Usage, message)
    })
}

pub(super) fn all(typed: &[String], read: fn(&str) -> Outcome<Author>) -> Outcome<Vec<Author>> {
    typed.iter().map(|text| read(text)).collect()
}

/// More than half, unless said otherwise.
pub(super) fn threshold(typed: Option<u8>, witnesses: usize) -> u8 {
    let half = u8::try_from(witnesses / 2).unwrap_or(u8::MAX);
    typed.unwrap_or(if witnesses == 0 {
        0
    } else {
        half.saturating_add(1)
    })
}

/// What became of records that were brought.
pub(super) struct Brought {
    new: usize,
    known: usize,
    refused: Vec<(RecordId, String)>,
    mesh: Mesh,
}

impl Brought {
    pub(super) fn print(&self) -> Outcome {
        let Brought {
            new,
            known,
            refused,
            mesh,
        } = self;
        term::line(format!(
            "records   {new} new, {known} known, {} refused",
            refused.len()
        ))?;
        for (id, why) in refused {
            term::line(format!("          {} {why}", short(id)))?;
        }
        render::print_standing(mesh)
    }
}

pub(super) fn import(context: &Context, args: &Import) -> Outcome {
    let mut records = Vec::new();
    for path in &args.files {
        records.extend(mesh::parcel(path)?.records);
    }
    let brought = take_home(context, records)?;
    if !args.json {
        return brought.print();
    }
    let refused = brought
        .refused
        .iter()
        .map(|(id, why)| json!({"id": hex(id), "why": why}));
    term::json(&json!({
        "new": brought.new,
        "known": brought.known,
        "refused": refused.collect::<Vec<_>>(),
        "standing": render::standing_json(&brought.mesh),
    }))
}

/// Into the ledger of this home: halts are held first, and nothing is said before it is written down.
///
/// A node that is up takes them itself: it obeys at once, and tells the others.
pub(super) fn take_home(context: &Context, records: Vec<Record>) -> Outcome<Brought> {
    let home = &context.home;
    if let Some(client) = Client::of_running_node(context)? {
        return hand_over(context, &client, records);
    }
    let _lock = home.lock()?;
    let dir = mesh_dir(home);
    let (mut ledger, stored) = Ledger::open(&dir).map_err(|lost| lost.at(dir))?;
    let mut replica = stored.replica;
    // What a node here ran before it heard any of this.
    let applied = replica.standing().snapshot().version;
    let taken = replica.take_all(records);
    for record in &taken.new {
        if let Record::Halt(halt) = record {
            ledger.hold(halt)?;
        }
    }
    ledger.append(&taken.new)?;
    ledger.settle(replica.standing(), applied, term::now_unix_s())?;
    let refused = taken
        .refused
        .into_iter()
        .map(|(record, why)| (record.id(), why.to_string()))
        .collect();
    let mesh = Mesh {
        replica,
        place: mesh::Place::Home,
        unused: vec![],
        missing: 0,
    };
    Ok(Brought {
        new: taken.new.len(),
        known: taken.known,
        refused,
        mesh,
    })
}

fn hand_over(context: &Context, client: &Client, records: Vec<Record>) -> Outcome<Brought> {
    let network = Mesh::in_home(&context.home)?.network();
    let parcel = Parcel {
        network,
        genesis: None,
        records,
    };
    let page = client.post_bytes("/api/gov/records", &parcel.encode())?;
    let count = |name: &str| page[name].as_u64().unwrap_or(0) as usize;
    let refused = page["refused"].as_array().into_iter().flatten();
    let refused = refused.filter_map(|one| {
        let id = blake3::Hash::from_hex(one["id"].as_str()?).ok()?;
        Some((*id.as_bytes(), one["why"].as_str()?.to_owned()))
    });
    Ok(Brought {
        new: count("new"),
        known: count("known"),
        refused: refused.collect(),
        mesh: Mesh::in_home(&context.home)?,
    })
}

pub(super) fn export(context: &Context, args: &Export) -> Outcome {
    let mesh = Mesh::in_home(&context.home)?;
    let parcel = Parcel::from(&mesh.replica);
    mesh::write_new(&args.out, &parcel.encode())?;
    let place = args.out.display();
    term::line(format!(
        "exported  {place}: the genesis and {} records",
        parcel.records.len()
    ))?;
    term::line(format!(
        "Anybody can check it: quorate gov verify '{place}' --network {}",
        hex(&mesh.network().0)
    ))
}
