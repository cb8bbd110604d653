//! The Django contract under `/api/auth/<x>/`: its literals, its order of checks, its framework's manners.
//!
//! Every view authenticates before anything else, as the framework does: a bad `Authorization` header makes even
//! registration and sign-in answer 401. Cookies count for nothing here. Where the origin answers 500 (a list as body, a
//! number as name) this answers 400; an empty password, which the origin stores and never accepts again, is refused.

use annals_commands::auth::{self, AuthFailure, Credential, SignIn};
use annals_commands::user::Register;
use annals_commands::{CommandError, PasswordPolicy, TokenFault};
use annals_domain::{Caller, ClaimKey, ClaimScope, EmailAddress, Personal, User, UserId, Username};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts as _, Multipart, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, VARY, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::app::AppState;
use crate::extract::{Prefer, anonymous, check_json_text, must_be_verified, read_body, verify_token};
use crate::middleware::idempotency::Exchange;
use crate::problem::Problem;
use crate::routes::mfa::LONGEST_CODE;
use crate::settle::models;

/// Routes at the root, trailing slash and all.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(register).map(|methods| methods.fallback(other_method)))
        .routes(routes!(sign_in).map(|methods| methods.fallback(other_method)))
        .routes(routes!(refresh_token).map(|methods| methods.fallback(other_method)))
        .routes(routes!(verify_token_of_either_kind).map(|methods| methods.fallback(other_method)))
        .routes(routes!(show_me).map(|methods| methods.fallback(other_method)))
}

/// What the framework knows about one view.
#[derive(Debug, Clone, Copy)]
struct View {
    /// As the framework derives it from the name of the class.
    name: &'static str,
    allow: &'static str,
    needs_user: bool,
}

const REGISTER: View = View {
    name: "Register Api",
    allow: "POST, OPTIONS",
    needs_user: false,
};
const SIGN_IN: View = View {
    name: "Login Api",
    allow: "POST, OPTIONS",
    needs_user: false,
};
const REFRESH: View = View {
    name: "Token Refresh Api",
    allow: "POST, OPTIONS",
    needs_user: false,
};
const VERIFY: View = View {
    name: "Token Verify Api",
    allow: "POST, OPTIONS",
    needs_user: false,
};
const ME: View = View {
    name: "Me Api",
    allow: "GET, HEAD, OPTIONS",
    needs_user: true,
};

impl View {
    /// By path, for methods that no handler takes.
    fn of(path: &str) -> Option<Self> {
        match path {
            "/api/auth/register/" => Some(REGISTER),
            "/api/auth/login/" => Some(SIGN_IN),
            "/api/auth/token/refresh/" => Some(REFRESH),
            "/api/auth/token/verify/" => Some(VERIFY),
            "/api/auth/me/" => Some(ME),
            _ => None,
        }
    }

    /// An answer of this view: every one carries `Allow` and `Vary`.
    fn answer(self, status: StatusCode, body: impl Serialize) -> Response {
        let mut response = (status, axum::Json(body)).into_response();
        self.sign(&mut response);
        response
    }

    fn refuse(self, status: StatusCode, detail: &str) -> Response {
        self.answer(status, json!({ "detail": detail }))
    }

