//! Adapters in GGUF: read with the same care as models, and written.
//!
//! llama.cpp reads an adapter's keys by cast and ends the process where a type is another one, so
//! the types are checked here, and every tensor is one of a pair that the base has a matrix for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::facts::architecture_name;
use super::header::{Header, Kind, Value};
use super::tensor::{F16, F32, Info};
use super::{GgufError, regular_file};

/// Our own key: the file that the adapter was converted for.
const BASE_KEY: &str = "quorate.base.sha256";
const ALPHA_KEY: &str = "adapter.lora.alpha";
/// ggml's alignment where a file says nothing else.
const ALIGNMENT: usize = 32;

/// An adapter as its own header describes it, not yet held against a base.
#[derive(Debug)]
pub(in crate::store) struct AdapterHeader {
    pub(in crate::store) architecture: String,
    pub(in crate::store) alpha: f32,
    /// SHA-256 of its base, if we have written the file.
    pub(in crate::store) base_sha256: Option<String>,
    /// Two-dimensional, f16 or f32, all of them.
    pub(in crate::store) tensors: BTreeMap<String, Info>,
    data_at: u64,
}

impl AdapterHeader {
    pub(in crate::store) fn read(path: &Path) -> Result<AdapterHeader, GgufError> {
        let len = regular_file(path)?;
        let header = Header::read(BufReader::new(File::open(path)?), len)?;
        let text = |key: &str| {
            let value = header.text(key);
            value.ok_or_else(|| GgufError::Missing { key: key.into() })
        };
        let kinds = (text("general.type")?, text("adapter.type")?);
        if kinds != ("adapter".into(), "lora".into()) {
            let (general, adapter) = kinds;
            let why = format!("this GGUF file holds a `{general}` of type `{adapter}`, not a LoRA");
            return Err(GgufError::Unsupported(why));
        }
        if let Some(key) = header.keys.keys().find(|key| key.contains(".alora.")) {
            let why = format!(
                "key `{key}`: an adapter that wakes at certain words (aLoRA) is not supported"
            );
            return Err(GgufError::Unsupported(why));
        }
        for (name, info) in &header.tensors.table {
            check_tensor(name, info)?;
        }
        Ok(AdapterHeader {
            architecture: architecture_name(&header)?,
            alpha: alpha(&header)?,
            base_sha256: header.text(BASE_KEY),
            data_at: header.tensors.data_at,
            tensors: header.tensors.table,
        })
    }

    /// Where a tensor's bytes lie in the file, and whether they are f16.
    pub(in crate::store) fn place(&self, info: &Info) -> (u64, u64, bool) {
        (self.data_at + info.offset, info.bytes, info.kind == F16)
    }
}

fn check_tensor(name: &str, info: &Info) -> Result<(), GgufError> {
    let why = if !matches!(info.kind, F16 | F32) {
        format!(
            "has type {}; adapters are f16 or f32: convert it again",
            info.kind
        )
    } else if info.shape[2..] != [1, 1] {
        format!("has shape {:?}, not that of a matrix", info.shape)
    } else {
        return Ok(());
    };
    let name = name.into();
    Err(GgufError::Tensor { name, why })
}

/// llama.cpp takes 0 for "no scale", which no trainer means.
fn alpha(header: &Header) -> Result<f32, GgufError> {
    let entry = header.keys.get(ALPHA_KEY);
    let entry = entry.ok_or_else(|| GgufError::Missing {
        key: ALPHA_KEY.into(),
    })?;
    match entry.value {
        Value::Float(alpha) if entry.kind == Kind::F32 && alpha.is_finite() && alpha != 0.0 => {
            Ok(alpha as f32)
        }
        _ => Err(GgufError::WrongType {
            key: ALPHA_KEY.into(),
            found: format!("{:?} {:?}", entry.kind, entry.value),
            want: "finite f32 other than 0",
        }),
    }
}

/// The header of an adapter's file, in the making. The data follows in the order of the tensors.
pub(in crate::store) struct AdapterWriter {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data_bytes: u64,
}

impl AdapterWriter {
    pub(in crate::store) fn new(architecture: &str, alpha: f32, base_sha256: &str) -> Self {
        let mut writer = AdapterWriter {
            keys: Vec::new(),
            key_count: 0,
            tensors: Vec::new(),
            tensor_count: 0,
            data_bytes: 0,
        };
        writer.text("general.type", "adapter");
        writer.text("general.architecture", architecture);
        writer.text("adapter.type", "lora");
        writer.key(ALPHA_KEY, Kind::F32, &alpha.to_le_bytes());
        writer.text(BASE_KEY, base_sha256);
        writer
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, Kind::Text, &counted(value));
    }

    fn key(&mut self, key: &str, kind: Kind, value: &[u8]) {
        self.keys.extend(counted(key));
        self.keys.extend((kind as u32).to_le_bytes());
        self.keys.extend(value);
        self.key_count += 1;
    }

    /// A matrix of f16, given as (length of a row, rows).
    pub(in crate::store) fn matrix(&mut self, name: &str, (columns, rows): (u64, u64)) {
        self.tensors.extend(counted(name));
        self.tensors.extend(2u32.to_le_bytes());
        self.tensors.extend(columns.to_le_bytes());
        self.tensors.extend(rows.to_le_bytes());
        self.tensors.extend(F16.to_le_bytes());
        self.tensors.extend(self.data_bytes.to_le_bytes());
        self.data_bytes += (columns * rows * 2).next_multiple_of(ALIGNMENT as u64);
        self.tensor_count += 1;
    }

    pub(in crate::store) fn header(self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend(self.tensor_count.to_le_bytes());
        header.extend(self.key_count.to_le_bytes());
        header.extend(self.keys);
        header.extend(self.tensors);
        padded(header)
    }
}

/// Filled up to where the next tensor begins.
pub(in crate::store) fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}
