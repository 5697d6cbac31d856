//! The router's state machine over experts that are asked directly, without a network: what is
//! measured here is what they say and what the core makes of it.

use super::{BenchError, Result};
use quorate_core::generate::{Event, Finish, Generate, Guessing, Input, Notes, Output, Spec};
use quorate_core::ids::{ExpertId, Micros, Position, SessionId, Token};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::opinion::{ExpertEvent, ExpertOp, FromExpert, Query, Scope};
use quorate_core::seeded::Secret;
use quorate_core::team::{Change, Plan};
use quorate_core::vocab::Vocab;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Carries out what an expert is told, and brings what it answers.
pub(super) type Ask<'a> = dyn FnMut(ExpertId, ExpertOp) -> Result<Option<ExpertEvent>> + 'a;

/// One text to decide.
pub(super) struct Text {
    pub(super) session: SessionId,
    pub(super) vocab: Arc<Vocab>,
    /// They weigh the same.
    pub(super) experts: Vec<ExpertId>,
    pub(super) prompt: Vec<Token>,
    pub(super) seed: u64,
    pub(super) tokens: u32,
    /// Temperature 0 is the greedy law.
    pub(super) temperature: f32,
    /// Every list is waited for, where the law would decide without the last ones.
    pub(super) whole: bool,
}

impl Text {
    pub(super) fn secret(&self) -> Secret {
        Secret::from_seed(self.seed, 0)
    }

    /// A schedule of its own: that may name more experts than a mesh of today asks.
    pub(super) fn plan(&self) -> Plan {
        let weight = 1.0 / self.experts.len() as f64;
        let set: Vec<(ExpertId, f64)> = self.experts.iter().map(|e| (*e, weight)).collect();
        let fixed = Plan::fixed(&set);
        let position = self.prompt.len() as u32;
        Plan {
            script: Some(vec![Change { position, set }]),
            ..fixed
        }
    }

    pub(super) fn spec(&self) -> Result<Spec> {
        let transforms = Transforms {
            temperature: self.temperature,
            ..Transforms::NEUTRAL
        };
        let law = Law::new(transforms, ListLaw::default());
        let law = law.map_err(|error| BenchError::new("the law", error))?;
        Ok(Spec {
            session: self.session,
            scope: Scope::OWNER,
            prompt: self.prompt.clone(),
            law,
            secret: self.secret(),
            max_tokens: self.tokens,
            stop: Vec::new(),
            // Log-probabilities are those of the whole mixture.
            logprobs: self.whole.then_some(0),
            grammar: false,
            context: u32::MAX,
            guessing: Guessing::Never,
            paced: false,
            notes: Notes {
                provenance: false,
                record: true,
            },
        })
    }
}

/// What is noted of a position, as it is decided.
pub(super) trait Watch {
    /// All have answered the first question about it; more may be asked.
    fn asked(&mut self, position: Position, ask: &mut Ask<'_>) -> Result<()>;
    /// An answer that the router gets.
    fn answer(&mut self, event: &ExpertEvent) -> Result<()>;
    fn decided(&mut self, token: Token);
    /// All that the owner of the text hears.
    fn heard(&mut self, _: &Event) {}
}

/// Decides a text. Returns the time that the router itself took, and the tokens.
pub(super) fn decide(
    text: &Text,
    ask: &mut Ask<'_>,
    watch: &mut dyn Watch,
) -> Result<(Duration, u32)> {
    decide_as(text.spec()?, text.plan(), text.vocab.clone(), ask, watch)
}

/// The same under another law, or by another plan.
pub(super) fn decide_as(
    spec: Spec,
    plan: Plan,
    vocab: Arc<Vocab>,
    ask: &mut Ask<'_>,
    watch: &mut dyn Watch,
) -> Result<(Duration, u32)> {
    let machine = Generate::new(spec, vocab, plan, 0, Micros(0));
    let mut machine = machine.map_err(|error| BenchError::new("the team", error))?;
    let (mut out, mut router, mut tokens) = (Vec::new(), Duration::ZERO, 0);
    let begun = Instant::now();
    machine.start(Micros(0), &mut out);
    router += begun.elapsed();
    while !out.is_empty() {
        let mut answers = Vec::new();
        let mut first_about = None;
        for output in std::mem::take(&mut out) {
            if let Output::Event(event) = &output {
                watch.heard(event);
            }
            match output {
                Output::ToExpert(expert, op) => {
                    first_about = first_about.or(asks_first(&op));
                    if let Some(event) = ask(expert, op)? {
                        answers.push(FromExpert { expert, event });
                    }
                }
                Output::Event(Event::Decided(decided)) => {
                    tokens += 1;
                    watch.decided(decided.token);
                }
                Output::Event(Event::Finished {
                    why: Finish::Failed(why),
                    ..
                }) => return Err(BenchError::new("deciding", why)),
                _ => {}
            }
        }
        if let Some(position) = first_about {
            watch.asked(position, ask)?;
        }
        for from in answers {
            watch.answer(&from.event)?;
            let begun = Instant::now();
            machine.handle(Micros(0), Input::FromExpert(from), &mut out);
            router += begun.elapsed();
        }
    }
    Ok((router, tokens))
}

/// The position that a draft asks about.
fn asks_first(op: &ExpertOp) -> Option<Position> {
    match op {
        ExpertOp::Draft {
            position,
            tokens,
            queries,
            ..
        } if !queries.is_empty() => Some(position + tokens.len() as u32),
        _ => None,
    }
}

/// A question beside those of the router.
pub(super) fn beside(session: SessionId, position: Position, query: Query) -> ExpertOp {
    ExpertOp::Ask {
        session,
        epoch: 0,
        position,
        query,
    }
}