    /// 401 by the framework, which challenges; the view's own 401s do not.
    fn challenge(self, body: Value) -> Response {
        let mut response = self.answer(StatusCode::UNAUTHORIZED, body);
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"api\""));
        response
    }

    /// A refusal that the contract has no words for.
    fn problem(self, problem: impl Into<Problem>) -> Response {
        let mut response = problem.into().into_response();
        self.sign(&mut response);
        response
    }

    fn sign(self, response: &mut Response) {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(self.allow));
        response
            .headers_mut()
            .insert(VARY, HeaderValue::from_static("Accept, origin"));
    }

    /// What happens before any handler: the switch, authentication, permission.
    async fn enter(self, app: &AppState, parts: &mut Parts) -> Result<Entered, Response> {
        if !app.config().contracts.django {
            return Err(self.refuse(StatusCode::NOT_FOUND, "Not found."));
        }
        let stranger = anonymous(&parts.headers, &parts.extensions);
        let prefer = match Prefer::from_request_parts(parts, app).await {
            Ok(prefer) => prefer,
            Err(problem) => return Err(self.problem(problem)),
        };
        let token = match presented(parts) {
            Ok(token) => token,
            Err(()) => {
                return Err(self.challenge(json!({
                    "detail": "Authorization header must contain two space-delimited values",
                    "code": "bad_authorization_header",
                })));
            }
        };
        let caller = match token {
            None if self.needs_user => {
                return Err(self.challenge(json!({ "detail": "Authentication credentials were not provided." })));
            }
            None => stranger.clone(),
            Some(token) => match verify_token(app, stranger.clone(), &token).await {
                Ok(caller) => caller,
                Err(failure) => return Err(self.not_valid(failure)),
            },
        };
        // Views that need no user act for nobody known, whatever valid token came along.
        let asking = if self.needs_user { &caller } else { &stranger };
        if let Err(problem) = Exchange::bind(app, &parts.extensions, asking).await {
            return Err(self.problem(problem));
        }
        if self.needs_user
            && let Err(problem) = must_be_verified(app, &caller).await
        {
            return Err(self.problem(problem));
        }
        Ok(Entered { caller, prefer })
    }

    fn not_valid(self, failure: AuthFailure) -> Response {
        let message = match failure {
            AuthFailure::UserGone => {
                return self.challenge(json!({ "detail": "User not found for given token" }));
            }
            AuthFailure::Unchecked(error) => return self.problem(*error),
            AuthFailure::Expired => "Token is expired",
            AuthFailure::WrongType => "Token has wrong type",
            AuthFailure::Missing | AuthFailure::Malformed | AuthFailure::Invalid => "Token is invalid",
        };
        self.challenge(json!({
            "detail": "Given token not valid for any token type",
            "code": "token_not_valid",
            "messages": [{ "token_class": "AccessToken", "token_type": "access", "message": message }],
        }))
    }
}

/// A request that has passed a view's door.
struct Entered {
    caller: Caller,
    prefer: Prefer,
}

/// The token of the `Authorization` header. The scheme is compared with regard to case, and another one counts as absent;
/// of ours, anything but two parts is a fault.
fn presented(parts: &Parts) -> Result<Option<String>, ()> {
    let Some(header) = parts.headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(header.as_bytes());
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words.as_slice() {
        ["Bearer", token] => Ok(Some((*token).to_owned())),
        ["Bearer", ..] => Err(()),
        _ => Ok(None),
    }
}

/// Methods that a view has no handler for: `OPTIONS` describes the view, everything else is 405. Both come after
/// authentication.
async fn other_method(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let Some(view) = View::of(parts.uri.path()) else {
        return Problem::not_found("Not found.").into_response();
    };
    if let Err(refusal) = view.enter(&app, &mut parts).await {
        return refusal;
    }
    if parts.method == Method::OPTIONS {
        return view.answer(
            StatusCode::OK,
            json!({
                "name": view.name,
                "description": "",
                "renders": ["application/json"],
                "parses": ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"],
            }),
        );
    }
    let method = parts.method.as_str();
    view.refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("Method \"{method}\" not allowed."),
    )
}

/// The body as the framework's parsers read it. What is false in its language counts as the empty object.
async fn data(app: &AppState, view: View, parts: Parts, body: Body) -> Result<Map<String, Value>, Response> {
    let bytes = read_body(body).await.map_err(|problem| view.problem(problem))?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    let media_type = parts
        .headers
        .get(CONTENT_TYPE)
        .map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
    let media_type = media_type.unwrap_or_default();
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => json_data(app, view, &bytes).map_err(|refusal| *refusal),
        "application/x-www-form-urlencoded" => form_data(view, parts, bytes).await,
        "multipart/form-data" => multipart_data(view, parts, bytes).await,
        _ => {
            let detail = format!("Unsupported media type \"{media_type}\" in request.");
            Err(view.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &detail))
        }
    }
}

fn json_data(app: &AppState, view: View, bytes: &Bytes) -> Result<Map<String, Value>, Box<Response>> {
    let malformed = |what: &str| Box::new(view.refuse(StatusCode::BAD_REQUEST, &format!("JSON parse error - {what}")));
    check_json_text(bytes, app.config().server.max_json_depth).map_err(|problem| match problem.field() {
        // The one fault of text that has a place: the framework's own validator words it so.
        Some(member) => Box::new(view.answer(
            StatusCode::BAD_REQUEST,
            json!({ member: ["Null characters are not allowed."] }),
        )),
        None => malformed(problem.message()),
    })?;
    let value: Value = serde_json::from_slice(bytes).map_err(|error| malformed(&error.to_string()))?;
    match value {
        Value::Object(members) => Ok(members),
        value if is_falsy(Some(&value)) => Ok(Map::new()),
        value => {
            let kind = match value {
                Value::Array(_) => "list",
                Value::String(_) => "str",
                Value::Bool(_) => "bool",
                Value::Number(number) if number.is_f64() => "float",
                _ => "int",
            };
            let detail = format!("Invalid data. Expected a dictionary, but got {kind}.");
            Err(Box::new(view.refuse(StatusCode::BAD_REQUEST, &detail)))
        }
    }
}

