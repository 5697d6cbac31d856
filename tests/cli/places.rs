//! Homes that do not work: messages, never panics.

use crate::harness::{Home, Ran, bare};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn at(home: &str, args: &[&str]) -> Ran {
    Ran::of(bare(args).env("QUORATE_HOME", home).output().unwrap())
}

#[test]
fn no_home_in_the_environment() {
    Ran::of(bare(&["list"]).output().unwrap()).fails(3, &["QUORATE_HOME"]);
}

#[test]
fn a_home_below_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let home = file.join("home").display().to_string();
    at(&home, &["up"]).fails(3, &[&home, "QUORATE_HOME"]);
    at(&home, &["doctor"]).fails(1, &["failed"]);
}

#[test]
fn a_home_that_cannot_be_written() {
    // Not even root writes here.
    at("/proc/quorate", &["up"]).fails(3, &["/proc/quorate"]);
    at("/proc/quorate", &["list"]).works();
    at("/proc/quorate", &["ps"]).works();
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
    let home = Home::new();
    drop(home.up(&[]));
    let key = home.path().join("identity.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    home.run(&["up", "--listen", "0"])
        .fails(3, &[&format!("chmod 600 {}", key.display())]);
    let doctor = home.run(&["doctor", "--json"]);
    assert_eq!(doctor.code, 1);
    let page: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    let checks = page["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["name"] == "identity")
        .unwrap();
    assert_eq!(check["level"], "fail");
    assert!(check["fix"].as_str().unwrap().starts_with("chmod 600"));
}

#[test]
fn xdg_directories_are_used_without_quorate_home() {
    let dir = tempfile::tempdir().unwrap();
    let command = || {
        let mut command = bare(&["up", "--json", "--listen", "127.0.0.1:0"]);
        command.env("HOME", dir.path());
        command
    };
    drop(crate::harness::Up::start(command()));
    assert!(
        dir.path()
            .join(".local/share/quorate/identity.key")
            .is_file()
    );
}
