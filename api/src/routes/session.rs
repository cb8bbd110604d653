//! One's own sign-ins, at `/api/v1/auth/sessions`.

use annals_domain::{RevocationReason, SessionId, SessionStatus, Timestamp, UserId};
use annals_projections::session::SessionRow;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{Caller, Json, MinPosition, Path, Prefer, Query};
use crate::problem::{Problem, ProblemBody};
use crate::settle::models;

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions))
        .routes(routes!(revoke_session))
}

/// One sign-in, with the members of both identity documents that list sessions.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionBody {
    /// Its id, the one in the access token.
    #[schema(value_type = String, format = "uuid")]
    session_id: SessionId,
    /// Whose it is.
    #[schema(value_type = String, format = "uuid")]
    user_id: UserId,
    /// What the client called its device.
    device_name: Option<String>,
    /// `mobile`, `tablet`, `desktop` or `unknown`, as the client said.
    device_type: String,
    /// Where it was last refreshed from, or else started.
    ip_address: Option<String>,
    /// Not determined.
    #[schema(value_type = Option<String>)]
    country: Option<&'static str>,
    /// Not determined.
    #[schema(value_type = Option<String>)]
    city: Option<&'static str>,
    /// When it started.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// When it was last refreshed, or else started.
    #[schema(value_type = String, format = "date-time")]
    last_used_at: Timestamp,
    /// The same as `last_used_at`.
    #[schema(value_type = String, format = "date-time")]
    last_activity: Timestamp,
    /// When it ends unless refreshed.
    #[schema(value_type = String, format = "date-time")]
    expires_at: Timestamp,
    /// `ACTIVE`, `EXPIRED` or `REVOKED`.
    #[schema(value_type = String, example = "ACTIVE")]
    status: &'static str,
    /// Whether this request was made with it.
    is_current: bool,
    /// Not determined.
    #[schema(value_type = Option<String>, format = "date-time")]
    mfa_verified_at: Option<Timestamp>,
    /// Not determined.
    mfa_methods_used: Vec<String>,
}

impl SessionBody {
    pub(crate) fn of(row: SessionRow, current: Option<SessionId>) -> Self {
        Self {
            session_id: row.session_id,
            user_id: row.user_id,
            device_name: row.device.name,
            device_type: row.device.kind,
            ip_address: row.address,
            country: None,
            city: None,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            last_activity: row.last_used_at,
            expires_at: row.expires_at,
            status: match row.status {
                SessionStatus::Live => "ACTIVE",
                SessionStatus::Expired => "EXPIRED",
                SessionStatus::Revoked => "REVOKED",
            },
            is_current: current == Some(row.session_id),
            mfa_verified_at: None,
            mfa_methods_used: Vec::new(),
        }
    }
}

/// The caller's sessions, under the names of both documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionsBody<'a> {
    /// Always `true`.
    success: bool,
    /// Latest use first.
    data: &'a [SessionBody],
    /// The same rows.
    sessions: &'a [SessionBody],
    /// How many rows there are.
    total: usize,
    /// Always null here.
    #[schema(value_type = Option<String>)]
    message: Option<&'static str>,
}

/// Which sessions to list.
#[derive(Debug, Deserialize)]
pub(crate) struct WhichSessions {
    #[serde(default)]
    include_expired: Option<String>,
}

/// The caller's sessions.
#[utoipa::path(get, path = "/sessions",
    params(("include_expired" = Option<bool>, Query, description = "Expired and revoked ones too; false when absent")),
     tag = "session", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = SessionsBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_sessions(
    State(app): State<AppState>,
    caller: Caller,
    min: MinPosition,
    Query(which): Query<WhichSessions>,
) -> Result<impl IntoResponse, Problem> {
    let include_ended = flag(which.include_expired.as_deref())?;
    app.reach(models::SESSION, min).await?;
    let user = caller.require_user()?;
    let now = app.commands().now();
    let rows = annals_projections::session::live_of(&caller, app.database(), user, include_ended, now).await?;
    let sessions: Vec<_> = rows
        .into_iter()
        .map(|row| SessionBody::of(row, caller.session_id))
        .collect();
    let body = SessionsBody {
        success: true,
        data: &sessions,
        sessions: &sessions,
        total: sessions.len(),
        message: None,
    };
    Ok(Json(body).into_response())
}

/// What FastAPI reads as a truth value; anything else is 422 there.
fn flag(text: Option<&str>) -> Result<bool, Problem> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None | Some("false" | "0" | "no" | "n" | "off" | "f") => Ok(false),
        Some("true" | "1" | "yes" | "y" | "on" | "t") => Ok(true),
        Some(_) => Err(Problem::unprocessable(
            "include_expired",
            "include_expired: must be true or false",
        )),
    }
}

/// Answer to the end of one session, under the names of both documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionRevokedBody {
    /// Always `true`.
    success: bool,
    /// The message again.
    data: MessageOnly,
    /// What happened.
    #[schema(value_type = String)]
    message: &'static str,
    /// Which one.
    #[schema(value_type = String, format = "uuid")]
    session_id: SessionId,
}

/// Member `data` of answers that only say what happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageOnly {
    /// What happened.
    #[schema(value_type = String)]
    pub message: std::borrow::Cow<'static, str>,
}

/// End one of the caller's sessions; the current one is allowed.
#[utoipa::path(delete, path = "/sessions/{session_id}", tag = "session", security(("bearer" = []), ("cookie" = [])),
    params(("session_id" = String, Path, description = "As listed")),
    responses((status = 200, body = SessionRevokedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn revoke_session(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Path(session_id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    // An id that cannot be one is no session of anybody's, like any other unknown one.
    let session_id: SessionId = session_id.parse().map_err(|_| no_such_session())?;
    let position = revoke(&app, &caller, session_id, RevocationReason::UserRevoke).await?;
    let settled = app.settle(models::SESSION, position, prefer).await;
    let message = "Session revoked successfully";
    let body = SessionRevokedBody {
        success: true,
        data: MessageOnly {
            message: message.into(),
        },
        message,
        session_id,
    };
    Ok((settled, Json(body)))
}

/// Ends one of the caller's sessions; unknown, ended and foreign ones are not told apart.
pub(crate) async fn revoke(
    app: &AppState,
    caller: &annals_domain::Caller,
    session_id: SessionId,
    reason: RevocationReason,
) -> Result<annals_eventstore::Position, Problem> {
    match annals_commands::session::revoke(&app.on_behalf_of(caller), session_id, reason).await {
        Ok(done) => Ok(done.position),
        Err(error) if error.code() == "session.not_found" => Err(no_such_session()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn no_such_session() -> Problem {
    Problem::not_found("Session not found").with_code("session.not_found")
}
