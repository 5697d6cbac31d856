use super::*;
use crate::sim::people::{public, secret};
use ed25519_dalek::Signer;

const NETWORK: NetworkId = NetworkId([7; 32]);

fn lines() -> Vec<Line> {
    let about = [About::Session(7), About::Guest([3; 32]), About::Config(2)];
    let decided = about.into_iter().flat_map(|about| {
        [
            Decision::granted(about),
            Decision::refused(about, "the mesh is halted: smoke"),
            Decision::taken_back(about, "the permit is older than the last halt"),
        ]
    });
    let all = [Noted::Began, Noted::Missed(9), Noted::Lost].into_iter();
    let noted = all.chain(decided.map(Noted::Decided));
    let line = |(n, noted)| Line {
        at_s: n as u64,
        state: [n as u8; 32],
        noted,
    };
    noted.enumerate().map(line).collect()
}

/// Two parts: the lines before `split`, and the others.
fn parts(split: usize) -> [Vec<u8>; 2] {
    let mut part = AuditPart::first(NETWORK, 0);
    let mut all = [part.encode(), Vec::new()];
    let mut end = part.start;
    for (n, line) in lines().iter().enumerate() {
        if n == split {
            part = AuditPart {
                number: 1,
                start: end,
                ..part
            };
            all[1] = part.encode();
        }
        end = end.push(&line.encode(), &mut all[usize::from(n >= split)]);
    }
    all
}

fn read(parts: &[Vec<u8>; 2]) -> Result<Trail, BadTrail> {
    Trail::of_parts(&[&parts[0], &parts[1]])
}

fn export() -> Vec<u8> {
    let trail = read(&parts(5)).unwrap();
    let node = public(1);
    trail.exported(&node, secret(1).sign(&trail.body(&node)).to_bytes())
}

