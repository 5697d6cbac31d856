use super::*;
use quorate_core::generate::Decided;
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{Entry, List, Open, Query, Scope};
use quorate_core::vocab::Piece;
use tokio::sync::mpsc;

const PROMPT: [Token; 2] = [1, 2];
const FIRST: ExpertId = ExpertId([1; 32]);
const SECOND: ExpertId = ExpertId([2; 32]);
const SESSION: SessionId = SessionId(7);

fn says(token: Token) -> Said {
    let ln_p = LnP::floor(-0.1);
    Said::List(List {
        entries: vec![Entry { token, ln_p }],
        bound: 0.1,
    })
}

/// Three tokens. The first expert says what comes, the second a hundred more.
fn recording() -> Recording {
    let decided = (0u32..3).map(|at| Decided {
        position: 2 + at,
        token: 10 + at,
        mask: None,
        answers: vec![(0, FIRST, says(10 + at)), (0, SECOND, says(110 + at))],
        weighed: None,
    });
    Recording {
        prompt: PROMPT.to_vec(),
        law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
        secret: [0; 32],
        max_tokens: 3,
        stop: vec![],
        context: 100,
        grammar: false,
        logprobs: true,
        local: None,
        schedule: vec![],
        decided: with_a_second_question(decided.collect()),
        vocabulary: 200,
        pieces: vec![],
        text: String::new(),
    }
}

/// About the last token a second question was asked.
fn with_a_second_question(mut decided: Vec<Decided>) -> Vec<Decided> {
    let last = decided.last_mut().unwrap();
    last.answers.push((1, SECOND, exactly()));
    decided
}

fn exactly() -> Said {
    Said::Scalars(vec![LnP::floor(-2.5)])
}

fn second(one: Duration) -> (Arc<dyn Expert>, mpsc::Receiver<FromExpert>) {
    let (events_tx, mut events) = mpsc::channel(16);
    let piece = |_| Piece {
        bytes: vec![],
        control: false,
        ends: false,
    };
    let part = Part {
        recording: Arc::new(recording()),
        expert: SECOND,
        vocab: Arc::new(Vocab::new((0..200).map(piece))),
        clock: Clock {
            one,
            batches: Batches::Flat,
        },
    };
    let expert = ReplayExpert::spawn(part, events_tx).unwrap();
    let open = Open {
        session: SESSION,
        scope: Scope::OWNER,
        prompt: PROMPT.to_vec(),
        answered: vec![],
        transforms: Transforms::NEUTRAL,
        score: false,
        path: Vec::new(),
    };
    expert.submit(ExpertOp::Open(Box::new(open))).unwrap();
    let ready = events.blocking_recv().unwrap().event;
    assert!(matches!(ready, ExpertEvent::Ready { .. }));
    (expert, events)
}

fn draft(epoch: u32, position: Position, tokens: &[Token]) -> ExpertOp {
    ExpertOp::Draft {
        session: SESSION,
        epoch,
        position,
        tokens: tokens.to_vec(),
        queries: vec![Query::plain(0.9, 8)],
    }
}

fn truncate(epoch: u32, position: Position) -> ExpertOp {
    let session = SESSION;
    ExpertOp::Truncate {
        session,
        epoch,
        position,
    }
}

