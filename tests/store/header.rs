//! The header check against everything that a file can get wrong.

use std::fs;
use std::io::{Cursor, Write};

use proptest::prelude::*;
use quorate::store::gguf::{self, GgufError, GgufFacts};
use quorate_core::chat::Family;

use crate::faults::{child_mode, run_child};
use crate::sample::{Sample, Val, numbers};

fn parse(bytes: &[u8]) -> Result<GgufFacts, GgufError> {
    gguf::parse(Cursor::new(bytes), bytes.len() as u64)
}

fn check(sample: &Sample) -> Result<GgufFacts, GgufError> {
    parse(&sample.build())
}

/// The message of a refusal; it must name what is wrong.
#[track_caller]
fn refused(sample: &Sample, says: &str) {
    match check(sample) {
        Ok(_) => panic!("accepted, expected a refusal that says {says:?}"),
        Err(error) => assert!(
            error.to_string().contains(says),
            "{error} does not say {says:?}"
        ),
    }
}

#[test]
fn facts_of_a_valid_file() {
    let facts = check(&Sample::valid()).expect("valid");
    assert_eq!(
        (facts.architecture.as_str(), facts.name.as_deref()),
        ("llama", Some("Tiny Test"))
    );
    assert_eq!(
        (
            facts.context_length,
            facts.block_count,
            facts.embedding_length
        ),
        (512, 2, 64)
    );
    assert_eq!(
        (facts.head_count.as_slice(), facts.head_count_kv.as_slice()),
        (&[4, 4][..], &[2, 2][..])
    );
    assert_eq!(
        (facts.key_length, facts.value_length, facts.vocab_size),
        (16, 16, 8)
    );
    assert_eq!(
        (facts.quant, facts.parameters, facts.tensor_bytes),
        (Some("Q4_K_M"), 64 * 8 + 64, 800)
    );
    assert_eq!((facts.bos_id, facts.eos_id), (Some(1), Some(2)));
    assert_eq!(
        (facts.tokenizer.as_str(), facts.tokenizer_pre.as_deref()),
        ("gpt2", Some("smollm"))
    );
    assert_eq!(facts.family.map(Family::name), Some("chatml"));
    // 2 layers x 2 heads x (16 + 16) x 2 bytes.
    assert_eq!(facts.kv_bytes_per_token(), 256);
}

#[test]
fn heads_may_differ_by_layer() {
    let sample = Sample::valid().set("llama.attention.head_count_kv", numbers(5, &[2, 0]));
    let facts = check(&sample).expect("valid");
    assert_eq!(
        (facts.head_count_kv.as_slice(), facts.kv_bytes_per_token()),
        (&[2, 0][..], 128)
    );
    refused(
        &sample
            .clone()
            .set("llama.attention.head_count_kv", numbers(5, &[2])),
        "length of the list",
    );
    refused(
        &sample.set("llama.attention.head_count_kv", numbers(5, &[2, u32::MAX])),
        "outside",
    );
}

#[test]
fn families() {
    let named = |sample: Sample| check(&sample).expect("valid").family.map(Family::name);
    let arch = |name: &str| {
        let mut sample = Sample::valid();
        for (key, value) in &mut sample.keys {
            *key = key.replace("llama.", &format!("{name}."));
            if key == "general.architecture" {
                *value = Val::Text(name.into());
            }
        }
        sample
    };
    assert_eq!(named(arch("qwen3")), Some("qwen"));
    assert_eq!(named(arch("gemma3")), Some("gemma"));
    let without_markers = |name: &str| {
        let token = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let tokens = (0..8).flat_map(|i| token(&format!("t{i}"))).collect();
        Sample::valid()
            .set("tokenizer.ggml.tokens", Val::List(8, 8, tokens))
            .set("general.name", Val::Text(name.into()))
    };
    assert_eq!(named(without_markers("Mistral 7B")), Some("mistral"));
    assert_eq!(named(without_markers("Somebody's")), None);
}

