//! At each limit what is allowed passes and one more does not; and small promises that nothing else asks about. Most of
//! these were written for a mutant that lived: research/measurements/mutants.md.

use super::codec::{hash, is_good_key};
use super::people::*;
use crate::limits::{
    ADMISSIONS_MAX, FEED_BYTES_MAX, FEED_ENTRIES_MAX, HALTS_PER_AUTHOR_MAX, LATCHED_HALTS_MAX,
    REVOCATIONS_PER_AUTHOR_MAX, SIGNER_MESHES_MAX, WITNESSES_MAX,
};

const FINE: Key = Key::ServingGatherUs;

fn admission(network: NetworkId, issuer: u8, subject: u8, time: (u64, u64)) -> Admission {
    let mut admission = Admission {
        network,
        issuer: public(issuer),
        subject: public(subject),
        issued_s: time.0,
        expires_s: time.1,
        signature: [0; 64],
    };
    admission.signature = secret(issuer).sign(&admission.body()).to_bytes();
    admission
}

#[test]
fn of_valid_admissions_the_nearest_that_lasts_longest_is_shown() {
    let mut world = World::with(3, 0, |terms| terms.nodes = sorted([50]));
    let network = world.genesis.network_id();
    for (issuer, subject, from, to) in [
        (50, 51, 100, 200),
        (50, 51, 100, 300),
        (51, 52, 100, 900),
        (50, 53, 400, 500),
    ] {
        let record = admission(network, issuer, subject, (from, to));
        assert!(world.records.insert(Record::Admission(record)));
    }
    let standing = world.standing();
    let all = standing.admissions();
    let until = |node: u8, now_s| all.nearest_link(&public(node), now_s).map(|l| l.expires_s);
    assert_eq!(until(51, 100), Some(300), "from its first second on");
    assert_eq!((until(51, 99), until(51, 300)), (None, None));
    assert_eq!(until(51, 250), Some(300), "the other has ended");
    assert_eq!(until(52, 150), Some(900), "by one who is admitted himself");
    assert_eq!(until(52, 350), None, "whose issuer is admitted no more");
    assert_eq!((until(53, 399), until(53, 400)), (None, Some(500)));
    assert_eq!(until(50, 150), None, "the genesis needs no link");
    assert!(all.is_of_genesis(&public(50)) && !all.is_of_genesis(&public(51)));
}

#[test]
fn a_key_has_one_spelling_below_the_prime_and_its_neighbours_are_keys() {
    use ed25519_dalek::VerifyingKey;
    let works = |key: &Author| VerifyingKey::from_bytes(key).is_ok_and(|parsed| !parsed.is_weak());
    let near = |low: u8, at: usize, byte: u8| {
        let mut key = [0xff; 32];
        (key[0], key[31]) = (low, 0x7f);
        key[at] = byte;
        key
    };
    let second = (0xed..=0xff).map(|low| near(low, 31, 0x7f));
    let second: Vec<Author> = second.filter(works).collect();
    assert!(!second.is_empty(), "the library takes them");
    assert!(!second.iter().any(is_good_key));
    let below = (0..0xed).map(|low| near(low, 31, 0x7f));
    let other = (1..31).flat_map(|at| (0xed..=0xff).map(move |low| near(low, at, 0xfe)));
    let good: Vec<Author> = below.chain(other).filter(works).collect();
    assert!(good.iter().any(|key| key[1] == 0xfe) && good.iter().any(|key| key[30] == 0xff));
    assert!(good.iter().all(is_good_key));
}

