//! A converted adapter held against its base, before llama.cpp sees it: every matrix is one of a
//! pair that fits a matrix of the base, and every number is finite.

use super::AdapterError;
use super::half::from_f16;
use super::targets::{Base, Target};
use crate::store::gguf::AdapterHeader;
use quorate_core::limits::{ADAPTER_BYTES_MAX, ADAPTER_RANK_MAX};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const HALF_A: &str = ".lora_a";
const HALF_B: &str = ".lora_b";
const CHUNK_BYTES: usize = 1 << 20;

/// What people are shown of a sound adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ready {
    pub(super) rank: u64,
    pub(super) alpha: f32,
    pub(super) matrices: u64,
}

/// Shapes and types alone: what a load can afford.
pub(super) fn check(path: &Path, base: &Base) -> Result<(AdapterHeader, Ready), AdapterError> {
    let meta = std::fs::metadata(path).map_err(AdapterError::io("read", path))?;
    if meta.is_file() && meta.len() > ADAPTER_BYTES_MAX {
        return Err(AdapterError::too_large(path, meta.len()));
    }
    let header = AdapterHeader::read(path).map_err(|source| AdapterError::Header {
        path: path.to_owned(),
        source,
    })?;
    if header.architecture != base.facts.architecture {
        return Err(AdapterError::OtherArchitecture {
            adapter: header.architecture,
            base: base.facts.architecture.clone(),
        });
    }
    if !base.is_known() {
        let architecture = header.architecture;
        return Err(AdapterError::Architecture { architecture });
    }
    if let Some(sha256) = &header.base_sha256
        && *sha256 != base.sha256
    {
        return Err(AdapterError::OtherBase {
            adapter: sha256.clone(),
            base: base.sha256.clone(),
        });
    }
    let ready = shapes(&header, base)?;
    Ok((header, ready))
}

fn shapes(header: &AdapterHeader, base: &Base) -> Result<Ready, AdapterError> {
    let (mut rank, mut matrices) = (0, 0);
    for (name, info) in &header.tensors {
        let not_in_base = || AdapterError::NotInBase {
            tensor: super::safetensors::shown(name),
        };
        let (matrix, other) = match (name.strip_suffix(HALF_A), name.strip_suffix(HALF_B)) {
            (Some(matrix), _) => (matrix, HALF_B),
            (_, Some(matrix)) => (matrix, HALF_A),
            _ => return Err(not_in_base()),
        };
        let target = Target::from_gguf(matrix).ok_or_else(not_in_base)?;
        let wanted = base.shape(target).ok_or_else(not_in_base)?;
        let Some(partner) = header.tensors.get(&format!("{matrix}{other}")) else {
            let tensor = matrix.to_owned();
            return Err(AdapterError::Half { tensor });
        };
        let (a, b) = match other {
            HALF_B => (info, partner),
            _ => (partner, info),
        };
        if (a.shape[0], b.shape[1]) != wanted {
            return Err(AdapterError::Shape {
                tensor: matrix.to_owned(),
                adapter: (a.shape[0], b.shape[1]),
                base: wanted,
            });
        }
        if a.shape[1] != b.shape[0] || a.shape[1] > ADAPTER_RANK_MAX {
            return Err(AdapterError::Rank {
                tensor: matrix.to_owned(),
                found: (a.shape[1], b.shape[0]),
                said: a.shape[1].min(ADAPTER_RANK_MAX),
            });
        }
        rank = rank.max(a.shape[1]);
        matrices += u64::from(other == HALF_B);
    }
    if matrices == 0 {
        let tensor = "any matrix".into();
        return Err(AdapterError::Half { tensor });
    }
    Ok(Ready {
        rank,
        alpha: header.alpha,
        matrices,
    })
}

/// Reads every number once.
pub(super) fn check_numbers(path: &Path, header: &AdapterHeader) -> Result<(), AdapterError> {
    let io = || AdapterError::io("read", path);
    let mut file = File::open(path).map_err(io())?;
    let mut chunk = vec![0; CHUNK_BYTES];
    for (name, info) in &header.tensors {
        let (at, mut left, is_half) = header.place(info);
        file.seek(SeekFrom::Start(at)).map_err(io())?;
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK_BYTES as u64) as usize];
            file.read_exact(part).map_err(io())?;
            left -= part.len() as u64;
            let odd = match is_half {
                true => part
                    .chunks_exact(2)
                    .map(|two| from_f16(u16::from_le_bytes([two[0], two[1]])))
                    .find(|value| !value.is_finite()),
                false => part
                    .chunks_exact(4)
                    .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                    .find(|value| !value.is_finite()),
            };
            if let Some(value) = odd {
                let tensor = name.clone();
                return Err(AdapterError::NotFinite { tensor, value });
            }
        }
    }
    Ok(())
}
