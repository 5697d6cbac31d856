//! People act on a mesh over gRPC: what they signed counts, whoever carries it. The node here belongs
//! to a mesh of three people, and nobody else of it is there.

use crate::server::{Server, endless, start_with};
use ed25519_dalek::{Signer, SigningKey};
use libp2p_identity::Keypair;
use quorate::config::{Overrides, Settings};
use quorate::expert::hardware;
use quorate::home::Home;
use quorate::mesh::{Founding, Membership, MeshHome, unix_s};
use quorate::node::{Audience, Library, NodeKeys};
use quorate::store::Store;
use quorate::wire::v1::cast_response::Stage;
use quorate::wire::v1::governance_client::GovernanceClient;
use quorate::wire::v1::governance_event::Event;
use quorate::wire::v1::{
    CastResponse, CastVoteRequest, GetGovernanceRequest, GovernanceState, HaltMeshRequest,
    ProposeRequest, ResumeRequest, WatchGovernanceRequest,
};
use quorate_core::config::{Key, MeshConfig, Patch, Set};
use quorate_core::governance::{
    Act, Ballot, Body, Choice, Consent, Draft, Entry, EntryId, Genesis, Halt, Origin, Phase,
    Preset, Proposal, Terms,
};
use quorate_core::ids::NetworkId;
use quorate_core::weights::Own;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const DAY_S: u64 = 86_400;

/// A person with a key on a stick.
struct Person {
    key: SigningKey,
    network: NetworkId,
    seq: u64,
    head: EntryId,
    clock_s: u64,
}

impl Person {
    fn sign(&mut self, body: Body) -> Entry {
        let draft = Draft {
            network: self.network,
            epoch: 0,
            author: self.key.verifying_key().to_bytes(),
            seq: self.seq,
            prev: self.head,
            refs: vec![],
            advisory_time: self.clock_s,
            body,
        };
        let signature = self.key.sign(&draft.bytes()).to_bytes();
        let entry = draft.signed(signature).unwrap();
        (self.seq, self.head) = (self.seq + 1, entry.id());
        entry
    }

    fn propose(&mut self, proposal: &Proposal) -> Vec<u8> {
        self.sign(Body::Propose(proposal.clone())).encode()
    }

    fn vote(&mut self, proposal: &Proposal) -> Vec<u8> {
        let ballot = Ballot::of(proposal, self.network);
        let choice = Choice::Yes;
        self.sign(Body::Vote { choice, ballot }).encode()
    }

    fn halt(&self) -> Halt {
        let mut halt = Halt {
            network: self.network,
            author: self.key.verifying_key().to_bytes(),
            nonce: 7,
            reason: "smoke".into(),
            advisory_time: 0,
            signature: [0; 64],
        };
        halt.signature = self.key.sign(&halt.body()).to_bytes();
        halt
    }
}

