//! What can go wrong with a request, in words for whoever asked. One type for HTTP and gRPC, so that
//! both say the same.

use crate::driver::{AcquireError, RefusedError};
use crate::expert::TokenizeError;
use crate::grammar::GrammarError;
use crate::wish::{Fault, Invalid};
use quorate_core::chat::ChatError;
use quorate_core::governance::{Miscast, Refusal};

#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub kind: Kind,
    /// What, why, and the next step.
    pub message: String,
    /// The parameter at fault; empty if there is none.
    pub param: String,
    pub retry_after_s: Option<u32>,
}

/// The `code` of HTTP's error object, and what both protocols' status codes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Malformed,
    MissingParameter,
    InvalidValue,
    UnsupportedParameter,
    ContextLengthExceeded,
    InvalidGrammar,
    BodyTooLarge,
    BodyTimeout,
    InvalidApiKey,
    ForbiddenHost,
    ForbiddenOrigin,
    UnknownRoute,
    MethodNotAllowed,
    ModelNotFound,
    ModelNotInstalled,
    ModelTooLarge,
    ModelLoadFailed,
    Busy,
    MeshHalted,
    /// The operator of this node forbids it.
    RefusedByPolicy,
    /// A signed entry does nothing that its bringer wanted.
    Miscast(Miscast),
    ShuttingDown,
    DeadlineExceeded,
    /// Every expert asked has failed; alone, that is one.
    GenerationFailed,
    Internal,
}

impl ApiError {
    pub fn new(kind: Kind, message: impl Into<String>) -> ApiError {
        ApiError {
            kind,
            message: message.into(),
            param: String::new(),
            retry_after_s: None,
        }
    }

    pub fn about(param: &str, kind: Kind, message: impl Into<String>) -> ApiError {
        ApiError {
            param: param.into(),
            ..ApiError::new(kind, message)
        }
    }

    fn retry(self, after_s: u32) -> ApiError {
        ApiError {
            retry_after_s: Some(after_s.max(1)),
            ..self
        }
    }

    /// The node went away in the middle of something.
    pub fn gone() -> ApiError {
        ApiError::new(
            Kind::ShuttingDown,
            "the node is shutting down and stopped before the response was complete; \
             start it again with `quorate up`",
        )
    }
}

impl Kind {
    pub fn code(self) -> &'static str {
        match self {
            Kind::Malformed => "malformed_request",
            Kind::MissingParameter => "missing_required_parameter",
            Kind::InvalidValue => "invalid_value",
            Kind::UnsupportedParameter => "unsupported_parameter",
            Kind::ContextLengthExceeded => "context_length_exceeded",
            Kind::InvalidGrammar => "invalid_grammar",
            Kind::BodyTooLarge => "body_too_large",
            Kind::BodyTimeout => "body_timeout",
            Kind::InvalidApiKey => "invalid_api_key",
            Kind::ForbiddenHost => "forbidden_host",
            Kind::ForbiddenOrigin => "forbidden_origin",
            Kind::UnknownRoute => "unknown_url",
            Kind::MethodNotAllowed => "method_not_allowed",
            Kind::ModelNotFound => "model_not_found",
            Kind::ModelNotInstalled => "model_not_installed",
            Kind::ModelTooLarge => "model_too_large",
            Kind::ModelLoadFailed => "model_load_failed",
            Kind::Busy => "busy",
            Kind::MeshHalted => "mesh_halted",
            Kind::RefusedByPolicy => "refused_by_policy",
            Kind::Miscast(why) => miscast(why),
            Kind::ShuttingDown => "shutting_down",
            Kind::DeadlineExceeded => "deadline_exceeded",
            Kind::GenerationFailed => "generation_failed",
            Kind::Internal => "internal_error",
        }
    }
}

