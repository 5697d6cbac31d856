//! Reading Rust just well enough for the rules: words and signs with their lines, without comments, strings and tests.

/// A word or a sign of a source file, and the line it stands on (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The words and signs of `source`; `::` is one sign, strings and character literals are left out.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut at, mut line, mut out) = (0, 1, Vec::new());
    while at < chars.len() {
        let end = skip_end(&chars, at);
        if let Some(end) = end {
            line += chars[at..end].iter().filter(|c| **c == '\n').count();
            at = end;
            continue;
        }
        let start = at;
        if is_word(chars[at]) {
            while at < chars.len() && is_word(chars[at]) {
                at += 1;
            }
        } else if chars[at] == ':' && chars.get(at + 1) == Some(&':') {
            at += 2;
        } else {
            at += 1;
        }
        if chars[start] == '\n' {
            line += 1;
        } else if !chars[start].is_whitespace() {
            out.push(Token {
                text: chars[start..at].iter().collect(),
                line,
            });
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the comment, string, character literal or lifetime that begins at `at` ends; `None` if none begins there.
fn skip_end(chars: &[char], at: usize) -> Option<usize> {
    let next = |n: usize| chars.get(at + n).copied();
    match (chars[at], next(1)) {
        ('/', Some('/')) => Some(find(chars, at, |c| c == '\n')),
        ('/', Some('*')) => Some(block_comment_end(chars, at)),
        ('"', _) => Some(string_end(chars, at + 1)),
        ('b' | 'c', Some('"')) if starts_word(chars, at) => Some(string_end(chars, at + 2)),
        ('r', Some('"' | '#')) if starts_word(chars, at) => raw_string_end(chars, at + 1),
        ('b' | 'c', Some('r')) if starts_word(chars, at) => raw_string_end(chars, at + 2),
        ('\'', Some('\\')) => Some(find(chars, at + 3, |c| c == '\'') + 1),
        ('\'', _) if next(2) == Some('\'') => Some(at + 3),
        ('\'', _) => Some(find(chars, at + 1, |c| !is_word(c))),
        _ => None,
    }
}

fn starts_word(chars: &[char], at: usize) -> bool {
    at == 0 || !is_word(chars[at - 1])
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len())
        .find(|&i| stop(chars[i]))
        .unwrap_or(chars.len())
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// `at` is behind the r: `#`s and a quote, or it is no raw string (a raw identifier like r#type).
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let open = find(chars, at, |c| c != '#');
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let hashes = open - at;
    let closes = |i: &usize| {
        chars[*i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    Some(
        (open + 1..chars.len())
            .find(closes)
            .map_or(chars.len(), |i| i + 1 + hashes),
    )
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    chars.len()
}

/// `tokens` without the items behind `#[cfg(test)]`: tests may reach where the program may not.
pub(crate) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if texts(&tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = item_end(tokens, at + 7);
        } else {
            out.push(tokens[at].clone());
            at += 1;
        }
    }
    out
}

/// The end of the item that begins at `at`: behind its body, or behind its semicolon if that comes first.
pub(crate) fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_i32;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

pub(crate) fn texts(tokens: &[Token], wanted: &[&str]) -> bool {
    tokens.len() >= wanted.len() && tokens.iter().zip(wanted).all(|(t, w)| t.text == *w)
}

/// What is named directly under `root`: `a` and `b` in `root::a::x` and `use root::{b::y, a}`.
pub(crate) fn named_under(tokens: &[Token], root: &str) -> Vec<Token> {
    let mut out = Vec::new();
    for at in 0..tokens.len() {
        if !texts(&tokens[at..], &[root, "::"]) || (at > 0 && tokens[at - 1].text == "::") {
            continue;
        }
        match tokens.get(at + 2) {
            Some(group) if group.text == "{" => out.extend(group_heads(&tokens[at + 2..])),
            Some(name) => out.push(name.clone()),
            None => {}
        }
    }
    out
}

/// The first word of each entry of the `{…}` at the start of `tokens`.
fn group_heads(tokens: &[Token]) -> Vec<Token> {
    let (mut depth, mut out) = (0, Vec::new());
    for pair in tokens.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (pair[0].text == "{" || pair[0].text == ",") && pair[1].text != "}" {
            out.push(pair[1].clone());
        }
    }
    out
}

/// Name, line and number of lines of every function with a body.
pub(crate) fn functions(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let mut out = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        if pair[0].text == "fn"
            && pair[1]
                .text
                .starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            let last = &tokens[item_end(tokens, at) - 1];
            if last.text == "}" {
                out.push((
                    pair[1].text.clone(),
                    pair[0].line,
                    last.line + 1 - pair[0].line,
                ));
            }
        }
    }
    out
}

#[test]
fn the_scanner_reads_what_rust_reads() {
    let words = |source: &str| {
        tokens(source)
            .into_iter()
            .map(|t| t.text)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(words("a /* b /* c */ d */ e // f\n\"g \\\" h\" i"), "a e i");
    assert_eq!(
        words("r#\"x \" y\"# b\"z\" br\"w\" 'q' '\\'' '\\u{1F600}' r#type"),
        "r # type"
    );
    assert_eq!(
        words("fn f<'a>(x: &'a str) {}"),
        "fn f < > ( x : & str ) { }"
    );
    assert_eq!(tokens("a\n\"b\nc\"\nd")[1].line, 4);

    let names = |source: &str| {
        named_under(&tokens(source), "crate")
            .into_iter()
            .map(|t| t.text)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("use crate::{a, b::{c, d}, e as f}; crate::g::h(); my::crate::no()"),
        ["a", "b", "e", "g"]
    );

    let code = without_tests(&tokens(
        "a #[cfg(test)] mod tests { x { y } } b #[cfg(test)] use z; c",
    ));
    assert_eq!(code.into_iter().map(|t| t.text).collect::<String>(), "abc");
    let found = functions(&tokens(
        "trait T { fn no(&self) -> [u8; 2]; }\nfn yes() {\n  {}\n}",
    ));
    assert_eq!(found, [("yes".to_owned(), 2, 3)]);
}
