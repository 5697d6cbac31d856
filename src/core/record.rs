//! Everything that a response was a function of, and the proof: a replay runs the very same machine
//! on the recorded answers, under the recorded schedule, and must come to the same text.
//!
//! ```text
//! Event::Decided, Finished ──▶ Recorder ──▶ Recording ──encode──▶ bytes ──decode──▶ Recording ──▶ replay
//! ```

pub use bytes::{Unreadable, decode, encode};
pub use recorder::Recorder;
pub use variation::VARIATION_MIN;

use crate::generate::{
    Decided, Event, Finish, Generate, Guessing, Input, MaskAnswer, Notes, Output, Spec,
};
use crate::ids::{ExpertId, Micros, Position, SessionId, Token};
use crate::lnp::LnP;
use crate::opinion::{ExpertEvent, FromExpert, Opinion, Said, Scope};
use crate::pace::{Pace, Patience};
use crate::team::{BadPlan, Candidate, Plan, Schedule, Sets};
use crate::vocab::{Piece, Vocab};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod bytes;
#[cfg(test)]
mod bytes_tests;
mod recorder;
mod variation;

/// A response as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    pub prompt: Vec<Token>,
    pub law: crate::law::Law,
    pub secret: [u8; 32],
    pub max_tokens: u32,
    pub stop: Vec<String>,
    pub context: u32,
    pub grammar: bool,
    /// Log-probabilities were asked for: then every position has answers, and all of them.
    pub logprobs: bool,
    /// The router's own expert, whose list drafts under the rejection sampler.
    pub local: Option<ExpertId>,
    pub schedule: Schedule,
    pub decided: Vec<Decided>,
    pub vocabulary: u32,
    /// The pieces of every token that was decided: text and ends come from them.
    pub pieces: Vec<(Token, Piece)>,
    pub text: String,
}

/// Why a recording does not stand.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    #[error("the schedule or the weights cannot be: {0}")]
    Plan(#[from] BadPlan),
    #[error("position {position}: the recorded answers decide nothing")]
    Undecided { position: Position },
    #[error("position {position}: {got} was decided, and the recording says {recorded}")]
    Token {
        position: Position,
        got: Token,
        recorded: Token,
    },
    #[error("position {position}: the answers that decided are not those of the recording")]
    Answers { position: Position },
    #[error(
        "position {position}: the weights that follow from what was said are not those of the recording"
    )]
    Weights { position: Position },
    #[error(
        "position {position}: the experts or the weights that decide from here on are not those of the schedule"
    )]
    Schedule { position: Position },
    #[error("the text parts from the recording's after {after} bytes: {got:?} is not {recorded:?}")]
    Text {
        after: usize,
        got: String,
        recorded: String,
    },
    #[error("position {position}: the response went on after its recorded end")]
    GoesOn { position: Position },
}

/// Recomputes the text. `Ok` is the text, and the recording's.
pub fn replay(recording: &Recording) -> Result<String, Mismatch> {
    let session = SessionId(0);
    let spec = Spec {
        session,
        scope: Scope::OWNER,
        prompt: recording.prompt.clone(),
        law: recording.law.clone(),
        secret: crate::seeded::Secret::from_bytes(recording.secret),
        max_tokens: recording.max_tokens,
        stop: recording.stop.clone(),
        logprobs: recording.logprobs.then_some(0),
        grammar: recording.grammar,
        context: recording.context,
        guessing: Guessing::Never,
        paced: false,
        notes: Notes {
            record: true,
            provenance: false,
        },
    };
    let machine = Generate::new(spec, vocabulary(recording), plan(recording), 0, Micros(0))?;
    let mut replay = Replay {
        recording,
        machine,
        done: 0,
        text: String::new(),
        ended: None,
    };
    replay.run(session)?;
    replay.judge()
}

struct Replay<'a> {
    recording: &'a Recording,
    machine: Generate,
    /// Recorded positions that were decided again.
    done: usize,
    text: String,
    ended: Option<(Finish, Schedule)>,
}

