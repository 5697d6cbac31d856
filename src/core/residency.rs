//! Which models are in memory: loaded on demand under a byte budget, kept alive for a while, least
//! recently used leaves first. One load at a time: llama.cpp's context creation is not made for more.

use crate::ids::Micros;
use crate::limits::{MODELS_LOADED_MAX, QUEUE_MAX};
use std::collections::{BTreeMap, VecDeque};

/// Names one waiting caller.
pub type Ticket = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    Forever,
    /// Microseconds after the last use.
    For(u64),
}

/// Memory that several models use at once: the weights under an adapter. It is there once, as long
/// as one of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Models with the same key share the same memory.
    pub key: String,
    pub bytes: u64,
}

#[derive(Debug, PartialEq)]
pub enum Input {
    /// Someone needs the model; the answer is a `Grant` or a `Refuse` with this ticket.
    Want {
        ticket: Ticket,
        name: String,
        /// All that it takes when nothing else is in memory.
        bytes: u64,
        /// The part of it that others may have brought already.
        shared: Option<Shared>,
    },
    /// The caller of a granted ticket is done with the model.
    Release {
        name: String,
    },
    /// A waiting caller went away.
    Forget {
        ticket: Ticket,
    },
    Loaded {
        name: String,
        bytes: u64,
    },
    LoadFailed {
        name: String,
        why: String,
    },
    /// Its memory is free again.
    Unloaded {
        name: String,
    },
    /// Let it go as soon as nobody uses it.
    Dismiss {
        name: String,
    },
    Tick,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Load { name: String },
    Unload { name: String },
    Grant { ticket: Ticket, name: String },
    Refuse { ticket: Ticket, why: Refusal },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More than the whole budget; the sentence shows the arithmetic.
    TooLarge(String),
    /// Does not fit beside models that are in use.
    Busy {
        in_use_bytes: u64,
        budget: u64,
    },
    LoadFailed(String),
    QueueFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Wants memory that others must leave first, or its turn to load.
    Pending,
    Loading,
    Ready,
    Leaving,
}

/// One model's place in memory.
#[derive(Debug)]
pub struct Resident {
    pub state: State,
    /// What it takes when it is alone.
    pub bytes: u64,
    shared: Option<Shared>,
    pub users: usize,
    pub last_used: Micros,
    dismissed: bool,
    tickets: VecDeque<Ticket>,
}

#[derive(Debug)]
pub struct Residency {
    budget: u64,
    keep_alive: KeepAlive,
    models: BTreeMap<String, Resident>,
}

impl Residency {
    pub fn new(budget: u64, keep_alive: KeepAlive) -> Residency {
        Residency {
            budget,
            keep_alive,
            models: BTreeMap::new(),
        }
    }

