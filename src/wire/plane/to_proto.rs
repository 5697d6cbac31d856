//! Questions and answers to whole frames, their length first.

use super::v1::{self, answer, question};
use super::{CannotSay, LENGTH_BYTES, Letterhead, Purpose, VERSION, pack};
use prost::Message;
use quorate_core::ids::ExpertId;
use quorate_core::law::Transforms;
use quorate_core::limits::{
    ANSWER_BYTES_MAX, FAILURE_TEXT_BYTES_MAX, OPEN_BYTES_MAX, OPINION_BYTES_MAX, QUESTION_BYTES_MAX,
};
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, Open, Opinion, Query, Said, Want,
};

pub fn open_frame(
    letterhead: &Letterhead,
    expert: &ExpertId,
    open: &Open,
) -> Result<Vec<u8>, CannotSay> {
    let purpose = match letterhead.purpose {
        Purpose::User => v1::open::Purpose::User,
        Purpose::Autonomous => v1::open::Purpose::Autonomous,
    };
    let open = v1::Open {
        version: VERSION,
        network: letterhead.network.0.to_vec(),
        config: letterhead.config.to_vec(),
        governance_head: letterhead.governance_head.clone(),
        halted: letterhead.halted,
        expert: expert.0.to_vec(),
        purpose: purpose.into(),
        transforms: Some(transforms(&open.transforms)),
        prompt: open.prompt.clone(),
        answered: open.answered.clone(),
        score: open.score,
        path: open.path.concat(),
    };
    asked(question::Kind::Open(open), OPEN_BYTES_MAX)
}

fn transforms(t: &Transforms) -> v1::Transforms {
    v1::Transforms {
        repeat_penalty: t.repeat_penalty,
        repeat_last_n: t.repeat_last_n,
        frequency_penalty: t.frequency_penalty,
        presence_penalty: t.presence_penalty,
        temperature: t.temperature,
        top_k: t.top_k,
        top_p: t.top_p,
        min_p: t.min_p,
        bias_tokens: t.bias.iter().map(|(token, _)| *token).collect(),
        bias_values: t.bias.iter().map(|(_, value)| *value).collect(),
    }
}

/// Any operation but `Open`, which needs a letterhead: None for that one.
pub fn op_frame(op: &ExpertOp) -> Option<Result<Vec<u8>, CannotSay>> {
    let kind = match op {
        ExpertOp::Open(_) => return None,
        ExpertOp::Draft {
            epoch,
            position,
            tokens,
            queries,
            ..
        } => question::Kind::Draft(v1::Draft {
            epoch: *epoch,
            position: *position,
            tokens: tokens.clone(),
            queries: queries.iter().map(query).collect(),
        }),
        ExpertOp::Lead {
            epoch,
            position,
            queries,
            ..
        } => question::Kind::Lead(v1::Lead {
            epoch: *epoch,
            position: *position,
            queries: queries.iter().map(query).collect(),
        }),
        ExpertOp::Branch {
            epoch,
            position,
            token,
            query: asked,
            ..
        } => question::Kind::Branch(v1::Branch {
            epoch: *epoch,
            position: *position,
            token: *token,
            query: Some(query(asked)),
        }),
        ExpertOp::Settle { epoch, .. } => question::Kind::Settle(v1::Settle { epoch: *epoch }),
        ExpertOp::Forget { epoch, .. } => question::Kind::Forget(v1::Forget { epoch: *epoch }),
        ExpertOp::Ask {
            epoch,
            position,
            query: asked,
            ..
        } => question::Kind::Ask(v1::Ask {
            epoch: *epoch,
            position: *position,
            query: Some(query(asked)),
        }),
        ExpertOp::Truncate {
            epoch, position, ..
        } => question::Kind::Truncate(v1::Truncate {
            epoch: *epoch,
            position: *position,
        }),
        ExpertOp::Close { .. } => question::Kind::Close(v1::Close {}),
    };
    Some(asked(kind, QUESTION_BYTES_MAX))
}