#[test]
fn members_and_terms_at_their_limits_are_fine_and_one_more_is_not() {
    let check = |people: u8, witnesses: u8, threshold: u8| {
        let mut all = members(&(1..=people).collect::<Vec<_>>(), witnesses);
        all.witness_threshold = threshold;
        all.check(Preset::Lab, &[])
    };
    let most = WITNESSES_MAX as u8;
    assert_eq!(check(64, 0, 0), Ok(()));
    assert_eq!(check(3, most, most / 2 + 1), Ok(()));
    let refused = Err(BadMembers::Witnesses);
    assert_eq!(check(3, most + 1, most), refused);
    for (witnesses, threshold) in [(1, 0), (4, 2), (6, 3)] {
        assert_eq!(
            check(3, witnesses, threshold),
            refused,
            "half is not more than half"
        );
        assert_eq!(check(3, witnesses, threshold + 1), Ok(()));
    }
    let longest = "x".repeat(crate::limits::CRITERIA_BYTES_MAX);
    let world = World::with(3, 0, |terms| {
        terms.criteria[0] = longest;
        terms.leases.apply_s = 1;
        terms.revert = 1;
        terms.config = MeshConfig::default().with(FINE, 400).unwrap();
    });
    assert_eq!(world.genesis.config().get(FINE), 400);
    assert_eq!(Genesis::decode(&world.genesis.encode()), Ok(world.genesis));
}

#[test]
fn a_checkpoint_has_one_to_sixteen_witnesses_their_median_and_at_most_512_heads() {
    let world = World::new(3, WITNESSES_MAX as u8);
    let sign = |n: u8, seen: Seen| {
        let one = |k: u8| {
            let (witness, time_s) = (public(WITNESS + k), 5);
            let attested = seen.attested(&witness, time_s);
            let signature = secret(WITNESS + k).sign(&attested).to_bytes();
            Cosignature {
                witness,
                time_s,
                signature,
            }
        };
        let all = (0..n).map(one).collect();
        seen.cosigned(all).map(|_| ())
    };
    let range = Err(Malformed::Range("the cosignatures"));
    assert_eq!(sign(0, world.seen()), range);
    assert_eq!(sign(WITNESSES_MAX as u8, world.seen()), Ok(()));
    assert_eq!(sign(WITNESSES_MAX as u8 + 1, world.seen()), range);
    let heads = |n: u16| {
        let head = |n: u16| Head {
            author: std::array::from_fn(|at| n.to_be_bytes()[at % 2]),
            seq: 0,
            entry: EntryId([1; 32]),
        };
        (0..n).map(head).collect::<Vec<Head>>()
    };
    let with = |heads: Vec<Head>| {
        sign(
            1,
            Seen {
                heads,
                ..world.seen()
            },
        )
    };
    assert_eq!(with(heads(512)), Ok(()));
    assert_eq!(with(heads(513)), Err(Malformed::Range("the heads")));
    let swapped: Vec<Head> = heads(2).into_iter().rev().collect();
    assert_eq!(with(swapped), Err(Malformed::Order("the heads")));
    for (n, low_s, high_s) in [(2, 1, 2), (3, 2, 2), (4, 2, 3), (5, 3, 3)] {
        let world = World::new(3, n);
        let times: Vec<(u8, u64)> = (0..n).map(|k| (WITNESS + k, u64::from(k) + 1)).collect();
        let time = cosign(world.seen(), &times).time(world.standing().electorate());
        assert_eq!(time, Some(Time { low_s, high_s }), "of {n}");
    }
}

#[test]
fn a_patch_of_every_key_is_a_proposal_and_the_law_follows_the_document() {
    let mut world = World::new(3, 0);
    let set = |row: &crate::config::Setting| Set {
        key: row.key,
        value: if row.default == row.min {
            row.default + 1
        } else {
            row.default - 1
        },
        expect_old: row.default,
    };
    let patch = Patch::new(crate::config::SCHEMA.iter().map(set).collect()).unwrap();
    let proposal = world.proposal(Consent::Major, Act::Patch(patch));
    let entry = world.people[0].propose(&proposal);
    assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    let half = MeshConfig::default().with(Key::ListTauInverse, 2).unwrap();
    let half = half.with(Key::ListMassPpm, 500_000).unwrap();
    let law = half.with(Key::ListEntriesMax, 9).unwrap().lists();
    assert_eq!((law.tau, law.mass, law.max_entries), (0.5, 0.5, 9));
}

#[test]
fn a_hair_more_than_two_largest_steps_is_major() {
    let ops = [
        (FINE, 997),
        (Key::ListTauInverse, 32),
        (Key::ServingQueueMax, 127),
    ];
    let config = MeshConfig::default();
    let set = |(key, value)| Set {
        key,
        value,
        expect_old: config.get(key),
    };
    let tier = |n: usize| {
        let patch = Patch::new(ops[..n].iter().copied().map(set).collect()).unwrap();
        patch_tier(&patch, &config, &Lately::new())
    };
    assert_eq!(tier(2), Ok(Tier::DeployMinor));
    assert_eq!(tier(3), Ok(Tier::DeployMajor), "2001 thousandths");
}