    pub fn models(&self) -> &BTreeMap<String, Resident> {
        &self.models
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Memory taken, or promised to loads under way.
    pub fn used(&self) -> u64 {
        used(self.models.values().filter(|m| m.state != State::Pending))
    }

    /// The same once this pending model is there too.
    fn used_with(&self, pending: &str) -> u64 {
        let there = |(name, m): &(&String, &Resident)| {
            m.state != State::Pending || name.as_str() == pending
        };
        used(self.models.iter().filter(there).map(|(_, m)| m))
    }

    /// Microseconds until an idle model leaves.
    pub fn expires_in_us(&self, name: &str, now: Micros) -> Option<u64> {
        let model = self.models.get(name)?;
        match self.keep_alive {
            KeepAlive::For(span) if model.users == 0 && model.state == State::Ready => {
                Some(span.saturating_sub(now.since(model.last_used)))
            }
            KeepAlive::For(_) | KeepAlive::Forever => None,
        }
    }

    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Want {
                ticket,
                name,
                bytes,
                shared,
            } => self.on_want(now, ticket, name, (bytes, shared), out),
            Input::Release { name } => {
                if let Some(model) = self.models.get_mut(&name) {
                    model.users = model.users.saturating_sub(1);
                    model.last_used = now;
                }
            }
            Input::Forget { ticket } => {
                self.models
                    .values_mut()
                    .for_each(|m| m.tickets.retain(|t| *t != ticket));
                self.models
                    .retain(|_, m| m.state != State::Pending || !m.tickets.is_empty());
            }
            Input::Loaded { name, bytes } => self.on_loaded(now, name, bytes, out),
            Input::LoadFailed { name, why } => {
                self.drop_with(&name, &Refusal::LoadFailed(why), out)
            }
            Input::Unloaded { name } => self.on_unloaded(&name),
            Input::Dismiss { name } => {
                if let Some(model) = self.models.get_mut(&name) {
                    model.dismissed = true;
                }
            }
            Input::Tick => {}
        }
        self.expire(now, out);
        self.make_progress(out);
    }

    fn on_want(
        &mut self,
        now: Micros,
        ticket: Ticket,
        name: String,
        (bytes, shared): (u64, Option<Shared>),
        out: &mut Vec<Output>,
    ) {
        if let Some(model) = self.models.get_mut(&name) {
            model.dismissed = false;
            if model.state == State::Ready {
                model.users += 1;
                model.last_used = now;
                out.push(Output::Grant { ticket, name });
            } else if model.tickets.len() < QUEUE_MAX {
                model.tickets.push_back(ticket);
            } else {
                out.push(Output::Refuse {
                    ticket,
                    why: Refusal::QueueFull,
                });
            }
            return;
        }
        if bytes > self.budget {
            let why = Refusal::TooLarge(format!(
                "it needs {} and this node may use {}",
                megabytes(bytes),
                megabytes(self.budget)
            ));
            return out.push(Output::Refuse { ticket, why });
        }
        let tickets = VecDeque::from([ticket]);
        let model = Resident {
            state: State::Pending,
            bytes,
            shared,
            users: 0,
            last_used: now,
            dismissed: false,
            tickets,
        };
        self.models.insert(name, model);
    }

    fn on_loaded(&mut self, now: Micros, name: String, bytes: u64, out: &mut Vec<Output>) {
        let Some(model) = self.models.get_mut(&name) else {
            return;
        };
        model.state = State::Ready;
        // The engine counts weights and cache; the plan also counted what computing takes.
        model.bytes = model.bytes.max(bytes);
        model.last_used = now;
        model.users = model.tickets.len();
        for ticket in std::mem::take(&mut model.tickets) {
            out.push(Output::Grant {
                ticket,
                name: name.clone(),
            });
        }
    }

    /// Whoever asked for it while it was leaving gets it again.
    fn on_unloaded(&mut self, name: &str) {
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        if model.tickets.is_empty() {
            self.models.remove(name);
        } else {
            model.state = State::Pending;
        }
    }

    fn drop_with(&mut self, name: &str, why: &Refusal, out: &mut Vec<Output>) {
        for ticket in self
            .models
            .remove(name)
            .map(|m| m.tickets)
            .unwrap_or_default()
        {
            out.push(Output::Refuse {
                ticket,
                why: why.clone(),
            });
        }
    }

    fn expire(&mut self, now: Micros, out: &mut Vec<Output>) {
        for (name, model) in &mut self.models {
            let old = match self.keep_alive {
                KeepAlive::Forever => false,
                KeepAlive::For(span) => now.since(model.last_used) >= span,
            };
            if model.state == State::Ready && model.users == 0 && (old || model.dismissed) {
                model.state = State::Leaving;
                out.push(Output::Unload { name: name.clone() });
            }
        }
    }

    /// Loads the next pending model, or makes room for it, or says that there is none.
    fn make_progress(&mut self, out: &mut Vec<Output>) {
        while let Some(name) = self.next_pending() {
            if self.models.values().any(|m| m.state == State::Loading) {
                return;
            }
            let places = self
                .models
                .values()
                .filter(|m| m.state != State::Pending)
                .count();
            if self.used_with(&name) <= self.budget && places < MODELS_LOADED_MAX {
                if let Some(model) = self.models.get_mut(&name) {
                    model.state = State::Loading;
                }
                return out.push(Output::Load { name });
            }
            if self.models.values().any(|m| m.state == State::Leaving) {
                return; // its memory comes soon
            }
            let idle = |m: &&mut Resident| m.state == State::Ready && m.users == 0;
            let oldest = self
                .models
                .values_mut()
                .filter(idle)
                .map(|m| m.last_used)
                .min();
            let victim = self.models.iter_mut().find(|(_, m)| {
                m.state == State::Ready && m.users == 0 && Some(m.last_used) == oldest
            });
            if let Some((name, model)) = victim {
                model.state = State::Leaving;
                return out.push(Output::Unload { name: name.clone() });
            }
            let why = Refusal::Busy {
                in_use_bytes: self.used(),
                budget: self.budget,
            };
            self.drop_with(&name, &why, out);
        }
    }

    fn next_pending(&self) -> Option<String> {
        let pending = self
            .models
            .iter()
            .filter(|(_, m)| m.state == State::Pending);
        pending
            .min_by_key(|(_, m)| m.tickets.front().copied())
            .map(|(name, _)| name.clone())
    }
}

