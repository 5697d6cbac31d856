//! The surface that a stranger's client expects, through async-openai.

use crate::server::{Server, endless, start};
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionMessageToolCalls, CreateChatCompletionRequest, CreateChatCompletionResponse,
    CreateChatCompletionStreamResponse, FinishReason,
};
use async_openai::types::completions::{CreateCompletionRequest, CreateCompletionResponse};
use futures::StreamExt;
use quorate::expert::stub::StubOptions;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn with<T: DeserializeOwned>(mut base: Value, more: Value) -> T {
    let Value::Object(more) = more else {
        panic!("a test adds fields")
    };
    base.as_object_mut().unwrap().extend(more);
    serde_json::from_value(base).expect("a request that the client knows")
}

fn chat_request(more: Value) -> CreateChatCompletionRequest {
    let messages = json!([{"role": "user", "content": "hello"}]);
    with(
        json!({"model": "stub", "messages": messages, "max_completion_tokens": 40}),
        more,
    )
}

async fn chat(server: &Server, more: Value) -> CreateChatCompletionResponse {
    let client = server.client();
    client.chat().create(chat_request(more)).await.unwrap()
}

async fn streamed(server: &Server, more: Value) -> Vec<CreateChatCompletionStreamResponse> {
    let client = server.client();
    let stream = client
        .chat()
        .create_stream(chat_request(more))
        .await
        .unwrap();
    stream.map(|chunk| chunk.unwrap()).collect().await
}

async fn complete(server: &Server, more: Value) -> CreateCompletionResponse {
    let base = json!({"model": "stub", "prompt": "hello", "max_tokens": 20});
    let request: CreateCompletionRequest = with(base, more);
    server.client().completions().create(request).await.unwrap()
}

fn text(response: &CreateChatCompletionResponse) -> String {
    response.choices[0].message.content.clone().unwrap()
}

fn joined(chunks: &[CreateChatCompletionStreamResponse]) -> String {
    let choices = chunks.iter().flat_map(|chunk| &chunk.choices);
    choices
        .filter_map(|choice| choice.delta.content.clone())
        .collect()
}

#[tokio::test]
async fn models_are_listed_under_names_that_requests_use() {
    let server = start(StubOptions::default()).await;
    let models = server.client().models().list().await.unwrap();
    let names: Vec<&str> = models.data.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(names, ["stub", "gpt-4o"]);
    for name in names {
        assert_eq!(
            server.client().models().retrieve(name).await.unwrap().id,
            name
        );
        chat(&server, json!({"model": name})).await;
    }
    let error = server
        .client()
        .models()
        .retrieve("org/nothing:Q4")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("did you mean stub"), "{error}");
}

