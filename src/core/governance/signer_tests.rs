//! The signer's memory: no request makes an honest key a liar.

use super::people::*;
use crate::limits::SIGNER_MESHES_MAX;
use proptest::prelude::*;

const ME: u8 = 1;

fn request(world: &World, wish: Wish) -> Request {
    Request {
        network: world.genesis.network_id(),
        epoch: 0,
        refs: vec![],
        wish,
    }
}

/// As `sign` does it: every entry is remembered before the next is drafted.
fn sign(memory: &mut Memory, request: &Request) -> Result<Vec<Entry>, WontSign> {
    let mut entries = Vec::new();
    for body in memory.bodies(request)? {
        let draft = memory.draft(public(ME), request, body, START_S);
        let signature = secret(ME).sign(&draft.bytes()).to_bytes();
        let entry = draft.signed(signature).unwrap();
        *memory = memory.after(&entry)?;
        entries.push(entry);
    }
    Ok(entries)
}

fn vote(proposal: Proposal) -> Wish {
    let choice = Choice::Yes;
    Wish::Vote { choice, proposal }
}

#[test]
fn a_second_proposal_in_one_place_is_not_signed_and_a_later_round_is() {
    let world = World::new(3, 0);
    let mut memory = Memory::default();
    let first = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 600));
    let other = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 700));
    let signed = sign(&mut memory, &request(&world, Wish::Propose(first.clone()))).unwrap();
    assert_eq!(signed.len(), 2, "who proposes says yes");
    let before = memory.clone();
    for wish in [vote(other.clone()), Wish::Propose(other.clone())] {
        let refused = sign(&mut memory, &request(&world, wish)).unwrap_err();
        assert_eq!(
            refused,
            WontSign::Forks {
                height: 1,
                round: 0
            }
        );
        assert_eq!(memory, before, "nothing was signed on the way");
    }
    let no = Wish::Vote {
        choice: Choice::No,
        proposal: other.clone(),
    };
    assert!(sign(&mut memory, &request(&world, no)).is_ok());
    assert!(sign(&mut memory, &request(&world, vote(first))).is_ok());
    let later = Proposal { round: 1, ..other };
    assert!(sign(&mut memory, &request(&world, vote(later))).is_ok());
}

#[test]
fn meshes_are_remembered_apart_and_at_most_so_many() {
    let world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 600));
    let mut memory = Memory::default();
    let in_mesh = |n: usize| Request {
        network: NetworkId([n as u8; 32]),
        ..request(&world, vote(proposal.clone()))
    };
    for n in 0..SIGNER_MESHES_MAX {
        let signed = sign(&mut memory, &in_mesh(n)).unwrap();
        assert_eq!(signed[0].draft().seq, 0);
    }
    let refused = sign(&mut memory, &in_mesh(SIGNER_MESHES_MAX));
    assert_eq!(refused, Err(WontSign::Meshes));
    assert_eq!(sign(&mut memory, &in_mesh(3)).unwrap()[0].draft().seq, 1);
    assert_eq!(Memory::decode(&memory.encode()), Ok(memory));
}

#[test]
fn an_entry_that_does_not_follow_is_not_remembered() {
    let world = World::new(3, 0);
    let mut memory = Memory::default();
    let lower = request(&world, Wish::Lower(Phase::ReadOnly));
    let first = sign(&mut memory, &lower).unwrap().remove(0);
    assert_eq!(memory.after(&first), Err(WontSign::NotNext));
    let fresh = Memory::default();
    let third = sign(&mut memory.clone(), &lower).unwrap().remove(0);
    assert_eq!(fresh.after(&third), Err(WontSign::NotNext));
}

#[test]
fn no_bit_of_a_memory_or_a_request_is_free() {
    let world = World::new(3, 0);
    let proposal = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, 600));
    let mut memory = Memory::default();
    sign(&mut memory, &request(&world, vote(proposal.clone()))).unwrap();
    let bytes = memory.encode();
    for at in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(Memory::decode(&changed).is_err(), "bit {at}");
    }
    let node = Target::Node(public(9));
    let link = Target::Link(AdmissionId([4; 32]));
    for wish in [
        Wish::Halt {
            reason: "smoke".into(),
        },
        vote(proposal.clone()),
        Wish::Propose(proposal),
        Wish::Lower(Phase::Suggest),
        Wish::Revoke(node),
        Wish::Revoke(link),
    ] {
        let asked = request(&world, wish);
        let bytes = asked.encode();
        assert_eq!(Request::decode(&bytes).as_ref(), Ok(&asked));
        for cut in 0..bytes.len() {
            assert!(Request::decode(&bytes[..cut]).is_err());
        }
    }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Whatever is asked, in whatever order: the fold finds no fault with this key.
    #[test]
    fn a_signer_never_proves_itself_a_liar(asks in prop::collection::vec((0u8..5, 1u64..4, 0u32..3, 300u32..305), 1..30)) {
        let mut world = World::new(3, 0);
        let mut memory = Memory::default();
        for (kind, height, round, value) in asks {
            let mut proposal = world.proposal(Consent::Minor, world.set(Key::ServingGatherUs, value));
            (proposal.height, proposal.round) = (height, round);
            let wish = match kind {
                0 => Wish::Lower(Phase::ReadOnly),
                1 => Wish::Propose(proposal),
                2 => Wish::Vote { choice: Choice::No, proposal },
                _ => vote(proposal),
            };
            if let Ok(entries) = sign(&mut memory, &request(&world, wish)) {
                entries.into_iter().for_each(|entry| world.say(entry));
            }
        }
        prop_assert!(world.standing().faults().is_empty());
    }

    #[test]
    fn any_bytes_are_a_memory_a_request_or_refused(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        for tag in [&b"quorate signer v1\0"[..], b"quorate request v1\0", b""] {
            let bytes = [tag, &tail[..]].concat();
            prop_assert!(Memory::decode(&bytes).is_err());
            if let Ok(asked) = Request::decode(&bytes) {
                prop_assert_eq!(asked.encode(), bytes);
            }
        }
    }
}