async fn form_data(view: View, parts: Parts, bytes: Bytes) -> Result<Map<String, Value>, Response> {
    // The extractor reads forms from the body of POST only, and this contract has no other forms.
    let request = Request::from_parts(parts, Body::from(bytes));
    match axum::Form::<Vec<(String, String)>>::from_request(request, &()).await {
        // Of a repeated member the last one counts.
        Ok(axum::Form(pairs)) => Ok(pairs
            .into_iter()
            .map(|(name, text)| (name, Value::String(text)))
            .collect()),
        Err(_) => Err(view.refuse(StatusCode::BAD_REQUEST, "The form cannot be read.")),
    }
}

async fn multipart_data(view: View, parts: Parts, bytes: Bytes) -> Result<Map<String, Value>, Response> {
    let malformed = |what: &str| view.refuse(StatusCode::BAD_REQUEST, &format!("Multipart form parse error - {what}"));
    let request = Request::from_parts(parts, Body::from(bytes));
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|_| malformed("Invalid boundary"))?;
    let mut members = Map::new();
    while let Some(field) = form.next_field().await.map_err(|_| malformed("Invalid part"))? {
        let Some(name) = field.name().map(str::to_owned) else {
            continue;
        };
        let is_file = field.file_name().is_some();
        let text = field.text().await.map_err(|_| malformed("Invalid part"))?;
        // A file is there, but is no text; no view wants one.
        members.insert(
            name,
            if is_file {
                Value::Bool(true)
            } else {
                Value::String(text)
            },
        );
    }
    Ok(members)
}

/// What is false in the origin's language; absent counts as `None`.
fn is_falsy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Bool(true)) => false,
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
    }
}

/// The refusal for keys that are not there, in the order asked for.
fn missing(view: View, data: &Map<String, Value>, required: &[&str]) -> Option<Response> {
    let missing: Vec<&str> = required
        .iter()
        .copied()
        .filter(|key| !data.contains_key(*key))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let body = json!({ "message": "There is a Missing Field ...", "missing_fields": missing });
    Some(view.answer(StatusCode::BAD_REQUEST, body))
}

/// An account as this contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DjangoUser {
    #[schema(value_type = String)]
    id: UserId,
    username: Option<String>,
    email: Option<String>,
    /// UTC; microseconds at registration, milliseconds afterwards.
    #[schema(format = "date-time")]
    created_at: String,
}

impl DjangoUser {
    fn of(id: UserId, user: &User, time: fn(annals_domain::Timestamp) -> String) -> Self {
        Self {
            id,
            username: user.username.as_ref().and_then(Personal::get).map(ToString::to_string),
            email: user.email.as_ref().and_then(Personal::get).map(ToString::to_string),
            created_at: user.registered_at.map(time).unwrap_or_default(),
        }
    }
}

fn micros(at: annals_domain::Timestamp) -> String {
    at.to_string()
}

fn millis(at: annals_domain::Timestamp) -> String {
    at.to_rfc3339_millis()
}

/// Answer of this contract's sign-in, and with `message` of its registration.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DjangoTokens {
    user: DjangoUser,
    access: String,
    refresh: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    message: Option<&'static str>,
}

/// Registration under this contract.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct DjangoRegister {
    username: String,
    email: String,
    password: String,
    password_confirm: String,
}

/// Register; tokens come at once.
#[utoipa::path(post, path = "/api/auth/register/", tag = "django", operation_id = "django_register",
    request_body(content((DjangoRegister = "application/json"), (DjangoRegister = "application/x-www-form-urlencoded"))),
    responses((status = 201, body = DjangoTokens), (status = "4XX", description = "The contract's literals")))]
