//! What is read, what is ignored and what is refused, field by field.

use super::request::{Request, chat, completion};
use crate::wish::{Choice, Defaults, Fault, Invalid, Prompt, Shape};
use quorate_core::chat::Role;
use quorate_core::config::MeshConfig;
use quorate_core::generate::Guessing;
use quorate_core::law::{Sampler, Transforms};
use serde_json::{Value, json};

fn defaults() -> Defaults {
    Defaults {
        transforms: Transforms::NEUTRAL,
        max_tokens: None,
        config: MeshConfig::default(),
    }
}

/// A good chat with these fields besides (or instead).
fn chat_with(more: Value) -> Result<Request, Invalid> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    merge(&mut body, more);
    chat(body.to_string().as_bytes(), &defaults())
}

fn completion_with(more: Value) -> Result<Request, Invalid> {
    let mut body = json!({"model": "m", "prompt": "hi"});
    merge(&mut body, more);
    completion(body.to_string().as_bytes(), &defaults())
}

fn merge(body: &mut Value, more: Value) {
    let Value::Object(more) = more else {
        panic!("a test adds fields")
    };
    body.as_object_mut().unwrap().extend(more);
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

#[test]
fn a_bare_chat_takes_the_defaults() {
    let request = chat_with(json!({})).unwrap();
    assert!(!request.stream && !request.include_usage);
    let wish = request.wish;
    assert_eq!(
        (wish.choices, wish.max_tokens, wish.logprobs),
        (1, None, None)
    );
    assert_eq!(wish.shape, Shape::Free);
    let Prompt::Chat { messages, tools } = wish.prompt else {
        panic!("not a chat")
    };
    assert_eq!(
        (messages[0].role, messages[0].content.as_str()),
        (Role::User, "hi")
    );
    assert!(tools.is_empty());
}

#[test]
fn everything_that_shapes_sampling_is_read() {
    let wish = chat_with(json!({
        "temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
        "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"7": -100, "3": 1.5},
        "seed": -2, "n": 2, "stop": "x", "max_completion_tokens": 9, "logprobs": true, "top_logprobs": 5,
    }))
    .unwrap()
    .wish;
    let t = &wish.law.transforms;
    assert_eq!(wish.law.sampler, Sampler::Greedy);
    assert_eq!(
        (t.top_p, t.top_k, t.min_p, t.repeat_penalty),
        (0.9, 40, 0.05, 1.1)
    );
    assert_eq!((t.frequency_penalty, t.presence_penalty), (0.5, -0.5));
    assert_eq!(t.bias, [(3, 1.5), (7, -100.0)]);
    assert_eq!(
        (wish.seed, wish.choices, wish.max_tokens),
        (Some(u64::MAX - 1), 2, Some(9))
    );
    assert_eq!((wish.stop, wish.logprobs), (vec!["x".to_string()], Some(5)));
    assert_eq!(
        chat_with(json!({"top_k": -1}))
            .unwrap()
            .wish
            .law
            .transforms
            .top_k,
        0
    );
}

#[test]
fn how_a_mesh_guesses_and_draws_is_read() {
    let asked = |quorate: Value| chat_with(json!({"quorate": quorate})).map(|r| r.wish);
    let read = |quorate| {
        let wish = asked(quorate).unwrap();
        (wish.together.guessing, wish.law.sampler)
    };
    let seeded = |guessing| (guessing, Sampler::Seeded);
    assert_eq!(read(json!({})), seeded(Guessing::Stream));
    assert_eq!(
        read(json!({"ahead": true, "sampler": "seeded"})),
        seeded(Guessing::Stream)
    );
    assert_eq!(read(json!({"ahead": false})), seeded(Guessing::Never));
    let both = (Guessing::Branches, Sampler::Rejection);
    assert_eq!(
        read(json!({"ahead": "branches", "sampler": "rejection"})),
        both
    );
    // A law that draws nothing, or otherwise, has no drafts to accept.
    for more in [
        json!({"temperature": 0}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"quorate": {"sampler": "rejection", "mode": "handover"}}),
        json!({"quorate": {"sampler": "rejection", "robust": 1}}),
    ] {
        let mut body = json!({"quorate": {"sampler": "rejection"}});
        merge(&mut body, more);
        assert_eq!(chat_with(body).unwrap_err().param, "quorate.sampler");
    }
}

