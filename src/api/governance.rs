//! `quorate.v1.Governance` and `POST /api/gov/records`: signed records come in, and what they come to
//! is told. Nothing here signs.

use super::error::{ApiError, Kind};
use super::{ApiState, body, mesh};
use crate::mesh::{Brought, News, unix_s};
use crate::wire::v1;
use crate::wire::v1::governance_event::Event;
use crate::wire::v1::governance_server::Governance;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use quorate_core::governance::{Entry, Halt, Meant, Parcel, Record, Stage, Standing, Tally};
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};
use tonic::{Request, Response, Status};

pub(super) struct Service {
    pub(super) state: ApiState,
}

type Events = Pin<Box<dyn futures::Stream<Item = Result<v1::GovernanceEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Governance for Service {
    type WatchGovernanceStream = Events;

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

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::CastResponse>, Status> {
        let v1::ProposeRequest { entry, vote } = request.into_inner();
        let vote = Some(vote).filter(|vote| !vote.is_empty());
        cast(&self.state, Meant::Proposal, &entry, vote.as_deref()).await
    }

    async fn cast_vote(
        &self,
        request: Request<v1::CastVoteRequest>,
    ) -> Result<Response<v1::CastResponse>, Status> {
        cast(&self.state, Meant::Vote, &request.into_inner().entry, None).await
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::CastResponse>, Status> {
        let v1::ResumeRequest { entry, vote } = request.into_inner();
        let vote = Some(vote).filter(|vote| !vote.is_empty());
        cast(&self.state, Meant::Resume, &entry, vote.as_deref()).await
    }

    async fn get_governance(
        &self,
        _: Request<v1::GetGovernanceRequest>,
    ) -> Result<Response<v1::GovernanceState>, Status> {
        let watch = self.state.mesh.watch().await;
        let (standing, _) = watch.ok_or_else(|| mesh::no_mesh(&self.state))?;
        Ok(Response::new(told(&standing)))
    }

    async fn watch_governance(
        &self,
        _: Request<v1::WatchGovernanceRequest>,
    ) -> Result<Response<Events>, Status> {
        let watch = self.state.mesh.watch().await;
        let (standing, news) = watch.ok_or_else(|| mesh::no_mesh(&self.state))?;
        Ok(Response::new(Box::pin(events(standing, news))))
    }
}

fn told(standing: &Standing) -> v1::GovernanceState {
    let snapshot = standing.snapshot();
    v1::GovernanceState {
        network: standing.network().0.to_vec(),
        state: standing.hash().to_vec(),
        halted: standing.reasons().map(str::to_owned).collect(),
        phase: standing.phase() as u32,
        config_version: snapshot.version,
        config: snapshot.config.hash().to_vec(),
        nodes_admitted: standing.admissions().admitted(unix_s()).len() as u32,
    }
}

/// How it stands now, then what changes. Ends when this node leaves the mesh, or the reader is too slow.
fn events(
    now: Arc<Standing>,
    mut news: broadcast::Receiver<News>,
) -> impl futures::Stream<Item = Result<v1::GovernanceEvent, Status>> + Send {
    async_stream::try_stream! {
        yield event(Event::State(told(&now)));
        loop {
            yield match news.recv().await {
                Ok(News::Standing(standing)) => event(Event::State(told(&standing))),
                Ok(News::Record(record)) => event(Event::Record(record.encode())),
                Err(RecvError::Lagged(missed)) => Err(too_slow(missed))?,
                Err(RecvError::Closed) => break,
            };
        }
    }
}

fn event(event: Event) -> v1::GovernanceEvent {
    v1::GovernanceEvent { event: Some(event) }
}

fn too_slow(missed: u64) -> Status {
    Status::resource_exhausted(format!(
        "you read too slowly, and {missed} events of the mesh are gone; call WatchGovernance again: it begins with how the mesh stands"
    ))
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

/// An entry, and a vote after it.
async fn cast(
    state: &ApiState,
    meant: Meant,
    entry: &[u8],
    vote: Option<&[u8]>,
) -> Result<Response<v1::CastResponse>, Status> {
    let mut entries = vec![(meant, signed("entry", entry)?)];
    if let Some(vote) = vote {
        entries.push((Meant::Vote, signed("vote", vote)?));
    }
    let cast = state.mesh.cast(entries).await;
    let cast = cast.ok_or_else(|| mesh::no_mesh(state))?;
    let came = cast.map_err(not_kept)?;
    let came = came.map_err(|why| ApiError::new(Kind::Miscast(why), why.to_string()))?;
    Ok(Response::new(v1::CastResponse {
        entries: came.iter().map(|cast| cast.entry.0.to_vec()).collect(),
        new: came.iter().filter(|cast| cast.is_new).count() as u32,
        ..came
            .last()
            .and_then(|cast| cast.about)
            .map_or_else(v1::CastResponse::default, tally)
    }))
}

fn signed(param: &str, entry: &[u8]) -> Result<Entry, ApiError> {
    Entry::decode(entry).map_err(|error| {
        let message = format!("this is no signed entry: {error}");
        ApiError::about(param, Kind::InvalidValue, message)
    })
}

fn tally(tally: Tally) -> v1::CastResponse {
    let stage = match tally.stage {
        Stage::Open => v1::cast_response::Stage::Open,
        Stage::Accepted => v1::cast_response::Stage::Accepted,
        Stage::PassedOver => v1::cast_response::Stage::PassedOver,
        Stage::Ahead => v1::cast_response::Stage::Ahead,
    };
    v1::CastResponse {
        proposal: tally.proposal.0.to_vec(),
        stage: stage.into(),
        yes: tally.yes as u32,
        needed: tally.needed as u32,
        ..v1::CastResponse::default()
    }
}

fn not_kept(why: String) -> ApiError {
    let message = format!("taken and passed on, but not written down here: {why}");
    ApiError::new(Kind::Internal, message)
}

async fn bring(state: &ApiState, records: Vec<Record>) -> Result<Brought, ApiError> {
    let brought = state.mesh.bring(records).await;
    let brought = brought.ok_or_else(|| mesh::no_mesh(state))?;
    brought.map_err(not_kept)
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use quorate_core::config::MeshConfig;
    use quorate_core::governance::{Genesis, Records, fold};
    use quorate_core::limits::NEWS_MAX;

    fn standing() -> Arc<Standing> {
        let key = libp2p_identity::Keypair::generate_ed25519().public();
        let key = key.try_into_ed25519().expect("it is one").to_bytes();
        let genesis = Genesis::new(vec![key], MeshConfig::default()).expect("one person is enough");
        Arc::new(fold(&genesis, &Records::default()))
    }

    #[tokio::test]
    async fn a_watcher_hears_all_that_fits_and_a_slow_one_is_cut_off_with_a_reason() {
        for (news, is_cut) in [(NEWS_MAX, false), (NEWS_MAX + 1, true)] {
            let (tell, hear) = broadcast::channel(NEWS_MAX);
            let mut watched = Box::pin(events(standing(), hear));
            for _ in 0..news {
                tell.send(News::Standing(standing()))
                    .expect("somebody listens");
            }
            drop(tell);
            assert!(
                watched.next().await.is_some_and(|first| first.is_ok()),
                "how it stands"
            );
            let rest: Vec<_> = watched.collect().await;
            let Some(Err(why)) = rest.last() else {
                assert_eq!((rest.len(), is_cut), (NEWS_MAX, false));
                continue;
            };
            assert!(is_cut && rest.len() == 1 && why.code() == tonic::Code::ResourceExhausted);
            assert!(why.message().contains("1 events"), "{why}");
        }
    }
}
