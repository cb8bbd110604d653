//! Registration, sign-in and sign-out at `/api/v1/auth`: three documents claim these paths, so bodies are the union of theirs
//! and the shape of a request decides which rules it must keep.

use std::borrow::Cow;

use annals_commands::auth::{self as commands, Credential, SignIn, SignedIn};
use annals_commands::session::IssuedTokens;
use annals_commands::user::{Register, Registered};
use annals_commands::{CommandError, PasswordPolicy};
use annals_domain::{Actor, ClaimScope, EmailAddress, RevocationReason, Timestamp, UserId, Username};
use annals_eventstore::Position;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::cookie;
use crate::extract::{
    AnyJson, Caller, Json, MaybeCaller, MemberFault, Members, MinPosition, OptionalJson, Prefer, Stranger,
};
use crate::problem::{Problem, ProblemBody};
use crate::routes::mfa::{self, SecondFactorBody};
use crate::routes::organization::{MembershipBody, OrganizationBody, memberships};
use crate::routes::session::{self, MessageOnly};
use crate::routes::user::{UserBody, check_name};
use crate::settle::{Settled, models};

/// Routes below `/api/v1/auth`.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(sign_in))
        .routes(routes!(refresh))
        .routes(routes!(sign_out))
        .routes(routes!(show_me))
        .routes(routes!(change_password_and_sign_out))
        .routes(routes!(reset_password))
}

/// Registration. `full_name` or `organization_name` asks for the rules and the answer of the FastAPI document: no tokens.
/// Without them tokens and a session come at once. Other members are ignored, privileged ones too.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contracts' answers"
)]
pub(crate) struct RegisterBody {
    /// Mail address; kept in lower case.
    email: String,
    /// At least 8 characters.
    password: String,
    /// Name for people to read, 2 to 100 characters.
    full_name: Option<String>,
    /// Name of the organization to found, at least 2 characters.
    organization_name: Option<String>,
    /// As `full_name`, in the other shape.
    name: Option<String>,
    /// As `organization_name`, in the other shape.
    organization: Option<String>,
    /// Name to sign in with; derived from the mail address when absent.
    username: Option<String>,
}

/// Answer to a registration: the account, and tokens where the request's shape asks for them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RegisteredBody {
    success: bool,
    data: UserBody,
    #[schema(value_type = String)]
    message: &'static str,
    user: UserBody,
    organization: Option<OrganizationBody>,
    organizations: Vec<MembershipBody>,
    #[serde(flatten)]
    names: AccountNames,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    granted: Option<GrantedBody>,
}

/// The members that the ModulaCMS document puts at the top.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountNames {
    /// The account's id as a ULID.
    user_id: String,
    email: Option<String>,
    username: Option<String>,
    /// Whole seconds.
    #[schema(format = "date-time")]
    created_at: String,
}

impl AccountNames {
    fn of(user: &UserBody) -> Self {
        Self {
            user_id: user.id.to_ulid(),
            email: user.email.clone(),
            username: user.username.clone(),
            created_at: user.created_at.to_rfc3339_seconds(),
        }
    }
}

/// Tokens at the top, as SDKs of the Aragora document read them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GrantedBody {
    access_token: String,
    refresh_token: String,
    #[schema(value_type = String)]
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    tokens: TokensBody,
}

/// Tokens as the Aragora document has them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TokensBody {
    access_token: String,
    refresh_token: String,
    #[schema(value_type = String)]
    token_type: &'static str,
    /// Seconds.
    expires_in: u64,
    #[schema(value_type = String, format = "date-time")]
    expires_at: Timestamp,
}

/// Tokens as the FastAPI document has them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenBody {
    access_token: String,
    refresh_token: String,
    #[schema(value_type = String)]
    token_type: &'static str,
}

/// Tokens of a sign-in or refresh, and the lifetime of the access token.
struct Granted {
    access_token: String,
    refresh_token: String,
    expires_in: u64,
    expires_at: Timestamp,
}

impl Granted {
    fn of(app: &AppState, tokens: &IssuedTokens) -> Self {
        // Begun seconds count: what was promised does not become less while the answer is written.
        let left = tokens
            .access_expires_at
            .unix_micros()
            .saturating_sub(app.commands().now().unix_micros())
            .saturating_add(999_999)
            / 1_000_000;
        Self {
            access_token: tokens.access_token.clone(),
            refresh_token: tokens.refresh_token.clone().unwrap_or_default(),
            expires_in: u64::try_from(left).unwrap_or(0),
            expires_at: tokens.access_expires_at,
        }
    }

