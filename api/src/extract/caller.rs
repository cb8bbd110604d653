//! Who is asking: bearer token or cookie, with device, address and correlation.

use std::ops::Deref;

use annals_commands::auth::AuthFailure;
use annals_domain::{Device, Permission};
use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, StatusCode};
use uuid::Uuid;

use crate::app::AppState;
use crate::cookie;
use crate::middleware::RequestContext;
use crate::middleware::idempotency::Exchange;
use crate::problem::Problem;

/// Whoever is asking, signed in: a request without valid credentials is 401. Where the operator demands proven mail
/// addresses, one without is 403.
#[derive(Debug, Clone)]
pub struct Caller(pub annals_domain::Caller);

/// Whoever is asking, signed in, even if their mail address has to be proven first: for proving it.
#[derive(Debug, Clone)]
pub struct UnverifiedCaller(pub annals_domain::Caller);

/// Whoever is asking, or nobody known. A bearer token that is there must be valid; a cookie that is not counts as absent,
/// because a browser sends it everywhere.
#[derive(Debug, Clone)]
pub struct MaybeCaller(pub annals_domain::Caller);

/// Whoever is asking, taken for nobody known: registration, sign-in and refresh bring their own proof, and a stale token that
/// a client still sends along must not keep it from getting a new one.
#[derive(Debug, Clone)]
pub struct Stranger(pub annals_domain::Caller);

impl FromRequestParts<AppState> for Stranger {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let stranger = anonymous(&parts.headers, &parts.extensions);
        Exchange::bind(app, &parts.extensions, &stranger).await?;
        Ok(Self(stranger))
    }
}

impl Deref for Caller {
    type Target = annals_domain::Caller;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Deref for MaybeCaller {
    type Target = annals_domain::Caller;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Deref for UnverifiedCaller {
    type Target = annals_domain::Caller;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromRequestParts<AppState> for UnverifiedCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let stranger = anonymous(&parts.headers, &parts.extensions);
        let cookie = cookie::value(&parts.headers, &app.config().cookie);
        let (found, token) = match (bearer_token(&parts.headers)?, cookie) {
            (None, None) => return Err(not_authenticated()),
            (Some(bearer), cookie) => (by_bearer(app, stranger, bearer, cookie).await, bearer),
            (None, Some(cookie)) => {
                cookie::refuse_foreign_pages(&parts.method, &parts.headers, &app.config().cors)?;
                (verify_token(app, stranger, cookie).await.map_err(refusal), cookie)
            }
        };
        bound(app, &parts.extensions, found, token).await.map(Self)
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let UnverifiedCaller(caller) = UnverifiedCaller::from_request_parts(parts, app).await?;
        must_be_verified(app, &caller).await?;
        Ok(Self(caller))
    }
}

/// Refuses whoever has not proven their mail address, where the operator demands it. Administrators are made by the
/// operator, who knows them.
pub(crate) async fn must_be_verified(app: &AppState, caller: &annals_domain::Caller) -> Result<(), Problem> {
    let Some(user_id) = caller.user_id() else { return Ok(()) };
    if !app.config().registration.require_verified || caller.can(Permission::UserManage) {
        return Ok(());
    }
    if annals_commands::email_verification::is_verified(app.commands(), user_id).await? {
        return Ok(());
    }
    let message = "Email verification required";
    Err(Problem::new(StatusCode::FORBIDDEN, "EMAIL_NOT_VERIFIED", message))
}

impl FromRequestParts<AppState> for MaybeCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let stranger = anonymous(&parts.headers, &parts.extensions);
        let cookie = cookie::value(&parts.headers, &app.config().cookie);
        let (found, token) = match (bearer_token(&parts.headers)?, cookie) {
            (None, None) => (Ok(stranger), ""),
            (Some(bearer), cookie) => (by_bearer(app, stranger, bearer, cookie).await, bearer),
            (None, Some(cookie)) => {
                let foreign = cookie::refuse_foreign_pages(&parts.method, &parts.headers, &app.config().cors);
                let found = match verify_token(app, stranger.clone(), cookie).await {
                    Ok(caller) => foreign.map(|()| caller),
                    Err(failure @ AuthFailure::Unchecked(_)) => Err(refusal(failure)),
                    Err(_) => {
                        if foreign.is_ok() {
                            Exchange::bind_ended(app, &parts.extensions, cookie).await?;
                        }
                        Ok(stranger)
                    }
                };
                (found, cookie)
            }
        };
        bound(app, &parts.extensions, found, token).await.map(Self)
    }
}

