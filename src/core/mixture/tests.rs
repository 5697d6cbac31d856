//! Table experts behind one mixture, against sums over the whole vocabulary.

mod losses;

use super::*;
use crate::aggregate::{Verdict, seeded_exact};
use crate::generate::{
    Event, Finish, Generate, Input as TextInput, Notes, Output as TextOutput, Spec,
};
use crate::ids::Token;
use crate::law::{Law, ListLaw, Transforms};
use crate::mask::Mask;
use crate::opinion::{Entry, Scope};
use crate::seeded::{PositionKey, Secret};
use crate::sim::table::{Table, VOCAB, vocab};
use crate::team;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const SESSION: SessionId = SessionId(1);
const CONTEXT: u32 = 4096;

fn id(name: u8) -> ExpertId {
    ExpertId([name; 32])
}

fn open_at(prompt: &[Token]) -> Open {
    Open {
        session: SESSION,
        scope: Scope::OWNER,
        prompt: prompt.to_vec(),
        answered: vec![],
        transforms: Transforms::NEUTRAL,
        score: false,
        path: vec![[1; 32]],
    }
}

fn plan(weights: &[(u8, f64)]) -> Plan {
    let mut quick = Pace::default();
    (0..64).for_each(|_| quick.answered(10_000));
    (0..64).for_each(|_| quick.read(1, 10_000));
    let set = weights.iter().map(|&(name, weight)| Candidate {
        expert: id(name),
        weight,
        local: false,
        pace: quick.clone(),
    });
    Plan {
        set: set.collect(),
        patience: Patience {
            percent: 200,
            floor_us: 50_000,
        },
        vocab: VOCAB,
        context: CONTEXT,
    }
}

/// A mixture and the experts behind it; whoever is in `silent` is asked and does not answer.
struct World {
    mixture: Mixture,
    tables: BTreeMap<ExpertId, Table>,
    silent: Vec<u8>,
    failed: Vec<(ExpertId, Trouble)>,
    questions: usize,
}

impl World {
    fn open(weights: &[(u8, f64)], prompt: &[Token]) -> World {
        let mut out = Vec::new();
        let mixture = Mixture::open(Micros(0), &open_at(prompt), plan(weights), &mut out);
        let tables = weights
            .iter()
            .map(|(name, _)| (id(*name), Table::new(id(*name))));
        let mut world = World {
            mixture,
            tables: tables.collect(),
            silent: vec![],
            failed: vec![],
            questions: 0,
        };
        let said = world.settle(out);
        assert!(matches!(said[..], [ExpertEvent::Ready { .. }]), "{said:?}");
        world
    }

    fn op(&mut self, op: ExpertOp) -> Vec<ExpertEvent> {
        self.at(0, Input::Op(op))
    }

    fn at(&mut self, us: u64, input: Input) -> Vec<ExpertEvent> {
        let mut out = Vec::new();
        self.mixture.handle(Micros(us), input, &mut out);
        self.settle(out)
    }

    /// Until nobody has anything more to say.
    fn settle(&mut self, mut out: Vec<Output>) -> Vec<ExpertEvent> {
        let mut said = Vec::new();
        while !out.is_empty() {
            for output in std::mem::take(&mut out) {
                let (expert, op) = match output {
                    Output::ToExpert(expert, op) => (expert, op),
                    Output::Say(event) => {
                        said.push(event);
                        continue;
                    }
                    Output::Failed { expert, why } => {
                        self.failed.push((expert, why));
                        continue;
                    }
                    Output::Heard { .. } => continue,
                };
                let answers = self.answers(expert, op);
                if self.silent.contains(&expert.0[0]) {
                    continue;
                }
                for event in answers {
                    let from = Input::FromExpert(FromExpert { expert, event });
                    self.mixture.handle(Micros(0), from, &mut out);
                }
            }
        }
        said
    }

