//! The engine's thread: mailbox in, events out, a step whenever there is something to compute.
//!
//! - The mailbox is emptied before every step; `Close` counts at once, everything else in order.
//! - Experts on one base take turns, a step each: an adapter belongs to a context, so the sessions of
//!   one expert are one batch, and those of two are two.
//! - Events wait for room in the router's channel: that is the back-pressure.

use super::seat::{Common, Company, SPARE_KEPT, Seat, Stop};
use super::tokens::Tokenizer;
use super::{LoadError, LoadRequest};
use crate::expert::{ExpertFacts, SubmitError};
use llama_cpp_2::model::LlamaModel;
use quorate_core::limits::{BASE_EXPERTS_MAX, EXPERT_OPS_MAX};
use quorate_core::opinion::ExpertOp;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

/// One expert on a base, as its handle knows it.
pub(super) type SeatId = u64;

pub(super) enum Mail {
    /// An operation, with when it was submitted: a step may have kept it waiting.
    Op(SeatId, Instant, ExpertOp),
    Enter(Box<Entering>),
    Leave(SeatId),
}

/// One more expert for this base.
pub(super) struct Entering {
    pub(super) request: LoadRequest,
    pub(super) door: Arc<Door>,
    pub(super) reply: SyncSender<Result<Entered, LoadError>>,
}

impl Entering {
    /// Whoever loads may have gone away; then there is nobody to tell.
    pub(super) fn refuse(self, why: LoadError) {
        self.reply.send(Err(why)).ok();
    }
}

pub(super) struct Entered {
    pub(super) seat: SeatId,
    pub(super) facts: ExpertFacts,
    pub(super) tokenizer: Tokenizer,
    /// Closed when its context is freed.
    pub(super) gone: Receiver<()>,
}

/// Counts the operations that wait at one expert, and says when it takes no more.
#[derive(Default)]
pub(super) struct Door(AtomicUsize);

const CLOSED: usize = usize::MAX;

impl Door {
    /// One more comes in.
    pub(super) fn enter(&self) -> Result<(), SubmitError> {
        let more = |waiting| (waiting < EXPERT_OPS_MAX).then(|| waiting + 1);
        match self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        {
            Ok(_) => Ok(()),
            Err(CLOSED) => Err(SubmitError::Gone),
            Err(_) => Err(SubmitError::Full),
        }
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn close(&self) {
        self.0.store(CLOSED, Ordering::Release);
    }
}

pub(super) struct Loop<'model> {
    common: Common<'model>,
    mail: Receiver<Mail>,
    seats: Vec<Seat<'model>>,
    /// Whose turn it was.
    last: usize,
    next_seat: SeatId,
}

impl<'model> Loop<'model> {
    pub(super) fn new(model: &'model Arc<LlamaModel>, mail: Receiver<Mail>) -> Loop<'model> {
        Loop {
            common: Common::new(model),
            mail,
            seats: Vec::new(),
            last: 0,
            next_seat: 0,
        }
    }

    /// Returns when the last handle is gone.
    pub(super) fn run(mut self, first: Entering) {
        self.enter(first);
        while self.turn().is_ok() {}
        tracing::debug!(target: "quorate::expert", "the expert thread ends");
    }

    fn turn(&mut self) -> Result<(), Stop> {
        let index = self.collect()?;
        self.last = index;
        let company = self.company(index);
        if self.seats[index].step(company).is_err() {
            self.leave(index); // nobody listens any more
        }
        Ok(())
    }

    fn leave(&mut self, index: usize) {
        self.seats.remove(index).leave(&mut self.common);
    }

    /// Takes mail until somebody has something to compute and waits for nobody. Says who.
    fn collect(&mut self) -> Result<usize, Stop> {
        loop {
            let now = Instant::now();
            self.common.expire(now);
            let soonest = self.seats.iter().filter_map(|seat| seat.waits(now)).min();
            let mail = match soonest {
                None if !self.common.has_spare() => self.mail.recv().map_err(|_| Stop)?,
                Some(Duration::ZERO) => match self.mail.try_recv() {
                    Ok(mail) => mail,
                    Err(TryRecvError::Empty) => {
                        if let Some(next) = self.next(now) {
                            return Ok(next);
                        }
                        continue;
                    }
                    Err(TryRecvError::Disconnected) => return Err(Stop),
                },
                left => match self.mail.recv_timeout(left.unwrap_or(SPARE_KEPT)) {
                    Ok(mail) => mail,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Err(Stop),
                },
            };
            self.take(mail);
        }
    }

    /// The first after the last one that is ready.
    fn next(&self, now: Instant) -> Option<usize> {
        let count = self.seats.len();
        (1..=count)
            .map(|step| (self.last + step) % count)
            .find(|&index| self.seats[index].waits(now) == Some(Duration::ZERO))
    }

    /// What the others on this base are about while one of them computes.
    fn company(&self, index: usize) -> Company {
        let others = self.seats.iter().enumerate().filter(|&(i, _)| i != index);
        others.fold(Company::default(), |company, (_, seat)| Company {
            streaming: company.streaming || seat.is_streaming(),
            prompts: company.prompts + usize::from(seat.has_prompt()),
        })
    }

    fn take(&mut self, mail: Mail) {
        let find = |seats: &[Seat<'_>], id| seats.iter().position(|seat| seat.id == id);
        match mail {
            Mail::Op(id, submitted, op) => {
                // An expert that has left is not owed an answer.
                let Some(index) = find(&self.seats, id) else {
                    return;
                };
                self.seats[index].door.leave();
                if self.seats[index].take(submitted, op).is_err() {
                    self.leave(index);
                }
            }
            Mail::Enter(entering) => self.enter(*entering),
            Mail::Leave(id) => {
                if let Some(index) = find(&self.seats, id) {
                    self.leave(index);
                }
            }
        }
    }

    fn enter(&mut self, entering: Entering) {
        if self.seats.len() >= BASE_EXPERTS_MAX {
            let why = format!("{BASE_EXPERTS_MAX} experts share its weights already");
            return entering.refuse(LoadError::Engine { why });
        }
        let id = self.next_seat;
        self.next_seat += 1;
        let Entering {
            request,
            door,
            reply,
        } = entering;
        match Seat::new(&mut self.common, id, &request, door) {
            Ok((seat, entered)) => {
                // Whoever loads may have gone away; then its memory is free again.
                if reply.send(Ok(entered)).is_ok() {
                    self.seats.push(seat);
                }
            }
            Err(why) => {
                reply.send(Err(why)).ok(); // nobody waits for it any more
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_lets_in_what_it_has_room_for_until_it_is_closed() {
        let door = Door::default();
        for _ in 0..EXPERT_OPS_MAX {
            assert!(door.enter().is_ok());
        }
        assert!(matches!(door.enter(), Err(SubmitError::Full)));
        door.leave();
        assert!(door.enter().is_ok());
        door.close();
        assert!(matches!(door.enter(), Err(SubmitError::Gone)));
    }
}
