//! Rules that neither the compiler nor clippy knows. Each rule is a test that says what to do, and has a bad sample
//! that it must refuse: a check that cannot fail checks nothing. To change a rule, change its table.

#[path = "tidy/deps.rs"]
mod deps;
#[path = "tidy/source.rs"]
mod source;

use source::{Token, functions, named_under, texts, tokens, without_tests};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The visible top level, decided by the user; dot-files are free, `target` is git-ignored.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "build.rs",
    "deploy",
    "proto",
    "research",
    "src",
    "tests",
];

/// What every module may use: the words and places that the whole program shares. They use only each other and the core.
const GROUND: &[&str] = &[
    "config", "error", "home", "identity", "obs", "openmp", "tls", "wish",
];

/// Module of src/, and the modules above the ground that it may use. Arrows point one way: see src/ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("expert", &[]),
    ("grammar", &[]),
    ("store", &[]),
    ("ledger", &[]),
    ("sign", &[]),
    ("policy", &[]),
    ("net", &["expert", "wire"]),
    (
        "driver",
        &["expert", "grammar", "net", "policy", "store", "wire"],
    ),
    (
        "node",
        &["driver", "expert", "grammar", "net", "store", "wire"],
    ),
    (
        "api",
        &["driver", "expert", "grammar", "mesh", "node", "wire"],
    ),
    (
        "bench",
        &[
            "driver", "expert", "grammar", "mesh", "net", "node", "store", "testnet", "wire",
        ],
    ),
    (
        "mesh",
        &[
            "driver", "expert", "ledger", "net", "node", "policy", "wire",
        ],
    ),
    ("eval", &["expert"]),
    ("testnet", &["mesh"]),
    (
        "app",
        &[
            "api", "bench", "driver", "expert", "grammar", "mesh", "net", "node", "store", "wire",
        ],
    ),
    (
        "cli",
        &[
            "api", "app", "bench", "driver", "eval", "expert", "grammar", "ledger", "mesh", "net",
            "node", "policy", "sign", "store", "testnet", "wire",
        ],
    ),
    ("main", &["app", "cli"]),
];

/// Where people's signatures are made. Only a command that a person types leads there.
const SIGNING: &[&str] = &["sign"];
const MAY_LEAD_TO_SIGNING: &[&str] = &["cli", "main"];

/// Crates, and the only modules that may name them.
const CRATE_HOMES: &[(&[&str], &[&str])] = &[
    (&["prost", "prost_types"], &["wire"]),
    (
        &["tonic", "tonic_health", "tonic_prost", "tonic_reflection"],
        &["api", "net", "wire"],
    ),
    (&["axum", "tower", "hyper"], &["api", "net"]),
    (&["libp2p", "libp2p_tls", "quinn"], &["net"]),
    (&["rustls"], &["net", "tls"]),
    (&["llama_cpp_2", "llama_cpp_sys_2"], &["expert"]),
    (&["llguidance", "toktrie"], &["grammar"]),
    (&["rusqlite"], &["store"]),
    (&["age"], SIGNING),
    (&["cedar_policy"], &["policy"]),
    (&["console"], &["cli"]),
    // obs: its log format is a word of the command line.
    (
        &["clap", "clap_complete", "rustyline"],
        &["cli", "main", "obs"],
    ),
    (&["anyhow"], &["app", "cli", "main"]),
];

/// Files that may hold unsafe code. A new one needs a reason in its review: most need none.
const UNSAFE_FILES: &[&str] = &[
    "src/core/lanes.rs",
    // Loads an adapter beside living contexts, and frees it.
    "src/expert/llama/adapter.rs",
    // Calls llama.cpp's quantiser, for a measurement.
    "src/expert/llama/requantise.rs",
    // One ioctl that attaches a TUN device; no crate of ours knows it.
    "tests/lab/tun.rs",
];

/// Names and roots that the core must not touch; src/core/.clippy.toml has the reasons and the replacements.
const CORE_BANNED_NAMES: &[&str] = &[
    "HashMap",
    "HashSet",
    "Instant",
    "RandomState",
    "SystemTime",
    "UNIX_EPOCH",
    "println",
    "eprintln",
];
const CORE_BANNED_STD: &[&str] = &["env", "fs", "net", "process", "thread"];

