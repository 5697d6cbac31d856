//! What a node allowed and refused under the rights of its mesh: one chain of lines, kept in parts of
//! bounded size of which the oldest go. A line says nothing about what a session was about.
//!
//! ```text
//! part      "quorate audit v1\0", network 32, number 8, where it starts in the chain (length 8, hash 32), frames
//! export    "quorate audit export v1\0", network 32, node 32, start 40, end 40, frames, the node's signature 64
//! ```

use super::codec::{Author, Malformed, Reader, Writer, is_signed};
use super::journal::{End, Purpose, Scan};
use crate::ids::NetworkId;
use crate::limits::{AUDIT_EXPORT_BYTES_MAX, AUDIT_PART_BYTES_MAX, AUDIT_REASON_BYTES_MAX};

const PART_TAG: &[u8] = b"quorate audit v1\0";
const EXPORT_TAG: &[u8] = b"quorate audit export v1\0";
/// Of a part, before its frames.
pub const AUDIT_HEAD_BYTES: usize = PART_TAG.len() + 32 + 8 + 40;

/// Bytes of a chain, with those that went: more than any node writes in its life.
const LENGTH_MAX: u64 = 1 << 60;

/// What a permit was wanted for. A local one is always granted, so nothing is said of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A person's session of this node in the mesh, by the beginning of its id.
    Session(u64),
    /// A session of another node on an expert here.
    Guest(Author),
    /// A version of the mesh's config takes effect here.
    Config(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    Granted,
    Refused(String),
    /// It had been granted.
    TakenBack(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub about: About,
    pub ruling: Ruling,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The node began to take part.
    Began,
    Decided(Decision),
    /// So many decisions came quicker than they could be written down.
    Missed(u32),
    /// What the node had written before cannot be read any more: the chain begins anew here.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Seconds since 1970 by this node's clock.
    pub at_s: u64,
    /// The hash of the standing that decided; zero: none was known.
    pub state: [u8; 32],
    pub noted: Noted,
}

impl Decision {
    pub fn granted(about: About) -> Decision {
        let ruling = Ruling::Granted;
        Decision { about, ruling }
    }

    pub fn refused(about: About, why: &str) -> Decision {
        let ruling = Ruling::Refused(cut(why));
        Decision { about, ruling }
    }

    pub fn taken_back(about: About, why: &str) -> Decision {
        let ruling = Ruling::TakenBack(cut(why));
        Decision { about, ruling }
    }
}

fn cut(why: &str) -> String {
    why[..why.floor_char_boundary(AUDIT_REASON_BYTES_MAX)].to_owned()
}

impl Line {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.at_s).raw(&self.state);
        match &self.noted {
            Noted::Began => out.u8(1),
            Noted::Missed(n) => out.u8(2).u32(*n),
            Noted::Lost => out.u8(3),
            Noted::Decided(Decision { about, ruling }) => {
                match about {
                    About::Session(id) => out.u8(4).u64(*id),
                    About::Guest(node) => out.u8(5).raw(node),
                    About::Config(version) => out.u8(6).u64(*version),
                };
                match ruling {
                    Ruling::Granted => out.u8(0),
                    Ruling::Refused(why) => out.u8(1).text(why),
                    Ruling::TakenBack(why) => out.u8(2).text(why),
                }
            }
        };
        out.0
    }

    /// Total.
    pub fn decode(bytes: &[u8]) -> Result<Line, Malformed> {
        let mut read = Reader(bytes);
        let (at_s, state) = (read.u64()?, read.array()?);
        let noted = match read.u8()? {
            1 => Noted::Began,
            2 => Noted::Missed(read.u32()?),
            3 => Noted::Lost,
            kind => Noted::Decided(Decision {
                about: match kind {
                    4 => About::Session(read.u64()?),
                    5 => About::Guest(read.array()?),
                    6 => About::Config(read.u64()?),
                    _ => return Err(Malformed::Range("the kind of a line")),
                },
                ruling: match read.u8()? {
                    0 => Ruling::Granted,
                    1 => Ruling::Refused(read.text(AUDIT_REASON_BYTES_MAX, "the reason")?),
                    2 => Ruling::TakenBack(read.text(AUDIT_REASON_BYTES_MAX, "the reason")?),
                    _ => return Err(Malformed::Range("the ruling")),
                },
            }),
        };
        read.end()?;
        Ok(Line { at_s, state, noted })
    }
}

/// The head of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditPart {
    pub network: NetworkId,
    pub number: u64,
    /// Where it starts in the chain.
    pub start: End,
}

