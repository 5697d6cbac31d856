//! Adapters on the real model: what PEFT computes, on one base with it and with each other.
//!
//! All experts of a test share the base's weights and thread. Prompts are short and the time of a step
//! is not bounded, so that a prompt is one batch and equal numbers are equal bits.

use super::peft::{Folder, SMOLLM2, UNIT_A};
use super::support::{Rig, best, model_path};
use quorate::expert::llama::{AdapterFile, LoadRequest};
use quorate::store::name::ModelName;
use quorate::store::{Resolved, Store};
use quorate_core::ids::{ExpertId, Token};
use quorate_core::opinion::{ExpertEvent, Opinion};
use serde_json::json;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LAYERS: u64 = 30;
const RANK: u64 = 4;

/// "The capital of France is Paris. The river that runs through the city is called the Seine, and it
/// flows into the sea."
const IDS: [Token; 27] = [
    504, 3575, 282, 4649, 314, 7042, 30, 378, 4626, 338, 7313, 738, 260, 2240, 314, 1217, 260,
    1268, 462, 28, 284, 357, 8634, 618, 260, 3426, 30,
];
/// ln p of every token but the first, by transformers and PEFT in f32 on the dequantised base.
const BASE: [f64; 26] = [
    -11.5393, -0.3376, -2.4387, -0.451, -0.2581, -0.3801, -2.4357, -9.2183, -1.1089, -1.1773,
    -0.4839, -2.1456, -2.9756, -1.8649, -1.3672, -0.015, -0.4923, -0.0007, -1.8323, -1.8458,
    -0.194, -2.1702, -2.5663, -0.0246, -5.1774, -0.5779,
];
const QUERIES: [f64; 26] = [
    -11.5393, -0.3969, -2.9546, -0.2694, -0.4008, -0.379, -2.611, -8.685, -2.1762, -1.2521,
    -0.7381, -3.3272, -3.1179, -2.4278, -1.3652, -0.0129, -1.1848, -0.0007, -1.5811, -1.5633,
    -0.319, -3.6263, -2.5487, -0.067, -4.8802, -0.4644,
];
const QUERIES_IN_THE_WRONG_ORDER: [f64; 26] = [
    -11.5393, -0.585, -2.3, -2.1958, -0.6309, -1.3426, -2.8288, -9.429, -1.0251, -1.4587, -0.6815,
    -1.9582, -3.0202, -2.0662, -1.9825, -0.028, -1.8868, -0.0014, -1.2106, -3.1086, -0.3309,
    -1.5331, -2.556, -0.0495, -6.8295, -0.5067,
];
const EVERYTHING: [f64; 26] = [
    -11.5184, -0.3014, -3.0295, -0.551, -0.4319, -0.5223, -2.2087, -8.5041, -1.1585, -1.3436,
    -0.5935, -1.9631, -2.9136, -2.3091, -1.4209, -0.014, -0.3648, -0.0009, -1.803, -2.1437,
    -0.3116, -2.4351, -2.9194, -0.0322, -5.1696, -0.6188,
];

/// A home with the base, and adapters made for it.
struct Home {
    folder: TempDir,
    store: Store,
    base: Resolved,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let base = store.resolve(&ModelName::Path(model_path())).unwrap();
        Home {
            folder,
            store,
            base,
        }
    }

    fn add(&self, name: &str, folder: &Folder) -> AdapterFile {
        let source = self.folder.path().join(format!("{name}-folder"));
        folder.write(&source);
        let adapters = self.store.adapters();
        adapters.add(name, &source, &self.base).unwrap();
        let sound = adapters.resolve(name, &self.base).unwrap();
        AdapterFile {
            path: sound.path,
            bytes: sound.bytes,
        }
    }
}

fn queries() -> Folder {
    let chosen = ["self_attn.q_proj", "self_attn.k_proj"];
    Folder::new(LAYERS, &SMOLLM2, &chosen, RANK, 1.0 / 64.0)
}

fn everything() -> Folder {
    Folder::new(LAYERS, &SMOLLM2, &SMOLLM2.map(|m| m.0), RANK, UNIT_A)
}