#[tokio::test]
async fn a_chat_says_what_it_cost_and_what_it_obeyed() {
    let server = start(endless()).await;
    let response = chat(&server, json!({"seed": 7})).await;
    assert_eq!(
        (response.object.as_str(), response.model.as_str()),
        ("chat.completion", "stub")
    );
    assert_eq!(
        response.choices[0].finish_reason,
        Some(FinishReason::Length)
    );
    let usage = response.usage.unwrap();
    assert_eq!(usage.completion_tokens, 40);
    assert_eq!(usage.total_tokens, usage.prompt_tokens + 40);
    assert_eq!(usage.prompt_tokens_details.unwrap().cached_tokens, Some(0));
    let body = json!({"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3});
    let page = server
        .post("/v1/chat/completions", &body.to_string())
        .await
        .json();
    assert!(
        page["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("fp_")
    );
    let provenance = &page["quorate"];
    assert!(
        provenance["seed"].as_u64().unwrap() < 1 << 53,
        "{provenance}"
    );
    assert!(
        provenance["law"].as_str().unwrap().starts_with("seeded"),
        "{provenance}"
    );
    assert!(provenance["timings"]["decode_us"].is_u64(), "{provenance}");
}

#[tokio::test]
async fn a_stream_is_the_whole_answer_in_pieces() {
    let server = start(endless()).await;
    let whole = text(&chat(&server, json!({"seed": 7})).await);
    let more = json!({"seed": 7, "stream_options": {"include_usage": true}});
    let chunks = streamed(&server, more).await;
    assert_eq!(joined(&chunks), whole);
    let first = &chunks[0].choices[0].delta;
    assert!(first.role.is_some() && first.content.as_deref() == Some(""));
    let [.., last, usage] = chunks.as_slice() else {
        panic!("too few chunks")
    };
    assert_eq!(last.choices[0].finish_reason, Some(FinishReason::Length));
    assert!(usage.choices.is_empty());
    assert_eq!(usage.usage.as_ref().unwrap().completion_tokens, 40);
    assert!(chunks.iter().all(|chunk| chunk.id == chunks[0].id));
    // One chunk for the role, one for each token, one for the end, one for the usage.
    assert_eq!(chunks.len(), 43);
}

#[tokio::test]
async fn deltas_have_no_null_fields_and_the_end_is_marked() {
    let server = start(endless()).await;
    let body = json!({"model": "stub", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": true});
    let reply = server.post("/v1/chat/completions", &body.to_string()).await;
    assert!(reply.head.contains("content-type: text/event-stream"));
    let events = reply.events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    for chunk in chunks {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        let delta = chunk["choices"][0]["delta"].as_object().unwrap();
        assert!(delta.values().all(|value| !value.is_null()), "{chunk}");
    }
    let last: Value = serde_json::from_str(chunks.last().unwrap()).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(last["quorate"]["seed"].is_u64());
}

#[tokio::test]
async fn seeds_repeat_and_choices_differ() {
    let server = start(endless()).await;
    let one = text(&chat(&server, json!({"seed": 1})).await);
    assert_eq!(one, text(&chat(&server, json!({"seed": 1})).await));
    assert_ne!(one, text(&chat(&server, json!({"seed": 2})).await));
    assert_ne!(
        text(&chat(&server, json!({})).await),
        text(&chat(&server, json!({})).await)
    );
    let three = chat(&server, json!({"seed": 1, "n": 3})).await;
    let texts: Vec<_> = three
        .choices
        .iter()
        .map(|c| c.message.content.clone().unwrap())
        .collect();
    assert_eq!(texts[0], one);
    assert!(texts[1] != texts[0] && texts[2] != texts[1]);
    assert_eq!(three.usage.unwrap().completion_tokens, 120);
    let chunks = streamed(&server, json!({"seed": 1, "n": 3})).await;
    for (index, text) in (0..).zip(texts) {
        let choices = chunks
            .iter()
            .flat_map(|chunk| &chunk.choices)
            .filter(|c| c.index == index);
        let streamed: String = choices.filter_map(|c| c.delta.content.clone()).collect();
        assert_eq!(streamed, text);
    }
}

#[tokio::test]
async fn stop_strings_end_the_text_before_themselves() {
    let server = start(endless()).await;
    let whole = text(&chat(&server, json!({"seed": 3})).await);
    let stop = &whole[10..13];
    let cut = chat(&server, json!({"seed": 3, "stop": [stop]})).await;
    let expected = whole.split(stop).next().unwrap();
    assert_eq!(text(&cut), expected);
    assert_eq!(cut.choices[0].finish_reason, Some(FinishReason::Stop));
    assert_eq!(
        joined(&streamed(&server, json!({"seed": 3, "stop": stop})).await),
        expected
    );
}

#[tokio::test]
async fn logprobs_come_with_bytes_and_alternatives() {
    let server = start(endless()).await;
    let more = json!({"logprobs": true, "top_logprobs": 3, "seed": 1, "max_completion_tokens": 5});
    let response = chat(&server, more.clone()).await;
    let content = response.choices[0]
        .logprobs
        .clone()
        .unwrap()
        .content
        .unwrap();
    assert_eq!(content.len(), 5);
    let spelled: String = content.iter().map(|entry| entry.token.as_str()).collect();
    assert_eq!(spelled, text(&response));
    for entry in &content {
        assert!(entry.logprob <= 0.0 && entry.top_logprobs.len() == 3);
        assert_eq!(entry.bytes.as_deref().unwrap(), entry.token.as_bytes());
        let best = entry.top_logprobs[0].logprob;
        assert!(entry.top_logprobs.iter().all(|top| top.logprob <= best));
    }
    let chunks = streamed(&server, more).await;
    let entries = chunks
        .iter()
        .flat_map(|chunk| &chunk.choices)
        .filter_map(|c| c.logprobs.clone());
    assert_eq!(entries.map(|l| l.content.unwrap().len()).sum::<usize>(), 5);
}

#[tokio::test]
async fn completions_continue_texts_lists_and_tokens() {
    let server = start(endless()).await;
    let one = complete(&server, json!({"seed": 5})).await;
    assert_eq!(
        (one.object.as_str(), one.choices[0].text.len()),
        ("text_completion", 20)
    );
    let tokens: Vec<u32> = b"hello".iter().map(|&byte| byte.into()).collect();
    let same = complete(&server, json!({"seed": 5, "prompt": tokens})).await;
    assert_eq!(same.choices[0].text, one.choices[0].text);
    let two = complete(
        &server,
        json!({"seed": 5, "prompt": ["hello", "world"], "n": 2}),
    )
    .await;
    assert_eq!(two.choices.len(), 4);
    assert_eq!(two.choices[0].text, one.choices[0].text);
    assert_eq!(two.usage.unwrap().prompt_tokens, 10);
    let request = json!({"model": "stub", "prompt": "hello", "max_tokens": 20, "seed": 5});
    let request: CreateCompletionRequest = serde_json::from_value(request).unwrap();
    let client = server.client();
    let stream = client.completions().create_stream(request).await.unwrap();
    let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
    let text: String = chunks
        .iter()
        .map(|chunk| chunk.choices[0].text.as_str())
        .collect();
    assert_eq!(text, one.choices[0].text);
}

#[tokio::test]
async fn completions_have_the_older_logprobs() {
    let server = start(endless()).await;
    let response = complete(&server, json!({"logprobs": 2, "max_tokens": 4})).await;
    let choice = &response.choices[0];
    let logprobs = choice.logprobs.clone().unwrap();
    assert_eq!(logprobs.tokens.concat(), choice.text);
    assert_eq!(logprobs.text_offset, [0, 1, 2, 3]);
    assert_eq!(logprobs.token_logprobs.len(), 4);
}

#[tokio::test]
async fn older_logprobs_always_name_the_drawn_token() {
    let server = start(endless()).await;
    for asked in [0, 1] {
        let request = json!({"logprobs": asked, "max_tokens": 60, "seed": 1});
        let response = complete(&server, request).await;
        let logprobs = response.choices[0].logprobs.clone().unwrap();
        let mut sizes = Vec::new();
        let drawn = logprobs.tokens.iter().zip(&logprobs.token_logprobs);
        for (top, (token, ln_p)) in logprobs.top_logprobs.iter().zip(drawn) {
            let top = top.as_object().unwrap();
            assert_eq!(top[token].as_f64().map(|v| v as f32), *ln_p, "{top:?}");
            sizes.push(top.len());
        }
        sizes.sort_unstable();
        sizes.dedup();
        // Some drawn tokens are the most likely ones, most of them are not.
        let expected = if asked == 0 { vec![1] } else { vec![1, 2] };
        assert_eq!(sizes, expected);
    }
}

#[tokio::test]
async fn a_seed_of_minus_one_is_a_random_one_that_is_told() {
    let server = start(endless()).await;
    let ask = async |seed: i64| {
        let body = json!({"model": "stub", "prompt": "hello", "max_tokens": 30, "seed": seed});
        let reply = server
            .post("/v1/completions", &body.to_string())
            .await
            .json();
        let text = reply["choices"][0]["text"].as_str().unwrap().to_owned();
        (text, reply["quorate"]["seed"].as_i64().unwrap())
    };
    let (one, seed) = ask(-1).await;
    let (other, _) = ask(-1).await;
    assert_ne!(one, other);
    assert_eq!(
        ask(seed).await,
        (one, seed),
        "the seed told repeats the text"
    );
}

#[tokio::test]
async fn a_completion_ends_after_sixteen_tokens_unless_told_otherwise() {
    let server = start(endless()).await;
    let body = r#"{"model":"stub","prompt":"hello"}"#;
    let reply = server.post("/v1/completions", body).await.json();
    assert_eq!(reply["usage"]["completion_tokens"], 16);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn an_answer_obeys_its_schema() {
    let server = start(StubOptions::default()).await;
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "warm"],
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "warm": {"type": "boolean"}},
    });
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}});
    let more = json!({"response_format": format, "max_completion_tokens": 200, "seed": 4});
    let whole = chat(&server, more.clone()).await;
    assert_eq!(whole.choices[0].finish_reason, Some(FinishReason::Stop));
    let answer: Value = serde_json::from_str(&text(&whole)).unwrap();
    assert!(
        ["Rome", "Oslo"].contains(&answer["city"].as_str().unwrap()),
        "{answer}"
    );
    assert!(answer["warm"].is_boolean(), "{answer}");
    assert_eq!(joined(&streamed(&server, more).await), text(&whole));
    let object = chat(&server, json!({"response_format": {"type": "json_object"}})).await;
    assert!(text(&object).trim_start().starts_with('{'));
}

