//! The mesh behind the API: the model id `mesh`, what its tokens cost, and the page about it.

use super::error::{ApiError, Kind};
use super::router::Registered;
use super::{ApiState, body, router};
use crate::config::RawExpert;
use crate::driver::{Asked, Lease};
use crate::identity;
use crate::mesh::{Neighbour, Page, PeerView, Reach};
use crate::wish::Together;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use quorate_core::generate::{Guesses, Provenance};
use quorate_core::ids::ExpertId;
use quorate_core::law::Sampler;
use quorate_core::mesh::{Address, Transport};
use quorate_core::roster::Known;
use quorate_core::team::{Change, Sets};
use quorate_core::weights::{Claim, Reasons, Strategy};
use serde_json::{Value, json};

pub(crate) use crate::wish::MESH as MODEL;

/// The model that reads the prompt.
pub(super) fn model<'a>(state: &'a ApiState, wanted: &'a str) -> &'a str {
    state.catalogue.resolve(match wanted {
        MODEL => state.mesh.model(),
        name => name,
    })
}

/// Whom a request asks.
pub(super) async fn asked(
    state: &ApiState,
    wanted: &str,
    together: Together,
    lease: &Lease,
) -> Result<Asked, ApiError> {
    let alone = |why: &str| match together.robust {
        None => Ok(Asked::Own),
        Some(liars) => {
            let message = format!(
                "quorate.robust = {liars} needs the opinions of {} experts, and {why}",
                2 * liars + 1
            );
            Err(ApiError::about(
                "quorate.robust",
                Kind::InvalidValue,
                message,
            ))
        }
    };
    if wanted != MODEL && together.sampler == Sampler::Rejection {
        let message =
            "a draft is accepted or rejected by several experts, and this model is one: ask `mesh`";
        let kind = Kind::InvalidValue;
        return Err(ApiError::about("quorate.sampler", kind, message));
    }
    if wanted != MODEL {
        return alone("this model is one: ask `mesh`");
    }
    match state.mesh.ready_for(lease).await {
        Reach::NoMesh => Err(no_mesh(state)),
        Reach::Alone => alone("nobody else of the mesh is here; see `quorate peers`"),
        Reach::Together => Ok(Asked::Mesh {
            sets: together.sets.unwrap_or(Sets::A),
            k_max: together.k,
            guessing: together.guessing,
        }),
    }
}

pub(super) fn no_mesh(state: &ApiState) -> ApiError {
    if let Some(why) = state.mesh.hindered() {
        let message = format!("this node cannot take part in its mesh: {why}");
        return ApiError::about("model", Kind::ModelNotFound, message);
    }
    let message = "this node belongs to no mesh; found one with `quorate mesh new`, \
                   or enter one with `quorate join <invite>`";
    ApiError::about("model", Kind::ModelNotFound, message)
}

/// What the tokens of an answer took, summed up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    tokens: u64,
    /// Of the answer that came last, for every token: nobody could go on before it.
    answer_us: u64,
    compute_us: u64,
    bytes: u64,
    voices: u64,
    /// What the expert here computed, where it was asked.
    here_us: u64,
    here: u64,
    guesses: Guesses,
}

impl Costs {
    pub(super) fn add(&mut self, told: &Provenance, here: ExpertId) {
        let arrived = || told.asked.iter().filter(|v| v.arrived);
        let Some(last) = arrived().max_by_key(|v| v.answer_us) else {
            return; // nobody was asked: a grammar left one token
        };
        self.tokens += 1;
        self.answer_us += last.answer_us;
        self.compute_us += last.compute_us.min(last.answer_us);
        self.bytes += arrived().map(|v| u64::from(v.bytes)).sum::<u64>();
        self.voices += arrived().count() as u64;
        if let Some(own) = arrived().find(|v| v.expert == here) {
            self.here_us += own.compute_us;
            self.here += 1;
        }
    }

