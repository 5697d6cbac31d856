//! One request's token loop: ask, decide, commit, until the text ends.
//!
//! The loop holds a set of voices (experts with a weight). With one voice it is a local assistant,
//! with K it is the mesh: there is no other path. Everything it does is a function of its inputs;
//! what it wants done goes to the outbox.
//!
//! ```text
//!            Open, Draft                 Opinions (all)            undecided: Ask
//!  start ────────────────▶ Asking ───────────────────▶ decide ──────────────────▶ Asking again
//!     │ grammar               ▲                          │
//!     └──▶ Masking ───────────┘◀────── next position ────┤ token
//!            (one token allowed: no question)            └──▶ Done (Close, Finished)
//! ```

use crate::aggregate::{self, Verdict, Voice};
use crate::ids::{ExpertId, Micros, Position, SessionId, Token};
use crate::law::{Law, Sampler};
use crate::limits::{SECOND_QUESTIONS_MAX, STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX};
use crate::lnp::LnP;
use crate::mask::Mask;
use crate::opinion::{
    ExpertEvent, ExpertOp, FromExpert, List, Open, Opinion, Query, Raw, Said, Scope, Want,
};
use crate::seeded::Secret;
use crate::text::Text;
use crate::vocab::Vocab;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything a response is a function of, but the experts' opinions.
#[derive(Clone, Debug)]
pub struct Spec {
    pub session: SessionId,
    pub scope: Scope,
    pub prompt: Vec<Token>,
    pub law: Law,
    pub secret: Secret,
    pub max_tokens: u32,
    pub stop: Vec<String>,
    /// Log-probabilities wanted, with this many alternatives.
    pub logprobs: Option<u8>,
    /// A grammar outside answers `NeedMask` at every position.
    pub grammar: bool,
    /// Tokens that the smallest context among the experts holds.
    pub context: u32,
}

/// Why a response ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, a stop string came, or the grammar was complete.
    Stop,
    /// max_tokens, or the context is full.
    Length,
    /// The client went away or asked for it.
    Cancelled,
    Failed(String),
}

/// One token, decided.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    pub token: Token,
    pub position: Position,
    /// New text for the client: whole characters only, so sometimes empty and sometimes several
    /// tokens' worth.
    pub text: String,
    /// Untransformed ln p, if log-probabilities were asked for.
    pub ln_p: Option<f64>,
    pub top: Vec<(Token, f64)>,
}

