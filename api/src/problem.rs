//! Refusals, and the shapes in which each contract sends them (DESIGN section 5).
//!
//! A handler returns a [`Problem`]; what it looks like on the wire is decided by [`crate::middleware`], which knows the path
//! and the `Accept` header of the request. No problem carries a cause or a value that the client sent.

use std::borrow::Cow;
use std::time::Duration;

use annals_commands::CommandError;
use annals_domain::Denied;
use annals_eventstore::{Position, StoreError};
use annals_projections::QueryError;
use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::middleware::IDEMPOTENCY_KEY_NAME;

/// The challenge of `/api/v1` (contract of the FastAPI document).
pub const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// A refusal with a stable code and a text for people.
#[derive(Debug, Clone)]
pub struct Problem(Box<Refusal>);

#[derive(Debug, Clone)]
struct Refusal {
    status: StatusCode,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    details: Option<Value>,
    headers: HeaderMap,
}

impl Problem {
    /// A refusal; 401 gets its challenge by itself.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        let mut headers = HeaderMap::new();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, BEARER);
        }
        Self(Box::new(Refusal {
            status,
            code: code.into(),
            message: message.into(),
            field: None,
            details: None,
            headers,
        }))
    }

    /// 400 with code `BAD_REQUEST`.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// 400 naming the member or parameter at fault.
    pub fn bad_field(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", message).on(field)
    }

    /// 422 naming the member or parameter at fault (contract of the FastAPI document).
    pub fn unprocessable(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", message).on(field)
    }

    /// 401 for a request without usable credentials.
    pub fn unauthenticated(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// 403.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
    }

    /// 404 with code `NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// 500 without a cause. Log the cause where this is made.
    pub fn internal() -> Self {
        Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// 503 that asks to come back after `seconds`.
    pub fn unavailable(seconds: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
            .with_header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// 422 for an idempotency key that was used for another request.
    pub fn idempotency_key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IDEMPOTENCY_KEY_REUSED",
            "Idempotency-Key: this key was used for another request",
        )
        .on(IDEMPOTENCY_KEY_NAME)
    }

    /// 409 for a repeated request whose first answer is not there: it was carried out, at `position`, and will not be
    /// again.
    pub fn idempotency_answer_gone(position: Position) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "IDEMPOTENCY_ANSWER_GONE",
            "This request was carried out before, and is not carried out again. Its answer is no longer there.",
        )
        .on(IDEMPOTENCY_KEY_NAME)
        .with_details(serde_json::json!({ "position": position }))
    }

    /// 409 for a repeated request while the first one is still being carried out.
    pub fn idempotency_in_progress() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "IDEMPOTENCY_IN_PROGRESS",
            "A request with this Idempotency-Key is being carried out. Please ask for its answer later.",
        )
        .on(IDEMPOTENCY_KEY_NAME)
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// What a bare status means; for answers that a library made without a body of ours.
    pub fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::BAD_REQUEST => ("BAD_REQUEST", "The request is malformed."),
            StatusCode::UNAUTHORIZED => ("UNAUTHORIZED", "Authentication required"),
            StatusCode::FORBIDDEN => ("PERMISSION_DENIED", "Permission denied"),
            StatusCode::NOT_FOUND => ("NOT_FOUND", "Not found"),
            StatusCode::METHOD_NOT_ALLOWED => ("METHOD_NOT_ALLOWED", "Method not allowed"),
            StatusCode::NOT_ACCEPTABLE => ("NOT_ACCEPTABLE", "Not acceptable"),
            StatusCode::REQUEST_TIMEOUT => ("TIMEOUT", "The request body did not arrive in time."),
            StatusCode::CONFLICT => ("CONFLICT", "Conflict"),
            StatusCode::LENGTH_REQUIRED => ("LENGTH_REQUIRED", "Length required"),
            StatusCode::PAYLOAD_TOO_LARGE => ("PAYLOAD_TOO_LARGE", "The request body is too large."),
            StatusCode::URI_TOO_LONG => ("URI_TOO_LONG", "The request URI is too long."),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ("UNSUPPORTED_MEDIA_TYPE", "Unsupported media type"),
            StatusCode::UNPROCESSABLE_ENTITY => ("VALIDATION_ERROR", "The request cannot be processed."),
            StatusCode::TOO_MANY_REQUESTS => ("RATE_LIMITED", "Rate limit exceeded. Please try again later."),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ("HEADERS_TOO_LARGE", "The request headers are too large."),
            StatusCode::SERVICE_UNAVAILABLE => ("SERVICE_UNAVAILABLE", "Service unavailable"),
            _ if status.is_client_error() => ("BAD_REQUEST", "The request was refused."),
            _ => ("INTERNAL_SERVER_ERROR", "Internal server error"),
        };
        Self::new(status, code, message)
    }

    /// Names the member, parameter or header at fault.
    #[must_use]
    pub fn on(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Adds facts for programs.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Another status, same rest.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        if status == StatusCode::UNAUTHORIZED {
            self.0.headers.entry(WWW_AUTHENTICATE).or_insert(BEARER);
        }
        self
    }

    /// Another code, same rest.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.0.code = code.into();
        self
    }

    /// A header of the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Stable name of the refusal.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Member, parameter or header at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// What a [`Denied`] of `commands` or `projections`.
    #[must_use]
    pub fn denied(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Self::unauthenticated("Not authenticated"),
            Denied::Forbidden(permission) => Self::forbidden(format!("Permission denied: {permission}"))
                .with_details(serde_json::json!({ "permission": permission })),
        }
    }

    /// The answer in one shape.
    pub(crate) fn render(&self, shape: Shape, request_id: Option<Uuid>) -> Response {
        let refusal = &*self.0;
        let mut response = match shape {
            Shape::Envelope => Json(ProblemBody {
                success: false,
                error: ErrorBody {
                    code: &refusal.code,
                    message: &refusal.message,
                    field: refusal.field.as_deref(),
                    details: refusal.details.as_ref(),
                },
                detail: &refusal.message,
                request_id,
            })
            .into_response(),
            Shape::ProblemDetails => {
                let body = ProblemDetails {
                    kind: format!("urn:annals:problem:{}", refusal.code),
                    title: refusal.status.canonical_reason().unwrap_or("Refused"),
                    status: refusal.status.as_u16(),
                    detail: &refusal.message,
                    code: &refusal.code,
                    field: refusal.field.as_deref(),
                    details: refusal.details.as_ref(),
                    request_id,
                };
                let mut response = Json(body).into_response();
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                response
            }
            Shape::Django => Json(serde_json::json!({ "detail": refusal.message })).into_response(),
        };
        *response.status_mut() = refusal.status;
        for (name, value) in &refusal.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }
}

