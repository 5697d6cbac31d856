//! `run --record` and `replay`: answers that stand, and fall with every part that decided them.

use crate::harness::{Home, Ran};
use quorate_core::distribution::{Distribution, History};
use quorate_core::generate::{Generate, Guessing, Input, Notes, Output, Spec};
use quorate_core::ids::{ExpertId, Micros, SessionId, Token};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{ExpertEvent, ExpertOp, FromExpert, Opinion, Query, Said, Scope};
use quorate_core::record::{self, Recorder, Recording};
use quorate_core::seeded::Secret;
use quorate_core::team::Plan;
use quorate_core::vocab::{Piece, Vocab};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const VOCAB: u32 = 200;

/// What the expert of this name believes after these tokens.
fn opinion(name: ExpertId, tokens: &[Token], query: &Query) -> Opinion {
    let mut hasher = blake3::Hasher::new_keyed(&name.0);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    let mut bytes = [0u8; VOCAB as usize];
    hasher.finalize_xof().fill(&mut bytes);
    let logits: Vec<f32> = bytes.iter().map(|b| f32::from(*b) / 20.0).collect();
    let mut row = Distribution::new();
    let history = History { tokens, prompt: 3 };
    row.measure(&logits, &Transforms::NEUTRAL, history, true)
        .unwrap();
    let (said, raw) = row.answer(query);
    Opinion {
        position: tokens.len() as u32,
        said,
        raw,
        scored: Vec::new(),
    }
}

/// Three experts that differ, 40 tokens.
fn three_experts() -> Recording {
    let vocab = Arc::new(Vocab::new((0..VOCAB).map(|v| Piece {
        bytes: format!("{v} ").into_bytes(),
        control: false,
        ends: false,
    })));
    let session = SessionId(1);
    let spec = Spec {
        session,
        scope: Scope::OWNER,
        prompt: vec![5, 6, 7],
        law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
        secret: Secret::from_seed(7, 0),
        max_tokens: 40,
        stop: vec![],
        logprobs: None,
        grammar: false,
        context: 4096,
        guessing: Guessing::Never,
        paced: false,
        notes: Notes {
            record: true,
            provenance: false,
        },
    };
    let names = [1, 2, 3].map(|n| ExpertId([n; 32]));
    let plan = Plan::fixed(&[(names[0], 0.5), (names[1], 0.3), (names[2], 0.2)]);
    let mut recorder = Recorder::new(&spec, None, vocab.clone());
    let mut texts: BTreeMap<ExpertId, Vec<Token>> = BTreeMap::new();
    let mut machine = Generate::new(spec, vocab, plan, 0, Micros(0)).unwrap();
    let mut out = Vec::new();
    machine.start(Micros(0), &mut out);
    while !out.is_empty() {
        for output in std::mem::take(&mut out) {
            let (expert, op) = match output {
                Output::Event(event) => {
                    recorder.hear(&event);
                    continue;
                }
                Output::ToExpert(expert, op) => (expert, op),
                _ => continue,
            };
            let text = texts.entry(expert).or_default();
            let query = match op {
                ExpertOp::Open(open) => {
                    *text = open.prompt;
                    continue;
                }
                ExpertOp::Draft {
                    tokens, queries, ..
                } => {
                    text.extend(tokens);
                    queries[0].clone()
                }
                ExpertOp::Ask { query, .. } => query,
                _ => continue,
            };
            let event = ExpertEvent::Opinions {
                session,
                epoch: 0,
                opinions: vec![opinion(expert, text, &query)],
                compute_us: 0,
                bytes: 0,
            };
            let from = FromExpert { expert, event };
            machine.handle(Micros(0), Input::FromExpert(from), &mut out);
        }
    }
    recorder.finish().unwrap()
}

fn replayed(home: &Home, bytes: &[u8], flags: &[&str]) -> Ran {
    let path = home.path().join("it.rec");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    home.run(&[&["replay", path], flags].concat())
}

#[test]
fn a_recording_of_three_experts_is_replayed_and_counted() {
    let home = Home::new();
    let whole = three_experts();
    let bytes = record::encode(&whole).unwrap();
    let ran = replayed(&home, &bytes, &[]);
    assert_eq!(ran.works().trim_end(), whole.text.trim_end());
    for words in ["40 tokens", "3 experts", "1 set", "seeded"] {
        assert!(ran.err.contains(words), "no {words:?} in {ran:?}");
    }
    let json = replayed(&home, &bytes, &["--json"]).json();
    assert_eq!(json["text"], whole.text);
    assert_eq!((&json["tokens"], &json["experts"]), (&40.into(), &3.into()));
    assert_eq!(json["schedule"][0]["set"][1]["weight"], 0.3);
}

