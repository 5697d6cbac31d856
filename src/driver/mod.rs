//! The one loop: take an input, let core decide, carry out its outputs.
//!
//! ```text
//!  handles ──commands──▶┐                      ┌──▶ expert mailboxes (try_send)
//!  handles' notices ───▶│  loop                │
//!  experts ──events────▶│  core::Node          ├──▶ clients' event channels (try_send)
//!  blocking threads ───▶│  core::Residency     ├──▶ blocking threads: load, unload, masks
//!  tick ───────────────▶┘                      └──▶ replies
//! ```
//!
//! It never waits for anything but its inputs. Experts' threads wait for it, which is the
//! back-pressure; clients' channels have room for all that they are told before they read.

mod audit;
mod experts;
mod guest;
mod guests;
mod handle;
mod status;

pub use audit::Note;
pub use guest::{Answers, Guest, GuestOps, Offer};
pub use guests::{Gate, Seen};
pub use handle::{
    AcquireError, Asked, Find, Found, Generation, GenerationStream, Lease, Load, Models, Node,
    Offers, RefusedError, Tape,
};
pub use status::{ModelStatus, NodeStatus, Residence};

use crate::expert::{Expert, SubmitError};
use crate::grammar::{Matcher, Next};
use crate::policy::Policy;
use crate::wire::plane::Purpose;
use experts::Experts;
use guests::Guests;
use quorate_core::config::MeshConfig;
use quorate_core::donor::Donor;
use quorate_core::generate::{Event, Finish, Guesses, MaskAnswer, Spec};
use quorate_core::governance::Rights;
use quorate_core::host::{GuestId, Visit};
use quorate_core::ids::{ExpertId, Micros, PeerKey, SessionId, Token};
use quorate_core::limits::{DRIVER_INBOX_MAX, QUEUE_MAX, SESSIONS_MAX};
use quorate_core::node;
use quorate_core::opinion::{ExpertEvent, ExpertFailure, ExpertOp, FromExpert};
use quorate_core::residency::{self, KeepAlive, Residency, Ticket};
use quorate_core::vocab::Vocab;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often idle models are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Inputs of one kind taken in one turn before the others are looked at.
const INPUTS_PER_TURN: usize = 64;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_id: String,
    pub memory_budget_bytes: u64,
    pub keep_alive: KeepAlive,
    pub config: MeshConfig,
}

/// From a handle to the loop.
pub(crate) enum Command {
    Acquire {
        found: Found,
        reply: oneshot::Sender<Result<Lease, AcquireError>>,
    },
    Submit(Box<Submission>),
    Dismiss {
        name: String,
        reply: oneshot::Sender<bool>,
    },
    Status {
        reply: oneshot::Sender<NodeStatus>,
    },
    // The mesh.
    Adopt {
        expert: Arc<dyn Expert>,
        reply: oneshot::Sender<Result<(), ExpertFailure>>,
    },
    Lose {
        expert: ExpertId,
        why: String,
        reply: oneshot::Sender<bool>,
    },
    /// May this peer come to this model?
    Knock {
        peer: PeerKey,
        model: String,
        purpose: Purpose,
        reply: oneshot::Sender<Result<(), ExpertFailure>>,
    },
    Visit {
        visit: Box<Visit>,
        events: mpsc::Sender<ExpertEvent>,
        lease: Lease,
        reply: oneshot::Sender<()>,
    },
    GuestOp {
        guest: GuestId,
        op: ExpertOp,
    },
    Expel {
        peer: PeerKey,
        why: String,
    },
    Rights(Rights),
    Audit(Option<mpsc::Sender<Note>>),
    Gate(Option<Gate>),
    Policy(Policy),
    Donate(Donor),
    Pause(bool),
}

pub(crate) struct Submission {
    spec: Spec,
    /// The name of the model that reads it.
    model: String,
    vocab: Arc<Vocab>,
    experts: node::Experts,
    matcher: Option<Matcher>,
    events: mpsc::Sender<Event>,
    reply: oneshot::Sender<Result<(), RefusedError>>,
}

