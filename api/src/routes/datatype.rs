//! `/api/v1/datatype` of the ModulaCMS contract: kinds of content nodes, in the site realm.

use annals_commands::datatype::{self as commands, DatatypeRecord};
use annals_domain::{Datatype, DatatypeId, Realm, Timestamp, UserId};
use annals_eventstore::Version;
use annals_projections::datatype::{self, DatatypeRow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::contracts::modula::{
    ItemId, ItemRoutes, MODELS, NamedItem, PageBody, Paging, deleted, label, list_answer, no_such, nullable,
    short_or_empty, time_text,
};
use crate::extract::{Caller, IfMatch, Json, MinPosition, Prefer, Query};
use crate::problem::{Problem, ProblemBody};
use crate::settle::Settled;

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_datatypes, create_datatype, delete_datatype_by_id))
        .item_routes(routes!(get_datatype, change_datatype, delete_datatype))
}

/// A datatype as the contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatatypeBody {
    #[schema(example = "01H45NVB4PEX5VSKNK084SN02Q")]
    datatype_id: String,
    parent_id: Option<String>,
    label: String,
    #[serde(rename = "type")]
    kind: String,
    author_id: Option<String>,
    date_created: Option<String>,
    date_modified: Option<String>,
}

impl From<DatatypeRow> for DatatypeBody {
    fn from(row: DatatypeRow) -> Self {
        Self {
            datatype_id: row.datatype_id.to_ulid(),
            parent_id: row.parent_id.map(|id| id.to_ulid()),
            label: row.label,
            kind: row.kind,
            author_id: row.author_id.map(|id| id.to_ulid()),
            date_created: time_text(row.date_created),
            date_modified: time_text(row.date_modified),
        }
    }
}

impl DatatypeBody {
    fn of(id: DatatypeId, state: Datatype) -> Self {
        Self {
            datatype_id: id.to_ulid(),
            parent_id: state.parent_id.map(|id| id.to_ulid()),
            label: state.label,
            kind: state.kind,
            author_id: state.author_id.map(|id| id.to_ulid()),
            date_created: time_text(state.date_created),
            date_modified: time_text(state.date_modified),
        }
    }
}

/// A datatype to create, or all of its details anew. Members that are absent are null, or empty.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WriteDatatype {
    /// May be given on creation; names the item of an update.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    datatype_id: Option<DatatypeId>,
    /// The datatype it belongs under.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<DatatypeId>,
    /// Not blank, 255 characters at most.
    #[serde(deserialize_with = "label")]
    label: String,
    /// Free text; `ROOT` marks the root of a page.
    #[serde(default, rename = "type", deserialize_with = "short_or_empty")]
    kind: String,
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

impl WriteDatatype {
    fn record(self, caller: &Caller) -> DatatypeRecord {
        DatatypeRecord {
            parent_id: self.parent_id,
            label: self.label,
            kind: self.kind,
            author_id: self.author_id.or_else(|| caller.user_id()),
            date_created: self.date_created,
            date_modified: self.date_modified,
        }
    }
}

/// List datatypes, by id.
#[utoipa::path(get, path = "/api/v1/datatype", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(Paging),
    responses((status = 200, description = "An array, or a page of it when `limit` or `offset` is given", body = PageBody<DatatypeBody>),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_datatypes(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    app.reach(MODELS, demanded).await?;
    let page = paging.page();
    let listed = datatype::list(&caller, app.database(), Realm::Site, page).await?;
    Ok(list_answer::<_, DatatypeBody>(page, listed))
}

/// Create a datatype.
#[utoipa::path(post, path = "/api/v1/datatype", tag = "datatype", security(("bearer" = []), ("cookie" = [])), request_body = WriteDatatype,
    responses((status = 201, body = DatatypeBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_datatype(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteDatatype>,
) -> Result<Response, Problem> {
    let (id, record) = (body.datatype_id, body.record(&caller));
    let done = commands::create(&app.on_behalf_of(&caller), id, Realm::Site, record).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((
        StatusCode::CREATED,
        settled,
        Json(DatatypeBody::of(done.id, done.state)),
    )
        .into_response())
}

/// Show a datatype.
#[utoipa::path(get, path = "/api/v1/datatype/{id}", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, body = DatatypeBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn get_datatype(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    ItemId(id): ItemId<DatatypeId>,
) -> Result<Json<DatatypeBody>, Problem> {
    app.reach(MODELS, demanded).await?;
    let row = datatype::by_id(&caller, app.database(), id).await?;
    row.filter(|row| row.realm == Realm::Site)
        .map(|row| Json(row.into()))
        .ok_or_else(|| no_such("datatype"))
}

/// Replace all details of a datatype.
#[utoipa::path(put, path = "/api/v1/datatype/{id}", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    request_body = WriteDatatype, responses((status = 200, body = DatatypeBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_datatype(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    named: NamedItem<DatatypeId>,
    Json(body): Json<WriteDatatype>,
) -> Result<Response, Problem> {
    let id = named.or("datatype_id", body.datatype_id)?;
    let done = commands::replace(&app.on_behalf_of(&caller), id, body.record(&caller), expected).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, Json(DatatypeBody::of(done.id, done.state))).into_response())
}

/// Delete a datatype with its attachments; content of it stays.
#[utoipa::path(delete, path = "/api/v1/datatype/{id}", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, description = "Deleted; no body"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_datatype(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    ItemId(id): ItemId<DatatypeId>,
) -> Result<Response, Problem> {
    let settled = delete(&app, &caller, prefer, expected, id).await?;
    Ok((settled, deleted()).into_response())
}

/// Delete the datatype that the query names; the answer is the text `Deleted ID`.
#[utoipa::path(delete, path = "/api/v1/datatype", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Query, description = "ULID or UUID")),
    responses((status = 200, body = String, example = json!("Deleted 01H45NVB4PEX5VSKNK084SN02Q")), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_datatype_by_id(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    ItemId(id): ItemId<DatatypeId>,
) -> Result<Response, Problem> {
    let settled = delete(&app, &caller, prefer, expected, id).await?;
    Ok((settled, Json(format!("Deleted {}", id.to_ulid()))).into_response())
}

async fn delete(
    app: &AppState,
    caller: &Caller,
    prefer: Prefer,
    expected: Option<Version>,
    id: DatatypeId,
) -> Result<Settled, Problem> {
    let done = commands::delete(&app.on_behalf_of(caller), id, expected).await?;
    Ok(app.settle(MODELS, done.position, prefer).await)
}
