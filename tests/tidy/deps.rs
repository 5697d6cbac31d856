//! What we depend on: licences, sources and bans of .cargo/deny.toml, where cargo-deny itself is not at hand,
//! and the short list of the core.

use std::collections::BTreeSet;
use std::process::Command;

/// All that the pure core may stand on.
const CORE_DEPENDENCIES: &[&str] = &["blake3", "ed25519-dalek", "libm", "thiserror"];
const CORE_DEV_DEPENDENCIES: &[&str] = &["proptest"];

struct Package {
    name: String,
    license: Option<String>,
    source: Option<String>,
}

struct Policy {
    licences: Vec<String>,
    banned: Vec<String>,
}

fn policy() -> Policy {
    let path = super::root().join(".cargo/deny.toml");
    let text = std::fs::read_to_string(path).expect("the policy is .cargo/deny.toml");
    let table: toml::Table = text.parse().expect(".cargo/deny.toml is TOML");
    let strings = |list: &toml::Value| -> Vec<String> {
        let entries = list.as_array().expect("a list").iter();
        entries
            .map(|v| {
                v.get("crate")
                    .unwrap_or(v)
                    .as_str()
                    .expect("a name")
                    .to_owned()
            })
            .collect()
    };
    Policy {
        licences: strings(&table["licenses"]["allow"]),
        banned: strings(&table["bans"]["deny"]),
    }
}

/// What cargo prints. Asks the network only if a crate was never fetched.
fn cargo(args: &[&str]) -> String {
    let run = |more: &[&str]| {
        Command::new(env!("CARGO"))
            .args(args)
            .args(["--locked", "--all-features"])
            .args(more)
            .current_dir(super::root())
            .output()
            .expect("cargo starts")
    };
    let mut output = run(&["--offline"]);
    if !output.status.success() {
        output = run(&[]);
    }
    assert!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// Every package that is compiled into anything of ours, on any system. Cargo.lock, and with it the
/// metadata, also names what optional features of others would need, and nobody turned on.
fn packages() -> Vec<Package> {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--target=all",
        "--edges=all",
        "--prefix=none",
        "--format={p}",
    ]);
    let name = |line: &str| line.split(' ').next().map(str::to_owned);
    let used: BTreeSet<String> = tree.lines().filter_map(name).collect();
    let json: serde_json::Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1"]))
        .expect("cargo metadata prints JSON");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let list = json["packages"]
        .as_array()
        .expect("a list of packages")
        .iter();
    list.map(|p| Package {
        name: text(&p["name"]).expect("a package has a name"),
        license: text(&p["license"]),
        source: text(&p["source"]),
    })
    .filter(|package| used.contains(&package.name))
    .collect()
}

fn refused_packages(packages: &[Package], policy: &Policy) -> Vec<String> {
    let mut out = Vec::new();
    for Package {
        name,
        license,
        source,
    } in packages
    {
        if policy.banned.contains(name) {
            out.push(format!("{name}: banned"));
        }
        if source
            .as_ref()
            .is_some_and(|source| !source.starts_with("registry+"))
        {
            out.push(format!(
                "{name}: comes from {source:?}, not from the registry"
            ));
        }
        match license {
            Some(license) if licence_allowed(license, &policy.licences) => {}
            _ => out.push(format!("{name}: licence {license:?} is not on the list")),
        }
    }
    out
}

/// An SPDX expression, `/` in old manifests meaning OR: true if one of its alternatives consists of allowed licences.
fn licence_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let verdict = any_of(&words, &mut at, allowed);
    verdict && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut verdict = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        verdict |= all_of(words, at, allowed);
    }
    verdict
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut verdict = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        verdict &= one(words, at, allowed);
    }
    verdict
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let verdict = any_of(words, at, allowed);
        *at += 1;
        return verdict;
    }
    let mut licence = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence)
}

/// The dependencies of a manifest that are not on the list of the core.
fn core_strangers(manifest: &str) -> Vec<String> {
    let table: toml::Table = manifest.parse().expect("src/core/Cargo.toml is TOML");
    let mut out = Vec::new();
    let mut look = |section: &str, allowed: &[&str]| {
        let names: BTreeSet<&String> = table
            .get(section)
            .and_then(toml::Value::as_table)
            .map(|t| t.keys().collect())
            .unwrap_or_default();
        out.extend(
            names
                .into_iter()
                .filter(|n| !allowed.contains(&n.as_str()))
                .map(|n| format!("{section}: {n}")),
        );
    };
    look("dependencies", CORE_DEPENDENCIES);
    look("dev-dependencies", CORE_DEV_DEPENDENCIES);
    look("build-dependencies", &[]);
    look("target", &[]);
    out
}

#[test]
fn dependencies_keep_to_the_policy() {
    super::refuse(
        &refused_packages(&packages(), &policy()),
        "Take another crate, or change .cargo/deny.toml and say why in the commit. `cargo tree --invert NAME` shows who wants it.",
    );
}

#[test]
fn the_core_stands_on_four_crates() {
    let manifest = std::fs::read_to_string(super::root().join("src/core/Cargo.toml"))
        .expect("the core has a manifest");
    super::refuse(
        &core_strangers(&manifest),
        "The core builds in seconds and touches nothing: do this work outside and hand its result in, or argue for the \
         crate in research/decisions and add it to CORE_DEPENDENCIES in tests/tidy/deps.rs.",
    );
}

#[test]
fn the_dependency_rules_refuse_bad_samples() {
    let allowed = |expression| {
        licence_allowed(
            expression,
            &["MIT".to_owned(), "A WITH x".to_owned(), "Z".to_owned()],
        )
    };
    for good in [
        "MIT",
        "GPL OR MIT",
        "GPL/MIT",
        "MIT AND Z",
        "(GPL OR MIT) AND A WITH x",
        "MIT AND (Z OR GPL)",
    ] {
        assert!(allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL",
        "MIT AND GPL",
        "A",
        "MIT WITH y",
        "(GPL OR MIT) AND GPL",
        "MIT Z",
    ] {
        assert!(!allowed(bad), "{bad}");
    }
    let package = |name: &str, license: Option<&str>, source: Option<&str>| Package {
        name: name.to_owned(),
        license: license.map(str::to_owned),
        source: source.map(str::to_owned),
    };
    let samples = [
        package("openssl", Some("MIT"), Some("registry+x")),
        package("fork", Some("MIT"), Some("git+x")),
        package("secret", None, Some("registry+x")),
        package("fine", Some("MIT OR Apache-2.0"), Some("registry+x")),
    ];
    assert_eq!(refused_packages(&samples, &policy()).len(), 3);
    assert_eq!(
        core_strangers("[dependencies]\nlibm='1'\ntokio='1'\n[build-dependencies]\ncc='1'").len(),
        2
    );
}
