//! The second factor at `/api/v1/auth/mfa`: contract of the Aragora document, section 4.1.

use std::borrow::Cow;

use annals_commands::mfa::{self as commands, BackupCodes, Method, Proof, SecondFactorWanted};
use annals_commands::services::password::MAX_PASSWORD_BYTES;
use annals_commands::{CommandError, auth};
use annals_domain::UserId;
use axum::extract::State;
use axum::http::header::{SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{AnyJson, Caller, Json, MemberFault, Members, OptionalJson, Prefer, Stranger};
use crate::problem::{Problem, ProblemBody};
use crate::routes::auth::{SignedInBody, signed_in};
use crate::settle::models;

/// Characters of a code that are looked at; ours have six or eight.
pub(crate) const LONGEST_CODE: usize = 64;

/// Backup codes from which on it is said that few are left.
const FEW_BACKUP_CODES: u8 = 5;

const KEEP_THE_CODES: &str = "Save these backup codes securely. They cannot be shown again.";

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(begin_mfa_setup))
        .routes(routes!(enable_mfa))
        .routes(routes!(verify_mfa))
        .routes(routes!(disable_mfa))
        .routes(routes!(delete_mfa))
        .routes(routes!(make_mfa_backup_codes))
}

/// Routes below `/api/v1/admin`.
pub(crate) fn admin_router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show_mfa_compliance))
}

/// Start of the set-up; every member may be absent, and the body too.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct BeginMfaSetup {
    /// The caller's password; needed where the sign-in is more than ten minutes ago (`mfa.fresh_sign_in_s`).
    password: Option<String>,
}

/// A secret for an authenticator, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MfaSetupBody {
    success: bool,
    /// In base32.
    secret: String,
    /// The same as `otpauth:` URI, usually shown as a picture.
    provisioning_uri: String,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Offer oneself a new secret. It counts for nothing until `/mfa/enable` has seen a code of it; asking again replaces it.
#[utoipa::path(post, path = "/mfa/setup", tag = "mfa", security(("bearer" = []), ("cookie" = [])),
    request_body = BeginMfaSetup,
    responses((status = 200, body = MfaSetupBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn begin_mfa_setup(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    OptionalJson(body): OptionalJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let password = members.optional_text("password", MemberFault::BadRequest)?;
    let password = password.map(SecretString::from);
    let done = commands::begin_setup(&app.on_behalf_of(&caller), password.as_ref()).await;
    let done = done.map_err(|error| refused(&app, error))?;
    let settled = app.settle(models::MFA, done.position, prefer).await;
    let body = MfaSetupBody {
        success: true,
        secret: done.secret.expose_secret().to_owned(),
        provisioning_uri: done.provisioning_uri.expose_secret().to_owned(),
        message: "Scan QR code or enter secret in your authenticator app, then call /api/auth/mfa/enable with \
                  verification code",
    };
    Ok((settled, Json(body)).into_response())
}

/// A code.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct MfaCode {
    /// Six digits of the authenticator; where the factor is in force already, a backup code will do.
    code: String,
}

/// Backup codes, shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackupCodesBody {
    success: bool,
    #[schema(value_type = String)]
    message: &'static str,
    /// Ten of eight hexadecimal digits; each is good for one sign-in.
    backup_codes: Vec<String>,
    #[schema(value_type = String)]
    warning: &'static str,
    /// Whether all other sessions have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions_invalidated: Option<bool>,
}

impl BackupCodesBody {
    fn of(made: &BackupCodes, message: &'static str, sessions_invalidated: Option<bool>) -> Self {
        Self {
            success: true,
            message,
            backup_codes: made.codes.iter().map(|code| code.expose_secret().to_owned()).collect(),
            warning: KEEP_THE_CODES,
            sessions_invalidated,
        }
    }
}

