//! Carries out what the plan says.

use super::liar::Liar;
use super::network::At;
use super::plan::Act;
use super::traffic::{Happening, Letter};
use super::world::{RETRY_US, World};
use crate::ids::SessionId;
use crate::law::Transforms;
use crate::link::Link;
use crate::opinion::{ExpertOp, Open, Scope};

/// Sessions that a vanishing router opens.
const VANISHING_SESSIONS: u32 = 200;

impl World {
    pub(super) fn act(&mut self, act: Act) {
        let (what, detail) = match act {
            Act::Start(at) => ("start", u64::from(at)),
            Act::Crash(at) => ("crash", u64::from(at)),
            Act::Pause(at, _) => ("pause", u64::from(at)),
            Act::Split(_) => ("split", 0),
            Act::Mend => ("mend", 0),
            Act::Storm(ppm) => ("storm", u64::from(ppm)),
            Act::Slow(at, _) => ("slow", u64::from(at)),
            Act::Lie(at, _) => ("liar", u64::from(at)),
            Act::Vanish(at, _) => ("vanish", u64::from(at)),
            Act::Skew(at, _) => ("skew", u64::from(at)),
            Act::Halt(by) => ("halt", u64::from(by)),
            Act::Resume => ("resume", 0),
            Act::Heal => ("heal", 0),
        };
        self.note(u16::MAX, what, detail);
        match act {
            Act::Start(at) => self.start(at),
            Act::Crash(at) => self.crash(at),
            Act::Pause(at, until) => self.machines[usize::from(at)].paused_until = until,
            Act::Split(seed) => self.network.split(seed),
            Act::Mend => self.mend(),
            Act::Storm(ppm) => self.storm(ppm),
            Act::Slow(at, times) => self.machines[usize::from(at)].slowness = times,
            Act::Lie(at, seed) => {
                let machine = &mut self.machines[usize::from(at)];
                machine.lies = Some(Liar::new(seed));
                self.judge.liars.insert(machine.expert);
            }
            Act::Vanish(at, host) => self.vanish(at, host),
            Act::Skew(at, skew_s) => self.machines[usize::from(at)].skew_s = skew_s,
            Act::Halt(by) => self.halt(by),
            Act::Resume => self.resume(),
            Act::Heal => self.heal(),
        }
    }

    fn start(&mut self, at: At) {
        let instance = self.dice.next();
        let machine = &mut self.machines[usize::from(at)];
        if machine.is_up {
            return;
        }
        machine.start(self.now, instance);
        self.mesh.instances[usize::from(at)] = instance;
        let life = self.machines[usize::from(at)].life;
        self.push(self.now, Happening::Beat(at, life));
    }

    fn crash(&mut self, at: At) {
        let machine = &mut self.machines[usize::from(at)];
        if !machine.is_up {
            return;
        }
        machine.crash();
        for other in 0..self.machines.len() as At {
            self.network.break_off(at, other);
        }
        for client in self.judge.died(at) {
            self.push(self.now + RETRY_US, Happening::Client(client));
        }
    }

    fn mend(&mut self) {
        for (from, to, _, (epoch, letter)) in self.network.mend() {
            self.send_under(from, to, epoch, letter);
        }
    }

    fn storm(&mut self, loss_ppm: u32) {
        let calm = self.options.link;
        let loss_ppm = calm.loss_ppm.max(loss_ppm);
        self.network.set_link(Link { loss_ppm, ..calm });
    }

    /// A router that is not ours: it opens all it can, asks nothing, and never comes back to it.
    fn vanish(&mut self, at: At, host: At) {
        if at == host || !self.machines[usize::from(at)].is_up {
            return;
        }
        let expert = self.machines[usize::from(host)].expert;
        for _ in 0..VANISHING_SESSIONS {
            let open = Open {
                session: SessionId(u128::from(self.dice.next())),
                scope: Scope::OWNER,
                prompt: vec![1, 2, 3],
                answered: vec![],
                transforms: Transforms::NEUTRAL,
                score: false,
                path: vec![],
            };
            let op = ExpertOp::Open(Box::new(open));
            self.send(at, host, Letter::Op(expert, op));
        }
    }

    /// Everything is well again, but for those who lie.
    fn heal(&mut self) {
        self.mend();
        self.storm(0);
        for at in 0..self.machines.len() as At {
            let machine = &mut self.machines[usize::from(at)];
            (machine.skew_s, machine.slowness, machine.paused_until) = (0, 1, 0);
            if at < self.options.nodes {
                self.start(at);
            } else {
                self.crash(at); // the twin
            }
        }
        self.healed = Some(self.now);
        self.resume();
        self.is_it_quiet();
    }
}