const BANNED_MACROS: &[&str] = &["dbg", "todo", "unimplemented"];
const BANNED_MODULES: &[&str] = &[
    "common", "helpers", "manager", "managers", "misc", "util", "utils",
];

/// Written in pieces, so that this file does not find itself.
const BANNED_TEXT: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("crates", ".io/"),
    concat!("static.crates", ".io"),
    concat!("index.c", "rates.io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("registry.npm", "js.org"),
    concat!("deb.deb", "ian.org"),
];

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 600;

// --- the tree -------------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` as (path from the root with slashes, text); what is no text, and what git ignores, is left out.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the checkout can be listed");
            open.extend(
                entries
                    .map(|entry| entry.expect("an entry can be read").path())
                    .filter(|p| !is_ignored(p)),
            );
        } else if let Ok(text) = fs::read_to_string(&path) {
            let from_root = path
                .strip_prefix(root())
                .expect("it was found under the root");
            out.push((from_root.to_string_lossy().replace('\\', "/"), text));
        }
    }
    out.sort();
    out
}

fn is_ignored(path: &Path) -> bool {
    [".git", "target"]
        .iter()
        .any(|name| path == root().join(name))
        || path.ends_with("tests/fuzz/target")
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    let found: Vec<_> = files(folder)
        .into_iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .collect();
    assert!(
        !found.is_empty(),
        "no Rust file under {folder}: the tidy test looks in the wrong place"
    );
    found
}

/// The module of src/ that a file belongs to; `None` for lib.rs and the core.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "core") && inside.ends_with(".rs")).then_some(name)
}

fn code_of(text: &str) -> Vec<Token> {
    without_tests(&tokens(text))
}

fn refuse(found: &[String], what_to_do: &str) {
    assert!(
        found.is_empty(),
        "\n  {}\n{what_to_do}\n",
        found.join("\n  ")
    );
}

fn over_all(files: &[(String, String)], rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    files
        .iter()
        .flat_map(|(path, text)| rule(path, text))
        .collect()
}

// --- rules: each takes a path and a text and returns what is wrong with it --------------------------------------------

fn wrong_arrows(path: &str, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else {
        return Vec::new();
    };
    let row = ARROWS.iter().find(|(name, _)| *name == module);
    if row.is_none() && !GROUND.contains(&module) {
        return vec![format!(
            "{path}: module `{module}` has no row in ARROWS of tests/tidy.rs: decide what it may use"
        )];
    }
    let known = |name: &str| GROUND.contains(&name) || ARROWS.iter().any(|(row, _)| *row == name);
    let allowed = |name: &str| {
        name == module
            || GROUND.contains(&name)
            || row.is_some_and(|(_, uses)| uses.contains(&name))
    };
    let code = code_of(text);
    let mut named = named_under(&code, "crate");
    named.extend(named_under(&code, "quorate"));
    let bad = named.iter().filter(|t| known(&t.text) && !allowed(&t.text));
    bad.map(|t| format!("{path}:{}: `{module}` uses `{}`", t.line, t.text))
        .collect()
}

/// Everything that a module reaches over the arrows.
fn reaches(module: &str, arrows: &[(&str, &[&str])]) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![module.to_owned()];
    while let Some(next) = open.pop() {
        let uses = arrows.iter().filter(|(name, _)| *name == next);
        for name in uses.flat_map(|(_, uses)| uses.iter()) {
            if reached.insert((*name).to_owned()) {
                open.push((*name).to_owned());
            }
        }
    }
    reached
}

fn ways_to_signing(arrows: &[(&str, &[&str])]) -> Vec<String> {
    let others = arrows.iter().map(|(name, _)| *name);
    let others = others.filter(|n| !SIGNING.contains(n) && !MAY_LEAD_TO_SIGNING.contains(n));
    let leads = |name: &&str| {
        reaches(name, arrows)
            .iter()
            .any(|r| SIGNING.contains(&r.as_str()))
    };
    others
        .filter(leads)
        .map(|name| format!("`{name}` leads to the code that signs for people"))
        .collect()
}

