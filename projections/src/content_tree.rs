//! The content of one route as rows of a tree, for delivery.
//!
//! It has no table: it is asked of the tables of `contents`, `datatypes` and `fields` in one statement, so the tree and
//! the pointers of single nodes are always of the same moment and cannot contradict each other.

use std::collections::HashMap;

use annals_domain::format::{FlatNode, NodeContent, NodeDatatype, NodeField, NodeFieldValue};
use annals_domain::{Caller, ContentId, Permission, Realm, RouteId, Timestamp};
use annals_eventstore::Database;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use crate::error::{QueryError, known};
use crate::page::MOST_ROWS;
use crate::rows::Moment;

/// One row for each node and field, siblings together and in order. Fields of the datatype that the node has no value
/// for come last.
const TREE: &str = "
select n.content_id, n.parent_id, n.route_id, n.datatype_id, n.author_id, n.status, n.date_created, n.date_modified,
       d.parent_id as datatype_parent_id, d.label as datatype_label, d.kind as datatype_kind,
       d.author_id as datatype_author_id, d.date_created as datatype_created, d.date_modified as datatype_modified,
       f.field_id, f.label as field_label, f.data, f.validation, f.ui_config, f.kind as field_kind,
       f.author_id as field_author_id, f.date_created as field_created, f.date_modified as field_modified,
       f.content_field_id, f.value, f.value_created, f.value_modified
  from (select *
          from view.contents
         where realm = $1
           and route_id = $2
         order by content_id
         limit $3) n
  left join view.datatypes d using (datatype_id)
  left join lateral (
        select v.content_field_id, v.value, v.date_created as value_created, v.date_modified as value_modified,
               f.field_id, f.label, f.data, f.validation, f.ui_config, f.kind, f.author_id, f.date_created,
               f.date_modified
          from view.content_fields v
          join view.fields f using (field_id)
         where v.content_id = n.content_id
         union all
        select null, null, null, null,
               f.field_id, f.label, f.data, f.validation, f.ui_config, f.kind, f.author_id, f.date_created,
               f.date_modified
          from view.fields f
         where f.parent_id = n.datatype_id
           and not exists (select
                             from view.content_fields v
                            where v.content_id = n.content_id
                              and v.field_id = f.field_id)
       ) f on true
 order by n.parent_id, n.order_key, n.content_id, f.content_field_id, f.field_id";

#[derive(FromRow)]
struct StoredNode {
    content_id: Uuid,
    parent_id: Option<Uuid>,
    route_id: Option<Uuid>,
    datatype_id: Option<Uuid>,
    author_id: Option<Uuid>,
    status: String,
    date_created: Option<Moment>,
    date_modified: Option<Moment>,
    datatype_parent_id: Option<Uuid>,
    datatype_label: Option<String>,
    datatype_kind: Option<String>,
    datatype_author_id: Option<Uuid>,
    datatype_created: Option<Moment>,
    datatype_modified: Option<Moment>,
}

#[derive(FromRow)]
struct StoredField {
    field_id: Uuid,
    field_label: String,
    data: String,
    validation: String,
    ui_config: String,
    field_kind: String,
    field_author_id: Option<Uuid>,
    field_created: Option<Moment>,
    field_modified: Option<Moment>,
    content_field_id: Option<Uuid>,
    value: Option<String>,
    value_created: Option<Moment>,
    value_modified: Option<Moment>,
}

