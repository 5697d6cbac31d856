//! The node's own pages: alive, ready, metrics, and what the command line shows.

use super::error::{ApiError, Kind};
use super::{ApiState, body};
use crate::driver::{ModelStatus, NodeStatus, Residence};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The process serves HTTP.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// A request now would be answered: the default model is in memory or can be loaded.
pub(super) async fn ready(State(state): State<ApiState>) -> Response {
    match why_not_ready(&state).await {
        None => Json(json!({"status": "ready", "model": state.default_model})).into_response(),
        Some(reason) => {
            let page = json!({"status": "not_ready", "reason": reason});
            (StatusCode::SERVICE_UNAVAILABLE, Json(page)).into_response()
        }
    }
}

async fn why_not_ready(state: &ApiState) -> Option<String> {
    let Some(status) = state.node.status().await else {
        return Some("the node is shutting down".into());
    };
    let name = state.catalogue.resolve(state.default_model.as_deref()?);
    let loaded = status
        .models
        .iter()
        .any(|m| m.name == name && m.state == Residence::Ready);
    if loaded || state.catalogue.list().await.iter().any(|m| m.name == name) {
        return None;
    }
    Some(format!(
        "the default model '{name}' is not installed; get it with `quorate pull {name}`"
    ))
}

pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    let status = state.node.status().await.unwrap_or_default();
    let mut response = state.metrics.render(&status).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) async fn status(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let status = state.node.status().await.ok_or_else(ApiError::gone)?;
    let models: Vec<Value> = status.models.iter().map(model).collect();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node_id": status.node_id,
        "uptime_ms": status.uptime_ms,
        "running": status.running,
        "waiting": status.waiting,
        "generated_tokens": status.generated_tokens,
        "memory_budget_bytes": status.memory_budget_bytes,
        "memory_used_bytes": status.memory_used_bytes,
        "default_model": state.default_model,
        "models": models,
        "mesh": mesh(&state, &status).await,
    })))
}

/// Null: the node belongs to no mesh.
async fn mesh(state: &ApiState, status: &NodeStatus) -> Option<Value> {
    let page = state.mesh.page().await?;
    let here = page
        .peers
        .iter()
        .filter(|p| p.is_member && p.link.is_some());
    let given: u64 = status.guests.iter().map(|guest| guest.opinions).sum();
    Some(json!({
        "network": page.network.to_string(),
        "members": page.members,
        "here": here.count(),
        "halted": page.halted,
        "guests": status.guests.len(),
        "guest_sessions": status.guests.iter().map(|g| g.running).sum::<usize>(),
        "opinions_given": given,
        "closed": status.closed.map(|why| why.to_string()),
        "experts_asked": status.remote_experts,
    }))
}

pub(super) async fn ps(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let status = state.node.status().await.ok_or_else(ApiError::gone)?;
    let models: Vec<Value> = status.models.iter().map(model).collect();
    Ok(Json(json!({"models": models})))
}

/// `{"model": name}`; says whether it was loaded at all.
pub(super) async fn unload(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let body = body::read(&headers, body, state.limits.body).await?;
    let body: Value = serde_json::from_slice(&body).map_err(|error| {
        ApiError::new(Kind::Malformed, format!("the body is not JSON: {error}"))
    })?;
    let Some(name) = body["model"].as_str() else {
        return Err(ApiError::about(
            "model",
            Kind::MissingParameter,
            "send {\"model\": \"<name>\"}",
        ));
    };
    let name = state.catalogue.resolve(name);
    let unloaded = state.node.unload(name).await;
    Ok(Json(json!({"model": name, "unloaded": unloaded})))
}

fn model(model: &ModelStatus) -> Value {
    let state = match model.state {
        Residence::Loading => "loading",
        Residence::Ready => "ready",
        Residence::Leaving => "leaving",
    };
    json!({
        "name": model.name,
        "state": state,
        "bytes": model.bytes,
        "context": model.context,
        "processor": model.processor,
        "running": model.running,
        "expires_in_ms": model.expires_in_ms,
    })
}
