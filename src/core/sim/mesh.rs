//! Who is there and what they signed: adverts and records by gossip, repaired by sync, as
//! `net::swarm` carries them. And the people, who stop the mesh and let it go on.

use super::machine::Machine;
use super::network::At;
use super::people::{DAY_S, Person, START_S, members, on_tip};
use super::traffic::{Happening, Letter, News, Tidings};
use super::world::{BEAT_US, IDLE_US, World};
use super::{Dice, Options};
use crate::config::MeshConfig;
use crate::governance::{
    Act as Deed, Admission, Author, Cause, Consent, Genesis, Preset, Record, Replica, Standing,
    Taken, Terms,
};
use crate::host;
use crate::ids::Micros;
use crate::limits::{
    ADVERT_EVERY_US, ECHO_EVERY_US, GENESIS_NODES_MAX, SIM_TAIL_MAX, SYNC_ADVERTS_EVERY_US,
};
use crate::mesh::sync::{self, Answer, Ask, Pull, Question};
use crate::mesh::{Advert, Input as BookInput, Output as BookOutput};
use crate::node::Input;
use crate::roster::Introduced;
use ed25519_dalek::{Signer, SigningKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Before a node may act it hears from so many, or from whoever answers in this time.
const SYNCED_MIN: usize = 3;
const SYNC_PATIENCE_US: u64 = 10_000_000;
/// A node compares its records with a neighbour's this often.
const SYNC_EVERY_BEATS: u64 = 10;
/// People look whether their last vote has passed before they vote on the same again.
const PATIENCE_US: u64 = 60_000_000;
/// Nodes that each is connected to, at the least.
const NEIGHBOURS: u64 = 2;
/// On a link that loses more than this nobody knows for sure who is there.
const LOSS_PPM_GOOD: u32 = 20_000;
/// Decoded adverts that are kept: decoding is pure, and a signature costs more than all the rest.
const DECODED_MAX: usize = 4096;

pub(super) struct Mesh {
    genesis: Genesis,
    keys: Vec<SigningKey>,
    pub(super) instances: Vec<u64>,
    /// What each node passes on with its next beat.
    fresh: Vec<Vec<News>>,
    own: Vec<Option<Advert>>,
    people: Vec<Person>,
    /// The place that was voted for last.
    voted: (u64, u32),
    voted_at: u64,
    halts: u128,
    /// News so far.
    said: u32,
    decoded: BTreeMap<Vec<u8>, Arc<Advert>>,
}

fn key(n: u16) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&n.to_le_bytes()).as_bytes())
}

impl Mesh {
    /// Everybody belongs to it already. The last machine is the twin of the first.
    pub(super) fn found(options: &Options, dice: &mut Dice) -> (Mesh, Vec<Machine>) {
        let mut keys: Vec<SigningKey> = (0..options.nodes).map(key).collect();
        let public: Vec<Author> = keys.iter().map(|k| k.verifying_key().to_bytes()).collect();
        let mut terms = Terms::of(Preset::Lab, vec![], MeshConfig::default());
        terms.members = members(&[1, 2, 3], 0);
        terms.nodes = public.iter().take(GENESIS_NODES_MAX).copied().collect();
        terms.nodes.sort_unstable();
        let genesis = terms.found().expect("three people and good keys");
        let network = genesis.network_id();
        let admit = |n: usize| {
            let issuer = n % GENESIS_NODES_MAX;
            let mut admission = Admission {
                network,
                issuer: public[issuer],
                subject: public[n],
                issued_s: START_S - 5 * DAY_S,
                expires_s: START_S + 30 * DAY_S,
                signature: [0; 64],
            };
            admission.signature = keys[issuer].sign(&admission.body()).to_bytes();
            Record::Admission(admission)
        };
        let admissions = (GENESIS_NODES_MAX..public.len()).map(admit).collect();
        let (replica, _) = Replica::gather(genesis.clone(), admissions);
        let machine = |(at, key): (usize, &Author)| Machine::new(at as At, *key, replica.clone());
        let mut machines: Vec<Machine> = public.iter().enumerate().map(machine).collect();
        let twin = machines.len() as At;
        machines.push(Machine::new(twin, public[0], replica.clone()));
        keys.push(keys[0].clone());
        connect(&mut machines, dice);
        let all = machines.len();
        let mesh = Mesh {
            people: (1..=3).map(|n| Person::new(n, network)).collect(),
            genesis,
            keys,
            instances: vec![0; all],
            fresh: vec![Vec::new(); all],
            own: vec![None; all],
            voted: (0, 0),
            voted_at: 0,
            halts: 0,
            said: 0,
            decoded: BTreeMap::new(),
        };
        (mesh, machines)
    }

