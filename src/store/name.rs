//! Names of models: what a person types, checked once and turned into a type.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::catalogue::{self, Entry};

/// What is meant when a repository is named without a quantisation.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// A model as named by its user. `Display` prints what `parse` reads back to the same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// A short name from the catalogue.
    Alias(&'static Entry),
    /// `org/repo:QUANT[@rev]` on the hub.
    Hub(HubName),
    /// A file on this machine, used where it lies.
    Path(PathBuf),
}

/// A model file in a hub repository. Every part holds only characters that are safe in URLs and paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    pub org: String,
    pub repo: String,
    /// Quantisation, upper case: the end of the file's name.
    pub quant: String,
    /// Commit, branch or tag; `None` follows the main branch.
    pub rev: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the model name is empty; try `{}`", catalogue::DEFAULT_ALIAS)]
    Empty,
    #[error(
        "unknown model `{name}`{}; use a short name, `org/repo:QUANT[@revision]`, or the path of a .gguf file",
        did_you_mean(near)
    )]
    Unknown {
        name: String,
        near: Vec<&'static str>,
    },
    #[error("`{name}` is not a model name: {part} {why}")]
    Part {
        name: String,
        part: &'static str,
        why: &'static str,
    },
}

fn did_you_mean(near: &[&str]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!(" (did you mean {}?)", near.join(", "))
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(typed: &str) -> Result<Self, NameError> {
        let name = typed.trim();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if is_path(name) {
            return Ok(ModelName::Path(PathBuf::from(name)));
        }
        if let Some(entry) = catalogue::find(name) {
            return Ok(ModelName::Alias(entry));
        }
        match name.split_once('/') {
            Some((org, rest)) => HubName::parse(name, org, rest).map(ModelName::Hub),
            None => Err(NameError::Unknown {
                name: shown(name),
                near: catalogue::near(name),
            }),
        }
    }
}

/// Paths are absolute, or start with a dot, or end in `.gguf` without naming a quantisation.
fn is_path(name: &str) -> bool {
    let gguf = name.len() > 5
        && name.is_char_boundary(name.len() - 5)
        && name[name.len() - 5..].eq_ignore_ascii_case(".gguf");
    let anchored = ["/", "./", "../", "~/"]
        .iter()
        .any(|start| name.starts_with(start));
    anchored || PathBuf::from(name).is_absolute() || (gguf && !name.contains(':'))
}

/// What was typed, cut to a length that fits a message.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

impl HubName {
    fn parse(name: &str, org: &str, rest: &str) -> Result<HubName, NameError> {
        let (repo_and_quant, rev) = match rest.split_once('@') {
            Some((before, rev)) => (before, Some(rev)),
            None => (rest, None),
        };
        let (repo, quant) = repo_and_quant
            .split_once(':')
            .unwrap_or((repo_and_quant, DEFAULT_QUANT));
        let check = |part: &'static str, text: &str, extra: &str, limit: usize| match fault(
            text, extra, limit,
        ) {
            None => Ok(text.to_owned()),
            Some(why) => Err(NameError::Part {
                name: shown(name),
                part,
                why,
            }),
        };
        Ok(HubName {
            org: check("the organisation", org, "", 96)?,
            repo: check("the repository", repo, "", 96)?,
            quant: check("the quantisation", quant, "", 96)?.to_ascii_uppercase(),
            rev: rev
                .map(|rev| check("the revision", rev, "/", 128))
                .transpose()?,
        })
    }

    /// `org/repo`, as the hub spells it.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.repo)
    }
}

/// What is wrong with one part of a name. The hub's own rules, which also keep parts apart in [`ModelName::slug`].
fn fault(text: &str, extra: &str, limit: usize) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || extra.contains(c);
    if text.is_empty() {
        Some("is empty")
    } else if text.len() > limit {
        Some("is too long")
    } else if !text.chars().all(allowed) {
        Some("may hold only letters, digits, `.`, `_` and `-`")
    } else if text.contains("..") || text.contains("--") || text.contains("//") {
        Some("may not repeat `.`, `-` or `/`")
    } else if text.starts_with(['.', '-', '/']) || text.ends_with(['.', '-', '/']) {
        Some("may not start or end with `.`, `-` or `/`")
    } else {
        None
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.org, self.repo, self.quant)?;
        match &self.rev {
            Some(rev) => write!(f, "@{rev}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelName::Alias(entry) => f.write_str(entry.alias),
            ModelName::Hub(hub) => hub.fmt(f),
            // A bare `file` without the suffix would read back as an alias, so anchor it.
            ModelName::Path(path) if is_path(&path.to_string_lossy()) => path.display().fmt(f),
            ModelName::Path(path) => write!(f, "./{}", path.display()),
        }
    }
}