#[test]
fn a_mesh_begins_at_the_beginning_and_64_halts_of_one_person_are_no_flood() {
    let mut world = World::new(3, 0);
    let tip = world.standing().tip();
    assert_eq!((tip.height, tip.round), (0, 0));
    for nonce in 0..HALTS_PER_AUTHOR_MAX as u128 {
        world.halt(0, nonce);
    }
    assert_eq!(world.standing().causes().count(), HALTS_PER_AUTHOR_MAX);
    world.halt(0, u128::MAX);
    let flood = Cause::Flood(public(1));
    assert!(world.standing().causes().eq([&flood]));
    let halt = world.records.halts.values().next().unwrap().clone();
    assert!(!world.records.insert(Record::Halt(halt)), "it is there");
    let network = world.genesis.network_id();
    let start = End::empty(JournalPurpose::Log, network);
    let mut latch = Latch::new(network, 0, start);
    assert_eq!((latch.turn, latch.highest_s), (0, 0));
    for halt in world.records.halts.values() {
        latch.hold(halt);
    }
    assert_eq!(latch.halts.len(), LATCHED_HALTS_MAX);
    assert_eq!(Latch::decode(&latch.encode()), Ok(latch));
}

#[test]
fn of_rivals_the_latest_round_leads_until_one_has_the_longer_line() {
    for first in [400, 410, 420, 430] {
        let mut world = World::new(3, 0);
        let rival = |round: u32| Proposal {
            round,
            ..world.proposal(Consent::Minor, world.set(FINE, first + round))
        };
        let rivals = [rival(0), rival(1), rival(2)];
        let voters = [[0, 1], [1, 2], [2, 0]];
        for (rival, voters) in rivals.iter().zip(voters) {
            world.vote(rival, &voters);
        }
        assert!(world.is_tip(&rivals[2]), "the latest round");
        // Somebody who has not heard of the later ones builds on the first.
        let mut early = World::new(3, 0);
        early.vote(&rivals[0], &[0, 1]);
        let next = early.proposal(Consent::Minor, early.set(FINE, 500));
        world.vote(&next, &[0, 1]);
        assert!(world.is_tip(&next), "the longest line");
        let standing = world.standing();
        assert!(standing.is_halted(), "and people have to choose");
        assert_eq!(
            standing.accepted_at(1),
            Some(rivals[0].id(standing.network()))
        );
    }
}

#[test]
fn what_is_open_is_a_members_word_on_the_tip_and_only_changes_of_the_config_are_versions() {
    let mut world = World::new(3, 0);
    let network = world.genesis.network_id();
    let mine = world.proposal(Consent::Minor, world.set(FINE, 400));
    let theirs = world.proposal(Consent::Minor, world.set(FINE, 300));
    world.vote(&mine, &[0]);
    world.say(Person::new(9, network).propose(&theirs));
    let open: Vec<LinkId> = world.standing().open().iter().map(|(id, _)| *id).collect();
    assert_eq!(open, [mine.id(network)]);
    let act = Act::Membership(members(&[1, 2, 4], 0));
    let change = world.proposal(Consent::Membership, act);
    assert!(world.passes(&change, &[0, 1]));
    assert!(world.standing().open().is_empty(), "that was before");
    assert_eq!(world.standing().snapshots().len(), 1);
    let resume = world.resume(&[], &[4]);
    assert!(world.passes(&resume, &[0, 1]));
    let standing = world.standing();
    assert_eq!(
        standing.electorate().epoch,
        2,
        "one for the change, one for the suspension"
    );
    assert_eq!(standing.snapshots().len(), 2);
}

#[test]
fn a_vote_sealed_in_the_last_second_counts() {
    for (late_s, passes) in [(0, true), (1, false)] {
        let mut world = World::new(3, 3);
        let change = world.proposal(Consent::Minor, world.set(FINE, 400));
        world.vote(&change, &[0, 1]);
        world.look(2 * DAY_S + late_s);
        assert_eq!(world.is_tip(&change), passes);
    }
}

