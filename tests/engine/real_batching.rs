//! Many sessions: shared steps, shared prefixes, cells that run short.

use super::support::{Rig, best};
use quorate_core::ids::{SessionId, Token};
use quorate_core::opinion::{ExpertEvent, Scope};
use std::collections::BTreeMap;

/// Runs all sessions greedily until each has `count` tokens, as a router would.
fn run_all(rig: &mut Rig, prompts: &[Vec<Token>], count: usize) -> Vec<Vec<Token>> {
    let mut said: BTreeMap<SessionId, (usize, Vec<Token>)> = BTreeMap::new();
    let mut order = Vec::new();
    for prompt in prompts {
        let session = rig.open(prompt.clone());
        rig.draft(session, prompt.len(), &[], 1);
        said.insert(session, (prompt.len(), Vec::new()));
        order.push(session);
    }
    while said.values().any(|(_, tokens)| tokens.len() < count) {
        match rig.event() {
            ExpertEvent::Opinions {
                session, opinions, ..
            } => {
                let (prompt, tokens) = said.get_mut(&session).unwrap();
                let position = *prompt + tokens.len();
                assert_eq!(
                    opinions[0].position as usize, position,
                    "nothing lost, nothing twice"
                );
                let token = best(&opinions[0]);
                tokens.push(token);
                if tokens.len() < count {
                    rig.draft(session, position, &[token], 1);
                } else {
                    rig.close(session);
                }
            }
            ExpertEvent::Failed { why, .. } => panic!("{why}"),
            _ => {}
        }
    }
    order
        .iter()
        .map(|session| said.remove(session).unwrap().1)
        .collect()
}

#[test]
fn sixteen_sessions_at_once() {
    let mut rig = Rig::new();
    let prompts: Vec<Vec<Token>> = (0..16)
        .map(|i| rig.tokens(&format!("Count with me: {i}, {}, {},", i + 1, i + 2)))
        .collect();
    let texts = run_all(&mut rig, &prompts, 12);
    assert!(texts.iter().all(|text| text.len() == 12));
}

#[test]
fn a_seventeenth_session_is_told_that_we_are_busy() {
    let mut rig = Rig::new();
    let prompt = rig.tokens("Hello");
    for _ in 0..16 {
        rig.open(prompt.clone());
    }
    let late = rig.open(prompt);
    assert!(rig.failure(late).to_string().contains("busy"));
}

#[test]
fn a_closed_sessions_prefix_is_reused_in_its_scope_only() {
    let mut rig = Rig::new();
    let long = rig.tokens(&"All work and no play makes Jack a dull boy. ".repeat(10));
    let first = rig.open(long.clone());
    assert_eq!(rig.reused(first), 0);
    rig.close(first);
    let mut longer = long.clone();
    longer.extend(rig.tokens("And then?"));
    let stranger = rig.open_with(|open| {
        open.prompt = longer.clone();
        open.scope = Scope(5);
    });
    assert_eq!(rig.reused(stranger), 0);
    let second = rig.open(longer);
    // Nobody asked what follows the first prompt, so its last token was never computed.
    assert_eq!(rig.reused(second) as usize, long.len() - 1);
}

#[test]
fn a_running_sessions_beginning_is_shared() {
    let mut rig = Rig::new();
    let system = rig.tokens(&"You are a helpful assistant. ".repeat(10));
    let first = rig.open(system.clone());
    rig.draft(first, system.len(), &[], 1);
    let opinion = rig.opinions(first);
    let second = rig.open(system.clone());
    rig.draft(second, system.len(), &[], 1);
    assert_eq!(rig.reused(second) as usize, system.len() - 1);
    assert_eq!(best(&rig.opinions(second)[0]), best(&opinion[0]));
}

#[test]
fn choices_of_one_prompt_wait_for_one_prefill() {
    let mut rig = Rig::new();
    let prompt = rig.tokens(&"It was the best of times, it was the worst of times. ".repeat(20));
    let sessions: Vec<SessionId> = (0..4).map(|_| rig.open(prompt.clone())).collect();
    let mut reused = BTreeMap::new();
    while reused.len() < 4 {
        if let ExpertEvent::Ready {
            session,
            reused: count,
            ..
        } = rig.event()
        {
            reused.insert(session, count as usize);
        }
    }
    let counts: Vec<usize> = sessions.iter().map(|session| reused[session]).collect();
    assert_eq!(
        counts,
        [0, prompt.len() - 1, prompt.len() - 1, prompt.len() - 1]
    );
}

#[test]
fn with_few_cells_everybody_ends_all_the_same() {
    // Room for about two of six.
    let mut tight = Rig::with(|request| {
        request.context = 256;
        request.cells = 256;
    });
    let prompts: Vec<Vec<Token>> = (0..6)
        .map(|i| tight.tokens(&format!("{i} little ducks went out to play. ").repeat(6)))
        .collect();
    let texts = run_all(&mut tight, &prompts, 40);
    drop(tight);
    // A cache mixed up by preemption would make the model babble: its text is likely to itself.
    let mut judge = Rig::new();
    for (prompt, text) in prompts.iter().zip(&texts) {
        let whole = [&prompt[..], text].concat();
        let session = judge.open_with(|open| {
            open.prompt = whole;
            open.score = true;
        });
        let ln_p = loop {
            if let ExpertEvent::Scored { ln_p, .. } = judge.event() {
                break ln_p;
            }
        };
        judge.close(session);
        let said = &ln_p[prompt.len() - 1..];
        let mean = said.iter().map(|ln_p| ln_p.ln()).sum::<f64>() / said.len() as f64;
        assert!(mean > -1.5, "{mean}");
    }
}

#[test]
fn closing_in_the_middle_of_a_prompt_frees_the_slot() {
    let mut rig = Rig::new();
    let long = rig.tokens(&"word ".repeat(1500));
    for _ in 0..40 {
        let session = rig.open(long.clone());
        rig.draft(session, long.len(), &[], 1);
        rig.close(session);
    }
    let prompt = rig.tokens("Hello");
    let session = rig.open(prompt.clone());
    rig.draft(session, prompt.len(), &[], 1);
    assert_eq!(rig.opinions(session).len(), 1);
}

#[test]
fn a_long_prompt_lets_a_running_stream_through() {
    let mut rig = Rig::with(|request| request.context = 8000);
    let prompt = rig.tokens("Once upon a time");
    let stream = rig.open(prompt.clone());
    rig.draft(stream, prompt.len(), &[], 1);
    rig.opinions(stream);
    let long: Vec<Token> = (0..1200).map(|i| 1000 + i % 7000).collect();
    let book = rig.open(long.clone());
    rig.draft(book, long.len(), &[], 1);
    let mut tokens = 0;
    rig.draft(stream, prompt.len(), &[7], 1);
    loop {
        match rig.event() {
            ExpertEvent::Opinions {
                session, opinions, ..
            } if session == stream => {
                tokens += 1;
                let position = opinions[0].position as usize;
                rig.draft(stream, position, &[best(&opinions[0])], 1);
            }
            ExpertEvent::Opinions { session, .. } if session == book => break,
            ExpertEvent::Failed { why, .. } => panic!("{why}"),
            _ => {}
        }
    }
    // At most a batch of rows between two tokens, whatever the machine's speed; on two cores it
    // is about sixteen.
    assert!(tokens >= long.len() / 128, "{tokens} tokens came through");
}
