//! Whole meshes. A seed that fails here is an argument of `run`: nothing else is needed.

use super::*;

fn good(options: &Options) -> Report {
    let report = run(options).unwrap();
    assert!(
        report.is_good(),
        "seed {} with {} nodes: {:#?} {:#?}, {} of {} finished\n{options:?}\n{}",
        report.seed,
        options.nodes,
        report.safety,
        report.stuck,
        report.finished,
        report.asked,
        report.tail.join("\n")
    );
    report
}

#[test]
fn one_request_at_a_small_mesh() {
    let report = good(&Options::new(1, 5));
    assert!(report.replayed >= 4, "{report:?}");
}
