//! Reading a body to its end within the bounds that [`crate::middleware`] has put around it.

use std::error::Error;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt as _;

use crate::middleware::BodyFault;
use crate::problem::Problem;

/// The whole body.
///
/// # Errors
/// 413 when it is larger than allowed, 408 when it came too slowly, 400 when the connection broke.
pub async fn read_body(body: Body) -> Result<Bytes, Problem> {
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(Problem::of_status(match fault(&error) {
            Some(BodyFault::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Some(BodyFault::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            None => StatusCode::BAD_REQUEST,
        })),
    }
}

/// Finds our own fault under the layers that libraries have put around it.
fn fault(error: &(dyn Error + 'static)) -> Option<BodyFault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<BodyFault>() {
            return Some(*fault);
        }
        next = error.source();
    }
    None
}
