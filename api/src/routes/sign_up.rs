//! Sign-up at `/api/v1/auth` (contract of the Aragora document): an account exists once its address is proven.

use annals_commands::registration::{self as commands, SignUp};
use annals_commands::{CommandError, PasswordPolicy, link};
use annals_domain::{OrganizationId, UserId};
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
use crate::routes::auth::{MessageData, check_organization, taken};
use crate::routes::password_reset::read_email;
use crate::settle::models;

const FAULT: MemberFault = MemberFault::BadRequest;

/// What the contract demands of the password.
const POLICY: PasswordPolicy = PasswordPolicy {
    min_characters: 8,
    upper: true,
    lower: true,
    digit: true,
    ..PasswordPolicy::NONE
};

/// Most characters of a name.
const LONGEST_NAME: usize = 100;

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(verify_sign_up))
        .routes(routes!(resend_sign_up))
        .routes(routes!(resend_sign_up_alias))
}

/// Refuses addresses to go on to: where a mailed link leads is the operator's choice.
pub(crate) fn refuse_redirects(members: &Members) -> Result<(), Problem> {
    const MEMBERS: &[&str] = &["redirect_url", "redirect_uri", "redirect_to"];
    match MEMBERS.iter().find(|member| members.has(member)) {
        Some(member) => Err(Problem::unprocessable(
            *member,
            format!("{member}: is not a member of this request"),
        )),
        None => Ok(()),
    }
}

/// Sign-up. Other members are ignored, privileged ones too.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct SignUpBody {
    /// Mail address; kept in lower case.
    email: String,
    /// At least 8 characters, upper and lower case, digit.
    password: String,
    /// Name for people to read, 2 to 100 characters.
    name: String,
    /// Name of the organization to found, at least 2 characters.
    company_name: Option<String>,
    /// The token of an invitation for this address.
    invite_token: Option<String>,
}

/// The answer to a sign-up. There is no account yet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedUpBody {
    success: bool,
    data: SignedUpData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedUpData {
    #[schema(value_type = String)]
    message: &'static str,
    email: String,
    /// The token that is mailed; only where the operator has set `development.reveal_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_token: Option<String>,
    /// Seconds.
    expires_in: u32,
}

/// Ask for an account. A link that makes it is mailed; until it is used there is none.
#[utoipa::path(post, path = "/signup", tag = "auth", request_body = SignUpBody,
    responses((status = 200, body = SignedUpBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn sign_up(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, FAULT)?;
    refuse_redirects(&members)?;
    let email = read_email(&members)?;
    let password = SecretString::from(members.text("password", FAULT)?);
    let name = members.text("name", FAULT)?.trim();
    if !(2..=LONGEST_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        let rule = "name: must have 2 to 100 characters and no control characters";
        return Err(FAULT.on("name", rule));
    }
    let organization_name = match members.optional_text("company_name", FAULT)? {
        Some(text) if !text.trim().is_empty() => Some(check_organization("company_name", text, FAULT)?),
        _ => None,
    };
    let invitation = members
        .optional_text("invite_token", FAULT)?
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    let wish = SignUp {
        email: email.clone(),
        password,
        policy: POLICY,
        name: name.to_owned(),
        organization_name,
        invitation,
    };
    let message = "Verification email sent";
    let answer = |verification_token| {
        Json(SignedUpBody {
            success: true,
            data: SignedUpData {
                message,
                email: email.to_string(),
                verification_token,
                expires_in: app.commands().settings().links.sign_up_seconds,
            },
            message,
        })
    };
    match commands::sign_up(&app.on_behalf_of(&caller), wish).await {
        Ok(signed_up) => {
            let settled = app.settle(&[], signed_up.position, prefer).await;
            let reveal = app.config().development.reveal_tokens;
            let token = reveal.then(|| signed_up.link.token.as_str().to_owned());
            if app.config().registration.conceal_existing {
                return Ok(answer(token).into_response());
            }
            Ok((settled, answer(token)).into_response())
        }
        Err(error) => {
            let problem = refusal(error);
            let tells = ["AUTH_EMAIL_EXISTS", "EMAIL_PENDING_VERIFICATION"].contains(&problem.code());
            if tells && app.config().registration.conceal_existing {
                return Ok(answer(None).into_response());
            }
            Err(problem)
        }
    }
}

/// The words of the contract.
fn refusal(error: CommandError) -> Problem {
    let invitation = |message: &'static str| FAULT.on("invite_token", message);
    match error.code() {
        commands::ALREADY_PENDING => Problem::new(
            StatusCode::CONFLICT,
            "EMAIL_PENDING_VERIFICATION",
            "Email already pending verification",
        )
        .on("email"),
        commands::OTHER_ADDRESS => FAULT.on("email", "Email does not match invitation"),
        link::INVALID | link::ALREADY_USED | "invitation.already_used" => invitation("Invalid invitation"),
        link::EXPIRED | "invitation.expired" => invitation("Invitation has expired"),
        _ if error.field() == Some("password") => FAULT.on("password", format!("password: {error}")),
        _ => taken(error),
    }
}

/// The token of a mailed link.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct VerifySignUp {
    /// The token of the link.
    token: String,
}

