//! From an invite to an admission, and records that find their way.

use super::join::{Answer, BadWelcome, Refusal, chain_to, check_welcome, judge};
use super::machines::{Machine, NOW_S, genesis, machine};
use super::sync::{self, Pull};
use crate::governance::{Admission, Genesis, Record, Records, Replica};
use crate::limits::{ADMISSION_S, SKEW_S_MAX, SYNC_IDS_MAX};

fn replica_with(genesis: &Genesis, links: &[Admission]) -> Replica {
    let mut replica = Replica::new(genesis.clone());
    for link in links {
        replica.insert(Record::Admission(link.clone()));
        replica.refold();
    }
    replica
}

fn welcome(issuer: &Machine, replica: &Replica, genesis: &Genesis, guest: &Machine) -> Answer {
    let link = judge(
        &issuer.invite(genesis.network_id()),
        false,
        guest.key(),
        issuer.key(),
        genesis.network_id(),
        NOW_S,
    );
    let mut replica = replica.clone();
    replica.insert(Record::Admission(issuer.signed(link.unwrap())));
    replica.refold();
    let admissions = replica.standing().admissions();
    match chain_to(admissions, &guest.key(), NOW_S) {
        None => Answer::Refused(Refusal::ChainEnds),
        Some(chain) => Answer::Welcome {
            genesis: genesis.encode(),
            chain: chain.iter().map(Admission::encode).collect(),
        },
    }
}

#[test]
fn an_invite_leads_in_through_chains_of_three_and_no_further() {
    let nodes: Vec<Machine> = (1..6).map(machine).collect();
    let genesis = genesis(&[&nodes[0]]);
    let mut replica = Replica::new(genesis.clone());
    for at in 1..5 {
        let (issuer, guest) = (&nodes[at - 1], &nodes[at]);
        let answer = welcome(issuer, &replica, &genesis, guest);
        if at == 4 {
            assert_eq!(answer, Answer::Refused(Refusal::ChainEnds));
            continue;
        }
        let Answer::Welcome { genesis, chain } = &answer else {
            panic!("{answer:?}")
        };
        assert_eq!(chain.len(), at);
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer.clone()));
        let invite = issuer.invite(replica.standing().network());
        let checked = check_welcome(&invite, &guest.key(), genesis, chain, NOW_S);
        replica = checked.unwrap();
    }
}

#[test]
fn the_issuer_refuses_with_the_reason() {
    let (ada, bob) = (machine(1), machine(2));
    let network = genesis(&[&ada]).network_id();
    let invite = ada.invite(network);
    let says = |revoked, own: &Machine, network, now_s| {
        judge(&invite, revoked, bob.key(), own.key(), network, now_s).map(drop)
    };
    assert_eq!(says(false, &ada, network, NOW_S), Ok(()));
    assert_eq!(says(true, &ada, network, NOW_S), Err(Refusal::Revoked));
    assert_eq!(says(false, &ada, network, invite.expires_s - 1), Ok(()));
    assert_eq!(
        says(false, &ada, network, invite.expires_s),
        Err(Refusal::Expired)
    );
    assert_eq!(says(false, &bob, network, NOW_S), Err(Refusal::OtherIssuer));
    let other = genesis(&[&bob]).network_id();
    assert_eq!(says(false, &ada, other, NOW_S), Err(Refusal::OtherMesh));
}

#[test]
fn an_admission_by_invite_holds_on_clocks_a_day_apart() {
    let (ada, bob) = (machine(1), machine(2));
    let genesis = genesis(&[&ada]);
    let network = genesis.network_id();
    let link = judge(
        &ada.invite(network),
        false,
        bob.key(),
        ada.key(),
        network,
        NOW_S,
    )
    .unwrap();
    let link = Admission::decode(&ada.signed(link).encode()).unwrap();
    assert_eq!(link.expires_s, NOW_S + ADMISSION_S);
    let replica = replica_with(&genesis, &[link]);
    for now_s in [NOW_S - 86_400, NOW_S, NOW_S + 86_400] {
        assert!(replica.standing().admissions().admits(&bob.key(), now_s));
    }
    assert!(
        !replica
            .standing()
            .admissions()
            .admits(&bob.key(), NOW_S - SKEW_S_MAX - 1)
    );
}

