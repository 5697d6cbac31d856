//! The tensor table: known types, sane shapes, data inside the file and back to back.

use std::collections::BTreeMap;
use std::io::{BufRead, Seek};

use super::GgufError;
use super::limits::{MAX_DIMS, MAX_TENSOR_NAME_BYTES};
use super::reader::Bounded;

/// The smallest table entry: name length, one byte of name, dimension count, one dimension, type, offset.
pub(super) const MIN_INFO_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// ggml's types: number, elements in a block, bytes in a block, name. Numbers that are absent were withdrawn.
const TYPES: &[(u32, u64, u64, &str)] = &[
    (0, 1, 4, "F32"),
    (1, 1, 2, "F16"),
    (2, 32, 18, "Q4_0"),
    (3, 32, 20, "Q4_1"),
    (6, 32, 22, "Q5_0"),
    (7, 32, 24, "Q5_1"),
    (8, 32, 34, "Q8_0"),
    (9, 32, 36, "Q8_1"),
    (10, 256, 84, "Q2_K"),
    (11, 256, 110, "Q3_K"),
    (12, 256, 144, "Q4_K"),
    (13, 256, 176, "Q5_K"),
    (14, 256, 210, "Q6_K"),
    (15, 256, 292, "Q8_K"),
    (16, 256, 66, "IQ2_XXS"),
    (17, 256, 74, "IQ2_XS"),
    (18, 256, 98, "IQ3_XXS"),
    (19, 256, 50, "IQ1_S"),
    (20, 32, 18, "IQ4_NL"),
    (21, 256, 110, "IQ3_S"),
    (22, 256, 82, "IQ2_S"),
    (23, 256, 136, "IQ4_XS"),
    (24, 1, 1, "I8"),
    (25, 1, 2, "I16"),
    (26, 1, 4, "I32"),
    (27, 1, 8, "I64"),
    (28, 1, 8, "F64"),
    (29, 256, 56, "IQ1_M"),
    (30, 1, 2, "BF16"),
    (34, 256, 54, "TQ1_0"),
    (35, 256, 66, "TQ2_0"),
    (39, 32, 17, "MXFP4"),
    (40, 64, 36, "NVFP4"),
    (41, 128, 18, "Q1_0"),
    (42, 64, 18, "Q2_0"),
];

/// Numbers of the types that adapters may have.
pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;

/// What the table says, and what it adds up to.
pub(super) struct Tensors {
    pub(super) elements: u64,
    pub(super) bytes: u64,
    pub(super) table: BTreeMap<String, Info>,
    /// Where the data begins in the file; offsets count from here.
    pub(super) data_at: u64,
}

/// One tensor, its range checked against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Info {
    /// Elements along each dimension, the innermost first; 1 beyond the last.
    pub(in crate::store) shape: [u64; MAX_DIMS as usize],
    pub(super) kind: u32,
    elements: u64,
    pub(super) bytes: u64,
    pub(super) offset: u64,
}

impl Info {
    /// The product of every dimension but the first: cannot overflow, the product of all does not.
    pub(super) fn rows(&self) -> u64 {
        self.shape[1..].iter().product()
    }

    /// The name of its type.
    pub(super) fn kind_name(&self) -> &'static str {
        let known = TYPES.iter().find(|known| known.0 == self.kind);
        known.map_or("?", |known| known.3)
    }
}

