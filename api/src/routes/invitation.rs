//! Organizations and invitations into them at `/api/v1/auth`, and the first steps of an account at `/api/v1/onboarding`
//! (contract of the Aragora document).

use annals_commands::invitation::{self as commands, Accepted};
use annals_commands::{CommandError, link, organization, user};
use annals_domain::{EmailAddress, OrganizationId, OrganizationRole, Timestamp};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{AnyJson, Caller, Json, MemberFault, Members, Prefer, Query, Stranger};
use crate::problem::{Problem, ProblemBody};
use crate::routes::auth::check_organization;
use crate::routes::organization::OrganizationBody;
use crate::routes::password_reset::read_email;
use crate::routes::sign_up::refuse_redirects;
use crate::settle::models;

const FAULT: MemberFault = MemberFault::BadRequest;
/// Fewest and most characters of a short name that somebody chooses.
const SLUG_CHARACTERS: std::ops::RangeInclusive<usize> = 4..=32;

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(set_up_organization))
        .routes(routes!(invite))
        .routes(routes!(check_invitation))
        .routes(routes!(accept_invitation))
}

/// Routes below `/api/v1`.
pub(crate) fn onboarding() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(show_onboarding))
        .routes(routes!(complete_onboarding))
}

/// A new organization. Other members are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct SetUpOrganization {
    /// Name for people to read, at least 2 characters.
    name: String,
    /// Short name: 4 to 32 of a-z, 0-9 and single hyphens; derived from the name when absent.
    slug: Option<String>,
}

/// An organization that was founded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrganizationSetUpBody {
    success: bool,
    data: OrganizationSetUpData,
    organization: OrganizationBody,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrganizationSetUpData {
    organization: OrganizationBody,
}

/// Found an organization, as its owner. Whoever is signed in may.
#[utoipa::path(post, path = "/setup-organization", tag = "organization", security(("bearer" = []), ("cookie" = [])),
    request_body = SetUpOrganization,
    responses((status = 200, body = OrganizationSetUpBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn set_up_organization(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, FAULT)?;
    refuse_redirects(&members)?;
    let name = check_organization("name", members.text("name", FAULT)?, FAULT)?;
    let slug = members.optional_text("slug", FAULT)?.map(str::to_owned);
    if slug
        .as_ref()
        .is_some_and(|slug| !SLUG_CHARACTERS.contains(&slug.chars().count()))
    {
        return Err(FAULT.on(
            "slug",
            "slug: must have 4 to 32 characters of a-z, 0-9 and single hyphens",
        ));
    }
    let done = organization::found(&app.on_behalf_of(&caller), name, slug).await?;
    let settled = app.settle(models::IDENTITY, done.position, prefer).await;
    let organization = OrganizationBody::of_state(done.id, done.state);
    let body = OrganizationSetUpBody {
        success: true,
        data: OrganizationSetUpData {
            organization: organization.clone(),
        },
        organization,
        message: "Organization created successfully",
    };
    Ok((settled, Json(body)).into_response())
}

/// An invitation.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct Invite {
    /// Mail address of whoever is invited.
    email: String,
    /// The organization.
    organization_id: String,
    /// `admin`, `member` or `viewer`.
    role: String,
}

/// An invitation that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitedBody {
    success: bool,
    data: InvitedData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitedData {
    #[schema(value_type = String)]
    message: &'static str,
    #[schema(value_type = String)]
    email: EmailAddress,
    /// The token that is mailed; only where the operator has set `development.reveal_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    invite_token: Option<String>,
    /// Where invitations are accepted. The token, which proves the invited mailbox, is not in it but under the same switch.
    invite_url: String,
    /// Seconds.
    expires_in: u32,
}