/// What a request's owner hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is in; `reused` tokens of it were cached.
    Ready {
        prompt_tokens: u32,
        reused: u32,
        queued_us: u64,
        prefill_us: u64,
    },
    Token(TokenEvent),
    /// Always last, exactly once. `text` is what was held back for a stop string that never came.
    Finished {
        why: Finish,
        text: String,
        generated: u32,
        decode_us: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    FromExpert(FromExpert),
    /// The grammar's answer to `NeedMask`.
    Mask(MaskAnswer),
    Cancel,
    /// Permission is gone (a halt), or an expert's mailbox refused: the reason is shown.
    Abort(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum MaskAnswer {
    Allowed(Mask),
    /// The text is complete.
    Done,
    Failed(String),
}

#[derive(Clone, Debug)]
pub enum Output {
    ToExpert(ExpertId, ExpertOp),
    /// What may come next, after `committed` (None: at the beginning)?
    NeedMask {
        committed: Option<Token>,
    },
    Event(Event),
}

/// One expert's part in this response.
#[derive(Debug)]
struct Part {
    expert: ExpertId,
    weight: f64,
    /// Its list at the undecided position.
    opinion: Option<Opinion>,
    /// Its exact values of the contenders.
    exact: Option<Vec<LnP>>,
}

#[derive(Debug)]
enum State {
    /// Waiting for the grammar.
    Masking,
    /// Waiting for lists from every part.
    Asking(Query),
    /// Waiting for exact values of these tokens from every part.
    Contending(Query, Vec<Token>),
    Done,
}

#[derive(Debug)]
pub struct Generate {
    spec: Spec,
    vocab: Arc<Vocab>,
    /// In expert-id order: sums run in this order.
    parts: Vec<Part>,
    state: State,
    text: Text,
    /// Decided but not sent to the experts yet.
    unsent: Vec<Token>,
    generated: u32,
    /// Second questions at this position so far.
    asked_again: u32,
    started: Micros,
    first_ready: bool,
    queued_us: u64,
    decoding_since: Micros,
}

impl Generate {
    /// `weights` is the mixture; it is summed in expert-id order, whatever its order here.
    pub fn new(
        spec: Spec,
        vocab: Arc<Vocab>,
        weights: &[(ExpertId, f64)],
        queued_us: u64,
        now: Micros,
    ) -> Generate {
        let weights: BTreeMap<ExpertId, f64> = weights.iter().copied().collect();
        let parts = weights
            .into_iter()
            .map(|(expert, weight)| Part {
                expert,
                weight,
                opinion: None,
                exact: None,
            })
            .collect();
        let stops = spec
            .stop
            .iter()
            .take(STOP_STRINGS_MAX)
            .filter(|s| s.len() <= STOP_STRING_BYTES_MAX);
        Generate {
            text: Text::new(&stops.cloned().collect::<Vec<_>>()),
            vocab,
            parts,
            state: State::Masking,
            unsent: Vec::new(),
            generated: 0,
            asked_again: 0,
            started: now,
            first_ready: false,
            queued_us,
            decoding_since: now,
            spec,
        }
    }

    pub fn session(&self) -> SessionId {
        self.spec.session
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub fn generated(&self) -> u32 {
        self.generated
    }

    /// Opens the sessions; prefill runs while the grammar is still thinking.
    pub fn start(&mut self, now: Micros, out: &mut Vec<Output>) {
        for part in &self.parts {
            let open = Open {
                session: self.spec.session,
                scope: self.spec.scope,
                prompt: self.spec.prompt.clone(),
                answered: Vec::new(),
                transforms: self.spec.law.transforms.clone(),
                score: false,
            };
            out.push(Output::ToExpert(
                part.expert,
                ExpertOp::Open(Box::new(open)),
            ));
        }
        if self.spec.max_tokens == 0 {
            return self.finish(Finish::Length, now, out);
        }
        self.next_position(None, out);
    }

    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        if self.is_done() {
            return; // late opinions of a finished response
        }
        match input {
            Input::FromExpert(from) => self.on_expert(now, from, out),
            Input::Mask(answer) => self.on_mask(now, answer, out),
            Input::Cancel => self.finish(Finish::Cancelled, now, out),
            Input::Abort(why) => self.finish(Finish::Failed(why), now, out),
        }
    }

    fn on_expert(&mut self, now: Micros, from: FromExpert, out: &mut Vec<Output>) {
        let Some(at) = self.parts.iter().position(|p| p.expert == from.expert) else {
            return;
        };
        match from.event {
            ExpertEvent::Ready {
                reused, prefill_us, ..
            } => self.on_ready(now, reused, prefill_us, out),
            ExpertEvent::Scored { .. } => {} // evidence: weights are frozen until they can be learned
            ExpertEvent::Opinions { opinions, .. } => {
                for opinion in opinions {
                    if let Err(why) = self.take(at, opinion) {
                        return self.finish(Finish::Failed(why), now, out);
                    }
                }
                self.decide_if_complete(now, out);
            }
            ExpertEvent::Failed { why, .. } => {
                self.finish(Finish::Failed(why.to_string()), now, out)
            }
        }
    }

    fn on_ready(&mut self, now: Micros, reused: u32, prefill_us: u64, out: &mut Vec<Output>) {
        if self.first_ready {
            return;
        }
        self.first_ready = true;
        self.decoding_since = now;
        let prompt_tokens = self.spec.prompt.len() as u32;
        out.push(Output::Event(Event::Ready {
            prompt_tokens,
            reused,
            queued_us: self.queued_us,
            prefill_us,
        }));
    }

    /// Files one expert's opinion about the undecided position; anything else is late and dropped.
    fn take(&mut self, at: usize, opinion: Opinion) -> Result<(), String> {
        if opinion.position != self.position() {
            return Ok(());
        }
        let part = &mut self.parts[at];
        match (&self.state, &opinion.said) {
            (State::Asking(_), Said::List(list)) => {
                list.check(self.vocab.len())
                    .map_err(|bad| format!("an expert sent a list with {bad}"))?;
                part.opinion = Some(opinion);
            }
            (State::Contending(_, contenders), Said::Scalars(values)) => {
                if values.len() != contenders.len() {
                    return Err("an expert left questions unanswered".into());
                }
                part.exact = Some(values.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn decide_if_complete(&mut self, now: Micros, out: &mut Vec<Output>) {
        let verdict = match &self.state {
            State::Asking(query) => {
                let Some(voices) = self.voices() else { return };
                match &query.want {
                    Want::Perturbed { key, .. } => aggregate::seeded(*key, &voices),
                    Want::Plain { .. } | Want::Scalars(_) => aggregate::greedy(&voices),
                }
            }
            State::Contending(query, contenders) => {
                let Want::Perturbed { key, .. } = query.want else {
                    return;
                };
                let said: Option<Vec<(f64, &[LnP])>> = self
                    .parts
                    .iter()
                    .map(|p| Some((p.weight, p.exact.as_deref()?)))
                    .collect();
                let Some(said) = said else { return };
                aggregate::seeded_exact(key, contenders, &said)
            }
            State::Masking | State::Done => return,
        };
        match verdict {
            Verdict::Token(token) => self.commit(now, token, out),
            undecided => self.ask_again(now, undecided, out),
        }
    }

    /// None until every part has spoken.
    fn voices(&self) -> Option<Vec<Voice<'_>>> {
        self.parts
            .iter()
            .map(|part| match &part.opinion.as_ref()?.said {
                Said::List(list) => Some(Voice {
                    weight: part.weight,
                    list,
                }),
                Said::Scalars(_) => None,
            })
            .collect()
    }

    fn ask_again(&mut self, now: Micros, verdict: Verdict, out: &mut Vec<Output>) {
        self.asked_again += 1;
        let (State::Asking(query) | State::Contending(query, _)) =
            std::mem::replace(&mut self.state, State::Done)
        else {
            return;
        };
        if self.asked_again > SECOND_QUESTIONS_MAX {
            self.state = State::Masking;
            return self.finish(
                Finish::Failed("the experts' opinions never decided a token".into()),
                now,
                out,
            );
        }
        let mut next = query.clone();
        match verdict {
            Verdict::Contenders(tokens) => {
                next.want = Want::Scalars(tokens.clone());
                self.parts.iter_mut().for_each(|p| p.exact = None);
                self.state = State::Contending(query, tokens);
                self.ask_all(&next, out);
            }
            Verdict::Lower(tau) => {
                if let Want::Perturbed { tau: old, .. } = &mut next.want {
                    *old = tau;
                }
                self.ask_lists(next, out);
            }
            Verdict::NoMass if !query.untruncated => {
                next.untruncated = true;
                self.ask_lists(next, out);
            }
            Verdict::NoMass | Verdict::Token(_) => self.decide_without_mass(now, &query, out),
        }
    }

    fn ask_lists(&mut self, query: Query, out: &mut Vec<Output>) {
        self.parts.iter_mut().for_each(|p| p.opinion = None);
        self.ask_all(&query, out);
        self.state = State::Asking(query);
    }

    /// Even without truncation no allowed token reaches the smallest probability that travels.
    fn decide_without_mass(&mut self, now: Micros, query: &Query, out: &mut Vec<Output>) {
        let key = match query.want {
            Want::Perturbed { key, .. } => Some(key),
            Want::Plain { .. } | Want::Scalars(_) => None,
        };
        match query
            .mask
            .as_ref()
            .and_then(|mask| aggregate::among(mask, key))
        {
            Some(token) => {
                self.state = State::Asking(query.clone());
                self.commit(now, token, out);
            }
            None => {
                self.state = State::Masking;
                self.finish(
                    Finish::Failed("no token has any probability".into()),
                    now,
                    out,
                );
            }
        }
    }

    fn on_mask(&mut self, now: Micros, answer: MaskAnswer, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Masking) {
            return;
        }
        match answer {
            MaskAnswer::Done => self.finish(Finish::Stop, now, out),
            MaskAnswer::Failed(why) => self.finish(Finish::Failed(why), now, out),
            MaskAnswer::Allowed(mask) => match mask.allowed() {
                0 => self.finish(
                    Finish::Failed("the grammar allows nothing here".into()),
                    now,
                    out,
                ),
                // Nothing to decide, so nothing to ask; log-probabilities still need an opinion.
                1 if self.spec.logprobs.is_none() => {
                    if let Some(token) = mask.tokens().next() {
                        self.commit(now, token, out);
                    }
                }
                _ => self.ask(Some(Arc::new(mask)), out),
            },
        }
    }

    fn commit(&mut self, now: Micros, token: Token, out: &mut Vec<Output>) {
        let (ln_p, top) = self.raw_of(token);
        if self.vocab.ends_turn(token) {
            return self.finish(Finish::Stop, now, out);
        }
        let position = self.position();
        let (text, stopped) = self.text.push(self.vocab.text(token));
        self.unsent.push(token);
        self.generated += 1;
        out.push(Output::Event(Event::Token(TokenEvent {
            token,
            position,
            text,
            ln_p,
            top,
        })));
        if stopped.is_some() {
            self.finish(Finish::Stop, now, out);
        } else if self.generated >= self.spec.max_tokens || self.position() >= self.spec.context {
            self.finish(Finish::Length, now, out);
        } else {
            self.next_position(Some(token), out);
        }
    }

    fn next_position(&mut self, committed: Option<Token>, out: &mut Vec<Output>) {
        self.asked_again = 0;
        if self.spec.grammar {
            self.state = State::Masking;
            out.push(Output::NeedMask { committed });
        } else {
            self.ask(None, out);
        }
    }

    /// The first question about a position carries the tokens decided since the last one.
    fn ask(&mut self, mask: Option<Arc<Mask>>, out: &mut Vec<Output>) {
        let lists = self.spec.law.lists;
        let mut query = match self.spec.law.sampler {
            Sampler::Seeded => Query::perturbed(self.spec.secret.key(self.position()), lists.tau),
            Sampler::Greedy => Query::plain(lists.mass, lists.max_entries),
        };
        query.mask = mask;
        query.raw_top = self.spec.logprobs;
        let position = self.position() - self.unsent.len() as u32;
        let tokens = std::mem::take(&mut self.unsent);
        for part in &mut self.parts {
            part.opinion = None;
            out.push(Output::ToExpert(
                part.expert,
                ExpertOp::Draft {
                    session: self.spec.session,
                    epoch: 0,
                    position,
                    tokens: tokens.clone(),
                    queries: vec![query.clone()],
                },
            ));
        }
        self.state = State::Asking(query);
    }

    fn ask_all(&self, query: &Query, out: &mut Vec<Output>) {
        let position = self.position();
        for part in &self.parts {
            let op = ExpertOp::Ask {
                session: self.spec.session,
                epoch: 0,
                position,
                query: query.clone(),
            };
            out.push(Output::ToExpert(part.expert, op));
        }
    }

    /// The mixture's untransformed ln p of the chosen token, and its top tokens.
    fn raw_of(&self, token: Token) -> (Option<f64>, Vec<(Token, f64)>) {
        let Some(wanted) = self.spec.logprobs else {
            return (None, Vec::new());
        };
        let mut chosen = 0.0;
        let mut top: BTreeMap<Token, f64> = BTreeMap::new();
        for part in &self.parts {
            let Some(Opinion {
                said: Said::List(list),
                raw: Some(raw),
                ..
            }) = &part.opinion
            else {
                continue;
            };
            chosen += part.weight * raw_value(list, raw, token);
            for entry in &raw.top {
                *top.entry(entry.token).or_default() += part.weight * entry.ln_p.p();
            }
        }
        let mut top: Vec<(Token, f64)> = top.into_iter().map(|(v, p)| (v, libm::log(p))).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(usize::from(wanted));
        (Some(libm::log(chosen)), top)
    }

    /// The position under decision.
    fn position(&self) -> Position {
        self.spec.prompt.len() as u32 + self.generated
    }

    fn finish(&mut self, why: Finish, now: Micros, out: &mut Vec<Output>) {
        self.state = State::Done;
        for part in &self.parts {
            out.push(Output::ToExpert(
                part.expert,
                ExpertOp::Close {
                    session: self.spec.session,
                },
            ));
        }
        let decode_us = if self.first_ready {
            now.since(self.decoding_since)
        } else {
            now.since(self.started)
        };
        let text = self.text.flush();
        out.push(Output::Event(Event::Finished {
            why,
            text,
            generated: self.generated,
            decode_us,
        }));
    }
}

fn raw_value(list: &List, raw: &Raw, token: Token) -> f64 {
    let at = list.entries.binary_search_by_key(&token, |e| e.token).ok();
    at.and_then(|at| raw.of_said.get(at))
        .map_or(0.0, |ln_p| ln_p.p())
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
