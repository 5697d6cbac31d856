//! What people propose, vote, stop and resume: wishes, before anybody has signed them.

use super::args::{
    Halt, Propose, ProposeConfig, ProposeMembership, ProposeMinSafe, ProposePhase, Proposing,
    Resume, Revoke, Vote,
};
use super::carry;
use super::hand::{self, deliver};
use super::home::{all, threshold};
use super::mesh::{self, Mesh};
use super::names::{self, begins, id, node, person, phase_text, setting, short};
use crate::cli::context::Context;
use crate::cli::term;
use crate::error::{Failure, Kind, Outcome};
use quorate_core::config::{Patch, Set};
use quorate_core::governance::{
    Act, AdmissionId, Author, Cause, Choice, Consent, Members, Origin, Phase, Proposal, Request,
    Target, Tier, Wish,
};
use quorate_core::limits::{HALT_REASON_BYTES_MAX, LIFTS_MAX};
use std::path::Path;

const DAY_S: u64 = 86_400;
/// Less than the seven days of a proposal, for clocks that are a little apart.
const CLOCKS_S: u64 = 3_600;
const EVIDENCE_BYTES_MAX: u64 = 256 << 20;

pub(super) fn propose(context: &Context, args: &Propose) -> Outcome {
    match args {
        Propose::Config(args) => config(context, args),
        Propose::Phase(args) => phase(context, args),
        Propose::Membership(args) => membership(context, args),
        Propose::MinSafe(args) => min_safe(context, args),
    }
}

/// The next proposal on what is accepted. Where others are open already, a later round: votes only
/// go forward, so people can still choose between them.
fn proposal(mesh: &Mesh, consent: Consent, act: Act, days: u8) -> Proposal {
    let standing = mesh.standing();
    let tip = standing.tip();
    let height = tip.height + 1;
    let open = mesh.open().iter().filter(|(_, p)| p.height == height);
    Proposal {
        height,
        parent: tip.link,
        round: open.map(|(_, p)| p.round + 1).max().unwrap_or(0),
        epoch: standing.electorate().epoch,
        phase: standing.phase(),
        consent,
        expiry: term::now_unix_s() + u64::from(days) * DAY_S - CLOCKS_S,
        origin: Origin::People,
        config: standing.snapshot().config.hash(),
        act,
    }
}

fn put_forward(
    context: &Context,
    mesh: &Mesh,
    how: &Proposing,
    consent: Consent,
    act: Act,
) -> Outcome {
    let wish = Wish::Propose(proposal(mesh, consent, act, how.days));
    deliver(
        context,
        Some(mesh),
        &mesh.request(wish),
        &how.signing,
        "proposal",
    )
}

fn config(context: &Context, args: &ProposeConfig) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.how.mesh)?;
    let config = &mesh.standing().snapshot().config;
    let mut ops = Vec::new();
    for typed in &args.set {
        let pair = typed
            .split_once('=')
            .and_then(|(name, value)| Some((name, value.parse().ok()?)));
        let (name, value) = pair.ok_or_else(|| {
            Failure::new(Kind::Usage, format!("'{typed}' is not KEY=NUMBER"))
                .hint("for example: quorate gov propose config serving.gather_us=600")
        })?;
        let key = setting(name)?;
        ops.push(Set {
            key,
            value,
            expect_old: config.get(key),
        });
    }
    let refused = |error: &dyn std::fmt::Display| {
        Failure::new(Kind::Usage, format!("nobody could accept this: {error}"))
            .hint("`quorate gov status` shows the settings as they are")
    };
    let patch = Patch::new(ops).map_err(|error| refused(&error))?;
    let tier = mesh
        .standing()
        .tier_of(&patch)
        .map_err(|error| refused(&error))?;
    let consent = if tier == Tier::DeployMajor {
        Consent::Major
    } else {
        Consent::Minor
    };
    if consent == Consent::Major && !mesh.standing().electorate().has_witnesses() {
        let message = "this is a major change, which waits 24 hours by the clocks of witnesses, and this mesh has none";
        return Err(Failure::new(Kind::Failed, message)
            .hint("smaller steps of minor settings need no witnesses; witnesses come by: quorate gov propose membership --add-witness NODE"));
    }
    put_forward(context, &mesh, &args.how, consent, Act::Patch(patch))
}

