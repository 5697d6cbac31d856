//! A cursor that never reads, skips or allocates past what the file really holds.

use std::io::{BufRead, Seek};

use super::GgufError;
use super::limits::MAX_HEADER_BYTES;

pub(super) struct Bounded<R> {
    inner: R,
    /// Bytes consumed so far, for messages and for the bound.
    at: u64,
    /// True length of the file.
    len: u64,
}

impl<R: BufRead + Seek> Bounded<R> {
    pub(super) fn new(inner: R, len: u64) -> Self {
        Bounded { inner, at: 0, len }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Errs unless `need` more bytes exist. Every read and every skip goes through here first.
    pub(super) fn claim(&self, what: &'static str, need: u64) -> Result<(), GgufError> {
        let left = self.len.saturating_sub(self.at);
        if need > left {
            return Err(GgufError::Truncated {
                what,
                at: self.at,
                need,
                left,
            });
        }
        let end = self.at.saturating_add(need);
        if end > MAX_HEADER_BYTES {
            return Err(GgufError::OverLimit {
                what,
                at: self.at,
                value: end,
                limit: MAX_HEADER_BYTES,
            });
        }
        Ok(())
    }

    pub(super) fn bytes<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        self.claim(what, N as u64)?;
        let mut buf = [0; N];
        self.inner.read_exact(&mut buf)?;
        self.at += N as u64;
        Ok(buf)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// A count, refused above `limit` and when its elements, at `min_bytes` each, cannot be in the file.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        limit: u64,
        min_bytes: u64,
    ) -> Result<u64, GgufError> {
        let at = self.at;
        let value = self.u64(what)?;
        if value > limit {
            return Err(GgufError::OverLimit {
                what,
                at,
                value,
                limit,
            });
        }
        self.claim(what, value.saturating_mul(min_bytes))?;
        Ok(value)
    }

    pub(super) fn skip(&mut self, what: &'static str, bytes: u64) -> Result<(), GgufError> {
        self.claim(what, bytes)?;
        // `claim` has bounded `bytes` by MAX_HEADER_BYTES, so the cast cannot change it.
        self.inner.seek_relative(bytes as i64)?;
        self.at += bytes;
        Ok(())
    }

    /// Exactly `bytes` bytes, which the caller has bounded. The file's size bounds the allocation.
    pub(super) fn vec(&mut self, what: &'static str, bytes: u64) -> Result<Vec<u8>, GgufError> {
        self.claim(what, bytes)?;
        let mut buf = vec![0; bytes as usize];
        self.inner.read_exact(&mut buf)?;
        self.at += bytes;
        Ok(buf)
    }

    /// A short string that must be UTF-8: keys and names.
    pub(super) fn name(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let bytes = self.count(what, limit, 1)?;
        let at = self.at;
        let raw = self.vec(what, bytes)?;
        let text = String::from_utf8(raw).map_err(|_| GgufError::Malformed {
            what,
            at,
            why: "is not UTF-8".into(),
        })?;
        if text.is_empty() || text.contains('\0') {
            let why = "is empty or holds a zero byte".into();
            return Err(GgufError::Malformed { what, at, why });
        }
        Ok(text)
    }
}