fn miscast(why: Miscast) -> &'static str {
    match why {
        Miscast::Other(_) => "not_meant",
        Miscast::Refused(Refusal::OtherMesh) => "other_mesh",
        Miscast::Refused(Refusal::Stranger) => "not_a_participant",
        Miscast::Refused(Refusal::Full) => "author_full",
        Miscast::Gap => "feed_gap",
        Miscast::Unknown => "proposal_unknown",
        Miscast::Fault => "key_at_fault",
        Miscast::NoVoice => "no_voice",
        Miscast::Elsewhere => "signed_for_another_state",
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> ApiError {
        let kind = match invalid.fault {
            Fault::Malformed => Kind::Malformed,
            Fault::Missing => Kind::MissingParameter,
            Fault::Value => Kind::InvalidValue,
            Fault::Unsupported => Kind::UnsupportedParameter,
        };
        ApiError::about(&invalid.param, kind, invalid.message)
    }
}

impl From<AcquireError> for ApiError {
    fn from(error: AcquireError) -> ApiError {
        let text = error.to_string();
        match error {
            AcquireError::Unknown { near, .. } => ApiError::unknown_model(&text, &near),
            AcquireError::NotInstalled { name } => {
                let message = format!("{text}; get it with `quorate pull {name}`");
                ApiError::about("model", Kind::ModelNotInstalled, message)
            }
            AcquireError::TooLarge { .. } => {
                let message = format!("{text}; ask for a smaller model or raise --max-memory");
                ApiError::about("model", Kind::ModelTooLarge, message)
            }
            AcquireError::Busy { retry_after_s, .. } => {
                let message =
                    format!("{text}; try again in {retry_after_s} s, or raise --max-memory");
                ApiError::about("model", Kind::Busy, message).retry(retry_after_s)
            }
            AcquireError::Load { .. } => {
                let message = format!("{text}; `quorate show` and `quorate doctor` say more");
                ApiError::about("model", Kind::ModelLoadFailed, message)
            }
            AcquireError::ShuttingDown => ApiError::new(Kind::ShuttingDown, text),
        }
    }
}

impl ApiError {
    pub fn unknown_model(text: &str, near: &[String]) -> ApiError {
        let hint = match near {
            [] => "`quorate list` shows what is installed".to_string(),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        ApiError::about("model", Kind::ModelNotFound, format!("{text}; {hint}"))
    }
}

impl From<RefusedError> for ApiError {
    fn from(error: RefusedError) -> ApiError {
        let text = error.to_string();
        match error {
            RefusedError::Busy { retry_after_s, .. } => ApiError::new(
                Kind::Busy,
                format!("{text}; try again in {retry_after_s} s"),
            )
            .retry(retry_after_s),
            RefusedError::PromptTooLong { .. } => {
                let message =
                    format!("{text}; shorten the prompt or choose a model with a longer context");
                ApiError::about("messages", Kind::ContextLengthExceeded, message)
            }
            RefusedError::PromptEmpty => ApiError::about("prompt", Kind::InvalidValue, text),
            RefusedError::Halted(_) => {
                let message = format!(
                    "{text}; `quorate gov status` shows who halted it and what lifts the halt"
                );
                ApiError::new(Kind::MeshHalted, message)
            }
            RefusedError::Policy(_) => {
                let message = format!(
                    "{text}; the operator of this node wrote it: `quorate gov policy check` shows where. \
                     A model of this machine answers without the mesh"
                );
                ApiError::new(Kind::RefusedByPolicy, message)
            }
            RefusedError::ShuttingDown => ApiError::new(Kind::ShuttingDown, text),
        }
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> ApiError {
        let message = error.to_string();
        let end = message.find(' ').unwrap_or(0);
        // Texts about one message start with its place.
        let param = if message[..end].ends_with(']') {
            &message[..end]
        } else {
            "messages"
        };
        ApiError::about(param, Kind::InvalidValue, message.clone())
    }
}

impl From<GrammarError> for ApiError {
    fn from(error: GrammarError) -> ApiError {
        ApiError::about("response_format", Kind::InvalidGrammar, error.to_string())
    }
}

impl From<TokenizeError> for ApiError {
    fn from(error: TokenizeError) -> ApiError {
        let message = error.to_string();
        match error {
            TokenizeError::TooLong { .. } => {
                ApiError::about("messages", Kind::ContextLengthExceeded, message)
            }
            TokenizeError::Failed(_) => ApiError::new(Kind::Internal, message),
        }
    }
}