    pub(super) fn guessed(&mut self, of_choice: Guesses) {
        self.guesses.right += of_choice.right;
        self.guesses.wrong += of_choice.wrong;
        self.guesses.wasted += of_choice.wasted;
        self.guesses.branches += of_choice.branches;
        self.guesses.hits += of_choice.hits;
        self.guesses.led += of_choice.led;
        self.guesses.led_wrong += of_choice.led_wrong;
    }

    /// Tokens guessed ahead of their decision, and second choices beside them where there were any; None if there
    /// was no need.
    pub(super) fn guesses(&self) -> Option<Value> {
        let Guesses {
            right,
            wrong,
            wasted,
            branches,
            hits,
            led,
            led_wrong: _,
        } = self.guesses;
        let mut page = json!({"right": right, "wrong": wrong, "wasted_checks": wasted});
        if branches > 0 {
            (page["branches"], page["hits"]) = (branches.into(), hits.into());
        }
        if led > 0 {
            page["led"] = led.into();
        }
        (right + wrong > 0).then_some(page)
    }

    /// For each token; None if nobody was asked.
    pub(super) fn page(&self) -> Option<Value> {
        let tokens = (self.tokens > 0).then_some(self.tokens as f64)?;
        let ms = |us: u64| us as f64 / tokens / 1000.0;
        Some(json!({
            "tokens": self.tokens,
            "experts": self.voices as f64 / tokens,
            "compute_ms": ms(self.compute_us),
            "network_ms": ms(self.answer_us - self.compute_us),
            "bytes": self.bytes as f64 / tokens,
            "solo_tokens_per_s": (self.here_us > 0)
                .then(|| self.here as f64 * 1e6 / self.here_us as f64),
        }))
    }
}

/// Who decided from which position on.
pub(super) fn schedule(changes: &[Change]) -> Value {
    let one = |change: &Change| {
        let weight = |(expert, weight): &(ExpertId, f64)| json!({"expert": expert.to_string(), "weight": weight});
        let set: Vec<Value> = change.set.iter().map(weight).collect();
        json!({"position": change.position, "set": set})
    };
    changes.iter().map(one).collect()
}

/// Why experts weigh what they weigh.
pub(super) fn reasons(reasons: &Reasons) -> Value {
    let claim = |(expert, claim): &(ExpertId, Claim)| {
        let (nats, counts) = (claim.nats(), claim.counts());
        json!({"expert": expert.to_string(), "nats": nats, "counts": counts})
    };
    let strategy =
        |(strategy, share): &(Strategy, f64)| json!({"strategy": strategy.name(), "share": share});
    json!({
        "experts": reasons.claims.iter().map(claim).collect::<Vec<_>>(),
        "strategies": reasons.strategies.iter().map(strategy).collect::<Vec<_>>(),
    })
}

/// Who said what of one token.
pub(super) fn voices(told: &Provenance) -> Value {
    let voice = |v: &quorate_core::generate::Voted| {
        json!({
            "expert": v.expert.to_string(),
            "weight": v.weight,
            "logprob": v.ln_p,
            "arrived": v.arrived,
            "compute_ms": v.compute_us as f64 / 1000.0,
            "network_ms": v.answer_us.saturating_sub(v.compute_us) as f64 / 1000.0,
            "bytes": v.bytes,
        })
    };
    let voices: Vec<Value> = told.asked.iter().map(voice).collect();
    json!({"experts": voices, "asked_again": told.asked_again})
}

/// `GET /api/mesh`: who is there, how they are reached, and what they serve.
pub(super) async fn page(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let page = state.mesh.page().await;
    let page = page.ok_or_else(|| no_mesh(&state))?;
    let roster = state.node.status().await.unwrap_or_default().roster;
    let Page {
        network,
        is_unsafe,
        phase,
        halted,
        members,
        peers,
        neighbours,
        addresses,
        plane,
        has_heard,
        voices,
    } = page;
    let peers = peers
        .iter()
        .map(|peer| peer_object(peer, &neighbours, &roster));
    Ok(Json(json!({
        "network": network.to_string(),
        "unsafe": is_unsafe,
        "phase": phase,
        "halted": halted,
        "members": members,
        "peers": peers.collect::<Vec<_>>(),
        "addresses": addresses.iter().map(address).collect::<Vec<_>>(),
        "plane": plane.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "has_heard": has_heard,
        "voices": voices,
    })))
}

