//! Grammars and schemas made to hurt: refused or survived, within seconds.

use crate::vocabulary;
use quorate::grammar::{GrammarError, Matcher, Next};
use quorate_core::vocab::Vocab;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Compiles and takes a few steps; whatever happens must be an error or a mask, soon.
fn survive(name: &str, make: impl FnOnce(&Arc<Vocab>) -> Result<Matcher, GrammarError>) {
    let vocab = vocabulary::small();
    let start = Instant::now();
    let outcome = match make(&vocab) {
        Err(error) => error.to_string(),
        Ok(mut matcher) => {
            let compiled = start.elapsed();
            let mut steps = 0;
            let end = loop {
                match matcher.next() {
                    Ok(Next::Allowed(mask)) if steps < 60 => {
                        let middle = mask.allowed() as usize / 2;
                        let token = mask.tokens().nth(middle).expect("an allowed token");
                        steps += 1;
                        if let Err(error) = matcher.commit(token) {
                            break error.to_string();
                        }
                    }
                    Ok(_) => break "fine".into(),
                    Err(error) => break error.to_string(),
                }
            };
            format!("compiled in {compiled:?}, {steps} steps, {end}")
        }
    };
    let took = start.elapsed();
    println!(
        "{name:>22}: {took:>10.1?} {}",
        outcome
            .chars()
            .take(100)
            .collect::<String>()
            .replace('\n', " ")
    );
    assert!(took < Duration::from_secs(20), "{name} took {took:?}");
}

fn schema(name: &str, schema: &Value) {
    survive(name, |vocab| Matcher::json_schema(schema, vocab));
}

fn grammar(name: &str, text: &str) {
    survive(name, |vocab| Matcher::grammar(text, vocab));
}

#[test]
fn schemas() {
    let mut deep = json!({"type": "integer"});
    for _ in 0..60 {
        deep = json!({"anyOf": [deep, {"type": "null"}]});
    }
    schema("nested 60", &deep);
    let mut deeper = json!(1);
    for _ in 0..10_000 {
        deeper = Value::Array(vec![deeper]);
    }
    let mut holder = json!({"enum": []});
    holder["enum"] = deeper;
    schema("nested 10,000", &holder);
    // A value as deep as that overflows the stack in its own drop; that is not ours to test.
    while let Some(Value::Array(mut inner)) = holder.get_mut("enum").map(Value::take) {
        holder["enum"] = inner.pop().unwrap_or_default();
    }
    schema(
        "enum of 20,000",
        &json!({"enum": (0..20_000).map(|n| format!("v{n}")).collect::<Vec<_>>()}),
    );
    schema(
        "enum too large",
        &json!({"enum": (0..100_000).map(|n| format!("value {n}")).collect::<Vec<_>>()}),
    );
    schema("1 MB", &json!({"const": "x".repeat(1 << 20)}));
    schema("ref to itself", &json!({"$ref": "#"}));
    schema(
        "refs in a circle",
        &json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    );
    schema(
        "allOf circle",
        &json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}, "$ref": "#/$defs/a"}),
    );
    let wide: Vec<Value> = (0..30).map(|n| json!({"anyOf": [{"minimum": n, "type": "number"}, {"type": "string", "minLength": n}]})).collect();
    schema("allOf of anyOf", &json!({"allOf": wide}));
    let objects: Vec<Value> = (0..14).map(|n| {
        json!({"anyOf": [{"type": "object", "properties": {format!("a{n}"): {"type": "string"}}},
            {"type": "object", "properties": {format!("b{n}"): {"type": "integer"}}}]})
    }).collect();
    schema("2^14 intersections", &json!({"allOf": objects}));
    let mut twice = json!({"$defs": {"d0": {"type": "object"}}});
    for n in 1..24 {
        let below = format!("#/$defs/d{}", n - 1);
        twice["$defs"][format!("d{n}")] = json!({"allOf": [{"$ref": below}, {"$ref": below}]});
    }
    twice["$ref"] = "#/$defs/d23".into();
    schema("2^23 references", &twice);
    schema(
        "long string",
        &json!({"type": "string", "minLength": 100_000, "maxLength": 200_000}),
    );
    schema(
        "long array",
        &json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}),
    );
    schema(
        "regex bomb",
        &json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}),
    );
    schema(
        "regex states",
        &json!({"type": "string", "pattern": "^(a|b)*a(a|b){60}c$"}),
    );
    schema(
        "regex nested",
        &json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(5000), ")?".repeat(5000))}),
    );
    schema(
        "regex nested 120",
        &json!({"type": "string", "pattern": format!("^{}a{}$", "(b".repeat(120), "c)*".repeat(120))}),
    );
    schema(
        "regex unsupported",
        &json!({"type": "string", "pattern": "(?=a)(?<!b)\\1"}),
    );
    schema(
        "300 optional",
        &json!({"type": "object", "properties": (0..300).map(|n| (format!("p{n}"), json!({"type": "integer"}))).collect::<serde_json::Map<_, _>>()}),
    );
    schema(
        "many optional",
        &json!({"type": "object", "properties": (0..2_000).map(|n| (format!("p{n}"), json!({"type": "integer"}))).collect::<serde_json::Map<_, _>>()}),
    );
    schema(
        "impossible",
        &json!({"type": "integer", "minimum": 5, "maximum": 4}),
    );
    schema(
        "pattern properties",
        &json!({"type": "object", "patternProperties": {"^(a|aa)+$": {"type": "integer"}, "^a+b?$": {"type": "string"}}}),
    );
    schema(
        "huge numbers",
        &json!({"type": "number", "multipleOf": 1e-300, "minimum": -1e308}),
    );
}

