//! The safetensors format: the length of a header, the header in JSON, the data.
//!
//! The file's size bounds everything before it is allocated. The data must be covered by the
//! tensors exactly, one after the other without a gap, so that nothing overlaps or lies outside; a
//! name stands once.

use super::AdapterError;
use super::half::{from_bf16, from_f16};
use quorate_core::limits::{ADAPTER_BYTES_MAX, SAFETENSORS_HEADER_BYTES_MAX};
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;
/// Notes of whoever wrote the file; nothing of it is read.
const NOTES: &str = "__metadata__";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Outermost dimension first, as in Python.
    pub(super) shape: Vec<u64>,
    dtype: Dtype,
    /// In the file.
    at: u64,
    bytes: u64,
}

/// A file whose header is sound.
#[derive(Debug)]
pub(super) struct Safetensors {
    path: PathBuf,
    file: File,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl Safetensors {
    pub(super) fn open(path: &Path) -> Result<Safetensors, AdapterError> {
        let io = |doing| AdapterError::io(doing, path);
        // Before it is opened: a pipe would wait for a writer, and a huge file is none of ours.
        let meta = std::fs::metadata(path).map_err(io("read"))?;
        if !meta.is_file() {
            return Err(AdapterError::source(path, "is not a regular file"));
        }
        if meta.len() > ADAPTER_BYTES_MAX {
            return Err(AdapterError::too_large(path, meta.len()));
        }
        let mut file = File::open(path).map_err(io("open"))?;
        let tensors =
            header(&mut file, meta.len()).map_err(|why| AdapterError::source(path, why))?;
        Ok(Safetensors {
            path: path.to_owned(),
            file,
            tensors,
        })
    }

    /// The numbers of a tensor, row by row.
    pub(super) fn read(&mut self, tensor: &Tensor) -> Result<Vec<f32>, AdapterError> {
        // The range lies in the file, whose size has a bound.
        let mut bytes = vec![0; tensor.bytes as usize];
        let sought = self.file.seek(SeekFrom::Start(tensor.at));
        sought
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(AdapterError::io("read", &self.path))?;
        let half = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        Ok(match tensor.dtype {
            Dtype::F16 => bytes.chunks_exact(2).map(half).map(from_f16).collect(),
            Dtype::Bf16 => bytes.chunks_exact(2).map(half).map(from_bf16).collect(),
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
        })
    }
}

fn header(file: &mut File, file_bytes: u64) -> Result<BTreeMap<String, Tensor>, String> {
    let cut = |error: std::io::Error| format!("cannot be read: {error}");
    if file_bytes < LENGTH_BYTES {
        return Err("is cut short: it has no header".into());
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(cut)?;
    let length = u64::from_le_bytes(length);
    if length > file_bytes - LENGTH_BYTES {
        return Err(format!(
            "is cut short: its header has {length} bytes and the file {file_bytes}"
        ));
    }
    if length > SAFETENSORS_HEADER_BYTES_MAX {
        let limit = SAFETENSORS_HEADER_BYTES_MAX;
        return Err(format!(
            "has a header of {length} bytes, the limit is {limit}"
        ));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(cut)?;
    let Entries(entries) =
        serde_json::from_slice(&json).map_err(|error| format!("has a bad header: {error}"))?;
    let data = LENGTH_BYTES + length;
    places(entries, data, file_bytes - data)
}

/// Gives every tensor its place in the file; `bytes` follow the header.
fn places(
    entries: BTreeMap<String, Entry>,
    data: u64,
    bytes: u64,
) -> Result<BTreeMap<String, Tensor>, String> {
    let mut order: Vec<(String, Entry)> = entries.into_iter().collect();
    order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, entry) in order {
        let bad = |why: String| format!("has a tensor `{}` that {why}", shown(&name));
        let dtype = match entry.dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            other => {
                let other = shown(other);
                return Err(bad(format!(
                    "has type {other}; F32, F16 and BF16 are known"
                )));
            }
        };
        let mut elements = entry.shape.iter();
        let needs = elements
            .try_fold(dtype.bytes(), |product, &n| product.checked_mul(n))
            .ok_or_else(|| bad(format!("has shape {:?}, larger than any file", entry.shape)))?;
        let (from, to) = entry.data_offsets;
        if from != end {
            return Err(bad(format!(
                "begins at byte {from} of the data, where the one before it ends at {end}"
            )));
        }
        if to.checked_sub(from) != Some(needs) {
            return Err(bad(format!(
                "spans bytes {from} to {to}, where its shape {:?} needs {needs}",
                entry.shape
            )));
        }
        if to > bytes {
            return Err(format!(
                "is cut short: tensor `{}` ends at byte {to} of {bytes}",
                shown(&name)
            ));
        }
        end = to;
        let tensor = Tensor {
            shape: entry.shape,
            dtype,
            at: data + from,
            bytes: needs,
        };
        tensors.insert(name, tensor);
    }
    if end != bytes {
        return Err(format!(
            "has {bytes} bytes of data, of which its tensors cover {end}"
        ));
    }
    Ok(tensors)
}

/// A name out of a file, cut to what fits a message.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's object. A map of serde's would let the second of two equal names win.
struct Entries(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a tensor for each name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == NOTES {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let entry = map.next_value::<Entry>()?;
                    if entries.insert(name.clone(), entry).is_some() {
                        let name = shown(&name);
                        return Err(M::Error::custom(format!("`{name}` stands there twice")));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Names)
    }
}
