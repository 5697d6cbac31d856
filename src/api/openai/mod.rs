//! OpenAI's HTTP API, and the node's own pages beside it.

use super::error::{ApiError, Kind};
use super::{ApiState, body, governance, guard, health, mesh};
use crate::wish::{Defaults, Invalid};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

mod chat;
mod completions;
mod envelope;
mod error;
mod fields;
mod messages;
mod models;
mod request;
#[cfg(test)]
mod request_tests;
mod sse;
mod unsupported;

pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/health", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/status", get(health::status))
        .route("/api/ps", get(health::ps))
        .route("/api/mesh", get(mesh::page))
        .route("/api/experts", post(mesh::register))
        .route("/api/experts/remove", post(mesh::unregister))
        .route("/api/pause", post(mesh::pause))
        .route("/api/gov/records", post(governance::submit))
        .route("/api/unload", post(health::unload))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(state.clone(), guarded))
        .with_state(state)
}

/// Reads and checks a body; what is wrong with it is counted as refused.
async fn accept(
    state: &ApiState,
    headers: &HeaderMap,
    body: Body,
    parse: fn(&[u8], &Defaults) -> Result<request::Request, Invalid>,
) -> Result<request::Request, ApiError> {
    let read = body::read(headers, body, state.limits.body).await;
    let parsed = read.and_then(|body| {
        let request = parse(&body, &state.defaults())?;
        state.check_name(&request.wish.model)?;
        Ok(request)
    });
    parsed.inspect_err(|error| state.metrics.refused(error))
}

/// Host, origin and key; and for pages of configured origins the headers that let them read.
async fn guarded(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let shared = origin.filter(|origin| {
        state
            .allowed_origins
            .iter()
            .any(|allowed| allowed.as_bytes() == origin.as_bytes())
    });
    let preflight = shared.is_some() && request.method() == Method::OPTIONS;
    let mut response = match guard::check(&state, &request) {
        // Browsers ask without the key whether they may send it.
        Err(error) if preflight && error.kind == Kind::InvalidApiKey => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(()) if preflight => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if let Some(origin) = shared {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if preflight {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, POST"),
            );
            let allowed = HeaderValue::from_static("authorization, content-type");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
    }
    response
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    let message = format!(
        "there is nothing at {method} {}; try /v1/models, /v1/chat/completions or /v1/completions",
        uri.path()
    );
    ApiError::new(Kind::UnknownRoute, message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Kind::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    )
}