    fn tokens(&self) -> TokensBody {
        TokensBody {
            access_token: self.access_token.clone(),
            refresh_token: self.refresh_token.clone(),
            token_type: "Bearer",
            expires_in: self.expires_in,
            expires_at: self.expires_at,
        }
    }

    fn token(&self) -> TokenBody {
        TokenBody {
            access_token: self.access_token.clone(),
            refresh_token: self.refresh_token.clone(),
            token_type: "bearer",
        }
    }

    fn at_the_top(&self) -> GrantedBody {
        GrantedBody {
            access_token: self.access_token.clone(),
            refresh_token: self.refresh_token.clone(),
            token_type: "Bearer",
            expires_in: self.expires_in,
            tokens: self.tokens(),
        }
    }
}

/// Register an account.
#[utoipa::path(post, path = "/register", tag = "auth", request_body = RegisterBody,
    responses((status = 201, body = RegisteredBody), (status = 202, description = "When registration conceals existing accounts"),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn register(
    State(app): State<AppState>,
    Stranger(caller): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let asks_for_profile = ["full_name", "organization_name"]
        .iter()
        .any(|member| body.get(member).is_some());
    let shape = if asks_for_profile {
        Shape::Profile
    } else {
        Shape::Tokens
    };
    let wanted = Registration::read(&Members::of(body, shape.fault())?, shape)?;
    let conceal = app.config().registration.conceal_existing;
    let role = app.config().registration.role;
    let sign_in = match shape {
        Shape::Tokens if !conceal => Some(app.commands().settings().opaque_sign_in()),
        Shape::Tokens | Shape::Profile => None,
    };
    let register = Register {
        email: wanted.email,
        password: wanted.password,
        policy: PasswordPolicy::NONE, // checked above, in the words of the shape
        name: wanted.name,
        username: wanted.username,
        organization_name: wanted.organization_name,
        role,
        sign_in,
    };
    let registered = annals_commands::user::register(&app.on_behalf_of(&caller), register).await;
    if conceal {
        return concealed(&app, registered, prefer).await;
    }
    let registered = registered.map_err(taken)?;
    let settled = app.settle(models::IDENTITY, registered.position, prefer).await;
    let organization_id = registered.organization.as_ref().map(|(id, _)| *id);
    let user = UserBody::of_state(registered.user_id, &registered.user, organization_id);
    let organizations: Vec<_> = registered
        .organization
        .map(|(id, state)| MembershipBody::of_founder(user.id, id, state))
        .into_iter()
        .collect();
    let granted = registered
        .signed_in
        .as_ref()
        .map(|signed_in| Granted::of(&app, &signed_in.tokens));
    let answer = RegisteredBody {
        success: true,
        data: user.clone(),
        message: "User registered successfully. Please check your email to verify your account.",
        organization: organizations.first().map(|membership| membership.organization.clone()),
        organizations,
        names: AccountNames::of(&user),
        user,
        granted: granted.as_ref().map(Granted::at_the_top),
    };
    Ok((StatusCode::CREATED, settled, Json(answer)).into_response())
}

/// Which document's rules a registration keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// FastAPI: profile without tokens, faults are 422.
    Profile,
    /// Aragora and ModulaCMS: tokens at once, faults are 400.
    Tokens,
}

impl Shape {
    const fn fault(self) -> MemberFault {
        match self {
            Self::Profile => MemberFault::Unprocessable,
            Self::Tokens => MemberFault::BadRequest,
        }
    }
}

/// A registration that keeps the rules of its shape.
struct Registration {
    email: EmailAddress,
    password: SecretString,
    name: String,
    username: Option<Username>,
    organization_name: Option<String>,
}