#[test]
fn the_guest_believes_only_the_genesis_that_was_pinned() {
    let (ada, bob, eve) = (machine(1), machine(2), machine(3));
    let real = genesis(&[&ada]);
    let network = real.network_id();
    let invite = ada.invite(network);
    let chain = vec![ada.admit(network, bob.key()).encode()];
    let check = |genesis: &[u8], chain: &[Vec<u8>]| {
        check_welcome(&invite, &bob.key(), genesis, chain, NOW_S).map(drop)
    };
    assert_eq!(check(&real.encode(), &chain), Ok(()));
    let false_genesis = genesis(&[&eve]);
    assert_eq!(
        check(&false_genesis.encode(), &chain),
        Err(BadWelcome::OtherMesh)
    );
    assert!(matches!(
        check(b"junk", &chain),
        Err(BadWelcome::Genesis(_))
    ));
    let junk = [b"junk".to_vec()];
    assert!(matches!(
        check(&real.encode(), &junk),
        Err(BadWelcome::Chain(_))
    ));
    // Signed by somebody who may not, or for somebody else.
    for link in [eve.admit(network, bob.key()), ada.admit(network, eve.key())] {
        let answer = check(&real.encode(), &[link.encode()]);
        assert_eq!(answer, Err(BadWelcome::NotAdmitted));
    }
}

/// Everything that `from` has and `to` lacks; how many questions it took.
fn pull(to: &mut Replica, from: &Records) -> usize {
    let network = to.standing().network();
    let (mut pull, ask) = Pull::start(network, to.records());
    let (mut ask, mut asked) = (Some(ask), 0);
    while let Some(question) = ask {
        asked += 1;
        let question = sync::Ask::decode(&question.encode()).unwrap();
        let answer = sync::answer(from, None, std::iter::empty(), &question.question);
        let answer = sync::Answer::decode(&answer.encode()).unwrap();
        if let sync::Answer::Some { items, .. } = &answer {
            for item in items {
                to.insert(Record::decode(item).unwrap());
            }
            to.refold();
        }
        ask = pull.next(to.records(), &answer);
    }
    asked
}

#[test]
fn two_that_agree_ask_one_question() {
    let ada = machine(1);
    let genesis = genesis(&[&ada]);
    let link = ada.admit(genesis.network_id(), machine(2).key());
    let from = replica_with(&genesis, std::slice::from_ref(&link));
    let mut to = Replica::new(genesis.clone());
    assert_eq!(pull(&mut to, from.records()), 2);
    assert_eq!(to.records(), from.records());
    assert_eq!(pull(&mut to, from.records()), 1);
    assert_eq!(
        pull(&mut replica_with(&genesis, &[]), &Records::default()),
        1
    );
}

#[test]
fn more_records_than_fit_come_in_pages() {
    let ada = machine(1);
    let genesis = genesis(&[&ada]);
    let links: Vec<Admission> = (0..SYNC_IDS_MAX as u64 + 300)
        .map(|n| {
            let link = ada.admit(genesis.network_id(), machine(2).key());
            ada.signed(Admission {
                expires_s: link.expires_s + n,
                ..link
            })
        })
        .collect();
    let from: Records = links.iter().cloned().map(Record::Admission).collect();
    // One that has nothing, one that has nearly all, one that has every second.
    for step in [usize::MAX, 400, 2] {
        let mut to = Replica::new(genesis.clone());
        for (at, link) in links.iter().enumerate() {
            if (step == 400 && at % step != 0) || (step == 2 && at % step == 0) {
                to.insert(Record::Admission(link.clone()));
            }
        }
        to.refold();
        let asked = pull(&mut to, &from);
        assert_eq!(to.records(), &from, "step {step}");
        assert!(asked <= 12, "{asked} questions at step {step}");
    }
}
