//! `quorate eval text`: are more answers right when experts decide them together?
//!
//! `tasks` reads a file of tasks and judges answers, `answers` lets the router's state machine
//! decide them: by every expert alone, and by all together with weights learned from the prompt.
//! Answers are greedy, and kept: a second run only judges.

mod answers;
mod tasks;
#[cfg(test)]
mod tests;

use super::draws::Draws;
use super::figures::interval;
use super::scores::Shelf;
use super::{Progress, Result, Source, check};
use answers::{Answer, Crew, Who};
use quorate_core::weights::Strategy;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tasks::{Task, Tasks};

/// The domain of a row about all of them.
const ALL: &str = "all";

pub struct TextOptions {
    pub tasks: PathBuf,
    /// The first one is the base.
    pub experts: Vec<Source>,
    /// How weights are learned where all answer together.
    pub rules: Vec<Strategy>,
    /// Whether programs that tasks name are run. They are the task writer's, and read what experts wrote.
    pub runs_programs: bool,
    pub seed: u64,
    /// Where answers are kept.
    pub shelf: PathBuf,
    pub progress: Box<Progress>,
}

/// How many answers of one kind were right.
#[derive(Clone, Debug, Serialize)]
pub struct TextRow {
    pub domain: String,
    /// An expert's name, or `together:` and the rule.
    pub who: String,
    pub right: usize,
    pub tasks: usize,
    pub share: f64,
    pub ci: [f64; 2],
}

/// Right answers of all together less those of the expert that was best in each domain, as a share of
/// the tasks. That expert is known afterwards only.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub who: String,
    pub share: f64,
    pub ci: [f64; 2],
}

#[derive(Clone, Debug, Serialize)]
pub struct Answered {
    pub task: String,
    pub who: String,
    pub right: bool,
    pub text: String,
    pub tokens: u32,
    pub weights_ppm: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TextReport {
    pub rows: Vec<TextRow>,
    pub vs_best_of_domain: Vec<Difference>,
    pub answers: Vec<Answered>,
    pub experts: Vec<String>,
    pub tasks: usize,
    pub seed: u64,
}

/// Evaluates. Blocks.
pub fn eval_text(options: &TextOptions) -> Result<TextReport> {
    check(&options.experts)?;
    let tasks = Tasks::read(&options.tasks)?;
    if tasks.need_programs() && !options.runs_programs {
        return Err(super::EvalError::Programs);
    }
    let everybody = everybody(options);
    let shelf = Shelf::new(&options.shelf);
    let (mut crew, mut answers) = (None, Vec::new());
    let all = everybody.len() * tasks.all.len();
    for (name, who) in &everybody {
        for task in &tasks.all {
            (options.progress)(name, answers.len(), all);
            let answer = kept_or_asked(options, &shelf, &mut crew, task, *who)?;
            answers.push(Answered {
                task: task.name.clone(),
                who: name.clone(),
                right: tasks.is_right(task, &answer.text)?,
                text: answer.text,
                tokens: answer.tokens,
                weights_ppm: answer.weights_ppm,
            });
        }
    }
    (options.progress)("answers", all, all);
    Ok(report(options, &tasks.all, &everybody, answers))
}

fn everybody(options: &TextOptions) -> Vec<(String, Who)> {
    let alone = options.experts.iter().enumerate();
    let alone = alone.map(|(nth, source)| (source.name.clone(), Who::Alone(nth)));
    let rules = options.rules.iter();
    let together = rules.map(|rule| (format!("together:{}", rule.name()), Who::Together(*rule)));
    alone.chain(together).collect()
}

fn kept_or_asked(
    options: &TextOptions,
    shelf: &Shelf,
    crew: &mut Option<Crew>,
    task: &Task,
    who: Who,
) -> Result<Answer> {
    let place = shelf.place(&format!("text/{}", key(options, task, who)));
    let kept = std::fs::read(&place).ok();
    if let Some(answer) = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(answer);
    }
    let crew = match crew {
        Some(crew) => crew,
        empty => empty.insert(Crew::load(&options.experts)?),
    };
    let answer = crew.answer(task, who)?;
    let bytes = serde_json::to_vec(&answer);
    let bytes = bytes.map_err(|error| super::EvalError::Panel(error.to_string()))?;
    shelf.keep(&place, &bytes)?;
    Ok(answer)
}