struct Mesh {
    server: Server,
    client: GovernanceClient<Channel>,
    genesis: Genesis,
    people: Vec<Person>,
    stop: CancellationToken,
    _home: tempfile::TempDir,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Mesh {
    async fn start() -> Mesh {
        Mesh::start_with(false).await
    }

    /// Whose node is the one witness, if people want that.
    async fn start_with(has_witness: bool) -> Mesh {
        let keypair = Keypair::generate_ed25519();
        let node = keypair.public().try_into_ed25519().unwrap().to_bytes();
        let keys: Vec<SigningKey> = (1..=3).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
        let mut people: Vec<_> = keys.iter().map(|k| k.verifying_key().to_bytes()).collect();
        people.sort_unstable();
        let mut terms = Terms::of(Preset::Lab, people, MeshConfig::default());
        terms.nodes = vec![node];
        if has_witness {
            terms.members.witnesses = vec![node];
            terms.members.witness_threshold = 1;
        }
        let genesis = terms.found().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let home = MeshHome::of(&Home {
            config_file: directory.path().join("config.toml"),
            data: directory.path().into(),
            state: directory.path().into(),
        });
        home.enter(&genesis, &[], None).unwrap();
        let text = "version = 1\n[mesh]\nmdns = false\nlisten = '127.0.0.1:0'\nplane_listen = '127.0.0.1:0'\n";
        let settings = Arc::new(Settings::parse(text, &Overrides::default()).unwrap());
        let keys_of_node = NodeKeys {
            key: node,
            prefix_secret: [1; 32],
        };
        let library = Library::new(
            Store::new(directory.path()),
            settings.clone(),
            Arc::new(hardware::probe()),
            Audience::Node,
            keys_of_node,
        );
        let stop = CancellationToken::new();
        let server = start_with(endless(), |state| {
            let founding = Founding {
                keypair,
                settings,
                policy: directory.path().join("policy.cedar"),
                home,
                node: state.node.clone(),
                library,
            };
            state.mesh = Membership::new("stub");
            tokio::spawn(state.mesh.clone().run(founding, stop.clone()));
        })
        .await;
        while !server.state().mesh.is_there().await {
            tokio::task::yield_now().await;
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
        let client = GovernanceClient::new(endpoint.connect().await.unwrap());
        let network = genesis.network_id();
        let clock_s = if has_witness { unix_s() } else { 2 * DAY_S };
        let person = |key| Person {
            key,
            network,
            seq: 0,
            head: EntryId::NONE,
            clock_s,
        };
        Mesh {
            server,
            client,
            people: keys.into_iter().map(person).collect(),
            genesis,
            stop,
            _home: directory,
        }
    }

    async fn state(&mut self) -> GovernanceState {
        let asked = self.client.get_governance(GetGovernanceRequest {}).await;
        asked.unwrap().into_inner()
    }

    /// The next on the tip, whose link and config are these.
    fn proposal(&self, consent: Consent, act: Act) -> Proposal {
        let standing = self.server.state().mesh.standing().unwrap();
        let is_timed = !self.genesis.terms().members.witnesses.is_empty();
        let expiry = if is_timed {
            unix_s() + DAY_S
        } else {
            3 * DAY_S
        };
        Proposal {
            height: standing.tip().height + 1,
            parent: standing.tip().link,
            round: 0,
            epoch: 0,
            phase: standing.phase(),
            consent,
            expiry,
            origin: Origin::People,
            config: standing.snapshot().config.hash(),
            act,
        }
    }

    fn change(&self) -> Proposal {
        let key = Key::ServingGatherUs;
        let expect_old = self.genesis.terms().config.get(key);
        let set = Set {
            key,
            value: expect_old + 10,
            expect_old,
        };
        self.proposal(Consent::Minor, Act::Patch(Patch::new(vec![set]).unwrap()))
    }

    async fn propose(&mut self, entry: &[u8], vote: &[u8]) -> Result<CastResponse, Status> {
        let (entry, vote) = (entry.to_vec(), vote.to_vec());
        let asked = self.client.propose(ProposeRequest { entry, vote }).await;
        asked.map(tonic::Response::into_inner)
    }

    async fn vote(&mut self, entry: &[u8]) -> Result<CastResponse, Status> {
        let entry = entry.to_vec();
        let asked = self.client.cast_vote(CastVoteRequest { entry }).await;
        asked.map(tonic::Response::into_inner)
    }
}

fn told(cast: &CastResponse) -> (u32, Stage, u32, u32) {
    (cast.new, cast.stage(), cast.yes, cast.needed)
}

/// The names that programs go by.
fn named(refused: Result<CastResponse, Status>) -> (Code, String) {
    let refused = refused.unwrap_err();
    let code = refused.metadata().get("quorate-code").unwrap();
    (refused.code(), code.to_str().unwrap().to_owned())
}

/// What a member tells others is on its disk before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_writes_its_day_down() {
    let mesh = Mesh::start().await;
    let path = mesh._home.path().join("mesh/gate");
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let kept = std::fs::read(&path).ok().and_then(|b| Own::decode(&b).ok());
        let today = (unix_s() / DAY_S) as u32;
        if kept.is_some_and(|own| !own.is_due(today)) {
            return;
        }
        assert!(Instant::now() < until, "no day was closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_proposed_and_voted_over_grpc_and_what_is_sent_twice_counts_once() {
    let mut mesh = Mesh::start().await;
    let change = mesh.change();
    let proposed = mesh.people[0].propose(&change);
    let own = mesh.people[0].vote(&change);
    for new in [2, 0] {
        let cast = mesh.propose(&proposed, &own).await.unwrap();
        assert_eq!(told(&cast), (new, Stage::Open, 1, 2));
        assert_eq!(cast.proposal, change.id(mesh.genesis.network_id()).0);
        assert_eq!(cast.entries.len(), 2);
    }
    let second = mesh.people[1].vote(&change);
    for new in [1, 0] {
        let cast = mesh.vote(&second).await.unwrap();
        assert_eq!(told(&cast), (new, Stage::Accepted, 2, 2));
    }
    assert_eq!(mesh.state().await.config_version, 1);
    // Lowering the phase asks nobody, and leaves nothing to vote on.
    let lower = mesh.people[2].sign(Body::Lower(Phase::ReadOnly)).encode();
    let cast = mesh.propose(&lower, &[]).await.unwrap();
    assert_eq!(told(&cast), (1, Stage::Unspecified, 0, 0));
    assert!(cast.proposal.is_empty());
    assert_eq!(mesh.state().await.phase, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_halts_and_two_resume_over_grpc_and_a_watcher_hears_it() {
    let mut mesh = Mesh::start().await;
    let watched = mesh
        .client
        .watch_governance(WatchGovernanceRequest {})
        .await;
    let mut watched = watched.unwrap().into_inner();
    let halt = mesh.people[2].halt();
    let bytes = halt.encode();
    mesh.client
        .halt_mesh(HaltMeshRequest { halt: bytes })
        .await
        .unwrap();
    assert_eq!(mesh.state().await.halted, ["smoke"]);
    let resume = mesh.proposal(
        Consent::Resume,
        Act::Resume {
            restart: mesh.genesis.terms().config.hash(),
            lifts: vec![halt.id().0],
            suspends: vec![],
        },
    );
    let entry = mesh.people[0].propose(&resume);
    let vote = mesh.people[0].vote(&resume);
    let (asked, own) = (entry.clone(), vote.clone());
    // To go on is asked for by its own name, so that nobody does it by mistake.
    let refused = mesh.propose(&entry, &vote).await;
    assert_eq!(named(refused), (Code::InvalidArgument, "not_meant".into()));
    let cast = mesh
        .client
        .resume(ResumeRequest {
            entry: asked,
            vote: own,
        })
        .await;
    assert_eq!(told(&cast.unwrap().into_inner()), (2, Stage::Open, 1, 2));
    assert_eq!(
        mesh.state().await.halted,
        ["smoke"],
        "one alone resumes nothing"
    );
    let second = mesh.people[1].vote(&resume);
    let cast = mesh.vote(&second).await.unwrap();
    assert_eq!(told(&cast), (1, Stage::Accepted, 2, 2));
    assert!(mesh.state().await.halted.is_empty());
    let (mut records, mut was_halted) = (0, false);
    while records < 4 {
        match watched.message().await.unwrap().unwrap().event.unwrap() {
            Event::State(state) => was_halted |= !state.halted.is_empty(),
            Event::Record(_) => records += 1,
        }
    }
    assert!(was_halted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_nothing_is_refused_by_name_over_grpc() {
    let mut mesh = Mesh::start().await;
    let change = mesh.change();
    let network = mesh.genesis.network_id();
    let person = |n: u8, network| Person {
        key: SigningKey::from_bytes(&[n; 32]),
        network,
        seq: 0,
        head: EntryId::NONE,
        clock_s: 2 * DAY_S,
    };
    let proposed = mesh.people[0].propose(&change);
    let own = mesh.people[0].vote(&change);
    let early = mesh.people[1].vote(&change);
    let strangers = person(9, network).propose(&change);
    let elsewhere = person(1, NetworkId([5; 32])).propose(&change);
    let mut changed = proposed.clone();
    *changed.last_mut().unwrap() ^= 1;
    for unsigned in [&changed[..], &proposed[..proposed.len() - 64], b""] {
        let refused = mesh.propose(unsigned, b"").await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("no signed entry"), "{refused}");
    }
    let wrong = |code: &str| (Code::FailedPrecondition, code.to_owned());
    let refused = mesh.propose(&strangers, b"").await;
    assert_eq!(named(refused), wrong("not_a_participant"));
    let refused = mesh.propose(&elsewhere, b"").await;
    assert_eq!(named(refused), wrong("other_mesh"));
    assert_eq!(named(mesh.vote(&own).await), wrong("feed_gap"));
    assert_eq!(named(mesh.vote(&early).await), wrong("proposal_unknown"));
    let refused = mesh.vote(&proposed).await;
    assert_eq!(named(refused), (Code::InvalidArgument, "not_meant".into()));
    let untouched = mesh.state().await;
    assert_eq!(
        untouched.state,
        mesh.server.state().mesh.standing().unwrap().hash()
    );
    assert_eq!(untouched.config_version, 0);
    // Of two, the first counts even where the second does not.
    let refused = mesh.propose(&proposed, &strangers).await;
    assert_eq!(named(refused), (Code::InvalidArgument, "not_meant".into()));
    let cast = mesh.propose(&proposed, &own).await.unwrap();
    assert_eq!(told(&cast), (1, Stage::Open, 1, 2));
    // A second history is no change: it stops the mesh.
    mesh.people[0].seq = 1;
    mesh.people[0].head = Entry::decode(&proposed).unwrap().id();
    let fork = mesh.people[0].sign(Body::Lower(Phase::ReadOnly)).encode();
    assert_eq!(named(mesh.propose(&fork, b"").await), wrong("key_at_fault"));
    assert_eq!(mesh.state().await.halted.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_people_made_a_witness_says_what_it_has_seen_of_their_votes() {
    let mut mesh = Mesh::start_with(true).await;
    let change = mesh.change();
    let proposed = mesh.people[0].propose(&change);
    let own = mesh.people[0].vote(&change);
    mesh.propose(&proposed, &own).await.unwrap();
    let second = mesh.people[1].vote(&change);
    let cast = mesh.vote(&second).await.unwrap();
    // Enough votes, which no witness has seen yet.
    assert_eq!(told(&cast), (1, Stage::Open, 2, 2));
    let begun = Instant::now();
    while mesh.state().await.config_version == 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "the witness is silent"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let lease = mesh.server.state().mesh.standing().unwrap().lease();
    assert!(lease.is_some_and(|lease| !lease.halted));
}