/// Everything that decided a token, changed in a file whose hash fits: the position is named.
#[test]
fn a_changed_recording_is_refused_at_the_position_that_it_changes() {
    let home = Home::new();
    let whole = three_experts();
    let refused = |words: &[&str], change: &dyn Fn(&mut Recording)| {
        let mut other = whole.clone();
        change(&mut other);
        let ran = replayed(&home, &record::encode(&other).unwrap(), &[]);
        ran.fails(1, words);
        assert!(
            ran.out.is_empty(),
            "no text of a changed recording: {ran:?}"
        );
    };
    let winner = whole.decided[9].token;
    refused(&["position 12"], &|r| {
        for (_, _, said) in &mut r.decided[9].answers {
            match said {
                Said::List(list) => list.entries.retain(|e| e.token != winner),
                Said::Scalars(values) => values.fill(LnP::ZERO_MASS),
            }
        }
    });
    refused(&["position 12"], &|r| drop(r.decided[9].answers.remove(0)));
    refused(&["position 7"], &|r| {
        r.decided[4].token = (r.decided[4].token + 1) % VOCAB
    });
    refused(&["position"], &|r| r.schedule[0].set[0].1 = 0.05);
    refused(&["position 3"], &|r| r.schedule[0].set[0].1 = 0.5 + 1e-9);
    refused(&["position 3"], &|r| r.schedule[0].set.truncate(2));
    refused(&["position 3"], &|r| r.schedule[0].position = 4);
    refused(&["position"], &|r| r.secret[31] ^= 1);
    refused(&["after 0 bytes"], &|r| r.text.insert(0, 'x'));
    refused(&["text parts"], &|r| drop(r.decided.pop()));
}

#[test]
fn what_is_no_recording_is_refused_in_words() {
    let home = Home::new();
    let bytes = record::encode(&three_experts()).unwrap();
    replayed(&home, b"# words\n", &[]).fails(1, &["it.rec", "no recording"]);
    replayed(&home, b"", &[]).fails(1, &["no recording"]);
    replayed(&home, &bytes[..bytes.len() - 1], &[]).fails(1, &["hash", "damaged"]);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    replayed(&home, &flipped, &[]).fails(1, &["hash"]);
    home.run(&["replay", "/nowhere/it.rec"])
        .fails(2, &["/nowhere/it.rec", "--record"]);
}

#[test]
fn a_name_that_cannot_be_is_refused_before_anything_is_asked() {
    let home = Home::new();
    let taken = home.path().join("taken");
    std::fs::write(&taken, "mine").unwrap();
    let run = |file: &str, prompt: &[&str]| {
        home.run(&[&["run", "smollm2:135m", "--record", file], prompt].concat())
    };
    run(taken.to_str().unwrap(), &["hi"]).fails(2, &["taken", "already"]);
    assert_eq!(std::fs::read(&taken).unwrap(), b"mine");
    run("/nowhere/at/all", &["hi"]).fails(2, &["/nowhere/at/all"]);
}

#[test]
fn real_an_answer_is_recorded_for_its_owner_alone_and_replayed() {
    let Some(home) = Home::with_model() else {
        return;
    };
    for (n, flags) in [
        &["--seed", "7", "--temperature", "1"][..],
        &["--temperature", "0"],
        &["--seed", "3", "--format", "json", "--stop", "zzz"],
    ]
    .iter()
    .enumerate()
    {
        let path = home.path().join(format!("{n}.rec"));
        let file = path.to_str().unwrap();
        let mut args = vec![
            "run",
            "smollm2:135m",
            "--max-tokens",
            "12",
            "--record",
            file,
        ];
        args.extend(*flags);
        args.push("Describe Paris.");
        let ran = home.run(&args);
        let said = ran.works().to_owned();
        assert!(ran.err.contains("quorate replay"), "{ran:?}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let replay = home.run(&["replay", file]);
        assert_eq!(replay.works().trim_end(), said.trim_end());
        let mut recording = record::decode(&std::fs::read(&path).unwrap()).unwrap();
        // Under a grammar some positions decide themselves.
        let asked = recording.decided.iter_mut();
        let decided = asked.rev().find(|d| !d.answers.is_empty()).unwrap();
        decided.answers.clear();
        decided.mask = None;
        replayed(&home, &record::encode(&recording).unwrap(), &[]).fails(1, &["position"]);
        home.run(&args).fails(2, &["already"]);
    }
    let left = std::fs::read_dir(home.path()).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.filter(|name| name.contains(".rec.")).count() == 0);
}

#[test]
fn real_a_node_that_is_up_records_what_it_answers() {
    let Some(home) = Home::with_model() else {
        return;
    };
    let _up = home.up(&[]);
    let path = home.path().join("it.rec");
    let file = path.to_str().unwrap();
    let ran = home.run(&["run", "smollm2:135m", "-n", "8", "--record", file, "hi"]);
    let said = ran.works().to_owned();
    assert!(ran.err.contains("quorate replay"), "{ran:?}");
    assert_eq!(
        home.run(&["replay", file]).works().trim_end(),
        said.trim_end()
    );
    home.run(&["run", "smollm2:135m", "--robust", "1", "hi"])
        .fails(2, &["quorate.robust", "3 experts"]);
    home.run(&["run", "smollm2:135m", "--sampler", "rejection", "hi"])
        .fails(2, &["several experts", "ask `mesh`"]);
}
