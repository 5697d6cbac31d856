//! `mesh` as a model where there is no mesh, and the router's service. With a mesh: tests/cli/testnet.rs.

use crate::server::{Server, endless, start, start_with};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quorate::api::ApiState;
use quorate::wire::v1::governance_client::GovernanceClient;
use quorate::wire::v1::router_client::RouterClient;
use quorate::wire::v1::{
    GetRouterStatusRequest, HaltMeshRequest, ListExpertsRequest, RegisterExpertRequest,
    WatchGovernanceRequest, WatchRouterRequest,
};
use quorate_core::governance::Halt;
use quorate_core::ids::NetworkId;
use quorate_core::record;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

async fn router(server: &Server) -> RouterClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
    RouterClient::new(endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn without_a_mesh_its_model_says_how_to_get_one() {
    let server = start(endless()).await;
    let asked = r#"{"model":"mesh","prompt":"x","max_tokens":1}"#;
    let reply = server.post("/v1/completions", asked).await;
    assert_eq!(reply.status, 404);
    let message = reply.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("quorate join"), "{message}");
    assert_eq!(server.get("/api/mesh").await.status, 404);
    let models = server.get("/v1/models").await.body;
    assert!(!models.contains("\"mesh\""), "{models}");
}

#[tokio::test]
async fn a_halt_that_nobody_signed_is_refused_before_anything_else() {
    let server = start(endless()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
    let mut client = GovernanceClient::new(endpoint.connect().await.unwrap());
    let unsigned = Halt {
        network: NetworkId([1; 32]),
        author: [2; 32],
        nonce: 3,
        reason: "smoke".into(),
        advisory_time: 4,
        signature: [0; 64],
    };
    for halt in [unsigned.encode(), unsigned.body(), vec![]] {
        let refused = client
            .halt_mesh(HaltMeshRequest { halt })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("no signed halt"), "{refused}");
    }
    let watched = client.watch_governance(WatchGovernanceRequest {}).await;
    assert_eq!(
        watched.unwrap_err().code(),
        Code::NotFound,
        "there is no mesh"
    );
}

