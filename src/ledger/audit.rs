//! The audit log on disk: a ring of files `audit.00` to `audit.15` beside the ledger. A part that is
//! full makes way for the next, which takes the place of the oldest. What is appended is synced; what
//! a crash tears is cut when it is opened again, and what somebody changed is kept and said.

use super::disk::Disk;
use super::{DiskError, LOOKS, Unkept};
use quorate_core::governance::{
    AUDIT_HEAD_BYTES, AuditPart, BadTrail, End, Line, Noted, Trail, is_torn_line,
};
use quorate_core::ids::NetworkId;
use quorate_core::limits::{AUDIT_PART_BYTES_MAX, AUDIT_PARTS_MAX};
use std::path::Path;

/// The open audit log of one mesh.
#[derive(Debug)]
pub struct Audit {
    disk: Disk,
    part: AuditPart,
    /// Where the chain ends.
    end: End,
    /// After a failed write nobody knows what the disk holds.
    is_broken: bool,
}

/// Why there is no audit log to read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error(transparent)]
    Bad(#[from] BadTrail),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Audit {
    /// Goes on behind the last whole line. Where that cannot be told, a new chain begins, and the
    /// damaged files stay until their turn comes.
    pub fn open(dir: &Path, network: NetworkId) -> Result<Audit, DiskError> {
        Audit::open_on(Disk::Files(dir.to_owned()), network)
    }

    pub(super) fn open_on(disk: Disk, network: NetworkId) -> Result<Audit, DiskError> {
        let slots = read_slots(&disk)?;
        let readable = |bytes: &Vec<u8>| Some((AuditPart::read(bytes).ok()?.0, bytes.len()));
        let parts = slots.iter().flatten().filter_map(readable);
        let newest = parts.map(|(part, _)| part).max_by_key(|part| part.number);
        let Some(part) = newest else {
            // Nothing yet, or nothing that can be read.
            let is_lost = slots.iter().any(Option::is_some);
            return Audit::anew(disk, network, 0, is_lost);
        };
        let slot = slots[slot_of(part.number)].as_deref().unwrap_or_default();
        let whole = AuditPart::read(slot)
            .map(|(_, scan)| scan.end())
            .unwrap_or(part.start);
        let len = AUDIT_HEAD_BYTES as u64 + whole.len - part.start.len;
        let rest = &slot[len as usize..];
        if part.network != network || (!rest.is_empty() && !is_torn_line(rest)) {
            return Audit::anew(disk, network, part.number + 1, true);
        }
        if !rest.is_empty() {
            disk.cut(&name(part.number), len)?;
        }
        Ok(Audit {
            disk,
            part,
            end: whole,
            is_broken: false,
        })
    }

    fn anew(
        disk: Disk,
        network: NetworkId,
        number: u64,
        is_lost: bool,
    ) -> Result<Audit, DiskError> {
        let part = AuditPart::first(network, number);
        begin(&disk, &part)?;
        let mut audit = Audit {
            disk,
            part,
            end: part.start,
            is_broken: false,
        };
        if is_lost {
            let line = Line {
                at_s: 0,
                state: [0; 32],
                noted: Noted::Lost,
            };
            audit.put(&line.encode())?;
        }
        Ok(audit)
    }

    /// When this returns, the lines survive a crash.
    pub fn append(&mut self, lines: &[Line]) -> Result<(), Unkept> {
        if self.is_broken {
            return Err(Unkept::Broken);
        }
        let written = self.write(lines);
        self.is_broken |= written.is_err();
        Ok(written?)
    }

    fn write(&mut self, lines: &[Line]) -> Result<(), DiskError> {
        let mut rest = lines.iter().peekable();
        while rest.peek().is_some() {
            let (mut bytes, mut end) = (Vec::new(), self.end);
            while let Some(line) = rest.peek() {
                let mut frame = Vec::new();
                let next = end.push(&line.encode(), &mut frame);
                if next.len - self.part.start.len > AUDIT_PART_BYTES_MAX as u64 {
                    break;
                }
                bytes.extend_from_slice(&frame);
                end = next;
                rest.next();
            }
            if !bytes.is_empty() {
                self.disk.put(&name(self.part.number), self.at(), &bytes)?;
                self.end = end;
            }
            if rest.peek().is_some() {
                self.turn()?;
            }
        }
        Ok(())
    }

    fn put(&mut self, line: &[u8]) -> Result<(), DiskError> {
        let mut bytes = Vec::new();
        let end = self.end.push(line, &mut bytes);
        self.disk.put(&name(self.part.number), self.at(), &bytes)?;
        self.end = end;
        Ok(())
    }

    /// Where the next line goes in its file.
    fn at(&self) -> u64 {
        AUDIT_HEAD_BYTES as u64 + self.end.len - self.part.start.len
    }

    /// The next part takes the place of the oldest.
    fn turn(&mut self) -> Result<(), DiskError> {
        let next = AuditPart {
            number: self.part.number + 1,
            start: self.end,
            ..self.part
        };
        begin(&self.disk, &next)?;
        self.part = next;
        Ok(())
    }
}

fn begin(disk: &Disk, part: &AuditPart) -> Result<(), DiskError> {
    disk.replace(&name(part.number), &part.encode())?;
    disk.sync_names()
}

fn slot_of(number: u64) -> usize {
    (number % AUDIT_PARTS_MAX) as usize
}

fn name(number: u64) -> String {
    format!("audit.{:02}", slot_of(number))
}

fn read_slots(disk: &Disk) -> Result<Vec<Option<Vec<u8>>>, DiskError> {
    let max = (AUDIT_HEAD_BYTES + AUDIT_PART_BYTES_MAX) as u64 + 1;
    (0..AUDIT_PARTS_MAX)
        .map(|number| disk.read(&name(number), max))
        .collect()
}

/// What the files hold, proved to be one chain, for a command that changes nothing.
pub fn look(dir: &Path, network: NetworkId) -> Result<Trail, Unread> {
    let disk = Disk::Files(dir.to_owned());
    let mut found = trail(&disk, network);
    // A node may be writing meanwhile.
    for _ in 1..LOOKS {
        if !matches!(found, Err(Unread::Bad(_))) {
            break;
        }
        found = trail(&disk, network);
    }
    found
}

pub(super) fn trail(disk: &Disk, network: NetworkId) -> Result<Trail, Unread> {
    let slots = read_slots(disk)?;
    let mut parts = Vec::new();
    for bytes in slots.iter().flatten() {
        let (part, _) = AuditPart::read(bytes).map_err(BadTrail::Malformed)?;
        parts.push((part.number, bytes.as_slice()));
    }
    parts.sort_unstable();
    let parts: Vec<&[u8]> = parts.into_iter().map(|(_, bytes)| bytes).collect();
    let trail = Trail::of_parts(&parts)?;
    match trail.network == network {
        true => Ok(trail),
        false => Err(BadTrail::OtherMesh.into()),
    }
}
