//! Prints what masks cost; asserts nothing. `QUORATE_BENCH_VOCAB` names a file with a real
//! vocabulary.

use crate::vocabulary;
use quorate::grammar::tools::ToolChoice;
use quorate::grammar::{Matcher, Next};
use quorate_core::chat::{Family, Tool};
use quorate_core::vocab::Vocab;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Longest token that continues `rest`, as a tokeniser would mostly choose.
fn greedy(vocab: &Vocab, index: &std::collections::HashMap<Vec<u8>, u32>, rest: &[u8]) -> u32 {
    let longest = (1..=rest.len().min(24))
        .rev()
        .find_map(|len| index.get(&rest[..len]).copied());
    longest.unwrap_or_else(|| panic!("no token for {:?} of {}", rest[0], vocab.len()))
}

fn bench(name: &str, vocab: &Arc<Vocab>, text: &str, make: impl Fn(&Arc<Vocab>) -> Matcher) {
    let index: std::collections::HashMap<Vec<u8>, u32> = (0..vocab.len())
        .filter(|&t| !vocab.is_control(t))
        .map(|t| (vocab.text(t).to_vec(), t))
        .collect();
    let start = Instant::now();
    let mut matcher = make(vocab);
    let compile_us = start.elapsed().as_micros();
    let mut times = Vec::new();
    let mut commits_us = 0;
    for _ in 0..3 {
        let mut rest = text.as_bytes();
        matcher = make(vocab);
        while !rest.is_empty() {
            let start = Instant::now();
            let next = matcher.next().expect("a mask");
            times.push(start.elapsed().as_micros());
            let token = greedy(vocab, &index, rest);
            let Next::Allowed(mask) = next else {
                panic!("{name}: done before {rest:?}")
            };
            assert!(
                mask.allows(token),
                "{name}: {:?} not allowed",
                String::from_utf8_lossy(rest)
            );
            let start = Instant::now();
            matcher.commit(token).expect("an allowed token");
            commits_us += start.elapsed().as_micros();
            rest = &rest[vocab.text(token).len()..];
        }
    }
    drop(matcher);
    let count = times.len();
    times.sort_unstable();
    println!(
        "{name:>16}: {count:>4} masks, mean {:>5} us, p50 {:>5}, p99 {:>5}, max {:>5}; commit {:>3} us; compile {compile_us} us",
        times.iter().sum::<u128>() / count as u128,
        times[count / 2],
        times[count * 99 / 100],
        times[count - 1],
        commits_us / count as u128,
    );
}

const RECORD: &str = r#"{"name": "Ada Lovelace", "age": 36, "tags": ["first", "programmer é of the analytical engine"], "note": "She wrote the first algorithm meant to be carried out by a machine.", "on": true}"#;

/// Resident memory of this process; 0 where there is no /proc.
fn resident_kb() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages
        .and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok())
        .unwrap_or(0)
        * 4
}

const GBNF_JSON: &str = r#"root ::= value
value ::= object | array | string | number | "true" ws
object ::= "{" ws (pair ("," ws pair)*)? "}" ws
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\] | "\\" [nrtu"\\])* "\"" ws
number ::= [0-9]+ ws
ws ::= [ \t\n]*
"#;

const PROSE: &str = "Hello there, this is some free text. It says \"hello\" to <b>you</b>!\n\nAnd goes on: 12 + 13 = 25.";

#[test]
fn mask_times() {
    let real = std::env::var_os("QUORATE_BENCH_VOCAB")
        .and_then(|path| vocabulary::from_file(path.as_ref()));
    for vocab in [
        real.unwrap_or_else(|| vocabulary::large(49_152)),
        vocabulary::large(128_256),
    ] {
        let (start, before_kb) = (Instant::now(), resident_kb());
        Matcher::json_object(&vocab).expect("compiles");
        let grown_kb = resident_kb().saturating_sub(before_kb);
        println!(
            "{} entries: first matcher {} ms, {grown_kb} kB",
            vocab.len(),
            start.elapsed().as_millis()
        );
        bench("json_object", &vocab, RECORD, |vocab| {
            Matcher::json_object(vocab).expect("compiles")
        });
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}}, "note": {"type": "string"},
            "on": {"type": "boolean"}}, "required": ["name", "age"], "additionalProperties": false});
        bench("json_schema", &vocab, RECORD, |vocab| {
            Matcher::json_schema(&schema, vocab).expect("compiles")
        });
        bench("gbnf, recursive", &vocab, RECORD, |vocab| {
            Matcher::grammar(GBNF_JSON, vocab).expect("compiles")
        });
        let flat = "root ::= (\"- \" [^\\n]+ \"\\n\")+";
        bench(
            "gbnf, flat",
            &vocab,
            "- one thing\n- another é\n",
            |vocab| Matcher::grammar(flat, vocab).expect("compiles"),
        );
        let tools = [Tool {
            name: "now".into(),
            description: String::new(),
            parameters: r#"{"type":"object"}"#.into(),
        }];
        bench("tools, text", &vocab, PROSE, |vocab| {
            Matcher::tools(&tools, &ToolChoice::Auto, Family::Qwen, vocab).expect("compiles")
        });
    }
}