/// Epoch, and what it says of each position.
fn heard(events: &mut mpsc::Receiver<FromExpert>) -> (u32, Vec<Said>) {
    match events.blocking_recv().unwrap().event {
        ExpertEvent::Opinions {
            epoch, opinions, ..
        } => (epoch, opinions.into_iter().map(|o| o.said).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn on_the_path_its_own_words_and_behind_a_wrong_guess_those_of_the_first() {
    let (expert, mut events) = second(Duration::ZERO);
    expert.submit(draft(0, 2, &[])).unwrap();
    assert_eq!(heard(&mut events), (0, vec![says(110)]));
    expert.submit(draft(0, 2, &[10])).unwrap();
    assert_eq!(heard(&mut events), (0, vec![says(111)]));
    expert.submit(truncate(1, 2)).unwrap();
    expert.submit(draft(1, 2, &[99])).unwrap();
    assert_eq!(heard(&mut events), (1, vec![says(11)]));
    expert.submit(truncate(2, 2)).unwrap();
    expert.submit(draft(2, 2, &[10])).unwrap();
    assert_eq!(heard(&mut events), (2, vec![says(111)]));
}

#[test]
fn a_second_question_is_known_by_what_it_wants() {
    let (expert, mut events) = second(Duration::ZERO);
    expert.submit(draft(0, 2, &[10, 11])).unwrap();
    assert_eq!(heard(&mut events), (0, vec![says(112)]));
    let query = Query {
        want: Want::Scalars(vec![5]),
        ..Query::plain(0.9, 8)
    };
    let ask = ExpertOp::Ask {
        session: SESSION,
        epoch: 0,
        position: 4,
        query: query.clone(),
    };
    expert.submit(ask).unwrap();
    assert_eq!(heard(&mut events), (0, vec![exactly()]));
    // Something was taken back: now it is the first question since then.
    expert.submit(truncate(1, 4)).unwrap();
    let again = ExpertOp::Draft {
        session: SESSION,
        epoch: 1,
        position: 4,
        tokens: vec![],
        queries: vec![query],
    };
    expert.submit(again).unwrap();
    assert_eq!(heard(&mut events), (1, vec![exactly()]));
}

#[test]
fn what_waits_is_one_batch_and_what_is_taken_back_is_none() {
    let step = Duration::from_millis(300);
    let (expert, mut events) = second(step);
    let begun = Instant::now();
    expert.submit(draft(0, 2, &[])).unwrap();
    std::thread::sleep(step / 3);
    // It is at work; these wait together.
    expert.submit(draft(0, 2, &[10])).unwrap();
    expert.submit(draft(0, 3, &[11])).unwrap();
    assert_eq!(heard(&mut events), (0, vec![says(110)]));
    assert!(begun.elapsed() >= step);
    assert_eq!(heard(&mut events), (0, vec![says(111), says(112)]));
    assert!(begun.elapsed() >= 2 * step);

    expert.submit(truncate(1, 2)).unwrap();
    expert.submit(draft(1, 2, &[10])).unwrap();
    std::thread::sleep(step / 3);
    expert.submit(draft(1, 3, &[98])).unwrap();
    expert.submit(truncate(2, 3)).unwrap();
    expert.submit(draft(2, 3, &[11])).unwrap();
    assert_eq!(heard(&mut events), (2, vec![says(112)]));
}

#[test]
fn who_leads_goes_on_from_its_own_words_one_after_another() {
    let (expert, mut events) = second(Duration::from_millis(20));
    expert.submit(draft(0, 2, &[])).unwrap();
    let lead = |epoch, position| ExpertOp::Lead {
        session: SESSION,
        epoch,
        position,
        queries: vec![Query::plain(0.9, 8); 2],
    };
    expert.submit(lead(0, 2)).unwrap();
    assert_eq!(heard(&mut events), (0, vec![says(110)]));
    // It went on with 110, where the text has 10.
    assert_eq!(heard(&mut events), (0, vec![says(11)]));
    assert_eq!(heard(&mut events), (0, vec![says(12)]));
    expert.submit(truncate(1, 2)).unwrap();
    expert.submit(lead(1, 2)).unwrap();
    expert.submit(draft(1, 2, &[10])).unwrap();
    assert_eq!(
        heard(&mut events),
        (1, vec![says(111)]),
        "nothing to go on from"
    );
}

#[test]
fn a_batch_takes_what_was_measured_in_proportion() {
    let clock = Clock {
        one: Duration::from_millis(80),
        batches: Batches::Table,
    };
    let ms = |positions| clock.of(positions).as_millis();
    assert_eq!((ms(1), ms(2), ms(4), ms(32)), (80, 140, 230, 1590));
    assert_eq!((ms(3), ms(12)), (185, 595));
    assert!(ms(64) > 2 * ms(32) - 100);
    let flat = Clock {
        batches: Batches::Flat,
        ..clock
    };
    assert_eq!(flat.of(32), flat.of(1));
}
