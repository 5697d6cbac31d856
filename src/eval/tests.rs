//! Stubs on made-up texts: the whole way, without a model.

use super::*;
use crate::expert::stub::{StubExpert, StubOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A text of printable nonsense.
fn nonsense(letters: usize, salt: u32) -> String {
    let letter = |n: usize| {
        let mixed = (n as u32 + salt).wrapping_mul(0x9E37_79B1) >> 16;
        char::from(b' ' + (mixed % 95) as u8)
    };
    (0..letters).map(letter).collect()
}

fn texts(root: &Path) {
    for (domain, salt) in [("logs", 1), ("poems", 1000)] {
        let folder = root.join(domain).join("deep");
        std::fs::create_dir_all(&folder).unwrap();
        for nth in 0..3 {
            let text = nonsense(300, salt + nth * 100_000);
            std::fs::write(folder.join(format!("{nth}.txt")), text).unwrap();
        }
    }
    std::fs::write(root.join("logs/empty.txt"), "").unwrap();
    std::fs::write(root.join("logs/one.txt"), "x").unwrap();
    std::fs::write(root.join("poems/latin1.txt"), b"caf\xe9").unwrap();
    std::fs::write(root.join("poems/.hidden"), "not looked at").unwrap();
    std::fs::write(root.join("short.txt"), "ab").unwrap();
}

pub(super) fn source(name: &str, loads: &Arc<AtomicUsize>) -> Source {
    let (model, loads) = (name.to_owned(), loads.clone());
    Source {
        name: name.to_owned(),
        id: ExpertId(*blake3::hash(name.as_bytes()).as_bytes()),
        load: Box::new(move |events| {
            loads.fetch_add(1, Ordering::SeqCst);
            let options = StubOptions {
                model: model.clone(),
                ..StubOptions::default()
            };
            StubExpert::spawn(options, events).map_err(|error| error.to_string())
        }),
        profile: None,
    }
}

fn options(docs: &Path, shelf: &Path, loads: &Arc<AtomicUsize>) -> Options {
    Options {
        docs: docs.to_owned(),
        experts: ["a", "b", "c"].map(|name| source(name, loads)).into(),
        against: Some(source("d", loads)),
        domains: Vec::new(),
        amounts: Amounts::QUICK,
        seed: SEED,
        quick: true,
        shelf: shelf.to_owned(),
        progress: Box::new(|_, _, _| {}),
    }
}

#[test]
fn the_same_numbers_again_from_what_was_kept() {
    let home = tempfile::tempdir().unwrap();
    let (docs, shelf) = (home.path().join("docs"), home.path().join("shelf"));
    texts(&docs);
    let loads = Arc::new(AtomicUsize::new(0));
    let options = options(&docs, &shelf, &loads);
    let report = eval(&options).unwrap();
    let first = loads.swap(0, Ordering::SeqCst);
    // The tokeniser, three experts and the one outside, three again for whole distributions.
    assert_eq!(first, 1 + 4 + 3);
    let json = |report: &Report| serde_json::to_string(report).unwrap();
    assert_eq!(json(&eval(&options).unwrap()), json(&report));
    assert_eq!(loads.swap(0, Ordering::SeqCst), 1, "the tokeniser alone");

    // One of what was kept is damaged: it is asked for again, and nothing else is.
    let of_a = shelf.join(&options.experts[0].id.to_string()[..32]);
    let one = std::fs::read_dir(&of_a).unwrap().next().unwrap().unwrap();
    std::fs::write(one.path(), "torn").unwrap();
    assert_eq!(json(&eval(&options).unwrap()), json(&report));
    assert_eq!(loads.load(Ordering::SeqCst), 2);
}

#[test]
fn the_report_has_what_the_protocol_says() {
    let home = tempfile::tempdir().unwrap();
    let docs = home.path().join("docs");
    texts(&docs);
    let loads = Arc::default();
    let report = eval(&options(&docs, &home.path().join("shelf"), &loads)).unwrap();
    assert_eq!(report.guarantee_violations, 0);
    // Two texts of each domain, and the short one beside them.
    assert_eq!((report.documents.mixed, report.documents.pure), (12, 5));
    let why: Vec<(&str, Why)> = report
        .documents
        .skipped
        .iter()
        .map(|s| (s.file.as_str(), s.why))
        .collect();
    let expected = [
        ("logs/empty.txt", Why::Empty),
        ("logs/one.txt", Why::OneToken),
        ("poems/latin1.txt", Why::NotUtf8),
    ];
    assert_eq!(why, expected);
    let find = |set: &str, domain: &str, strategy: &str, k: usize| {
        let mut rows = report.rows.iter();
        let row =
            rows.find(|r| (r.set, r.strategy, r.k) == (set, strategy, k) && r.domain == domain);
        row.unwrap_or_else(|| panic!("{set} {domain} {strategy} {k}"))
    };
    for strategy in ["uniform", "single", "bayes", "share", "convex", "meta"] {
        for k in [1, 2, 3] {
            for domain in ["pure", "logs", "poems", "docs"] {
                let row = find("pure", domain, strategy, k);
                assert!(row.ci[0] <= row.nats && row.nats <= row.ci[1], "{row:?}");
            }
            find("mixed", "mixed", strategy, k);
        }
    }
    let oracle = find("mixed", "mixed", "oracle", 1);
    assert_eq!(oracle.vs_oracle.ppl_ratio, 1.0);
    for single in ["base", "prompt"] {
        assert!(find("mixed", "mixed", single, 1).nats >= oracle.nats);
    }
    find("mixed", "mixed", "against", 1);
    assert_eq!(report.lags.len(), 6, "three lags on either set");
    assert_eq!(
        report.joining.len(),
        9,
        "three meshes, three lengths of prompts"
    );
    let mixed = report.gain_vs_best_single.mixed.unwrap();
    assert!(mixed.ci[0] <= mixed.ppl_ratio && mixed.ppl_ratio <= mixed.ci[1]);
    assert!(0.0 < report.tv.min && report.tv.max < 1.0 && report.positions > 8);
    assert!((0.0..=1.0).contains(&report.alpha.mean));
    let picture = svg(&report);
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert_eq!(picture.matches("<circle").count(), 2 * (6 * 3 + 4));
}

#[test]
fn what_is_asked_for_is_what_is_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let docs = home.path().join("docs");
    texts(&docs);
    let loads = Arc::default();
    let usual = options(&docs, &home.path().join("shelf"), &loads);
    let some = Options {
        domains: vec!["poems".into(), "logs".into()],
        amounts: Amounts {
            mixed: 3,
            pure_per_domain: 1,
        },
        ..usual
    };
    let report = eval(&some).unwrap();
    assert_eq!((report.documents.mixed, report.documents.pure), (3, 2));
    let domains = |set: &str| -> Vec<&str> {
        let of_set = report.rows.iter().filter(|r| r.set == set);
        let mut names: Vec<&str> = of_set.map(|r| r.domain.as_str()).collect();
        names.dedup();
        names
    };
    assert_eq!(domains("pure"), ["pure", "logs", "poems"]);
    assert_eq!(domains("mixed"), ["mixed"]);
    let itself = report
        .rows
        .iter()
        .filter(|r| r.strategy == "meta" && r.k == 3);
    assert!(itself.clone().count() == 4 && itself.clone().all(|r| r.vs_default.ppl_ratio == 1.0));
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let home = tempfile::tempdir().unwrap();
    let (docs, shelf) = (home.path().join("docs"), home.path().join("shelf"));
    let loads = Arc::default();
    let missing = eval(&options(&docs, &shelf, &loads)).unwrap_err();
    assert!(matches!(missing, EvalError::Read { .. }), "{missing}");
    std::fs::create_dir_all(&docs).unwrap();
    std::fs::write(docs.join("empty"), "").unwrap();
    let nothing = eval(&options(&docs, &shelf, &loads)).unwrap_err();
    assert!(
        matches!(nothing, EvalError::NoDocuments { skipped: 1, .. }),
        "{nothing}"
    );
    let nobody = Options {
        experts: Vec::new(),
        ..options(&docs, &shelf, &loads)
    };
    assert!(matches!(eval(&nobody), Err(EvalError::Panel(_))));
    let nowhere = Options {
        domains: vec!["nowhere".into()],
        ..options(&docs, &shelf, &loads)
    };
    let nowhere = eval(&nowhere).unwrap_err();
    assert!(matches!(nowhere, EvalError::NoDomain { .. }), "{nowhere}");
    // One domain alone has nothing to change between.
    std::fs::write(docs.join("text"), nonsense(200, 5)).unwrap();
    let report = eval(&options(&docs, &shelf, &loads)).unwrap();
    assert_eq!((report.documents.mixed, report.documents.pure), (0, 1));
    assert!(report.gain_vs_best_single.mixed.is_none());
}
