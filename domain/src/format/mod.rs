//! Documents a content tree is delivered as: the tree itself, built from flat rows, and one module per output format.
//!
//! Pure: rows come from the read model `content_tree`, bytes go to the HTTP layer. The shapes are those of the ModulaCMS
//! contract, so ids print as ULID and times as whole seconds. Authorisation, slugs and queries are somebody else's.

pub mod clean;
pub mod raw;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use crate::content::ContentStatus;
use crate::datatype::ROOT_KIND;
use crate::field::FieldKind;
use crate::ids::{ContentFieldId, ContentId, DatatypeId, FieldId, RouteId, UserId};
use crate::values::Timestamp;

/// Levels of a document, the root included. Deeper nodes are left out: rendering and most JSON readers recurse, and
/// readers commonly stop at 128 nested values (two a level in `clean`).
pub const MAX_DEPTH: usize = 50;

/// One content row as the read model knows it, not yet placed in a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatNode {
    /// The content row itself.
    pub content: NodeContent,
    /// Its datatype; absent when that was deleted or never set, and then the node is in no document.
    pub datatype: Option<NodeDatatype>,
    /// Its fields in the order they are shown: first those with a value, then the fields of the datatype that have none.
    pub fields: Vec<NodeField>,
}

/// The content row of a node, with its place among its siblings as pointers.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeContent {
    /// The node's own id.
    pub content_data_id: ContentId,
    /// The node above; absent at the top.
    pub parent_id: Option<ContentId>,
    /// The first of the nodes below.
    pub first_child_id: Option<ContentId>,
    /// The next node under the same parent.
    pub next_sibling_id: Option<ContentId>,
    /// The previous node under the same parent.
    pub prev_sibling_id: Option<ContentId>,
    /// The route that delivers the node.
    pub route_id: Option<RouteId>,
    /// The datatype the node is of.
    pub datatype_id: Option<DatatypeId>,
    /// Who wrote it.
    pub author_id: Option<UserId>,
    /// Publication state; drafts are delivered like the rest.
    pub status: ContentStatus,
    /// When it was written, as its author says.
    pub date_created: Option<Timestamp>,
    /// When it was changed, as its author says.
    pub date_modified: Option<Timestamp>,
}

/// The datatype of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDatatype {
    /// The datatype's own id.
    pub datatype_id: DatatypeId,
    /// The datatype it belongs to.
    pub parent_id: Option<DatatypeId>,
    /// Its name for people.
    pub label: String,
    /// Its free-text `type`; [`ROOT_KIND`] marks a root.
    pub kind: String,
    /// Who made it.
    pub author_id: Option<UserId>,
    /// When it was made.
    pub date_created: Option<Timestamp>,
    /// When it was changed.
    pub date_modified: Option<Timestamp>,
}

/// One field of a node: the definition, and the value if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeField {
    /// The definition's id.
    pub field_id: FieldId,
    /// The definition's name for people; keys of documents are made from it.
    pub label: String,
    /// Free text of the definition.
    pub data: String,
    /// JSON as text.
    pub validation: String,
    /// JSON as text.
    pub ui_config: String,
    /// What kind of value it holds.
    pub kind: FieldKind,
    /// Who made the definition.
    pub author_id: Option<UserId>,
    /// When the definition was made.
    pub date_created: Option<Timestamp>,
    /// When the definition was changed.
    pub date_modified: Option<Timestamp>,
    /// The value; absent for a field of the datatype the node has no value for.
    pub value: Option<NodeFieldValue>,
}

impl NodeField {
    /// The text of the value, empty when there is none.
    #[must_use]
    pub fn text(&self) -> &str {
        self.value.as_ref().map_or("", |value| value.value.as_str())
    }
}

/// The value of a field of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFieldValue {
    /// The value's own id.
    pub content_field_id: ContentFieldId,
    /// The value, always text.
    pub value: String,
    /// When it was written, as its author says.
    pub date_created: Option<Timestamp>,
    /// When it was changed, as its author says.
    pub date_modified: Option<Timestamp>,
}

/// One node with the nodes below it, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The content row.
    pub content: NodeContent,
    /// What it is.
    pub datatype: NodeDatatype,
    /// Its fields in the order they are shown.
    pub fields: Vec<NodeField>,
    /// The nodes below, in sibling order.
    pub children: Vec<Node>,
}

/// The content of one route as a tree.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContentTree {
    /// Where the document starts; absent when no node is of a [`ROOT_KIND`] datatype, and then the document is empty.
    pub root: Option<Node>,
    /// Rows that are in no document: no datatype, no way up to the root, or below [`MAX_DEPTH`].
    pub left_out: usize,
}

/// A format documents can be delivered in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Rows as stored, nested.
    #[default]
    Raw,
    /// Plain members named by the field labels, values typed.
    Clean,
}

