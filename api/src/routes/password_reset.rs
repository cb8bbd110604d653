//! Forgotten passwords at `/api/v1/auth` (contract of the Aragora document): asking for a mailed link, and using it.

use annals_commands::{CommandError, PasswordPolicy, link, password_reset as commands};
use annals_domain::EmailAddress;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{AnyJson, Json, MemberFault, Members, Prefer, Stranger};
use crate::problem::{Problem, ProblemBody};
use crate::settle::models;

const FAULT: MemberFault = MemberFault::BadRequest;

/// What a reset demands of the new password: what a change does, but for being another than the forgotten one.
const POLICY: PasswordPolicy = PasswordPolicy {
    differs: false,
    ..PasswordPolicy::CHANGE
};

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(ask_for_password_reset))
        .routes(routes!(ask_for_password_reset_alias))
        .routes(routes!(reset_forgotten_password))
        .routes(routes!(reset_forgotten_password_alias))
}

/// A wish for a link that resets a password.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct ForgotPassword {
    /// Mail address of the account.
    email: String,
}

/// The answer to it, whether or not there is such an account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ForgottenBody {
    success: bool,
    data: ForgottenData,
    #[schema(value_type = String)]
    message: &'static str,
    /// The address as it was understood.
    #[schema(value_type = String)]
    email: EmailAddress,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ForgottenData {
    #[schema(value_type = String)]
    message: &'static str,
    #[schema(value_type = String)]
    email: EmailAddress,
}

/// Mail a link that resets the password of the account with this address. The answer, and its time, are the same when
/// there is no such account, and when enough links were mailed within the hour.
#[utoipa::path(post, path = "/password/forgot", tag = "auth", request_body = ForgotPassword,
    responses((status = 200, body = ForgottenBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn ask_for_password_reset(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    AnyJson(body): AnyJson,
) -> Result<Json<ForgottenBody>, Problem> {
    ask(&app, &caller, body)
}

/// The same as `POST /password/forgot`.
#[utoipa::path(post, path = "/forgot-password", tag = "auth", request_body = ForgotPassword,
    responses((status = 200, body = ForgottenBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn ask_for_password_reset_alias(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    AnyJson(body): AnyJson,
) -> Result<Json<ForgottenBody>, Problem> {
    ask(&app, &caller, body)
}

fn ask(app: &AppState, caller: &annals_domain::Caller, body: Value) -> Result<Json<ForgottenBody>, Problem> {
    let email = read_email(&Members::of(body, FAULT)?)?;
    commands::request(&app.on_behalf_of(caller), email.clone())?;
    let message = "If an account with that email exists, a password reset link has been sent.";
    Ok(Json(ForgottenBody {
        success: true,
        data: ForgottenData {
            message,
            email: email.clone(),
        },
        message,
        email,
    }))
}

/// The one member of requests that mail something to an address.
pub(crate) fn read_email(members: &Members) -> Result<EmailAddress, Problem> {
    let text = members
        .optional_text("email", FAULT)?
        .filter(|text| !text.trim().is_empty())
        .ok_or_else(|| FAULT.on("email", "Email is required"))?;
    EmailAddress::parse(text).map_err(|error| FAULT.on("email", format!("email: {}", error.rule)))
}

/// A new password, by the token of a mailed link.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct ResetForgottenPassword {
    /// The token of the link.
    token: String,
    /// At least 8 characters, upper and lower case, digit, special character. `password` is read too.
    new_password: String,
}

/// The answer to it. Nobody is signed in by it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PasswordResetBody {
    success: bool,
    data: PasswordResetData,
    #[schema(value_type = String)]
    message: &'static str,
    /// All sessions of the account have ended.
    sessions_invalidated: bool,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PasswordResetData {
    #[schema(value_type = String)]
    message: &'static str,
    sessions_invalidated: bool,
}

/// Set a new password by the token of a mailed link, which is used up, and end all sessions.
#[utoipa::path(post, path = "/password/reset", tag = "auth", request_body = ResetForgottenPassword,
    responses((status = 200, body = PasswordResetBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn reset_forgotten_password(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    reset(&app, &caller, prefer, body).await
}

/// The same as `POST /password/reset`.
#[utoipa::path(post, path = "/reset-password", tag = "auth", request_body = ResetForgottenPassword,
    responses((status = 200, body = PasswordResetBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn reset_forgotten_password_alias(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    reset(&app, &caller, prefer, body).await
}

async fn reset(
    app: &AppState,
    caller: &annals_domain::Caller,
    prefer: Prefer,
    body: Value,
) -> Result<Response, Problem> {
    let members = Members::of(body, FAULT)?;
    // The link says whose password it is; somebody who names an account besides expects it to matter.
    if members.has("email") {
        return Err(Problem::unprocessable(
            "email",
            "email: is not a member of this request",
        ));
    }
    let token = members
        .optional_text("token", FAULT)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| FAULT.on("token", "Reset token is required"))?;
    let member = if members.has("new_password") || !members.has("password") {
        "new_password"
    } else {
        "password"
    };
    let new = SecretString::from(members.text(member, FAULT)?);
    let done = commands::redeem(&app.on_behalf_of(caller), token, &new, POLICY).await;
    let done = done.map_err(|error| refusal(error, member))?;
    let settled = app.settle(models::SESSION, done.position, prefer).await;
    let message = "Password has been reset successfully. Please log in with your new password.";
    let body = PasswordResetBody {
        success: true,
        data: PasswordResetData {
            message,
            sessions_invalidated: true,
        },
        message,
        sessions_invalidated: true,
    };
    Ok((settled, Json(body)).into_response())
}

/// The words of the contract.
fn refusal(error: CommandError, member: &'static str) -> Problem {
    let token =
        |code: &'static str, message: &'static str| Problem::new(StatusCode::BAD_REQUEST, code, message).on("token");
    match error.code() {
        link::INVALID => token("RESET_TOKEN_INVALID", "Invalid or expired reset token"),
        link::EXPIRED => token("RESET_TOKEN_EXPIRED", "Reset token has expired"),
        link::ALREADY_USED => token("RESET_TOKEN_USED", "Reset token has already been used"),
        _ if error.field() == Some("new_password") => FAULT.on(member, format!("{member}: {error}")),
        _ => error.into(),
    }
}
