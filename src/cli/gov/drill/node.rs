//! One process of a drill: a member of the mesh whose expert is made of hashes and takes its time for
//! each token, or is the model in its settings. It streams for ever under a mesh permit, and says when
//! a halt reached it.

use super::{Said, now_us};
use crate::cli::context::Context;
use crate::cli::term;
use crate::driver::{
    self, Answers, Asked, Found, Generation, GenerationStream, Lease, Models, Node, Offer,
};
use crate::error::{Failure, Kind, Outcome};
use crate::expert::hardware;
use crate::expert::stub::{StubExpert, StubOptions};
use crate::identity::Identity;
use crate::mesh::{Founding, Membership, MeshHome, News};
use crate::node::{Audience, Library, NodeKeys};
use quorate_core::chat::Segment;
use quorate_core::config::MeshConfig;
use quorate_core::generate::{Event, Guessing, Notes};
use quorate_core::governance::{Halt, Record};
use quorate_core::host::Allow;
use quorate_core::law::{Law, Transforms};
use quorate_core::plan;
use quorate_core::residency::KeepAlive;
use quorate_core::team::Sets;
use serde_json::json;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// As quick as people read, and slow enough that 32 processes share two cores.
const STEP: Duration = Duration::from_millis(50);
/// Until the mesh is there, and until it lets the stream begin.
const TRY_EVERY: Duration = Duration::from_millis(50);
const NAME: &str = "drill";
const STREAM_TOKENS: u32 = 2_000;

/// Until whoever started it closes its input, or ends it.
pub(in crate::cli::gov) fn node(context: &Context) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let (node, mesh) = start(context)?;
        let lease = node.acquire(expert(context)).await.map_err(Failure::from)?;
        let (_, news) = loop {
            match mesh.watch().await {
                Some(watched) => break watched,
                None => sleep(TRY_EVERY).await,
            }
        };
        term::ndjson(&json!({"ready": true}))?;
        let (tell, halted) = oneshot::channel();
        tokio::spawn(until_halted(news, tell));
        let stream = async {
            let said = talk(&node, &lease, halted).await?;
            term::ndjson(&said)?;
            std::future::pending::<Outcome>().await
        };
        tokio::select! {
            ended = stream => ended,
            () = obey(&mesh) => Ok(()),
        }
    })
}

fn start(context: &Context) -> Outcome<(Node, Membership)> {
    let home = &context.home;
    let identity = Identity::load_or_create(&home.identity_key())?;
    let settings = Arc::new(context.settings.clone());
    let hardware = Arc::new(hardware::probe());
    let driver_settings = driver::Settings {
        node_id: identity.node_id().to_string(),
        memory_budget_bytes: plan::budget_bytes(&hardware.machine, settings.max_memory_bytes),
        keep_alive: KeepAlive::Forever,
        config: MeshConfig::default(),
    };
    let stop = CancellationToken::new();
    let keys = NodeKeys {
        key: identity.key(),
        prefix_secret: identity.secret_for("quorate 2026 private prefixes"),
    };
    let library = Library::new(
        context.store(),
        settings.clone(),
        hardware,
        Audience::Node,
        keys,
    );
    let models = if settings.experts.is_empty() {
        stubs()
    } else {
        library.models()
    };
    let (node, _) = driver::start(driver_settings, models, stop.clone());
    let mesh = Membership::new(expert(context));
    let founding = Founding {
        keypair: identity.keypair,
        settings,
        home: MeshHome::of(home),
        policy: home.policy(),
        node: node.clone(),
        library,
    };
    tokio::spawn(mesh.clone().run(founding, stop));
    Ok((node, mesh))
}

/// Its own expert, by name.
fn expert(context: &Context) -> &str {
    let first = context.settings.experts.first();
    first.map_or(NAME, |expert| &expert.name)
}

fn stubs() -> Models {
    let options = StubOptions {
        model: NAME.into(),
        step: STEP,
        end_logit: -30.0,
        ..StubOptions::default()
    };
    let name = || NAME.to_owned();
    Models {
        find: Arc::new(move |_| {
            Ok(Found {
                name: name(),
                bytes: 1,
                shared: None,
            })
        }),
        load: Arc::new(move |_, events| {
            StubExpert::spawn(options.clone(), events).map_err(|error| error.to_string())
        }),
        offer: Arc::new(move |id| {
            Some(Offer {
                id,
                name: name(),
                allow: Allow::Mesh,
                answers: Answers::Model,
            })
        }),
    }
}

/// A line is a signed halt in hex, from whoever started this process; when he is gone, so is it.
async fn obey(mesh: &Membership) {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = told.recv().await {
        let bytes = super::super::names::bytes(line.trim()).unwrap_or_default();
        if let Ok(halt) = Halt::decode(&bytes) {
            mesh.bring(vec![Record::Halt(halt)]).await;
        }
    }
}

/// When this node knows, by verified records, that the mesh stands still.
async fn until_halted(mut news: broadcast::Receiver<News>, tell: oneshot::Sender<u64>) {
    loop {
        match news.recv().await {
            Ok(News::Standing(standing)) if standing.is_halted() => {
                tell.send(now_us()).ok();
                return;
            }
            Err(broadcast::error::RecvError::Closed) => return,
            // What was missed only delays what is said.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
        }
    }
}

/// Streams until a halt ends it, and nothing lets it go on.
async fn talk(node: &Node, lease: &Lease, mut halted: oneshot::Receiver<u64>) -> Outcome<Said> {
    let mut said = Said::default();
    for seed in 0.. {
        if let Ok(stream) = begin(node, lease, seed).await {
            listen(stream, &mut said).await?;
        }
        tokio::select! {
            at = &mut halted => {
                said.halted_us = at.map_err(|_| Failure::new(Kind::Failed, "the mesh went away"))?;
                return Ok(said);
            }
            () = sleep(TRY_EVERY) => {}
        }
    }
    Ok(said)
}

async fn begin(
    node: &Node,
    lease: &Lease,
    seed: u64,
) -> Result<GenerationStream, driver::RefusedError> {
    let law = Law::new(Transforms::NEUTRAL, node.config().lists()).expect("neutral is a law");
    let prompt = lease.tokenize(vec![Segment::Text("drill".into())], true);
    let generation = Generation {
        prompt: prompt.await.unwrap_or_default(),
        law,
        seed,
        choice: 0,
        max_tokens: Some(STREAM_TOKENS),
        stop: vec![],
        logprobs: None,
        grammar: None,
        asked: Asked::Mesh {
            sets: Sets::A,
            k_max: Some(1),
            guessing: Guessing::Never,
        },
        notes: Notes::default(),
    };
    node.generate(lease, generation).await
}

async fn listen(mut stream: GenerationStream, said: &mut Said) -> Outcome {
    while let Some(event) = stream.next().await {
        if let Event::Token(_) = event {
            said.last_token_us = now_us();
            said.tokens += 1;
            if said.tokens == 1 {
                said.first_token_us = said.last_token_us;
                term::ndjson(&json!({"streaming": true}))?;
            }
        }
    }
    Ok(())
}
