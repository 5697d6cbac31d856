//! Frames, without their length, to questions and answers. Total: whatever a peer sends becomes a
//! checked value or a named fault.

use super::v1::{self, answer as said, question as asked};
use super::{BadFrame, LENGTH_BYTES, Letterhead, Opening, Purpose, VERSION, pack};
use prost::Message;
use quorate_core::ids::{ExpertId, NetworkId, PeerKey, SessionId};
use quorate_core::law::{Law, ListLaw, Transforms};
use quorate_core::limits::{
    BIAS_ENTRIES_MAX, BUSY_RETRY_MS_MAX, DRAFT_TOKENS_MAX, FAILURE_TEXT_BYTES_MAX,
    GOVERNANCE_HEAD_BYTES_MAX, LIST_ENTRIES_MAX, OPINION_BYTES_MAX, PATH_MAX, PLANE_TOKENS_MAX,
    QUESTION_BYTES_MAX, RAW_TOP_MAX, REPEAT_LAST_N_MAX, SCALARS_MAX, SCORES_MAX,
};
use quorate_core::opinion::{
    ExpertEvent, ExpertFailure, ExpertOp, Open, Opinion, Query, Raw, Said, Scope, Want,
};
use quorate_core::seeded::PositionKey;
use std::sync::Arc;

/// Words of all masks in one question: a run of a few bytes may stand for many.
pub(super) const MASK_WORDS_MAX: usize = QUESTION_BYTES_MAX / 4;
/// Nobody's in particular, and not the owner's; whoever serves a peer gives it one of its own.
const STRANGER: Scope = Scope(1);

/// The first frame of a stream.
pub fn opening(bytes: &[u8], session: SessionId) -> Result<Opening, BadFrame> {
    let Some(asked::Kind::Open(open)) = v1::Question::decode(bytes)?.kind else {
        return Err(BadFrame::Missing("an Open before everything else"));
    };
    if open.version != VERSION {
        return Err(BadFrame::Version(open.version));
    }
    at_most(
        "bytes of a governance head",
        open.governance_head.len(),
        GOVERNANCE_HEAD_BYTES_MAX,
    )?;
    let tokens = open.prompt.len() + open.answered.len();
    at_most("tokens of a text", tokens, PLANE_TOKENS_MAX)?;
    if open.prompt.is_empty() {
        return Err(BadFrame::Missing("a prompt"));
    }
    let purpose = match open.purpose() {
        v1::open::Purpose::User => Purpose::User,
        v1::open::Purpose::Autonomous => Purpose::Autonomous,
        v1::open::Purpose::Unspecified => return Err(BadFrame::Missing("the purpose")),
    };
    let letterhead = Letterhead {
        network: NetworkId(hash("the mesh", &open.network)?),
        config: hash("the config", &open.config)?,
        governance_head: open.governance_head,
        halted: open.halted,
        purpose,
    };
    let t = open.transforms.ok_or(BadFrame::Missing("the transforms"))?;
    Ok(Opening {
        letterhead,
        expert: ExpertId(hash("the expert", &open.expert)?),
        open: Open {
            session,
            scope: STRANGER,
            prompt: open.prompt,
            answered: open.answered,
            transforms: transforms(t)?,
            score: open.score,
            path: path(&open.path)?,
        },
    })
}

fn path(bytes: &[u8]) -> Result<Vec<PeerKey>, BadFrame> {
    let (peers, rest) = bytes.as_chunks::<32>();
    at_most("nodes on the path", peers.len(), PATH_MAX)?;
    let twice = (1..peers.len()).any(|at| peers[..at].contains(&peers[at]));
    if twice || !rest.is_empty() {
        return Err(BadFrame::Range("the path"));
    }
    Ok(peers.to_vec())
}

fn transforms(t: v1::Transforms) -> Result<Transforms, BadFrame> {
    let biases = t.bias_tokens.len();
    at_most("biases", biases, BIAS_ENTRIES_MAX)?;
    let sorted = t.bias_tokens.windows(2).all(|w| w[0] < w[1]);
    if !sorted || t.bias_values.len() != biases {
        return Err(BadFrame::Range("logit_bias"));
    }
    if t.repeat_last_n > REPEAT_LAST_N_MAX {
        return Err(BadFrame::Range("repeat_last_n"));
    }
    if t.temperature == 0.0 {
        return Err(BadFrame::Range("temperature"));
    }
    let transforms = Transforms {
        repeat_penalty: t.repeat_penalty,
        repeat_last_n: t.repeat_last_n,
        frequency_penalty: t.frequency_penalty,
        presence_penalty: t.presence_penalty,
        bias: t.bias_tokens.into_iter().zip(t.bias_values).collect(),
        temperature: t.temperature,
        top_k: t.top_k,
        top_p: t.top_p,
        min_p: t.min_p,
    };
    // The ranges of the law are those of a client's request.
    let law = Law::new(transforms, ListLaw::default());
    Ok(law.map_err(|bad| BadFrame::Range(bad.name))?.transforms)
}

