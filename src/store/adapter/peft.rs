//! The settings of a PEFT adapter: what kind it is, its rank and its scale.
//!
//! What changes the meaning of the weights and is not a plain LoRA is refused by name: it would load
//! and say something else than it was trained to.

use super::AdapterError;
use super::safetensors::shown;
use super::targets::Projection;
use quorate_core::limits::{ADAPTER_CONFIG_BYTES_MAX, ADAPTER_RANK_MAX};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(super) const CONFIG_FILE: &str = "adapter_config.json";

/// How the pairs of the file are meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Recipe {
    pub(super) rank: u64,
    /// A row of the base gains `alpha / rank` times what the pair says.
    pub(super) alpha: f32,
}

/// Switches that must be off, and what they would mean.
const OFF: &[(&str, &str)] = &[
    (
        "use_dora",
        "it is a DoRA: it scales every row of the base's own matrices, a difference of full rank, which no LoRA can say; merge it into its base and convert that",
    ),
    ("bias", "it has trained biases"),
    ("lora_bias", "it has trained biases"),
    ("modules_to_save", "it replaces whole modules of the base"),
    ("rank_pattern", "its ranks differ by module"),
    ("alpha_pattern", "its scales differ by module"),
    ("layer_replication", "it repeats layers of the base"),
    (
        "trainable_token_indices",
        "it changes single token embeddings",
    ),
    (
        "target_parameters",
        "it changes parameters that are no linear layers",
    ),
    (
        "fan_in_fan_out",
        "its base stores matrices the other way round",
    ),
    (
        "alora_invocation_tokens",
        "it wakes at certain words (aLoRA)",
    ),
];

/// Switches and settings that change nothing here: the scale's rule, which is obeyed, a way to begin,
/// and how the trainer's machine was used.
const HARMLESS: &[&str] = &[
    "use_rslora",
    "eva_config",
    "megatron_config",
    "runtime_config",
];

/// Ways to begin that leave the base as it is.
const BEGINNINGS: &[&str] = &["gaussian", "orthogonal", "eva"];

impl Recipe {
    pub(super) fn read(folder: &Path) -> Result<Recipe, AdapterError> {
        let path = folder.join(CONFIG_FILE);
        let config = object(&path)?;
        Recipe::of(&config).map_err(|why| AdapterError::source(&path, why))
    }

    fn of(config: &Map<String, Value>) -> Result<Recipe, String> {
        kind(config)?;
        switches(config)?;
        known_targets(config)?;
        let rank = config.get("r").and_then(Value::as_u64);
        let rank = rank.filter(|rank| (1..=ADAPTER_RANK_MAX).contains(rank));
        let rank = rank.ok_or_else(|| {
            format!(
                "says r = {}, which must be 1 to {ADAPTER_RANK_MAX}",
                word(config.get("r"))
            )
        })?;
        let alpha = config.get("lora_alpha").and_then(Value::as_f64);
        let root = match config.get("use_rslora") {
            // Its scale is alpha / sqrt(r).
            Some(Value::Bool(true)) => (rank as f64).sqrt(),
            _ => 1.0,
        };
        let alpha = alpha.map(|alpha| (alpha * root) as f32);
        let usable = alpha.filter(|alpha| alpha.is_finite() && *alpha != 0.0);
        let alpha = usable.ok_or_else(|| {
            let said = word(config.get("lora_alpha"));
            format!("says lora_alpha = {said}, which must be a number other than 0")
        })?;
        Ok(Recipe { rank, alpha })
    }
}

fn object(path: &Path) -> Result<Map<String, Value>, AdapterError> {
    let meta = std::fs::metadata(path).map_err(AdapterError::io("read", path))?;
    if !meta.is_file() || meta.len() > ADAPTER_CONFIG_BYTES_MAX {
        let why = format!("is no file of at most {ADAPTER_CONFIG_BYTES_MAX} bytes");
        return Err(AdapterError::source(path, why));
    }
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ADAPTER_CONFIG_BYTES_MAX).read_to_end(&mut text))
        .map_err(AdapterError::io("read", path))?;
    // serde_json refuses what is nested more than 128 deep.
    serde_json::from_slice(&text)
        .map_err(|error| AdapterError::source(path, format!("is not an object of JSON: {error}")))
}

