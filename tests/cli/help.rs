//! Words: help, usage, completions.

use crate::harness::{Home, Ran, bare};

#[test]
fn no_argument_prints_help_and_touches_nothing() {
    let home = Home::new();
    let ran = home.run(&[]);
    let help = ran.works();
    for verb in [
        "up",
        "run",
        "replay",
        "pull",
        "list",
        "show",
        "rm",
        "ps",
        "stop",
        "status",
        "mesh",
        "invite",
        "join",
        "leave",
        "peers",
        "expert",
        "pause",
        "resume",
        "testnet",
        "gov",
        "doctor",
        "bench",
        "eval",
        "sim",
        "completions",
    ] {
        assert!(
            help.contains(&format!("\n  {verb} ")),
            "no {verb} in {help}"
        );
    }
    assert!(help.contains("Exit codes:") && help.contains("QUORATE_HOME"));
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "the home is as it was"
    );
    assert!(!help.contains('\x1b'), "no escape codes in a pipe");
}

#[test]
fn help_works_without_any_home() {
    let ran = Ran::of(bare(&["run", "--help"]).output().unwrap());
    let help = ran.works();
    for flag in [
        "--temperature",
        "--seed",
        "--system",
        "--format",
        "--verbose",
        "--ctx",
    ] {
        assert!(help.contains(flag), "no {flag}");
    }
}

#[test]
fn a_wrong_word_is_a_usage_error_that_guesses() {
    Home::new().run(&["lst"]).fails(2, &["lst", "list"]);
    Home::new()
        .run(&["up", "--listne", "1"])
        .fails(2, &["--listen"]);
    Home::new()
        .run(&["up", "--keep-alive", "a while"])
        .fails(2, &["5m"]);
    Home::new()
        .run(&["up", "--max-memory", "lots"])
        .fails(2, &["8GB"]);
    Home::new().run(&["pull"]).fails(2, &["MODEL"]);
}

#[test]
fn serve_is_another_name_of_up_and_ls_of_list() {
    assert!(
        Home::new()
            .run(&["serve", "--help"])
            .works()
            .contains("--listen")
    );
    assert!(Home::new().run(&["ls"]).works().starts_with("NAME"));
}

#[test]
fn pull_lists_the_short_names() {
    let ran = Home::new().run(&["pull", "--help"]);
    for name in ["smollm2:135m", "98 MB", "llama3.2:3b", "org/repo:QUANT"] {
        assert!(ran.works().contains(name), "no {name}");
    }
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = Home::new().run(&["completions", shell]);
        assert!(ran.works().contains("doctor"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    use std::process::Stdio;
    let mut child = Home::new()
        .command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}
