//! Reading a request's body, up to a limit and within a time.

use super::error::{ApiError, Kind};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use quorate_core::limits::BODY_BYTES_MAX;
use std::time::Duration;

pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    within: Duration,
) -> Result<Bytes, ApiError> {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(within, gather(body)).await {
        Ok(read) => read,
        Err(_) => {
            let message = format!("the body did not arrive within {within:?}; send it again");
            Err(ApiError::new(Kind::BodyTimeout, message))
        }
    }
}

async fn gather(body: Body) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut gathered = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            ApiError::new(Kind::Malformed, format!("the body broke off: {error}"))
        })?;
        if gathered.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        gathered.extend_from_slice(&chunk);
    }
    Ok(gathered.into())
}

fn too_large() -> ApiError {
    let message = format!(
        "the body is larger than {BODY_BYTES_MAX} bytes, which is all that is read of a request"
    );
    ApiError::new(Kind::BodyTooLarge, message)
}