impl AuditPart {
    pub fn first(network: NetworkId, number: u64) -> AuditPart {
        let start = End::empty(Purpose::Audit, network);
        AuditPart {
            network,
            number,
            start,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(PART_TAG).raw(&self.network.0).u64(self.number);
        write_end(&mut out, self.start);
        out.0
    }

    /// The head, and the frames after it: those that are whole.
    pub fn read(bytes: &[u8]) -> Result<(AuditPart, Scan<'_>), Malformed> {
        let max = AUDIT_HEAD_BYTES + AUDIT_PART_BYTES_MAX;
        let mut read = Reader::open(bytes, max, PART_TAG)?;
        let part = AuditPart {
            network: NetworkId(read.array()?),
            number: read.u64()?,
            start: read_end(&mut read)?,
        };
        let scan = Scan::of(read.0, part.start);
        Ok((part, scan))
    }
}

fn write_end(out: &mut Writer, end: End) {
    out.u64(end.len).raw(&end.hash);
}

fn read_end(read: &mut Reader) -> Result<End, Malformed> {
    let len = read.u64()?;
    if len > LENGTH_MAX {
        return Err(Malformed::Range("the length of the chain"));
    }
    let hash = read.array()?;
    Ok(End { len, hash })
}

/// Lines that are proved to follow each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Trail {
    pub network: NetworkId,
    pub start: End,
    pub end: End,
    pub lines: Vec<Line>,
    frames: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTrail {
    #[error("this is no audit log, or it is damaged: {0}")]
    Malformed(#[from] Malformed),
    #[error("the audit log is damaged after byte {0}")]
    Damaged(u64),
    #[error("part {0} of the audit log does not follow the one before it")]
    Broken(u64),
    #[error("the audit log holds something of another mesh")]
    OtherMesh,
    #[error("there is nothing in it")]
    Empty,
}

impl Trail {
    /// All that parts hold, in their order. The newest may end within a line that is being written.
    pub fn of_parts(parts: &[&[u8]]) -> Result<Trail, BadTrail> {
        let mut trail: Option<Trail> = None;
        let mut last = 0;
        for (at, bytes) in parts.iter().enumerate() {
            let (part, scan) = AuditPart::read(bytes)?;
            let frames = &bytes[AUDIT_HEAD_BYTES..];
            let whole = (scan.end().len - part.start.len) as usize;
            let is_newest = at + 1 == parts.len();
            if whole < frames.len() && !(is_newest && is_torn(&frames[whole..])) {
                return Err(BadTrail::Damaged(scan.end().len));
            }
            let all = trail.get_or_insert_with(|| Trail {
                network: part.network,
                start: part.start,
                end: part.start,
                lines: Vec::new(),
                frames: Vec::new(),
            });
            if part.network != all.network {
                return Err(BadTrail::OtherMesh);
            }
            if part.start != all.end || (at > 0 && part.number != last + 1) {
                return Err(BadTrail::Broken(part.number));
            }
            last = part.number;
            all.take(&scan, &frames[..whole])?;
        }
        trail.ok_or(BadTrail::Empty)
    }

    fn take(&mut self, scan: &Scan, frames: &[u8]) -> Result<(), Malformed> {
        for frame in &scan.frames {
            self.lines.push(Line::decode(frame)?);
        }
        self.end = scan.end();
        self.frames.extend_from_slice(frames);
        Ok(())
    }

    /// What a node signs who hands it out.
    pub fn body(&self, node: &Author) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(EXPORT_TAG).raw(&self.network.0).raw(node);
        write_end(&mut out, self.start);
        write_end(&mut out, self.end);
        out.0
    }

    /// One file for strangers.
    pub fn exported(&self, node: &Author, signature: [u8; 64]) -> Vec<u8> {
        [&self.body(node), &self.frames[..], &signature].concat()
    }

    /// Is this meant to be such a file?
    pub fn is_export(bytes: &[u8]) -> bool {
        bytes.starts_with(EXPORT_TAG)
    }

    /// Total. Every byte counts: the chain covers the lines, and the signature its two ends.
    pub fn verify(bytes: &[u8]) -> Result<(Author, Trail), BadTrail> {
        let (head, signature) = bytes.split_last_chunk::<64>().ok_or(Malformed::Short)?;
        let mut read = Reader::open(head, AUDIT_EXPORT_BYTES_MAX, EXPORT_TAG)?;
        let (network, node): (_, Author) = (NetworkId(read.array()?), read.array()?);
        let (start, end) = (read_end(&mut read)?, read_end(&mut read)?);
        let scan = Scan::of(read.0, start);
        if scan.end() != end || end.len - start.len != read.0.len() as u64 {
            return Err(BadTrail::Damaged(scan.end().len));
        }
        let mut trail = Trail {
            network,
            start,
            end,
            lines: Vec::new(),
            frames: Vec::new(),
        };
        trail.take(&scan, read.0)?;
        if !is_signed(&node, &trail.body(&node), signature) {
            return Err(Malformed::Signature.into());
        }
        Ok((node, trail))
    }

    /// Does it go back to the first line that the node ever wrote?
    pub fn is_complete(&self) -> bool {
        self.start == End::empty(Purpose::Audit, self.network)
    }
}

/// Does a frame begin here and not end? That is what a crash leaves behind, or a write under way. A
/// frame that is all there and does not fit was changed.
pub fn is_torn(rest: &[u8]) -> bool {
    let Some((len, after)) = rest.split_first_chunk::<4>() else {
        return true;
    };
    let len = u32::from_le_bytes(*len) as usize;
    len <= LINE_BYTES_MAX && after.len() < len + 32
}

/// The longest line: its head, a guest's key, a reason.
const LINE_BYTES_MAX: usize = 8 + 32 + 1 + 32 + 1 + 4 + AUDIT_REASON_BYTES_MAX;

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