    fn news(&mut self, bytes: usize, what: Tidings) -> News {
        self.said += 1;
        News {
            number: self.said,
            bytes,
            what,
        }
    }

    fn decode(&mut self, bytes: &[u8]) -> Option<Arc<Advert>> {
        if let Some(known) = self.decoded.get(bytes) {
            return Some(known.clone());
        }
        let advert = Arc::new(Advert::decode(bytes).ok()?);
        if self.decoded.len() >= DECODED_MAX {
            self.decoded.clear();
        }
        self.decoded.insert(bytes.to_vec(), advert.clone());
        Some(advert)
    }
}

/// A ring, so that it hangs together, and chords, so that it is small.
fn connect(machines: &mut [Machine], dice: &mut Dice) {
    let n = machines.len();
    let mut cables: BTreeSet<(usize, usize)> = BTreeSet::new();
    for at in 0..n {
        cables.insert((at, (at + 1) % n));
        for _ in 0..NEIGHBOURS {
            cables.insert((at, dice.below(n as u64) as usize));
        }
    }
    for (a, b) in cables {
        if a != b && !machines[a].neighbours.contains(&(b as At)) {
            machines[a].neighbours.push(b as At);
            machines[b].neighbours.push(a as At);
        }
    }
}

impl World {
    /// What a node does every second.
    pub(super) fn beat(&mut self, at: At) {
        self.look_for_silence(at);
        self.advertise(at);
        self.show_life(at);
        let moment = self.machines[usize::from(at)].moment(self.now);
        self.tell_book(at, BookInput::Tick);
        let minute = ((moment.unix_s / 60) % (24 * 60)) as u16;
        self.step(at, Input::Host(host::Input::Tick { minute }));
        self.begin_sync(at);
        self.boot(at);
        let life = self.machines[usize::from(at)].life;
        self.push(self.now + BEAT_US, Happening::Beat(at, life));
    }

    /// Who was not heard for too long is not connected any more.
    fn look_for_silence(&mut self, at: At) {
        let now = self.now;
        let machine = &mut self.machines[usize::from(at)];
        let silent = machine
            .heard
            .iter()
            .filter(|(_, heard)| now - **heard > IDLE_US);
        let silent: Vec<At> = silent.map(|(peer, _)| *peer).collect();
        for peer in silent {
            self.machines[usize::from(at)].heard.remove(&peer);
            let epoch = self.network.epoch(at, peer);
            self.network.break_off(at, peer);
            self.broken(at, peer, epoch);
            if !self.network.is_cut(at, peer) {
                let there = now + u64::from(self.options.link.delay_us);
                let (at, peer) = (peer, at);
                self.push(there, Happening::Broken { at, peer, epoch });
            }
            // The swarm tells of its own connections; a session's end says nothing of its node.
            if self.machines[usize::from(at)].neighbours.contains(&peer) {
                let key = self.machines[usize::from(peer)].key;
                self.tell_book(at, BookInput::Silent(key));
            }
        }
    }

    fn advertise(&mut self, at: At) {
        let now = self.now;
        let n = usize::from(at);
        let machine = &mut self.machines[n];
        let every = match machine.echoed {
            true => ECHO_EVERY_US,
            false => ADVERT_EVERY_US,
        };
        if machine.advertised != 0 && now - machine.advertised < every {
            return;
        }
        machine.echoed = false;
        let mut advert = machine.advert(now, self.mesh.instances[n]);
        advert.signature = self.mesh.keys[n].sign(&advert.body()).to_bytes();
        self.mesh.own[n] = Some(advert.clone());
        let (bytes, what) = (advert.encode().len(), Tidings::Advert(Arc::new(advert)));
        let news = self.mesh.news(bytes, what);
        self.machines[n].is_news(news.number);
        self.mesh.fresh[n].push(news);
    }

