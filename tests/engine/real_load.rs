//! Loading, failing to load, unloading.

use super::support::{Rig, model_path, request};
use quorate::expert::llama::load;
use quorate_core::chat::Family;
use std::io::{Seek, SeekFrom, Write};

#[test]
fn facts_are_the_models() {
    let rig = Rig::new();
    let facts = rig.expert.facts();
    assert_eq!(facts.vocab.len(), 49_152);
    // Asked for as ChatML; the template in the file says which member of that family it is.
    assert_eq!(facts.family, Family::SmolLm2);
    let cells = 8192 * 30 * 3 * (64 + 64) * 2;
    assert_eq!(
        facts.cache_bytes,
        cells + cells / 4,
        "a quarter for what is parked"
    );
    assert!(facts.model_bytes > 90_000_000 && facts.model_bytes < 100_000_000);
    assert_eq!(facts.processor, "cpu, 2 threads");
    let end = (0..facts.vocab.len())
        .find(|&token| facts.vocab.piece(token) == b"<|im_end|>")
        .unwrap();
    assert!(facts.vocab.ends_turn(end) && facts.vocab.is_control(end));
    assert!(facts.vocab.text(end).is_empty());
}

/// Resident memory settles: what one load takes, one unload gives back.
#[test]
fn twenty_loads_leave_nothing_behind() {
    let mut after = Vec::new();
    for _ in 0..20 {
        let mut rig = Rig::with(|request| {
            request.context = 512;
            request.cells = 512;
        });
        let prompt = rig.tokens("Hello there");
        assert_eq!(rig.greedy(&prompt, 2).len(), 2);
        drop(rig);
        wait_for_threads();
        after.push(resident_mb());
    }
    let (early, late) = (after[4], after[19]);
    assert!(late < early + 24, "MB after each load: {after:?}");
}

/// The expert's thread has ended when no thread of that name is left.
fn wait_for_threads() {
    for _ in 0..500 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let mut names =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        if !names.any(|name| name.trim() == "expert") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

fn load_error(change: impl FnOnce(&mut quorate::expert::llama::LoadRequest)) -> String {
    let (events, _heard) = tokio::sync::mpsc::channel(16);
    let mut request = request(events);
    change(&mut request);
    match load(request) {
        Ok(_) => panic!("it loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_say_what_and_what_to_do() {
    assert!(load_error(|r| r.path = "/nowhere.gguf".into()).contains("no such file"));
    assert!(load_error(|r| r.cells = 100).contains("at least the context"));
    assert!(load_error(|r| r.threads = 0).contains("threads is 0"));
}

#[test]
fn a_file_cut_short_or_damaged_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(model_path(), &path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(60_000_000).unwrap();
    assert!(load_error(|r| r.path = path.clone()).contains("refuses the file"));

    std::fs::copy(model_path(), &path).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(4)).unwrap();
    file.write_all(&[99, 0, 0, 0]).unwrap();
    assert!(load_error(|r| r.path = path.clone()).contains("refuses the file"));

    // Scales of NaN all through the weights: they load, and compute nothing.
    std::fs::copy(model_path(), &path).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(20_000_000)).unwrap();
    file.write_all(&vec![0xff; 70_000_000]).unwrap();
    assert!(load_error(|r| r.path = path.clone()).contains("not finite"));
}
