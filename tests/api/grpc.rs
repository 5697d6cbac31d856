//! The same node over gRPC, on the same port.

use crate::server::{Server, endless, start, start_with};
use quorate::expert::stub::StubOptions;
use quorate::wire::v1::generate_event::Event;
use quorate::wire::v1::generate_request::{Prompt, Shape};
use quorate::wire::v1::inference_client::InferenceClient;
use quorate::wire::v1::{
    Chat, Finished, GenerateRequest, Message, Ready, Sampling, finished, message,
};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
    endpoint.connect().await.unwrap()
}

fn chat(text: &str) -> GenerateRequest {
    let message = Message {
        role: message::Role::User.into(),
        content: text.into(),
    };
    GenerateRequest {
        model: "stub".into(),
        prompt: Some(Prompt::Chat(Chat {
            messages: vec![message],
        })),
        max_tokens: Some(40),
        seed: Some(7),
        ..GenerateRequest::default()
    }
}

async fn refusal(
    server: &Server,
    request: impl tonic::IntoRequest<GenerateRequest>,
) -> tonic::Status {
    let mut client = InferenceClient::new(channel(server).await);
    client.generate(request).await.expect_err("a refusal")
}

#[tokio::test]
async fn generation_is_the_same_as_over_http() {
    let server = start(endless()).await;
    let mut client = InferenceClient::new(channel(&server).await);
    let mut stream = client.generate(chat("hello")).await.unwrap().into_inner();
    let (mut ready, mut text, mut tokens, mut end) =
        (None::<Ready>, String::new(), 0, None::<Finished>);
    while let Some(event) = stream.message().await.unwrap() {
        assert!(end.is_none(), "nothing follows the end");
        match event.event.unwrap() {
            Event::Ready(event) => ready = Some(event),
            Event::Token(token) => {
                text += &token.text;
                tokens += 1;
            }
            Event::Finished(event) => {
                text += &event.text;
                end = Some(event);
            }
        }
    }
    let (ready, end) = (ready.unwrap(), end.unwrap());
    assert_eq!(
        (end.reason(), end.seed, tokens),
        (finished::Reason::Length, 7, 40)
    );
    assert!(end.law.starts_with("seeded"), "{}", end.law);
    let usage = end.usage.unwrap();
    assert_eq!(
        (usage.prompt_tokens, usage.completion_tokens),
        (ready.prompt_tokens, 40)
    );
    let body = r#"{"model":"stub","messages":[{"role":"user","content":"hello"}],"max_tokens":40,"seed":7}"#;
    let page = server.post("/v1/chat/completions", body).await.json();
    assert_eq!(page["choices"][0]["message"]["content"], text);
    assert_eq!(page["quorate"]["law"], end.law);
}

#[tokio::test]
async fn log_probabilities_and_shapes_work() {
    let server = start(StubOptions::default()).await;
    let mut client = InferenceClient::new(channel(&server).await);
    let request = GenerateRequest {
        logprobs: Some(2),
        shape: Some(Shape::Grammar("root ::= \"yes\" | \"no\"".into())),
        ..chat("hello")
    };
    let mut stream = client.generate(request).await.unwrap().into_inner();
    let mut text = String::new();
    while let Some(event) = stream.message().await.unwrap() {
        match event.event.unwrap() {
            Event::Token(token) => {
                assert!(token.ln_p.unwrap() <= 0.0 && token.top.len() == 2);
                text += &token.text;
            }
            Event::Finished(end) => text += &end.text,
            Event::Ready(_) => {}
        }
    }
    assert!(["yes", "no"].contains(&text.as_str()), "{text}");
}

#[tokio::test]
async fn refusals_have_codes_and_the_same_texts() {
    let server = start(StubOptions::default()).await;
    let model = |name: &str| GenerateRequest {
        model: name.into(),
        ..chat("x")
    };
    for (request, code, text) in [
        (model("stob"), Code::NotFound, "did you mean stub?"),
        (
            model("remote"),
            Code::FailedPrecondition,
            "`quorate pull remote`",
        ),
        (model("huge"), Code::FailedPrecondition, "--max-memory"),
        (model("torn"), Code::Internal, "half of it is missing"),
        (model(""), Code::InvalidArgument, "names no model"),
        (
            GenerateRequest {
                prompt: None,
                ..chat("x")
            },
            Code::InvalidArgument,
            "no prompt",
        ),
        (chat(&"x".repeat(5000)), Code::InvalidArgument, "4096"),
        (
            GenerateRequest {
                max_tokens: Some(0),
                ..chat("x")
            },
            Code::InvalidArgument,
            "max_tokens",
        ),
        (
            GenerateRequest {
                sampling: Some(Sampling {
                    temperature: Some(f32::NAN),
                    ..Sampling::default()
                }),
                ..chat("x")
            },
            Code::InvalidArgument,
            "temperature",
        ),
    ] {
        let status = refusal(&server, request).await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let status = refusal(&server, chat(&"x".repeat(3 << 20))).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn deadlines_end_the_work() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let mut request = Request::new(GenerateRequest {
        max_tokens: Some(4000),
        ..chat("x")
    });
    request.set_timeout(Duration::from_millis(100));
    let mut client = InferenceClient::new(channel(&server).await);
    let mut stream = client.generate(request).await.unwrap().into_inner();
    let status = loop {
        match stream.message().await {
            Ok(event) => assert!(event.is_some(), "an end without the deadline"),
            Err(status) => break status,
        }
    };
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status}"
    );
    server.until(|status| status.running == 0).await;
    assert!(server.node.status().await.unwrap().generated_tokens < 2000);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let server = start(StubOptions {
        step: Duration::from_millis(1),
        ..endless()
    })
    .await;
    let mut client = InferenceClient::new(channel(&server).await);
    let request = GenerateRequest {
        max_tokens: Some(4000),
        ..chat("x")
    };
    let mut stream = client.generate(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    server.until(|status| status.running == 0).await;
    assert!(server.node.status().await.unwrap().generated_tokens < 2000);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let server = start(StubOptions::default()).await;
    let mut health = HealthClient::new(channel(&server).await);
    let service = "quorate.v1.Inference".to_string();
    let reply = health
        .check(HealthCheckRequest {
            service: service.clone(),
        })
        .await
        .unwrap();
    assert_eq!(reply.into_inner().status, 1);
    let mut reflection = ServerReflectionClient::new(channel(&server).await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let replies = reflection
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap();
    let reply = replies.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("not a list: {reply:?}")
    };
    assert!(list.service.iter().any(|s| s.name == service), "{list:?}");
}

#[tokio::test]
async fn the_key_is_asked_for_here_too() {
    let server = start_with(StubOptions::default(), |state| {
        state.api_key_hash = Some(*blake3::hash(b"sesame").as_bytes());
    });
    let server = server.await;
    assert_eq!(
        refusal(&server, chat("x")).await.code(),
        Code::Unauthenticated
    );
    let mut request = Request::new(chat("x"));
    request
        .metadata_mut()
        .insert("authorization", "Bearer sesame".parse().unwrap());
    let mut client = InferenceClient::new(channel(&server).await);
    assert!(client.generate(request).await.is_ok());
    let mut health = HealthClient::new(channel(&server).await);
    assert!(health.check(HealthCheckRequest::default()).await.is_ok());
}