    /// Gossip to the neighbours; a word to everybody else that it has a session with.
    fn show_life(&mut self, at: At) {
        let news: Arc<[News]> = std::mem::take(&mut self.mesh.fresh[usize::from(at)]).into();
        let machine = &self.machines[usize::from(at)];
        let hosts = machine.talks.values().map(|talk| talk.host);
        let mut others: BTreeSet<At> = hosts.collect();
        others.extend(machine.guests.values().map(|visitor| visitor.router));
        let neighbours = machine.neighbours.clone();
        for peer in neighbours {
            others.remove(&peer);
            self.send(at, peer, Letter::News(news.clone()));
        }
        for peer in others {
            self.send(at, peer, Letter::News(Arc::new([])));
        }
    }

    pub(super) fn hear_news(&mut self, at: At, from: At, news: &[News]) {
        let key = self.machines[usize::from(from)].key;
        if self.machines[usize::from(from)].is_up {
            self.tell_book(at, BookInput::Linked(key));
            // Who connects shows who he is; here, who is not known is asked.
            if self.machines[usize::from(at)]
                .book
                .advert_of(&key)
                .is_none()
            {
                self.ask_who_is_there(at, from);
            }
        }
        for item in news {
            if !self.machines[usize::from(at)].is_news(item.number) {
                continue;
            }
            match &item.what {
                Tidings::Advert(advert) => {
                    if self.hear_advert(at, 0, advert.clone()) {
                        self.mesh.fresh[usize::from(at)].push(item.clone());
                    }
                }
                Tidings::Record(record) => self.take(at, Record::clone(record)),
            }
        }
    }

    fn hear_advert(&mut self, at: At, age_us: u64, advert: Arc<Advert>) -> bool {
        let advert = Box::new(Advert::clone(&advert));
        self.tell_book(at, BookInput::Advert { age_us, advert })
    }

    /// Is it to be passed on?
    fn tell_book(&mut self, at: At, input: BookInput) -> bool {
        let machine = &mut self.machines[usize::from(at)];
        let moment = machine.moment(self.now);
        let mut out = Vec::new();
        machine.book.handle(moment, input, &mut out);
        let mut is_news = false;
        for output in out {
            match output {
                BookOutput::Passed => is_news = true,
                BookOutput::Met(advert) => self.meet(at, &advert),
                BookOutput::Lost { node, why } => self.lose(at, node, &why.to_string()),
                BookOutput::Echo => self.machines[usize::from(at)].echoed = true,
                BookOutput::Refused(_) | BookOutput::Twins(_) => {}
            }
        }
        is_news
    }

    fn meet(&mut self, at: At, advert: &Advert) {
        let machine = &mut self.machines[usize::from(at)];
        let experts = advert.experts.iter().map(|row| row.expert).collect();
        machine.met.insert(advert.node, experts);
        for row in &advert.experts {
            let facts = Introduced {
                expert: row.expert,
                peer: Some(advert.node),
                vocabulary: row.vocabulary,
                context: row.context,
                admitted: true,
                file: None,
            };
            self.step(at, Input::Met(facts));
        }
    }

    fn lose(&mut self, at: At, node: Author, why: &str) {
        let machine = &mut self.machines[usize::from(at)];
        for expert in machine.met.remove(&node).unwrap_or_default() {
            let why = why.to_owned();
            self.step(at, Input::Left { expert, why });
        }
    }

    // --- records --------------------------------------------------------------------------------

    fn begin_sync(&mut self, at: At) {
        let machine = &self.machines[usize::from(at)];
        let beats = (self.now - machine.started) / BEAT_US;
        let is_time = !machine.is_booted || beats.is_multiple_of(SYNC_EVERY_BEATS);
        if machine.neighbours.is_empty() || !is_time {
            return;
        }
        let peer = machine.neighbours[self.dice.below(machine.neighbours.len() as u64) as usize];
        let network = self.mesh.genesis.network_id();
        let (pull, ask) = Pull::start(network, machine.replica.records());
        self.machines[usize::from(at)].pulls.insert(peer, pull);
        self.send(at, peer, Letter::Ask(ask));
        let is_new = !self.machines[usize::from(at)].is_booted;
        if is_new || (beats * BEAT_US).is_multiple_of(SYNC_ADVERTS_EVERY_US) {
            self.ask_who_is_there(at, peer);
        }
    }

