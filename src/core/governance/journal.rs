//! Bytes that only grow. The hash of each frame covers all frames before it, so that what a torn
//! write leaves at the end is told from what somebody changed in the middle.

use super::codec::{Reader, Writer, hash};
use crate::ids::NetworkId;
use crate::limits::FRAME_BYTES_MAX;

/// What a journal is for: frames of one purpose are none of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Signed records, as a node heard them.
    Log,
    /// What a node allowed and refused.
    Audit,
    /// A file for strangers.
    Parcel,
}

/// Where a journal ends: its length, and the hash of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub len: u64,
    pub hash: [u8; 32],
}

/// The whole frames of a journal.
#[derive(Debug)]
pub struct Scan<'a> {
    pub frames: Vec<&'a [u8]>,
    /// The end before the first frame, and after each.
    ends: Vec<End>,
}

impl End {
    /// The end of a journal without frames.
    pub fn empty(purpose: Purpose, network: NetworkId) -> End {
        let context = match purpose {
            Purpose::Log => "quorate 2026 journal of records",
            Purpose::Audit => "quorate 2026 journal of permits",
            Purpose::Parcel => "quorate 2026 journal of a parcel",
        };
        End {
            len: 0,
            hash: hash(context, &network.0),
        }
    }

    /// Adds a frame; its bytes go to `out`.
    #[must_use]
    pub fn push(self, payload: &[u8], out: &mut Vec<u8>) -> End {
        let next = self.after(payload);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(&next.hash);
        next
    }

    fn after(self, payload: &[u8]) -> End {
        let mut out = Writer(Vec::with_capacity(payload.len() + 64));
        out.raw(&self.hash).u64(self.len).raw(payload);
        End {
            len: self.len + 4 + payload.len() as u64 + 32,
            hash: hash("quorate 2026 frame", &out.0),
        }
    }
}

impl<'a> Scan<'a> {
    /// All frames from the start up to the first that is not whole. Total.
    pub fn of(bytes: &'a [u8], empty: End) -> Scan<'a> {
        let mut frames = Vec::new();
        let mut ends = vec![empty];
        let mut end = empty;
        let mut read = Reader(bytes);
        while let Some(payload) = frame(&mut read) {
            end = end.after(payload);
            if read.array::<32>() != Ok(end.hash) {
                break;
            }
            frames.push(payload);
            ends.push(end);
        }
        Scan { frames, ends }
    }

    pub fn end(&self) -> End {
        // The empty end is always there.
        self.ends[self.ends.len() - 1]
    }

    /// Did the journal once end here?
    pub fn passes(&self, end: End) -> bool {
        let at = self.ends.binary_search_by_key(&end.len, |e| e.len);
        at.is_ok_and(|at| self.ends[at] == end)
    }
}

fn frame<'a>(read: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = read.u32().ok()? as usize;
    if len > FRAME_BYTES_MAX {
        return None;
    }
    let (payload, rest) = read.0.split_at_checked(len)?;
    read.0 = rest;
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn sample() -> (Vec<u8>, Vec<End>) {
        let mut bytes = Vec::new();
        let mut ends = vec![End::empty(Purpose::Log, NETWORK)];
        for payload in [&b"one"[..], b"", b"three and more"] {
            let end = ends[ends.len() - 1].push(payload, &mut bytes);
            ends.push(end);
        }
        (bytes, ends)
    }

    #[test]
    fn every_cut_leaves_the_frames_before_it() {
        let (bytes, ends) = sample();
        for cut in 0..=bytes.len() {
            let scan = Scan::of(&bytes[..cut], ends[0]);
            let whole = ends.iter().rposition(|end| end.len <= cut as u64).unwrap();
            assert_eq!(scan.end(), ends[whole], "cut at {cut}");
            assert_eq!(scan.frames.len(), whole);
        }
    }

    #[test]
    fn no_bit_is_free_and_no_frame_moves() {
        let (bytes, ends) = sample();
        let last = ends[3];
        assert!(Scan::of(&bytes, ends[0]).passes(last));
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(!Scan::of(&changed, ends[0]).passes(last), "bit {at}");
        }
        let (first, second) = (ends[1].len as usize, ends[2].len as usize);
        let swapped = [&bytes[first..second], &bytes[..first], &bytes[second..]].concat();
        assert!(Scan::of(&swapped, ends[0]).frames.is_empty());
        for other in [Purpose::Audit, Purpose::Parcel] {
            let start = End::empty(other, NETWORK);
            assert!(Scan::of(&bytes, start).frames.is_empty());
        }
        let elsewhere = End::empty(Purpose::Log, NetworkId([8; 32]));
        assert!(Scan::of(&bytes, elsewhere).frames.is_empty());
    }

    #[test]
    fn a_frame_at_the_limit_is_whole_and_one_byte_more_is_none() {
        for (len, n) in [(FRAME_BYTES_MAX, 1), (FRAME_BYTES_MAX + 1, 0)] {
            let mut bytes = Vec::new();
            let empty = End::empty(Purpose::Log, NETWORK);
            let end = empty.push(&vec![1; len], &mut bytes);
            let scan = Scan::of(&bytes, empty);
            assert_eq!(scan.frames.len(), n);
            assert_eq!(scan.passes(end), n == 1);
        }
    }
}