impl Registration {
    /// All faults at once; the first one gives the message.
    fn read(members: &Members, shape: Shape) -> Result<Self, Problem> {
        let fault = shape.fault();
        let mut faults: Vec<Problem> = Vec::new();
        let mut keep = |result: Result<(), Problem>| {
            if let Err(problem) = result {
                faults.push(problem);
            }
        };
        let mut email = None;
        keep(members.text("email", fault).and_then(|text| {
            let parsed = EmailAddress::parse(text).map_err(|error| fault.on("email", format!("email: {}", error.rule)));
            parsed.map(|address| email = Some(address))
        }));
        let mut password = None;
        keep(members.text("password", fault).and_then(|text| {
            check_password(text, shape).map_err(|rule| fault.on("password", format!("password: {rule}")))?;
            password = Some(SecretString::from(text));
            Ok(())
        }));
        let mut name = String::new();
        let mut organization_name = None;
        match shape {
            Shape::Profile => {
                keep(members.text("full_name", fault).and_then(|text| {
                    name = check_name(text).map_err(|rule| fault.on("full_name", rule))?;
                    Ok(())
                }));
                keep(members.text("organization_name", fault).and_then(|text| {
                    organization_name = Some(check_organization("organization_name", text, fault)?);
                    Ok(())
                }));
            }
            Shape::Tokens => {
                keep(members.optional_text("name", fault).and_then(|text| {
                    let text = text.unwrap_or_default().trim();
                    if text.chars().count() > 100 || text.chars().any(char::is_control) {
                        return Err(fault.on(
                            "name",
                            "name: must have at most 100 characters and no control characters",
                        ));
                    }
                    text.clone_into(&mut name);
                    Ok(())
                }));
                keep(members.optional_text("organization", fault).and_then(|text| {
                    if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
                        organization_name = Some(check_organization("organization", text, fault)?);
                    }
                    Ok(())
                }));
            }
        }
        let mut username = None;
        keep(members.optional_text("username", fault).and_then(|text| {
            if let Some(text) = text {
                let parsed = Username::parse(text);
                username = Some(parsed.map_err(|error| fault.on("username", format!("username: {}", error.rule)))?);
            }
            Ok(())
        }));
        match (email, password) {
            (Some(email), Some(password)) if faults.is_empty() => Ok(Self {
                email,
                password,
                name,
                username,
                organization_name,
            }),
            _ => {
                let errors: Vec<Value> = faults
                    .iter()
                    .map(|problem| json!({ "field": problem.field(), "message": problem.message() }))
                    .collect();
                let first = faults
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| Problem::of_status(StatusCode::BAD_REQUEST));
                Err(first.with_details(json!({ "errors": errors })))
            }
        }
    }
}

pub(crate) fn check_organization(member: &'static str, text: &str, fault: MemberFault) -> Result<String, Problem> {
    let name = text.trim();
    let length = name.chars().count();
    if !(2..=200).contains(&length) || name.chars().any(char::is_control) {
        return Err(fault.on(
            member,
            format!("{member}: must have 2 to 200 characters and no control characters"),
        ));
    }
    Ok(name.to_owned())
}

/// Fewest characters of a password that a registration here chooses.
const SHORTEST_PASSWORD: usize = 8;
/// Most characters of one in the shape of the Aragora document.
const LONGEST_PASSWORD: usize = 128;

/// What nobody may choose in the shape of the Aragora document, in lower case: of the most used ones, those that are long
/// enough.
const COMMON_PASSWORDS: &[&str] = &[
    "password",
    "password1",
    "password12",
    "password123",
    "password1234",
    "password!",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "12345678",
    "123456789",
    "1234567890",
    "0987654321",
    "87654321",
    "11111111",
    "00000000",
    "88888888",
    "12341234",
    "123123123",
    "123321123",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "1qaz2wsx",
    "qwertyui",
    "qwertyuiop",
    "qwerty12",
    "qwerty123",
    "qwerty1234",
    "asdfghjk",
    "asdfghjkl",
    "zxcvbnm1",
    "abcd1234",
    "abc12345",
    "abcdefgh",
    "a1b2c3d4",
    "aa123456",
    "iloveyou",
    "iloveyou1",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "starwars",
    "trustno1",
    "whatever",
    "welcome1",
    "welcome123",
    "letmein1",
    "letmein123",
    "changeme",
    "changeme123",
    "administrator",
    "admin123",
    "admin1234",
    "computer",
    "internet",
    "michelle",
    "jennifer",
    "corvette",
    "maverick",
    "mercedes",
    "mustang1",
];