impl IntoResponse for Problem {
    /// The envelope; [`crate::middleware`] renders it again for the request it belongs to.
    fn into_response(self) -> Response {
        let mut response = self.render(Shape::Envelope, None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self::denied(denied)
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let (code, field) = (error.code(), error.field());
        let problem = match error {
            CommandError::Denied(denied) => return Self::denied(denied),
            CommandError::Domain { message, .. } => Self::new(status_of_rule(code), code, message),
            CommandError::Taken { .. } => {
                let what = field.unwrap_or("id").replace('_', " ");
                Self::new(StatusCode::CONFLICT, code, format!("This {what} is already taken."))
            }
            CommandError::Missing {
                scope,
                field: Some(field),
            } => {
                let noun = scope.as_str().replace('_', " ");
                Self::new(
                    StatusCode::BAD_REQUEST,
                    code,
                    format!("{field}: there is no such {noun}"),
                )
            }
            CommandError::Missing { scope, field: None } => {
                let noun = scope.as_str().replace('_', " ");
                Self::new(StatusCode::NOT_FOUND, code, format!("There is no such {noun}."))
            }
            CommandError::Token(_) => Self::new(StatusCode::UNAUTHORIZED, code, "Could not validate credentials"),
            CommandError::Stale { expected, actual } => Self::new(
                StatusCode::PRECONDITION_FAILED,
                code,
                format!("The present version is {actual}, not {expected}."),
            )
            .on("If-Match")
            .with_details(serde_json::json!({ "expected": expected, "actual": actual })),
            CommandError::AlreadyCarriedOut { position } => return Self::idempotency_answer_gone(position),
            CommandError::IdempotencyKeyReused => return Self::idempotency_key_reused(),
            CommandError::Conflict => Self::new(
                StatusCode::CONFLICT,
                code,
                "Others keep changing the same thing. Asking again is safe.",
            ),
            CommandError::TooManyAttempts {
                message, retry_after, ..
            } => Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
                .with_header(RETRY_AFTER, HeaderValue::from(seconds(retry_after).max(1))),
            CommandError::Overloaded { retry_after } => Self::unavailable(
                seconds(retry_after),
                "Too much work is waiting. Please try again later.",
            )
            .with_code(code),
            CommandError::Unavailable(ref source) => {
                tracing::error!(error = %chain(source), "a command could not reach the log");
                Self::unavailable(1, "The log cannot be reached now.").with_code(code)
            }
            CommandError::OutcomeUnknown => {
                tracing::warn!("the outcome of a command is unknown");
                Self::unavailable(1, "The connection was lost while committing; look before asking again.")
                    .with_code(code)
            }
            CommandError::Internal(text) => {
                tracing::error!(error = %text, "a command failed");
                Self::internal()
            }
        };
        match field {
            Some(field) if problem.field().is_none() => problem.on(field),
            _ => problem,
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Denied(denied) => Self::denied(denied),
            QueryError::Unavailable(_) => {
                tracing::error!(error = %chain(&error), "a query could not reach the read models");
                Self::unavailable(1, "The read models cannot be reached now.")
            }
            QueryError::Unreadable { .. } => {
                tracing::error!(error = %chain(&error), "a query failed");
                Self::internal()
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %chain(&error), "the log could not be read");
        match error {
            StoreError::Database(_) | StoreError::Vault(_) | StoreError::Standby => {
                Self::unavailable(1, "The log cannot be reached now.")
            }
            _ => Self::internal(),
        }
    }
}

/// What kind of refusal a broken rule is, by the last part of its code.
fn status_of_rule(code: &str) -> StatusCode {
    let rule = code.rsplit('.').next().unwrap_or_default();
    match rule {
        "invalid_credentials" => StatusCode::UNAUTHORIZED,
        _ if rule.ends_with("not_found") => StatusCode::NOT_FOUND,
        _ if rule.starts_with("already_") || rule.ends_with("already_exists") => StatusCode::CONFLICT,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Whole seconds, rounded up, for `Retry-After`.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// An error with everything behind it, on one line, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// How a refusal looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `{"success":false,"error":{…},"detail":…,"request_id":…}`
    Envelope,
    /// RFC 9457.
    ProblemDetails,
    /// `{"detail":…}`
    Django,
}

impl Shape {
    /// By path first (Django's prefix ends in a slash), then by what the client accepts.
    pub(crate) fn of(path: &str, headers: &HeaderMap) -> Self {
        if is_django(path) {
            Self::Django
        } else if prefers_problem_details(headers) {
            Self::ProblemDetails
        } else {
            Self::Envelope
        }
    }
}

/// Whether `path` belongs to the Django contract: `/api/auth/…/`, told from the unversioned alias by its last slash.
pub(crate) fn is_django(path: &str) -> bool {
    path.strip_prefix("/api/auth/").is_some_and(|rest| rest.ends_with('/'))
}

/// RFC 9457 only for clients that name it, and do not like plain JSON better. Wildcards are not a wish.
fn prefers_problem_details(headers: &HeaderMap) -> bool {
    let mut problem = None;
    let mut json = None;
    for value in headers.get_all(axum::http::header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
            if name.eq_ignore_ascii_case("application/problem+json") {
                problem = Some(quality);
            } else if name.eq_ignore_ascii_case("application/json") {
                json = Some(quality);
            }
        }
    }
    problem.is_some_and(|problem| problem > 0.0 && problem >= json.unwrap_or(0.0))
}

/// Refusal body of `/api/v1` and of delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody<'a> {
    /// Always `false`.
    success: bool,
    /// What was refused; ModulaCMS clients read this member.
    error: ErrorBody<'a>,
    /// The same text as `error.message`; FastAPI clients read this member.
    detail: &'a str,
    /// The value of `X-Request-Id`.
    request_id: Option<Uuid>,
}

/// Member `error` of a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// Stable name of the refusal.
    #[schema(example = "VALIDATION_ERROR")]
    code: &'a str,
    /// Text for people.
    message: &'a str,
    /// Member, parameter or header at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// Facts for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    details: Option<&'a Value>,
}