/// Put the offered secret in force with a code of it. All other sessions end.
#[utoipa::path(post, path = "/mfa/enable", tag = "mfa", security(("bearer" = []), ("cookie" = [])),
    request_body = MfaCode,
    responses((status = 200, body = BackupCodesBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn enable_mfa(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let code = required(&members, "code", "Verification code is required")?;
    let made = commands::enable(&app.on_behalf_of(&caller), code).await;
    let made = made.map_err(|error| refused(&app, error))?;
    let settled = app.settle(models::MFA, made.position, prefer).await;
    let body = BackupCodesBody::of(&made, "MFA enabled successfully", Some(true));
    Ok((settled, Json(body)).into_response())
}

/// Second part of a sign-in.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct VerifyMfa {
    /// From the answer to the sign-in; five minutes, one use.
    pending_token: String,
    /// Six digits of the authenticator, or a backup code.
    code: String,
}

/// Answer to a completed sign-in: that of a sign-in in one part, and what is left of the backup codes if one was used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifiedBody {
    #[serde(flatten)]
    signed_in: SignedInBody,
    /// Backup codes that can still be used; absent unless one was used now.
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_codes_remaining: Option<u8>,
    /// Said when few are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// Complete a sign-in that asked for a second factor. Needs no session: the token proves the password.
#[utoipa::path(post, path = "/mfa/verify", tag = "mfa", request_body = VerifyMfa,
    responses((status = 200, body = VerifiedBody), (status = 410, body = ProblemBody, description = "Too many wrong codes for this token"),
        (status = 429, body = ProblemBody, description = "Too many wrong codes for this account"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn verify_mfa(
    State(app): State<AppState>,
    Stranger(stranger): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let code = required(&members, "code", "MFA code is required")?;
    let token = members.optional_text("pending_token", MemberFault::BadRequest)?;
    let token = token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Problem::bad_field("pending_token", "Pending token is required"))?;
    let options = app.commands().settings().opaque_sign_in();
    let verified = commands::verify(&app.on_behalf_of(&stranger), token, code, options).await;
    let verified = verified.map_err(|error| refused(&app, error))?;
    let (message, backup_codes_remaining) = match verified.method {
        Method::Authenticator => ("MFA verification successful", None),
        Method::BackupCode { left } => ("MFA verification successful (backup code used)", Some(left)),
    };
    let (settled, cookie, signed_in) = signed_in(&app, stranger, prefer, verified.signed_in, message).await?;
    let few = backup_codes_remaining.filter(|left| *left < FEW_BACKUP_CODES);
    let body = VerifiedBody {
        signed_in,
        backup_codes_remaining,
        warning: few.map(|left| format!("Backup code used. {left} remaining.")),
    };
    Ok((settled, AppendHeaders([(SET_COOKIE, cookie)]), Json(body)).into_response())
}

/// Proof that one may take the second factor away: one of the two.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct DisableMfa {
    /// Six digits of the authenticator, or a backup code. Counts before `password`.
    code: Option<String>,
    /// The caller's password.
    password: Option<String>,
}

/// Answer to a second factor that was taken away.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MfaDisabledBody {
    success: bool,
    #[schema(value_type = String)]
    message: &'static str,
    /// Always `true`: all other sessions have ended.
    sessions_invalidated: bool,
}