impl Format {
    /// Every format, in the order error texts list them.
    pub const ALL: [Self; 2] = [Self::Clean, Self::Raw];

    /// The name in the query parameter `format`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Clean => "clean",
        }
    }

    /// The document of `tree` as JSON bytes.
    ///
    /// # Errors
    /// None in practice: trees hold only text, and every map key is text.
    pub fn render(self, tree: &ContentTree) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Raw => serde_json::to_vec(&raw::render(tree)),
            Self::Clean => serde_json::to_vec(&clean::render(tree)),
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or(UnknownFormat)
    }
}

/// The format asked for is none of [`Format::ALL`]. `Display` is the contract's literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownFormat;

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Invalid format parameter. Valid options: ")?;
        for (index, format) in Format::ALL.into_iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(format.as_str())?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownFormat {}

/// Hangs flat rows into one tree.
///
/// The root is the node whose datatype is of [`ROOT_KIND`], whatever its parent; of several, one without a parent among the
/// rows, then the oldest. Others hang under `parent_id`. Children follow `first_child_id` and then `next_sibling_id`; those
/// outside that chain come last, by id, and a chain that runs in a circle is not followed at all. Rows without a way up to
/// the root (a parent that is missing, or below itself) are counted in [`ContentTree::left_out`], never an error.
#[must_use]
pub fn build(nodes: Vec<FlatNode>) -> ContentTree {
    let count = nodes.len();
    let mut index: HashMap<ContentId, usize> = HashMap::with_capacity(count);
    for (at, node) in nodes.iter().enumerate() {
        index.entry(node.content.content_data_id).or_insert(at);
    }
    let Some(root) = root_of(&nodes, &index) else {
        return ContentTree {
            root: None,
            left_out: count,
        };
    };

    let mut below: HashMap<ContentId, Vec<usize>> = HashMap::new();
    for at in index.values().copied().filter(|at| *at != root) {
        if let Some(parent) = nodes[at].content.parent_id {
            below.entry(parent).or_default().push(at);
        }
    }

    // Level by level, parents before children; a node is reached once because it has one parent and the root is nobody's child.
    let mut order: Vec<(usize, Vec<usize>)> = Vec::with_capacity(count);
    let mut level = vec![root];
    for depth in 1..=MAX_DEPTH {
        let mut next = Vec::new();
        for at in std::mem::take(&mut level) {
            let parent = &nodes[at].content;
            let children = match below.remove(&parent.content_data_id) {
                Some(children) if depth < MAX_DEPTH => in_order(parent.first_child_id, children, &nodes, &index),
                _ => Vec::new(),
            };
            next.extend(&children);
            order.push((at, children));
        }
        level = next;
    }

    let left_out = count - order.len();
    let mut rows: Vec<Option<FlatNode>> = nodes.into_iter().map(Some).collect();
    let mut built: HashMap<usize, Node> = HashMap::with_capacity(order.len());
    for (at, children) in order.into_iter().rev() {
        let Some(FlatNode {
            content,
            datatype: Some(datatype),
            fields,
        }) = rows[at].take()
        else {
            continue;
        };
        let children = children.iter().filter_map(|child| built.remove(child)).collect();
        built.insert(
            at,
            Node {
                content,
                datatype,
                fields,
                children,
            },
        );
    }
    ContentTree {
        root: built.remove(&root),
        left_out,
    }
}

fn root_of(nodes: &[FlatNode], index: &HashMap<ContentId, usize>) -> Option<usize> {
    index
        .values()
        .copied()
        .filter(|at| {
            nodes[*at]
                .datatype
                .as_ref()
                .is_some_and(|datatype| datatype.kind == ROOT_KIND)
        })
        .min_by_key(|at| {
            let content = &nodes[*at].content;
            (
                content.parent_id.is_some_and(|parent| index.contains_key(&parent)),
                content.content_data_id,
            )
        })
}

/// The children of one parent in sibling order. The chain is followed through rows without a datatype, which are then left out.
fn in_order(
    first: Option<ContentId>,
    mut children: Vec<usize>,
    nodes: &[FlatNode],
    index: &HashMap<ContentId, usize>,
) -> Vec<usize> {
    children.sort_by_key(|at| nodes[*at].content.content_data_id);
    let siblings: HashSet<usize> = children.iter().copied().collect();
    let mut chain = Vec::with_capacity(children.len());
    let mut seen = HashSet::with_capacity(children.len());
    let mut next = first;
    while let Some(at) = next
        .and_then(|id| index.get(&id).copied())
        .filter(|at| siblings.contains(at))
    {
        if !seen.insert(at) {
            chain.clear();
            seen.clear();
            break;
        }
        chain.push(at);
        next = nodes[at].content.next_sibling_id;
    }
    chain.extend(children.into_iter().filter(|at| !seen.contains(at)));
    chain.retain(|at| nodes[*at].datatype.is_some());
    chain
}