#[test]
fn not_a_model() {
    refused(
        &Sample::valid().change(|s| s.magic = *b"PK\x03\x04"),
        "not a GGUF file",
    );
    refused(&Sample::valid().change(|s| s.version = 1), "version 1");
    refused(
        &Sample::valid().change(|s| s.version = 3 << 24),
        "big-endian",
    );
    refused(&Sample::valid().change(|s| s.version = 0), "version 0");
    refused(
        &Sample::valid().set("general.type", Val::Text("adapter".into())),
        "holds a `adapter`",
    );
    refused(&Sample::valid().set("split.count", Val::U16(3)), "--merge");
    refused(
        &Sample::valid().set("tokenizer.ggml.model", Val::Text("plamo2".into())),
        "plamo2",
    );
    assert!(parse(b"").is_err());
    for key in [
        "general.architecture",
        "llama.context_length",
        "llama.attention.head_count",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ] {
        refused(&Sample::valid().without(key), key);
    }
}

#[test]
fn counts_of_2_to_the_60() {
    const HUGE: u64 = 1 << 60;
    refused(
        &Sample::valid().change(|s| s.tensor_count = Some(HUGE)),
        "tensor count",
    );
    refused(
        &Sample::valid().change(|s| s.key_count = Some(HUGE)),
        "key count",
    );
    refused(
        &Sample::valid().change(|s| s.key_count = Some(u64::MAX)),
        "key count",
    );
    refused(
        &Sample::valid().change(|s| s.tensor_count = Some(65_535)),
        "tensor count",
    );
    for of in [0, 4, 8, 10] {
        refused(
            &Sample::valid().set("general.extra", Val::List(of, HUGE, vec![])),
            "a list",
        );
        // Below the limit, but more than the file holds.
        refused(
            &Sample::valid().set("general.extra", Val::List(of, 1 << 23, vec![])),
            "are left",
        );
    }
    for dims in [
        vec![HUGE],
        vec![HUGE, HUGE],
        vec![64, HUGE],
        vec![u64::MAX; 4],
        vec![1 << 32, 1 << 31],
    ] {
        let sample = Sample::valid().change(|s| {
            s.tensors[1].dims = dims;
            s.tensors[1].kind = 24;
        });
        assert!(check(&sample).is_err());
    }
    let mut text = Sample::valid().build();
    // The length of the first key follows magic, version and two counts.
    text[24..32].copy_from_slice(&HUGE.to_le_bytes());
    assert!(matches!(parse(&text), Err(GgufError::OverLimit { .. })));
}

#[test]
fn limits_are_inclusive() {
    let text =
        |bytes: usize| Sample::valid().set("tokenizer.chat_template", Val::Text("x".repeat(bytes)));
    assert!(check(&text(1 << 20)).is_ok());
    refused(&text((1 << 20) + 1), "the limit is 1048576");
    let key = |bytes: usize| Sample::valid().set(&"k".repeat(bytes), Val::U32(0));
    assert!(check(&key(256)).is_ok());
    refused(&key(257), "a key");
    let name = |bytes: usize| Sample::valid().change(|s| s.tensors[1].name = "t".repeat(bytes));
    assert!(check(&name(63)).is_ok());
    refused(&name(64), "a tensor name");
    // The first dimension carries the 64 elements, the others are 1.
    let dims = |count: usize| {
        Sample::valid().change(|s| {
            s.tensors[1].dims = (0..count).map(|i| if i == 0 { 64 } else { 1 }).collect();
        })
    };
    assert!(check(&dims(4)).is_ok());
    refused(&dims(5), "a dimension count");
    refused(&dims(0), "a dimension count");
}

#[test]
fn alignment() {
    let sample = |value: Val| Sample::valid().set("general.alignment", value);
    assert!(check(&sample(Val::U32(32))).is_ok());
    for wrong in [0, 1, 4, 24, 8192, 1 << 31, u32::MAX] {
        refused(&sample(Val::U32(wrong)), "general.alignment");
    }
    refused(&sample(Val::I32(32)), "general.alignment");
}

