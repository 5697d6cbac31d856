//! Function calls: written under a grammar, read back, whole and in pieces.

use crate::{vocabulary, walk::walk};
use quorate::grammar::tools::{CallParser, Delta, ToolChoice, parse_tool_calls};
use quorate::grammar::{GrammarError, Matcher};
use quorate_core::chat::{Family, Tool, ToolCall};
use serde_json::Value;

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: &str| Tool {
        name: name.into(),
        description: String::new(),
        parameters: parameters.into(),
    };
    vec![
        tool(
            "add",
            r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"required":["a","b"]}"#,
        ),
        tool(
            "add2",
            r##"{"properties":{"t":{"$ref":"#/$defs/t"}},"required":["t"],"$defs":{"t":{"enum":["x\"</tool_call>","y"]}}}"##,
        ),
        tool("now", "{}"),
    ]
}

fn in_pieces(family: Family, text: &str, sizes: usize) -> (String, Vec<ToolCall>) {
    let mut parser = CallParser::new(family);
    let mut content = String::new();
    let mut calls = Vec::new();
    let letters: Vec<char> = text.chars().collect();
    let mut take = |deltas: Vec<Delta>| {
        for delta in deltas {
            match delta {
                Delta::Content(text) => content.push_str(&text),
                Delta::Call(call) => calls.push(call),
            }
        }
    };
    letters
        .chunks(sizes)
        .for_each(|piece| take(parser.push(&piece.iter().collect::<String>())));
    take(parser.finish());
    (content, calls)
}

fn sound(call: &ToolCall) -> bool {
    let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
    match call.name.as_str() {
        "add" => arguments["a"].is_number() && arguments["b"].is_number(),
        "add2" => ["x\"</tool_call>", "y"].contains(&arguments["t"].as_str().unwrap_or_default()),
        "now" => arguments.is_object(),
        _ => false,
    }
}

#[test]
fn required_calls_are_calls_of_the_offered_functions() {
    let vocab = vocabulary::small();
    for family in Family::ALL {
        for seed in 0..12 {
            let matcher =
                Matcher::tools(&tools(), &ToolChoice::Required, family, &vocab).expect("compiles");
            let (text, tokens) = walk(matcher, &vocab, seed);
            assert_eq!(
                tokens.contains(&vocabulary::TOOL_CALLS),
                family == Family::Mistral
            );
            let (content, calls) = parse_tool_calls(family, &text);
            assert!(
                content.is_empty() && !calls.is_empty() && calls.iter().all(sound),
                "{family}: {text}"
            );
            for sizes in [1, 2, 7] {
                assert_eq!(
                    in_pieces(family, &text, sizes),
                    (String::new(), calls.clone()),
                    "{family}: {text}"
                );
            }
        }
    }
}

#[test]
fn a_named_call_is_one_call_of_that_function() {
    let vocab = vocabulary::small();
    for family in Family::ALL {
        let choice = ToolChoice::Named("add2".into());
        let matcher = Matcher::tools(&tools(), &choice, family, &vocab).expect("compiles");
        let (text, _) = walk(matcher, &vocab, 3);
        let (_, calls) = parse_tool_calls(family, &text);
        assert!(
            matches!(calls.as_slice(), [call] if call.name == "add2" && sound(call)),
            "{family}: {text}"
        );
        let choice = ToolChoice::Named("sub".into());
        let refused = Matcher::tools(&tools(), &choice, family, &vocab);
        assert!(matches!(refused, Err(GrammarError::Compile(why)) if why.contains("sub")));
    }
}

/// Feeds a text byte by byte; None if a mask forbids it.
fn follow(family: Family, text: &str) -> Option<bool> {
    let vocab = vocabulary::small();
    let mut matcher =
        Matcher::tools(&tools(), &ToolChoice::Auto, family, &vocab).expect("compiles");
    let mut rest = text.as_bytes();
    while let Some(&byte) = rest.first() {
        let (token, len) = if rest.starts_with(b"[TOOL_CALLS]") {
            (vocabulary::TOOL_CALLS, "[TOOL_CALLS]".len())
        } else {
            ((0..vocab.len()).find(|&t| vocab.text(t) == [byte])?, 1)
        };
        match matcher.next().expect("a mask") {
            quorate::grammar::Next::Allowed(mask) if mask.allows(token) => {
                matcher.commit(token).expect("allowed")
            }
            _ => return None,
        }
        rest = &rest[len..];
    }
    Some(match matcher.next().expect("a mask") {
        quorate::grammar::Next::Done => true,
        quorate::grammar::Next::Allowed(mask) => mask.allows(vocabulary::END),
    })
}