/// A handle went away, or its text was read. The channel has no bound of its own, because a destructor cannot
/// wait: there is at most one message for each lease, stream and guest alive, and those are bounded, and
/// for a stream also one for every `READ_TOKENS` of the tokens that it may be told before it reads.
pub(crate) enum Notice {
    Lease { name: String },
    Stream { session: SessionId },
    Read { session: SessionId, tokens: u32 },
    Guest(GuestId),
}

/// From a blocking thread to the loop.
enum Done {
    Loaded {
        name: String,
        result: Result<Arc<dyn Expert>, String>,
    },
    Unloaded {
        name: String,
    },
    Mask {
        session: SessionId,
        matcher: Box<Matcher>,
        answer: MaskAnswer,
    },
}

/// Starts the loop on the current runtime. It ends, with every model unloaded, when `stop` fires.
pub fn start(
    settings: Settings,
    models: Models,
    stop: CancellationToken,
) -> (Node, tokio::task::JoinHandle<()>) {
    let (commands_tx, commands) = mpsc::channel(DRIVER_INBOX_MAX);
    #[expect(
        clippy::disallowed_methods,
        reason = "bounded by the handles alive and what they are told, see `Notice`"
    )]
    let (notices_tx, notices) = mpsc::unbounded_channel();
    let (events_tx, events) = mpsc::channel(DRIVER_INBOX_MAX);
    let (done_tx, done) = mpsc::channel(DRIVER_INBOX_MAX);
    let (config_tx, config) = watch::channel(settings.config.clone());
    let handle = Node {
        commands: commands_tx,
        notices: notices_tx.clone(),
        models: models.clone(),
        events: events_tx.clone(),
        config,
        tape: None,
    };
    let driver = Driver {
        node: node::Node::new(settings.config.clone(), Rights::alone()),
        rights: Rights::alone(),
        audit: audit::Audit::default(),
        seen: None,
        policy: Policy::default(),
        residency: Residency::new(settings.memory_budget_bytes, settings.keep_alive),
        settings,
        models,
        started: Instant::now(),
        experts: Experts::default(),
        guests: Guests::default(),
        clients: BTreeMap::new(),
        matchers: BTreeMap::new(),
        tickets: BTreeMap::new(),
        next_ticket: 0,
        unsent_closes: Vec::new(),
        config_tx,
        events_tx,
        done_tx,
        notices_tx,
    };
    let inputs = Inputs {
        commands,
        notices,
        events,
        done,
    };
    (handle, tokio::spawn(driver.run(inputs, stop)))
}

struct Inputs {
    commands: mpsc::Receiver<Command>,
    notices: mpsc::UnboundedReceiver<Notice>,
    events: mpsc::Receiver<FromExpert>,
    done: mpsc::Receiver<Done>,
}

/// One caller waiting for a model.
struct Waiter {
    name: String,
    reply: oneshot::Sender<Result<Lease, AcquireError>>,
}

struct Driver {
    settings: Settings,
    models: Models,
    started: Instant,
    node: node::Node,
    rights: Rights,
    audit: audit::Audit,
    /// Whoever counts which experts knew a request. None: this node belongs to no mesh.
    seen: Option<mpsc::Sender<guests::Seen>>,
    policy: Policy,
    residency: Residency,
    experts: Experts,
    guests: Guests,
    clients: BTreeMap<SessionId, mpsc::Sender<Event>>,
    /// Grammars of running sessions; one that is out on a blocking thread is not here.
    matchers: BTreeMap<SessionId, Box<Matcher>>,
    tickets: BTreeMap<Ticket, Waiter>,
    next_ticket: Ticket,
    /// Goodbyes that found a full mailbox: said again every turn, or an expert would keep a dead
    /// session. At most one for each session that ever ran at once.
    unsent_closes: Vec<(ExpertId, SessionId)>,
    /// What handles read: requests are checked under the document that holds.
    config_tx: watch::Sender<MeshConfig>,
    events_tx: mpsc::Sender<FromExpert>,
    done_tx: mpsc::Sender<Done>,
    notices_tx: mpsc::UnboundedSender<Notice>,
}

