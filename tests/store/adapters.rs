//! Adapters: converted exactly, bound to their base, and refused in every way that one can be wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::peft::{Folder, Module, Tensor, f32_bytes, file, numbers};
use crate::sample::{Sample, Val};
use quorate::store::adapter::{AdapterError, AdapterManifest};
use quorate::store::name::ModelName;
use quorate::store::{Resolved, Store};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The sample model's: width 64, four heads of 16, two of them keys, 128 in the middle.
const MODULES: [Module; 7] = [
    ("self_attn.q_proj", 64, 64),
    ("self_attn.k_proj", 64, 32),
    ("self_attn.v_proj", 64, 32),
    ("self_attn.o_proj", 64, 64),
    ("mlp.gate_proj", 64, 128),
    ("mlp.up_proj", 64, 128),
    ("mlp.down_proj", 128, 64),
];
const SHORT: [&str; 7] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];
const F16: u32 = 1;

struct Place {
    root: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(&root.path().join("home"));
        Place { root, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn base(&self, name: &str, sample: &Sample) -> Resolved {
        let path = self.path(name);
        fs::write(&path, sample.build()).unwrap();
        self.store.resolve(&ModelName::Path(path)).unwrap()
    }

    fn add(&self, name: &str, folder: &Folder) -> Result<AdapterManifest, AdapterError> {
        let source = self.path(&format!("{name}-folder"));
        folder.write(&source);
        let base = self.base("base.gguf", &model());
        self.store.adapters().add(name, &source, &base)
    }

    /// The message of a refusal, after which nothing is there.
    #[track_caller]
    fn refused(&self, folder: &Folder, says: &str) {
        match self.add("bad", folder) {
            Ok(_) => panic!("accepted, expected a refusal that says {says:?}"),
            Err(error) => assert!(error.to_string().contains(says), "{error}"),
        }
        assert!(self.store.adapters().list().unwrap().adapters.is_empty());
        let left = fs::read_dir(self.path("home/adapters")).unwrap().count();
        assert_eq!(left, 0, "something is left behind");
    }
}

/// The sample with the matrices of its two layers.
pub(crate) fn model() -> Sample {
    Sample::valid().change(|sample| {
        for layer in 0..2 {
            for (short, (_, input, output)) in SHORT.iter().zip(MODULES) {
                let offset = (sample.data_bytes as u64).next_multiple_of(32);
                sample.tensors.push(crate::sample::Tensor {
                    name: format!("blk.{layer}.{short}.weight"),
                    dims: vec![input, output],
                    kind: F16,
                    offset,
                });
                sample.data_bytes = (offset + input * output * 2) as usize;
            }
        }
    })
}

fn names() -> Vec<&'static str> {
    MODULES.iter().map(|module| module.0).collect()
}

fn whole() -> Folder {
    folder(1.0 / 64.0)
}

/// One with all seven projections.
pub(crate) fn folder(unit_b: f32) -> Folder {
    Folder::new(2, &MODULES, &names(), 4, unit_b)
}

fn only(module: &str) -> Folder {
    Folder::new(2, &MODULES, &[module], 4, 1.0 / 64.0)
}

// --- what comes out -------------------------------------------------------------------------------

type Keys = BTreeMap<String, Vec<u8>>;
type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