impl Tensors {
    pub(super) fn read<R: BufRead + Seek>(
        input: &mut Bounded<R>,
        count: u64,
        alignment: u64,
    ) -> Result<Tensors, GgufError> {
        let mut sum = Tensors {
            elements: 0,
            bytes: 0,
            table: BTreeMap::new(),
            data_at: 0,
        };
        // Where the next tensor has to start, and where the furthest one ends, within the data section.
        let (mut expected, mut end) = (0u64, 0u64);
        for _ in 0..count {
            let (name, info) = Info::read(input)?;
            // llama.cpp lays tensors back to back in table order and refuses anything else. Holding
            // files to the same rule makes overlap impossible without comparing ranges.
            if info.offset != expected {
                let why = format!(
                    "starts at data offset {}, the one before it ends at {expected}",
                    info.offset
                );
                return Err(GgufError::Tensor { name, why });
            }
            let overflow = |name: &str| GgufError::Tensor {
                name: name.into(),
                why: "makes the data larger than any file".into(),
            };
            end = info
                .offset
                .checked_add(info.bytes)
                .ok_or_else(|| overflow(&name))?;
            expected = end
                .checked_next_multiple_of(alignment)
                .ok_or_else(|| overflow(&name))?;
            sum.elements = sum
                .elements
                .checked_add(info.elements)
                .ok_or_else(|| overflow(&name))?;
            sum.bytes = sum
                .bytes
                .checked_add(info.bytes)
                .ok_or_else(|| overflow(&name))?;
            if sum.table.contains_key(&name) {
                let why = "appears twice".into();
                return Err(GgufError::Tensor { name, why });
            }
            sum.table.insert(name, info);
        }
        sum.data_at = check_data_fits(input.at(), input.len(), alignment, end)?;
        Ok(sum)
    }
}

/// The data section starts at the next multiple of the alignment, which is the answer, and must hold
/// the last tensor's last byte.
fn check_data_fits(
    header_end: u64,
    file_bytes: u64,
    alignment: u64,
    data_bytes: u64,
) -> Result<u64, GgufError> {
    let start = header_end.checked_next_multiple_of(alignment);
    let need = start.and_then(|start| start.checked_add(data_bytes));
    match (start, need) {
        (Some(start), Some(need)) if need <= file_bytes => Ok(start),
        (_, need) => Err(GgufError::Truncated {
            what: "tensor data",
            at: header_end,
            need: need.unwrap_or(u64::MAX).saturating_sub(header_end),
            left: file_bytes.saturating_sub(header_end),
        }),
    }
}

impl Info {
    fn read<R: BufRead + Seek>(input: &mut Bounded<R>) -> Result<(String, Info), GgufError> {
        let name = input.name("a tensor name", MAX_TENSOR_NAME_BYTES)?;
        let at = input.at();
        let dims = input.u32("a dimension count")?;
        if dims == 0 || dims > MAX_DIMS {
            let (value, limit) = (u64::from(dims), u64::from(MAX_DIMS));
            return Err(GgufError::OverLimit {
                what: "a dimension count",
                at,
                value,
                limit,
            });
        }
        let mut shape = [1u64; MAX_DIMS as usize];
        for dim in shape.iter_mut().take(dims as usize) {
            *dim = input.u64("a dimension")?;
        }
        let number = input.u32("a tensor type")?;
        let offset = input.u64("a tensor offset")?;
        let bad = |why: String| GgufError::Tensor {
            name: name.clone(),
            why,
        };

        let &(_, block, block_bytes, _) =
            TYPES
                .iter()
                .find(|known| known.0 == number)
                .ok_or_else(|| {
                    bad(format!(
                        "has type {number}, which llama.cpp does not know or no longer reads"
                    ))
                })?;
        if shape.contains(&0) {
            return Err(bad(format!("has an empty shape {shape:?}")));
        }
        if shape[0] % block != 0 {
            return Err(bad(format!(
                "has rows of {} elements, not whole blocks of {block}",
                shape[0]
            )));
        }
        // ggml counts elements and bytes in i64; u64 products are held to the same range.
        let product = |factors: &[u64]| {
            factors
                .iter()
                .try_fold(1u64, |product, &factor| product.checked_mul(factor))
                .filter(|&product| i64::try_from(product).is_ok())
                .ok_or_else(|| bad(format!("has shape {shape:?}, more than can be addressed")))
        };
        let rows = product(&shape[1..])?;
        let elements = product(&shape)?;
        let bytes = product(&[shape[0] / block, block_bytes, rows])?;
        let info = Info {
            shape,
            kind: number,
            elements,
            bytes,
            offset,
        };
        Ok((name, info))
    }
}

#[cfg(test)]
mod tests {
    use super::TYPES;

    #[test]
    fn types_are_listed_once_and_never_empty() {
        for pair in TYPES.windows(2) {
            assert!(pair[0].0 < pair[1].0, "type {} out of order", pair[1].0);
        }
        assert!(
            TYPES
                .iter()
                .all(|&(_, block, bytes, _)| block > 0 && bytes > 0)
        );
    }
}