#[test]
fn auto_permits_text_and_binds_calls() {
    for family in Family::ALL {
        for text in ["", "Hello, {\"x\": 1} \u{e9} <tool", "{\"na"] {
            assert_eq!(follow(family, text), Some(true), "{family}: {text}");
        }
    }
    for family in [Family::ChatMl, Family::Qwen] {
        let call =
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": -2}}\n</tool_call>";
        assert_eq!(follow(family, call), Some(true));
        assert_eq!(
            follow(family, &format!("Let me see.\n{call}\n{call}")),
            Some(true)
        );
        assert_eq!(follow(family, &format!("{call} and")), None);
        assert_eq!(follow(family, "<tool_call>\n{\"name\": \"sub\""), None);
        assert_eq!(
            follow(family, "<tool_call>\n{\"name\": \"add\""),
            Some(false)
        );
    }
    for family in [Family::Llama3, Family::Gemma] {
        assert_eq!(
            follow(
                family,
                "{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": 2}}"
            ),
            Some(true)
        );
        assert_eq!(follow(family, "{\"name\": \"sub\""), None);
    }
    assert_eq!(
        follow(
            Family::Mistral,
            "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}]"
        ),
        Some(true)
    );
    assert_eq!(
        follow(
            Family::Mistral,
            "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}"
        ),
        Some(false)
    );
    assert_eq!(
        follow(Family::Mistral, "[TOOL_CALLS][{\"name\": \"sub\""),
        None
    );
}

fn add(a: i32) -> ToolCall {
    ToolCall {
        name: "add".into(),
        arguments: format!("{{\"a\":{a}}}"),
    }
}

#[test]
fn calls_are_read_whole_or_in_pieces() {
    let tagged = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    let other = "<tool_call>{\"arguments\": {\"a\": 2}, \"name\": \"add\"}</tool_call>";
    let object = "{\"name\": \"add\", \"parameters\": {\"a\": 1}}";
    let array = "[{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"add\", \"arguments\": {\"a\": 2}}]";
    for (family, text, content, calls) in [
        (
            Family::Qwen,
            format!("Hm.\n{tagged}\n{other}\n"),
            "Hm.",
            vec![add(1), add(2)],
        ),
        (
            Family::Qwen,
            "a < b\n\nc <tool".into(),
            "a < b\n\nc <tool",
            vec![],
        ),
        (
            Family::Qwen,
            "x <tool_call>\nnonsense".into(),
            "x<tool_call>\nnonsense",
            vec![],
        ),
        (
            Family::Qwen,
            "<tool_call>\n{\"name\": \"add\"".into(),
            "<tool_call>\n{\"name\": \"add\"",
            vec![],
        ),
        (Family::Llama3, object.into(), "", vec![add(1)]),
        (
            Family::Llama3,
            format!("<|python_tag|>{object}; {object}"),
            "",
            vec![add(1), add(1)],
        ),
        (Family::Llama3, format!("\n {object}\n"), "", vec![add(1)]),
        (
            Family::Llama3,
            "{\"name\": \"Ada\", \"born\": 1815}".into(),
            "{\"name\": \"Ada\", \"born\": 1815}",
            vec![],
        ),
        (
            Family::Llama3,
            format!("I say {object}"),
            &format!("I say {object}"),
            vec![],
        ),
        (Family::Llama3, "{\"a\": 1}".into(), "{\"a\": 1}", vec![]),
        (Family::Gemma, object.into(), "", vec![add(1)]),
        (Family::Mistral, array.into(), "", vec![add(1), add(2)]),
        (
            Family::Mistral,
            format!("[TOOL_CALLS] {array}"),
            "",
            vec![add(1), add(2)],
        ),
        (Family::Mistral, "[1, 2]".into(), "[1, 2]", vec![]),
        (Family::Mistral, "[TOOL".into(), "[TOOL", vec![]),
    ] {
        assert_eq!(
            parse_tool_calls(family, &text),
            (content.to_string(), calls.clone()),
            "{family}: {text}"
        );
        for sizes in [1, 3, 10] {
            assert_eq!(
                in_pieces(family, &text, sizes),
                (content.to_string(), calls.clone()),
                "{family}: {text}"
            );
        }
    }
}

#[test]
fn text_is_not_held_back_longer_than_it_may_be_a_call() {
    let mut parser = CallParser::new(Family::Qwen);
    assert_eq!(parser.push("Hello <b"), [Delta::Content("Hello <b".into())]);
    assert_eq!(parser.push(" <tool"), []);
    assert_eq!(parser.push("box>"), [Delta::Content(" <toolbox>".into())]);
    let mut parser = CallParser::new(Family::Llama3);
    assert_eq!(parser.push("{\"na"), []);
    assert_eq!(parser.push("tion"), [Delta::Content("{\"nation".into())]);
    assert_eq!(parser.push("\""), [Delta::Content("\"".into())]);
}
