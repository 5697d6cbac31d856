//! Our types to protobuf.

use super::v1;
use crate::identity;
use quorate_core::generate::{Guesses, Provenance, TokenEvent, Voted};
use quorate_core::ids::ExpertId;
use quorate_core::roster::Known;
use quorate_core::team::Change;
use quorate_core::weights::{Claim, Reasons, Strategy};

pub fn ready(ready: v1::Ready) -> v1::GenerateEvent {
    event(v1::generate_event::Event::Ready(ready))
}

pub fn token(token: TokenEvent) -> v1::GenerateEvent {
    let top = token.top.into_iter();
    let Provenance { asked, asked_again } = token.provenance.map(|p| *p).unwrap_or_default();
    event(v1::generate_event::Event::Token(v1::Token {
        text: token.text,
        token: token.token,
        ln_p: token.ln_p,
        top: top
            .map(|(token, ln_p)| v1::Alternative { token, ln_p })
            .collect(),
        voices: asked.into_iter().map(voice).collect(),
        asked_again,
    }))
}

fn voice(voted: Voted) -> v1::Voice {
    v1::Voice {
        expert: voted.expert.0.to_vec(),
        weight: voted.weight,
        ln_p: voted.ln_p,
        arrived: voted.arrived,
        answer_us: voted.answer_us,
        compute_us: voted.compute_us,
        bytes: voted.bytes,
    }
}

pub fn known_expert(known: &Known) -> v1::KnownExpert {
    let peer = known.facts.peer.as_ref();
    v1::KnownExpert {
        expert: known.facts.expert.0.to_vec(),
        node: peer.map_or_else(String::new, identity::peer_id),
        answer_us_p50: known.pace.p50_us(),
        answer_us_p95: known.pace.p95_us(),
        answers: known.answers,
        bytes: known.bytes,
        failures: known.failures,
        failures_in_a_row: known.in_a_row,
        last_failure: known.last_failure.clone().unwrap_or_default(),
        suspicion: known
            .suspicion()
            .map_or_else(String::new, |why| why.to_string()),
        audited: known.audit.positions(),
    }
}

pub fn change(change: &Change) -> v1::Change {
    let weight = |(expert, weight): &(ExpertId, f64)| v1::Weight {
        expert: expert.0.to_vec(),
        weight: *weight,
    };
    v1::Change {
        position: change.position,
        set: change.set.iter().map(weight).collect(),
    }
}

pub fn guesses(guesses: Guesses) -> v1::Guesses {
    v1::Guesses {
        right: guesses.right,
        wrong: guesses.wrong,
        wasted_checks: guesses.wasted,
        branches: guesses.branches,
        hits: guesses.hits,
    }
}

pub fn reasons(reasons: &Reasons) -> v1::Reasons {
    let claim = |(expert, claim): &(ExpertId, Claim)| v1::Claim {
        expert: expert.0.to_vec(),
        nats: claim.nats(),
        counts: claim.counts(),
    };
    let belief = |(strategy, share): &(Strategy, f64)| v1::Belief {
        strategy: strategy.name().into(),
        share: *share,
    };
    v1::Reasons {
        claims: reasons.claims.iter().map(claim).collect(),
        strategies: reasons.strategies.iter().map(belief).collect(),
    }
}

pub fn finished(finished: v1::Finished) -> v1::GenerateEvent {
    event(v1::generate_event::Event::Finished(finished))
}

fn event(event: v1::generate_event::Event) -> v1::GenerateEvent {
    v1::GenerateEvent { event: Some(event) }
}