/// Invite an address into an organization. For its owners and admins, and for whoever holds `organization.invite`.
#[utoipa::path(post, path = "/invite", tag = "organization", security(("bearer" = []), ("cookie" = [])),
    request_body = Invite,
    responses((status = 200, body = InvitedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn invite(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, FAULT)?;
    refuse_redirects(&members)?;
    let email = read_email(&members)?;
    let organization_id = members.text("organization_id", FAULT)?;
    let organization_id: OrganizationId = organization_id
        .parse()
        .map_err(|_| FAULT.on("organization_id", "organization_id: is no identifier"))?;
    let role = members.text("role", FAULT)?.parse().ok();
    let role: OrganizationRole = role
        .filter(|role| *role != OrganizationRole::Owner)
        .ok_or_else(|| FAULT.on("role", "role: must be admin, member or viewer"))?;
    let invited = commands::invite(&app.on_behalf_of(&caller), organization_id, email.clone(), role).await;
    let invited = invited.map_err(|error| match error.code() {
        commands::ALREADY_PENDING => Problem::new(
            StatusCode::CONFLICT,
            "INVITATION_PENDING",
            "Invitation already pending for this email",
        )
        .on("email"),
        _ => error.into(),
    })?;
    let settled = app.settle(&[], invited.position, prefer).await;
    let reveal = app.config().development.reveal_tokens;
    let token = reveal.then(|| invited.link.token.as_str().to_owned());
    let message = "Invitation sent";
    let body = InvitedBody {
        success: true,
        data: InvitedData {
            message,
            email,
            invite_url: app.config().invitation_url(token.as_deref()),
            invite_token: token,
            expires_in: app.commands().settings().links.invitation_seconds,
        },
        message,
    };
    Ok((settled, Json(body)).into_response())
}

/// The token of a mailed invitation.
#[derive(Debug, Deserialize)]
pub(crate) struct InvitationQuery {
    /// The token of the link.
    token: Option<String>,
}

/// What an invitation says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationBody {
    success: bool,
    data: InvitationData,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationData {
    /// Always `true`.
    valid: bool,
    #[schema(value_type = Option<String>)]
    email: Option<EmailAddress>,
    #[schema(value_type = String, format = "uuid")]
    organization_id: OrganizationId,
    #[schema(value_type = String, example = "member")]
    role: OrganizationRole,
    #[schema(value_type = String, format = "date-time")]
    expires_at: Timestamp,
}

/// Look at an invitation. Nothing is used up.
#[utoipa::path(get, path = "/check-invite", tag = "organization", params(("token" = Option<String>, Query, description = "The token of the link")),
    responses((status = 200, body = InvitationBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn check_invitation(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    Query(query): Query<InvitationQuery>,
) -> Result<Json<InvitationBody>, Problem> {
    let token = query.token.filter(|token| !token.is_empty()).ok_or_else(missing)?;
    let found = commands::look(&app.on_behalf_of(&caller), &token).await;
    let found = found.map_err(|error| match error {
        CommandError::Domain { .. } => unknown(),
        other => other.into(),
    })?;
    Ok(Json(InvitationBody {
        success: true,
        data: InvitationData {
            valid: true,
            email: found.email,
            organization_id: found.organization_id,
            role: found.role,
            expires_at: found.expires_at,
        },
    }))
}

fn missing() -> Problem {
    FAULT.on("token", "Token is required")
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "INVITATION_INVALID", "Invalid invitation").on("token")
}

/// The token of a mailed invitation.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct AcceptInvitation {
    /// The token of the link.
    token: String,
}

/// An invitation that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationAcceptedBody {
    success: bool,
    data: InvitationAcceptedData,
    #[schema(value_type = String)]
    message: &'static str,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvitationAcceptedData {
    #[schema(value_type = String)]
    message: &'static str,
    #[schema(value_type = String, format = "uuid")]
    organization_id: OrganizationId,
    #[schema(value_type = String, example = "member")]
    role: OrganizationRole,
}