#[tokio::test]
async fn an_answer_obeys_its_grammar() {
    let server = start(StubOptions::default()).await;
    let body = json!({"model": "stub", "prompt": "x", "grammar": "root ::= \"yes\" | \"no\""});
    let page = server
        .post("/v1/completions", &body.to_string())
        .await
        .json();
    let text = page["choices"][0]["text"].as_str().unwrap();
    assert!(["yes", "no"].contains(&text), "{page}");
}

fn weather_tool() -> Value {
    let parameters = json!({
        "type": "object", "additionalProperties": false, "required": ["city"],
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    });
    json!([{"type": "function", "function": {"name": "weather", "description": "It looks outside.", "parameters": parameters}}])
}

#[tokio::test]
async fn required_calls_are_calls_whole_and_streamed() {
    let server = start(StubOptions::default()).await;
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for choice in [json!("required"), named] {
        let more = json!({"tools": weather_tool(), "tool_choice": choice, "seed": 2, "max_completion_tokens": 300});
        let response = chat(&server, more.clone()).await;
        assert_eq!(
            response.choices[0].finish_reason,
            Some(FinishReason::ToolCalls)
        );
        let calls = response.choices[0].message.tool_calls.clone().unwrap();
        let ChatCompletionMessageToolCalls::Function(call) = &calls[0] else {
            panic!("not a function")
        };
        assert_eq!(call.function.name, "weather");
        let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap();
        assert!(arguments["city"].is_string(), "{arguments}");

        let chunks = streamed(&server, more).await;
        let deltas: Vec<_> = chunks.iter().flat_map(|c| &c.choices).collect();
        let streamed: Vec<_> = deltas
            .iter()
            .filter_map(|c| c.delta.tool_calls.clone())
            .flatten()
            .collect();
        assert_eq!(streamed.len(), calls.len());
        let function = streamed[0].function.clone().unwrap();
        assert_eq!(function.arguments.unwrap(), call.function.arguments);
        assert!(streamed[0].id.as_ref().unwrap().starts_with("call_"));
        assert_eq!(
            deltas.last().unwrap().finish_reason,
            Some(FinishReason::ToolCalls)
        );
    }
}

