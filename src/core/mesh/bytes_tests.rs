//! Invites, adverts and messages as bytes: one spelling each, and nothing that a stranger sends does
//! more than be refused.

use super::machines::{NOW_S, address, genesis, machine, place, row};
use super::{Address, Advert, BadInvite, Host, Invite, Nonce, Place, Transport, join, sync};
use crate::governance::{Malformed, Records};
use crate::limits::{
    ADDRESSES_MAX, ADVERT_BYTES_MAX, ADVERT_EXPERTS_MAX, INVITE_BYTES_MAX, INVITE_S_MAX,
    INVITE_TEXT_BYTES_MAX, RECORD_BYTES_MAX, SYNC_HEARD_MAX, SYNC_IDS_MAX,
};
use proptest::prelude::*;

fn an_invite() -> Invite {
    let ada = machine(1);
    ada.invite(genesis(&[&ada]).network_id())
}

#[test]
fn an_invite_survives_a_chat_program() {
    let invite = an_invite();
    let text = invite.to_string();
    assert!(
        text.starts_with("quorate1") && text.len() < 400,
        "{} letters",
        text.len()
    );
    assert_eq!(Invite::parse(&text), Ok(invite.clone()));
    let wrapped: String = text
        .chars()
        .enumerate()
        .flat_map(|(at, c)| [(at % 60 == 59).then_some('\n'), Some(c)])
        .flatten()
        .collect();
    assert_eq!(
        Invite::parse(&format!("  {wrapped}\r\n")),
        Ok(invite.clone())
    );
    assert_eq!(Invite::parse(&text.to_ascii_uppercase()), Ok(invite));
}

#[test]
fn a_wrong_letter_is_called_a_wrong_letter() {
    let text = an_invite().to_string();
    for at in "quorate1".len()..text.len() {
        let mut letters: Vec<char> = text.chars().collect();
        letters[at] = if letters[at] == 'q' { 'p' } else { 'q' };
        let changed: String = letters.iter().collect();
        assert_eq!(
            Invite::parse(&changed),
            Err(BadInvite::Damaged),
            "letter {at}"
        );
        letters.remove(at);
        let short: String = letters.iter().collect();
        assert_eq!(
            Invite::parse(&short),
            Err(BadInvite::Damaged),
            "letter {at}"
        );
    }
    assert_eq!(Invite::parse("quorate1b"), Err(BadInvite::Letter('b')));
    assert_eq!(Invite::parse("bitcoin1q"), Err(BadInvite::NoInvite));
    assert_eq!(Invite::parse(""), Err(BadInvite::NoInvite));
    let long = format!("quorate1{}", "q".repeat(INVITE_TEXT_BYTES_MAX));
    assert_eq!(Invite::parse(&long), Err(BadInvite::TooLong));
}

#[test]
fn a_changed_invite_is_not_signed() {
    let invite = an_invite();
    let bytes = invite.encode();
    assert_eq!(Invite::decode(&bytes), Ok(invite.clone()));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Invite::decode(&changed).is_err(), "byte {at}");
        assert!(Invite::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    let resigned = Invite {
        signature: machine(2).invite(invite.network).signature,
        ..invite
    };
    assert_eq!(
        Invite::decode(&resigned.encode()),
        Err(Malformed::Signature)
    );
}

#[test]
fn an_invite_has_few_addresses_and_a_short_life() {
    let invite = an_invite();
    let many = (0..=ADDRESSES_MAX as u8).map(address).collect();
    let crowded = Invite {
        addresses: many,
        ..invite.clone()
    };
    assert_eq!(
        Invite::decode(&crowded.encode()),
        Err(Malformed::Range("the number of addresses"))
    );
    let expires_s = NOW_S + INVITE_S_MAX + 1;
    let eternal = Invite {
        expires_s,
        ..invite.clone()
    };
    assert_eq!(
        Invite::decode(&eternal.encode()),
        Err(Malformed::Range("the time of an invite"))
    );
    let unsorted = Invite {
        addresses: vec![address(2), address(1)],
        ..invite
    };
    assert_eq!(
        Invite::decode(&unsorted.encode()),
        Err(Malformed::Order("the addresses"))
    );
    let max = vec![0; INVITE_BYTES_MAX + 1];
    assert!(matches!(
        Invite::decode(&max),
        Err(Malformed::TooLong { .. })
    ));
}