/// What models take together; what they share counts once.
fn used<'a>(models: impl Iterator<Item = &'a Resident>) -> u64 {
    let mut shared: BTreeMap<&str, u64> = BTreeMap::new();
    let mut sum = 0;
    for model in models {
        sum += model.bytes;
        if let Some(Shared { key, bytes }) = &model.shared {
            let part = (*bytes).min(model.bytes);
            sum -= part;
            let once = shared.entry(key).or_default();
            *once = part.max(*once);
        }
    }
    sum + shared.values().sum::<u64>()
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000;

    fn want(ticket: Ticket, name: &str, bytes: u64) -> Input {
        Input::Want {
            ticket,
            name: name.into(),
            bytes,
            shared: None,
        }
    }

    /// An adapter on a base of 60, with 10 of its own.
    fn want_adapter(ticket: Ticket, name: &str) -> Input {
        Input::Want {
            ticket,
            name: name.into(),
            bytes: 70,
            shared: Some(Shared {
                key: "base".into(),
                bytes: 60,
            }),
        }
    }

    struct Run(Residency);

    impl Run {
        fn new(budget: u64) -> Run {
            Run(Residency::new(budget, KeepAlive::For(300 * S)))
        }

        fn at(&mut self, seconds: u64, input: Input) -> Vec<Output> {
            let mut out = Vec::new();
            self.0.handle(Micros(seconds * S), input, &mut out);
            out
        }

        fn loaded(&mut self, seconds: u64, ticket: Ticket, name: &str, bytes: u64) {
            assert_eq!(
                self.at(seconds, want(ticket, name, bytes)),
                [Output::Load { name: name.into() }]
            );
            let got = self.at(
                seconds,
                Input::Loaded {
                    name: name.into(),
                    bytes,
                },
            );
            assert_eq!(
                got,
                [Output::Grant {
                    ticket,
                    name: name.into()
                }]
            );
        }
    }

    #[test]
    fn the_least_recently_used_idle_model_leaves_first() {
        let mut run = Run::new(100);
        run.loaded(0, 1, "a", 40);
        run.loaded(1, 2, "b", 40);
        run.at(2, Input::Release { name: "b".into() });
        run.at(3, Input::Release { name: "a".into() });
        assert_eq!(
            run.at(4, want(3, "c", 50)),
            [Output::Unload { name: "b".into() }]
        );
        assert_eq!(
            run.at(5, Input::Unloaded { name: "b".into() }),
            [Output::Load { name: "c".into() }]
        );
    }

    #[test]
    fn a_model_in_use_never_leaves_and_the_refusal_says_so() {
        let mut run = Run::new(100);
        run.loaded(0, 1, "a", 60);
        let why = Refusal::Busy {
            in_use_bytes: 60,
            budget: 100,
        };
        assert_eq!(
            run.at(9, want(2, "b", 50)),
            [Output::Refuse { ticket: 2, why }]
        );
        assert_eq!(run.at(9999, Input::Tick), []);
    }

    #[test]
    fn too_large_shows_the_arithmetic() {
        let out = Run::new(3_000_000).at(0, want(1, "a", 4_500_000));
        let Output::Refuse {
            why: Refusal::TooLarge(text),
            ..
        } = &out[0]
        else {
            panic!("{out:?}")
        };
        assert_eq!(text, "it needs 5 MB and this node may use 3 MB");
    }

    #[test]
    fn what_adapters_share_counts_once_and_as_long_as_one_of_them_is_there() {
        let mut run = Run::new(100);
        for (ticket, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            assert_eq!(
                run.at(ticket, want_adapter(ticket, name)),
                [Output::Load { name: name.into() }]
            );
            let bytes = 70;
            let name = name.into();
            run.at(ticket, Input::Loaded { name, bytes });
        }
        assert_eq!(run.0.used(), 60 + 4 * 10);
        run.at(5, Input::Release { name: "b".into() });
        assert_eq!(
            run.at(6, want_adapter(5, "e")),
            [Output::Unload { name: "b".into() }],
            "a fifth one wants the place of the idle one"
        );
        let out = run.at(7, Input::Unloaded { name: "b".into() });
        assert_eq!(out, [Output::Load { name: "e".into() }]);
        let (name, bytes) = ("e".into(), 70);
        run.at(7, Input::Loaded { name, bytes });
        let why = Refusal::Busy {
            in_use_bytes: 100,
            budget: 100,
        };
        assert_eq!(
            run.at(8, want(6, "other", 30)),
            [Output::Refuse { ticket: 6, why }]
        );
        for name in ["a", "c", "d", "e"] {
            run.at(9, Input::Release { name: name.into() });
        }
        run.at(400, Input::Tick);
        for (name, left) in [("a", 90), ("c", 80), ("d", 70), ("e", 0)] {
            run.at(400, Input::Unloaded { name: name.into() });
            assert_eq!(run.0.used(), left, "the base leaves with the last");
        }
    }

    #[test]
    fn callers_wait_for_one_load_and_hear_if_it_fails() {
        let mut run = Run::new(100);
        assert_eq!(run.at(0, want(1, "a", 40)).len(), 1);
        assert_eq!(run.at(0, want(2, "a", 40)), []);
        assert_eq!(run.at(0, want(3, "b", 40)), [], "one load at a time");
        let out = run.at(
            1,
            Input::LoadFailed {
                name: "a".into(),
                why: "torn".into(),
            },
        );
        let failed = |ticket| Output::Refuse {
            ticket,
            why: Refusal::LoadFailed("torn".into()),
        };
        assert_eq!(
            out,
            [failed(1), failed(2), Output::Load { name: "b".into() }]
        );
    }

    #[test]
    fn idle_models_leave_after_their_time_and_come_back_when_asked_for_meanwhile() {
        let mut run = Run::new(100);
        run.loaded(0, 1, "a", 40);
        run.at(10, Input::Release { name: "a".into() });
        assert_eq!(run.at(309, Input::Tick), []);
        assert_eq!(
            run.at(310, Input::Tick),
            [Output::Unload { name: "a".into() }]
        );
        assert_eq!(run.at(311, want(2, "a", 40)), []);
        assert_eq!(
            run.at(312, Input::Unloaded { name: "a".into() }),
            [Output::Load { name: "a".into() }]
        );
        assert_eq!(run.at(313, Input::Forget { ticket: 2 }), []);
        assert_eq!(
            run.at(
                314,
                Input::Loaded {
                    name: "a".into(),
                    bytes: 40
                }
            ),
            []
        );
        assert_eq!(
            run.at(314, Input::Dismiss { name: "a".into() }),
            [Output::Unload { name: "a".into() }]
        );
    }

    proptest! {
        /// Whatever happens: within the budget, one load at a time, every ticket answered once.
        #[test]
        fn the_budget_holds_and_every_ticket_is_answered(steps in prop::collection::vec((0u8..6, 0usize..5), 1..200)) {
            let names = ["a", "b", "c", "d", "e"];
            let mut run = Run::new(100);
            let (mut ticket, mut time) = (0, 0);
            let mut open: BTreeMap<Ticket, ()> = BTreeMap::new();
            let mut held: Vec<String> = Vec::new();
            let mut busy: Vec<Output> = Vec::new();
            for (kind, which) in steps {
                time += 40;
                let name = names[which].to_owned();
                let input = match kind {
                    0 | 1 => {
                        ticket += 1;
                        open.insert(ticket, ());
                        let bytes = 15 + 20 * which as u64;
                        let shared = Shared { key: "base".into(), bytes: 10 };
                        let shared = (which % 2 == 0).then_some(shared);
                        Input::Want { ticket, name: names[which].into(), bytes, shared }
                    }
                    2 if !held.is_empty() => Input::Release { name: held.remove(which % held.len()) },
                    3 if !busy.is_empty() => match busy.remove(which % busy.len()) {
                        Output::Load { name } => Input::Loaded { bytes: run.0.models()[&name].bytes, name },
                        Output::Unload { name } => Input::Unloaded { name },
                        other => panic!("{other:?}"),
                    },
                    4 => Input::Dismiss { name },
                    _ => Input::Tick,
                };
                for output in run.at(time, input) {
                    match output {
                        Output::Grant { ticket, name } => {
                            prop_assert!(open.remove(&ticket).is_some());
                            held.push(name);
                        }
                        Output::Refuse { ticket, .. } => prop_assert!(open.remove(&ticket).is_some()),
                        work => busy.push(work),
                    }
                }
                prop_assert!(run.0.used() <= 100);
                let loads = busy.iter().filter(|o| matches!(o, Output::Load { .. })).count();
                prop_assert!(loads <= 1);
                // Nobody is left waiting with nothing under way.
                prop_assert!(open.is_empty() || !busy.is_empty());
            }
        }
    }
}
