//! From a PEFT folder to the file that llama.cpp loads.
//!
//! A pair A (rank x in), B (out x rank) becomes two f16 matrices of the same numbers; where the base
//! stores the rows of queries and keys in pairs, the rows of B follow. Everything is held against
//! the shapes of the base before a number is read, so they bound what is in memory at once.

use super::AdapterError;
use super::half::to_f16;
use super::peft::Recipe;
use super::safetensors::{Safetensors, Tensor, shown};
use super::targets::{Base, Projection, Target, in_pairs};
use crate::store::gguf::{AdapterWriter, padded};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

pub(super) const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// PEFT's older format. Reading a pickle runs whatever it says.
const PICKLE_FILE: &str = "adapter_model.bin";

/// The two halves of what is added to one matrix.
#[derive(Debug, Default)]
struct Pair {
    a: Option<Tensor>,
    b: Option<Tensor>,
}

/// Writes the adapter for this base; says its rank.
pub(super) fn convert(
    folder: &Path,
    base: &Base,
    out: &mut impl Write,
    out_path: &Path,
) -> Result<u64, AdapterError> {
    if !base.is_known() {
        let architecture = base.facts.architecture.clone();
        return Err(AdapterError::Architecture { architecture });
    }
    let recipe = Recipe::read(folder)?;
    let path = folder.join(WEIGHTS_FILE);
    if !path.exists() && folder.join(PICKLE_FILE).exists() {
        let why = "is a pickle, which can run code; save the adapter as safetensors";
        return Err(AdapterError::source(&folder.join(PICKLE_FILE), why));
    }
    let mut source = Safetensors::open(&path)?;
    let pairs = pairs(&source.tensors).map_err(|why| AdapterError::source(&path, why))?;
    let mut writer = AdapterWriter::new(&base.facts.architecture, recipe.alpha, &base.sha256);
    for (target, (a, b)) in &pairs {
        check(base, *target, (a, b), recipe.rank)?;
        writer.matrix(
            &format!("{}.lora_a", target.gguf()),
            (a.shape[1], a.shape[0]),
        );
        writer.matrix(
            &format!("{}.lora_b", target.gguf()),
            (b.shape[1], b.shape[0]),
        );
    }
    let mut write = |bytes: &[u8]| {
        let written = out.write_all(bytes);
        written.map_err(AdapterError::io("write", out_path))
    };
    write(&writer.header())?;
    for (target, (a, b)) in &pairs {
        let a = source.read(a)?;
        write(&halves(&a, *target)?)?;
        let (rows, b) = (b.shape[0] as usize, source.read(b)?);
        let b = match base.paired_heads(*target) {
            None => b,
            Some(heads) => rows_in_pairs(&b, rows, heads, *target)?,
        };
        write(&halves(&b, *target)?)?;
    }
    Ok(recipe.rank)
}

/// Finds the pairs by the names of the tensors. Every tensor must be half of one.
fn pairs(tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<Target, (Tensor, Tensor)>, String> {
    let mut found: BTreeMap<Target, Pair> = BTreeMap::new();
    for (name, tensor) in tensors {
        let half = |end| name.strip_suffix(end);
        let (module, is_a) = match (half(".lora_A.weight"), half(".lora_B.weight")) {
            (Some(module), _) => (module, true),
            (_, Some(module)) => (module, false),
            _ if name.ends_with("lora_magnitude_vector") => {
                return Err("has magnitudes of a DoRA, which no LoRA can say".into());
            }
            _ => return Err(format!("has a tensor that is no LoRA's: `{}`", shown(name))),
        };
        let target = Target::from_peft(module).ok_or_else(|| {
            let known = Projection::names();
            format!(
                "changes `{}`; known in each layer are {known}",
                shown(module)
            )
        })?;
        let pair = found.entry(target).or_default();
        let place = if is_a { &mut pair.a } else { &mut pair.b };
        *place = Some(tensor.clone());
    }
    if found.is_empty() {
        return Err("holds no tensors".into());
    }
    let whole = |(target, pair): (Target, Pair)| match (pair.a, pair.b) {
        (Some(a), Some(b)) => Ok((target, (a, b))),
        _ => Err(format!(
            "has only one of the two matrices for `{}`",
            target.gguf()
        )),
    };
    found.into_iter().map(whole).collect()
}

fn check(
    base: &Base,
    target: Target,
    (a, b): (&Tensor, &Tensor),
    rank: u64,
) -> Result<(), AdapterError> {
    let name = target.gguf();
    let Some((columns, rows)) = base.shape(target) else {
        return Err(AdapterError::NotInBase { tensor: name });
    };
    let ([a_rank, a_columns], [b_rows, b_rank]) = (&a.shape[..], &b.shape[..]) else {
        let (a, b) = (a.shape.clone(), b.shape.clone());
        return Err(AdapterError::NoMatrix { tensor: name, a, b });
    };
    if (*a_columns, *b_rows) != (columns, rows) {
        return Err(AdapterError::Shape {
            tensor: name,
            adapter: (*a_columns, *b_rows),
            base: (columns, rows),
        });
    }
    if (*a_rank, *b_rank) != (rank, rank) {
        return Err(AdapterError::Rank {
            tensor: name,
            found: (*a_rank, *b_rank),
            said: rank,
        });
    }
    Ok(())
}

/// As f16, filled up to where the next matrix begins.
fn halves(values: &[f32], target: Target) -> Result<Vec<u8>, AdapterError> {
    let mut bytes = Vec::with_capacity(values.len() * 2);
    for &value in values {
        let half = to_f16(value).ok_or_else(|| AdapterError::NotFinite {
            tensor: target.gguf(),
            value,
        })?;
        bytes.extend(half.to_le_bytes());
    }
    Ok(padded(bytes))
}

fn rows_in_pairs(
    values: &[f32],
    rows: usize,
    heads: u64,
    target: Target,
) -> Result<Vec<f32>, AdapterError> {
    let order = in_pairs(rows, heads).ok_or_else(|| AdapterError::Heads {
        tensor: target.gguf(),
        rows,
        heads,
    })?;
    let width = values.len() / rows.max(1);
    let row = |row: usize| &values[row * width..(row + 1) * width];
    Ok(order.into_iter().flat_map(row).copied().collect())
}
