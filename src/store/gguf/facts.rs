//! What a header says about the model: checked types, sane ranges, the numbers that the rest of the node plans with.

use super::GgufError;
use super::header::{Header, Kind, Value};
use super::limits::{MAX_CONTEXT, MAX_HEAD_WIDTH, MAX_HEADS, MAX_LAYERS, MAX_WIDTH};
use quorate_core::chat::Family;

use crate::store::catalogue;

/// A model as its own header describes it. Everything here has been range-checked.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GgufFacts {
    /// llama.cpp's architecture name, e.g. `llama`.
    pub architecture: String,
    /// The model's own name for itself, where it has a short one.
    pub name: Option<String>,
    /// Chat format, guessed from architecture and control tokens; `None` when nothing tells.
    #[serde(serialize_with = "catalogue::serialize_family")]
    pub family: Option<Family>,
    /// Quantisation as the converter declared it, e.g. `Q4_K_M`.
    pub quant: Option<&'static str>,
    /// Tokens the model was trained to attend over.
    pub context_length: u64,
    pub block_count: u64,
    pub embedding_length: u64,
    /// Query heads of each layer.
    pub head_count: Vec<u64>,
    /// Key/value heads of each layer.
    pub head_count_kv: Vec<u64>,
    /// Width of one head's key, and of one head's value.
    pub key_length: u64,
    pub value_length: u64,
    pub vocab_size: u64,
    /// Tokeniser algorithm (`gpt2` is BPE, `llama` is SentencePiece) and pre-tokeniser.
    pub tokenizer: String,
    pub tokenizer_pre: Option<String>,
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    /// Weights, counted as elements and as bytes in the file.
    pub parameters: u64,
    pub tensor_bytes: u64,
}

impl GgufFacts {
    /// Bytes that one token takes in an f16 KV cache when every layer keeps every token. Layers with a
    /// sliding window keep fewer, so this is an upper bound: the side to err on in a memory plan.
    pub fn kv_bytes_per_token(&self) -> u64 {
        const F16_BYTES: u64 = 2;
        // At most 512 layers x 4096 heads x 2 x 16 Ki x 2 bytes = 2^37: cannot overflow.
        let heads: u64 = self.head_count_kv.iter().sum();
        heads * (self.key_length + self.value_length) * F16_BYTES
    }

    pub(super) fn from_header(header: &Header) -> Result<GgufFacts, GgufError> {
        let architecture = architecture(header)?;
        check_types(header, &architecture)?;

        let own = |suffix: &str| format!("{architecture}.{suffix}");
        let context_length = header.required(&own("context_length"), 1, MAX_CONTEXT)?;
        let embedding_length = header.required(&own("embedding_length"), 1, MAX_WIDTH)?;
        let block_count = header.required(&own("block_count"), 1, MAX_LAYERS)?;
        let head_count = header.per_layer(&own("attention.head_count"), block_count)?;
        let head_count = head_count.ok_or_else(|| GgufError::Missing {
            key: own("attention.head_count"),
        })?;
        // Without grouped attention there is a key/value head for each query head.
        let head_count_kv = header
            .per_layer(&own("attention.head_count_kv"), block_count)?
            .unwrap_or_else(|| head_count.clone());

        let most_heads = head_count.iter().copied().max().unwrap_or(0).max(1);
        let default_width = (embedding_length / most_heads).max(1);
        let key_length = header
            .optional(&own("attention.key_length"), 1, MAX_HEAD_WIDTH)?
            .unwrap_or(default_width);
        let value_length = header
            .optional(&own("attention.value_length"), 1, MAX_HEAD_WIDTH)?
            .unwrap_or(default_width);

        let vocab_size = vocabulary(header)?;
        let tokenizer = tokenizer(header)?;
        // `vocabulary` bounds its answer by u32.
        let id = |key: &str| -> Result<Option<u32>, GgufError> {
            Ok(header.optional(key, 0, vocab_size - 1)?.map(|id| id as u32))
        };
        let name = header.text("general.name");
        Ok(GgufFacts {
            family: guess_family(header, &architecture, name.as_deref()),
            quant: header
                .optional("general.file_type", 0, u64::from(u32::MAX))?
                .and_then(quant_label),
            name,
            context_length,
            block_count,
            embedding_length,
            head_count,
            head_count_kv,
            key_length,
            value_length,
            vocab_size,
            tokenizer,
            tokenizer_pre: header.text("tokenizer.ggml.pre"),
            bos_id: id("tokenizer.ggml.bos_token_id")?,
            eos_id: id("tokenizer.ggml.eos_token_id")?,
            parameters: header.tensors.elements,
            tensor_bytes: header.tensors.bytes,
            architecture,
        })
    }
}