#[tokio::test]
async fn offered_tools_leave_text_alone_and_results_are_read() {
    let server = start(StubOptions::default()).await;
    let free = chat(&server, json!({"tools": weather_tool(), "seed": 1})).await;
    let message = &free.choices[0].message;
    assert!(message.content.is_some() || message.tool_calls.is_some());
    let call = json!({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}});
    let messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]);
    let answer = chat(
        &server,
        json!({"messages": messages, "tools": weather_tool(), "tool_choice": "none"}),
    )
    .await;
    assert!(!text(&answer).is_empty());
}

#[tokio::test]
async fn the_client_understands_our_errors() {
    let server = start(StubOptions::default()).await;
    let client = server.client();
    let failed = async |more: Value| match client.chat().create(chat_request(more)).await {
        Err(OpenAIError::ApiError(error)) => (error.status_code.as_u16(), error.api_error),
        other => panic!("{other:?}"),
    };
    let (status, error) = failed(json!({"model": "stob"})).await;
    assert_eq!(
        (status, error.code.as_deref()),
        (404, Some("model_not_found"))
    );
    assert!(
        error.message.contains("did you mean stub?"),
        "{}",
        error.message
    );
    let (status, error) = failed(json!({"model": "remote"})).await;
    assert_eq!(
        (status, error.code.as_deref()),
        (404, Some("model_not_installed"))
    );
    assert!(
        error.message.contains("quorate pull remote"),
        "{}",
        error.message
    );
    let (status, error) = failed(json!({"temperature": -1.0})).await;
    assert_eq!((status, error.param.as_deref()), (400, Some("temperature")));
}