/// A reader of GGUF for tests: keys as raw bytes, tensors as f32.
fn read(path: &Path) -> (Keys, Tensors) {
    let bytes = fs::read(path).unwrap();
    let mut at = 8;
    let u64_at = |at: &mut usize| {
        *at += 8;
        u64::from_le_bytes(bytes[*at - 8..*at].try_into().unwrap())
    };
    let u32_at = |at: &mut usize| {
        *at += 4;
        u32::from_le_bytes(bytes[*at - 4..*at].try_into().unwrap())
    };
    let text = |at: &mut usize| {
        let len = u64_at(at) as usize;
        *at += len;
        bytes[*at - len..*at].to_vec()
    };
    let (tensor_count, key_count) = (u64_at(&mut at), u64_at(&mut at));
    let mut keys = BTreeMap::new();
    for _ in 0..key_count {
        let key = String::from_utf8(text(&mut at)).unwrap();
        let value = match u32_at(&mut at) {
            8 => text(&mut at),
            6 => u32_at(&mut at).to_le_bytes().to_vec(),
            kind => panic!("{key} has type {kind}"),
        };
        keys.insert(key, value);
    }
    let mut table = Vec::new();
    for _ in 0..tensor_count {
        let name = String::from_utf8(text(&mut at)).unwrap();
        assert_eq!(u32_at(&mut at), 2, "{name} is a matrix");
        let dims = vec![u64_at(&mut at), u64_at(&mut at)];
        assert_eq!(u32_at(&mut at), F16, "{name}");
        table.push((name, dims, u64_at(&mut at) as usize));
    }
    let data = at.next_multiple_of(32);
    let value = |at: usize| {
        // These numbers are multiples of 2^-10 below 64: normal in f16, or zero.
        let half = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let (exponent, fraction) = (half >> 10 & 0x1f, half & 0x3ff);
        assert!(exponent > 0 || fraction == 0);
        let size = if exponent == 0 {
            0
        } else {
            (exponent + 112) << 23 | fraction << 13
        };
        f32::from_bits((half & 0x8000) << 16 | size)
    };
    let tensors = table.into_iter().map(|(name, dims, offset)| {
        let count = (dims[0] * dims[1]) as usize;
        let values = (0..count).map(|i| value(data + offset + 2 * i)).collect();
        (name, (dims, values))
    });
    (keys, tensors.collect())
}

#[test]
fn every_number_arrives_and_rows_of_queries_and_keys_stand_in_pairs() {
    let place = Place::new();
    let added = place.add("whole", &whole()).unwrap();
    assert_eq!((added.rank, added.alpha, added.matrices), (4, 16.0, 14));
    let (keys, tensors) = read(&place.path("home/adapters/whole/adapter.gguf"));
    assert_eq!(keys["general.type"], b"adapter");
    assert_eq!(keys["general.architecture"], b"llama");
    assert_eq!(keys["adapter.type"], b"lora");
    assert_eq!(keys["adapter.lora.alpha"], 16f32.to_le_bytes());
    assert_eq!(tensors.len(), 28);
    for layer in 0..2u64 {
        for (nth, (short, (_, input, output))) in (0u64..).zip(SHORT.iter().zip(MODULES)) {
            let seed = 1 + (layer * 7 + nth) * 2;
            let (dims, a) = &tensors[&format!("blk.{layer}.{short}.weight.lora_a")];
            assert_eq!(dims, &[input, 4]);
            assert_eq!(a, &numbers(seed, 4 * input, 1.0 / 1024.0));
            let (dims, b) = &tensors[&format!("blk.{layer}.{short}.weight.lora_b")];
            assert_eq!(dims, &[4, output]);
            let trained = numbers(seed + 1, output * 4, 1.0 / 64.0);
            for row in 0..output as usize {
                // Heads are 16 wide: row 3 is the second half's partner of row 2, and so on.
                let from = match *short {
                    "attn_q" | "attn_k" => row / 16 * 16 + row % 16 / 2 + row % 2 * 8,
                    _ => row,
                };
                assert_eq!(b[row * 4..][..4], trained[from * 4..][..4], "{short} {row}");
            }
        }
    }
}

#[test]
fn other_families_keep_their_rows() {
    let place = Place::new();
    let folder = place.path("folder");
    only("self_attn.q_proj").write(&folder);
    let qwen = model().change(|sample| {
        for (key, value) in &mut sample.keys {
            *key = key.replace("llama.", "qwen2.");
            if key == "general.architecture" {
                *value = Val::Text("qwen2".into());
            }
        }
    });
    let base = place.base("qwen.gguf", &qwen);
    place.store.adapters().add("q", &folder, &base).unwrap();
    let (_, tensors) = read(&place.path("home/adapters/q/adapter.gguf"));
    let (_, b) = &tensors["blk.0.attn_q.weight.lora_b"];
    assert_eq!(b, &numbers(2, 64 * 4, 1.0 / 64.0));
    let other = model().set("general.architecture", Val::Text("falcon".into()));
    let other = other.change(|sample| {
        for (key, _) in &mut sample.keys {
            *key = key.replace("llama.", "falcon.");
        }
    });
    let base = place.base("falcon.gguf", &other);
    let error = place.store.adapters().add("f", &folder, &base).unwrap_err();
    assert!(error.to_string().contains("falcon"), "{error}");
}

