//! Tokens as such, at `/api/v1/auth`: what one is good for (RFC 7662), and ending what it stands for (RFC 7009). Both take
//! the forms of their RFCs, and JSON.

use annals_commands::services::token::MAX_TOKEN_BYTES;
use annals_commands::token::{self as commands, LiveToken, TokenUse};
use annals_domain::Timestamp;
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::cookie;
use crate::extract::{
    AnyJson, Caller, Json, MaybeCaller, MemberFault, Members, Prefer, bearer_token, not_authenticated, read_body,
};
use crate::problem::{Problem, ProblemBody};
use crate::routes::session::MessageOnly;
use crate::settle::models;

/// What a form is sent as.
const FORM: &str = "application/x-www-form-urlencoded";

/// Longest name of a kind of token.
const LONGEST_HINT_BYTES: usize = 64;

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(introspect_token))
        .routes(routes!(revoke_token))
        .routes(routes!(show_auth_health))
}

/// A token, and what it is thought to be.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member, from a form or from JSON"
)]
pub(crate) struct AboutToken {
    /// The token; where it may be absent, that of the request.
    token: Option<String>,
    /// `access_token` or `refresh_token`. Found out anyway, so that a wrong one does no harm.
    token_type_hint: Option<String>,
}

/// The members of a form, or of a JSON object. A form must name its token: a page can make a browser send one.
pub(crate) struct FormOrJson(Members);

impl FromRequest<AppState> for FormOrJson {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let media_type = request.headers().get(CONTENT_TYPE);
        let is_form = media_type
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split(';').next())
            .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(FORM));
        if !is_form {
            let AnyJson(body) = AnyJson::from_request(request, app).await?;
            return Members::of(body, MemberFault::BadRequest).map(Self);
        }
        let bytes = read_body(request.into_body()).await?;
        let mut members = serde_json::Map::new();
        for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let name = decoded(parts.next().unwrap_or_default())?;
            let value = decoded(parts.next().unwrap_or_default())?;
            // RFC 6749, section 3.1: no parameter more than once.
            if members.insert(name, Value::String(value)).is_some() {
                return Err(Problem::bad_request("The form has a member more than once."));
            }
        }
        let members = Members::of(Value::Object(members), MemberFault::BadRequest)?;
        if !members.has("token") {
            return Err(MemberFault::BadRequest.on("token", "token: is required"));
        }
        Ok(Self(members))
    }
}

/// Refuses what is too long to be a token, or the name of a kind of one, of anybody's.
fn check_lengths(members: &Members) -> Result<(), Problem> {
    let fault = MemberFault::BadRequest;
    if members
        .optional_text("token", fault)?
        .is_some_and(|token| token.len() > MAX_TOKEN_BYTES)
    {
        return Err(fault.on("token", format!("token: must have at most {MAX_TOKEN_BYTES} bytes")));
    }
    if members
        .optional_text("token_type_hint", fault)?
        .is_some_and(|hint| hint.len() > LONGEST_HINT_BYTES)
    {
        let rule = format!("token_type_hint: must have at most {LONGEST_HINT_BYTES} bytes");
        return Err(fault.on("token_type_hint", rule));
    }
    Ok(())
}

fn decoded(text: &[u8]) -> Result<String, Problem> {
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_encoding::percent_decode(&spaced)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Problem::bad_request("The form cannot be read."))
}

/// Answer to the question what a token is good for; `active` alone when it is good for nothing.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct IntrospectedBody {
    /// Whether it would be accepted where its kind is asked for.
    active: bool,
    /// `Bearer` or `refresh_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    token_type: Option<&'static str>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Of which session.
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    /// The name to sign in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// What its user may do now: the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    scope: Option<&'static str>,
    /// When its time is over, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

impl From<LiveToken> for IntrospectedBody {
    fn from(token: LiveToken) -> Self {
        Self {
            active: true,
            token_type: Some(match token.token_use {
                TokenUse::Access => "Bearer",
                TokenUse::Refresh => "refresh_token",
            }),
            sub: Some(token.user_id.to_string()),
            sid: Some(token.session_id.to_string()),
            username: token.username,
            scope: Some(token.role.as_str()),
            exp: Some(token.expires_at.unix_seconds()),
        }
    }
}

/// What a token is good for. One's own; other people's with the right to read accounts.
#[utoipa::path(post, path = "/introspect", tag = "auth", security(("bearer" = []), ("cookie" = [])),
    request_body(content((AboutToken = "application/json"), (AboutToken = "application/x-www-form-urlencoded"))),
    responses((status = 200, body = IntrospectedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn introspect_token(
    State(app): State<AppState>,
    caller: Caller,
    FormOrJson(members): FormOrJson,
) -> Result<Response, Problem> {
    let token = members.text("token", MemberFault::BadRequest)?;
    check_lengths(&members)?;
    let found = commands::introspect(&app.on_behalf_of(&caller), token).await?;
    let body = found.map_or_else(IntrospectedBody::default, IntrospectedBody::from);
    Ok((AppendHeaders([(CACHE_CONTROL, "no-store")]), Json(body)).into_response())
}

/// Answer to the end of a token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenRevokedBody {
    success: bool,
    data: MessageOnly,
    #[schema(value_type = String)]
    message: &'static str,
}

/// End the session that a token belongs to, with all its tokens. Whoever holds the token may; without one in the body it is
/// that of the request. A token that is unknown or has ended is answered in the same way.
#[utoipa::path(post, path = "/revoke", tag = "auth", security(("bearer" = []), ("cookie" = []), ()),
    request_body(content((AboutToken = "application/json"), (AboutToken = "application/x-www-form-urlencoded"))),
    responses((status = 200, body = TokenRevokedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn revoke_token(
    State(app): State<AppState>,
    headers: HeaderMap,
    MaybeCaller(caller): MaybeCaller,
    prefer: Prefer,
    FormOrJson(members): FormOrJson,
) -> Result<Response, Problem> {
    check_lengths(&members)?;
    let token = match members.optional_text("token", MemberFault::BadRequest)? {
        Some("") => return Err(MemberFault::BadRequest.on("token", "token: is required")),
        Some(token) => token,
        None => bearer_token(&headers)?
            .or_else(|| cookie::value(&headers, &app.config().cookie))
            .filter(|_| caller.user_id().is_some())
            .ok_or_else(not_authenticated)?,
    };
    let position = commands::revoke(&app.on_behalf_of(&caller), token).await?;
    let message = "Token revoked successfully";
    let body = Json(TokenRevokedBody {
        success: true,
        data: MessageOnly {
            message: message.into(),
        },
        message,
    });
    Ok(match position {
        Some(position) => (app.settle(models::SESSION, position, prefer).await, body).into_response(),
        None => body.into_response(),
    })
}

/// Whether identity is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuthHealthBody {
    #[schema(value_type = String)]
    status: &'static str,
    /// By the server's clock.
    #[schema(value_type = String, format = "date-time")]
    timestamp: Timestamp,
}

/// Whether identity is served.
#[utoipa::path(get, path = "/health", tag = "auth", security(()), responses((status = 200, body = AuthHealthBody)))]
pub(crate) async fn show_auth_health(State(app): State<AppState>) -> Response {
    let fresh = AppendHeaders([(CACHE_CONTROL, "no-store, no-cache, must-revalidate, private")]);
    let body = AuthHealthBody {
        status: "ok",
        timestamp: app.commands().now(),
    };
    (fresh, Json(body)).into_response()
}
