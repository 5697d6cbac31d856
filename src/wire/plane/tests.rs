use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm;
use proptest::test_runner::{RngSeed, TestRng};
use quorate_core::distribution::{Distribution, History};
use quorate_core::ids::{SessionId, Token};
use quorate_core::law::Transforms;
use quorate_core::limits::*;
use quorate_core::lnp::LnP;
use quorate_core::mask::Mask;
use quorate_core::opinion::{
    Entry, ExpertEvent, ExpertFailure, ExpertOp, List, Opinion, Query, Raw, Said, Scope, Want,
};
use quorate_core::seeded::{PositionKey, Secret};
use std::sync::Arc;

const HERE: SessionId = SessionId(7);
const VOCAB: u32 = 128_256;

fn body(frame: &[u8]) -> &[u8] {
    let (length, body) = frame.split_first_chunk::<LENGTH_BYTES>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
    body
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn letterhead() -> Letterhead {
    Letterhead {
        network: NetworkId([1; 32]),
        config: [2; 32],
        governance_head: vec![3; 5],
        halted: true,
        purpose: Purpose::Autonomous,
    }
}

fn open(prompt: usize) -> Open {
    Open {
        session: HERE,
        scope: Scope(1),
        prompt: (0..prompt as u32).collect(),
        answered: vec![9, 8],
        transforms: Transforms {
            temperature: 0.5,
            bias: vec![(3, -1.5), (70_000, 100.0)],
            ..Transforms::NEUTRAL
        },
        score: true,
        path: vec![[4; 32], [5; 32]],
    }
}

fn entry(token: Token, steps: u16) -> Entry {
    Entry {
        token,
        ln_p: LnP::from_wire(steps),
    }
}

fn opinions(opinions: Vec<Opinion>) -> ExpertEvent {
    ExpertEvent::Opinions {
        session: HERE,
        epoch: 0,
        opinions,
        compute_us: 0,
        bytes: 0,
    }
}

fn listed(entries: Vec<Entry>, bound: f64) -> Opinion {
    Opinion {
        position: 300,
        said: Said::List(List { entries, bound }),
        raw: None,
        scored: Vec::new(),
    }
}

fn framed(event: &ExpertEvent) -> Vec<u8> {
    event_frame(event).unwrap()
}

/// As the other side sees it: the same, with its size.
fn arrived(event: &ExpertEvent, size: usize) -> ExpertEvent {
    let mut event = event.clone();
    if let ExpertEvent::Opinions { bytes, .. } = &mut event {
        *bytes = size as u32;
    }
    event
}

#[test]
fn bytes_are_as_they_were() {
    let list = listed(vec![entry(5, 1), entry(1005, 65_535)], 1.0 / 16.0);
    assert_eq!(
        hex(&framed(&opinions(vec![list]))),
        "000000131a11120f08ac02120abfe002050100e807ffff"
    );
    let draft = ExpertOp::Draft {
        session: HERE,
        epoch: 1,
        position: 300,
        tokens: vec![70_000],
        queries: vec![Query::perturbed(PositionKey([1, 2, 3, 4]), 0.0625)],
    };
    assert_eq!(
        hex(&op_frame(&draft).unwrap().unwrap()),
        "0000002b1229080110ac021a03f0a204221d0a1b0a100100000002000000030000000400000011000000000000b03f"
    );
    let frame = open_frame(&letterhead(), &ExpertId([6; 32]), &open(3)).unwrap();
    assert_eq!(
        blake3::hash(&frame).to_hex().as_str(),
        "25db35d7a704e0f89b2a01449802b11bf1ef3574fafcb742cb52574cc0d56b34"
    );
}

#[test]
fn an_open_arrives_as_it_was_sent() {
    let frame = open_frame(&letterhead(), &ExpertId([6; 32]), &open(1000)).unwrap();
    let got = opening(body(&frame), HERE).unwrap();
    assert_eq!(
        (got.letterhead, got.expert),
        (letterhead(), ExpertId([6; 32]))
    );
    let (got, sent) = (got.open, open(1000));
    assert_eq!((got.session, got.score), (HERE, true));
    assert_eq!((got.prompt, got.answered), (sent.prompt, sent.answered));
    assert_eq!(got.transforms, sent.transforms);
    assert_ne!(got.scope, Scope::OWNER);
}

#[test]
fn the_longest_prompt_fits_and_one_token_more_is_refused() {
    let mut longest = open(1);
    longest.prompt = vec![u32::MAX; PLANE_TOKENS_MAX - longest.answered.len()];
    let frame = open_frame(&letterhead(), &ExpertId([6; 32]), &longest).unwrap();
    assert!(opening(body(&frame), HERE).is_ok());
    longest.prompt.push(0);
    let frame = open_frame(&letterhead(), &ExpertId([6; 32]), &longest).unwrap();
    assert!(matches!(
        opening(body(&frame), HERE).unwrap_err(),
        BadFrame::TooMany {
            max: PLANE_TOKENS_MAX,
            ..
        }
    ));
}

/// Changes an open in its protobuf form and says what becomes of it.
fn spoilt(spoil: impl FnOnce(&mut v1::Open)) -> BadFrame {
    use prost::Message;
    let frame = open_frame(&letterhead(), &ExpertId([6; 32]), &open(3)).unwrap();
    let mut question = v1::Question::decode(body(&frame)).unwrap();
    let Some(v1::question::Kind::Open(open)) = &mut question.kind else {
        panic!("an open")
    };
    spoil(open);
    opening(&question.encode_to_vec(), HERE).unwrap_err()
}

#[test]
fn opens_that_no_honest_router_sends_are_named() {
    assert_eq!(spoilt(|o| o.version = 2), BadFrame::Version(2));
    assert_eq!(
        spoilt(|o| o.network.truncate(31)),
        BadFrame::Range("the mesh")
    );
    assert_eq!(spoilt(|o| o.expert.clear()), BadFrame::Range("the expert"));
    assert_eq!(spoilt(|o| o.purpose = 9), BadFrame::Missing("the purpose"));
    assert_eq!(spoilt(|o| o.prompt.clear()), BadFrame::Missing("a prompt"));
    assert_eq!(
        spoilt(|o| o.path = vec![4; 64]),
        BadFrame::Range("the path")
    );
    assert_eq!(
        spoilt(|o| o.path = vec![4; 33]),
        BadFrame::Range("the path")
    );
    let long: Vec<u8> = (0..4).flat_map(|peer| [peer; 32]).collect();
    assert!(matches!(
        spoilt(|o| o.path = long),
        BadFrame::TooMany { max: PATH_MAX, .. }
    ));
    let head = vec![0; GOVERNANCE_HEAD_BYTES_MAX + 1];
    assert!(matches!(
        spoilt(|o| o.governance_head = head),
        BadFrame::TooMany { .. }
    ));
    let transforms =
        |spoil: fn(&mut v1::Transforms)| spoilt(|o| spoil(o.transforms.as_mut().unwrap()));
    assert_eq!(
        transforms(|t| t.temperature = 0.0),
        BadFrame::Range("temperature")
    );
    assert_eq!(transforms(|t| t.top_p = f32::NAN), BadFrame::Range("top_p"));
    assert_eq!(
        transforms(|t| t.repeat_last_n = 8193),
        BadFrame::Range("repeat_last_n")
    );
    assert_eq!(
        transforms(|t| t.bias_tokens.reverse()),
        BadFrame::Range("logit_bias")
    );
    assert_eq!(
        transforms(|t| t.bias_tokens.truncate(1)),
        BadFrame::Range("logit_bias")
    );
    assert_eq!(
        transforms(|t| t.bias_values[0] = f32::NAN),
        BadFrame::Range("logit_bias")
    );
    assert!(matches!(
        transforms(|t| t.bias_tokens = (0..301).collect()),
        BadFrame::TooMany {
            max: BIAS_ENTRIES_MAX,
            ..
        }
    ));
    let close = op_frame(&ExpertOp::Close { session: HERE })
        .unwrap()
        .unwrap();
    assert!(matches!(
        opening(body(&close), HERE),
        Err(BadFrame::Missing(_))
    ));
    let open = open_frame(&letterhead(), &ExpertId([6; 32]), &open(3)).unwrap();
    assert_eq!(
        question(body(&open), HERE).unwrap_err(),
        BadFrame::Range("a second Open")
    );
}

#[test]
fn lists_that_no_honest_expert_sends_are_refused() {
    let unpack = |bytes: &[u8]| pack::unpack_list(bytes, 1000).unwrap_err();
    let packed = |entries: Vec<Entry>, bound| pack::list(&List { entries, bound }).unwrap();
    assert_eq!(unpack(&packed(vec![], f64::NAN)), BadList::Bound.into());
    assert_eq!(unpack(&packed(vec![], -1.0)), BadList::Bound.into());
    assert_eq!(
        unpack(&packed(vec![entry(1000, 9)], 0.0)),
        BadList::OutsideVocabulary.into()
    );
    assert_eq!(
        unpack(&packed(vec![entry(1, 100), entry(2, 100)], 0.0)),
        BadList::SumAboveOne.into()
    );
    // The same token twice.
    assert_eq!(unpack(&[0, 5, 1, 40, 0, 1, 40]), BadList::Unsorted.into());
    // Half a probability, half a number, nothing at all, a token of 64 bits.
    assert_eq!(unpack(&[0, 5, 1]), BadFrame::Range("a probability"));
    assert!(matches!(unpack(&[0, 0x80]), BadFrame::Garbled(_)));
    assert!(matches!(unpack(&[]), BadFrame::Garbled(_)));
    let wide = [&[0][..], &[0xff; 9], &[1, 0, 0]].concat();
    assert_eq!(unpack(&wide), BadList::OutsideVocabulary.into());
    let long = packed((0..257).map(|v| entry(v, 20_000)).collect(), 0.0);
    assert_eq!(unpack(&long), BadList::TooLong.into());
    let unsorted = List {
        entries: vec![entry(2, 9), entry(2, 9)],
        bound: 0.0,
    };
    assert_eq!(pack::list(&unsorted), Err(CannotSay::Unsorted));
}

#[test]
fn the_fullest_opinion_fits_and_a_fuller_one_is_not_sent() {
    let entries: Vec<Entry> = (0..256).map(|i| entry(i * 8191 + 1, 20_000)).collect();
    let raw = |listed: usize| Raw {
        of_said: vec![LnP::from_wire(20_000); listed],
        top: (0..20).map(|i| entry(2_000_000 + i, 9000)).collect(),
    };
    let mut full = listed(entries, 0.123_456_789);
    full.raw = Some(raw(256));
    full.scored = vec![LnP::from_wire(20_000); SCORES_MAX.into()];
    let frame = framed(&opinions(vec![full.clone(); DRAFT_TOKENS_MAX]));
    assert!(frame.len() / DRAFT_TOKENS_MAX <= OPINION_BYTES_MAX);
    let got = answer(body(&frame), HERE, 1 << 21).unwrap();
    assert_eq!(
        got,
        arrived(&opinions(vec![full; DRAFT_TOKENS_MAX]), frame.len())
    );

    let scalars = |count: usize| Opinion {
        position: u32::MAX,
        said: Said::Scalars(vec![LnP::from_wire(20_000); count]),
        raw: Some(raw(count)),
        scored: Vec::new(),
    };
    let frame = framed(&opinions(vec![scalars(SCALARS_MAX)]));
    assert!(answer(body(&frame), HERE, 1 << 21).is_ok());
    let event = opinions(vec![scalars(SCALARS_MAX + 9)]);
    assert!(matches!(
        event_frame(&event),
        Err(CannotSay::TooLarge {
            max: OPINION_BYTES_MAX,
            ..
        })
    ));
}

#[test]
fn masks_take_few_bytes_in_every_form_and_bounded_room() {
    let bits = |allows: &dyn Fn(u32) -> bool| {
        let word = |w: u32| (0..32).map(|b| u32::from(allows(w * 32 + b)) << b).sum();
        Mask::new((0..VOCAB.div_ceil(32)).map(word).collect(), VOCAB)
    };
    for (mask, most) in [
        (bits(&|_| false), 8),
        (bits(&|_| true), 8),
        (bits(&|v| (48..58).contains(&v)), 8),
        (bits(&|v| v % 1000 != 0), 500),
        (bits(&|v| v % 2 == 0), VOCAB as usize / 8 + 8),
        (
            bits(&|v| v.wrapping_mul(0x9E37_79B1) >> 31 == 0),
            VOCAB as usize / 8 + 8,
        ),
    ] {
        let bytes = pack::mask(&mask);
        assert!(bytes.len() <= most, "{} of {most}", bytes.len());
        let mut room = 4008;
        assert_eq!(pack::unpack_mask(&bytes, &mut room), Ok(mask));
        assert_eq!(room, 0);
        assert!(
            pack::unpack_mask(&bytes, &mut room).is_err(),
            "no room for it"
        );
    }
    let refused = |bytes: &[u8]| pack::unpack_mask(bytes, &mut { 100 }).unwrap_err();
    assert_eq!(refused(&[]), BadFrame::Range("a mask"));
    assert_eq!(refused(&[2, 0]), BadFrame::Range("a mask"));
    assert_eq!(refused(&[0, 1, 0, 33]), BadFrame::Range("a mask"));
    assert_eq!(refused(&[1, 1, 0, 33]), BadFrame::Range("a mask"));
    assert!(matches!(
        refused(&[0, 0xff, 0xff, 3]),
        BadFrame::TooMany { .. }
    ));
}

#[test]
fn a_reason_is_cut_between_letters() {
    let event = ExpertEvent::Failed {
        session: HERE,
        why: ExpertFailure::Refused("ä".repeat(300) + "b"),
    };
    let ExpertEvent::Failed { why, .. } = answer(body(&framed(&event)), HERE, VOCAB).unwrap()
    else {
        panic!("a failure")
    };
    assert_eq!(why, ExpertFailure::Refused("ä".repeat(256)));
}

/// The lists of a model with the shape of a language model's: what the wire is made for.
#[test]
fn a_perturbed_opinion_takes_64_bytes_on_average() {
    for vocab in [49_152u32, 128_256] {
        let (mut total, mut most, mut entries, mut rows) = (0, 0, 0, 0);
        let mut distribution = Distribution::new();
        for row in 0..60u32 {
            // Zipf's law with a slope between sharp and flat, over shuffled ids.
            let slope = 1.0 + f64::from(row % 12) / 4.0;
            let rank = |v: u32| u64::from(v.wrapping_mul(0x9E37_79B1).wrapping_add(row)) % 100_003;
            let logits = (0..vocab).map(|v| (-slope * ((rank(v) + 1) as f64).ln()) as f32);
            let logits: Vec<f32> = logits.collect();
            let history = History {
                tokens: &[],
                prompt: 0,
            };
            let neutral = Transforms::NEUTRAL;
            distribution
                .measure(&logits, &neutral, history, false)
                .unwrap();
            let key = Secret::from_seed(u64::from(row), 0).key(row);
            let (said, raw) = distribution.answer(&Query::perturbed(key, 1.0 / 16.0));
            let Said::List(list) = &said else {
                panic!("a list")
            };
            entries += list.entries.len();
            let opinion = Opinion {
                position: 500 + row,
                said,
                raw,
                scored: Vec::new(),
            };
            let event = ExpertEvent::Opinions {
                session: HERE,
                epoch: 1,
                opinions: vec![opinion],
                compute_us: 25_000,
                bytes: 0,
            };
            let size = framed(&event).len();
            (total, most, rows) = (total + size, most.max(size), rows + 1);
        }
        let (mean, listed) = (
            total as f64 / f64::from(rows),
            entries as f64 / f64::from(rows),
        );
        println!("vocabulary {vocab}: mean {mean:.1} B, max {most} B, {listed:.1} entries");
        assert!(mean <= 64.0 && most <= OPINION_BYTES_MAX);
    }
}

// --- round trips and rubbish ----------------------------------------------------------------------

fn any_mask() -> impl Strategy<Value = Arc<Mask>> {
    prop::collection::vec(any::<u32>(), 0..40)
        .prop_map(|words| Arc::new(Mask::new(words.clone(), 32 * words.len() as u32)))
}

fn any_query() -> impl Strategy<Value = Query> {
    let key = any::<[u32; 4]>().prop_map(PositionKey);
    let want = prop_oneof![
        (key, 1e-30..10.0).prop_map(|(key, tau)| Want::Perturbed { key, tau }),
        (0.001..=1.0, 1..=LIST_ENTRIES_MAX).prop_map(|(mass, max)| Want::Plain { mass, max }),
        prop::collection::vec(any::<Token>(), 0..=SCALARS_MAX).prop_map(Want::Scalars),
    ];
    let rest = (prop::option::of(0..=RAW_TOP_MAX), 0..=SCORES_MAX);
    (want, prop::option::of(any_mask()), any::<bool>(), rest).prop_map(
        |(want, mask, untruncated, (raw_top, scores))| Query {
            want,
            mask,
            untruncated,
            raw_top,
            scores,
        },
    )
}

fn any_op() -> impl Strategy<Value = ExpertOp> {
    let session = HERE;
    let tokens = prop::collection::vec(any::<Token>(), 0..=DRAFT_TOKENS_MAX);
    let queries = prop::collection::vec(any_query(), 0..4);
    prop_oneof![
        (any::<(u32, u32)>(), tokens, queries).prop_map(
            move |((epoch, position), tokens, mut queries)| {
                queries.truncate(tokens.len() + 1);
                ExpertOp::Draft {
                    session,
                    epoch,
                    position,
                    tokens,
                    queries,
                }
            }
        ),
        (any::<(u32, u32)>(), any_query()).prop_map(move |((epoch, position), query)| {
            ExpertOp::Ask {
                session,
                epoch,
                position,
                query,
            }
        }),
        (
            any::<(u32, u32)>(),
            prop::collection::vec(any_query(), 0..4)
        )
            .prop_map(move |((epoch, position), queries)| ExpertOp::Lead {
                session,
                epoch,
                position,
                queries,
            }),
        (any::<(u32, u32, Token)>(), any_query()).prop_map(
            move |((epoch, position, token), query)| ExpertOp::Branch {
                session,
                epoch,
                position,
                token,
                query,
            }
        ),
        any::<u32>().prop_map(move |epoch| ExpertOp::Settle { session, epoch }),
        any::<u32>().prop_map(move |epoch| ExpertOp::Forget { session, epoch }),
        any::<(u32, u32)>().prop_map(move |(epoch, position)| ExpertOp::Truncate {
            session,
            epoch,
            position
        }),
        Just(ExpertOp::Close { session }),
    ]
}

fn any_values(max: usize) -> impl Strategy<Value = Vec<LnP>> {
    prop::collection::vec(any::<u16>().prop_map(LnP::from_wire), 0..=max)
}

fn any_opinion() -> impl Strategy<Value = Opinion> {
    // Values that cannot sum to more than one.
    let entries = prop::collection::btree_map(0..VOCAB, 5678u16.., 0..=256usize);
    let list = (entries, 0.0..1e9f64).prop_map(|(entries, bound)| {
        let entries = entries
            .into_iter()
            .map(|(token, steps)| entry(token, steps));
        Said::List(List {
            entries: entries.collect(),
            bound,
        })
    });
    let said = prop_oneof![list, any_values(SCALARS_MAX).prop_map(Said::Scalars)];
    let top = prop::collection::vec((0..VOCAB, any::<u16>()), 0..=usize::from(RAW_TOP_MAX));
    let scored = any_values(SCORES_MAX.into());
    let rest = (prop::option::of(top), scored);
    (any::<u32>(), said, rest).prop_map(|(position, said, (top, mut scored))| {
        if matches!(said, Said::Scalars(_)) {
            scored.truncate(2); // second answers have room for no more
        }
        let count = match &said {
            Said::List(list) => list.entries.len(),
            Said::Scalars(values) => values.len(),
        };
        let raw = top.map(|top| Raw {
            of_said: vec![LnP::from_wire(position as u16); count],
            top: top
                .into_iter()
                .map(|(token, steps)| entry(token, steps))
                .collect(),
        });
        Opinion {
            position,
            said,
            raw,
            scored,
        }
    })
}

fn any_event() -> impl Strategy<Value = ExpertEvent> {
    let session = HERE;
    let text = "[a-zäß ]{0,200}";
    let why = prop_oneof![
        (0..=BUSY_RETRY_MS_MAX).prop_map(|retry_ms| ExpertFailure::Busy { retry_ms }),
        any::<(u32, u32)>()
            .prop_map(|(tokens, context)| ExpertFailure::ContextFull { tokens, context }),
        text.prop_map(ExpertFailure::Refused),
        Just(ExpertFailure::NotFinite),
        text.prop_map(ExpertFailure::Engine),
        Just(ExpertFailure::Gone),
    ];
    prop_oneof![
        any::<(u32, u64, u8)>().prop_map(move |(reused, prefill_us, branches)| {
            ExpertEvent::Ready {
                session,
                reused,
                prefill_us,
                branches,
            }
        }),
        any_values(3000).prop_map(move |ln_p| ExpertEvent::Scored { session, ln_p }),
        (
            any::<(u32, u64)>(),
            prop::collection::vec(any_opinion(), 0..4)
        )
            .prop_map(
                move |((epoch, compute_us), opinions)| ExpertEvent::Opinions {
                    session,
                    epoch,
                    opinions,
                    compute_us,
                    bytes: 0
                }
            ),
        why.prop_map(move |why| ExpertEvent::Failed { session, why }),
    ]
}

proptest! {
    #[test]
    fn operations_arrive_as_they_were_sent(op in any_op()) {
        let frame = op_frame(&op).unwrap().unwrap();
        let got = question(body(&frame), HERE).unwrap();
        prop_assert_eq!(format!("{got:?}"), format!("{op:?}"));
    }

    #[test]
    fn events_arrive_as_they_were_sent(event in any_event()) {
        let frame = framed(&event);
        let got = answer(body(&frame), HERE, VOCAB).unwrap();
        prop_assert_eq!(got, arrived(&event, frame.len()));
    }
}

/// 10^5 frames of noise, and of good frames with a few bytes changed, cut or doubled: an answer or a
/// fault, and nothing longer than the limits comes out.
#[test]
fn rubbish_is_a_named_fault_and_never_a_panic() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, TestRunner};
    let config = Config {
        rng_seed: RngSeed::Fixed(8),
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[8; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let mut good = vec![open_frame(&letterhead(), &ExpertId([6; 32]), &open(30)).unwrap()];
    for _ in 0..60 {
        let op = any_op().new_tree(&mut runner).unwrap().current();
        let event = any_event().new_tree(&mut runner).unwrap().current();
        good.extend([op_frame(&op).unwrap().unwrap(), framed(&event)]);
    }
    let (mut taken, mut refused) = (0u32, 0u32);
    for round in 0..100_000 {
        let rng = runner.rng();
        let mut bytes = if round % 4 == 0 {
            let length = rng.random_range(0..300);
            (0..length).map(|_| rng.random()).collect()
        } else {
            body(&good[rng.random_range(0..good.len())]).to_vec()
        };
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..3) {
                0 if at < bytes.len() => bytes[at] = rng.random(),
                1 => bytes.truncate(at),
                _ => bytes.insert(at, rng.random()),
            }
        }
        let count = |fault: bool| if fault { (0, 1) } else { (1, 0) };
        for (took, not) in [
            count(opening(&bytes, HERE).is_err()),
            count(question(&bytes, HERE).is_err()),
            count(answer(&bytes, HERE, VOCAB).is_err()),
        ] {
            (taken, refused) = (taken + took, refused + not);
        }
    }
    assert!(
        taken > 10_000 && refused > 100_000,
        "{taken} taken, {refused} refused"
    );
}