#[test]
fn f16_and_bf16_say_the_same_numbers() {
    let place = Place::new();
    let halves = |dtype, half: fn(f32) -> u16| {
        only("mlp.up_proj").change(|folder| {
            for tensor in &mut folder.tensors {
                let values = tensor.data.chunks_exact(4);
                let values = values.map(|four| f32::from_le_bytes(four.try_into().unwrap()));
                tensor.data = values.flat_map(|v| half(v).to_le_bytes()).collect();
                tensor.dtype = dtype;
            }
        })
    };
    // Six bits of fraction: exact in both.
    let f16 = |v: f32| {
        let bits = v.to_bits();
        let size = if v == 0.0 {
            0
        } else {
            (bits >> 13 & 0x3_ffff) - (112 << 10)
        };
        (bits >> 16 & 0x8000 | size) as u16
    };
    place.add("a", &only("mlp.up_proj")).unwrap();
    place.add("b", &halves("F16", f16)).unwrap();
    place
        .add("c", &halves("BF16", |v| (v.to_bits() >> 16) as u16))
        .unwrap();
    let bytes = |name| fs::read(place.path(&format!("home/adapters/{name}/adapter.gguf"))).unwrap();
    assert_eq!(bytes("a"), bytes("b"));
    assert_eq!(bytes("a"), bytes("c"));
}

// --- a name, a base, a hash -----------------------------------------------------------------------

#[test]
fn an_adapter_is_listed_verified_and_removed() {
    let place = Place::new();
    let adapters = place.store.adapters();
    let added = place.add("whole", &whole()).unwrap();
    assert_eq!(
        adapters.list().unwrap().adapters,
        std::slice::from_ref(&added)
    );
    let base = place.base("base.gguf", &model());
    let found = adapters.resolve("whole", &base).unwrap();
    assert_eq!(
        (found.sha256.clone(), found.bytes),
        (added.sha256, added.bytes)
    );
    let taken = place.add("whole", &whole()).unwrap_err().to_string();
    assert!(taken.contains("quorate adapter rm whole"), "{taken}");
    // The converted file is an adapter, too: the same bytes, the same hash.
    let copy = place.path("copy.gguf");
    fs::copy(&found.path, &copy).unwrap();
    let again = adapters.add("copy", &copy, &base).unwrap();
    assert_eq!(again.sha256, found.sha256);
    assert_eq!(adapters.rm("whole").unwrap(), added.bytes);
    assert!(matches!(
        adapters.resolve("whole", &base),
        Err(AdapterError::NotInstalled { .. })
    ));
    for name in ["", ".", "..", "../base", "a/b", "A", "a b", &"x".repeat(65)] {
        assert!(adapters.installed(name).is_err(), "{name}");
        let error = adapters.add(name, &copy, &base).unwrap_err();
        assert!(matches!(error, AdapterError::Name), "{name}: {error}");
    }
}

#[test]
fn a_changed_file_and_another_base_are_refused() {
    let place = Place::new();
    let adapters = place.store.adapters();
    place.add("whole", &whole()).unwrap();
    let base = place.base("base.gguf", &model());
    // Another file of the very same shapes.
    let twin = model().set("general.name", Val::Text("Twin".into()));
    let twin = place.base("twin.gguf", &twin);
    let error = adapters.resolve("whole", &twin).unwrap_err().to_string();
    assert!(error.contains("another base"), "{error}");
    let file = place.path("home/adapters/whole/adapter.gguf");
    let error = adapters.add("copy", &file, &twin).unwrap_err().to_string();
    assert!(error.contains("another base"), "{error}");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = adapters.resolve("whole", &base).unwrap_err().to_string();
    assert!(error.contains("SHA-256"), "{error}");
    fs::write(place.path("home/adapters/whole/adapter.json"), "{").unwrap();
    assert_eq!(adapters.list().unwrap().broken.len(), 1);
    adapters.rm("whole").unwrap();
}

#[test]
fn a_base_of_other_shapes_is_refused() {
    let place = Place::new();
    let folder = whole().change(|folder| {
        // Wider than this base.
        for tensor in &mut folder.tensors {
            if tensor.name.contains("0.mlp.up_proj.lora_A") {
                tensor.shape[1] = 96;
                tensor.data.truncate(4 * 96 * 4);
                tensor.data.resize(4 * 96 * 4, 0);
            }
        }
    });
    place.refused(&folder, "takes 96 and gives 128 there, 64 and 128 here");
    let deeper = Folder::new(3, &MODULES, &names(), 4, 1.0);
    place.refused(&deeper, "no matrix `blk.2.attn_q.weight`");
}