#[test]
fn no_permit_outlives_a_halt_of_this_machine_or_the_boot() {
    let world = World::new(3, 0);
    let rights = Rights::booting().under(world.standing());
    let permit = rights.mesh().unwrap();
    let tighten = |halted| Tighten {
        halted,
        phase_max: Phase::Major,
    };
    let halted = rights.tightened(tighten(true));
    assert_eq!(halted.check(permit), Err(Halted::Here));
    let again = halted.tightened(tighten(false));
    assert_eq!(again.check(permit), Err(Halted::Stale));
    assert!(again.mesh().is_ok());
    let goes_on = rights.under(world.standing());
    assert_eq!(goes_on.check(permit), Ok(()), "news that stop nothing");
    let elsewhere = rights.under(World::new(4, 0).standing());
    assert_eq!(elsewhere.check(permit), Err(Halted::Stale), "another mesh");
    let mut stopped = World::new(3, 0);
    stopped.halt(0, 1);
    let stopped = rights.under(stopped.standing());
    assert!(stopped.check(permit).is_err());
    let lifted = stopped.under(world.standing());
    assert_eq!(
        lifted.check(permit),
        Err(Halted::Stale),
        "it was stopped meanwhile"
    );
}

#[test]
fn each_part_of_a_parcel_has_its_place_and_damage_is_named_by_its_place() {
    let world = World::new(3, 0);
    let network = world.genesis.network_id();
    let parcel = Parcel {
        network,
        genesis: Some(world.genesis.clone()),
        records: vec![Record::Halt(world.people[0].halt(1, "smoke"))],
    };
    let bytes = parcel.encode();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    let last = (bytes.len() - (4 + 5 + 32)) as u64;
    assert_eq!(Parcel::decode(&changed), Err(BadParcel::Damaged(last)));
    let foreign = Person::new(1, NetworkId([7; 32])).halt(1, "smoke");
    for genesis in [Some(world.genesis.clone()), None] {
        let mixed = Parcel {
            genesis,
            records: vec![Record::Halt(foreign.clone())],
            ..parcel.clone()
        };
        assert_eq!(Parcel::decode(&mixed.encode()), Err(BadParcel::OtherMesh));
    }
    // Two beginnings: the second would silently take the place of the first.
    let mut twice = [&b"quorate parcel v1\0"[..], &network.0].concat();
    let mut end = End::empty(JournalPurpose::Parcel, network);
    let genesis = [&[1], &world.genesis.encode()[..]].concat();
    for part in [&genesis[..], &genesis, &[0, 0, 0, 0, 0]] {
        end = end.push(part, &mut twice);
    }
    let refused = Err(Malformed::Range("a part of the file").into());
    assert_eq!(Parcel::decode(&twice), refused);
}

#[test]
fn a_batch_says_what_it_changed_and_strangers_wait_for_their_invitation() {
    let mut world = World::new(3, 0);
    let mut replica = Replica::new(world.genesis.clone());
    let change = world.proposal(Consent::Membership, Act::Membership(members(&[1, 2, 4], 0)));
    let vote = Person::new(4, world.genesis.network_id()).vote(&change);
    let all = vec![
        Record::Entry(vote),
        Record::Entry(world.people[0].propose(&change)),
        Record::Entry(
            Person::new(9, world.genesis.network_id()).sign(0, Body::Lower(Phase::ReadOnly)),
        ),
        Record::Halt(world.people[1].halt(1, "smoke")),
    ];
    let taken = replica.take_all(all.clone());
    assert_eq!((taken.new.len(), taken.known, taken.changed), (3, 0, true));
    assert_eq!(taken.refused, [(all[2].clone(), Refusal::Stranger)]);
    let again = replica.take_all(all[..2].to_vec());
    assert_eq!((again.new.len(), again.known, again.changed), (0, 2, false));
    assert!(!replica.refold());
}