/// Lookups that check range as they go; types were checked before by [`check_types`].
impl Header {
    pub(super) fn text(&self, key: &str) -> Option<String> {
        match &self.keys.get(key)?.value {
            Value::Text(text) => text
                .clone()
                .filter(|text| !text.chars().any(char::is_control)),
            _ => None,
        }
    }

    fn optional(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, GgufError> {
        let Some(entry) = self.keys.get(key) else {
            return Ok(None);
        };
        let Value::Unsigned(value) = entry.value else {
            return Err(wrong_type(key, entry.kind, "u32"));
        };
        in_range(key, value, min, max).map(Some)
    }

    fn required(&self, key: &str, min: u64, max: u64) -> Result<u64, GgufError> {
        self.optional(key, min, max)?
            .ok_or_else(|| GgufError::Missing { key: key.into() })
    }

    /// A head count: one number for all layers, or a list with one for each (zero where a layer has no attention).
    fn per_layer(&self, key: &str, layers: u64) -> Result<Option<Vec<u64>>, GgufError> {
        let Some(entry) = self.keys.get(key) else {
            return Ok(None);
        };
        match &entry.value {
            Value::Unsigned(value) => {
                in_range(key, *value, 1, MAX_HEADS)?;
                Ok(Some(vec![*value; layers as usize]))
            }
            Value::List { count, small, .. } => {
                // llama.cpp copies exactly one element per layer.
                if *count != layers || small.len() as u64 != layers {
                    let key = format!("{key} (length of the list)");
                    return Err(GgufError::OutOfRange {
                        key,
                        value: *count,
                        min: layers,
                        max: layers,
                    });
                }
                for &value in small {
                    in_range(key, value, 0, MAX_HEADS)?;
                }
                Ok(Some(small.clone()))
            }
            _ => Err(wrong_type(key, entry.kind, "u32 or list of u32")),
        }
    }

    fn list_len(&self, key: &str) -> Option<u64> {
        match self.keys.get(key)?.value {
            Value::List { count, .. } => Some(count),
            _ => None,
        }
    }
}

fn in_range(key: &str, value: u64, min: u64, max: u64) -> Result<u64, GgufError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(GgufError::OutOfRange {
            key: key.into(),
            value,
            min,
            max,
        })
    }
}

fn wrong_type(key: &str, found: Kind, want: &'static str) -> GgufError {
    GgufError::WrongType {
        key: key.into(),
        found: format!("{found:?}"),
        want,
    }
}

/// The architecture's name, of a file that holds one whole model.
fn architecture(header: &Header) -> Result<String, GgufError> {
    if let Some(kind) = header.text("general.type").filter(|kind| kind != "model") {
        let why =
            format!("this GGUF file holds a `{kind}`, not a language model; pull the model itself");
        return Err(GgufError::Unsupported(why));
    }
    if let Some(Value::Unsigned(parts @ 2..)) =
        header.keys.get("split.count").map(|entry| &entry.value)
    {
        let why = format!(
            "this is one of {parts} parts of a split model; merge them with `llama-gguf-split --merge` first"
        );
        return Err(GgufError::Unsupported(why));
    }
    architecture_name(header)
}

/// It prefixes other keys, so it may hold nothing but `[a-z0-9._-]`.
pub(super) fn architecture_name(header: &Header) -> Result<String, GgufError> {
    const KEY: &str = "general.architecture";
    let entry = header
        .keys
        .get(KEY)
        .ok_or_else(|| GgufError::Missing { key: KEY.into() })?;
    let name = header
        .text(KEY)
        .ok_or_else(|| wrong_type(KEY, entry.kind, "short text"))?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(GgufError::Unsupported(format!(
            "architecture {name:?} is not a name that llama.cpp uses"
        )));
    }
    Ok(name)
}

/// A key's required type.
#[derive(Clone, Copy)]
enum Want {
    One(Kind),
    ListOf(Kind),
    /// One u32 for all layers or a list of u32/i32 with one each.
    PerLayer,
}