/// Join the organization of an invitation, by the account of the invited address. The token is used up.
#[utoipa::path(post, path = "/accept-invite", tag = "organization", security(("bearer" = []), ("cookie" = [])),
    request_body = AcceptInvitation,
    responses((status = 200, body = InvitationAcceptedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn accept_invitation(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, FAULT)?;
    refuse_redirects(&members)?;
    let token = members
        .optional_text("token", FAULT)?
        .filter(|text| !text.is_empty())
        .ok_or_else(missing)?;
    let accepted = commands::accept(&app.on_behalf_of(&caller), token).await;
    let Accepted {
        organization_id,
        role,
        position,
    } = accepted.map_err(refusal)?;
    let settled = app.settle(models::IDENTITY, position, prefer).await;
    let message = "Invitation accepted";
    let body = InvitationAcceptedBody {
        success: true,
        data: InvitationAcceptedData {
            message,
            organization_id,
            role,
        },
        message,
    };
    Ok((settled, Json(body)).into_response())
}

/// The words of the contract.
fn refusal(error: CommandError) -> Problem {
    let token =
        |code: &'static str, message: &'static str| Problem::new(StatusCode::BAD_REQUEST, code, message).on("token");
    let forbidden = |code: &'static str, message: &'static str| Problem::forbidden(message).with_code(code);
    match error.code() {
        link::INVALID => unknown(),
        link::EXPIRED | "invitation.expired" => token("INVITATION_EXPIRED", "Invitation has expired"),
        link::ALREADY_USED | "invitation.already_used" => token("INVITATION_USED", "Invitation has already been used"),
        commands::OTHER_ADDRESS => forbidden("INVITATION_OTHER_ADDRESS", "This invitation is for another address."),
        commands::INVITER_NOT_ALLOWED => forbidden(
            "INVITATION_NOT_ALLOWED",
            "Whoever sent this invitation may not invite people any more.",
        ),
        _ => error.into(),
    }
}

/// The first steps of an account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnboardingBody {
    success: bool,
    data: OnboardingData,
}

/// Member `data`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnboardingData {
    /// Whether the person has said that they are done.
    completed: bool,
    /// When they did.
    #[schema(value_type = Option<String>, format = "date-time")]
    completed_at: Option<Timestamp>,
    steps: OnboardingSteps,
}

/// Which steps are done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnboardingSteps {
    /// The mail address is proven.
    email_verified: bool,
    /// The person belongs to an organization.
    organization: bool,
}

/// How far one's own first steps are.
#[utoipa::path(get, path = "/onboarding/status", tag = "organization", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = OnboardingBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_onboarding(
    State(app): State<AppState>,
    caller: Caller,
) -> Result<Json<OnboardingBody>, Problem> {
    let completed_at = user::onboarded_at(&app.on_behalf_of(&caller)).await?;
    Ok(Json(onboarding_body(&app, &caller, completed_at).await?))
}

/// Say that one's own first steps are done. Saying so again changes nothing.
#[utoipa::path(post, path = "/onboarding/complete", tag = "organization", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = OnboardingBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn complete_onboarding(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
) -> Result<Response, Problem> {
    let done = user::complete_onboarding(&app.on_behalf_of(&caller)).await?;
    let settled = app.settle(models::USER, done.position, prefer).await;
    let body = onboarding_body(&app, &caller, done.state.onboarded_at).await?;
    Ok((settled, Json(body)).into_response())
}

async fn onboarding_body(
    app: &AppState,
    caller: &annals_domain::Caller,
    completed_at: Option<Timestamp>,
) -> Result<OnboardingBody, Problem> {
    let user_id = caller.require_user()?;
    let memberships = annals_projections::organization::of_user(caller, app.database(), user_id).await?;
    let email_verified = annals_commands::email_verification::is_verified(app.commands(), user_id).await?;
    Ok(OnboardingBody {
        success: true,
        data: OnboardingData {
            completed: completed_at.is_some(),
            completed_at,
            steps: OnboardingSteps {
                email_verified,
                organization: !memberships.is_empty(),
            },
        },
    })
}
