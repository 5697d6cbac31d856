//! Who is there: expiry, replays, clocks, twins, bounds.

use super::machines::{Machine, NOW_S, genesis, machine, row};
use super::{Advert, Book, Gone, Input, Moment, Output, Refusal, Source};
use crate::governance::{Admissions, Record, Records, fold};
use crate::ids::{Micros, NetworkId};
use crate::limits::{ADVERT_LIFE_US, BOOK_NODES_MAX, SKEW_S_MAX};

/// A book that belongs to machine 1, in a mesh of the machines 1 to 9.
struct Shelf {
    book: Book,
    network: NetworkId,
    up: u64,
    out: Vec<Output>,
}

fn members(of: &[&Machine]) -> (NetworkId, Admissions) {
    let genesis = genesis(of);
    let standing = fold(&genesis, &Records::default());
    (genesis.network_id(), standing.admissions().clone())
}

impl Shelf {
    fn new() -> Shelf {
        let machines: Vec<Machine> = (1..10).map(machine).collect();
        let (network, admissions) = members(&machines.iter().collect::<Vec<_>>());
        let book = Book::new(network, machine(1).key(), 11);
        let mut shelf = Shelf {
            book,
            network,
            up: 0,
            out: vec![],
        };
        shelf.put(Input::Members(admissions));
        shelf
    }

