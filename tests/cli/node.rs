//! A node and its neighbours: lock, port, signals, sudden death.

use crate::harness::{Home, Up};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn a_node_says_where_it_is_and_other_verbs_find_it() {
    let home = Home::new();
    let up = home.up(&[]);
    let api = up.ready["api"].as_str().unwrap().to_owned();
    assert!(up.ready["node_id"].as_str().unwrap().starts_with("12D3Koo"));
    let status = home.run(&["status", "--json"]).json();
    assert_eq!(
        (status["up"].as_bool(), status["api"].as_str()),
        (Some(true), Some(api.as_str()))
    );
    assert_eq!(status["node_id"], up.ready["node_id"]);
    assert_eq!(status["privacy"], "local");
    assert!(home.run(&["status"]).works().contains(&api));
    assert!(
        home.run(&["ps", "--json"]).json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(
        home.run(&["ps"])
            .works()
            .starts_with("NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL")
    );
    home.run(&["stop", "smollm2:135m"])
        .fails(4, &["not in memory", "quorate ps"]);
}

/// What the environment of a node that is up says of OpenMP's waiting.
#[cfg(target_os = "linux")]
fn openmp(home: &Home, set: Option<(&str, &str)>) -> Vec<String> {
    let mut command = home.command(&["up", "--json", "--listen", "127.0.0.1:0"]);
    command.envs(set);
    let up = Up::start(command);
    let environment = std::fs::read(format!("/proc/{}/environ", up.pid())).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    environment
        .split('\0')
        .filter(|pair| pair.starts_with("GOMP_") || pair.starts_with("OMP_"))
        .map(str::to_owned)
        .collect()
}

#[cfg(target_os = "linux")]
#[test]
fn threads_are_told_to_spin_shortly_unless_somebody_said_otherwise() {
    let home = Home::new();
    let [ours] = &openmp(&home, None)[..] else {
        panic!("one variable");
    };
    let looks: u32 = ours
        .strip_prefix("GOMP_SPINCOUNT=")
        .unwrap()
        .parse()
        .unwrap();
    assert!((50..=100_000).contains(&looks), "{ours}");
    for (name, value) in [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")] {
        let theirs = openmp(&home, Some((name, value)));
        assert_eq!(theirs, [format!("{name}={value}")]);
    }
}

#[test]
fn the_second_node_on_a_home_is_refused_by_name() {
    let home = Home::new();
    let up = home.up(&[]);
    let pid = format!("process {}", up.pid());
    home.run(&["up", "--listen", "0"]).fails(
        5,
        &[
            "already runs",
            &pid,
            up.ready["api"].as_str().unwrap(),
            "QUORATE_HOME=",
        ],
    );
}

#[test]
fn the_next_node_starts_cleanly_after_kill_9() {
    let home = Home::new();
    let mut first = home.up(&[]);
    first.kill_9();
    let note = std::fs::read_to_string(home.path().join("node.lock")).unwrap();
    assert!(
        note.contains("api http://"),
        "the dead node left its address"
    );
    home.run(&["status"])
        .fails(4, &["no node is up", "quorate up"]);
    assert!(home.run(&["ps"]).works().starts_with("NAME"));
    let second = home.up(&[]);
    assert_eq!(
        first.ready["node_id"], second.ready["node_id"],
        "the identity stays"
    );
}

#[test]
fn a_signal_ends_the_node_in_time_and_frees_the_home() {
    for signal in ["TERM", "INT"] {
        let home = Home::new();
        let mut up = home.up(&[]);
        let began = Instant::now();
        assert!(up.signal(signal).success(), "an orderly end is no failure");
        assert!(began.elapsed() < Duration::from_secs(5));
        home.run(&["status"]).fails(4, &["no node is up"]);
    }
}

#[test]
fn a_taken_port_says_who_and_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let home = Home::new();
    let me = format!("process {}", std::process::id());
    let who = if cfg!(target_os = "linux") {
        me.as_str()
    } else {
        "another process"
    };
    home.run(&["up", "--listen", &address])
        .fails(5, &[&address, who, "--listen 127.0.0.1:"]);
    let doctor = home
        .command(&["doctor"])
        .env("QUORATE_LISTEN", &address)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("FAIL  api"));
}

#[test]
fn beyond_loopback_a_key_is_needed_and_a_good_one() {
    let home = Home::new();
    home.run(&["up", "--listen", "0.0.0.0:0"])
        .fails(3, &["0.0.0.0:0", "--api-key-file"]);
    let key = home.path().join("api.key");
    std::fs::write(&key, "short\n").unwrap();
    let file = key.display().to_string();
    home.run(&["up", "--listen", "0.0.0.0:0", "--api-key-file", &file])
        .fails(3, &["16 or more"]);
    home.run(&["up", "--api-key-file", "/nowhere"])
        .fails(3, &["/nowhere"]);
    std::fs::write(&key, "0123456789abcdef\n").unwrap();
    let _up = home.up(&["--api-key-file", &file]);
    home.run(&["status"]).fails(3, &["QUORATE_API_KEY"]);
    let mut with_key = home.command(&["status"]);
    with_key.env("QUORATE_API_KEY", "0123456789abcdef");
    assert!(with_key.output().unwrap().status.success());
}

#[test]
fn a_model_that_cannot_be_preloaded_ends_the_node() {
    home_up_fails(
        &["--model", "smollm2:135m"],
        4,
        &["not installed", "quorate pull smollm2:135m"],
    );
}

fn home_up_fails(args: &[&str], code: i32, words: &[&str]) {
    let mut all = vec!["up", "--listen", "127.0.0.1:0"];
    all.extend(args);
    Home::new().run(&all).fails(code, words);
}
