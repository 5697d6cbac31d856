//! All requests of a node: who runs, who waits, who is refused. Composes [`Generate`] machines and
//! lets none of them touch an expert without a permit.

use crate::alarm::{Sign, Suspicion};
use crate::config::{Key, MeshConfig};
use crate::generate::{
    Finish, Generate, Guesses, Input as SessionInput, MaskAnswer, Output as SessionOutput, Spec,
};
use crate::governance::{self, Decision, Permit, Rights};
use crate::host::{self, GuestId, Host};
use crate::ids::{ExpertId, Fingerprint, Micros, SessionId, Token};
use crate::law::Sampler;
use crate::limits::SECRETS_MAX;
use crate::opinion::{ExpertEvent, ExpertOp, FromExpert};
use crate::roster::{Introduced, Roster};
use crate::seeded::Secret;
use crate::select::{self, Wanted};
use crate::team::{Plan, Sets};
use crate::vocab::Vocab;
use crate::weights::{self, Gates, Observation, Topic};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

#[path = "node_guests.rs"]
mod guests;
#[path = "node_mixtures.rs"]
mod mixtures;
#[path = "node_rights.rs"]
mod rights;

pub use crate::generate::Event;

/// A request that passed every check at the edge.
#[derive(Debug)]
pub struct Request {
    pub spec: Spec,
    pub vocab: Arc<Vocab>,
    pub experts: Experts,
    pub permit: Permit,
}

/// Whom a request asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Experts {
    /// These of this process, with these weights. One is the local assistant.
    These(Vec<(ExpertId, f64)>),
    /// Those of the mesh that fit, K of them for every token.
    Mesh {
        /// The expert of this process that has part.
        local: Option<ExpertId>,
        sets: Sets,
        /// Fewer than the mesh config allows, if the client wants that.
        k_max: Option<u32>,
    },
}

impl Experts {
    /// Those of this process.
    fn local(&self) -> impl Iterator<Item = ExpertId> + '_ {
        let (these, local) = match self {
            Experts::These(weights) => (weights.as_slice(), None),
            Experts::Mesh { local, .. } => (&[][..], *local),
        };
        these.iter().map(|(expert, _)| *expert).chain(local)
    }
}

#[derive(Debug)]
pub enum Input {
    FromExpert(FromExpert),
    Mask {
        session: SessionId,
        answer: MaskAnswer,
    },
    /// The client went away.
    Cancel {
        session: SessionId,
    },
    /// The client has read so many more tokens.
    Read {
        session: SessionId,
        tokens: u32,
    },
    /// An expert's mailbox was full, or the expert is gone.
    SendFailed {
        session: SessionId,
        expert: ExpertId,
        why: String,
    },
    /// An expert can be asked from now on, or what is known of it has changed.
    Met(Introduced),
    /// An expert cannot be asked any more.
    Left {
        expert: ExpertId,
        why: String,
    },
    /// The moment of `wake_at` has come.
    Tick,
    /// What the node may do has changed: sessions without a valid permit end now.
    Rights(Rights),
    /// What is known of who knows what. Requests that begin from now on set out from it; None: all are alike.
    Gates(Option<Arc<Gates>>),
    /// About sessions of other people's routers.
    Host(host::Input),
}

#[derive(Debug)]
pub enum Output {
    ToExpert(ExpertId, ExpertOp),
    NeedMask {
        session: SessionId,
        committed: Option<Token>,
    },
    Event {
        session: SessionId,
        event: Event,
    },
    ToGuest {
        guest: GuestId,
        event: ExpertEvent,
    },
    /// An expert should be looked at: said once, when the suspicion arises.
    Suspect {
        expert: ExpertId,
        suspicion: Suspicion,
    },
    /// A permit was granted, refused or taken back: for the audit log.
    Decided(Decision),
    /// Who knew the prompt of a request that has ended. It stays on this node.
    Seen {
        vocabulary: Fingerprint,
        seen: Box<Observation>,
    },
}

/// Why a request is not even queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Busy {
        running: usize,
        waiting: usize,
        retry_after_s: u32,
    },
    PromptTooLong {
        prompt: usize,
        context: u32,
    },
    PromptEmpty,
    NoPermit(String),
    /// The session id is in use: a caller's bug, or a guess.
    Duplicate,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    since: Micros,
}

