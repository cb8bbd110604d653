//! `GET /any/slug`: the content of a route as one document, for everybody (ModulaCMS contract, section 6).

use std::borrow::Cow;
use std::str::FromStr as _;

use annals_domain::format::{self, Format};
use annals_domain::{Realm, Slug};
use annals_projections::{content_tree, route};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::app::AppState;
use crate::contracts::modula::MODELS;
use crate::extract::{MinPosition, Query, anonymous};
use crate::problem::{Problem, ProblemBody};

/// Browsers ask for it with every page; the contract answers 202 without a body.
const FAVICON: &str = "/favicon.ico";

/// Slugs are whatever no other route takes, so [`crate::router`] comes here by itself; this adds the documentation.
#[derive(OpenApi)]
#[openapi(paths(deliver))]
struct Documented;

/// The documentation of delivery, without a route of its own.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Documented::openapi())
}

/// How the document is to look.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    format: Option<String>,
}

/// Deliver the content of a route as one document.
///
/// The document starts at the route's node of datatype type `ROOT`; without one it is empty. Drafts are delivered too.
#[utoipa::path(get, path = "/{slug}", tag = "delivery",
    params(
        ("slug" = String, Path, description = "The whole path of a route"),
        ("format" = Option<String>, Query, description = "`clean` or `raw`; `raw` when absent or empty"),
    ),
    responses((status = 200, description = "The document", content_type = "application/json"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn deliver(State(app): State<AppState>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    if parts.uri.path() == FAVICON {
        return StatusCode::ACCEPTED.into_response();
    }
    match document(&app, &mut parts).await {
        Ok(document) => ([(CONTENT_TYPE, "application/json")], document).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn document(app: &AppState, parts: &mut Parts) -> Result<Vec<u8>, Problem> {
    let Query(wanted) = Query::<Wanted>::from_request_parts(parts, app).await?;
    let format = match wanted.format.as_deref() {
        None | Some("") => Format::default(),
        Some(name) => Format::from_str(name).map_err(|unknown| Problem::bad_field("format", unknown.to_string()))?,
    };
    let demanded = MinPosition::from_request_parts(parts, app).await?;
    app.reach(MODELS, demanded).await?;

    let visitor = anonymous(&parts.headers, &parts.extensions);
    let path = percent_decode_str(parts.uri.path())
        .decode_utf8()
        .unwrap_or(Cow::Borrowed("?"));
    // What no slug can be is no slug's path; the rule it breaks is nothing to a visitor.
    let slug = Slug::parse(&path).map_err(|_| no_such_page())?;
    let route = route::by_slug(&visitor, app.database(), Realm::Site, &slug)
        .await?
        .ok_or_else(no_such_page)?;
    let nodes = content_tree::tree(&visitor, app.database(), Realm::Site, route.route_id).await?;
    let tree = format::build(nodes);
    if tree.left_out > 0 {
        tracing::debug!(route = %route.route_id, left_out = tree.left_out, "nodes of a route are in no document");
    }
    format.render(&tree).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, route = %route.route_id, "a document cannot be written");
        Problem::internal()
    })
}

fn no_such_page() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "route.not_found", "route not found")
}
