//! Answers, decided by the router's own state machine over experts of this process.

use super::tasks::Task;
use crate::eval::{EvalError, Result, Source, loaded, tokenize};
use crate::expert::Expert;
use quorate_core::generate::{Event, Finish, Generate, Guessing, Input, Notes, Output, Spec};
use quorate_core::ids::{ExpertId, Micros, SessionId, Token};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::opinion::{ExpertOp, FromExpert, Scope};
use quorate_core::seeded::Secret;
use quorate_core::team::{Plan, Schedule};
use quorate_core::weights::{Strategy, Weighing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Alone(usize),
    /// All of them, with weights that this strategy learns from the prompt.
    Together(Strategy),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tokens: u32,
    /// Who decided it, with weights in millionths: whole numbers are read back as they were written.
    pub(super) weights_ppm: BTreeMap<String, u32>,
}

/// The experts, in memory together.
pub(super) struct Crew {
    names: BTreeMap<ExpertId, String>,
    /// In the order of the list.
    ids: Vec<ExpertId>,
    experts: BTreeMap<ExpertId, Arc<dyn Expert>>,
    events: mpsc::Receiver<FromExpert>,
    sessions: u128,
}

impl Crew {
    pub(super) fn load(sources: &[Source]) -> Result<Crew> {
        let (events_tx, events) = mpsc::channel(64);
        let mut crew = Crew {
            names: BTreeMap::new(),
            ids: Vec::new(),
            experts: BTreeMap::new(),
            events,
            sessions: 0,
        };
        for source in sources {
            let expert = loaded(source, events_tx.clone())?;
            let id = expert.facts().id;
            let first = crew.experts.values().next();
            let vocabulary = first.map(|first| first.facts().vocab.fingerprint());
            if vocabulary.is_some_and(|v| v != expert.facts().vocab.fingerprint()) {
                return Err(failed(&source.name, "its vocabulary is not the base's"));
            }
            if crew.names.insert(id, source.name.clone()).is_some() {
                return Err(failed(&source.name, "it is in the list twice"));
            }
            crew.ids.push(id);
            crew.experts.insert(id, expert);
        }
        Ok(crew)
    }

    /// Greedy.
    pub(super) fn answer(&mut self, task: &Task, who: Who) -> Result<Answer> {
        self.sessions += 1;
        let wrong = |why: String| EvalError::Panel(format!("task {}: {why}", task.name));
        let base = &self.experts[&self.ids[0]];
        let prompt = tokenize(&**base, &task.prompt).map_err(|e| wrong(e.to_string()))?;
        let prompt: Vec<Token> = base.facts().bos.into_iter().chain(prompt).collect();
        let vocab = base.facts().vocab.clone();
        let mut spec = self.spec(task, prompt).map_err(wrong)?;
        if let Who::Together(strategy) = who {
            let weighing = Weighing {
                strategy,
                ..Weighing::default()
            };
            spec.law = spec.law.weighed(weighing);
        }
        let machine = Generate::new(spec, vocab, self.plan(who), 0, Micros(0));
        let machine = machine.map_err(|error| wrong(error.to_string()))?;
        self.decide(machine).map_err(wrong)
    }

    fn spec(&self, task: &Task, prompt: Vec<Token>) -> std::result::Result<Spec, String> {
        let transforms = Transforms {
            temperature: 0.0,
            ..Transforms::NEUTRAL
        };
        let law = Law::new(transforms, ListLaw::default()).map_err(|error| error.to_string())?;
        let contexts = self.experts.values().map(|expert| expert.facts().context);
        Ok(Spec {
            session: SessionId(self.sessions),
            scope: Scope::OWNER,
            prompt,
            law,
            secret: Secret::from_seed(0, 0),
            max_tokens: task.tokens,
            stop: task.stop.clone(),
            logprobs: None,
            grammar: false,
            context: contexts.min().unwrap_or(0),
            guessing: Guessing::Never,
            paced: false,
            notes: Notes::default(),
        })
    }

    fn plan(&self, who: Who) -> Plan {
        let weight = 1.0 / self.ids.len() as f64;
        let equal: Vec<(ExpertId, f64)> = self.ids.iter().map(|id| (*id, weight)).collect();
        match who {
            Who::Alone(nth) => Plan::fixed(&[(self.ids[nth], 1.0)]),
            Who::Together(_) => Plan::fixed(&equal),
        }
    }

    /// Carries words between the machine and the experts. Its clock stands still: nobody is late.
    fn decide(&mut self, mut machine: Generate) -> std::result::Result<Answer, String> {
        let (mut out, mut answer) = (Vec::new(), String::new());
        machine.start(Micros(0), &mut out);
        loop {
            let mut end = None;
            for output in std::mem::take(&mut out) {
                match output {
                    Output::ToExpert(expert, op) => self.tell(expert, op)?,
                    // Fewer experts would be another answer.
                    Output::Failed { why, .. } => return Err(format!("{why:?}")),
                    Output::Event(Event::Token(token)) => answer.push_str(&token.text),
                    Output::Event(Event::Finished {
                        why: Finish::Failed(why),
                        ..
                    }) => return Err(why),
                    Output::Event(Event::Finished {
                        text,
                        generated,
                        schedule,
                        ..
                    }) => end = Some((text, generated, schedule)),
                    _ => {}
                }
            }
            if let Some((rest, tokens, schedule)) = end {
                return Ok(Answer {
                    text: answer + &rest,
                    tokens,
                    weights_ppm: self.weights(&schedule),
                });
            }
            let from = self.events.blocking_recv();
            let from = from.ok_or_else(|| "the experts are gone".to_owned())?;
            if from.event.session() == SessionId(self.sessions) {
                machine.handle(Micros(0), Input::FromExpert(from), &mut out);
            }
        }
    }

    fn tell(&self, expert: ExpertId, op: ExpertOp) -> std::result::Result<(), String> {
        let known = self.experts.get(&expert).ok_or("an unknown expert")?;
        known.submit(op).map_err(|error| error.to_string())
    }

    /// Of the set that decided last: weights learned from a prompt are frozen after it.
    fn weights(&self, schedule: &Schedule) -> BTreeMap<String, u32> {
        let set = schedule.last().map_or(&[][..], |change| &change.set);
        let ppm = |weight: f64| (weight * 1e6).round() as u32;
        let named = set
            .iter()
            .filter_map(|(id, w)| Some((self.names.get(id)?.clone(), ppm(*w))));
        named.filter(|(_, ppm)| *ppm > 0).collect()
    }
}

fn failed(name: &str, why: &str) -> EvalError {
    EvalError::Expert {
        name: name.to_owned(),
        why: why.to_owned(),
    }
}
