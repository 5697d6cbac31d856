//! PEFT folders made of whole numbers: exact in every format, and the same in Python
//! (`tests/engine/peft_reference.py`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Module within a layer, what goes in, what comes out.
pub(crate) type Module = (&'static str, u64, u64);

/// The default model's.
#[allow(dead_code, reason = "two test programs use this file, each its part")]
pub(crate) const SMOLLM2: [Module; 7] = [
    ("self_attn.q_proj", 576, 576),
    ("self_attn.k_proj", 576, 192),
    ("self_attn.v_proj", 576, 192),
    ("self_attn.o_proj", 576, 576),
    ("mlp.gate_proj", 576, 1536),
    ("mlp.up_proj", 576, 1536),
    ("mlp.down_proj", 1536, 576),
];

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// What PEFT saves; public, so that a test can make any of it wrong.
#[derive(Clone)]
pub(crate) struct Folder {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Tensor>,
}

fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Multiples of `unit` from -32 to 32.
pub(crate) fn numbers(seed: u64, count: u64, unit: f32) -> Vec<f32> {
    let number = |i| (mixed(seed * 1_000_003 + i) % 65) as f32 - 32.0;
    (0..count).map(|i| number(i) * unit).collect()
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The unit of A.
pub(crate) const UNIT_A: f32 = 1.0 / 1024.0;

impl Folder {
    /// Pairs for the chosen `modules` of every layer, numbered by their place in `all`.
    pub(crate) fn new(
        layers: u64,
        all: &[Module],
        chosen: &[&str],
        rank: u64,
        unit_b: f32,
    ) -> Folder {
        let mut tensors = Vec::new();
        for layer in 0..layers {
            for (nth, (module, input, output)) in (0u64..).zip(all) {
                if !chosen.contains(module) {
                    continue;
                }
                let path = format!("base_model.model.model.layers.{layer}.{module}");
                let seed = 1 + (layer * 7 + nth) * 2;
                let half = |letter, shape: [u64; 2], seed, unit| Tensor {
                    name: format!("{path}.lora_{letter}.weight"),
                    dtype: "F32",
                    shape: shape.into(),
                    data: f32_bytes(&numbers(seed, shape[0] * shape[1], unit)),
                };
                tensors.push(half('A', [rank, *input], seed, UNIT_A));
                tensors.push(half('B', [*output, rank], seed + 1, unit_b));
            }
        }
        let config = json!({
            "peft_type": "LORA",
            "base_model_name_or_path": "some/base",
            "r": rank,
            "lora_alpha": 4 * rank,
            "target_modules": chosen.iter().map(|m| m.rsplit('.').next()).collect::<Vec<_>>(),
            "bias": "none",
            "lora_dropout": 0.0,
            "use_dora": false,
            "use_rslora": false,
            "modules_to_save": null,
            "rank_pattern": {},
            "init_lora_weights": true,
        });
        Folder { config, tensors }
    }

    pub(crate) fn set(mut self, key: &str, value: Value) -> Folder {
        self.config[key] = value;
        self
    }

    #[allow(dead_code, reason = "two test programs use this file, each its part")]
    pub(crate) fn change(mut self, change: impl FnOnce(&mut Folder)) -> Folder {
        change(&mut self);
        self
    }

    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let config = serde_json::to_vec(&self.config).unwrap();
        fs::write(folder.join("adapter_config.json"), config).unwrap();
        fs::write(folder.join("adapter_model.safetensors"), self.safetensors()).unwrap();
    }

    pub(crate) fn safetensors(&self) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        for tensor in &self.tensors {
            let from = data.len();
            data.extend(&tensor.data);
            let entry = json!({
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [from, data.len()],
            });
            header.insert(tensor.name.clone(), entry);
        }
        file(&Value::Object(header).to_string(), &data)
    }
}

/// A safetensors file with this header.
pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}