#[test]
fn harmless_fields_are_ignored_and_null_is_silence() {
    let more = json!({
        "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "parallel_tool_calls": true,
        "reasoning_effort": "low", "never_heard_of": [1], "temperature": null, "stop": null, "audio": null,
        "modalities": ["text"], "best_of": 1, "functions": [], "tools": null, "stream_options": null,
    });
    chat_with(more).unwrap();
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    let refused = |more: Value| {
        let name = more.as_object().unwrap().keys().next().unwrap().clone();
        for error in [
            chat_with(more.clone()).unwrap_err(),
            completion_with(more).unwrap_err(),
        ] {
            assert_eq!((&error.param, error.fault), (&name, Fault::Unsupported));
            assert!(error.message.contains(&name), "{}", error.message);
        }
    };
    refused(json!({"best_of": 2}));
    refused(json!({"suffix": "end"}));
    refused(json!({"echo": true}));
    refused(json!({"audio": {"voice": "x"}}));
    refused(json!({"modalities": ["text", "audio"]}));
    refused(json!({"functions": [{"name": "f"}]}));
    refused(json!({"function_call": "auto"}));
    refused(json!({"prediction": {"type": "content"}}));
    refused(json!({"web_search_options": {}}));
    refused(json!({"min_tokens": 3}));
    refused(json!({"mirostat": 2}));
}

