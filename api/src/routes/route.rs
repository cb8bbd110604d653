//! `/api/v1/routes` of the ModulaCMS contract: paths that content is delivered under, in the site realm.

use annals_commands::route::{self as commands, RouteRecord};
use annals_domain::{Realm, Route, RouteId, Slug, Timestamp, UserId};
use annals_eventstore::Version;
use annals_projections::route::{self, RouteRow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::contracts::modula::{
    ItemId, ItemRoutes, MODELS, NamedItem, PageBody, Paging, deleted, list_answer, no_such, nullable, or_empty,
    required, short_or_empty, time_text,
};
use crate::extract::{Caller, IfMatch, Json, MinPosition, Prefer, Query};
use crate::problem::{Problem, ProblemBody};
use crate::settle::Settled;

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_routes, create_route))
        .item_routes(routes!(get_route, change_route, delete_route))
}

/// A route as the contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RouteBody {
    #[schema(example = "01H45NVB4PEX5VSKNK084SN02Q")]
    route_id: String,
    #[schema(example = "/blog/first-post")]
    slug: String,
    title: String,
    status: i64,
    author_id: Option<String>,
    date_created: Option<String>,
    date_modified: Option<String>,
}

impl From<RouteRow> for RouteBody {
    fn from(row: RouteRow) -> Self {
        Self {
            route_id: row.route_id.to_ulid(),
            slug: row.slug.into(),
            title: row.title,
            status: row.status,
            author_id: row.author_id.map(|id| id.to_ulid()),
            date_created: time_text(row.date_created),
            date_modified: time_text(row.date_modified),
        }
    }
}

impl RouteBody {
    fn of(id: RouteId, state: Route) -> Self {
        Self {
            route_id: id.to_ulid(),
            slug: state.slug.map(Into::into).unwrap_or_default(),
            title: state.title,
            status: state.status,
            author_id: state.author_id.map(|id| id.to_ulid()),
            date_created: time_text(state.date_created),
            date_modified: time_text(state.date_modified),
        }
    }
}

/// A route to create, or all of its details anew. Members that are absent are null, or empty.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WriteRoute {
    /// May be given on creation; names the item of an update.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    route_id: Option<RouteId>,
    /// The path; of an update the new one.
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String, example = "/blog/first-post")]
    slug: Slug,
    /// Of an update that names no id: the present path.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    slug_2: Option<Slug>,
    /// 255 characters at most.
    #[serde(default, deserialize_with = "short_or_empty")]
    title: String,
    /// A number whose meaning is the client's.
    #[serde(default, deserialize_with = "or_empty")]
    status: i64,
    /// The caller when absent.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    author_id: Option<UserId>,
    /// Now when absent on creation.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    date_created: Option<Timestamp>,
    /// Now when absent on creation.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    date_modified: Option<Timestamp>,
}

impl WriteRoute {
    fn record(self, caller: &Caller) -> RouteRecord {
        RouteRecord {
            slug: self.slug,
            title: self.title,
            status: self.status,
            author_id: self.author_id.or_else(|| caller.user_id()),
            date_created: self.date_created,
            date_modified: self.date_modified,
        }
    }
}

/// List routes, by slug.
#[utoipa::path(get, path = "/api/v1/routes", tag = "route", security(("bearer" = []), ("cookie" = [])), params(Paging),
    responses((status = 200, description = "An array, or a page of it when `limit` or `offset` is given", body = PageBody<RouteBody>),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_routes(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    app.reach(MODELS, demanded).await?;
    let page = paging.page();
    let listed = route::list(&caller, app.database(), Realm::Site, page).await?;
    Ok(list_answer::<_, RouteBody>(page, listed))
}

/// Create a route.
#[utoipa::path(post, path = "/api/v1/routes", tag = "route", security(("bearer" = []), ("cookie" = [])), request_body = WriteRoute,
    responses((status = 201, body = RouteBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_route(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteRoute>,
) -> Result<Response, Problem> {
    let (id, record) = (body.route_id, body.record(&caller));
    let done = commands::create(&app.on_behalf_of(&caller), id, Realm::Site, record).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((StatusCode::CREATED, settled, Json(RouteBody::of(done.id, done.state))).into_response())
}

/// Show a route.
#[utoipa::path(get, path = "/api/v1/routes/{id}", tag = "route", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, body = RouteBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn get_route(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    ItemId(id): ItemId<RouteId>,
) -> Result<Json<RouteBody>, Problem> {
    app.reach(MODELS, demanded).await?;
    let row = route::by_id(&caller, app.database(), id).await?;
    row.filter(|row| row.realm == Realm::Site)
        .map(|row| Json(row.into()))
        .ok_or_else(|| no_such("route"))
}

/// Replace all details of a route, named by its id or by `slug_2`.
#[utoipa::path(put, path = "/api/v1/routes/{id}", tag = "route", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    request_body = WriteRoute, responses((status = 200, body = RouteBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_route(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    named: NamedItem<RouteId>,
    Json(body): Json<WriteRoute>,
) -> Result<Response, Problem> {
    let cx = app.on_behalf_of(&caller);
    let done = match (named.0.or(body.route_id), body.slug_2.clone()) {
        (None, Some(slug)) => commands::replace_at(&cx, Realm::Site, &slug, body.record(&caller), expected).await?,
        _ => {
            let id = named.or("route_id", body.route_id)?;
            commands::replace(&cx, id, body.record(&caller), expected).await?
        }
    };
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, Json(RouteBody::of(done.id, done.state))).into_response())
}

/// Delete a route; content under it stays.
#[utoipa::path(delete, path = "/api/v1/routes/{id}", tag = "route", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, description = "Deleted; no body"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_route(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    ItemId(id): ItemId<RouteId>,
) -> Result<Response, Problem> {
    let settled = delete(&app, &caller, prefer, expected, id).await?;
    Ok((settled, deleted()).into_response())
}

async fn delete(
    app: &AppState,
    caller: &Caller,
    prefer: Prefer,
    expected: Option<Version>,
    id: RouteId,
) -> Result<Settled, Problem> {
    let done = commands::delete(&app.on_behalf_of(caller), id, expected).await?;
    Ok(app.settle(MODELS, done.position, prefer).await)
}