    /// As every expert: also for several positions of one draft.
    fn answers(&mut self, expert: ExpertId, op: ExpertOp) -> Vec<ExpertEvent> {
        let table = self.tables.get_mut(&expert).unwrap();
        let (epoch, opinions) = match op {
            ExpertOp::Draft {
                epoch,
                position,
                tokens,
                queries,
                ..
            } => {
                assert_eq!(position as usize, table.texts.own.tokens.len());
                table.texts.own.tokens.extend(tokens);
                let first = (table.texts.own.tokens.len() + 1 - queries.len()) as u32;
                self.questions += queries.len();
                let asked = (first..).zip(&queries);
                let opinions: Vec<Opinion> = asked.map(|(at, q)| table.opinion(at, q)).collect();
                (epoch, opinions)
            }
            ExpertOp::Ask {
                epoch,
                position,
                query,
                ..
            } => {
                self.questions += 1;
                (epoch, vec![table.opinion(position, &query)])
            }
            ExpertOp::Truncate { position, .. } => {
                let text = table.texts.own.tokens[..position as usize].to_vec();
                *table = Table::new(expert);
                table
                    .handle(ExpertOp::Open(Box::new(open_at(&text))))
                    .unwrap();
                return vec![];
            }
            other => return table.handle(other).unwrap(),
        };
        if opinions.is_empty() {
            return vec![];
        }
        vec![ExpertEvent::Opinions {
            session: SESSION,
            epoch,
            opinions,
            compute_us: 1,
            bytes: 40,
        }]
    }

    /// The mixture over the whole vocabulary, rounded once.
    fn whole(&mut self, weights: &[(u8, f64)], position: u32, untruncated: bool) -> Vec<LnP> {
        let all = Query {
            want: Want::Scalars((0..VOCAB).collect()),
            mask: None,
            untruncated,
            raw_top: None,
            scores: 0,
        };
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        let mut sorted = weights.to_vec();
        sorted.sort_by_key(|(name, _)| *name);
        let said: Vec<(f64, Vec<LnP>)> = sorted
            .iter()
            .map(|(name, w)| {
                let table = self.tables.get_mut(&id(*name)).unwrap();
                match table.opinion(position, &all).said {
                    Said::Scalars(values) => (w / total, values),
                    Said::List(_) => panic!("asked for values"),
                }
            })
            .collect();
        let p = |v: usize| {
            said.iter()
                .map(|(w, values)| w * values[v].p())
                .sum::<f64>()
        };
        (0..VOCAB as usize)
            .map(|v| LnP::floor(libm::log(p(v)) + 1e-12))
            .collect()
    }
}

fn draft(position: usize, tokens: &[Token], queries: Vec<Query>) -> ExpertOp {
    ExpertOp::Draft {
        session: SESSION,
        epoch: 0,
        position: position as u32,
        tokens: tokens.to_vec(),
        queries,
    }
}

fn ask(position: usize, query: Query) -> ExpertOp {
    ExpertOp::Ask {
        session: SESSION,
        epoch: 0,
        position: position as u32,
        query,
    }
}

fn one(said: Vec<ExpertEvent>) -> Opinion {
    match <[ExpertEvent; 1]>::try_from(said) {
        Ok([ExpertEvent::Opinions { mut opinions, .. }]) if opinions.len() == 1 => {
            opinions.remove(0)
        }
        other => panic!("{other:?}"),
    }
}

fn list(said: Vec<ExpertEvent>) -> Vec<Entry> {
    match one(said).said {
        Said::List(list) => list.entries,
        Said::Scalars(_) => panic!("asked for a list"),
    }
}

fn key(seed: u64) -> PositionKey {
    Secret::from_seed(seed, 0).key(3)
}