#[test]
fn wrong_types_name_the_field_and_what_came() {
    let malformed = |more: Value, param: &str, what: &str| {
        let error = chat_with(more).unwrap_err();
        assert_eq!(
            (error.param.as_str(), error.fault),
            (param, Fault::Malformed)
        );
        assert!(error.message.contains(what), "{}", error.message);
    };
    malformed(
        json!({"temperature": "hot"}),
        "temperature",
        "a number, not a string",
    );
    malformed(
        json!({"max_tokens": [1]}),
        "max_tokens",
        "a whole number, not an array",
    );
    malformed(json!({"stream": 1}), "stream", "true or false");
    malformed(json!({"stop": {"a": 1}}), "stop", "an object");
    malformed(json!({"stop": ["a", 1]}), "stop", "a number");
    malformed(json!({"seed": "7"}), "seed", "a string");
    malformed(json!({"model": 7}), "model", "a string, not a number");
    malformed(json!({"messages": "hi"}), "messages", "an array");
    malformed(json!({"messages": [7]}), "messages[0]", "an object");
    malformed(
        json!({"messages": [{"role": "user", "content": 7}]}),
        "messages[0].content",
        "a number",
    );
    malformed(json!({"logit_bias": [1]}), "logit_bias", "an object");
    malformed(
        json!({"logit_bias": {"1": "x"}}),
        "logit_bias.1",
        "a number",
    );
    malformed(json!({"tools": {}}), "tools", "an array");
    malformed(
        json!({"response_format": "json"}),
        "response_format",
        "an object",
    );
    malformed(
        json!({"stream_options": true}),
        "stream_options",
        "an object",
    );
    for body in [
        "",
        "{",
        "[]",
        "NaN",
        "{\"temperature\": NaN}",
        "{\"a\": 1e999}",
        "\u{0}",
    ] {
        let error = chat(body.as_bytes(), &defaults()).unwrap_err();
        assert_eq!(error.fault, Fault::Malformed, "{body}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        chat(deep.as_bytes(), &defaults()).unwrap_err().fault,
        Fault::Malformed
    );
}

#[test]
fn values_out_of_range_name_the_field() {
    let value = |more: Value, param: &str| {
        let error = chat_with(more).unwrap_err();
        assert_eq!((error.param.as_str(), error.fault), (param, Fault::Value));
    };
    value(json!({"temperature": -0.1}), "temperature");
    value(json!({"temperature": 1e300}), "temperature");
    value(json!({"max_tokens": -1}), "max_tokens");
    value(json!({"max_tokens": 0}), "max_tokens");
    value(json!({"max_tokens": 1.5}), "max_tokens");
    value(json!({"max_tokens": 4_294_967_296_u64}), "max_tokens");
    value(
        json!({"max_tokens": 3, "max_completion_tokens": 4}),
        "max_tokens",
    );
    value(json!({"n": 9}), "n");
    value(json!({"seed": 0.5}), "seed");
    value(json!({"top_logprobs": 3}), "top_logprobs");
    value(
        json!({"logprobs": true, "top_logprobs": 21}),
        "top_logprobs",
    );
    value(json!({"logit_bias": {"the": 1}}), "logit_bias");
    value(json!({"messages": []}), "messages");
    value(
        json!({"messages": [{"role": "king", "content": "x"}]}),
        "messages[0].role",
    );
    value(
        json!({"response_format": {"type": "yaml"}}),
        "response_format.type",
    );
    value(
        json!({"tools": [tool("f")], "tool_choice": "perhaps"}),
        "tool_choice",
    );
    value(json!({"tool_choice": "required"}), "tool_choice");
    value(json!({"tools": [tool("f f")]}), "tools[0].function.name");
    value(
        json!({"tools": [tool("f"), tool("f")]}),
        "tools[1].function.name",
    );
}

#[test]
fn missing_fields_are_named() {
    let missing = |body: Value, param: &str| {
        let error = chat(body.to_string().as_bytes(), &defaults()).unwrap_err();
        assert_eq!((error.param.as_str(), error.fault), (param, Fault::Missing));
    };
    missing(json!({"model": "m"}), "messages");
    missing(
        json!({"messages": [{"role": "user", "content": "x"}]}),
        "model",
    );
    missing(
        json!({"model": "m", "messages": [{"content": "x"}]}),
        "messages[0].role",
    );
    missing(
        json!({"model": "m", "messages": [{"role": "user"}]}),
        "messages[0].content",
    );
    let error = completion(br#"{"model": "m"}"#, &defaults()).unwrap_err();
    assert_eq!(
        (error.param.as_str(), error.fault),
        ("prompt", Fault::Missing)
    );
}

#[test]
fn parts_of_text_join_and_pictures_are_refused() {
    let content =
        |parts: Value| chat_with(json!({"messages": [{"role": "user", "content": parts}]}));
    let part = |text: &str| json!({"type": "text", "text": text});
    let request = content(json!([part("a"), part("b")])).unwrap();
    let Prompt::Chat { messages, .. } = request.wish.prompt else {
        panic!("not a chat")
    };
    assert_eq!(messages[0].content, "ab");
    let picture = json!({"type": "image_url", "image_url": {"url": "data:,"}});
    let error = content(json!([part("a"), picture])).unwrap_err();
    assert_eq!(
        (error.param.as_str(), error.fault),
        ("messages[0].content[1]", Fault::Unsupported)
    );
}

#[test]
fn calls_and_their_results_are_turns() {
    let call =
        json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let request = chat_with(json!({"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]}));
    let Prompt::Chat { messages, .. } = request.unwrap().wish.prompt else {
        panic!("not a chat")
    };
    let roles: Vec<Role> = messages.iter().map(|m| m.role).collect();
    assert_eq!(
        roles,
        [Role::System, Role::User, Role::Assistant, Role::Tool]
    );
    assert_eq!(messages[2].tool_calls[0].arguments, "{\"a\":1}");
}

#[test]
fn tools_are_shown_only_where_a_call_may_come() {
    let with = |choice: Value| {
        let wish = chat_with(json!({"tools": [tool("f")], "tool_choice": choice}))
            .unwrap()
            .wish;
        let Prompt::Chat { tools, .. } = wish.prompt else {
            panic!("not a chat")
        };
        (tools.len(), wish.shape)
    };
    assert_eq!(with(Value::Null), (1, Shape::Tools(Choice::Auto)));
    assert_eq!(with(json!("auto")), (1, Shape::Tools(Choice::Auto)));
    assert_eq!(with(json!("required")), (1, Shape::Tools(Choice::Required)));
    assert_eq!(with(json!("none")), (0, Shape::Free));
    let named = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(with(named), (1, Shape::Tools(Choice::Named("f".into()))));
    let unknown = json!({"type": "function", "function": {"name": "g"}});
    let error = chat_with(json!({"tools": [tool("f")], "tool_choice": unknown})).unwrap_err();
    assert!(error.message.contains("'g'"));
}

#[test]
fn one_answer_has_one_shape() {
    let schema =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}});
    let shape = |more: Value| chat_with(more).unwrap().wish.shape;
    assert_eq!(
        shape(json!({"response_format": {"type": "text"}})),
        Shape::Free
    );
    assert_eq!(
        shape(json!({"response_format": {"type": "json_object"}})),
        Shape::Json
    );
    assert_eq!(
        shape(json!({"response_format": schema})),
        Shape::Schema(json!({"type": "object"}))
    );
    assert_eq!(
        shape(json!({"grammar": "root ::= \"a\""})),
        Shape::Grammar("root ::= \"a\"".into())
    );
    let error = chat_with(json!({"response_format": schema, "grammar": "x"})).unwrap_err();
    assert_eq!(
        (error.param.as_str(), error.fault),
        ("response_format", Fault::Unsupported)
    );
    assert!(error.message.contains("grammar"));
}

#[test]
fn prompts_come_in_four_forms() {
    let prompt = |value: Value| completion_with(json!({"prompt": value})).map(|r| r.wish.prompt);
    assert_eq!(prompt(json!("a")), Ok(Prompt::Texts(vec!["a".into()])));
    assert_eq!(
        prompt(json!(["a", "b"])),
        Ok(Prompt::Texts(vec!["a".into(), "b".into()]))
    );
    assert_eq!(prompt(json!([1, 2])), Ok(Prompt::Tokens(vec![vec![1, 2]])));
    assert_eq!(
        prompt(json!([[1], [2]])),
        Ok(Prompt::Tokens(vec![vec![1], vec![2]]))
    );
    for (wrong, fault) in [
        (json!({}), Fault::Malformed),
        (json!(["a", 1]), Fault::Malformed),
        (json!([1, "a"]), Fault::Malformed),
        (json!([1, -2]), Fault::Value),
        (json!([]), Fault::Value),
        (json!([[]]), Fault::Value),
        (json!(vec!["a"; 17]), Fault::Value),
    ] {
        assert_eq!(prompt(wrong).unwrap_err().fault, fault);
    }
}
