//! Frames on a stream: a length of 4 bytes, big-endian, then so many bytes.
//!
//! Memory follows what has arrived, not what a length claims; a frame that has begun must end, so
//! that nobody holds a buffer, or makes us hold one, by being slow.

use crate::wire::plane::LENGTH_BYTES;
use bytes::{Buf, Bytes, BytesMut};
use quorate_core::limits::FRAME_MS_MAX;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a frame may take that has begun.
pub const PATIENCE: Duration = Duration::from_millis(FRAME_MS_MAX);
/// Asked of the stream at once: most frames are far shorter.
const CHUNK: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
    #[error("a frame of {bytes} bytes, and {max} may come here")]
    TooLong { bytes: usize, max: usize },
    #[error("a frame that took longer than {0:?}")]
    Slow(Duration),
    #[error("the stream ended within a frame")]
    Cut,
}

pub struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    patience: Duration,
    /// When the first byte of the frame in the buffer was seen.
    begun: Option<Instant>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(io: R, patience: Duration) -> FrameReader<R> {
        FrameReader {
            io,
            buffer: BytesMut::new(),
            patience,
            begun: None,
        }
    }

    /// The next frame without its length; None at the end of the stream. Nothing is lost if the
    /// future is dropped.
    pub async fn next(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.whole_frame(max)? {
                return Ok(Some(frame));
            }
            if self.more().await? == 0 {
                let clean = self.buffer.is_empty();
                return if clean {
                    Ok(None)
                } else {
                    Err(FrameError::Cut)
                };
            }
        }
    }

    /// Reads ahead until the stream ends or fails, within `room`: who has something else to wait
    /// for learns that the other side left. Nothing is lost if the future is dropped.
    pub async fn ended(&mut self, room: usize) {
        while self.buffer.len() < room {
            self.buffer.reserve(CHUNK);
            match self.io.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    fn whole_frame(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_be_bytes(*length) as usize;
        if bytes > max {
            return Err(FrameError::TooLong { bytes, max });
        }
        if self.buffer.len() - LENGTH_BYTES < bytes {
            return Ok(None);
        }
        self.begun = None;
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(bytes).freeze()))
    }

    async fn more(&mut self) -> Result<usize, FrameError> {
        if !self.buffer.is_empty() && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        self.buffer.reserve(CHUNK);
        let read = self.io.read_buf(&mut self.buffer);
        let Some(begun) = self.begun else {
            return Ok(read.await?);
        };
        let read = timeout_at(begun + self.patience, read).await;
        Ok(read.map_err(|_| FrameError::Slow(self.patience))??)
    }
}

pub struct FrameWriter<W> {
    io: W,
    patience: Duration,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(io: W, patience: Duration) -> FrameWriter<W> {
        FrameWriter { io, patience }
    }

    /// `frame` has its length already.
    pub async fn write(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        let written = async {
            self.io.write_all(frame).await?;
            self.io.flush().await
        };
        let written = timeout(self.patience, written).await;
        Ok(written.map_err(|_| FrameError::Slow(self.patience))??)
    }

    /// Nothing more will be written; what was is still delivered.
    pub async fn finish(&mut self) {
        // Whoever left already needs no goodbye.
        timeout(self.patience, self.io.shutdown()).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    #[tokio::test]
    async fn frames_come_out_however_they_were_cut() {
        let sent = [framed(b"one"), framed(b""), framed(&[7; 10_000])].concat();
        for step in [1, 2, 3, 4, 5, 4096, sent.len()] {
            let (mut far, near) = duplex(1 << 20);
            for piece in sent.chunks(step) {
                far.write_all(piece).await.unwrap();
            }
            drop(far);
            let mut reader = FrameReader::new(near, PATIENCE);
            let mut next = async || reader.next(10_000).await.unwrap();
            assert_eq!(next().await.unwrap(), &b"one"[..]);
            assert_eq!(next().await.unwrap(), &b""[..]);
            assert_eq!(next().await.unwrap(), &[7; 10_000][..]);
            assert_eq!(next().await, None);
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_anything_is_kept() {
        let (mut far, near) = duplex(1 << 20);
        far.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let mut reader = FrameReader::new(near, PATIENCE);
        let error = reader.next(10).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong { max: 10, .. }));
        assert!(reader.buffer.capacity() <= 2 * CHUNK);
    }

    #[tokio::test]
    async fn a_frame_that_begins_must_end() {
        let patience = Duration::from_millis(50);
        let (mut far, near) = duplex(1 << 20);
        far.write_all(&framed(b"whole")).await.unwrap();
        far.write_all(&framed(b"half")[..6]).await.unwrap();
        let mut reader = FrameReader::new(near, patience);
        assert!(reader.next(10).await.unwrap().is_some());
        assert!(matches!(reader.next(10).await, Err(FrameError::Slow(_))));
        drop(far);
        assert!(matches!(reader.next(10).await, Err(FrameError::Cut)));
    }

    #[tokio::test]
    async fn a_reader_that_reads_nothing_is_given_up() {
        let (_far, near) = duplex(16);
        let mut writer = FrameWriter::new(near, Duration::from_millis(50));
        let frame = framed(&[0; 100]);
        assert!(matches!(
            writer.write(&frame).await,
            Err(FrameError::Slow(_))
        ));
    }

    #[tokio::test]
    async fn reading_ahead_loses_nothing_and_sees_the_end() {
        let (mut far, near) = duplex(1 << 20);
        let mut reader = FrameReader::new(near, PATIENCE);
        far.write_all(&framed(b"early")).await.unwrap();
        drop(far);
        reader.ended(1 << 10).await;
        assert_eq!(reader.next(10).await.unwrap().unwrap(), &b"early"[..]);
    }
}
