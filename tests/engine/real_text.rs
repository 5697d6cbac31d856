//! One session: its text is the bare loop's, whatever was drafted and taken back.

use super::support::{Rig, best, greedy, model_path};
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::Token;
use quorate_core::lnp::LnP;
use quorate_core::opinion::{ExpertEvent, ExpertOp, Query, Said, Want};
use std::num::NonZeroU32;

const PROMPT: &str = "The capital of France is";

/// Greedy text of the bare loop, which picks by the same rounded numbers (ties to the lower id).
/// Runs in a process of its own: llama.cpp has one backend per process, and the engine owns ours.
#[test]
fn greedy_text_is_the_bare_loops() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let said = rig.greedy(&prompt, 24);
    let wanted = bare_child(&prompt, 24);
    assert_eq!(said, wanted);
}

const CHILD: &str = "QUORATE_TEST_BARE_LOOP";

fn bare_child(prompt: &[Token], count: usize) -> Vec<Token> {
    let arguments: Vec<String> = prompt.iter().map(ToString::to_string).collect();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "real_text::bare_loop_for_the_other_tests",
            "--nocapture",
        ])
        .env(CHILD, format!("{count} {}", arguments.join(" ")))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split("tokens:").nth(1));
    let line = line.unwrap_or_else(|| panic!("no tokens in {text}"));
    line.split_whitespace()
        .map(|token| token.parse().unwrap())
        .collect()
}

#[test]
fn bare_loop_for_the_other_tests() {
    let Ok(work) = std::env::var(CHILD) else {
        return;
    };
    let mut numbers = work.split(' ').map(|number| number.parse::<u32>().unwrap());
    let count = numbers.next().unwrap() as usize;
    let text: Vec<String> = bare_loop(&numbers.collect::<Vec<_>>(), count)
        .iter()
        .map(ToString::to_string)
        .collect();
    println!("tokens: {}", text.join(" "));
}

fn bare_loop(prompt: &[Token], count: usize) -> Vec<Token> {
    let backend = LlamaBackend::init().unwrap();
    let model =
        LlamaModel::load_from_file(&backend, model_path(), &LlamaModelParams::default()).unwrap();
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(8192))
        .with_n_batch(128)
        .with_n_ubatch(128)
        .with_n_seq_max(64)
        .with_kv_unified(true)
        .with_flash_attention_policy(0)
        .with_n_threads(2)
        .with_n_threads_batch(2);
    let mut context = model.new_context(&backend, params).unwrap();
    let mut batch = LlamaBatch::new(128, 1);
    for (index, &token) in prompt.iter().enumerate() {
        let last = index + 1 == prompt.len();
        batch
            .add(LlamaToken::new(token as i32), index as i32, &[0], last)
            .unwrap();
    }
    let mut said = Vec::new();
    loop {
        context.decode(&mut batch).unwrap();
        let mut distribution = quorate_core::distribution::Distribution::new();
        let history = quorate_core::distribution::History {
            tokens: &[],
            prompt: 0,
        };
        let logits = context.get_logits_ith(batch.n_tokens() - 1);
        let neutral = quorate_core::law::Transforms::NEUTRAL;
        distribution
            .measure(logits, &neutral, history, false)
            .unwrap();
        let (list, raw) = distribution.answer(&greedy());
        let opinion = quorate_core::opinion::Opinion {
            position: 0,
            said: list,
            raw,
            scored: Vec::new(),
        };
        said.push(best(&opinion));
        if said.len() == count {
            return said;
        }
        let position = (prompt.len() + said.len() - 1) as i32;
        batch.clear();
        batch
            .add(
                LlamaToken::new(said[said.len() - 1] as i32),
                position,
                &[0],
                true,
            )
            .unwrap();
    }
}

