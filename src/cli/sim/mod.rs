//! `quorate sim`: made-up meshes in virtual time, from seeds that anybody can run again.

mod mesh;

pub(super) use mesh::mesh;

use super::args::SimGov;
use super::term;
use crate::error::{Failure, Kind, Outcome};
use quorate_core::governance::sim::{Plan, Report, run};
use quorate_core::limits::GOV_SIM_NODES_MAX;
use serde_json::json;
use std::time::Instant;

const NODES_MIN: usize = 8;

pub(super) fn gov(args: &SimGov) -> Outcome {
    if !(NODES_MIN..=GOV_SIM_NODES_MAX).contains(&args.nodes) {
        let message = format!(
            "a simulated mesh has {NODES_MIN} to {GOV_SIM_NODES_MAX} nodes, not {}",
            args.nodes
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    let plan = Plan {
        nodes: args.nodes,
        loss_ppm: (args.loss.clamp(0.0, 0.9) * 1e6) as u32,
        silent_percent: (args.silent.clamp(0.0, 0.5) * 100.0).round() as u8,
    };
    let started = Instant::now();
    let mut all = Report::default();
    let mut broken = Vec::new();
    for seed in args.first_seed..args.first_seed.saturating_add(args.seeds) {
        let report = run(plan, seed);
        if breaks(&report) > 0 {
            broken.push(seed);
        }
        add(&mut all, report);
    }
    all.halt_us.sort_unstable();
    let ms = |permille: usize| at(&all.halt_us, permille).map(|us| us / 1000);
    let page = json!({
        "nodes": plan.nodes,
        "seeds": args.seeds,
        "loss": args.loss,
        "silent": args.silent,
        "halt_ms": {"p50": ms(500), "p99": ms(990), "max": ms(1000)},
        "unhalted": all.unhalted,
        "diverged": all.diverged,
        "running_under_halt": all.running_under_halt,
        "early_major": all.early_major,
        "early_resume": all.early_resume,
        "unhalted_boots": all.unhalted_boots,
        "boots": all.boots,
        "majors": all.majors,
        "broken_seeds": broken,
        "wall_s": started.elapsed().as_secs(),
    });
    if args.json {
        term::json(&page)?;
    } else {
        for (name, value) in page.as_object().into_iter().flatten() {
            term::line(format!("{name:<20}{value}"))?;
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} of {} histories broke a promise",
        broken.len(),
        args.seeds
    );
    Err(Failure::new(Kind::Failed, message).hint(format!(
        "run one again: quorate sim gov --nodes {} --loss {} --silent {} --first-seed {} --seeds 1",
        args.nodes, args.loss, args.silent, broken[0]
    )))
}

fn breaks(report: &Report) -> u64 {
    report.unhalted
        + report.diverged
        + report.running_under_halt
        + report.early_major
        + report.early_resume
        + report.unhalted_boots
}

fn add(all: &mut Report, one: Report) {
    all.halt_us.extend(one.halt_us);
    all.unhalted += one.unhalted;
    all.diverged += one.diverged;
    all.running_under_halt += one.running_under_halt;
    all.early_major += one.early_major;
    all.early_resume += one.early_resume;
    all.unhalted_boots += one.unhalted_boots;
    all.boots += one.boots;
    all.majors += one.majors;
}

/// The smallest that so many thousandths do not exceed.
pub(super) fn at(sorted: &[u64], permille: usize) -> Option<u64> {
    let n = (sorted.len() * permille).div_ceil(1000).max(1);
    sorted.get(n - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::at;

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(
            (at(&hundred, 500), at(&hundred, 990), at(&hundred, 1000)),
            (Some(50), Some(99), Some(100))
        );
        assert_eq!((at(&[7], 10), at(&[], 500)), (Some(7), None));
    }
}
