//! Who is there: expiry, replays, clocks, twins, bounds.

use super::machines::{Machine, NOW_S, genesis, machine, row};
use super::{Advert, Book, Gone, Input, Moment, Output, Refusal};
use crate::governance::{Admissions, Record, Records, fold};
use crate::ids::{Micros, NetworkId};
use crate::limits::{ADVERT_LIFE_US, BOOK_NODES_MAX, SKEW_S_MAX, TWINS_US};

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

    /// It was said so long ago.
    fn told(&mut self, age_us: u64, advert: Advert) -> Vec<Output> {
        // As in life: it came as bytes.
        let advert = Box::new(Advert::decode(&advert.encode()).unwrap());
        self.put(Input::Advert { age_us, advert })
    }

    fn gossip(&mut self, advert: Advert) -> Vec<Output> {
        self.told(0, advert)
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
fn an_advert_counts_for_its_life_and_is_refreshed() {
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
    assert!(!shelf.book.is_silent(&node, Micros(shelf.up)));
    assert_eq!(shelf.put(Input::Silent(node)), [lost(2, Gone::Silent)]);
    assert!(shelf.book.is_silent(&node, Micros(shelf.up)));
    assert!(
        !shelf
            .book
            .is_silent(&node, Micros(shelf.up + ADVERT_LIFE_US + 1))
    );
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

/// A dead node does not live on because one that never knew it is told of it, and tells the next one.
#[test]
fn an_advert_that_is_told_from_one_to_the_next_has_one_life() {
    let said = ADVERT_LIFE_US / 3 * 2;
    let mut shelf = Shelf::new();
    assert!(met(&shelf.told(said, shelf.says(2, 1, 1))));
    assert!(shelf.wait(ADVERT_LIFE_US - said - 1).is_empty());
    let age = |shelf: &Shelf| {
        shelf
            .book
            .adverts(Micros(shelf.up))
            .map(|(_, age)| age)
            .next()
    };
    assert_eq!(age(&shelf), Some(ADVERT_LIFE_US - 1));
    let old = shelf.told(ADVERT_LIFE_US, shelf.says(3, 1, 1));
    assert_eq!(old, refused(Refusal::Stale));
    assert_eq!(shelf.wait(2), [lost(2, Gone::Expired)]);
    assert_eq!(age(&shelf), None);
}

/// Its clock was ahead by hours and was put right: its words count from below, until it hears what
/// others remember.
#[test]
fn a_node_whose_clock_was_put_back_goes_on_above_its_own_old_words() {
    let mut shelf = Shelf::new();
    let before = shelf.says(1, 5, ((NOW_S + 7200) << 20) + 9);
    let first = shelf.book.number(NOW_S);
    assert_eq!(first, NOW_S << 20);
    let out = shelf.gossip(before.clone());
    assert_eq!(out, [Output::Echo, Output::Refused(Refusal::Own)]);
    let next = shelf.book.number(NOW_S);
    assert!(next > before.seq);
    // Others of the same life are below: no echo, and no twin.
    let later = shelf.says(1, 5, before.seq + 1000);
    assert_eq!(shelf.gossip(later), refused(Refusal::Own));
    assert_eq!(shelf.book.number(NOW_S), next + 1);
    // For others it is a restart.
    let mut other = Shelf::new();
    other.gossip(other.says(2, 5, before.seq));
    assert_eq!(
        other.gossip(other.says(2, 7, first)),
        refused(Refusal::Stale)
    );
    assert!(met(&other.gossip(other.says(2, 7, next))));
    assert_eq!(other.gossip(other.says(2, 7, next + 1)), [Output::Passed]);
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
    shelf.wait(TWINS_US - 1);
    // One of them stopped; the other goes on.
    assert!(shelf.gossip(shelf.says(2, 1, 13)).contains(&Output::Passed));
    assert!(matches!(shelf.wait(2)[..], [Output::Met(_)]));
}

#[test]
fn our_own_key_in_other_hands_is_noticed() {
    let mut shelf = Shelf::new();
    let own = shelf.book.number(NOW_S);
    let ours = shelf.says(1, 11, own + 1);
    assert_eq!(shelf.gossip(ours), refused(Refusal::Own), "our own words");
    // It may be an earlier life of this node; what goes on above our answer is none.
    let out = shelf.gossip(shelf.says(1, 99, own + 5));
    assert_eq!(out, [Output::Echo, Output::Refused(Refusal::Own)]);
    let above = shelf.book.number(NOW_S) + 1;
    let twins = [
        Output::Echo,
        Output::Twins(machine(1).key()),
        Output::Refused(Refusal::Own),
    ];
    assert_eq!(shelf.gossip(shelf.says(1, 99, above)), twins);
    // Numbers end, and nothing else with them.
    shelf.gossip(shelf.says(1, 98, u64::MAX));
    assert_eq!(shelf.book.number(NOW_S), u64::MAX);
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
