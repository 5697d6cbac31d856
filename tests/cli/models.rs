//! Verbs about models, without one.

use crate::harness::{Home, Ran};

#[test]
fn nothing_installed_is_an_empty_table() {
    let home = Home::new();
    assert_eq!(
        home.run(&["list"]).works(),
        "NAME    ID    SIZE    MODIFIED\n"
    );
    let page = home.run(&["list", "--json"]).json();
    assert!(page["models"].as_array().unwrap().is_empty());
}

#[test]
fn names_that_do_not_exist_have_neighbours() {
    let home = Home::new();
    home.run(&["show", "smollm2:135n"])
        .fails(4, &["smollm2:135n", "smollm2:135m"]);
    home.run(&["run", "lama3.2:1b", "hi"])
        .fails(4, &["llama3.2:1b"]);
    home.run(&["show", "smollm2:135m"])
        .fails(4, &["not installed", "quorate pull smollm2:135m"]);
    home.run(&["pull", "../etc"]).fails(4, &[]);
    home.run(&["pull", ""]).fails(2, &["empty"]);
}

#[test]
fn offline_nothing_is_fetched() {
    let home = Home::new();
    for args in [
        &["pull", "smollm2:135m"][..],
        &["run", "smollm2:135m", "hi"],
    ] {
        let ran = Ran::of(
            home.command(args)
                .env("QUORATE_OFFLINE", "1")
                .output()
                .unwrap(),
        );
        ran.fails(7, &["smollm2:135m", "QUORATE_OFFLINE"]);
    }
}

#[test]
fn rm_asks_and_without_a_person_refuses() {
    let home = Home::new();
    home.run(&["rm", "smollm2:135m", "--yes"])
        .fails(4, &["not installed", "quorate list"]);
    home.run(&["rm"]).fails(2, &["MODELS"]);
}

#[test]
fn without_a_model_the_default_one_is_asked() {
    let home = Home::new();
    let offline = |args: &[&str]| {
        let mut command = home.command(args);
        Ran::of(command.env("QUORATE_OFFLINE", "1").output().unwrap())
    };
    offline(&["run", "Why is the sky blue?"]).fails(7, &["smollm2:135m", "QUORATE_OFFLINE"]);
    home.run(&["run"])
        .fails(2, &["nothing to ask", "quorate run smollm2:135m"]);
    std::fs::write(
        home.path().join("config.toml"),
        "version = 1\n[models]\ndefault = \"qwen3:0.6b\"\n",
    )
    .unwrap();
    offline(&["run", "Why is the sky blue?", "--seed", "1"]).fails(7, &["qwen3:0.6b"]);
    // One word is a name, and so is a path with spaces in it.
    offline(&["run", "smolm2:135m"]).fails(2, &["nothing to ask"]);
    offline(&["run", "smolm2:135m", "hi"]).fails(4, &["smollm2:135m"]);
    offline(&["run", "./no such.gguf", "hi"]).fails(4, &["no such.gguf"]);
}

#[test]
fn a_context_of_nothing_is_refused_wherever_it_is_asked_for() {
    let home = Home::new();
    home.run(&["run", "--ctx", "0", "smollm2:135m", "hi"])
        .fails(3, &["at least 256", "not 0"]);
    home.run(&["up", "--listen", "127.0.0.1:0", "--ctx", "255"])
        .fails(3, &["at least 256", "not 255"]);
    let mut command = home.command(&["run", "smollm2:135m", "hi"]);
    let ran = Ran::of(command.env("QUORATE_CTX", "0").output().unwrap());
    ran.fails(3, &["at least 256"]);
}

#[test]
fn asking_nothing_is_a_usage_error() {
    let home = Home::new();
    home.run(&["run", "smollm2:135m"])
        .fails(2, &["nothing to ask", "quorate run smollm2:135m"]);
    home.run_with_input(&["run", "smollm2:135m"], "  \n")
        .fails(2, &["nothing to ask"]);
}

#[test]
fn a_schema_that_is_none_is_named_before_anything_is_fetched() {
    let home = Home::new();
    home.run(&["run", "smollm2:135m", "hi", "--format", "/nowhere.json"])
        .fails(2, &["/nowhere.json", "--format"]);
    let bad = home.path().join("bad.json");
    std::fs::write(&bad, "{").unwrap();
    home.run(&[
        "run",
        "smollm2:135m",
        "hi",
        "--format",
        bad.to_str().unwrap(),
    ])
    .fails(2, &["not JSON"]);
}

#[test]
fn doctor_looks_at_everything() {
    let home = Home::new();
    let mut command = home.command(&["doctor", "--json"]);
    command.env("QUORATE_LISTEN", "127.0.0.1:0");
    let page = Ran::of(command.output().unwrap()).json();
    let names: Vec<&str> = page["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in [
        "settings", "home", "lock", "identity", "disk", "cpu", "memory", "gpu", "models", "api",
        "api key", "node", "network", "clock",
    ] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    assert_eq!(page["level"], "warn", "no model yet");
}

#[test]
fn adapters_without_a_model() {
    let home = Home::new();
    let page = home.run(&["adapter", "list", "--json"]).json();
    assert!(page["adapters"].as_array().unwrap().is_empty());
    home.run(&["adapter", "rm", "python"])
        .fails(4, &["no adapter `python`", "quorate adapter list"]);
    home.run(&["adapter", "add", "python", "."])
        .fails(4, &["quorate pull smollm2:135m"]);
}