    fn ask_who_is_there(&mut self, at: At, peer: At) {
        let network = self.mesh.genesis.network_id();
        let question = Question::Adverts(self.machines[usize::from(at)].book.heard());
        self.send(at, peer, Letter::Ask(Ask { network, question }));
    }

    pub(super) fn answer_sync(&mut self, at: At, from: At, ask: &Ask) {
        let machine = &self.machines[usize::from(at)];
        let asker = self.machines[usize::from(from)].key;
        if ask.network != self.mesh.genesis.network_id() || !machine.book.is_member(&asker) {
            return self.send(at, from, Letter::Answer(Answer::Refused, false));
        }
        let own = self.mesh.own[usize::from(at)].as_ref();
        let adverts = machine.book.adverts(Micros(self.now));
        let answer = sync::answer(machine.replica.records(), own, adverts, &ask.question);
        let are_adverts = matches!(ask.question, Question::Adverts(_));
        self.send(at, from, Letter::Answer(answer, are_adverts));
    }

    pub(super) fn hear_sync(&mut self, at: At, from: At, answer: &Answer, are_adverts: bool) {
        if are_adverts {
            return self.hear_adverts(at, from, answer);
        }
        if let Answer::Some { items, .. } = answer {
            for record in items.iter().filter_map(|bytes| Record::decode(bytes).ok()) {
                self.take(at, record);
            }
        }
        let machine = &mut self.machines[usize::from(at)];
        let Some(pull) = machine.pulls.get_mut(&from) else {
            return;
        };
        match pull.next(machine.replica.records(), answer) {
            Some(ask) => self.send(at, from, Letter::Ask(ask)),
            None => {
                machine.pulls.remove(&from);
                if *answer != Answer::Refused {
                    machine.synced.insert(from);
                    self.boot(at);
                }
            }
        }
    }

    fn hear_adverts(&mut self, at: At, from: At, answer: &Answer) {
        let Answer::Some { items, more } = answer else {
            return;
        };
        let key = self.machines[usize::from(from)].key;
        let mut is_news = false;
        for bytes in items {
            let told = sync::untold(bytes);
            let told = told.and_then(|(age_us, bytes)| Some((age_us, self.mesh.decode(bytes)?)));
            let Some((age_us, advert)) = told else {
                continue;
            };
            if !self.hear_advert(at, age_us, advert.clone()) {
                continue;
            }
            is_news = true;
            // From its own mouth: others may have missed it.
            if advert.node == key {
                let news = self.mesh.news(bytes.len(), Tidings::Advert(advert));
                self.machines[usize::from(at)].is_news(news.number);
                self.mesh.fresh[usize::from(at)].push(news);
            }
        }
        if *more && is_news {
            self.ask_who_is_there(at, from);
        }
    }

    /// A node that has heard from enough others knows whether it may act.
    fn boot(&mut self, at: At) {
        let machine = &mut self.machines[usize::from(at)];
        if machine.is_booted {
            return;
        }
        let enough = SYNCED_MIN.min(machine.neighbours.len());
        let waited = self.now - machine.started >= SYNC_PATIENCE_US && !machine.synced.is_empty();
        let is_alone = machine.book.members().count() == 1;
        if machine.synced.len() < enough && !waited && !is_alone {
            return;
        }
        machine.is_booted = true;
        let standing = machine.standing();
        machine.rights = machine.rights.under(standing);
        let rights = machine.rights.clone();
        self.note(
            at,
            "booted",
            u64::from(self.machines[usize::from(at)].is_halted()),
        );
        self.step(at, Input::Rights(rights));
    }

    /// A halt goes on at once, whatever the beat.
    fn take(&mut self, at: At, record: Record) {
        let machine = &mut self.machines[usize::from(at)];
        if machine.replica.insert(record.clone()) != Taken::New {
            return;
        }
        machine.replica.refold();
        let neighbours = machine.neighbours.clone();
        if machine.is_booted {
            machine.rights = machine.rights.under(machine.standing());
            let rights = machine.rights.clone();
            self.step(at, Input::Rights(rights));
        }
        let name = u64::from_le_bytes(record.id().first_chunk().copied().unwrap_or_default());
        self.note(at, "record", name);
        let (bytes, what) = (record.encode().len(), Tidings::Record(Arc::new(record)));
        let news = self.mesh.news(bytes, what);
        self.machines[usize::from(at)].is_news(news.number);
        let news: Arc<[News]> = Arc::new([news]);
        for peer in neighbours {
            self.send(at, peer, Letter::News(news.clone()));
        }
    }