/// Any frame of a router but its first.
pub fn question(bytes: &[u8], session: SessionId) -> Result<ExpertOp, BadFrame> {
    match v1::Question::decode(bytes)?.kind {
        Some(asked::Kind::Draft(draft)) => self::draft(draft, session),
        Some(asked::Kind::Lead(lead)) => self::lead(lead, session),
        Some(asked::Kind::Branch(branch)) => self::branch(branch, session),
        Some(asked::Kind::Settle(v1::Settle { epoch })) => Ok(ExpertOp::Settle { session, epoch }),
        Some(asked::Kind::Forget(v1::Forget { epoch })) => Ok(ExpertOp::Forget { session, epoch }),
        Some(asked::Kind::Ask(ask)) => {
            let asked = ask.query.ok_or(BadFrame::Missing("a query"))?;
            Ok(ExpertOp::Ask {
                session,
                epoch: ask.epoch,
                position: ask.position,
                query: query(asked, &mut { MASK_WORDS_MAX })?,
            })
        }
        Some(asked::Kind::Truncate(v1::Truncate { epoch, position })) => Ok(ExpertOp::Truncate {
            session,
            epoch,
            position,
        }),
        Some(asked::Kind::Close(_)) => Ok(ExpertOp::Close { session }),
        Some(asked::Kind::Open(_)) => Err(BadFrame::Range("a second Open")),
        None => Err(BadFrame::Missing("a question")),
    }
}

fn draft(draft: v1::Draft, session: SessionId) -> Result<ExpertOp, BadFrame> {
    let (tokens, queries) = (draft.tokens.len(), draft.queries.len());
    at_most("tokens of a draft", tokens, DRAFT_TOKENS_MAX)?;
    at_most(
        "queries of a draft",
        queries,
        DRAFT_TOKENS_MAX.min(tokens + 1),
    )?;
    let mut room = MASK_WORDS_MAX;
    let queries = draft.queries.into_iter().map(|q| query(q, &mut room));
    Ok(ExpertOp::Draft {
        session,
        epoch: draft.epoch,
        position: draft.position,
        tokens: draft.tokens,
        queries: queries.collect::<Result<_, _>>()?,
    })
}

fn lead(lead: v1::Lead, session: SessionId) -> Result<ExpertOp, BadFrame> {
    at_most("queries of a lead", lead.queries.len(), DRAFT_TOKENS_MAX)?;
    let mut room = MASK_WORDS_MAX;
    let queries = lead.queries.into_iter().map(|q| query(q, &mut room));
    Ok(ExpertOp::Lead {
        session,
        epoch: lead.epoch,
        position: lead.position,
        queries: queries.collect::<Result<_, _>>()?,
    })
}

fn branch(branch: v1::Branch, session: SessionId) -> Result<ExpertOp, BadFrame> {
    let asked = branch.query.ok_or(BadFrame::Missing("a query"))?;
    Ok(ExpertOp::Branch {
        session,
        epoch: branch.epoch,
        position: branch.position,
        token: branch.token,
        query: query(asked, &mut { MASK_WORDS_MAX })?,
    })
}

fn query(query: v1::Query, room: &mut usize) -> Result<Query, BadFrame> {
    let want = match query.want.ok_or(BadFrame::Missing("what is wanted"))? {
        v1::query::Want::Perturbed(v1::Perturbed { key, tau }) => {
            let (words, rest) = key.as_chunks::<4>();
            let key = <[[u8; 4]; 4]>::try_from(words).ok();
            let key = key.filter(|_| rest.is_empty());
            let key = key.ok_or(BadFrame::Range("a key"))?;
            if !tau.is_finite() || tau <= 0.0 {
                return Err(BadFrame::Range("tau"));
            }
            Want::Perturbed {
                key: PositionKey(key.map(u32::from_le_bytes)),
                tau,
            }
        }
        v1::query::Want::Plain(v1::Plain { mass, max }) => {
            let inside = mass > 0.0 && mass <= 1.0; // false for NaN
            let max = u16::try_from(max).ok();
            let max = max.filter(|max| inside && (1..=LIST_ENTRIES_MAX).contains(max));
            let max = max.ok_or(BadFrame::Range("a plain list"))?;
            Want::Plain { mass, max }
        }
        v1::query::Want::Scalars(v1::Scalars { tokens }) => {
            at_most("scalars", tokens.len(), SCALARS_MAX)?;
            Want::Scalars(tokens)
        }
    };
    let mask = query.mask.map(|bytes| pack::unpack_mask(&bytes, room));
    let raw_top = match query.raw_top {
        Some(top) if top > u32::from(RAW_TOP_MAX) => return Err(BadFrame::Range("raw_top")),
        top => top.map(|top| top as u8),
    };
    let scores = u16::try_from(query.scores).ok();
    let scores = scores.filter(|scores| *scores <= SCORES_MAX);
    Ok(Query {
        want,
        mask: mask.transpose()?.map(Arc::new),
        untruncated: query.untruncated,
        raw_top,
        scores: scores.ok_or(BadFrame::Range("scores"))?,
    })
}

