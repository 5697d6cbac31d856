//! Our own check of a GGUF header, run before llama.cpp touches a file.
//!
//! llama.cpp's loader has had a steady stream of memory faults reached through the header (counts
//! that wrap, alignments without a bound, arrays read with the wrong element size), so nothing from
//! outside gets to it unread. The rules, in one place:
//!
//! * the file's real size bounds every declared offset, count and length, before anything is allocated;
//! * all arithmetic is checked `u64`;
//! * everything has a limit ([`limits`]), and what we keep of a header has one budget;
//! * a key that llama.cpp reads must have the type it is read as.
//!
//! Where the format allows more than any real model uses, we take the stricter side: a refused file
//! is an error message, an accepted one is parsed again by C++.

mod adapter;
mod facts;
mod header;
mod reader;
mod tensor;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

pub(super) use adapter::{AdapterHeader, AdapterWriter, padded};
pub use facts::GgufFacts;
pub(super) use tensor::Info;

/// What no honest header exceeds. Real files stay at least four times below each of these.
pub mod limits {
    /// Key-value pairs in one header.
    pub const MAX_KEYS: u64 = 64 * 1024;
    /// Elements in one array; the largest real ones are vocabularies (262,144) and merges.
    pub const MAX_ARRAY: u64 = 16 * 1024 * 1024;
    /// Bytes in one string; the largest real ones are chat templates (tens of KiB).
    pub const MAX_STRING_BYTES: u64 = 1024 * 1024;
    /// Bytes in one key.
    pub const MAX_KEY_BYTES: u64 = 256;
    /// Tensors in one file.
    pub const MAX_TENSORS: u64 = 65_535;
    /// Dimensions of one tensor, as in ggml.
    pub const MAX_DIMS: u32 = 4;
    /// Bytes in a tensor's name: ggml's buffer is 64 with the terminating zero.
    pub const MAX_TENSOR_NAME_BYTES: u64 = 63;
    /// Bytes of the whole header; llama.cpp keeps all of it in memory.
    pub const MAX_HEADER_BYTES: u64 = 512 * 1024 * 1024;
    /// Bytes that we keep of a header while we check it, whatever the file says.
    pub const MAX_KEPT_BYTES: u64 = 16 * 1024 * 1024;
    /// Layers, as in llama.cpp, whose per-layer tables are fixed arrays of this length.
    pub const MAX_LAYERS: u64 = 512;
    /// Trained context; the largest published is 10 Mi.
    pub const MAX_CONTEXT: u64 = 64 * 1024 * 1024;
    /// Width of a layer.
    pub const MAX_WIDTH: u64 = 1024 * 1024;
    /// Attention heads of a layer.
    pub const MAX_HEADS: u64 = 4096;
    /// Width of one head's key or value.
    pub const MAX_HEAD_WIDTH: u64 = 16 * 1024;
}

/// Why a file is not given to the engine. Offsets are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    #[error(
        "not a GGUF file: it starts with bytes {found:02x?} instead of \"GGUF\"; only .gguf models are supported"
    )]
    NotGguf { found: [u8; 4] },
    #[error(
        "GGUF version {0} is not supported (2 and 3 are); convert the model again with a current llama.cpp"
    )]
    Version(u32),
    #[error(
        "the header is cut short or damaged: {what} at byte {at} needs {need} bytes and {left} are left; pull the model again"
    )]
    Truncated {
        what: &'static str,
        at: u64,
        need: u64,
        left: u64,
    },
    #[error(
        "the header is damaged or hostile: {what} at byte {at} is {value}, the limit is {limit}; pull the model again or from another source"
    )]
    OverLimit {
        what: &'static str,
        at: u64,
        value: u64,
        limit: u64,
    },
    #[error(
        "the header is damaged or hostile: {what} at byte {at} {why}; pull the model again or from another source"
    )]
    Malformed {
        what: &'static str,
        at: u64,
        why: String,
    },
    #[error(
        "key `{key}` is {found}, which is not the {want} that the engine reads; pull the model from another source"
    )]
    WrongType {
        key: String,
        found: String,
        want: &'static str,
    },
    #[error(
        "key `{key}` is missing, so this is not a complete language model; pull the model from another source"
    )]
    Missing { key: String },
    #[error("key `{key}` is {value}, outside {min} to {max}; pull the model from another source")]
    OutOfRange {
        key: String,
        value: u64,
        min: u64,
        max: u64,
    },
    #[error("tensor `{name}` {why}; the file is cut short or damaged: pull the model again")]
    Tensor { name: String, why: String },
    #[error("{0}")]
    Unsupported(String),
}

/// Checks the file at `path` and says what is in it.
pub fn check(path: &Path) -> Result<GgufFacts, GgufError> {
    let len = regular_file(path)?;
    parse(buffered(path)?, len)
}

/// The same, with the shapes of its tensors by name.
pub(super) fn check_tensors(path: &Path) -> Result<(GgufFacts, BTreeMap<String, Info>), GgufError> {
    let len = regular_file(path)?;
    let header = header::Header::read(buffered(path)?, len)?;
    Ok((
        facts::GgufFacts::from_header(&header)?,
        header.tensors.table,
    ))
}

/// How many tensors the file at `path` has of each type, and their bytes.
pub fn kinds(path: &Path) -> Result<BTreeMap<&'static str, (usize, u64)>, GgufError> {
    let (_, tensors) = check_tensors(path)?;
    let mut kinds: BTreeMap<&'static str, (usize, u64)> = BTreeMap::new();
    for info in tensors.values() {
        let of_kind = kinds.entry(info.kind_name()).or_default();
        *of_kind = (of_kind.0 + 1, of_kind.1 + info.bytes);
    }
    Ok(kinds)
}

/// The file's length. Asked before it is opened: opening a pipe would wait for somebody to write
/// into it.
fn regular_file(path: &Path) -> Result<u64, GgufError> {
    let meta = std::fs::metadata(path)?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    let why = "not a regular file; give the path of a .gguf file";
    Err(GgufError::Unsupported(why.into()))
}

fn buffered(path: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(256 * 1024, File::open(path)?))
}

/// The same over anything seekable; `len` is its true length and bounds all that the header declares.
pub fn parse<R: BufRead + Seek>(input: R, len: u64) -> Result<GgufFacts, GgufError> {
    let header = header::Header::read(input, len)?;
    facts::GgufFacts::from_header(&header)
}
