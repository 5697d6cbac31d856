//! With the default model: whole answers, through both ways to ask.

use crate::harness::{Home, Ran};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

const MODEL: &str = "smollm2:135m";

/// Short, and the same every time.
const GREEDY: [&str; 4] = ["--temperature", "0", "--max-tokens", "12"];

fn ask<'a>(prompt: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", MODEL];
    args.extend(flags);
    args.push(prompt);
    args
}

#[test]
fn real_one_question_one_answer() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let ran = home.run(&ask("Say hello.", &GREEDY));
    let answer = ran.works();
    assert!(
        !answer.trim().is_empty() && answer.ends_with('\n'),
        "{ran:?}"
    );
    assert!(!answer.contains('\x1b') && ran.err.is_empty(), "{ran:?}");
    assert!(!home.path().join("node.lock").exists(), "it takes no lock");
}

#[test]
fn real_a_text_alone_is_asked_of_the_default_model() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let named = home.run(&ask("Say hello.", &GREEDY)).works().to_owned();
    let mut args = vec!["run"];
    args.extend(GREEDY);
    args.push("Say hello.");
    assert_eq!(home.run(&args).works(), named);
}

#[test]
fn real_the_same_seed_says_the_same_and_another_does_not() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let say = |seed| {
        let flags = ["--seed", seed, "--temperature", "1", "--max-tokens", "16"];
        home.run(&ask("Tell me a story.", &flags))
            .works()
            .to_owned()
    };
    assert_eq!(say("7"), say("7"));
    assert_ne!(say("7"), say("8"));
}

#[test]
fn real_a_pipe_is_the_prompt_or_follows_it() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let mut args = vec!["run", MODEL];
    args.extend(GREEDY);
    let direct = home.run(&ask("Say hello.", &GREEDY)).works().to_owned();
    assert_eq!(home.run_with_input(&args, "Say hello.").works(), direct);
    args.push("Repeat this:");
    assert!(
        !home
            .run_with_input(&args, "a b c\n")
            .works()
            .trim()
            .is_empty()
    );
}

#[test]
fn real_verbose_prints_rates_beside_the_answer() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let mut flags = GREEDY.to_vec();
    flags.push("--verbose");
    let ran = home.run(&ask("Say hello.", &flags));
    ran.works();
    for row in [
        "load",
        "first token",
        "prompt",
        "answer",
        "tokens/s",
        "seed",
        "law",
        "local",
    ] {
        assert!(ran.err.contains(row), "no {row} in {ran:?}");
    }
}

#[test]
fn real_a_node_that_is_up_answers_instead_and_says_the_same() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let alone = home.run(&ask("Say hello.", &GREEDY)).works().to_owned();
    let _up = home.up(&[]);
    assert_eq!(home.run(&ask("Say hello.", &GREEDY)).works(), alone);
    let loaded = home.run(&["ps", "--json"]).json();
    assert_eq!(loaded["models"][0]["name"], MODEL, "{loaded}");
    assert!(home.run(&["ps"]).works().contains(MODEL));
    assert!(home.run(&["stop", MODEL]).works().contains(MODEL));
    let status = home.run(&["status", "--json"]).json();
    assert!(status["generated_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn real_json_is_json() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let flags = [
        "--format",
        "json",
        "--temperature",
        "0",
        "--max-tokens",
        "200",
    ];
    let ran = home.run(&ask(
        "Describe Paris as JSON with a name and a country.",
        &flags,
    ));
    let value: Value = serde_json::from_str(ran.works()).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert!(value.is_object());
}

#[test]
fn real_what_does_not_fit_is_refused_with_the_sums() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let ran = home.run(&ask("hi", &["--max-memory", "50MB"]));
    ran.fails(6, &["weights 98 MB", "max_memory 50 MB", "smaller"]);
    let long = "word ".repeat(400);
    home.run(&ask(&long, &["--ctx", "256"]))
        .fails(2, &["256", "--ctx"]);
}

#[test]
fn real_ctrl_c_ends_a_question() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let mut child = home
        .command(&ask("Count to ten thousand.", &["--max-tokens", "4000"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let began = Instant::now();
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-s", "INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert!(began.elapsed() < Duration::from_secs(2));
    ran.fails(130, &["stopped"]);
}

#[test]
fn real_kill_9_during_an_answer_leaves_nothing_behind() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let mut up = home.up(&[]);
    let mut client = home
        .command(&ask("Count to ten thousand.", &["--max-tokens", "4000"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 1];
    std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut first).unwrap();
    up.kill_9();
    Ran::of(client.wait_with_output().unwrap()).fails(1, &["stopped answering"]);
    let _next = home.up(&[]);
    home.run(&ask("Say hello.", &GREEDY)).works();
}

/// Through a pseudo-terminal, which `script` makes where it is installed.
#[test]
fn real_a_conversation_with_commands() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let quorate = env!("CARGO_BIN_EXE_quorate");
    let inner = format!("{quorate} run {MODEL} --temperature 0 --max-tokens 8");
    let mut command = std::process::Command::new("script");
    command
        .args(["-qec", &inner, "/dev/null"])
        .env("QUORATE_HOME", home.path())
        .env("TERM", "dumb");
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        eprintln!("skipped: there is no `script`");
        return;
    };
    let typed = "/set seed 7\nSay hello.\n/show\n/nonsense\n\"\"\"two\nlines\"\"\"\n/clear\n/bye\n";
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    for words in [
        "/help",
        "seed            7",
        "no command /nonsense",
        "forgotten",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(home.path().join("history").is_file());
}
