//! `quorate.v1.Inference` with health and reflection, behind the same guard and the same checks.

use super::answer::{self, Answer};
use super::error::{ApiError, Kind};
use super::{ApiState, governance, guard, router};
use crate::wire::v1::governance_server::GovernanceServer;
use crate::wire::v1::inference_server::{Inference, InferenceServer};
use crate::wire::v1::router_server::RouterServer;
use crate::wire::{self, v1};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::middleware::{self, Next};
use axum::response::Response as HttpResponse;
use quorate_core::generate::{Event, Finish};
use quorate_core::governance::{Miscast, Refusal};
use quorate_core::limits;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// One event: a token with 20 alternatives is under 1 KB, a finish with its held-back text too.
const EVENT_BYTES_MAX: usize = 64 << 10;
/// No deadline asked for.
const FOR_EVER: Duration = Duration::from_secs(86_400);

pub(super) async fn router(state: &ApiState) -> Router {
    let inference = InferenceServer::new(Service {
        state: state.clone(),
    })
    .max_decoding_message_size(limits::BODY_BYTES_MAX)
    .max_encoding_message_size(EVENT_BYTES_MAX);
    let routing = RouterServer::new(router::Service {
        state: state.clone(),
    })
    .max_decoding_message_size(limits::BODY_BYTES_MAX);
    let governing = GovernanceServer::new(governance::Service {
        state: state.clone(),
    })
    .max_decoding_message_size(limits::BODY_BYTES_MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<InferenceServer<Service>>().await;
    reporter
        .set_serving::<RouterServer<router::Service>>()
        .await;
    reporter
        .set_serving::<GovernanceServer<governance::Service>>()
        .await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Python's reflection client still speaks v1alpha, grpcurl speaks v1.
    let reflection = describe()
        .build_v1()
        .expect("our own schema is well-formed");
    let reflection_alpha = describe()
        .build_v1alpha()
        .expect("our own schema is well-formed");
    tonic::service::Routes::new(inference)
        .add_service(routing)
        .add_service(governing)
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .into_axum_router()
        .layer(middleware::from_fn_with_state(state.clone(), guarded))
}

async fn guarded(State(state): State<ApiState>, request: HttpRequest, next: Next) -> HttpResponse {
    match guard::check(&state, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => Status::from(error).into_http::<Body>(),
    }
}

struct Service {
    state: ApiState,
}

type Events = Pin<Box<dyn futures::Stream<Item = Result<v1::GenerateEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Inference for Service {
    type GenerateStream = Events;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Events>, Status> {
        let deadline = deadline(request.metadata())?;
        let asked = wire::asked(request.into_inner());
        let checked = asked
            .and_then(|asked| asked.check(&self.state.defaults()))
            .map_err(ApiError::from);
        let checked = checked.and_then(|wish| {
            self.state.check_name(&wish.model)?;
            Ok(wish)
        });
        let wish = checked.inspect_err(|error| self.state.metrics.refused(error))?;
        let answer =
            tokio::time::timeout_at(deadline, Box::pin(answer::start(&self.state, wish))).await;
        let answer = answer.map_err(|_| late())??;
        Ok(Response::new(Box::pin(events(answer, deadline))))
    }
}

fn events(
    mut answer: Answer,
    deadline: Instant,
) -> impl futures::Stream<Item = Result<v1::GenerateEvent, Status>> + Send {
    async_stream::try_stream! {
        loop {
            let next = tokio::time::timeout_at(deadline, answer.next()).await.map_err(|_| late())?;
            let Some((_, event)) = next.map_err(Status::from)? else { break };
            if let Some(event) = proto(event, &answer) {
                yield event;
            }
        }
    }
}

/// None: this service does not tell it.
fn proto(event: Event, answer: &Answer) -> Option<v1::GenerateEvent> {
    Some(match event {
        Event::Decided(_) => return None,
        Event::Ready {
            prompt_tokens,
            reused,
            queued_us,
            prefill_us,
        } => wire::ready(v1::Ready {
            prompt_tokens,
            cached_tokens: reused,
            queued_us,
            prefill_us,
        }),
        Event::Token(token) => wire::token(token),
        Event::Finished {
            why,
            text,
            generated,
            decode_us,
            schedule,
            guesses,
            reasons,
        } => {
            let reason = match why {
                Finish::Length => v1::finished::Reason::Length,
                Finish::Stop | Finish::Cancelled | Finish::Failed(_) => v1::finished::Reason::Stop,
            };
            let usage = v1::Usage {
                prompt_tokens: answer.usage.prompt_tokens as u32,
                cached_tokens: answer.usage.cached_tokens as u32,
                completion_tokens: generated,
                decode_us,
            };
            wire::finished(v1::Finished {
                reason: reason.into(),
                text,
                usage: Some(usage),
                seed: answer.seed,
                law: answer.law.clone(),
                schedule: answer
                    .is_of_mesh()
                    .then_some(schedule)
                    .iter()
                    .flatten()
                    .map(wire::change)
                    .collect(),
                guesses: answer.is_of_mesh().then(|| wire::guesses(guesses)),
                reasons: reasons.as_deref().map(wire::reasons),
            })
        }
    })
}

fn late() -> Status {
    ApiError::new(
        Kind::DeadlineExceeded,
        "the deadline passed before the response was complete",
    )
    .into()
}

/// `grpc-timeout`: up to eight digits and a unit.
fn deadline(metadata: &MetadataMap) -> Result<Instant, Status> {
    let Some(value) = metadata.get("grpc-timeout") else {
        return Ok(Instant::now() + FOR_EVER);
    };
    let timeout = value.to_str().ok().and_then(timeout);
    let timeout = timeout
        .ok_or_else(|| Status::invalid_argument("grpc-timeout is not a number and a unit"))?;
    Ok(Instant::now() + timeout.min(FOR_EVER))
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        let code = match error.kind {
            Kind::Malformed
            | Kind::MissingParameter
            | Kind::InvalidValue
            | Kind::ContextLengthExceeded
            | Kind::InvalidGrammar
            | Kind::BodyTimeout => Code::InvalidArgument,
            Kind::UnsupportedParameter | Kind::UnknownRoute | Kind::MethodNotAllowed => {
                Code::Unimplemented
            }
            Kind::InvalidApiKey => Code::Unauthenticated,
            Kind::ForbiddenHost | Kind::ForbiddenOrigin | Kind::RefusedByPolicy => {
                Code::PermissionDenied
            }
            Kind::ModelNotFound => Code::NotFound,
            Kind::Miscast(Miscast::Other(_)) => Code::InvalidArgument,
            Kind::Miscast(Miscast::Refused(Refusal::Full)) => Code::ResourceExhausted,
            Kind::ModelNotInstalled | Kind::ModelTooLarge | Kind::MeshHalted | Kind::Miscast(_) => {
                Code::FailedPrecondition
            }
            Kind::BodyTooLarge | Kind::Busy => Code::ResourceExhausted,
            Kind::ShuttingDown => Code::Unavailable,
            Kind::DeadlineExceeded => Code::DeadlineExceeded,
            Kind::ModelLoadFailed | Kind::GenerationFailed | Kind::Internal => Code::Internal,
        };
        let mut status = Status::new(code, error.message);
        let metadata = status.metadata_mut();
        if let Ok(code) = error.kind.code().parse() {
            metadata.insert("quorate-code", code);
        }
        if let Ok(param) = error.param.parse() {
            metadata.insert("quorate-param", param);
        }
        if let Some(after_s) = error.retry_after_s {
            metadata.insert("retry-after", after_s.into());
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_one_to_eight_digits_and_a_unit() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for wrong in ["", "S", "5", "5s", "123456789S", "-1S", "1é"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }
}
