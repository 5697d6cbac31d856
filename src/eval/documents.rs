//! Texts to evaluate on: windows of files, and windows of several domains one after another.

use super::draws::Draws;
use super::{EvalError, Result};
use crate::expert::TokenizeError;
use quorate_core::ids::Token;
use quorate_core::limits::{EVAL_DEPTH_MAX, EVAL_FILE_BYTES_MAX, EVAL_FILES_MAX};
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Tokens of a pure document, at most.
const PURE_TOKENS: usize = 384;
/// Segments of a mixed document, and tokens of each.
const SEGMENTS: (usize, usize) = (2, 4);
const SEGMENT_TOKENS: (usize, usize) = (64, 192);
/// The beginning that is not counted.
const PROMPT_TOKENS: usize = 64;

/// How many documents of each kind, at most. Fewer are the first of more.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    pub mixed: usize,
    pub pure_per_domain: usize,
}

impl Amounts {
    /// The protocol's.
    pub const WHOLE: Amounts = Amounts {
        mixed: 128,
        pure_per_domain: 24,
    };
    pub const QUICK: Amounts = Amounts {
        mixed: 12,
        pure_per_domain: 2,
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// None: several.
    pub(super) domain: Option<usize>,
    pub(super) tokens: Vec<Token>,
}

impl Document {
    /// Tokens that nobody is judged by.
    pub(super) fn prompt(&self) -> usize {
        PROMPT_TOKENS.min(self.tokens.len() / 2).max(1)
    }

    pub(super) fn key(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for token in &self.tokens {
            hasher.update(&token.to_le_bytes());
        }
        hasher.finalize()
    }
}

/// A file that is no document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub file: String,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    Empty,
    OneToken,
    NotUtf8,
    NotTokenized,
}

pub(super) struct Domain {
    pub(super) name: String,
    files: Vec<Vec<Token>>,
}

impl Domain {
    /// Its texts are not needed any more.
    pub(super) fn forget(&mut self) {
        self.files = Vec::new();
    }
}

pub(super) struct Folder {
    pub(super) domains: Vec<Domain>,
    pub(super) skipped: Vec<Skipped>,
}

type Tokens<'a> = dyn Fn(&str) -> std::result::Result<Vec<Token>, TokenizeError> + 'a;

impl Folder {
    /// A domain is a sub-folder with all that is in it, by name; files beside them are a domain of
    /// the folder's own name. Where domains are named, nothing else is read.
    pub(super) fn read(path: &Path, only: &[String], tokens: &Tokens<'_>) -> Result<Folder> {
        let mut folder = Folder {
            domains: Vec::new(),
            skipped: Vec::new(),
        };
        let (mut own, mut left) = (Vec::new(), EVAL_FILES_MAX);
        for entry in chosen(path, only)? {
            if entry.is_dir() {
                let mut files = Vec::new();
                walk(&entry, EVAL_DEPTH_MAX, &mut left, &mut files)?;
                folder.add(path, &entry, &files, tokens)?;
            } else if left > 0 {
                left -= 1;
                own.push(entry);
            }
        }
        folder.add(path, path, &own, tokens)?;
        folder.domains.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(folder)
    }

    fn add(
        &mut self,
        root: &Path,
        of: &Path,
        paths: &[PathBuf],
        tokens: &Tokens<'_>,
    ) -> Result<()> {
        let mut files = Vec::new();
        for path in paths {
            match text(path)?.and_then(|text| enough(&text, tokens)) {
                Ok(tokens) => files.push(tokens),
                Err(why) => {
                    let file = path.strip_prefix(root).unwrap_or(path);
                    self.skipped.push(Skipped {
                        file: file.display().to_string(),
                        why,
                    });
                }
            }
        }
        if !files.is_empty() {
            let name = of.file_name().unwrap_or(of.as_os_str());
            let name = name.to_string_lossy().into_owned();
            self.domains.push(Domain { name, files });
        }
        Ok(())
    }

