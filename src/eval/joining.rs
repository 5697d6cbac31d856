//! What a node that joins gains from what others saw (decision 0017), on these texts: nodes see prompts from half of
//! the documents, a newcomer answers on the other half.

use super::Panel;
use super::documents::Document;
use super::draws::Draws;
use super::figures::interval;
use super::report::JoiningRow;
use quorate_core::ids::{ExpertId, Fingerprint, NetworkId, Position};
use quorate_core::lnp::LnP;
use quorate_core::weights::{
    BadRule, Following, Gates, Noise, Observation, Own, Rule, Situation, Topic, Weights,
};
use std::collections::BTreeMap;

/// A mesh as decision 0017 measures it on made-up experts: so many nodes, so many days.
const NODES: u8 = 9;
const DAYS: u32 = 5;
const REQUESTS_A_DAY: [usize; 3] = [5, 25, 150];
/// Meshes of a kind, each with requests and noise of its own: every answer is the mean over them.
const MESHES: usize = 8;
/// Tokens of the prompts that nodes saw.
const SEEN: usize = 64;
/// Tokens of the newcomer's prompts, and of the text behind them.
const PROMPTS: [usize; 3] = [16, 32, 64];
const ANSWER: usize = 64;
/// Any will do, as long as all voices are of it.
const FIRST_DAY: u32 = 20_000;
const NETWORK: NetworkId = NetworkId([0; 32]);
const VOCABULARY: Fingerprint = Fingerprint([0; 32]);

/// Nothing where no two documents of one domain are long enough, or there is one expert.
pub(super) fn joining(panel: &Panel, seed: u64) -> Result<Vec<JoiningRow>, BadRule> {
    let experts: Vec<ExpertId> = (0..panel.names.len())
        .map(|k| ExpertId([k as u8; 32]))
        .collect();
    let (theirs, ours) = halves(&panel.documents);
    let seen = seen(panel, &theirs, &experts);
    let mut rows = Vec::new();
    if seen.is_empty() || ours.is_empty() {
        return Ok(rows);
    }
    for requests in REQUESTS_A_DAY {
        let meshes = (0..MESHES).map(|nth| mesh(&seen, &experts, requests, (seed, nth)));
        let meshes: Vec<Gates> = meshes.collect();
        for prompt in PROMPTS {
            let answers = ours.iter().map(|&d| {
                let (document, scores) = (&panel.documents[d], &panel.scores[d]);
                answer(&meshes, &experts, document, scores, prompt)
            });
            let answers = answers.collect::<Result<Vec<Answer>, BadRule>>()?;
            let draws = Draws::new(seed, "bootstrap joining", prompt);
            let saved: Vec<f64> = answers.iter().map(|a| a.saved).collect();
            let (saved, ci) = interval(&saved, draws);
            let mean = |nats: fn(&Answer) -> f64| {
                answers.iter().map(nats).sum::<f64>() / answers.len() as f64
            };
            rows.push(JoiningRow {
                nodes: NODES.into(),
                requests_a_day: requests,
                texts_seen: seen.len(),
                prompt,
                documents: answers.len(),
                saved,
                ci,
                first: mean(|a| a.first),
                anybody: mean(|a| a.anybody),
            });
        }
    }
    Ok(rows)
}

/// Every second pure document of a domain is what others saw; of the rest those that are long enough for all prompts.
fn halves(documents: &[Document]) -> (Vec<usize>, Vec<usize>) {
    let mut nth = BTreeMap::<usize, usize>::new();
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    let longest = PROMPTS.into_iter().max().unwrap_or(0) + ANSWER;
    for (d, document) in documents.iter().enumerate() {
        let Some(domain) = document.domain else {
            continue;
        };
        let nth = nth.entry(domain).or_default();
        if nth.is_multiple_of(2) {
            theirs.push(d);
        } else if document.tokens.len() >= longest {
            ours.push(d);
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
fn mesh(
    seen: &[Observation],
    experts: &[ExpertId],
    requests: usize,
    (seed, nth): (u64, usize),
) -> Gates {
    let listed: Vec<_> = experts.iter().map(|expert| (VOCABULARY, *expert)).collect();
    let mut newcomer = Gates::new(NETWORK, [0; 32], Own::default());
    for node in 1..=NODES {
        let purpose = format!("mesh of {requests}, {nth}");
        let mut draws = Draws::new(seed, &purpose, usize::from(node));
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

/// One answer of newcomers, in nats a token.
struct Answer {
    /// By weights that set out from what the mesh knows, beside equal ones.
    saved: f64,
    /// Behind the best expert of this answer: whom the mesh would ask first, and the mean of all.
    first: f64,
    anybody: f64,
}

fn answer(
    meshes: &[Gates],
    experts: &[ExpertId],
    document: &Document,
    scores: &[Vec<LnP>],
    prompt: usize,
) -> Result<Answer, BadRule> {
    let count = experts.len();
    let p = |k: usize, position: usize| scores[k][position - 1].ln().max(-64.0).exp();
    let lost = |weights: &[f64]| {
        let mixed = |position| -> f64 {
            let all = weights.iter().enumerate();
            all.map(|(k, weight)| weight * p(k, position)).sum()
        };
        let nats = (prompt..prompt + ANSWER).map(|position| -mixed(position).ln());
        nats.sum::<f64>() / ANSWER as f64
    };
    let one =
        |k: usize| -> Vec<f64> { (0..count).map(|at| f64::from(u8::from(at == k))).collect() };
    let alone: Vec<f64> = (0..count).map(|k| lost(&one(k))).collect();
    let best = alone.iter().copied().fold(f64::INFINITY, f64::min);
    let equal = lost(&weights(&vec![1.0; count], scores, prompt)?);
    let topic = Topic::of(&document.tokens[..prompt]);
    let (mut saved, mut first) = (0.0, 0.0);
    for mesh in meshes {
        let prior = topic
            .as_ref()
            .map(|topic| mesh.prior(VOCABULARY, topic, experts));
        let prior = prior.unwrap_or_else(|| vec![1.0; count]);
        saved += equal - lost(&weights(&prior, scores, prompt)?);
        let likeliest = (0..count).fold(0, |a, b| if prior[b] > prior[a] { b } else { a });
        first += alone[likeliest] - best;
    }
    Ok(Answer {
        saved: saved / meshes.len() as f64,
        first: first / meshes.len() as f64,
        anybody: alone.iter().sum::<f64>() / count as f64 - best,
    })
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
