//! Canonical bytes: one spelling, total decoders, caps.

use super::people::*;
use crate::limits::{CAUSAL_REFS_MAX, HALT_REASON_BYTES_MAX, LIFTS_MAX};
use proptest::prelude::*;

/// One record of every kind and every act.
fn samples() -> Vec<Record> {
    let mut world = World::new(3, 3);
    let base = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 400));
    let lifts = vec![EntryId([1; 32]), EntryId([2; 32])];
    let acts = [
        base.act.clone(),
        Act::Raise {
            to: Phase::Suggest,
            criteria: [1; 32],
            evidence: [2; 32],
            lifts,
        },
        Act::Membership(members(&[1, 2, 4], 3)),
        Act::Resume {
            restart: [5; 32],
            lifts: vec![[1; 32], [2; 32]],
            suspends: sorted([3]),
        },
        Act::MinSafe(3),
    ];
    let mut all = Vec::new();
    for act in acts {
        let proposal = Proposal {
            act,
            ..base.clone()
        };
        all.push(Record::Entry(world.people[0].propose(&proposal)));
    }
    let mut draft = world.people[1].draft(0, Body::Lower(Phase::Minor));
    draft.refs = vec![EntryId([3; 32]), EntryId([4; 32])];
    all.push(Record::Entry(world.people[1].sign_draft(&draft)));
    all.push(Record::Entry(world.people[1].vote(&base)));
    all.push(Record::Halt(world.people[2].halt(5, "smoke, and ümläuts")));
    let times = [(WITNESS, 5), (WITNESS + 1, 6)];
    all.push(Record::Checkpoint(cosign(world.seen(), &times)));
    let mut admission = Admission {
        network: world.genesis.network_id(),
        issuer: public(50),
        subject: public(51),
        issued_s: 1,
        expires_s: 2,
        signature: [0; 64],
    };
    admission.signature = secret(50).sign(&admission.body()).to_bytes();
    all.push(Record::Admission(admission));
    let target = Target::Node(public(50));
    let mut revocation = Revocation {
        network: world.genesis.network_id(),
        author: public(1),
        target,
        signature: [0; 64],
    };
    revocation.signature = secret(1).sign(&revocation.body()).to_bytes();
    all.push(Record::Revocation(revocation));
    all
}

