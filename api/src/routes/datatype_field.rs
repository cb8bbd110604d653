//! `/api/v1/datatypefields` of the ModulaCMS contract: which fields the nodes of a datatype have, in the site realm.

use annals_commands::datatype::{self as commands, AttachmentRecord};
use annals_domain::{DatatypeFieldId, DatatypeId, FieldId, Realm};
use annals_projections::datatype::{self, DatatypeFieldFilter, DatatypeFieldRow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::contracts::modula::{
    ItemId, ItemRoutes, MODELS, NamedItem, PageBody, Paging, deleted, list_answer, nullable, or_empty, parse_id,
    required,
};
use crate::extract::{Caller, Json, MinPosition, Prefer, Query};
use crate::problem::{Problem, ProblemBody};
use crate::settle::Settled;

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(
            list_datatype_fields,
            create_datatype_field,
            delete_datatype_field_by_id
        ))
        .item_routes(routes!(change_datatype_field, delete_datatype_field))
}

/// A field attached to a datatype, as the contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatatypeFieldBody {
    #[schema(example = "01H45NVB4PEX5VSKNK084SN02Q")]
    id: String,
    datatype_id: String,
    field_id: String,
    sort_order: i64,
}

impl From<DatatypeFieldRow> for DatatypeFieldBody {
    fn from(row: DatatypeFieldRow) -> Self {
        let DatatypeFieldRow {
            datatype_field_id,
            datatype_id,
            field_id,
            sort_order,
            ..
        } = row;
        Self::written(
            datatype_field_id,
            AttachmentRecord {
                datatype_id,
                field_id,
                sort_order,
            },
        )
    }
}

impl DatatypeFieldBody {
    /// What was committed: all of an attachment is what its writer said.
    fn written(id: DatatypeFieldId, record: AttachmentRecord) -> Self {
        Self {
            id: id.to_ulid(),
            datatype_id: record.datatype_id.to_ulid(),
            field_id: record.field_id.to_ulid(),
            sort_order: record.sort_order,
        }
    }
}

/// A field to attach to a datatype, or all details of an attachment anew.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WriteDatatypeField {
    /// May be given on creation; names the item of an update.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    id: Option<DatatypeFieldId>,
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String)]
    datatype_id: DatatypeId,
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String)]
    field_id: FieldId,
    /// Its place among the fields; 0 when absent.
    #[serde(default, deserialize_with = "or_empty")]
    #[schema(value_type = Option<i64>)]
    sort_order: i64,
}

/// Which attachments to list; not looked at when a page is asked for, as in the origin.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct AttachmentsOf {
    /// Those of one datatype.
    datatype_id: Option<String>,
    /// Those of one field.
    field_id: Option<String>,
}

/// List attachments, by id.
#[utoipa::path(get, path = "/api/v1/datatypefields", tag = "datatype", security(("bearer" = []), ("cookie" = [])),
    params(
        ("datatype_id" = Option<String>, Query, description = "Those of one datatype"),
        ("field_id" = Option<String>, Query, description = "Those of one field"),
        ("limit" = Option<String>, Query, description = "Rows of a page: 50 unless told, at most 1000"),
        ("offset" = Option<String>, Query, description = "Rows to pass over"),
    ),
    responses((status = 200, description = "An array, or a page of it when `limit` or `offset` is given", body = PageBody<DatatypeFieldBody>),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_datatype_fields(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(paging): Query<Paging>,
    Query(of): Query<AttachmentsOf>,
) -> Result<Response, Problem> {
    app.reach(MODELS, demanded).await?;
    let filter = DatatypeFieldFilter {
        datatype_id: of
            .datatype_id
            .as_deref()
            .map(|id| parse_id("datatype_id", id))
            .transpose()?,
        field_id: of.field_id.as_deref().map(|id| parse_id("field_id", id)).transpose()?,
    };
    let page = paging.page();
    let filter = if page.is_some() {
        DatatypeFieldFilter::default()
    } else {
        filter
    };
    let listed = datatype::fields(&caller, app.database(), Realm::Site, filter, page).await?;
    Ok(list_answer::<_, DatatypeFieldBody>(page, listed))
}

impl WriteDatatypeField {
    fn record(&self) -> AttachmentRecord {
        AttachmentRecord {
            datatype_id: self.datatype_id,
            field_id: self.field_id,
            sort_order: self.sort_order,
        }
    }
}

/// Attach a field to a datatype.
#[utoipa::path(post, path = "/api/v1/datatypefields", tag = "datatype", security(("bearer" = []), ("cookie" = [])), request_body = WriteDatatypeField,
    responses((status = 201, body = DatatypeFieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_datatype_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteDatatypeField>,
) -> Result<Response, Problem> {
    let record = body.record();
    let (id, done) = commands::attach_field(&app.on_behalf_of(&caller), body.id, record).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((
        StatusCode::CREATED,
        settled,
        Json(DatatypeFieldBody::written(id, record)),
    )
        .into_response())
}

/// Replace all details of an attachment.
#[utoipa::path(put, path = "/api/v1/datatypefields/{id}", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    request_body = WriteDatatypeField, responses((status = 200, body = DatatypeFieldBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_datatype_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    named: NamedItem<DatatypeFieldId>,
    Json(body): Json<WriteDatatypeField>,
) -> Result<Response, Problem> {
    let (id, record) = (named.or("id", body.id)?, body.record());
    let done = commands::replace_attachment(&app.on_behalf_of(&caller), id, record).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, Json(DatatypeFieldBody::written(id, record))).into_response())
}

/// Detach a field from a datatype.
#[utoipa::path(delete, path = "/api/v1/datatypefields/{id}", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, description = "Deleted; no body"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_datatype_field(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    ItemId(id): ItemId<DatatypeFieldId>,
) -> Result<Response, Problem> {
    let settled = detach(&app, &caller, prefer, id).await?;
    Ok((settled, deleted()).into_response())
}

/// Detach the field that the query names; the answer is the text `Deleted ID`.
#[utoipa::path(delete, path = "/api/v1/datatypefields", tag = "datatype", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Query, description = "ULID or UUID")),
    responses((status = 200, body = String, example = json!("Deleted 01H45NVB4PEX5VSKNK084SN02Q")), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_datatype_field_by_id(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    ItemId(id): ItemId<DatatypeFieldId>,
) -> Result<Response, Problem> {
    let settled = detach(&app, &caller, prefer, id).await?;
    Ok((settled, Json(format!("Deleted {}", id.to_ulid()))).into_response())
}

async fn detach(app: &AppState, caller: &Caller, prefer: Prefer, id: DatatypeFieldId) -> Result<Settled, Problem> {
    let done = commands::detach_field(&app.on_behalf_of(caller), id).await?;
    Ok(app.settle(MODELS, done.position, prefer).await)
}
