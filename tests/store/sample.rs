//! GGUF files small enough to break in every possible way.

/// A value as it is written to the file.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(u8),
    Text(String),
    /// Element type, declared count, raw bytes: the count may lie.
    List(u32, u64, Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

/// The parts of a file; public, so that a test can make any of them wrong.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
    pub(crate) keys: Vec<(String, Val)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) data_bytes: usize,
}

fn texts(items: &[&str]) -> Val {
    let mut raw = Vec::new();
    for item in items {
        raw.extend((item.len() as u64).to_le_bytes());
        raw.extend(item.as_bytes());
    }
    Val::List(8, items.len() as u64, raw)
}

/// A list of 4-byte numbers.
pub(crate) fn numbers(kind: u32, items: &[u32]) -> Val {
    Val::List(
        kind,
        items.len() as u64,
        items.iter().flat_map(|item| item.to_le_bytes()).collect(),
    )
}

impl Sample {
    /// A complete small model of the Llama architecture.
    pub(crate) fn valid() -> Sample {
        let text = |value: &str| Val::Text(value.into());
        let keys = [
            ("general.architecture", text("llama")),
            ("general.type", text("model")),
            ("general.name", text("Tiny Test")),
            ("general.file_type", Val::U32(15)),
            ("llama.context_length", Val::U32(512)),
            ("llama.embedding_length", Val::U32(64)),
            ("llama.block_count", Val::U32(2)),
            ("llama.feed_forward_length", Val::U32(128)),
            ("llama.attention.head_count", Val::U32(4)),
            ("llama.attention.head_count_kv", Val::U32(2)),
            ("llama.attention.layer_norm_rms_epsilon", Val::F32(1e-5)),
            ("llama.rope.freq_base", Val::F32(10_000.0)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            (
                "tokenizer.ggml.tokens",
                texts(&[
                    "<|endoftext|>",
                    "<|im_start|>",
                    "<|im_end|>",
                    "a",
                    "b",
                    "c",
                    "ab",
                    "bc",
                ]),
            ),
            (
                "tokenizer.ggml.token_type",
                numbers(5, &[3, 3, 3, 1, 1, 1, 1, 1]),
            ),
            ("tokenizer.ggml.merges", texts(&["a b", "b c"])),
            ("tokenizer.ggml.bos_token_id", Val::U32(1)),
            ("tokenizer.ggml.eos_token_id", Val::U32(2)),
            ("tokenizer.ggml.add_bos_token", Val::Bool(0)),
        ];
        let tensor = |name: &str, dims: &[u64], kind, offset| Tensor {
            name: name.into(),
            dims: dims.into(),
            kind,
            offset,
        };
        Sample {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: keys
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            // 64 x 8 of Q8_0 (34 bytes for 32): 544 bytes; then 64 of F32.
            tensors: vec![
                tensor("token_embd.weight", &[64, 8], 8, 0),
                tensor("output_norm.weight", &[64], 0, 544),
            ],
            data_bytes: 544 + 256,
        }
    }

    pub(crate) fn set(mut self, key: &str, value: Val) -> Sample {
        match self.keys.iter_mut().find(|row| row.0 == key) {
            Some(row) => row.1 = value,
            None => self.keys.push((key.into(), value)),
        }
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Sample {
        self.keys.retain(|row| row.0 != key);
        self
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut Sample)) -> Sample {
        change(&mut self);
        self
    }

    /// Adds a tensor of `elements` F32 whose content depends on `seed`.
    pub(crate) fn padded(self, elements: u64) -> Sample {
        self.change(|sample| {
            let offset = (sample.data_bytes as u64).next_multiple_of(32);
            sample.tensors.push(Tensor {
                name: "padding.weight".into(),
                dims: vec![elements],
                kind: 0,
                offset,
            });
            sample.data_bytes = (offset + elements * 4) as usize;
        })
    }

    /// Everything before the tensor data, unaligned.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(
            self.tensor_count
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        out.extend(
            self.key_count
                .unwrap_or(self.keys.len() as u64)
                .to_le_bytes(),
        );
        for (key, value) in &self.keys {
            put_text(&mut out, key.as_bytes());
            put_value(&mut out, value);
        }
        for tensor in &self.tensors {
            put_text(&mut out, tensor.name.as_bytes());
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(32), 0);
        // Data that is not all alike, so that a shifted or repeated range changes the hash.
        out.extend(
            (0..self.data_bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]),
        );
        out
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn put_value(out: &mut Vec<u8>, value: &Val) {
    let mut kind = |number: u32| out.extend(number.to_le_bytes());
    match value {
        Val::U16(v) => {
            kind(2);
            out.extend(v.to_le_bytes());
        }
        Val::U32(v) => {
            kind(4);
            out.extend(v.to_le_bytes());
        }
        Val::I32(v) => {
            kind(5);
            out.extend(v.to_le_bytes());
        }
        Val::F32(v) => {
            kind(6);
            out.extend(v.to_le_bytes());
        }
        Val::Bool(v) => {
            kind(7);
            out.push(*v);
        }
        Val::Text(v) => {
            kind(8);
            put_text(out, v.as_bytes());
        }
        Val::List(of, count, raw) => {
            kind(9);
            kind_and_count(out, *of, *count);
            out.extend(raw);
        }
    }
}

fn kind_and_count(out: &mut Vec<u8>, of: u32, count: u64) {
    out.extend(of.to_le_bytes());
    out.extend(count.to_le_bytes());
}