#[test]
fn a_draft_taken_back_leaves_no_trace() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let n = prompt.len();
    let (never, taken) = (rig.open(prompt.clone()), 0);
    rig.draft(never, n, &[], 1);
    let first = rig.opinions(never);
    rig.draft(never, n, &[100], 1);
    let clean = rig.opinions(never);
    rig.close(never);

    let session = rig.open_with(|open| {
        open.prompt = prompt.clone();
        open.scope = quorate_core::opinion::Scope(1);
    });
    rig.draft(session, n, &[], 1);
    assert_eq!(rig.opinions(session), first);
    rig.draft(session, n, &[9, 8, 7, 6], 4);
    assert_eq!(rig.opinions(session).len(), 4 + taken);
    rig.truncate(session, 1, n);
    rig.draft_in(session, 1, n, &[100], 1);
    assert_eq!(rig.opinions(session), clean);
}

#[test]
fn a_second_question_is_answered_from_the_same_row() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let position = prompt.len() as u32;
    let session = rig.open(prompt.clone());
    rig.draft(session, prompt.len(), &[], 1);
    let first = rig.opinions(session);
    let Said::List(list) = &first[0].said else {
        panic!("asked for a list");
    };
    let tokens: Vec<Token> = list.entries.iter().map(|entry| entry.token).collect();
    let values: Vec<LnP> = list.entries.iter().map(|entry| entry.ln_p).collect();
    let query = Query {
        want: Want::Scalars(tokens),
        mask: None,
        untruncated: false,
        raw_top: None,
        scores: 0,
    };
    rig.submit(ExpertOp::Ask {
        session,
        epoch: 0,
        position,
        query,
    });
    assert_eq!(rig.opinions(session)[0].said, Said::Scalars(values));
    // The same question again is the same answer, without a step.
    rig.draft(session, prompt.len(), &[], 1);
    assert_eq!(rig.opinions(session), first);
}

#[test]
fn a_row_no_longer_retained_is_computed_again() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let n = prompt.len();
    let session = rig.open(prompt);
    rig.draft(session, n, &[], 1);
    let at_end = best(&rig.opinions(session)[0]);
    rig.draft(session, n, &[at_end, 5, 6], 1);
    rig.opinions(session);
    rig.truncate(session, 1, n);
    rig.draft_in(session, 1, n, &[], 1);
    assert_eq!(best(&rig.opinions(session)[0]), at_end);
}

/// A router that guesses ahead does not wait for answers: drafts that go on where the last one ended
/// are computed together, and every position is answered once, in order.
#[test]
fn drafts_that_follow_each_other_are_answered_in_order() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let n = prompt.len();
    let session = rig.open(prompt);
    rig.draft(session, n, &[], 1);
    rig.opinions(session);
    for (i, token) in (0..40).enumerate() {
        rig.draft(session, n + i, &[token], 1);
    }
    let (mut positions, mut messages) = (Vec::new(), 0);
    while positions.len() < 40 {
        let said = rig.opinions(session);
        positions.extend(said.iter().map(|opinion| opinion.position as usize));
        messages += 1;
    }
    assert_eq!(positions, (n + 1..=n + 40).collect::<Vec<_>>());
    assert!(messages < 40, "they are computed in batches");
    assert_eq!(rig.said(), [], "and nothing is said twice");
}

/// An expert that leads goes on by its own choices, which whoever hears its answers can tell.
#[test]
fn a_lead_is_the_text_that_the_expert_would_write() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let n = prompt.len();
    let alone = rig.greedy(&prompt, 12);
    let session = rig.open(prompt);
    rig.draft(session, n, &[], 1);
    let lead = |rig: &Rig, epoch, position: usize, count| {
        rig.submit(ExpertOp::Lead {
            session,
            epoch,
            position: position as u32,
            queries: vec![greedy(); count],
        });
    };
    lead(&rig, 0, n, 6);
    lead(&rig, 0, n + 6, 5); // before the first has come to its end
    let mut led = Vec::new();
    while led.len() < 12 {
        led.extend(rig.opinions(session).iter().map(best));
    }
    assert_eq!(led, alone);
    lead(&rig, 0, n + 11, 2); // after it stood still
    assert_eq!(rig.opinions(session)[0].position as usize, n + 12);
    rig.truncate(session, 1, n);
    rig.draft_in(session, 1, n, &[100], 1);
    let last = loop {
        let said = rig.opinions(session);
        if said[0].position as usize == n + 1 {
            break said;
        }
    };
    assert_eq!(last.len(), 1, "nothing of the lead is left");
    lead(&rig, 1, n, 1);
    assert!(rig.failure(session).to_string().contains("a lead of 1"));
}