/// Any frame of an expert whose vocabulary has this many tokens.
pub fn answer(bytes: &[u8], session: SessionId, vocab: u32) -> Result<ExpertEvent, BadFrame> {
    match v1::Answer::decode(bytes)?.kind {
        Some(said::Kind::Ready(ready)) => Ok(ExpertEvent::Ready {
            session,
            reused: ready.reused,
            prefill_us: ready.prefill_us,
            branches: u8::try_from(ready.branches).map_err(|_| BadFrame::Range("branches"))?,
        }),
        Some(said::Kind::Scored(scored)) => Ok(ExpertEvent::Scored {
            session,
            ln_p: pack::unpack_values("scores", &scored.ln_p, PLANE_TOKENS_MAX)?,
        }),
        Some(said::Kind::Opinions(said)) => {
            at_most("opinions", said.opinions.len(), DRAFT_TOKENS_MAX)?;
            let opinions = said.opinions.into_iter().map(|o| opinion(o, vocab));
            Ok(ExpertEvent::Opinions {
                session,
                epoch: said.epoch,
                opinions: opinions.collect::<Result<_, _>>()?,
                compute_us: said.compute_us,
                bytes: (LENGTH_BYTES + bytes.len()) as u32,
            })
        }
        Some(said::Kind::Failed(failed)) => Ok(ExpertEvent::Failed {
            session,
            why: failure(failed)?,
        }),
        None => Err(BadFrame::Missing("an answer")),
    }
}

fn opinion(opinion: v1::Opinion, vocab: u32) -> Result<Opinion, BadFrame> {
    at_most(
        "bytes of an opinion",
        opinion.encoded_len(),
        OPINION_BYTES_MAX,
    )?;
    let said = match opinion.said.ok_or(BadFrame::Missing("an opinion"))? {
        v1::opinion::Said::List(bytes) => Said::List(pack::unpack_list(&bytes, vocab)?),
        v1::opinion::Said::Scalars(bytes) => {
            Said::Scalars(pack::unpack_values("scalars", &bytes, SCALARS_MAX)?)
        }
    };
    let count = match &said {
        Said::List(list) => list.entries.len(),
        Said::Scalars(values) => values.len(),
    };
    let top = pack::unpack_top(&opinion.raw_top, vocab)?;
    let raw = match opinion.raw_of_said {
        Some(bytes) if bytes.len() == 2 * count => Some(Raw {
            of_said: pack::unpack_values("untransformed values", &bytes, count)?,
            top,
        }),
        None if top.is_empty() => None,
        _ => return Err(BadFrame::Range("untransformed values")),
    };
    Ok(Opinion {
        position: opinion.position,
        said,
        raw,
        scored: pack::unpack_values("scores", &opinion.scored, SCORES_MAX.into())?,
    })
}

fn failure(failed: v1::Failed) -> Result<ExpertFailure, BadFrame> {
    use v1::failed::Why;
    let short = |text: String| {
        at_most("bytes of a reason", text.len(), FAILURE_TEXT_BYTES_MAX)?;
        Ok::<String, BadFrame>(text)
    };
    Ok(match failed.why.ok_or(BadFrame::Missing("a reason"))? {
        Why::BusyRetryMs(retry_ms) => ExpertFailure::Busy {
            retry_ms: retry_ms.min(BUSY_RETRY_MS_MAX),
        },
        Why::ContextFull(v1::ContextFull { tokens, context }) => {
            ExpertFailure::ContextFull { tokens, context }
        }
        Why::Refused(text) => ExpertFailure::Refused(short(text)?),
        Why::NotFinite(_) => ExpertFailure::NotFinite,
        Why::Engine(text) => ExpertFailure::Engine(short(text)?),
        Why::Gone(_) => ExpertFailure::Gone,
    })
}

fn hash(what: &'static str, bytes: &[u8]) -> Result<[u8; 32], BadFrame> {
    bytes.try_into().map_err(|_| BadFrame::Range(what))
}

fn at_most(what: &'static str, got: usize, max: usize) -> Result<(), BadFrame> {
    if got > max {
        Err(BadFrame::TooMany { what, max })
    } else {
        Ok(())
    }
}