    /// Pure documents, domain by domain, then mixed ones.
    pub(super) fn draw(&self, seed: u64, amounts: &Amounts, bos: Option<Token>) -> Vec<Document> {
        let mut drawn = Vec::new();
        for (nth, domain) in self.domains.iter().enumerate() {
            let mut draws = Draws::new(seed, &format!("pure {}", domain.name), 0);
            let mut files: Vec<&Vec<Token>> = domain.files.iter().collect();
            draws.shuffle(&mut files);
            for file in files.into_iter().take(amounts.pure_per_domain) {
                let mut tokens: Vec<Token> = bos.into_iter().collect();
                tokens.extend(window(file, PURE_TOKENS, &mut draws));
                drawn.push(Document {
                    domain: Some(nth),
                    tokens,
                });
            }
        }
        drawn.extend((0..amounts.mixed).filter_map(|nth| self.mixed(seed, nth, bos)));
        drawn
    }

    /// None if there are not two domains to change between.
    fn mixed(&self, seed: u64, nth: usize, bos: Option<Token>) -> Option<Document> {
        let long = |file: &&Vec<Token>| file.len() >= SEGMENT_TOKENS.0;
        let of = |domain: &Domain| domain.files.iter().filter(long).count();
        let fit: Vec<usize> = (0..self.domains.len())
            .filter(|&d| of(&self.domains[d]) > 0)
            .collect();
        if fit.len() < 2 {
            return None;
        }
        let mut draws = Draws::new(seed, "mixed", nth);
        let mut tokens: Vec<Token> = bos.into_iter().collect();
        let mut last = None;
        for _ in 0..draws.within(SEGMENTS.0, SEGMENTS.1) {
            let others: Vec<usize> = fit.iter().copied().filter(|d| Some(*d) != last).collect();
            let domain = others[draws.below(others.len())];
            let files: Vec<&Vec<Token>> = self.domains[domain].files.iter().filter(long).collect();
            let file = files[draws.below(files.len())];
            let wanted = draws.within(SEGMENT_TOKENS.0, SEGMENT_TOKENS.1);
            tokens.extend(window(file, wanted, &mut draws));
            last = Some(domain);
        }
        Some(Document {
            domain: None,
            tokens,
        })
    }
}

fn window<'a>(file: &'a [Token], wanted: usize, draws: &mut Draws) -> &'a [Token] {
    let wanted = wanted.min(file.len());
    let from = draws.within(0, file.len() - wanted);
    &file[from..from + wanted]
}

/// What is listed in a folder of texts, or the sub-folders that are named.
fn chosen(path: &Path, only: &[String]) -> Result<Vec<PathBuf>> {
    let all = listed(path)?;
    if only.is_empty() {
        return Ok(all);
    }
    let is_named = |entry: &PathBuf, name: &str| {
        entry.is_dir() && entry.file_name().is_some_and(|file| file == name)
    };
    if let Some(missing) = only.iter().find(|n| !all.iter().any(|e| is_named(e, n))) {
        return Err(EvalError::NoDomain {
            path: path.to_owned(),
            domain: missing.clone(),
        });
    }
    let named = |entry: &PathBuf| only.iter().any(|name| is_named(entry, name));
    Ok(all.into_iter().filter(named).collect())
}

/// Sorted; hidden files and links are left out.
fn listed(path: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: std::io::Error| EvalError::Read {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let kind = entry.file_type().map_err(unreadable)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && (kind.is_dir() || kind.is_file()) {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

fn walk(path: &Path, depth: usize, left: &mut usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in listed(path)? {
        if entry.is_dir() {
            if depth > 0 {
                walk(&entry, depth - 1, left, files)?;
            }
        } else if *left > 0 {
            *left -= 1;
            files.push(entry);
        }
    }
    Ok(())
}

/// The beginning of a file, as far as it is read.
fn text(path: &Path) -> Result<std::result::Result<String, Why>> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(EVAL_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| EvalError::Read {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
    let is_cut = bytes.len() as u64 == EVAL_FILE_BYTES_MAX;
    if let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
        && is_cut
    {
        bytes.truncate(error.valid_up_to()); // the cut went through a character
    }
    Ok(String::from_utf8(bytes).map_err(|_| Why::NotUtf8))
}

fn enough(text: &str, tokens: &Tokens<'_>) -> std::result::Result<Vec<Token>, Why> {
    let tokens = tokens(text).map_err(|_| Why::NotTokenized)?;
    match tokens.len() {
        0 => Err(Why::Empty),
        1 => Err(Why::OneToken),
        _ => Ok(tokens),
    }
}
