//! Proof of an account's mail address, at `/api/v1/auth/email-verification` and `/api/v1/email-verification` (contract of
//! the FastAPI document).

use annals_commands::email_verification::{self as commands, Asked};
use annals_commands::{CommandError, link};
use annals_domain::{EmailAddress, Timestamp, UserId};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{Json, MemberFault, Members, OptionalJson, Prefer, Query, Stranger, UnverifiedCaller};
use crate::problem::{Problem, ProblemBody};
use crate::settle::models;

/// Routes below `/api/v1/auth` and `/api/v1`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(send_email_verification))
        .routes(routes!(resend_email_verification))
        .routes(routes!(look_at_email_verification, verify_email))
        .routes(routes!(show_email_verification_status))
}

/// What became of a wish for a mail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerificationSentBody {
    success: bool,
    data: VerificationSentData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerificationSentData {
    /// `sent` or `already_verified`.
    #[schema(value_type = String, example = "sent")]
    status: &'static str,
    #[schema(value_type = String)]
    message: &'static str,
    /// When the link ends; absent when none is mailed.
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Timestamp>,
}

/// Mail the caller a link that proves their own address. The one before it is void.
#[utoipa::path(post, path = "/email-verification/send", tag = "email verification",
    security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = VerificationSentBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn send_email_verification(
    State(app): State<AppState>,
    caller: UnverifiedCaller,
    prefer: Prefer,
) -> Result<Response, Problem> {
    send(&app, &caller, prefer).await
}

/// The same as `POST /email-verification/send`.
#[utoipa::path(post, path = "/email-verification/resend", tag = "email verification",
    security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = VerificationSentBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn resend_email_verification(
    State(app): State<AppState>,
    caller: UnverifiedCaller,
    prefer: Prefer,
) -> Result<Response, Problem> {
    send(&app, &caller, prefer).await
}

async fn send(app: &AppState, caller: &annals_domain::Caller, prefer: Prefer) -> Result<Response, Problem> {
    let body = |status, message, expires_at| {
        Json(VerificationSentBody {
            success: true,
            data: VerificationSentData {
                status,
                message,
                expires_at,
            },
            message,
        })
    };
    match commands::send(&app.on_behalf_of(caller)).await? {
        Asked::Sent { expires_at, position } => {
            let settled = app.settle(&[], position, prefer).await;
            let message = "Verification email sent";
            Ok((settled, body("sent", message, Some(expires_at))).into_response())
        }
        Asked::AlreadyVerified => {
            let message = "Email is already verified";
            Ok(body("already_verified", message, None).into_response())
        }
        Asked::TooMany { retry_after } => Err(Problem::of_status(StatusCode::TOO_MANY_REQUESTS)
            .with_header(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().saturating_add(1)))),
    }
}

/// The token of a mailed link, in the address or in the body.
#[derive(Debug, Deserialize)]
pub(crate) struct VerificationQuery {
    /// The token of the link.
    token: Option<String>,
}

/// The token of a mailed link.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct VerifyEmail {
    /// The token of the link; absent when it stands in the address.
    token: Option<String>,
}

/// An address that can be proven.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifiableBody {
    success: bool,
    data: VerifiableData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifiableData {
    /// `pending`.
    #[schema(value_type = String, example = "pending")]
    status: &'static str,
    /// When the link ends.
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Timestamp>,
}