fn mask_of(kind: u8, seed: u64) -> Option<Arc<Mask>> {
    let source = Secret::from_seed(seed, 9).key(0);
    let share = match kind {
        0 => return None,
        1 => 0.5,
        2 => 0.03,
        _ => 0.95,
    };
    let allows = |v: u32| libm::exp(-source.exponential(v)) < share;
    let word = |i: u32| {
        (0..32)
            .filter(|b| allows(32 * i + b))
            .fold(0, |w, b| w | 1 << b)
    };
    Some(Arc::new(Mask::new(
        (0..VOCAB.div_ceil(32)).map(word).collect(),
        VOCAB,
    )))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is asked, it says what any expert with this distribution says.
    #[test]
    fn its_word_is_that_of_one_expert(
        seed: u64, tau in 0.002f64..1.0, kind in 0u8..4, untruncated: bool,
        weights in prop::collection::vec(0.01f64..1.0, 1..6),
    ) {
        let weights: Vec<(u8, f64)> = (1..).zip(weights).collect();
        let prompt = [seed as u32 % VOCAB, 7];
        let mut world = World::open(&weights, &prompt);
        let (key, mask) = (key(seed), mask_of(kind, seed));
        let allows = |v: &u32| mask.as_ref().is_none_or(|m| m.allows(*v));
        let query = Query { mask: mask.clone(), untruncated, ..Query::perturbed(key, tau) };
        let opinion = one(world.op(draft(2, &[], vec![query.clone()])));
        let whole = world.whole(&weights, 2, untruncated);
        let Said::List(list) = opinion.said else { panic!("asked for a list") };
        prop_assert_eq!(list.check(VOCAB), Ok(()));
        prop_assert_eq!(list.check_keyed(key, tau), Ok(()));
        let reaches = |v: &u32| whole[*v as usize].p() / key.exponential(*v) >= list.bound;
        let has_mass = |v: &u32| whole[*v as usize] != LnP::ZERO_MASS;
        let want: Vec<u32> = (0..VOCAB).filter(allows).filter(has_mass).filter(reaches).collect();
        let got: Vec<u32> = list.entries.iter().map(|e| e.token).collect();
        prop_assert_eq!(got, want);
        prop_assert!(list.entries.iter().all(|e| e.ln_p == whole[e.token as usize]));
        let tokens: Vec<u32> = (0..VOCAB).step_by(7).collect();
        let scalars = Query { want: Want::Scalars(tokens.clone()), ..query };
        let said = one(world.op(ask(2, scalars))).said;
        let want = tokens.iter().map(|v| whole[*v as usize]).collect();
        prop_assert_eq!(said, Said::Scalars(want));
    }

    /// Plain lists are mixed as a router mixes them: what is not listed has no mass.
    #[test]
    fn plain_lists_are_added(seed: u64, weights in prop::collection::vec(0.01f64..1.0, 1..6)) {
        let weights: Vec<(u8, f64)> = (1..).zip(weights).collect();
        let mut world = World::open(&weights, &[seed as u32 % VOCAB]);
        let query = Query::plain(0.9, 40);
        let got = list(world.op(draft(1, &[], vec![query.clone()])));
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        let mut sums: BTreeMap<Token, f64> = BTreeMap::new();
        for (name, w) in &weights {
            let said = world.tables.get_mut(&id(*name)).unwrap().opinion(1, &query).said;
            let Said::List(list) = said else { panic!() };
            for e in list.entries {
                *sums.entry(e.token).or_default() += w / total * e.ln_p.p();
            }
        }
        let mut best: Vec<(f64, Token)> = sums.into_iter().map(|(v, p)| (p, v)).collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        best.truncate(40);
        best.sort_by_key(|(_, v)| *v);
        let want: Vec<(Token, LnP)> =
            best.into_iter().map(|(p, v)| (v, LnP::floor(libm::log(p) + 1e-12))).collect();
        let got: Vec<(Token, LnP)> = got.into_iter().map(|e| (e.token, e.ln_p)).collect();
        prop_assert_eq!(got, want);
    }
}

/// A text by a router that asks a mesh (weight `of_mesh`) and an expert of its own, and how many questions the experts
/// of the mesh were asked for it.
fn two_levels(inner: &[(u8, f64)], of_mesh: f64, seed: u64, tokens: u32) -> (Vec<Token>, usize) {
    const MESH: u8 = 200;
    const OWN: u8 = 100;
    let spec = Spec {
        session: SESSION,
        scope: Scope::OWNER,
        prompt: vec![5, 6, 7],
        law: Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap(),
        secret: Secret::from_seed(seed, 0),
        max_tokens: tokens,
        stop: vec![],
        logprobs: None,
        grammar: false,
        context: CONTEXT,
        guessing: crate::generate::Guessing::Never,
        paced: false,
        notes: Notes::default(),
    };
    let plan = team::Plan::fixed(&[(id(MESH), of_mesh), (id(OWN), 1.0 - of_mesh)]);
    let mut router = Generate::new(spec, vocab(), plan, 0, Micros(0)).unwrap();
    let mut own = Table::new(id(OWN));
    let mut world = None;
    let (mut out, mut text) = (Vec::new(), Vec::new());
    router.start(Micros(0), &mut out);
    while !out.is_empty() {
        for output in std::mem::take(&mut out) {
            let (expert, op) = match output {
                TextOutput::ToExpert(expert, op) => (expert, op),
                TextOutput::Event(Event::Token(token)) => {
                    text.push(token.token);
                    continue;
                }
                TextOutput::Event(Event::Finished { why, .. }) => {
                    assert!(matches!(why, Finish::Length | Finish::Stop), "{why:?}");
                    continue;
                }
                _ => continue,
            };
            let events = match (expert == id(OWN), op) {
                (true, op) => own.handle(op).unwrap(),
                (false, ExpertOp::Open(open)) => {
                    world = Some(World::open(inner, &open.prompt));
                    vec![]
                }
                (false, op) => world.as_mut().unwrap().op(op),
            };
            for event in events {
                let from = FromExpert { expert, event };
                router.handle(Micros(0), TextInput::FromExpert(from), &mut out);
            }
        }
    }
    (text, world.map_or(0, |world| world.questions))
}