/// Says to the request's idempotency key, if there is one, whose it is.
async fn bound(
    app: &AppState,
    extensions: &Extensions,
    found: Result<annals_domain::Caller, Problem>,
    token: &str,
) -> Result<annals_domain::Caller, Problem> {
    match found {
        Ok(caller) => {
            Exchange::bind(app, extensions, &caller).await?;
            Ok(caller)
        }
        Err(refusal) => {
            if refusal.status() == StatusCode::UNAUTHORIZED {
                Exchange::bind_ended(app, extensions, token).await?;
            }
            Err(refusal)
        }
    }
}

/// A bearer token decides; a cookie beside it must at least not speak for somebody else.
async fn by_bearer(
    app: &AppState,
    stranger: annals_domain::Caller,
    bearer: &str,
    cookie: Option<&str>,
) -> Result<annals_domain::Caller, Problem> {
    let caller = verify_token(app, stranger.clone(), bearer).await.map_err(refusal)?;
    if let Some(cookie) = cookie.filter(|cookie| *cookie != bearer)
        && let Ok(other) = verify_token(app, stranger, cookie).await
        && other.actor != caller.actor
    {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "AMBIGUOUS_CREDENTIALS",
            "The bearer token and the session cookie belong to different accounts.",
        ));
    }
    Ok(caller)
}

/// The stranger with the identity that `token` proves.
pub(crate) async fn verify_token(
    app: &AppState,
    stranger: annals_domain::Caller,
    token: &str,
) -> Result<annals_domain::Caller, AuthFailure> {
    let known = annals_commands::auth::authenticate(app.commands(), Some(token)).await?;
    let annals_domain::Caller {
        address,
        device,
        correlation_id,
        causation_id,
        promise,
        ..
    } = stranger;
    Ok(annals_domain::Caller {
        promise,
        ..known.caller(address, device, correlation_id, causation_id)
    })
}

/// Nobody known, with what the request says about its client.
pub(crate) fn anonymous(headers: &HeaderMap, extensions: &Extensions) -> annals_domain::Caller {
    let context = extensions.get::<RequestContext>().copied();
    let correlation_id = context.map_or_else(Uuid::now_v7, |context| context.correlation_id);
    annals_domain::Caller {
        address: context.and_then(|context| context.address),
        device: device(headers),
        promise: Exchange::promise(extensions),
        causation_id: context.map_or(correlation_id, |context| context.request_id),
        ..annals_domain::Caller::anonymous(correlation_id)
    }
}

/// What the client claims about its device (contract of the FastAPI document).
fn device(headers: &HeaderMap) -> Device {
    let text = |name: HeaderName| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Device {
        id: text(HeaderName::from_static("x-device-id")),
        name: text(HeaderName::from_static("x-device-name")),
        kind: text(HeaderName::from_static("x-device-type")).unwrap_or_default(),
        user_agent: text(USER_AGENT),
    }
    .capped()
}

/// The token of `Authorization: Bearer …`; another scheme counts as absent, a malformed header is 401.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let malformed = || Problem::unauthenticated("Could not validate credentials");
    if lines.next().is_some() {
        return Err(malformed());
    }
    let mut parts = line.to_str().map_err(|_| malformed())?.split_ascii_whitespace();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(scheme), _, _) if !scheme.eq_ignore_ascii_case("bearer") => Ok(None),
        (Some(_), Some(token), None) => Ok(Some(token)),
        _ => Err(malformed()),
    }
}

pub(crate) fn not_authenticated() -> Problem {
    Problem::unauthenticated("Not authenticated")
}

/// What a token that proves nothing means to a client of `/api/v1`.
pub(crate) fn refusal(failure: AuthFailure) -> Problem {
    match failure {
        AuthFailure::Missing => not_authenticated(),
        AuthFailure::Expired => {
            Problem::unauthenticated("Could not validate credentials").with_code("AUTH_TOKEN_EXPIRED")
        }
        AuthFailure::Malformed | AuthFailure::WrongType | AuthFailure::Invalid | AuthFailure::UserGone => {
            Problem::unauthenticated("Could not validate credentials")
        }
        // Nothing is known about the token, so nobody is signed out by an outage.
        AuthFailure::Unchecked(error) => (*error).into(),
    }
}
