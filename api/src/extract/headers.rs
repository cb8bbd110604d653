//! Request headers that steer an answer, and `ETag`.

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};

use annals_eventstore::Position;

use crate::app::AppState;
use crate::problem::Problem;

/// The header by which a reader demands that a position be shown.
const MIN_POSITION: HeaderName = HeaderName::from_static("min-position");
/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// `Prefer`: what the client wishes but does not demand (RFC 7240). Unknown wishes are ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefer {
    /// Do not wait for read models after a write.
    pub respond_async: bool,
}

impl FromRequestParts<AppState> for Prefer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let respond_async = parts.headers.get_all(PREFER).iter().any(|line| {
            line.to_str().unwrap_or_default().split(',').any(|wish| {
                wish.split(';')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .eq_ignore_ascii_case("respond-async")
            })
        });
        Ok(Self { respond_async })
    }
}

/// `Min-Position`: the position of the log that the answer must have seen, if any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MinPosition(pub Option<Position>);

impl FromRequestParts<AppState> for MinPosition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(MIN_POSITION) else {
            return Ok(Self(None));
        };
        match value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            Some(position) => Ok(Self(Some(Position(position)))),
            None => Err(Problem::bad_field(
                "Min-Position",
                "Min-Position: must be a position, a non-negative integer",
            )),
        }
    }
}

/// `If-Match`: the version that the client has seen; absent or `*` demands none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IfMatch(pub Option<u64>);

impl FromRequestParts<AppState> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(IF_MATCH) else {
            return Ok(Self(None));
        };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let bare = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        match bare.parse::<u64>() {
            Ok(version) => Ok(Self(Some(version))),
            Err(_) => Err(Problem::bad_field(
                "If-Match",
                "If-Match: must be the ETag of an earlier answer",
            )),
        }
    }
}

/// `ETag`: the version of the stream behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag(pub u64);

impl IntoResponseParts for ETag {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        let text = HeaderValue::from_str(&format!("\"{}\"", self.0)).expect("digits are ASCII");
        parts.headers_mut().insert(ETAG, text);
        Ok(parts)
    }
}