#[test]
fn every_record_has_one_spelling_and_no_byte_of_it_is_free() {
    for record in samples() {
        let bytes = record.encode();
        let again = Record::decode(&bytes).unwrap();
        assert_eq!((again.id(), &again), (record.id(), &record));
        for at in 0..bytes.len() {
            assert!(Record::decode(&bytes[..at]).is_err(), "cut at {at}");
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(
                Record::decode(&other).is_err(),
                "bit flipped in byte {at} of {record:?}"
            );
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(Record::decode(&long), Err(Malformed::Trailing));
    }
}

#[test]
fn a_genesis_has_one_spelling_and_its_name_is_its_hash() {
    let world = World::with(3, 3, |terms| {
        terms.criteria[0] = "a week without a halt".into();
        terms.nodes = sorted([50, 51]);
    });
    let bytes = world.genesis.encode();
    assert_eq!(Genesis::decode(&bytes), Ok(world.genesis.clone()));
    for at in 0..bytes.len() {
        assert!(Genesis::decode(&bytes[..at]).is_err());
        let mut other = bytes.clone();
        other[at] ^= 1;
        if let Ok(genesis) = Genesis::decode(&other) {
            assert_ne!(
                genesis.network_id(),
                world.genesis.network_id(),
                "byte {at}"
            );
        }
    }
}

/// Signs whatever bytes: the decoder alone has to refuse.
fn signed_as_is(n: u8, mut bytes: Vec<u8>) -> Result<Entry, Malformed> {
    let signature = secret(n).sign(&bytes).to_bytes();
    bytes.extend_from_slice(&signature);
    Entry::decode(&bytes)
}

#[test]
fn other_spellings_are_refused_even_when_signed() {
    let world = World::new(3, 0);
    let person = &world.people[0];
    let mut draft = person.draft(0, Body::Lower(Phase::ReadOnly));
    assert!(signed_as_is(1, draft.bytes()).is_ok());
    draft.refs = vec![EntryId([2; 32]), EntryId([1; 32])];
    assert_eq!(
        signed_as_is(1, draft.bytes()),
        Err(Malformed::Order("the refs"))
    );
    draft.refs = vec![EntryId([2; 32]); 2];
    assert_eq!(
        signed_as_is(1, draft.bytes()),
        Err(Malformed::Order("the refs"))
    );
    let ids = |n: usize| (0..n).map(|n| EntryId([n as u8; 32])).collect::<Vec<_>>();
    draft.refs = ids(CAUSAL_REFS_MAX);
    assert!(signed_as_is(1, draft.bytes()).is_ok());
    draft.refs = ids(CAUSAL_REFS_MAX + 1);
    assert_eq!(
        signed_as_is(1, draft.bytes()),
        Err(Malformed::Range("the refs"))
    );
    draft.refs.clear();
    draft.body = Body::Lower(Phase::Major);
    assert_eq!(
        signed_as_is(1, draft.bytes()),
        Err(Malformed::Range("the phase"))
    );
    draft.seq = 1;
    draft.body = Body::Lower(Phase::ReadOnly);
    let place = Err(Malformed::Range("the place in the feed"));
    assert_eq!(signed_as_is(1, draft.bytes()), place);
    (draft.seq, draft.prev) = (0, EntryId([1; 32]));
    assert_eq!(signed_as_is(1, draft.bytes()), place);
    draft.seq = crate::limits::FEED_ENTRIES_MAX;
    assert_eq!(signed_as_is(1, draft.bytes()), place);
    assert_eq!(
        signed_as_is(2, person.draft(0, Body::Lower(Phase::Minor)).bytes()),
        Err(Malformed::Signature)
    );
    // Operations in another order than the keys'.
    let config = MeshConfig::default();
    let op = |key: Key| Set {
        key,
        value: config.get(key) - 1,
        expect_old: config.get(key),
    };
    let (first, second) = (op(Key::ServingSessionsMax), op(Key::ServingGatherUs));
    let patch = Act::Patch(Patch::new(vec![first, second]).unwrap());
    let bytes = person
        .draft(0, Body::Propose(world.proposal(Consent::Minor, patch)))
        .bytes();
    assert!(signed_as_is(1, bytes.clone()).is_ok());
    let (head, ops) = bytes.split_at(bytes.len() - 20);
    let swapped = [head, &ops[10..], &ops[..10]].concat();
    assert_eq!(signed_as_is(1, swapped), Err(Malformed::NotCanonical));
}

#[test]
fn the_largest_of_everything_fits_and_one_more_does_not() {
    let world = World::new(3, 0);
    let resume = |lifts: usize, people: usize| {
        let id = |n: usize| [[(n >> 8) as u8, n as u8].as_slice(), &[0; 30]].concat();
        let ids = |n: usize| {
            (0..n)
                .map(|n| id(n).try_into().unwrap())
                .collect::<Vec<[u8; 32]>>()
        };
        let act = Act::Resume {
            restart: [0; 32],
            lifts: ids(lifts),
            suspends: ids(people),
        };
        let mut draft =
            world.people[0].draft(0, Body::Propose(world.proposal(Consent::Resume, act)));
        draft.refs = ids(CAUSAL_REFS_MAX).into_iter().map(EntryId).collect();
        signed_as_is(1, draft.bytes()).map(|_| ())
    };
    assert_eq!(resume(LIFTS_MAX, 64), Ok(()));
    assert_eq!(
        resume(LIFTS_MAX + 1, 64),
        Err(Malformed::Range("the lifts"))
    );
    assert_eq!(
        resume(LIFTS_MAX, 65),
        Err(Malformed::Range("the suspended keys"))
    );
    let halt = world.people[0].halt(u128::MAX, &"x".repeat(HALT_REASON_BYTES_MAX));
    assert_eq!(Halt::decode(&halt.encode()), Ok(halt));
    let halt = world.people[0].halt(0, &"x".repeat(HALT_REASON_BYTES_MAX + 1));
    assert_eq!(
        Halt::decode(&halt.encode()),
        Err(Malformed::Range("the reason"))
    );
    assert!(!Records::default().insert(Record::Halt(halt)));
    let mut bytes = world.people[0].halt(0, "x").encode();
    bytes.resize(1025, 0);
    assert_eq!(
        Halt::decode(&bytes),
        Err(Malformed::TooLong {
            got: 1025,
            max: 1024
        })
    );
}

#[test]
fn a_checkpoint_names_each_witness_once_and_an_admission_has_an_end() {
    let world = World::new(3, 3);
    let good = cosign(world.seen(), &[(WITNESS, 5)]);
    let one = good.encode()[good.encode().len() - 104..].to_vec();
    let mut twice = good.encode();
    let count = twice.len() - 105;
    twice[count] = 2;
    twice.extend_from_slice(&one);
    assert_eq!(
        Checkpoint::decode(&twice),
        Err(Malformed::Order("the witnesses"))
    );
    let admission = |issued_s, expires_s| {
        let (issuer, subject) = (public(50), public(51));
        let network = world.genesis.network_id();
        let signature = [0; 64];
        let mut a = Admission {
            network,
            issuer,
            subject,
            issued_s,
            expires_s,
            signature,
        };
        a.signature = secret(50).sign(&a.body()).to_bytes();
        Admission::decode(&a.encode()).map(|_| ())
    };
    assert_eq!(admission(1, 1 + 366 * DAY_S), Ok(()));
    let time = Err(Malformed::Range("the time of an admission"));
    assert_eq!(admission(1, 2 + 366 * DAY_S), time);
    assert_eq!(admission(1, 1), time);
}

#[test]
fn members_of_two_duties_or_bad_keys_are_refused() {
    let check = |change: fn(&mut Members)| {
        let mut m = members(&[1, 2, 3], 3);
        change(&mut m);
        m.check(Preset::Community, &[public(50)])
    };
    assert_eq!(check(|_| {}), Ok(()));
    assert_eq!(
        check(|m| m.participants = sorted([1, 2, 50])),
        Err(BadMembers::TwoDuties)
    );
    assert_eq!(
        check(|m| m.participants = sorted([1, 2, WITNESS])),
        Err(BadMembers::TwoDuties)
    );
    assert_eq!(
        check(|m| m.participants.clear()),
        Err(BadMembers::Participants)
    );
    assert_eq!(
        check(|m| m.participants = sorted(1..=65)),
        Err(BadMembers::Participants)
    );
    assert_eq!(check(|m| m.participants[0] = [0; 32]), Err(BadMembers::Key));
    assert_eq!(
        check(|m| m.participants[2] = [255; 32]),
        Err(BadMembers::Key)
    );
    assert_eq!(
        check(|m| m.witness_threshold = 1),
        Err(BadMembers::Witnesses)
    );
    assert_eq!(
        check(|m| m.witness_threshold = 4),
        Err(BadMembers::Witnesses)
    );
    assert_eq!(
        check(|m| m.participants = sorted([1, 2])),
        Err(BadMembers::Preset)
    );
    assert_eq!(
        check(|m| m.witnesses = sorted([WITNESS, WITNESS + 1])),
        Err(BadMembers::Preset)
    );
}

#[test]
fn a_bad_genesis_is_refused() {
    let found = |change: fn(&mut Terms)| {
        let mut terms = Terms::of(Preset::Lab, sorted([1, 2, 3]), MeshConfig::default());
        terms.members = members(&[1, 2, 3], 3);
        change(&mut terms);
        terms.found().map(|_| ())
    };
    assert_eq!(found(|t| t.phase = Phase::Major), Ok(()));
    assert_eq!(
        found(|t| t.nodes = sorted(1..=3)),
        Err(BadGenesis::Members(BadMembers::TwoDuties))
    );
    assert_eq!(
        found(|t| t.nodes = vec![public(50); 2]),
        Err(BadGenesis::Nodes)
    );
    assert_eq!(found(|t| t.nodes = vec![[0; 32]]), Err(BadGenesis::Nodes));
    assert_eq!(
        found(|t| t.criteria[2] = "x".repeat(1025)),
        Err(BadGenesis::Criteria)
    );
    assert_eq!(found(|t| t.leases.apply_s = 301), Err(BadGenesis::Leases));
    assert_eq!(found(|t| t.leases.stream_s = 0), Err(BadGenesis::Leases));
    assert_eq!(found(|t| t.revert = 0), Err(BadGenesis::Revert));
    assert_eq!(found(|t| t.revert = 17), Err(BadGenesis::Revert));
    let name = |people: Vec<Author>| {
        Genesis::new(people, MeshConfig::default())
            .unwrap()
            .network_id()
    };
    assert_ne!(name(sorted([1])), name(sorted([2])));
    assert_eq!(
        name(vec![public(2), public(1)]),
        name(vec![public(1), public(2)])
    );
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_bytes_give_an_answer(kind in 0usize..6, tail in prop::collection::vec(any::<u8>(), 0..600)) {
        let tags: [&[u8]; 6] = [b"", b"quorate entry v1\0", b"quorate halt v1\0", b"quorate checkpoint v1\0",
            b"quorate admission v1\0", b"quorate revocation v1\0"];
        let bytes = [tags[kind], &tail].concat();
        prop_assert!(Record::decode(&bytes).is_err());
        prop_assert!(Genesis::decode(&[b"quorate genesis v1\0".as_slice(), &tail].concat()).is_err());
    }

    /// Valid entries with bytes changed, cut and inserted, then signed again: what is accepted has
    /// exactly the bytes that came.
    #[test]
    fn what_is_accepted_is_spelt_the_same(
        which in 0usize..7,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let samples = samples();
        let Record::Entry(entry) = &samples[which] else { panic!("the first seven are entries") };
        let mut bytes = entry.draft().bytes();
        for (at, byte, how) in edits {
            // Leave the tag: without it nothing is reached.
            let at = 17 + at.index(bytes.len() - 17);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        let author = (1..=3).find(|n| bytes[53..].starts_with(&public(*n))).unwrap_or(1);
        let signature = secret(author).sign(&bytes).to_bytes();
        bytes.extend_from_slice(&signature);
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}