impl Want {
    fn describe(self) -> &'static str {
        match self {
            Want::One(Kind::Text) => "text",
            Want::One(Kind::Bool) => "true/false",
            Want::One(Kind::F32) => "f32",
            Want::One(Kind::U16) => "u16",
            Want::One(_) => "u32",
            Want::ListOf(Kind::Text) => "list of text",
            Want::ListOf(Kind::F32) => "list of f32",
            Want::ListOf(_) => "list of i32",
            Want::PerLayer => "u32, or list of u32 or i32",
        }
    }

    fn accepts(self, kind: Kind, value: &Value) -> bool {
        match (self, value) {
            (Want::One(want), _) => kind == want,
            (Want::ListOf(want), Value::List { of, .. }) => *of == want,
            (Want::PerLayer, Value::List { of, .. }) => matches!(of, Kind::U32 | Kind::I32),
            (Want::PerLayer, _) => kind == Kind::U32,
            (Want::ListOf(_), _) => false,
        }
    }
}

/// Keys with a fixed name that llama.cpp reads, mostly by casting memory to the type it expects.
const KEY_TYPES: &[(&str, Want)] = &[
    ("general.architecture", Want::One(Kind::Text)),
    ("general.file_type", Want::One(Kind::U32)),
    ("general.name", Want::One(Kind::Text)),
    ("general.quantization_version", Want::One(Kind::U32)),
    ("general.type", Want::One(Kind::Text)),
    ("split.count", Want::One(Kind::U16)),
    ("tokenizer.chat_template", Want::One(Kind::Text)),
    ("tokenizer.ggml.merges", Want::ListOf(Kind::Text)),
    ("tokenizer.ggml.model", Want::One(Kind::Text)),
    ("tokenizer.ggml.pre", Want::One(Kind::Text)),
    ("tokenizer.ggml.scores", Want::ListOf(Kind::F32)),
    ("tokenizer.ggml.token_type", Want::ListOf(Kind::I32)),
    ("tokenizer.ggml.tokens", Want::ListOf(Kind::Text)),
];

/// The same for keys that start with the architecture's name.
const OWN_KEY_TYPES: &[(&str, Want)] = &[
    ("attention.head_count", Want::PerLayer),
    ("attention.head_count_kv", Want::PerLayer),
    ("attention.key_length", Want::One(Kind::U32)),
    ("attention.layer_norm_epsilon", Want::One(Kind::F32)),
    ("attention.layer_norm_rms_epsilon", Want::One(Kind::F32)),
    ("attention.sliding_window", Want::One(Kind::U32)),
    ("attention.value_length", Want::One(Kind::U32)),
    ("block_count", Want::One(Kind::U32)),
    ("context_length", Want::One(Kind::U32)),
    ("embedding_length", Want::One(Kind::U32)),
    ("expert_count", Want::One(Kind::U32)),
    ("expert_used_count", Want::One(Kind::U32)),
    ("feed_forward_length", Want::PerLayer),
    ("rope.dimension_count", Want::One(Kind::U32)),
    ("rope.freq_base", Want::One(Kind::F32)),
    ("rope.scaling.factor", Want::One(Kind::F32)),
    ("rope.scaling.original_context_length", Want::One(Kind::U32)),
    ("rope.scaling.type", Want::One(Kind::Text)),
    ("vocab_size", Want::One(Kind::U32)),
];

fn wanted(key: &str, architecture: &str) -> Option<Want> {
    let table =
        |table: &[(&str, Want)], key: &str| table.iter().find(|row| row.0 == key).map(|row| row.1);
    if let Some(rest) = key.strip_prefix("tokenizer.ggml.") {
        if rest.ends_with("_token_id") {
            return Some(Want::One(Kind::U32));
        }
        if rest.starts_with("add_") {
            return Some(Want::One(Kind::Bool));
        }
    }
    let own = key
        .strip_prefix(architecture)
        .and_then(|rest| rest.strip_prefix('.'));
    table(KEY_TYPES, key).or_else(|| table(OWN_KEY_TYPES, own?))
}