fn zero_b() -> Folder {
    everything().change(|folder| {
        let halves = folder.tensors.iter_mut();
        for tensor in halves.filter(|tensor| tensor.name.contains("lora_B")) {
            tensor.data.fill(0);
        }
    })
}

fn rig(adapter: Option<&AdapterFile>) -> Rig {
    rig_with(adapter, |_| {})
}

fn rig_with(adapter: Option<&AdapterFile>, change: impl FnOnce(&mut LoadRequest)) -> Rig {
    Rig::with(|request| {
        request.adapter = adapter.cloned();
        request.context = 512;
        request.cells = 1024;
        request.prefill_ms_alone = 600_000;
        request.prefill_ms_shared = 600_000;
        change(request);
    })
}

fn scores(rig: &mut Rig) -> Vec<f64> {
    let session = rig.open_with(|open| {
        open.prompt = IDS.to_vec();
        open.score = true;
    });
    loop {
        if let ExpertEvent::Scored { ln_p, .. } = rig.event() {
            rig.close(session);
            return ln_p.iter().map(|ln_p| ln_p.ln()).collect();
        }
    }
}

/// Opinions about what follows the prompt, and the eight greedy tokens after it.
fn says(rig: &mut Rig) -> (Vec<Opinion>, Vec<Token>) {
    let prompt = &IDS[..8];
    let session = rig.open(prompt.to_vec());
    rig.reused(session); // the prompt is in: what follows is one row a step
    rig.draft(session, prompt.len(), &[], 1);
    let (mut opinions, mut text) = (Vec::new(), Vec::new());
    while text.len() < 8 {
        let opinion = rig.opinions(session).remove(0);
        text.push(best(&opinion));
        opinions.push(opinion);
        let at = prompt.len() + text.len() - 1;
        rig.draft(session, at, &text[text.len() - 1..], 1);
    }
    rig.close(session);
    (opinions, text)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
    sum / a.len() as f64
}

/// Mean difference of ln p: the base's numbers are quantised here and not there, which is what it
/// costs without an adapter; with one it costs as much, and the wrong order of rows far more.
#[test]
fn an_adapter_says_what_peft_says() {
    let home = Home::new();
    let base = scores(&mut rig(None));
    let queries = scores(&mut rig(Some(&home.add("queries", &queries()))));
    let rooted = everything().set("use_rslora", json!(true));
    let everything = scores(&mut rig(Some(&home.add("everything", &rooted))));
    let found = [
        distance(&base, &BASE),
        distance(&queries, &QUERIES),
        distance(&everything, &EVERYTHING),
        distance(&queries, &QUERIES_IN_THE_WRONG_ORDER),
        distance(&QUERIES, &BASE),
        distance(&EVERYTHING, &BASE),
    ];
    println!("distances {found:.3?}");
    let [
        same,
        as_queries,
        as_everything,
        wrong,
        queries_move,
        everything_moves,
    ] = found;
    assert!(same < 0.1, "the base itself: {found:?}");
    assert!(as_queries < 0.1 && as_everything < 0.1, "{found:?}");
    assert!(queries_move > 0.3 && everything_moves > 0.15, "{found:?}");
    assert!(wrong > 0.5, "{found:?}");
}

#[test]
fn a_zero_adapter_is_the_base_bit_for_bit() {
    let home = Home::new();
    let base = says(&mut rig(None));
    assert_eq!(says(&mut rig(Some(&home.add("zero", &zero_b())))), base);
    let other = says(&mut rig(Some(&home.add("everything", &everything()))));
    assert_ne!(other.0, base.0, "an adapter that is none");
}

#[test]
fn twice_alpha_is_twice_b() {
    let home = Home::new();
    let alpha = everything().set("lora_alpha", json!(8 * RANK));
    let b = Folder::new(LAYERS, &SMOLLM2, &SMOLLM2.map(|m| m.0), RANK, 2.0 * UNIT_A);
    let once = says(&mut rig(Some(&home.add("once", &everything()))));
    let by_alpha = says(&mut rig(Some(&home.add("alpha", &alpha))));
    let by_b = says(&mut rig(Some(&home.add("b", &b))));
    assert_eq!(by_alpha, by_b);
    assert_ne!(by_alpha.0, once.0);
}

