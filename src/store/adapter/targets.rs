//! Which matrices of a base an adapter may change, and under which names.

use crate::store::gguf::{GgufFacts, Info};
use std::collections::BTreeMap;

/// The linear layers of a block of the Llama family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// As PEFT calls them within a layer, and as GGUF does.
const NAMES: [(Projection, &str, &str); 7] = [
    (Projection::Query, "self_attn.q_proj", "attn_q"),
    (Projection::Key, "self_attn.k_proj", "attn_k"),
    (Projection::Value, "self_attn.v_proj", "attn_v"),
    (Projection::Output, "self_attn.o_proj", "attn_output"),
    (Projection::Gate, "mlp.gate_proj", "ffn_gate"),
    (Projection::Up, "mlp.up_proj", "ffn_up"),
    (Projection::Down, "mlp.down_proj", "ffn_down"),
];

/// How a converter orders the rows of queries and keys within a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowOrder {
    /// As trained: the two halves of a head are turned against each other.
    Halves,
    /// Partners of a turn stand side by side: row 2i + j of the file is row i + j d/2 of the head.
    Pairs,
}

/// Architectures, as llama.cpp calls them, whose converters are known to us.
const ARCHITECTURES: [(&str, RowOrder); 6] = [
    ("llama", RowOrder::Pairs),
    ("qwen2", RowOrder::Halves),
    ("qwen3", RowOrder::Halves),
    ("gemma", RowOrder::Halves),
    ("gemma2", RowOrder::Halves),
    ("gemma3", RowOrder::Halves),
];

impl Projection {
    /// Is this a module's name, with or without the path to it?
    pub(super) fn is_named(module: &str) -> bool {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        NAMES.iter().any(|row| last(row.1) == last(module))
    }

    pub(super) fn names() -> String {
        NAMES.map(|row| row.1).join(", ")
    }

    fn peft(module: &str) -> Option<Projection> {
        NAMES.iter().find(|row| row.1 == module).map(|row| row.0)
    }

    fn gguf(self) -> &'static str {
        NAMES[self as usize].2
    }
}

/// One matrix of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) layer: usize,
    pub(super) projection: Projection,
}

impl Target {
    /// `base_model.model.model.layers.0.self_attn.q_proj`, as PEFT writes it.
    pub(super) fn from_peft(module: &str) -> Option<Target> {
        let inside = module.strip_prefix("base_model.model.model.layers.")?;
        let (layer, module) = inside.split_once('.')?;
        let number: usize = layer.parse().ok()?;
        // One spelling, so that one matrix has one name.
        (number.to_string() == layer).then_some(Target {
            layer: number,
            projection: Projection::peft(module)?,
        })
    }

    /// `blk.0.attn_q.weight`
    pub(super) fn from_gguf(name: &str) -> Option<Target> {
        let inside = name.strip_prefix("blk.")?.strip_suffix(".weight")?;
        let (layer, short) = inside.split_once('.')?;
        let row = NAMES.iter().find(|row| row.2 == short)?;
        let target = Target {
            layer: layer.parse().ok()?,
            projection: row.0,
        };
        (target.gguf() == name).then_some(target)
    }

    pub(super) fn gguf(self) -> String {
        format!("blk.{}.{}.weight", self.layer, self.projection.gguf())
    }
}

/// The base of an adapter: its shapes are what the adapter's are held against.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) facts: GgufFacts,
    pub(super) tensors: BTreeMap<String, Info>,
    pub(super) sha256: String,
}

impl Base {
    /// Length of a row, and rows: what goes in, what comes out.
    pub(super) fn shape(&self, target: Target) -> Option<(u64, u64)> {
        let info = self.tensors.get(&target.gguf())?;
        Some((info.shape[0], info.shape[1]))
    }

    pub(super) fn is_known(&self) -> bool {
        self.order().is_some()
    }

    fn order(&self) -> Option<RowOrder> {
        let known = ARCHITECTURES.iter();
        let row = known.clone().find(|row| row.0 == self.facts.architecture);
        row.map(|row| row.1)
    }

    /// Heads whose rows stand in pairs; None where rows stay as they are.
    pub(super) fn paired_heads(&self, target: Target) -> Option<u64> {
        let heads = match target.projection {
            Projection::Query => &self.facts.head_count,
            Projection::Key => &self.facts.head_count_kv,
            _ => return None,
        };
        match self.order()? {
            RowOrder::Halves => None,
            RowOrder::Pairs => heads.get(target.layer).copied(),
        }
    }
}

/// For every row of the file, the row as trained. None if the rows are not whole heads of pairs.
pub(super) fn in_pairs(rows: usize, heads: u64) -> Option<Vec<usize>> {
    let heads = usize::try_from(heads).ok().filter(|heads| *heads > 0)?;
    let width = rows / heads;
    if width * heads != rows || !width.is_multiple_of(2) {
        return None;
    }
    let trained = |row: usize| {
        let (head, within) = (row / width, row % width);
        head * width + within / 2 + within % 2 * (width / 2)
    };
    Some((0..rows).map(trained).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        for (nth, (projection, peft, short)) in NAMES.into_iter().enumerate() {
            assert_eq!(projection as usize, nth);
            let target = Target::from_peft(&format!("base_model.model.model.layers.12.{peft}"));
            let target = target.unwrap();
            assert_eq!(target.gguf(), format!("blk.12.{short}.weight"));
            assert_eq!(Target::from_gguf(&target.gguf()), Some(target));
        }
        for other in [
            "base_model.model.model.layers.01.mlp.up_proj",
            "base_model.model.model.layers.+1.mlp.up_proj",
            "base_model.model.model.layers.1.mlp.experts.0.up_proj",
            "base_model.model.model.layers.1.up_proj",
            "base_model.model.lm_head",
        ] {
            assert_eq!(Target::from_peft(other), None, "{other}");
        }
        assert_eq!(Target::from_gguf("blk.01.ffn_up.weight"), None);
        assert_eq!(Target::from_gguf("output.weight"), None);
    }

    /// The order in words: halves of a head become its columns. Written as reshape and transpose, the
    /// way converters do it.
    #[test]
    fn partners_of_a_turn_stand_side_by_side() {
        let (heads, width) = (3, 8);
        let mut expected = Vec::new();
        for head in 0..heads {
            for i in 0..width / 2 {
                for half in 0..2 {
                    expected.push(head * width + half * width / 2 + i);
                }
            }
        }
        assert_eq!(in_pairs(24, 3), Some(expected));
        let mut all = in_pairs(576, 9).unwrap();
        assert_eq!(&all[..4], [0, 32, 1, 33]);
        assert_eq!(&all[64..68], [64, 96, 65, 97]);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..576), "every row once");
        for (rows, heads) in [(24, 0), (24, 5), (9, 3)] {
            assert_eq!(in_pairs(rows, heads), None);
        }
    }
}