/// The name without which no signature is made.
fn signing_names(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let named = code.iter().filter(|t| t.text == "SigningKey");
    named
        .map(|t| format!("{path}:{}: `{}` outside of {SIGNING:?}", t.line, t.text))
        .collect()
}

fn foreign_crates(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    let code = code_of(text);
    let mut out = Vec::new();
    for (crates, homes) in CRATE_HOMES {
        if module.is_some_and(|module| homes.contains(&module)) {
            continue;
        }
        let heads = |pair: &[Token]| {
            crates.contains(&pair[0].text.as_str()) && matches!(&*pair[1].text, "::" | ";")
        };
        for pair in code.windows(2).filter(|pair| heads(pair)) {
            out.push(format!(
                "{path}:{}: `{}` may only be named in {homes:?}",
                pair[0].line, pair[0].text
            ));
        }
    }
    out
}

fn core_impurities(path: &str, text: &str) -> Vec<String> {
    let all = tokens(text);
    let names = all
        .iter()
        .filter(|t| CORE_BANNED_NAMES.contains(&t.text.as_str()));
    let std_roots = named_under(&all, "std");
    let roots = std_roots
        .iter()
        .filter(|t| CORE_BANNED_STD.contains(&t.text.as_str()));
    names
        .chain(roots)
        .map(|t| format!("{path}:{}: `{}` in the core", t.line, t.text))
        .collect()
}

fn banned_code(path: &str, text: &str) -> Vec<String> {
    let all = tokens(text);
    let mut out = Vec::new();
    for at in 0..all.len() {
        let (word, line) = (all[at].text.as_str(), all[at].line);
        if BANNED_MACROS.contains(&word) && texts(&all[at + 1..], &["!"]) {
            out.push(format!("{path}:{line}: {word}! is not finished work"));
        }
        if word == "mod"
            && all
                .get(at + 1)
                .is_some_and(|name| BANNED_MODULES.contains(&name.text.as_str()))
        {
            out.push(format!(
                "{path}:{line}: module `{}` says nothing about what it holds",
                all[at + 1].text
            ));
        }
    }
    out
}

fn banned_text(path: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for banned in BANNED_TEXT.iter().filter(|banned| line.contains(**banned)) {
            out.push(format!("{path}:{}: `{banned}`", number + 1));
        }
    }
    out
}

fn bare_unsafe(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = Vec::new();
    for token in tokens(text).iter().filter(|t| t.text == "unsafe") {
        // The reason may stand above a statement that the formatter has broken over a few lines.
        let above = &lines[token.line.saturating_sub(8)..token.line];
        if !UNSAFE_FILES.contains(&path) {
            out.push(format!(
                "{path}:{}: unsafe code in a file that is not in UNSAFE_FILES",
                token.line
            ));
        } else if !above
            .iter()
            .any(|line| line.contains("// SAFETY:") || line.contains("/// # Safety"))
        {
            out.push(format!(
                "{path}:{}: no `// SAFETY:` comment above this unsafe",
                token.line
            ));
        }
    }
    out
}

fn unlinked_decisions(names: &[String], documents: &str) -> Vec<String> {
    let mut numbers = BTreeSet::new();
    let mut out = Vec::new();
    for name in names {
        let number: String = name.chars().take_while(char::is_ascii_digit).collect();
        if number.is_empty() {
            out.push(format!("research/decisions/{name} has no number"));
        } else if !numbers.insert(number) {
            out.push(format!("research/decisions/{name}: its number is taken"));
        }
        if !documents.contains(name.as_str()) {
            out.push(format!(
                "research/decisions/{name} is linked from neither src/ARCHITECTURE.md nor README.md"
            ));
        }
    }
    out
}

fn strangers(names: &[String]) -> Vec<String> {
    let visible = names
        .iter()
        .filter(|name| !name.starts_with('.') && *name != "target");
    visible
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()))
        .cloned()
        .collect()
}