#[derive(Debug)]
struct Running {
    machine: Generate,
    experts: Vec<ExpertId>,
    permit: Permit,
    since: Micros,
    has_fresh_keys: bool,
}

#[derive(Debug)]
pub struct Node {
    /// What the mesh has voted for; without one, what this node was started with.
    config: MeshConfig,
    config_alone: MeshConfig,
    of_mesh: Option<governance::Running>,
    rights: Rights,
    running: BTreeMap<SessionId, Running>,
    waiting: VecDeque<Waiting>,
    /// Running mean of a session's time, for Retry-After.
    mean_session_us: u64,
    generated: u64,
    roster: Roster,
    host: Host,
    /// Guests that ask the whole mesh.
    wholes: BTreeMap<GuestId, mixtures::Whole>,
    /// Under which guests are here.
    host_permit: Option<Permit>,
    /// Of the last requests.
    secrets: VecDeque<Secret>,
    gates: Option<Arc<Gates>>,
}

impl Node {
    pub fn new(config: MeshConfig, rights: Rights) -> Node {
        Node {
            host: Host::new(config.get(Key::ServingSessionsMax) as usize),
            wholes: BTreeMap::new(),
            host_permit: None,
            secrets: VecDeque::new(),
            gates: None,
            roster: Roster::default(),
            config_alone: config.clone(),
            of_mesh: None,
            config,
            rights,
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            mean_session_us: 5_000_000,
            generated: 0,
        }
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Every expert that may be asked, with what was measured of it.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// When to say [`Input::Tick`], if nothing else comes before.
    pub fn wake_at(&self) -> Option<Micros> {
        let running = self.running.values();
        let running = running.filter_map(|r| r.machine.wake_at());
        running.chain(self.mixtures_wake_at()).min()
    }

    /// What holds now: the mesh's document, or this node's own without one.
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// The version of the mesh's config that last took effect here; 0 without a mesh.
    pub fn applied(&self) -> u64 {
        self.of_mesh
            .as_ref()
            .map_or(0, governance::Running::applied)
    }

    pub fn generated_tokens(&self) -> u64 {
        self.generated
    }

    pub fn running_on(&self, expert: ExpertId) -> usize {
        self.running
            .values()
            .filter(|r| r.experts.contains(&expert))
            .count()
    }

    /// Runs, queues, or refuses at once.
    pub fn submit(
        &mut self,
        now: Micros,
        request: Request,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let spec = &request.spec;
        if spec.prompt.is_empty() {
            return Err(Refusal::PromptEmpty);
        }
        if spec.prompt.len() >= spec.context as usize {
            return Err(Refusal::PromptTooLong {
                prompt: spec.prompt.len(),
                context: spec.context,
            });
        }
        self.rights
            .check(request.permit)
            .map_err(|halted| Refusal::NoPermit(halted.to_string()))?;
        let taken = |w: &Waiting| w.request.spec.session == spec.session;
        if self.running.contains_key(&spec.session) || self.waiting.iter().any(taken) {
            return Err(Refusal::Duplicate);
        }
        if self.has_room(&request.experts) {
            self.start(
                now,
                Waiting {
                    request,
                    since: now,
                },
                out,
            );
        } else if self.waiting.len() < self.config.get(Key::ServingQueueMax) as usize {
            self.waiting.push_back(Waiting {
                request,
                since: now,
            });
        } else {
            return Err(Refusal::Busy {
                running: self.running.len(),
                waiting: self.waiting.len(),
                retry_after_s: self.retry_after_s(),
            });
        }
        self.owner_first(now, out);
        Ok(())
    }

    pub fn handle(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        let Some(input) = self.for_mixtures(now, input, out) else {
            return;
        };
        let Some(input) = self.for_guests(now, input, out) else {
            return;
        };
        match input {
            Input::Host(_) => {} // taken above
            Input::FromExpert(from) => {
                let session = from.event.session();
                self.step(now, session, SessionInput::FromExpert(from), out);
            }
            Input::Mask { session, answer } => {
                self.step(now, session, SessionInput::Mask(answer), out)
            }
            Input::SendFailed {
                session,
                expert,
                why,
            } => self.step(now, session, SessionInput::Lost { expert, why }, out),
            Input::Met(facts) => {
                self.roster.meet(facts); // a full roster goes on with those it has
            }
            Input::Left { expert, why } => self.on_left(now, expert, &why, out),
            Input::Tick => {
                for session in self.sessions(|m| m.wake_at().is_some_and(|at| at <= now)) {
                    self.step(now, session, SessionInput::Tick, out);
                }
            }
            Input::Cancel { session } => {
                self.waiting.retain(|w| w.request.spec.session != session);
                self.step(now, session, SessionInput::Cancel, out);
            }
            Input::Read { session, tokens } => {
                self.step(now, session, SessionInput::Read(tokens), out)
            }
            Input::Rights(rights) => self.on_rights(now, rights, out),
            Input::Gates(gates) => self.gates = gates,
        }
        self.owner_first(now, out);
    }

    fn sessions(&self, which: impl Fn(&Generate) -> bool) -> Vec<SessionId> {
        let fit = self.running.iter().filter(|(_, r)| which(&r.machine));
        fit.map(|(id, _)| *id).collect()
    }

    /// There is no mailbox to write to any more: whoever asked this expert goes on without it.
    fn on_left(&mut self, now: Micros, expert: ExpertId, why: &str, out: &mut Vec<Output>) {
        self.roster.forget(expert);
        for session in self.sessions(|_| true) {
            let why = why.to_owned();
            self.step(now, session, SessionInput::Lost { expert, why }, out);
        }
        self.guest(now, host::Input::ExpertGone { expert }, out);
    }

    /// Others say themselves when they have none.
    fn has_room(&self, experts: &Experts) -> bool {
        let taken = |e: ExpertId| self.running_on(e) + self.host.running_on(e) + self.mixed_on(e);
        experts.local().all(|expert| taken(expert) < self.slots())
    }

    fn plan(&self, now: Micros, request: &Request) -> Plan {
        let (local, sets, k_max) = match &request.experts {
            Experts::These(weights) => return Plan::fixed(weights),
            Experts::Mesh { local, sets, k_max } => (*local, *sets, *k_max),
        };
        let spec = &request.spec;
        let needs = spec.prompt.len() as u32 + spec.max_tokens;
        let wanted = Wanted {
            session: spec.session,
            vocabulary: request.vocab.fingerprint(),
            context: needs.min(spec.context),
            local,
            keys: spec.law.sampler == Sampler::Seeded,
        };
        let k = self.config.get(Key::RouterK).min(k_max.unwrap_or(u32::MAX));
        let takes_turns = matches!(sets, Sets::Turns { .. });
        let learns = spec.law.weights.strategy != weights::Strategy::Uniform && !takes_turns;
        let gates = self.gates.as_deref().filter(|_| learns);
        let topic = gates.and_then(|_| Topic::of(&spec.prompt));
        Plan {
            candidates: select::candidates(&self.roster, now, &wanted, gates.zip(topic.as_ref())),
            k: k as usize,
            spares: self.config.get(Key::RouterSpares) as usize,
            sets,
            patience: self.patience(),
            script: None,
        }
    }

    fn start(&mut self, now: Micros, waiting: Waiting, out: &mut Vec<Output>) {
        let plan = self.plan(now, &waiting.request);
        let Request {
            spec,
            vocab,
            experts,
            permit,
        } = waiting.request;
        let session = spec.session;
        let voices = plan.candidates.len().min(plan.k);
        if let Some(why) = spec.law.outvoted(voices) {
            let event = never_ran(why);
            return out.push(Output::Event { session, event });
        }
        let has_fresh_keys = self.is_fresh(&spec.secret);
        let mut machine = match Generate::new(spec, vocab, plan, now.since(waiting.since), now) {
            Ok(machine) => machine,
            Err(bad) => {
                let event = never_ran(format!("{bad}; `quorate peers` shows who is there"));
                return out.push(Output::Event { session, event });
            }
        };
        let mut outputs = Vec::new();
        machine.start(now, &mut outputs);
        let experts = experts.local().collect();
        self.running.insert(
            session,
            Running {
                machine,
                experts,
                permit,
                since: now,
                has_fresh_keys,
            },
        );
        self.after(now, session, outputs, out);
    }

    fn step(
        &mut self,
        now: Micros,
        session: SessionId,
        input: SessionInput,
        out: &mut Vec<Output>,
    ) {
        let Some(running) = self.running.get_mut(&session) else {
            return;
        };
        // Re-read at every step: no token is drawn under a permit that was taken back.
        let input = match self.rights.check(running.permit) {
            Ok(()) => input,
            Err(halted) => SessionInput::Abort(halted.to_string()),
        };
        let mut outputs = Vec::new();
        running.machine.handle(now, input, &mut outputs);
        self.after(now, session, outputs, out);
    }

    /// Passes on what a session wants; when it has ended, the next one begins.
    fn after(
        &mut self,
        now: Micros,
        session: SessionId,
        outputs: Vec<SessionOutput>,
        out: &mut Vec<Output>,
    ) {
        for output in outputs {
            match output {
                SessionOutput::ToExpert(expert, op) => out.push(Output::ToExpert(expert, op)),
                SessionOutput::NeedMask { committed } => {
                    out.push(Output::NeedMask { session, committed });
                }
                SessionOutput::Event(event) => out.push(Output::Event { session, event }),
                SessionOutput::Heard {
                    expert,
                    answered,
                    compute_us,
                    bytes,
                } => self.roster.heard(expert, answered, compute_us, bytes),
                SessionOutput::Weighed { expert, sign } => {
                    out.extend(self.weigh(session, expert, &sign));
                }
                SessionOutput::Failed { expert, why } => self.roster.failed(now, expert, &why),
            }
        }
        if self
            .running
            .get(&session)
            .is_some_and(|r| r.machine.is_done())
            && let Some(ended) = self.running.remove(&session)
        {
            self.generated += u64::from(ended.machine.generated());
            if let Some((vocabulary, seen)) = ended.machine.seen() {
                let seen = Box::new(seen);
                out.push(Output::Seen { vocabulary, seen });
            }
            self.mean_session_us = (self.mean_session_us * 7 + now.since(ended.since)) / 8;
            self.start_waiting(now, out);
        }
    }

    /// Keys that were used before say nothing new: the same numbers would count twice.
    fn weigh(&mut self, session: SessionId, expert: ExpertId, sign: &Sign) -> Option<Output> {
        let is_fresh = self.running.get(&session).is_some_and(|r| r.has_fresh_keys);
        if matches!(sign, Sign::Keyed(_)) && !is_fresh {
            return None;
        }
        let suspicion = self.roster.weighed(expert, sign)?;
        Some(Output::Suspect { expert, suspicion })
    }

    /// Was no request of late made under this secret?
    fn is_fresh(&mut self, secret: &Secret) -> bool {
        if self.secrets.contains(secret) {
            return false;
        }
        if self.secrets.len() >= SECRETS_MAX {
            self.secrets.pop_front();
        }
        self.secrets.push_back(secret.clone());
        true
    }

    /// First come, first served among those whose experts have room.
    fn start_waiting(&mut self, now: Micros, out: &mut Vec<Output>) {
        while let Some(at) = self
            .waiting
            .iter()
            .position(|w| self.has_room(&w.request.experts))
        {
            let Some(next) = self.waiting.remove(at) else {
                return;
            };
            self.start(now, next, out);
        }
    }

    fn slots(&self) -> usize {
        self.config.get(Key::ServingSessionsMax) as usize
    }

    fn retry_after_s(&self) -> u32 {
        let rounds = (self.waiting.len() / self.slots() + 1) as u64;
        (rounds * self.mean_session_us / 1_000_000).clamp(1, 120) as u32
    }
}

fn never_ran(why: String) -> Event {
    Event::Finished {
        why: Finish::Failed(why),
        text: String::new(),
        generated: 0,
        decode_us: 0,
        schedule: Vec::new(),
        guesses: Guesses::default(),
        reasons: None,
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
