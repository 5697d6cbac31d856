//! SHA-256 of files, as hubs publish it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Large enough that reading, not calling, is the cost.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// A hash under way.
#[derive(Clone, Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn hex(self) -> String {
        use std::fmt::Write;
        self.0
            .finalize()
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                // Writing to a String cannot fail.
                let _infallible = write!(hex, "{byte:02x}");
                hex
            })
    }
}

/// Feeds the first `bytes` bytes of `file` (all of them for `u64::MAX`) to a hasher and says how many there were.
pub(super) fn feed(file: &mut File, bytes: u64, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buf = vec![0; CHUNK_BYTES];
    let mut input = file.take(bytes);
    let mut done = 0;
    loop {
        let n = match input.read(&mut buf) {
            Ok(0) => return Ok(done),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buf[..n]);
        done += n as u64;
    }
}

pub(super) fn of_file(path: &Path) -> io::Result<String> {
    let mut hasher = Hasher::default();
    feed(&mut File::open(path)?, u64::MAX, &mut hasher)?;
    Ok(hasher.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            Hasher::default().hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let mut hasher = Hasher::default();
        hasher.update(b"abc");
        assert_eq!(
            hasher.hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
