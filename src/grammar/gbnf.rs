//! llama.cpp's grammars (GBNF), as Lark.
//!
//! GBNF speaks of characters; Lark of words that a lexer cuts, longest first. A grammar without
//! recursion becomes one word. In any other, every character becomes a word of its own: no grammar
//! changes its meaning that way, and masks cost a few milliseconds instead of less than one.

use super::{GrammarError, refuse};
use quorate_core::limits;
use std::collections::BTreeMap;
use std::fmt::Write;

/// As in llama.cpp.
const REPEAT_MAX: u32 = 2000;
/// Rules that one grammar may define: the compiler follows them recursively.
const RULES_MAX: usize = 1000;

/// Does the text begin with a GBNF rule?
pub(super) fn is_gbnf(text: &str) -> bool {
    let mut lexer = Lexer { text, at: 0 };
    lexer.skip_space();
    lexer.name().is_some() && {
        lexer.skip_space();
        lexer.rest().starts_with("::=")
    }
}

pub(super) fn to_lark(text: &str) -> Result<String, GrammarError> {
    let rules = Parser::parse(text)?;
    let recursive = is_recursive(&rules);
    let mut out = String::from(if recursive {
        "start: g0\n"
    } else {
        "start: G0 | \"\"\n"
    });
    if !recursive && !is_nullable(&rules) {
        out = "start: G0\n".into();
    }
    for (nth, rule) in rules.iter().enumerate() {
        let _ok = write!(out, "{}{nth}: ", if recursive { 'g' } else { 'G' });
        print(&mut out, rule, recursive);
        out.push('\n');
    }
    Ok(out)
}

/// Bounds a Lark text by its brackets and rules; llguidance counts the rest.
pub(super) fn checked_lark(text: &str) -> Result<String, GrammarError> {
    let mut depth = 0usize;
    let mut colons = 0;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            quote @ (b'"' | b'/') => {
                // A comment or an unclosed quote runs to the end of its line at most.
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'\\' => drop(bytes.next()),
                        b'\n' => break,
                        inner if inner == quote => break,
                        _ => {}
                    }
                }
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b':' if depth == 0 => colons += 1,
            _ => {}
        }
        if colons > RULES_MAX {
            return refuse(format!("more than {RULES_MAX} rules"));
        }
        if depth > limits::GRAMMAR_NESTING_MAX {
            return refuse(format!(
                "a grammar nested deeper than {}",
                limits::GRAMMAR_NESTING_MAX
            ));
        }
    }
    Ok(text.to_string())
}

