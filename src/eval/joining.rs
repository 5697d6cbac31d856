//! What a node that joins gains from what others saw (decision 0017), on these texts: nodes see prompts from half of
//! the documents, a newcomer answers on the other half.

use super::Panel;
use super::documents::Document;
use super::draws::Draws;
use super::figures::interval;
use super::report::GateRow;
use quorate_core::ids::{ExpertId, Fingerprint, NetworkId, Position};
use quorate_core::lnp::LnP;
use quorate_core::weights::{
    BadRule, Following, Gates, Noise, Observation, Own, Rule, Situation, Topic, Weights,
};

/// A mesh as decision 0017 measures it on made-up experts: so many nodes, so many days.
const NODES: u8 = 9;
const DAYS: u32 = 5;
const REQUESTS_A_DAY: [usize; 3] = [5, 25, 150];
/// Tokens of the prompts that nodes saw.
const SEEN: usize = 64;
/// Tokens of the newcomer's prompts, and of the text behind them.
const PROMPTS: [usize; 3] = [16, 32, 64];
const ANSWER: usize = 64;
/// Any will do, as long as all voices are of it.
const FIRST_DAY: u32 = 20_000;
const NETWORK: NetworkId = NetworkId([0; 32]);
const VOCABULARY: Fingerprint = Fingerprint([0; 32]);

/// Nothing where no two documents of one domain are there, or fewer than two experts.
pub(super) fn joining(panel: &Panel, seed: u64) -> Result<Vec<GateRow>, BadRule> {
    let experts: Vec<ExpertId> = (0..panel.names.len())
        .map(|k| ExpertId([k as u8; 32]))
        .collect();
    let (theirs, ours) = halves(&panel.documents);
    let seen = seen(panel, &theirs, &experts);
    let mut rows = Vec::new();
    if seen.is_empty() || experts.len() < 2 {
        return Ok(rows);
    }
    for requests in REQUESTS_A_DAY {
        let mesh = mesh(&seen, &experts, requests, seed);
        for prompt in PROMPTS {
            let begun = ours
                .iter()
                .map(|&d| (&panel.documents[d], &panel.scores[d]));
            let begun = begun.filter(|(document, _)| document.tokens.len() >= prompt + ANSWER);
            let begun = begun.map(|(document, scores)| begin(&mesh, document, scores, prompt));
            let begun = begun.collect::<Result<Vec<Begun>, BadRule>>()?;
            rows.extend(row(&begun, requests, prompt, seed));
        }
    }
    Ok(rows)
}

/// Every second pure document of a domain is what others saw.
fn halves(documents: &[Document]) -> (Vec<usize>, Vec<usize>) {
    let mut nth = std::collections::BTreeMap::<usize, usize>::new();
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for (d, document) in documents.iter().enumerate() {
        let Some(domain) = document.domain else {
            continue;
        };
        let nth = nth.entry(domain).or_default();
        match nth.is_multiple_of(2) {
            true => theirs.push(d),
            false => ours.push(d),
        }
        *nth += 1;
    }
    (theirs, ours)
}

/// What is kept of requests with these texts: windows of the documents.
fn seen(panel: &Panel, theirs: &[usize], experts: &[ExpertId]) -> Vec<Observation> {
    let mut seen = Vec::new();
    for &d in theirs {
        let (tokens, scores) = (&panel.documents[d].tokens, &panel.scores[d]);
        for (nth, text) in tokens.chunks_exact(SEEN).enumerate() {
            let from = nth * SEEN;
            let said = experts.iter().zip(scores);
            let said: Vec<(ExpertId, &[LnP])> = said
                .map(|(expert, scores)| (*expert, &scores[from..from + SEEN - 1]))
                .collect();
            seen.extend(Observation::of(text, &said));
        }
    }
    seen
}

/// What a newcomer has heard of nodes of which each saw so many of these a day.
fn mesh(seen: &[Observation], experts: &[ExpertId], requests: usize, seed: u64) -> Gates {
    let listed: Vec<_> = experts.iter().map(|expert| (VOCABULARY, *expert)).collect();
    let mut newcomer = Gates::new(NETWORK, [0; 32], Own::default());
    for node in 1..=NODES {
        let mut draws = Draws::new(seed, &format!("gate {requests}"), usize::from(node));
        let mut own = Own::default();
        own.list(FIRST_DAY, &listed);
        for day in 1..=DAYS {
            for _ in 0..requests {
                own.observe(VOCABULARY, &seen[draws.below(seen.len())]);
            }
            own.close(FIRST_DAY + day, &mut Noise::new(&draws.secret()));
        }
        if let Some(voice) = own.voice(NETWORK, [node; 32]) {
            let heard = newcomer.hear(voice, FIRST_DAY + DAYS);
            heard.expect("it is of this mesh and of today, and each node has one");
        }
    }
    newcomer
}

/// One answer of the newcomer, in nats a token.
struct Begun {
    /// Weights that set out from what the mesh knows, and from nothing.
    known: f64,
    equal: f64,
    /// The expert whom the mesh would ask first, the first of the list, and the best one.
    first: f64,
    anybody: f64,
    best: f64,
}