#[test]
fn a_node_keeps_so_many_revocations_of_a_person_and_so_many_admissions_and_no_more() {
    let world = World::with(3, 0, |terms| terms.nodes = sorted([50]));
    let network = world.genesis.network_id();
    let mut replica = Replica::new(world.genesis.clone());
    let revoke = |by: u8, n: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        let (target, signature) = (Target::Link(AdmissionId(id)), [0; 64]);
        let author = public(by);
        let mut revocation = Revocation {
            network,
            author,
            target,
            signature,
        };
        revocation.signature = secret(by).sign(&revocation.body()).to_bytes();
        Record::Revocation(revocation)
    };
    for n in 0..REVOCATIONS_PER_AUTHOR_MAX as u64 {
        assert_eq!(replica.insert(revoke(1, n)), Taken::New);
    }
    let full = Taken::Refused(Refusal::Full);
    assert_eq!(replica.insert(revoke(1, u64::MAX)), full);
    assert_eq!(
        replica.insert(revoke(2, u64::MAX)),
        Taken::New,
        "of another person"
    );
    let admit =
        |issuer, subject, n| Record::Admission(admission(network, issuer, subject, (n, n + 9)));
    let stranger = Taken::Refused(Refusal::Stranger);
    assert_eq!(replica.insert(admit(51, 52, 0)), stranger);
    for n in 0..ADMISSIONS_MAX as u64 - 1 {
        assert_eq!(replica.insert(admit(50, 51, n)), Taken::New);
    }
    replica.refold();
    assert_eq!(
        replica.insert(admit(51, 52, 0)),
        Taken::New,
        "his issuer is known now"
    );
    assert_eq!(replica.insert(admit(50, 53, 0)), full);
}

#[test]
fn a_feed_is_full_at_so_many_bytes() {
    let mut world = World::new(3, 0);
    let mut replica = Replica::new(world.genesis.clone());
    let lifts = (0..1024_u64).map(|n| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        id
    });
    let act = Act::Resume {
        restart: [0; 32],
        lifts: lifts.collect(),
        suspends: vec![],
    };
    let large = world.proposal(Consent::Resume, act);
    let mut bytes = 0;
    while bytes < FEED_BYTES_MAX {
        let entry = Record::Entry(world.people[0].propose(&large));
        bytes += entry.encode().len();
        assert_eq!(replica.insert(entry), Taken::New);
    }
    let more = Record::Entry(world.people[0].sign(0, Body::Lower(Phase::ReadOnly)));
    assert_eq!(replica.insert(more), Taken::Refused(Refusal::Full));
    let other = Record::Entry(world.people[1].sign(0, Body::Lower(Phase::ReadOnly)));
    assert_eq!(replica.insert(other), Taken::New);
}

/// A memory of one mesh, as it stands in a file.
fn remembered(network: NetworkId, seq: u64) -> Memory {
    let mesh = [&network.0[..], &seq.to_le_bytes(), &[1; 32], &[0]].concat();
    let body = [b"quorate signer v1\0", &[1][..], &mesh].concat();
    let sum = hash("quorate 2026 signer", &body);
    Memory::decode(&[&body[..], &sum].concat()).unwrap()
}

#[test]
fn a_signer_stops_before_its_feed_is_full_and_a_proposal_needs_two_places() {
    let world = World::new(3, 0);
    let network = world.genesis.network_id();
    let proposal = world.proposal(Consent::Minor, world.set(FINE, 400));
    let asked = |wish: Wish| Request {
        network,
        epoch: 0,
        refs: vec![],
        wish,
    };
    let choice = Choice::No;
    let vote = asked(Wish::Vote {
        choice,
        proposal: proposal.clone(),
    });
    assert_eq!(Request::decode(&vote.encode()), Ok(vote.clone()));
    let propose = asked(Wish::Propose(proposal));
    let count = |seq, request| remembered(network, seq).bodies(request).map(|b| b.len());
    let full = Err(WontSign::Full);
    assert_eq!(count(FEED_ENTRIES_MAX - 2, &propose), Ok(2));
    assert_eq!(count(FEED_ENTRIES_MAX - 1, &propose), full);
    assert_eq!(count(FEED_ENTRIES_MAX - 1, &vote), Ok(1));
    assert_eq!(count(FEED_ENTRIES_MAX, &vote), full);
    assert_eq!(count(FEED_ENTRIES_MAX + 1, &vote), full);
}

