//! `GET /v1/models` and `GET /v1/models/{id}`: what is installed, under the names that requests use.

use crate::api::error::{ApiError, Kind};
use crate::api::{ApiState, InstalledModel, mesh};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    let installed = state.catalogue.list().await;
    let find = |name: &str| installed.iter().find(|model| model.name == name);
    let aliases = state.catalogue.aliases.iter();
    let aliased = aliases.filter_map(|(alias, name)| Some(object(alias, find(name)?)));
    let mesh = all_of_us(&state).await;
    let data: Vec<Value> = installed
        .iter()
        .map(|model| object(&model.name, model))
        .chain(aliased)
        .chain(mesh)
        .collect();
    Json(json!({"object": "list", "data": data}))
}

pub(super) async fn one(
    State(state): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) =
        id.map_err(|error| ApiError::about("model", Kind::Malformed, error.body_text()))?;
    if id == mesh::MODEL
        && let Some(object) = all_of_us(&state).await
    {
        return Ok(Json(object));
    }
    let name = state.catalogue.resolve(&id);
    let installed = state.catalogue.list().await;
    match installed.iter().find(|model| model.name == name) {
        Some(model) => Ok(Json(object(&id, model))),
        None => {
            let text = format!("there is no model '{id}' on this node");
            Err(ApiError::unknown_model(&text, &(state.catalogue.near)(&id)))
        }
    }
}

/// All experts of the mesh as one model, while this node belongs to one.
async fn all_of_us(state: &ApiState) -> Option<Value> {
    let is_there = state.mesh.is_there().await;
    is_there
        .then(|| json!({"id": mesh::MODEL, "object": "model", "created": 0, "owned_by": "quorate"}))
}

/// The four fields of OpenAI's, and what clients of local servers look for besides.
fn object(id: &str, model: &InstalledModel) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": model.installed_unix_s,
        "owned_by": "quorate",
        "context_length": model.context,
        "size_bytes": model.bytes,
    })
}
