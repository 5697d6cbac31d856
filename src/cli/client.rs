//! The HTTP client of commands that ask the node which is up on this home.

use super::context::Context;
use crate::app;
use crate::error::{Failure, Kind, Outcome};
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

/// It is on this machine.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A page about the node; not for answers, which may take as long as they like.
const PAGE_MAX: Duration = Duration::from_secs(10);
const PAGE_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    base: String,
    key: Option<String>,
}

impl Client {
    /// None if no node is up on this home.
    pub(super) fn of_running_node(context: &Context) -> Outcome<Option<Client>> {
        let Some(node) = context.home.running_node() else {
            return Ok(None);
        };
        let Some(base) = node.api else {
            let pid = node
                .pid
                .map_or_else(String::new, |pid| format!(" (process {pid})"));
            return Err(Failure::new(
                Kind::Taken,
                format!("a node{pid} is starting on this home and does not listen yet"),
            )
            .hint("try again in a moment"));
        };
        crate::tls::install_provider(); // ureq brings none
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .proxy(None) // never around a loopback address
            .build();
        let key = app::api_key(&context.settings)?;
        Ok(Some(Client {
            agent: Agent::new_with_config(config),
            base,
            key,
        }))
    }

    /// The same, where the verb is about a running node.
    pub(super) fn needed(context: &Context) -> Outcome<Client> {
        Client::of_running_node(context)?.ok_or_else(|| {
            let home = context.home.data.display();
            Failure::new(
                Kind::NotFound,
                format!("no node is up on this home ({home})"),
            )
            .hint("start one: quorate up")
        })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn get(&self, path: &str) -> Outcome<Value> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = request.config().timeout_global(Some(PAGE_MAX)).build();
        let response = match &self.key {
            Some(key) => request
                .header("authorization", format!("Bearer {key}"))
                .call(),
            None => request.call(),
        };
        page(self.answered(response)?)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        page(self.send(path, body, Some(PAGE_MAX))?)
    }

    /// Something that is not JSON.
    pub(super) fn post_bytes(&self, path: &str, body: &[u8]) -> Outcome<Value> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let mut request = request.config().timeout_global(Some(PAGE_MAX)).build();
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.header("content-type", "application/octet-stream");
        page(self.answered(request.send(body))?)
    }

    /// The body of a response that may go on for long.
    pub(super) fn stream(&self, path: &str, body: &Value) -> Outcome<impl Read + use<>> {
        let response = self.send(path, body, None)?;
        if response.status().is_success() {
            return Ok(response.into_body().into_reader());
        }
        page(response)?;
        Err(Failure::new(
            Kind::Failed,
            "the node refused without a reason",
        ))
    }

    fn send(&self, path: &str, body: &Value, limit: Option<Duration>) -> Outcome<Response<Body>> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let request = request.config().timeout_global(limit).build();
        let response = match &self.key {
            Some(key) => request
                .header("authorization", format!("Bearer {key}"))
                .send_json(body),
            None => request.send_json(body),
        };
        self.answered(response)
    }

    fn answered(&self, response: Result<Response<Body>, ureq::Error>) -> Outcome<Response<Body>> {
        response.map_err(|error| {
            Failure::new(
                Kind::Network,
                format!("the node at {} does not answer: {error}", self.base),
            )
            .hint("`quorate doctor` looks for the reason")
        })
    }
}

/// JSON, or the error that it says.
fn page(response: Response<Body>) -> Outcome<Value> {
    let status = response.status();
    let mut text = String::new();
    response
        .into_body()
        .into_reader()
        .take(PAGE_BYTES_MAX)
        .read_to_string(&mut text)?;
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if status.is_success() && !value.is_null() {
        return Ok(value);
    }
    match value.get("error") {
        Some(error) => Err(refusal(error)),
        None => Err(Failure::new(
            Kind::Failed,
            format!("the node answered {status} without a reason"),
        )),
    }
}

/// The API's error object.
pub(super) fn refusal(error: &Value) -> Failure {
    let message = error["message"]
        .as_str()
        .unwrap_or("the node refused without a reason");
    refused(error["code"].as_str().unwrap_or_default(), message)
}

/// A refusal of the API, in this process or over HTTP: `code` is OpenAI's field.
pub(super) fn refused(code: &str, message: &str) -> Failure {
    let kind = match code {
        "model_not_found" | "model_not_installed" => Kind::NotFound,
        "model_too_large" => Kind::TooLarge,
        "busy" => Kind::Taken,
        "invalid_api_key" => Kind::Config,
        "malformed_request"
        | "missing_required_parameter"
        | "invalid_value"
        | "unsupported_parameter"
        | "context_length_exceeded"
        | "invalid_grammar"
        | "body_too_large" => Kind::Usage,
        _ => Kind::Failed,
    };
    let failure = Failure::new(kind, message);
    match code {
        "context_length_exceeded" => {
            failure.hint("shorten the prompt, or give the model more room: --ctx TOKENS")
        }
        "invalid_api_key" => {
            failure.hint("export QUORATE_API_KEY=... with the key that the node was started with")
        }
        _ => failure,
    }
}
