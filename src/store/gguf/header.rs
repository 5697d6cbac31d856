//! The structure of a GGUF header: keys, values and tensor table, with nothing said yet about meaning.

use std::collections::BTreeMap;
use std::io::{BufRead, Seek};

use super::GgufError;
use super::limits::{
    MAX_ARRAY, MAX_KEPT_BYTES, MAX_KEY_BYTES, MAX_KEYS, MAX_LAYERS, MAX_STRING_BYTES,
};
use super::reader::Bounded;
use super::tensor::{self, Tensors};

/// Texts longer than this are measured and skipped: we use none of them (chat templates, licences).
const MAX_KEPT_TEXT_BYTES: u64 = 256;
/// The smallest key-value pair: length, one byte of key, type, one byte of value.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// The list whose entries tell the chat family.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// GGUF's value types, with their numbers in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    List = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    fn read<R: BufRead + Seek>(input: &mut Bounded<R>) -> Result<Kind, GgufError> {
        use Kind::{Bool, F32, F64, I8, I16, I32, I64, List, Text, U8, U16, U32, U64};
        const ALL: [Kind; 13] = [
            U8, I8, U16, I16, U32, I32, F32, Bool, Text, List, U64, I64, F64,
        ];
        let at = input.at();
        let number = input.u32("a value type")?;
        ALL.get(number as usize)
            .copied()
            .ok_or_else(|| GgufError::Malformed {
                what: "a value type",
                at,
                why: format!("is {number}, which does not exist"),
            })
    }

    /// Bytes of one value in the file; for a text the least it can take.
    fn min_bytes(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::Text => 8,
            Kind::List => 12,
        }
    }
}

/// A value, as much of it as anybody here needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    /// `None` when it was longer than [`MAX_KEPT_TEXT_BYTES`] or not UTF-8.
    Text(Option<String>),
    /// `small` holds the elements of short integer lists (per-layer tables) and is empty otherwise.
    List {
        of: Kind,
        count: u64,
        small: Vec<u64>,
    },
}

/// A value with the type that it was stored as.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) value: Value,
}

/// Control tokens seen in the vocabulary that tell one chat format from another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Markers {
    pub(super) im_start: bool,
    pub(super) header_id: bool,
    pub(super) turn: bool,
    pub(super) inst: bool,
}

impl Markers {
    fn note(&mut self, token: &[u8]) {
        match token {
            b"<|im_start|>" => self.im_start = true,
            b"<|start_header_id|>" => self.header_id = true,
            b"<start_of_turn>" => self.turn = true,
            b"[INST]" => self.inst = true,
            _ => {}
        }
    }

    /// No marker is longer, so longer tokens are skipped unread.
    const LONGEST_BYTES: u64 = 19;
}

pub(super) struct Header {
    pub(super) keys: BTreeMap<String, Entry>,
    pub(super) markers: Markers,
    pub(super) tensors: Tensors,
}

impl Header {
    pub(super) fn read<R: BufRead + Seek>(input: R, len: u64) -> Result<Header, GgufError> {
        let mut input = Bounded::new(input, len);
        let magic = input.bytes::<4>("the magic")?;
        if &magic != b"GGUF" {
            return Err(GgufError::NotGguf { found: magic });
        }
        let version = input.u32("the version")?;
        if version.trailing_zeros() >= 16 && version != 0 {
            let why =
                "this GGUF file is big-endian, which is not supported; use the little-endian file";
            return Err(GgufError::Unsupported(why.into()));
        }
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = input.count(
            "the tensor count",
            super::limits::MAX_TENSORS,
            tensor::MIN_INFO_BYTES,
        )?;
        let key_count = input.count("the key count", MAX_KEYS, MIN_PAIR_BYTES)?;

        let mut pairs = Pairs::default();
        for _ in 0..key_count {
            pairs.read_one(&mut input)?;
        }
        let alignment = alignment(&pairs.keys)?;
        let tensors = Tensors::read(&mut input, tensor_count, alignment)?;
        Ok(Header {
            keys: pairs.keys,
            markers: pairs.markers,
            tensors,
        })
    }
}

/// The key-value section while it is being read.
#[derive(Default)]
struct Pairs {
    keys: BTreeMap<String, Entry>,
    markers: Markers,
    /// What `keys` holds, against MAX_KEPT_BYTES.
    kept_bytes: u64,
}

impl Pairs {
    fn read_one<R: BufRead + Seek>(&mut self, input: &mut Bounded<R>) -> Result<(), GgufError> {
        let at = input.at();
        let key = input.name("a key", MAX_KEY_BYTES)?;
        self.keep(at, key.len() as u64 + size_of::<Entry>() as u64)?;
        let kind = Kind::read(input)?;
        let value = match kind {
            Kind::List => self.read_list(input, &key)?,
            Kind::Text => self.read_text(input)?,
            scalar => read_scalar(input, scalar)?,
        };
        if self.keys.insert(key, Entry { kind, value }).is_some() {
            return Err(GgufError::Malformed {
                what: "a key",
                at,
                why: "appears twice".into(),
            });
        }
        Ok(())
    }

