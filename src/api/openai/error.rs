//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use crate::api::error::{ApiError, Kind};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

impl ApiError {
    pub(super) fn status(&self) -> StatusCode {
        match self.kind {
            Kind::Malformed
            | Kind::MissingParameter
            | Kind::InvalidValue
            | Kind::UnsupportedParameter
            | Kind::ContextLengthExceeded
            | Kind::InvalidGrammar => StatusCode::BAD_REQUEST,
            Kind::InvalidApiKey => StatusCode::UNAUTHORIZED,
            Kind::ForbiddenHost | Kind::ForbiddenOrigin | Kind::RefusedByPolicy => {
                StatusCode::FORBIDDEN
            }
            Kind::UnknownRoute | Kind::ModelNotFound | Kind::ModelNotInstalled => {
                StatusCode::NOT_FOUND
            }
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Busy => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal | Kind::ModelLoadFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::GenerationFailed => StatusCode::BAD_GATEWAY,
            Kind::Miscast(_) => StatusCode::CONFLICT,
            Kind::MeshHalted | Kind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Kind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            // Not 503: waiting does not make the machine larger.
            Kind::ModelTooLarge => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// The error object, also the last event of a stream that dies.
    pub(super) fn object(&self) -> Value {
        let status = self.status();
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        let param = (!self.param.is_empty()).then_some(&self.param);
        json!({"error": {"message": self.message, "type": kind, "param": param, "code": self.kind.code()}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), axum::Json(self.object())).into_response();
        let headers = response.headers_mut();
        if let Some(after_s) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, after_s.into());
        }
        match self.kind {
            Kind::InvalidApiKey => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The rest of the body stays unread, so nothing can follow it.
            Kind::BodyTooLarge | Kind::BodyTimeout => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_all_four_fields() {
        let error = ApiError::about("n", Kind::InvalidValue, "n must be from 1 to 8, not 9");
        let expected = json!({"error": {
            "message": "n must be from 1 to 8, not 9", "type": "invalid_request_error", "param": "n", "code": "invalid_value",
        }});
        assert_eq!(error.object(), expected);
        assert_eq!(
            ApiError::new(Kind::MeshHalted, "x").object()["error"]["param"],
            Value::Null
        );
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let error = ApiError {
            retry_after_s: Some(3),
            ..ApiError::new(Kind::Busy, "x")
        };
        let response = error.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