fn check_types(header: &Header, architecture: &str) -> Result<(), GgufError> {
    for (key, entry) in &header.keys {
        let Some(want) = wanted(key, architecture) else {
            continue;
        };
        if !want.accepts(entry.kind, &entry.value) {
            let found = match &entry.value {
                Value::List { of, .. } => format!("list of {of:?}"),
                _ => format!("{:?}", entry.kind),
            };
            return Err(GgufError::WrongType {
                key: key.clone(),
                found,
                want: want.describe(),
            });
        }
        if let Value::Float(number) = entry.value
            && !number.is_finite()
        {
            return Err(GgufError::WrongType {
                key: key.clone(),
                found: number.to_string(),
                want: "finite f32",
            });
        }
    }
    Ok(())
}

/// Size of the vocabulary, after checking everything that must agree with it.
fn vocabulary(header: &Header) -> Result<u64, GgufError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let count = header
        .list_len(TOKENS)
        .ok_or_else(|| GgufError::Missing { key: TOKENS.into() })?;
    in_range(TOKENS, count, 1, u64::from(u32::MAX >> 1))?;
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        if let Some(len) = header.list_len(key) {
            in_range(&format!("{key} (length of the list)"), len, count, count)?;
        }
    }
    for (key, entry) in &header.keys {
        if let Value::Unsigned(id) = entry.value
            && key.starts_with("tokenizer.ggml.")
            && key.ends_with("_token_id")
        {
            in_range(key, id, 0, count - 1)?;
        }
    }
    // The engine looks rows up by token id, so a table with fewer rows would be read past its end.
    if let Some(embedding) = header.tensors.table.get("token_embd.weight") {
        in_range(
            "token_embd.weight (rows)",
            embedding.rows(),
            count,
            u64::MAX,
        )?;
    }
    Ok(count)
}

/// Only the two tokenisers that the supported chat families use; the others are code paths that
/// nobody here exercises and that have had faults of their own.
fn tokenizer(header: &Header) -> Result<String, GgufError> {
    const KEY: &str = "tokenizer.ggml.model";
    let model = header
        .text(KEY)
        .ok_or_else(|| GgufError::Missing { key: KEY.into() })?;
    let needs = match model.as_str() {
        "gpt2" => "tokenizer.ggml.merges",
        "llama" => "tokenizer.ggml.scores",
        other => {
            let why = format!(
                "tokeniser `{other}` is not supported (gpt2 and llama are); choose another model"
            );
            return Err(GgufError::Unsupported(why));
        }
    };
    if header.keys.contains_key(needs) {
        Ok(model)
    } else {
        Err(GgufError::Missing { key: needs.into() })
    }
}

fn guess_family(header: &Header, architecture: &str, name: Option<&str>) -> Option<Family> {
    let name = name.unwrap_or_default().to_ascii_lowercase();
    let markers = header.markers;
    if architecture.starts_with("qwen") {
        Some(Family::Qwen)
    } else if architecture.starts_with("gemma") || markers.turn {
        Some(Family::Gemma)
    } else if markers.header_id {
        Some(Family::Llama3)
    } else if markers.im_start {
        Some(Family::ChatMl)
    } else if markers.inst || name.contains("mistral") {
        Some(Family::Mistral)
    } else {
        None
    }
}

/// llama.cpp's `llama_ftype`, by number.
fn quant_label(file_type: u64) -> Option<&'static str> {
    const LABELS: &[(u64, &str)] = &[
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (7, "Q8_0"),
        (8, "Q5_0"),
        (9, "Q5_1"),
        (10, "Q2_K"),
        (11, "Q3_K_S"),
        (12, "Q3_K_M"),
        (13, "Q3_K_L"),
        (14, "Q4_K_S"),
        (15, "Q4_K_M"),
        (16, "Q5_K_S"),
        (17, "Q5_K_M"),
        (18, "Q6_K"),
        (19, "IQ2_XXS"),
        (20, "IQ2_XS"),
        (21, "Q2_K_S"),
        (22, "IQ3_XS"),
        (23, "IQ3_XXS"),
        (24, "IQ1_S"),
        (25, "IQ4_NL"),
        (26, "IQ3_S"),
        (27, "IQ3_M"),
        (28, "IQ2_S"),
        (29, "IQ2_M"),
        (30, "IQ4_XS"),
        (31, "IQ1_M"),
        (32, "BF16"),
        (36, "TQ1_0"),
        (37, "TQ2_0"),
        (38, "MXFP4"),
        (39, "NVFP4"),
        (40, "Q1_0"),
        (41, "Q2_0"),
    ];
    LABELS
        .iter()
        .find(|row| row.0 == file_type)
        .map(|row| row.1)
}