/// Sessions of a base and two adapters at once: each says what it says alone.
#[test]
fn several_adapters_and_their_base_speak_at_once() {
    let home = Home::new();
    let (first, second) = (home.add("a", &everything()), home.add("b", &queries()));
    let mut rigs = [rig(None), rig(Some(&first)), rig(Some(&second))];
    let alone: Vec<_> = rigs.iter_mut().map(says).collect();
    let prompt = &IDS[..8];
    // Other ids than before: no prefix is reused, so the batches are the same.
    let mut rigs = [rig(None), rig(Some(&first)), rig(Some(&second))];
    let sessions: Vec<_> = rigs
        .iter_mut()
        .map(|rig| {
            let session = rig.open(prompt.to_vec());
            rig.reused(session);
            rig.draft(session, prompt.len(), &[], 1);
            session
        })
        .collect();
    let mut texts = vec![Vec::new(); 3];
    let mut opinions = vec![Vec::new(); 3];
    for _ in 0..8 {
        for (i, rig) in rigs.iter_mut().enumerate() {
            let opinion = rig.opinions(sessions[i]).remove(0);
            texts[i].push(best(&opinion));
            opinions[i].push(opinion);
            let at = prompt.len() + texts[i].len() - 1;
            rig.draft(sessions[i], at, &texts[i][texts[i].len() - 1..], 1);
        }
    }
    let together: Vec<_> = opinions.into_iter().zip(texts).collect();
    assert_eq!(together, alone);
}

/// Handles come and go in any order; those that stay go on.
#[test]
fn experts_leave_a_base_that_others_use() {
    let home = Home::new();
    let file = home.add("everything", &everything());
    let mut base = rig(None);
    let wanted = says(&mut base);
    let mut adapter = rig(Some(&file));
    let adapted = says(&mut adapter);
    drop(base);
    assert_eq!(says(&mut rig(Some(&file))), adapted);
    let mut base = rig(None);
    assert_eq!(says(&mut base), wanted);
    drop(adapter);
    let mut again = rig(Some(&file));
    drop(base);
    assert_eq!(says(&mut again), adapted);
}

#[test]
fn a_private_prefix_goes_with_an_adapter() {
    let home = Home::new();
    let file = home.add("everything", &everything());
    let plain = says(&mut rig(Some(&file)));
    let mut private = rig_with(Some(&file), |request| {
        request.prefix = "The harbour of Hamburg lies on the Elbe.".into();
    });
    assert_ne!(says(&mut private).0, plain.0);
}

#[test]
fn a_file_that_is_no_adapter_is_an_error_and_the_base_goes_on() {
    let home = Home::new();
    let mut base = rig(None);
    let wanted = says(&mut base);
    let path = home.folder.path().join("no.gguf");
    std::fs::write(&path, b"GGUF and nothing").unwrap();
    let (events, _heard) = tokio::sync::mpsc::channel(16);
    let request = LoadRequest {
        adapter: Some(AdapterFile { path, bytes: 16 }),
        ..super::support::request(events)
    };
    let error = quorate::expert::llama::load(request).err().unwrap();
    assert!(error.to_string().contains("refuses the adapter"), "{error}");
    assert_eq!(says(&mut base), wanted);
}

