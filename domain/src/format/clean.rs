//! Format `clean`: one object a node, members named by the camel-cased field labels, values typed by the field's type,
//! children in a list named after their datatype. Absent ids and times are `null`; an empty value is empty text, or `false`.

use std::collections::HashSet;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{ContentTree, Node, NodeField};
use crate::field::FieldKind;

/// The document of `tree`: the root node's object, `{}` for an empty tree.
#[must_use]
pub fn render(tree: &ContentTree) -> impl Serialize {
    Document(tree)
}

struct Document<'a>(&'a ContentTree);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.root {
            Some(root) => CleanNode(root).serialize(serializer),
            None => serializer.serialize_map(Some(0))?.end(),
        }
    }
}

struct CleanNode<'a>(&'a Node);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    author_id: Option<String>,
    route_id: Option<String>,
    date_created: Option<String>,
    date_modified: Option<String>,
}

impl Serialize for CleanNode<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Node {
            content,
            datatype,
            fields,
            children,
        } = self.0;
        let mut taken: HashSet<String> = ["_meta", "id", "type"].map(str::to_owned).into();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(
            "_meta",
            &Meta {
                author_id: content.author_id.map(|id| id.to_ulid()),
                route_id: content.route_id.map(|id| id.to_ulid()),
                date_created: content.date_created.map(|time| time.to_rfc3339_seconds()),
                date_modified: content.date_modified.map(|time| time.to_rfc3339_seconds()),
            },
        )?;
        map.serialize_entry("id", &content.content_data_id.to_ulid())?;
        map.serialize_entry("type", &datatype.label)?;
        for field in fields {
            map.serialize_entry(&free_key(field_key(&field.label), &mut taken), &typed_value(field))?;
        }
        if !children.is_empty() {
            let children_key = free_key(children_key(children), &mut taken);
            map.serialize_entry(&children_key, &children.iter().map(CleanNode).collect::<Vec<_>>())?;
        }
        map.end()
    }
}

/// `key`, with the first number from 2 up that makes it a name no earlier member has: two labels may give one key, and a
/// member that silently replaced another would lose content.
fn free_key(key: String, taken: &mut HashSet<String>) -> String {
    let free = if taken.contains(&key) {
        (2_u64..)
            .map(|number| format!("{key}{number}"))
            .find(|candidate| !taken.contains(candidate))
            .unwrap_or(key)
    } else {
        key
    };
    taken.insert(free.clone());
    free
}

/// The member name made from a field label: words split at blanks, `_` and `-`; the first in lower case, the others with a
/// capital (`SEO Meta` gives `seoMeta`). A label without a word gives `field`.
pub(super) fn field_key(label: &str) -> String {
    let mut key = String::with_capacity(label.len());
    for word in label.split([' ', '_', '-']).filter(|word| !word.is_empty()) {
        if key.is_empty() {
            key.push_str(&word.to_lowercase());
        } else {
            let mut letters = word.chars();
            if let Some(first) = letters.next() {
                key.extend(first.to_uppercase());
                key.push_str(&letters.as_str().to_lowercase());
            }
        }
    }
    if key.is_empty() { "field".to_owned() } else { key }
}

/// The member name of a list of nodes: the plural of their label when they are all of one type, else `children`.
pub(super) fn children_key(children: &[Node]) -> String {
    let mut labels = children.iter().map(|child| child.datatype.label.as_str());
    match labels.next() {
        Some(first) if !first.is_empty() && labels.all(|label| label == first) => plural(&first.to_lowercase()),
        _ => "children".to_owned(),
    }
}

fn plural(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if word.ends_with('s') => word.to_owned(),
        None => format!("{word}s"),
    }
}

/// Below this, every whole number has a float of its own: 2^53.
const WHOLE: f64 = 9_007_199_254_740_992.0;

enum Typed<'a> {
    Boolean(bool),
    /// Number or JSON text, handed through as written, so that no digit is lost.
    Json(&'a RawValue),
    Number(f64),
    Text(&'a str),
}

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Json(value) => value.serialize(serializer),
            #[expect(clippy::cast_possible_truncation, reason = "whole and small enough")]
            Self::Number(value) if value.fract() == 0.0 && value.abs() < WHOLE => {
                serializer.serialize_i64(*value as i64)
            }
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

fn typed_value(field: &NodeField) -> Typed<'_> {
    let text = field.text();
    match field.kind {
        FieldKind::Boolean => Typed::Boolean(text == "true"),
        FieldKind::Number => number(text),
        FieldKind::Json => serde_json::from_str(text).map_or(Typed::Text(text), Typed::Json),
        _ => Typed::Text(text),
    }
}

fn number(text: &str) -> Typed<'_> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => match serde_json::from_str::<&RawValue>(text) {
            Ok(literal) => Typed::Json(literal),
            // Written as no JSON number is (`007`, `+5`, `.5`), but a number all the same.
            Err(_) => Typed::Number(value),
        },
        _ => Typed::Text(text),
    }
}
