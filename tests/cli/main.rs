//! The program as its users meet it: its own processes, its own homes, nothing shared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

mod drill;
mod eval;
mod gov;
mod gov_audit;
mod gov_log;
mod gov_policy;
mod help;
mod mesh;
mod models;
mod node;
mod places;
mod real_model;
mod replay;
mod settings;
mod testnet;

/// A file that nobody names is a test that never runs.
#[test]
fn every_file_is_a_module() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli");
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") {
            assert!(
                main.contains(&format!("mod {module};")),
                "{name} is not in main.rs"
            );
        }
    }
}
