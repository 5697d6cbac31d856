//! What the operator refuses on the node, beyond what the mesh forbids. Each decision is noted.

use super::guests::{ADA, BEN, endless, id, open};
use super::{Setup, forever, generation, text_of};
use ed25519_dalek::{Signer, SigningKey};
use quorate::driver::{Asked, Note, RefusedError};
use quorate::policy::{Policy, Rules};
use quorate::wire::plane::Purpose;
use quorate_core::config::{Key, MeshConfig, Patch, Set};
use quorate_core::generate::{Finish, Guessing};
use quorate_core::governance::{
    About, Act, Ballot, Body, Choice, Consent, Decision, Draft, Entry, EntryId, Genesis, Noted,
    Origin, Preset, Proposal, Record, Records, Rights, Ruling, Standing, Terms, fold,
};
use quorate_core::opinion::ExpertFailure;
use quorate_core::team::Sets;
use tokio::sync::mpsc;

const MESH: Asked = Asked::Mesh {
    sets: Sets::A,
    k_max: Some(1),
    guessing: Guessing::Never,
};

/// A mesh of one person, whose every word is accepted at once.
struct Mesh {
    key: SigningKey,
    genesis: Genesis,
    records: Records,
    seq: u64,
    head: EntryId,
}

impl Mesh {
    fn new() -> Mesh {
        let key = SigningKey::from_bytes(&[7; 32]);
        let person = key.verifying_key().to_bytes();
        let terms = Terms::of(Preset::Lab, vec![person], MeshConfig::default());
        Mesh {
            key,
            genesis: terms.found().unwrap(),
            records: Records::default(),
            seq: 0,
            head: EntryId::NONE,
        }
    }

    fn standing(&self) -> Standing {
        fold(&self.genesis, &self.records)
    }

    fn rights(&self) -> Rights {
        Rights::alone().under(self.standing())
    }

    fn say(&mut self, body: Body) {
        let draft = Draft {
            network: self.genesis.network_id(),
            epoch: 0,
            author: self.key.verifying_key().to_bytes(),
            seq: self.seq,
            prev: self.head,
            refs: vec![],
            advisory_time: 0,
            body,
        };
        let signature = self.key.sign(&draft.bytes()).to_bytes();
        let entry: Entry = draft.signed(signature).unwrap();
        (self.seq, self.head) = (self.seq + 1, entry.id());
        assert!(self.records.insert(Record::Entry(entry)));
    }

    /// One more version of the config.
    fn change(&mut self, value: u32) {
        let standing = self.standing();
        let (tip, config) = (standing.tip(), &standing.snapshot().config);
        let set = Set {
            key: Key::ServingGatherUs,
            value,
            expect_old: config.get(Key::ServingGatherUs),
        };
        let proposal = Proposal {
            height: tip.height + 1,
            parent: tip.link,
            round: 0,
            epoch: 0,
            phase: standing.phase(),
            consent: Consent::Minor,
            expiry: 1,
            origin: Origin::People,
            config: config.hash(),
            act: Act::Patch(Patch::new(vec![set]).unwrap()),
        };
        let ballot = Ballot::of(&proposal, self.genesis.network_id());
        let choice = Choice::Yes;
        self.say(Body::Propose(proposal));
        self.say(Body::Vote { choice, ballot });
        assert_eq!(
            self.standing().snapshot().version,
            standing.snapshot().version + 1
        );
    }
}

/// A node of that mesh under these rules, and what it notes.
async fn under(mesh: &Mesh, rules: &str) -> (Setup, mpsc::Receiver<Note>) {
    let setup = forever(endless());
    let (notes, heard) = mpsc::channel(16);
    setup.node.set_audit(Some(notes)).await;
    let rules = Rules::parse(rules).unwrap();
    setup.node.set_policy(Policy::Rules(Box::new(rules))).await;
    setup.node.set_rights(mesh.rights()).await;
    (setup, heard)
}

async fn noted(heard: &mut mpsc::Receiver<Note>) -> Decision {
    match heard.recv().await.unwrap().0 {
        Noted::Decided(decision) => decision,
        other => panic!("{other:?}"),
    }
}

fn no(rule: &str) -> String {
    format!("the policy of this node refuses it: {rule}")
}