/// What an answer is a function of. Names are in it because it names who decided.
fn key(options: &TextOptions, task: &Task, who: Who) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let of = match who {
        Who::Alone(nth) => {
            part(b"alone");
            &options.experts[nth..=nth]
        }
        Who::Together(rule) => {
            part(rule.name().as_bytes());
            &options.experts[..]
        }
    };
    for source in of {
        part(&source.id.0);
        part(source.name.as_bytes());
    }
    part(task.prompt.as_bytes());
    part(&task.tokens.to_le_bytes());
    task.stop.iter().for_each(|stop| part(stop.as_bytes()));
    hasher.finalize().to_hex()[..32].to_owned()
}

fn report(
    options: &TextOptions,
    tasks: &[Task],
    everybody: &[(String, Who)],
    answers: Vec<Answered>,
) -> TextReport {
    // By who, then by task, as they were asked.
    let right: Vec<Vec<f64>> = answers
        .chunks(tasks.len())
        .map(|of| of.iter().map(|a| f64::from(u8::from(a.right))).collect())
        .collect();
    let mut domains: BTreeSet<&str> = tasks.iter().map(|t| t.domain.as_str()).collect();
    domains.insert(ALL);
    let mut rows = Vec::new();
    for domain in &domains {
        let of = of_domain(tasks, domain);
        for ((who, _), right) in everybody.iter().zip(&right) {
            let right: Vec<f64> = of.iter().map(|&task| right[task]).collect();
            let (share, ci) = interval(&right, Draws::new(options.seed, domain, 0));
            rows.push(TextRow {
                domain: (*domain).to_owned(),
                who: who.clone(),
                right: right.iter().filter(|r| **r > 0.0).count(),
                tasks: of.len(),
                share,
                ci,
            });
        }
    }
    TextReport {
        rows,
        vs_best_of_domain: differences(options, tasks, everybody, &right),
        answers,
        experts: options.experts.iter().map(|s| s.name.clone()).collect(),
        tasks: tasks.len(),
        seed: options.seed,
    }
}

fn of_domain(tasks: &[Task], domain: &str) -> Vec<usize> {
    let is_of = |task: &usize| domain == ALL || tasks[*task].domain == domain;
    (0..tasks.len()).filter(is_of).collect()
}

fn differences(
    options: &TextOptions,
    tasks: &[Task],
    everybody: &[(String, Who)],
    right: &[Vec<f64>],
) -> Vec<Difference> {
    let best = |task: &Task| {
        let of = of_domain(tasks, &task.domain);
        let solved = |expert: usize| of.iter().map(|&t| right[expert][t]).sum::<f64>();
        let experts = 0..options.experts.len();
        experts
            .reduce(|a, b| if solved(b) > solved(a) { b } else { a })
            .unwrap_or(0)
    };
    let best: Vec<usize> = tasks.iter().map(best).collect();
    let together = everybody.iter().zip(right);
    let together = together.filter(|((_, who), _)| matches!(who, Who::Together(_)));
    let difference = |((name, _), ours): (&(String, Who), &Vec<f64>)| {
        let apart = best
            .iter()
            .enumerate()
            .map(|(task, &b)| ours[task] - right[b][task]);
        let apart: Vec<f64> = apart.collect();
        let (share, ci) = interval(&apart, Draws::new(options.seed, "differences", 0));
        Difference {
            who: name.clone(),
            share,
            ci,
        }
    };
    together.map(difference).collect()
}