/// Take one's own second factor away. All other sessions end.
#[utoipa::path(post, path = "/mfa/disable", tag = "mfa", security(("bearer" = []), ("cookie" = [])),
    request_body = DisableMfa,
    responses((status = 200, body = MfaDisabledBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn disable_mfa(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    OptionalJson(body): OptionalJson,
) -> Result<Response, Problem> {
    disable(&app, &caller, prefer, Members::of(body, MemberFault::BadRequest)?).await
}

/// The same as `POST /mfa/disable`.
#[utoipa::path(delete, path = "/mfa", tag = "mfa", security(("bearer" = []), ("cookie" = [])),
    request_body = DisableMfa,
    responses((status = 200, body = MfaDisabledBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_mfa(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    OptionalJson(body): OptionalJson,
) -> Result<Response, Problem> {
    disable(&app, &caller, prefer, Members::of(body, MemberFault::BadRequest)?).await
}

async fn disable(
    app: &AppState,
    caller: &annals_domain::Caller,
    prefer: Prefer,
    members: Members,
) -> Result<Response, Problem> {
    let given = |member| Ok::<_, Problem>(text(&members, member)?.filter(|text| !text.is_empty()));
    let password = members.optional_text("password", MemberFault::BadRequest)?;
    let password = password.filter(|text| !text.is_empty());
    // Said even where a code makes it needless: what is sent is looked at.
    if password.is_some_and(|text| text.len() > MAX_PASSWORD_BYTES) {
        let rule = format!("password: must have at most {MAX_PASSWORD_BYTES} bytes");
        return Err(Problem::bad_field("password", rule));
    }
    let password = password.map(SecretString::from);
    let proof = match (given("code")?, &password) {
        (Some(code), _) => Proof::Code(code),
        (None, Some(password)) => Proof::Password(password),
        (None, None) => {
            let message = "MFA code or password required to disable MFA";
            return Err(Problem::bad_field("code", message));
        }
    };
    let position = commands::disable(&app.on_behalf_of(caller), proof).await;
    let position = position.map_err(|error| refused(app, error))?;
    let settled = app.settle(models::MFA, position, prefer).await;
    let body = MfaDisabledBody {
        success: true,
        message: "MFA disabled successfully",
        sessions_invalidated: true,
    };
    Ok((settled, Json(body)).into_response())
}

/// Replace one's backup codes; the old ones are void.
#[utoipa::path(post, path = "/mfa/backup-codes", tag = "mfa", security(("bearer" = []), ("cookie" = [])),
    request_body = MfaCode,
    responses((status = 200, body = BackupCodesBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn make_mfa_backup_codes(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let code = required(&members, "code", "Current MFA code is required")?;
    let made = commands::make_backup_codes(&app.on_behalf_of(&caller), code).await;
    let made = made.map_err(|error| refused(&app, error))?;
    let settled = app.settle(models::MFA, made.position, prefer).await;
    let body = BackupCodesBody::of(&made, "Backup codes replaced", None);
    Ok((settled, Json(body)).into_response())
}

/// How many administrators have a second factor.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MfaComplianceBody {
    /// Administrators who may sign in.
    total_admins: usize,
    mfa_enabled_count: usize,
    mfa_disabled_count: usize,
    /// Of those without, how many need none yet. Nobody, for none is demanded.
    in_grace_period: usize,
    /// Per cent, to two places; 100 without administrators.
    compliance_pct: f64,
    /// Those without, by id.
    non_compliant_users: Vec<NonCompliantBody>,
}

/// An administrator without a second factor.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NonCompliantBody {
    #[schema(value_type = String, format = "uuid")]
    user_id: UserId,
    email: Option<String>,
    #[schema(value_type = String, example = "administrator")]
    role: annals_domain::Role,
    in_grace_period: bool,
}

/// Which administrators have no second factor. Needs `user.read`.
#[utoipa::path(get, path = "/mfa/compliance", tag = "mfa", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = MfaComplianceBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_mfa_compliance(
    State(app): State<AppState>,
    caller: Caller,
    min: crate::extract::MinPosition,
) -> Result<Json<MfaComplianceBody>, Problem> {
    app.reach(models::MFA, min).await?;
    let administrators = annals_projections::user::administrators(&caller, app.database()).await?;
    let ids: Vec<UserId> = administrators.iter().map(|row| row.user_id).collect();
    let enabled = annals_projections::mfa::enabled_of(&caller, app.database(), &ids).await?;
    let total_admins = ids.len();
    let mfa_enabled_count = enabled.len();
    let non_compliant_users: Vec<_> = administrators
        .into_iter()
        .filter(|row| !enabled.contains_key(&row.user_id))
        .map(|row| NonCompliantBody {
            user_id: row.user_id,
            email: row.email,
            role: row.role,
            in_grace_period: false,
        })
        .collect();
    Ok(Json(MfaComplianceBody {
        total_admins,
        mfa_enabled_count,
        mfa_disabled_count: total_admins - mfa_enabled_count,
        in_grace_period: 0,
        compliance_pct: per_cent(mfa_enabled_count, total_admins),
        non_compliant_users,
    }))
}

/// To two places; of nothing, all is as it should be.
fn per_cent(part: usize, whole: usize) -> f64 {
    let hundredths = (part * 10_000 + whole / 2).checked_div(whole).unwrap_or(10_000);
    f64::from(u32::try_from(hundredths).unwrap_or(10_000)) / 100.0
}

/// Answer to a right password where a second factor is asked for: no token, no cookie, no session.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SecondFactorBody {
    success: bool,
    #[serde(flatten)]
    wanted: SecondFactorData,
    data: SecondFactorData,
}

/// What the client needs for `/mfa/verify`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SecondFactorData {
    /// Always `true`.
    mfa_required: bool,
    pending_token: String,
    /// Seconds that the token is good for.
    pending_expires_in: u64,
    #[schema(value_type = String)]
    message: &'static str,
}

impl SecondFactorBody {
    pub(crate) fn of(app: &AppState, wanted: &SecondFactorWanted) -> Self {
        let left = wanted
            .expires_at
            .unix_seconds()
            .saturating_sub(app.commands().now().unix_seconds());
        let wanted = SecondFactorData {
            mfa_required: true,
            pending_token: wanted.pending_token.expose_secret().to_owned(),
            pending_expires_in: u64::try_from(left).unwrap_or(0),
            message: "MFA verification required",
        };
        Self {
            success: true,
            data: wanted.clone(),
            wanted,
        }
    }
}

/// A text that may be absent, without the spaces around it. A text that is far longer than any code is malformed, not wrong.
pub(crate) fn text<'a>(members: &'a Members, member: &'static str) -> Result<Option<&'a str>, Problem> {
    let text = members.optional_text(member, MemberFault::BadRequest)?.map(str::trim);
    if text.is_some_and(|text| text.chars().count() > LONGEST_CODE) {
        let rule = format!("{member}: must have at most {LONGEST_CODE} characters");
        return Err(Problem::bad_field(member, rule));
    }
    Ok(text)
}

/// A code that must be there; its absence is said in the words of the contract.
fn required<'a>(members: &'a Members, member: &'static str, message: &'static str) -> Result<&'a str, Problem> {
    text(members, member)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Problem::bad_field(member, message))
}

