//! Stubs that answer made-up tasks: the whole way, without a model.

use super::*;
use crate::eval::EvalError;
use crate::eval::tests::source;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn options(home: &Path, tasks: &str, loads: &Arc<AtomicUsize>) -> TextOptions {
    let path = home.join("tasks.toml");
    std::fs::write(&path, tasks).unwrap();
    TextOptions {
        tasks: path,
        experts: ["a", "b", "c"].map(|name| source(name, loads)).into(),
        rules: vec![Strategy::Uniform, Strategy::Meta],
        runs_programs: false,
        seed: 6,
        shelf: home.join("shelf"),
        progress: Box::new(|_, _, _| {}),
    }
}

fn task(name: &str, domain: &str, prompt: &str, check: &str) -> String {
    format!(
        "[[task]]\nname = \"{name}\"\ndomain = \"{domain}\"\nprompt = \"{prompt}\"\ntokens = 6\n{check}\n"
    )
}

fn text_of<'a>(report: &'a TextReport, task: &str, who: &str) -> &'a Answered {
    let mut answers = report.answers.iter();
    answers.find(|a| a.task == task && a.who == who).unwrap()
}

/// What the stubs say is known after a first run: the second file asks for exactly that.
#[test]
fn who_is_right_is_counted() {
    let home = tempfile::tempdir().unwrap();
    let loads = Arc::new(AtomicUsize::new(0));
    let wrong = "answer = \"never said\"";
    let first = task("one", "x", "Hello", wrong) + &task("two", "y", "World", wrong);
    let report = eval_text(&options(home.path(), &first, &loads)).unwrap();
    assert_eq!(loads.swap(0, Ordering::SeqCst), 3);
    assert!(report.answers.iter().all(|a| !a.right && a.tokens <= 6));
    assert_eq!(report.answers.len(), 2 * 5);
    let said = |task: &str, who: &str| {
        let text = &text_of(&report, task, who).text;
        format!("answer = {}", serde_json::to_string(text).unwrap())
    };
    // Each alone is itself, and says something else than the others.
    assert_ne!(said("one", "a"), said("one", "b"));
    assert_eq!(
        text_of(&report, "one", "a").weights_ppm,
        BTreeMap::from([("a".into(), 1_000_000)])
    );
    assert_eq!(
        text_of(&report, "one", "together:uniform")
            .weights_ppm
            .len(),
        3
    );

    let second = task("one", "x", "Hello", &said("one", "b"))
        + &task("two", "y", "World", &said("two", "together:meta"));
    let report = eval_text(&options(home.path(), &second, &loads)).unwrap();
    assert_eq!(loads.load(Ordering::SeqCst), 0, "all answers were kept");
    let row = |domain: &str, who: &str| {
        let mut rows = report.rows.iter();
        rows.find(|r| r.domain == domain && r.who == who).unwrap()
    };
    assert_eq!(
        (
            row("x", "b").right,
            row("x", "b").tasks,
            row("x", "a").right
        ),
        (1, 1, 0)
    );
    assert_eq!(row("y", "together:meta").share, 1.0);
    assert_eq!(row("all", "together:meta").tasks, 2);
    let meta = report
        .vs_best_of_domain
        .iter()
        .find(|d| d.who == "together:meta")
        .unwrap();
    let best_of_x = 1.0;
    let best_of_y = f64::from(u8::from(
        ["a", "b", "c"].iter().any(|e| row("y", e).right == 1),
    ));
    let ours = row("all", "together:meta").right as f64;
    assert_eq!(meta.share, (ours - best_of_x - best_of_y) / 2.0);
    assert!(meta.ci[0] <= meta.share && meta.share <= meta.ci[1]);
}

#[test]
fn answers_are_the_same_again() {
    let home = tempfile::tempdir().unwrap();
    let loads = Arc::default();
    let tasks = task(
        "one",
        "x",
        "A prompt that is long enough to learn weights from it",
        "number = 1",
    );
    let here = options(home.path(), &tasks, &loads);
    let elsewhere = TextOptions {
        shelf: home.path().join("another"),
        ..options(home.path(), &tasks, &loads)
    };
    let json = |options: &TextOptions| serde_json::to_string(&eval_text(options).unwrap()).unwrap();
    assert_eq!(json(&here), json(&here));
    assert_eq!(json(&here), json(&elsewhere));
}

#[test]
fn programs_run_only_where_that_was_allowed() {
    let home = tempfile::tempdir().unwrap();
    let loads = Arc::default();
    let tasks = task("one", "x", "Hello", "program = [\"true\"]");
    let refused = eval_text(&options(home.path(), &tasks, &loads)).unwrap_err();
    assert!(matches!(refused, EvalError::Programs), "{refused}");
    let allowed = TextOptions {
        runs_programs: true,
        ..options(home.path(), &tasks, &loads)
    };
    if cfg!(unix) {
        assert!(eval_text(&allowed).unwrap().answers.iter().all(|a| a.right));
    }
}