#[test]
fn lines_are_read_as_they_were_written_and_in_one_spelling() {
    for line in lines() {
        let bytes = line.encode();
        assert!(bytes.len() <= LINE_BYTES_MAX);
        assert_eq!(Line::decode(&bytes), Ok(line));
        for cut in 0..bytes.len() {
            assert!(Line::decode(&bytes[..cut]).is_err());
        }
        assert!(Line::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn a_reason_at_the_limit_is_kept_and_a_longer_one_is_cut_between_letters() {
    let why = "ä".repeat(AUDIT_REASON_BYTES_MAX / 2);
    for (said, kept) in [
        (why.clone(), why.clone()),
        (format!("{why}ö"), why.clone()),
        (format!("x{why}"), format!("x{}", &why[2..])),
    ] {
        let decision = Decision::refused(About::Session(1), &said);
        assert_eq!(decision.ruling, Ruling::Refused(kept));
        let line = Line {
            at_s: 0,
            state: [0; 32],
            noted: Noted::Decided(decision),
        };
        assert_eq!(Line::decode(&line.encode()), Ok(line));
    }
}

#[test]
fn parts_are_one_chain_and_none_can_be_left_out_or_exchanged() {
    let both = parts(5);
    let trail = read(&both).unwrap();
    assert_eq!(trail.lines, lines());
    assert!(trail.is_complete());
    let late = Trail::of_parts(&[&both[1]]).unwrap();
    assert_eq!(late.lines, lines()[5..]);
    assert!(!late.is_complete(), "and it says so");
    let swapped = [both[1].clone(), both[0].clone()];
    assert!(matches!(read(&swapped), Err(BadTrail::Broken(0))));
    let earlier = [parts(4)[0].clone(), both[1].clone()];
    assert!(matches!(read(&earlier), Err(BadTrail::Broken(1))));
    assert_eq!(Trail::of_parts(&[]), Err(BadTrail::Empty));
}

#[test]
fn a_line_that_is_being_written_is_none_yet_and_a_changed_one_is_found() {
    let both = parts(5);
    let whole = read(&both).unwrap();
    for cut in AUDIT_HEAD_BYTES..both[1].len() {
        let torn = [both[0].clone(), both[1][..cut].to_vec()];
        let trail = read(&torn).unwrap();
        assert!(whole.lines.starts_with(&trail.lines) && trail.lines.len() < whole.lines.len());
    }
    // Only the newest part can be torn.
    let early = [both[0][..both[0].len() - 1].to_vec(), both[1].clone()];
    assert!(matches!(read(&early), Err(BadTrail::Damaged(_))));
    for part in 0..2 {
        for at in 0..both[part].len() * 8 {
            let mut changed = both.clone();
            changed[part][at / 8] ^= 1 << (at % 8);
            // A length that says more than is there looks torn: then lines are missing, and nothing is wrong.
            let seen = read(&changed);
            let is_less = seen
                .as_ref()
                .is_ok_and(|t| t.lines.len() < whole.lines.len());
            assert!(
                seen.is_err() || (part == 1 && is_less),
                "bit {at} of {part}"
            );
        }
    }
}

#[test]
fn no_byte_of_an_exported_audit_log_is_free() {
    let bytes = export();
    let (node, trail) = Trail::verify(&bytes).unwrap();
    assert_eq!((node, &trail.lines), (public(1), &lines()));
    assert!(Trail::is_export(&bytes));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Trail::verify(&changed).is_err(), "byte {at}");
        assert!(Trail::verify(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(Trail::verify(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn a_part_follows_by_number_and_an_export_may_begin_late() {
    let both = parts(5);
    let start = AuditPart::read(&both[1]).unwrap().0.start;
    let head = |number, start| {
        let network = NETWORK;
        let part = AuditPart {
            network,
            number,
            start,
        };
        part.encode()
    };
    let jumped = [both[0].clone(), head(2, start)];
    assert!(matches!(read(&jumped), Err(BadTrail::Broken(2))));
    let late = Trail::of_parts(&[&both[1]]).unwrap();
    let node = public(1);
    let bytes = late.exported(&node, secret(1).sign(&late.body(&node)).to_bytes());
    assert_eq!(Trail::verify(&bytes), Ok((node, late)));
    assert!(!Trail::is_export(&both[0]));
    let at = |len| End { len, ..start };
    assert!(AuditPart::read(&head(1, at(LENGTH_MAX))).is_ok());
    assert!(AuditPart::read(&head(1, at(LENGTH_MAX + 1))).is_err());
    let mut full = head(1, start);
    full.resize(AUDIT_HEAD_BYTES + AUDIT_PART_BYTES_MAX, 0);
    assert!(AuditPart::read(&full).is_ok());
    full.push(0);
    assert!(AuditPart::read(&full).is_err());
}

#[test]
fn torn_is_what_begins_and_does_not_end() {
    let frame = |len: usize, after: usize| {
        let mut bytes = (len as u32).to_le_bytes().to_vec();
        bytes.resize(4 + after, 0);
        bytes
    };
    assert!(is_torn(&[1, 0, 0]) && is_torn(&frame(0, 31)));
    assert!(!is_torn(&frame(0, 32)), "it is all there, and changed");
    assert!(!is_torn(&frame(7, 40)));
    let decision = Decision::refused(About::Guest([3; 32]), &"x".repeat(AUDIT_REASON_BYTES_MAX));
    let longest = Line {
        noted: Noted::Decided(decision),
        ..lines()[0].clone()
    };
    let len = longest.encode().len();
    assert_eq!(len, LINE_BYTES_MAX);
    assert!(
        is_torn(&frame(len, 0)) && !is_torn(&frame(len + 1, 0)),
        "no line is longer"
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_line_or_a_reason(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        if let Ok(line) = Line::decode(&bytes) {
            assert_eq!(line.encode(), bytes);
        }
        Trail::verify(&bytes).ok();
        Trail::of_parts(&[&bytes]).ok();
        let tagged = [EXPORT_TAG, &bytes].concat();
        Trail::verify(&tagged).ok();
        let tagged = [PART_TAG, &bytes].concat();
        Trail::of_parts(&[&tagged]).ok();
    }
}