/// Look at a mailed link. Nothing is used up: scanners of mails follow links too. Browsers get a page with a button.
#[utoipa::path(get, path = "/email-verification/verify", tag = "email verification", params(("token" = Option<String>, Query, description = "The token of the link")),
    responses((status = 200, body = VerifiableBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn look_at_email_verification(
    State(app): State<AppState>,
    headers: HeaderMap,
    Stranger(caller): Stranger,
    Query(query): Query<VerificationQuery>,
) -> Result<Response, Problem> {
    let token = query.token.filter(|token| !token.is_empty()).ok_or_else(missing)?;
    let expires_at = commands::look(&app.on_behalf_of(&caller), &token)
        .await
        .map_err(refusal)?;
    if wants_page(&headers) {
        // The form leads to this very address, token and all.
        return Ok(page(
            "Confirm your e-mail address",
            "<form method=\"post\"><button type=\"submit\">Confirm</button></form>",
        ));
    }
    Ok(Json(VerifiableBody {
        success: true,
        data: VerifiableData {
            status: "pending",
            expires_at,
        },
        message: "Send the token with POST to confirm the address.",
    })
    .into_response())
}

/// An address that was proven.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmailVerifiedBody {
    success: bool,
    data: EmailVerifiedData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmailVerifiedData {
    /// `verified`.
    #[schema(value_type = String, example = "verified")]
    status: &'static str,
    #[schema(value_type = String)]
    message: &'static str,
    user: VerifiedUserBody,
}

/// Whose address was proven.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifiedUserBody {
    #[schema(value_type = String, format = "uuid")]
    id: UserId,
    email: Option<String>,
    is_verified: bool,
    #[schema(value_type = Option<String>, format = "date-time")]
    verified_at: Option<Timestamp>,
}

/// Prove the address of an account by the token of a mailed link, which is used up.
#[utoipa::path(post, path = "/email-verification/verify", tag = "email verification", params(("token" = Option<String>, Query, description = "The token of the link")),
    request_body = VerifyEmail,
    responses((status = 200, body = EmailVerifiedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn verify_email(
    State(app): State<AppState>,
    headers: HeaderMap,
    Stranger(caller): Stranger,
    prefer: Prefer,
    Query(query): Query<VerificationQuery>,
    OptionalJson(body): OptionalJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let token = members.optional_text("token", MemberFault::BadRequest)?;
    let token = token.or(query.token.as_deref()).filter(|token| !token.is_empty());
    let verified = commands::verify(&app.on_behalf_of(&caller), token.ok_or_else(missing)?).await;
    let verified = verified.map_err(refusal)?;
    let settled = app.settle(models::USER, verified.position, prefer).await;
    let message = "Email verified successfully";
    if wants_page(&headers) {
        return Ok((settled, page(message, "<p>You can close this page.</p>")).into_response());
    }
    let email = verified.user.email.as_ref().and_then(|email| email.get());
    let user = VerifiedUserBody {
        id: verified.user_id,
        email: email.map(ToString::to_string),
        is_verified: verified.user.verified,
        verified_at: verified.user.verified_at,
    };
    let body = EmailVerifiedBody {
        success: true,
        data: EmailVerifiedData {
            status: "verified",
            message,
            user,
        },
        message,
    };
    Ok((settled, Json(body)).into_response())
}

/// How far one's own address is proven.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerificationStatusBody {
    success: bool,
    data: VerificationStatusData,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerificationStatusData {
    is_verified: bool,
    #[schema(value_type = Option<String>)]
    email: Option<EmailAddress>,
    #[schema(value_type = Option<String>, format = "date-time")]
    verified_at: Option<Timestamp>,
    /// Links that can be used now: at most one, for a newer one voids the older.
    active_tokens_count: u32,
    /// When that link ends.
    #[schema(value_type = Option<String>, format = "date-time")]
    last_token_expires_at: Option<Timestamp>,
    /// Whether a new link should be asked for.
    needs_reminder: bool,
}

/// How far one's own address is proven.
#[utoipa::path(get, path = "/email-verification/status", tag = "email verification",
    security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = VerificationStatusBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_email_verification_status(
    State(app): State<AppState>,
    caller: UnverifiedCaller,
) -> Result<Json<VerificationStatusBody>, Problem> {
    let status = commands::status(&app.on_behalf_of(&caller)).await?;
    let open_until = status.open_until;
    Ok(Json(VerificationStatusBody {
        success: true,
        data: VerificationStatusData {
            is_verified: status.is_verified,
            email: status.email,
            verified_at: status.verified_at,
            active_tokens_count: open_until.map_or(0, |_| 1),
            last_token_expires_at: open_until,
            needs_reminder: !status.is_verified && open_until.is_none(),
        },
    }))
}

fn missing() -> Problem {
    Problem::bad_field("token", "Verification token is required")
}

/// The words of the contract.
fn refusal(error: CommandError) -> Problem {
    let token =
        |code: &'static str, message: &'static str| Problem::new(StatusCode::BAD_REQUEST, code, message).on("token");
    match error.code() {
        link::INVALID => token("VERIFICATION_TOKEN_INVALID", "Invalid verification token"),
        link::EXPIRED => token("VERIFICATION_TOKEN_EXPIRED", "Verification token has expired"),
        link::ALREADY_USED => token("VERIFICATION_TOKEN_USED", "Verification token has already been used"),
        _ => error.into(),
    }
}

/// Whether a browser asks, for a person to read.
fn wants_page(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

/// A page of our own words alone.
fn page(title: &'static str, content: &'static str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"robots\" content=\"noindex\">\
         <title>{title}</title></head><body><main><h1>{title}</h1>{content}</main></body></html>"
    );
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}