    // --- people ---------------------------------------------------------------------------------

    pub(super) fn halt(&mut self, by: u8) {
        self.mesh.halts += 1;
        let halt = self.mesh.people[usize::from(by - 1)].halt(self.mesh.halts, "smoke");
        if let Some(at) = self.somebody(|_| true) {
            self.take(at, Record::Halt(halt));
        }
    }

    fn somebody(&self, which: impl Fn(&Machine) -> bool) -> Option<At> {
        let honest = &self.machines[..usize::from(self.options.nodes)];
        let awake = |m: &&Machine| m.is_up && m.paused_until <= self.now && which(m);
        honest.iter().filter(awake).map(|m| m.at).next()
    }

    /// Two of three vote at a node that knows of the halts. Who knows of others asks again later.
    pub(super) fn resume(&mut self) {
        let halted = |m: &Machine| m.replica.standing().is_halted();
        let Some(at) = self.somebody(halted) else {
            return;
        };
        let again = self.now + SYNC_PATIENCE_US;
        self.push(again, Happening::Act(super::plan::Act::Resume));
        let standing = self.machines[usize::from(at)].standing();
        let has_passed = standing.tip().height >= self.mesh.voted.0;
        if !has_passed && self.now < self.mesh.voted_at + PATIENCE_US {
            return;
        }
        self.mesh.voted_at = self.now;
        let mut proposal = on_tip(&standing, Consent::Resume, lift(&standing));
        let now_s = START_S + self.now / 1_000_000;
        proposal.expiry = now_s + 3 * DAY_S;
        if self.mesh.voted.0 == proposal.height {
            proposal.round = self.mesh.voted.1 + 1;
        }
        self.mesh.voted = (proposal.height, proposal.round);
        let mut entries = Vec::new();
        for person in &mut self.mesh.people[..2] {
            person.time_s = now_s;
            if entries.is_empty() {
                entries.push(person.propose(&proposal));
            }
            entries.push(person.vote(&proposal));
        }
        for entry in entries {
            self.take(at, Record::Entry(entry));
        }
    }

    // --- the end --------------------------------------------------------------------------------

    /// Long after the healing everybody knows the same of everybody.
    pub(super) fn disagreements(&self) -> Vec<String> {
        let machines = &self.machines[..usize::from(self.options.nodes)];
        let first = machines[0].replica.standing().hash();
        let mut found = Vec::new();
        // Where connections break for want of an answer, a neighbour is silent now and then.
        let is_good = self.options.link.loss_ppm <= LOSS_PPM_GOOD;
        for machine in machines {
            let at = machine.at;
            if machine.replica.standing().hash() != first {
                found.push(format!("node {at} folds to another standing than node 0"));
            }
            let here: BTreeSet<&Author> = machine.book.here().map(|advert| &advert.node).collect();
            let others = machines.iter().filter(|other| other.at != at);
            let missing: Vec<At> = others
                .filter(|other| !here.contains(&other.key))
                .map(|other| other.at)
                .collect();
            if is_good && !missing.is_empty() {
                found.push(format!("node {at} does not know of {missing:?}"));
            }
            if found.len() > SIM_TAIL_MAX {
                break;
            }
        }
        found
    }
}

/// Ends every halt that the node knows of.
fn lift(standing: &Standing) -> Deed {
    let halts = standing.causes().filter_map(|cause| match cause {
        Cause::Halt { id, .. } => Some(id.0),
        Cause::Conflict(id) => Some(*id),
        Cause::Flood(_) | Cause::Fault(_) => None,
    });
    let mut lifts: Vec<[u8; 32]> = halts.collect();
    lifts.sort_unstable();
    Deed::Resume {
        restart: standing.snapshot().config.hash(),
        lifts,
        suspends: Vec::new(),
    }
}