// --- what is wrong with a folder --------------------------------------------------------------------

fn first(change: impl FnOnce(&mut Tensor)) -> Folder {
    whole().change(|folder| change(&mut folder.tensors[0]))
}

#[test]
fn every_fault_of_the_weights_is_named() {
    let place = Place::new();
    let nan = |value: f32| first(|tensor| tensor.data[..4].copy_from_slice(&value.to_le_bytes()));
    for (folder, says) in [
        (whole().set("r", json!(8)), "ranks 4 and 4, where 8"),
        (nan(f32::NAN), "NaN"),
        (nan(f32::NEG_INFINITY), "-inf"),
        (nan(70_000.0), "70000"),
        (
            first(|t| t.name = t.name.replace("q_proj", "qkv_proj")),
            "known in each layer",
        ),
        (
            first(|t| t.name = "base_model.model.lm_head.lora_A.weight".into()),
            "lm_head",
        ),
        (
            first(|t| t.name = t.name.replace("layers.0", "layers.00")),
            "layers.00",
        ),
        (
            first(|t| t.name = t.name.replace("lora_A.weight", "lora_magnitude_vector")),
            "DoRA",
        ),
        (
            first(|t| t.name = t.name.replace("lora_A", "lora_E")),
            "no LoRA's",
        ),
        (first(|t| t.dtype = "F64"), "F64"),
        (first(|t| t.shape = vec![4, 8, 8]), "no two matrices"),
        (
            first(|t| t.shape = vec![u64::MAX, 4]),
            "larger than any file",
        ),
        (
            whole().change(|f| {
                f.tensors.remove(0);
            }),
            "only one of the two",
        ),
        (whole().change(|f| f.tensors.clear()), "no tensors"),
        (whole().set("target_modules", json!(["c_attn"])), "c_attn"),
        (whole().set("use_dora", json!(true)), "full rank"),
        (whole().set("peft_type", json!("IA3")), "full rank"),
    ] {
        place.refused(&folder, says);
    }
}

/// Headers that no writer makes, over the data of one pair.
#[test]
fn every_fault_of_a_header_is_named() {
    let place = Place::new();
    let source = place.path("folder");
    let base = place.base("base.gguf", &model());
    let module = "base_model.model.model.layers.0.mlp.up_proj";
    let (a, b) = (
        format!("{module}.lora_A.weight"),
        format!("{module}.lora_B.weight"),
    );
    let data = f32_bytes(&numbers(1, 4 * 64 + 128 * 4, 1.0));
    let entry = |shape: [u64; 2], from: u64, to: u64| {
        json!({"dtype": "F32", "shape": shape, "data_offsets": [from, to]}).to_string()
    };
    let (ea, eb) = (entry([4, 64], 0, 1024), entry([128, 4], 1024, 3072));
    let whole = format!("{{\"{a}\":{ea},\"{b}\":{eb}}}");
    let deep = format!(
        "{{\"__metadata__\":{}1{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let with = |a_entry: String, b_entry: String| {
        file(&format!("{{\"{a}\":{a_entry},\"{b}\":{b_entry}}}"), &data)
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (file(&whole, &data[..3000]), "cut short"),
        (file(&whole, &[&data[..], &[0]].concat()), "cover 3072"),
        (file(&whole, &data)[..20].to_vec(), "cut short"),
        (vec![1, 2, 3], "no header"),
        (Vec::new(), "no header"),
        ([&u64::MAX.to_le_bytes()[..], &data].concat(), "cut short"),
        (
            file(
                &format!("{{\"{a}\":{ea},\"{a}\":{ea},\"{b}\":{eb}}}"),
                &data,
            ),
            "twice",
        ),
        (
            with(entry([4, 64], 0, 1024), entry([128, 4], 0, 2048)),
            "ends at 1024",
        ),
        (
            with(entry([4, 64], 0, 1024), entry([128, 4], 1000, 3048)),
            "ends at 1024",
        ),
        (
            with(entry([4, 64], 0, 1024), entry([128, 4], 1028, 3076)),
            "ends at 1024",
        ),
        (with(entry([4, 64], 0, 1000), eb.clone()), "needs 1024"),
        (with(entry([4, 64], 1024, 0), eb.clone()), "ends at 0"),
        (
            with(ea.replace("[4,64]", "[4,-64]"), eb.clone()),
            "bad header",
        ),
        (with(ea.replace("\"F32\"", "32"), eb.clone()), "bad header"),
        (
            with(ea.replace("\"shape\"", "\"dtype\""), eb.clone()),
            "bad header",
        ),
        (
            with(ea.replace('{', "{\"more\":1,"), eb.clone()),
            "bad header",
        ),
        (file("[]", &[]), "bad header"),
        (file("null", &[]), "bad header"),
        (file(&deep, &[]), "no tensors"),
        (file("{}", &[]), "no tensors"),
    ];
    let fine = file(&whole, &data);
    let write = |bytes: &[u8]| {
        only("mlp.up_proj").write(&source);
        fs::write(source.join("adapter_model.safetensors"), bytes).unwrap();
    };
    write(&fine);
    place.store.adapters().add("fine", &source, &base).unwrap();
    for (bytes, says) in cases {
        write(&bytes);
        let error = place
            .store
            .adapters()
            .add("bad", &source, &base)
            .unwrap_err();
        assert!(
            error.to_string().contains(says),
            "{error} does not say {says:?}"
        );
    }
}