fn query(query: &Query) -> v1::Query {
    let want = match &query.want {
        Want::Perturbed { key, tau } => v1::query::Want::Perturbed(v1::Perturbed {
            key: key.0.iter().flat_map(|word| word.to_le_bytes()).collect(),
            tau: *tau,
        }),
        Want::Plain { mass, max } => v1::query::Want::Plain(v1::Plain {
            mass: *mass,
            max: u32::from(*max),
        }),
        Want::Scalars(tokens) => v1::query::Want::Scalars(v1::Scalars {
            tokens: tokens.clone(),
        }),
    };
    v1::Query {
        want: Some(want),
        mask: query.mask.as_deref().map(pack::mask),
        untruncated: query.untruncated,
        raw_top: query.raw_top.map(u32::from),
        scores: query.scores.into(),
    }
}

pub fn event_frame(event: &ExpertEvent) -> Result<Vec<u8>, CannotSay> {
    let kind = match event {
        ExpertEvent::Ready {
            reused,
            prefill_us,
            branches,
            ..
        } => answer::Kind::Ready(v1::Ready {
            reused: *reused,
            prefill_us: *prefill_us,
            branches: (*branches).into(),
        }),
        ExpertEvent::Scored { ln_p, .. } => answer::Kind::Scored(v1::Scored {
            ln_p: pack::values(ln_p),
        }),
        ExpertEvent::Opinions {
            epoch,
            opinions,
            compute_us,
            ..
        } => answer::Kind::Opinions(v1::Opinions {
            epoch: *epoch,
            opinions: opinions.iter().map(opinion).collect::<Result<_, _>>()?,
            compute_us: *compute_us,
        }),
        ExpertEvent::Failed { why, .. } => answer::Kind::Failed(v1::Failed {
            why: Some(failure(why)),
        }),
    };
    let answer = v1::Answer { kind: Some(kind) };
    frame("an answer", &answer, ANSWER_BYTES_MAX)
}

fn opinion(opinion: &Opinion) -> Result<v1::Opinion, CannotSay> {
    let said = match &opinion.said {
        Said::List(list) => v1::opinion::Said::List(pack::list(list)?),
        Said::Scalars(values) => v1::opinion::Said::Scalars(pack::values(values)),
    };
    let raw = opinion.raw.as_ref();
    let out = v1::Opinion {
        position: opinion.position,
        said: Some(said),
        raw_of_said: raw.map(|raw| pack::values(&raw.of_said)),
        raw_top: raw.map_or_else(Vec::new, |raw| pack::entries(&raw.top)),
        scored: pack::values(&opinion.scored),
    };
    fits("an opinion", out.encoded_len(), OPINION_BYTES_MAX)?;
    Ok(out)
}

fn failure(why: &ExpertFailure) -> v1::failed::Why {
    use v1::failed::Why;
    match why {
        ExpertFailure::Busy { retry_ms } => Why::BusyRetryMs(*retry_ms),
        ExpertFailure::ContextFull { tokens, context } => Why::ContextFull(v1::ContextFull {
            tokens: *tokens,
            context: *context,
        }),
        ExpertFailure::Refused(text) => Why::Refused(shortened(text)),
        ExpertFailure::NotFinite => Why::NotFinite(true),
        ExpertFailure::Engine(text) => Why::Engine(shortened(text)),
        ExpertFailure::Gone => Why::Gone(true),
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(FAILURE_TEXT_BYTES_MAX)].to_owned()
}

fn asked(kind: question::Kind, max: usize) -> Result<Vec<u8>, CannotSay> {
    frame("a question", &v1::Question { kind: Some(kind) }, max)
}

fn frame(what: &'static str, message: &impl Message, max: usize) -> Result<Vec<u8>, CannotSay> {
    let bytes = message.encoded_len();
    fits(what, bytes, max)?;
    let mut out = Vec::with_capacity(LENGTH_BYTES + bytes);
    out.extend((bytes as u32).to_be_bytes());
    message.encode_raw(&mut out);
    Ok(out)
}

fn fits(what: &'static str, bytes: usize, max: usize) -> Result<(), CannotSay> {
    if bytes > max {
        Err(CannotSay::TooLarge { what, bytes, max })
    } else {
        Ok(())
    }
}