#[tokio::test]
async fn a_request_that_the_operator_keeps_from_the_mesh_is_refused_and_his_own_model_answers() {
    let rule = "@id(\"here\") forbid (principal == Node::\"test\", action == Action::\"ask\", resource == Model::\"a\");";
    let (setup, mut heard) = under(&Mesh::new(), rule).await;
    let a = setup.node.acquire("a").await.unwrap();
    let mut asked = generation(&a, 1, 5).await;
    asked.asked = MESH;
    let refused = setup.node.generate(&a, asked).await.map(drop).unwrap_err();
    assert_eq!(refused, RefusedError::Policy(no("here")));
    let Decision {
        about: About::Session(_),
        ruling,
    } = noted(&mut heard).await
    else {
        panic!("it was a session")
    };
    assert_eq!(ruling, Ruling::Refused(no("here")));
    let own = generation(&a, 1, 5).await;
    let answer = setup.node.generate(&a, own).await.unwrap();
    assert_eq!(text_of(answer).await.1, Finish::Length);
    // Another model may, and a local answer is no decision.
    let b = setup.node.acquire("b").await.unwrap();
    let mut asked = generation(&b, 1, 5).await;
    asked.asked = MESH;
    drop(setup.node.generate(&b, asked).await.unwrap());
    assert_eq!(noted(&mut heard).await.ruling, Ruling::Granted);
}

#[tokio::test]
async fn a_guest_whom_the_operator_refuses_has_nothing_loaded_for_him() {
    let rules = format!(
        "@id(\"not-ben\") forbid (principal == Node::\"{}\", action == Action::\"serve\", resource);
         @id(\"people\") forbid (principal, action, resource) when {{ context.source == Source::\"autonomous\" }};",
        quorate::identity::peer_id(&BEN)
    );
    let (setup, mut heard) = under(&Mesh::new(), &rules).await;
    let come = async |peer, purpose| setup.node.guest(peer, id("a"), purpose, open()).await;
    for (peer, purpose, rule) in [
        (BEN, Purpose::User, "not-ben"),
        (ADA, Purpose::Autonomous, "people"),
        (BEN, Purpose::Autonomous, "not-ben, people"),
    ] {
        let why = come(peer, purpose).await.unwrap_err();
        assert_eq!(why, ExpertFailure::Refused(no(rule)));
        let decision = Decision::refused(About::Guest(peer), &no(rule));
        assert_eq!(noted(&mut heard).await, decision);
    }
    let status = setup.node.status().await.unwrap();
    assert!(status.models.is_empty(), "nothing was loaded");
    let _guest = come(ADA, Purpose::User).await.unwrap();
    let granted = Decision::granted(About::Guest(ADA));
    assert_eq!(noted(&mut heard).await, granted);
}

#[tokio::test]
async fn a_change_that_the_operator_refuses_takes_no_effect_here() {
    let mut mesh = Mesh::new();
    let rule = "@id(\"no-change\") forbid (principal, action == Action::\"apply\", resource == Config::\"mesh\")
                when { context.tier >= 3 && context.source == Source::\"people\" };";
    let (setup, mut heard) = under(&mesh, rule).await;
    mesh.change(510);
    for _ in 0..2 {
        setup.node.set_rights(mesh.rights()).await;
    }
    let refused = Decision::refused(About::Config(1), &no("no-change"));
    assert_eq!(noted(&mut heard).await, refused);
    let gather_us = || setup.node.config().get(Key::ServingGatherUs);
    assert_eq!(gather_us(), 500, "requests are checked under what holds");
    // Without the rule the next look lets it be, and what builds on it.
    mesh.change(520);
    setup.node.set_policy(Policy::Nothing).await;
    setup.node.set_rights(mesh.rights()).await;
    let granted = Decision::granted(About::Config(2));
    assert_eq!(
        noted(&mut heard).await,
        granted,
        "and the refusal was said once"
    );
    assert_eq!(gather_us(), 520);
    // What has taken effect is not asked about again.
    setup.node.set_policy(Policy::Unusable).await;
    setup.node.set_rights(mesh.rights()).await;
    mesh.change(530);
    setup.node.set_rights(mesh.rights()).await;
    let unusable = Decision::refused(About::Config(3), "the policy of this node cannot be used");
    assert_eq!(noted(&mut heard).await, unusable);
}