#[derive(Debug)]
enum Node {
    /// Ranges of characters, both ends included.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    Any,
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat {
        what: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
}

// --- reading --------------------------------------------------------------------------------------

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        self.at += if found { what.len() } else { 0 };
        found
    }

    /// White space, line breaks and comments.
    fn skip_space(&mut self) {
        loop {
            let rest = self.rest().trim_start();
            self.at = self.text.len() - rest.len();
            if !rest.starts_with('#') {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
            .unwrap_or(rest.len());
        self.at += end;
        (end > 0).then(|| &rest[..end])
    }

    /// A number of exactly this many hexadecimal digits.
    fn hex(&mut self, digits: usize) -> Result<char, GrammarError> {
        let text = self.rest().get(..digits).unwrap_or("");
        let code = u32::from_str_radix(text, 16)
            .ok()
            .filter(|_| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(letter) = code.and_then(char::from_u32) else {
            return refuse(self.here(&format!("no character has the code '{text}'")));
        };
        self.at += digits;
        Ok(letter)
    }

    /// One character of a literal or class, escapes resolved.
    fn letter(&mut self) -> Result<char, GrammarError> {
        match self.bump() {
            None => refuse(self.here("the text ends inside quotes or brackets")),
            Some('\\') => match self.bump() {
                Some('n') => Ok('\n'),
                Some('r') => Ok('\r'),
                Some('t') => Ok('\t'),
                Some('x') => self.hex(2),
                Some('u') => self.hex(4),
                Some('U') => self.hex(8),
                Some(own @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/')) => Ok(own),
                other => refuse(self.here(&format!("unknown escape '\\{}'", other.unwrap_or(' ')))),
            },
            Some(letter) => Ok(letter),
        }
    }

    fn here(&self, what: &str) -> String {
        format!(
            "line {}: {what}",
            self.text[..self.at].matches('\n').count() + 1
        )
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Names in order of appearance; the root is number 0.
    numbers: BTreeMap<&'a str, usize>,
    names: Vec<&'a str>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn parse(text: &'a str) -> Result<Vec<Node>, GrammarError> {
        let lexer = Lexer { text, at: 0 };
        let mut parser = Parser {
            lexer,
            numbers: BTreeMap::from([("root", 0)]),
            names: vec!["root"],
            depth: 0,
        };
        let mut rules: BTreeMap<usize, Node> = BTreeMap::new();
        parser.lexer.skip_space();
        while parser.lexer.peek().is_some() {
            let Some(name) = parser.rule_start() else {
                return refuse(parser.lexer.here("expected 'name ::='"));
            };
            let number = parser.number(name)?;
            let body = parser.choice()?;
            if rules.insert(number, body).is_some() {
                return refuse(format!("rule '{name}' is defined twice"));
            }
        }
        if let Some(missing) = (0..parser.names.len()).find(|number| !rules.contains_key(number)) {
            return refuse(format!("rule '{}' is not defined", parser.names[missing]));
        }
        Ok(rules.into_values().collect())
    }

    /// Reads `name ::=`, or nothing.
    fn rule_start(&mut self) -> Option<&'a str> {
        let start = self.lexer.at;
        if let Some(name) = self.lexer.name() {
            self.lexer.skip_space();
            if self.lexer.eat("::=") {
                self.lexer.skip_space();
                return Some(name);
            }
        }
        self.lexer.at = start;
        None
    }

    fn number(&mut self, name: &'a str) -> Result<usize, GrammarError> {
        let next = self.names.len();
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.names.push(name);
        }
        if self.names.len() > RULES_MAX {
            return refuse(format!("more than {RULES_MAX} rules"));
        }
        Ok(number)
    }

    fn choice(&mut self) -> Result<Node, GrammarError> {
        self.depth += 1;
        if self.depth > limits::GRAMMAR_NESTING_MAX {
            return refuse(format!(
                "a grammar nested deeper than {}",
                limits::GRAMMAR_NESTING_MAX
            ));
        }
        let mut options = vec![self.sequence()?];
        while self.lexer.eat("|") {
            self.lexer.skip_space();
            options.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(Node::Choice(options))
    }

    fn sequence(&mut self) -> Result<Node, GrammarError> {
        let mut parts = Vec::new();
        while let Some(part) = self.part()? {
            self.lexer.skip_space();
            parts.push(self.repeated(part)?);
        }
        Ok(Node::Sequence(parts))
    }

    fn part(&mut self) -> Result<Option<Node>, GrammarError> {
        Ok(Some(match self.lexer.peek() {
            None | Some('|' | ')') => return Ok(None),
            Some('"') => self.literal()?,
            Some('[') => self.class()?,
            Some('(') => {
                self.lexer.bump();
                self.lexer.skip_space();
                let inner = self.choice()?;
                if !self.lexer.eat(")") {
                    return refuse(self.lexer.here("expected ')'"));
                }
                inner
            }
            Some('.') => {
                self.lexer.bump();
                Node::Any
            }
            Some('<' | '!') => {
                return refuse(
                    self.lexer
                        .here("token references (<...>) are not supported"),
                );
            }
            Some(other) => {
                let start = self.lexer.at;
                if self.rule_start().is_some() {
                    self.lexer.at = start;
                    return Ok(None);
                }
                match self.lexer.name() {
                    Some(name) => Node::Rule(self.number(name)?),
                    None => return refuse(self.lexer.here(&format!("unexpected '{other}'"))),
                }
            }
        }))
    }

    fn literal(&mut self) -> Result<Node, GrammarError> {
        self.lexer.bump();
        let mut letters = Vec::new();
        while !self.lexer.eat("\"") {
            let letter = self.lexer.letter()?;
            letters.push(Node::Class {
                ranges: vec![(letter, letter)],
                negated: false,
            });
        }
        Ok(Node::Sequence(letters))
    }

    fn class(&mut self) -> Result<Node, GrammarError> {
        self.lexer.bump();
        let negated = self.lexer.eat("^");
        let mut ranges = Vec::new();
        while !self.lexer.eat("]") {
            let from = self.lexer.letter()?;
            let rest = self.lexer.rest();
            let to = if rest.starts_with('-') && !rest.starts_with("-]") {
                self.lexer.bump();
                self.lexer.letter()?
            } else {
                from
            };
            if from > to {
                return refuse(
                    self.lexer
                        .here(&format!("the range {from}-{to} is backwards")),
                );
            }
            ranges.push((from, to));
        }
        if ranges.is_empty() {
            return refuse(self.lexer.here("an empty class"));
        }
        Ok(Node::Class { ranges, negated })
    }

    fn repeated(&mut self, mut what: Node) -> Result<Node, GrammarError> {
        loop {
            let (min, max) = match self.lexer.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.counts()?,
                _ => return Ok(what),
            };
            self.lexer.bump();
            self.lexer.skip_space();
            what = Node::Repeat {
                what: Box::new(what),
                min,
                max,
            };
            // A chain of operators nests as brackets do, but none of them says more than one would.
            if matches!(self.lexer.peek(), Some('*' | '+' | '?' | '{')) {
                return refuse(
                    self.lexer
                        .here("one repetition after another: use brackets"),
                );
            }
        }
    }

    /// `{m}`, `{m,}` or `{m,n}`, up to its closing bracket.
    fn counts(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        let rest = self.lexer.rest();
        let Some(end) = rest.find('}') else {
            return refuse(self.lexer.here("expected '}'"));
        };
        let inside = &rest[1..end];
        let number = |text: &str| {
            text.trim()
                .parse::<u32>()
                .ok()
                .filter(|&count| count <= REPEAT_MAX)
        };
        let counts = match inside.split_once(',') {
            None => number(inside).map(|count| (count, Some(count))),
            Some((min, max)) if max.trim().is_empty() => number(min).map(|min| (min, None)),
            Some((min, max)) => number(min)
                .zip(number(max))
                .map(|(min, max)| (min, Some(max))),
        };
        match counts.filter(|(min, max)| max.is_none_or(|max| *min <= max)) {
            Some(counts) => {
                self.lexer.at += end;
                Ok(counts)
            }
            None => refuse(self.lexer.here(&format!(
                "'{{{inside}}}' is no repetition of at most {REPEAT_MAX}"
            ))),
        }
    }
}

// --- judging --------------------------------------------------------------------------------------

fn references(node: &Node, into: &mut Vec<usize>) {
    match node {
        Node::Class { .. } | Node::Any => {}
        Node::Rule(number) => into.push(*number),
        Node::Sequence(nodes) | Node::Choice(nodes) => {
            nodes.iter().for_each(|node| references(node, into))
        }
        Node::Repeat { what, .. } => references(what, into),
    }
}

/// Does a rule lead back to itself? Rules are taken away, leaves first, until only circles are left.
fn is_recursive(rules: &[Node]) -> bool {
    let uses: Vec<Vec<usize>> = rules
        .iter()
        .map(|rule| {
            let mut used = Vec::new();
            references(rule, &mut used);
            used
        })
        .collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut open: Vec<usize> = uses.iter().map(Vec::len).collect();
    for (user, used) in uses.iter().enumerate() {
        used.iter().for_each(|&used| users[used].push(user));
    }
    let mut leaves: Vec<usize> = (0..rules.len()).filter(|&rule| open[rule] == 0).collect();
    let mut gone = 0;
    while let Some(leaf) = leaves.pop() {
        gone += 1;
        for &user in &users[leaf] {
            open[user] -= 1;
            if open[user] == 0 {
                leaves.push(user);
            }
        }
    }
    gone < rules.len()
}

/// May the root be empty?
fn is_nullable(rules: &[Node]) -> bool {
    fn empty(node: &Node, known: &[bool]) -> bool {
        match node {
            Node::Class { .. } | Node::Any => false,
            Node::Rule(number) => known[*number],
            Node::Sequence(nodes) => nodes.iter().all(|node| empty(node, known)),
            Node::Choice(nodes) => nodes.iter().any(|node| empty(node, known)),
            Node::Repeat { what, min, .. } => *min == 0 || empty(what, known),
        }
    }
    let mut known = vec![false; rules.len()];
    loop {
        let next: Vec<bool> = rules.iter().map(|rule| empty(rule, &known)).collect();
        if next == known {
            return known[0];
        }
        known = next;
    }
}

// --- writing --------------------------------------------------------------------------------------

fn print(out: &mut String, node: &Node, recursive: bool) {
    // Writing to a string cannot fail.
    match node {
        Node::Any => out.push_str("/(?s:.)/"),
        Node::Class { ranges, negated } => {
            out.push_str(if *negated { "/[^" } else { "/[" });
            for (from, to) in ranges {
                let _ok = write!(
                    out,
                    "\\x{{{:x}}}-\\x{{{:x}}}",
                    u32::from(*from),
                    u32::from(*to)
                );
            }
            out.push_str("]/");
        }
        Node::Rule(number) => {
            let _ok = write!(out, "{}{number}", if recursive { 'g' } else { 'G' });
        }
        Node::Sequence(nodes) if nodes.is_empty() => out.push_str("\"\""),
        Node::Sequence(nodes) => print_list(out, nodes, " ", recursive),
        Node::Choice(nodes) => print_list(out, nodes, " | ", recursive),
        Node::Repeat { what, min, max } => {
            out.push('(');
            print(out, what, recursive);
            out.push(')');
            let _ok = match max {
                Some(max) => write!(out, "{{{min},{max}}}"),
                None => write!(out, "{{{min},}}"),
            };
        }
    }
}

fn print_list(out: &mut String, nodes: &[Node], between: &str, recursive: bool) {
    let group = nodes.len() > 1;
    out.push_str(if group { "(" } else { "" });
    for (nth, node) in nodes.iter().enumerate() {
        out.push_str(if nth > 0 { between } else { "" });
        print(out, node, recursive);
    }
    out.push_str(if group { ")" } else { "" });
}