/// Every choice of two levels, against one sum over the whole vocabulary: with the mesh's numbers rounded it is the
/// same choice; with the product of the weights and nothing rounded between, the same but where two tokens are closer
/// than the one rounding.
#[test]
fn two_levels_decide_what_one_sum_decides() {
    let inner = [(1, 0.5), (2, 0.3), (3, 0.2)];
    let (mut positions, mut rounded_away, mut questions) = (0, 0, 0);
    for seed in 0..12 {
        let (text, asked) = two_levels(&inner, 0.6, seed, 60);
        questions += asked;
        assert!(text.len() > 20);
        let mut world = World::open(&inner, &[5, 6, 7]);
        let mut own = Table::new(id(100));
        own.texts.own.tokens = vec![5, 6, 7];
        let secret = Secret::from_seed(seed, 0);
        let all: Vec<Token> = (0..VOCAB).collect();
        let values = |table: &mut Table, at: u32| {
            let query = Query {
                want: Want::Scalars(all.clone()),
                ..Query::plain(1.0, 1)
            };
            match table.opinion(at, &query).said {
                Said::Scalars(values) => values,
                Said::List(_) => panic!("asked for values"),
            }
        };
        for (at, token) in (3u32..).zip(text) {
            let key = secret.key(at);
            let mesh = world.whole(&inner, at, false);
            let here = values(&mut own, at);
            let two = seeded_exact(key, &all, &[(0.4, &here), (0.6, &mesh)]);
            // Expert-id order is the order of the sum: the own one is 100, the mesh 200.
            assert_eq!(two, Verdict::Token(token), "seed {seed}, position {at}");
            let flat: Vec<Vec<LnP>> = [1, 2, 3]
                .map(|name| values(world.tables.get_mut(&id(name)).unwrap(), at))
                .to_vec();
            let said = [
                (0.3, &flat[0][..]),
                (0.18, &flat[1][..]),
                (0.12, &flat[2][..]),
                (0.4, &here[..]),
            ];
            positions += 1;
            if seeded_exact(key, &all, &said) != Verdict::Token(token) {
                let Verdict::Token(other) = seeded_exact(key, &all, &said) else {
                    panic!("no token has mass")
                };
                let score = |v: Token| {
                    let r: f64 = said.iter().map(|(w, l)| w * l[v as usize].p()).sum();
                    r / key.exponential(v)
                };
                let lead = score(other) / score(token);
                assert!((1.0..1.0 + 1.0 / 1024.0).contains(&lead), "{lead}");
                rounded_away += 1;
            }
            for table in world.tables.values_mut().chain([&mut own]) {
                table.texts.own.tokens.push(token);
            }
        }
    }
    // One for the lists and one for the values that they leave open; hardly ever a third.
    assert!(
        2 * questions < 5 * 3 * positions,
        "{questions} questions to three experts for {positions} positions"
    );
    assert!(
        positions > 500 && rounded_away * 200 <= positions,
        "{rounded_away} of {positions}"
    );
}

