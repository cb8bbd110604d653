//! Everybody's sign-ins, for administrators, at `/api/v1/auth/sessions`.

use annals_domain::Permission;
use annals_projections::Page;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{Caller, Json, MinPosition, Query};
use crate::problem::{Problem, ProblemBody};
use crate::routes::session::SessionBody;
use crate::settle::models;
use crate::sweeper;

/// Rows of a page, unless asked for otherwise; and at most.
const DEFAULT_ROWS: u32 = 50;
const MOST_ROWS: u32 = 1000;

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_active_sessions))
        .routes(routes!(show_session_health))
        .routes(routes!(sweep_sessions))
}

/// Which part of the list.
#[derive(Debug, Deserialize)]
pub(crate) struct WhichPart {
    limit: Option<String>,
    offset: Option<String>,
}

/// Live sessions of all accounts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ActiveSessionsBody {
    success: bool,
    /// Latest use first.
    sessions: Vec<SessionBody>,
    /// How many there are in all.
    total: u64,
    limit: u32,
    offset: u64,
}

/// Live sessions of all accounts. Takes `user.read`. A limit or offset that is no number counts as absent, one out of
/// range as the nearest in it (contract of the Aragora document).
#[utoipa::path(get, path = "/sessions/active", tag = "session", security(("bearer" = []), ("cookie" = [])),
    params(("limit" = Option<u32>, Query, description = "1 to 1000; 50 when absent"), ("offset" = Option<u64>, Query)),
    responses((status = 200, body = ActiveSessionsBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_active_sessions(
    State(app): State<AppState>,
    caller: Caller,
    min: MinPosition,
    Query(which): Query<WhichPart>,
) -> Result<Json<ActiveSessionsBody>, Problem> {
    caller.require(Permission::UserRead)?;
    app.reach(models::SESSION, min).await?;
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
    let limit = number(which.limit).unwrap_or(DEFAULT_ROWS.into());
    let limit = u32::try_from(limit).unwrap_or(MOST_ROWS).clamp(1, MOST_ROWS);
    let offset = number(which.offset).unwrap_or(0);
    let now = app.commands().now();
    let rows = annals_projections::session::live_of_all(&caller, app.database(), now, Page { limit, offset }).await?;
    let counts = annals_projections::session::counts(&caller, app.database(), now).await?;
    Ok(Json(ActiveSessionsBody {
        success: true,
        sessions: rows
            .into_iter()
            .map(|row| SessionBody::of(row, caller.session_id))
            .collect(),
        total: counts.live,
        limit,
        offset,
    }))
}

/// How many sessions there are, and by which rules.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionHealthBody {
    success: bool,
    #[schema(value_type = String)]
    status: &'static str,
    /// Usable now.
    active: u64,
    /// Past their time, which is not recorded yet; the next sweep does.
    unswept: u64,
    /// Ended by time.
    expired: u64,
    /// Ended on purpose.
    revoked: u64,
    /// Sessions that one account may have; 0 for any number.
    limit_per_user: usize,
}

/// How many sessions there are. Takes `user.read`.
#[utoipa::path(get, path = "/sessions/health", tag = "session", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = SessionHealthBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_session_health(
    State(app): State<AppState>,
    caller: Caller,
    min: MinPosition,
) -> Result<Json<SessionHealthBody>, Problem> {
    caller.require(Permission::UserRead)?;
    app.reach(models::SESSION, min).await?;
    let counts = annals_projections::session::counts(&caller, app.database(), app.commands().now()).await?;
    Ok(Json(SessionHealthBody {
        success: true,
        status: "ok",
        active: counts.live,
        unswept: counts.past,
        expired: counts.expired,
        revoked: counts.revoked,
        limit_per_user: app.config().session.limit,
    }))
}

/// What a sweep has done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SweptBody {
    success: bool,
    /// Sessions whose end was recorded.
    expired: u64,
}

/// Record now that sessions are past their time. Takes `user.manage`.
#[utoipa::path(post, path = "/sessions/sweep", tag = "session", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = SweptBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn sweep_sessions(State(app): State<AppState>, caller: Caller) -> Result<Json<SweptBody>, Problem> {
    caller.require(Permission::UserManage)?;
    let expired = sweeper::sweep(&app, &caller).await?;
    Ok(Json(SweptBody { success: true, expired }))
}