/// The rule that a password to register with breaks, if any. The FastAPI document asks for 8 characters; the Aragora
/// document also refuses long, blank and common ones. Its four kinds of characters are not asked for: they make
/// passwords worse (NIST SP 800-63B), and clients of the ModulaCMS document, who use the same shape, know no such rule.
fn check_password(password: &str, shape: Shape) -> Result<(), &'static str> {
    let length = password.chars().count();
    if length < SHORTEST_PASSWORD {
        return Err("must have at least 8 characters");
    }
    if password.len() > annals_commands::services::password::MAX_PASSWORD_BYTES {
        return Err("must have at most 1024 bytes");
    }
    if shape == Shape::Profile {
        return Ok(());
    }
    if length > LONGEST_PASSWORD {
        return Err("must have at most 128 characters");
    }
    if password.trim().is_empty() {
        return Err("must not be blank");
    }
    if COMMON_PASSWORDS.contains(&password.to_lowercase().as_str()) {
        return Err("is one of the most used passwords");
    }
    Ok(())
}

/// The refusals that the documents state for a taken address.
pub(crate) fn taken(error: CommandError) -> Problem {
    match &error {
        CommandError::Taken { scopes } if scopes.contains(&ClaimScope::Email) => Problem::new(
            StatusCode::CONFLICT,
            "AUTH_EMAIL_EXISTS",
            "A user with this email address already exists.",
        )
        .on("email"),
        CommandError::Taken { scopes } if scopes.contains(&ClaimScope::Username) => Problem::new(
            StatusCode::CONFLICT,
            "AUTH_USERNAME_EXISTS",
            "A user with this username already exists.",
        )
        .on("username"),
        _ => error.into(),
    }
}

/// One answer for new and for taken addresses: no status, body or header tells them apart.
async fn concealed(
    app: &AppState,
    registered: Result<Registered, CommandError>,
    prefer: Prefer,
) -> Result<Response, Problem> {
    match registered {
        Ok(registered) => {
            let _ = app.settle(models::IDENTITY, registered.position, prefer).await;
        }
        Err(error) => {
            let problem = taken(error);
            if problem.code() != "AUTH_EMAIL_EXISTS" {
                return Err(problem);
            }
        }
    }
    let message = "If this address can be registered, it now is. Please check your email.";
    Ok((
        StatusCode::ACCEPTED,
        Json(json!({ "success": true, "data": null, "message": message })),
    )
        .into_response())
}

/// Sign-in.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contracts' answers"
)]
pub(crate) struct SignInBody {
    /// Mail address.
    email: String,
    /// Password.
    password: String,
    /// Code of the second factor, for a sign-in in one part; ignored where none is asked for.
    mfa_code: Option<String>,
}

/// Answer to a sign-in: a session, or where a second factor is asked for, a token to go on with at `/mfa/verify`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes the answer; the handler sends one of its two forms")]
pub(crate) enum SignInAnswer {
    /// A session.
    SignedIn(Box<SignedInBody>),
    /// A second factor is asked for.
    SecondFactor(SecondFactorBody),
}

/// Answer to a sign-in: the union of the documents' bodies.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedInBody {
    success: bool,
    #[schema(value_type = String)]
    message: &'static str,
    /// The access token.
    token: String,
    user: UserBody,
    organization: Option<OrganizationBody>,
    organizations: Vec<MembershipBody>,
    data: SignedInData,
    #[serde(flatten)]
    granted: GrantedBody,
    #[serde(flatten)]
    names: AccountNames,
}

/// Member `data` as the FastAPI document has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedInData {
    token: TokenBody,
    user: UserBody,
}

