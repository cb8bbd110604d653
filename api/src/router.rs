//! The one list of every route. What is not in it is not served, and the OpenAPI document is made from it.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;

use crate::app::AppState;
use crate::config::CorsConfig;
use crate::contracts::django;
use crate::middleware::{self, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, X_CORRELATION_ID, X_REQUEST_ID};
use crate::problem::{Problem, is_django};
use crate::routes;
use crate::settle::EVENT_POSITION;

/// Every documented route.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(crate::openapi::frame())
        .merge(routes::health::router())
        .nest("/api/v1/auth", identity())
        .nest("/api/v1", routes::user::router()) // its front end asks here, its document says /api/v1/auth
        .nest("/api/v1", routes::email_verification::router()) // named there and below the prefix
        .nest("/api/v1", routes::invitation::onboarding())
        .merge(django::router())
        .merge(routes::datatype::router())
        .merge(routes::field::router())
        .merge(routes::datatype_field::router())
        .merge(routes::route::router())
        .merge(routes::content::router())
        .merge(routes::content_field::router())
        .merge(routes::event::router())
        .merge(routes::stream::router())
        .merge(routes::audit::router())
        .merge(routes::delivery::router())
        .nest("/api/v1/admin", routes::mfa::admin_router())
}

/// Accounts and sign-ins, by paths below their prefix.
fn identity() -> OpenApiRouter<AppState> {
    routes::auth::router()
        .merge(routes::session::router())
        .merge(routes::user::router())
        .merge(routes::password_reset::router())
        .merge(routes::email_verification::router())
        .merge(routes::sign_up::router())
        .merge(routes::invitation::router())
        .merge(routes::mfa::router())
        .merge(routes::me::router())
        .merge(routes::session_overview::router())
        .merge(routes::token::router())
}

/// The router with its surroundings, ready to be served.
pub(crate) fn build(state: AppState) -> Router {
    let (documented, _) = routes().split_for_parts();
    let alias: Router<AppState> = identity().into();
    let mut router =
        documented
            .nest("/api/auth", alias)
            .fallback(elsewhere)
            .layer(axum::middleware::from_fn_with_state(
                state.clone(),
                middleware::idempotency::once,
            ));
    if let Some(cors) = cors(&state.config().cors) {
        router = router.layer(cors);
    }
    // A layer of a router sits inside its method routers, which add `Allow` behind its back; a router around it does not.
    let inner: Router = router.with_state(state.clone());
    Router::new()
        .fallback_service(inner)
        .layer(axum::middleware::from_fn_with_state(state, middleware::surround))
}

/// Whatever no route takes: unknown API paths are 404, everything else is a slug of delivery.
async fn elsewhere(State(app): State<AppState>, request: Request) -> Response {
    let path = request.uri().path();
    if is_django(path) {
        return Problem::not_found("Not found.").into_response();
    }
    if middleware::is_api(path) {
        return Problem::of_status(StatusCode::NOT_FOUND).into_response();
    }
    match *request.method() {
        Method::GET | Method::HEAD => routes::delivery::deliver(State(app), request).await,
        _ => Problem::of_status(StatusCode::METHOD_NOT_ALLOWED)
            .with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
            .into_response(),
    }
}

/// Nothing at all without configured origins: browsers then keep foreign pages out by themselves.
fn cors(config: &CorsConfig) -> Option<CorsLayer> {
    if config.origins.is_empty() {
        return None;
    }
    let origins = config
        .origins
        .iter()
        .map(|origin| HeaderValue::from_str(origin).expect("checked when it was read"));
    let request_headers = [
        ACCEPT,
        AUTHORIZATION,
        CONTENT_TYPE,
        IF_MATCH,
        IDEMPOTENCY_KEY,
        HeaderName::from_static("prefer"),
        HeaderName::from_static("min-position"),
        HeaderName::from_static("x-device-id"),
        HeaderName::from_static("x-device-name"),
        HeaderName::from_static("x-device-type"),
        X_REQUEST_ID,
        X_CORRELATION_ID,
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(request_headers)
            .expose_headers([
                EVENT_POSITION,
                ETAG,
                IDEMPOTENCY_REPLAYED,
                RETRY_AFTER,
                WWW_AUTHENTICATE,
                X_REQUEST_ID,
            ])
            .max_age(std::time::Duration::from_secs(600)),
    )
}
