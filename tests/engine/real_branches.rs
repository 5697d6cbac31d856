//! Side branches: what is said about one is what a session of its own says of the same text, and nothing is left of
//! those that are over.

use super::support::{Rig, best, list};
use quorate_core::ids::{SessionId, Token};
use quorate_core::lnp::LnP;
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, Opinion, Query, Said, Scope, Want,
};
use std::time::Duration;

/// Numbers move with the rows that are computed together: by so much may two lists about one text be apart. At most .04
/// was seen; lists about other texts are further apart than this.
const SHAPE: f64 = 0.15;

/// Half of what the probabilities of two lists differ by: 0 is the same, 1 has nothing in common.
fn apart(a: &Opinion, b: &Opinion) -> f64 {
    let (a, b) = (list(a), list(b));
    let p = |ln_p: Option<LnP>| ln_p.map_or(0.0, LnP::p);
    let of_a = a
        .entries
        .iter()
        .map(|e| (e.ln_p.p() - p(b.ln_p(e.token))).abs());
    let only_b = b.entries.iter().filter(|e| a.ln_p(e.token).is_none());
    (of_a.sum::<f64>() + only_b.map(|e| e.ln_p.p()).sum::<f64>()) / 2.0
}

/// The same model with cells of its own, where nobody ever branched.
struct Judge(Rig);

impl Judge {
    fn new() -> Judge {
        Judge(Rig::new())
    }

    #[track_caller]
    fn is_of(&mut self, said: &Opinion, text: &[Token]) {
        let session = self.0.open(text.to_vec());
        self.0.draft(session, text.len(), &[], 1);
        let fresh = self.0.opinions(session).remove(0);
        self.0.close(session);
        assert_eq!(said.position, fresh.position);
        let off = apart(said, &fresh);
        assert!(off <= SHAPE, "{off} apart at {}", text.len());
    }
}

/// The likeliest token that is none of these.
fn other(said: &Opinion, than: &[Token]) -> Token {
    let others = list(said)
        .entries
        .iter()
        .filter(|e| !than.contains(&e.token));
    let likeliest = others.max_by(|a, b| a.ln_p.ln().total_cmp(&b.ln_p.ln()));
    likeliest.unwrap().token
}

fn prompt(rig: &Rig) -> Vec<Token> {
    rig.tokens("The old lighthouse keeper climbed the stairs and saw")
}

/// A session with a text of `guesses` beyond its prompt, asked about everywhere.
fn guessed(rig: &mut Rig, prompt: &[Token], guesses: &[Token]) -> (SessionId, Vec<Opinion>) {
    let session = rig.open(prompt.to_vec());
    rig.draft(session, prompt.len(), guesses, guesses.len() + 1);
    let mut said = Vec::new();
    while said.len() <= guesses.len() {
        said.extend(rig.opinions(session));
    }
    (session, said)
}

#[test]
fn a_branch_says_what_a_session_of_its_own_says_of_its_text() {
    let (mut rig, mut judge) = (Rig::new(), Judge::new());
    let prompt = prompt(&rig);
    let n = prompt.len();
    let guesses = rig.greedy(&prompt, 6);
    let (session, text_said) = guessed(&mut rig, &prompt, &guesses);
    let near = other(&text_said[1], &guesses[1..2]);
    let next = other(&text_said[1], &[guesses[1], near]);
    let far = other(&text_said[4], &guesses[4..5]);
    // Two where the second guess is, one where the fifth is; the first goes on by three tokens, the last by one.
    let of = |at: usize, rest: &[Token]| [&prompt[..], &guesses[..at], rest].concat();
    let more = rig.tokens(" and then he");
    let texts = [
        of(1, &[&[near], &more[..]].concat()),
        of(1, &[next]),
        of(4, &[far, more[0]]),
    ];
    rig.branch(session, 1, n + 1, near);
    rig.branch(session, 2, n + 1, next);
    rig.draft_in(session, 1, n + 2, &more, more.len());
    rig.branch(session, 3, n + 4, far);
    rig.draft_in(session, 3, n + 5, &more[..1], 1);
    let said = rig.by_epoch(session, more.len() + 4);
    for (epoch, text) in (1..).zip(&texts) {
        for (_, said) in said.range((epoch, 0)..(epoch + 1, 0)) {
            let end = said.position as usize;
            judge.is_of(said, &text[..end]);
            // The difference is none that this test could not see.
            if let Some(other) = text_said.get(end - n) {
                assert!(apart(said, other) > SHAPE, "epoch {epoch} at {end}");
            }
        }
    }

    // The one that is the text goes on, and a second question about its end is answered from the same row.
    rig.forget(session, 3);
    rig.settle(session, 1);
    let text = [&texts[0][..], &more[..1]].concat();
    rig.draft_in(session, 1, texts[0].len(), &more[..1], 1);
    let last = rig.opinions(session).remove(0);
    judge.is_of(&last, &text);
    let (tokens, values): (Vec<Token>, Vec<LnP>) = list(&last)
        .entries
        .iter()
        .map(|e| (e.token, e.ln_p))
        .unzip();
    rig.submit(ExpertOp::Ask {
        session,
        epoch: 1,
        position: text.len() as u32,
        query: Query {
            want: Want::Scalars(tokens),
            ..Query::plain(1.0, 1)
        },
    });
    assert_eq!(rig.opinions(session)[0].said, Said::Scalars(values));

    // What is taken back takes branches along, and the text may branch again.
    let again = other(&last, &[best(&last)]);
    rig.branch(session, 4, text.len(), again);
    let branch = rig.by_epoch(session, 1);
    judge.is_of(
        &branch[&(4, text.len() + 1)],
        &[&text[..], &[again]].concat(),
    );
    rig.truncate(session, 5, n + 2);
    rig.draft_in(session, 5, n + 2, &more[1..2], 1);
    let said = rig.opinions(session).remove(0);
    judge.is_of(&said, &[&text[..n + 2], &more[1..2]].concat());
}

