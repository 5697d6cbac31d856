//! `quorate eval`: what it refuses, and a small evaluation with the default model.

use crate::harness::Home;
use std::fs;

const TABLES: &str = "
[[expert]]
name = \"base\"
model = \"smollm2:135m\"

[[expert]]
name = \"sea\"
model = \"smollm2:135m\"
prefix_file = \"sea.txt\"
";

/// A folder with two domains, too short to be mixed, and a list of two experts beside it.
fn prepare(home: &Home) {
    let docs = home.path().join("docs");
    for (domain, text) in [
        (
            "code",
            "fn main() { let total: u32 = (0..10).sum(); println!(\"{total}\"); }\n",
        ),
        (
            "sea",
            "The captain looked at the grey water and said that the storm was not over yet.\n",
        ),
    ] {
        fs::create_dir_all(docs.join(domain)).unwrap();
        fs::write(docs.join(domain).join("a.txt"), text.repeat(2)).unwrap();
    }
    fs::write(docs.join("sea/latin1.txt"), b"caf\xe9").unwrap();
    fs::write(home.path().join("experts.toml"), TABLES).unwrap();
    let sea = "Ships, ropes and tides; the sailors sang of storms and of the harbour.\n\n";
    fs::write(home.path().join("sea.txt"), sea).unwrap();
}

fn flags<'a>(docs: &'a str, experts: &'a str) -> Vec<&'a str> {
    vec![
        "eval",
        "--docs",
        docs,
        "--experts",
        experts,
        "--quick",
        "--json",
    ]
}

#[test]
fn what_is_missing_is_named() {
    let home = Home::new();
    prepare(&home);
    let path = |name: &str| home.path().join(name).display().to_string();
    let (docs, list) = (path("docs"), path("experts.toml"));
    home.run(&["eval", "--docs", &docs])
        .fails(2, &["no expert to evaluate", "--experts FILE"]);
    home.run(&flags(&docs, &path("nowhere.toml")))
        .fails(3, &["nowhere.toml"]);
    home.run(&flags(&docs, &list)).fails(4, &["smollm2:135m"]);
    fs::write(&list, "[[expert]]\nname = \"a\"\n").unwrap();
    home.run(&flags(&docs, &list))
        .fails(3, &["experts.toml", "model"]);
}

#[test]
fn real_a_small_evaluation_and_the_same_again() {
    let Some(home) = Home::with_model() else {
        return;
    };
    prepare(&home);
    let path = |name: &str| home.path().join(name).display().to_string();
    let (docs, list, plot) = (path("docs"), path("experts.toml"), path("eval.svg"));
    let mut args = flags(&docs, &list);
    args.extend(["--plot", &plot]);
    let first = home.run(&args);
    let page = first.json();
    assert_eq!(page["guarantee_violations"], 0);
    assert_eq!(page["documents"]["skipped"][0]["why"], "not_utf8");
    let rows = page["rows"].as_array().unwrap();
    let nats = |domain: &str, strategy: &str, k: u64| {
        let row = |r: &&serde_json::Value| {
            r["domain"] == domain && r["strategy"] == strategy && r["k"] == k
        };
        rows.iter().find(row).unwrap()["nats"].as_f64().unwrap()
    };
    // The second expert has read of the sea.
    assert!(nats("sea", "oracle", 1) < nats("sea", "base", 1));
    assert!(nats("sea", "meta", 2) < nats("sea", "base", 1));
    assert!(page["tv"]["mean"].as_f64().unwrap() > 0.0);
    assert!((0.0..=1.0).contains(&page["alpha"]["mean"].as_f64().unwrap()));
    assert!(fs::read_to_string(&plot).unwrap().starts_with("<svg"));
    // From what was kept, to the bit.
    assert_eq!(home.run(&args).out, first.out);

    fs::remove_dir_all(&docs).unwrap();
    fs::create_dir(&docs).unwrap();
    fs::write(home.path().join("docs/empty"), "").unwrap();
    home.run(&flags(&docs, &list))
        .fails(4, &["no text that can be evaluated", "1 files left out"]);
}