/// Sign in with mail address and password. Opens a session; browsers get it as a cookie too.
#[utoipa::path(post, path = "/login", tag = "auth", request_body = SignInBody,
    params(("X-Device-ID" = Option<String>, Header), ("X-Device-Name" = Option<String>, Header),
        ("X-Device-Type" = Option<String>, Header, description = "mobile, tablet, desktop")),
    responses((status = 200, body = SignInAnswer), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn sign_in(
    State(app): State<AppState>,
    Stranger(stranger): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let (email, password) = read_sign_in(&members)?;
    let code = mfa::text(&members, "mfa_code")?.filter(|code| !code.is_empty());
    let options = app.commands().settings().opaque_sign_in();
    let credential = Credential::Email(email.as_str());
    let done = commands::sign_in_in_parts(&app.on_behalf_of(&stranger), credential, &password, code, options).await;
    match done.map_err(wrong_credentials)? {
        SignIn::Opened(opened) => {
            let message = "Login successful";
            let (settled, cookie, body) = signed_in(&app, stranger, prefer, *opened, message).await?;
            Ok((settled, AppendHeaders([(SET_COOKIE, cookie)]), Json(body)).into_response())
        }
        SignIn::SecondFactor(wanted) => Ok(Json(SecondFactorBody::of(&app, &wanted)).into_response()),
    }
}

/// The answer to a sign-in that has opened a session, and the cookie that goes with it.
pub(crate) async fn signed_in(
    app: &AppState,
    stranger: annals_domain::Caller,
    prefer: Prefer,
    signed_in: SignedIn,
    message: &'static str,
) -> Result<(Settled, HeaderValue, SignedInBody), Problem> {
    let settled = app.settle(models::IDENTITY, signed_in.position, prefer).await;
    let granted = Granted::of(app, &signed_in.tokens);
    let user = UserBody::of_state(signed_in.user_id, &signed_in.user, signed_in.organization_id);
    let mine = annals_domain::Caller {
        actor: Actor::User(user.id),
        role: Some(user.role),
        ..stranger
    };
    let organizations = organizations_of(app, &mine, user.id).await?;
    let answer = SignedInBody {
        success: true,
        message,
        token: granted.access_token.clone(),
        organization: organizations.first().map(|membership| membership.organization.clone()),
        organizations,
        data: SignedInData {
            token: granted.token(),
            user: user.clone(),
        },
        granted: granted.at_the_top(),
        names: AccountNames::of(&user),
        user,
    };
    let cookie = cookie::give(&app.config().cookie, &granted.access_token, granted.expires_in);
    Ok((settled, cookie, answer))
}

/// A missing member is 400 in the words of the Aragora document; a wrong one is 422 (FastAPI).
fn read_sign_in(members: &Members) -> Result<(EmailAddress, SecretString), Problem> {
    let fault = MemberFault::Unprocessable;
    let required = |member| -> Result<&str, Problem> {
        members
            .optional_text(member, fault)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Problem::bad_field(member, "Email and password required"))
    };
    let (email, password) = (required("email")?, required("password")?);
    let email = EmailAddress::parse(email).map_err(|error| fault.on("email", format!("email: {}", error.rule)))?;
    Ok((email, SecretString::from(password)))
}

/// One answer for every reason why a password does not open an account.
fn wrong_credentials(error: CommandError) -> Problem {
    match error.code() {
        commands::INVALID_CREDENTIALS => Problem::new(
            StatusCode::UNAUTHORIZED,
            "AUTH_INVALID_CREDENTIALS",
            "Invalid credentials",
        ),
        // The rest is said only to whoever knows the password.
        annals_commands::mfa::CODE_INVALID => {
            Problem::new(StatusCode::UNAUTHORIZED, "AUTH_INVALID_MFA_CODE", "Invalid MFA code").on("mfa_code")
        }
        commands::USER_DISABLED => Problem::from(error).with_status(StatusCode::FORBIDDEN),
        _ => error.into(),
    }
}

/// Refresh.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contracts' answers"
)]
pub(crate) struct RefreshBody {
    /// The refresh token of the last sign-in or refresh.
    refresh_token: String,
}

/// Answer to a refresh: the union of the documents' bodies.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RefreshedBody {
    success: bool,
    data: TokenBody,
    #[schema(value_type = String)]
    message: &'static str,
    #[serde(flatten)]
    granted: GrantedBody,
}