/// What is taken back is not computed: the text goes on at once, whatever was still asked.
#[test]
fn a_truncation_drops_the_questions_before_it() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let n = prompt.len();
    let never = rig.open(prompt.clone());
    rig.draft(never, n, &[20, 100], 1);
    let clean = rig.opinions(never);
    rig.close(never);
    let session = rig.open_with(|open| {
        open.prompt = prompt.clone();
        open.scope = quorate_core::opinion::Scope(1);
    });
    rig.draft(session, n, &[], 1);
    rig.opinions(session);
    let guesses: Vec<Token> = (20..80).collect();
    for (i, some) in guesses.chunks(20).enumerate() {
        rig.draft(session, n + 20 * i, some, 20);
    }
    rig.truncate(session, 1, n + 1); // the first of them was right
    rig.draft_in(session, 1, n + 1, &[100], 1);
    let mut heard = Vec::new();
    let last = loop {
        match rig.event() {
            ExpertEvent::Opinions {
                epoch: 1, opinions, ..
            } => break opinions,
            ExpertEvent::Opinions { opinions, .. } => heard.extend(opinions),
            _ => {}
        }
    };
    assert!(
        heard.len() < 60,
        "{} of 60 were computed for nothing",
        heard.len()
    );
    let position = |opinions: &[quorate_core::opinion::Opinion]| opinions[0].position;
    assert_eq!((last.len(), position(&last)), (1, position(&clean)));
    assert_eq!(best(&last[0]), best(&clean[0]));
}

#[test]
fn one_more_question_than_tokens_reaches_back() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(PROMPT);
    let n = prompt.len();
    let session = rig.open(prompt);
    rig.draft(session, n, &[11, 12], 3);
    // A machine that is busy may take them in several steps.
    let mut positions: Vec<u32> = Vec::new();
    while positions.len() < 3 {
        let said = rig.opinions(session);
        positions.extend(said.iter().map(|said| said.position));
    }
    assert_eq!(positions, [n as u32, n as u32 + 1, n as u32 + 2]);
}

#[test]
fn scores_are_the_opinions_about_the_given_tokens() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(
        "The quick brown fox jumps over the lazy dog. "
            .repeat(12)
            .trim(),
    );
    let session = rig.open_with(|open| {
        open.prompt = prompt.clone();
        open.score = true;
    });
    assert_eq!(rig.reused(session), 0);
    let ExpertEvent::Scored { ln_p, .. } = rig.event() else {
        panic!("scores come after Ready");
    };
    assert_eq!(ln_p.len(), prompt.len() - 1);
    let mean = ln_p.iter().map(|ln_p| ln_p.ln()).sum::<f64>() / ln_p.len() as f64;
    assert!(
        (-2.0..0.0).contains(&mean),
        "a repeated sentence is expected: {mean}"
    );
    // Asked one by one the same tokens have the same probability, but for the batch's shape.
    let at = 9;
    let asked = rig.open_with(|open| {
        open.prompt = prompt[..at].to_vec();
        open.scope = quorate_core::opinion::Scope(1);
    });
    let query = Query {
        want: Want::Scalars(vec![prompt[at]]),
        mask: None,
        untruncated: false,
        raw_top: None,
        scores: 0,
    };
    let (tokens, queries, position) = (vec![], vec![query], at as u32);
    rig.submit(ExpertOp::Draft {
        session: asked,
        epoch: 0,
        position,
        tokens,
        queries,
    });
    let Said::Scalars(alone) = &rig.opinions(asked)[0].said else {
        panic!("asked for scalars");
    };
    assert!(
        (alone[0].ln() - ln_p[at - 1].ln()).abs() < 0.2,
        "{alone:?} {:?}",
        ln_p[at - 1]
    );
}