/// Branches of guesses that wait to be computed, in the same message: they wait for their text, and the steps that
/// they share with it say the same.
#[test]
fn a_branch_of_what_is_not_computed_yet_is_one_of_the_same_text() {
    let (mut rig, mut judge) = (Rig::new(), Judge::new());
    let prompt = prompt(&rig);
    let n = prompt.len();
    let guesses = rig.greedy(&prompt, 20);
    let (session, _) = guessed(&mut rig, &prompt, &[]);
    let wrong: Vec<Token> = guesses.iter().map(|g| g + 1).collect();
    for (i, guess) in guesses.iter().enumerate() {
        rig.draft(session, n + i, &[*guess], 1);
        if i % 8 == 3 {
            rig.branch(session, i as u32, n + i, wrong[i]);
        }
    }
    let said = rig.by_epoch(session, guesses.len() + 3);
    for ((epoch, end), said) in &said {
        let mut text = [&prompt[..], &guesses[..end - n]].concat();
        if *epoch > 0 {
            text[end - 1] = wrong[*epoch as usize];
        }
        judge.is_of(said, &text);
    }
}

/// Room for one session's whole context and no cell more: after a hundred branches that ended in every way there is
/// still room for it.
#[test]
fn branches_give_back_every_cell() {
    let mut rig = Rig::with(|request| {
        request.context = 256;
        request.cells = 256;
    });
    let prompt: Vec<Token> = (0..100).map(|i| 1000 + 17 * i).collect();
    let n = prompt.len();
    let (session, _) = guessed(&mut rig, &prompt, &[]);
    let (mut epoch, mut newest) = (0, 0);
    for round in 0..40 {
        rig.draft_in(session, epoch, n, &[7, 8, 9], 3);
        let branches = [newest + 1, newest + 2, newest + 3];
        for (branch, at) in branches.into_iter().zip(0..) {
            rig.branch(session, branch, n + at, 20 + round);
            rig.draft_in(session, branch, n + at + 1, &[5, 6], 2);
        }
        newest = branches[2];
        if round % 2 == 0 {
            rig.by_epoch(session, 3 + 3 * 3); // else some of them end before they are computed
        }
        match round % 4 / 2 {
            0 => branches
                .iter()
                .for_each(|branch| rig.forget(session, *branch)),
            _ => rig.settle(session, branches[round as usize % 3]),
        }
        newest += 1;
        epoch = newest;
        rig.truncate(session, epoch, n);
        rig.draft_in(session, epoch, n, &[], 1);
        while rig.by_epoch(session, 1).keys().all(|(of, _)| *of != epoch) {}
    }
    rig.branch(session, newest + 1, n, 3);
    rig.close(session);
    let whole = rig.open_with(|open| {
        open.prompt = (0..255).map(|i| 2000 + i).collect();
        open.scope = Scope(1);
    });
    rig.draft(whole, 255, &[4], 2);
    assert_eq!(rig.by_epoch(whole, 2).len(), 2);
}

/// Is the expert's thread blocked whenever somebody looks? On a busy machine one that works may wait for a core, but not
/// for anything else. Linux says it.
fn is_at_rest() -> bool {
    let threads = || std::fs::read_dir("/proc/self/task").ok();
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).ok();
    let looks = (0..40).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let stats = threads().into_iter().flatten().flatten().filter_map(stat);
        stats.filter(|stat| stat.contains("(expert) R")).count()
    });
    let works = looks.filter(|working| *working > 0).count();
    works < 10
}

#[test]
fn a_branch_without_room_waits_in_peace_and_is_said_once_it_is_the_text() {
    let mut rig = Rig::with(|request| {
        request.context = 256;
        request.cells = 256;
    });
    let mut judge = Judge::new();
    let words = rig.tokens(&"The tide came in and the tide went out. ".repeat(40));
    let (prompt, guesses) = (&words[..250], &words[250..256]);
    let (session, _) = guessed(&mut rig, prompt, guesses);
    rig.branch(session, 1, 252, 1000);
    rig.draft_in(session, 1, 253, &guesses[3..5], 2);
    assert!(is_at_rest(), "it is no work to wait");
    assert_eq!(rig.said(), [], "there is no cell for it");
    rig.settle(session, 1);
    let said = rig.by_epoch(session, 3);
    let mut text = words[..255].to_vec();
    text[252] = 1000;
    rig.draft_in(session, 1, 255, &[9], 1);
    assert_eq!(rig.opinions(session)[0].position, 256);
    rig.close(session);
    for (_, said) in said {
        judge.is_of(&said, &text[..said.position as usize]);
    }
}

