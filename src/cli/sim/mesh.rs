//! `quorate sim mesh`: whole meshes with everything that goes wrong in them. A seed that breaks a
//! promise becomes a file: what was run, what broke, and the last that happened.

use crate::cli::args::SimMesh;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use quorate_core::limits::SIM_NODES_MAX;
use quorate_core::link::Link;
use quorate_core::sim::{Options, Report, run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(in crate::cli) fn mesh(args: &SimMesh) -> Outcome {
    let started = Instant::now();
    let (mut bad, mut pages) = (Vec::new(), Vec::new());
    for seed in args.first_seed..args.first_seed.saturating_add(args.seeds) {
        let options = options(args, seed)?;
        let report = run(&options).map_err(|e| Failure::new(Kind::Usage, e.to_string()))?;
        let page = page(&report);
        if args.json {
            term::ndjson(&page)?;
        } else {
            term::line(row(&report))?;
        }
        pages.push(page);
        if !report.is_good() {
            bad.push((seed, keep(args, &report)?));
        }
    }
    if !args.json {
        term::line(format!(
            "{} of {} seeds good, in {} s",
            pages.len() - bad.len(),
            pages.len(),
            started.elapsed().as_secs()
        ))?;
    }
    let Some((seed, path)) = bad.first() else {
        return Ok(());
    };
    let calm = if args.calm { " --calm" } else { "" };
    Err(Failure::new(
        Kind::Failed,
        format!("seed {seed} broke a promise: see {}", path.display()),
    )
    .hint(format!(
        "run it again: quorate sim mesh --nodes {} --link {}{calm} --first-seed {seed} --seeds 1",
        args.nodes, args.link
    )))
}

fn options(args: &SimMesh, seed: u64) -> Outcome<Options> {
    if args.nodes == 0 || usize::from(args.nodes) > SIM_NODES_MAX {
        let message = format!(
            "a simulated mesh has 1 to {SIM_NODES_MAX} nodes, not {}",
            args.nodes
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    let link = Link::named(&args.link).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("there is no link '{}'", args.link))
            .hint("choose one of lan, metro, continent, intercontinental, satellite, absurd")
    })?;
    let made = match args.calm {
        true => Options::new(seed, args.nodes),
        false => Options::troubled(seed, args.nodes),
    };
    Ok(Options { link, ..made })
}

fn page(report: &Report) -> Value {
    json!({
        "seed": report.seed,
        "good": report.is_good(),
        "trace_hash": hex(&report.trace_hash),
        "asked": report.asked,
        "finished": report.finished,
        "attempts": report.attempts,
        "replayed": report.replayed,
        "tokens": report.tokens,
        "virtual_s": report.virtual_us as f64 / 1e6,
        "events": report.events,
        "bytes": report.bytes,
        "seen": report.seen,
        "safety": report.safety.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>(),
        "stuck": report.stuck,
    })
}

fn row(report: &Report) -> String {
    format!(
        "seed {}: {} of {} requests, {} tokens, {} recordings replayed, {} events in {:.0} virtual s, trace {}{}",
        report.seed,
        report.finished,
        report.asked,
        report.tokens,
        report.replayed,
        report.events,
        report.virtual_us as f64 / 1e6,
        &hex(&report.trace_hash)[..12],
        if report.is_good() { "" } else { "  BROKEN" }
    )
}

fn keep(args: &SimMesh, report: &Report) -> Outcome<PathBuf> {
    let name = format!("sim-mesh-{}-{}.json", args.nodes, report.seed);
    let path = args.keep.as_deref().unwrap_or(Path::new(".")).join(name);
    let mut page = page(report);
    page["nodes"] = args.nodes.into();
    page["link"] = args.link.as_str().into();
    page["calm"] = args.calm.into();
    page["tail"] = report.tail.clone().into();
    let text = format!("{page:#}\n");
    fs::write(&path, text).map_err(|error| Failure::file("write", &path, &error))?;
    Ok(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