impl ModelName {
    /// The one spelling under which this model is installed: an alias where the catalogue has one.
    pub(super) fn canonical(&self) -> ModelName {
        match self {
            ModelName::Hub(hub) if hub.rev.is_none() => {
                match catalogue::find_hub(&hub.org, &hub.repo, &hub.quant) {
                    Some(entry) => ModelName::Alias(entry),
                    None => self.clone(),
                }
            }
            other => other.clone(),
        }
    }

    /// A directory name that people can read, different for different canonical names: `--` stands
    /// between parts and cannot occur within one, and an alias has two parts, a hub name three or
    /// four. A path gets its file's name and a hash of the whole, set apart by `+`.
    pub(super) fn slug(&self) -> String {
        match self.canonical() {
            ModelName::Alias(entry) => entry.alias.replace(':', "--"),
            ModelName::Hub(hub) => {
                let base = format!("{}--{}--{}", hub.org, hub.repo, hub.quant);
                match hub.rev {
                    Some(rev) => format!("{base}--{}", rev.replace('/', "+")),
                    None => base,
                }
            }
            ModelName::Path(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let readable: String = stem
                    .chars()
                    .map(|c| {
                        if c.is_ascii_alphanumeric() || c == '.' {
                            c
                        } else {
                            '-'
                        }
                    })
                    .take(48)
                    .collect();
                let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
                format!("path+{readable}+{}", &hash[..16])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> ModelName {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_three_kinds() {
        assert!(
            matches!(parse("smollm2:135m"), ModelName::Alias(entry) if entry.alias == "smollm2:135m")
        );
        assert!(
            matches!(parse("SmolLM2"), ModelName::Alias(entry) if entry.alias == "smollm2:135m")
        );
        let ModelName::Hub(hub) = parse("bartowski/Foo-GGUF:q8_0@refs/pr/1") else {
            panic!("not a hub name")
        };
        assert_eq!(
            (hub.org.as_str(), hub.repo.as_str()),
            ("bartowski", "Foo-GGUF")
        );
        assert_eq!(
            (hub.quant.as_str(), hub.rev.as_deref()),
            ("Q8_0", Some("refs/pr/1"))
        );
        for path in [
            "/models/a.gguf",
            "./x",
            "../x.GGUF",
            "sub/dir/a.gguf",
            "a.gguf",
            "~/a.gguf",
        ] {
            assert!(matches!(parse(path), ModelName::Path(_)), "{path}");
        }
        assert!(matches!(parse("org/repo:file.gguf"), ModelName::Hub(_)));
        assert_eq!(parse("org/repo").to_string(), "org/repo:Q4_K_M");
    }

    #[test]
    fn wrong_names_say_why() {
        let error = |text: &str| text.parse::<ModelName>().expect_err(text).to_string();
        assert!(error("").contains("smollm2:135m"));
        assert!(error("smolm2:135m").contains("did you mean smollm2:135m"));
        assert!(error("org/").contains("the repository is empty"));
        assert!(error("a/b:").contains("the quantisation is empty"));
        assert!(error("a/b:Q4@").contains("the revision is empty"));
        assert!(error("a/../b").contains("the repository"));
        assert!(error("a/b c").contains("letters"));
        assert!(error("a/b:Q4@x//y").contains("repeat"));
        assert!(error(&"z".repeat(10_000)).len() < 400);
    }

    #[test]
    fn an_alias_and_its_repository_are_one_installation() {
        assert_eq!(
            parse("bartowski/Llama-3.2-1B-Instruct-GGUF:q4_k_m").slug(),
            parse("llama3.2:1b").slug()
        );
        assert_ne!(
            parse("bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0").slug(),
            parse("llama3.2:1b").slug()
        );
        assert_ne!(
            parse("bartowski/Llama-3.2-1B-Instruct-GGUF@abc").slug(),
            parse("llama3.2:1b").slug()
        );
        assert_ne!(parse("/a/m.gguf").slug(), parse("/b/m.gguf").slug());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_errs_and_reads_back(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<ModelName>() {
                prop_assert_eq!(name.to_string().parse::<ModelName>(), Ok(name));
            }
        }

        #[test]
        fn hub_names_read_back_and_slugs_are_plain(
            text in "[a-zA-Z0-9._-]{1,8}/[a-zA-Z0-9._-]{1,8}(:[a-zA-Z0-9_]{1,8})?(@[a-z0-9/]{1,8})?"
        ) {
            if let Ok(name) = text.parse::<ModelName>() {
                let slug = name.slug();
                prop_assert!(!slug.contains(['/', '\\', ':']) && !slug.starts_with('.'));
                prop_assert_eq!(name.to_string().parse::<ModelName>(), Ok(name));
            }
        }
    }
}