#[test]
fn wrong_types() {
    for (key, value) in [
        ("general.architecture", Val::U32(1)),
        ("general.file_type", Val::Text("15".into())),
        ("llama.context_length", Val::I32(512)),
        ("llama.embedding_length", Val::F32(64.0)),
        ("llama.attention.head_count", Val::Text("4".into())),
        ("llama.attention.layer_norm_rms_epsilon", Val::U32(0)),
        ("llama.attention.layer_norm_rms_epsilon", Val::F32(f32::NAN)),
        ("llama.rope.freq_base", Val::F32(f32::INFINITY)),
        ("tokenizer.ggml.tokens", numbers(4, &[0; 8])),
        ("tokenizer.ggml.scores", Val::List(0, 8, vec![0; 8])),
        ("tokenizer.ggml.token_type", Val::List(0, 8, vec![0; 8])),
        ("tokenizer.ggml.merges", numbers(5, &[0])),
        ("tokenizer.ggml.bos_token_id", Val::I32(1)),
        ("tokenizer.ggml.add_bos_token", Val::U32(0)),
    ] {
        refused(&Sample::valid().set(key, value), key);
    }
    refused(
        &Sample::valid().set("tokenizer.ggml.add_bos_token", Val::Bool(2)),
        "neither 0 nor 1",
    );
    refused(
        &Sample::valid().set("general.extra", Val::List(9, 1, vec![0; 32])),
        "list of lists",
    );
    refused(
        &Sample::valid().set("general.extra", Val::List(13, 1, vec![0; 32])),
        "value type",
    );
}

#[test]
fn values_out_of_range() {
    for (key, value) in [
        ("llama.context_length", 0),
        ("llama.context_length", u32::MAX),
        ("llama.embedding_length", 0),
        ("llama.block_count", 0),
        ("llama.block_count", 513),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 5000),
        ("llama.attention.key_length", 0),
        ("tokenizer.ggml.bos_token_id", 8),
        ("tokenizer.ggml.padding_token_id", u32::MAX),
    ] {
        refused(&Sample::valid().set(key, Val::U32(value)), key);
    }
    refused(
        &Sample::valid().set("tokenizer.ggml.token_type", numbers(5, &[1; 7])),
        "token_type",
    );
    refused(
        &Sample::valid().set("tokenizer.ggml.scores", numbers(6, &[0; 9])),
        "scores",
    );
    refused(
        &Sample::valid().set("general.architecture", Val::Text("../x".into())),
        "architecture",
    );
}

#[test]
fn tensors() {
    let with = |change: fn(&mut Sample)| Sample::valid().change(change);
    refused(&with(|s| s.tensors[1].offset = 0), "ends at 544");
    refused(&with(|s| s.tensors[1].offset = 576), "ends at 544");
    refused(&with(|s| s.tensors[1].offset = u64::MAX), "ends at 544");
    refused(&with(|s| s.tensors[0].kind = 4), "type 4");
    refused(&with(|s| s.tensors[0].kind = 1000), "type 1000");
    refused(&with(|s| s.tensors[0].dims[0] = 33), "whole blocks");
    refused(&with(|s| s.tensors[1].dims[0] = 0), "empty shape");
    refused(
        &with(|s| s.tensors[1].name = "token_embd.weight".into()),
        "twice",
    );
    refused(&with(|s| s.data_bytes -= 1), "tensor data");
    // Fewer embedding rows than tokens would be read past the end.
    refused(
        &with(|s| {
            s.tensors[0].dims[1] = 7;
            s.tensors[1].offset = 480;
        }),
        "token_embd.weight",
    );
    refused(
        &Sample::valid().change(|s| {
            let first = s.keys[0].clone();
            s.keys.push(first);
        }),
        "twice",
    );
}

#[test]
fn cut_at_every_byte() {
    let whole = Sample::valid().build();
    for len in 0..whole.len() {
        assert!(
            parse(&whole[..len]).is_err(),
            "accepted {len} of {} bytes",
            whole.len()
        );
    }
    assert!(parse(&whole).is_ok());
}