/// Exchange a refresh token for new tokens of the same session. The old refresh token is unknown at once.
#[utoipa::path(post, path = "/refresh", tag = "auth", request_body = RefreshBody,
    responses((status = 200, body = RefreshedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn refresh(
    State(app): State<AppState>,
    headers: HeaderMap,
    Stranger(caller): Stranger,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::Unprocessable)?;
    let token = members.text("refresh_token", MemberFault::Unprocessable)?;
    let refreshed = annals_commands::session::refresh(&app.on_behalf_of(&caller), token).await;
    let refreshed = refreshed.map_err(unusable_refresh_token)?;
    let settled = app.settle(models::SESSION, refreshed.position, prefer).await;
    let granted = Granted::of(&app, &refreshed.tokens);
    let answer = RefreshedBody {
        success: true,
        data: granted.token(),
        message: "Token refreshed successfully",
        granted: granted.at_the_top(),
    };
    // A browser's cookie would end with the token it holds; other clients never asked for one.
    let config = &app.config().cookie;
    let cookie = cookie::value(&headers, config).map(|_| {
        (
            SET_COOKIE,
            cookie::give(config, &granted.access_token, granted.expires_in),
        )
    });
    Ok((settled, AppendHeaders(cookie), Json(answer)).into_response())
}

/// Only faults of the token are 401: an outage must not sign everybody out.
fn unusable_refresh_token(error: CommandError) -> Problem {
    let is_about_the_token = matches!(error, CommandError::Token(_)) || error.code() == "session.refresh_limit";
    if is_about_the_token {
        return Problem::new(
            StatusCode::UNAUTHORIZED,
            "AUTH_INVALID_REFRESH_TOKEN",
            "Invalid or expired refresh token",
        );
    }
    error.into()
}

/// Sign-out; every member may be absent, and the body too.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contracts' answers"
)]
pub(crate) struct SignOutBody {
    /// Which session; absent: the current one.
    session_id: Option<String>,
    /// All of one's own sessions.
    revoke_all_sessions: Option<bool>,
}

/// Answers that only say what happened, under the names of all documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageData {
    success: bool,
    data: MessageOnly,
    #[schema(value_type = String)]
    message: Cow<'static, str>,
}

impl MessageData {
    pub(crate) fn new(data: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            success: true,
            data: MessageOnly { message: data.into() },
            message: message.into(),
        }
    }
}

/// Sign out: the current session, a named one, or all. Without any credentials nothing is done, and that is no error.
#[utoipa::path(post, path = "/logout", tag = "auth", request_body = SignOutBody,
    security(("bearer" = []), ("cookie" = []), ()),
    responses((status = 200, body = MessageData), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn sign_out(
    State(app): State<AppState>,
    MaybeCaller(caller): MaybeCaller,
    prefer: Prefer,
    OptionalJson(body): OptionalJson,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::Unprocessable)?;
    let all = members.flag("revoke_all_sessions", MemberFault::Unprocessable)?;
    let named = members
        .optional_text("session_id", MemberFault::Unprocessable)?
        .filter(|text| !text.is_empty());
    let forget = AppendHeaders([
        (SET_COOKIE, cookie::take_away(&app.config().cookie)),
        cookie::CLEAR_SITE_DATA,
    ]);
    let signed_out = "Logged out successfully";
    let Some(user_id) = caller.user_id() else {
        return Ok((forget, Json(MessageData::new(signed_out, signed_out))).into_response());
    };
    let (position, message) = if all {
        let cx = app.on_behalf_of(&caller);
        let done = annals_commands::session::revoke_all(&cx, user_id, RevocationReason::UserLogoutAll).await?;
        (
            done.position,
            Cow::Owned(format!("Logged out from all {} sessions", done.sessions)),
        )
    } else {
        let session_id = match named {
            Some(text) => text.parse().map_err(|_| session::no_such_session())?,
            None => caller
                .session_id
                .ok_or_else(|| Problem::bad_request("Session ID not found in token or request"))?,
        };
        let position = session::revoke(&app, &caller, session_id, RevocationReason::UserLogout).await?;
        (position, Cow::Borrowed(signed_out))
    };
    let settled = app.settle(models::SESSION, position, prefer).await;
    Ok((settled, forget, Json(MessageData::new(message.clone(), message))).into_response())
}

/// Whoever is signed in, with the members of both documents that have this path.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeBody {
    success: bool,
    data: UserBody,
    user: UserBody,
    organization: Option<OrganizationBody>,
    organizations: Vec<MembershipBody>,
    #[serde(flatten)]
    names: AccountNames,
    name: Option<String>,
    #[schema(value_type = String, example = "viewer")]
    role: annals_domain::Role,
}

