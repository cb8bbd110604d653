//! One's own account at `/api/v1/auth/me`, as the Aragora document changes it, and signing out everywhere.

use annals_commands::user as commands;
use annals_domain::RevocationReason;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::cookie;
use crate::extract::{AnyJson, Caller, Json, MemberFault, Members, Prefer};
use crate::problem::{Problem, ProblemBody};
use crate::routes::session::MessageOnly;
use crate::routes::user::UserBody;
use crate::settle::models;

/// Most characters of a name.
const LONGEST_NAME: usize = 100;

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(change_me, change_me_by_post))
        .routes(routes!(change_my_profile))
        .routes(routes!(sign_out_everywhere))
}

/// Change of one's own account. Other members are ignored, privileged ones too.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct ChangeMe {
    /// The new name, 1 to 100 characters; absent: nothing changes.
    name: Option<String>,
}

/// Answer to a change of one's own account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeChangedBody {
    success: bool,
    data: UserBody,
    user: UserBody,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Change one's own name.
#[utoipa::path(put, path = "/me", tag = "auth", security(("bearer" = []), ("cookie" = [])), request_body = ChangeMe,
    responses((status = 200, body = MeChangedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_me(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    change(&app, &caller, prefer, body).await
}

/// The same as `PUT /me`.
#[utoipa::path(post, path = "/me", tag = "auth", security(("bearer" = []), ("cookie" = [])), request_body = ChangeMe,
    responses((status = 200, body = MeChangedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_me_by_post(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    change(&app, &caller, prefer, body).await
}

/// The same as `PUT /me`.
#[utoipa::path(post, path = "/profile", tag = "auth", security(("bearer" = []), ("cookie" = [])), request_body = ChangeMe,
    responses((status = 200, body = MeChangedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_my_profile(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    change(&app, &caller, prefer, body).await
}

async fn change(
    app: &AppState,
    caller: &annals_domain::Caller,
    prefer: Prefer,
    body: Value,
) -> Result<Response, Problem> {
    let fault = MemberFault::BadRequest;
    let members = Members::of(body, fault)?;
    let name = members.optional_text("name", fault)?.map(str::trim);
    let user_id = caller.require_user()?;
    let answer = |user: UserBody| {
        Json(MeChangedBody {
            success: true,
            data: user.clone(),
            user,
            message: "Profile updated successfully",
        })
    };
    let Some(name) = name else {
        let row = annals_projections::user::by_id(caller, app.database(), user_id).await?;
        let row = row.ok_or_else(|| Problem::unavailable(1, "The account is not shown yet."))?;
        return Ok(answer(UserBody::of_row(row, caller.organization_id)).into_response());
    };
    if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        let rule = "name: must have 1 to 100 characters and no control characters";
        return Err(fault.on("name", rule));
    }
    let done = commands::change_profile(&app.on_behalf_of(caller), user_id, name.to_owned(), None).await?;
    let settled = app.settle(models::USER, done.position, prefer).await;
    let user = UserBody::of_state(user_id, &done.state, caller.organization_id);
    Ok((settled, answer(user)).into_response())
}

/// Answer to signing out everywhere.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedOutBody {
    success: bool,
    data: MessageOnly,
    #[schema(value_type = String)]
    message: &'static str,
    sessions_invalidated: bool,
    /// How many could still be used until now.
    sessions_terminated: u64,
    /// Always 1: sessions end by themselves here, not by a version of tokens.
    token_version: u32,
}

/// End all of one's own sessions, this one too. A body is not read.
#[utoipa::path(post, path = "/logout-all", tag = "auth", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = SignedOutBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn sign_out_everywhere(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
) -> Result<Response, Problem> {
    let user_id = caller.require_user()?;
    let cx = app.on_behalf_of(&caller);
    let done = annals_commands::session::revoke_all(&cx, user_id, RevocationReason::UserLogoutAll).await?;
    let settled = app.settle(models::SESSION, done.position, prefer).await;
    let message = "All sessions terminated";
    let body = SignedOutBody {
        success: true,
        data: MessageOnly {
            message: message.into(),
        },
        message,
        sessions_invalidated: true,
        sessions_terminated: done.sessions,
        token_version: 1,
    };
    let forget = AppendHeaders([
        (SET_COOKIE, cookie::take_away(&app.config().cookie)),
        cookie::CLEAR_SITE_DATA,
    ]);
    Ok((settled, forget, Json(body)).into_response())
}