fn too_long(path: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES {
        out.push(format!(
            "{path}: {lines} lines (split at {FILE_LINES}, or say why not)"
        ));
    }
    for (name, line, lines) in functions(&tokens(text))
        .into_iter()
        .filter(|(_, _, lines)| *lines > FUNCTION_LINES)
    {
        out.push(format!(
            "{path}:{line}: fn {name} has {lines} lines (more than {FUNCTION_LINES})"
        ));
    }
    out
}

// --- the rules on this tree ---------------------------------------------------------------------------------------------

#[test]
fn modules_use_only_what_the_arrows_allow() {
    refuse(
        &over_all(&rust_files("src"), wrong_arrows),
        "Modules beside each other meet only through quorate-core's types; what both need belongs there or into a ground \
         module. If the design itself changed, change ARROWS in tests/tidy.rs and src/ARCHITECTURE.md with it.",
    );
}

/// The model's words pass through the loop, the API and the swarm. None of them can reach a key of
/// people, whatever the words are.
#[test]
fn the_model_side_has_no_path_to_signing() {
    // Made-up people of tests and of the simulator, whose keys are a number repeated.
    let made_up = ["tests.rs", "people.rs", "machines.rs"];
    let mut all = rust_files("src");
    all.retain(|(path, _)| {
        !made_up.iter().any(|end| path.ends_with(end)) && !path.starts_with("src/core/sim/")
    });
    all.retain(|(path, _)| module_of(path).is_none_or(|module| !SIGNING.contains(&module)));
    let mut found = ways_to_signing(ARROWS);
    found.extend(over_all(&all, signing_names));
    refuse(
        &found,
        "Signatures of people are made in src/sign, which only a command that a person types may use.",
    );
}

#[test]
fn crates_stay_in_their_modules() {
    refuse(
        &over_all(&rust_files("src"), foreign_crates),
        "Turn the crate's types into our own at the edge of its module (CRATE_HOMES in tests/tidy.rs).",
    );
}

#[test]
fn the_core_is_pure() {
    refuse(
        &over_all(&rust_files("src/core"), core_impurities),
        "Time, randomness, settings and order are inputs of the core; effects are its outputs. src/core/.clippy.toml says \
         what to use instead.",
    );
}