fn phase(context: &Context, args: &ProposePhase) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.how.mesh)?;
    let (is, to) = (mesh.standing().phase(), names::phase(args.phase)?);
    if to < is {
        let request = mesh.request(Wish::Lower(to));
        return deliver(context, Some(&mesh), &request, &args.how.signing, "lower");
    }
    if is.next() != Some(to) {
        let message = format!(
            "the mesh is in phase {}, and no phase is skipped",
            phase_text(is)
        );
        return Err(Failure::new(Kind::Usage, message).hint("go one phase up, or any number down"));
    }
    let (members, genesis) = (
        &mesh.standing().electorate().members,
        mesh.replica.genesis(),
    );
    let highest = Phase::highest(members.participants.len(), members.witnesses.len());
    if to > highest || to > genesis.terms().preset.row().phase_max {
        let message = format!(
            "a mesh of this size and preset stays at phase {}",
            phase_text(is)
        );
        return Err(Failure::new(Kind::Failed, message).hint(
            "phase 2 needs three participants and witnesses: quorate gov propose membership --help",
        ));
    }
    let Some(path) = &args.evidence else {
        let wanted = &genesis.terms().criteria[usize::from(args.phase) - 1];
        let message = format!("what shows that the exit criteria are met? They are: {wanted}");
        return Err(
            Failure::new(Kind::Usage, message).hint("write it into a file: --evidence FILE")
        );
    };
    let evidence = *blake3::hash(&mesh::read(path, EVIDENCE_BYTES_MAX)?).as_bytes();
    let criteria = genesis.criteria_hash(to).unwrap_or_default();
    let mut lifts: Vec<_> = mesh.standing().lowered().values().copied().collect();
    lifts.sort_unstable();
    put_forward(
        context,
        &mesh,
        &args.how,
        Consent::Membership,
        Act::Raise {
            to,
            criteria,
            evidence,
            lifts,
        },
    )
}

fn membership(context: &Context, args: &ProposeMembership) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.how.mesh)?;
    let electorate = mesh.standing().electorate();
    let old = &electorate.members;
    let mut participants = old.participants.clone();
    participants.extend(all(&args.add, person)?);
    for typed in &args.remove {
        let gone = participant(&mesh, typed)?;
        participants.retain(|key| *key != gone);
    }
    let mut witnesses = old.witnesses.clone();
    witnesses.extend(all(&args.add_witness, node)?);
    for gone in all(&args.remove_witness, node)? {
        witnesses.retain(|key| *key != gone);
    }
    participants.sort_unstable();
    witnesses.sort_unstable();
    let witness_threshold = threshold(args.witnesses_needed, witnesses.len());
    let new = Members {
        participants,
        witnesses,
        witness_threshold,
    };
    let terms = mesh.replica.genesis().terms();
    let burnt = new
        .participants
        .iter()
        .find(|key| electorate.suspended.contains(*key));
    if let Some(key) = burnt {
        let message = format!(
            "the key {} was suspended, and a burnt key does not come back",
            short(key)
        );
        return Err(
            Failure::new(Kind::Usage, message).hint(format!("add: --remove {}", short(key)))
        );
    }
    new.check(terms.preset, &terms.nodes)
        .map_err(|error| Failure::new(Kind::Usage, format!("these are no members: {error}")))?;
    if new == *old {
        return Err(Failure::new(Kind::Usage, "this changes nobody")
            .hint("name somebody: --add KEY, --remove KEY"));
    }
    put_forward(
        context,
        &mesh,
        &args.how,
        Consent::Membership,
        Act::Membership(new),
    )
}

fn min_safe(context: &Context, args: &ProposeMinSafe) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.how.mesh)?;
    let (low, high) = (
        mesh.standing().min_safe(),
        mesh.standing().snapshot().version,
    );
    if !(low..=high).contains(&args.version) {
        let message = format!(
            "the lowest safe version can be {low} to {high}, not {}",
            args.version
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    put_forward(
        context,
        &mesh,
        &args.how,
        Consent::Major,
        Act::MinSafe(args.version),
    )
}

fn participant(mesh: &Mesh, typed: &str) -> Outcome<Author> {
    let keys = &mesh.standing().electorate().members.participants;
    begins(typed, "participant", keys.iter().map(|key| (key, *key)))
}

pub(super) fn vote(context: &Context, args: &Vote) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.mesh)?;
    let open = mesh.open().iter().map(|(id, proposal)| (&id.0, proposal));
    let proposal = begins(&args.proposal, "open proposal", open)?.clone();
    let choice = if args.no { Choice::No } else { Choice::Yes };
    let request = mesh.request(Wish::Vote { choice, proposal });
    deliver(context, Some(&mesh), &request, &args.signing, "vote")
}