/// The refusals in the statuses of the contract.
fn refused(app: &AppState, error: CommandError) -> Problem {
    let status = match error.code() {
        commands::SIGN_IN_NOT_FRESH => return not_fresh(app, &error),
        commands::PENDING_TOKEN_INVALID => StatusCode::UNAUTHORIZED,
        "mfa.challenge_void" => StatusCode::GONE,
        "mfa.already_enabled" => StatusCode::BAD_REQUEST,
        auth::USER_DISABLED => StatusCode::FORBIDDEN,
        _ => return error.into(),
    };
    Problem::from(error).with_status(status)
}

/// RFC 9470: what is missing is a younger sign-in, and how young.
fn not_fresh(app: &AppState, error: &CommandError) -> Problem {
    const CODE: &str = "insufficient_user_authentication";
    let max_age = app.config().mfa.fresh_sign_in_s;
    let challenge = HeaderValue::try_from(format!("Bearer error=\"{CODE}\", max_age=\"{max_age}\""));
    let message = Cow::Owned(error.to_string());
    let problem =
        Problem::new(StatusCode::UNAUTHORIZED, CODE, message).with_details(serde_json::json!({ "max_age": max_age }));
    match challenge {
        Ok(challenge) => problem.with_header(WWW_AUTHENTICATE, challenge),
        Err(_) => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::per_cent;

    #[test]
    fn shares_have_two_places() {
        for (part, whole, shown) in [(0, 0, 100.0), (0, 3, 0.0), (1, 3, 33.33), (2, 3, 66.67), (3, 3, 100.0)] {
            assert!((per_cent(part, whole) - shown).abs() < 1e-9, "{part} of {whole}");
        }
    }
}