    fn put(&mut self, input: Input) -> Vec<Output> {
        let now = Moment {
            up: Micros(self.up),
            unix_s: NOW_S + self.up / 1_000_000,
        };
        self.book.handle(now, input, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn wait(&mut self, us: u64) -> Vec<Output> {
        self.up += us;
        self.put(Input::Tick)
    }

    fn hear(&mut self, from: Source, advert: Advert) -> Vec<Output> {
        // As in life: it came as bytes.
        let advert = Box::new(Advert::decode(&advert.encode()).unwrap());
        self.put(Input::Advert { from, advert })
    }

    fn gossip(&mut self, advert: Advert) -> Vec<Output> {
        self.hear(Source::Gossip, advert)
    }

    fn says(&self, n: u16, instance: u64, seq: u64) -> Advert {
        machine(n).advert(self.network, |a| (a.instance, a.seq) = (instance, seq))
    }
}

fn met(out: &[Output]) -> bool {
    out.iter().any(|o| matches!(o, Output::Met(_))) && out.contains(&Output::Passed)
}

fn refused(why: Refusal) -> Vec<Output> {
    vec![Output::Refused(why)]
}

fn lost(n: u16, why: Gone) -> Output {
    Output::Lost {
        node: machine(n).key(),
        why,
    }
}

#[test]
fn an_advert_counts_for_a_minute_and_is_refreshed() {
    let mut shelf = Shelf::new();
    assert!(met(&shelf.gossip(shelf.says(2, 1, 1))));
    assert_eq!(shelf.book.experts().count(), 1);
    assert!(shelf.wait(ADVERT_LIFE_US / 2).is_empty());
    // The same again is no news; a refresh is, but nobody is met twice.
    assert_eq!(shelf.gossip(shelf.says(2, 1, 1)), refused(Refusal::Stale));
    assert_eq!(shelf.gossip(shelf.says(2, 1, 2)), [Output::Passed]);
    assert!(shelf.wait(ADVERT_LIFE_US).is_empty());
    assert_eq!(shelf.wait(1), [lost(2, Gone::Expired)]);
    assert_eq!(shelf.book.experts().count(), 0);
    // A replay does not bring it back; a new word does.
    assert_eq!(shelf.gossip(shelf.says(2, 1, 2)), refused(Refusal::Stale));
    assert!(met(&shelf.gossip(shelf.says(2, 1, 3))));
}

#[test]
fn what_changed_is_met_again() {
    let mut shelf = Shelf::new();
    shelf.gossip(shelf.says(2, 1, 1));
    let other = machine(2).advert(shelf.network, |a| {
        a.seq = 2;
        a.experts = vec![row(1), row(2)];
    });
    assert!(met(&shelf.gossip(other)));
    assert_eq!(shelf.book.experts().count(), 2);
}

#[test]
fn strangers_and_other_meshes_are_not_listened_to() {
    let mut shelf = Shelf::new();
    assert_eq!(
        shelf.gossip(shelf.says(99, 1, 1)),
        refused(Refusal::Stranger)
    );
    let elsewhere = machine(2).advert(NetworkId([9; 32]), |_| ());
    assert_eq!(shelf.gossip(elsewhere), refused(Refusal::OtherMesh));
    // Somebody who is taken out is forgotten at once.
    shelf.gossip(shelf.says(2, 1, 1));
    let (_, fewer) = members(&[&machine(1)]);
    assert_eq!(shelf.put(Input::Members(fewer)), [lost(2, Gone::Removed)]);
    assert_eq!(shelf.book.advert_of(&machine(2).key()), None);
}

#[test]
fn clocks_may_be_a_day_apart_and_no_more() {
    for (issued_s, fits) in [
        (NOW_S + 86_400, true),
        (NOW_S - 86_400, true),
        (NOW_S + SKEW_S_MAX + 1, false),
        (NOW_S - SKEW_S_MAX - 1, false),
        (u64::MAX, false),
    ] {
        let mut shelf = Shelf::new();
        let out = shelf.gossip(machine(2).advert(shelf.network, |a| a.issued_s = issued_s));
        assert_eq!(met(&out), fits, "{out:?}");
        assert_eq!(out == refused(Refusal::Clock), !fits);
    }
}

#[test]
fn silence_loses_a_node_and_a_link_brings_it_back() {
    let mut shelf = Shelf::new();
    shelf.gossip(shelf.says(2, 1, 1));
    let node = machine(2).key();
    assert_eq!(shelf.put(Input::Silent(node)), [lost(2, Gone::Silent)]);
    assert!(shelf.put(Input::Silent(node)).is_empty(), "lost once");
    assert!(matches!(
        shelf.put(Input::Linked(node))[..],
        [Output::Met(_)]
    ));
    shelf.put(Input::Silent(node));
    assert!(met(&shelf.gossip(shelf.says(2, 1, 2))));
    // Who was never heard of is neither lost nor met.
    assert!(shelf.put(Input::Silent(machine(3).key())).is_empty());
    assert!(shelf.put(Input::Linked(machine(3).key())).is_empty());
}

#[test]
fn a_node_that_leaves_is_lost_at_once_and_stays_so() {
    let mut shelf = Shelf::new();
    shelf.gossip(shelf.says(2, 1, 1));
    let bye = machine(2).advert(shelf.network, |a| (a.seq, a.leaves) = (2, true));
    assert_eq!(shelf.gossip(bye), [lost(2, Gone::Left), Output::Passed]);
    assert!(shelf.put(Input::Linked(machine(2).key())).is_empty());
    assert_eq!(shelf.book.adverts(Micros(shelf.up)).count(), 0);
    assert_eq!(shelf.gossip(shelf.says(2, 1, 1)), refused(Refusal::Stale));
    assert!(met(&shelf.gossip(shelf.says(2, 2, 3))), "it came back");
}

#[test]
fn a_restart_is_no_twin_even_with_a_clock_that_went_back() {
    let mut shelf = Shelf::new();
    shelf.gossip(shelf.says(2, 1, 100));
    // By hearsay it might be a replay; the node itself is believed.
    assert_eq!(shelf.gossip(shelf.says(2, 7, 50)), refused(Refusal::Stale));
    let own_word = Source::Peer(machine(2).key());
    assert!(met(&shelf.hear(own_word, shelf.says(2, 7, 50))));
    let through_another = Source::Peer(machine(3).key());
    assert_eq!(
        shelf.hear(through_another, shelf.says(2, 8, 50)),
        refused(Refusal::Stale)
    );
    assert_eq!(shelf.gossip(shelf.says(2, 7, 51)), [Output::Passed]);
}

#[test]
fn two_processes_with_one_key_are_asked_nothing_until_one_is_left() {
    let mut shelf = Shelf::new();
    let key = machine(2).key();
    shelf.gossip(shelf.says(2, 1, 10));
    assert!(
        met(&shelf.gossip(shelf.says(2, 7, 11))),
        "as yet it looks like a restart"
    );
    let out = shelf.gossip(shelf.says(2, 1, 12));
    assert_eq!(
        out,
        [Output::Twins(key), lost(2, Gone::Twins), Output::Passed]
    );
    assert_eq!(shelf.book.experts().count(), 0);
    assert!(shelf.put(Input::Linked(key)).is_empty());
    shelf.wait(ADVERT_LIFE_US - 1);
    // One of them stopped; the other goes on.
    assert!(shelf.gossip(shelf.says(2, 1, 13)).contains(&Output::Passed));
    assert!(matches!(shelf.wait(2)[..], [Output::Met(_)]));
}

#[test]
fn our_own_key_in_other_hands_is_noticed() {
    let mut shelf = Shelf::new();
    let out = shelf.gossip(shelf.says(1, 99, 1));
    assert_eq!(
        out,
        [
            Output::Twins(machine(1).key()),
            Output::Refused(Refusal::Own)
        ]
    );
    assert_eq!(
        shelf.gossip(shelf.says(1, 11, 1)),
        refused(Refusal::Own),
        "our own words"
    );
}

#[test]
fn the_book_has_an_end_and_forgets_the_dead_first() {
    let mut shelf = Shelf::new();
    let ada = machine(1);
    let genesis = genesis(&[&ada]);
    let network = genesis.network_id();
    let all = 100..=100 + BOOK_NODES_MAX as u16;
    let admitted = all
        .clone()
        .map(|n| Record::Admission(ada.admit(network, machine(n).key())));
    let standing = fold(&genesis, &admitted.collect());
    shelf.book = Book::new(network, ada.key(), 11);
    shelf.network = network;
    shelf.put(Input::Members(standing.admissions().clone()));
    for n in all.clone().skip(1) {
        assert!(met(&shelf.gossip(shelf.says(n, 1, 1))), "node {n}");
    }
    let last = *all.start();
    assert_eq!(shelf.gossip(shelf.says(last, 1, 1)), refused(Refusal::Full));
    // One that answers stays; of those that are over the one heard first makes room.
    shelf.up += ADVERT_LIFE_US / 2;
    assert_eq!(shelf.gossip(shelf.says(101, 1, 2)), [Output::Passed]);
    let over = shelf.wait(ADVERT_LIFE_US / 2 + 1);
    assert_eq!(over.len(), BOOK_NODES_MAX - 1);
    assert!(met(&shelf.gossip(shelf.says(last, 1, 1))));
    assert!(shelf.book.advert_of(&machine(101).key()).is_some());
}
