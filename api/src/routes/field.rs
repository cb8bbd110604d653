//! `/api/v1/fields` of the ModulaCMS contract: definitions of the fields that content nodes have, in the site realm.

use annals_commands::field::{self as commands, FieldRecord};
use annals_domain::{DatatypeId, Field, FieldId, FieldKind, Realm, Timestamp, UserId};
use annals_eventstore::Version;
use annals_projections::field::{self, FieldRow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::contracts::modula::{
    ItemId, ItemRoutes, MODELS, NamedItem, PageBody, Paging, deleted, label, list_answer, no_such, nullable, required,
    settings_or_empty, time_text,
};
use crate::extract::{Caller, IfMatch, Json, MinPosition, Prefer, Query};
use crate::problem::{Problem, ProblemBody};
use crate::settle::Settled;

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_fields, create_field))
        .item_routes(routes!(get_field, change_field, delete_field))
}

/// A field as the contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FieldBody {
    #[schema(example = "01H45NVB4PEX5VSKNK084SN02Q")]
    field_id: String,
    parent_id: Option<String>,
    label: String,
    data: String,
    /// JSON as text.
    validation: String,
    /// JSON as text.
    ui_config: String,
    #[serde(rename = "type")]
    kind: &'static str,
    author_id: Option<String>,
    date_created: Option<String>,
    date_modified: Option<String>,
}

impl From<FieldRow> for FieldBody {
    fn from(row: FieldRow) -> Self {
        Self {
            field_id: row.field_id.to_ulid(),
            parent_id: row.parent_id.map(|id| id.to_ulid()),
            label: row.label,
            data: row.data,
            validation: row.validation,
            ui_config: row.ui_config,
            kind: row.kind.as_str(),
            author_id: row.author_id.map(|id| id.to_ulid()),
            date_created: time_text(row.date_created),
            date_modified: time_text(row.date_modified),
        }
    }
}

impl FieldBody {
    fn of(id: FieldId, state: Field) -> Self {
        Self {
            field_id: id.to_ulid(),
            parent_id: state.parent_id.map(|id| id.to_ulid()),
            label: state.label,
            data: state.data,
            validation: state.validation,
            ui_config: state.ui_config,
            kind: state.kind.as_str(),
            author_id: state.author_id.map(|id| id.to_ulid()),
            date_created: time_text(state.date_created),
            date_modified: time_text(state.date_modified),
        }
    }
}

/// A field to create, or all of its details anew. Members that are absent are null, or empty.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WriteField {
    /// May be given on creation; names the item of an update.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    field_id: Option<FieldId>,
    /// The datatype it was made for.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<DatatypeId>,
    /// Not blank, 255 characters at most.
    #[serde(deserialize_with = "label")]
    label: String,
    /// 65,536 characters at most.
    #[serde(default, deserialize_with = "settings_or_empty")]
    data: String,
    /// JSON as text; `{}` when empty; 65,536 characters at most.
    #[serde(default, deserialize_with = "settings_or_empty")]
    validation: String,
    /// JSON as text; `{}` when empty; 65,536 characters at most.
    #[serde(default, deserialize_with = "settings_or_empty")]
    ui_config: String,
    #[serde(rename = "type", deserialize_with = "required")]
    #[schema(value_type = String, example = "text")]
    kind: FieldKind,
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

impl WriteField {
    fn record(self, caller: &Caller) -> FieldRecord {
        FieldRecord {
            parent_id: self.parent_id,
            label: self.label,
            data: self.data,
            validation: self.validation,
            ui_config: self.ui_config,
            kind: self.kind,
            author_id: self.author_id.or_else(|| caller.user_id()),
            date_created: self.date_created,
            date_modified: self.date_modified,
        }
    }
}

/// List fields, by id.
#[utoipa::path(get, path = "/api/v1/fields", tag = "field", security(("bearer" = []), ("cookie" = [])), params(Paging),
    responses((status = 200, description = "An array, or a page of it when `limit` or `offset` is given", body = PageBody<FieldBody>),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_fields(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    app.reach(MODELS, demanded).await?;
    let page = paging.page();
    let listed = field::list(&caller, app.database(), Realm::Site, page).await?;
    Ok(list_answer::<_, FieldBody>(page, listed))
}

/// Create a field.
#[utoipa::path(post, path = "/api/v1/fields", tag = "field", security(("bearer" = []), ("cookie" = [])), request_body = WriteField,
    responses((status = 201, body = FieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteField>,
) -> Result<Response, Problem> {
    let (id, record) = (body.field_id, body.record(&caller));
    let done = commands::create(&app.on_behalf_of(&caller), id, Realm::Site, record).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((StatusCode::CREATED, settled, Json(FieldBody::of(done.id, done.state))).into_response())
}

/// Show a field.
#[utoipa::path(get, path = "/api/v1/fields/{id}", tag = "field", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, body = FieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn get_field(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    ItemId(id): ItemId<FieldId>,
) -> Result<Json<FieldBody>, Problem> {
    app.reach(MODELS, demanded).await?;
    let row = field::by_id(&caller, app.database(), id).await?;
    row.filter(|row| row.realm == Realm::Site)
        .map(|row| Json(row.into()))
        .ok_or_else(|| no_such("field"))
}

/// Replace all details of a field.
#[utoipa::path(put, path = "/api/v1/fields/{id}", tag = "field", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    request_body = WriteField, responses((status = 200, body = FieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    named: NamedItem<FieldId>,
    Json(body): Json<WriteField>,
) -> Result<Response, Problem> {
    let id = named.or("field_id", body.field_id)?;
    let done = commands::replace(&app.on_behalf_of(&caller), id, body.record(&caller), expected).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, Json(FieldBody::of(done.id, done.state))).into_response())
}

/// Delete a field definition; values of it stay in content, undelivered.
#[utoipa::path(delete, path = "/api/v1/fields/{id}", tag = "field", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, description = "Deleted; no body"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    ItemId(id): ItemId<FieldId>,
) -> Result<Response, Problem> {
    let settled = delete(&app, &caller, prefer, expected, id).await?;
    Ok((settled, deleted()).into_response())
}

async fn delete(
    app: &AppState,
    caller: &Caller,
    prefer: Prefer,
    expected: Option<Version>,
    id: FieldId,
) -> Result<Settled, Problem> {
    let done = commands::delete(&app.on_behalf_of(caller), id, expected).await?;
    Ok(app.settle(MODELS, done.position, prefer).await)
}