/// Another session needs the cells of a branch: it makes way, and is computed again once it is the text.
#[test]
fn a_branch_that_made_way_goes_on_as_the_text() {
    let mut rig = Rig::with(|request| {
        request.context = 256;
        request.cells = 256;
    });
    let mut judge = Judge::new();
    let words = rig.tokens(&"The tide came in and the tide went out. ".repeat(40));
    let (prompt, guesses) = (&words[..100], &words[100..104]);
    let (session, _) = guessed(&mut rig, prompt, guesses);
    rig.branch(session, 1, 101, 1000);
    rig.draft_in(session, 1, 102, &guesses[2..4], 2);
    rig.by_epoch(session, 3);
    // It fits without the branch, as soon as the session is idle.
    let other = rig.open_with(|open| {
        open.prompt = (0..151).map(|i| 2000 + i).collect();
        open.scope = Scope(1);
    });
    rig.draft(other, 151, &[], 1);
    rig.opinions(other);
    rig.draft_in(session, 1, 104, &guesses[..1], 1);
    rig.settle(session, 1);
    let said = rig.opinions(session).remove(0);
    let mut text = [&words[..104], &guesses[..1]].concat();
    text[101] = 1000;
    judge.is_of(&said, &text);
    rig.draft_in(session, 1, 105, &guesses[..2], 2);
    let said = rig.by_epoch(session, 2);
    text.extend(&guesses[..2]);
    judge.is_of(&said[&(1, 106)], &text[..106]);
    judge.is_of(&said[&(1, 107)], &text);
}

/// The same question again: the answer is in the cache, and what is asked about it must be computed all the same.
#[test]
fn what_another_session_has_computed_is_asked_about_all_the_same() {
    let (mut rig, mut judge) = (Rig::new(), Judge::new());
    let prompt = prompt(&rig);
    let n = prompt.len();
    let answer = rig.greedy(&prompt, 8);
    let text = [&prompt[..], &answer].concat();
    let (session, said) = guessed(&mut rig, &prompt, &answer[..6]);
    said.iter()
        .zip(n..)
        .for_each(|(said, end)| judge.is_of(said, &text[..end]));
    rig.close(session);
    let (session, _) = guessed(&mut rig, &prompt, &[1000]);
    rig.branch(session, 1, n, answer[0]);
    rig.draft_in(session, 1, n + 1, &answer[1..6], 5);
    for ((_, end), said) in rig.by_epoch(session, 6) {
        judge.is_of(&said, &text[..end]);
    }
}

#[test]
fn what_no_router_asks_of_branches_ends_the_session_and_nothing_else() {
    let (mut rig, mut judge) = (Rig::new(), Judge::new());
    let prompt = prompt(&rig);
    let n = prompt.len();
    let good = rig.open(prompt.clone());
    rig.draft(good, n, &[], 1);
    rig.opinions(good);
    let wrongs: [fn(&Rig, SessionId, usize); 8] = [
        |rig, session, n| (1..=4).for_each(|epoch| rig.branch(session, epoch, n, 5)),
        |rig, session, n| (0..2).for_each(|_| rig.branch(session, 1, n, 5)),
        |rig, session, n| rig.branch(session, 1, n + 1, 5),
        |rig, session, n| rig.branch(session, 1, n - 1, 5),
        |rig, session, n| rig.branch(session, 1, n, u32::MAX),
        |rig, session, _| rig.settle(session, 1),
        |rig, session, _| rig.forget(session, 1),
        |rig, session, n| {
            rig.branch(session, 1, n, 5);
            rig.forget(session, 1);
            rig.draft_in(session, 1, n + 1, &[6], 1);
        },
    ];
    for (i, wrong) in wrongs.iter().enumerate() {
        let session = rig.open(prompt.clone());
        rig.draft(session, n, &[], 1);
        rig.opinions(session);
        wrong(&rig, session, n);
        let why = rig.failure(session);
        assert!(matches!(why, ExpertFailure::Refused(_)), "{i}: {why}");
    }
    // Whoever was refused leaves nothing behind.
    rig.branch(good, 1, n, 5);
    rig.settle(good, 1);
    rig.draft_in(good, 1, n + 1, &[6], 1);
    let said = rig.by_epoch(good, 2);
    judge.is_of(&said[&(1, n + 2)], &[&prompt[..], &[5, 6]].concat());
    let failed = |event: &ExpertEvent| matches!(event, ExpertEvent::Failed { .. });
    assert!(!rig.said().iter().any(failed));
}
