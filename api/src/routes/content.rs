//! `/api/v1/contentdata` of the ModulaCMS contract: nodes of the content tree, in the site realm.
//!
//! Clients of the contract order nodes by writing four pointers. Here they are computed from the order the server keeps, so
//! no update can leave one that leads nowhere; a pointer that a client writes otherwise than it is shown asks for a move
//! (`Pointers::wish`).

use annals_commands::content::{self as commands, ContentDetails, ContentRecord, NewContent};
use annals_domain::{
    Content, ContentId, ContentStatus, DatatypeId, Permission, Place, Realm, RouteId, Timestamp, UserId,
};
use annals_projections::content::{self, ContentRow};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::contracts::modula::{
    ItemId, ItemRoutes, MODELS, NamedItem, PageBody, Paging, deleted, list_answer, no_such, nullable, required,
    time_text,
};
use crate::extract::{Caller, IfMatch, Json, MinPosition, Prefer, Query};
use crate::problem::{Problem, ProblemBody};

/// Every route of this resource.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_content, create_content))
        .routes(routes!(create_content_at_item_path))
        .item_routes(routes!(get_content, change_content, delete_content))
}

/// A content node as the contract shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContentBody {
    #[schema(example = "01H45NVB4PEX5VSKNK084SN02Q")]
    content_data_id: String,
    parent_id: Option<String>,
    /// Computed.
    first_child_id: Option<String>,
    /// Computed.
    next_sibling_id: Option<String>,
    /// Computed.
    prev_sibling_id: Option<String>,
    route_id: Option<String>,
    datatype_id: Option<String>,
    author_id: Option<String>,
    #[schema(example = "published")]
    status: &'static str,
    date_created: Option<String>,
    date_modified: Option<String>,
}

impl From<ContentRow> for ContentBody {
    fn from(row: ContentRow) -> Self {
        Self {
            content_data_id: row.content_id.to_ulid(),
            parent_id: row.parent_id.map(|id| id.to_ulid()),
            first_child_id: row.first_child_id.map(|id| id.to_ulid()),
            next_sibling_id: row.next_sibling_id.map(|id| id.to_ulid()),
            prev_sibling_id: row.prev_sibling_id.map(|id| id.to_ulid()),
            route_id: row.route_id.map(|id| id.to_ulid()),
            datatype_id: row.datatype_id.map(|id| id.to_ulid()),
            author_id: row.author_id.map(|id| id.to_ulid()),
            status: row.status.as_str(),
            date_created: time_text(row.date_created),
            date_modified: time_text(row.date_modified),
        }
    }
}

impl ContentBody {
    /// The state that was committed. Pointers come from the read model when it shows the node by now; the node itself does
    /// not know its neighbours.
    fn of(id: ContentId, state: Content, shown: Option<&ContentRow>) -> Self {
        let pointer = |of: fn(&ContentRow) -> Option<ContentId>| shown.and_then(of).map(|id| id.to_ulid());
        Self {
            content_data_id: id.to_ulid(),
            parent_id: state.parent_id.map(|id| id.to_ulid()),
            first_child_id: pointer(|row| row.first_child_id),
            next_sibling_id: pointer(|row| row.next_sibling_id),
            prev_sibling_id: pointer(|row| row.prev_sibling_id),
            route_id: state.route_id.map(|id| id.to_ulid()),
            datatype_id: state.datatype_id.map(|id| id.to_ulid()),
            author_id: state.author_id.map(|id| id.to_ulid()),
            status: state.status.as_str(),
            date_created: time_text(state.date_created),
            date_modified: time_text(state.date_modified),
        }
    }
}