/// Whoever is signed in.
#[utoipa::path(get, path = "/me", tag = "auth", security(("bearer" = []), ("cookie" = [])),
    responses((status = 200, body = MeBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn show_me(
    State(app): State<AppState>,
    caller: Caller,
    min: MinPosition,
) -> Result<Json<MeBody>, Problem> {
    app.reach(models::IDENTITY, min).await?;
    let user_id = caller.require_user()?;
    let row = annals_projections::user::by_id(&caller, app.database(), user_id).await?;
    let row = row.ok_or_else(|| Problem::unavailable(1, "The account is not shown yet."))?;
    let organizations = organizations_of(&app, &caller, user_id).await?;
    let user = UserBody::of_row(row, caller.organization_id);
    Ok(Json(MeBody {
        success: true,
        data: user.clone(),
        organization: organizations.first().map(|membership| membership.organization.clone()),
        organizations,
        names: AccountNames::of(&user),
        name: user.name.clone(),
        role: user.role,
        user,
    }))
}

/// Change of one's own password.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contracts' answers"
)]
pub(crate) struct ChangePassword {
    /// The present password.
    current_password: String,
    /// The new one: at least 8 characters, upper and lower case, digit, special character. `password` is read too.
    new_password: String,
}

/// Which sessions end with a change of password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All but the one that changes it.
    Others,
    /// All.
    All,
}

/// Answer to a change of password that has ended all sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PasswordChangedBody {
    success: bool,
    data: MessageOnly,
    #[schema(value_type = String)]
    message: &'static str,
    sessions_invalidated: bool,
}

/// Change one's own password and end all sessions, this one too.
#[utoipa::path(post, path = "/password", tag = "auth", security(("bearer" = []), ("cookie" = [])),
    request_body = ChangePassword,
    responses((status = 200, body = PasswordChangedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_password_and_sign_out(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    change_and_end_all(&app, &caller, prefer, body).await
}

/// The same as `POST /password`, where the ModulaCMS document has it. It never sets anybody else's.
#[utoipa::path(post, path = "/reset", tag = "auth", security(("bearer" = []), ("cookie" = [])),
    request_body = ChangePassword,
    responses((status = 200, body = PasswordChangedBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn reset_password(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    AnyJson(body): AnyJson,
) -> Result<Response, Problem> {
    change_and_end_all(&app, &caller, prefer, body).await
}

async fn change_and_end_all(
    app: &AppState,
    caller: &annals_domain::Caller,
    prefer: Prefer,
    body: Value,
) -> Result<Response, Problem> {
    let members = Members::of(body, MemberFault::BadRequest)?;
    let position = change_password(app, caller, &members, MemberFault::BadRequest, Ended::All).await?;
    let settled: Settled = app.settle(models::SESSION, position, prefer).await;
    let message = "Password changed successfully";
    let body = PasswordChangedBody {
        success: true,
        data: MessageOnly {
            message: message.into(),
        },
        message,
        sessions_invalidated: true,
    };
    let forget = AppendHeaders([(SET_COOKIE, cookie::take_away(&app.config().cookie))]);
    Ok((settled, forget, Json(body)).into_response())
}

/// The one command behind all paths that change a password.
pub(crate) async fn change_password(
    app: &AppState,
    caller: &annals_domain::Caller,
    members: &Members,
    fault: MemberFault,
    ended: Ended,
) -> Result<Position, Problem> {
    let current = members.text("current_password", fault)?;
    let member = if members.has("new_password") || !members.has("password") {
        "new_password"
    } else {
        "password"
    };
    let new = members.text(member, fault)?;
    let change = commands::ChangePassword {
        current: SecretString::from(current),
        new: SecretString::from(new),
        policy: PasswordPolicy::CHANGE,
        keep_current_session: ended == Ended::Others,
    };
    match commands::change_password(&app.on_behalf_of(caller), change).await {
        Ok(done) => Ok(done.position),
        // A rule about the text of the new password is the contract's own kind of fault; the rest is 400 everywhere.
        Err(error) if error.field() == Some("new_password") && error.code() != commands::PASSWORD_UNCHANGED => {
            Err(fault.on(member, format!("{member}: {error}")))
        }
        Err(error) => Err(error.into()),
    }
}

async fn organizations_of(
    app: &AppState,
    caller: &annals_domain::Caller,
    user_id: UserId,
) -> Result<Vec<MembershipBody>, Problem> {
    let rows = annals_projections::organization::of_user(caller, app.database(), user_id).await?;
    Ok(memberships(user_id, rows))
}
