//! One's own account, at `/api/v1/auth/users/me` and at `/api/v1/users/me` (contract of the FastAPI document).

use annals_commands::user as commands;
use annals_domain::{OrganizationId, Role, Timestamp, User, UserId};
use annals_projections::user::UserRow;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{AnyJson, Caller, Json, MemberFault, Members, MinPosition, Prefer};
use crate::problem::{Problem, ProblemBody};
use crate::routes::auth::{self, ChangePassword, Ended, MessageData};
use crate::settle::models;

/// Fewest characters of a name that somebody gives themselves.
const SHORTEST_NAME: usize = 2;
/// Most characters of such a name.
const LONGEST_NAME: usize = 100;

/// Routes below `/api/v1/auth` and `/api/v1`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(show_own_profile, change_own_profile))
        .routes(routes!(change_own_password))
}

/// An account with the members that all identity documents name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UserBody {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: UserId,
    /// The mail address, lower case.
    pub email: Option<String>,
    /// The name to sign in with.
    pub username: Option<String>,
    /// The name for people to read.
    pub name: Option<String>,
    /// The same as `name`.
    pub full_name: Option<String>,
    /// What the person may do.
    #[schema(value_type = String, example = "viewer")]
    pub role: Role,
    /// The organization that tokens name.
    #[schema(value_type = Option<String>, format = "uuid")]
    pub org_id: Option<OrganizationId>,
    /// Whether the person may sign in.
    pub is_active: bool,
    /// Whether the mail address was proven.
    pub is_verified: bool,
    /// The same as `is_verified`.
    pub email_verified: bool,
    /// When the account was made.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = "date-time")]
    pub updated_at: Timestamp,
}

impl UserBody {
    /// From what a command has left behind. Absent members of a registered account have been erased.
    pub(crate) fn of_state(id: UserId, user: &User, org_id: Option<OrganizationId>) -> Self {
        let name = user.name.as_ref().and_then(|name| name.get().cloned());
        let created_at = user
            .registered_at
            .expect("a registered account has a time of registration");
        Self {
            id,
            email: user
                .email
                .as_ref()
                .and_then(|email| email.get().map(ToString::to_string)),
            username: user
                .username
                .as_ref()
                .and_then(|username| username.get().map(ToString::to_string)),
            full_name: name.clone(),
            name,
            role: user.role.expect("a registered account has a role"),
            org_id,
            is_active: !user.disabled,
            is_verified: user.verified,
            email_verified: user.verified,
            created_at,
            updated_at: user.changed_at.unwrap_or(created_at),
        }
    }

    /// From the read model.
    pub(crate) fn of_row(row: UserRow, org_id: Option<OrganizationId>) -> Self {
        Self {
            id: row.user_id,
            email: row.email,
            username: row.username,
            full_name: row.name.clone(),
            name: row.name,
            role: row.role,
            org_id,
            is_active: !row.disabled,
            is_verified: row.verified,
            email_verified: row.verified,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// The envelope of the FastAPI document.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProfileBody {
    /// Always `true`.
    pub success: bool,
    /// The account.
    pub data: UserBody,
    /// What happened.
    #[schema(value_type = String)]
    pub message: &'static str,
}

/// Change of one's own profile. Other members are ignored, privileged ones too.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub struct ChangeProfile {
    /// The new name, 2 to 100 characters; absent: nothing changes.
    full_name: Option<String>,
}

/// One's own account.
#[utoipa::path(get, path = "/users/me", tag = "user", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = ProfileBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_own_profile(
    State(app): State<AppState>,
    caller: Caller,
    min: MinPosition,
) -> Result<Json<ProfileBody>, Problem> {
    app.reach(models::USER, min).await?;
    let data = own_profile(&app, &caller).await?;
    Ok(Json(ProfileBody {
        success: true,
        data,
        message: "User profile retrieved successfully",
    }))
}

/// Change one's own name.
#[utoipa::path(put, path = "/users/me", tag = "user", security(("bearer" = []), ("cookie" = [])),
    request_body = ChangeProfile,
    responses((status = 200, body = ProfileBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_own_profile(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<impl IntoResponse, Problem> {
    const MESSAGE: &str = "User profile updated successfully";
    let members = Members::of(body, MemberFault::Unprocessable)?;
    let Some(name) = members.optional_text("full_name", MemberFault::Unprocessable)? else {
        let data = own_profile(&app, &caller).await?;
        return Ok(Json(ProfileBody {
            success: true,
            data,
            message: MESSAGE,
        })
        .into_response());
    };
    let name = check_name(name).map_err(|rule| Problem::unprocessable("full_name", rule))?;
    let done = commands::change_profile(&app.on_behalf_of(&caller), caller.require_user()?, name, None).await?;
    let settled = app.settle(models::USER, done.position, prefer).await;
    let data = UserBody::of_state(caller.require_user()?, &done.state, caller.organization_id);
    Ok((
        settled,
        Json(ProfileBody {
            success: true,
            data,
            message: MESSAGE,
        }),
    )
        .into_response())
}

/// Change one's own password. All other sessions end.
#[utoipa::path(put, path = "/users/me/password", tag = "user", security(("bearer" = []), ("cookie" = [])),
    request_body = ChangePassword,
    responses((status = 200, body = MessageData), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_own_password(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<impl IntoResponse, Problem> {
    let members = Members::of(body, MemberFault::Unprocessable)?;
    let position = auth::change_password(&app, &caller, &members, MemberFault::Unprocessable, Ended::Others).await?;
    let settled = app.settle(models::SESSION, position, prefer).await;
    Ok((
        settled,
        Json(MessageData::new(
            "Password changed successfully",
            "Password updated successfully",
        )),
    ))
}

/// A name somebody gives themselves, trimmed; or the broken rule.
pub(crate) fn check_name(text: &str) -> Result<String, &'static str> {
    const RULE: &str = "full_name: must have 2 to 100 characters";
    let name = text.trim();
    let length = name.chars().count();
    if !(SHORTEST_NAME..=LONGEST_NAME).contains(&length) {
        return Err(RULE);
    }
    if name.chars().any(char::is_control) {
        return Err("full_name: must not contain control characters");
    }
    Ok(name.to_owned())
}

/// The caller's account as the read model shows it.
async fn own_profile(app: &AppState, caller: &annals_domain::Caller) -> Result<UserBody, Problem> {
    let row = annals_projections::user::by_id(caller, app.database(), caller.require_user()?).await?;
    let row = row.ok_or_else(|| Problem::unavailable(1, "The account is not shown yet."))?;
    Ok(UserBody::of_row(row, caller.organization_id))
}