    fn keep(&mut self, at: u64, bytes: u64) -> Result<(), GgufError> {
        self.kept_bytes = self.kept_bytes.saturating_add(bytes);
        if self.kept_bytes > MAX_KEPT_BYTES {
            let (value, limit) = (self.kept_bytes, MAX_KEPT_BYTES);
            return Err(GgufError::OverLimit {
                what: "the size of all keys",
                at,
                value,
                limit,
            });
        }
        Ok(())
    }

    fn read_text<R: BufRead + Seek>(&mut self, input: &mut Bounded<R>) -> Result<Value, GgufError> {
        let at = input.at();
        let bytes = input.count("a text value", MAX_STRING_BYTES, 1)?;
        if bytes > MAX_KEPT_TEXT_BYTES {
            input.skip("a text value", bytes)?;
            return Ok(Value::Text(None));
        }
        self.keep(at, bytes)?;
        Ok(Value::Text(
            String::from_utf8(input.vec("a text value", bytes)?).ok(),
        ))
    }

    fn read_list<R: BufRead + Seek>(
        &mut self,
        input: &mut Bounded<R>,
        key: &str,
    ) -> Result<Value, GgufError> {
        let at = input.at();
        let of = Kind::read(input)?;
        if of == Kind::List {
            let why = "is a list of lists, which no model needs".into();
            return Err(GgufError::Malformed {
                what: "a list",
                at,
                why,
            });
        }
        let count = input.count("a list", MAX_ARRAY, of.min_bytes())?;
        let mut small = Vec::new();
        match of {
            Kind::Text => self.walk_texts(input, count, key == TOKENS)?,
            Kind::U32 | Kind::I32 if count <= MAX_LAYERS => {
                self.keep(at, count * size_of::<u64>() as u64)?;
                for _ in 0..count {
                    // A negative count turns into a huge one, which every later range check refuses.
                    small.push(u64::from(input.u32("a list element")?));
                }
            }
            scalar => input.skip("a list", count * scalar.min_bytes())?,
        }
        Ok(Value::List { of, count, small })
    }

    /// Checks each text's bounds; reads only those that can be a marker.
    fn walk_texts<R: BufRead + Seek>(
        &mut self,
        input: &mut Bounded<R>,
        count: u64,
        tokens: bool,
    ) -> Result<(), GgufError> {
        for _ in 0..count {
            let bytes = input.count("a list element", MAX_STRING_BYTES, 1)?;
            if tokens && bytes <= Markers::LONGEST_BYTES {
                self.markers.note(&input.vec("a token", bytes)?);
            } else {
                input.skip("a list element", bytes)?;
            }
        }
        Ok(())
    }
}

fn read_scalar<R: BufRead + Seek>(input: &mut Bounded<R>, kind: Kind) -> Result<Value, GgufError> {
    let at = input.at();
    let what = "a value";
    Ok(match kind {
        Kind::U8 => Value::Unsigned(u64::from(input.bytes::<1>(what)?[0])),
        Kind::I8 => Value::Signed(i64::from(i8::from_le_bytes(input.bytes(what)?))),
        Kind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(input.bytes(what)?))),
        Kind::I16 => Value::Signed(i64::from(i16::from_le_bytes(input.bytes(what)?))),
        Kind::U32 => Value::Unsigned(u64::from(input.u32(what)?)),
        Kind::I32 => Value::Signed(i64::from(i32::from_le_bytes(input.bytes(what)?))),
        Kind::U64 => Value::Unsigned(input.u64(what)?),
        Kind::I64 => Value::Signed(i64::from_le_bytes(input.bytes(what)?)),
        Kind::F32 => Value::Float(f64::from(f32::from_le_bytes(input.bytes(what)?))),
        Kind::F64 => Value::Float(f64::from_le_bytes(input.bytes(what)?)),
        Kind::Bool => match input.bytes::<1>("a true/false value")?[0] {
            byte @ 0..=1 => Value::Bool(byte == 1),
            byte => {
                let why = format!("is {byte}, neither 0 nor 1");
                return Err(GgufError::Malformed {
                    what: "a true/false value",
                    at,
                    why,
                });
            }
        },
        Kind::Text | Kind::List => {
            // Callers send these two elsewhere; an error keeps this total without a panic.
            return Err(GgufError::Malformed {
                what,
                at,
                why: "is not a scalar".into(),
            });
        }
    })
}

/// `general.alignment`: a power of two in 8..=4096, 32 when absent.
fn alignment(keys: &BTreeMap<String, Entry>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let Some(entry) = keys.get(KEY) else {
        return Ok(32);
    };
    match entry.value {
        Value::Unsigned(value) if entry.kind == Kind::U32 => {
            if (8..=4096).contains(&value) && value.is_power_of_two() {
                Ok(value)
            } else {
                Err(GgufError::OutOfRange {
                    key: KEY.into(),
                    value,
                    min: 8,
                    max: 4096,
                })
            }
        }
        _ => Err(GgufError::WrongType {
            key: KEY.into(),
            found: format!("{:?}", entry.kind),
            want: "u32",
        }),
    }
}