#[test]
fn no_unfinished_or_nameless_code() {
    let mut all = rust_files("src");
    all.extend(rust_files("tests"));
    let mut found = over_all(&all, banned_code);
    let stem = |path: &str| {
        Path::new(path)
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let nameless = all
        .iter()
        .filter(|(path, _)| stem(path).is_some_and(|s| BANNED_MODULES.contains(&s.as_str())));
    found.extend(
        nameless
            .map(|(path, _)| format!("{path}: a file name that says nothing about what it holds")),
    );
    refuse(
        &found,
        "Finish it or leave it out; name a module after what it holds.",
    );
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let free = ["Cargo.lock", "LICENSE"];
    let all: Vec<_> = files("")
        .into_iter()
        .filter(|(path, _)| !free.contains(&path.as_str()))
        .collect();
    refuse(
        &over_all(&all, banned_text),
        "Name packages, not hosts, and paths from the root of the repository or from $HOME.",
    );
}

#[test]
fn unsafe_code_is_listed_and_reasoned() {
    let mut all = rust_files("src");
    all.extend(rust_files("tests"));
    refuse(
        &over_all(&all, bare_unsafe),
        "Do without it, or put the file on UNSAFE_FILES in tests/tidy.rs and write `// SAFETY: why this holds` above it.",
    );
}

#[test]
fn the_top_level_is_as_decided() {
    let entries = fs::read_dir(root()).expect("the checkout can be listed");
    let names: Vec<String> = entries
        .map(|e| {
            e.expect("an entry can be read")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    refuse(
        &strangers(&names),
        "The visible top level is fixed: put it under src, deploy, tests or research, or hide it.",
    );
}

#[test]
fn decisions_are_numbered_and_linked() {
    let decisions = root().join("research/decisions");
    let Ok(entries) = fs::read_dir(&decisions) else {
        return;
    };
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    let is_page = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "md");
    let names: Vec<String> = paths
        .filter(is_page)
        .filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let mut documents = String::new();
    for page in ["src/ARCHITECTURE.md", "README.md"] {
        documents.push_str(&fs::read_to_string(root().join(page)).unwrap_or_default());
    }
    refuse(
        &unlinked_decisions(&names, &documents),
        "Name it NNNN-title.md with the next number, and link it.",
    );
}

#[test]
fn lengths_only_warn() {
    let mut all = rust_files("src");
    all.extend(rust_files("tests"));
    let mut out = String::new();
    for finding in over_all(&all, too_long) {
        writeln!(out, "warning: {finding}").expect("a string takes everything");
    }
    print!("{out}");
}

// --- each rule can fail -------------------------------------------------------------------------------------------------

#[test]
fn the_rules_refuse_bad_samples() {
    let bad = |found: Vec<String>, n: usize| assert_eq!(found.len(), n, "{found:#?}");
    bad(
        wrong_arrows(
            "src/expert/llama.rs",
            "use crate::{error::Kind, store, expert::Expert};",
        ),
        1,
    );
    bad(
        wrong_arrows(
            "src/store/mod.rs",
            "fn f() { crate::api::go() } // crate::cli",
        ),
        1,
    );
    bad(wrong_arrows("src/error.rs", "use crate::driver::Node;"), 1);
    bad(wrong_arrows("src/nobody_knows.rs", ""), 1);
    bad(
        wrong_arrows(
            "src/expert/llama.rs",
            "#[cfg(test)] mod tests { use crate::store; }",
        ),
        0,
    );

    bad(
        ways_to_signing(&[
            ("sign", &[]),
            ("net", &["sign"]),
            ("driver", &["net"]),
            ("cli", &["sign"]),
        ]),
        2,
    );
    bad(
        signing_names(
            "src/core/x.rs",
            "use ed25519_dalek::{Signer, SigningKey}; // SigningKey",
        ),
        1,
    );

    bad(
        foreign_crates(
            "src/api/http.rs",
            "use prost::Message; let x = clap::Parser; anyhow::bail!(y);",
        ),
        3,
    );
    bad(
        foreign_crates(
            "src/expert/llama.rs",
            "use llama_cpp_2::model; let prost = 1; x.clap();",
        ),
        0,
    );
    bad(foreign_crates("src/core/lib.rs", "use anyhow;"), 1);

    bad(
        core_impurities(
            "src/core/ids.rs",
            "use std::{fs, fmt}; let x: HashMap<u8, u8>; Instant::now()",
        ),
        3,
    );
    bad(
        core_impurities(
            "src/core/ids.rs",
            "use std::collections::BTreeMap; // HashMap\nlet env = 1;",
        ),
        0,
    );

    bad(
        banned_code(
            "src/a.rs",
            concat!(
                "mod uti",
                "ls; to",
                "do!(); db",
                "g!(x); let todo = \"todo!\";"
            ),
        ),
        3,
    );
    bad(banned_text("a", &BANNED_TEXT.concat()), BANNED_TEXT.len());
    bad(
        bare_unsafe("src/expert/llama/adapter.rs", "unsafe { x() }"),
        1,
    );
    bad(
        bare_unsafe(
            "src/expert/llama/adapter.rs",
            "// SAFETY: x\nunsafe { x() } // and unsafe words",
        ),
        0,
    );
    bad(
        bare_unsafe("src/store/mod.rs", "// SAFETY: x\nunsafe { x() }"),
        1,
    );

    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    bad(
        unlinked_decisions(
            &names(&["0001-a.md", "0001-b.md", "c.md"]),
            "0001-a.md 0001-b.md c.md",
        ),
        2,
    );
    bad(unlinked_decisions(&names(&["0001-a.md"]), ""), 1);
    bad(strangers(&names(&[".ci", "src", "target", "notes.txt"])), 1);
    let long = format!("fn f() {{\n{}}}", "\n".repeat(FILE_LINES));
    bad(too_long("src/a.rs", &long), 2);
}