#[tokio::test]
async fn what_is_asked_of_a_mesh_is_checked() {
    let server = start(endless()).await;
    for (quorate, param) in [
        (r#"{"k":0}"#, "quorate.k"),
        (r#"{"semantics":"C"}"#, "quorate.semantics"),
        (r#"{"provenance":1}"#, "quorate.provenance"),
        (r#"{"robust":0}"#, "quorate.robust"),
        (r#"{"robust":8}"#, "quorate.robust"),
        (r#"{"robust":2,"k":4}"#, "quorate.k"),
        // One model is one voice.
        (r#"{"robust":1}"#, "quorate.robust"),
        (r#"{"record":"yes"}"#, "quorate.record"),
        (r#"{"ahead":"boldly"}"#, "quorate.ahead"),
        (r#"{"ahead":1}"#, "quorate.ahead"),
        (r#"{"sampler":"dice"}"#, "quorate.sampler"),
        (r#"{"sampler":"rejection"}"#, "quorate.sampler"),
        ("7", "quorate"),
    ] {
        let body = format!(r#"{{"model":"stub","prompt":"x","quorate":{quorate}}}"#);
        let reply = server.post("/v1/completions", &body).await;
        assert_eq!(
            (reply.status, reply.error()["param"].as_str()),
            (400, Some(param))
        );
    }
    // A model that is asked alone has nobody to tell of.
    let body = r#"{"model":"stub","prompt":"x","max_tokens":2,"quorate":{"provenance":true,"k":3,"ahead":"branches","sampler":"seeded"}}"#;
    let reply = server.post("/v1/completions", body).await.json();
    assert!(reply["quorate"]["mesh"].is_null(), "{reply}");
}

/// All that decided an answer, with its end: whole, or in parts of a stream.
#[tokio::test]
async fn an_answer_is_recorded_for_who_asks_and_the_core_alone_comes_to_it_again() {
    let server = start(endless()).await;
    let body = |more: &str| {
        format!(
            r#"{{"model":"stub","prompt":"x","max_tokens":9,"seed":3{more},"quorate":{{"record":true}}}}"#
        )
    };
    let whole = server.post("/v1/completions", &body("")).await.json();
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let replayed = |parts: &[&Value]| {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend(BASE64.decode(part.as_str().unwrap()).unwrap());
        }
        record::replay(&record::decode(&bytes).unwrap()).unwrap()
    };
    assert_eq!(replayed(&[&whole["quorate"]["recording"]]), text);
    let stream = server
        .post("/v1/completions", &body(r#","stream":true"#))
        .await;
    let events = stream.events().into_iter();
    let events: Vec<Value> = events
        .filter_map(|e| serde_json::from_str(e).ok())
        .collect();
    let parts = events.iter().map(|e| &e["quorate"]["recording"]);
    let parts: Vec<&Value> = parts.filter(|part| part.is_string()).collect();
    assert_eq!(replayed(&parts), text);
    let two = server.post("/v1/completions", &body(r#","n":2"#)).await;
    assert_eq!(two.error()["param"], "quorate.record");
    let full = |state: &mut ApiState| state.recordings = Arc::new(Semaphore::new(0));
    let server = start_with(endless(), full).await;
    let busy = server.post("/v1/completions", &body("")).await;
    assert_eq!(
        (busy.status, busy.error()["param"].as_str()),
        (429, Some("quorate.record"))
    );
}

#[tokio::test]
async fn the_router_tells_what_it_knows() {
    let server = start(endless()).await;
    let mut client = router(&server).await;
    let status = client.get_router_status(GetRouterStatusRequest {}).await;
    let status = status.unwrap().into_inner();
    assert_eq!((status.running, status.experts.len()), (0, 0));
    let mut watch = client.watch_router(WatchRouterRequest {}).await;
    let watch = watch.as_mut().unwrap().get_mut();
    assert_eq!(watch.message().await.unwrap().unwrap(), status);
    // Loading a model is a change: it is an expert that requests may ask.
    let asked = r#"{"model":"stub","prompt":"x","max_tokens":1}"#;
    assert_eq!(server.post("/v1/completions", asked).await.status, 200);
    let mut last = watch.message().await.unwrap().unwrap();
    while last.generated_tokens == 0 || last.running > 0 {
        last = watch.message().await.unwrap().unwrap();
    }
    assert_eq!(last.experts.len(), 1);
    assert!(last.experts[0].node.is_empty(), "it is in this process");
    let listed = client.list_experts(ListExpertsRequest {}).await.unwrap();
    assert!(listed.into_inner().experts.is_empty());
}

#[tokio::test]
async fn an_expert_that_makes_no_sense_is_refused_by_name() {
    let server = start(endless()).await;
    let mut client = router(&server).await;
    let private = RegisterExpertRequest {
        adapter: String::new(),
        name: "law".into(),
        model: "stub".into(),
        prefix: "secret".into(),
        allow: vec![],
    };
    let refused = client.register_expert(private).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("leak its private prefix"),
        "{refused}"
    );
    let file = r#"{"name":"law","model":"stub","prefix_file":"/etc/passwd","allow":["mesh"]}"#;
    let reply = server.post("/api/experts", file).await;
    assert_eq!(
        (reply.status, reply.error()["param"].as_str()),
        (400, Some("prefix_file"))
    );
    for body in ["", "{}", r#"{"name":"x","model":"stub","colour":1}"#] {
        assert_eq!(
            server.post("/api/experts", body).await.status,
            400,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_owner_pauses_what_is_given() {
    let server = start(endless()).await;
    let reply = server.post("/api/pause", r#"{"paused":true}"#).await;
    assert_eq!(reply.status, 200);
    server.until(|status| status.paused).await;
    server.post("/api/pause", r#"{"paused":false}"#).await;
    server.until(|status| !status.paused).await;
    assert_eq!(server.post("/api/pause", "{}").await.status, 400);
}