#[test]
fn a_signer_that_remembers_enough_meshes_goes_on_in_them_and_halts_anywhere() {
    let world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(FINE, 400));
    let mut memory = Memory::default();
    let asked = |n: usize, wish: Wish| Request {
        network: NetworkId([n as u8; 32]),
        epoch: 0,
        refs: vec![],
        wish,
    };
    let yes = |n| {
        let (choice, proposal) = (Choice::Yes, proposal.clone());
        asked(n, Wish::Vote { choice, proposal })
    };
    for n in 0..SIGNER_MESHES_MAX {
        let request = yes(n);
        let body = memory.bodies(&request).unwrap().remove(0);
        let draft = memory.draft(public(1), &request, body, START_S);
        let signature = secret(1).sign(&draft.bytes()).to_bytes();
        memory = memory.after(&draft.signed(signature).unwrap()).unwrap();
    }
    assert!(memory.bodies(&yes(3)).is_ok());
    assert_eq!(
        memory.bodies(&yes(SIGNER_MESHES_MAX)),
        Err(WontSign::Meshes)
    );
    let reason = "smoke".into();
    let halt = asked(SIGNER_MESHES_MAX, Wish::Halt { reason });
    assert_eq!(memory.bodies(&halt), Ok(vec![]), "a halt needs no feed");
    // This is the longest memory there is.
    let bytes = memory.encode();
    let body = &bytes[..bytes.len() - 32];
    let longer = [body, &[0]].concat();
    let sum = hash("quorate 2026 signer", &longer);
    let (got, max) = (longer.len(), body.len());
    assert_eq!(
        Memory::decode(&[&longer[..], &sum].concat()),
        Err(Malformed::TooLong { got, max })
    );
}

/// Two changes in one place, neither by a liar: the name of what stops the mesh.
fn conflict(world: &mut World, values: [u32; 2]) -> [u8; 32] {
    let early = world.proposal(Consent::Minor, world.set(FINE, values[0]));
    let late = Proposal {
        act: world.set(FINE, values[1]),
        round: early.round + 1,
        ..early.clone()
    };
    world.vote(&early, &[0]);
    world.vote(&late, &[0, 2]);
    let last = world.people[1].vote(&early);
    world.say(last);
    let standing = world.standing();
    let mut names = standing.causes().filter_map(|cause| match cause {
        Cause::Conflict(id) => Some(*id),
        _ => None,
    });
    names.next().expect("it stops the mesh")
}

#[test]
fn whoever_lifts_one_conflict_lifts_no_other() {
    let mut world = World::new(3, 0);
    let before = world.standing().snapshot().config.get(FINE);
    let first = conflict(&mut world, [before + 1, before + 2]);
    let mut resume = world.resume(&[], &[]);
    if let Act::Resume { lifts, .. } = &mut resume.act {
        lifts.push(first);
    }
    assert!(world.passes(&resume, &[0, 1, 2]) && !world.standing().is_halted());
    let second = conflict(&mut world, [before + 3, before + 4]);
    assert!(first != second && world.standing().is_halted());
}

/// Nodes of different builds compare these hashes: what goes into them may not change unseen.
#[test]
fn standings_have_the_hashes_that_they_had() {
    let mut world = World::new(3, 3);
    let mut names = vec![world.standing().hash()];
    world.look(60);
    names.push(world.standing().hash());
    world.halt(1, 1);
    names.push(world.standing().hash());
    let before = world.standing().snapshot().config.get(FINE);
    let mut split = World::new(3, 0);
    conflict(&mut split, [before + 1, before + 2]);
    names.push(split.standing().hash());
    let mut forked = World::new(3, 0);
    let change = forked.proposal(Consent::Minor, forked.set(FINE, before + 1));
    forked.vote(&change, &[1]);
    let mut thief = Person::new(1, forked.genesis.network_id());
    forked.say(thief.vote(&change));
    names.push(forked.standing().hash());
    let first_bytes: Vec<[u8; 2]> = names.iter().map(|name| [name[0], name[1]]).collect();
    // As of the config document with `router.learned_weights`.
    let as_they_were = [[175, 205], [140, 236], [186, 213], [90, 235], [250, 205]];
    assert_eq!(first_bytes, as_they_were);
}
