//! What no router should send, and texts that no user should type.

use super::support::{Rig, best, greedy};
use quorate_core::chat::Segment;
use quorate_core::ids::SessionId;
use quorate_core::opinion::{ExpertFailure, ExpertOp, Query, Want};
use quorate_core::seeded::PositionKey;

fn refused(rig: &mut Rig, session: SessionId) {
    let why = rig.failure(session);
    assert!(matches!(why, ExpertFailure::Refused(_)), "{why}");
}

#[test]
fn violations_end_the_session_and_nothing_else() {
    let mut rig = Rig::new();
    let good = rig.tokens("Still here");
    let healthy = rig.open(good.clone());
    let empty = rig.open(vec![]);
    refused(&mut rig, empty);
    let no_token = rig.open(vec![1, 49_152]);
    refused(&mut rig, no_token);
    let stranger = SessionId(999);
    rig.draft(stranger, 0, &[], 1);
    refused(&mut rig, stranger);

    let misplaced = rig.open(vec![1, 2, 3]);
    rig.draft(misplaced, 7, &[4], 1);
    refused(&mut rig, misplaced);
    // The router did not know yet: silence, not a second failure.
    rig.draft(misplaced, 4, &[4], 1);

    let greedy_router = rig.open(vec![1, 2, 3]);
    rig.draft(greedy_router, 3, &[4], 3);
    refused(&mut rig, greedy_router);
    let beyond = rig.open(vec![1, 2, 3]);
    rig.draft(beyond, 3, &[u32::MAX], 1);
    refused(&mut rig, beyond);
    let wrong_epoch = rig.open(vec![1, 2, 3]);
    rig.draft_in(wrong_epoch, 3, 3, &[4], 1);
    refused(&mut rig, wrong_epoch);
    let too_far = rig.open(vec![1, 2, 3]);
    rig.truncate(too_far, 1, 9);
    refused(&mut rig, too_far);
    let nothing_left = rig.open(vec![1, 2, 3]);
    rig.truncate(nothing_left, 1, 0);
    rig.draft_in(nothing_left, 1, 0, &[], 1);
    refused(&mut rig, nothing_left);
    let unasked = rig.open(vec![1, 2, 3]);
    rig.submit(ExpertOp::Ask {
        session: unasked,
        epoch: 0,
        position: 3,
        query: greedy(),
    });
    refused(&mut rig, unasked);
    let twice = rig.open(vec![1, 2, 3]);
    rig.open_with(|open| {
        open.session = twice;
        open.prompt = vec![4];
    });
    refused(&mut rig, twice);

    rig.draft(healthy, good.len(), &[], 1);
    assert_eq!(rig.opinions(healthy).len(), 1);
    assert!(rig.said().is_empty());
}

#[test]
fn numbers_that_are_no_numbers() {
    let mut rig = Rig::new();
    let key = PositionKey([1; 4]);
    for want in [
        Want::Perturbed { key, tau: f64::NAN },
        Want::Perturbed { key, tau: 0.0 },
        Want::Perturbed { key, tau: -1.0 },
        Want::Perturbed {
            key,
            tau: f64::INFINITY,
        },
        Want::Plain {
            mass: f64::NAN,
            max: 3,
        },
        Want::Scalars(vec![0; 50_000]),
    ] {
        let session = rig.open(vec![1, 2, 3]);
        let query = Query {
            want,
            mask: None,
            untruncated: false,
            raw_top: None,
            scores: 0,
        };
        let (tokens, queries) = (vec![], vec![query]);
        rig.submit(ExpertOp::Draft {
            session,
            epoch: 0,
            position: 3,
            tokens,
            queries,
        });
        refused(&mut rig, session);
    }
    // Odd, but answerable.
    for want in [
        Want::Perturbed { key, tau: 1e300 },
        Want::Perturbed { key, tau: 1e-300 },
        Want::Plain { mass: -3.0, max: 0 },
        Want::Plain {
            mass: 7.0,
            max: u16::MAX,
        },
        Want::Scalars(vec![u32::MAX, 0]),
        Want::Scalars(vec![]),
    ] {
        let session = rig.open(vec![1, 2, 3]);
        let query = Query {
            want,
            mask: None,
            untruncated: false,
            raw_top: Some(255),
            scores: 0,
        };
        let (tokens, queries) = (vec![], vec![query]);
        rig.submit(ExpertOp::Draft {
            session,
            epoch: 0,
            position: 3,
            tokens,
            queries,
        });
        assert_eq!(rig.opinions(session).len(), 1);
        rig.close(session);
    }
}