pub(super) fn halt(context: &Context, args: &Halt) -> Outcome {
    let reason = args.reason.trim().to_owned();
    if reason.is_empty() || reason.len() > HALT_REASON_BYTES_MAX {
        let message = format!(
            "a reason has 1 to {HALT_REASON_BYTES_MAX} bytes, and this one has {}",
            reason.len()
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    let goals = carry::goals(&args.to)?;
    let named = match &args.network {
        Some(typed) => Some(names::network(typed)?),
        None => carry::network(&goals),
    };
    // Whatever is wrong with the records here must keep nobody from stopping a mesh that he can name.
    let mesh = match (hand::known(context, &args.mesh), named) {
        (Ok(mesh), None) => mesh,
        (Ok(mesh), Some(network)) => mesh.filter(|mesh| mesh.network() == network),
        (Err(_), Some(_)) => None,
        (Err(failure), None) => return Err(failure),
    };
    let network = hand::network_of(mesh.as_ref(), named)?;
    let request = Request {
        network,
        epoch: mesh
            .as_ref()
            .map_or(0, |mesh| mesh.standing().electorate().epoch),
        refs: vec![],
        wish: Wish::Halt { reason },
    };
    if !goals.is_empty() {
        return carry::halt(context, mesh.as_ref(), &request, args, &goals);
    }
    deliver(context, mesh.as_ref(), &request, &args.signing, "halt")
}

pub(super) fn resume(context: &Context, args: &Resume) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.how.mesh)?;
    let standing = mesh.standing();
    if !standing.is_halted() {
        return Err(Failure::new(Kind::Failed, "nothing stops this mesh")
            .hint("see for yourself: quorate gov status"));
    }
    let mut suspends = args
        .suspend
        .iter()
        .map(|typed| participant(&mesh, typed))
        .collect::<Outcome<Vec<_>>>()?;
    suspends.sort_unstable();
    suspends.dedup();
    let mut lifts = Vec::new();
    for cause in standing.causes() {
        match cause {
            Cause::Halt { id, .. } => lifts.push(id.0),
            Cause::Conflict(id) => lifts.push(*id),
            Cause::Flood(author) | Cause::Fault(author) if !suspends.contains(author) => {
                let message = format!(
                    "{}: {} has to be suspended before the mesh goes on",
                    cause.reason(),
                    short(author)
                );
                return Err(Failure::new(Kind::Failed, message)
                    .hint(format!("add: --suspend {}", short(author))));
            }
            Cause::Flood(_) | Cause::Fault(_) => {}
        }
    }
    lifts.sort_unstable();
    // What is left over stops the mesh until the next resume.
    lifts.truncate(LIFTS_MAX);
    let newest = standing.snapshot().version;
    let version = args.restart.unwrap_or(newest);
    let snapshot = standing.snapshots().iter().find(|s| s.version == version);
    let snapshot = snapshot
        .filter(|s| s.version >= standing.min_safe())
        .ok_or_else(|| {
            let low = standing.min_safe();
            Failure::new(
                Kind::Usage,
                format!("the mesh can run again in version {low} to {newest}, not {version}"),
            )
        })?;
    let restart = snapshot.config.hash();
    put_forward(
        context,
        &mesh,
        &args.how,
        Consent::Resume,
        Act::Resume {
            restart,
            lifts,
            suspends,
        },
    )
}

pub(super) fn revoke(context: &Context, args: &Revoke) -> Outcome {
    let mesh = Mesh::find(&context.home, &args.mesh)?;
    let target = match (&args.node, &args.admission) {
        (Some(typed), _) => Target::Node(node(typed)?),
        (None, Some(typed)) => Target::Link(AdmissionId(id(typed).ok_or_else(|| {
            Failure::new(
                Kind::Usage,
                format!("'{typed}' is not the id of an admission (64 hex digits)"),
            )
            .hint("`quorate gov log --json` shows them")
        })?)),
        (None, None) => return Err(Failure::new(Kind::Usage, "which node is taken out?")),
    };
    deliver(
        context,
        Some(&mesh),
        &mesh.request(Wish::Revoke(target)),
        &args.signing,
        "revoke",
    )
}

/// The path of a file that holds something, if the word names one.
pub(super) fn file_named(what: &str) -> Option<&Path> {
    Some(Path::new(what)).filter(|path| path.is_file())
}