/// A content node to create, or all of its details anew. Members that are absent are null.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct WriteContent {
    /// May be given on creation; names the item of an update.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    content_data_id: Option<ContentId>,
    /// The node it hangs under.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<ContentId>,
    /// Moves that child to the front.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    first_child_id: Option<ContentId>,
    /// Moves the node before that sibling.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    next_sibling_id: Option<ContentId>,
    /// Moves the node after that sibling.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    prev_sibling_id: Option<ContentId>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    route_id: Option<RouteId>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    datatype_id: Option<DatatypeId>,
    /// The caller when absent.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    author_id: Option<UserId>,
    /// One of `draft`, `published`, `archived`, `pending`.
    #[serde(deserialize_with = "required")]
    #[schema(value_type = String, example = "draft")]
    status: ContentStatus,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    date_created: Option<Timestamp>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    date_modified: Option<Timestamp>,
}

/// A node's place in the tree, as clients of the contract write it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pointers {
    parent_id: Option<ContentId>,
    first_child_id: Option<ContentId>,
    next_sibling_id: Option<ContentId>,
    prev_sibling_id: Option<ContentId>,
}

impl From<&WriteContent> for Pointers {
    fn from(body: &WriteContent) -> Self {
        Self {
            parent_id: body.parent_id,
            first_child_id: body.first_child_id,
            next_sibling_id: body.next_sibling_id,
            prev_sibling_id: body.prev_sibling_id,
        }
    }
}

impl From<&ContentRow> for Pointers {
    fn from(row: &ContentRow) -> Self {
        Self {
            parent_id: row.parent_id,
            first_child_id: row.first_child_id,
            next_sibling_id: row.next_sibling_id,
            prev_sibling_id: row.prev_sibling_id,
        }
    }
}

impl Pointers {
    /// Where a new node goes.
    fn place(self) -> Place {
        match (self.prev_sibling_id, self.next_sibling_id) {
            (Some(content_id), _) => Place::After { content_id },
            (None, Some(content_id)) => Place::Before { content_id },
            (None, None) => Place::Last,
        }
    }

    /// The move of the node itself that a client asks for who was shown `self` and writes `wanted`.
    ///
    /// Another parent or previous sibling: after that sibling; without one first if there is to be a next one, else last.
    /// No siblings at all under the same parent: whoever publishes or renames a node without copying its pointers does not
    /// mean to reorder the page.
    /// Only another next sibling: before that one. A next sibling taken away asks for nothing, for that is how clients begin
    /// to move the next one.
    fn wish(self, wanted: Self) -> Option<Place> {
        if wanted.parent_id == self.parent_id && wanted.prev_sibling_id == self.prev_sibling_id {
            return match wanted.next_sibling_id {
                Some(content_id) if self.next_sibling_id != Some(content_id) => Some(Place::Before { content_id }),
                _ => None,
            };
        }
        match (wanted.prev_sibling_id, wanted.next_sibling_id) {
            (Some(content_id), _) => Some(Place::After { content_id }),
            (None, Some(_)) => Some(Place::First),
            (None, None) if wanted.parent_id == self.parent_id => None,
            (None, None) => Some(Place::Last),
        }
    }

    /// The child that is to become the first.
    fn new_first_child(self, wanted: Self) -> Option<ContentId> {
        wanted
            .first_child_id
            .filter(|child| self.first_child_id != Some(*child))
    }
}

/// List content nodes, by id.
#[utoipa::path(get, path = "/api/v1/contentdata", tag = "content", security(("bearer" = []), ("cookie" = [])), params(Paging),
    responses((status = 200, description = "An array, or a page of it when `limit` or `offset` is given", body = PageBody<ContentBody>),
        (status = "4XX", body = ProblemBody)))]
pub(crate) async fn list_content(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    app.reach(MODELS, demanded).await?;
    let page = paging.page();
    let listed = content::list(&caller, app.database(), Realm::Site, page).await?;
    Ok(list_answer::<_, ContentBody>(page, listed))
}

