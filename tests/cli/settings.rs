//! The settings file: samples that are read and samples that are refused, with the words that help.

use crate::harness::{Home, repository};
use quorate::config::{Overrides, Settings};
use std::fs;

fn samples(kind: &str) -> Vec<(String, String)> {
    let dir = repository("tests/cli/sample-configs").join(kind);
    let mut samples: Vec<(String, String)> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.display().to_string(),
                fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    samples.sort();
    assert!(!samples.is_empty());
    samples
}

#[test]
fn valid_samples_are_read() {
    for (path, text) in samples("valid") {
        Settings::parse(&text, &Overrides::default())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// The first line of each sample holds what the refusal must say: `# message | message or hint`.
#[test]
fn invalid_samples_are_refused_in_so_many_words() {
    for (path, text) in samples("invalid") {
        let expected = text.lines().next().unwrap().trim_start_matches("# ");
        let Err(failure) = Settings::parse(&text, &Overrides::default()) else {
            panic!("{path} is accepted");
        };
        let said = failure.to_string();
        for words in expected.split(" | ") {
            assert!(said.contains(words), "{path}: no {words:?} in {said:?}");
        }
    }
}

#[test]
fn the_example_is_valid_and_its_comments_are_settings() {
    let example = fs::read_to_string(repository("deploy/config.example.toml")).unwrap();
    let defaults = Settings::parse("version = 1", &Overrides::default()).unwrap();
    assert_eq!(
        Settings::parse(&example, &Overrides::default()).unwrap(),
        defaults
    );
    // `#name = value` is a setting that is off; `# words` is prose.
    let on: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all = Settings::parse(&on, &Overrides::default()).unwrap();
    assert_eq!(
        (all.listen, all.keep_alive),
        (defaults.listen, defaults.keep_alive)
    );
    assert_eq!(all.default_model, defaults.default_model);
    for key in [
        "listen",
        "key_file",
        "allowed_hosts",
        "allowed_origins",
        "default",
        "keep_alive",
        "offline",
        "threads",
        "max_memory",
        "ctx",
        "gpu_layers",
        "filter",
        "format",
        "pause_when",
        "hours",
        "share",
        "prefix",
    ] {
        assert!(
            on.contains(&format!("\n{key} = ")),
            "the example does not show {key}"
        );
    }
}

#[test]
fn a_bad_file_stops_every_verb_and_is_named() {
    let home = Home::new();
    let file = home.path().join("config.toml");
    fs::write(&file, "version = 1\n[machine]\nthreds = 2\n").unwrap();
    home.run(&["list"]).fails(
        3,
        &[
            &file.display().to_string(),
            "line 3",
            "machine.threds",
            "did you mean 'machine.threads'?",
        ],
    );
    home.run(&["doctor"]).fails(1, &["one check failed"]);
}

#[test]
fn a_file_that_was_named_must_exist() {
    Home::new()
        .run(&["--config", "/nowhere/quorate.toml", "list"])
        .fails(3, &["/nowhere/quorate.toml"]);
}

#[test]
fn flags_win_over_the_environment_and_it_over_the_file() {
    let home = Home::new();
    fs::write(
        home.path().join("config.toml"),
        "version = 1\napi.listen = \"127.0.0.1:0\"\n",
    )
    .unwrap();
    // Whoever wins is seen by the refusal: these addresses need a key.
    let listen = |env: Option<&str>, flag: Option<&str>| {
        let mut args = vec!["up"];
        args.extend(flag.map(|_| "--listen"));
        args.extend(flag);
        let mut command = home.command(&args);
        if let Some(env) = env {
            command.env("QUORATE_LISTEN", env);
        }
        crate::harness::Ran::of(command.output().unwrap())
    };
    listen(Some("0.0.0.0:1"), None).fails(3, &["0.0.0.0:1"]);
    listen(Some("0.0.0.0:1"), Some("0.0.0.0:2")).fails(3, &["0.0.0.0:2"]);
}

#[test]
fn a_strange_word_in_the_environment_is_named() {
    let home = Home::new();
    let ran = |name: &str, value: &str| {
        crate::harness::Ran::of(home.command(&["list"]).env(name, value).output().unwrap())
    };
    ran("QUORATE_OFFLINE", "maybe").fails(3, &["QUORATE_OFFLINE", "maybe"]);
    ran("QUORATE_THREADS", "two").fails(3, &["QUORATE_THREADS", "unset"]);
    ran("QUORATE_LOG", "[[[").fails(3, &["log filter", "QUORATE_LOG=info"]);
}