pub(crate) async fn register(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    match registered(&app, &mut parts, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn registered(app: &AppState, parts: &mut Parts, body: Body) -> Result<Response, Response> {
    let view = REGISTER;
    let entered = view.enter(app, parts).await?;
    let data = data(app, view, parts.clone(), body).await?;
    if let Some(refusal) = missing(view, &data, &["username", "email", "password", "password_confirm"]) {
        return Err(refusal);
    }
    if data["password"] != data["password_confirm"] {
        return Err(view.refuse(StatusCode::BAD_REQUEST, "Passwords do not match"));
    }
    let username = data["username"].as_str().and_then(|text| Username::parse(text).ok());
    let email = data["email"].as_str().and_then(|text| EmailAddress::parse(text).ok());
    let password = data["password"].as_str().filter(|text| !text.is_empty());
    let conceal = app.config().registration.conceal_existing;
    let (Some(username), Some(email), Some(password)) = (&username, &email, password) else {
        // What is taken is said before what is malformed.
        let (by_name, by_mail) = (username.map(|name| name.key()), email.map(|email| email.to_string()));
        let by_mail = by_mail.filter(|_| !conceal);
        for (scope, key) in [(ClaimScope::Username, by_name), (ClaimScope::Email, by_mail)] {
            let Some(key) = key else { continue };
            let owner = app.store().owner_of(scope, &ClaimKey::Personal(key)).await;
            if owner.map_err(|error| view.problem(error))?.is_some() {
                return Err(taken(view, &[scope]));
            }
        }
        return Err(view.refuse(StatusCode::BAD_REQUEST, "Failed to create user"));
    };
    // Whoever registers acts as nobody known, whatever valid token came along.
    let caller = anonymous(&parts.headers, &parts.extensions);
    let register = Register {
        email: email.clone(),
        password: SecretString::from(password),
        policy: PasswordPolicy::NONE,
        name: String::new(),
        username: Some(username.clone()),
        organization_name: None,
        role: app.config().registration.role,
        sign_in: (!conceal).then(|| app.commands().settings().signed_sign_in()),
    };
    const MESSAGE: &str = "User Created Successfully ...";
    // The same answer for new and for taken addresses; tokens would tell them apart.
    let concealed = || view.answer(StatusCode::ACCEPTED, json!({ "message": MESSAGE }));
    let registered = match annals_commands::user::register(&app.on_behalf_of(&caller), register).await {
        Ok(registered) => registered,
        Err(CommandError::Taken { scopes }) if conceal && scopes == [ClaimScope::Email] => return Ok(concealed()),
        Err(CommandError::Taken { scopes }) => return Err(taken(view, &scopes)),
        Err(CommandError::Domain { .. }) => {
            return Err(view.refuse(StatusCode::BAD_REQUEST, "Failed to create user"));
        }
        Err(error) => return Err(view.problem(error)),
    };
    let settled = app.settle(models::IDENTITY, registered.position, entered.prefer).await;
    let Some(signed_in) = registered.signed_in else {
        return Ok(concealed());
    };
    let body = DjangoTokens {
        user: DjangoUser::of(registered.user_id, &registered.user, micros),
        access: signed_in.tokens.access_token,
        refresh: signed_in.tokens.refresh_token.unwrap_or_default(),
        message: Some(MESSAGE),
    };
    Ok((settled, view.answer(StatusCode::CREATED, body)).into_response())
}

fn taken(view: View, scopes: &[ClaimScope]) -> Response {
    let detail = if scopes.contains(&ClaimScope::Username) {
        "User with that username already exists"
    } else if scopes.contains(&ClaimScope::Email) {
        "User with that email already exists"
    } else {
        "Failed to create user"
    };
    view.refuse(StatusCode::BAD_REQUEST, detail)
}

/// Sign-in under this contract.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct DjangoSignIn {
    /// Mail address or username.
    first_credential: String,
    password: String,
    /// Code of the second factor, where one is asked for; the contract knows none.
    mfa_code: Option<String>,
}

/// Sign in with mail address or username.
#[utoipa::path(post, path = "/api/auth/login/", tag = "django", operation_id = "django_sign_in",
    request_body(content((DjangoSignIn = "application/json"), (DjangoSignIn = "application/x-www-form-urlencoded"))),
    responses((status = 200, body = DjangoTokens), (status = "4XX", description = "The contract's literals")))]
