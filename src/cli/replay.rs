//! `replay`: a recorded answer, decided again from the recorded opinions. No model, no network: the
//! core alone.

use super::args::Replay;
use super::context::expand_home;
use super::term;
use crate::error::{Failure, Kind, Outcome};
use quorate_core::limits::RECORDING_BYTES_MAX;
use quorate_core::record::{self, Recording};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

pub(super) fn replay(args: &Replay) -> Outcome {
    let path = expand_home(&args.file);
    let shown = path.display();
    let recording = record::decode(&read(&path)?)
        .map_err(|why| Failure::new(Kind::Failed, format!("{shown} cannot be replayed: {why}")))?;
    let text = record::replay(&recording).map_err(|why| {
        Failure::new(Kind::Failed, format!("{shown} does not replay: {why}"))
            .hint("it was changed after it was recorded, or another version decides otherwise")
    })?;
    if args.json {
        return term::json(&report(&recording, &text));
    }
    term::line(text.trim_end_matches('\n'))?;
    let counts = Counts::of(&recording);
    let mut err = std::io::stderr().lock();
    writeln!(
        err,
        "\nreplayed: {} tokens from {} opinions of {}, under {}; the text is the recorded one\n\
         law: {}",
        recording.decided.len(),
        counts.opinions,
        plural(counts.experts, "expert"),
        plural(recording.schedule.len(), "set"),
        recording.law,
    )?;
    Ok(())
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

struct Counts {
    experts: usize,
    opinions: usize,
    second_questions: usize,
}

impl Counts {
    fn of(recording: &Recording) -> Counts {
        let answers = || recording.decided.iter().flat_map(|d| &d.answers);
        let experts: BTreeSet<_> = answers().map(|(_, expert, _)| *expert).collect();
        let asked_again = |d: &&quorate_core::generate::Decided| {
            d.answers.iter().any(|(question, ..)| *question > 0)
        };
        Counts {
            experts: experts.len(),
            opinions: answers().count(),
            second_questions: recording.decided.iter().filter(asked_again).count(),
        }
    }
}

fn report(recording: &Recording, text: &str) -> Value {
    let counts = Counts::of(recording);
    let change = |change: &quorate_core::team::Change| {
        let set = change.set.iter();
        let set = set.map(|(e, w)| json!({"expert": e.to_string(), "weight": w}));
        json!({"position": change.position, "set": set.collect::<Vec<_>>()})
    };
    json!({
        "text": text,
        "law": recording.law.to_string(),
        "prompt_tokens": recording.prompt.len(),
        "tokens": recording.decided.len(),
        "experts": counts.experts,
        "opinions": counts.opinions,
        "positions_asked_again": counts.second_questions,
        // Null where lists do not tell: of one expert, or drawn by a key.
        "expert_variation": recording.variation(),
        "schedule": recording.schedule.iter().map(change).collect::<Vec<_>>(),
    })
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let unreadable = |why: String| {
        Failure::new(
            Kind::Usage,
            format!("cannot read {}: {why}", path.display()),
        )
        .hint("quorate run MODEL --record FILE \"...\" makes a recording")
    };
    let limit = RECORDING_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(bytes)
}