#[test]
fn hostile_settings_are_refused() {
    let place = Place::new();
    let source = place.path("folder");
    let base = place.base("base.gguf", &model());
    whole().write(&source);
    let deep = "[".repeat(100_000);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(300_000));
    for (text, says) in [
        (deep.as_str(), "not an object"),
        (long.as_str(), "at most"),
        ("", "not an object"),
        ("7", "not an object"),
        ("{\"peft_type\":\"LORA\"", "not an object"),
        ("{\"peft_type\":\"LORA\"}", "r = nothing"),
    ] {
        fs::write(source.join("adapter_config.json"), text).unwrap();
        let error = place
            .store
            .adapters()
            .add("bad", &source, &base)
            .unwrap_err();
        assert!(
            error.to_string().contains(says),
            "{error} does not say {says:?}"
        );
    }
    fs::remove_file(source.join("adapter_config.json")).unwrap();
    let error = place
        .store
        .adapters()
        .add("bad", &source, &base)
        .unwrap_err();
    assert!(error.to_string().contains("adapter_config.json"), "{error}");
}

/// Ten gigabytes of nothing: the size is asked before a byte is read, for a folder and for a file.
#[test]
fn an_adapter_of_ten_gigabytes_is_refused_by_its_size() {
    let place = Place::new();
    let base = place.base("base.gguf", &model());
    let source = place.path("folder");
    whole().write(&source);
    for path in [
        source.join("adapter_model.safetensors"),
        place.path("huge.gguf"),
    ] {
        let mut options = fs::File::options();
        let huge = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .unwrap();
        huge.set_len(10 << 30).unwrap();
        let source = if path.ends_with("huge.gguf") {
            &path
        } else {
            &source
        };
        let error = place
            .store
            .adapters()
            .add("bad", source, &base)
            .unwrap_err();
        assert!(matches!(error, AdapterError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn a_pickle_is_never_read() {
    let place = Place::new();
    let base = place.base("base.gguf", &model());
    let source = place.path("folder");
    whole().write(&source);
    let weights = source.join("adapter_model.safetensors");
    fs::rename(&weights, source.join("adapter_model.bin")).unwrap();
    let error = place
        .store
        .adapters()
        .add("bad", &source, &base)
        .unwrap_err();
    assert!(error.to_string().contains("pickle"), "{error}");
}

/// Whatever is cut off or flipped: a message, or an adapter that is sound.
#[test]
fn no_damage_gets_past() {
    let place = Place::new();
    let base = place.base("base.gguf", &model());
    let source = place.path("folder");
    let small = Folder::new(1, &MODULES, &["self_attn.k_proj"], 1, 1.0);
    small.write(&source);
    let whole = small.safetensors();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let weights = source.join("adapter_model.safetensors");
    let adapters = place.store.adapters();
    for len in (0..whole.len()).step_by(7) {
        fs::write(&weights, &whole[..len]).unwrap();
        assert!(adapters.add("cut", &source, &base).is_err(), "{len} bytes");
    }
    for bit in 0..header * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&weights, bytes).unwrap();
        if adapters.add("flipped", &source, &base).is_ok() {
            adapters.resolve("flipped", &base).unwrap();
            adapters.rm("flipped").unwrap();
        }
    }
}

/// A file that is called converted is checked as strictly as a folder.
#[test]
fn converted_files_are_checked_against_the_base() {
    let place = Place::new();
    place.add("good", &whole()).unwrap();
    let base = place.base("base.gguf", &model());
    let good = fs::read(place.path("home/adapters/good/adapter.gguf")).unwrap();
    let path = place.path("file.gguf");
    let tried = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        fs::write(&path, bytes).unwrap();
        let error = place.store.adapters().add("bad", &path, &base).unwrap_err();
        error.to_string()
    };
    let dims = |n: u64| n.to_le_bytes();
    for (from, to, says) in [
        (&b"GGUF"[..], &b"GGUX"[..], "not a GGUF file"),
        (b"adapter.type", b"adapter.typo", "adapter.type"),
        (b"lora\x12", b"lorx\x12", "lorx"),
        (
            b"adapter.lora.alpha",
            b"adapter.lora.alphb",
            "adapter.lora.alpha",
        ),
        (b"alpha\x06", b"alpha\x05", "finite f32"),
        (b"adapter.lora.alpha", b"adapter.alora.seen", "aLoRA"),
        (b"llama", b"qwen2", "is for architecture"),
        (
            b"blk.0.attn_q.weight.lora_a",
            b"blk.9.attn_q.weight.lora_a",
            "only one",
        ),
        (
            b"blk.0.attn_k.weight.lora_a",
            b"blk.0.attn_k.weight.xxxx_a",
            "only one",
        ),
        (
            b"blk.0.attn_q.weight.lora_a",
            b"blk.1.attn_q.weight.lora_a",
            "twice",
        ),
    ] {
        let error = tried(from, to);
        assert!(error.contains(says), "{error} does not say {says:?}");
    }
    // The first matrix's row length: the one after it starts elsewhere then.
    let mut name = b"lora_a\x02\0\0\0".to_vec();
    let to = [&name[..], &dims(96)].concat();
    name.extend(dims(64));
    let error = tried(&name, &to);
    assert!(error.contains("starts at data offset"), "{error}");
    // A number that is none.
    let mut bytes = good.clone();
    let last = bytes.len() - 2;
    bytes[last..].copy_from_slice(&0x7c00u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error = place.store.adapters().add("bad", &path, &base).unwrap_err();
    assert!(matches!(error, AdapterError::NotFinite { .. }), "{error}");
    let model = place.path("base.gguf");
    let error = place
        .store
        .adapters()
        .add("bad", &model, &base)
        .unwrap_err();
    assert!(error.to_string().contains("not a LoRA") || error.to_string().contains("adapter.type"));
}

/// A file of another converter does not say for which base it is: its shapes do.
#[test]
fn converted_files_without_a_base_are_held_against_its_shapes() {
    let place = Place::new();
    place.add("good", &whole()).unwrap();
    let mut bytes = fs::read(place.path("home/adapters/good/adapter.gguf")).unwrap();
    let key = b"quorate.base.sha256";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
    bytes[at] = b'x';
    let path = place.path("file.gguf");
    fs::write(&path, &bytes).unwrap();
    let resized = |name: &str, rows| {
        model().change(|sample| {
            let tensor = sample.tensors.iter_mut().find(|t| t.name == name);
            tensor.unwrap().dims[1] = rows;
        })
    };
    let adapters = place.store.adapters();
    let twin = model().set("general.name", Val::Text("Twin".into()));
    let twin = place.base("twin.gguf", &twin);
    adapters.add("twin", &path, &twin).unwrap();
    // The last matrix, so that the others stay where they are.
    let name = "blk.1.ffn_down.weight";
    let smaller = place.base("smaller.gguf", &resized(name, 32));
    let error = adapters.add("bad", &path, &smaller).unwrap_err();
    assert!(matches!(error, AdapterError::Shape { .. }), "{error}");
    let renamed = model().change(|sample| {
        let tensor = sample.tensors.iter_mut().find(|t| t.name == name);
        tensor.unwrap().name = "blk.1.ffn_other.weight".into();
    });
    let renamed = place.base("renamed.gguf", &renamed);
    let error = adapters.add("bad", &path, &renamed).unwrap_err();
    assert!(matches!(error, AdapterError::NotInBase { .. }), "{error}");
}