fn kind(config: &Map<String, Value>) -> Result<(), String> {
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Ok(()),
        Some("IA3") => Err(
            "is an IA3: it scales rows and columns of the base's own matrices, a difference of full rank, which no \
             LoRA can say; merge it into its base and convert that"
                .into(),
        ),
        _ => {
            let said = word(config.get("peft_type"));
            Err(format!("is of the kind {said}; LORA is supported"))
        }
    }
}

fn switches(config: &Map<String, Value>) -> Result<(), String> {
    for (key, meaning) in OFF {
        if config.get(*key).is_some_and(|value| !is_off(value)) {
            return Err(format!("sets {key}: {meaning}; this is not supported"));
        }
    }
    // Whatever a later PEFT invents, and what changes the base before training (LoftQ, CorDA, LoRA-GA).
    let switch = |(key, value): &(&String, &Value)| {
        let names = key.starts_with("use_") || key.ends_with("_config");
        names && !HARMLESS.contains(&key.as_str()) && !is_off(value)
    };
    if let Some((key, _)) = config.iter().find(switch) {
        return Err(format!("sets {}, which is not known here", shown(key)));
    }
    match config.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if BEGINNINGS.contains(&name.as_str()) => Ok(()),
        other => Err(format!(
            "was trained on a base changed by init_lora_weights = {}: give the plain LoRA that PEFT makes of it",
            word(other)
        )),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A list names modules; a text is a pattern, and the tensors tell what it has found.
fn known_targets(config: &Map<String, Value>) -> Result<(), String> {
    let Some(Value::Array(targets)) = config.get("target_modules") else {
        return Ok(());
    };
    let known = |target: &&Value| target.as_str().is_some_and(Projection::is_named);
    match targets.iter().find(|target| !known(target)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "targets {}; known are {}",
            word(Some(other)),
            Projection::names()
        )),
    }
}

fn word(value: Option<&Value>) -> String {
    value.map_or("nothing".into(), |value| shown(&value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(change: Value) -> Result<Recipe, String> {
        let mut config = json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "use_dora": false,
            "lora_dropout": 0.1, "target_modules": ["q_proj", "model.layers.3.mlp.up_proj"],
            "modules_to_save": null, "loftq_config": {}, "init_lora_weights": true, "qalora_group_size": 16,
        });
        let config = config.as_object_mut().unwrap();
        config.extend(change.as_object().unwrap().clone());
        Recipe::of(config)
    }

    #[test]
    fn the_scale_is_alpha_over_r_or_over_its_root() {
        let plain = of(json!({})).unwrap();
        assert_eq!(
            plain,
            Recipe {
                rank: 8,
                alpha: 16.0
            }
        );
        let rooted = of(json!({"use_rslora": true, "r": 16})).unwrap();
        assert_eq!(rooted.alpha / rooted.rank as f32, 16.0 / 4.0);
        assert_eq!(of(json!({"target_modules": "all-linear"})).unwrap(), plain);
    }

    #[test]
    fn what_no_lora_says_is_refused_with_the_reason() {
        for (change, why) in [
            (json!({"peft_type": "IA3"}), "full rank"),
            (json!({"use_dora": true}), "full rank"),
            (json!({"peft_type": "LOHA"}), "LOHA"),
            (json!({"peft_type": null}), "null"),
            (json!({"bias": "all"}), "biases"),
            (json!({"modules_to_save": ["lm_head"]}), "whole modules"),
            (json!({"rank_pattern": {"q_proj": 4}}), "ranks differ"),
            (json!({"init_lora_weights": "pissa_niter_16"}), "pissa"),
            (json!({"use_tomorrow": 1}), "use_tomorrow"),
            (json!({"loftq_config": {"bits": 4}}), "loftq_config"),
            (json!({"target_modules": ["q_proj", "c_attn"]}), "c_attn"),
            (json!({"target_modules": [7]}), "known are"),
        ] {
            let error = of(change.clone()).expect_err(why);
            assert!(error.contains(why), "{change}: {error}");
        }
    }

    #[test]
    fn ranks_and_scales_have_bounds() {
        for change in [
            json!({"r": 0}),
            json!({"r": 1025}),
            json!({"r": -8}),
            json!({"r": "8"}),
            json!({"r": 1e300}),
            json!({"lora_alpha": 0}),
            json!({"lora_alpha": 1e300}),
            json!({"lora_alpha": [1]}),
        ] {
            let error = of(change.clone()).expect_err("no bound");
            assert!(error.contains("must be"), "{change}: {error}");
        }
    }
}
