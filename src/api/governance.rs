//! `quorate.v1.Governance` and `POST /api/gov/records`: signed records come in, and what they come to
//! is told. Nothing here signs.

use super::error::{ApiError, Kind};
use super::{ApiState, body, mesh};
use crate::mesh::{Brought, unix_s};
use crate::wire::v1;
use crate::wire::v1::governance_server::Governance;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use quorate_core::governance::{Halt, Parcel, Record};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

pub(super) struct Service {
    pub(super) state: ApiState,
}

#[tonic::async_trait]
impl Governance for Service {
    async fn halt_mesh(
        &self,
        request: Request<v1::HaltMeshRequest>,
    ) -> Result<Response<v1::SubmitRecordsResponse>, Status> {
        let halt = Halt::decode(&request.into_inner().halt).map_err(|error| {
            let message = format!("this is no signed halt: {error}");
            ApiError::about("halt", Kind::InvalidValue, message)
        })?;
        let brought = bring(&self.state, vec![Record::Halt(halt)]).await?;
        Ok(Response::new(proto(&brought)))
    }

    async fn submit_records(
        &self,
        request: Request<v1::SubmitRecordsRequest>,
    ) -> Result<Response<v1::SubmitRecordsResponse>, Status> {
        let brought = bring(&self.state, records(&request.into_inner().parcel)?).await?;
        Ok(Response::new(proto(&brought)))
    }

    async fn get_governance(
        &self,
        _: Request<v1::GetGovernanceRequest>,
    ) -> Result<Response<v1::GovernanceState>, Status> {
        let standing = self.state.mesh.standing().ok_or_else(mesh::no_mesh)?;
        let snapshot = standing.snapshot();
        Ok(Response::new(v1::GovernanceState {
            network: standing.network().0.to_vec(),
            state: standing.hash().to_vec(),
            halted: standing.reasons().map(str::to_owned).collect(),
            phase: standing.phase() as u32,
            config_version: snapshot.version,
            config: snapshot.config.hash().to_vec(),
            nodes_admitted: standing.admissions().admitted(unix_s()).len() as u32,
        }))
    }
}

/// `POST /api/gov/records`: a parcel, as bytes.
pub(super) async fn submit(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let body = body::read(&headers, body, state.limits.body).await?;
    let brought = bring(&state, records(&body)?).await?;
    let refused = brought.refused.iter().map(|(id, why)| {
        let id = blake3::Hash::from_bytes(*id).to_hex();
        json!({"id": id.as_str(), "why": why.to_string()})
    });
    Ok(Json(json!({
        "new": brought.new,
        "known": brought.known,
        "refused": refused.collect::<Vec<_>>(),
    })))
}

fn records(parcel: &[u8]) -> Result<Vec<Record>, ApiError> {
    let parcel = Parcel::decode(parcel)
        .map_err(|error| ApiError::about("parcel", Kind::InvalidValue, error.to_string()))?;
    Ok(parcel.records)
}

async fn bring(state: &ApiState, records: Vec<Record>) -> Result<Brought, ApiError> {
    let brought = state.mesh.bring(records).await.ok_or_else(mesh::no_mesh)?;
    brought.map_err(|why| {
        let message = format!("taken and passed on, but not written down here: {why}");
        ApiError::new(Kind::Internal, message)
    })
}

fn proto(brought: &Brought) -> v1::SubmitRecordsResponse {
    let refused = brought.refused.iter().map(|(id, why)| v1::RefusedRecord {
        id: id.to_vec(),
        why: why.to_string(),
    });
    v1::SubmitRecordsResponse {
        new: brought.new as u32,
        known: brought.known as u32,
        refused: refused.collect(),
    }
}