/// Create a content node; last among its siblings unless a pointer says otherwise.
#[utoipa::path(post, path = "/api/v1/contentdata", tag = "content", security(("bearer" = []), ("cookie" = [])), request_body = WriteContent,
    responses((status = 201, body = ContentBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_content(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteContent>,
) -> Result<Response, Problem> {
    create(&app, &caller, prefer, body).await
}

/// Create a content node; the item path takes creations too, as the contract has it.
#[utoipa::path(post, path = "/api/v1/contentdata/", tag = "content", security(("bearer" = []), ("cookie" = [])), request_body = WriteContent,
    responses((status = 201, body = ContentBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn create_content_at_item_path(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    Json(body): Json<WriteContent>,
) -> Result<Response, Problem> {
    create(&app, &caller, prefer, body).await
}

/// Show a content node.
#[utoipa::path(get, path = "/api/v1/contentdata/{id}", tag = "content", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, body = ContentBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn get_content(
    State(app): State<AppState>,
    caller: Caller,
    demanded: MinPosition,
    ItemId(id): ItemId<ContentId>,
) -> Result<Json<ContentBody>, Problem> {
    app.reach(MODELS, demanded).await?;
    present(&app, &caller, id).await.map(|row| Json(row.into()))
}

/// Replace all details of a content node. A pointer written otherwise than shown asks for a move.
#[utoipa::path(put, path = "/api/v1/contentdata/{id}", tag = "content", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    request_body = WriteContent, responses((status = 200, body = ContentBody), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn change_content(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    named: NamedItem<ContentId>,
    Json(body): Json<WriteContent>,
) -> Result<Response, Problem> {
    let id = named.or("content_data_id", body.content_data_id)?;
    caller.require(Permission::ContentUpdate)?;
    // What the client was shown decides what its pointers mean, so the model must not be behind what was acknowledged.
    let head = app.store().head().await?.position;
    app.reach(MODELS, MinPosition(Some(head))).await?;
    let shown = Pointers::from(&present(&app, &caller, id).await?);
    let wanted = Pointers::from(&body);
    let record = ContentRecord {
        parent_id: body.parent_id,
        place: shown.wish(wanted),
        status: body.status,
        details: ContentDetails {
            route_id: body.route_id,
            datatype_id: body.datatype_id,
            author_id: body.author_id.or_else(|| caller.user_id()),
            date_created: body.date_created,
            date_modified: body.date_modified,
        },
        first_child: shown.new_first_child(wanted),
    };
    let done = commands::replace(&app.on_behalf_of(&caller), id, record, expected).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    let shown = content::by_id(&caller, app.database(), id).await?;
    Ok((settled, Json(ContentBody::of(id, done.state, shown.as_ref()))).into_response())
}

/// Delete a content node with its values; its children stay, without a parent.
#[utoipa::path(delete, path = "/api/v1/contentdata/{id}", tag = "content", security(("bearer" = []), ("cookie" = [])), params(("id" = String, Path, description = "ULID or UUID")),
    responses((status = 200, description = "Deleted; no body"), (status = "4XX", body = ProblemBody)))]
pub(crate) async fn delete_content(
    State(app): State<AppState>,
    caller: Caller,
    prefer: Prefer,
    IfMatch(expected): IfMatch,
    ItemId(id): ItemId<ContentId>,
) -> Result<Response, Problem> {
    let done = commands::delete(&app.on_behalf_of(&caller), id, expected).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    Ok((settled, deleted()).into_response())
}

async fn create(app: &AppState, caller: &Caller, prefer: Prefer, body: WriteContent) -> Result<Response, Problem> {
    let new = NewContent {
        content_id: body.content_data_id,
        realm: Realm::Site,
        parent_id: body.parent_id,
        place: Pointers::from(&body).place(),
        route_id: body.route_id,
        datatype_id: body.datatype_id,
        status: body.status,
        author_id: body.author_id,
        date_created: body.date_created,
        date_modified: body.date_modified,
        fields: Vec::new(),
        first_child: body.first_child_id,
    };
    let done = commands::create(&app.on_behalf_of(caller), new).await?;
    let settled = app.settle(MODELS, done.position, prefer).await;
    // A caller who may write but not read is shown what was written.
    let shown = match caller.can(Permission::ContentRead) {
        true => content::by_id(caller, app.database(), done.id).await?,
        false => None,
    };
    let body = ContentBody::of(done.id, done.state, shown.as_ref());
    Ok((StatusCode::CREATED, settled, Json(body)).into_response())
}

