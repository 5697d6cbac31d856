//! Real processes are stopped by one person in the middle of their streams. The 32 are run by
//! hand (research/measurements); here it is shown that the drill measures what it says.

use crate::harness::Home;

#[test]
fn a_drill_stops_every_process_in_the_middle_of_its_stream() {
    let home = Home::new();
    // One block of ports for each test process, below those that the kernel hands out.
    let port = (20_000 + std::process::id() % 12_000).to_string();
    let args = [
        "gov",
        "drill",
        "--nodes",
        "3",
        "--base-port",
        &port,
        "--json",
    ];
    let page = home.run(&args).json();
    assert_eq!((&page["nodes"], &page["unhalted"]), (&3.into(), &0.into()));
    assert!(page["tokens"].as_u64() > Some(3 * 10), "{page}");
    for what in ["halt_ms", "last_token_ms", "token_ms"] {
        let ms = |which: &str| page[what][which].as_f64().unwrap();
        assert!(ms("p50") <= ms("p99") && ms("p99") <= ms("max"), "{page}");
    }
    assert!(page["halt_ms"]["max"].as_f64() > Some(0.0), "{page}");
    // Nothing is left of it.
    assert!(!home.path().join("drill").exists());
    home.run(&["gov", "drill", "--nodes", "1"])
        .fails(2, &["2..=32"]);
}