#[test]
fn every_kind_of_address_returns() {
    let ada = machine(1);
    let hosts = [
        Host::Ip("10.1.2.3".parse().unwrap()),
        Host::Ip("2001:db8::7".parse().unwrap()),
        Host::Name("ada.example".into()),
    ];
    let mut addresses = Vec::new();
    for host in hosts {
        for (transport, relay) in [(Transport::Quic, None), (Transport::Tcp, Some([3; 32]))] {
            let place = Place {
                host: host.clone(),
                port: 7868,
            };
            addresses.push(Address {
                place,
                transport,
                relay,
            });
        }
    }
    addresses.sort();
    let advert = ada.advert(genesis(&[&ada]).network_id(), |a| {
        a.addresses = addresses.clone()
    });
    assert_eq!(
        Advert::decode(&advert.encode()).unwrap().addresses,
        addresses
    );
    for (host, port) in [
        ("0.0.0.0", 1),
        ("169.254.1.1", 1),
        ("fe80::1", 1),
        ("10.0.0.1", 0),
    ] {
        let place = Place {
            host: Host::Ip(host.parse().unwrap()),
            port,
        };
        let bad = ada.advert(advert.network, |a| a.plane = vec![place]);
        assert_eq!(
            Advert::decode(&bad.encode()),
            Err(Malformed::Range("an address")),
            "{host}"
        );
    }
}

#[test]
fn a_full_advert_fits_and_a_fuller_one_is_refused() {
    let ada = machine(1);
    let network = genesis(&[&ada]).network_id();
    let full = ada.advert(network, |a| {
        a.experts = (1..=ADVERT_EXPERTS_MAX as u8).map(row).collect();
        a.addresses = (1..=ADDRESSES_MAX as u8).map(address).collect();
        a.plane = (1..=ADDRESSES_MAX as u8).map(place).collect();
    });
    assert!(full.encode().len() < ADVERT_BYTES_MAX);
    assert_eq!(Advert::decode(&full.encode()), Ok(full));
    let fuller = ada.advert(network, |a| {
        a.experts = (0..=ADVERT_EXPERTS_MAX as u8).map(row).collect();
    });
    assert_eq!(
        Advert::decode(&fuller.encode()),
        Err(Malformed::Range("the number of experts"))
    );
    let twice = ada.advert(network, |a| a.experts = vec![row(1), row(1)]);
    assert_eq!(
        Advert::decode(&twice.encode()),
        Err(Malformed::Order("the experts"))
    );
    let escape = ada.advert(network, |a| a.experts[0].model = "\u{1b}[2Jx".into());
    assert_eq!(
        Advert::decode(&escape.encode()),
        Err(Malformed::Range("the model's name"))
    );
    let forged = Advert {
        node: machine(2).key(),
        ..ada.advert(network, |_| ())
    };
    assert_eq!(Advert::decode(&forged.encode()), Err(Malformed::Signature));
}

#[test]
fn a_nonce_is_read_as_it_is_shown() {
    let nonce = Nonce([0xa5; 16]);
    assert_eq!(Nonce::parse(&nonce.to_string()), Some(nonce));
    for bad in ["", "a5", &"g5".repeat(16), &"a5".repeat(17)] {
        assert_eq!(Nonce::parse(bad), None, "{bad}");
    }
}

fn asks() -> impl Strategy<Value = sync::Question> {
    let page = (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_flat_map(|(first, last)| {
        proptest::collection::btree_set(any::<[u8; 32]>(), 0..20).prop_map(move |have| {
            let have = have.into_iter().collect();
            sync::Question::Page(sync::Page { first, last, have })
        })
    });
    prop_oneof![
        any::<[u8; 32]>().prop_map(sync::Question::Same),
        proptest::collection::vec(any::<([u8; 8], u64)>(), 0..20)
            .prop_flat_map(|heard| (Just(heard), any::<bool>()))
            .prop_map(|(heard, is_of_experts)| {
                let one = |(node, seq)| sync::Heard { node, seq };
                let heard = heard.into_iter().map(one).collect();
                if is_of_experts {
                    sync::Question::Voices(heard)
                } else {
                    sync::Question::Adverts(heard)
                }
            }),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)
            .prop_map(sync::Question::Take),
        page,
    ]
}