fn begin(
    mesh: &Gates,
    document: &Document,
    scores: &[Vec<LnP>],
    prompt: usize,
) -> Result<Begun, BadRule> {
    let experts: Vec<ExpertId> = (0..scores.len()).map(|k| ExpertId([k as u8; 32])).collect();
    let equal = vec![1.0 / scores.len() as f64; scores.len()];
    let topic = Topic::of(&document.tokens[..prompt]);
    let known = topic.map(|topic| mesh.prior(VOCABULARY, &topic, &experts));
    let known = known.unwrap_or_else(|| equal.clone());
    let p = |k: usize, position: usize| scores[k][position - 1].ln().max(-64.0).exp();
    let of = |weights: &[f64]| {
        let mixed = |position| -> f64 {
            let all = weights.iter().enumerate();
            all.map(|(k, weight)| weight * p(k, position)).sum()
        };
        let lost: f64 = (prompt..prompt + ANSWER)
            .map(|position| -mixed(position).ln())
            .sum();
        lost / ANSWER as f64
    };
    let alone = |k: usize| of(&one(k, scores.len()));
    let all: Vec<f64> = (0..scores.len()).map(alone).collect();
    let first = (0..all.len()).fold(0, |a, b| if known[b] > known[a] { b } else { a });
    Ok(Begun {
        known: of(&weights(&known, scores, prompt)?),
        equal: of(&weights(&equal, scores, prompt)?),
        first: all[first],
        anybody: all.iter().sum::<f64>() / all.len() as f64,
        best: all.iter().copied().fold(f64::INFINITY, f64::min),
    })
}

fn one(k: usize, experts: usize) -> Vec<f64> {
    (0..experts)
        .map(|at| f64::from(u8::from(at == k)))
        .collect()
}

/// The default's, of everybody, for the answer to this prompt: as a request has them.
fn weights(prior: &[f64], scores: &[Vec<LnP>], prompt: usize) -> Result<Vec<f64>, BadRule> {
    let mut weights = Weights::from_prior(Rule::default(), prior, None)?;
    for (k, scores) in scores.iter().enumerate() {
        for (at, ln_p) in (1..).zip(&scores[..prompt - 1]) {
            weights.heard(at, k, *ln_p);
        }
    }
    weights.begin(prompt as Position, Situation::Sampled(Following::Frozen))?;
    Ok(weights.frozen(&(0..scores.len()).collect::<Vec<_>>()))
}

fn row(begun: &[Begun], requests_a_day: usize, prompt: usize, seed: u64) -> Option<GateRow> {
    let draws = || Draws::new(seed, "bootstrap gate", prompt);
    let of = |nats: &dyn Fn(&Begun) -> f64| {
        let all: Vec<f64> = begun.iter().map(nats).collect();
        interval(&all, draws())
    };
    let (saved, ci) = of(&|b| b.equal - b.known);
    let mean = |nats: &dyn Fn(&Begun) -> f64| of(nats).0;
    (!begun.is_empty()).then(|| GateRow {
        nodes: NODES.into(),
        requests_a_day,
        prompt,
        documents: begun.len(),
        saved,
        ci,
        first: mean(&|b| b.first - b.best),
        anybody: mean(&|b| b.anybody - b.best),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four domains of eight documents, with words of their own; expert k is `knows` nats better at domain k.
    fn panel(knows: f64) -> Panel {
        let mut draws = Draws::new(1, "made up", 0);
        let (mut documents, mut scores) = (Vec::new(), Vec::new());
        for nth in 0..32 {
            let domain = nth % 4;
            let tokens = (0..256).map(|_| (1_000 * (domain + 1) + draws.below(40)) as u32);
            documents.push(Document {
                domain: Some(domain),
                tokens: tokens.collect(),
            });
            let mut said = |k: usize| -> Vec<LnP> {
                let gain = if k == domain { knows } else { 0.0 };
                let mut noise = || draws.below(100) as f64 / 50.0;
                (1..256)
                    .map(|_| LnP::floor(-3.0 - noise() + gain))
                    .collect()
            };
            scores.push((0..4).map(&mut said).collect());
        }
        Panel {
            names: ["a", "b", "c", "d"].map(String::from).into(),
            documents,
            scores,
            against: None,
            gate: None,
        }
    }

    #[test]
    fn what_others_saw_helps_where_experts_differ_and_is_worth_more_the_less_the_prompt_says() {
        let rows = joining(&panel(0.75), 6).unwrap();
        assert_eq!(rows.len(), REQUESTS_A_DAY.len() * PROMPTS.len());
        let of = |requests: usize, prompt: usize| {
            let mut rows = rows.iter();
            let row = rows.find(|r| (r.requests_a_day, r.prompt) == (requests, prompt));
            row.expect("there is one")
        };
        let short = of(150, 16);
        assert_eq!(short.documents, 16, "the other half was seen");
        assert!(
            short.ci[0] > 0.0 && short.saved > of(150, 64).saved,
            "{rows:?}"
        );
        assert!(short.first < 0.1 && short.anybody > 0.4, "{rows:?}");
        assert!(short.saved > of(5, 16).saved, "{rows:?}");
    }

    #[test]
    fn where_all_know_the_same_nothing_is_saved_and_nothing_lost() {
        for row in joining(&panel(0.0), 6).unwrap() {
            assert!(row.saved.abs() < 0.02, "{row:?}");
        }
    }

    #[test]
    fn a_panel_of_one_or_of_single_documents_says_nothing() {
        let mut lone = panel(0.75);
        lone.documents.truncate(4);
        lone.scores.truncate(4);
        let (theirs, ours) = halves(&lone.documents);
        assert_eq!((theirs.len(), ours.len()), (4, 0));
        assert!(joining(&lone, 6).unwrap().is_empty());
        let mut lone = panel(0.75);
        lone.names.truncate(1);
        lone.scores.iter_mut().for_each(|scores| scores.truncate(1));
        assert!(joining(&lone, 6).unwrap().is_empty());
    }
}
