//! Format `raw`: the stored rows, nested. Every member is text, as the clients of the origin have it: an absent id is the
//! text `null`, an absent pointer or time is empty, and the ids inside `fields[].content` are always the number 0.

use serde::Serialize;

use super::{ContentTree, Node, NodeField};
use crate::ids::ContentId;
use crate::values::Timestamp;

/// The document of `tree`: `{"root": …}`, with `null` for an empty tree.
#[must_use]
pub fn render(tree: &ContentTree) -> impl Serialize {
    Document {
        root: tree.root.as_ref().map(RawNode::from),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    root: Option<RawNode<'a>>,
}

#[derive(Serialize)]
struct RawNode<'a> {
    datatype: RawDatatype<'a>,
    fields: Vec<RawField<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<RawNode<'a>>,
}

#[derive(Serialize)]
struct RawDatatype<'a> {
    info: DatatypeInfo<'a>,
    content: Content,
}

#[derive(Serialize)]
struct DatatypeInfo<'a> {
    datatype_id: String,
    parent_id: String,
    label: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    author_id: String,
    date_created: String,
    date_modified: String,
}

#[derive(Serialize)]
struct Content {
    content_data_id: String,
    parent_id: String,
    first_child_id: String,
    next_sibling_id: String,
    prev_sibling_id: String,
    route_id: String,
    datatype_id: String,
    author_id: String,
    status: &'static str,
    date_created: String,
    date_modified: String,
}

#[derive(Serialize)]
struct RawField<'a> {
    info: FieldInfo<'a>,
    content: FieldContent<'a>,
}

/// `parent_id` is the content node here, not the datatype the field belongs to: clients find a field's node by it.
#[derive(Serialize)]
struct FieldInfo<'a> {
    field_id: String,
    parent_id: String,
    label: &'a str,
    data: &'a str,
    validation: &'a str,
    ui_config: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    author_id: String,
    date_created: String,
    date_modified: String,
}

#[derive(Serialize)]
struct FieldContent<'a> {
    content_field_id: u8,
    route_id: u8,
    content_data_id: u8,
    field_id: u8,
    field_value: &'a str,
    author_id: u8,
    date_created: String,
    date_modified: String,
}

impl<'a> From<&'a Node> for RawNode<'a> {
    fn from(node: &'a Node) -> Self {
        let Node {
            content,
            datatype,
            fields,
            children,
        } = node;
        Self {
            datatype: RawDatatype {
                info: DatatypeInfo {
                    datatype_id: datatype.datatype_id.to_ulid(),
                    parent_id: id_text(datatype.parent_id.map(|id| id.to_ulid())),
                    label: &datatype.label,
                    kind: &datatype.kind,
                    author_id: id_text(datatype.author_id.map(|id| id.to_ulid())),
                    date_created: time_text(datatype.date_created),
                    date_modified: time_text(datatype.date_modified),
                },
                content: Content {
                    content_data_id: content.content_data_id.to_ulid(),
                    parent_id: id_text(content.parent_id.map(|id| id.to_ulid())),
                    first_child_id: pointer_text(content.first_child_id),
                    next_sibling_id: pointer_text(content.next_sibling_id),
                    prev_sibling_id: pointer_text(content.prev_sibling_id),
                    route_id: id_text(content.route_id.map(|id| id.to_ulid())),
                    datatype_id: id_text(content.datatype_id.map(|id| id.to_ulid())),
                    author_id: id_text(content.author_id.map(|id| id.to_ulid())),
                    status: content.status.as_str(),
                    date_created: time_text(content.date_created),
                    date_modified: time_text(content.date_modified),
                },
            },
            fields: fields
                .iter()
                .map(|field| raw_field(field, content.content_data_id))
                .collect(),
            nodes: children.iter().map(Self::from).collect(),
        }
    }
}

fn raw_field(field: &NodeField, node: ContentId) -> RawField<'_> {
    let value = field.value.as_ref();
    RawField {
        info: FieldInfo {
            field_id: field.field_id.to_ulid(),
            parent_id: node.to_ulid(),
            label: &field.label,
            data: &field.data,
            validation: &field.validation,
            ui_config: &field.ui_config,
            kind: field.kind.as_str(),
            author_id: id_text(field.author_id.map(|id| id.to_ulid())),
            date_created: time_text(field.date_created),
            date_modified: time_text(field.date_modified),
        },
        content: FieldContent {
            content_field_id: 0,
            route_id: 0,
            content_data_id: 0,
            field_id: 0,
            field_value: field.text(),
            author_id: 0,
            date_created: time_text(value.and_then(|value| value.date_created)),
            date_modified: time_text(value.and_then(|value| value.date_modified)),
        },
    }
}

fn id_text(id: Option<String>) -> String {
    id.unwrap_or_else(|| "null".to_owned())
}

fn pointer_text(id: Option<ContentId>) -> String {
    id.map(|id| id.to_ulid()).unwrap_or_default()
}

fn time_text(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_rfc3339_seconds()).unwrap_or_default()
}