pub(crate) async fn sign_in(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    match signed_in(&app, &mut parts, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn signed_in(app: &AppState, parts: &mut Parts, body: Body) -> Result<Response, Response> {
    let view = SIGN_IN;
    let entered = view.enter(app, parts).await?;
    let data = data(app, view, parts.clone(), body).await?;
    if let Some(refusal) = missing(view, &data, &["first_credential", "password"]) {
        return Err(refusal);
    }
    let refuse = |detail: &str| view.refuse(StatusCode::BAD_REQUEST, detail);
    let credential = match &data["first_credential"] {
        Value::String(text) => text.trim().to_lowercase(),
        value if is_falsy(Some(value)) => String::new(),
        _ => return Err(refuse("first_credential must be a string")),
    };
    if credential.is_empty() {
        return Err(refuse("first_credential is required"));
    }
    let password = match &data["password"] {
        value if is_falsy(Some(value)) => return Err(refuse("password is required")),
        Value::String(text) => SecretString::from(text.as_str()),
        _ => return Err(refuse("password must be a string")),
    };
    let code = match data.get("mfa_code") {
        None => None,
        value if is_falsy(value) => None,
        Some(Value::String(text)) if text.chars().count() <= LONGEST_CODE => Some(text.trim()),
        Some(Value::String(_)) => return Err(refuse("mfa_code is too long")),
        Some(_) => return Err(refuse("mfa_code must be a string")),
    };
    let caller = anonymous(&parts.headers, &parts.extensions);
    let options = app.commands().settings().signed_sign_in();
    let credential = Credential::EmailOrUsername(&credential);
    let done = auth::sign_in_in_parts(&app.on_behalf_of(&caller), credential, &password, code, options).await;
    let signed_in = match done {
        Ok(SignIn::Opened(signed_in)) => *signed_in,
        // The contract has no second step: the code is asked for in the same request.
        Ok(SignIn::SecondFactor(_)) => {
            return Err(view.refuse(StatusCode::UNAUTHORIZED, "MFA verification required: send mfa_code"));
        }
        Err(error) if error.code() == annals_commands::mfa::CODE_INVALID => {
            return Err(view.refuse(StatusCode::UNAUTHORIZED, "Invalid MFA code"));
        }
        Err(error) if matches!(error.code(), auth::INVALID_CREDENTIALS | auth::USER_DISABLED) => {
            return Err(view.refuse(StatusCode::UNAUTHORIZED, "Invalid credentials"));
        }
        Err(error) => return Err(view.problem(error)),
    };
    let settled = app.settle(models::IDENTITY, signed_in.position, entered.prefer).await;
    let body = DjangoTokens {
        user: DjangoUser::of(signed_in.user_id, &signed_in.user, millis),
        access: signed_in.tokens.access_token,
        refresh: signed_in.tokens.refresh_token.unwrap_or_default(),
        message: None,
    };
    Ok((settled, view.answer(StatusCode::OK, body)).into_response())
}

/// Refresh under this contract.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct DjangoRefresh {
    refresh: String,
}

/// Answer to a refresh under this contract.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DjangoAccess {
    access: String,
    #[schema(value_type = String)]
    message: &'static str,
}

/// A new access token for a refresh token, which stays the same until it expires.
#[utoipa::path(post, path = "/api/auth/token/refresh/", tag = "django", operation_id = "django_refresh",
    request_body = DjangoRefresh,
    responses((status = 200, body = DjangoAccess), (status = "4XX", description = "The contract's literals")))]
pub(crate) async fn refresh_token(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    match refreshed(&app, &mut parts, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn refreshed(app: &AppState, parts: &mut Parts, body: Body) -> Result<Response, Response> {
    let view = REFRESH;
    let entered = view.enter(app, parts).await?;
    let data = data(app, view, parts.clone(), body).await?;
    let token = data.get("refresh");
    if is_falsy(token) {
        return Err(view.refuse(StatusCode::BAD_REQUEST, "Refresh token is required"));
    }
    let unusable = |error: &str| {
        view.answer(
            StatusCode::UNAUTHORIZED,
            json!({ "detail": "Invalid or expired refresh token", "error": error }),
        )
    };
    let Some(token) = token.and_then(Value::as_str) else {
        return Err(unusable("Token is invalid"));
    };
    let caller = anonymous(&parts.headers, &parts.extensions);
    let refreshed = match annals_commands::session::refresh_signed(&app.on_behalf_of(&caller), token).await {
        Ok(refreshed) => refreshed,
        Err(CommandError::Token(TokenFault::Expired)) => return Err(unusable("Token is expired")),
        Err(CommandError::Token(TokenFault::WrongType)) => return Err(unusable("Token has wrong type")),
        Err(CommandError::Token(_) | CommandError::Domain { .. }) => return Err(unusable("Token is invalid")),
        Err(error) => return Err(view.problem(error)),
    };
    let settled = app.settle(models::SESSION, refreshed.position, entered.prefer).await;
    let body = DjangoAccess {
        access: refreshed.tokens.access_token,
        message: "Token refreshed successfully ...",
    };
    Ok((settled, view.answer(StatusCode::OK, body)).into_response())
}

/// Verification under this contract.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "describes the body; the handler reads it member by member for the contract's answers"
)]
pub(crate) struct DjangoVerify {
    /// Access or refresh token.
    token: String,
}