impl Replay<'_> {
    fn run(&mut self, session: SessionId) -> Result<(), Mismatch> {
        let mut out = Vec::new();
        self.machine.start(Micros(0), &mut out);
        self.carry_out(&mut out)?;
        while let Some(decided) = self.recording.decided.get(self.done) {
            let at = self.done;
            self.catch_up(session, at + 1, &mut out)?;
            for (n, (question, expert, said)) in decided.answers.iter().enumerate() {
                if self.done > at {
                    self.check_left_over(decided, n)?;
                    break;
                }
                let opinion = Opinion {
                    position: decided.position,
                    said: said.clone(),
                    raw: None,
                    scored: told(decided, *question, *expert),
                };
                self.say(session, *expert, opinion, &mut out)?;
            }
            if self.done == at {
                return Err(Mismatch::Undecided {
                    position: decided.position,
                });
            }
        }
        Ok(())
    }

    fn say(
        &mut self,
        session: SessionId,
        expert: ExpertId,
        opinion: Opinion,
        out: &mut Vec<Output>,
    ) -> Result<(), Mismatch> {
        let event = ExpertEvent::Opinions {
            session,
            epoch: 0,
            opinions: vec![opinion],
            compute_us: 0,
            bytes: 0,
        };
        let from = FromExpert { expert, event };
        self.machine.handle(Micros(0), Input::FromExpert(from), out);
        self.carry_out(out)
    }

    /// What came late and counts from a recorded position on was there before it.
    fn catch_up(
        &mut self,
        session: SessionId,
        at: usize,
        out: &mut Vec<Output>,
    ) -> Result<(), Mismatch> {
        let next = self.recording.decided.get(at);
        let late = next.and_then(|decided| decided.weighed.as_ref());
        for evidence in late.into_iter().flat_map(|weighed| &weighed.caught_up) {
            let position = evidence.position.saturating_add(evidence.ln_p.len() as u32);
            let opinion = Opinion {
                position,
                said: Said::Scalars(Vec::new()),
                raw: None,
                scored: evidence.ln_p.clone(),
            };
            self.say(session, evidence.expert, opinion, out)?;
        }
        Ok(())
    }

    /// Where a law decides early, an expert that was lost may have held up a decision for which the
    /// answers before its loss were enough. What came meanwhile from the others changes nothing; what
    /// anybody else says, or says twice, was never there.
    fn check_left_over(&self, decided: &Decided, from: usize) -> Result<(), Mismatch> {
        let position = decided.position;
        let law = &self.recording.law;
        let early = law.decides_early() && !self.recording.logprobs;
        let schedule = self.recording.schedule.iter();
        let set = schedule.take_while(|c| c.position <= position).last();
        let in_set = |expert: &ExpertId| {
            set.is_some_and(|change| change.set.iter().any(|(known, _)| known == expert))
        };
        let (heard, rest) = decided.answers.split_at(from);
        let last = heard.last().map(|(question, ..)| *question);
        let mut said = BTreeSet::new();
        let each_once = decided
            .answers
            .iter()
            .all(|(q, e, _)| said.insert((*q, *e)));
        let fits = |(question, expert, _): &(u32, ExpertId, Said)| {
            Some(*question) == last && in_set(expert)
        };
        if early && each_once && rest.iter().all(fits) {
            Ok(())
        } else {
            Err(Mismatch::Answers { position })
        }
    }

    /// Answers grammar questions from the recording; notes what was decided.
    fn carry_out(&mut self, out: &mut Vec<Output>) -> Result<(), Mismatch> {
        while !out.is_empty() {
            for output in std::mem::take(out) {
                match output {
                    Output::NeedMask { .. } => {
                        let recorded = self.recording.decided.get(self.done);
                        let answer = match recorded.map(|d| d.mask.as_deref()) {
                            Some(Some(mask)) => MaskAnswer::Allowed(mask.clone()),
                            _ => MaskAnswer::Done,
                        };
                        self.machine.handle(Micros(0), Input::Mask(answer), out);
                    }
                    Output::Event(event) => self.note(event)?,
                    Output::ToExpert(..)
                    | Output::Heard { .. }
                    | Output::Weighed { .. }
                    | Output::Said(_)
                    | Output::Failed { .. } => {}
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, event: Event) -> Result<(), Mismatch> {
        match event {
            Event::Decided(decided) => {
                let position = decided.position;
                let Some(recorded) = self.recording.decided.get(self.done) else {
                    return Err(Mismatch::GoesOn { position });
                };
                if decided.token != recorded.token {
                    return Err(Mismatch::Token {
                        position,
                        got: decided.token,
                        recorded: recorded.token,
                    });
                }
                let same = decided.position == recorded.position
                    && decided.mask == recorded.mask
                    && recorded.answers.starts_with(&decided.answers);
                if !same {
                    return Err(Mismatch::Answers { position });
                }
                if decided.weighed != recorded.weighed {
                    return Err(Mismatch::Weights { position });
                }
                self.done += 1;
            }
            Event::Token(token) => self.text += &token.text,
            Event::Finished {
                why,
                text,
                schedule,
                ..
            } => {
                self.text += &text;
                self.ended = Some((why, schedule));
            }
            Event::Ready { .. } => {}
        }
        Ok(())
    }

    fn judge(mut self) -> Result<String, Mismatch> {
        if self.ended.is_none() {
            // It was cut short: what was said until then must be the same.
            let mut out = Vec::new();
            self.machine.handle(Micros(0), Input::Cancel, &mut out);
            self.carry_out(&mut out)?;
        }
        let used = self.ended.map(|(_, schedule)| schedule).unwrap_or_default();
        if let Some(position) = first_difference(&used, &self.recording.schedule) {
            return Err(Mismatch::Schedule { position });
        }
        if self.text != self.recording.text {
            return Err(parted(&self.text, &self.recording.text));
        }
        Ok(self.text)
    }
}

fn first_difference(used: &Schedule, recorded: &Schedule) -> Option<Position> {
    let at = (0..used.len().max(recorded.len())).find(|&i| used.get(i) != recorded.get(i))?;
    let position = |schedule: &Schedule| schedule.get(at).map(|change| change.position);
    position(recorded).or(position(used))
}

/// Where two texts part, and a few words of each.
fn parted(got: &str, recorded: &str) -> Mismatch {
    const SHOWN: usize = 24;
    let same = got.chars().zip(recorded.chars());
    let after = same
        .take_while(|(a, b)| a == b)
        .map(|(c, _)| c.len_utf8())
        .sum();
    let words = |text: &str| text[after..].chars().take(SHOWN).collect();
    Mismatch::Text {
        after,
        got: words(got),
        recorded: words(recorded),
    }
}

/// What an expert thought of the tokens before, with its first answer.
fn told(decided: &Decided, question: u32, expert: ExpertId) -> Vec<LnP> {
    let weighed = decided.weighed.as_ref().filter(|_| question == 0);
    let mut told = weighed.into_iter().flat_map(|weighed| &weighed.told);
    let told = told.find(|told| told.expert == expert);
    told.map_or_else(Vec::new, |told| told.ln_p.clone())
}

/// Everybody who ever decided, under the recorded schedule, or had a weight where weights follow.
fn plan(recording: &Recording) -> Plan {
    let scheduled = recording.schedule.iter().flat_map(|change| &change.set);
    let first = recording.decided.first();
    let start = first.and_then(|decided| decided.weighed.as_ref());
    let start = start.into_iter().flat_map(|weighed| &weighed.start);
    let mut everybody: BTreeMap<ExpertId, f64> =
        scheduled.map(|(expert, _)| (*expert, 0.0)).collect();
    everybody.extend(start.copied());
    let candidates = everybody.into_iter().map(|(expert, weight)| Candidate {
        expert,
        weight,
        local: Some(expert) == recording.local,
        pace: Pace::default(),
    });
    let largest = recording.schedule.iter().map(|c| c.set.len()).max();
    Plan {
        candidates: candidates.collect(),
        k: largest.unwrap_or(0),
        spares: 0,
        sets: Sets::A,
        patience: Patience {
            percent: 200,
            floor_us: 0,
        },
        script: Some(recording.schedule.clone()),
    }
}

fn vocabulary(recording: &Recording) -> Arc<Vocab> {
    let nothing = Piece {
        bytes: Vec::new(),
        control: false,
        ends: false,
    };
    let piece = |token| {
        let at = recording.pieces.binary_search_by_key(&token, |(t, _)| *t);
        at.map_or_else(|_| nothing.clone(), |at| recording.pieces[at].1.clone())
    };
    Arc::new(Vocab::new((0..recording.vocabulary).map(piece)))
}

/// The pieces that a recording must hold.
pub fn pieces(vocab: &Vocab, decided: &[Decided]) -> Vec<(Token, Piece)> {
    let tokens: BTreeSet<Token> = decided.iter().map(|d| d.token).collect();
    let piece = |token| Piece {
        bytes: vocab.piece(token).to_vec(),
        control: vocab.is_control(token),
        ends: vocab.ends_turn(token),
    };
    tokens.into_iter().map(|t| (t, piece(t))).collect()
}