/// An account that was made, and its first session.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignUpVerifiedBody {
    success: bool,
    data: SignUpVerifiedData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignUpVerifiedData {
    #[schema(value_type = String)]
    message: &'static str,
    #[schema(value_type = String, format = "uuid")]
    user_id: UserId,
    email: Option<String>,
    name: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    #[schema(value_type = String)]
    token_type: &'static str,
    /// Whether the person belongs to no organization yet.
    needs_org_setup: bool,
    #[schema(value_type = Option<String>, format = "uuid")]
    organization_id: Option<OrganizationId>,
}

/// Make the account of a sign-up by the token of a mailed link, which is used up, and sign in.
#[utoipa::path(post, path = "/verify-email", tag = "auth", request_body = VerifySignUp,
    responses((status = 200, body = SignUpVerifiedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn verify_sign_up(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, FAULT)?;
    let token = members
        .optional_text("token", FAULT)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| FAULT.on("token", "Verification token is required"))?;
    let verified = commands::verify(&app.on_behalf_of(&caller), token).await;
    let verified = verified.map_err(|error| match error.code() {
        link::INVALID | link::EXPIRED | link::ALREADY_USED => Problem::new(
            StatusCode::BAD_REQUEST,
            "VERIFICATION_TOKEN_INVALID",
            "Invalid or expired token",
        )
        .on("token"),
        _ => taken(error),
    })?;
    let settled = app.settle(models::IDENTITY, verified.position, prefer).await;
    let message = "Email verified successfully";
    let tokens = verified.signed_in.map(|signed_in| signed_in.tokens);
    let data = SignUpVerifiedData {
        message,
        user_id: verified.user_id,
        email: verified
            .user
            .email
            .and_then(|email| email.get().map(ToString::to_string)),
        name: verified.user.name.and_then(annals_domain::Personal::into_value),
        access_token: tokens.as_ref().map(|tokens| tokens.access_token.clone()),
        refresh_token: tokens.and_then(|tokens| tokens.refresh_token),
        token_type: "Bearer",
        needs_org_setup: verified.organization_id.is_none(),
        organization_id: verified.organization_id,
    };
    let body = SignUpVerifiedBody {
        success: true,
        data,
        message,
    };
    Ok((settled, Json(body)).into_response())
}

/// A wish for another mail.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct ResendSignUp {
    /// Mail address of the sign-up.
    email: String,
}

/// Mail the link of a sign-up once more. The answer, and its time, do not tell whether there is one.
#[utoipa::path(post, path = "/resend-verification", tag = "auth", request_body = ResendSignUp,
    responses((status = 200, body = MessageData), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn resend_sign_up(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    AnyJson(body): AnyJson,
) -> Result<Json<MessageData>, Problem> {
    resend(&app, &caller, body)
}

/// The same as `POST /resend-verification`.
#[utoipa::path(post, path = "/verify-email/resend", tag = "auth", request_body = ResendSignUp,
    responses((status = 200, body = MessageData), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn resend_sign_up_alias(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    AnyJson(body): AnyJson,
) -> Result<Json<MessageData>, Problem> {
    resend(&app, &caller, body)
}

fn resend(app: &AppState, caller: &annals_domain::Caller, body: Value) -> Result<Json<MessageData>, Problem> {
    let email = read_email(&Members::of(body, FAULT)?)?;
    commands::resend(&app.on_behalf_of(caller), email)?;
    let message = "If this address waits to be verified, an email has been sent.";
    Ok(Json(MessageData::new(message, message)))
}