/// A mesh of one expert is that expert: nothing is rounded twice.
#[test]
fn a_mesh_of_one_is_its_expert() {
    let mut world = World::open(&[(4, 0.7)], &[1, 2]);
    let mut alone = Table::new(id(4));
    alone.texts.own.tokens = vec![1, 2];
    for (n, query) in [
        Query::perturbed(key(1), 1.0 / 16.0),
        Query::perturbed(key(2), 0.9),
        Query {
            raw_top: Some(5),
            ..Query::perturbed(key(3), 0.1)
        },
        Query {
            want: Want::Scalars((0..VOCAB).collect()),
            raw_top: Some(3),
            ..Query::plain(1.0, 1)
        },
    ]
    .into_iter()
    .enumerate()
    {
        let op = match n {
            0 => draft(2, &[], vec![query.clone()]),
            _ => ask(2, query.clone()),
        };
        assert_eq!(one(world.op(op)), alone.opinion(2, &query));
    }
    assert_eq!(world.questions, 4, "one question is one question");
}

#[test]
fn a_draft_is_answered_at_all_its_places_and_forgotten_when_it_is_truncated() {
    let weights = [(1, 0.5), (2, 0.5)];
    let mut world = World::open(&weights, &[1, 2]);
    let keys: Vec<PositionKey> = (0..3).map(key).collect();
    let queries: Vec<Query> = keys.iter().map(|k| Query::perturbed(*k, 0.05)).collect();
    let said = world.op(draft(2, &[10, 11], queries));
    let opinions = said.iter().flat_map(|event| match event {
        ExpertEvent::Opinions {
            opinions, epoch: 0, ..
        } => opinions.clone(),
        other => panic!("{other:?}"),
    });
    let opinions: Vec<Opinion> = opinions.collect();
    let places: Vec<u32> = opinions.iter().map(|o| o.position).collect();
    assert_eq!(
        places,
        [2, 3, 4],
        "in their order, in one message or several"
    );
    for (opinion, key) in opinions.iter().zip(&keys) {
        let whole = world.whole(&weights, opinion.position, false);
        let Said::List(list) = &opinion.said else {
            panic!()
        };
        assert!(!list.entries.is_empty());
        assert_eq!(list.check_keyed(*key, 0.05), Ok(()));
        assert!(
            list.entries
                .iter()
                .all(|e| e.ln_p == whole[e.token as usize])
        );
    }
    let truncate = ExpertOp::Truncate {
        session: SESSION,
        epoch: 1,
        position: 3,
    };
    assert_eq!(world.op(truncate), []);
    let again = |epoch| ExpertOp::Draft {
        session: SESSION,
        epoch,
        position: 3,
        tokens: vec![77],
        queries: vec![Query::perturbed(key(9), 0.05)],
    };
    let said = world.op(again(1));
    assert!(
        matches!(said[..], [ExpertEvent::Opinions { epoch: 1, .. }]),
        "{said:?}"
    );
    let said = world.op(ask(4, Query::perturbed(key(9), 0.01)));
    assert!(
        matches!(said[..], [ExpertEvent::Failed { .. }]),
        "epoch 0 is over: {said:?}"
    );
}

/// A mesh that leads goes on by what its mixture chooses, as one expert does.
#[test]
fn a_mesh_leads_as_one_expert() {
    let key = |at: Position| Secret::from_seed(5, 0).key(at);
    let ask = |at: Position| Query::perturbed(key(at), 1.0 / 16.0);
    let weights = [(1, 0.5), (2, 0.3), (3, 0.2)];
    let heard = |events: Vec<ExpertEvent>| -> Vec<Opinion> {
        let said = events.into_iter().map(|event| match event {
            ExpertEvent::Opinions { opinions, .. } => opinions,
            other => panic!("{other:?}"),
        });
        said.flatten().collect()
    };
    let mut led = World::open(&weights, &[5, 6, 7]);
    let mut said = heard(led.op(draft(3, &[], vec![ask(3)])));
    let lead = |position: Position, queries: Vec<Query>| ExpertOp::Lead {
        session: SESSION,
        epoch: 0,
        position,
        queries,
    };
    said.extend(heard(led.op(lead(3, (4..8).map(ask).collect()))));
    assert_eq!(
        said.iter().map(|o| o.position).collect::<Vec<_>>(),
        [3, 4, 5, 6, 7]
    );
    let mut plain = World::open(&weights, &[5, 6, 7]);
    let mut want = heard(plain.op(draft(3, &[], vec![ask(3)])));
    for at in 3..7 {
        let chosen = crate::lead::choice(&ask(at), &want.last().unwrap().said).unwrap();
        want.extend(heard(plain.op(draft(
            at as usize,
            &[chosen],
            vec![ask(at + 1)],
        ))));
    }
    assert_eq!(said, want);
}
