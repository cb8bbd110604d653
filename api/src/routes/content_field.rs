//! `/api/v1/contentfields` of the ModulaCMS contract: field values of content nodes, in the site realm.

use annals_commands::content::{self as commands, ContentFieldRecord};
use annals_domain::{Content, ContentFieldId, ContentId, FieldId, FieldValue, Realm, RouteId, Timestamp, UserId};
use annals_projections::content::{self, ContentFieldRow};
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
    required, time_text,
};
use crate::extract::{Caller, Json, MinPosition, Prefer, Query};
use crate::problem::{Problem, ProblemBody};

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_content_fields, create_content_field))
        .item_routes(routes!(get_content_field, change_content_field, delete_content_field))
}

/// A field value as the contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContentFieldBody {
    #[schema(example = "01H45NVB4PEX5VSKNK084SN02Q")]
    content_field_id: String,
    route_id: Option<String>,
    content_data_id: Option<String>,
    field_id: Option<String>,
    field_value: String,
    author_id: Option<String>,
    date_created: Option<String>,
    date_modified: Option<String>,
}

impl From<ContentFieldRow> for ContentFieldBody {
    fn from(row: ContentFieldRow) -> Self {
        let ContentFieldRow {
            content_field_id,
            content_id,
            field_id,
            route_id,
            value,
            author_id,
            date_created,
            date_modified,
            ..
        } = row;
        Self::of(
            content_id,
            FieldValue {
                content_field_id,
                field_id,
                route_id,
                value,
                author_id,
                date_created,
                date_modified,
            },
        )
    }
}

impl ContentFieldBody {
    fn of(content: ContentId, value: FieldValue) -> Self {
        Self {
            content_field_id: value.content_field_id.to_ulid(),
            route_id: value.route_id.map(|id| id.to_ulid()),
            content_data_id: Some(content.to_ulid()),
            field_id: value.field_id.map(|id| id.to_ulid()),
            field_value: value.value,
            author_id: value.author_id.map(|id| id.to_ulid()),
            date_created: time_text(value.date_created),
            date_modified: time_text(value.date_modified),
        }
    }
}

/// A field value to create, or all of its details anew. Members that are absent are null, or empty.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WriteContentField {
    /// May be given on creation; names the item of an update.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    content_field_id: Option<ContentFieldId>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    route_id: Option<RouteId>,
    /// The node the value belongs to. The origin takes values of no node; they could never be delivered.
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String)]
    content_data_id: ContentId,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    field_id: Option<FieldId>,
    #[serde(default, deserialize_with = "or_empty")]
    field_value: String,
    /// The caller when absent.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    author_id: Option<UserId>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    date_created: Option<Timestamp>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    date_modified: Option<Timestamp>,
}

impl WriteContentField {
    fn record(self, caller: &Caller) -> ContentFieldRecord {
        ContentFieldRecord {
            content_id: self.content_data_id,
            field_id: self.field_id,
            route_id: self.route_id,
            value: self.field_value,
            author_id: self.author_id.or_else(|| caller.user_id()),
            date_created: self.date_created,
            date_modified: self.date_modified,
        }
    }
}

/// List field values, by id.
#[utoipa::path(get, path = "/api/v1/contentfields", tag = "content", security(("bearer" = []), ("cookie" = [])), params(Paging),
    responses((status = 200, description = "An array, or a page of it when `limit` or `offset` is given", body = PageBody<ContentFieldBody>),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_content_fields(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    app.reach(MODELS, demanded).await?;
    let page = paging.page();
    let listed = content::list_fields(&caller, app.database(), Realm::Site, page).await?;
    Ok(list_answer::<_, ContentFieldBody>(page, listed))
}

/// Show a field value.
#[utoipa::path(get, path = "/api/v1/contentfields/{id}", tag = "content", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, body = ContentFieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn get_content_field(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    ItemId(id): ItemId<ContentFieldId>,
) -> Result<Json<ContentFieldBody>, Problem> {
    app.reach(MODELS, demanded).await?;
    present(&app, &caller, id).await.map(|row| Json(row.into()))
}

/// Create a field value of a content node.
#[utoipa::path(post, path = "/api/v1/contentfields", tag = "content", security(("bearer" = []), ("cookie" = [])), request_body = WriteContentField,
    responses((status = 201, body = ContentFieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_content_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteContentField>,
) -> Result<Response, Problem> {
    let (id, record) = (body.content_field_id, body.record(&caller));
    let (id, done) = commands::add_field(&app.on_behalf_of(&caller), id, record).await?;
    let body = written(done.id, id, done.state)?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((StatusCode::CREATED, settled, Json(body)).into_response())
}

/// Replace all details of a field value; another `content_data_id` moves it there.
#[utoipa::path(put, path = "/api/v1/contentfields/{id}", tag = "content", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    request_body = WriteContentField, responses((status = 200, body = ContentFieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_content_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    named: NamedItem<ContentFieldId>,
    Json(body): Json<WriteContentField>,
) -> Result<Response, Problem> {
    let (id, record) = (
        named.or("content_field_id", body.content_field_id)?,
        body.record(&caller),
    );
    let done = commands::put_field(&app.on_behalf_of(&caller), id, record).await?;
    let body = written(done.id, id, done.state)?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, Json(body)).into_response())
}

/// Delete a field value.
#[utoipa::path(delete, path = "/api/v1/contentfields/{id}", tag = "content", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, description = "Deleted; no body"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_content_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    ItemId(id): ItemId<ContentFieldId>,
) -> Result<Response, Problem> {
    let done = commands::remove_field(&app.on_behalf_of(&caller), id).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, deleted()).into_response())
}

/// The value as it was committed.
fn written(content: ContentId, id: ContentFieldId, mut state: Content) -> Result<ContentFieldBody, Problem> {
    let value = state.fields.remove(&id).ok_or_else(|| {
        tracing::error!(%content, %id, "a value that was just written is not in its node");
        Problem::internal()
    })?;
    Ok(ContentFieldBody::of(content, value))
}

async fn present(app: &AppState, caller: &Caller, id: ContentFieldId) -> Result<ContentFieldRow, Problem> {
    let row = content::field_by_id(caller, app.database(), id).await?;
    row.filter(|row| row.realm == Realm::Site)
        .ok_or_else(|| no_such("content field"))
}
