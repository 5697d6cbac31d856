//! What a walk through a schema's masks writes parses and validates.

use crate::{vocabulary, walk::walk};
use quorate::grammar::{GrammarError, Matcher, Next};
use serde_json::{Value, json};

/// As much of JSON schema as the tests use.
fn valid(schema: &Value, value: &Value) -> bool {
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let size = |key: &str| schema.get(key).and_then(Value::as_u64);
    let within = |len: u64, min: &str, max: &str| {
        size(min).is_none_or(|m| len >= m) && size(max).is_none_or(|m| len <= m)
    };
    let kind = match schema.get("type").and_then(Value::as_str) {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => panic!("unknown type {other}"),
    };
    let listed = schema
        .get("enum")
        .is_none_or(|all| all.as_array().is_some_and(|all| all.contains(value)));
    let constant = schema.get("const").is_none_or(|constant| constant == value);
    let any = schema
        .get("anyOf")
        .and_then(Value::as_array)
        .is_none_or(|all| all.iter().any(|s| valid(s, value)));
    let bounds = value.as_f64().is_none_or(|n| {
        number("minimum").is_none_or(|m| n >= m) && number("maximum").is_none_or(|m| n <= m)
    });
    let text = value
        .as_str()
        .is_none_or(|s| within(s.chars().count() as u64, "minLength", "maxLength"));
    let items = value.as_array().is_none_or(|items| {
        within(items.len() as u64, "minItems", "maxItems")
            && schema
                .get("items")
                .is_none_or(|each| items.iter().all(|item| valid(each, item)))
    });
    let members = value.as_object().is_none_or(|members| {
        let known = schema.get("properties").and_then(Value::as_object);
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let required = schema.get("required").and_then(Value::as_array);
        required.is_none_or(|all| {
            all.iter()
                .all(|key| key.as_str().is_some_and(|key| members.contains_key(key)))
        }) && members.iter().all(
            |(key, member)| match known.and_then(|known| known.get(key)) {
                Some(schema) => valid(schema, member),
                None => !closed,
            },
        )
    });
    kind && listed && constant && any && bounds && text && items && members
}

#[track_caller]
fn check_with(schema: &Value, also: impl Fn(&Value) -> bool) {
    let vocab = vocabulary::small();
    for seed in 0..24 {
        let matcher = Matcher::json_schema(schema, &vocab).expect("compiles");
        let (text, _) = walk(matcher, &vocab, seed);
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(
            valid(schema, &value) && also(&value),
            "{schema} was given {text}"
        );
    }
}

#[track_caller]
fn check(schema: &Value) {
    check_with(schema, |_| true);
}

#[test]
fn json_objects() {
    let vocab = vocabulary::small();
    for seed in 0..40 {
        let (text, _) = walk(
            Matcher::json_object(&vocab).expect("compiles"),
            &vocab,
            seed,
        );
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value.is_object());
    }
}

#[test]
fn objects_with_required_and_optional_members() {
    check(
        &json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
        "on": {"type": "boolean"}}, "required": ["age"], "additionalProperties": false}),
    );
    check(
        &json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "null"}},
        "required": ["b"], "additionalProperties": false}}, "required": ["a"], "additionalProperties": false}),
    );
}

#[test]
fn arrays_enums_and_constants() {
    check(&json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}));
    check(&json!({"enum": ["red", "green", 7, null, {"a": [true]}]}));
    check(
        &json!({"type": "object", "properties": {"kind": {"const": "é\"x"}}, "required": ["kind"],
        "additionalProperties": false}),
    );
}

#[test]
fn numbers_within_bounds() {
    check(&json!({"type": "integer", "minimum": -17, "maximum": 123}));
    check(&json!({"type": "number", "minimum": 0.5, "maximum": 2.25}));
}

#[test]
fn strings_with_lengths_and_patterns() {
    check(&json!({"type": "string", "minLength": 2, "maxLength": 5}));
    check_with(
        &json!({"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2,4}$"}),
        |value| {
            let (letters, digits) = value
                .as_str()
                .and_then(|s| s.split_once('-'))
                .unwrap_or_default();
            letters.len() == 3
                && letters.bytes().all(|b| b.is_ascii_uppercase())
                && (2..=4).contains(&digits.len())
                && digits.bytes().all(|b| b.is_ascii_digit())
        },
    );
}

#[test]
fn alternatives_and_references() {
    check(
        &json!({"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"x": {"type": "boolean"}},
        "required": ["x"], "additionalProperties": false}]}),
    );
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["value", "next"],
        "additionalProperties": false}}, "$ref": "#/$defs/node"});
    check_with(&tree, |value| value.get("next").is_some());
}

#[test]
fn characters_may_be_split_between_tokens() {
    let vocab = vocabulary::small();
    let schema = json!({"const": "é😀x"});
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (text, tokens) = walk(
            Matcher::json_schema(&schema, &vocab).expect("compiles"),
            &vocab,
            seed,
        );
        assert_eq!(text, "\"é😀x\"");
        seen.insert(tokens);
    }
    assert!(seen.len() > 3, "several ways to cut the same text");
}

#[test]
fn control_tokens_are_no_text_and_ends_come_last() {
    let vocab = vocabulary::small();
    let mut matcher = Matcher::json_schema(&json!({"type": "string"}), &vocab).expect("compiles");
    for byte in *b"\"<|im_start|>" {
        let Next::Allowed(mask) = matcher.next().expect("a mask") else {
            panic!("done too early")
        };
        assert!(
            (0..4).all(|control| !mask.allows(control)),
            "a control token inside"
        );
        assert!(matcher.commit(2).is_err(), "a control token was taken");
        let token = (0..vocab.len())
            .find(|&t| vocab.text(t) == [byte])
            .expect("a byte");
        matcher.commit(token).expect("a byte of text");
    }
}

#[test]
fn matchers_go_between_threads() {
    fn sendable<T: Send>() {}
    sendable::<Matcher>();
}

#[test]
fn what_cannot_be_enforced_is_named() {
    let vocab = vocabulary::small();
    let refused = |schema: Value| match Matcher::json_schema(&schema, &vocab) {
        Err(GrammarError::Compile(why)) => why,
        other => panic!("{schema}: {other:?}"),
    };
    assert!(refused(json!({"type": "array", "uniqueItems": true})).contains("uniqueItems"));
    assert!(refused(json!({"type": "nonsense"})).contains("nonsense"));
    assert!(refused(json!({"$ref": "#/$defs/missing"})).contains("missing"));
    assert!(refused(json!({"$ref": "https://example.org/schema"})).contains("example.org"));
    assert!(refused(json!({"$ref": "#"})).contains("no token fits"));
    assert!(refused(json!([1])).contains("object"));
    assert!(refused(json!(false)).contains("object"));
}