async fn present(app: &AppState, caller: &Caller, id: ContentId) -> Result<ContentRow, Problem> {
    let row = content::by_id(caller, app.database(), id).await?;
    row.filter(|row| row.realm == Realm::Site)
        .ok_or_else(|| no_such("content"))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> Option<ContentId> {
        Some(ContentId::new(Uuid::from_u128(number)))
    }

    fn pointers(parent: Option<ContentId>, prev: Option<ContentId>, next: Option<ContentId>) -> Pointers {
        Pointers {
            parent_id: parent,
            first_child_id: None,
            next_sibling_id: next,
            prev_sibling_id: prev,
        }
    }

    fn after(number: u128) -> Option<Place> {
        id(number).map(|content_id| Place::After { content_id })
    }

    fn before(number: u128) -> Option<Place> {
        id(number).map(|content_id| Place::Before { content_id })
    }

    #[test]
    fn pointers_written_as_shown_ask_for_nothing() {
        for shown in [
            pointers(None, None, None),
            pointers(id(1), id(2), id(3)),
            pointers(id(1), None, id(3)),
        ] {
            assert_eq!(shown.wish(shown), None);
        }
    }

    #[test]
    fn another_parent_or_previous_sibling_is_a_move() {
        let shown = pointers(id(1), id(2), id(3));
        assert_eq!(shown.wish(pointers(id(1), id(4), id(3))), after(4));
        assert_eq!(shown.wish(pointers(id(9), id(2), id(3))), after(2));
        assert_eq!(shown.wish(pointers(id(1), None, id(3))), Some(Place::First));
        assert_eq!(shown.wish(pointers(id(9), None, id(3))), Some(Place::First));
        assert_eq!(shown.wish(pointers(id(9), None, None)), Some(Place::Last));
        assert_eq!(shown.wish(pointers(None, None, None)), Some(Place::Last));
    }

    #[test]
    fn an_update_without_siblings_leaves_a_node_where_it_is() {
        assert_eq!(pointers(id(1), id(2), id(3)).wish(pointers(id(1), None, None)), None);
        assert_eq!(pointers(id(1), id(2), None).wish(pointers(id(1), None, None)), None);
        assert_eq!(pointers(id(1), None, None).wish(pointers(id(1), None, None)), None);
    }

    #[test]
    fn another_next_sibling_alone_is_a_move_before_it() {
        let shown = pointers(id(1), id(2), id(3));
        assert_eq!(shown.wish(pointers(id(1), id(2), id(5))), before(5));
        assert_eq!(shown.wish(pointers(id(1), id(2), None)), None);
    }

    #[test]
    fn another_first_child_is_a_move_of_that_child() {
        let shown = Pointers {
            first_child_id: id(5),
            ..pointers(id(1), None, None)
        };
        assert_eq!(shown.new_first_child(shown), None);
        assert_eq!(
            shown.new_first_child(Pointers {
                first_child_id: id(6),
                ..shown
            }),
            id(6)
        );
        assert_eq!(
            shown.new_first_child(Pointers {
                first_child_id: None,
                ..shown
            }),
            None
        );
    }

    #[test]
    fn a_new_node_goes_where_its_pointers_say() {
        assert_eq!(Some(pointers(id(1), id(2), id(3)).place()), after(2));
        assert_eq!(Some(pointers(id(1), None, id(3)).place()), before(3));
        assert_eq!(pointers(id(1), None, None).place(), Place::Last);
    }
}