/// The nodes of a route with datatypes, fields and values, drafts included; of more than [`MOST_ROWS`] nodes the
/// oldest. Pointers link the nodes of this route only, so that following them misses none.
///
/// The site is public, as the ModulaCMS contract has it; what the administration interface is made of takes
/// `content.read`.
///
/// # Errors
/// [`QueryError::Denied`] without that permission.
pub async fn tree(
    caller: &Caller,
    database: &Database,
    realm: Realm,
    route: RouteId,
) -> Result<Vec<FlatNode>, QueryError> {
    if realm != Realm::Site {
        caller.require(Permission::ContentRead)?;
    }
    let rows: Vec<PgRow> = sqlx::query(TREE)
        .bind(realm.as_str())
        .bind(route.as_uuid())
        .bind(i64::from(MOST_ROWS))
        .fetch_all(database.pool())
        .await?;
    let mut nodes: Vec<FlatNode> = Vec::new();
    for row in &rows {
        let content_id = ContentId::new(row.try_get(0)?);
        if nodes
            .last()
            .is_none_or(|node| node.content.content_data_id != content_id)
        {
            nodes.push(StoredNode::from_row(row)?.try_into()?);
        }
        let field: Option<Uuid> = row.try_get("field_id")?;
        if field.is_some()
            && let Some(node) = nodes.last_mut()
        {
            node.fields.push(StoredField::from_row(row)?.try_into()?);
        }
    }
    link(&mut nodes);
    Ok(nodes)
}

/// Sets the pointers of nodes that come in the order of their siblings.
fn link(nodes: &mut [FlatNode]) {
    let mut first_children: HashMap<ContentId, ContentId> = HashMap::new();
    for at in 0..nodes.len() {
        let Some(parent) = nodes[at].content.parent_id else {
            continue;
        };
        let id = nodes[at].content.content_data_id;
        if at > 0 && nodes[at - 1].content.parent_id == Some(parent) {
            nodes[at].content.prev_sibling_id = Some(nodes[at - 1].content.content_data_id);
            nodes[at - 1].content.next_sibling_id = Some(id);
        } else {
            first_children.insert(parent, id);
        }
    }
    for node in nodes {
        node.content.first_child_id = first_children.get(&node.content.content_data_id).copied();
    }
}

fn moment(moment: Option<Moment>) -> Option<Timestamp> {
    moment.map(Into::into)
}

impl TryFrom<StoredNode> for FlatNode {
    type Error = QueryError;

    fn try_from(row: StoredNode) -> Result<Self, QueryError> {
        let datatype = match (row.datatype_id, row.datatype_label, row.datatype_kind) {
            (Some(datatype_id), Some(label), Some(kind)) => Some(NodeDatatype {
                datatype_id: datatype_id.into(),
                parent_id: row.datatype_parent_id.map(Into::into),
                label,
                kind,
                author_id: row.datatype_author_id.map(Into::into),
                date_created: moment(row.datatype_created),
                date_modified: moment(row.datatype_modified),
            }),
            _ => None,
        };
        let content = NodeContent {
            content_data_id: row.content_id.into(),
            parent_id: row.parent_id.map(Into::into),
            first_child_id: None,
            next_sibling_id: None,
            prev_sibling_id: None,
            route_id: row.route_id.map(Into::into),
            datatype_id: row.datatype_id.map(Into::into),
            author_id: row.author_id.map(Into::into),
            status: known("contents.status", row.status)?,
            date_created: moment(row.date_created),
            date_modified: moment(row.date_modified),
        };
        Ok(Self {
            content,
            datatype,
            fields: Vec::new(),
        })
    }
}

impl TryFrom<StoredField> for NodeField {
    type Error = QueryError;

    fn try_from(row: StoredField) -> Result<Self, QueryError> {
        let value = row.content_field_id.map(|content_field_id| NodeFieldValue {
            content_field_id: content_field_id.into(),
            value: row.value.unwrap_or_default(),
            date_created: moment(row.value_created),
            date_modified: moment(row.value_modified),
        });
        Ok(Self {
            field_id: row.field_id.into(),
            label: row.field_label,
            data: row.data,
            validation: row.validation,
            ui_config: row.ui_config,
            kind: known("fields.kind", row.field_kind)?,
            author_id: row.field_author_id.map(Into::into),
            date_created: moment(row.field_created),
            date_modified: moment(row.field_modified),
            value,
        })
    }
}