#[test]
fn a_text_longer_than_the_context_is_refused_with_both_numbers() {
    let mut rig = Rig::with(|request| request.context = 64);
    let prompt = rig.open(vec![5; 65]);
    let full = ExpertFailure::ContextFull {
        tokens: 65,
        context: 64,
    };
    assert_eq!(rig.failure(prompt), full);
    let exact = rig.open(vec![5; 64]);
    rig.draft(exact, 64, &[], 1);
    let token = best(&rig.opinions(exact)[0]);
    rig.draft(exact, 64, &[token], 1);
    assert_eq!(rig.failure(exact), full);
}

/// Each of these once crashed or stalled some tokeniser. Here: an answer or a refusal, soon.
#[test]
fn hostile_text_is_tokenised_or_refused() {
    let rig = Rig::with(|request| {
        request.context = 16_384;
        request.cells = 16_384;
    });
    let million = 1_000_000;
    for (name, text) in [
        ("a", "a".repeat(million)),
        ("space", " ".repeat(million)),
        ("crab", "\u{1f980}".repeat(million / 4)),
        ("digit", "7".repeat(million)),
        ("newline", "\n".repeat(million)),
        ("return", "\r\n".repeat(million / 2)),
        ("nul", "\0".repeat(million)),
        ("joiner", "\u{200d}".repeat(million / 3)),
        ("combining", "\u{301}".repeat(million / 2)),
        ("quote", "'".repeat(million)),
        ("capital", "A".repeat(million)),
        ("camel", "aB".repeat(million / 2)),
        ("mixed", "a1 \u{e9}\u{4e2d}\n'll ".repeat(million / 16)),
        ("replacement", "\u{fffd}".repeat(million / 3)),
        ("last", "\u{10ffff}".repeat(million / 4)),
        ("special", "<|im_end|>".repeat(million / 10)),
    ] {
        let bytes = text.len();
        let begun = std::time::Instant::now();
        let tokens = rig.expert.tokenize(&[Segment::Text(text)], false).unwrap();
        assert!(!tokens.is_empty() && tokens.len() <= bytes, "{name}");
        println!(
            "{name}: {bytes} bytes, {} tokens, {:?}",
            tokens.len(),
            begun.elapsed()
        );
        let control = tokens
            .iter()
            .any(|&token| rig.expert.facts().vocab.is_control(token));
        assert!(!control, "{name} became a control token");
    }
}

#[test]
fn a_text_that_cannot_fit_is_refused_unread() {
    let rig = Rig::with(|request| request.context = 16);
    let text = Segment::Text("a".repeat(1_000_000));
    let error = rig.expert.tokenize(&[text], false).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn typed_markers_are_text_and_markers_are_tokens() {
    let rig = Rig::new();
    let vocab = rig.expert.facts().vocab.clone();
    let marker = rig
        .expert
        .tokenize(&[Segment::Marker("<|im_end|>")], true)
        .unwrap();
    assert!(marker.len() == 1 && vocab.is_control(marker[0]));
    let typed = rig.tokens("<|im_end|>");
    let bytes: Vec<u8> = typed
        .iter()
        .flat_map(|&token| vocab.text(token).to_vec())
        .collect();
    assert_eq!(bytes, b"<|im_end|>");
}

/// Pieces join to the text they were cut from.
#[test]
fn long_text_survives_being_cut() {
    let rig = Rig::new();
    let vocab = rig.expert.facts().vocab.clone();
    let text =
        "The quick brown fox, aged 12, jumped \u{1f98a} over\n  the lazy dog's back. ".repeat(800);
    let tokens = rig.tokens(&text);
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|&token| vocab.text(token).to_vec())
        .collect();
    assert!(bytes == text.as_bytes());
}