#[test]
fn grammars() {
    grammar(
        "gbnf nested 10,000",
        &format!("root ::= {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000)),
    );
    grammar(
        "lark nested 10,000",
        &format!("start: {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000)),
    );
    grammar(
        "lark regex nested",
        &format!("start: /{}a{}/", "(".repeat(10_000), ")".repeat(10_000)),
    );
    let chain =
        |count: usize, rule: &dyn Fn(usize) -> String| (0..count).map(rule).collect::<String>();
    grammar(
        "gbnf chain",
        &format!(
            "root ::= r0\n{}r900 ::= \"a\"",
            chain(900, &|n| format!("r{n} ::= r{}\n", n + 1))
        ),
    );
    grammar(
        "gbnf too many rules",
        &format!(
            "root ::= r0\n{}r3000 ::= \"a\"",
            chain(3000, &|n| format!("r{n} ::= r{}\n", n + 1))
        ),
    );
    grammar(
        "gbnf chain, recursive",
        &format!(
            "root ::= r0\n{}r900 ::= \"a\" root?",
            chain(900, &|n| format!("r{n} ::= r{}\n", n + 1))
        ),
    );
    grammar(
        "lark rule chain",
        &format!(
            "start: r0\n{}r900: \"a\"",
            chain(900, &|n| format!("r{n}: r{}\n", n + 1))
        ),
    );
    grammar(
        "lark too many rules",
        &format!(
            "start: r0\n{}r3000: \"a\"",
            chain(3000, &|n| format!("r{n}: r{}\n", n + 1))
        ),
    );
    grammar(
        "lark token chain",
        &format!(
            "start: R0\n{}R900: \"a\"",
            chain(900, &|n| format!("R{n}: R{} \"x\"?\n", n + 1))
        ),
    );
    grammar(
        "gbnf doubling",
        &format!(
            "root ::= r0\n{}r60 ::= \"a\"",
            chain(60, &|n| format!("r{n} ::= r{0} r{0}\n", n + 1))
        ),
    );
    grammar(
        "gbnf doubling, rec.",
        &format!(
            "root ::= r0 root?\n{}r60 ::= \"a\" | \"\"",
            chain(60, &|n| format!("r{n} ::= r{0} r{0}\n", n + 1))
        ),
    );
    grammar(
        "gbnf repeats",
        "root ::= (((\"a\"{1,2000}){1,2000}){1,2000}){1,2000}",
    );
    grammar(
        "gbnf repeats, rec.",
        "root ::= (((\"a\"{1,2000}){1,2000}){1,2000}){1,2000} root?",
    );
    grammar(
        "gbnf left recursion",
        "root ::= root | root root | root \"a\" | \"\"",
    );
    grammar(
        "gbnf ambiguous",
        "root ::= root root root | [a-z]* | (\"a\" | \"aa\" | [a-b]+)*",
    );
    grammar("gbnf no text", "root ::= root");
    grammar("gbnf states", "root ::= [ab]* \"a\" [ab]{200} \"c\"");
    grammar("gbnf long", &format!("root ::= \"{}\"", "x".repeat(60_000)));
    grammar(
        "gbnf long, rec.",
        &format!("root ::= \"{}\" root?", "x".repeat(60_000)),
    );
    grammar(
        "gbnf wide",
        &format!("root ::= {} \"z\"", "\"ab\" | ".repeat(8_000)),
    );
    grammar(
        "gbnf wide, rec.",
        &format!("root ::= {} \"z\" root?", "\"ab\" | ".repeat(8_000)),
    );
    grammar("too long", &format!("root ::= \"{}\"", "x".repeat(70_000)));
    grammar(
        "lark json nested",
        &format!("start: %json {}1{}", "[".repeat(10_000), "]".repeat(10_000)),
    );
    grammar("lark lark", &"start: %lark { start: %lark { ".repeat(2_000));
    grammar(
        "lark repeat",
        "start: (((\"a\"{1,100000}){1,100000}){1,100000}){1,100000}",
    );
    grammar("lark bare", "start");
    grammar("lark tokens", "start: <[0-999999999]> <[^1]>");
    grammar("not utf8 range", "start: /[\\x80-\\xff]+/");
}

#[test]
fn vocabularies() {
    use quorate_core::vocab::Piece;
    let of = |pieces: Vec<Piece>| Arc::new(Vocab::new(pieces));
    let text = |bytes: &[u8]| Piece {
        bytes: bytes.to_vec(),
        control: false,
        ends: false,
    };
    assert!(Matcher::json_object(&of(vec![])).is_err());
    assert!(Matcher::json_object(&of(vec![text(b""), text(&[0xff])])).is_err());
    let mut matcher = Matcher::json_object(&of(vec![text(b"{"), text(b"{"), text(&[b' '; 5000])]))
        .expect("compiles");
    assert!(
        matches!(matcher.next(), Ok(Next::Allowed(mask)) if mask.allowed() == 2),
        "twins are both allowed"
    );
    matcher.commit(1).expect("allowed");
    assert!(
        matcher.next().is_err(),
        "nothing in this vocabulary goes on"
    );
}