proptest! {
    #[test]
    fn noise_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Invite::decode(&bytes).is_err());
        prop_assert!(Advert::decode(&bytes).is_err());
        prop_assert!(sync::Ask::decode(&bytes).is_err());
        prop_assert!(join::Answer::decode(&bytes).is_err());
        if let Ok(answer) = sync::Answer::decode(&bytes) {
            prop_assert_eq!(answer.encode(), bytes);
        }
    }

    #[test]
    fn noise_behind_the_right_beginning_is_refused_too(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        keep in 0_usize..200,
    ) {
        let ada = machine(1);
        let network = genesis(&[&ada]).network_id();
        let advert = ada.advert(network, |_| ()).encode();
        let invite = ada.invite(network).encode();
        for good in [advert, invite] {
            let mut mixed = good[..keep.min(good.len())].to_vec();
            mixed.extend(&bytes);
            // The whole of it, and no noise.
            prop_assume!(mixed != good);
            prop_assert!(Advert::decode(&mixed).is_err() && Invite::decode(&mixed).is_err());
        }
    }

    #[test]
    fn any_text_is_an_invite_or_a_reason(text in "\\PC{0,200}", code in "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]{0,400}") {
        prop_assert!(Invite::parse(&text).is_err());
        let code = format!("quorate1{code}");
        prop_assert!(Invite::parse(&code).is_err());
    }

    #[test]
    fn questions_return_as_they_went(question in asks()) {
        let ask = sync::Ask { network: genesis(&[]).network_id(), question };
        prop_assert_eq!(sync::Ask::decode(&ask.encode()), Ok(ask));
    }

    #[test]
    fn answers_return_as_they_went(
        items in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
        more in any::<bool>(),
    ) {
        let answer = sync::Answer::Some { items: items.clone(), more };
        prop_assert_eq!(sync::Answer::decode(&answer.encode()), Ok(answer));
        let chain = items.iter().take(3).cloned().collect();
        let welcome = join::Answer::Welcome { genesis: items.concat(), chain };
        prop_assert_eq!(join::Answer::decode(&welcome.encode()), Ok(welcome));
    }
}

#[test]
fn a_page_with_too_many_names_is_refused() {
    let name = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        id
    };
    let ask = |n: usize| sync::Ask {
        network: genesis(&[]).network_id(),
        question: sync::Question::Page(sync::Page {
            first: [0; 32],
            last: [255; 32],
            have: (0..n).map(name).collect(),
        }),
    };
    assert!(sync::Ask::decode(&ask(SYNC_IDS_MAX).encode()).is_ok());
    assert!(sync::Ask::decode(&ask(SYNC_IDS_MAX + 1).encode()).is_err());
}

#[test]
fn a_question_with_too_many_nodes_is_refused() {
    let heard = sync::Heard::of(&machine(1).key(), 7);
    let ask = |n: usize| sync::Ask {
        network: genesis(&[]).network_id(),
        question: sync::Question::Adverts(vec![heard; n]),
    };
    assert!(sync::Ask::decode(&ask(SYNC_HEARD_MAX).encode()).is_ok());
    assert!(sync::Ask::decode(&ask(SYNC_HEARD_MAX + 1).encode()).is_err());
}

#[test]
fn who_asks_is_told_of_what_is_newer_and_how_old_it_is() {
    let machines: Vec<_> = (1..=4).map(machine).collect();
    let network = genesis(&[]).network_id();
    let says = |n: usize, seq: u64| machines[n].advert(network, |a| a.seq = seq);
    let (own, others) = (says(0, 5), [says(1, 5), says(2, 5), says(3, 5)]);
    let ages = others.iter().zip([1_500_000, 7, 0]);
    let heard = [(0, 4), (1, 4), (2, 5)];
    let heard = heard.map(|(n, seq)| sync::Heard::of(&machines[n].key(), seq));
    let question = sync::Question::Adverts(heard.to_vec());
    let answer = sync::answer(&Records::default(), Some(&own), ages, &question);
    let sync::Answer::Some { items, more: false } = answer else {
        panic!("{answer:?}");
    };
    let told: Vec<_> = items
        .iter()
        .map(|item| sync::untold(item).unwrap())
        .collect();
    let bytes = [&own, &others[0], &others[2]].map(|advert| advert.encode());
    // In whole seconds, and never younger than it is.
    let ages = [0, 2_000_000, 0];
    assert_eq!(
        told,
        ages.into_iter()
            .zip(bytes.iter().map(|b| &b[..]))
            .collect::<Vec<_>>()
    );
}

#[test]
fn what_is_handed_over_goes_in_as_few_messages_as_it_fits() {
    let most = vec![7; RECORD_BYTES_MAX];
    let items = vec![vec![1; 100], most.clone(), vec![2; 100], vec![3; 100]];
    let parcels = sync::parcels(items.clone());
    assert_eq!(parcels.len(), 3);
    let mut arrived = Vec::new();
    for question in parcels {
        let network = genesis(&[]).network_id();
        let ask = sync::Ask { network, question };
        let sync::Question::Take(items) = sync::Ask::decode(&ask.encode()).unwrap().question else {
            panic!("something else");
        };
        arrived.extend(items);
    }
    assert_eq!(arrived, items);
    assert!(sync::parcels(vec![]).is_empty());
}