impl Driver {
    async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(notice) = inputs.notices.recv() => self.on_notice(notice),
                Some(done) = inputs.done.recv() => self.on_done(done),
                Some(event) = inputs.events.recv() => self.on_event(event),
                Some(command) = inputs.commands.recv() => self.on_command(command),
                _ = tick.tick() => self.on_tick(),
                () = self.until_late() => self.step(node::Input::Tick),
            }
            self.drain(&mut inputs);
            self.say_goodbyes();
        }
        self.shut_down(inputs).await;
    }

    /// Until some expert has let its time pass; for ever while nobody of another node is asked.
    async fn until_late(&self) {
        match self.node.wake_at() {
            Some(at) => {
                tokio::time::sleep_until((self.started + Duration::from_micros(at.0)).into()).await
            }
            None => std::future::pending().await,
        }
    }

    /// Takes what else is there, in order of attention, a bounded number of each kind.
    fn drain(&mut self, inputs: &mut Inputs) {
        for _ in 0..INPUTS_PER_TURN {
            let Ok(notice) = inputs.notices.try_recv() else {
                break;
            };
            self.on_notice(notice);
        }
        for _ in 0..INPUTS_PER_TURN {
            let Ok(done) = inputs.done.try_recv() else {
                break;
            };
            self.on_done(done);
        }
        for _ in 0..INPUTS_PER_TURN {
            let Ok(event) = inputs.events.try_recv() else {
                break;
            };
            self.on_event(event);
        }
    }

    fn now(&self) -> Micros {
        Micros(self.started.elapsed().as_micros() as u64)
    }

    // --- inputs -----------------------------------------------------------------------------

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Lease { name } => self.reside(residency::Input::Release { name }),
            Notice::Stream { session } => self.step(node::Input::Cancel { session }),
            Notice::Read { session, tokens } => {
                self.step(node::Input::Read { session, tokens });
            }
            Notice::Guest(guest) => self.guest_left(guest),
        }
    }

    fn on_tick(&mut self) {
        self.reside(residency::Input::Tick);
        self.tick_guests();
    }

    fn on_event(&mut self, event: FromExpert) {
        self.step(node::Input::FromExpert(event));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Acquire { found, reply } => self.on_acquire(found, reply),
            Command::Submit(submission) => self.on_submit(*submission),
            Command::Dismiss { name, reply } => {
                let loaded = self.residency.models().contains_key(&name);
                self.reside(residency::Input::Dismiss { name });
                reply.send(loaded).ok(); // the caller may have left
            }
            Command::Status { reply } => {
                reply.send(self.status()).ok(); // the caller may have left
            }
            command => self.on_mesh_command(command),
        }
    }

    fn on_acquire(&mut self, found: Found, reply: oneshot::Sender<Result<Lease, AcquireError>>) {
        // Callers who left do not count, and do not keep a load going.
        let gone: Vec<Ticket> = self
            .tickets
            .iter()
            .filter(|(_, w)| w.reply.is_closed())
            .map(|(t, _)| *t)
            .collect();
        for ticket in gone {
            self.tickets.remove(&ticket);
            self.reside(residency::Input::Forget { ticket });
        }
        if self.tickets.len() >= QUEUE_MAX + SESSIONS_MAX {
            let busy = AcquireError::Busy {
                name: found.name,
                retry_after_s: 5,
            };
            reply.send(Err(busy)).ok(); // the caller may have left
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(
            ticket,
            Waiter {
                name: found.name.clone(),
                reply,
            },
        );
        self.reside(residency::Input::Want {
            ticket,
            name: found.name,
            bytes: found.bytes,
            shared: found.shared,
        });
    }

    fn on_submit(&mut self, submission: Submission) {
        let Submission {
            spec,
            model,
            vocab,
            experts,
            matcher,
            events,
            reply,
        } = submission;
        let session = spec.session;
        let permit = match self.permit(session, &model, &experts) {
            Ok(permit) => permit,
            Err(why) => {
                reply.send(Err(why)).ok(); // the caller may have left
                return;
            }
        };
        let request = node::Request {
            spec,
            vocab,
            experts,
            permit,
        };
        // Before the first output, which may need them.
        self.clients.insert(session, events);
        if let Some(matcher) = matcher {
            self.matchers.insert(session, Box::new(matcher));
        }
        let mut out = Vec::new();
        let answer = self.node.submit(self.now(), request, &mut out);
        if answer.is_err() {
            self.forget(session);
        }
        reply.send(answer.map_err(RefusedError::from)).ok(); // a caller who left drops its stream, too
        self.execute(out);
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Loaded {
                name,
                result: Ok(expert),
            } => {
                let facts = expert.facts().clone();
                let bytes = facts.model_bytes + facts.cache_bytes;
                self.experts.loaded(name.clone(), expert);
                self.meet(&facts);
                self.reside(residency::Input::Loaded { name, bytes });
            }
            Done::Loaded {
                name,
                result: Err(why),
            } => self.reside(residency::Input::LoadFailed { name, why }),
            Done::Unloaded { name } => self.reside(residency::Input::Unloaded { name }),
            Done::Mask {
                session,
                matcher,
                answer,
            } => {
                if self.clients.contains_key(&session) {
                    self.matchers.insert(session, matcher);
                }
                self.step(node::Input::Mask { session, answer });
            }
        }
    }

    // --- requests ---------------------------------------------------------------------------

    fn step(&mut self, input: node::Input) {
        let mut out = Vec::new();
        self.node.handle(self.now(), input, &mut out);
        self.execute(out);
    }

    /// Carries out what core wants; what fails on the way becomes an input again.
    fn execute(&mut self, first: Vec<node::Output>) {
        let mut wanted = std::collections::VecDeque::from(first);
        while let Some(output) = wanted.pop_front() {
            let failed = match output {
                node::Output::ToExpert(expert, op) => self.send(expert, op),
                node::Output::NeedMask { session, committed } => {
                    self.compute_mask(session, committed)
                }
                node::Output::Event { session, event } => self.tell(session, event),
                node::Output::ToGuest { guest, event } => self.tell_guest(guest, event),
                node::Output::Suspect { expert, suspicion } => guests::warn(expert, suspicion),
                node::Output::Seen { vocabulary, seen } => self.count(vocabulary, *seen),
                node::Output::Decided(decision) => self.note(decision),
            };
            if let Some(input) = failed {
                let mut more = Vec::new();
                self.node.handle(self.now(), input, &mut more);
                wanted.extend(more);
            }
        }
    }

    fn send(&mut self, id: ExpertId, op: ExpertOp) -> Option<node::Input> {
        let session = op.session();
        let goodbye = matches!(op, ExpertOp::Close { .. });
        let expert = self.experts.by_id(id);
        let why = match expert.map_or(Err(SubmitError::Gone), |expert| expert.submit(op)) {
            Ok(()) => return None,
            Err(SubmitError::Full) if goodbye => {
                self.unsent_closes.push((id, session));
                return None;
            }
            Err(_) if goodbye => return None, // an expert that is gone keeps nothing
            Err(why) => why.to_string(),
        };
        Some(node::Input::SendFailed {
            session,
            expert: id,
            why,
        })
    }

    fn say_goodbyes(&mut self) {
        for (id, session) in std::mem::take(&mut self.unsent_closes) {
            // Never fails for good: a full mailbox puts it back on the list.
            drop(self.send(id, ExpertOp::Close { session }));
        }
    }

    fn tell(&mut self, session: SessionId, event: Event) -> Option<node::Input> {
        let last = matches!(event, Event::Finished { .. });
        let heard = self.clients.get(&session)?.try_send(event).is_ok();
        if last {
            self.forget(session);
        }
        // Nobody listens: the work ends here, within one token.
        (!heard && !last).then_some(node::Input::Cancel { session })
    }

    fn forget(&mut self, session: SessionId) {
        self.clients.remove(&session);
        self.matchers.remove(&session);
    }

    /// Masks take up to milliseconds: a blocking thread takes the grammar and brings it back.
    fn compute_mask(
        &mut self,
        session: SessionId,
        committed: Option<Token>,
    ) -> Option<node::Input> {
        let Some(mut matcher) = self.matchers.remove(&session) else {
            let answer = MaskAnswer::Failed("the grammar of this request is gone".into());
            return Some(node::Input::Mask { session, answer });
        };
        let done = self.done_tx.clone();
        tokio::task::spawn_blocking(move || {
            let answer = next_mask(&mut matcher, committed);
            // A loop that is gone has no use for it.
            done.blocking_send(Done::Mask {
                session,
                matcher,
                answer,
            })
            .ok();
        });
        None
    }

    // --- models -----------------------------------------------------------------------------

    fn reside(&mut self, input: residency::Input) {
        let mut out = Vec::new();
        self.residency.handle(self.now(), input, &mut out);
        for output in out {
            match output {
                residency::Output::Load { name } => self.load(name),
                residency::Output::Unload { name } => self.unload(name),
                residency::Output::Grant { ticket, name } => self.grant(ticket, name),
                residency::Output::Refuse { ticket, why } => {
                    if let Some(Waiter { name, reply }) = self.tickets.remove(&ticket) {
                        reply.send(Err(AcquireError::of(name, why))).ok(); // the caller may have left
                    }
                }
            }
        }
    }

    fn grant(&mut self, ticket: Ticket, name: String) {
        let Some(expert) = self.experts.named(&name) else {
            return;
        };
        // If the caller has left, dropping the lease releases the model.
        let lease = Lease::new(name, expert.clone(), self.notices_tx.clone());
        if let Some(waiter) = self.tickets.remove(&ticket) {
            waiter.reply.send(Ok(lease)).ok();
        }
    }

    fn load(&self, name: String) {
        let (load, events, done) = (
            self.models.load.clone(),
            self.events_tx.clone(),
            self.done_tx.clone(),
        );
        tokio::task::spawn_blocking(move || {
            let result = load(&name, events);
            // A loop that is gone has no use for it.
            done.blocking_send(Done::Loaded { name, result }).ok();
        });
    }

    /// Everybody hears the end; then the models go, off the runtime's threads.
    async fn shut_down(mut self, inputs: Inputs) {
        drop(inputs); // experts' threads stop waiting for us, new commands fail
        for (_, client) in std::mem::take(&mut self.clients) {
            let end = Event::Finished {
                // Not a failure: nothing is wrong with the request or with the expert.
                why: Finish::Cancelled,
                text: String::new(),
                generated: 0,
                decode_us: 0,
                schedule: Vec::new(),
                guesses: Guesses::default(),
                reasons: None,
            };
            client.try_send(end).ok(); // the client may have left
        }
        for (_, waiter) in std::mem::take(&mut self.tickets) {
            waiter.reply.send(Err(AcquireError::ShuttingDown)).ok(); // the caller may have left
        }
        drop(std::mem::take(&mut self.guests)); // their channels end; the swarm is gone before us
        let experts = std::mem::take(&mut self.experts);
        if let Err(error) = tokio::task::spawn_blocking(move || drop(experts)).await {
            tracing::error!(target: "quorate::driver", %error, "a model did not unload cleanly");
        }
    }
}

fn next_mask(matcher: &mut Matcher, committed: Option<Token>) -> MaskAnswer {
    let next = match committed.map_or(Ok(()), |token| matcher.commit(token)) {
        Ok(()) => matcher.next(),
        Err(error) => Err(error),
    };
    match next {
        Ok(Next::Allowed(mask)) => MaskAnswer::Allowed(mask),
        Ok(Next::Done) => MaskAnswer::Done,
        Err(error) => MaskAnswer::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
