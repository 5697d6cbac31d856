//! Guests whose expert is the mesh of this node: between the host, which takes them for sessions of one expert, and
//! the experts that answer together.

use super::{Input, Node, Output};
use crate::config::Key;
use crate::host::{self, GuestId, Leaf};
use crate::ids::{ExpertId, Micros, SessionId};
use crate::mixture::{self, Mixture};
use crate::opinion::{ExpertOp, FromExpert, Open};
use crate::pace::Patience;
use crate::select::{self, Wanted};
use std::collections::VecDeque;

/// Tokens that an answer is expected to have: an expert with room for fewer is not asked.
const CONTEXT_AHEAD: u32 = 512;

/// One such guest. At most `GUESTS_MAX`: the host knows each of them.
#[derive(Debug)]
pub(super) struct Whole {
    /// What the router calls the mesh.
    expert: ExpertId,
    leaf: Leaf,
    /// None while it waits for a place.
    mixture: Option<Mixture>,
}

impl Node {
    pub(super) fn expects(&mut self, visit: &host::Visit) {
        if let Some(leaf) = visit.whole {
            let whole = Whole {
                expert: visit.expert,
                leaf,
                mixture: None,
            };
            self.wholes.insert(visit.guest, whole);
        }
    }

    /// Sessions of others on the whole mesh that this expert has part in.
    pub(super) fn mixed_on(&self, expert: ExpertId) -> usize {
        let mixtures = self.wholes.values().filter_map(|w| w.mixture.as_ref());
        mixtures.filter(|m| m.asks(expert)).count()
    }

    pub(super) fn mixtures_wake_at(&self) -> Option<Micros> {
        let mixtures = self.wholes.values().filter_map(|w| w.mixture.as_ref());
        mixtures.filter_map(Mixture::wake_at).min()
    }

    /// The host's word to an expert; what comes back at once is for the host.
    pub(super) fn for_expert(
        &mut self,
        now: Micros,
        expert: ExpertId,
        op: ExpertOp,
        out: &mut Vec<Output>,
        back: &mut VecDeque<host::Input>,
    ) {
        let guest = GuestId(op.session().0);
        let is_whole = self.wholes.get(&guest).is_some_and(|w| w.expert == expert);
        if !is_whole {
            return out.push(Output::ToExpert(expert, op));
        }
        match op {
            ExpertOp::Open(open) => self.open_mixture(now, guest, &open, out, back),
            op => back.extend(self.mix(now, guest, mixture::Input::Op(op), out)),
        }
    }

    fn open_mixture(
        &mut self,
        now: Micros,
        guest: GuestId,
        open: &Open,
        out: &mut Vec<Output>,
        back: &mut VecDeque<host::Input>,
    ) {
        let Some(leaf) = self.wholes.get(&guest).map(|w| w.leaf) else {
            return;
        };
        let length = (open.prompt.len() + open.answered.len()) as u32;
        let wanted = Wanted {
            session: open.session,
            vocabulary: leaf.vocabulary,
            context: (length + CONTEXT_AHEAD).min(leaf.context),
            local: Some(leaf.expert),
            keys: true, // the router decides whether it gives some away
        };
        let mut set = select::candidates(&self.roster, now, &wanted, None);
        set.truncate(self.config.get(Key::RouterK) as usize);
        let plan = mixture::Plan {
            set,
            patience: self.patience(),
            vocab: leaf.vocab,
            context: leaf.context,
        };
        let mut outputs = Vec::new();
        let mixture = Mixture::open(now, open, plan, &mut outputs);
        if let Some(whole) = self.wholes.get_mut(&guest) {
            whole.mixture = Some(mixture);
        }
        back.extend(self.mixed(now, guest, outputs, out));
    }

    /// One step of a mixture; the answer is for the host.
    fn mix(
        &mut self,
        now: Micros,
        guest: GuestId,
        input: mixture::Input,
        out: &mut Vec<Output>,
    ) -> Vec<host::Input> {
        let whole = self.wholes.get_mut(&guest);
        let Some(mixture) = whole.and_then(|w| w.mixture.as_mut()) else {
            return Vec::new();
        };
        let mut outputs = Vec::new();
        mixture.handle(now, input, &mut outputs);
        self.mixed(now, guest, outputs, out)
    }

    fn mixed(
        &mut self,
        now: Micros,
        guest: GuestId,
        outputs: Vec<mixture::Output>,
        out: &mut Vec<Output>,
    ) -> Vec<host::Input> {
        let Some(expert) = self.wholes.get(&guest).map(|w| w.expert) else {
            return Vec::new();
        };
        let mut back = Vec::new();
        for output in outputs {
            match output {
                mixture::Output::ToExpert(expert, op) => out.push(Output::ToExpert(expert, op)),
                mixture::Output::Say(event) => {
                    back.push(host::Input::FromExpert(FromExpert { expert, event }));
                }
                mixture::Output::Heard {
                    expert,
                    answered,
                    compute_us,
                    bytes,
                } => self.roster.heard(expert, answered, compute_us, bytes),
                mixture::Output::Failed { expert, why } => self.roster.failed(now, expert, &why),
            }
        }
        back
    }

    /// Takes what is for a mixture; gives back what is not.
    pub(super) fn for_mixtures(
        &mut self,
        now: Micros,
        input: Input,
        out: &mut Vec<Output>,
    ) -> Option<Input> {
        if self.wholes.is_empty() {
            return Some(input);
        }
        let is_mixed = |session: SessionId| self.wholes.contains_key(&GuestId(session.0));
        let (guest, inner) = match input {
            Input::FromExpert(from) if is_mixed(from.event.session()) => {
                let guest = GuestId(from.event.session().0);
                (guest, mixture::Input::FromExpert(from))
            }
            Input::SendFailed {
                session,
                expert,
                why,
            } if is_mixed(session) => (GuestId(session.0), mixture::Input::Lost { expert, why }),
            other => {
                self.all_mixtures(now, &other, out);
                return Some(other);
            }
        };
        for input in self.mix(now, guest, inner, out) {
            self.guest(now, input, out);
        }
        None
    }

    /// What is news to all of them.
    fn all_mixtures(&mut self, now: Micros, input: &Input, out: &mut Vec<Output>) {
        let news = match input {
            Input::Tick => mixture::Input::Tick,
            Input::Left { expert, why } => mixture::Input::Lost {
                expert: *expert,
                why: why.clone(),
            },
            _ => return,
        };
        let guests: Vec<GuestId> = self.wholes.keys().copied().collect();
        for guest in guests {
            for input in self.mix(now, guest, news.clone(), out) {
                self.guest(now, input, out);
            }
        }
    }

    /// The host has forgotten some of them.
    pub(super) fn forget_mixtures(&mut self) {
        let host = &self.host;
        self.wholes.retain(|guest, _| host.has(*guest));
    }

    pub(super) fn patience(&self) -> Patience {
        Patience {
            percent: self.config.get(Key::RouterDeadlinePercent),
            floor_us: u64::from(self.config.get(Key::RouterDeadlineFloorMs)) * 1000,
        }
    }
}
