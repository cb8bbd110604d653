//! What surrounds every handler: request id, limits, panics, the shape of refusals, security headers.
//!
//! One function instead of a tower of layers, so that the order is plain and a request costs one boxed future.

mod body;
mod context;
pub(crate) mod idempotency;
mod security;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use axum::http::{HeaderName, HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::app::AppState;
use crate::config::ServerConfig;
use crate::problem::{Problem, Shape};

pub use body::BodyFault;
pub use context::{Peer, RequestContext};
pub use idempotency::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_NAME, IDEMPOTENCY_REPLAYED};

/// The header that names a request in answers and logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header by which a client ties several requests together.
pub const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// Surrounds every request. Outermost of all layers, so that its promises hold for every answer.
pub async fn surround(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let config = app.config();
    let context = RequestContext::of(&request, &config.trusted_proxies);
    let request_id = context.request_id;
    let shape = Shape::of(request.uri().path(), request.headers());
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(), // the query may hold what must not be logged
        %request_id,
    );
    request.extensions_mut().insert(context);
    let is_api = is_api(request.uri().path());

    let mut response = match refused_by_head(&request, &config.server) {
        Some(problem) => {
            body::discard(request.into_body(), &config.server).await;
            problem.render(shape, Some(request_id))
        }
        None => {
            let request = body::guard(request, &config.server);
            let answer = AssertUnwindSafe(next.run(request))
                .catch_unwind()
                .instrument(span.clone());
            match answer.await {
                Ok(response) => finish(response, shape, request_id),
                Err(panic) => {
                    let text = panic
                        .downcast_ref::<&str>()
                        .map(|text| (*text).to_owned())
                        .or_else(|| panic.downcast_ref::<String>().cloned())
                        .unwrap_or_default();
                    span.in_scope(|| tracing::error!(panic = %text.escape_debug(), "a handler panicked"));
                    Problem::internal().render(shape, Some(request_id))
                }
            }
        }
    };
    name_and_harden(&mut response, request_id, is_api);
    span.in_scope(|| {
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), elapsed_ms, "answered");
    });
    response
}

fn name_and_harden(response: &mut Response, request_id: Uuid, is_api: bool) {
    let text = HeaderValue::from_str(&request_id.to_string()).expect("a UUID is ASCII");
    response.headers_mut().insert(X_REQUEST_ID, text);
    security::harden(response.headers_mut(), is_api);
}

/// The whole answer, head and body, to bytes that are no request, with the status that the parser gave it. The
/// connection ends with it, for nobody knows where the next request would begin.
pub(crate) fn refuse_unparsed(status: StatusCode) -> Bytes {
    let request_id = Uuid::now_v7();
    let mut response = Problem::of_status(status).render(Shape::Envelope, Some(request_id));
    name_and_harden(&mut response, request_id, true);
    tracing::debug!(status = status.as_u16(), %request_id, "refused what is no request");
    let (parts, body) = response.into_parts();
    let body = body.collect().now_or_never().and_then(Result::ok);
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Refused"),
        body.len()
    )
    .into_bytes();
    for (name, value) in parts.headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH) {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
    answer.into()
}

/// Whether `path` belongs to the API rather than to delivery.
pub(crate) fn is_api(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

/// What is wrong with the head of a request, whatever it asks for.
fn refused_by_head(request: &Request, limits: &ServerConfig) -> Option<Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    // RFC 9112, section 3.2. HTTP/1.0 knew no Host, HTTP/2 has its own.
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        return Some(Problem::bad_field("Host", "Host: must be there exactly once"));
    }
    let uri_bytes = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if uri_bytes > limits.max_uri_bytes {
        return Some(Problem::of_status(StatusCode::URI_TOO_LONG));
    }
    let header_bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if header_bytes > limits.max_header_bytes {
        return Some(Problem::of_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits.max_body_bytes as u64) {
        return Some(Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    None
}

/// Renders a [`Problem`] for the request it belongs to, and gives a library's bare refusal a body of ours.
fn finish(mut response: Response, shape: Shape, request_id: Uuid) -> Response {
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if is_bare_refusal(&response) => {
            let problem = Problem::of_status(response.status());
            match response.headers_mut().remove(ALLOW) {
                Some(allowed) => problem.with_header(ALLOW, tidy(&allowed)),
                None => problem,
            }
        }
        None => return response,
    };
    let mut rendered = problem.render(shape, Some(request_id));
    // Headers that layers and handlers have added since stay; the body's own are those of the new body.
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH && !rendered.headers().contains_key(name) {
            rendered.headers_mut().append(name.clone(), value.clone());
        }
    }
    rendered
}

/// Ours are JSON; axum and tower answer in plain text or with nothing.
fn is_bare_refusal(response: &Response) -> bool {
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return false;
    }
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

/// axum joins methods by bare commas; clients of Django read `GET, HEAD`.
fn tidy(allowed: &HeaderValue) -> HeaderValue {
    let text = allowed.to_str().unwrap_or_default();
    let methods: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|method| !method.is_empty())
        .collect();
    HeaderValue::from_str(&methods.join(", ")).unwrap_or_else(|_| allowed.clone())
}