/// Whether a token of either kind is valid.
#[utoipa::path(post, path = "/api/auth/token/verify/", tag = "django", operation_id = "django_verify",
    request_body = DjangoVerify,
    responses((status = 200, description = "`{\"valid\":true}`"), (status = "4XX", description = "The contract's literals")))]
pub(crate) async fn verify_token_of_either_kind(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    match verified(&app, &mut parts, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn verified(app: &AppState, parts: &mut Parts, body: Body) -> Result<Response, Response> {
    let view = VERIFY;
    view.enter(app, parts).await?;
    let data = data(app, view, parts.clone(), body).await?;
    let token = data.get("token");
    if is_falsy(token) {
        return Err(view.refuse(StatusCode::BAD_REQUEST, "Token is required"));
    }
    let verdict = match token.and_then(Value::as_str) {
        Some(token) => auth::verify(app.commands(), token).await,
        None => Err(AuthFailure::Malformed),
    };
    match verdict {
        Ok(()) => Ok(view.answer(StatusCode::OK, json!({ "valid": true }))),
        Err(AuthFailure::Unchecked(error)) => Err(view.problem(*error)),
        Err(_) => Err(view.answer(
            StatusCode::UNAUTHORIZED,
            json!({ "valid": false, "detail": "Token is invalid or expired" }),
        )),
    }
}

/// Answer to the question who one is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DjangoMe {
    user: DjangoUser,
}

/// Whoever is signed in.
#[utoipa::path(get, path = "/api/auth/me/", tag = "django", operation_id = "django_me", security(("bearer" = [])),
    responses((status = 200, body = DjangoMe), (status = "4XX", description = "The contract's literals")))]
pub(crate) async fn show_me(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    match me(&app, &mut parts).await {
        Ok(response) | Err(response) => response,
    }
}

async fn me(app: &AppState, parts: &mut Parts) -> Result<Response, Response> {
    let view = ME;
    let entered = view.enter(app, parts).await?;
    let user_id = entered.caller.require_user().map_err(|denied| view.problem(denied))?;
    let row = annals_projections::user::by_id(&entered.caller, app.database(), user_id).await;
    let row = row
        .map_err(|error| view.problem(error))?
        .ok_or_else(|| view.problem(Problem::unavailable(1, "The account is not shown yet.")))?;
    let user = DjangoUser {
        id: row.user_id,
        username: row.username,
        email: row.email,
        created_at: row.created_at.to_rfc3339_millis(),
    };
    Ok(view.answer(StatusCode::OK, DjangoMe { user }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: Option<&str>) -> Result<Option<String>, ()> {
        let mut request = Request::builder();
        if let Some(header) = header {
            request = request.header(AUTHORIZATION, header);
        }
        presented(&request.body(Body::empty()).expect("valid").into_parts().0)
    }

    #[test]
    fn the_authorization_header_is_read_as_the_framework_does() {
        assert_eq!(shown(None), Ok(None));
        for absent in ["", "bearer abc", "Token abc", "Basic a b c"] {
            assert_eq!(shown(Some(absent)), Ok(None), "{absent}");
        }
        for wrong in ["Bearer", "Bearer a b"] {
            assert_eq!(shown(Some(wrong)), Err(()), "{wrong}");
        }
        assert_eq!(shown(Some("Bearer  abc ")), Ok(Some("abc".to_owned())));
    }

    #[test]
    fn what_is_false_in_the_origins_language() {
        for falsy in [
            json!(null),
            json!(false),
            json!(0),
            json!(0.0),
            json!(""),
            json!([]),
            json!({}),
        ] {
            assert!(is_falsy(Some(&falsy)), "{falsy}");
        }
        for truthy in [json!(true), json!(1), json!(" "), json!([0]), json!({"a": 1})] {
            assert!(!is_falsy(Some(&truthy)), "{truthy}");
        }
        assert!(is_falsy(None));
    }
}
