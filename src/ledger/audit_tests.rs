//! The audit log on a disk that is cut, changed and full.

use super::Unkept;
use super::audit::{Audit, Unread, trail};
use super::disk::Disk;
use super::made::{Image, Made, Torn, acknowledged, arrived, only_synced};
use quorate_core::governance::{About, BadTrail, Decision, Line, Noted};
use quorate_core::ids::NetworkId;
use quorate_core::limits::{AUDIT_PART_BYTES_MAX, AUDIT_PARTS_MAX};
use std::io::ErrorKind;

const NETWORK: NetworkId = NetworkId([7; 32]);

fn line(n: u64) -> Line {
    Line {
        at_s: n,
        state: [n as u8; 32],
        noted: Noted::Decided(Decision::refused(
            About::Session(n),
            "the mesh is halted: smoke",
        )),
    }
}

fn open(made: &Made) -> Audit {
    Audit::open_on(Disk::Made(made.clone()), NETWORK).unwrap()
}

fn lines(image: Image) -> Result<Vec<Line>, Unread> {
    trail(&Disk::Made(Made::holding(image)), NETWORK).map(|trail| trail.lines)
}

/// A life of three appends, the last of two lines.
fn life(made: &Made) {
    let mut audit = open(made);
    audit.append(&[line(0)]).unwrap();
    made.acknowledge(1);
    drop(audit);
    let mut audit = open(made);
    audit.append(&[line(1)]).unwrap();
    made.acknowledge(2);
    audit.append(&[line(2), line(3)]).unwrap();
    made.acknowledge(4);
}

#[test]
fn what_is_written_is_read_in_its_order_over_restarts() {
    let made = Made::default();
    life(&made);
    assert_eq!(
        lines(made.image()).unwrap(),
        (0..4).map(line).collect::<Vec<_>>()
    );
}

#[test]
fn no_acknowledged_line_of_the_audit_log_is_lost_wherever_it_is_torn() {
    let made = Made::default();
    life(&made);
    let steps = made.steps();
    let start = Image::new();
    for at in 0..=steps.len() {
        let sure = acknowledged(&steps[..at]).last().unwrap_or(0);
        let mut images = vec![only_synced(&start, &steps, at)];
        images.extend((0..250).map(|cut| arrived(&start, &steps, at, Torn::Head(cut))));
        for image in images {
            let made = Made::holding(image);
            let mut audit = open(&made);
            audit.append(&[line(9)]).unwrap();
            let kept = lines(made.image()).unwrap();
            let (last, before) = kept.split_last().unwrap();
            assert_eq!(*last, line(9));
            assert!(before.len() >= sure, "step {at}: {sure} were acknowledged");
            assert!(
                before
                    .iter()
                    .enumerate()
                    .all(|(n, kept)| *kept == line(n as u64))
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_the_audit_log_is_found_and_the_node_begins_a_new_chain() {
    let made = Made::default();
    life(&made);
    let image = made.image();
    let bytes = &image["audit.00"];
    for at in 0..bytes.len() * 8 {
        let mut changed = image.clone();
        changed.get_mut("audit.00").unwrap()[at / 8] ^= 1 << (at % 8);
        let seen = lines(changed.clone());
        // A length that reaches behind the end of the file is what a crash leaves behind, too.
        let is_less = seen.as_ref().is_ok_and(|seen| seen.len() < 4);
        assert!(seen.is_err() || is_less, "bit {at}");
        let made = Made::holding(changed);
        open(&made).append(&[line(9)]).unwrap();
        let after = lines(made.image());
        if seen.is_err() {
            assert!(after.is_err(), "bit {at}: what is damaged is not made good");
        }
    }
}

#[test]
fn a_full_part_makes_way_and_the_oldest_lines_go() {
    let made = Made::default();
    let mut audit = open(&made);
    let frame = line(0).encode().len() + 36;
    let per_part = AUDIT_PART_BYTES_MAX / frame;
    let batch = per_part / 2 + 1;
    let mut written = 0;
    let mut append = |audit: &mut Audit, n: usize| {
        let new: Vec<Line> = (written..written + n as u64).map(line).collect();
        audit.append(&new).unwrap();
        written += n as u64;
        written
    };
    append(&mut audit, per_part);
    assert_eq!(made.image().len(), 1, "it is just full");
    append(&mut audit, 1);
    assert_eq!(made.image().len(), 2);
    let mut last = 0;
    for _ in 0..2 * AUDIT_PARTS_MAX + 2 {
        last = append(&mut audit, batch);
    }
    assert_eq!(made.image().len() as u64, AUDIT_PARTS_MAX);
    let kept = lines(made.image()).unwrap();
    assert_eq!(kept.last(), Some(&line(last - 1)));
    assert!(
        kept.len() >= per_part * (AUDIT_PARTS_MAX as usize - 1)
            && kept.len() <= per_part * AUDIT_PARTS_MAX as usize
    );
    assert!(kept.windows(2).all(|pair| pair[0].at_s + 1 == pair[1].at_s));
    drop(audit);
    let mut again = open(&made);
    again.append(&[line(last)]).unwrap();
    assert_eq!(lines(made.image()).unwrap().last(), Some(&line(last)));
}

#[test]
fn after_a_write_that_failed_nothing_more_is_acknowledged_until_it_is_opened_again() {
    let mut at = 1;
    loop {
        let made = Made::failing(at, ErrorKind::StorageFull);
        let opened = Audit::open_on(Disk::Made(made.clone()), NETWORK);
        let Ok(mut audit) = opened else {
            at += 1;
            continue;
        };
        let first = audit.append(&[line(0)]);
        if first.is_ok() && audit.append(&[line(1)]).is_ok() {
            assert!(made.calls() < at, "every call has failed once");
            break;
        }
        assert!(matches!(audit.append(&[line(2)]), Err(Unkept::Broken)));
        let again = Made::holding(made.image());
        open(&again).append(&[line(3)]).unwrap();
        let kept = lines(again.image());
        assert!(!matches!(kept, Err(Unread::Bad(BadTrail::OtherMesh))));
        at += 1;
    }
    assert!(at > 20, "there were calls to fail");
}