/// Seven adapters beside their base take what the plan says; the eighth is one too many for the base.
/// What is measured is printed: time is asserted nowhere.
#[test]
fn seven_adapters_take_their_files_and_their_caches() {
    let home = Home::new();
    let folder = Folder::new(LAYERS, &SMOLLM2, &SMOLLM2.map(|m| m.0), 8, UNIT_A);
    let files: Vec<AdapterFile> = (0..7)
        .map(|i| home.add(&format!("a{i}"), &folder))
        .collect();
    let id = |i| {
        move |request: &mut LoadRequest| {
            request.id = ExpertId([i; 32]);
            request.cells = 2048;
        }
    };
    let mut rigs = vec![rig_with(None, id(0))];
    says(&mut rigs[0]);
    let before = resident_bytes();
    let (mut loads, mut firsts) = (Vec::new(), Vec::new());
    for (i, file) in (1..).zip(&files) {
        let begun = Instant::now();
        let mut next = rig_with(Some(file), id(i));
        loads.push(begun.elapsed());
        let begun = Instant::now();
        let session = next.open(vec![IDS[0]]);
        next.draft(session, 1, &[], 1);
        next.opinions(session);
        firsts.push(begun.elapsed());
        says(&mut next);
        rigs.push(next);
    }
    let grown = resident_bytes() - before;
    let facts: Vec<_> = rigs.iter().map(|rig| rig.expert.facts().clone()).collect();
    // The cache's cells; what is parked comes on top when it is used.
    let cache = facts[1].cache_bytes / 5 * 4;
    let promised = 7 * (files[0].bytes + cache);
    println!("load {}", show(&mut loads));
    println!("first opinion {}", show(&mut firsts));
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "adapter {:.1} MB, cache {:.1} MB, seven grew by {:.1} MB: {:.1} MB more than those",
        mb(files[0].bytes),
        mb(cache),
        mb(grown),
        mb(grown.saturating_sub(promised)),
    );
    assert_eq!(facts[1].model_bytes, facts[0].model_bytes + files[0].bytes);
    // What the memory plan counts for each: parked prefixes, rows of a batch, 64 rows of logits.
    let scratch = 128 * 576 * 16 * 4 + 64 * 49_152 * 4;
    let planned = 7 * (files[0].bytes + facts[1].cache_bytes + scratch);
    assert!(grown <= planned, "grew by {grown} bytes, planned {planned}");
    let (events, _heard) = tokio::sync::mpsc::channel(16);
    let request = LoadRequest {
        adapter: Some(files[0].clone()),
        ..super::support::request(events)
    };
    let error = quorate::expert::llama::load(request).err().unwrap();
    assert!(error.to_string().contains("share its weights"), "{error}");
}

/// Loads with a new context, and with one that another adapter has just left. What it says there is
/// what it says in a new one. What is measured is printed: time is asserted nowhere.
#[test]
fn a_context_is_handed_on_from_adapter_to_adapter() {
    let home = Home::new();
    let files = [home.add("a", &everything()), home.add("b", &queries())];
    let mut base = rig(None);
    let wanted: Vec<_> = files
        .iter()
        .map(|file| says(&mut rig(Some(file))))
        .collect();
    let plain = says(&mut base);
    for cells in [512, 2048, 8192] {
        let (mut fresh, mut handed_on, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0..10 {
            let of = turn % 2;
            if of == 0 {
                // Longer than a context is kept for the next one.
                std::thread::sleep(Duration::from_millis(1_200));
                base.tokens("a");
            }
            let begun = Instant::now();
            let mut next = rig_with(Some(&files[of]), |request| request.cells = cells);
            if of == 0 { &mut fresh } else { &mut handed_on }.push(begun.elapsed());
            let begun = Instant::now();
            let session = next.open(vec![IDS[0]]);
            next.draft(session, 1, &[], 1);
            next.opinions(session);
            firsts.push(begun.elapsed());
            next.close(session);
            if turn > 7 {
                assert_eq!(says(&mut next), wanted[of], "{cells} cells");
            }
        }
        let [fresh, handed_on, firsts] =
            [&mut fresh, &mut handed_on, &mut firsts].map(|times| show(times));
        println!("{cells} cells: new {fresh}, handed on {handed_on}, then first opinion {firsts}");
    }
    assert_eq!(says(&mut base), plain);
}

fn show(times: &mut [Duration]) -> String {
    times.sort();
    format!(
        "{:.1?} ({:.1?} to {:.1?})",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1]
    )
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse::<u64>().unwrap() * 1024
}