/// All single-bit flips and some overwrites of the header, in a process of its own so that its memory can be read.
#[test]
fn flipped_bits_never_panic_and_never_take_memory() {
    const NAME: &str = "header::flipped_bits_never_panic_and_never_take_memory";
    if !cfg!(target_os = "linux") {
        println!("skipped: peak memory is read from /proc, which this system lacks");
        return;
    }
    if child_mode(NAME).is_none() {
        // One malloc arena: each further one reserves address space that would hide ours.
        let output = run_child(NAME, "run", &["env", "MALLOC_ARENA_MAX=1"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        return;
    }
    let sample = Sample::valid();
    let mut bytes = sample.build();
    let header = sample.header().len();
    let before = peak_virtual_kib();
    let mut accepted = 0;
    for at in 0..header {
        let original = bytes[at];
        for bit in 0..8 {
            bytes[at] = original ^ (1 << bit);
            accepted += usize::from(parse(&bytes).is_ok());
        }
        for overwrite in [0x00, 0x7f, 0xff] {
            bytes[at] = overwrite;
            accepted += usize::from(parse(&bytes).is_ok());
        }
        bytes[at] = original;
        // Eight bytes at a time reaches the counts.
        if at + 8 <= header {
            let saved = bytes[at..at + 8].to_vec();
            for value in [u64::MAX, 1 << 60, 1 << 32, 1 << 24, i64::MAX as u64] {
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                accepted += usize::from(parse(&bytes).is_ok());
            }
            bytes[at..at + 8].copy_from_slice(&saved);
        }
    }
    // Letters in names may change and stay valid; most of the header may not.
    println!("{accepted} of {} accepted", header * 16);
    sparse_giants();
    let grown = peak_virtual_kib() - before;
    println!("the parser took {grown} KiB at most");
    assert!(grown < 64 * 1024, "the parser took {grown} KiB");
}

/// Large files in which every count fits, so that only our own limits hold.
fn sparse_giants() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("giant.gguf");
    // Zeros are empty texts, empty numbers and empty keys.
    for (of, count) in [(8u32, 16u64 << 20), (10, 16 << 20), (4, 512)] {
        let sample = Sample::valid().change(|s| {
            s.keys = vec![("tokenizer.ggml.tokens".into(), Val::List(of, count, vec![]))];
            s.tensors.clear();
            s.key_count = Some(60_000);
        });
        fs::write(&path, sample.header()).expect("write");
        fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_len(4 << 30))
            .expect("set_len");
        assert!(gguf::check(&path).is_err());
    }
    // A header can also be honest and huge: keys up to every limit but ours on the sum. Written piece
    // by piece, so that this process does not hold it.
    let mut file = std::io::BufWriter::new(fs::File::create(&path).expect("create"));
    let start = Sample::valid().change(|s| {
        s.keys.clear();
        s.tensors.clear();
        s.key_count = Some(60_000);
    });
    file.write_all(&start.header()).expect("write");
    for i in 0..60_000 {
        let key = format!("{i:0>250}");
        let one = Sample::valid().change(|s| {
            s.keys = vec![(key, Val::Text("t".repeat(250)))];
            s.tensors.clear();
        });
        file.write_all(&one.header()[24..]).expect("write");
    }
    file.flush().expect("flush");
    let error = gguf::check(&path).expect_err("too much").to_string();
    assert!(error.contains("the size of all keys"), "{error}");
}

fn peak_virtual_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmPeak:"))
        .expect("VmPeak");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("number")
}

#[test]
fn odd_paths() {
    let dir = tempfile::tempdir().expect("tempdir");
    assert!(gguf::check(dir.path()).is_err());
    assert!(matches!(
        gguf::check(&dir.path().join("none.gguf")),
        Err(GgufError::Io(_))
    ));
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn random_bytes_after_an_honest_start(bytes in proptest::collection::vec(any::<u8>(), 0..256), tensors in 0u64..4, keys in 0u64..4) {
        let sample = Sample::valid().change(|s| { s.tensor_count = Some(tensors); s.key_count = Some(keys); });
        let mut file = sample.header()[..24].to_vec();
        file.extend(bytes);
        prop_assert!(parse(&file).is_err());
    }

    #[test]
    fn random_damage(places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut file = Sample::valid().build();
        for (place, value) in places {
            let at = place.index(file.len());
            file[at] = value;
        }
        // Accepted or refused, but answered.
        if let Ok(facts) = parse(&file) {
            prop_assert!(facts.kv_bytes_per_token() < 1 << 40);
        }
    }
}
