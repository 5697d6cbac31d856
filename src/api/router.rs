//! `quorate.v1.Router`: what this node's router knows, and what this node serves.

use super::error::{ApiError, Kind};
use super::{ApiState, mesh};
use crate::config::{RawExpert, Source};
use crate::driver::NodeStatus;
use crate::expert::ExpertFacts;
use crate::identity;
use crate::mesh::Neighbour;
use crate::node::Library;
use crate::wire::v1::router_server::Router;
use crate::wire::{self, v1};
use quorate_core::ids::ExpertId;
use quorate_core::mesh::Pass;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// How often a watcher may hear of changes.
const WATCH_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Service {
    pub(super) state: ApiState,
}

type Statuses = Pin<Box<dyn futures::Stream<Item = Result<v1::RouterStatus, Status>> + Send>>;

#[tonic::async_trait]
impl Router for Service {
    type WatchRouterStream = Statuses;

    async fn get_router_status(
        &self,
        _: Request<v1::GetRouterStatusRequest>,
    ) -> Result<Response<v1::RouterStatus>, Status> {
        Ok(Response::new(now(&self.state).await?))
    }

    async fn watch_router(
        &self,
        _: Request<v1::WatchRouterRequest>,
    ) -> Result<Response<Statuses>, Status> {
        let state = self.state.clone();
        let statuses = async_stream::try_stream! {
            let mut last = None;
            let mut every = tokio::time::interval(WATCH_EVERY);
            loop {
                every.tick().await;
                let status = now(&state).await?;
                if last.as_ref() != Some(&status) {
                    last = Some(status.clone());
                    yield status;
                }
            }
        };
        Ok(Response::new(Box::pin(statuses)))
    }

    async fn list_experts(
        &self,
        _: Request<v1::ListExpertsRequest>,
    ) -> Result<Response<v1::ListExpertsResponse>, Status> {
        let page = self.state.mesh.page().await;
        let neighbours = page.map_or_else(Vec::new, |page| page.neighbours);
        let experts = neighbours.iter().map(advertised).collect();
        Ok(Response::new(v1::ListExpertsResponse { experts }))
    }

    async fn register_expert(
        &self,
        request: Request<v1::RegisterExpertRequest>,
    ) -> Result<Response<v1::RegisterExpertResponse>, Status> {
        let v1::RegisterExpertRequest {
            name,
            model,
            prefix,
            allow,
            adapter,
        } = request.into_inner();
        let raw = RawExpert {
            name,
            model,
            adapter: (!adapter.is_empty()).then_some(adapter),
            prefix: (!prefix.is_empty()).then_some(prefix),
            allow: (!allow.is_empty()).then_some(allow),
            ..RawExpert::default()
        };
        let Registered { id, here, pass } = register(&self.state, raw).await?;
        Ok(Response::new(v1::RegisterExpertResponse {
            expert: id.0.to_vec(),
            vocabulary: here.vocab.fingerprint().0.to_vec(),
            context: here.context,
            pass: pass.map_or_else(String::new, |pass| pass.to_string()),
        }))
    }
}

/// What is served now.
pub(super) struct Registered {
    pub(super) id: ExpertId,
    /// The model behind it; where a mesh answers, the one here with its vocabulary.
    pub(super) here: Arc<ExpertFacts>,
    /// For others, if it is this node's mesh.
    pub(super) pass: Option<Pass>,
}

/// Takes an expert into what this node serves, and loads it once: what does not load is not kept.
pub(super) async fn register(state: &ApiState, raw: RawExpert) -> Result<Registered, ApiError> {
    state.check_name(&raw.model)?;
    if raw.prefix_file.is_some() {
        // A client would have the node read any file of its owner, and say it.
        let message = "send the text itself as `prefix`: files are read from the settings only";
        return Err(ApiError::about("prefix_file", Kind::InvalidValue, message));
    }
    let expert = raw
        .checked()
        .map_err(|failure| ApiError::about("expert", Kind::InvalidValue, failure.to_string()))?;
    let (name, source) = (expert.name.clone(), expert.source());
    if source != Source::Model && !state.mesh.is_there().await {
        return Err(mesh::no_mesh(state));
    }
    let library = state.library.clone().ok_or_else(ApiError::gone)?;
    library
        .register(expert)
        .map_err(|error| ApiError::about("name", Kind::InvalidValue, error.to_string()))?;
    let loaded = state.node.acquire(&name).await;
    let registered = match loaded {
        Ok(lease) => registered(state, &library, &name, source, lease.facts()).await,
        Err(error) => Err(error.into()),
    };
    registered.inspect_err(|_| {
        library.unregister(&name);
    })
}

async fn registered(
    state: &ApiState,
    library: &Library,
    name: &str,
    source: Source,
    here: &Arc<ExpertFacts>,
) -> Result<Registered, ApiError> {
    let (id, pass) = match source {
        Source::Model => (here.id, None),
        Source::AnotherMesh(pass) if pass.row.vocabulary == here.vocab.fingerprint() => {
            (pass.row.expert, None)
        }
        Source::AnotherMesh(_) => {
            let message = format!(
                "that mesh has another vocabulary than {}, the model with which this node takes part \
                 in its own; choose another one as mesh.model",
                here.model
            );
            return Err(ApiError::about("model", Kind::InvalidValue, message));
        }
        Source::Mesh => {
            let (library, name) = (library.clone(), name.to_owned());
            let row = tokio::task::spawn_blocking(move || library.mesh_row(&name)).await;
            let pass = row.ok().flatten().and_then(|row| state.mesh.pass(row));
            let pass = pass.ok_or_else(ApiError::gone)?;
            (pass.row.expert, Some(pass))
        }
    };
    let here = here.clone();
    Ok(Registered { id, here, pass })
}

async fn now(state: &ApiState) -> Result<v1::RouterStatus, Status> {
    let status = state.node.status().await.ok_or_else(ApiError::gone)?;
    let halted = state.mesh.halted();
    Ok(proto(&status, halted))
}

fn proto(status: &NodeStatus, halted: Vec<String>) -> v1::RouterStatus {
    let guest = |load: &quorate_core::host::PeerLoad| v1::Guest {
        node: identity::peer_id(&load.peer),
        running: load.running as u32,
        waiting: load.waiting as u32,
        opinions: load.opinions,
    };
    v1::RouterStatus {
        running: status.running as u32,
        waiting: status.waiting as u32,
        generated_tokens: status.generated_tokens,
        experts: status.roster.iter().map(wire::known_expert).collect(),
        guests: status.guests.iter().map(guest).collect(),
        closed: status
            .closed
            .map_or_else(String::new, |why| why.to_string()),
        halted,
    }
}

fn advertised(neighbour: &Neighbour) -> v1::AdvertisedExpert {
    let Neighbour { peer, row, status } = neighbour;
    let path = status.as_ref().and_then(|s| s.path);
    let rtt = status.as_ref().and_then(|s| s.rtt);
    v1::AdvertisedExpert {
        expert: row.expert.0.to_vec(),
        node: identity::peer_id(peer),
        model: row.model.clone(),
        vocabulary: row.vocabulary.0.to_vec(),
        family: row.family.clone(),
        context: row.context,
        slots: row.slots.into(),
        needs_allow_list: row.needs_allow_list,
        path: path.map_or_else(String::new, |path| path.to_string()),
        rtt_us: rtt.map(|rtt| rtt.as_micros() as u64),
    }
}