fn peer_object(peer: &PeerView, neighbours: &[Neighbour], roster: &[Known]) -> Value {
    let state = match (peer.is_member, peer.link) {
        (false, _) => "stranger",
        (true, Some(_)) => "here",
        // Not every member of a large mesh is a neighbour, and behind a router not every one is reached.
        (true, None) if peer.is_here => "heard of",
        (true, None) => "silent",
    };
    let experts = neighbours.iter().filter(|n| n.peer == peer.key);
    json!({
        "node": identity::peer_id(&peer.key),
        "state": state,
        "path": peer.link.map(|link| link.to_string()),
        "address": peer.address,
        "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "heard_s_ago": peer.heard.map(|heard| heard.as_secs()),
        "experts": experts.map(|e| expert_object(e, roster)).collect::<Vec<_>>(),
    })
}

fn expert_object(neighbour: &Neighbour, roster: &[Known]) -> Value {
    let Neighbour { row, status, .. } = neighbour;
    let known = roster.iter().find(|known| known.facts.expert == row.expert);
    let suspicion = known.and_then(|known| known.suspicion());
    let is_itself = known.is_none_or(Known::is_itself);
    json!({
        "expert": row.expert.to_string(),
        "model": row.model,
        "vocabulary": row.vocabulary.to_string(),
        "family": row.family,
        "context": row.context,
        "slots": row.slots,
        "needs_allow_list": row.needs_allow_list,
        "asked": status.is_some() && is_itself,
        "suspicion": suspicion.map(|why| why.to_string()),
        // Positions of its node that were computed again here.
        "audited": known.map_or(0, |known| known.audit.positions()),
        "path": status.as_ref().and_then(|s| s.path).map(|path| path.to_string()),
        "rtt_ms": status.as_ref().and_then(|s| s.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
        "bytes_in": status.as_ref().map(|s| s.bytes_in),
        "bytes_out": status.as_ref().map(|s| s.bytes_out),
        "sessions": status.as_ref().map(|s| s.sessions),
    })
}

fn address(address: &Address) -> Value {
    json!({
        "place": address.place.to_string(),
        "transport": match address.transport {
            Transport::Quic => "quic",
            Transport::Tcp => "tcp",
        },
        "relay": address.relay.as_ref().map(identity::peer_id),
    })
}

/// `POST /api/experts`: one more expert, as in the settings, until the node stops.
pub(super) async fn register(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let raw: RawExpert = json_body(&state, &headers, body).await?;
    let Registered { id, here, pass } = router::register(&state, raw).await?;
    Ok(Json(json!({
        "expert": id.to_string(),
        "vocabulary": here.vocab.fingerprint().to_string(),
        "context": here.context,
        "pass": pass.map(|pass| pass.to_string()),
    })))
}

/// `POST /api/experts/remove`: `{"name": ...}`.
pub(super) async fn unregister(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let asked: Named = json_body(&state, &headers, body).await?;
    let library = state.library.as_ref().ok_or_else(ApiError::gone)?;
    let removed = library.unregister(&asked.name);
    state.node.unload(&asked.name).await;
    Ok(Json(json!({"name": asked.name, "removed": removed})))
}

/// `POST /api/pause`: `{"paused": true}` serves nobody but the owner.
pub(super) async fn pause(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let asked: Paused = json_body(&state, &headers, body).await?;
    match state.node.pause(asked.paused).await {
        true => Ok(Json(json!({"paused": asked.paused}))),
        false => Err(ApiError::gone()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Paused {
    paused: bool,
}

async fn json_body<T: serde::de::DeserializeOwned>(
    state: &ApiState,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let body = body::read(headers, body, state.limits.body).await?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(Kind::Malformed, format!("the body: {error}")))
}