/// Refusal body for clients that accept `application/problem+json` (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDetails<'a> {
    /// `urn:annals:problem:<code>`
    #[serde(rename = "type")]
    kind: String,
    /// Reason phrase of the status.
    title: &'a str,
    /// HTTP status.
    status: u16,
    /// Text for people.
    detail: &'a str,
    /// Stable name of the refusal.
    code: &'a str,
    /// Member, parameter or header at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// Facts for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    details: Option<&'a Value>,
    /// The value of `X-Request-Id`.
    request_id: Option<Uuid>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(axum::http::header::ACCEPT, HeaderValue::from_str(text).expect("ascii"));
        headers
    }

    #[test]
    fn problem_details_are_for_those_who_ask() {
        for wanted in [
            "application/problem+json",
            "application/json, application/problem+json",
            "application/problem+json;q=0.9, application/json;q=0.5",
        ] {
            assert!(prefers_problem_details(&accepting(wanted)), "{wanted}");
        }
        for unwanted in [
            "*/*",
            "application/*",
            "application/json",
            "application/json, application/problem+json;q=0.5",
            "application/problem+json;q=0",
        ] {
            assert!(!prefers_problem_details(&accepting(unwanted)), "{unwanted}");
        }
    }

    #[test]
    fn the_last_slash_tells_django_from_the_alias() {
        assert!(is_django("/api/auth/login/") && is_django("/api/auth/nope/"));
        assert!(!is_django("/api/auth/login") && !is_django("/api/v1/auth/login/"));
    }
}
